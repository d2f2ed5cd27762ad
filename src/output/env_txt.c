/*
 * env.txt: the command's environment, sorted, one KEY=value a line. Secrets are
 * redacted by name and by shape; a newline in a value is shown as \x0a, so that
 * no value can pretend to be another line.
 */
#include <stdlib.h>
#include <string.h>

#include "facts_priv.h"
#include "stacksample/escape.h"

static int by_text(const void *a, const void *b)
{
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_setting(struct ss_buf *out, const char *setting, bool full)
{
  struct ss_buf line = {0};
  size_t name = strcspn(setting, "=");
  const char *value = setting[name] ? setting + name + 1 : setting + name;

  ss_buf_add(&line, setting, name);
  ss_buf_addc(&line, '=');
  if (full)
    ss_buf_adds(&line, value);
  else
    ss_redact_setting(&line, setting, name, value, strlen(value));
  ss_escape_terminal(out, ss_buf_str(&line), line.len);
  ss_buf_addc(out, '\n');
  ss_buf_release(&line);
}

void ss_env_text(struct ss_buf *out, const struct ss_facts_config *config)
{
  const char **sorted = NULL;
  size_t n = 0, cap = 0;

  for (char *const *e = config->environment; e && *e; e++) {
    if (!ss_grow(&sorted, &cap, n + 1, sizeof *sorted))
      break;
    sorted[n++] = *e;
  }
  if (n)
    qsort(sorted, n, sizeof *sorted, by_text);
  for (size_t i = 0; i < n; i++)
    add_setting(out, sorted[i], config->env == SS_ENV_FULL);
  free(sorted);
}
