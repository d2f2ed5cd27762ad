/*
 * Functions, operators, and what each test mostly did, out of the stack trie.
 *
 * A function's total counts a sample once however often the function is on its
 * stack, so recursion cannot exceed the whole. Every pass is linear in the trie.
 */
#include <stdlib.h>
#include <string.h>

#include "summary_priv.h"

struct walk {       /* arrays by trie node, unless said otherwise */
  uint32_t *text;   /* of the node's frame */
  uint32_t *op;     /* innermost operator down to here, or SS_ID_NONE */
  uint32_t *python; /* innermost Python frame down to here, or SS_ID_NONE */
  bool *fault;      /* a page fault is on the way here */
  uint64_t *self_ns, *subtree_ns, *self_n;
  uint32_t *first, *next;   /* child lists */
  uint32_t *open, *open_op; /* by text: how often it is on the walk's path */
};

static void walk_release(struct walk *w)
{
  free(w->text);
  free(w->op);
  free(w->python);
  free(w->fault);
  free(w->self_ns);
  free(w->subtree_ns);
  free(w->self_n);
  free(w->first);
  free(w->next);
  free(w->open);
  free(w->open_op);
}

static bool walk_init(struct walk *w, size_t n)
{
  w->text = calloc(n + 1, sizeof *w->text);
  w->op = calloc(n + 1, sizeof *w->op);
  w->python = calloc(n + 1, sizeof *w->python);
  w->fault = calloc(n + 1, sizeof *w->fault);
  w->self_ns = calloc(n + 1, sizeof *w->self_ns);
  w->subtree_ns = calloc(n + 1, sizeof *w->subtree_ns);
  w->self_n = calloc(n + 1, sizeof *w->self_n);
  w->first = calloc(n + 1, sizeof *w->first);
  w->next = calloc(n + 1, sizeof *w->next);
  return w->text && w->op && w->python && w->fault && w->self_ns && w->subtree_ns &&
         w->self_n && w->first && w->next;
}

static bool is_fault(const struct ss_profile *p, const struct ss_frame_row *frame)
{
  if (frame->kind != SS_FRAME_KERNEL && frame->kind != SS_FRAME_SYNTHETIC)
    return false;
  const char *name = ss_profile_str(p, frame->name);
  return strstr(name, "page_fault") || strstr(name, "page fault");
}

/* Texts and what is inherited from the caller. */
static bool name_nodes(struct ss_figures *f, struct walk *w)
{
  const struct ss_profile *p = f->p;

  for (size_t i = 0; i < p->n_stacks; i++) {
    const struct ss_stack_row *node = &p->stacks[i];
    uint32_t text = ss_texts_frame(&f->texts, node->frame);
    bool child = node->parent < i;
    if (text == SS_ID_NONE)
      return false;
    w->text[i] = text;
    w->op[i] = child ? w->op[node->parent] : SS_ID_NONE;
    w->python[i] = child ? w->python[node->parent] : SS_ID_NONE;
    w->fault[i] =
        (child && w->fault[node->parent]) || is_fault(p, &p->frames[node->frame]);
    if (f->texts.texts[text].op != SS_ID_NONE)
      w->op[i] = f->texts.texts[text].op;
    if (p->frames[node->frame].kind == SS_FRAME_PYTHON)
      w->python[i] = text;
  }
  return true;
}

static void add_fault(struct ss_spent *t, const struct ss_total *total, bool fault)
{
  t->kernel_w += total->weight_ns;
  t->fault_w += fault ? total->weight_ns : 0;
}

static void weigh_nodes(struct ss_figures *f, struct walk *w)
{
  const struct ss_profile *p = f->p;

  for (size_t i = 0; i < p->n_totals; i++) {
    const struct ss_total *t = &p->totals[i];
    if (t->stack == SS_ID_NONE || t->weight_ns == 0)
      continue;
    if (t->state == SS_STATE_KERNEL) {
      add_fault(&f->total, t, w->fault[t->stack]);
      add_fault(&f->threads[t->thread], t, w->fault[t->stack]);
      if (t->phase != SS_ID_NONE)
        add_fault(&f->tests[t->phase].t, t, w->fault[t->stack]);
    }
    if (ss_state_running(t->state)) {
      w->self_ns[t->stack] += t->weight_ns;
      w->self_n[t->stack] += t->samples;
    }
  }
  memcpy(w->subtree_ns, w->self_ns, p->n_stacks * sizeof *w->subtree_ns);
  for (size_t i = p->n_stacks; i-- > 0;) {
    uint32_t parent = p->stacks[i].parent;
    if (parent < i)
      w->subtree_ns[parent] += w->subtree_ns[i];
  }
}

/* Child lists; the slot n_stacks heads the roots. */
static void link_nodes(const struct ss_profile *p, struct walk *w)
{
  size_t n = p->n_stacks;

  for (size_t i = 0; i <= n; i++)
    w->first[i] = w->next[i] = SS_ID_NONE;
  for (size_t i = n; i-- > 0;) {
    size_t parent = p->stacks[i].parent < i ? p->stacks[i].parent : n;
    w->next[i] = w->first[parent];
    w->first[parent] = (uint32_t)i;
  }
}

static void enter(struct ss_function_row *row, uint32_t *open, uint64_t subtree_ns)
{
  if ((*open)++ == 0)
    row->total_ns += subtree_ns;
}

/* One step into or out of a node, for its function and for its operator. */
static void visit(struct ss_figures *f, struct walk *w, uint32_t node, bool in)
{
  uint32_t text = w->text[node], op = f->texts.texts[text].op;

  if (in)
    enter(&f->functions[text], &w->open[text], w->subtree_ns[node]);
  else
    w->open[text]--;
  if (op == SS_ID_NONE)
    return;
  if (in)
    enter(&f->operators[op], &w->open_op[op], w->subtree_ns[node]);
  else
    w->open_op[op]--;
}

/* Totals, by a walk over the whole trie without recursion. */
static void add_totals(struct ss_figures *f, struct walk *w)
{
  const struct ss_profile *p = f->p;
  uint32_t node = w->first[p->n_stacks];

  while (node != SS_ID_NONE) {
    visit(f, w, node, true);
    if (w->first[node] != SS_ID_NONE) {
      node = w->first[node];
      continue;
    }
    for (;;) { /* leave this node, and every parent that has no further child */
      uint32_t parent = p->stacks[node].parent;
      visit(f, w, node, false);
      if (w->next[node] != SS_ID_NONE) {
        node = w->next[node];
        break;
      }
      if (parent >= node) {
        node = SS_ID_NONE;
        break;
      }
      node = parent;
    }
  }
}

static int by_self(const void *a, const void *b)
{
  const struct ss_function_row *x = a, *y = b;
  if (x->self_ns != y->self_ns)
    return x->self_ns < y->self_ns ? 1 : -1;
  if (x->total_ns != y->total_ns)
    return x->total_ns < y->total_ns ? 1 : -1;
  return (x->text > y->text) - (x->text < y->text);
}

/* Rows by text -> a sorted list of those that have any time. */
static size_t compact(struct ss_function_row *rows, size_t n)
{
  size_t kept = 0;

  for (size_t i = 0; i < n; i++) {
    if (rows[i].total_ns == 0 && rows[i].self_ns == 0)
      continue;
    rows[kept] = rows[i];
    rows[kept++].text = (uint32_t)i;
  }
  if (kept)
    qsort(rows, kept, sizeof *rows, by_self);
  return kept;
}

static bool add_functions(struct ss_figures *f, struct walk *w)
{
  size_t n = f->texts.strings.count;

  w->open = calloc(n + 1, sizeof *w->open);
  w->open_op = calloc(n + 1, sizeof *w->open_op);
  f->functions = calloc(n + 1, sizeof *f->functions);
  f->operators = calloc(n + 1, sizeof *f->operators);
  if (!w->open || !w->open_op || !f->functions || !f->operators)
    return false;
  for (size_t i = 0; i < f->p->n_stacks; i++) {
    f->functions[w->text[i]].self_ns += w->self_ns[i];
    f->functions[w->text[i]].self_samples += w->self_n[i];
    if (w->op[i] != SS_ID_NONE) {
      f->operators[w->op[i]].self_ns += w->self_ns[i];
      f->operators[w->op[i]].self_samples += w->self_n[i];
    }
  }
  link_nodes(f->p, w);
  add_totals(f, w);
  f->n_functions = compact(f->functions, n);
  f->n_operators = compact(f->operators, n);
  return true;
}

/* What a person calls it: the operator, else the Python function, else the leaf. */
static uint32_t spoken(const struct walk *w, uint32_t stack)
{
  if (w->op[stack] != SS_ID_NONE)
    return w->op[stack];
  return w->python[stack] != SS_ID_NONE ? w->python[stack] : w->text[stack];
}

/* Which rows are asked what a phase mostly did. */
enum rows { RUNNING, WAITING, MAIN_WAITING, ROWS_KINDS };

static bool is_among(const struct ss_profile *p, const struct ss_total *t, enum rows kind)
{
  const struct ss_thread_row *thread = &p->threads[t->thread];

  if (kind != MAIN_WAITING)
    return ss_state_running(t->state) == (kind == RUNNING);
  return ss_state_waiting(t->state) && thread->process == p->phases[t->phase].process &&
         thread->tid == p->processes[thread->process].pid;
}

struct top {
  uint32_t text; /* SS_ID_NONE: nothing */
  uint64_t ns;
};

/* The largest of each phase. */
static bool find_largest(const struct ss_profile *p, const struct walk *w, enum rows kind,
                         struct top *tops)
{
  struct ss_idmap sums = {0};
  uint64_t key, ns;
  size_t pos = 0;
  bool ok = true;

  for (size_t i = 0; i < p->n_phases; i++)
    tops[i] = (struct top){.text = SS_ID_NONE};
  for (size_t i = 0; i < p->n_totals && ok; i++) {
    const struct ss_total *t = &p->totals[i];
    if (t->phase == SS_ID_NONE || t->stack == SS_ID_NONE || t->weight_ns == 0 ||
        !is_among(p, t, kind))
      continue;
    ok =
        ss_idmap_add(&sums, (uint64_t)t->phase << 32 | spoken(w, t->stack), t->weight_ns);
  }
  while (ss_idmap_next(&sums, &pos, &key, &ns)) {
    struct top *top = &tops[key >> 32];
    if (ns > top->ns || (ns == top->ns && (uint32_t)key < top->text))
      *top = (struct top){(uint32_t)key, ns};
  }
  ss_idmap_release(&sums);
  return ok;
}

/* What ran comes before waits, whatever these weigh: threads of a pool wait all the
 * time. But what the main thread waited for longer than the phase ran is what it did. */
static bool find_tops(struct ss_figures *f, const struct walk *w)
{
  static const enum rows first[][ROWS_KINDS] = {{RUNNING, WAITING, WAITING},
                                                {MAIN_WAITING, RUNNING, WAITING}};
  size_t n = f->p->n_phases;
  struct top *tops = calloc(ROWS_KINDS * n + 1, sizeof(*tops));
  bool ok = tops != NULL;

  for (enum rows kind = 0; kind < ROWS_KINDS && ok; kind++)
    ok = find_largest(f->p, w, kind, &tops[kind * n]);
  for (size_t i = 0; i < n && ok; i++) {
    struct ss_test_row *row = &f->tests[i];
    bool waited = tops[MAIN_WAITING * n + i].ns > ss_spent_running(&row->t);
    const enum rows *order = first[waited];
    for (size_t k = 0; k < ROWS_KINDS && row->top == SS_ID_NONE; k++)
      row->top = tops[order[k] * n + i].text;
  }
  free(tops);
  return ok;
}

enum ss_err ss_figures_stacks(struct ss_figures *f, struct ss_diag *diag)
{
  struct walk w = {0};
  bool ok = walk_init(&w, f->p->n_stacks) && name_nodes(f, &w);

  if (ok) {
    weigh_nodes(f, &w);
    ok = (!f->with_functions || add_functions(f, &w)) && find_tops(f, &w);
  }
  walk_release(&w);
  return ok ? SS_ERR_OK : ss_fail(diag, SS_ERR_NOMEM, "out of memory for the summary");
}
