/*
 * A thread that does not run, seen without stopping it, and one short stop for
 * a thread that does.
 *
 * A blocked thread's /proc/PID/task/TID/syscall tells its system call, its
 * arguments, and the user stack pointer and program counter: enough to unwind
 * (libc's wrappers need no frame pointer). A running one says only "running".
 */
#ifndef STACKSAMPLE_BLOCKED_H
#define STACKSAMPLE_BLOCKED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/arch.h"
#include "stacksample/buf.h"
#include "stacksample/error.h"
#include "stacksample/proc.h"

#define SS_POLLED_MAX 16 /* more are not worth being told one by one */

struct ss_blocked {
  bool running; /* on a CPU or about to be: nothing below is known */
  long nr;      /* system call; -1: stopped or in a fault, outside one */
  uint64_t args[6];
  uint64_t sp, ip;
};
/* Text of the syscall file; false: malformed. */
bool ss_blocked_parse(struct ss_blocked *out, const char *text, size_t len);
/* false: gone or refused. */
bool ss_blocked_read(struct ss_blocked *out, pid_t pid, pid_t tid);
/* What the call waits for, as text: "0x7f3a..., WAIT", "3 pipe:[123]",
 * "pid 4122". Nothing is appended where there is nothing to say. `mem` may be NULL. */
void ss_blocked_object(const struct ss_blocked *b, pid_t pid, const struct ss_mem *mem,
                       struct ss_buf *out);

/* The descriptors that poll, select or epoll waits for any of. */
struct ss_polled {
  int fds[SS_POLLED_MAX];
  size_t n;
  bool all; /* these are all; else there are more, or they could not be read */
};
/* Of a call of kind SS_WAIT_POLL, SELECT or EPOLL; nothing is known of others. What
 * poll and select were asked is in the memory of `pid`; `mem` may be NULL. */
void ss_blocked_polled(const struct ss_blocked *b, pid_t pid, const struct ss_mem *mem,
                       struct ss_polled *out);
/* Text of /proc/PID/fdinfo/N of an epoll set (fs/eventpoll.c, ep_show_fdinfo). */
void ss_polled_parse(struct ss_polled *out, const char *text, size_t len);

/* ---- one short stop ---------------------------------------------------------- */

/* A stop under way. All its calls come from one thread: the tracer. */
struct ss_stop {
  pid_t tid;
  int signal;          /* to hand on at the release */
  uint64_t running_ns; /* when it was last seen running, CLOCK_MONOTONIC */
};
enum ss_stop_state { SS_STOP_NOT_YET, SS_STOP_STOPPED, SS_STOP_GONE };
/* PTRACE_SEIZE + PTRACE_INTERRUPT. ACCESS: refused, or another tracer has it; GONE. */
enum ss_err ss_stop_ask(struct ss_stop *stop, pid_t tid, struct ss_diag *diag);
/* Never waits. After GONE there is nothing left to release. */
enum ss_stop_state ss_stop_poll(struct ss_stop *stop);
/* A system call that only the stop has ended with EINTR begins again, from here on even
 * if we are killed: to be called as soon as the registers are read. */
void ss_stop_undo_eintr(const struct ss_stop *stop);
/* The same, and lets a stopped thread go on; for how long it stood still, at most. */
uint64_t ss_stop_release(struct ss_stop *stop);
/* The process that traces `tid`, 0 none (also where `tid` is gone). */
pid_t ss_tracer_of(pid_t tid);

/* All of it: stops `tid`, calls `look` while it is stopped, and lets it go again in
 * every case; a signal that arrives meanwhile is delivered. At most `deadline_ms`
 * are waited for the stop. LIMIT: it did not stop in time; GONE; ACCESS.
 * `stopped_ns` (may be NULL): how long it stood still. */
enum ss_err ss_stop_look(pid_t tid, unsigned deadline_ms,
                         void (*look)(void *arg, const struct ss_regs *regs), void *arg,
                         uint64_t *stopped_ns, struct ss_diag *diag);

#endif
