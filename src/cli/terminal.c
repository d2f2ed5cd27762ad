/*
 * What a person sees on stderr: the status line while a command runs (on a
 * terminal only, erased before the command prints) and the closing lines.
 */
#include <math.h>
#include <string.h>

#include "stacksample/escape.h"
#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"

#include "cli_priv.h"
#include "session.h"

/* The line comes back only after the command has been quiet this long. */
#define QUIET_MS 200

bool ss_progress_wanted(bool off)
{
  const char *term = getenv("TERM");

  return !off && isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

static void clock_text(char *buf, size_t cap, double seconds)
{
  unsigned long whole = (unsigned long)seconds;

  if (whole >= 3600)
    snprintf(buf, cap, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
  else
    snprintf(buf, cap, "%lu:%02lu", whole / 60, whole % 60);
}

static void status_text(struct ss_buf *line, const struct ss_launch *launch,
                        const struct ss_pipeline_now *now)
{
  uint64_t at_ns = ss_now_ns();
  char up[32], in_phase[32];
  const char *test = strrchr(now->test.test, ':');

  clock_text(up, sizeof(up), (double)(at_ns - ss_launch_start_ns(launch)) / 1e9);
  ss_buf_addf(line, "[ss] %s", up);
  if (now->test.test[0]) {
    clock_text(in_phase, sizeof(in_phase),
               (double)(at_ns - now->test.phase_start_ns) / 1e9);
    ss_buf_adds(line, " | ");
    test = test ? test + 1 : now->test.test;
    ss_escape_terminal(line, test, strnlen(test, 48));
    ss_buf_addf(line, "%s%s%s %s", now->test.phase[0] ? " (" : "", now->test.phase,
                now->test.phase[0] ? ")" : "", in_phase);
  }
  ss_buf_addf(line, " | %.1f cpus busy: %.0f %% user %.0f %% kernel | %llu samples",
              now->busy_cpus, now->user_pct, now->kernel_pct,
              (unsigned long long)now->samples);
}

void ss_progress_show(struct ss_launch *launch, struct ss_pipeline *pipeline)
{
  struct ss_pipeline_now now;
  struct ss_buf line = {0};

  if (ss_launch_quiet_ms(launch) < QUIET_MS)
    return;
  ss_pipeline_now(pipeline, 0, &now);
  status_text(&line, launch, &now);
  (void)ss_launch_show_status(launch, ss_buf_str(&line));
  ss_buf_release(&line);
}

void ss_progress_clear(struct ss_launch *launch)
{
  ss_launch_clear_status(launch);
}

/* ---- the end ----------------------------------------------------------------------- */

static double complete_pct(const struct ss_profile *p)
{
  uint64_t all = 0, complete = 0;

  for (size_t i = 0; i < p->n_totals; i++) {
    const struct ss_total *t = &p->totals[i];
    if (t->method == SS_METHOD_NONE && t->end == SS_END_NO_REGS)
      continue;
    all += t->samples;
    complete += t->end == SS_END_COMPLETE ? t->samples : 0;
  }
  return all ? 100.0 * (double)complete / (double)all : 0;
}

static const char *process_label(const struct ss_profile *p)
{
  return p->n_processes > 0 && p->processes[0].label != SS_ID_NONE
             ? ss_profile_str(p, p->processes[0].label)
             : "the command";
}

static uint64_t sample_count(const struct ss_profile *p)
{
  uint64_t all = 0;

  for (size_t i = 0; i < p->n_totals; i++)
    if (p->totals[i].method != SS_METHOD_NONE)
      all += p->totals[i].samples;
  return all;
}

static void put_taken(struct ss_buf *line, const struct ss_profile *p)
{
  uint64_t samples = sample_count(p);
  const char *engine = ss_profile_meta(p, SS_META_ENGINE);

  ss_buf_adds(line, "; ");
  ss_put_count(line, samples);
  ss_buf_adds(line, " samples, ");
  ss_put_count(line, ss_profile_meta_u64(p, SS_META_LOST, 0));
  ss_buf_adds(line, " lost");
  if (samples > 0)
    ss_buf_addf(line, ", %.1f %% complete", complete_pct(p));
  if (engine && strcmp(engine, "ptrace") == 0)
    ss_buf_addf(line, ", threads stopped for %.3f s",
                (double)ss_profile_meta_u64(p, SS_META_STOP_TOTAL_NS, 0) / 1e9);
}

static void say_ending(const struct ss_exit *end, int status, const struct ss_profile *p)
{
  uint64_t start_ns = ss_profile_meta_u64(p, SS_META_START_NS, 0);
  uint64_t end_ns = ss_profile_meta_u64(p, SS_META_END_NS, start_ns);
  struct ss_buf line = {0}, source = {0};
  double limit;

  if (end)
    ss_buf_addf(&line, "%s ended with %d after ", process_label(p), status);
  else
    ss_buf_adds(&line, "detached after ");
  ss_put_duration(&line, (double)(end_ns - start_ns) / 1e9);
  if (ss_limit_of(p, &limit, &source)) {
    ss_buf_adds(&line, " (limit ");
    ss_put_duration(&line, limit);
    /* What follows the comma tells it from others of its kind. */
    ss_buf_addf(&line, " by %.*s)", (int)strcspn(ss_buf_str(&source), ","),
                ss_buf_str(&source));
  }
  put_taken(&line, p);
  ss_say("%s", ss_buf_str(&line));
  ss_buf_release(&source);
  ss_buf_release(&line);
}

static void say_cause(struct ss_profile *p)
{
  struct ss_buf cause = {0}, attempt = {0};

  if (ss_main_cause(p, &cause, &attempt)) {
    ss_say("%s", ss_buf_str(&cause));
    if (attempt.len > 0)
      ss_say("try %s; see summary.md", ss_buf_str(&attempt));
  }
  ss_buf_release(&cause);
  ss_buf_release(&attempt);
}

void ss_closing_lines(const struct ss_bundle *bundle, const struct ss_exit *end,
                      int status)
{
  const char *path = ss_bundle_path(bundle);
  struct ss_profile *p = NULL;
  struct ss_diag diag = {0};

  if (ss_profile_open(&p, ss_bundle_dir(bundle), "profile.db", &diag) != SS_ERR_OK) {
    ss_say("profile.db in %s cannot be read: %s", path, diag.text);
    return;
  }
  say_ending(end, status, p);
  say_cause(p);
  ss_say("%s (summary.md, flamegraph.html, profiler.json)", path);
  ss_profile_close(p);
}
