/*
 * For how long a thread has not run, from /proc/PID/task/TID/sched: its line
 * se.exec_start is the scheduler's clock when it last ran (kernel/sched/debug.c).
 *
 * That clock is one per CPU and stands still while a hypervisor has the CPU
 * (update_rq_clock_task in kernel/sched/core.c), so it may lag by minutes behind
 * CLOCK_MONOTONIC. Its lag is measured on the CPU in question, by a thread that
 * surely runs there now: ours. The file is absent without CONFIG_SCHED_DEBUG.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/limits.h"
#include "stacksample/sys.h"

#include "look_priv.h"

static bool last_ran(const char *path, uint64_t *ns)
{
  char text[2048];
  const char *line;
  ssize_t got;
  int fd = open(path, O_RDONLY | O_CLOEXEC);

  if (fd < 0)
    return false;
  got = ss_read_some(fd, text, sizeof(text) - 1);
  ss_close(&fd);
  if (got <= 0)
    return false;
  text[got] = '\0';
  line = strstr(text, "se.exec_start");
  line = line ? strchr(line, ':') : NULL;
  if (line == NULL)
    return false;
  *ns = (uint64_t)(strtod(line + 1, NULL) * 1e6); /* milliseconds there */
  return true;
}

/* How far the clock of `cpu` is behind. Where we may not run there, the lag of
 * another one is the best guess. */
static bool measure(int cpu, uint64_t *lag_ns)
{
  cpu_set_t *only = CPU_ALLOC(SS_CPUS_MAX), *before = CPU_ALLOC(SS_CPUS_MAX);
  size_t size = CPU_ALLOC_SIZE(SS_CPUS_MAX);
  uint64_t now_ns = 0, ran_ns = 0;
  bool ok = only && before && sched_getaffinity(0, size, before) == 0;

  if (ok) {
    CPU_ZERO_S(size, only);
    CPU_SET_S((unsigned)cpu, size, only);
    (void)sched_setaffinity(0, size, only);
    now_ns = ss_now_ns();
    ok = last_ran("/proc/thread-self/sched", &ran_ns);
    (void)sched_setaffinity(0, size, before);
  }
  *lag_ns = ok && now_ns > ran_ns ? now_ns - ran_ns : 0;
  CPU_FREE(only);
  CPU_FREE(before);
  return ok;
}

static bool lag_of(struct ss_idmap *lags, int cpu, uint64_t *lag_ns)
{
  const uint64_t *kept = ss_idmap_get(lags, (uint64_t)cpu);

  if (kept) {
    *lag_ns = *kept;
    return true;
  }
  return measure(cpu, lag_ns) && ss_idmap_put(lags, (uint64_t)cpu, *lag_ns);
}

uint64_t ss_look_since(struct ss_idmap *lags, pid_t pid, pid_t tid,
                       const struct ss_stat *st)
{
  uint64_t ran_ns, lag_ns, now_ns, since_ns, age_ns = ss_stat_age_ns(st);
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/task/%d/sched", (int)pid, (int)tid);
  if (st->processor < 0 || st->processor >= SS_CPUS_MAX || !last_ran(path, &ran_ns) ||
      !lag_of(lags, st->processor, &lag_ns))
    return SS_LOOK_UNKNOWN;
  /* What the clock lost since the thread ran is missing here: better too short. */
  now_ns = ss_now_ns();
  since_ns = now_ns > ran_ns + lag_ns ? now_ns - ran_ns - lag_ns : 0;
  return since_ns < age_ns ? since_ns : age_ns;
}
