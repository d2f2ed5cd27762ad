/* The bundle's folder: fresh, private, never through a link, manifest true. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stacksample/buf.h"
#include "stacksample/output.h"
#include "tmpdir.h"

static char folder[TMPDIR_PATH];

static int setup(void **state)
{
  (void)state;
  return tmpdir_make(folder) ? 0 : -1;
}

static int teardown(void **state)
{
  (void)state;
  return tmpdir_remove(folder);
}

static mode_t mode_of(const struct ss_bundle *b, const char *name)
{
  struct stat st;
  assert_int_equal(fstatat(ss_bundle_dir(b)->fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
  return st.st_mode & 07777;
}

static enum ss_err write_hello(struct ss_profile *p,
                               const struct ss_write_options *options,
                               struct ss_outfile *out, struct ss_diag *diag)
{
  (void)p;
  (void)options;
  (void)diag;
  ss_outfile_printf(out, "abc");
  return SS_ERR_OK;
}

static enum ss_err write_refuse(struct ss_profile *p,
                                const struct ss_write_options *options,
                                struct ss_outfile *out, struct ss_diag *diag)
{
  (void)p;
  (void)options;
  ss_outfile_printf(out, "half of it");
  return ss_fail(diag, SS_ERR_LIMIT, "too much");
}

static const struct ss_writer hello = {"hello", "hello.txt", true, write_hello};
static const struct ss_writer refuse = {"refuse", "refuse.txt", true, write_refuse};

static cJSON *manifest_of(const struct ss_bundle *b)
{
  struct ss_buf text = {0};
  assert_int_equal(
      ss_file_read_all(ss_bundle_dir(b)->fd, "manifest.json", 1 << 20, &text, NULL),
      SS_ERR_OK);
  cJSON *tree = cJSON_Parse(ss_buf_str(&text));
  assert_non_null(tree);
  ss_buf_release(&text);
  return tree;
}

static const cJSON *entry(const cJSON *manifest, const char *list, const char *name)
{
  const cJSON *item;
  cJSON_ArrayForEach(item, cJSON_GetObjectItem(manifest, list))
  {
    if (strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(item, "name")), name) == 0)
      return item;
  }
  return NULL;
}

static void test_fresh_and_private(void **state)
{
  struct ss_bundle *a = NULL, *b = NULL, *c = NULL;
  mode_t old = umask(0);
  (void)state;
  assert_int_equal(ss_bundle_create(&a, folder, NULL, NULL), SS_ERR_OK);
  assert_int_equal(ss_bundle_create(&b, folder, NULL, NULL), SS_ERR_OK);
  assert_int_equal(ss_bundle_create(&c, folder, NULL, NULL), SS_ERR_OK);
  umask(old);
  assert_string_not_equal(ss_bundle_path(a), ss_bundle_path(b));
  assert_string_not_equal(ss_bundle_path(b), ss_bundle_path(c));
  assert_int_equal(mode_of(a, "."), 0700);
  assert_int_equal(ss_bundle_write(a, &hello, NULL, NULL, NULL), SS_ERR_OK);
  assert_int_equal(mode_of(a, "hello.txt"), 0600);
  ss_bundle_free(a);
  ss_bundle_free(b);
  ss_bundle_free(c);
}

static void test_stamp(void **state)
{
  static const char *const bad[] = {"",         ".",   "..", "a/b", "a b",
                                    "\xc3\xa4", "a\n", "$x", "a:b"};
  struct ss_bundle *b = NULL;
  struct ss_diag diag = {0};
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(ss_bundle_create(&b, folder, bad[i], &diag), SS_ERR_USAGE);
  assert_int_equal(ss_bundle_create(&b, folder, "run-1.a_B", NULL), SS_ERR_OK);
  ss_bundle_free(b);
  assert_int_equal(ss_bundle_create(&b, folder, "run-1.a_B", &diag), SS_ERR_EXISTS);
  assert_null(b);
  assert_non_null(strstr(diag.text, "exists"));
}

/* A link, a FIFO or a file of the stamp's name is "exists", never followed. */
static void test_planted_stamp(void **state)
{
  struct ss_bundle *b = NULL;
  char path[128];
  (void)state;
  snprintf(path, sizeof path, "%s/link", folder);
  assert_int_equal(symlink("/tmp", path), 0);
  assert_int_equal(ss_bundle_create(&b, folder, "link", NULL), SS_ERR_EXISTS);
  assert_null(b);
}

static void test_reserve_has_no_name(void **state)
{
  struct ss_bundle *b = NULL;
  struct dirent *e;
  (void)state;
  assert_int_equal(ss_bundle_create(&b, folder, "r", NULL), SS_ERR_OK);
  DIR *dir = opendir(ss_bundle_path(b));
  assert_non_null(dir);
  while ((e = readdir(dir)))
    assert_true(strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0);
  closedir(dir);
  ss_bundle_release_reserve(b);
  ss_bundle_release_reserve(b);
  ss_bundle_free(b);
}

static void test_manifest(void **state)
{
  struct ss_bundle *b = NULL;
  (void)state;
  assert_int_equal(ss_bundle_create(&b, folder, "m", NULL), SS_ERR_OK);
  int dir = ss_bundle_dir(b)->fd;
  assert_int_equal(symlinkat("/etc/passwd", dir, "planted"), 0);
  assert_int_equal(mkdirat(dir, "dumps", 0700), 0);
  int fd = openat(dir, "dumps/001.txt", O_CREAT | O_WRONLY, 0600);
  assert_true(fd >= 0);
  close(fd);
  ss_bundle_write(b, &hello, NULL, NULL, NULL);
  assert_int_equal(ss_bundle_write(b, &refuse, NULL, NULL, NULL), SS_ERR_LIMIT);
  ss_bundle_absent(b, "hello.txt", "said so, but it is there");
  assert_int_equal(ss_bundle_manifest(b, NULL, NULL), SS_ERR_OK);
  assert_int_equal(ss_bundle_manifest(b, NULL, NULL), SS_ERR_OK); /* again */

  cJSON *m = manifest_of(b);
  const cJSON *file = entry(m, "files", "hello.txt");
  assert_non_null(file);
  assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(file, "size")), 3);
  assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(file, "sha256")),
                      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  assert_non_null(entry(m, "files", "dumps/001.txt"));
  assert_null(entry(m, "files", "planted"));
  assert_null(entry(m, "files", "manifest.json"));
  assert_null(entry(m, "files", "refuse.txt"));
  assert_string_equal(
      cJSON_GetStringValue(cJSON_GetObjectItem(entry(m, "absent", "refuse.txt"), "why")),
      "too much");
  assert_null(entry(m, "absent", "hello.txt"));
  assert_non_null(entry(m, "absent", "time.txt"));
  cJSON_Delete(m);

  /* A bundle that is opened again knows why. */
  struct ss_bundle *again = NULL;
  assert_int_equal(ss_bundle_open(&again, ss_bundle_path(b), NULL), SS_ERR_OK);
  assert_int_equal(ss_bundle_manifest(again, NULL, NULL), SS_ERR_OK);
  m = manifest_of(again);
  assert_string_equal(
      cJSON_GetStringValue(cJSON_GetObjectItem(entry(m, "absent", "refuse.txt"), "why")),
      "too much");
  cJSON_Delete(m);
  ss_bundle_free(again);
  ss_bundle_free(b);
}

/* A file planted under an output's name as a link is replaced, not written to. */
static void test_planted_output(void **state)
{
  struct ss_bundle *b = NULL;
  char victim[128];
  struct stat st;
  (void)state;
  snprintf(victim, sizeof victim, "%s/victim", folder);
  int fd = open(victim, O_CREAT | O_WRONLY, 0600);
  assert_true(fd >= 0);
  close(fd);
  assert_int_equal(ss_bundle_create(&b, folder, "p", NULL), SS_ERR_OK);
  assert_int_equal(symlinkat(victim, ss_bundle_dir(b)->fd, "hello.txt"), 0);
  ss_bundle_write(b, &hello, NULL, NULL, NULL);
  assert_int_equal(stat(victim, &st), 0);
  assert_int_equal(st.st_size, 0);
  ss_bundle_free(b);
}

static void test_discard(void **state)
{
  struct ss_bundle *b = NULL;
  char path[128];
  (void)state;
  assert_int_equal(ss_bundle_create(&b, folder, "d", NULL), SS_ERR_OK);
  snprintf(path, sizeof path, "%s", ss_bundle_path(b));
  ss_bundle_write(b, &hello, NULL, NULL, NULL);
  assert_int_equal(symlinkat("/tmp", ss_bundle_dir(b)->fd, "link"), 0);
  ss_bundle_discard(b);
  assert_int_equal(access(path, F_OK), -1);
  assert_int_equal(access("/tmp", F_OK), 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_fresh_and_private, setup, teardown),
      cmocka_unit_test_setup_teardown(test_stamp, setup, teardown),
      cmocka_unit_test_setup_teardown(test_planted_stamp, setup, teardown),
      cmocka_unit_test_setup_teardown(test_reserve_has_no_name, setup, teardown),
      cmocka_unit_test_setup_teardown(test_manifest, setup, teardown),
      cmocka_unit_test_setup_teardown(test_planted_output, setup, teardown),
      cmocka_unit_test_setup_teardown(test_discard, setup, teardown)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
