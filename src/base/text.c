/* Small questions about text that several modules ask. */
#include "stacksample/text.h"

#include <string.h>

const char *ss_base_name(const char *path)
{
  const char *slash = strrchr(path, '/');

  return slash != NULL ? slash + 1 : path;
}

bool ss_starts_with(const char *text, const char *prefix)
{
  return strncmp(text, prefix, strlen(prefix)) == 0;
}
