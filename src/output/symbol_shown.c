/*
 * A demangled C++ name as it is shown: without return type and parameter list,
 * which say nothing in a stack and are often longer than the name. Template
 * arguments and clone suffixes stay, since they tell functions apart.
 *
 * Purely textual and conservative: a name whose brackets do not balance, or
 * that does not end in a parameter list, is shown as it is.
 */
#include <string.h>

#include "stacksample/text.h"

#include "output_priv.h"

struct scan {
  const char *name_start; /* behind the return type */
  const char *params;     /* the last "(" outside all brackets, or NULL */
  const char *params_end; /* behind its ")" */
  bool named;             /* "operator" was passed: spaces belong to the name */
  int depth;
};

static bool word_char(char c)
{
  return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
         (c >= 'A' && c <= 'Z');
}

/* Length of "operator<<" and the like at `s`, or 0. */
static size_t operator_len(const char *s, const char *begin)
{
  static const char word[] = "operator";
  size_t n = sizeof word - 1;
  if (strncmp(s, word, n) != 0 || (s > begin && word_char(s[-1])) || word_char(s[n]))
    return 0;
  if (ss_starts_with(s + n, "()") || ss_starts_with(s + n, "[]"))
    return n + 2;
  return n + strspn(s + n, "<>=!+-*/%^&|~,");
}

static void scan_char(struct scan *scan, const char *s, const char *begin)
{
  switch (*s) {
  case '(':
    if (scan->depth == 0)
      scan->params = s;
    scan->depth++;
    break;
  case '<':
  case '[':
  case '{':
    scan->depth++;
    break;
  case ')':
    scan->depth--;
    if (scan->depth == 0)
      scan->params_end = s + 1;
    break;
  case '>':
    scan->depth -= s == begin || s[-1] != '-';
    break;
  case ']':
  case '}':
    scan->depth--;
    break;
  case ' ':
    if (scan->depth == 0 && !scan->named && scan->params == NULL)
      scan->name_start = s + 1;
    break;
  default:
    break;
  }
}

static bool scan_name(struct scan *scan, const char *begin)
{
  for (const char *s = begin; *s != '\0'; s++) {
    size_t op = operator_len(s, begin);
    if (op > 0) {
      scan->named = scan->named || scan->depth == 0;
      s += op - 1;
      continue;
    }
    scan_char(scan, s, begin);
    if (scan->depth < 0)
      return false;
    /* "(anonymous namespace)::f(int)": what we took for parameters was part
     * of the name, or of the return type. */
    if (scan->depth == 0 && s + 1 == scan->params_end && s[1] != '\0' &&
        (s[1] == ':' || s[1] == '<'))
      scan->params = NULL;
  }
  return scan->depth == 0;
}

/* What may follow a parameter list; the rest is a clone suffix, or NULL. */
static const char *after_params(const char *s)
{
  static const char *const qualifiers[] = {" const", " volatile", " &&", " &",
                                           " noexcept"};
  for (size_t i = 0; i < sizeof qualifiers / sizeof *qualifiers; i++)
    if (ss_starts_with(s, qualifiers[i]))
      s += strlen(qualifiers[i]);
  return *s == '\0' || *s == '.' || ss_starts_with(s, " [") ? s : NULL;
}

void ss_symbol_shown(const char *demangled, struct ss_buf *out)
{
  struct scan scan = {.name_start = demangled};
  bool balanced = scan_name(&scan, demangled);
  const char *suffix = NULL;
  if (balanced && scan.params != NULL && scan.params_end > scan.params)
    suffix = after_params(scan.params_end);
  if (suffix == NULL || scan.params <= scan.name_start) {
    /* A symbol table keeps a symbol's version with its name: main@@GLIBC_2.34. */
    ss_buf_add(out, demangled, strcspn(demangled, "@"));
    return;
  }
  ss_buf_add(out, scan.name_start, (size_t)(scan.params - scan.name_start));
  ss_buf_adds(out, suffix);
}
