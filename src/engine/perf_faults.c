/*
 * Page faults as a second event beside each task-clock, for users to whom the kernel
 * shows no samples of its own mode. A fault is taken in user mode: it comes with the
 * registers and the stack of the code that touched the page, which may always be
 * seen, and so tells where hidden kernel time went.
 *
 * Each sample stands for a fixed number of faults. The kernel could adapt it itself
 * (perf_event_attr.freq), but for a software event that goes wrong: after a burst the
 * period may become millions, and stays so, as kernel/events/core.c shortens only
 * what is left above zero, and here that counts from below. So there are events of
 * some periods, of which one is on; to inherited events too, switching on and off
 * gets through, as a new period does not. Events go to the rings that exist already.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine_priv.h"
#include "stacksample/buf.h"
#include "stacksample/sys.h"

enum {
  LEVELS = 3,
  FIRST_LEVEL = 1,
  PER_RATE = 2, /* of the clock's samples: faults only divide what that measures */
  MOST_HZ = 100,
  HZ_RANGE = 32 /* the most by the least; more than a level is from the next */
};
#define ADAPT_NS 200000000ull

/* Primes: no loop of the target is in step with them. */
static const uint64_t periods[LEVELS] = {31, 499, 7993};

static void init_attr(struct perf_event_attr *attr, const struct perf_event_attr *like)
{
  *attr = *like;
  attr->config = PERF_COUNT_SW_PAGE_FAULTS;
  /* Once is enough. */
  attr->mmap = attr->mmap2 = attr->comm = attr->comm_exec = attr->task = 0;
  attr->context_switch = 0;
}

static bool keep(struct ss_perf_faults *faults, int fd, uint64_t period)
{
  uint64_t id;
  if (ioctl(fd, PERF_EVENT_IOC_ID, &id) != 0 ||
      !ss_grow(&faults->events, &faults->cap, faults->count + 1,
               sizeof *faults->events) ||
      !ss_idmap_put(&faults->ids, id, period))
    return false;
  faults->events[faults->count++] = fd;
  return true;
}

static bool open_on(struct ss_perf *perf, const struct ss_perf_ring *ring, pid_t tid,
                    unsigned level)
{
  struct perf_event_attr attr = perf->faults.attr;
  bool on = level == perf->faults.level;
  attr.sample_period = periods[level];
  attr.disabled = attr.disabled || !on;
  attr.enable_on_exec = attr.enable_on_exec && on;
  int fd = ss_perf_event_open(&attr, tid, ring->cpu, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0)
    return false;
  if (ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, ring->fd) != 0 ||
      !keep(&perf->faults, fd, periods[level])) {
    ss_close(&fd);
    return false;
  }
  return true;
}

bool ss_perf_faults_open(struct ss_perf *perf, const struct perf_event_attr *like,
                         pid_t tid)
{
  struct ss_perf_faults *faults = &perf->faults;
  size_t before = faults->count;
  if (before == 0)
    faults->level = FIRST_LEVEL;
  init_attr(&faults->attr, like);
  faults->on = faults->on || like->enable_on_exec;
  for (unsigned i = 0; i < perf->facts.cpus * LEVELS; i++) {
    if (!open_on(perf, &perf->rings[i / LEVELS], tid, i % LEVELS)) {
      while (faults->count > before)
        ss_close(&faults->events[--faults->count]);
      return false;
    }
  }
  return true;
}

static void switch_level(struct ss_perf_faults *faults, unsigned level, bool on)
{
  for (size_t i = level; i < faults->count; i += LEVELS)
    ioctl(faults->events[i], on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0);
}

void ss_perf_faults_enable(struct ss_perf *perf, bool on)
{
  switch_level(&perf->faults, perf->faults.level, on);
  perf->faults.on = on;
}

static unsigned next_level(const struct ss_perf *perf, uint64_t hz)
{
  unsigned level = perf->faults.level;
  uint64_t each = perf->config.rate_hz / PER_RATE;
  uint64_t most = (each < MOST_HZ ? each : MOST_HZ) * perf->facts.cpus;
  return hz > most && level + 1 < LEVELS     ? level + 1
         : hz < most / HZ_RANGE && level > 0 ? level - 1
                                             : level;
}

void ss_perf_faults_adapt(struct ss_perf *perf, uint64_t samples, uint64_t now_ns)
{
  struct ss_perf_faults *faults = &perf->faults;
  pthread_mutex_lock(&perf->lock);
  uint64_t span_ns = now_ns - faults->adapted_ns;
  if (faults->on && span_ns >= ADAPT_NS) {
    uint64_t hz = (samples - faults->seen) * 1000000000 / span_ns;
    unsigned level = next_level(perf, hz);
    if (level != faults->level) {
      switch_level(faults, faults->level, false);
      switch_level(faults, level, true);
      faults->level = level;
    }
    faults->seen = samples;
    faults->adapted_ns = now_ns;
  }
  pthread_mutex_unlock(&perf->lock);
}

void ss_perf_faults_close(struct ss_perf *perf)
{
  struct ss_perf_faults *faults = &perf->faults;
  for (size_t i = 0; i < faults->count; i++)
    ss_close(&faults->events[i]);
  free(faults->events);
  ss_idmap_release(&faults->ids);
  *faults = (struct ss_perf_faults){0};
}

uint64_t ss_perf_fault_period(const struct ss_perf *perf, uint64_t event)
{
  const uint64_t *period = ss_idmap_get(&perf->faults.ids, event);
  return period ? *period : 0;
}
