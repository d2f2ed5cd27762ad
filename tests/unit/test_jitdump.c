/* jitdumps: names, moves, unwind information, and files that make no sense. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../src/elf/elf_priv.h"
#include "jitdump.h"
#include "stacksample/limits.h"
#include "tmpdir.h"

static const unsigned char code[32] = {0xc3};

static struct ss_perf_map *parse(const struct ss_buf *b, size_t len, size_t rejected_want)
{
  struct ss_perf_map *map = NULL;
  size_t rejected = 0;
  assert_int_equal(ss_perf_map_parse_jitdump(&map, b->data, len, &rejected), SS_ERR_OK);
  assert_int_equal(rejected, rejected_want);
  return map;
}

static void expect(const struct ss_perf_map *map, uint64_t addr, const char *name)
{
  struct ss_symbol sym = {.name = "nothing"};
  if (name == NULL)
    assert_false(ss_perf_map_find(map, addr, &sym));
  else if (!ss_perf_map_find(map, addr, &sym) || strcmp(sym.name, name) != 0)
    fail_msg("%lx is in %s, not in %s", (unsigned long)addr, sym.name, name);
}

static struct ss_buf sample(void)
{
  struct ss_buf b = {0};
  jitdump_header(&b);
  jitdump_load(&b, 0x1000, code, 32, 1, "one");
  jitdump_prefix(&b, 2, 16); /* line numbers, not looked at */
  ss_buf_add(&b, code, 16);
  jitdump_unwinding(&b, "unwinding", 9);
  jitdump_load(&b, 0x2000, code, 32, 2, "two");
  jitdump_load(&b, 0x3000, code, 32, 3, "three");
  jitdump_move(&b, 0x2000, 0x4000, 32, 2);
  jitdump_prefix(&b, 3, 0);
  return b;
}

static void test_records(void **state)
{
  (void)state;
  struct ss_buf b = sample();
  struct ss_perf_map *map = parse(&b, b.len, 0);
  struct ss_jit_unwind info;
  expect(map, 0x1000, "one");
  expect(map, 0x101f, "one");
  expect(map, 0x1020, NULL);
  expect(map, 0x2010, "two");
  expect(map, 0x3010, "three");
  expect(map, 0x4010, "two");
  assert_false(ss_perf_map_unwind(map, 0x1000, &info));
  assert_false(ss_perf_map_unwind(map, 0x3000, &info));
  for (uint64_t start = 0x2000; start <= 0x4000; start += 0x2000) {
    assert_true(ss_perf_map_unwind(map, start + 5, &info));
    assert_int_equal(info.start, start);
    assert_int_equal(info.len, 9);
    assert_memory_equal(info.eh_frame, "unwinding", 9);
  }
  ss_perf_map_free(map);
  ss_buf_release(&b);
}

/* Code that takes the place of other code is what lies there now. */
static void test_later_code_wins(void **state)
{
  (void)state;
  struct ss_buf b = {0};
  jitdump_header(&b);
  jitdump_unwinding(&b, "old", 3);
  jitdump_load(&b, 0x1000, code, 32, 1, "old");
  jitdump_load(&b, 0x1010, code, 32, 2, "new");
  struct ss_perf_map *map = parse(&b, b.len, 1);
  struct ss_jit_unwind info;
  expect(map, 0x1010, "new");
  expect(map, 0x1000, NULL);
  assert_false(ss_perf_map_unwind(map, 0x1010, &info));
  ss_perf_map_free(map);
  ss_buf_release(&b);
}

static void test_nonsense_is_counted(void **state)
{
  (void)state;
  struct ss_buf b = {0};
  jitdump_header(&b);
  jitdump_load(&b, 0x1000, code, 0, 1, "empty");
  jitdump_load(&b, UINT64_MAX - 4, code, 32, 2, "wraps");
  jitdump_load(&b, 0x1000, code, 32, 3, "");
  jitdump_move(&b, 0x1000, 0x2000, 32, 99);
  jitdump_prefix(&b, 0, 8); /* too short for code */
  jitdump_u64(&b, 0);
  jitdump_prefix(&b, 4, 24); /* unwind information longer than its record */
  jitdump_u64(&b, UINT64_MAX);
  jitdump_u64(&b, 0);
  jitdump_u64(&b, 0);
  jitdump_load(&b, 0x5000, code, 32, 4, "good");
  struct ss_perf_map *map = parse(&b, b.len, 6);
  expect(map, 0x5000, "good");
  expect(map, 0x1000, NULL);
  ss_perf_map_free(map);
  memset(b.data, 0, 4); /* another kind of file */
  map = parse(&b, b.len, 1);
  expect(map, 0x5000, NULL);
  ss_perf_map_free(map);
  ss_buf_release(&b);
}

/* The tail may be at work by the JIT: what is whole counts. */
static void test_every_prefix(void **state)
{
  (void)state;
  struct ss_buf b = sample();
  for (size_t n = 0; n <= b.len; n++) {
    char *cut = malloc(n + 1); /* its end is where a sanitizer looks */
    struct ss_perf_map *map = NULL;
    struct ss_symbol sym;
    size_t rejected = 0;
    assert_non_null(cut);
    memcpy(cut, b.data, n);
    cut = realloc(cut, n == 0 ? 1 : n);
    assert_int_equal(ss_perf_map_parse_jitdump(&map, cut, n, &rejected), SS_ERR_OK);
    assert_int_equal(rejected, 0);
    assert_int_equal(ss_perf_map_find(map, 0x1000, &sym), n >= 40 + 16 + 40 + 4 + 32);
    ss_perf_map_free(map);
    free(cut);
  }
  ss_buf_release(&b);
}

/* Taken in two pieces, whatever the first one is, it is the same. */
static void test_in_pieces(void **state)
{
  (void)state;
  struct ss_buf b = sample();
  for (size_t n = 0; n <= b.len; n++) {
    struct ss_perf_map map = {0};
    struct ss_jit_unwind info;
    size_t rejected = 0;
    assert_int_equal(ss_perf_map_extend(&map, ss_jitdump_records, b.data, n, &rejected),
                     SS_ERR_OK);
    assert_true(map.taken <= n);
    size_t from = (size_t)map.taken;
    assert_int_equal(rejected, 0);
    assert_int_equal(ss_perf_map_extend(&map, ss_jitdump_records, b.data + from,
                                        b.len - from, &rejected),
                     SS_ERR_OK);
    assert_int_equal(rejected, 0);
    assert_int_equal(map.taken, b.len);
    assert_int_equal(map.count, 4);
    expect(&map, 0x1000, "one");
    expect(&map, 0x4000, "two");
    assert_true(ss_perf_map_unwind(&map, 0x2000, &info));
    assert_int_equal(info.len, 9);
    struct ss_perf_map *kept = malloc(sizeof *kept);
    assert_non_null(kept);
    *kept = map;
    ss_perf_map_free(kept);
  }
  ss_buf_release(&b);
}

/* Found by its mapping alone, and only names of code are taken. */
static void test_mapped_file(void **state)
{
  (void)state;
  char path[TMPDIR_PATH], file[64];
  struct ss_paths *paths = ss_paths_new();
  struct ss_perf_map *map = NULL;
  struct ss_diag diag = {0};
  struct ss_maps maps;
  struct ss_buf b = {0};
  jitdump_header(&b);
  jitdump_load(&b, (uintptr_t)test_mapped_file, code, 8, 1, "inside");
  jitdump_load(&b, 0x1000, code, 8, 2, "outside");
  assert_true(tmpdir_make(path));
  snprintf(file, sizeof file, "%s/jit-1.dump", path);
  int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
  ss_maps_init(&maps, paths);
  assert_int_equal(ss_maps_load(&maps, getpid(), NULL), SS_ERR_OK);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_GONE);
  void *marker = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
  assert_true(marker != MAP_FAILED);
  assert_int_equal(ss_maps_load(&maps, getpid(), NULL), SS_ERR_OK);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_OK);
  expect(map, (uintptr_t)test_mapped_file + 4, "inside");
  expect(map, 0x1000, NULL);
  ss_perf_map_free(map);
  map = NULL;
  assert_int_equal(ftruncate(fd, (off_t)SS_PERF_MAP_MAX + 1), 0);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_LIMIT);
  assert_null(map);
  munmap(marker, 4096);
  close(fd);
  assert_int_equal(tmpdir_remove(path), 0);
  ss_buf_release(&b);
  ss_maps_release(&maps);
  ss_paths_free(paths);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_records),
      cmocka_unit_test(test_later_code_wins),
      cmocka_unit_test(test_nonsense_is_counted),
      cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_in_pieces),
      cmocka_unit_test(test_mapped_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
