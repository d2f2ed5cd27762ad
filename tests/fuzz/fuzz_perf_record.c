/* Any bytes as a perf record: decoded, looked into and compacted. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/engine/engine_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_record record;
  struct ss_record_peek peek;
  ss_record_decode(data, size, &record);
  if (ss_record_peek(data, size, &peek)) {
    unsigned char *copy = malloc(peek.compact_len);
    if (copy) {
      ss_record_compact(data, size, &peek, copy);
      if (record.type == SS_REC_SAMPLE &&
          !ss_record_decode(copy, peek.compact_len, &record))
        abort();
    }
    free(copy);
  }
  return 0;
}
