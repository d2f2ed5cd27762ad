/*
 * Samples -> X slices: neighbours with a common prefix share its slices, the
 * rest closes and opens.
 *
 * All slices of a sample share its timestamps, so slices nest or are disjoint
 * and never overlap in part. Records are written in the order in which they
 * opened: parents before children, as every reader wants it. A gap wider than
 * a period closes everything: a hole stays a hole.
 */
#include <stdlib.h>
#include <string.h>

#include "trace_priv.h"

struct record {
  uint64_t ts, dur;
  uint32_t text;
};

struct slices {
  struct trace *trace;
  int64_t pid, tid;
  size_t who;                              /* digits of both */
  uint32_t open[SS_TRACE_DEPTH_MAX + 1];   /* tree node at each depth */
  uint64_t since[SS_TRACE_DEPTH_MAX + 1];  /* when it opened */
  uint32_t record[SS_TRACE_DEPTH_MAX + 1]; /* its record, or SS_ID_NONE: cut */
  unsigned depth;
  uint64_t *end_us;
  struct trace_costs *costs;   /* counting: not NULL */
  const struct trace_cut *cut; /* writing: not NULL */
  struct record *records;
  size_t count, cap;
};

/* Of one slice's event; `who` is what the pid and the tid take. */
static size_t event_size(const struct trace_name *name, size_t who, uint64_t ts,
                         uint64_t dur)
{
  static const char shape[] =
      "{\"ph\":\"X\",\"cat\":\"\",\"name\":\"\",\"pid\":,\"tid\":,\"ts\":,\"dur\":},\n";
  return sizeof shape - 1 + name->category_len + name->len + who + trace_digits(ts) +
         trace_digits(dur);
}

static void close_slice(struct slices *s, unsigned depth, uint64_t end_us)
{
  uint32_t text = s->trace->tree.nodes[s->open[depth]].text;
  uint64_t dur = end_us - s->since[depth];
  if (s->costs != NULL) {
    struct trace_name name = trace_name_of(s->trace, text);
    s->costs->bytes[name.kind][depth] += event_size(&name, s->who, s->since[depth], dur);
    s->costs->slices[name.kind][depth]++;
  } else if (s->record[depth] != SS_ID_NONE) {
    s->records[s->record[depth]].dur = dur;
  }
}

static void close_down_to(struct slices *s, unsigned depth, uint64_t end_us)
{
  while (s->depth > depth) {
    close_slice(s, s->depth, end_us);
    s->depth--;
  }
}

static uint32_t new_record(struct slices *s, unsigned depth, uint32_t text, uint64_t ts)
{
  bool keep = depth < s->cut->depth[trace_name_of(s->trace, text).kind];
  if (!keep || s->count >= SS_ID_NONE ||
      !ss_grow(&s->records, &s->cap, s->count + 1, sizeof *s->records)) {
    s->trace->failed = s->trace->failed || keep;
    return SS_ID_NONE;
  }
  s->records[s->count] = (struct record){.ts = ts, .text = text};
  return (uint32_t)s->count++;
}

/* How deep the open slices and the new sample agree. */
static unsigned common_depth(const struct slices *s, uint32_t node, unsigned depth)
{
  const struct ss_tree_node *nodes = s->trace->tree.nodes;
  while (depth > 0 && (depth > s->depth || s->open[depth] != node)) {
    node = nodes[node].parent;
    depth--;
  }
  return depth;
}

static void open_up_to(struct slices *s, uint32_t node, unsigned depth, uint64_t ts)
{
  const struct ss_tree_node *nodes = s->trace->tree.nodes;
  for (unsigned d = depth; d > s->depth; d--) {
    s->open[d] = node;
    node = nodes[node].parent;
  }
  while (s->depth < depth) {
    s->depth++;
    s->since[s->depth] = ts;
    if (s->cut != NULL)
      s->record[s->depth] = new_record(s, s->depth, nodes[s->open[s->depth]].text, ts);
  }
}

static bool add_sample(void *arg, const struct ss_sample_row *row)
{
  struct slices *s = arg;
  struct trace_interval at;
  uint64_t before = *s->end_us;
  if (!trace_interval_of(s->trace, row, s->end_us, &at))
    return !s->trace->failed;
  unsigned depth = s->trace->depths[at.node];
  bool hole = at.start_us - before > s->trace->period_us;
  close_down_to(s, hole ? 0 : common_depth(s, at.node, depth), before);
  open_up_to(s, at.node, depth, at.start_us);
  return !s->trace->failed;
}

static enum ss_err run(struct slices *s, uint32_t thread, struct ss_diag *diag)
{
  struct ss_profile *p = s->trace->profile;
  s->pid = p->processes[p->threads[thread].process].pid;
  s->tid = p->threads[thread].tid;
  s->who = trace_digits((uint64_t)s->pid) + trace_digits((uint64_t)s->tid);
  enum ss_err err = ss_profile_samples(p, thread, add_sample, s, diag);
  close_down_to(s, 0, *s->end_us);
  if (err == SS_ERR_OK && s->trace->failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace");
  return err;
}

enum ss_err trace_slices_count(struct trace *t, uint32_t thread, uint64_t *end_us,
                               struct trace_costs *costs, struct ss_diag *diag)
{
  struct slices s = {.trace = t, .costs = costs, .end_us = end_us};
  return run(&s, thread, diag);
}

/* Millions of lines: put together without printf, which took half of the time. */
static void write_record(struct slices *s, struct ss_buf *line, const char *who,
                         const struct record *r)
{
  struct trace_name name = trace_name_of(s->trace, r->text);
  ss_buf_clear(line);
  ss_buf_adds(line, "{\"ph\":\"X\",\"cat\":\"");
  ss_buf_add(line, name.category, name.category_len);
  ss_buf_adds(line, "\",\"name\":\"");
  ss_buf_add(line, name.json, name.len);
  ss_buf_adds(line, who);
  ss_buf_addu(line, r->ts);
  ss_buf_adds(line, ",\"dur\":");
  ss_buf_addu(line, r->dur);
  ss_buf_adds(line, "},\n");
  s->trace->failed = s->trace->failed || line->failed;
  ss_outfile_write(s->trace->out, ss_buf_str(line), line->len);
}

enum ss_err trace_slices_write(struct trace *t, uint32_t thread, uint64_t *end_us,
                               const struct trace_cut *cut, struct ss_diag *diag)
{
  struct slices s = {.trace = t, .cut = cut, .end_us = end_us};
  enum ss_err err = run(&s, thread, diag);
  struct ss_buf line = {0};
  char who[80];
  snprintf(who, sizeof who, "\",\"pid\":%lld,\"tid\":%lld,\"ts\":", (long long)s.pid,
           (long long)s.tid);
  for (size_t i = 0; err == SS_ERR_OK && i < s.count; i++)
    write_record(&s, &line, who, &s.records[i]);
  if (err == SS_ERR_OK && t->failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace");
  ss_buf_release(&line);
  free(s.records);
  return err;
}
