/* Prints "ready PID" and N numbered lines, one a write, with a pause of PAUSE_US
 * between them: lines N PAUSE_US. The status is 5. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  long n = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
  long pause_us = argc > 2 ? strtol(argv[2], NULL, 10) : 0;

  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("ready %d\n", getpid());
  for (long i = 0; i < n; i++) {
    printf("line %ld\n", i);
    if (pause_us > 0)
      usleep((useconds_t)pause_us);
  }
  return 5;
}
