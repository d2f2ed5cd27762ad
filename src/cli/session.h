/*
 * What run and attach share: a bundle under way, the engine behind it, and the
 * order in which everything is finished.
 */
#ifndef STACKSAMPLE_SESSION_H
#define STACKSAMPLE_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/cli.h"
#include "stacksample/engine.h"
#include "stacksample/output.h"

enum ss_engine_choice { SS_ENGINE_AUTO, SS_ENGINE_PERF, SS_ENGINE_PTRACE };

/* The options that run and attach have in common. */
struct ss_session_options {
  const char *output; /* parent folder */
  const char *stamp;
  uint64_t rate_hz, audit_every;
  int engine; /* enum ss_engine_choice */
  int env;    /* enum ss_env_mode */
  bool cpu_only, stop_any, no_python, no_native, no_children, quiet, no_progress;
  bool trace_slices_only;
  const char *format;
  char *const *argv; /* ours, whole */
};
void ss_session_defaults(struct ss_session_options *o);
/* Their rows of an option table; `o` points to the struct. */
#define SS_SESSION_OPTION_ROWS(o)                                                        \
  SS_VALUE(STRING, "output", 'o', &(o)->output, "DIR",                                   \
           "parent folder of the bundle (stacksample-out)"),                             \
      SS_VALUE(STRING, "stamp", 0, &(o)->stamp, "NAME",                                  \
               "the bundle's name (UTC YYYYMMDDTHHMMSSZ)"),                              \
      SS_NUMBER("rate", 'r', &(o)->rate_hz, "HZ",                                        \
                "samples a second of each thread's CPU time (100)", 1, SS_RATE_MAX_HZ),  \
      SS_CHOICE("engine", 0, &(o)->engine, "NAME", "auto, perf or ptrace (auto)",        \
                ss_engine_names),                                                        \
      SS_FLAG("cpu-only", 0, &(o)->cpu_only, "no stacks of waiting threads"),            \
      SS_FLAG("stop-any", 0, &(o)->stop_any,                                             \
              "stop threads whose call may then end with EINTR, too"),                   \
      SS_FLAG("no-python", 0, &(o)->no_python, "leave Python frames out"),               \
      SS_FLAG("no-native", 0, &(o)->no_native, "leave native frames out"),               \
      SS_FLAG("no-children", 0, &(o)->no_children, "sample only the first process"),     \
      SS_NUMBER("audit", 0, &(o)->audit_every, "N",                                      \
                "unwind one stack in N a second way, and compare (1000)", 1,             \
                SS_AUDIT_EVERY_MAX),                                                     \
      SS_VALUE(STRING, "format", 0, &(o)->format, "LIST",                                \
               "folded,trace,flamegraph (default); also speedscope, pprof, all, none"),  \
      SS_FLAG("trace-slices-only", 0, &(o)->trace_slices_only,                           \
              "leave the raw samples out of profiler.json"),                             \
      SS_CHOICE("env", 0, &(o)->env, "MODE",                                             \
                "what env.txt holds: full, redacted or none (redacted)", ss_env_names),  \
      SS_FLAG("quiet", 'q', &(o)->quiet, "no messages but errors"),                      \
      SS_FLAG("no-progress", 0, &(o)->no_progress, "no status line")
extern const char *const ss_engine_names[]; /* in the order of ss_engine_choice */
extern const char *const ss_env_names[];    /* in the order of ss_env_mode */
/* Is every word of --format a known one? Says the line and returns false. */
bool ss_formats_check(const char *format, const char *command);

struct ss_session {
  const struct ss_session_options *options;
  struct ss_bundle *bundle;
  struct ss_store *store;
  struct ss_notes *notes;
  struct ss_perf *perf;
  struct ss_capture *capture;
  struct ss_pipeline *pipeline;
  char reason[256];       /* why this engine, or none; "" */
  struct ss_diag blocked; /* why nothing is sampled; OK where something is */
  uint64_t own_cpu_ns;    /* when the session began */
  uint64_t helper_cpu_ns; /* of our other processes (the witness) */
  uint64_t start_ns;      /* of the command; CLOCK_MONOTONIC */
};

/* The folder and profile.db. On error nothing is left behind. */
enum ss_err ss_session_open(struct ss_session *s, const struct ss_session_options *o,
                            struct ss_diag *diag);
/* Starts the engine on the child that waits for its exec: perf or, where that is
 * refused, ptrace. That both are is no error: it is kept in s->blocked, and the
 * command runs all the same. */
void ss_session_start(struct ss_session *s, pid_t pid);
/* The same for a live tree: every thread of `root` and its descendants. */
void ss_session_attach(struct ss_session *s, pid_t root);
/* The first line on stderr: engine, rate, what limits the evidence, where. */
void ss_session_announce(const struct ss_session *s);
/* The command's start, on both clocks. */
void ss_session_clock(struct ss_session *s, uint64_t start_ns);
void ss_session_stop(struct ss_session *s, uint64_t end_ns);
/* Asked between two outputs: true leaves out those that are not always written.
 * A second interrupt shortens our finishing, never the command's. */
struct ss_hurry {
  bool (*asked)(void *arg);
  void *arg;
};

/* Names, figures, every output of --format, the manifest. */
enum ss_err ss_session_write(struct ss_session *s, const struct ss_hurry *hurry,
                             struct ss_diag *diag);
/* The manifest again, after something was added to the bundle. */
enum ss_err ss_session_manifest(struct ss_session *s, struct ss_diag *diag);
/* Takes the bundle away again: nothing was sampled. */
void ss_session_discard(struct ss_session *s);
void ss_session_free(struct ss_session *s);
/* Something of ours failed after the start: said at once, and kept for the summary. */
void ss_session_lacks(const struct ss_session *s, const char *what,
                      const struct ss_diag *diag);

enum ss_outputs { SS_OUTPUTS_OF_RUN, SS_OUTPUTS_NAMED };
/* Writes the outputs named by `format` (NULL: the default ones), and those that every
 * run leaves where they are of one, from the profile.db of a bundle, as far as the
 * options' filter lets it through. An error: none was written. */
enum ss_err ss_outputs_write(struct ss_bundle *bundle, enum ss_outputs which,
                             const char *format, const struct ss_write_options *options,
                             const struct ss_hurry *hurry, unsigned *failed,
                             struct ss_diag *diag);

/* terminal.c: the status line (only where `ss_progress_wanted`), closing lines. */
bool ss_progress_wanted(bool off);
void ss_progress_show(struct ss_launch *launch, struct ss_pipeline *pipeline);
void ss_progress_clear(struct ss_launch *launch);
void ss_closing_lines(const struct ss_bundle *bundle, const struct ss_exit *end,
                      int status);

#endif
