/*
 * The figures behind every summary, and a small document that is written as
 * Markdown or as plain text from the same calls.
 */
#ifndef SS_SUMMARY_PRIV_H
#define SS_SUMMARY_PRIV_H

#include "bundle_priv.h"
#include "output_priv.h"
#include "stacksample/context.h"

/* ---- figures ----------------------------------------------------------------- */

struct ss_spent { /* thread time by state, from the ledger; ns */
  uint64_t ns[SS_STATE_COUNT];
  uint64_t samples;
  uint64_t kernel_w, fault_w; /* weight of kernel samples, and of faults in them */
};
struct ss_test_row {
  uint32_t phase; /* id */
  struct ss_spent t;
  uint64_t start_ns, wall_ns; /* since the run's start; wall 0: not known */
  uint32_t top;               /* text id of what it mostly did, or SS_ID_NONE */
  uint64_t top_ns;
  const char *outcome; /* borrowed from the log's JSON, or NULL */
  double pytest_s;     /* what --durations says; negative: nothing */
};
struct ss_role_row { /* threads of one role in one process */
  uint32_t first;    /* thread id */
  uint32_t members;
  struct ss_spent t;
};
struct ss_function_row {
  uint32_t text;
  uint64_t self_ns, total_ns, self_samples;
};
struct ss_figures {
  struct ss_profile *p;
  struct ss_texts texts;
  struct ss_spent total;
  struct ss_spent *threads;  /* by thread id */
  struct ss_test_row *tests; /* by phase id, until sorted */
  struct ss_role_row *roles;
  struct ss_function_row *functions, *operators; /* largest self first */
  size_t n_roles, n_functions, n_operators;
  uint64_t start_ns, end_ns, wall_ns; /* end: of the run, or the last thing seen */
  uint64_t run_ns, run_samples;       /* of samples taken on a CPU */
  uint64_t stackless_ns; /* of run_ns, by ptrace: of threads that could not be stopped */
  uint64_t samples, truncated;
  uint64_t late; /* stacks with a part that was read later, unverified */
  uint64_t stacks, complete, merges, verified; /* samples with such a stack */
  uint64_t no_cfi;     /* of `stacks`: ended in code without unwind information */
  bool by_stops;       /* the ptrace engine's */
  bool faults_known;   /* kernel stacks were taken */
  bool with_functions; /* functions and operators are wanted */
  /* What the profile's rows were let through; NULL: all. Borrowed. */
  const struct ss_filter *filter;
  cJSON *outcomes, *durations;
  const cJSON **unseen; /* outcomes of tests too short for any look at them */
  size_t n_unseen;
};
enum ss_err ss_figures_init(struct ss_figures *f, struct ss_profile *p, bool functions,
                            struct ss_diag *diag);
void ss_figures_release(struct ss_figures *f); /* accepts a zeroed struct */
/* Says what was let through, so that only this is shown. */
void ss_figures_filtered(struct ss_figures *f, const struct ss_filter *filter);
bool ss_test_shown(const struct ss_figures *f, const struct ss_test_row *row);
void ss_figures_sort_tests(struct ss_figures *f); /* longest first */
/* User and system time of the command as wait4 said; 0: not known. */
uint64_t ss_rusage_ns(const struct ss_profile *p);
uint64_t ss_spent_running(const struct ss_spent *t);
uint64_t ss_spent_waiting(const struct ss_spent *t); /* gil lock io child sleep wait */
/* Part of the kernel time that is page faults; UINT64_MAX: not known. */
uint64_t ss_spent_fault(const struct ss_figures *f, const struct ss_spent *t);
/* Why merges are not verified, each with its share of them: unverified.c. */
void ss_put_unverified(struct ss_buf *out, const struct ss_figures *f); /* or nothing */
cJSON *ss_json_unverified(const struct ss_figures *f);
/* Functions and operators: figures_stacks.c. */
enum ss_err ss_figures_stacks(struct ss_figures *f, struct ss_diag *diag);
/* Outcomes and durations of the log, onto the tests: figures_log.c. */
void ss_figures_log(struct ss_figures *f);

/* ---- numbers as a person reads them -------------------------------------------- */

void ss_put_seconds(struct ss_buf *out, uint64_t ns);  /* "844.9", "12.3", "0.012" */
void ss_put_significant(struct ss_buf *out, double x); /* three digits */
/* Share of `part` in `whole` with one standard error from `n` samples (0: none). */
void ss_put_share(struct ss_buf *out, uint64_t part, uint64_t whole, uint64_t n);

/* ---- a document ------------------------------------------------------------------- */

struct ss_doc {
  struct ss_buf *out; /* borrowed */
  bool markdown;      /* else plain text */
};
/* All text is plain; these escape it for the kind of document. */
void ss_doc_title(struct ss_doc *d, const struct ss_buf *text);
void ss_doc_heading(struct ss_doc *d, const char *text);
void ss_doc_para(struct ss_doc *d, const struct ss_buf *text);
void ss_doc_item(struct ss_doc *d, const struct ss_buf *text);
void ss_doc_subitem(struct ss_doc *d, const struct ss_buf *text); /* of an item */
void ss_doc_code(struct ss_doc *d, const cJSON *lines);           /* list of strings */

struct ss_grid {
  const char *const *headers; /* a leading '>' aligns the column to the right */
  size_t columns;
  struct ss_buf *cells; /* row by row */
  size_t count, cap;
};
struct ss_buf *ss_grid_cell(struct ss_grid *g); /* the next one, empty; never NULL */
void ss_doc_grid(struct ss_doc *d, struct ss_grid *g); /* prints and releases it */

/* The whole summary: what summary.md and `report` show. */
void ss_summary_doc(struct ss_doc *d, struct ss_figures *f);
/* A section of it: what threads waited for; nothing where they did not. */
void ss_summary_waits(struct ss_doc *d, struct ss_figures *f);
/* A section of it: how good the evidence is. */
void ss_summary_quality(struct ss_doc *d, const struct ss_figures *f);
/* Its list of the dumps that were taken; nothing where there were none. */
void ss_dumps_section(struct ss_doc *d, const struct ss_figures *f);
/* How the run went, as one line: "Passed after 14:04.9, limit 20:00 (...)". */
void ss_headline(const struct ss_figures *f, struct ss_buf *out);

#endif
