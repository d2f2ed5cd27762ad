/* ELF images: headers, sections, build-id, reads; every cut and many flips. */
#include "unit.h"

#include <elf.h>
#include <sys/stat.h>

#include "fixture.h"
#include "stacksample/elf.h"
#include "stacksample/limits.h"

static struct ss_image *open_fixture(const char *name)
{
  struct ss_image *image = NULL;
  struct ss_diag diag = {0};
  assert_int_equal(ss_image_open(&image, fixture_open(name), name, &diag), SS_ERR_OK);
  assert_non_null(image);
  return image;
}

static void test_reads_headers(void **state)
{
  (void)state;
  struct ss_image *image = open_fixture("elf/small.so");
  unsigned char id[20];
  const struct ss_segment *segments;
  assert_int_equal(ss_image_type(image), ET_DYN);
  assert_int_equal(ss_image_build_id(image, id), 20);
  assert_int_equal(id[0], 0x00);
  assert_int_equal(id[1], 0x11);
  assert_int_equal(id[19], 0x33);
  assert_true(ss_image_segments(image, &segments) >= 2);
  ss_image_close(image);
}

static void test_loads_and_drops_sections(void **state)
{
  (void)state;
  struct ss_image *image = open_fixture("elf/small.so");
  struct ss_section s;
  assert_true(ss_image_section(image, ".eh_frame_hdr", &s));
  assert_int_equal(s.bytes[0], 1);
  ss_image_drop_section(image, ".eh_frame_hdr");
  assert_true(ss_image_section(image, ".eh_frame_hdr", &s));
  assert_int_equal(s.bytes[0], 1);
  assert_false(ss_image_section(image, ".no_such_section", &s));
  ss_image_close(image);
}

/* What the section headers say must follow from the program headers too. */
static void test_stripped_section_headers(void **state)
{
  (void)state;
  struct ss_image *whole = open_fixture("elf/small.so");
  struct ss_image *bare = open_fixture("elf/headerless.so");
  struct ss_section a, b;
  assert_false(ss_image_section(bare, ".text", &b));
  assert_true(ss_image_section(whole, ".eh_frame_hdr", &a));
  assert_true(ss_image_section(bare, ".eh_frame_hdr", &b));
  assert_int_equal(a.vaddr, b.vaddr);
  assert_int_equal(a.len, b.len);
  assert_int_equal(memcmp(a.bytes, b.bytes, a.len), 0);
  assert_true(ss_image_section(whole, ".eh_frame", &a));
  assert_true(ss_image_section(bare, ".eh_frame", &b));
  assert_int_equal(a.vaddr, b.vaddr);
  assert_true(b.len >= a.len); /* it ends at its terminator, not before */
  assert_int_equal(memcmp(a.bytes, b.bytes, a.len), 0);
  ss_image_close(whole);
  ss_image_close(bare);
}

static void test_inflates_sections(void **state)
{
  (void)state;
  struct ss_image *image = open_fixture("elf/compressed.so");
  struct ss_section s;
  assert_true(ss_image_section(image, ".debug_str", &s));
  bool found = false;
  for (size_t i = 0; i + 16 < s.len && !found; i++)
    found = memcmp(s.bytes + i, "exported_data", 14) == 0;
  assert_true(found);
  ss_image_close(image);
}

static void test_reads_by_address(void **state)
{
  (void)state;
  struct ss_image *image = open_fixture("elf/small.so");
  struct ss_section s;
  unsigned char buf[64];
  assert_true(ss_image_section(image, ".text", &s));
  size_t want = s.len < sizeof buf ? s.len : sizeof buf;
  assert_int_equal(ss_image_read(image, s.vaddr, buf, want), want);
  assert_int_equal(memcmp(buf, s.bytes, want), 0);
  assert_int_equal(ss_image_read(image, 0x7fff00000000, buf, 8), 0);
  /* Short at a segment's end. */
  const struct ss_segment *segments;
  ss_image_segments(image, &segments);
  uint64_t end = segments[0].vaddr + segments[0].filesz;
  assert_int_equal(ss_image_read(image, end - 5, buf, 64), 5);
  ss_image_close(image);
}

static void test_refuses_other_files(void **state)
{
  (void)state;
  struct ss_image *image = NULL;
  struct ss_diag diag = {0};
  int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  assert_int_equal(ss_image_open(&image, dir, "/", &diag), SS_ERR_FORMAT);
  assert_null(image);
  assert_int_equal(ss_image_open_bytes(&image, "#!/bin/sh\n", 10, "script", &diag),
                   SS_ERR_FORMAT);
  unsigned char other[64] = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB};
  assert_int_equal(ss_image_open_bytes(&image, other, sizeof other, "elf32", &diag),
                   SS_ERR_UNSUPPORTED);
  assert_null(image);
}

/* Uses whatever opened; nothing is asserted but that it returns. */
static void use_all(const unsigned char *bytes, size_t len)
{
  static const char *const names[] = {".eh_frame", ".eh_frame_hdr", ".dynsym", ".symtab"};
  struct ss_image *image = NULL;
  if (ss_image_open_bytes(&image, bytes, len, "cut", NULL) != SS_ERR_OK) {
    assert_null(image);
    return;
  }
  struct ss_section s;
  struct ss_symtab *tab = NULL;
  struct ss_symbol sym;
  unsigned char buf[256];
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    ss_image_section(image, names[i], &s);
  ss_image_read(image, 0x300, buf, sizeof buf);
  ss_image_lookup(image, "global_function", &sym);
  if (ss_symtab_build(&tab, image, NULL, NULL) == SS_ERR_OK)
    for (uint64_t a = 0x300; a < 0x400; a += 8)
      ss_symtab_find(tab, a, &sym);
  ss_symtab_free(tab);
  ss_image_close(image);
}

static void test_every_prefix(void **state)
{
  (void)state;
  size_t len;
  unsigned char *bytes = fixture_read("elf/small.so", &len);
  for (size_t n = 0; n < len; n++) {
    unsigned char *cut = malloc(n + 1); /* exact, so that ASan sees overreads */
    memcpy(cut, bytes, n);
    use_all(cut, n);
    free(cut);
  }
  free(bytes);
}

/* Flips land in the headers, which is where counts and offsets are. */
static void test_header_flips(void **state)
{
  (void)state;
  static const char *const names[] = {"elf/small.so", "elf/minidebug.so",
                                      "elf/headerless.so"};
  for (size_t f = 0; f < sizeof names / sizeof names[0]; f++) {
    size_t len;
    unsigned char *bytes = fixture_read(names[f], &len);
    uint64_t seed = 88172645463325252u;
    for (int round = 0; round < 1000; round++) {
      seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
      size_t table = len > 2048 ? len - 2048 : 0;
      size_t at = (size_t)((seed >> 8) & 1 ? (seed >> 16) % 1024
                                           : table + (seed >> 16) % (len - table));
      unsigned char old = bytes[at];
      bytes[at] = (unsigned char)(seed >> 40);
      use_all(bytes, len);
      bytes[at] = old;
    }
    free(bytes);
  }
}

static void put64(unsigned char *at, uint64_t value)
{
  memcpy(at, &value, 8);
}

/* Each is refused, or opened as a stripped file; never believed. */
static void test_lying_headers(void **state)
{
  (void)state;
  size_t len;
  unsigned char *good = fixture_read("elf/small.so", &len);
  unsigned char *bad = malloc(len);
  struct ss_image *image = NULL;
  struct ss_section s;
  struct ss_diag diag = {0};
  memcpy(bad, good, len);
  put64(bad + 0x20, UINT64_MAX - 8); /* e_phoff + size wraps */
  assert_int_equal(ss_image_open_bytes(&image, bad, len, "f", &diag), SS_ERR_FORMAT);
  assert_non_null(strstr(diag.text, "offset"));
  memcpy(bad, good, len);
  bad[0x36] = 1; /* e_phentsize */
  assert_int_equal(ss_image_open_bytes(&image, bad, len, "f", &diag), SS_ERR_FORMAT);
  memcpy(bad, good, len);
  bad[0x3a] = 0; /* e_shentsize */
  assert_int_equal(ss_image_open_bytes(&image, bad, len, "f", &diag), SS_ERR_OK);
  assert_false(ss_image_section(image, ".text", &s));
  ss_image_close(image);
  memcpy(bad, good, len);
  uint64_t shoff;
  memcpy(&shoff, bad + 0x28, 8);
  for (size_t i = 1; i < 12; i++)
    put64(bad + shoff + i * 64 + 0x20, UINT64_MAX - 15); /* sh_size */
  assert_int_equal(ss_image_open_bytes(&image, bad, len, "f", &diag), SS_ERR_OK);
  assert_false(ss_image_section(image, ".text", &s));
  ss_image_close(image);
  free(good);
  free(bad);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reads_headers),
      cmocka_unit_test(test_loads_and_drops_sections),
      cmocka_unit_test(test_stripped_section_headers),
      cmocka_unit_test(test_inflates_sections),
      cmocka_unit_test(test_reads_by_address),
      cmocka_unit_test(test_refuses_other_files),
      cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_header_flips),
      cmocka_unit_test(test_lying_headers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
