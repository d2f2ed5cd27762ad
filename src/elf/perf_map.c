/*
 * What a JIT says of its code: names and, from a jitdump (jitdump.c), unwind
 * information, by address. Here are also the lines of a perf map (perf's
 * jit-interface.txt): "START SIZE name", hexadecimal. Which files are believed is
 * jit_file.c's business.
 *
 * Both files grow while the JIT is at work, so they are taken piece by piece; what
 * is not whole yet is left for the next time.
 */
#include <string.h>

#include "elf_priv.h"
#include "stacksample/buf.h"
#include "stacksample/limits.h"

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

bool ss_perf_map_place(struct ss_perf_map *map, uint64_t start, uint64_t size,
                       struct ss_jit_code code)
{
  if (size == 0 || start + size < start || map->code_count == UINT32_MAX ||
      !ss_grow(&map->codes, &map->code_cap, map->code_count + 1, sizeof *map->codes) ||
      !ss_grow(&map->places, &map->cap, map->count + 1, sizeof *map->places))
    return false;
  map->places[map->count++] = (struct ss_jit_place){
      .start = start, .size = size, .code = (uint32_t)map->code_count};
  map->codes[map->code_count++] = code;
  return true;
}

bool ss_perf_map_add(struct ss_perf_map *map, uint64_t start, uint64_t size,
                     const char *name, size_t len)
{
  struct ss_jit_code code = {.name = (uint32_t)map->names.len};
  if (len == 0 || len > SS_SYMBOL_NAME_MAX || memchr(name, 0, len) != NULL ||
      map->names.len > UINT32_MAX - len - 1 || !ss_perf_map_place(map, start, size, code))
    return false;
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

static int compare_places(const void *pa, const void *pb)
{
  const struct ss_jit_place *a = pa, *b = pb;
  if (a->start != b->start)
    return a->start < b->start ? -1 : 1;
  return (a->code > b->code) - (a->code < b->code);
}

/* Sorted, without overlap: of two that overlap the newer one stays. */
static size_t settle_overlaps(struct ss_perf_map *map)
{
  size_t kept = 0, dropped = 0;
  if (map->count > 0)
    qsort(map->places, map->count, sizeof *map->places, compare_places);
  for (size_t i = 0; i < map->count; i++) {
    struct ss_jit_place place = map->places[i];
    bool keep = true;
    while (kept > 0 && keep) {
      const struct ss_jit_place *last = &map->places[kept - 1];
      if (place.start - last->start >= last->size)
        break;
      dropped++;
      if (last->code < place.code)
        kept--;
      else
        keep = false;
    }
    if (keep)
      map->places[kept++] = place;
  }
  map->count = kept;
  return dropped;
}

size_t ss_perf_map_lines(struct ss_perf_map *map, const void *bytes, size_t len,
                         size_t *rejected)
{
  const char *start = bytes, *line = start, *eol;
  while ((eol = memchr(line, '\n', len - (size_t)(line - start))) != NULL) {
    *rejected += !add_line(map, line, eol);
    line = eol + 1;
  }
  return (size_t)(line - start);
}

enum ss_err ss_perf_map_extend(struct ss_perf_map *map, ss_jit_reader *read,
                               const void *bytes, size_t len, size_t *rejected)
{
  const size_t before = map->code_count;
  *rejected = 0;
  map->taken += read(map, bytes, len, rejected);
  if (map->names.failed || map->unwind.failed)
    return SS_ERR_NOMEM;
  if (map->code_count > before)
    *rejected += settle_overlaps(map);
  return SS_ERR_OK;
}

static enum ss_err parse(struct ss_perf_map **out, ss_jit_reader *read, const void *bytes,
                         size_t len, size_t *rejected)
{
  *out = calloc(1, sizeof **out);
  if (*out == NULL)
    return SS_ERR_NOMEM;
  enum ss_err err = ss_perf_map_extend(*out, read, bytes, len, rejected);
  if (err != SS_ERR_OK) {
    ss_perf_map_free(*out);
    *out = NULL;
  }
  return err;
}

enum ss_err ss_perf_map_parse(struct ss_perf_map **out, const char *text, size_t len,
                              size_t *rejected)
{
  return parse(out, ss_perf_map_lines, text, len, rejected);
}

enum ss_err ss_perf_map_parse_jitdump(struct ss_perf_map **out, const void *bytes,
                                      size_t len, size_t *rejected)
{
  return parse(out, ss_jitdump_records, bytes, len, rejected);
}

void ss_perf_map_free(struct ss_perf_map *map)
{
  if (map == NULL)
    return;
  ss_idmap_release(&map->by_index);
  ss_buf_release(&map->names);
  ss_buf_release(&map->unwind);
  free(map->places);
  free(map->codes);
  free(map);
}

/* Does it lie in one mapping of code, as the process has it now? */
static bool in_code(const struct ss_maps *maps, const struct ss_jit_place *place)
{
  const struct ss_map *code = ss_maps_find(maps, place->start);
  return code != NULL && (code->prot & SS_PROT_EXEC) != 0 &&
         place->size <= code->end - place->start;
}

static const struct ss_jit_place *place_at(const struct ss_perf_map *map, uint64_t addr)
{
  size_t lo = 0, hi = map->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (map->places[mid].start <= addr)
      lo = mid + 1;
    else
      hi = mid;
  }
  if (lo == 0)
    return NULL;
  const struct ss_jit_place *place = &map->places[lo - 1];
  bool covers = addr - place->start < place->size;
  return covers && (map->maps == NULL || in_code(map->maps, place)) ? place : NULL;
}

bool ss_perf_map_find(const struct ss_perf_map *map, uint64_t addr, struct ss_symbol *out)
{
  const struct ss_jit_place *place = place_at(map, addr);
  if (place != NULL)
    *out = (struct ss_symbol){place->start, place->size,
                              map->names.data + map->codes[place->code].name};
  return place != NULL;
}

bool ss_perf_map_unwind(const struct ss_perf_map *map, uint64_t addr,
                        struct ss_jit_unwind *out)
{
  const struct ss_jit_place *place = place_at(map, addr);
  if (place == NULL || map->codes[place->code].unwind_len == 0)
    return false;
  const struct ss_jit_code *code = &map->codes[place->code];
  *out = (struct ss_jit_unwind){place->start,
                                (const unsigned char *)map->unwind.data + code->unwind,
                                code->unwind_len};
  return true;
}
