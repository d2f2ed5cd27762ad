/*
 * /tmp/perf-PID.map: names that a JIT wrote for its code (perf's
 * jit-interface.txt), one "START SIZE name" a line, hexadecimal.
 *
 * /tmp is a public folder, so the file is honoured only if it is a regular file
 * of the target's user (or root), below a size cap, and written since the
 * process started; it is looked for in the target's own root and pid
 * namespace. Entries outside the target's executable mappings are dropped.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "elf_priv.h"
#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "stacksample/fsafe.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

struct entry {
  uint64_t start, size;
  uint32_t name; /* offset in names */
  uint32_t line; /* later lines are newer */
};

struct ss_perf_map {
  struct entry *entries;
  size_t count, cap;
  struct ss_buf names; /* NUL-terminated each */
};

/* A hexadecimal number up to a blank; false when it is none or too long. */
static bool read_hex(const char **text, const char *end, uint64_t *value)
{
  const char *p = *text;
  uint64_t v = 0;
  int digits = 0;
  if (end - p > 2 && p[0] == '0' && p[1] == 'x')
    p += 2;
  for (; p < end && *p != ' '; p++, digits++) {
    int d = *p >= '0' && *p <= '9'   ? *p - '0'
            : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10
            : *p >= 'A' && *p <= 'F' ? *p - 'A' + 10
                                     : -1;
    if (d < 0 || digits == 16)
      return false;
    v = v << 4 | (uint64_t)d;
  }
  if (digits == 0 || p == end)
    return false;
  *text = p + 1;
  *value = v;
  return true;
}

static bool add_line(struct ss_perf_map *map, const char *line, const char *end,
                     uint32_t number)
{
  uint64_t start, size;
  if (!read_hex(&line, end, &start) || !read_hex(&line, end, &size))
    return false;
  size_t len = (size_t)(end - line);
  if (size == 0 || start + size < start || len == 0 || len > SS_SYMBOL_NAME_MAX ||
      memchr(line, 0, len) != NULL || map->names.len > UINT32_MAX - len - 1)
    return false;
  if (!ss_grow(&map->entries, &map->cap, map->count + 1, sizeof *map->entries))
    return false;
  map->entries[map->count++] = (struct entry){
      .start = start, .size = size, .name = (uint32_t)map->names.len, .line = number};
  ss_buf_add(&map->names, line, len);
  ss_buf_addc(&map->names, 0);
  return true;
}

static int compare_entries(const void *pa, const void *pb)
{
  const struct entry *a = pa, *b = pb;
  if (a->start != b->start)
    return a->start < b->start ? -1 : 1;
  return (a->line > b->line) - (a->line < b->line);
}

/* Sorted, without overlap: of two that overlap the newer one stays. */
static size_t settle_overlaps(struct ss_perf_map *map)
{
  size_t kept = 0, dropped = 0;
  if (map->count > 0)
    qsort(map->entries, map->count, sizeof *map->entries, compare_entries);
  for (size_t i = 0; i < map->count; i++) {
    struct entry e = map->entries[i];
    bool keep = true;
    while (kept > 0 && keep) {
      const struct entry *last = &map->entries[kept - 1];
      if (e.start - last->start >= last->size)
        break;
      dropped++;
      if (last->line < e.line)
        kept--;
      else
        keep = false;
    }
    if (keep)
      map->entries[kept++] = e;
  }
  map->count = kept;
  return dropped;
}

enum ss_err ss_perf_map_parse(struct ss_perf_map **out, const char *text, size_t len,
                              size_t *rejected)
{
  struct ss_perf_map *map = calloc(1, sizeof *map);
  *out = map;
  *rejected = 0;
  if (map == NULL)
    return SS_ERR_NOMEM;
  const char *p = text, *end = text + len;
  for (uint32_t number = 0; p < end; number++) {
    const char *eol = memchr(p, '\n', (size_t)(end - p));
    if (eol == NULL)
      eol = end; /* a line still being written: its name may be short */
    if (!add_line(map, p, eol, number))
      (*rejected)++;
    p = eol == end ? end : eol + 1;
  }
  if (map->names.failed) {
    ss_perf_map_free(map);
    *out = NULL;
    return SS_ERR_NOMEM;
  }
  *rejected += settle_overlaps(map);
  return SS_ERR_OK;
}

void ss_perf_map_free(struct ss_perf_map *map)
{
  if (map == NULL)
    return;
  ss_buf_release(&map->names);
  free(map->entries);
  free(map);
}

bool ss_perf_map_find(const struct ss_perf_map *map, uint64_t addr, struct ss_symbol *out)
{
  size_t lo = 0, hi = map->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (map->entries[mid].start <= addr)
      lo = mid + 1;
    else
      hi = mid;
  }
  if (lo == 0 || addr - map->entries[lo - 1].start >= map->entries[lo - 1].size)
    return false;
  const struct entry *e = &map->entries[lo - 1];
  *out = (struct ss_symbol){e->start, e->size, map->names.data + e->name};
  return true;
}

/* The pid as the target itself sees it: the last number of NSpid. */
static pid_t own_pid_of(pid_t pid)
{
  char path[64];
  struct ss_buf text = {0};
  pid_t own = pid;
  snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
  if (ss_file_read_all(AT_FDCWD, path, 65536, &text, NULL) == SS_ERR_OK) {
    const char *line = strstr(ss_buf_str(&text), "\nNSpid:");
    size_t len = line == NULL ? 0 : strcspn(line + 1, "\n");
    for (size_t i = 1; i < len; i++)
      if ((line[i] == '\t' || line[i] == ' ') && line[i + 1] >= '1' && line[i + 1] <= '9')
        own = (pid_t)strtol(line + i + 1, NULL, 10);
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
  struct timespec boot;
  long ticks = sysconf(_SC_CLK_TCK);
  if (!ss_stat_read(&st, pid, 0) || ticks <= 0 ||
      clock_gettime(CLOCK_BOOTTIME, &boot) != 0)
    return 0;
  uint64_t now_boot = (uint64_t)boot.tv_sec * 1000000000u + (uint64_t)boot.tv_nsec;
  return ss_wall_ns() - now_boot + st.start_ticks * (1000000000u / (uint64_t)ticks);
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
  uint64_t written =
      (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
  if (written + 1000000000u < start_wall_ns(pid))
    return ss_fail(diag, SS_ERR_FORMAT,
                   "perf map of process %d ignored: it is older than the process",
                   (int)pid);
  return SS_ERR_OK;
}

static void drop_outside_code(struct ss_perf_map *map, const struct ss_maps *maps)
{
  size_t kept = 0;
  for (size_t i = 0; i < map->count; i++) {
    const struct entry *e = &map->entries[i];
    const struct ss_map *code = ss_maps_find(maps, e->start);
    if (code != NULL && (code->prot & SS_PROT_EXEC) != 0 &&
        e->size <= code->end - e->start)
      map->entries[kept++] = *e;
  }
  map->count = kept;
}

static enum ss_err read_text(int fd, uint64_t size, struct ss_buf *text)
{
  char chunk[16384];
  while (text->len < size) {
    ssize_t n = ss_pread_some(fd, chunk, sizeof chunk, text->len);
    if (n < 0)
      return SS_ERR_IO;
    if (n == 0)
      break;
    ss_buf_add(text, chunk, (size_t)n);
    if (text->failed)
      return SS_ERR_NOMEM;
  }
  return SS_ERR_OK;
}

enum ss_err ss_perf_map_load(struct ss_perf_map **map, pid_t pid,
                             const struct ss_maps *maps, struct ss_diag *diag)
{
  struct stat st;
  struct ss_buf text = {0};
  size_t rejected = 0;
  *map = NULL;
  int fd = open_plain(pid, own_pid_of(pid), &st);
  if (fd < 0)
    return ss_fail_errno(diag, "perf map of process %d", (int)pid);
  enum ss_err err = check_owner_and_age(pid, &st, diag);
  if (err == SS_ERR_OK)
    err = read_text(fd, (uint64_t)st.st_size, &text);
  if (err == SS_ERR_OK)
    err = ss_perf_map_parse(map, ss_buf_str(&text), text.len, &rejected);
  if (err == SS_ERR_OK)
    drop_outside_code(*map, maps);
  ss_buf_release(&text);
  ss_close(&fd);
  return err;
}
