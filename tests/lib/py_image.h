/*
 * A small CPython built by hand in a byte array, by any layout: two activations
 * on one thread, `leaf` called by `mid` called (from C) by `outer`, over five
 * native frames of which 1 and 3 are the evaluation function. For the tests and
 * the fuzzer of src/python; interpreters that cannot be had here exist only so.
 */
#ifndef PY_IMAGE_H
#define PY_IMAGE_H

#include <stdlib.h>
#include <string.h>

#include "../../src/python/python_priv.h"

enum { IMAGE_HEAP = 1 << 16, IMAGE_STACK = 1 << 12, IMAGE_NATIVE = 5, IMAGE_TID = 4711 };
#define IMAGE_HEAP_ADDR UINT64_C(0x10000000)
#define IMAGE_STACK_ADDR UINT64_C(0x7f0000000000)
#define IMAGE_DELTA 144 /* CFA - anchor */

struct image {
  struct ss_mem mem; /* first: heap and stack */
  struct {
    struct ss_mem mem; /* first: the stack alone */
    struct image *image;
  } snapshot;
  struct ss_unwind_space space;
  unsigned char heap[IMAGE_HEAP], stack[IMAGE_STACK];
  uint64_t used; /* of the heap */
  uint64_t type, interp, tstate, chunk;
  uint64_t leaf, mid, outer; /* frames */
  uint64_t anchor[2];        /* entry_frames, or _PyCFrames */
  struct ss_frame native[IMAGE_NATIVE];
  struct ss_module module;
  char module_name[16];
  struct ss_py *py;
  struct {
    uint64_t task, waiter;       /* asyncio tasks: the running one, who waits for it */
    uint64_t coroutine, waiting; /* their coroutines */
    uint64_t type, method, str, integer; /* of coroutines, C methods, names */
  } async;                               /* image_tasks */
};

static inline size_t image_region(const unsigned char *bytes, size_t size, uint64_t start,
                                  uint64_t addr, void *buf, size_t len)
{
  if (addr < start || addr - start >= size)
    return 0;
  const size_t left = size - (size_t)(addr - start);
  const size_t n = len < left ? len : left;
  memcpy(buf, bytes + (addr - start), n);
  return n;
}

static inline size_t image_read(const struct ss_mem *mem, uint64_t addr, void *buf,
                                size_t len)
{
  const struct image *im = (const struct image *)(const void *)mem;
  const size_t n = image_region(im->heap, IMAGE_HEAP, IMAGE_HEAP_ADDR, addr, buf, len);
  return n ? n : image_region(im->stack, IMAGE_STACK, IMAGE_STACK_ADDR, addr, buf, len);
}

/* As if all had been read at the sample. */
static inline bool image_holds(const struct ss_mem *mem, uint64_t addr, size_t len)
{
  unsigned char bytes[IMAGE_STACK];
  return len <= sizeof bytes && image_read(mem, addr, bytes, len) == len;
}

static inline size_t image_read_stack(const struct ss_mem *mem, uint64_t addr, void *buf,
                                      size_t len)
{
  const struct {
    struct ss_mem mem;
    struct image *image;
  } *snapshot = (const void *)mem;
  return image_region(snapshot->image->stack, IMAGE_STACK, IMAGE_STACK_ADDR, addr, buf,
                      len);
}

static inline void image_put(struct image *im, uint64_t addr, const void *bytes,
                             size_t len)
{
  if (addr >= IMAGE_STACK_ADDR)
    memcpy(im->stack + (addr - IMAGE_STACK_ADDR), bytes, len);
  else
    memcpy(im->heap + (addr - IMAGE_HEAP_ADDR), bytes, len);
}

static inline void image_u64(struct image *im, uint64_t addr, uint64_t value)
{
  image_put(im, addr, &value, sizeof value);
}

/* A field that a layout may not have. */
static inline void image_field(struct image *im, uint64_t base, uint32_t offset,
                               uint64_t value, size_t width)
{
  if (offset != SS_PY_ABSENT)
    image_put(im, base + offset, &value, width);
}

static inline uint64_t image_alloc(struct image *im, size_t size)
{
  const uint64_t addr = IMAGE_HEAP_ADDR + im->used;
  im->used += (size + 63) & ~(size_t)63;
  return addr;
}

static inline uint64_t image_str(struct image *im, const char *text)
{
  const struct ss_py_layout *l = &im->py->layout;
  const size_t len = strlen(text);
  const uint64_t addr = image_alloc(im, l->str_compact + len + 1);
  const uint32_t state = 1u << l->kind_shift | 1u << l->compact_bit | 1u << l->ascii_bit;
  image_field(im, addr, l->str_length, len, 8);
  image_field(im, addr, l->str_state, state, 4);
  image_put(im, addr + l->str_ascii, text, len);
  return addr;
}

static inline uint64_t image_bytes(struct image *im, const void *bytes, size_t len)
{
  const struct ss_py_layout *l = &im->py->layout;
  const uint64_t addr = image_alloc(im, l->bytes_data + len);
  image_field(im, addr, l->bytes_size, len, 8);
  image_put(im, addr + l->bytes_data, bytes, len);
  return addr;
}

/* Sixteen bytes of instructions, all on the line after the first. */
static inline uint64_t image_code(struct image *im, const char *name, int first_line,
                                  uint32_t flags)
{
  static const unsigned char tables[][2] = {[SS_PY_LNOTAB] = {0, 1},
                                            [SS_PY_LINETABLE] = {16, 1},
                                            [SS_PY_LOCATIONS] = {0xef, 2}};
  const struct ss_py_layout *l = &im->py->layout;
  const uint64_t table = image_bytes(im, tables[l->table], sizeof tables[0]);
  const uint64_t code = image_alloc(im, 512), text = image_str(im, name);
  image_field(im, code, l->code_type, im->type, 8);
  image_field(im, code, l->code_size, 8, 8);
  image_field(im, code, l->code_flags, flags, 4);
  image_field(im, code, l->code_first_line, (uint64_t)first_line, 4);
  image_field(im, code, l->code_filename, image_str(im, "file.py"), 8);
  image_field(im, code, l->code_name, text, 8);
  image_field(im, code, l->code_qualname, text, 8);
  image_field(im, code, l->code_table, table, 8);
  if (l->code_size == SS_PY_ABSENT)
    image_field(im, code, l->code_bytes, image_bytes(im, "0123456789abcdef", 16), 8);
  return code;
}

static inline void image_frame(struct image *im, uint64_t frame, uint64_t code,
                               uint64_t previous, uint8_t owner, bool entry)
{
  const struct ss_py_layout *l = &im->py->layout;
  image_field(im, frame, l->frame_code, code | (l->code_tag & 1), 8);
  image_field(im, frame, l->frame_previous, previous, 8);
  image_field(im, frame, l->frame_instr, code + l->code_bytes + 4, 8);
  image_field(im, frame, l->frame_lasti, 2, 4);
  image_field(im, frame, l->frame_owner, owner, 1);
  image_field(im, frame, l->frame_entry, entry, 1);
}

static inline void image_native(struct image *im)
{
  for (unsigned i = 0; i < IMAGE_NATIVE; i++) {
    struct ss_frame *f = &im->native[i];
    f->sp = IMAGE_STACK_ADDR + 512 * i;
    f->cfa = f->sp + 512;
    f->ip = f->vaddr = 0x1000 + i;
    f->module = &im->module;
    f->function = i == 1 || i == 3 ? 0x500 : 0x600 + i;
  }
}

/* Anchors, frames and what points to them. */
static inline void image_chain(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  const bool entries = l->boundary == SS_PY_BOUNDARY_OWNER;
  im->chunk = image_alloc(im, 1024);
  im->leaf = im->chunk + 512;
  im->mid = im->chunk + 256;
  im->outer = im->chunk + 32;
  for (int i = 0; i < 2; i++)
    im->anchor[i] = im->native[1 + 2 * i].cfa - IMAGE_DELTA;
  image_frame(im, im->leaf, image_code(im, "leaf", 10, 0), im->mid, 0, false);
  image_frame(im, im->mid, image_code(im, "mid", 20, 0),
              entries ? im->anchor[0] : im->outer, 0, true);
  image_frame(im, im->outer, image_code(im, "outer", 30, 0), entries ? im->anchor[1] : 0,
              0, true);
  const uint64_t cframe[2] = {im->anchor[0] + (entries ? 96 : 0),
                              im->anchor[1] + (entries ? 96 : 0)};
  if (l->tstate_cframe != SS_PY_ABSENT) {
    image_field(im, cframe[0], l->cframe_current, im->leaf, 8);
    image_field(im, cframe[0], l->cframe_previous, cframe[1], 8);
    image_field(im, cframe[1], l->cframe_current, im->outer, 8);
    image_field(im, cframe[1], l->cframe_previous, im->tstate + l->tstate_root_cframe, 8);
    image_field(im, im->tstate, l->tstate_cframe, cframe[0], 8);
  }
  image_field(im, im->tstate, l->tstate_current, im->leaf, 8);
  if (!entries)
    return;
  const uint64_t base = im->tstate + 600;
  image_frame(im, im->anchor[0], im->type, im->outer, l->entry_owner, false);
  image_frame(im, im->anchor[1], im->type,
              l->tstate_base_frame != SS_PY_ABSENT ? base : 0, l->entry_owner, false);
  image_field(im, im->tstate, l->tstate_base_frame, base, 8);
}

static inline uint64_t image_type(struct image *im, const char *name)
{
  const uint64_t type = image_alloc(im, 256), text = image_alloc(im, 64);
  image_put(im, text, name, strlen(name) + 1);
  image_field(im, type, im->py->layout.type_name, text, 8);
  return type;
}

static inline uint64_t image_object(struct image *im, uint64_t type, size_t size)
{
  const uint64_t object = image_alloc(im, size);
  image_field(im, object, im->py->layout.code_type, type, 8);
  return object;
}

/* A coroutine whose frame is at object + gen_frame, called from `previous`. */
static inline uint64_t image_coroutine(struct image *im, const char *name, int line,
                                       uint64_t previous)
{
  const uint64_t object = image_object(im, im->async.type, 320);
  image_frame(im, object + im->py->layout.gen_frame, image_code(im, name, line, 0),
              previous, 1, false);
  return object;
}

/* As _asyncio's own table says it from 3.14 on; `running` is an offset in a thread
 * state. */
static inline bool image_asyncio_table(struct image *im, uint64_t running)
{
  const uint64_t words[13] = {168, 136, 96,  108, 109,     128, 152,
                              0,   0,   936, 864, running, 0};
  const uint64_t at = image_alloc(im, sizeof words);
  image_put(im, at, words, sizeof words);
  return ss_py_asyncio_read(im->py, at);
}

/* `mid` becomes the coroutine of task "inner", run by a Handle whose _run `outer`
 * becomes; task 7, whose coroutine is `waits`, awaits it. 3.12 on. */
static inline void image_tasks(struct image *im)
{
  enum { RUNNING = 720 };
  if (im->py->layout.task_coro == SS_PY_ABSENT)
    image_asyncio_table(im, RUNNING);
  const struct ss_py_layout *l = &im->py->layout;
  const uint64_t head = l->code_type + 8;
  im->async.type = image_type(im, "coroutine");
  im->async.method = image_type(im, "builtin_function_or_method");
  im->async.str = image_type(im, "str");
  im->async.integer = image_type(im, "int");
  im->async.coroutine = image_coroutine(im, "mid", 20, im->anchor[0]);
  im->async.waiting = image_coroutine(im, "waits", 40, 0);
  im->async.task = image_object(im, im->type, 256);
  im->async.waiter = image_object(im, im->type, 256);
  image_field(im, im->leaf, l->frame_previous, im->async.coroutine + l->gen_frame, 8);
  const uint64_t wakeup = image_object(im, im->async.method, 64);
  image_field(im, wakeup, (uint32_t)head + 8, im->async.waiter, 8);
  image_field(im, im->async.task, l->task_callback, wakeup, 8);
  image_field(im, im->async.task, l->task_awaited_by, im->async.waiter, 8);
  image_field(im, im->async.task, l->task_coro, im->async.coroutine, 8);
  image_field(im, im->async.waiter, l->task_coro, im->async.waiting, 8);
  const uint64_t name = image_str(im, "inner");
  image_field(im, name, l->code_type, im->async.str, 8);
  image_field(im, im->async.task, l->task_name, name, 8);
  const uint64_t number = image_object(im, im->async.integer, 64);
  image_field(im, number, (uint32_t)head, 1 << 3, 8);
  image_field(im, number, (uint32_t)head + 8, 7, 4);
  image_field(im, im->async.waiter, l->task_name, number, 8);
  image_field(im, im->async.waiting, l->gen_state, (uint8_t)l->await_min, 1);
  const uint64_t future = image_object(im, im->type, 64);
  const uint64_t frame = im->async.waiting + l->gen_frame;
  image_field(im, frame, l->frame_locals, future, 8);
  image_field(im, frame, l->frame_stack,
              l->stack_is_int ? 1 : frame + l->frame_locals + 8 * l->await_slot,
              l->stack_is_int ? 4 : 8);
  /* What runs it. */
  const uint64_t run = image_code(im, "Handle._run", 30, 0);
  image_field(im, run, l->code_filename, image_str(im, "asyncio/events.py"), 8);
  image_frame(im, im->outer, run, im->anchor[1], 0, true);
  const uint64_t handle = image_object(im, im->type, 128);
  const uint64_t step = image_object(im, im->async.method, 64);
  image_field(im, im->outer, l->frame_locals, handle, 8);
  image_field(im, handle, (uint32_t)head + 8, step, 8);
  image_field(im, step, (uint32_t)head + 8, im->async.task, 8);
  if (im->py->running_task != 0)
    image_field(im, im->tstate, im->py->running_task, im->async.task, 8);
}

/* Frees `py` with image_free; NULL: no such layout. */
static inline struct image *image_new(unsigned minor, bool free_threaded)
{
  struct image *im = calloc(1, sizeof *im);
  struct ss_py *py = calloc(1, sizeof *py);
  if (!im || !py || !ss_py_layout_static(&py->layout, minor, free_threaded) ||
      ss_py_layout_finish(&py->layout, NULL) != SS_ERR_OK) {
    free(im);
    free(py);
    return NULL;
  }
  const struct ss_py_layout *l = &py->layout;
  im->py = py;
  im->mem.read = image_read;
  im->mem.holds = NULL;
  im->module.name = im->module_name;
  im->snapshot.mem.read = image_read_stack;
  im->snapshot.image = im;
  im->space.live = &im->mem;
  im->space.pid = py->ns_pid = IMAGE_TID;
  py->space = &im->space;
  py->runtime = image_alloc(im, 2048);
  im->interp = image_alloc(im, 8192);
  im->tstate = image_alloc(im, 1024);
  im->type = py->code_type = image_alloc(im, 256);
  image_field(im, py->runtime, l->runtime_interpreters, im->interp, 8);
  image_field(im, im->interp, l->interp_threads, im->tstate, 8);
  image_field(im, im->tstate, l->tstate_interp, im->interp, 8);
  image_field(im, im->tstate, l->tstate_native_id, IMAGE_TID, 8);
  const uint64_t pthread = image_alloc(im, 1024);
  image_field(im, im->tstate, l->tstate_thread_id, pthread, 8);
  image_field(im, pthread, 0x2d0, IMAGE_TID, 4);
  image_native(im);
  image_chain(im);
  image_field(im, im->tstate, l->tstate_chunk, im->chunk, 8);
  image_field(im, im->tstate, l->tstate_chunk_top, im->chunk + 640, 8);
  return im;
}

static inline void image_free(struct image *im)
{
  if (im)
    ss_py_free(im->py);
  free(im);
}

static inline void image_merge(struct image *im, struct ss_merged *out, size_t cap,
                               struct ss_py_result *result)
{
  ss_py_merge(im->py, IMAGE_TID, &im->snapshot.mem, &im->mem, im->native, IMAGE_NATIVE,
              out, cap, result);
}

#endif
