/*
 * The facts of a run, in two steps: what can be known before the command
 * starts, and how it ended. Every step does all it can; the first failure is
 * returned for the summary, and never reaches the command.
 */
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "facts_priv.h"
#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define LIMIT_SHOWN_S 0.051 /* pytest-timeout shows tenths of a second */

const char *ss_log_name(char *const *command)
{
  struct ss_unwrapped inner;

  ss_unwrap(command, &inner, NULL, NULL, 0, NULL);
  return inner.pytest ? "pytest.log" : "command.log";
}

/* ---- start ------------------------------------------------------------------------- */

static void add_word(void *arg, const char *word, size_t len)
{
  ss_json_text(arg, NULL, word, len);
}

static void store_argv(struct ss_store *store, const char *key, char *const *argv,
                       bool full)
{
  cJSON *list = cJSON_CreateArray();

  if (full)
    for (; argv && *argv; argv++)
      ss_json_str(list, NULL, *argv);
  else
    ss_redact_argv(argv, add_word, list);
  ss_meta_json(store, key, list);
}

static void store_limits(struct ss_store *store, const struct ss_time_limits *limits)
{
  cJSON *list = cJSON_CreateArray();

  for (size_t i = 0; i < limits->count; i++) {
    const struct ss_time_limit *l = &limits->items[i];
    cJSON *item = cJSON_CreateObject();
    ss_json_str(item, "source", l->source);
    if (l->kind != SS_LIMIT_CPUS)
      ss_json_number(item, "s", l->s, 3);
    else
      ss_json_number(item, "cpus", l->s, 3);
    ss_json_str(item, "kind", ss_limit_kind_word(l->kind));
    if (l->kind == SS_LIMIT_RUN)
      ss_json_number(item, "at_s", l->s - l->elapsed_s, 3);
    ss_json_item(list, NULL, item);
  }
  ss_meta_json(store, SS_META_LIMITS, list);
}

static void store_command(struct ss_store *store, const struct ss_facts_config *config)
{
  struct ss_buf line = {0};
  bool full = config->env == SS_ENV_FULL;

  ss_store_meta(store, SS_META_VERSION, SS_VERSION);
  ss_store_meta(store, SS_META_MODE, config->mode);
  store_argv(store, SS_META_ARGV, config->argv, full);
  if (config->command) {
    store_argv(store, SS_META_COMMAND, config->command, full);
    ss_command_quote(&line, config->command, full);
    ss_store_meta(store, SS_META_COMMAND_LINE, ss_buf_str(&line));
  }
  ss_buf_release(&line);
}

static enum ss_err write_env(struct ss_bundle *b, const struct ss_facts_config *config,
                             struct ss_diag *diag)
{
  struct ss_buf text = {0};

  if (config->env == SS_ENV_NONE) {
    ss_bundle_absent(b, "env.txt", "--env none");
    return SS_ERR_OK;
  }
  ss_env_text(&text, config);
  enum ss_err err = ss_bundle_put(b, "env.txt", &text, diag);
  ss_buf_release(&text);
  return err;
}

static enum ss_err write_commands(struct ss_bundle *b,
                                  const struct ss_facts_config *config, const char *cwd,
                                  int cwd_fd, struct ss_store *store,
                                  struct ss_diag *diag)
{
  struct ss_buf text = {0}, stage = {0};
  bool redacted = ss_stage_quote(&stage, config);

  ss_store_meta(store, SS_META_STAGE, ss_buf_str(&stage));
  ss_commands_text(&text, config, &stage, redacted, cwd, cwd_fd, store);
  enum ss_err err = ss_bundle_put(b, "commands.txt", &text, diag);
  ss_buf_release(&text);
  ss_buf_release(&stage);
  return err;
}

/* The command's working folder: a path, and a descriptor (-1: none). Of a command that
 * we start it is our own. */
static int open_folder(const struct ss_facts_config *config, const char *ours,
                       char path[SS_PATH_MAX])
{
  char link[32] = ".";

  snprintf(path, SS_PATH_MAX, "%s", ours);
  if (config->target > 0) {
    snprintf(link, sizeof link, "/proc/%d/cwd", (int)config->target);
    const ssize_t len = readlink(link, path, SS_PATH_MAX - 1);
    path[len > 0 ? len : 0] = '\0';
  }
  return open(link, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

enum ss_err ss_facts_start(struct ss_bundle *b, const struct ss_facts_config *config,
                           struct ss_store *store, struct ss_time_limits *limits,
                           struct ss_diag *diag)
{
  char cwd[SS_PATH_MAX], folder[SS_PATH_MAX];
  struct ss_limited limited = {config->target, config->command, config->environment, -1};
  enum ss_err err;

  if (!getcwd(cwd, sizeof cwd))
    snprintf(cwd, sizeof cwd, ".");
  limited.cwd_fd = open_folder(config, cwd, folder);
  ss_store_meta(store, SS_META_CWD, folder);
  store_command(store, config);
  ss_time_limits_find(limits, &limited, config->timeout_ns);
  store_limits(store, limits);
  ss_guard_facts(config, store);
  ss_machine_facts(store);
  err = write_commands(b, config, cwd, limited.cwd_fd, store, diag);
  err = ss_first_error(err, write_env(b, config, diag));
  ss_close(&limited.cwd_fd);
  return err;
}

/* ---- end --------------------------------------------------------------------------- */

static void store_rusage(struct ss_store *store, const struct rusage *ru)
{
  const struct {
    const char *key;
    long value;
  } rows[] = {
      {SS_META_RU_UTIME_US, ru->ru_utime.tv_sec * 1000000 + ru->ru_utime.tv_usec},
      {SS_META_RU_STIME_US, ru->ru_stime.tv_sec * 1000000 + ru->ru_stime.tv_usec},
      {SS_META_RU_MINFLT, ru->ru_minflt},
      {SS_META_RU_MAJFLT, ru->ru_majflt},
      {SS_META_RU_MAXRSS_KB, ru->ru_maxrss},
      {SS_META_RU_NVCSW, ru->ru_nvcsw},
      {SS_META_RU_NIVCSW, ru->ru_nivcsw},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    ss_store_meta_u64(store, rows[i].key, (uint64_t)rows[i].value);
}

static void store_exit(struct ss_store *store, const struct ss_ending *ending)
{
  const struct ss_exit *exit = ending->exit;

  ss_store_meta_u64(store, SS_META_EXIT_CODE, (uint64_t)ending->status);
  if (exit->signal)
    ss_store_meta_u64(store, SS_META_SIGNAL, (uint64_t)exit->signal);
  else
    ss_store_meta_u64(store, SS_META_COMMAND_CODE, (uint64_t)exit->code);
  if (ending->timed_out)
    ss_store_meta_u64(store, SS_META_TIMED_OUT, 1);
  store_rusage(store, &exit->ru);
}

/* The tests' limit of so many seconds; 0, or none of so many: the first. */
static const struct ss_time_limit *test_limit(const struct ss_time_limits *l, double s)
{
  const struct ss_time_limit *first = NULL;

  for (size_t i = 0; i < l->count; i++) {
    if (l->items[i].kind != SS_LIMIT_TEST)
      continue;
    if (fabs(l->items[i].s - s) < LIMIT_SHOWN_S)
      return &l->items[i];
    if (first == NULL)
      first = &l->items[i];
  }
  return first;
}

/* A timeout(1) whose time was up when the command ended; a second of grace for
 * what lies between its start and ours. */
static const struct ss_time_limit *expired_timeout1(const struct ss_time_limits *l,
                                                    double elapsed_s)
{
  for (size_t i = 0; i < l->count; i++)
    if (l->items[i].kind == SS_LIMIT_RUN &&
        ss_starts_with(l->items[i].source, "timeout(1)") &&
        elapsed_s + l->items[i].elapsed_s + 1 >= l->items[i].s)
      return &l->items[i];
  return NULL;
}

/* Who ended it, and by which limit (NULL: none). `fired`: what pytest-timeout says of
 * itself in the log. */
static const char *ended_by(const struct ss_ending *ending,
                            const struct ss_log_timeout *fired,
                            const struct ss_time_limit **limit)
{
  const struct ss_time_limits *limits = ending->limits;
  const struct ss_exit *exit = ending->exit;
  uint64_t ns = exit->end_ns > exit->start_ns ? exit->end_ns - exit->start_ns : 0;
  double elapsed_s = (double)ns / 1e9;
  bool signalled = exit->signal != 0 || ending->signal_seen != 0;

  *limit = NULL;
  if (ending->timed_out) {
    for (size_t i = 0; i < limits->count; i++)
      if (ss_starts_with(limits->items[i].source, "stacksample"))
        *limit = &limits->items[i];
    return "stacksample";
  }
  if ((signalled || exit->code == 124) &&
      (*limit = expired_timeout1(limits, elapsed_s)) != NULL)
    return "timeout1";
  if (fired->fired && exit->code != 0) {
    *limit =
        test_limit(limits, fired->s > 0 ? fired->s : (double)ending->test_limit_ns / 1e9);
    return "pytest_timeout";
  }
  return signalled ? "signal" : "self";
}

static void store_ending(struct ss_store *store, const struct ss_ending *ending,
                         const struct ss_log_timeout *fired)
{
  const struct ss_time_limit *limit;
  double at_s = 0;
  char text[32];

  ss_store_meta(store, SS_META_ENDED_BY, ended_by(ending, fired, &limit));
  if (!limit)
    limit = ss_time_limits_first(ending->limits, &at_s);
  if (!limit)
    limit = test_limit(ending->limits, 0);
  if (limit) {
    snprintf(text, sizeof text, "%.3f", limit->s);
    ss_store_meta(store, SS_META_LIMIT_S, text);
  }
}

enum ss_err ss_facts_end(struct ss_bundle *b, const struct ss_facts_config *config,
                         const struct ss_ending *ending, struct ss_store *store,
                         struct ss_diag *diag)
{
  struct ss_buf text = {0};
  struct ss_log_timeout fired = {0};
  enum ss_err err;

  ss_buf_addf(&text, "%d\n", ending->status);
  err = ss_bundle_put(b, "exit_code.txt", &text, diag);
  ss_buf_clear(&text);
  ss_time_text(&text, config, ending->exit);
  err = ss_first_error(err, ss_bundle_put(b, "time.txt", &text, diag));
  ss_buf_release(&text);
  store_exit(store, ending);
  if (config->log)
    fired = ss_log_facts(&b->dir, config->log, store);
  store_limits(store, ending->limits); /* markers were seen since */
  store_ending(store, ending, &fired);
  ss_store_meta_u64(store, SS_META_FINISHED, 1);
  return err;
}
