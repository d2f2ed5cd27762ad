/*
 * What must not leave the machine inside a bundle: secrets in environment
 * values and arguments, told by the name in front of them and by their shape.
 *
 * It errs on the side of redacting; what it changes is marked SS_REDACTED, so
 * that a person sees that something is missing. It does not look into what the
 * command prints: the log is the command's own output.
 */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "bundle_priv.h"
#include "stacksample/escape.h"
#include "stacksample/text.h"
#include "stacksample/time_limits.h"

/* A name is split into words at '_', '-', '.', and where lower case meets upper. */
static const char *const secret_words[] = {
    "secret",   "secrets",    "token",       "tokens", "password",      "passwords",
    "passwd",   "pass",       "passphrase",  "pwd",    "apikey",        "key",
    "passcode", "credential", "credentials", "creds",  "authorization", "auth",
    "cookie",   "cookies",    "pat",         "jwt",    "bearer",        "private",
    "dsn",      "otp",        "webhook",     "sas",    "signature"};
/* Found anywhere in a name, also where nothing separates the words. */
static const char *const secret_parts[] = {
    "password",  "passwd",     "passphrase", "secret",     "apikey",    "api_key",
    "accesskey", "access_key", "privatekey", "credential", "authtoken", "accesstoken"};
/* Paths and switches whose names look worse than they are. */
static const char *const harmless_names[] = {"PWD", "OLDPWD", "SSH_AUTH_SOCK",
                                             "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS"};
/* Tokens that say by their first characters what they are. */
static const struct shape {
  const char *prefix;
  size_t min; /* further token characters that must follow */
} shapes[] = {{"AKIA", 12},       {"ASIA", 12},       {"ghp_", 16},   {"gho_", 16},
              {"ghu_", 16},       {"ghs_", 16},       {"ghr_", 16},   {"glpat-", 12},
              {"xoxb-", 8},       {"xoxp-", 8},       {"xoxa-", 8},   {"xoxr-", 8},
              {"xoxs-", 8},       {"xapp-", 8},       {"sk-", 16},    {"sk_live_", 8},
              {"sk_test_", 8},    {"rk_live_", 8},    {"hf_", 16},    {"npm_", 16},
              {"pypi-", 16},      {"AIza", 20},       {"ya29.", 16},  {"SG.", 16},
              {"eyJ", 16},        {"dckr_pat_", 12},  {"shpat_", 12}, {"hvs.", 16},
              {"dop_v1_", 16},    {"lin_api_", 12},   {"rpa_", 16},   {"glsa_", 16},
              {"AGE-SECRET-", 8}, {"github_pat_", 16}};
static const char *const http_schemes[] = {"Bearer ", "Basic ", "Digest ", "token "};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define RANDOM_MIN 20 /* shorter runs are words far too often */
#define HEX_MIN 32    /* an md5, or an API key of that size */
#define AWS_SECRET_LEN 40
#define RUN_MAX 4096 /* looked at as one run */

static bool token_char(char c)
{
  return isalnum((unsigned char)c) || c == '_' || c == '-';
}

static bool same_name(const char *a, size_t len, const char *b)
{
  return strlen(b) == len && strncasecmp(a, b, len) == 0;
}

static bool has_part(const char *name, size_t len, const char *part)
{
  size_t n = strlen(part);
  for (size_t i = 0; i + n <= len; i++)
    if (strncasecmp(name + i, part, n) == 0)
      return true;
  return false;
}

static bool secret_word(const char *word, size_t len)
{
  for (size_t i = 0; i < COUNT(secret_words); i++)
    if (same_name(word, len, secret_words[i]))
      return true;
  return false;
}

static bool word_ends(const char *name, size_t i, size_t len)
{
  if (i == len || !isalnum((unsigned char)name[i]))
    return true;
  return i > 0 && islower((unsigned char)name[i - 1]) && isupper((unsigned char)name[i]);
}

/* "KeyError: 'b'" in a traceback names a class, and 'b' is what it is about. */
static bool exception_name(const char *name, size_t len)
{
  static const char *const ends[] = {"Error", "Exception", "Warning"};
  for (size_t i = 0; i < COUNT(ends); i++) {
    size_t n = strlen(ends[i]);
    if (len > n && memcmp(name + len - n, ends[i], n) == 0)
      return true;
  }
  return false;
}

bool ss_secret_name(const char *name, size_t len)
{
  if (exception_name(name, len))
    return false;
  for (size_t i = 0; i < COUNT(harmless_names); i++)
    if (len == strlen(harmless_names[i]) && memcmp(name, harmless_names[i], len) == 0)
      return false;
  for (size_t i = 0; i < COUNT(secret_parts); i++)
    if (has_part(name, len, secret_parts[i]))
      return true;
  size_t start = 0;
  for (size_t i = 0; i <= len; i++) {
    if (!word_ends(name, i, len))
      continue;
    if (i > start && secret_word(name + start, i - start))
      return true;
    start = i < len && isalnum((unsigned char)name[i]) ? i : i + 1;
  }
  return false;
}

/* ---- shapes ---------------------------------------------------------------- */

struct letters {
  size_t lower, upper, digit, hex, total;
  size_t in_words; /* letters in pronounceable words of three and more */
};

static bool vowel(char c)
{
  return strchr("aeiouyAEIOUY", c) != NULL;
}

/* Length of the word at `s`: Capital and lower case, lower case, or upper case. */
static size_t word_len(const char *s, size_t len)
{
  size_t i = 1;
  if (isupper((unsigned char)s[0]) && len > 1 && isupper((unsigned char)s[1])) {
    while (i < len && isupper((unsigned char)s[i]))
      i++;
    return i;
  }
  while (i < len && islower((unsigned char)s[i]))
    i++;
  return i;
}

static struct letters count_letters(const char *s, size_t len)
{
  struct letters n = {0};
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)s[i];
    n.lower += islower(c) != 0;
    n.upper += isupper(c) != 0;
    n.digit += isdigit(c) != 0;
    n.hex += isxdigit(c) != 0;
    n.total += isalnum(c) != 0;
  }
  for (size_t i = 0; i < len;) {
    if (!isalpha((unsigned char)s[i])) {
      i++;
      continue;
    }
    size_t word = word_len(s + i, len - i);
    bool spoken = false;
    for (size_t k = i; k < i + word; k++)
      spoken = spoken || vowel(s[k]);
    if (word >= 3 && spoken)
      n.in_words += word;
    i += word;
  }
  return n;
}

/* Identifiers are made of words, keys are not: that is the whole difference
 * between "TestConv2dBatchNorm1d" and a random string of the same letters. */
static bool looks_random(const char *s, size_t len)
{
  if (len < RANDOM_MIN)
    return false;
  struct letters n = count_letters(s, len);
  size_t letters = n.lower + n.upper;
  if (n.hex == len && len >= HEX_MIN && n.digit >= 4 && letters >= 4)
    return true;
  if (n.digit < 2 || letters < 6 || n.total * 10 < len * 8)
    return false;
  if (n.in_words * 10 >= letters * 6)
    return false;
  return (n.lower && n.upper) || n.digit * 5 >= n.total;
}

static size_t run_of(const char *s, size_t len, const char *extra)
{
  size_t i = 0;
  while (i < len && i < RUN_MAX && (token_char(s[i]) || strchr(extra, s[i])) && s[i])
    i++;
  return i;
}

/* AWS secret keys: 40 characters of base64. */
static bool aws_secret(const char *s, size_t len)
{
  if (len != AWS_SECRET_LEN || memchr(s, '_', len) || memchr(s, '-', len))
    return false;
  struct letters n = count_letters(s, len);
  return n.lower >= 4 && n.upper >= 4 && n.digit >= 1;
}

/* Length of the secret that starts at `s` by its shape alone; 0: none. */
static size_t shape_at(const char *s, size_t len)
{
  for (size_t i = 0; i < COUNT(shapes); i++) {
    size_t n = strlen(shapes[i].prefix);
    if (len <= n || memcmp(s, shapes[i].prefix, n) != 0)
      continue;
    size_t more = run_of(s + n, len - n, ".+/=%");
    if (more >= shapes[i].min)
      return n + more;
  }
  if (len >= 11 && memcmp(s, "-----BEGIN ", 11) == 0)
    return len;
  size_t base64 = run_of(s, len, "+/");
  if (aws_secret(s, base64))
    return base64;
  size_t plain = run_of(s, len, "");
  if (!looks_random(s, plain))
    return 0;
  return run_of(s, len, "+/="); /* with its padding and the rest of its base64 */
}

/* ---- spans in a text --------------------------------------------------------- */

struct span {
  size_t start, end; /* to be replaced: [start, end) */
};

static size_t until(const char *s, size_t from, size_t len, const char *stop)
{
  while (from < len && !(s[from] && strchr(stop, s[from])))
    from++;
  return from;
}

/* scheme://user:PASSWORD@host, scheme://TOKEN@host. `i` is at "://". */
static bool url_span(const char *s, size_t i, size_t len, struct span *out)
{
  if (len - i < 4 || memcmp(s + i, "://", 3) != 0)
    return false;
  size_t start = i + 3;
  size_t end = until(s, start, len, "/?# \t\r\n\"'<>");
  size_t at = end;
  while (at > start && s[at - 1] != '@')
    at--;
  if (at == start)
    return false;
  at--; /* s[at] is the last '@' of the authority */
  const char *colon = memchr(s + start, ':', at - start);
  if (colon) {
    *out = (struct span){(size_t)(colon - s) + 1, at};
    return out->end > out->start;
  }
  struct letters n = count_letters(s + start, at - start);
  *out = (struct span){start, at};
  return at - start > 16 || n.digit + n.upper > 0; /* "git@" is a user */
}

static bool names_header(const char *s, size_t len)
{
  return same_name(s, len, "authorization") || same_name(s, len, "proxy-authorization") ||
         same_name(s, len, "cookie") || same_name(s, len, "set-cookie");
}

/* NAME=value, "name": "value", Name: value, --name value. `i` is at a name. */
static bool named_span(const char *s, size_t i, size_t len, struct span *out)
{
  size_t n = run_of(s + i, len - i, ".");
  const char *name = s + i;
  bool option = n > 2 && name[0] == '-' && name[1] == '-';
  size_t p = i + n;
  if (n == 0 || p >= len || !ss_secret_name(name, n))
    return false;
  if (s[p] == '"' || s[p] == '\'' || s[p] == ']')
    p++;
  size_t blanks = p;
  while (blanks < len && (s[blanks] == ' ' || s[blanks] == '\t'))
    blanks++;
  if (blanks < len && s[blanks] == '=')
    p = blanks + 1;
  else if (p + 1 < len && s[p] == ':' && strchr(" \t\"'", s[p + 1]) && s[p + 1])
    p++;
  else if (!(option && blanks > p && blanks < len && s[blanks] != '-'))
    return false;
  while (p < len && (s[p] == ' ' || s[p] == '\t'))
    p++;
  if (p >= len)
    return false;
  size_t end;
  if (s[p] == '"' || s[p] == '\'') {
    char quote[2] = {s[p], '\0'};
    end = until(s, ++p, len, quote);
  } else {
    end = until(s, p, len, names_header(name, n) ? "\"'\r\n" : " \t\r\n\"'");
  }
  *out = (struct span){p, end};
  return end > p;
}

static bool header_span(const char *s, size_t i, size_t len, struct span *out)
{
  for (size_t k = 0; k < COUNT(http_schemes); k++) {
    size_t n = strlen(http_schemes[k]);
    if (len - i <= n || strncasecmp(s + i, http_schemes[k], n) != 0)
      continue;
    size_t more = run_of(s + i + n, len - i - n, "._~+/=");
    struct letters l = count_letters(s + i + n, more);
    if (more >= 16 || (more >= 8 && l.digit && l.lower + l.upper)) {
      *out = (struct span){i + n, i + n + more};
      return true;
    }
  }
  return false;
}

static bool span_at(const char *s, size_t i, size_t len, struct span *out)
{
  if (s[i] == ':')
    return url_span(s, i, len, out);
  bool starts = i == 0 || !token_char(s[i - 1]);
  bool inner = i > 0 && !isalnum((unsigned char)s[i - 1]);
  if (starts && (named_span(s, i, len, out) || header_span(s, i, len, out)))
    return true;
  if (!starts && !inner)
    return false;
  size_t n = shape_at(s + i, len - i);
  *out = (struct span){i, i + n};
  return n > 0;
}

bool ss_redact(struct ss_buf *out, const char *text, size_t len)
{
  bool some = false;
  for (size_t i = 0; i < len;) {
    struct span span;
    if (!span_at(text, i, len, &span)) {
      ss_buf_addc(out, text[i++]);
      continue;
    }
    ss_buf_add(out, text + i, span.start - i);
    ss_buf_adds(out, SS_REDACTED);
    i = span.end;
    some = true;
  }
  return some;
}

bool ss_secret_value(const char *value, size_t len)
{
  struct span span;
  for (size_t i = 0; i < len; i++)
    if (span_at(value, i, len, &span))
      return true;
  return false;
}

bool ss_redact_setting(struct ss_buf *out, const char *name, size_t name_len,
                       const char *value, size_t len)
{
  if (len && ss_secret_name(name, name_len)) {
    ss_buf_adds(out, SS_REDACTED);
    return true;
  }
  return ss_redact(out, value, len);
}

/* ---- arguments --------------------------------------------------------------- */

struct argv_state {
  bool pytest; /* its -p loads a plugin; elsewhere it is often a password */
  bool mysql;  /* -pPASSWORD in one word */
  bool next;   /* the last word was an option whose value is a secret */
};

static void note_program(struct argv_state *st, const char *word)
{
  static const char *const glued[] = {"mysql", "mysqldump", "mysqladmin", "mariadb",
                                      "sshpass"};
  const char *base = ss_base_name(word);
  if (ss_starts_with(base, "pytest") || strcmp(base, "py.test") == 0)
    st->pytest = true;
  for (size_t i = 0; i < COUNT(glued); i++)
    st->mysql = st->mysql || strcmp(base, glued[i]) == 0;
}

static bool secret_option(const struct argv_state *st, const char *word)
{
  if (strcmp(word, "-p") == 0)
    return !st->pytest;
  if (!ss_starts_with(word, "--") || strchr(word, '=') || ss_starts_with(word, "--no-"))
    return false;
  return ss_secret_name(word + 2, strlen(word + 2));
}

static bool redact_word(struct argv_state *st, const char *word, struct ss_buf *out)
{
  size_t len = strlen(word);
  if (st->next) {
    st->next = false;
    if (word[0] != '-' && len) {
      ss_buf_adds(out, SS_REDACTED);
      return true;
    }
  }
  note_program(st, word);
  st->next = secret_option(st, word);
  if (st->mysql && ss_starts_with(word, "-p") && len > 2) {
    ss_buf_adds(out, "-p" SS_REDACTED);
    return true;
  }
  /* --name=value and NAME=value: the value is the rest of the word, whole. */
  const char *equals = strchr(word, '=');
  size_t name = equals ? (size_t)(equals - word) : 0;
  size_t dashes = strspn(word, "-");
  if (equals && equals[1] && name > dashes && run_of(word, name, ".") == name &&
      ss_secret_name(word + dashes, name - dashes)) {
    ss_buf_add(out, word, name + 1);
    ss_buf_adds(out, SS_REDACTED);
    return true;
  }
  return ss_redact(out, word, len);
}

bool ss_redact_argv(char *const *argv,
                    void (*each)(void *arg, const char *word, size_t len), void *arg)
{
  struct argv_state st = {0};
  struct ss_buf word = {0};
  bool some = false;
  for (size_t i = 0; argv && argv[i]; i++) {
    ss_buf_clear(&word);
    some = redact_word(&st, argv[i], &word) || some;
    each(arg, ss_buf_str(&word), word.len);
  }
  ss_buf_release(&word);
  return some;
}

static void quote_word(void *arg, const char *word, size_t len)
{
  struct ss_buf *out = arg;
  if (out->len && out->data[out->len - 1] != ' ')
    ss_buf_addc(out, ' ');
  ss_escape_shell(out, word, len);
}

bool ss_command_quote(struct ss_buf *out, char *const *argv, bool full)
{
  if (!full)
    return ss_redact_argv(argv, quote_word, out);
  for (size_t i = 0; argv && argv[i]; i++)
    quote_word(out, argv[i], strlen(argv[i]));
  return false;
}
