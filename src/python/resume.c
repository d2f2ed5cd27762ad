/*
 * Native unwinding that goes on where it dies in code without unwind information
 * (CPython's JIT up to 3.14): the anchor of the activation that runs it is still on
 * the stack, CFA - anchor is known, and the return address lies below the CFA. Callers
 * that were guessed in such code are believed only as long as the walk from there comes
 * to the next anchor in the evaluation function: old frames lie there that look the same.
 */
#include "python_priv.h"
#include "stacksample/sys.h"

enum { RESUMES_MAX = 64 };

static const struct ss_map *exec_map(const struct ss_py *py, uint64_t addr)
{
  const struct ss_map *map = ss_maps_find(py->space->maps, addr);
  return map && (map->prot & SS_PROT_EXEC) ? map : NULL;
}

/* The innermost anchor above `sp`; 0: none. */
static uint64_t next_anchor(const struct ss_py *py, uint64_t sp)
{
  uint64_t best = 0;
  for (size_t i = 0; i < py->segment_count; i++) {
    const struct ss_py_segment *s = &py->segments[i];
    if (s->closed && s->anchor > sp && (best == 0 || s->anchor < best))
      best = s->anchor;
  }
  return best;
}

/* The caller of the activation that holds the next anchor. */
static bool find_caller(const struct ss_py *py, const struct ss_mem *stack, uint64_t sp,
                        uint64_t *ip, uint64_t *cfa)
{
  const uint64_t anchor = next_anchor(py, sp);
  if (anchor == 0)
    return false;
  for (unsigned i = 0; i < py->eval_count; i++) {
    const struct ss_py_eval *e = &py->evals[i];
    *cfa = anchor + e->delta;
    if (e->hits >= SS_PY_EVAL_SURE && ss_mem_u64(stack, *cfa - 8, ip) &&
        exec_map(py, *ip))
      return true;
  }
  return false;
}

/* A function pushes its caller's frame pointer first; where the build does not
 * keep one, the value does not look like one and the caller does without. */
static bool saved_frame_pointer(const struct ss_mem *stack, uint64_t cfa, uint64_t *bp)
{
  return ss_mem_u64(stack, cfa - 16, bp) && *bp >= cfa && *bp % 8 == 0 &&
         *bp - cfa < SS_FRAME_SIZE_MAX;
}

static bool resumable(enum ss_end end)
{
  return end == SS_END_NO_CFI || end == SS_END_NO_MAP || end == SS_END_BAD_CFI ||
         end == SS_END_NO_PROGRESS || end == SS_END_SP_LOST;
}

bool ss_py_is_guess(const struct ss_py *py, const struct ss_frame *f)
{
  if (f->module || f->method == SS_METHOD_CFI || f->method == SS_METHOD_ANCHOR)
    return false;
  return f->method == SS_METHOD_SCAN || py->layout.anchor == SS_PY_ANCHOR_ENTRY;
}

static bool any_guess(const struct ss_py *py, const struct ss_frame *frames, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (ss_py_is_guess(py, &frames[i]))
      return true;
  return false;
}

/* Is it known where evaluation functions keep their anchors? */
static bool any_place(const struct ss_py *py)
{
  for (unsigned i = 0; i < py->eval_count; i++)
    if (py->evals[i].hits >= SS_PY_EVAL_SURE)
      return true;
  return false;
}

/* From a guess to the next anchor outside it. */
struct way {
  size_t guess;
  uint64_t anchor; /* 0: on no such way */
};

/* Goes on to frame `i`; false: the walk has lost its way since way->guess. */
static bool on_way(const struct ss_py *py, struct way *way, const struct ss_frame *frames,
                   size_t i)
{
  const struct ss_frame *f = &frames[i];
  if (way->anchor == 0 && ss_py_is_guess(py, f))
    *way = (struct way){i, next_anchor(py, f->sp)};
  if (way->anchor == 0 || f->cfa <= way->anchor)
    return true;
  if (f->module != py->module || !ss_py_known_place(py, f->cfa - way->anchor))
    return false;
  way->anchor = 0;
  return true;
}

/* Of a walk that is at its end. */
static bool all_on_way(const struct ss_py *py, struct way *way,
                       const struct ss_frame *frames, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (!on_way(py, way, frames, i))
      return false;
  return way->anchor == 0;
}

static void walk(struct ss_py *py, pid_t tid, const struct ss_mem *stack,
                 const struct ss_mem *mem, uint64_t sp)
{
  struct ss_py_view view = {.stack = stack, .mem = mem, .stack_lo = sp};
  unsigned char bytes[SS_PY_MAX_tstate];
  uint64_t tstate;
  const struct ss_map *map = ss_maps_find(py->space->maps, sp);
  view.stack_hi = map ? map->end : sp;
  py->now_ns = ss_now_ns();
  py->segment_count = 0;
  if (!ss_py_find_frames(py, &view, tid, false, &tstate, bytes))
    py->segment_count = 0;
}

/* Up to 3.10 the frame of an activation is in one of its registers. */
static enum ss_end unwind_first(const struct ss_py *py, struct ss_unwinder *u,
                                const struct ss_unwind_space *space,
                                const struct ss_mem *stack, const struct ss_regs *regs,
                                struct ss_frame *frames, size_t cap, size_t *count)
{
  struct ss_unwind_space with_registers = *space;
  with_registers.saved_registers = true;
  const bool needed = py && py->layout.boundary == SS_PY_BOUNDARY_EACH;
  return ss_unwind_stack(u, needed ? &with_registers : space, stack, regs, frames, cap,
                         count);
}

/* Goes on from the last frame; false: there is no anchor, or no room. */
static bool resume(const struct ss_py *py, struct ss_unwinder *u,
                   const struct ss_mem *stack, struct ss_frame *last)
{
  uint64_t ip, cfa, bp;
  if (!find_caller(py, stack, last->sp, &ip, &cfa))
    return false;
  last->cfa = cfa;
  last->method = SS_METHOD_ANCHOR;
  ss_unwind_resume(u, ip, cfa);
  if (saved_frame_pointer(stack, cfa, &bp))
    ss_unwind_know(u, SS_REG_BP, bp);
  return true;
}

/* Until the stack ends, or the way is lost; true: it is. */
static bool step_on(const struct ss_py *py, struct ss_unwinder *u, struct way *way,
                    struct ss_frame *frames, size_t cap, size_t *count, enum ss_end *end)
{
  *end = SS_END_NONE;
  while (*end == SS_END_NONE && *count < cap) {
    *end = ss_unwind_step(u, &frames[(*count)++]);
    if (!on_way(py, way, frames, *count - 1))
      return true;
  }
  return way->anchor != 0;
}

enum ss_end ss_py_unwind_stack(struct ss_py *py, pid_t tid, struct ss_unwinder *u,
                               const struct ss_unwind_space *space,
                               const struct ss_mem *stack, const struct ss_mem *mem,
                               const struct ss_regs *regs, struct ss_frame *frames,
                               size_t cap, size_t *count)
{
  enum ss_end end = unwind_first(py, u, space, stack, regs, frames, cap, count);
  struct way way = {0};
  if (!py || !any_place(py) || *count == 0 ||
      (!resumable(end) && !any_guess(py, frames, *count)))
    return end;
  walk(py, tid, stack, mem, frames[0].sp);
  bool lost = !all_on_way(py, &way, frames, *count);
  for (int tries = 0; tries < RESUMES_MAX && (lost || resumable(end)); tries++) {
    if (lost)
      *count = way.guess + 1;
    else if (end == SS_END_NO_MAP && *count > 1)
      (*count)--; /* its ip was no code: the frame below it lost its way */
    way.anchor = 0;
    if (*count == cap || !resume(py, u, stack, &frames[*count - 1]))
      return lost ? SS_END_NO_CFI : end;
    lost = step_on(py, u, &way, frames, cap, count, &end);
  }
  return end == SS_END_NONE ? SS_END_DEPTH : end;
}

bool ss_py_stack_fits(struct ss_py *py, pid_t tid, const struct ss_mem *stack,
                      const struct ss_mem *mem, const struct ss_frame *frames,
                      size_t count)
{
  struct way way = {0};
  if (!py || !any_place(py) || !any_guess(py, frames, count))
    return true;
  walk(py, tid, stack, mem, frames[0].sp);
  return all_on_way(py, &way, frames, count);
}
