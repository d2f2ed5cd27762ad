/*
 * Stage 2: one thread that takes the records of all CPUs in time order and
 * turns them into rows of profile.db.
 *
 * It sleeps until stage 1 has enough for it or a tick has passed; between the
 * records it looks at live environs, reads schedstat and commits. It never
 * waits for the target, and what it cannot do it counts.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/output.h"
#include "stacksample/sys.h"

#include "pipeline_priv.h"

/* Between looks at the queues. Each waking costs some 40 us, so they are rare; but
 * code that runs once (of modules, of short processes) is gone soon after it ran, so
 * while new code appears they are not. */
#define WAIT_MS 20
#define WAIT_NEWS_MS 5
#define NEWS_NS 500000000ull
#define IDLE_NS 2000000000ull
#define WINDOW_NS 2000000000ull /* the status line speaks of the last seconds */

/* ---- the ledger's rows --------------------------------------------------------- */

/* Time off the CPU that is nobody's wait: rows of one frame, to show its size. */
static void unlooked(struct ss_pipeline *p, uint32_t thread, uint32_t phase,
                     enum ss_state state, const char *detail, uint64_t ns)
{
  char text[64];
  struct ss_sample_row row = {
      .time_ns = ss_now_ns(),
      .weight_ns = ns,
      .thread = thread,
      .phase = phase,
      .state = (uint8_t)state,
      .end = SS_END_NO_REGS,
      .method = SS_METHOD_NONE,
      .merge = SS_MERGE_NONE,
  };

  if (ns == 0)
    return;
  snprintf(text, sizeof(text), "[%s%s]", ss_state_word(state), detail);
  row.stack = ss_stacking_mark(p, text);
  ss_store_sample(p->config.store, &row);
}

static void emit_time(void *arg, uint32_t thread, uint32_t phase, enum ss_state state,
                      uint64_t ns)
{
  struct ss_pipeline *p = arg;

  if (ns == 0)
    return;
  ss_store_time(p->config.store, thread, phase, state, ns);
  /* Kernel time that samples could not see becomes rows of its own, so that it
   * shows in every output. */
  if (state == SS_STATE_KERNEL && p->hidden)
    ss_hidden_time(p->hidden, thread, phase, ns);
  uint64_t held_ns = ss_throttle_part(p, state, ns);
  if (!ss_state_running(state) && p->looking.on) {
    unlooked(p, thread, phase, state, ": throttled", held_ns);
    unlooked(p, thread, phase, state, "", ns - held_ns);
  }
}

/* ---- records -------------------------------------------------------------------- */

static void on_switch(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_thread *t;

  /* A thread that has had its EXIT still leaves the CPU, and may come back to it
   * first: that must not bring it back to life. */
  if (!ss_tracked_knows(p, rec->pid, rec->tid))
    return;
  t = ss_tracked_thread(p, rec->pid, rec->tid, rec->time_ns, !rec->u.sw.out);
  if (t == NULL)
    return;
  t->ran = true;
  if (!ss_flood_switch(t->process, rec))
    return;
  ss_looking_switch(p, t, rec->time_ns, rec->u.sw.out && !rec->u.sw.preempted);
  ss_ledger_switch(t->ledger, rec->time_ns, rec->u.sw.out, rec->u.sw.preempted);
}

static void dispatch(struct ss_pipeline *p, const struct ss_captured *c)
{
  const struct ss_record *rec = &c->rec;

  ss_looking_due(p, rec->time_ns);
  if (rec->time_ns > p->newest_ns)
    p->newest_ns = rec->time_ns;
  if (p->config.no_children && rec->pid != p->config.root && rec->type != SS_REC_LOST)
    return;
  switch (rec->type) {
  case SS_REC_SAMPLE:
    ss_stacking_sample(p, c);
    break;
  case SS_REC_SWITCH:
    on_switch(p, rec);
    break;
  case SS_REC_MMAP:
    p->news_ns = ss_now_ns();
    ss_tracked_mmap(p, rec);
    break;
  case SS_REC_COMM:
    ss_tracked_comm(p, rec);
    break;
  case SS_REC_FORK:
    p->news_ns = ss_now_ns();
    if (!p->facts.per_thread || !ss_tracked_knows(p, rec->pid, rec->tid))
      ss_tracked_fork(p, rec); /* else it was found before its record came */
    if (p->facts.per_thread)
      ss_following_fork(p, rec);
    break;
  case SS_REC_EXIT:
    ss_tracked_exit(p, rec->pid, rec->tid, rec->time_ns);
    break;
  case SS_REC_LOST:
    p->n_lost += rec->u.lost.count;
    ss_ledger_gap(p->ledger, rec->time_ns);
    ss_tracked_all_ran(p);
    break;
  case SS_REC_THROTTLE:
    ss_note(p->config.notes,
            "the kernel throttled sampling: fewer samples than the rate asks");
    break;
  case SS_REC_USAGE:
    ss_tracked_usage(p, rec);
    break;
  case SS_REC_REMAP:
    ss_tracked_remap(p, rec);
    break;
  case SS_REC_OTHER:
    break;
  }
}

/* ---- what is happening now --------------------------------------------------------- */

static void publish_window(struct ss_pipeline *p, uint64_t now_ns)
{
  uint64_t total = 0, span = now_ns - p->window_ns;

  if (span < WINDOW_NS)
    return;
  for (int i = 0; i < SS_STATE_COUNT; i++)
    total += p->window_samples[i];
  pthread_mutex_lock(&p->now_lock);
  p->now.samples = p->n_samples;
  p->now.lost = p->n_lost;
  p->now.busy_cpus = (double)(total * p->facts.period_ns) / (double)span;
  if (total > 0) {
    p->now.user_pct = 100.0 * (double)p->window_samples[SS_STATE_USER] / (double)total;
    p->now.kernel_pct =
        100.0 * (double)p->window_samples[SS_STATE_KERNEL] / (double)total;
  }
  pthread_mutex_unlock(&p->now_lock);
  memset(p->window_samples, 0, sizeof(p->window_samples));
  p->window_ns = now_ns;
}

/* When the test has to be over; UINT64_MAX: whenever it likes. */
static uint64_t due_ns(const struct ss_test_now *t)
{
  return t->limit_ns > 0 ? t->test_start_ns + t->limit_ns : UINT64_MAX;
}

/* Does `a` say more than `b` of what happens now? */
static bool goes_before(const struct ss_test_now *a, const struct ss_test_now *b)
{
  if (a->serial == 0 || b->serial == 0)
    return a->serial > 0 || (b->serial == 0 && a->phase_start_ns > b->phase_start_ns);
  if (due_ns(a) != due_ns(b))
    return due_ns(a) < due_ns(b);
  return a->serial < b->serial;
}

void ss_pipeline_now(struct ss_pipeline *p, uint64_t limit_ns,
                     struct ss_pipeline_now *out)
{
  size_t pos = 0;
  uint64_t pid, process;

  pthread_mutex_lock(&p->now_lock);
  *out = p->now;
  while (ss_idmap_next(&p->by_pid, &pos, &pid, &process)) {
    struct ss_test_now test = ((struct ss_process *)(uintptr_t)process)->now;
    if (test.serial > 0 && !test.marked)
      test.limit_ns = limit_ns;
    if (goes_before(&test, &out->test))
      out->test = test;
  }
  pthread_mutex_unlock(&p->now_lock);
}

size_t ss_pipeline_pids(struct ss_pipeline *p, pid_t *pids, size_t cap)
{
  size_t n = 0, pos = 0;
  uint64_t pid, process;

  pthread_mutex_lock(&p->now_lock);
  while (n < cap && ss_idmap_next(&p->by_pid, &pos, &pid, &process))
    pids[n++] = (pid_t)pid;
  pthread_mutex_unlock(&p->now_lock);
  return n;
}

/* ---- the loop -------------------------------------------------------------------- */

static void settle_hidden(struct ss_pipeline *p)
{
  if (p->hidden)
    ss_hidden_settle(p->hidden);
}

static void take_all(struct ss_pipeline *p)
{
  struct ss_captured captured;

  while (ss_capture_next(p->config.capture, &captured)) {
    dispatch(p, &captured);
    settle_hidden(p);
    ss_store_commit(p->config.store, false);
  }
  ss_looking_due(p, ss_capture_horizon_ns(p->config.capture));
}

static int wait_ms(const struct ss_pipeline *p)
{
  return ss_now_ns() < p->news_ns + NEWS_NS ? WAIT_NEWS_MS : WAIT_MS;
}

/* The file has long waits, too, should we be killed. */
static void settle_idle(struct ss_pipeline *p, uint64_t now_ns)
{
  if (now_ns < p->idle_ns + IDLE_NS)
    return;
  p->idle_ns = now_ns;
  ss_ledger_settle_idle(p->ledger, ss_capture_horizon_ns(p->config.capture));
}

static void *pipeline_main(void *arg)
{
  struct ss_pipeline *p = arg;
  int next_ms = WAIT_MS;

  pthread_setname_np(pthread_self(), "ss-pipeline");
  if (p->config.attached)
    ss_tracked_seed(p, p->config.root, ss_now_ns());
  if (p->config.attached && p->facts.per_thread)
    ss_following_tree(p, p->config.root);
  while (!atomic_load(&p->stop)) {
    uint64_t now_ns;
    ss_capture_wait(p->config.capture, next_ms < wait_ms(p) ? next_ms : wait_ms(p));
    take_all(p);
    now_ns = ss_now_ns();
    next_ms = ss_looking_round(p, now_ns);
    ss_phases_tick(p, now_ns);
    ss_tracked_schedstat(p, now_ns);
    settle_hidden(p);
    ss_flood_tick(p, now_ns);
    settle_idle(p, now_ns);
    if (p->hidden)
      ss_hidden_tick(p->hidden, now_ns);
    if (p->hidden && p->facts.faults)
      ss_perf_faults_adapt(p->config.perf, p->n_fault_samples, now_ns);
    publish_window(p, now_ns);
    ss_store_commit(p->config.store, false);
  }
  take_all(p);
  ss_looking_due(p, UINT64_MAX);
  return NULL;
}

/* ---- life cycle ------------------------------------------------------------------ */

enum ss_err ss_pipeline_start(struct ss_pipeline **out,
                              const struct ss_pipeline_config *config,
                              struct ss_diag *diag)
{
  struct ss_pipeline *p = calloc(1, sizeof(*p));

  *out = NULL;
  if (p == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for the sampling pipeline");
  p->config = *config;
  p->facts = *ss_capture_facts(config->capture);
  pthread_mutex_init(&p->now_lock, NULL);
  p->window_ns = ss_now_ns();
  p->paths = ss_paths_new();
  p->modules = ss_modules_new();
  p->unwinder = ss_unwinder_new();
  p->ledger = ss_ledger_new(p->facts.period_ns, p->facts.kernel_samples,
                            p->facts.switches, emit_time, p);
  if (!p->facts.kernel_samples)
    p->hidden = ss_hidden_new(config->store, p->facts.period_ns, ss_fault_cost_update);
  p->native = calloc(SS_FRAMES_MAX, sizeof(*p->native));
  p->merged = calloc(SS_FRAMES_MAX + SS_PY_FRAMES_MAX, sizeof(*p->merged));
  p->path = calloc(SS_PATH_FRAMES_MAX, sizeof(*p->path));
  p->path_lines = calloc(SS_PATH_FRAMES_MAX, sizeof(*p->path_lines));
  if (!p->paths || !p->modules || !p->unwinder || !p->ledger || !p->native ||
      !p->merged || !p->path || !p->path_lines || !ss_looking_start(p)) {
    ss_pipeline_free(p);
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for the sampling pipeline");
  }
  if (pthread_create(&p->thread, NULL, pipeline_main, p) != 0) {
    ss_pipeline_free(p);
    return ss_fail(diag, SS_ERR_LIMIT, "cannot start the sampling pipeline's thread");
  }
  *out = p;
  return SS_ERR_OK;
}

void ss_pipeline_stop(struct ss_pipeline *p, uint64_t end_ns)
{
  p->end_ns = end_ns;
  atomic_store(&p->stop, true);
  pthread_join(p->thread, NULL);
  /* Records may be newer than the moment at which the end was noticed. */
  ss_tracked_end_all(p, end_ns > p->newest_ns ? end_ns : p->newest_ns);
  ss_ledger_flush(p->ledger);
  settle_hidden(p);
}

/* Dumps have told theirs already. */
static void add_stops(struct ss_store *store, const struct ss_capture_counts *counts)
{
  uint64_t max_ns = ss_store_meta_number(store, SS_META_STOP_MAX_NS);

  ss_store_meta_u64(store, SS_META_STOPS,
                    ss_store_meta_number(store, SS_META_STOPS) + counts->stops);
  ss_store_meta_u64(store, SS_META_STOP_TOTAL_NS,
                    ss_store_meta_number(store, SS_META_STOP_TOTAL_NS) +
                        counts->stop_total_ns);
  ss_store_meta_u64(store, SS_META_STOP_MAX_NS,
                    counts->stop_max_ns > max_ns ? counts->stop_max_ns : max_ns);
}

static void finish_hidden(struct ss_pipeline *p)
{
  struct ss_store *store = p->config.store;
  struct ss_hidden_counts counts;

  if (p->hidden == NULL)
    return;
  ss_hidden_counts(p->hidden, &counts);
  ss_store_meta_u64(store, SS_META_HIDDEN_UNKNOWN_NS, counts.unknown_ns);
  ss_store_meta_u64(store, SS_META_HIDDEN_PLACED_NS, counts.placed_ns);
  if (!p->facts.faults)
    return;
  ss_store_meta_u64(store, SS_META_HIDDEN_FAULT_NS, counts.fault_ns);
  ss_store_meta_u64(store, SS_META_FAULTS, counts.faults);
  if (counts.fault_cost_ns > 0)
    ss_store_meta_u64(store, SS_META_FAULT_COST_NS, counts.fault_cost_ns);
  if (counts.huge_cost_ns > 0)
    ss_store_meta_u64(store, SS_META_HUGE_FAULT_COST_NS, counts.huge_cost_ns);
}

static void add_doubts(const struct ss_pipeline *p)
{
  struct ss_buf json = {0};
  uint64_t torn = 0;

  for (size_t i = 1; i < SS_PY_DOUBT_COUNT; i++)
    torn += ss_py_doubt_is_torn((enum ss_py_doubt)i) ? p->doubts[i] : 0;
  ss_store_meta_u64(p->config.store, SS_META_TORN, torn);
  for (size_t i = 1; i < SS_PY_DOUBT_COUNT; i++)
    if (p->doubts[i] > 0)
      ss_buf_addf(&json, "%s{\"why\":\"%s\",\"count\":%" PRIu64 "}", json.len ? "," : "[",
                  ss_py_doubt_text((enum ss_py_doubt)i), p->doubts[i]);
  if (json.len > 0) {
    ss_buf_addc(&json, ']');
    ss_store_meta(p->config.store, SS_META_UNVERIFIED, ss_buf_str(&json));
  }
  ss_buf_release(&json);
}

void ss_pipeline_finish(struct ss_pipeline *p)
{
  struct ss_store *store = p->config.store;
  struct ss_capture_counts counts;
  struct ss_diag diag = {0};

  ss_capture_counts(p->config.capture, &counts);
  counts.stops += p->looking.stops;
  counts.stop_total_ns += p->looking.stop_total_ns;
  if (p->looking.stop_max_ns > counts.stop_max_ns)
    counts.stop_max_ns = p->looking.stop_max_ns;
  add_stops(store, &counts);
  if (p->n_hushed > 0)
    ss_store_meta_u64(store, SS_META_SWITCHES_DROPPED, p->n_hushed);
  if (counts.plans_cut > 0)
    ss_note(p->config.notes,
            "at %" PRIu64 " samples there was more to read than the limit of %u KB",
            counts.plans_cut, SS_PLAN_BYTES_MAX >> 10);
  ss_store_meta_u64(store, SS_META_LOST, counts.lost);
  ss_store_meta_u64(store, SS_META_REJECTED, p->n_rejected + counts.undecodable);
  if (p->py_rejected > 0)
    ss_store_meta_u64(store, SS_META_PY_UNREAD, p->py_rejected);
  add_doubts(p);
  ss_store_meta_u64(store, SS_META_AUDIT_CHECKED, p->n_audited);
  ss_store_meta_u64(store, SS_META_AUDIT_DIFFER, p->n_audit_differs);
  if (p->config.perf)
    ss_store_meta_u64(store, SS_META_TASK_CLOCK_NS, ss_perf_count_ns(p->config.perf));
  finish_hidden(p);
  ss_store_meta(store, SS_META_REALTIME_READER, counts.fifo ? "yes" : "no");
  if (ss_names_resolve(store, p->modules, &diag) != SS_ERR_OK)
    ss_note(p->config.notes, "some names are missing: %s", diag.text);
}

void ss_pipeline_free(struct ss_pipeline *p)
{
  if (p == NULL)
    return;
  ss_tracked_free(p);
  ss_looking_free(p);
  ss_ledger_free(p->ledger);
  ss_hidden_free(p->hidden);
  ss_spinning_release(p);
  ss_unwinder_free(p->unwinder);
  ss_kallsyms_free(p->kallsyms);
  ss_modules_free(p->modules);
  ss_paths_free(p->paths);
  pthread_mutex_destroy(&p->now_lock);
  free(p->native);
  free(p->merged);
  free(p->path);
  free(p->path_lines);
  free(p);
}
