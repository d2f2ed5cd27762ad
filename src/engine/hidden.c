/*
 * Moments of threads, and the division of hidden kernel time among them.
 *
 * Page faults come first: their number is counted, their cost measured (hidden.h).
 * The rest of a gap between two user-mode samples goes to the stacks on its edges,
 * or to those of the faults within, cut to what they surely have in common with the
 * time between: the frames that all of them share, and the innermost Python line.
 */
#include <stdlib.h>
#include <string.h>

#include "hidden.h"
#include "ledger_priv.h"
#include "stacksample/buf.h"
#include "stacksample/sys.h"

enum {
  GAP_FAULTS = 4,    /* remembered of one gap */
  MOMENTS_MAX = 512, /* of a thread; more are added to the last */
  STALE_TICKS = 60   /* of the thread's clock: the ledger has spoken long ago */
};
#define COST_EVERY_NS 400000000ull

enum kind { FAULT, REST };

struct share { /* a moment that will get some of the ledger's time */
  uint64_t time_ns, clock_ns;
  uint64_t weight;       /* FAULT: how many; REST: ns */
  uint32_t phase, stack; /* the user's frames */
  uint8_t end, kind;
};

struct watched { /* one thread; lives as long as the run */
  struct share *shares;
  size_t count, cap;
  struct ss_hidden_moment last; /* user-mode sample */
  bool has_last;
  struct ss_hidden_moment faults[GAP_FAULTS]; /* since then */
  unsigned n_faults;
};

struct owed { /* time that the ledger named, to be divided */
  uint32_t thread, phase;
  uint64_t ns;
};

struct ss_hidden {
  struct ss_store *store;
  uint64_t period_ns;
  uint32_t fault_frame, unknown_frame, unknown_stack;
  struct owed *owed;
  size_t n_owed, owed_cap;
  struct ss_idmap threads; /* store id -> struct watched * */
  ss_fault_measure *measure;
  struct ss_fault_cost cost;
  uint64_t cost_due_ns;
  bool wanted; /* faults since the cost was measured */
  struct ss_hidden_counts counts;
};

/* ---- frames --------------------------------------------------------------------- */

static uint32_t synthetic(struct ss_store *store, const char *text)
{
  struct ss_frame_row row = {.kind = SS_FRAME_SYNTHETIC,
                             .name = ss_store_string(store, text, strlen(text)),
                             .file = SS_ID_NONE,
                             .module = SS_ID_NONE};
  return ss_store_frame(store, &row);
}

static uint32_t parent_of(const struct ss_hidden *h, uint32_t stack)
{
  struct ss_stack_row row;
  return ss_store_stack_at(h->store, stack, &row) ? row.parent : SS_ID_NONE;
}

/* The longest path that both begin with. A parent's id is below its child's. */
static uint32_t common(const struct ss_hidden *h, uint32_t a, uint32_t b)
{
  while (a != b && a != SS_ID_NONE && b != SS_ID_NONE)
    if (a > b)
      a = parent_of(h, a);
    else
      b = parent_of(h, b);
  return a == b ? a : SS_ID_NONE;
}

static uint32_t innermost_python(const struct ss_hidden *h, uint32_t stack)
{
  struct ss_stack_row row;
  struct ss_frame_row frame;
  while (ss_store_stack_at(h->store, stack, &row)) {
    if (ss_store_frame_at(h->store, row.frame, &frame) && frame.kind == SS_FRAME_PYTHON)
      return stack;
    stack = row.parent;
  }
  return SS_ID_NONE;
}

/* `stack` as far as it may be claimed: `base` is on it, or none. */
static uint32_t cut(const struct ss_hidden *h, uint32_t stack, uint32_t base)
{
  uint32_t python = innermost_python(h, stack);
  if (python == SS_ID_NONE || (base != SS_ID_NONE && base > python))
    return base;
  return python;
}

/* ---- life ----------------------------------------------------------------------- */

struct ss_hidden *ss_hidden_new(struct ss_store *store, uint64_t period_ns,
                                ss_fault_measure *measure)
{
  struct ss_hidden *h = calloc(1, sizeof *h);
  if (h) {
    h->store = store;
    h->period_ns = period_ns;
    h->measure = measure;
    h->fault_frame = synthetic(store, "[kernel: page fault]");
    h->unknown_frame = synthetic(store, "[kernel: unknown]");
    h->unknown_stack = ss_store_stack(store, SS_ID_NONE, h->unknown_frame, 0);
  }
  return h;
}

void ss_hidden_free(struct ss_hidden *h)
{
  size_t pos = 0;
  uint64_t key, value;
  if (!h)
    return;
  while (ss_idmap_next(&h->threads, &pos, &key, &value)) {
    struct watched *w = (struct watched *)(uintptr_t)value;
    free(w->shares);
    free(w);
  }
  ss_idmap_release(&h->threads);
  free(h->owed);
  free(h);
}

static struct watched *watch(struct ss_hidden *h, uint32_t thread)
{
  const uint64_t *known = ss_idmap_get(&h->threads, thread);
  if (known)
    return (struct watched *)(uintptr_t)*known;
  struct watched *w = calloc(1, sizeof *w);
  if (w && !ss_idmap_put(&h->threads, thread, (uint64_t)(uintptr_t)w)) {
    free(w);
    w = NULL;
  }
  return w;
}

/* ---- moments -------------------------------------------------------------------- */

/* What the ledger has spoken about already. */
static void drop_stale(const struct ss_hidden *h, struct watched *w, uint64_t clock_ns)
{
  size_t stale = 0;
  while (stale < w->count &&
         w->shares[stale].clock_ns + STALE_TICKS * h->period_ns < clock_ns)
    stale++;
  if (stale > 0) {
    w->count -= stale;
    memmove(w->shares, w->shares + stale, w->count * sizeof *w->shares);
  }
}

static void add_share(struct ss_hidden *h, struct watched *w,
                      const struct ss_hidden_moment *m, enum kind kind, uint32_t stack,
                      uint64_t weight)
{
  if (weight == 0)
    return;
  drop_stale(h, w, m->clock_ns);
  if (w->count >= MOMENTS_MAX) {
    w->shares[w->count - 1].weight += weight;
    return;
  }
  if (ss_grow(&w->shares, &w->cap, w->count + 1, sizeof *w->shares)) {
    w->shares[w->count++] = (struct share){.time_ns = m->time_ns,
                                           .clock_ns = m->clock_ns,
                                           .weight = weight,
                                           .phase = m->phase,
                                           .stack = stack,
                                           .end = m->end,
                                           .kind = (uint8_t)kind};
  }
}

/* The gap's hidden ticks, to the faults in it or to its two edges. */
static void close_gap(struct ss_hidden *h, struct watched *w,
                      const struct ss_hidden_moment *now, uint64_t ticks)
{
  const struct ss_hidden_moment *edges[2] = {&w->last, now};
  uint32_t base = common(h, w->last.stack, now->stack);
  for (unsigned i = 0; i < w->n_faults; i++)
    base = common(h, base, w->faults[i].stack);
  unsigned n = w->n_faults > 0 ? w->n_faults : 2;
  for (unsigned i = 0; i < n; i++) {
    const struct ss_hidden_moment *m = w->n_faults > 0 ? &w->faults[i] : edges[i];
    add_share(h, w, m, REST, cut(h, m->stack, base), ticks * h->period_ns / n);
  }
}

void ss_hidden_sample(struct ss_hidden *h, const struct ss_hidden_moment *m)
{
  struct watched *w = watch(h, m->thread);
  if (!w)
    return;
  if (w->has_last && m->clock_ns > w->last.clock_ns) {
    uint64_t half = h->period_ns / 2;
    uint64_t ticks = (m->clock_ns - w->last.clock_ns + half) / h->period_ns;
    if (ticks > 1)
      close_gap(h, w, m, ticks - 1);
  }
  w->last = *m;
  w->has_last = true;
  w->n_faults = 0;
}

void ss_hidden_fault(struct ss_hidden *h, const struct ss_hidden_moment *m,
                     uint64_t faults)
{
  struct watched *w = watch(h, m->thread);
  h->wanted = true;
  if (!w)
    return;
  if (h->cost.n_small == 0)
    ss_hidden_tick(h, m->time_ns);
  h->counts.faults += faults;
  if (w->n_faults < GAP_FAULTS)
    w->faults[w->n_faults++] = *m;
  add_share(h, w, m, FAULT, m->stack, faults);
}

void ss_hidden_tick(struct ss_hidden *h, uint64_t now_ns)
{
  if (h->wanted && now_ns >= h->cost_due_ns) {
    h->wanted = false;
    h->cost_due_ns = now_ns + COST_EVERY_NS;
    h->measure(&h->cost, h->counts.faults);
  }
}

/* ---- the ledger's time ---------------------------------------------------------- */

static void put_row(struct ss_hidden *h, uint32_t thread, const struct share *s,
                    uint32_t stack, uint64_t ns)
{
  struct ss_sample_row row = {
      .time_ns = s->time_ns,
      .weight_ns = ns,
      .thread = thread,
      .stack = stack,
      .phase = s->phase,
      .state = SS_STATE_KERNEL,
      .end = s->end,
      .method = SS_METHOD_NONE,
      .merge = SS_MERGE_NONE,
  };
  if (ns > 0)
    ss_store_sample(h->store, &row);
}

static void put_unknown(struct ss_hidden *h, uint32_t thread, uint32_t phase, uint64_t ns)
{
  struct share s = {.time_ns = ss_now_ns(), .phase = phase, .end = SS_END_NO_REGS};
  h->counts.unknown_ns += ns;
  put_row(h, thread, &s, h->unknown_stack, ns);
}

static uint64_t sum_of(const struct watched *w, uint32_t phase, enum kind kind)
{
  uint64_t sum = 0;
  for (size_t i = 0; i < w->count; i++) {
    const struct share *s = &w->shares[i];
    sum += s->phase == phase && s->kind == kind ? s->weight : 0;
  }
  return sum;
}

/* `ns` among the shares of one kind, as leaves of `frame` on their stacks. */
static void divide(struct ss_hidden *h, uint32_t thread, const struct watched *w,
                   uint32_t phase, enum kind kind, uint64_t ns)
{
  uint32_t frame = kind == FAULT ? h->fault_frame : h->unknown_frame;
  struct ss_spread spread = {.total = ns, .sum = sum_of(w, phase, kind)};
  for (size_t i = 0; i < w->count; i++) {
    const struct share *s = &w->shares[i];
    if (s->phase != phase || s->kind != kind)
      continue;
    uint64_t part = ss_spread_next(&spread, s->weight);
    if (s->stack == SS_ID_NONE && kind == REST) {
      put_unknown(h, thread, phase, part);
      continue;
    }
    *(kind == FAULT ? &h->counts.fault_ns : &h->counts.placed_ns) += part;
    put_row(h, thread, s, ss_store_stack(h->store, s->stack, frame, 0), part);
  }
}

static void forget_phase(struct watched *w, uint32_t phase)
{
  size_t kept = 0;
  for (size_t i = 0; i < w->count; i++)
    if (w->shares[i].phase != phase)
      w->shares[kept++] = w->shares[i];
  w->count = kept;
}

static void pay(struct ss_hidden *h, uint32_t thread, uint32_t phase, uint64_t ns)
{
  const uint64_t *known = ss_idmap_get(&h->threads, thread);
  struct watched *w = known ? (struct watched *)(uintptr_t)*known : NULL;
  uint64_t faults = w ? sum_of(w, phase, FAULT) * ss_fault_cost_mean(&h->cost) : 0;
  uint64_t rest = w ? sum_of(w, phase, REST) : 0;
  uint64_t first = faults < ns ? faults : ns;
  if (first > 0)
    divide(h, thread, w, phase, FAULT, first);
  if (rest > 0 && ns > first)
    divide(h, thread, w, phase, REST, ns - first);
  else if (ns > first)
    put_unknown(h, thread, phase, ns - first);
  if (w)
    forget_phase(w, phase);
}

static int by_whom(const void *a, const void *b)
{
  const struct owed *x = a, *y = b;
  if (x->thread != y->thread)
    return x->thread < y->thread ? -1 : 1;
  return (x->phase > y->phase) - (x->phase < y->phase);
}

void ss_hidden_settle(struct ss_hidden *h)
{
  if (h->n_owed == 0)
    return;
  qsort(h->owed, h->n_owed, sizeof *h->owed, by_whom);
  for (size_t i = 0, next; i < h->n_owed; i = next) {
    uint64_t ns = 0;
    for (next = i; next < h->n_owed && by_whom(&h->owed[i], &h->owed[next]) == 0; next++)
      ns += h->owed[next].ns;
    pay(h, h->owed[i].thread, h->owed[i].phase, ns);
  }
  h->n_owed = 0;
}

void ss_hidden_time(struct ss_hidden *h, uint32_t thread, uint32_t phase, uint64_t ns)
{
  if (!ss_grow(&h->owed, &h->owed_cap, h->n_owed + 1, sizeof *h->owed)) {
    put_unknown(h, thread, phase, ns);
    return;
  }
  h->owed[h->n_owed++] = (struct owed){thread, phase, ns};
}

void ss_hidden_counts(const struct ss_hidden *h, struct ss_hidden_counts *out)
{
  *out = h->counts;
  out->fault_cost_ns = ss_fault_cost_small(&h->cost);
  out->huge_cost_ns = ss_fault_cost_huge(&h->cost);
}
