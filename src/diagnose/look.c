/*
 * Taking a look: list the tree, then for each thread its facts, its native
 * stack, its Python frames.
 *
 * What is copied is copied while the thread stands still (by itself or by our
 * stop); unwinding and merging happen after it was let go. The files, tables
 * and code objects of a process stay in the looker for the next look.
 */
#include "stacksample/look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/blocked.h"
#include "stacksample/limits.h"
#include "stacksample/output.h"
#include "stacksample/python.h"
#include "stacksample/sys.h"
#include "stacksample/unwind.h"

#include "look_priv.h"

#define COPY_BYTES (64u << 10) /* of a thread's stack, at once */
/* For a thread that only waits for a CPU to come to its stop; it loses nothing by
 * our waiting. */
#define STOP_DEADLINE_MS 1000
#define FRAMES_CAP (SS_FRAMES_MAX + SS_PY_FRAMES_MAX)

struct ss_looker *ss_looker_new(pid_t root)
{
  struct ss_looker *l = calloc(1, sizeof(*l));

  if (l == NULL)
    return NULL;
  l->root = root;
  l->paths = ss_paths_new();
  l->modules = ss_modules_new();
  l->unwinder = ss_unwinder_new();
  l->native = calloc(SS_FRAMES_MAX, sizeof(*l->native));
  l->merged = calloc(FRAMES_CAP, sizeof(*l->merged));
  l->stack = malloc(COPY_BYTES);
  l->raw = malloc(SS_PLAN_BYTES_MAX);
  if (!l->paths || !l->modules || !l->unwinder || !l->native || !l->merged || !l->stack ||
      !l->raw) {
    ss_looker_free(l);
    return NULL;
  }
  return l;
}

void ss_looker_free(struct ss_looker *l)
{
  if (l == NULL)
    return;
  while (l->processes) {
    struct known_process *k = l->processes;
    l->processes = k->next;
    ss_known_free(k);
  }
  ss_unwinder_free(l->unwinder);
  ss_modules_free(l->modules);
  ss_paths_free(l->paths);
  free(l->native);
  free(l->merged);
  free(l->stack);
  free(l->raw);
  free(l->own);
  ss_idmap_release(&l->lags);
  free(l);
}

/* ---- one thread: copying --------------------------------------------------------- */

struct copied { /* what was taken while the thread stood still */
  struct ss_looker *looker;
  struct known_process *known;
  pid_t tid;
  struct ss_regs regs;
  size_t stack_len;
  struct ss_span own; /* of its own stack, where sp is elsewhere */
  struct ss_read_plan plan;
  size_t raw_len;
  bool done, blocked; /* blocked: of regs only ip and sp are known */
};

static void copy_now(void *arg, const struct ss_regs *regs)
{
  struct copied *c = arg;

  c->regs = *regs;
  c->stack_len =
      ss_mem_read(&c->known->live.mem, regs->r[SS_REG_SP], c->looker->stack, COPY_BYTES);
  if (!c->blocked)
    ss_look_own_stack(c->looker, c->known, c->tid, regs, c->stack_len, &c->own);
  if (c->plan.count > 0)
    c->raw_len =
        ss_read_plan_run(&c->plan, c->known->id.pid, c->looker->raw, SS_PLAN_BYTES_MAX);
  c->done = true;
}

static void copy_blocked(struct copied *c, const struct ss_blocked *b)
{
  struct ss_regs regs = {0};

  c->blocked = true;
  regs.r[SS_REG_SP] = b->sp;
  regs.r[SS_REG_IP] = b->ip;
  copy_now(c, &regs);
}

static void copy_running(struct copied *c, struct ss_look *look, struct ss_look_thread *t)
{
  struct ss_diag diag = {0};

  if (ss_stop_look(c->tid, STOP_DEADLINE_MS, copy_now, c, &t->stopped_ns, &diag) !=
      SS_ERR_OK)
    t->why = diag.err == SS_ERR_ACCESS ? "running, and may not be stopped"
                                       : "running, and did not stop in time";
  if (!c->done)
    return;
  look->stops++;
  look->stop_total_ns += t->stopped_ns;
  if (t->stopped_ns > look->stop_max_ns)
    look->stop_max_ns = t->stopped_ns;
}

/* ---- one thread: frames ------------------------------------------------------------ */

static void native_frame(struct ss_looker *l, const struct known_process *k,
                         const struct ss_frame *f, struct ss_look_frame *out)
{
  struct ss_module *module;
  struct ss_symbol symbol;
  struct ss_buf shown = {0};
  char *demangled;

  if (f->module == NULL) {
    out->offset = f->ip;
    if (k->space.jit && ss_perf_map_find(k->space.jit, f->vaddr, &symbol))
      out->name = strdup(symbol.name);
    return;
  }
  module = ss_modules_at(l->modules, f->module->id);
  out->module = strdup(module->name);
  out->offset = f->function ? f->function : f->vaddr;
  if (!ss_module_symbol(module, f->vaddr, &symbol))
    return;
  demangled = ss_demangle(symbol.name);
  if (demangled == NULL)
    return;
  ss_symbol_shown(demangled, &shown);
  out->name = strdup(ss_buf_str(&shown));
  ss_buf_release(&shown);
  free(demangled);
}

static void python_frame(const struct ss_merged *m, struct ss_look_frame *out)
{
  out->python = true;
  out->name = strdup(m->code->function);
  out->file = strdup(m->code->file);
  out->line = m->line;
  out->first_line = m->code->first_line;
}

static void keep_frames(const struct copied *c, const struct ss_look_options *options,
                        struct ss_look_thread *t, size_t merged)
{
  struct ss_looker *l = c->looker;

  t->frames = calloc(merged ? merged : 1, sizeof(*t->frames));
  if (t->frames == NULL)
    return;
  for (size_t i = 0; i < merged; i++) {
    const struct ss_merged *m = &l->merged[i];
    if (m->kind == SS_MERGED_PYTHON)
      python_frame(m, &t->frames[t->n_frames++]);
    else if (m->kind == SS_MERGED_TASK)
      t->frames[t->n_frames++] =
          (struct ss_look_frame){.task = true, .name = strdup(m->code->function)};
    else if (!options->no_native)
      native_frame(l, c->known, &l->native[m->native], &t->frames[t->n_frames++]);
  }
}

static void open_python(struct known_process *k, struct ss_look_process *p)
{
  struct ss_diag diag = {0};

  if (k->py == NULL)
    (void)ss_py_open(&k->py, &k->space, &diag);
  if (k->py)
    snprintf(p->python, sizeof(p->python), "%s", ss_py_version(k->py));
}

static void unwind(struct copied *c, const struct ss_look_options *options,
                   struct ss_look_thread *t)
{
  struct ss_looker *l = c->looker;
  struct known_process *k = c->known;
  struct ss_map *stack = ss_maps_find(&k->maps, c->regs.r[SS_REG_SP]);
  struct ss_span spans[SS_PLAN_REGIONS_MAX];
  struct ss_py_result result = {0};
  struct ss_snapshot snapshot;
  struct ss_mem_spans mem, own;
  size_t native = 0, merged = 0;
  enum ss_end end;

  ss_snapshot_init(&snapshot, c->regs.r[SS_REG_SP], l->stack, c->stack_len, &k->live.mem,
                   stack ? stack->end : c->regs.r[SS_REG_SP] + c->stack_len);
  ss_mem_spans_init(&own, &c->own, 1, NULL);
  snapshot.captured = &own.mem;
  ss_mem_spans_init(
      &mem, spans,
      ss_read_plan_spans(&c->plan, l->raw, c->raw_len, spans, SS_PLAN_REGIONS_MAX),
      &k->live.mem);
  k->space.only_ip_sp = c->blocked;
  end = ss_py_unwind_stack(k->py, t->tid, l->unwinder, &k->space, &snapshot.mem, &mem.mem,
                           &c->regs, l->native, SS_FRAMES_MAX, &native);
  t->complete = end == SS_END_COMPLETE;
  t->why = t->complete ? NULL : ss_end_text(end);
  if (k->py && !options->no_python) {
    ss_py_merge(k->py, t->tid, &snapshot.mem, &mem.mem, l->native, native, l->merged,
                FRAMES_CAP, &result);
    merged = result.count;
    t->has_python = result.has_python && result.python > 0;
    t->verified = result.verified;
    t->complete |= result.cut;
    t->why = t->complete ? NULL : t->why;
    if (t->complete && t->has_python && !result.verified)
      t->why = ss_py_doubt_text(result.doubt);
  }
  if (merged == 0)
    for (; merged < native; merged++)
      l->merged[merged] =
          (struct ss_merged){.kind = SS_MERGED_NATIVE, .native = (uint32_t)merged};
  keep_frames(c, options, t, merged);
  ss_snapshot_release(&snapshot);
}

/* ---- one thread -------------------------------------------------------------------- */

static void thread_name(struct known_process *k, struct ss_look_thread *t,
                        const char *comm)
{
  if (k->py && ss_py_thread_name(k->py, t->tid, t->name, sizeof(t->name)))
    return;
  /* threading's own name for it; no frame of its stack has an object that says so. */
  if (t->tid == t->pid && t->has_python)
    comm = "MainThread";
  snprintf(t->name, sizeof(t->name), "%s", comm);
}

static void thread_role(struct ss_look_thread *t, const char *comm)
{
  const char *names[8];
  size_t n = 0;

  for (size_t i = t->n_frames; i-- > 0 && n < 8;)
    if (!t->frames[i].python)
      names[n++] = t->frames[i].name     ? t->frames[i].name
                   : t->frames[i].module ? t->frames[i].module
                                         : "";
  t->role = ss_role_of(names, n, comm, t->tid == t->pid, t->has_python);
}

/* What must be copied of a running thread's Python state is known once it was read:
 * read first as it runs, so that the copy is all that its stop has to wait for. */
static void learn_plan(struct copied *c)
{
  struct known_process *k = c->known;
  struct ss_py_result result = {0};

  c->plan.count = 0;
  ss_py_merge(k->py, c->tid, &k->live.mem, &k->live.mem, NULL, 0, c->looker->merged,
              FRAMES_CAP, &result);
  (void)ss_py_plan(k->py, c->tid, &c->plan);
}

/* A thread that is seen running may be about to block, where a stop could end its
 * call with EINTR (epoll_wait, semop, recv with SO_RCVTIMEO): it is read as blocked
 * if it turns out so within a millisecond. */
static void read_blocked(const struct ss_look_thread *t, struct ss_blocked *b)
{
  for (int i = 0; i < 5; i++) {
    if (i > 0)
      ss_sleep_ns(250000);
    if (!ss_blocked_read(b, t->pid, t->tid) || !b->running)
      return;
  }
}

/* false: it has ended. */
static bool look_at(struct ss_looker *l, struct known_process *k,
                    const struct ss_look_options *options, struct ss_look *look,
                    struct ss_look_thread *t)
{
  struct copied copied = {.looker = l, .known = k, .tid = t->tid};
  struct ss_blocked blocked = {.running = true, .nr = -1};
  uint64_t wait_ns;
  struct ss_stat st;

  if (!ss_stat_read(&st, t->pid, t->tid))
    return false;
  (void)ss_schedstat_read(t->pid, t->tid, &t->cpu_ns, &wait_ns);
  read_blocked(t, &blocked);
  if (k->py && blocked.running)
    learn_plan(&copied);
  else if (k->py)
    (void)ss_py_plan_look(k->py, t->tid, &copied.plan);
  if (!blocked.running && blocked.sp != 0)
    copy_blocked(&copied, &blocked);
  else if (blocked.running && !options->never_stop && st.state == 'R')
    copy_running(&copied, look, t);
  if (copied.done)
    unwind(&copied, options, t);
  thread_name(k, t, st.comm);
  thread_role(t, st.comm);
  ss_look_waiting(t, &blocked, &st, &l->lags, k->py, &k->live.mem);
  return true;
}

/* ---- the look ------------------------------------------------------------------- */

/* The main thread first, even where the numbers of later threads came from the start
 * again. */
static void leader_first(pid_t *tids, size_t count, pid_t pid)
{
  for (size_t i = 1; i < count; i++) {
    if (tids[i] == pid) {
      memmove(tids + 1, tids, i * sizeof(*tids));
      tids[0] = pid;
      break;
    }
  }
}

static enum ss_err look_at_process(struct ss_looker *l, pid_t pid,
                                   const struct ss_look_options *options,
                                   struct ss_look *look, size_t *thread_cap,
                                   struct ss_diag *diag)
{
  struct ss_look_process *p = &look->processes[look->n_processes];
  struct known_process *k = ss_know(l, pid, diag);
  pid_t *tids = NULL;
  size_t count = 0;

  p->pid = pid;
  if (k == NULL && diag->err != SS_ERR_GONE && pid != l->root) {
    snprintf(p->why, sizeof(p->why), "%s", diag->text);
    look->n_processes++;
  }
  if (k == NULL)
    return diag->err;
  if (ss_tasks_list(pid, &tids, &count) != SS_ERR_OK)
    return ss_fail(diag, SS_ERR_GONE, "process %d has ended", (int)pid);
  open_python(k, p);
  leader_first(tids, count, pid);
  for (size_t i = 0; i < count; i++) {
    struct ss_look_thread *t;
    if ((options->deadline_ns && ss_now_ns() > options->deadline_ns) ||
        !ss_grow(&look->threads, thread_cap, look->n_threads + 1,
                 sizeof(*look->threads))) {
      look->unvisited += count - i;
      break;
    }
    t = &look->threads[look->n_threads];
    *t = (struct ss_look_thread){.pid = pid, .tid = tids[i], .for_ns = SS_LOOK_UNKNOWN};
    if (!look_at(l, k, options, look, t))
      continue;
    look->n_threads++;
    p->n_threads++;
  }
  /* After the stacks: while the first files are opened for them a test can begin, and
   * a test that hangs is still there now. */
  ss_look_describe(k, p, options);
  look->n_processes++;
  free(tids);
  return SS_ERR_OK;
}

enum ss_err ss_look_take(struct ss_looker *l, const struct ss_look_options *options,
                         struct ss_look **out, struct ss_diag *diag)
{
  struct ss_look *look = calloc(1, sizeof(*look));
  struct ss_diag own = {0}, *d = diag ? diag : &own;
  enum ss_err err = SS_ERR_OK;
  size_t thread_cap = 0, count = 0;
  pid_t *pids = NULL;

  *out = NULL;
  ss_idmap_release(&l->lags);
  if (look == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for a dump");
  look->at_ns = ss_now_ns();
  look->wall_ns = ss_wall_ns();
  if (options->no_children || ss_tree_list(l->root, &pids, &count) != SS_ERR_OK)
    count = 0;
  look->processes = calloc(count + 1, sizeof(*look->processes));
  if (look->processes == NULL) {
    (void)ss_fail(d, SS_ERR_NOMEM, "no memory for a dump");
    err = SS_ERR_NOMEM;
  } else {
    err = look_at_process(l, l->root, options, look, &thread_cap, d);
  }
  for (size_t i = 0; i < count && err == SS_ERR_OK; i++)
    if (pids[i] != l->root) /* a child that is gone meanwhile is no error */
      (void)look_at_process(l, pids[i], options, look, &thread_cap, &own);
  free(pids);
  look->took_ns = ss_now_ns() - look->at_ns;
  if (err != SS_ERR_OK) {
    ss_look_free(look);
    return err;
  }
  *out = look;
  return SS_ERR_OK;
}

void ss_look_free(struct ss_look *look)
{
  if (look == NULL)
    return;
  for (size_t i = 0; i < look->n_threads; i++) {
    struct ss_look_thread *t = &look->threads[i];
    for (size_t j = 0; j < t->n_frames; j++) {
      free(t->frames[j].name);
      free(t->frames[j].file);
      free(t->frames[j].module);
    }
    free(t->frames);
    free(t->object);
  }
  for (size_t i = 0; i < look->n_processes; i++) {
    free(look->processes[i].command);
    free(look->processes[i].test);
  }
  free(look->threads);
  free(look->processes);
  free(look);
}
