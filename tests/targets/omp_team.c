/*
 * A team of real libgomp threads that meet at barriers until the process has used
 * SECONDS of CPU time. The first one has UNEVEN times the work of the others, so they
 * wait for it. Says how many seconds of work its threads did, by their own clocks;
 * the rest of the process' CPU time went to waiting.
 * usage: omp_team SECONDS THREADS WORK UNEVEN
 *
 * Calls the library as compiled code does, so that any compiler will do.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS_MAX = 64 };

static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static void (*barrier)(void);
static int (*thread_num)(void);

static long amount, uneven;
static struct {
  double work_s;
  char alone[120]; /* on a cache line of its own */
} threads[THREADS_MAX];
static volatile double sink;

static double clock_s(clockid_t clock)
{
  struct timespec ts;
  clock_gettime(clock, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static __attribute__((noinline)) void work(long n)
{
  double x = 1;
  for (long i = 0; i < n; i++)
    x = x * 1.0000001 + 1e-9;
  sink = x;
}

static void region(void *unused)
{
  int id = thread_num() % THREADS_MAX;
  (void)unused;
  for (int round = 0; round < 8; round++) {
    double begin = clock_s(CLOCK_THREAD_CPUTIME_ID);
    work(id == 0 ? amount * uneven : amount);
    threads[id].work_s += clock_s(CLOCK_THREAD_CPUTIME_ID) - begin;
    barrier();
  }
}

int main(int argc, char **argv)
{
  void *gomp = dlopen("libgomp.so.1", RTLD_NOW);
  if (argc != 5 || !gomp)
    return 77;
  *(void **)&parallel = dlsym(gomp, "GOMP_parallel");
  *(void **)&barrier = dlsym(gomp, "GOMP_barrier");
  *(void **)&thread_num = dlsym(gomp, "omp_get_thread_num");
  if (!parallel || !barrier || !thread_num)
    return 77;
  double until = atof(argv[1]), sum = 0;
  unsigned count = (unsigned)atoi(argv[2]);
  amount = atol(argv[3]);
  uneven = atol(argv[4]);
  while (clock_s(CLOCK_PROCESS_CPUTIME_ID) < until)
    parallel(region, NULL, count, 0);
  for (int i = 0; i < THREADS_MAX; i++)
    sum += threads[i].work_s;
  printf("%.6f %.6f\n", sum, clock_s(CLOCK_PROCESS_CPUTIME_ID));
  return 0;
}
