/*
 * A merge in the making, shared by its parts: assign.c finds the native frame of each
 * activation, verify.c doubts the result, merge.c writes it.
 */
#ifndef SS_PYTHON_MERGE_PRIV_H
#define SS_PYTHON_MERGE_PRIV_H

#include "python_priv.h"

enum { SS_PY_UNASSIGNED = 0, SS_PY_REGISTERS = 6 };

struct ss_py_merge {
  struct ss_py *py;
  struct ss_py_thread *thread;
  struct ss_py_view view;
  const struct ss_frame *native;
  size_t native_count;
  bool cut;        /* of a greenlet: native_count ends at its switch */
  uint64_t tstate; /* the thread state walked last, and its bytes */
  unsigned char tstate_bytes[SS_PY_MAX_tstate];
  uint32_t assigned[SS_FRAMES_MAX]; /* native frame -> segment + 1 */
  enum ss_py_doubt doubt;           /* the first */
};

static inline void ss_py_doubt_it(struct ss_py_merge *m, enum ss_py_doubt doubt)
{
  if (m->doubt == SS_PY_DOUBT_NONE)
    m->doubt = doubt;
}

/* Is this a frame of the evaluation function, as far as was learned. */
bool ss_py_merge_is_eval(struct ss_py *py, const struct ss_frame *f);
/* The leaf is the evaluation function within its first instructions: what its _PyCFrame
 * holds may be of the activation that stood there before. */
bool ss_py_leaf_is_entering(struct ss_py_merge *m);

/* Fills m->assigned from the walk, walking again where the chain broke. */
void ss_py_assign_all(struct ss_py_merge *m);
void ss_py_verify(struct ss_py_merge *m);
/* From a merge without doubt: where this build keeps anchors and the frame. */
void ss_py_learn_places(struct ss_py_merge *m);

#endif
