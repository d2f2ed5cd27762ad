/*
 * Settling: the states of a window. See ledger.c for what goes in.
 *
 * - CPU time is what the kernel's reading says (switch intervals are short of it
 *   where switches are many: the switch itself falls outside); switch intervals
 *   are its shape. Without a reading they are taken as they are.
 * - Runnable is what was preempted, and the kernel's further run-queue time (the
 *   wait after a wakeup), taken from the time off.
 * - The rest is waiting, divided among the looks of it (ledger_waits.c). Unknown time
 *   is settled by a reading: what the reading does not call CPU time was off the CPU.
 *
 * Key invariant: what goes in is what comes out, to the nanosecond. A reading lags
 * behind by up to a tick, so that much on-CPU time is kept for the next settlement;
 * more than that was stolen from the CPU itself (a hypervisor, interrupts), and the
 * thread was runnable.
 */
#include <string.h>

#include "ledger_priv.h"
#include "stacksample/buf.h"

enum {
  SWITCH_COST_MAX = 20000, /* ns; more is something else */
  ENDS_A_TICK = 7,
  READING_LAG = 20000000, /* ns: two ticks at HZ=100 */
  BLOCK_TICKS = 20        /* samples that divide a thread's CPU time */
};

static uint64_t sampled_ns(const struct ss_ledger_thread *t,
                           const struct ss_ledger_row *row)
{
  uint64_t n = 0;
  for (int i = 0; i < SS_CPU_KINDS; i++)
    n += row->samples[i];
  return n * t->ledger->period_ns;
}

/* Samples prove CPU time that switch records do not show: all of it where there are
 * none, some of what is unknown where they are missing. */
static void believe_samples(struct ss_ledger_thread *t)
{
  for (size_t i = 0; i < t->count; i++) {
    struct ss_ledger_row *row = &t->rows[i];
    uint64_t more = ss_less(sampled_ns(t, row), row->on);
    uint64_t *from = t->switches ? &row->unknown : &row->off;
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
    struct ss_ledger_row *row = &t->rows[i];
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
  if (s.unknown == 0 && t->switches) {
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
static void lengthen_runnable(struct ss_ledger_thread *t, const struct sums *s,
                              uint64_t more)
{
  struct ss_spread spread = {.total = more < s->off ? more : s->off, .sum = s->off};
  for (size_t i = 0; i < t->count; i++) {
    uint64_t ns = ss_spread_next(&spread, t->rows[i].off);
    t->rows[i].off -= ns;
    t->rows[i].preempted += ns;
  }
}

static void apply_runqueue(struct ss_ledger_thread *t, uint64_t runqueue_ns)
{
  struct sums s = sum_rows(t);
  uint64_t known = t->runnable_ns + s.preempted - t->stolen_ns;
  uint64_t more = ss_less(runqueue_ns, known);
  t->wake_ns += more;
  t->wakes += t->waits_begun;
  lengthen_runnable(t, &s, more);
}

static void emit(struct ss_ledger_thread *t, uint32_t phase, enum ss_state state,
                 uint64_t ns)
{
  if (ns > 0)
    t->ledger->emit(t->ledger->arg, t->id, phase, state, ns);
}

static void add_cpu(struct ss_ledger_thread *t, const struct ss_ledger_row *row,
                    uint64_t ns)
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
  uint64_t clock_ns = t->switches ? t->clock_ns : t->cpu_ns;
  uint64_t ticks = clock_ns / l->period_ns;
  uint64_t fresh = ticks - t->ticks;
  uint64_t lost = (l->ended - t->ended) / (ENDS_A_TICK * l->living);
  t->ticks = ticks;
  t->ended = l->ended;
  return ss_less(fresh, lost);
}

static void emit_off(struct ss_ledger_thread *t, const struct ss_ledger_row *row,
                     struct ss_ledger_row *rest, bool last)
{
  struct ss_ledger *l = t->ledger;
  if (!l->emit_wait) {
    emit(t, row->phase, SS_STATE_WAIT, row->off);
    return;
  }
  struct ss_waits_of of = {.ledger = l,
                           .thread = t->id,
                           .phase = row->phase,
                           .row = ss_ledger_row_index(t, row)};
  uint64_t left = ss_waits_emit(&t->waits, &of, row->off, &row->unlooked);
  if (!last && row->phase == t->phase) { /* the next look may tell */
    uint64_t carried = left < row->unlooked.short_ns ? left : row->unlooked.short_ns;
    rest->off += carried;
    rest->unlooked.short_ns += carried;
    rest->unlooked.count += row->unlooked.count;
    left -= carried;
  }
  emit(t, row->phase, SS_STATE_UNKNOWN, left);
}

/* Emits all rows but `kept` ns of the newest CPU time, and starts a new window. */
static void emit_rows(struct ss_ledger_thread *t, uint64_t kept, bool last)
{
  struct ss_ledger_row rest = {.phase = t->phase};
  for (size_t i = t->count; i > 0 && kept > 0; i--) { /* newest first */
    struct ss_ledger_row *row = &t->rows[i - 1];
    uint64_t ns = kept < row->on ? kept : row->on;
    row->on -= ns;
    rest.on += ns;
    kept -= ns;
  }
  for (size_t i = 0; i < t->count; i++) {
    const struct ss_ledger_row *row = &t->rows[i];
    t->runnable_ns += row->preempted;
    emit(t, row->phase, SS_STATE_RUNNABLE, row->preempted);
    emit_off(t, row, &rest, last);
    emit(t, row->phase, SS_STATE_STOPPED, row->stopped);
    emit(t, row->phase, SS_STATE_UNKNOWN, row->unknown);
    add_cpu(t, row, row->on);
  }
  t->block.ticks += take_ticks(t);
  t->rows[0] = rest;
  t->count = 1;
  t->waits.count = 0;
  t->window_ns = t->since_ns;
  if (ss_cpu_block_ripe(&t->block, BLOCK_TICKS))
    ss_cpu_block_divide(t->ledger, &t->block);
}

uint64_t ss_ledger_switch_cost_ns(const struct ss_ledger *l, uint64_t outs)
{
  if (l->extra_ns <= 0 || l->extra_outs == 0)
    return 0;
  uint64_t each = (uint64_t)l->extra_ns / l->extra_outs;
  return outs * (each < SWITCH_COST_MAX ? each : SWITCH_COST_MAX);
}

/* Without a reading: what switches cost where there were readings. */
static void apply_switch_cost(struct ss_ledger_thread *t)
{
  struct sums s = sum_rows(t);
  s.unknown = 0; /* stays unknown */
  lengthen_cpu(t, &s, ss_ledger_switch_cost_ns(t->ledger, t->outs));
}

/* Without a reading: wakeups took as long as where there were readings. */
static void apply_wake_cost(struct ss_ledger_thread *t)
{
  if (t->wakes > 0) {
    struct sums s = sum_rows(t);
    lengthen_runnable(t, &s, ss_in_proportion(t->wake_ns, t->waits_begun, t->wakes));
  }
}

/* A wait that is under way and has no look yet may get one: what this window has of it
 * goes to the next. */
static uint64_t take_open(struct ss_ledger_thread *t)
{
  struct ss_ledger_row *row = &t->rows[t->count - 1];
  uint64_t ns = 0;
  while (t->open > 0 && t->waits.parts[t->waits.count - 1].row == t->count - 1) {
    ns += t->waits.parts[--t->waits.count].ns;
    t->open--;
  }
  ns = ns < row->off ? ns : row->off;
  row->off -= ns;
  return ns;
}

static void keep_open(struct ss_ledger_thread *t, uint64_t ns)
{
  struct ss_wait_part part = {.end_ns = t->since_ns, .ns = ns};
  if (ns == 0)
    return;
  t->rows[0].off += ns;
  if (ss_waits_add(&t->waits, &part))
    t->open++;
  else
    t->rows[0].unlooked.short_ns += ns;
}

void ss_ledger_settle(struct ss_ledger_thread *t, const struct ss_ledger_reading *reading,
                      bool last)
{
  uint64_t kept = 0;
  believe_samples(t);
  if (reading) {
    kept = apply_cpu(t, reading->cpu_ns, last);
    apply_runqueue(t, reading->runqueue_ns);
  } else {
    apply_switch_cost(t);
    apply_wake_cost(t);
  }
  t->outs = 0;
  t->waits_begun = 0;
  uint64_t open_ns = last ? 0 : take_open(t);
  ss_ledger_drop_open(t);
  emit_rows(t, kept, last);
  keep_open(t, open_ns);
}
