/*
 * Hash tables over keys that a hostile target may choose: both hash functions
 * are keyed with random numbers drawn once per process, so collisions cannot
 * be prepared. Byte strings use SipHash-1-3 (Aumasson and Bernstein, 2012).
 */
#include "stacksample/hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "stacksample/sys.h"

static uint64_t seed[2];
static pthread_once_t seeded = PTHREAD_ONCE_INIT;

static void draw_seed(void)
{
  if (getrandom(seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
    return;
  /* Early at boot, or a sandbox without getrandom: weaker, but it works. */
  seed[0] = ss_now_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)(uintptr_t)&seed;
  seed[1] = ss_wall_ns() * 0xc2b2ae3d27d4eb4fu ^ (uint64_t)ss_gettid();
}

static const uint64_t *get_seed(void)
{
  pthread_once(&seeded, draw_seed);
  return seed;
}

static uint64_t rotate(uint64_t x, unsigned bits)
{
  return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
  v[0] += v[1];
  v[2] += v[3];
  v[1] = rotate(v[1], 13) ^ v[0];
  v[3] = rotate(v[3], 16) ^ v[2];
  v[0] = rotate(v[0], 32);
  v[2] += v[1];
  v[0] += v[3];
  v[1] = rotate(v[1], 17) ^ v[2];
  v[3] = rotate(v[3], 21) ^ v[0];
  v[2] = rotate(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
  v[3] ^= word;
  sip_round(v);
  v[0] ^= word;
}

uint64_t ss_hash_bytes(const void *bytes, size_t len)
{
  const uint64_t *key = get_seed();
  const unsigned char *at = bytes;
  uint64_t word, last = (uint64_t)len << 56;
  uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
                   key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u};

  for (; len >= 8; len -= 8, at += 8) {
    memcpy(&word, at, 8);
    sip_word(v, word);
  }
  for (size_t i = 0; i < len; i++)
    last |= (uint64_t)at[i] << (8 * i);
  sip_word(v, last);
  v[2] ^= 0xff;
  for (int i = 0; i < 3; i++)
    sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t ss_hash_u64(uint64_t key)
{
  const uint64_t *s = get_seed();

  key = (key ^ s[0]) * 0x9e3779b97f4a7c15u;
  key = (key ^ key >> 32) * (s[1] | 1);
  return key ^ key >> 29;
}

/* ---- u64 -> u64 ------------------------------------------------------------ */

enum slot_state { SLOT_EMPTY, SLOT_LIVE, SLOT_DELETED };

struct ss_idmap_slot {
  uint64_t key;
  uint64_t value;
};

/* One byte a slot, behind the slots in the same allocation. */
static unsigned char *slot_states(const struct ss_idmap *map)
{
  return (unsigned char *)(map->slots + map->cap);
}

void ss_idmap_release(struct ss_idmap *map)
{
  free(map->slots);
  memset(map, 0, sizeof *map);
}

/* Index of `key`'s slot, or `cap`. Linear probing; there is always an empty
 * slot, as tombstones count as used. */
static size_t find_slot(const struct ss_idmap *map, uint64_t key)
{
  if (map->cap == 0)
    return 0;
  const unsigned char *states = slot_states(map);
  size_t mask = map->cap - 1;
  size_t i = (size_t)ss_hash_u64(key) & mask;
  while (states[i] != SLOT_EMPTY) {
    if (states[i] == SLOT_LIVE && map->slots[i].key == key)
      return i;
    i = (i + 1) & mask;
  }
  return map->cap;
}

/* `key` must be absent and the table have an empty slot. */
static void insert_new(struct ss_idmap *map, uint64_t key, uint64_t value)
{
  unsigned char *states = slot_states(map);
  size_t mask = map->cap - 1;
  size_t i = (size_t)ss_hash_u64(key) & mask;

  while (states[i] == SLOT_LIVE)
    i = (i + 1) & mask;
  if (states[i] == SLOT_EMPTY)
    map->used++;
  states[i] = SLOT_LIVE;
  map->slots[i].key = key;
  map->slots[i].value = value;
  map->count++;
}

/* A fresh table of `cap` slots with the live entries; drops the tombstones. */
static bool rehash(struct ss_idmap *map, size_t cap)
{
  struct ss_idmap fresh = {.cap = cap};
  uint64_t key, value;
  size_t pos = 0;

  if (cap > SIZE_MAX / (sizeof *map->slots + 1))
    return false;
  fresh.slots = calloc(cap, sizeof *map->slots + 1);
  if (fresh.slots == NULL)
    return false;
  while (ss_idmap_next(map, &pos, &key, &value))
    insert_new(&fresh, key, value);
  ss_idmap_release(map);
  *map = fresh;
  return true;
}

uint64_t *ss_idmap_get(const struct ss_idmap *map, uint64_t key)
{
  size_t i = find_slot(map, key);

  return i < map->cap ? &map->slots[i].value : NULL;
}

bool ss_idmap_put(struct ss_idmap *map, uint64_t key, uint64_t value)
{
  uint64_t *old = ss_idmap_get(map, key);

  if (old != NULL) {
    *old = value;
    return true;
  }
  if (map->used + 1 > map->cap - map->cap / 4) {
    size_t cap = map->count * 2 + 1 > map->cap ? map->cap * 2 : map->cap;
    if (!rehash(map, cap > 0 ? cap : 16))
      return false;
  }
  insert_new(map, key, value);
  return true;
}

bool ss_idmap_add(struct ss_idmap *map, uint64_t key, uint64_t n)
{
  uint64_t *sum = ss_idmap_get(map, key);

  if (sum == NULL)
    return ss_idmap_put(map, key, n);
  *sum += n;
  return true;
}

bool ss_idmap_del(struct ss_idmap *map, uint64_t key)
{
  size_t i = find_slot(map, key);

  if (i >= map->cap)
    return false;
  slot_states(map)[i] = SLOT_DELETED;
  map->count--;
  return true;
}

bool ss_idmap_next(const struct ss_idmap *map, size_t *pos, uint64_t *key,
                   uint64_t *value)
{
  for (; *pos < map->cap; (*pos)++) {
    if (slot_states(map)[*pos] != SLOT_LIVE)
      continue;
    *key = map->slots[*pos].key;
    *value = map->slots[*pos].value;
    (*pos)++;
    return true;
  }
  return false;
}

/* ---- interner --------------------------------------------------------------- */

struct ss_interned {
  const char *text;
  size_t len;
  uint32_t next; /* id + 1 of the next string with the same hash; 0: none */
};

void ss_interner_release(struct ss_interner *in)
{
  ss_arena_release(&in->arena);
  ss_idmap_release(&in->index);
  free(in->strings);
  memset(in, 0, sizeof *in);
}

static uint32_t find_hashed(const struct ss_interner *in, uint64_t hash,
                            const void *bytes, size_t len)
{
  const uint64_t *first = ss_idmap_get(&in->index, hash);
  uint32_t next = first != NULL ? (uint32_t)*first : 0;

  while (next != 0) {
    const struct ss_interned *s = &in->strings[next - 1];
    if (s->len == len && (len == 0 || memcmp(s->text, bytes, len) == 0))
      return next - 1;
    next = s->next;
  }
  return SS_ID_NONE;
}

uint32_t ss_intern_find(const struct ss_interner *in, const void *bytes, size_t len)
{
  return find_hashed(in, ss_hash_bytes(bytes, len), bytes, len);
}

uint32_t ss_intern(struct ss_interner *in, const void *bytes, size_t len)
{
  uint64_t hash = ss_hash_bytes(bytes, len);
  uint32_t id = find_hashed(in, hash, bytes, len);

  if (id != SS_ID_NONE)
    return id;
  if (in->count >= SS_ID_NONE - 1 ||
      !ss_grow(&in->strings, &in->cap, in->count + 1, sizeof *in->strings))
    return SS_ID_NONE;
  const uint64_t *first = ss_idmap_get(&in->index, hash);
  struct ss_interned *s = &in->strings[in->count];
  s->next = first != NULL ? (uint32_t)*first : 0;
  s->len = len;
  s->text = ss_arena_strndup(&in->arena, bytes, len);
  if (s->text == NULL || !ss_idmap_put(&in->index, hash, in->count + 1))
    return SS_ID_NONE;
  return (uint32_t)in->count++;
}

const char *ss_interned_str(const struct ss_interner *in, uint32_t id, size_t *len)
{
  const struct ss_interned *s = &in->strings[id];

  if (len != NULL)
    *len = s->len;
  return s->text;
}
