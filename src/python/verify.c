/*
 * What speaks against a merge whose activations are assigned. Nothing here changes it.
 */
#include <string.h>

#include "merge_priv.h"

/* Frames that were read after the sample are good while the activation still
 * stands as it did: its anchor unchanged in live memory. */
static bool still_there(struct ss_py_merge *m, const struct ss_py_segment *s)
{
  const struct ss_py_layout *l = &m->py->layout;
  const uint32_t len =
      l->boundary == SS_PY_BOUNDARY_FLAG ? l->cframe_need : l->frame_need;
  unsigned char then[SS_PY_MAX_frame], now[SS_PY_MAX_frame];
  return m->view.stack && ss_mem_get(m->view.stack, s->anchor, then, len) &&
         ss_mem_get(m->py->space->live, s->anchor, now, len) &&
         memcmp(then, now, len) == 0;
}

/* The innermost activation moves without touching its anchor (3.12 on): its
 * current frame must read the same twice. */
static bool leaf_stands(struct ss_py_merge *m, const struct ss_py_segment *s)
{
  struct ss_py *py = m->py;
  const struct ss_py_layout *l = &py->layout;
  unsigned char then[SS_PY_MAX_frame], now[SS_PY_MAX_frame];
  unsigned char tstate[SS_PY_MAX_tstate];
  const uint64_t frame = s->count ? py->steps[s->first].frame : 0;
  if (frame == 0 || ss_py_view_exact(&m->view, frame, l->frame_need))
    return true;
  if (!ss_py_view_read(&m->view, frame, then, l->frame_need) ||
      !ss_mem_get(py->space->live, frame, now, l->frame_need) ||
      memcmp(then, now, l->frame_need) != 0 ||
      !ss_mem_get(py->space->live, m->tstate, tstate, l->tstate_need))
    return false;
  return memcmp(tstate, m->tstate_bytes, l->tstate_need) == 0;
}

/* Without frames: an evaluation that was just entered or is about to return. In
 * builds with anchors only the leaf itself; to 3.10 the innermost evaluation, which
 * leaves the chain before its last calls. */
static void check_unassigned(struct ss_py_merge *m)
{
  struct ss_py *py = m->py;
  const bool each = py->layout.boundary == SS_PY_BOUNDARY_EACH;
  bool innermost = true;
  for (size_t i = 0; i < m->native_count; i++) {
    if (!ss_py_merge_is_eval(py, &m->native[i]))
      continue;
    if (m->assigned[i] == SS_PY_UNASSIGNED && (each ? !innermost : i > 0))
      ss_py_doubt_it(m, SS_PY_DOUBT_NO_FRAMES);
    innermost = false;
  }
}

/* The only activation is just being entered or left: its frames were read, but to
 * which activation they belong cannot be told. */
static void check_nothing_placed(struct ss_py_merge *m)
{
  for (size_t i = 0; i < m->native_count; i++)
    if (m->assigned[i] != SS_PY_UNASSIGNED)
      return;
  if (m->native_count > 0 && m->py->step_count > 0 &&
      ss_py_merge_is_eval(m->py, &m->native[0]))
    ss_py_doubt_it(m, SS_PY_DOUBT_ENTERING);
}

/* Does the chain of `inner` run on into the activation outside it: it was read while
 * its first frame was not marked as such yet. */
static bool overlaps(const struct ss_py *py, const struct ss_py_segment *inner,
                     const struct ss_py_segment *outer)
{
  for (size_t i = 0; i < inner->count && outer->count > 0; i++)
    if (py->steps[inner->first + i].frame == py->steps[outer->first].frame)
      return true;
  return false;
}

static void check_overlaps(struct ss_py_merge *m)
{
  const struct ss_py *py = m->py;
  const struct ss_py_segment *inner = NULL;
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->assigned[i] == SS_PY_UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &py->segments[m->assigned[i] - 1];
    if (inner && overlaps(py, inner, s))
      ss_py_doubt_it(m, SS_PY_DOUBT_OVERLAP);
    inner = s;
  }
}

/* Does the thread's chain of frames still go through `frame`? */
static bool runs_above(const struct ss_py_merge *m, uint64_t frame)
{
  enum { FEW = 512 }; /* what is called since the sample, and what the copy has */
  const struct ss_py_layout *l = &m->py->layout;
  const struct ss_mem *live = m->py->space->live;
  const bool hop = l->cframe_current != SS_PY_ABSENT;
  uint64_t at;
  if (!ss_mem_u64(live, m->tstate + (hop ? l->tstate_cframe : l->tstate_current), &at) ||
      (hop && !ss_mem_u64(live, at + l->cframe_current, &at)))
    return false;
  for (unsigned n = 0; n < FEW && at != frame; n++)
    if (at == 0 || !ss_mem_u64(live, at + l->frame_previous, &at))
      return false;
  return at == frame;
}

/* What lies behind the copied stack was read live. The thread may have returned from
 * all of it by then: its bytes stay for a while as they were left, not as they were. */
static void check_behind_copy(struct ss_py_merge *m)
{
  const uint64_t late = m->view.stack ? ss_snapshot_late_from(m->view.stack) : 0;
  if (late == 0 || m->py->space->still)
    return;
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->native[i].cfa <= late || m->assigned[i] == SS_PY_UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &m->py->segments[m->assigned[i] - 1];
    if (s->count > 0 && !runs_above(m, m->py->steps[s->first].frame))
      ss_py_doubt_it(m, SS_PY_DOUBT_MOVED);
    return;
  }
}

void ss_py_verify(struct ss_py_merge *m)
{
  struct ss_py *py = m->py;
  check_unassigned(m);
  check_nothing_placed(m);
  check_overlaps(m);
  check_behind_copy(m);
  if (py->deep)
    ss_py_doubt_it(m, SS_PY_DOUBT_DEEP);
  if (py->layout.boundary == SS_PY_BOUNDARY_EACH)
    return; /* which frame is in which register, the snapshot itself says */
  bool innermost = true;
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->assigned[i] == SS_PY_UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &py->segments[m->assigned[i] - 1];
    if (s->late && (!still_there(m, s) || (innermost && !leaf_stands(m, s))))
      ss_py_doubt_it(m, SS_PY_DOUBT_MOVED);
    innermost = false;
  }
}
