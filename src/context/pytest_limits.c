/*
 * pytest-timeout's settings, by pytest's own rules: `addopts` of its configuration file
 * (pytest_config.c), then PYTEST_ADDOPTS, then the command line, later words winning;
 * file < PYTEST_TIMEOUT < --timeout. Only the setting that is in force is listed. What
 * markers say is only seen in the live run (pytest_marker.c).
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "context_limits.h"
#include "stacksample/text.h"

struct pytest_options { /* NAN: not given */
  double timeout, session, override;
  bool disabled;            /* -p no:timeout */
  bool no_more;             /* options: after -- */
  const char *pending;      /* option whose value is the next word, or NULL */
  struct ss_buf *arguments; /* words that are no options, each with its NUL; NULL */
  struct ss_buf *file;      /* of -c; NULL */
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

static void take_file(struct pytest_options *p, const char *value)
{
  if (p->file == NULL)
    return;
  ss_buf_clear(p->file);
  ss_buf_adds(p->file, value);
}

static void take_value(struct pytest_options *p, const char *option, const char *value)
{
  if (strcmp(option, "--timeout") == 0)
    p->timeout = number(value);
  else if (strcmp(option, "--session-timeout") == 0)
    p->session = number(value);
  else if (strcmp(option, "-p") == 0)
    p->disabled = p->disabled || strcmp(value, "no:timeout") == 0;
  else if (strcmp(option, "-c") == 0 || strcmp(option, "--config-file") == 0)
    take_file(p, value);
  else if ((strcmp(option, "-o") == 0 || strcmp(option, "--override-ini") == 0) &&
           ss_starts_with(value, "timeout="))
    p->override = number(value + 8);
}

/* Options with a value, which may be the next word; it is no argument then. */
static const char *const options[] = {"--timeout",
                                      "--session-timeout",
                                      "--override-ini",
                                      "--config-file",
                                      "--timeout-method",
                                      "--rootdir",
                                      "--confcutdir",
                                      "--basetemp",
                                      "--junitxml",
                                      "--junit-xml",
                                      "--ignore",
                                      "--ignore-glob",
                                      "--deselect",
                                      "--log-file",
                                      "--durations",
                                      "--maxfail",
                                      "--tb",
                                      "--import-mode",
                                      "--html",
                                      "--dist",
                                      "--numprocesses",
                                      "-c",
                                      "-k",
                                      "-m",
                                      "-n",
                                      "-o",
                                      "-p",
                                      "-r",
                                      "-W"};

static void take_option(struct pytest_options *p, const char *word)
{
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
    else
      continue; /* --ignore and --ignore-glob */
    return;
  }
}

static void take_word(struct pytest_options *p, const char *word)
{
  if (p->pending) {
    take_value(p, p->pending, word);
    p->pending = NULL;
  } else if (!p->no_more && strcmp(word, "--") == 0) {
    p->no_more = true;
  } else if (!p->no_more && word[0] == '-') {
    take_option(p, word);
  } else if (p->arguments) {
    ss_buf_add(p->arguments, word, strlen(word) + 1);
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

/* ---- the ini file ----------------------------------------------------------------- */

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

static void take_ini(const struct ss_pytest_config *config, struct ini *ini,
                     struct pytest_options *p)
{
  const char *section = config->section;
  struct ss_buf addopts = {0};

  *ini = (struct ini){NAN, NAN, section ? config->file : NULL};
  if (section == NULL)
    return;
  ini->timeout = ini_number(&config->text, section, "timeout");
  ini->session = ini_number(&config->text, section, "session_timeout");
  if (ss_ini_value(ss_buf_str(&config->text), config->text.len, section, "addopts",
                   &addopts))
    take_addopts(p, &addopts, config->toml);
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
  char ini_source[96];
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

/* The words in their order: PYTEST_ADDOPTS come first. */
static void take_words(struct pytest_options *p, const char *addopts, char *const *words)
{
  if (addopts)
    take_text(p, addopts, false);
  for (p->pending = NULL; *words; words++)
    take_word(p, *words);
}

static void find_config(const char *addopts, char *const *words, int cwd_fd,
                        struct ss_pytest_config *config)
{
  struct ss_buf arguments = {0}, file = {0};
  struct pytest_options p = {.arguments = &arguments, .file = &file};

  take_words(&p, addopts, words);
  ss_pytest_config_find(config, cwd_fd, file.len > 0 ? file.data : NULL, &arguments);
  ss_buf_release(&arguments);
  ss_buf_release(&file);
}

void ss_pytest_limits_find(struct ss_time_limits *l, char *const *words,
                           const char *const *settings, size_t n_settings,
                           char *const *environment, int cwd_fd)
{
  struct pytest_options p = {.timeout = NAN, .session = NAN, .override = NAN};
  struct ss_pytest_config config = {0};
  struct ini ini;
  const char *addopts = lookup(settings, n_settings, environment, "PYTEST_ADDOPTS");
  const char *env = lookup(settings, n_settings, environment, "PYTEST_TIMEOUT");

  find_config(addopts, words, cwd_fd, &config);
  take_ini(&config, &ini, &p);
  take_words(&p, addopts, words);
  if (!p.disabled) {
    add_test_limit(l, &p, &ini, env ? number(env) : NAN);
    double session = isnan(p.session) ? ini.session : p.session;
    if (!isnan(session) && session > 0)
      ss_time_limits_add(l, SS_LIMIT_SESSION, session,
                         "pytest-timeout, --session-timeout");
  }
  ss_pytest_config_release(&config);
}
