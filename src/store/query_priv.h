/*
 * What the two files of the reading side share: checked columns (query.c) and
 * the samples in time order (samples.c).
 */
#ifndef STACKSAMPLE_QUERY_PRIV_H
#define STACKSAMPLE_QUERY_PRIV_H

#include "store_priv.h"

struct ss_profile_private {
  struct ss_db db;
  struct ss_arena arena;    /* of strings and meta */
  struct ss_meta_row *meta; /* by key; texts in the arena */
  size_t n_meta, cap_meta;
  uint64_t base_ns;
  uint64_t rejected;
  /* All samples, thread by thread, where they fit; else NULL. */
  struct ss_sample_row *samples;
  size_t *first; /* of each thread; room for all of its rows up to the next one's */
  size_t *end;   /* of its good rows; NULL with `samples` */
};

/* Each false, with a harmless value, where the column does not hold what it
 * should. An id is below `count`; NULL is SS_ID_NONE where it `may_miss`. */
bool ss_column_id(sqlite3_stmt *st, int column, size_t count, bool may_miss,
                  uint32_t *out);
bool ss_column_range(sqlite3_stmt *st, int column, int64_t min, int64_t max,
                     int64_t *out);
/* A time since the base; NULL is 0. */
bool ss_column_time(sqlite3_stmt *st, int column, uint64_t base_ns, uint64_t *out);
/* The seven columns that `sample` and `total` share, from `column` on. */
bool ss_columns_how(const struct ss_profile *p, sqlite3_stmt *st, int column,
                    struct ss_sample_row *out);

/* Reads table `sample` in the order in which it was written; bad rows are
 * counted and left out. `thread` SS_ID_NONE: all. */
enum ss_err ss_samples_scan(struct ss_profile *p, uint32_t thread, bool in_time_order,
                            bool (*each)(void *arg, const struct ss_sample_row *row),
                            void *arg, struct ss_diag *diag);

#endif
