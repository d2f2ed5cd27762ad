/*
 * The ptrace engine: samples where perf is refused.
 *
 * Once a period each thread whose CPU time has grown by a period since it was last
 * sampled is looked at, one after the other. One that runs at this moment is stopped
 * for the time of one copy (SEIZE, INTERRUPT, registers, stack, DETACH) and stands for
 * the whole periods that it has used. One that is blocked is left alone; its CPU time
 * waits for the next time that it is seen running.
 *
 * Key invariants: nobody is kept seized between samples, but for a thread that is
 * still to come to its stop; all stops together take SS_STOP_BUDGET_PCT of the time,
 * beyond which the turn goes round and samples stand for more.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "stacksample/limits.h"
#include "stacksample/sys.h"
#include "tracer_priv.h"

#define HELD_TICK_NS 2000000ull     /* the exec is to be seen soon */
#define STOP_PATIENCE_NS 1000000ull /* for one thread; then others have their turn */
#define STOP_STEP_NS 10000          /* a thread that runs stops within 20 us */
#define PENDING_STEP_NS 250000ull   /* of looks at threads that are late to stop */
#define REFUSED_NS 1000000000ull    /* before one is asked again */
#define BUDGET_SAVED_NS 20000000ull /* of an idle time's that may be used later */

/* ---- one sample ------------------------------------------------------------------ */

static void count_stop(struct ss_tracer *t, uint64_t stopped_ns)
{
  t->budget_used_ns += stopped_ns;
  atomic_fetch_add(&t->stops, 1);
  atomic_fetch_add(&t->stop_total_ns, stopped_ns);
  if (stopped_ns > atomic_load(&t->stop_max_ns))
    atomic_store(&t->stop_max_ns, stopped_ns);
}

/* Follows the list that begins in what has been read. */
static void chase(struct ss_tracer *t, struct ss_own_record *own,
                  const struct ss_read_plan *plan)
{
  struct ss_span spans[SS_PLAN_REGIONS_MAX + 1];
  struct ss_mem_spans known;
  size_t count = 0;
  if (plan->chase.start == 0 || own->raw_len == 0)
    return;
  spans[count++] =
      (struct ss_span){own->rec.u.sample.regs.r[SS_REG_SP], own->tail_len, t->stack};
  count +=
      ss_read_plan_spans(plan, t->raw, own->raw_len, spans + count, SS_PLAN_REGIONS_MAX);
  ss_mem_spans_init(&known, spans, count, NULL);
  ss_chase_run(&plan->chase, own->rec.pid, &known.mem, t->capture->seen, own->read_ns,
               &own->chased);
}

/* It stands still: copies, lets it go, and only then does the rest. */
static void take_sample(struct ss_tracer *t, struct ss_runner *r)
{
  struct ss_read_plan plan = {.count = 0};
  pid_t pid = r->process->pid;
  struct ss_own_record own = {
      .rec = {.type = SS_REC_SAMPLE, .pid = pid, .tid = r->tid, .time_ns = ss_now_ns()},
      .tail = t->stack,
      .plan = &plan,
      .raw = t->raw};
  struct ss_regs *regs = &own.rec.u.sample.regs;
  own.chased = t->chased;
  bool has_plan = ss_plans_get(t->capture->plans, pid, r->tid, &plan);
  long call = -1;
  if (ss_arch_ptrace_regs(r->tid, regs)) {
    call = ss_arch_ptrace_call(r->tid);
    ss_stop_undo_eintr(&r->stop);
    own.rec.u.sample.has_regs = true;
    own.rec.u.sample.ip = regs->r[SS_REG_IP];
    own.tail_len = ss_mem_read(&r->process->live.mem, regs->r[SS_REG_SP], t->stack,
                               t->config.snapshot);
    own.read_ns = ss_now_ns();
    if (has_plan) {
      ss_read_plan_stack(&plan, regs->r[SS_REG_SP], own.tail_len);
      own.raw_len =
          ss_read_plan_run(&plan, pid, t->raw, ss_capture_plan_bytes(t->cpu, &plan));
      chase(t, &own, &plan);
    }
  }
  count_stop(t, ss_stop_release(&r->stop));
  if (own.rec.u.sample.has_regs) {
    ss_tell_in(t, r, own.rec.time_ns);
    ss_tell_sample(t, r, &own, call);
    ss_tell_out(t, r, own.rec.time_ns);
  }
}

/* ---- stops ------------------------------------------------------------------------- */

/* true: nothing is left to wait for. */
static bool poll_stop(struct ss_tracer *t, struct ss_runner *r)
{
  switch (ss_stop_poll(&r->stop)) {
  case SS_STOP_NOT_YET:
    return false;
  case SS_STOP_STOPPED:
    take_sample(t, r);
    break;
  case SS_STOP_GONE:
    r->gone = true;
    break;
  }
  if (r->stopping) {
    r->stopping = false;
    t->stopping--;
  }
  return true;
}

static void poll_pending(struct ss_tracer *t)
{
  for (size_t i = 0; i < t->count && t->stopping > 0; i++)
    if (t->runners[i]->stopping)
      (void)poll_stop(t, t->runners[i]);
}

/* Said once a process: its time is accounted all the same. */
static void refused(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  pid_t tracer = ss_tracer_of(r->tid);
  struct ss_watched *p = r->process;
  if (tracer == getpid()) /* a dump of ours has it at this moment */
    return;
  r->refused_ns = now_ns + REFUSED_NS;
  ss_tell_unseen(t, r, now_ns);
  if (p->said_traced)
    return;
  p->said_traced = true;
  if (tracer > 0) {
    ss_note(t->config.notes,
            "process %d is traced by process %d already: its time is accounted, without "
            "stacks",
            (int)p->pid, (int)tracer);
  } else {
    ss_note(t->config.notes,
            "process %d may not be traced: its time is accounted, without stacks",
            (int)p->pid);
  }
}

static void stop_and_sample(struct ss_tracer *t, struct ss_runner *r)
{
  uint64_t now_ns = ss_now_ns();
  struct ss_diag diag = {0};
  if (ss_stop_ask(&r->stop, r->tid, &diag) != SS_ERR_OK) {
    if (diag.err == SS_ERR_ACCESS)
      refused(t, r, now_ns);
    else
      r->gone = diag.err == SS_ERR_GONE;
    return;
  }
  do {
    ss_sleep_ns(STOP_STEP_NS);
    if (poll_stop(t, r))
      return;
  } while (ss_now_ns() < now_ns + STOP_PATIENCE_NS);
  r->stopping = true;
  t->stopping++;
}

/* Code that is mapped now and was not when the mappings were last read. */
static void note_mappings(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  struct ss_watched *p = r->process;
  if (now_ns < p->exec_kb_ns + t->facts.period_ns)
    return;
  uint64_t exec_kb = ss_exec_kb(p->pid, r->tid);
  p->exec_kb_ns = now_ns;
  if (exec_kb == 0 || exec_kb == p->exec_kb)
    return;
  if (p->exec_kb != 0) {
    struct ss_record rec = {
        .type = SS_REC_REMAP, .pid = p->pid, .tid = r->tid, .time_ns = now_ns};
    ss_tell(t, &rec, NULL);
  }
  p->exec_kb = exec_kb;
}

/* Running, and to be stopped? A thread that waits in a system call never is. */
static bool may_be_stopped(struct ss_tracer *t, struct ss_runner *r)
{
  struct ss_blocked blocked;
  struct ss_stat st;
  if (!ss_stat_read(&st, r->process->pid, r->tid))
    return false;
  ss_watch_stat(t, r, &st);
  return st.state == 'R' && !r->process->held &&
         ss_blocked_read(&blocked, r->process->pid, r->tid) && blocked.running;
}

/* ---- one round ------------------------------------------------------------------- */

static bool within_budget(struct ss_tracer *t, uint64_t now_ns)
{
  uint64_t earned_ns = (now_ns - t->start_ns) / 100 * SS_STOP_BUDGET_PCT;
  if (earned_ns > t->budget_used_ns + BUDGET_SAVED_NS)
    t->budget_used_ns = earned_ns - BUDGET_SAVED_NS;
  return t->budget_used_ns < earned_ns;
}

static void take_turns(struct ss_tracer *t, uint64_t now_ns)
{
  size_t count = t->count;
  for (size_t i = 0; i < count; i++) {
    struct ss_runner *r = t->runners[(t->turn + i) % count];
    if (r->gone || r->stopping || r->process->held || ss_periods_due(t, r) == 0 ||
        now_ns < r->refused_ns)
      continue;
    if (!within_budget(t, ss_now_ns())) {
      t->merged_for_budget++;
      t->turn = (t->turn + i) % count; /* it is the first of the next round */
      return;
    }
    if (may_be_stopped(t, r)) {
      note_mappings(t, r, now_ns);
      stop_and_sample(t, r);
    }
  }
}

static void publish(struct ss_tracer *t)
{
  struct ss_cpu *cpu = t->cpu;
  atomic_store_explicit(&cpu->drained_ns, t->bound_ns, memory_order_release);
  if (ss_queue_used(&cpu->queue) > SS_QUEUE_BYTES / 4)
    ss_capture_wake_stage_2(t->capture);
}

/* Rounds keep no beat with what the target does. */
static uint64_t next_period(struct ss_tracer *t)
{
  uint64_t period_ns = t->facts.period_ns;
  if (t->processes && t->processes->held && period_ns > HELD_TICK_NS)
    return HELD_TICK_NS;
  t->random = t->random * 6364136223846793005u + 1442695040888963407u;
  return period_ns / 4 * 3 + (t->random >> 33) % (period_ns / 2 + 1);
}

static void rest_until(struct ss_tracer *t, uint64_t until_ns)
{
  for (uint64_t now_ns = ss_now_ns(); now_ns < until_ns; now_ns = ss_now_ns()) {
    uint64_t left_ns = until_ns - now_ns;
    poll_pending(t);
    ss_sleep_ns(t->stopping > 0 && left_ns > PENDING_STEP_NS ? PENDING_STEP_NS : left_ns);
  }
}

/* Those that were asked must not be left to our exit: a signal that comes before it
 * would be lost. A thread that will not come is left to it all the same. */
static void await_last(struct ss_tracer *t)
{
  uint64_t until_ns = ss_now_ns() + 100000000;
  while (t->stopping > 0 && ss_now_ns() < until_ns) {
    poll_pending(t);
    ss_sleep_ns(PENDING_STEP_NS);
  }
}

static void *run(void *arg)
{
  struct ss_tracer *t = arg;
  struct sched_param param = {.sched_priority = 1};
  pthread_setname_np(pthread_self(), "ss-tracer");
  prctl(PR_SET_TIMERSLACK, 1);
  atomic_store(&t->cpu->fifo,
               sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) == 0);
  while (!atomic_load(&t->capture->stopping)) {
    uint64_t now_ns = ss_now_ns();
    ss_watch_look(t, now_ns);
    take_turns(t, now_ns);
    publish(t);
    rest_until(t, now_ns + next_period(t));
  }
  await_last(t);
  for (size_t i = 0; i < t->count; i++)
    ss_tell_rest(t, t->runners[i], ss_now_ns());
  if (t->merged_for_budget > 0) {
    ss_note(t->config.notes,
            "stops were held within %d %% of the time: some samples stand for more than "
            "one period",
            SS_STOP_BUDGET_PCT);
  }
  atomic_store(&t->cpu->own_ns, ss_thread_cpu_ns());
  return NULL;
}

/* ---- start and stop -------------------------------------------------------------- */

static void no_look(void *arg, const struct ss_regs *regs)
{
  (void)arg;
  (void)regs;
}

/* The real thing, on the root: it is stopped once. */
static enum ss_err probe(pid_t root, struct ss_diag *diag)
{
  struct ss_diag why = {0};
  enum ss_err err = ss_stop_look(root, 1000, no_look, NULL, NULL, &why);
  pid_t tracer = err == SS_ERR_ACCESS ? ss_tracer_of(root) : 0;
  if (err != SS_ERR_ACCESS || tracer > 0)
    return SS_ERR_OK; /* refused for now at most: said when its turn comes */
  return ss_fail(diag, SS_ERR_ACCESS, "ptrace is refused, too (%s)", why.text);
}

static enum ss_err start(struct ss_tracer *t, struct ss_diag *diag)
{
  struct ss_cpu *cpu = t->cpu;
  t->stack = malloc(t->config.snapshot);
  t->raw = malloc(SS_PLAN_BYTES_MAX);
  t->chased.regions = calloc(SS_CHASE_REGIONS, sizeof *t->chased.regions);
  t->chased.bytes = malloc(SS_CHASE_BYTES);
  cpu->capture = t->capture;
  cpu->kick = cpu->epoll = -1;
  t->capture->cpu_count = 1;
  if (!t->stack || !t->raw || !t->chased.regions || !t->chased.bytes ||
      !ss_queue_init(&cpu->queue, SS_QUEUE_BYTES))
    return ss_fail(diag, SS_ERR_NOMEM, "the ptrace engine");
  if (!ss_watch_begin(t, diag))
    return SS_ERR_GONE;
  t->start_ns = ss_now_ns();
  t->random = t->start_ns | 1;
  errno = pthread_create(&t->thread, NULL, run, t);
  if (errno != 0)
    return ss_fail_errno(diag, "the ptrace engine's thread");
  t->started = true;
  return SS_ERR_OK;
}

enum ss_err ss_capture_start_tracer(struct ss_capture **capture, pid_t root,
                                    const struct ss_tracer_config *config,
                                    struct ss_diag *diag)
{
  struct ss_capture *c;
  *capture = NULL;
  enum ss_err err = probe(root, diag);
  if (err == SS_ERR_OK)
    err = ss_capture_new(&c, 1, config->notes, diag);
  if (err != SS_ERR_OK)
    return err;
  struct ss_tracer *t = calloc(1, sizeof *t);
  if (!t) {
    ss_capture_free(c);
    return ss_fail(diag, SS_ERR_NOMEM, "the ptrace engine");
  }
  t->config = *config;
  t->facts = (struct ss_perf_facts){.kernel_samples = true,
                                    .switches = true, /* made of who has run */
                                    .snapshot = config->snapshot,
                                    .period_ns = 1000000000u / config->rate_hz};
  t->capture = c;
  t->cpu = &c->cpus[0];
  t->root = root;
  t->loadavg = -1;
  c->tracer = t;
  c->facts = &t->facts;
  err = start(t, diag);
  if (err != SS_ERR_OK) {
    ss_capture_free(c);
    return err;
  }
  *capture = c;
  return SS_ERR_OK;
}

void ss_tracer_join(struct ss_tracer *t)
{
  if (t && t->started) {
    pthread_join(t->thread, NULL);
    t->started = false;
  }
}

void ss_tracer_free(struct ss_tracer *t)
{
  if (!t)
    return;
  ss_watch_release(t);
  free(t->stack);
  free(t->raw);
  free(t->chased.regions);
  free(t->chased.bytes);
  free(t);
}

void ss_tracer_counts(const struct ss_tracer *t, struct ss_capture_counts *out)
{
  out->stops = atomic_load(&t->stops);
  out->stop_total_ns = atomic_load(&t->stop_total_ns);
  out->stop_max_ns = atomic_load(&t->stop_max_ns);
}
