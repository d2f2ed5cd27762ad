/*
 * The tables that make samples small: frames and stacks with dense ids, and
 * the totals that make the end of a run fast. Equal rows are one row; nothing
 * is ever removed. A full table refuses instead of growing without bound.
 *
 * Memory: a trie node is 12 bytes and its share of the index, 5 to 11.
 */
#include <stdlib.h>

#include "store_priv.h"

enum { SLOTS_FIRST = 1024 };

typedef uint64_t hash_fn(const void *row);
typedef bool same_fn(const void *a, const void *b);

static const void *row_at(const void *rows, uint32_t id, size_t size)
{
  return (const unsigned char *)rows + (size_t)id * size;
}

static bool grow_slots(struct ss_index *index, const void *rows, size_t size,
                       hash_fn *hash)
{
  size_t n = index->n_slots > 0 ? index->n_slots * 2 : SLOTS_FIRST;
  uint32_t *slots = calloc(n, sizeof *slots);

  if (slots == NULL)
    return false;
  for (uint32_t id = 0; id < index->count; id++) {
    size_t i = (size_t)hash(row_at(rows, id, size)) & (n - 1);
    while (slots[i] != 0)
      i = (i + 1) & (n - 1);
    slots[i] = id + 1;
  }
  free(index->slots);
  index->slots = slots;
  index->n_slots = n;
  return true;
}

/* `rows` is the address of the array's pointer. Inlined into each table's add,
 * so that hash and comparison become part of the loop. */
__attribute__((always_inline)) static inline uint32_t put(struct ss_index *index,
                                                          void *rows, size_t size,
                                                          const void *row, hash_fn *hash,
                                                          same_fn *same)
{
  void *array;

  memcpy(&array, rows, sizeof array);
  if (index->count >= index->n_slots - index->n_slots / 4 &&
      !grow_slots(index, array, size, hash))
    return SS_ID_NONE;
  size_t mask = index->n_slots - 1;
  size_t i = (size_t)hash(row) & mask;
  for (; index->slots[i] != 0; i = (i + 1) & mask)
    if (same(row_at(array, index->slots[i] - 1, size), row))
      return index->slots[i] - 1;
  if ((index->max > 0 && index->count >= index->max) ||
      !ss_grow(rows, &index->cap, index->count + 1, size))
    return SS_ID_NONE;
  memcpy(&array, rows, sizeof array);
  memcpy((unsigned char *)array + index->count * size, row, size);
  index->slots[i] = (uint32_t)++index->count;
  return index->slots[i] - 1;
}

static void release(struct ss_index *index, void *rows)
{
  free(rows);
  free(index->slots);
  memset(index, 0, sizeof *index);
}

static uint64_t pair(uint32_t a, uint32_t b)
{
  return (uint64_t)a << 32 | b;
}

/* ---- frames ------------------------------------------------------------------- */

/* The name of a native frame is found later, from module and offset; only
 * code without a module (JIT) is known by its name. */
static uint32_t key_name(const struct ss_frame_row *r)
{
  return r->kind == SS_FRAME_NATIVE && r->module != SS_ID_NONE ? SS_ID_NONE : r->name;
}

static uint64_t frame_hash(const void *row)
{
  const struct ss_frame_row *r = row;
  uint64_t h = ss_hash_u64(pair(key_name(r), r->file));

  h = ss_hash_u64(h + pair((uint32_t)r->first_line, r->module));
  return ss_hash_u64(h + r->offset * 8 + (uint64_t)r->kind * 2 + r->exact);
}

static bool frame_same(const void *x, const void *y)
{
  const struct ss_frame_row *a = x, *b = y;

  return a->kind == b->kind && key_name(a) == key_name(b) && a->file == b->file &&
         a->first_line == b->first_line && a->module == b->module &&
         a->offset == b->offset && a->exact == b->exact;
}

uint32_t ss_frames_add(struct ss_frames *f, const struct ss_frame_row *row)
{
  return put(&f->index, &f->rows, sizeof *row, row, frame_hash, frame_same);
}

void ss_frames_release(struct ss_frames *f)
{
  release(&f->index, f->rows);
  f->rows = NULL;
}

/* ---- stacks --------------------------------------------------------------------- */

static uint64_t stack_hash(const void *row)
{
  const struct ss_stack_row *r = row;

  return ss_hash_u64(pair(r->parent, r->frame) ^ (uint64_t)(uint32_t)r->line << 17);
}

static bool stack_same(const void *x, const void *y)
{
  const struct ss_stack_row *a = x, *b = y;

  return a->parent == b->parent && a->frame == b->frame && a->line == b->line;
}

uint32_t ss_trie_add(struct ss_trie *t, const struct ss_stack_row *row)
{
  return put(&t->index, &t->rows, sizeof *row, row, stack_hash, stack_same);
}

void ss_trie_release(struct ss_trie *t)
{
  release(&t->index, t->rows);
  t->rows = NULL;
}

/* ---- totals ----------------------------------------------------------------------- */

static uint32_t how(const struct ss_total *t)
{
  return (uint32_t)t->state << 24 | (uint32_t)t->end << 16 | (uint32_t)t->method << 8 |
         t->merge;
}

static uint64_t total_hash(const void *row)
{
  const struct ss_total *t = row;

  return ss_hash_u64(ss_hash_u64(pair(t->thread, t->phase)) + pair(t->stack, how(t)));
}

static bool total_same(const void *x, const void *y)
{
  const struct ss_total *a = x, *b = y;

  return a->stack == b->stack && a->thread == b->thread && a->phase == b->phase &&
         how(a) == how(b);
}

uint32_t ss_totals_add(struct ss_totals *t, const struct ss_total *add)
{
  size_t before = t->index.count;
  uint32_t id = put(&t->index, &t->rows, sizeof *add, add, total_hash, total_same);

  if (id < before) {
    t->rows[id].samples += add->samples;
    t->rows[id].weight_ns += add->weight_ns;
  }
  return id;
}

void ss_totals_release(struct ss_totals *t)
{
  release(&t->index, t->rows);
  t->rows = NULL;
}

struct ss_total ss_total_of(const struct ss_sample_row *row)
{
  struct ss_total t = {
      .thread = row->thread,
      .phase = row->phase,
      .stack = row->stack,
      .state = row->state,
      .end = row->end,
      .method = row->method,
      .merge = row->merge,
      .samples = row->samples > 0 ? row->samples : 1,
      .weight_ns = row->weight_ns,
  };

  return t;
}

/* ---- the ledger's times ---------------------------------------------------------- */

static uint64_t time_hash(const void *row)
{
  const struct ss_time_row *r = row;

  return ss_hash_u64(ss_hash_u64(pair(r->thread, r->phase)) + r->state);
}

static bool time_same(const void *x, const void *y)
{
  const struct ss_time_row *a = x, *b = y;

  return a->thread == b->thread && a->phase == b->phase && a->state == b->state;
}

uint32_t ss_times_add(struct ss_times *t, const struct ss_time_row *add)
{
  size_t before = t->index.count;
  uint32_t id = put(&t->index, &t->rows, sizeof *add, add, time_hash, time_same);

  if (id < before)
    t->rows[id].ns += add->ns;
  return id;
}

void ss_times_release(struct ss_times *t)
{
  release(&t->index, t->rows);
  t->rows = NULL;
}
