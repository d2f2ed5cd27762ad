/* Instructions of prologues and epilogues: lengths and meanings. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "stacksample/arch.h"

struct sample {
  const char *bytes;
  size_t len;
  enum ss_insn_kind kind;
  int reg, base; /* -1: not looked at */
  int64_t imm;
};

#define CODE(text) text, sizeof text - 1

static const struct sample samples[] = {
    {CODE("\x53"), SS_INSN_PUSH, SS_REG_BX, -1, 0},
    {CODE("\x41\x57"), SS_INSN_PUSH, SS_REG_R15, -1, 0},
    {CODE("\x5d"), SS_INSN_POP, SS_REG_BP, -1, 0},
    {CODE("\x48\x83\xec\x60"), SS_INSN_ADD_SP, SS_REG_SP, -1, -0x60},
    {CODE("\x48\x81\xec\x80\x70\x00\x00"), SS_INSN_ADD_SP, SS_REG_SP, -1, -0x7080},
    {CODE("\x48\x81\xc4\x20\x01\x00\x00"), SS_INSN_ADD_SP, SS_REG_SP, -1, 0x120},
    {CODE("\x48\x83\xe4\xe0"), SS_INSN_LOWER_SP, SS_REG_SP, -1, -32},
    {CODE("\x48\x29\xc4"), SS_INSN_LOWER_SP, SS_REG_SP, -1, 0},
    {CODE("\x48\x2b\xe0"), SS_INSN_LOWER_SP, SS_REG_SP, -1, 0},
    {CODE("\x48\x8b\x64\x24\x68"), SS_INSN_LOAD, SS_REG_SP, SS_REG_SP, 0x68},
    {CODE("\x48\x89\xe5"), SS_INSN_COPY_SP, SS_REG_BP, SS_REG_SP, 0},
    {CODE("\x48\x8b\xec"), SS_INSN_COPY_SP, SS_REG_BP, SS_REG_SP, 0},
    {CODE("\x48\x89\xe3"), SS_INSN_COPY_SP, SS_REG_BX, SS_REG_SP, 0},
    {CODE("\x48\x89\xdc"), SS_INSN_SET_SP, SS_REG_SP, SS_REG_BX, 0},
    {CODE("\x48\x8d\x65\xd8"), SS_INSN_SET_SP, SS_REG_SP, SS_REG_BP, -0x28},
    {CODE("\x4c\x8d\x54\x24\x08"), SS_INSN_COPY_SP, SS_REG_R10, SS_REG_SP, 8},
    {CODE("\x48\x89\x6c\x24\x08"), SS_INSN_STORE, SS_REG_BP, SS_REG_SP, 8},
    {CODE("\x48\x8b\x6c\x24\x08"), SS_INSN_LOAD, SS_REG_BP, SS_REG_SP, 8},
    {CODE("\x89\xe5"), SS_INSN_SET, SS_REG_BP, -1, 0}, /* 32 bits: no copy */
    {CODE("\xe8\x10\x00\x00\x00"), SS_INSN_CALL, -1, -1, 0x10},
    {CODE("\xff\xd0"), SS_INSN_CALL, -1, -1, 0},
    {CODE("\xe9\xfb\xff\xff\xff"), SS_INSN_JUMP, -1, -1, -5},
    {CODE("\x0f\x84\x00\x01\x00\x00"), SS_INSN_BRANCH, -1, -1, 0x100},
    {CODE("\x75\xf4"), SS_INSN_BRANCH, -1, -1, -12},
    {CODE("\xc3"), SS_INSN_RET, -1, -1, 0},
    {CODE("\xf3\xc3"), SS_INSN_RET, -1, -1, 0},
    {CODE("\xf3\x0f\x1e\xfa"), SS_INSN_OTHER, -1, -1, 0}, /* endbr64 */
    {CODE("\xc5\xf8\x77"), SS_INSN_OTHER, -1, -1, 0},     /* vzeroupper */
    {CODE("\xc4\xe2\x7d\x18\x44\x24\x10"), SS_INSN_OTHER, -1, -1, 0},
    {CODE("\x62\xf1\x7c\x48\x10\x84\x24\x00\x01\x00\x00"), SS_INSN_OTHER, -1, -1, 0},
    {CODE("\x66\x0f\x1f\x84\x00\x00\x00\x00\x00"), SS_INSN_OTHER, -1, -1, 0},
    {CODE("\x48\xb8\x01\x02\x03\x04\x05\x06\x07\x08"), SS_INSN_OTHER, -1, -1, 0},
    {CODE("\x48\x01\xc4"), SS_INSN_BAD, -1, -1, 0}, /* add rsp, rax */
    {CODE("\xc9"), SS_INSN_BAD, -1, -1, 0},         /* leave */
    {CODE("\x06"), SS_INSN_BAD, -1, -1, 0},
};

static void test_meanings(void **state)
{
  (void)state;
  for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
    const struct sample *s = &samples[i];
    struct ss_insn insn = ss_arch_decode((const unsigned char *)s->bytes, s->len);
    if (insn.kind != s->kind || (s->kind != SS_INSN_BAD && insn.len != s->len))
      fail_msg("sample %zu: kind %d, length %d", i, insn.kind, insn.len);
    if (s->reg >= 0)
      assert_int_equal(insn.reg, s->reg);
    if (s->base >= 0)
      assert_int_equal(insn.base, s->base);
    assert_true(insn.imm == s->imm);
  }
}

/* A cut instruction is BAD; no bytes are read behind the end (ASan). */
static void test_cut(void **state)
{
  (void)state;
  for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
    for (size_t n = 0; n < samples[i].len; n++) {
      unsigned char *cut = malloc(n + 1);
      memcpy(cut, samples[i].bytes, n);
      struct ss_insn insn = ss_arch_decode(cut, n);
      assert_true(insn.kind == SS_INSN_BAD || insn.len <= n);
      free(cut);
    }
  }
}

static void test_behind_a_call(void **state)
{
  (void)state;
  static const struct {
    const char *bytes;
    size_t len;
    bool call;
    int64_t target;
  } cases[] = {
      {CODE("\x90\x90\xe8\x10\x00\x00\x00"), true, 0x10},
      {CODE("\x90\x90\x90\x90\x90\xff\xd0"), true, 0},
      {CODE("\x90\x90\x90\x90\x41\xff\xd3"), true, 0},
      {CODE("\x90\xff\x15\x10\x20\x00\x00"), true, 0},
      {CODE("\x90\x90\x90\x90\xff\x50\x18"), true, 0},
      {CODE("\x90\x90\x90\x90\x90\x90\x90"), false, 0},
      {CODE("\x90\x90\x90\x90\x90\xff\xe0"), false, 0}, /* jmp rax */
      {CODE(""), false, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int64_t target;
    const unsigned char *end = (const unsigned char *)cases[i].bytes + cases[i].len;
    assert_int_equal(ss_arch_is_call_before(end, cases[i].len, &target), cases[i].call);
    if (cases[i].call)
      assert_int_equal(target, cases[i].target);
  }
}

static void test_registers(void **state)
{
  (void)state;
  assert_int_equal(ss_arch_from_dwarf(6), SS_REG_BP);
  assert_int_equal(ss_arch_from_dwarf(7), SS_REG_SP);
  assert_int_equal(ss_arch_from_dwarf(16), SS_REG_IP);
  assert_int_equal(ss_arch_from_dwarf(17), -1);
  assert_int_equal(__builtin_popcountll(ss_arch_perf_mask()), SS_REG_COUNT);
  assert_int_equal(__builtin_popcount(ss_arch_callee_saved()), 6);
}

/* Code with one preamble at `start`, found from every byte behind it. */
static void expect_preamble(const char *pushes, size_t len)
{
  unsigned char code[64];
  const size_t start = 20;
  memset(code, 0x90, sizeof code);
  memcpy(code + start, pushes, len);
  for (size_t at = 0; at <= sizeof code; at++) {
    size_t found = ss_arch_preamble_before(code, sizeof code, at);
    if (found != SIZE_MAX)
      assert_int_equal(found, start);
    assert_int_equal(found != SIZE_MAX, at > start + (pushes[0] == 0x41));
  }
  /* Cut off before the fourth push it is none. */
  for (size_t n = 0; n < start + 4; n++)
    assert_int_equal(ss_arch_preamble_before(code, n, n), SIZE_MAX);
}

static void test_preambles(void **state)
{
  (void)state;
  static const char few[] = "\x53\x55\x41\x54\x90", caller_saved[] = "\x50\x51\x52\x57";
  expect_preamble(CODE("\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"));
  expect_preamble(CODE("\x55\x48\x89\xe5\x53\x41\x54\x41\x55\x41\x56"));
  expect_preamble(CODE("\x55\x48\x8b\xec\x53\x41\x54\x41\x55\x41\x56"));
  assert_int_equal(ss_arch_preamble_before((const unsigned char *)few, 5, 5), SIZE_MAX);
  assert_int_equal(ss_arch_preamble_before((const unsigned char *)caller_saved, 4, 4),
                   SIZE_MAX);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_meanings),  cmocka_unit_test(test_preambles),
      cmocka_unit_test(test_cut),       cmocka_unit_test(test_behind_a_call),
      cmocka_unit_test(test_registers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
