/*
 * System calls with one EINTR policy (always repeat: a caller that wants to
 * react to a signal waits on a descriptor), and the fault seam of test builds.
 */
#include "stacksample/sys.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stacksample/limits.h"

#ifdef SS_TESTING
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long fault_calls; /* of the named call so far */

static const struct {
  const char *name;
  int number;
} fault_errnos[] = {
    {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO},       {"EACCES", EACCES},
    {"EPERM", EPERM},   {"ENOSYS", ENOSYS}, {"ESRCH", ESRCH},   {"EFAULT", EFAULT},
    {"EINTR", EINTR},   {"ENOMEM", ENOMEM}, {"EMFILE", EMFILE}, {"EAGAIN", EAGAIN},
    {"EPIPE", EPIPE},   {"EINVAL", EINVAL}, {"EBUSY", EBUSY},   {"EROFS", EROFS},
};

static int fault_errno(const char *name, size_t len)
{
  for (size_t i = 0; i < sizeof fault_errnos / sizeof fault_errnos[0]; i++)
    if (strlen(fault_errnos[i].name) == len &&
        memcmp(fault_errnos[i].name, name, len) == 0)
      return fault_errnos[i].number;
  return EIO;
}

bool ss_fault(const char *call)
{
  const char *spec = getenv("SS_FAULT");
  size_t len = strlen(call);

  if (spec == NULL || strncmp(spec, call, len) != 0 || spec[len] != ':')
    return false;
  const char *name = spec + len + 1;
  size_t name_len = strcspn(name, ":");
  char *end = NULL;
  unsigned long nth = name[name_len] == ':' ? strtoul(name + name_len + 1, &end, 10) : 1;
  pthread_mutex_lock(&fault_lock);
  unsigned long now = ++fault_calls;
  pthread_mutex_unlock(&fault_lock);
  if (now != nth && !(now > nth && end != NULL && *end == '+'))
    return false;
  errno = fault_errno(name, name_len);
  return true;
}

void ss_fault_reset(void)
{
  pthread_mutex_lock(&fault_lock);
  fault_calls = 0;
  pthread_mutex_unlock(&fault_lock);
}
#endif

uint64_t ss_clock_ns(clockid_t clock)
{
  struct timespec ts = {0};

  if (clock_gettime(clock, &ts) != 0)
    return 0;
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t ss_now_ns(void)
{
  return ss_clock_ns(CLOCK_MONOTONIC);
}

uint64_t ss_wall_ns(void)
{
  return ss_clock_ns(CLOCK_REALTIME);
}

uint64_t ss_own_cpu_ns(void)
{
  return ss_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t ss_thread_cpu_ns(void)
{
  return ss_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

struct timespec ss_timespec(uint64_t ns)
{
  return (struct timespec){.tv_sec = (time_t)(ns / 1000000000),
                           .tv_nsec = (long)(ns % 1000000000)};
}

void ss_sleep_ns(uint64_t ns)
{
  struct timespec left = ss_timespec(ns);

  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}

pid_t ss_gettid(void)
{
  return (pid_t)syscall(SYS_gettid);
}

int ss_write_all(int fd, const void *buf, size_t len)
{
  const unsigned char *at = buf;

  if (ss_fault("write"))
    return -1;
  while (len > 0) {
    ssize_t n = write(fd, at, len);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    at += n;
    len -= (size_t)n;
  }
  return 0;
}

ssize_t ss_read_some(int fd, void *buf, size_t len)
{
  ssize_t n;

  if (ss_fault("read"))
    return -1;
  do
    n = read(fd, buf, len);
  while (n < 0 && errno == EINTR);
  return n;
}

ssize_t ss_pread_some(int fd, void *buf, size_t len, uint64_t off)
{
  unsigned char *at = buf;
  size_t got = 0;

  if (ss_fault("pread"))
    return -1;
  while (got < len) {
    ssize_t n = pread(fd, at + got, len - got, (off_t)(off + got));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return got > 0 ? (ssize_t)got : -1;
    if (n == 0)
      break;
    got += (size_t)n;
  }
  return (ssize_t)got;
}

void ss_close(int *fd)
{
  int saved = errno;

  /* No repeat on EINTR: Linux has released the descriptor by then. */
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
  errno = saved;
}

bool ss_raise_file_limit(void)
{
  struct rlimit limit;

  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max)
    return false;
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

unsigned ss_cpus_allowed(pid_t pid)
{
  cpu_set_t *set = CPU_ALLOC(SS_CPUS_MAX);
  size_t size = CPU_ALLOC_SIZE(SS_CPUS_MAX);
  unsigned count = 0;

  if (set && sched_getaffinity(pid, size, set) == 0)
    count = (unsigned)CPU_COUNT_S(size, set);
  CPU_FREE(set);
  return count;
}

int ss_pidfd_open(pid_t pid, unsigned flags)
{
  return (int)syscall(SYS_pidfd_open, pid, flags);
}

int ss_pidfd_send_signal(int pidfd, int sig)
{
  return (int)syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0u);
}

ssize_t ss_process_vm_readv(pid_t pid, const struct iovec *local, size_t nlocal,
                            const struct iovec *remote, size_t nremote)
{
  if (ss_fault("process_vm_readv"))
    return -1;
  return process_vm_readv(pid, local, nlocal, remote, nremote, 0);
}

int ss_perf_event_open(struct perf_event_attr *attr, pid_t pid, int cpu, int group_fd,
                       unsigned long flags)
{
  if (ss_fault("perf_event_open"))
    return -1;
  return (int)syscall(SYS_perf_event_open, attr, pid, cpu, group_fd, flags);
}

int ss_fsync(int fd)
{
  int r;

  if (ss_fault("fsync"))
    return -1;
  do
    r = fsync(fd);
  while (r != 0 && errno == EINTR);
  return r;
}
