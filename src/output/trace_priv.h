/*
 * profiler.json from the inside: trace.c owns the file's frame and the budget,
 * trace_slices.c merges samples into X slices, trace_samples.c writes them as
 * V8 sample events. All three see samples as nodes of one call tree.
 */
#ifndef STACKSAMPLE_TRACE_PRIV_H
#define STACKSAMPLE_TRACE_PRIV_H

#include "output_priv.h"
#include "stacksample/limits.h"

/* What goes first where a trace would be too big, last kind first. */
enum trace_kind { TRACE_OTHER, TRACE_WAITS, TRACE_NATIVE, TRACE_KINDS };

struct trace_name { /* of a text, escaped for JSON; owned by the arena */
  const char *json;
  size_t len;
  const char *category;
  size_t category_len;
  enum trace_kind kind;
};

struct trace {
  struct ss_profile *profile;
  const struct ss_write_options *options;
  struct ss_outfile *out;
  struct ss_filter_set filter;
  struct ss_texts texts;
  struct ss_tree tree;
  uint16_t *depths; /* by tree node: 1 for a root */
  size_t depths_cap;
  uint32_t *of_stack;       /* stack id -> tree node; SS_ID_NONE: not yet */
  struct ss_path path;      /* scratch */
  struct trace_name *names; /* by text id */
  size_t names_count, names_cap;
  struct ss_arena arena;
  struct ss_buf scratch;
  uint64_t base_ns;   /* CLOCK_MONOTONIC of ts 0 */
  uint64_t period_us; /* of sampling: the widest gap that is no hole */
  bool failed;        /* out of memory, sticky */
};

/* A sample on its thread's track. */
struct trace_interval {
  uint64_t start_us, end_us; /* start < end */
  uint32_t node;
};

uint64_t trace_us(const struct trace *t, uint64_t ns);
void trace_escape(struct ss_buf *out, const char *s, size_t len);
/* Without quotes. */
struct trace_name trace_name_of(struct trace *t, uint32_t text);
/* The tree node of a sample; SS_ID_NONE: nothing to show. */
uint32_t trace_node_of(struct trace *t, const struct ss_sample_row *row);
/* What the sample covers: its whole weight, not before *end_us of the one before
 * (which is then moved on), and at most a period beyond its time; false: nothing. */
bool trace_interval_of(struct trace *t, const struct ss_sample_row *row, uint64_t *end_us,
                       struct trace_interval *interval);
size_t trace_digits(uint64_t number);

/* ---- slices ------------------------------------------------------------------- */

struct trace_cut { /* slices at these depths and below are left out */
  unsigned depth[TRACE_KINDS];
};
struct trace_costs { /* bytes and slices by kind and depth */
  uint64_t bytes[TRACE_KINDS][SS_TRACE_DEPTH_MAX + 1];
  uint64_t slices[TRACE_KINDS][SS_TRACE_DEPTH_MAX + 1];
};
/* Adds what the slices of `thread` would cost. `end_us`: end of what is on that
 * track already. */
enum ss_err trace_slices_count(struct trace *t, uint32_t thread, uint64_t *end_us,
                               struct trace_costs *costs, struct ss_diag *diag);
enum ss_err trace_slices_write(struct trace *t, uint32_t thread, uint64_t *end_us,
                               const struct trace_cut *cut, struct ss_diag *diag);

/* ---- V8 samples ------------------------------------------------------------------ */

/* At most so many bytes for the samples of `thread`. */
enum ss_err trace_samples_count(struct trace *t, uint32_t thread, uint64_t *end_us,
                                uint64_t *bytes, struct ss_diag *diag);
enum ss_err trace_samples_write(struct trace *t, uint32_t thread, uint64_t *end_us,
                                struct ss_diag *diag);

#endif
