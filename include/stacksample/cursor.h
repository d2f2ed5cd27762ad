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

struct ss_cursor ss_cursor_init(const void *bytes, size_t len);
/* A cursor over [off, off+len) of `c`'s whole input; failed if outside it. */
struct ss_cursor ss_cursor_sub(const struct ss_cursor *c, size_t off, size_t len);
size_t ss_cursor_offset(const struct ss_cursor *c); /* from start */

uint8_t ss_read_u8(struct ss_cursor *c);
uint16_t ss_read_u16(struct ss_cursor *c);
uint32_t ss_read_u32(struct ss_cursor *c);
uint64_t ss_read_u64(struct ss_cursor *c);
uint64_t ss_read_uleb(struct ss_cursor *c); /* more than 64 bits: failed */
int64_t ss_read_sleb(struct ss_cursor *c);
/* Borrowed pointer to the next `len` bytes, or NULL and failed. */
const unsigned char *ss_read_bytes(struct ss_cursor *c, size_t len);
/* Borrowed NUL-terminated string (the NUL is consumed), or NULL and failed. */
const char *ss_read_cstr(struct ss_cursor *c);
void ss_skip(struct ss_cursor *c, size_t len);

#endif
