/*
 * Emptying the channels, in the witness: one thread a channel reads, appends
 * to the log, writes to the user's descriptor.
 *
 * Log first, then the user, so that draining makes the log complete at once
 * even while the user's terminal or pipe takes nothing. A blocked write blocks
 * that channel alone, and through it the command, as it would have without us. When
 * the reader goes away the channel is closed, so that the command gets its
 * SIGPIPE. `source` is read under the pump's lock and closed by its thread alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "launch_priv.h"
#include "stacksample/buf.h"
#include "stacksample/sys.h"

enum {
  CHUNK = 65536,       /* a pipe's capacity */
  DRAIN_MAX = 1 << 20, /* a grandchild may go on writing while we drain */
  HELD_CR_MS = 20,     /* an LF added to it follows at once, if at all */
  PUMP_STACK = 64 * 1024
};

struct pump_buffers {
  char raw[CHUNK], text[CHUNK + 1];
};

struct pump {
  struct ss_pumps *all;
  struct ss_channel *ch;
  pthread_mutex_t lock;
  bool held_cr;
  bool drained;
  struct ss_buf tail; /* drained, still to be delivered */
  struct pump_buffers buffers;
};

struct ss_pumps {
  struct ss_shared *shared;
  struct pump pumps[2];
  int count;
  atomic_int running;
  atomic_int log_fd;
  int stop_fd, done_fd;
  struct pump_buffers drain_buffers;
};

static void note_errno(atomic_int *slot)
{
  int none = 0;

  atomic_compare_exchange_strong(slot, &none, errno);
}

static void append_log(struct ss_pumps *p, const char *text, size_t len)
{
  int fd = atomic_load(&p->log_fd);

  if (fd < 0 || len == 0 || ss_write_all(fd, text, len) == 0)
    return;
  note_errno(&p->shared->log_errno);
  atomic_store(&p->log_fd, -1);
}

/* The CR at the end was the command's own after all. */
static size_t take_held(struct pump *p, struct pump_buffers *b)
{
  if (!p->held_cr)
    return 0;
  p->held_cr = false;
  b->text[0] = '\r';
  append_log(p->all, b->text, 1);
  return 1;
}

/* One read, made what the command wrote, and logged; text in b->text. -1 at the
 * end (EIO: the last slave was closed), 0 when there is nothing now. */
static ssize_t take(struct pump *p, struct pump_buffers *b)
{
  bool undo;
  size_t len;

  ssize_t n = read(p->ch->source, b->raw, CHUNK);
  if (n < 0)
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
  if (n == 0)
    return -1;
  atomic_store(&p->all->shared->last_output_ns, ss_now_ns());
  ss_channel_follow_modes(p->ch);
  undo = p->ch->pty && (p->ch->modes.c_oflag & OPOST) && (p->ch->modes.c_oflag & ONLCR);
  if (undo) {
    len = ss_onlcr_undo(&p->held_cr, b->raw, (size_t)n, b->text);
    append_log(p->all, b->text, len);
    return (ssize_t)len;
  }
  len = take_held(p, b); /* the modes have just changed */
  memcpy(b->text + len, b->raw, (size_t)n);
  append_log(p->all, b->text + len, (size_t)n);
  return (ssize_t)len + n;
}

static void make_room(struct ss_shared *s, const char *text, size_t len)
{
  ss_status_erase(s);
  s->line_start = text[len - 1] == '\n';
}

/* Only what is written to a terminal is written under the lock. A pipe may lead to
 * the same terminal (tee), but must not wait for one that Ctrl-S has stopped. */
static ssize_t write_real(struct pump *p, const char *text, size_t len)
{
  struct ss_shared *s = p->all->shared;

  if (!p->ch->pty) {
    if (ss_terminal_trylock(s)) {
      make_room(s, text, len);
      ss_terminal_unlock(s);
    }
    return write(p->ch->real, text, len);
  }
  ss_terminal_lock(s);
  make_room(s, text, len);
  ssize_t n = write(p->ch->real, text, len);
  int saved = errno;
  ss_terminal_unlock(s);
  errno = saved;
  return n;
}

static bool deliver(struct pump *p, const char *text, size_t len)
{
  while (len > 0) {
    ssize_t n = write_real(p, text, len);
    if (n >= 0) {
      text += n;
      len -= (size_t)n;
    } else if (errno == EAGAIN) { /* the user's descriptor is non-blocking */
      struct pollfd pfd = {.fd = p->ch->real, .events = POLLOUT};
      poll(&pfd, 1, -1);
    } else if (errno != EINTR) {
      if (errno != EPIPE)
        note_errno(&p->all->shared->output_errno);
      return false;
    }
  }
  return true;
}

/* What the wait for input ended with. */
enum wait_end { INPUT, QUIET, READER_GONE };

static enum wait_end await_input(struct pump *p)
{
  struct pollfd pfd[3] = {
      {.fd = p->ch->source, .events = POLLIN},
      {.fd = p->all->stop_fd, .events = POLLIN},
      {.fd = p->ch->watch_reader ? p->ch->real : -1, .events = 0},
  };

  int n = poll(pfd, 3, p->held_cr ? HELD_CR_MS : -1);
  if (n <= 0)
    return QUIET;
  return pfd[2].revents & (POLLERR | POLLHUP) ? READER_GONE : INPUT;
}

/* The next text to deliver, 0: none now, -1: the channel has ended. */
static ssize_t next_text(struct pump *p, enum wait_end end)
{
  ssize_t n = -1;

  pthread_mutex_lock(&p->lock);
  if (!p->drained)
    n = end == QUIET ? 0 : take(p, &p->buffers);
  if (n < 0 || end == QUIET) {
    size_t held = take_held(p, &p->buffers);
    n = held > 0 ? (ssize_t)held : n;
  }
  pthread_mutex_unlock(&p->lock);
  return n;
}

/* Reads and logs what there is, for the last time; keeps it for delivery, or not. */
static void drain_locked(struct pump *p, struct pump_buffers *b, bool keep)
{
  size_t total = 0;

  while (!p->drained && total < DRAIN_MAX) {
    ssize_t n = take(p, b);
    if (n <= 0 && (n = (ssize_t)take_held(p, b)) == 0)
      break;
    total += (size_t)n;
    if (keep)
      ss_buf_add(&p->tail, b->text, (size_t)n);
  }
  p->drained = true;
}

/* Who reads it sees its end when the command has closed it, not later. */
static void let_go_of(int real)
{
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);

  if (null >= 0)
    dup2(null, real);
  ss_close(&null);
}

static void *pump_main(void *arg)
{
  struct pump *p = arg;
  bool reader = true;

  while (reader) {
    enum wait_end end = await_input(p);
    if (end == READER_GONE) {
      reader = false;
      break;
    }
    ssize_t n = next_text(p, end);
    if (n < 0)
      break;
    reader = deliver(p, p->buffers.text, (size_t)n);
  }
  pthread_mutex_lock(&p->lock);
  drain_locked(p, &p->buffers, reader);
  ss_channel_follow_modes(p->ch);
  ss_close(&p->ch->source);
  pthread_mutex_unlock(&p->lock);
  if (reader)
    deliver(p, p->tail.data, p->tail.len);
  if (!p->ch->pty)
    let_go_of(p->ch->real);
  atomic_fetch_sub(&p->all->running, 1);
  uint64_t one = 1;
  ss_write_all(p->all->done_fd, &one, sizeof one);
  return NULL;
}

static bool start_thread(struct pump *p)
{
  pthread_attr_t attr;
  pthread_t thread;

  if (pthread_attr_init(&attr) != 0)
    return false;
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attr, (size_t)PTHREAD_STACK_MIN + PUMP_STACK);
  atomic_fetch_add(&p->all->running, 1);
  int err = pthread_create(&thread, &attr, pump_main, p);
  pthread_attr_destroy(&attr);
  return err == 0;
}

struct ss_pumps *ss_pumps_start(struct ss_channels *c, struct ss_shared *shared)
{
  struct ss_pumps *all = calloc(1, sizeof *all);

  if (all == NULL)
    return NULL;
  all->shared = shared;
  all->stop_fd = eventfd(0, EFD_CLOEXEC);
  all->done_fd = eventfd(0, EFD_CLOEXEC);
  atomic_init(&all->log_fd, -1);
  if (all->stop_fd < 0 || all->done_fd < 0)
    return NULL;
  for (int i = 0; i < c->count; i++) {
    struct pump *p = &all->pumps[all->count++];
    p->all = all;
    p->ch = &c->items[i];
    pthread_mutex_init(&p->lock, NULL);
    if (!start_thread(p))
      return NULL;
  }
  return all;
}

void ss_pumps_set_log(struct ss_pumps *p, int log_fd)
{
  atomic_store(&p->log_fd, log_fd);
}

void ss_pumps_drain(struct ss_pumps *p)
{
  uint64_t one = 1;

  for (int i = 0; i < p->count; i++) {
    pthread_mutex_lock(&p->pumps[i].lock);
    drain_locked(&p->pumps[i], &p->drain_buffers, true);
    pthread_mutex_unlock(&p->pumps[i].lock);
  }
  ss_write_all(p->stop_fd, &one, sizeof one);
}

int ss_pumps_fd(const struct ss_pumps *p)
{
  return p->done_fd;
}

void ss_pumps_clear(struct ss_pumps *p)
{
  uint64_t count;

  ss_read_some(p->done_fd, &count, sizeof count);
}

bool ss_pumps_done(struct ss_pumps *p)
{
  return atomic_load(&p->running) == 0;
}
