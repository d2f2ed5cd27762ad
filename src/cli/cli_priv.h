/* Private to src/cli. */
#ifndef STACKSAMPLE_CLI_PRIV_H
#define STACKSAMPLE_CLI_PRIV_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "stacksample/cli.h"

/* Says diag's text, or err's where there is none. */
void ss_say_err(enum ss_err err, const struct ss_diag *diag);
/* Is `word` what somebody types who means `known`? */
bool ss_alike(const char *word, const char *known);
/* A positive process id and nothing else. */
bool ss_pid_parse(const char *text, pid_t *pid);
void ss_print_version(FILE *to);

#endif
