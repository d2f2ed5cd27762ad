/*
 * Samples as nodes of one call tree with the trace's rules: operators stand
 * above their native frame once, a wait's reason is the leaf, and no node is
 * deeper than Perfetto takes (the middle of a deeper stack becomes a marker).
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/text.h"

#include "trace_priv.h"

/* How many frames of a stack that is too deep stay at either end. */
#define KEEP_OUTER (SS_TRACE_DEPTH_MAX * 3 / 4)
#define KEEP_INNER (SS_TRACE_DEPTH_MAX - KEEP_OUTER - 2) /* marker, wait's leaf */

uint64_t trace_us(const struct trace *t, uint64_t ns)
{
  return ns > t->base_ns ? (ns - t->base_ns) / 1000 : 0;
}

size_t trace_digits(uint64_t number)
{
  size_t n = 1;
  uint64_t limit = 10; /* no division: of the time of a large trace this took a tenth */
  for (; number >= limit && n < 19; limit *= 10)
    n++;
  return number >= limit ? 20 : n;
}

/* As ss_escape_json, but '<' stays: Perfetto's reader does not undo \u escapes,
 * and C++ names are full of it. */
void trace_escape(struct ss_buf *out, const char *s, size_t len)
{
  static const char less[] = "\\u003c";
  struct ss_buf escaped = {0};
  ss_escape_json(&escaped, s, len);
  for (const char *c = ss_buf_str(&escaped); *c != '\0'; c++) {
    if (ss_starts_with(c, less)) {
      ss_buf_addc(out, '<');
      c += sizeof less - 2;
    } else if (*c == '\\') { /* with what it escapes, maybe another backslash */
      ss_buf_add(out, c, 2);
      c++;
    } else {
      ss_buf_addc(out, *c);
    }
  }
  out->failed = out->failed || escaped.failed;
  ss_buf_release(&escaped);
}

static const char *category_of(const struct ss_text *x)
{
  static const char *const words[] = {
      [SS_TEXT_ROOT] = "native",
      [SS_TEXT_PYTHON] = "python_function",
      [SS_TEXT_PYLIB] = "python_function",
      [SS_TEXT_NATIVE] = "native",
      [SS_TEXT_OPERATOR] = "native",
      [SS_TEXT_KERNEL] = "os_kernel",
      [SS_TEXT_WAIT] = "wait",
      [SS_TEXT_MARK] = "native",
  };
  return x->kind == SS_TEXT_OPERATOR && x->op == SS_ID_NONE ? "cpu_op" : words[x->kind];
}

static enum trace_kind kind_of(const struct ss_text *x)
{
  switch ((enum ss_text_kind)x->kind) {
  case SS_TEXT_NATIVE:
  case SS_TEXT_KERNEL:
  case SS_TEXT_MARK:
    return TRACE_NATIVE;
  case SS_TEXT_OPERATOR: /* the operator itself stays, its function may go */
    return x->op != SS_ID_NONE ? TRACE_NATIVE : TRACE_OTHER;
  case SS_TEXT_WAIT:
    return TRACE_WAITS;
  case SS_TEXT_ROOT:
  case SS_TEXT_PYTHON:
  case SS_TEXT_PYLIB:
    break;
  }
  return TRACE_OTHER;
}

static void make_name(struct trace *t, uint32_t text, struct trace_name *name)
{
  const struct ss_text *x = &t->texts.texts[text];
  struct ss_buf escaped = {0};
  size_t len;
  const char *s = ss_texts_str(&t->texts, text, &len);
  trace_escape(&escaped, s, len);
  *name = (struct trace_name){
      .json = ss_arena_strndup(&t->arena, ss_buf_str(&escaped), escaped.len),
      .len = escaped.len,
      .category = category_of(x),
      .category_len = strlen(category_of(x)),
      .kind = kind_of(x),
  };
  t->failed = t->failed || escaped.failed || name->json == NULL;
  ss_buf_release(&escaped);
}

struct trace_name trace_name_of(struct trace *t, uint32_t text)
{
  static const struct trace_name none = {.json = "", .category = ""};
  size_t had = t->names_count;
  if (text >= had) {
    if (!ss_grow(&t->names, &t->names_cap, (size_t)text + 1, sizeof *t->names)) {
      t->failed = true;
      return none;
    }
    for (t->names_count = (size_t)text + 1; had < t->names_count; had++)
      t->names[had] = (struct trace_name){0};
  }
  struct trace_name *name = &t->names[text];
  if (name->json == NULL)
    make_name(t, text, name);
  return name->json == NULL ? none : *name;
}

/* ---- stack -> node --------------------------------------------------------------- */

static uint32_t child(struct trace *t, uint32_t parent, uint32_t text)
{
  size_t had = t->tree.count;
  uint32_t node = text == SS_ID_NONE ? SS_ID_NONE : ss_tree_child(&t->tree, parent, text);
  if (node == SS_ID_NONE ||
      !ss_grow(&t->depths, &t->depths_cap, t->tree.count, sizeof *t->depths)) {
    t->failed = true;
    return SS_ID_NONE;
  }
  if (node == had)
    t->depths[node] = parent == SS_ID_NONE ? 1 : (uint16_t)(t->depths[parent] + 1);
  return node;
}

/* The operator that `node` is inside of, as a text, or SS_ID_NONE. */
static uint32_t operator_around(const struct trace *t, uint32_t node)
{
  for (; node != SS_ID_NONE; node = t->tree.nodes[node].parent) {
    uint32_t text = t->tree.nodes[node].text;
    const struct ss_text *x = &t->texts.texts[text];
    if (x->kind == SS_TEXT_OPERATOR && x->op == SS_ID_NONE)
      return text;
  }
  return SS_ID_NONE;
}

/* The child for a frame, below its operator where it begins a new one:
 * "call" and "redispatch" of the same operator are one. */
static uint32_t push_frame(struct trace *t, uint32_t node, uint32_t text)
{
  uint32_t op = text == SS_ID_NONE ? SS_ID_NONE : t->texts.texts[text].op;
  if (op != SS_ID_NONE && operator_around(t, node) != op) {
    node = child(t, node, op);
    if (t->failed)
      return SS_ID_NONE;
  }
  return child(t, node, text);
}

static uint32_t marker(struct trace *t, size_t frames)
{
  char text[64];
  int n = snprintf(text, sizeof text, "(... %zu frames ...)", frames);
  return ss_texts_add(&t->texts, text, (size_t)n, SS_TEXT_MARK);
}

static uint32_t deep_node(struct trace *t, uint32_t stack)
{
  uint32_t node = SS_ID_NONE;
  size_t i = 0;
  if (!ss_path_of(&t->path, &t->texts, stack)) {
    t->failed = true;
    return SS_ID_NONE;
  }
  while (!t->failed && i < t->path.count &&
         (node == SS_ID_NONE || t->depths[node] < KEEP_OUTER - 1))
    node = push_frame(t, node, t->path.texts[i++]);
  size_t inner = t->path.count - i < KEEP_INNER ? i : t->path.count - KEEP_INNER;
  if (inner > i && !t->failed)
    node = child(t, node, marker(t, inner - i));
  while (!t->failed && inner < t->path.count)
    node = child(t, node, t->path.texts[inner++]);
  return node;
}

/* Walks up to a stack that has a node, then down again making the rest. */
static uint32_t stack_node(struct trace *t, uint32_t stack)
{
  const struct ss_profile *p = t->profile;
  uint32_t depth = 0, s = stack, node = SS_ID_NONE;
  while (s < p->n_stacks && t->of_stack[s] == SS_ID_NONE) {
    depth++;
    s = p->stacks[s].parent;
  }
  if (s < p->n_stacks)
    node = t->of_stack[s];
  size_t around = node == SS_ID_NONE ? 0 : t->depths[node];
  if (around + 2 * (size_t)depth >= SS_TRACE_DEPTH_MAX) /* each may bring an operator */
    return deep_node(t, stack);
  uint32_t chain[SS_TRACE_DEPTH_MAX];
  s = stack;
  for (uint32_t i = depth; i-- > 0; s = p->stacks[s].parent)
    chain[i] = s;
  for (uint32_t i = 0; i < depth && !t->failed; i++) {
    node = push_frame(t, node, ss_texts_frame(&t->texts, p->stacks[chain[i]].frame));
    t->of_stack[chain[i]] = node;
  }
  return node;
}

uint32_t trace_node_of(struct trace *t, const struct ss_sample_row *row)
{
  uint32_t node = SS_ID_NONE;
  enum ss_state state = (enum ss_state)row->state;
  if (row->stack < t->profile->n_stacks) {
    node = t->of_stack[row->stack];
    if (node == SS_ID_NONE) {
      node = stack_node(t, row->stack);
      t->of_stack[row->stack] = node;
    }
  }
  if (!t->failed && state != SS_STATE_UNKNOWN &&
      ss_texts_wants_wait(&t->texts, state, row->stack))
    node = child(t, node, ss_texts_wait(&t->texts, state));
  return node;
}

/* Sums of many small times have no place on a time line. */
static bool has_place(const struct ss_sample_row *row)
{
  return row->state != SS_STATE_RUNNABLE && row->state != SS_STATE_UNKNOWN;
}

bool trace_interval_of(struct trace *t, const struct ss_sample_row *row, uint64_t *end_us,
                       struct trace_interval *interval)
{
  if (!has_place(row) ||
      !ss_filter_match(&t->filter, row->thread, row->phase, row->state) ||
      row->time_ns < t->filter.from_ns || row->time_ns >= t->filter.to_ns)
    return false;
  uint64_t at = trace_us(t, row->time_ns), weight = row->weight_ns / 1000;
  uint64_t start =
      trace_us(t, row->time_ns > row->weight_ns ? row->time_ns - row->weight_ns : 0);
  interval->start_us = start > *end_us ? start : *end_us;
  /* The interrupt of the one before may have come late: the debt is passed on to the
   * next samples, and settled by the next wait. */
  uint64_t latest = at + (ss_state_running((enum ss_state)row->state) ? t->period_us : 0);
  interval->end_us = interval->start_us + weight;
  if (interval->end_us > latest)
    interval->end_us = latest;
  if (interval->start_us >= interval->end_us)
    return false;
  interval->node = trace_node_of(t, row);
  if (interval->node == SS_ID_NONE)
    return false;
  *end_us = interval->end_us;
  return true;
}
