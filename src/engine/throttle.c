/*
 * CPU time that a cgroup's quota took from the command: cpu.stat of the first
 * process' cgroup and of those around it, read once a second (Documentation/
 * admin-guide/cgroup-v2.rst, "cpu.stat"; version 1: scheduler/sched-bwc.rst).
 *
 * The kernel counts the time for each CPU that stood still; divided by how many CPUs
 * the command wanted it is how long each of its threads was held back, at most. That
 * much of a thread's runnable time is told apart.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/buf.h"
#include "stacksample/fsafe.h"
#include "stacksample/sys.h"

#include "pipeline_priv.h"

#define LEVELS_MAX 16

/* "throttled_usec N" (version 2) or "throttled_time N" (1, nanoseconds); 0 else. */
static uint64_t throttled_of(const char *text)
{
  const char *usec = strstr(text, "throttled_usec ");
  const char *ns = strstr(text, "throttled_time ");

  if (usec)
    return 1000 * strtoull(usec + strlen("throttled_usec "), NULL, 10);
  return ns ? strtoull(ns + strlen("throttled_time "), NULL, 10) : 0;
}

static uint64_t read_stat(const char *mount, const char *path)
{
  struct ss_buf name = {0}, text = {0};
  uint64_t ns = 0;

  ss_buf_addf(&name, "/sys/fs/cgroup%s%s/cpu.stat", mount, path);
  if (ss_file_read_all(AT_FDCWD, ss_buf_str(&name), 4096, &text, NULL) == SS_ERR_OK)
    ns = throttled_of(ss_buf_str(&text));
  ss_buf_release(&name);
  ss_buf_release(&text);
  return ns;
}

/* Of the cgroup and of all around it. */
static uint64_t read_levels(const char *mount, char *path)
{
  uint64_t sum = 0;

  for (int i = 0; i < LEVELS_MAX; i++) {
    char *slash = strrchr(path, '/');
    sum += read_stat(mount, path);
    if (slash == NULL || path[0] == '\0')
      break;
    *slash = '\0';
  }
  return sum;
}

/* Lines are "hierarchy:controllers:path"; the one of version 2 has no controllers. */
static uint64_t read_line(char *line)
{
  char *controllers = strchr(line, ':');
  char *path = controllers ? strchr(controllers + 1, ':') : NULL;

  if (path == NULL)
    return 0;
  *path++ = '\0';
  controllers++;
  if (strcmp(path, "/") == 0)
    path[0] = '\0';
  if (*controllers == '\0')
    return read_levels("", path);
  if (strcmp(controllers, "cpu") == 0)
    return read_levels("/cpu", path);
  return strcmp(controllers, "cpu,cpuacct") == 0 ? read_levels("/cpu,cpuacct", path) : 0;
}

static uint64_t read_all(pid_t pid)
{
  struct ss_buf text = {0};
  char name[64], *line = NULL;
  uint64_t sum = 0;

  snprintf(name, sizeof(name), "/proc/%d/cgroup", (int)pid);
  if (ss_file_read_all(AT_FDCWD, name, 1u << 16, &text, NULL) == SS_ERR_OK &&
      text.len > 0)
    line = text.data;
  while (line) {
    char *end = strchr(line, '\n');
    if (end)
      *end = '\0';
    sum += read_line(line);
    line = end ? end + 1 : NULL;
  }
  ss_buf_release(&text);
  return sum;
}

void ss_throttle_tick(struct ss_pipeline *p, uint64_t now_ns)
{
  struct ss_throttle *t = &p->throttle;
  uint64_t total_ns = read_all(p->config.root);
  unsigned allowed = ss_cpus_allowed(p->config.root);
  uint64_t cpus = allowed > 0 ? allowed : 1;
  uint64_t span_ns = now_ns - t->at_ns, fresh_ns = 0, wanted;

  if (t->at_ns > 0 && total_ns > t->total_ns)
    fresh_ns = total_ns - t->total_ns;
  if (t->at_ns > 0 && total_ns == 0) /* no quota; or the process has ended */
    return;
  if (fresh_ns > span_ns * cpus) /* it was moved to another cgroup, with a history */
    fresh_ns = 0;
  wanted = t->at_ns > 0 ? (t->wanted_ns + span_ns / 2) / span_ns : 0;
  wanted = wanted < cpus ? wanted : cpus;
  t->each_ns = fresh_ns / (wanted > 0 ? wanted : 1);
  t->total_ns = total_ns;
  t->at_ns = now_ns;
  t->wanted_ns = 0;
}

uint64_t ss_throttle_part(struct ss_pipeline *p, enum ss_state state, uint64_t ns)
{
  struct ss_throttle *t = &p->throttle;

  if (state == SS_STATE_RUNNABLE || ss_state_running(state))
    t->wanted_ns += ns;
  if (state != SS_STATE_RUNNABLE)
    return 0;
  return ns < t->each_ns ? ns : t->each_ns;
}
