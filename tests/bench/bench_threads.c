/*
 * bench_threads: what events cost a target that makes threads, on a machine with
 * more CPUs than this one.
 *
 *   bench_threads CPUS COMMAND [ARG...]
 *
 * Runs COMMAND under our events as `run` opens them on so many CPUs: from
 * SS_PER_THREAD_CPUS on one a thread, which follow new threads; below that one a CPU,
 * and as many more of the same kind as are missing, so that what each new thread
 * inherits is the same.
 */
#include <inttypes.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/engine.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

#define RATE 100

static int fail(const char *what, const char *why)
{
  fprintf(stderr, "bench_threads: %s: %s\n", what, why);
  return 1;
}

/* The command, held until a byte comes down the pipe. */
static pid_t start(char **command, int *go)
{
  int ends[2];
  char byte;
  pid_t pid = pipe(ends) == 0 ? fork() : -1;

  if (pid == 0) {
    close(ends[1]);
    if (read(ends[0], &byte, 1) == 1)
      execvp(command[0], command);
    _exit(127);
  }
  close(ends[0]);
  *go = ends[1];
  return pid;
}

/* One more of the kind that perf_open.c opens for a CPU; its records go nowhere. */
static bool open_duplicate(pid_t pid, unsigned cpu)
{
  struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                 .size = sizeof(attr),
                                 .config = PERF_COUNT_SW_TASK_CLOCK,
                                 .sample_period = 1000000000 / RATE,
                                 .disabled = 1,
                                 .enable_on_exec = 1,
                                 .inherit = 1,
                                 .exclude_kernel = geteuid() != 0,
                                 .context_switch = 1,
                                 .task = 1,
                                 .comm = 1,
                                 .mmap = 1};

  return ss_perf_event_open(&attr, pid, (int)cpu, -1, PERF_FLAG_FD_CLOEXEC) >= 0;
}

static int run(unsigned cpus, char **command)
{
  struct ss_perf_config config = {.rate_hz = RATE,
                                  .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
                                  .inherit = true,
                                  .switches = true,
                                  .enable_on_exec = true,
                                  .per_thread_from = cpus >= SS_PER_THREAD_CPUS ? 1 : 0};
  struct ss_capture *capture = NULL;
  struct ss_captured captured;
  struct ss_perf *perf = NULL;
  struct ss_diag diag = {0};
  int go = -1, status = 0;
  pid_t pid = start(command, &go);

  if (pid <= 0 || ss_perf_open(&perf, &config, pid, &diag) != SS_ERR_OK ||
      ss_capture_start(&capture, perf, NULL, &diag) != SS_ERR_OK)
    return fail("events", diag.text);
  bool per_thread = ss_perf_facts(perf)->per_thread;
  for (unsigned i = ss_perf_facts(perf)->events; !per_thread && i < cpus; i++)
    if (!open_duplicate(pid, i % ss_perf_facts(perf)->cpus))
      return fail("events", "not as many as asked for");
  if (write(go, "", 1) != 1)
    return fail(command[0], "cannot be started");
  close(go);
  while (waitpid(pid, &status, WNOHANG) == 0) {
    ss_capture_wait(capture, 20);
    while (ss_capture_next(capture, &captured))
      if (per_thread && captured.rec.type == SS_REC_FORK)
        (void)ss_capture_follow(capture, perf, captured.rec.tid, &diag);
  }
  ss_capture_free(capture);
  ss_perf_close(perf);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
  struct rlimit files;

  if (argc < 3) {
    fprintf(stderr, "usage: bench_threads CPUS COMMAND [ARG...]\n");
    return 64;
  }
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
  }
  return run((unsigned)strtoul(argv[1], NULL, 10), argv + 2);
}
