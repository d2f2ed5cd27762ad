/*
 * Starting the user's command as if we were not there: handshake, channels,
 * signals, job control, wait status. Spec section 1, "Evidence only".
 *
 *   ss_launch_prepare   before anything is allocated: forks the witness and the
 *                       child, which waits at the handshake with everything
 *                       (mask, dispositions, limits) as we found it
 *   (the engine opens its events on ss_launch_pid)
 *   ss_launch_release   lets it exec; an exec error comes back here
 *   ss_launch_next      waits for the next event: the main thread's loop
 *   ss_launch_finish    drains the channels, reaps
 */
#ifndef STACKSAMPLE_LAUNCH_H
#define STACKSAMPLE_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "stacksample/error.h"

struct ss_launch;

struct ss_launch_config {
  char *const *argv; /* NULL-terminated, as the user gave it */
  bool no_log;       /* pass fd 1 and 2 through untouched */
};

/* Must be the first thing `run` does. Blocks all signals in this thread (and
 * so in all threads made later) and takes them by signalfd. */
enum ss_err ss_launch_prepare(struct ss_launch **launch,
                              const struct ss_launch_config *config,
                              struct ss_diag *diag);
pid_t ss_launch_pid(const struct ss_launch *l);
/* CLOCK_MONOTONIC of the exec. */
uint64_t ss_launch_start_ns(const struct ss_launch *l);
/* Starts the channel threads (log_fd -1: keep no log; errors of writing it
 * are noted and never reach the command) and lets the child exec. Returns 0,
 * or the errno of the exec (ENOENT, EACCES, ...). */
int ss_launch_release(struct ss_launch *l, int log_fd, struct ss_notes *notes);
/* Ends the child at the handshake, without exec (output folder unusable). */
void ss_launch_abandon(struct ss_launch *l);

enum ss_launch_what {
  SS_LAUNCH_TIMEOUT,   /* nothing happened in timeout_ms */
  SS_LAUNCH_EXITED,    /* the child is a zombie now, not yet reaped: /proc/PID
                          can still be read; reap by ss_launch_finish */
  SS_LAUNCH_STOPPED,   /* stopped by job control; we stopped too and go on */
  SS_LAUNCH_CONTINUED,
  SS_LAUNCH_SIGNAL,    /* a signal reached us; forwarded where it was due */
  SS_LAUNCH_WAKE       /* ss_launch_wake was called */
};
struct ss_launch_event {
  enum ss_launch_what what;
  int signo;      /* SIGNAL */
  bool forwarded; /* SIGNAL: it was for us alone and went on to the child */
  unsigned interrupts; /* SIGINT/SIGTERM/SIGHUP seen so far */
};
/* timeout_ms < 0: no limit. Also keeps a pty's size (SIGWINCH). */
void ss_launch_next(struct ss_launch *l, int timeout_ms, struct ss_launch_event *event);
void ss_launch_wake(struct ss_launch *l); /* from any thread */
/* Called by the status line's owner before it writes to our terminal, and
 * after; output of the command waits meanwhile. Milliseconds since the command
 * last wrote something. */
void ss_launch_output_lock(struct ss_launch *l);
void ss_launch_output_unlock(struct ss_launch *l);
uint64_t ss_launch_quiet_ms(const struct ss_launch *l);

/* How it ended. */
struct ss_exit {
  int code;          /* 0..255; -1 when a signal ended it */
  int signal;        /* 0 when it exited */
  bool core;
  struct rusage ru;  /* of wait4: the command and its waited-for descendants */
  uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC */
};
/* Reaps, drains what is in the channels (a grandchild may hold them open),
 * restores nothing: the caller's signal handling goes on until release. */
void ss_launch_finish(struct ss_launch *l, struct ss_exit *out);
/* After finish or abandon: ends the witness, frees. */
void ss_launch_free(struct ss_launch *l);

#endif
