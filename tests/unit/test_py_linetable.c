/*
 * Line tables of three formats against what CPython itself says of the same code
 * (the fixtures), every truncated prefix of them, and tables that make no sense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/python/python_priv.h"

struct expected_line {
  uint32_t start;
  int line;
};
#include "py_linetables.h"

static const struct fixture {
  const char *name;
  enum ss_py_table format;
  int first_line;
  uint32_t code_len;
  const unsigned char *table;
  size_t len;
  const struct expected_line *lines;
  size_t count;
} fixtures[] = {PY_LINE_FIXTURES};
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

static void test_same_lines_as_cpython(void **state)
{
  (void)state;
  for (size_t i = 0; i < FIXTURES; i++) {
    const struct fixture *f = &fixtures[i];
    struct ss_py_lines lines = {0};
    assert_int_equal(
        ss_py_lines_decode(&lines, f->format, f->table, f->len, f->first_line),
        SS_ERR_OK);
    for (size_t k = 0; k < f->count; k++) {
      const uint32_t end = k + 1 < f->count ? f->lines[k + 1].start : f->code_len;
      for (uint32_t at = f->lines[k].start; at < end; at += 2)
        if (ss_py_lines_find(&lines, at) != f->lines[k].line)
          fail_msg("%s at %u: %d, CPython says %d", f->name, at,
                   ss_py_lines_find(&lines, at), f->lines[k].line);
    }
    ss_py_lines_release(&lines);
  }
}

/* A prefix is refused, or says of the code it covers what the whole says (the
 * last line of co_lnotab goes on to the end, so its prefixes say something). */
static void test_every_prefix(void **state)
{
  (void)state;
  for (size_t i = 0; i < FIXTURES; i++) {
    const struct fixture *f = &fixtures[i];
    struct ss_py_lines whole = {0};
    ss_py_lines_decode(&whole, f->format, f->table, f->len, f->first_line);
    for (size_t len = 0; len < f->len; len++) {
      struct ss_py_lines part = {0};
      unsigned char *copy = malloc(len ? len : 1); /* so that ASan sees its end */
      assert_non_null(copy);
      memcpy(copy, f->table, len);
      const enum ss_err err =
          ss_py_lines_decode(&part, f->format, copy, len, f->first_line);
      free(copy);
      if (err != SS_ERR_OK)
        assert_int_equal(part.count, 0);
      else if (part.count > 0 && f->format != SS_PY_LNOTAB)
        assert_int_equal(part.items[0].line, whole.items[0].line);
      ss_py_lines_release(&part);
    }
    ss_py_lines_release(&whole);
  }
}

static enum ss_err decode(enum ss_py_table format, const void *bytes, size_t len)
{
  struct ss_py_lines lines = {0};
  const enum ss_err err = ss_py_lines_decode(&lines, format, bytes, len, 1);
  ss_py_lines_release(&lines);
  return err;
}

static void test_nonsense_is_refused(void **state)
{
  (void)state;
  static const unsigned char no_head[] = {0x00};
  static const unsigned char endless[] = {0xe8, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f};
  static const unsigned char odd[] = {2, 1, 2};
  assert_int_equal(decode(SS_PY_LOCATIONS, no_head, sizeof no_head), SS_ERR_FORMAT);
  assert_int_equal(decode(SS_PY_LOCATIONS, endless, sizeof endless), SS_ERR_FORMAT);
  assert_int_equal(decode(SS_PY_LNOTAB, odd, sizeof odd), SS_ERR_FORMAT);
  assert_int_equal(decode(SS_PY_LINETABLE, odd, sizeof odd), SS_ERR_FORMAT);
}

static void test_size_limit(void **state)
{
  (void)state;
  const size_t len = SS_PY_TABLE_MAX;
  unsigned char *table = malloc(len + 1);
  assert_non_null(table);
  memset(table, 0x80, len + 1); /* a short form is two bytes: 0x80, columns */
  for (int format = SS_PY_LNOTAB; format <= SS_PY_LOCATIONS; format++) {
    assert_int_equal(decode((enum ss_py_table)format, table, len + 1), SS_ERR_LIMIT);
    decode((enum ss_py_table)format, table, len);
  }
  struct ss_py_lines lines = {0};
  assert_int_equal(ss_py_lines_decode(&lines, SS_PY_LOCATIONS, table, len, 7), SS_ERR_OK);
  assert_int_equal(lines.end, len); /* one unit of two bytes per entry */
  assert_int_equal(ss_py_lines_find(&lines, (uint32_t)len - 2), 7);
  ss_py_lines_release(&lines);
  free(table);
}

static void test_lines_beyond_the_table(void **state)
{
  (void)state;
  const struct ss_py_lines none = {0};
  assert_int_equal(ss_py_lines_find(&none, 0), 0);
  static const unsigned char one[] = {0x80, 0};
  struct ss_py_lines lines = {0};
  assert_int_equal(ss_py_lines_decode(&lines, SS_PY_LOCATIONS, one, sizeof one, 5),
                   SS_ERR_OK);
  assert_int_equal(ss_py_lines_find(&lines, 1), 5);
  assert_int_equal(ss_py_lines_find(&lines, 2), 0);
  assert_int_equal(ss_py_lines_find(&lines, UINT32_MAX), 0);
  ss_py_lines_release(&lines);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_lines_as_cpython),  cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_nonsense_is_refused),    cmocka_unit_test(test_size_limit),
      cmocka_unit_test(test_lines_beyond_the_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
