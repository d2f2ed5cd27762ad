/*
 * The mappings of a process: a sorted array without overlap, filled from the
 * text of /proc/PID/maps and from the kernel's mmap records.
 *
 * The text is input: a mapping may appear twice where the process changed
 * between two reads of ours, a name may hold a newline (shown as \012), spaces,
 * or end in " (deleted)" for real. Nothing is opened here; see file.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/cursor.h"
#include "stacksample/fsafe.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/proc.h"

/* ---- path names ------------------------------------------------------------ */

struct ss_paths {
  struct ss_interner names;
};

struct ss_paths *ss_paths_new(void)
{
  return calloc(1, sizeof(struct ss_paths));
}

void ss_paths_free(struct ss_paths *paths)
{
  if (!paths)
    return;
  ss_interner_release(&paths->names);
  free(paths);
}

uint32_t ss_paths_intern(struct ss_paths *paths, const char *path, size_t len)
{
  return ss_intern(&paths->names, path, len);
}

const char *ss_paths_get(const struct ss_paths *paths, uint32_t id)
{
  return id < paths->names.count ? ss_interned_str(&paths->names, id, NULL) : "";
}

/* ---- the array ------------------------------------------------------------- */

void ss_maps_init(struct ss_maps *maps, struct ss_paths *paths)
{
  *maps = (struct ss_maps){.paths = paths};
}

void ss_maps_release(struct ss_maps *maps)
{
  free(maps->items);
  maps->items = NULL;
  maps->count = maps->cap = 0;
}

void ss_maps_clear(struct ss_maps *maps)
{
  maps->count = 0;
  maps->generation++;
}

/* Index of the first mapping that ends above `addr`; count where none does. */
static size_t first_ending_above(const struct ss_maps *maps, uint64_t addr)
{
  size_t lo = 0, hi = maps->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (maps->items[mid].end > addr)
      hi = mid;
    else
      lo = mid + 1;
  }
  return lo;
}

/* Index of the first mapping from `lo` on that starts at or above `addr`. */
static size_t first_starting_from(const struct ss_maps *maps, size_t lo, uint64_t addr)
{
  size_t hi = maps->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (maps->items[mid].start >= addr)
      hi = mid;
    else
      lo = mid + 1;
  }
  return lo;
}

struct ss_map *ss_maps_find(const struct ss_maps *maps, uint64_t addr)
{
  size_t i = first_ending_above(maps, addr);
  if (i == maps->count || maps->items[i].start > addr)
    return NULL;
  return &maps->items[i];
}

/* Replaces items [lo, hi) by `count` new ones. */
static enum ss_err replace_items(struct ss_maps *maps, size_t lo, size_t hi,
                                 const struct ss_map *items, size_t count)
{
  size_t left = maps->count - (hi - lo) + count;
  if (left > SS_MAPS_MAX)
    return SS_ERR_LIMIT;
  if (!ss_grow(&maps->items, &maps->cap, left, sizeof *maps->items))
    return SS_ERR_NOMEM;
  memmove(maps->items + lo + count, maps->items + hi,
          (maps->count - hi) * sizeof *maps->items);
  memcpy(maps->items + lo, items, count * sizeof *items);
  maps->count = left;
  maps->generation++;
  return SS_ERR_OK;
}

enum ss_err ss_maps_insert(struct ss_maps *maps, const struct ss_map *map)
{
  struct ss_map pieces[3];
  size_t count = 0;
  if (map->start >= map->end)
    return SS_ERR_FORMAT;
  size_t lo = first_ending_above(maps, map->start);
  size_t hi = first_starting_from(maps, lo, map->end);
  if (lo < hi && maps->items[lo].start < map->start) {
    pieces[count] = maps->items[lo];
    pieces[count++].end = map->start;
  }
  pieces[count++] = *map;
  if (lo < hi && maps->items[hi - 1].end > map->end) {
    struct ss_map *right = &pieces[count++];
    *right = maps->items[hi - 1];
    if (right->path != SS_ID_NONE)
      right->offset += map->end - right->start;
    right->start = map->end;
  }
  return replace_items(maps, lo, hi, pieces, count);
}

enum ss_err ss_maps_copy(struct ss_maps *to, const struct ss_maps *from)
{
  if (!ss_grow(&to->items, &to->cap, from->count, sizeof *to->items))
    return SS_ERR_NOMEM;
  if (from->count > 0)
    memcpy(to->items, from->items, from->count * sizeof *to->items);
  to->count = from->count;
  to->paths = from->paths;
  to->generation++;
  return SS_ERR_OK;
}

/* Every address of `map` is free. */
static bool lies_free(const struct ss_maps *maps, const struct ss_map *map)
{
  size_t next = first_ending_above(maps, map->start);
  return next == maps->count || maps->items[next].start >= map->end;
}

enum ss_err ss_maps_keep(struct ss_maps *maps, const struct ss_maps *old)
{
  enum ss_err err = SS_ERR_OK;
  for (size_t i = 0; i < old->count && err == SS_ERR_OK; i++) {
    const struct ss_map *map = &old->items[i];
    if (map->inode != 0 && (map->prot & SS_PROT_EXEC) && lies_free(maps, map))
      err = ss_maps_insert(maps, map);
  }
  return err;
}

/* ---- the text -------------------------------------------------------------- */

static int hex_digit(unsigned char c)
{
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  return -1;
}

/* A number in `base` (10 or 16) and the byte that must follow it. */
static uint64_t read_number(struct ss_cursor *c, unsigned base, unsigned char after)
{
  uint64_t value = 0;
  for (size_t digits = 0;; digits++) {
    unsigned char byte = ss_read_u8(c);
    int digit = hex_digit(byte);
    if (digit < 0 || (unsigned)digit >= base) {
      c->failed |= digits == 0 || byte != after;
      return value;
    }
    if (value > (UINT64_MAX - (unsigned)digit) / base)
      c->failed = true;
    if (c->failed)
      return 0;
    value = value * base + (unsigned)digit;
  }
}

static uint8_t read_prot(struct ss_cursor *c)
{
  const unsigned char *p = ss_read_bytes(c, 5);
  if (!p || !strchr("r-", p[0]) || !strchr("w-", p[1]) || !strchr("x-", p[2]) ||
      !strchr("ps", p[3]) || p[4] != ' ' || memchr(p, 0, 5)) {
    c->failed = true;
    return 0;
  }
  return (uint8_t)((p[0] == 'r' ? SS_PROT_READ : 0) | (p[1] == 'w' ? SS_PROT_WRITE : 0) |
                   (p[2] == 'x' ? SS_PROT_EXEC : 0));
}

/* The kernel escapes the newline alone (seq_file_path in fs/proc/task_mmu.c):
 * any other backslash stands for itself. */
static uint32_t intern_path(struct ss_paths *paths, const unsigned char *raw, size_t len)
{
  char path[SS_PATH_MAX];
  size_t out = 0;
  for (size_t i = 0; i < len; out++) {
    bool newline = len - i >= 4 && memcmp(raw + i, "\\012", 4) == 0;
    path[out] = newline ? '\n' : (char)raw[i];
    i += newline ? 4 : 1;
  }
  return ss_paths_intern(paths, path, out);
}

/* One line without its newline. */
static enum ss_err parse_line(struct ss_map *map, struct ss_paths *paths,
                              const unsigned char *line, size_t len)
{
  struct ss_cursor c = ss_cursor_init(line, len);
  *map = (struct ss_map){.path = SS_ID_NONE};
  map->start = read_number(&c, 16, '-');
  map->end = read_number(&c, 16, ' ');
  map->prot = read_prot(&c);
  map->offset = read_number(&c, 16, ' ');
  uint64_t dev_major = read_number(&c, 16, ':');
  uint64_t dev_minor = read_number(&c, 16, ' ');
  map->inode = read_number(&c, 10, ' ');
  if (c.failed || map->start >= map->end || dev_major > UINT32_MAX ||
      dev_minor > UINT32_MAX)
    return SS_ERR_FORMAT;
  map->dev_major = (uint32_t)dev_major;
  map->dev_minor = (uint32_t)dev_minor;
  while (c.left > 0 && *c.cur == ' ')
    ss_skip(&c, 1);
  if (c.left > SS_PATH_MAX || memchr(c.cur, 0, c.left))
    return SS_ERR_FORMAT;
  if (c.left > 0) {
    map->path = intern_path(paths, c.cur, c.left);
    return map->path == SS_ID_NONE ? SS_ERR_NOMEM : SS_ERR_OK;
  }
  return SS_ERR_OK;
}

enum ss_err ss_maps_parse(struct ss_maps *maps, const char *text, size_t len,
                          size_t *rejected)
{
  struct ss_cursor c = ss_cursor_init(text, len);
  size_t bad = 0;
  enum ss_err err = SS_ERR_OK;
  ss_maps_clear(maps);
  while (c.left > 0 && err == SS_ERR_OK) {
    const unsigned char *newline = memchr(c.cur, '\n', c.left);
    /* A line that was cut off may have lost digits of its last field. */
    size_t line_len = newline ? (size_t)(newline - c.cur) : c.left;
    const unsigned char *line = ss_read_bytes(&c, line_len);
    struct ss_map map;
    ss_skip(&c, newline ? 1 : 0);
    err = newline ? parse_line(&map, maps->paths, line, line_len) : SS_ERR_FORMAT;
    if (err == SS_ERR_OK)
      err = ss_maps_insert(maps, &map);
    if (err == SS_ERR_FORMAT) {
      bad++;
      err = SS_ERR_OK;
    }
  }
  if (rejected)
    *rejected = bad;
  return err;
}

/* ---- loading --------------------------------------------------------------- */

/* Beyond it a process has more mappings than SS_MAPS_MAX, or longer names than
 * any that was ever seen. */
enum { MAPS_TEXT_MAX = 64 << 20 };

static enum ss_err read_text(pid_t pid, pid_t tid, struct ss_buf *text,
                             struct ss_diag *diag)
{
  char path[64];
  if (tid == pid)
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
  else
    snprintf(path, sizeof path, "/proc/%d/task/%d/maps", (int)pid, (int)tid);
  ss_buf_clear(text);
  return ss_file_read_all(AT_FDCWD, path, MAPS_TEXT_MAX, text, diag);
}

/* The memory of a process whose leader ended is seen through its threads. */
static enum ss_err read_any_thread(pid_t pid, struct ss_buf *text, struct ss_diag *diag)
{
  pid_t *tids = NULL;
  size_t count = 0;
  enum ss_err err = ss_tasks_list(pid, &tids, &count);
  if (err != SS_ERR_OK)
    return ss_fail(diag, err, "process %d has ended", (int)pid);
  for (size_t i = 0; i < count; i++) {
    if (tids[i] == pid)
      continue;
    err = read_text(pid, tids[i], text, diag);
    if (err == SS_ERR_OK && text->len > 0)
      break;
  }
  free(tids);
  return err;
}

enum ss_err ss_maps_load(struct ss_maps *maps, pid_t pid, struct ss_diag *diag)
{
  struct ss_buf text = {0};
  enum ss_err err = read_text(pid, pid, &text, diag);
  struct ss_stat st;
  if ((err == SS_ERR_GONE || (err == SS_ERR_OK && text.len == 0)) &&
      ss_stat_read(&st, pid, 0) && st.state == 'Z')
    err = read_any_thread(pid, &text, diag);
  if (err == SS_ERR_OK) {
    err = ss_maps_parse(maps, ss_buf_str(&text), text.len, NULL);
    if (err != SS_ERR_OK)
      ss_fail(diag, err, "the mappings of process %d", (int)pid);
  }
  ss_buf_release(&text);
  return err;
}
