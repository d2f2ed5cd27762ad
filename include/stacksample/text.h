/* Small questions about NUL-terminated text, and times as text. */
#ifndef STACKSAMPLE_TEXT_H
#define STACKSAMPLE_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* What follows the last '/' of `path`, all of it where there is none. A part of
 * `path`, never NULL. */
const char *ss_base_name(const char *path);
/* Inline: with a literal it is one comparison, also for each frame of a sample. */
static inline bool ss_starts_with(const char *text, const char *prefix)
{
  return strncmp(text, prefix, strlen(prefix)) == 0;
}
bool ss_ends_with(const char *text, const char *suffix);
/* "2026-11-25T04:21:30Z" of nanoseconds of CLOCK_REALTIME. */
enum { SS_UTC_MAX = 32 };
const char *ss_utc(char text[SS_UTC_MAX], uint64_t wall_ns); /* `text` */

#endif
