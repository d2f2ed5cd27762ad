/*
 * Growable bytes, growable arrays, and an arena. Low-level: may use only
 * error.h. None is thread-safe.
 */
#ifndef STACKSAMPLE_BUF_H
#define STACKSAMPLE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text or bytes. `data` is NUL-terminated whenever it is not NULL. A failed
 * allocation sets `failed` (sticky) and drops the append. Zero-initialise. */
struct ss_buf {
  char *data; /* owned */
  size_t len;
  size_t cap;
  bool failed;
};

void ss_buf_release(struct ss_buf *buf); /* accepts a zeroed struct */
void ss_buf_clear(struct ss_buf *buf);   /* len = 0, memory kept */
void ss_buf_add(struct ss_buf *buf, const void *bytes, size_t len);
void ss_buf_adds(struct ss_buf *buf, const char *text);
void ss_buf_addc(struct ss_buf *buf, char c);
void ss_buf_addu(struct ss_buf *buf, uint64_t number); /* decimal */
void ss_buf_addf(struct ss_buf *buf, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void ss_buf_vaddf(struct ss_buf *buf, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
/* The decimal digits of a number; returns how many. No NUL. */
enum { SS_DECIMAL_MAX = 20 };
size_t ss_decimal(uint64_t number, char digits[SS_DECIMAL_MAX]);
/* data, or "" when empty: never NULL. */
const char *ss_buf_str(const struct ss_buf *buf);

/* Makes room for `need` elements in the array at `*items` (a pointer of any
 * type, hence void *): doubles `*cap`, checks for overflow, false when out of
 * memory (the array is then unchanged). */
bool ss_grow(void *items, size_t *cap, size_t need, size_t elem_size);

/* Bump allocator; everything is freed at once. Zero-initialise. */
struct ss_arena {
  struct ss_arena_block *head;
  size_t used; /* bytes handed out */
};
void *ss_arena_alloc(struct ss_arena *arena, size_t size); /* 8-aligned, NULL */
char *ss_arena_strndup(struct ss_arena *arena, const char *s, size_t len);
void ss_arena_release(struct ss_arena *arena);

#endif
