/* Errors, diagnostics and notes. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "stacksample/error.h"
#include "stacksample/limits.h"

static void every_error_has_a_text(void **state)
{
  (void)state;
  assert_string_equal(ss_strerror(SS_ERR_OK), "no error");
  assert_string_equal(ss_strerror(SS_ERR_USAGE), "wrong usage");
  assert_string_equal(ss_strerror((enum ss_err)1000), "unknown error");
  assert_string_equal(ss_strerror((enum ss_err) - 1), "unknown error");
}

static void fail_fills_the_diagnostic(void **state)
{
  struct ss_diag diag = {0};

  (void)state;
  assert_int_equal(ss_fail(&diag, SS_ERR_FORMAT, "%s at %d", "bad", 7), SS_ERR_FORMAT);
  assert_int_equal(diag.err, SS_ERR_FORMAT);
  assert_int_equal(diag.sys_errno, 0);
  assert_string_equal(diag.text, "bad at 7");
  assert_int_equal(ss_fail(NULL, SS_ERR_LIMIT, "unseen"), SS_ERR_LIMIT);
}

static void errno_chooses_the_error(void **state)
{
  static const struct {
    int sys_errno;
    enum ss_err err;
  } cases[] = {
      {ENOMEM, SS_ERR_NOMEM},
      {EACCES, SS_ERR_ACCESS},
      {EPERM, SS_ERR_ACCESS},
      {ENOENT, SS_ERR_GONE},
      {ESRCH, SS_ERR_GONE},
      {EEXIST, SS_ERR_EXISTS},
      {ENOSYS, SS_ERR_UNSUPPORTED},
      {ENOSPC, SS_ERR_IO},
      {EIO, SS_ERR_IO},
      {EOPNOTSUPP, SS_ERR_UNSUPPORTED},
  };

  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct ss_diag diag = {0};
    errno = cases[i].sys_errno;
    assert_int_equal(ss_fail_errno(&diag, "open %s", "x"), cases[i].err);
    assert_int_equal(diag.sys_errno, cases[i].sys_errno);
    assert_int_equal(errno, cases[i].sys_errno);
    assert_int_equal(strncmp(diag.text, "open x: ", 8), 0);
    assert_non_null(strstr(diag.text, strerror(cases[i].sys_errno)));
  }
}

static void a_diagnostic_is_safe_and_bounded(void **state)
{
  struct ss_diag diag = {0};
  char wide[1000];

  (void)state;
  ss_fail(&diag, SS_ERR_IO, "name %s", "a\x1b]52;c\x07\nb\xff");
  assert_string_equal(diag.text, "name a\\x1b]52;c\\x07\\x0ab\\xff");
  memset(wide, '\n', sizeof wide - 1);
  wide[sizeof wide - 1] = '\0';
  ss_fail(&diag, SS_ERR_IO, "%s", wide);
  assert_true(strlen(diag.text) < sizeof diag.text);
  assert_null(strchr(diag.text, '\n'));
}

struct seen {
  size_t different, total, last;
  char first[64];
};

static void remember(void *arg, const char *text, size_t count)
{
  struct seen *seen = arg;

  if (seen->different++ == 0)
    snprintf(seen->first, sizeof seen->first, "%s", text);
  seen->total += count;
  seen->last = count;
}

static void *add_notes(void *arg)
{
  for (int i = 0; i < 1000; i++)
    ss_note(arg, "note %d", i % 10);
  return NULL;
}

static void notes_are_counted_across_threads(void **state)
{
  struct ss_notes *notes = ss_notes_new();
  struct seen seen = {0};
  pthread_t threads[4];

  (void)state;
  ss_note(notes, "first\n");
  for (size_t i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, add_notes, notes), 0);
  for (size_t i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  ss_notes_each(notes, remember, &seen);
  assert_int_equal(seen.different, 11);
  assert_int_equal(seen.total, 4001);
  assert_string_equal(seen.first, "first\\x0a");
  ss_notes_free(notes);
}

static void further_notes_are_only_counted(void **state)
{
  struct ss_notes *notes = ss_notes_new();
  struct seen seen = {0};

  (void)state;
  for (int i = 0; i < SS_NOTES_MAX + 7; i++)
    ss_note(notes, "note %d", i);
  ss_notes_each(notes, remember, &seen);
  assert_int_equal(seen.different, SS_NOTES_MAX + 1);
  assert_int_equal(seen.last, 7);
  ss_notes_free(notes);
  ss_notes_free(NULL);
  ss_note(NULL, "nobody listens");
  ss_notes_each(NULL, remember, &seen);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_error_has_a_text),
      cmocka_unit_test(fail_fills_the_diagnostic),
      cmocka_unit_test(errno_chooses_the_error),
      cmocka_unit_test(a_diagnostic_is_safe_and_bounded),
      cmocka_unit_test(notes_are_counted_across_threads),
      cmocka_unit_test(further_notes_are_only_counted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
