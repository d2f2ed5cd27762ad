/* Between time_limits.c, pytest_limits.c, pytest_config.c and unwrap.c. */
#ifndef SS_CONTEXT_LIMITS_H
#define SS_CONTEXT_LIMITS_H

#include "stacksample/time_limits.h"

void ss_time_limits_add(struct ss_time_limits *l, enum ss_limit_kind kind, double s,
                        const char *source);
/* `words` are pytest's arguments, `settings` what env(1) sets in the command. */
void ss_pytest_limits_find(struct ss_time_limits *l, char *const *words,
                           const char *const *settings, size_t n_settings,
                           char *const *environment, int cwd_fd);

struct ss_pytest_config {
  char file[64];       /* its name */
  const char *section; /* of it that is pytest's; NULL: there is no file */
  bool toml;
  struct ss_buf text;
};
/* The file that pytest takes when it is started in the folder `cwd_fd` (-1: none).
 * `file` is that of -c, or NULL. `arguments` are its words that are no options, each
 * with its NUL. */
void ss_pytest_config_find(struct ss_pytest_config *config, int cwd_fd, const char *file,
                           const struct ss_buf *arguments);
void ss_pytest_config_release(struct ss_pytest_config *config);

#endif
