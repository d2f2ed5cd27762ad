/* Line tables: the first byte chooses the format, the second the first line. */
#include "../../src/python/python_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_py_lines lines = {0};
  if (size < 2)
    return 0;
  ss_py_lines_decode(&lines, (enum ss_py_table)(data[0] % 3), data + 2, size - 2,
                     data[1]);
  for (uint32_t offset = 0; offset < 64; offset++)
    ss_py_lines_find(&lines, offset * offset * offset);
  ss_py_lines_release(&lines);
  return 0;
}
