/*
 * The limits that may end a run: timeout(1) among our ancestors or in the
 * command, pytest-timeout's settings, RLIMIT_CPU, the cgroup's CPU quota, and
 * our own. Only read and reported: no limit of the user's is ever changed.
 */
#ifndef STACKSAMPLE_TIME_LIMITS_H
#define STACKSAMPLE_TIME_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/buf.h"

#define SS_TIME_LIMITS_MAX 32

enum ss_limit_kind {
  SS_LIMIT_RUN,      /* ends the whole command: ours, timeout(1) */
  SS_LIMIT_SESSION,  /* pytest-timeout's --session-timeout: between tests only */
  SS_LIMIT_TEST,     /* pytest-timeout: for each test anew */
  SS_LIMIT_CPU_TIME, /* RLIMIT_CPU: seconds of CPU, not of the clock */
  SS_LIMIT_CPUS      /* cgroup cpu.max: `s` is a number of CPUs, not seconds */
};
const char *ss_limit_kind_word(enum ss_limit_kind kind); /* "run", "test", ... */

struct ss_time_limit {
  char source[96]; /* "stacksample --timeout", "timeout(1), pid 4120", ... */
  enum ss_limit_kind kind;
  double s;         /* as it was set */
  double elapsed_s; /* how much had passed when we started, >= 0 */
};
struct ss_time_limits {
  struct ss_time_limit items[SS_TIME_LIMITS_MAX];
  size_t count;
};

/* What a command is once its wrappers (time, timeout, env, nice, ...) are taken
 * off. Pointers are into the argv given. */
struct ss_unwrapped {
  char *const *argv;   /* the inner command; NULL-terminated, maybe empty */
  char *const *pytest; /* pytest's own arguments, or NULL: it is not pytest */
};
/* `limits` (may be NULL) receives the timeout(1)s passed by, `settings` (may be
 * NULL) the KEY=value words of env, one pointer each, up to `cap`. */
void ss_unwrap(char *const *argv, struct ss_unwrapped *out, struct ss_time_limits *limits,
               const char **settings, size_t cap, size_t *n_settings);
/* Does a word of this name run another command given by its arguments? */
bool ss_is_wrapper(const char *argv0);
/* The DURATION of a timeout(1) command line; false where there is none or 0. */
bool ss_timeout1_parse(char *const *argv, double *seconds);

/* Whose limits: a command that we are to start, or (pid > 0) a process that runs. */
struct ss_limited {
  pid_t pid;
  char *const *command, *const *environment;
  int cwd_fd; /* its working folder; -1: unknown */
};
/* Everything that can be known from outside. `own_timeout_ns` 0: none. */
void ss_time_limits_find(struct ss_time_limits *out, const struct ss_limited *of,
                         uint64_t own_timeout_ns);
/* Adds what a test's marker was seen to set, once. */
void ss_time_limits_marker(struct ss_time_limits *l, double s);
/* Seconds after the command's start at which the first SS_LIMIT_RUN fires, and
 * which one (NULL: none). */
const struct ss_time_limit *ss_time_limits_first(const struct ss_time_limits *l,
                                                 double *at_s);
/* One line where an outer limit fires before an inner one could; else false. */
bool ss_time_limits_warning(const struct ss_time_limits *l, struct ss_buf *out);
/* pytest-timeout's setting by its own rules (ini < environment < option), from
 * the text of one ini file. `section` such as "pytest" or "tool:pytest". */
bool ss_ini_value(const char *text, size_t len, const char *section, const char *key,
                  struct ss_buf *out);

#endif
