/*
 * Starting the user's command as if we were not there: handshake, channels,
 * signals, job control, wait status.
 *
 *   ss_launch_prepare   before anything is allocated: forks the child, which
 *                       waits at the handshake with everything (mask,
 *                       dispositions, limits, timers) as we found it, and the
 *                       witness
 *   (the engine opens its events on ss_launch_pid)
 *   ss_launch_release   lets it exec; an exec error comes back here
 *   ss_launch_next      waits for the next event: the main thread's loop
 *   ss_launch_finish    drains the channels, reaps
 *
 * The witness is a small process in our group, child of ours and never of the
 * command. It blocks every signal and says which ones the whole group got: those
 * the command has already, so they are not forwarded. It also carries the
 * command's output from the channels to the real descriptors and into the log,
 * and goes on doing so when we are killed: `kill -9` of stacksample costs the
 * command neither a byte nor a SIGPIPE. Left alone, it ends when the channels do.
 *
 * Job control: whenever the command is stopped, by the terminal or by a SIGSTOP
 * aimed at it alone, we stop with the same signal, so that the shell sees its job
 * stopped as it would have. The witness watches the command meanwhile and
 * continues us when somebody else continued (or killed) it. A SIGSTOP aimed at us
 * alone cannot be seen and stops only us.
 *
 * All calls are for the main thread.
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
  char *const *argv; /* NULL-terminated, as the user gave it; borrowed */
  bool no_log;       /* pass fd 1 and 2 through untouched */
};

/* Must be the first thing `run` does. Blocks all signals in this thread (and
 * so in all threads made later) and takes them by signalfd. Of the descriptors
 * we were started with only stderr stays open here: the others are the command's
 * alone, so that their other ends see it close them (0 and 1 become /dev/null).
 * Disarms our interval timers: the command has them. */
enum ss_err ss_launch_prepare(struct ss_launch **launch,
                              const struct ss_launch_config *config,
                              struct ss_diag *diag);
pid_t ss_launch_pid(const struct ss_launch *l);
/* The witness, whose CPU time is a cost of ours; -1 where none could be started. */
pid_t ss_launch_witness_pid(const struct ss_launch *l);
/* CLOCK_MONOTONIC of the exec. */
uint64_t ss_launch_start_ns(const struct ss_launch *l);
/* Lets the child exec. log_fd stays the caller's (-1: keep no log; errors of
 * writing it are noted by finish and never reach the command); open it with
 * O_APPEND. Returns 0, or the errno of the exec (ENOENT, EACCES, ...): then
 * go on with finish or abandon. A child that a signal ended before its exec
 * counts as started; the next event is EXITED. */
int ss_launch_release(struct ss_launch *l, int log_fd, struct ss_notes *notes);
/* Ends the child at the handshake, without exec (output folder unusable). */
void ss_launch_abandon(struct ss_launch *l);

enum ss_launch_what {
  SS_LAUNCH_TIMEOUT, /* nothing happened in timeout_ms */
  SS_LAUNCH_EXITED,  /* the child is a zombie now, not yet reaped: /proc/PID
                        can still be read; reap by ss_launch_finish */
  SS_LAUNCH_STOPPED, /* was stopped by job control; we stopped too and go on */
  SS_LAUNCH_CONTINUED,
  SS_LAUNCH_SIGNAL /* a signal reached us; forwarded where it was due */
};
struct ss_launch_event {
  enum ss_launch_what what;
  int signo;           /* SIGNAL, STOPPED */
  bool forwarded;      /* SIGNAL: it was for us alone and went on to the child */
  unsigned interrupts; /* SIGINT/SIGTERM/SIGHUP seen so far */
};
/* timeout_ms < 0: no limit. EXITED comes once; later calls still take signals
 * (a second Ctrl-C), which then have nobody to go on to. */
void ss_launch_next(struct ss_launch *l, int timeout_ms, struct ss_launch_event *event);
/* Draws the status line (one line, safe for a terminal; cut to its width) on
 * stderr. It is erased before the command's next output; text that the command left
 * without a newline stays. False when nothing was drawn: the terminal takes nothing
 * at the moment (Ctrl-S), or the output does not pass through us. */
bool ss_launch_show_status(struct ss_launch *l, const char *line);
void ss_launch_clear_status(struct ss_launch *l);
/* Milliseconds since the command last wrote something, or since the exec. */
uint64_t ss_launch_quiet_ms(const struct ss_launch *l);

/* How it ended. */
struct ss_exit {
  int code;                  /* 0..255; -1 when a signal ended it */
  int signal;                /* 0 when it exited */
  struct rusage ru;          /* of wait4: the command and its waited-for descendants */
  uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC; start 0: never released */
};
/* Reaps and drains what is in the channels, though a grandchild may hold them
 * open: on return the log is complete. */
void ss_launch_finish(struct ss_launch *l, struct ss_exit *out);
/* After finish or abandon, as the last thing. Waits until the reader of our
 * output has taken all of it, as the command would have (a SIGINT, SIGTERM or
 * SIGHUP ends that wait); ends the witness. */
void ss_launch_free(struct ss_launch *l);

#endif
