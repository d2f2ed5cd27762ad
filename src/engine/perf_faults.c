/*
 * Page faults as a second event beside each task-clock, for users to whom the kernel
 * shows no samples of its own mode. A fault is taken in user mode: it comes with the
 * registers and the stack of the code that touched the page, which may always be
 * seen, and so tells where hidden kernel time went.
 *
 * The kernel adapts the period itself (perf_event_attr.freq): it aims at so many
 * samples a second of the thread, however many faults there are, and says with each
 * sample how many faults it stands for. Events go to the rings that exist already.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine_priv.h"
#include "stacksample/buf.h"
#include "stacksample/sys.h"

enum {
  PER_RATE = 4, /* of the clock's samples: faults only divide what that measures */
  LEAST_HZ = 10,
  MOST_HZ = 100
};

static void init_attr(struct perf_event_attr *attr, const struct perf_event_attr *like,
                      uint32_t rate_hz)
{
  uint32_t hz = rate_hz / PER_RATE;
  *attr = *like;
  attr->config = PERF_COUNT_SW_PAGE_FAULTS;
  attr->freq = 1;
  attr->sample_freq = hz < LEAST_HZ ? LEAST_HZ : hz > MOST_HZ ? MOST_HZ : hz;
  /* Once is enough. */
  attr->mmap = attr->mmap2 = attr->comm = attr->comm_exec = attr->task = 0;
  attr->context_switch = 0;
}

static bool keep(struct ss_perf_faults *faults, int fd)
{
  uint64_t id;
  if (ioctl(fd, PERF_EVENT_IOC_ID, &id) != 0 ||
      !ss_grow(&faults->events, &faults->cap, faults->count + 1,
               sizeof *faults->events) ||
      !ss_idmap_put(&faults->ids, id, 1)) {
    return false;
  }
  faults->events[faults->count++] = fd;
  return true;
}

static bool open_on(struct ss_perf *perf, const struct ss_perf_ring *ring, pid_t tid)
{
  struct perf_event_attr *attr = &perf->faults.attr;
  int fd = ss_perf_event_open(attr, tid, ring->cpu, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  if (ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, ring->fd) != 0 || !keep(&perf->faults, fd)) {
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
  init_attr(&faults->attr, like, perf->config.rate_hz);
  for (unsigned i = 0; i < perf->facts.cpus; i++) {
    if (!open_on(perf, &perf->rings[i], tid)) {
      while (faults->count > before) {
        ss_close(&faults->events[--faults->count]);
      }
      return false;
    }
  }
  return true;
}

void ss_perf_faults_close(struct ss_perf *perf)
{
  struct ss_perf_faults *faults = &perf->faults;
  for (size_t i = 0; i < faults->count; i++) {
    ss_close(&faults->events[i]);
  }
  free(faults->events);
  ss_idmap_release(&faults->ids);
  *faults = (struct ss_perf_faults){0};
}

bool ss_perf_is_fault(const struct ss_perf *perf, uint64_t event)
{
  return perf->faults.count > 0 && ss_idmap_get(&perf->faults.ids, event) != NULL;
}
