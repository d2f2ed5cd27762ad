/*
 * The queue of one CPU from stage 1 to stage 2: one writer, one reader, a ring of
 * entries of any size that never wrap (a padding entry fills the end instead).
 * Entries are taken in order and may be finished in any order; space goes back to
 * the writer up to the first unfinished one.
 */
#include <stdatomic.h>
#include <sys/mman.h>

#include "engine_priv.h"

bool ss_queue_init(struct ss_queue *q, uint64_t size)
{
  *q = (struct ss_queue){.size = size};
  /* Pages that are never used cost nothing. */
  void *bytes = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  q->bytes = bytes == MAP_FAILED ? NULL : bytes;
  return q->bytes != NULL;
}

void ss_queue_release(struct ss_queue *q)
{
  if (q->bytes) {
    munmap(q->bytes, (size_t)q->size);
  }
  *q = (struct ss_queue){0};
}

uint64_t ss_queue_used(const struct ss_queue *q)
{
  return atomic_load_explicit(&q->head, memory_order_acquire) -
         atomic_load_explicit(&q->tail, memory_order_acquire);
}

static struct ss_entry *entry_at(const struct ss_queue *q, uint64_t pos)
{
  return (struct ss_entry *)(q->bytes + (pos & (q->size - 1)));
}

/* A short queue goes back to the start early, so that few pages are ever touched
 * (and those stay in the cache); what it gives up at the end is free again as soon
 * as stage 2 looks. */
static bool start_over(const struct ss_queue *q, uint64_t at, uint64_t used)
{
  return at > q->size / 4 && used <= q->size / 16;
}

struct ss_entry *ss_queue_reserve(struct ss_queue *q, size_t size)
{
  uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
  uint64_t used = head - atomic_load_explicit(&q->tail, memory_order_acquire);
  uint64_t at = head & (q->size - 1);
  uint64_t to_end = q->size - at;
  if (size <= to_end && !start_over(q, at, used)) {
    return used + size <= q->size ? entry_at(q, head) : NULL;
  }
  if (used + to_end + size > q->size) {
    return NULL;
  }
  struct ss_entry *pad = entry_at(q, head);
  pad->size = (uint32_t)to_end;
  pad->record_len = 0;
  atomic_store_explicit(&q->head, head + to_end, memory_order_release);
  return entry_at(q, head + to_end);
}

void ss_queue_commit(struct ss_queue *q, struct ss_entry *entry)
{
  uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
  SS_INVARIANT(entry == entry_at(q, head) && entry->size % 16 == 0);
  entry->done = false;
  atomic_store_explicit(&q->head, head + entry->size, memory_order_release);
}

static void give_back(struct ss_queue *q)
{
  uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
  while (tail != q->seen && entry_at(q, tail)->done) {
    tail += entry_at(q, tail)->size;
  }
  atomic_store_explicit(&q->tail, tail, memory_order_release);
}

struct ss_entry *ss_queue_take(struct ss_queue *q)
{
  uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
  while (q->seen != head) {
    struct ss_entry *entry = entry_at(q, q->seen);
    q->seen += entry->size;
    if (entry->record_len > 0) {
      return entry;
    }
    entry->done = true;
    give_back(q);
  }
  return NULL;
}

void ss_queue_done(struct ss_queue *q, struct ss_entry *entry)
{
  entry->done = true;
  give_back(q);
}
