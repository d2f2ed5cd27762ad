/*
 * Follows a list at the moment of a sample. Elements come from what was read already,
 * else one by one from the process; the objects that are not vouched for are read
 * together: first their heads, then what these point to, then the rest of what has
 * a length of its own.
 *
 * Runs while the sampled thread waits for its CPU: no allocation, and in the usual
 * case, where all objects are known, no system call.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "proc_priv.h"
#include "stacksample/chase.h"
#include "stacksample/hash.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

enum {
  STEPS_MAX = 128,  /* elements looked at, innermost first */
  OBJECTS_MAX = 32, /* whose heads are read */
  NEW_MAX = 24,     /* of them, with what they point to */
  RETRIES = 4,      /* of a list of reads of which one failed */
  PAGE = 4096,
  TEXT = 128,   /* bytes of a text's beginning */
  HOP_MAX = 64, /* bytes before the last pointers of a path */
  HEAD_MAX = 256,
};
_Static_assert(sizeof(struct ss_chase) == SS_CHASE_WORDS * sizeof(uint64_t),
               "stage 1 copies it word by word");

/* ---- what is known --------------------------------------------------------- */

/* A slot: 23 bits of the object's hash, whether it lasts, 16 bits of its print's hash,
 * 24 bits of until when, in units of 2^24 ns (which come again after three days). */
enum { SLOTS = 1 << 15, UNTIL_BITS = 24, PRINT_BITS = 16, UNIT_SHIFT = 24 };
enum { LASTS_AT = UNTIL_BITS + PRINT_BITS, OBJECT_AT = LASTS_AT + 1 };
struct ss_seen {
  _Atomic uint64_t slots[SLOTS];
};

struct ss_seen *ss_seen_new(void)
{
  return calloc(1, sizeof(struct ss_seen));
}

void ss_seen_free(struct ss_seen *seen)
{
  free(seen);
}

static uint64_t seen_hash(pid_t pid, uint64_t addr)
{
  const uint64_t x = (addr >> 3 ^ (uint64_t)pid << 44) * UINT64_C(0x9e3779b97f4a7c15);
  return (x ^ x >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
}

static uint64_t object_part(uint64_t hash)
{
  return hash >> OBJECT_AT;
}

static uint64_t until_part(uint64_t ns)
{
  return ns >> UNIT_SHIFT & ((UINT64_C(1) << UNTIL_BITS) - 1);
}

static uint64_t print_part(uint64_t print)
{
  return print * UINT64_C(0x9e3779b97f4a7c15) >> (64 - PRINT_BITS);
}

static uint64_t slot_of(const struct ss_seen *seen, uint64_t hash)
{
  return atomic_load_explicit(&seen->slots[hash % SLOTS], memory_order_relaxed);
}

void ss_seen_mark(struct ss_seen *seen, pid_t pid, uint64_t addr, uint64_t print,
                  uint64_t until_ns, bool lasting)
{
  const uint64_t hash = seen_hash(pid, addr);
  const uint64_t slot = object_part(hash) << OBJECT_AT | (uint64_t)lasting << LASTS_AT |
                        print_part(print) << UNTIL_BITS | until_part(until_ns);
  atomic_store_explicit(&seen->slots[hash % SLOTS], slot, memory_order_relaxed);
}

enum ss_seen_state ss_seen_look(const struct ss_seen *seen, pid_t pid, uint64_t addr,
                                uint64_t now_ns)
{
  const uint64_t hash = seen_hash(pid, addr), slot = slot_of(seen, hash);
  if (slot >> OBJECT_AT != object_part(hash))
    return SS_SEEN_NEVER;
  const uint64_t until = slot & ((UINT64_C(1) << UNTIL_BITS) - 1);
  return until > until_part(now_ns) ? SS_SEEN_LATELY : SS_SEEN_BEFORE;
}

bool ss_seen_confirm(struct ss_seen *seen, pid_t pid, uint64_t addr, uint64_t print,
                     uint64_t now_ns)
{
  const uint64_t hash = seen_hash(pid, addr), slot = slot_of(seen, hash);
  if (slot >> OBJECT_AT != object_part(hash) ||
      (slot >> UNTIL_BITS & ((UINT64_C(1) << PRINT_BITS) - 1)) != print_part(print))
    return false;
  if ((slot >> LASTS_AT & 1) != 0) {
    uint64_t was = slot; /* else stage 2 knows something newer */
    atomic_compare_exchange_strong_explicit(&seen->slots[hash % SLOTS], &was,
                                            slot >> UNTIL_BITS << UNTIL_BITS |
                                                until_part(now_ns + SS_SEEN_NS),
                                            memory_order_relaxed, memory_order_relaxed);
  }
  return true;
}

/* ---- reading ---------------------------------------------------------------- */

struct chase {
  const struct ss_chase *c;
  const struct ss_mem *known;
  pid_t pid;
  unsigned elements; /* read one by one */
  struct ss_chased *out;
};

static void *remote(uint64_t addr)
{
  void *at;
  memcpy(&at, &addr, sizeof at);
  return at;
}

static bool room_for(const struct ss_chased *out, uint32_t len)
{
  return out->count < SS_CHASE_REGIONS && len <= SS_CHASE_BYTES - out->len;
}

static uint32_t queue_read(struct iovec *far, uint32_t count, uint32_t *sum,
                           const struct chase *k, uint64_t addr, uint32_t len)
{
  for (uint32_t i = 0; i < count; i++)
    if (far[i].iov_base == remote(addr))
      return count; /* modules share file names */
  if (addr == 0 || k->out->count + count >= SS_CHASE_REGIONS ||
      len > SS_CHASE_BYTES - k->out->len - *sum)
    return count;
  far[count] = (struct iovec){remote(addr), len};
  *sum += len;
  return count + 1;
}

/* Reads a list; what cannot be read is left out, what can in part is shorter. */
static void run_reads(struct chase *k, const struct iovec *far, uint32_t count)
{
  struct ss_chased *out = k->out;
  for (unsigned tries = 0; count > 0 && tries <= RETRIES; tries++) {
    struct iovec local = {out->bytes + out->len, SS_CHASE_BYTES - out->len};
    ssize_t got = ss_process_vm_readv(k->pid, &local, 1, far, count);
    uint32_t i = 0;
    for (; got > 0 && i < count; i++) {
      const uint32_t len =
          (size_t)got < far[i].iov_len ? (uint32_t)got : (uint32_t)far[i].iov_len;
      out->regions[out->count++] =
          (struct ss_region){(uint64_t)(uintptr_t)far[i].iov_base, len};
      out->len += len;
      got -= (ssize_t)len;
      if (len < far[i].iov_len) { /* its last byte in reach: the rest is another page */
        i++;
        break;
      }
    }
    if (i == 0)
      i = 1; /* nothing at all of the first */
    far += i;
    count -= i;
  }
}

static bool read_one(struct chase *k, uint64_t addr, void *buf, uint32_t len)
{
  const uint32_t in_page = (uint32_t)(addr % PAGE);
  const uint32_t before = in_page < k->c->before ? in_page : k->c->before;
  if (k->elements++ >= k->c->elements_max || !room_for(k->out, before + len))
    return false;
  const uint32_t at = k->out->len;
  const struct iovec far = {remote(addr - before), before + len};
  run_reads(k, &far, 1);
  if (k->out->len - at < before + len)
    return false;
  memcpy(buf, k->out->bytes + at + before, len);
  return true;
}

/* From what this chase has read. */
static bool from_chased(const struct chase *k, uint64_t addr, void *buf, uint32_t len)
{
  const unsigned char *bytes = k->out->bytes;
  for (uint32_t i = 0; i < k->out->count; i++) {
    const struct ss_region *r = &k->out->regions[i];
    if (addr >= r->addr && addr - r->addr <= r->len && len <= r->len - (addr - r->addr)) {
      memcpy(buf, bytes + (addr - r->addr), len);
      return true;
    }
    bytes += r->len;
  }
  return false;
}

static bool element(struct chase *k, uint64_t addr, unsigned char *buf, uint32_t len)
{
  return addr != 0 && addr % 8 == 0 &&
         (ss_mem_get(k->known, addr, buf, len) || from_chased(k, addr, buf, len) ||
          read_one(k, addr, buf, len));
}

static uint64_t word(const unsigned char *bytes, size_t at)
{
  uint64_t value;
  memcpy(&value, bytes + at, sizeof value);
  return value;
}

/* ---- the chase -------------------------------------------------------------- */

struct objects {
  uint64_t all[OBJECTS_MAX];
  uint64_t fresh[NEW_MAX]; /* of them those never seen before, or not as they are now */
  bool never[OBJECTS_MAX];
  uint32_t count, fresh_count;
};

static void add_object(struct objects *o, uint64_t object, enum ss_seen_state state)
{
  for (uint32_t i = 0; i < o->count; i++)
    if (o->all[i] == object)
      return;
  if (o->count >= OBJECTS_MAX)
    return;
  o->never[o->count] = state == SS_SEEN_NEVER;
  o->all[o->count++] = object;
}

/* Elements, and the objects that nobody vouches for. */
static void follow(struct chase *k, const struct ss_seen *seen, uint64_t now_ns,
                   struct objects *objects)
{
  unsigned char bytes[UINT8_MAX + 1];
  uint64_t at;
  if (k->c->element > sizeof bytes || k->c->next + 8u > k->c->element ||
      k->c->object + 8u > k->c->element || !element(k, k->c->start, bytes, 8))
    return;
  at = word(bytes, 0);
  if (k->c->hop != SS_CHASE_NO_HOP) {
    if (!element(k, at + k->c->hop, bytes, 8))
      return;
    at = word(bytes, 0);
  }
  for (unsigned n = 0; n < STEPS_MAX && element(k, at, bytes, k->c->element); n++) {
    const uint64_t object = word(bytes, k->c->object) & ~(uint64_t)k->c->tag;
    const enum ss_seen_state state = object != 0 && object % 8 == 0
                                         ? ss_seen_look(seen, k->pid, object, now_ns)
                                         : SS_SEEN_LATELY;
    if (state != SS_SEEN_LATELY)
      add_object(objects, object, state);
    at = word(bytes, k->c->next);
  }
}

/* Bytes that were read at `addr`; NULL: fewer than `len`. */
static const unsigned char *chased(const struct ss_chased *out, uint64_t addr,
                                   uint32_t len)
{
  const unsigned char *bytes = out->bytes;
  for (uint32_t i = 0; i < out->count; i++) {
    if (out->regions[i].addr == addr && out->regions[i].len >= len)
      return bytes;
    bytes += out->regions[i].len;
  }
  return NULL;
}

/* From what was read for the sample, or by this chase. */
static bool head_of(const struct chase *k, uint64_t object, unsigned char *head)
{
  return ss_mem_get(k->known, object, head, k->c->head) ||
         from_chased(k, object, head, k->c->head);
}

static void read_heads(struct chase *k, struct ss_seen *seen, uint64_t now_ns,
                       struct objects *o)
{
  struct iovec far[OBJECTS_MAX];
  unsigned char head[HEAD_MAX];
  uint32_t n = 0, sum = 0;
  for (uint32_t i = 0; i < o->count; i++)
    if (!ss_mem_holds(k->known, o->all[i], k->c->head))
      n = queue_read(far, n, &sum, k, o->all[i], k->c->head);
  run_reads(k, far, n);
  for (uint32_t i = 0; i < o->count && o->fresh_count < NEW_MAX; i++)
    if (head_of(k, o->all[i], head) &&
        (o->never[i] ||
         !ss_seen_confirm(seen, k->pid, o->all[i], word(head, k->c->print_at), now_ns)))
      o->fresh[o->fresh_count++] = o->all[i];
}

static void read_pointers(struct chase *k, const uint64_t *objects, uint32_t count)
{
  struct iovec far[SS_CHASE_REGIONS];
  unsigned char head[HEAD_MAX];
  uint32_t n = 0, sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    const bool known = head_of(k, objects[i], head);
    for (unsigned p = 0; known && p < SS_CHASE_POINTERS; p++)
      if (k->c->pointers[p].len > 0 && k->c->pointers[p].at + 8u <= k->c->head)
        n = queue_read(far, n, &sum, k, word(head, k->c->pointers[p].at),
                       k->c->pointers[p].len);
  }
  run_reads(k, far, n);
}

static void read_rests(struct chase *k, const uint64_t *objects, uint32_t count)
{
  const uint32_t had = k->c->pointers[0].len;
  struct iovec far[NEW_MAX];
  unsigned char head[HEAD_MAX];
  uint32_t n = 0, sum = 0;
  for (uint32_t i = 0; i < count && k->c->count_at + 8u <= had; i++) {
    if (!head_of(k, objects[i], head))
      continue;
    const uint64_t at = word(head, k->c->pointers[0].at);
    const unsigned char *counted = chased(k->out, at, had);
    if (!counted)
      continue;
    const uint64_t whole = word(counted, k->c->count_at);
    if (whole < SS_CHASE_BYTES && whole + k->c->data_at > had)
      n = queue_read(far, n, &sum, k, at + had, (uint32_t)(whole + k->c->data_at - had));
  }
  run_reads(k, far, n);
}

/* ---- the path ---------------------------------------------------------------- */

/* Bytes that were read already, else read now. */
static bool fetch(struct chase *k, uint64_t addr, void *buf, uint32_t len)
{
  if (addr == 0 || addr % 8 != 0)
    return false;
  if (ss_mem_get(k->known, addr, buf, len) || from_chased(k, addr, buf, len))
    return true;
  if (!room_for(k->out, len))
    return false;
  const struct iovec far = {remote(addr), len};
  run_reads(k, &far, 1);
  return from_chased(k, addr, buf, len);
}

/* Where the object may be: one place, or behind hops two. */
static uint32_t follow_path(struct chase *k, const struct ss_chase_path *p,
                            uint64_t places[2])
{
  uint64_t at;
  if (!fetch(k, p->start, &at, sizeof at))
    return 0;
  places[0] = at & ~(uint64_t)k->c->tag;
  if (p->hops[0] == SS_CHASE_NO_HOP)
    return 1;
  if (!fetch(k, places[0] + p->hops[0], &at, sizeof at))
    return 0;
  if (p->hops[1] == SS_CHASE_NO_HOP) {
    places[0] = at;
    return 1;
  }
  unsigned char last[HOP_MAX + 2 * sizeof *places]; /* from its head on: its type */
  if (p->hops[1] > HOP_MAX ||
      !fetch(k, at, last, p->hops[1] + 2 * (uint32_t)sizeof *places))
    return 0;
  memcpy(places, last + p->hops[1], 2 * sizeof *places);
  return 2;
}

static void run_path(struct chase *k, const struct ss_chase_path *p)
{
  struct iovec far[2];
  uint64_t places[2] = {0};
  uint32_t n = 0, sum = 0;
  if (p->start == 0 || p->text_at + 8u > p->len)
    return;
  const uint32_t count = follow_path(k, p, places);
  for (uint32_t i = 0; i < count; i++)
    if (places[i] % 8 == 0)
      n = queue_read(far, n, &sum, k, places[i], p->len);
  run_reads(k, far, n);
  n = sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    const unsigned char *object = chased(k->out, places[i], p->len);
    const uint64_t text = object ? word(object, p->text_at) : 0;
    if (text % 8 == 0)
      n = queue_read(far, n, &sum, k, text, TEXT);
  }
  run_reads(k, far, n);
}

void ss_chase_run(const struct ss_chase *c, pid_t pid, const struct ss_mem *known,
                  struct ss_seen *seen, uint64_t now_ns, struct ss_chased *out)
{
  struct chase k = {.c = c, .known = known, .pid = pid, .out = out};
  struct objects objects = {.count = 0};
  out->count = out->len = 0;
  if (c->start == 0 || c->head > HEAD_MAX || c->print_at + 8u > c->head ||
      c->pointers[0].at + 8u > c->head)
    return;
  follow(&k, seen, now_ns, &objects);
  run_path(&k, &c->path);
  read_heads(&k, seen, now_ns, &objects);
  read_pointers(&k, objects.fresh, objects.fresh_count);
  read_rests(&k, objects.fresh, objects.fresh_count);
}
