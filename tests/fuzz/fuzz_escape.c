/* Every escaper over any bytes; what one must never let through is checked. */
#include <string.h>

#include "stacksample/error.h"
#include "stacksample/escape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
  void (*escape)(struct ss_buf *out, const char *s, size_t len);
  const char *never;
} rules[] = {
    {ss_escape_json, "<\n\x1b\x7f"},  {ss_escape_html, "<>\"'\x1b"},
    {ss_escape_terminal, "\n\x1b\t"}, {ss_escape_folded, ";\n\t\x1b"},
    {ss_escape_shell, "\x1b\x07"},    {ss_escape_markdown, "<\n\x1b"},
    {ss_escape_tsv, "\t\n\r\x1b"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  char small[16];

  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
    struct ss_buf out = {0};
    rules[i].escape(&out, (const char *)data, size);
    SS_INVARIANT(!out.failed && strpbrk(ss_buf_str(&out), rules[i].never) == NULL);
    SS_INVARIANT(strlen(ss_buf_str(&out)) == out.len);
    ss_buf_release(&out);
  }
  ss_terminal_copy(small, sizeof small, (const char *)data, size);
  SS_INVARIANT(strpbrk(small, "\n\x1b") == NULL);
  return 0;
}
