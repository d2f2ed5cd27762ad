/* Waiting time goes to the looks at it: whole for a long wait, by weight for short
 * ones, and to UNKNOWN where no look tells. */
#include "unit.h"

#include <stdlib.h>

#include "stacksample/engine.h"

#define MS 1000000ull
#define PERIOD (10 * MS)
#define PHASES 4
#define STACKS 8

struct books {
  struct ss_ledger *ledger;
  struct ss_ledger_thread *t;
  uint64_t wait[PHASES][STACKS], other[PHASES][SS_STATE_COUNT];
  uint64_t rows;
};

static void on_emit(void *arg, uint32_t thread, uint32_t phase, enum ss_state state,
                    uint64_t ns)
{
  struct books *b = arg;
  (void)thread;
  b->other[phase][state] += ns;
}

static void on_wait(void *arg, uint32_t thread, uint32_t phase,
                    const struct ss_wait *wait, uint64_t end_ns, uint64_t ns)
{
  struct books *b = arg;
  (void)thread;
  (void)end_ns;
  assert_true(wait->stack < STACKS && ns > 0);
  b->wait[phase][wait->stack] += ns;
  b->rows++;
}

/* One thread, off the CPU from time 0 on. */
static struct books *open_books(bool switches)
{
  struct books *b = calloc(1, sizeof *b);
  assert_non_null(b);
  b->ledger = ss_ledger_new(PERIOD, true, switches, on_emit, b);
  assert_non_null(b->ledger);
  ss_ledger_waits(b->ledger, on_wait);
  b->t = ss_ledger_birth(b->ledger, 0, 0, 0, false);
  assert_non_null(b->t);
  return b;
}

static void close_books(struct books *b, uint64_t at)
{
  uint64_t sum = 0;
  ss_ledger_end(b->t, at);
  ss_ledger_flush(b->ledger);
  for (int p = 0; p < PHASES; p++) {
    for (int s = 0; s < SS_STATE_COUNT; s++)
      sum += b->other[p][s];
    for (int w = 0; w < STACKS; w++)
      sum += b->wait[p][w];
    assert_int_equal(b->other[p][SS_STATE_WAIT], 0);
  }
  assert_int_equal(sum, at); /* its life */
}

static void free_books(struct books *b)
{
  ss_ledger_free(b->ledger);
  free(b);
}

static void look(struct books *b, uint64_t at, uint32_t stack)
{
  struct ss_wait wait = {.stack = stack, .state = SS_STATE_LOCK};
  ss_ledger_look(b->t, at, &wait, PERIOD);
}

static void off(struct books *b, uint64_t at)
{
  ss_ledger_switch(b->t, at, true, false);
}

static void on(struct books *b, uint64_t at)
{
  ss_ledger_switch(b->t, at, false, false);
}

static void a_long_wait_keeps_its_one_look(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 7 * MS, 1);
  look(b, 20 * MS, 2); /* comes too late: it has one */
  on(b, 900 * MS);
  off(b, 1000 * MS);
  close_books(b, 1000 * MS);
  assert_int_equal(b->wait[0][1], 900 * MS);
  assert_int_equal(b->wait[0][2], 0);
  free_books(b);
}

static void a_look_is_for_all_of_its_wait(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  ss_ledger_phase(b->t, 100 * MS, 1);
  ss_ledger_phase(b->t, 103 * MS, 2);
  look(b, 105 * MS, 3); /* also for what two phases have of it */
  on(b, 200 * MS);
  close_books(b, 200 * MS);
  assert_int_equal(b->wait[0][3], 100 * MS);
  assert_int_equal(b->wait[1][3], 3 * MS);
  assert_int_equal(b->wait[2][3], 97 * MS);
  free_books(b);
}

/* A reading in between, as at an attach, divides no wait. */
static void a_look_is_for_what_an_earlier_window_had(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  ss_ledger_schedstat(b->t, 60 * MS, 0, 0);
  look(b, 80 * MS, 1);
  ss_ledger_schedstat(b->t, 100 * MS, 0, 0);
  on(b, 200 * MS);
  close_books(b, 200 * MS);
  assert_int_equal(b->wait[0][1], 200 * MS);
  free_books(b);
}

/* A wait without an end is in the file all the same, ten seconds at a time. */
static void a_wait_that_lasts_is_settled(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 5 * MS, 1);
  ss_ledger_settle_idle(b->ledger, 9000 * MS);
  assert_int_equal(b->wait[0][1], 0);
  ss_ledger_settle_idle(b->ledger, 12000 * MS);
  assert_int_equal(b->wait[0][1], 12000 * MS);
  ss_ledger_settle_idle(b->ledger, 14000 * MS);
  assert_int_equal(b->wait[0][1], 12000 * MS);
  on(b, 15000 * MS);
  close_books(b, 15000 * MS);
  assert_int_equal(b->wait[0][1], 15000 * MS);
  free_books(b);
}

/* A second of 9 ms waits (most are looked at) and of 1 ms waits (few are): half the
 * looks would give each a wrong share, their weights do not. */
static void short_waits_get_their_share(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  on(b, 0);
  for (uint64_t i = 0; i < 100; i++) {
    uint64_t at = i * 20 * MS;
    off(b, at);
    if (i % 10 != 0)
      look(b, at + MS, 1);
    on(b, at + 9 * MS);
    off(b, at + 10 * MS);
    if (i % 10 == 0)
      look(b, at + 10 * MS + MS / 2, 2);
    on(b, at + 11 * MS);
  }
  close_books(b, 2000 * MS);
  assert_int_equal(b->wait[0][1], 900 * MS);
  assert_int_equal(b->wait[0][2], 100 * MS);
  assert_int_equal(b->other[0][SS_STATE_UNKNOWN], 0);
  free_books(b);
}

static void what_escaped_every_look_is_unknown(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 1 * MS, 1);
  on(b, 2 * MS);
  off(b, 3 * MS);
  for (int i = 0; i < 5; i++)
    ss_ledger_round(b->ledger); /* it had its chances: no neighbour's stack for it */
  on(b, 53 * MS);
  off(b, 54 * MS);
  on(b, 55 * MS); /* too short to be met: as the first one was */
  off(b, 55 * MS);
  close_books(b, 55 * MS);
  assert_int_equal(b->other[0][SS_STATE_UNKNOWN], 50 * MS);
  assert_int_equal(b->wait[0][1], 3 * MS);
  free_books(b);
}

/* Another phase's looks say nothing of this one. */
static void a_phase_without_looks_is_unknown(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 1 * MS, 1);
  on(b, 2 * MS);
  ss_ledger_phase(b->t, 10 * MS, 1);
  off(b, 11 * MS);
  on(b, 14 * MS);
  close_books(b, 20 * MS);
  assert_int_equal(b->wait[0][1], 2 * MS);
  assert_int_equal(b->other[1][SS_STATE_UNKNOWN], 3 * MS);
  free_books(b);
}

/* The run queue after a wakeup is no part of the wait. */
static void the_kernels_figures_shorten_waits(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 1 * MS, 1);
  on(b, 500 * MS);
  off(b, 600 * MS);
  look(b, 601 * MS, 2);
  on(b, 1000 * MS);
  ss_ledger_schedstat(b->t, 1000 * MS, 100 * MS, 90 * MS);
  close_books(b, 1000 * MS);
  assert_int_equal(b->other[0][SS_STATE_RUNNABLE], 90 * MS);
  assert_int_equal(b->wait[0][1] + b->wait[0][2], 810 * MS);
  assert_in_range(b->wait[0][1], 445 * MS, 455 * MS);
  free_books(b);
}

static void looks_at_one_that_runs_change_nothing(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 1 * MS, 1);
  on(b, 100 * MS);
  look(b, 120 * MS, 2);
  ss_ledger_switch(b->t, 200 * MS, true, true);
  look(b, 210 * MS, 2); /* preempted: it waits for nothing but a CPU */
  on(b, 300 * MS);
  close_books(b, 300 * MS);
  assert_int_equal(b->wait[0][1], 100 * MS);
  assert_int_equal(b->wait[0][2], 0);
  free_books(b);
}

static void without_switches_looks_share_the_time_off(void **state)
{
  (void)state;
  struct books *b = open_books(false);
  for (uint64_t i = 0; i < 100; i++)
    look(b, i * PERIOD, i % 4 == 0 ? 1 : 2);
  ss_ledger_schedstat(b->t, 1000 * MS, 200 * MS, 0);
  close_books(b, 1000 * MS);
  assert_int_equal(b->wait[0][1], 200 * MS);
  assert_int_equal(b->wait[0][2], 600 * MS);
  free_books(b);
}

/* Switch records are dropped for a while: CPU time is the reading's, waits are shared
 * by the looks, nothing is lost or made up. */
static void blind_for_a_while(void **state)
{
  (void)state;
  struct books *b = open_books(true);
  look(b, 1 * MS, 1);
  on(b, 100 * MS);
  ss_ledger_schedstat(b->t, 200 * MS, 100 * MS, 0);
  ss_ledger_blind(b->t, 200 * MS, true);
  for (uint64_t i = 0; i < 60; i++)
    look(b, 200 * MS + i * PERIOD, 2);
  ss_ledger_schedstat(b->t, 900 * MS, 400 * MS, 0);
  ss_ledger_blind(b->t, 900 * MS, false);
  on(b, 920 * MS);
  off(b, 950 * MS);
  look(b, 951 * MS, 3);
  ss_ledger_schedstat(b->t, 1000 * MS, 430 * MS, 0);
  close_books(b, 1000 * MS);
  assert_int_equal(b->wait[0][1], 100 * MS);
  assert_int_equal(b->wait[0][2], 400 * MS);
  assert_int_equal(b->wait[0][3], 50 * MS);
  assert_int_equal(b->other[0][SS_STATE_USER], 430 * MS);
  assert_int_equal(b->other[0][SS_STATE_UNKNOWN], 20 * MS); /* 900 to 920 */
  free_books(b);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_long_wait_keeps_its_one_look),
      cmocka_unit_test(a_look_is_for_all_of_its_wait),
      cmocka_unit_test(a_look_is_for_what_an_earlier_window_had),
      cmocka_unit_test(a_wait_that_lasts_is_settled),
      cmocka_unit_test(short_waits_get_their_share),
      cmocka_unit_test(what_escaped_every_look_is_unknown),
      cmocka_unit_test(a_phase_without_looks_is_unknown),
      cmocka_unit_test(the_kernels_figures_shorten_waits),
      cmocka_unit_test(looks_at_one_that_runs_change_nothing),
      cmocka_unit_test(blind_for_a_while),
      cmocka_unit_test(without_switches_looks_share_the_time_off),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
