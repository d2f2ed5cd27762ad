/*
 * A stopped child and what is needed to unwind it, for the unwinder's tests.
 */
#ifndef STACKSAMPLE_TESTS_STOPPED_H
#define STACKSAMPLE_TESTS_STOPPED_H

#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/unwind.h"

struct stopped {
  pid_t pid;     /* the stopped thread */
  pid_t process; /* where that is not its first thread; else 0 */
  struct ss_paths *paths;
  struct ss_maps maps;
  struct ss_modules *modules;
  struct ss_mem_live live;
  struct ss_unwind_space space;
  struct ss_regs regs;
  struct ss_unwinder *unwinder;
};

/* Forks a child that is traced and runs `body`, which stops itself by
 * raise(SIGSTOP) or int3; returns when it stands there. */
static inline pid_t stopped_fork(void (*body)(void))
{
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    body();
    _exit(0);
  }
  while (pid > 0 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
    if (WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP)
      return pid;
    ptrace(PTRACE_CONT, pid, NULL, (void *)(long)WSTOPSIG(status));
  }
  abort();
}

/* Looks at a child that is stopped under ptrace. */
static inline void stopped_init(struct stopped *s, pid_t pid)
{
  *s = (struct stopped){.pid = pid};
  s->paths = ss_paths_new();
  s->modules = ss_modules_new();
  s->unwinder = ss_unwinder_new();
  ss_maps_init(&s->maps, s->paths);
  ss_mem_live_init(&s->live, pid);
  if (ss_maps_load(&s->maps, pid, NULL) != SS_ERR_OK ||
      !ss_arch_ptrace_regs(pid, &s->regs))
    abort();
  s->space = (struct ss_unwind_space){
      .pid = pid, .maps = &s->maps, .modules = s->modules, .live = &s->live.mem};
}

static inline void stopped_release(struct stopped *s)
{
  kill(s->process != 0 ? s->process : s->pid, SIGKILL);
  waitpid(s->pid, NULL, __WALL);
  if (s->process != 0)
    waitpid(s->process, NULL, 0);
  ss_unwinder_free(s->unwinder);
  ss_modules_free(s->modules);
  ss_maps_release(&s->maps);
  ss_paths_free(s->paths);
  ss_mem_live_release(&s->live);
}

/* Is there a frame of function `name` at `from` or further out? Its index + 1. */
static inline size_t stopped_find(const struct ss_frame *frames, size_t count,
                                  size_t from, const char *name)
{
  for (size_t i = from; i < count; i++) {
    struct ss_symbol sym;
    struct ss_module *m = (struct ss_module *)(uintptr_t)frames[i].module;
    if (m != NULL && ss_module_symbol(m, frames[i].vaddr, &sym) &&
        strcmp(sym.name, name) == 0)
      return i + 1;
  }
  return 0;
}

/* Are all that is known of two frames the same? */
static inline bool stopped_same(const struct ss_frame *a, const struct ss_frame *b)
{
  if (a->ip != b->ip || a->sp != b->sp || a->cfa != b->cfa || a->module != b->module ||
      a->vaddr != b->vaddr || a->function != b->function || a->method != b->method ||
      a->saved_known != b->saved_known || a->signal != b->signal)
    return false;
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++)
    if ((a->saved_known >> i & 1) != 0 && a->saved[i] != b->saved[i])
      return false;
  return true;
}

#endif
