/*
 * Names and roles of threads: who it is (Python's name where it has one, else
 * the kernel's) and what it is for, told by its outermost functions.
 *
 * Done once, when the thread ends: symbol tables are read when they are first
 * wanted, and a table of libtorch's size must not be read for a first sample.
 */
#include <string.h>

#include "pipeline_priv.h"

/* The function's name, or the library's where it is stripped (libgomp). */
static const char *outer_name(struct ss_pipeline *p, const struct ss_outer *outer)
{
  struct ss_module *module = ss_modules_at(p->modules, outer->module);
  struct ss_symbol symbol;

  if (module == NULL)
    return NULL;
  return ss_module_symbol(module, outer->vaddr, &symbol) ? symbol.name : module->name;
}

void ss_roles_assign(struct ss_pipeline *p, struct ss_thread *t)
{
  struct ss_process *proc = t->process;
  const char *names[SS_OUTER_FRAMES], *role;
  size_t n = 0;
  char name[256];

  for (unsigned i = 0; i < t->n_outer; i++) {
    const char *text = outer_name(p, &t->outer[i]);
    if (text)
      names[n++] = text;
  }
  if (t->has_python && proc->py &&
      ss_py_thread_name(proc->py, t->tid, name, sizeof(name)))
    t->row.name = ss_store_string(p->config.store, name, strlen(name));
  role = ss_role_of(names, n, t->comm, t->tid == proc->pid, t->has_python);
  t->row.role = ss_store_string(p->config.store, role, strlen(role));
}
