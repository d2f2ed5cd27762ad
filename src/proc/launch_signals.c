/*
 * Events of the main loop: signals and whom they were for, job control, the
 * witness's words, the end of the child.
 *
 * Whether a signal is forwarded: what the terminal or the kernel sends goes to
 * the whole group or concerns us alone, so it never is (but for a hang-up, which
 * a session leader gets alone). Of the rest, siginfo does not tell `kill PID` from
 * `kill -PGRP`, so each of ours is matched, by number and sender, with one that the
 * witness got; what finds no match was for us alone. Matching by count gives the
 * command of timeout(1), which signals first us and then the group, the two it
 * would have had.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch_priv.h"
#include "stacksample/sys.h"

enum {
  BATCH = 32,    /* signals taken at once; more wait in the kernel */
  SYNC_MS = 200, /* then the witness may be stopped: continue it */
  SYNC_TRIES = 10,
  SECOND_LOOK_NS = 2000000 /* a kill of the group reaches us before it, by microseconds */
};
/* A sighting that old is of a signal that merged with another one of ours. */
static const uint64_t sighting_life_ns = 200000000;

/* ---- the witness ------------------------------------------------------------ */

bool ss_launch_tell(struct ss_launch *l, enum ss_wire_what what, int fd)
{
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct ss_wire msg = {.what = (int)what};
  struct iovec iov = {.iov_base = &msg, .iov_len = sizeof msg};
  struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

  if (fd >= 0) {
    hdr.msg_control = &control;
    hdr.msg_controllen = sizeof control;
    struct cmsghdr *c = CMSG_FIRSTHDR(&hdr);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  return l->control >= 0 &&
         sendmsg(l->control, &hdr, MSG_NOSIGNAL) == (ssize_t)sizeof msg;
}

static void note_sighting(struct ss_launch *l, const struct ss_wire *msg)
{
  if (msg->pid == getpid())
    return; /* ours, to wake it */
  if (l->n_sightings == SS_SIGHTINGS_MAX) {
    l->n_sightings--;
    memmove(l->sightings, l->sightings + 1,
            (size_t)l->n_sightings * sizeof l->sightings[0]);
  }
  l->sightings[l->n_sightings++] = (struct ss_sighting){
      .signo = msg->signo, .code = msg->code, .pid = msg->pid, .at_ns = ss_now_ns()};
}

int ss_launch_hear(struct ss_launch *l, int timeout_ms)
{
  struct pollfd pfd = {.fd = l->control, .events = POLLIN};
  struct ss_wire msg;

  if (l->control < 0 || poll(&pfd, 1, timeout_ms) <= 0)
    return -1;
  ssize_t n = recv(l->control, &msg, sizeof msg, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return -1;
  if (n != (ssize_t)sizeof msg) { /* somebody killed it */
    ss_close(&l->control);
    ss_note(l->notes, "the witness process is gone: signals to the whole group may "
                      "reach the command twice");
    return -1;
  }
  switch (msg.what) {
  case SS_WIRE_READY:
    l->channels_work = msg.value != 0;
    break;
  case SS_WIRE_SEEN:
    note_sighting(l, &msg);
    break;
  case SS_WIRE_LOGGED:
    l->logged = true;
    break;
  case SS_WIRE_DELIVERED:
    l->delivered = true;
    break;
  default:
    break;
  }
  return msg.what;
}

void ss_launch_sync(struct ss_launch *l)
{
  if (!ss_launch_tell(l, SS_WIRE_SYNC, -1))
    return;
  for (int i = 0; i < SYNC_TRIES && l->control >= 0; i++) {
    int what;
    while ((what = ss_launch_hear(l, SYNC_MS)) >= 0)
      if (what == SS_WIRE_SYNCED)
        return;
    kill(l->witness, SIGCONT); /* a SIGSTOP to the group stopped it too */
  }
}

/* ---- whom a signal was for ---------------------------------------------------- */

static bool match_sighting(struct ss_launch *l, const struct signalfd_siginfo *si)
{
  for (int i = 0; i < l->n_sightings; i++) {
    const struct ss_sighting *s = &l->sightings[i];
    if (s->signo != (int)si->ssi_signo || s->code != si->ssi_code ||
        s->pid != (pid_t)si->ssi_pid)
      continue;
    l->n_sightings--;
    memmove(l->sightings + i, l->sightings + i + 1,
            (size_t)(l->n_sightings - i) * sizeof l->sightings[0]);
    return true;
  }
  return false;
}

static void forget_old_sightings(struct ss_launch *l)
{
  uint64_t now = ss_now_ns();
  int kept = 0;

  for (int i = 0; i < l->n_sightings; i++)
    if (now - l->sightings[i].at_ns < sighting_life_ns)
      l->sightings[kept++] = l->sightings[i];
  l->n_sightings = kept;
}

/* Ours, or about our own children, or of the kernel about us. */
static bool own_business(const struct ss_launch *l, const struct signalfd_siginfo *si)
{
  if ((si->ssi_signo == SIGCHLD && si->ssi_code > 0) || si->ssi_code == SI_TIMER)
    return true;
  return si->ssi_code <= 0 && ((pid_t)si->ssi_pid == getpid() ||
                               (l->witness > 0 && (pid_t)si->ssi_pid == l->witness));
}

static bool may_be_for_us_alone(const struct signalfd_siginfo *si)
{
  if (si->ssi_code <= 0)
    return true;
  return si->ssi_code == SI_KERNEL &&
         (si->ssi_signo == SIGHUP || si->ssi_signo == SIGCONT);
}

static void forward(struct ss_launch *l, const struct signalfd_siginfo *si)
{
  int sig = (int)si->ssi_signo;

  if (sig == SIGWINCH)
    ss_launch_tell(l, SS_WIRE_RESIZE, -1);
  if (si->ssi_code == SI_QUEUE) {
    siginfo_t info = {.si_signo = sig, .si_code = SI_QUEUE};
    info.si_pid = (pid_t)si->ssi_pid;
    info.si_uid = si->ssi_uid;
    info.si_value.sival_ptr = (void *)(uintptr_t)si->ssi_ptr;
    if (syscall(SYS_rt_sigqueueinfo, l->pid, sig, &info) == 0)
      return;
  }
  kill(l->pid, sig); /* not yet reaped, so it cannot be somebody else */
}

/* A flood before anybody asks (at the handshake) loses events but for the last:
 * the child's end. */
static void push_event(struct ss_launch *l, struct ss_launch_event event)
{
  if (l->n_events >= SS_EVENTS_MAX - (event.what != SS_LAUNCH_EXITED))
    return;
  l->events[(l->first_event + l->n_events++) % SS_EVENTS_MAX] = event;
}

static void settle(struct ss_launch *l, const struct signalfd_siginfo *si, bool alone)
{
  int sig = (int)si->ssi_signo;
  bool forwarded = alone && !l->ended;

  if (forwarded)
    forward(l, si);
  if (sig == SIGINT || sig == SIGTERM || sig == SIGHUP)
    l->interrupts++;
  push_event(l, (struct ss_launch_event){
                    .what = SS_LAUNCH_SIGNAL, .signo = sig, .forwarded = forwarded});
}

/* Moves those of `open` that the witness got as well to the settled ones. */
static int settle_matched(struct ss_launch *l, struct signalfd_siginfo *open, int n)
{
  int left = 0;

  for (int i = 0; i < n; i++)
    if (match_sighting(l, &open[i]))
      settle(l, &open[i], false);
    else
      open[left++] = open[i];
  return left;
}

static void settle_open(struct ss_launch *l, struct signalfd_siginfo *open, int n)
{
  for (int look = 0; look < 2 && n > 0; look++) {
    if (look > 0)
      ss_sleep_ns(SECOND_LOOK_NS);
    ss_launch_sync(l);
    n = settle_matched(l, open, n);
  }
  for (int i = 0; i < n; i++)
    settle(l, &open[i], true);
  forget_old_sightings(l);
}

static void take_signals(struct ss_launch *l)
{
  struct signalfd_siginfo batch[BATCH], open[BATCH];
  int n_open = 0;

  ssize_t bytes = read(l->signals, batch, sizeof batch);
  int n = bytes > 0 ? (int)((size_t)bytes / sizeof batch[0]) : 0;
  for (int i = 0; i < n; i++) {
    if (own_business(l, &batch[i]))
      continue;
    if (may_be_for_us_alone(&batch[i]))
      open[n_open++] = batch[i];
    else
      settle(l, &batch[i], false);
  }
  if (n_open > 0)
    settle_open(l, open, n_open);
}

/* ---- the child's state ----------------------------------------------------------- */

/* Stops us as the child was stopped, and returns when we are continued. */
static void stop_too(struct ss_launch *l, int sig)
{
  struct sigaction dfl = {.sa_handler = SIG_DFL}, before;
  sigset_t only;

  ss_launch_tell(l, SS_WIRE_WATCH, -1);
  if (sig == SIGSTOP) {
    raise(SIGSTOP);
  } else {
    sigaction(sig, &dfl, &before);
    sigemptyset(&only);
    sigaddset(&only, sig);
    raise(sig);
    sigprocmask(SIG_UNBLOCK, &only, NULL); /* stopped here */
    sigprocmask(SIG_BLOCK, &only, NULL);
    sigaction(sig, &before, NULL);
  }
  ss_launch_tell(l, SS_WIRE_AWAKE, -1);
}

/* One change of the child's state; false: none. A ptrace stop of an engine's
 * thread shows here as well, and is left alone. */
static bool look_at_child(struct ss_launch *l)
{
  struct ss_launch_event event = {0};
  siginfo_t si = {0}, taken;

  if (l->ended || waitid(P_PID, (id_t)l->pid, &si,
                         WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT) != 0)
    return false;
  if (si.si_pid == 0 || si.si_code == CLD_TRAPPED)
    return false;
  if (si.si_code == CLD_STOPPED) {
    waitid(P_PID, (id_t)l->pid, &taken, WSTOPPED | WNOHANG);
    stop_too(l, si.si_status);
    event.what = SS_LAUNCH_STOPPED;
    event.signo = si.si_status;
  } else if (si.si_code == CLD_CONTINUED) {
    waitid(P_PID, (id_t)l->pid, &taken, WCONTINUED | WNOHANG);
    event.what = SS_LAUNCH_CONTINUED;
  } else {
    l->end_ns = ss_now_ns();
    l->ended = true;
    event.what = SS_LAUNCH_EXITED;
  }
  push_event(l, event);
  return true;
}

/* ---- the loop -------------------------------------------------------------------- */

bool ss_launch_step(struct ss_launch *l, int timeout_ms, int extra_fd)
{
  struct pollfd pfd[3] = {
      {.fd = l->signals, .events = POLLIN},
      {.fd = l->control, .events = POLLIN},
      {.fd = extra_fd, .events = POLLIN},
  };

  bool changed = l->pid > 0 && look_at_child(l);
  if (poll(pfd, 3, changed ? 0 : timeout_ms) <= 0)
    return false;
  if (pfd[1].revents != 0)
    ss_launch_hear(l, 0);
  if (pfd[0].revents & POLLIN)
    take_signals(l);
  return pfd[2].revents != 0;
}

void ss_launch_next(struct ss_launch *l, int timeout_ms, struct ss_launch_event *event)
{
  uint64_t end = ss_now_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000;
  int left = timeout_ms;

  *event = (struct ss_launch_event){.what = SS_LAUNCH_TIMEOUT};
  while (l->n_events == 0) {
    ss_launch_step(l, left, -1);
    uint64_t now = ss_now_ns();
    if (timeout_ms >= 0 && now >= end)
      break;
    left = timeout_ms < 0 ? -1 : (int)((end - now) / 1000000) + 1;
  }
  if (l->n_events > 0) {
    *event = l->events[l->first_event];
    l->first_event = (l->first_event + 1) % SS_EVENTS_MAX;
    l->n_events--;
  }
  event->interrupts = l->interrupts;
}
