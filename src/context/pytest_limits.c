/*
 * pytest-timeout's settings, by pytest's own rules: the first ini file of the
 * working folder that has its section; ini `addopts`, then PYTEST_ADDOPTS, then
 * the command line, later words winning; ini < PYTEST_TIMEOUT < --timeout. Only the
 * setting that is in force is listed. What markers say is only seen in the live run
 * (pytest_marker.c).
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "context_limits.h"
#include "stacksample/fsafe.h"
#include "stacksample/text.h"

#define INI_MAX (1u << 20)

struct pytest_options { /* NAN: not given */
  double timeout, session, override;
  bool disabled;       /* -p no:timeout */
  const char *pending; /* option whose value is the next word, or NULL */
};

/* ---- words ------------------------------------------------------------------------ */

static double number(const char *text)
{
  char *end;
  double value = strtod(text, &end);
  while (isspace((unsigned char)*end))
    end++;
  return end == text || *end || !isfinite(value) ? NAN : value;
}

static void take_value(struct pytest_options *p, const char *option, const char *value)
{
  if (strcmp(option, "--timeout") == 0)
    p->timeout = number(value);
  else if (strcmp(option, "--session-timeout") == 0)
    p->session = number(value);
  else if (strcmp(option, "-p") == 0)
    p->disabled = p->disabled || strcmp(value, "no:timeout") == 0;
  else if (ss_starts_with(value, "timeout="))
    p->override = number(value + 8);
}

static void take_word(struct pytest_options *p, const char *word)
{
  static const char *const options[] = {"--timeout", "--session-timeout",
                                        "--override-ini", "-o", "-p"};
  if (p->pending) {
    take_value(p, p->pending, word);
    p->pending = NULL;
    return;
  }
  for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    size_t n = strlen(options[i]);
    if (strncmp(word, options[i], n) != 0)
      continue;
    if (!word[n])
      p->pending = options[i];
    else if (word[n] == '=' && n > 2)
      take_value(p, options[i], word + n + 1);
    else if (n == 2)
      take_value(p, options[i], word + n);
    return;
  }
}

/* Splits as Python's shlex does, which pytest applies to addopts. `list`: a
 * TOML list, whose brackets and commas separate too. */
static void take_text(struct pytest_options *p, const char *text, bool list)
{
  struct ss_buf word = {0};
  char quote = 0;
  bool started = false;

  for (const char *c = text;; c++) {
    bool blank = *c == '\0' || isspace((unsigned char)*c) || (list && strchr("[],", *c));
    if (blank && (!quote || !*c)) {
      if (started)
        take_word(p, ss_buf_str(&word));
      ss_buf_clear(&word);
      started = false;
    } else if (*c == quote) {
      quote = 0;
    } else if (!quote && (*c == '"' || *c == '\'')) {
      quote = *c;
      started = true;
    } else {
      if (*c == '\\' && quote != '\'' && c[1])
        c++;
      ss_buf_addc(&word, *c);
      started = true;
    }
    if (!*c)
      break;
  }
  ss_buf_release(&word);
}

/* ---- ini files ------------------------------------------------------------------- */

static const char *line_end(const char *s, const char *end)
{
  const char *nl = memchr(s, '\n', (size_t)(end - s));
  return nl ? nl : end;
}

static const char *next_line(const char *s, const char *end)
{
  const char *eol = line_end(s, end);
  return eol < end ? eol + 1 : end;
}

static bool is_section(const char *line, const char *end, const char *section)
{
  size_t n = strlen(section);
  while (end > line && isspace((unsigned char)end[-1]))
    end--;
  return (size_t)(end - line) == n + 2 && line[0] == '[' &&
         memcmp(line + 1, section, n) == 0 && line[n + 1] == ']';
}

/* Where the value of `key` starts in this line, or NULL. */
static const char *key_value(const char *line, const char *end, const char *key)
{
  size_t n = strlen(key);
  if ((size_t)(end - line) <= n || memcmp(line, key, n) != 0)
    return NULL;
  const char *p = line + n;
  while (p < end && (*p == ' ' || *p == '\t'))
    p++;
  return p < end && (*p == '=' || *p == ':') ? p + 1 : NULL;
}

/* Does the value go on in the line `next`: indented, or an open TOML list? */
static bool goes_on(const struct ss_buf *value, const char *next, const char *end)
{
  const char *text = ss_buf_str(value);
  text += strspn(text, " \t\r\n");
  if (*text == '[')
    return !strchr(text, ']');
  return next < end && (*next == ' ' || *next == '\t');
}

bool ss_ini_value(const char *text, size_t len, const char *section, const char *key,
                  struct ss_buf *out)
{
  const char *end = text + len;
  bool inside = false;

  for (const char *line = text; line < end;) {
    const char *eol = line_end(line, end);
    const char *value = inside ? key_value(line, eol, key) : NULL;
    if (*line == '[')
      inside = is_section(line, eol, section);
    line = next_line(line, end);
    if (!value)
      continue;
    ss_buf_add(out, value, (size_t)(eol - value));
    while (line < end && goes_on(out, line, end)) {
      ss_buf_addc(out, '\n');
      ss_buf_add(out, line, (size_t)(line_end(line, end) - line));
      line = next_line(line, end);
    }
    return true;
  }
  return false;
}

struct ini {
  double timeout, session;
  const char *file; /* NULL: none */
};

static double ini_number(const struct ss_buf *text, const char *section, const char *key)
{
  struct ss_buf value = {0};
  double result = NAN;

  if (ss_ini_value(ss_buf_str(text), text->len, section, key, &value) && value.len) {
    char *s = value.data + strspn(value.data, " \t\"'");
    s[strcspn(s, "\"'#;\n")] = '\0';
    result = number(s);
  }
  ss_buf_release(&value);
  return result;
}

static void take_addopts(struct pytest_options *p, struct ss_buf *value, bool toml)
{
  const char *start = ss_buf_str(value);
  start += strspn(start, " \t\r\n");
  /* A TOML string loses its own quotes before shlex sees it. */
  if (toml && (*start == '"' || *start == '\'')) {
    char quote[] = {*start, '\0'};
    start += strspn(start, quote);
    char *last = strrchr(start, quote[0]);
    if (last)
      *last = '\0';
    take_text(p, start, false);
    return;
  }
  take_text(p, start, *start == '[');
}

static bool has_section(const struct ss_buf *text, const char *section)
{
  const char *s = ss_buf_str(text), *end = s + text->len;
  for (; s < end; s = next_line(s, end))
    if (is_section(s, line_end(s, end), section))
      return true;
  return false;
}

/* In pytest's order; the first file that has its section is the only one. */
static const struct ini_file {
  const char *file, *section;
  bool toml;
} ini_files[] = {
    {"pytest.toml", "pytest", true},
    {".pytest.toml", "pytest", true},
    {"pytest.ini", "pytest", false},
    {".pytest.ini", "pytest", false},
    {"pyproject.toml", "tool.pytest", true},
    {"pyproject.toml", "tool.pytest.ini_options", true},
    {"tox.ini", "pytest", false},
    {"setup.cfg", "tool:pytest", false},
};

static void read_ini(int cwd_fd, struct ini *ini, struct pytest_options *p)
{
  struct ss_buf text = {0}, addopts = {0};

  *ini = (struct ini){NAN, NAN, NULL};
  for (size_t i = 0; i < sizeof ini_files / sizeof ini_files[0] && cwd_fd >= 0; i++) {
    const struct ini_file *f = &ini_files[i];
    if (ss_file_read_all(cwd_fd, f->file, INI_MAX, &text, NULL) != SS_ERR_OK ||
        !has_section(&text, f->section))
      continue;
    ini->file = f->file;
    ini->timeout = ini_number(&text, f->section, "timeout");
    ini->session = ini_number(&text, f->section, "session_timeout");
    if (ss_ini_value(ss_buf_str(&text), text.len, f->section, "addopts", &addopts))
      take_addopts(p, &addopts, f->toml);
    break;
  }
  ss_buf_release(&text);
  ss_buf_release(&addopts);
}

/* ---- together -------------------------------------------------------------------- */

static const char *lookup(const char *const *settings, size_t n, char *const *environment,
                          const char *name)
{
  size_t len = strlen(name);
  for (size_t i = n; i > 0; i--)
    if (strncmp(settings[i - 1], name, len) == 0 && settings[i - 1][len] == '=')
      return settings[i - 1] + len + 1;
  for (; environment && *environment; environment++)
    if (strncmp(*environment, name, len) == 0 && (*environment)[len] == '=')
      return *environment + len + 1;
  return NULL;
}

static void add_test_limit(struct ss_time_limits *l, const struct pytest_options *p,
                           const struct ini *ini, double env)
{
  char ini_source[64];
  snprintf(ini_source, sizeof ini_source, "pytest-timeout, %s",
           ini->file ? ini->file : "ini");
  const struct {
    double value;
    const char *source;
  } by_rank[] = {{p->timeout, "pytest-timeout, --timeout"},
                 {env, "pytest-timeout, PYTEST_TIMEOUT"},
                 {p->override, "pytest-timeout, -o timeout"},
                 {ini->timeout, ini_source}};
  for (size_t i = 0; i < sizeof by_rank / sizeof by_rank[0]; i++) {
    if (isnan(by_rank[i].value))
      continue;
    if (by_rank[i].value > 0) /* 0 switches it off */
      ss_time_limits_add(l, SS_LIMIT_TEST, by_rank[i].value, by_rank[i].source);
    return;
  }
}

void ss_pytest_limits_find(struct ss_time_limits *l, char *const *words,
                           const char *const *settings, size_t n_settings,
                           char *const *environment, int cwd_fd)
{
  struct pytest_options p = {NAN, NAN, NAN, false, NULL};
  struct ini ini;
  const char *addopts = lookup(settings, n_settings, environment, "PYTEST_ADDOPTS");
  const char *env = lookup(settings, n_settings, environment, "PYTEST_TIMEOUT");

  read_ini(cwd_fd, &ini, &p);
  if (addopts)
    take_text(&p, addopts, false);
  for (p.pending = NULL; *words; words++)
    take_word(&p, *words);
  if (p.disabled)
    return;
  add_test_limit(l, &p, &ini, env ? number(env) : NAN);
  double session = isnan(p.session) ? ini.session : p.session;
  if (!isnan(session) && session > 0)
    ss_time_limits_add(l, SS_LIMIT_SESSION, session, "pytest-timeout, --session-timeout");
}
