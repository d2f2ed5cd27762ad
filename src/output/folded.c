/*
 * Collapsed stacks: "root;frame;...;leaf COUNT", one line a stack, the whole
 * count rounded once. No comments, no empty frames, no zero counts: every
 * reader of the format takes every line.
 *
 * Three files: running time by thread, running time by test, waiting time by
 * thread with the wait's reason as the leaf.
 */
#include <stdlib.h>
#include <string.h>

#include "output_priv.h"

enum fold { FOLD_RUNNING, FOLD_TESTS, FOLD_WAITING };

struct folded {
  struct ss_texts texts;
  struct ss_tree tree;
  struct ss_path path;
};

static void folded_release(struct folded *f)
{
  ss_texts_release(&f->texts);
  ss_tree_release(&f->tree);
  ss_path_release(&f->path);
}

/* `ok` carries "out of memory" through a chain of nodes. */
static uint32_t push(struct folded *f, uint32_t node, uint32_t text, bool *ok)
{
  uint32_t child = SS_ID_NONE;
  if (*ok && text != SS_ID_NONE)
    child = ss_tree_child(&f->tree, node, text);
  *ok = child != SS_ID_NONE;
  return child;
}

static uint32_t push_roots(struct folded *f, const struct ss_total *total, enum fold fold,
                           bool *ok)
{
  if (fold == FOLD_TESTS)
    return push(f, SS_ID_NONE, ss_phase_text(&f->texts, total->phase), ok);
  struct ss_roots roots = ss_roots_of(&f->texts, total->thread);
  uint32_t node = SS_ID_NONE;
  if (roots.process != SS_ID_NONE)
    node = push(f, node, roots.process, ok);
  return push(f, node, roots.thread, ok);
}

static bool wanted(const struct ss_total *total, enum fold fold)
{
  bool running = ss_state_running((enum ss_state)total->state);
  return total->weight_ns > 0 && running == (fold != FOLD_WAITING);
}

static bool add_total(struct folded *f, const struct ss_total *total, enum fold fold)
{
  bool ok = ss_path_of(&f->path, &f->texts, total->stack);
  uint32_t node = push_roots(f, total, fold, &ok);
  for (size_t i = 0; ok && i < f->path.count; i++)
    node = push(f, node, f->path.texts[i], &ok);
  if (ok && ss_texts_wants_wait(&f->texts, (enum ss_state)total->state, total->stack))
    node = push(f, node, ss_texts_wait(&f->texts, (enum ss_state)total->state), &ok);
  else if (ok && f->path.count == 0)
    node = push(f, node, ss_texts_add(&f->texts, "[no stack]", 10, SS_TEXT_MARK), &ok);
  if (ok) {
    f->tree.nodes[node].self_ns += total->weight_ns;
    f->tree.nodes[node].self_samples += total->samples;
  }
  return ok;
}

/* ---- writing ------------------------------------------------------------------- */

static void add_frame(const struct folded *f, uint32_t text, struct ss_buf *line)
{
  size_t len;
  const char *s = ss_texts_str(&f->texts, text, &len);
  ss_escape_folded(line, s, len);
  if (f->texts.texts[text].kernel_symbol)
    ss_buf_adds(line, "_[k]");
}

/* Keeps `line` as the path of the last node of each depth in `ends`, so that a
 * node only appends to its parent's part. */
struct lines {
  struct ss_buf line;
  size_t *ends; /* by node: length of `line` with it as the leaf */
};

static void write_node(const struct folded *f, uint32_t node, bool samples,
                       struct lines *l, struct ss_outfile *out)
{
  const struct ss_tree_node *n = &f->tree.nodes[node];
  size_t from = n->parent == SS_ID_NONE ? 0 : l->ends[n->parent];
  l->line.len = from;
  if (from > 0)
    ss_buf_addc(&l->line, ';');
  add_frame(f, n->text, &l->line);
  l->ends[node] = l->line.len;
  uint64_t count = samples ? n->self_samples : (n->self_ns + 500) / 1000;
  if (count > 0) {
    ss_outfile_write(out, l->line.data, l->line.len);
    ss_outfile_printf(out, " %llu\n", (unsigned long long)count);
  }
}

static enum ss_err write_lines(const struct folded *f, bool samples,
                               struct ss_outfile *out, struct ss_diag *diag)
{
  struct lines l = {.ends = calloc(f->tree.count + 1, sizeof *l.ends)};
  uint32_t *order = ss_tree_preorder(&f->tree, &f->texts);
  enum ss_err err = SS_ERR_OK;
  if (l.ends != NULL && order != NULL)
    for (size_t i = 0; i < f->tree.count && !l.line.failed; i++)
      write_node(f, order[i], samples, &l, out);
  if (l.ends == NULL || order == NULL || l.line.failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for folded stacks");
  free(l.ends);
  free(order);
  ss_buf_release(&l.line);
  return err;
}

static enum ss_err write_folded(struct ss_profile *p, const struct ss_write_options *o,
                                struct ss_outfile *out, enum fold fold,
                                struct ss_diag *diag)
{
  struct folded f = {0};
  enum ss_err err = ss_texts_init(&f.texts, p, diag);
  for (size_t i = 0; err == SS_ERR_OK && i < p->n_totals; i++)
    if (wanted(&p->totals[i], fold) && !add_total(&f, &p->totals[i], fold))
      err = ss_fail(diag, SS_ERR_NOMEM, "no memory for folded stacks");
  if (err == SS_ERR_OK)
    err = write_lines(&f, o != NULL && o->count_samples, out, diag);
  folded_release(&f);
  return err;
}

enum ss_err ss_write_folded(struct ss_profile *p, const struct ss_write_options *options,
                            struct ss_outfile *out, struct ss_diag *diag)
{
  return write_folded(p, options, out, FOLD_RUNNING, diag);
}

enum ss_err ss_write_folded_tests(struct ss_profile *p,
                                  const struct ss_write_options *options,
                                  struct ss_outfile *out, struct ss_diag *diag)
{
  return write_folded(p, options, out, FOLD_TESTS, diag);
}

enum ss_err ss_write_folded_wait(struct ss_profile *p,
                                 const struct ss_write_options *options,
                                 struct ss_outfile *out, struct ss_diag *diag)
{
  return write_folded(p, options, out, FOLD_WAITING, diag);
}
