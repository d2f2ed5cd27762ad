/*
 * jit-PID.dump: what a JIT wrote of its code (Linux,
 * tools/perf/Documentation/jitdump-specification.txt): names, and, where a record of
 * it comes before, unwind information. The JIT maps the file executable, for perf to
 * find it, and so do we: no name in a public folder is looked up.
 *
 * In a record of unwind information .eh_frame comes first and .eh_frame_hdr last,
 * as perf's reader and all writers have it. The code's bytes are not kept. A record
 * whose parts do not fit into its length is counted and skipped by its length; where
 * that makes no sense, or the file ends, so do the records.
 */
#include <string.h>

#include "elf_priv.h"
#include "stacksample/arch.h"
#include "stacksample/cursor.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/text.h"

#define MAGIC 0x4a695444u /* "JiTD" on a machine of the same byte order */
#define HEADER 40
#define PREFIX 16

enum { JIT_CODE_LOAD, JIT_CODE_MOVE, JIT_CODE_DEBUG_INFO, JIT_CODE_CLOSE, JIT_UNWINDING };

struct dump {
  struct ss_perf_map *map;
  struct ss_idmap by_index;       /* code_index -> entry of its last place */
  const unsigned char *unwinding; /* for the next code; NULL: none */
  size_t unwinding_len;
};

static void attach_unwinding(struct dump *d, struct ss_jit_entry *e)
{
  struct ss_buf *all = &d->map->unwind;
  if (d->unwinding == NULL || all->len > UINT32_MAX - d->unwinding_len)
    return;
  e->unwind = (uint32_t)all->len;
  e->unwind_len = (uint32_t)d->unwinding_len;
  ss_buf_add(all, d->unwinding, d->unwinding_len);
}

static bool read_load(struct dump *d, struct ss_cursor *c)
{
  ss_skip(c, 4 + 4 + 8); /* pid, tid, vma */
  uint64_t start = ss_read_u64(c), size = ss_read_u64(c), index = ss_read_u64(c);
  const char *name = ss_read_cstr(c);
  bool good = name != NULL && ss_perf_map_add(d->map, start, size, name, strlen(name));
  if (good) {
    attach_unwinding(d, &d->map->entries[d->map->count - 1]);
    good = ss_idmap_put(&d->by_index, index, d->map->count - 1);
  }
  d->unwinding = NULL;
  return good;
}

static bool read_move(struct dump *d, struct ss_cursor *c)
{
  ss_skip(c, 4 + 4 + 8 + 8); /* pid, tid, vma, where it was */
  uint64_t start = ss_read_u64(c), size = ss_read_u64(c), index = ss_read_u64(c);
  uint64_t *known = c->failed ? NULL : ss_idmap_get(&d->by_index, index);
  if (known == NULL)
    return false;
  struct ss_jit_entry old = d->map->entries[*known];
  char name[SS_SYMBOL_NAME_MAX + 1];
  size_t len = strlen(d->map->names.data + old.name);
  memcpy(name, d->map->names.data + old.name, len); /* adding moves the names */
  if (!ss_perf_map_add(d->map, start, size, name, len))
    return false;
  struct ss_jit_entry *e = &d->map->entries[d->map->count - 1];
  e->unwind = old.unwind;
  e->unwind_len = old.unwind_len;
  *known = d->map->count - 1;
  return true;
}

static bool read_unwinding(struct dump *d, struct ss_cursor *c)
{
  uint64_t size = ss_read_u64(c), hdr = ss_read_u64(c);
  ss_skip(c, 8); /* how much of it the process has mapped */
  d->unwinding = NULL;
  if (c->failed || size > c->left || hdr > size || size - hdr > SS_JIT_UNWIND_MAX)
    return false;
  d->unwinding_len = (size_t)(size - hdr);
  d->unwinding = d->unwinding_len == 0 ? NULL : ss_read_bytes(c, d->unwinding_len);
  return true;
}

static bool read_record(struct dump *d, uint32_t id, struct ss_cursor *c)
{
  switch (id) {
  case JIT_CODE_LOAD:
    return read_load(d, c);
  case JIT_CODE_MOVE:
    return read_move(d, c);
  case JIT_UNWINDING:
    return read_unwinding(d, c);
  default: /* lines, the end, or of a later version */
    return true;
  }
}

/* The cursor behind the header, or failed. */
static struct ss_cursor read_header(const void *bytes, size_t len)
{
  struct ss_cursor c = ss_cursor_init(bytes, len);
  uint32_t magic = ss_read_u32(&c);
  uint32_t version = ss_read_u32(&c);
  uint32_t size = ss_read_u32(&c);
  uint32_t machine = ss_read_u32(&c);
  if (magic != MAGIC || version != 1 || size < HEADER || machine != ss_arch_elf_machine())
    c.failed = true;
  else
    ss_skip(&c, size - 16);
  return c;
}

void ss_jitdump_read(struct ss_perf_map *map, const void *bytes, size_t len,
                     size_t *rejected)
{
  struct dump d = {.map = map};
  struct ss_cursor c = read_header(bytes, len);
  bool cut = c.failed;
  while (!cut && c.left > 0) {
    size_t at = ss_cursor_offset(&c);
    uint32_t id = ss_read_u32(&c), size = ss_read_u32(&c);
    ss_skip(&c, 8); /* when */
    cut = c.failed || size < PREFIX || size - PREFIX > c.left;
    if (cut)
      break;
    struct ss_cursor body = ss_cursor_sub(&c, at + PREFIX, size - PREFIX);
    *rejected += !read_record(&d, id, &body);
    ss_skip(&c, size - PREFIX);
  }
  *rejected += cut;
  ss_idmap_release(&d.by_index);
}

/* .../jit-NUMBER.dump, whatever is said behind it */
static bool is_dump(const char *path)
{
  const char *base = strrchr(path, '/');
  if (base == NULL || !ss_starts_with(base, "/jit-"))
    return false;
  size_t digits = strspn(base + 5, "0123456789");
  const char *rest = base + 5 + digits;
  return digits > 0 &&
         (strcmp(rest, ".dump") == 0 || strcmp(rest, ".dump (deleted)") == 0);
}

int ss_jitdump_open(pid_t pid, const struct ss_maps *maps, struct ss_diag *diag)
{
  for (size_t i = maps->count; i-- > 0;) {
    const struct ss_map *map = &maps->items[i];
    const char *path = ss_paths_get(maps->paths, map->path);
    if ((map->prot & SS_PROT_EXEC) != 0 && map->path != SS_ID_NONE && is_dump(path))
      return ss_map_open(pid, map, path, diag);
  }
  ss_fail(diag, SS_ERR_GONE, "process %d has no jitdump", (int)pid);
  return -1;
}
