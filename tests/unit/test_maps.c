/* Mappings: the text of /proc/PID/maps with every trap of it, and insertion
 * compared with a model that keeps one owner a page. */
#include "unit.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stacksample/buf.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/proc.h"

static struct ss_paths *paths;

static int setup(void **state)
{
  (void)state;
  paths = ss_paths_new();
  return paths ? 0 : -1;
}

static int teardown(void **state)
{
  (void)state;
  ss_paths_free(paths);
  return 0;
}

static const char good[] =
    "00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon\n"
    "00e03000-00e24000 rw-p 00000000 00:00 0           [heap]\n"
    "35b1800000-35b1820000 r-xp 00001000 fd:1f 135522  /usr/lib64/my lib (1).so\n"
    "35b1a21000-35b1a22000 rw-s 00000000 00:00 0 \n"
    "7f0000000000-7f0000001000 r--p 00000000 08:02 77  /tmp/x.so (deleted)\n"
    "7f0000001000-7f0000002000 ---p 00000000 08:02 78  /tmp/a\\012b\\040c\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";

static void test_text(void **state)
{
  (void)state;
  struct ss_maps maps;
  size_t rejected = 9;
  ss_maps_init(&maps, paths);
  assert_int_equal(ss_maps_parse(&maps, good, sizeof good - 1, &rejected), SS_ERR_OK);
  assert_int_equal(rejected, 0);
  assert_int_equal(maps.count, 7);
  const struct ss_map *m = maps.items;
  assert_int_equal(m[0].start, 0x400000);
  assert_int_equal(m[0].end, 0x452000);
  assert_int_equal(m[0].prot, SS_PROT_READ | SS_PROT_EXEC);
  assert_int_equal(m[0].dev_major, 8);
  assert_int_equal(m[0].dev_minor, 2);
  assert_int_equal(m[0].inode, 173521);
  assert_string_equal(ss_paths_get(paths, m[0].path), "/usr/bin/dbus-daemon");
  assert_string_equal(ss_paths_get(paths, m[1].path), "[heap]");
  assert_string_equal(ss_paths_get(paths, m[2].path), "/usr/lib64/my lib (1).so");
  assert_int_equal(m[2].offset, 0x1000);
  assert_int_equal(m[2].dev_minor, 0x1f);
  assert_int_equal(m[3].path, SS_ID_NONE);
  assert_string_equal(ss_paths_get(paths, m[3].path), "");
  assert_string_equal(ss_paths_get(paths, m[4].path), "/tmp/x.so (deleted)");
  assert_string_equal(ss_paths_get(paths, m[5].path), "/tmp/a\nb\\040c");
  assert_int_equal(m[5].prot, 0);
  assert_int_equal(m[6].prot, SS_PROT_EXEC);
  assert_ptr_equal(ss_maps_find(&maps, 0x400000), &m[0]);
  assert_ptr_equal(ss_maps_find(&maps, 0x451fff), &m[0]);
  assert_null(ss_maps_find(&maps, 0x452000));
  assert_null(ss_maps_find(&maps, 0));
  assert_null(ss_maps_find(&maps, UINT64_MAX));
  ss_maps_release(&maps);
}

/* A cut text yields the whole lines before the cut and one rejected line. */
static void test_every_prefix(void **state)
{
  (void)state;
  struct ss_maps maps;
  ss_maps_init(&maps, paths);
  for (size_t len = 0; len < sizeof good; len++) {
    size_t lines = 0, rejected = 0;
    char *text = malloc(len + 1); /* its own block, so that ASan sees overreads */
    memcpy(text, good, len);
    for (size_t i = 0; i < len; i++)
      lines += text[i] == '\n';
    assert_int_equal(ss_maps_parse(&maps, text, len, &rejected), SS_ERR_OK);
    assert_int_equal(maps.count, lines);
    assert_int_equal(rejected, len > 0 && text[len - 1] != '\n');
    free(text);
  }
  ss_maps_release(&maps);
}

static void test_bad_lines(void **state)
{
  (void)state;
  static const char *const bad[] = {
      "\n",
      "zz-10 r--p 0 0:0 0\n",
      "10-10 r--p 00 00:00 0 \n",
      "20-10 r--p 00 00:00 0 \n",
      "10-20 r--q 00 00:00 0 \n",
      "10-20 r-xp00 00:00 0 \n",
      "10-20 r--p 00 00-00 0 \n",
      "10-20 r--p 00 00:00 0\n\n",
      "10-11112222333344445 r--p 00 00:00 0 \n",
      "10-20 r--p 00 fffffffff:00 0 \n",
      "10-20 r--p 00 00:00 99999999999999999999 \n",
      "10-20 r--p 00 00:00 a \n",
      "1A-20 r--p 00 00:00 0 \n",
  };
  struct ss_maps maps;
  ss_maps_init(&maps, paths);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    size_t rejected = 0;
    assert_int_equal(ss_maps_parse(&maps, bad[i], strlen(bad[i]), &rejected), SS_ERR_OK);
    if (rejected == 0 || maps.count > 1)
      fail_msg("row %zu was accepted: %s", i, bad[i]);
  }
  static const char nul[] = "10-20 r--p 00 00:00 0 /a\0b\n";
  size_t rejected = 0;
  assert_int_equal(ss_maps_parse(&maps, nul, sizeof nul - 1, &rejected), SS_ERR_OK);
  assert_int_equal(rejected, 1);
  ss_maps_release(&maps);
}

static void test_long_path(void **state)
{
  (void)state;
  struct ss_maps maps;
  struct ss_buf text = {0};
  size_t rejected = 0;
  ss_maps_init(&maps, paths);
  for (size_t len = SS_PATH_MAX; len <= SS_PATH_MAX + 1; len++) {
    ss_buf_clear(&text);
    ss_buf_adds(&text, "10-20 r--p 00 00:00 5 ");
    while (text.len < 22 + len)
      ss_buf_addc(&text, 'x');
    ss_buf_addc(&text, '\n');
    assert_int_equal(ss_maps_parse(&maps, text.data, text.len, &rejected), SS_ERR_OK);
    assert_int_equal(rejected, len > SS_PATH_MAX);
  }
  ss_buf_release(&text);
  ss_maps_release(&maps);
}

/* ---- insertion --------------------------------------------------------------- */

enum { MODEL_PAGES = 24 };

/* Owner of each page and the offset it must show. */
struct model {
  uint32_t owner[MODEL_PAGES];
  uint64_t offset[MODEL_PAGES];
};

static void model_insert(struct model *model, const struct ss_map *map)
{
  for (uint64_t p = map->start; p < map->end; p++) {
    model->owner[p] = (uint32_t)map->inode;
    model->offset[p] = map->offset + (p - map->start);
  }
}

static void check_model(const struct ss_maps *maps, const struct model *model)
{
  for (size_t i = 1; i < maps->count; i++)
    assert_true(maps->items[i - 1].end <= maps->items[i].start);
  for (uint64_t p = 0; p < MODEL_PAGES; p++) {
    const struct ss_map *found = ss_maps_find(maps, p);
    if (model->owner[p] == 0) {
      assert_null(found);
      continue;
    }
    assert_non_null(found);
    assert_true(found->start <= p && p < found->end);
    assert_int_equal(found->inode, model->owner[p]);
    assert_int_equal(found->offset + (p - found->start), model->offset[p]);
  }
}

/* Every range over a layout of three mappings with and without gaps. */
static void test_insert_every_range(void **state)
{
  (void)state;
  uint32_t path = ss_paths_intern(paths, "/lib/a.so", 9);
  static const struct ss_map base[] = {
      {.start = 2, .end = 6, .offset = 100, .inode = 1},
      {.start = 6, .end = 9, .offset = 200, .inode = 2},
      {.start = 12, .end = 20, .offset = 300, .inode = 3},
  };
  for (uint64_t start = 0; start < MODEL_PAGES; start++) {
    for (uint64_t end = start + 1; end <= MODEL_PAGES; end++) {
      struct ss_maps maps;
      struct model model = {0};
      ss_maps_init(&maps, paths);
      for (size_t i = 0; i < 3; i++) {
        struct ss_map map = base[i];
        map.path = path;
        assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
        model_insert(&model, &map);
      }
      struct ss_map map = {
          .start = start, .end = end, .offset = 7, .inode = 9, .path = path};
      uint64_t generation = maps.generation;
      assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
      assert_true(maps.generation > generation);
      model_insert(&model, &map);
      check_model(&maps, &model);
      ss_maps_release(&maps);
    }
  }
}

static void test_insert_random(void **state)
{
  (void)state;
  uint32_t path = ss_paths_intern(paths, "/lib/a.so", 9), seed = 12345;
  struct ss_maps maps;
  struct model model = {0};
  ss_maps_init(&maps, paths);
  for (uint32_t i = 1; i < 5000; i++) {
    seed = seed * 1103515245u + 12345u;
    uint64_t start = (seed >> 8) % MODEL_PAGES;
    uint64_t len = 1 + (seed >> 20) % (MODEL_PAGES - start);
    struct ss_map map = {.start = start, .end = start + len, .inode = i, .path = path};
    assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
    model_insert(&model, &map);
    check_model(&maps, &model);
  }
  ss_maps_release(&maps);
}

static void test_insert_bounds(void **state)
{
  (void)state;
  struct ss_maps maps, copy;
  struct ss_map map = {.start = 10, .end = 10, .path = SS_ID_NONE};
  ss_maps_init(&maps, paths);
  ss_maps_init(&copy, paths);
  assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_FORMAT);
  map.end = 9;
  assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_FORMAT);
  map = (struct ss_map){.start = 10, .end = 30, .path = SS_ID_NONE, .prot = 1};
  assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
  map = (struct ss_map){.start = 12, .end = 14, .path = SS_ID_NONE, .prot = 2};
  assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
  assert_int_equal(maps.count, 3);
  assert_int_equal(maps.items[2].offset, 0); /* anonymous memory has none */
  assert_int_equal(ss_maps_copy(&copy, &maps), SS_ERR_OK);
  assert_int_equal(copy.count, 3);
  ss_maps_clear(&maps);
  assert_int_equal(maps.count, 0);
  assert_non_null(ss_maps_find(&copy, 13));
  assert_int_equal(ss_maps_copy(&copy, &maps), SS_ERR_OK);
  assert_int_equal(copy.count, 0);
  ss_maps_release(&maps);
  ss_maps_release(&copy);
}

/* 100000 mappings as the kernel lists them, then in the order of a process
 * that maps downwards; the limit refuses more. */
/* Of what is mapped no more, files' code stays, until something else lies there. */
static void test_keep(void **state)
{
  (void)state;
  static const char old_text[] = "1000-2000 r-xp 00000000 08:02 1 /lib/gone.so\n"
                                 "2000-3000 r--p 00001000 08:02 1 /lib/gone.so\n"
                                 "3000-4000 r-xp 00000000 00:00 0 \n"
                                 "5000-7000 r-xp 00000000 08:02 2 /lib/covered.so\n"
                                 "8000-9000 r-xp 00003000 08:02 3 /lib/stays.so\n"
                                 "a000-b000 r-xp 00000000 08:02 4 /lib/last.so\n";
  static const char new_text[] = "6000-6800 rw-p 00000000 00:00 0 \n"
                                 "8000-9000 r-xp 00003000 08:02 3 /lib/stays.so\n";
  struct ss_maps old, now;
  ss_maps_init(&old, paths);
  ss_maps_init(&now, paths);
  assert_int_equal(ss_maps_parse(&old, old_text, sizeof old_text - 1, NULL), SS_ERR_OK);
  assert_int_equal(ss_maps_parse(&now, new_text, sizeof new_text - 1, NULL), SS_ERR_OK);
  assert_int_equal(ss_maps_keep(&now, &old), SS_ERR_OK);
  assert_int_equal(now.count, 4);
  assert_int_equal(ss_maps_find(&now, 0x1000)->inode, 1);
  assert_null(ss_maps_find(&now, 0x2000));
  assert_null(ss_maps_find(&now, 0x3000));
  assert_null(ss_maps_find(&now, 0x5000));
  assert_int_equal(ss_maps_find(&now, 0x6000)->inode, 0);
  assert_int_equal(ss_maps_find(&now, 0x8000)->inode, 3);
  assert_int_equal(ss_maps_find(&now, 0xafff)->inode, 4);
  ss_maps_release(&old);
  ss_maps_release(&now);
}

static void test_many(void **state)
{
  (void)state;
  enum { MANY = 100000 };
  struct ss_maps maps;
  struct ss_buf text = {0};
  size_t rejected = 0;
  ss_maps_init(&maps, paths);
  for (unsigned i = 0; i < MANY; i++)
    ss_buf_addf(&text, "%x-%x rw-p 00000000 08:02 7    /lib/x.so\n", i * 2 + 1,
                i * 2 + 2);
  assert_int_equal(ss_maps_parse(&maps, text.data, text.len, &rejected), SS_ERR_OK);
  assert_int_equal(maps.count, MANY);
  assert_int_equal(rejected, 0);
  ss_maps_clear(&maps);
  for (unsigned i = 20000; i > 0; i--) {
    struct ss_map map = {.start = i, .end = i + 1, .path = SS_ID_NONE};
    assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
  }
  assert_int_equal(maps.count, 20000);
  ss_maps_clear(&maps);
  for (uint64_t i = 0; i < SS_MAPS_MAX; i++) {
    struct ss_map map = {.start = i, .end = i + 1, .path = SS_ID_NONE};
    assert_int_equal(ss_maps_insert(&maps, &map), SS_ERR_OK);
  }
  struct ss_map one_more = {
      .start = SS_MAPS_MAX, .end = SS_MAPS_MAX + 1, .path = SS_ID_NONE};
  assert_int_equal(ss_maps_insert(&maps, &one_more), SS_ERR_LIMIT);
  assert_int_equal(maps.count, SS_MAPS_MAX);
  ss_buf_release(&text);
  ss_maps_release(&maps);
}

static void test_load_own(void **state)
{
  (void)state;
  struct ss_maps maps;
  struct ss_diag diag = {0};
  ss_maps_init(&maps, paths);
  assert_int_equal(ss_maps_load(&maps, getpid(), &diag), SS_ERR_OK);
  const struct ss_map *code = ss_maps_find(&maps, (uint64_t)(uintptr_t)test_load_own);
  assert_non_null(code);
  assert_true(code->prot & SS_PROT_EXEC);
  assert_non_null(strstr(ss_paths_get(paths, code->path), "test_maps"));
  const struct ss_map *stack = ss_maps_find(&maps, (uint64_t)(uintptr_t)&maps);
  assert_non_null(stack);
  assert_string_equal(ss_paths_get(paths, stack->path), "[stack]");
  assert_int_equal(ss_maps_load(&maps, 0x3fffffff, &diag), SS_ERR_GONE);
  assert_true(diag.text[0] != '\0');
  ss_maps_release(&maps);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),
      cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_bad_lines),
      cmocka_unit_test(test_long_path),
      cmocka_unit_test(test_insert_every_range),
      cmocka_unit_test(test_insert_random),
      cmocka_unit_test(test_insert_bounds),
      cmocka_unit_test(test_keep),
      cmocka_unit_test(test_many),
      cmocka_unit_test(test_load_own),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
