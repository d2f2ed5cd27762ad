/*
 * The settings that decide what a slow gradient test really ran: which devices
 * were visible, whether compilation was off, whether every duration is printed.
 * Only read, for one line of the summary.
 */
#include <string.h>

#include "facts_priv.h"
#include "stacksample/meta.h"

#define SETTINGS_MAX 64

static const char *const guard_names[] = {
    "CUDA_VISIBLE_DEVICES", "NANOBRAGG_DISABLE_COMPILE", "TORCHDYNAMO_DISABLE"};

static const char *value_of(const char *setting, const char *name)
{
  size_t n = strlen(name);
  return strncmp(setting, name, n) == 0 && setting[n] == '=' ? setting + n + 1 : NULL;
}

/* What env(1) in the command sets comes after our own environment. */
static const char *find(const char *const *settings, size_t n, char *const *environment,
                        const char *name)
{
  const char *value = NULL;

  for (; environment && *environment; environment++)
    if (value_of(*environment, name))
      value = value_of(*environment, name);
  for (size_t i = 0; i < n; i++)
    if (value_of(settings[i], name))
      value = value_of(settings[i], name);
  return value;
}

/* The number of the last --durations in a text or word. */
static const char *durations_in(const char *text, const char *otherwise, size_t *len)
{
  for (const char *p = text; (p = strstr(p, "--durations"));) {
    p += strlen("--durations");
    if (*p != '=' && *p != ' ')
      continue;
    otherwise = p + 1;
    *len = strspn(otherwise, "0123456789");
  }
  return otherwise;
}

void ss_guard_facts(const struct ss_facts_config *config, struct ss_store *store)
{
  const char *settings[SETTINGS_MAX], *durations = NULL, *value;
  size_t n = 0, len = 0;
  struct ss_unwrapped inner;
  cJSON *guards = cJSON_CreateObject();

  ss_unwrap(config->command, &inner, NULL, settings, SETTINGS_MAX, &n);
  for (size_t i = 0; i < sizeof guard_names / sizeof guard_names[0]; i++) {
    value = find(settings, n, config->environment, guard_names[i]);
    if (value)
      ss_json_str(guards, guard_names[i], value);
    else
      ss_json_item(guards, guard_names[i], NULL);
  }
  value = find(settings, n, config->environment, "PYTEST_ADDOPTS");
  if (value)
    durations = durations_in(value, NULL, &len);
  for (char *const *w = inner.pytest; w && *w; w++) {
    durations = durations_in(*w, durations, &len);
    if (strcmp(*w, "--durations") == 0 && w[1]) {
      durations = w[1];
      len = strspn(durations, "0123456789");
    }
  }
  if (durations)
    ss_json_text(guards, "--durations", durations, len);
  else
    ss_json_item(guards, "--durations", NULL);
  ss_meta_json(store, SS_META_GUARDS, guards);
}
