/*
 * Burns SECONDS of CPU time under stacks that are hard to unwind.
 * usage: stacks recursion|signals|libraries|children SECONDS [KB]
 *
 * recursion: below KB of stack; signals: in a handler that interrupts work at
 * each tick; libraries: in code that is loaded and unloaded all the time;
 * children: beside processes made by vfork and exec, and in them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned sink;

static double used(void)
{
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

__attribute__((noinline)) static void work(unsigned rounds)
{
  for (unsigned i = 0; i < rounds; i++)
    sink += i * i;
}

__attribute__((noinline)) static void descend(long kb)
{
  volatile char room[1000];
  room[0] = (char)kb;
  if (kb > 1)
    descend(kb - 1);
  else
    work(200000);
  sink += (unsigned)room[0]; /* no tail call */
}

static void recursion(double end, long kb)
{
  while (used() < end)
    descend(kb);
}

static void on_alarm(int number)
{
  (void)number;
  work(2000000);
}

static void signals(double end, long unused)
{
  struct itimerval every = {{0, 1000}, {0, 1000}};
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  (void)unused;
  sigaction(SIGPROF, &action, NULL);
  setitimer(ITIMER_PROF, &every, NULL);
  while (used() < end) {
    char text[64];
    for (int i = 0; i < 1000; i++)
      sink += (unsigned)snprintf(text, sizeof text, "%d %g", i, i / 3.0);
  }
}

static void libraries(double end, long unused)
{
  (void)unused;
  while (used() < end) {
    void *lib = dlopen("libz.so.1", RTLD_NOW);
    unsigned long (*crc)(unsigned long, const void *, unsigned) = NULL;
    static char data[65536];
    void *symbol = lib == NULL ? NULL : dlsym(lib, "crc32");
    if (symbol == NULL)
      exit(1);
    memcpy(&crc, &symbol, sizeof crc);
    for (int i = 0; i < 20; i++)
      sink += (unsigned)crc(0, data, sizeof data);
    dlclose(lib);
  }
}

static void children(double end, long unused)
{
  (void)unused;
  while (used() < end) {
    int status;
    pid_t pid = vfork();
    if (pid == 0) {
      execl("/proc/self/exe", "stacks", "recursion", "0.01", "8", (char *)NULL);
      _exit(127);
    }
    work(20000000);
    if (waitpid(pid, &status, 0) != pid || status != 0)
      exit(1);
  }
}

int main(int argc, char **argv)
{
  static const struct {
    const char *name;
    void (*run)(double end, long kb);
  } works[] = {{"recursion", recursion},
               {"signals", signals},
               {"libraries", libraries},
               {"children", children}};
  if (argc < 3)
    return 2;
  for (size_t i = 0; i < sizeof works / sizeof works[0]; i++)
    if (strcmp(argv[1], works[i].name) == 0) {
      works[i].run(used() + strtod(argv[2], NULL),
                   argc > 3 ? strtol(argv[3], NULL, 10) : 0);
      return 0;
    }
  return 2;
}
