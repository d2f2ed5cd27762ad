/* The bounded reader. */
#include "unit.h"

#include <string.h>

#include "stacksample/cursor.h"

static void reads_are_little_endian(void **state)
{
  static const unsigned char in[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  struct ss_cursor c = ss_cursor_init(in, sizeof in);

  (void)state;
  assert_int_equal(ss_read_u8(&c), 1);
  assert_int_equal(ss_read_u16(&c), 0x0302);
  assert_int_equal(ss_read_u32(&c), 0x07060504);
  assert_true(ss_read_u64(&c) == 0x0f0e0d0c0b0a0908u);
  assert_false(c.failed);
  assert_int_equal(c.left, 0);
  assert_int_equal(ss_cursor_offset(&c), 15);
}

static void a_failure_is_sticky(void **state)
{
  static const unsigned char in[] = {1, 2, 3};
  struct ss_cursor c = ss_cursor_init(in, sizeof in);

  (void)state;
  assert_int_equal(ss_read_u32(&c), 0);
  assert_true(c.failed);
  assert_int_equal(ss_read_u8(&c), 0); /* though a byte is there */
  assert_null(ss_read_bytes(&c, 1));
  assert_int_equal(ss_cursor_offset(&c), 0);
}

static void huge_lengths_do_not_wrap(void **state)
{
  static const unsigned char in[8] = {0};
  struct ss_cursor c = ss_cursor_init(in, sizeof in);
  struct ss_cursor sub;

  (void)state;
  sub = ss_cursor_sub(&c, 4, SIZE_MAX);
  assert_true(sub.failed);
  sub = ss_cursor_sub(&c, SIZE_MAX, 4);
  assert_true(sub.failed);
  ss_skip(&c, SIZE_MAX);
  assert_true(c.failed);
}

static void a_sub_cursor_covers_the_whole_input(void **state)
{
  static const unsigned char in[] = {1, 2, 3, 4};
  struct ss_cursor c = ss_cursor_init(in, sizeof in);
  struct ss_cursor sub, empty;

  (void)state;
  ss_skip(&c, 3);
  sub = ss_cursor_sub(&c, 1, 3); /* behind the current position */
  assert_int_equal(ss_read_u8(&sub), 2);
  assert_int_equal(sub.left, 2);
  empty = ss_cursor_sub(&c, 4, 0);
  assert_false(empty.failed);
  empty = ss_cursor_init(NULL, 0);
  empty = ss_cursor_sub(&empty, 0, 0);
  assert_false(empty.failed);
  assert_int_equal(ss_read_u8(&empty), 0);
  assert_true(empty.failed);
}

struct leb_case {
  const char *bytes;
  size_t len;
  bool ok;
  uint64_t value;
};

#define LEB(text) text, sizeof text - 1
static const struct leb_case uleb[] = {
    {LEB("\x00"), true, 0},
    {LEB("\x7f"), true, 127},
    {LEB("\xe5\x8e\x26"), true, 624485},
    {LEB("\x80\x80\x00"), true, 0}, /* padding */
    {LEB("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), true, UINT64_MAX},
    {LEB("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), false, 0},
    {LEB("\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00"), true, (1ull << 57) - 1},
    {LEB("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"), true, 0},
    {LEB("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), false, 0},
    {LEB("\x80"), false, 0},
    {LEB(""), false, 0},
};
static const struct leb_case sleb[] = {
    {LEB("\x00"), true, 0},
    {LEB("\x7f"), true, (uint64_t)-1},
    {LEB("\xc0\xbb\x78"), true, (uint64_t)-123456},
    {LEB("\xff\x7f"), true, (uint64_t)-1}, /* padding */
    {LEB("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f"), true, 1ull << 63},
    {LEB("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00"), true, INT64_MAX},
    {LEB("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), false, 0}, /* 2^63 */
    {LEB("\x80\x80\x80\x80\x80\x80\x80\x80\x80\xff\x7f"), true, 1ull << 63},
    {LEB("\x80\x80\x80\x80\x80\x80\x80\x80\x80\xff\x00"), false, 0},
    {LEB("\xff"), false, 0},
};

static void check_leb(const struct leb_case *cases, size_t count, bool is_signed)
{
  for (size_t i = 0; i < count; i++) {
    struct ss_cursor c = ss_cursor_init(cases[i].bytes, cases[i].len);
    uint64_t value = is_signed ? (uint64_t)ss_read_sleb(&c) : ss_read_uleb(&c);
    if (c.failed == cases[i].ok || value != cases[i].value)
      fail_msg("%s case %zu: failed %d, value %llx", is_signed ? "sleb" : "uleb", i,
               c.failed, (unsigned long long)value);
    if (cases[i].ok)
      assert_int_equal(c.left, 0);
  }
}

static void leb128_numbers(void **state)
{
  (void)state;
  check_leb(uleb, sizeof uleb / sizeof uleb[0], false);
  check_leb(sleb, sizeof sleb / sizeof sleb[0], true);
}

static void strings_end_inside_the_input(void **state)
{
  static const char in[] = {'a', 'b', 0, 0, 'c'};
  struct ss_cursor c = ss_cursor_init(in, sizeof in);

  (void)state;
  assert_string_equal(ss_read_cstr(&c), "ab");
  assert_string_equal(ss_read_cstr(&c), "");
  assert_null(ss_read_cstr(&c));
  assert_true(c.failed);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_are_little_endian),
      cmocka_unit_test(a_failure_is_sticky),
      cmocka_unit_test(huge_lengths_do_not_wrap),
      cmocka_unit_test(a_sub_cursor_covers_the_whole_input),
      cmocka_unit_test(leb128_numbers),
      cmocka_unit_test(strings_end_inside_the_input),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
