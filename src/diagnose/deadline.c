/*
 * The schedule of dumps and of our own ending.
 *
 * Three schedules run side by side: points of the run's earliest limit, the
 * same shares of pytest-timeout's limit from each test's start, and stalls of a
 * phase at doubling intervals. A point that was missed while nobody asked is
 * made up for once, not several times.
 */
#include "stacksample/deadline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/sys.h"

_Static_assert(SS_DUMP_POINTS_MAX <= 32, "a bit of run_done and test_done each");

#define STALL_DUMPS_A_TEST 4 /* --stall */
#define DUMPS_A_RUN 100

/* ---- --dump-at ------------------------------------------------------------------- */

static bool parse_point(const char *word, size_t len, struct ss_dump_point *point)
{
  static const struct {
    const char *suffix;
    double seconds;
  } units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}};
  char text[32], *end = NULL;
  double value;

  if (len == 0 || len >= sizeof(text))
    return false;
  memcpy(text, word, len);
  text[len] = '\0';
  value = strtod(text, &end);
  if (end == text || !(value > 0) || value > 1e9)
    return false;
  *point = (struct ss_dump_point){0};
  if (strcmp(end, "%") == 0) {
    point->share = value / 100;
    return point->share < 1;
  }
  for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
    if (strcmp(end, units[i].suffix) == 0) {
      point->at_ns = (uint64_t)(value * units[i].seconds * 1e9);
      return true;
    }
  return false;
}

bool ss_dump_points_parse(const char *list, struct ss_deadline_config *config,
                          const char **bad)
{
  config->n_points = 0;
  for (const char *at = list; at != NULL;) {
    size_t len = strcspn(at, ",");
    if (config->n_points == SS_DUMP_POINTS_MAX ||
        !parse_point(at, len, &config->points[config->n_points])) {
      *bad = at;
      return false;
    }
    config->n_points++;
    at = at[len] == ',' ? at + len + 1 : NULL;
  }
  return true;
}

/* ---- schedules --------------------------------------------------------------------- */

static uint64_t since_start(const struct ss_deadline *d, uint64_t ns)
{
  return ns > UINT64_MAX - d->start_ns ? UINT64_MAX : d->start_ns + ns;
}

/* When point i of a schedule is due, CLOCK_MONOTONIC; UINT64_MAX: never. */
typedef uint64_t point_when(const struct ss_deadline *d, size_t i);

static uint64_t run_point_ns(const struct ss_deadline *d, size_t i)
{
  const struct ss_dump_point *p = &d->config.points[i];

  if (p->share == 0)
    return since_start(d, p->at_ns);
  if (d->config.run_limit_ns == 0)
    return UINT64_MAX;
  return since_start(d, (uint64_t)(p->share * (double)d->config.run_limit_ns));
}

static uint64_t test_point_ns(const struct ss_deadline *d, size_t i)
{
  const struct ss_dump_point *p = &d->config.points[i];

  if (p->share == 0 || d->test.limit_ns == 0 || d->test.serial == 0)
    return UINT64_MAX;
  return d->test.start_ns + (uint64_t)(p->share * (double)d->test.limit_ns);
}

/* When step i of the ending (INT, ABRT, KILL) is due. */
static uint64_t ending_ns(const struct ss_deadline *d, unsigned i)
{
  if (d->config.timeout_ns == 0 || i >= 3)
    return UINT64_MAX;
  return since_start(d, d->config.timeout_ns + i * d->config.grace_ns);
}

void ss_deadline_init(struct ss_deadline *d, const struct ss_deadline_config *config,
                      uint64_t start_ns)
{
  *d = (struct ss_deadline){
      .config = *config, .start_ns = start_ns, .stall_next_ns = config->stall_ns};
}

void ss_deadline_phase(struct ss_deadline *d, uint64_t phase_start_ns,
                       const struct ss_deadline_test *test)
{
  if (phase_start_ns != d->phase_start_ns)
    d->stall_next_ns = d->config.stall_ns;
  if (test->serial != d->test.serial)
    d->test_done = d->stall_dumps = 0;
  d->phase_start_ns = phase_start_ns;
  d->test = *test;
}

/* Passes all points due by now, in whatever order they were given; true where there
 * was one, the latest of them in *last. */
static bool pass_points(const struct ss_deadline *d, uint32_t *done, point_when *when,
                        uint64_t now_ns, size_t *last)
{
  uint64_t latest_ns = 0, at_ns;

  for (size_t i = 0; i < d->config.n_points; i++) {
    if (*done & (1u << i) || (at_ns = when(d, i)) > now_ns)
      continue;
    *done |= 1u << i;
    if (at_ns >= latest_ns) {
      latest_ns = at_ns;
      *last = i;
    }
  }
  return latest_ns > 0;
}

/* When the first of them that was not passed is due. */
static uint64_t next_point_ns(const struct ss_deadline *d, uint32_t done,
                              point_when *when)
{
  uint64_t first_ns = UINT64_MAX, at_ns;

  for (size_t i = 0; i < d->config.n_points; i++)
    if (!(done & (1u << i)) && (at_ns = when(d, i)) < first_ns)
      first_ns = at_ns;
  return first_ns;
}

static void say_point(struct ss_deadline *d, size_t i, const char *of)
{
  const struct ss_dump_point *p = &d->config.points[i];

  if (p->share > 0)
    snprintf(d->why, sizeof(d->why), "%.0f %% of %s", p->share * 100, of);
  else
    snprintf(d->why, sizeof(d->why), "after %.3g s, as asked", (double)p->at_ns / 1e9);
}

static bool may_stall(const struct ss_deadline *d)
{
  return d->config.stall_ns && d->phase_start_ns && d->stall_dumps < STALL_DUMPS_A_TEST;
}

static bool stall_due(struct ss_deadline *d, uint64_t now_ns)
{
  if (!may_stall(d) || now_ns < d->phase_start_ns + d->stall_next_ns)
    return false;
  snprintf(d->why, sizeof(d->why), "the phase has lasted %.3g s",
           (double)(now_ns - d->phase_start_ns) / 1e9);
  while (now_ns >= d->phase_start_ns + d->stall_next_ns)
    d->stall_next_ns *= 2;
  d->stall_dumps++;
  return true;
}

static bool dump_due(struct ss_deadline *d, uint64_t now_ns)
{
  size_t i = 0;

  if (pass_points(d, &d->run_done, run_point_ns, now_ns, &i)) {
    say_point(d, i, "the run's limit");
    return true;
  }
  if (pass_points(d, &d->test_done, test_point_ns, now_ns, &i)) {
    say_point(d, i, "the test's limit");
    return true;
  }
  return stall_due(d, now_ns);
}

enum ss_deadline_act ss_deadline_due(struct ss_deadline *d, uint64_t now_ns)
{
  static const enum ss_deadline_act ending[] = {SS_ACT_INTERRUPT, SS_ACT_ABORT,
                                                SS_ACT_KILL};

  if (ending_ns(d, d->ended) <= now_ns)
    return ending[d->ended++];
  if (d->ended > 0 || d->dumps >= DUMPS_A_RUN || !dump_due(d, now_ns))
    return SS_ACT_NONE;
  d->dumps++;
  return SS_ACT_DUMP;
}

uint64_t ss_deadline_wake_ns(const struct ss_deadline *d)
{
  uint64_t wake = ending_ns(d, d->ended);

  if (d->ended > 0 || d->dumps >= DUMPS_A_RUN)
    return wake;
  wake = ss_least_ns(wake, next_point_ns(d, d->run_done, run_point_ns));
  wake = ss_least_ns(wake, next_point_ns(d, d->test_done, test_point_ns));
  if (may_stall(d))
    wake = ss_least_ns(wake, d->phase_start_ns + d->stall_next_ns);
  return wake;
}
