/* Drives a cursor by the input itself: each byte names the next read. */
#include "stacksample/cursor.h"
#include "stacksample/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_cursor c = ss_cursor_init(data, size);

  while (!c.failed && c.left > 0) {
    switch (ss_read_u8(&c) % 8) {
    case 0:
      ss_read_u64(&c);
      break;
    case 1:
      ss_read_uleb(&c);
      break;
    case 2:
      ss_read_sleb(&c);
      break;
    case 3:
      ss_read_cstr(&c);
      break;
    case 4:
      ss_skip(&c, ss_read_u16(&c));
      break;
    case 5:
      c = ss_cursor_sub(&c, ss_cursor_offset(&c), ss_read_u8(&c));
      break;
    default:
      ss_read_bytes(&c, ss_read_u8(&c));
    }
    SS_INVARIANT(ss_cursor_offset(&c) + c.left <= size);
  }
  return 0;
}
