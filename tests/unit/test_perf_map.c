/* perf maps: parsing, and which files are honoured. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stacksample/elf.h"
#include "stacksample/limits.h"

static struct ss_perf_map *parse(const char *text, size_t rejected_want)
{
  struct ss_perf_map *map = NULL;
  size_t rejected = 0;
  assert_int_equal(ss_perf_map_parse(&map, text, strlen(text), &rejected), SS_ERR_OK);
  assert_int_equal(rejected, rejected_want);
  return map;
}

static void expect(const struct ss_perf_map *map, uint64_t addr, const char *name)
{
  struct ss_symbol sym;
  if (name == NULL) {
    assert_false(ss_perf_map_find(map, addr, &sym));
    return;
  }
  assert_true(ss_perf_map_find(map, addr, &sym));
  assert_string_equal(sym.name, name);
}

static void test_lines(void **state)
{
  (void)state;
  struct ss_perf_map *map = parse("7f0000001000 10 py::main:/a b.py\n"
                                  "0x7f0000000000 0x100 first\n"
                                  "7f0000002000 8 last\n"
                                  "7f0000003000 8 being writ",
                                  0);
  expect(map, 0x7f0000000000, "first");
  expect(map, 0x7f00000000ff, "first");
  expect(map, 0x7f0000000100, NULL);
  expect(map, 0x7f000000100f, "py::main:/a b.py");
  expect(map, 0x7f0000002004, "last");
  expect(map, 0x7f0000003000, NULL);
  expect(map, 0, NULL);
  ss_perf_map_free(map);
}

static void test_nonsense_is_counted(void **state)
{
  (void)state;
  struct ss_perf_map *map = parse("zz 10 a\n10 zz a\n10 10\n\nffffffffffffffff 10 wraps\n"
                                  "10 0 empty\n11111111111111111 1 long\n20 8 good\n",
                                  7);
  expect(map, 0x20, "good");
  ss_perf_map_free(map);
}

static void test_later_lines_win(void **state)
{
  (void)state;
  struct ss_perf_map *map = parse("1000 100 old\n1080 100 newer\n", 1);
  expect(map, 0x1000, NULL);
  expect(map, 0x1080, "newer");
  ss_perf_map_free(map);
  map = parse("1080 100 old\n1000 100 newer\n3000 10 far\n", 1);
  expect(map, 0x10f0, "newer");
  expect(map, 0x1170, NULL);
  expect(map, 0x3000, "far");
  ss_perf_map_free(map);
  map = parse("1000 10 old\n1000 10 new\n", 1);
  expect(map, 0x1000, "new");
  ss_perf_map_free(map);
}

static void test_long_names_and_prefixes(void **state)
{
  (void)state;
  size_t len = 1u << 20;
  char *text = malloc(len + 1);
  memset(text, 'n', len);
  memcpy(text + len - 1, "\n", 2);
  memcpy(text, "1000 10 ", 8);
  ss_perf_map_free(parse(text, 1));
  free(text);
  static const char lines[] = "1000 10 one\n2000 10 two\n1008 4 three\n";
  for (size_t n = 0; n < sizeof lines; n++) {
    struct ss_perf_map *map = NULL;
    size_t rejected;
    char *cut = malloc(n + 1);
    memcpy(cut, lines, n);
    assert_int_equal(ss_perf_map_parse(&map, cut, n, &rejected), SS_ERR_OK);
    ss_perf_map_free(map);
    free(cut);
  }
}

/* "ADDRESS text" */
static void append(const char *path, const char *mode, uintptr_t code, const char *text)
{
  FILE *f = fopen(path, mode);
  assert_non_null(f);
  assert_true(fprintf(f, "%lx %s", (unsigned long)code, text) > 0);
  fclose(f);
}

/* A JIT adds to its file as it works, and its memory may be mapped later than ours
 * of its mappings was read. */
static void test_grows(void **state)
{
  (void)state;
  char path[64];
  struct ss_paths *paths = ss_paths_new();
  struct ss_maps maps;
  struct ss_perf_map *map = NULL;
  uintptr_t code = (uintptr_t)test_lines;
  pid_t pid = getpid();
  ss_maps_init(&maps, paths);
  snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)pid);
  append(path, "w", code, "10 first\n100");
  assert_int_equal(ss_perf_map_load(&map, pid, &maps, NULL), SS_ERR_OK);
  expect(map, code, NULL); /* nothing is mapped that we know of */
  assert_int_equal(ss_maps_load(&maps, pid, NULL), SS_ERR_OK);
  expect(map, code, "first");
  append(path, "a", 0, "8 outside\n");
  append(path, "a", code + 8, "8 second\n");
  assert_int_equal(ss_perf_map_load(&map, pid, &maps, NULL), SS_ERR_OK);
  expect(map, code, NULL); /* overwritten */
  expect(map, code + 8, "second");
  expect(map, 0x1000, NULL);
  assert_int_equal(ss_perf_map_load(&map, pid, &maps, NULL), SS_ERR_OK);
  expect(map, code + 8, "second");
  append(path, "w", code, "4 x\n"); /* begun anew */
  assert_int_equal(ss_perf_map_load(&map, pid, &maps, NULL), SS_ERR_OK);
  expect(map, code, "x");
  expect(map, code + 8, NULL);
  unlink(path);
  assert_int_equal(ss_perf_map_load(&map, pid, &maps, NULL), SS_ERR_GONE);
  expect(map, code, "x");
  ss_perf_map_free(map);
  ss_maps_release(&maps);
  ss_paths_free(paths);
}

/* The file of this very process, in every form that must not be believed. */
static void test_which_files_are_honoured(void **state)
{
  (void)state;
  char path[64], text[128];
  struct ss_paths *paths = ss_paths_new();
  struct ss_maps maps;
  struct ss_perf_map *map = NULL;
  struct ss_diag diag = {0};
  ss_maps_init(&maps, paths);
  assert_int_equal(ss_maps_load(&maps, getpid(), NULL), SS_ERR_OK);
  snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
  unlink(path);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_GONE);

  uintptr_t code = (uintptr_t)test_lines;
  snprintf(text, sizeof text, "%lx 10 inside\n1000 10 outside\n", (unsigned long)code);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_OK);
  expect(map, code + 4, "inside");
  expect(map, 0x1000, NULL); /* no code is there */
  ss_perf_map_free(map);
  map = NULL;

  struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
  utimensat(AT_FDCWD, path, old, 0);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_FORMAT);
  assert_null(map);
  assert_int_equal(truncate(path, (off_t)SS_PERF_MAP_MAX + 1), 0);
  assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_LIMIT);
  if (geteuid() == 0) {
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(chown(path, 12345, 12345), 0);
    assert_int_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_ACCESS);
  }
  unlink(path);
  assert_int_equal(symlink("/etc/passwd", path), 0);
  assert_int_not_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_OK);
  unlink(path);
  assert_int_equal(mkfifo(path, 0600), 0); /* opening it would block for ever */
  assert_int_not_equal(ss_perf_map_load(&map, getpid(), &maps, &diag), SS_ERR_OK);
  unlink(path);
  ss_maps_release(&maps);
  ss_paths_free(paths);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lines),
      cmocka_unit_test(test_nonsense_is_counted),
      cmocka_unit_test(test_later_lines_win),
      cmocka_unit_test(test_long_names_and_prefixes),
      cmocka_unit_test(test_grows),
      cmocka_unit_test(test_which_files_are_honoured),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
