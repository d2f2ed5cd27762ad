/* Small questions about NUL-terminated text. */
#ifndef STACKSAMPLE_TEXT_H
#define STACKSAMPLE_TEXT_H

#include <stdbool.h>

/* What follows the last '/' of `path`, all of it where there is none. A part of
 * `path`, never NULL. */
const char *ss_base_name(const char *path);
bool ss_starts_with(const char *text, const char *prefix);

#endif
