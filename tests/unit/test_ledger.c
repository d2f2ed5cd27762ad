/* The ledger: whatever happens, states add up to the life, and to the right ones. */
#include "unit.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/context.h"
#include "stacksample/engine.h"

#define MS 1000000ull
#define PERIOD (10 * MS)

enum { THREADS = 64, PHASES = 8 };

struct books {
  struct ss_ledger *ledger;
  uint64_t ns[THREADS][PHASES][SS_STATE_COUNT];
};

static void on_emit(void *arg, uint32_t thread, uint32_t phase, enum ss_state state,
                    uint64_t ns)
{
  struct books *b = arg;
  assert_true(thread < THREADS && phase < PHASES && state < SS_STATE_COUNT);
  assert_true(ns > 0);
  b->ns[thread][phase][state] += ns;
}

static struct books *open_books(bool kernel_samples, bool switches)
{
  struct books *b = calloc(1, sizeof *b);
  assert_non_null(b);
  b->ledger = ss_ledger_new(PERIOD, kernel_samples, switches, on_emit, b);
  assert_non_null(b->ledger);
  return b;
}

static void close_books(struct books *b)
{
  ss_ledger_free(b->ledger);
  free(b);
}

static uint64_t in_state(const struct books *b, uint32_t thread, enum ss_state state)
{
  uint64_t sum = 0;
  for (int p = 0; p < PHASES; p++)
    sum += b->ns[thread][p][state];
  return sum;
}

static uint64_t in_phase(const struct books *b, uint32_t thread, uint32_t phase)
{
  uint64_t sum = 0;
  for (int s = 0; s < SS_STATE_COUNT; s++)
    sum += b->ns[thread][phase][s];
  return sum;
}

static uint64_t life(const struct books *b, uint32_t thread)
{
  uint64_t sum = 0;
  for (uint32_t p = 0; p < PHASES; p++)
    sum += in_phase(b, thread, p);
  return sum;
}

static uint64_t everywhere(const struct books *b, enum ss_state state)
{
  uint64_t sum = 0;
  for (uint32_t t = 0; t < THREADS; t++)
    sum += in_state(b, t, state);
  return sum;
}

static void run_in(struct ss_ledger_thread *t, uint64_t at)
{
  ss_ledger_switch(t, at, false, false);
}

static void run_out(struct ss_ledger_thread *t, uint64_t at, bool preempted)
{
  ss_ledger_switch(t, at, true, preempted);
}

/* On from `from` to `to`, with a sample each period. */
static void run_sampled(struct ss_ledger_thread *t, uint64_t from, uint64_t to,
                        enum ss_state state)
{
  run_in(t, from);
  for (uint64_t at = from + PERIOD; at <= to; at += PERIOD)
    ss_ledger_sample(t, at, state);
  run_out(t, to, false);
}

/* ---- shape ---------------------------------------------------------------------- */

static void a_plain_life(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 1, 2, 1000 * MS, false);
  run_sampled(t, 1100 * MS, 1300 * MS, SS_STATE_USER);
  run_sampled(t, 1400 * MS, 1500 * MS, SS_STATE_KERNEL);
  assert_int_equal(ss_ledger_end(t, 2000 * MS), 300 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 1, SS_STATE_USER), 200 * MS);
  assert_int_equal(in_state(b, 1, SS_STATE_KERNEL), 100 * MS);
  assert_int_equal(in_state(b, 1, SS_STATE_WAIT), 700 * MS);
  assert_int_equal(life(b, 1), 1000 * MS);
  assert_int_equal(in_phase(b, 1, 2), 1000 * MS);
  close_books(b);
}

static void preempted_is_runnable_and_stopped_is_stopped(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  run_out(t, 100 * MS, true);
  run_in(t, 350 * MS);
  run_out(t, 400 * MS, false);
  ss_ledger_stopped(t, 500 * MS, true);
  ss_ledger_stopped(t, 800 * MS, false);
  ss_ledger_end(t, 1000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 150 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_RUNNABLE), 250 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_STOPPED), 300 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 300 * MS);
  close_books(b);
}

static void a_phase_changes_inside_an_interval(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  ss_ledger_phase(t, 30 * MS, 1);
  run_out(t, 100 * MS, false);
  ss_ledger_phase(t, 160 * MS, 2);
  ss_ledger_end(t, 200 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_phase(b, 0, 0), 30 * MS);
  assert_int_equal(b->ns[0][1][SS_STATE_USER], 70 * MS);
  assert_int_equal(b->ns[0][1][SS_STATE_WAIT], 60 * MS);
  assert_int_equal(b->ns[0][2][SS_STATE_WAIT], 40 * MS);
  close_books(b);
}

static void many_phases_and_a_late_record(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  for (uint32_t i = 1; i <= 1000; i++)
    ss_ledger_phase(t, i * MS, i % PHASES);
  run_out(t, 900 * MS, false); /* earlier than what is known: nothing is undone */
  ss_ledger_end(t, 1500 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(life(b, 0), 1500 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 1000 * MS);
  assert_int_equal(in_phase(b, 0, 3), 125 * MS);
  close_books(b);
}

static void a_thread_without_samples_or_readings(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  run_in(t, MS / 10);
  run_out(t, 2 * MS, false);
  ss_ledger_end(t, 2 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 2 * MS - MS / 10);
  assert_int_equal(life(b, 0), 2 * MS);
  close_books(b);
}

/* ---- the kernel's figures ------------------------------------------------------- */

static void a_reading_overrules_the_switches(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  for (uint64_t i = 0; i < 1000; i++) { /* 400 of 1000 us on: the switch is outside */
    run_in(t, i * MS + MS / 2);
    run_out(t, i * MS + MS / 10 * 9, false);
  }
  ss_ledger_schedstat(t, 1000 * MS, 600 * MS, 100 * MS);
  assert_int_equal(ss_ledger_end(t, 1000 * MS), 600 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 600 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_RUNNABLE), 100 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 300 * MS);
  close_books(b);
}

/* What switches cost is learnt where there is a reading, used where there is none. */
static void switches_cost_the_same_without_a_reading(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  for (uint32_t id = 0; id < 2; id++) {
    struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, id, 0, 0, false);
    for (uint64_t i = 0; i < 1000; i++) {
      run_in(t, i * MS + MS / 2);
      run_out(t, i * MS + MS / 10 * 9, false);
    }
    if (id == 0)
      ss_ledger_schedstat(t, 1000 * MS, 402 * MS, 0);
    assert_int_equal(ss_ledger_end(t, 1000 * MS), 402 * MS);
  }
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 1, SS_STATE_WAIT), 598 * MS);
  close_books(b);
}

static void a_reading_that_lags_takes_nothing_away(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  for (uint64_t s = 1; s <= 10; s++) { /* always 4 ms behind, and never off */
    ss_ledger_schedstat(t, s * 1000 * MS, s * 1000 * MS - 4 * MS, 0);
    ss_ledger_sample(t, s * 1000 * MS + 5 * MS, SS_STATE_USER);
  }
  ss_ledger_end(t, 10006 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 10006 * MS);
  close_books(b);
}

/* Windows in a row: preemption, stolen time and waits after wakeups, each once. */
static void run_queue_time_counts_once(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  run_out(t, 500 * MS, true);
  run_in(t, 600 * MS);
  ss_ledger_schedstat(t, 1000 * MS, 700 * MS, 100 * MS); /* 200 ms were stolen */
  run_out(t, 1100 * MS, false);
  ss_ledger_schedstat(t, 2000 * MS, 800 * MS, 150 * MS);
  run_in(t, 2100 * MS);
  run_out(t, 2200 * MS, false);
  ss_ledger_schedstat(t, 3000 * MS, 900 * MS, 150 * MS);
  ss_ledger_end(t, 3000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_RUNNABLE), (100 + 200 + 50) * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 900 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 1750 * MS);
  close_books(b);
}

static void stolen_time_is_runnable(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  ss_ledger_schedstat(t, 1000 * MS, 700 * MS, 0);
  ss_ledger_end(t, 1000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 700 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_RUNNABLE), 300 * MS);
  close_books(b);
}

static void a_reading_is_applied_at_its_own_time(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  /* Read when records only up to 900 ms had come. */
  ss_ledger_schedstat(t, 1000 * MS, 950 * MS, 0);
  run_out(t, 950 * MS, false);
  ss_ledger_phase(t, 980 * MS, 1);
  run_in(t, 1100 * MS);
  ss_ledger_end(t, 1200 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(b->ns[0][0][SS_STATE_USER], 950 * MS);
  assert_int_equal(b->ns[0][0][SS_STATE_WAIT], 30 * MS);
  assert_int_equal(b->ns[0][1][SS_STATE_WAIT], 120 * MS);
  assert_int_equal(b->ns[0][1][SS_STATE_USER], 100 * MS);
  close_books(b);
}

static void figures_from_before_the_birth_do_not_count(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  ss_ledger_base(t, 90000 * MS, 5000 * MS);
  run_in(t, 100 * MS);
  run_out(t, 200 * MS, false);
  ss_ledger_schedstat(t, 1000 * MS, 90100 * MS, 5010 * MS);
  assert_int_equal(ss_ledger_end(t, 1000 * MS), 100 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_RUNNABLE), 10 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 890 * MS);
  close_books(b);
}

static void without_switches_samples_give_the_shape(void **state)
{
  (void)state;
  struct books *b = open_books(true, false);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  for (uint64_t at = 110; at <= 400; at += 10)
    ss_ledger_sample(t, at * MS, SS_STATE_USER);
  ss_ledger_phase(t, 500 * MS, 1);
  ss_ledger_schedstat(t, 1000 * MS, 306 * MS, 50 * MS);
  ss_ledger_end(t, 1000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 306 * MS);
  assert_true(b->ns[0][0][SS_STATE_USER] >= 300 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_RUNNABLE), 50 * MS);
  assert_int_equal(life(b, 0), 1000 * MS);
  close_books(b);
}

/* ---- loss ----------------------------------------------------------------------- */

static void what_a_gap_hides_is_unknown(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  run_out(t, 100 * MS, false);
  run_in(t, 200 * MS);
  ss_ledger_gap(b->ledger, 250 * MS);
  run_out(t, 300 * MS, false);
  run_in(t, 400 * MS);
  run_in(t, 500 * MS); /* the way out was lost, and nobody said so */
  ss_ledger_end(t, 600 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 200 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 200 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_UNKNOWN), 200 * MS);
  close_books(b);
}

static void what_was_not_recorded_is_unknown(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  run_out(t, 100 * MS, false);
  run_in(t, 200 * MS);
  ss_ledger_unrecorded(t, 500 * MS);
  ss_ledger_end(t, 500 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 100 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 100 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_UNKNOWN), 300 * MS);
  close_books(b);
}

static void a_reading_settles_the_unknown(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  run_out(t, 100 * MS, false);
  ss_ledger_gap(b->ledger, 250 * MS);
  ss_ledger_schedstat(t, 500 * MS, 140 * MS, 0);
  run_in(t, 600 * MS);
  run_out(t, 700 * MS, false);
  ss_ledger_end(t, 1000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_UNKNOWN), 0);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 240 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 760 * MS);
  close_books(b);
}

static void a_sample_proves_that_the_thread_runs(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  ss_ledger_sample(t, 50 * MS, SS_STATE_USER); /* its switch to a CPU was lost */
  run_out(t, 100 * MS, false);
  ss_ledger_end(t, 200 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 100 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_UNKNOWN), 50 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 50 * MS);
  close_books(b);
}

/* ---- kernel time that samples do not see ---------------------------------------- */

static void ticks_without_a_sample_were_in_the_kernel(void **state)
{
  (void)state;
  struct books *b = open_books(false, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  run_sampled(t, 0, 3000 * MS, SS_STATE_USER);
  run_sampled(t, 3000 * MS, 4000 * MS, SS_STATE_SPIN);
  ss_ledger_phase(t, 4000 * MS, 1);
  run_in(t, 4000 * MS); /* a second of system calls */
  run_out(t, 5000 * MS, false);
  ss_ledger_end(t, 6000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(in_state(b, 0, SS_STATE_USER), 3000 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_SPIN), 1000 * MS);
  assert_int_equal(b->ns[0][1][SS_STATE_KERNEL], 1000 * MS);
  assert_int_equal(in_state(b, 0, SS_STATE_WAIT), 1000 * MS);
  close_books(b);
}

/* Samples move over the edges of blocks by chance; the sum must not grow by it. */
static void chance_makes_no_kernel_time(void **state)
{
  (void)state;
  struct books *b = open_books(false, true);
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  uint64_t now = 0;
  unsigned seed = 7;
  for (int i = 0; i < 2000; i++) {
    now += PERIOD;
    seed = seed * 1103515245u + 12345u;
    uint64_t early = (seed >> 16) % 5 * MS; /* the timer is another thread's */
    ss_ledger_sample(t, now - early, SS_STATE_USER);
    if (i % 25 == 0)
      ss_ledger_schedstat(t, now - 5 * MS, now - 5 * MS, 0);
  }
  ss_ledger_end(t, now);
  ss_ledger_flush(b->ledger);
  assert_true(in_state(b, 0, SS_STATE_KERNEL) <= 3 * PERIOD);
  assert_int_equal(life(b, 0), now);
  close_books(b);
}

/* 64 threads of 17 ms: one tick each, of which three in four bring a sample. */
static void short_threads_are_divided_together(void **state)
{
  (void)state;
  struct books *b = open_books(false, true);
  uint64_t total = 0;
  for (uint32_t i = 0; i < THREADS; i++) {
    struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, i, i % PHASES, 0, true);
    if (i % 4 != 0)
      ss_ledger_sample(t, 10 * MS, SS_STATE_USER);
    run_out(t, 17 * MS, false);
    total += ss_ledger_end(t, 20 * MS);
  }
  ss_ledger_flush(b->ledger);
  uint64_t user = everywhere(b, SS_STATE_USER), kernel = everywhere(b, SS_STATE_KERNEL);
  assert_int_equal(total, THREADS * 17 * MS);
  assert_int_equal(user + kernel, total);
  assert_true(kernel > total / 4 - PERIOD && kernel < total / 4 + PERIOD);
  for (uint32_t i = 0; i < THREADS; i++)
    assert_int_equal(life(b, i), 20 * MS);
  close_books(b);
}

/* Threads too short for any tick say nothing: they are taken to be like the rest. */
static void threads_without_a_tick_are_like_the_others(void **state)
{
  (void)state;
  struct books *b = open_books(false, true);
  for (uint32_t i = 1; i < THREADS; i++) {
    struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, i, 0, 0, true);
    run_out(t, 2 * MS, false);
    ss_ledger_end(t, 2 * MS);
  }
  struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  run_sampled(t, 0, 1000 * MS, SS_STATE_USER);
  ss_ledger_end(t, 1000 * MS);
  ss_ledger_flush(b->ledger);
  assert_int_equal(everywhere(b, SS_STATE_KERNEL), 0);
  assert_int_equal(everywhere(b, SS_STATE_USER), 1000 * MS + (THREADS - 1) * 2 * MS);
  close_books(b);
}

/* ---- anything ------------------------------------------------------------------- */

struct chaos {
  unsigned seed;
  uint64_t now, cpu, runqueue;
};

static unsigned pick(struct chaos *c, unsigned below)
{
  c->seed = c->seed * 1103515245u + 12345u;
  return (c->seed >> 16) % below;
}

static void something(struct chaos *c, struct books *b, struct ss_ledger_thread *t)
{
  uint64_t at = c->now - (pick(c, 50) == 0 ? pick(c, 100) * MS : 0);
  switch (pick(c, 8)) {
  case 0:
  case 1:
    ss_ledger_switch(t, at, true, pick(c, 2));
    break;
  case 2:
  case 3:
    ss_ledger_switch(t, at, false, false);
    break;
  case 4:
    ss_ledger_sample(t, at, (enum ss_state)pick(c, SS_STATE_COUNT));
    break;
  case 5:
    ss_ledger_phase(t, at, pick(c, PHASES));
    break;
  case 6:
    ss_ledger_schedstat(t, at, c->cpu, c->runqueue);
    break;
  default:
    if (pick(c, 2))
      ss_ledger_gap(b->ledger, at);
    else
      ss_ledger_stopped(t, at, pick(c, 2));
  }
}

static void any_history_is_conserved(void **state)
{
  (void)state;
  for (unsigned run = 0; run < 400; run++) {
    struct books *b = open_books(run % 2, run / 2 % 2);
    struct chaos c = {.seed = run, .now = 1000 * MS};
    struct ss_ledger_thread *t = ss_ledger_birth(b->ledger, 5, 0, c.now, pick(&c, 2));
    uint64_t birth = c.now;
    for (unsigned i = 0; i < 500; i++) {
      c.now += pick(&c, 4) * MS + pick(&c, 1000);
      c.cpu += pick(&c, 4000) * 1000;
      c.runqueue += pick(&c, 2000) * 1000;
      something(&c, b, t);
    }
    c.now += 100 * MS; /* not before any record */
    uint64_t cpu = ss_ledger_end(t, c.now);
    ss_ledger_flush(b->ledger);
    assert_int_equal(life(b, 5), c.now - birth);
    for (enum ss_state s = 0; s < SS_STATE_COUNT; s++) /* none below 0 for another */
      assert_true(in_state(b, 5, s) <= c.now - birth);
    assert_int_equal(in_state(b, 5, SS_STATE_USER) + in_state(b, 5, SS_STATE_KERNEL) +
                         in_state(b, 5, SS_STATE_SPIN),
                     cpu);
    close_books(b);
  }
}

static void threads_that_never_ended_are_freed(void **state)
{
  (void)state;
  struct books *b = open_books(true, true);
  struct ss_ledger_thread *first = ss_ledger_birth(b->ledger, 0, 0, 0, true);
  ss_ledger_birth(b->ledger, 1, 0, 0, true);
  ss_ledger_birth(b->ledger, 2, 0, 0, true);
  ss_ledger_end(first, 10);
  close_books(b);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_plain_life),
      cmocka_unit_test(preempted_is_runnable_and_stopped_is_stopped),
      cmocka_unit_test(a_phase_changes_inside_an_interval),
      cmocka_unit_test(many_phases_and_a_late_record),
      cmocka_unit_test(a_thread_without_samples_or_readings),
      cmocka_unit_test(a_reading_overrules_the_switches),
      cmocka_unit_test(switches_cost_the_same_without_a_reading),
      cmocka_unit_test(a_reading_that_lags_takes_nothing_away),
      cmocka_unit_test(run_queue_time_counts_once),
      cmocka_unit_test(stolen_time_is_runnable),
      cmocka_unit_test(a_reading_is_applied_at_its_own_time),
      cmocka_unit_test(figures_from_before_the_birth_do_not_count),
      cmocka_unit_test(without_switches_samples_give_the_shape),
      cmocka_unit_test(what_a_gap_hides_is_unknown),
      cmocka_unit_test(what_was_not_recorded_is_unknown),
      cmocka_unit_test(a_reading_settles_the_unknown),
      cmocka_unit_test(a_sample_proves_that_the_thread_runs),
      cmocka_unit_test(ticks_without_a_sample_were_in_the_kernel),
      cmocka_unit_test(chance_makes_no_kernel_time),
      cmocka_unit_test(short_threads_are_divided_together),
      cmocka_unit_test(threads_without_a_tick_are_like_the_others),
      cmocka_unit_test(any_history_is_conserved),
      cmocka_unit_test(threads_that_never_ended_are_freed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
