/*
 * What to read of a thread at its next sample, decided by what the last merge
 * needed: the thread state, the used part of the newest data-stack chunks, frames
 * outside them (generators; all frames up to 3.10), most recent first, and code that is
 * compared at each sample. Each costs the sampled thread half a microsecond, so what is
 * not met any more goes.
 *
 * A plan is only replaced when it no longer covers what was needed, so that the
 * reader can keep it for many samples.
 */
#include <string.h>

#include "python_priv.h"

enum {
  CHUNK_HEAD = 24,        /* _PyStackChunk: previous, size, top */
  CHUNK_MARGIN = 2048,    /* room for calls deeper than the last */
  CHUNK_STEP = 1024,      /* lengths are multiples of it */
  CHUNK_READ_MAX = 24576, /* bytes read of one chunk, from its top down */
};

#define LOOSE_NS UINT64_C(10000000000)

/* Index of the region with these bytes; the plan's count: none has them. */
static uint32_t region_of(const struct ss_read_plan *plan, uint64_t addr, uint64_t len)
{
  uint32_t i = 0;
  for (; i < plan->count; i++) {
    const struct ss_region *r = &plan->regions[i];
    if (addr >= r->addr && len <= r->len && addr - r->addr <= r->len - len)
      break;
  }
  return i;
}

static bool covered(const struct ss_read_plan *plan, uint64_t addr, uint64_t len)
{
  return region_of(plan, addr, len) < plan->count;
}

/* Used bytes of the newest chunk; its start, 0 where there is none. */
struct chunk {
  uint64_t start, used, size;
};
static struct chunk newest_chunk(const struct ss_py *py, const unsigned char *tstate)
{
  const struct ss_py_layout *l = &py->layout;
  struct chunk c = {0};
  if (l->tstate_chunk == SS_PY_ABSENT)
    return c;
  const uint64_t start = ss_py_u64(tstate, l->tstate_chunk);
  const uint64_t top = ss_py_u64(tstate, l->tstate_chunk_top);
  if (start == 0 || start % 8 != 0 || top < start || top - start > SS_PLAN_BYTES_MAX)
    return c;
  c.start = start;
  c.used = top - start;
  c.size = SS_PLAN_BYTES_MAX;
  return c;
}

static bool older_chunk(const struct ss_py *py, const struct chunk *newer,
                        struct chunk *older)
{
  uint64_t head[3];
  uint64_t start;
  if (!ss_mem_u64(py->space->live, newer->start, &start) || start == 0 ||
      start % 8 != 0 || !ss_mem_get(py->space->live, start, head, sizeof head))
    return false;
  *older = (struct chunk){start, head[2] * 8 + CHUNK_HEAD, head[1]};
  return older->used <= older->size && older->size <= SS_PLAN_BYTES_MAX;
}

/* The upper end is what runs; of a very full chunk the lower part is left out. */
static void add_chunk(struct ss_read_plan *plan, const struct chunk *c, uint64_t margin)
{
  uint64_t len = c->used + margin + CHUNK_STEP - 1;
  len -= len % CHUNK_STEP;
  if (len > c->size)
    len = c->size;
  const uint64_t skip = len > CHUNK_READ_MAX ? len - CHUNK_READ_MAX : 0;
  ss_read_plan_add(plan, c->start + skip, len - skip);
}

static bool is_worn(const struct ss_py *py, const struct ss_py_loose *loose)
{
  return py->now_ns >= loose->met_ns + LOOSE_NS;
}

/* Frames of this merge outside the chunks, most recent first, then those of the
 * merges before it. */
static void note_loose(const struct ss_py *py, struct ss_py_thread *t,
                       const struct ss_read_plan *chunks)
{
  struct ss_py_loose loose[SS_PY_LOOSE_MAX];
  unsigned count = 0;
  for (size_t i = 0; i < py->step_count && count < SS_PY_LOOSE_MAX; i++)
    if (!covered(chunks, py->steps[i].frame, py->layout.frame_need))
      loose[count++] = (struct ss_py_loose){py->steps[i].frame, py->now_ns};
  const unsigned fresh = count;
  for (unsigned i = 0; i < t->loose_count && count < SS_PY_LOOSE_MAX; i++) {
    unsigned k = 0;
    while (k < fresh && loose[k].frame != t->loose[i].frame)
      k++;
    if (k == fresh && !is_worn(py, &t->loose[i]))
      loose[count++] = t->loose[i];
  }
  memcpy(t->loose, loose, count * sizeof *loose);
  t->loose_count = count;
}

/* Frames from the innermost on that the plan reads. */
static size_t frames_covered(const struct ss_py *py, const struct ss_read_plan *plan)
{
  size_t n = 0;
  while (n < py->step_count && covered(plan, py->steps[n].frame, py->layout.frame_need))
    n++;
  return n;
}

/* The same of the thread's plan, whose loose frames are met by that. */
static size_t frames_met(const struct ss_py *py, struct ss_py_thread *t)
{
  size_t n = 0;
  for (; n < py->step_count; n++) {
    const uint32_t i = region_of(&t->plan, py->steps[n].frame, py->layout.frame_need);
    if (i >= t->plan.count)
      break;
    if (i >= t->loose_first && i - t->loose_first < t->loose_count)
      t->loose[i - t->loose_first].met_ns = py->now_ns;
  }
  return n;
}

/* The plan reads what is of no use, or leaves a comparison to a read of its own. */
static bool out_of_date(const struct ss_py *py, const struct ss_py_thread *t)
{
  for (unsigned i = 0; i < t->loose_count; i++)
    if (is_worn(py, &t->loose[i]))
      return true;
  for (unsigned i = 0; i < py->once_count; i++)
    if (!covered(&t->plan, py->once[i], py->layout.code_need))
      return true;
  return false;
}

static void build_plan(struct ss_py *py, struct ss_py_thread *t, uint64_t tstate,
                       const struct chunk *newest, struct ss_read_plan *plan)
{
  struct chunk older;
  ss_read_plan_add(plan, tstate, py->layout.tstate_need);
  if (newest->start != 0 && older_chunk(py, newest, &older))
    add_chunk(plan, &older, 0);
  if (newest->start != 0) /* may be gone by then, which ends the reading */
    add_chunk(plan, newest, CHUNK_MARGIN);
  note_loose(py, t, plan);
  t->loose_first = plan->count;
  for (unsigned i = 0; i < t->loose_count; i++)
    ss_read_plan_add(plan, t->loose[i].frame, py->layout.frame_need);
  for (unsigned i = 0; i < py->once_count; i++)
    ss_read_plan_add(plan, py->once[i], py->layout.code_need);
}

/* The chain of frames from the current one on, and the code of those frames. */
static void set_chase(const struct ss_py *py, const struct ss_py_thread *t,
                      struct ss_chase *c)
{
  enum { FEW = 8, MANY = 48 }; /* outside the data stack; to 3.10 all are */
  enum { BEFORE = 2048, STRING = 192, NAME = 128, TABLE = 512, HEAD = 32 };
  const struct ss_py_layout *l = &py->layout;
  const bool hop = l->cframe_current != SS_PY_ABSENT;
  const bool qualified = l->code_qualname != SS_PY_ABSENT;
  *c = (struct ss_chase){
      .start = t->plan.regions[0].addr + (hop ? l->tstate_cframe : l->tstate_current),
      .hop = hop ? (uint16_t)l->cframe_current : SS_CHASE_NO_HOP,
      .element = (uint16_t)l->frame_need,
      .before = l->tstate_chunk != SS_PY_ABSENT ? BEFORE : 0,
      .elements_max = l->tstate_chunk != SS_PY_ABSENT ? FEW : MANY,
      .next = (uint16_t)l->frame_previous,
      .object = (uint16_t)l->frame_code,
      .tag = l->code_tag,
      .head = (uint16_t)l->code_need,
      .print_at = (uint16_t)l->code_print,
      .pointers = {{(uint16_t)l->code_table, TABLE},
                   {(uint16_t)l->code_filename, STRING},
                   {(uint16_t)(qualified ? l->code_qualname : l->code_name), NAME}},
      .count_at = (uint16_t)l->bytes_size,
      .data_at = (uint16_t)l->bytes_data,
  };
  if (l->code_size == SS_PY_ABSENT) /* the instructions are an object of their own */
    c->pointers[3].at = (uint16_t)l->code_bytes, c->pointers[3].len = HEAD;
  ss_py_tasks_path(py, t, c);
}

bool ss_py_plan(struct ss_py *py, pid_t tid, struct ss_read_plan *plan)
{
  const struct ss_py_thread *t = ss_py_thread_find(py, tid);
  if (!t || t->plan.count == 0)
    return false;
  for (uint32_t i = 0; i < t->plan.count; i++)
    ss_read_plan_add(plan, t->plan.regions[i].addr, t->plan.regions[i].len);
  if (py->seen)
    set_chase(py, t, &plan->chase);
  return true;
}

bool ss_py_plan_look(struct ss_py *py, pid_t tid, struct ss_read_plan *plan)
{
  if (!ss_py_plan(py, tid, plan))
    return false;
  const uint64_t gil = ss_py_gil_address(py, py->space->live, ss_py_thread_find(py, tid));
  if (gil != 0)
    ss_read_plan_add(plan, gil, py->layout.gil_need);
  return true;
}

uint64_t ss_py_plan_generation(struct ss_py *py, pid_t tid)
{
  const struct ss_py_thread *t = ss_py_thread_find(py, tid);
  return t ? t->generation : 0;
}

void ss_py_plan_update(struct ss_py *py, struct ss_py_thread *t, uint64_t tstate,
                       const unsigned char *bytes)
{
  struct ss_read_plan plan = {0};
  const struct chunk newest = newest_chunk(py, bytes);
  const bool same = t->plan.count > 0 && t->plan.regions[0].addr == tstate;
  const bool top = newest.start == 0 || covered(&t->plan, newest.start + newest.used, 0);
  const size_t had = frames_met(py, t);
  const bool worn = out_of_date(py, t);
  if (same && top && had == py->step_count && !worn)
    return;
  build_plan(py, t, tstate, &newest, &plan);
  if (same && top && frames_covered(py, &plan) <= had && !worn)
    return;
  t->plan = plan;
  t->generation = ++py->generation;
}
