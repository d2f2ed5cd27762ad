/*
 * Text of a file in anonymous memory: runtimes copy their own code into large pages and
 * put these where the file was mapped (node, V8, "hugify" of BOLT). The kernel no longer
 * says what file it is; its neighbours do, because the rest of the file stays mapped.
 * Believed only where the memory begins and ends with the bytes that the file has there.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "elf_priv.h"

enum {
  COMPARED = 4096, /* bytes of either end */
  PIECES_MAX = 8   /* remapped one by one */
};

static bool same_bytes(struct ss_image *image, uint64_t vaddr, uint64_t bias, size_t len,
                       const struct ss_mem *mem)
{
  unsigned char of_file[COMPARED], of_memory[COMPARED];
  return ss_image_read(image, vaddr, of_file, len) == len &&
         ss_mem_get(mem, vaddr + bias, of_memory, len) &&
         memcmp(of_file, of_memory, len) == 0;
}

/* The segment of code that has this address; NULL. */
static const struct ss_segment *code_at(struct ss_image *image, uint64_t vaddr)
{
  const struct ss_segment *segments;
  size_t count = ss_image_segments(image, &segments);
  for (size_t i = 0; i < count; i++)
    if ((segments[i].flags & PF_X) != 0 && vaddr >= ss_page_down(segments[i].vaddr) &&
        vaddr < segments[i].vaddr + segments[i].filesz)
      return &segments[i];
  return NULL;
}

/* Is the mapping code of `module`, which has this bias? *offset: from where in the file.
 */
static bool is_text(const struct ss_module *module, uint64_t bias,
                    const struct ss_map *map, const struct ss_mem *mem, uint64_t *offset)
{
  const uint64_t page = map->start - bias;
  const struct ss_segment *seg = code_at(module->image, page);
  if (seg == NULL)
    return false;
  const uint64_t text = page > seg->vaddr ? page : seg->vaddr;
  const uint64_t last = seg->vaddr + seg->filesz;
  const uint64_t end = map->end - bias < last ? map->end - bias : last;
  const size_t len = end - text < COMPARED ? (size_t)(end - text) : COMPARED;
  *offset = ss_page_down(seg->offset) + (page - ss_page_down(seg->vaddr));
  return same_bytes(module->image, text, bias, len, mem) &&
         same_bytes(module->image, end - len, bias, len, mem);
}

/* The nearest mapping of a file in one direction, without a gap to it; NULL. */
static struct ss_map *neighbour(const struct ss_maps *maps, const struct ss_map *map,
                                int step)
{
  size_t i = (size_t)(map - maps->items);
  for (int n = 0; n < PIECES_MAX; n++) {
    if (step < 0 ? i == 0 : i + 1 == maps->count)
      return NULL;
    const struct ss_map *from = &maps->items[i];
    i = step < 0 ? i - 1 : i + 1;
    struct ss_map *to = &maps->items[i];
    if (step < 0 ? to->end != from->start : from->end != to->start)
      return NULL;
    if (to->inode != 0)
      return to;
  }
  return NULL;
}

struct ss_module *ss_module_of_remapped(struct ss_modules *modules, pid_t pid,
                                        const struct ss_maps *maps, struct ss_map *map,
                                        const struct ss_mem *mem)
{
  for (int step = -1; step <= 1 && mem != NULL; step += 2) {
    struct ss_map *file = neighbour(maps, map, step);
    struct ss_module *module =
        file == NULL ? NULL : ss_module_of(modules, pid, maps, file, mem);
    uint64_t bias, offset;
    if (module == NULL || !ss_module_bias(module, file, &bias) ||
        !is_text(module, bias, map, mem, &offset))
      continue;
    map->path = file->path;
    map->inode = file->inode;
    map->dev_major = file->dev_major;
    map->dev_minor = file->dev_minor;
    map->offset = offset;
    return module;
  }
  return NULL;
}
