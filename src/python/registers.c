/*
 * CPython 3.8 to 3.10: each Python frame has an evaluation activation of its own,
 * and nothing on the C stack tells which. The compiler keeps the argument `f` in
 * a callee-saved register for the whole function: which one is a constant of the
 * build, found here by looking whose value is a frame of the thread's chain.
 *
 * Which function evaluates: by its dynamic symbol, exported by every build.
 */
#include "python_priv.h"

enum { REGISTERS = 6 };

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

enum ss_py_doubt ss_py_assign_registers(struct ss_py *py, const struct ss_frame *native,
                                        size_t count, uint32_t *assigned)
{
  const unsigned r = choose_register(py, native, count);
  enum ss_py_doubt doubt = SS_PY_DOUBT_NONE;
  size_t next = 0;
  for (size_t i = 0; i < count; i++) {
    if (!ss_py_is_eval(py, &native[i]) || !(native[i].saved_known & 1u << r))
      continue;
    const size_t at = segment_of(py, native[i].saved[r], next);
    if (at == py->segment_count)
      continue; /* just entered, or about to return: not in the chain */
    if (at != next)
      doubt = SS_PY_DOUBT_NO_EVAL;
    assigned[i] = (uint32_t)at + 1;
    next = at + 1;
  }
  if (count > 0 && next < py->segment_count)
    doubt = py->segments[py->segment_count - 1].closed ? SS_PY_DOUBT_NO_EVAL
                                                       : SS_PY_DOUBT_BROKEN;
  return doubt;
}
