/*
 * Compact unwind tables: 4 bytes a row, one rule of 24 bytes for all rows that
 * are alike.
 *
 * A row holds to the next row's address. Code is cut into pages of 1 KB; the
 * page index gives the rows of a page, found by a binary search of their u16
 * addresses. Gaps between FDEs are rows of their own (no information), and so
 * is the end. A row's top bit says that an FDE starts there: the function.
 *
 * What the 24 bytes cannot say (other registers' expressions, signal frames) is
 * a SLOW rule, and libunwind's business.
 */
#include <elf.h>

#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "table.h"

#define PAGE_SHIFT 10
#define FDE_START 0x8000u
#define RULES_MAX 0x7fffu
#define RECENT 512
#define FIXED_RULES 2 /* index 0: no information; 1: slow */

struct builder {
  const struct ss_cfi_section *section;
  struct ss_table *t;
  struct ss_idmap rule_index; /* hash of the rule -> index + 1 */
  size_t row_cap, rule_cap;
  uint64_t row_page; /* page of the last row */
  uint64_t covered;  /* vaddr up to which there are rows */
  bool starts;       /* the next row is an FDE's first */
  bool signal;       /* of the FDE at work */
  bool failed;
  struct ss_rule last; /* rule of the last row, and its index */
  uint16_t last_index;
  bool any;
  struct { /* rules met lately, by a cheap hash: one in 20 rows is a new one */
    struct ss_rule rule;
    uint16_t index; /* 0: empty; the rule of index 0 is never looked up here */
  } recent[RECENT];
};

/* ---- rules ---------------------------------------------------------------- */

static bool fits(int64_t n)
{
  return n >= INT32_MIN / 2 && n <= INT32_MAX / 2;
}

static struct ss_cursor expression(const struct builder *b, const struct ss_cfa_value *v)
{
  struct ss_cursor all = ss_cursor_init(b->section->bytes, b->section->len);
  return ss_cursor_sub(&all, v->expr, v->expr_len);
}

/* DW_OP_breg0..31: register and offset. */
static bool read_breg(struct ss_cursor *c, int *reg, int64_t *off)
{
  unsigned op = ss_read_u8(c);
  *off = ss_read_sleb(c);
  *reg = op >= 0x70 && op < 0x90 ? ss_arch_from_dwarf(op - 0x70) : -1;
  return !c->failed && *reg >= 0 && fits(*off);
}

/* The linker's expression for .plt: the stub has pushed a word from byte 11, 10 or, with
 * endbr64, 9 on. sp+8 + (((pc & 15) >= aux) << 3). */
static bool is_plt(struct ss_cursor c, int32_t *aux)
{
  static const unsigned char head[] = {0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a};
  static const unsigned char tail[] = {0x2a, 0x33, 0x24, 0x22};
  if (c.left != sizeof head + 1 + sizeof tail || memcmp(c.cur, head, sizeof head) != 0)
    return false;
  unsigned lit = c.cur[sizeof head];
  *aux = (int32_t)lit - 0x30;
  return lit >= 0x30 && lit < 0x40 && memcmp(c.cur + sizeof head + 1, tail, 4) == 0;
}

static bool encode_cfa_expression(const struct builder *b, const struct ss_cfa_value *cfa,
                                  struct ss_rule *rule)
{
  struct ss_cursor c = expression(b, cfa);
  int reg;
  int64_t off;
  if (is_plt(c, &rule->aux)) {
    rule->cfa_kind = SS_RULE_PLT;
    return true;
  }
  if (!read_breg(&c, &reg, &off) || ss_read_u8(&c) != 0x06) /* DW_OP_deref */
    return false;
  if (c.left > 0) {
    uint64_t more =
        ss_read_u8(&c) == 0x23 ? ss_read_uleb(&c) : UINT64_MAX; /* plus_uconst */
    if (c.failed || c.left > 0 || more > INT32_MAX / 2)
      return false;
    rule->aux = (int32_t)more;
  }
  rule->cfa_kind = SS_RULE_DEREF;
  rule->cfa_reg = (uint8_t)reg;
  rule->cfa_off = (int32_t)off;
  return !c.failed;
}

static bool encode_cfa(const struct builder *b, const struct ss_cfa_value *cfa,
                       struct ss_rule *rule)
{
  if (cfa->kind == SS_CFA_EXPR)
    return encode_cfa_expression(b, cfa, rule);
  if (cfa->kind != SS_CFA_REG || !fits(cfa->off))
    return false;
  rule->cfa_kind = SS_RULE_REG;
  rule->cfa_reg = (uint8_t)cfa->reg;
  rule->cfa_off = (int32_t)cfa->off;
  return true;
}

/* In a slot that the 8 bits of `slots` can name? */
static bool in_slot(const struct ss_cfa_value *v)
{
  return v->kind == SS_CFA_OFFSET && v->off % 8 == 0 && v->off < 0 &&
         v->off / 8 >= INT8_MIN;
}

static bool encode_bp(const struct builder *b, const struct ss_cfa_value *bp,
                      struct ss_rule *rule)
{
  struct ss_cursor c;
  int reg;
  int64_t off;
  switch (bp->kind) {
  case SS_CFA_SAME:
    rule->bp_kind = SS_BP_SAME;
    return true;
  case SS_CFA_UNDEFINED:
    rule->bp_kind = SS_BP_LOST;
    return true;
  case SS_CFA_OFFSET:
    if (in_slot(bp))
      return true;
    rule->bp_kind = SS_BP_AT_CFA;
    rule->bp_off = (int32_t)bp->off;
    return fits(bp->off);
  case SS_CFA_EXPR:
    c = expression(b, bp);
    rule->bp_kind = SS_BP_AT_BP;
    if (!read_breg(&c, &reg, &off) || reg != SS_REG_BP || c.left > 0)
      return false;
    rule->bp_off = (int32_t)off;
    return true;
  default:
    return false;
  }
}

/* The preserved registers' slots. No stack depends on another than rbp: what
 * does not fit is lost, not slow. */
static void encode_slots(const struct ss_cfa_state *s, struct ss_rule *rule)
{
  for (int i = 0; i < SS_SAVED_COUNT; i++) {
    const struct ss_cfa_value *v = &s->saved[i];
    if (in_slot(v)) {
      rule->saves |= (uint8_t)(1u << i);
      rule->slots[i] = (int8_t)(v->off / 8);
    } else if (i != SS_SAVED_BP && v->kind != SS_CFA_SAME) {
      rule->loses |= (uint8_t)(1u << i);
    }
  }
}

static struct ss_rule encode(const struct builder *b, const struct ss_cfa_state *s)
{
  struct ss_rule rule = {0};
  struct ss_rule slow = {.cfa_kind = SS_RULE_SLOW,
                         .flags = b->signal ? SS_RULE_SIGNAL : 0};
  if (b->signal)
    return slow;
  if (s->ra.kind == SS_CFA_UNDEFINED)
    return (struct ss_rule){.cfa_kind = SS_RULE_END};
  if (s->ra.kind != SS_CFA_OFFSET || s->ra.off != -8 || !encode_cfa(b, &s->cfa, &rule) ||
      !encode_bp(b, &s->saved[SS_SAVED_BP], &rule))
    return slow;
  encode_slots(s, &rule);
  return rule;
}

static size_t cheap_hash(const struct ss_rule *rule)
{
  uint64_t words[3];
  memcpy(words, rule, sizeof words);
  uint64_t mix = words[0] * 0x9e3779b97f4a7c15u ^ words[1] * 0xc2b2ae3d27d4eb4fu ^
                 words[2] * 0x165667b19e3779f9u;
  return (size_t)(mix >> 32) % RECENT;
}

/* Index of an equal rule, added if new. */
static uint16_t intern(struct builder *b, const struct ss_rule *rule)
{
  struct ss_table *t = b->t;
  uint64_t key = ss_hash_bytes(rule, sizeof *rule);
  const uint64_t *known = ss_idmap_get(&b->rule_index, key);
  if (known != NULL && memcmp(&t->rules[*known], rule, sizeof *rule) == 0)
    return (uint16_t)*known;
  if (t->rule_count >= RULES_MAX)
    return 1;
  if (!ss_grow(&t->rules, &b->rule_cap, t->rule_count + 1, sizeof *t->rules) ||
      !ss_idmap_put(&b->rule_index, key, t->rule_count)) {
    b->failed = true;
    return 1;
  }
  t->rules[t->rule_count] = *rule;
  return (uint16_t)t->rule_count++;
}

/* ---- rows ----------------------------------------------------------------- */

static uint16_t intern_recent(struct builder *b, const struct ss_rule *rule)
{
  size_t at = cheap_hash(rule);
  if (b->recent[at].index == 0 || memcmp(&b->recent[at].rule, rule, sizeof *rule) != 0) {
    b->recent[at].rule = *rule;
    b->recent[at].index = intern(b, rule);
  }
  return b->recent[at].index;
}

static void add_row(struct builder *b, uint64_t pc, const struct ss_rule *rule)
{
  struct ss_table *t = b->t;
  bool same = b->any && memcmp(&b->last, rule, sizeof *rule) == 0;
  if (same && !b->starts)
    return;
  uint16_t index = same ? b->last_index : intern_recent(b, rule);
  if (b->failed || t->row_count >= SS_UNWIND_ROWS_MAX)
    return;
  if (t->row_count == b->row_cap) {
    size_t cap = b->row_cap == 0 ? 1024 : b->row_cap * 2;
    uint16_t *pcs = realloc(t->pc_lo, cap * sizeof *pcs);
    if (pcs != NULL)
      t->pc_lo = pcs;
    uint16_t *rules = realloc(t->rule, cap * sizeof *rules);
    if (rules != NULL)
      t->rule = rules;
    if (pcs == NULL || rules == NULL) {
      b->failed = true;
      return;
    }
    b->row_cap = cap;
  }
  uint64_t at = pc - t->text_lo;
  while (b->row_page < at >> PAGE_SHIFT) /* the pages from here on begin at this row */
    t->page_first[++b->row_page] = (uint32_t)t->row_count;
  t->pc_lo[t->row_count] = (uint16_t)at;
  t->rule[t->row_count++] = (uint16_t)(index | (b->starts ? FDE_START : 0));
  b->last = *rule;
  b->last_index = index;
  b->any = true;
  b->starts = false;
}

static void emit_row(void *arg, uint64_t pc, const struct ss_cfa_state *state)
{
  struct builder *b = arg;
  struct ss_rule rule = encode(b, state);
  add_row(b, pc, &rule);
}

static void add_gap(struct builder *b, uint64_t pc)
{
  static const struct ss_rule none = {.cfa_kind = SS_RULE_NOCFI};
  b->starts = false;
  add_row(b, pc, &none);
}

/* One FDE's rows; where its program is bad, a single slow row. */
static void add_fde(struct builder *b, const struct ss_fde *fde,
                    const struct ss_cfa_state *initial)
{
  static const struct ss_rule slow = {.cfa_kind = SS_RULE_SLOW};
  struct ss_table *t = b->t;
  if (fde->start > b->covered)
    add_gap(b, b->covered);
  size_t rows = t->row_count;
  uint64_t page = b->row_page;
  b->starts = true;
  b->signal = fde->cie.signal;
  if (!ss_cfa_rows(b->section, fde, initial, emit_row, b)) {
    t->row_count = rows;
    b->row_page = page;
    b->starts = true;
    b->any = false;
    add_row(b, fde->start, &slow);
  }
  b->covered = fde->end;
}

/* ---- build ---------------------------------------------------------------- */

/* The executable addresses of the file; FDEs elsewhere are not believed. */
static bool text_range(const struct ss_image *image, uint64_t *lo, uint64_t *hi)
{
  const struct ss_segment *segments;
  size_t count = ss_image_segments(image, &segments);
  *lo = UINT64_MAX;
  *hi = 0;
  for (size_t i = 0; i < count; i++) {
    const struct ss_segment *s = &segments[i];
    if ((s->flags & PF_X) == 0 || s->vaddr + s->filesz < s->vaddr)
      continue;
    *lo = s->vaddr < *lo ? s->vaddr : *lo;
    *hi = s->vaddr + s->filesz > *hi ? s->vaddr + s->filesz : *hi;
  }
  *lo &= ~(uint64_t)((1u << PAGE_SHIFT) - 1);
  return *lo < *hi && *hi - *lo <= SS_UNWIND_TEXT_MAX;
}

/* The FDEs of one section in order of address. */
struct feed {
  const struct ss_cfi_index *index;
  size_t next;
  struct ss_cie cie;
  struct ss_fde fde; /* the one at hand */
  struct ss_cfa_state initial;
  uint64_t initial_of; /* offset of the CIE */
};

/* Moves to the next FDE; false: there is none. */
static bool advance(struct feed *f)
{
  size_t offset;
  while (f->next < f->index->count)
    if (ss_cfi_offset_at(f->index, f->next++, &offset) &&
        ss_fde_parse(&f->index->section, offset, &f->cie, &f->fde))
      return true;
  f->fde.start = UINT64_MAX;
  return false;
}

/* Adds the rows of the FDE at hand, unless it is out of order, overlaps, or lies not in
 * the code. */
static void take(struct builder *b, struct feed *f)
{
  if (f->fde.start < b->covered || f->fde.end > b->t->text_hi)
    return;
  b->section = &f->index->section;
  if (f->fde.cie.offset != f->initial_of) {
    if (!ss_cfa_initial(b->section, &f->fde, &f->initial))
      return;
    f->initial_of = f->fde.cie.offset;
  }
  add_fde(b, &f->fde, &f->initial);
}

/* Where both sections have a function, .eh_frame's is taken. */
static void build_rows(struct builder *b, const struct ss_cfi *cfi)
{
  struct feed eh = {.index = &cfi->eh, .initial_of = UINT64_MAX};
  struct feed debug = {.index = &cfi->debug, .initial_of = UINT64_MAX};
  bool more_eh = advance(&eh), more_debug = advance(&debug);
  while ((more_eh || more_debug) && !b->failed) {
    if (more_eh && eh.fde.start <= debug.fde.start) {
      take(b, &eh);
      more_eh = advance(&eh);
    } else {
      take(b, &debug);
      more_debug = advance(&debug);
    }
  }
  if (b->covered < b->t->text_hi)
    add_gap(b, b->covered);
}

void ss_table_free(struct ss_table *t)
{
  if (t == NULL)
    return;
  free(t->page_first);
  free(t->pc_lo);
  free(t->rule);
  free(t->rules);
  free(t);
}

static struct ss_table *table_new(const struct ss_image *image)
{
  struct ss_table *t = calloc(1, sizeof *t);
  if (t == NULL || !text_range(image, &t->text_lo, &t->text_hi)) {
    free(t);
    return NULL;
  }
  t->pages = (size_t)((t->text_hi - t->text_lo + (1u << PAGE_SHIFT) - 1) >> PAGE_SHIFT);
  t->page_first = calloc(t->pages + 1, sizeof *t->page_first);
  if (t->page_first == NULL) {
    free(t);
    return NULL;
  }
  return t;
}

struct ss_table *ss_table_build(struct ss_module *module)
{
  static const struct ss_rule fixed[FIXED_RULES] = {{.cfa_kind = SS_RULE_NOCFI},
                                                    {.cfa_kind = SS_RULE_SLOW}};
  struct ss_cfi *cfi = ss_cfi_load(module);
  if (cfi == NULL || cfi->eh.count + cfi->debug.count == 0)
    return NULL;
  struct ss_table *t = table_new(module->image);
  if (t == NULL)
    return NULL;
  struct builder b = {.t = t, .covered = t->text_lo};
  for (size_t i = 0; i < FIXED_RULES; i++)
    intern(&b, &fixed[i]);
  build_rows(&b, cfi);
  while (b.row_page < t->pages)
    t->page_first[++b.row_page] = (uint32_t)t->row_count;
  ss_idmap_release(&b.rule_index);
  if (b.failed || t->row_count == 0 || t->rule_count < FIXED_RULES) {
    ss_table_free(t);
    return NULL;
  }
  return t;
}

/* ---- look-up -------------------------------------------------------------- */

/* The row's address, from its page and the low bits kept of it. */
static uint64_t row_pc(const struct ss_table *t, size_t page, size_t row)
{
  while (page > 0 && t->page_first[page] > row)
    page--;
  uint64_t base = t->text_lo + ((uint64_t)page << PAGE_SHIFT);
  uint64_t low = (t->pc_lo[row] - (base - t->text_lo)) & 0xffff;
  return base + low;
}

static uint64_t function_of(const struct ss_table *t, size_t page, size_t row)
{
  if (t->rules[t->rule[row] & RULES_MAX].cfa_kind == SS_RULE_NOCFI &&
      (t->rule[row] & FDE_START) == 0)
    return 0;
  while (row > 0 && (t->rule[row] & FDE_START) == 0)
    row--;
  return row_pc(t, page, row);
}

bool ss_table_find(const struct ss_table *t, uint64_t vaddr, struct ss_rule *rule,
                   uint64_t *function)
{
  if (vaddr < t->text_lo || vaddr >= t->text_hi)
    return false;
  uint64_t at = vaddr - t->text_lo;
  size_t page = (size_t)(at >> PAGE_SHIFT);
  size_t lo = t->page_first[page], hi = t->page_first[page + 1];
  uint16_t key = (uint16_t)at;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (t->pc_lo[mid] <= key)
      lo = mid + 1;
    else
      hi = mid;
  }
  if (lo == 0)
    return false;
  *rule = t->rules[t->rule[lo - 1] & RULES_MAX];
  *function = function_of(t, page, lo - 1);
  return true;
}
