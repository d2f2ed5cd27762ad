/* Call frame information: entries, instructions, compact tables. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "../../src/unwind/table.h"
#include "fixture.h"

static struct ss_module open_module(const char *path)
{
  struct ss_module m = {.root_fd = -1, .name = (char *)(uintptr_t)path};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(ss_image_open(&m.image, fd, path, NULL), SS_ERR_OK);
  return m;
}

static void close_module(struct ss_module *m)
{
  if (m->unwind_free != NULL)
    m->unwind_free(m->unwind);
  ss_image_close(m->image);
}

/* One FDE by hand: CIE (def_cfa rsp+8, ra at cfa-8) and a function of 16 bytes
 * that pushes rbp, makes it the frame pointer, and pops it. */
static const unsigned char hand_made[] = {
    0x14, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x00, 0x0c, 7, 8, 0x90, 1,
    0, 0,
    /* FDE at 24: length, CIE pointer, start, size, augmentation */
    0x24, 0, 0, 0, 0x1c, 0, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0,
    0, 0x41, 0x0e, 16, 0x86, 2, /* +1: cfa rsp+16, rbp at cfa-16 */
    0x43, 0x0d, 6,              /* +3: cfa rbp+16 */
    0x4a, 0x0c, 7, 8,           /* +10: cfa rsp+8 */
    0, 0, 0, 0, 0, 0, 0};

struct rows {
  uint64_t pc[8];
  struct ss_cfa_state state[8];
  size_t count;
};

static void keep_row(void *arg, uint64_t pc, const struct ss_cfa_state *state)
{
  struct rows *rows = arg;
  if (rows->count < 8) {
    rows->pc[rows->count] = pc;
    rows->state[rows->count] = *state;
  }
  rows->count++;
}

static void test_rows(void **state)
{
  (void)state;
  struct ss_cfi_section s = {.bytes = hand_made, .len = sizeof hand_made};
  struct ss_cie cie = {0};
  struct ss_fde fde;
  struct ss_cfa_state initial;
  struct rows rows = {0};
  size_t at = 0;
  assert_int_equal(ss_cfi_next(&s, &at, &cie, &fde), SS_ENTRY_OTHER);
  assert_int_equal(ss_cfi_next(&s, &at, &cie, &fde), SS_ENTRY_FDE);
  assert_int_equal(fde.start, 0x1000);
  assert_int_equal(fde.end, 0x1010);
  assert_true(ss_cfa_initial(&s, &fde, &initial));
  assert_true(ss_cfa_rows(&s, &fde, &initial, keep_row, &rows));
  assert_int_equal(rows.count, 4);
  static const struct {
    uint64_t pc;
    int reg, off;
  } want[] = {{0x1000, SS_REG_SP, 8},
              {0x1001, SS_REG_SP, 16},
              {0x1004, SS_REG_BP, 16},
              {0x100e, SS_REG_SP, 8}};
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(rows.pc[i], want[i].pc);
    assert_int_equal(rows.state[i].cfa.reg, want[i].reg);
    assert_int_equal(rows.state[i].cfa.off, want[i].off);
    assert_int_equal(rows.state[i].ra.off, -8);
  }
  assert_int_equal(rows.state[0].saved[SS_SAVED_BP].kind, SS_CFA_SAME);
  assert_int_equal(rows.state[1].saved[SS_SAVED_BP].off, -16);
}

static void ignore_row(void *arg, uint64_t pc, const struct ss_cfa_state *state)
{
  (void)state;
  *(uint64_t *)arg += pc;
}

static void walk_section(const unsigned char *bytes, size_t len, bool debug_frame)
{
  struct ss_cfi_section s = {
      .bytes = bytes, .len = len, .vaddr = 0x2000, .debug_frame = debug_frame};
  struct ss_cie cie = {0};
  struct ss_fde fde;
  struct ss_cfa_state initial;
  enum ss_entry kind;
  uint64_t sum = 0;
  size_t at = 0;
  while ((kind = ss_cfi_next(&s, &at, &cie, &fde)) != SS_ENTRY_END)
    if (kind == SS_ENTRY_FDE && ss_cfa_initial(&s, &fde, &initial))
      ss_cfa_rows(&s, &fde, &initial, ignore_row, &sum);
}

/* Of the hand-made section and of a compiler's: every prefix, many flips. */
static void test_cut_and_flipped(void **state)
{
  (void)state;
  struct ss_module m = open_module("/proc/self/exe");
  struct ss_section real;
  assert_true(ss_image_section(m.image, ".eh_frame", &real));
  size_t real_len = real.len < 4096 ? real.len : 4096;
  const struct {
    const unsigned char *bytes;
    size_t len;
  } inputs[] = {{hand_made, sizeof hand_made}, {real.bytes, real_len}};
  uint64_t seed = 2463534242u;
  for (size_t k = 0; k < 2; k++) {
    for (size_t n = 0; n <= inputs[k].len; n++) {
      unsigned char *cut = malloc(n + 1);
      memcpy(cut, inputs[k].bytes, n);
      walk_section(cut, n, n % 2 != 0);
      for (size_t f = 0; f < 8 && n > 0; f++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        cut[seed % n] = (unsigned char)(seed >> 32);
      }
      walk_section(cut, n, false);
      free(cut);
    }
  }
  close_module(&m);
}

/* Each rule found by the table is the row that the instructions give, at every
 * byte of every function of a real file. */
struct audit {
  const struct ss_table *table;
  const struct ss_fde *fde;
  uint64_t last;
  struct ss_cfa_state state;
  size_t rows, slow;
  bool any;
};

static void check_rule(struct audit *a, uint64_t pc)
{
  struct ss_rule rule;
  uint64_t function;
  assert_true(ss_table_find(a->table, pc, &rule, &function));
  assert_int_equal(function, a->fde->start);
  if (rule.cfa_kind == SS_RULE_SLOW) {
    a->slow++;
    return;
  }
  if (a->state.ra.kind == SS_CFA_UNDEFINED) {
    assert_int_equal(rule.cfa_kind, SS_RULE_END);
    return;
  }
  if (a->state.cfa.kind != SS_CFA_REG)
    return;
  assert_int_equal(rule.cfa_kind, SS_RULE_REG);
  assert_int_equal(rule.cfa_reg, a->state.cfa.reg);
  assert_int_equal(rule.cfa_off, a->state.cfa.off);
  bool bp_saved = a->state.saved[SS_SAVED_BP].kind == SS_CFA_OFFSET;
  assert_int_equal(bp_saved,
                   rule.bp_kind == SS_BP_AT_CFA || (rule.saves >> SS_SAVED_BP & 1) != 0);
  for (int i = 0; i < SS_SAVED_COUNT; i++)
    if ((rule.saves >> i & 1) != 0)
      assert_int_equal(rule.slots[i] * 8, a->state.saved[i].off);
  if (rule.bp_kind == SS_BP_AT_CFA) /* too far for a slot's 8 bits */
    assert_int_equal(rule.bp_off, a->state.saved[SS_SAVED_BP].off);
}

static void check_row(void *arg, uint64_t pc, const struct ss_cfa_state *state)
{
  struct audit *a = arg;
  if (a->any && pc > a->last) {
    check_rule(a, a->last);
    check_rule(a, pc - 1);
  }
  a->state = *state;
  a->last = pc;
  a->any = true;
  a->rows++;
}

static void audit_file(const char *path)
{
  struct ss_module m = open_module(path);
  struct ss_table *table = ss_table_build(&m);
  const struct ss_cfi *cfi = ss_cfi_load(&m);
  struct ss_cie cie = {0};
  struct ss_fde fde;
  struct ss_cfa_state initial;
  struct audit a = {.table = table, .fde = &fde};
  enum ss_entry kind;
  size_t at = 0, fdes = 0;
  assert_non_null(table);
  while ((kind = ss_cfi_next(&cfi->eh.section, &at, &cie, &fde)) != SS_ENTRY_END) {
    if (kind != SS_ENTRY_FDE || fde.start == 0 ||
        !ss_cfa_initial(&cfi->eh.section, &fde, &initial))
      continue;
    a.any = false;
    assert_true(ss_cfa_rows(&cfi->eh.section, &fde, &initial, check_row, &a));
    check_rule(&a, a.last);
    check_rule(&a, fde.end - 1);
    fdes++;
  }
  print_message("%s: %zu functions, %zu rows, %zu slow\n", path, fdes, a.rows, a.slow);
  assert_true(fdes > 10);
  assert_true(a.slow * 50 < a.rows); /* rare */
  ss_table_free(table);
  close_module(&m);
}

static void test_table_is_the_rows(void **state)
{
  (void)state;
  audit_file("/proc/self/exe");
  audit_file("/lib/x86_64-linux-gnu/libc.so.6");
}

static struct ss_table *table_of_fixture(struct ss_module *m, const char *name)
{
  *m = (struct ss_module){.root_fd = -1};
  assert_int_equal(ss_image_open(&m->image, fixture_open(name), name, NULL), SS_ERR_OK);
  struct ss_table *table = ss_table_build(m);
  assert_non_null(table);
  return table;
}

static void test_gaps_and_ends(void **state)
{
  (void)state;
  struct ss_module m;
  struct ss_table *table = table_of_fixture(&m, "elf/small.so");
  struct ss_rule rule;
  struct ss_symbol sym;
  uint64_t function;
  assert_true(ss_image_lookup(m.image, "global_function", &sym));
  assert_true(ss_table_find(table, sym.start, &rule, &function));
  assert_int_equal(function, sym.start);
  assert_int_equal(rule.cfa_kind, SS_RULE_REG);
  assert_int_equal(rule.cfa_off, 8);
  /* Behind the last function there is no information. */
  assert_true(ss_table_find(table, sym.start + sym.size, &rule, &function));
  assert_int_equal(rule.cfa_kind, SS_RULE_NOCFI);
  assert_int_equal(function, 0);
  assert_false(ss_table_find(table, UINT64_MAX, &rule, &function));
  assert_false(ss_table_find(table, table->text_hi, &rule, &function));
  ss_table_free(table);
  close_module(&m);
}

/* Without .eh_frame_hdr, and from .debug_frame, also beside .eh_frame, the functions are
 * the same. */
static void test_other_sources(void **state)
{
  (void)state;
  static const char *const functions[] = {"local_function", "weak_function",
                                          "global_function"};
  static const char *const files[] = {"elf/nohdr.so", "elf/debugframe.so",
                                      "elf/headerless.so", "elf/mixed.so"};
  for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
    struct ss_module m;
    struct ss_table *table = table_of_fixture(&m, files[f]);
    struct ss_symbol sym;
    struct ss_rule rule;
    uint64_t function;
    for (size_t i = 0; i < 3; i++) {
      if (!ss_image_lookup(m.image, functions[i], &sym))
        continue; /* a local one of a stripped file */
      assert_true(ss_table_find(table, sym.start, &rule, &function));
      assert_int_equal(function, sym.start);
      assert_int_equal(rule.cfa_off, 8);
      assert_true(ss_table_find(table, sym.start + sym.size - 1, &rule, &function));
      assert_int_equal(function, sym.start);
    }
    ss_table_free(table);
    close_module(&m);
  }
}

/* Stubs with endbr64 have pushed their number from the ninth byte on. */
static void test_stubs(void **state)
{
  (void)state;
  struct ss_module m;
  struct ss_table *table = table_of_fixture(&m, "elf/mixed.so");
  struct ss_section plt;
  struct ss_symbol sym;
  struct ss_rule rule;
  uint64_t function;
  assert_true(ss_image_lookup(m.image, "with_tables", &sym));
  assert_true(ss_table_find(table, sym.start, &rule, &function));
  assert_int_equal(function, sym.start);
  assert_true(ss_image_section(m.image, ".plt", &plt));
  assert_true(ss_table_find(table, plt.vaddr + 16, &rule, &function));
  assert_int_equal(rule.cfa_kind, SS_RULE_PLT);
  assert_int_equal(rule.aux, 9);
  ss_table_free(table);
  close_module(&m);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rows),
      cmocka_unit_test(test_cut_and_flipped),
      cmocka_unit_test(test_table_is_the_rows),
      cmocka_unit_test(test_gaps_and_ends),
      cmocka_unit_test(test_other_sources),
      cmocka_unit_test(test_stubs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
