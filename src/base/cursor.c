/*
 * The bounded reader: what is longer than a few instructions.
 */
#include "stacksample/cursor.h"

#include <string.h>

struct ss_cursor ss_cursor_sub(const struct ss_cursor *c, size_t off, size_t len)
{
  size_t total = ss_cursor_offset(c) + c->left;

  if (off > total || len > total - off) {
    struct ss_cursor bad = {.start = c->start, .cur = c->start, .failed = true};
    return bad;
  }
  /* Adding 0 to a NULL pointer is undefined in C. */
  return ss_cursor_init(off == 0 ? c->start : c->start + off, len);
}

/* Bits of a group past the 64th carry no value where they repeat the sign (0
 * of an unsigned number): padding. Anything else does not fit. */
static bool group_fits(uint64_t value, unsigned shift, uint8_t group, bool is_signed)
{
  uint8_t fill = is_signed && value >> 63 != 0 ? 0x7f : 0;

  if (shift < 63)
    return true;
  return shift == 63 ? group >> 1 == fill >> 1 : group == fill;
}

static uint64_t leb_groups(struct ss_cursor *c, bool is_signed)
{
  uint64_t value = 0;
  unsigned shift = 0;
  uint8_t byte;

  do {
    byte = ss_read_u8(c);
    uint8_t group = byte & 0x7f;
    if (shift < 64)
      value |= (uint64_t)group << shift;
    if (!group_fits(value, shift, group, is_signed))
      c->failed = true;
    if (c->failed)
      return 0;
    if (shift < 70) /* stays there: a long padding cannot overflow it */
      shift += 7;
  } while ((byte & 0x80) != 0);
  if (is_signed && shift < 64 && (byte & 0x40) != 0)
    value |= UINT64_MAX << shift;
  return value;
}

uint64_t ss_read_uleb(struct ss_cursor *c)
{
  return leb_groups(c, false);
}

int64_t ss_read_sleb(struct ss_cursor *c)
{
  return (int64_t)leb_groups(c, true);
}

const char *ss_read_cstr(struct ss_cursor *c)
{
  const unsigned char *nul = c->left > 0 ? memchr(c->cur, 0, c->left) : NULL;

  if (nul == NULL) {
    c->failed = true;
    return NULL;
  }
  return (const char *)ss_read_bytes(c, (size_t)(nul - c->cur) + 1);
}
