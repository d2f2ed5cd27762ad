/*
 * The only place that names registers. x86-64 now; the numbering of struct
 * ss_regs is perf's (arch/x86/include/uapi/asm/perf_regs.h), so that a sample
 * is copied, not translated.
 */
#ifndef STACKSAMPLE_ARCH_H
#define STACKSAMPLE_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/sha256.h"

enum ss_reg { /* dense, the order in which perf delivers our mask */
              SS_REG_AX,
              SS_REG_BX,
              SS_REG_CX,
              SS_REG_DX,
              SS_REG_SI,
              SS_REG_DI,
              SS_REG_BP,
              SS_REG_SP,
              SS_REG_IP,
              SS_REG_R8,
              SS_REG_R9,
              SS_REG_R10,
              SS_REG_R11,
              SS_REG_R12,
              SS_REG_R13,
              SS_REG_R14,
              SS_REG_R15,
              SS_REG_COUNT
};

struct ss_regs {
  uint64_t r[SS_REG_COUNT];
};

/* perf_event_attr.sample_regs_user that yields struct ss_regs in order. */
uint64_t ss_arch_perf_mask(void);
/* DWARF register number (System V psABI x86-64, figure 3.36) -> ss_reg; -1. */
int ss_arch_from_dwarf(unsigned dwarf);
/* Registers of a ptrace-stopped thread; false with errno. */
bool ss_arch_ptrace_regs(pid_t tid, struct ss_regs *regs);
/* Its thread pointer: the address of what the C library keeps of the thread. */
bool ss_arch_ptrace_thread_pointer(pid_t tid, uint64_t *pointer);
/* The system call that a ptrace-stopped thread is about to return from; -1: none. */
long ss_arch_ptrace_call(pid_t tid);
/* Makes a stopped thread's system call, which our stop alone ended with EINTR, begin
 * again where no signal handler is going to run, and return EINTR where one is: the
 * kernel's own rule for calls that signals do not end (ERESTARTNOHAND). */
void ss_arch_ptrace_restart(pid_t tid);
/* Registers that a callee must preserve, as a bit mask of ss_reg. */
uint32_t ss_arch_callee_saved(void);
/* e_machine of the ELF files that run here. */
uint16_t ss_arch_elf_machine(void);

/* SHA-256 by the processor's own instructions; NULL where it has none. */
ss_sha256_blocks *ss_arch_sha256(void);

/* ---- instructions, for code without unwind information --------------------- */

enum ss_insn_kind {
  SS_INSN_BAD,      /* unknown, or changes the stack pointer in another way */
  SS_INSN_OTHER,    /* nothing that matters here */
  SS_INSN_PUSH,     /* reg */
  SS_INSN_POP,      /* reg */
  SS_INSN_ADD_SP,   /* sp += imm (negative: sub, push of a number) */
  SS_INSN_LOWER_SP, /* sp becomes less, by how much is not said: sp &= imm, sp -= reg */
  SS_INSN_COPY_SP,  /* reg = sp + imm */
  SS_INSN_SET_SP,   /* sp = base + imm */
  SS_INSN_STORE,    /* *(base + imm) = reg */
  SS_INSN_LOAD,     /* reg = *(base + imm); reg may be sp */
  SS_INSN_SET,      /* reg = something else */
  SS_INSN_CALL,     /* imm: distance to the target, 0 where it is indirect */
  SS_INSN_JUMP,
  SS_INSN_BRANCH,
  SS_INSN_RET
};
struct ss_insn {
  uint8_t len, kind;
  int16_t reg, base; /* enum ss_reg, or -1 */
  int64_t imm;
};
/* The instruction at `code`; BAD where `len` bytes do not hold it. */
struct ss_insn ss_arch_decode(const unsigned char *code, size_t len);
/* Where in the code the nearest function before `at` begins, if it begins as those of JIT
 * compilers do: with pushes of at least four preserved registers. SIZE_MAX: none. */
size_t ss_arch_preamble_before(const unsigned char *code, size_t len, size_t at);
/* Is the instruction at `code + at` in a short loop that waits (spins)? */
bool ss_arch_in_spin_loop(const unsigned char *code, size_t len, size_t at);
/* Do the bytes up to `end` (at least `before` of them) end in a call? *target:
 * the distance from `end` to where it goes, 0 for an indirect one. */
bool ss_arch_is_call_before(const unsigned char *end, size_t before, int64_t *target);

/* ---- system calls that threads block in -------------------------------------- */

/* What a blocking system call waits for; tells the state of its thread. */
enum ss_wait_kind {
  SS_WAIT_OTHER,
  SS_WAIT_FUTEX,  /* argument 0: address of the futex word */
  SS_WAIT_FD,     /* argument 0: a descriptor */
  SS_WAIT_POLL,   /* arguments 0, 1: struct pollfd[], its length */
  SS_WAIT_SELECT, /* argument 0: one more than the highest; 1 to 3: fd_set of each */
  SS_WAIT_EPOLL,  /* argument 0: the descriptor of the set */
  SS_WAIT_OPEN,   /* argument 0: a path */
  SS_WAIT_OPENAT, /* argument 1: a path */
  SS_WAIT_CHILD,  /* wait4, waitid */
  SS_WAIT_SLEEP,  /* nanosleep and the like */
  SS_WAIT_SIGNAL, /* pause, sigsuspend, sigtimedwait */
  SS_WAIT_IPC     /* System V and POSIX queues and semaphores */
};

struct ss_syscall_info {
  const char *name; /* static, "futex"; NULL: not in the table */
  enum ss_wait_kind kind;
  /* An interrupted one returns EINTR even without a handler (signal(7)): such
   * a thread is never stopped. */
  bool eintr;
};
/* Do these registers of user mode, seen while the thread is in the kernel, say that it
 * entered by a system call? */
bool ss_arch_in_syscall(const struct ss_regs *regs);
/* By the machine's number; unknown numbers give {NULL, OTHER, true}. */
struct ss_syscall_info ss_arch_syscall(long nr);

#endif
