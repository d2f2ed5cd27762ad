/*
 * asyncio: which task a running coroutine belongs to, what it is called, and who waits
 * for it. The task is found from what runs it: the callback of the asyncio.Handle whose
 * _run is the frame outside, or what the thread state says (3.14 on, by the offsets of
 * the section .AsyncioDebug). It counts only if its coroutine is the one whose frame
 * runs. Who waits for a task: its awaited_by (3.14 on), else its first callback.
 *
 * Those who wait are suspended, and are read after the sample: they count if the task
 * is still waited for when that is done. Every chain is bounded.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "python_priv.h"
#include "stacksample/text.h"

enum {
  TASKS_MAX = 16,      /* of a chain */
  COROUTINES_MAX = 64, /* of a task */
  OFFSET_MAX = 4096,   /* in .AsyncioDebug; a thread state has 1104 bytes */
};

/* ---- a task ------------------------------------------------------------------- */

static uint64_t coroutine_of(const struct ss_py *py, const struct ss_mem *mem,
                             uint64_t task)
{
  uint64_t coro;
  return task != 0 && task % 8 == 0 && ss_mem_u64(mem, task + py->layout.task_coro, &coro)
             ? coro
             : 0;
}

static bool runs(const struct ss_py *py, const struct ss_mem *mem, uint64_t task,
                 uint64_t frame)
{
  const uint64_t coro = coroutine_of(py, mem, task);
  return coro != 0 && coro + py->layout.gen_frame == frame;
}

/* "Task-N" is made of its number when it is asked for. */
static bool add_number(struct ss_py *py, const struct ss_mem *mem, uint64_t object)
{
  uint64_t value;
  if (!ss_py_int(py, mem, object, &value))
    return false;
  ss_buf_addf(&py->scratch, "Task-%" PRIu64, value);
  return true;
}

static bool add_name(struct ss_py *py, const struct ss_mem *mem, uint64_t task)
{
  uint64_t name;
  if (!ss_mem_u64(mem, task + py->layout.task_name, &name))
    return false;
  switch (ss_py_kind_of(py, mem, name)) {
  case SS_PY_KIND_STR:
    return ss_py_str(&py->layout, mem, name, &py->scratch);
  case SS_PY_KIND_INT:
    return add_number(py, mem, name);
  default:
    return false;
  }
}

/* "[task: NAME]"; "[task]" where the name cannot be read, or there are too many. */
static const struct ss_py_code *shown_task(struct ss_py *py, const struct ss_mem *mem,
                                           uint64_t task)
{
  static const char plain[] = "[task]";
  ss_buf_clear(&py->scratch);
  ss_buf_adds(&py->scratch, "[task: ");
  const bool named = add_name(py, mem, task);
  ss_buf_addc(&py->scratch, ']');
  if (!named || py->scratch.failed)
    return ss_py_shown_name(py, plain, sizeof plain - 1);
  const uint64_t hash = ss_hash_bytes(ss_buf_str(&py->scratch), py->scratch.len);
  if (!ss_idmap_get(&py->task_names, hash) &&
      (py->task_names.count >= SS_PY_TASK_NAMES_MAX ||
       !ss_idmap_put(&py->task_names, hash, 1)))
    return ss_py_shown_name(py, plain, sizeof plain - 1);
  return ss_py_shown_name(py, ss_buf_str(&py->scratch), py->scratch.len);
}

/* The one task that waits for `task`; 0: none, several, or not one in C. */
static uint64_t awaiter_of(struct ss_py *py, const struct ss_mem *mem, uint64_t task)
{
  const struct ss_py_layout *l = &py->layout;
  uint64_t by = 0;
  if (l->task_awaited_by != SS_PY_ABSENT) {
    unsigned char many = 0;
    if (!ss_mem_get(mem, task + l->task_awaited_by_set, &many, 1) || many ||
        !ss_mem_u64(mem, task + l->task_awaited_by, &by))
      return 0;
  } else if (!ss_mem_u64(mem, task + l->task_callback, &by) ||
             ss_py_kind_of(py, mem, by) != SS_PY_KIND_METHOD ||
             !ss_mem_u64(mem, by + ss_py_members(py) + 8, &by)) {
    return 0;
  }
  return ss_py_kind_of(py, mem, coroutine_of(py, mem, by)) == SS_PY_KIND_FRAME ? by : 0;
}

/* ---- who waits ---------------------------------------------------------------- */

static bool push(struct ss_py *py, const struct ss_py_step *step)
{
  if (!ss_grow(&py->awaits, &py->await_cap, py->await_count + 1, sizeof *py->awaits))
    return false;
  py->awaits[py->await_count++] = *step;
  return true;
}

static bool push_task(struct ss_py *py, const struct ss_mem *mem, uint64_t task)
{
  const struct ss_py_step step = {.code = shown_task(py, mem, task)};
  return step.code && push(py, &step);
}

/* The object on whose result a waiting coroutine's frame waits. */
static uint64_t awaited(const struct ss_py *py, const struct ss_mem *mem, uint64_t frame)
{
  const struct ss_py_layout *l = &py->layout;
  uint64_t top, object;
  if (!ss_mem_u64(mem, frame + l->frame_stack, &top))
    return 0;
  if (l->stack_is_int) {
    if ((uint32_t)top > INT16_MAX)
      return 0;
    top = frame + l->frame_locals + 8 * (top & INT16_MAX);
  }
  return ss_mem_u64(mem, top - 8 * (uint64_t)l->await_slot, &object)
             ? object & ~(uint64_t)l->code_tag
             : 0;
}

/* A coroutine that waits, as a step; false: it does not. */
static bool waiting_step(struct ss_py *py, struct ss_py_view *view, uint64_t coro,
                         struct ss_py_step *step)
{
  const struct ss_py_layout *l = &py->layout;
  struct ss_py_frame frame;
  signed char state;
  return ss_mem_get(view->mem, coro + l->gen_state, &state, 1) && state >= l->await_min &&
         state <= l->await_max &&
         ss_py_frame_read(py, view, coro + l->gen_frame, &frame) &&
         ss_py_step_of(py, view, &frame, step) && step->generator;
}

/* The coroutines of a task that waits, innermost first; false: it waits no more. */
static bool push_waiting(struct ss_py *py, struct ss_py_view *view, uint64_t coro)
{
  struct ss_py_step steps[COROUTINES_MAX];
  size_t count = 0;
  for (unsigned n = 0; n < 2 * COROUTINES_MAX && count < COROUTINES_MAX; n++) {
    const enum ss_py_kind kind = ss_py_kind_of(py, view->mem, coro);
    if (kind == SS_PY_KIND_LEADS &&
        ss_mem_u64(view->mem, coro + ss_py_members(py), &coro))
      continue;
    if (kind != SS_PY_KIND_FRAME || !waiting_step(py, view, coro, &steps[count]))
      break;
    coro = awaited(py, view->mem, steps[count++].frame);
  }
  py->counts.rejected += count == COROUTINES_MAX;
  for (size_t i = count; i-- > 0;)
    if (!push(py, &steps[i]))
      return false;
  return count > 0;
}

/* Those who wait for `task`, from `by` on outwards. */
static void push_awaiters(struct ss_py *py, struct ss_py_view *view, uint64_t task,
                          uint64_t by)
{
  uint64_t seen[TASKS_MAX] = {task};
  for (size_t n = 1; by != 0; n++) {
    for (size_t i = 0; i < n; i++)
      if (seen[i] == by || n == TASKS_MAX) {
        py->counts.rejected++;
        return;
      }
    seen[n] = by;
    if (!push_waiting(py, view, coroutine_of(py, view->mem, by)) ||
        !push_task(py, view->mem, by))
      return;
    by = awaiter_of(py, view->mem, by);
  }
}

/* The task and its chain. As long as the task, whose coroutine has `frame`, is waited
 * for, those who wait stand still: what was read of them is as it was at the sample. */
static void push_chain(struct ss_py *py, struct ss_py_view *view, uint64_t task,
                       uint64_t frame)
{
  const struct ss_mem *live = py->space->live;
  const uint64_t by = awaiter_of(py, view->mem, task);
  if (!push_task(py, view->mem, task))
    return;
  const size_t own = py->await_count;
  push_awaiters(py, view, task, by);
  if (!runs(py, live, task, frame) || awaiter_of(py, live, task) != by)
    py->await_count = own;
}

/* ---- what runs ------------------------------------------------------------------ */

/* .AsyncioDebug (Modules/_asynciomodule.c, 3.14 on): words, without a version. */
enum { ASYNCIO_BYTES = 104, SLOT_RUNNING_TASK = 88 };
static const struct {
  uint16_t at, field;
  bool byte;
} asyncio_slots[] = {{8, offsetof(struct ss_py_layout, task_name), false},
                     {16, offsetof(struct ss_py_layout, task_awaited_by), false},
                     {32, offsetof(struct ss_py_layout, task_awaited_by_set), true},
                     {40, offsetof(struct ss_py_layout, task_coro), false}};

bool ss_py_asyncio_read(struct ss_py *py, uint64_t addr)
{
  unsigned char bytes[ASYNCIO_BYTES];
  if (!ss_mem_get(py->space->live, addr, bytes, sizeof bytes))
    return false;
  const uint64_t running = ss_py_u64(bytes, SLOT_RUNNING_TASK);
  bool fits = running < OFFSET_MAX && running % 8 == 0;
  for (size_t i = 0; i < sizeof asyncio_slots / sizeof *asyncio_slots; i++) {
    const uint64_t at = ss_py_u64(bytes, asyncio_slots[i].at);
    fits = fits && at < SS_PY_MAX_task - 8 && (asyncio_slots[i].byte || at % 8 == 0);
  }
  if (!fits) {
    py->counts.rejected++;
    return false;
  }
  for (size_t i = 0; i < sizeof asyncio_slots / sizeof *asyncio_slots; i++)
    ss_py_place_set(&py->layout, asyncio_slots[i].field,
                    (uint32_t)ss_py_u64(bytes, asyncio_slots[i].at));
  py->running_task = (uint32_t)running;
  return true;
}

/* In _asyncio's own file, or where that is built in with the runtime. */
static bool find_asyncio(struct ss_py *py)
{
  const struct ss_unwind_space *space = py->space;
  struct ss_section section;
  uint64_t bias;
  if (!space->maps || py->asyncio_tried_at == space->maps->generation)
    return false;
  py->asyncio_tried_at = space->maps->generation;
  for (size_t i = 0; i < space->maps->count; i++) {
    struct ss_map *map = &space->maps->items[i];
    if (map->path == SS_ID_NONE)
      continue;
    const char *name = ss_base_name(ss_paths_get(space->maps->paths, map->path));
    if (!ss_starts_with(name, "_asyncio") && !ss_starts_with(name, "python") &&
        !ss_starts_with(name, "libpython"))
      continue;
    struct ss_module *m =
        ss_module_of(space->modules, space->pid, space->maps, map, space->live);
    if (m && m->image && ss_image_section(m->image, ".AsyncioDebug", &section) &&
        ss_module_bias(m, map, &bias) && ss_py_asyncio_read(py, section.vaddr + bias))
      return true;
  }
  return false;
}

/* Members of asyncio.Handle, whose slots lie in the order of their names: _args,
 * _callback. */
static uint64_t callback_at(const struct ss_py *py)
{
  return ss_py_members(py) + 8;
}

static bool is_handle(const struct ss_py_code *code)
{
  return strcmp(code->function, "Handle._run") == 0 && strstr(code->file, "asyncio");
}

/* The task that the callback of a Handle runs or wakes; 0 none. */
static uint64_t task_of_handle(struct ss_py *py, const struct ss_mem *mem, uint64_t frame)
{
  uint64_t handle, callback, task = 0;
  if (!ss_mem_u64(mem, frame + py->layout.frame_locals, &handle))
    return 0;
  handle &= ~(uint64_t)py->layout.code_tag;
  if (!ss_mem_u64(mem, handle + callback_at(py), &callback))
    return 0;
  const enum ss_py_kind kind = ss_py_kind_of(py, mem, callback);
  const uint64_t at = callback + ss_py_members(py) + (kind == SS_PY_KIND_METHOD ? 8 : 0);
  return (kind == SS_PY_KIND_STEP || kind == SS_PY_KIND_METHOD) &&
                 ss_mem_u64(mem, at, &task)
             ? task
             : 0;
}

void ss_py_tasks_path(const struct ss_py *py, const struct ss_py_thread *t,
                      struct ss_chase *c)
{
  const bool hops = py->running_task == 0;
  c->path = (struct ss_chase_path){
      .start = t->path_start,
      .hops = {SS_CHASE_NO_HOP, SS_CHASE_NO_HOP},
      .len = SS_PY_MAX_task - 64,
      .text_at = (uint16_t)py->layout.task_name,
  };
  if (hops) {
    c->path.hops[0] = (uint16_t)callback_at(py);
    c->path.hops[1] =
        (uint16_t)ss_py_members(py); /* a step's task, or the word behind it */
  }
}

/* The task whose coroutine has the outermost frame of segment `s`; 0: none. */
static uint64_t task_of(struct ss_py *py, struct ss_py_thread *t,
                        const struct ss_mem *mem, const struct ss_py_segment *s,
                        uint64_t tstate)
{
  const size_t next = s->first + s->count;
  const uint64_t frame = py->steps[next - 1].frame;
  uint64_t task;
  if (py->running_task != 0) {
    t->path_start = tstate + py->running_task;
    if (ss_mem_u64(mem, t->path_start, &task) && runs(py, mem, task, frame))
      return task;
  }
  if (next >= py->step_count || !is_handle(py->steps[next].code))
    return 0;
  if (py->running_task == 0)
    t->path_start = py->steps[next].frame + py->layout.frame_locals;
  task = task_of_handle(py, mem, py->steps[next].frame);
  return runs(py, mem, task, frame) ? task : 0;
}

void ss_py_tasks_find(struct ss_py *py, struct ss_py_thread *t, struct ss_py_view *view,
                      uint64_t tstate)
{
  const uint64_t path = t->path_start;
  py->await_count = 0;
  if (py->layout.await_slot == 0)
    return;
  for (size_t i = 0; i < py->segment_count; i++) {
    struct ss_py_segment *s = &py->segments[i];
    if (s->count == 0 || !py->steps[s->first + s->count - 1].generator ||
        (py->layout.task_coro == SS_PY_ABSENT && !find_asyncio(py)))
      continue;
    const uint64_t task = task_of(py, t, view->mem, s, tstate);
    s->await_first = py->await_count;
    if (task != 0)
      push_chain(py, view, task, py->steps[s->first + s->count - 1].frame);
    s->await_count = py->await_count - s->await_first;
  }
  if (t->path_start != path)
    t->generation = ++py->generation;
}

void ss_py_tasks_release(struct ss_py *py)
{
  free(py->awaits);
  py->awaits = NULL;
  py->await_count = py->await_cap = 0;
  ss_idmap_release(&py->task_names);
}
