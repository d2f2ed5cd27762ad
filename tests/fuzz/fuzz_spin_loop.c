/* Any bytes as code, looked at from each place. */
#include <stddef.h>
#include <stdint.h>

#include "stacksample/arch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  size_t len = size < 256 ? size : 256;
  for (size_t at = 0; at <= len; at++)
    (void)ss_arch_in_spin_loop(data, len, at);
  return 0;
}
