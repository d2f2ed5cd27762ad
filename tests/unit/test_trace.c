/*
 * profiler.json: slices, operators, holes, samples and the size limit. What all
 * readers ask of the file as a whole is checked by tests/lib/check_trace.py.
 */
#include "unit.h"

#include "../../src/output/trace_priv.h"
#include "written.h"

#include "stacksample/limits.h"

/* Two neighbours that share f, a hole, f again; then a wait. */
static void fill_small(struct fx *fx)
{
  fx_metas(fx, 1);
  uint32_t process = fx_process(fx, 7, "pytest");
  uint32_t thread = fx_thread(fx, process, 8, "MainThread", "main");
  uint32_t phase = fx_phase(fx, process, "tests/test_a.py::test_a", "call", FX_START,
                            FX_START + 9 * FX_PERIOD);
  uint32_t f = fx_push(fx, SS_ID_NONE, fx_py(fx, "f", FX_CWD "/a.py", 3), 4);
  uint32_t g = fx_push(fx, f, fx_native(fx, "g(int)", fx->libc), 0);
  uint32_t h = fx_push(fx, f, fx_other(fx, SS_FRAME_KERNEL, "h"), 0);
  uint64_t t = FX_START;
  fx_sample(fx, t + FX_PERIOD, FX_PERIOD, thread, g, phase, SS_STATE_USER);
  fx_sample(fx, t + 2 * FX_PERIOD + 100, FX_PERIOD, thread, h, phase, SS_STATE_KERNEL);
  fx_sample(fx, t + 6 * FX_PERIOD, FX_PERIOD, thread, f, phase, SS_STATE_USER);
  fx_sample(fx, t + 8 * FX_PERIOD, 2 * FX_PERIOD, thread, f, phase, SS_STATE_LOCK);
}

static void fill_operators(struct fx *fx)
{
  fx_metas(fx, 1);
  uint32_t process = fx_process(fx, 7, "pytest");
  uint32_t thread = fx_thread(fx, process, 7, "MainThread", "main");
  uint32_t stack = fx_push(fx, SS_ID_NONE, fx_py(fx, "f", FX_CWD "/a.py", 3), 4);
  stack = fx_operator(fx, stack, "mm");
  stack = fx_operator(fx, stack, "add_Tensor");
  fx_sample(fx, FX_START + FX_PERIOD, FX_PERIOD, thread, stack, SS_ID_NONE,
            SS_STATE_USER);
}

static void fill_deep(struct fx *fx)
{
  fx_metas(fx, 1);
  uint32_t process = fx_process(fx, 7, "pytest");
  uint32_t thread = fx_thread(fx, process, 7, "MainThread", "main");
  uint32_t stack = SS_ID_NONE;
  for (int i = 0; i < 1500; i++) {
    char name[32];
    snprintf(name, sizeof name, "f%d", i);
    stack = fx_push(fx, stack, fx_py(fx, name, FX_CWD "/a.py", 3), 4);
  }
  fx_sample(fx, FX_START + FX_PERIOD, FX_PERIOD, thread, stack, SS_ID_NONE,
            SS_STATE_LOCK);
}

static void fill_run(struct fx *fx)
{
  fx_run(fx, 20);
}

static char *trace_of(void (*fill)(struct fx *fx), const struct ss_write_options *options)
{
  struct written w;
  written_open(&w, fill);
  char *text = written_text(&w, ss_write_trace, options, NULL);
  written_close(&w);
  return text;
}

static void merges_by_common_prefix(void **state)
{
  (void)state;
  struct ss_write_options options = {.trace_slices_only = true};
  char *text = trace_of(fill_small, &options);
  static const char *const slices[] = {
      "\"cat\":\"user_annotation\",\"name\":\"tests/test_a.py::test_a (call)\",\"pid\":7,"
      "\"tid\":4194311,\"ts\":0,\"dur\":90000}",
      "\"cat\":\"python_function\",\"name\":\"f (a.py:3)\",\"pid\":7,\"tid\":8,\"ts\":0,"
      "\"dur\":20000}",
      "\"cat\":\"native\",\"name\":\"g (libc.so.6)\",\"pid\":7,\"tid\":8,\"ts\":0,"
      "\"dur\":10000}",
      "\"cat\":\"os_kernel\",\"name\":\"h\",\"pid\":7,\"tid\":8,\"ts\":10000,\"dur\":"
      "10000}",
      "\"cat\":\"python_function\",\"name\":\"f (a.py:3)\",\"pid\":7,\"tid\":8,"
      "\"ts\":50000,\"dur\":30000}",
      "\"cat\":\"wait\",\"name\":\"[lock]\",\"pid\":7,\"tid\":8,\"ts\":60000,"
      "\"dur\":20000}",
  };
  const char *last = text;
  for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
    const char *at = strstr(text, slices[i]);
    assert_non_null(at);
    assert_true(at > last); /* parents first */
    last = at;
  }
  assert_int_equal(count_of(text, "\"ph\":\"X\""), sizeof slices / sizeof *slices);
  assert_int_equal(count_of(text, "\"ph\":\"P\""), 0);
  free(text);
}

static void puts_an_operator_above_its_function_once(void **state)
{
  (void)state;
  struct ss_write_options options = {.trace_slices_only = true};
  char *text = trace_of(fill_operators, &options);
  const char *mm = strstr(text, "\"cat\":\"cpu_op\",\"name\":\"aten::mm\"");
  assert_non_null(mm);
  assert_true(mm < strstr(text, "at::_ops::mm::call"));
  assert_int_equal(count_of(text, "\"cat\":\"cpu_op\""), 2);
  free(text);
}

static void limits_the_depth(void **state)
{
  (void)state;
  char *text = trace_of(fill_deep, NULL);
  assert_int_equal(count_of(text, "\"ph\":\"X\""), SS_TRACE_DEPTH_MAX - 1);
  assert_non_null(strstr(text, "(... 1103 frames ...)"));
  assert_non_null(strstr(text, "\"f1499 (a.py:3)\""));
  assert_non_null(strstr(text, "\"f0 (a.py:3)\""));
  assert_int_equal(count_of(text, "\"[lock]\""), 2); /* a slice, a V8 node */
  free(text);
}

/* A hole and the end get a "(root)" sample each; no sample is stretched. */
static void writes_v8_samples(void **state)
{
  (void)state;
  char *text = trace_of(fill_small, NULL);
  assert_non_null(strstr(text, "\"timeDeltas\":[0,10000,10000,30000,10000,20000],"
                               "\"endTime\":80000"));
  assert_non_null(strstr(text, "\"samples\":[3,4,1,2,5,1]"));
  assert_int_equal(count_of(text, "\"startTime\""), 1);
  free(text);
}

static void stays_within_its_limit(void **state)
{
  (void)state;
  static const uint64_t limits[] = {100000, 300000, 1000000, 2000000};
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    struct ss_write_options options = {.trace_bytes = limits[i]};
    char *text = trace_of(fill_run, &options);
    assert_in_range(strlen(text), 1, limits[i]);
    assert_non_null(strstr(text, "\"dropped\": \""));
    assert_null(strstr(text, "\"slices_dropped\": 0,"));
    assert_int_equal(count_of(text, "\"cat\":\"user_annotation\""), 40);
    free(text);
  }
  char *whole = trace_of(fill_run, NULL);
  assert_non_null(strstr(whole, "\"slices_dropped\": 0,"));
  assert_null(strstr(whole, "\"dropped\""));
  free(whole);
}

/* Perfetto's reader does not undo \\u escapes; a name may look like one. */
static void leaves_angle_brackets(void **state)
{
  (void)state;
  static const struct {
    const char *name, *json;
  } cases[] = {
      {"a<b>", "a<b>"}, {"\\u003c", "\\\\u003c"}, {"\\<\"", "\\\\<\\\""}, {"", ""}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ss_buf out = {0};
    trace_escape(&out, cases[i].name, strlen(cases[i].name));
    assert_string_equal(ss_buf_str(&out), cases[i].json);
    ss_buf_release(&out);
  }
}

static void filters_samples(void **state)
{
  (void)state;
  struct ss_write_options options = {
      .filter = {.test = "second_order", .thread = "main"}};
  char *text = trace_of(fill_run, &options);
  assert_non_null(strstr(text, "test_second_order (tests"));
  assert_null(strstr(text, "test_stability"));
  assert_null(strstr(text, "clone3"));
  free(text);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(merges_by_common_prefix),
      cmocka_unit_test(puts_an_operator_above_its_function_once),
      cmocka_unit_test(limits_the_depth),
      cmocka_unit_test(writes_v8_samples),
      cmocka_unit_test(stays_within_its_limit),
      cmocka_unit_test(leaves_angle_brackets),
      cmocka_unit_test(filters_samples),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
