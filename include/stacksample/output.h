/*
 * Everything that becomes a file of the bundle, and the bundle itself.
 *
 * A writer turns a profile (profile.db, nothing else) into one file through a
 * struct ss_outfile. Nothing here samples, and nothing below knows a format.
 */
#ifndef STACKSAMPLE_OUTPUT_H
#define STACKSAMPLE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "stacksample/error.h"
#include "stacksample/fsafe.h"
#include "stacksample/launch.h"
#include "stacksample/store.h"

/* ---- writers ------------------------------------------------------------------- */

struct ss_filter {         /* NULL or 0: everything */
  const char *test;        /* substring of the node id */
  const char *thread;      /* name, role, or number of a thread */
  const char *state;       /* a state's word */
  uint64_t from_ns, to_ns; /* since the run's start; to 0: end */
};
struct ss_write_options {
  struct ss_filter filter;
  bool count_samples;     /* folded: samples instead of microseconds */
  bool trace_slices_only; /* trace: no V8 sample events */
  uint64_t trace_bytes;   /* 0: SS_TRACE_BYTES_MAX */
};
typedef enum ss_err ss_write_fn(struct ss_profile *p,
                                const struct ss_write_options *options,
                                struct ss_outfile *out, struct ss_diag *diag);
struct ss_writer {
  const char *format; /* "folded", "trace", ...; several files may share one */
  const char *file;   /* name in the bundle */
  bool always;        /* at the end of a run, also where --format does not name it */
  ss_write_fn *write;
};
extern const struct ss_writer
    ss_writers[]; /* in finishing order; ends with NULL format */

/* Their functions; writer.c has the table. */
ss_write_fn ss_write_summary_md, ss_write_summary_json, ss_write_tests_tsv;
ss_write_fn ss_write_folded, ss_write_folded_tests, ss_write_folded_wait;
ss_write_fn ss_write_flamegraph, ss_write_trace, ss_write_speedscope, ss_write_pprof;

/* Does `list` ("folded,trace", "all", "none"; NULL: the default) name `w`? */
bool ss_writer_named(const struct ss_writer *w, const char *list);
/* SS_ERR_USAGE, naming the word, where `list` has one that no writer has. */
enum ss_err ss_writer_check_list(const char *list, struct ss_diag *diag);

/* Applies a filter to totals and times, once, before any writer: those with
 * weight_ns (ns) 0 are to be skipped. Writers that read samples apply
 * options.filter to them on their own. */
enum ss_err ss_profile_filter(struct ss_profile *p, const struct ss_filter *filter,
                              struct ss_diag *diag);

/* The text of a frame as every output shows it: "function
 * (file.py:12)", "symbol (library)", "library+0x1234", "[kernel: ...]". */
void ss_frame_text(const struct ss_profile *p, uint32_t frame, struct ss_buf *out);
/* The file as shown: what follows site-packages/ ..., else relative to cwd. */
const char *ss_file_shown(const char *file, const char *cwd);
/* A demangled C++ name without return type and parameter list. */
void ss_symbol_shown(const char *demangled, struct ss_buf *out);

/* Resolves names of native frames that have none yet into `store`. `modules`
 * (may be NULL) has the files still open; else they are opened by path and
 * taken only where the build-id agrees. */
struct ss_modules;
enum ss_err ss_names_resolve(struct ss_store *store, struct ss_modules *modules,
                             struct ss_diag *diag);

/* The largest cause of a slow run as a line, and what to try (or ""); false: none is
 * clear. */
bool ss_main_cause(struct ss_profile *p, struct ss_buf *cause, struct ss_buf *attempt);
/* Tables on stdout: `report` without --format. */
void ss_tables_print(struct ss_profile *p, const struct ss_filter *filter, FILE *to);

/* ---- the bundle ------------------------------------------------------------------ */

struct ss_bundle; /* one folder under way; a reserve for a full disk */

/* Makes DIR/<stamp>/ (stamp NULL: now, UTC, with -2, -3 where it exists). USAGE:
 * a stamp of other characters than ASCII letters, digits, '.', '_', '-'. EXISTS:
 * a given stamp is there already. On an error nothing was made but folders of
 * `parent`. The reserve is made here, and fails silently where the disk is full. */
enum ss_err ss_bundle_create(struct ss_bundle **bundle, const char *parent,
                             const char *stamp, struct ss_diag *diag);
enum ss_err ss_bundle_open(struct ss_bundle **bundle, const char *path,
                           struct ss_diag *diag); /* `report` */
const struct ss_dir *ss_bundle_dir(const struct ss_bundle *b);
const char *ss_bundle_path(const struct ss_bundle *b);
/* Gives the reserved MiB back to the disk (before profile.db is closed), but for
 * a part that small files and the summaries take when they find it full. */
void ss_bundle_release_reserve(struct ss_bundle *b);
/* Writes one file by a writer; failures are remembered as absent. */
enum ss_err ss_bundle_write(struct ss_bundle *b, const struct ss_writer *w,
                            struct ss_profile *p, const struct ss_write_options *options,
                            struct ss_diag *diag);
void ss_bundle_absent(struct ss_bundle *b, const char *name, const char *why);
/* manifest.json over all files present: sizes and SHA-256. `p` NULL: what the
 * profile would say is left out. May be called again; replaces the file. */
enum ss_err ss_bundle_manifest(struct ss_bundle *b, struct ss_profile *p,
                               struct ss_diag *diag);
/* Removes a folder that holds nothing worth keeping, and frees. */
void ss_bundle_discard(struct ss_bundle *b);
void ss_bundle_free(struct ss_bundle *b); /* also gives the reserve back */

/* ---- facts: small files about the run, written from what the kernel says -------- */

enum ss_env_mode { SS_ENV_FULL, SS_ENV_REDACTED, SS_ENV_NONE };
struct ss_facts_config {
  const char *mode;         /* "run" or "attach" */
  char *const *argv;        /* ours, whole */
  char *const *command;     /* the user's; in attach the target's */
  char *const *environment; /* the same */
  pid_t target;             /* in attach: its folder and limits count; else 0 */
  enum ss_env_mode env;
  const char *options; /* ours, as text */
  uint64_t timeout_ns; /* our own --timeout; 0: none */
  const char *log;     /* name of the log in the bundle; NULL: none is kept */
};
/* "pytest.log", or "command.log" where the command is not pytest. Static. */
const char *ss_log_name(char *const *command);
/* commands.txt, env.txt: at the start. Also stores what meta.h lists under "the
 * run" and "machine". `limits` receives the limits found. The first failure
 * is returned, the rest is done all the same. */
struct ss_time_limits;
enum ss_err ss_facts_start(struct ss_bundle *b, const struct ss_facts_config *config,
                           struct ss_store *store, struct ss_time_limits *limits,
                           struct ss_diag *diag);
struct ss_ending {
  const struct ss_exit *exit;
  int status;      /* what `run` will return */
  bool timed_out;  /* by our own --timeout */
  int signal_seen; /* TERM, INT or HUP that reached us; 0: none */
  const struct ss_time_limits *limits;
  uint64_t test_limit_ns; /* of the test that ran last; 0: none, or no test */
};
/* exit_code.txt and time.txt (GNU time -v), then what the log says of outcomes
 * and failures, and the meta of all three. */
enum ss_err ss_facts_end(struct ss_bundle *b, const struct ss_facts_config *config,
                         const struct ss_ending *ending, struct ss_store *store,
                         struct ss_diag *diag);
/* The interpreter of a *running* process as it was called (a venv's link, not
 * what it points to). false: not Python (or not yet: ask again later), or it
 * may not be run by us, and then `why` says so. */
bool ss_facts_interpreter(pid_t pid, struct ss_buf *python, struct ss_buf *why);
/* torch_env.txt: runs collect_env by `python` (NULL: only writes `why_not`). */
enum ss_err ss_facts_torch_env(struct ss_bundle *b, const char *python,
                               const char *why_not, struct ss_diag *diag);

/* ---- numbers as a person reads them -------------------------------------------- */

void ss_put_duration(struct ss_buf *out, double s); /* "14:04.9", "4.32 s" */
void ss_put_count(struct ss_buf *out, uint64_t n);  /* "169 k", "1.09 M" */
/* The limit that ended the run, else the earliest known; false: there is none. */
bool ss_limit_of(const struct ss_profile *p, double *s, struct ss_buf *source);

/* ---- secrets ------------------------------------------------------------------- */

#define SS_REDACTED "<redacted>"
/* Would this KEY=value or argument give a secret away? By name and by shape. */
bool ss_secret_name(const char *name, size_t len);
bool ss_secret_value(const char *value, size_t len);
/* Copies `text` with what looks secret replaced; true: something was. */
bool ss_redact(struct ss_buf *out, const char *text, size_t len);
/* The value of an environment variable, by its name and its shape. */
bool ss_redact_setting(struct ss_buf *out, const char *name, size_t name_len,
                       const char *value, size_t len);
/* argv as a list of words, secrets redacted; calls `each` for every word. */
bool ss_redact_argv(char *const *argv,
                    void (*each)(void *arg, const char *word, size_t len), void *arg);
/* argv quoted for a shell, secrets redacted unless `full`; true: some were. */
bool ss_command_quote(struct ss_buf *out, char *const *argv, bool full);

#endif
