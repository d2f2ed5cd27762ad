/* The schedule of dumps and of the ending: pure arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "stacksample/deadline.h"

#define S UINT64_C(1000000000)
#define START (1000 * S)

static struct ss_deadline make(struct ss_deadline_config config, const char *points)
{
  struct ss_deadline d;
  const char *bad = NULL;

  assert_true(ss_dump_points_parse(points, &config, &bad));
  ss_deadline_init(&d, &config, START);
  return d;
}

static void parses_points(void **state)
{
  struct ss_deadline_config c = {0};
  const char *bad = NULL;

  (void)state;
  assert_true(ss_dump_points_parse("50%,97%,90,10m,1.5h", &c, &bad));
  assert_int_equal(c.n_points, 5);
  assert_true(c.points[0].share == 0.5);
  assert_int_equal(c.points[2].at_ns, 90 * S);
  assert_int_equal(c.points[3].at_ns, 600 * S);
  assert_int_equal(c.points[4].at_ns, 5400 * S);
}

static void refuses_bad_points(void **state)
{
  static const char *const wrong[] = {"",   "0%",   "100%", "-5", "x",
                                      "5,", "1e99", "nan",  "5 m"};
  struct ss_deadline_config c = {0};
  const char *bad = NULL;

  (void)state;
  for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
    assert_false(ss_dump_points_parse(wrong[i], &c, &bad));
}

static void dumps_at_shares_of_the_run(void **state)
{
  struct ss_deadline d =
      make((struct ss_deadline_config){.run_limit_ns = 100 * S}, "50%,90%");

  (void)state;
  assert_int_equal(ss_deadline_wake_ns(&d), START + 50 * S);
  assert_int_equal(ss_deadline_due(&d, START + 49 * S), SS_ACT_NONE);
  assert_int_equal(ss_deadline_due(&d, START + 50 * S), SS_ACT_DUMP);
  assert_string_equal(d.why, "50 % of the run's limit");
  assert_int_equal(ss_deadline_due(&d, START + 50 * S), SS_ACT_NONE);
  assert_int_equal(ss_deadline_wake_ns(&d), START + 90 * S);
  assert_int_equal(ss_deadline_due(&d, START + 99 * S), SS_ACT_DUMP);
  assert_int_equal(ss_deadline_due(&d, START + 99 * S), SS_ACT_NONE);
}

static void makes_up_for_missed_points_once(void **state)
{
  struct ss_deadline d =
      make((struct ss_deadline_config){.run_limit_ns = 100 * S}, "50%,75%,90%");

  (void)state;
  assert_int_equal(ss_deadline_due(&d, START + 95 * S), SS_ACT_DUMP);
  assert_int_equal(ss_deadline_due(&d, START + 95 * S), SS_ACT_NONE);
}

static void takes_points_in_any_order(void **state)
{
  struct ss_deadline d =
      make((struct ss_deadline_config){.run_limit_ns = 100 * S}, "90%,2,50%");

  (void)state;
  assert_int_equal(ss_deadline_wake_ns(&d), START + 2 * S);
  assert_int_equal(ss_deadline_due(&d, START + 2 * S), SS_ACT_DUMP);
  assert_string_equal(d.why, "after 2 s, as asked");
  assert_int_equal(ss_deadline_wake_ns(&d), START + 50 * S);
  assert_int_equal(ss_deadline_due(&d, START + 95 * S), SS_ACT_DUMP);
  assert_string_equal(d.why, "90 % of the run's limit");
  assert_int_equal(ss_deadline_due(&d, START + 99 * S), SS_ACT_NONE);
  assert_true(ss_deadline_wake_ns(&d) == UINT64_MAX);
}

static void dumps_anew_for_each_test(void **state)
{
  struct ss_deadline d = make((struct ss_deadline_config){0}, "50%");

  (void)state;
  assert_int_equal(ss_deadline_due(&d, START + 60 * S), SS_ACT_NONE);
  for (uint64_t i = 0; i < 3; i++) {
    const struct ss_deadline_test test = {i + 1, START + 20 * i * S, 10 * S};
    ss_deadline_phase(&d, test.start_ns, &test);
    assert_int_equal(ss_deadline_due(&d, START + (20 * i + 4) * S), SS_ACT_NONE);
    ss_deadline_phase(&d, START + (20 * i + 1) * S, &test);
    assert_int_equal(ss_deadline_due(&d, START + (20 * i + 5) * S), SS_ACT_DUMP);
    assert_int_equal(ss_deadline_due(&d, START + (20 * i + 9) * S), SS_ACT_NONE);
  }
}

/* A marker is seen while its test runs; outside of tests no clock runs. */
static void learns_the_limit_of_a_test(void **state)
{
  struct ss_deadline d = make((struct ss_deadline_config){0}, "50%,90%");

  (void)state;
  ss_deadline_phase(&d, START, &(struct ss_deadline_test){1, START, 100 * S});
  assert_int_equal(ss_deadline_wake_ns(&d), START + 50 * S);
  ss_deadline_phase(&d, START, &(struct ss_deadline_test){1, START, 10 * S});
  assert_int_equal(ss_deadline_wake_ns(&d), START + 5 * S);
  assert_int_equal(ss_deadline_due(&d, START + 5 * S), SS_ACT_DUMP);
  ss_deadline_phase(&d, START + 6 * S, &(struct ss_deadline_test){0});
  assert_int_equal(ss_deadline_due(&d, START + 60 * S), SS_ACT_NONE);
  assert_true(ss_deadline_wake_ns(&d) == UINT64_MAX);
}

/* Of two workers, begun at one time. */
static void tells_tests_apart(void **state)
{
  struct ss_deadline d = make((struct ss_deadline_config){0}, "50%");

  (void)state;
  ss_deadline_phase(&d, START, &(struct ss_deadline_test){1, START, 10 * S});
  assert_int_equal(ss_deadline_due(&d, START + 5 * S), SS_ACT_DUMP);
  ss_deadline_phase(&d, START, &(struct ss_deadline_test){2, START, 12 * S});
  assert_int_equal(ss_deadline_due(&d, START + 5 * S), SS_ACT_NONE);
  assert_int_equal(ss_deadline_due(&d, START + 6 * S), SS_ACT_DUMP);
}

static void stalls_double_and_end(void **state)
{
  struct ss_deadline d = make((struct ss_deadline_config){.stall_ns = 10 * S}, "50%");
  static const uint64_t due[] = {10, 20, 40, 80};

  (void)state;
  ss_deadline_phase(&d, START, &(struct ss_deadline_test){1, START, 0});
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(ss_deadline_due(&d, START + due[i] * S - 1), SS_ACT_NONE);
    assert_int_equal(ss_deadline_due(&d, START + due[i] * S), SS_ACT_DUMP);
  }
  assert_int_equal(ss_deadline_due(&d, START + 10000 * S), SS_ACT_NONE);
  assert_true(ss_deadline_wake_ns(&d) == UINT64_MAX);
}

static void makes_up_for_missed_stalls_once(void **state)
{
  struct ss_deadline d = make((struct ss_deadline_config){.stall_ns = 10 * S}, "50%");

  (void)state;
  ss_deadline_phase(&d, START, &(struct ss_deadline_test){1, START, 0});
  assert_int_equal(ss_deadline_due(&d, START + 50 * S), SS_ACT_DUMP);
  assert_int_equal(ss_deadline_due(&d, START + 50 * S), SS_ACT_NONE);
  assert_int_equal(ss_deadline_wake_ns(&d), START + 80 * S);
}

static void ends_in_three_steps(void **state)
{
  struct ss_deadline d =
      make((struct ss_deadline_config){.timeout_ns = 5 * S, .grace_ns = 2 * S}, "50%");

  (void)state;
  assert_int_equal(ss_deadline_due(&d, START + 4 * S), SS_ACT_NONE);
  assert_int_equal(ss_deadline_due(&d, START + 5 * S), SS_ACT_INTERRUPT);
  assert_int_equal(ss_deadline_due(&d, START + 6 * S), SS_ACT_NONE);
  assert_int_equal(ss_deadline_wake_ns(&d), START + 7 * S);
  assert_int_equal(ss_deadline_due(&d, START + 7 * S), SS_ACT_ABORT);
  assert_int_equal(ss_deadline_due(&d, START + 9 * S), SS_ACT_KILL);
  assert_int_equal(ss_deadline_due(&d, START + 99 * S), SS_ACT_NONE);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(parses_points),
      cmocka_unit_test(refuses_bad_points),
      cmocka_unit_test(dumps_at_shares_of_the_run),
      cmocka_unit_test(makes_up_for_missed_points_once),
      cmocka_unit_test(takes_points_in_any_order),
      cmocka_unit_test(dumps_anew_for_each_test),
      cmocka_unit_test(learns_the_limit_of_a_test),
      cmocka_unit_test(tells_tests_apart),
      cmocka_unit_test(stalls_double_and_end),
      cmocka_unit_test(makes_up_for_missed_stalls_once),
      cmocka_unit_test(ends_in_three_steps),
  };

  return cmocka_run_group_tests(tests, NULL, NULL);
}
