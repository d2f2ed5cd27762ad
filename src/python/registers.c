/*
 * CPython 3.8 to 3.10: each Python frame has an evaluation activation of its own,
 * and nothing on the C stack tells which. The compiler keeps the argument `f` in
 * a callee-saved register for the whole function: which one is a constant of the
 * build, found here by looking whose value is a frame of the thread's chain.
 *
 * Where it needs that register for something else for a while, `f` lies in the
 * activation's own frame; only the one frame of the chain is looked for there that
 * stands between those of its neighbours.
 *
 * Which function evaluates: by its dynamic symbol, exported by every build.
 */
#include "python_priv.h"

enum {
  REGISTERS = 6,
  EXTENT_MAX = 2048 /* bytes of an evaluation's frame; 3.8 to 3.10 have some 400 */
};

bool ss_py_is_eval(const struct ss_py *py, const struct ss_frame *f)
{
  return f->module == py->module && f->cfa != 0 && py->eval_start != 0 &&
         (f->function == py->eval_start ||
          (f->vaddr >= py->eval_start && f->vaddr < py->eval_end));
}

/* The segment of `frame`, at `from` or further out; segment_count: none. */
static size_t segment_of(const struct ss_py *py, uint64_t frame, size_t from)
{
  size_t i = from;
  while (i < py->segment_count &&
         !(py->segments[i].closed && py->segments[i].anchor == frame))
    i++;
  return i;
}

/* Evaluation frames whose register `r` holds a frame of the chain, in order. */
static size_t matches(const struct ss_py *py, const struct ss_frame *native, size_t count,
                      unsigned r)
{
  size_t found = 0, from = 0;
  for (size_t i = 0; i < count; i++) {
    if (!ss_py_is_eval(py, &native[i]) || !(native[i].saved_known & 1u << r))
      continue;
    const size_t at = segment_of(py, native[i].saved[r], from);
    if (at == py->segment_count)
      continue;
    found++;
    from = at + 1;
  }
  return found;
}

static size_t evaluations(const struct ss_py *py, const struct ss_frame *native,
                          size_t count)
{
  size_t found = 0;
  for (size_t i = 0; i < count; i++)
    found += ss_py_is_eval(py, &native[i]);
  return found;
}

/* Does the register that has matched most so far do so for all that can: the innermost
 * evaluation may have left the chain? To try the others takes the square of the stack's
 * depth. */
static bool is_proven(struct ss_py *py, const struct ss_frame *native, size_t count,
                      unsigned *r)
{
  *r = 0;
  for (unsigned k = 1; k < REGISTERS; k++)
    if (py->frame_hits[k] > py->frame_hits[*r])
      *r = k;
  if (py->frame_hits[*r] < SS_PY_EVAL_SURE)
    return false;
  const size_t found = matches(py, native, count, *r);
  if (found == 0 || found + 1 < evaluations(py, native, count))
    return false;
  py->frame_hits[*r] += found;
  return true;
}

/* The register that matches most here; among equals, most so far. */
static unsigned choose_register(struct ss_py *py, const struct ss_frame *native,
                                size_t count)
{
  unsigned best = 0;
  size_t most = 0;
  for (unsigned r = 0; r < REGISTERS; r++) {
    const size_t found = matches(py, native, count, r);
    if (found > most || (found == most && py->frame_hits[r] > py->frame_hits[best])) {
      best = r;
      most = found;
    }
  }
  py->frame_hits[best] += most;
  return best;
}

static void assign_by_register(const struct ss_py *py, const struct ss_frame *native,
                               size_t count, unsigned r, uint32_t *assigned)
{
  size_t next = 0;
  for (size_t i = 0; i < count; i++) {
    if (!ss_py_is_eval(py, &native[i]) || !(native[i].saved_known & 1u << r))
      continue;
    const size_t at = segment_of(py, native[i].saved[r], next);
    if (at == py->segment_count)
      continue; /* just entered, or about to return: not in the chain */
    assigned[i] = (uint32_t)at + 1;
    next = at + 1;
  }
}

static bool holds_word(const struct ss_mem *stack, const struct ss_frame *f,
                       uint64_t value)
{
  uint64_t words[EXTENT_MAX / 8];
  const uint64_t len = f->cfa - f->sp;
  if (!stack || len > sizeof words || !ss_mem_get(stack, f->sp, words, (size_t)len))
    return false;
  for (size_t i = 0; i < len / 8; i++)
    if (words[i] == value)
      return true;
  return false;
}

/* Segment of the next native frame out from `i` that has one; segment_count: none. */
static size_t next_assigned(const struct ss_py *py, size_t count,
                            const uint32_t *assigned, size_t i)
{
  while (i < count && assigned[i] == 0)
    i++;
  return i < count ? assigned[i] - 1 : py->segment_count;
}

static void assign_by_extent(const struct ss_py *py, const struct ss_mem *stack,
                             const struct ss_frame *native, size_t count,
                             uint32_t *assigned)
{
  size_t next = 0;
  for (size_t i = 0; i < count; i++) {
    if (assigned[i] == 0 && ss_py_is_eval(py, &native[i]) &&
        next < next_assigned(py, count, assigned, i) && py->segments[next].closed &&
        holds_word(stack, &native[i], py->segments[next].anchor))
      assigned[i] = (uint32_t)next + 1;
    if (assigned[i] != 0)
      next = assigned[i];
  }
}

/* Has each segment its native frame, in order? */
static enum ss_py_doubt doubt_order(const struct ss_py *py, size_t count,
                                    const uint32_t *assigned)
{
  enum ss_py_doubt doubt = SS_PY_DOUBT_NONE;
  size_t next = 0;
  for (size_t i = 0; i < count; i++) {
    if (assigned[i] == 0)
      continue;
    if (assigned[i] != next + 1)
      doubt = SS_PY_DOUBT_NO_EVAL;
    next = assigned[i];
  }
  if (count > 0 && next < py->segment_count)
    doubt = py->segments[py->segment_count - 1].closed ? SS_PY_DOUBT_NO_EVAL
                                                       : SS_PY_DOUBT_BROKEN;
  return doubt;
}

enum ss_py_doubt ss_py_assign_registers(struct ss_py *py, const struct ss_mem *stack,
                                        const struct ss_frame *native, size_t count,
                                        uint32_t *assigned)
{
  unsigned r;
  if (!is_proven(py, native, count, &r))
    r = choose_register(py, native, count);
  assign_by_register(py, native, count, r, assigned);
  assign_by_extent(py, stack, native, count, assigned);
  return doubt_order(py, count, assigned);
}
