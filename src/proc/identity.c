/*
 * Who a process is: parsers of /proc/PID/{stat,schedstat,status,cmdline}, and the pair
 * (pid, start time) that tells a process from a later one with its number.
 *
 * The name in stat is free text, up to 63 bytes that may hold ") R 1 (" or a
 * newline; it ends at the last ')', because only numbers follow it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stacksample/cursor.h"
#include "stacksample/fsafe.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

/* A decimal number and the separator behind it (which tells it from one that
 * was cut off); a leading '-' gives the two's complement. */
static uint64_t read_decimal(struct ss_cursor *c)
{
  uint64_t value = 0;
  bool negative = c->left > 0 && *c->cur == '-';
  size_t digits = 0;
  if (negative)
    ss_skip(c, 1);
  for (;; digits++) {
    unsigned char byte = ss_read_u8(c);
    if (byte < '0' || byte > '9') {
      c->failed |= digits == 0 || (byte != ' ' && byte != '\n');
      return negative ? 0 - value : value;
    }
    unsigned digit = (unsigned)(byte - '0');
    if (value > (UINT64_MAX - digit) / 10)
      c->failed = true;
    if (c->failed)
      return 0;
    value = value * 10 + digit;
  }
}

/* The fields behind the name, in proc_pid_stat(5)'s order from field 4 on. */
enum stat_field {
  F_PPID,
  F_PGRP,
  F_SESSION,
  F_TTY,
  F_TPGID,
  F_FLAGS,
  F_MINFLT,
  F_CMINFLT,
  F_MAJFLT,
  F_CMAJFLT,
  F_UTIME,
  F_STIME,
  F_CUTIME,
  F_CSTIME,
  F_PRIORITY,
  F_NICE,
  F_THREADS,
  F_ITREAL,
  F_START,
  F_COUNT
};
/* Those behind; not needed to know who somebody is. */
enum stat_more {
  F_VSIZE,
  F_RSS,
  F_RSS_LIMIT,
  F_START_CODE,
  F_END_CODE,
  F_START_STACK,
  F_PROCESSOR = 16,
  F_MORE_COUNT
};

static void parse_more(struct ss_stat *st, struct ss_cursor *c)
{
  uint64_t f[F_MORE_COUNT] = {0};
  for (int i = 0; i < F_MORE_COUNT; i++)
    f[i] = read_decimal(c);
  bool known = !c->failed && f[F_PROCESSOR] <= INT32_MAX;
  st->processor = known ? (int)f[F_PROCESSOR] : -1;
  st->start_code = c->failed ? 0 : f[F_START_CODE];
  st->end_code = c->failed ? 0 : f[F_END_CODE];
  st->start_stack = c->failed ? 0 : f[F_START_STACK];
}

static bool parse_head(struct ss_stat *st, struct ss_cursor *c, const char *text,
                       size_t len)
{
  uint64_t pid = read_decimal(c);
  size_t open_at = ss_cursor_offset(c);
  const char *close = memrchr(text, ')', len);
  if (c->failed || pid > INT32_MAX || open_at >= len || text[open_at] != '(' || !close ||
      (size_t)(close - text) <= open_at)
    return false;
  size_t comm_len = (size_t)(close - text) - open_at - 1;
  if (comm_len >= sizeof st->comm)
    return false;
  st->pid = (pid_t)pid;
  memcpy(st->comm, text + open_at + 1, comm_len);
  ss_skip(c, comm_len + 2);
  if (ss_read_u8(c) != ' ')
    return false;
  st->state = (char)ss_read_u8(c);
  if (ss_read_u8(c) != ' ')
    return false;
  return (st->state >= 'A' && st->state <= 'Z') || (st->state >= 'a' && st->state <= 'z');
}

bool ss_stat_parse(struct ss_stat *st, const char *text, size_t len)
{
  struct ss_cursor c = ss_cursor_init(text, len);
  uint64_t f[F_COUNT];
  memset(st, 0, sizeof *st);
  if (!parse_head(st, &c, text, len))
    return false;
  for (int i = 0; i < F_COUNT; i++)
    f[i] = read_decimal(&c);
  if (c.failed || f[F_PPID] > INT32_MAX || f[F_THREADS] > INT32_MAX)
    return false;
  st->ppid = (pid_t)f[F_PPID];
  st->flags = (uint32_t)f[F_FLAGS];
  st->minflt = f[F_MINFLT];
  st->utime_ticks = f[F_UTIME];
  st->stime_ticks = f[F_STIME];
  st->threads = (uint32_t)f[F_THREADS];
  st->start_ticks = f[F_START];
  parse_more(st, &c);
  return true;
}

enum { PROC_PATH_MAX = 96 };

/* /proc/PID/NAME, or the thread's where `tid` is not 0. */
static const char *proc_path(char path[PROC_PATH_MAX], pid_t pid, pid_t tid,
                             const char *name)
{
  if (tid == 0)
    snprintf(path, PROC_PATH_MAX, "/proc/%d/%s", (int)pid, name);
  else
    snprintf(path, PROC_PATH_MAX, "/proc/%d/task/%d/%s", (int)pid, (int)tid, name);
  return path;
}

/* Bytes read, 0 on error (errno then says why). */
static size_t read_small(pid_t pid, pid_t tid, const char *name, char *buf, size_t cap)
{
  char path[PROC_PATH_MAX];
  int fd = open(proc_path(path, pid, tid, name), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  ssize_t n = ss_read_some(fd, buf, cap);
  ss_close(&fd);
  return n > 0 ? (size_t)n : 0;
}

bool ss_stat_read(struct ss_stat *st, pid_t pid, pid_t tid)
{
  char text[2048]; /* 52 numbers of at most 20 digits and the name */
  size_t len = read_small(pid, tid, "stat", text, sizeof text);
  return ss_stat_parse(st, text, len);
}

uint64_t ss_ticks_ns(uint64_t ticks)
{
  return ticks * (1000000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

uint64_t ss_stat_age_ns(const struct ss_stat *st)
{
  uint64_t start_ns = ss_ticks_ns(st->start_ticks);
  uint64_t now_ns = ss_clock_ns(CLOCK_BOOTTIME);
  return now_ns > start_ns ? now_ns - start_ns : 0;
}

bool ss_stat_ended(const struct ss_stat *st)
{
  return st->state == 'X' || (st->state == 'Z' && st->threads <= 1);
}

bool ss_schedstat_read(pid_t pid, pid_t tid, uint64_t *cpu_ns, uint64_t *wait_ns)
{
  char text[128];
  size_t len = read_small(pid, tid, "schedstat", text, sizeof text);
  struct ss_cursor c = ss_cursor_init(text, len);
  uint64_t cpu = read_decimal(&c), wait = read_decimal(&c);
  if (c.failed)
    return false;
  *cpu_ns = cpu;
  *wait_ns = wait;
  return true;
}

/* The lines behind those that can be long (Groups, Cpus_allowed_list) count too. */
enum { STATUS_MAX = 1 << 20 };

bool ss_status_read(struct ss_buf *text, pid_t pid, pid_t tid)
{
  char path[PROC_PATH_MAX];
  return ss_file_read_all(AT_FDCWD, proc_path(path, pid, tid, "status"), STATUS_MAX, text,
                          NULL) == SS_ERR_OK;
}

const char *ss_status_value(const char *text, const char *name)
{
  size_t len = strlen(name);
  for (const char *line = text; line && *line;) {
    if (strncmp(line, name, len) == 0 && line[len] == ':')
      return line + len + 1;
    line = strchr(line, '\n');
    line = line ? line + 1 : NULL;
  }
  return NULL;
}

uint64_t ss_status_number(const char *text, const char *name, int base)
{
  const char *value = ss_status_value(text, name);
  return value ? strtoull(value, NULL, base) : 0;
}

uint64_t ss_exec_kb(pid_t pid, pid_t tid)
{
  char text[4096];
  size_t len = read_small(pid, tid, "status", text, sizeof text - 1);
  text[len] = '\0';
  return ss_status_number(text, "VmExe", 10) + ss_status_number(text, "VmLib", 10);
}

static bool read_up_to(struct ss_buf *out, pid_t pid, const char *name, size_t max)
{
  char path[PROC_PATH_MAX], part[4096];
  ssize_t n;
  int fd = open(proc_path(path, pid, 0, name), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  do {
    size_t left = max - out->len;
    n = left > 0 ? ss_read_some(fd, part, left < sizeof part ? left : sizeof part) : 0;
    ss_buf_add(out, part, n > 0 ? (size_t)n : 0);
  } while (n > 0 && !out->failed);
  ss_close(&fd);
  return n == 0 && !out->failed;
}

bool ss_words_read(struct ss_words *w, pid_t pid, const char *name, size_t max)
{
  ss_words_release(w);
  if (!read_up_to(&w->text, pid, name, max))
    return false;
  for (size_t i = 0; i < w->text.len; i += strlen(w->text.data + i) + 1) {
    if (!ss_grow(&w->items, &w->cap, w->count + 2, sizeof *w->items))
      return false;
    w->items[w->count++] = w->text.data + i;
    w->items[w->count] = NULL;
  }
  return w->count > 0;
}

void ss_words_release(struct ss_words *w)
{
  ss_buf_release(&w->text);
  free(w->items);
  *w = (struct ss_words){0};
}

/* ---- identity --------------------------------------------------------------- */

bool ss_identity_get(struct ss_identity *id, pid_t pid)
{
  struct ss_stat st;
  if (!ss_stat_read(&st, pid, 0))
    return false;
  *id = (struct ss_identity){.pid = pid, .start_ticks = st.start_ticks};
  return true;
}

bool ss_identity_alive(const struct ss_identity *id)
{
  struct ss_stat st;
  return ss_stat_read(&st, id->pid, 0) && st.start_ticks == id->start_ticks &&
         !ss_stat_ended(&st);
}
