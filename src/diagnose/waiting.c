/*
 * What a thread of a dump waits for, as facts: state, system call and its object,
 * since when. The state is told as for samples of waiting time (waiting.h).
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/waiting.h"

#include "look_priv.h"

static size_t innermost_names(const struct ss_look_thread *t, const char **names)
{
  size_t n = 0;

  for (size_t i = 0; i < t->n_frames && n < SS_WAITING_NAMES; i++)
    if (!t->frames[i].python)
      names[n++] = t->frames[i].name ? t->frames[i].name : t->frames[i].module;
  return n;
}

static void say_call(struct ss_look_thread *t, const struct ss_blocked *b,
                     const struct ss_mem *mem)
{
  struct ss_syscall_info call = ss_arch_syscall(b->nr);
  struct ss_buf object = {0};

  t->syscall = call.name;
  t->futex = call.kind == SS_WAIT_FUTEX ? b->args[0] : 0;
  ss_blocked_object(b, t->pid, mem, &object);
  if (object.len > 0)
    t->object = strdup(ss_buf_str(&object));
  ss_buf_release(&object);
}

void ss_look_waiting(struct ss_look_thread *t, const struct ss_blocked *b,
                     const struct ss_stat *st, struct ss_idmap *lags, struct ss_py *py,
                     const struct ss_mem *mem)
{
  /* The state was read before the call: it may have blocked since. */
  bool blocked_since = st->state == 'R' && !b->running;
  struct ss_waiting_seen seen = {.blocked = *b,
                                 .task_state = blocked_since ? 'S' : st->state};
  const char *names[SS_WAITING_NAMES];
  struct ss_waiting waiting;

  t->uninterruptible = st->state == 'D';
  ss_waiting_of(&seen, t->pid, t->tid, names, innermost_names(t, names), py, mem,
                &waiting);
  t->gil_holder = waiting.gil_holder;
  t->state = waiting.state;
  if (waiting.state == SS_STATE_UNKNOWN) {
    t->state = st->state == 'R' ? SS_STATE_USER : SS_STATE_UNKNOWN;
    t->for_ns = st->state == 'R' ? 0 : SS_LOOK_UNKNOWN;
    return;
  }
  t->for_ns = ss_look_since(lags, t->pid, t->tid, st);
  if (waiting.state != SS_STATE_STOPPED && b->nr >= 0)
    say_call(t, b, mem);
}
