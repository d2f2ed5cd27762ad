/*
 * What a JIT says of its code. /tmp/perf-PID.map (perf's jit-interface.txt) has
 * names, one "START SIZE name" a line, hexadecimal; a jitdump is read by jitdump.c.
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
#include "stacksample/limits.h"
#include "stacksample/sys.h"

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

bool ss_perf_map_add(struct ss_perf_map *map, uint64_t start, uint64_t size,
                     const char *name, size_t len)
{
  if (size == 0 || start + size < start || len == 0 || len > SS_SYMBOL_NAME_MAX ||
      memchr(name, 0, len) != NULL || map->names.len > UINT32_MAX - len - 1 ||
      map->count == UINT32_MAX)
    return false;
  if (!ss_grow(&map->entries, &map->cap, map->count + 1, sizeof *map->entries))
    return false;
  map->entries[map->count] = (struct ss_jit_entry){.start = start,
                                                   .size = size,
                                                   .name = (uint32_t)map->names.len,
                                                   .order = (uint32_t)map->count};
  map->count++;
  ss_buf_add(&map->names, name, len);
  ss_buf_addc(&map->names, 0);
  return true;
}

static bool add_line(struct ss_perf_map *map, const char *line, const char *end)
{
  uint64_t start, size;
  return read_hex(&line, end, &start) && read_hex(&line, end, &size) &&
         ss_perf_map_add(map, start, size, line, (size_t)(end - line));
}

static int compare_entries(const void *pa, const void *pb)
{
  const struct ss_jit_entry *a = pa, *b = pb;
  if (a->start != b->start)
    return a->start < b->start ? -1 : 1;
  return (a->order > b->order) - (a->order < b->order);
}

/* Sorted, without overlap: of two that overlap the newer one stays. */
static size_t settle_overlaps(struct ss_perf_map *map)
{
  size_t kept = 0, dropped = 0;
  if (map->count > 0)
    qsort(map->entries, map->count, sizeof *map->entries, compare_entries);
  for (size_t i = 0; i < map->count; i++) {
    struct ss_jit_entry e = map->entries[i];
    bool keep = true;
    while (kept > 0 && keep) {
      const struct ss_jit_entry *last = &map->entries[kept - 1];
      if (e.start - last->start >= last->size)
        break;
      dropped++;
      if (last->order < e.order)
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

static void read_lines(struct ss_perf_map *map, const void *bytes, size_t len,
                       size_t *rejected)
{
  const char *p = bytes, *end = p + len;
  while (p < end) {
    const char *eol = memchr(p, '\n', (size_t)(end - p));
    if (eol == NULL)
      eol = end; /* a line still being written: its name may be short */
    if (!add_line(map, p, eol))
      (*rejected)++;
    p = eol == end ? end : eol + 1;
  }
}

typedef void reader_fn(struct ss_perf_map *map, const void *bytes, size_t len,
                       size_t *rejected);

static enum ss_err parse(struct ss_perf_map **out, reader_fn *read, const void *bytes,
                         size_t len, size_t *rejected)
{
  struct ss_perf_map *map = calloc(1, sizeof *map);
  *out = map;
  *rejected = 0;
  if (map == NULL)
    return SS_ERR_NOMEM;
  read(map, bytes, len, rejected);
  if (map->names.failed || map->unwind.failed) {
    ss_perf_map_free(map);
    *out = NULL;
    return SS_ERR_NOMEM;
  }
  *rejected += settle_overlaps(map);
  return SS_ERR_OK;
}

enum ss_err ss_perf_map_parse(struct ss_perf_map **out, const char *text, size_t len,
                              size_t *rejected)
{
  return parse(out, read_lines, text, len, rejected);
}

enum ss_err ss_perf_map_parse_jitdump(struct ss_perf_map **out, const void *bytes,
                                      size_t len, size_t *rejected)
{
  return parse(out, ss_jitdump_read, bytes, len, rejected);
}

void ss_perf_map_free(struct ss_perf_map *map)
{
  if (map == NULL)
    return;
  ss_buf_release(&map->names);
  ss_buf_release(&map->unwind);
  free(map->entries);
  free(map);
}

static const struct ss_jit_entry *entry_at(const struct ss_perf_map *map, uint64_t addr)
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
    return NULL;
  return &map->entries[lo - 1];
}

bool ss_perf_map_find(const struct ss_perf_map *map, uint64_t addr, struct ss_symbol *out)
{
  const struct ss_jit_entry *e = entry_at(map, addr);
  if (e != NULL)
    *out = (struct ss_symbol){e->start, e->size, map->names.data + e->name};
  return e != NULL;
}

bool ss_perf_map_unwind(const struct ss_perf_map *map, uint64_t addr,
                        struct ss_jit_unwind *out)
{
  const struct ss_jit_entry *e = entry_at(map, addr);
  if (e == NULL || e->unwind_len == 0)
    return false;
  *out = (struct ss_jit_unwind){
      e->start, (const unsigned char *)map->unwind.data + e->unwind, e->unwind_len};
  return true;
}

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

static void drop_outside_code(struct ss_perf_map *map, const struct ss_maps *maps)
{
  size_t kept = 0;
  for (size_t i = 0; i < map->count; i++) {
    const struct ss_jit_entry *e = &map->entries[i];
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

/* Reads an open file, which is closed, as a map. */
static enum ss_err load_file(struct ss_perf_map **map, int fd, uint64_t size,
                             reader_fn *read)
{
  struct ss_buf text = {0};
  size_t rejected = 0;
  enum ss_err err = read_text(fd, size, &text);
  if (err == SS_ERR_OK)
    err = parse(map, read, ss_buf_str(&text), text.len, &rejected);
  ss_buf_release(&text);
  ss_close(&fd);
  return err;
}

static enum ss_err load_text(struct ss_perf_map **map, pid_t pid, struct ss_diag *diag)
{
  struct stat st;
  int fd = open_plain(pid, own_pid_of(pid), &st);
  if (fd < 0)
    return ss_fail_errno(diag, "perf map of process %d", (int)pid);
  enum ss_err err = check_owner_and_age(pid, &st, diag);
  if (err == SS_ERR_OK)
    return load_file(map, fd, (uint64_t)st.st_size, read_lines);
  ss_close(&fd);
  return err;
}

/* It is the very file that the target has mapped, so whose it is does not matter. */
static enum ss_err load_jitdump(struct ss_perf_map **map, pid_t pid,
                                const struct ss_maps *maps, struct ss_diag *diag)
{
  struct stat st;
  int fd = ss_jitdump_open(pid, maps, diag);
  if (fd < 0)
    return diag->err;
  if (fstat(fd, &st) == 0 && st.st_size <= (off_t)SS_PERF_MAP_MAX)
    return load_file(map, fd, (uint64_t)st.st_size, ss_jitdump_read);
  ss_close(&fd);
  return ss_fail(diag, SS_ERR_LIMIT, "jitdump of process %d ignored: too large",
                 (int)pid);
}

enum ss_err ss_perf_map_load(struct ss_perf_map **map, pid_t pid,
                             const struct ss_maps *maps, struct ss_diag *diag)
{
  struct ss_diag why = {0};
  *map = NULL;
  /* Of the two the dump says more. */
  enum ss_err err = load_jitdump(map, pid, maps, &why);
  if (err == SS_ERR_GONE)
    err = load_text(map, pid, &why);
  if (err == SS_ERR_OK && *map)
    drop_outside_code(*map, maps);
  else if (diag != NULL)
    *diag = why;
  return err;
}
