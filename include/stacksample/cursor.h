/*
 * The one way to read bytes that somebody else wrote (ELF, .eh_frame, perf
 * records, line tables, perf maps). A cursor never moves past its end: the
 * first read that would sets `failed`, later reads return 0, so a parse loop
 * needs a single check at its end. Little-endian, as every supported target.
 */
#ifndef STACKSAMPLE_CURSOR_H
#define STACKSAMPLE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ss_cursor {
  const unsigned char *start; /* borrowed */
  const unsigned char *cur;
  size_t left; /* bytes from cur to the end */
  bool failed; /* sticky */
};

/* A cursor over [off, off+len) of `c`'s whole input; failed if outside it. */
struct ss_cursor ss_cursor_sub(const struct ss_cursor *c, size_t off, size_t len);
uint64_t ss_read_uleb(struct ss_cursor *c); /* more than 64 bits: failed */
int64_t ss_read_sleb(struct ss_cursor *c);
/* Borrowed NUL-terminated string (the NUL is consumed), or NULL and failed. */
const char *ss_read_cstr(struct ss_cursor *c);

/* The rest is here to be inlined: a sample's record alone is 30 reads, twice. */

static inline struct ss_cursor ss_cursor_init(const void *bytes, size_t len)
{
  struct ss_cursor c = {.start = bytes, .cur = bytes, .left = len};

  return c;
}

static inline size_t ss_cursor_offset(const struct ss_cursor *c) /* from start */
{
  return c->cur == c->start ? 0 : (size_t)(c->cur - c->start);
}

/* Borrowed pointer to the next `len` bytes, or NULL and failed. The only place that
 * moves a cursor, so the only one where a bound is checked. What is left stays where it
 * is: a diagnostic can still name the offset. */
static inline const unsigned char *ss_read_bytes(struct ss_cursor *c, size_t len)
{
  const unsigned char *at = c->cur;

  if (c->failed || len > c->left) {
    c->failed = true;
    return NULL;
  }
  if (len > 0) { /* adding 0 to a NULL pointer is undefined in C */
    c->cur += len;
    c->left -= len;
  }
  return at;
}

static inline void ss_skip(struct ss_cursor *c, size_t len)
{
  (void)ss_read_bytes(c, len);
}

static inline uint64_t ss_read_little_endian(struct ss_cursor *c, size_t size)
{
  const unsigned char *at = ss_read_bytes(c, size);
  uint64_t value = 0;

  if (at == NULL)
    return 0;
  for (size_t i = 0; i < size; i++)
    value |= (uint64_t)at[i] << (8 * i);
  return value;
}

static inline uint8_t ss_read_u8(struct ss_cursor *c)
{
  return (uint8_t)ss_read_little_endian(c, 1);
}

static inline uint16_t ss_read_u16(struct ss_cursor *c)
{
  return (uint16_t)ss_read_little_endian(c, 2);
}

static inline uint32_t ss_read_u32(struct ss_cursor *c)
{
  return (uint32_t)ss_read_little_endian(c, 4);
}

static inline uint64_t ss_read_u64(struct ss_cursor *c)
{
  return ss_read_little_endian(c, 8);
}

#endif
