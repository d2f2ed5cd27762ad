/* Limits read from command lines, settings and ini files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/proc.h"
#include "stacksample/time_limits.h"
#include "tmpdir.h"

#define WORDS(...) ((char *[]){__VA_ARGS__, NULL})

static void check_unwrap(char *const *argv, const char *inner, const char *pytest)
{
  struct ss_unwrapped out;
  ss_unwrap(argv, &out, NULL, NULL, 0, NULL);
  assert_string_equal(out.argv[0] ? out.argv[0] : "", inner);
  if (!pytest) {
    assert_null(out.pytest);
    return;
  }
  assert_non_null(out.pytest);
  assert_string_equal(out.pytest[0] ? out.pytest[0] : "", pytest);
}

static void test_unwrap(void **state)
{
  (void)state;
  check_unwrap(WORDS("pytest", "-vv", "a.py"), "pytest", "-vv");
  check_unwrap(WORDS("/usr/bin/time", "-v", "-o", "t", "timeout", "-k", "5", "60", "env",
                     "-u", "X", "A=b", "nice", "-n", "5", "/v/bin/pytest", "x"),
               "/v/bin/pytest", "x");
  check_unwrap(WORDS("python3.11", "-X", "importtime", "-um", "pytest", "x"),
               "python3.11", "x");
  check_unwrap(WORDS("python", "-Wignore", "-mpytest"), "python", "");
  check_unwrap(WORDS("python3", "/v/bin/pytest", "x"), "python3", "x");
  check_unwrap(WORDS("python3", "-c", "import pytest", "pytest"), "python3", NULL);
  check_unwrap(WORDS("coverage", "run", "-m", "pytest", "x"), "coverage", "x");
  check_unwrap(WORDS("uv", "run", "--with", "torch", "pytest", "x"), "pytest", "x");
  check_unwrap(WORDS("taskset", "-c", "0", "stdbuf", "-oL", "pytest"), "pytest", "");
  check_unwrap(WORDS("sh", "-c", "pytest"), "sh", NULL);
  check_unwrap(WORDS("timeout", "5"), "", NULL);
  check_unwrap(WORDS("time"), "", NULL);
}

static void check_timeout(char *const *argv, double want)
{
  double s = 0;
  assert_int_equal(ss_timeout1_parse(argv, &s), want > 0);
  assert_true(s == want);
}

static void test_timeout1(void **state)
{
  (void)state;
  check_timeout(WORDS("timeout", "1200", "x"), 1200);
  check_timeout(
      WORDS("/usr/bin/timeout", "-k10", "-s", "KILL", "--foreground", "1.5m", "x"), 90);
  check_timeout(WORDS("timeout", "--signal", "INT", "--kill-after=5", "2h", "x"), 7200);
  check_timeout(WORDS("busybox", "timeout", "3", "x"), 3);
  check_timeout(WORDS("timeout", "0", "x"), 0);
  check_timeout(WORDS("timeout", "5x", "x"), 0);
  check_timeout(WORDS("timeout", "inf", "x"), 0);
  check_timeout(WORDS("timeout"), 0);
  check_timeout(WORDS("sleep", "5"), 0);
}

static const struct ss_time_limit *find_kind(const struct ss_time_limits *l,
                                             enum ss_limit_kind kind)
{
  for (size_t i = 0; i < l->count; i++)
    if (l->items[i].kind == kind)
      return &l->items[i];
  return NULL;
}

static void check_test_limit(char *const *command, char *const *env, int cwd, double want,
                             const char *source)
{
  struct ss_time_limits l;
  ss_time_limits_find(&l, &(struct ss_limited){0, command, env, cwd}, 0);
  const struct ss_time_limit *item = find_kind(&l, SS_LIMIT_TEST);
  if (want <= 0) {
    assert_null(item);
    return;
  }
  assert_non_null(item);
  assert_true(item->s == want);
  assert_non_null(strstr(item->source, source));
}

static void test_pytest_options(void **state)
{
  char **none = WORDS("A=b");
  (void)state;
  check_test_limit(WORDS("pytest", "--timeout=5"), none, -1, 5, "--timeout");
  check_test_limit(WORDS("pytest", "--timeout", "7.5", "--timeout-method=thread"), none,
                   -1, 7.5, "--timeout");
  check_test_limit(WORDS("pytest"), WORDS("PYTEST_ADDOPTS=-x '--timeout=9' -k 'a b'"), -1,
                   9, "--timeout");
  check_test_limit(WORDS("pytest", "--timeout=5"), WORDS("PYTEST_ADDOPTS=--timeout=9"),
                   -1, 5, "--timeout");
  check_test_limit(WORDS("env", "PYTEST_TIMEOUT=3", "pytest"), WORDS("PYTEST_TIMEOUT=4"),
                   -1, 3, "PYTEST_TIMEOUT");
  check_test_limit(WORDS("pytest", "-o", "timeout=8"), none, -1, 8, "-o timeout");
  check_test_limit(WORDS("pytest", "-p", "no:timeout", "--timeout=5"), none, -1, 0, NULL);
  check_test_limit(WORDS("pytest", "--timeout=0"), WORDS("PYTEST_TIMEOUT=4"), -1, 0,
                   NULL);
  check_test_limit(WORDS("prog", "--timeout=5"), none, -1, 0, NULL);
}

static void put_file(int dir, const char *name, const char *text)
{
  int fd = openat(dir, name, O_CREAT | O_WRONLY | O_TRUNC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  close(fd);
}

static void test_ini_files(void **state)
{
  static const struct {
    const char *file, *text;
    double want;
  } cases[] = {
      {"pytest.ini", "[pytest]\ntimeout = 300\n", 300},
      {"pytest.ini", "[other]\ntimeout = 1\n[pytest]\naddopts = -x\n  --timeout=11\n",
       11},
      {"tox.ini", "[pytest]\ntimeout=12 \n", 12},
      {"setup.cfg", "[tool:pytest]\ntimeout: 13\n", 13},
      {"pyproject.toml", "[tool.pytest.ini_options]\ntimeout = \"14\"\n", 14},
      {"pyproject.toml", "[tool.pytest.ini_options]\ntimeout = 15 # s\n", 15},
      {"pyproject.toml", "[tool.pytest.ini_options]\naddopts = \"-x --timeout=16\"\n",
       16},
      {"pyproject.toml",
       "[tool.pytest.ini_options]\naddopts = [\n\"-x\",\n\"--timeout=17\",\n]\n", 17},
      {"pyproject.toml",
       "[tool.pytest.ini_options]\naddopts = \"\"\"\n  --timeout=18\n\"\"\"\n", 18},
      {"pyproject.toml", "[tool.other]\ntimeout = 14\n", 0},
      {"pytest.ini", "[pytest]\ntimeout", 0},
  };
  char path[TMPDIR_PATH];
  (void)state;
  assert_true(tmpdir_make(path));
  int dir = open(path, O_RDONLY | O_DIRECTORY);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    put_file(dir, cases[i].file, cases[i].text);
    check_test_limit(WORDS("pytest"), WORDS("A=b"), dir, cases[i].want, "");
    unlinkat(dir, cases[i].file, 0);
  }
  put_file(dir, "pytest.ini",
           "[pytest]\n"); /* the first file wins, though it says nothing */
  put_file(dir, "tox.ini", "[pytest]\ntimeout=12\n");
  check_test_limit(WORDS("pytest"), WORDS("A=b"), dir, 0, NULL);
  close(dir);
  assert_int_equal(tmpdir_remove(path), 0);
}

/* Which file it is, in a tree of folders; the limits tell them apart. */
static void test_ini_is_found(void **state)
{
  char path[TMPDIR_PATH], absolute[64];
  char **none = WORDS("A=b");
  (void)state;
  assert_true(tmpdir_make(path));
  int top = open(path, O_RDONLY | O_DIRECTORY);
  assert_int_equal(mkdirat(top, "a", 0700), 0);
  assert_int_equal(mkdirat(top, "a/tests", 0700), 0);
  assert_int_equal(mkdirat(top, "a/testing", 0700), 0);
  int a = openat(top, "a", O_RDONLY | O_DIRECTORY);
  int tests = openat(a, "tests", O_RDONLY | O_DIRECTORY);
  put_file(tests, "test_x.py", "");
  put_file(a, "tox.ini", "[pytest]\ntimeout = 5\n");
  put_file(a, "other.ini", "[pytest]\ntimeout = 6\n");
  snprintf(absolute, sizeof absolute, "%s/a/tests/test_x.py::test_y[a::b]", path);
  /* above where it is started, and above the arguments */
  check_test_limit(WORDS("pytest"), none, tests, 5, "tox.ini");
  check_test_limit(WORDS("pytest", "test_x.py::test_y"), none, tests, 5, "tox.ini");
  check_test_limit(WORDS("pytest", "-k", "..", "a//./tests/"), none, top, 5, "tox.ini");
  check_test_limit(WORDS("pytest", "--", absolute), none, top, 5, "tox.ini");
  check_test_limit(WORDS("pytest", "a/tests/../testing", absolute), none, top, 5, "tox");
  check_test_limit(WORDS("pytest"), WORDS("PYTEST_ADDOPTS=a/tests"), top, 5, "tox.ini");
  check_test_limit(WORDS("pytest", "no/such/file"), none, top, 0, NULL);
  check_test_limit(WORDS("pytest", "--rootdir", "a", "--junitxml", "a"), none, top, 0,
                   NULL);
  check_test_limit(WORDS("pytest", "-c", "a/other.ini", "a"), none, top, 6, "other.ini");
  check_test_limit(WORDS("pytest", "-cother.ini"), none, a, 6, "other.ini");
  check_test_limit(WORDS("pytest", "--config-file=../other.ini"), none, tests, 6,
                   "other.ini");
  /* pytest.ini is pytest's own though it says nothing, and the nearest file counts */
  put_file(tests, "pytest.ini", "");
  check_test_limit(WORDS("pytest", absolute), none, top, 0, NULL);
  check_test_limit(WORDS("pytest", "a/testing", absolute), none, top, 5, "tox.ini");
  /* nothing above what they have in common: the arguments' own */
  unlinkat(a, "tox.ini", 0);
  put_file(tests, "pytest.ini", "[pytest]\ntimeout = 7\n");
  check_test_limit(WORDS("pytest", "a/testing", "a/tests"), none, top, 7, "pytest.ini");
  put_file(a, "setup.py", "");
  check_test_limit(WORDS("pytest", "a/testing", "a/tests"), none, top, 0, NULL);
  close(tests);
  close(a);
  close(top);
  assert_int_equal(tmpdir_remove(path), 0);
}

static void test_ini_every_prefix(void **state)
{
  static const char text[] =
      "[pytest]\naddopts = [\n'-x',\n '--timeout=3'\n]\ntimeout = \"5\"\n";
  (void)state;
  for (size_t n = 0; n < sizeof text; n++) {
    char *exact = test_malloc(n + 1);
    struct ss_buf out = {0};
    memcpy(exact, text, n);
    ss_ini_value(exact, n, "pytest", "addopts", &out);
    ss_ini_value(exact, n, "pytest", "timeout", &out);
    ss_buf_release(&out);
    test_free(exact);
  }
}

static bool runs(struct ss_words *words, pid_t pid, const char *program)
{
  return ss_words_read(words, pid, "cmdline", 4096) &&
         strcmp(words->items[0], program) == 0;
}

/* timeout(1) with a limit of CPU time, started here; its words, once it runs. */
static pid_t start_timeout(struct ss_words *words)
{
  const struct rlimit cpu = {1000, 2000};
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CPU, &cpu);
    execlp("timeout", "timeout", "500", "sleep", "100", (char *)NULL);
    _exit(127);
  }
  for (int i = 0; i < 60000 && !runs(words, pid, "timeout"); i++)
    usleep(1000);
  assert_true(runs(words, pid, "timeout"));
  return pid;
}

/* Of a process that runs: its own, not ours. */
static void test_limits_of_a_process(void **state)
{
  struct ss_words words = {0};
  struct ss_time_limits l;
  pid_t pid = start_timeout(&words);
  (void)state;
  ss_time_limits_find(&l, &(struct ss_limited){pid, words.items, NULL, -1}, 0);
  const struct ss_time_limit *run = NULL, *cpu = find_kind(&l, SS_LIMIT_CPU_TIME);
  for (size_t i = 0; i < l.count; i++)
    if (strcmp(l.items[i].source, "timeout(1) in the command") == 0)
      run = &l.items[i];
  assert_non_null(run);
  assert_true(run->s == 500 && run->elapsed_s >= 0 && run->elapsed_s < 100);
  assert_non_null(cpu);
  assert_true(cpu->s == 1000);
  kill(-pid, SIGKILL); /* it leads a group of its own */
  waitpid(pid, NULL, 0);
  ss_words_release(&words);
}

static void test_first_and_warning(void **state)
{
  struct ss_time_limits l = {.count = 0};
  struct ss_buf text = {0};
  double at = 0;
  (void)state;
  l.items[l.count++] = (struct ss_time_limit){
      .source = "timeout(1), pid 7", .kind = SS_LIMIT_RUN, .s = 1200, .elapsed_s = 3};
  l.items[l.count++] = (struct ss_time_limit){
      .source = "pytest-timeout, --timeout", .kind = SS_LIMIT_TEST, .s = 1200};
  assert_ptr_equal(ss_time_limits_first(&l, &at), &l.items[0]);
  assert_true(at == 1197);
  assert_true(ss_time_limits_warning(&l, &text));
  assert_string_equal(ss_buf_str(&text),
                      "timeout(1), pid 7 (1200 s) will end the run before "
                      "pytest-timeout, --timeout (1200 s a test) can");
  ss_buf_release(&text);
  l.items[1].s = 100;
  assert_false(ss_time_limits_warning(&l, &text));
  l.count = 0;
  assert_null(ss_time_limits_first(&l, &at));
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_unwrap),
                                     cmocka_unit_test(test_timeout1),
                                     cmocka_unit_test(test_limits_of_a_process),
                                     cmocka_unit_test(test_pytest_options),
                                     cmocka_unit_test(test_ini_files),
                                     cmocka_unit_test(test_ini_is_found),
                                     cmocka_unit_test(test_ini_every_prefix),
                                     cmocka_unit_test(test_first_and_warning)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
