/* The small files about a run: time -v's text, quoting, the log's findings. */
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
#include "stacksample/meta.h"
#include "tmpdir.h"

#define WORDS(...) ((char *[]){__VA_ARGS__, NULL})

static struct ss_bundle *bundle;
static struct ss_store *store;
static char folder[TMPDIR_PATH];

static int setup(void **state)
{
  (void)state;
  if (!tmpdir_make(folder) || ss_bundle_create(&bundle, folder, "b", NULL) != SS_ERR_OK)
    return -1;
  return ss_store_create(&store, ss_bundle_dir(bundle), "profile.db", NULL) ? -1 : 0;
}

static int teardown(void **state)
{
  (void)state;
  if (store)
    ss_store_close(store, NULL);
  store = NULL;
  ss_bundle_free(bundle);
  return tmpdir_remove(folder);
}

static void read_back(const char *name, struct ss_buf *text)
{
  assert_int_equal(ss_file_read_all(ss_bundle_dir(bundle)->fd, name, 1 << 20, text, NULL),
                   SS_ERR_OK);
}

/* ---- time -v ------------------------------------------------------------------ */

static void test_time_text(void **state)
{
  struct ss_facts_config config = {
      .command = WORDS("sh", "-c", "exit 3", "--token=canary"), .env = SS_ENV_REDACTED};
  struct ss_exit exit = {.code = 3, .start_ns = 1000000000, .end_ns = 4726499999999ull};
  struct ss_buf out = {0};
  (void)state;
  exit.ru.ru_utime.tv_sec = 61;
  exit.ru.ru_utime.tv_usec = 239999;
  exit.ru.ru_stime.tv_usec = 5000;
  exit.ru.ru_maxrss = 1604;
  exit.ru.ru_minflt = 85;
  ss_time_text(&out, &config, &exit);
  assert_string_equal(ss_buf_str(&out),
                      "Command exited with non-zero status 3\n"
                      "\tCommand being timed: \"sh -c exit 3 --token=<redacted>\"\n"
                      "\tUser time (seconds): 61.23\n"
                      "\tSystem time (seconds): 0.00\n"
                      "\tPercent of CPU this job got: 1%\n"
                      "\tElapsed (wall clock) time (h:mm:ss or m:ss): 1:18:45\n"
                      "\tAverage shared text size (kbytes): 0\n"
                      "\tAverage unshared data size (kbytes): 0\n"
                      "\tAverage stack size (kbytes): 0\n"
                      "\tAverage total size (kbytes): 0\n"
                      "\tMaximum resident set size (kbytes): 1604\n"
                      "\tAverage resident set size (kbytes): 0\n"
                      "\tMajor (requiring I/O) page faults: 0\n"
                      "\tMinor (reclaiming a frame) page faults: 85\n"
                      "\tVoluntary context switches: 0\n"
                      "\tInvoluntary context switches: 0\n"
                      "\tSwaps: 0\n"
                      "\tFile system inputs: 0\n"
                      "\tFile system outputs: 0\n"
                      "\tSocket messages sent: 0\n"
                      "\tSocket messages received: 0\n"
                      "\tSignals delivered: 0\n"
                      "\tPage size (bytes): 4096\n"
                      "\tExit status: 3\n");
  ss_buf_release(&out);
}

static void test_time_of_a_signal(void **state)
{
  struct ss_facts_config config = {.command = WORDS("x")};
  struct ss_exit exit = {.code = -1, .signal = 9};
  struct ss_buf out = {0};
  (void)state;
  ss_time_text(&out, &config, &exit);
  assert_ptr_equal(strstr(ss_buf_str(&out), "Command terminated by signal 9\n"),
                   out.data);
  assert_non_null(strstr(out.data, "h:mm:ss or m:ss): 0:00.00\n"));
  assert_non_null(strstr(out.data, "\tExit status: 0\n"));
  ss_buf_release(&out);
}

/* ---- start and end ---------------------------------------------------------------- */

static const char *meta(struct ss_profile *p, const char *key)
{
  const char *value = ss_profile_meta(p, key);
  if (!value)
    fail_msg("no meta %s", key);
  return value;
}

static struct ss_profile *reopen(void)
{
  struct ss_profile *p = NULL;
  assert_int_equal(ss_store_close(store, NULL), SS_ERR_OK);
  store = NULL;
  assert_int_equal(ss_profile_open(&p, ss_bundle_dir(bundle), "profile.db", NULL),
                   SS_ERR_OK);
  return p;
}

static void test_start(void **state)
{
  char *argv[] = {"stacksample", "run",    "--",  "pytest",
                  "--password",  "canary", "a b", NULL};
  struct ss_facts_config config = {
      .mode = "run",
      .argv = argv,
      .command = argv + 3,
      .environment =
          WORDS("Z=1", "AWS_SECRET_ACCESS_KEY=canary", "A=two\nlines", "EMPTY_TOKEN="),
      .env = SS_ENV_REDACTED,
      .options = "rate 100 Hz",
      .timeout_ns = 5000000000};
  struct ss_time_limits limits;
  struct ss_buf text = {0};
  (void)state;
  assert_int_equal(ss_facts_start(bundle, &config, store, &limits, NULL), SS_ERR_OK);
  read_back("env.txt", &text);
  assert_string_equal(ss_buf_str(&text),
                      "A=two\\x0alines\nAWS_SECRET_ACCESS_KEY=<redacted>\n"
                      "EMPTY_TOKEN=\nZ=1\n");
  read_back("commands.txt", &text);
  assert_null(strstr(text.data, "canary"));
  assert_non_null(strstr(text.data, "\ncd "));
  assert_non_null(
      strstr(text.data, "stacksample run -- pytest --password '<redacted>' 'a b'\n"));
  assert_non_null(strstr(text.data, "#   pytest --password '<redacted>' 'a b'\n"));
  assert_non_null(strstr(text.data, "# git commit: "));
  assert_non_null(strstr(text.data, "options: rate 100 Hz\n"));
  bool own = false;
  for (size_t i = 0; i < limits.count; i++)
    own = own || (strcmp(limits.items[i].source, "stacksample --timeout") == 0 &&
                  limits.items[i].s == 5);
  assert_true(own);
  struct ss_profile *p = reopen();
  assert_string_equal(meta(p, SS_META_COMMAND_LINE),
                      "pytest --password '<redacted>' 'a b'");
  assert_string_equal(meta(p, SS_META_COMMAND),
                      "[\"pytest\",\"--password\",\"\\u003credacted>\","
                      "\"a b\"]");
  assert_string_equal(meta(p, SS_META_MODE), "run");
  assert_non_null(strstr(meta(p, SS_META_GUARDS), "\"CUDA_VISIBLE_DEVICES\":null"));
  assert_true(ss_profile_meta_u64(p, SS_META_CPUS_ALLOWED, 0) > 0);
  ss_profile_close(p);
  ss_buf_release(&text);
}

static void put_log(const char *text)
{
  int fd = ss_file_create(ss_bundle_dir(bundle), "log", NULL);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  close(fd);
}

/* The limits of a run whose config and whose markers limit tests. */
static const struct ss_time_limits test_limits = {
    .count = 3,
    .items = {
        {.source = "pytest-timeout, --timeout", .kind = SS_LIMIT_TEST, .s = 900},
        {.source = "pytest-timeout, marker", .kind = SS_LIMIT_TEST, .s = 30},
        {.source = "pytest-timeout, marker", .kind = SS_LIMIT_TEST, .s = 2.25},
    }};

static void check_test_limit(const char *log, uint64_t running_ns, const char *want)
{
  struct ss_facts_config config = {.command = WORDS("pytest"), .log = "log"};
  struct ss_exit exit = {.code = 1, .start_ns = 1, .end_ns = 900000000001ull};
  struct ss_ending ending = {
      .exit = &exit, .status = 1, .limits = &test_limits, .test_limit_ns = running_ns};
  struct ss_profile *p = NULL;

  setup(NULL);
  put_log(log);
  assert_int_equal(ss_facts_end(bundle, &config, &ending, store, NULL), SS_ERR_OK);
  p = reopen();
  assert_string_equal(meta(p, SS_META_ENDED_BY), "pytest_timeout");
  assert_string_equal(meta(p, SS_META_LIMIT_S), want);
  assert_non_null(strstr(meta(p, SS_META_LIMITS), "pytest-timeout, marker"));
  ss_profile_close(p);
  teardown(NULL);
}

/* What pytest-timeout says of itself, else the limit of the test that ran last. */
static void test_which_test_limit(void **state)
{
  static const char banner[] = "+++++++++++++++ Timeout +++++++++++++++\n";

  (void)state;
  check_test_limit("E   Failed: Timeout >30.0s\n", 900000000000, "30.000");
  check_test_limit("E   Failed: Timeout (>2.2s) from pytest-timeout.\n", 0, "2.250");
  check_test_limit("E   Failed: Timeout >7.0s\n", 0, "900.000");
  check_test_limit(banner, 30000000000, "30.000");
  check_test_limit(banner, 0, "900.000");
}

static void test_end(void **state)
{
  struct ss_facts_config config = {.command = WORDS("pytest"), .log = "log"};
  struct ss_exit exit = {.code = 1, .start_ns = 1, .end_ns = 900000000001ull};
  struct ss_ending ending = {.exit = &exit, .status = 1, .limits = &test_limits};
  struct ss_buf text = {0};
  (void)state;
  put_log("E   Failed: Timeout >900.0s\n=== 1 failed in 900.10s (0:15:00) ===\n");
  exit.ru.ru_utime.tv_sec = 2;
  assert_int_equal(ss_facts_end(bundle, &config, &ending, store, NULL), SS_ERR_OK);
  read_back("exit_code.txt", &text);
  assert_string_equal(ss_buf_str(&text), "1\n");
  struct ss_profile *p = reopen();
  assert_string_equal(meta(p, SS_META_ENDED_BY), "pytest_timeout");
  assert_string_equal(meta(p, SS_META_LIMIT_S), "900.000");
  assert_string_equal(meta(p, SS_META_LOG_RESULT), "1 failed in 900.10s (0:15:00)");
  assert_int_equal(ss_profile_meta_u64(p, SS_META_RU_UTIME_US, 0), 2000000);
  assert_null(ss_profile_meta(p, SS_META_SIGNAL));
  ss_profile_close(p);
  ss_buf_release(&text);
}

static void check_ended(int code, int signal, int seen, double s, double elapsed,
                        const char *want)
{
  struct ss_facts_config config = {.command = WORDS("x")};
  struct ss_exit exit = {.code = code,
                         .signal = signal,
                         .start_ns = 1,
                         .end_ns = 1 + (uint64_t)(elapsed * 1e9)};
  const struct ss_time_limits limits = {
      .count = 1,
      .items = {{.source = "timeout(1), pid 7", .kind = SS_LIMIT_RUN, .s = s}}};
  struct ss_ending ending = {
      .exit = &exit, .status = code, .signal_seen = seen, .limits = &limits};
  struct ss_profile *p = NULL;

  setup(NULL);
  assert_int_equal(ss_facts_end(bundle, &config, &ending, store, NULL), SS_ERR_OK);
  p = reopen();
  assert_string_equal(meta(p, SS_META_ENDED_BY), want);
  ss_profile_close(p);
  teardown(NULL);
}

static void test_ended_by(void **state)
{
  (void)state;
  check_ended(0, 0, 0, 1200, 5, "self");
  check_ended(-1, 15, 15, 1200, 1200.01, "timeout1");
  check_ended(2, 0, 2, 1200, 1199.99, "timeout1"); /* timeout -s INT */
  check_ended(124, 0, 0, 60, 60.1, "timeout1");    /* timeout in the command */
  check_ended(-1, 15, 15, 1200, 5, "signal");
  check_ended(-1, 9, 0, 1200, 5, "signal");
  check_ended(1, 0, 0, 1200, 1300, "self");
}

/* ---- the log --------------------------------------------------------------------- */

static const char pytest_log[] =
    "============================= test session starts ==============================\n"
    "collected 5 items\r\n"
    "\n"
    "\033[1mtests/a.py\033[0m::test_one \033[32mPASSED\033[0m\033[32m              [ "
    "20%]\033[0m\n"
    "tests/a.py::test_two[a b] FAILED                                 [ 40%]\n"
    "tests/a.py::test_skip SKIPPED (no GPU)                           [ 60%]\n"
    "tests/a.py::test_prints hello\n"
    "PASSED\n"
    "[gw1] [ 80%] PASSED tests/b.py::test_x[PASSED] \n"
    "tests/b.py::test_y \n"
    "=================================== FAILURES ===================================\n"
    "_________________________________ test_two[a b] ________________________________\n"
    "    def test_two():\n"
    ">       assert password == 'x'\n"
    "E       AssertionError: token=canary\n"
    "____________________________________ test_z ____________________________________\n"
    "second failure\n"
    "============================== slowest durations ===============================\n"
    "12.34s call     tests/a.py::test_two[a b]\n"
    "0.01s setup    tests/a.py::test_one\n"
    "(3 durations < 0.005s hidden.  Use -vv to show these durations.)\n"
    "=========================== short test summary info ============================\n"
    "FAILED tests/a.py::test_two[a b] - AssertionError: x\n"
    "ERROR tests/c.py::test_err - RuntimeError\n"
    "=================== 1 failed, 3 passed, 1 error in 13.37s ======================\n";

static void test_log(void **state)
{
  (void)state;
  put_log(pytest_log);
  assert_false(ss_log_facts(ss_bundle_dir(bundle), "log", store).fired);
  struct ss_profile *p = reopen();
  assert_string_equal(
      meta(p, SS_META_LOG_OUTCOMES),
      "[{\"id\":\"tests/a.py::test_one\",\"outcome\":\"passed\"},"
      "{\"id\":\"tests/a.py::test_two[a b]\",\"outcome\":\"failed\"},"
      "{\"id\":\"tests/a.py::test_skip\",\"outcome\":\"skipped\"},"
      "{\"id\":\"tests/a.py::test_prints\",\"outcome\":\"passed\"},"
      "{\"id\":\"tests/b.py::test_x[PASSED]\",\"worker\":\"gw1\",\"outcome\":\"passed\"},"
      "{\"id\":\"tests/a.py::test_two[a b]\",\"outcome\":\"failed\"},"
      "{\"id\":\"tests/c.py::test_err\",\"outcome\":\"error\"}]");
  assert_string_equal(
      meta(p, SS_META_LOG_DURATIONS),
      "[{\"id\":\"tests/a.py::test_two[a b]\",\"phase\":\"call\",\"s\":12.34},"
      "{\"id\":\"tests/a.py::test_one\",\"phase\":\"setup\",\"s\":0.01}]");
  assert_string_equal(meta(p, SS_META_LOG_RESULT),
                      "1 failed, 3 passed, 1 error in 13.37s");
  const char *trace = meta(p, SS_META_LOG_TRACEBACK);
  assert_non_null(strstr(trace, "def test_two"));
  assert_non_null(strstr(trace, "AssertionError"));
  assert_null(strstr(trace, "second failure"));
  assert_null(strstr(trace, "canary"));
  assert_null(ss_profile_meta(p, SS_META_LOG_TIMEOUT));
  ss_profile_close(p);
}

static void test_log_timeouts(void **state)
{
  static const char *const fired[] = {
      "E       Failed: Timeout >1.0s\n",
      "E   Failed: Timeout (>1200.0s) from pytest-timeout.\n",
      "+++++++++++++++++++++++ Timeout +++++++++++++++++++++++\n"};
  static const char *const quiet[] = {"Timeout >\n", "raise TimeoutError\n",
                                      "Failed: Timeout > x\n", "Timeout (0:00:05)!\n"};
  (void)state;
  for (size_t i = 0; i < sizeof fired / sizeof fired[0]; i++) {
    put_log(fired[i]);
    assert_true(ss_log_facts(ss_bundle_dir(bundle), "log", store).fired);
    unlinkat(ss_bundle_dir(bundle)->fd, "log", 0);
  }
  for (size_t i = 0; i < sizeof quiet / sizeof quiet[0]; i++) {
    put_log(quiet[i]);
    assert_false(ss_log_facts(ss_bundle_dir(bundle), "log", store).fired);
    unlinkat(ss_bundle_dir(bundle)->fd, "log", 0);
  }
}

/* Every prefix of a log, whatever it is cut in. */
static void test_log_every_prefix(void **state)
{
  char copy[sizeof pytest_log];
  (void)state;
  for (size_t n = 0; n < sizeof pytest_log; n += 7) {
    memcpy(copy, pytest_log, n);
    copy[n] = '\0';
    put_log(copy);
    ss_log_facts(ss_bundle_dir(bundle), "log", store);
    unlinkat(ss_bundle_dir(bundle)->fd, "log", 0);
  }
}

/* ---- torch_env ------------------------------------------------------------------- */

static void test_torch_env_not_run(void **state)
{
  struct ss_buf text = {0};
  (void)state;
  assert_int_equal(ss_facts_torch_env(bundle, NULL, "a signal ended it", NULL),
                   SS_ERR_OK);
  read_back("torch_env.txt", &text);
  assert_string_equal(ss_buf_str(&text), "not run: a signal ended it\n");
  ss_buf_release(&text);
}

static void test_torch_env_fails(void **state)
{
  struct ss_buf text = {0};
  (void)state;
  assert_int_equal(ss_facts_torch_env(bundle, "/bin/false", NULL, NULL), SS_ERR_OK);
  read_back("torch_env.txt", &text);
  assert_non_null(strstr(ss_buf_str(&text), "collect_env failed (status 1)"));
  ss_buf_release(&text);
}

static void test_names(void **state)
{
  (void)state;
  assert_string_equal(ss_log_name(WORDS("timeout", "5", "python3", "-m", "pytest")),
                      "pytest.log");
  assert_string_equal(ss_log_name(WORDS("sleep", "5")), "command.log");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_time_text),
      cmocka_unit_test(test_time_of_a_signal),
      cmocka_unit_test_setup_teardown(test_start, setup, teardown),
      cmocka_unit_test_setup_teardown(test_end, setup, teardown),
      cmocka_unit_test(test_which_test_limit),
      cmocka_unit_test(test_ended_by),
      cmocka_unit_test_setup_teardown(test_log, setup, teardown),
      cmocka_unit_test_setup_teardown(test_log_timeouts, setup, teardown),
      cmocka_unit_test_setup_teardown(test_log_every_prefix, setup, teardown),
      cmocka_unit_test_setup_teardown(test_torch_env_not_run, setup, teardown),
      cmocka_unit_test_setup_teardown(test_torch_env_fails, setup, teardown),
      cmocka_unit_test(test_names)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
