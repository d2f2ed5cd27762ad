/*
 * The path of a sample in the stack trie, innermost first, and what becomes a frame
 * of it: kernel functions and what the kernel was entered for, native functions by
 * module and offset (their names are resolved at the end), Python code.
 */
#include <string.h>

#include "stacksample/cursor.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

#include "path_priv.h"

/* Values at and above this are markers in a perf callchain, not addresses
 * (PERF_CONTEXT_MAX, include/uapi/linux/perf_event.h). */
#define CALLCHAIN_MARKER ((uint64_t)-4095)
/* Between two readings of what a JIT tells: so long, and so many times as long as
 * the last one took. */
#define JIT_PAUSE_NS (100u * 1000 * 1000)
#define JIT_PAUSES 50

void ss_path_push(struct ss_path *path, uint32_t frame, int line)
{
  if (frame == SS_ID_NONE || path->n >= SS_PATH_FRAMES_MAX)
    return;
  path->p->path[path->n] = frame;
  path->p->path_lines[path->n] = line;
  path->n++;
}

uint32_t ss_path_named(struct ss_pipeline *p, enum ss_frame_kind kind, const char *name)
{
  struct ss_frame_row row = {.kind = kind,
                             .name = ss_store_string(p->config.store, name, strlen(name)),
                             .file = SS_ID_NONE,
                             .module = SS_ID_NONE};

  return ss_store_frame(p->config.store, &row);
}

/* ---- kernel --------------------------------------------------------------------- */

struct kernel_place {
  uint32_t frame;
  uint32_t entry; /* the frame that says what for; SS_ID_NONE */
};

static struct kernel_place kernel_place(struct ss_pipeline *p, uint64_t ip)
{
  struct kernel_place place = {SS_ID_NONE, SS_ID_NONE};
  struct ss_symbol symbol;
  char what[64];
  uint64_t *known;

  if (!p->kallsyms_read) {
    p->kallsyms_read = true;
    p->kallsyms = ss_kallsyms_load();
  }
  if (p->kallsyms == NULL || !ss_kallsyms_find(p->kallsyms, ip, &symbol)) {
    place.frame = ss_path_named(p, SS_FRAME_KERNEL, "[kernel]");
    return place;
  }
  known = ss_idmap_get(&p->kernel_frames, symbol.start);
  if (known)
    return (struct kernel_place){(uint32_t)*known, (uint32_t)(*known >> 32)};
  place.frame = ss_path_named(p, SS_FRAME_KERNEL, symbol.name);
  if (ss_kernel_class(symbol.name, what, sizeof(what)))
    place.entry = ss_path_named(p, SS_FRAME_SYNTHETIC, what);
  (void)ss_idmap_put(&p->kernel_frames, symbol.start,
                     (uint64_t)place.entry << 32 | place.frame);
  return place;
}

/* Where no kernel stack can be seen: what the thread was in the kernel for. */
static uint32_t kernel_call(struct ss_pipeline *p, uint32_t call)
{
  const char *name =
      call == SS_CALL_FAULT ? "page fault" : ss_arch_syscall((long)call - 1).name;
  char text[64];

  snprintf(text, sizeof(text), "[kernel: %s]", name && call ? name : "unknown");
  return ss_path_named(p, SS_FRAME_SYNTHETIC, text);
}

/* Kernel functions, and outside them what the kernel was entered for: the same frame
 * that stands alone where kernel functions are hidden. */
void ss_path_push_kernel(struct ss_path *path, const struct ss_record *rec)
{
  struct ss_cursor c =
      ss_cursor_init(rec->u.sample.kernel_ips, rec->u.sample.n_kernel * sizeof(uint64_t));
  size_t before = path->n;
  uint32_t entry = SS_ID_NONE;

  if (path->p->config.perf == NULL) {
    ss_path_push(path, kernel_call(path->p, rec->u.sample.call), 0);
    return;
  }
  while (c.left >= sizeof(uint64_t)) {
    uint64_t ip = ss_read_u64(&c);
    if (ip >= CALLCHAIN_MARKER)
      continue;
    struct kernel_place place = kernel_place(path->p, ip);
    ss_path_push(path, place.frame, 0);
    if (place.entry != SS_ID_NONE)
      entry = place.entry;
  }
  if (path->n == before)
    ss_path_push(path, kernel_place(path->p, rec->u.sample.ip).frame, 0);
  if (entry == SS_ID_NONE) {
    bool call = rec->u.sample.has_regs && ss_arch_in_syscall(&rec->u.sample.regs);
    entry = ss_path_named(path->p, SS_FRAME_SYNTHETIC,
                          call ? "[kernel: system call]" : "[kernel: unknown]");
  }
  ss_path_push(path, entry, 0);
}

/* ---- native ----------------------------------------------------------------------- */

static uint32_t module_row(struct ss_pipeline *p, const struct ss_module *module)
{
  uint64_t *known = ss_idmap_get(&p->module_rows, module->id);
  struct ss_module_row row = {0};
  uint32_t id;

  if (known)
    return (uint32_t)*known;
  row.path = ss_store_string(p->config.store, module->path, strlen(module->path));
  memcpy(row.build_id, module->build_id, sizeof(row.build_id));
  row.build_id_len = (uint32_t)module->build_id_len;
  id = ss_store_module(p->config.store, &row);
  (void)ss_idmap_put(&p->module_rows, module->id, id);
  return id;
}

/* Reads on in what the target's JIT tells of its code, now and then. */
static void learn_jit(struct ss_pipeline *p, struct ss_process *proc)
{
  struct ss_diag why = {0};
  uint64_t now = ss_now_ns();

  if (now < proc->jit_next_ns)
    return;
  if (ss_perf_map_load(&proc->space.jit, proc->pid, &proc->maps, &why) != SS_ERR_OK &&
      why.err != SS_ERR_GONE && !proc->jit_refused) {
    proc->jit_refused = true;
    ss_note(p->config.notes, "JIT names of process %d ignored: %s", (int)proc->pid,
            why.text);
  }
  proc->jit_next_ns = ss_now_ns() + JIT_PAUSE_NS + JIT_PAUSES * (ss_now_ns() - now);
}

/* Code that no file backs: named by the target's own perf map or jitdump, if it has
 * one, which then tells the unwinder, too. */
static uint32_t anonymous_frame(struct ss_pipeline *p, struct ss_process *proc,
                                uint64_t addr)
{
  struct ss_symbol symbol;

  learn_jit(p, proc);
  if (proc->space.jit && ss_perf_map_find(proc->space.jit, addr, &symbol))
    return ss_path_named(p, SS_FRAME_NATIVE, symbol.name);
  return ss_path_named(p, SS_FRAME_NATIVE, "[anonymous code]");
}

uint32_t ss_path_native(struct ss_pipeline *p, struct ss_process *proc,
                        const struct ss_frame *f)
{
  struct ss_frame_row row = {.kind = SS_FRAME_NATIVE,
                             .name = SS_ID_NONE,
                             .file = SS_ID_NONE,
                             .module = SS_ID_NONE};

  if (f->module == NULL)
    return anonymous_frame(p, proc, f->vaddr);
  row.module = module_row(p, f->module);
  row.exact = f->function == 0;
  row.offset = row.exact ? f->vaddr : f->function;
  return ss_store_frame(p->config.store, &row);
}

uint32_t ss_path_python(struct ss_pipeline *p, struct ss_process *proc,
                        const struct ss_py_code *code)
{
  uint64_t *known = ss_idmap_get(&proc->py_frames, (uint64_t)(uintptr_t)code);
  struct ss_frame_row row = {.kind = SS_FRAME_PYTHON, .module = SS_ID_NONE};
  uint32_t frame;

  if (known)
    return (uint32_t)*known;
  row.name = ss_store_string(p->config.store, code->function, strlen(code->function));
  row.file = ss_store_string(p->config.store, code->file, strlen(code->file));
  row.first_line = code->first_line;
  p->news_ns = ss_now_ns();
  frame = ss_store_frame(p->config.store, &row);
  (void)ss_idmap_put(&proc->py_frames, (uint64_t)(uintptr_t)code, frame);
  return frame;
}
