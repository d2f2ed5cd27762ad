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
#include "stacksample/limits.h"
#include "stacksample/text.h"

#define MAGIC 0x4a695444u /* "JiTD" on a machine of the same byte order */
#define HEADER 40
#define PREFIX 16

enum { JIT_CODE_LOAD, JIT_CODE_MOVE, JIT_CODE_DEBUG_INFO, JIT_CODE_CLOSE, JIT_UNWINDING };

static bool read_load(struct ss_perf_map *map, struct ss_cursor *c)
{
  const struct ss_jit_code unwind = map->next;
  map->next = (struct ss_jit_code){0};
  ss_skip(c, 4 + 4 + 8); /* pid, tid, vma */
  uint64_t start = ss_read_u64(c), size = ss_read_u64(c), index = ss_read_u64(c);
  const char *name = ss_read_cstr(c);
  if (name == NULL || !ss_perf_map_add(map, start, size, name, strlen(name)))
    return false;
  struct ss_jit_code *code = &map->codes[map->code_count - 1];
  code->unwind = unwind.unwind;
  code->unwind_len = unwind.unwind_len;
  return ss_idmap_put(&map->by_index, index, map->code_count - 1);
}

static bool read_move(struct ss_perf_map *map, struct ss_cursor *c)
{
  ss_skip(c, 4 + 4 + 8 + 8); /* pid, tid, vma, where it was */
  uint64_t start = ss_read_u64(c), size = ss_read_u64(c), index = ss_read_u64(c);
  const uint64_t *known = c->failed ? NULL : ss_idmap_get(&map->by_index, index);
  return known != NULL && ss_perf_map_place(map, start, size, map->codes[*known]);
}

static bool read_unwinding(struct ss_perf_map *map, struct ss_cursor *c)
{
  uint64_t size = ss_read_u64(c), hdr = ss_read_u64(c);
  ss_skip(c, 8); /* how much of it the process has mapped */
  map->next = (struct ss_jit_code){.unwind = (uint32_t)map->unwind.len};
  if (c->failed || size > c->left || hdr > size || size - hdr > SS_JIT_UNWIND_MAX ||
      map->unwind.len > UINT32_MAX - SS_JIT_UNWIND_MAX)
    return false;
  map->next.unwind_len = (uint32_t)(size - hdr);
  if (size > hdr)
    ss_buf_add(&map->unwind, ss_read_bytes(c, (size_t)(size - hdr)),
               (size_t)(size - hdr));
  return true;
}

static bool read_record(struct ss_perf_map *map, uint32_t id, struct ss_cursor *c)
{
  switch (id) {
  case JIT_CODE_LOAD:
    return read_load(map, c);
  case JIT_CODE_MOVE:
    return read_move(map, c);
  case JIT_UNWINDING:
    return read_unwinding(map, c);
  default: /* lines, the end, or of a later version */
    return true;
  }
}

/* Skips the header; false: it is another kind of file. */
static bool skip_header(struct ss_cursor *c)
{
  uint32_t magic = ss_read_u32(c);
  uint32_t version = ss_read_u32(c);
  uint32_t size = ss_read_u32(c);
  uint32_t machine = ss_read_u32(c);
  if (magic != MAGIC || version != 1 || size < HEADER || machine != ss_arch_elf_machine())
    return false;
  ss_skip(c, size - 16);
  return true;
}

/* Where the file's length does not reach, the JIT is still writing. */
size_t ss_jitdump_records(struct ss_perf_map *map, const void *bytes, size_t len,
                          size_t *rejected)
{
  struct ss_cursor c = ss_cursor_init(bytes, len);
  if (map->taken == 0) {
    if (len < HEADER)
      return 0;
    map->cut = !skip_header(&c);
    *rejected += map->cut;
  }
  size_t whole = c.failed ? 0 : ss_cursor_offset(&c);
  while (!map->cut && c.left >= PREFIX) {
    uint32_t id = ss_read_u32(&c), size = ss_read_u32(&c);
    ss_skip(&c, 8); /* when */
    map->cut = size < PREFIX;
    *rejected += map->cut;
    if (map->cut || size - PREFIX > c.left)
      break;
    struct ss_cursor body = ss_cursor_sub(&c, whole + PREFIX, size - PREFIX);
    *rejected += !read_record(map, id, &body);
    ss_skip(&c, size - PREFIX);
    whole += size;
  }
  return map->cut ? len : whole;
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
