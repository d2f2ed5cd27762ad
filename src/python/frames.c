/*
 * The chain of frames of a thread state, cut into activations of the evaluation
 * function. What an activation ends with is data of the layout: the frame's flag
 * is_entry (3.11), an entry_frame on the C stack (3.12 on), or each frame (to
 * 3.10). Bounded and iterative; the chain is the target's memory.
 *
 * Frames on the C stack are read from the snapshot, so everything from the first
 * anchor outwards is as it was at the sample.
 */
#include <string.h>

#include "python_priv.h"

enum { WALK_MAX = 1 << 17 };                /* frames followed, kept or not (R35) */
#define ENTRY_TRUST_NS UINT64_C(1000000000) /* None, or an object that stays */
enum { OWNER_THREAD = 0, OWNER_GENERATOR = 1 };

/* ---- memory -------------------------------------------------------------- */

static bool on_stack(const struct ss_py_view *view, uint64_t addr)
{
  return view->stack && addr >= view->stack_lo && addr < view->stack_hi;
}

bool ss_py_view_exact(const struct ss_py_view *view, uint64_t addr, size_t len)
{
  return on_stack(view, addr) || ss_mem_holds(view->mem, addr, len);
}

/* Frames lie close together: one read of a block instead of one for each. */
static bool read_block(struct ss_py_view *view, uint64_t addr, void *buf, size_t len)
{
  const uint64_t block = addr & ~(uint64_t)(SS_PY_BLOCK - 1);
  if (view->block_len == 0 || view->block_addr != block) {
    view->block_addr = block;
    view->block_len = ss_mem_read(view->mem, block, view->block, SS_PY_BLOCK);
  }
  const size_t at = (size_t)(addr - block);
  if (at + len > view->block_len)
    return ss_mem_get(view->mem, addr, buf, len);
  memcpy(buf, view->block + at, len);
  return true;
}

bool ss_py_view_read(struct ss_py_view *view, uint64_t addr, void *buf, size_t len)
{
  if (on_stack(view, addr))
    return ss_mem_get(view->stack, addr, buf, len);
  if (ss_mem_holds(view->mem, addr, len))
    return ss_mem_get(view->mem, addr, buf, len);
  return read_block(view, addr, buf, len);
}

/* ---- one frame ----------------------------------------------------------- */

bool ss_py_frame_read(const struct ss_py *py, struct ss_py_view *view, uint64_t addr,
                      struct ss_py_frame *frame)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_frame];
  if (addr == 0 || addr % 8 != 0 || !ss_py_view_read(view, addr, bytes, l->frame_need))
    return false;
  frame->addr = addr;
  frame->code = ss_py_u64(bytes, l->frame_code) & ~(uint64_t)l->code_tag;
  frame->previous = ss_py_u64(bytes, l->frame_previous);
  frame->instr = l->frame_instr != SS_PY_ABSENT ? ss_py_u64(bytes, l->frame_instr) : 0;
  frame->lasti =
      l->frame_lasti != SS_PY_ABSENT ? (int32_t)ss_py_u32(bytes, l->frame_lasti) : 0;
  frame->tlbc = l->frame_tlbc != SS_PY_ABSENT ? ss_py_u32(bytes, l->frame_tlbc) : 0;
  frame->owner = l->frame_owner != SS_PY_ABSENT ? bytes[l->frame_owner] : OWNER_THREAD;
  frame->entry = l->frame_entry != SS_PY_ABSENT && bytes[l->frame_entry] != 0;
  return true;
}

/* Free-threaded 3.14 on: each thread may run its own copy of the instructions
 * (_PyCodeArray {size; char *entries[]}). */
static uint64_t instructions_of(const struct ss_py *py, struct ss_py_view *view,
                                const struct ss_py_frame *frame, uint64_t start)
{
  uint64_t array, size, copy;
  if (frame->tlbc == 0 || py->layout.code_tlbc == SS_PY_ABSENT)
    return start;
  if (ss_mem_u64(view->mem, frame->code + py->layout.code_tlbc, &array) &&
      ss_mem_u64(view->mem, array, &size) && frame->tlbc < size &&
      ss_mem_u64(view->mem, array + 8 + 8 * (uint64_t)frame->tlbc, &copy))
    return copy;
  return 0;
}

/* Offset of the current instruction; false: it lies outside the code. One unit
 * before the first: the frame has not started. */
static bool frame_offset(const struct ss_py *py, struct ss_py_view *view,
                         const struct ss_py_frame *frame,
                         const struct ss_py_code_entry *entry, int64_t *offset)
{
  const unsigned unit = py->layout.lasti_unit;
  if (unit != 0)
    *offset = (int64_t)frame->lasti * unit;
  else
    *offset = (int64_t)(frame->instr - instructions_of(py, view, frame, entry->start));
  return *offset >= -2 && *offset < (int64_t)entry->size;
}

/* Code that runs once (a module's, what exec() got) may be freed before it is looked
 * at. Its frame is as good as the others where its bytes came with the sample: that
 * its activation ends at its anchor shows that the chain is real. */
static bool code_was_freed(const struct ss_py *py, struct ss_py_view *view,
                           const struct ss_py_frame *frame)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_code];
  const bool entering = py->step_count == 0 && l->anchor == SS_PY_ANCHOR_CFRAME;
  return l->boundary == SS_PY_BOUNDARY_OWNER && !entering && frame->code != 0 &&
         frame->code % 8 == 0 && ss_py_view_exact(view, frame->addr, l->frame_need) &&
         ss_mem_get(view->mem, frame->code, bytes, l->code_need);
}

bool ss_py_step_of(struct ss_py *py, struct ss_py_view *view,
                   const struct ss_py_frame *frame, struct ss_py_step *step)
{
  static const struct ss_py_code freed = {0, "<freed code>", "?", 0, false};
  int64_t offset = 0;
  if (frame->owner != OWNER_THREAD && frame->owner != OWNER_GENERATOR)
    return false;
  struct ss_py_code_entry *entry = ss_py_code_at(py, view->mem, frame->code);
  if (entry && !frame_offset(py, view, frame, entry, &offset))
    entry = NULL; /* another object lies there now */
  if (!entry && !code_was_freed(py, view, frame))
    return false;
  *step = (struct ss_py_step){entry ? entry->code : &freed, frame->addr, 0,
                              frame->owner == OWNER_GENERATOR};
  if (entry && py->step_count < SS_PY_FRAMES_MAX)
    step->line =
        offset < 0 ? step->code->first_line : ss_py_code_line(entry, (uint32_t)offset);
  return true;
}

bool ss_py_step_add(struct ss_py *py, struct ss_py_view *view,
                    const struct ss_py_frame *frame)
{
  struct ss_py_step step;
  if (!ss_py_step_of(py, view, frame, &step))
    return false;
  struct ss_py_segment *segment = &py->segments[py->segment_count - 1];
  if (!ss_py_view_exact(view, frame->addr, py->layout.frame_need))
    segment->late = true;
  if (py->step_count >= SS_PY_FRAMES_MAX) {
    py->deep = true; /* the innermost are kept */
    return true;
  }
  if (!ss_grow(&py->steps, &py->step_cap, py->step_count + 1, sizeof *py->steps))
    return false;
  py->steps[py->step_count++] = step;
  segment->count++;
  return true;
}

/* ---- the chain ----------------------------------------------------------- */

static bool segment_begin(struct ss_py *py)
{
  if (!ss_grow(&py->segments, &py->segment_cap, py->segment_count + 1,
               sizeof *py->segments))
    return false;
  py->segments[py->segment_count++] = (struct ss_py_segment){.first = py->step_count};
  return true;
}

static void segment_close(struct ss_py *py, uint64_t anchor, uint64_t behind)
{
  struct ss_py_segment *s = &py->segments[py->segment_count - 1];
  s->closed = true;
  s->anchor = anchor;
  s->behind = behind;
}

/* Does the last segment need to be dropped: it was begun for nothing. */
static void segment_drop_empty(struct ss_py *py)
{
  const struct ss_py_segment *s = &py->segments[py->segment_count - 1];
  if (!s->closed && s->count == 0)
    py->segment_count--;
}

struct cframe {
  uint64_t addr, current, previous;
};
static bool cframe_read(const struct ss_py *py, struct ss_py_view *view, uint64_t addr,
                        struct cframe *c)
{
  const struct ss_py_layout *l = &py->layout;
  unsigned char bytes[SS_PY_MAX_cframe];
  if (addr == 0 || addr % 8 != 0 || !ss_py_view_read(view, addr, bytes, l->cframe_need))
    return false;
  c->addr = addr;
  c->current = ss_py_u64(bytes, l->cframe_current);
  c->previous = ss_py_u64(bytes, l->cframe_previous);
  return true;
}

/* 3.12 on: entry_frames are members of the chain. False: it broke. */
static bool walk_owner(struct ss_py *py, struct ss_py_view *view, uint64_t frame,
                       uint64_t base_frame)
{
  struct ss_py_frame f;
  if (!segment_begin(py))
    return false;
  for (unsigned n = 0; frame != 0 && frame != base_frame; n++) {
    if (n == WALK_MAX || !ss_py_frame_read(py, view, frame, &f) ||
        f.owner > py->layout.owner_max)
      return false;
    frame = f.previous;
    if (f.owner == py->layout.entry_owner) {
      ss_py_vouch(py, f.code, 0, py->now_ns + ENTRY_TRUST_NS, false);
      segment_close(py, f.addr, f.previous);
      if (!segment_begin(py))
        return false;
    } else if (f.owner < py->layout.entry_owner && !ss_py_step_add(py, view, &f)) {
      return false;
    }
  }
  segment_drop_empty(py);
  return true;
}

/* One activation of 3.11: the frame with the flag is its outermost. */
static void walk_activation(struct ss_py *py, struct ss_py_view *view, uint64_t frame,
                            uint64_t anchor, unsigned *steps)
{
  struct ss_py_frame f = {0};
  while (!f.entry) {
    if ((*steps)++ >= WALK_MAX || !ss_py_frame_read(py, view, frame, &f) ||
        !ss_py_step_add(py, view, &f))
      return;
    frame = f.previous;
  }
  segment_close(py, anchor, frame);
}

/* 3.11: whose current frame is which, the chain of _PyCFrames in the snapshot
 * says (`frame` instead for the first, where not 0). One that breaks (its
 * activation is just being set up) stays open. */
static void walk_cframes(struct ss_py *py, struct ss_py_view *view, uint64_t cframe,
                         uint64_t root, uint64_t frame)
{
  struct cframe c;
  unsigned steps = 0, n = 0;
  while (cframe != root && n++ < WALK_MAX && segment_begin(py)) {
    if (!cframe_read(py, view, cframe, &c))
      return;
    walk_activation(py, view, frame != 0 ? frame : c.current, c.addr, &steps);
    frame = 0;
    if (c.previous <= cframe && c.previous != root)
      return; /* the stack grows downwards: not a chain */
    cframe = c.previous;
  }
}

/* Up to 3.10: each frame object is an activation of its own. */
static void walk_objects(struct ss_py *py, struct ss_py_view *view, uint64_t frame)
{
  struct ss_py_frame f;
  for (unsigned n = 0; frame != 0 && n < WALK_MAX && segment_begin(py); n++) {
    if (!ss_py_frame_read(py, view, frame, &f) || !ss_py_step_add(py, view, &f))
      return;
    segment_close(py, frame, f.previous);
    frame = f.previous;
  }
}

static uint64_t field(const unsigned char *bytes, uint32_t offset)
{
  return offset != SS_PY_ABSENT ? ss_py_u64(bytes, offset) : 0;
}

static uint64_t root_of(const struct ss_py *py, uint64_t tstate)
{
  return tstate + py->layout.tstate_root_cframe;
}

static bool no_frames_since(const struct ss_py *py, size_t segment)
{
  for (size_t i = segment; i < py->segment_count; i++)
    if (py->segments[i].count > 0)
      return false;
  return true;
}

/* 3.12: an activation that is just being set up has a _PyCFrame without a
 * current frame yet; the one before it is whole. */
static void walk_owner_cframe(struct ss_py *py, struct ss_py_view *view, uint64_t cframe,
                              uint64_t root, uint64_t frame)
{
  struct cframe c;
  for (int tries = 0; tries < 2 && cframe != root; tries++) {
    const size_t before = py->segment_count;
    if (!cframe_read(py, view, cframe, &c)) {
      segment_begin(py);
      return;
    }
    if (walk_owner(py, view, frame != 0 ? frame : c.current, 0) ||
        !no_frames_since(py, before))
      return;
    py->segment_count = before;
    segment_begin(py); /* stays open */
    cframe = c.previous;
    frame = 0;
  }
}

void ss_py_walk_at(struct ss_py *py, struct ss_py_view *view, uint64_t tstate,
                   const unsigned char *bytes, uint64_t cframe, uint64_t frame)
{
  const struct ss_py_layout *l = &py->layout;
  if (l->boundary == SS_PY_BOUNDARY_EACH)
    walk_objects(py, view, frame);
  else if (l->boundary == SS_PY_BOUNDARY_FLAG)
    walk_cframes(py, view, cframe, root_of(py, tstate), frame);
  else if (l->anchor == SS_PY_ANCHOR_CFRAME)
    walk_owner_cframe(py, view, cframe, root_of(py, tstate), frame);
  else
    walk_owner(py, view, frame, field(bytes, l->tstate_base_frame));
}

void ss_py_walk(struct ss_py *py, struct ss_py_view *view, uint64_t tstate,
                const unsigned char *bytes)
{
  const struct ss_py_layout *l = &py->layout;
  const bool by_cframe = l->cframe_current != SS_PY_ABSENT;
  ss_py_walk_at(py, view, tstate, bytes, field(bytes, l->tstate_cframe),
                by_cframe ? 0 : field(bytes, l->tstate_current));
}

bool ss_py_walk_behind(struct ss_py *py, struct ss_py_view *view,
                       const unsigned char *bytes, uint64_t anchor)
{
  const struct ss_py_layout *l = &py->layout;
  struct ss_py_frame f;
  if (!ss_py_frame_read(py, view, anchor, &f) || f.owner != l->entry_owner)
    return false;
  walk_owner(py, view, f.previous, field(bytes, l->tstate_base_frame));
  return true;
}

/* False: a thread state is gone. */
static bool walk_thread(struct ss_py *py, struct ss_py_view *view,
                        const struct ss_py_thread *t, uint64_t *tstate,
                        unsigned char *bytes)
{
  for (unsigned i = 0; i < t->count; i++) {
    if (!ss_py_tstate_read(py, view->mem, t->tstate[i], t->ns_tid, bytes))
      return false;
    *tstate = t->tstate[i];
    py->chased = py->seen && !py->space->still &&
                 ss_mem_holds(view->mem, *tstate, py->layout.tstate_need);
    ss_py_walk(py, view, *tstate, bytes);
  }
  return true;
}

struct ss_py_thread *ss_py_find_frames(struct ss_py *py, struct ss_py_view *view,
                                       pid_t tid, bool sure, uint64_t *tstate,
                                       unsigned char bytes[SS_PY_MAX_tstate])
{
  for (int tries = 0; tries < 2; tries++) {
    struct ss_py_thread *t = ss_py_thread_get(py, tid, sure || tries > 0);
    if (!t || t->count == 0)
      return NULL;
    py->segment_count = py->step_count = py->once_count = 0;
    if (walk_thread(py, view, t, tstate, bytes) && (py->segment_count > 0 || !sure))
      return t;
    t->count = 0; /* list again */
  }
  return NULL;
}
