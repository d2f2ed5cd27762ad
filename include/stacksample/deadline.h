/*
 * When to take a dump and when to end the command: --timeout, --grace, --dump-at,
 * --stall. Pure arithmetic over times that the caller passes in; it sends no signal
 * and takes no dump itself.
 */
#ifndef STACKSAMPLE_DEADLINE_H
#define STACKSAMPLE_DEADLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SS_DUMP_POINTS_MAX 32

/* One entry of --dump-at: a share of the earliest limit, or a time. */
struct ss_dump_point {
  double share;   /* 0 < share < 1; 0: at `at_ns` instead */
  uint64_t at_ns; /* since the command's start */
};

struct ss_deadline_config {
  uint64_t timeout_ns; /* ours; 0: none */
  uint64_t grace_ns;
  uint64_t stall_ns;     /* 0: no stall dumps */
  uint64_t run_limit_ns; /* earliest limit of the whole command; 0: none */
  struct ss_dump_point points[SS_DUMP_POINTS_MAX];
  size_t n_points;
};

/* "50%,75%,10m" -> points; false: which word is wrong is in *bad. */
bool ss_dump_points_parse(const char *list, struct ss_deadline_config *config,
                          const char **bad);

enum ss_deadline_act {
  SS_ACT_NONE,
  SS_ACT_DUMP,      /* take one, go on */
  SS_ACT_INTERRUPT, /* a last dump, then INT to every process, as Ctrl-C would */
  SS_ACT_ABORT,     /* ABRT to those that catch it; core files off first */
  SS_ACT_KILL       /* every process of the tree */
};

struct ss_deadline_test {
  uint64_t serial; /* another test has another one; 0: none runs */
  uint64_t start_ns;
  uint64_t limit_ns; /* 0: none */
};
struct ss_deadline {
  struct ss_deadline_config config;
  uint64_t start_ns; /* of the command, CLOCK_MONOTONIC */
  unsigned ended;    /* steps of the ending taken: INT, ABRT, KILL */
  uint32_t run_done; /* points of the run's schedule that were passed, a bit each */
  struct ss_deadline_test test; /* whose schedule this is */
  uint32_t test_done;           /* of the test's */
  uint64_t phase_start_ns;      /* of the phase that may stall */
  uint64_t stall_next_ns;       /* interval that doubles */
  unsigned stall_dumps, dumps;  /* of this test; of the run */
  char why[96];                 /* of the last SS_ACT_DUMP */
};
void ss_deadline_init(struct ss_deadline *d, const struct ss_deadline_config *config,
                      uint64_t start_ns);
/* Which phase runs (a new one where its start differs), and of which test. */
void ss_deadline_phase(struct ss_deadline *d, uint64_t phase_start_ns,
                       const struct ss_deadline_test *test);
/* What is due at `now_ns`; call until SS_ACT_NONE. */
enum ss_deadline_act ss_deadline_due(struct ss_deadline *d, uint64_t now_ns);
/* When something may be due next, CLOCK_MONOTONIC; UINT64_MAX: never. */
uint64_t ss_deadline_wake_ns(const struct ss_deadline *d);

#endif
