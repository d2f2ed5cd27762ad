/*
 * Writes a jitdump as a JIT does, for tests: Linux,
 * tools/perf/Documentation/jitdump-specification.txt.
 */
#ifndef STACKSAMPLE_TESTS_JITDUMP_H
#define STACKSAMPLE_TESTS_JITDUMP_H

#include <elf.h>
#include <string.h>

#include "stacksample/buf.h"

static inline void jitdump_u32(struct ss_buf *b, uint32_t value)
{
  ss_buf_add(b, &value, 4);
}

static inline void jitdump_u64(struct ss_buf *b, uint64_t value)
{
  ss_buf_add(b, &value, 8);
}

static inline void jitdump_header(struct ss_buf *b)
{
  const uint32_t words[] = {0x4a695444, 1, 40, EM_X86_64, 0, 1};
  ss_buf_add(b, words, sizeof words);
  jitdump_u64(b, 1);
  jitdump_u64(b, 0);
}

static inline void jitdump_prefix(struct ss_buf *b, uint32_t id, size_t body)
{
  jitdump_u32(b, id);
  jitdump_u32(b, (uint32_t)(16 + body));
  jitdump_u64(b, 1);
}

static inline void jitdump_load(struct ss_buf *b, uint64_t start, const void *code,
                                size_t size, uint64_t index, const char *name)
{
  size_t name_size = strlen(name) + 1;
  jitdump_prefix(b, 0, 40 + name_size + size);
  jitdump_u32(b, 1);
  jitdump_u32(b, 1);
  jitdump_u64(b, start);
  jitdump_u64(b, start);
  jitdump_u64(b, size);
  jitdump_u64(b, index);
  ss_buf_add(b, name, name_size);
  ss_buf_add(b, code, size);
}

static inline void jitdump_move(struct ss_buf *b, uint64_t from, uint64_t to,
                                uint64_t size, uint64_t index)
{
  jitdump_prefix(b, 1, 48);
  jitdump_u32(b, 1);
  jitdump_u32(b, 1);
  jitdump_u64(b, to);
  jitdump_u64(b, from);
  jitdump_u64(b, to);
  jitdump_u64(b, size);
  jitdump_u64(b, index);
}

/* Unwind information of the code that is written next. */
static inline void jitdump_unwinding(struct ss_buf *b, const void *eh_frame, size_t len)
{
  static const unsigned char hdr[20] = {1};
  jitdump_prefix(b, 4, 24 + len + sizeof hdr);
  jitdump_u64(b, len + sizeof hdr);
  jitdump_u64(b, sizeof hdr);
  jitdump_u64(b, 0);
  ss_buf_add(b, eh_frame, len);
  ss_buf_add(b, hdr, sizeof hdr);
}

/* An .eh_frame of one function of `size` bytes whose call frame instructions are
 * `insns`; it starts with CFA = rsp + 8. */
static inline size_t jitdump_eh_frame(unsigned char *out, uint32_t size,
                                      const unsigned char *insns, uint32_t len)
{
  static const unsigned char cie[] = {
      20,  0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1b, /* pcrel|sdata4 */
      12,  7, 8,                                                      /* rsp + 8 */
      144, 1, 0, 0};                                                  /* RA at CFA - 8 */
  uint32_t entry[4] = {13 + len, sizeof cie + 4, (uint32_t)-64, size};
  size_t at = sizeof cie;
  memcpy(out, cie, at);
  memcpy(out + at, entry, sizeof entry);
  at += sizeof entry;
  out[at++] = 0; /* no augmentation data */
  memcpy(out + at, insns, len);
  at += len;
  memset(out + at, 0, 4); /* the end */
  return at + 4;
}

#endif
