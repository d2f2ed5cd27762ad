/* Small questions about text. */
#include "unit.h"

#include "stacksample/text.h"

static void base_names(void **state)
{
  (void)state;
  assert_string_equal(ss_base_name("/usr/bin/python3"), "python3");
  assert_string_equal(ss_base_name("pytest"), "pytest");
  assert_string_equal(ss_base_name("folder/"), "");
  assert_string_equal(ss_base_name(""), "");
}

static void prefixes(void **state)
{
  (void)state;
  assert_true(ss_starts_with("[kernel: x]", "[kernel"));
  assert_true(ss_starts_with("a", ""));
  assert_false(ss_starts_with("a", "ab"));
}

static void times_of_day(void **state)
{
  char text[SS_UTC_MAX];

  (void)state;
  assert_string_equal(ss_utc(text, 0), "1970-01-01T00:00:00Z");
  assert_string_equal(ss_utc(text, UINT64_C(1709251199999999999)),
                      "2024-02-29T23:59:59Z");
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(base_names),
                                     cmocka_unit_test(prefixes),
                                     cmocka_unit_test(times_of_day)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
