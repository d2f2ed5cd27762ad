/*
 * What the writers of stacks share: the shown text of every frame, and a call
 * tree over texts (two stacks that differ only in lines are one node).
 *
 * Both read a struct ss_profile and nothing else. Not thread-safe.
 */
#ifndef STACKSAMPLE_OUTPUT_PRIV_H
#define STACKSAMPLE_OUTPUT_PRIV_H

#include "stacksample/buf.h"
#include "stacksample/escape.h"
#include "stacksample/hash.h"
#include "stacksample/output.h"

/* ---- texts ------------------------------------------------------------------- */

/* What a text stands for; flamegraph.js has the same order. */
enum ss_text_kind {
  SS_TEXT_ROOT,   /* a process or a thread */
  SS_TEXT_PYTHON, /* the command's own code */
  SS_TEXT_PYLIB,  /* Python in site-packages, or the standard library */
  SS_TEXT_NATIVE,
  SS_TEXT_OPERATOR, /* native, and a torch operator */
  SS_TEXT_KERNEL,
  SS_TEXT_WAIT, /* why a thread waited, "[lock]" */
  SS_TEXT_MARK, /* "[truncated]" and the like */
};

struct ss_text {
  uint32_t op; /* text id of the operator's name, or SS_ID_NONE */
  uint8_t kind;
  bool kernel_symbol; /* folded stacks mark it "_[k]" */
};

struct ss_texts {
  const struct ss_profile *profile; /* borrowed */
  struct ss_interner strings;       /* the texts themselves: id -> string */
  struct ss_text *texts;            /* by text id */
  size_t cap;
  uint32_t *of_frame; /* frame id -> text id; SS_ID_NONE: not yet */
  struct ss_overloads *overloads;
  bool overloads_tried;
  struct ss_buf scratch;
};

enum ss_err ss_texts_init(struct ss_texts *t, const struct ss_profile *p,
                          struct ss_diag *diag);
void ss_texts_release(struct ss_texts *t); /* accepts a zeroed struct */
/* Text ids; SS_ID_NONE when out of memory. */
uint32_t ss_texts_frame(struct ss_texts *t, uint32_t frame);
uint32_t ss_texts_add(struct ss_texts *t, const char *text, size_t len,
                      enum ss_text_kind kind);
/* Must a leaf say why a stack in this state waits? Not for a running one, nor where
 * the stack says it itself. Then ss_texts_wait is that leaf, "[lock]". */
bool ss_texts_wants_wait(const struct ss_texts *t, enum ss_state state, uint32_t stack);
uint32_t ss_texts_wait(struct ss_texts *t, enum ss_state state);
const char *ss_texts_str(const struct ss_texts *t, uint32_t text, size_t *len);

/* The file name of the library that a frame is in; "": in none. */
const char *ss_library_name(const struct ss_profile *p, const struct ss_frame_row *f);
/* Is this the code of a library (site-packages, the standard library)? */
bool ss_file_is_library(const char *file);

/* ---- call tree ------------------------------------------------------------------ */

struct ss_tree_node {
  uint32_t parent; /* SS_ID_NONE: a root */
  uint32_t text;
  uint64_t self_ns, self_samples;
};
struct ss_tree { /* nodes: parents before children. Zero-initialise. */
  struct ss_tree_node *nodes;
  size_t count, cap;
  struct ss_idmap index; /* parent and text -> node */
};
void ss_tree_release(struct ss_tree *tree);
/* The child of `parent` (SS_ID_NONE: a root) with this text, added if new;
 * SS_ID_NONE when out of memory. */
uint32_t ss_tree_child(struct ss_tree *tree, uint32_t parent, uint32_t text);
/* Indexes of nodes in preorder, siblings sorted by text; malloc'ed, or NULL. */
uint32_t *ss_tree_preorder(const struct ss_tree *tree, const struct ss_texts *texts);

/* ---- stacks -> tree --------------------------------------------------------------- */

/* The frames of `stack`, outermost first, as text ids in `path` (kept and grown
 * by the caller through ss_path_release). false when out of memory. */
struct ss_path {
  uint32_t *texts;
  uint32_t *stacks; /* the trie node of each */
  size_t count, cap, stacks_cap;
};
void ss_path_release(struct ss_path *path);
bool ss_path_of(struct ss_path *path, struct ss_texts *t, uint32_t stack);

/* The two roots of a thread: the process' label, where there are several
 * processes, and the thread's name. */
struct ss_roots {
  uint32_t process; /* text id, or SS_ID_NONE: only one process */
  uint32_t thread;
};
struct ss_roots ss_roots_of(struct ss_texts *t, uint32_t thread);
/* "tests/test_a.py::test_x (call)", "(collection)"; "(no test)" for none. */
uint32_t ss_phase_text(struct ss_texts *t, uint32_t phase);

/* ---- filter ------------------------------------------------------------------------ */

struct ss_filter_set { /* ss_filter looked up once. Zero-initialise. */
  bool all;            /* nothing is filtered */
  bool *threads, *phases;
  bool no_phase; /* samples outside every test */
  bool states[SS_STATE_COUNT];
  uint64_t from_ns, to_ns; /* CLOCK_MONOTONIC; to: UINT64_MAX */
};
enum ss_err ss_filter_set_init(struct ss_filter_set *set, const struct ss_profile *p,
                               const struct ss_filter *filter, struct ss_diag *diag);
void ss_filter_set_release(struct ss_filter_set *set);
bool ss_filter_match(const struct ss_filter_set *set, uint32_t thread, uint32_t phase,
                     uint8_t state);

#endif
