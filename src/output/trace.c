/*
 * profiler.json: a Chrome trace that chrome://tracing, Perfetto, speedscope and
 * Holistic Trace Analysis open; one event a line.
 *
 * Two passes over the samples: the first only counts what slices would cost, by
 * depth, so that a trace that would be too big loses its deepest native slices
 * and can say so at its top; the second writes. Memory holds one thread's kept
 * slices at most.
 *
 * It says that it is sampled, and never invents call counts, ids or shapes.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/meta.h"
#include "trace_priv.h"

#define NO_CUT (SS_TRACE_DEPTH_MAX + 1)
/* A track for test phases: beside the threads, so that their borders cut no
 * stack. Above the kernel's largest thread number. */
#define TESTS_TRACK(pid) ((1ll << 22) + (pid))

struct budget {
  uint64_t limit;
  uint64_t head, samples, slices, dropped;
  struct trace_cut cut;
  bool with_samples;
};

/* ---- metadata events --------------------------------------------------------------- */

static void add_escaped(struct ss_buf *b, const char *s)
{
  trace_escape(b, s, strlen(s));
}

static void add_meta_event(struct ss_buf *b, const char *name, int64_t pid, int64_t tid,
                           uint64_t ts)
{
  ss_buf_addf(b,
              "{\"ph\":\"M\",\"cat\":\"__metadata\",\"name\":\"%s\",\"pid\":%lld,"
              "\"tid\":%lld,\"ts\":%llu,\"args\":",
              name, (long long)pid, (long long)tid, (unsigned long long)ts);
}

static void add_process_events(struct trace *t, struct ss_buf *b, size_t index)
{
  const struct ss_process_row *row = &t->profile->processes[index];
  uint64_t ts = trace_us(t, row->start_ns);
  add_meta_event(b, "process_name", row->pid, row->pid, ts);
  ss_buf_adds(b, "{\"name\":\"");
  add_escaped(b, ss_profile_str(t->profile, row->label));
  ss_buf_adds(b, " [sampled]\"}},\n");
  add_meta_event(b, "process_labels", row->pid, row->pid, ts);
  ss_buf_addf(b, "{\"labels\":\"CPU,sampled %llu Hz\"}},\n",
              (unsigned long long)ss_profile_meta_u64(t->profile, SS_META_RATE_HZ,
                                                      SS_RATE_DEFAULT_HZ));
  add_meta_event(b, "process_sort_index", row->pid, row->pid, ts);
  ss_buf_addf(b, "{\"sort_index\":%zu}},\n", index);
}

/* Never an empty one: Perfetto counts that as an error of the file. */
static void add_thread_name(struct ss_buf *b, int64_t pid, int64_t tid, uint64_t ts,
                            const char *name)
{
  add_meta_event(b, "thread_name", pid, tid, ts);
  ss_buf_adds(b, "{\"name\":\"");
  if (name[0] != '\0')
    add_escaped(b, name);
  else
    ss_buf_addf(b, "thread %lld", (long long)tid);
  ss_buf_adds(b, "\"}},\n");
}

static void add_thread_events(struct trace *t, struct ss_buf *b, size_t index)
{
  const struct ss_thread_row *row = &t->profile->threads[index];
  int64_t pid = t->profile->processes[row->process].pid;
  uint64_t ts = trace_us(t, row->start_ns);
  add_thread_name(b, pid, row->tid, ts, ss_profile_str(t->profile, row->name));
  add_meta_event(b, "thread_sort_index", pid, row->tid, ts);
  ss_buf_addf(b, "{\"sort_index\":%zu}},\n", index + 1);
}

/* ---- test phases ----------------------------------------------------------------- */

static void add_phase(struct trace *t, struct ss_buf *b, uint32_t index, uint64_t end_ns,
                      struct ss_idmap *ends)
{
  const struct ss_phase_row *row = &t->profile->phases[index];
  int64_t pid = t->profile->processes[row->process].pid;
  uint64_t start = trace_us(t, row->start_ns);
  uint64_t end = trace_us(t, row->end_ns > 0 ? row->end_ns : end_ns);
  const uint64_t *before = ss_idmap_get(ends, (uint64_t)pid);
  if (before == NULL) {
    add_thread_name(b, pid, TESTS_TRACK(pid), start, "tests");
    add_meta_event(b, "thread_sort_index", pid, TESTS_TRACK(pid), start);
    ss_buf_adds(b, "{\"sort_index\":0}},\n");
  } else if (start < *before) {
    start = *before;
  }
  end = end > start ? end : start;
  uint32_t text = ss_phase_text(&t->texts, index);
  if (text == SS_ID_NONE || !ss_idmap_put(ends, (uint64_t)pid, end)) {
    t->failed = true;
    return;
  }
  struct trace_name name = trace_name_of(t, text);
  ss_buf_adds(b, "{\"ph\":\"X\",\"cat\":\"user_annotation\",\"name\":\"");
  ss_buf_add(b, name.json, name.len);
  ss_buf_addf(b, "\",\"pid\":%lld,\"tid\":%lld,\"ts\":%llu,\"dur\":%llu},\n",
              (long long)pid, TESTS_TRACK(pid), (unsigned long long)start,
              (unsigned long long)(end - start));
}

static uint64_t end_of_run(const struct ss_profile *p)
{
  uint64_t end = ss_profile_meta_u64(p, SS_META_END_NS, 0);
  for (size_t i = 0; i < p->n_phases; i++) {
    end = p->phases[i].start_ns > end ? p->phases[i].start_ns : end;
    end = p->phases[i].end_ns > end ? p->phases[i].end_ns : end;
  }
  return end;
}

/* Everything before the slices; small, so it is made in memory. */
static void make_head(struct trace *t, struct ss_buf *b)
{
  struct ss_profile *p = t->profile;
  struct ss_idmap ends = {0};
  uint64_t end_ns = end_of_run(p);
  for (size_t i = 0; i < p->n_processes; i++)
    add_process_events(t, b, i);
  for (size_t i = 0; i < p->n_threads; i++)
    add_thread_events(t, b, i);
  for (size_t i = 0; i < p->n_phases && !t->failed; i++)
    if (t->filter.all || t->filter.phases[i])
      add_phase(t, b, (uint32_t)i, end_ns, &ends);
  ss_idmap_release(&ends);
  t->failed = t->failed || b->failed;
}

/* ---- passes over all threads ----------------------------------------------------- */

/* End of what is on the track of a (pid, tid): numbers come back within a long
 * run, and the track is then one. */
static uint64_t *track_end(struct trace *t, struct ss_idmap *ends, size_t thread)
{
  const struct ss_thread_row *row = &t->profile->threads[thread];
  uint64_t key = (uint64_t)t->profile->processes[row->process].pid << 32 |
                 (uint64_t)(uint32_t)row->tid;
  if (ss_idmap_get(ends, key) == NULL && !ss_idmap_put(ends, key, 0)) {
    t->failed = true;
    return NULL;
  }
  return ss_idmap_get(ends, key);
}

enum pass { PASS_COUNT, PASS_COUNT_SAMPLES, PASS_SLICES, PASS_SAMPLES };

static enum ss_err run_pass(struct trace *t, enum pass pass, struct budget *budget,
                            struct trace_costs *costs, struct ss_diag *diag)
{
  struct ss_idmap ends = {0};
  enum ss_err err = SS_ERR_OK;
  for (size_t i = 0; err == SS_ERR_OK && i < t->profile->n_threads; i++) {
    uint32_t thread = (uint32_t)i;
    uint64_t *end_us = track_end(t, &ends, i);
    if (end_us == NULL)
      err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace");
    else if (pass == PASS_COUNT)
      err = trace_slices_count(t, thread, end_us, costs, diag);
    else if (pass == PASS_COUNT_SAMPLES)
      err = trace_samples_count(t, thread, end_us, &budget->samples, diag);
    else if (pass == PASS_SLICES)
      err = trace_slices_write(t, thread, end_us, &budget->cut, diag);
    else
      err = trace_samples_write(t, thread, end_us, diag);
  }
  ss_idmap_release(&ends);
  return err;
}

/* ---- budget ---------------------------------------------------------------------- */

/* Drops the deepest level of one kind until what stays fits. */
static unsigned cut_kind(struct trace_costs *costs, unsigned kind, uint64_t *bytes,
                         uint64_t limit, struct budget *budget)
{
  unsigned depth = NO_CUT;
  while (*bytes > limit && depth > 1) {
    depth--;
    *bytes -= costs->bytes[kind][depth];
    budget->dropped += costs->slices[kind][depth];
    costs->bytes[kind][depth] = 0;
    costs->slices[kind][depth] = 0;
  }
  return depth;
}

static void make_cut(struct budget *budget, struct trace_costs *costs)
{
  uint64_t bytes = 0;
  for (unsigned kind = 0; kind < TRACE_KINDS; kind++) {
    for (unsigned d = 0; d <= SS_TRACE_DEPTH_MAX; d++) {
      bytes += costs->bytes[kind][d];
      budget->slices += costs->slices[kind][d];
    }
  }
  uint64_t limit = budget->limit;
  uint64_t fixed = budget->head + 4096; /* the top and the closing line */
  limit = limit > fixed ? limit - fixed : 0;
  /* Slices are what most viewers show: samples get at most a third. */
  budget->with_samples = budget->samples > 0 && budget->samples <= limit / 3;
  if (budget->with_samples)
    limit -= budget->samples;
  for (unsigned kind = TRACE_KINDS; kind-- > 0;)
    budget->cut.depth[kind] = cut_kind(costs, kind, &bytes, limit, budget);
  budget->slices -= budget->dropped;
}

static enum ss_err plan(struct trace *t, struct budget *budget, struct ss_diag *diag)
{
  struct trace_costs *costs = calloc(1, sizeof *costs);
  if (costs == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace");
  enum ss_err err = run_pass(t, PASS_COUNT, budget, costs, diag);
  bool slices_only = t->options != NULL && t->options->trace_slices_only;
  if (err == SS_ERR_OK && !slices_only)
    err = run_pass(t, PASS_COUNT_SAMPLES, budget, costs, diag);
  make_cut(budget, costs);
  free(costs);
  return err;
}

/* ---- the file -------------------------------------------------------------------- */

static uint64_t count_samples(const struct ss_profile *p)
{
  uint64_t samples = 0;
  for (size_t i = 0; i < p->n_totals; i++)
    samples += p->totals[i].samples;
  return samples;
}

/* Once at the top for people, once inside "metadata" for Perfetto. */
static void write_facts(struct trace *t, const struct budget *b, const char *indent)
{
  const struct ss_profile *p = t->profile;
  ss_outfile_printf(t->out, "%s\"profiler\": \"stacksample\",\n", indent);
  ss_outfile_printf(t->out, "%s\"profiler_version\": \"%s\",\n", indent, SS_VERSION);
  ss_outfile_printf(t->out, "%s\"sampled\": true,\n", indent);
  ss_outfile_printf(
      t->out, "%s\"sampling_rate_hz\": %llu,\n", indent,
      (unsigned long long)ss_profile_meta_u64(p, SS_META_RATE_HZ, SS_RATE_DEFAULT_HZ));
  ss_outfile_printf(t->out,
                    "%s\"sampling_clock\": \"CPU time of each thread; waits are "
                    "accounted\",\n",
                    indent);
  ss_outfile_printf(t->out, "%s\"samples_taken\": %llu,\n", indent,
                    (unsigned long long)count_samples(p));
  ss_outfile_printf(t->out, "%s\"samples_lost\": %llu,\n", indent,
                    (unsigned long long)ss_profile_meta_u64(p, SS_META_LOST, 0));
  ss_outfile_printf(t->out, "%s\"slices\": %llu,\n", indent,
                    (unsigned long long)b->slices);
  ss_outfile_printf(t->out, "%s\"slices_dropped\": %llu,\n", indent,
                    (unsigned long long)b->dropped);
}

static void write_rules(struct trace *t, const struct budget *b)
{
  static const char *const kinds[] = {"Python", "waits", "native"};
  ss_outfile_printf(t->out,
                    "  \"merging\": \"neighbouring samples share the slices of their "
                    "common callers; a slice is no call and has no call count\",\n"
                    "  \"gaps\": \"more than one period without a sample is a hole\"");
  if (b->dropped > 0) {
    ss_outfile_printf(
        t->out, ",\n  \"dropped\": \"%llu slices left out to stay within %llu bytes:",
        (unsigned long long)b->dropped, (unsigned long long)b->limit);
    for (unsigned kind = TRACE_KINDS; kind-- > 0;) {
      if (b->cut.depth[kind] != NO_CUT) {
        ss_outfile_printf(t->out, " %s from depth %u on;", kinds[kind],
                          b->cut.depth[kind]);
      }
    }
    ss_outfile_printf(t->out, "\"");
  }
  if (b->samples > 0 && !b->with_samples) {
    ss_outfile_printf(t->out,
                      ",\n  \"dropped_samples\": \"sample events left out to stay "
                      "within the limit\"");
  }
}

static void write_top(struct trace *t, const struct budget *b)
{
  uint64_t wall = ss_profile_meta_u64(t->profile, SS_META_WALL_START_NS, 0);
  ss_outfile_printf(t->out,
                    "{\n\"schemaVersion\": 1,\n"
                    "\"traceName\": \"stacksample sampled trace (not torch.profiler)\",\n"
                    "\"distributedInfo\": {\"rank\": 0},\n\"deviceProperties\": [],\n");
  write_facts(t, b, "");
  ss_outfile_printf(t->out, "\"metadata\": {\n");
  write_facts(t, b, "  ");
  write_rules(t, b);
  ss_outfile_printf(t->out,
                    "\n},\n\"displayTimeUnit\": \"ms\",\n\"baseTimeNanoseconds\": %llu,\n"
                    "\"traceEvents\": [\n",
                    (unsigned long long)wall);
}

/* Closes the list without a trailing comma: the last event marks the end. */
static void write_end(struct trace *t)
{
  const struct ss_profile *p = t->profile;
  int64_t pid = p->n_processes > 0 ? p->processes[0].pid : 0;
  ss_outfile_printf(t->out,
                    "{\"ph\":\"i\",\"cat\":\"stacksample\",\"name\":\"end of the run\","
                    "\"pid\":%lld,\"tid\":%lld,\"ts\":%llu,\"s\":\"t\"}\n]\n}\n",
                    (long long)pid, (long long)pid,
                    (unsigned long long)trace_us(t, end_of_run(p)));
}

static enum ss_err write_trace(struct trace *t, struct ss_diag *diag)
{
  struct ss_buf head = {0};
  struct budget budget = {.limit = SS_TRACE_BYTES_MAX};
  if (t->options != NULL && t->options->trace_bytes > 0)
    budget.limit = t->options->trace_bytes;
  make_head(t, &head);
  budget.head = head.len;
  enum ss_err err = plan(t, &budget, diag);
  if (err == SS_ERR_OK) {
    write_top(t, &budget);
    ss_outfile_write(t->out, ss_buf_str(&head), head.len);
    err = run_pass(t, PASS_SLICES, &budget, NULL, diag);
  }
  if (err == SS_ERR_OK && budget.with_samples)
    err = run_pass(t, PASS_SAMPLES, &budget, NULL, diag);
  if (err == SS_ERR_OK && t->failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace");
  write_end(t);
  ss_buf_release(&head);
  return err;
}

static enum ss_err trace_init(struct trace *t, struct ss_diag *diag)
{
  struct ss_profile *p = t->profile;
  const struct ss_filter *filter = t->options == NULL ? NULL : &t->options->filter;
  uint64_t rate = ss_profile_meta_u64(p, SS_META_RATE_HZ, SS_RATE_DEFAULT_HZ);
  uint64_t period =
      ss_profile_meta_u64(p, SS_META_PERIOD_NS, 1000000000 / (rate > 0 ? rate : 1));
  t->base_ns = ss_profile_meta_u64(p, SS_META_START_NS, 0);
  t->period_us = period / 1000;
  enum ss_err err = ss_filter_set_init(&t->filter, p, filter, diag);
  if (err == SS_ERR_OK)
    err = ss_texts_init(&t->texts, p, diag);
  t->of_stack = malloc((p->n_stacks + 1) * sizeof *t->of_stack);
  if (t->of_stack != NULL)
    memset(t->of_stack, 0xff, (p->n_stacks + 1) * sizeof *t->of_stack);
  else if (err == SS_ERR_OK)
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace");
  return err;
}

static void trace_release(struct trace *t)
{
  ss_filter_set_release(&t->filter);
  ss_texts_release(&t->texts);
  ss_tree_release(&t->tree);
  ss_path_release(&t->path);
  ss_arena_release(&t->arena);
  ss_buf_release(&t->scratch);
  free(t->depths);
  free(t->of_stack);
  free(t->names);
}

enum ss_err ss_write_trace(struct ss_profile *p, const struct ss_write_options *options,
                           struct ss_outfile *out, struct ss_diag *diag)
{
  struct trace t = {.profile = p, .options = options, .out = out};
  enum ss_err err = trace_init(&t, diag);
  if (err == SS_ERR_OK)
    err = write_trace(&t, diag);
  trace_release(&t);
  return err;
}
