/*
 * The witness: a process in our group that blocks every signal and tells us
 * which ones it got, so that we know what the whole group got; it also runs the
 * pumps, so that the command's output does not depend on our life.
 *
 * It never forwards a signal itself, never looks at what it carries, and
 * holds only the descriptors that it works on. When we are gone it stays until
 * the channels have ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launch_priv.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

enum { WATCH_MIN_MS = 10, WATCH_MAX_MS = 200 };

struct witness {
  const struct ss_witness_args *args;
  int control, signals, log_fd;
  struct ss_pumps *pumps;
  bool drain_asked, delivered_said;
  bool watching;
  uint64_t watch_since_ns;
};

static void say(struct witness *w, enum ss_wire_what what, int value)
{
  struct ss_wire msg = {.what = (int)what, .value = value};

  if (w->control >= 0)
    send(w->control, &msg, sizeof msg, MSG_NOSIGNAL);
}

/* Never waits for the launcher, which may be stopped for hours. */
static void say_signal(struct witness *w, const struct signalfd_siginfo *si)
{
  struct ss_wire msg = {.what = SS_WIRE_SEEN,
                        .signo = (int)si->ssi_signo,
                        .code = si->ssi_code,
                        .pid = (pid_t)si->ssi_pid};

  if (w->control >= 0)
    send(w->control, &msg, sizeof msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void report_signals(struct witness *w)
{
  struct signalfd_siginfo si;

  while (read(w->signals, &si, sizeof si) == (ssize_t)sizeof si) {
    /* The size first: the command has its SIGWINCH at the same moment. After a
     * stop it may have changed without one. */
    if (si.ssi_signo == SIGWINCH || si.ssi_signo == SIGCONT)
      ss_channels_resize(w->args->channels);
    say_signal(w, &si);
  }
}

static ssize_t take_message(struct witness *w, struct ss_wire *msg, int *fd)
{
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = msg, .iov_len = sizeof *msg};
  struct msghdr hdr = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};

  *fd = -1;
  ssize_t n = recvmsg(w->control, &hdr, MSG_CMSG_CLOEXEC);
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&hdr) : NULL;
  if (c != NULL && c->cmsg_type == SCM_RIGHTS)
    memcpy(fd, CMSG_DATA(c), sizeof *fd);
  return n;
}

static void obey(struct witness *w, const struct ss_wire *msg, int fd)
{
  switch (msg->what) {
  case SS_WIRE_LOG:
    if (w->pumps != NULL)
      ss_pumps_set_log(w->pumps, fd);
    break;
  case SS_WIRE_SYNC:
    report_signals(w);
    say(w, SS_WIRE_SYNCED, msg->value);
    break;
  case SS_WIRE_RESIZE:
    ss_channels_resize(w->args->channels);
    break;
  case SS_WIRE_WATCH:
    w->watching = true;
    w->watch_since_ns = ss_now_ns();
    break;
  case SS_WIRE_AWAKE:
    w->watching = false;
    break;
  case SS_WIRE_DRAIN:
    if (w->pumps != NULL)
      ss_pumps_drain(w->pumps);
    w->drain_asked = true;
    say(w, SS_WIRE_LOGGED, 0);
    break;
  default:
    break;
  }
}

static void hear_launcher(struct witness *w)
{
  struct ss_wire msg;
  int fd;

  ssize_t n = take_message(w, &msg, &fd);
  if (n == (ssize_t)sizeof msg) {
    obey(w, &msg, fd);
  } else if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
    ss_close(&w->control); /* the launcher is gone */
    w->watching = false;
  }
}

/* Often at first, so that a short stop stays short; seldom during a long one. */
static int watch_interval_ms(const struct witness *w)
{
  uint64_t ms = (ss_now_ns() - w->watch_since_ns) / 1000000 / 10;

  if (!w->watching)
    return -1;
  return ms < WATCH_MIN_MS ? WATCH_MIN_MS : ms > WATCH_MAX_MS ? WATCH_MAX_MS : (int)ms;
}

/* Repeated until the launcher says that it is awake: a SIGCONT that comes
 * before its stop is lost. */
static void watch_child(struct witness *w)
{
  struct ss_stat st;

  if (ss_stat_read(&st, w->args->child, 0) && (st.state == 'T' || st.state == 't'))
    return;
  kill(w->args->launcher, SIGCONT);
}

static bool pumps_done(struct witness *w)
{
  return w->pumps == NULL || ss_pumps_done(w->pumps);
}

_Noreturn static void serve(struct witness *w)
{
  while (w->control >= 0 || !pumps_done(w)) {
    struct pollfd pfd[3] = {
        {.fd = w->signals, .events = POLLIN},
        {.fd = w->control, .events = POLLIN},
        {.fd = w->pumps != NULL ? ss_pumps_fd(w->pumps) : -1, .events = POLLIN},
    };
    int n = poll(pfd, 3, watch_interval_ms(w));
    if (n > 0 && (pfd[0].revents & POLLIN))
      report_signals(w);
    if (n > 0 && pfd[1].revents != 0)
      hear_launcher(w);
    if (n > 0 && (pfd[2].revents & POLLIN))
      ss_pumps_clear(w->pumps);
    if (w->watching)
      watch_child(w);
    if (w->drain_asked && !w->delivered_said && pumps_done(w)) {
      say(w, SS_WIRE_DELIVERED, 0);
      w->delivered_said = true;
    }
  }
  _exit(0);
}

/* Standard input, and what no channel needs, must not be held open by us. */
static void let_go(const struct ss_witness_args *args)
{
  int keep[4] = {args->control};
  int n = 1;
  bool used[3] = {[2] = isatty(2) != 0}; /* the status line's */

  for (int i = 0; i < args->channels->count; i++) {
    keep[n++] = args->channels->items[i].source;
    used[args->channels->items[i].real] = true;
  }
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd <= 2; fd++) {
    if (used[fd])
      continue;
    if (null < 0 || dup2(null, fd) < 0)
      close(fd);
  }
  ss_close_others(keep, n);
}

_Noreturn void ss_witness_main(const struct ss_witness_args *args)
{
  struct witness w = {.args = args, .control = args->control};
  sigset_t all;

  sigfillset(&all);
  ss_set_mask(~UINT64_C(0));
  prctl(PR_SET_NAME, "ss-witness");
  let_go(args);
  w.signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
  if (args->channels->count > 0)
    w.pumps = ss_pumps_start(args->channels, args->shared);
  bool works = args->channels->count == 0 || w.pumps != NULL;
  say(&w, SS_WIRE_READY, works);
  serve(&w);
}
