/* Escapers, as tables of input and output. */
#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/escape.h"

#define BAD "\xef\xbf\xbd"
#define IN(text) text, sizeof text - 1

struct escape_case {
  const char *in;
  size_t len;
  const char *out;
};
typedef void escape_fn(struct ss_buf *out, const char *s, size_t len);

static void check(escape_fn *escape, const struct escape_case *cases, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    struct ss_buf out = {0};
    ss_buf_adds(&out, "x"); /* what is there already stays */
    escape(&out, cases[i].in, cases[i].len);
    assert_int_equal(ss_buf_str(&out)[0], 'x');
    assert_string_equal(ss_buf_str(&out) + 1, cases[i].out);
    ss_buf_release(&out);
  }
}
#define CHECK(escape, cases) check(escape, cases, sizeof cases / sizeof cases[0])

static void json(void **state)
{
  static const struct escape_case cases[] = {
      {IN("plain_/. 1"), "plain_/. 1"},
      {IN("\"\\"), "\\\"\\\\"},
      {IN("</script>"), "\\u003c/script>"},
      {IN("a\0\n\x1b\x7f"), "a\\u0000\\u000a\\u001b\\u007f"},
      {IN("\xc3\xa4\xf0\x9f\x98\x80"), "\xc3\xa4\xf0\x9f\x98\x80"},
      {IN("\xe2\x80\xa8\xe2\x80\xa9\xc2\x85"), "\\u2028\\u2029\\u0085"},
      {IN("\xed\xa0\x80"), BAD BAD BAD}, /* a lone surrogate */
      {IN("\xc0\xaf\xff\xc3"), BAD BAD BAD BAD},
      {IN(""), ""},
  };

  (void)state;
  CHECK(ss_escape_json, cases);
}

static void html(void **state)
{
  static const struct escape_case cases[] = {
      {IN("<a b='\"&'>"), "&#60;a b=&#39;&#34;&#38;&#39;&#62;"},
      {IN("a\nb\0"), "a\nb" BAD},
      {IN("\xff\xc3\xa4"), BAD "\xc3\xa4"},
  };

  (void)state;
  CHECK(ss_escape_html, cases);
}

static void terminal(void **state)
{
  static const struct escape_case cases[] = {
      {IN("test[a-1] \xc3\xa4"), "test[a-1] \xc3\xa4"},
      {IN("\x1b]52;c;x\x07"), "\\x1b]52;c;x\\x07"},
      {IN("a\r\n\t\0"), "a\\x0d\\x0a\\x09\\x00"},
      {IN("\xc2\x9b\x39\xff"), "\\x9b9\\xff"}, /* C1 CSI */
      {IN("\xe2\x80\xae"), "\\u202e"},         /* right-to-left override */
  };

  (void)state;
  CHECK(ss_escape_terminal, cases);
}

static void terminal_copy_cuts_between_characters(void **state)
{
  char dst[8];

  (void)state;
  ss_terminal_copy(dst, sizeof dst, "abcd\x1b", 5);
  assert_string_equal(dst, "abcd"); /* "\x1b" would need 4 of the 3 left */
  ss_terminal_copy(dst, sizeof dst, "abc\x1b", 4);
  assert_string_equal(dst, "abc\\x1b");
  ss_terminal_copy(dst, sizeof dst, "abcdef\xc3\xa4", 8);
  assert_string_equal(dst, "abcdef");
  ss_terminal_copy(dst, 1, "abc", 3);
  assert_string_equal(dst, "");
}

static void folded(void **state)
{
  static const struct escape_case cases[] = {
      {IN("f (a.py:12)"), "f (a.py:12)"},
      {IN("a;b\nc"), "a:b c"},
      {IN("name 12"), "name_12"},
      {IN("name\n1.5"), "name_1.5"},
      {IN("12"), "12"},
      {IN(""), "?"},
      {IN("\xff\xe2\x80\xa8"), BAD " "},
  };

  (void)state;
  CHECK(ss_escape_folded, cases);
}

static void shell(void **state)
{
  static const struct escape_case cases[] = {
      {IN("--maxfail=1"), "--maxfail=1"},
      {IN("t.py::T::a[x]"), "'t.py::T::a[x]'"},
      {IN(""), "''"},
      {IN("it's"), "'it'\\''s'"},
      {IN("~"), "'~'"},
      {IN("=ls"), "'=ls'"},
      {IN("a\nb"), "'a\nb'"},
      {IN("\x1b'\\\xff"), "$'\\033\\'\\\\\\377'"},
      {IN("\xc3\xa4"), "'\xc3\xa4'"},
  };

  (void)state;
  CHECK(ss_escape_shell, cases);
}

static void markdown(void **state)
{
  static const struct escape_case cases[] = {
      {IN("a|b*c`d"), "a\\|b\\*c\\`d"},
      {IN("tests/test_a_b.py::t[x]"), "tests/test_a_b.py::t\\[x\\]"},
      {IN("__init__"), "\\_\\_init\\_\\_"},
      {IN("<b>&"), "&lt;b>&amp;"},
      {IN("# h"), "\\# h"},
      {IN("1. x"), "1\\. x"},
      {IN("\n  - a\nb"), "\\- a b"},
      {IN("a\\\x1b\xff"), "a\\\\" BAD BAD},
  };

  (void)state;
  CHECK(ss_escape_markdown, cases);
}

static void tsv(void **state)
{
  static const struct escape_case cases[] = {
      {IN("a\tb\nc\r"), "a b c "}, {IN("=1+1"), "'=1+1"},         {IN("-x"), "'-x"},
      {IN("@x"), "'@x"},           {IN("\x1b\xff"), "\\x1b" BAD}, {IN("\0="), "\\x00="},
  };

  (void)state;
  CHECK(ss_escape_tsv, cases);
}

/* The shell itself says whether a word survives. */
static void shell_words_survive_a_real_shell(void **state)
{
  static const char word[] = "a'b \"$x`y\\z\n*?[]!#~;&|<>(){}\x01\x7f\xff";
  struct ss_buf script = {0};
  char got[sizeof word + 8];
  int pipe_fds[2], status;
  size_t len = 0;
  ssize_t n;

  (void)state;
  ss_buf_adds(&script, "printf %s ");
  ss_escape_shell(&script, word, sizeof word - 1);
  assert_int_equal(pipe(pipe_fds), 0);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(pipe_fds[1], 1);
    execlp("bash", "bash", "-c", ss_buf_str(&script), (char *)NULL);
    _exit(127);
  }
  close(pipe_fds[1]);
  while ((n = read(pipe_fds[0], got + len, sizeof got - len)) > 0)
    len += (size_t)n;
  close(pipe_fds[0]);
  waitpid(pid, &status, 0);
  ss_buf_release(&script);
  if (WEXITSTATUS(status) == 127)
    skip();
  assert_int_equal(len, sizeof word - 1);
  assert_memory_equal(got, word, len);
}

static void utf8_decoding_is_strict(void **state)
{
  uint32_t cp = 0;

  (void)state;
  assert_int_equal(ss_utf8_decode("", 0, &cp), 0);
  assert_int_equal(ss_utf8_decode("a", 1, &cp), 1);
  assert_int_equal(ss_utf8_decode("\xf0\x9f\x98\x80", 4, &cp), 4);
  assert_int_equal(cp, 0x1f600);
  for (size_t len = 1; len < 4; len++)
    assert_int_equal(ss_utf8_decode("\xf0\x9f\x98\x80", len, &cp), 0);
  assert_int_equal(ss_utf8_decode("\xe0\x80\xaf", 3, &cp), 0);     /* overlong */
  assert_int_equal(ss_utf8_decode("\xf4\x90\x80\x80", 4, &cp), 0); /* too large */
  assert_int_equal(ss_utf8_decode("\xf8\x88\x80\x80", 4, &cp), 0);
  assert_int_equal(ss_utf8_decode("\x80", 1, &cp), 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(json),
      cmocka_unit_test(html),
      cmocka_unit_test(terminal),
      cmocka_unit_test(terminal_copy_cuts_between_characters),
      cmocka_unit_test(folded),
      cmocka_unit_test(shell),
      cmocka_unit_test(markdown),
      cmocka_unit_test(tsv),
      cmocka_unit_test(shell_words_survive_a_real_shell),
      cmocka_unit_test(utf8_decoding_is_strict),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
