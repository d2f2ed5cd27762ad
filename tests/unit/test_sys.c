/* System call wrappers and the fault seam. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/sys.h"

static void clocks_go_forward(void **state)
{
  uint64_t a = ss_now_ns();

  (void)state;
  assert_true(ss_now_ns() >= a);
  assert_true(ss_wall_ns() > 1600000000ull * 1000000000ull);
  assert_true(ss_own_cpu_ns() > 0);
  assert_true(ss_thread_cpu_ns() > 0);
  assert_int_equal(ss_clock_ns((clockid_t)-1), 0);
  ss_sleep_ns(1000);
  assert_true(ss_now_ns() >= a + 1000);
  assert_int_equal(ss_gettid(), getpid());
}

static void *drain(void *arg)
{
  char buf[4096];
  size_t *total = arg;
  int fd = (int)*total;
  ssize_t n;

  for (*total = 0; (n = ss_read_some(fd, buf, sizeof buf)) > 0;)
    *total += (size_t)n;
  return NULL;
}

static void a_write_is_whole_or_fails(void **state)
{
  static char big[1 << 20]; /* more than a pipe holds: short writes */
  int fds[2];
  pthread_t reader;

  (void)state;
  assert_int_equal(pipe(fds), 0);
  size_t total = (size_t)fds[0];
  assert_int_equal(pthread_create(&reader, NULL, drain, &total), 0);
  assert_int_equal(ss_write_all(fds[1], big, sizeof big), 0);
  ss_close(&fds[1]);
  pthread_join(reader, NULL);
  assert_int_equal(total, sizeof big);
  ss_close(&fds[0]);
  assert_int_equal(fds[0], -1);
  errno = 5;
  ss_close(&fds[0]);
  assert_int_equal(errno, 5);
  assert_int_equal(ss_write_all(-1, "x", 1), -1);
  assert_int_equal(errno, EBADF);
}

static void pread_goes_to_the_end(void **state)
{
  int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  char buf[100];

  (void)state;
  off_t size = lseek(fd, 0, SEEK_END);
  assert_int_equal(ss_pread_some(fd, buf, sizeof buf, (uint64_t)size - 10), 10);
  assert_int_equal(ss_pread_some(fd, buf, sizeof buf, 0), 100);
  assert_memory_equal(buf, "\177ELF", 4);
  assert_int_equal(ss_pread_some(fd, buf, sizeof buf, UINT64_MAX - 5), -1);
  ss_close(&fd);
}

static void own_memory_and_processes(void **state)
{
  char from[] = "memory", to[sizeof from] = "";
  struct iovec local = {to, sizeof to}, remote = {from, sizeof from};

  (void)state;
  assert_int_equal(ss_process_vm_readv(getpid(), &local, 1, &remote, 1), sizeof from);
  assert_string_equal(to, "memory");
  pid_t pid = fork();
  if (pid == 0) {
    pause();
    _exit(0);
  }
  int status, fd = ss_pidfd_open(pid, 0);
  assert_true(fd >= 0);
  assert_int_equal(ss_pidfd_send_signal(fd, SIGKILL), 0);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(WTERMSIG(status), SIGKILL);
  ss_close(&fd);
}

#ifdef SS_TESTING
static void the_nth_call_fails(void **state)
{
  int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

  (void)state;
  setenv("SS_FAULT", "write:ENOSPC:3", 1);
  ss_fault_reset();
  for (int i = 1; i <= 5; i++) {
    errno = 0;
    assert_int_equal(ss_write_all(fd, "x", 1), i == 3 ? -1 : 0);
    assert_int_equal(errno, i == 3 ? ENOSPC : 0);
  }
  assert_false(ss_fault("fsync"));
  setenv("SS_FAULT", "write:EDQUOT:2+", 1);
  ss_fault_reset();
  for (int i = 1; i <= 5; i++)
    assert_int_equal(ss_write_all(fd, "x", 1), i >= 2 ? -1 : 0);
  assert_int_equal(errno, EDQUOT);
  setenv("SS_FAULT", "perf_event_open:EACCES", 1);
  ss_fault_reset();
  assert_int_equal(ss_perf_event_open(NULL, 0, 0, 0, 0), -1);
  assert_int_equal(errno, EACCES);
  unsetenv("SS_FAULT");
  assert_int_equal(ss_write_all(fd, "x", 1), 0);
  ss_close(&fd);
}
#endif

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(clocks_go_forward),
      cmocka_unit_test(a_write_is_whole_or_fails),
      cmocka_unit_test(pread_goes_to_the_end),
      cmocka_unit_test(own_memory_and_processes),
#ifdef SS_TESTING
      cmocka_unit_test(the_nth_call_fails),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
