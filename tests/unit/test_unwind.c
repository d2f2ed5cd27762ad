/* Real stacks of stopped children, against the calls that were made. */
#include "unit.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "stacksample/limits.h"
#include "stopped.h"

static struct ss_frame frames[SS_FRAMES_MAX];
static volatile int sink;

/* A frame of the size that its source says: AddressSanitizer realigns frames and puts
 * arrays elsewhere, and clang makes an array as short as what is used of it. */
#define PLAIN_FRAME __attribute__((noinline, no_sanitize("address", "undefined")))
#define USED_WHOLE(array) __asm__ volatile("" ::"r"(array) : "memory")

__attribute__((noinline)) static void stop_here(void)
{
  raise(SIGSTOP);
  sink++;
}

__attribute__((noinline)) static void inner(void)
{
  stop_here();
  sink++;
}

__attribute__((noinline)) static void outer(void)
{
  inner();
  sink++;
}

static size_t unwind_all(struct stopped *s, enum ss_end *end)
{
  size_t count;
  *end = ss_unwind_stack(s->unwinder, &s->space, &s->live.mem, &s->regs, frames,
                         SS_FRAMES_MAX, &count);
  return count;
}

static void expect_in_order(size_t count, const char *const *names)
{
  size_t at = 0;
  for (; *names != NULL; names++) {
    at = stopped_find(frames, count, at, *names);
    if (at == 0)
      fail_msg("no frame of %s", *names);
  }
}

/* Each frame's extent ends where its caller's begins. */
static void expect_nested(size_t count)
{
  for (size_t i = 0; i + 1 < count; i++) {
    assert_true(frames[i].cfa > frames[i].sp || frames[i].signal);
    if (!frames[i].signal)
      assert_int_equal(frames[i].cfa, frames[i + 1].sp);
  }
}

static void test_call_chain(void **state)
{
  (void)state;
  static const char *const names[] = {"stop_here", "inner",  "outer",
                                      "main",      "_start", NULL};
  struct stopped s;
  enum ss_end end;
  stopped_init(&s, stopped_fork(outer));
  size_t count = unwind_all(&s, &end);
  assert_int_equal(end, SS_END_COMPLETE);
  expect_in_order(count, names);
  expect_nested(count);
  size_t at = stopped_find(frames, count, 0, "inner") - 1;
  assert_int_not_equal(frames[at].function, 0);
  assert_true(frames[at].vaddr > frames[at].function);
  assert_int_equal(frames[count - 1].cfa, 0);
  stopped_release(&s);
}

PLAIN_FRAME static void descend(int n)
{
  volatile char room[256];
  room[0] = (char)n;
  USED_WHOLE(room);
  if (n > 0)
    descend(n - 1);
  sink += room[0];
}

/* What others left on the stack lies between this frame's registers. */
PLAIN_FRAME static void with_room(void)
{
  volatile char room[1500];
  room[0] = 1;
  USED_WHOLE(room);
  kill(getpid(), SIGSTOP); /* which saves no register */
  sink += room[0];
}

__attribute__((noinline)) static void after_others(void)
{
  descend(20);
  with_room();
  sink++;
}

/* Functions with a frame pointer, of a thread whose rbp is not known. */
static void test_unknown_frame_pointer(void **state)
{
  (void)state;
  static struct ss_frame exact[SS_FRAMES_MAX];
  struct stopped s;
  enum ss_end end;
  stopped_init(&s, stopped_fork(after_others));
  const size_t count = unwind_all(&s, &end);
  assert_int_equal(end, SS_END_COMPLETE);
  memcpy(exact, frames, count * sizeof *frames);
  s.space.only_ip_sp = true;
  assert_int_equal(unwind_all(&s, &end), count);
  assert_int_equal(end, SS_END_COMPLETE);
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(frames[i].ip, exact[i].ip);
    assert_int_equal(frames[i].cfa, exact[i].cfa);
    assert_true(frames[i].method == SS_METHOD_CFI ||
                frames[i].method == SS_METHOD_PROLOGUE);
  }
  stopped_release(&s);
}

/* libunwind agrees, and a difference is seen as one. */
static void test_audit(void **state)
{
  (void)state;
  static uint64_t ips[SS_FRAMES_MAX];
  struct stopped s;
  enum ss_end end;
  size_t audited;
  stopped_init(&s, stopped_fork(outer));
  size_t count = unwind_all(&s, &end);
  end = ss_unwind_audit(s.unwinder, &s.space, &s.live.mem, &s.regs, ips, SS_FRAMES_MAX,
                        &audited);
  assert_int_equal(end, SS_END_COMPLETE);
  assert_int_equal(audited, count);
  assert_false(ss_unwind_differs(frames, count, ips, audited, end));
  assert_true(ss_unwind_differs(frames, count - 1, ips, audited, end));
  assert_true(ss_unwind_differs(frames, count, ips, audited - 1, SS_END_COMPLETE));
  assert_false(ss_unwind_differs(frames, count, ips, audited - 1, SS_END_NO_CFI));
  ips[2]++;
  assert_true(ss_unwind_differs(frames, count, ips, audited, end));
  /* What the audit loaded can go; the next walk does not need it. */
  ss_unwind_trim(s.modules);
  assert_int_equal(unwind_all(&s, &end), count);
  assert_int_equal(end, SS_END_COMPLETE);
  stopped_release(&s);
}

static void handler(int sig)
{
  (void)sig;
  inner();
  sink++;
}

__attribute__((noinline)) static void interrupted(void)
{
  /* The handler runs inside this function, not inside a call of it. */
  __asm__ volatile("syscall" ::"a"(39L) : "rcx", "r11", "memory");
  kill(getpid(), SIGUSR1);
  sink++;
}

static void in_handler(void)
{
  struct sigaction sa = {.sa_handler = handler};
  sigaction(SIGUSR1, &sa, NULL);
  interrupted();
}

static void test_signal_frame(void **state)
{
  (void)state;
  static const char *const names[] = {"stop_here",  "inner", "handler", "interrupted",
                                      "in_handler", "main",  NULL};
  struct stopped s;
  enum ss_end end;
  stopped_init(&s, stopped_fork(in_handler));
  size_t count = unwind_all(&s, &end), signals = 0;
  assert_int_equal(end, SS_END_COMPLETE);
  expect_in_order(count, names);
  for (size_t i = 0; i < count; i++)
    signals += frames[i].signal;
  assert_int_equal(signals, 1);
  stopped_release(&s);
}

static void on_made_context(void)
{
  static char stack[65536];
  static ucontext_t here, there;
  getcontext(&there);
  there.uc_stack.ss_sp = stack;
  there.uc_stack.ss_size = sizeof stack;
  there.uc_link = &here;
  makecontext(&there, outer, 0);
  swapcontext(&here, &there);
}

/* The stack of a context ends where makecontext made it begin. */
static void test_made_context(void **state)
{
  (void)state;
  static const char *const names[] = {"stop_here", "inner", "outer", NULL};
  struct stopped s;
  enum ss_end end;
  stopped_init(&s, stopped_fork(on_made_context));
  size_t count = unwind_all(&s, &end);
  assert_int_equal(end, SS_END_COMPLETE);
  expect_in_order(count, names);
  assert_int_equal(stopped_find(frames, count, 0, "outer") + 1, count);
  stopped_release(&s);
}

static char alternate[65536];

static void on_other_stack(void)
{
  stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  sigaltstack(&stack, NULL);
  sigaction(SIGUSR1, &sa, NULL);
  interrupted();
}

static void test_signal_stack(void **state)
{
  (void)state;
  static const char *const names[] = {"stop_here",      "handler", "interrupted",
                                      "on_other_stack", "main",    NULL};
  struct stopped s;
  enum ss_end end;
  stopped_init(&s, stopped_fork(on_other_stack));
  size_t count = unwind_all(&s, &end);
  assert_int_equal(end, SS_END_COMPLETE);
  expect_in_order(count, names);
  stopped_release(&s);
}

static int recurse(int n);
/* By a pointer, so that there is one function of this name and no clone. */
static int (*volatile recurse_again)(int) = recurse;

PLAIN_FRAME static int recurse(int n)
{
  volatile char room[2000];
  room[0] = (char)n;
  USED_WHOLE(room);
  if (n == 0)
    stop_here();
  else
    recurse_again(n - 1);
  return room[0] + sink;
}

static void deep(void)
{
  recurse_again(40);
}

static void shallow(void)
{
  recurse_again(3);
}

/* A snapshot much smaller than the stack goes on in live memory. */
static void test_deeper_than_snapshot(void **state)
{
  (void)state;
  struct stopped s;
  struct ss_snapshot snapshot;
  unsigned char bytes[4096];
  size_t count, level = 0;
  stopped_init(&s, stopped_fork(deep));
  uint64_t sp = s.regs.r[SS_REG_SP];
  const struct ss_map *stack = ss_maps_find(&s.maps, sp);
  assert_true(ss_mem_get(&s.live.mem, sp, bytes, sizeof bytes));
  ss_snapshot_init(&snapshot, sp, bytes, sizeof bytes, &s.live.mem, stack->end);
  enum ss_end end = ss_unwind_stack(s.unwinder, &s.space, &snapshot.mem, &s.regs, frames,
                                    SS_FRAMES_MAX, &count);
  assert_int_equal(end, SS_END_COMPLETE);
  for (size_t at = 0; (at = stopped_find(frames, count, at, "recurse")) != 0;)
    level++;
  assert_int_equal(level, 41);
  /* What was copied is not what is there now: the rest is not believed. */
  ss_snapshot_release(&snapshot);
  bytes[sizeof bytes - 1] ^= 1;
  ss_snapshot_init(&snapshot, sp, bytes, sizeof bytes, &s.live.mem, stack->end);
  end = ss_unwind_stack(s.unwinder, &s.space, &snapshot.mem, &s.regs, frames,
                        SS_FRAMES_MAX, &count);
  assert_int_equal(end, SS_END_TRUNCATED);
  assert_true(count > 1 && count < 10);
  ss_snapshot_release(&snapshot);
  stopped_release(&s);
}

static void expect_late(size_t count, size_t at, bool late)
{
  for (size_t i = 0; i < count; i++)
    assert_int_equal(frames[i].method == SS_METHOD_LATE, late && i == at);
}

/* The end of a frame that is read behind the copy, where all that could tell of a change
 * are the frame's own variables, is said to be of later. */
static void test_frame_behind_the_copy(void **state)
{
  (void)state;
  struct stopped s;
  struct ss_snapshot snapshot;
  static unsigned char bytes[8192];
  size_t count;
  stopped_init(&s, stopped_fork(deep));
  uint64_t sp = s.regs.r[SS_REG_SP];
  const struct ss_map *stack = ss_maps_find(&s.maps, sp);
  assert_true(ss_mem_get(&s.live.mem, sp, bytes, sizeof bytes));
  enum ss_end end;
  (void)unwind_all(&s, &end);
  const size_t at = stopped_find(frames, SS_FRAMES_MAX, 0, "recurse") - 1;
  const size_t whole = (size_t)(frames[at].cfa - sp);
  /* From a copy that has the frame's middle on to one that has its end; without and with
   * what was read at the sample; and of a thread that has not moved. */
  for (size_t len = whole - 1000; len <= whole; len += 100) {
    for (int way = 0; way < 3; way++) {
      struct ss_span span = {sp + len - 256, 2048, bytes + len - 256};
      struct ss_mem_spans mem;
      ss_mem_spans_init(&mem, &span, 1, NULL);
      ss_snapshot_init(&snapshot, sp, bytes, len, &s.live.mem, stack->end);
      snapshot.captured = way == 1 ? &mem.mem : NULL;
      s.space.still = way == 2;
      end = ss_unwind_stack(s.unwinder, &s.space, &snapshot.mem, &s.regs, frames,
                            SS_FRAMES_MAX, &count);
      assert_int_equal(end, SS_END_COMPLETE);
      expect_late(count, at, way == 0 && len < whole);
      ss_snapshot_release(&snapshot);
    }
  }
  stopped_release(&s);
}

/* The stack of before is taken over as long as it holds: a word that changes anywhere
 * gives what a walk without it finds. */
static void test_memo(void **state)
{
  (void)state;
  static unsigned char bytes[32768];
  struct stopped s;
  struct ss_snapshot snapshot;
  struct ss_unwound again;
  size_t count, least = SIZE_MAX;
  struct ss_unwind_memo *memo = ss_unwind_memo_new();
  stopped_init(&s, stopped_fork(shallow));
  uint64_t sp = s.regs.r[SS_REG_SP];
  const struct ss_map *stack = ss_maps_find(&s.maps, sp);
  size_t len = ss_mem_read(&s.live.mem, sp, bytes, sizeof bytes);
  ss_snapshot_init(&snapshot, sp, bytes, len, NULL, stack->end);
  for (size_t at = 0; at + 8 <= len; at += 8) {
    enum ss_end end =
        ss_unwind_stack_again(s.unwinder, &s.space, &snapshot.mem, &s.regs, memo, &again);
    assert_int_equal(end, SS_END_COMPLETE);
    if (at > 0)
      assert_int_equal(again.reused, again.count - 1);
    bytes[at + 1] ^= 0x10;
    end = ss_unwind_stack(s.unwinder, &s.space, &snapshot.mem, &s.regs, frames,
                          SS_FRAMES_MAX, &count);
    assert_int_equal(
        ss_unwind_stack_again(s.unwinder, &s.space, &snapshot.mem, &s.regs, memo, &again),
        end);
    assert_int_equal(again.count, count);
    for (size_t i = 0; i < count; i++)
      assert_true(stopped_same(&frames[i], &again.frames[i]));
    least = again.reused < least ? again.reused : least;
    bytes[at + 1] ^= 0x10;
    ss_unwind_stack_again(s.unwinder, &s.space, &snapshot.mem, &s.regs, memo, &again);
  }
  assert_int_equal(least, 0);
  ss_snapshot_release(&snapshot);
  ss_unwind_memo_free(memo);
  stopped_release(&s);
}

static void test_by_pc_and_sp_alone(void **state)
{
  (void)state;
  struct stopped s;
  struct ss_frame frame;
  enum ss_end end;
  size_t count = 0;
  stopped_init(&s, stopped_fork(outer));
  ss_unwind_begin_at(s.unwinder, &s.space, &s.live.mem, s.regs.r[SS_REG_IP],
                     s.regs.r[SS_REG_SP]);
  do {
    end = ss_unwind_step(s.unwinder, &frame);
    frames[count++] = frame;
  } while (end == SS_END_NONE);
  /* raise() is built on rsp; where a later one needs rbp it was saved. */
  assert_int_equal(frames[0].saved_known, 0);
  assert_true(stopped_find(frames, count, 0, "stop_here") > 0);
  stopped_release(&s);
}

static void *thread_body(void *arg)
{
  outer();
  return arg;
}

static void in_thread(void)
{
  pthread_t thread;
  if (pthread_create(&thread, NULL, thread_body, NULL) == 0)
    pthread_join(thread, NULL);
}

/* The stack of a second thread ends at clone, not at _start. */
static void test_thread_ends_complete(void **state)
{
  (void)state;
  static const char *const names[] = {"inner", "outer", "thread_body", NULL};
  int status;
  pid_t *tids = NULL;
  size_t tid_count = 0;
  pid_t pid = fork();
  if (pid == 0) {
    in_thread();
    _exit(0);
  }
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_int_equal(ss_tasks_list(pid, &tids, &tid_count), SS_ERR_OK);
  assert_true(tid_count >= 2);
  pid_t tid = tids[0] == pid ? tids[1] : tids[0];
  free(tids);
  assert_int_equal(ptrace(PTRACE_SEIZE, tid, NULL, NULL), 0);
  assert_int_equal(waitpid(tid, &status, __WALL), tid);
  struct stopped s;
  enum ss_end end;
  stopped_init(&s, tid);
  s.process = pid;
  size_t count = unwind_all(&s, &end);
  assert_int_equal(end, SS_END_COMPLETE);
  expect_in_order(count, names);
  assert_int_equal(stopped_find(frames, count, 0, "_start"), 0);
  stopped_release(&s);
}

/* ---- code without unwind information or a known beginning ----------------------- */

/* A frame of 40 bytes; the branch behind the stop hides the way out. */
static const unsigned char plain_code[] = {
    0x48, 0x83, 0xec, 0x28, /* sub rsp, 40 */
    0x48, 0x31, 0xc0,       /* xor rax, rax */
    0x48, 0x89, 0x04, 0x24, /* mov [rsp], rax, and the next four */
    0x48, 0x89, 0x44, 0x24, 0x08, 0x48, 0x89, 0x44, 0x24, 0x10, 0x48, 0x89,
    0x44, 0x24, 0x18, 0x48, 0x89, 0x44, 0x24, 0x20, 0xcc, 0x75, 0x00, /* int3; jne */
    0x48, 0x83, 0xc4, 0x28, 0xc3};

/* rbp is a frame pointer, and the frame is larger than a scan goes. */
static const unsigned char framed_code[] = {
    0x55, 0x48, 0x89, 0xe5,                         /* push rbp; mov rbp, rsp */
    0x48, 0x81, 0xec, 0x00, 0x20, 0x00, 0x00,       /* sub rsp, 8192 */
    0x48, 0x89, 0xe7, 0xb9, 0x00, 0x04, 0x00, 0x00, /* mov rdi, rsp; mov ecx, 1024 */
    0x31, 0xc0, 0xf3, 0x48, 0xab,                   /* xor eax, eax; rep stosq */
    0xcc, 0x75, 0x00,                               /* int3; jne */
    0x48, 0x89, 0xec, 0x5d, 0xc3};

static const unsigned char *code_to_run;
static size_t code_len;

__attribute__((noinline)) static void run_code(void)
{
  void (*code)(void);
  unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED)
    _exit(1);
  memcpy(page, code_to_run, code_len);
  memcpy(&code, &page, sizeof code);
  code();
  sink++;
}

static void check_code(const unsigned char *code, size_t len, enum ss_method method)
{
  static const char *const names[] = {"run_code", "main", "_start", NULL};
  struct stopped s;
  enum ss_end end;
  code_to_run = code;
  code_len = len;
  stopped_init(&s, stopped_fork(run_code));
  size_t count = unwind_all(&s, &end);
  assert_int_equal(end, SS_END_COMPLETE);
  assert_null(frames[0].module);
  assert_int_equal(frames[0].method, method);
  assert_int_equal(frames[1].method, SS_METHOD_CFI);
  expect_in_order(count, names);
  assert_int_equal(stopped_find(frames, count, 1, "run_code"), 2);
  stopped_release(&s);
}

static void test_scan(void **state)
{
  (void)state;
  check_code(plain_code, sizeof plain_code, SS_METHOD_SCAN);
}

static void test_frame_pointer(void **state)
{
  (void)state;
  check_code(framed_code, sizeof framed_code, SS_METHOD_FRAME_POINTER);
}

/* Registers that no program can have: an end, not a crash. */
static void test_nonsense_registers(void **state)
{
  (void)state;
  struct stopped s;
  uint64_t seed = 0x9e3779b97f4a7c15u;
  stopped_init(&s, stopped_fork(outer));
  struct ss_regs good = s.regs;
  for (int round = 0; round < 2000; round++) {
    enum ss_end end;
    s.regs = good;
    for (int k = 0; k < 3; k++) {
      seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
      uint64_t *r = &s.regs.r[seed % SS_REG_COUNT];
      *r = (seed >> 8 & 3) == 0   ? seed
           : (seed >> 8 & 3) == 1 ? *r + (seed >> 10 & 0xfff)
           : (seed >> 8 & 3) == 2 ? good.r[seed >> 12 & 15]
                                  : 0;
    }
    size_t count = unwind_all(&s, &end);
    assert_true(count >= 1);
    assert_true(end < SS_END_COUNT);
  }
  s.regs = good;
  s.regs.r[SS_REG_IP] = 0;
  enum ss_end end;
  assert_int_equal(unwind_all(&s, &end), 1);
  assert_int_equal(end, SS_END_NO_MAP);
  stopped_release(&s);
}

static void test_words(void **state)
{
  (void)state;
  assert_string_equal(ss_end_word(SS_END_COMPLETE), "complete");
  assert_string_equal(ss_end_word(SS_END_NO_UNWIND), "no_unwind");
  assert_string_equal(ss_end_word(SS_END_NONE), "unknown");
  assert_string_equal(ss_method_word(SS_METHOD_FRAME_POINTER), "frame_pointer");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_call_chain),
      cmocka_unit_test(test_unknown_frame_pointer),
      cmocka_unit_test(test_audit),
      cmocka_unit_test(test_made_context),
      cmocka_unit_test(test_signal_frame),
      cmocka_unit_test(test_signal_stack),
      cmocka_unit_test(test_deeper_than_snapshot),
      cmocka_unit_test(test_frame_behind_the_copy),
      cmocka_unit_test(test_memo),
      cmocka_unit_test(test_by_pc_and_sp_alone),
      cmocka_unit_test(test_thread_ends_complete),
      cmocka_unit_test(test_scan),
      cmocka_unit_test(test_frame_pointer),
      cmocka_unit_test(test_nonsense_registers),
      cmocka_unit_test(test_words),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
