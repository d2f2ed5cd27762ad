/*
 * bench_slowdown: what being sampled costs a target, in one process.
 *
 *   bench_slowdown control|bare|samples|full RATE_HZ PID SECONDS DIR
 *
 * Sampling of the live process PID is switched on and off in windows of 100 ms,
 * which are printed one a line: start, end (CLOCK_MONOTONIC ns), on, our CPU ns,
 * samples. `control` switches nothing, `bare` only a timer interrupt of the same
 * rate without any record, `full` the whole way to a profile.db in DIR, `samples` the
 * same without looks at waiting threads.
 *
 * The first line is of the seconds before, in which sampling is on: what is done once
 * a run (unwind tables, the kernel's symbols) is paid there. Our CPU time is that of
 * the profiler's threads, without the thread that switches; that of a window with
 * sampling on includes what is done for its samples soon after it.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "stacksample/engine.h"
#include "stacksample/fsafe.h"
#include "stacksample/limits.h"
#include "stacksample/store.h"
#include "stacksample/sys.h"

#define WINDOW_NS UINT64_C(100000000)
#define AFTER_NS UINT64_C(40000000) /* by then stage 2 has taken all of a window */
#define WARM_NS UINT64_C(5000000000)
#define TASKS_MAX 256

static struct {
  struct ss_perf *perf;
  struct ss_capture *capture;
  struct ss_pipeline *pipeline;
  struct ss_store *store;
  struct ss_dir dir;
  int bare[TASKS_MAX];
  size_t n_bare;
} b;

static void die(const char *what, const struct ss_diag *diag)
{
  fprintf(stderr, "bench_slowdown: %s: %s\n", what, diag ? diag->text : strerror(errno));
  exit(1);
}

static void open_full(pid_t pid, uint32_t rate, const char *dir, bool cpu_only)
{
  struct ss_perf_config config = {.rate_hz = rate,
                                  .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
                                  .inherit = true,
                                  .switches = true};
  struct ss_pipeline_config pipeline = {
      .root = pid, .attached = true, .cpu_only = cpu_only};
  struct ss_diag diag = {0};
  pid_t *tids = NULL;
  size_t count = 0;

  if (ss_perf_open(&b.perf, &config, pid, &diag) != SS_ERR_OK)
    die("events", &diag);
  if (ss_tasks_list(pid, &tids, &count) != SS_ERR_OK)
    die("threads", NULL);
  for (size_t i = 0; i < count; i++)
    if (tids[i] != pid)
      (void)ss_perf_add(b.perf, tids[i], &diag);
  free(tids);
  if (ss_dir_open(&b.dir, dir, true, &diag) != SS_ERR_OK ||
      ss_store_create(&b.store, &b.dir, "bench.db", &diag) != SS_ERR_OK)
    die("store", &diag);
  if (ss_capture_start(&b.capture, b.perf, NULL, &diag) != SS_ERR_OK)
    die("capture", &diag);
  pipeline.capture = b.capture;
  pipeline.perf = b.perf;
  pipeline.store = b.store;
  if (ss_pipeline_start(&b.pipeline, &pipeline, &diag) != SS_ERR_OK)
    die("pipeline", &diag);
}

static void open_bare(pid_t pid, uint32_t rate)
{
  struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                 .size = sizeof(attr),
                                 .config = PERF_COUNT_SW_TASK_CLOCK,
                                 .sample_period = 1000000000 / rate,
                                 .sample_type = PERF_SAMPLE_IP,
                                 .disabled = 1,
                                 .exclude_kernel = geteuid() != 0};
  pid_t *tids = NULL;
  size_t count = 0;

  if (ss_tasks_list(pid, &tids, &count) != SS_ERR_OK)
    die("threads", NULL);
  for (size_t i = 0; i < count && b.n_bare < TASKS_MAX; i++) {
    int fd = ss_perf_event_open(&attr, tids[i], -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd >= 0)
      b.bare[b.n_bare++] = fd;
  }
  free(tids);
}

static void switch_to(bool on)
{
  if (b.perf)
    ss_perf_enable(b.perf, on);
  for (size_t i = 0; i < b.n_bare; i++)
    (void)ioctl(b.bare[i], on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0);
}

static void sleep_until(uint64_t ns)
{
  struct timespec t = {.tv_sec = (time_t)(ns / 1000000000),
                       .tv_nsec = (long)(ns % 1000000000)};

  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
    ;
}

static uint64_t samples_so_far(void)
{
  struct ss_capture_counts counts = {0};

  if (b.capture)
    ss_capture_counts(b.capture, &counts);
  return counts.samples;
}

static uint64_t profiler_cpu_ns(void)
{
  struct timespec own;

  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &own);
  return ss_own_cpu_ns() - (uint64_t)own.tv_sec * 1000000000 - (uint64_t)own.tv_nsec;
}

struct window {
  uint64_t start_ns, end_ns, cpu_ns, samples;
  bool on;
};

/* Ends the window before this moment's CPU time and prints it. */
static void print_window(const struct window *w, uint64_t cpu_ns)
{
  printf("%" PRIu64 " %" PRIu64 " %d %" PRIu64 " %" PRIu64 "\n", w->start_ns, w->end_ns,
         w->on, cpu_ns - w->cpu_ns, w->samples);
}

static void warm_up(void)
{
  struct window w = {.start_ns = ss_now_ns(), .cpu_ns = profiler_cpu_ns(), .on = true};

  switch_to(true);
  sleep_until(w.start_ns + WARM_NS);
  switch_to(false);
  w.end_ns = ss_now_ns();
  sleep_until(w.end_ns + AFTER_NS);
  w.samples = samples_so_far();
  print_window(&w, profiler_cpu_ns());
}

static void run_windows(unsigned seconds)
{
  uint64_t end_ns = ss_now_ns() + seconds * UINT64_C(1000000000), samples;
  struct window last = {0}, w;

  for (bool on = false; ss_now_ns() < end_ns; on = !on) {
    switch_to(on);
    w = (struct window){.start_ns = ss_now_ns(), .on = on};
    samples = samples_so_far();
    if (!on)
      sleep_until(w.start_ns + AFTER_NS);
    w.cpu_ns = profiler_cpu_ns();
    if (last.end_ns > 0)
      print_window(&last, w.cpu_ns);
    sleep_until(w.start_ns + WINDOW_NS);
    w.end_ns = ss_now_ns();
    w.samples = samples_so_far() - samples;
    last = w;
  }
  switch_to(false);
}

static void close_full(void)
{
  struct ss_diag diag = {0};

  if (b.perf == NULL)
    return;
  ss_capture_stop(b.capture);
  ss_pipeline_stop(b.pipeline, ss_now_ns());
  (void)ss_store_close(b.store, &diag);
  ss_pipeline_free(b.pipeline);
  ss_capture_free(b.capture);
  ss_perf_close(b.perf);
  ss_dir_close(&b.dir);
}

int main(int argc, char **argv)
{
  uint32_t rate;
  pid_t pid;

  if (argc != 6) {
    fprintf(stderr,
            "usage: bench_slowdown control|bare|samples|full RATE_HZ PID SECONDS DIR\n");
    return 64;
  }
  rate = (uint32_t)strtoul(argv[2], NULL, 10);
  pid = (pid_t)strtol(argv[3], NULL, 10);
  if (strcmp(argv[1], "full") == 0 || strcmp(argv[1], "samples") == 0)
    open_full(pid, rate, argv[5], argv[1][0] == 's');
  else if (strcmp(argv[1], "bare") == 0)
    open_bare(pid, rate);
  warm_up();
  run_windows((unsigned)strtoul(argv[4], NULL, 10));
  close_full();
  return 0;
}
