/*
 * Which descriptors a thread waits for in poll, select or epoll.
 *
 * What the first two were asked stands in the memory of the process, as it was for as
 * long as they wait: the kernel writes there only when they return. An epoll set is
 * the kernel's own, and its fdinfo lists it.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/blocked.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define WORD_BITS (CHAR_BIT * sizeof(unsigned long))
#define SET_WORDS (1024 / WORD_BITS) /* FD_SETSIZE, include/uapi/linux/posix_types.h */

static void add(struct ss_polled *out, int fd)
{
  if (out->n == SS_POLLED_MAX)
    out->all = false;
  else
    out->fds[out->n++] = fd;
}

static void read_poll(const struct ss_blocked *b, const struct ss_mem *mem,
                      struct ss_polled *out)
{
  struct pollfd asked[SS_POLLED_MAX];
  size_t count = b->args[1] < SS_POLLED_MAX ? (size_t)b->args[1] : SS_POLLED_MAX;
  size_t got = mem ? ss_mem_read(mem, b->args[0], asked, count * sizeof(asked[0])) : 0;

  for (size_t i = 0; i < got / sizeof(asked[0]); i++)
    if (asked[i].fd >= 0) /* others are ignored by the kernel, too */
      add(out, asked[i].fd);
  out->all = got / sizeof(asked[0]) == b->args[1];
}

/* Sets its bits in `words`; false: the set cannot be read. */
static bool join_set(const struct ss_mem *mem, uint64_t at, size_t n,
                     unsigned long words[SET_WORDS])
{
  unsigned long set[SET_WORDS];

  if (at == 0)
    return true;
  if (!mem || ss_mem_read(mem, at, set, n * sizeof(set[0])) != n * sizeof(set[0]))
    return false;
  for (size_t i = 0; i < n; i++)
    words[i] |= set[i];
  return true;
}

static void read_select(const struct ss_blocked *b, const struct ss_mem *mem,
                        struct ss_polled *out)
{
  unsigned long words[SET_WORDS] = {0};
  uint64_t count = b->args[0];
  bool known = count <= SET_WORDS * WORD_BITS;
  size_t n = known ? (size_t)(count + WORD_BITS - 1) / WORD_BITS : 0;

  for (size_t i = 1; i <= 3 && known; i++)
    known = join_set(mem, b->args[i], n, words);
  out->all = known;
  for (size_t fd = 0; fd < count && known; fd++)
    if (words[fd / WORD_BITS] >> (fd % WORD_BITS) & 1)
      add(out, (int)fd);
}

/* "tfd:        5 events:       19 ...": its descriptor, -1 of another line. */
static int parse_line(const char *line, size_t len)
{
  static const char word[] = "tfd:";
  char copy[32], *end;
  long fd;

  snprintf(copy, sizeof(copy), "%.*s", (int)(len < sizeof(copy) ? len : sizeof(copy)),
           line);
  if (!ss_starts_with(copy, word))
    return -1;
  fd = strtol(copy + strlen(word), &end, 10);
  return *end == ' ' && fd >= 0 && fd <= INT_MAX ? (int)fd : -1;
}

void ss_polled_parse(struct ss_polled *out, const char *text, size_t len)
{
  const char *line = text, *end = text + len, *stop;

  *out = (struct ss_polled){.all = true};
  for (; (stop = memchr(line, '\n', (size_t)(end - line))) != NULL; line = stop + 1) {
    int fd = parse_line(line, (size_t)(stop - line));

    if (fd >= 0)
      add(out, fd);
  }
  out->all = out->all && line == end;
}

static void read_epoll(const struct ss_blocked *b, pid_t pid, struct ss_polled *out)
{
  char path[64], text[4096];
  ssize_t got;
  int fd;

  snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, (int)b->args[0]);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  got = ss_read_some(fd, text, sizeof(text));
  ss_close(&fd);
  if (got > 0)
    ss_polled_parse(out, text, (size_t)got);
  if (got == sizeof(text))
    out->all = false;
}

void ss_blocked_polled(const struct ss_blocked *b, pid_t pid, const struct ss_mem *mem,
                       struct ss_polled *out)
{
  enum ss_wait_kind kind = ss_arch_syscall(b->nr).kind;

  *out = (struct ss_polled){.n = 0};
  if (kind == SS_WAIT_POLL)
    read_poll(b, mem, out);
  else if (kind == SS_WAIT_SELECT)
    read_select(b, mem, out);
  else if (kind == SS_WAIT_EPOLL)
    read_epoll(b, pid, out);
}
