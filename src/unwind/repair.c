/*
 * Callers where neither unwind information nor code (prologue.c, jit.c) tells:
 *
 * 1. scan: the first word on the stack that looks like a return address of a call that
 *    may have come here, and from which two more steps succeed.
 * 2. frame pointer: where rbp points into the stack and has a return address.
 */
#include "repair.h"

#define SCAN_WORDS 256
#define JUMP_BYTES 4096 /* of a function that is looked through for a jump out of it */
#define FRAME_POINTER_MAX (256u << 10)

static bool is_of_function(struct ss_unwinder *u, uint64_t addr, uint64_t start)
{
  const struct ss_hit *hit = ss_hit_of(u, addr);
  return hit->into != UINT32_MAX && addr - hit->into == start;
}

/* May the function at `start` leave by a jump, as stubs and wrappers do? */
static bool jumps_away(struct ss_unwinder *u, const struct ss_hit *hit, uint64_t start)
{
  unsigned char code[JUMP_BYTES];
  size_t len = ss_code_read(u, hit, start, code, sizeof code), at = 0;
  while (at < len) {
    struct ss_insn insn = ss_arch_decode(code + at, len - at);
    at += insn.len;
    if (insn.kind == SS_INSN_BAD)
      return true; /* what follows is not known */
    if (insn.kind == SS_INSN_JUMP &&
        (insn.imm == 0 || !is_of_function(u, start + at + (uint64_t)insn.imm, start)))
      return true;
    if ((insn.kind == SS_INSN_JUMP || insn.kind == SS_INSN_RET) &&
        !is_of_function(u, start + at, start))
      return false;
  }
  return false;
}

bool ss_may_have_called(struct ss_unwinder *u, const struct ss_hit *frame, uint64_t ra)
{
  uint64_t target;
  if (!ss_is_behind_call(u, ra, &target))
    return false;
  const struct ss_hit hit = *ss_hit_of(u, target);
  /* Not said; no call, but bytes of another instruction; code that is not known. */
  if (target == 0 || (hit.rule.flags & SS_HIT_CODE) == 0 || hit.into == UINT32_MAX)
    return true;
  if (frame->into != UINT32_MAX && frame->addr - frame->into == target)
    return true;
  return hit.into == 0 && jumps_away(u, &hit, target);
}

static enum ss_end scan_step(struct ss_unwinder *u, struct ss_walk *w)
{
  const struct ss_walk old = *w;
  const struct ss_hit hit = *old.hit; /* look-ups may displace it */
  const bool by_rule = ss_needs_register(w, &hit.rule);
  uint64_t sp = old.r[SS_REG_SP] & ~(uint64_t)7;
  for (int n = 0; n < SCAN_WORDS; n++) {
    uint64_t slot = sp + 8 * (uint64_t)n, word;
    if (!ss_stack_u64(u, slot, &word))
      return SS_END_NO_CFI;
    if (word < 4096 || word >> 47 != 0 || ss_hit_of(u, word - 1)->into == UINT32_MAX ||
        !ss_may_have_called(u, &hit, word))
      continue;
    /* rbp is unknown now, unless it points further up and so may be a frame. */
    uint64_t bp = old.r[SS_REG_BP];
    struct ss_caller c = {.cfa = slot + 8,
                          .bp = bp,
                          .bp_known = ss_knows(&old, SS_REG_BP) && bp > slot &&
                                      bp - slot < FRAME_POINTER_MAX};
    *w = old;
    const enum ss_end end =
        by_rule ? ss_step_to_cfa(u, &hit.rule, c.cfa) : ss_accept_caller(u, w, &c);
    if (end == SS_END_NONE && ss_goes_on(u, w))
      return SS_END_NONE;
  }
  *w = old;
  return SS_END_NO_CFI;
}

const struct ss_unwind_method ss_method_scan = {SS_METHOD_SCAN, scan_step};

static enum ss_end frame_pointer_step(struct ss_unwinder *u, struct ss_walk *w)
{
  uint64_t sp = w->r[SS_REG_SP], bp = w->r[SS_REG_BP];
  struct ss_caller c = {.cfa = bp + 16};
  if (!ss_knows(w, SS_REG_BP) || bp < sp || bp - sp >= FRAME_POINTER_MAX)
    return SS_END_NO_CFI;
  c.bp_known = ss_stack_u64(u, bp, &c.bp);
  return ss_accept_caller(u, w, &c);
}

const struct ss_unwind_method ss_method_frame_pointer = {SS_METHOD_FRAME_POINTER,
                                                         frame_pointer_step};
