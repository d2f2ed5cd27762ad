/* Files that are complete or absent, private, never written through a link. */
#include "tmpdir.h"

#include <errno.h>
#include <sys/stat.h>

#include "stacksample/buf.h"
#include "stacksample/sys.h"

static mode_t mode_of(const struct tmpdir *f, const char *name)
{
  struct stat st = {0};

  fstatat(f->dir.fd, name, &st, AT_SYMLINK_NOFOLLOW);
  return st.st_mode;
}

static enum ss_err write_file(const struct tmpdir *f, const char *name, const char *text,
                              struct ss_diag *diag)
{
  struct ss_outfile *out = ss_outfile_open(&f->dir, name, diag);

  if (out == NULL)
    return diag->err;
  ss_outfile_printf(out, "%s", text);
  return ss_outfile_commit(out, diag);
}

static void assert_content(const struct tmpdir *f, const char *name, const char *text)
{
  struct ss_buf buf = {0};

  assert_int_equal(ss_file_read_all(f->dir.fd, name, 1 << 20, &buf, NULL), SS_ERR_OK);
  assert_string_equal(ss_buf_str(&buf), text);
  ss_buf_release(&buf);
}

static void a_file_appears_whole_at_commit(void **state)
{
  struct tmpdir *f = *state;
  struct ss_diag diag = {0};
  struct ss_outfile *out = ss_outfile_open(&f->dir, "a", &diag);
  char big[70000];

  assert_non_null(out);
  memset(big, 'b', sizeof big);
  ss_outfile_write(out, "first ", 6);
  ss_outfile_write(out, big, sizeof big);
  ss_outfile_printf(out, "%1000d", 1);
  assert_int_equal(ss_outfile_size(out), 71006);
  assert_int_equal(faccessat(f->dir.fd, "a", F_OK, 0), -1);
  assert_int_equal(ss_outfile_commit(out, &diag), SS_ERR_OK);
  struct stat st;
  assert_int_equal(fstatat(f->dir.fd, "a", &st, 0), 0);
  assert_int_equal(st.st_size, 71006);
  assert_int_equal(tmpdir_entries(f, false), 1);
}

static void abort_leaves_nothing(void **state)
{
  struct tmpdir *f = *state;
  struct ss_outfile *out = ss_outfile_open(&f->dir, "a", NULL);

  ss_outfile_write(out, "x", 1);
  ss_outfile_abort(out);
  ss_outfile_abort(NULL);
  assert_int_equal(tmpdir_entries(f, false), 0);
}

static void modes_do_not_depend_on_the_umask(void **state)
{
  struct tmpdir *f = *state;
  struct ss_dir sub;
  mode_t masks[] = {0, 0777};

  for (size_t i = 0; i < 2; i++) {
    mode_t old = umask(masks[i]);
    assert_int_equal(write_file(f, "a", "x", NULL), SS_ERR_OK);
    int fd = ss_file_create(&f->dir, "live", NULL);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(ss_dir_create(&sub, &f->dir, "sub", NULL), SS_ERR_OK);
    ss_dir_close(&sub);
    umask(old);
    assert_int_equal(mode_of(f, "a"), S_IFREG | 0600);
    assert_int_equal(mode_of(f, "live"), S_IFREG | 0600);
    assert_int_equal(mode_of(f, "sub"), S_IFDIR | 0700);
    tmpdir_entries(f, true);
  }
}

static void a_planted_link_is_replaced_not_followed(void **state)
{
  struct tmpdir *f = *state;
  struct ss_diag diag = {0};
  int fd = ss_file_create(&f->dir, "victim", NULL);

  assert_int_equal(ss_write_all(fd, "precious", 8), 0);
  close(fd);
  assert_int_equal(symlinkat("victim", f->dir.fd, "a"), 0);
  assert_int_equal(ss_file_create(&f->dir, "a", &diag), -1);
  assert_int_equal(diag.err, SS_ERR_EXISTS);
  assert_int_equal(ss_file_open_read(&f->dir, "a", &diag), -1);
  assert_int_equal(write_file(f, "a", "ours", &diag), SS_ERR_OK);
  assert_content(f, "victim", "precious");
  assert_content(f, "a", "ours");
  assert_int_equal(mode_of(f, "a"), S_IFREG | 0600);
}

static void what_is_not_a_file_is_left_alone(void **state)
{
  struct tmpdir *f = *state;
  struct ss_diag diag = {0};

  assert_int_equal(mkdirat(f->dir.fd, "d", 0700), 0);
  assert_int_equal(mkfifoat(f->dir.fd, "p", 0600), 0);
  assert_int_equal(write_file(f, "d", "x", &diag), SS_ERR_EXISTS);
  assert_int_equal(write_file(f, "p", "x", &diag), SS_ERR_EXISTS);
  assert_true(S_ISDIR(mode_of(f, "d")));
  assert_true(S_ISFIFO(mode_of(f, "p")));
  assert_int_equal(tmpdir_entries(f, false), 2);                /* no temporary is left */
  assert_int_equal(ss_file_open_read(&f->dir, "p", &diag), -1); /* does not block */
  assert_int_equal(diag.err, SS_ERR_FORMAT);
  assert_int_equal(ss_file_open_read(&f->dir, "absent", &diag), -1);
  assert_int_equal(diag.err, SS_ERR_GONE);
}

static void an_output_is_replaced_by_its_next_version(void **state)
{
  struct tmpdir *f = *state;

  assert_int_equal(write_file(f, "a", "old", NULL), SS_ERR_OK);
  assert_int_equal(write_file(f, "a", "new", NULL), SS_ERR_OK);
  assert_content(f, "a", "new");
}

static void names_are_single_components(void **state)
{
  static const char *const bad[] = {"", ".", "..", "a/b", "/a", "../a"};
  struct tmpdir *f = *state;
  struct ss_dir sub;

  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct ss_diag diag = {0};
    assert_null(ss_outfile_open(&f->dir, bad[i], &diag));
    assert_int_equal(diag.err, SS_ERR_USAGE);
    assert_int_equal(ss_file_create(&f->dir, bad[i], NULL), -1);
    assert_int_equal(ss_file_open_read(&f->dir, bad[i], NULL), -1);
    assert_int_equal(ss_dir_create(&sub, &f->dir, bad[i], NULL), SS_ERR_USAGE);
  }
}

static void folders_are_made_and_kept_by_descriptor(void **state)
{
  struct tmpdir *f = *state;
  struct ss_dir deep, again;
  char path[128], moved[128];

  snprintf(path, sizeof path, "%s/x", f->path);
  snprintf(moved, sizeof moved, "%s/y", f->path);
  assert_int_equal(ss_dir_open(&deep, path, false, NULL), SS_ERR_GONE);
  ss_dir_close(&deep);
  assert_int_equal(ss_dir_open(&deep, path, true, NULL), SS_ERR_OK);
  assert_string_equal(deep.path, path);
  /* Somebody swaps the folder: what we write stays in the one we opened. */
  assert_int_equal(rename(path, moved), 0);
  assert_int_equal(symlink("/nonexistent", path), 0);
  struct ss_outfile *out = ss_outfile_open(&deep, "a", NULL);
  assert_non_null(out);
  assert_int_equal(ss_outfile_commit(out, NULL), SS_ERR_OK);
  assert_int_equal(faccessat(f->dir.fd, "y/a", F_OK, 0), 0);
  unlinkat(f->dir.fd, "y/a", 0);
  assert_int_equal(ss_dir_create(&again, &f->dir, "x", NULL), SS_ERR_EXISTS);
  ss_dir_close(&deep);
  ss_dir_close(&again);
  memset(&again, 0, sizeof again);
  int before = fcntl(0, F_GETFD);
  ss_dir_close(&again); /* zeroed: descriptor 0 is not its */
  assert_int_equal(fcntl(0, F_GETFD), before);
}

static void a_path_of_several_folders_is_made(void **state)
{
  struct tmpdir *f = *state;
  struct ss_dir deep;
  char path[128];

  snprintf(path, sizeof path, "%s/p//q/r/", f->path);
  assert_int_equal(ss_dir_open(&deep, path, true, NULL), SS_ERR_OK);
  ss_dir_close(&deep);
  assert_int_equal(unlinkat(f->dir.fd, "p/q/r", AT_REMOVEDIR), 0);
  assert_int_equal(unlinkat(f->dir.fd, "p/q", AT_REMOVEDIR), 0);
  struct ss_diag diag = {0};
  assert_int_equal(ss_dir_open(&deep, "/proc/no/such", true, &diag), SS_ERR_GONE);
  assert_string_not_equal(diag.text, "");
}

static void reading_whole_files_is_bounded(void **state)
{
  struct tmpdir *f = *state;
  struct ss_buf buf = {0};

  assert_int_equal(write_file(f, "a", "12345", NULL), SS_ERR_OK);
  assert_int_equal(ss_file_read_all(f->dir.fd, "a", 4, &buf, NULL), SS_ERR_LIMIT);
  assert_int_equal(ss_file_read_all(f->dir.fd, "a", 5, &buf, NULL), SS_ERR_OK);
  assert_int_equal(buf.len, 5);
  assert_int_equal(write_file(f, "empty", "", NULL), SS_ERR_OK);
  assert_int_equal(ss_file_read_all(f->dir.fd, "empty", 5, &buf, NULL), SS_ERR_OK);
  assert_non_null(buf.data);
  assert_int_equal(buf.len, 0);
  assert_int_equal(ss_file_read_all(AT_FDCWD, "/proc/self/maps", 1 << 24, &buf, NULL),
                   SS_ERR_OK);
  assert_true(buf.len > 100);
  assert_int_equal(ss_file_read_all(AT_FDCWD, "/dev/zero", 5, &buf, NULL), SS_ERR_FORMAT);
  assert_int_equal(ss_file_read_all(f->dir.fd, "none", 5, &buf, NULL), SS_ERR_GONE);
  ss_buf_release(&buf);
}

#ifdef SS_TESTING
/* A failure of each call on the way leaves the old file as it was. */
static void a_full_disk_leaves_the_old_file(void **state)
{
  static const char *const faults[] = {"write:ENOSPC:1", "fsync:EIO:1", "write:EDQUOT:2"};
  struct tmpdir *f = *state;
  static char big[200000];

  memset(big, 'x', sizeof big - 1);
  assert_int_equal(write_file(f, "a", "old", NULL), SS_ERR_OK);
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    struct ss_diag diag = {0};
    setenv("SS_FAULT", faults[i], 1);
    ss_fault_reset();
    struct ss_outfile *out = ss_outfile_open(&f->dir, "a", NULL);
    ss_outfile_write(out, "new", 3);
    ss_outfile_write(out, big, sizeof big);
    assert_int_equal(ss_outfile_commit(out, &diag), SS_ERR_IO);
    assert_non_null(strstr(diag.text, "/a"));
    unsetenv("SS_FAULT");
    assert_content(f, "a", "old");
    assert_int_equal(tmpdir_entries(f, false), 1);
  }
}
#endif

int main(void)
{
  const struct CMUnitTest tests[] = {
      TMPDIR_TEST(a_file_appears_whole_at_commit),
      TMPDIR_TEST(abort_leaves_nothing),
      TMPDIR_TEST(modes_do_not_depend_on_the_umask),
      TMPDIR_TEST(a_planted_link_is_replaced_not_followed),
      TMPDIR_TEST(what_is_not_a_file_is_left_alone),
      TMPDIR_TEST(an_output_is_replaced_by_its_next_version),
      TMPDIR_TEST(names_are_single_components),
      TMPDIR_TEST(folders_are_made_and_kept_by_descriptor),
      TMPDIR_TEST(a_path_of_several_folders_is_made),
      TMPDIR_TEST(reading_whole_files_is_bounded),
#ifdef SS_TESTING
      TMPDIR_TEST(a_full_disk_leaves_the_old_file),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
