/*
 * Table-driven options: parsing, one-line errors that say how to fix it, and
 * the --help page made from the same table, so that they cannot differ.
 */
#include <ctype.h>
#include <errno.h>

#include <cjson/cJSON.h>
#include <sqlite3.h>
#include <zlib.h>

#include "cli_priv.h"

void ss_print_version(FILE *to)
{
  fprintf(to, "stacksample %s (SQLite %s, zlib %s, cJSON %s)\n", SS_VERSION,
          sqlite3_libversion(), zlibVersion(), cJSON_Version());
}

/* ---- values ------------------------------------------------------------------ */

bool ss_duration_parse(const char *text, uint64_t *ns)
{
  static const struct {
    const char *suffix;
    double seconds;
  } units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"m", 60}, {"h", 3600}, {"d", 86400}};
  char *end = NULL;
  double value;

  if (!isdigit((unsigned char)text[0]) && text[0] != '.')
    return false;
  if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
    return false;
  errno = 0;
  value = strtod(text, &end);
  if (end == text || errno != 0 || value < 0)
    return false;
  for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
    if (strcmp(end, units[i].suffix) == 0) {
      value *= units[i].seconds * 1e9;
      if (value >= 9e18)
        return false;
      *ns = (uint64_t)value;
      return true;
    }
  return false;
}

static bool parse_uint(const char *text, uint64_t *value)
{
  char *end = NULL;

  if (!isdigit((unsigned char)text[0]))
    return false;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return errno == 0 && *end == '\0';
}

static int bad_value(const struct ss_usage *u, const struct ss_option *o,
                     const char *text, const char *expected)
{
  ss_say("--%s cannot be '%s': give %s (stacksample %s --help)", o->name, text, expected,
         u->command);
  return -1;
}

static int set_choice(const struct ss_usage *u, const struct ss_option *o,
                      const char *text)
{
  char expected[128] = "one of";
  size_t used = strlen(expected);

  for (int i = 0; o->choices[i] != NULL; i++) {
    if (strcmp(o->choices[i], text) == 0) {
      *(int *)o->value = i;
      return 0;
    }
    used +=
        (size_t)snprintf(expected + used, sizeof(expected) - used, " %s", o->choices[i]);
    if (used >= sizeof(expected))
      used = sizeof(expected) - 1;
  }
  return bad_value(u, o, text, expected);
}

static int set_value(const struct ss_usage *u, const struct ss_option *o,
                     const char *text)
{
  char expected[96];
  uint64_t number;

  switch (o->kind) {
  case SS_OPT_FLAG:
    *(bool *)o->value = true;
    return 0;
  case SS_OPT_STRING:
    if (text[0] == '\0')
      return bad_value(u, o, text, "a value that is not empty");
    *(const char **)o->value = text;
    return 0;
  case SS_OPT_UINT:
    snprintf(expected, sizeof(expected), "a whole number from %llu to %llu",
             (unsigned long long)o->min, (unsigned long long)o->max);
    if (!parse_uint(text, &number) || number < o->min || number > o->max)
      return bad_value(u, o, text, expected);
    *(uint64_t *)o->value = number;
    return 0;
  case SS_OPT_DURATION:
    if (!ss_duration_parse(text, (uint64_t *)o->value))
      return bad_value(u, o, text, "a duration such as 90, 90s, 15m or 1h");
    return 0;
  case SS_OPT_CHOICE:
    return set_choice(u, o, text);
  }
  return -1;
}

/* ---- help ---------------------------------------------------------------------- */

static void print_help(const struct ss_usage *u)
{
  printf("usage: stacksample %s\n\n%s\n\noptions:\n", u->synopsis, u->about);
  for (const struct ss_option *o = u->options; o->name; o++) {
    char left[64];
    snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ',
             o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name,
             o->arg ? " " : "", o->arg ? o->arg : "");
    printf("  %-26s %s\n", left, o->help);
  }
  printf("  -h, --help                 this text\n");
  if (u->examples)
    printf("\nexamples:\n%s", u->examples);
  if (u->statuses)
    printf("\nexit status:\n%s", u->statuses);
  printf("\nMore in stacksample-%s(1).\n", u->command);
}

/* ---- parsing --------------------------------------------------------------------- */

static const struct ss_option *find_long(const struct ss_usage *u, const char *name,
                                         size_t len)
{
  for (const struct ss_option *o = u->options; o->name; o++)
    if (strlen(o->name) == len && strncmp(o->name, name, len) == 0)
      return o;
  return NULL;
}

static const struct ss_option *find_letter(const struct ss_usage *u, char letter)
{
  for (const struct ss_option *o = u->options; o->name; o++)
    if (o->letter == letter && letter != 0)
      return o;
  return NULL;
}

static int unknown_option(const struct ss_usage *u, const char *word)
{
  char name[64];
  size_t len = strcspn(word, "=");

  if (word[1] == '-' && len < sizeof(name)) {
    memcpy(name, word, len);
    name[len] = '\0';
    for (const struct ss_option *o = u->options; o->name; o++)
      if (ss_alike(name + 2, o->name)) {
        ss_say("unknown option %s; did you mean --%s? (stacksample %s --help)", name,
               o->name, u->command);
        return -1;
      }
  }
  ss_say(
      "unknown option %.*s; options of the command go behind -- (stacksample %s --help)",
      (int)len, word, u->command);
  return -1;
}

static int needs_value(const struct ss_usage *u, const struct ss_option *o)
{
  ss_say("--%s needs a value: --%s %s (stacksample %s --help)", o->name, o->name,
         o->arg ? o->arg : "VALUE", u->command);
  return -1;
}

/* Takes one option word (and its value from the next); words used, or -1. */
static int take_long(const struct ss_usage *u, const char *word, const char *next)
{
  const char *equals = strchr(word, '=');
  size_t len = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
  const struct ss_option *o = find_long(u, word + 2, len);
  const char *value = equals ? equals + 1 : next;

  if (o == NULL)
    return unknown_option(u, word);
  if (o->kind == SS_OPT_FLAG) {
    if (equals) {
      ss_say("--%s takes no value (stacksample %s --help)", o->name, u->command);
      return -1;
    }
    return set_value(u, o, NULL) == 0 ? 1 : -1;
  }
  if (value == NULL)
    return needs_value(u, o);
  if (set_value(u, o, value) != 0)
    return -1;
  return equals ? 1 : 2;
}

static int take_short(const struct ss_usage *u, const char *word, const char *next)
{
  for (size_t i = 1; word[i] != '\0'; i++) {
    const struct ss_option *o = find_letter(u, word[i]);
    if (o == NULL)
      return unknown_option(u, word);
    if (o->kind == SS_OPT_FLAG) {
      set_value(u, o, NULL);
      continue;
    }
    if (word[i + 1] != '\0')
      return set_value(u, o, word + i + 1) == 0 ? 1 : -1;
    if (next == NULL)
      return needs_value(u, o);
    return set_value(u, o, next) == 0 ? 2 : -1;
  }
  return 1;
}

int ss_options_parse(const struct ss_usage *usage, int argc, char **argv)
{
  int i = 1;

  while (i < argc) {
    const char *word = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
    int used;
    if (word[0] != '-' || word[1] == '\0')
      return i;
    if (strcmp(word, "--") == 0)
      return i + 1;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      print_help(usage);
      return -2;
    }
    used = word[1] == '-' ? take_long(usage, word, next) : take_short(usage, word, next);
    if (used < 0)
      return -1;
    i += used;
  }
  return i;
}

int ss_options_operand(const struct ss_usage *usage, int argc, char **argv,
                       const char *operand_name, const char **operand)
{
  *operand = NULL;
  for (int i = 0; i < argc;) {
    /* argv[i] is skipped: the command's name, then the operand taken before. */
    int rest = ss_options_parse(usage, argc - i, argv + i);
    if (rest < 0)
      return rest;
    i += rest;
    if (i >= argc)
      break;
    if (*operand) {
      ss_say("%s takes one %s, not also '%s' (stacksample %s --help)", usage->command,
             operand_name, argv[i], usage->command);
      return -1;
    }
    *operand = argv[i];
  }
  if (*operand == NULL) {
    ss_say("%s needs a %s: stacksample %s %s", usage->command, operand_name,
           usage->command, operand_name);
    return -1;
  }
  return 0;
}
