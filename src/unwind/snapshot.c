/*
 * A copied stack with the live, deeper part behind it.
 *
 * The thread runs on while its snapshot is unwound, so bytes beyond the copy may
 * belong to another moment. They are fetched together with the copy's last
 * 256 bytes, and believed only while these are unchanged: a thread that
 * returned below the copy's end and called again has most often written there. A
 * frame that begins before these bytes and ends behind the copy is another matter:
 * they are some of its variables, which nobody needs to have written to. What lies
 * outside the stack (of a signal's, the thread's own) is read live without a check. Of
 * both the walk asks, and labels the frame.
 */
#include "stacksample/limits.h"
#include "unwind_priv.h"

#define OVERLAP SS_STACK_OVERLAP
#define FIRST_FETCH 16384
#define RED_ZONE 128 /* psABI 3.2.2: below sp the copy has nothing */

/* Makes room for `want` bytes behind the copy. */
static bool reserve_more(struct ss_snapshot *s, size_t want)
{
  if (want <= s->more_cap)
    return true;
  unsigned char *grown = realloc(s->more, want);
  if (grown == NULL)
    return false;
  s->more = grown;
  s->more_cap = want;
  return true;
}

/* Fetches the live bytes [sp+len, sp+len+want), checked by the overlap. */
static void fetch_more(struct ss_snapshot *s, size_t want)
{
  size_t overlap = s->len < OVERLAP ? s->len : OVERLAP;
  uint64_t end = s->sp + s->len;
  if (s->stack_end > end && want > s->stack_end - end)
    want = (size_t)(s->stack_end - end);
  if (want > SS_STACK_READ_MAX)
    want = SS_STACK_READ_MAX;
  if (want <= s->more_len || !reserve_more(s, want + overlap))
    return;
  size_t got = ss_mem_read(s->live, end - overlap, s->more, want + overlap);
  if (got < overlap ||
      (overlap > 0 && memcmp(s->more, s->bytes + (s->len - overlap), overlap) != 0)) {
    s->stale = true;
    s->more_len = 0;
    return;
  }
  memmove(s->more, s->more + overlap, got - overlap);
  s->more_len = got - overlap;
}

/* Were the captured bytes read while the thread still stood where it was
 * sampled? They must overlap the copy's end and be equal there. */
static bool captured_fits(struct ss_snapshot *s)
{
  unsigned char overlap[OVERLAP];
  if (s->captured == NULL || s->len < OVERLAP)
    return false;
  if (s->captured_state == SS_CAPTURED_UNTRIED) {
    const unsigned char *end = s->bytes + s->len;
    bool same = ss_mem_get(s->captured, s->sp + s->len - OVERLAP, overlap, OVERLAP) &&
                memcmp(overlap, end - OVERLAP, OVERLAP) == 0;
    s->captured_state = same ? SS_CAPTURED_GOOD : SS_CAPTURED_BAD;
  }
  return s->captured_state == SS_CAPTURED_GOOD;
}

static size_t read_live(struct ss_snapshot *s, size_t off, void *buf, size_t len)
{
  if (s->live == NULL || s->stale)
    return 0;
  if (off + len > s->more_len) {
    size_t want = s->more_len == 0 ? FIRST_FETCH : s->more_len * 4;
    fetch_more(s, want > off + len ? want : off + len);
  }
  if (off >= s->more_len)
    return 0;
  size_t n = s->more_len - off < len ? s->more_len - off : len;
  memcpy(buf, s->more + off, n);
  return n;
}

/* Bytes behind the copy, from the offset `off` behind its end. */
static size_t read_more(struct ss_snapshot *s, size_t off, void *buf, size_t len)
{
  uint64_t addr = s->sp + s->len + off;
  if (captured_fits(s) && ss_mem_get(s->captured, addr, buf, len))
    return len;
  size_t got = read_live(s, off, buf, len);
  if (got < len && (s->missed == 0 || addr + got < s->missed))
    s->missed = addr + got;
  return got;
}

static bool beyond_stack(const struct ss_snapshot *s, uint64_t addr)
{
  if (addr < s->sp)
    return s->sp - addr > RED_ZONE;
  if (s->stack_end > s->sp)
    return addr >= s->stack_end;
  return addr - s->sp >= s->len + SS_STACK_READ_MAX;
}

static size_t snapshot_read(const struct ss_mem *mem, uint64_t addr, void *buf,
                            size_t len)
{
  /* The cache of fetched bytes changes, the memory it stands for does not. */
  struct ss_snapshot *s = (struct ss_snapshot *)(uintptr_t)mem;
  if (beyond_stack(s, addr)) {
    if (s->captured != NULL && ss_mem_get(s->captured, addr, buf, len))
      return len;
    return s->live == NULL ? 0 : ss_mem_read(s->live, addr, buf, len);
  }
  if (addr < s->sp || len > SS_STACK_READ_MAX)
    return 0;
  uint64_t off = addr - s->sp;
  size_t got = 0;
  if (off < s->len) { /* else there may be no copy at all */
    got = s->len - (size_t)off < len ? s->len - (size_t)off : len;
    memcpy(buf, s->bytes + off, got);
    off += got;
  }
  if (got < len)
    got += read_more(s, (size_t)(off - s->len), (char *)buf + got, len - got);
  return got;
}

void ss_snapshot_init(struct ss_snapshot *s, uint64_t sp, const void *bytes, size_t len,
                      const struct ss_mem *live, uint64_t stack_end)
{
  *s = (struct ss_snapshot){.mem = {.read = snapshot_read},
                            .sp = sp,
                            .bytes = bytes,
                            .len = sp + len < sp ? 0 : len,
                            .live = live,
                            .stack_end = stack_end};
}

void ss_snapshot_release(struct ss_snapshot *s)
{
  free(s->more);
  s->more = NULL;
  s->more_len = s->more_cap = 0;
}

const struct ss_snapshot *ss_snapshot_of(const struct ss_mem *mem)
{
  return mem->read == snapshot_read ? (const struct ss_snapshot *)mem : NULL;
}

uint64_t ss_snapshot_late_from(const struct ss_mem *mem)
{
  const struct ss_snapshot *s = ss_snapshot_of(mem);
  return s != NULL && s->more_len > 0 ? s->sp + s->len : 0;
}

bool ss_snapshot_is_late(const struct ss_mem *mem, uint64_t sp, uint64_t cfa)
{
  struct ss_snapshot *s = (struct ss_snapshot *)(uintptr_t)ss_snapshot_of(mem);
  const uint64_t slot = cfa - 8;
  uint64_t word;
  if (s == NULL || s->len < OVERLAP)
    return false;
  const uint64_t end = s->sp + s->len;
  if (beyond_stack(s, slot))
    return s->captured == NULL || !ss_mem_u64(s->captured, slot, &word);
  return slot >= end && sp < end - OVERLAP &&
         !(captured_fits(s) && ss_mem_u64(s->captured, slot, &word));
}

bool ss_snapshot_is_stale(const struct ss_mem *mem)
{
  const struct ss_snapshot *s = ss_snapshot_of(mem);
  return s != NULL && s->stale;
}
