/*
 * One short stop of a running thread: PTRACE_SEIZE, PTRACE_INTERRUPT, look,
 * PTRACE_DETACH.
 *
 * SEIZE because a tracer that dies then leaves its tracee running. A signal that
 * arrives while we hold the thread is handed on by the detach; a group-stop
 * that was under way stays one, because detaching from it resumes nothing
 * (ptrace(2), "Group-stop"). Every wait has a deadline.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "stacksample/blocked.h"
#include "stacksample/sys.h"

#define POLL_STEP_NS 200000 /* 0.2 ms: a stop takes 30 us where nothing is in its way */

/* Waits for a ptrace stop of `tid`. 1: stopped, 0: not in time, -1: gone. */
static int await_stop(pid_t tid, uint64_t deadline_ns, int *status)
{
  for (;;) {
    pid_t got = waitpid(tid, status, __WALL | WNOHANG);
    struct timespec step = {.tv_nsec = POLL_STEP_NS};
    if (got == tid)
      return WIFSTOPPED(*status) ? 1 : -1;
    if (got < 0 && errno != EINTR)
      return -1;
    if (ss_now_ns() >= deadline_ns)
      return 0;
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &step, NULL);
  }
}

/* The signal to hand on at the detach: that of a signal-delivery-stop. */
static int pending_signal(int status)
{
  bool event_stop = (status >> 16) == PTRACE_EVENT_STOP;

  return event_stop || WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
}

/* A thread that would not stop in time must not stay seized: a detach needs a
 * stop, so it is waited for a little longer; the tracer's exit frees it, too. */
static enum ss_err give_up(pid_t tid, uint64_t extra_ns, struct ss_diag *diag)
{
  int status = 0;

  if (await_stop(tid, ss_now_ns() + extra_ns, &status) == 1)
    (void)ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)pending_signal(status));
  return ss_fail(diag, SS_ERR_LIMIT, "thread %d did not stop in time (uninterruptible?)",
                 (int)tid);
}

/* Seized in an earlier attempt that was given up. */
static bool still_ours(pid_t tid)
{
  int refused = errno;
  bool ours = errno == EPERM && ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) == 0;

  errno = refused;
  return ours;
}

enum ss_err ss_stop_look(pid_t tid, unsigned deadline_ms,
                         void (*look)(void *arg, const struct ss_regs *regs), void *arg,
                         uint64_t *stopped_ns, struct ss_diag *diag)
{
  uint64_t began_ns, wait_ns = (uint64_t)deadline_ms * 1000000;
  struct ss_regs regs;
  int status = 0, stopped;
  bool read;

  if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0 && !still_ours(tid))
    return ss_fail_errno(diag, "thread %d cannot be stopped", (int)tid);
  if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) != 0)
    return ss_fail_errno(diag, "thread %d cannot be stopped", (int)tid);
  stopped = await_stop(tid, ss_now_ns() + wait_ns, &status);
  if (stopped < 0)
    return ss_fail(diag, SS_ERR_GONE, "thread %d has ended", (int)tid);
  if (stopped == 0)
    return give_up(tid, wait_ns, diag);
  began_ns = ss_now_ns();
  read = ss_arch_ptrace_regs(tid, &regs);
  if (read)
    look(arg, &regs);
  (void)ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)pending_signal(status));
  if (stopped_ns)
    *stopped_ns = ss_now_ns() - began_ns;
  return read ? SS_ERR_OK : ss_fail_errno(diag, "registers of thread %d", (int)tid);
}
