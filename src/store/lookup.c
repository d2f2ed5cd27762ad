/*
 * Looking things up in an open profile: meta keys and texts.
 *
 * A value of the wrong shape is one that is not there: who asks gets what it
 * said it wants otherwise.
 */
#include <math.h>
#include <stdlib.h>

#include "query_priv.h"

bool ss_profile_meta_at(const struct ss_profile *p, size_t i, const char **key,
                        const char **value)
{
  if (i >= p->priv->n_meta)
    return false;
  *key = p->priv->meta[i].key;
  *value = p->priv->meta[i].value;
  return true;
}

const char *ss_profile_meta(const struct ss_profile *p, const char *key)
{
  for (size_t i = 0; i < p->priv->n_meta; i++)
    if (strcmp(p->priv->meta[i].key, key) == 0)
      return p->priv->meta[i].value;
  return NULL;
}

uint64_t ss_profile_meta_u64(const struct ss_profile *p, const char *key,
                             uint64_t otherwise)
{
  const char *text = ss_profile_meta(p, key);
  char *end = NULL;

  if (text == NULL || *text < '0' || *text > '9')
    return otherwise;
  unsigned long long value = strtoull(text, &end, 10);
  return *end == '\0' ? value : otherwise;
}

double ss_profile_meta_f64(const struct ss_profile *p, const char *key, double otherwise)
{
  const char *text = ss_profile_meta(p, key);
  char *end = NULL;
  double value = text != NULL ? strtod(text, &end) : otherwise;

  return text != NULL && end != text && *end == '\0' && isfinite(value) ? value
                                                                        : otherwise;
}

const char *ss_profile_str(const struct ss_profile *p, uint32_t id)
{
  return id < p->n_strings ? p->strings[id].s : "";
}
