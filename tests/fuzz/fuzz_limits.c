/* An ini file, and the words of a command line, of any bytes. */
#include <string.h>

#include "stacksample/time_limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  char text[4096], *argv[34] = {NULL};
  struct ss_time_limits limits;
  struct ss_buf out = {0};
  size_t n = 0, len = size < sizeof text - 1 ? size : sizeof text - 1;

  ss_ini_value((const char *)data, size, "pytest", "addopts", &out);
  ss_buf_release(&out);
  memcpy(text, data, len);
  text[len] = '\0';
  for (size_t i = 0; i < len && n < 32; i += strlen(text + i) + 1)
    argv[n++] = text + i;
  ss_time_limits_find(&limits, &(struct ss_limited){0, argv, argv, -1}, 0);
  return 0;
}
