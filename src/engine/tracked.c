/*
 * The processes and threads of the run: born, renamed, exec'ed, ended, as the
 * kernel's side-band records tell, in time order.
 *
 * A sample or a switch of somebody unknown makes it known (records can be
 * lost). A process is gone when its last thread is; an exec keeps the process
 * and forgets everything that belonged to the old image.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/buf.h"
#include "stacksample/limits.h"
#include "stacksample/output.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"
#include "stacksample/time_limits.h"

#include "pipeline_priv.h"

/* Mappings are read again at most this often for an address that is missing. */
#define MAPS_REREAD_NS 100000000ull
#define SCHEDSTAT_NS 1000000000ull

static uint32_t store_text(struct ss_pipeline *p, const char *text)
{
  return ss_store_string(p->config.store, text, strlen(text));
}

/* ---- what a process is ---------------------------------------------------------- */

static void describe_command(struct ss_pipeline *p, struct ss_process *proc,
                             char *const *words)
{
  struct ss_unwrapped inner = {0};
  struct ss_buf quoted = {0};

  ss_unwrap(words, &inner, NULL, NULL, 0, NULL);
  proc->pytest = inner.pytest != NULL;
  proc->row.label = store_text(p, proc->pytest ? "pytest" : ss_base_name(words[0]));
  (void)ss_command_quote(&quoted, words, false);
  proc->row.command = ss_store_string(p->config.store, ss_buf_str(&quoted), quoted.len);
  ss_buf_release(&quoted);
}

/* Reads who it is now; called for a new process and after each exec. */
static void describe(struct ss_pipeline *p, struct ss_process *proc)
{
  struct ss_words words = {0};
  struct ss_stat st;

  if (ss_stat_read(&st, proc->pid, 0)) {
    proc->ppid = st.ppid;
    proc->row.ppid = st.ppid;
    proc->row.label = store_text(p, st.comm);
  }
  if (ss_words_read(&words, proc->pid, "cmdline", SS_CMDLINE_MAX))
    describe_command(p, proc, words.items);
  ss_store_process_update(p->config.store, proc->id, &proc->row);
  ss_words_release(&words);
}

static void forget_image(struct ss_pipeline *p, struct ss_process *proc)
{
  if (proc->py)
    p->py_rejected += ss_py_counts(proc->py)->rejected;
  ss_py_free(proc->py);
  proc->py = NULL;
  proc->py_tried_at = 0;
  ss_idmap_release(&proc->py_frames);
  ss_perf_map_free(proc->space.jit);
  proc->space.jit = NULL;
  proc->jit_next_ns = 0;
  proc->jit_refused = false;
  ss_testenv_reset(&proc->env);
  ss_unwinder_forget(p->unwinder, proc->pid);
}

/* ---- birth ------------------------------------------------------------------------ */

static struct ss_process *process_new(struct ss_pipeline *p, pid_t pid, uint64_t time_ns)
{
  struct ss_process *proc;
  bool known;

  if (p->n_processes >= SS_PROCS_MAX)
    return NULL;
  proc = calloc(1, sizeof(*proc));
  if (proc == NULL)
    return NULL;
  proc->pid = pid;
  proc->phase = proc->phase_before = SS_ID_NONE;
  ss_mem_live_init(&proc->live, pid);
  ss_maps_init(&proc->maps, p->paths);
  proc->space = (struct ss_unwind_space){
      .pid = pid, .maps = &proc->maps, .modules = p->modules, .live = &proc->live.mem};
  proc->row = (struct ss_process_row){.pid = pid,
                                      .label = SS_ID_NONE,
                                      .command = SS_ID_NONE,
                                      .python = SS_ID_NONE,
                                      .worker = SS_ID_NONE,
                                      .start_ns = time_ns};
  proc->id = ss_store_process(p->config.store, &proc->row);
  pthread_mutex_lock(&p->now_lock);
  known = ss_idmap_put(&p->by_pid, (uint64_t)pid, (uint64_t)(uintptr_t)proc);
  pthread_mutex_unlock(&p->now_lock);
  if (!known) {
    ss_maps_release(&proc->maps);
    free(proc);
    return NULL;
  }
  proc->next = p->processes;
  p->processes = proc;
  p->n_processes++;
  return proc;
}

struct ss_process *ss_tracked_find_process(struct ss_pipeline *p, pid_t pid)
{
  uint64_t *found = ss_idmap_get(&p->by_pid, (uint64_t)pid);

  return found ? (struct ss_process *)(uintptr_t)*found : NULL;
}

static struct ss_thread *thread_find(const struct ss_pipeline *p, pid_t tid)
{
  uint64_t *found = ss_idmap_get(&p->by_tid, (uint64_t)tid);

  return found ? (struct ss_thread *)(uintptr_t)*found : NULL;
}

struct ss_process *ss_tracked_process(struct ss_pipeline *p, pid_t pid, uint64_t time_ns)
{
  struct ss_process *proc = ss_tracked_find_process(p, pid);

  if (proc)
    return proc;
  if (p->config.no_children && pid != p->config.root)
    return NULL;
  proc = process_new(p, pid, time_ns);
  if (proc) {
    describe(p, proc);
    ss_phases_start(p, proc, time_ns);
  }
  return proc;
}

bool ss_tracked_knows(const struct ss_pipeline *p, pid_t pid, pid_t tid)
{
  const struct ss_thread *t = thread_find(p, tid);

  return t && t->process->pid == pid;
}

static void thread_named(struct ss_pipeline *p, struct ss_thread *t, const char *comm)
{
  snprintf(t->comm, sizeof(t->comm), "%s", comm);
  t->row.name = store_text(p, t->comm);
}

/* `creator`, where it is known, gave the new thread its name: /proc may show
 * nobody any more, or whoever has the number next. */
static struct ss_thread *thread_get(struct ss_pipeline *p, pid_t pid, pid_t tid,
                                    uint64_t time_ns, bool on_cpu, pid_t creator)
{
  struct ss_thread *t = thread_find(p, tid), *from = thread_find(p, creator);
  struct ss_process *proc;
  struct ss_stat st;

  if (t && t->process->pid == pid)
    return t;
  if (t) /* the number came back in another process: the end was not seen */
    ss_tracked_exit(p, t->process->pid, tid, time_ns);
  proc = ss_tracked_process(p, pid, time_ns);
  if (proc == NULL || p->n_threads >= SS_THREADS_MAX)
    return NULL;
  t = calloc(1, sizeof(*t));
  if (t == NULL)
    return NULL;
  t->process = proc;
  t->tid = tid;
  t->row = (struct ss_thread_row){.process = proc->id,
                                  .tid = tid,
                                  .name = SS_ID_NONE,
                                  .role = SS_ID_NONE,
                                  .start_ns = time_ns};
  if (from && from->comm[0])
    thread_named(p, t, from->comm);
  else if (ss_stat_read(&st, pid, tid))
    thread_named(p, t, st.comm);
  t->id = ss_store_thread(p->config.store, &t->row);
  t->ledger = ss_ledger_birth(p->ledger, t->id, proc->phase, time_ns, on_cpu);
  t->ran = true;
  if (t->ledger == NULL ||
      !ss_idmap_put(&p->by_tid, (uint64_t)tid, (uint64_t)(uintptr_t)t)) {
    if (t->ledger)
      ss_ledger_end(t->ledger, time_ns);
    free(t);
    return NULL;
  }
  if (proc->blind)
    ss_capture_tally(p->config.capture, tid, time_ns);
  t->next = proc->threads;
  proc->threads = t;
  p->n_threads++;
  if (!p->facts.switches || proc->blind) {
    ss_ledger_blind(t->ledger, time_ns, true);
    ss_looking_blind(p, t, true);
  }
  return t;
}

struct ss_thread *ss_tracked_thread(struct ss_pipeline *p, pid_t pid, pid_t tid,
                                    uint64_t time_ns, bool on_cpu)
{
  return thread_get(p, pid, tid, time_ns, on_cpu, 0);
}

/* It would run at once if a CPU were free: runnable, not waiting. */
static void newborn(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_thread *t =
      thread_get(p, rec->pid, rec->tid, rec->time_ns, false, rec->u.task.ptid);

  if (t && !t->blind)
    ss_ledger_switch(t->ledger, rec->time_ns, true, true);
}

static void seed_process(struct ss_pipeline *p, pid_t pid, uint64_t time_ns)
{
  uint64_t cpu_ns, wait_ns;
  pid_t *tids = NULL;
  size_t count = 0;
  struct ss_stat st;

  if (ss_tasks_list(pid, &tids, &count) != SS_ERR_OK)
    return;
  for (size_t i = 0; i < count; i++) {
    bool runs = ss_stat_read(&st, pid, tids[i]) && st.state == 'R';
    struct ss_thread *t = ss_tracked_thread(p, pid, tids[i], time_ns, runs);
    /* What it used before is not ours to account. */
    if (t && ss_schedstat_read(pid, tids[i], &cpu_ns, &wait_ns))
      ss_ledger_base(t->ledger, cpu_ns, wait_ns);
    if (t)
      ss_looking_switch(p, t, time_ns, !runs);
  }
  free(tids);
}

void ss_tracked_seed(struct ss_pipeline *p, pid_t root, uint64_t time_ns)
{
  pid_t *pids = NULL;
  size_t count = 0;

  seed_process(p, root, time_ns);
  if (p->config.no_children || ss_tree_list(root, &pids, &count) != SS_ERR_OK)
    return;
  for (size_t i = 0; i < count; i++)
    if (pids[i] != root)
      seed_process(p, pids[i], time_ns);
  free(pids);
}

void ss_tracked_fork(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_process *parent, *child;

  if (rec->pid == rec->u.task.ppid) { /* a thread */
    newborn(p, rec);
    return;
  }
  if (p->config.no_children)
    return;
  parent = ss_tracked_find_process(p, rec->u.task.ppid);
  child = ss_tracked_find_process(p, rec->pid);
  if (child) /* the number came back */
    ss_tracked_exit(p, rec->pid, rec->pid, rec->time_ns);
  child = process_new(p, rec->pid, rec->time_ns);
  if (child == NULL)
    return;
  child->row.ppid = rec->u.task.ppid;
  child->ppid = rec->u.task.ppid;
  if (parent) { /* a fork is a copy: mappings, command, and the running test */
    if (ss_maps_copy(&child->maps, &parent->maps) == SS_ERR_OK)
      child->maps_read_ns = parent->maps_read_ns;
    child->row.label = parent->row.label;
    child->row.command = parent->row.command;
    child->pytest = parent->pytest;
    ss_phases_look(p, parent, &parent->live.mem, rec->time_ns, ss_now_ns());
    ss_phases_inherit(child, parent, rec->time_ns);
    ss_store_process_update(p->config.store, child->id, &child->row);
  }
  ss_phases_start(p, child, rec->time_ns);
  newborn(p, rec);
}

/* ---- changes --------------------------------------------------------------------- */

void ss_tracked_exec(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_process *proc = ss_tracked_process(p, rec->pid, rec->time_ns);

  if (proc == NULL)
    return;
  forget_image(p, proc);
  ss_maps_clear(&proc->maps);
  proc->maps_read_ns = 0;
  for (struct ss_thread *t = proc->threads; t; t = t->next) {
    t->plan_key = 0;
    t->planned = false;
    t->n_outer = 0;
    t->depth = (struct ss_depth){0};
    t->has_python = false;
  }
  describe(p, proc);
  ss_phases_start(p, proc, rec->time_ns);
}

void ss_tracked_comm(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_thread *t;

  if (rec->u.comm.exec)
    ss_tracked_exec(p, rec);
  t = ss_tracked_thread(p, rec->pid, rec->tid, rec->time_ns, true);
  if (t == NULL)
    return;
  thread_named(p, t, rec->u.comm.comm);
  ss_store_thread_update(p->config.store, t->id, &t->row);
}

void ss_tracked_mmap(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_process *proc = ss_tracked_process(p, rec->pid, rec->time_ns);
  struct ss_map map = rec->u.mmap.map;
  const char *path = rec->u.mmap.path;

  if (proc == NULL || rec->time_ns <= proc->maps_read_ns)
    return;
  map.path = path[0] == '\0' || ss_starts_with(path, "//anon")
                 ? SS_ID_NONE
                 : ss_paths_intern(p->paths, path, strlen(path));
  if (ss_maps_insert(&proc->maps, &map) != SS_ERR_OK)
    p->n_rejected++;
}

/* As with perf's records, which do not tell what is unmapped, it stays until something
 * else lies there: samples of it are still to come. */
static bool reread_maps(struct ss_process *proc)
{
  struct ss_maps now;
  ss_maps_init(&now, proc->maps.paths);
  proc->maps_read_ns = ss_now_ns();
  if (ss_maps_load(&now, proc->pid, NULL) != SS_ERR_OK) {
    ss_maps_release(&now);
    return false;
  }
  (void)ss_maps_keep(&now, &proc->maps);
  now.generation += proc->maps.generation;
  ss_maps_release(&proc->maps);
  proc->maps = now;
  return true;
}

struct ss_map *ss_tracked_map(struct ss_process *proc, uint64_t addr, uint64_t now_ns)
{
  struct ss_map *map = ss_maps_find(&proc->maps, addr);

  if (map || (proc->maps_read_ns && now_ns < proc->maps_read_ns + MAPS_REREAD_NS))
    return map;
  return reread_maps(proc) ? ss_maps_find(&proc->maps, addr) : NULL;
}

void ss_tracked_remap(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_process *proc = ss_tracked_find_process(p, rec->pid);

  if (proc != NULL && proc->maps_read_ns != 0) /* else read when first needed */
    (void)reread_maps(proc);
}

/* Its clocks as the kernel has them now. Where its switches are dropped, what it runs
 * from here on is added up for its end, when they cannot be read any more. */
bool ss_tracked_read(struct ss_pipeline *p, struct ss_thread *t, uint64_t time_ns)
{
  uint64_t cpu_ns, wait_ns;

  if (!ss_schedstat_read(t->process->pid, t->tid, &cpu_ns, &wait_ns))
    return false;
  ss_ledger_schedstat(t->ledger, time_ns, cpu_ns, wait_ns);
  t->clock_cpu_ns = cpu_ns;
  t->clock_wait_ns = wait_ns;
  if (t->process->blind)
    ss_capture_tally(p->config.capture, t->tid, ss_now_ns());
  t->ran = false;
  return true;
}

/* A leader stays a zombie until it is waited for, and can still be read. */
static void read_last(struct ss_pipeline *p, struct ss_thread *t, uint64_t time_ns)
{
  uint64_t ran_ns, outs;

  if (ss_tracked_read(p, t, time_ns) || !t->process->blind)
    return;
  ss_capture_tallied(p->config.capture, t->tid, &ran_ns, &outs);
  ran_ns += ss_ledger_switch_cost_ns(p->ledger, outs);
  ss_ledger_schedstat(t->ledger, time_ns, t->clock_cpu_ns + ran_ns, t->clock_wait_ns);
}

void ss_tracked_usage(struct ss_pipeline *p, const struct ss_record *rec)
{
  struct ss_thread *t = thread_find(p, rec->tid);

  if (t && t->process->pid == rec->pid)
    ss_ledger_schedstat(t->ledger, rec->time_ns, rec->u.usage.cpu_ns,
                        rec->u.usage.runqueue_ns);
}

void ss_tracked_schedstat(struct ss_pipeline *p, uint64_t now_ns)
{
  if (now_ns < p->schedstat_ns + SCHEDSTAT_NS)
    return;
  p->schedstat_ns = now_ns;
  ss_throttle_tick(p, now_ns);
  for (struct ss_process *proc = p->processes; proc; proc = proc->next)
    for (struct ss_thread *t = proc->threads; t; t = t->next)
      if (t->ran || proc->blind)
        ss_tracked_read(p, t, ss_now_ns());
}

/* ---- end ------------------------------------------------------------------------- */

static void thread_end(struct ss_pipeline *p, struct ss_thread *t, uint64_t time_ns)
{
  struct ss_process *proc = t->process;
  struct ss_thread **link = &proc->threads;

  ss_roles_assign(p, t);
  ss_looking_forget(p, t);
  t->row.end_ns = time_ns;
  t->row.cpu_ns = ss_ledger_end(t->ledger, time_ns);
  ss_store_thread_update(p->config.store, t->id, &t->row);
  if (proc->blind)
    ss_capture_tally(p->config.capture, t->tid, 0);
  if (t->planned)
    ss_capture_set_plan(p->config.capture, proc->pid, t->tid,
                        &(struct ss_read_plan){.count = 0});
  while (*link && *link != t)
    link = &(*link)->next;
  if (*link)
    *link = t->next;
  ss_idmap_del(&p->by_tid, (uint64_t)t->tid);
  p->n_threads--;
  ss_stacking_forget(p, t);
  free(t);
}

static void process_end(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns)
{
  struct ss_process **link = &p->processes;

  ss_phases_end(p, proc, time_ns);
  ss_flood_end(p, proc);
  proc->row.end_ns = time_ns;
  ss_store_process_update(p->config.store, proc->id, &proc->row);
  forget_image(p, proc);
  while (*link && *link != proc)
    link = &(*link)->next;
  if (*link)
    *link = proc->next;
  pthread_mutex_lock(&p->now_lock);
  ss_idmap_del(&p->by_pid, (uint64_t)proc->pid);
  pthread_mutex_unlock(&p->now_lock);
  p->n_processes--;
  ss_maps_release(&proc->maps);
  ss_mem_live_release(&proc->live);
  ss_testenv_release(&proc->env);
  free(proc);
}

void ss_tracked_exit(struct ss_pipeline *p, pid_t pid, pid_t tid, uint64_t time_ns)
{
  struct ss_process *proc = ss_tracked_find_process(p, pid);
  struct ss_thread *t = thread_find(p, tid);

  if (t && t->process->pid == pid) {
    read_last(p, t, time_ns);
    thread_end(p, t, time_ns);
  }
  if (proc && proc->threads == NULL)
    process_end(p, proc, time_ns);
}

void ss_tracked_all_ran(struct ss_pipeline *p)
{
  for (struct ss_process *proc = p->processes; proc; proc = proc->next)
    for (struct ss_thread *t = proc->threads; t; t = t->next)
      t->ran = true;
}

void ss_tracked_end_all(struct ss_pipeline *p, uint64_t end_ns)
{
  p->schedstat_ns = 0; /* whatever was read last, read it once more */
  ss_tracked_schedstat(p, ss_now_ns());
  for (struct ss_process *proc = p->processes, *next; proc; proc = next) {
    next = proc->next;
    for (struct ss_thread *t = proc->threads, *after; t; t = after) {
      after = t->next;
      thread_end(p, t, end_ns);
    }
    process_end(p, proc, end_ns);
  }
}

void ss_tracked_free(struct ss_pipeline *p)
{
  ss_idmap_release(&p->by_pid);
  ss_idmap_release(&p->by_tid);
  ss_idmap_release(&p->occurrences);
  ss_idmap_release(&p->module_rows);
  ss_idmap_release(&p->kernel_frames);
}
