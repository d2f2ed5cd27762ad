/*
 * flamegraph.html from the inside: flame_model.c makes the tree,
 * flamegraph.c writes it as JSON into the page.
 */
#ifndef STACKSAMPLE_FLAME_PRIV_H
#define STACKSAMPLE_FLAME_PRIV_H

#include "output_priv.h"

/* What the page still draws and filters at once, and about 4 MB of it. */
#define FLAME_NODES_MAX 120000

struct flame_group {    /* phase rows of one test and phase, in all processes */
  uint32_t test, phase; /* strings; SS_ID_NONE: no test */
};
struct flame_combo {
  uint32_t group, thread;
  uint8_t state;
};
struct flame_cell {
  uint32_t node; /* position in preorder once built */
  uint32_t combo;
  uint64_t ns, samples;
};
struct flame_line {
  uint32_t node; /* as above */
  int line;
  uint64_t ns; /* with what it called */
};

struct flame { /* zero-initialise */
  struct ss_texts texts;
  struct ss_tree tree;
  struct ss_path path; /* scratch */
  struct flame_group *groups;
  struct flame_combo *combos;
  struct flame_cell *cells; /* by node, then combo */
  struct flame_line *lines; /* by node, then most time first */
  size_t n_groups, n_combos, n_cells, n_lines;
  size_t groups_cap, combos_cap, cells_cap, lines_cap;
  struct ss_idmap group_index, combo_index, line_index;
  uint32_t *order;                  /* preorder: position -> tree node */
  uint32_t *position;               /* tree node -> position */
  uint64_t joined_nodes, joined_ns; /* in "(other)" */
};

enum ss_err flame_build(struct flame *f, struct ss_profile *p, struct ss_diag *diag);
void flame_release(struct flame *f); /* accepts a zeroed struct */

#endif
