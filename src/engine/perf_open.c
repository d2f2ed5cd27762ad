/*
 * Opening events and rings, as much as the kernel grants. One task-clock event per
 * CPU that the target may use, each with its own ring and inherited by what the
 * target creates; events of further threads are led into the same rings.
 *
 * task-clock is a timer that runs only while the thread does: a sample is one
 * period of CPU time, and the event's count is the CPU time itself. What is refused
 * is given up in a fixed order (kernel samples, ring size, snapshot size), so that
 * ss_perf_facts says what the samples can and cannot show.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "engine_priv.h"
#include "stacksample/buf.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

enum {
  RING_WANTED = 1 << 20, /* 64 full 16 KB samples: 60 ms of 1000 Hz */
  RING_SMALLEST = 64 << 10,
  RECORD_OVERHEAD = 1536 /* a sample without its stack, 127 kernel frames */
};

/* ---- attributes ----------------------------------------------------------------- */

static uint32_t usable_snapshot(uint32_t wanted)
{
  uint32_t most = UINT16_MAX & ~7u; /* perf_event_attr.sample_stack_user */
  return wanted > most ? most : wanted & ~7u;
}

static void set_snapshot(struct perf_event_attr *attr, uint32_t bytes)
{
  attr->sample_stack_user = bytes;
  attr->sample_type = SS_PERF_SAMPLE_TYPE | (bytes > 0 ? PERF_SAMPLE_STACK_USER : 0u);
}

static void set_user_only(struct perf_event_attr *attr)
{
  attr->exclude_kernel = 1;
  attr->exclude_callchain_kernel = 1;
}

static void init_attr(struct perf_event_attr *attr, const struct ss_perf_config *config,
                      uint64_t period_ns)
{
  *attr = (struct perf_event_attr){
      .type = PERF_TYPE_SOFTWARE,
      .size = sizeof *attr,
      .config = PERF_COUNT_SW_TASK_CLOCK,
      .sample_period = period_ns,
      .disabled = 1,
      .inherit = config->inherit,
      .inherit_thread = config->inherit && config->threads_only,
      .exclude_hv = 1,
      .mmap = 1, /* executable mappings; data is looked up when it is needed */
      .mmap2 = 1,
      .comm = 1,
      .comm_exec = 1,
      .task = 1,
      .context_switch = config->switches,
      .sample_id_all = 1,
      .use_clockid = 1,
      .clockid = CLOCK_MONOTONIC,
      .enable_on_exec = config->enable_on_exec,
      .exclude_callchain_user = 1,
      .sample_regs_user = ss_arch_perf_mask(),
      .wakeup_events = 1, /* counts samples only: other records wake at half full */
  };
  set_snapshot(attr, usable_snapshot(config->snapshot));
}

/* ---- one event ------------------------------------------------------------------ */

int ss_perf_open_event(struct perf_event_attr *attr, pid_t tid, int cpu)
{
  int fd = ss_perf_event_open(attr, tid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0 && errno == EMFILE && ss_raise_file_limit())
    fd = ss_perf_event_open(attr, tid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
  return fd;
}

bool ss_perf_keep_event(struct ss_perf *perf, int fd)
{
  if (!ss_grow(&perf->events, &perf->cap, perf->count + 1, sizeof *perf->events)) {
    ss_close(&fd);
    return false;
  }
  perf->events[perf->count++] = fd;
  return true;
}

static int paranoid_level(void)
{
  char text[16] = "";
  int fd = open("/proc/sys/kernel/perf_event_paranoid", O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : ss_read_some(fd, text, sizeof text - 1);
  ss_close(&fd);
  return got > 0 ? (int)strtol(text, NULL, 10) : -1;
}

enum ss_err ss_perf_refused(struct ss_diag *diag, pid_t pid)
{
  int err = errno;
  int level = paranoid_level();
  if ((err == EACCES || err == EPERM) && level > 2) {
    return ss_fail(diag, SS_ERR_ACCESS,
                   "perf is refused: kernel.perf_event_paranoid is %d; 2 is enough "
                   "(sysctl kernel.perf_event_paranoid=2)",
                   level);
  }
  if (err == EPERM || err == ENOSYS) {
    return ss_fail(diag, err == EPERM ? SS_ERR_ACCESS : SS_ERR_UNSUPPORTED,
                   "perf is refused: perf_event_open is blocked here (a container's "
                   "seccomp filter does this)");
  }
  if (err == EACCES) {
    return ss_fail(diag, SS_ERR_ACCESS, "perf is refused: no access to process %d",
                   (int)pid);
  }
  if (err == EMFILE || err == ENFILE)
    return ss_fail(diag, SS_ERR_LIMIT, "perf needs more open files than are allowed");
  errno = err;
  return ss_fail_errno(diag, "perf_event_open on process %d", (int)pid);
}

/* ---- what this kernel and user may have ----------------------------------------- */

/* Gives up one thing that the errno of a refused event points to. */
static bool give_up_something(struct perf_event_attr *attr, int err)
{
  if ((err == EACCES || err == EPERM) && !attr->exclude_kernel)
    set_user_only(attr);
  else if (err == EINVAL && attr->inherit_thread)
    attr->inherit_thread = 0;
  else if (err == EINVAL && attr->context_switch)
    attr->context_switch = 0;
  else
    return false;
  return true;
}

static void say_given_up(const struct ss_perf *perf)
{
  struct ss_notes *notes = perf->config.notes;
  if (perf->attr.exclude_kernel) {
    ss_note(notes,
            "kernel stacks are not visible (kernel.perf_event_paranoid is %d; 1, or "
            "CAP_PERFMON, shows them): kernel time is measured without stacks",
            paranoid_level());
  }
  if (perf->config.inherit && perf->config.threads_only && !perf->attr.inherit_thread &&
      !perf->facts.per_thread) {
    ss_note(notes, "this kernel cannot leave child processes out: their samples are "
                   "taken and dropped");
  }
  if (perf->config.switches && !perf->attr.context_switch) {
    ss_note(notes, "this kernel does not report context switches: waiting times are "
                   "estimates");
  }
}

/* Opens one event to settle the attributes; on success it is kept. */
static enum ss_err probe(struct ss_perf *perf, pid_t pid, struct ss_diag *diag)
{
  for (;;) {
    int fd = ss_perf_open_event(&perf->attr, pid, perf->cpus[0]);
    if (fd >= 0) {
      return ss_perf_keep_event(perf, fd) ? SS_ERR_OK
                                          : ss_fail(diag, SS_ERR_NOMEM, "perf events");
    }
    if (!give_up_something(&perf->attr, errno))
      return ss_perf_refused(diag, pid);
  }
}

static enum ss_err list_cpus(struct ss_perf *perf, pid_t pid, struct ss_diag *diag)
{
  cpu_set_t *set = CPU_ALLOC(SS_CPUS_MAX);
  size_t bytes = CPU_ALLOC_SIZE(SS_CPUS_MAX);
  perf->cpus = calloc(SS_CPUS_MAX, sizeof *perf->cpus);
  enum ss_err err = SS_ERR_OK;
  if (!set || !perf->cpus) {
    err = ss_fail(diag, SS_ERR_NOMEM, "list of CPUs");
    goto out;
  }
  if (sched_getaffinity(pid, bytes, set) != 0) {
    err = ss_fail_errno(diag, "CPUs of process %d", (int)pid);
    goto out;
  }
  for (int cpu = 0; cpu < SS_CPUS_MAX; cpu++)
    if (CPU_ISSET_S((size_t)cpu, bytes, set))
      perf->cpus[perf->cpu_count++] = cpu;
out:
  CPU_FREE(set);
  return err;
}

/* ---- rings ---------------------------------------------------------------------- */

static void unmap_rings(struct ss_perf *perf)
{
  for (unsigned i = 0; i < perf->facts.cpus; i++)
    ss_perf_ring_unmap(&perf->rings[i]);
  perf->facts.cpus = 0;
}

static void close_events(struct ss_perf *perf)
{
  ss_perf_faults_close(perf);
  unmap_rings(perf);
  for (size_t i = 0; i < perf->count; i++)
    ss_close(&perf->events[i]);
  perf->count = 0;
}

static bool map_rings(struct ss_perf *perf, uint64_t bytes)
{
  for (size_t i = 0; i < perf->count; i++) {
    if (ss_perf_ring_map(&perf->rings[i], perf->events[i], perf->cpus[i], bytes) !=
        SS_ERR_OK) {
      unmap_rings(perf);
      return false;
    }
    perf->facts.cpus++;
  }
  perf->facts.ring_bytes = bytes;
  return true;
}

/* The smallest power of two that holds enough full records. */
static uint64_t smallest_ring(uint32_t snapshot)
{
  uint64_t need = (uint64_t)SS_RING_MIN_RECORDS * (snapshot + RECORD_OVERHEAD);
  uint64_t bytes = RING_SMALLEST;
  while (bytes < need)
    bytes *= 2;
  return bytes;
}

static bool map_some_size(struct ss_perf *perf, uint32_t snapshot)
{
  uint64_t wanted = RING_WANTED;
  if (perf->config.rate_hz > 1000)
    wanted *= 4;
  for (uint64_t bytes = wanted; bytes >= smallest_ring(snapshot); bytes /= 2)
    if (map_rings(perf, bytes))
      return true;
  return false;
}

/* One event per CPU; the first one is there already. A CPU that went offline is
 * left out. */
static enum ss_err open_cpus(struct ss_perf *perf, pid_t pid, struct ss_diag *diag)
{
  enum ss_err err = probe(perf, pid, diag);
  size_t used = 1;
  for (size_t i = 1; err == SS_ERR_OK && i < perf->cpu_count; i++) {
    int fd = ss_perf_open_event(&perf->attr, pid, perf->cpus[i]);
    if (fd >= 0) {
      perf->cpus[used++] = perf->cpus[i];
      err = ss_perf_keep_event(perf, fd) ? SS_ERR_OK
                                         : ss_fail(diag, SS_ERR_NOMEM, "perf events");
    } else if (errno != ENODEV) {
      err = ss_perf_refused(diag, pid);
    }
  }
  if (err == SS_ERR_OK)
    perf->cpu_count = used;
  return err;
}

static void say_shrunk(struct ss_perf *perf, uint32_t wanted)
{
  const struct ss_perf_facts *facts = &perf->facts;
  if (facts->snapshot == wanted)
    return;
  snprintf(
      perf->facts.reason, sizeof perf->facts.reason,
      "locked memory is short (kernel.perf_event_mlock_kb, ulimit -l): rings of %llu "
      "KB, stack snapshots of %u instead of %u KB",
      (unsigned long long)facts->ring_bytes >> 10, facts->snapshot >> 10, wanted >> 10);
  ss_note(perf->config.notes, "%s", perf->facts.reason);
}

static enum ss_err open_rings(struct ss_perf *perf, pid_t pid, struct ss_diag *diag)
{
  uint32_t wanted = perf->attr.sample_stack_user;
  const uint32_t smaller[] = {SS_STACK_SNAPSHOT_SMALL, SS_STACK_SNAPSHOT_MIN, 0};
  const uint32_t *next = smaller;
  for (uint32_t snapshot = wanted;; snapshot = *next++) {
    set_snapshot(&perf->attr, snapshot);
    enum ss_err err = open_cpus(perf, pid, diag);
    if (err != SS_ERR_OK)
      return err;
    if (map_some_size(perf, snapshot)) {
      perf->facts.snapshot = snapshot;
      if (perf->facts.per_thread)
        perf->rings[0].tid = pid;
      say_shrunk(perf, wanted);
      return SS_ERR_OK;
    }
    close_events(perf);
    while (*next >= snapshot && *next > 0)
      next++;
    if (*next == 0) {
      return ss_fail(diag, SS_ERR_LIMIT,
                     "perf rings of %u KB a CPU are refused: raise ulimit -l or "
                     "kernel.perf_event_mlock_kb, or end other profilers of this user",
                     (unsigned)(smallest_ring(snapshot) >> 10));
    }
  }
}

/* ---- interface ------------------------------------------------------------------ */

enum ss_err ss_perf_open(struct ss_perf **perf, const struct ss_perf_config *config,
                         pid_t pid, struct ss_diag *diag)
{
  *perf = NULL;
  if (config->rate_hz == 0 || config->rate_hz > SS_RATE_MAX_HZ)
    return ss_fail(diag, SS_ERR_USAGE, "rate of %u Hz", config->rate_hz);
  struct ss_perf *p = calloc(1, sizeof *p);
  if (!p)
    return ss_fail(diag, SS_ERR_NOMEM, "perf events");
  p->config = *config;
  p->facts.period_ns = 1000000000u / config->rate_hz;
  init_attr(&p->attr, config, p->facts.period_ns);
  pthread_mutex_init(&p->lock, NULL);
  enum ss_err err = list_cpus(p, pid, diag);
  if (err == SS_ERR_OK) {
    size_t rings = ss_perf_choose_layout(p);
    p->rings = calloc(rings, sizeof *p->rings);
    err = p->rings ? open_rings(p, pid, diag) : ss_fail(diag, SS_ERR_NOMEM, "perf rings");
  }
  if (err != SS_ERR_OK) {
    ss_perf_close(p);
    return err;
  }
  say_given_up(p);
  p->facts.kernel_samples = !p->attr.exclude_kernel;
  p->facts.switches = p->attr.context_switch;
  if (!p->facts.kernel_samples && !p->facts.per_thread)
    p->facts.faults = ss_perf_faults_open(p, &p->attr, pid);
  p->facts.events = (unsigned)(p->count + p->faults.count);
  p->attr.enable_on_exec = 0; /* events added later run at once, or when enabled */
  *perf = p;
  return SS_ERR_OK;
}

static enum ss_err add_on_ring(struct ss_perf *perf, const struct ss_perf_ring *ring,
                               pid_t tid, struct ss_diag *diag)
{
  int fd = ss_perf_open_event(&perf->attr, tid, ring->cpu);
  if (fd < 0)
    return errno == ESRCH ? SS_ERR_GONE : ss_perf_refused(diag, tid);
  if (ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, ring->fd) != 0) {
    enum ss_err err = ss_fail_errno(diag, "perf ring of CPU %d", ring->cpu);
    ss_close(&fd);
    return err;
  }
  return ss_perf_keep_event(perf, fd) ? SS_ERR_OK
                                      : ss_fail(diag, SS_ERR_NOMEM, "perf events");
}

enum ss_err ss_perf_add(struct ss_perf *perf, pid_t tid, struct ss_diag *diag)
{
  size_t before = perf->count;
  perf->attr.disabled = !perf->enabled;
  if (perf->facts.per_thread)
    return ss_perf_add_ring(perf, tid, NULL, diag);
  for (unsigned i = 0; i < perf->facts.cpus; i++) {
    enum ss_err err = add_on_ring(perf, &perf->rings[i], tid, diag);
    if (err != SS_ERR_OK) { /* all CPUs of a thread, or none */
      while (perf->count > before)
        ss_close(&perf->events[--perf->count]);
      return err;
    }
  }
  if (perf->facts.faults && !ss_perf_faults_open(perf, &perf->attr, tid))
    ss_note(perf->config.notes, "page faults of some threads are not sampled");
  perf->facts.events = (unsigned)(perf->count + perf->faults.count);
  return SS_ERR_OK;
}

static void switch_all(const int *events, size_t count, bool on)
{
  for (size_t i = 0; i < count; i++)
    ioctl(events[i], on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0);
}

void ss_perf_enable(struct ss_perf *perf, bool on)
{
  pthread_mutex_lock(&perf->lock);
  switch_all(perf->events, perf->count, on);
  ss_perf_faults_enable(perf, on);
  perf->enabled = on;
  pthread_mutex_unlock(&perf->lock);
}

const struct ss_perf_facts *ss_perf_facts(const struct ss_perf *perf)
{
  return &perf->facts;
}

uint64_t ss_perf_count_of(int event)
{
  uint64_t count;
  return read(event, &count, sizeof count) == (ssize_t)sizeof count ? count : 0;
}

uint64_t ss_perf_count_ns(const struct ss_perf *perf)
{
  uint64_t sum = perf->ended_ns;
  for (size_t i = 0; i < perf->count; i++)
    sum += ss_perf_count_of(perf->events[i]);
  return sum;
}

size_t ss_perf_rings(struct ss_perf *perf, struct ss_perf_ring **rings)
{
  *rings = perf->rings;
  return perf->facts.cpus;
}

void ss_perf_close(struct ss_perf *perf)
{
  if (!perf)
    return;
  close_events(perf);
  pthread_mutex_destroy(&perf->lock);
  free(perf->events);
  free(perf->rings);
  free(perf->cpus);
  free(perf);
}
