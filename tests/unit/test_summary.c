/*
 * Summaries of a constructed run: two processes, three threads, three phases.
 * The texts are compared with tests/fixtures/summary; SS_UPDATE_GOLDEN=1 writes
 * them again (then read the difference).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/output/summary_priv.h"
#include "stacksample/meta.h"
#include "tmpdir.h"

#define S 1000000000ull
#define T0 (100 * S)

static struct ss_bundle *bundle;
static char folder[TMPDIR_PATH];

static uint32_t str(struct ss_store *s, const char *text)
{
  return ss_store_string(s, text, strlen(text));
}

static uint32_t python_frame(struct ss_store *s, const char *name, const char *file,
                             int line)
{
  struct ss_frame_row row = {.kind = SS_FRAME_PYTHON,
                             .name = str(s, name),
                             .file = str(s, file),
                             .first_line = line,
                             .module = SS_ID_NONE};
  return ss_store_frame(s, &row);
}

static uint32_t native_frame(struct ss_store *s, const char *name, uint32_t module)
{
  struct ss_frame_row row = {.kind = SS_FRAME_NATIVE,
                             .name = str(s, name),
                             .file = SS_ID_NONE,
                             .module = module,
                             .offset = strlen(name) * 16};
  return ss_store_frame(s, &row);
}

static uint32_t kernel_frame(struct ss_store *s, const char *name)
{
  struct ss_frame_row row = {.kind = SS_FRAME_KERNEL,
                             .name = str(s, name),
                             .file = SS_ID_NONE,
                             .module = SS_ID_NONE};
  return ss_store_frame(s, &row);
}

static uint32_t stack_of(struct ss_store *s, const uint32_t *frames, size_t n)
{
  uint32_t stack = SS_ID_NONE;
  for (size_t i = 0; i < n; i++)
    stack = ss_store_stack(s, stack, frames[i], 0);
  return stack;
}
#define STACK(s, ...)                                                                    \
  stack_of(s, (const uint32_t[]){__VA_ARGS__},                                           \
           sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void samples(struct ss_store *s, uint32_t thread, uint32_t phase, uint32_t stack,
                    enum ss_state state, unsigned n)
{
  for (unsigned i = 0; i < n; i++) {
    struct ss_sample_row row = {.time_ns = T0 + i * S / 100,
                                .weight_ns = S / 100,
                                .thread = thread,
                                .stack = stack,
                                .phase = phase,
                                .state = (uint8_t)state,
                                .end = SS_END_COMPLETE,
                                .method = SS_METHOD_CFI,
                                .merge = SS_MERGE_VERIFIED};
    ss_store_sample(s, &row);
  }
}

static uint32_t process_row(struct ss_store *s, int64_t pid, const char *label,
                            const char *worker)
{
  struct ss_process_row row = {.pid = pid,
                               .ppid = 1,
                               .label = str(s, label),
                               .command = str(s, "pytest"),
                               .python = str(s, "3.11.2"),
                               .worker = worker ? str(s, worker) : SS_ID_NONE,
                               .start_ns = T0,
                               .end_ns = T0 + 20 * S};
  return ss_store_process(s, &row);
}

static uint32_t thread_row(struct ss_store *s, uint32_t process, int64_t tid,
                           const char *name, const char *role)
{
  struct ss_thread_row row = {.process = process,
                              .tid = tid,
                              .name = str(s, name),
                              .role = str(s, role),
                              .start_ns = T0,
                              .end_ns = T0 + 20 * S};
  return ss_store_thread(s, &row);
}

static uint32_t phase_row(struct ss_store *s, uint32_t process, const char *test,
                          const char *phase, uint64_t from, uint64_t to)
{
  struct ss_phase_row row = {.process = process,
                             .test = str(s, test),
                             .phase = str(s, phase),
                             .start_ns = from,
                             .end_ns = to};
  return ss_store_phase(s, &row);
}

static void meta_of_run(struct ss_store *s, int code)
{
  ss_store_meta(s, SS_META_VERSION, "0.1.0");
  ss_store_meta(s, SS_META_MODE, "run");
  ss_store_meta(s, SS_META_COMMAND_LINE, "pytest -vv tests/test_a.py");
  ss_store_meta(s, SS_META_CWD, "/srv/project");
  ss_store_meta(
      s, SS_META_LIMITS,
      "[{\"source\":\"timeout(1), pid 7\",\"s\":1200,\"kind\":\"run\",\"at_s\":1199}]");
  ss_store_meta(s, SS_META_GUARDS,
                "{\"CUDA_VISIBLE_DEVICES\":\"-1\",\"NANOBRAGG_DISABLE_COMPILE\""
                ":null,\"--durations\":\"0\"}");
  ss_store_meta_u64(s, SS_META_CPUS_ALLOWED, 2);
  ss_store_meta_u64(s, SS_META_START_NS, T0);
  ss_store_meta_u64(s, SS_META_END_NS, T0 + 20 * S);
  ss_store_meta(s, SS_META_ENGINE, "perf");
  ss_store_meta(s, SS_META_ENGINE_REASON, "");
  ss_store_meta(s, SS_META_KERNEL_METHOD, "samples");
  ss_store_meta_u64(s, SS_META_RATE_HZ, 100);
  ss_store_meta_u64(s, SS_META_EXIT_CODE, (uint64_t)code);
  ss_store_meta_u64(s, SS_META_COMMAND_CODE, (uint64_t)code);
  ss_store_meta(s, SS_META_ENDED_BY, "self");
  ss_store_meta(s, SS_META_LIMIT_S, "1200.000");
  ss_store_meta_u64(s, SS_META_RU_UTIME_US, 16000000);
  ss_store_meta_u64(s, SS_META_RU_STIME_US, 4200000);
  ss_store_meta_u64(s, SS_META_RU_MINFLT, 123456);
  ss_store_meta_u64(s, SS_META_LOST, 0);
  ss_store_meta_u64(s, SS_META_OWN_CPU_NS, 150000000);
  ss_store_meta_u64(s, SS_META_FINISHED, 1);
  ss_store_meta(s, SS_META_LOG_FILE, "pytest.log");
  ss_store_meta(s, SS_META_LOG_OUTCOMES,
                "[{\"id\":\"tests/test_a.py::test_grad\",\"outcome\":\"passed\"},"
                "{\"id\":\"tests/test_a.py::test_brief\",\"outcome\":\"rerun\"},"
                "{\"id\":\"tests/test_a.py::test_brief\",\"outcome\":\"passed\"}]");
  ss_store_meta(
      s, SS_META_LOG_DURATIONS,
      "[{\"id\":\"tests/test_a.py::test_grad\",\"phase\":\"call\",\"s\":17.9}]");
  ss_store_meta(s, SS_META_NOTES, "[{\"text\":\"a | note with `marks`\",\"count\":2}]");
}

static void rows_of_run(struct ss_store *s)
{
  uint32_t pytest = process_row(s, 4121, "pytest", NULL);
  uint32_t child = process_row(s, 4130, "python3", NULL);
  uint32_t main_thread = thread_row(s, pytest, 4121, "MainThread", "main");
  uint32_t worker = thread_row(s, pytest, 4122, "python3", "openmp");
  uint32_t other = thread_row(s, child, 4130, "python3", "main");
  const char *test = "tests/test_a.py::test_grad";
  uint32_t collection = phase_row(s, pytest, "(collection)", "", T0, T0 + 2 * S);
  uint32_t call = phase_row(s, pytest, test, "call", T0 + 2 * S, T0 + 20 * S);
  phase_row(s, pytest, test, "setup", T0 + 2 * S, T0 + 2 * S + 1000);
  struct ss_module_row lib = {.path = str(s, "/usr/lib/libtorch_cpu.so")};
  uint32_t torch = ss_store_module(s, &lib);
  uint32_t py = python_frame(s, "test_grad", "/srv/project/tests/test_a.py", 12);
  uint32_t rec = python_frame(s, "step", "/srv/project/sim.py", 40);
  uint32_t op = native_frame(s, "at::_ops::mul_Tensor::call(at::Tensor const&)", torch);
  uint32_t loop = native_frame(s, "vectorized_loop", torch);
  uint32_t fault = kernel_frame(s, "asm_exc_page_fault");
  uint32_t clear = kernel_frame(s, "clear_page_erms");

  samples(s, main_thread, collection, STACK(s, rec), SS_STATE_USER, 100);
  samples(s, main_thread, call, STACK(s, py, rec, rec, op, loop), SS_STATE_USER, 600);
  samples(s, main_thread, call, STACK(s, py, rec, op, loop, fault, clear),
          SS_STATE_KERNEL, 300);
  samples(s, main_thread, call, STACK(s, py), SS_STATE_LOCK, 50);
  samples(s, worker, call, STACK(s, loop), SS_STATE_USER, 900);
  samples(s, worker, call, STACK(s, clear), SS_STATE_KERNEL, 100);
  samples(s, other, SS_ID_NONE, STACK(s, rec), SS_STATE_SLEEP, 10);
  ss_store_time(s, main_thread, collection, SS_STATE_USER, 1 * S);
  ss_store_time(s, main_thread, call, SS_STATE_USER, 6 * S);
  ss_store_time(s, main_thread, call, SS_STATE_KERNEL, 3 * S);
  ss_store_time(s, main_thread, call, SS_STATE_LOCK, S / 2);
  ss_store_time(s, worker, call, SS_STATE_USER, 9 * S);
  ss_store_time(s, worker, call, SS_STATE_KERNEL, 1 * S);
  ss_store_time(s, other, SS_ID_NONE, SS_STATE_SLEEP, 20 * S);
}

static struct ss_profile *open_run(void (*more)(struct ss_store *s), int code)
{
  struct ss_store *s = NULL;
  struct ss_profile *p = NULL;
  struct ss_diag diag = {0};

  assert_true(tmpdir_make(folder));
  assert_int_equal(ss_bundle_create(&bundle, folder, "b", NULL), SS_ERR_OK);
  assert_int_equal(ss_store_create(&s, ss_bundle_dir(bundle), "profile.db", &diag),
                   SS_ERR_OK);
  meta_of_run(s, code);
  if (more)
    more(s);
  assert_int_equal(ss_store_close(s, &diag), SS_ERR_OK);
  if (ss_profile_open(&p, ss_bundle_dir(bundle), "profile.db", &diag) != SS_ERR_OK)
    fail_msg("%s", diag.text);
  return p;
}

static void close_run(struct ss_profile *p)
{
  ss_profile_close(p);
  ss_bundle_free(bundle);
  assert_int_equal(tmpdir_remove(folder), 0);
}

static void written(struct ss_profile *p, ss_write_fn *write, const char *name,
                    struct ss_buf *text)
{
  struct ss_writer w = {"summary", name, true, write};
  struct ss_diag diag = {0};

  if (ss_bundle_write(bundle, &w, p, NULL, &diag) != SS_ERR_OK)
    fail_msg("%s", diag.text);
  assert_int_equal(ss_file_read_all(ss_bundle_dir(bundle)->fd, name, 1 << 20, text, NULL),
                   SS_ERR_OK);
}

static void check_golden(const char *name, const struct ss_buf *text)
{
  struct ss_buf want = {0};
  char path[128];

  snprintf(path, sizeof path, "tests/fixtures/summary/%s", name);
  if (getenv("SS_UPDATE_GOLDEN")) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fwrite(text->data, 1, text->len, f);
    fclose(f);
  }
  if (ss_file_read_all(AT_FDCWD, path, 1 << 20, &want, NULL) != SS_ERR_OK)
    fail_msg("no %s (run from the top folder)", path);
  assert_string_equal(ss_buf_str(text), ss_buf_str(&want));
  ss_buf_release(&want);
}

static void test_markdown(void **state)
{
  struct ss_profile *p = open_run(rows_of_run, 0);
  struct ss_buf text = {0};
  (void)state;
  written(p, ss_write_summary_md, "summary.md", &text);
  check_golden("summary.md", &text);
  ss_buf_release(&text);
  close_run(p);
}

static void test_tsv(void **state)
{
  struct ss_profile *p = open_run(rows_of_run, 0);
  struct ss_buf text = {0};
  (void)state;
  written(p, ss_write_tests_tsv, "tests.tsv", &text);
  check_golden("tests.tsv", &text);
  ss_buf_release(&text);
  close_run(p);
}

static const cJSON *at(const cJSON *tree, const char *path)
{
  char key[64];
  while (tree && *path) {
    size_t n = strcspn(path, ".");
    snprintf(key, sizeof key, "%.*s", (int)n, path);
    tree = cJSON_IsArray(tree) ? cJSON_GetArrayItem(tree, (int)strtol(key, NULL, 10))
                               : cJSON_GetObjectItemCaseSensitive(tree, key);
    path += n + (path[n] == '.');
  }
  return tree;
}

static void check_number(const cJSON *tree, const char *path, double want)
{
  const cJSON *item = at(tree, path);
  if (!cJSON_IsNumber(item))
    fail_msg("no number %s", path);
  if (item->valuedouble < want - 1e-6 || item->valuedouble > want + 1e-6)
    fail_msg("%s is %g, not %g", path, item->valuedouble, want);
}

static void test_json(void **state)
{
  static const char *const keys[] = {"schema",
                                     "version",
                                     "engine.name",
                                     "engine.reason",
                                     "engine.kernel_method",
                                     "finished",
                                     "blocked",
                                     "exit.code",
                                     "exit.command_code",
                                     "exit.signal",
                                     "exit.timed_out",
                                     "exit.ended_by",
                                     "exit.limit_s",
                                     "exit.limits.0.source",
                                     "exit.limits.0.s",
                                     "time.total.wall_s",
                                     "time.rusage.user_s",
                                     "time.rusage.minor_faults",
                                     "tests.0.id",
                                     "tests.0.phase",
                                     "tests.0.start_s",
                                     "tests.0.samples",
                                     "tests.0.top",
                                     "threads.0.pid",
                                     "threads.0.tid",
                                     "threads.0.name",
                                     "threads.0.role",
                                     "operators.0.name",
                                     "verdict.name",
                                     "verdict.text",
                                     "verdict.evidence",
                                     "causes",
                                     "dumps",
                                     "quality.samples",
                                     "quality.lost",
                                     "quality.complete_pct",
                                     "quality.verified_pct",
                                     "quality.own_cpu_s",
                                     "quality.merged"};
  struct ss_profile *p = open_run(rows_of_run, 0);
  struct ss_buf text = {0};
  (void)state;
  written(p, ss_write_summary_json, "summary.json", &text);
  cJSON *tree = cJSON_Parse(ss_buf_str(&text));
  assert_non_null(tree);
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
    if (!at(tree, keys[i]))
      fail_msg("no %s", keys[i]);
  check_number(tree, "time.total.wall_s", 20);
  check_number(tree, "time.total.user_s", 16);
  check_number(tree, "time.total.kernel_s", 4);
  check_number(tree, "time.total.fault_s", 3); /* 300 of 400 kernel samples */
  check_number(tree, "time.total.lock_s", 0.5);
  check_number(tree, "time.total.sleep_s", 20);
  check_number(tree, "tests.1.wall_s", 18);
  check_number(tree, "tests.1.start_s", 2);
  check_number(tree, "tests.1.samples", 1950);
  check_number(tree, "operators.0.self_s", 9);
  check_number(tree, "operators.0.total_s", 9);
  check_number(tree, "quality.samples", 2060);
  check_number(tree, "quality.complete_pct", 100);
  assert_string_equal(cJSON_GetStringValue(at(tree, "tests.1.outcome")), "passed");
  assert_string_equal(cJSON_GetStringValue(at(tree, "tests.3.outcome")), "passed");
  assert_null(at(tree, "tests.3.wall_s"));
  assert_null(at(tree, "quality.stops")); /* not known: absent */
  assert_null(at(tree, "quality.rejected"));
  assert_true(cJSON_IsNull(at(tree, "verdict.name")));
  cJSON_Delete(tree);
  ss_buf_release(&text);
  close_run(p);
}

/* A function on the stack twice counts once in its total. */
static void test_recursion(void **state)
{
  struct ss_profile *p = open_run(rows_of_run, 0);
  struct ss_figures f;
  bool seen = false;
  (void)state;
  assert_int_equal(ss_figures_init(&f, p, true, NULL), SS_ERR_OK);
  for (size_t i = 0; i < f.n_functions; i++) {
    size_t len;
    if (strncmp(ss_texts_str(&f.texts, f.functions[i].text, &len), "step ", 5) != 0)
      continue;
    seen = true;
    assert_int_equal(f.functions[i].total_ns, 10 * S);
    assert_int_equal(f.functions[i].self_ns, 1 * S);
  }
  assert_true(seen);
  ss_figures_release(&f);
  close_run(p);
}

static void failed_run(struct ss_store *s)
{
  rows_of_run(s);
  ss_store_meta(s, SS_META_LOG_SHORT,
                "[\"FAILED tests/test_a.py::test_grad - assert 1 == 2\"]");
  ss_store_meta(s, SS_META_LOG_TRACEBACK, "[\"E   assert 1 == 2\",\"``` <b>\"]");
}

static void check_first_line(void (*more)(struct ss_store *s), int code, const char *want)
{
  struct ss_profile *p = open_run(more, code);
  struct ss_buf text = {0};
  written(p, ss_write_summary_md, "summary.md", &text);
  assert_non_null(text.data);
  text.data[strcspn(text.data, "\n")] = '\0';
  assert_string_equal(text.data, want);
  ss_buf_release(&text);
  close_run(p);
}

static void killed(struct ss_store *s)
{
  ss_store_meta(s, SS_META_ENDED_BY, "signal");
  ss_store_meta_u64(s, SS_META_SIGNAL, 9);
}

static void timed_out(struct ss_store *s)
{
  rows_of_run(s);
  ss_store_meta(s, SS_META_ENDED_BY, "timeout1");
}

static void hung(struct ss_store *s)
{
  uint32_t process = process_row(s, 4121, "pytest", NULL);
  uint32_t thread = thread_row(s, process, 4121, "MainThread", "main");
  uint32_t call =
      phase_row(s, process, "test_a.py::test_wait", "call", T0 + S, T0 + 20 * S);

  ss_store_time(s, thread, call, SS_STATE_USER, 2 * S);
  ss_store_time(s, thread, call, SS_STATE_LOCK, 17 * S);
  ss_store_meta(s, SS_META_ENDED_BY, "pytest_timeout");
  ss_store_meta(
      s, SS_META_DUMPS,
      "[{\"file\":\"dumps/001.txt\",\"at_s\":1.5,\"why\":\"a\"},"
      "{\"file\":\"dumps/002.txt\",\"at_s\":2,\"why\":\"b\"},"
      "{\"file\":\"dumps/003.txt\",\"at_s\":3,\"why\":\"c\"},"
      "{\"file\":\"dumps/004.txt\",\"at_s\":4,\"why\":\"d\"},"
      "{\"file\":\"dumps/005.txt\",\"at_s\":5,\"why\":\"e\"},"
      "{\"file\":\"dumps/006.txt\",\"at_s\":6,\"why\":\"f\"},"
      "{\"file\":\"dumps/007.txt\",\"at_s\":7,\"why\":\"g\"},{\"at_s\":\"x\"}]");
}

static void refused(struct ss_store *s)
{
  ss_store_meta(s, SS_META_BLOCKED, "perf_event_open is refused here (seccomp)");
}

static void test_first_lines(void **state)
{
  (void)state;
  check_first_line(rows_of_run, 0,
                   "# Passed after 20.0 s, limit 20:00 (timeout(1), pid 7)");
  check_first_line(failed_run, 1,
                   "# Failed after 20.0 s with exit 1, limit 20:00 (timeout(1), pid 7)");
  check_first_line(NULL, 5,
                   "# Failed after 20.0 s: no tests were collected (exit 5), limit 20:00 "
                   "(timeout(1), pid 7)");
  check_first_line(killed, 137,
                   "# Blocked: ended by signal 9 (SIGKILL) after 20.0 s, limit 20:00 "
                   "(timeout(1), pid 7)");
  check_first_line(
      timed_out, 143,
      "# Blocked: ended by timeout(1) after 20.0 s in tests/test_a.py::test_grad "
      "(call), limit 20:00 (timeout(1), pid 7)");
  check_first_line(hung, 1,
                   "# Hung: ended by pytest-timeout after 20.0 s in test_a.py::test_wait "
                   "(call), limit 20:00 (timeout(1), pid 7)");
  check_first_line(refused, 0, "# Blocked: perf_event_open is refused here (seccomp)");
}

static void test_dumps_are_listed(void **state)
{
  struct ss_profile *p = open_run(hung, 1);
  struct ss_buf text = {0};
  (void)state;
  written(p, ss_write_summary_md, "summary.md", &text);
  assert_non_null(strstr(ss_buf_str(&text), "* dumps/003.txt at 3.00 s: c\n"
                                            "* and 2 between them\n"
                                            "* dumps/006.txt at 6.00 s: f\n"
                                            "* dumps/007.txt at 7.00 s: g\n\n"));
  ss_buf_release(&text);
  close_run(p);
}

static void test_failure_is_shown_inert(void **state)
{
  struct ss_profile *p = open_run(failed_run, 1);
  struct ss_buf text = {0};
  (void)state;
  written(p, ss_write_summary_md, "summary.md", &text);
  assert_non_null(
      strstr(text.data, "\n    FAILED tests/test_a.py::test_grad - assert 1 == 2\n"));
  assert_non_null(strstr(text.data, "\n    ``` <b>\n"));
  assert_null(strstr(text.data, "\n```"));
  ss_buf_release(&text);
  close_run(p);
}

/* Hundreds of short tests share one row; names that would break a table do not. */
static void many_tests(struct ss_store *s)
{
  uint32_t process = process_row(s, 1, "pytest", "gw0");
  for (int i = 0; i < 300; i++) {
    char name[400];
    snprintf(name, sizeof name, "t.py::test[%0*d|<b>`\t\n=x]", i == 0 ? 300 : 1, i);
    phase_row(s, process, name, "call", T0, T0 + (i == 0 ? 20 * S : S / 1000));
  }
}

static void test_many_and_hostile_tests(void **state)
{
  struct ss_profile *p = open_run(many_tests, 0);
  struct ss_buf text = {0};
  size_t lines = 0, rows = 0;
  (void)state;
  written(p, ss_write_summary_md, "summary.md", &text);
  for (size_t i = 0; i < text.len; i++)
    lines += text.data[i] == '\n';
  assert_in_range(lines, 1, 150);
  assert_non_null(strstr(text.data, "299 more phases, each shorter"));
  assert_null(strstr(text.data, "<b>"));
  assert_non_null(strstr(text.data, "t.py::test\\[000"));
  assert_non_null(strstr(text.data, "00...00"));
  written(p, ss_write_tests_tsv, "tests.tsv", &text);
  for (char *line = text.data; *line; rows++) {
    size_t tabs = 0, len = strcspn(line, "\n");
    for (size_t i = 0; i < len; i++)
      tabs += line[i] == '\t';
    assert_int_equal(tabs, 11);
    line += len + 1;
  }
  assert_int_equal(rows, 303); /* with the header and two that only the log knows */
  ss_buf_release(&text);
  close_run(p);
}

/* Where nothing was sampled, no time by state is claimed. */
static void test_empty_run(void **state)
{
  struct ss_profile *p = open_run(NULL, 0);
  struct ss_buf text = {0};
  (void)state;
  written(p, ss_write_summary_md, "summary.md", &text);
  assert_non_null(strstr(text.data, "CPU 20.2 s on 2 CPUs (1.01 busy)."));
  written(p, ss_write_summary_json, "summary.json", &text);
  cJSON *tree = cJSON_Parse(ss_buf_str(&text));
  check_number(tree, "time.total.wall_s", 20);
  assert_null(at(tree, "time.total.user_s"));
  cJSON_Delete(tree);
  written(p, ss_write_tests_tsv, "tests.tsv", &text);
  FILE *null = fopen("/dev/null", "w");
  ss_tables_print(p, &(struct ss_filter){0}, null);
  fclose(null);
  ss_buf_release(&text);
  close_run(p);
}

static void check_text(void (*put)(struct ss_buf *out, double x), double x,
                       const char *want)
{
  struct ss_buf out = {0};
  put(&out, x);
  assert_string_equal(ss_buf_str(&out), want);
  ss_buf_release(&out);
}

static void put_share(struct ss_buf *out, double x)
{
  ss_put_share(out, (uint64_t)(x * 1e6), 1000000, 2000);
}

static void put_count(struct ss_buf *out, double x)
{
  ss_put_count(out, (uint64_t)x);
}

static void test_numbers(void **state)
{
  (void)state;
  check_text(ss_put_significant, 10941, "10941");
  check_text(ss_put_significant, 12.34, "12.3");
  check_text(ss_put_significant, 0.01234, "0.012");
  check_text(ss_put_duration, 4.321, "4.32 s");
  check_text(ss_put_duration, 844.9, "14:04.9");
  check_text(ss_put_duration, 1200, "20:00");
  check_text(ss_put_duration, 3725, "1:02:05");
  check_text(put_count, 999, "999");
  check_text(put_count, 169000, "169 k");
  check_text(put_count, 1090000, "1.09 M");
  check_text(put_share, 0.53, "53 +- 1 %");
  check_text(put_share, 0.01, "1.0 +- 0.2 %");
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_markdown),
                                     cmocka_unit_test(test_tsv),
                                     cmocka_unit_test(test_json),
                                     cmocka_unit_test(test_recursion),
                                     cmocka_unit_test(test_first_lines),
                                     cmocka_unit_test(test_dumps_are_listed),
                                     cmocka_unit_test(test_failure_is_shown_inert),
                                     cmocka_unit_test(test_many_and_hostile_tests),
                                     cmocka_unit_test(test_empty_run),
                                     cmocka_unit_test(test_numbers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
