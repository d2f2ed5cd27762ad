/*
 * Spin loops by the shape of their code: a short loop around the instruction that
 * exists for them, pause (Intel SDM volume 2, PAUSE). For libraries without names.
 */
#include <string.h>

#include "stacksample/arch.h"

enum { PAUSE_0 = 0xf3, PAUSE_1 = 0x90 };

static bool is_pause(const unsigned char *code, size_t left)
{
  return left >= 2 && code[0] == PAUSE_0 && code[1] == PAUSE_1;
}

/* Do whole instructions from `head` on meet `at` and `last`, with a pause between? */
static bool loops(const unsigned char *code, size_t len, size_t head, size_t at,
                  size_t last)
{
  bool pause = false, met = false;
  for (size_t i = head; i <= last;) {
    struct ss_insn insn = ss_arch_decode(code + i, len - i);
    pause = pause || is_pause(code + i, len - i);
    met = met || i == at;
    if (i == last)
      return pause && met;
    if (insn.len == 0 || insn.kind == SS_INSN_BAD)
      return false;
    i += insn.len;
  }
  return false;
}

/* Could an instruction at `code` jump back? Only these are worth decoding. */
static bool may_jump(const unsigned char *code, size_t left)
{
  return (code[0] >= 0x70 && code[0] <= 0x7f) || code[0] == 0xeb || code[0] == 0xe9 ||
         (code[0] >= 0xe0 && code[0] <= 0xe3) ||
         (left > 1 && code[0] == 0x0f && code[1] >= 0x80 && code[1] <= 0x8f);
}

bool ss_arch_in_spin_loop(const unsigned char *code, size_t len, size_t at)
{
  bool any = false;
  for (size_t i = 0; i + 1 < len && !any; i++)
    any = is_pause(code + i, len - i);
  for (size_t last = at; any && last < len; last++) {
    if (!may_jump(code + last, len - last))
      continue;
    struct ss_insn jump = ss_arch_decode(code + last, len - last);
    int64_t head = (int64_t)last + jump.len + jump.imm;
    if ((jump.kind == SS_INSN_JUMP || jump.kind == SS_INSN_BRANCH) && jump.imm < 0 &&
        head >= 0 && head <= (int64_t)at && loops(code, len, (size_t)head, at, last))
      return true;
  }
  return false;
}
