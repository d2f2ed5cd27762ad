/*
 * From a sample to a row of profile.db: kernel frames, native frames and
 * Python frames in one order, as a path of the stack trie.
 *
 * The path is collected innermost first and handed to the store from the root
 * inward. A stack that did not reach its thread's start hangs below a visible
 * "[incomplete: why]" root, so that it is never mistaken for a complete one; CPU time
 * of a thread that could not be stopped in time (ptrace) is "[no stack]".
 */
#include <string.h>

#include "stacksample/buf.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

#include "path_priv.h"

/* ---- one user stack -------------------------------------------------------------- */

struct user_stack {
  const struct ss_frame *frames;
  uint32_t *tags; /* store frame + 1 of a frame, 0: not looked up; NULL: none kept */
  size_t native, merged;
  enum ss_end end;
  enum ss_method method; /* the weakest */
  enum ss_merge_quality merge;
};

/* Most threads of a big pool have a handful of samples: not worth the memory. */
static struct ss_unwind_memo *memo_of(struct ss_pipeline *p, struct ss_thread *t)
{
  enum { SAMPLES_FEW = 4 };

  if (t->memo == NULL && t->samples >= SAMPLES_FEW && p->n_memos < SS_MEMOS_MAX &&
      (t->memo = ss_unwind_memo_new()) != NULL)
    p->n_memos++;
  return t->whole ? t->memo : NULL;
}

void ss_stacking_forget(struct ss_pipeline *p, struct ss_thread *t)
{
  p->n_memos -= t->memo != NULL;
  ss_unwind_memo_free(t->memo);
  t->memo = NULL;
  free(t->path.steps);
  t->path = (struct ss_path_memo){0};
}

/* The native frames: on from the thread's last stack, or, where that does not end at
 * the thread's start, from the beginning, with CPython's help. */
static void walk(struct ss_pipeline *p, struct ss_thread *t, const struct ss_record *rec,
                 struct ss_snapshot *snapshot, const struct ss_mem *mem,
                 struct user_stack *out)
{
  struct ss_process *proc = t->process;
  /* A look knows two registers only: its stack is not one to go on from. */
  bool sampled = !proc->space.only_ip_sp;
  struct ss_unwind_memo *memo =
      sampled && !proc->space.saved_registers ? memo_of(p, t) : NULL;
  struct ss_unwound again;

  if (memo &&
      ss_unwind_stack_again(p->unwinder, &proc->space, &snapshot->mem,
                            &rec->u.sample.regs, memo, &again) == SS_END_COMPLETE &&
      ss_py_stack_fits(proc->py, t->tid, &snapshot->mem, mem, again.frames,
                       again.count)) {
    out->end = SS_END_COMPLETE;
    out->frames = again.frames;
    out->tags = again.tags;
    out->native = again.count;
    return;
  }
  out->frames = p->native;
  out->end =
      ss_py_unwind_stack(proc->py, t->tid, p->unwinder, &proc->space, &snapshot->mem, mem,
                         &rec->u.sample.regs, p->native, SS_FRAMES_MAX, &out->native);
  if (sampled)
    t->whole = out->end == SS_END_COMPLETE;
}

static void unwind(struct ss_pipeline *p, struct ss_thread *t,
                   const struct ss_captured *c, const struct ss_mem *captured,
                   const struct ss_mem *mem, struct ss_snapshot *snapshot,
                   struct user_stack *out)
{
  struct ss_process *proc = t->process;
  const struct ss_record *rec = &c->rec;
  uint64_t sp = rec->u.sample.regs.r[SS_REG_SP];
  struct ss_map *stack_map;

  /* Makes sure that the code's mapping is known before the walk needs it. */
  (void)ss_tracked_map(proc, rec->u.sample.regs.r[SS_REG_IP], rec->time_ns);
  stack_map = ss_tracked_map(proc, sp, rec->time_ns);
  ss_snapshot_init(snapshot, sp, rec->u.sample.stack, rec->u.sample.stack_len,
                   &proc->live.mem, stack_map ? stack_map->end : sp + SS_STACK_READ_MAX);
  snapshot->captured = captured;
  walk(p, t, rec, snapshot, mem, out);
  out->method = SS_METHOD_CFI;
  for (size_t i = 0; i < out->native; i++)
    if (out->frames[i].method > out->method && out->frames[i].method != SS_METHOD_NONE)
      out->method = out->frames[i].method;
}

/* A second opinion on one stack in many; how often it differs is shown. */
static void audit(struct ss_pipeline *p, struct ss_thread *t, const struct ss_record *rec,
                  const struct ss_snapshot *snapshot, const struct user_stack *u)
{
  uint64_t every = p->config.audit_every;
  uint64_t ips[SS_FRAMES_MAX];
  size_t count = 0;
  enum ss_end end;

  if (every == 0 || p->n_samples % every != every / 10 || u->native == 0)
    return;
  end = ss_unwind_audit(p->unwinder, &t->process->space, &snapshot->mem,
                        &rec->u.sample.regs, ips, SS_FRAMES_MAX, &count);
  p->n_audited++;
  if (ss_unwind_differs(u->frames, u->native, ips, count, end))
    p->n_audit_differs++;
  ss_unwind_trim(p->modules);
}

/* A process becomes a Python one when libpython is mapped: asked again only
 * when its mappings have changed since. */
static struct ss_py *python_of(struct ss_pipeline *p, struct ss_process *proc)
{
  struct ss_diag why = {0};
  enum ss_err err;

  if (proc->py || p->config.no_python || proc->py_tried_at == proc->maps.generation)
    return proc->py;
  proc->py_tried_at = proc->maps.generation;
  err = ss_py_open(&proc->py, &proc->space, &why);
  if (err == SS_ERR_OK) {
    const char *version = ss_py_version(proc->py);
    ss_py_vouch_in(proc->py, ss_capture_seen(p->config.capture));
    proc->row.python = ss_store_string(p->config.store, version, strlen(version));
    ss_store_process_update(p->config.store, proc->id, &proc->row);
  } else if (err != SS_ERR_GONE) {
    ss_note(p->config.notes, "no Python frames for process %d: %s", (int)proc->pid,
            why.text[0] ? why.text : ss_strerror(err));
  }
  return proc->py;
}

static void merge(struct ss_pipeline *p, struct ss_thread *t, const struct ss_mem *stack,
                  const struct ss_mem *mem, struct user_stack *out)
{
  struct ss_process *proc = t->process;
  struct ss_py *py = python_of(p, proc);
  struct ss_py_result result = {0};

  out->merge = SS_MERGE_NONE;
  if (py) {
    ss_py_merge(py, t->tid, stack, mem, out->frames, out->native, p->merged,
                SS_FRAMES_MAX + SS_PY_FRAMES_MAX, &result);
    if (result.has_python && (result.python > 0 || result.activations > 0)) {
      t->has_python = true;
      out->merge = result.verified ? SS_MERGE_VERIFIED : SS_MERGE_UNVERIFIED;
      p->doubts[result.doubt]++;
    }
    out->merged = result.count;
    if (result.cut)
      out->end = SS_END_COMPLETE;
  }
  if (out->merged == 0) {
    for (size_t i = 0; i < out->native; i++)
      p->merged[i] = (struct ss_merged){.kind = SS_MERGED_NATIVE, .native = (uint32_t)i};
    out->merged = out->native;
  }
}

/* A frame that was taken over from the thread's last stack has its store frame. */
static uint32_t native_frame_of(struct ss_pipeline *p, struct ss_process *proc,
                                const struct user_stack *u, size_t i)
{
  const struct ss_frame *f = &u->frames[i];

  if (u->tags == NULL || f->module == NULL)
    return ss_path_native(p, proc, f);
  if (u->tags[i] == 0)
    u->tags[i] = ss_path_native(p, proc, f) + 1;
  return u->tags[i] - 1;
}

static void push_user(struct ss_path *path, struct ss_process *proc,
                      const struct user_stack *u)
{
  struct ss_pipeline *p = path->p;

  for (size_t i = 0; i < u->merged; i++) {
    const struct ss_merged *m = &p->merged[i];
    if (m->kind == SS_MERGED_PYTHON)
      ss_path_push(path, ss_path_python(p, proc, m->code), m->line);
    else if (m->kind == SS_MERGED_TASK)
      ss_path_push(path, ss_path_named(p, SS_FRAME_SYNTHETIC, m->code->function), 0);
    else if (!p->config.no_native && m->native < u->native)
      ss_path_push(path, native_frame_of(p, proc, u, m->native), 0);
  }
  if (u->end != SS_END_COMPLETE) {
    char text[64];
    snprintf(text, sizeof(text), "[incomplete: %s]", ss_end_word(u->end));
    ss_path_push(path, ss_path_named(p, SS_FRAME_SYNTHETIC, text), 0);
  }
}

/* ---- plans ----------------------------------------------------------------------- */

/* Its environ is read at each sample, so that phases begin and end where they do. Of
 * any other process it is looked at now and then: it may begin to run tests. */
static bool runs_tests(const struct ss_process *proc)
{
  return proc->pytest || proc->env.pytest || proc->env.worker[0] != '\0';
}

static void refresh_plan(struct ss_pipeline *p, struct ss_thread *t)
{
  struct ss_process *proc = t->process;
  uint64_t generations[] = {runs_tests(proc), proc->env.generation,
                            proc->py ? ss_py_plan_generation(proc->py, t->tid) : 0,
                            t->depth.end, t->depth.from};
  uint64_t key = ss_hash_bytes(generations, sizeof(generations)) | 1;
  struct ss_read_plan plan = {.count = 0};

  if (key == t->plan_key)
    return;
  t->plan_key = key;
  p->news_ns = ss_now_ns();
  if (runs_tests(proc))
    (void)ss_testenv_plan(&proc->env, &plan);
  if (proc->py)
    (void)ss_py_plan(proc->py, t->tid, &plan);
  plan.stack_from = t->depth.from;
  plan.stack_end = t->depth.end;
  if (plan.count > 0 || t->depth.end > 0 || t->planned) {
    ss_capture_set_plan(p->config.capture, proc->pid, t->tid, &plan);
    t->planned = plan.count > 0 || t->depth.end > 0;
  }
}

static void look_for_test(struct ss_pipeline *p, struct ss_process *proc,
                          const struct ss_captured *c, const struct ss_mem *mem,
                          const struct ss_mem *at_sample)
{
  uint64_t now_ns = ss_now_ns();

  if (ss_mem_holds(at_sample, proc->env.environ_var, sizeof(uint64_t)))
    ss_phases_look(p, proc, mem, c->rec.time_ns, c->read_ns);
  else if (runs_tests(proc))
    ss_phases_look(p, proc, mem, c->rec.time_ns, now_ns);
  else if (now_ns >= proc->env_look_ns + SS_PHASE_TICK_NS)
    ss_phases_look(p, proc, &proc->live.mem, now_ns, now_ns);
}

/* ---- the sample ------------------------------------------------------------------ */

static void keep_outer(struct ss_thread *t, const struct user_stack *u)
{
  if (t->n_outer > 0 || u->end != SS_END_COMPLETE)
    return;
  for (size_t i = u->native; i-- > 0 && t->n_outer < SS_OUTER_FRAMES;)
    if (u->frames[i].module)
      t->outer[t->n_outer++] = (struct ss_outer){.module = u->frames[i].module->id,
                                                 .vaddr = u->frames[i].vaddr};
}

/* The trie's node: the outer part is most often that of the thread's last sample. */
static uint32_t store_path(const struct ss_path *path, struct ss_path_memo *last)
{
  struct ss_pipeline *p = path->p;
  struct ss_path_memo none = {0};
  uint32_t node = SS_ID_NONE;
  bool same = true;
  bool kept = last && ss_grow(&last->steps, &last->cap, path->n, sizeof *last->steps);

  last = last ? last : &none;
  for (size_t i = path->n, k = 0; i-- > 0; k++) {
    struct ss_path_step step = {.frame = p->path[i], .line = p->path_lines[i]};
    same = same && k < last->count && last->steps[k].frame == step.frame &&
           last->steps[k].line == step.line;
    if (same) {
      node = last->steps[k].node;
      continue;
    }
    node = step.node = ss_store_stack(p->config.store, node, step.frame, step.line);
    if (kept)
      last->steps[k] = step;
  }
  last->count = kept ? path->n : 0;
  return node;
}

static void count_now(struct ss_pipeline *p, uint64_t time_ns, enum ss_state state)
{
  if (p->n_samples == 0) {
    pthread_mutex_lock(&p->now_lock);
    p->now.first_sample_ns = time_ns;
    pthread_mutex_unlock(&p->now_lock);
  }
  p->n_samples++;
  p->window_samples[state]++;
}

/* A user-mode moment of a thread whose kernel time is hidden: of the clock, or of the
 * last of so many page faults. */
static void note_moment(struct ss_pipeline *p, struct ss_thread *t,
                        const struct ss_record *rec, const struct ss_sample_row *row,
                        uint64_t faults)
{
  struct ss_hidden_moment m = {.thread = t->id,
                               .phase = row->phase,
                               .stack = row->stack,
                               .end = row->end,
                               .time_ns = rec->time_ns,
                               .clock_ns = ss_ledger_clock_ns(t->ledger)};

  if (faults > 0)
    ss_hidden_fault(p->hidden, &m, faults);
  else
    ss_hidden_sample(p->hidden, &m);
}

static void keep_sample(struct ss_pipeline *p, struct ss_thread *t,
                        const struct ss_record *rec, const struct ss_sample_row *row)
{
  ss_store_sample(p->config.store, row);
  for (uint32_t i = 0; i <= rec->u.sample.more; i++)
    ss_ledger_sample(t->ledger, rec->time_ns, (enum ss_state)row->state);
  if (p->hidden)
    note_moment(p, t, rec, row, 0);
  t->ran = true;
  t->samples++;
  count_now(p, rec->time_ns, (enum ss_state)row->state);
}

/* The reason goes first: it is the leaf. */
void ss_stacking_wait(struct ss_pipeline *p, struct ss_thread *t,
                      const struct ss_captured *captured, bool stopped,
                      const struct ss_waiting_seen *seen, struct ss_wait *out)
{
  struct user_stack user = {.end = SS_END_NO_REGS, .method = SS_METHOD_NONE};
  struct ss_span spans[SS_PLAN_REGIONS_MAX];
  struct ss_path path = {.p = p};
  struct ss_mem_spans mem;
  struct ss_snapshot snapshot = {0};
  struct ss_waiting waiting;
  char reason[sizeof(waiting.reason) + 64];

  ss_mem_spans_init(&mem, spans,
                    ss_read_plan_spans(&captured->plan, captured->raw, captured->raw_len,
                                       spans, SS_PLAN_REGIONS_MAX),
                    &t->process->live.mem);
  t->process->space.only_ip_sp = !stopped;
  t->process->space.still = true;
  if (captured->rec.u.sample.has_regs) {
    unwind(p, t, captured, NULL, &mem.mem, &snapshot, &user);
    merge(p, t, &snapshot.mem, &mem.mem, &user);
  }
  t->process->space.only_ip_sp = t->process->space.still = false;
  ss_looking_reason(p, t, seen, user.frames, user.native, &mem.mem, &waiting);
  ss_looking_say(p, t, &waiting, reason, sizeof(reason));
  ss_path_push(&path, ss_path_named(p, SS_FRAME_SYNTHETIC, reason), 0);
  push_user(&path, t->process, &user);
  keep_outer(t, &user);
  ss_snapshot_release(&snapshot);
  *out = (struct ss_wait){.stack = store_path(&path, NULL),
                          .state = (uint8_t)waiting.state,
                          .end = (uint8_t)user.end,
                          .method = (uint8_t)user.method,
                          .merge = (uint8_t)user.merge};
}

uint32_t ss_stacking_mark(struct ss_pipeline *p, const char *text)
{
  return ss_store_stack(p->config.store, SS_ID_NONE,
                        ss_path_named(p, SS_FRAME_SYNTHETIC, text), 0);
}

static enum ss_state state_of(struct ss_pipeline *p, const struct ss_record *rec,
                              const struct user_stack *u)
{
  if (rec->u.sample.kernel)
    return SS_STATE_KERNEL;
  return u->native > 0 && rec->u.sample.call == 0 && ss_spinning(p, &u->frames[0])
             ? SS_STATE_SPIN
             : SS_STATE_USER;
}

void ss_stacking_sample(struct ss_pipeline *p, const struct ss_captured *captured)
{
  const struct ss_record *rec = &captured->rec;
  struct ss_thread *t = ss_tracked_thread(p, rec->pid, rec->tid, rec->time_ns, true);
  struct ss_span spans[SS_PLAN_REGIONS_MAX + SS_CHASE_REGIONS];
  struct user_stack user = {.end = SS_END_NO_REGS, .method = SS_METHOD_NONE};
  struct ss_path path = {.p = p};
  struct ss_mem_spans mem, at_sample;
  struct ss_sample_row row;
  size_t n_spans;

  if (t == NULL) {
    p->n_ignored++;
    return;
  }
  n_spans = ss_read_plan_spans(&captured->plan, captured->raw, captured->raw_len, spans,
                               SS_PLAN_REGIONS_MAX);
  n_spans +=
      ss_region_spans(captured->chased, captured->chased_count, captured->chased_raw,
                      captured->chased_len, spans + n_spans, SS_CHASE_REGIONS);
  ss_mem_spans_init(&mem, spans, n_spans, &t->process->live.mem);
  ss_mem_spans_init(&at_sample, spans, n_spans, NULL);
  if (rec->u.sample.has_regs) {
    struct ss_snapshot snapshot;
    unwind(p, t, captured, &at_sample.mem, &mem.mem, &snapshot, &user);
    ss_depth_note(&t->depth, &snapshot, user.frames, user.native, user.end);
    audit(p, t, rec, &snapshot, &user);
    merge(p, t, &snapshot.mem, &mem.mem, &user);
    ss_snapshot_release(&snapshot);
  }
  look_for_test(p, t->process, captured, &mem.mem, &at_sample.mem);
  refresh_plan(p, t); /* before names: the kernel's take 100 ms when first needed */
  if (rec->u.sample.kernel)
    ss_path_push_kernel(&path, rec);
  if (rec->u.sample.has_regs)
    push_user(&path, t->process, &user);
  else if (p->config.perf == NULL)
    ss_path_push(&path, ss_path_named(p, SS_FRAME_SYNTHETIC, "[no stack]"), 0);
  keep_outer(t, &user);
  row = (struct ss_sample_row){
      .time_ns = rec->time_ns - rec->u.sample.ago_ns,
      .weight_ns = p->facts.period_ns * (1 + (uint64_t)rec->u.sample.more),
      .thread = t->id,
      .stack = store_path(&path, &t->path),
      .phase = ss_phases_at(t->process, rec->time_ns),
      .state = (uint8_t)state_of(p, rec, &user),
      .end = (uint8_t)user.end,
      .method = (uint8_t)user.method,
      .merge = (uint8_t)user.merge,
  };
  uint64_t faults = p->hidden && p->facts.faults
                        ? ss_perf_fault_period(p->config.perf, rec->u.sample.event)
                        : 0;
  p->n_fault_samples += faults > 0;
  if (faults > 0)
    note_moment(p, t, rec, &row, faults);
  else
    keep_sample(p, t, rec, &row);
}
