/*
 * Native unwinding that goes on where it dies in code without unwind information
 * (CPython's JIT up to 3.14): the anchor of the activation that runs it is still on
 * the stack, CFA - anchor is known, and the return address lies below the CFA. What a
 * scan finds in such code is not believed: old frames lie there that look the same.
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

/* Index of the innermost frame in code without a file whose caller was scanned for. */
static size_t scanned(const struct ss_frame *frames, size_t from, size_t count)
{
  while (from < count && (frames[from].module || frames[from].method != SS_METHOD_SCAN))
    from++;
  return from;
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

enum ss_end ss_py_unwind_stack(struct ss_py *py, pid_t tid, struct ss_unwinder *u,
                               const struct ss_unwind_space *space,
                               const struct ss_mem *stack, const struct ss_mem *mem,
                               const struct ss_regs *regs, struct ss_frame *frames,
                               size_t cap, size_t *count)
{
  enum ss_end end = unwind_first(py, u, space, stack, regs, frames, cap, count);
  uint64_t ip, cfa, bp;
  if (!py || py->eval_count == 0 || *count == 0)
    return end;
  const size_t scan = scanned(frames, 0, *count);
  if (scan == *count && !resumable(end))
    return end;
  walk(py, tid, stack, mem, frames[0].sp);
  if (scan < *count && find_caller(py, stack, frames[scan].sp, &ip, &cfa)) {
    *count = scan + 1;
    end = SS_END_NO_CFI;
  }
  for (int tries = 0; tries < RESUMES_MAX && resumable(end); tries++) {
    if (end == SS_END_NO_MAP && *count > 1)
      (*count)--; /* its ip was no code: the frame below it lost its way */
    struct ss_frame *last = &frames[*count - 1];
    if (*count == cap || !find_caller(py, stack, last->sp, &ip, &cfa))
      return end;
    last->cfa = cfa;
    last->method = SS_METHOD_ANCHOR;
    ss_unwind_resume(u, ip, cfa);
    if (saved_frame_pointer(stack, cfa, &bp))
      ss_unwind_know(u, SS_REG_BP, bp);
    const size_t first = *count;
    do
      end = ss_unwind_step(u, &frames[(*count)++]);
    while (end == SS_END_NONE && *count < cap &&
           scanned(frames, *count - 1, *count) == *count);
    if (end == SS_END_NONE && scanned(frames, first, *count) < *count)
      end = SS_END_NO_CFI;
  }
  return end == SS_END_NONE ? SS_END_DEPTH : end;
}
