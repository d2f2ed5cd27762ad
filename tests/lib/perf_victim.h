/*
 * A child that burns CPU time, for tests with real events; rings are a machine-wide
 * resource, hence the lock.
 */
#ifndef STACKSAMPLE_TEST_PERF_VICTIM_H
#define STACKSAMPLE_TEST_PERF_VICTIM_H

#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stacksample/proc.h"

enum { NOBODY = 65534, SPIN_MS = 500, THREADS = 2 };

static inline uint64_t thread_ms(void)
{
  struct timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline void *spin(void *arg)
{
  volatile uint64_t x = 0;
  while (thread_ms() < SPIN_MS)
    for (int i = 0; i < 1000000; i++)
      x += (uint64_t)i;
  return arg;
}

/* Waits for the end of file on `go`, spins, exits. */
static inline _Noreturn void victim(int go)
{
  char byte;
  pthread_t thread;
  while (read(go, &byte, 1) < 0) {
  }
  if (pthread_create(&thread, NULL, spin, NULL) != 0)
    _exit(1);
  spin(NULL);
  pthread_join(thread, NULL);
  _exit(0);
}

static inline pid_t start_victim(int *go)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return -1;
  pid_t pid = fork();
  if (pid == 0) {
    close(ends[1]);
    victim(ends[0]);
  }
  close(ends[0]);
  *go = ends[1];
  return pid;
}

static inline void *spin_after(void *arg)
{
  const int *go = arg;
  char byte;
  while (read(*go, &byte, 1) < 0) {
  }
  return spin(NULL);
}

/* A victim whose second thread is there before us. */
static inline pid_t start_threaded_victim(int *go, pid_t *second)
{
  int ends[2], tell[2];
  if (pipe2(ends, O_CLOEXEC) != 0 || pipe2(tell, O_CLOEXEC) != 0)
    return -1;
  pid_t pid = fork();
  if (pid == 0) {
    close(ends[1]);
    pthread_t thread;
    if (pthread_create(&thread, NULL, spin_after, &ends[0]) != 0 ||
        write(tell[1], "", 1) != 1)
      _exit(1);
    spin_after(&ends[0]);
    pthread_join(thread, NULL);
    _exit(0);
  }
  close(ends[0]);
  close(tell[1]);
  *go = ends[1];
  char byte;
  bool told = read(tell[0], &byte, 1) == 1;
  close(tell[0]);
  pid_t *tids = NULL;
  size_t count = 0;
  *second = -1;
  if (told && ss_tasks_list(pid, &tids, &count) == SS_ERR_OK && count == 2)
    *second = tids[0] == pid ? tids[1] : tids[0];
  free(tids);
  return pid;
}

static inline int lock_perf(void)
{
  int fd = open("/tmp/stacksample-perf.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  assert_true(fd >= 0);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  return fd;
}

/* `slack`: what the threads' ends leave over. */
static inline bool about(uint64_t a, uint64_t b, uint64_t percent, uint64_t slack)
{
  uint64_t diff = a > b ? a - b : b - a;
  return diff * 100 <= percent * b + slack * 100;
}

/* Of samples; hits in the kernel (on a busy machine: some percent) may be hidden. */
static inline uint64_t tolerance(bool kernel_samples)
{
  return kernel_samples ? 3 : 10;
}

#define CHECK(cond) ((cond) ? 0 : (fprintf(stderr, "line %d: %s\n", __LINE__, #cond), 1))

/* Runs `fn` as nobody. Changing the user makes a process undumpable, and with it
 * its children, which perf then refuses. */
static inline int as_nobody(int (*fn)(void))
{
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0 ||
        prctl(PR_SET_DUMPABLE, 1) != 0)
      _exit(99);
    _exit(fn());
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
