/*
 * An OpenMP team at a barrier: `omp_barrier SECONDS`. One member works (sleeps) while
 * the others wait for it; each of those says how long it was off the CPU, by its own
 * clocks: elapsed time less CPU time less time on a run queue. To be run with
 * OMP_WAIT_POLICY=passive, or they spin.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TEAM 3
#define PIECE_S 0.05

static double now(void)
{
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Elapsed, less what the kernel accounts as running or about to run. */
static double off_clock(void)
{
  unsigned long long cpu, queue;
  FILE *f = fopen("/proc/thread-self/schedstat", "r");
  if (!f || fscanf(f, "%llu %llu", &cpu, &queue) != 2)
    exit(1);
  fclose(f);
  return now() - (double)(cpu + queue) / 1e9;
}

int main(int argc, char **argv)
{
  int pieces = (int)((argc > 1 ? atof(argv[1]) : 1) / PIECE_S);
#pragma omp parallel num_threads(TEAM)
  {
    double before = off_clock();
    for (int i = 0; i < pieces; i++) {
      if (omp_get_thread_num() == 0)
        usleep((useconds_t)(PIECE_S * 1e6));
#pragma omp barrier
    }
    if (omp_get_thread_num() != 0)
#pragma omp critical
      printf("{\"tid\": %d, \"off_s\": %.6f}\n", gettid(), off_clock() - before);
  }
  return 0;
}
