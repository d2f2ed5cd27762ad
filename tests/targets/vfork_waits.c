/* A vfork child that stays between fork and exec until a byte comes on stdin: its
 * parent waits for it in the kernel, where no signal and no tracer stops it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
  int status = 0;
  pid_t pid;

  printf("READY\n");
  fflush(stdout);
  pid = vfork();
  if (pid == 0) {
    char byte;
    ssize_t got = read(0, &byte, 1);
    _exit(got == 1 ? 6 : 7);
  }
  waitpid(pid, &status, 0);
  return WEXITSTATUS(status);
}
