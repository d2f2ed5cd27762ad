/*
 * How functions begin that were made by JIT compilers based on xbyak (oneDNN): pushes of
 * preserved registers in a row, perhaps with a copy of rsp to rbp behind the first.
 * Nothing else says where code without a file, symbols and unwind information begins.
 */
#include <string.h>

#include "stacksample/arch.h"

enum {
  PUSH_BX = 0x53, /* push has no ModRM: 50 + register (Intel SDM volume 2, PUSH) */
  PUSH_BP = 0x55,
  PREFIX = 0x41, /* REX.B: r8 to r15 */
  PUSH_R12 = 0x54,
  PUSH_R15 = 0x57,
  INSNS_MAX = 10, /* six pushes and a copy, with room */
  PUSHES_MIN = 4
};

/* Both encodings of push rbp; mov rbp, rsp. */
static const unsigned char with_copy[2][4] = {{PUSH_BP, 0x48, 0x89, 0xe5},
                                              {PUSH_BP, 0x48, 0x8b, 0xec}};

static bool is_preamble(const unsigned char *code, size_t len)
{
  size_t at = 0;
  int pushes = 0;
  for (int n = 0; n < INSNS_MAX; n++) {
    struct ss_insn insn = ss_arch_decode(code + at, len - at);
    if (insn.kind == SS_INSN_PUSH && (ss_arch_callee_saved() >> insn.reg & 1u) != 0)
      pushes++;
    else if (insn.kind != SS_INSN_COPY_SP || insn.reg != SS_REG_BP || pushes != 1)
      break;
    at += insn.len;
  }
  return pushes >= PUSHES_MIN;
}

/* Bytes of the push, or of the push of rbp with its copy, that ends at `at`. */
static size_t push_before(const unsigned char *code, size_t at)
{
  for (int i = 0; i < 2; i++)
    if (at >= sizeof with_copy[i] &&
        memcmp(code + at - sizeof with_copy[i], with_copy[i], sizeof with_copy[i]) == 0)
      return sizeof with_copy[i];
  if (at >= 2 && code[at - 2] == PREFIX && code[at - 1] >= PUSH_R12 &&
      code[at - 1] <= PUSH_R15)
    return 2;
  return at >= 1 && (code[at - 1] == PUSH_BX || code[at - 1] == PUSH_BP) ? 1 : 0;
}

/* Where the pushes begin that are met at `at`, coming from behind. */
static size_t preamble_from(const unsigned char *code, size_t at)
{
  size_t n;
  if (at > 0 && code[at - 1] == PREFIX)
    at--;
  while ((n = push_before(code, at)) > 0)
    at -= n;
  return at;
}

size_t ss_arch_preamble_before(const unsigned char *code, size_t len, size_t at)
{
  at = at < len ? at : len;
  while (at-- > 0)
    if ((code[at] == PUSH_BX || code[at] == PUSH_BP) && is_preamble(code + at, len - at))
      return preamble_from(code, at);
  return SIZE_MAX;
}
