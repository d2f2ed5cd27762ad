/*
 * x86-64: register numbering, ptrace registers, the calling convention.
 *
 * struct ss_regs has the order in which perf delivers the registers of our
 * mask: ascending bit number of PERF_REG_X86_* (perf_regs.h of the kernel's
 * uapi), the segment and flag registers left out.
 */
#include "stacksample/arch.h"

#include <asm/perf_regs.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static const uint8_t perf_bit[SS_REG_COUNT] = {
    [SS_REG_AX] = PERF_REG_X86_AX,   [SS_REG_BX] = PERF_REG_X86_BX,
    [SS_REG_CX] = PERF_REG_X86_CX,   [SS_REG_DX] = PERF_REG_X86_DX,
    [SS_REG_SI] = PERF_REG_X86_SI,   [SS_REG_DI] = PERF_REG_X86_DI,
    [SS_REG_BP] = PERF_REG_X86_BP,   [SS_REG_SP] = PERF_REG_X86_SP,
    [SS_REG_IP] = PERF_REG_X86_IP,   [SS_REG_R8] = PERF_REG_X86_R8,
    [SS_REG_R9] = PERF_REG_X86_R9,   [SS_REG_R10] = PERF_REG_X86_R10,
    [SS_REG_R11] = PERF_REG_X86_R11, [SS_REG_R12] = PERF_REG_X86_R12,
    [SS_REG_R13] = PERF_REG_X86_R13, [SS_REG_R14] = PERF_REG_X86_R14,
    [SS_REG_R15] = PERF_REG_X86_R15,
};

/* System V psABI, figure 3.36: DWARF numbers 0 to 16. */
static const uint8_t from_dwarf[] = {
    SS_REG_AX,  SS_REG_DX,  SS_REG_CX,  SS_REG_BX,  SS_REG_SI,  SS_REG_DI,
    SS_REG_BP,  SS_REG_SP,  SS_REG_R8,  SS_REG_R9,  SS_REG_R10, SS_REG_R11,
    SS_REG_R12, SS_REG_R13, SS_REG_R14, SS_REG_R15, SS_REG_IP,
};

uint64_t ss_arch_perf_mask(void)
{
  uint64_t mask = 0;
  for (int i = 0; i < SS_REG_COUNT; i++)
    mask |= (uint64_t)1 << perf_bit[i];
  return mask;
}

int ss_arch_from_dwarf(unsigned dwarf)
{
  if (dwarf >= sizeof from_dwarf)
    return -1;
  return from_dwarf[dwarf];
}

bool ss_arch_ptrace_regs(pid_t tid, struct ss_regs *regs)
{
  struct user_regs_struct u;
  if (ptrace(PTRACE_GETREGS, tid, NULL, &u) != 0)
    return false;
  *regs = (struct ss_regs){.r = {
                               [SS_REG_AX] = u.rax,
                               [SS_REG_BX] = u.rbx,
                               [SS_REG_CX] = u.rcx,
                               [SS_REG_DX] = u.rdx,
                               [SS_REG_SI] = u.rsi,
                               [SS_REG_DI] = u.rdi,
                               [SS_REG_BP] = u.rbp,
                               [SS_REG_SP] = u.rsp,
                               [SS_REG_IP] = u.rip,
                               [SS_REG_R8] = u.r8,
                               [SS_REG_R9] = u.r9,
                               [SS_REG_R10] = u.r10,
                               [SS_REG_R11] = u.r11,
                               [SS_REG_R12] = u.r12,
                               [SS_REG_R13] = u.r13,
                               [SS_REG_R14] = u.r14,
                               [SS_REG_R15] = u.r15,
                           }};
  return true;
}

bool ss_arch_ptrace_thread_pointer(pid_t tid, uint64_t *pointer)
{
  errno = 0;
  *pointer = (uint64_t)ptrace(PTRACE_PEEKUSER, tid,
                              offsetof(struct user_regs_struct, fs_base), 0);
  return errno == 0;
}

long ss_arch_ptrace_call(pid_t tid)
{
  errno = 0;
  long nr = ptrace(PTRACE_PEEKUSER, tid, offsetof(struct user_regs_struct, orig_rax), 0);
  return errno == 0 && nr >= 0 ? nr : -1;
}

/* include/linux/errno.h of the kernel: seen by tracers, never by the program. The
 * arguments are still in their registers, so the number alone is what is missing
 * (arch_do_signal_or_restart in arch/x86/kernel/signal.c puts it back). */
void ss_arch_ptrace_restart(pid_t tid)
{
  const long no_handler_restarts = -514; /* -ERESTARTNOHAND */
  (void)ptrace(PTRACE_POKEUSER, tid, offsetof(struct user_regs_struct, rax),
               no_handler_restarts);
}

uint32_t ss_arch_callee_saved(void)
{
  return 1u << SS_REG_BX | 1u << SS_REG_BP | 1u << SS_REG_R12 | 1u << SS_REG_R13 |
         1u << SS_REG_R14 | 1u << SS_REG_R15;
}

/* The instruction leaves the return address in rcx, and the kernel's entry -ENOSYS
 * in rax until there is a result (arch/x86/entry/entry_64.S). */
bool ss_arch_in_syscall(const struct ss_regs *regs)
{
  return regs->r[SS_REG_CX] == regs->r[SS_REG_IP] &&
         regs->r[SS_REG_AX] == (uint64_t)-ENOSYS;
}

uint16_t ss_arch_elf_machine(void)
{
  return EM_X86_64;
}
