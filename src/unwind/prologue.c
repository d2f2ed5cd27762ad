/*
 * Callers by what the instructions say. Forward from the frame's address to a `ret`,
 * where that is a straight line (an epilogue, or a leaf function without a frame); else
 * forward from the function's start, which is the prologue. Hand-written assembler
 * copies rsp to another register before it aligns it, or points it to memory that is no
 * stack; that register is followed, into its slot if it is stored.
 *
 * Where unwind information counts the CFA from a register that is not known (of a thread
 * that waits, only rsp and rip are), the prologue says how far the frame reaches, and so
 * what the register holds.
 */
#include "repair.h"

#define CODE_BYTES 512    /* of a prologue or an epilogue */
#define PROLOGUE_INSNS 64 /* OpenBLAS's have 20 */
#define EPILOGUE_INSNS 24
#define STEPS_AHEAD 2

struct code {
  unsigned char bytes[CODE_BYTES];
  size_t len;
};

size_t ss_code_read(const struct ss_unwinder *u, const struct ss_hit *hit, uint64_t addr,
                    void *buf, size_t len)
{
  if (hit->module != NULL && hit->module->image != NULL)
    return ss_image_read(hit->module->image, addr - hit->bias, buf, len);
  return u->space->live == NULL ? 0 : ss_mem_read(u->space->live, addr, buf, len);
}

bool ss_is_behind_call(struct ss_unwinder *u, uint64_t ra, uint64_t *target)
{
  unsigned char before[8];
  int64_t distance;
  *target = 0;
  if (ra < 4096)
    return false;
  struct ss_hit hit = *ss_hit_of(u, ra - 1);
  if ((hit.rule.flags & SS_HIT_CODE) == 0)
    return false;
  size_t got = ss_code_read(u, &hit, ra - sizeof before, before, sizeof before);
  if (got != sizeof before ||
      !ss_arch_is_call_before(before + sizeof before, sizeof before, &distance))
    return false;
  *target = distance == 0 ? 0 : ra + (uint64_t)distance;
  return true;
}

static bool is_return_address(struct ss_unwinder *u, uint64_t ra)
{
  uint64_t target;
  return ss_is_behind_call(u, ra, &target);
}

/* Runs the instructions from the frame's address on, with the real register
 * values, if they lead straight to a `ret`. */
static bool run_to_return(const struct ss_unwinder *u, const struct ss_walk *from,
                          const struct code *code, struct ss_caller *out)
{
  struct ss_walk w = *from;
  size_t at = 0;
  for (int n = 0; n < EPILOGUE_INSNS; n++) {
    struct ss_insn insn = ss_arch_decode(code->bytes + at, code->len - at);
    uint64_t value = 0;
    at += insn.len;
    switch (insn.kind) {
    case SS_INSN_OTHER:
      break;
    case SS_INSN_RET:
      *out = (struct ss_caller){.cfa = w.r[SS_REG_SP] + 8,
                                .own_sp = w.r[SS_REG_SP],
                                .bp = w.r[SS_REG_BP],
                                .bp_known = ss_knows(&w, SS_REG_BP)};
      return true;
    case SS_INSN_ADD_SP:
      if (insn.imm < 0)
        return false;
      w.r[SS_REG_SP] += (uint64_t)insn.imm;
      break;
    case SS_INSN_SET_SP:
      if (!ss_knows(&w, insn.base))
        return false;
      w.r[SS_REG_SP] = w.r[insn.base] + (uint64_t)insn.imm;
      break;
    case SS_INSN_POP:
    case SS_INSN_LOAD: {
      int base = insn.kind == SS_INSN_POP ? SS_REG_SP : insn.base;
      bool ok =
          ss_knows(&w, base) && ss_stack_u64(u, w.r[base] + (uint64_t)insn.imm, &value);
      if (!ok && insn.reg == SS_REG_SP)
        return false;
      w.known &= ~(1u << insn.reg);
      w.known |= ok ? 1u << insn.reg : 0;
      w.r[insn.reg] = value;
      w.r[SS_REG_SP] += insn.kind == SS_INSN_POP ? 8 : 0;
      break;
    }
    case SS_INSN_SET:
      w.known &= ~(1u << insn.reg);
      break;
    case SS_INSN_STORE:
      break;
    default: /* pushes, calls and branches: no epilogue */
      return false;
    }
  }
  return false;
}

/* The frame as the prologue builds it; offsets from the CFA. */
struct prologue {
  bool sp_known;
  int64_t sp_off; /* CFA = rsp + sp_off */
  int copy;       /* a register with a copy of rsp, -1 */
  int64_t copy_off;
  bool parked; /* the copy is in the slot rsp + parked_at, too */
  int64_t parked_at;
  bool bp_saved;
  int64_t bp_slot; /* at CFA + bp_slot */
};

static void follow_store(struct prologue *p, const struct ss_insn *insn)
{
  if (insn->base != SS_REG_SP)
    return;
  if (!p->sp_known && insn->reg == p->copy) {
    p->parked = true;
    p->parked_at = insn->imm;
  } else if (insn->reg == SS_REG_BP && p->sp_known && !p->bp_saved) {
    p->bp_saved = true;
    p->bp_slot = insn->imm - p->sp_off;
  }
}

static void move_sp(struct prologue *p, int64_t by)
{
  p->sp_off -= by;
  p->parked_at -= by;
}

static void lose_sp(struct prologue *p)
{
  p->sp_known = p->parked = false;
}

/* One instruction of it; false: the prologue ends before. */
static bool follow(struct prologue *p, const struct ss_insn *insn)
{
  switch (insn->kind) {
  case SS_INSN_PUSH:
    move_sp(p, -8);
    if (insn->reg == SS_REG_BP && p->sp_known && !p->bp_saved) {
      p->bp_saved = true;
      p->bp_slot = -p->sp_off;
    }
    return true;
  case SS_INSN_ADD_SP:
    move_sp(p, insn->imm);
    return true;
  case SS_INSN_LOWER_SP:
    lose_sp(p);
    return true;
  case SS_INSN_COPY_SP:
    if (p->sp_known && p->copy < 0) {
      p->copy = insn->reg;
      p->copy_off = p->sp_off - insn->imm;
    }
    return true;
  case SS_INSN_SET_SP:
    lose_sp(p);
    p->sp_known = insn->base == p->copy && p->copy >= 0;
    p->sp_off = p->copy_off - insn->imm;
    return true;
  case SS_INSN_STORE:
    follow_store(p, insn);
    return true;
  case SS_INSN_SET:
  case SS_INSN_LOAD:
    if (insn->reg == SS_REG_SP)
      lose_sp(p);
    if (insn->reg == p->copy)
      p->copy = -1;
    return true;
  case SS_INSN_OTHER:
    return true;
  default:
    return false;
  }
}

/* The state after the prologue, or at the frame's address inside it. With `branches`
 * it goes on behind those that skip a part of it, which takes all parts for executed:
 * what comes of it must be checked. */
static struct prologue read_prologue(const struct code *code, uint64_t start, uint64_t ip,
                                     bool branches)
{
  struct prologue p = {.sp_known = true, .sp_off = 8, .copy = -1};
  size_t at = 0;
  for (int n = 0; n < PROLOGUE_INSNS && start + at < ip; n++) {
    struct ss_insn insn = ss_arch_decode(code->bytes + at, code->len - at);
    bool skips =
        (insn.kind == SS_INSN_BRANCH || insn.kind == SS_INSN_JUMP) && insn.imm > 0;
    if (!(branches && skips) && !follow(&p, &insn))
      break;
    at += insn.len;
  }
  return p;
}

/* rsp when the prologue copied it, or as it is now. */
static bool own_sp(const struct ss_unwinder *u, const struct ss_walk *w,
                   const struct prologue *p, uint64_t *sp, int64_t *off)
{
  *off = p->sp_known ? p->sp_off : p->copy_off;
  *sp = w->r[SS_REG_SP];
  if (p->sp_known)
    return true;
  if (p->parked)
    return ss_stack_u64(u, *sp + (uint64_t)p->parked_at, sp);
  *sp = ss_knows(w, p->copy) ? w->r[p->copy] : 0;
  return ss_knows(w, p->copy);
}

static bool by_prologue(const struct ss_unwinder *u, const struct ss_walk *w,
                        const struct prologue *p, struct ss_caller *out)
{
  int64_t off;
  *out = (struct ss_caller){.bp = w->r[SS_REG_BP], .bp_known = ss_knows(w, SS_REG_BP)};
  if (!own_sp(u, w, p, &out->own_sp, &off))
    return false;
  out->cfa = out->own_sp + (uint64_t)off;
  if (p->bp_saved)
    out->bp_known = ss_stack_u64(u, out->cfa + (uint64_t)p->bp_slot, &out->bp);
  return true;
}

bool ss_goes_on(struct ss_unwinder *u, const struct ss_walk *w)
{
  struct ss_walk saved = u->walk;
  struct ss_frame unused;
  bool good = true;
  u->walk = *w;
  for (int n = 0; n < STEPS_AHEAD && good; n++) {
    enum ss_end end = ss_step_by_tables(u, &unused);
    if (end == SS_END_COMPLETE)
      break;
    good = end == SS_END_NONE;
  }
  u->walk = saved;
  return good;
}

/* Is the caller's frame on another stack than sp, namely that of `own_sp`? A stack may
 * lie right below other memory, in one mapping with it. */
static bool sp_is_elsewhere(const struct ss_unwinder *u, const struct ss_walk *w,
                            const struct ss_caller *c)
{
  struct ss_maps *maps = u->space->maps;
  const struct ss_map *stack = c->own_sp == 0 ? NULL : ss_maps_find(maps, c->own_sp);
  return stack != NULL &&
         (c->own_sp < w->r[SS_REG_SP] || stack != ss_maps_find(maps, w->r[SS_REG_SP]));
}

enum ss_end ss_accept_caller(struct ss_unwinder *u, struct ss_walk *w,
                             const struct ss_caller *c)
{
  const bool elsewhere = sp_is_elsewhere(u, w, c);
  uint64_t ra, sp = elsewhere ? c->own_sp : w->r[SS_REG_SP];
  if (c->cfa <= sp || c->cfa % 8 != 0 || c->cfa - sp > SS_FRAME_SIZE_MAX)
    return SS_END_NO_CFI;
  if (!ss_stack_u64(u, c->cfa - 8, &ra))
    return ss_read_failed(u);
  if (!is_return_address(u, ra))
    return SS_END_NO_CFI;
  const struct ss_hit frame = *w->hit;
  if (elsewhere && !ss_may_have_called(u, &frame, ra))
    return SS_END_NO_CFI; /* of that stack there is no copy: this is what it has now */
  struct ss_walk to = {.exact = false, .own_sp = elsewhere ? sp : 0};
  to.r[SS_REG_IP] = ra;
  to.r[SS_REG_SP] = c->cfa;
  to.r[SS_REG_BP] = c->bp;
  to.known = 1u << SS_REG_IP | 1u << SS_REG_SP | (c->bp_known ? 1u << SS_REG_BP : 0);
  if (elsewhere && !ss_goes_on(u, &to))
    return SS_END_NO_CFI;
  *w = to;
  return SS_END_NONE;
}

enum ss_end ss_step_by_code(struct ss_unwinder *u, struct ss_walk *w,
                            const struct ss_hit *hit, uint64_t start)
{
  struct code code;
  struct ss_caller caller;
  enum ss_end end = SS_END_NO_CFI;
  uint64_t ip = w->r[SS_REG_IP];
  code.len = ss_code_read(u, hit, ip, code.bytes, sizeof code.bytes);
  if (run_to_return(u, w, &code, &caller))
    end = ss_accept_caller(u, w, &caller);
  if (end != SS_END_NO_CFI || start == 0)
    return end;
  code.len = ss_code_read(u, hit, start, code.bytes, sizeof code.bytes);
  for (int branches = 0; branches < 2 && end == SS_END_NO_CFI; branches++) {
    struct prologue p = read_prologue(&code, start, ip, branches != 0);
    if (by_prologue(u, w, &p, &caller))
      end = ss_accept_caller(u, w, &caller);
  }
  return end;
}

bool ss_needs_register(const struct ss_walk *w, const struct ss_rule *rule)
{
  return rule->cfa_kind == SS_RULE_REG && !ss_knows(w, rule->cfa_reg);
}

enum ss_end ss_step_to_cfa(struct ss_unwinder *u, const struct ss_rule *rule,
                           uint64_t cfa)
{
  struct ss_walk *w = &u->walk;
  struct ss_frame unused;
  uint64_t ra;
  if (!ss_stack_u64(u, cfa - 8, &ra))
    return ss_read_failed(u);
  if (!is_return_address(u, ra))
    return SS_END_NO_CFI;
  w->r[rule->cfa_reg] = cfa - (uint64_t)(int64_t)rule->cfa_off;
  w->known |= 1u << rule->cfa_reg;
  return ss_step_by_tables(u, &unused);
}

static enum ss_end by_rule_and_prologue(struct ss_unwinder *u, const struct ss_hit *hit)
{
  const struct ss_rule *rule = &hit->rule;
  struct code code;
  if (!ss_needs_register(&u->walk, rule))
    return SS_END_NO_CFI;
  const uint64_t start = hit->addr - hit->into;
  code.len = ss_code_read(u, hit, start, code.bytes, sizeof code.bytes);
  const struct prologue p = read_prologue(&code, start, hit->addr, false);
  /* It was followed past the copy that the rule is about. */
  if (!p.sp_known || p.copy != rule->cfa_reg || p.copy_off != rule->cfa_off)
    return SS_END_NO_CFI;
  return ss_step_to_cfa(u, rule, u->walk.r[SS_REG_SP] + (uint64_t)p.sp_off);
}

/* Does the frame return to the first byte of a function that begins by dropping the
 * stack pointer for what rbx has? No call does: makecontext has put it there
 * (__start_context of glibc's sysdeps/x86_64), and the stack begins here. */
static bool is_made_context(struct ss_unwinder *u, const struct ss_walk *w)
{
  uint64_t ip = w->r[SS_REG_IP];
  struct ss_hit hit = *ss_hit_of(u, ip);
  struct code code;
  size_t at = 0;
  if (w->exact || hit.into != 0)
    return false;
  code.len = ss_code_read(u, &hit, ip, code.bytes, sizeof code.bytes);
  for (int n = 0; n < PROLOGUE_INSNS; n++) {
    struct ss_insn insn = ss_arch_decode(code.bytes + at, code.len - at);
    if (insn.kind == SS_INSN_SET_SP)
      return insn.base == SS_REG_BX && insn.imm == 0;
    if (insn.kind != SS_INSN_OTHER && insn.kind != SS_INSN_SET &&
        insn.kind != SS_INSN_BRANCH)
      return false;
    at += insn.len;
  }
  return false;
}

static enum ss_end prologue_step(struct ss_unwinder *u, struct ss_walk *w)
{
  struct ss_hit hit = *w->hit;
  struct ss_symbol sym;
  if (hit.into != UINT32_MAX)
    return by_rule_and_prologue(u, &hit);
  if (hit.rule.cfa_kind != SS_RULE_NOCFI || hit.module == NULL)
    return SS_END_NO_CFI;
  if (is_made_context(u, w))
    return SS_END_COMPLETE;
  bool named = ss_module_symbol(hit.module, hit.addr - hit.bias, &sym);
  return ss_step_by_code(u, w, &hit, named ? sym.start + hit.bias : 0);
}

const struct ss_unwind_method ss_method_prologue = {SS_METHOD_PROLOGUE, prologue_step};
