/*
 * How good the evidence is, as a section of the summary: what was lost or cut off,
 * how kernel time became known, what we cost, and every note.
 */
#include <math.h>
#include <string.h>

#include "stacksample/meta.h"
#include "summary_priv.h"

static void put_percent_of(struct ss_buf *out, const char *what, uint64_t part,
                           uint64_t whole)
{
  if (!whole)
    return;
  ss_buf_addf(out, ", %s ", what);
  ss_put_significant(out, 100 * (double)part / (double)whole);
  ss_buf_adds(out, " %");
}

/* What no unwinder could have completed by tables alone. */
static void put_without_cfi(struct ss_buf *out, const struct ss_figures *f)
{
  if (!f->stacks)
    return;
  ss_buf_adds(out, " (");
  ss_put_significant(out, 100 * (double)f->no_cfi / (double)f->stacks);
  ss_buf_adds(out, " % end in code without unwind information)");
}

static void put_known_count(struct ss_buf *out, const struct ss_profile *p,
                            const char *what, const char *key)
{
  if (!ss_profile_meta(p, key))
    return;
  ss_buf_addf(out, ", %s ", what);
  ss_put_count(out, ss_profile_meta_u64(p, key, 0));
}

static const struct {
  const char *key, *text;
} hidden_parts[] = {
    {SS_META_HIDDEN_FAULT_NS, "page faults"},
    {SS_META_HIDDEN_PLACED_NS, "something else, placed by the stacks around it"},
    {SS_META_HIDDEN_UNKNOWN_NS, "at no known place"},
};
#define HIDDEN_PARTS (sizeof hidden_parts / sizeof hidden_parts[0])

static void put_hidden_parts(struct ss_buf *out, const struct ss_profile *p)
{
  uint64_t ns[HIDDEN_PARTS], all = 0;
  const char *separator = ": ";

  for (size_t i = 0; i < HIDDEN_PARTS; i++) {
    ns[i] = ss_profile_meta_u64(p, hidden_parts[i].key, 0);
    all += ns[i];
  }
  for (size_t i = 0; i < HIDDEN_PARTS; i++) {
    if (ns[i] == 0)
      continue;
    ss_buf_adds(out, separator);
    ss_put_significant(out, 100 * (double)ns[i] / (double)all);
    ss_buf_addf(out, " %% %s", hidden_parts[i].text);
    separator = ", ";
  }
}

/* How kernel time became known, and how much of it is still not. */
static void put_kernel_method(struct ss_buf *out, const struct ss_profile *p)
{
  const char *method = ss_profile_meta(p, SS_META_KERNEL_METHOD);
  uint64_t each = ss_profile_meta_u64(p, SS_META_FAULT_COST_NS, 0);

  if (method == NULL)
    return;
  if (strcmp(method, "samples") == 0) {
    ss_buf_adds(out, " Kernel time is sampled with its stacks.");
    return;
  }
  if (strcmp(method, "stops") == 0) {
    ss_buf_adds(out,
                " Kernel time is as the kernel accounts it, under the user stacks of "
                "our stops (ptrace).");
    return;
  }
  ss_buf_adds(out, " Kernel time is accounted, without its stacks (perf_event_paranoid)");
  put_hidden_parts(out, p);
  if (each > 0)
    ss_buf_addf(out, ". A page fault costs %.1f us here (measured)", (double)each / 1e3);
  ss_buf_addc(out, '.');
}

/* Whether Python could be read before the sampled thread ran on. */
static void put_reader(struct ss_buf *out, const struct ss_figures *f)
{
  const char *realtime = ss_profile_meta(f->p, SS_META_REALTIME_READER);

  if (!f->merges || !realtime)
    return;
  ss_buf_addf(out, " Python was read %s real-time priority (SCHED_FIFO)",
              strcmp(realtime, "yes") == 0 ? "with" : "without");
  if (ss_profile_meta(f->p, SS_META_TORN)) {
    ss_buf_adds(out, ", at more than one moment for ");
    ss_put_significant(out, 100 * (double)ss_profile_meta_u64(f->p, SS_META_TORN, 0) /
                                (double)f->merges);
    ss_buf_adds(out, " % of merges");
  }
  ss_buf_addc(out, '.');
}

/* How often the second opinion on a stack was another. */
static void put_audit(struct ss_buf *out, const struct ss_profile *p)
{
  uint64_t checked = ss_profile_meta_u64(p, SS_META_AUDIT_CHECKED, 0);
  uint64_t differ = ss_profile_meta_u64(p, SS_META_AUDIT_DIFFER, 0);

  if (checked == 0)
    return;
  ss_buf_addf(out, " Unwound a second way, by libunwind: ");
  ss_put_count(out, checked);
  ss_buf_adds(out, checked == 1 ? " stack, of which " : " stacks, of which ");
  ss_put_count(out, differ);
  ss_buf_adds(out, differ == 1 ? " differs." : " differ.");
}

static void samples_para(struct ss_doc *d, const struct ss_figures *f)
{
  struct ss_buf text = {0};

  ss_buf_adds(&text, "Samples ");
  ss_put_count(&text, f->samples);
  put_known_count(&text, f->p, "lost", SS_META_LOST);
  put_known_count(&text, f->p, "records rejected", SS_META_REJECTED);
  put_percent_of(&text, "stacks complete", f->complete, f->stacks);
  put_without_cfi(&text, f);
  put_percent_of(&text, "truncated", f->truncated, f->samples);
  if (f->stackless_ns > 0)
    put_percent_of(&text, "CPU time that no stop came to see", f->stackless_ns,
                   f->run_ns);
  if (f->late > 0)
    put_percent_of(&text, "outer frames read after the sample, unverified", f->late,
                   f->stacks);
  put_percent_of(&text, "Python merges verified", f->verified, f->merges);
  ss_put_unverified(&text, f);
  put_known_count(&text, f->p, "line tables of Python unread", SS_META_PY_UNREAD);
  ss_buf_addc(&text, '.');
  put_reader(&text, f);
  put_kernel_method(&text, f->p);
  put_audit(&text, f->p);
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

/* What the command's threads really stood still for us. */
static void put_stops(struct ss_buf *out, const struct ss_figures *f, uint64_t running)
{
  uint64_t stops = ss_profile_meta_u64(f->p, SS_META_STOPS, 0);
  uint64_t total = ss_profile_meta_u64(f->p, SS_META_STOP_TOTAL_NS, 0);
  uint64_t longest = ss_profile_meta_u64(f->p, SS_META_STOP_MAX_NS, 0);

  if (stops == 0)
    return;
  ss_buf_adds(out, " Its threads were stopped ");
  ss_put_count(out, stops);
  ss_buf_adds(out, stops == 1 ? " time" : " times");
  ss_buf_adds(out, " to be looked at, for ");
  ss_put_seconds(out, total);
  ss_buf_adds(out, " s");
  if (running) {
    ss_buf_adds(out, " (");
    ss_put_significant(out, 100 * (double)total / (double)running);
    ss_buf_adds(out, " % of its CPU time)");
  }
  ss_buf_addf(out, ", %.2f ms at the longest.", (double)longest / 1e6);
}

static void cost_para(struct ss_doc *d, const struct ss_figures *f)
{
  uint64_t rusage = ss_rusage_ns(f->p);
  uint64_t own = ss_profile_meta_u64(f->p, SS_META_OWN_CPU_NS, 0);
  uint64_t running = ss_spent_running(&f->total);
  struct ss_buf text = {0};

  if (rusage && f->p->n_times) {
    ss_buf_adds(&text, "CPU accounted ");
    ss_put_significant(&text, 100 * (double)running / (double)rusage);
    ss_buf_adds(&text, " % of rusage (the command and the children it waited for). ");
  }
  if (own) {
    ss_buf_adds(&text, "Our own cost ");
    ss_put_seconds(&text, own);
    ss_buf_adds(&text, " s of CPU");
    if (running) {
      ss_buf_adds(&text, " (");
      ss_put_significant(&text, 100 * (double)own / (double)running);
      ss_buf_adds(&text, " % of the command's)");
    }
    ss_buf_adds(&text, ".");
  }
  put_stops(&text, f, running);
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

/* The longest test that pytest timed too. */
static void durations_para(struct ss_doc *d, const struct ss_figures *f)
{
  struct ss_buf text = {0};

  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_test_row *row = &f->tests[i];
    if (row->pytest_s < 0)
      continue;
    ss_buf_addf(&text, "pytest says ");
    ss_put_seconds(&text, (uint64_t)llround(row->pytest_s * 1e9));
    ss_buf_adds(&text, " s for the longest test phase it timed (--durations), we say ");
    ss_put_seconds(&text, row->wall_ns);
    ss_buf_adds(&text, " s.");
    break;
  }
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

static void notes_list(struct ss_doc *d, const struct ss_figures *f)
{
  cJSON *notes = ss_json_meta(f->p, SS_META_NOTES);
  const cJSON *note;

  if (cJSON_GetArraySize(notes) > 0 && d->markdown)
    ss_buf_addc(d->out, '\n');
  cJSON_ArrayForEach(note, notes)
  {
    const char *text = ss_json_get(note, "text");
    const cJSON *count = cJSON_GetObjectItemCaseSensitive(note, "count");
    struct ss_buf line = {0};
    if (text)
      ss_buf_adds(&line, text);
    if (text && cJSON_IsNumber(count) && count->valuedouble > 1)
      ss_buf_addf(&line, " (%.0f times)", count->valuedouble);
    if (text)
      ss_doc_item(d, &line);
    ss_buf_release(&line);
  }
  cJSON_Delete(notes);
}

void ss_summary_quality(struct ss_doc *d, const struct ss_figures *f)
{
  const char *engine = ss_profile_meta(f->p, SS_META_ENGINE);
  const char *reason = ss_profile_meta(f->p, SS_META_ENGINE_REASON);
  struct ss_buf text = {0};

  ss_doc_heading(d, "Quality of this evidence");
  samples_para(d, f);
  cost_para(d, f);
  durations_para(d, f);
  if (engine)
    ss_buf_addf(&text, "Engine: %s, %.0f Hz%s%s.", engine,
                ss_profile_meta_f64(f->p, SS_META_RATE_HZ, 0),
                reason && *reason ? "; " : "", reason ? reason : "");
  ss_doc_para(d, &text);
  ss_buf_release(&text);
  notes_list(d, f);
}
