/*
 * One short stop of a running thread: PTRACE_SEIZE, PTRACE_INTERRUPT, look,
 * PTRACE_DETACH.
 *
 * SEIZE because a tracer that dies then leaves its tracee running. A signal that
 * arrives while we hold the thread is handed on by the detach; a group-stop
 * that was under way stays one, because detaching from it resumes nothing
 * (ptrace(2), "Group-stop"). Nothing here waits without a deadline, and the end of
 * a child of ours is only looked at: its status is for whoever launched it.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/blocked.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

#define POLL_STEP_NS 20000 /* a stop takes 30 us where nothing is in its way */
#define POLL_STEP_MAX_NS 500000

/* ---- who traces, who waits --------------------------------------------------- */

static pid_t status_pid(const struct ss_buf *text, const char *name)
{
  return (pid_t)ss_status_number(ss_buf_str(text), name, 10);
}

/* The kernel names the thread that traces. */
pid_t ss_tracer_of(pid_t tid)
{
  struct ss_buf text = {0};
  pid_t tracer = 0;

  if (ss_status_read(&text, tid, 0))
    tracer = status_pid(&text, "TracerPid");
  if (tracer > 0 && ss_status_read(&text, tracer, 0))
    tracer = status_pid(&text, "Tgid");
  ss_buf_release(&text);
  return tracer;
}

/* The end of anybody else's process or thread has to be taken by its tracer, or it
 * stays a zombie for its parent. */
static bool is_own_child(pid_t tid)
{
  struct ss_buf text = {0};
  bool own = false;

  if (ss_status_read(&text, tid, 0))
    own = status_pid(&text, "Tgid") == tid && status_pid(&text, "PPid") == getpid();
  ss_buf_release(&text);
  return own;
}

static void take_end(pid_t tid)
{
  siginfo_t si;

  if (!is_own_child(tid))
    (void)waitid(P_PID, (id_t)tid, &si, WEXITED | WNOHANG | __WALL);
}

/* ---- the steps ------------------------------------------------------------------ */

/* Seized in an earlier attempt that was given up. */
static bool still_ours(pid_t tid)
{
  int refused = errno;
  bool ours = errno == EPERM && ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) == 0;

  errno = refused;
  return ours;
}

enum ss_err ss_stop_ask(struct ss_stop *stop, pid_t tid, struct ss_diag *diag)
{
  *stop = (struct ss_stop){.tid = tid, .running_ns = ss_now_ns()};
  if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0 && !still_ours(tid))
    return ss_fail_errno(diag, "thread %d cannot be stopped", (int)tid);
  if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) != 0) {
    take_end(tid);
    return ss_fail_errno(diag, "thread %d cannot be stopped", (int)tid);
  }
  return SS_ERR_OK;
}

/* The signal to hand on: that of a signal-delivery-stop, which has no event. */
static int pending_signal(int status)
{
  return status >> 8 ? 0 : status;
}

enum ss_stop_state ss_stop_poll(struct ss_stop *stop)
{
  uint64_t now_ns = ss_now_ns();
  siginfo_t si = {0};

  if (waitid(P_PID, (id_t)stop->tid, &si,
             WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL) != 0)
    return errno == EINTR ? SS_STOP_NOT_YET : SS_STOP_GONE;
  if (si.si_pid == 0) {
    stop->running_ns = now_ns;
    return SS_STOP_NOT_YET;
  }
  if (si.si_code == CLD_TRAPPED || si.si_code == CLD_STOPPED) {
    stop->signal = pending_signal(si.si_status);
    return SS_STOP_STOPPED;
  }
  take_end(stop->tid);
  return SS_STOP_GONE;
}

/* Of calls that are known to do nothing before they wait: an unknown one, such as
 * close, must not be made twice. */
void ss_stop_undo_eintr(const struct ss_stop *stop)
{
  pid_t tid = stop->tid;
  long nr = ss_arch_ptrace_call(tid);
  struct ss_syscall_info info = {0};
  struct ss_regs regs;

  if (nr < 0)
    return;
  info = ss_arch_syscall(nr);
  if (info.name && info.eintr && ss_arch_ptrace_regs(tid, &regs) &&
      (int64_t)regs.r[SS_REG_AX] == -EINTR)
    ss_arch_ptrace_restart(tid);
}

uint64_t ss_stop_release(struct ss_stop *stop)
{
  ss_stop_undo_eintr(stop);
  if (ptrace(PTRACE_DETACH, stop->tid, NULL, (void *)(intptr_t)stop->signal) != 0)
    (void)ss_stop_poll(stop); /* killed meanwhile: takes its end */
  return ss_now_ns() - stop->running_ns;
}

/* ---- all of it --------------------------------------------------------------------- */

static enum ss_stop_state await_stop(struct ss_stop *stop, uint64_t deadline_ns)
{
  uint64_t step_ns = POLL_STEP_NS;
  enum ss_stop_state state;

  while ((state = ss_stop_poll(stop)) == SS_STOP_NOT_YET && ss_now_ns() < deadline_ns) {
    ss_sleep_ns(step_ns);
    if (step_ns < POLL_STEP_MAX_NS)
      step_ns += step_ns / 2;
  }
  return state;
}

/* A thread that would not stop in time must not stay seized: a detach needs a
 * stop, so it is waited for a little longer; the tracer's exit frees it, too. */
static enum ss_err give_up(struct ss_stop *stop, uint64_t extra_ns, struct ss_diag *diag)
{
  if (await_stop(stop, ss_now_ns() + extra_ns) == SS_STOP_STOPPED)
    (void)ss_stop_release(stop);
  return ss_fail(diag, SS_ERR_LIMIT, "thread %d did not stop in time (uninterruptible?)",
                 (int)stop->tid);
}

/* Another thread of ours may have it stopped at this moment. */
static enum ss_err ask_in_turn(struct ss_stop *stop, pid_t tid, uint64_t deadline_ns,
                               struct ss_diag *diag)
{
  enum ss_err err;

  while ((err = ss_stop_ask(stop, tid, diag)) == SS_ERR_ACCESS &&
         ss_tracer_of(tid) == getpid() && ss_now_ns() < deadline_ns)
    ss_sleep_ns(POLL_STEP_MAX_NS);
  return err;
}

enum ss_err ss_stop_look(pid_t tid, unsigned deadline_ms,
                         void (*look)(void *arg, const struct ss_regs *regs), void *arg,
                         uint64_t *stopped_ns, struct ss_diag *diag)
{
  uint64_t wait_ns = (uint64_t)deadline_ms * 1000000, took_ns;
  struct ss_stop stop;
  struct ss_regs regs;
  enum ss_err err = ask_in_turn(&stop, tid, ss_now_ns() + wait_ns, diag);

  if (err != SS_ERR_OK)
    return err;
  switch (await_stop(&stop, ss_now_ns() + wait_ns)) {
  case SS_STOP_GONE:
    return ss_fail(diag, SS_ERR_GONE, "thread %d has ended", (int)tid);
  case SS_STOP_NOT_YET:
    return give_up(&stop, wait_ns, diag);
  case SS_STOP_STOPPED:
    break;
  }
  if (ss_arch_ptrace_regs(tid, &regs)) {
    ss_stop_undo_eintr(&stop);
    look(arg, &regs);
  } else {
    err = ss_fail_errno(diag, "registers of thread %d", (int)tid);
  }
  took_ns = ss_stop_release(&stop);
  if (stopped_ns)
    *stopped_ns = took_ns;
  return err;
}
