/*
 * What a thread waits for, as facts: state, system call and its object, since
 * when. A futex is told apart by who waits in it: the interpreter's own word is
 * the GIL, a lock's function makes it a lock, anything else is a plain wait.
 */
#include <stdlib.h>
#include <string.h>

#include "look_priv.h"

/* Functions that mean "waiting for a lock", innermost few frames. */
static const char *const lock_functions[] = {
    "PyThread_acquire_lock_timed",
    "PyThread_acquire_lock",
    "__lll_lock_wait",
    "___pthread_mutex_lock",
    "pthread_mutex_lock",
    "__pthread_mutex_lock",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_wrlock",
    "_PyMutex_LockTimed",
    "std::mutex::lock",
    "sem_wait",
    "__new_sem_wait_slow64",
};
#define LOCK_DEPTH 8

static bool in_lock(const struct ss_look_thread *t)
{
  for (size_t i = 0; i < t->n_frames && i < LOCK_DEPTH; i++)
    for (size_t k = 0; k < sizeof(lock_functions) / sizeof(lock_functions[0]); k++)
      if (t->frames[i].name && strcmp(t->frames[i].name, lock_functions[k]) == 0)
        return true;
  return false;
}

static enum ss_state futex_state(const struct ss_look_thread *t, struct ss_py *py,
                                 const struct ss_mem *mem)
{
  if (py && ss_py_is_gil_word(py, t->tid, mem, t->futex))
    return SS_STATE_GIL;
  return in_lock(t) ? SS_STATE_LOCK : SS_STATE_WAIT;
}

static enum ss_state call_state(const struct ss_look_thread *t, enum ss_wait_kind kind,
                                struct ss_py *py, const struct ss_mem *mem)
{
  switch (kind) {
  case SS_WAIT_FUTEX:
    return futex_state(t, py, mem);
  case SS_WAIT_FD:
    return SS_STATE_IO;
  case SS_WAIT_CHILD:
    return SS_STATE_CHILD;
  case SS_WAIT_SLEEP:
    return SS_STATE_SLEEP;
  case SS_WAIT_OTHER:
  case SS_WAIT_POLL:
  case SS_WAIT_SIGNAL:
  case SS_WAIT_IPC:
    break;
  }
  return SS_STATE_WAIT;
}

void ss_look_waiting(struct ss_look_thread *t, const struct ss_blocked *b,
                     const struct ss_stat *st, struct ss_idmap *lags, struct ss_py *py,
                     const struct ss_mem *mem)
{
  struct ss_syscall_info call = ss_arch_syscall(b->nr);
  struct ss_buf object = {0};

  t->uninterruptible = st->state == 'D';
  t->gil_holder = -1;
  if (st->state == 'T' || st->state == 't') {
    t->state = SS_STATE_STOPPED;
    t->for_ns = ss_look_since(lags, t->pid, t->tid, st);
    return;
  }
  if (b->running || b->nr < 0) {
    t->state = st->state == 'R' ? SS_STATE_USER : SS_STATE_UNKNOWN;
    t->for_ns = st->state == 'R' ? 0 : SS_LOOK_UNKNOWN;
    return;
  }
  t->syscall = call.name;
  t->for_ns = ss_look_since(lags, t->pid, t->tid, st);
  t->futex = call.kind == SS_WAIT_FUTEX ? b->args[0] : 0;
  ss_blocked_object(b, t->pid, &object);
  if (object.len > 0)
    t->object = strdup(ss_buf_str(&object));
  ss_buf_release(&object);
  t->state = call_state(t, call.kind, py, mem);
  if (t->state == SS_STATE_GIL)
    t->gil_holder = ss_py_gil_holder(py, t->tid, mem);
}
