/*
 * Reading profile.db into a struct ss_profile.
 *
 * The file may be anybody's. Its schema and pages were checked when it was
 * opened (db.c); here every value is: an id outside its table, a number that
 * makes no sense, a hole in the ids. Such a row is counted, and where others
 * count on its place an empty row takes it, so that whoever uses a profile
 * needs no check: every id in it is valid, stacks have no cycle.
 */
#include <stdio.h>
#include <stdlib.h>

#include "query_priv.h"

/* Deeper than any stack that a writer can make. */
#define DEPTH_MAX (SS_FRAMES_MAX + SS_PY_FRAMES_MAX + 256)
#define TIME_MAX (INT64_MAX / 2)

enum {
  STRINGS,
  MODULES,
  FRAMES,
  STACKS,
  PROCESSES,
  THREADS,
  PHASES,
  TIMES,
  TOTALS,
  TABLES
};

struct loader {
  struct ss_db *db;
  struct ss_profile *p;
  size_t caps[TABLES];
  /* The empty rows that empty rows refer to; SS_ID_NONE: not needed yet. */
  uint32_t spare_frame, spare_process;
  uint32_t *depth; /* of each stack */
  size_t depth_cap;
  bool no_memory;
};

/* ---- values ------------------------------------------------------------------------ */

bool ss_column_id(sqlite3_stmt *st, int column, size_t count, bool may_miss,
                  uint32_t *out)
{
  *out = SS_ID_NONE;
  if (sqlite3_column_type(st, column) == SQLITE_NULL)
    return may_miss;
  sqlite3_int64 v = sqlite3_column_int64(st, column);
  if (sqlite3_column_type(st, column) != SQLITE_INTEGER || v < 0 || (uint64_t)v >= count)
    return false;
  *out = (uint32_t)v;
  return true;
}

bool ss_column_range(sqlite3_stmt *st, int column, int64_t min, int64_t max, int64_t *out)
{
  int64_t v = sqlite3_column_int64(st, column);

  *out = v >= min && v <= max ? v : min;
  return sqlite3_column_type(st, column) == SQLITE_INTEGER && v >= min && v <= max;
}

bool ss_column_time(sqlite3_stmt *st, int column, uint64_t base_ns, uint64_t *out)
{
  int64_t v;

  *out = 0;
  if (sqlite3_column_type(st, column) == SQLITE_NULL)
    return true;
  if (!ss_column_range(st, column, -(int64_t)base_ns, TIME_MAX, &v))
    return false;
  *out = base_ns + (uint64_t)v;
  return true;
}

static bool get_string(const struct loader *l, sqlite3_stmt *st, int column,
                       uint32_t *out)
{
  return ss_column_id(st, column, l->p->n_strings, true, out);
}

static bool get_times(const struct loader *l, sqlite3_stmt *st, int column,
                      uint64_t *start, uint64_t *end)
{
  bool good = ss_column_time(st, column, l->p->priv->base_ns, start);

  good = ss_column_time(st, column + 1, l->p->priv->base_ns, end) && good;
  if (*end != 0 && *end < *start)
    *end = *start;
  return good;
}

bool ss_columns_how(const struct ss_profile *p, sqlite3_stmt *st, int column,
                    struct ss_sample_row *out)
{
  int64_t state, end, method, merge;

  if (!ss_column_id(st, column, p->n_threads, false, &out->thread) ||
      !ss_column_id(st, column + 1, p->n_stacks, false, &out->stack) ||
      !ss_column_id(st, column + 2, p->n_phases, true, &out->phase) ||
      !ss_column_range(st, column + 3, 0, SS_STATE_COUNT - 1, &state) ||
      !ss_column_range(st, column + 4, 0, SS_END_COUNT - 1, &end) ||
      !ss_column_range(st, column + 5, 0, SS_METHOD_COUNT - 1, &method) ||
      !ss_column_range(st, column + 6, 0, SS_MERGE_UNVERIFIED, &merge))
    return false;
  out->state = (uint8_t)state;
  out->end = (uint8_t)end;
  out->method = (uint8_t)method;
  out->merge = (uint8_t)merge;
  return true;
}

/* ---- one row of each table ------------------------------------------------------- */

/* The get_ functions: false, the row is bad. With `st` NULL they make an empty row. */

static uint32_t spare_frame(struct loader *l);
static uint32_t spare_process(struct loader *l);

static bool get_text(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  const void *bytes = st != NULL ? sqlite3_column_blob(st, 1) : NULL;
  size_t len = bytes != NULL ? (size_t)sqlite3_column_bytes(st, 1) : 0;
  const char *copy = ss_arena_strndup(&l->p->priv->arena, bytes, len);

  if (copy == NULL)
    l->no_memory = true;
  l->p->strings[id] =
      (struct ss_string){copy != NULL ? copy : "", copy != NULL ? len : 0};
  return true;
}

static bool get_module(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_module_row row = {.path = SS_ID_NONE};

  if (st != NULL) {
    const void *build_id = sqlite3_column_blob(st, 2);
    size_t len = (size_t)sqlite3_column_bytes(st, 2);
    if (!get_string(l, st, 1, &row.path) || len > sizeof row.build_id)
      return false;
    if (len > 0)
      memcpy(row.build_id, build_id, len);
    row.build_id_len = (uint32_t)len;
  }
  l->p->modules[id] = row;
  return true;
}

static bool get_frame(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_frame_row row = {.kind = SS_FRAME_SYNTHETIC,
                             .name = SS_ID_NONE,
                             .file = SS_ID_NONE,
                             .module = SS_ID_NONE};
  int64_t kind, line, exact;

  if (st != NULL) {
    if (!ss_column_range(st, 1, SS_FRAME_PYTHON, SS_FRAME_SYNTHETIC, &kind) ||
        !get_string(l, st, 2, &row.name) || !get_string(l, st, 3, &row.file) ||
        !ss_column_range(st, 4, INT32_MIN, INT32_MAX, &line) ||
        !ss_column_id(st, 5, l->p->n_modules, true, &row.module) ||
        !ss_column_range(st, 7, 0, 1, &exact))
      return false;
    row.kind = (enum ss_frame_kind)kind;
    row.first_line = (int)line;
    row.offset = (uint64_t)sqlite3_column_int64(st, 6);
    row.exact = exact != 0;
  }
  l->p->frames[id] = row;
  return true;
}

static bool get_stack(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_stack_row row = {.parent = SS_ID_NONE};
  uint32_t depth = 1;
  int64_t line;

  if (!ss_grow(&l->depth, &l->depth_cap, (size_t)id + 1, sizeof *l->depth)) {
    l->no_memory = true;
    return false;
  }
  if (st != NULL) {
    if (!ss_column_id(st, 1, id, true, &row.parent) ||
        !ss_column_id(st, 2, l->p->n_frames, false, &row.frame) ||
        !ss_column_range(st, 3, INT32_MIN, INT32_MAX, &line))
      return false;
    if (row.parent != SS_ID_NONE)
      depth = l->depth[row.parent] + 1;
    if (depth > DEPTH_MAX)
      return false;
    row.line = (int)line;
  } else {
    row.frame = spare_frame(l);
  }
  l->depth[id] = depth;
  l->p->stacks[id] = row;
  return true;
}

static bool get_process(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_process_row row = {.label = SS_ID_NONE,
                               .command = SS_ID_NONE,
                               .python = SS_ID_NONE,
                               .worker = SS_ID_NONE};

  if (st != NULL &&
      (!ss_column_range(st, 1, 0, INT32_MAX, &row.pid) ||
       !ss_column_range(st, 2, 0, INT32_MAX, &row.ppid) ||
       !get_string(l, st, 3, &row.label) || !get_string(l, st, 4, &row.command) ||
       !get_string(l, st, 5, &row.python) || !get_string(l, st, 6, &row.worker) ||
       !get_times(l, st, 7, &row.start_ns, &row.end_ns)))
    return false;
  l->p->processes[id] = row;
  return true;
}

static bool get_thread(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_thread_row row = {.name = SS_ID_NONE, .role = SS_ID_NONE};
  int64_t cpu = 0;

  if (st == NULL)
    row.process = spare_process(l);
  else if (!ss_column_id(st, 1, l->p->n_processes, false, &row.process) ||
           !ss_column_range(st, 2, 0, INT32_MAX, &row.tid) ||
           !get_string(l, st, 3, &row.name) || !get_string(l, st, 4, &row.role) ||
           !get_times(l, st, 5, &row.start_ns, &row.end_ns) ||
           !ss_column_range(st, 7, 0, TIME_MAX, &cpu))
    return false;
  row.cpu_ns = (uint64_t)cpu;
  l->p->threads[id] = row;
  return true;
}

static bool get_phase(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_phase_row row = {.test = SS_ID_NONE, .phase = SS_ID_NONE};
  int64_t occurrence = 0;

  if (st == NULL)
    row.process = spare_process(l);
  else if (!ss_column_id(st, 1, l->p->n_processes, false, &row.process) ||
           !get_string(l, st, 2, &row.test) || !get_string(l, st, 3, &row.phase) ||
           !ss_column_range(st, 4, 0, INT32_MAX, &occurrence) ||
           !get_times(l, st, 5, &row.start_ns, &row.end_ns))
    return false;
  row.occurrence = (uint32_t)occurrence;
  l->p->phases[id] = row;
  return true;
}

static bool get_time(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_time_row *r = &l->p->times[id];
  int64_t state, ns;

  if (!ss_column_id(st, 1, l->p->n_threads, false, &r->thread) ||
      !ss_column_id(st, 2, l->p->n_phases, true, &r->phase) ||
      !ss_column_range(st, 3, 0, SS_STATE_COUNT - 1, &state) ||
      !ss_column_range(st, 4, 0, TIME_MAX, &ns))
    return false;
  r->state = (uint8_t)state;
  r->ns = (uint64_t)ns;
  return true;
}

static bool get_total(struct loader *l, sqlite3_stmt *st, uint32_t id)
{
  struct ss_total *t = &l->p->totals[id];
  struct ss_sample_row row = {0};
  int64_t samples, weight;

  if (!ss_columns_how(l->p, st, 0, &row) ||
      !ss_column_range(st, 7, 1, INT64_MAX, &samples) ||
      !ss_column_range(st, 8, 0, INT64_MAX, &weight))
    return false;
  *t = ss_total_of(&row);
  t->samples = (uint64_t)samples;
  t->weight_ns = (uint64_t)weight;
  return true;
}

/* ---- tables ---------------------------------------------------------------------- */

struct table {
  const char *sql;
  size_t items, count; /* offsets in struct ss_profile */
  size_t size;
  size_t max; /* rows */
  bool by_id; /* column 0 is the row's place; else bad rows are left out */
  bool (*get)(struct loader *l, sqlite3_stmt *st, uint32_t id);
};
#define ROWS(items_, count_)                                                             \
  offsetof(struct ss_profile, items_), offsetof(struct ss_profile, count_),              \
      sizeof *((struct ss_profile *)0)->items_

/* In an order in which each refers only to those before it. */
static const struct table tables[TABLES] = {
    [STRINGS] = {"SELECT * FROM string ORDER BY id", ROWS(strings, n_strings), 1u << 24,
                 true, get_text},
    [MODULES] = {"SELECT * FROM module ORDER BY id", ROWS(modules, n_modules), 1u << 20,
                 true, get_module},
    [FRAMES] = {"SELECT * FROM frame ORDER BY id", ROWS(frames, n_frames),
                SS_FRAMES_UNIQUE_MAX + 1, true, get_frame},
    [STACKS] = {"SELECT * FROM stack ORDER BY id", ROWS(stacks, n_stacks),
                SS_STACKS_UNIQUE_MAX + 1, true, get_stack},
    [PROCESSES] = {"SELECT * FROM process ORDER BY id", ROWS(processes, n_processes),
                   1u << 24, true, get_process},
    [THREADS] = {"SELECT * FROM thread ORDER BY id", ROWS(threads, n_threads), 1u << 24,
                 true, get_thread},
    [PHASES] = {"SELECT * FROM phase ORDER BY id", ROWS(phases, n_phases), 1u << 24, true,
                get_phase},
    [TIMES] = {"SELECT * FROM time ORDER BY id", ROWS(times, n_times), 1u << 26, false,
               get_time},
    [TOTALS] = {"SELECT * FROM total", ROWS(totals, n_totals), 1u << 26, false,
                get_total},
};

static size_t *count_of(const struct loader *l, int table)
{
  return (size_t *)(void *)((char *)l->p + tables[table].count);
}

/* Room for one more row, at the place that the count says. */
static bool room(struct loader *l, int table)
{
  const struct table *t = &tables[table];

  if (!ss_grow((char *)l->p + t->items, &l->caps[table], *count_of(l, table) + 1,
               t->size))
    l->no_memory = true;
  return !l->no_memory;
}

static bool add_empty(struct loader *l, int table)
{
  size_t *count = count_of(l, table);

  if (!room(l, table) || !tables[table].get(l, NULL, (uint32_t)*count))
    return false;
  (*count)++;
  return true;
}

static uint32_t spare(struct loader *l, int table, uint32_t *id)
{
  uint32_t next = (uint32_t)*count_of(l, table);

  if (*id == SS_ID_NONE && add_empty(l, table))
    *id = next;
  return *id;
}

static uint32_t spare_frame(struct loader *l)
{
  return spare(l, FRAMES, &l->spare_frame);
}

static uint32_t spare_process(struct loader *l)
{
  return spare(l, PROCESSES, &l->spare_process);
}

/* false: out of memory. */
static bool load_row(struct loader *l, int table, sqlite3_stmt *st)
{
  const struct table *t = &tables[table];
  size_t *count = count_of(l, table);
  int64_t id = t->by_id ? sqlite3_column_int64(st, 0) : (int64_t)*count;

  if (id < (int64_t)*count || (uint64_t)id >= t->max) {
    l->p->priv->rejected++;
    return true;
  }
  while (*count < (size_t)id) { /* a hole: each row stands at its id */
    l->p->priv->rejected++;
    if (!add_empty(l, table))
      return false;
  }
  if (!room(l, table))
    return false;
  if (t->get(l, st, (uint32_t)id)) {
    (*count)++;
  } else {
    l->p->priv->rejected++;
    if (t->by_id && !add_empty(l, table))
      return false;
  }
  return !l->no_memory;
}

static enum ss_err no_memory(struct ss_diag *diag)
{
  return ss_fail(diag, SS_ERR_NOMEM, "the profile is too large for the memory");
}

static enum ss_err load_table(struct loader *l, int table, struct ss_diag *diag)
{
  sqlite3_stmt *st = ss_db_prepare(l->db, tables[table].sql);
  int rc = st != NULL ? sqlite3_step(st) : sqlite3_extended_errcode(l->db->sql);

  while (rc == SQLITE_ROW && load_row(l, table, st))
    rc = sqlite3_step(st);
  sqlite3_finalize(st);
  if (l->no_memory)
    return no_memory(diag);
  return rc == SQLITE_DONE ? SS_ERR_OK
                           : ss_db_fail(l->db, rc, "reading the profile", diag);
}

/* ---- meta ------------------------------------------------------------------------ */

static bool add_meta(struct ss_profile_private *priv, const char *key, const char *value)
{
  struct ss_meta_row row = {
      .key = ss_arena_strndup(&priv->arena, key, strlen(key)),
      .value = ss_arena_strndup(&priv->arena, value, strlen(value)),
  };

  if (row.key == NULL || row.value == NULL ||
      !ss_grow(&priv->meta, &priv->cap_meta, priv->n_meta + 1, sizeof row))
    return false;
  priv->meta[priv->n_meta++] = row;
  return true;
}

static enum ss_err load_meta(struct ss_profile *p, struct ss_diag *diag)
{
  struct ss_db *db = &p->priv->db;
  bool good = true;
  sqlite3_stmt *st =
      ss_db_prepare(db, "SELECT key, value FROM meta WHERE key <> '" SS_META_REJECTED_ROWS
                        "' ORDER BY key");
  int rc = st != NULL ? sqlite3_step(st) : sqlite3_extended_errcode(db->sql);

  for (; rc == SQLITE_ROW && good; rc = sqlite3_step(st)) {
    const char *key = (const char *)sqlite3_column_text(st, 0);
    const char *value = (const char *)sqlite3_column_text(st, 1);
    if (key != NULL && value != NULL)
      good = add_meta(p->priv, key, value);
    else
      p->priv->rejected++;
  }
  sqlite3_finalize(st);
  if (!good)
    return no_memory(diag);
  p->priv->base_ns = ss_profile_meta_u64(p, SS_META_BASE_NS, 0);
  if (p->priv->base_ns > TIME_MAX)
    p->priv->base_ns = 0;
  return rc == SQLITE_DONE ? SS_ERR_OK : ss_db_fail(db, rc, "reading the profile", diag);
}

/* ---- open, close ----------------------------------------------------------------- */

struct adding {
  struct ss_totals totals;
  bool failed;
};

static bool add_up(void *arg, const struct ss_sample_row *row)
{
  struct adding *a = arg;
  struct ss_total total = ss_total_of(row);

  a->failed = ss_totals_add(&a->totals, &total) == SS_ID_NONE;
  return !a->failed;
}

/* Of a run that did not end: its samples are added up here. */
static enum ss_err make_totals(struct ss_profile *p, struct ss_diag *diag)
{
  struct adding a = {0};
  enum ss_err err = ss_samples_scan(p, SS_ID_NONE, false, add_up, &a, diag);

  p->totals = a.totals.rows;
  p->n_totals = a.totals.index.count;
  a.totals.rows = NULL;
  ss_totals_release(&a.totals);
  return a.failed ? no_memory(diag) : err;
}

static enum ss_err load(struct ss_profile *p, struct ss_diag *diag)
{
  struct loader l = {
      .db = &p->priv->db, .p = p, .spare_frame = SS_ID_NONE, .spare_process = SS_ID_NONE};
  enum ss_err err = load_meta(p, diag);

  for (int t = 0; t < TOTALS && err == SS_ERR_OK; t++)
    err = load_table(&l, t, diag);
  if (err == SS_ERR_OK && ss_profile_meta_u64(p, SS_META_TOTALS, 0) == 1)
    err = load_table(&l, TOTALS, diag);
  else if (err == SS_ERR_OK)
    err = make_totals(p, diag);
  free(l.depth);
  if (err == SS_ERR_OK && p->priv->rejected > 0) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)p->priv->rejected);
    if (!add_meta(p->priv, SS_META_REJECTED_ROWS, text))
      err = no_memory(diag);
  }
  return err;
}

enum ss_err ss_profile_open(struct ss_profile **profile, const struct ss_dir *dir,
                            const char *name, struct ss_diag *diag)
{
  struct ss_profile *p = calloc(1, sizeof *p);
  enum ss_err err;

  *profile = NULL;
  if (p == NULL || (p->priv = calloc(1, sizeof *p->priv)) == NULL) {
    free(p);
    return no_memory(diag);
  }
  p->priv->db.dirfd = -1;
  err = ss_db_open(&p->priv->db, dir, name, SS_DB_READ, diag);
  if (err == SS_ERR_OK)
    err = load(p, diag);
  if (err != SS_ERR_OK)
    ss_profile_close(p);
  else
    *profile = p;
  return err;
}

void ss_profile_close(struct ss_profile *p)
{
  if (p == NULL)
    return;
  ss_db_close(&p->priv->db);
  ss_arena_release(&p->priv->arena);
  free(p->priv->meta);
  free(p->priv->samples);
  free(p->priv->first);
  free(p->priv->end);
  free(p->priv);
  free(p->strings);
  free(p->frames);
  free(p->stacks);
  free(p->processes);
  free(p->threads);
  free(p->phases);
  free(p->modules);
  free(p->totals);
  free(p->times);
  free(p);
}
