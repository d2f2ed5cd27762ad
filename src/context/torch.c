/*
 * PyTorch's operators, recognised by the names of the C++ functions that
 * torchgen writes: at::_ops::NAME::call and ::redispatch for an operator,
 * torch::autograd::generated::NAME::apply for a node of the backward graph.
 *
 * NAME of an operator joins name and overload by '_' ("add_Tensor"), which
 * cannot be undone by looking at it ("index_select" has no overload). Only the
 * target's native_functions.yaml tells; without it the joined name stays.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "context_priv.h"
#include "stacksample/context.h"
#include "stacksample/fsafe.h"
#include "stacksample/hash.h"

/* ---- overloads ---------------------------------------------------------------- */

/* "add_Tensor" -> length of "add", by joined name. */
struct ss_overloads {
  struct ss_interner joined;
  struct ss_idmap name_len; /* id of the joined name -> bytes of the name */
};

static bool op_char(char c)
{
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         c == '_';
}

static size_t op_len(const char *s, size_t len)
{
  size_t n = 0;
  while (n < len && op_char(s[n]))
    n++;
  return n;
}

/* Adds the "name.overload" at the beginning of `s`; without an overload there
 * is nothing to undo. False when out of memory. */
static bool add_overload(struct ss_overloads *o, const char *s, size_t len)
{
  char joined[256];
  size_t name = op_len(s, len);
  if (name == 0 || name == len || s[name] != '.')
    return true;
  size_t overload = op_len(s + name + 1, len - name - 1);
  if (overload == 0 || name + 1 + overload > sizeof joined)
    return true;
  memcpy(joined, s, name);
  joined[name] = '_';
  memcpy(joined + name + 1, s + name + 1, overload);
  uint32_t id = ss_intern(&o->joined, joined, name + 1 + overload);
  return id != SS_ID_NONE && ss_idmap_put(&o->name_len, id, name);
}

static bool starts(const char *s, size_t len, const char *prefix, size_t *prefix_len)
{
  *prefix_len = strlen(prefix);
  return len >= *prefix_len && memcmp(s, prefix, *prefix_len) == 0;
}

/* "- func: add.Tensor(..." and "  autogen: a.out, b.Scalar_out". */
static bool add_line(struct ss_overloads *o, const char *line, size_t len)
{
  size_t skip;
  if (starts(line, len, "- func: ", &skip))
    return add_overload(o, line + skip, len - skip);
  if (!starts(line, len, "  autogen: ", &skip))
    return true;
  while (skip < len) {
    const char *comma = memchr(line + skip, ',', len - skip);
    size_t part = comma ? (size_t)(comma - line) - skip : len - skip;
    if (!add_overload(o, line + skip, part))
      return false;
    skip += part;
    while (skip < len && (line[skip] == ',' || line[skip] == ' '))
      skip++;
  }
  return true;
}

struct ss_overloads *ss_overloads_parse(const char *text, size_t len)
{
  struct ss_overloads *o = calloc(1, sizeof *o);
  bool ok = o != NULL;
  while (ok && len > 0) {
    const char *newline = memchr(text, '\n', len);
    size_t line = newline ? (size_t)(newline - text) : len;
    ok = add_line(o, text, line);
    line += newline ? 1 : 0;
    text += line;
    len -= line;
  }
  if (!ok) {
    ss_overloads_free(o);
    o = NULL;
  }
  return o;
}

struct ss_overloads *ss_overloads_load(const char *native_functions_yaml)
{
  enum { YAML_MAX = 16 << 20 }; /* 0.5 MB in 1.13, 0.6 MB in 2.x */
  struct ss_overloads *o = NULL;
  struct ss_buf text = {0};
  if (ss_file_read_all(AT_FDCWD, native_functions_yaml, YAML_MAX, &text, NULL) ==
      SS_ERR_OK)
    o = ss_overloads_parse(ss_buf_str(&text), text.len);
  ss_buf_release(&text);
  return o;
}

void ss_overloads_free(struct ss_overloads *o)
{
  if (!o)
    return;
  ss_interner_release(&o->joined);
  ss_idmap_release(&o->name_len);
  free(o);
}

/* Bytes of `joined` that are the operator's name. */
static size_t name_len(const struct ss_overloads *o, const char *joined, size_t len)
{
  uint32_t id = o ? ss_intern_find(&o->joined, joined, len) : SS_ID_NONE;
  const uint64_t *name = id != SS_ID_NONE ? ss_idmap_get(&o->name_len, id) : NULL;
  return name ? (size_t)*name : len;
}

/* ---- names of functions --------------------------------------------------------- */

/* PREFIX NAME SUFFIX( of a demangled function; what is shown for it. */
struct operator_rule {
  const char *prefix;
  const char *suffix;
  const char *shown; /* before NAME */
  bool split;        /* NAME holds an overload */
};
static const struct operator_rule rules[] = {
    {"at::_ops::", "::call", "aten::", true},
    {"at::_ops::", "::redispatch", "aten::", true},
    {"torch::autograd::generated::", "::apply", "", false},
    /* Nodes that are not generated: the profiler shows their full names. */
    {"torch::autograd::", "::apply", "torch::autograd::", false},
    {"torch::autograd::Engine::", "", "autograd::engine::", false},
};

/* Of torch::autograd::Engine's functions the one that PyTorch's own profiler
 * shows as a row. */
static bool shown_engine_function(const char *name, size_t len)
{
  static const char evaluate[] = "evaluate_function";
  return len == sizeof evaluate - 1 && memcmp(name, evaluate, len) == 0;
}

static bool apply_rule(const struct operator_rule *rule, const char *name,
                       const struct ss_overloads *overloads, char *buf, size_t cap)
{
  size_t prefix = strlen(rule->prefix), suffix = strlen(rule->suffix);
  if (strncmp(name, rule->prefix, prefix) != 0)
    return false;
  const char *op = name + prefix;
  size_t len = op_len(op, strlen(op));
  if (len == 0 || strncmp(op + len, rule->suffix, suffix) != 0 || op[len + suffix] != '(')
    return false;
  if (suffix == 0 && !shown_engine_function(op, len))
    return false;
  if (rule->split)
    len = name_len(overloads, op, len);
  int n = snprintf(buf, cap, "%s%.*s", rule->shown, (int)len, op);
  return n > 0 && (size_t)n < cap;
}

bool ss_torch_operator(const char *demangled, const struct ss_overloads *overloads,
                       char *buf, size_t cap)
{
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
    if (apply_rule(&rules[i], demangled, overloads, buf, cap))
      return true;
  return false;
}
