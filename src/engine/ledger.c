/*
 * A thread's life in states. Between two settlements the time since the last is kept
 * by phase as what switch records say it was: on a CPU, preempted, off, stopped, or
 * unknown, where records are missing. A settlement (ledger_settle.c) makes states of
 * it and starts a new window.
 *
 * Key invariant: what goes in is what comes out, to the nanosecond.
 */
#include <stdlib.h>
#include <string.h>

#include "ledger_priv.h"
#include "stacksample/buf.h"

enum {
  ROUNDS_MISSED = 3, /* rounds of looks that a wait cannot escape by chance */
  ROWS_MAX = 64,     /* phases in one window */
  PARTS_MAX = 4096   /* waits that were looked at in one window */
};
#define WINDOW_NS 10000000000ull /* settled by then even without a reading */

/* ---- the window ----------------------------------------------------------------- */

/* The row of the present phase. There is always one; when memory is short, the last
 * one takes over: a phase may get a neighbour's time, but none is lost. */
static struct ss_ledger_row *current_row(struct ss_ledger_thread *t)
{
  struct ss_ledger_row *last = &t->rows[t->count - 1];
  if (last->phase == t->phase ||
      !ss_grow(&t->rows, &t->cap, t->count + 1, sizeof *t->rows))
    return last;
  t->rows[t->count] = (struct ss_ledger_row){.phase = t->phase};
  return &t->rows[t->count++];
}

static void add_unlooked(struct ss_ledger_thread *t, struct ss_ledger_row *row,
                         uint64_t len)
{
  if (t->switches && t->ledger->rounds >= t->rounds + ROUNDS_MISSED) {
    row->unlooked.missed_ns += len;
  } else if (len > 0) {
    row->unlooked.short_ns += len;
    row->unlooked.count++;
  }
}

/* Time off the CPU: a piece of a wait. A look stands for the time between two rounds
 * of them: a wait that is longer is its own, of shorter ones it also stands for those
 * that no look met. Pieces before the look count as looked at. */
static void add_off(struct ss_ledger_thread *t, struct ss_ledger_row *row, uint64_t len)
{
  struct ss_wait_part part = {.row = ss_ledger_row_index(t, row),
                              .wait = t->wait,
                              .end_ns = t->since_ns + len,
                              .ns = len,
                              .others = ss_less(t->look_ns, len)};
  row->off += len;
  if (len > 0 && t->switches && ss_waits_add(&t->waits, &part))
    t->open += !t->looked;
  else
    add_unlooked(t, row, len);
  t->look_ns = 0;
}

void ss_ledger_drop_open(struct ss_ledger_thread *t)
{
  for (; t->open > 0; t->open--) {
    const struct ss_wait_part *part = &t->waits.parts[--t->waits.count];
    add_unlooked(t, &t->rows[part->row], part->ns);
  }
}

static void end_wait(struct ss_ledger_thread *t)
{
  ss_ledger_drop_open(t);
  t->looked = false;
  t->look_ns = 0;
  t->rounds = t->ledger->rounds;
}

static void close_interval(struct ss_ledger_thread *t, uint64_t time_ns)
{
  uint64_t len = ss_less(time_ns, t->since_ns);
  struct ss_ledger_row *row = current_row(t);
  bool gap = t->ledger->gap_ns != 0 && t->ledger->gap_ns >= t->since_ns;
  if (t->unsure || (gap && t->switches)) {
    row->unknown += len;
  } else if (t->on && t->switches) {
    row->on += len;
    t->clock_ns += len;
  } else if (t->stopped) {
    row->stopped += len;
  } else if (t->preempted) {
    row->preempted += len;
  } else {
    add_off(t, row, len);
  }
  t->unsure = false;
  t->since_ns += len;
}

/* Before anything that happens at time_ns: a reading that is due, and windows that
 * grew too long or too wide. */
static void catch_up(struct ss_ledger_thread *t, uint64_t time_ns)
{
  if (t->pending.set && time_ns >= t->pending.time_ns) {
    t->pending.set = false;
    close_interval(t, t->pending.time_ns);
    ss_ledger_settle(t, &t->pending, false);
  } else if (t->count >= ROWS_MAX || t->waits.count >= PARTS_MAX ||
             (!t->pending.set && t->since_ns > t->window_ns + WINDOW_NS)) {
    ss_ledger_settle(t, NULL, false);
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

void ss_ledger_waits(struct ss_ledger *l, ss_ledger_emit_wait *emit_wait)
{
  l->emit_wait = emit_wait;
}

static void free_thread(struct ss_ledger_thread *t)
{
  t->ledger->living--;
  t->ledger->ended++;
  *t->link = t->next;
  if (t->next)
    t->next->link = t->link;
  ss_cpu_block_release(&t->block);
  ss_waits_release(&t->waits);
  free(t->rows);
  free(t);
}

void ss_ledger_free(struct ss_ledger *l)
{
  if (!l)
    return;
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
  t->switches = l->switches;
  t->rounds = l->rounds;
  t->since_ns = t->window_ns = time_ns;
  t->rows[0] = (struct ss_ledger_row){.phase = phase};
  t->count = 1;
  t->next = l->threads;
  t->link = &l->threads;
  if (t->next)
    t->next->link = &t->next;
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
  if (t->on != out && time_ns > t->since_ns)
    t->unsure = true; /* one in between is missing */
  close_interval(t, time_ns);
  t->outs += out;
  t->waits_begun += out && !preempted;
  t->on = !out;
  t->preempted = out && preempted;
  end_wait(t);
}

void ss_ledger_blind(struct ss_ledger_thread *t, uint64_t time_ns, bool blind)
{
  if (t->switches == !blind)
    return;
  happen(t, time_ns);
  end_wait(t);
  t->switches = !blind;
  t->unsure = !blind;
  t->on = t->preempted = false;
  t->ticks = (blind ? t->cpu_ns : t->clock_ns) / t->ledger->period_ns;
}

void ss_ledger_unrecorded(struct ss_ledger_thread *t, uint64_t time_ns)
{
  catch_up(t, time_ns);
  t->unsure = true;
  close_interval(t, time_ns);
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
  if (!t->on && t->switches && time_ns > t->since_ns)
    t->unsure = true;
  close_interval(t, time_ns);
  t->on = true;
  end_wait(t);
  current_row(t)->samples[kind_of(state)]++;
}

void ss_ledger_round(struct ss_ledger *l)
{
  l->rounds++;
}

void ss_ledger_look(struct ss_ledger_thread *t, uint64_t time_ns,
                    const struct ss_wait *wait, uint64_t stands_for_ns)
{
  catch_up(t, time_ns);
  if (!t->switches) { /* its share of the time off, in proportion to the others */
    close_interval(t, time_ns);
    struct ss_ledger_row *row = current_row(t);
    struct ss_wait_part part = {.row = ss_ledger_row_index(t, row),
                                .wait = *wait,
                                .end_ns = time_ns,
                                .others = stands_for_ns};
    ss_waits_share(&t->waits, &part);
  } else if (!t->on && !t->preempted && !t->looked) {
    t->looked = true;
    t->wait = *wait;
    t->look_ns = stands_for_ns;
    for (; t->open > 0; t->open--) {
      struct ss_wait_part *part = &t->waits.parts[t->waits.count - t->open];
      part->wait = *wait;
      t->look_ns = ss_less(t->look_ns, part->ns);
    }
  }
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
  if (t->pending.set && time_ns > t->pending.time_ns)
    catch_up(t, t->pending.time_ns); /* nothing has happened since */
  t->pending = (struct ss_ledger_reading){
      .set = true,
      .time_ns = time_ns > t->since_ns ? time_ns : t->since_ns,
      .cpu_ns = ss_less(cpu_ns, t->base.cpu_ns),
      .runqueue_ns = ss_less(runqueue_ns, t->base.runqueue_ns)};
}

uint64_t ss_ledger_clock_ns(const struct ss_ledger_thread *t)
{
  return t->clock_ns;
}

void ss_ledger_settle_idle(struct ss_ledger *l, uint64_t time_ns)
{
  for (struct ss_ledger_thread *t = l->threads; t; t = t->next) {
    if (!t->on && t->since_ns + WINDOW_NS <= time_ns) {
      happen(t, time_ns);
      ss_ledger_settle(t, NULL, false);
    }
  }
}

void ss_ledger_gap(struct ss_ledger *l, uint64_t time_ns)
{
  if (time_ns > l->gap_ns)
    l->gap_ns = time_ns;
}

uint64_t ss_ledger_end(struct ss_ledger_thread *t, uint64_t time_ns)
{
  bool final = t->pending.set && t->pending.time_ns >= time_ns;
  if (!final)
    catch_up(t, time_ns);
  close_interval(t, time_ns);
  ss_ledger_settle(t, final ? &t->pending : NULL, true);
  uint64_t cpu_ns = t->cpu_ns;
  ss_cpu_pool_add(t->ledger, &t->block);
  free_thread(t);
  return cpu_ns;
}

void ss_ledger_flush(struct ss_ledger *l)
{
  ss_cpu_block_divide(l, &l->pool);
}
