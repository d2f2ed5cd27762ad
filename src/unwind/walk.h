/*
 * One step of the walk by compact rules: the hot path, inlined into the loops of
 * unwind.c and memo.c. Everything that is not in a rule is done there, out of line.
 */
#ifndef STACKSAMPLE_UNWIND_WALK_H
#define STACKSAMPLE_UNWIND_WALK_H

#include "stacksample/limits.h"
#include "unwind_priv.h"

#define SS_PREFETCH 384 /* bytes; a frame of a torch stack has 270 */

/* Calls would cost a fifth of the whole walk. */
#define SS_INLINE static inline __attribute__((always_inline))

static inline bool ss_walk_is_hit(const struct ss_hit *hit,
                                  const struct ss_unwind_space *space, uint64_t addr)
{
  return hit->addr == addr && hit->generation == (uint32_t)space->maps->generation &&
         hit->pid == space->pid;
}

static inline struct ss_hit *ss_walk_hit_of(struct ss_unwinder *u, uint64_t addr)
{
  const struct ss_unwind_space *space = u->space;
  struct ss_hit *hit = &u->hits[(addr ^ addr >> 12 ^ (uint64_t)space->pid) % SS_HITS];
  if (!ss_walk_is_hit(hit, space, addr))
    ss_hit_fill(hit, space, addr);
  return hit;
}

/* Where the walk stands: most often where it went from the same callee last time, so
 * that the processor can go on while the return address is still being read. Above the
 * leaf the return address may already belong to the next function (a call that does not
 * return is the last instruction), so the call itself is looked up. */
static inline const struct ss_hit *ss_walk_locate(struct ss_unwinder *u)
{
  uint64_t addr = u->walk.r[SS_REG_IP] - (u->walk.exact ? 0 : 1);
  struct ss_hit *callee = u->walk.hit, *hit;
  if (callee == NULL) {
    hit = ss_walk_hit_of(u, addr);
  } else {
    hit = &u->hits[callee->caller];
    if (!ss_walk_is_hit(hit, u->space, addr)) {
      hit = ss_walk_hit_of(u, addr);
      callee->caller = (uint32_t)(hit - u->hits);
    }
  }
  u->walk.hit = hit;
  return hit;
}

/* The frame that the walk stands on; its caller is not known yet. */
static inline void ss_walk_fill_frame(const struct ss_walk *w, struct ss_frame *frame)
{
  const struct ss_hit *hit = w->hit;
  frame->ip = w->r[SS_REG_IP];
  frame->sp = w->r[SS_REG_SP];
  frame->cfa = 0;
  frame->module = hit->module;
  frame->vaddr = hit->addr - hit->bias;
  frame->function = hit->into == UINT32_MAX ? 0 : frame->vaddr - hit->into;
  frame->method = SS_METHOD_CFI;
  frame->signal = (hit->rule.flags & SS_RULE_SIGNAL) != 0;
  frame->saved[SS_SAVED_BX] = w->r[SS_REG_BX];
  frame->saved[SS_SAVED_BP] = w->r[SS_REG_BP];
  memcpy(&frame->saved[SS_SAVED_R12], &w->r[SS_REG_R12], 4 * sizeof w->r[0]);
  frame->saved_known = (uint8_t)ss_regs_to_saved(w->known);
}

static inline enum ss_end ss_walk_check_cfa(uint64_t sp, uint64_t cfa)
{
  if (cfa <= sp)
    return SS_END_NO_PROGRESS;
  if (cfa % 8 != 0)
    return SS_END_BAD_CFI;
  return cfa - sp > SS_FRAME_SIZE_MAX ? SS_END_SP_LOST : SS_END_NONE;
}

/* The CFA by a compact rule. */
static inline enum ss_end ss_walk_rule_cfa(const struct ss_unwinder *u,
                                           const struct ss_walk *w,
                                           const struct ss_rule *rule, uint64_t *cfa)
{
  if (rule->cfa_kind == SS_RULE_PLT) {
    *cfa = w->r[SS_REG_SP] + 8 + ((int32_t)(w->hit->addr & 15) >= rule->aux ? 8 : 0);
    return SS_END_NONE;
  }
  if ((w->known >> rule->cfa_reg & 1u) == 0)
    return SS_END_NO_CFI;
  *cfa = w->r[rule->cfa_reg] + (uint64_t)(int64_t)rule->cfa_off;
  if (rule->cfa_kind == SS_RULE_DEREF) {
    if (!ss_stack_u64(u, *cfa, cfa))
      return ss_read_failed(u);
    *cfa += (uint64_t)(int64_t)rule->aux;
  }
  return SS_END_NONE;
}

/* Where a caller's registers are: the frame's extent, and its bytes where the
 * whole of it lies in the copied stack (then nothing need be checked again). */
struct extent {
  uint64_t sp, cfa;
  const unsigned char *end; /* of the bytes, at the CFA; NULL: not all copied */
};

static inline struct extent ss_walk_extent_of(const struct ss_unwinder *u, uint64_t sp,
                                              uint64_t cfa)
{
  struct extent e = {.sp = sp, .cfa = cfa};
  if (sp >= u->copy_sp && cfa - u->copy_sp <= u->copy_len)
    e.end = u->copy + (cfa - u->copy_sp);
  return e;
}

enum slot { SLOT_READ, SLOT_POPPED, SLOT_FAILED };

/* The word at CFA + off. A slot below sp is popped already (an epilogue): the
 * register holds what was in it, and the copied stack does not have it. */
static inline enum slot ss_walk_read_slot(const struct ss_unwinder *u,
                                          const struct extent *e, int64_t off,
                                          uint64_t *value)
{
  uint64_t slot = e->cfa + (uint64_t)off;
  if (slot < e->sp)
    return SLOT_POPPED;
  if (e->end != NULL && off <= -8) {
    memcpy(value, e->end + off, 8);
    return SLOT_READ;
  }
  return ss_stack_u64(u, slot, value) ? SLOT_READ : SLOT_FAILED;
}

static inline void ss_walk_set_register(struct ss_walk *w, const struct ss_unwinder *u,
                                        const struct extent *e, unsigned reg, int64_t off)
{
  enum slot got = ss_walk_read_slot(u, e, off, &w->r[reg]);
  if (got == SLOT_READ)
    w->known |= 1u << reg;
  else if (got == SLOT_FAILED)
    w->known &= ~(1u << reg);
}

/* rbp of the caller. In a realigned frame its slot is named by rbp itself: one
 * that is not in the frame means that rbp has its old value back already. */
static inline void ss_walk_rule_bp(const struct ss_unwinder *u, struct ss_walk *w,
                                   const struct ss_rule *rule, const struct extent *e)
{
  if (rule->bp_kind == SS_BP_AT_CFA) {
    ss_walk_set_register(w, u, e, SS_REG_BP, rule->bp_off);
  } else if (rule->bp_kind == SS_BP_AT_BP) {
    uint64_t slot = w->r[SS_REG_BP] + (uint64_t)(int64_t)rule->bp_off;
    if ((w->known >> SS_REG_BP & 1u) != 0 && slot >= e->sp && slot < e->cfa)
      ss_walk_set_register(w, u, e, SS_REG_BP, (int64_t)(slot - e->cfa));
  } else if (rule->bp_kind == SS_BP_LOST) {
    w->known &= ~(1u << SS_REG_BP);
  }
}

/* The preserved registers of the caller from their slots, where the frame is a
 * caller itself and its bytes are at hand. Unrolled, because the processor cannot
 * predict how often a loop over the bits of `saves` would run. */
static inline void ss_walk_copy_slots(struct ss_walk *w, const struct ss_rule *rule,
                                      const struct extent *e)
{
  int64_t lowest = (int64_t)(e->sp - e->cfa);
#pragma GCC unroll 6
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++) {
    int64_t off = 8 * (int64_t)rule->slots[i];
    if (off != 0 && off >= lowest)
      memcpy(&w->r[ss_saved_reg[i]], e->end + off, 8);
  }
  w->known = (w->known | ss_saved_to_regs(rule->saves)) & ~ss_saved_to_regs(rule->loses);
}

/* The same in general. */
static inline void ss_walk_read_slots(const struct ss_unwinder *u, struct ss_walk *w,
                                      const struct ss_rule *rule, const struct extent *e)
{
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++)
    if ((rule->saves >> i & 1u) != 0)
      ss_walk_set_register(w, u, e, ss_saved_reg[i], 8 * (int64_t)rule->slots[i]);
  w->known &= ~ss_saved_to_regs(rule->loses);
}

/* The hot path: the caller by the compact rule of the frame's address. */
SS_INLINE enum ss_end ss_walk_step_by_rule(struct ss_unwinder *u, struct ss_frame *frame)
{
  struct ss_walk *w = &u->walk;
  const struct ss_rule *rule = &w->hit->rule;
  uint64_t cfa, ra;
  if (rule->cfa_kind >= SS_RULE_END)
    return rule->cfa_kind == SS_RULE_END ? SS_END_COMPLETE : SS_END_NO_CFI;
  enum ss_end end = ss_walk_rule_cfa(u, w, rule, &cfa);
  if (end == SS_END_NONE)
    end = ss_walk_check_cfa(w->r[SS_REG_SP], cfa);
  if (end != SS_END_NONE)
    return end;
  struct extent e = ss_walk_extent_of(u, w->r[SS_REG_SP], cfa);
  if (e.end != NULL && u->copy_len - (size_t)(cfa - u->copy_sp) > SS_PREFETCH) {
    __builtin_prefetch(e.end + SS_PREFETCH / 2); /* the next frames' slots */
    __builtin_prefetch(e.end + SS_PREFETCH);
  }
  if (e.end == NULL && ss_frame_is_late(u, e.sp, cfa))
    frame->method = SS_METHOD_LATE;
  if (ss_walk_read_slot(u, &e, -8, &ra) != SLOT_READ)
    return ss_read_failed(u);
  if (rule->bp_kind != SS_BP_SAME)
    ss_walk_rule_bp(u, w, rule, &e);
  if (!w->exact && e.end != NULL)
    ss_walk_copy_slots(w, rule, &e);
  else
    ss_walk_read_slots(u, w, rule, &e);
  w->r[SS_REG_IP] = ra;
  w->r[SS_REG_SP] = cfa;
  w->known &= u->carried;
  w->exact = false;
  frame->cfa = cfa;
  return SS_END_NONE;
}

/* One step, by whatever knows how. */
SS_INLINE enum ss_end ss_walk_step(struct ss_unwinder *u, struct ss_frame *frame)
{
  const struct ss_hit *hit = ss_walk_locate(u);
  enum ss_end end;
  ss_walk_fill_frame(&u->walk, frame);
  if ((hit->rule.flags & SS_HIT_CODE) == 0)
    end = SS_END_NO_MAP;
  else if (++u->depth >= SS_FRAMES_MAX)
    end = SS_END_DEPTH;
  else if (u->space->saved_registers)
    end = ss_step_with_registers(u, frame);
  else if ((end = ss_walk_step_by_rule(u, frame)) == SS_END_NO_CFI)
    end = ss_step_by_methods(u, frame);
  u->dead = end != SS_END_NONE;
  return end;
}

#endif
