/* C++ names, and what is no C++ name. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/elf.h"
#include "stacksample/limits.h"

static void expect(const char *mangled, const char *plain)
{
  char *got = ss_demangle(mangled);
  assert_string_equal(got, plain);
  free(got);
}

static void test_names(void **state)
{
  (void)state;
  expect("_ZN2at4_ops2mm4callERKNS_6TensorES4_",
         "at::_ops::mm::call(at::Tensor const&, at::Tensor const&)");
  expect("_ZN3foo3barEv.cold", "foo::bar() [clone .cold]");
  expect("_ZNSt6vectorIiSaIiEE9push_backERKi@@GLIBCXX_3.4",
         "std::vector<int, std::allocator<int> >::push_back(int const&)");
  expect("PyEval_EvalFrameDefault", "PyEval_EvalFrameDefault");
  expect("_Z", "_Z");
  expect("", "");
  expect("_ZNnonsense", "_ZNnonsense");
}

/* Substitutions that double: a short name with an enormous expansion. */
static void test_expansion_is_capped(void **state)
{
  (void)state;
  char name[512] = "_Z1fI1AS_E";
  size_t len = (size_t)snprintf(name, sizeof name, "_Z1f");
  len += (size_t)snprintf(name + len, sizeof name - len, "1AIiiE");
  for (int i = 0; i < 24; i++)
    len += (size_t)snprintf(name + len, sizeof name - len, "S_IS%c_S%c_E",
                            i < 10 ? '0' + i : 'A' + i - 10,
                            i < 10 ? '0' + i : 'A' + i - 10);
  char *got = ss_demangle(name);
  assert_non_null(got);
  assert_true(strlen(got) < SS_DEMANGLED_MAX);
  free(got);
}

static void test_long_names_are_cut(void **state)
{
  (void)state;
  char *name = malloc(100001);
  memset(name, 'x', 100000);
  name[100000] = 0;
  char *got = ss_demangle(name);
  assert_int_equal(strlen(got), SS_SYMBOL_NAME_MAX);
  free(got);
  free(name);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_expansion_is_capped),
      cmocka_unit_test(test_long_names_are_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
