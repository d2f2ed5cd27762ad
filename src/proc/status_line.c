/*
 * The status line on the user's terminal, shared with the pumps: we draw it, and
 * whoever passes on the command's next bytes erases it first.
 *
 * The command's own text must survive: where it left the cursor behind some text,
 * the line is drawn one row below and the cursor put back. All of it happens under
 * the terminal's lock, which is robust: either side may die holding it.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "launch_priv.h"
#include "stacksample/buf.h"
#include "stacksample/sys.h"

enum { LOCK_MS = 100, COLUMNS_DEFAULT = 80 };

static bool locked(struct ss_shared *s, int err)
{
  if (err == EOWNERDEAD)
    pthread_mutex_consistent(&s->terminal);
  return err == 0 || err == EOWNERDEAD;
}

void ss_terminal_lock(struct ss_shared *s)
{
  SS_INVARIANT(locked(s, pthread_mutex_lock(&s->terminal)));
}

bool ss_terminal_trylock(struct ss_shared *s)
{
  return locked(s, pthread_mutex_trylock(&s->terminal));
}

void ss_terminal_unlock(struct ss_shared *s)
{
  pthread_mutex_unlock(&s->terminal);
}

static bool lock_in_time(struct ss_shared *s)
{
  struct timespec until;

  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += LOCK_MS * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  return locked(s, pthread_mutex_timedlock(&s->terminal, &until));
}

/* A terminal stopped by Ctrl-S would block us in the write. */
static bool takes_output(void)
{
  struct pollfd pfd = {.fd = STDERR_FILENO, .events = POLLOUT};

  return poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLOUT) != 0;
}

static size_t columns(void)
{
  struct winsize w;

  return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ? w.ws_col
                                                                   : COLUMNS_DEFAULT;
}

void ss_status_erase(struct ss_shared *s)
{
  static const char here[] = "\r\033[K";
  static const char below[] = "\0337\033[B\r\033[K\0338";

  if (!s->status_shown)
    return;
  s->status_shown = false;
  (void)(s->status_below ? ss_write_all(STDERR_FILENO, below, sizeof below - 1)
                         : ss_write_all(STDERR_FILENO, here, sizeof here - 1));
}

bool ss_launch_show_status(struct ss_launch *l, const char *line)
{
  struct ss_shared *s = l->shared;
  struct ss_buf text = {0};
  size_t room = columns() - 1;

  if (l->channels.count == 0 || !lock_in_time(s))
    return false;
  bool drawn = takes_output();
  if (drawn) {
    /* Nothing has been printed since it was last drawn: it is still there. IND
     * makes room below without leaving the column. */
    if (!s->status_shown)
      s->status_below = !s->line_start;
    if (s->status_below && !s->status_shown)
      ss_buf_adds(&text, "\033D\033[A");
    ss_buf_adds(&text, s->status_below ? "\0337\033[B\r" : "\r");
    ss_buf_add(&text, line, strnlen(line, room));
    ss_buf_adds(&text, s->status_below ? "\033[K\0338" : "\033[K");
    s->status_shown = true;
    (void)ss_write_all(STDERR_FILENO, ss_buf_str(&text), text.len);
  }
  ss_terminal_unlock(s);
  ss_buf_release(&text);
  return drawn;
}

void ss_launch_clear_status(struct ss_launch *l)
{
  if (!lock_in_time(l->shared))
    return;
  ss_status_erase(l->shared);
  ss_terminal_unlock(l->shared);
}
