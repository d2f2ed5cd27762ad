/*
 * From memory to the file.
 *
 * A flag per row says what the file lacks; it is cleared only when the COMMIT
 * that wrote the row has succeeded, so a failed transaction (disk full) needs
 * no undoing: the next one writes the same rows again. Samples are different:
 * what a failed transaction held of them stays in the totals, is lost as rows,
 * and is counted.
 */
#include <stdio.h>

#include "stacksample/escape.h"
#include "stacksample/sys.h"
#include "store_priv.h"

#define NIL INT64_MIN /* binds NULL */

static int64_t id_value(uint32_t id)
{
  return id == SS_ID_NONE ? NIL : (int64_t)id;
}

/* Nanoseconds since the file's base; 0 is "not known". */
static int64_t time_value(const struct ss_store *s, uint64_t ns)
{
  return ns == 0 ? NIL : (int64_t)(ns - s->base_ns);
}

static int put_values(sqlite3_stmt *st, const int64_t *values, int count)
{
  for (int i = 0; i < count; i++)
    if (values[i] == NIL)
      sqlite3_bind_null(st, i + 1);
    else
      sqlite3_bind_int64(st, i + 1, values[i]);
  sqlite3_step(st);
  return sqlite3_reset(st);
}
#define PUT(st, ...)                                                                     \
  put_values((st), (const int64_t[]){__VA_ARGS__},                                       \
             (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

/* ---- one row of each table ------------------------------------------------------- */

static int put_meta(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  sqlite3_bind_text(st, 1, s->meta[id].key, -1, SQLITE_STATIC);
  sqlite3_bind_text(st, 2, s->meta[id].value, -1, SQLITE_STATIC);
  sqlite3_step(st);
  return sqlite3_reset(st);
}

/* Text where it is text, for those who read the file with plain SQL. */
static bool is_text(const char *s, size_t len)
{
  uint32_t cp;

  while (len > 0) {
    size_t n = ss_utf8_decode(s, len, &cp);
    if (n == 0 || cp == 0)
      return false;
    s += n;
    len -= n;
  }
  return true;
}

static int put_string(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  size_t len;
  const char *text = ss_interned_str(&s->strings, id, &len);

  sqlite3_bind_int64(st, 1, id);
  if (is_text(text, len))
    sqlite3_bind_text(st, 2, text, (int)len, SQLITE_STATIC);
  else
    sqlite3_bind_blob(st, 2, text, (int)len, SQLITE_STATIC);
  sqlite3_step(st);
  return sqlite3_reset(st);
}

static int put_module(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_module_row *r = &s->modules[id];

  sqlite3_bind_blob(st, 3, r->build_id, (int)r->build_id_len, SQLITE_STATIC);
  return PUT(st, id, id_value(r->path));
}

static int put_frame(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_frame_row *r = &s->frames.rows[id];

  return PUT(st, id, r->kind, id_value(r->name), id_value(r->file), r->first_line,
             id_value(r->module), (int64_t)r->offset, r->exact);
}

static int put_stack(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_stack_row *r = &s->trie.rows[id];

  return PUT(st, id, id_value(r->parent), r->frame, r->line);
}

static int put_process(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_process_row *r = &s->processes[id];

  return PUT(st, id, r->pid, r->ppid, id_value(r->label), id_value(r->command),
             id_value(r->python), id_value(r->worker), time_value(s, r->start_ns),
             time_value(s, r->end_ns));
}

static int put_thread(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_thread_row *r = &s->threads[id];

  return PUT(st, id, r->process, r->tid, id_value(r->name), id_value(r->role),
             time_value(s, r->start_ns), time_value(s, r->end_ns), (int64_t)r->cpu_ns);
}

static int put_phase(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_phase_row *r = &s->phases[id];

  return PUT(st, id, r->process, id_value(r->test), id_value(r->phase), r->occurrence,
             time_value(s, r->start_ns), time_value(s, r->end_ns));
}

static int put_time(struct ss_store *s, sqlite3_stmt *st, uint32_t id)
{
  const struct ss_time_row *r = &s->times.rows[id];

  return PUT(st, id, r->thread, id_value(r->phase), r->state, (int64_t)r->ns);
}

static const struct {
  const char *sql;
  int (*put)(struct ss_store *s, sqlite3_stmt *st, uint32_t id);
} tables[SS_T_COUNT] = {
    [SS_T_META] = {"REPLACE INTO meta VALUES(?,?)", put_meta},
    [SS_T_STRING] = {"REPLACE INTO string VALUES(?,?)", put_string},
    [SS_T_MODULE] = {"REPLACE INTO module VALUES(?,?,?)", put_module},
    [SS_T_FRAME] = {"REPLACE INTO frame VALUES(?,?,?,?,?,?,?,?)", put_frame},
    [SS_T_STACK] = {"REPLACE INTO stack VALUES(?,?,?,?)", put_stack},
    [SS_T_PROCESS] = {"REPLACE INTO process VALUES(?,?,?,?,?,?,?,?,?)", put_process},
    [SS_T_THREAD] = {"REPLACE INTO thread VALUES(?,?,?,?,?,?,?,?)", put_thread},
    [SS_T_PHASE] = {"REPLACE INTO phase VALUES(?,?,?,?,?,?,?)", put_phase},
    [SS_T_TIME] = {"REPLACE INTO time VALUES(?,?,?,?,?)", put_time},
};

static size_t row_count(const struct ss_store *s, enum ss_table table)
{
  const size_t counts[SS_T_COUNT] = {
      [SS_T_META] = s->n_meta,
      [SS_T_STRING] = s->strings.count,
      [SS_T_MODULE] = s->n_modules,
      [SS_T_FRAME] = s->frames.index.count,
      [SS_T_STACK] = s->trie.index.count,
      [SS_T_PROCESS] = s->n_processes,
      [SS_T_THREAD] = s->n_threads,
      [SS_T_PHASE] = s->n_phases,
      [SS_T_TIME] = s->times.index.count,
  };

  return counts[table];
}

/* Rows [low, result) may have a flag. */
static size_t pending_end(const struct ss_store *s, enum ss_table table)
{
  size_t rows = row_count(s, table);

  return rows < s->pending[table].cap ? rows : s->pending[table].cap;
}

static int put_table(struct ss_store *s, enum ss_table table)
{
  const struct ss_pending *p = &s->pending[table];
  int rc = SQLITE_OK;

  if (s->put[table] == NULL)
    s->put[table] = ss_db_prepare(&s->db, tables[table].sql);
  if (s->put[table] == NULL)
    return sqlite3_extended_errcode(s->db.sql);
  for (size_t id = p->low; id < pending_end(s, table) && rc == SQLITE_OK; id++)
    if (p->flags[id])
      rc = tables[table].put(s, s->put[table], (uint32_t)id);
  return rc;
}

static void clear_pending(struct ss_store *s, enum ss_table table)
{
  struct ss_pending *p = &s->pending[table];
  size_t end = pending_end(s, table);

  if (end > p->low)
    memset(p->flags + p->low, 0, end - p->low);
  p->low = end;
}

/* ---- transactions ---------------------------------------------------------------- */

static int begin(struct ss_store *s)
{
  int rc;

  if (s->in_transaction)
    return SQLITE_OK;
  rc = ss_fault("db") ? SQLITE_FULL : ss_db_exec(&s->db, "BEGIN IMMEDIATE");
  s->in_transaction = rc == SQLITE_OK;
  return rc;
}

/* Backs off up to a minute: a full disk must not cost the target anything. */
static void failed(struct ss_store *s, int rc)
{
  struct ss_diag diag = {0};

  ss_store_failed(s, ss_db_fail(&s->db, rc, "writing the profile", &diag), &diag);
  ss_db_exec(&s->db, "ROLLBACK");
  s->in_transaction = false;
  ss_merge_forget(s);
  s->unsaved += s->in_flight;
  s->in_flight = 0;
  s->retry_after_ns = s->retry_after_ns == 0 ? 1000000000u : s->retry_after_ns * 2;
  if (s->retry_after_ns > 60000000000u)
    s->retry_after_ns = 60000000000u;
}

static int commit(struct ss_store *s)
{
  int rc = ss_fault("db") ? SQLITE_FULL : ss_db_exec(&s->db, "COMMIT");

  if (rc != SQLITE_OK)
    return rc;
  s->in_transaction = false;
  s->in_flight = 0;
  s->retry_after_ns = 0;
  return rc;
}

/* ---- samples --------------------------------------------------------------------- */

int ss_store_put_sample(struct ss_store *s, sqlite3_int64 rowid,
                        const struct ss_sample_row *r)
{
  if (s->put_sample == NULL)
    s->put_sample = ss_db_prepare(
        &s->db,
        "REPLACE INTO sample(rowid, time_ns, weight_ns, thread, stack, phase, state, "
        "ended, method, merge, samples) VALUES(?,?,?,?,?,?,?,?,?,?,?)");
  if (s->put_sample == NULL)
    return sqlite3_extended_errcode(s->db.sql);
  return PUT(s->put_sample, rowid > 0 ? rowid : NIL, (int64_t)(r->time_ns - s->base_ns),
             (int64_t)r->weight_ns, r->thread, r->stack, id_value(r->phase), r->state,
             r->end, r->method, r->merge, r->samples);
}

/* The buffer into the open transaction. */
static int put_samples(struct ss_store *s)
{
  int rc = SQLITE_OK;

  s->in_flight += s->buffered;
  for (size_t i = 0; i < s->buffered && rc == SQLITE_OK; i++)
    if (s->window.span_ns > 0)
      rc = ss_merge_sample(s, &s->buffer[i]);
    else
      rc = ss_store_put_sample(s, 0, &s->buffer[i]);
  s->buffered = 0;
  return rc == SQLITE_OK ? ss_merge_flush(s) : rc;
}

void ss_store_flush_samples(struct ss_store *s)
{
  int rc = begin(s);

  if (rc == SQLITE_OK)
    rc = put_samples(s);
  if (rc != SQLITE_OK)
    failed(s, rc);
  s->unsaved += s->buffered; /* there must be room for the next one */
  s->buffered = 0;
}

void ss_store_write(struct ss_store *s)
{
  int rc = begin(s);

  if (rc == SQLITE_OK)
    rc = put_samples(s);
  for (int t = 0; t < SS_T_COUNT && rc == SQLITE_OK; t++)
    rc = put_table(s, (enum ss_table)t);
  if (rc == SQLITE_OK)
    rc = commit(s);
  if (rc != SQLITE_OK) {
    failed(s, rc);
    return;
  }
  for (int t = 0; t < SS_T_COUNT; t++)
    clear_pending(s, (enum ss_table)t);
  ss_merge_adapt(s);
}

/* ---- totals ---------------------------------------------------------------------- */

static int put_totals(struct ss_store *s)
{
  sqlite3_stmt *st = ss_db_prepare(&s->db, "INSERT INTO total VALUES(?,?,?,?,?,?,?,?,?)");
  int rc = st != NULL ? SQLITE_OK : sqlite3_extended_errcode(s->db.sql);

  for (size_t i = 0; i < s->totals.index.count && rc == SQLITE_OK; i++) {
    const struct ss_total *t = &s->totals.rows[i];
    rc = PUT(st, t->thread, t->stack, id_value(t->phase), t->state, t->end, t->method,
             t->merge, (int64_t)t->samples, (int64_t)t->weight_ns);
  }
  sqlite3_finalize(st);
  return rc;
}

void ss_store_write_totals(struct ss_store *s)
{
  int rc = begin(s);

  ss_store_meta_u64(s, SS_META_TOTALS, 1);
  if (rc == SQLITE_OK)
    rc = put_totals(s);
  if (rc == SQLITE_OK)
    rc = put_table(s, SS_T_META);
  if (rc == SQLITE_OK)
    rc = commit(s);
  if (rc != SQLITE_OK)
    failed(s, rc);
}

void ss_store_finalize(struct ss_store *s)
{
  for (size_t t = 0; t < SS_T_COUNT; t++) {
    sqlite3_finalize(s->put[t]);
    s->put[t] = NULL;
  }
  sqlite3_finalize(s->put_sample);
  s->put_sample = NULL;
}
