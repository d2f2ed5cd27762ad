/* Between time_limits.c, pytest_limits.c and unwrap.c. */
#ifndef SS_CONTEXT_LIMITS_H
#define SS_CONTEXT_LIMITS_H

#include "stacksample/time_limits.h"

void ss_time_limits_add(struct ss_time_limits *l, enum ss_limit_kind kind, double s,
                        const char *source);
/* `words` are pytest's arguments, `settings` what env(1) sets in the command. */
void ss_pytest_limits_find(struct ss_time_limits *l, char *const *words,
                           const char *const *settings, size_t n_settings,
                           char *const *environment, int cwd_fd);

#endif
