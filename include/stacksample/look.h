/*
 * One look at every thread of a process tree: what `dump` prints, what is kept
 * in dumps/ before a deadline, and what verdicts are made from.
 *
 * A blocked thread is read without stopping it; a running one is stopped once,
 * for the time of one copy (blocked.h). Everything of a look is owned by it.
 */
#ifndef STACKSAMPLE_LOOK_H
#define STACKSAMPLE_LOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/buf.h"
#include "stacksample/context.h"
#include "stacksample/error.h"

struct ss_look_frame {
  bool python, task; /* task: of asyncio, a name alone; neither: native */
  char *name;        /* demangled symbol, or the function; NULL: unknown */
  char *file;        /* PYTHON: co_filename */
  int line;          /* PYTHON: current line, 0 unknown */
  int first_line;    /* PYTHON */
  char *module;      /* native: basename, NULL for code without a file */
  uint64_t offset;   /* native: the function's start in the file, or the place */
};

#define SS_LOOK_UNKNOWN UINT64_MAX

struct ss_look_thread {
  pid_t pid, tid;
  char name[128];
  const char *role; /* static */
  enum ss_state state;
  bool uninterruptible;         /* D: in the kernel, cannot be stopped */
  uint64_t for_ns;              /* since it last ran; SS_LOOK_UNKNOWN; 0 running */
  uint64_t cpu_ns;              /* on a CPU since its birth */
  const char *syscall;          /* static; NULL: none, or not known */
  char *object;                 /* what the call waits for; NULL */
  uint64_t futex;               /* address of the word it waits for; 0: none */
  pid_t gil_holder;             /* state gil: who has it; 0 nobody, -1 unknown */
  struct ss_look_frame *frames; /* innermost first */
  size_t n_frames;
  bool complete, has_python, verified;
  const char *why;     /* static: why not complete, or not verified; or NULL */
  uint64_t stopped_ns; /* how long it was stopped for this; 0: was not */
};

struct ss_look_process {
  pid_t pid, ppid;
  char *command;          /* quoted, secrets redacted */
  char python[16];        /* "3.11.2" or "" */
  uint64_t up_ns, cpu_ns; /* cpu: of all its threads, ended ones too */
  unsigned cpus;          /* that it may use; 0 unknown */
  double busy;            /* CPUs in use since the look before; < 0 unknown */
  char *test;             /* node id, NULL */
  char phase[16], worker[32];
  uint64_t test_ns; /* for how long this phase runs; SS_LOOK_UNKNOWN */
  char why[256];    /* why it could not be looked at; "" */
  size_t n_threads;
};

struct ss_look {
  uint64_t at_ns;   /* CLOCK_MONOTONIC at its start */
  uint64_t wall_ns; /* CLOCK_REALTIME */
  uint64_t took_ns;
  struct ss_look_process *processes; /* the root first */
  size_t n_processes;
  struct ss_look_thread *threads; /* by process; each one's leader first */
  size_t n_threads;
  size_t unvisited; /* threads for which there was no time */
  unsigned stops;
  uint64_t stop_total_ns, stop_max_ns;
};

/* Keeps what is worth keeping from look to look: opened files, tables, code
 * objects. One per observed tree; not thread-safe. */
struct ss_looker;
struct ss_looker *ss_looker_new(pid_t root);
void ss_looker_free(struct ss_looker *l);

struct ss_look_options {
  bool no_children, no_python, no_native;
  bool never_stop;         /* running threads get no stack */
  const char *test;        /* the test known to run since phase_start_ns; NULL */
  uint64_t phase_start_ns; /* CLOCK_MONOTONIC */
  uint64_t deadline_ns;    /* CLOCK_MONOTONIC; threads after it are unvisited; 0 */
};
/* GONE: the root has ended. ACCESS: why not, as one line. */
enum ss_err ss_look_take(struct ss_looker *l, const struct ss_look_options *options,
                         struct ss_look **look, struct ss_diag *diag);
void ss_look_free(struct ss_look *look);

/* ---- as text and as JSON ----------------------------------------------------- */

struct ss_look_print {
  bool full;        /* no folding of pytest's own frames */
  const char *cwd;  /* files are shown relative to it; NULL */
  unsigned looks;   /* how many were taken */
  uint64_t over_ns; /* between the first and the last */
};
void ss_look_text(const struct ss_look *look, const struct ss_look_print *print,
                  struct ss_buf *out);
enum ss_err ss_look_json(const struct ss_look *look, const struct ss_look_print *print,
                         struct ss_buf *out, struct ss_diag *diag);

#endif
