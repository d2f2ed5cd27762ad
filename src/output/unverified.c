/*
 * Why merges of Python and native frames are not verified, as shares of all merges,
 * largest first: for the summaries.
 */
#include <stdlib.h>

#include "stacksample/meta.h"
#include "summary_priv.h"

enum { REASONS_MAX = 32 };

struct reason {
  const char *why; /* in the tree */
  double count;
};

static int by_count(const void *a, const void *b)
{
  const struct reason *x = a, *y = b;
  return x->count < y->count ? 1 : x->count > y->count ? -1 : 0;
}

/* The file may be anybody's: what has no name or count is left out. */
static size_t reasons(const cJSON *tree, struct reason *out)
{
  size_t n = 0;
  for (const cJSON *item = tree ? tree->child : NULL; item && n < REASONS_MAX;
       item = item->next) {
    const cJSON *count = cJSON_GetObjectItemCaseSensitive(item, "count");
    const char *why = ss_json_get(item, "why");
    if (why && cJSON_IsNumber(count) && count->valuedouble > 0)
      out[n++] = (struct reason){why, count->valuedouble};
  }
  qsort(out, n, sizeof *out, by_count);
  return n;
}

void ss_put_unverified(struct ss_buf *out, const struct ss_figures *f)
{
  struct reason list[REASONS_MAX] = {0};
  cJSON *tree = f->merges ? ss_json_meta(f->p, SS_META_UNVERIFIED) : NULL;
  const size_t n = reasons(tree, list);
  for (size_t i = 0; i < n; i++) {
    ss_buf_addf(out, "%s%s: ", i == 0 ? " (else " : "; ", list[i].why);
    ss_put_significant(out, 100 * list[i].count / (double)f->merges);
    ss_buf_adds(out, " %");
  }
  if (n > 0)
    ss_buf_addc(out, ')');
  cJSON_Delete(tree);
}

cJSON *ss_json_unverified(const struct ss_figures *f)
{
  struct reason list[REASONS_MAX] = {0};
  cJSON *tree = f->merges ? ss_json_meta(f->p, SS_META_UNVERIFIED) : NULL;
  cJSON *array = cJSON_CreateArray();
  const size_t n = reasons(tree, list);
  for (size_t i = 0; i < n; i++) {
    cJSON *item = cJSON_CreateObject();
    ss_json_str(item, "why", list[i].why);
    ss_json_number(item, "share_pct", 100 * list[i].count / (double)f->merges, 3);
    cJSON_AddItemToArray(array, item);
  }
  cJSON_Delete(tree);
  return array;
}
