/*
 * Records of all CPUs in time order. Each CPU gives a bound: no record before it can
 * still come. For a CPU whose ring is empty that is the clock, read before the look;
 * else the newest record taken, or the start of the last whole pass over its ring,
 * always less SS_SETTLE_NS. What lies before the least bound is handed out.
 *
 * A ring is not quite in order itself (an interrupt's record overtakes the one that
 * it interrupted), hence a heap and not a merge of queues. At equal times the rank
 * decides: a process is born before it is seen.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "capture_priv.h"
#include "stacksample/buf.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

/* ---- heap ----------------------------------------------------------------------- */

static bool before(const struct ss_pending *a, const struct ss_pending *b)
{
  return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->order < b->order;
}

static bool heap_push(struct ss_heap *heap, struct ss_pending item)
{
  if (!ss_grow(&heap->items, &heap->cap, heap->count + 1, sizeof *heap->items))
    return false;
  size_t at = heap->count++;
  while (at > 0 && before(&item, &heap->items[(at - 1) / 2])) {
    heap->items[at] = heap->items[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  heap->items[at] = item;
  return true;
}

static struct ss_pending heap_pop(struct ss_heap *heap)
{
  struct ss_pending top = heap->items[0];
  struct ss_pending last = heap->items[--heap->count];
  size_t at = 0;
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= heap->count)
      break;
    if (child + 1 < heap->count && before(&heap->items[child + 1], &heap->items[child]))
      child++;
    if (before(&last, &heap->items[child]))
      break;
    heap->items[at] = heap->items[child];
    at = child;
  }
  heap->items[at] = last;
  return top;
}

/* ---- taking what is there ------------------------------------------------------- */

static void show_switch(const struct ss_capture *c,
                        const struct perf_event_header *record, size_t len)
{
  struct ss_record_peek peek;
  if (c->on_switch && len >= sizeof *record && record->type == PERF_RECORD_SWITCH &&
      ss_record_peek(record, len, &peek)) {
    c->on_switch(c->on_switch_arg, peek.pid, peek.tid, peek.time_ns,
                 record->misc & PERF_RECORD_MISC_SWITCH_OUT,
                 record->misc & PERF_RECORD_MISC_SWITCH_OUT_PREEMPT);
  }
}

static void take_all(struct ss_capture *c, struct ss_cpu *cpu)
{
  struct ss_entry *entry;
  while ((entry = ss_queue_take(&cpu->queue))) {
    struct ss_pending item = {.time_ns = entry->time_ns,
                              .order = (uint64_t)entry->rank << 56 | c->arrivals++,
                              .cpu = cpu,
                              .entry = entry};
    if (entry->time_ns > cpu->newest_ns)
      cpu->newest_ns = entry->time_ns;
    if (!entry->own)
      show_switch(c, (const void *)ss_entry_record(entry), entry->record_len);
    if (!heap_push(&c->heap, item)) {
      atomic_fetch_add(&c->undecodable, 1);
      ss_queue_done(&cpu->queue, entry);
    }
  }
}

/* Takes a CPU's queue and moves its bound. The order of the looks matters: the ring
 * must be found empty before the queue is emptied. */
static void advance(struct ss_capture *c, struct ss_cpu *cpu, uint64_t now)
{
  uint64_t drained = atomic_load_explicit(&cpu->drained_ns, memory_order_acquire);
  if (!cpu->reader.ring) { /* the tracer: in order but for births */
    take_all(c, cpu);
    cpu->bound_ns = drained;
    return;
  }
  bool empty = atomic_load_explicit(&cpu->consumed, memory_order_acquire) ==
               ss_perf_ring_head(cpu->reader.ring);
  take_all(c, cpu);
  uint64_t bound = cpu->newest_ns > drained ? cpu->newest_ns : drained;
  if (empty)
    bound = now;
  else if (drained + c->patience_ns < now)
    ss_capture_kick(cpu); /* records that wake nobody: only samples do */
  bound = bound > SS_SETTLE_NS ? bound - SS_SETTLE_NS : 0;
  if (bound > cpu->bound_ns)
    cpu->bound_ns = bound;
}

/* Its thread has ended and nobody has the place yet. */
static bool is_unused(const struct ss_cpu *cpu)
{
  return cpu->reader.ring && !cpu->reader.ring->page;
}

static void refill(struct ss_capture *c)
{
  bool stopped = atomic_load(&c->stopped);
  uint64_t now = ss_now_ns();
  uint64_t least = UINT64_MAX;
  for (size_t i = 0; i < c->cpu_count; i++) {
    struct ss_cpu *cpu = &c->cpus[i];
    if (is_unused(cpu))
      continue;
    advance(c, cpu, now);
    if (cpu->bound_ns < least)
      least = cpu->bound_ns;
  }
  c->bound_ns = stopped ? UINT64_MAX : least;
}

static void release_current(struct ss_capture *c)
{
  if (c->current.entry) {
    ss_queue_done(&c->current.cpu->queue, c->current.entry);
    c->current.entry = NULL;
  }
}

static bool pop_due(struct ss_capture *c)
{
  if (c->heap.count == 0 || c->heap.items[0].time_ns > c->bound_ns)
    return false;
  c->current = heap_pop(&c->heap);
  return true;
}

static void move_horizon(struct ss_capture *c, uint64_t to)
{
  if (to > atomic_load_explicit(&c->horizon_ns, memory_order_relaxed))
    atomic_store_explicit(&c->horizon_ns, to, memory_order_relaxed);
}

static bool decode(struct ss_entry *entry, struct ss_captured *out)
{
  out->plan.count = entry->plan.count;
  memcpy(out->plan.regions, entry->plan.regions,
         entry->plan.count * sizeof entry->plan.regions[0]);
  out->raw = ss_entry_raw(entry);
  out->raw_len = entry->raw_len;
  out->read_ns = entry->read_ns;
  out->chased = ss_entry_chased(entry);
  out->chased_count = entry->chased;
  out->chased_raw = (const unsigned char *)(out->chased + entry->chased);
  out->chased_len = entry->chased_len;
  const void *bytes = ss_entry_record(entry);
  return entry->own ? ss_own_record_get(bytes, entry->record_len, &out->rec)
                    : ss_record_decode(bytes, entry->record_len, &out->rec);
}

bool ss_capture_next(struct ss_capture *c, struct ss_captured *out)
{
  for (;;) {
    release_current(c);
    if (!pop_due(c)) {
      refill(c);
      if (!pop_due(c)) {
        move_horizon(c, c->bound_ns == UINT64_MAX ? ss_now_ns() : c->bound_ns);
        return false;
      }
    }
    move_horizon(c, c->current.time_ns);
    if (decode(c->current.entry, out))
      return true;
    atomic_fetch_add(&c->undecodable, 1);
  }
}

void ss_capture_watch(struct ss_capture *c, ss_capture_switch *on_switch, void *arg)
{
  c->on_switch = on_switch;
  c->on_switch_arg = arg;
}

/* Copies what lies at `pos` of a ring that stage 1 may be emptying at this moment. The
 * kernel writes nowhere from the tail on, so the copy is good if the tail is not
 * beyond it afterwards. */
static bool copy_unread(const struct ss_perf_ring *ring, uint64_t pos, void *to,
                        size_t len)
{
  uint64_t at = pos & (ring->size - 1);
  size_t first = len < ring->size - at ? len : (size_t)(ring->size - at);
  memcpy(to, ring->data + at, first);
  memcpy((char *)to + first, ring->data, len - first);
  atomic_thread_fence(memory_order_acquire);
  return ss_perf_ring_tail(ring) <= pos;
}

static void peek_ring(const struct ss_capture *c, struct ss_cpu *cpu)
{
  struct ss_perf_ring *ring = cpu->reader.ring;
  uint64_t head = ss_perf_ring_head(ring), tail = ss_perf_ring_tail(ring);
  uint64_t pos = cpu->peeked > tail ? cpu->peeked : tail;
  union {
    struct perf_event_header header;
    unsigned char bytes[64]; /* a SWITCH record has 24 or 32 */
  } record;
  while (pos < head && copy_unread(ring, pos, &record.header, sizeof record.header)) {
    size_t len = record.header.size;
    if (len < sizeof record.header || len > head - pos)
      break; /* stage 1 counts it */
    if (record.header.type == PERF_RECORD_SWITCH && len <= sizeof record &&
        copy_unread(ring, pos, &record, len))
      show_switch(c, &record.header, len);
    pos += len;
  }
  cpu->peeked = pos;
}

void ss_capture_peek(struct ss_capture *c)
{
  for (size_t i = 0; i < c->cpu_count && c->on_switch && !c->tracer; i++)
    if (!is_unused(&c->cpus[i]))
      peek_ring(c, &c->cpus[i]);
}

uint64_t ss_capture_horizon_ns(const struct ss_capture *c)
{
  return atomic_load_explicit(&c->horizon_ns, memory_order_relaxed);
}

void ss_capture_wait(struct ss_capture *c, int timeout_ms)
{
  struct pollfd fd = {.fd = c->wake, .events = POLLIN};
  uint64_t wait_ns = (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000;
  c->patience_ns = wait_ns > SS_SETTLE_NS ? wait_ns : SS_SETTLE_NS;
  if (poll(&fd, 1, timeout_ms) > 0) {
    uint64_t count;
    ss_read_some(c->wake, &count, sizeof count);
    atomic_store(&c->signalled, false);
  }
}
