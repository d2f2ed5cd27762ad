/* Reading another process: partial reads, spans, plans, and what happens where
 * process_vm_readv is refused. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/limits.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

enum { PAGE = 4096 };

static uint64_t addr_of(const void *p)
{
  return (uint64_t)(uintptr_t)p;
}

/* `pages` pages, each byte its page's number + 1. */
static unsigned char *make_pages(size_t pages)
{
  unsigned char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(p != MAP_FAILED);
  for (size_t i = 0; i < pages; i++)
    memset(p + i * PAGE, (int)i + 1, PAGE);
  return p;
}

/* Reads every interesting range around a hole at page 2 of 4. */
static void check_hole(struct ss_mem_live *live, const unsigned char *p)
{
  static unsigned char buf[4 * PAGE];
  static const struct {
    size_t off, len, got;
  } rows[] = {
      {0, 4 * PAGE, 2 * PAGE}, {0, 2 * PAGE, 2 * PAGE}, {100, 3 * PAGE, 2 * PAGE - 100},
      {2 * PAGE - 1, 2, 1},    {2 * PAGE, 8, 0},        {2 * PAGE + 5, 2 * PAGE - 5, 0},
      {3 * PAGE, PAGE, PAGE},  {3 * PAGE - 1, 2, 0},    {4 * PAGE - 8, 8, 8},
      {PAGE - 4, 8, 8},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    size_t got = ss_mem_read(&live->mem, addr_of(p) + rows[i].off, buf, rows[i].len);
    assert_int_equal(got, rows[i].got);
    for (size_t b = 0; b < got; b++)
      assert_int_equal(buf[b], (rows[i].off + b) / PAGE + 1);
  }
}

static void test_partial_reads(void **state)
{
  (void)state;
  unsigned char *p = make_pages(4);
  struct ss_mem_live live;
  ss_mem_live_init(&live, getpid());
  assert_int_equal(munmap(p + 2 * PAGE, PAGE), 0);
  check_hole(&live, p);
  assert_int_equal(live.mem_fd, -1);
  ss_mem_live_release(&live);
  munmap(p, 4 * PAGE);
}

static void test_guard_page(void **state)
{
  (void)state;
  unsigned char *p = make_pages(4);
  struct ss_mem_live live;
  ss_mem_live_init(&live, getpid());
  assert_int_equal(mprotect(p + 2 * PAGE, PAGE, PROT_NONE), 0);
  check_hole(&live, p);
  ss_mem_live_release(&live);
  munmap(p, 4 * PAGE);
}

/* More pages than one call has iovecs. */
static void test_long_read_to_a_hole(void **state)
{
  (void)state;
  enum { PAGES = 300 };
  unsigned char *p = make_pages(PAGES);
  unsigned char *buf = calloc(PAGES, PAGE);
  struct ss_mem_live live;
  ss_mem_live_init(&live, getpid());
  assert_int_equal(munmap(p + 250 * PAGE, PAGE), 0);
  assert_int_equal(ss_mem_read(&live.mem, addr_of(p) + 10, buf, 299 * PAGE),
                   250 * PAGE - 10);
  assert_memory_equal(buf, p + 10, 250 * PAGE - 10);
  ss_mem_live_release(&live);
  free(buf);
  munmap(p, PAGES * PAGE);
}

static void test_wild_addresses(void **state)
{
  (void)state;
  struct ss_mem_live live;
  uint64_t value;
  ss_mem_live_init(&live, getpid());
  assert_false(ss_mem_u64(&live.mem, 0, &value));
  assert_false(ss_mem_u64(&live.mem, UINT64_MAX, &value));
  assert_false(ss_mem_u64(&live.mem, UINT64_MAX - 3, &value));
  assert_false(ss_mem_u64(&live.mem, 0x8000000000000000u, &value));
  assert_false(ss_mem_u64(&live.mem, 0xffffffff81000000u, &value));
  ss_mem_live_release(&live);
}

static void test_dead_process(void **state)
{
  (void)state;
  struct ss_mem_live live;
  uint64_t value = 5;
  pid_t pid = fork();
  if (pid == 0)
    _exit(0);
  ss_mem_live_init(&live, pid);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  assert_false(ss_mem_u64(&live.mem, addr_of(&value), &value));
  ss_mem_live_release(&live);
}

/* ---- refused ---------------------------------------------------------------- */

static bool deny_vm_readv(int error)
{
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog prog = {sizeof code / sizeof code[0], code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

/* The whole of check_hole by /proc/PID/mem, in a child under the filter. */
static void check_refused(int error)
{
  unsigned char *p = make_pages(4);
  assert_int_equal(munmap(p + 2 * PAGE, PAGE), 0);
  pid_t pid = fork();
  if (pid == 0) {
    struct ss_mem_live live;
    uint64_t value;
    ss_mem_live_init(&live, getpid());
    if (!deny_vm_readv(error))
      _exit(3);
    check_hole(&live, p);
    bool ok = live.mem_fd >= 0 && !ss_mem_u64(&live.mem, UINT64_MAX - 20, &value);
    ss_mem_live_release(&live);
    _exit(ok ? 0 : 4);
  }
  int status = -1;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
  munmap(p, 4 * PAGE);
}

static void test_seccomp(void **state)
{
  (void)state;
  check_refused(EPERM);
  check_refused(ENOSYS);
}

/* The descriptor of /proc/PID/mem belongs to the old image after an exec. */
static void test_file_follows_exec(void **state)
{
  (void)state;
  int ready[2], go[2];
  char byte = 0;
  assert_int_equal(pipe(ready), 0);
  assert_int_equal(pipe(go), 0);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(ready[1], 1);
    dup2(go[0], 0);
    if (write(1, "a", 1) != 1 || read(0, &byte, 1) != 1)
      _exit(1);
    execl("/bin/cat", "cat", (char *)NULL);
    _exit(1);
  }
  struct ss_mem_live live;
  ss_mem_live_init(&live, pid);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
  live.mem_fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_true(ss_mem_get(&live.mem, addr_of(path), path, sizeof path));
  assert_int_equal(write(go[1], "xb", 2), 2);
  assert_int_equal(read(ready[0], &byte, 1), 1); /* cat runs */
  struct ss_paths *paths = ss_paths_new();
  struct ss_maps maps;
  uint32_t magic = 0;
  ss_maps_init(&maps, paths);
  assert_int_equal(ss_maps_load(&maps, pid, NULL), SS_ERR_OK);
  assert_true(ss_mem_u32(&live.mem, maps.items[0].start, &magic));
  assert_int_equal(magic, 0x464c457f);
  ss_maps_release(&maps);
  ss_paths_free(paths);
  ss_mem_live_release(&live);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
}

/* ---- a leader that ended ------------------------------------------------------ */

static void *stay(void *arg)
{
  (void)arg;
  for (;;)
    pause();
  return NULL;
}

/* Until the leader is a zombie whose other thread runs on. */
static bool wait_zombie_leader(pid_t pid)
{
  uint64_t deadline = ss_now_ns() + 20000000000u;
  struct ss_stat st;
  while (ss_now_ns() < deadline) {
    if (ss_stat_read(&st, pid, 0) && st.state == 'Z')
      return !ss_stat_ended(&st);
    usleep(1000);
  }
  return false;
}

static void test_zombie_leader(void **state)
{
  (void)state;
  static const uint64_t secret = 0x1122334455667788u;
  pid_t pid = fork();
  if (pid == 0) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, stay, NULL) != 0)
      _exit(1);
    syscall(SYS_exit, 0);
  }
  assert_true(wait_zombie_leader(pid));
  struct ss_mem_live live;
  struct ss_maps maps;
  struct ss_paths *paths = ss_paths_new();
  uint64_t value = 0;
  ss_mem_live_init(&live, pid);
  ss_maps_init(&maps, paths);
  assert_true(ss_mem_u64(&live.mem, addr_of(&secret), &value));
  assert_int_equal(value, secret);
  assert_int_not_equal(live.via, pid);
  assert_int_equal(ss_maps_load(&maps, pid, NULL), SS_ERR_OK);
  assert_non_null(ss_maps_find(&maps, addr_of(&secret)));
  ss_maps_release(&maps);
  ss_paths_free(paths);
  ss_mem_live_release(&live);
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- spans and plans ------------------------------------------------------------ */

struct fake {
  struct ss_mem mem;
  uint64_t end;
  size_t reads;
};

/* Memory from 0 to `end` whose bytes are 0xee. */
static size_t fake_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  struct fake *f = (struct fake *)(uintptr_t)mem;
  f->reads++;
  if (addr >= f->end)
    return 0;
  size_t n = f->end - addr < len ? (size_t)(f->end - addr) : len;
  memset(buf, 0xee, n);
  return n;
}

static void test_spans(void **state)
{
  (void)state;
  static const unsigned char one[] = "abcdef", two[] = "XYZ", top[] = "tp";
  struct ss_span spans[] = {
      {0x1000, 6, one}, {0x1008, 3, two}, {UINT64_MAX - 1, 2, top}, {0x1006, 0, one}};
  struct fake behind = {{.read = fake_read}, 0x1010, 0};
  struct ss_mem_spans m;
  char buf[32];

  ss_mem_spans_init(&m, spans, 4, NULL);
  assert_int_equal(ss_mem_read(&m.mem, 0x1000, buf, 20), 6);
  assert_memory_equal(buf, "abcdef", 6);
  assert_int_equal(ss_mem_read(&m.mem, 0x1004, buf, 2), 2);
  assert_memory_equal(buf, "ef", 2);
  assert_int_equal(ss_mem_read(&m.mem, 0xfff, buf, 4), 0);
  assert_int_equal(ss_mem_read(&m.mem, UINT64_MAX - 1, buf, 20), 2);
  assert_memory_equal(buf, "tp", 2);

  ss_mem_spans_init(&m, spans, 4, &behind.mem);
  assert_int_equal(ss_mem_read(&m.mem, 0xffe, buf, 32), 0x12);
  assert_memory_equal(buf,
                      "\xee\xee"
                      "abcdef"
                      "\xee\xee"
                      "XYZ"
                      "\xee\xee\xee\xee\xee",
                      0x12);
  behind.reads = 0;
  assert_true(ss_mem_get(&m.mem, 0x1001, buf, 5));
  assert_int_equal(behind.reads, 0);
}

static void test_plan(void **state)
{
  (void)state;
  unsigned char *p = make_pages(4);
  unsigned char buf[64];
  struct ss_span spans[16];
  struct ss_read_plan plan = {
      .count = 3, .regions = {{addr_of(p), 8}, {addr_of(p) + PAGE, 4}, {addr_of(p), 2}}};
  size_t got = ss_read_plan_run(&plan, getpid(), buf, sizeof buf);
  assert_int_equal(got, 14);
  assert_int_equal(ss_read_plan_spans(&plan, buf, got, spans, 16), 3);
  assert_int_equal(spans[1].addr, addr_of(p) + PAGE);
  assert_int_equal(spans[1].len, 4);
  assert_ptr_equal(spans[1].bytes, buf + 8);
  assert_int_equal(spans[1].bytes[0], 2);

  /* The second region runs into a hole: it ends there, the third is not read. */
  assert_int_equal(munmap(p + 2 * PAGE, PAGE), 0);
  plan.regions[1] = (struct ss_region){addr_of(p) + 2 * PAGE - 3, 20};
  got = ss_read_plan_run(&plan, getpid(), buf, sizeof buf);
  assert_int_equal(got, 11);
  assert_int_equal(ss_read_plan_spans(&plan, buf, got, spans, 16), 2);
  assert_int_equal(spans[1].len, 3);

  /* A small buffer cuts; a hostile count does not overrun. */
  plan.regions[1] = (struct ss_region){addr_of(p) + PAGE, 4};
  assert_int_equal(ss_read_plan_run(&plan, getpid(), buf, 9), 9);
  assert_int_equal(ss_read_plan_spans(&plan, buf, 9, spans, 1), 1);
  plan.count = 0;
  assert_int_equal(ss_read_plan_run(&plan, getpid(), buf, sizeof buf), 0);
  munmap(p, 4 * PAGE);
}

static void check_region(const struct ss_read_plan *plan, unsigned at, uint64_t from,
                         uint64_t end)
{
  assert_true(at < plan->count);
  assert_int_equal(plan->regions[at].addr, from);
  assert_int_equal(plan->regions[at].len, end - from);
}

static void test_plan_stack(void **state)
{
  (void)state;
  const struct ss_read_plan wanted = {
      .count = 1, .regions = {{0x100, 8}}, .stack_from = 0x9000, .stack_end = 0xb000};
  struct ss_read_plan plan = wanted;
  ss_read_plan_stack(&plan, 0x4000, 0x1000); /* joined by the copy's end */
  assert_int_equal(plan.count, 3);
  check_region(&plan, 0, 0x5000 - SS_STACK_OVERLAP, 0x5000);
  check_region(&plan, 1, 0x9000, 0xb000);
  check_region(&plan, 2, 0x100, 0x108);
  plan = wanted;
  ss_read_plan_stack(&plan, 0x9800, 0x1000); /* the copy has most of it */
  assert_int_equal(plan.count, 2);
  check_region(&plan, 0, 0xa800 - SS_STACK_OVERLAP, 0xb000);
  check_region(&plan, 1, 0x100, 0x108);
  const uint64_t none[][2] = {{0xa000, 0x1000},           /* has all of it */
                              {0x4000, 0x80},             /* too short to be joined */
                              {UINT64_MAX - 16, 0x1000}}; /* wraps */
  for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
    plan = wanted;
    ss_read_plan_stack(&plan, none[i][0], none[i][1]);
    assert_int_equal(plan.count, 1);
  }
  const uint64_t elsewhere[] = {0xc000, 0xb000, 0x7f0000000000};
  for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++) {
    plan = wanted;
    ss_read_plan_stack(&plan, elsewhere[i], 0x1000);
    assert_int_equal(plan.count, 2);
    check_region(&plan, 0, 0x100, 0x108);
    check_region(&plan, 1, 0x9000, 0xb000);
  }
  plan = wanted;
  plan.stack_from = 0x7f0000000000; /* the outer part of it */
  plan.stack_end = plan.stack_from + SS_PLAN_BYTES_MAX;
  ss_read_plan_stack(&plan, 0x4000, 0);
  check_region(&plan, 1, plan.stack_end - SS_PLAN_DEEP_MAX, plan.stack_end);
  plan = wanted;
  plan.stack_end = 0x9000 + SS_PLAN_BYTES_MAX; /* too much: its lower part */
  ss_read_plan_stack(&plan, 0x4000, 0x1000);
  check_region(&plan, 1, 0x9000, 0x9000 + SS_PLAN_DEEP_MAX + SS_STACK_OVERLAP);
  plan.count = SS_PLAN_REGIONS_MAX; /* never by ss_read_plan_add */
  ss_read_plan_stack(&plan, 0x4000, 0x1000);
  assert_int_equal(plan.count, SS_PLAN_REGIONS_MAX);
}

/* Whatever else is read, the stack has its place, and does not depend on the rest. */
static void test_plan_of_many_regions(void **state)
{
  (void)state;
  unsigned char *p = make_pages(3);
  unsigned char buf[2 * SS_STACK_OVERLAP];
  struct ss_span spans[SS_PLAN_REGIONS_MAX];
  struct ss_read_plan plan = {.stack_from = addr_of(p) + 2 * PAGE,
                              .stack_end = addr_of(p) + 2 * PAGE + 64};
  for (unsigned i = 0; i < 2 * SS_PLAN_REGIONS_MAX; i++)
    ss_read_plan_add(&plan, addr_of(p) + PAGE, 8); /* unmapped below */
  ss_read_plan_add(&plan, addr_of(p), 0);
  assert_int_equal(plan.count, SS_PLAN_REGIONS_MAX - SS_PLAN_STACK_REGIONS);
  assert_int_equal(munmap(p + PAGE, PAGE), 0);
  ss_read_plan_stack(&plan, addr_of(p), SS_STACK_OVERLAP);
  assert_int_equal(plan.count, SS_PLAN_REGIONS_MAX);
  size_t got = ss_read_plan_run(&plan, getpid(), buf, sizeof buf);
  assert_int_equal(got, SS_STACK_OVERLAP + 64);
  assert_int_equal(ss_read_plan_spans(&plan, buf, got, spans, SS_PLAN_REGIONS_MAX), 2);
  assert_int_equal(spans[1].addr, addr_of(p) + 2 * PAGE);
  assert_int_equal(spans[1].bytes[0], p[2 * PAGE]);
  munmap(p, PAGE);
  munmap(p + 2 * PAGE, PAGE);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_partial_reads),
      cmocka_unit_test(test_guard_page),
      cmocka_unit_test(test_long_read_to_a_hole),
      cmocka_unit_test(test_wild_addresses),
      cmocka_unit_test(test_dead_process),
      cmocka_unit_test(test_seccomp),
      cmocka_unit_test(test_file_follows_exec),
      cmocka_unit_test(test_zombie_leader),
      cmocka_unit_test(test_spans),
      cmocka_unit_test(test_plan),
      cmocka_unit_test(test_plan_stack),
      cmocka_unit_test(test_plan_of_many_regions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
