/* jitdumps of any bytes. */
#include <stddef.h>
#include <stdint.h>

#include "stacksample/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_perf_map *map = NULL;
  struct ss_symbol sym;
  struct ss_jit_unwind info;
  size_t rejected = 0;
  if (ss_perf_map_parse_jitdump(&map, data, size, &rejected) == SS_ERR_OK)
    for (uint64_t addr = 0x1000; addr <= 0x4000; addr += 0x1000)
      if (ss_perf_map_find(map, addr, &sym))
        ss_perf_map_unwind(map, addr, &info);
  ss_perf_map_free(map);
  return 0;
}
