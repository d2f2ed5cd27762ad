/*
 * Start, handshake and end of the user's command.
 *
 * Order matters. The child is forked first, from a process that has allocated
 * next to nothing (its peak memory must be its own) and changed nothing but its
 * own mask; then the witness. So a signal that comes in between is one that the
 * witness did not see, and is forwarded to a child that cannot have a handler
 * yet. Every descriptor of ours is close-on-exec; 0, 1 and 2 are filled first
 * where they are closed, so that none of ours lands there.
 */
#include "stacksample/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch_priv.h"
#include "stacksample/sys.h"

enum {
  READY_MS = 5000,     /* the witness starts */
  LOGGED_MS = 5000,    /* the log's file system may be slow */
  DELIVERED_MS = 1000, /* before our closing lines; ss_launch_free waits on */
  CLOSE_FDS_MAX = 65536
};
enum { GO_PLAIN = 'p', GO_CHANNELS = 'c' };

void ss_set_mask(uint64_t mask)
{
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
}

static int compare_ints(const void *a, const void *b)
{
  int x = *(const int *)a, y = *(const int *)b;

  return (x > y) - (x < y);
}

static void close_span(unsigned first, unsigned last)
{
  if (first > last)
    return;
#ifdef SYS_close_range
  if (syscall(SYS_close_range, first, last, 0) == 0)
    return;
#endif
  for (unsigned fd = first; fd <= last && fd < CLOSE_FDS_MAX; fd++)
    close((int)fd);
}

void ss_close_others(int *keep, int n)
{
  unsigned next = 3;

  qsort(keep, (size_t)n, sizeof *keep, compare_ints);
  for (int i = 0; i < n; i++) {
    if (keep[i] < (int)next)
      continue;
    close_span(next, (unsigned)keep[i] - 1);
    next = (unsigned)keep[i] + 1;
  }
  close_span(next, ~0u);
}

/* ---- as we were started ---------------------------------------------------- */

static const __itimer_which_t timer_clocks[3] = {ITIMER_REAL, ITIMER_VIRTUAL,
                                                 ITIMER_PROF};

static void save_inherited(struct ss_inherited *in)
{
  static const struct itimerval off = {0};
  struct sigaction sa;

  syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &in->mask, sizeof in->mask);
  ss_set_mask(~UINT64_C(0));
  for (int sig = 1; sig <= 64; sig++)
    if (sigaction(sig, NULL, &sa) == 0 && sa.sa_handler == SIG_IGN)
      in->ignored |= UINT64_C(1) << (sig - 1);
  for (int i = 0; i < 3; i++)
    setitimer(timer_clocks[i], &off, &in->timers[i]);
  for (int fd = 0; fd <= 2; fd++) {
    in->closed[fd] = fcntl(fd, F_GETFD) < 0;
    if (in->closed[fd] && open("/dev/null", O_RDWR | O_CLOEXEC) < 0)
      (void)!eventfd(0, EFD_CLOEXEC);
  }
}

static void restore_signals(const struct ss_inherited *in)
{
  struct sigaction sa = {0};

  for (int sig = 1; sig <= 64; sig++) {
    bool ignored = (in->ignored >> (sig - 1)) & 1;
    sa.sa_handler = ignored ? SIG_IGN : SIG_DFL;
    sigaction(sig, &sa, NULL);
  }
  ss_set_mask(in->mask);
}

/* ---- the child ------------------------------------------------------------- */

static void rearm_timers(const struct ss_inherited *in)
{
  for (int i = 0; i < 3; i++)
    if (timerisset(&in->timers[i].it_value))
      setitimer(timer_clocks[i], &in->timers[i], NULL);
}

/* From here on signals meet the child as they would meet the command before its
 * main: a Ctrl-C at the handshake ends it. */
_Noreturn static void child_main(struct ss_launch *l, int go, int exec_error,
                                 char *const *argv)
{
  char order;

  ss_close(&l->go);
  ss_close(&l->exec_error);
  ss_channels_close_sources(&l->channels);
  rearm_timers(&l->inherited);
  restore_signals(&l->inherited);
  if (ss_read_some(go, &order, 1) != 1)
    _exit(0); /* abandoned, or the launcher died */
  if (order == GO_CHANNELS)
    ss_channels_install(&l->channels);
  for (int fd = 0; fd <= 2; fd++)
    if (l->inherited.closed[fd])
      close(fd);
  execvp(argv[0], argv);
  int err = errno;
  ss_write_all(exec_error, &err, sizeof err);
  _exit(127);
}

/* ---- prepare --------------------------------------------------------------- */

static pid_t try_fork(void)
{
  return ss_fault("fork") ? -1 : fork();
}

static enum ss_err fork_child(struct ss_launch *l, char *const *argv,
                              struct ss_diag *diag)
{
  int go[2], error[2];

  if (pipe2(go, O_CLOEXEC) != 0)
    return ss_fail_errno(diag, "cannot make a pipe");
  l->go = go[1];
  if (pipe2(error, O_CLOEXEC) != 0) {
    close(go[0]);
    return ss_fail_errno(diag, "cannot make a pipe");
  }
  l->exec_error = error[0];
  l->pid = try_fork();
  if (l->pid == 0)
    child_main(l, go[0], error[1], argv);
  int saved = errno;
  close(go[0]);
  close(error[1]);
  ss_channels_close_sinks(&l->channels);
  errno = saved;
  return l->pid > 0 ? SS_ERR_OK : ss_fail_errno(diag, "cannot fork");
}

/* Without it (RLIMIT_NPROC) the command runs all the same: no log, and what is
 * sent to the whole group may reach it twice. */
static void fork_witness(struct ss_launch *l)
{
  int ends[2];

  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
    l->control = ends[0];
    struct ss_witness_args args = {.launcher = getpid(),
                                   .child = l->pid,
                                   .control = ends[1],
                                   .channels = &l->channels,
                                   .shared = l->shared};
    l->witness = try_fork();
    if (l->witness == 0)
      ss_witness_main(&args);
    close(ends[1]);
  }
  ss_channels_close_sources(&l->channels);
  if (l->witness < 0) {
    ss_close(&l->control);
    l->channels.count = 0;
  }
}

static struct ss_shared *make_shared(void)
{
  pthread_mutexattr_t attr;

  struct ss_shared *s =
      mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (s == MAP_FAILED)
    return NULL;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&s->terminal, &attr);
  pthread_mutexattr_destroy(&attr);
  s->line_start = true;
  return s;
}

/* The descriptors that are the command's alone. */
static void let_go(struct ss_launch *l)
{
  int keep[] = {l->go, l->exec_error, l->control, l->signals};

  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd <= 1 && null >= 0; fd++)
    dup2(null, fd);
  ss_close_others(keep, sizeof keep / sizeof keep[0]);
}

static enum ss_err take_signals(struct ss_launch *l, struct ss_diag *diag)
{
  sigset_t all;

  sigfillset(&all);
  l->signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
  if (l->signals < 0)
    return ss_fail_errno(diag, "cannot take signals by descriptor");
  sigprocmask(SIG_SETMASK, &all, NULL); /* glibc's own two stay open */
  return SS_ERR_OK;
}

enum ss_err ss_launch_prepare(struct ss_launch **launch,
                              const struct ss_launch_config *config, struct ss_diag *diag)
{
  struct ss_launch *l = calloc(1, sizeof *l);
  enum ss_err err;

  *launch = NULL;
  if (l == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "out of memory");
  l->pid = l->witness = -1;
  l->go = l->exec_error = l->signals = l->control = -1;
  save_inherited(&l->inherited);
  signal(SIGCHLD, SIG_DFL); /* ignored, it would lose us the exit status */
  l->shared = make_shared();
  l->channels.of_fd[1] = l->channels.of_fd[2] = -1;
  if (!config->no_log)
    ss_channels_open(&l->channels, l->inherited.closed);
  if (l->shared == NULL)
    err = ss_fail_errno(diag, "cannot map a page");
  else
    err = fork_child(l, config->argv, diag);
  if (err == SS_ERR_OK) {
    fork_witness(l);
    err = take_signals(l, diag);
  }
  if (err != SS_ERR_OK) {
    ss_launch_abandon(l);
    ss_launch_free(l);
    return err;
  }
  let_go(l);
  *launch = l;
  return SS_ERR_OK;
}

pid_t ss_launch_pid(const struct ss_launch *l)
{
  return l->pid;
}

pid_t ss_launch_witness_pid(const struct ss_launch *l)
{
  return l->witness;
}

uint64_t ss_launch_start_ns(const struct ss_launch *l)
{
  return l->start_ns;
}

/* ---- release --------------------------------------------------------------- */

static void check_channels(struct ss_launch *l)
{
  int what;

  if (l->witness < 0)
    ss_note(l->notes, "no second process could be started: the output is not kept, and a "
                      "signal to the whole group may reach the command twice");
  do {
    what = ss_launch_hear(l, READY_MS);
  } while (what >= 0 && what != SS_WIRE_READY);
  if (l->channels.count > 0 && !l->channels_work)
    ss_note(l->notes, "the output is not kept: no thread to copy it could be started");
}

int ss_launch_release(struct ss_launch *l, int log_fd, struct ss_notes *notes)
{
  int err = 0;

  l->notes = notes;
  check_channels(l);
  bool channels = l->channels.count > 0 && l->channels_work;
  if (channels && log_fd >= 0) {
    ss_launch_tell(l, SS_WIRE_LOG, log_fd);
    ss_launch_sync(l);
  }
  char order = channels ? GO_CHANNELS : GO_PLAIN;
  l->start_ns = ss_now_ns();
  atomic_store(&l->shared->last_output_ns, l->start_ns);
  if (ss_write_all(l->go, &order, 1) == 0) {
    while (!ss_launch_step(l, -1, l->exec_error)) {
    }
    if (ss_read_some(l->exec_error, &err, sizeof err) != (ssize_t)sizeof err)
      err = 0; /* it has exec'd, or a signal ended it first */
  }
  ss_close(&l->exec_error);
  ss_close(&l->go);
  return err;
}

void ss_launch_abandon(struct ss_launch *l)
{
  ss_close(&l->go);
  ss_close(&l->exec_error);
  if (l->pid <= 0 || l->reaped)
    return;
  kill(l->pid, SIGKILL); /* it may be stopped */
  while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR) {
  }
  l->ended = l->reaped = true;
}

/* ---- finish ---------------------------------------------------------------- */

static void reap(struct ss_launch *l, struct ss_exit *out)
{
  int status = 0;

  while (wait4(l->pid, &status, 0, &out->ru) < 0 && errno == EINTR) {
  }
  if (!l->ended)
    l->end_ns = ss_now_ns();
  l->ended = l->reaped = true;
  out->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  out->start_ns = l->start_ns;
  out->end_ns = l->end_ns;
}

static void hear_until(struct ss_launch *l, const bool *heard, int timeout_ms)
{
  uint64_t end = ss_now_ns() + (uint64_t)timeout_ms * 1000000;

  while (!*heard && l->control >= 0) {
    uint64_t now = ss_now_ns();
    if (now >= end)
      return;
    ss_launch_hear(l, (int)((end - now) / 1000000) + 1);
  }
}

void ss_launch_finish(struct ss_launch *l, struct ss_exit *out)
{
  *out = (struct ss_exit){.code = -1};
  if (!l->reaped)
    reap(l, out);
  if (l->channels.count == 0)
    return;
  ss_launch_tell(l, SS_WIRE_DRAIN, -1);
  hear_until(l, &l->logged, LOGGED_MS);
  hear_until(l, &l->delivered, DELIVERED_MS);
  if (!l->logged)
    ss_note(l->notes, "the log may lack the end of the output");
  int err = atomic_load(&l->shared->log_errno);
  if (err != 0)
    ss_note(l->notes, "the log is incomplete: %s", strerror(err));
  err = atomic_load(&l->shared->output_errno);
  if (err != 0)
    ss_note(l->notes, "the output could not be passed on: %s", strerror(err));
}

/* The command would have been blocked in its last write; a signal that ends such
 * a command ends this wait. */
static void await_delivery(struct ss_launch *l)
{
  unsigned before = l->interrupts;

  if (l->channels.count == 0)
    return;
  ss_launch_tell(l, SS_WIRE_DRAIN, -1);
  while (l->control >= 0 && !l->delivered && l->interrupts == before)
    ss_launch_step(l, -1, -1);
  if (l->witness > 0 && !l->delivered)
    kill(l->witness, SIGKILL);
}

void ss_launch_free(struct ss_launch *l)
{
  if (l == NULL)
    return;
  if (l->witness > 0) {
    await_delivery(l);
    ss_close(&l->control);
    while (waitpid(l->witness, NULL, 0) < 0 && errno == EINTR) {
    }
  }
  ss_channels_close_sinks(&l->channels);
  ss_channels_close_sources(&l->channels);
  ss_close(&l->go);
  ss_close(&l->exec_error);
  ss_close(&l->control);
  ss_close(&l->signals);
  if (l->shared != NULL)
    munmap(l->shared, sizeof *l->shared);
  free(l);
}

uint64_t ss_launch_quiet_ms(const struct ss_launch *l)
{
  uint64_t last = atomic_load(&l->shared->last_output_ns);
  uint64_t now = ss_now_ns();

  return now > last ? (now - last) / 1000000 : 0;
}
