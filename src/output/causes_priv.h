/*
 * Why a run took so long: facts out of a profile, and the rules that judge them.
 */
#ifndef SS_CAUSES_PRIV_H
#define SS_CAUSES_PRIV_H

#include "summary_priv.h"

enum { SS_CAUSES_MAX = 24, SS_SITES_MAX = 3 };

/* ---- facts ---------------------------------------------------------------------- */

struct ss_site {  /* a Python line, or all threads that run no Python */
  uint32_t frame; /* SS_ID_NONE: no Python */
  int line;
  uint64_t weight_ns;
};
struct ss_cause_facts {
  uint64_t rows_ns; /* weight of all rows on a CPU; the next four are parts of it */
  uint64_t fault_ns, unmap_ns;
  uint64_t python_ns;                 /* the interpreter itself */
  uint64_t slow_check_ns;             /* torch's gradcheck, one input at a time */
  uint64_t spin_ns;                   /* all spinning */
  uint64_t openmp_spin_ns;            /* in an OpenMP library */
  uint32_t spin_text;                 /* where most of it is; SS_ID_NONE */
  struct ss_site sites[SS_SITES_MAX]; /* of page faults, largest first */
  size_t n_sites;
  struct ss_site lines[SS_SITES_MAX]; /* of the interpreter itself */
  size_t n_lines;
  uint64_t import_ns;                   /* under an import statement */
  struct ss_site imports[SS_SITES_MAX]; /* the outermost ones */
  size_t n_imports;
  size_t spinners; /* threads that span */
  bool torch;      /* it was mapped and on a stack */
  uint64_t top_ns; /* CPU time of the busiest thread, */
  uint32_t top;    /* which is this one */
};
enum ss_err ss_cause_facts(struct ss_cause_facts *facts, struct ss_figures *f,
                           struct ss_diag *diag);

/* ---- causes --------------------------------------------------------------------- */

struct ss_cause {
  const char *name, *title, *base; /* static; base: "cpu" or "wall" */
  double share_pct, error_pct;     /* error: one standard error */
  double weight_pct;               /* of the elapsed time: what makes it large */
  uint64_t ns;                     /* thread time, or wall time */
  struct ss_buf text;
  cJSON *evidence, *attempts; /* lists of strings */
};
struct ss_causes {
  struct ss_cause items[SS_CAUSES_MAX]; /* largest first */
  size_t count;
  /* What was looked for and is too small to matter: of CPU time, of waiting. */
  struct ss_buf dismissed, no_waits;
};
enum ss_err ss_causes_find(struct ss_causes *causes, struct ss_figures *f,
                           struct ss_diag *diag);
/* Those that wait are added to the others: cause_waits.c. */
enum ss_err ss_cause_waits(struct ss_causes *causes, struct ss_figures *f,
                           struct ss_diag *diag);
/* A new one, empty but for these; there is room for one of each name. */
struct ss_cause *ss_cause_add(struct ss_causes *causes, const char *name,
                              const char *title, const char *base);
void ss_cause_dismiss(struct ss_buf *list, const char *title, double share_pct);
void ss_cause_line(cJSON *list, struct ss_buf *line); /* adds it, and clears it */
/* Evidence: a view of flamegraph.html, by the keys of its address; NULL: none. */
void ss_cause_view(struct ss_cause *cause, const char *keys);
void ss_put_site(struct ss_buf *out, struct ss_figures *f, const struct ss_site *site);
void ss_causes_release(struct ss_causes *causes);
cJSON *ss_causes_json(const struct ss_causes *causes);
void ss_causes_section(struct ss_doc *d, const struct ss_causes *causes);

#endif
