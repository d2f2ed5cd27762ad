/* Commits read from git's files as git lays them out, and from broken ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/output/facts_priv.h"
#include "tmpdir.h"

#define HASH_A "0123456789abcdef0123456789abcdef01234567"
#define HASH_B "89abcdef0123456789abcdef0123456789abcdef"

static char root[TMPDIR_PATH];

static int setup(void **state)
{
  (void)state;
  return tmpdir_make(root) ? 0 : -1;
}

static int teardown(void **state)
{
  (void)state;
  return tmpdir_remove(root);
}

static void put(const char *name, const char *text)
{
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
    *p = '\0';
    mkdir(path, 0700);
  }
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

static void check(const char *below, const char *commit, const char *branch)
{
  struct ss_buf c = {0}, b = {0};
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, below);
  int dir = open(path, O_RDONLY | O_DIRECTORY);
  assert_true(dir >= 0);
  assert_int_equal(ss_git_commit(dir, &c, &b), commit != NULL);
  if (commit) {
    assert_string_equal(ss_buf_str(&c), commit);
    assert_string_equal(ss_buf_str(&b), branch);
  }
  close(dir);
  ss_buf_release(&c);
  ss_buf_release(&b);
}

static void test_loose_ref_from_below(void **state)
{
  (void)state;
  put(".git/HEAD", "ref: refs/heads/topic/x\n");
  put(".git/refs/heads/topic/x", HASH_A "\n");
  put("a/b/file", "");
  check(".", HASH_A, "topic/x");
  check("a/b", HASH_A, "topic/x");
}

static void test_packed_ref(void **state)
{
  (void)state;
  put(".git/HEAD", "ref: refs/heads/main\n");
  put(".git/packed-refs",
      "# pack-refs with: peeled fully-peeled sorted\n" HASH_B
      " refs/heads/other-refs/heads/main\n" HASH_A " refs/heads/main\n^" HASH_B "\n");
  check(".", HASH_A, "main");
}

static void test_detached(void **state)
{
  (void)state;
  put(".git/HEAD", HASH_B "\n");
  check(".", HASH_B, "");
}

static void test_worktree(void **state)
{
  (void)state;
  put("repo/.git/HEAD", "ref: refs/heads/main\n");
  put("repo/.git/refs/heads/main", HASH_A "\n");
  put("repo/.git/refs/heads/side", HASH_B "\n");
  put("repo/.git/worktrees/w/HEAD", "ref: refs/heads/side\n");
  put("repo/.git/worktrees/w/commondir", "../..\n");
  put("w/.git", "gitdir: ../repo/.git/worktrees/w\n");
  check("w", HASH_B, "side");
  check("repo", HASH_A, "main");
}

static void test_broken(void **state)
{
  static const char *const heads[] = {"",
                                      "ref: ",
                                      "ref: refs/../../../etc/passwd\n",
                                      "ref: /etc/passwd\n",
                                      "zzz\n",
                                      "ref: refs/heads/missing\n",
                                      "ref: refs/heads/loop\n",
                                      "0123\n"};
  (void)state;
  put(".git/refs/heads/loop", "ref: refs/heads/loop\n");
  for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
    put(".git/HEAD", heads[i]);
    check(".", NULL, NULL);
  }
}

static void test_no_repository(void **state)
{
  (void)state;
  check(".", NULL, NULL);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_loose_ref_from_below, setup, teardown),
      cmocka_unit_test_setup_teardown(test_packed_ref, setup, teardown),
      cmocka_unit_test_setup_teardown(test_detached, setup, teardown),
      cmocka_unit_test_setup_teardown(test_worktree, setup, teardown),
      cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
      cmocka_unit_test_setup_teardown(test_no_repository, setup, teardown)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
