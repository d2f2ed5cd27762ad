/*
 * The call tree that flamegraph.html shows: self time by (test phase, thread,
 * state), so that the page can filter exactly, and the lines of Python nodes.
 *
 * Beyond FLAME_NODES_MAX nodes the smallest are joined into an "(other)" child
 * of their parent; no time is ever dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "flame_priv.h"

static const char other_text[] = "(other)";

/* ---- combinations ---------------------------------------------------------------- */

static bool group_of(struct flame *f, uint32_t phase, uint32_t *group)
{
  const struct ss_profile *p = f->texts.profile;
  struct flame_group g = {SS_ID_NONE, SS_ID_NONE};
  if (phase < p->n_phases)
    g = (struct flame_group){p->phases[phase].test, p->phases[phase].phase};
  uint64_t key = (uint64_t)g.test << 32 | g.phase;
  const uint64_t *known = ss_idmap_get(&f->group_index, key);
  if (known != NULL) {
    *group = (uint32_t)*known;
    return true;
  }
  if (!ss_grow(&f->groups, &f->groups_cap, f->n_groups + 1, sizeof *f->groups) ||
      !ss_idmap_put(&f->group_index, key, f->n_groups))
    return false;
  f->groups[f->n_groups] = g;
  *group = (uint32_t)f->n_groups++;
  return true;
}

static bool combo_of(struct flame *f, const struct ss_total *total, uint32_t *combo)
{
  struct flame_combo c = {.thread = total->thread, .state = total->state};
  if (!group_of(f, total->phase, &c.group))
    return false;
  uint64_t key = ((uint64_t)c.group << 24 | c.thread) << 8 | c.state;
  const uint64_t *known = ss_idmap_get(&f->combo_index, key);
  if (known != NULL) {
    *combo = (uint32_t)*known;
    return true;
  }
  if (!ss_grow(&f->combos, &f->combos_cap, f->n_combos + 1, sizeof *f->combos) ||
      !ss_idmap_put(&f->combo_index, key, f->n_combos))
    return false;
  f->combos[f->n_combos] = c;
  *combo = (uint32_t)f->n_combos++;
  return true;
}

/* ---- nodes ----------------------------------------------------------------------- */

static bool add_line(struct flame *f, uint32_t node, int line, uint64_t ns)
{
  uint64_t key = (uint64_t)node << 32 | (uint32_t)line;
  const uint64_t *known = ss_idmap_get(&f->line_index, key);
  if (known != NULL) {
    f->lines[*known].ns += ns;
    return true;
  }
  if (!ss_grow(&f->lines, &f->lines_cap, f->n_lines + 1, sizeof *f->lines) ||
      !ss_idmap_put(&f->line_index, key, f->n_lines))
    return false;
  f->lines[f->n_lines++] = (struct flame_line){node, line, ns};
  return true;
}

static uint32_t push(struct flame *f, uint32_t node, uint32_t text)
{
  return text == SS_ID_NONE ? SS_ID_NONE : ss_tree_child(&f->tree, node, text);
}

/* "python3 (openmp)": threads often share a name, and the page tells them apart. */
static uint32_t thread_text(struct flame *f, uint32_t thread, uint32_t name)
{
  const struct ss_profile *p = f->texts.profile;
  const char *role =
      thread < p->n_threads ? ss_profile_str(p, p->threads[thread].role) : "";
  if (*role == '\0' || strcmp(role, "main") == 0 || name == SS_ID_NONE)
    return name;
  struct ss_buf text = {0};
  ss_buf_addf(&text, "%s (%s)", ss_texts_str(&f->texts, name, NULL), role);
  uint32_t id = text.failed ? SS_ID_NONE
                            : ss_texts_add(&f->texts, text.data, text.len, SS_TEXT_ROOT);
  ss_buf_release(&text);
  return id;
}

static uint32_t push_roots(struct flame *f, uint32_t thread)
{
  struct ss_roots roots = ss_roots_of(&f->texts, thread);
  roots.thread = thread_text(f, thread, roots.thread);
  uint32_t node = SS_ID_NONE;
  if (roots.process != SS_ID_NONE) {
    node = push(f, SS_ID_NONE, roots.process);
    if (node == SS_ID_NONE)
      return node;
  }
  return push(f, node, roots.thread);
}

static bool add_cell(struct flame *f, const struct ss_total *total, uint32_t node)
{
  uint32_t combo;
  if (!combo_of(f, total, &combo) ||
      !ss_grow(&f->cells, &f->cells_cap, f->n_cells + 1, sizeof *f->cells))
    return false;
  f->cells[f->n_cells++] =
      (struct flame_cell){node, combo, total->weight_ns, total->samples};
  f->tree.nodes[node].self_ns += total->weight_ns; /* for join_small only */
  return true;
}

static bool add_total(struct flame *f, const struct ss_total *total)
{
  const struct ss_profile *p = f->texts.profile;
  enum ss_state state = (enum ss_state)total->state;
  uint32_t node = push_roots(f, total->thread);
  if (node == SS_ID_NONE || !ss_path_of(&f->path, &f->texts, total->stack))
    return false;
  for (size_t i = 0; i < f->path.count; i++) {
    int line = p->stacks[f->path.stacks[i]].line;
    node = push(f, node, f->path.texts[i]);
    if (node == SS_ID_NONE || (line > 0 && !add_line(f, node, line, total->weight_ns)))
      return false;
  }
  if (ss_texts_wants_wait(&f->texts, state, total->stack))
    node = push(f, node, ss_texts_wait(&f->texts, state));
  return node != SS_ID_NONE && add_cell(f, total, node);
}

/* ---- joining what is too small --------------------------------------------------- */

static int descending(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x < y) - (x > y);
}

/* Time of each node with all below it; malloc'ed, or NULL. */
static uint64_t *node_totals(const struct ss_tree *tree)
{
  uint64_t *totals = calloc(tree->count + 1, sizeof *totals);
  for (size_t i = tree->count; totals != NULL && i-- > 0;) {
    totals[i] += tree->nodes[i].self_ns;
    if (tree->nodes[i].parent != SS_ID_NONE)
      totals[tree->nodes[i].parent] += totals[i];
  }
  return totals;
}

static uint64_t nth_largest(const uint64_t *totals, size_t count, size_t n)
{
  uint64_t *sorted = malloc(count * sizeof *sorted);
  if (sorted == NULL)
    return UINT64_MAX;
  memcpy(sorted, totals, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, descending);
  uint64_t value = sorted[n];
  free(sorted);
  return value;
}

/* Copies the nodes above `least` into `kept`; map[old] = new, or its "(other)". */
static bool copy_kept(struct flame *f, struct ss_tree *kept, const uint64_t *totals,
                      uint64_t least, uint32_t *map, bool *joined)
{
  uint32_t other =
      ss_texts_add(&f->texts, other_text, sizeof other_text - 1, SS_TEXT_MARK);
  for (size_t i = 0; i < f->tree.count; i++) {
    const struct ss_tree_node *n = &f->tree.nodes[i];
    uint32_t up = n->parent == SS_ID_NONE ? SS_ID_NONE : map[n->parent];
    bool keep = totals[i] > least || n->parent == SS_ID_NONE;
    if (!keep) {
      f->joined_nodes++;
      f->joined_ns += n->self_ns;
    }
    map[i] = !keep && joined[up] ? up : ss_tree_child(kept, up, keep ? n->text : other);
    if (map[i] == SS_ID_NONE)
      return false;
    joined[map[i]] = !keep;
  }
  return true;
}

static void remap(struct flame *f, const uint64_t *totals, uint64_t least,
                  const uint32_t *map)
{
  size_t lines = 0;
  for (size_t i = 0; i < f->n_cells; i++)
    f->cells[i].node = map[f->cells[i].node];
  for (size_t i = 0; i < f->n_lines; i++) {
    if (totals[f->lines[i].node] > least) {
      f->lines[lines] = f->lines[i];
      f->lines[lines++].node = map[f->lines[i].node];
    }
  }
  f->n_lines = lines;
}

static bool join_small(struct flame *f)
{
  if (f->tree.count <= FLAME_NODES_MAX)
    return true;
  struct ss_tree kept = {0};
  uint64_t *totals = node_totals(&f->tree);
  uint32_t *map = calloc(f->tree.count, sizeof *map);
  bool *joined = calloc(f->tree.count, sizeof *joined); /* by new node: is "(other)" */
  bool ok = totals != NULL && map != NULL && joined != NULL;
  if (ok) {
    uint64_t least = nth_largest(totals, f->tree.count, FLAME_NODES_MAX);
    ok = least != UINT64_MAX && copy_kept(f, &kept, totals, least, map, joined);
    if (ok) {
      remap(f, totals, least, map);
      ss_tree_release(&f->tree);
      f->tree = kept;
    } else {
      ss_tree_release(&kept);
    }
  }
  free(totals);
  free(map);
  free(joined);
  return ok;
}

/* ---- all of it ------------------------------------------------------------------- */

/* by_position has to know the positions; qsort passes nothing along. */
static void set_positions(struct flame *f)
{
  for (size_t i = 0; i < f->tree.count; i++)
    f->position[f->order[i]] = (uint32_t)i;
  for (size_t i = 0; i < f->n_cells; i++)
    f->cells[i].node = f->position[f->cells[i].node];
  for (size_t i = 0; i < f->n_lines; i++)
    f->lines[i].node = f->position[f->lines[i].node];
}

static int by_cell(const void *a, const void *b)
{
  const struct flame_cell *x = a, *y = b;
  return x->node != y->node ? (x->node > y->node) - (x->node < y->node)
                            : (x->combo > y->combo) - (x->combo < y->combo);
}

static int by_line(const void *a, const void *b)
{
  const struct flame_line *x = a, *y = b;
  if (x->node != y->node)
    return (x->node > y->node) - (x->node < y->node);
  return x->ns != y->ns ? (x->ns < y->ns) - (x->ns > y->ns)
                        : (x->line > y->line) - (x->line < y->line);
}

static void merge_cells(struct flame *f)
{
  size_t n = 0;
  qsort(f->cells, f->n_cells, sizeof *f->cells, by_cell);
  for (size_t i = 0; i < f->n_cells; i++) {
    struct flame_cell *last = n > 0 ? &f->cells[n - 1] : NULL;
    if (last != NULL && by_cell(last, &f->cells[i]) == 0) {
      last->ns += f->cells[i].ns;
      last->samples += f->cells[i].samples;
    } else {
      f->cells[n++] = f->cells[i];
    }
  }
  f->n_cells = n;
}

enum ss_err flame_build(struct flame *f, struct ss_profile *p, struct ss_diag *diag)
{
  enum ss_err err = ss_texts_init(&f->texts, p, diag);
  bool ok = err == SS_ERR_OK;
  for (size_t i = 0; ok && i < p->n_totals; i++)
    ok = p->totals[i].weight_ns == 0 || add_total(f, &p->totals[i]);
  ok = ok && join_small(f);
  if (ok) {
    f->order = ss_tree_preorder(&f->tree, &f->texts);
    f->position = calloc(f->tree.count + 1, sizeof *f->position);
    ok = f->order != NULL && f->position != NULL;
  }
  if (!ok) {
    return err != SS_ERR_OK ? err
                            : ss_fail(diag, SS_ERR_NOMEM, "no memory for the flamegraph");
  }
  set_positions(f);
  merge_cells(f);
  if (f->n_lines > 0)
    qsort(f->lines, f->n_lines, sizeof *f->lines, by_line);
  return SS_ERR_OK;
}

void flame_release(struct flame *f)
{
  ss_texts_release(&f->texts);
  ss_tree_release(&f->tree);
  ss_path_release(&f->path);
  ss_idmap_release(&f->group_index);
  ss_idmap_release(&f->combo_index);
  ss_idmap_release(&f->line_index);
  free(f->groups);
  free(f->combos);
  free(f->cells);
  free(f->lines);
  free(f->order);
  free(f->position);
  *f = (struct flame){0};
}
