/*
 * Which native frame is which activation of a walk: the one whose [sp, cfa) holds its
 * anchor. CFA - anchor is a constant of each evaluation function's build: learned, and
 * checked at every sample. Where the chain of frames broke, the anchors in the
 * snapshot say where it goes on.
 */
#include <string.h>

#include "stacksample/text.h"

#include "merge_priv.h"

enum { PROLOGUE_MAX = 256 }; /* bytes of code until an activation is set up */

/* ---- evaluation functions of this build ----------------------------------- */

static struct ss_py_eval *eval_of(struct ss_py *py, const struct ss_frame *f)
{
  for (unsigned i = 0; i < py->eval_count; i++)
    if (py->evals[i].module == f->module && py->evals[i].function == f->function)
      return &py->evals[i];
  return NULL;
}

bool ss_py_merge_is_eval(struct ss_py *py, const struct ss_frame *f)
{
  if (py->layout.boundary == SS_PY_BOUNDARY_EACH)
    return ss_py_is_eval(py, f);
  const struct ss_py_eval *e = f->cfa != 0 ? eval_of(py, f) : NULL;
  return e && e->hits >= SS_PY_EVAL_SURE;
}

bool ss_py_known_place(const struct ss_py *py, uint64_t delta)
{
  for (unsigned i = 0; i < py->eval_count; i++)
    if (py->evals[i].delta == delta && py->evals[i].hits >= SS_PY_EVAL_SURE)
      return true;
  return false;
}

/* The innermost frame whose caller was guessed; native_count: none. */
static size_t first_guess(const struct ss_py_merge *m)
{
  size_t i = 0;
  while (i < m->native_count && m->native[i].method != SS_METHOD_SCAN &&
         !ss_py_is_guess(m->py, &m->native[i]))
    i++;
  return i;
}

/* Compares an anchor's place with what was learned; false: it does not agree. `sure`: the
 * frame was not found by a guess inside it. */
static bool eval_check(struct ss_py *py, const struct ss_frame *f, uint64_t anchor,
                       bool sure)
{
  const uint64_t delta = f->cfa - anchor;
  /* Its CFA was taken from the anchor; or it is no function of the build. */
  if (!sure || f->method == SS_METHOD_ANCHOR || !f->module)
    return ss_py_known_place(py, delta);
  struct ss_py_eval *e = eval_of(py, f);
  if (!e && py->eval_count < SS_PY_EVALS_MAX) {
    e = &py->evals[py->eval_count++];
    *e = (struct ss_py_eval){f->module, f->function, delta, 0};
  }
  if (!e)
    return false;
  if (e->delta == delta) {
    e->hits += e->hits < UINT32_MAX;
    return true;
  }
  if (e->hits < SS_PY_EVAL_SURE)
    *e = (struct ss_py_eval){f->module, f->function, delta, 0};
  return false;
}

/* ---- assigning ------------------------------------------------------------ */

static size_t native_holding(const struct ss_py_merge *m, uint64_t addr, size_t from)
{
  for (size_t i = from; i < m->native_count; i++)
    if (m->native[i].sp <= addr && addr < m->native[i].cfa)
      return i;
  for (size_t i = 0; i < from && i < m->native_count; i++)
    if (m->native[i].sp <= addr && addr < m->native[i].cfa)
      return i;
  return m->native_count;
}

/* The leaf is the evaluation function within its first instructions: what its
 * _PyCFrame holds may be of the activation that stood there before. */
bool ss_py_leaf_is_entering(struct ss_py_merge *m)
{
  return m->native_count > 0 && ss_py_merge_is_eval(m->py, &m->native[0]) &&
         m->native[0].vaddr - m->native[0].function < PROLOGUE_MAX;
}

/* The register that holds the current frame in the leaf: learned from leaves that
 * were verified. SS_PY_REGISTERS: none yet. */
static unsigned frame_register(const struct ss_py *py)
{
  unsigned best = SS_PY_REGISTERS;
  for (unsigned r = 0; r < SS_PY_REGISTERS; r++)
    if (py->frame_hits[r] >= SS_PY_EVAL_SURE &&
        (best == SS_PY_REGISTERS || py->frame_hits[r] > py->frame_hits[best]))
      best = r;
  return best;
}

/* Is segment `s` the leaf's: not while its _PyCFrame may be an old one, unless the
 * register agrees. */
static bool leaf_agrees(struct ss_py_merge *m, const struct ss_py_segment *s)
{
  const struct ss_py *py = m->py;
  if (py->layout.anchor != SS_PY_ANCHOR_CFRAME || !ss_py_leaf_is_entering(m))
    return true;
  const unsigned r = frame_register(py);
  return r < SS_PY_REGISTERS && s->count > 0 && (m->native[0].saved_known & 1u << r) &&
         m->native[0].saved[r] == py->steps[s->first].frame;
}

/* A walk that recovers a broken chain comes back to activations that the first
 * walk had reached already. */
static bool same_activation(const struct ss_py *py, const struct ss_py_segment *a,
                            const struct ss_py_segment *b)
{
  return a->anchor == b->anchor && a->count == b->count &&
         (a->count == 0 || py->steps[a->first].frame == py->steps[b->first].frame);
}

static void assign(struct ss_py_merge *m, size_t first_segment)
{
  const size_t guess = first_guess(m);
  size_t from = 0;
  for (size_t i = first_segment; i < m->py->segment_count; i++) {
    const struct ss_py_segment *s = &m->py->segments[i];
    if (!s->closed)
      continue;
    const size_t at = native_holding(m, s->anchor, from);
    if (at == m->native_count || (at == 0 && !leaf_agrees(m, s)))
      continue;
    if (m->assigned[at] != SS_PY_UNASSIGNED) {
      from = at + 1;
      if (!same_activation(m->py, &m->py->segments[m->assigned[at] - 1], s))
        ss_py_doubt_it(m, SS_PY_DOUBT_TWO);
      continue;
    }
    if (!eval_check(m->py, &m->native[at], s->anchor, at <= guess))
      ss_py_doubt_it(m, SS_PY_DOUBT_PLACE);
    m->assigned[at] = (uint32_t)i + 1;
    from = at + 1;
  }
}

void ss_py_learn_places(struct ss_py_merge *m)
{
  struct ss_py *py = m->py;
  const struct ss_py_layout *l = &py->layout;
  if (m->doubt || m->native_count == 0)
    return;
  for (size_t i = 0; i < m->native_count; i++) {
    const struct ss_frame *f = &m->native[i];
    if (m->assigned[i] == SS_PY_UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &py->segments[m->assigned[i] - 1];
    for (unsigned r = 0; i == 0 && r < SS_PY_REGISTERS && s->count > 0; r++)
      py->frame_hits[r] +=
          (f->saved_known & 1u << r) != 0 && f->saved[r] == py->steps[s->first].frame;
    const uint64_t cframe = l->tstate_cframe != SS_PY_ABSENT
                                ? ss_py_u64(m->tstate_bytes, l->tstate_cframe)
                                : 0;
    if (cframe >= f->sp && cframe < f->cfa) {
      py->cframe_hits = py->cframe_delta == f->cfa - cframe ? py->cframe_hits + 1 : 1;
      py->cframe_delta = f->cfa - cframe;
    }
    return; /* the innermost tells */
  }
}

/* Walks from the leaf's own activation by the frame in its register. */
static bool recover_leaf(struct ss_py_merge *m)
{
  struct ss_py *py = m->py;
  const struct ss_frame *leaf = &m->native[0];
  const unsigned r = frame_register(py);
  if (r == SS_PY_REGISTERS || !ss_py_merge_is_eval(py, leaf) ||
      ss_py_leaf_is_entering(m) || !(leaf->saved_known & 1u << r))
    return false;
  const size_t before = py->segment_count;
  ss_py_walk_at(py, &m->view, m->tstate, m->tstate_bytes, leaf->cfa - py->cframe_delta,
                leaf->saved[r]);
  assign(m, before);
  return m->assigned[0] != SS_PY_UNASSIGNED;
}

/* Walks from or behind the activation in native frame `i`, by its anchor in the
 * snapshot. */
static bool recover_at(struct ss_py_merge *m, size_t i)
{
  struct ss_py *py = m->py;
  const struct ss_frame *f = &m->native[i];
  const size_t before = py->segment_count;
  if (py->layout.anchor == SS_PY_ANCHOR_CFRAME) {
    if (i == 0 || py->cframe_hits < SS_PY_EVAL_SURE)
      return false;
    ss_py_walk_at(py, &m->view, m->tstate, m->tstate_bytes, f->cfa - py->cframe_delta, 0);
  } else if (!ss_py_walk_behind(py, &m->view, m->tstate_bytes,
                                f->cfa - eval_of(py, f)->delta)) {
    return false;
  }
  assign(m, before);
  return true;
}

/* The chain broke: goes on at the first evaluation frame that has nothing yet. */
static void recover(struct ss_py_merge *m)
{
  if (m->assigned[0] == SS_PY_UNASSIGNED && recover_leaf(m))
    return;
  for (size_t i = 0; i < m->native_count; i++)
    if (m->assigned[i] == SS_PY_UNASSIGNED && ss_py_merge_is_eval(m->py, &m->native[i]) &&
        recover_at(m, i))
      return;
}

static bool chain_broke(const struct ss_py *py)
{
  for (size_t i = 0; i < py->segment_count; i++)
    if (!py->segments[i].closed)
      return true;
  return false;
}

/* A greenlet runs on top of the C frames of the one that started it, while the thread
 * state knows its own frames alone: what lies outside the switch is not its stack. */
static void cut_at_greenlet(struct ss_py_merge *m)
{
  static const char extension[] = "_greenlet.";
  size_t outermost = m->native_count;
  for (size_t i = 0; i < m->native_count; i++)
    if (m->assigned[i] != SS_PY_UNASSIGNED)
      outermost = i;
  for (size_t i = outermost; i < m->native_count; i++) {
    const struct ss_module *module = m->native[i].module;
    if (!module || !ss_starts_with(module->name, extension))
      continue;
    m->native_count = i + 1;
    m->cut = true;
    return;
  }
}

void ss_py_assign_all(struct ss_py_merge *m)
{
  struct ss_py *py = m->py;
  const bool each = py->layout.boundary == SS_PY_BOUNDARY_EACH;
  if (each)
    ss_py_doubt_it(m, ss_py_assign_registers(py, m->view.stack, m->native,
                                             m->native_count, m->assigned));
  else
    assign(m, 0);
  cut_at_greenlet(m);
  if (each || m->native_count == 0 || !chain_broke(py))
    return;
  recover(m);
  if (ss_py_leaf_is_entering(m))
    return; /* that is why, and it has no frames yet */
  if (m->assigned[0] == SS_PY_UNASSIGNED && ss_py_merge_is_eval(py, &m->native[0]))
    ss_py_doubt_it(m, SS_PY_DOUBT_BROKEN);
}
