/* The text of /proc/PID/maps: the result is sorted and without overlap. */
#include <stdlib.h>

#include "stacksample/proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_paths *paths = ss_paths_new();
  struct ss_maps maps;
  size_t rejected = 0;
  if (!paths)
    return 0;
  ss_maps_init(&maps, paths);
  if (ss_maps_parse(&maps, (const char *)data, size, &rejected) == SS_ERR_OK) {
    for (size_t i = 0; i < maps.count; i++) {
      const struct ss_map *map = &maps.items[i];
      if (map->start >= map->end || (i > 0 && map->start < map[-1].end) ||
          ss_maps_find(&maps, map->start) != map)
        abort();
    }
  }
  ss_maps_release(&maps);
  ss_paths_free(paths);
  return 0;
}
