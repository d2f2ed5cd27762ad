/*
 * /proc/PID/task/TID/syscall: parsed, and its object put into words
 * (fs/proc/base.c, proc_pid_syscall). Nothing here stops or touches the thread.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>

#include "stacksample/blocked.h"
#include "stacksample/escape.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

/* Takes one number of `base`; false where there is none. */
static bool take_number(const char **at, int base, uint64_t *value)
{
  char *end = NULL;

  while (**at == ' ')
    (*at)++;
  if (!isxdigit((unsigned char)**at) && **at != '-')
    return false;
  errno = 0;
  *value = **at == '-' ? (uint64_t)strtoll(*at, &end, base) : strtoull(*at, &end, base);
  if (errno != 0 || end == *at)
    return false;
  *at = end;
  return true;
}

bool ss_blocked_parse(struct ss_blocked *out, const char *text, size_t len)
{
  char line[256];
  const char *at = line;
  uint64_t nr;

  *out = (struct ss_blocked){.nr = -1};
  if (len == 0 || len >= sizeof(line))
    return false;
  memcpy(line, text, len);
  line[len] = '\0';
  if (strcmp(line, "running\n") == 0) {
    out->running = true;
    return true;
  }
  if (!take_number(&at, 10, &nr))
    return false;
  out->nr = (long)nr;
  if (out->nr >= 0)
    for (int i = 0; i < 6; i++)
      if (!take_number(&at, 16, &out->args[i]))
        return false;
  return take_number(&at, 16, &out->sp) && take_number(&at, 16, &out->ip) &&
         *at == '\n' && at[1] == '\0';
}

bool ss_blocked_read(struct ss_blocked *out, pid_t pid, pid_t tid)
{
  char path[64], text[256];
  ssize_t got;
  int fd;

  snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int)pid, (int)tid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  got = ss_read_some(fd, text, sizeof(text));
  ss_close(&fd);
  return got > 0 && ss_blocked_parse(out, text, (size_t)got);
}

/* ---- objects in words ----------------------------------------------------------- */

static void say_futex(const struct ss_blocked *b, struct ss_buf *out)
{
  static const char *const ops[] = {
      [FUTEX_WAIT] = "WAIT",
      [FUTEX_WAIT_BITSET] = "WAIT",
      [FUTEX_LOCK_PI] = "LOCK_PI",
      [FUTEX_WAIT_REQUEUE_PI] = "WAIT_REQUEUE_PI",
  };
  uint64_t op = b->args[1] & (uint64_t)(unsigned)FUTEX_CMD_MASK;

  ss_buf_addf(out, "0x%" PRIx64, b->args[0]);
  if (op < sizeof(ops) / sizeof(ops[0]) && ops[op])
    ss_buf_addf(out, ", %s", ops[op]);
}

static void say_fd(int fd, pid_t pid, struct ss_buf *out)
{
  char link[64], target[256];
  ssize_t len;

  snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, fd);
  len = readlink(link, target, sizeof(target));
  ss_buf_addf(out, "%d", fd);
  if (len > 0) {
    ss_buf_addc(out, ' ');
    ss_escape_terminal(out, target, (size_t)len);
  }
}

static void say_polled(const struct ss_blocked *b, pid_t pid, const struct ss_mem *mem,
                       const char *before, struct ss_buf *out)
{
  struct ss_polled polled;

  ss_blocked_polled(b, pid, mem, &polled);
  if (polled.n > 0 || !polled.all)
    ss_buf_adds(out, before);
  for (size_t i = 0; i < polled.n; i++) {
    ss_buf_adds(out, i > 0 ? ", " : "");
    say_fd(polled.fds[i], pid, out);
  }
  if (!polled.all)
    ss_buf_adds(out, polled.n > 0 ? ", ..." : "...");
}

static void say_path(uint64_t at, const struct ss_mem *mem, struct ss_buf *out)
{
  char path[SS_PATH_MAX];
  size_t len = mem ? ss_mem_read(mem, at, path, sizeof(path)) : 0;

  len = strnlen(path, len);
  ss_buf_addc(out, '"');
  ss_escape_terminal(out, path, len);
  ss_buf_addc(out, '"');
}

static void say_child(const struct ss_blocked *b, struct ss_buf *out)
{
  int pid = (int)b->args[0];

  if (pid > 0)
    ss_buf_addf(out, "pid %d", pid);
  else
    ss_buf_adds(out, "any child");
}

void ss_blocked_object(const struct ss_blocked *b, pid_t pid, const struct ss_mem *mem,
                       struct ss_buf *out)
{
  if (b->running || b->nr < 0)
    return;
  switch (ss_arch_syscall(b->nr).kind) {
  case SS_WAIT_FUTEX:
    say_futex(b, out);
    break;
  case SS_WAIT_FD:
    say_fd((int)b->args[0], pid, out);
    break;
  case SS_WAIT_EPOLL:
    say_fd((int)b->args[0], pid, out);
    say_polled(b, pid, mem, ": ", out);
    break;
  case SS_WAIT_POLL:
  case SS_WAIT_SELECT:
    say_polled(b, pid, mem, "", out);
    break;
  case SS_WAIT_OPEN:
    say_path(b->args[0], mem, out);
    break;
  case SS_WAIT_OPENAT:
    say_path(b->args[1], mem, out);
    break;
  case SS_WAIT_CHILD:
    say_child(b, out);
    break;
  case SS_WAIT_OTHER:
  case SS_WAIT_SLEEP:
  case SS_WAIT_SIGNAL:
  case SS_WAIT_IPC:
    break;
  }
}
