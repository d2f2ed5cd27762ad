/*
 * bench_slowdown: what being sampled costs a target, in one process.
 *
 *   bench_slowdown control|bare|full RATE_HZ PID SECONDS DIR
 *
 * Sampling of the live process PID is switched on and off in windows of 100 ms,
 * which are printed one a line: start, end (CLOCK_MONOTONIC ns), on, our CPU ns,
 * samples. `control` switches nothing, `bare` only a timer interrupt of the same
 * rate without any record, `full` the whole way to a profile.db in DIR.
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

static void open_full(pid_t pid, uint32_t rate, const char *dir)
{
  struct ss_perf_config config = {.rate_hz = rate,
                                  .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
                                  .inherit = true,
                                  .switches = true};
  struct ss_pipeline_config pipeline = {.root = pid, .attached = true};
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

static void run_windows(unsigned seconds)
{
  uint64_t end_ns = ss_now_ns() + seconds * UINT64_C(1000000000);

  for (bool on = false; ss_now_ns() < end_ns; on = !on) {
    uint64_t start_ns, cpu_ns, samples;
    switch_to(on);
    start_ns = ss_now_ns();
    cpu_ns = ss_own_cpu_ns();
    samples = samples_so_far();
    sleep_until(start_ns + WINDOW_NS);
    printf("%" PRIu64 " %" PRIu64 " %d %" PRIu64 " %" PRIu64 "\n", start_ns, ss_now_ns(),
           on, ss_own_cpu_ns() - cpu_ns, samples_so_far() - samples);
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
    fprintf(stderr, "usage: bench_slowdown control|bare|full RATE_HZ PID SECONDS DIR\n");
    return 64;
  }
  rate = (uint32_t)strtoul(argv[2], NULL, 10);
  pid = (pid_t)strtol(argv[3], NULL, 10);
  if (strcmp(argv[1], "full") == 0)
    open_full(pid, rate, argv[5]);
  else if (strcmp(argv[1], "bare") == 0)
    open_bare(pid, rate);
  run_windows((unsigned)strtoul(argv[4], NULL, 10));
  close_full();
  return 0;
}
