/*
 * Knows whether somebody disturbed it. Threads wait in 18 kinds of system calls, each
 * in one call for all its life (sleeps: in many); among them those that end with EINTR
 * when a tracer stops and releases their thread. Their stacks cannot be unwound without
 * the frame pointer. One thread computes all the time and gets a
 * numbered signal every few milliseconds.
 *
 * Commands on stdin: "status" prints how far the computation is; "end" wakes every
 * waiter by what it waits for, and prints what each call gave.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_S 100000

static atomic_uint word, timed_word, pi_word;
static atomic_int over, paused;
static char watched[64];
static atomic_ulong progress, sent, received, misordered, wrong;

struct waiter {
  const char *name;
  void (*open)(struct waiter *w);
  long (*wait)(struct waiter *w); /* as the system call: -1 with errno */
  void (*wake)(struct waiter *w);
  int a;
  atomic_int b;
  pthread_t thread;
  long result;
  int error;
};

/* ---- the waits --------------------------------------------------------------- */

static void open_pipe(struct waiter *w)
{
  int fds[2];
  if (pipe(fds) != 0)
    exit(1);
  w->a = fds[0];
  w->b = fds[1];
}

static void write_byte(struct waiter *w)
{
  uint64_t one = 1;
  if (write(w->b, &one, sizeof one) < 0)
    exit(1);
}

static void open_epoll(struct waiter *w)
{
  struct epoll_event event = {.events = EPOLLIN};
  w->a = epoll_create1(0);
  w->b = eventfd(0, 0);
  epoll_ctl(w->a, EPOLL_CTL_ADD, w->b, &event);
}

static long wait_epoll(struct waiter *w)
{
  struct epoll_event event;
  return epoll_wait(w->a, &event, 1, LONG_S * 1000);
}

static void open_socket(struct waiter *w)
{
  struct timeval limit = {.tv_sec = LONG_S};
  int fds[2];
  socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
  setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  w->a = fds[0];
  w->b = fds[1];
}

static long wait_recv(struct waiter *w)
{
  char byte[8];
  return recv(w->a, byte, sizeof byte, 0);
}

static void open_semaphore(struct waiter *w)
{
  w->a = semget(IPC_PRIVATE, 1, 0600);
}

static long wait_semop(struct waiter *w)
{
  struct sembuf op = {.sem_op = -1};
  return semop(w->a, &op, 1);
}

static long wait_semtimedop(struct waiter *w)
{
  struct sembuf op = {.sem_op = -1};
  struct timespec limit = {.tv_sec = LONG_S};
  return semtimedop(w->a, &op, 1, &limit);
}

static void post(struct waiter *w)
{
  struct sembuf op = {.sem_op = 1};
  semop(w->a, &op, 1);
}

static void open_nothing(struct waiter *w)
{
  (void)w;
}

static long wait_signal(struct waiter *w)
{
  struct timespec limit = {.tv_sec = LONG_S};
  sigset_t set;
  (void)w;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  return sigtimedwait(&set, NULL, &limit);
}

static void send_signal(struct waiter *w)
{
  pthread_kill(w->thread, SIGUSR2);
}

static long wait_read(struct waiter *w)
{
  char byte[8];
  return read(w->a, byte, sizeof byte);
}

static long wait_poll(struct waiter *w)
{
  struct pollfd fd = {.fd = w->a, .events = POLLIN};
  return poll(&fd, 1, LONG_S * 1000);
}

static long wait_select(struct waiter *w)
{
  struct timeval limit = {.tv_sec = LONG_S};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(w->a, &set);
  return select(w->a + 1, &set, NULL, NULL, &limit);
}

static void open_queue(struct waiter *w)
{
  w->a = msgget(IPC_PRIVATE, 0600);
}

static long wait_message(struct waiter *w)
{
  struct {
    long type;
    char text[8];
  } message;
  return msgrcv(w->a, &message, sizeof message.text, 0, 0);
}

static void send_message(struct waiter *w)
{
  struct {
    long type;
    char text[8];
  } message = {.type = 1};
  msgsnd(w->a, &message, sizeof message.text, 0);
}

static long wait_futex(struct waiter *w)
{
  (void)w;
  return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void wake_futex(struct waiter *w)
{
  (void)w;
  word = 1;
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void open_child(struct waiter *w)
{
  open_pipe(w);
  pid_t pid = fork();
  if (pid == 0) {
    char byte[8];
    _exit(read(w->a, byte, sizeof byte) == 8 ? 0 : 1);
  }
  close(w->a);
  w->a = pid;
}

static long wait_child(struct waiter *w)
{
  int status;
  pid_t got = waitpid(w->a, &status, 0);
  return got == w->a && status != 0 ? -2 : got;
}

static long wait_futex_until(struct waiter *w)
{
  struct timespec limit = {.tv_sec = time(NULL) + LONG_S};
  (void)w;
  return syscall(SYS_futex, &timed_word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0,
                 &limit, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void wake_futex_until(struct waiter *w)
{
  (void)w;
  timed_word = 1;
  syscall(SYS_futex, &timed_word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void open_pi(struct waiter *w)
{
  (void)w;
  pi_word = (unsigned)getpid(); /* the main thread has it */
}

static long wait_pi(struct waiter *w)
{
  (void)w;
  return syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
}

static void wake_pi(struct waiter *w)
{
  (void)w;
  syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
}

static void open_inotify(struct waiter *w)
{
  w->a = inotify_init();
  snprintf(watched, sizeof watched, "/tmp/unharmed-XXXXXX");
  w->b = mkstemp(watched);
  inotify_add_watch(w->a, watched, IN_MODIFY);
}

static long wait_inotify(struct waiter *w)
{
  char event[sizeof(struct inotify_event) + 256];
  return read(w->a, event, sizeof event);
}

static void write_watched(struct waiter *w)
{
  write_byte(w);
  unlink(watched);
}

static void open_plain_socket(struct waiter *w)
{
  int fds[2];
  socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
  w->a = fds[0];
  w->b = fds[1];
}

static long wait_nanosleep(struct waiter *w)
{
  const struct timespec step = {.tv_nsec = 200000000};
  while (w->b == 0)
    if (nanosleep(&step, NULL) != 0)
      return -1;
  return 0;
}

static long wait_clock_nanosleep(struct waiter *w)
{
  const struct timespec step = {.tv_nsec = 200000000};
  while (w->b == 0) {
    errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &step, NULL);
    if (errno != 0)
      return -1;
  }
  return 0;
}

static void set_over(struct waiter *w)
{
  w->b = 1;
}

static void on_pause(int signo)
{
  (void)signo;
  paused++;
}

static void open_pause(struct waiter *w)
{
  struct sigaction action = {.sa_handler = on_pause};
  (void)w;
  sigaction(SIGUSR1, &action, NULL);
}

/* Ends with EINTR, always: but not without its signal. */
static long wait_pause(struct waiter *w)
{
  sigset_t set;
  (void)w;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  pause();
  return paused == 1 ? 0 : -1;
}

static void end_pause(struct waiter *w)
{
  pthread_kill(w->thread, SIGUSR1);
}

static struct waiter waiters[] = {
    {.name = "epoll_wait", .open = open_epoll, .wait = wait_epoll, .wake = write_byte},
    {.name = "recv", .open = open_socket, .wait = wait_recv, .wake = write_byte},
    {.name = "semop", .open = open_semaphore, .wait = wait_semop, .wake = post},
    {.name = "semtimedop", .open = open_semaphore, .wait = wait_semtimedop, .wake = post},
    {.name = "sigtimedwait",
     .open = open_nothing,
     .wait = wait_signal,
     .wake = send_signal},
    {.name = "read", .open = open_pipe, .wait = wait_read, .wake = write_byte},
    {.name = "poll", .open = open_pipe, .wait = wait_poll, .wake = write_byte},
    {.name = "select", .open = open_pipe, .wait = wait_select, .wake = write_byte},
    {.name = "msgrcv", .open = open_queue, .wait = wait_message, .wake = send_message},
    {.name = "futex", .open = open_nothing, .wait = wait_futex, .wake = wake_futex},
    {.name = "waitpid", .open = open_child, .wait = wait_child, .wake = write_byte},
    {.name = "futex until",
     .open = open_nothing,
     .wait = wait_futex_until,
     .wake = wake_futex_until},
    {.name = "futex PI", .open = open_pi, .wait = wait_pi, .wake = wake_pi},
    {.name = "inotify",
     .open = open_inotify,
     .wait = wait_inotify,
     .wake = write_watched},
    {.name = "plain recv",
     .open = open_plain_socket,
     .wait = wait_recv,
     .wake = write_byte},
    {.name = "nanosleep", .open = open_nothing, .wait = wait_nanosleep, .wake = set_over},
    {.name = "clock_nanosleep",
     .open = open_nothing,
     .wait = wait_clock_nanosleep,
     .wake = set_over},
    {.name = "pause", .open = open_pause, .wait = wait_pause, .wake = end_pause},
};
enum { WAITERS = sizeof waiters / sizeof waiters[0] };

static void *wait_thread(void *arg)
{
  struct waiter *w = arg;
  volatile char frame[300000 + strlen(w->name)]; /* of no fixed size: needs its pointer */
  frame[0] = 0;
  errno = frame[0];
  w->result = w->wait(w);
  w->error = w->result < 0 ? errno : 0;
  return NULL;
}

/* ---- the computation, with signals --------------------------------------------- */

static void on_number(int signo, siginfo_t *info, void *context)
{
  (void)signo;
  (void)context;
  if ((unsigned long)info->si_value.sival_int != received + 1)
    misordered++;
  received++;
}

static uint64_t round_of(uint64_t seed)
{
  for (int i = 0; i < 10000; i++)
    seed = seed * 6364136223846793005u + 1442695040888963407u;
  return seed;
}

static void *compute_thread(void *arg)
{
  const uint64_t right = round_of(1);
  sigset_t set;
  (void)arg;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  for (uint64_t seed = 1; !over; progress++)
    wrong += round_of(seed) != right;
  return NULL;
}

static void *send_thread(void *arg)
{
  const pthread_t *to = arg;
  struct timespec step = {.tv_nsec = 3000000};
  while (!over) {
    union sigval value = {.sival_int = (int)sent + 1};
    if (pthread_sigqueue(*to, SIGRTMIN, value) == 0)
      sent++;
    nanosleep(&step, NULL);
  }
  return NULL;
}

/* ---- commands -------------------------------------------------------------------- */

static void end(pthread_t compute, pthread_t sender)
{
  for (int i = 0; i < WAITERS; i++) {
    struct waiter *w = &waiters[i];
    w->wake(w);
    pthread_join(w->thread, NULL);
    printf("wait %s: %s\n", w->name, w->result < 0 ? strerror(w->error) : "ok");
  }
  over = 1;
  pthread_join(sender, NULL);
  pthread_join(compute, NULL);
  printf("signals %lu %lu %lu wrong %lu\n", (unsigned long)sent, (unsigned long)received,
         (unsigned long)misordered, (unsigned long)wrong);
}

int main(void)
{
  struct sigaction action = {.sa_sigaction = on_number, .sa_flags = SA_SIGINFO};
  pthread_t compute, sender;
  char line[64];
  sigset_t all;

  sigaction(SIGRTMIN, &action, NULL);
  sigfillset(&all);
  sigdelset(&all, SIGTERM);
  pthread_sigmask(SIG_SETMASK, &all, NULL);
  for (int i = 0; i < WAITERS; i++)
    waiters[i].open(&waiters[i]);
  for (int i = 0; i < WAITERS; i++)
    pthread_create(&waiters[i].thread, NULL, wait_thread, &waiters[i]);
  pthread_create(&compute, NULL, compute_thread, NULL);
  pthread_create(&sender, NULL, send_thread, &compute);
  printf("READY %d\n", WAITERS);
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    if (strcmp(line, "end\n") == 0) {
      end(compute, sender);
      break;
    }
    printf("status %lu\n", (unsigned long)progress);
    fflush(stdout);
  }
  for (int i = 0; i < WAITERS; i++)
    if (waiters[i].open == open_semaphore)
      semctl(waiters[i].a, 0, IPC_RMID);
    else if (waiters[i].open == open_queue)
      msgctl(waiters[i].a, IPC_RMID, NULL);
  return 0;
}
