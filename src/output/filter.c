/*
 * Which part of a profile is asked for: by test, thread, state and time.
 *
 * A filter is looked up once into sets by id; matching is three array reads.
 * Totals have no time, so a time window counts them anew from the samples.
 */
#include <stdlib.h>
#include <string.h>

#include "output_priv.h"
#include "stacksample/meta.h"

static bool wants(const char *word)
{
  return word != NULL && *word != '\0';
}

static bool thread_matches(const struct ss_profile *p, const struct ss_thread_row *t,
                           const char *word)
{
  char *end;
  long long number = strtoll(word, &end, 10);
  if (end != word && *end == '\0' && number == t->tid)
    return true;
  return strcmp(ss_profile_str(p, t->name), word) == 0 ||
         strcmp(ss_profile_str(p, t->role), word) == 0;
}

static enum ss_err fill_threads(struct ss_filter_set *set, const struct ss_profile *p,
                                const char *word, struct ss_diag *diag)
{
  bool any = false;
  for (size_t i = 0; i < p->n_threads; i++) {
    set->threads[i] = !wants(word) || thread_matches(p, &p->threads[i], word);
    any = any || set->threads[i];
  }
  return any || !wants(word) ? SS_ERR_OK
                             : ss_fail(diag, SS_ERR_GONE,
                                       "no thread has the name, role or number %s", word);
}

static enum ss_err fill_phases(struct ss_filter_set *set, const struct ss_profile *p,
                               const char *word, struct ss_diag *diag)
{
  bool any = false;
  for (size_t i = 0; i < p->n_phases; i++) {
    set->phases[i] =
        !wants(word) || strstr(ss_profile_str(p, p->phases[i].test), word) != NULL;
    any = any || set->phases[i];
  }
  set->no_phase = !wants(word);
  return any || !wants(word)
             ? SS_ERR_OK
             : ss_fail(diag, SS_ERR_GONE, "no test has %s in its id", word);
}

static enum ss_err fill_states(struct ss_filter_set *set, const char *word,
                               struct ss_diag *diag)
{
  enum ss_state only = SS_STATE_COUNT;
  if (wants(word)) {
    only = ss_state_parse(word);
    if (only == SS_STATE_COUNT)
      return ss_fail(diag, SS_ERR_USAGE, "no state is called %s", word);
  }
  for (int i = 0; i < SS_STATE_COUNT; i++)
    set->states[i] = only == SS_STATE_COUNT || only == (enum ss_state)i;
  return SS_ERR_OK;
}

enum ss_err ss_filter_set_init(struct ss_filter_set *set, const struct ss_profile *p,
                               const struct ss_filter *filter, struct ss_diag *diag)
{
  static const struct ss_filter everything;
  const struct ss_filter *f = filter != NULL ? filter : &everything;
  uint64_t start = ss_profile_meta_u64(p, SS_META_START_NS, 0);
  *set = (struct ss_filter_set){
      .threads = calloc(p->n_threads + 1, sizeof(bool)),
      .phases = calloc(p->n_phases + 1, sizeof(bool)),
      .from_ns = f->from_ns > 0 ? start + f->from_ns : 0,
      .to_ns = f->to_ns > 0 ? start + f->to_ns : UINT64_MAX,
  };
  if (set->threads == NULL || set->phases == NULL) {
    ss_filter_set_release(set);
    return ss_fail(diag, SS_ERR_NOMEM, "no memory for a filter");
  }
  set->all = !wants(f->test) && !wants(f->thread) && !wants(f->state) &&
             f->from_ns == 0 && f->to_ns == 0;
  enum ss_err err = fill_threads(set, p, f->thread, diag);
  if (err == SS_ERR_OK)
    err = fill_phases(set, p, f->test, diag);
  if (err == SS_ERR_OK)
    err = fill_states(set, f->state, diag);
  if (err != SS_ERR_OK)
    ss_filter_set_release(set);
  return err;
}

void ss_filter_set_release(struct ss_filter_set *set)
{
  free(set->threads);
  free(set->phases);
  *set = (struct ss_filter_set){0};
}

bool ss_filter_match(const struct ss_filter_set *set, uint32_t thread, uint32_t phase,
                     uint8_t state)
{
  bool in_phase = phase == SS_ID_NONE ? set->no_phase : set->phases[phase];
  return set->all || (set->threads[thread] && in_phase && state < SS_STATE_COUNT &&
                      set->states[state]);
}

/* ---- totals in a time window ------------------------------------------------------ */

struct recount {
  struct ss_profile *p;
  const struct ss_filter_set *set;
  struct ss_idmap first; /* hash of a total -> index + 1 of the first of them */
  uint32_t *next;        /* the next total of the same hash, as index + 1 */
};

static uint64_t total_hash(const struct ss_total *t)
{
  uint32_t words[4] = {t->thread, t->phase, t->stack,
                       (uint32_t)t->state << 24 | (uint32_t)t->end << 16 |
                           (uint32_t)t->method << 8 | t->merge};
  return ss_hash_bytes(words, sizeof words);
}

static bool recount_index(struct recount *r)
{
  for (size_t i = 0; i < r->p->n_totals; i++) {
    uint64_t hash = total_hash(&r->p->totals[i]);
    const uint64_t *known = ss_idmap_get(&r->first, hash);
    r->next[i] = known == NULL ? 0 : (uint32_t)*known;
    if (!ss_idmap_put(&r->first, hash, i + 1))
      return false;
    r->p->totals[i].samples = 0;
    r->p->totals[i].weight_ns = 0;
  }
  return true;
}

static bool same_total(const struct ss_total *a, const struct ss_total *b)
{
  return a->thread == b->thread && a->phase == b->phase && a->stack == b->stack &&
         a->state == b->state && a->end == b->end && a->method == b->method &&
         a->merge == b->merge;
}

static bool recount_sample(void *arg, const struct ss_sample_row *row)
{
  struct recount *r = arg;
  if (row->time_ns < r->set->from_ns || row->time_ns >= r->set->to_ns)
    return true;
  struct ss_total key = {.thread = row->thread,
                         .phase = row->phase,
                         .stack = row->stack,
                         .state = row->state,
                         .end = row->end,
                         .method = row->method,
                         .merge = row->merge};
  const uint64_t *first = ss_idmap_get(&r->first, total_hash(&key));
  for (uint64_t i = first == NULL ? 0 : *first; i != 0; i = r->next[i - 1]) {
    struct ss_total *total = &r->p->totals[i - 1];
    if (same_total(total, &key)) {
      total->samples += row->samples;
      total->weight_ns += row->weight_ns;
      break;
    }
  }
  return true;
}

static enum ss_err recount_window(struct ss_profile *p, const struct ss_filter_set *set,
                                  struct ss_diag *diag)
{
  struct recount r = {
      .p = p, .set = set, .next = calloc(p->n_totals + 1, sizeof *r.next)};
  enum ss_err err = SS_ERR_OK;
  if (r.next == NULL || !recount_index(&r))
    err = ss_fail(diag, SS_ERR_NOMEM, "no memory for a time filter");
  else
    err = ss_profile_samples(p, SS_ID_NONE, recount_sample, &r, diag);
  ss_idmap_release(&r.first);
  free(r.next);
  return err;
}

/* The ledger knows no times of day: in a window it is what the samples weigh. */
static enum ss_err recount_ledger(struct ss_profile *p, struct ss_diag *diag)
{
  struct key {
    uint32_t thread, phase, state;
  };
  struct ss_interner keys = {0};
  uint32_t *rows = calloc(p->n_times + 1, sizeof *rows); /* by key */
  bool ok = rows != NULL;
  for (size_t i = 0; i < p->n_times && ok; i++) {
    struct key key = {p->times[i].thread, p->times[i].phase, p->times[i].state};
    uint32_t id = ss_intern(&keys, &key, sizeof key);
    p->times[i].ns = 0;
    ok = id != SS_ID_NONE;
    if (ok)
      rows[id] = (uint32_t)i;
  }
  for (size_t i = 0; i < p->n_totals && ok; i++) {
    const struct ss_total *t = &p->totals[i];
    struct key key = {t->thread, t->phase, t->state};
    uint32_t id = ss_intern_find(&keys, &key, sizeof key);
    if (id != SS_ID_NONE)
      p->times[rows[id]].ns += t->weight_ns;
  }
  free(rows);
  ss_interner_release(&keys);
  return ok ? SS_ERR_OK : ss_fail(diag, SS_ERR_NOMEM, "no memory for a time filter");
}

enum ss_err ss_profile_filter(struct ss_profile *p, const struct ss_filter *filter,
                              struct ss_diag *diag)
{
  struct ss_filter_set set;
  enum ss_err err = ss_filter_set_init(&set, p, filter, diag);
  if (err != SS_ERR_OK)
    return err;
  if (set.from_ns > 0 || set.to_ns != UINT64_MAX) {
    err = recount_window(p, &set, diag);
    err = err == SS_ERR_OK ? recount_ledger(p, diag) : err;
  }
  for (size_t i = 0; i < p->n_totals; i++) {
    struct ss_total *t = &p->totals[i];
    if (!ss_filter_match(&set, t->thread, t->phase, t->state)) {
      t->samples = 0;
      t->weight_ns = 0;
    }
  }
  for (size_t i = 0; i < p->n_times; i++) {
    struct ss_time_row *t = &p->times[i];
    if (!ss_filter_match(&set, t->thread, t->phase, t->state))
      t->ns = 0;
  }
  ss_filter_set_release(&set);
  return err;
}
