/*
 * What frames and threads mean: the running pytest test, roles of threads,
 * torch's operators. Rules are data tables.
 */
#ifndef STACKSAMPLE_CONTEXT_H
#define STACKSAMPLE_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/error.h"
#include "stacksample/proc.h"
#include "stacksample/unwind.h"

/* ---- the running test, from the target's live environ -------------------- */

/* The value of PYTEST_CURRENT_TEST split up; no ownership. */
struct ss_test_id {
  const char *id; /* node id, not NUL-terminated */
  size_t id_len;
  const char *phase; /* "setup", "call", "teardown", or "" (kept raw) */
  size_t phase_len;
};
void ss_test_parse(const char *value, size_t len, struct ss_test_id *out);

/* The environment slot of one process. Stage 1 reads the regions that
 * ss_testenv_plan names; ss_testenv_update interprets them, looking the slot
 * up anew in live memory where they moved. Where nothing moved, an update
 * reads those regions and no more; this is so too while the variable is not set
 * (setenv appends behind the last slot). Calls must be in order of time. */
struct ss_testenv {
  uint64_t environ_var;     /* address of `environ`; 0: not located */
  uint64_t maps_generation; /* when it was last looked for */
  bool looked;              /* it was looked for at that generation */
  uint64_t array;           /* value of environ at the last look; 0: look anew */
  uint64_t slot_addr;       /* of the slot; 0: the variable is not set */
  uint64_t string;          /* slot's value */
  uint64_t last;            /* not set: the pointer in the last slot ... */
  uint32_t count;           /* ... and the number of slots before the NULL */
  uint64_t scan_after_ns;   /* a hostile array: no whole look before that */
  char *value;              /* owned: last verified value, after '='; NULL none */
  size_t value_len;
  char worker[32];     /* PYTEST_XDIST_WORKER, "" */
  bool pytest;         /* a PYTEST_ variable was ever seen */
  uint64_t generation; /* grows when the plan must be taken anew */
};
void ss_testenv_release(struct ss_testenv *env);
void ss_testenv_reset(struct ss_testenv *env); /* exec */
/* Appends this process' regions to `plan`; false: nothing to read yet. */
bool ss_testenv_plan(const struct ss_testenv *env, struct ss_read_plan *plan);
/* Takes a look through `mem` (spans of stage 1 with live memory behind, or
 * live alone). true: the value changed (also to or from "not set"). */
bool ss_testenv_update(struct ss_testenv *env, const struct ss_unwind_space *space,
                       const struct ss_mem *mem);

struct ss_py;
/* Seconds that pytest-timeout gives the test which thread `tid` runs because a marker
 * says so; 0: none. false: no marker was seen, or the clock does not run (yet). Reads
 * the live target some hundred times: not for every sample. */
bool ss_pytest_marker_limit(struct ss_py *py, pid_t tid, double *seconds);

/* ---- threads -------------------------------------------------------------- */

/* Role from the outermost native names and the thread's name: "main",
 * "python", "openmp", "blas", "autograd", "dataloader", "native". Static. */
const char *ss_role_of(const char *const *outer_names, size_t count,
                       const char *thread_name, bool is_leader, bool has_python);

/* ---- kernel --------------------------------------------------------------- */

/* "[kernel: munmap]", "[kernel: page fault]": what a thread entered the kernel for,
 * where `symbol` is an entry function of the kernel; false: it says nothing. */
bool ss_kernel_class(const char *symbol, char *buf, size_t cap);

/* ---- spinning --------------------------------------------------------------- */

/* Is this function one that waits without leaving the CPU? `library` is the file's
 * name, `symbol` as its symbol table has it. */
bool ss_spin_function(const char *library, const char *symbol);
/* Is there any such function in this library? */
bool ss_spin_library(const char *library);

/* ---- torch ----------------------------------------------------------------- */

/* The operator that a demangled native name is: "aten::mm" of
 * "at::_ops::mm::call", "MmBackward0" of the autograd node's apply. false:
 * none. `overloads` may be NULL (else splits "add_Tensor"). */
struct ss_overloads;
struct ss_overloads *ss_overloads_load(const char *native_functions_yaml);
void ss_overloads_free(struct ss_overloads *o);
bool ss_torch_operator(const char *demangled, const struct ss_overloads *overloads,
                       char *buf, size_t cap);

/* ---- states ---------------------------------------------------------------- */

#define SS_STATES(X)                                                                     \
  X(USER, "user")                                                                        \
  X(KERNEL, "kernel")                                                                    \
  X(SPIN, "spin")                                                                        \
  X(GIL, "gil")                                                                          \
  X(LOCK, "lock")                                                                        \
  X(IO, "io")                                                                            \
  X(CHILD, "child")                                                                      \
  X(SLEEP, "sleep")                                                                      \
  X(WAIT, "wait")                                                                        \
  X(RUNNABLE, "runnable")                                                                \
  X(STOPPED, "stopped")                                                                  \
  X(UNKNOWN, "unknown")
enum ss_state {
#define SS_STATE_ENUM(name, word) SS_STATE_##name,
  SS_STATES(SS_STATE_ENUM)
#undef SS_STATE_ENUM
      SS_STATE_COUNT
};
const char *ss_state_word(enum ss_state state);
enum ss_state ss_state_parse(const char *word); /* SS_STATE_COUNT: no such */
/* The state of a wait's reason as it stands at the leaf of a stack, "[io: disk]" or
 * "[lock]"; SS_STATE_COUNT: this is none. */
enum ss_state ss_state_of_reason(const char *name);
/* user, kernel and spin: on a CPU. */
bool ss_state_running(enum ss_state state);
/* gil, lock, io, child, sleep and wait: for something. */
bool ss_state_waiting(enum ss_state state);

#endif
