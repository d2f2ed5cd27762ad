/*
 * Says which signals reach it: "ready PID", then a line "NAME COUNT" for each, with
 * the size of the terminal on fd 1 after WINCH and USR1, the value after RT. A line
 * "quit" on stdin ends it with status 7.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const struct {
  int signo;
  const char *name;
} signals[] = {{SIGHUP, "HUP"},   {SIGINT, "INT"},    {SIGQUIT, "QUIT"},
               {SIGUSR1, "USR1"}, {SIGUSR2, "USR2"},  {SIGTERM, "TERM"},
               {SIGCONT, "CONT"}, {SIGWINCH, "WINCH"}};
enum { COUNT = sizeof signals / sizeof signals[0] };

static void tell(const struct signalfd_siginfo *si)
{
  static int counts[65];
  struct winsize w = {0};
  int n = ++counts[si->ssi_signo];

  if (si->ssi_signo >= (unsigned)SIGRTMIN) {
    printf("RT %d value %d\n", n, si->ssi_int);
    return;
  }
  for (int i = 0; i < COUNT; i++) {
    if (signals[i].signo != (int)si->ssi_signo)
      continue;
    printf("%s %d", signals[i].name, n);
    if (si->ssi_signo == SIGWINCH || si->ssi_signo == SIGUSR1) {
      ioctl(1, TIOCGWINSZ, &w);
      printf(" size %d %d", w.ws_row, w.ws_col);
    }
    printf("\n");
  }
}

int main(void)
{
  struct pollfd pfd[2] = {{.events = POLLIN}, {.fd = 0, .events = POLLIN}};
  struct signalfd_siginfo si;
  char line[256];
  sigset_t set;

  sigemptyset(&set);
  for (int i = 0; i < COUNT; i++)
    sigaddset(&set, signals[i].signo);
  sigaddset(&set, SIGRTMIN);
  sigprocmask(SIG_BLOCK, &set, NULL);
  pfd[0].fd = signalfd(-1, &set, SFD_CLOEXEC);
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("ready %d\n", getpid());
  for (;;) {
    if (poll(pfd, 2, -1) < 0)
      continue;
    if ((pfd[0].revents & POLLIN) && read(pfd[0].fd, &si, sizeof si) == sizeof si)
      tell(&si);
    if (pfd[1].revents == 0)
      continue;
    ssize_t n = read(0, line, sizeof line);
    if (n > 0 && memmem(line, (size_t)n, "quit", 4) != NULL)
      return 7;
    if (n <= 0)
      pfd[1].fd = -1;
  }
}
