/*
 * The launcher, each test in a process of its own that is its own process group:
 * what reaches the command, what comes back, what happens when we are killed.
 * Terminals and shells are left to tests/e2e.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/proc/launch_priv.h"
#include "stacksample/sys.h"

enum { DEADLINE_MS = 60000 };

/* What the launcher under test tells; shared memory, for it closes descriptors. */
struct report {
  int prepare_err, release_err;
  struct ss_exit exit;
  pid_t child, witness;
  atomic_int released;
  unsigned forwarded, interrupts;
};

struct rig {
  pid_t pid; /* the launcher, leader of its group */
  int in;    /* goes to its fd 0 */
  int out;   /* what arrives on its fd 1 */
  char log[64];
  struct report *report;
};

struct plan {
  char *const *argv;
  bool no_log, abandon;
};

_Noreturn static void launcher(const struct rig *rig, const struct plan *plan)
{
  struct ss_launch_config config = {.argv = plan->argv, .no_log = plan->no_log};
  struct report *r = rig->report;
  struct ss_launch_event event = {0};
  struct ss_launch *l;

  r->prepare_err = (int)ss_launch_prepare(&l, &config, NULL);
  if (r->prepare_err != SS_ERR_OK)
    _exit(1);
  r->child = ss_launch_pid(l);
  r->witness = ss_launch_witness_pid(l);
  if (plan->abandon) {
    ss_launch_abandon(l);
  } else {
    int log = open(rig->log, O_WRONLY | O_APPEND | O_CLOEXEC);
    r->release_err = ss_launch_release(l, log, NULL);
    atomic_store(&r->released, 1);
    while (event.what != SS_LAUNCH_EXITED) {
      ss_launch_next(l, -1, &event);
      r->forwarded += event.what == SS_LAUNCH_SIGNAL && event.forwarded;
    }
    r->interrupts = event.interrupts;
    ss_launch_finish(l, &r->exit);
  }
  ss_launch_free(l);
  _exit(0);
}

static struct rig start(const struct plan *plan)
{
  struct rig rig = {.log = "/tmp/test_launch.XXXXXX"};
  int ends[2], in[2];

  int fd = mkstemp(rig.log);
  assert_true(fd >= 0);
  close(fd);
  rig.report = mmap(NULL, sizeof *rig.report, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(rig.report != MAP_FAILED);
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  assert_int_equal(pipe2(in, O_CLOEXEC), 0);
  rig.pid = fork();
  assert_true(rig.pid >= 0);
  if (rig.pid == 0) {
    setpgid(0, 0);
    dup2(in[0], 0);
    dup2(ends[1], 1);
    launcher(&rig, plan);
  }
  setpgid(rig.pid, rig.pid);
  close(ends[1]);
  close(in[0]);
  rig.out = ends[0];
  rig.in = in[1];
  return rig;
}

/* Reads the launcher's output until `until` was seen (NULL: to the end). */
static void read_out(const struct rig *rig, const char *until, char *text, size_t cap)
{
  size_t len = 0;

  while (len + 1 < cap) {
    struct pollfd pfd = {.fd = rig->out, .events = POLLIN};
    assert_true(poll(&pfd, 1, DEADLINE_MS) > 0);
    ssize_t n = ss_read_some(rig->out, text + len, cap - 1 - len);
    assert_true(n >= 0);
    len += (size_t)n;
    text[len] = '\0';
    if (n == 0 || (until != NULL && strstr(text, until) != NULL))
      return;
  }
}

static void release(struct rig *rig)
{
  unlink(rig->log);
  ss_close(&rig->out);
  ss_close(&rig->in);
}

static int end(struct rig *rig)
{
  int status = 0;

  assert_int_equal(waitpid(rig->pid, &status, 0), rig->pid);
  release(rig);
  return status;
}

static void read_file(const char *path, char *text, size_t cap)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);

  assert_true(fd >= 0);
  ssize_t n = ss_pread_some(fd, text, cap - 1, 0);
  assert_true(n >= 0);
  text[n] = '\0';
  close(fd);
}

#define SHELL(script)                                                                    \
  &(struct plan)                                                                         \
  {                                                                                      \
    .argv = (char *const[])                                                              \
    {                                                                                    \
      "sh", "-c", (script), NULL                                                         \
    }                                                                                    \
  }

static void test_output_and_status(void **state)
{
  char text[256], log[256];
  struct rig rig = start(SHELL("echo one; echo two; exit 3"));

  (void)state;
  read_out(&rig, NULL, text, sizeof text);
  assert_string_equal(text, "one\ntwo\n");
  read_file(rig.log, log, sizeof log);
  assert_string_equal(log, "one\ntwo\n");
  assert_int_equal(end(&rig), 0);
  assert_int_equal(rig.report->release_err, 0);
  assert_int_equal(rig.report->exit.code, 3);
  assert_int_equal(rig.report->exit.signal, 0);
  assert_true(rig.report->exit.end_ns > rig.report->exit.start_ns);
  assert_true(rig.report->exit.ru.ru_maxrss > 0);
}

static void test_status_of_a_signal(void **state)
{
  struct rig rig = start(SHELL("kill -KILL $$"));

  (void)state;
  end(&rig);
  assert_int_equal(rig.report->exit.code, -1);
  assert_int_equal(rig.report->exit.signal, SIGKILL);
}

static void test_exec_errors(void **state)
{
  char *const missing[] = {"./no-such-command", NULL};
  char *const folder[] = {"/tmp", NULL};
  struct plan plan = {.argv = missing};

  (void)state;
  struct rig rig = start(&plan);
  end(&rig);
  assert_int_equal(rig.report->release_err, ENOENT);
  plan.argv = folder;
  rig = start(&plan);
  end(&rig);
  assert_int_equal(rig.report->release_err, EACCES);
}

static void test_abandon(void **state)
{
  char text[64] = "";
  struct plan plan = *SHELL("echo never");

  (void)state;
  plan.abandon = true;
  struct rig rig = start(&plan);
  read_out(&rig, NULL, text, sizeof text);
  assert_string_equal(text, "");
  assert_int_equal(end(&rig), 0);
}

static void test_no_log_passes_through(void **state)
{
  char text[128], log[16];
  struct plan plan = *SHELL("echo plain");

  (void)state;
  plan.no_log = true;
  struct rig rig = start(&plan);
  read_out(&rig, NULL, text, sizeof text);
  read_file(rig.log, log, sizeof log);
  end(&rig);
  assert_string_equal(text, "plain\n");
  assert_string_equal(log, "");
}

/* Counts the USR1 it gets, until a TERM. */
static const char counting[] =
    "n=0; trap 'n=$((n+1)); echo got $n' USR1; trap 'echo all $n; exit 0' TERM; "
    "echo ready; while :; do sleep 0.01; done";

static void test_signal_for_us_alone_goes_on(void **state)
{
  char text[256];
  struct rig rig = start(SHELL((char *)counting));

  (void)state;
  read_out(&rig, "ready\n", text, sizeof text);
  kill(rig.pid, SIGUSR1);
  read_out(&rig, "got 1\n", text, sizeof text);
  kill(rig.pid, SIGTERM);
  read_out(&rig, NULL, text, sizeof text);
  assert_non_null(strstr(text, "all 1\n"));
  end(&rig);
  assert_int_equal(rig.report->forwarded, 2);
  assert_int_equal(rig.report->interrupts, 1);
}

static void test_signal_for_the_group_does_not(void **state)
{
  char text[256];
  struct rig rig = start(SHELL((char *)counting));

  (void)state;
  read_out(&rig, "ready\n", text, sizeof text);
  kill(-rig.pid, SIGUSR1);
  read_out(&rig, "got 1\n", text, sizeof text);
  kill(-rig.pid, SIGTERM);
  read_out(&rig, NULL, text, sizeof text);
  assert_non_null(strstr(text, "all 1\n"));
  end(&rig);
  assert_int_equal(rig.report->forwarded, 0);
}

/* timeout(1): the child, then its group. */
static void test_alone_and_group_make_two(void **state)
{
  char text[256];
  struct rig rig = start(SHELL((char *)counting));

  (void)state;
  read_out(&rig, "ready\n", text, sizeof text);
  kill(rig.pid, SIGUSR1);
  read_out(&rig, "got 1\n", text, sizeof text);
  kill(-rig.pid, SIGUSR1);
  read_out(&rig, "got 2\n", text, sizeof text);
  kill(rig.pid, SIGTERM);
  read_out(&rig, NULL, text, sizeof text);
  assert_non_null(strstr(text, "all 2\n"));
  end(&rig);
  assert_int_equal(rig.report->forwarded, 2);
}

static void test_grandchild_does_not_hold_us(void **state)
{
  char text[64];
  struct rig rig = start(SHELL("sleep 1000 & echo $!"));

  (void)state;
  read_out(&rig, "\n", text, sizeof text);
  assert_int_equal(end(&rig), 0);
  pid_t sleeper = (pid_t)strtol(text, NULL, 10);
  assert_int_equal(kill(sleeper, SIGKILL), 0);
}

static void test_reader_gone_is_sigpipe(void **state)
{
  char text[64];
  struct rig rig = start(SHELL("echo one; exec cat /dev/zero"));

  (void)state;
  read_out(&rig, "one\n", text, sizeof text);
  ss_close(&rig.out);
  end(&rig);
  assert_int_equal(rig.report->exit.signal, SIGPIPE);
}

/* Everything after the kill still arrives, in the pipe and in the log. */
static void test_killed_launcher_costs_nothing(void **state)
{
  static char text[400000], log[400000];
  struct rig rig = start(SHELL("echo ready; read x; seq 1 50000; echo end"));

  (void)state;
  read_out(&rig, "ready\n", text, sizeof text);
  while (atomic_load(&rig.report->released) == 0)
    sched_yield();
  kill(rig.pid, SIGKILL);
  assert_int_equal(waitpid(rig.pid, NULL, 0), rig.pid);
  assert_int_equal(write(rig.in, "go\n", 3), 3);
  read_out(&rig, NULL, text, sizeof text);
  assert_memory_equal(text, "1\n2\n3\n", 6);
  assert_int_equal(strlen(text), 288894 + 4);
  assert_string_equal(text + 288894, "end\n");
  read_file(rig.log, log, sizeof log);
  assert_memory_equal(log, "ready\n", 6);
  assert_string_equal(log + 6, text);
  release(&rig);
}

#ifdef SS_TESTING
/* The second fork fails: the command runs, its output goes straight on. */
static void test_without_a_witness(void **state)
{
  char text[64], log[16];

  (void)state;
  setenv("SS_FAULT", "fork:EAGAIN:2", 1);
  struct rig rig = start(SHELL("echo hi; exit 4"));
  unsetenv("SS_FAULT");
  read_out(&rig, NULL, text, sizeof text);
  read_file(rig.log, log, sizeof log);
  end(&rig);
  assert_string_equal(text, "hi\n");
  assert_string_equal(log, "");
  assert_int_equal(rig.report->witness, -1);
  assert_int_equal(rig.report->exit.code, 4);
}
#endif

static void test_onlcr_undo(void **state)
{
  static const struct {
    const char *in, *out;
    bool held;
  } cases[] = {
      {"", "", false},
      {"abc", "abc", false},
      {"a\r\nb\r\n", "a\nb\n", false},
      {"a\r\r\n", "a\r\n", false}, /* the command's own CR LF */
      {"a\rb", "a\rb", false},
      {"\r\r\r\n", "\r\r\n", false},
      {"50%\r", "50%", true},
      {"\n", "\n", false},
  };

  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    size_t len = strlen(cases[i].in);
    for (size_t cut = 0; cut <= len; cut++) { /* in two calls, at every place */
      char out[32];
      bool held = false;
      size_t n = ss_onlcr_undo(&held, cases[i].in, cut, out);
      n += ss_onlcr_undo(&held, cases[i].in + cut, len - cut, out + n);
      out[n] = '\0';
      assert_string_equal(out, cases[i].out);
      assert_int_equal(held, cases[i].held);
    }
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_output_and_status),
      cmocka_unit_test(test_status_of_a_signal),
      cmocka_unit_test(test_exec_errors),
      cmocka_unit_test(test_abandon),
      cmocka_unit_test(test_no_log_passes_through),
      cmocka_unit_test(test_signal_for_us_alone_goes_on),
      cmocka_unit_test(test_signal_for_the_group_does_not),
      cmocka_unit_test(test_alone_and_group_make_two),
      cmocka_unit_test(test_grandchild_does_not_hold_us),
      cmocka_unit_test(test_reader_gone_is_sigpipe),
      cmocka_unit_test(test_killed_launcher_costs_nothing),
#ifdef SS_TESTING
      cmocka_unit_test(test_without_a_witness),
#endif
      cmocka_unit_test(test_onlcr_undo),
  };

  signal(SIGPIPE, SIG_DFL);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
