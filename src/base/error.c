/*
 * Error texts and diagnostics.
 *
 * A diagnostic is made where the failure is seen and shown much later, maybe
 * on a terminal, and may quote a path or a name of the target. So its text is
 * made safe here, once, into the fixed room of struct ss_diag: nothing in this
 * file allocates, and reporting "out of memory" always works.
 */
#include "stacksample/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/escape.h"

static const char *const error_texts[] = {
#define SS_ERROR_TEXT(name, text) text,
    SS_ERRORS(SS_ERROR_TEXT)
#undef SS_ERROR_TEXT
};

const char *ss_strerror(enum ss_err err)
{
  size_t i = (size_t)err;

  if (i >= sizeof error_texts / sizeof error_texts[0])
    return "unknown error";
  return error_texts[i];
}

/* `sys_errno` 0: no system text. */
__attribute__((format(printf, 4, 0))) static void
fill(struct ss_diag *diag, enum ss_err err, int sys_errno, const char *fmt, va_list ap)
{
  char raw[sizeof diag->text];
  size_t len;
  int n = vsnprintf(raw, sizeof raw, fmt, ap);

  if (n < 0)
    n = 0;
  len = (size_t)n < sizeof raw ? (size_t)n : sizeof raw - 1;
  if (sys_errno != 0 && len + 3 < sizeof raw) {
    char why[80];
    /* The GNU strerror_r: returns the text, which may not be in `why`. */
    const char *text = strerror_r(sys_errno, why, sizeof why);
    n = snprintf(raw + len, sizeof raw - len, ": %s", text);
    len = n < 0 ? len : strlen(raw);
  }
  diag->err = err;
  diag->sys_errno = sys_errno;
  ss_terminal_copy(diag->text, sizeof diag->text, raw, len);
}

enum ss_err ss_fail(struct ss_diag *diag, enum ss_err err, const char *fmt, ...)
{
  if (diag != NULL) {
    va_list ap;
    va_start(ap, fmt);
    fill(diag, err, 0, fmt, ap);
    va_end(ap);
  }
  return err;
}

static enum ss_err from_errno(int sys_errno)
{
  switch (sys_errno) {
  case ENOMEM:
    return SS_ERR_NOMEM;
  case EACCES:
  case EPERM:
    return SS_ERR_ACCESS;
  case ENOENT:
  case ESRCH:
    return SS_ERR_GONE;
  case EEXIST:
    return SS_ERR_EXISTS;
  case ENOSYS:
  case EOPNOTSUPP:
    return SS_ERR_UNSUPPORTED;
  default:
    return SS_ERR_IO;
  }
}

enum ss_err ss_fail_errno(struct ss_diag *diag, const char *fmt, ...)
{
  int saved = errno;
  enum ss_err err = from_errno(saved);

  if (diag != NULL) {
    va_list ap;
    va_start(ap, fmt);
    fill(diag, err, saved, fmt, ap);
    va_end(ap);
  }
  errno = saved;
  return err;
}

_Noreturn void ss_bug(const char *file, int line, const char *what)
{
  fprintf(stderr, "stacksample: internal error at %s:%d: %s\n", file, line, what);
  abort();
}
