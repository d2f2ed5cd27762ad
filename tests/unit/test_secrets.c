/* What is taken for a secret, and what must not be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "stacksample/buf.h"
#include "stacksample/output.h"

static void test_names(void **state)
{
  static const char *const secret[] = {"AWS_SECRET_ACCESS_KEY",
                                       "AWS_SESSION_TOKEN",
                                       "GITHUB_TOKEN",
                                       "DB_PASSWORD",
                                       "DB_PWD",
                                       "password",
                                       "apiKey",
                                       "API_KEY",
                                       "OPENAI_API_KEY",
                                       "HF_TOKEN",
                                       "NPM_AUTH",
                                       "MYSQL_PASS",
                                       "SLACK_WEBHOOK",
                                       "PRIVATE_KEY",
                                       "dbPassword",
                                       "PGPASSWORD",
                                       "Authorization",
                                       "CI_JOB_JWT",
                                       "SENTRY_DSN",
                                       "ssh-passphrase",
                                       "client.secret",
                                       "GH_PAT"};
  static const char *const plain[] = {"PATH",
                                      "HOME",
                                      "PWD",
                                      "OLDPWD",
                                      "TOKENIZERS_PARALLELISM",
                                      "SSH_AUTH_SOCK",
                                      "LANG",
                                      "PYTEST_ADDOPTS",
                                      "CUDA_VISIBLE_DEVICES",
                                      "NANOBRAGG_DISABLE_COMPILE",
                                      "XAUTHORITY",
                                      "PYTHONPATH",
                                      "OMP_NUM_THREADS",
                                      "KEYBOARD",
                                      "AUTHOR",
                                      "PATTERN",
                                      "COMPASS",
                                      "KeyError",
                                      "AuthenticationError",
                                      ""};
  (void)state;
  for (size_t i = 0; i < sizeof secret / sizeof secret[0]; i++)
    if (!ss_secret_name(secret[i], strlen(secret[i])))
      fail_msg("not taken for a secret: %s", secret[i]);
  for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
    if (ss_secret_name(plain[i], strlen(plain[i])))
      fail_msg("taken for a secret: %s", plain[i]);
}

/* Made up for this test; none opens anything. */
static void test_values(void **state)
{
  static const char *const secret[] = {
      "AKIAIOSFODNN7EXAMPLE",
      "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
      "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
      "xoxb-123456789012-abcdefGHIJ",
      "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",
      "https://alice:hunter2@example.org/simple",
      "postgresql://u:p4ss@db/x",
      "https://0123456789abcdef0@git.example.org/a.git",
      "Bearer abcdefgh12345678",
      "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
      "xK9vQ2mZ7pL4wR8tB3nY",
      "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END",
      "host=db password=abc port=1",
      "{\"token\": \"abc\"}",
      "--cov --password hunter2"};
  static const char *const plain[] = {
      "/usr/local/bin:/usr/bin:/bin",
      "tests/"
      "test_gradients.py::TestPropertyBasedGradients::test_property_gradient_stability",
      "TestConv2dBatchNorm1dReLUForward",
      "tests/unit/test_auth.py::test_token[a=1]",
      "--maxfail=1 --timeout=1200 --durations=0 -p no:cacheprovider",
      "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592",
      "/home/user/.pyenv/versions/3.11.7/lib/python3.11/site-packages",
      "https://example.org/a/b?page=2",
      "git@github.com:owner/repository.git",
      "ssh://git@github.com/owner/repository.git",
      "unix:path=/run/user/1000/bus",
      "2026-11-24T18:30:12Z",
      "-1",
      "en_US.UTF-8",
      "not slow and gradient",
      ""};
  (void)state;
  for (size_t i = 0; i < sizeof secret / sizeof secret[0]; i++)
    if (!ss_secret_value(secret[i], strlen(secret[i])))
      fail_msg("not taken for a secret: %s", secret[i]);
  for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
    if (ss_secret_value(plain[i], strlen(plain[i])))
      fail_msg("taken for a secret: %s", plain[i]);
}

static void check_redact(const char *in, const char *want)
{
  struct ss_buf out = {0};
  ss_redact(&out, in, strlen(in));
  assert_string_equal(ss_buf_str(&out), want);
  ss_buf_release(&out);
}

static void test_redact_keeps_the_rest(void **state)
{
  (void)state;
  check_redact("https://alice:hunter2@example.org/x",
               "https://alice:<redacted>@example.org/x");
  check_redact("-k fast --password=hunter2 -x", "-k fast --password=<redacted> -x");
  check_redact("{\"api_key\": \"abc\", \"n\": 1}",
               "{\"api_key\": \"<redacted>\", \"n\": 1}");
  check_redact("Authorization: Basic YWxhZGRpbjpvcGVu", "Authorization: <redacted>");
  check_redact("a=1&token=abc", "a=1&token=<redacted>");
  check_redact("plain text", "plain text");
}

static void check_argv(char *const *argv, bool some, const char *want)
{
  struct ss_buf out = {0};
  assert_int_equal(ss_command_quote(&out, argv, false), some);
  assert_string_equal(ss_buf_str(&out), want);
  ss_buf_release(&out);
}

static void test_arguments(void **state)
{
  char *option[] = {"prog", "--password", "canary one", "-v", NULL};
  char *equals[] = {"prog", "--db-password=can ary;&", "TOKEN=abc", NULL};
  char *letter[] = {"client", "-p", "canary", "-u", "bob", NULL};
  char *plugin[] = {"python3",           "-m", "pytest", "-p", "no:timeout",
                    "tests/test_key.py", NULL};
  char *mysql[] = {"mysql", "-pcanary", NULL};
  char *header[] = {"curl", "-H", "Authorization: Bearer canary", NULL};
  char *script[] = {"sh", "-c", "tool --token canary && echo 'it'", NULL};
  (void)state;
  check_argv(option, true, "prog --password '<redacted>' -v");
  check_argv(equals, true, "prog '--db-password=<redacted>' 'TOKEN=<redacted>'");
  check_argv(letter, true, "client -p '<redacted>' -u bob");
  check_argv(plugin, false, "python3 -m pytest -p no:timeout tests/test_key.py");
  check_argv(mysql, true, "mysql '-p<redacted>'");
  check_argv(header, true, "curl -H 'Authorization: <redacted>'");
  check_argv(script, true, "sh -c 'tool --token <redacted> && echo '\\''it'\\'''");
}

static void test_full_keeps_everything(void **state)
{
  char *argv[] = {"prog", "--password", "canary", NULL};
  struct ss_buf out = {0};
  (void)state;
  assert_false(ss_command_quote(&out, argv, true));
  assert_string_equal(ss_buf_str(&out), "prog --password canary");
  ss_buf_release(&out);
}

/* Any bytes may stand in an argument: neither reads past the end nor loops. */
static void test_every_prefix(void **state)
{
  static const char text[] =
      "x://u:p@h Bearer abcdefgh1 \"token\": \"a\" --pass x\xff\x80 key='";
  (void)state;
  for (size_t n = 0; n < sizeof text; n++) {
    char *exact = test_malloc(n + 1);
    struct ss_buf out = {0};
    memcpy(exact, text, n);
    ss_redact(&out, exact, n);
    ss_buf_release(&out);
    test_free(exact);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_names),
                                     cmocka_unit_test(test_values),
                                     cmocka_unit_test(test_redact_keeps_the_rest),
                                     cmocka_unit_test(test_arguments),
                                     cmocka_unit_test(test_full_keeps_everything),
                                     cmocka_unit_test(test_every_prefix)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
