/*
 * perf records built by hand, in the layout that src/engine/perf_open.c asks for.
 */
#ifndef STACKSAMPLE_TEST_PERF_RECORDS_H
#define STACKSAMPLE_TEST_PERF_RECORDS_H

#include <assert.h>
#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "stacksample/arch.h"

struct perf_bytes {
  unsigned char data[4096];
  size_t len;
};

static inline void put(struct perf_bytes *b, const void *from, size_t len)
{
  assert(b->len + len <= sizeof b->data);
  memcpy(b->data + b->len, from, len);
  b->len += len;
}

static inline void put64(struct perf_bytes *b, uint64_t v)
{
  put(b, &v, sizeof v);
}

static inline void put32(struct perf_bytes *b, uint32_t v)
{
  put(b, &v, sizeof v);
}

static inline void begin(struct perf_bytes *b, uint32_t type, uint16_t misc)
{
  struct perf_event_header h = {type, misc, 0};
  b->len = 0;
  put(b, &h, sizeof h);
}

static inline void end(struct perf_bytes *b)
{
  uint16_t size = (uint16_t)b->len;
  memcpy(b->data + 6, &size, sizeof size);
}

static inline void trailer(struct perf_bytes *b, uint32_t pid, uint32_t tid,
                           uint64_t time)
{
  put32(b, pid);
  put32(b, tid);
  put64(b, time);
  put32(b, 3); /* cpu */
  put32(b, 0);
  put64(b, 77); /* identifier */
  end(b);
}

static inline void text(struct perf_bytes *b, const char *s)
{
  size_t len = strlen(s) + 1;
  put(b, s, len);
  while (b->len % 8 != 0)
    put(b, "", 1);
}

enum { STACK_ROOM = 256 };

static inline void sample_of(struct perf_bytes *b, uint32_t pid, uint32_t tid,
                             uint64_t time, uint64_t abi, uint64_t valid)
{
  begin(b, PERF_RECORD_SAMPLE, PERF_RECORD_MISC_KERNEL);
  put64(b, 77);
  put64(b, 0xffffffff81000010);
  put32(b, pid);
  put32(b, tid);
  put64(b, time);
  put32(b, 1);
  put32(b, 0);
  put64(b, 4); /* chain */
  put64(b, (uint64_t)PERF_CONTEXT_KERNEL);
  put64(b, 0xffffffff81000010);
  put64(b, 0xffffffff81000020);
  put64(b, (uint64_t)PERF_CONTEXT_USER);
  put64(b, abi);
  for (uint64_t i = 0; abi && i < SS_REG_COUNT; i++)
    put64(b, 100 + i);
  put64(b, STACK_ROOM);
  for (int i = 0; i < STACK_ROOM; i++) {
    unsigned char c = (unsigned char)i;
    put(b, &c, 1);
  }
  put64(b, valid);
  end(b);
}

static inline void sample(struct perf_bytes *b, uint64_t abi, uint64_t valid)
{
  sample_of(b, 10, 11, 5000, abi, valid);
}

static inline void switch_of(struct perf_bytes *b, bool out, uint64_t time)
{
  begin(b, PERF_RECORD_SWITCH, out ? PERF_RECORD_MISC_SWITCH_OUT : 0);
  trailer(b, 10, 11, time);
}

static inline void switch_at(struct perf_bytes *b, uint64_t time)
{
  switch_of(b, false, time);
}

static inline void mmap2(struct perf_bytes *b, uint64_t start, uint64_t len)
{
  begin(b, PERF_RECORD_MMAP2, PERF_RECORD_MISC_USER);
  put32(b, 10);
  put32(b, 11);
  put64(b, start);
  put64(b, len);
  put64(b, 0x2000);
  put32(b, 8);
  put32(b, 1);
  put64(b, 4711);
  put64(b, 0);
  put32(b, 5); /* r-x */
  put32(b, 2);
  text(b, "/usr/lib/libx.so");
  trailer(b, 10, 11, 6000);
}

static inline void task_at(struct perf_bytes *b, uint32_t type, uint64_t time)
{
  begin(b, type, 0);
  put32(b, 20);
  put32(b, 10);
  put32(b, 21);
  put32(b, 11);
  put64(b, time);
  trailer(b, 10, 11, time);
}

#endif
