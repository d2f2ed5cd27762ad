/*
 * A look as text: the tree, the test, the threads, main thread first, innermost
 * frame first. Threads whose stacks are equal are printed once.
 *
 * Everything that came from the target passes the terminal escaper.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/escape.h"
#include "stacksample/output.h"
#include "stacksample/text.h"

#include "look_priv.h"

#define COMMAND_MAX 120 /* bytes of a command line that are shown */
#define SOURCE_COLUMN 48

/* ---- pieces ---------------------------------------------------------------------- */

static void add_text(struct ss_buf *out, const char *text)
{
  ss_escape_terminal(out, text ? text : "?", strlen(text ? text : "?"));
}

/* "41.2 s", "11:52", "2:03:04" */
static void add_time(struct ss_buf *out, uint64_t ns)
{
  uint64_t s = ns / 1000000000;

  if (ns < 60 * UINT64_C(1000000000))
    ss_buf_addf(out, "%.1f s", (double)ns / 1e9);
  else if (s < 3600)
    ss_buf_addf(out, "%" PRIu64 ":%02" PRIu64, s / 60, s % 60);
  else
    ss_buf_addf(out, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60,
                s % 60);
}

static void add_python(struct ss_buf *out, pid_t pid, const struct ss_look_frame *f,
                       const char *cwd)
{
  size_t start = out->len;

  ss_buf_adds(out, "  python  ");
  add_text(out, f->name);
  ss_buf_adds(out, " (");
  add_text(out, ss_file_shown(f->file, cwd));
  ss_buf_addf(out, ":%d)", f->line > 0 ? f->line : f->first_line);
  ss_buf_addc(out, ' ');
  do
    ss_buf_addc(out, ' ');
  while (out->len - start < SOURCE_COLUMN);
  ss_look_source(out, pid, f->file, f->line);
  while (out->len > 0 && out->data[out->len - 1] == ' ')
    out->data[--out->len] = '\0';
}

static void add_native(struct ss_buf *out, const struct ss_look_frame *f)
{
  ss_buf_adds(out, f->task ? "  " : "  native  ");
  if (f->name) {
    add_text(out, f->name);
    if (f->module) {
      ss_buf_adds(out, " (");
      add_text(out, f->module);
      ss_buf_addc(out, ')');
    }
  } else if (f->module) {
    add_text(out, f->module);
    ss_buf_addf(out, "+0x%" PRIx64, f->offset);
  } else {
    ss_buf_addf(out, "0x%" PRIx64 " (no file)", f->offset);
  }
}

/* Machinery: the same thirty frames in every stack, of no use to most readers. */
enum machinery { NOT_MACHINERY, PYTEST, IMPORT };
static const char *const machinery_words[] = {"", "pytest", "import"};
#define FOLD_FROM 4 /* frames; fewer are printed */

static enum machinery machinery_of(const struct ss_look_frame *f)
{
  static const char *const pytest[] = {"/_pytest/", "/pluggy/", "/xdist/", "/execnet/"};

  if (!f->python || !f->file)
    return NOT_MACHINERY;
  for (size_t i = 0; i < sizeof(pytest) / sizeof(pytest[0]); i++)
    if (strstr(f->file, pytest[i]))
      return PYTEST;
  return ss_starts_with(f->file, "<frozen importlib") ? IMPORT : NOT_MACHINERY;
}

/* How many frames from `i` on are one stretch of machinery, with the native ones
 * between. */
static size_t machinery_run(const struct ss_look_thread *t, size_t i)
{
  enum machinery kind = machinery_of(&t->frames[i]);
  size_t frames = 0;

  for (size_t n = 0; kind && i + n < t->n_frames; n++) {
    const struct ss_look_frame *f = &t->frames[i + n];
    if (machinery_of(f) == kind)
      frames = n + 1;
    else if (f->python)
      break;
  }
  return frames;
}

static void add_frames(struct ss_buf *out, const struct ss_look_thread *t,
                       const struct ss_look_print *print)
{
  for (size_t i = 0; i < t->n_frames; i++) {
    size_t run = print->full ? 0 : machinery_run(t, i);
    if (run >= FOLD_FROM) {
      ss_buf_addf(out, "  ... %zu frames of %s (--full)\n", run,
                  machinery_words[machinery_of(&t->frames[i])]);
      i += run - 1;
      continue;
    }
    if (t->frames[i].python)
      add_python(out, t->pid, &t->frames[i], print->cwd);
    else
      add_native(out, &t->frames[i]);
    ss_buf_addc(out, '\n');
  }
  if (t->why)
    ss_buf_addf(out, "  (%s)\n", t->why);
}

/* ---- threads --------------------------------------------------------------------- */

static bool same_frame(const struct ss_look_frame *a, const struct ss_look_frame *b)
{
  if (a->python != b->python || a->line != b->line || a->offset != b->offset)
    return false;
  return strcmp(a->name ? a->name : "", b->name ? b->name : "") == 0 &&
         strcmp(a->module ? a->module : "", b->module ? b->module : "") == 0 &&
         strcmp(a->file ? a->file : "", b->file ? b->file : "") == 0;
}

static bool same_stack(const struct ss_look_thread *a, const struct ss_look_thread *b)
{
  if (a->pid != b->pid || a->state != b->state || a->n_frames != b->n_frames ||
      a->n_frames == 0 || strcmp(a->role, b->role) != 0)
    return false;
  for (size_t i = 0; i < a->n_frames; i++)
    if (!same_frame(&a->frames[i], &b->frames[i]))
      return false;
  return true;
}

static void add_call(struct ss_buf *out, const struct ss_look_thread *t)
{
  if (t->syscall == NULL)
    return;
  ss_buf_addf(out, "  %s(", t->syscall);
  if (t->object)
    ss_buf_adds(out, t->object);
  ss_buf_addc(out, ')');
}

/* Threads that are printed once, by what they have in common. */
enum { NAMES_SHOWN = 4 };
struct alike {
  size_t count;
  pid_t last;
  const char *names[NAMES_SHOWN]; /* different ones, in order */
  size_t n_names;                 /* one more than NAMES_SHOWN: and others */
  size_t prefix;                  /* bytes with which all their names begin */
  bool same_call;
};

static bool same_call(const struct ss_look_thread *a, const struct ss_look_thread *b)
{
  return strcmp(a->syscall ? a->syscall : "", b->syscall ? b->syscall : "") == 0 &&
         strcmp(a->object ? a->object : "", b->object ? b->object : "") == 0;
}

static void add_alike(struct alike *a, const struct ss_look_thread *first,
                      const struct ss_look_thread *t)
{
  size_t n = 0, known = 0;

  while (n < a->prefix && first->name[n] == t->name[n])
    n++;
  while (known < a->n_names && known < NAMES_SHOWN &&
         strcmp(a->names[known], t->name) != 0)
    known++;
  if (known == a->n_names && known < NAMES_SHOWN)
    a->names[known] = t->name;
  if (known == a->n_names)
    a->n_names++;
  a->same_call = a->same_call && same_call(first, t);
  a->prefix = n;
  a->last = t->tid;
  a->count++;
}

/* "loader", "OpenMP worker x 95", "loader, saver x 2", "member-* x 200" */
static void add_name(struct ss_buf *out, const struct ss_look_thread *t,
                     const struct alike *a)
{
  bool many = a->n_names > NAMES_SHOWN;

  if (a->count > 1 && strcmp(t->role, "openmp") == 0) {
    ss_buf_adds(out, "OpenMP worker");
  } else if (many && a->prefix > 0) {
    ss_escape_terminal(out, t->name, a->prefix);
    ss_buf_addc(out, '*');
  } else {
    for (size_t i = 0; i < a->n_names && i < NAMES_SHOWN; i++) {
      ss_buf_adds(out, i > 0 ? ", " : "");
      add_text(out, a->names[i]);
    }
    ss_buf_adds(out, many ? ", ..." : "");
  }
  if (a->count > 1)
    ss_buf_addf(out, " x %zu", a->count);
}

static void add_heading(struct ss_buf *out, const struct ss_look_thread *t,
                        const struct alike *a)
{
  if (a->count > 1)
    ss_buf_addf(out, "thread %d..%d ", (int)t->tid, (int)a->last);
  else
    ss_buf_addf(out, "thread %d ", (int)t->tid);
  add_name(out, t, a);
  ss_buf_addf(out, "  %s", ss_state_word(t->state));
  if (t->uninterruptible)
    ss_buf_adds(out, " (uninterruptible)");
  if (t->state == SS_STATE_GIL && t->gil_holder > 0)
    ss_buf_addf(out, " (held by %d)", (int)t->gil_holder);
  if (t->for_ns != SS_LOOK_UNKNOWN && t->for_ns > 0) {
    ss_buf_adds(out, "  ");
    add_time(out, t->for_ns);
  }
  if (a->count == 1) {
    ss_buf_adds(out, "  cpu ");
    add_time(out, t->cpu_ns);
  }
  if (a->same_call)
    add_call(out, t);
  ss_buf_addc(out, '\n');
}

/* The threads of one process; equal ones once, with the first's number. */
static void add_threads(struct ss_buf *out, const struct ss_look *look, pid_t pid,
                        const struct ss_look_print *print)
{
  bool *printed = calloc(look->n_threads + 1, sizeof(*printed));

  for (size_t i = 0; printed && i < look->n_threads; i++) {
    const struct ss_look_thread *t = &look->threads[i];
    struct alike a = {.count = 1,
                      .last = t->tid,
                      .names = {t->name},
                      .n_names = 1,
                      .prefix = strlen(t->name),
                      .same_call = true};
    if (t->pid != pid || printed[i])
      continue;
    for (size_t j = i + 1; j < look->n_threads && t->tid != t->pid; j++)
      if (!printed[j] && same_stack(t, &look->threads[j])) {
        printed[j] = true;
        add_alike(&a, t, &look->threads[j]);
      }
    add_heading(out, t, &a);
    add_frames(out, t, print);
  }
  free(printed);
}

/* Long command lines (python -c ...) are cut: ps shows the rest. */
static void add_command(struct ss_buf *out, const char *command)
{
  size_t len = command ? strlen(command) : 0;

  ss_escape_terminal(out, len ? command : "?",
                     len > COMMAND_MAX ? COMMAND_MAX : (len ? len : 1));
  if (len > COMMAND_MAX)
    ss_buf_adds(out, "...");
}

static void add_use(struct ss_buf *out, const struct ss_look_process *p)
{
  ss_buf_adds(out, "  cpu ");
  if (p->busy >= 0)
    ss_buf_addf(out, "%.1f of %u now", p->busy, p->cpus);
  else
    add_time(out, p->cpu_ns);
}

static void add_process(struct ss_buf *out, const struct ss_look *look,
                        const struct ss_look_process *p,
                        const struct ss_look_print *print)
{
  ss_buf_addf(out, "process %d  ", (int)p->pid);
  add_command(out, p->command);
  if (p->why[0]) {
    ss_buf_addf(out, "  not looked at: ");
    add_text(out, p->why);
    ss_buf_addc(out, '\n');
    return;
  }
  ss_buf_adds(out, "  up ");
  add_time(out, p->up_ns);
  ss_buf_addf(out, "  %zu thread%s", p->n_threads, p->n_threads == 1 ? "" : "s");
  add_use(out, p);
  ss_buf_addf(out, "%s%s\n", p->python[0] ? "  python " : "", p->python);
  if (p->test) {
    ss_buf_adds(out, "test ");
    add_text(out, p->test);
    ss_buf_addf(out, "%s%s%s%s%s", p->phase[0] ? " (" : "", p->phase,
                p->phase[0] ? ")" : "", p->worker[0] ? " on " : "", p->worker);
    if (p->test_ns != SS_LOOK_UNKNOWN) {
      ss_buf_adds(out, ", ");
      add_time(out, p->test_ns);
      ss_buf_adds(out, " in it");
    }
    ss_buf_addc(out, '\n');
  }
  ss_buf_addc(out, '\n');
  add_threads(out, look, p->pid, print);
}

void ss_look_text(const struct ss_look *look, const struct ss_look_print *print,
                  struct ss_buf *out)
{
  size_t complete = 0, stacks = 0;

  for (size_t i = 0; i < look->n_processes; i++) {
    if (i > 0)
      ss_buf_addc(out, '\n');
    add_process(out, look, &look->processes[i], print);
  }
  for (size_t i = 0; i < look->n_threads; i++) {
    stacks += look->threads[i].n_frames > 0;
    complete += look->threads[i].complete;
  }
  ss_buf_addf(out, "\nlooked %s", print->looks > 1 ? "" : "once");
  if (print->looks > 1)
    ss_buf_addf(out, "%u times over %.1f s", print->looks, (double)print->over_ns / 1e9);
  if (look->stops == 0)
    ss_buf_adds(out, ", stopped no thread");
  else
    ss_buf_addf(out, ", stopped %u thread%s (%.1f ms in all, %.1f ms at most)",
                look->stops, look->stops == 1 ? "" : "s",
                (double)look->stop_total_ns / 1e6, (double)look->stop_max_ns / 1e6);
  ss_buf_addf(out, "; complete %zu of %zu stacks", complete, stacks);
  if (look->unvisited > 0)
    ss_buf_addf(out, "; %zu threads not looked at", look->unvisited);
  ss_buf_addc(out, '\n');
}
