/*
 * What a thread waits for. A futex is told apart by who waits in it: the
 * interpreter's own word is the GIL, a lock's function makes it a lock, anything else
 * is a plain wait. A descriptor is told apart by what it is, several by what they all
 * are. Rules are data tables.
 */
#include "stacksample/waiting.h"

#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "stacksample/sys.h"
#include "stacksample/text.h"

struct rule {
  const char *word; /* what it begins with, or is */
  enum ss_state state;
  const char *detail; /* NULL: the state's word alone */
};

/* ---- functions ------------------------------------------------------------------- */

/* CPython's own come first: they say more than the libc function below them. */
static const struct rule python_functions[] = {
    {"PyThread_acquire_lock_timed", SS_STATE_LOCK, "Python lock"},
    {"PyThread_acquire_lock", SS_STATE_LOCK, "Python lock"},
    {"_PyMutex_LockTimed", SS_STATE_LOCK, "Python lock"},
    {"PyMutex_Lock", SS_STATE_LOCK, "Python lock"},
    {"_PyParkingLot_Park", SS_STATE_LOCK, "Python lock"},
};
static const struct rule functions[] = {
    {"__lll_lock_wait", SS_STATE_LOCK, "mutex"},
    {"___pthread_mutex_lock", SS_STATE_LOCK, "mutex"},
    {"__pthread_mutex_lock", SS_STATE_LOCK, "mutex"},
    {"pthread_mutex_lock", SS_STATE_LOCK, "mutex"},
    {"pthread_mutex_timedlock", SS_STATE_LOCK, "mutex"},
    {"pthread_rwlock_rdlock", SS_STATE_LOCK, "rwlock"},
    {"pthread_rwlock_wrlock", SS_STATE_LOCK, "rwlock"},
    {"std::mutex::lock", SS_STATE_LOCK, "mutex"},
    {"sem_wait", SS_STATE_LOCK, "semaphore"},
    {"sem_timedwait", SS_STATE_LOCK, "semaphore"},
    {"sem_clockwait", SS_STATE_LOCK, "semaphore"},
    {"__new_sem_wait_slow64", SS_STATE_LOCK, "semaphore"},
    {"pthread_cond_wait", SS_STATE_WAIT, "condition"},
    {"pthread_cond_timedwait", SS_STATE_WAIT, "condition"},
    {"pthread_cond_clockwait", SS_STATE_WAIT, "condition"},
    {"pthread_barrier_wait", SS_STATE_WAIT, "barrier"},
    {"pthread_join", SS_STATE_WAIT, "thread's end"},
    {"pthread_timedjoin_np", SS_STATE_WAIT, "thread's end"},
    {"pthread_clockjoin_np", SS_STATE_WAIT, "thread's end"},
    {"__pthread_clockjoin_ex", SS_STATE_WAIT, "thread's end"},
    {"GOMP_barrier", SS_STATE_WAIT, "OpenMP"},
    {"GOMP_parallel", SS_STATE_WAIT, "OpenMP"},
    {"gomp_thread_start", SS_STATE_WAIT, "OpenMP"},
    {"gomp_team_barrier_wait_end", SS_STATE_WAIT, "OpenMP"},
    {"gomp_barrier_wait_end", SS_STATE_WAIT, "OpenMP"},
    {"clock_nanosleep", SS_STATE_SLEEP, NULL},
    {"nanosleep", SS_STATE_SLEEP, NULL},
    {"poll", SS_STATE_WAIT, "poll"},
    {"select", SS_STATE_WAIT, "select"},
};

/* What GCC puts behind the name of a function's changed copy. */
static bool is_copy_mark(const char *s)
{
  return ss_starts_with(s, ".constprop.") || ss_starts_with(s, ".isra.") ||
         ss_starts_with(s, ".part.") || ss_starts_with(s, ".lto_priv.");
}

static const struct rule *find_exact(const struct rule *rules, size_t n, const char *word)
{
  for (size_t i = 0; i < n; i++) {
    size_t len = strlen(rules[i].word);
    if (strncmp(rules[i].word, word, len) == 0 &&
        (word[len] == '\0' || is_copy_mark(word + len)))
      return &rules[i];
  }
  return NULL;
}
#define FIND(rules, word) find_exact((rules), sizeof(rules) / sizeof((rules)[0]), (word))

/* Where a stripped library has no name for its function, its own is in its place. */
static const struct rule libraries[] = {
    {"libgomp", SS_STATE_WAIT, "OpenMP"},
    {"libomp", SS_STATE_WAIT, "OpenMP"},
    {"libiomp5", SS_STATE_WAIT, "OpenMP"},
};

static const struct rule *find_library(const char *name)
{
  for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++)
    if (ss_starts_with(name, libraries[i].word))
      return &libraries[i];
  return NULL;
}

static const struct rule *find_function(const char *const *names, size_t n)
{
  const struct rule *found = NULL;

  for (size_t i = 0; i < n && !found; i++)
    found = names[i] ? FIND(python_functions, names[i]) : NULL;
  for (size_t i = 0; i < n && !found; i++)
    found = names[i] ? FIND(functions, names[i]) : NULL;
  for (size_t i = 0; i < n && !found; i++)
    found = names[i] ? find_library(names[i]) : NULL;
  return found;
}

bool ss_waiting_wants(const char *library)
{
  static const char *const known[] = {"libc.",   "libc-",    "libpthread", "libpython",
                                      "python3", "libgomp",  "libomp",     "libiomp5",
                                      "ld-",     "libstdc++"};

  for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
    if (ss_starts_with(library, known[i]))
      return true;
  return false;
}

/* ---- descriptors ------------------------------------------------------------------ */

/* By where /proc/PID/fd/N leads (proc(5)). */
static const struct rule descriptors[] = {
    {"socket:", SS_STATE_IO, "network"}, /* but see `families` */
    {"pipe:", SS_STATE_IO, "pipe"},
    {"anon_inode:[eventpoll]", SS_STATE_WAIT, "epoll"},
    {"anon_inode:[pidfd]", SS_STATE_CHILD, NULL},
    {"anon_inode:[eventfd]", SS_STATE_WAIT, "eventfd"},
    {"anon_inode:[timerfd]", SS_STATE_SLEEP, NULL},
    {"anon_inode:", SS_STATE_WAIT, "descriptor"},
    {"/dev/pts/", SS_STATE_IO, "terminal"},
    {"/dev/tty", SS_STATE_IO, "terminal"},
    {"/dev/", SS_STATE_IO, "device"},
    {"/", SS_STATE_IO, "disk"},
};

/* By the protocol's name (sk->sk_prot->name, net/socket.c), which is what the extended
 * attribute of a socket says. */
static const struct rule families[] = {
    {"UNIX", SS_STATE_IO, "local socket"},
    {"NETLINK", SS_STATE_IO, "netlink"},
};

static const struct rule *find_prefix(const struct rule *rules, size_t n, const char *s)
{
  for (size_t i = 0; i < n; i++)
    if (ss_starts_with(s, rules[i].word))
      return &rules[i];
  return NULL;
}
#define FIND_PREFIX(rules, s)                                                            \
  find_prefix((rules), sizeof(rules) / sizeof((rules)[0]), (s))

static const struct rule *find_family(const char *link)
{
  char name[64];
  ssize_t len = getxattr(link, "system.sockprotoname", name, sizeof(name) - 1);

  name[len > 0 ? len : 0] = '\0';
  return FIND_PREFIX(families, name);
}

static const struct rule *find_descriptor(pid_t pid, int number)
{
  const struct rule *rule, *family = NULL;
  char link[64], target[64];
  ssize_t len;

  snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, number);
  len = readlink(link, target, sizeof(target) - 1);
  if (len <= 0)
    return NULL;
  target[len] = '\0';
  rule = FIND_PREFIX(descriptors, target);
  if (ss_starts_with(target, "socket:"))
    family = find_family(link);
  return family ? family : rule;
}

/* By which threads wake an event loop. */
static bool is_waker(const struct rule *rule)
{
  return rule->detail && (strcmp(rule->detail, "eventfd") == 0 ||
                          strcmp(rule->detail, "local socket") == 0);
}

/* The one rule of all that are polled for, NULL where they differ. What may only wake
 * the loop counts where there is nothing else. */
static const struct rule *find_polled(pid_t pid, const struct ss_polled *polled)
{
  const struct rule *found = NULL;

  for (size_t i = 0; i < polled->n; i++) {
    const struct rule *rule = find_descriptor(pid, polled->fds[i]);

    if (!rule || (found && rule != found && !is_waker(rule) && !is_waker(found)))
      return NULL;
    if (!found || (is_waker(found) && !is_waker(rule)))
      found = rule;
  }
  return polled->all ? found : NULL;
}

/* ---- inside the kernel ------------------------------------------------------------ */

/* By the kernel function that it sleeps in (fs/pipe.c, kernel/locking). */
static const struct rule channels[] = {
    {"wait_for_partner", SS_STATE_IO, "pipe"}, /* a FIFO that nobody else has open */
    {"rwsem_", SS_STATE_LOCK, "kernel"},       {"down_", SS_STATE_LOCK, "kernel"},
    {"__down", SS_STATE_LOCK, "kernel"},       {"mutex_", SS_STATE_LOCK, "kernel"},
    {"__mutex_", SS_STATE_LOCK, "kernel"},     {"percpu_", SS_STATE_LOCK, "kernel"},
};

static const struct rule *find_channel(pid_t pid, pid_t tid)
{
  char path[64], name[64];
  ssize_t got;
  int fd;

  snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", (int)pid, (int)tid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return NULL;
  got = ss_read_some(fd, name, sizeof(name) - 1);
  ss_close(&fd);
  name[got > 0 ? got : 0] = '\0';
  return FIND_PREFIX(channels, name);
}

/* ---- all together ---------------------------------------------------------------- */

static void say(struct ss_waiting *out, enum ss_state state, const char *detail)
{
  out->state = state;
  if (detail)
    snprintf(out->reason, sizeof(out->reason), "[%s: %s]", ss_state_word(state), detail);
  else
    snprintf(out->reason, sizeof(out->reason), "[%s]", ss_state_word(state));
}

static void say_rule(struct ss_waiting *out, const struct rule *rule,
                     const char *otherwise)
{
  if (rule)
    say(out, rule->state, rule->detail);
  else
    say(out, SS_STATE_WAIT, otherwise);
}

static void say_descriptor(struct ss_waiting *out, pid_t pid, const struct ss_blocked *b)
{
  const char *name = ss_arch_syscall(b->nr).name;
  const struct rule *rule;

  if (strcmp(name, "flock") == 0 || strcmp(name, "fcntl") == 0) {
    say(out, SS_STATE_LOCK, "file");
    return;
  }
  rule = find_descriptor(pid, (int)b->args[0]);
  if (rule)
    say(out, rule->state, rule->detail);
  else
    say(out, SS_STATE_IO, NULL);
}

/* For what all of the descriptors are, where these are known and alike; poll and select
 * without a descriptor are a sleep. An event loop always has one to be woken by, which
 * alone does not say what it waits for. */
static void say_polled(struct ss_waiting *out, pid_t pid, const struct ss_blocked *b,
                       enum ss_wait_kind kind, const struct ss_mem *mem)
{
  struct ss_polled polled;
  const struct rule *rule;

  ss_blocked_polled(b, pid, mem, &polled);
  rule = find_polled(pid, &polled);
  if (kind == SS_WAIT_EPOLL)
    say_rule(out, rule && !is_waker(rule) ? rule : NULL, "epoll");
  else if (polled.all && polled.n == 0)
    say(out, SS_STATE_SLEEP, NULL);
  else
    say_rule(out, rule, kind == SS_WAIT_POLL ? "poll" : "select");
}

/* clone(2) blocks only for a child that was given our memory until it execs. */
static bool is_vfork(const struct ss_syscall_info *call)
{
  return call->name && ss_starts_with(call->name, "clone") &&
         strchr("3", call->name[5]) != NULL;
}

/* The kernel's own locks are told apart; all else that is waited for so is a device. */
static void say_uninterruptible(struct ss_waiting *out, pid_t pid, pid_t tid)
{
  const struct rule *rule = find_channel(pid, tid);

  if (rule)
    say(out, rule->state, rule->detail);
  else
    say(out, SS_STATE_IO, "disk");
}

void ss_waiting_of(const struct ss_waiting_seen *seen, pid_t pid, pid_t tid,
                   const char *const *names, size_t n_names, struct ss_py *py,
                   const struct ss_mem *mem, struct ss_waiting *out)
{
  const struct ss_blocked *b = &seen->blocked;
  struct ss_syscall_info call = ss_arch_syscall(b->nr);

  *out = (struct ss_waiting){.state = SS_STATE_UNKNOWN, .gil_holder = -1};
  if (seen->task_state == 'T' || seen->task_state == 't') {
    say(out, SS_STATE_STOPPED, NULL);
  } else if (!ss_waiting_is_off(seen)) {
    say(out, SS_STATE_UNKNOWN, NULL);
  } else if (call.kind == SS_WAIT_FUTEX) {
    if (py && ss_py_is_gil_word(py, tid, mem, b->args[0])) {
      say(out, SS_STATE_GIL, NULL);
      out->gil_holder = ss_py_gil_holder(py, tid, mem);
    } else {
      say_rule(out, find_function(names, n_names), "futex");
    }
  } else if (call.kind == SS_WAIT_CHILD || is_vfork(&call)) {
    say(out, SS_STATE_CHILD, NULL);
  } else if (call.kind == SS_WAIT_SLEEP) {
    say(out, SS_STATE_SLEEP, NULL);
  } else if (call.kind == SS_WAIT_FD) {
    say_descriptor(out, pid, b);
  } else if (call.kind == SS_WAIT_POLL || call.kind == SS_WAIT_SELECT ||
             call.kind == SS_WAIT_EPOLL) {
    say_polled(out, pid, b, call.kind, mem);
  } else if (seen->task_state == 'D') {
    say_uninterruptible(out, pid, tid);
  } else if (call.kind == SS_WAIT_OPEN || call.kind == SS_WAIT_OPENAT) {
    say_rule(out, find_channel(pid, tid), call.name);
  } else if (call.kind == SS_WAIT_OTHER) { /* restart_syscall: the function says */
    say_rule(out, find_function(names, n_names), call.name);
  } else {
    say(out, SS_STATE_WAIT, call.name);
  }
}

bool ss_waiting_is_off(const struct ss_waiting_seen *seen)
{
  return !seen->blocked.running && seen->task_state != 'R' &&
         (seen->blocked.nr >= 0 || seen->task_state == 'D' || seen->task_state == 'T' ||
          seen->task_state == 't');
}

/* Stopped by ourselves for one copy: it runs. */
static bool is_our_stop(const struct ss_stat *st, pid_t tid)
{
  pid_t tracer = st->state == 't' ? ss_tracer_of(tid) : -1;

  return tracer == 0 || tracer == getpid();
}

bool ss_waiting_read(struct ss_waiting_seen *seen, pid_t pid, pid_t tid)
{
  struct ss_stat st;

  if (!ss_blocked_read(&seen->blocked, pid, tid))
    return false;
  if (seen->blocked.running) {
    seen->task_state = 'R';
    return true;
  }
  if (!ss_stat_read(&st, pid, tid))
    return false;
  seen->blocked.running = is_our_stop(&st, tid);
  seen->task_state = seen->blocked.running ? 'R' : st.state;
  return true;
}
