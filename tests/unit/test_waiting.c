/* What a wait is called: by its system call, its descriptor, its functions. */
#include "unit.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "stacksample/waiting.h"

static const struct ss_mem *own_memory;

static struct ss_waiting look(long nr, uint64_t arg0, uint64_t arg1, char task_state,
                              const char *const *names, size_t n)
{
  struct ss_waiting_seen seen = {
      .blocked = {.nr = nr, .args = {arg0, arg1}, .sp = 4096, .ip = 4096},
      .task_state = task_state};
  struct ss_waiting out;

  ss_waiting_of(&seen, getpid(), getpid(), names, n, NULL, own_memory, &out);
  assert_int_equal(out.gil_holder, -1);
  if (out.state != SS_STATE_UNKNOWN)
    assert_int_equal(ss_state_of_reason(out.reason), out.state);
  return out;
}

static void is(long nr, uint64_t arg0, uint64_t arg1, const char *reason)
{
  assert_string_equal(look(nr, arg0, arg1, 'S', NULL, 0).reason, reason);
}

static void calls(void **state)
{
  (void)state;
  is(SYS_clock_nanosleep, 0, 0, "[sleep]");
  is(SYS_select, 0, 0, "[sleep]");
  is(SYS_poll, 4096, 0, "[sleep]");
  is(SYS_poll, 4096, 2, "[wait: poll]");
  is(SYS_select, 5, 0, "[sleep]");
  is(SYS_select, 5, 4096, "[wait: select]");
  is(SYS_wait4, 1, 0, "[child]");
  is(SYS_clone, 0x4111, 0, "[child]");
  is(SYS_clone3, 0, 0, "[child]");
  is(SYS_semop, 1, 0, "[wait: semop]");
  is(SYS_pause, 0, 0, "[wait: pause]");
  is(SYS_flock, 0, 2, "[lock: file]");
  is(SYS_futex, 0, 0, "[wait: futex]");
}

/* Several are told by what they all are. */
static void polled(int one, int alike, int other)
{
  struct pollfd fds[SS_POLLED_MAX + 1] = {{.fd = one}, {.fd = -1}, {.fd = alike}};
  uint64_t at = (uint64_t)(uintptr_t)fds;

  is(SYS_poll, at, 1, "[io: pipe]");
  is(SYS_ppoll, at, 3, "[io: pipe]");
  is(SYS_poll, at, SS_POLLED_MAX + 1, "[wait: poll]");
  is(SYS_poll, 4096, 1, "[wait: poll]"); /* cannot be read */
  fds[0].fd = -1;
  is(SYS_poll, at, 2, "[sleep]");
  fds[0].fd = open("/dev/null", O_RDONLY);
  is(SYS_poll, at, 3, "[wait: poll]");
  close(fds[0].fd);
  fds[0].fd = other; /* may only wake the others */
  is(SYS_poll, at, 1, "[io: local socket]");
  is(SYS_poll, at, 3, "[io: pipe]");
}

static void selected(int one, int other)
{
  fd_set reads, writes;

  FD_ZERO(&reads);
  FD_ZERO(&writes);
  is(SYS_select, 1024, (uint64_t)(uintptr_t)&reads, "[sleep]");
  FD_SET(one, &reads);
  is(SYS_select, 1024, (uint64_t)(uintptr_t)&reads, "[io: pipe]");
  is(SYS_pselect6, (uint64_t)one, (uint64_t)(uintptr_t)&reads, "[sleep]");
  is(SYS_select, 1025, (uint64_t)(uintptr_t)&reads, "[wait: select]");
  FD_SET(other, &reads);
  is(SYS_select, 1024, (uint64_t)(uintptr_t)&reads, "[io: pipe]");
  is(SYS_select, 1024, (uint64_t)(uintptr_t)&writes, "[sleep]");
}

static void in_a_set(int one, int other)
{
  struct epoll_event event = {.events = EPOLLIN};
  int set = epoll_create1(0), network = socket(AF_INET, SOCK_STREAM, 0);

  is(SYS_epoll_wait, (uint64_t)set, 0, "[wait: epoll]");
  assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, other, &event), 0);
  is(SYS_epoll_wait, (uint64_t)set, 0, "[wait: epoll]"); /* what may only wake it */
  assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, one, &event), 0);
  is(SYS_epoll_pwait, (uint64_t)set, 0, "[io: pipe]");
  assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, network, &event), 0);
  is(SYS_epoll_wait, (uint64_t)set, 0, "[wait: epoll]");
  assert_int_equal(epoll_ctl(set, EPOLL_CTL_DEL, one, &event), 0);
  is(SYS_epoll_wait, (uint64_t)set, 0, "[io: network]");
  close(network);
  close(set);
}

static void several(int one, int alike, int other)
{
  struct ss_mem_live live = {0};

  ss_mem_live_init(&live, getpid());
  own_memory = &live.mem;
  polled(one, alike, other);
  selected(one, other);
  in_a_set(one, other);
  own_memory = NULL;
}

static void descriptors(void **state)
{
  int pipes[2], sockets[2], fd;
  (void)state;
  assert_int_equal(pipe(pipes), 0);
  is(SYS_read, (uint64_t)pipes[0], 0, "[io: pipe]");
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  is(SYS_recvfrom, (uint64_t)sockets[0], 0, "[io: local socket]");
  fd = socket(AF_INET, SOCK_STREAM, 0);
  is(SYS_accept4, (uint64_t)fd, 0, "[io: network]");
  close(fd);
  several(pipes[0], pipes[1], sockets[0]);
  fd = open("/dev/null", O_RDONLY);
  is(SYS_read, (uint64_t)fd, 0, "[io: device]");
  close(fd);
  fd = open("/proc/self/exe", O_RDONLY);
  is(SYS_pread64, (uint64_t)fd, 0, "[io: disk]");
  close(fd);
  fd = eventfd(0, 0);
  is(SYS_read, (uint64_t)fd, 0, "[wait: eventfd]");
  close(fd);
  fd = timerfd_create(CLOCK_MONOTONIC, 0);
  is(SYS_read, (uint64_t)fd, 0, "[sleep]");
  close(fd);
  is(SYS_read, 999999, 0, "[io]"); /* closed meanwhile */
  for (int i = 0; i < 2; i++) {
    close(pipes[i]);
    close(sockets[i]);
  }
}

static void in(const char *const *names, size_t n, const char *reason)
{
  assert_string_equal(look(SYS_futex, 4096, 0, 'S', names, n).reason, reason);
}

static void functions(void **state)
{
  const char *python[] = {NULL, "sem_clockwait", "PyThread_acquire_lock_timed"};
  const char *mutex[] = {"__lll_lock_wait", "pthread_mutex_lock", "work"};
  const char *condition[] = {"pthread_cond_wait", "work"};
  const char *openmp[] = {"libgomp.so.1", "libgomp.so.1", "work"};
  const char *copy[] = {"__futex_abstimed_wait_common",
                        "__new_sem_wait_slow64.constprop.0", "_multiprocessing.so"};
  const char *other[] = {"syscall", "my_wait", "sem_waits", "sem_wait.c"};
  (void)state;
  in(python, 3, "[lock: Python lock]");
  in(mutex, 3, "[lock: mutex]");
  in(condition, 2, "[wait: condition]");
  in(openmp, 3, "[wait: OpenMP]");
  in(copy, 3, "[lock: semaphore]");
  in(other, 4, "[wait: futex]");
}

static void task_states(void **state)
{
  struct ss_waiting_seen running = {.blocked = {.running = true, .nr = -1},
                                    .task_state = 'R'};
  (void)state;
  assert_false(ss_waiting_is_off(&running));
  assert_int_equal(look(SYS_futex, 0, 0, 'R', NULL, 0).state, SS_STATE_UNKNOWN);
  assert_string_equal(look(SYS_futex, 0, 0, 'T', NULL, 0).reason, "[stopped]");
  assert_string_equal(look(SYS_openat, 0, 0, 'D', NULL, 0).reason, "[io: disk]");
  assert_string_equal(look(-1, 0, 0, 'D', NULL, 0).reason, "[io: disk]"); /* a fault */
  assert_int_equal(look(-1, 0, 0, 'S', NULL, 0).state, SS_STATE_UNKNOWN);
}

static void reasons_are_read_again(void **state)
{
  (void)state;
  assert_int_equal(ss_state_of_reason("[lock]"), SS_STATE_LOCK);
  assert_int_equal(ss_state_of_reason("[gil: held by w]"), SS_STATE_GIL);
  assert_int_equal(ss_state_of_reason("[kernel: page fault]"), SS_STATE_COUNT);
  assert_int_equal(ss_state_of_reason("[locker]"), SS_STATE_COUNT);
  assert_int_equal(ss_state_of_reason("lock"), SS_STATE_COUNT);
  assert_int_equal(ss_state_of_reason("["), SS_STATE_COUNT);
  assert_int_equal(ss_state_of_reason(""), SS_STATE_COUNT);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(calls),
      cmocka_unit_test(descriptors),
      cmocka_unit_test(functions),
      cmocka_unit_test(task_states),
      cmocka_unit_test(reasons_are_read_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
