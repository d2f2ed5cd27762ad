/*
 * The samples of a profile, thread by thread in time order.
 *
 * They are stored as they came: nearly in time order, threads mixed. Up to
 * SS_PROFILE_SAMPLES_MAX of them are sorted in memory in one pass, once; more
 * are read a thread at a time, sorted by SQLite in temporary files.
 */
#include <stdlib.h>

#include "query_priv.h"

static bool get_sample(const struct ss_profile *p, sqlite3_stmt *st,
                       struct ss_sample_row *row)
{
  int64_t weight, samples;

  if (!ss_column_time(st, 0, p->priv->base_ns, &row->time_ns) ||
      !ss_column_range(st, 1, 0, INT64_MAX / 2, &weight) ||
      !ss_columns_how(p, st, 2, row) || !ss_column_range(st, 9, 1, UINT32_MAX, &samples))
    return false;
  row->weight_ns = (uint64_t)weight;
  row->samples = (uint32_t)samples;
  return true;
}

enum ss_err ss_samples_scan(struct ss_profile *p, uint32_t thread, bool in_time_order,
                            bool (*each)(void *arg, const struct ss_sample_row *row),
                            void *arg, struct ss_diag *diag)
{
  struct ss_db *db = &p->priv->db;
  struct ss_sample_row row = {0};
  bool more = true;
  sqlite3_stmt *st = ss_db_prepare(
      db, in_time_order ? "SELECT * FROM sample WHERE thread = ? ORDER BY time_ns, rowid"
                        : "SELECT * FROM sample");
  int rc = st != NULL ? SQLITE_OK : sqlite3_extended_errcode(db->sql);

  if (rc == SQLITE_OK && in_time_order)
    sqlite3_bind_int64(st, 1, thread);
  if (rc == SQLITE_OK)
    rc = sqlite3_step(st);
  for (; rc == SQLITE_ROW && more; rc = more ? sqlite3_step(st) : SQLITE_DONE)
    if (get_sample(p, st, &row))
      more = each(arg, &row);
    else
      p->priv->rejected++;
  sqlite3_finalize(st);
  return rc == SQLITE_DONE ? SS_ERR_OK : ss_db_fail(db, rc, "reading samples", diag);
}

/* ---- in memory ------------------------------------------------------------------- */

/* At most so many samples has each thread: at its index plus one. Most of what a scan
 * costs is in its columns, so this one takes the one that it needs. */
static enum ss_err count_rows(struct ss_profile *p, size_t *counts, struct ss_diag *diag)
{
  struct ss_db *db = &p->priv->db;
  sqlite3_stmt *st = ss_db_prepare(db, "SELECT thread FROM sample");
  int rc = st != NULL ? sqlite3_step(st) : sqlite3_extended_errcode(db->sql);
  uint32_t thread;

  for (; rc == SQLITE_ROW; rc = sqlite3_step(st))
    if (ss_column_id(st, 0, p->n_threads, false, &thread))
      counts[thread + 1]++;
  sqlite3_finalize(st);
  return rc == SQLITE_DONE ? SS_ERR_OK : ss_db_fail(db, rc, "reading samples", diag);
}

struct placing {
  struct ss_sample_row *rows;
  size_t *next; /* of each thread: where its next sample goes */
};

static bool place_row(void *arg, const struct ss_sample_row *row)
{
  struct placing *p = arg;

  p->rows[p->next[row->thread]++] = *row;
  return true;
}

/* Equal times: any order will do, but always the same. */
static int by_time(const void *x, const void *y)
{
  const struct ss_sample_row *a = x, *b = y;

  if (a->time_ns != b->time_ns)
    return a->time_ns < b->time_ns ? -1 : 1;
  if (a->stack != b->stack)
    return a->stack < b->stack ? -1 : 1;
  return (a->weight_ns > b->weight_ns) - (a->weight_ns < b->weight_ns);
}

static void sort_rows(struct ss_sample_row *rows, size_t count)
{
  for (size_t i = 1; i < count; i++) {
    if (rows[i].time_ns < rows[i - 1].time_ns) {
      qsort(rows, count, sizeof *rows, by_time);
      return;
    }
  }
}

/* Fills priv->samples where they fit. The file cannot change between the two
 * scans: the connection holds its lock. */
static enum ss_err gather(struct ss_profile *p, struct ss_diag *diag)
{
  struct ss_profile_private *priv = p->priv;
  struct placing placing = {0};
  uint64_t rejected = priv->rejected;
  enum ss_err err;

  if (priv->first != NULL)
    return SS_ERR_OK;
  priv->first = calloc(p->n_threads + 2, sizeof *priv->first);
  placing.next = calloc(p->n_threads + 1, sizeof *placing.next);
  if (priv->first == NULL || placing.next == NULL) {
    (void)ss_fail(diag, SS_ERR_NOMEM, "reading samples: out of memory");
    err = SS_ERR_NOMEM;
    goto out;
  }
  err = count_rows(p, priv->first, diag);
  if (err != SS_ERR_OK)
    goto out;
  for (size_t t = 0; t < p->n_threads; t++) {
    placing.next[t] = priv->first[t];
    priv->first[t + 1] += priv->first[t];
  }
  size_t total = priv->first[p->n_threads];
  if (total <= SS_PROFILE_SAMPLES_MAX)
    placing.rows = calloc(total + 1, sizeof *placing.rows);
  if (placing.rows == NULL) /* too many: a thread at a time, then */
    goto out;
  err = ss_samples_scan(p, SS_ID_NONE, false, place_row, &placing, diag);
  for (size_t t = 0; t < p->n_threads && err == SS_ERR_OK; t++)
    sort_rows(placing.rows + priv->first[t], placing.next[t] - priv->first[t]);
  priv->samples = placing.rows;
  priv->end = placing.next;
  placing.next = NULL;
out:
  if (err != SS_ERR_OK) {
    free(priv->first);
    free(priv->end);
    free(priv->samples);
    priv->first = priv->end = NULL;
    priv->samples = NULL;
  }
  priv->rejected = rejected; /* each was counted when the profile was opened */
  free(placing.next);
  return err;
}

struct one_thread {
  bool (*each)(void *arg, const struct ss_sample_row *row);
  void *arg;
  bool stopped;
};

static bool pass_on(void *arg, const struct ss_sample_row *row)
{
  struct one_thread *t = arg;

  t->stopped = !t->each(t->arg, row);
  return !t->stopped;
}

static enum ss_err thread_samples(struct ss_profile *p, uint32_t thread,
                                  struct one_thread *to, struct ss_diag *diag)
{
  const struct ss_profile_private *priv = p->priv;

  if (priv->samples == NULL)
    return priv->first[thread] == priv->first[thread + 1]
               ? SS_ERR_OK
               : ss_samples_scan(p, thread, true, pass_on, to, diag);
  for (size_t i = priv->first[thread]; i < priv->end[thread] && !to->stopped; i++)
    pass_on(to, &priv->samples[i]);
  return SS_ERR_OK;
}

enum ss_err ss_profile_samples(struct ss_profile *p, uint32_t thread,
                               bool (*each)(void *arg, const struct ss_sample_row *row),
                               void *arg, struct ss_diag *diag)
{
  struct one_thread to = {.each = each, .arg = arg};
  enum ss_err err = gather(p, diag);

  if (thread != SS_ID_NONE)
    return err == SS_ERR_OK && thread < p->n_threads
               ? thread_samples(p, thread, &to, diag)
               : err;
  for (uint32_t t = 0; t < p->n_threads && err == SS_ERR_OK && !to.stopped; t++)
    err = thread_samples(p, t, &to, diag);
  return err;
}
