/*
 * What keeps profile.db from growing for ever: near its limit, samples that
 * differ only in their time become one row per span of time, first a second,
 * then longer. The sums stay exact, only the times get coarser.
 *
 * The rows of the present span are kept here and replaced in the file at each
 * commit. When a transaction fails the span is forgotten: the file keeps what
 * was committed of it, and the rest is counted as unsaved by the caller.
 */
#include "store_priv.h"

#define FIRST_SPAN_NS 1000000000u

void ss_merge_forget(struct ss_store *s)
{
  struct ss_window *w = &s->window;

  ss_totals_release(&w->totals);
  w->totals.index.max = s->limits.totals;
  w->next_rowid = 0;
}

static int find_next_rowid(struct ss_store *s)
{
  sqlite3_int64 last;
  int rc;

  if (s->window.next_rowid > 0)
    return SQLITE_OK;
  last = ss_db_number(&s->db, "SELECT max(rowid) FROM sample", &rc);
  s->window.next_rowid = last + 1;
  return rc;
}

static int put_row(struct ss_store *s, uint32_t i)
{
  const struct ss_total *t = &s->window.totals.rows[i];
  struct ss_merged *m = &s->window.rows[i];
  struct ss_sample_row row = {
      .time_ns = m->time_ns,
      .weight_ns = t->weight_ns,
      .thread = t->thread,
      .stack = t->stack,
      .phase = t->phase,
      .state = t->state,
      .end = t->end,
      .method = t->method,
      .merge = t->merge,
      .samples = t->samples < UINT32_MAX ? (uint32_t)t->samples : UINT32_MAX,
  };

  m->dirty = false;
  return ss_store_put_sample(s, m->rowid, &row);
}

int ss_merge_flush(struct ss_store *s)
{
  int rc = SQLITE_OK;

  for (uint32_t i = 0; i < s->window.totals.index.count && rc == SQLITE_OK; i++)
    if (s->window.rows[i].dirty)
      rc = put_row(s, i);
  return rc;
}

/* A new span: what the last one holds is in its final form. */
static int roll(struct ss_store *s, uint64_t number)
{
  sqlite3_int64 next = s->window.next_rowid;
  int rc = ss_merge_flush(s);

  ss_merge_forget(s);
  s->window.next_rowid = next;
  s->window.number = number;
  return rc;
}

/* false: no room in this span. */
static bool add(struct ss_store *s, const struct ss_sample_row *row)
{
  struct ss_window *w = &s->window;
  struct ss_total total = ss_total_of(row);
  size_t before = w->totals.index.count;

  if (!ss_grow(&w->rows, &w->cap, before + 1, sizeof *w->rows))
    return false;
  uint32_t i = ss_totals_add(&w->totals, &total);
  if (i == SS_ID_NONE)
    return false;
  if (i == before)
    w->rows[i] = (struct ss_merged){.time_ns = row->time_ns, .rowid = w->next_rowid++};
  w->rows[i].dirty = true;
  return true;
}

int ss_merge_sample(struct ss_store *s, const struct ss_sample_row *row)
{
  uint64_t number = (row->time_ns - s->base_ns) / s->window.span_ns;
  int rc = find_next_rowid(s);

  /* Only forwards: a sample that comes late goes into the present span. */
  if (rc == SQLITE_OK && number > s->window.number)
    rc = roll(s, number);
  if (rc != SQLITE_OK || add(s, row))
    return rc;
  rc = roll(s, s->window.number);
  if (rc != SQLITE_OK || add(s, row))
    return rc;
  return SQLITE_NOMEM;
}

/* Merging starts at 7/8 of the limit; each further 1/64 doubles the span, so
 * the limit itself is reached after 256 s have become one row. */
void ss_merge_adapt(struct ss_store *s)
{
  uint64_t limit = s->limits.db_bytes, from = limit - limit / 8;
  uint64_t steps, span;
  int rc;
  sqlite3_int64 bytes = ss_db_number(
      &s->db, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
      &rc);

  if (rc != SQLITE_OK || bytes < 0 || (uint64_t)bytes < from)
    return;
  steps = ((uint64_t)bytes - from) / (limit / 64 + 1);
  span = (uint64_t)FIRST_SPAN_NS << (steps < 16 ? steps : 16);
  if (span <= s->window.span_ns)
    return;
  if (s->window.span_ns == 0)
    ss_store_meta_u64(s, SS_META_MERGED, 1);
  ss_merge_forget(s); /* all of it was committed just now */
  s->window.number = 0;
  s->window.span_ns = span;
}
