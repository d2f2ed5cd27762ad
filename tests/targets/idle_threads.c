/* As many idle threads with small stacks as the argument says. */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *idle(void *arg)
{
  (void)arg;
  pause();
  return NULL;
}

int main(int argc, char **argv)
{
  long wanted = argc > 1 ? strtol(argv[1], NULL, 10) : 1, made = 0;
  pthread_attr_t attr;
  pthread_t thread;

  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN);
  while (made < wanted && pthread_create(&thread, &attr, idle, NULL) == 0)
    made++;
  printf("READY %ld\n", made);
  fflush(stdout);
  pause();
  return 0;
}
