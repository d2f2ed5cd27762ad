/* .eh_frame and .debug_frame of any bytes: entries and their instructions. */
#include <stddef.h>
#include <stdint.h>

#include "../../src/unwind/unwind_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore_row(void *arg, uint64_t pc, const struct ss_cfa_state *state)
{
  (void)state;
  *(uint64_t *)arg ^= pc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_cfi_section s = {.bytes = data, .len = size, .vaddr = 0x1000};
  struct ss_cie cie = {0};
  struct ss_fde fde;
  struct ss_cfa_state initial;
  enum ss_entry kind;
  uint64_t sum = 0;
  for (size_t at = 0; (kind = ss_cfi_next(&s, &at, &cie, &fde)) != SS_ENTRY_END;)
    if (kind == SS_ENTRY_FDE && ss_cfa_initial(&s, &fde, &initial))
      ss_cfa_rows(&s, &fde, &initial, ignore_row, &sum);
  return 0;
}
