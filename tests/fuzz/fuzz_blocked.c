/* /proc/PID/syscall and the fdinfo of an epoll set: no descriptor is negative, and no
 * more are kept than fit. */
#include <stdlib.h>

#include "stacksample/blocked.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_blocked blocked;
  struct ss_polled polled;

  (void)ss_blocked_parse(&blocked, (const char *)data, size);
  ss_polled_parse(&polled, (const char *)data, size);
  if (polled.n > SS_POLLED_MAX)
    abort();
  for (size_t i = 0; i < polled.n; i++)
    if (polled.fds[i] < 0)
      abort();
  return 0;
}
