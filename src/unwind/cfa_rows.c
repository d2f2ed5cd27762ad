/*
 * Call frame instructions (DWARF 5 section 6.4.2) -> rows: from which address
 * on the CFA, the return address and the preserved registers are found how. The
 * program of an FDE is linear, so its time is bounded by its bytes; an
 * instruction that is unknown, cut off, or restores what was never remembered
 * ends it with false, and the caller drops the FDE's rows.
 */
#include "stacksample/cursor.h"
#include "unwind_priv.h"

enum { REMEMBER_MAX = 16 }; /* compilers nest one or two deep */

struct program {
  const struct ss_cfi_section *section;
  const struct ss_fde *fde;
  struct ss_cursor c;
  uint64_t loc;
  struct ss_cfa_state state;
  const struct ss_cfa_state *initial; /* NULL while the CIE's program runs */
  struct ss_cfa_state remembered[REMEMBER_MAX];
  unsigned depth;
  ss_row_fn *emit;
  void *arg;
};

static void fail(struct program *p)
{
  p->c.failed = true;
}

/* A block of DWARF expression: its place in the section. */
static struct ss_cfa_value read_block(struct program *p, enum ss_cfa_kind kind)
{
  uint64_t len = ss_read_uleb(&p->c);
  size_t at = ss_cursor_offset(&p->c);
  if (len > UINT16_MAX)
    fail(p);
  else
    ss_skip(&p->c, (size_t)len);
  return (struct ss_cfa_value){.kind = (uint8_t)kind,
                               .expr = (uint32_t)at,
                               .expr_len = (uint16_t)(p->c.failed ? 0 : len)};
}

int ss_saved_index(int reg)
{
  for (int i = 0; i < SS_SAVED_COUNT; i++)
    if (ss_saved_reg[i] == reg)
      return i;
  return -1;
}

/* The rule of a DWARF register; NULL: not followed. */
static struct ss_cfa_value *rule_of(struct program *p, struct ss_cfa_state *state,
                                    uint64_t reg)
{
  if (reg == p->fde->cie.ra_reg)
    return &state->ra;
  int i = reg > 16 ? -1 : ss_saved_index(ss_arch_from_dwarf((unsigned)reg));
  return i < 0 ? NULL : &state->saved[i];
}

static void set_rule(struct program *p, uint64_t reg, struct ss_cfa_value value)
{
  struct ss_cfa_value *rule = rule_of(p, &p->state, reg);
  if (rule != NULL)
    *rule = value;
}

static void restore_rule(struct program *p, uint64_t reg)
{
  struct ss_cfa_state initial;
  if (p->initial == NULL) {
    fail(p);
    return;
  }
  initial = *p->initial;
  struct ss_cfa_value *rule = rule_of(p, &initial, reg);
  if (rule != NULL)
    set_rule(p, reg, *rule);
}

/* Signed factored offsets may overflow only in nonsense. */
static int64_t factored(struct program *p, int64_t n)
{
  int64_t out = 0;
  if (__builtin_mul_overflow(n, p->fde->cie.data_align, &out))
    fail(p);
  return out;
}

static struct ss_cfa_value at_offset(struct program *p, int64_t n)
{
  return (struct ss_cfa_value){.kind = SS_CFA_OFFSET, .off = factored(p, n)};
}

static void advance(struct program *p, uint64_t delta)
{
  uint64_t step = 0, to = 0;
  if (__builtin_mul_overflow(delta, p->fde->cie.code_align, &step) ||
      __builtin_add_overflow(p->loc, step, &to)) {
    fail(p);
    return;
  }
  if (to > p->loc && p->loc < p->fde->end && p->emit != NULL)
    p->emit(p->arg, p->loc, &p->state);
  p->loc = to;
}

static void set_cfa_reg(struct program *p, uint64_t reg)
{
  int r = reg < UINT32_MAX ? ss_arch_from_dwarf((unsigned)reg) : -1;
  if (r < 0)
    fail(p);
  p->state.cfa.kind = SS_CFA_REG;
  p->state.cfa.reg = (int8_t)r;
}

/* DW_CFA_def_cfa*: the CFA itself. false: another family. */
static bool run_cfa(struct program *p, unsigned op)
{
  switch (op) {
  case 0x0c: /* def_cfa */
  case 0x12: /* def_cfa_sf */
    set_cfa_reg(p, ss_read_uleb(&p->c));
    p->state.cfa.off =
        op == 0x0c ? (int64_t)ss_read_uleb(&p->c) : factored(p, ss_read_sleb(&p->c));
    return true;
  case 0x0d: /* def_cfa_register */
    set_cfa_reg(p, ss_read_uleb(&p->c));
    return true;
  case 0x0e: /* def_cfa_offset */
    p->state.cfa.off = (int64_t)ss_read_uleb(&p->c);
    return true;
  case 0x13: /* def_cfa_offset_sf */
    p->state.cfa.off = factored(p, ss_read_sleb(&p->c));
    return true;
  case 0x0f: /* def_cfa_expression */
    p->state.cfa = read_block(p, SS_CFA_EXPR);
    return true;
  default:
    return false;
  }
}

/* Rules of one register. */
static bool run_register(struct program *p, unsigned op)
{
  uint64_t reg;
  if (op < 0x05 || (op > 0x09 && op < 0x10) || op == 0x12 || op == 0x13 ||
      (op > 0x16 && op != 0x2f))
    return false;
  reg = ss_read_uleb(&p->c);
  switch (op) {
  case 0x05: /* offset_extended */
    set_rule(p, reg, at_offset(p, (int64_t)ss_read_uleb(&p->c)));
    break;
  case 0x11: /* offset_extended_sf */
    set_rule(p, reg, at_offset(p, ss_read_sleb(&p->c)));
    break;
  case 0x2f: /* GNU_negative_offset_extended */
    set_rule(p, reg, at_offset(p, -(int64_t)ss_read_uleb(&p->c)));
    break;
  case 0x06: /* restore_extended */
    restore_rule(p, reg);
    break;
  case 0x07: /* undefined */
    set_rule(p, reg, (struct ss_cfa_value){.kind = SS_CFA_UNDEFINED});
    break;
  case 0x08: /* same_value */
    set_rule(p, reg, (struct ss_cfa_value){.kind = SS_CFA_SAME});
    break;
  case 0x10: /* expression: the address of the slot */
    set_rule(p, reg, read_block(p, SS_CFA_EXPR));
    break;
  case 0x16: /* val_expression */
    set_rule(p, reg, read_block(p, SS_CFA_OTHER));
    break;
  default: /* register, val_offset, val_offset_sf: one operand */
    ss_read_uleb(&p->c);
    set_rule(p, reg, (struct ss_cfa_value){.kind = SS_CFA_OTHER});
    break;
  }
  return true;
}

static bool run_state(struct program *p, unsigned op)
{
  switch (op) {
  case 0x00: /* nop */
    return true;
  case 0x0a: /* remember_state */
    if (p->depth == REMEMBER_MAX)
      fail(p);
    else
      p->remembered[p->depth++] = p->state;
    return true;
  case 0x0b: /* restore_state */
    if (p->depth == 0)
      fail(p);
    else
      p->state = p->remembered[--p->depth];
    return true;
  case 0x2e: /* GNU_args_size: irrelevant here */
    ss_read_uleb(&p->c);
    return true;
  default:
    return false;
  }
}

static bool run_location(struct program *p, unsigned op)
{
  switch (op) {
  case 0x01: { /* set_loc */
    uint64_t to = ss_cfi_read_address(p->section, &p->c, p->fde->cie.fde_encoding);
    if (to < p->loc || p->fde->cie.code_align != 1)
      fail(p);
    else
      advance(p, to - p->loc);
    return true;
  }
  case 0x02:
    advance(p, ss_read_u8(&p->c));
    return true;
  case 0x03:
    advance(p, ss_read_u16(&p->c));
    return true;
  case 0x04:
    advance(p, ss_read_u32(&p->c));
    return true;
  default:
    return false;
  }
}

static void run_one(struct program *p)
{
  unsigned op = ss_read_u8(&p->c);
  unsigned low = op & 0x3f;
  switch (op & 0xc0) {
  case 0x40:
    advance(p, low);
    return;
  case 0x80:
    set_rule(p, low, at_offset(p, (int64_t)ss_read_uleb(&p->c)));
    return;
  case 0xc0:
    restore_rule(p, low);
    return;
  default:
    if (!run_state(p, op) && !run_location(p, op) && !run_cfa(p, op) &&
        !run_register(p, op))
      fail(p);
  }
}

static bool run(struct program *p, size_t at, size_t len)
{
  p->c = ss_cursor_init(p->section->bytes, at + len);
  ss_skip(&p->c, at);
  while (p->c.left > 0 && !p->c.failed)
    run_one(p);
  return !p->c.failed;
}

bool ss_cfa_initial(const struct ss_cfi_section *section, const struct ss_fde *fde,
                    struct ss_cfa_state *initial)
{
  struct program p = {.section = section, .fde = fde};
  if (!run(&p, fde->cie.insns, fde->cie.insns_len) || p.loc != 0)
    return false;
  *initial = p.state;
  return true;
}

bool ss_cfa_rows(const struct ss_cfi_section *section, const struct ss_fde *fde,
                 const struct ss_cfa_state *initial, ss_row_fn *emit, void *arg)
{
  struct program p = {.section = section,
                      .fde = fde,
                      .loc = fde->start,
                      .state = *initial,
                      .initial = initial,
                      .emit = emit,
                      .arg = arg};
  if (!run(&p, fde->insns, fde->insns_len))
    return false;
  if (p.loc < fde->end)
    emit(arg, p.loc, &p.state);
  return true;
}
