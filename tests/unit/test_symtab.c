/* Names of functions: which table, which symbol, never the nearest. */
#include "unit.h"

#include "fixture.h"
#include "stacksample/elf.h"

static struct ss_image *open_fixture(const char *name)
{
  struct ss_image *image = NULL;
  assert_int_equal(ss_image_open(&image, fixture_open(name), name, NULL), SS_ERR_OK);
  return image;
}

static uint64_t address_of(const char *name)
{
  struct ss_image *image = open_fixture("elf/small.so");
  struct ss_symbol sym;
  assert_true(ss_image_lookup(image, name, &sym));
  ss_image_close(image);
  return sym.start;
}

static void expect(const struct ss_symtab *tab, uint64_t vaddr, const char *name)
{
  struct ss_symbol sym;
  if (name == NULL) {
    assert_false(ss_symtab_find(tab, vaddr, &sym));
    return;
  }
  assert_true(ss_symtab_find(tab, vaddr, &sym));
  assert_string_equal(sym.name, name);
}

static void check_tables(const char *file, const char *debug_file, const char *local)
{
  struct ss_image *image = open_fixture(file);
  struct ss_image *debug = debug_file == NULL ? NULL : open_fixture(debug_file);
  struct ss_symtab *tab = NULL;
  assert_int_equal(ss_symtab_build(&tab, image, debug, NULL), SS_ERR_OK);
  expect(tab, address_of("local_function"), local);
  /* GLOBAL wins over WEAK at one address. */
  expect(tab, address_of("weak_function"), "alias_function");
  expect(tab, address_of("global_function"), "global_function");
  expect(tab, address_of("global_function") + 1, "global_function");
  expect(tab, address_of("exported_data"), NULL);
  expect(tab, 0, NULL);
  expect(tab, UINT64_MAX, NULL);
  ss_symtab_free(tab);
  ss_image_close(debug);
  ss_image_close(image);
}

static void test_symtab(void **state)
{
  (void)state;
  check_tables("elf/small.so", NULL, "local_function");
}

static void test_dynsym_only(void **state)
{
  (void)state;
  check_tables("elf/stripped.so", NULL, NULL);
}

static void test_debugdata(void **state)
{
  (void)state;
  check_tables("elf/minidebug.so", NULL, "local_function");
}

static void test_debug_file(void **state)
{
  (void)state;
  check_tables("elf/stripped.so", "elf/small.debug", "local_function");
}

static void test_no_nearest_name(void **state)
{
  (void)state;
  struct ss_image *image = open_fixture("elf/stripped.so");
  struct ss_symtab *tab = NULL;
  struct ss_symbol sym;
  assert_int_equal(ss_symtab_build(&tab, image, NULL, NULL), SS_ERR_OK);
  assert_true(ss_symtab_find(tab, address_of("global_function"), &sym));
  assert_false(ss_symtab_find(tab, sym.start + sym.size, &sym));
  ss_symtab_free(tab);
  ss_image_close(image);
}

/* `other` is in .dynsym, but undefined there. */
static void test_lookup_skips_undefined(void **state)
{
  (void)state;
  struct ss_image *image = open_fixture("elf/small.so");
  struct ss_symbol sym;
  assert_false(ss_image_lookup(image, "other", &sym));
  assert_false(ss_image_lookup(image, "global_functio", &sym));
  assert_true(ss_image_lookup(image, "exported_data", &sym));
  assert_int_equal(sym.size, 4);
  ss_image_close(image);
}

/* A real library: each name found must be where the file says it is. */
static void test_libc(void **state)
{
  (void)state;
  int fd = open("/lib/x86_64-linux-gnu/libc.so.6", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    skip();
  struct ss_image *image = NULL;
  struct ss_symtab *tab = NULL;
  struct ss_symbol sym, found;
  assert_int_equal(ss_image_open(&image, fd, "libc", NULL), SS_ERR_OK);
  assert_int_equal(ss_symtab_build(&tab, image, NULL, NULL), SS_ERR_OK);
  assert_true(ss_image_lookup(image, "qsort", &sym));
  assert_true(ss_symtab_find(tab, sym.start + 3, &found));
  assert_string_equal(found.name, "qsort");
  ss_symtab_free(tab);
  ss_image_close(image);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_symtab),
      cmocka_unit_test(test_dynsym_only),
      cmocka_unit_test(test_debugdata),
      cmocka_unit_test(test_debug_file),
      cmocka_unit_test(test_no_nearest_name),
      cmocka_unit_test(test_lookup_skips_undefined),
      cmocka_unit_test(test_libc),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
