/*
 * Hash tables with a per-process random seed (keys come from the target and
 * may be chosen to collide). Two shapes: by 64-bit key and by byte string.
 */
#ifndef STACKSAMPLE_HASH_H
#define STACKSAMPLE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/buf.h"

uint64_t ss_hash_bytes(const void *bytes, size_t len); /* seeded */
uint64_t ss_hash_u64(uint64_t key);                    /* seeded */

/* u64 -> u64. Zero-initialise. Values are opaque (an index, a pointer). */
struct ss_idmap {
  struct ss_idmap_slot *slots;
  size_t cap;   /* power of two, or 0 */
  size_t count; /* live entries */
  size_t used;  /* live entries and tombstones */
};
void ss_idmap_release(struct ss_idmap *map);
/* Pointer to the value of `key`, or NULL; valid until the next put/del. */
uint64_t *ss_idmap_get(const struct ss_idmap *map, uint64_t key);
/* Sets it; false when out of memory. */
bool ss_idmap_put(struct ss_idmap *map, uint64_t key, uint64_t value);
/* Adds to its value, 0 where there was none. */
bool ss_idmap_add(struct ss_idmap *map, uint64_t key, uint64_t n);
bool ss_idmap_del(struct ss_idmap *map, uint64_t key); /* false: was absent */
/* Iterates: start with *pos = 0; false at the end. Order is arbitrary. */
bool ss_idmap_next(const struct ss_idmap *map, size_t *pos, uint64_t *key,
                   uint64_t *value);

/* Interner: byte strings -> dense ids 0, 1, 2, ... Strings are copied into an
 * arena, NUL-terminated, and stay where they are until release. */
struct ss_interner {
  struct ss_arena arena;
  struct ss_idmap index;       /* hash -> first id + 1 */
  struct ss_interned *strings; /* id -> string */
  size_t count;
  size_t cap;
};
#define SS_ID_NONE UINT32_MAX
void ss_interner_release(struct ss_interner *in);
/* Id of the string, added if new; SS_ID_NONE when out of memory. */
uint32_t ss_intern(struct ss_interner *in, const void *bytes, size_t len);
/* Id, or SS_ID_NONE where it is not known. */
uint32_t ss_intern_find(const struct ss_interner *in, const void *bytes, size_t len);
/* The string of an id below count; `len` may be NULL. */
const char *ss_interned_str(const struct ss_interner *in, uint32_t id, size_t *len);

#endif
