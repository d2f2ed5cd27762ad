/*
 * What a thread was in the kernel for, told by the function that the kernel was
 * entered through (arch/x86/entry/: system calls, exceptions and interrupts each
 * have one of a fixed form).
 */
#include <stdio.h>
#include <string.h>

#include "stacksample/context.h"

struct entry_rule {
  const char *name; /* a prefix where it ends in '_' */
  const char *what; /* NULL: the rest of the name is that of a system call */
};

static const struct entry_rule rules[] = {
    {"__x64_sys_", NULL},
    {"__ia32_sys_", NULL},
    {"__se_sys_", NULL},
    {"__do_sys_", NULL},
    {"ksys_", NULL},
    {"asm_exc_page_fault", "page fault"},
    {"exc_page_fault", "page fault"},
    {"do_user_addr_fault", "page fault"},
    {"asm_exc_nmi", "interrupt"},
    {"asm_exc_", "exception"},
    {"asm_sysvec_", "interrupt"},
    {"asm_common_interrupt", "interrupt"},
    {"common_interrupt", "interrupt"},
    {"ret_from_fork", "start of a thread"},
    {"ret_from_fork_asm", "start of a thread"},
    {"arch_do_signal_or_restart", "signal"},
    {"do_group_exit", "exit"},
    {"do_exit", "exit"},
};

static bool matches(const char *symbol, const char *name)
{
  size_t len = strlen(name);
  return strncmp(symbol, name, len) == 0 &&
         (name[len - 1] == '_' || symbol[len] == '\0' || symbol[len] == '.');
}

bool ss_kernel_class(const char *symbol, char *buf, size_t cap)
{
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
    if (!matches(symbol, rules[i].name))
      continue;
    const char *what = rules[i].what ? rules[i].what : symbol + strlen(rules[i].name);
    int len = snprintf(buf, cap, "[kernel: %s]", what);
    return *what && len > 0 && (size_t)len < cap;
  }
  return false;
}
