/*
 * Callers of code without unwind information. Four rules in order, each of them
 * labelled in the frame:
 *
 * 1. code: what the instructions say. Forward from the frame's address to a
 *    `ret`, where that is a straight line (an epilogue, or a leaf function
 *    without a frame); else forward from the function's start, which is the
 *    prologue. The start is a symbol's, or in memory without a file the nearest
 *    sequence of pushes that JIT compilers write. Hand-written assembler copies
 *    rsp to another register before it aligns it, or points it to memory that is no
 *    stack; that register is followed, into its slot if it is stored.
 * 2. JIT code: what the JIT registered, else the same as 1.
 *    Where unwind information counts the CFA from a register that is not known (of
 *    a thread that waits, only rsp and rip are), the prologue says how far the frame
 *    reaches, and so what the register holds.
 * 3. scan: the first word on the stack that looks like a return address of a call that
 *    may have come here, and from which two more steps succeed.
 * 4. frame pointer: where rbp points into the stack and has a return address.
 *
 * Whatever a rule finds is believed only if it is the address behind a call
 * instruction in executable code of a file or a JIT.
 */
#include "stacksample/limits.h"
#include "unwind_priv.h"

#define CODE_BYTES 512    /* of a prologue or an epilogue */
#define PROLOGUE_INSNS 64 /* OpenBLAS's have 20 */
#define EPILOGUE_INSNS 24
#define JIT_SEARCH (256u << 10) /* back to a function's start; oneDNN has one of 105 KB  \
                                 */
#define SCAN_WORDS 256
#define SCAN_STEPS 2
#define JUMP_BYTES 4096 /* of a function that is looked through for a jump out of it */
#define FRAME_POINTER_MAX (256u << 10)

struct code {
  unsigned char bytes[CODE_BYTES];
  size_t len;
};

/* Code bytes from `addr` (run-time) on: of the file, or of the live process. */
static size_t read_code(const struct ss_unwinder *u, const struct ss_hit *hit,
                        uint64_t addr, void *buf, size_t len)
{
  if (hit->module != NULL && hit->module->image != NULL)
    return ss_image_read(hit->module->image, addr - hit->bias, buf, len);
  return u->space->live == NULL ? 0 : ss_mem_read(u->space->live, addr, buf, len);
}

/* Is it the address behind a call, in code? *target: where that goes, if it says so;
 * else 0. */
static bool is_behind_call(struct ss_unwinder *u, uint64_t ra, uint64_t *target)
{
  unsigned char before[8];
  int64_t distance;
  *target = 0;
  if (ra < 4096)
    return false;
  struct ss_hit hit = *ss_hit_of(u, ra - 1);
  if ((hit.rule.flags & SS_HIT_CODE) == 0)
    return false;
  size_t got = read_code(u, &hit, ra - sizeof before, before, sizeof before);
  if (got != sizeof before ||
      !ss_arch_is_call_before(before + sizeof before, sizeof before, &distance))
    return false;
  *target = distance == 0 ? 0 : ra + (uint64_t)distance;
  return true;
}

static bool is_return_address(struct ss_unwinder *u, uint64_t ra)
{
  uint64_t target;
  return is_behind_call(u, ra, &target);
}

/* ---- what the code says ---------------------------------------------------- */

struct caller {
  uint64_t cfa, bp;
  bool bp_known;
  uint64_t own_sp; /* 0, or as in struct ss_walk, if it is elsewhere */
};

static bool known(const struct ss_walk *w, int reg)
{
  return reg >= 0 && (w->known >> reg & 1u) != 0;
}

/* Runs the instructions from the frame's address on, with the real register
 * values, if they lead straight to a `ret`. */
static bool run_to_return(const struct ss_unwinder *u, const struct ss_walk *from,
                          const struct code *code, struct caller *out)
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
      *out = (struct caller){.cfa = w.r[SS_REG_SP] + 8,
                             .own_sp = w.r[SS_REG_SP],
                             .bp = w.r[SS_REG_BP],
                             .bp_known = known(&w, SS_REG_BP)};
      return true;
    case SS_INSN_ADD_SP:
      if (insn.imm < 0)
        return false;
      w.r[SS_REG_SP] += (uint64_t)insn.imm;
      break;
    case SS_INSN_SET_SP:
      if (!known(&w, insn.base))
        return false;
      w.r[SS_REG_SP] = w.r[insn.base] + (uint64_t)insn.imm;
      break;
    case SS_INSN_POP:
    case SS_INSN_LOAD: {
      int base = insn.kind == SS_INSN_POP ? SS_REG_SP : insn.base;
      bool ok =
          known(&w, base) && ss_stack_u64(u, w.r[base] + (uint64_t)insn.imm, &value);
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
    p->sp_known = insn->base == p->copy && p->copy >= 0;
    p->sp_off = p->copy_off - insn->imm;
    return p->sp_known;
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
  *sp = known(w, p->copy) ? w->r[p->copy] : 0;
  return known(w, p->copy);
}

static bool by_prologue(const struct ss_unwinder *u, const struct ss_walk *w,
                        const struct prologue *p, struct caller *out)
{
  int64_t off;
  *out = (struct caller){.bp = w->r[SS_REG_BP], .bp_known = known(w, SS_REG_BP)};
  if (!own_sp(u, w, p, &out->own_sp, &off))
    return false;
  out->cfa = out->own_sp + (uint64_t)off;
  if (p->bp_saved)
    out->bp_known = ss_stack_u64(u, out->cfa + (uint64_t)p->bp_slot, &out->bp);
  return true;
}

/* Do the next steps from `w` work by unwind tables alone? */
static bool goes_on(struct ss_unwinder *u, const struct ss_walk *w)
{
  struct ss_walk saved = u->walk;
  bool good = true;
  u->walk = *w;
  for (int n = 0; n < SCAN_STEPS && good; n++) {
    enum ss_end end = ss_step_by_tables(u, NULL);
    if (end == SS_END_COMPLETE)
      break;
    good = end == SS_END_NONE;
  }
  u->walk = saved;
  return good;
}

/* Is the caller's frame on another stack than sp, namely that of `own_sp`? */
static bool sp_is_elsewhere(const struct ss_unwinder *u, const struct ss_walk *w,
                            const struct caller *c)
{
  struct ss_maps *maps = u->space->maps;
  const struct ss_map *stack = c->own_sp == 0 ? NULL : ss_maps_find(maps, c->own_sp);
  return stack != NULL && stack != ss_maps_find(maps, w->r[SS_REG_SP]);
}

/* Moves to a caller that a rule proposes, if it can be one. */
static enum ss_end accept(struct ss_unwinder *u, struct ss_walk *w,
                          const struct caller *c)
{
  const bool elsewhere = sp_is_elsewhere(u, w, c);
  uint64_t ra, sp = elsewhere ? c->own_sp : w->r[SS_REG_SP];
  if (c->cfa <= sp || c->cfa % 8 != 0 || c->cfa - sp > SS_FRAME_SIZE_MAX)
    return SS_END_NO_CFI;
  if (!ss_stack_u64(u, c->cfa - 8, &ra))
    return ss_read_failed(u);
  if (!is_return_address(u, ra))
    return SS_END_NO_CFI;
  struct ss_walk to = {.exact = false, .own_sp = elsewhere ? sp : 0};
  to.r[SS_REG_IP] = ra;
  to.r[SS_REG_SP] = c->cfa;
  to.r[SS_REG_BP] = c->bp;
  to.known = 1u << SS_REG_IP | 1u << SS_REG_SP | (c->bp_known ? 1u << SS_REG_BP : 0);
  if (elsewhere && !goes_on(u, &to))
    return SS_END_NO_CFI;
  *w = to;
  return SS_END_NONE;
}

/* Rules 1 and 2 with a known start (0: none). */
static enum ss_end step_by_code(struct ss_unwinder *u, struct ss_walk *w,
                                const struct ss_hit *hit, uint64_t start)
{
  struct code code;
  struct caller caller;
  enum ss_end end = SS_END_NO_CFI;
  uint64_t ip = w->r[SS_REG_IP];
  code.len = read_code(u, hit, ip, code.bytes, sizeof code.bytes);
  if (run_to_return(u, w, &code, &caller))
    end = accept(u, w, &caller);
  if (end != SS_END_NO_CFI || start == 0)
    return end;
  code.len = read_code(u, hit, start, code.bytes, sizeof code.bytes);
  for (int branches = 0; branches < 2 && end == SS_END_NO_CFI; branches++) {
    struct prologue p = read_prologue(&code, start, ip, branches != 0);
    if (by_prologue(u, w, &p, &caller))
      end = accept(u, w, &caller);
  }
  return end;
}

/* Is the CFA counted from a register that is not known? */
static bool needs_register(const struct ss_walk *w, const struct ss_rule *rule)
{
  return rule->cfa_kind == SS_RULE_REG && !known(w, rule->cfa_reg);
}

/* Such a frame's caller, given its CFA: by the rule, whose register holds then what
 * makes it so. */
static enum ss_end step_to_cfa(struct ss_unwinder *u, const struct ss_rule *rule,
                               uint64_t cfa)
{
  struct ss_walk *w = &u->walk;
  uint64_t ra;
  if (!ss_stack_u64(u, cfa - 8, &ra))
    return ss_read_failed(u);
  if (!is_return_address(u, ra))
    return SS_END_NO_CFI;
  w->r[rule->cfa_reg] = cfa - (uint64_t)(int64_t)rule->cfa_off;
  w->known |= 1u << rule->cfa_reg;
  return ss_step_by_tables(u, NULL);
}

static enum ss_end by_rule_and_prologue(struct ss_unwinder *u, const struct ss_hit *hit)
{
  const struct ss_rule *rule = &hit->rule;
  struct code code;
  if (!needs_register(&u->walk, rule))
    return SS_END_NO_CFI;
  const uint64_t start = hit->addr - hit->into;
  code.len = read_code(u, hit, start, code.bytes, sizeof code.bytes);
  const struct prologue p = read_prologue(&code, start, hit->addr, false);
  /* It was followed past the copy that the rule is about. */
  if (!p.sp_known || p.copy != rule->cfa_reg || p.copy_off != rule->cfa_off)
    return SS_END_NO_CFI;
  return step_to_cfa(u, rule, u->walk.r[SS_REG_SP] + (uint64_t)p.sp_off);
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
  code.len = read_code(u, &hit, ip, code.bytes, sizeof code.bytes);
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
  return step_by_code(u, w, &hit, named ? sym.start + hit.bias : 0);
}

const struct ss_unwind_method ss_method_prologue = {SS_METHOD_PROLOGUE, prologue_step};

/* ---- JIT ------------------------------------------------------------------- */

/* At least four pushes of callee-saved registers in a row, perhaps with a copy
 * of rsp to rbp behind the first: what xbyak-based compilers begin with. */
static bool is_preamble(const unsigned char *code, size_t len)
{
  size_t at = 0;
  int pushes = 0;
  for (int n = 0; n < 10; n++) {
    struct ss_insn insn = ss_arch_decode(code + at, len - at);
    if (insn.kind == SS_INSN_PUSH && (ss_arch_callee_saved() >> insn.reg & 1u) != 0)
      pushes++;
    else if (insn.kind != SS_INSN_COPY_SP || insn.reg != SS_REG_BP || pushes != 1)
      break;
    at += insn.len;
  }
  return pushes >= 4;
}

/* Where the preamble begins that is found at `at`: a push of rbp and the copy may come
 * before it. */
static size_t preamble_from(const unsigned char *code, size_t len, size_t at)
{
  bool more = at >= 4 && code[at - 4] == 0x55 && code[at - 1] != 0x55 &&
              is_preamble(code + at - 4, len - at + 4);
  return more ? at - 4 : at;
}

/* Run-time address of the nearest preamble at or before the frame; 0. */
static uint64_t find_preamble(const struct ss_unwinder *u, uint64_t ip)
{
  const struct ss_map *map = ss_maps_find(u->space->maps, ip);
  if (map == NULL || u->space->live == NULL)
    return 0;
  uint64_t from = ip - map->start > JIT_SEARCH ? ip - JIT_SEARCH : map->start;
  size_t want = (size_t)(ip - from) + 32;
  unsigned char *code = malloc(want);
  size_t len = code == NULL ? 0 : ss_mem_read(u->space->live, from, code, want);
  uint64_t found = 0;
  for (size_t at = (size_t)(ip - from) + 1; at-- > 0 && found == 0;) {
    /* push rbx or push rbp comes first; another push just before is no start */
    if (at < len && (code[at] == 0x53 || code[at] == 0x55) &&
        is_preamble(code + at, len - at) &&
        (at == 0 || (code[at - 1] != 0x53 && code[at - 1] != 0x55)))
      found = from + preamble_from(code, len, at);
  }
  free(code);
  return found;
}

/* The same, remembered: the search takes longer than all other steps. */
static uint64_t preamble_of(struct ss_unwinder *u, uint64_t ip)
{
  struct ss_jit_start *known = &u->jit_starts[ip % SS_JIT_STARTS];
  const struct ss_unwind_space *space = u->space;
  if (known->ip != ip || known->pid != space->pid ||
      known->generation != space->maps->generation)
    *known = (struct ss_jit_start){.ip = ip,
                                   .start = find_preamble(u, ip),
                                   .generation = space->maps->generation,
                                   .pid = space->pid};
  return known->start;
}

struct at_row {
  uint64_t vaddr;
  struct ss_cfa_state state;
  bool found;
};

static void keep_row(void *arg, uint64_t pc, const struct ss_cfa_state *state)
{
  struct at_row *row = arg;
  if (pc <= row->vaddr) {
    row->state = *state;
    row->found = true;
  }
}

/* The row of an address in what a JIT registered. Wherever the section is meant to
 * lie, its first entry is that of the code's start. */
static bool registered_row(const struct ss_jit_unwind *info, uint64_t addr,
                           struct at_row *row)
{
  struct ss_cfi_section section = {.bytes = info->eh_frame, .len = info->len};
  struct ss_cie cie = {0};
  struct ss_fde fde;
  struct ss_cfa_state initial;
  enum ss_entry kind;
  size_t offset = 0;
  uint64_t first = 0;
  bool any = false;
  while ((kind = ss_cfi_next(&section, &offset, &cie, &fde)) != SS_ENTRY_END) {
    if (kind != SS_ENTRY_FDE)
      continue;
    first = any ? first : fde.start;
    any = true;
    *row = (struct at_row){.vaddr = addr - info->start + first};
    if (row->vaddr - fde.start < fde.end - fde.start)
      return ss_cfa_initial(&section, &fde, &initial) &&
             ss_cfa_rows(&section, &fde, &initial, keep_row, row) && row->found;
  }
  return false;
}

/* By unwind information that the JIT registered, at `addr`. */
static bool by_registered(const struct ss_unwinder *u, const struct ss_walk *w,
                          uint64_t addr, struct caller *out)
{
  struct ss_jit_unwind info;
  struct at_row row;
  if (u->space->jit == NULL || !ss_perf_map_unwind(u->space->jit, addr, &info) ||
      !registered_row(&info, addr, &row))
    return false;
  const struct ss_cfa_value *bp = &row.state.saved[SS_SAVED_BP];
  if (row.state.cfa.kind != SS_CFA_REG || !known(w, row.state.cfa.reg) ||
      row.state.ra.kind != SS_CFA_OFFSET || row.state.ra.off != -8)
    return false;
  *out = (struct caller){.cfa = w->r[row.state.cfa.reg] + (uint64_t)row.state.cfa.off,
                         .bp = w->r[SS_REG_BP],
                         .bp_known = known(w, SS_REG_BP) && (bp->kind == SS_CFA_SAME ||
                                                             bp->kind == SS_CFA_OFFSET)};
  uint64_t slot = out->cfa + (uint64_t)bp->off;
  if (bp->kind == SS_CFA_OFFSET && slot >= w->r[SS_REG_SP]) /* else popped already */
    out->bp_known = ss_stack_u64(u, slot, &out->bp);
  return true;
}

/* Where the code's function starts: as the JIT says, or as it looks; 0: unknown. */
static uint64_t jit_start(struct ss_unwinder *u, uint64_t addr, uint64_t ip)
{
  struct ss_symbol sym;
  if (u->space->jit != NULL && ss_perf_map_find(u->space->jit, addr, &sym))
    return sym.start;
  return preamble_of(u, ip);
}

static enum ss_end jit_step(struct ss_unwinder *u, struct ss_walk *w)
{
  struct ss_hit hit = *w->hit;
  struct caller caller;
  enum ss_end end = SS_END_NO_CFI;
  if (hit.module != NULL || (hit.rule.flags & SS_HIT_CODE) == 0)
    return SS_END_NO_CFI;
  if (by_registered(u, w, hit.addr, &caller))
    end = accept(u, w, &caller);
  if (end != SS_END_NO_CFI)
    return end;
  return step_by_code(u, w, &hit, jit_start(u, hit.addr, w->r[SS_REG_IP]));
}

const struct ss_unwind_method ss_method_jit = {SS_METHOD_JIT, jit_step};

/* ---- scan and frame pointer -------------------------------------------------- */

static bool is_of_function(struct ss_unwinder *u, uint64_t addr, uint64_t start)
{
  const struct ss_hit *hit = ss_hit_of(u, addr);
  return hit->into != UINT32_MAX && addr - hit->into == start;
}

/* May the function at `start` leave by a jump, as stubs and wrappers do? */
static bool jumps_away(struct ss_unwinder *u, const struct ss_hit *hit, uint64_t start)
{
  unsigned char code[JUMP_BYTES];
  size_t len = read_code(u, hit, start, code, sizeof code), at = 0;
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

/* Can the call before `ra` have come to the frame? The stack is full of addresses that
 * earlier calls have left. */
static bool may_have_called(struct ss_unwinder *u, const struct ss_hit *frame,
                            uint64_t ra)
{
  uint64_t target;
  if (!is_behind_call(u, ra, &target))
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
  const bool by_rule = needs_register(w, &hit.rule);
  uint64_t sp = old.r[SS_REG_SP] & ~(uint64_t)7;
  for (int n = 0; n < SCAN_WORDS; n++) {
    uint64_t slot = sp + 8 * (uint64_t)n, word;
    if (!ss_stack_u64(u, slot, &word))
      return SS_END_NO_CFI;
    if (word < 4096 || word >> 47 != 0 || ss_hit_of(u, word - 1)->into == UINT32_MAX ||
        !may_have_called(u, &hit, word))
      continue;
    /* rbp is unknown now, unless it points further up and so may be a frame. */
    uint64_t bp = old.r[SS_REG_BP];
    struct caller c = {.cfa = slot + 8,
                       .bp = bp,
                       .bp_known = known(&old, SS_REG_BP) && bp > slot &&
                                   bp - slot < FRAME_POINTER_MAX};
    *w = old;
    const enum ss_end end = by_rule ? step_to_cfa(u, &hit.rule, c.cfa) : accept(u, w, &c);
    if (end == SS_END_NONE && goes_on(u, w))
      return SS_END_NONE;
  }
  *w = old;
  return SS_END_NO_CFI;
}

const struct ss_unwind_method ss_method_scan = {SS_METHOD_SCAN, scan_step};

static enum ss_end frame_pointer_step(struct ss_unwinder *u, struct ss_walk *w)
{
  uint64_t sp = w->r[SS_REG_SP], bp = w->r[SS_REG_BP];
  struct caller c = {.cfa = bp + 16};
  if (!known(w, SS_REG_BP) || bp < sp || bp - sp >= FRAME_POINTER_MAX)
    return SS_END_NO_CFI;
  c.bp_known = ss_stack_u64(u, bp, &c.bp);
  return accept(u, w, &c);
}

const struct ss_unwind_method ss_method_frame_pointer = {SS_METHOD_FRAME_POINTER,
                                                         frame_pointer_step};
