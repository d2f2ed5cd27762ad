/*
 * What threads waited for: the reasons of their waits, with the Python function that
 * waited most for each. Thread time; of main threads beside it, as many threads of a
 * pool may wait for work all the time and mean nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/buf.h"
#include "summary_priv.h"

#define ROWS_SHOWN 12

struct wait_row {
  uint32_t reason; /* text id */
  uint64_t ns, main_ns;
  uint32_t top; /* text id of the Python function, or SS_ID_NONE */
  uint64_t top_ns;
};
struct waits {
  struct wait_row *rows;
  size_t count, cap;
  struct ss_idmap by_reason; /* text id -> row */
  struct ss_idmap in;        /* reason and function -> ns */
  bool failed;
};

/* "[lock: mutex]" of the stack's leaf, else "[lock]"; who holds the GIL is left out. */
static uint32_t reason_of(struct ss_figures *f, const struct ss_total *t)
{
  enum ss_state state = (enum ss_state)t->state;
  const struct ss_profile *p = f->p;

  if (state == SS_STATE_GIL || ss_texts_wants_wait(&f->texts, state, t->stack))
    return ss_texts_wait(&f->texts, state);
  return ss_texts_frame(&f->texts, p->stacks[t->stack].frame);
}

static uint32_t function_of(struct ss_figures *f, uint32_t stack)
{
  const struct ss_profile *p = f->p;

  for (; stack < p->n_stacks; stack = p->stacks[stack].parent)
    if (p->frames[p->stacks[stack].frame].kind == SS_FRAME_PYTHON)
      return ss_texts_frame(&f->texts, p->stacks[stack].frame);
  return SS_ID_NONE;
}

static bool is_main(const struct ss_profile *p, uint32_t thread)
{
  const struct ss_thread_row *t = &p->threads[thread];

  return t->tid == p->processes[t->process].pid;
}

static struct wait_row *row_of(struct waits *w, uint32_t reason)
{
  uint64_t *known = ss_idmap_get(&w->by_reason, reason);

  if (known)
    return &w->rows[*known];
  if (!ss_grow(&w->rows, &w->cap, w->count + 1, sizeof(*w->rows)) ||
      !ss_idmap_put(&w->by_reason, reason, w->count))
    return NULL;
  w->rows[w->count] = (struct wait_row){.reason = reason, .top = SS_ID_NONE};
  return &w->rows[w->count++];
}

static void add(struct waits *w, struct ss_figures *f, const struct ss_total *t)
{
  uint32_t reason = reason_of(f, t), function = function_of(f, t->stack);
  struct wait_row *row = reason == SS_ID_NONE ? NULL : row_of(w, reason);
  uint64_t key = (uint64_t)reason << 32 | function, ns;

  if (row == NULL) {
    w->failed = true;
    return;
  }
  row->ns += t->weight_ns;
  row->main_ns += is_main(f->p, t->thread) ? t->weight_ns : 0;
  if (function == SS_ID_NONE)
    return;
  if (!ss_idmap_add(&w->in, key, t->weight_ns)) {
    w->failed = true;
    return;
  }
  ns = *ss_idmap_get(&w->in, key);
  if (ns > row->top_ns) {
    row->top_ns = ns;
    row->top = function;
  }
}

static int longest_first(const void *a, const void *b)
{
  const struct wait_row *x = a, *y = b;

  if (x->ns != y->ns)
    return x->ns < y->ns ? 1 : -1;
  return (x->reason > y->reason) - (x->reason < y->reason);
}

static void put_row(struct ss_grid *g, const struct ss_figures *f,
                    const struct wait_row *row)
{
  const char *top = row->top == SS_ID_NONE ? "" : ss_texts_str(&f->texts, row->top, NULL);
  const char *reason = ss_texts_str(&f->texts, row->reason, NULL);
  size_t len = strlen(reason);

  /* Without its brackets. */
  ss_buf_add(ss_grid_cell(g), reason + 1, len > 2 ? len - 2 : 0);
  ss_put_seconds(ss_grid_cell(g), row->ns);
  ss_put_seconds(ss_grid_cell(g), row->main_ns);
  ss_buf_adds(ss_grid_cell(g), top);
}

void ss_summary_waits(struct ss_doc *d, struct ss_figures *f)
{
  static const char *const headers[] = {"for", ">thread s", ">main threads s",
                                        "mostly in"};
  struct ss_grid g = {.headers = headers, .columns = 4};
  struct waits w = {0};

  for (size_t i = 0; i < f->p->n_totals; i++) {
    const struct ss_total *t = &f->p->totals[i];
    if (t->weight_ns > 0 && !ss_state_running((enum ss_state)t->state) &&
        t->stack < f->p->n_stacks)
      add(&w, f, t);
  }
  if (w.count > 0 && !w.failed) {
    qsort(w.rows, w.count, sizeof(*w.rows), longest_first);
    ss_doc_heading(d, "Where: waiting (time of all threads)");
    for (size_t i = 0; i < w.count && i < ROWS_SHOWN; i++)
      put_row(&g, f, &w.rows[i]);
    ss_doc_grid(d, &g);
  }
  free(w.rows);
  ss_idmap_release(&w.by_reason);
  ss_idmap_release(&w.in);
}
