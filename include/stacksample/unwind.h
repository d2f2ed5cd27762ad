/*
 * Native stacks from registers, a stack snapshot and the mapped ELF files.
 *
 * One interface, ss_unwind_step over a bounded memory reader; what finds the
 * caller of a frame is a `struct ss_unwind_method` (compact tables, libunwind,
 * repair rules), tried in order. Nothing is ever read but through the reader.
 * One unwinder per thread; not thread-safe.
 */
#ifndef STACKSAMPLE_UNWIND_H
#define STACKSAMPLE_UNWIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stacksample/arch.h"
#include "stacksample/elf.h"
#include "stacksample/proc.h"

/* Why a stack ended. One list: enum, the word stored in profile.db, the text. */
#define SS_ENDS(X)                                                                       \
  X(COMPLETE, "complete", "reached the thread's start")                                  \
  X(TRUNCATED, "truncated", "the copied stack ended and memory had changed")             \
  X(NO_MAP, "no_map", "an address outside every mapping")                                \
  X(NO_CFI, "no_cfi", "code without unwind information")                                 \
  X(BAD_CFI, "bad_cfi", "unwind information that makes no sense")                        \
  X(NO_PROGRESS, "no_progress", "the stack pointer did not grow")                        \
  X(BAD_READ, "bad_read", "stack memory could not be read")                              \
  X(DEPTH, "depth", "more frames than are kept")                                         \
  X(SP_LOST, "sp_lost", "the stack pointer is outside the stack")                        \
  X(NO_REGS, "no_regs", "no user registers (a kernel thread, or exiting)")               \
  X(NO_UNWIND, "no_unwind", "native stacks were not asked for")

enum ss_end {
#define SS_END_ENUM(name, word, text) SS_END_##name,
  SS_ENDS(SS_END_ENUM)
#undef SS_END_ENUM
      SS_END_COUNT,
  SS_END_NONE = 255 /* not ended yet */
};
const char *ss_end_word(enum ss_end end);
const char *ss_end_text(enum ss_end end);

/* How a frame's caller was found, stored with every sample as the weakest. */
#define SS_METHODS(X)                                                                    \
  X(CFI, "cfi")           /* unwind tables of the file */                                \
  X(PROLOGUE, "prologue") /* analysed code without tables */                             \
  X(JIT, "jit")           /* a known JIT preamble or registered unwind info */           \
  X(FRAME_POINTER, "frame_pointer")                                                      \
  X(ANCHOR, "anchor") /* resumed at an object CPython keeps on the stack */              \
  X(SCAN, "scan")     /* call-checked stack scan */                                      \
  X(NONE, "none")     /* no native unwinding (synthetic rows) */                         \
  X(LATE, "late")     /* weakest: from memory read after the sample, without a check */

enum ss_method {
#define SS_METHOD_ENUM(name, word) SS_METHOD_##name,
  SS_METHODS(SS_METHOD_ENUM)
#undef SS_METHOD_ENUM
      SS_METHOD_COUNT
};
const char *ss_method_word(enum ss_method method);

/* One activation, innermost first. [sp, cfa) is its extent on the stack. */
struct ss_frame {
  uint64_t ip;  /* run-time; a return address above the leaf */
  uint64_t sp;  /* at that ip; where the code has moved it off the stack, before that */
  uint64_t cfa; /* 0 where the stack ended before it was known */
  const struct ss_module *module; /* NULL: none (JIT, anonymous) */
  uint64_t vaddr;      /* ip (above the leaf ip-1) in the file; ip without one */
  uint64_t function;   /* vaddr of the FDE's start; 0: no FDE covers it */
  uint64_t saved[6];   /* rbx rbp r12 r13 r14 r15 as in this frame */
  uint8_t saved_known; /* bit i: saved[i] is known; see space.saved_registers */
  uint8_t method;      /* enum ss_method that found this frame's *caller* */
  bool signal;         /* a signal frame (its caller was interrupted) */
};
enum {
  SS_SAVED_BX,
  SS_SAVED_BP,
  SS_SAVED_R12,
  SS_SAVED_R13,
  SS_SAVED_R14,
  SS_SAVED_R15,
  SS_SAVED_COUNT
};

/* What a stack is unwound in: one process at one time. Borrowed. */
struct ss_unwind_space {
  pid_t pid;
  struct ss_maps *maps;
  struct ss_modules *modules;
  const struct ss_mem *live; /* code and data that do not change */
  struct ss_perf_map *jit;   /* what its JIT says of its code; NULL: nothing */
  bool saved_registers;      /* also those that compact rules lose: slower */
  bool still;      /* a thread that waits: nothing was chased, memory is as it was */
  bool only_ip_sp; /* a blocked thread: ss_unwind_stack trusts no other register */
};

struct ss_unwinder;
struct ss_unwinder *ss_unwinder_new(void); /* NULL: out of memory */
void ss_unwinder_free(struct ss_unwinder *u);
/* Forgets what is cached of a process (exec, exit, unmapped code). */
void ss_unwinder_forget(struct ss_unwinder *u, pid_t pid);

/* Starts at `regs`; `stack` reads the stack (a snapshot with live memory
 * behind). Then ss_unwind_step yields the frame it stands on and moves to the
 * caller: SS_END_NONE while there is one, else why it ended (the frame is
 * valid in both cases). All pointers stay valid until the last step. */
void ss_unwind_begin(struct ss_unwinder *u, const struct ss_unwind_space *space,
                     const struct ss_mem *stack, const struct ss_regs *regs);
/* A blocked thread of which only pc and sp are known (/proc/PID/syscall). */
void ss_unwind_begin_at(struct ss_unwinder *u, const struct ss_unwind_space *space,
                        const struct ss_mem *stack, uint64_t ip, uint64_t sp);
enum ss_end ss_unwind_step(struct ss_unwinder *u, struct ss_frame *frame);
/* Goes on at a known activation after the walk died (CPython's anchors): the
 * next step yields the frame whose ip is the return address at cfa-8. */
void ss_unwind_resume(struct ss_unwinder *u, uint64_t ip, uint64_t sp);
/* ... and a register of that caller that was found another way. */
void ss_unwind_know(struct ss_unwinder *u, enum ss_reg reg, uint64_t value);

/* The loop over the two: at most `cap` frames into `frames`. */
enum ss_end ss_unwind_stack(struct ss_unwinder *u, const struct ss_unwind_space *space,
                            const struct ss_mem *stack, const struct ss_regs *regs,
                            struct ss_frame *frames, size_t cap, size_t *count);

/*
 * The last stack of one thread. Its outer part is taken over by the next stack as
 * long as that stands in the same frames and every word of the stack by which they
 * were found is what it was: then they would be found again. The result is always
 * that of ss_unwind_stack; only the work is less.
 */
struct ss_unwind_memo;
struct ss_unwind_memo *ss_unwind_memo_new(void); /* NULL: out of memory */
void ss_unwind_memo_free(struct ss_unwind_memo *memo);
struct ss_unwound { /* valid until the memo's next use */
  const struct ss_frame *frames;
  uint32_t *tags; /* one a frame, the caller's: 0 in a new frame, else as it was left */
  size_t count, reused; /* the `reused` outermost were taken over */
};
enum ss_end ss_unwind_stack_again(struct ss_unwinder *u,
                                  const struct ss_unwind_space *space,
                                  const struct ss_mem *stack, const struct ss_regs *regs,
                                  struct ss_unwind_memo *memo, struct ss_unwound *out);

/* A second opinion on the same stack by libunwind alone: the instruction
 * pointers, innermost first. Where it ends NO_CFI the rest has no opinion. */
enum ss_end ss_unwind_audit(struct ss_unwinder *u, const struct ss_unwind_space *space,
                            const struct ss_mem *stack, const struct ss_regs *regs,
                            uint64_t *ips, size_t cap, size_t *count);
/* Do the two opinions differ where libunwind has one? */
bool ss_unwind_differs(const struct ss_frame *frames, size_t count, const uint64_t *ips,
                       size_t ip_count, enum ss_end audit_end);
/* Gives back what audits keep of unwind sections, where it is much: those of files
 * without .eh_frame_hdr, which have to be searched through. */
void ss_unwind_trim(struct ss_modules *modules);

/*
 * A stack snapshot with the live, deeper part behind it: a read beyond the snapshot's end
 * fetches from live memory, accepted only while the last 256 snapshot bytes are still
 * there unchanged; else `stale` is set and such reads give 0 bytes. Bytes that were read
 * with the sample (`captured`) come first, under the same check. Of a frame of which it
 * tells nothing (see snapshot.c) the method is LATE.
 */
struct ss_snapshot {
  struct ss_mem mem; /* first: pass &s.mem as the stack */
  uint64_t sp;
  const unsigned char *bytes; /* borrowed */
  size_t len;
  const struct ss_mem *captured; /* NULL; to be set after the init */
  enum { SS_CAPTURED_UNTRIED, SS_CAPTURED_GOOD, SS_CAPTURED_BAD } captured_state;
  const struct ss_mem *live; /* NULL: nothing behind */
  uint64_t stack_end;        /* end of the stack's mapping */
  unsigned char *more;       /* owned: bytes from sp+len on */
  size_t more_len, more_cap;
  uint64_t missed; /* lowest address behind the copy that could not be had; 0: none */
  bool stale;
};
void ss_snapshot_init(struct ss_snapshot *s, uint64_t sp, const void *bytes, size_t len,
                      const struct ss_mem *live, uint64_t stack_end);
void ss_snapshot_release(struct ss_snapshot *s);
uint64_t ss_snapshot_late_from(const struct ss_mem *mem); /* read later on; 0: nothing */

#endif
