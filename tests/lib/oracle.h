/*
 * The single-step oracle: a child runs instruction by instruction, and after every one
 * the unwound stack must be the shadow stack kept from the calls, returns and signals
 * that were executed, and what is claimed of the preserved registers must be what they
 * held at the call.
 *
 * A jump that leaves frames behind is told by where the stack pointer is then: above the
 * return addresses that it drops. The one exception is for the last instructions before
 * it, AHEAD_MAX at most: glibc's __longjmp says by its unwind information that its caller
 * is where it is about to go, and that the CFA is the jmp_buf, which need not be on the
 * stack (sysdeps/x86_64/__longjmp.S). A stack that is complete there is kept, and must be
 * the shadow stack after the jump; or it ends at once, and says that it is not complete.
 */
#ifndef STACKSAMPLE_TESTS_ORACLE_H
#define STACKSAMPLE_TESTS_ORACLE_H

#include <sys/syscall.h>

#include "stacksample/limits.h"
#include "stopped.h"

#define SHADOW_MAX 512
#define STEPS_MAX 200000 /* also of an instrumented longjmp */
#define STACK_BYTES 262144
#define MEMOS 3
#define AHEAD_MAX 9

/* Each memo holds the stack of so many instructions ago. */
static const size_t memo_every[MEMOS] = {1, 7, 101};

struct oracle {
  struct stopped s;
  struct {
    uint64_t ra, slot;              /* and where that is on the stack; 0: not known */
    uint64_t saved[SS_SAVED_COUNT]; /* at the call */
    bool seen;                      /* false: called before the stepping began */
  } shadow[SHADOW_MAX];             /* outermost first */
  size_t depth;
  size_t steps, methods[SS_METHOD_COUNT], known, unknown;
  size_t plt, signals, signal_frames; /* steps in stubs, deliveries, frames seen */
  uint64_t hit_at[2];                 /* where the tracer sends SIGUSR1 once; 0: done */
  int signal;                         /* to be delivered by the next step */
  unsigned char *stack;
  struct ss_unwind_memo *memos[MEMOS];
  size_t reused;              /* frames taken over from a memo */
  uint64_t ahead[SHADOW_MAX]; /* callers that are right only after a jump to come */
  size_t ahead_count, ahead_steps, jumps, jumps_foreseen;
  bool may_jump; /* what is stepped has such jumps */
};

static struct ss_frame frames[SS_FRAMES_MAX];
static volatile int sink;

__attribute__((noinline)) static void begin_marker(void)
{
  raise(SIGSTOP);
}

__attribute__((noinline)) static void end_marker(void)
{
  sink++;
}

/* ---- the oracle ------------------------------------------------------------------ */

/* Going on from the stack of an earlier instruction must find the same. */
static void compare_again(struct oracle *o, struct ss_snapshot *snapshot, size_t count,
                          enum ss_end end)
{
  for (size_t m = 0; m < MEMOS; m++) {
    if (o->steps % memo_every[m] != 0)
      continue;
    struct ss_unwound again;
    assert_int_equal(ss_unwind_stack_again(o->s.unwinder, &o->s.space, &snapshot->mem,
                                           &o->s.regs, o->memos[m], &again),
                     end);
    assert_int_equal(again.count, count);
    o->reused += again.reused;
    for (size_t i = 0; i < count; i++)
      if (!stopped_same(&frames[i], &again.frames[i]))
        fail_msg("step %zu: frame %zu is another one after the stack of before", o->steps,
                 i);
  }
}

static enum ss_end unwind_now(struct oracle *o, size_t *count)
{
  struct ss_snapshot snapshot;
  uint64_t sp = o->s.regs.r[SS_REG_SP];
  const struct ss_map *map = ss_maps_find(&o->s.maps, sp);
  size_t len = map == NULL ? 0 : (size_t)(map->end - sp);
  len = ss_mem_read(&o->s.live.mem, sp, o->stack, len < STACK_BYTES ? len : STACK_BYTES);
  ss_snapshot_init(&snapshot, sp, o->stack, len, &o->s.live.mem, sp + len);
  enum ss_end end = ss_unwind_stack(o->s.unwinder, &o->s.space, &snapshot.mem, &o->s.regs,
                                    frames, SS_FRAMES_MAX, count);
  compare_again(o, &snapshot, *count, end);
  ss_snapshot_release(&snapshot);
  return end;
}

/* Does the frame hold the preserved registers as they were at its call? */
static void compare_saved(struct oracle *o, size_t k, const struct ss_frame *frame)
{
  static const uint8_t regs[SS_SAVED_COUNT] = {SS_REG_BX,  SS_REG_BP,  SS_REG_R12,
                                               SS_REG_R13, SS_REG_R14, SS_REG_R15};
  for (int i = 0; o->shadow[k].seen && i < SS_SAVED_COUNT; i++) {
    bool known = (frame->saved_known >> i & 1) != 0;
    o->known += known;
    o->unknown += !known;
    if (known && frame->saved[i] != o->shadow[k].saved[i])
      fail_msg("step %zu at %lx: register %d of the caller at %lx is %lx, not %lx",
               o->steps, (unsigned long)frames[0].ip, regs[i], (unsigned long)frame->ip,
               (unsigned long)frame->saved[i], (unsigned long)o->shadow[k].saved[i]);
  }
}

static void compare(struct oracle *o)
{
  size_t count;
  enum ss_end end = unwind_now(o, &count);
  size_t k = 0;
  for (; k + 1 < count && k < o->depth; k++) {
    if (frames[k + 1].ip != o->shadow[o->depth - 1 - k].ra)
      break;
    compare_saved(o, o->depth - 1 - k, &frames[k + 1]);
  }
  for (size_t i = 0; i < count; i++) {
    o->methods[frames[i].method]++;
    o->signal_frames += frames[i].signal;
  }
  if (end == SS_END_COMPLETE && k == o->depth && count == k + 1) {
    assert_int_equal(o->ahead_steps, 0); /* the jump never came */
    return;
  }
  if (o->may_jump && k == 0 && (end == SS_END_COMPLETE || count == 1) &&
      o->ahead_steps++ < AHEAD_MAX) {
    o->ahead_count = count - 1;
    for (size_t i = 1; i < count; i++)
      o->ahead[i - 1] = frames[i].ip;
    return;
  }
  fail_msg(
      "step %zu at %lx (%s+0x%lx): ended %s after %zu frames, frame %zu differs (%lx, "
      "not %lx; by %s)",
      o->steps, (unsigned long)frames[0].ip,
      frames[0].module == NULL ? "?" : frames[0].module->name,
      (unsigned long)frames[0].vaddr, ss_end_word(end), count, k + 1,
      k + 1 < count ? (unsigned long)frames[k + 1].ip : 0,
      k < o->depth ? (unsigned long)o->shadow[o->depth - 1 - k].ra : 0,
      ss_method_word(frames[k < count ? k : 0].method));
}

/* A new outer frame that goes on at `ra`. */
static void enter(struct oracle *o, uint64_t ra)
{
  assert_true(o->depth < SHADOW_MAX);
  o->shadow[o->depth].ra = ra;
  o->shadow[o->depth].slot = o->s.regs.r[SS_REG_SP];
  o->shadow[o->depth].seen = true;
  o->shadow[o->depth].saved[SS_SAVED_BX] = o->s.regs.r[SS_REG_BX];
  o->shadow[o->depth].saved[SS_SAVED_BP] = o->s.regs.r[SS_REG_BP];
  memcpy(&o->shadow[o->depth].saved[SS_SAVED_R12], &o->s.regs.r[SS_REG_R12], 32);
  o->depth++;
}

/* The address on top of the stack: where a call or a handler returns to. */
static uint64_t return_address(struct oracle *o)
{
  uint64_t ra = 0;
  assert_true(ss_mem_u64(&o->s.live.mem, o->s.regs.r[SS_REG_SP], &ra));
  return ra;
}

static bool is_sigreturn(const struct oracle *o, const unsigned char *code)
{
  return code[0] == 0x0f && code[1] == 0x05 && o->s.regs.r[SS_REG_AX] == SYS_rt_sigreturn;
}

/* Is the instruction a jump through memory, as those of PLT stubs are? */
static bool is_stub(const unsigned char *code)
{
  return code[0] == 0xff && code[1] == 0x25;
}

/* Drops the frames that a jump has left behind. */
static void drop_left(struct oracle *o)
{
  const uint64_t sp = o->s.regs.r[SS_REG_SP];
  const size_t before = o->depth;
  while (o->depth > 0 && o->shadow[o->depth - 1].slot != 0 &&
         o->shadow[o->depth - 1].slot < sp &&
         ss_maps_find(&o->s.maps, o->shadow[o->depth - 1].slot) ==
             ss_maps_find(&o->s.maps, sp))
    o->depth--;
  if (o->depth == before)
    return;
  o->jumps++;
  o->ahead_steps = 0;
  if (o->ahead_count == 0)
    return;
  assert_int_equal(o->ahead_count, o->depth + 1);
  assert_int_equal(o->ahead[0], o->s.regs.r[SS_REG_IP]);
  for (size_t i = 1; i < o->ahead_count; i++)
    assert_int_equal(o->ahead[i], o->shadow[o->depth - i].ra);
  o->jumps_foreseen++;
  o->ahead_count = 0;
}

/* SIGUSR1 comes before the instruction at one of the places, once. */
static void hit(struct oracle *o)
{
  for (size_t i = 0; i < sizeof o->hit_at / sizeof o->hit_at[0]; i++)
    if (o->hit_at[i] == o->s.regs.r[SS_REG_IP] && o->signal == 0) {
      o->signal = SIGUSR1;
      o->hit_at[i] = 0;
    }
}

/* Executes one instruction, or enters a handler, and keeps the shadow stack. */
static void step_once(struct oracle *o)
{
  unsigned char code[15] = {0};
  int status;
  uint64_t ip = o->s.regs.r[SS_REG_IP];
  size_t len = ss_mem_read(&o->s.live.mem, ip, code, sizeof code);
  struct ss_insn insn = ss_arch_decode(code, len);
  hit(o);
  int delivered = o->signal;
  bool leaves = delivered == 0 && is_sigreturn(o, code);
  assert_int_equal(ptrace(PTRACE_SINGLESTEP, o->s.pid, NULL, (long)delivered), 0);
  assert_int_equal(waitpid(o->s.pid, &status, 0), o->s.pid);
  assert_true(WIFSTOPPED(status));
  o->signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
  assert_true(o->signal == 0 || o->signal == SIGUSR1);
  assert_true(ss_arch_ptrace_regs(o->s.pid, &o->s.regs));
  o->steps++;
  if (delivered != 0) {
    enter(o, ip);
    enter(o, return_address(o));
    o->signals++;
  } else if (insn.kind == SS_INSN_CALL) {
    enter(o, return_address(o));
  } else if (insn.kind == SS_INSN_RET || leaves) {
    assert_true(o->depth > 0);
    o->depth--;
  } else if (insn.kind == SS_INSN_JUMP) {
    drop_left(o);
  }
  o->plt += delivered == 0 && is_stub(code);
}

/* Steps through `body` from its begin marker to its end marker. */
static void run_oracle(struct oracle *o, void (*body)(void))
{
  size_t count;
  struct ss_perf_map *jit = NULL;
  stopped_init(&o->s, stopped_fork(body));
  (void)ss_perf_map_load(&jit, o->s.pid, &o->s.maps, NULL);
  o->s.space.jit = jit;
  o->stack = malloc(STACK_BYTES);
  for (size_t m = 0; m < MEMOS; m++)
    o->memos[m] = ss_unwind_memo_new();
  assert_int_equal(unwind_now(o, &count), SS_END_COMPLETE);
  for (size_t i = count - 1; i > 0; i--)
    o->shadow[o->depth++].ra = frames[i].ip;
  while (o->s.regs.r[SS_REG_IP] != (uintptr_t)end_marker) {
    step_once(o);
    compare(o);
    assert_true(o->steps < STEPS_MAX);
  }
  print_message(
      "%zu instructions; registers known %zu, unknown %zu; frames by prologue %zu, "
      "jit %zu, scan %zu; stubs %zu, signals %zu\n",
      o->steps, o->known, o->unknown, o->methods[SS_METHOD_PROLOGUE],
      o->methods[SS_METHOD_JIT], o->methods[SS_METHOD_SCAN], o->plt, o->signals);
  assert_true(o->reused > o->steps);
  for (size_t m = 0; m < MEMOS; m++)
    ss_unwind_memo_free(o->memos[m]);
  free(o->stack);
  ss_perf_map_free(jit);
  stopped_release(&o->s);
}

#endif
