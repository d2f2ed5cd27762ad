/* Private to src/diagnose. */
#ifndef STACKSAMPLE_LOOK_PRIV_H
#define STACKSAMPLE_LOOK_PRIV_H

#include "stacksample/blocked.h"
#include "stacksample/hash.h"
#include "stacksample/look.h"
#include "stacksample/proc.h"
#include "stacksample/python.h"
#include "stacksample/unwind.h"

struct known_process { /* one process, kept between looks */
  struct ss_identity id;
  struct ss_mem_live live;
  struct ss_maps maps;
  struct ss_unwind_space space;
  struct ss_py *py;
  struct ss_testenv env;
  uint64_t image;         /* changes with every exec */
  uint64_t cpu_ns, at_ns; /* of the look before; 0: none */
  struct known_process *next;
};

struct ss_looker {
  pid_t root;
  struct ss_paths *paths;
  struct ss_modules *modules;
  struct ss_unwinder *unwinder;
  struct known_process *processes;
  struct ss_frame *native;
  struct ss_merged *merged;
  unsigned char *stack; /* COPY_BYTES */
  unsigned char *raw;   /* SS_PLAN_BYTES_MAX */
  unsigned char *own;   /* of ss_look_own_stack; NULL: not needed yet */
  struct ss_idmap lags; /* of ss_look_since, in this look */
};

/* ---- processes --------------------------------------------------------------------- */

/* The process as we know it, its mappings read anew; NULL: why in *diag. */
struct known_process *ss_know(struct ss_looker *l, pid_t pid, struct ss_diag *diag);
void ss_known_free(struct known_process *k);
/* What the heading of its part says: command, age, CPU use, test. */
void ss_look_describe(struct known_process *k, struct ss_look_process *p,
                      const struct ss_look_options *options);

/* Appends the text of that line as the process finds its file, without the indent. */
void ss_look_source(struct ss_buf *out, pid_t pid, const char *file, int line);

/* ---- own_stack.c ------------------------------------------------------------------- */

/* Of a stopped thread whose stack pointer is not on its own stack: copies what that has.
 * `stack_len` bytes from the stack pointer on are in l->stack. *out: empty where there is
 * nothing to copy; its bytes stay until the next call. */
void ss_look_own_stack(struct ss_looker *l, struct known_process *k, pid_t tid,
                       const struct ss_regs *regs, size_t stack_len, struct ss_span *out);

/* ---- what a thread waits for ------------------------------------------------------- */

/* State, call, object, how long: from the system call, /proc and the frames. */
void ss_look_waiting(struct ss_look_thread *t, const struct ss_blocked *b,
                     const struct ss_stat *st, struct ss_idmap *lags, struct ss_py *py,
                     const struct ss_mem *mem);
/* Nanoseconds since it last ran, or SS_LOOK_UNKNOWN. `lags`: CPU -> by how much
 * its scheduler's clock is behind, measured at need; for one look. */
uint64_t ss_look_since(struct ss_idmap *lags, pid_t pid, pid_t tid,
                       const struct ss_stat *st);

#endif
