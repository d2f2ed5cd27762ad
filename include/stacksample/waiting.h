/*
 * A thread off the CPU: what it waits for, told without stopping it by its system
 * call, its task state and the functions that it waits in.
 *
 * Used wherever somebody looks at a thread: for samples of waiting time, for dumps.
 * Taking its stack is the looker's part; this only says what the wait is.
 */
#ifndef STACKSAMPLE_WAITING_H
#define STACKSAMPLE_WAITING_H

#include "stacksample/blocked.h"
#include "stacksample/context.h"
#include "stacksample/python.h"

#define SS_WAITING_NAMES 12 /* innermost functions that are worth knowing */

struct ss_waiting_seen { /* of one moment */
  struct ss_blocked blocked;
  char task_state; /* S, D, T, t, R, ... as in /proc/PID/stat */
};
/* false: it has ended, or may not be read. It may be running. */
bool ss_waiting_read(struct ss_waiting_seen *seen, pid_t pid, pid_t tid);
/* Is it off the CPU by its own will, in a fault, or stopped? */
bool ss_waiting_is_off(const struct ss_waiting_seen *seen);

struct ss_waiting {
  enum ss_state state; /* UNKNOWN where nothing of it is known */
  char reason[64];     /* "[io: disk]": the state's word, and a detail */
  pid_t gil_holder;    /* state gil: who has it; 0 nobody, -1 unknown */
};
/* `names`: symbols of its innermost native frames, innermost first; the library's name
 * where there is none, or NULL. `py` may be NULL; `mem` reads its memory as at the look.
 */
void ss_waiting_of(const struct ss_waiting_seen *seen, pid_t pid, pid_t tid,
                   const char *const *names, size_t n_names, struct ss_py *py,
                   const struct ss_mem *mem, struct ss_waiting *out);
/* Is this library's symbol table small, and does it hold functions that
 * ss_waiting_of knows? Others need not be read for it. */
bool ss_waiting_wants(const char *library);

#endif
