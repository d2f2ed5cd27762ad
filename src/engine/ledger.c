/*
 * A thread's life in states. Between two settlements the time since the last is kept
 * by phase as what switch records say it was: on a CPU, preempted, off, stopped, or
 * unknown, where records are missing. A settlement makes states of it:
 *
 * - CPU time is what the kernel's reading says (switch intervals are short of it
 *   where switches are many: the switch itself falls outside); switch intervals
 *   are its shape. Without a reading they are taken as they are.
 * - Runnable is what was preempted, and the kernel's further run-queue time (the
 *   wait after a wakeup), taken from the time off.
 * - The rest is waiting. Unknown time is settled by a reading: what the reading does
 *   not call CPU time was off the CPU.
 *
 * Key invariant: what goes in is what comes out, to the nanosecond. A reading lags
 * behind by up to a tick, so that much on-CPU time is kept for the next settlement;
 * more than that was stolen from the CPU itself (a hypervisor, interrupts), and the
 * thread was runnable.
 */
#include <stdlib.h>
#include <string.h>

#include "ledger_priv.h"
#include "stacksample/buf.h"

enum {
  SWITCH_COST_MAX = 20000, /* ns; more is something else */
  ENDS_A_TICK = 7,
  ROWS_MAX = 64,          /* phases in one window */
  READING_LAG = 20000000, /* ns: two ticks at HZ=100 */
  BLOCK_TICKS = 20        /* samples that divide a thread's CPU time */
};
#define WINDOW_NS 10000000000ull /* settled by then even without a reading */

struct row { /* of one phase, ns */
  uint32_t phase;
  uint64_t on, preempted, off, stopped, unknown;
  uint64_t samples[SS_CPU_KINDS];
};

struct reading {
  bool set;
  uint64_t time_ns, cpu_ns, runqueue_ns;
};

struct ss_ledger_thread {
  struct ss_ledger *ledger;
  struct ss_ledger_thread *next, **link;
  uint32_t id;
  /* The open interval. */
  uint64_t since_ns;
  uint32_t phase;
  bool on, preempted, stopped;
  bool unsure; /* a record of it is missing */
  /* The window. */
  uint64_t window_ns; /* its start */
  struct row *rows;
  size_t count, cap;
  /* All settled so far. */
  uint64_t cpu_ns, runnable_ns;
  uint64_t stolen_ns;     /* of runnable_ns: the kernel does not count it so */
  struct reading base;    /* at birth */
  struct reading pending; /* until records up to its time have come */
  struct ss_cpu_block block;
  uint64_t outs; /* switches in the window, each of which costs */
  /* The event's own clock: time on a CPU with its switches, stolen time included. */
  uint64_t clock_ns, ticks;
  uint64_t ended; /* the ledger's count when ticks were last taken */
};

/* ---- the window ----------------------------------------------------------------- */

/* The row of the present phase. There is always one; when memory is short, the last
 * one takes over: a phase may get a neighbour's time, but none is lost. */
static struct row *current_row(struct ss_ledger_thread *t)
{
  struct row *last = &t->rows[t->count - 1];
  if (last->phase == t->phase ||
      !ss_grow(&t->rows, &t->cap, t->count + 1, sizeof *t->rows)) {
    return last;
  }
  t->rows[t->count] = (struct row){.phase = t->phase};
  return &t->rows[t->count++];
}

static void close_interval(struct ss_ledger_thread *t, uint64_t time_ns)
{
  uint64_t len = ss_less(time_ns, t->since_ns);
  struct row *row = current_row(t);
  bool gap = t->ledger->gap_ns != 0 && t->ledger->gap_ns >= t->since_ns;
  if (t->unsure || (gap && t->ledger->switches)) {
    row->unknown += len;
  } else if (t->on && t->ledger->switches) {
    row->on += len;
    t->clock_ns += len;
  } else if (t->stopped) {
    row->stopped += len;
  } else if (t->preempted) {
    row->preempted += len;
  } else {
    row->off += len;
  }
  t->unsure = false;
  t->since_ns += len;
}

/* ---- settling ------------------------------------------------------------------- */

static uint64_t sampled_ns(const struct ss_ledger_thread *t, const struct row *row)
{
  uint64_t n = 0;
  for (int i = 0; i < SS_CPU_KINDS; i++) {
    n += row->samples[i];
  }
  return n * t->ledger->period_ns;
}

/* Samples prove CPU time that switch records do not show: all of it where there are
 * none, some of what is unknown where they are missing. */
static void believe_samples(struct ss_ledger_thread *t)
{
  for (size_t i = 0; i < t->count; i++) {
    struct row *row = &t->rows[i];
    uint64_t more = ss_less(sampled_ns(t, row), row->on);
    uint64_t *from = t->ledger->switches ? &row->unknown : &row->off;
    more = more < *from ? more : *from;
    row->on += more;
    t->clock_ns += more;
    *from -= more;
  }
}

struct sums {
  uint64_t on, preempted, off, unknown;
};

static struct sums sum_rows(const struct ss_ledger_thread *t)
{
  struct sums s = {0};
  for (size_t i = 0; i < t->count; i++) {
    s.on += t->rows[i].on;
    s.preempted += t->rows[i].preempted;
    s.off += t->rows[i].off;
    s.unknown += t->rows[i].unknown;
  }
  return s;
}

/* More CPU time than the switches show: out of the unknown first. Time that the
 * switches took ticks like the rest; what is unknown has lost its samples, too. */
static void lengthen_cpu(struct ss_ledger_thread *t, const struct sums *s, uint64_t more)
{
  uint64_t first = more < s->unknown ? more : s->unknown;
  uint64_t rest = ss_less(more, first);
  uint64_t idle = s->off + s->preempted;
  rest = rest < idle ? rest : idle;
  t->clock_ns += rest;
  struct ss_spread unknown = {.total = first, .sum = s->unknown};
  struct ss_spread other = {.total = rest, .sum = idle};
  for (size_t i = 0; i < t->count; i++) {
    struct row *row = &t->rows[i];
    uint64_t ns = ss_spread_next(&unknown, row->unknown);
    row->unknown -= ns;
    uint64_t off = ss_spread_next(&other, row->off);
    uint64_t preempted = ss_spread_next(&other, row->preempted);
    row->off -= off;
    row->preempted -= preempted;
    row->on += ns + off + preempted;
  }
}

/* On a CPU, but not for the thread: it was runnable. */
static void shorten_cpu(struct ss_ledger_thread *t, const struct sums *s, uint64_t less)
{
  struct ss_spread stolen = {.total = less, .sum = s->on};
  for (size_t i = 0; i < t->count; i++) {
    uint64_t ns = ss_spread_next(&stolen, t->rows[i].on);
    t->rows[i].on -= ns;
    t->rows[i].preempted += ns;
  }
}

/* Makes the rows agree with the kernel's CPU time. Returns how much of the newest
 * on-CPU time is to be kept for the next settlement. */
static uint64_t apply_cpu(struct ss_ledger_thread *t, uint64_t cpu_ns, bool last)
{
  struct sums s = sum_rows(t);
  uint64_t budget = ss_less(cpu_ns, t->cpu_ns);
  uint64_t kept = 0;
  if (s.unknown == 0) {
    t->ledger->extra_ns += (int64_t)budget - (int64_t)s.on;
    t->ledger->extra_outs += t->outs;
  }
  if (budget >= s.on) {
    lengthen_cpu(t, &s, budget - s.on);
  } else {
    uint64_t excess = s.on - budget;
    kept = last ? 0 : excess < READING_LAG ? excess : READING_LAG;
    shorten_cpu(t, &s, excess - kept);
    t->stolen_ns += excess - kept;
  }
  for (size_t i = 0; i < t->count; i++) { /* known by now not to be CPU time */
    t->rows[i].off += t->rows[i].unknown;
    t->rows[i].unknown = 0;
  }
  return kept;
}

/* Run-queue time beyond preemption is the wait between wakeup and CPU. */
static void apply_runqueue(struct ss_ledger_thread *t, uint64_t runqueue_ns)
{
  struct sums s = sum_rows(t);
  uint64_t known = t->runnable_ns + s.preempted - t->stolen_ns;
  uint64_t more = ss_less(runqueue_ns, known);
  more = more < s.off ? more : s.off;
  struct ss_spread spread = {.total = more, .sum = s.off};
  for (size_t i = 0; i < t->count; i++) {
    uint64_t ns = ss_spread_next(&spread, t->rows[i].off);
    t->rows[i].off -= ns;
    t->rows[i].preempted += ns;
  }
}

static void emit(struct ss_ledger_thread *t, uint32_t phase, enum ss_state state,
                 uint64_t ns)
{
  if (ns > 0) {
    t->ledger->emit(t->ledger->arg, t->id, phase, state, ns);
  }
}

static void add_cpu(struct ss_ledger_thread *t, const struct row *row, uint64_t ns)
{
  struct ss_cpu_row cpu = {.thread = t->id, .phase = row->phase, .cpu_ns = ns};
  memcpy(cpu.samples, row->samples, sizeof cpu.samples);
  ss_cpu_block_add(t->ledger, &t->block, &cpu);
  t->cpu_ns += ns;
}

/* Ticks since they were last taken. The kernel may swap the events of a thread with
 * those of one that it created rather than stop and start them; when that one ends,
 * the period that had begun is lost. Measured with a parent that waits for each
 * child: one tick in seven ends. */
static uint64_t take_ticks(struct ss_ledger_thread *t)
{
  struct ss_ledger *l = t->ledger;
  uint64_t clock_ns = l->switches ? t->clock_ns : t->cpu_ns;
  uint64_t ticks = clock_ns / l->period_ns;
  uint64_t fresh = ticks - t->ticks;
  uint64_t lost = (l->ended - t->ended) / (ENDS_A_TICK * l->living);
  t->ticks = ticks;
  t->ended = l->ended;
  return ss_less(fresh, lost);
}

/* Emits all rows but `kept` ns of the newest CPU time, and starts a new window. */
static void emit_rows(struct ss_ledger_thread *t, uint64_t kept)
{
  struct row rest = {.phase = t->phase};
  for (size_t i = t->count; i > 0 && kept > 0; i--) { /* newest first */
    struct row *row = &t->rows[i - 1];
    uint64_t ns = kept < row->on ? kept : row->on;
    row->on -= ns;
    rest.on += ns;
    kept -= ns;
  }
  for (size_t i = 0; i < t->count; i++) {
    const struct row *row = &t->rows[i];
    t->runnable_ns += row->preempted;
    emit(t, row->phase, SS_STATE_RUNNABLE, row->preempted);
    emit(t, row->phase, SS_STATE_WAIT, row->off);
    emit(t, row->phase, SS_STATE_STOPPED, row->stopped);
    emit(t, row->phase, SS_STATE_UNKNOWN, row->unknown);
    add_cpu(t, row, row->on);
  }
  t->block.ticks += take_ticks(t);
  t->rows[0] = rest;
  t->count = 1;
  t->window_ns = t->since_ns;
  if (ss_cpu_block_ripe(&t->block, BLOCK_TICKS)) {
    ss_cpu_block_divide(t->ledger, &t->block);
  }
}

/* Without a reading: what switches cost where there were readings. */
static void apply_switch_cost(struct ss_ledger_thread *t)
{
  const struct ss_ledger *l = t->ledger;
  if (l->extra_ns <= 0 || l->extra_outs == 0) {
    return;
  }
  uint64_t each = (uint64_t)l->extra_ns / l->extra_outs;
  struct sums s = sum_rows(t);
  s.unknown = 0; /* stays unknown */
  lengthen_cpu(t, &s, t->outs * (each < SWITCH_COST_MAX ? each : SWITCH_COST_MAX));
}

static void settle(struct ss_ledger_thread *t, const struct reading *reading, bool last)
{
  uint64_t kept = 0;
  believe_samples(t);
  if (reading) {
    kept = apply_cpu(t, reading->cpu_ns, last);
    apply_runqueue(t, reading->runqueue_ns);
  } else {
    apply_switch_cost(t);
  }
  t->outs = 0;
  emit_rows(t, kept);
}

/* Before anything that happens at time_ns: a reading that is due, and windows that
 * grew too long or too wide. */
static void catch_up(struct ss_ledger_thread *t, uint64_t time_ns)
{
  if (t->pending.set && time_ns >= t->pending.time_ns) {
    t->pending.set = false;
    close_interval(t, t->pending.time_ns);
    settle(t, &t->pending, false);
  } else if (t->count >= ROWS_MAX ||
             (!t->pending.set && t->since_ns > t->window_ns + WINDOW_NS)) {
    settle(t, NULL, false);
  }
}

static void happen(struct ss_ledger_thread *t, uint64_t time_ns)
{
  catch_up(t, time_ns);
  close_interval(t, time_ns);
}

/* ---- what happens --------------------------------------------------------------- */

struct ss_ledger *ss_ledger_new(uint64_t period_ns, bool kernel_samples, bool switches,
                                ss_ledger_emit *emit_fn, void *arg)
{
  struct ss_ledger *l = calloc(1, sizeof *l);
  if (l) {
    l->period_ns = period_ns > 0 ? period_ns : 1;
    l->kernel_samples = kernel_samples;
    l->switches = switches;
    l->emit = emit_fn;
    l->arg = arg;
  }
  return l;
}

static void free_thread(struct ss_ledger_thread *t)
{
  t->ledger->living--;
  t->ledger->ended++;
  *t->link = t->next;
  if (t->next) {
    t->next->link = t->link;
  }
  ss_cpu_block_release(&t->block);
  free(t->rows);
  free(t);
}

void ss_ledger_free(struct ss_ledger *l)
{
  if (!l) {
    return;
  }
  for (struct ss_ledger_thread *t = l->threads, *next; t; t = next) {
    next = t->next;
    free_thread(t);
  }
  ss_cpu_block_release(&l->pool);
  free(l);
}

struct ss_ledger_thread *ss_ledger_birth(struct ss_ledger *l, uint32_t thread,
                                         uint32_t phase, uint64_t time_ns, bool on_cpu)
{
  struct ss_ledger_thread *t = calloc(1, sizeof *t);
  if (!t || !ss_grow(&t->rows, &t->cap, 1, sizeof *t->rows)) {
    free(t);
    return NULL;
  }
  t->ledger = l;
  t->id = thread;
  t->phase = phase;
  t->on = on_cpu;
  t->since_ns = t->window_ns = time_ns;
  t->rows[0] = (struct row){.phase = phase};
  t->count = 1;
  t->next = l->threads;
  t->link = &l->threads;
  if (t->next) {
    t->next->link = &t->next;
  }
  l->threads = t;
  l->living++;
  t->ended = l->ended;
  return t;
}

void ss_ledger_base(struct ss_ledger_thread *t, uint64_t cpu_ns, uint64_t runqueue_ns)
{
  t->base.cpu_ns = cpu_ns;
  t->base.runqueue_ns = runqueue_ns;
}

void ss_ledger_switch(struct ss_ledger_thread *t, uint64_t time_ns, bool out,
                      bool preempted)
{
  catch_up(t, time_ns);
  if (t->on != out && time_ns > t->since_ns) {
    t->unsure = true; /* one in between is missing */
  }
  close_interval(t, time_ns);
  t->outs += out;
  t->on = !out;
  t->preempted = out && preempted;
}

static enum ss_cpu_kind kind_of(enum ss_state state)
{
  return state == SS_STATE_KERNEL ? SS_CPU_KERNEL
         : state == SS_STATE_SPIN ? SS_CPU_SPIN
                                  : SS_CPU_USER;
}

void ss_ledger_sample(struct ss_ledger_thread *t, uint64_t time_ns, enum ss_state state)
{
  catch_up(t, time_ns);
  if (!t->on && t->ledger->switches && time_ns > t->since_ns) {
    t->unsure = true;
  }
  close_interval(t, time_ns);
  t->on = true;
  current_row(t)->samples[kind_of(state)]++;
}

void ss_ledger_phase(struct ss_ledger_thread *t, uint64_t time_ns, uint32_t phase)
{
  happen(t, time_ns);
  t->phase = phase;
}

void ss_ledger_stopped(struct ss_ledger_thread *t, uint64_t time_ns, bool stopped)
{
  happen(t, time_ns);
  t->stopped = stopped;
}

void ss_ledger_schedstat(struct ss_ledger_thread *t, uint64_t time_ns, uint64_t cpu_ns,
                         uint64_t runqueue_ns)
{
  if (t->pending.set && time_ns > t->pending.time_ns) {
    catch_up(t, t->pending.time_ns); /* nothing has happened since */
  }
  t->pending = (struct reading){.set = true,
                                .time_ns = time_ns > t->since_ns ? time_ns : t->since_ns,
                                .cpu_ns = ss_less(cpu_ns, t->base.cpu_ns),
                                .runqueue_ns = ss_less(runqueue_ns, t->base.runqueue_ns)};
}

uint64_t ss_ledger_clock_ns(const struct ss_ledger_thread *t)
{
  return t->clock_ns;
}

void ss_ledger_gap(struct ss_ledger *l, uint64_t time_ns)
{
  if (time_ns > l->gap_ns) {
    l->gap_ns = time_ns;
  }
}

uint64_t ss_ledger_end(struct ss_ledger_thread *t, uint64_t time_ns)
{
  bool final = t->pending.set && t->pending.time_ns >= time_ns;
  if (!final) {
    catch_up(t, time_ns);
  }
  close_interval(t, time_ns);
  settle(t, final ? &t->pending : NULL, true);
  uint64_t cpu_ns = t->cpu_ns;
  ss_cpu_pool_add(t->ledger, &t->block);
  free_thread(t);
  return cpu_ns;
}

void ss_ledger_flush(struct ss_ledger *l)
{
  ss_cpu_block_divide(l, &l->pool);
}
