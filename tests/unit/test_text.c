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

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(base_names),
                                     cmocka_unit_test(prefixes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
