/*
 * Processes that switch too often: stage 1 counts their switch records and hands none
 * on. It also adds up what a thread runs by them, so that the time from the last
 * reading of a thread's clock to its end is known.
 *
 * Key invariant: stage 2 alone enters processes and threads and takes them out; the
 * readers of the CPUs only add to what they find.
 */
#include <linux/perf_event.h>

#include "capture_priv.h"

enum { PROBES = 16 }; /* slots from its own that may hold a thread's tally */

/* ---- stage 1 -------------------------------------------------------------------- */

static struct ss_hushed *find(struct ss_capture *c, pid_t pid)
{
  for (size_t i = 0; i < SS_HUSHED_MAX; i++)
    if (atomic_load_explicit(&c->hushed[i].pid, memory_order_relaxed) == pid)
      return &c->hushed[i];
  return NULL;
}

static struct ss_tally *slot(struct ss_capture *c, pid_t tid, size_t probe)
{
  return &c->tallies[((uint32_t)tid * 2654435761u + probe) % SS_TALLIES];
}

static struct ss_tally *find_tally(struct ss_capture *c, pid_t tid)
{
  for (size_t i = 0; i < PROBES; i++) {
    struct ss_tally *t = slot(c, tid, i);
    pid_t found = atomic_load_explicit(&t->tid, memory_order_acquire);
    if (found == tid)
      return t;
    if (found == 0)
      break;
  }
  return NULL;
}

/* The thread on this CPU leaves it. */
static void add_stretch(struct ss_cpu *cpu, uint64_t out_ns)
{
  struct ss_tally *t = find_tally(cpu->capture, cpu->hushed_tid);
  cpu->hushed_tid = 0;
  if (!t)
    return;
  uint64_t from_ns = atomic_load_explicit(&t->from_ns, memory_order_relaxed);
  uint64_t in_ns = cpu->hushed_in_ns > from_ns ? cpu->hushed_in_ns : from_ns;
  if (out_ns > in_ns) {
    atomic_fetch_add_explicit(&t->cpu_ns, out_ns - in_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->outs, 1, memory_order_relaxed);
  }
}

bool ss_hushed_take(struct ss_cpu *cpu, const struct ss_record_peek *peek)
{
  struct ss_capture *c = cpu->capture;
  bool is_switch = peek->type == PERF_RECORD_SWITCH;
  bool leaves = (is_switch && peek->out) || peek->type == PERF_RECORD_EXIT;
  if (leaves && peek->tid == cpu->hushed_tid)
    add_stretch(cpu, peek->time_ns);
  if (!is_switch || atomic_load_explicit(&c->hushed_count, memory_order_relaxed) == 0)
    return false;
  struct ss_hushed *h = find(c, peek->pid);
  if (!h)
    return false;
  atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
  if (!peek->out) {
    cpu->hushed_tid = peek->tid;
    cpu->hushed_in_ns = peek->time_ns;
  }
  return true;
}

/* ---- stage 2 -------------------------------------------------------------------- */

bool ss_capture_hush(struct ss_capture *c, pid_t pid, bool hush)
{
  struct ss_hushed *known = find(c, pid);
  struct ss_hushed *h = hush && !known ? find(c, 0) : known;
  if (!h || (hush && known))
    return h != NULL;
  if (hush) {
    atomic_store(&h->count, 0);
    atomic_store(&h->pid, pid);
    atomic_fetch_add(&c->hushed_count, 1);
  } else {
    atomic_store(&h->pid, 0);
    atomic_fetch_sub(&c->hushed_count, 1);
  }
  return true;
}

uint64_t ss_capture_hushed(struct ss_capture *c, pid_t pid)
{
  struct ss_hushed *h = find(c, pid);
  return h ? atomic_load(&h->count) : 0;
}

static struct ss_tally *free_tally(struct ss_capture *c, pid_t tid)
{
  for (size_t i = 0; i < PROBES; i++) {
    struct ss_tally *t = slot(c, tid, i);
    if (atomic_load(&t->tid) <= 0)
      return t;
  }
  return NULL;
}

void ss_capture_tally(struct ss_capture *c, pid_t tid, uint64_t from_ns)
{
  struct ss_tally *known = find_tally(c, tid);
  struct ss_tally *t = known || from_ns == 0 ? known : free_tally(c, tid);
  if (!t)
    return;
  atomic_store(&t->from_ns, from_ns);
  atomic_store(&t->cpu_ns, 0);
  atomic_store(&t->outs, 0);
  atomic_store_explicit(&t->tid, from_ns == 0 ? -1 : tid, memory_order_release);
}

void ss_capture_tallied(struct ss_capture *c, pid_t tid, uint64_t *cpu_ns, uint64_t *outs)
{
  const struct ss_tally *t = find_tally(c, tid);
  *cpu_ns = t ? atomic_load(&t->cpu_ns) : 0;
  *outs = t ? atomic_load(&t->outs) : 0;
}
