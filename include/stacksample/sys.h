/*
 * Thin wrappers of system calls: one EINTR policy, clocks, and in test builds
 * (-DSS_TESTING) the seam SS_FAULT=<call>:<errno>:<nth>[+] that makes the nth
 * call (with +, also every later one) fail. Calls: write read pread fsync
 * process_vm_readv perf_event_open. They set errno like the call they wrap.
 */
#ifndef STACKSAMPLE_SYS_H
#define STACKSAMPLE_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

struct perf_event_attr;

uint64_t ss_clock_ns(clockid_t clock); /* 0: it cannot be read */
uint64_t ss_now_ns(void);              /* CLOCK_MONOTONIC */
uint64_t ss_wall_ns(void);             /* CLOCK_REALTIME */
uint64_t ss_own_cpu_ns(void);          /* CLOCK_PROCESS_CPUTIME_ID */
uint64_t ss_thread_cpu_ns(void);       /* CLOCK_THREAD_CPUTIME_ID */
struct timespec ss_timespec(uint64_t ns);
void ss_sleep_ns(uint64_t ns); /* all of it, also when a signal comes */
/* 0 where there are none, or too many to be meant (30 years). */
static inline uint64_t ss_seconds_ns(double seconds)
{
  return seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1e9) : 0;
}
static inline uint64_t ss_least_ns(uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}
pid_t ss_gettid(void);

/* Repeats on EINTR and short counts; 0, or -1 with errno. */
int ss_write_all(int fd, const void *buf, size_t len);
/* One read, repeated on EINTR; bytes read (0 at the end), or -1. */
ssize_t ss_read_some(int fd, void *buf, size_t len);
/* Reads at `off` until `len` bytes or the end; bytes read, or -1. */
ssize_t ss_pread_some(int fd, void *buf, size_t len, uint64_t off);
void ss_close(int *fd); /* closes if >= 0, sets -1, keeps errno */

int ss_pidfd_open(pid_t pid, unsigned flags);
int ss_pidfd_send_signal(int pidfd, int sig);
ssize_t ss_process_vm_readv(pid_t pid, const struct iovec *local, size_t nlocal,
                            const struct iovec *remote, size_t nremote);
int ss_perf_event_open(struct perf_event_attr *attr, pid_t pid, int cpu, int group_fd,
                       unsigned long flags);
int ss_fsync(int fd);
/* As many descriptors as we may have (an event, and a file of the target, each take
 * one); false: no more than before. */
bool ss_raise_file_limit(void);
/* How many CPUs a process may use (0: ourselves); 0: unknown. */
unsigned ss_cpus_allowed(pid_t pid);

#ifdef SS_TESTING
/* Counts one call of that name; true, with errno set: it is to fail. */
bool ss_fault(const char *call);
void ss_fault_reset(void); /* counts from 0 again, after a new SS_FAULT */
#else
static inline bool ss_fault(const char *call)
{
  (void)call;
  return false;
}
#endif

#endif
