/*
 * What the command's own output says: pytest's outcomes, durations, first
 * failure and closing line. Read once at the end, so that profile.db alone is
 * enough for every summary. The log is text from a test and may hold anything;
 * lines are cut, stripped of terminal codes, and redacted before they are kept.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "facts_priv.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define LINE_MAX_BYTES 4096
#define READ_MAX (128ull << 20) /* of a longer log: its end, where the results are */
#define ENTRIES_MAX 20000
#define SHOWN_LINES 40

enum section { SECTION_NONE, SECTION_FAILURES, SECTION_SHORT };

/* The last SHOWN_LINES lines of something. */
struct tail {
  struct ss_buf lines[SHOWN_LINES];
  size_t count; /* ever added */
};

struct log {
  cJSON *outcomes, *durations, *short_lines;
  struct tail all, traceback;
  enum section section;
  unsigned failures; /* headers seen inside SECTION_FAILURES */
  size_t n_outcomes, n_durations, n_short;
  struct ss_buf pending; /* test id whose outcome stands on a later line (-s) */
  struct ss_buf result, timeout;
  struct ss_log_timeout fired; /* the first one */
};

static void tail_add(struct tail *t, const char *s, size_t len)
{
  struct ss_buf *line = &t->lines[t->count++ % SHOWN_LINES];
  ss_buf_clear(line);
  ss_redact(line, s, len);
}

static cJSON *tail_take(struct tail *t)
{
  cJSON *list = cJSON_CreateArray();
  size_t first = t->count > SHOWN_LINES ? t->count - SHOWN_LINES : 0;

  for (size_t i = first; i < t->count; i++) {
    const struct ss_buf *line = &t->lines[i % SHOWN_LINES];
    ss_json_text(list, NULL, ss_buf_str(line), line->len);
  }
  for (size_t i = 0; i < SHOWN_LINES; i++)
    ss_buf_release(&t->lines[i]);
  return list;
}

/* ---- lines ---------------------------------------------------------------------- */

/* Length of the terminal code at `s` (ECMA-48 CSI or OSC, or a two-byte one). */
static size_t code_length(const char *s, size_t len)
{
  size_t i = 2;

  if (s[0] != '\033' || len < 2)
    return 0;
  if (s[1] == '[') {
    while (i < len && !(s[i] >= '@' && s[i] <= '~'))
      i++;
    return i < len ? i + 1 : len;
  }
  if (s[1] == ']') {
    while (i < len && s[i] != '\a' && s[i] != '\033')
      i++;
    return i < len && s[i] == '\a' ? i + 1 : i;
  }
  return 2;
}

/* What a terminal would show of a line: no codes; after a CR only what follows. */
static size_t clean_line(char *s, size_t len)
{
  size_t out = 0;

  while (len && s[len - 1] == '\r')
    len--;
  for (size_t i = 0; i < len;) {
    size_t code = code_length(s + i, len - i);
    if (code) {
      i += code;
    } else if (s[i] == '\r') {
      out = 0;
      i++;
    } else {
      s[out++] = s[i] ? s[i] : ' ';
      i++;
    }
  }
  s[out] = '\0';
  return out;
}

static const struct {
  const char *word, *outcome;
} outcomes[] = {{"PASSED", "passed"},   {"FAILED", "failed"}, {"ERROR", "error"},
                {"SKIPPED", "skipped"}, {"XFAIL", "xfailed"}, {"XPASS", "xpassed"},
                {"RERUN", "rerun"}};

/* The outcome that the text starts with, as a whole word. */
static const char *outcome_at(const char *s, size_t *len)
{
  for (size_t i = 0; i < sizeof outcomes / sizeof outcomes[0]; i++) {
    *len = strlen(outcomes[i].word);
    if (strncmp(s, outcomes[i].word, *len) == 0 && (!s[*len] || s[*len] == ' '))
      return outcomes[i].outcome;
  }
  return NULL;
}

static void add_outcome(struct log *log, const char *id, size_t len, const char *worker,
                        const char *outcome)
{
  while (len && id[len - 1] == ' ')
    len--;
  if (!len || log->n_outcomes >= ENTRIES_MAX)
    return;
  log->n_outcomes++;
  cJSON *item = cJSON_CreateObject();
  ss_json_text(item, "id", id, len);
  if (worker[0])
    ss_json_str(item, "worker", worker);
  ss_json_str(item, "outcome", outcome);
  ss_json_item(log->outcomes, NULL, item);
}

/* "[gw0] [ 50%] PASSED tests/a.py::test_x" of xdist. */
static bool xdist_line(struct log *log, const char *s)
{
  char worker[16];
  int n = 0;
  size_t len;

  if (sscanf(s, "[gw%*[0-9]]%n", &n) != 0 || n == 0 || n > 14)
    return false;
  snprintf(worker, sizeof worker, "%.*s", n - 2, s + 1);
  s += n;
  s += strspn(s, " ");
  if (*s == '[') {
    s += strcspn(s, "]");
    s += *s == ']';
    s += strspn(s, " ");
  }
  const char *outcome = outcome_at(s, &len);
  if (outcome && strstr(s, "::"))
    add_outcome(log, s + len + strspn(s + len, " "),
                strlen(s + len + strspn(s + len, " ")), worker, outcome);
  return true;
}

/* "tests/a.py::test_x[a b] PASSED   [ 50%]": the last outcome word counts. */
static void serial_line(struct log *log, const char *s)
{
  const char *found = NULL, *outcome = NULL;
  size_t len;

  if (!strstr(s, "::") || isspace((unsigned char)s[0]))
    return;
  for (const char *p = strchr(s, ' '); p; p = strchr(p + 1, ' ')) {
    const char *o = outcome_at(p + 1, &len);
    const char *rest = o ? p + 1 + len : NULL;
    if (o && (!*rest || rest[1] == ' ' || rest[1] == '[' || rest[1] == '(')) {
      found = p;
      outcome = o;
    }
  }
  ss_buf_clear(&log->pending);
  if (found)
    add_outcome(log, s, (size_t)(found - s), "", outcome);
  else
    ss_buf_add(&log->pending, s, strcspn(s, " "));
}

static void outcome_line(struct log *log, const char *s)
{
  size_t len;

  if (s[0] == '[' && xdist_line(log, s))
    return;
  const char *outcome = outcome_at(s, &len);
  if (outcome && log->pending.len && !strstr(s, "::")) {
    add_outcome(log, log->pending.data, log->pending.len, "", outcome);
    ss_buf_clear(&log->pending);
  } else if (!outcome) {
    serial_line(log, s);
  }
}

/* "12.34s call     tests/a.py::test_x" of --durations. */
static void duration_line(struct log *log, const char *s)
{
  static const char *const phases[] = {"setup", "call", "teardown"};
  char phase[16];
  double seconds;
  int at = 0;

  s += strspn(s, " ");
  if (!isdigit((unsigned char)*s) ||
      sscanf(s, "%lfs %15s %n", &seconds, phase, &at) != 2 || !at || !s[at] ||
      log->n_durations >= ENTRIES_MAX)
    return;
  for (size_t i = 0; i < 3; i++) {
    if (strcmp(phase, phases[i]) != 0)
      continue;
    cJSON *item = cJSON_CreateObject();
    ss_json_str(item, "id", s + at);
    ss_json_str(item, "phase", phase);
    ss_json_number(item, "s", seconds, 2);
    ss_json_item(log->durations, NULL, item);
    log->n_durations++;
  }
}

/* ---- sections --------------------------------------------------------------------- */

/* "==== TITLE ====" or "____ TITLE ____": the title, cut out of `s`. */
static bool title_of(const char *s, char c, struct ss_buf *title)
{
  size_t len = strlen(s), lead = 0;

  while (s[lead] == c)
    lead++;
  if (lead < 3 || s[lead] != ' ' || len < 2 * lead || s[len - 1] != c)
    return false;
  while (len && s[len - 1] == c)
    len--;
  if (len <= lead + 2)
    return false;
  ss_buf_clear(title);
  ss_buf_add(title, s + lead + 1, len - lead - 2);
  return true;
}

/* "1 failed, 2 passed in 3.21s (0:00:03)". */
static bool is_result(const char *s)
{
  const char *in = strstr(s, " in ");
  return in && isdigit((unsigned char)in[4]) &&
         (strstr(s, " passed") || strstr(s, " failed") || strstr(s, " error") ||
          strstr(s, " skipped") || strstr(s, " deselected") || strstr(s, " xfailed") ||
          ss_starts_with(s, "no tests ran"));
}

static bool enter_section(struct log *log, const char *s)
{
  struct ss_buf title = {0};
  bool header = s[0] == '=' && title_of(s, '=', &title);

  if (header) {
    const char *t = ss_buf_str(&title);
    log->section = SECTION_NONE;
    if (strcmp(t, "FAILURES") == 0 || strcmp(t, "ERRORS") == 0)
      log->section = SECTION_FAILURES;
    else if (strcmp(t, "short test summary info") == 0)
      log->section = SECTION_SHORT;
    if (is_result(t)) {
      ss_buf_clear(&log->result);
      ss_redact(&log->result, t, title.len);
    }
  }
  ss_buf_release(&title);
  return header;
}

static void failure_line(struct log *log, const char *s, size_t len)
{
  struct ss_buf title = {0};

  if (s[0] == '_' && title_of(s, '_', &title))
    log->failures++;
  ss_buf_release(&title);
  if (log->failures <= 1)
    tail_add(&log->traceback, s, len);
}

static void short_line(struct log *log, const char *s, size_t len)
{
  struct ss_buf text = {0};

  if (log->n_short++ < SHOWN_LINES) {
    ss_redact(&text, s, len);
    ss_json_text(log->short_lines, NULL, ss_buf_str(&text), text.len);
  }
  ss_buf_release(&text);
  /* Says how a test ended also where pytest ran without -v. */
  size_t word;
  const char *outcome = outcome_at(s, &word);
  const char *id = s + word + strspn(s + word, " ");
  if (outcome && strstr(id, "::")) {
    const char *dash = strstr(id, " - ");
    add_outcome(log, id, dash ? (size_t)(dash - id) : strlen(id), "", outcome);
  }
}

/* pytest-timeout: its banner, or the failure that its signal method raises, "Timeout
 * >8.0s" or "Timeout (>8.0s)". */
static struct ss_log_timeout timeout_of(const char *s)
{
  const char *p = strstr(s, "Timeout >");

  if (!p)
    p = strstr(s, "Timeout (>");
  if (p && strstr(s, "Failed: ") && isdigit((unsigned char)p[strcspn(p, ">") + 1]))
    return (struct ss_log_timeout){true, strtod(p + strcspn(p, ">") + 1, NULL)};
  return (struct ss_log_timeout){s[0] == '+' && strstr(s, "+ Timeout +"), 0};
}

static void note_timeout(struct log *log, const char *s, size_t len)
{
  const struct ss_log_timeout seen = timeout_of(s);

  if (!seen.fired || log->fired.fired)
    return;
  log->fired = seen;
  ss_redact(&log->timeout, s, len);
}

static void take_line(struct log *log, char *s, size_t raw)
{
  size_t len = clean_line(s, raw);

  tail_add(&log->all, s, len);
  note_timeout(log, s, len);
  if (enter_section(log, s))
    return;
  if (log->section == SECTION_FAILURES)
    failure_line(log, s, len);
  else if (log->section == SECTION_SHORT && len && !is_result(s))
    short_line(log, s, len);
  else
    outcome_line(log, s);
  duration_line(log, s);
  if (isdigit((unsigned char)s[0]) && is_result(s)) { /* pytest -q */
    ss_buf_clear(&log->result);
    ss_redact(&log->result, s, len);
  }
}

/* ---- the file -------------------------------------------------------------------- */

static void read_lines(struct log *log, int fd)
{
  char chunk[65536], line[LINE_MAX_BYTES + 1];
  size_t used = 0;
  ssize_t n;
  off_t size = lseek(fd, 0, SEEK_END);

  lseek(fd, size > (off_t)READ_MAX ? size - (off_t)READ_MAX : 0, SEEK_SET);
  while ((n = ss_read_some(fd, chunk, sizeof chunk)) > 0) {
    for (ssize_t i = 0; i < n; i++) {
      if (chunk[i] == '\n') {
        take_line(log, line, used);
        used = 0;
      } else if (used < LINE_MAX_BYTES) {
        line[used++] = chunk[i];
      }
    }
  }
  if (used)
    take_line(log, line, used);
}

static void store_list(struct ss_store *store, const char *key, cJSON *list)
{
  if (cJSON_GetArraySize(list) > 0)
    ss_meta_json(store, key, list);
  else
    cJSON_Delete(list);
}

struct ss_log_timeout ss_log_facts(const struct ss_dir *dir, const char *name,
                                   struct ss_store *store)
{
  int fd = ss_file_open_read(dir, name, NULL);

  if (fd < 0)
    return (struct ss_log_timeout){0};
  ss_store_meta(store, SS_META_LOG_FILE, name);
  const struct ss_log_timeout fired = ss_log_read(fd, store);
  ss_close(&fd);
  return fired;
}

struct ss_log_timeout ss_log_read(int fd, struct ss_store *store)
{
  struct log log = {.section = SECTION_NONE};

  log.outcomes = cJSON_CreateArray();
  log.durations = cJSON_CreateArray();
  log.short_lines = cJSON_CreateArray();
  read_lines(&log, fd);
  store_list(store, SS_META_LOG_OUTCOMES, log.outcomes);
  store_list(store, SS_META_LOG_DURATIONS, log.durations);
  store_list(store, SS_META_LOG_SHORT, log.short_lines);
  store_list(store, SS_META_LOG_TRACEBACK, tail_take(&log.traceback));
  store_list(store, SS_META_LOG_TAIL, tail_take(&log.all));
  if (store && log.result.len)
    ss_store_meta(store, SS_META_LOG_RESULT, log.result.data);
  if (store && log.timeout.len)
    ss_store_meta(store, SS_META_LOG_TIMEOUT, log.timeout.data);
  ss_buf_release(&log.pending);
  ss_buf_release(&log.result);
  ss_buf_release(&log.timeout);
  return log.fired;
}
