/*
 * What the files of src/store share: the tables in memory (intern.c), the
 * guarded SQLite connection (db.c), and the limits that tests lower.
 */
#ifndef STACKSAMPLE_STORE_PRIV_H
#define STACKSAMPLE_STORE_PRIV_H

#include <sqlite3.h>
#include <string.h>

#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/store.h"

/* ---- tables in memory ------------------------------------------------------- */

/* An array of rows and a hash over it, by which equal rows get one id. 4 bytes
 * a slot, at most 3/4 full: 5.3 to 10.7 bytes a row. */
struct ss_index {
  uint32_t *slots; /* id + 1; 0: empty */
  size_t n_slots;  /* power of two, or 0 */
  size_t count;    /* rows */
  size_t cap;      /* of the array of rows */
  size_t max;      /* rows allowed; 0: no limit */
};

struct ss_frames {
  struct ss_frame_row *rows;
  struct ss_index index;
};
struct ss_trie {
  struct ss_stack_row *rows; /* parents before children */
  struct ss_index index;
};
struct ss_totals {
  struct ss_total *rows;
  struct ss_index index;
};
struct ss_times {
  struct ss_time_row *rows;
  struct ss_index index;
};

/* Id of the row equal to `row`, added if new; SS_ID_NONE when out of memory or
 * at the limit. */
uint32_t ss_frames_add(struct ss_frames *f, const struct ss_frame_row *row);
uint32_t ss_trie_add(struct ss_trie *t, const struct ss_stack_row *row);
/* Equal: but for samples and weight_ns, or for ns, which are added up. */
uint32_t ss_totals_add(struct ss_totals *t, const struct ss_total *add);
uint32_t ss_times_add(struct ss_times *t, const struct ss_time_row *add);
void ss_frames_release(struct ss_frames *f);
void ss_trie_release(struct ss_trie *t);
void ss_totals_release(struct ss_totals *t);
void ss_times_release(struct ss_times *t);

/* The total that one sample is. */
struct ss_total ss_total_of(const struct ss_sample_row *row);

/* ---- the database file ------------------------------------------------------ */

enum ss_db_mode {
  SS_DB_CREATE, /* a new, empty file that nothing else can have */
  SS_DB_EXTEND, /* an existing one, to write to */
  SS_DB_READ    /* an existing one; written to only to recover its log */
};

/* One connection. `sql` is NULL when closed. */
struct ss_db {
  sqlite3 *sql;
  int dirfd; /* keeps the folder: the path below goes through it */
  char path[64];
};

enum ss_err ss_db_open(struct ss_db *db, const struct ss_dir *dir, const char *name,
                       enum ss_db_mode mode, struct ss_diag *diag);
void ss_db_close(struct ss_db *db);
/* Runs statements without results. SQLite's result code. */
int ss_db_exec(struct ss_db *db, const char *sql);
/* NULL on error. Owned: sqlite3_finalize. */
sqlite3_stmt *ss_db_prepare(struct ss_db *db, const char *sql);
/* The first column of the first row as a number; 0 where there is none. */
sqlite3_int64 ss_db_number(struct ss_db *db, const char *sql, int *rc);
/* The error of the last call on `db`, whose result code was `code`. */
enum ss_err ss_db_fail(const struct ss_db *db, int code, const char *doing,
                       struct ss_diag *diag);

/* ---- the writer ---------------------------------------------------------------- */

/* What tests lower. */
struct ss_store_limits {
  size_t stacks, frames, totals, string_bytes;
  uint64_t db_bytes;
};

enum ss_table { /* in the order in which they are written */
                SS_T_META,
                SS_T_STRING,
                SS_T_MODULE,
                SS_T_FRAME,
                SS_T_STACK,
                SS_T_PROCESS,
                SS_T_THREAD,
                SS_T_PHASE,
                SS_T_TIME,
                SS_T_COUNT
};

/* Rows of one table that the file does not have as they are now. */
struct ss_pending {
  unsigned char *flags; /* by id; none is set below `low` */
  size_t cap, low;
};

struct ss_meta_row {
  char *key, *value; /* owned */
};

/* Samples of one span of time, merged: the file is nearly full. */
struct ss_window {
  struct ss_totals totals;
  struct ss_merged {
    uint64_t time_ns; /* of the first sample */
    sqlite3_int64 rowid;
    bool dirty;
  } * rows; /* beside totals.rows */
  size_t cap;
  uint64_t span_ns; /* 0: samples are not merged */
  uint64_t number;  /* the window is [number * span, +span) */
  sqlite3_int64 next_rowid;
};

struct ss_store {
  struct ss_db db;
  struct ss_interner strings;
  struct ss_frames frames;
  struct ss_trie trie;
  struct ss_totals totals;
  struct ss_times times;
  struct ss_module_row *modules;
  struct ss_process_row *processes;
  struct ss_thread_row *threads;
  struct ss_phase_row *phases;
  struct ss_meta_row *meta;
  size_t n_modules, n_processes, n_threads, n_phases, n_meta;
  size_t cap_modules, cap_processes, cap_threads, cap_phases, cap_meta;
  struct ss_pending pending[SS_T_COUNT];
  sqlite3_stmt *put[SS_T_COUNT];

  struct ss_sample_row *buffer; /* SS_DB_BUFFER_ROWS of them */
  size_t buffered;
  sqlite3_stmt *put_sample;
  struct ss_window window;
  bool in_transaction;
  uint64_t in_flight; /* samples in the open transaction */
  uint64_t unsaved;   /* samples that the file could not take */

  struct ss_store_limits limits;
  uint32_t limit_frame, limit_stack; /* "[limit]", once they were needed */
  bool totals_incomplete;
  bool totals_saved; /* the file has them (it was reopened) */

  uint64_t base_ns;
  uint64_t next_commit_ns;
  uint64_t retry_after_ns; /* grows with each failure in a row; 0: none */
  enum ss_err err;         /* the first error, and its text */
  struct ss_diag diag;
};

void ss_store_set_limits(struct ss_store *s, const struct ss_store_limits *limits);
/* Remembers the first error. */
void ss_store_failed(struct ss_store *s, enum ss_err err, const struct ss_diag *diag);
/* The row is new or has changed: it is written by the next commit. */
void ss_store_mark(struct ss_store *s, enum ss_table table, uint32_t id);
/* Buffer to transaction; everything to the file; the same with totals. */
void ss_store_flush_samples(struct ss_store *s);
void ss_store_write(struct ss_store *s);
void ss_store_write_totals(struct ss_store *s);
/* One row of table `sample`; at `rowid`, or behind the last where it is 0. */
int ss_store_put_sample(struct ss_store *s, sqlite3_int64 rowid,
                        const struct ss_sample_row *row);
/* Merging (merge.c): SQLite's result codes. Into the present span; the span
 * into the file; nothing of it counts any more; is it time to merge (more)? */
int ss_merge_sample(struct ss_store *s, const struct ss_sample_row *row);
int ss_merge_flush(struct ss_store *s);
void ss_merge_forget(struct ss_store *s);
void ss_merge_adapt(struct ss_store *s);    /* after a commit */
void ss_store_finalize(struct ss_store *s); /* drops the statements */

#endif
