/*
 * cJSON with the two things it lacks: strings that are valid UTF-8 and free of
 * raw controls whatever they held, and numbers without binary noise.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bundle_priv.h"
#include "stacksample/escape.h"

#define META_JSON_MAX (16u << 20) /* profile.db is untrusted input */

void ss_json_item(cJSON *to, const char *key, cJSON *item)
{
  if (!item)
    item = cJSON_CreateNull();
  bool added =
      key ? cJSON_AddItemToObject(to, key, item) : cJSON_AddItemToArray(to, item);
  if (!added)
    cJSON_Delete(item);
}

void ss_json_text(cJSON *to, const char *key, const char *text, size_t len)
{
  struct ss_buf raw = {0};

  ss_buf_addc(&raw, '"');
  ss_escape_json(&raw, text, len);
  ss_buf_addc(&raw, '"');
  if (!raw.failed)
    ss_json_item(to, key, cJSON_CreateRaw(raw.data));
  ss_buf_release(&raw);
}

void ss_json_str(cJSON *to, const char *key, const char *text)
{
  ss_json_text(to, key, text, strlen(text));
}

void ss_json_number(cJSON *to, const char *key, double value, int decimals)
{
  double scale = pow(10, decimals);

  if (isfinite(value))
    ss_json_item(to, key, cJSON_CreateNumber(round(value * scale) / scale));
}

void ss_json_count(cJSON *to, const char *key, uint64_t value)
{
  ss_json_item(to, key, cJSON_CreateNumber((double)value));
}

cJSON *ss_json_meta(const struct ss_profile *p, const char *key)
{
  const char *text = ss_profile_meta(p, key);

  if (!text || strlen(text) > META_JSON_MAX)
    return NULL;
  return cJSON_Parse(text);
}

void ss_json_print(struct ss_buf *out, cJSON *tree, bool pretty)
{
  char *text = pretty ? cJSON_Print(tree) : cJSON_PrintUnformatted(tree);

  if (text)
    ss_buf_adds(out, text);
  else
    out->failed = true;
  cJSON_free(text);
  cJSON_Delete(tree);
}

const char *ss_json_get(const cJSON *object, const char *key)
{
  return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
}

void ss_meta_json(struct ss_store *store, const char *key, cJSON *tree)
{
  struct ss_buf text = {0};

  ss_json_print(&text, tree, false);
  if (store && !text.failed)
    ss_store_meta(store, key, ss_buf_str(&text));
  ss_buf_release(&text);
}
