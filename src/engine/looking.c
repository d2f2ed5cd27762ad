/*
 * Looks at waiting threads: at each tick of the period every thread whose present
 * wait has no look gets one, without being stopped. A long wait keeps its look, so
 * threads that sleep cost nothing.
 *
 * Who waits is told by switch records as soon as stage 1 has them, before their
 * turn. A look is of the present, the records are some milliseconds behind: looks
 * queue until the records have come to their time, and the ledger then decides which
 * wait it was. What the kernel says of a thread at the look (/proc/PID/task/TID/
 * syscall) is always checked: one that runs is left for the next round.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/limits.h"
#include "stacksample/sys.h"

#include "pipeline_priv.h"

/* Looks closer than this cost more than they tell. */
#define TICK_MIN_NS 5000000ull
/* So much of the time is for looks, saved up for when many threads begin to wait at
 * once; who is left comes with the next round. */
#define SHARE_OF_TIME 50
#define SAVED_MAX_NS 200000000ull
#define ROUND_MAX_NS 10000000ull /* samples wait meanwhile */
/* After so many in which nobody waited anew, rounds come when stage 2 wakes anyhow. */
#define QUIET_ROUNDS 5
/* For a look that sp and ip alone cannot give. */
#define STOP_DEADLINE_MS 20
/* Of a thread: its stacks do not come out complete so, too. */
#define USELESS_STOPS_MAX 3
#define STOPS_APART_NS 10000000ull
/* Rounds for which a wait's look is put off until it may be stopped for it. */
#define PUT_OFF_MAX 20
/* Between visits of a thread that waits for long, where its switches are not known. */
#define BLIND_GAP_MAX_NS 1000000000ull

static uint64_t tick_ns(const struct ss_pipeline *p)
{
  return p->facts.period_ns > TICK_MIN_NS ? p->facts.period_ns : TICK_MIN_NS;
}

/* ---- who waits ------------------------------------------------------------------- */

static bool is_listed(const struct ss_thread *t)
{
  return t->look_link != NULL;
}

static void unlist(struct ss_looking *l, struct ss_thread *t)
{
  if (!is_listed(t))
    return;
  *t->look_link = t->look_next;
  if (t->look_next)
    t->look_next->look_link = t->look_link;
  else
    l->end = t->look_link;
  t->look_next = NULL;
  t->look_link = NULL;
  l->waiting--;
}

static void list(struct ss_looking *l, struct ss_thread *t)
{
  if (is_listed(t))
    return;
  t->look_next = NULL;
  t->look_link = l->end;
  *l->end = t;
  l->end = &t->look_next;
  l->waiting++;
}

void ss_looking_switch(struct ss_pipeline *p, struct ss_thread *t, uint64_t time_ns,
                       bool waits)
{
  if (!p->looking.on || t->blind || time_ns <= t->switch_ns)
    return;
  t->switch_ns = time_ns;
  unlist(&p->looking, t); /* whatever it waits for now, it is another wait */
  if (waits)
    list(&p->looking, t);
}

void ss_looking_blind(struct ss_pipeline *p, struct ss_thread *t, bool blind)
{
  t->blind = blind;
  t->blind_known = false;
  t->blind_gap_ns = t->blind_ns = 0;
  unlist(&p->looking, t);
  if (blind && p->looking.on)
    list(&p->looking, t);
}

static void early_switch(void *arg, pid_t pid, pid_t tid, uint64_t time_ns, bool out,
                         bool preempted)
{
  struct ss_pipeline *p = arg;
  uint64_t *found = ss_idmap_get(&p->by_tid, (uint64_t)tid);
  struct ss_thread *t = found ? (struct ss_thread *)(uintptr_t)*found : NULL;

  if (t && t->process->pid == pid)
    ss_looking_switch(p, t, time_ns, out && !preempted);
}

void ss_looking_forget(struct ss_pipeline *p, struct ss_thread *t)
{
  struct ss_looking *l = &p->looking;

  if (!l->on)
    return;
  unlist(l, t);
  for (size_t i = l->done; i < l->count; i++)
    if (l->queue[i].thread == t)
      l->queue[i].thread = NULL;
}

/* ---- looks wait for their records ------------------------------------------------- */

static void enqueue(struct ss_looking *l, const struct ss_queued_look *look)
{
  if (ss_grow(&l->queue, &l->cap, l->count + 1, sizeof(*l->queue)))
    l->queue[l->count++] = *look;
}

void ss_looking_due(struct ss_pipeline *p, uint64_t time_ns)
{
  struct ss_looking *l = &p->looking;

  while (l->done < l->count && l->queue[l->done].time_ns <= time_ns) {
    const struct ss_queued_look *look = &l->queue[l->done++];
    if (look->round)
      ss_ledger_round(p->ledger);
    else if (look->thread)
      ss_ledger_look(look->thread->ledger, look->time_ns, &look->wait,
                     look->stands_for_ns);
  }
}

/* ---- why it waits ---------------------------------------------------------------- */

void ss_looking_reason(struct ss_pipeline *p, struct ss_thread *t,
                       const struct ss_waiting_seen *seen, const struct ss_frame *frames,
                       size_t native, const struct ss_mem *mem, struct ss_waiting *out)
{
  const char *names[SS_WAITING_NAMES];
  size_t n = native < SS_WAITING_NAMES ? native : SS_WAITING_NAMES;

  for (size_t i = 0; i < n; i++) {
    const struct ss_frame *f = &frames[i];
    struct ss_symbol symbol;
    names[i] = f->module ? f->module->name : NULL;
    if (f->module && ss_waiting_wants(f->module->name) &&
        ss_module_symbol(ss_modules_at(p->modules, f->module->id), f->vaddr, &symbol))
      names[i] = symbol.name;
  }
  ss_waiting_of(seen, t->process->pid, t->tid, names, n, t->process->py, mem, out);
}

/* Python's name of a thread, looked up once: its objects are not read for every look. */
static const char *python_name(struct ss_pipeline *p, pid_t tid)
{
  uint64_t *found = ss_idmap_get(&p->by_tid, (uint64_t)tid);
  struct ss_thread *t = found ? (struct ss_thread *)(uintptr_t)*found : NULL;
  char name[64];

  if (t == NULL || t->process->py == NULL)
    return NULL;
  if (t->py_name == 0 && ss_py_thread_name(t->process->py, tid, name, sizeof(name)))
    t->py_name = ss_store_string(p->config.store, name, strlen(name)) + 1;
  return t->py_name > 0 ? ss_store_str(p->config.store, t->py_name - 1) : NULL;
}

void ss_looking_say(struct ss_pipeline *p, struct ss_thread *t,
                    const struct ss_waiting *waiting, char *text, size_t cap)
{
  pid_t holder = waiting->gil_holder;
  const char *name = NULL;

  if (waiting->state == SS_STATE_GIL && holder > 0 && holder != t->tid)
    name = python_name(p, holder);
  if (name)
    snprintf(text, cap, "[gil: held by %s]", name);
  else
    snprintf(text, cap, "%s", waiting->reason);
}

/* ---- one look -------------------------------------------------------------------- */

struct looking_at {
  struct ss_pipeline *p;
  struct ss_thread *t;
  struct ss_captured captured;
  bool copied;
};

static void copy_now(void *arg, const struct ss_regs *regs)
{
  struct looking_at *a = arg;
  struct ss_process *proc = a->t->process;
  struct ss_captured *c = &a->captured;

  c->rec.u.sample.regs = *regs;
  c->rec.u.sample.stack_len = ss_mem_read(&proc->live.mem, regs->r[SS_REG_SP],
                                          a->p->looking.stack, SS_STACK_SNAPSHOT_DEFAULT);
  c->plan.count = 0;
  c->raw_len = 0;
  if (proc->py && ss_py_plan_look(proc->py, a->t->tid, &c->plan))
    c->raw_len =
        ss_read_plan_run(&c->plan, proc->pid, a->p->looking.raw, SS_PLAN_BYTES_MAX);
  a->copied = true;
}

/* Only where sp and ip alone do not lead to the thread's start; never where the call
 * would end with EINTR for it, unless the user said that this may be. */
static bool wants_stop(const struct ss_pipeline *p, const struct ss_thread *t,
                       const struct ss_waiting_seen *seen, const struct ss_wait *wait)
{
  const struct ss_blocked *b = &seen->blocked;

  return wait->end != SS_END_COMPLETE && !p->config.no_native &&
         seen->task_state == 'S' && b->nr >= 0 && t->useless_stops < USELESS_STOPS_MAX &&
         (p->config.stop_any || !ss_arch_syscall(b->nr).eintr);
}

/* The wait goes on after a stop as a new one: it keeps the stack that the stop gave. */
static bool is_known_from_stop(const struct ss_thread *t, const struct looking_at *a,
                               const struct ss_blocked *b, uint64_t *hash)
{
  const uint64_t key[3] = {
      b->sp, b->ip,
      ss_hash_bytes(a->captured.rec.u.sample.stack, a->captured.rec.u.sample.stack_len)};

  *hash = ss_hash_bytes(key, sizeof(key)) | 1;
  return *hash == t->stopped_hash;
}

static void stop_for_look(struct looking_at *a, const struct ss_waiting_seen *seen,
                          uint64_t hash, struct ss_wait *wait)
{
  struct ss_looking *l = &a->p->looking;
  uint64_t stopped_ns = 0;

  a->copied = false;
  l->stop_ns = ss_now_ns();
  (void)ss_stop_look(a->t->tid, STOP_DEADLINE_MS, copy_now, a, &stopped_ns, NULL);
  if (!a->copied)
    return;
  l->stops++;
  l->stop_total_ns += stopped_ns;
  if (stopped_ns > l->stop_max_ns)
    l->stop_max_ns = stopped_ns;
  ss_stacking_wait(a->p, a->t, &a->captured, true, seen, wait);
  a->t->useless_stops += wait->end != SS_END_COMPLETE;
  a->t->stopped_hash = hash;
  a->t->stopped_wait = *wait;
}

static bool still_waits(const struct ss_thread *t, const struct ss_blocked *b)
{
  struct ss_blocked now;

  return ss_blocked_read(&now, t->process->pid, t->tid) && !now.running &&
         now.sp == b->sp && now.ip == b->ip && now.nr == b->nr;
}

/* false: not now. */
static bool look_at(struct ss_pipeline *p, struct ss_thread *t,
                    const struct ss_waiting_seen *seen, uint64_t stands_for_ns)
{
  struct ss_looking *l = &p->looking;
  struct ss_queued_look look = {
      .time_ns = ss_now_ns(), .thread = t, .stands_for_ns = stands_for_ns};
  struct looking_at a = {.p = p, .t = t};
  struct ss_regs regs = {0};
  uint64_t hash;

  a.captured.rec = (struct ss_record){.type = SS_REC_SAMPLE,
                                      .pid = t->process->pid,
                                      .tid = t->tid,
                                      .time_ns = look.time_ns};
  a.captured.rec.u.sample.has_regs = seen->blocked.sp != 0;
  a.captured.rec.u.sample.stack = l->stack;
  a.captured.read_ns = look.time_ns;
  a.captured.raw = l->raw;
  regs.r[SS_REG_SP] = seen->blocked.sp;
  regs.r[SS_REG_IP] = seen->blocked.ip;
  copy_now(&a, &regs);
  if (!still_waits(t, &seen->blocked))
    return false; /* what was copied is not one moment's */
  if (is_known_from_stop(t, &a, &seen->blocked, &hash)) {
    look.wait = t->stopped_wait;
  } else {
    ss_stacking_wait(p, t, &a.captured, false, seen, &look.wait);
    if (wants_stop(p, t, seen, &look.wait)) {
      bool early = look.time_ns < l->stop_ns + STOPS_APART_NS;
      if (early && t->put_off++ < PUT_OFF_MAX)
        return false;
      if (!early)
        stop_for_look(&a, seen, hash, &look.wait);
    }
  }
  t->put_off = 0;
  t->blind_wait = look.wait;
  enqueue(l, &look);
  l->looks++;
  return true;
}

/* ---- a round --------------------------------------------------------------------- */

/* One whose switches are not known. That it waits is seen at each visit; that it still
 * does, by its CPU time; the longer it does, the rarer are the visits. */
static void visit_blind(struct ss_pipeline *p, struct ss_thread *t, uint64_t now_ns)
{
  struct ss_queued_look again = {.time_ns = now_ns, .thread = t, .wait = t->blind_wait};
  uint64_t since = t->blind_ns > 0 ? now_ns - t->blind_ns : tick_ns(p);
  uint64_t cpu_ns = 0, wait_ns;
  struct ss_waiting_seen seen;

  if (now_ns < t->blind_ns + t->blind_gap_ns)
    return;
  if (!ss_schedstat_read(t->process->pid, t->tid, &cpu_ns, &wait_ns))
    return;
  if (t->blind_known && cpu_ns == t->blind_cpu_ns) {
    again.stands_for_ns = since;
    enqueue(&p->looking, &again);
    t->blind_gap_ns = t->blind_gap_ns < BLIND_GAP_MAX_NS
                          ? t->blind_gap_ns * 2 + tick_ns(p)
                          : BLIND_GAP_MAX_NS;
  } else {
    /* What of a long time since was this wait, is not known. */
    since = since < 2 * tick_ns(p) ? since : tick_ns(p);
    t->blind_known = ss_waiting_read(&seen, t->process->pid, t->tid) &&
                     ss_waiting_is_off(&seen) &&
                     seen.task_state != 't' && /* stopped by us, most likely */
                     look_at(p, t, &seen, since);
    t->blind_gap_ns = 0;
  }
  t->blind_cpu_ns = cpu_ns;
  t->blind_ns = now_ns;
}

/* Looks at all that wait, as far as there is time; how many were seen. */
static size_t look_round(struct ss_pipeline *p, uint64_t until_cpu_ns)
{
  struct ss_looking *l = &p->looking;
  size_t todo = l->waiting, seen_count = 0;
  struct ss_waiting_seen seen;

  for (struct ss_thread *t = l->first, *next; t && seen_count < todo; t = next) {
    next = t->look_next;
    if (seen_count > 0 && ss_thread_cpu_ns() > until_cpu_ns)
      break;
    seen_count++;
    if (t->blind) { /* it stays, as the last one */
      visit_blind(p, t, ss_now_ns());
      unlist(l, t);
      list(l, t);
      continue;
    }
    bool readable = ss_waiting_read(&seen, t->process->pid, t->tid); /* else ended */
    if (!readable || (ss_waiting_is_off(&seen) && look_at(p, t, &seen, 0)))
      unlist(l, t);
  }
  return seen_count;
}

static void run_round(struct ss_pipeline *p, uint64_t now_ns)
{
  struct ss_looking *l = &p->looking;
  uint64_t since = l->round_ns && now_ns > l->round_ns ? now_ns - l->round_ns : 0;
  uint64_t began = ss_thread_cpu_ns(), used;
  size_t todo = l->waiting, first, seen;

  if (l->done > 0) {
    l->count -= l->done;
    memmove(l->queue, l->queue + l->done, l->count * sizeof(*l->queue));
    l->done = 0;
  }
  first = l->count;
  l->saved_ns = ss_least_ns(l->saved_ns + since / SHARE_OF_TIME, SAVED_MAX_NS);
  seen = look_round(p, began + ss_least_ns(l->saved_ns, ROUND_MAX_NS));
  used = ss_thread_cpu_ns() - began;
  l->saved_ns -= ss_least_ns(used, l->saved_ns);
  l->rounds++;
  if (seen < todo)
    l->cut++;
  else
    enqueue(l, &(struct ss_queued_look){.time_ns = ss_now_ns(), .round = true});
  for (size_t i = first; i < l->count && seen > 0; i++)
    if (l->queue[i].stands_for_ns == 0)
      l->queue[i].stands_for_ns = since * todo / seen;
  l->round_ns = now_ns;
}

int ss_looking_round(struct ss_pipeline *p, uint64_t now_ns)
{
  struct ss_looking *l = &p->looking;
  uint64_t due_ns = l->round_ns + tick_ns(p);

  if (!l->on)
    return INT32_MAX;
  if (now_ns < due_ns)
    return (int)((due_ns - now_ns + 999999) / 1000000);
  ss_capture_peek(p->config.capture);
  l->quiet = l->waiting > 0 ? 0 : l->quiet + 1;
  run_round(p, now_ns);
  return l->quiet < QUIET_ROUNDS ? (int)(tick_ns(p) / 1000000) : INT32_MAX;
}

/* ---- life cycle ------------------------------------------------------------------ */

/* Time of waits: to the ledger's totals and as a row with the wait's stack. */
static void emit_wait(void *arg, uint32_t thread, uint32_t phase,
                      const struct ss_wait *wait, uint64_t end_ns, uint64_t ns)
{
  struct ss_pipeline *p = arg;
  struct ss_sample_row row = {
      .time_ns = end_ns,
      .weight_ns = ns,
      .thread = thread,
      .stack = wait->stack,
      .phase = phase,
      .state = wait->state,
      .end = wait->end,
      .method = wait->method,
      .merge = wait->merge,
  };

  ss_store_time(p->config.store, thread, phase, (enum ss_state)wait->state, ns);
  ss_store_sample(p->config.store, &row);
}

bool ss_looking_start(struct ss_pipeline *p)
{
  struct ss_looking *l = &p->looking;

  l->end = &l->first;
  if (p->config.cpu_only)
    return true;
  l->stack = malloc(SS_STACK_SNAPSHOT_DEFAULT);
  l->raw = malloc(SS_PLAN_BYTES_MAX);
  if (l->stack == NULL || l->raw == NULL)
    return false;
  l->on = true;
  l->saved_ns = SAVED_MAX_NS;
  ss_ledger_waits(p->ledger, emit_wait);
  if (p->facts.switches)
    ss_capture_watch(p->config.capture, early_switch, p);
  return true;
}

void ss_looking_free(struct ss_pipeline *p)
{
  free(p->looking.stack);
  free(p->looking.raw);
  free(p->looking.queue);
}
