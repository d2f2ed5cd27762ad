/*
 * The layout for many CPUs: one event a thread, wherever it runs, with a ring of its
 * own. A new thread inherits a copy of each event of its creator, which with one event
 * a CPU takes it milliseconds on a large machine; these are not inherited at all, and
 * whoever sees a thread's FORK record has it followed (following.c).
 *
 * What it costs: the first milliseconds of a thread have no samples; a process whose
 * parent made it and ended in that time is missed; and a reader does not hold its
 * thread off its CPU, so nothing is read with a sample but its stack.
 */
#include <errno.h>

#include "engine_priv.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

size_t ss_perf_choose_layout(struct ss_perf *perf)
{
  unsigned from = perf->config.per_thread_from;
  if (perf->cpu_count < (from > 0 ? from : SS_PER_THREAD_CPUS))
    return perf->cpu_count;
  perf->facts.per_thread = true;
  perf->cpus[0] = -1;
  perf->cpu_count = 1;
  perf->attr.inherit = 0;
  perf->attr.inherit_thread = 0;
  return SS_RINGS_MAX;
}

static struct ss_perf_ring *unused_ring(struct ss_perf *perf)
{
  for (unsigned i = 0; i < perf->facts.cpus; i++)
    if (!perf->rings[i].page)
      return &perf->rings[i];
  return perf->facts.cpus < SS_RINGS_MAX ? &perf->rings[perf->facts.cpus++] : NULL;
}

bool ss_perf_follows(struct ss_perf *perf, pid_t tid)
{
  bool found = false;

  pthread_mutex_lock(&perf->lock);
  for (unsigned i = 0; i < perf->facts.cpus && !found; i++)
    found = perf->rings[i].page && perf->rings[i].tid == tid;
  pthread_mutex_unlock(&perf->lock);
  return found;
}

enum ss_err ss_perf_add_ring(struct ss_perf *perf, pid_t tid, struct ss_perf_ring **out,
                             struct ss_diag *diag)
{
  int fd = ss_perf_open_event(&perf->attr, tid, -1);
  if (fd < 0)
    return errno == ESRCH ? SS_ERR_GONE : ss_perf_refused(diag, tid);
  struct ss_perf_ring *ring = unused_ring(perf);
  if (!ring || ss_perf_ring_map(ring, fd, -1, perf->facts.ring_bytes) != SS_ERR_OK) {
    ss_close(&fd);
    return ss_fail(diag, SS_ERR_LIMIT, "no ring for thread %d", (int)tid);
  }
  ring->tid = tid;
  if (!ss_perf_keep_event(perf, fd)) {
    ss_perf_ring_unmap(ring);
    return ss_fail(diag, SS_ERR_NOMEM, "perf events");
  }
  perf->facts.events = (unsigned)perf->count;
  if (out)
    *out = ring;
  return SS_ERR_OK;
}

enum ss_err ss_perf_follow(struct ss_perf *perf, pid_t tid, struct ss_perf_ring **ring,
                           struct ss_diag *diag)
{
  pthread_mutex_lock(&perf->lock);
  perf->attr.disabled = 0;
  enum ss_err err = ss_perf_add_ring(perf, tid, ring, diag);
  pthread_mutex_unlock(&perf->lock);
  return err;
}

void ss_perf_unfollow(struct ss_perf *perf, struct ss_perf_ring *ring)
{
  pthread_mutex_lock(&perf->lock);
  for (size_t i = 0; i < perf->count; i++) {
    if (perf->events[i] == ring->fd) {
      perf->ended_ns += ss_perf_count_of(ring->fd);
      ss_close(&perf->events[i]);
      perf->events[i] = perf->events[--perf->count];
      break;
    }
  }
  ss_perf_ring_unmap(ring);
  pthread_mutex_unlock(&perf->lock);
}
