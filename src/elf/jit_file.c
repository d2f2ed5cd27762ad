/*
 * The files in which a JIT tells of its code: the jitdump that it has mapped, else
 * /tmp/perf-PID.map. Both grow, and are read on from where the last reading ended.
 *
 * /tmp is a public folder, so the map is honoured only if it is a regular file
 * of the target's user (or root), below a size cap, and written since the
 * process started; it is looked for in the target's own root and pid
 * namespace.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "elf_priv.h"
#include "stacksample/buf.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

struct source {
  int fd;
  struct stat st;
  ss_jit_reader *read;
};

/* The pid as the target itself sees it: the last number of NSpid. */
static pid_t own_pid_of(pid_t pid)
{
  struct ss_buf text = {0};
  pid_t own = pid;
  if (ss_status_read(&text, pid, 0)) {
    const char *value = ss_status_value(text.data, "NSpid");
    size_t len = value == NULL ? 0 : strcspn(value, "\n");
    while (len > 0 && value[len - 1] != '\t')
      len--;
    if (len > 0)
      own = (pid_t)strtol(value + len, NULL, 10);
  }
  ss_buf_release(&text);
  return own;
}

/* Opened without following a link and without side effects on a FIFO or device:
 * by O_PATH first, and for reading only once it is known to be a plain file. */
static int open_plain(pid_t pid, pid_t own_pid, struct stat *st)
{
  char path[64];
  int fd = -1;
  snprintf(path, sizeof path, "/proc/%d/root", (int)pid);
  int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int tmp = openat(root, "tmp", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  snprintf(path, sizeof path, "perf-%d.map", (int)own_pid);
  int file = openat(tmp, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (file >= 0 && fstat(file, st) == 0) {
    if (S_ISREG(st->st_mode)) {
      snprintf(path, sizeof path, "/proc/self/fd/%d", file);
      fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    } else {
      errno = EINVAL;
    }
  }
  int saved = errno;
  ss_close(&file);
  ss_close(&tmp);
  ss_close(&root);
  errno = saved;
  return fd;
}

/* Wall-clock nanoseconds at which `pid` started; 0 unknown. */
static uint64_t start_wall_ns(pid_t pid)
{
  struct ss_stat st;
  return ss_stat_read(&st, pid, 0) ? ss_wall_ns() - ss_stat_age_ns(&st) : 0;
}

static enum ss_err check_owner_and_age(pid_t pid, const struct stat *st,
                                       struct ss_diag *diag)
{
  char path[64];
  struct stat proc;
  snprintf(path, sizeof path, "/proc/%d", (int)pid);
  if (stat(path, &proc) != 0)
    return ss_fail_errno(diag, "process %d", (int)pid);
  if (st->st_uid != proc.st_uid && st->st_uid != 0)
    return ss_fail(diag, SS_ERR_ACCESS,
                   "perf map of process %d ignored: it belongs to uid %u", (int)pid,
                   st->st_uid);
  if (st->st_size > (off_t)SS_PERF_MAP_MAX)
    return ss_fail(diag, SS_ERR_LIMIT, "perf map of process %d ignored: %lld bytes",
                   (int)pid, (long long)st->st_size);
  if (ss_mtime_ns(st) + 1000000000u < start_wall_ns(pid))
    return ss_fail(diag, SS_ERR_FORMAT,
                   "perf map of process %d ignored: it is older than the process",
                   (int)pid);
  return SS_ERR_OK;
}

static enum ss_err open_text(struct source *s, pid_t pid, struct ss_diag *diag)
{
  s->read = ss_perf_map_lines;
  s->fd = open_plain(pid, own_pid_of(pid), &s->st);
  return s->fd < 0 ? ss_fail_errno(diag, "perf map of process %d", (int)pid)
                   : check_owner_and_age(pid, &s->st, diag);
}

/* It is the very file that the target has mapped, so whose it is does not matter. */
static enum ss_err open_jitdump(struct source *s, pid_t pid, const struct ss_maps *maps,
                                struct ss_diag *diag)
{
  s->read = ss_jitdump_records;
  s->fd = ss_jitdump_open(pid, maps, diag);
  if (s->fd < 0)
    return diag->err;
  if (fstat(s->fd, &s->st) != 0)
    return ss_fail_errno(diag, "jitdump of process %d", (int)pid);
  if (s->st.st_size > (off_t)SS_PERF_MAP_MAX)
    return ss_fail(diag, SS_ERR_LIMIT, "jitdump of process %d ignored: too large",
                   (int)pid);
  return SS_ERR_OK;
}

static bool read_on(const struct source *s, uint64_t from, struct ss_buf *out)
{
  char chunk[16384];
  while (from < (uint64_t)s->st.st_size) {
    ssize_t n = ss_pread_some(s->fd, chunk, sizeof chunk, from);
    if (n <= 0)
      return n == 0; /* cut meanwhile */
    ss_buf_add(out, chunk, (size_t)n);
    from += (uint64_t)n;
  }
  return !out->failed;
}

/* Is it the file that the map is of, with as much in it? */
static bool goes_on(const struct ss_perf_map *map, const struct source *s)
{
  return map->dev == s->st.st_dev && map->ino == s->st.st_ino &&
         (uint64_t)s->st.st_size >= map->taken;
}

static enum ss_err take(struct ss_perf_map **map, const struct source *s,
                        const struct ss_maps *maps)
{
  struct ss_buf bytes = {0};
  size_t rejected;
  enum ss_err err = SS_ERR_IO;
  if (*map != NULL && !goes_on(*map, s)) {
    ss_perf_map_free(*map);
    *map = NULL;
  }
  if (*map == NULL && (*map = calloc(1, sizeof **map)) == NULL)
    return SS_ERR_NOMEM;
  (*map)->maps = maps;
  (*map)->dev = s->st.st_dev;
  (*map)->ino = s->st.st_ino;
  if (read_on(s, (*map)->taken, &bytes))
    err = ss_perf_map_extend(*map, s->read, ss_buf_str(&bytes), bytes.len, &rejected);
  ss_buf_release(&bytes);
  if (err != SS_ERR_OK) {
    ss_perf_map_free(*map);
    *map = NULL;
  }
  return err;
}

enum ss_err ss_perf_map_load(struct ss_perf_map **map, pid_t pid,
                             const struct ss_maps *maps, struct ss_diag *diag)
{
  struct ss_diag why = {0};
  struct source s = {.fd = -1};
  /* Of the two the dump says more. */
  enum ss_err err = open_jitdump(&s, pid, maps, &why);
  if (err == SS_ERR_GONE)
    err = open_text(&s, pid, &why);
  if (err != SS_ERR_OK && diag != NULL)
    *diag = why;
  if (err == SS_ERR_OK && (err = take(map, &s, maps)) != SS_ERR_OK)
    (void)ss_fail(diag, err, "JIT names of process %d", (int)pid);
  ss_close(&s.fd);
  return err;
}
