/*
 * The ptrace engine's view of the tree, without perf's records of it: who is new,
 * who has ended, exec'ed, was renamed, and who has run, all from /proc.
 *
 * The number of the last process made (/proc/loadavg) tells whether anybody can be
 * new at all, so that an idle system costs one read a round. Of many threads, one that
 * has not run is asked less and less often. What is told has the order in which perf
 * tells it; a birth's time is the start time, which the kernel rounds to a tick, but
 * never before what was told already.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "stacksample/buf.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"
#include "tracer_priv.h"

enum {
  IDLE_SKIP_MAX = 8,    /* rounds that an idle thread is left alone */
  IDLE_READ_MAX = 32,   /* of so few threads none is: 2 us each */
  KEPT_OPEN_MAX = 2048, /* schedstat files, and of the descriptors that we may have */
  KEPT_SHARE = 4,       /* one in so many */
  LIST_SHARE = 30       /* a listing may cost one part in so many of the time */
};
#define LIST_NS 250000000ull        /* listed at least so often, whatever loadavg says */
#define CHECK_NS 250000000ull       /* between looks at a leader */
#define USAGE_NS 200000000ull       /* between two USAGE records of a thread */
#define LISTING_LATE_NS 50000000ull /* stage 2 waits no longer for one */

/* ---- threads --------------------------------------------------------------------- */

static struct ss_runner *find_runner(const struct ss_tracer *t, pid_t tid)
{
  uint64_t *found = ss_idmap_get(&t->by_tid, (uint64_t)tid);
  return found ? (struct ss_runner *)(uintptr_t)*found : NULL;
}

static struct ss_watched *find_process(const struct ss_tracer *t, pid_t pid)
{
  uint64_t *found = ss_idmap_get(&t->by_pid, (uint64_t)pid);
  return found ? (struct ss_watched *)(uintptr_t)*found : NULL;
}

/* false: it has ended. */
static bool read_schedstat(struct ss_tracer *t, struct ss_runner *r, uint64_t *cpu_ns,
                           uint64_t *runqueue_ns)
{
  char path[64], text[96];
  if (r->schedstat < 0 && t->kept_open < t->kept_max) {
    snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", (int)r->process->pid,
             (int)r->tid);
    r->schedstat = open(path, O_RDONLY | O_CLOEXEC);
    t->kept_open += r->schedstat >= 0;
  }
  if (r->schedstat < 0) {
    errno = 0;
    return ss_schedstat_read(r->process->pid, r->tid, cpu_ns, runqueue_ns) ||
           (errno != ENOENT && errno != ESRCH); /* not now: as it was */
  }
  ssize_t got = pread(r->schedstat, text, sizeof text - 1, 0);
  if (got <= 0)
    return false;
  text[got] = '\0';
  char *end = text;
  *cpu_ns = strtoull(end, &end, 10);
  *runqueue_ns = strtoull(end, &end, 10);
  return end != text;
}

static void runner_free(struct ss_tracer *t, struct ss_runner *r)
{
  t->kept_open -= r->schedstat >= 0;
  ss_close(&r->schedstat);
  ss_idmap_del(&t->by_tid, (uint64_t)r->tid);
  free(r);
}

/* The thread's CPU time so far is not ours to sample where it is older than we. */
static struct ss_runner *runner_new(struct ss_tracer *t, struct ss_watched *p, pid_t tid,
                                    const struct ss_stat *st)
{
  struct ss_runner *r = calloc(1, sizeof *r);
  if (!r || t->count >= SS_THREADS_MAX ||
      !ss_grow(&t->runners, &t->cap, t->count + 1, sizeof(struct ss_runner *)) ||
      !ss_idmap_put(&t->by_tid, (uint64_t)tid, (uint64_t)(uintptr_t)r)) {
    free(r);
    return NULL;
  }
  r->process = p;
  r->tid = tid;
  r->schedstat = -1;
  snprintf(r->comm, sizeof r->comm, "%s", st->comm);
  t->runners[t->count++] = r;
  return r;
}

static void forget_time(struct ss_tracer *t, struct ss_runner *r)
{
  uint64_t cpu_ns, runqueue_ns;
  if (read_schedstat(t, r, &cpu_ns, &runqueue_ns)) {
    r->cpu_ns = r->told_cpu_ns = r->sampled_ns = cpu_ns;
    r->runqueue_ns = runqueue_ns;
  }
  r->split_known = false;
  r->kernel_owed_ns = 0;
}

/* ---- exec, names, kernel time ------------------------------------------------------ */

static uint64_t image_of(const struct ss_stat *st)
{
  uint64_t places[3] = {st->start_code, st->end_code, st->start_stack};
  return st->start_code == 0 ? 0 : ss_hash_bytes(places, sizeof places) | 1;
}

/* "pipe:[NUMBER]" where that is what the descriptor is. */
static bool read_pipe(pid_t pid, int fd, char *out, size_t cap)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
  ssize_t len = readlink(path, out, cap - 1);
  out[len > 0 ? len : 0] = '\0';
  return ss_starts_with(out, "pipe:[");
}

static void note_image(struct ss_tracer *t, struct ss_runner *r, const struct ss_stat *st)
{
  struct ss_watched *p = r->process;
  uint64_t image = image_of(st);
  if (image == 0 || image == p->image)
    return;
  bool exec = p->image != 0;
  p->image = image;
  p->exec_kb = 0;
  if (!exec)
    return;
  bool born = p->held;
  uint64_t now_ns = ss_now_ns();
  p->held = false;
  snprintf(r->comm, sizeof r->comm, "%s", st->comm);
  ss_tell_comm(t, r, now_ns, true);
  t->bound_ns = now_ns; /* threads that are found from here on are the new image's */
  if (born) {
    t->last_pid = 0; /* of which there may be some already */
    if (!read_pipe(p->pid, 1, t->output, sizeof t->output))
      t->output[0] = '\0';
    forget_time(t, r);
    ss_tell_in(t, r, now_ns);
    ss_tell_out(t, r, now_ns);
  }
}

/* How the CPU time since the last line divides; the kernel rounds to its ticks and
 * what it rounds off comes with a later line. */
static void note_split(struct ss_runner *r, const struct ss_stat *st)
{
  uint64_t stime_ns = ss_ticks_ns(st->stime_ticks);
  if (r->split_known && stime_ns > r->stime_ns)
    r->kernel_owed_ns += (int64_t)(stime_ns - r->stime_ns);
  if (r->split_known && st->minflt > r->minflt)
    r->faults += st->minflt - r->minflt;
  r->split_known = true;
  r->stime_ns = stime_ns;
  r->minflt = st->minflt;
}

void ss_watch_stat(struct ss_tracer *t, struct ss_runner *r, const struct ss_stat *st)
{
  note_image(t, r, st);
  if (strcmp(st->comm, r->comm) != 0) {
    snprintf(r->comm, sizeof r->comm, "%s", st->comm);
    ss_tell_comm(t, r, ss_now_ns(), false);
  }
  note_split(r, st);
}

/* ---- births ---------------------------------------------------------------------- */

static uint64_t birth_ns(const struct ss_tracer *t, const struct ss_stat *st,
                         uint64_t now_ns)
{
  uint64_t age_ns = ss_stat_age_ns(st);
  uint64_t born_ns = now_ns > age_ns ? now_ns - age_ns : 0;
  return born_ns > t->bound_ns ? born_ns : t->bound_ns;
}

/* An exec is to be told before the threads that came after it. */
static void look_at_leader(struct ss_tracer *t, struct ss_watched *p)
{
  struct ss_runner *leader = find_runner(t, p->pid);
  struct ss_stat st;
  if (leader && ss_stat_read(&st, p->pid, p->pid))
    ss_watch_stat(t, leader, &st);
}

/* `quiet`: it lives already when we come; stage 2 finds it by itself. */
static void add_threads(struct ss_tracer *t, struct ss_watched *p, bool quiet,
                        uint64_t now_ns)
{
  pid_t *tids = NULL;
  size_t count = 0;
  struct ss_stat st;
  if (ss_tasks_list(p->pid, &tids, &count) != SS_ERR_OK)
    return;
  for (size_t i = 0; i < count; i++) {
    if (find_runner(t, tids[i]) || !ss_stat_read(&st, p->pid, tids[i]))
      continue;
    if (!quiet)
      look_at_leader(t, p);
    struct ss_runner *r = runner_new(t, p, tids[i], &st);
    if (r && quiet)
      forget_time(t, r);
    else if (r && tids[i] != p->pid)
      ss_tell_birth(t, r, p->pid, birth_ns(t, &st, now_ns), false);
    if (r) {
      note_split(r, &st);
      r->stime_ns = quiet ? r->stime_ns : 0;
      r->minflt = quiet ? r->minflt : 0;
    }
  }
  free(tids);
}

static struct ss_watched *process_new(struct ss_tracer *t, const struct ss_stat *st)
{
  struct ss_watched *p = calloc(1, sizeof *p);
  if (!p || !ss_idmap_put(&t->by_pid, (uint64_t)st->pid, (uint64_t)(uintptr_t)p)) {
    free(p);
    return NULL;
  }
  p->pid = st->pid;
  p->ppid = st->ppid;
  p->pidfd = ss_pidfd_open(p->pid, 0);
  p->image = image_of(st);
  ss_mem_live_init(&p->live, p->pid);
  p->next = t->processes;
  t->processes = p;
  return p;
}

/* A fork is a copy until it execs, which a child that is seen late has done. */
static void add_child(struct ss_tracer *t, const struct ss_watched *parent,
                      const struct ss_stat *st, uint64_t now_ns)
{
  struct ss_watched *p = process_new(t, st);
  struct ss_runner *r = p ? runner_new(t, p, st->pid, st) : NULL;
  if (!r)
    return;
  ss_tell_birth(t, r, parent->pid, birth_ns(t, st, now_ns), p->image != parent->image);
  r->split_known = true;
  add_threads(t, p, false, now_ns);
}

/* An orphan whose parent was never seen is still ours if it prints where the command
 * does: that pipe goes to us and to nobody else's children. */
static const struct ss_watched *parent_of(const struct ss_tracer *t,
                                          const struct ss_stat *st)
{
  const struct ss_watched *parent = find_process(t, st->ppid);
  char output[sizeof t->output];
  if (parent || !t->output[0] || !read_pipe(st->pid, 1, output, sizeof output) ||
      strcmp(output, t->output) != 0)
    return parent;
  return st->ppid == getpid() ? NULL : find_process(t, t->root);
}

/* Children of children come in the same listing, with higher numbers but where the
 * numbers have started over: hence until nobody is added. */
static void add_children(struct ss_tracer *t, uint64_t now_ns)
{
  pid_t *pids = NULL;
  size_t count = 0;
  if (ss_newcomers_list(&t->newcomers, &pids, &count) != SS_ERR_OK)
    return;
  bool news = count > 0;
  for (int pass = 0; pass < 8 && news; pass++) {
    news = false;
    for (size_t i = 0; i < count; i++) {
      struct ss_stat st;
      if (pids[i] == 0 || !ss_stat_read(&st, pids[i], 0) || ss_stat_ended(&st) ||
          find_process(t, pids[i])) {
        pids[i] = 0;
        continue;
      }
      const struct ss_watched *parent = parent_of(t, &st);
      if (parent) {
        add_child(t, parent, &st, now_ns);
        pids[i] = 0;
        news = true;
      }
    }
  }
  free(pids);
}

static uint64_t read_last_pid(const struct ss_tracer *t)
{
  char text[128];
  ssize_t got = t->loadavg < 0 ? -1 : pread(t->loadavg, text, sizeof text - 1, 0);
  if (got <= 0)
    return 0;
  text[got] = '\0';
  const char *last = strrchr(text, ' ');
  return last ? strtoull(last, NULL, 10) : 0;
}

static bool may_list(const struct ss_listing *l, uint64_t now_ns)
{
  return now_ns >= l->at_ns + l->cost_ns * LIST_SHARE;
}

static void list_processes(struct ss_tracer *t, uint64_t now_ns)
{
  uint64_t begun_ns = ss_thread_cpu_ns();
  if (!t->config.no_children)
    add_children(t, now_ns);
  t->listed_processes = (struct ss_listing){now_ns, ss_thread_cpu_ns() - begun_ns};
}

static void list_threads(struct ss_tracer *t, uint64_t now_ns)
{
  uint64_t begun_ns = ss_thread_cpu_ns();
  for (struct ss_watched *p = t->processes; p; p = p->next)
    if (!p->held)
      add_threads(t, p, false, now_ns);
  t->listed_threads = (struct ss_listing){now_ns, ss_thread_cpu_ns() - begun_ns};
}

/* Moves the bound up to this round unless a listing is owed. Threads of the processes
 * that are known do not wait for those of the whole machine. */
static void look_for_newcomers(struct ss_tracer *t, uint64_t now_ns)
{
  uint64_t last_pid = read_last_pid(t);
  bool due = now_ns >= t->listed_processes.at_ns + LIST_NS;
  bool threads = may_list(&t->listed_threads, now_ns);
  bool processes = may_list(&t->listed_processes, now_ns);
  if (!due && last_pid == t->last_pid && last_pid != 0) {
    t->bound_ns = now_ns;
    return;
  }
  if (processes)
    list_processes(t, now_ns);
  if (threads)
    list_threads(t, now_ns);
  if (processes && threads) {
    t->last_pid = last_pid;
    t->bound_ns = now_ns;
  } else if (t->bound_ns + LISTING_LATE_NS < now_ns) {
    t->bound_ns = now_ns - LISTING_LATE_NS;
  }
}

/* ---- who has run ----------------------------------------------------------------- */

static void look_at_runner(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  uint64_t cpu_ns = r->cpu_ns, runqueue_ns = r->runqueue_ns;
  if (r->gone || r->process->held)
    return;
  if (r->skip > 0) {
    r->skip--;
    return;
  }
  if (!read_schedstat(t, r, &cpu_ns, &runqueue_ns)) {
    r->gone = true;
    return;
  }
  if (cpu_ns == r->cpu_ns) {
    r->idle++;
    r->skip = t->count <= IDLE_READ_MAX ? 0
              : r->idle < IDLE_SKIP_MAX ? r->idle
                                        : IDLE_SKIP_MAX;
  } else {
    r->idle = r->skip = 0;
  }
  if (cpu_ns > r->cpu_ns) {
    uint64_t ran_ns = cpu_ns - r->cpu_ns, since_ns = now_ns - t->told_ns;
    ss_tell_in(t, r, now_ns - (ran_ns < since_ns ? ran_ns : since_ns));
    ss_tell_out(t, r, now_ns);
  }
  if (cpu_ns < r->cpu_ns) { /* another thread's exec has taken its number */
    r->sampled_ns = 0;
    r->split_known = false;
  }
  r->cpu_ns = cpu_ns;
  r->runqueue_ns = runqueue_ns;
  if (cpu_ns != r->told_cpu_ns && now_ns >= r->told_at_ns + USAGE_NS)
    ss_tell_usage(t, r, now_ns);
}

/* Its leader's line, for a process that nobody samples: exec, names, the end of the
 * leader alone, and where there is no pidfd the end of all. */
static void check_process(struct ss_tracer *t, struct ss_watched *p, uint64_t now_ns)
{
  struct ss_runner *r = find_runner(t, p->pid);
  struct ss_stat st;
  if (!r || (!p->held && now_ns < p->checked_ns + CHECK_NS))
    return;
  p->checked_ns = now_ns;
  if (!ss_stat_read(&st, p->pid, p->pid) || ss_stat_ended(&st)) {
    r->gone = true;
    return;
  }
  ss_watch_stat(t, r, &st);
  if (st.state == 'Z' && !r->leader_ended) {
    ss_tell_exit(t, r, now_ns);
    r->leader_ended = true;
  }
}

static bool process_ended(const struct ss_watched *p)
{
  struct pollfd fd = {.fd = p->pidfd, .events = POLLIN};
  return p->pidfd >= 0 && poll(&fd, 1, 0) > 0;
}

/* ---- deaths ---------------------------------------------------------------------- */

static void bury_runners(struct ss_tracer *t, uint64_t now_ns)
{
  for (size_t i = 0; i < t->count;) {
    struct ss_runner *r = t->runners[i];
    if (!r->gone || r->stopping) {
      i++;
      continue;
    }
    ss_tell_exit(t, r, now_ns);
    t->runners[i] = t->runners[--t->count];
    runner_free(t, r);
  }
}

static bool has_runners(const struct ss_tracer *t, const struct ss_watched *p)
{
  for (size_t i = 0; i < t->count; i++)
    if (t->runners[i]->process == p)
      return true;
  return false;
}

static void process_free(struct ss_tracer *t, struct ss_watched *p)
{
  ss_idmap_del(&t->by_pid, (uint64_t)p->pid);
  ss_mem_live_release(&p->live);
  ss_close(&p->pidfd);
  free(p);
}

static void bury_processes(struct ss_tracer *t)
{
  for (struct ss_watched **link = &t->processes; *link;) {
    struct ss_watched *p = *link;
    if (has_runners(t, p)) {
      link = &p->next;
      continue;
    }
    *link = p->next;
    process_free(t, p);
  }
}

static void look_for_ends(struct ss_tracer *t, uint64_t now_ns)
{
  bool ends = false;
  for (struct ss_watched *p = t->processes; p; p = p->next) {
    bool ended = process_ended(p);
    for (size_t i = 0; ended && i < t->count; i++)
      t->runners[i]->gone |= t->runners[i]->process == p;
    if (!ended)
      check_process(t, p, now_ns);
  }
  for (size_t i = 0; i < t->count && !ends; i++)
    ends = t->runners[i]->gone;
  if (ends) {
    bury_runners(t, now_ns);
    bury_processes(t);
  }
}

/* ---- interface ------------------------------------------------------------------- */

void ss_watch_look(struct ss_tracer *t, uint64_t now_ns)
{
  t->told_ns = t->bound_ns;
  look_for_newcomers(t, now_ns);
  for (size_t i = 0; i < t->count; i++)
    look_at_runner(t, t->runners[i], now_ns);
  look_for_ends(t, now_ns);
}

static void add_living(struct ss_tracer *t, pid_t pid, uint64_t now_ns)
{
  struct ss_stat st;
  if (find_process(t, pid) || !ss_stat_read(&st, pid, 0) || ss_stat_ended(&st))
    return;
  struct ss_watched *p = process_new(t, &st);
  if (p)
    add_threads(t, p, true, now_ns);
}

bool ss_watch_begin(struct ss_tracer *t, struct ss_diag *diag)
{
  pid_t *pids = NULL;
  size_t count = 0;
  uint64_t now_ns = ss_now_ns();
  struct rlimit limit = {.rlim_cur = 256};
  (void)getrlimit(RLIMIT_NOFILE, &limit);
  t->kept_max = limit.rlim_cur / KEPT_SHARE < KEPT_OPEN_MAX ? limit.rlim_cur / KEPT_SHARE
                                                            : KEPT_OPEN_MAX;
  t->loadavg = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  t->last_pid = read_last_pid(t);
  if (ss_newcomers_list(&t->newcomers, &pids, &count) == SS_ERR_OK)
    free(pids);
  pids = NULL;
  count = 0;
  add_living(t, t->root, now_ns);
  if (!t->processes) {
    ss_fail(diag, SS_ERR_GONE, "process %d has ended", (int)t->root);
    return false;
  }
  t->processes->held = t->config.held;
  if (!t->config.no_children && ss_tree_list(t->root, &pids, &count) == SS_ERR_OK)
    for (size_t i = 0; i < count; i++)
      add_living(t, pids[i], now_ns);
  free(pids);
  t->bound_ns = t->listed_processes.at_ns = now_ns;
  return true;
}

void ss_watch_release(struct ss_tracer *t)
{
  while (t->count > 0)
    runner_free(t, t->runners[--t->count]);
  while (t->processes) {
    struct ss_watched *p = t->processes;
    t->processes = p->next;
    process_free(t, p);
  }
  free(t->runners);
  ss_idmap_release(&t->by_pid);
  ss_idmap_release(&t->by_tid);
  ss_newcomers_release(&t->newcomers);
  ss_close(&t->loadavg);
}
