/*
 * Prints all that a wrapper could change for its command, one "key value" line
 * each, into the file argv[1]: run bare and wrapped, the two must be equal.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;

static FILE *out;
static int out_fd;

static void words(const char *key, char **list)
{
  for (int i = 0; list[i] != NULL; i++)
    fprintf(out, "%s%d %s\n", key, i, list[i]);
}

/* Lines of a /proc file, those that start with one of `names` (NULL: all). */
static void proc_lines(const char *path, const char *const *names)
{
  char line[1024];
  FILE *f = fopen(path, "re");

  if (f == NULL)
    return;
  while (fgets(line, sizeof line, f) != NULL) {
    int wanted = names == NULL;
    for (int i = 0; names != NULL && names[i] != NULL; i++)
      wanted |= strncmp(line, names[i], strlen(names[i])) == 0;
    if (wanted)
      fprintf(out, "%s %s", path, line);
  }
  fclose(f);
}

static void limits(void)
{
  struct rlimit r;

  for (int i = 0; i < RLIM_NLIMITS; i++) {
    if (getrlimit((__rlimit_resource_t)i, &r) == 0)
      fprintf(out, "rlimit%d %lu %lu\n", i, (unsigned long)r.rlim_cur,
              (unsigned long)r.rlim_max);
  }
}

static void scheduling(void)
{
  struct sched_param p;
  cpu_set_t set;

  sched_getparam(0, &p);
  fprintf(out, "sched %d %d\n", sched_getscheduler(0), p.sched_priority);
  fprintf(out, "nice %d\n", getpriority(PRIO_PROCESS, 0));
  fprintf(out, "ioprio %ld\n", syscall(SYS_ioprio_get, 1, 0));
  sched_getaffinity(0, sizeof set, &set);
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &set))
      fprintf(out, "cpu %d\n", i);
}

static void processes(void)
{
  int tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
  int pdeath = -1, subreaper = -1;

  fprintf(out, "pgrp %d\nsid %d\n", getpgrp(), getsid(0));
  fprintf(out, "ctty %d foreground %d\n", tty >= 0, tty >= 0 ? tcgetpgrp(tty) : -1);
  if (tty >= 0)
    close(tty);
  prctl(PR_GET_PDEATHSIG, &pdeath);
  prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
  fprintf(out, "prctl pdeathsig %d subreaper %d dumpable %d slack %d nnp %d\n", pdeath,
          subreaper, prctl(PR_GET_DUMPABLE), prctl(PR_GET_TIMERSLACK),
          prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  fprintf(out, "prctl securebits %d keepcaps %d thp %d\n", prctl(PR_GET_SECUREBITS),
          prctl(PR_GET_KEEPCAPS), prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  fprintf(out, "personality %x\n", (unsigned)personality(0xffffffff));
  fprintf(out, "ids %d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
}

/* A timer that is armed and one that is not; the rest is a matter of time. */
static void timers(void)
{
  struct itimerval t;

  for (int i = 0; i < 3; i++) {
    getitimer((__itimer_which_t)i, &t);
    fprintf(out, "itimer%d armed %d interval %ld\n", i, timerisset(&t.it_value),
            (long)t.it_interval.tv_sec);
  }
}

/* Of 1 and 2, which may be a pipe instead, only the number. */
static void descriptors(void)
{
  DIR *dir = opendir("/proc/self/fd");
  struct dirent *e;

  while (dir != NULL && (e = readdir(dir)) != NULL) {
    struct stat st;
    int fd = e->d_name[0] == '.' ? -1 : (int)strtol(e->d_name, NULL, 10);
    if (fd < 0 || fd == dirfd(dir) || fd == out_fd || fstat(fd, &st) != 0)
      continue;
    fprintf(out, "fd%d flags %d", fd, fcntl(fd, F_GETFD));
    if (fd != 1 && fd != 2)
      fprintf(out, " open %x file %lx:%lx", fcntl(fd, F_GETFL), (long)st.st_dev,
              (long)st.st_ino);
    fprintf(out, "\n");
  }
  if (dir != NULL)
    closedir(dir);
}

static void terminals(void)
{
  for (int fd = 0; fd <= 2; fd++) {
    struct termios t;
    struct winsize w;
    fprintf(out, "tty%d %d\n", fd, isatty(fd));
    if (ioctl(fd, TIOCGWINSZ, &w) == 0)
      fprintf(out, "tty%d size %d %d %d %d\n", fd, w.ws_row, w.ws_col, w.ws_xpixel,
              w.ws_ypixel);
    if (tcgetattr(fd, &t) != 0)
      continue;
    fprintf(out, "tty%d modes %x %x %x %x %d speed %d %d cc", fd, t.c_iflag, t.c_oflag,
            t.c_cflag, t.c_lflag, t.c_line, (int)cfgetispeed(&t), (int)cfgetospeed(&t));
    for (int i = 0; i < NCCS; i++)
      fprintf(out, " %d", t.c_cc[i]);
    fprintf(out, "\n");
  }
}

int main(int argc, char **argv)
{
  static const char *const status[] = {
      "Umask:", "Groups:",  "SigPnd:",    "ShdPnd:",  "SigBlk:", "SigIgn:", "SigCgt:",
      "Cap",    "Seccomp:", "TracerPid:", "Threads:", "Name:",   NULL};
  char cwd[4096];

  if (argc < 2 || (out = fopen(argv[1], "we")) == NULL)
    return 1;
  out_fd = fileno(out);
  words("arg", argv + 2);
  fprintf(out, "argv0 %s\n", argv[0]);
  words("env", environ);
  fprintf(out, "cwd %s\n", getcwd(cwd, sizeof cwd));
  proc_lines("/proc/self/status", status);
  proc_lines("/proc/self/oom_score_adj", NULL);
  proc_lines("/proc/self/cgroup", NULL);
  proc_lines("/proc/self/task/self/children", NULL);
  proc_lines("/proc/self/timerslack_ns", NULL);
  limits();
  scheduling();
  processes();
  timers();
  descriptors();
  terminals();
  return fclose(out) == 0 ? 0 : 1;
}
