/*
 * Errors and notes.
 *
 * Library code returns `enum ss_err` and never prints or exits; the detail
 * that a person needs goes into a caller-owned `struct ss_diag`. Only src/cli
 * turns either into text on stderr and into an exit status.
 */
#ifndef STACKSAMPLE_ERROR_H
#define STACKSAMPLE_ERROR_H

#include <stdbool.h>
#include <stddef.h>

/* One list, so that the enum and its texts cannot drift apart. */
#define SS_ERRORS(X)                                                                     \
  X(OK, "no error")                                                                      \
  X(NOMEM, "out of memory")                                                              \
  X(IO, "input/output error")                                                            \
  X(FORMAT, "malformed data")                                                            \
  X(LIMIT, "a limit was reached")                                                        \
  X(ACCESS, "access refused")                                                            \
  X(GONE, "no such process or file")                                                     \
  X(EXISTS, "already exists")                                                            \
  X(UNSUPPORTED, "not supported")                                                        \
  X(USAGE, "wrong usage")

enum ss_err {
#define SS_ERROR_ENUM(name, text) SS_ERR_##name,
  SS_ERRORS(SS_ERROR_ENUM)
#undef SS_ERROR_ENUM
};

/* What went wrong, for one operation. Zero-initialise; no ownership. */
struct ss_diag {
  enum ss_err err;
  int sys_errno;  /* errno of the failing call, 0 if none */
  char text[256]; /* one line, already safe for a terminal; "" if unset */
};

/* Static text of `err`; never NULL, also for values out of range. */
const char *ss_strerror(enum ss_err err);

/* Fills `diag` (which may be NULL) and returns `err`, for use in `return`. */
enum ss_err ss_fail(struct ss_diag *diag, enum ss_err err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with ": strerror(errno)" appended, and `err` chosen from errno:
 * ENOMEM NOMEM, EACCES/EPERM ACCESS, ENOENT/ESRCH GONE, EEXIST EXISTS,
 * ENOSYS/EOPNOTSUPP UNSUPPORTED, anything else IO. */
enum ss_err ss_fail_errno(struct ss_diag *diag, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* An impossible state of our own (never of outside data): prints and aborts. */
_Noreturn void ss_bug(const char *file, int line, const char *what);
#define SS_BUG(what) ss_bug(__FILE__, __LINE__, (what))
#define SS_INVARIANT(cond) ((cond) ? (void)0 : SS_BUG(#cond))

/*
 * Notes: one-line remarks of any thread that belong into the summary (a ring
 * that had to shrink, a perf map refused). Equal texts are kept once with a
 * count; at most SS_NOTES_MAX different ones, further ones only counted.
 */
struct ss_notes;
struct ss_notes *ss_notes_new(void); /* NULL when out of memory */
void ss_notes_free(struct ss_notes *notes);
void ss_note(struct ss_notes *notes, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* thread-safe; notes may be NULL */
/* Calls `each` for every note in order of first appearance. */
void ss_notes_each(struct ss_notes *notes,
                   void (*each)(void *arg, const char *text, size_t count), void *arg);

#endif
