/* /proc/PID/stat: a name always ends inside its array. */
#include <stdlib.h>
#include <string.h>

#include "stacksample/proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_stat st;
  if (ss_stat_parse(&st, (const char *)data, size) &&
      (strnlen(st.comm, sizeof st.comm) == sizeof st.comm || st.pid < 0 || st.ppid < 0))
    abort();
  return 0;
}
