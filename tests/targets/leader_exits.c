/* The main thread ends first; another one goes on, prints, and ends the process. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *other(void *arg)
{
  pthread_join(*(pthread_t *)arg, NULL);
  printf("the leader is gone\n");
  fflush(stdout);
  exit(9);
}

int main(void)
{
  static pthread_t leader;
  pthread_t thread;

  leader = pthread_self();
  if (pthread_create(&thread, NULL, other, &leader) != 0)
    return 1;
  pthread_exit(NULL);
}
