/*
 * Causes of a slow or hung run that waits: what the threads waited for that the run
 * depends on. These are the main threads of the processes that run tests (without
 * tests, of the command's own process): other threads may wait all the time for work
 * and mean nothing.
 *
 * The share is one of these threads' lives. A wait is called by its reason, the leaf
 * of its stack, and by the command's own function that led to it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "causes_priv.h"
#include "stacksample/meta.h"
#include "stacksample/text.h"

#define SLOW_LEAST_NS 1000000000ull /* a shorter run is not slow */
#define SHARE_LEAST 10.0            /* percent of the time that is worth telling */
enum { EVIDENCE_ROWS = 3 };

/* ---- kinds ----------------------------------------------------------------------- */

enum kind {
  GIL,
  LOCK,
  THREAD,
  CHILD,
  DISK,
  NETWORK,
  PIPE,
  DEVICE,
  SLEEP,
  POLL,
  THROTTLED,
  STARVED,
  OTHER,
  KINDS,
};
static const struct {
  const char *name, *title, *text;
  const char *small; /* in the list of what is no cause; NULL: not told */
  bool others;       /* what the other threads did says more */
  const char *view;  /* as for ss_cause_view */
  const char *attempt;
} kinds[KINDS] = {
    {"gil_contention", "Waiting for the GIL", "other threads hold the interpreter's lock",
     "the GIL", true, "state=gil", NULL},
    {"lock_contention", "Waiting for locks", "something else holds the lock", "locks",
     true, "state=lock", NULL},
    {"thread_wait", "Waiting for other threads",
     "another thread has to act first, or to end", NULL, true, "state=waiting", NULL},
    {"child_wait", "Waiting for child processes", "a child process has to end first",
     "child processes", false, "state=child", NULL},
    {"disk_wait", "Waiting for the disk", "files are read or written", "the disk", false,
     "state=io", NULL},
    {"network_wait", "Waiting for the network", "the other end of a connection is silent",
     "the network", false, "state=io", NULL},
    {"pipe_wait", "Waiting for a pipe or local socket",
     "another process or thread has to write or read first", NULL, true, "state=io",
     NULL},
    {"device_wait", "Waiting for a terminal or device",
     "input has to come, or output to be taken", NULL, false, "state=io", NULL},
    {"sleep", "Sleeping", "the code asks for it", "a time to pass", false, "state=sleep",
     NULL},
    {"poll_wait", "Waiting for descriptors", "none of those that are polled is ready",
     NULL, true, "state=wait", NULL},
    {"cpu_throttled", "Held back by a CPU quota",
     "the cgroup it runs in has used up its share of the CPUs", NULL, false,
     "state=runnable",
     "a larger CPU quota of the container or cgroup, or fewer threads (OMP_NUM_THREADS)"},
    {"cpu_starved", "Waiting for a CPU", "it could run, but other programs have the CPUs",
     "a free CPU", false, "state=runnable",
     "the same on a machine that does nothing else"},
    {"other_wait", "Waiting", "what for is in its stacks", NULL, true, "state=wait",
     NULL},
};

/* The first row that begins a reason tells its kind. */
static const struct {
  const char *reason;
  enum kind kind;
} reasons[] = {
    {"[gil", GIL},
    {"[lock", LOCK},
    {"[child", CHILD},
    {"[sleep", SLEEP},
    {"[io: disk", DISK},
    {"[io: network", NETWORK},
    {"[io: terminal", DEVICE},
    {"[io: device", DEVICE},
    {"[io", PIPE},
    {"[wait: condition", THREAD},
    {"[wait: barrier", THREAD},
    {"[wait: thread's end", THREAD},
    {"[wait: OpenMP", THREAD},
    {"[wait: futex", THREAD},
    {"[wait: poll", POLL},
    {"[wait: ppoll", POLL},
    {"[wait: select", POLL},
    {"[wait: pselect", POLL},
    {"[wait: epoll", POLL},
    {"[wait: eventfd", POLL},
    {"[runnable: throttled", THROTTLED},
    {"[runnable", STARVED},
    {"[wait", OTHER},
};

/* A lock is how Condition, Event, Queue and join of Python wait for a thread. */
static bool is_thread_wait(const struct ss_profile *p, const struct ss_frame_row *python)
{
  const char *name = ss_profile_str(p, python->name);

  return strcmp(ss_base_name(ss_profile_str(p, python->file)), "threading.py") == 0 &&
         (strstr(name, "wait") || strstr(name, "join"));
}

/* ---- where ----------------------------------------------------------------------- */

struct place {
  uint32_t reason;      /* text id */
  uint32_t frame, line; /* the command's own, else the innermost Python one */
  uint32_t kind;
};
struct row {
  struct place place;
  uint64_t ns;
  uint32_t inner; /* the innermost Python node of the longest of them */
  uint64_t inner_ns;
};
struct waits {
  struct ss_figures *f;
  bool *critical; /* by process */
  bool tests;     /* they run tests */
  uint64_t life_ns, ns[KINDS];
  struct ss_interner places; /* struct place -> row */
  struct row *rows;          /* NULL: none */
  size_t cap;
  struct ss_idmap phases; /* kind and phase -> ns */
  struct ss_idmap pids;   /* of the critical processes */
};

static const struct ss_frame_row *python_at(const struct ss_profile *p, uint32_t stack)
{
  const struct ss_frame_row *f = &p->frames[p->stacks[stack].frame];
  return f->kind == SS_FRAME_PYTHON ? f : NULL;
}

static uint32_t next_python(const struct ss_profile *p, uint32_t stack)
{
  while (stack < p->n_stacks && !python_at(p, stack))
    stack = p->stacks[stack].parent;
  return stack < p->n_stacks ? stack : SS_ID_NONE;
}

/* The innermost Python node of the command's own code, or SS_ID_NONE. */
static uint32_t own_python(const struct ss_profile *p, uint32_t stack)
{
  stack = next_python(p, stack);
  while (stack != SS_ID_NONE &&
         ss_file_is_library(ss_profile_str(p, python_at(p, stack)->file)))
    stack = next_python(p, p->stacks[stack].parent);
  return stack;
}

static enum kind kind_of(const struct ss_profile *p, const char *reason, uint32_t inner)
{
  enum kind kind = OTHER;

  for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
    if (ss_starts_with(reason, reasons[i].reason)) {
      kind = reasons[i].kind;
      break;
    }
  if (kind == LOCK && inner != SS_ID_NONE && is_thread_wait(p, python_at(p, inner)))
    return THREAD;
  return kind;
}

static struct row *row_of(struct waits *w, const struct place *place)
{
  size_t before = w->places.count;
  uint32_t id = ss_intern(&w->places, place, sizeof(*place));

  if (id == SS_ID_NONE || !ss_grow(&w->rows, &w->cap, id + 1, sizeof(*w->rows)))
    return NULL;
  if (id == before)
    w->rows[id] = (struct row){.place = *place, .inner = SS_ID_NONE};
  return &w->rows[id];
}

static bool add(struct waits *w, const struct ss_total *t)
{
  const struct ss_profile *p = w->f->p;
  bool plain = ss_texts_wants_wait(&w->f->texts, t->state, t->stack);
  uint32_t reason = plain ? ss_texts_wait(&w->f->texts, t->state)
                          : ss_texts_frame(&w->f->texts, p->stacks[t->stack].frame);
  uint32_t inner = next_python(p, t->stack), own = own_python(p, t->stack);
  uint32_t at = own != SS_ID_NONE ? own : inner;

  if (reason == SS_ID_NONE)
    return false;
  enum kind kind = kind_of(p, ss_texts_str(&w->f->texts, reason, NULL), inner);
  struct place place = {reason, SS_ID_NONE, 0, kind};
  if (at != SS_ID_NONE) {
    place.frame = p->stacks[at].frame;
    place.line = (uint32_t)p->stacks[at].line;
  }
  struct row *row = row_of(w, &place);
  if (row == NULL)
    return false;
  row->ns += t->weight_ns;
  if (t->weight_ns > row->inner_ns) {
    row->inner = inner;
    row->inner_ns = t->weight_ns;
  }
  w->ns[kind] += t->weight_ns;
  return ss_idmap_add(&w->phases, (uint64_t)kind << 32 | t->phase, t->weight_ns);
}

/* ---- whose ----------------------------------------------------------------------- */

static bool is_main(const struct ss_profile *p, uint32_t thread)
{
  const struct ss_thread_row *t = &p->threads[thread];
  return t->tid == p->processes[t->process].pid;
}

static bool is_counted(uint8_t state)
{
  return ss_state_waiting(state) || state == SS_STATE_RUNNABLE;
}

static uint64_t life_of(const struct ss_figures *f, uint32_t process)
{
  const struct ss_process_row *row = &f->p->processes[process];
  uint64_t start = row->start_ns > f->start_ns ? row->start_ns : f->start_ns;
  uint64_t end = row->end_ns > 0 && row->end_ns < f->end_ns ? row->end_ns : f->end_ns;
  return end > start ? end - start : 0;
}

static bool mark_tested(struct waits *w, bool collection)
{
  const struct ss_profile *p = w->f->p;
  bool any = false;

  for (size_t i = 0; i < p->n_phases; i++) {
    if (!collection && !*ss_profile_str(p, p->phases[i].phase))
      continue;
    w->critical[p->phases[i].process] = any = true;
  }
  return any;
}

/* The child that lived longest while its parent waited for children, most of its life;
 * SS_ID_NONE: there is none. What a shell started is what was meant. */
static uint32_t awaited_child(const struct ss_figures *f, uint32_t process)
{
  const struct ss_profile *p = f->p;
  uint64_t waited = 0, life = 0;
  uint32_t found = SS_ID_NONE;

  for (uint32_t i = 0; i < p->n_threads; i++)
    if (p->threads[i].process == process && is_main(p, i))
      waited += f->threads[i].ns[SS_STATE_CHILD];
  if (waited < life_of(f, process) / 2)
    return SS_ID_NONE;
  for (uint32_t i = process + 1; i < p->n_processes; i++)
    if (p->processes[i].ppid == p->processes[process].pid && life_of(f, i) > life) {
      life = life_of(f, i);
      found = i;
    }
  return found;
}

static void mark(struct waits *w)
{
  uint32_t process = 0;

  w->tests = mark_tested(w, false);
  if (w->tests || mark_tested(w, true))
    return;
  for (uint32_t child = 0; child != SS_ID_NONE; child = awaited_child(w->f, process))
    process = child;
  w->critical[process] = true;
}

static bool gather(struct waits *w, struct ss_figures *f)
{
  const struct ss_profile *p = f->p;
  bool ok = true;

  *w = (struct waits){.f = f, .critical = calloc(p->n_processes + 1, sizeof(bool))};
  if (!w->critical)
    return false;
  mark(w);
  for (uint32_t i = 0; i < p->n_processes && ok; i++) {
    if (!w->critical[i])
      continue;
    w->life_ns += life_of(f, i);
    ok = ss_idmap_put(&w->pids, (uint64_t)p->processes[i].pid, i);
  }
  for (size_t i = 0; i < p->n_totals && ok; i++) {
    const struct ss_total *t = &p->totals[i];
    if (t->weight_ns > 0 && is_counted(t->state) && is_main(p, t->thread) &&
        w->critical[p->threads[t->thread].process])
      ok = add(w, t);
  }
  return ok;
}

static void waits_release(struct waits *w)
{
  free(w->critical);
  free(w->rows);
  ss_interner_release(&w->places);
  ss_idmap_release(&w->phases);
  ss_idmap_release(&w->pids);
}

/* ---- said ------------------------------------------------------------------------- */

static int longest_first(const void *a, const void *b)
{
  const struct row *x = a, *y = b;

  if (x->ns != y->ns)
    return x->ns < y->ns ? 1 : -1;
  return memcmp(&x->place, &y->place, sizeof(x->place));
}

static const struct row *first_of(const struct waits *w, enum kind kind)
{
  for (size_t i = 0; w->rows && i < w->places.count; i++)
    if (w->rows[i].place.kind == kind)
      return &w->rows[i];
  return NULL;
}

static void put_place(struct ss_buf *out, struct ss_figures *f, const struct row *row)
{
  struct ss_site site = {row->place.frame, (int)row->place.line, row->ns};
  ss_put_site(out, f, &site);
}

/* "4.24 s [lock: Python lock] in test_queue (test_h.py:4), line 5, by Condition.wait
 * (threading.py:288), line 320" */
static void add_row(struct waits *w, struct ss_cause *c, const struct row *row)
{
  const struct ss_profile *p = w->f->p;
  struct ss_buf line = {0};

  ss_put_seconds(&line, row->ns);
  ss_buf_addf(&line, " s %s", ss_texts_str(&w->f->texts, row->place.reason, NULL));
  if (row->inner != SS_ID_NONE) {
    const struct ss_stack_row *node = &p->stacks[row->inner];
    struct ss_site inner = {node->frame, node->line, row->ns};
    ss_buf_adds(&line, " in ");
    put_place(&line, w->f, row);
    if (inner.frame != row->place.frame) {
      ss_buf_adds(&line, ", by ");
      ss_put_site(&line, w->f, &inner);
    }
  }
  ss_cause_line(c->evidence, &line);
  ss_buf_release(&line);
}

static void add_rows(struct waits *w, struct ss_cause *c, enum kind kind)
{
  size_t shown = 0;

  for (size_t i = 0; w->rows && i < w->places.count && shown < EVIDENCE_ROWS; i++)
    if (w->rows[i].place.kind == kind && w->rows[i].ns >= w->ns[kind] / 20) {
      add_row(w, c, &w->rows[i]);
      shown++;
    }
}

static void add_phase(struct waits *w, struct ss_cause *c, enum kind kind)
{
  struct ss_buf line = {0};
  uint64_t key, ns, most_ns = 0;
  uint32_t most = SS_ID_NONE;
  size_t pos = 0;

  while (ss_idmap_next(&w->phases, &pos, &key, &ns))
    if (key >> 32 == kind && ns > most_ns) {
      most_ns = ns;
      most = (uint32_t)key;
    }
  if (most != SS_ID_NONE && most_ns >= w->ns[kind] / 2) {
    ss_put_seconds(&line, most_ns);
    ss_buf_addf(&line, " s of it in %s",
                ss_texts_str(&w->f->texts, ss_phase_text(&w->f->texts, most), NULL));
  }
  ss_cause_line(c->evidence, &line);
  ss_buf_release(&line);
}

static void add_child(struct waits *w, struct ss_cause *c, uint32_t process)
{
  const struct ss_profile *p = w->f->p;
  const struct ss_process_row *row = &p->processes[process];
  struct ss_buf line = {0};
  uint64_t ran = 0;

  for (uint32_t i = 0; i < p->n_threads; i++)
    ran += p->threads[i].process == process ? ss_spent_running(&w->f->threads[i]) : 0;
  ss_buf_addf(&line, "child %lld lived ", (long long)row->pid);
  ss_put_seconds(&line, life_of(w->f, process));
  ss_buf_adds(&line, " s and used ");
  ss_put_seconds(&line, ran);
  ss_buf_addf(&line, " s of CPU time: %s", ss_profile_str(p, row->command));
  ss_cause_line(c->evidence, &line);
  ss_buf_release(&line);
}

/* The children of these processes that lived longest. */
static void add_children(struct waits *w, struct ss_cause *c)
{
  const struct ss_profile *p = w->f->p;
  uint64_t shorter_than = UINT64_MAX;

  for (size_t n = 0; n < EVIDENCE_ROWS; n++) {
    uint32_t longest = SS_ID_NONE;
    uint64_t most_ns = w->ns[CHILD] / 20;
    for (uint32_t i = 0; i < p->n_processes; i++) {
      uint64_t life_ns = life_of(w->f, i);
      if (life_ns < shorter_than && life_ns > most_ns &&
          ss_idmap_get(&w->pids, (uint64_t)p->processes[i].ppid)) {
        longest = i;
        most_ns = life_ns;
      }
    }
    if (longest == SS_ID_NONE)
      return;
    add_child(w, c, longest);
    shorter_than = most_ns;
  }
}

/* The last dump is the one that shows who waits for whom at the end. */
static void add_dump(struct waits *w, struct ss_cause *c)
{
  cJSON *dumps = ss_json_meta(w->f->p, SS_META_DUMPS);
  const cJSON *last = cJSON_GetArrayItem(dumps, cJSON_GetArraySize(dumps) - 1);
  const char *file = ss_json_get(last, "file");
  struct ss_buf line = {0};

  if (file)
    ss_buf_addf(&line, "reading %s: what every other thread did meanwhile", file);
  ss_cause_line(c->attempts, &line);
  ss_buf_release(&line);
  cJSON_Delete(dumps);
}

static void fill(struct waits *w, struct ss_cause *c, enum kind kind)
{
  const struct row *first = first_of(w, kind);

  ss_buf_addf(&c->text, "The main thread%s waits: %s", w->tests ? " of the tests" : "",
              kinds[kind].text);
  if (first && first->inner != SS_ID_NONE) {
    ss_buf_adds(&c->text, "; most of it in ");
    put_place(&c->text, w->f, first);
  }
  add_rows(w, c, kind);
  if (w->tests)
    add_phase(w, c, kind);
  if (kind == CHILD)
    add_children(w, c);
  ss_cause_view(c, kinds[kind].view);
  if (kinds[kind].others)
    add_dump(w, c);
}

/* Where threads of the command take each other's CPUs, that is said already. */
static bool is_said(const struct ss_causes *causes, enum kind kind)
{
  for (size_t i = 0; i < causes->count && kind == STARVED; i++)
    if (strcmp(causes->items[i].name, "oversubscription") == 0)
      return true;
  return false;
}

static void judge(struct waits *w, struct ss_causes *causes, enum kind kind)
{
  double share = w->life_ns ? 100 * (double)w->ns[kind] / (double)w->life_ns : 0;

  if (is_said(causes, kind))
    return;
  if (share >= SHARE_LEAST) {
    struct ss_cause *c =
        ss_cause_add(causes, kinds[kind].name, kinds[kind].title, "wall");
    c->share_pct = c->weight_pct = fmin(100, share);
    c->ns = w->ns[kind];
    fill(w, c, kind);
    if (kinds[kind].attempt)
      ss_json_item(c->attempts, NULL, cJSON_CreateString(kinds[kind].attempt));
  } else if (kinds[kind].small) {
    ss_cause_dismiss(&causes->no_waits, kinds[kind].small, share);
  }
}

enum ss_err ss_cause_waits(struct ss_causes *causes, struct ss_figures *f,
                           struct ss_diag *diag)
{
  struct waits w;

  if (f->p->n_processes == 0)
    return SS_ERR_OK;
  bool ok = gather(&w, f);
  if (ok && w.rows)
    qsort(w.rows, w.places.count, sizeof(*w.rows), longest_first);
  bool slow = w.life_ns >= SLOW_LEAST_NS;
  for (enum kind kind = 0; ok && slow && kind < KINDS; kind++)
    judge(&w, causes, kind);
  waits_release(&w);
  return ok ? SS_ERR_OK : ss_fail(diag, SS_ERR_NOMEM, "out of memory for the summary");
}
