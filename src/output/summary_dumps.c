/*
 * The dumps that were taken, in a summary: where to see who waited for whom.
 * The first ones and the last ones are named; the folder has them all.
 */
#include "stacksample/meta.h"
#include "summary_priv.h"

enum { ENDS_SHOWN = 3 }; /* named of the first, and of the last */

static void put_dump(struct ss_doc *d, const cJSON *dump)
{
  const char *file = ss_json_get(dump, "file"), *why = ss_json_get(dump, "why");
  const cJSON *at = cJSON_GetObjectItemCaseSensitive(dump, "at_s");
  struct ss_buf text = {0};

  if (!file)
    return;
  ss_buf_adds(&text, file);
  if (cJSON_IsNumber(at)) {
    ss_buf_adds(&text, " at ");
    ss_put_duration(&text, at->valuedouble);
  }
  if (why)
    ss_buf_addf(&text, ": %s", why);
  ss_doc_item(d, &text);
  ss_buf_release(&text);
}

void ss_dumps_section(struct ss_doc *d, const struct ss_figures *f)
{
  cJSON *dumps = ss_json_meta(f->p, SS_META_DUMPS);
  int count = cJSON_GetArraySize(dumps);
  struct ss_buf text = {0};

  if (count > 0)
    ss_doc_heading(d, "Dumps: every thread with its stack, and what it waits for");
  for (int i = 0; i < count; i++) {
    if (i < ENDS_SHOWN || i >= count - ENDS_SHOWN) {
      put_dump(d, cJSON_GetArrayItem(dumps, i));
    } else if (i == ENDS_SHOWN) {
      ss_buf_addf(&text, "and %d between them", count - 2 * ENDS_SHOWN);
      ss_doc_item(d, &text);
    }
  }
  ss_buf_release(&text);
  cJSON_Delete(dumps);
}
