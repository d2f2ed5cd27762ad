/*
 * What the files of the launcher share: launch.c (start, handshake, end),
 * launch_signals.c (events, forwarding, job control), witness.c (the process
 * beside us), channel.c (opening the channels), pump.c (emptying them).
 */
#ifndef STACKSAMPLE_LAUNCH_PRIV_H
#define STACKSAMPLE_LAUNCH_PRIV_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/time.h>
#include <termios.h>

#include "stacksample/launch.h"

/* ---- one page shared by us and the witness -------------------------------- */

struct ss_shared {
  pthread_mutex_t terminal; /* process-shared, robust: who writes to it now */
  bool status_shown;        /* these three under the lock */
  bool status_below;        /* drawn one row below the cursor */
  bool line_start;          /* the command's last byte was a newline */
  _Atomic uint64_t last_output_ns;
  atomic_int log_errno;    /* first error of writing the log */
  atomic_int output_errno; /* first error of writing to the user's descriptor */
};

void ss_terminal_lock(struct ss_shared *s);
bool ss_terminal_trylock(struct ss_shared *s);
void ss_terminal_unlock(struct ss_shared *s);
/* Under the lock. */
void ss_status_erase(struct ss_shared *s);

/* ---- channels --------------------------------------------------------------- */

struct ss_channel {
  int source; /* our end: read end of a pipe, or master of a pty */
  int sink;   /* the command's end; only until the child has it */
  int real;   /* 1 or 2: the user's descriptor behind it */
  bool pty;
  bool watch_reader;    /* real is an anonymous pipe or a socket: that its reader
                           left is final, and can be seen without writing */
  struct termios modes; /* of the slave, as last seen */
};

struct ss_channels {
  struct ss_channel items[2];
  int count;
  int of_fd[3]; /* index of the channel that carries fd 1, fd 2; -1: untouched */
};

/* Opens what fd 1 and fd 2 need, but for closed ones; those that cannot have a
 * channel stay untouched. */
void ss_channels_open(struct ss_channels *c, const bool closed[3]);
void ss_channels_close_sinks(struct ss_channels *c);
void ss_channels_close_sources(struct ss_channels *c);
/* In the child: puts the sinks onto fd 1 and fd 2. */
void ss_channels_install(const struct ss_channels *c);
/* Copies the size of the user's terminal to the pty. */
void ss_channels_resize(const struct ss_channels *c);
/* What the slave's ONLCR did, undone: "\r\n" -> "\n". A CR at the end of `in`
 * is held back until the next call shows what follows. Bytes written to `out`
 * (room for n + 1). */
size_t ss_onlcr_undo(bool *held, const char *in, size_t n, char *out);
/* Passes on to the user's terminal what the command changed on the slave. */
void ss_channel_follow_modes(struct ss_channel *ch);

/* ---- pumps: in the witness, one thread a channel ------------------------------ */

struct ss_pumps;
/* Takes over the sources. NULL when no thread could be had. */
struct ss_pumps *ss_pumps_start(struct ss_channels *c, struct ss_shared *shared);
void ss_pumps_set_log(struct ss_pumps *p, int log_fd);
/* Reads what is in the channels now, logs it, closes them. Never blocks on the
 * user's descriptors; the threads deliver the rest. */
void ss_pumps_drain(struct ss_pumps *p);
/* Readable when a thread has ended, until cleared. */
int ss_pumps_fd(const struct ss_pumps *p);
void ss_pumps_clear(struct ss_pumps *p);
bool ss_pumps_done(struct ss_pumps *p);

/* ---- witness ------------------------------------------------------------------ */

enum ss_wire_what {
  /* to the witness */
  SS_WIRE_LOG,  /* carries the log's descriptor */
  SS_WIRE_SYNC, /* say all you have seen, then SYNCED */
  SS_WIRE_RESIZE,
  SS_WIRE_WATCH, /* we stop: continue us when the child is no longer stopped */
  SS_WIRE_AWAKE,
  SS_WIRE_DRAIN,
  /* from the witness */
  SS_WIRE_READY, /* value: do the channels work */
  SS_WIRE_SEEN,  /* a signal */
  SS_WIRE_SYNCED,
  SS_WIRE_LOGGED,
  SS_WIRE_DELIVERED
};
struct ss_wire { /* one SOCK_SEQPACKET message */
  int what;
  int value;
  int signo, code;
  pid_t pid;
};

struct ss_witness_args {
  pid_t launcher, child;
  int control;
  struct ss_channels *channels;
  struct ss_shared *shared;
};
_Noreturn void ss_witness_main(const struct ss_witness_args *args);

/* ---- the launcher ------------------------------------------------------------- */

struct ss_sighting { /* a signal that the witness got and we have not matched */
  int signo, code;
  pid_t pid;
  uint64_t at_ns;
};

enum { SS_SIGHTINGS_MAX = 64, SS_EVENTS_MAX = 96 };

struct ss_inherited {
  uint64_t mask, ignored; /* bit signo-1, as the kernel has them */
  struct itimerval timers[3];
  bool closed[3]; /* fd 0, 1, 2 */
};

struct ss_launch {
  pid_t pid, witness; /* witness -1: gone */
  int go;             /* handshake: write end */
  int exec_error;     /* read end */
  int signals;        /* signalfd */
  int control;        /* to the witness */
  bool channels_work, logged, delivered;
  bool ended, reaped;
  uint64_t start_ns, end_ns;
  unsigned interrupts;
  struct ss_inherited inherited;
  struct ss_channels channels;
  struct ss_shared *shared;
  struct ss_notes *notes;
  struct ss_sighting sightings[SS_SIGHTINGS_MAX];
  int n_sightings;
  struct ss_launch_event events[SS_EVENTS_MAX]; /* a ring */
  unsigned first_event, n_events;
};

/* Waits until something happens, also on `extra_fd` (-1: none), and turns it
 * into events. True when `extra_fd` is readable. */
bool ss_launch_step(struct ss_launch *l, int timeout_ms, int extra_fd);
/* Sends; with a descriptor where fd >= 0. False when the witness is gone. */
bool ss_launch_tell(struct ss_launch *l, enum ss_wire_what what, int fd);
/* Takes one message of the witness within timeout_ms and notes what it says;
 * its kind, or -1. */
int ss_launch_hear(struct ss_launch *l, int timeout_ms);
/* Afterwards the witness has done all that it was told, and what it had got is
 * among the sightings. */
void ss_launch_sync(struct ss_launch *l);
/* Raw, because glibc's call leaves out two signals. */
void ss_set_mask(uint64_t mask);
/* Closes every descriptor from 3 on that is not among the `n` of `keep`
 * (sorted in place). */
void ss_close_others(int *keep, int n);

#endif
