/* Small questions about text that several modules ask. */
#include "stacksample/text.h"

#include <string.h>
#include <time.h>

const char *ss_base_name(const char *path)
{
  const char *slash = strrchr(path, '/');

  return slash != NULL ? slash + 1 : path;
}

bool ss_ends_with(const char *text, const char *suffix)
{
  size_t len = strlen(text), tail = strlen(suffix);

  return len >= tail && strcmp(text + len - tail, suffix) == 0;
}

const char *ss_utc(char text[SS_UTC_MAX], uint64_t wall_ns)
{
  time_t s = (time_t)(wall_ns / 1000000000);
  struct tm utc;

  gmtime_r(&s, &utc);
  strftime(text, SS_UTC_MAX, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}
