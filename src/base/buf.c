/*
 * Growable bytes and arrays, and the arena. Sizes are checked for overflow
 * before any of them reaches the allocator.
 */
#include "stacksample/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ss_buf_release(struct ss_buf *buf)
{
  free(buf->data);
  memset(buf, 0, sizeof *buf);
}

void ss_buf_clear(struct ss_buf *buf)
{
  buf->len = 0;
  buf->failed = false;
  if (buf->data != NULL)
    buf->data[0] = '\0';
}

/* Room for `more` bytes and the NUL. */
static bool reserve(struct ss_buf *buf, size_t more)
{
  if (buf->failed)
    return false;
  if (more >= SIZE_MAX - buf->len ||
      !ss_grow(&buf->data, &buf->cap, buf->len + more + 1, 1))
    buf->failed = true;
  return !buf->failed;
}

void ss_buf_add(struct ss_buf *buf, const void *bytes, size_t len)
{
  if (!reserve(buf, len))
    return;
  if (len > 0)
    memcpy(buf->data + buf->len, bytes, len);
  buf->len += len;
  buf->data[buf->len] = '\0';
}

void ss_buf_adds(struct ss_buf *buf, const char *text)
{
  ss_buf_add(buf, text, strlen(text));
}

void ss_buf_addc(struct ss_buf *buf, char c)
{
  ss_buf_add(buf, &c, 1);
}

size_t ss_decimal(uint64_t number, char digits[SS_DECIMAL_MAX])
{
  char reversed[SS_DECIMAL_MAX];
  size_t n = 0;

  do
    reversed[n++] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  for (size_t i = 0; i < n; i++)
    digits[i] = reversed[n - 1 - i];
  return n;
}

void ss_buf_addu(struct ss_buf *buf, uint64_t number)
{
  char digits[SS_DECIMAL_MAX];

  ss_buf_add(buf, digits, ss_decimal(number, digits));
}

void ss_buf_addf(struct ss_buf *buf, const char *fmt, ...)
{
  va_list ap;

  va_start(ap, fmt);
  ss_buf_vaddf(buf, fmt, ap);
  va_end(ap);
}

void ss_buf_vaddf(struct ss_buf *buf, const char *fmt, va_list ap)
{
  va_list measure;
  int need;

  va_copy(measure, ap);
  need = vsnprintf(NULL, 0, fmt, measure);
  va_end(measure);
  if (need < 0) {
    buf->failed = true;
    return;
  }
  if (!reserve(buf, (size_t)need))
    return;
  vsnprintf(buf->data + buf->len, (size_t)need + 1, fmt, ap);
  buf->len += (size_t)need;
}

const char *ss_buf_str(const struct ss_buf *buf)
{
  return buf->data != NULL ? buf->data : "";
}

bool ss_grow(void *items, size_t *cap, size_t need, size_t elem_size)
{
  size_t want = *cap > 0 ? *cap : 16;
  size_t bytes;
  void *old, *grown;

  if (need <= *cap)
    return true;
  while (want < need) {
    if (want > SIZE_MAX / 2)
      return false;
    want *= 2;
  }
  if (__builtin_mul_overflow(want, elem_size, &bytes))
    return false;
  /* Through memcpy: *items has the caller's pointer type, not void *. */
  memcpy(&old, items, sizeof old);
  grown = realloc(old, bytes);
  if (grown == NULL)
    return false;
  memcpy(items, &grown, sizeof grown);
  *cap = want;
  return true;
}

enum { ARENA_BLOCK_BYTES = 64 * 1024, ARENA_ALIGN = 8 };

struct ss_arena_block {
  struct ss_arena_block *next;
  size_t used, size; /* of data */
  unsigned char data[];
};

static struct ss_arena_block *add_block(struct ss_arena *arena, size_t size)
{
  struct ss_arena_block *block = malloc(sizeof *block + size);

  if (block == NULL)
    return NULL;
  block->used = 0;
  block->size = size;
  /* A block for one big item goes behind the head, which may have room yet. */
  if (size > ARENA_BLOCK_BYTES && arena->head != NULL) {
    block->next = arena->head->next;
    arena->head->next = block;
  } else {
    block->next = arena->head;
    arena->head = block;
  }
  return block;
}

void *ss_arena_alloc(struct ss_arena *arena, size_t size)
{
  struct ss_arena_block *block = arena->head;

  if (size > SIZE_MAX / 2)
    return NULL;
  size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
  if (block == NULL || size > block->size - block->used) {
    block = add_block(arena, size > ARENA_BLOCK_BYTES ? size : ARENA_BLOCK_BYTES);
    if (block == NULL)
      return NULL;
  }
  void *at = block->data + block->used;
  block->used += size;
  arena->used += size;
  return at;
}

char *ss_arena_strndup(struct ss_arena *arena, const char *s, size_t len)
{
  char *copy = len < SIZE_MAX ? ss_arena_alloc(arena, len + 1) : NULL;

  if (copy == NULL)
    return NULL;
  if (len > 0)
    memcpy(copy, s, len);
  copy[len] = '\0';
  return copy;
}

void ss_arena_release(struct ss_arena *arena)
{
  struct ss_arena_block *block = arena->head;

  while (block != NULL) {
    struct ss_arena_block *next = block->next;
    free(block);
    block = next;
  }
  arena->head = NULL;
  arena->used = 0;
}
