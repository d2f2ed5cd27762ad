/*
 * commands.txt: the stage of the user's pipeline that we are in, so quoted that
 * pasting it into a shell runs the same thing.
 *
 * A wrapper such as time(1) or timeout(1) stays alive while we run and has the
 * whole rest of the stage in its arguments, so the outermost one's command line
 * is the stage. env(1) and a shell's assignments leave no process behind: what
 * they set shows as the difference between the stage's first environment and
 * its parent's.
 */
#include <string.h>
#include <unistd.h>

#include "facts_priv.h"
#include "stacksample/escape.h"
#include "stacksample/meta.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define STAGE_BYTES_MAX (4u << 20) /* more than the kernel's ARG_MAX of 2 MiB */
#define ANCESTORS_MAX 64

static size_t count_words(char *const *argv)
{
  size_t n = 0;
  while (argv && argv[n])
    n++;
  return n;
}

/* Does `outer` end with the words of `inner`, and so run it? */
static bool ends_with(const struct ss_words *outer, char *const *inner)
{
  size_t n = count_words(inner);
  if (n == 0 || outer->count <= n)
    return false;
  for (size_t i = 0; i < n; i++)
    if (strcmp(outer->items[outer->count - n + i], inner[i]) != 0)
      return false;
  return true;
}

/* ---- settings ------------------------------------------------------------------ */

static bool names_equal(const char *a, const char *b, size_t name)
{
  return strncmp(a, b, name) == 0 && b[name] == '=';
}

static const char *find_setting(char *const *env, const char *setting)
{
  size_t name = strcspn(setting, "=");
  for (; env && *env; env++)
    if (names_equal(setting, *env, name))
      return *env;
  return NULL;
}

/* What every shell sets for each of its children. */
static bool shell_noise(const char *setting)
{
  static const char *const names[] = {"_", "SHLVL", "PWD", "OLDPWD", "LINES", "COLUMNS"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (names_equal(names[i], setting, strlen(names[i])))
      return true;
  return false;
}

static bool usable_name(const char *setting)
{
  size_t n = strcspn(setting, "=");
  return n > 0 && setting[n] == '=' && setting[0] != '-';
}

static bool add_setting(struct ss_buf *out, const char *setting, bool full)
{
  struct ss_buf word = {0};
  size_t name = strcspn(setting, "=");
  const char *value = setting + name + 1;
  bool redacted = false;

  ss_buf_add(&word, setting, name + 1);
  if (full)
    ss_buf_adds(&word, value);
  else
    redacted = ss_redact_setting(&word, setting, name, value, strlen(value));
  ss_buf_addc(out, ' ');
  ss_escape_shell(out, ss_buf_str(&word), word.len);
  ss_buf_release(&word);
  return redacted;
}

/* "env -u GONE NEW=value " where `after` differs from `before`. */
static bool add_settings(struct ss_buf *out, char *const *before, char *const *after,
                         bool full)
{
  struct ss_buf list = {0};
  bool redacted = false;

  for (size_t i = 0; before[i]; i++) {
    if (!usable_name(before[i]) || shell_noise(before[i]) ||
        find_setting(after, before[i]))
      continue;
    ss_buf_adds(&list, " -u ");
    ss_escape_shell(&list, before[i], strcspn(before[i], "="));
  }
  for (size_t i = 0; after[i]; i++) {
    const char *was = find_setting(before, after[i]);
    if (!usable_name(after[i]) || shell_noise(after[i]) ||
        (was && !strcmp(was, after[i])))
      continue;
    redacted = add_setting(&list, after[i], full) || redacted;
  }
  if (list.len) {
    ss_buf_adds(out, "env");
    ss_buf_add(out, list.data, list.len);
    ss_buf_addc(out, ' ');
  }
  ss_buf_release(&list);
  return redacted;
}

/* ---- the stage ------------------------------------------------------------------- */

/* The outermost wrapper around us, its words in `stage`; our own pid: none. */
static pid_t find_stage(struct ss_words *stage, char *const *argv, pid_t *parent)
{
  pid_t found = getpid();

  *parent = getppid();
  for (int i = 0; *parent > 1 && i < ANCESTORS_MAX; i++) {
    struct ss_words outer = {0};
    struct ss_stat st;
    bool wraps = ss_words_read(&outer, *parent, "cmdline", STAGE_BYTES_MAX) &&
                 ss_is_wrapper(outer.items[0]) &&
                 ends_with(&outer, stage->count ? stage->items : argv) &&
                 ss_stat_read(&st, *parent, 0);
    if (!wraps) {
      ss_words_release(&outer);
      break;
    }
    ss_words_release(stage);
    *stage = outer;
    found = *parent;
    *parent = st.ppid;
  }
  return found;
}

bool ss_stage_quote(struct ss_buf *out, const struct ss_facts_config *config)
{
  struct ss_words stage = {0}, before = stage, after = stage;
  bool full = config->env == SS_ENV_FULL, redacted = false;
  struct ss_buf line = {0};
  pid_t parent;
  pid_t first = find_stage(&stage, config->argv, &parent);

  if (parent > 0 && ss_words_read(&before, parent, "environ", STAGE_BYTES_MAX) &&
      (first == getpid() || ss_words_read(&after, first, "environ", STAGE_BYTES_MAX)))
    redacted =
        add_settings(&line, before.items, after.items ? after.items : environ, full);
  ss_buf_add(out, ss_buf_str(&line), line.len);
  ss_buf_clear(&line);
  redacted =
      ss_command_quote(&line, stage.items ? stage.items : config->argv, full) || redacted;
  ss_buf_add(out, ss_buf_str(&line), line.len);
  ss_buf_release(&line);
  ss_words_release(&stage);
  ss_words_release(&before);
  ss_words_release(&after);
  return redacted;
}

/* ---- the file ---------------------------------------------------------------------- */

/* A quoted command may hold newlines; none may end the comment. */
static void add_comment(struct ss_buf *out, const char *text)
{
  ss_buf_adds(out, "#   ");
  for (; *text; text++) {
    ss_buf_addc(out, *text);
    if (*text == '\n')
      ss_buf_adds(out, "#   ");
  }
  ss_buf_addc(out, '\n');
}

static void add_command(struct ss_buf *out, const char *title, char *const *argv,
                        bool full)
{
  struct ss_buf line = {0};

  if (!argv)
    return;
  ss_command_quote(&line, argv, full);
  ss_buf_addf(out, "# %s:\n", title);
  add_comment(out, ss_buf_str(&line));
  ss_buf_release(&line);
}

static void add_git(struct ss_buf *out, int cwd_fd, struct ss_store *store)
{
  struct ss_buf commit = {0}, branch = {0};

  if (cwd_fd >= 0 && ss_git_commit(cwd_fd, &commit, &branch)) {
    ss_buf_addf(out, "# git commit: %s", ss_buf_str(&commit));
    if (branch.len) {
      ss_buf_adds(out, " (");
      ss_escape_terminal(out, branch.data, branch.len);
      ss_buf_addc(out, ')');
      ss_store_meta(store, SS_META_GIT_BRANCH, branch.data);
    }
    ss_buf_addc(out, '\n');
    ss_store_meta(store, SS_META_GIT_COMMIT, ss_buf_str(&commit));
  } else {
    ss_buf_adds(out, "# git commit: unknown (not a repository, or not readable)\n");
  }
  ss_buf_release(&commit);
  ss_buf_release(&branch);
}

void ss_commands_text(struct ss_buf *out, const struct ss_facts_config *config,
                      const struct ss_buf *stage, bool redacted, const char *cwd,
                      int cwd_fd, struct ss_store *store)
{
  bool full = config->env == SS_ENV_FULL;
  struct ss_buf options = {0};
  char started[SS_UTC_MAX];

  ss_buf_adds(out, "# The pipeline stage as found; pasted into a shell it runs the same "
                   "thing again.\n");
  if (redacted)
    ss_buf_adds(out,
                "# What looked like a secret is marked '" SS_REDACTED "': put it back "
                "first, or use --env full.\n");
  ss_buf_adds(out, "cd ");
  ss_escape_shell(out, cwd, strlen(cwd));
  ss_buf_addf(out, "\n%s\n\n", ss_buf_str(stage));
  add_command(out, "stacksample's part", config->argv, full);
  add_command(out, "the command", config->command, full);
  ss_buf_adds(out, "# folder: ");
  ss_escape_terminal(out, cwd, strlen(cwd));
  ss_buf_addf(out, "\n# started: %s\n# stacksample %s", ss_utc(started, ss_wall_ns()),
              SS_VERSION);
  if (config->options && config->options[0]) {
    ss_redact(&options, config->options, strlen(config->options));
    ss_buf_adds(out, ", options: ");
    ss_escape_terminal(out, ss_buf_str(&options), options.len);
    ss_store_meta(store, SS_META_OPTIONS, ss_buf_str(&options));
  }
  ss_buf_addc(out, '\n');
  ss_buf_release(&options);
  add_git(out, cwd_fd, store);
}
