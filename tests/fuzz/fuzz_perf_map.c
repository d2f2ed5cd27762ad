/* perf maps of any bytes. */
#include <stddef.h>
#include <stdint.h>

#include "stacksample/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_perf_map *map = NULL;
  struct ss_symbol sym;
  size_t rejected = 0;
  if (ss_perf_map_parse(&map, (const char *)data, size, &rejected) == SS_ERR_OK)
    ss_perf_map_find(map, 0x1000, &sym);
  ss_perf_map_free(map);
  return 0;
}
