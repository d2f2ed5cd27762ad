/* Microseconds to create and join a thread, the median of many; on stdout. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 2000

static void *nothing(void *arg)
{
  return arg;
}

static double now_us(void)
{
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

int main(void)
{
  static double took[ROUNDS];

  for (int i = 0; i < ROUNDS; i++) {
    pthread_t thread;
    double start = now_us();
    if (pthread_create(&thread, NULL, nothing, NULL) != 0)
      return 1;
    pthread_join(thread, NULL);
    took[i] = now_us() - start;
  }
  qsort(took, ROUNDS, sizeof(took[0]), compare);
  printf("%.2f\n", took[ROUNDS / 2]);
  return 0;
}
