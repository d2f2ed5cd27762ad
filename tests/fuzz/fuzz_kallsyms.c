/* Kernel symbol lists of any bytes. */
#include <stddef.h>
#include <stdint.h>

#include "stacksample/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_symbol sym;
  struct ss_kallsyms *k = ss_kallsyms_parse((const char *)data, size);
  if (k != NULL)
    ss_kallsyms_find(k, 0xffffffff81000100u, &sym);
  ss_kallsyms_free(k);
  return 0;
}
