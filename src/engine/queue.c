/*
 * The queue of one CPU from stage 1 to stage 2: one writer, one reader, entries of
 * any size. They may be finished in any order.
 *
 * Its memory is cut into chunks. The writer fills one, goes on with the lowest that
 * is free and links the two; the reader gives a chunk back when all its entries are
 * done. So a short queue stays in the same few pages, in the cache, while all of the
 * memory is there for the moment in which the reader is held up.
 */
#include <stdatomic.h>
#include <sys/mman.h>

#include "engine_priv.h"

bool ss_queue_init(struct ss_queue *q, uint64_t size)
{
  *q = (struct ss_queue){.size = size, .chunk = size / SS_QUEUE_CHUNKS};
  atomic_store(&q->free, ~(uint64_t)1); /* the writer has the first one */
  /* Pages that are never used cost nothing. */
  void *bytes = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  q->bytes = bytes == MAP_FAILED ? NULL : bytes;
  return q->bytes != NULL;
}

void ss_queue_release(struct ss_queue *q)
{
  if (q->bytes)
    munmap(q->bytes, (size_t)q->size);
  *q = (struct ss_queue){0};
}

uint64_t ss_queue_used(const struct ss_queue *q)
{
  uint64_t idle = atomic_load_explicit(&q->free, memory_order_acquire);
  return q->chunk * (uint64_t)(SS_QUEUE_CHUNKS - __builtin_popcountll(idle));
}

static struct ss_entry *entry_at(const struct ss_queue *q, uint32_t chunk, uint64_t at)
{
  return (struct ss_entry *)(q->bytes + chunk * q->chunk + at);
}

bool ss_queue_is_empty(const struct ss_queue *q)
{
  const struct ss_queue_chunk *c = &q->chunks[q->read_chunk];
  return q->chunk == ss_queue_used(q) && c->open == 0 &&
         c->taken == atomic_load_explicit(&c->filled, memory_order_acquire);
}

/* ---- the writer ----------------------------------------------------------------- */

static bool next_chunk(struct ss_queue *q)
{
  uint64_t idle = atomic_load_explicit(&q->free, memory_order_acquire);
  if (idle == 0)
    return false;
  uint32_t next = (uint32_t)__builtin_ctzll(idle);
  atomic_fetch_and_explicit(&q->free, ~((uint64_t)1 << next), memory_order_relaxed);
  atomic_store_explicit(&q->chunks[next].filled, 0, memory_order_relaxed);
  atomic_store_explicit(&q->chunks[next].next, 0, memory_order_relaxed);
  atomic_store_explicit(&q->chunks[q->write_chunk].next, next + 1, memory_order_release);
  q->write_chunk = next;
  q->write_at = 0;
  return true;
}

struct ss_entry *ss_queue_reserve(struct ss_queue *q, size_t size)
{
  if (size > q->chunk || (size > q->chunk - q->write_at && !next_chunk(q)))
    return NULL;
  return entry_at(q, q->write_chunk, q->write_at);
}

void ss_queue_commit(struct ss_queue *q, struct ss_entry *entry)
{
  SS_INVARIANT(entry == entry_at(q, q->write_chunk, q->write_at) &&
               entry->size % 16 == 0);
  q->write_at += entry->size;
  atomic_store_explicit(&q->chunks[q->write_chunk].filled, q->write_at,
                        memory_order_release);
}

/* ---- the reader ----------------------------------------------------------------- */

static void give_back(struct ss_queue *q, uint32_t chunk)
{
  struct ss_queue_chunk *c = &q->chunks[chunk];
  if (!c->left || c->open > 0)
    return;
  c->left = false;
  c->taken = 0;
  atomic_fetch_or_explicit(&q->free, (uint64_t)1 << chunk, memory_order_release);
}

struct ss_entry *ss_queue_take(struct ss_queue *q)
{
  for (;;) {
    struct ss_queue_chunk *c = &q->chunks[q->read_chunk];
    /* In this order: once there is a next one, nothing more comes into this. */
    uint32_t next = atomic_load_explicit(&c->next, memory_order_acquire);
    if (c->taken < atomic_load_explicit(&c->filled, memory_order_acquire)) {
      struct ss_entry *entry = entry_at(q, q->read_chunk, c->taken);
      c->taken += entry->size;
      c->open++;
      return entry;
    }
    if (next == 0)
      return NULL;
    uint32_t left = q->read_chunk;
    q->read_chunk = next - 1;
    c->left = true;
    give_back(q, left);
  }
}

void ss_queue_done(struct ss_queue *q, struct ss_entry *entry)
{
  uint32_t chunk = (uint32_t)((uint64_t)((unsigned char *)entry - q->bytes) / q->chunk);
  q->chunks[chunk].open--;
  give_back(q, chunk);
}
