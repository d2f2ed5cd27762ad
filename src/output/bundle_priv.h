/* Shared by the bundle, the facts and the summaries; not for other folders. */
#ifndef SS_BUNDLE_PRIV_H
#define SS_BUNDLE_PRIV_H

#include <sys/types.h>
#include <time.h>

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/output.h"
#include "stacksample/time_limits.h"

/* ---- JSON: cJSON trees whose strings are always valid and safe -------------- */

/* cJSON checks neither UTF-8 nor 0x7f, so every string goes in through
 * ss_escape_json. `key` NULL: appends to an array. */
void ss_json_text(cJSON *to, const char *key, const char *text, size_t len);
void ss_json_str(cJSON *to, const char *key, const char *text);
/* Rounded to `decimals`, so that a reader sees no noise of binary fractions. */
void ss_json_number(cJSON *to, const char *key, double value, int decimals);
void ss_json_count(cJSON *to, const char *key, uint64_t value);
/* Adds the tree `item` (taken over; NULL adds null). */
void ss_json_item(cJSON *to, const char *key, cJSON *item);
/* A meta value that is JSON itself, parsed; NULL where absent or malformed. */
cJSON *ss_json_meta(const struct ss_profile *p, const char *key);
/* Text of the tree into `out` and frees it; one line unless `pretty`. */
void ss_json_print(struct ss_buf *out, cJSON *tree, bool pretty);
/* String value of a member, or NULL. */
const char *ss_json_get(const cJSON *object, const char *key);

/* Stores a JSON tree as a meta value; frees it. */
void ss_meta_json(struct ss_store *store, const char *key, cJSON *tree);

/* ---- the bundle ------------------------------------------------------------------ */

struct ss_absent {
  char *name, *why;
};
/* A file hashed already: the manifest is written twice, and the log may be long. */
struct ss_hashed {
  ino_t ino;
  off_t size;
  struct timespec modified;
  char hex[65];
};

struct ss_bundle {
  struct ss_dir dir;
  int reserve_fd; /* an unlinked file that holds SS_RESERVE_BYTES; -1: none */
  struct ss_absent *absent;
  size_t n_absent, cap_absent;
  struct ss_hashed *hashed;
  size_t n_hashed, cap_hashed;
};
/* A whole small file of ours, complete or absent (and then remembered so). */
enum ss_err ss_bundle_put(struct ss_bundle *b, const char *name,
                          const struct ss_buf *text, struct ss_diag *diag);
/* First failure wins: keeps the diag of the first of several steps. */
enum ss_err ss_first_error(enum ss_err first, enum ss_err next);

#endif
