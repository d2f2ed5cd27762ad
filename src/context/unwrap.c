/*
 * A command line without its wrappers: `time -v timeout 60 env A=b python -m
 * pytest x` is pytest with the arguments `x`. Words are only read, never run;
 * a wrapper that is not in the table ends the search, and what remains is then
 * the command.
 */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "context_limits.h"
#include "stacksample/text.h"

/* A command that runs the command given by its last arguments. */
static const struct wrapper {
  const char *name;
  const char *letters;      /* short options that take an argument */
  const char *long_args[8]; /* long options whose argument may be the next word */
  unsigned words;           /* words of its own before the command */
} wrappers[] = {
    {"time", "fo", {"format", "output"}, 0},
    {"timeout", "ks", {"kill-after", "signal"}, 1},
    {"env", "uC", {"unset", "chdir"}, 0},
    {"nice", "n", {"adjustment"}, 0},
    {"ionice", "cn", {"class", "classdata"}, 0},
    {"nohup", "", {NULL}, 0},
    {"setsid", "", {NULL}, 0},
    {"stdbuf", "ioe", {"input", "output", "error"}, 0},
    {"taskset", "", {NULL}, 1},
    {"chrt", "TPD", {NULL}, 1},
    {"choom", "n", {"adjust"}, 0},
    {"flock", "wE", {"timeout", "conflict-exit-code"}, 1},
    {"numactl",
     "NmiCp",
     {"cpunodebind", "membind", "interleave", "physcpubind", "preferred"},
     0},
    {"prlimit", "", {NULL}, 0},
    {"setpriv",
     "",
     {"reuid", "regid", "groups", "inh-caps", "bounding-set", "ambient-caps",
      "securebits", "pdeathsig"},
     0},
    {"sudo", "ugCDhpRrTtU", {"user", "group", "chdir", "prompt", "host"}, 0},
    {"doas", "uC", {NULL}, 0},
    {"xvfb-run", "nsefpw", {"server-num", "server-args", "error-file"}, 0},
    {"uv", "p", {"python", "with", "extra", "group", "project", "directory"}, 1},
    {"poetry", "CP", {"directory", "project"}, 1},
    {"pipenv", "", {"python"}, 1},
    {"conda", "np", {"name", "prefix"}, 1},
};

static const struct wrapper *find_wrapper(const char *argv0)
{
  for (size_t i = 0; i < sizeof wrappers / sizeof wrappers[0]; i++)
    if (strcmp(ss_base_name(argv0), wrappers[i].name) == 0)
      return &wrappers[i];
  return NULL;
}

bool ss_is_wrapper(const char *argv0)
{
  return find_wrapper(argv0) != NULL;
}

static bool long_takes_next(const struct wrapper *w, const char *name)
{
  for (size_t i = 0; i < sizeof w->long_args / sizeof w->long_args[0]; i++)
    if (w->long_args[i] && strcmp(w->long_args[i], name) == 0)
      return true;
  return false;
}

/* A cluster of letters: the first that takes an argument eats the rest, or the
 * next word where there is no rest. */
static bool cluster_takes_next(const struct wrapper *w, const char *letters)
{
  for (const char *c = letters; *c; c++)
    if (strchr(w->letters, *c))
      return c[1] == '\0';
  return false;
}

/* The first word from `argv` on that is not one of the wrapper's options. */
static char *const *skip_options(const struct wrapper *w, char *const *argv)
{
  while (argv[0] && argv[0][0] == '-' && argv[0][1]) {
    const char *word = *argv++;
    if (strcmp(word, "--") == 0)
      break;
    bool next = word[1] == '-' ? !strchr(word, '=') && long_takes_next(w, word + 2)
                               : cluster_takes_next(w, word + 1);
    if (next && argv[0])
      argv++;
  }
  return argv;
}

static bool timeout_duration(const char *text, double *seconds)
{
  static const struct {
    char suffix;
    double factor;
  } units[] = {{'\0', 1}, {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
  char *end;
  double value = strtod(text, &end);

  if (end == text || !isfinite(value) || value <= 0 || (*end && end[1]))
    return false;
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    if (units[i].suffix == *end) {
      *seconds = value * units[i].factor;
      return true;
    }
  }
  return false;
}

bool ss_timeout1_parse(char *const *argv, double *seconds)
{
  if (argv[0] && strcmp(ss_base_name(argv[0]), "busybox") == 0)
    argv++;
  if (!argv[0] || strcmp(ss_base_name(argv[0]), "timeout") != 0)
    return false;
  argv = skip_options(find_wrapper("timeout"), argv + 1);
  return argv[0] && timeout_duration(argv[0], seconds);
}

/* ---- pytest ------------------------------------------------------------------ */

static bool named_pytest(const char *word)
{
  const char *base = ss_base_name(word);
  return strcmp(base, "pytest") == 0 || strcmp(base, "py.test") == 0 ||
         strcmp(base, "pytest-3") == 0;
}

static char *const *after_coverage(char *const *argv);

static char *const *after_module(char *const *argv, const char *module)
{
  if (!module)
    return NULL;
  if (strcmp(module, "coverage") == 0)
    return after_coverage(argv);
  return named_pytest(module) ? argv + 1 : NULL;
}

/* python's own words: -m MODULE or a script; other options are skipped.
 * `with_arg`: the letters that take an argument. */
static char *const *after_python(char *const *argv, const char *with_arg)
{
  for (argv++; argv[0]; argv++) {
    if (argv[0][0] != '-')
      return named_pytest(argv[0]) ? argv + 1 : NULL;
    if (argv[0][1] == '-')
      continue;
    size_t plain = strcspn(argv[0], "cm");
    size_t arg = strcspn(argv[0], with_arg);
    if (arg < plain) {
      if (!argv[0][arg + 1] && argv[1])
        argv++;
      continue;
    }
    if (argv[0][plain] == 'c')
      return NULL;
    if (argv[0][plain] == 'm')
      return argv[0][plain + 1] ? after_module(argv, argv[0] + plain + 1)
                                : after_module(argv + 1, argv[1]);
  }
  return NULL;
}

static char *const *after_coverage(char *const *argv)
{
  if (!argv[1] || strcmp(argv[1], "run") != 0)
    return NULL;
  return after_python(argv + 1, "");
}

static bool named_python(const char *base)
{
  size_t n = ss_starts_with(base, "python") ? 6 : ss_starts_with(base, "pypy") ? 4 : 0;
  return n > 0 && base[n + strspn(base + n, "0123456789.td-")] == '\0';
}

static char *const *pytest_arguments(char *const *argv)
{
  if (!argv[0])
    return NULL;
  const char *base = ss_base_name(argv[0]);
  if (named_pytest(base))
    return argv + 1;
  if (named_python(base))
    return after_python(argv, "XWQ");
  if (ss_starts_with(base, "coverage"))
    return after_coverage(argv);
  return NULL;
}

static bool is_setting(const char *word)
{
  size_t n = 0;
  while (isalnum((unsigned char)word[n]) || word[n] == '_')
    n++;
  return n > 0 && word[n] == '=';
}

void ss_unwrap(char *const *argv, struct ss_unwrapped *out, struct ss_time_limits *limits,
               const char **settings, size_t cap, size_t *n_settings)
{
  static char *const nothing[] = {NULL};
  const struct wrapper *w;
  double seconds;

  if (n_settings)
    *n_settings = 0;
  while (argv && argv[0] && (w = find_wrapper(argv[0]))) {
    if (limits && ss_timeout1_parse(argv, &seconds))
      ss_time_limits_add(limits, SS_LIMIT_RUN, seconds, "timeout(1) in the command");
    bool env = strcmp(w->name, "env") == 0 || strcmp(w->name, "sudo") == 0;
    argv = skip_options(w, argv + 1);
    for (; env && argv[0] && is_setting(argv[0]); argv++)
      if (settings && n_settings && *n_settings < cap)
        settings[(*n_settings)++] = argv[0];
    for (unsigned i = 0; i < w->words && argv[0]; i++)
      argv++;
    if (w->words) /* uv run --with x pytest */
      argv = skip_options(w, argv);
  }
  out->argv = argv ? argv : nothing;
  out->pytest = pytest_arguments(out->argv);
}
