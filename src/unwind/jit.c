/*
 * Callers of code in memory without a file: by the unwind information that the JIT
 * registered for it, else by its instructions. Where a function starts is known from
 * what the JIT says, else it is the nearest sequence of pushes that JIT compilers write.
 */
#include "repair.h"

#define PREAMBLE 16 /* bytes; six pushes and a copy have 13 */
/* Back to a function's start; oneDNN has one of 105 KB. */
#define JIT_SEARCH (256u << 10)

/* Run-time address of the nearest preamble at or before the frame; 0. */
static uint64_t find_preamble(const struct ss_unwinder *u, uint64_t ip)
{
  const struct ss_map *map = ss_maps_find(u->space->maps, ip);
  if (map == NULL || u->space->live == NULL)
    return 0;
  uint64_t from = ip - map->start > JIT_SEARCH ? ip - JIT_SEARCH : map->start;
  size_t want = (size_t)(ip - from) + 2 * PREAMBLE;
  unsigned char *code = malloc(want);
  size_t len = code == NULL ? 0 : ss_mem_read(u->space->live, from, code, want);
  size_t at = (size_t)(ip - from) + PREAMBLE;
  do /* one that begins behind the frame is the next function's */
    at = ss_arch_preamble_before(code, len, at);
  while (at != SIZE_MAX && from + at > ip);
  free(code);
  return at == SIZE_MAX ? 0 : from + at;
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
                          uint64_t addr, struct ss_caller *out)
{
  struct ss_jit_unwind info;
  struct at_row row;
  if (u->space->jit == NULL || !ss_perf_map_unwind(u->space->jit, addr, &info) ||
      !registered_row(&info, addr, &row))
    return false;
  const struct ss_cfa_value *bp = &row.state.saved[SS_SAVED_BP];
  if (row.state.cfa.kind != SS_CFA_REG || !ss_knows(w, row.state.cfa.reg) ||
      row.state.ra.kind != SS_CFA_OFFSET || row.state.ra.off != -8)
    return false;
  *out = (struct ss_caller){.cfa = w->r[row.state.cfa.reg] + (uint64_t)row.state.cfa.off,
                            .bp = w->r[SS_REG_BP],
                            .bp_known =
                                ss_knows(w, SS_REG_BP) &&
                                (bp->kind == SS_CFA_SAME || bp->kind == SS_CFA_OFFSET)};
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
  struct ss_caller caller;
  enum ss_end end = SS_END_NO_CFI;
  if (hit.module != NULL || (hit.rule.flags & SS_HIT_CODE) == 0)
    return SS_END_NO_CFI;
  if (by_registered(u, w, hit.addr, &caller))
    end = ss_accept_caller(u, w, &caller);
  if (end != SS_END_NO_CFI)
    return end;
  return ss_step_by_code(u, w, &hit, jit_start(u, hit.addr, w->r[SS_REG_IP]));
}

const struct ss_unwind_method ss_method_jit = {SS_METHOD_JIT, jit_step};
