/*
 * The only escapers: everything that came from a target, a file or a user and
 * goes into an output passes through one of these. Input is (bytes, len) and
 * may hold anything, also NUL and broken UTF-8.
 */
#ifndef STACKSAMPLE_ESCAPE_H
#define STACKSAMPLE_ESCAPE_H

#include <stddef.h>
#include <stdint.h>

#include "stacksample/buf.h"

/* Inside a JSON string, without the quotes: valid UTF-8 stays, bad bytes
 * become U+FFFD, controls and 0x7f become \u00XX (Perfetto refuses them raw).
 * Safe inside <script> too: '<' is \u003c, U+2028/2029 are escaped. */
void ss_escape_json(struct ss_buf *out, const char *s, size_t len);
/* HTML text and double-quoted attributes; bad UTF-8 becomes U+FFFD. */
void ss_escape_html(struct ss_buf *out, const char *s, size_t len);
/* One terminal or log line: controls, ESC and bad bytes become \xNN. */
void ss_escape_terminal(struct ss_buf *out, const char *s, size_t len);
/* The same into `cap` bytes (at least 1), cut between characters, always
 * NUL-terminated. For where nothing may be allocated. */
void ss_terminal_copy(char *dst, size_t cap, const char *s, size_t len);
/* One frame of a folded line: ';' becomes ':', controls become a space, a
 * trailing " <digits>" loses its space to '_', so that no reader takes the
 * leaf for a count; an empty frame becomes "?". */
void ss_escape_folded(struct ss_buf *out, const char *s, size_t len);
/* One word of a POSIX shell command, quoted only where needed. */
void ss_escape_shell(struct ss_buf *out, const char *s, size_t len);
/* Inside a Markdown table cell or paragraph: | * _ ` < [ # and so on are made
 * inert, newlines become a space. */
void ss_escape_markdown(struct ss_buf *out, const char *s, size_t len);
/* One cell of a TSV: tab, newline and CR become a space; a cell that a
 * spreadsheet would take for a formula (= + - @) gets a leading '. */
void ss_escape_tsv(struct ss_buf *out, const char *s, size_t len);

/* Length (1 to 4) of the valid UTF-8 sequence at `s`, its code point in `cp`;
 * 0: not valid (overlong, surrogate, beyond U+10FFFF, cut off) or len 0. */
size_t ss_utf8_decode(const char *s, size_t len, uint32_t *cp);

#endif
