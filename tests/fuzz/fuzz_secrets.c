/* Redaction over any bytes: no read past the end, and nothing grows without bound. */
#include <stdlib.h>

#include "stacksample/buf.h"
#include "stacksample/output.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ss_buf out = {0};
  const char *text = (const char *)data;

  ss_redact(&out, text, size);
  if (out.len > size * sizeof SS_REDACTED)
    abort();
  ss_secret_value(text, size);
  ss_secret_name(text, size);
  ss_buf_release(&out);
  return 0;
}
