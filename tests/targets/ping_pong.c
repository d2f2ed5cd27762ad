/*
 * Two threads on one CPU that wait for each other, as often as they can: `ping_pong
 * SECONDS`. Says how often they switched, in all and a second, and the CPU time.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static int there[2], back[2];

static void *answer(void *arg)
{
  char c;
  while (read(there[0], &c, 1) == 1 && c != 'q')
    if (write(back[1], &c, 1) < 0)
      exit(1);
  return arg;
}

static void round_trip(char c)
{
  if (write(there[1], &c, 1) < 0 || (c != 'q' && read(back[0], &c, 1) < 0))
    exit(1);
}

static double now(void)
{
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void stay_here(void)
{
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(sched_getcpu(), &set);
  sched_setaffinity(0, sizeof set, &set);
}

int main(int argc, char **argv)
{
  double start = now(), seconds = argc > 1 ? atof(argv[1]) : 1;
  struct rusage u;
  pthread_t thread;

  stay_here();
  if (pipe(there) != 0 || pipe(back) != 0 ||
      pthread_create(&thread, NULL, answer, NULL) != 0)
    return 1;
  while (now() < start + seconds)
    for (int i = 0; i < 1000; i++)
      round_trip('x');
  round_trip('q');
  pthread_join(thread, NULL);
  getrusage(RUSAGE_SELF, &u);
  printf("{\"switches\": %ld, \"per_s\": %.0f, \"cpu_s\": %.6f}\n",
         u.ru_nvcsw + u.ru_nivcsw, (double)(u.ru_nvcsw + u.ru_nivcsw) / (now() - start),
         (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
             (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
  return 0;
}
