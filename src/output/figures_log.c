/*
 * Outcomes and durations that the log had, put onto the tests that were seen.
 * A worker's own outcome goes before one without a worker; of several (reruns)
 * the last counts.
 */
#include <string.h>

#include "stacksample/meta.h"
#include "summary_priv.h"

/* "id<TAB>extra", which no node id of ours can be confused with. */
static void make_key(struct ss_buf *key, const char *id, const char *extra)
{
  ss_buf_clear(key);
  ss_buf_adds(key, id);
  ss_buf_addc(key, '\t');
  ss_buf_adds(key, extra);
}

struct index {
  struct ss_interner names;
  const cJSON **items; /* by name id */
  size_t cap;
  struct ss_buf key;
};

static void index_add(struct index *x, const char *id, const char *extra,
                      const cJSON *item)
{
  make_key(&x->key, id, extra);
  uint32_t name = ss_intern(&x->names, ss_buf_str(&x->key), x->key.len);
  if (name != SS_ID_NONE &&
      ss_grow(&x->items, &x->cap, (size_t)name + 1, sizeof *x->items))
    x->items[name] = item;
}

static const cJSON *index_find(struct index *x, const char *id, const char *extra)
{
  make_key(&x->key, id, extra);
  uint32_t name = ss_intern_find(&x->names, ss_buf_str(&x->key), x->key.len);
  return name == SS_ID_NONE || name >= x->cap ? NULL : x->items[name];
}

static void index_release(struct index *x)
{
  ss_interner_release(&x->names);
  ss_buf_release(&x->key);
  free(x->items);
}

static void index_list(struct index *x, const cJSON *list, const char *extra)
{
  const cJSON *item;

  cJSON_ArrayForEach(item, list)
  {
    const char *id = ss_json_get(item, "id"), *more = ss_json_get(item, extra);
    if (id)
      index_add(x, id, more ? more : "", item);
  }
}

/* Tests that the log names and no phase was seen of; the last outcome counts. */
static void find_unseen(struct ss_figures *f)
{
  struct ss_interner seen = {0}, unseen = {0};
  const cJSON *item;
  size_t cap = 0;

  for (size_t i = 0; i < f->p->n_phases; i++) {
    const char *id = ss_profile_str(f->p, f->p->phases[i].test);
    ss_intern(&seen, id, strlen(id));
  }
  cJSON_ArrayForEach(item, f->outcomes)
  {
    const char *id = ss_json_get(item, "id");
    if (!id || ss_intern_find(&seen, id, strlen(id)) != SS_ID_NONE)
      continue;
    uint32_t at = ss_intern(&unseen, id, strlen(id));
    if (at == SS_ID_NONE || !ss_grow(&f->unseen, &cap, (size_t)at + 1, sizeof *f->unseen))
      break;
    f->unseen[at] = item;
    f->n_unseen = unseen.count;
  }
  ss_interner_release(&seen);
  ss_interner_release(&unseen);
}

void ss_figures_log(struct ss_figures *f)
{
  struct index outcomes = {0}, durations = {0};

  f->outcomes = ss_json_meta(f->p, SS_META_LOG_OUTCOMES);
  f->durations = ss_json_meta(f->p, SS_META_LOG_DURATIONS);
  index_list(&outcomes, f->outcomes, "worker");
  index_list(&durations, f->durations, "phase");
  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_phase_row *row = &f->p->phases[i];
    const char *id = ss_profile_str(f->p, row->test);
    const char *worker = ss_profile_str(f->p, f->p->processes[row->process].worker);
    const cJSON *item = index_find(&outcomes, id, worker);
    if (!item)
      item = index_find(&outcomes, id, "");
    f->tests[i].outcome = ss_json_get(item, "outcome");
    item = index_find(&durations, id, ss_profile_str(f->p, row->phase));
    const cJSON *s = cJSON_GetObjectItemCaseSensitive(item, "s");
    f->tests[i].pytest_s = cJSON_IsNumber(s) ? s->valuedouble : -1;
  }
  find_unseen(f);
  index_release(&outcomes);
  index_release(&durations);
}
