/*
 * summary.json: the same figures for a program. Its keys are fixed; seconds and
 * percents are numbers; what is not known is left out, never 0.
 */
#include <string.h>

#include "causes_priv.h"
#include "stacksample/meta.h"
#include "summary_priv.h"

#define SUMMARY_SCHEMA 1

static void put_seconds(cJSON *to, const char *key, uint64_t ns)
{
  ss_json_number(to, key, (double)ns / 1e9, 6);
}

/* A meta value under a key; nothing where it is not known. */
static void put_text(cJSON *to, const char *key, const struct ss_profile *p,
                     const char *meta)
{
  const char *value = ss_profile_meta(p, meta);
  if (value)
    ss_json_str(to, key, value);
}

static void put_number(cJSON *to, const char *key, const struct ss_profile *p,
                       const char *meta, double scale, int decimals)
{
  if (ss_profile_meta(p, meta))
    ss_json_number(to, key, ss_profile_meta_f64(p, meta, 0) * scale, decimals);
}

/* ---- times ------------------------------------------------------------------------ */

static const struct {
  const char *key;
  enum ss_state state;
} time_keys[] = {
    {"user_s", SS_STATE_USER},       {"kernel_s", SS_STATE_KERNEL},
    {"spin_s", SS_STATE_SPIN},       {"gil_s", SS_STATE_GIL},
    {"lock_s", SS_STATE_LOCK},       {"io_s", SS_STATE_IO},
    {"child_s", SS_STATE_CHILD},     {"sleep_s", SS_STATE_SLEEP},
    {"wait_s", SS_STATE_WAIT},       {"runnable_s", SS_STATE_RUNNABLE},
    {"stopped_s", SS_STATE_STOPPED}, {"unknown_s", SS_STATE_UNKNOWN},
};

static void put_times(cJSON *to, const struct ss_figures *f, const struct ss_spent *t,
                      uint64_t wall_ns)
{
  uint64_t fault = ss_spent_fault(f, t);

  if (wall_ns)
    put_seconds(to, "wall_s", wall_ns);
  if (f->p->n_times == 0) /* nothing was sampled: not 0, but not known */
    return;
  for (size_t i = 0; i < sizeof time_keys / sizeof time_keys[0]; i++)
    put_seconds(to, time_keys[i].key, t->ns[time_keys[i].state]);
  if (fault != UINT64_MAX)
    put_seconds(to, "fault_s", fault);
}

static cJSON *time_object(const struct ss_figures *f)
{
  cJSON *time = cJSON_CreateObject(), *total = cJSON_CreateObject();
  cJSON *rusage = cJSON_CreateObject();

  put_times(total, f, &f->total, f->wall_ns);
  put_number(rusage, "user_s", f->p, SS_META_RU_UTIME_US, 1e-6, 6);
  put_number(rusage, "kernel_s", f->p, SS_META_RU_STIME_US, 1e-6, 6);
  put_number(rusage, "minor_faults", f->p, SS_META_RU_MINFLT, 1, 0);
  put_number(rusage, "major_faults", f->p, SS_META_RU_MAJFLT, 1, 0);
  ss_json_item(time, "total", total);
  ss_json_item(time, "rusage", rusage);
  return time;
}

/* ---- how it ended ---------------------------------------------------------------- */

static cJSON *limits_list(const struct ss_profile *p)
{
  cJSON *stored = ss_json_meta(p, SS_META_LIMITS), *list = cJSON_CreateArray();
  const cJSON *item;

  cJSON_ArrayForEach(item, stored)
  {
    static const char *const numbers[] = {"s", "at_s", "cpus"};
    cJSON *limit = cJSON_CreateObject();
    const char *source = ss_json_get(item, "source"), *kind = ss_json_get(item, "kind");
    if (source)
      ss_json_str(limit, "source", source);
    for (size_t i = 0; i < 3; i++) {
      const cJSON *n = cJSON_GetObjectItemCaseSensitive(item, numbers[i]);
      if (cJSON_IsNumber(n))
        ss_json_number(limit, numbers[i], n->valuedouble, 3);
    }
    if (kind)
      ss_json_str(limit, "kind", kind);
    ss_json_item(list, NULL, limit);
  }
  cJSON_Delete(stored);
  return list;
}

/* A number, or null where the run is known to have had none. */
static void put_or_null(cJSON *to, const char *key, const struct ss_profile *p,
                        const char *meta, bool finished)
{
  if (ss_profile_meta(p, meta))
    ss_json_number(to, key, ss_profile_meta_f64(p, meta, 0), 0);
  else if (finished)
    ss_json_item(to, key, NULL);
}

static cJSON *exit_object(const struct ss_figures *f, bool finished)
{
  cJSON *exit = cJSON_CreateObject();

  put_number(exit, "code", f->p, SS_META_EXIT_CODE, 1, 0);
  put_or_null(exit, "command_code", f->p, SS_META_COMMAND_CODE, finished);
  put_or_null(exit, "signal", f->p, SS_META_SIGNAL, finished);
  if (finished)
    ss_json_item(exit, "timed_out",
                 cJSON_CreateBool(ss_profile_meta_u64(f->p, SS_META_TIMED_OUT, 0) != 0));
  put_text(exit, "ended_by", f->p, SS_META_ENDED_BY);
  put_number(exit, "limit_s", f->p, SS_META_LIMIT_S, 1, 3);
  ss_json_item(exit, "limits", limits_list(f->p));
  return exit;
}

static cJSON *engine_object(const struct ss_profile *p)
{
  cJSON *engine = cJSON_CreateObject();

  put_text(engine, "name", p, SS_META_ENGINE);
  put_text(engine, "reason", p, SS_META_ENGINE_REASON);
  put_text(engine, "kernel_method", p, SS_META_KERNEL_METHOD);
  return engine;
}

/* ---- rows ------------------------------------------------------------------------ */

static void put_shown(cJSON *to, const char *key, const struct ss_figures *f,
                      uint32_t text)
{
  size_t len = 0;
  const char *s = ss_texts_str(&f->texts, text, &len);
  ss_json_text(to, key, s, len);
}

/* A test that only the log knows: how it ended, and no times. */
static cJSON *unseen_test(const cJSON *item)
{
  static const char *const keys[] = {"id", "worker", "outcome"};
  cJSON *test = cJSON_CreateObject();

  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
    if (ss_json_get(item, keys[i]))
      ss_json_str(test, keys[i], ss_json_get(item, keys[i]));
  ss_json_count(test, "samples", 0);
  return test;
}

static cJSON *tests_list(const struct ss_figures *f)
{
  cJSON *list = cJSON_CreateArray();

  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_test_row *row = &f->tests[i];
    const struct ss_phase_row *phase = &f->p->phases[row->phase];
    const char *worker = ss_profile_str(f->p, f->p->processes[phase->process].worker);
    cJSON *test = cJSON_CreateObject();
    ss_json_str(test, "id", ss_profile_str(f->p, phase->test));
    ss_json_str(test, "phase", ss_profile_str(f->p, phase->phase));
    if (*worker)
      ss_json_str(test, "worker", worker);
    put_seconds(test, "start_s", row->start_ns);
    ss_json_count(test, "samples", row->t.samples);
    if (row->outcome)
      ss_json_str(test, "outcome", row->outcome);
    if (row->top != SS_ID_NONE)
      put_shown(test, "top", f, row->top);
    if (row->pytest_s >= 0)
      ss_json_number(test, "pytest_s", row->pytest_s, 2);
    put_times(test, f, &row->t, row->wall_ns);
    ss_json_item(list, NULL, test);
  }
  for (size_t i = 0; i < f->n_unseen; i++)
    ss_json_item(list, NULL, unseen_test(f->unseen[i]));
  return list;
}

static cJSON *threads_list(const struct ss_figures *f)
{
  cJSON *list = cJSON_CreateArray();

  for (size_t i = 0; i < f->p->n_threads; i++) {
    const struct ss_thread_row *row = &f->p->threads[i];
    uint64_t end = row->end_ns ? row->end_ns : f->end_ns;
    cJSON *thread = cJSON_CreateObject();
    ss_json_number(thread, "pid", (double)f->p->processes[row->process].pid, 0);
    ss_json_number(thread, "tid", (double)row->tid, 0);
    ss_json_str(thread, "name", ss_profile_str(f->p, row->name));
    ss_json_str(thread, "role", ss_profile_str(f->p, row->role));
    put_times(thread, f, &f->threads[i], end > row->start_ns ? end - row->start_ns : 0);
    ss_json_item(list, NULL, thread);
  }
  return list;
}

static cJSON *operators_list(const struct ss_figures *f)
{
  cJSON *list = cJSON_CreateArray();

  for (size_t i = 0; i < f->n_operators; i++) {
    cJSON *op = cJSON_CreateObject();
    put_shown(op, "name", f, f->operators[i].text);
    put_seconds(op, "self_s", f->operators[i].self_ns);
    put_seconds(op, "total_s", f->operators[i].total_ns);
    ss_json_item(list, NULL, op);
  }
  return list;
}

static cJSON *verdict_object(void)
{
  cJSON *verdict = cJSON_CreateObject();

  ss_json_item(verdict, "name", NULL);
  ss_json_str(verdict, "text", "");
  ss_json_item(verdict, "evidence", cJSON_CreateArray());
  return verdict;
}

/* ---- quality --------------------------------------------------------------------- */

static void put_share(cJSON *to, const char *key, uint64_t part, uint64_t whole)
{
  if (whole)
    ss_json_number(to, key, 100 * (double)part / (double)whole, 3);
}

static cJSON *quality_object(const struct ss_figures *f)
{
  cJSON *q = cJSON_CreateObject(), *audit = cJSON_CreateObject();
  const char *realtime = ss_profile_meta(f->p, SS_META_REALTIME_READER);

  ss_json_count(q, "samples", f->samples);
  put_number(q, "lost", f->p, SS_META_LOST, 1, 0);
  ss_json_count(q, "truncated", f->truncated);
  put_number(q, "rejected", f->p, SS_META_REJECTED, 1, 0);
  put_share(q, "complete_pct", f->complete, f->stacks);
  ss_json_item(q, "merged",
               cJSON_CreateBool(ss_profile_meta_u64(f->p, SS_META_MERGED, 0) != 0));
  put_share(q, "verified_pct", f->verified, f->merges);
  if (f->by_stops)
    put_share(q, "stackless_pct", f->stackless_ns, f->run_ns);
  ss_json_item(q, "unverified", ss_json_unverified(f));
  if (f->merges && ss_profile_meta(f->p, SS_META_TORN))
    put_share(q, "torn_pct", ss_profile_meta_u64(f->p, SS_META_TORN, 0), f->merges);
  if (f->merges && realtime)
    ss_json_item(q, "realtime_reader", cJSON_CreateBool(strcmp(realtime, "yes") == 0));
  put_number(audit, "checked", f->p, SS_META_AUDIT_CHECKED, 1, 0);
  put_number(audit, "differ", f->p, SS_META_AUDIT_DIFFER, 1, 0);
  ss_json_item(q, "audit", audit);
  put_number(q, "own_cpu_s", f->p, SS_META_OWN_CPU_NS, 1e-9, 6);
  put_number(q, "own_rss_mb", f->p, SS_META_OWN_RSS_KB, 1.0 / 1024, 3);
  put_number(q, "stops", f->p, SS_META_STOPS, 1, 0);
  put_number(q, "stop_total_s", f->p, SS_META_STOP_TOTAL_NS, 1e-9, 6);
  put_number(q, "stop_max_ms", f->p, SS_META_STOP_MAX_NS, 1e-6, 3);
  put_number(q, "first_sample_ms", f->p, SS_META_FIRST_SAMPLE_MS, 1, 3);
  return q;
}

static cJSON *build(const struct ss_figures *f, const struct ss_causes *causes)
{
  cJSON *root = cJSON_CreateObject();
  bool finished = ss_profile_meta_u64(f->p, SS_META_FINISHED, 0) != 0;
  const char *blocked = ss_profile_meta(f->p, SS_META_BLOCKED);
  cJSON *dumps = ss_json_meta(f->p, SS_META_DUMPS);

  ss_json_count(root, "schema", SUMMARY_SCHEMA);
  put_text(root, "version", f->p, SS_META_VERSION);
  ss_json_item(root, "engine", engine_object(f->p));
  ss_json_item(root, "finished", cJSON_CreateBool(finished));
  if (blocked && *blocked)
    ss_json_str(root, "blocked", blocked);
  else
    ss_json_item(root, "blocked", NULL);
  ss_json_item(root, "exit", exit_object(f, finished));
  ss_json_item(root, "time", time_object(f));
  ss_json_item(root, "tests", tests_list(f));
  ss_json_item(root, "threads", threads_list(f));
  ss_json_item(root, "operators", operators_list(f));
  ss_json_item(root, "verdict", verdict_object());
  ss_json_item(root, "causes", ss_causes_json(causes));
  ss_json_item(root, "dumps", dumps ? dumps : cJSON_CreateArray());
  ss_json_item(root, "quality", quality_object(f));
  return root;
}

enum ss_err ss_write_summary_json(struct ss_profile *p,
                                  const struct ss_write_options *options,
                                  struct ss_outfile *out, struct ss_diag *diag)
{
  struct ss_figures f;
  struct ss_causes causes = {0};
  struct ss_buf text = {0};
  enum ss_err err = ss_figures_init(&f, p, true, diag);

  if (err != SS_ERR_OK)
    return err;
  ss_figures_filtered(&f, options ? &options->filter : NULL);
  err = ss_causes_find(&causes, &f, diag);
  ss_json_print(&text, build(&f, &causes), true);
  ss_buf_addc(&text, '\n');
  ss_causes_release(&causes);
  ss_figures_release(&f);
  if (text.failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "out of memory for the summary");
  else if (err == SS_ERR_OK)
    ss_outfile_write(out, text.data, text.len);
  ss_buf_release(&text);
  return err;
}
