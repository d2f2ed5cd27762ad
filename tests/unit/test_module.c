/* The registry of mapped files: one module a file, the bias, the vdso, names. */
#include "unit.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/elf/elf_priv.h"
#include "fixture.h"
#include "stacksample/elf.h"
#include "tmpdir.h"

struct self {
  struct ss_paths *paths;
  struct ss_maps maps;
  struct ss_modules *modules;
  struct ss_mem_live live;
};

static void self_init(struct self *s)
{
  s->paths = ss_paths_new();
  s->modules = ss_modules_new();
  ss_maps_init(&s->maps, s->paths);
  ss_mem_live_init(&s->live, getpid());
  assert_int_equal(ss_maps_load(&s->maps, getpid(), NULL), SS_ERR_OK);
}

static void self_release(struct self *s)
{
  ss_modules_free(s->modules);
  ss_maps_release(&s->maps);
  ss_paths_free(s->paths);
  ss_mem_live_release(&s->live);
}

static struct ss_module *module_at(struct self *s, uintptr_t addr, uint64_t *bias)
{
  struct ss_map *map = ss_maps_find(&s->maps, addr);
  assert_non_null(map);
  struct ss_module *m = ss_module_of(s->modules, getpid(), &s->maps, map, &s->live.mem);
  if (m != NULL)
    assert_true(ss_module_bias(m, map, bias));
  return m;
}

static void expect_symbol(struct self *s, uintptr_t addr, const char *name)
{
  uint64_t bias;
  struct ss_symbol sym;
  struct ss_module *m = module_at(s, addr, &bias);
  assert_non_null(m);
  assert_true(ss_module_symbol(m, addr - bias, &sym));
  assert_string_equal(sym.name, name);
}

static int some_data = 7;

static void test_addresses_to_names(void **state)
{
  (void)state;
  struct self s;
  uint64_t bias, bias_of_data;
  self_init(&s);
  expect_symbol(&s, (uintptr_t)test_addresses_to_names, "test_addresses_to_names");
  expect_symbol(&s, (uintptr_t)ss_modules_new + 1, "ss_modules_new");
  expect_symbol(&s, (uintptr_t)dlsym(RTLD_DEFAULT, "gnu_get_libc_version") + 1,
                "gnu_get_libc_version");
  /* All mappings of a file have one bias and one module. */
  struct ss_module *code = module_at(&s, (uintptr_t)test_addresses_to_names, &bias);
  struct ss_module *data = module_at(&s, (uintptr_t)&some_data, &bias_of_data);
  assert_ptr_equal(code, data);
  assert_int_equal(bias, bias_of_data);
  assert_true(code->build_id_len == 20 || code->build_id_len == 0);
  self_release(&s);
}

static void test_vdso_and_anonymous(void **state)
{
  (void)state;
  struct self s;
  uint64_t bias;
  struct ss_section section;
  self_init(&s);
  uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);
  if (vdso != 0) {
    struct ss_module *m = module_at(&s, vdso, &bias);
    assert_non_null(m);
    assert_string_equal(m->name, "[vdso]");
    assert_int_equal(bias, vdso);
    assert_true(ss_image_section(m->image, ".eh_frame", &section));
  }
  int on_stack = 0;
  assert_null(module_at(&s, (uintptr_t)&on_stack, &bias));
  self_release(&s);
}

/* Text moved to anonymous memory, in two pieces, as runtimes do for large pages: code of
 * its file as before. Other code beside a file's is not. */
static void test_text_in_anonymous_memory(void **state)
{
  (void)state;
  enum { PAGE = 4096, WHOLE = 8 * PAGE };
  struct self s;
  uint64_t bias, was;
  void *symbol = dlsym(dlopen("libz.so.1", RTLD_NOW), "crc32");
  assert_non_null(symbol);
  self_init(&s);
  struct ss_module *file = module_at(&s, (uintptr_t)symbol, &was);
  const struct ss_map *map = ss_maps_find(&s.maps, (uintptr_t)symbol);
  char *text = (char *)(uintptr_t)map->start, *other = text + 4 * PAGE;
  assert_true(map->end - map->start >= WHOLE);
  char *copy =
      mmap(NULL, WHOLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(copy, text, WHOLE);
  assert_int_equal(mprotect(copy, WHOLE, PROT_READ | PROT_EXEC), 0);
  /* The second piece first, so that the two are no single mapping. */
  assert_ptr_equal(
      mremap(copy + 4 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other),
      other);
  assert_ptr_equal(mremap(copy, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, text),
                   text);
  assert_int_equal(ss_maps_load(&s.maps, getpid(), NULL), SS_ERR_OK);
  assert_int_equal(ss_maps_find(&s.maps, (uintptr_t)text)->inode, 0);
  assert_ptr_equal(module_at(&s, (uintptr_t)other, &bias), file);
  assert_int_equal(bias, was);
  assert_ptr_equal(module_at(&s, (uintptr_t)text, &bias), file);
  assert_int_equal(bias, was);
  /* One byte at its end is another. */
  assert_int_equal(mprotect(text, WHOLE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
  text[WHOLE - 1] ^= 1;
  assert_int_equal(mprotect(text, WHOLE, PROT_READ | PROT_EXEC), 0);
  assert_int_equal(ss_maps_load(&s.maps, getpid(), NULL), SS_ERR_OK);
  assert_null(module_at(&s, (uintptr_t)text, &bias));
  assert_int_equal(mprotect(text, WHOLE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
  text[WHOLE - 1] ^= 1; /* others need it */
  assert_int_equal(mprotect(text, WHOLE, PROT_READ | PROT_EXEC), 0);
  self_release(&s);
}

static struct ss_map map_of(int fd, struct ss_paths *paths, const char *path)
{
  struct stat st;
  fstat(fd, &st);
  return (struct ss_map){.start = 0x10000,
                         .end = 0x11000,
                         .inode = st.st_ino,
                         .dev_major = (uint32_t)(st.st_dev >> 8 & 0xfff),
                         .dev_minor = (uint32_t)(st.st_dev & 0xff),
                         .prot = SS_PROT_READ | SS_PROT_EXEC,
                         .path = ss_paths_intern(paths, path, strlen(path))};
}

static void copy_file(const char *fixture, const char *to)
{
  size_t len;
  unsigned char *bytes = fixture_read(fixture, &len);
  FILE *f = fopen(to, "wb");
  assert_non_null(f);
  fwrite(bytes, 1, len, f);
  fclose(f);
  free(bytes);
}

/* Rewritten in place is another file; deleted is still the known one. */
static void test_file_identity(void **state)
{
  (void)state;
  char path[] = "/tmp/stacksample-module-XXXXXX";
  struct self s;
  self_init(&s);
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  copy_file("elf/small.so", path);
  struct ss_map map = map_of(fd, s.paths, path);
  struct ss_map again = map, third = map, gone = map;
  struct ss_module *a = ss_module_of(s.modules, getpid(), &s.maps, &map, NULL);
  assert_non_null(a);
  if (a->image == NULL) /* device numbers of maps and stat differ on this file system */
    skip();
  assert_ptr_equal(ss_module_of(s.modules, getpid(), &s.maps, &again, NULL), a);
  assert_int_equal(ss_modules_count(s.modules), 1);
  copy_file("elf/stripped.so", path);
  struct ss_module *b = ss_module_of(s.modules, getpid(), &s.maps, &third, NULL);
  assert_ptr_not_equal(a, b);
  unlink(path);
  assert_non_null(ss_module_of(s.modules, getpid(), &s.maps, &gone, NULL));
  assert_int_equal(ss_modules_count(s.modules), 2);
  close(fd);
  self_release(&s);
}

static struct ss_module of_fixture(const char *name)
{
  struct ss_module m = {.root_fd = -1};
  assert_int_equal(ss_image_open(&m.image, fixture_open(name), name, NULL), SS_ERR_OK);
  return m;
}

/* runtime = vaddr + start - page_down(p_vaddr of the segment mapped there). */
static void test_bias(void **state)
{
  (void)state;
  struct ss_module m = of_fixture("elf/small.so");
  const struct ss_segment *segments;
  uint64_t bias;
  size_t count = ss_image_segments(m.image, &segments);
  for (size_t i = 0; i < count; i++) {
    struct ss_map map = {.start = 0x7f0000000000 + (segments[i].vaddr & ~4095ul),
                         .offset = segments[i].offset & ~4095ul,
                         .prot = (uint8_t)(segments[i].flags & PF_X ? SS_PROT_EXEC : 0)};
    map.end = map.start + 4096;
    assert_true(ss_module_bias(&m, &map, &bias));
    assert_int_equal(bias, 0x7f0000000000);
  }
  struct ss_map nowhere = {
      .start = 0x7f0000000000, .end = 0x7f0000001000, .offset = 1 << 30};
  assert_false(ss_module_bias(&m, &nowhere, &bias));
  ss_image_close(m.image);
}

/* ---- separate debug files ---------------------------------------------------- */

static void put_file(const char *root, const char *fixture, const char *path)
{
  char full[512];
  snprintf(full, sizeof full, "%s/%s", root, path);
  for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL;
       slash++) {
    *slash = 0;
    mkdir(full, 0700);
    *slash = '/';
  }
  copy_file(fixture, full);
}

/* Is the name of a local function found, which only the debug file has? */
static bool has_local_name(const char *fixture, const char *root, const char *path)
{
  struct ss_module m = of_fixture(fixture);
  struct ss_image *whole = NULL;
  struct ss_symbol sym, found;
  assert_int_equal(ss_image_open(&whole, fixture_open("elf/small.so"), "small", NULL),
                   SS_ERR_OK);
  assert_true(ss_image_lookup(whole, "local_function", &sym));
  m.root_fd = open(root, O_PATH | O_DIRECTORY);
  m.path = (char *)(uintptr_t)path;
  bool has = ss_module_symbol(&m, sym.start, &found) &&
             strcmp(found.name, "local_function") == 0;
  ss_symtab_free(m.symtab);
  ss_image_close(m.debug);
  ss_image_close(m.image);
  ss_image_close(whole);
  close(m.root_fd);
  return has;
}

#define BUILD_ID_FILE                                                                    \
  "usr/lib/debug/.build-id/00/112233445566778899aabbccddeeff00112233.debug"

/* A root with one file in it. */
static bool named_with(const char *debug, const char *at, const char *fixture,
                       const char *path)
{
  char root[TMPDIR_PATH];
  assert_true(tmpdir_make(root));
  put_file(root, debug, at);
  bool has = has_local_name(fixture, root, path);
  assert_int_equal(tmpdir_remove(root), 0);
  return has;
}

static void test_debug_files(void **state)
{
  (void)state;
  assert_true(
      named_with("elf/small.debug", BUILD_ID_FILE, "elf/stripped.so", "/lib/a.so"));
  assert_true(
      named_with("elf/small.debug", "lib/small.debug", "elf/linked.so", "/lib/a.so"));
  assert_true(named_with("elf/small.debug", "lib/.debug/small.debug", "elf/linked.so",
                         "/lib/a.so"));
  assert_true(named_with("elf/small.debug", "usr/lib/debug/lib/small.debug",
                         "elf/linked.so", "/lib/a.so"));
  /* No link, the wrong place, another build. */
  assert_false(
      named_with("elf/small.debug", "lib/small.debug", "elf/stripped.so", "/lib/a.so"));
  assert_false(
      named_with("elf/small.debug", "usr/small.debug", "elf/linked.so", "/lib/a.so"));
  assert_false(
      named_with("elf/other.debug", "lib/small.debug", "elf/linked.so", "/lib/a.so"));
  assert_false(
      named_with("elf/other.debug", BUILD_ID_FILE, "elf/linked.so", "/lib/a.so"));
}

static void test_debuglink_is_a_basename(void **state)
{
  (void)state;
  static const struct {
    const char *bytes;
    size_t len;
    bool good;
  } links[] = {
      {"a.debug\0\1\2\3\4", 12, true},
      {"../../etc/passwd\0\0\0\0\1\2\3\4", 24, false},
      {"/etc/passwd\0\1\2\3\4", 16, false},
      {"..\0\0\1\2\3\4", 8, false},
      {"\0\0\0\0\1\2\3\4", 8, false},
      {"no end", 6, false},
      {"a.debug\0\1\2\3", 11, false},
  };
  const char *name;
  uint32_t crc;
  for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
    assert_int_equal(ss_debuglink_parse((const unsigned char *)links[i].bytes,
                                        links[i].len, &name, &crc),
                     links[i].good);
  char lengthy[4100];
  memset(lengthy, 'x', sizeof lengthy);
  lengthy[4090] = 0;
  assert_false(
      ss_debuglink_parse((const unsigned char *)lengthy, sizeof lengthy, &name, &crc));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_addresses_to_names),
      cmocka_unit_test(test_vdso_and_anonymous),
      cmocka_unit_test(test_text_in_anonymous_memory),
      cmocka_unit_test(test_file_identity),
      cmocka_unit_test(test_bias),
      cmocka_unit_test(test_debug_files),
      cmocka_unit_test(test_debuglink_is_a_basename),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
