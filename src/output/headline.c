/*
 * The first line of a summary: how the run went, after how long, against which
 * limit. "Hung" is a test that mostly waited when a limit ended it; "Blocked" is
 * whatever else kept the run from its normal end or us from seeing it.
 */
#include <signal.h>
#include <string.h>

#include "stacksample/meta.h"
#include "summary_priv.h"

/* pytest's exit codes (its documentation, "Exit codes"). */
static const char *const pytest_codes[] = {NULL,
                                           NULL, /* tests failed: no news */
                                           "interrupted",
                                           "an internal error of pytest",
                                           "wrong usage of pytest",
                                           "no tests were collected",
                                           "too many warnings"};

static bool is_pytest(const struct ss_figures *f)
{
  const char *log = ss_profile_meta(f->p, SS_META_LOG_FILE);
  return log && strcmp(log, "pytest.log") == 0;
}

static void put_signal(struct ss_buf *out, uint64_t sig)
{
  const char *name = sig < 65 ? sigabbrev_np((int)sig) : NULL;

  ss_buf_addf(out, "signal %llu", (unsigned long long)sig);
  if (name)
    ss_buf_addf(out, " (SIG%s)", name);
}

static void put_after(const struct ss_figures *f, struct ss_buf *out)
{
  if (f->wall_ns == 0)
    return;
  ss_buf_adds(out, " after ");
  ss_put_duration(out, (double)f->wall_ns / 1e9);
}

static uint64_t end_or(uint64_t end_ns, const struct ss_figures *f)
{
  return end_ns == 0 || end_ns > f->end_ns ? f->end_ns : end_ns;
}

/* The test phase that was going on at the end, NULL: none. A phase that was ended
 * with its process lasts as long as that did; the last of several is the one. */
static const struct ss_phase_row *last_phase(const struct ss_figures *f)
{
  const struct ss_phase_row *last = NULL;

  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_phase_row *row = &f->p->phases[i];
    uint64_t end = end_or(row->end_ns, f);
    if (*ss_profile_str(f->p, row->phase) &&
        end >= end_or(f->p->processes[row->process].end_ns, f) &&
        (!last || end > end_or(last->end_ns, f)))
      last = row;
  }
  return last;
}

/* Did that phase use less than half a CPU? One that computes is slow, not hung. */
static bool waited(const struct ss_figures *f)
{
  const struct ss_phase_row *last = last_phase(f);

  for (size_t i = 0; last && i < f->p->n_phases; i++) {
    const struct ss_test_row *row = &f->tests[i];
    if (&f->p->phases[row->phase] == last)
      return ss_spent_running(&row->t) < row->wall_ns / 2;
  }
  return false;
}

static void put_test(const struct ss_figures *f, struct ss_buf *out)
{
  const struct ss_phase_row *last = last_phase(f);

  if (last)
    ss_buf_addf(out, " in %s (%s)", ss_profile_str(f->p, last->test),
                ss_profile_str(f->p, last->phase));
}

bool ss_limit_of(const struct ss_profile *p, double *s, struct ss_buf *source)
{
  cJSON *limits = ss_json_meta(p, SS_META_LIMITS);
  const cJSON *item, *first = NULL;

  *s = ss_profile_meta_f64(p, SS_META_LIMIT_S, 0);
  cJSON_ArrayForEach(item, limits)
  {
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(item, "s");
    if (!first && cJSON_IsNumber(own) && own->valuedouble > *s - 0.001 &&
        own->valuedouble < *s + 0.001)
      first = item;
  }
  const char *word = ss_json_get(first, "source");
  bool known = word && *s > 0;
  if (known)
    ss_buf_adds(source, word);
  cJSON_Delete(limits);
  return known;
}

static void put_limit(const struct ss_figures *f, struct ss_buf *out)
{
  struct ss_buf source = {0};
  double s;

  if (ss_limit_of(f->p, &s, &source)) {
    ss_buf_adds(out, ", limit ");
    ss_put_duration(out, s);
    ss_buf_addf(out, " (%s)", ss_buf_str(&source));
  }
  ss_buf_release(&source);
}

static const char *ender(const char *ended_by)
{
  static const struct {
    const char *word, *text;
  } names[] = {{"timeout1", "timeout(1)"},
               {"pytest_timeout", "pytest-timeout"},
               {"stacksample", "stacksample's own --timeout"}};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(ended_by, names[i].word) == 0)
      return names[i].text;
  return NULL;
}

static void put_code(const struct ss_figures *f, struct ss_buf *out, uint64_t code)
{
  const char *meaning = NULL;

  if (is_pytest(f) && code < sizeof pytest_codes / sizeof pytest_codes[0])
    meaning = pytest_codes[code];
  if (meaning)
    ss_buf_addf(out, ": %s (exit %llu)", meaning, (unsigned long long)code);
  else if (code)
    ss_buf_addf(out, " with exit %llu", (unsigned long long)code);
}

/* The command ended by a limit or a signal; false: by itself. */
static bool put_ended(const struct ss_figures *f, struct ss_buf *out)
{
  const char *by = ss_profile_meta(f->p, SS_META_ENDED_BY);
  uint64_t sig = ss_profile_meta_u64(f->p, SS_META_SIGNAL, 0);
  const char *limit = by ? ender(by) : NULL;

  if (limit) {
    const char *busy = strcmp(by, "pytest_timeout") ? "Blocked" : "Failed";
    ss_buf_addf(out, "%s: ended by %s", waited(f) ? "Hung" : busy, limit);
  } else if (sig) {
    ss_buf_adds(out, "Blocked: ended by ");
    put_signal(out, sig);
  } else {
    return false;
  }
  put_after(f, out);
  put_test(f, out);
  put_limit(f, out);
  return true;
}

static bool is_attach(const struct ss_figures *f)
{
  const char *mode = ss_profile_meta(f->p, SS_META_MODE);
  return mode && strcmp(mode, "attach") == 0;
}

void ss_headline(const struct ss_figures *f, struct ss_buf *out)
{
  const char *blocked = ss_profile_meta(f->p, SS_META_BLOCKED);
  uint64_t code = ss_profile_meta_u64(f->p, SS_META_EXIT_CODE, UINT64_MAX);

  if (blocked && *blocked) {
    ss_buf_addf(out, "Blocked: %s", blocked);
  } else if (is_attach(f)) {
    ss_buf_adds(out, "Watched for ");
    ss_put_duration(out, (double)f->wall_ns / 1e9);
  } else if (code == UINT64_MAX) {
    ss_buf_adds(out, "Blocked: stacksample was ended before the command was");
    put_after(f, out);
    put_test(f, out);
  } else if (!put_ended(f, out)) {
    ss_buf_adds(out, code == 0 ? "Passed" : "Failed");
    put_after(f, out);
    put_code(f, out, code);
    put_limit(f, out);
  }
}
