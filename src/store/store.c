/*
 * The writer of profile.db: the calls that add to it, and its life.
 *
 * Every table but `sample` is kept in memory whole, marked where the file does
 * not have it yet. Nothing here waits for the disk but a commit; an error is
 * remembered, the first one, and the run goes on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "stacksample/escape.h"
#include "stacksample/sys.h"
#include "store_priv.h"

static const char limit_text[] = "[limit]";

void ss_store_failed(struct ss_store *s, enum ss_err err, const struct ss_diag *diag)
{
  if (s->err != SS_ERR_OK)
    return;
  s->err = err;
  s->diag = *diag;
}

static void out_of_memory(struct ss_store *s)
{
  struct ss_diag diag = {0};

  ss_store_failed(s, ss_fail(&diag, SS_ERR_NOMEM, "the profile: out of memory"), &diag);
}

void ss_store_mark(struct ss_store *s, enum ss_table table, uint32_t id)
{
  struct ss_pending *p = &s->pending[table];
  size_t had = p->cap;

  if (!ss_grow(&p->flags, &p->cap, (size_t)id + 1, 1)) {
    out_of_memory(s);
    return;
  }
  if (p->cap > had)
    memset(p->flags + had, 0, p->cap - had);
  p->flags[id] = 1;
  if (id < p->low)
    p->low = id;
}

/* ---- strings, modules, frames, stacks --------------------------------------------- */

static uint32_t intern(struct ss_store *s, const char *text, size_t len)
{
  size_t before = s->strings.count;
  uint32_t id = ss_intern(&s->strings, text, len);

  if (id == SS_ID_NONE)
    out_of_memory(s);
  else if (id >= before)
    ss_store_mark(s, SS_T_STRING, id);
  return id;
}

uint32_t ss_store_string(struct ss_store *s, const char *text, size_t len)
{
  if (len > SS_DB_TEXT_MAX)
    len = SS_DB_TEXT_MAX;
  if (s->strings.arena.used < s->limits.string_bytes)
    return intern(s, text, len);
  uint32_t id = ss_intern_find(&s->strings, text, len);
  return id != SS_ID_NONE ? id : intern(s, limit_text, sizeof limit_text - 1);
}

uint32_t ss_store_module(struct ss_store *s, const struct ss_module_row *row)
{
  /* There are a few hundred, and each is asked for once a mapping. */
  for (uint32_t id = 0; id < s->n_modules; id++) {
    const struct ss_module_row *m = &s->modules[id];
    if (m->path == row->path && m->build_id_len == row->build_id_len &&
        memcmp(m->build_id, row->build_id, sizeof m->build_id) == 0)
      return id;
  }
  if (!ss_grow(&s->modules, &s->cap_modules, s->n_modules + 1, sizeof *s->modules)) {
    out_of_memory(s);
    return SS_ID_NONE;
  }
  s->modules[s->n_modules] = *row;
  ss_store_mark(s, SS_T_MODULE, (uint32_t)s->n_modules);
  return (uint32_t)s->n_modules++;
}

/* "[limit]" has a place beyond the limit. */
static uint32_t limit_frame(struct ss_store *s)
{
  struct ss_frame_row row = {
      .kind = SS_FRAME_SYNTHETIC, .file = SS_ID_NONE, .module = SS_ID_NONE};

  if (s->limit_frame == SS_ID_NONE) {
    row.name = intern(s, limit_text, sizeof limit_text - 1);
    s->frames.index.max++;
    s->limit_frame = ss_frames_add(&s->frames, &row);
    if (s->limit_frame == SS_ID_NONE)
      out_of_memory(s);
    else
      ss_store_mark(s, SS_T_FRAME, s->limit_frame);
  }
  return s->limit_frame;
}

uint32_t ss_store_frame(struct ss_store *s, const struct ss_frame_row *row)
{
  size_t before = s->frames.index.count;
  uint32_t id = ss_frames_add(&s->frames, row);

  if (id == SS_ID_NONE)
    return limit_frame(s);
  if (id >= before)
    ss_store_mark(s, SS_T_FRAME, id);
  return id;
}

static uint32_t limit_stack(struct ss_store *s)
{
  struct ss_stack_row row = {.parent = SS_ID_NONE, .frame = limit_frame(s)};

  if (s->limit_stack == SS_ID_NONE && row.frame != SS_ID_NONE) {
    s->trie.index.max++;
    s->limit_stack = ss_trie_add(&s->trie, &row);
    if (s->limit_stack == SS_ID_NONE)
      out_of_memory(s);
    else
      ss_store_mark(s, SS_T_STACK, s->limit_stack);
  }
  return s->limit_stack;
}

uint32_t ss_store_stack(struct ss_store *s, uint32_t parent, uint32_t frame, int line)
{
  struct ss_stack_row row = {.parent = parent, .frame = frame, .line = line};
  size_t before = s->trie.index.count;
  uint32_t id;

  if (frame == SS_ID_NONE || (parent != SS_ID_NONE && parent == s->limit_stack))
    return limit_stack(s);
  id = ss_trie_add(&s->trie, &row);
  if (id == SS_ID_NONE)
    return limit_stack(s);
  if (id >= before)
    ss_store_mark(s, SS_T_STACK, id);
  return id;
}

void ss_store_frame_name(struct ss_store *s, uint32_t frame, const char *name, size_t len)
{
  SS_INVARIANT(frame < s->frames.index.count);
  s->frames.rows[frame].name = ss_store_string(s, name, len);
  ss_store_mark(s, SS_T_FRAME, frame);
}

bool ss_store_stack_at(const struct ss_store *s, uint32_t id, struct ss_stack_row *row)
{
  if (id >= s->trie.index.count)
    return false;
  *row = s->trie.rows[id];
  return true;
}

bool ss_store_frame_at(const struct ss_store *s, uint32_t id, struct ss_frame_row *row)
{
  if (id >= s->frames.index.count)
    return false;
  *row = s->frames.rows[id];
  return true;
}

bool ss_store_module_at(const struct ss_store *s, uint32_t id, struct ss_module_row *row)
{
  if (id >= s->n_modules)
    return false;
  *row = s->modules[id];
  return true;
}

const char *ss_store_str(const struct ss_store *s, uint32_t id)
{
  return id < s->strings.count ? ss_interned_str(&s->strings, id, NULL) : "";
}

/* ---- processes, threads, phases -------------------------------------------------- */

/* Appends or replaces; `rows` is the address of the array's pointer. */
static uint32_t set_row(struct ss_store *s, enum ss_table table, void *rows,
                        size_t *count, size_t *cap, uint32_t id, const void *row,
                        size_t size)
{
  unsigned char *array;

  SS_INVARIANT(id <= *count);
  if (id == *count && !ss_grow(rows, cap, *count + 1, size)) {
    out_of_memory(s);
    return SS_ID_NONE;
  }
  memcpy(&array, rows, sizeof array);
  memcpy(array + (size_t)id * size, row, size);
  if (id == *count)
    (*count)++;
  ss_store_mark(s, table, id);
  return id;
}

static uint32_t set_process(struct ss_store *s, uint32_t id,
                            const struct ss_process_row *r)
{
  return set_row(s, SS_T_PROCESS, &s->processes, &s->n_processes, &s->cap_processes, id,
                 r, sizeof *r);
}

uint32_t ss_store_process(struct ss_store *s, const struct ss_process_row *row)
{
  return set_process(s, (uint32_t)s->n_processes, row);
}

void ss_store_process_update(struct ss_store *s, uint32_t id,
                             const struct ss_process_row *row)
{
  if (id < s->n_processes)
    set_process(s, id, row);
}

static uint32_t set_thread(struct ss_store *s, uint32_t id, const struct ss_thread_row *r)
{
  return set_row(s, SS_T_THREAD, &s->threads, &s->n_threads, &s->cap_threads, id, r,
                 sizeof *r);
}

uint32_t ss_store_thread(struct ss_store *s, const struct ss_thread_row *row)
{
  return set_thread(s, (uint32_t)s->n_threads, row);
}

void ss_store_thread_update(struct ss_store *s, uint32_t id,
                            const struct ss_thread_row *row)
{
  if (id < s->n_threads)
    set_thread(s, id, row);
}

static uint32_t set_phase(struct ss_store *s, uint32_t id, const struct ss_phase_row *r)
{
  return set_row(s, SS_T_PHASE, &s->phases, &s->n_phases, &s->cap_phases, id, r,
                 sizeof *r);
}

uint32_t ss_store_phase(struct ss_store *s, const struct ss_phase_row *row)
{
  return set_phase(s, (uint32_t)s->n_phases, row);
}

void ss_store_phase_update(struct ss_store *s, uint32_t id,
                           const struct ss_phase_row *row)
{
  if (id < s->n_phases)
    set_phase(s, id, row);
}

/* ---- samples, time, meta --------------------------------------------------------- */

/* A reader rejects what it has no word for; a sample is never lost for that. */
static void make_readable(const struct ss_store *s, struct ss_sample_row *row)
{
  if (row->phase >= s->n_phases)
    row->phase = SS_ID_NONE;
  if (row->samples == 0)
    row->samples = 1;
  if (row->state >= SS_STATE_COUNT)
    row->state = SS_STATE_UNKNOWN;
  if (row->end >= SS_END_COUNT)
    row->end = SS_END_NO_UNWIND;
  if (row->method >= SS_METHOD_COUNT)
    row->method = SS_METHOD_NONE;
  if (row->merge > SS_MERGE_UNVERIFIED)
    row->merge = SS_MERGE_UNVERIFIED;
}

void ss_store_sample(struct ss_store *s, const struct ss_sample_row *row)
{
  struct ss_sample_row kept = *row;

  if (kept.stack == SS_ID_NONE)
    kept.stack = limit_stack(s);
  if (kept.thread >= s->n_threads || kept.stack >= s->trie.index.count) {
    s->unsaved++; /* memory was short when its thread or stack was added */
    return;
  }
  make_readable(s, &kept);
  struct ss_total total = ss_total_of(&kept);
  if (!s->totals_incomplete && ss_totals_add(&s->totals, &total) == SS_ID_NONE) {
    s->totals_incomplete = true;
    ss_totals_release(&s->totals);
  }
  s->buffer[s->buffered++] = kept;
  if (s->buffered == SS_DB_BUFFER_ROWS)
    ss_store_flush_samples(s);
}

void ss_store_time(struct ss_store *s, uint32_t thread, uint32_t phase,
                   enum ss_state state, uint64_t ns)
{
  struct ss_time_row row = {
      .thread = thread, .phase = phase, .state = (uint8_t)state, .ns = ns};

  if (thread >= s->n_threads || ns == 0)
    return;
  uint32_t id = ss_times_add(&s->times, &row);
  if (id == SS_ID_NONE)
    out_of_memory(s);
  else
    ss_store_mark(s, SS_T_TIME, id);
}

static uint32_t meta_slot(struct ss_store *s, const char *key)
{
  for (uint32_t id = 0; id < s->n_meta; id++)
    if (strcmp(s->meta[id].key, key) == 0)
      return id;
  if (!ss_grow(&s->meta, &s->cap_meta, s->n_meta + 1, sizeof *s->meta))
    return SS_ID_NONE;
  s->meta[s->n_meta] = (struct ss_meta_row){.key = strdup(key)};
  return s->meta[s->n_meta].key != NULL ? (uint32_t)s->n_meta++ : SS_ID_NONE;
}

void ss_store_meta(struct ss_store *s, const char *key, const char *value)
{
  uint32_t id = meta_slot(s, key);
  char *copy = strndup(value, SS_DB_VALUE_MAX);

  if (id == SS_ID_NONE || copy == NULL) {
    free(copy);
    out_of_memory(s);
    return;
  }
  free(s->meta[id].value);
  s->meta[id].value = copy;
  ss_store_mark(s, SS_T_META, id);
}

uint64_t ss_store_meta_number(const struct ss_store *s, const char *key)
{
  for (uint32_t id = 0; id < s->n_meta; id++)
    if (strcmp(s->meta[id].key, key) == 0 && s->meta[id].value)
      return strtoull(s->meta[id].value, NULL, 10);
  return 0;
}

void ss_store_meta_u64(struct ss_store *s, const char *key, uint64_t value)
{
  char text[24];

  snprintf(text, sizeof text, "%" PRIu64, value);
  ss_store_meta(s, key, text);
}

/* ---- commit, errors -------------------------------------------------------------- */

void ss_store_commit(struct ss_store *s, bool now)
{
  uint64_t at = ss_now_ns();

  if (!now && at < s->next_commit_ns)
    return;
  ss_store_write(s);
  s->next_commit_ns = at + SS_DB_COMMIT_MS * UINT64_C(1000000) + s->retry_after_ns;
}

enum ss_err ss_store_error(const struct ss_store *s, struct ss_diag *diag)
{
  if (s->err != SS_ERR_OK && diag != NULL)
    *diag = s->diag;
  return s->err;
}

void ss_store_set_limits(struct ss_store *s, const struct ss_store_limits *limits)
{
  s->limits = *limits;
  s->frames.index.max = limits->frames;
  s->trie.index.max = limits->stacks;
  s->totals.index.max = limits->totals;
}

/* ---- life ------------------------------------------------------------------------ */

static void store_free(struct ss_store *s)
{
  if (s == NULL)
    return;
  ss_store_finalize(s);
  ss_db_close(&s->db);
  ss_interner_release(&s->strings);
  ss_frames_release(&s->frames);
  ss_trie_release(&s->trie);
  ss_totals_release(&s->totals);
  ss_times_release(&s->times);
  ss_totals_release(&s->window.totals);
  free(s->window.rows);
  free(s->modules);
  free(s->processes);
  free(s->threads);
  free(s->phases);
  for (size_t i = 0; i < s->n_meta; i++) {
    free(s->meta[i].key);
    free(s->meta[i].value);
  }
  free(s->meta);
  for (size_t i = 0; i < SS_T_COUNT; i++)
    free(s->pending[i].flags);
  free(s->buffer);
  free(s);
}

static enum ss_err store_new(struct ss_store **store, struct ss_diag *diag)
{
  static const struct ss_store_limits limits = {
      .stacks = SS_STACKS_UNIQUE_MAX,
      .frames = SS_FRAMES_UNIQUE_MAX,
      .totals = SS_TOTALS_MAX,
      .string_bytes = SS_STRING_BYTES_MAX,
      .db_bytes = SS_DB_BYTES_MAX,
  };
  struct ss_store *s = calloc(1, sizeof *s);

  *store = s;
  if (s == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "cannot open the profile");
  s->db.dirfd = -1;
  s->limit_frame = s->limit_stack = SS_ID_NONE;
  ss_store_set_limits(s, &limits);
  s->buffer = malloc(SS_DB_BUFFER_ROWS * sizeof *s->buffer);
  return s->buffer != NULL ? SS_ERR_OK
                           : ss_fail(diag, SS_ERR_NOMEM, "cannot open the profile");
}

enum ss_err ss_store_create(struct ss_store **store, const struct ss_dir *dir,
                            const char *name, struct ss_diag *diag)
{
  struct ss_store *s;
  enum ss_err err = store_new(&s, diag);

  *store = NULL;
  if (err == SS_ERR_OK)
    err = ss_db_open(&s->db, dir, name, SS_DB_CREATE, diag);
  if (err != SS_ERR_OK) {
    store_free(s);
    return err;
  }
  s->base_ns = ss_now_ns();
  ss_store_meta_u64(s, SS_META_BASE_NS, s->base_ns);
  ss_store_commit(s, true);
  *store = s;
  return SS_ERR_OK;
}

/* Takes over the rows of a profile as they are: an id that would come out
 * different means that the file holds rows twice, which no writer makes. */
/* All there are, "[limit]" beyond the limit too: that holds for new ones. */
static enum ss_err take_rows(struct ss_store *s, const struct ss_profile *p)
{
  s->frames.index.max = s->trie.index.max = 0;
  for (uint32_t i = 0; i < p->n_strings; i++)
    if (ss_intern(&s->strings, p->strings[i].s, p->strings[i].len) != i)
      return SS_ERR_FORMAT;
  for (uint32_t i = 0; i < p->n_frames; i++)
    if (ss_frames_add(&s->frames, &p->frames[i]) != i)
      return SS_ERR_FORMAT;
  for (uint32_t i = 0; i < p->n_stacks; i++)
    if (ss_trie_add(&s->trie, &p->stacks[i]) != i)
      return SS_ERR_FORMAT;
  for (uint32_t i = 0; i < p->n_times; i++)
    if (ss_times_add(&s->times, &p->times[i]) != i)
      return SS_ERR_FORMAT;
  ss_store_set_limits(s, &s->limits);
  for (size_t i = 0; i < p->n_totals && !s->totals_incomplete; i++)
    s->totals_incomplete = ss_totals_add(&s->totals, &p->totals[i]) == SS_ID_NONE;
  for (uint32_t i = 0; i < p->n_modules; i++)
    ss_store_module(s, &p->modules[i]);
  for (uint32_t i = 0; i < p->n_processes; i++)
    ss_store_process(s, &p->processes[i]);
  for (uint32_t i = 0; i < p->n_threads; i++)
    ss_store_thread(s, &p->threads[i]);
  for (uint32_t i = 0; i < p->n_phases; i++)
    ss_store_phase(s, &p->phases[i]);
  if (s->n_modules != p->n_modules)
    return SS_ERR_FORMAT;
  return s->err != SS_ERR_OK ? s->err : SS_ERR_OK;
}

static void take_meta(struct ss_store *s, const struct ss_profile *p)
{
  const char *key, *value;

  for (size_t i = 0; ss_profile_meta_at(p, i, &key, &value); i++)
    ss_store_meta(s, key, value);
  s->base_ns = ss_profile_meta_u64(p, SS_META_BASE_NS, 0);
  s->totals_saved = ss_profile_meta_u64(p, SS_META_TOTALS, 0) == 1;
}

enum ss_err ss_store_reopen(struct ss_store **store, const struct ss_dir *dir,
                            const char *name, struct ss_diag *diag)
{
  struct ss_profile *p = NULL;
  struct ss_store *s = NULL;
  enum ss_err err = ss_profile_open(&p, dir, name, diag);

  *store = NULL;
  if (err == SS_ERR_OK && ss_profile_meta(p, SS_META_REJECTED_ROWS) != NULL)
    err = ss_fail(diag, SS_ERR_FORMAT, "%s is damaged: nothing is added to it", name);
  if (err == SS_ERR_OK)
    err = store_new(&s, diag);
  if (err == SS_ERR_OK && (err = take_rows(s, p)) != SS_ERR_OK)
    ss_fail(diag, err, "%s cannot be extended", name);
  if (err == SS_ERR_OK)
    take_meta(s, p);
  ss_profile_close(p);
  if (err == SS_ERR_OK)
    err = ss_db_open(&s->db, dir, name, SS_DB_EXTEND, diag);
  if (err != SS_ERR_OK) {
    store_free(s);
    return err;
  }
  for (size_t i = 0; i < SS_T_COUNT; i++)
    if (s->pending[i].cap > 0)
      memset(s->pending[i].flags, 0, s->pending[i].cap);
  *store = s;
  return SS_ERR_OK;
}

enum ss_err ss_store_close(struct ss_store *s, struct ss_diag *diag)
{
  enum ss_err err;

  if (s == NULL)
    return SS_ERR_OK;
  if (s->unsaved > 0)
    ss_store_meta_u64(s, SS_META_UNSAVED, s->unsaved);
  ss_store_write(s);
  if (!s->totals_saved && !s->totals_incomplete)
    ss_store_write_totals(s);
  ss_store_finalize(s);
  /* Ends the log, synced: one file remains, which a read-only copy of opens. */
  (void)ss_db_exec(&s->db, "PRAGMA synchronous=NORMAL");
  int rc = ss_db_exec(&s->db, "PRAGMA journal_mode=DELETE");
  if (rc != SQLITE_OK) {
    struct ss_diag local = {0};
    ss_store_failed(s, ss_db_fail(&s->db, rc, "closing the profile", &local), &local);
  }
  err = ss_store_error(s, diag);
  store_free(s);
  return err;
}
