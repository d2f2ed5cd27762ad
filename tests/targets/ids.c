/* Prints its effective user, for a setuid copy of itself; execs argv[1] if given. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  if (argc > 1) {
    execv(argv[1], argv + 1);
    return 1;
  }
  printf("euid %d\n", (int)geteuid());
  return 4;
}
