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

#include "merge_priv.h"
#include "stacksample/sys.h"

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

/* Outside a task's own frames its name, then those who wait for it. */
static void put_awaits(struct sink *to, const struct ss_py *py,
                       const struct ss_py_segment *s)
{
  for (size_t i = 0; i < s->await_count && to->result->count < to->cap; i++) {
    const struct ss_py_step *step = &py->awaits[s->await_first + i];
    to->out[to->result->count++] =
        (struct ss_merged){.kind = step->frame ? SS_MERGED_PYTHON : SS_MERGED_TASK,
                           .code = step->code,
                           .line = step->line};
  }
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
  put_awaits(to, py, s);
}

/* Code that `-X perf` makes for each function calls the evaluation and returns;
 * its two forms end so (Python/asm_trampoline.S). Our frame says more. */
static bool is_trampoline(const struct ss_py_merge *m, size_t i)
{
  static const unsigned char ends[][5] = {{0x48, 0x83, 0xc4, 0x08, 0xc3},
                                          {0x5d, 0xc3, 0, 0, 0}};
  static const size_t lens[] = {5, 2};
  unsigned char at[5];
  if (i == 0 || m->native[i].module || !ss_py_merge_is_eval(m->py, &m->native[i - 1]) ||
      !ss_mem_get(m->py->space->live, m->native[i].ip, at, sizeof at))
    return false;
  for (size_t k = 0; k < sizeof lens / sizeof *lens; k++)
    if (memcmp(at, ends[k], lens[k]) == 0)
      return true;
  return false;
}

/* Segments farther out than the native stack goes: their order is known, their
 * place between native frames is not. */
static void put_rest(struct ss_py_merge *m, struct sink *to)
{
  const struct ss_py *py = m->py;
  for (size_t i = 0; i < py->segment_count; i++) {
    const struct ss_py_segment *s = &py->segments[i];
    const bool beyond = s->closed && s->anchor >= m->view.stack_hi &&
                        py->layout.boundary != SS_PY_BOUNDARY_EACH;
    if (s->count == 0 || (m->native_count > 0 && !beyond))
      continue;
    if (m->native_count > 0)
      ss_py_doubt_it(m, SS_PY_DOUBT_NATIVE_SHORT);
    put_segment(to, py, s);
  }
}

static void put_all(struct ss_py_merge *m, struct sink *to)
{
  for (size_t i = 0; i < m->native_count; i++) {
    if (m->assigned[i] == SS_PY_UNASSIGNED) {
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

static void native_only(struct ss_py_merge *m, struct sink *to)
{
  for (size_t i = 0; i < m->native_count; i++)
    put_native(to, i);
}

static bool any_eval(struct ss_py *py, const struct ss_frame *native, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (ss_py_merge_is_eval(py, &native[i]))
      return true;
  return false;
}

/* ---- the whole ------------------------------------------------------------ */

static void merge_init(struct ss_py_merge *m, struct ss_py *py,
                       const struct ss_mem *stack, const struct ss_mem *mem,
                       const struct ss_frame *native, size_t native_count)
{
  m->py = py;
  m->thread = NULL;
  m->tstate = 0;
  m->doubt = SS_PY_DOUBT_NONE;
  m->cut = false;
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

static void settle(struct ss_py_merge *m, struct ss_py_result *result)
{
  const bool planned =
      m->tstate != 0 && ss_mem_holds(m->view.mem, m->tstate, m->py->layout.tstate_need);
  if (m->native_count == 0)
    ss_py_doubt_it(m, SS_PY_DOUBT_NO_NATIVE);
  if (m->doubt != SS_PY_DOUBT_NONE && m->doubt != SS_PY_DOUBT_NO_NATIVE && !planned)
    m->doubt = SS_PY_DOUBT_UNPLANNED;
  result->doubt = m->doubt;
  result->cut = m->cut;
  result->verified = m->doubt == SS_PY_DOUBT_NONE;
}

/* With thread states that were not known before. */
static void merge_again(struct ss_py_merge *m, pid_t tid)
{
  memset(m->assigned, 0, m->native_count * sizeof *m->assigned);
  m->doubt = SS_PY_DOUBT_NONE;
  m->view.block_len = 0;
  (void)ss_py_find_frames(m->py, &m->view, tid, true, &m->tstate, m->tstate_bytes);
  ss_py_assign_all(m);
  ss_py_verify(m);
}

void ss_py_merge(struct ss_py *py, pid_t tid, const struct ss_mem *stack,
                 const struct ss_mem *mem, const struct ss_frame *native,
                 size_t native_count, struct ss_merged *out, size_t cap,
                 struct ss_py_result *result)
{
  struct ss_py_merge m;
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
    ss_py_doubt_it(&m, SS_PY_DOUBT_NO_THREAD);
    settle(&m, result);
    return;
  }
  result->has_python = true;
  ss_py_assign_all(&m);
  ss_py_verify(&m);
  if (m.doubt == SS_PY_DOUBT_NO_FRAMES && ss_py_thread_look_again(py, m.thread))
    merge_again(&m, tid);
  ss_py_learn_places(&m);
  ss_py_tasks_find(py, m.thread, &m.view, m.tstate);
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
  ss_py_tasks_release(py);
  free(py);
}

void ss_py_vouch_in(struct ss_py *py, struct ss_seen *seen)
{
  py->seen = seen;
}

const char *ss_py_doubt_text(enum ss_py_doubt doubt)
{
  static const char *const texts[] = {
#define SS_PY_DOUBT_TEXT(name, text) text,
      SS_PY_DOUBTS(SS_PY_DOUBT_TEXT)
#undef SS_PY_DOUBT_TEXT
  };
  return texts[doubt];
}

bool ss_py_doubt_is_torn(enum ss_py_doubt doubt)
{
  return doubt == SS_PY_DOUBT_BROKEN || doubt == SS_PY_DOUBT_MOVED ||
         doubt == SS_PY_DOUBT_TWO || doubt == SS_PY_DOUBT_OVERLAP;
}

const char *ss_py_version(const struct ss_py *py)
{
  return py->version;
}

const struct ss_py_counts *ss_py_counts(const struct ss_py *py)
{
  return &py->counts;
}
