/*
 * profile.db: the raw profile (docs/format.md has the schema).
 *
 * The writer side keeps strings, frames and the stack trie in memory, appends
 * what is new and commits at least every SS_DB_COMMIT_MS, so a killed
 * stacksample loses no more. The reader side, struct ss_profile, is what every
 * output is made from. Ids are dense from 0; SS_ID_NONE means "none".
 */
#ifndef STACKSAMPLE_STORE_H
#define STACKSAMPLE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/context.h"
#include "stacksample/error.h"
#include "stacksample/fsafe.h"
#include "stacksample/hash.h"
#include "stacksample/unwind.h"

#define SS_SCHEMA_VERSION 1

/* ---- rows, shared by both sides ------------------------------------------- */

enum ss_frame_kind {
  SS_FRAME_PYTHON,
  SS_FRAME_NATIVE,
  SS_FRAME_KERNEL,
  SS_FRAME_SYNTHETIC /* "[kernel: page fault]", "[truncated]", "[limit]" */
};

struct ss_frame_row {
  enum ss_frame_kind kind;
  uint32_t name;   /* string; NATIVE: SS_ID_NONE until names are resolved */
  uint32_t file;   /* PYTHON: co_filename as it is */
  int first_line;  /* PYTHON */
  uint32_t module; /* NATIVE, and KERNEL of a kernel module */
  uint64_t offset; /* NATIVE: file vaddr of the function (FDE start) or, where
                      `exact`, of the instruction itself */
  bool exact;
};

struct ss_stack_row { /* a trie node; the root has parent SS_ID_NONE */
  uint32_t parent;
  uint32_t frame;
  int line; /* PYTHON: current line, else 0 */
};

struct ss_process_row {
  int64_t pid, ppid;
  uint32_t label;            /* string: "pytest", "gw0", "python3", ... */
  uint32_t command;          /* string: argv joined by spaces, secrets redacted */
  uint32_t python;           /* string: "3.11.2", or SS_ID_NONE */
  uint32_t worker;           /* string: "gw0", or SS_ID_NONE */
  uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC; end 0: still running */
};

struct ss_thread_row {
  uint32_t process;
  int64_t tid;
  uint32_t name, role; /* strings */
  uint64_t start_ns, end_ns;
  uint64_t cpu_ns; /* what the kernel says */
};

struct ss_phase_row { /* one phase of one test in one process; also
                         "(collection)" and "(session finish)" with phase "" */
  uint32_t process;
  uint32_t test;       /* string: node id */
  uint32_t phase;      /* string: setup, call, teardown, "" */
  uint32_t occurrence; /* of the same node id and phase in this process */
  uint64_t start_ns, end_ns;
};

struct ss_module_row {
  uint32_t path; /* string */
  unsigned char build_id[20];
  uint32_t build_id_len;
};

struct ss_sample_row {
  uint64_t time_ns;   /* CLOCK_MONOTONIC */
  uint64_t weight_ns; /* of thread time */
  uint32_t thread, stack;
  uint32_t phase;   /* SS_ID_NONE: no test known */
  uint8_t state;    /* enum ss_state */
  uint8_t end;      /* enum ss_end */
  uint8_t method;   /* enum ss_method, the weakest in the stack */
  uint8_t merge;    /* enum ss_merge_quality */
  uint32_t samples; /* merged into this row; 0 is taken as 1, never read back */
};
enum ss_merge_quality {
  SS_MERGE_NONE, /* no Python in this thread */
  SS_MERGE_VERIFIED,
  SS_MERGE_UNVERIFIED
};

/* ---- writing ---------------------------------------------------------------- */

struct ss_store; /* one writer thread at a time */

enum ss_err ss_store_create(struct ss_store **store, const struct ss_dir *dir,
                            const char *name, struct ss_diag *diag);
/* Opens an existing one for more rows (names, totals): `report` after a kill. */
enum ss_err ss_store_reopen(struct ss_store **store, const struct ss_dir *dir,
                            const char *name, struct ss_diag *diag);
/* Commits, checkpoints the WAL away, closes. The first error of any write. */
enum ss_err ss_store_close(struct ss_store *store, struct ss_diag *diag);

uint32_t ss_store_string(struct ss_store *s, const char *text, size_t len);
uint32_t ss_store_module(struct ss_store *s, const struct ss_module_row *row);
/* Equal rows give equal ids. */
uint32_t ss_store_frame(struct ss_store *s, const struct ss_frame_row *row);
/* Child of `parent` (SS_ID_NONE: a root) for a frame; at the cap of unique
 * stacks the node of "[limit]". Root first: the outermost frame is the root. */
uint32_t ss_store_stack(struct ss_store *s, uint32_t parent, uint32_t frame, int line);
uint32_t ss_store_process(struct ss_store *s, const struct ss_process_row *row);
void ss_store_process_update(struct ss_store *s, uint32_t id,
                             const struct ss_process_row *row);
uint32_t ss_store_thread(struct ss_store *s, const struct ss_thread_row *row);
void ss_store_thread_update(struct ss_store *s, uint32_t id,
                            const struct ss_thread_row *row);
uint32_t ss_store_phase(struct ss_store *s, const struct ss_phase_row *row);
void ss_store_phase_update(struct ss_store *s, uint32_t id,
                           const struct ss_phase_row *row);
void ss_store_sample(struct ss_store *s, const struct ss_sample_row *row);
/* The ledger: adds `ns` to the time of (thread, phase, state). */
void ss_store_time(struct ss_store *s, uint32_t thread, uint32_t phase,
                   enum ss_state state, uint64_t ns);
/* Facts about the run; last value wins. Keys: docs/format.md. */
void ss_store_meta(struct ss_store *s, const char *key, const char *value);
void ss_store_meta_u64(struct ss_store *s, const char *key, uint64_t value);
/* What was set so far; 0: nothing. */
uint64_t ss_store_meta_number(const struct ss_store *s, const char *key);
void ss_store_frame_name(struct ss_store *s, uint32_t frame, const char *name,
                         size_t len);
/* Rows as they stand in memory; false beyond the last. */
bool ss_store_stack_at(const struct ss_store *s, uint32_t id, struct ss_stack_row *row);
bool ss_store_frame_at(const struct ss_store *s, uint32_t id, struct ss_frame_row *row);
bool ss_store_module_at(const struct ss_store *s, uint32_t id, struct ss_module_row *row);
const char *ss_store_str(const struct ss_store *s, uint32_t id); /* "" for none */
/* Commits when SS_DB_COMMIT_MS have passed; `now` forces. Called often. */
void ss_store_commit(struct ss_store *s, bool now);
/* First error so far (disk full, ...); OK and untouched diag otherwise. */
enum ss_err ss_store_error(const struct ss_store *s, struct ss_diag *diag);

/* ---- reading ------------------------------------------------------------------ */

struct ss_total { /* samples that are equal but for their time */
  uint32_t thread, phase, stack;
  uint8_t state, end, method, merge;
  uint64_t samples, weight_ns;
};
struct ss_time_row {
  uint32_t thread, phase;
  uint8_t state;
  uint64_t ns;
};

struct ss_profile { /* everything but the samples themselves, in memory */
  struct ss_string {
    const char *s;
    size_t len;
  } * strings;
  struct ss_frame_row *frames;
  struct ss_stack_row *stacks; /* parents before children */
  struct ss_process_row *processes;
  struct ss_thread_row *threads;
  struct ss_phase_row *phases;
  struct ss_module_row *modules;
  struct ss_total *totals;
  struct ss_time_row *times;
  size_t n_strings, n_frames, n_stacks, n_processes, n_threads, n_phases, n_modules,
      n_totals, n_times;
  struct ss_profile_private *priv;
};

/* Read-only, as an untrusted file (R56): every id is range-checked here, once;
 * a bad row is dropped and counted in the meta key "rejected_rows". */
enum ss_err ss_profile_open(struct ss_profile **profile, const struct ss_dir *dir,
                            const char *name, struct ss_diag *diag);
void ss_profile_close(struct ss_profile *profile);
const char *ss_profile_str(const struct ss_profile *p, uint32_t id); /* "" for none */
/* Value of a meta key, or NULL; and as a number, or `otherwise`. */
const char *ss_profile_meta(const struct ss_profile *p, const char *key);
/* The i-th of all keys, by name; false beyond the last. */
bool ss_profile_meta_at(const struct ss_profile *p, size_t i, const char **key,
                        const char **value);
uint64_t ss_profile_meta_u64(const struct ss_profile *p, const char *key,
                             uint64_t otherwise);
double ss_profile_meta_f64(const struct ss_profile *p, const char *key, double otherwise);
/* All samples of one thread (SS_ID_NONE: of all, thread by thread) in time
 * order. `each` returns false to stop. */
enum ss_err ss_profile_samples(struct ss_profile *p, uint32_t thread,
                               bool (*each)(void *arg, const struct ss_sample_row *row),
                               void *arg, struct ss_diag *diag);

#endif
