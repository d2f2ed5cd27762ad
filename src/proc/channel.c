/*
 * The channels that carry fd 1 and fd 2 of the command.
 *
 * A terminal becomes a pty with the same size and modes, whose slave only the
 * command has; anything else becomes a pipe. Where both descriptors are one open
 * file they share one channel, which keeps the order of what is written. The
 * controlling terminal stays the user's. A descriptor that is closed or cannot be
 * written to is left alone. Of what the slave does to the output only ONLCR, which
 * every terminal has, is undone; OCRNL and the like act twice.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "launch_priv.h"
#include "stacksample/sys.h"

/* "flags", "pos" and the rest of an open file, where kcmp is not there. */
static bool same_fdinfo(int a, int b)
{
  char text[2][512];
  ssize_t len[2];
  int fds[2] = {a, b};

  for (int i = 0; i < 2; i++) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[i]);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
      return false;
    len[i] = ss_read_some(fd, text[i], sizeof text[i]);
    ss_close(&fd);
  }
  return len[0] > 0 && len[0] == len[1] && memcmp(text[0], text[1], (size_t)len[0]) == 0;
}

static bool same_open_file(int a, int b)
{
  struct stat sa, sb;

  if (fstat(a, &sa) != 0 || fstat(b, &sb) != 0 || sa.st_dev != sb.st_dev ||
      sa.st_ino != sb.st_ino)
    return false;
  long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);
  if (order >= 0)
    return order == 0;
  return same_fdinfo(a, b);
}

static bool writable(int fd)
{
  int flags = fcntl(fd, F_GETFL);

  return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && (flags & O_PATH) == 0;
}

/* TIOCGPTPEER needs no path, so it also works where /dev/pts is another one. */
static int open_slave(int master)
{
  int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
  char path[128];

  int slave = ioctl(master, TIOCGPTPEER, flags);
  if (slave >= 0)
    return slave;
  if (ptsname_r(master, path, sizeof path) != 0)
    return -1;
  return open(path, flags);
}

static bool open_pty(struct ss_channel *ch)
{
  struct winsize size;

  ch->source = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (ch->source < 0)
    return false;
  if (grantpt(ch->source) != 0 || unlockpt(ch->source) != 0)
    goto fail;
  ch->sink = open_slave(ch->source);
  if (ch->sink < 0)
    goto fail;
  if (tcgetattr(ch->real, &ch->modes) != 0 ||
      tcsetattr(ch->sink, TCSANOW, &ch->modes) != 0)
    goto fail;
  tcgetattr(ch->sink, &ch->modes);
  if (ioctl(ch->real, TIOCGWINSZ, &size) == 0)
    ioctl(ch->sink, TIOCSWINSZ, &size);
  ch->pty = true;
  return true;

fail:
  ss_close(&ch->source);
  ss_close(&ch->sink);
  return false;
}

static bool open_pipe(struct ss_channel *ch)
{
  struct stat st;
  struct statfs fs;
  int ends[2];

  if (pipe2(ends, O_CLOEXEC) != 0)
    return false;
  ch->source = ends[0];
  ch->sink = ends[1];
  if (fstat(ch->real, &st) == 0)
    ch->watch_reader =
        S_ISSOCK(st.st_mode) || (S_ISFIFO(st.st_mode) && fstatfs(ch->real, &fs) == 0 &&
                                 fs.f_type == PIPEFS_MAGIC);
  return true;
}

static bool open_channel(struct ss_channel *ch, int real)
{
  *ch = (struct ss_channel){.source = -1, .sink = -1, .real = real};
  if (!writable(real))
    return false;
  if (!(isatty(real) ? open_pty(ch) : open_pipe(ch)))
    return false;
  /* Ours alone, so no one else is surprised; draining must not block. */
  int flags = fcntl(ch->source, F_GETFL);
  fcntl(ch->source, F_SETFL, flags | O_NONBLOCK);
  return true;
}

void ss_channels_open(struct ss_channels *c, const bool closed[3])
{
  for (int fd = 1; fd <= 2; fd++) {
    c->of_fd[fd] = -1;
    if (closed[fd])
      continue;
    if (fd == 2 && c->of_fd[1] >= 0 && same_open_file(1, 2))
      c->of_fd[2] = c->of_fd[1];
    else if (open_channel(&c->items[c->count], fd))
      c->of_fd[fd] = c->count++;
  }
}

void ss_channels_close_sinks(struct ss_channels *c)
{
  for (int i = 0; i < c->count; i++)
    ss_close(&c->items[i].sink);
}

void ss_channels_close_sources(struct ss_channels *c)
{
  for (int i = 0; i < c->count; i++)
    ss_close(&c->items[i].source);
}

void ss_channels_install(const struct ss_channels *c)
{
  for (int fd = 1; fd <= 2; fd++)
    if (c->of_fd[fd] >= 0)
      dup2(c->items[c->of_fd[fd]].sink, fd);
}

void ss_channels_resize(const struct ss_channels *c)
{
  for (int i = 0; i < c->count; i++) {
    const struct ss_channel *ch = &c->items[i];
    struct winsize size;
    if (ch->pty && ioctl(ch->real, TIOCGWINSZ, &size) == 0)
      ioctl(ch->source, TIOCSWINSZ, &size);
  }
}

size_t ss_onlcr_undo(bool *held, const char *in, size_t n, char *out)
{
  size_t len = 0;

  for (size_t i = 0; i < n; i++) {
    if (*held && in[i] != '\n')
      out[len++] = '\r';
    *held = in[i] == '\r';
    if (!*held)
      out[len++] = in[i];
  }
  return len;
}

static tcflag_t follow_flags(tcflag_t real, tcflag_t before, tcflag_t now)
{
  tcflag_t changed = before ^ now;

  return (real & ~changed) | (now & changed);
}

/* Only the bits that the command changed: the others may have been changed on
 * the user's terminal itself meanwhile, by way of fd 0. */
void ss_channel_follow_modes(struct ss_channel *ch)
{
  struct termios now, real;
  const struct termios *was = &ch->modes;

  if (!ch->pty || tcgetattr(ch->source, &now) != 0 ||
      (now.c_iflag == was->c_iflag && now.c_oflag == was->c_oflag &&
       now.c_lflag == was->c_lflag && memcmp(now.c_cc, was->c_cc, sizeof now.c_cc) == 0))
    return;
  if (tcgetattr(ch->real, &real) == 0) {
    real.c_iflag = follow_flags(real.c_iflag, was->c_iflag, now.c_iflag);
    real.c_oflag = follow_flags(real.c_oflag, was->c_oflag, now.c_oflag);
    real.c_lflag = follow_flags(real.c_lflag, was->c_lflag, now.c_lflag);
    for (size_t i = 0; i < NCCS; i++)
      if (now.c_cc[i] != was->c_cc[i])
        real.c_cc[i] = now.c_cc[i];
    tcsetattr(ch->real, TCSANOW, &real);
  }
  ch->modes = now;
}
