/* A test's log, of any bytes. */
#include <sys/mman.h>
#include <unistd.h>

#include "../../src/output/facts_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  int fd = memfd_create("log", MFD_CLOEXEC);

  if (fd >= 0 && write(fd, data, size) == (ssize_t)size)
    ss_log_read(fd, NULL);
  if (fd >= 0)
    close(fd);
  return 0;
}
