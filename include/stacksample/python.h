/*
 * CPython, read from outside: which frames a thread runs, and where they
 * belong between its native frames. Nothing outside src/python knows a
 * CPython version; nothing inside it runs a file of the target.
 *
 * The merge is by address: CPython keeps an object (an anchor) on the C stack
 * in each activation of its evaluation function (3.11, 3.12: _PyCFrame; 3.12
 * on: entry_frame). The native frame whose [sp, cfa) holds an anchor is that
 * activation; the Python frames that end at the anchor replace it. What does
 * not end exactly there is unverified and counted, never shifted.
 */
#ifndef STACKSAMPLE_PYTHON_H
#define STACKSAMPLE_PYTHON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/error.h"
#include "stacksample/proc.h"
#include "stacksample/unwind.h"

/* A code object, read once and kept while the process lives. */
struct ss_py_code {
  uint64_t addr;        /* in the target */
  const char *function; /* co_qualname (3.11 on), else co_name; UTF-8 */
  const char *file;     /* co_filename, UTF-8 */
  int first_line;       /* 0: unknown */
  bool shim;            /* trampoline, __init__ cleanup: never shown */
};

/* One frame of a merged stack, innermost first. An asyncio task stands outside the
 * frames of its coroutines; the frames outside it are of those who wait for it, who do
 * not run, up to the task that they belong to; then comes what called the first. */
enum ss_merged_kind { SS_MERGED_NATIVE, SS_MERGED_PYTHON, SS_MERGED_TASK };
struct ss_merged {
  enum ss_merged_kind kind;
  uint32_t native;               /* NATIVE: index into the native frames */
  const struct ss_py_code *code; /* PYTHON, TASK ("[task: NAME]" as its function, no
                                  * file); valid while the process lives */
  int line;                      /* PYTHON: current line, 0 unknown */
};

/* Why a merge is not verified: the first reason that was met, and its text, which is
 * what users read. */
#define SS_PY_DOUBTS(X)                                                                  \
  X(NONE, NULL)                                                                          \
  X(NO_THREAD, "no thread state for a thread that runs Python")                          \
  X(NO_NATIVE, "no native stack to check against")                                       \
  X(NATIVE_SHORT, "the native stack ended before the Python stack")                      \
  X(BROKEN, "the chain of frames could not be read to its end")                          \
  X(UNPLANNED, "sampled before it was known what to read with it")                       \
  X(MOVED, "Python's frames moved on before they were read")                             \
  X(ENTERING, "an evaluation that is being entered or left")                             \
  X(NO_FRAMES, "an evaluation frame without its Python frames")                          \
  X(NO_EVAL, "a Python frame without its evaluation frame")                              \
  X(TWO, "two activations in one native frame")                                          \
  X(OVERLAP, "two activations with the same frames")                                     \
  X(PLACE, "an anchor is not where this build keeps it")                                 \
  X(DEEP, "more Python frames than are kept")
enum ss_py_doubt {
#define SS_PY_DOUBT_ENUM(name, text) SS_PY_DOUBT_##name,
  SS_PY_DOUBTS(SS_PY_DOUBT_ENUM)
#undef SS_PY_DOUBT_ENUM
      SS_PY_DOUBT_COUNT
};
const char *ss_py_doubt_text(enum ss_py_doubt doubt);
/* Was what was read of Python of more than one moment? */
bool ss_py_doubt_is_torn(enum ss_py_doubt doubt);

struct ss_py_result {
  size_t count;           /* merged frames written */
  unsigned python;        /* Python frames among them */
  unsigned activations;   /* evaluation activations found */
  bool has_python;        /* this thread runs Python at all (a tstate was found) */
  bool verified;          /* every activation ended exactly at its anchor */
  bool cut;               /* it ends at a greenlet's switch: what is outside is not its */
  enum ss_py_doubt doubt; /* NONE where verified */
};

/* Of a process, for its life. */
struct ss_py_counts {
  uint64_t rejected; /* lists and line tables in its memory that made no sense */
};

struct ss_py; /* the interpreter(s) of one process image */

/* Looks for a CPython in the mappings. GONE: there is none (yet): ask again
 * when mappings change; UNSUPPORTED with a text: a version we refuse. The
 * space's maps may change afterwards (same pointer is used again). */
enum ss_err ss_py_open(struct ss_py **py, const struct ss_unwind_space *space,
                       struct ss_diag *diag);
void ss_py_free(struct ss_py *py);
/* Code objects that need not be read at every sample are marked in `seen`, which is
 * borrowed; never called: none are, and plans have no chase. */
void ss_py_vouch_in(struct ss_py *py, struct ss_seen *seen);
const char *ss_py_version(const struct ss_py *py); /* "3.11.2" */
const struct ss_py_counts *ss_py_counts(const struct ss_py *py);

/* What stage 1 must read at a sample of thread `tid`: appended to `plan` (thread
 * state, used part of the data stack; the chain of frames to chase). Refreshed by every
 * merge; ask again when ss_py_plan_generation(py, tid) has changed. false: no
 * thread state known for `tid` (yet). */
bool ss_py_plan(struct ss_py *py, pid_t tid, struct ss_read_plan *plan);
uint64_t ss_py_plan_generation(struct ss_py *py, pid_t tid);
/* The same for a look at a thread that waits: with the GIL of its interpreter, so that
 * its holder is that of the look. Samples do without: each region costs the sampled
 * thread half a microsecond. */
bool ss_py_plan_look(struct ss_py *py, pid_t tid, struct ss_read_plan *plan);

/* ss_unwind_stack for a thread that may run Python: with the registers that the
 * merge needs (to 3.10), and going on at CPython's anchors where the walk dies in
 * code without unwind information (its JIT). To be called in its place. `py` may be NULL;
 * arguments as there and for ss_py_merge. */
enum ss_end ss_py_unwind_stack(struct ss_py *py, pid_t tid, struct ss_unwinder *u,
                               const struct ss_unwind_space *space,
                               const struct ss_mem *stack, const struct ss_mem *mem,
                               const struct ss_regs *regs, struct ss_frame *frames,
                               size_t cap, size_t *count);

/* Of a stack that was unwound without Python's help: does it go through the anchors
 * wherever a caller was guessed in code without a file? false: unwind it anew. */
bool ss_py_stack_fits(struct ss_py *py, pid_t tid, const struct ss_mem *stack,
                      const struct ss_mem *mem, const struct ss_frame *frames,
                      size_t count);

/* Merges. `stack` reads the snapshot (exact at the sample), `mem` what stage 1
 * read with live memory behind it. `native` innermost first. At most `cap`
 * frames into `out`. With `native_count` 0 (--no-native, or no unwinding):
 * Python frames only, unverified. */
void ss_py_merge(struct ss_py *py, pid_t tid, const struct ss_mem *stack,
                 const struct ss_mem *mem, const struct ss_frame *native,
                 size_t native_count, struct ss_merged *out, size_t cap,
                 struct ss_py_result *result);

/* Name given by Python's threading (3.x: _thread._set_name or Thread._name);
 * false where unknown. For tables and dumps, not for every sample. */
bool ss_py_thread_name(struct ss_py *py, pid_t tid, char *buf, size_t cap);

/* Objects of the target as they are now, by reading only; false: there is no such
 * thing, or it cannot be read (attributes from 3.14 on). For a look now and then. */
/* The first argument of the innermost frame of `function` (its qualified name from
 * 3.11 on) in a file whose name ends with `file`. */
bool ss_py_argument(struct ss_py *py, pid_t tid, const char *function, const char *file,
                    uint64_t *object);
bool ss_py_attribute(struct ss_py *py, uint64_t object, const char *name,
                     uint64_t *value);
/* Of a dict with str keys. */
bool ss_py_item(struct ss_py *py, uint64_t object, const char *key, uint64_t *value);
/* Of a list or a tuple. */
bool ss_py_element(struct ss_py *py, uint64_t object, uint64_t index, uint64_t *element);
/* A float, or an int from 0 to 2^60 - 1. */
bool ss_py_number(struct ss_py *py, uint64_t object, double *value);
bool ss_py_is_str(struct ss_py *py, uint64_t object, const char *text);

/* Who holds the GIL of the interpreter of `tid`: native thread id, 0 nobody (also
 * where the GIL is disabled), -1 unknown. Of the moment of `mem`: what a plan with the
 * GIL has read gives the holder then, live memory the holder now. */
pid_t ss_py_gil_holder(struct ss_py *py, pid_t tid, const struct ss_mem *mem);

/* Does a futex word at `addr`, in which thread `tid` waits, belong to the GIL of
 * its interpreter: is `tid` one of its waiters? (CPython keeps no list of them.) */
bool ss_py_is_gil_word(struct ss_py *py, pid_t tid, const struct ss_mem *mem,
                       uint64_t addr);

#endif
