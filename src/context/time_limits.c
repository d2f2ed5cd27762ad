/*
 * Which limits may end the run. Everything is read, nothing is changed: command
 * lines of our ancestors, the command's own words and environment, rlimits, the
 * cgroup. Pytest's part is in pytest_limits.c.
 */
#include "stacksample/time_limits.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "context_limits.h"
#include "stacksample/fsafe.h"
#include "stacksample/limits.h"
#include "stacksample/proc.h"

#define ANCESTORS_MAX 64
#define SETTINGS_MAX 64
#define CGROUP_ROOT "/sys/fs/cgroup"

const char *ss_limit_kind_word(enum ss_limit_kind kind)
{
  static const char *const words[] = {"run", "session", "test", "cpu_time", "cpus"};
  return (size_t)kind < sizeof words / sizeof words[0] ? words[kind] : "unknown";
}

void ss_time_limits_add(struct ss_time_limits *l, enum ss_limit_kind kind, double s,
                        const char *source)
{
  if (l->count >= SS_TIME_LIMITS_MAX)
    return;
  struct ss_time_limit *item = &l->items[l->count++];
  *item = (struct ss_time_limit){.kind = kind, .s = s};
  snprintf(item->source, sizeof item->source, "%s", source);
}

void ss_time_limits_marker(struct ss_time_limits *l, double s)
{
  static const char source[] = "pytest-timeout, marker";

  for (size_t i = 0; i < l->count; i++)
    if (strcmp(l->items[i].source, source) == 0 && fabs(l->items[i].s - s) < 1e-6)
      return;
  ss_time_limits_add(l, SS_LIMIT_TEST, s, source);
}

/* ---- ancestors ------------------------------------------------------------------ */

static bool ancestor_limit(pid_t pid, const struct ss_stat *st, struct ss_time_limit *out)
{
  struct ss_words words = {0};
  double s = 0;
  bool found = ss_words_read(&words, pid, "cmdline", SS_CMDLINE_MAX) &&
               ss_timeout1_parse(words.items, &s);

  ss_words_release(&words);
  if (!found)
    return false;
  *out = (struct ss_time_limit){
      .kind = SS_LIMIT_RUN, .s = s, .elapsed_s = (double)ss_stat_age_ns(st) / 1e9};
  snprintf(out->source, sizeof out->source, "timeout(1), pid %d", (int)pid);
  return true;
}

/* Those of `pid`'s parent and above it; outermost first. */
static void find_ancestors(struct ss_time_limits *l, pid_t pid)
{
  struct ss_time_limit found[SS_TIME_LIMITS_MAX / 2];
  size_t n = 0;

  for (int i = 0; i < ANCESTORS_MAX && pid > 1; i++) {
    struct ss_stat st;
    if (!ss_stat_read(&st, pid, 0))
      break;
    if (n < sizeof found / sizeof found[0] && ancestor_limit(pid, &st, &found[n]))
      n++;
    pid = st.ppid;
  }
  while (n > 0 && l->count < SS_TIME_LIMITS_MAX)
    l->items[l->count++] = found[--n];
}

/* ---- cgroup, rlimit --------------------------------------------------------------- */

/* QUOTA / PERIOD of one cgroup's cpu.max; INFINITY without a quota. */
static double cpu_quota(const char *folder)
{
  struct ss_buf file = {0}, text = {0};
  double quota, period, cpus = INFINITY;

  ss_buf_addf(&file, "%s/cpu.max", folder);
  if (ss_file_read_all(AT_FDCWD, ss_buf_str(&file), 256, &text, NULL) == SS_ERR_OK &&
      sscanf(ss_buf_str(&text), "%lf %lf", &quota, &period) == 2 && period > 0 &&
      quota > 0)
    cpus = quota / period;
  ss_buf_release(&file);
  ss_buf_release(&text);
  return cpus;
}

/* The smallest quota from its cgroup up to the root. */
static void find_cgroup(struct ss_time_limits *l, pid_t pid)
{
  struct ss_buf text = {0}, path = {0};
  char file[32];
  double least = INFINITY;

  snprintf(file, sizeof file, "/proc/%d/cgroup", (int)pid);
  if (ss_file_read_all(AT_FDCWD, file, 65536, &text, NULL) == SS_ERR_OK) {
    const char *line = strstr(ss_buf_str(&text), "0::");
    ss_buf_adds(&path, CGROUP_ROOT);
    if (line)
      ss_buf_add(&path, line + 3, strcspn(line + 3, "\n"));
  }
  while (path.len >= strlen(CGROUP_ROOT)) {
    least = fmin(least, cpu_quota(path.data));
    path.len = (size_t)(strrchr(path.data, '/') - path.data);
    path.data[path.len] = '\0';
  }
  if (isfinite(least))
    ss_time_limits_add(l, SS_LIMIT_CPUS, least, "cgroup cpu.max");
  ss_buf_release(&text);
  ss_buf_release(&path);
}

static void find_rlimit(struct ss_time_limits *l, pid_t pid)
{
  struct rlimit r;
  if (prlimit(pid, RLIMIT_CPU, NULL, &r) == 0 && r.rlim_cur != RLIM_INFINITY)
    ss_time_limits_add(l, SS_LIMIT_CPU_TIME, (double)r.rlim_cur,
                       "RLIMIT_CPU (ulimit -t)");
}

/* ---- all ------------------------------------------------------------------------- */

/* What the command's own words set began when it did. */
static void find_in_command(struct ss_time_limits *l, const struct ss_limited *of,
                            double age_s)
{
  const char *settings[SETTINGS_MAX];
  size_t n = 0, first = l->count;
  struct ss_unwrapped inner = {NULL, NULL};

  ss_unwrap(of->command, &inner, l, settings, SETTINGS_MAX, &n);
  for (size_t i = first; i < l->count; i++)
    l->items[i].elapsed_s = age_s;
  if (inner.pytest)
    ss_pytest_limits_find(l, inner.pytest, settings, n, of->environment, of->cwd_fd);
}

void ss_time_limits_find(struct ss_time_limits *out, const struct ss_limited *of,
                         uint64_t own_timeout_ns)
{
  const pid_t pid = of->pid > 0 ? of->pid : getpid();
  struct ss_stat st;
  const bool known = ss_stat_read(&st, pid, 0);

  out->count = 0;
  if (known)
    find_ancestors(out, st.ppid);
  if (own_timeout_ns)
    ss_time_limits_add(out, SS_LIMIT_RUN, (double)own_timeout_ns / 1e9,
                       "stacksample --timeout");
  find_in_command(out, of, known && of->pid > 0 ? (double)ss_stat_age_ns(&st) / 1e9 : 0);
  find_rlimit(out, pid);
  find_cgroup(out, pid);
}

const struct ss_time_limit *ss_time_limits_first(const struct ss_time_limits *l,
                                                 double *at_s)
{
  const struct ss_time_limit *first = NULL;

  for (size_t i = 0; i < l->count; i++) {
    const struct ss_time_limit *item = &l->items[i];
    double at = fmax(0, item->s - item->elapsed_s);
    if (item->kind != SS_LIMIT_RUN || (first && at >= *at_s))
      continue;
    first = item;
    *at_s = at;
  }
  return first;
}

bool ss_time_limits_warning(const struct ss_time_limits *l, struct ss_buf *out)
{
  /* The list is ordered from outside to inside. */
  for (size_t i = 0; i < l->count; i++) {
    const struct ss_time_limit *outer = &l->items[i];
    for (size_t k = i + 1; k < l->count && outer->kind == SS_LIMIT_RUN; k++) {
      const struct ss_time_limit *inner = &l->items[k];
      if (inner->kind > SS_LIMIT_TEST || outer->s - outer->elapsed_s > inner->s)
        continue;
      ss_buf_addf(out, "%s (%g s) will end the run before %s (%g s%s) can", outer->source,
                  outer->s, inner->source, inner->s,
                  inner->kind == SS_LIMIT_TEST ? " a test" : "");
      return true;
    }
  }
  return false;
}
