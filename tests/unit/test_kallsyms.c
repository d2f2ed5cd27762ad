/* Kernel names: sizes by the next symbol, hidden addresses, junk. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/elf.h"

static const char text[] = "0000000000000000 A fixed_percpu_data\n"
                           "ffffffff81000000 T _stext\n"
                           "ffffffff81000100 T do_syscall_64\n"
                           "ffffffff81000100 t __pfx_alias\n"
                           "ffffffff81000200 D some_data\n"
                           "ffffffffc0000000 t ext4_read\t[ext4]\n"
                           "not a line\n"
                           "ffffffffc0000040 T last";

static void expect(const struct ss_kallsyms *k, uint64_t addr, const char *name)
{
  struct ss_symbol sym;
  if (name == NULL) {
    assert_false(ss_kallsyms_find(k, addr, &sym));
    return;
  }
  assert_true(ss_kallsyms_find(k, addr, &sym));
  assert_string_equal(sym.name, name);
}

static void test_finds(void **state)
{
  (void)state;
  struct ss_kallsyms *k = ss_kallsyms_parse(text, sizeof text - 1);
  assert_non_null(k);
  expect(k, 0xffffffff81000000, "_stext");
  expect(k, 0xffffffff810001ff, "do_syscall_64");
  expect(k, 0xffffffff81000200, NULL); /* data */
  expect(k, 0xffffffffc000003f, "ext4_read [ext4]");
  expect(k, 0xffffffffc0000044, "last");
  expect(k, 0xffffffffd0000000, NULL);
  expect(k, 0x1000, NULL);
  ss_kallsyms_free(k);
}

static void test_hidden_addresses(void **state)
{
  (void)state;
  static const char hidden[] = "0000000000000000 T _stext\n0000000000000000 T _etext\n";
  assert_null(ss_kallsyms_parse(hidden, sizeof hidden - 1));
  assert_null(ss_kallsyms_parse("", 0));
}

static void test_every_prefix(void **state)
{
  (void)state;
  for (size_t n = 0; n < sizeof text; n++) {
    char *cut = malloc(n + 1);
    memcpy(cut, text, n);
    ss_kallsyms_free(ss_kallsyms_parse(cut, n));
    free(cut);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_finds),
      cmocka_unit_test(test_hidden_addresses),
      cmocka_unit_test(test_every_prefix),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
