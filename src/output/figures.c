/*
 * Figures of a profile that every summary shows: thread time by state for the
 * whole, each thread, each test and each role, and how good the evidence is.
 *
 * Times come from the ledger, shapes from the samples; the two are never mixed
 * but for page faults, whose share of the kernel samples is applied to the
 * ledger's kernel time.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/meta.h"
#include "summary_priv.h"

uint64_t ss_rusage_ns(const struct ss_profile *p)
{
  return 1000 * (ss_profile_meta_u64(p, SS_META_RU_UTIME_US, 0) +
                 ss_profile_meta_u64(p, SS_META_RU_STIME_US, 0));
}

uint64_t ss_spent_running(const struct ss_spent *t)
{
  return t->ns[SS_STATE_USER] + t->ns[SS_STATE_KERNEL] + t->ns[SS_STATE_SPIN];
}

uint64_t ss_spent_waiting(const struct ss_spent *t)
{
  uint64_t ns = 0;

  for (enum ss_state state = 0; state < SS_STATE_COUNT; state++)
    ns += ss_state_waiting(state) ? t->ns[state] : 0;
  return ns;
}

uint64_t ss_spent_fault(const struct ss_figures *f, const struct ss_spent *t)
{
  if (!f->faults_known || (t->kernel_w == 0 && t->ns[SS_STATE_KERNEL] != 0))
    return UINT64_MAX;
  if (t->kernel_w == 0)
    return 0;
  return (uint64_t)((double)t->ns[SS_STATE_KERNEL] * (double)t->fault_w /
                    (double)t->kernel_w);
}

/* ---- clocks ---------------------------------------------------------------------- */

/* The run's end; where it was never seen, the last thing that was. */
static uint64_t last_seen(const struct ss_profile *p)
{
  uint64_t last = 0;

  for (size_t i = 0; i < p->n_threads; i++) {
    const struct ss_thread_row *t = &p->threads[i];
    uint64_t end = t->end_ns ? t->end_ns : t->start_ns + t->cpu_ns;
    last = end > last ? end : last;
  }
  for (size_t i = 0; i < p->n_phases; i++) {
    const struct ss_phase_row *ph = &p->phases[i];
    uint64_t end = ph->end_ns ? ph->end_ns : ph->start_ns;
    last = end > last ? end : last;
  }
  return last;
}

static uint64_t first_seen(const struct ss_profile *p)
{
  uint64_t first = UINT64_MAX;

  for (size_t i = 0; i < p->n_processes; i++)
    if (p->processes[i].start_ns < first)
      first = p->processes[i].start_ns;
  return first == UINT64_MAX ? 0 : first;
}

static void find_clocks(struct ss_figures *f)
{
  f->start_ns = ss_profile_meta_u64(f->p, SS_META_START_NS, 0);
  if (f->start_ns == 0)
    f->start_ns = first_seen(f->p);
  f->end_ns = ss_profile_meta_u64(f->p, SS_META_END_NS, 0);
  if (f->end_ns == 0)
    f->end_ns = last_seen(f->p);
  f->wall_ns = f->end_ns > f->start_ns ? f->end_ns - f->start_ns : 0;
}

/* ---- times ----------------------------------------------------------------------- */

static void add_ledger(struct ss_figures *f)
{
  for (size_t i = 0; i < f->p->n_times; i++) {
    const struct ss_time_row *row = &f->p->times[i];
    f->total.ns[row->state] += row->ns;
    f->threads[row->thread].ns[row->state] += row->ns;
    if (row->phase != SS_ID_NONE)
      f->tests[row->phase].t.ns[row->state] += row->ns;
  }
}

static void count_quality(struct ss_figures *f, const struct ss_total *t)
{
  f->samples += t->samples;
  f->truncated += t->end == SS_END_TRUNCATED ? t->samples : 0;
  if (ss_state_running(t->state)) {
    f->run_ns += t->weight_ns;
    f->run_samples += t->samples;
    if (f->by_stops && t->method == SS_METHOD_NONE && t->end == SS_END_NO_REGS)
      f->stackless_ns += t->weight_ns;
  }
  /* Rows without a native stack say nothing about unwinding. */
  if (t->method != SS_METHOD_NONE && t->end != SS_END_NO_UNWIND) {
    f->stacks += t->samples;
    f->complete += t->end == SS_END_COMPLETE ? t->samples : 0;
    f->late += t->method == SS_METHOD_LATE ? t->samples : 0;
    f->no_cfi += t->end == SS_END_NO_CFI ? t->samples : 0;
  }
  if (t->merge != SS_MERGE_NONE) {
    f->merges += t->samples;
    f->verified += t->merge == SS_MERGE_VERIFIED ? t->samples : 0;
  }
}

static void add_samples(struct ss_figures *f)
{
  for (size_t i = 0; i < f->p->n_totals; i++) {
    const struct ss_total *t = &f->p->totals[i];
    if (t->weight_ns == 0)
      continue;
    count_quality(f, t);
    f->total.samples += t->samples;
    f->threads[t->thread].samples += t->samples;
    if (t->phase != SS_ID_NONE)
      f->tests[t->phase].t.samples += t->samples;
  }
}

static void init_tests(struct ss_figures *f)
{
  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_phase_row *row = &f->p->phases[i];
    struct ss_test_row *test = &f->tests[i];
    uint64_t end = row->end_ns ? row->end_ns : f->end_ns;
    test->phase = (uint32_t)i;
    test->top = SS_ID_NONE;
    test->pytest_s = -1;
    test->start_ns = row->start_ns > f->start_ns ? row->start_ns - f->start_ns : 0;
    test->wall_ns = end > row->start_ns ? end - row->start_ns : 0;
  }
}

/* ---- roles ----------------------------------------------------------------------- */

static void add_times(struct ss_spent *to, const struct ss_spent *from)
{
  for (size_t s = 0; s < SS_STATE_COUNT; s++)
    to->ns[s] += from->ns[s];
  to->samples += from->samples;
  to->kernel_w += from->kernel_w;
  to->fault_w += from->fault_w;
}

static uint64_t life(const struct ss_spent *t)
{
  uint64_t sum = 0;
  for (size_t s = 0; s < SS_STATE_COUNT; s++)
    sum += t->ns[s];
  return sum;
}

static int by_running(const void *a, const void *b)
{
  const struct ss_role_row *x = a, *y = b;
  uint64_t rx = ss_spent_running(&x->t), ry = ss_spent_running(&y->t);
  uint64_t lx = life(&x->t), ly = life(&y->t);

  if (rx != ry)
    return rx < ry ? 1 : -1;
  if (lx != ly)
    return lx < ly ? 1 : -1;
  return (x->first > y->first) - (x->first < y->first);
}

static enum ss_err fold_roles(struct ss_figures *f)
{
  struct ss_idmap index = {0}; /* process and role -> row */
  size_t cap = 0;
  enum ss_err err = SS_ERR_OK;

  for (size_t i = 0; i < f->p->n_threads && err == SS_ERR_OK; i++) {
    const struct ss_thread_row *t = &f->p->threads[i];
    uint64_t key = (uint64_t)t->process << 32 | t->role;
    uint64_t *known = ss_idmap_get(&index, key);
    size_t row = known ? (size_t)*known : f->n_roles;
    if (!known) {
      if (!ss_grow(&f->roles, &cap, f->n_roles + 1, sizeof *f->roles) ||
          !ss_idmap_put(&index, key, row)) {
        err = SS_ERR_NOMEM;
        break;
      }
      f->roles[f->n_roles++] = (struct ss_role_row){.first = (uint32_t)i};
    }
    f->roles[row].members++;
    add_times(&f->roles[row].t, &f->threads[i]);
  }
  ss_idmap_release(&index);
  if (f->n_roles)
    qsort(f->roles, f->n_roles, sizeof *f->roles, by_running);
  return err;
}

/* ---- filtered ---------------------------------------------------------------------- */

void ss_figures_filtered(struct ss_figures *f, const struct ss_filter *filter)
{
  if (filter == NULL)
    return;
  if (!filter->test && !filter->thread && !filter->state && filter->from_ns == 0 &&
      filter->to_ns == 0)
    return;
  f->filter = filter;
  f->n_unseen = 0; /* nothing is known of them that a filter could let through */
}

bool ss_test_shown(const struct ss_figures *f, const struct ss_test_row *row)
{
  return f->filter == NULL || row->t.samples > 0 || life(&row->t) > 0;
}

/* ---- all ------------------------------------------------------------------------- */

static int by_wall(const void *a, const void *b)
{
  const struct ss_test_row *x = a, *y = b;
  if (x->wall_ns != y->wall_ns)
    return x->wall_ns < y->wall_ns ? 1 : -1;
  return (x->phase > y->phase) - (x->phase < y->phase);
}

void ss_figures_sort_tests(struct ss_figures *f)
{
  if (f->p->n_phases)
    qsort(f->tests, f->p->n_phases, sizeof *f->tests, by_wall);
}

static enum ss_err fill(struct ss_figures *f, struct ss_diag *diag)
{
  enum ss_err err;

  f->threads = calloc(f->p->n_threads + 1, sizeof *f->threads);
  f->tests = calloc(f->p->n_phases + 1, sizeof *f->tests);
  if (!f->threads || !f->tests)
    return ss_fail(diag, SS_ERR_NOMEM, "out of memory for the summary");
  find_clocks(f);
  init_tests(f);
  add_ledger(f);
  add_samples(f);
  err = ss_figures_stacks(f, diag);
  if (err != SS_ERR_OK)
    return err;
  err = fold_roles(f);
  ss_figures_log(f);
  return err;
}

enum ss_err ss_figures_init(struct ss_figures *f, struct ss_profile *p, bool functions,
                            struct ss_diag *diag)
{
  const char *method = ss_profile_meta(p, SS_META_KERNEL_METHOD);

  *f = (struct ss_figures){.p = p, .with_functions = functions};
  f->by_stops = method && strcmp(method, "stops") == 0;
  f->faults_known = method && strcmp(method, "accounted") != 0;
  enum ss_err err = ss_texts_init(&f->texts, p, diag);
  if (err == SS_ERR_OK)
    err = fill(f, diag);
  if (err != SS_ERR_OK)
    ss_figures_release(f);
  return err;
}

void ss_figures_release(struct ss_figures *f)
{
  ss_texts_release(&f->texts);
  free(f->threads);
  free(f->tests);
  free(f->roles);
  free(f->functions);
  free(f->operators);
  free(f->unseen);
  cJSON_Delete(f->outcomes);
  cJSON_Delete(f->durations);
  *f = (struct ss_figures){0};
}
