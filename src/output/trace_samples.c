/*
 * The same samples as V8 "Profile"/"ProfileChunk" events: viewers that work on
 * samples (speedscope, Firefox Profiler, Perfetto's flamegraph of an area) then
 * show true profiles instead of merged slices.
 *
 * A reader weighs a sample by the distance to the next one, so each hole, however
 * small, and the end get a "(root)" sample: else the sample before would fill it,
 * and the totals of these viewers would not be those of stacks.folded. No chunk ever
 * has a startTime (Perfetto would take it for a new profile).
 */
#include <stdlib.h>
#include <string.h>

#include "trace_priv.h"

#define CHUNK_SAMPLES 10000 /* a line of some 100 KB */
#define ROOT_ID 1
#define ID_OF(node) ((uint64_t)(node) + 2)

struct chunks {
  struct trace *trace;
  uint32_t thread;
  int64_t pid, tid;
  uint64_t *end_us;
  uint64_t *bytes; /* counting: not NULL */
  uint8_t *known;  /* by tree node: is in an earlier or this chunk */
  size_t known_cap, known_count;
  bool started, root_known;
  uint64_t start_us, at_us; /* of the profile; of the last sample */
  uint64_t chunk_ts;
  unsigned count; /* samples in this chunk */
  struct ss_buf nodes, samples, deltas;
};

static bool grow_known(struct chunks *c)
{
  size_t need = c->trace->tree.count;
  if (!ss_grow(&c->known, &c->known_cap, need, 1)) {
    c->trace->failed = true;
    return false;
  }
  if (need > c->known_count) {
    memset(c->known + c->known_count, 0, need - c->known_count);
    c->known_count = need;
  }
  return true;
}

/* The name has the file and the line already; V8's own fields for them would
 * show both twice. */
static void add_node(struct chunks *c, uint32_t node)
{
  const struct ss_tree_node *n = &c->trace->tree.nodes[node];
  struct trace_name name = trace_name_of(c->trace, n->text);
  if (c->nodes.len > 0)
    ss_buf_addc(&c->nodes, ',');
  ss_buf_addf(&c->nodes,
              "{\"id\":%llu,\"parent\":%llu,\"callFrame\":{\"functionName\":\"",
              (unsigned long long)ID_OF(node),
              n->parent == SS_ID_NONE ? (unsigned long long)ROOT_ID
                                      : (unsigned long long)ID_OF(n->parent));
  ss_buf_add(&c->nodes, name.json, name.len);
  ss_buf_adds(&c->nodes, "\",\"scriptId\":\"0\",\"url\":\"\",\"lineNumber\":-1,"
                         "\"columnNumber\":-1}}");
}

static void add_path(struct chunks *c, uint32_t node)
{
  uint32_t chain[SS_TRACE_DEPTH_MAX + 1];
  unsigned depth = 0;
  while (node != SS_ID_NONE && !c->known[node]) {
    chain[depth++] = node;
    node = c->trace->tree.nodes[node].parent;
  }
  while (depth > 0) {
    depth--;
    c->known[chain[depth]] = 1;
    add_node(c, chain[depth]);
  }
}

/* ---- events ------------------------------------------------------------------- */

static void start_event(struct chunks *c, const char *name, uint64_t ts)
{
  struct ss_buf *b = &c->trace->scratch;
  ss_buf_clear(b);
  ss_buf_addf(
      b,
      "{\"ph\":\"P\",\"cat\":\"disabled-by-default-v8.cpu_profiler\",\"name\":\"%s\","
      "\"id\":\"0x%x\",\"pid\":%lld,\"tid\":%lld,\"ts\":%llu,\"args\":{\"data\":{",
      name, c->thread + 1, (long long)c->pid, (long long)c->tid, (unsigned long long)ts);
}

static void put(struct chunks *c, const struct ss_buf *b)
{
  c->trace->failed = c->trace->failed || b->failed;
  if (c->bytes != NULL)
    *c->bytes += b->len;
  else
    ss_outfile_write(c->trace->out, b->data, b->len);
}

static void start_profile(struct chunks *c, uint64_t start_us)
{
  c->started = true;
  c->start_us = c->at_us = c->chunk_ts = start_us;
  start_event(c, "Profile", start_us);
  ss_buf_addf(&c->trace->scratch, "\"startTime\":%llu}}},\n",
              (unsigned long long)start_us);
  put(c, &c->trace->scratch);
}

static void flush_chunk(struct chunks *c, bool last)
{
  struct ss_buf *b = &c->trace->scratch;
  start_event(c, "ProfileChunk", ++c->chunk_ts);
  ss_buf_adds(b, "\"cpuProfile\":{\"nodes\":[");
  if (!c->root_known) {
    ss_buf_adds(b, "{\"id\":1,\"callFrame\":{\"functionName\":\"(root)\",\"scriptId\":"
                   "\"0\",\"url\":\"\",\"lineNumber\":-1,\"columnNumber\":-1}}");
    ss_buf_adds(b, c->nodes.len > 0 ? "," : "");
    c->root_known = true;
  }
  put(c, b);
  put(c, &c->nodes);
  ss_buf_clear(b);
  ss_buf_adds(b, "],\"samples\":[");
  put(c, b);
  put(c, &c->samples);
  ss_buf_clear(b);
  ss_buf_adds(b, "]},\"timeDeltas\":[");
  put(c, b);
  put(c, &c->deltas);
  ss_buf_clear(b);
  ss_buf_adds(b, "]");
  if (last)
    ss_buf_addf(b, ",\"endTime\":%llu", (unsigned long long)c->at_us);
  ss_buf_adds(b, "}}},\n");
  put(c, b);
  ss_buf_clear(&c->nodes);
  ss_buf_clear(&c->samples);
  ss_buf_clear(&c->deltas);
  c->count = 0;
}

static void add_at(struct chunks *c, uint64_t id, uint64_t us)
{
  const char *comma = c->count > 0 ? "," : "";
  ss_buf_adds(&c->samples, comma);
  ss_buf_addu(&c->samples, id);
  ss_buf_adds(&c->deltas, comma);
  ss_buf_addu(&c->deltas, us - c->at_us);
  c->at_us = us;
  c->count++;
  if (c->count == CHUNK_SAMPLES)
    flush_chunk(c, false);
}

static bool add_sample(void *arg, const struct ss_sample_row *row)
{
  struct chunks *c = arg;
  struct trace_interval at;
  uint64_t before = *c->end_us;
  if (!trace_interval_of(c->trace, row, c->end_us, &at) || !grow_known(c))
    return !c->trace->failed;
  if (!c->started)
    start_profile(c, at.start_us);
  else if (at.start_us > before)
    add_at(c, ROOT_ID, before);
  add_path(c, at.node);
  add_at(c, ID_OF(at.node), at.start_us);
  return !c->trace->failed;
}

static enum ss_err run(struct chunks *c, uint32_t thread, struct ss_diag *diag)
{
  struct ss_profile *p = c->trace->profile;
  c->thread = thread;
  c->pid = p->processes[p->threads[thread].process].pid;
  c->tid = p->threads[thread].tid;
  enum ss_err err = ss_profile_samples(p, thread, add_sample, c, diag);
  if (c->started) {
    add_at(c, ROOT_ID, *c->end_us);
    flush_chunk(c, true);
  }
  if (err == SS_ERR_OK && c->trace->failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for the trace's samples");
  free(c->known);
  ss_buf_release(&c->nodes);
  ss_buf_release(&c->samples);
  ss_buf_release(&c->deltas);
  return err;
}

enum ss_err trace_samples_count(struct trace *t, uint32_t thread, uint64_t *end_us,
                                uint64_t *bytes, struct ss_diag *diag)
{
  struct chunks c = {.trace = t, .end_us = end_us, .bytes = bytes};
  return run(&c, thread, diag);
}

enum ss_err trace_samples_write(struct trace *t, uint32_t thread, uint64_t *end_us,
                                struct ss_diag *diag)
{
  struct chunks c = {.trace = t, .end_us = end_us};
  return run(&c, thread, diag);
}
