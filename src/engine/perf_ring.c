/*
 * The reader's end of one perf ring buffer: an mmap page with the two positions,
 * behind it a power of two of data bytes. The kernel writes data_head, we write
 * data_tail; both only grow. A record is used where it lies, and copied only when
 * it wraps around the end.
 *
 * An impossible size (never seen, but then nothing after it can be trusted) gives
 * up what the pass had left: the tail goes to the head.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_priv.h"

enum ss_err ss_perf_ring_map(struct ss_perf_ring *ring, int fd, int cpu,
                             uint64_t data_bytes)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t len = page + (size_t)data_bytes;
  void *base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED)
    return SS_ERR_LIMIT;
  ring->cpu = cpu;
  ring->fd = fd;
  ring->page = base;
  ring->data = (unsigned char *)base + page;
  ring->size = data_bytes;
  ring->map_len = len;
  return SS_ERR_OK;
}

void ss_perf_ring_unmap(struct ss_perf_ring *ring)
{
  if (ring->page)
    munmap(ring->page, ring->map_len);
  *ring = (struct ss_perf_ring){.fd = -1};
}

uint64_t ss_perf_ring_head(const struct ss_perf_ring *ring)
{
  return __atomic_load_n(&ring->page->data_head, __ATOMIC_ACQUIRE);
}

uint64_t ss_perf_ring_tail(const struct ss_perf_ring *ring)
{
  return __atomic_load_n(&ring->page->data_tail, __ATOMIC_RELAXED);
}

static void set_tail(struct ss_perf_reader *reader, uint64_t tail)
{
  reader->tail = tail;
  __atomic_store_n(&reader->ring->page->data_tail, tail, __ATOMIC_RELEASE);
}

void ss_perf_reader_begin(struct ss_perf_reader *reader)
{
  reader->head = ss_perf_ring_head(reader->ring);
  reader->tail = ss_perf_ring_tail(reader->ring);
  if (reader->head - reader->tail > reader->ring->size) {
    reader->corrupt++;
    set_tail(reader, reader->head);
  }
}

const void *ss_perf_reader_next(struct ss_perf_reader *reader, size_t *len)
{
  struct ss_perf_ring *ring = reader->ring;
  uint64_t have = reader->head - reader->tail;
  if (have == 0)
    return NULL;
  /* Records are 8-aligned, so that a header never wraps. */
  uint64_t at = reader->tail & (ring->size - 1);
  struct perf_event_header header = {0};
  if (have >= sizeof header && at % 8 == 0)
    memcpy(&header, ring->data + at, sizeof header);
  if (header.size < sizeof header || header.size > have) {
    reader->corrupt++;
    set_tail(reader, reader->head);
    return NULL;
  }
  *len = header.size;
  if (at + header.size <= ring->size)
    return ring->data + at;
  size_t first = (size_t)(ring->size - at);
  memcpy(reader->scratch, ring->data + at, first);
  memcpy(reader->scratch + first, ring->data, header.size - first);
  return reader->scratch;
}

void ss_perf_reader_release(struct ss_perf_reader *reader, size_t len)
{
  set_tail(reader, reader->tail + len);
}
