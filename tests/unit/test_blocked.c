/* /proc/PID/task/TID/syscall and the short stop, on a real child. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "stacksample/blocked.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

static const char futex_line[] =
    "202 0x7f3a01c0 0x189 0x0 0x0 0x0 0xffffffff 0x7ffe1000 0x7f3a0042\n";

static void parses_a_call(void **state)
{
  struct ss_blocked b;

  (void)state;
  assert_true(ss_blocked_parse(&b, futex_line, strlen(futex_line)));
  assert_false(b.running);
  assert_int_equal(b.nr, 202);
  assert_int_equal(b.args[0], 0x7f3a01c0);
  assert_int_equal(b.sp, 0x7ffe1000);
  assert_int_equal(b.ip, 0x7f3a0042);
}

static void parses_running_and_outside(void **state)
{
  struct ss_blocked b;

  (void)state;
  assert_true(ss_blocked_parse(&b, "running\n", 8));
  assert_true(b.running);
  assert_true(ss_blocked_parse(&b, "-1 0x10 0x20\n", 13));
  assert_int_equal(b.nr, -1);
  assert_int_equal(b.sp, 0x10);
}

static void refuses_every_prefix(void **state)
{
  struct ss_blocked b;

  (void)state;
  for (size_t len = 0; len < strlen(futex_line); len++)
    assert_false(ss_blocked_parse(&b, futex_line, len));
}

static void object_is(const struct ss_blocked *b, const struct ss_mem *mem,
                      const char *words)
{
  struct ss_buf out = {0};

  ss_blocked_object(b, getpid(), mem, &out);
  assert_string_equal(ss_buf_str(&out), words);
  ss_buf_release(&out);
}

static void says_the_object(void **state)
{
  static const char path[] = "a \x1b fifo";
  char empty[64];
  struct ss_mem_live live = {0};
  struct ss_blocked b;

  (void)state;
  ss_mem_live_init(&live, getpid());
  assert_true(ss_blocked_parse(&b, futex_line, strlen(futex_line)));
  object_is(&b, NULL, "0x7f3a01c0, WAIT");
  b = (struct ss_blocked){.nr = SYS_ppoll, .args = {4096, 1}};
  object_is(&b, NULL, "...");
  b = (struct ss_blocked){.nr = SYS_pselect6, .args = {7, 4096}};
  object_is(&b, &live.mem, "...");
  b = (struct ss_blocked){.nr = SYS_epoll_wait, .args = {999999}};
  object_is(&b, &live.mem, "999999: ...");
  b.args[0] = (uint64_t)epoll_create1(0);
  snprintf(empty, sizeof(empty), "%d anon_inode:[eventpoll]", (int)b.args[0]);
  object_is(&b, &live.mem, empty);
  close((int)b.args[0]);
  b = (struct ss_blocked){.nr = SYS_openat, .args = {0, (uint64_t)(uintptr_t)path}};
  object_is(&b, &live.mem, "\"a \\x1b fifo\"");
  object_is(&b, NULL, "\"\"");
  b = (struct ss_blocked){.nr = SYS_open, .args = {4096}};
  object_is(&b, &live.mem, "\"\"");
}

/* As of Linux 6.1. */
static void parses_an_epoll_set(void **state)
{
  static const char text[] =
      "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1057\n"
      "tfd:        5 events:       19 data:     5000000005  pos:0 ino:61a2 sdev:8\n"
      "tfd:       12 events: 80000019 data:     500000000c  pos:0 ino:61a3 sdev:8\n";
  struct ss_polled polled;
  size_t len = strlen(text), first = (size_t)(strstr(text, "tfd:       12") - text);

  (void)state;
  ss_polled_parse(&polled, text, len);
  assert_int_equal(polled.n, 2);
  assert_int_equal(polled.fds[1], 12);
  assert_true(polled.all);
  for (size_t n = 0; n < len; n++) {
    ss_polled_parse(&polled, text, n);
    assert_int_equal(polled.n, n >= first ? 1 : 0);
    assert_int_equal(polled.all, n == 0 || text[n - 1] == '\n');
  }
  ss_polled_parse(&polled, "tfd:\ntfd: -3 \ntfd: 4\n", 22);
  assert_int_equal(polled.n, 0);
}

static void keeps_no_more_than_fit(void **state)
{
  char text[(SS_POLLED_MAX + 1) * sizeof("tfd: 3 \n")] = "";
  struct ss_polled polled;

  (void)state;
  for (size_t i = 0; i <= SS_POLLED_MAX; i++)
    snprintf(text + strlen(text), sizeof(text) - strlen(text), "tfd: 3 \n");
  ss_polled_parse(&polled, text, strlen(text));
  assert_int_equal(polled.n, SS_POLLED_MAX);
  assert_false(polled.all);
}

static void await_state(pid_t pid, char wanted)
{
  uint64_t deadline = ss_now_ns() + 10000000000ull;
  struct ss_stat st = {0};

  while (ss_now_ns() < deadline && !(ss_stat_read(&st, pid, 0) && st.state == wanted))
    usleep(1000);
  assert_int_equal(st.state, wanted);
}

static void sees_a_child_in_pause(void **state)
{
  struct ss_blocked b;
  pid_t child = fork();

  (void)state;
  if (child == 0)
    for (;;)
      pause();
  await_state(child, 'S');
  assert_true(ss_blocked_read(&b, child, child));
  assert_string_equal(ss_arch_syscall(b.nr).name, "pause");
  assert_int_not_equal(b.sp, 0);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

static void keep_ip(void *arg, const struct ss_regs *regs)
{
  *(uint64_t *)arg = regs->r[SS_REG_IP];
}

static void stops_a_spinner_and_lets_it_go(void **state)
{
  struct ss_diag diag = {0};
  struct ss_stat st;
  uint64_t ip = 0, stopped_ns = 0;
  pid_t child = fork();

  (void)state;
  if (child == 0)
    for (volatile uint64_t i = 0;; i++)
      ;
  for (int i = 0; i < 20; i++)
    assert_int_equal(ss_stop_look(child, 1000, keep_ip, &ip, &stopped_ns, &diag),
                     SS_ERR_OK);
  assert_int_not_equal(ip, 0);
  await_state(child, 'R');
  assert_true(ss_stat_read(&st, child, 0));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  assert_int_equal(ss_stop_look(child, 1000, keep_ip, &ip, NULL, &diag), SS_ERR_GONE);
}

static void keeps_a_stopped_child_stopped(void **state)
{
  struct ss_diag diag = {0};
  uint64_t ip = 0;
  pid_t child = fork();

  (void)state;
  if (child == 0)
    for (;;)
      pause();
  kill(child, SIGSTOP);
  await_state(child, 'T');
  assert_int_equal(ss_stop_look(child, 1000, keep_ip, &ip, NULL, &diag), SS_ERR_OK);
  await_state(child, 'T');
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

/* The steps, by a tracer that is asked who traces; the end of a child of ours is left
 * for whoever waits for it. */
static void steps_of_a_stop(void **state)
{
  struct ss_diag diag = {0};
  struct ss_stop stop;
  enum ss_stop_state now;
  int status = 0;
  pid_t child = fork();

  (void)state;
  if (child == 0)
    for (volatile uint64_t i = 0;; i++)
      ;
  assert_int_equal(ss_stop_ask(&stop, child, &diag), SS_ERR_OK);
  while ((now = ss_stop_poll(&stop)) == SS_STOP_NOT_YET)
    ;
  assert_int_equal(now, SS_STOP_STOPPED);
  assert_int_equal(ss_tracer_of(child), getpid());
  assert_true(ss_stop_release(&stop) > 0);
  assert_int_equal(ss_tracer_of(child), 0);
  assert_int_equal(ss_stop_ask(&stop, child, &diag), SS_ERR_OK);
  kill(child, SIGKILL);
  while ((now = ss_stop_poll(&stop)) == SS_STOP_NOT_YET)
    ;
  if (now == SS_STOP_STOPPED)
    (void)ss_stop_release(&stop);
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(parses_a_call),
      cmocka_unit_test(parses_running_and_outside),
      cmocka_unit_test(refuses_every_prefix),
      cmocka_unit_test(says_the_object),
      cmocka_unit_test(parses_an_epoll_set),
      cmocka_unit_test(keeps_no_more_than_fit),
      cmocka_unit_test(sees_a_child_in_pause),
      cmocka_unit_test(stops_a_spinner_and_lets_it_go),
      cmocka_unit_test(keeps_a_stopped_child_stopped),
      cmocka_unit_test(steps_of_a_stop),
  };

  return cmocka_run_group_tests(tests, NULL, NULL);
}
