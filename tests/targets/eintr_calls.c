/*
 * Loops over system calls that wait for a moment, computing a little before each, and
 * counts how often one is ended by EINTR, which without a signal handler nobody but a
 * tracer makes happen. usage: eintr_calls SECONDS THREADS
 * Prints "READY", at the end "calls N", and "eintr NAME COUNT" for each that was.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_US = 300, COMPUTE_NS = 200000 };
static const struct timespec span = {.tv_nsec = WAIT_US * 1000};

struct files { /* of one thread */
  int pipe[2], epoll, stream, listener, timer, semaphore;
};

static long call_nanosleep(struct files *f)
{
  (void)f;
  return nanosleep(&span, NULL);
}
static long call_clock_nanosleep(struct files *f)
{
  (void)f;
  errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &span, NULL);
  return errno ? -1 : 0;
}
static long call_poll(struct files *f)
{
  struct pollfd p = {.fd = f->pipe[0], .events = POLLIN};
  return poll(&p, 1, 1);
}
static long call_ppoll(struct files *f)
{
  struct pollfd p = {.fd = f->pipe[0], .events = POLLIN};
  return ppoll(&p, 1, &span, NULL);
}
static long call_select(struct files *f)
{
  struct timeval tv = {.tv_usec = WAIT_US};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(f->pipe[0], &set);
  return select(f->pipe[0] + 1, &set, NULL, NULL, &tv);
}
static long call_pselect(struct files *f)
{
  fd_set set;
  FD_ZERO(&set);
  FD_SET(f->pipe[0], &set);
  return pselect(f->pipe[0] + 1, &set, NULL, NULL, &span, NULL);
}
static long call_futex(struct files *f)
{
  static uint32_t word;
  (void)f;
  return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &span, NULL, 0);
}
static long call_futex_bitset(struct files *f)
{
  static uint32_t word;
  struct timespec until;
  (void)f;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += span.tv_nsec;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  return syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &until, NULL,
                 FUTEX_BITSET_MATCH_ANY);
}
static long call_epoll_wait(struct files *f)
{
  struct epoll_event event;
  return epoll_wait(f->epoll, &event, 1, 1);
}
static long call_epoll_pwait(struct files *f)
{
  struct epoll_event event;
  return epoll_pwait(f->epoll, &event, 1, 1, NULL);
}
static long call_recv(struct files *f)
{
  char byte;
  return recv(f->stream, &byte, 1, 0);
}
static long call_recvmsg(struct files *f)
{
  char byte;
  struct iovec io = {&byte, 1};
  struct msghdr msg = {.msg_iov = &io, .msg_iovlen = 1};
  return recvmsg(f->stream, &msg, 0);
}
static long call_accept(struct files *f)
{
  return accept(f->listener, NULL, NULL);
}
static long call_semtimedop(struct files *f)
{
  struct sembuf op = {.sem_op = -1};
  return semtimedop(f->semaphore, &op, 1, &span);
}
static long call_sigtimedwait(struct files *f)
{
  sigset_t set;
  (void)f;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  return sigtimedwait(&set, NULL, &span);
}
static long call_timerfd(struct files *f)
{
  struct itimerspec once = {.it_value = span};
  uint64_t count;
  timerfd_settime(f->timer, 0, &once, NULL);
  return read(f->timer, &count, sizeof count);
}

static const struct {
  const char *name;
  long (*make)(struct files *f);
} calls[] = {{"nanosleep", call_nanosleep},
             {"clock_nanosleep", call_clock_nanosleep},
             {"poll", call_poll},
             {"ppoll", call_ppoll},
             {"select", call_select},
             {"pselect", call_pselect},
             {"futex", call_futex},
             {"futex_bitset", call_futex_bitset},
             {"epoll_wait", call_epoll_wait},
             {"epoll_pwait", call_epoll_pwait},
             {"recv", call_recv},
             {"recvmsg", call_recvmsg},
             {"accept", call_accept},
             {"semtimedop", call_semtimedop},
             {"sigtimedwait", call_sigtimedwait},
             {"timerfd", call_timerfd}};
enum { CALLS = sizeof calls / sizeof calls[0] };
static atomic_ulong made, ended[CALLS];
static double seconds;

static uint64_t now_ns(clockid_t clock)
{
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void must(int ok, const char *what)
{
  if (!ok) {
    perror(what);
    exit(1);
  }
}

static void open_files(struct files *f)
{
  struct timeval tv = {.tv_usec = WAIT_US};
  struct sockaddr_in any = {.sin_family = AF_INET};
  struct epoll_event event = {.events = EPOLLIN};
  int pair[2];
  must(pipe(f->pipe) == 0, "pipe");
  must((f->epoll = epoll_create1(0)) >= 0, "epoll_create1");
  must(epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->pipe[0], &event) == 0, "epoll_ctl");
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  f->stream = pair[0];
  must((f->listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0, "socket");
  must(bind(f->listener, (struct sockaddr *)&any, sizeof any) == 0, "bind");
  must(listen(f->listener, 1) == 0, "listen");
  setsockopt(f->stream, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  setsockopt(f->listener, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  must((f->timer = timerfd_create(CLOCK_MONOTONIC, 0)) >= 0, "timerfd_create");
  must((f->semaphore = semget(IPC_PRIVATE, 1, 0600)) >= 0, "semget");
}

static void *work(void *arg)
{
  struct files f;
  (void)arg;
  open_files(&f);
  uint64_t end = now_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
  for (unsigned i = 0; now_ns(CLOCK_MONOTONIC) < end; i++) {
    uint64_t until = now_ns(CLOCK_THREAD_CPUTIME_ID) + COMPUTE_NS;
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) < until)
      ;
    if (calls[i % CALLS].make(&f) < 0 && errno == EINTR)
      ended[i % CALLS]++;
    made++;
  }
  semctl(f.semaphore, 0, IPC_RMID);
  return NULL;
}

int main(int argc, char **argv)
{
  pthread_t threads[64];
  sigset_t set;
  int count = argc > 2 ? atoi(argv[2]) : 1;
  seconds = argc > 1 ? atof(argv[1]) : 1;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  printf("READY\n");
  fflush(stdout);
  for (int i = 0; i < count && i < 64; i++)
    must(pthread_create(&threads[i], NULL, work, NULL) == 0, "pthread_create");
  for (int i = 0; i < count && i < 64; i++)
    pthread_join(threads[i], NULL);
  printf("calls %lu\n", (unsigned long)made);
  for (int i = 0; i < CALLS; i++)
    if (ended[i] > 0)
      printf("eintr %s %lu\n", calls[i].name, (unsigned long)ended[i]);
  return 0;
}
