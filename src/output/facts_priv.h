/* The parts of facts: what is read, and which small file each becomes. */
#ifndef SS_FACTS_PRIV_H
#define SS_FACTS_PRIV_H

#include "bundle_priv.h"
#include "stacksample/time_limits.h"

/* Commit (hex digits) and branch ("" when detached) of the folder `cwd`; false:
 * no repository, or its files were not understood. */
bool ss_git_commit(int cwd, struct ss_buf *commit, struct ss_buf *branch);

/* The pipeline stage that we are part of: the outermost wrapper's whole command
 * line with the settings made for it, quoted. true: something was redacted. */
bool ss_stage_quote(struct ss_buf *out, const struct ss_facts_config *config);
void ss_commands_text(struct ss_buf *out, const struct ss_facts_config *config,
                      const struct ss_buf *stage, bool redacted, const char *cwd,
                      int cwd_fd, struct ss_store *store);
void ss_env_text(struct ss_buf *out, const struct ss_facts_config *config);
/* What GNU time -v prints for this command. */
void ss_time_text(struct ss_buf *out, const struct ss_facts_config *config,
                  const struct ss_exit *exit);

void ss_machine_facts(struct ss_store *store);
void ss_guard_facts(const struct ss_facts_config *config, struct ss_store *store);
/* What pytest-timeout says of itself in the log. */
struct ss_log_timeout {
  bool fired;
  double s; /* the limit, where it says so; else 0 */
};
/* Reads the log once and stores the keys SS_META_LOG_*. */
struct ss_log_timeout ss_log_read(int fd, struct ss_store *store); /* NULL: only reads */
struct ss_log_timeout ss_log_facts(const struct ss_dir *dir, const char *name,
                                   struct ss_store *store);

#endif
