/*
 * Lays the activations of a walk over the native frames of a sample, by address:
 * a native frame whose [sp, cfa) holds an activation's anchor *is* that
 * activation, and its Python frames replace it. CFA - anchor is a constant of
 * each evaluation function's build: learned, and checked at every sample.
 *
 * What does not fit is left native and makes the merge unverified; frames are
 * never counted off against each other.
 */
#include <stdlib.h>
#include <string.h>

#include "python_priv.h"
#include "stacksample/sys.h"

enum { UNASSIGNED = 0, REGISTERS = 6 };
enum { PROLOGUE_MAX = 256 }; /* bytes of code until an activation is set up */

struct merge {
  struct ss_py *py;
  struct ss_py_thread *thread;
  struct ss_py_view view;
  const struct ss_frame *native;
  size_t native_count;
  uint64_t tstate; /* the thread state walked last, and its bytes */
  unsigned char tstate_bytes[SS_PY_MAX_tstate];
  uint32_t assigned[SS_FRAMES_MAX]; /* native frame -> segment + 1 */
  const char *why;
};

static void doubt(struct merge *m, const char *why)
{
  if (!m->why)
    m->why = why;
}

/* ---- evaluation functions of this build ----------------------------------- */

static struct ss_py_eval *eval_of(struct ss_py *py, const struct ss_frame *f)
{
  for (unsigned i = 0; i < py->eval_count; i++)
    if (py->evals[i].module == f->module && py->evals[i].function == f->function)
      return &py->evals[i];
  return NULL;
}

static bool is_eval(struct ss_py *py, const struct ss_frame *f)
{
  if (py->layout.boundary == SS_PY_BOUNDARY_EACH)
    return ss_py_is_eval(py, f);
  const struct ss_py_eval *e = f->cfa != 0 ? eval_of(py, f) : NULL;
  return e && e->hits >= SS_PY_EVAL_SURE;
}

static bool known_delta(const struct ss_py *py, uint64_t delta)
{
  for (unsigned i = 0; i < py->eval_count; i++)
    if (py->evals[i].delta == delta && py->evals[i].hits >= SS_PY_EVAL_SURE)
      return true;
  return false;
}

/* Compares an anchor's place with what was learned; false: it does not agree. */
static bool eval_check(struct ss_py *py, const struct ss_frame *f, uint64_t anchor)
{
  const uint64_t delta = f->cfa - anchor;
  if (f->method == SS_METHOD_ANCHOR) /* its CFA was taken from the anchor */
    return known_delta(py, delta);
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

static bool any_eval(struct ss_py *py, const struct ss_frame *native, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (is_eval(py, &native[i]))
      return true;
  return false;
}

/* ---- assigning ------------------------------------------------------------ */

static size_t native_holding(const struct merge *m, uint64_t addr, size_t from)
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
static bool leaf_is_entering(struct merge *m)
{
  return m->native_count > 0 && is_eval(m->py, &m->native[0]) &&
         m->native[0].vaddr - m->native[0].function < PROLOGUE_MAX;
}

/* The register that holds the current frame in the leaf: learned from leaves that
 * were verified. REGISTERS: none yet. */
static unsigned frame_register(const struct ss_py *py)
{
  unsigned best = REGISTERS;
  for (unsigned r = 0; r < REGISTERS; r++)
    if (py->frame_hits[r] >= SS_PY_EVAL_SURE &&
        (best == REGISTERS || py->frame_hits[r] > py->frame_hits[best]))
      best = r;
  return best;
}

/* Is segment `s` the leaf's: not while its _PyCFrame may be an old one, unless the
 * register agrees. */
static bool leaf_agrees(struct merge *m, const struct ss_py_segment *s)
{
  const struct ss_py *py = m->py;
  if (py->layout.anchor != SS_PY_ANCHOR_CFRAME || !leaf_is_entering(m))
    return true;
  const unsigned r = frame_register(py);
  return r < REGISTERS && s->count > 0 && (m->native[0].saved_known & 1u << r) &&
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

static void assign(struct merge *m, size_t first_segment)
{
  size_t from = 0;
  for (size_t i = first_segment; i < m->py->segment_count; i++) {
    const struct ss_py_segment *s = &m->py->segments[i];
    if (!s->closed)
      continue;
    const size_t at = native_holding(m, s->anchor, from);
    if (at == m->native_count || (at == 0 && !leaf_agrees(m, s)))
      continue;
    if (m->assigned[at] != UNASSIGNED) {
      from = at + 1;
      if (!same_activation(m->py, &m->py->segments[m->assigned[at] - 1], s))
        doubt(m, "two activations in one native frame");
      continue;
    }
    if (!eval_check(m->py, &m->native[at], s->anchor))
      doubt(m, "an anchor is not where this build keeps it");
    m->assigned[at] = (uint32_t)i + 1;
    from = at + 1;
  }
}

static void learn_places(struct merge *m)
{
  struct ss_py *py = m->py;
  const struct ss_py_layout *l = &py->layout;
  if (m->why || m->native_count == 0)
    return;
  for (size_t i = 0; i < m->native_count; i++) {
    const struct ss_frame *f = &m->native[i];
    if (m->assigned[i] == UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &py->segments[m->assigned[i] - 1];
    for (unsigned r = 0; i == 0 && r < REGISTERS && s->count > 0; r++)
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
static bool recover_leaf(struct merge *m)
{
  struct ss_py *py = m->py;
  const struct ss_frame *leaf = &m->native[0];
  const unsigned r = frame_register(py);
  if (r == REGISTERS || !is_eval(py, leaf) || leaf_is_entering(m) ||
      !(leaf->saved_known & 1u << r))
    return false;
  const size_t before = py->segment_count;
  ss_py_walk_at(py, &m->view, m->tstate, m->tstate_bytes, leaf->cfa - py->cframe_delta,
                leaf->saved[r]);
  assign(m, before);
  return m->assigned[0] != UNASSIGNED;
}

/* Walks from or behind the activation in native frame `i`, by its anchor in the
 * snapshot. */
static bool recover_at(struct merge *m, size_t i)
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
static void recover(struct merge *m)
{
  if (m->assigned[0] == UNASSIGNED && recover_leaf(m))
    return;
  for (size_t i = 0; i < m->native_count; i++)
    if (m->assigned[i] == UNASSIGNED && is_eval(m->py, &m->native[i]) && recover_at(m, i))
      return;
}

static bool chain_broke(const struct ss_py *py)
{
  for (size_t i = 0; i < py->segment_count; i++)
    if (!py->segments[i].closed)
      return true;
  return false;
}

static void assign_all(struct merge *m)
{
  struct ss_py *py = m->py;
  const char *why;
  if (py->layout.boundary == SS_PY_BOUNDARY_EACH) {
    why = ss_py_assign_registers(py, m->native, m->native_count, m->assigned);
    if (why)
      doubt(m, why);
    return;
  }
  assign(m, 0);
  if (m->native_count == 0 || !chain_broke(py))
    return;
  recover(m);
  if (leaf_is_entering(m))
    return; /* that is why, and it has no frames yet */
  py->counts.rejected++;
  if (m->assigned[0] == UNASSIGNED && is_eval(py, &m->native[0]))
    doubt(m, "the chain of frames could not be read to its end");
}

/* ---- verifying ------------------------------------------------------------ */

/* Frames that were read after the sample are good while the activation still
 * stands as it did: its anchor unchanged in live memory. */
static bool still_there(struct merge *m, const struct ss_py_segment *s)
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
static bool leaf_stands(struct merge *m, const struct ss_py_segment *s)
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
static void check_unassigned(struct merge *m)
{
  struct ss_py *py = m->py;
  const bool each = py->layout.boundary == SS_PY_BOUNDARY_EACH;
  bool innermost = true;
  for (size_t i = 0; i < m->native_count; i++) {
    if (!is_eval(py, &m->native[i]))
      continue;
    if (m->assigned[i] == UNASSIGNED && (each ? !innermost : i > 0))
      doubt(m, "an evaluation frame without its Python frames");
    innermost = false;
  }
}

/* The only activation is just being entered or left: its frames were read, but to
 * which activation they belong cannot be told. */
static void check_nothing_placed(struct merge *m)
{
  for (size_t i = 0; i < m->native_count; i++)
    if (m->assigned[i] != UNASSIGNED)
      return;
  if (m->native_count > 0 && m->py->step_count > 0 && is_eval(m->py, &m->native[0]))
    doubt(m, "an evaluation that is being entered or left");
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

static void check_overlaps(struct merge *m)
{
  const struct ss_py *py = m->py;
  const struct ss_py_segment *inner = NULL;
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->assigned[i] == UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &py->segments[m->assigned[i] - 1];
    if (inner && overlaps(py, inner, s))
      doubt(m, "two activations with the same frames");
    inner = s;
  }
}

static void verify(struct merge *m)
{
  struct ss_py *py = m->py;
  check_unassigned(m);
  check_nothing_placed(m);
  check_overlaps(m);
  if (py->deep)
    doubt(m, "more Python frames than are kept");
  if (py->layout.boundary == SS_PY_BOUNDARY_EACH)
    return; /* which frame is in which register, the snapshot itself says */
  bool innermost = true;
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->assigned[i] == UNASSIGNED)
      continue;
    const struct ss_py_segment *s = &py->segments[m->assigned[i] - 1];
    if (s->late && (!still_there(m, s) || (innermost && !leaf_stands(m, s)))) {
      doubt(m, "Python's frames moved on before they were read");
      py->counts.torn++;
    }
    innermost = false;
  }
}

/* ---- writing -------------------------------------------------------------- */

struct sink {
  struct ss_merged *out;
  size_t cap;
  struct ss_py_result *result;
};

static void put_native(struct sink *to, size_t native)
{
  if (to->result->count < to->cap)
    to->out[to->result->count++] =
        (struct ss_merged){.kind = SS_MERGED_NATIVE, .native = (uint32_t)native};
}

static void put_segment(struct sink *to, const struct ss_py *py,
                        const struct ss_py_segment *s)
{
  for (size_t i = s->first; i < s->first + s->count && to->result->count < to->cap; i++) {
    const struct ss_py_step *step = &py->steps[i];
    if (step->code->shim)
      continue;
    to->out[to->result->count++] = (struct ss_merged){
        .kind = SS_MERGED_PYTHON, .code = step->code, .line = step->line};
    to->result->python++;
  }
}

/* Code that `-X perf` makes for each function calls the evaluation and returns;
 * its two forms end so (Python/asm_trampoline.S). Our frame says more. */
static bool is_trampoline(const struct merge *m, size_t i)
{
  static const unsigned char ends[][5] = {{0x48, 0x83, 0xc4, 0x08, 0xc3},
                                          {0x5d, 0xc3, 0, 0, 0}};
  static const size_t lens[] = {5, 2};
  unsigned char at[5];
  if (i == 0 || m->native[i].module || m->assigned[i - 1] == UNASSIGNED ||
      !ss_mem_get(m->py->space->live, m->native[i].ip, at, sizeof at))
    return false;
  for (size_t k = 0; k < sizeof lens / sizeof *lens; k++)
    if (memcmp(at, ends[k], lens[k]) == 0)
      return true;
  return false;
}

/* Segments farther out than the native stack goes: their order is known, their
 * place between native frames is not. */
static void put_rest(struct merge *m, struct sink *to)
{
  const struct ss_py *py = m->py;
  for (size_t i = 0; i < py->segment_count; i++) {
    const struct ss_py_segment *s = &py->segments[i];
    const bool beyond = s->closed && s->anchor >= m->view.stack_hi &&
                        py->layout.boundary != SS_PY_BOUNDARY_EACH;
    if (s->count == 0 || (m->native_count > 0 && !beyond))
      continue;
    if (m->native_count > 0)
      doubt(m, "the native stack ended before the Python stack");
    put_segment(to, py, s);
  }
}

static void put_all(struct merge *m, struct sink *to)
{
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->assigned[i] == UNASSIGNED) {
      if (!is_trampoline(m, i))
        put_native(to, i);
      continue;
    }
    const struct ss_py_segment *s = &m->py->segments[m->assigned[i] - 1];
    to->result->activations++;
    /* Unwinding died in it and went on at the anchor: its callers up to the
     * activation are missing. JIT code is part of the activation itself. */
    const bool apart = m->native[i].method == SS_METHOD_ANCHOR && m->native[i].module;
    if (apart && s->count > 0)
      put_native(to, i);
    if (s->count == 0)
      put_native(to, i);
    else
      put_segment(to, m->py, s);
  }
  put_rest(m, to);
}

static void native_only(struct merge *m, struct sink *to)
{
  for (size_t i = 0; i < m->native_count; i++)
    put_native(to, i);
}

/* ---- the whole ------------------------------------------------------------ */

static void merge_init(struct merge *m, struct ss_py *py, const struct ss_mem *stack,
                       const struct ss_mem *mem, const struct ss_frame *native,
                       size_t native_count)
{
  m->py = py;
  m->thread = NULL;
  m->tstate = 0;
  m->why = NULL;
  m->native = native;
  m->native_count = native_count < SS_FRAMES_MAX ? native_count : SS_FRAMES_MAX;
  memset(m->assigned, 0, m->native_count * sizeof *m->assigned);
  m->view.stack = stack;
  m->view.mem = mem;
  m->view.block_len = 0;
  m->view.stack_lo = m->native_count ? native[0].sp : 0;
  m->view.stack_hi = 0;
  for (size_t i = 0; i < m->native_count; i++)
    if (native[i].cfa > m->view.stack_hi)
      m->view.stack_hi = native[i].cfa;
}

static void settle(struct merge *m, struct ss_py_result *result)
{
  struct ss_py_counts *counts = &m->py->counts;
  if (m->native_count == 0)
    doubt(m, "no native stack to check against");
  result->why = m->why;
  result->verified = !m->why;
  counts->merges++;
  if (result->verified)
    counts->verified++;
  else
    counts->unverified++;
}

void ss_py_merge(struct ss_py *py, pid_t tid, const struct ss_mem *stack,
                 const struct ss_mem *mem, const struct ss_frame *native,
                 size_t native_count, struct ss_merged *out, size_t cap,
                 struct ss_py_result *result)
{
  struct merge m;
  struct sink to = {out, cap, result};
  *result = (struct ss_py_result){.verified = true};
  py->now_ns = ss_now_ns();
  py->deep = false;
  ss_py_codes_trim(py);
  merge_init(&m, py, stack, mem, native, native_count);
  m.thread = ss_py_find_frames(py, &m.view, tid, any_eval(py, native, m.native_count),
                               &m.tstate, m.tstate_bytes);
  if (!m.thread) {
    native_only(&m, &to);
    if (!any_eval(py, native, m.native_count))
      return;
    result->has_python = true;
    doubt(&m, "no thread state for a thread that runs Python");
    settle(&m, result);
    return;
  }
  result->has_python = true;
  assign_all(&m);
  verify(&m);
  learn_places(&m);
  put_all(&m, &to);
  settle(&m, result);
  ss_py_plan_update(py, m.thread, m.tstate, m.tstate_bytes);
}

/* ---- opening -------------------------------------------------------------- */

enum ss_err ss_py_open(struct ss_py **out, const struct ss_unwind_space *space,
                       struct ss_diag *diag)
{
  struct ss_py *py = calloc(1, sizeof *py);
  *out = NULL;
  if (!py)
    return ss_fail(diag, SS_ERR_NOMEM, "out of memory");
  py->space = space;
  py->now_ns = ss_now_ns();
  const enum ss_err err = ss_py_detect(py, diag);
  if (err != SS_ERR_OK) {
    free(py);
    return err;
  }
  ss_py_threads_open(py);
  *out = py;
  return SS_ERR_OK;
}

void ss_py_free(struct ss_py *py)
{
  if (!py)
    return;
  ss_py_codes_release(py);
  ss_py_threads_release(py);
  free(py->steps);
  free(py->segments);
  free(py);
}

void ss_py_vouch_in(struct ss_py *py, struct ss_seen *seen)
{
  py->seen = seen;
}

const char *ss_py_version(const struct ss_py *py)
{
  return py->version;
}

const struct ss_py_counts *ss_py_counts(const struct ss_py *py)
{
  return &py->counts;
}
