/*
 * Line tables of code objects, decoded once into a sorted array: co_lnotab (up
 * to 3.9), co_linetable (3.10, PEP 626), location table (3.11 on). The formats
 * are those of CPython's Objects/lnotab_notes.txt and Objects/locations.md.
 *
 * Pure functions of (bytes, len). Offsets are bytes of code. A table that makes
 * no sense gives an error and no lines, never a guess.
 */
#include <stdlib.h>

#include "python_priv.h"
#include "stacksample/cursor.h"

enum {
  LINETABLE_NO_LINE = -128, /* 3.10: range without a line */
  CODE_UNIT = 2,            /* bytes */
};
/* Kinds of location entries from 10 on; below, the short forms. */
enum { LOC_ONE_LINE0 = 10, LOC_ONE_LINE2 = 12, LOC_NO_COLUMNS, LOC_LONG, LOC_NONE };

void ss_py_lines_release(struct ss_py_lines *lines)
{
  free(lines->items);
  *lines = (struct ss_py_lines){0};
}

/* The range of `bytes` from lines->end on has `line`. */
static enum ss_err add_range(struct ss_py_lines *lines, uint32_t bytes, int64_t line)
{
  if (bytes == 0)
    return SS_ERR_OK;
  if (line > INT32_MAX || line < INT32_MIN || lines->end > UINT32_MAX - bytes)
    return SS_ERR_FORMAT;
  const int32_t shown = line > 0 ? (int32_t)line : 0;
  if (lines->count == 0 || lines->items[lines->count - 1].line != shown) {
    if (!ss_grow(&lines->items, &lines->cap, lines->count + 1, sizeof *lines->items))
      return SS_ERR_NOMEM;
    lines->items[lines->count++] = (struct ss_py_line){lines->end, shown};
  }
  lines->end += bytes;
  return SS_ERR_OK;
}

/* Pairs (bytes to skip, signed lines to add *after* them). */
static enum ss_err decode_lnotab(struct ss_py_lines *lines, struct ss_cursor *c,
                                 int64_t line)
{
  enum ss_err err = SS_ERR_OK;
  while (c->left >= 2 && err == SS_ERR_OK) {
    err = add_range(lines, ss_read_u8(c), line);
    line += (int8_t)ss_read_u8(c);
  }
  if (err == SS_ERR_OK && c->left != 0)
    err = SS_ERR_FORMAT;
  /* The last line goes on to the end of the code. */
  if (err == SS_ERR_OK)
    err = add_range(lines, UINT32_MAX - lines->end, line);
  return err;
}

/* Pairs (bytes, signed lines to add *before* them). */
static enum ss_err decode_linetable(struct ss_py_lines *lines, struct ss_cursor *c,
                                    int64_t line)
{
  enum ss_err err = SS_ERR_OK;
  while (c->left >= 2 && err == SS_ERR_OK) {
    const uint8_t bytes = ss_read_u8(c);
    const int8_t delta = (int8_t)ss_read_u8(c);
    if (delta != LINETABLE_NO_LINE)
      line += delta;
    err = add_range(lines, bytes, delta == LINETABLE_NO_LINE ? 0 : line);
  }
  return err == SS_ERR_OK && c->left != 0 ? SS_ERR_FORMAT : err;
}

/* Six bits a byte, lowest first; bit 6: more follow. */
static uint32_t read_varint(struct ss_cursor *c)
{
  uint64_t value = 0;
  for (unsigned shift = 0; shift <= 30; shift += 6) {
    const uint8_t byte = ss_read_u8(c);
    value |= (uint64_t)(byte & 63) << shift;
    if (!(byte & 64)) {
      if (value > UINT32_MAX)
        break;
      return (uint32_t)value;
    }
  }
  c->failed = true;
  return 0;
}

static int64_t read_signed_varint(struct ss_cursor *c)
{
  const uint32_t value = read_varint(c);
  return value & 1 ? -(int64_t)(value >> 1) : (int64_t)(value >> 1);
}

/* Reads what follows the first byte; lines to add. */
static int64_t read_location(struct ss_cursor *c, unsigned kind)
{
  int64_t delta = 0;
  switch (kind) {
  case LOC_NONE:
    break;
  case LOC_LONG:
    delta = read_signed_varint(c);
    for (int i = 0; i < 3; i++) /* end line, columns */
      read_varint(c);
    break;
  case LOC_NO_COLUMNS:
    delta = read_signed_varint(c);
    break;
  default:
    if (kind >= LOC_ONE_LINE0) {
      delta = (int64_t)kind - LOC_ONE_LINE0;
      ss_skip(c, 2);
    } else {
      ss_skip(c, 1);
    }
  }
  return delta;
}

static enum ss_err decode_locations(struct ss_py_lines *lines, struct ss_cursor *c,
                                    int64_t line)
{
  enum ss_err err = SS_ERR_OK;
  while (c->left > 0 && err == SS_ERR_OK) {
    const uint8_t head = ss_read_u8(c);
    if (!(head & 0x80))
      return SS_ERR_FORMAT;
    const unsigned kind = (head >> 3) & 15;
    line += read_location(c, kind);
    if (c->failed)
      return SS_ERR_FORMAT;
    const uint32_t bytes = ((head & 7u) + 1) * CODE_UNIT;
    err = add_range(lines, bytes, kind == LOC_NONE ? 0 : line);
  }
  return err;
}

enum ss_err ss_py_lines_decode(struct ss_py_lines *lines, enum ss_py_table format,
                               const void *bytes, size_t len, int first_line)
{
  static enum ss_err (*const decoders[])(struct ss_py_lines *, struct ss_cursor *,
                                         int64_t) = {
      [SS_PY_LNOTAB] = decode_lnotab,
      [SS_PY_LINETABLE] = decode_linetable,
      [SS_PY_LOCATIONS] = decode_locations,
  };
  lines->count = 0;
  lines->end = 0;
  if (len > SS_PY_TABLE_MAX)
    return SS_ERR_LIMIT;
  struct ss_cursor c = ss_cursor_init(bytes, len);
  const enum ss_err err = decoders[format](lines, &c, first_line);
  if (err != SS_ERR_OK)
    ss_py_lines_release(lines);
  return err;
}

int ss_py_lines_find(const struct ss_py_lines *lines, uint32_t offset)
{
  if (lines->count == 0 || offset >= lines->end)
    return 0;
  size_t lo = 0, hi = lines->count; /* items[lo].start <= offset */
  while (hi - lo > 1) {
    const size_t mid = lo + (hi - lo) / 2;
    if (lines->items[mid].start <= offset)
      lo = mid;
    else
      hi = mid;
  }
  return lines->items[lo].line;
}
