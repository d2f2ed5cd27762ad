/* Identity and listings: hostile names, cut texts, threads, trees, and every
 * reason for which a process may not be read. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/proc/proc_priv.h"
#include "stacksample/buf.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

#define TAIL                                                                             \
  " S 1 4121 4121 34816 -1 4194304 1234 5 67 8 910 1112 13 14 20 -5 3 0 98765 1 2 3\n"

static void test_stat(void **state)
{
  (void)state;
  static const char text[] = "4122 (python3)" TAIL;
  struct ss_stat st;
  assert_true(ss_stat_parse(&st, text, sizeof text - 1));
  assert_int_equal(st.pid, 4122);
  assert_string_equal(st.comm, "python3");
  assert_int_equal(st.state, 'S');
  assert_int_equal(st.ppid, 1);
  assert_int_equal(st.flags, 4194304);
  assert_int_equal(st.minflt, 1234);
  assert_int_equal(st.utime_ticks, 910);
  assert_int_equal(st.stime_ticks, 1112);
  assert_int_equal(st.threads, 3);
  assert_int_equal(st.start_ticks, 98765);
  assert_int_equal(st.processor, -1); /* this line ends before it */
}

static void test_processor(void **state)
{
  (void)state;
  static const char text[] =
      "1 (a) S 1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0 98765 1 2 "
      "18446744073709551615 4 5 6 7 8 9 10 11 12 13 14 15 17 3 0 0 0 0 0\n";
  struct ss_stat st;
  assert_true(ss_stat_parse(&st, text, sizeof text - 1));
  assert_int_equal(st.processor, 3);
  assert_true(ss_stat_read(&st, getpid(), 0));
  assert_true(st.processor >= 0 && st.processor < sysconf(_SC_NPROCESSORS_CONF));
  assert_true(ss_stat_age_ns(&st) < UINT64_C(600000000000));
}

static void test_hostile_names(void **state)
{
  (void)state;
  static const char *const names[] = {
      "",
      ")",
      "(",
      "a) R 1 (b",
      ") Z 2 3 4 5 6 7 8 9 (",
      "x\ny",
      "((((",
      "))))",
      " ",
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  };
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char text[256];
    struct ss_stat st;
    int len = snprintf(text, sizeof text, "7 (%s)" TAIL, names[i]);
    assert_true(ss_stat_parse(&st, text, (size_t)len));
    assert_string_equal(st.comm, names[i]);
    assert_int_equal(st.state, 'S');
    assert_int_equal(st.start_ticks, 98765);
  }
}

/* Up to the byte behind the start time every prefix is refused, so that no cut
 * number passes for a whole one. */
static void test_every_prefix(void **state)
{
  (void)state;
  static const char text[] = "4122 (py (3) x)" TAIL;
  size_t enough = (size_t)(strstr(text, "98765") - text) + 6;
  for (size_t len = 0; len < sizeof text; len++) {
    char *copy = malloc(len + 1);
    struct ss_stat st;
    memcpy(copy, text, len);
    copy = realloc(copy, len ? len : 1); /* exact, for ASan */
    assert_int_equal(ss_stat_parse(&st, copy, len), len >= enough);
    free(copy);
  }
}

static void test_bad_stats(void **state)
{
  (void)state;
  static const char *const bad[] = {
      "x (a)" TAIL,
      "1 a" TAIL,
      "1 (a" TAIL,
      "1(a)" TAIL,
      "99999999999 (a)" TAIL,
      "1 (a)  1 2 3",
      "1 (a) SS 1 4121 4121 34816 -1 4194304 1 5 67 8 9 11 13 14 20 -5 3 0 98765 1\n",
      "1 (a) S 1 4121 4121 34816 -1 4194304 1 5 67 8 9 11 13 14 20 -5 3 0 x8765 1\n",
      "1 (a) S 1 4121 4121 34816 - 4194304 1 5 67 8 9 11 13 14 20 -5 3 0 98765 1\n",
      "1 (a) S 1 99999999999999999999999 4121 34816 -1 4194304 1 5 67 8 9 11 13 14 2 3 3 "
      "0 9 1\n",
      "1 (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa)" TAIL,
  };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct ss_stat st;
    if (ss_stat_parse(&st, bad[i], strlen(bad[i])))
      fail_msg("row %zu was accepted: %s", i, bad[i]);
  }
}

static void test_own_facts(void **state)
{
  (void)state;
  struct ss_stat st, thread;
  struct ss_identity id;
  uint64_t cpu = 0, wait = 0;
  struct ss_words words = {0};
  assert_int_equal(prctl(PR_SET_NAME, ") R 1 (x"), 0);
  assert_true(ss_stat_read(&st, getpid(), 0));
  assert_string_equal(st.comm, ") R 1 (x");
  assert_int_equal(st.ppid, getppid());
  assert_true(ss_stat_read(&thread, getpid(), ss_gettid()));
  assert_int_equal(thread.start_ticks, st.start_ticks);
  assert_false(ss_stat_read(&st, 0x3fffffff, 0));
  assert_true(ss_schedstat_read(getpid(), ss_gettid(), &cpu, &wait));
  assert_false(ss_schedstat_read(0x3fffffff, 0, &cpu, &wait));
  assert_true(ss_identity_get(&id, getpid()));
  assert_true(ss_identity_alive(&id));
  id.start_ticks++;
  assert_false(ss_identity_alive(&id)); /* the pid is somebody else's */
  assert_true(ss_words_read(&words, getpid(), "cmdline", 4096));
  assert_int_equal(words.count, 1);
  assert_non_null(strstr(words.items[0], "test_stat"));
  assert_true(ss_words_read(&words, getpid(), "cmdline", 5));
  assert_int_equal(strlen(words.items[0]), 5);
  assert_true(ss_words_read(&words, getpid(), "environ", 1 << 20));
  assert_false(ss_words_read(&words, 0x3fffffff, "cmdline", 5));
  assert_null(words.items);
  ss_words_release(&words);
}

static void test_status(void **state)
{
  static const char text[] =
      "Name:\ta\\nTgid:\t9\nTgid:\t12\nSigCgt:\t0000000000000020\n";
  struct ss_buf own = {0};
  (void)state;
  assert_int_equal(ss_status_number(text, "Tgid", 10), 12);
  assert_int_equal(ss_status_number(text, "SigCgt", 16), 32);
  assert_int_equal(ss_status_number(text, "Sig", 16), 0);
  assert_null(ss_status_value("", "Tgid"));
  assert_true(ss_status_read(&own, getpid(), ss_gettid()));
  assert_int_equal(ss_status_number(own.data, "Tgid", 10), getpid());
  assert_true(ss_status_read(&own, getppid(), 0));
  assert_int_equal(ss_status_number(own.data, "Pid", 10), getppid());
  assert_false(ss_status_read(&own, 0x3fffffff, 0));
  ss_buf_release(&own);
}

static void test_cmdline_of_a_child(void **state)
{
  (void)state;
  struct ss_words words = {0};
  int out[2], in[2];
  char byte;
  assert_int_equal(pipe(out), 0);
  assert_int_equal(pipe(in), 0);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    execl("/bin/cat", "cat", "-", "", "-", "", (char *)NULL);
    _exit(1);
  }
  assert_int_equal(write(in[1], "x", 1), 1);
  assert_int_equal(read(out[0], &byte, 1), 1);
  assert_true(ss_words_read(&words, pid, "cmdline", 4096));
  assert_int_equal(words.count, 5);
  assert_string_equal(words.items[2], "");
  assert_string_equal(words.items[3], "-");
  assert_string_equal(words.items[4], "");
  assert_null(words.items[5]);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  ss_words_release(&words);
  close(in[0]), close(in[1]), close(out[0]), close(out[1]);
}

/* ---- listings -------------------------------------------------------------------- */

static void *wait_for_eof(void *arg)
{
  char byte;
  while (read(*(int *)arg, &byte, 1) > 0)
    ;
  return NULL;
}

static void test_threads(void **state)
{
  (void)state;
  enum { THREADS = 5 };
  pthread_t threads[THREADS];
  pid_t *tids = NULL;
  size_t count = 0;
  int hold[2];
  assert_int_equal(pipe(hold), 0);
  for (int i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, wait_for_eof, &hold[0]), 0);
  assert_int_equal(ss_tasks_list(getpid(), &tids, &count), SS_ERR_OK);
  assert_int_equal(count, THREADS + 1);
  for (size_t i = 1; i < count; i++)
    assert_true(tids[i - 1] < tids[i]);
  free(tids);
  close(hold[1]);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  close(hold[0]);
  assert_int_equal(ss_tasks_list(0x3fffffff, &tids, &count), SS_ERR_GONE);
  assert_null(tids);
}

/* A chain of three processes, and a zombie child of the first. */
static void chain(int ready, int hold)
{
  char byte;
  siginfo_t info;
  pid_t zombie = fork();
  if (zombie == 0)
    _exit(0);
  waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT);
  int depth = 1;
  while (depth < 3 && fork() == 0)
    depth++;
  if (depth == 3 && write(ready, "x", 1) != 1)
    _exit(1);
  while (read(hold, &byte, 1) > 0)
    ;
  _exit(0);
}

static bool listed(const pid_t *pids, size_t count, pid_t pid)
{
  for (size_t i = 0; i < count; i++)
    if (pids[i] == pid)
      return true;
  return false;
}

static void test_tree(void **state)
{
  (void)state;
  int ready[2], hold[2];
  char byte;
  pid_t *pids = NULL;
  size_t count = 0;
  assert_int_equal(pipe(ready), 0);
  assert_int_equal(pipe(hold), 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(hold[1]);
    chain(ready[1], hold[0]);
  }
  assert_int_equal(read(ready[0], &byte, 1), 1);
  assert_int_equal(ss_tree_list(pid, &pids, &count), SS_ERR_OK);
  assert_int_equal(count, 3); /* the zombie is not among them */
  assert_int_equal(pids[0], pid);
  struct ss_stat st;
  for (size_t i = 1; i < count; i++) {
    assert_true(ss_stat_read(&st, pids[i], 0));
    assert_int_equal(st.ppid, pids[i - 1]);
  }
  free(pids);
  assert_int_equal(ss_tree_list(getpid(), &pids, &count), SS_ERR_OK);
  assert_true(listed(pids, count, getpid()) && listed(pids, count, pid));
  free(pids);
  close(hold[1]);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  close(ready[0]), close(ready[1]), close(hold[0]);
  assert_int_equal(ss_tree_list(pid, &pids, &count), SS_ERR_GONE);
  assert_null(pids);
}

/* ---- refusals -------------------------------------------------------------------- */

static const struct ss_access_facts readable = {
    .pid = 4121,
    .tgid = 4121,
    .ppid = 1,
    .exists = true,
    .uid = {1000, 1000, 1000, 1000},
    .gid = {1000, 1000, 1000, 1000},
    .own_uid = 1000,
    .own_gid = 1000,
    .yama = -1,
};

static void check_judged(struct ss_access_facts f, enum ss_err err, const char *part)
{
  struct ss_diag diag = {0};
  assert_int_equal(ss_access_judge(&f, &diag), err);
  if (!strstr(diag.text, part))
    fail_msg("no \"%s\" in \"%s\"", part, diag.text);
  assert_null(strchr(diag.text, '\n'));
}

#define WITH(...) /* the readable process, changed by statements on f */                 \
  ({                                                                                     \
    struct ss_access_facts f = readable;                                                 \
    __VA_ARGS__;                                                                         \
    f;                                                                                   \
  })

static void test_judged_kinds(void **state)
{
  (void)state;
  check_judged(readable, SS_ERR_OK, "");
  check_judged(WITH(f.exists = false), SS_ERR_GONE, "no process has PID 4121");
  check_judged(WITH(f.exists = false; f.hidden = true), SS_ERR_ACCESS, "hidepid");
  check_judged(WITH(f.pid = -3), SS_ERR_USAGE, "-3 is not a process");
  check_judged(WITH(f.self = true), SS_ERR_USAGE, "stacksample itself");
  check_judged(WITH(f.tgid = 4000), SS_ERR_USAGE, "thread of process 4000");
  check_judged(WITH(f.ended = true), SS_ERR_GONE, "zombie that its parent 1");
  check_judged(WITH(f.kernel_thread = true), SS_ERR_UNSUPPORTED, "kernel thread");
  check_judged(WITH(f.sys_errno = ESRCH), SS_ERR_GONE, "just ended");
  check_judged(WITH(f.tracer = 77; memcpy(f.tracer_comm, "gdb", 4)), SS_ERR_ACCESS,
               "already being traced by PID 77 (gdb)");
}

/* A setting is named only where it is the cause (R58). */
static void test_judged_refusals(void **state)
{
  (void)state;
  const uint64_t ptrace_cap = 1u << 19;
  struct ss_access_facts no = WITH(f.sys_errno = EPERM);
  struct ss_access_facts f = no;
  check_judged(f, SS_ERR_ACCESS, "security module");
  f.uid[1] = 4294967;
  f.yama = 1;
  check_judged(f, SS_ERR_ACCESS, "belongs to user 4294967; run as that user or with CAP");
  f = no, f.gid[2] = 5;
  check_judged(f, SS_ERR_ACCESS, "belongs to user");
  f = no, f.protected_image = true, f.yama = 1;
  check_judged(f, SS_ERR_ACCESS, "PR_SET_DUMPABLE");
  f = no, f.caps = 1;
  check_judged(f, SS_ERR_ACCESS, "capabilities that we lack");
  f = no, f.yama = 1;
  check_judged(f, SS_ERR_ACCESS, "sudo sysctl kernel.yama.ptrace_scope=0");
  f.descendant = true;
  check_judged(f, SS_ERR_ACCESS, "security module");
  f = no, f.yama = 2;
  check_judged(f, SS_ERR_ACCESS, "ptrace_scope is 2");
  f.own_caps = ptrace_cap;
  check_judged(f, SS_ERR_ACCESS, "security module");
  f.yama = 3;
  check_judged(f, SS_ERR_ACCESS, "ptrace_scope is 3");
  f = no, f.own_refused = true, f.yama = 2;
  check_judged(f, SS_ERR_ACCESS, "--cap-add=SYS_PTRACE");
  f.own_seccomp = true;
  check_judged(f, SS_ERR_ACCESS, "(seccomp)");
}

static void check_explained(pid_t pid, enum ss_err err, const char *part)
{
  struct ss_diag diag = {0};
  assert_int_equal(ss_access_explain(pid, &diag), err);
  if (!strstr(diag.text, part))
    fail_msg("no \"%s\" in \"%s\"", part, diag.text);
}

static void test_explained_for_real(void **state)
{
  (void)state;
  int hold[2];
  char byte;
  siginfo_t info;
  check_explained(0x3fffffff, SS_ERR_GONE, "no process has PID");
  check_explained(0, SS_ERR_USAGE, "not a process");
  check_explained(getpid(), SS_ERR_USAGE, "stacksample itself");
  if (access("/proc/2/stat", R_OK) == 0)
    check_explained(2, SS_ERR_UNSUPPORTED, "kernel thread");
  assert_int_equal(pipe(hold), 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(hold[1]);
    _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  check_explained(pid, SS_ERR_OK, "");
  assert_int_equal(ptrace(PTRACE_SEIZE, pid, 0, 0), 0);
  check_explained(pid, SS_ERR_ACCESS, "already being traced by PID");
  close(hold[1]);
  assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  check_explained(pid, SS_ERR_GONE, "zombie");
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  close(hold[0]);
}

/* As an ordinary user: another user's process, and one that is not dumpable. */
static void explain_as_nobody(pid_t other)
{
  struct ss_diag diag = {0};
  int hold[2], ready[2];
  char byte;
  if (setgid(65534) != 0 || setuid(65534) != 0)
    _exit(2);
  if (ss_access_explain(other, &diag) != SS_ERR_ACCESS ||
      !strstr(diag.text, "belongs to user root"))
    _exit(3);
  if (pipe(hold) != 0 || pipe(ready) != 0)
    _exit(4);
  pid_t pid = fork();
  if (pid == 0) {
    close(hold[1]);
    prctl(PR_SET_DUMPABLE, 0);
    if (write(ready[1], "x", 1) != 1)
      _exit(1);
    _exit((int)read(hold[0], &byte, 1));
  }
  if (read(ready[0], &byte, 1) != 1)
    _exit(5);
  bool ok = ss_access_explain(pid, &diag) == SS_ERR_ACCESS &&
            strstr(diag.text, "PR_SET_DUMPABLE");
  close(hold[1]);
  waitpid(pid, NULL, 0);
  _exit(ok ? 0 : 6);
}

static void test_explained_unprivileged(void **state)
{
  (void)state;
  int status = -1;
  if (geteuid() != 0)
    skip();
  pid_t other = getpid();
  pid_t pid = fork();
  if (pid == 0)
    explain_as_nobody(other);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static bool is_listed(struct ss_newcomers *n, pid_t pid)
{
  pid_t *pids = NULL;
  size_t count = 0;
  bool found = false;
  assert_int_equal(ss_newcomers_list(n, &pids, &count), SS_ERR_OK);
  for (size_t i = 0; i < count; i++)
    found |= pids[i] == pid;
  free(pids);
  return found;
}

static void test_newcomers_are_listed_once(void **state)
{
  struct ss_newcomers n = {0};
  (void)state;
  assert_true(is_listed(&n, getpid()));
  pid_t child = fork();
  if (child == 0)
    for (;;)
      pause();
  assert_true(is_listed(&n, child));
  assert_false(is_listed(&n, child));
  assert_false(is_listed(&n, getpid()));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  ss_newcomers_release(&n);
}

/* A fork keeps what an exec changes; code that is mapped shows. */
static void test_image_of_a_process(void **state)
{
  struct ss_stat own, other;
  (void)state;
  pid_t child = fork();
  if (child == 0)
    for (;;)
      pause();
  assert_true(ss_stat_read(&own, getpid(), 0));
  assert_true(ss_stat_read(&other, child, child));
  assert_true(own.start_code > 1 && own.end_code > own.start_code);
  assert_int_equal(own.start_code, other.start_code);
  assert_int_equal(own.start_stack, other.start_stack);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  uint64_t before = ss_exec_kb(getpid(), getpid());
  void *code =
      mmap(NULL, 1 << 20, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(before > 0 && code != MAP_FAILED);
  assert_int_equal(ss_exec_kb(getpid(), getpid()), before + 1024);
  munmap(code, 1 << 20);
  assert_int_equal(ss_exec_kb(0x3fffffff, 0x3fffffff), 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stat),
      cmocka_unit_test(test_processor),
      cmocka_unit_test(test_newcomers_are_listed_once),
      cmocka_unit_test(test_image_of_a_process),
      cmocka_unit_test(test_hostile_names),
      cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_bad_stats),
      cmocka_unit_test(test_own_facts),
      cmocka_unit_test(test_status),
      cmocka_unit_test(test_cmdline_of_a_child),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_tree),
      cmocka_unit_test(test_judged_kinds),
      cmocka_unit_test(test_judged_refusals),
      cmocka_unit_test(test_explained_for_real),
      cmocka_unit_test(test_explained_unprivileged),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
