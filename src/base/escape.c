/*
 * Escapers. Each output has its own idea of what is special, but all see the
 * input the same way: decoded UTF-8, one character at a time, with a byte that
 * is not part of any valid sequence handed over as BAD. So nothing here can be
 * confused by broken encodings, and a new output is one small function.
 */
#include "stacksample/escape.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

struct character {
  const char *bytes;
  size_t len;
  uint32_t cp; /* the byte itself where `bad` */
  bool bad;
};

size_t ss_utf8_decode(const char *s, size_t len, uint32_t *cp)
{
  static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  unsigned char lead = len > 0 ? (unsigned char)s[0] : 0;
  size_t n = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

  if (len == 0 || n == 0 || n > len || lead > 0xf4)
    return 0;
  *cp = n == 1 ? lead : lead & (0x7fu >> n);
  for (size_t i = 1; i < n; i++) {
    unsigned char next = (unsigned char)s[i];
    if ((next & 0xc0) != 0x80)
      return 0;
    *cp = *cp << 6 | (next & 0x3f);
  }
  if (n > 1 && *cp < smallest[n])
    return 0;
  return *cp > 0x10ffff || (*cp >= 0xd800 && *cp <= 0xdfff) ? 0 : n;
}

static struct character next_character(const char *s, size_t len)
{
  struct character c = {.bytes = s};

  c.len = ss_utf8_decode(s, len, &c.cp);
  if (c.len == 0) {
    c.len = 1;
    c.cp = (unsigned char)s[0];
    c.bad = true;
  }
  return c;
}

static bool is_alnum(uint32_t c)
{
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* Characters that no escaper built on each_character() changes. */
static bool is_plain(unsigned char c)
{
  return is_alnum(c) || c == '_' || c == '/' || c == '.' || c == ' ';
}

static void each_character(struct ss_buf *out, const char *s, size_t len,
                           void (*put)(struct ss_buf *out, const struct character *c))
{
  while (len > 0) {
    size_t run = 0;
    while (run < len && is_plain((unsigned char)s[run]))
      run++;
    ss_buf_add(out, s, run);
    s += run;
    len -= run;
    if (len == 0)
      return;
    struct character c = next_character(s, len);
    put(out, &c);
    s += c.len;
    len -= c.len;
  }
}

/* C0, DEL and C1. */
static bool is_control(uint32_t cp)
{
  return cp < 0x20 || (cp >= 0x7f && cp <= 0x9f);
}

/* U+2028 and U+2029 end a line for JavaScript and for Python's splitlines. */
static bool is_separator(uint32_t cp)
{
  return cp == 0x2028 || cp == 0x2029;
}

/* Marks that reorder what follows: text that does not read as it is. */
static bool is_bidi(uint32_t cp)
{
  return cp == 0x200e || cp == 0x200f || (cp >= 0x202a && cp <= 0x202e) ||
         (cp >= 0x2066 && cp <= 0x2069);
}

static void put_same(struct ss_buf *out, const struct character *c)
{
  ss_buf_add(out, c->bytes, c->len);
}

/* ---- JSON, HTML ------------------------------------------------------------- */

static void put_json(struct ss_buf *out, const struct character *c)
{
  if (c->bad)
    ss_buf_adds(out, REPLACEMENT);
  else if (c->cp == '"' || c->cp == '\\')
    ss_buf_addf(out, "\\%c", (char)c->cp);
  else if (is_control(c->cp) || is_separator(c->cp) || c->cp == '<')
    ss_buf_addf(out, "\\u%04x", (unsigned)c->cp);
  else
    put_same(out, c);
}

void ss_escape_json(struct ss_buf *out, const char *s, size_t len)
{
  each_character(out, s, len, put_json);
}

static void put_html(struct ss_buf *out, const struct character *c)
{
  bool space = c->cp == '\t' || c->cp == '\n';

  if (c->bad || (is_control(c->cp) && !space))
    ss_buf_adds(out, REPLACEMENT);
  else if (c->cp < 0x80 && strchr("&<>\"'", (int)c->cp) != NULL)
    ss_buf_addf(out, "&#%u;", (unsigned)c->cp);
  else
    put_same(out, c);
}

void ss_escape_html(struct ss_buf *out, const char *s, size_t len)
{
  each_character(out, s, len, put_html);
}

/* ---- terminal ----------------------------------------------------------------- */

/* The visible form of what a terminal must not get; 0: it may have `c`. */
static size_t terminal_form(const struct character *c, char form[12])
{
  int n = 0;

  if (c->bad || is_control(c->cp))
    n = snprintf(form, 12, "\\x%02x", (unsigned)c->cp);
  else if (is_separator(c->cp) || is_bidi(c->cp))
    n = snprintf(form, 12, "\\u%04x", (unsigned)c->cp);
  return n > 0 ? (size_t)n : 0;
}

static void put_terminal(struct ss_buf *out, const struct character *c)
{
  char form[12];
  size_t n = terminal_form(c, form);

  if (n > 0)
    ss_buf_add(out, form, n);
  else
    put_same(out, c);
}

void ss_escape_terminal(struct ss_buf *out, const char *s, size_t len)
{
  each_character(out, s, len, put_terminal);
}

void ss_terminal_copy(char *dst, size_t cap, const char *s, size_t len)
{
  size_t at = 0;

  while (len > 0) {
    struct character c = next_character(s, len);
    char form[12];
    size_t n = terminal_form(&c, form);
    const char *bytes = n > 0 ? form : c.bytes;
    n = n > 0 ? n : c.len;
    if (n >= cap - at)
      break;
    memcpy(dst + at, bytes, n);
    at += n;
    s += c.len;
    len -= c.len;
  }
  dst[at] = '\0';
}

/* ---- folded, TSV -------------------------------------------------------------- */

static void put_folded(struct ss_buf *out, const struct character *c)
{
  if (c->bad)
    ss_buf_adds(out, REPLACEMENT);
  else if (is_control(c->cp) || is_separator(c->cp))
    ss_buf_addc(out, ' ');
  else if (c->cp == ';')
    ss_buf_addc(out, ':');
  else
    put_same(out, c);
}

void ss_escape_folded(struct ss_buf *out, const char *s, size_t len)
{
  size_t start = out->len;

  if (len == 0) {
    ss_buf_addc(out, '?');
    return;
  }
  each_character(out, s, len, put_folded);
  size_t i = out->len;
  while (i > start && ((out->data[i - 1] >= '0' && out->data[i - 1] <= '9') ||
                       out->data[i - 1] == '.'))
    i--;
  if (i < out->len && i > start && out->data[i - 1] == ' ')
    out->data[i - 1] = '_';
}

static void put_tsv(struct ss_buf *out, const struct character *c)
{
  if (c->bad)
    ss_buf_adds(out, REPLACEMENT);
  else if (c->cp == '\t' || c->cp == '\n' || c->cp == '\r' || is_separator(c->cp))
    ss_buf_addc(out, ' ');
  else
    put_terminal(out, c);
}

void ss_escape_tsv(struct ss_buf *out, const char *s, size_t len)
{
  if (len > 0 && s[0] != '\0' && strchr("=+-@", s[0]) != NULL)
    ss_buf_addc(out, '\'');
  each_character(out, s, len, put_tsv);
}

/* ---- shell ---------------------------------------------------------------------- */

enum shell_need { SHELL_BARE, SHELL_QUOTED, SHELL_CODED };

static enum shell_need shell_need(const char *s, size_t len)
{
  /* A leading = is special to zsh, so it is not bare. */
  enum shell_need need = len == 0 || s[0] == '=' ? SHELL_QUOTED : SHELL_BARE;

  while (len > 0) {
    struct character c = next_character(s, len);
    bool layout = c.cp == '\n' || c.cp == '\t';
    if (c.bad || (is_control(c.cp) && !layout) || is_bidi(c.cp))
      return SHELL_CODED;
    if (!is_alnum(c.cp) && (c.cp >= 0x80 || strchr("_@%+=:,./-", (int)c.cp) == NULL))
      need = SHELL_QUOTED;
    s += c.len;
    len -= c.len;
  }
  return need;
}

static void shell_quoted(struct ss_buf *out, const char *s, size_t len)
{
  ss_buf_addc(out, '\'');
  for (size_t i = 0; i < len; i++)
    if (s[i] == '\'')
      ss_buf_adds(out, "'\\''");
    else
      ss_buf_addc(out, s[i]);
  ss_buf_addc(out, '\'');
}

/* $'...' with three-digit octal: nothing raw that a terminal would act on. */
static void shell_coded(struct ss_buf *out, const char *s, size_t len)
{
  ss_buf_adds(out, "$'");
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)s[i];
    if (c == '\'' || c == '\\')
      ss_buf_addf(out, "\\%c", (char)c);
    else if (c < 0x20 || c >= 0x7f)
      ss_buf_addf(out, "\\%03o", c);
    else
      ss_buf_addc(out, (char)c);
  }
  ss_buf_addc(out, '\'');
}

void ss_escape_shell(struct ss_buf *out, const char *s, size_t len)
{
  switch (shell_need(s, len)) {
  case SHELL_BARE:
    ss_buf_add(out, s, len);
    break;
  case SHELL_QUOTED:
    shell_quoted(out, s, len);
    break;
  case SHELL_CODED:
    shell_coded(out, s, len);
    break;
  }
}

/* ---- Markdown ------------------------------------------------------------------- */

/* An underscore inside a word is never emphasis in CommonMark; names stay
 * readable in the source. `s[i]` is one. */
static bool inside_word(const char *s, size_t len, size_t i)
{
  size_t end = i;

  while (i > 0 && s[i - 1] == '_')
    i--;
  while (end < len && s[end] == '_')
    end++;
  return i > 0 && is_alnum((unsigned char)s[i - 1]) && end < len &&
         is_alnum((unsigned char)s[end]);
}

/* Is `s[i]` of "12." or "12)" at the start: a list item? */
static bool list_number(const char *s, size_t i)
{
  for (size_t k = 0; k < i; k++)
    if (s[k] < '0' || s[k] > '9')
      return false;
  return i > 0;
}

static bool markdown_special(const char *s, size_t len, size_t i)
{
  char c = s[i];

  if (c == '_')
    return !inside_word(s, len, i);
  if (c == '.' || c == ')')
    return list_number(s, i);
  return strchr("\\`*[]|~$", c) != NULL || (i == 0 && strchr("#+-=>:", c) != NULL);
}

void ss_escape_markdown(struct ss_buf *out, const char *s, size_t len)
{
  /* Leading white space could make a code block. */
  while (len > 0 && memchr(" \t\r\n", s[0], 4) != NULL) {
    s++;
    len--;
  }
  for (size_t i = 0; i < len;) {
    struct character c = next_character(s + i, len - i);
    if (c.cp == '\n' || c.cp == '\r' || c.cp == '\t' || is_separator(c.cp))
      ss_buf_addc(out, ' ');
    else if (c.bad || is_control(c.cp) || is_bidi(c.cp))
      ss_buf_adds(out, REPLACEMENT);
    else if (c.cp == '<' || c.cp == '&')
      ss_buf_adds(out, c.cp == '<' ? "&lt;" : "&amp;");
    else if (c.cp < 0x80 && markdown_special(s, len, i))
      ss_buf_addf(out, "\\%c", (char)c.cp);
    else
      put_same(out, &c);
    i += c.len;
  }
}
