/* Folded stacks: every line as every reader takes it, and no time lost. */
#include "unit.h"

#include "../../src/output/output_priv.h"
#include "written.h"

static void fill_run(struct fx *fx)
{
  fx_run(fx, 20);
}

/* Two lines of one function, two rounding halves, a wait, and no stack. */
static void fill_small(struct fx *fx)
{
  fx_metas(fx, 1);
  uint32_t process = fx_process(fx, 7, "pytest");
  uint32_t thread = fx_thread(fx, process, 7, "MainThread", "main");
  uint32_t phase =
      fx_phase(fx, process, "tests/test_a.py::test[x;y]", "call", FX_START, 0);
  uint32_t frame = fx_py(fx, "f", FX_CWD "/a.py", 3);
  uint32_t one = fx_push(fx, SS_ID_NONE, frame, 4),
           two = fx_push(fx, SS_ID_NONE, frame, 5);
  uint32_t kernel = fx_push(fx, one, fx_other(fx, SS_FRAME_KERNEL, "do_syscall_64"), 0);
  fx_sample(fx, FX_START + 1, 600, thread, one, phase, SS_STATE_USER);
  fx_sample(fx, FX_START + 2, 600, thread, two, phase, SS_STATE_SPIN);
  fx_sample(fx, FX_START + 3, 5000, thread, kernel, phase, SS_STATE_KERNEL);
  uint32_t none =
      fx_push(fx, SS_ID_NONE, fx_other(fx, SS_FRAME_SYNTHETIC, "[no stack]"), 0);
  fx_sample(fx, FX_START + 4, 400, thread, none, phase, SS_STATE_KERNEL);
  fx_sample(fx, FX_START + 5, 7000, thread, one, SS_ID_NONE, SS_STATE_LOCK);
  fx_sample(fx, FX_START + 6, 9000, thread, none, SS_ID_NONE, SS_STATE_WAIT);
}

static void hostile_fill(struct fx *fx)
{
  fx_run_hostile(fx);
}

static void check_text(struct written *w, ss_write_fn *write, const char *expected)
{
  char *text = written_text(w, write, NULL, NULL);
  assert_string_equal(text == NULL ? "" : text, expected);
  free(text);
}

static void rounds_once_a_stack_and_keeps_its_rules(void **state)
{
  (void)state;
  struct written w;
  written_open(&w, fill_small);
  check_text(&w, ss_write_folded,
             "MainThread;f (a.py:3) 1\n"
             "MainThread;f (a.py:3);do_syscall_64_[k] 5\n");
  check_text(&w, ss_write_folded_tests,
             "tests/test_a.py::test[x:y] (call);f (a.py:3) 1\n"
             "tests/test_a.py::test[x:y] (call);f (a.py:3);do_syscall_64_[k] 5\n");
  check_text(&w, ss_write_folded_wait,
             "MainThread;[no stack];[wait] 9\n"
             "MainThread;f (a.py:3);[lock] 7\n");
  written_close(&w);
}

static void counts_samples_on_request(void **state)
{
  (void)state;
  struct written w;
  written_open(&w, fill_small);
  struct ss_write_options options = {.count_samples = true};
  char *text = written_text(&w, ss_write_folded, &options, NULL);
  assert_string_equal(text, "MainThread;[no stack] 1\n"
                            "MainThread;f (a.py:3) 2\n"
                            "MainThread;f (a.py:3);do_syscall_64_[k] 1\n");
  free(text);
  written_close(&w);
}

/* What flamegraph.pl, speedscope, Firefox and Perfetto all ask of a line. */
static void check_line(const char *line, size_t len)
{
  const char *count = memrchr(line, ' ', len);
  assert_non_null(count);
  assert_true(count + 1 < line + len && count[1] >= '1' && count[1] <= '9');
  for (const char *s = count + 1; s < line + len; s++)
    assert_in_range(*s, '0', '9');
  assert_true(count > line && count[-1] != ' ' && line[0] != ';' && line[0] != '#');
  assert_non_null(memchr(line, ';', (size_t)(count - line)));
  assert_null(memmem(line, (size_t)(count - line), ";;", 2));
  const char *leaf = count;
  while (leaf[-1] >= '0' && leaf[-1] <= '9')
    leaf--;
  assert_true(leaf == count || leaf[-1] != ' '); /* else a differential pair */
}

static uint64_t sum_of_lines(const char *text)
{
  uint64_t sum = 0;
  while (text != NULL && *text != '\0') {
    const char *end = strchr(text, '\n');
    assert_non_null(end);
    check_line(text, (size_t)(end - text));
    sum += strtoull((const char *)memrchr(text, ' ', (size_t)(end - text)) + 1, NULL, 10);
    text = end + 1;
  }
  return sum;
}

static void loses_no_time(void **state)
{
  (void)state;
  struct written w;
  uint64_t running = 0, waiting = 0;
  written_open(&w, fill_run);
  for (size_t i = 0; i < w.profile->n_totals; i++) {
    const struct ss_total *t = &w.profile->totals[i];
    *(ss_state_running((enum ss_state)t->state) ? &running : &waiting) += t->weight_ns;
  }
  char *text = written_text(&w, ss_write_folded, NULL, NULL);
  char *tests = written_text(&w, ss_write_folded_tests, NULL, NULL);
  char *waits = written_text(&w, ss_write_folded_wait, NULL, NULL);
  assert_int_equal(sum_of_lines(text), running / 1000);
  assert_int_equal(sum_of_lines(tests), running / 1000);
  assert_int_equal(sum_of_lines(waits), waiting / 1000);
  assert_non_null(strstr(text, "gw0;MainThread;_start (python3.11);"));
  assert_non_null(strstr(waits, ";[sleep] "));
  free(text);
  free(tests);
  free(waits);
  written_close(&w);
}

static void hostile_names_stay_one_line(void **state)
{
  (void)state;
  struct written w;
  written_open(&w, hostile_fill);
  char *text = written_text(&w, ss_write_folded, NULL, NULL);
  char *waits = written_text(&w, ss_write_folded_wait, NULL, NULL);
  assert_true(sum_of_lines(text) + sum_of_lines(waits) == 11 * FX_PERIOD / 1000);
  free(text);
  free(waits);
  written_close(&w);
}

static void filters_totals(void **state)
{
  (void)state;
  struct written w;
  written_open(&w, fill_run);
  struct ss_filter filter = {
      .test = "test_stability", .thread = "main", .state = "kernel"};
  assert_int_equal(ss_profile_filter(w.profile, &filter, NULL), SS_ERR_OK);
  char *text = written_text(&w, ss_write_folded, NULL, NULL);
  assert_non_null(strstr(text, "test_stability (tests"));
  assert_null(strstr(text, "test_second_order"));
  assert_null(strstr(text, "clone3"));
  assert_null(strstr(text, "vectorized_loop"));
  free(text);
  written_close(&w);
}

static void filters_time(void **state)
{
  (void)state;
  struct written w;
  uint64_t samples = 0;
  written_open(&w, fill_run);
  /* The ticks of one second, of three threads in two processes. */
  struct ss_filter filter = {.from_ns = 1000000000, .to_ns = 2000000000};
  assert_int_equal(ss_profile_filter(w.profile, &filter, NULL), SS_ERR_OK);
  for (size_t i = 0; i < w.profile->n_totals; i++)
    samples += w.profile->totals[i].samples;
  assert_int_equal(samples, 100 * 3 * 2);
  written_close(&w);
}

static void refuses_a_filter_that_fits_nothing(void **state)
{
  (void)state;
  static const struct ss_filter filters[] = {
      {.test = "no such test"}, {.thread = "no such thread"}, {.state = "no such state"}};
  struct written w;
  written_open(&w, fill_small);
  for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
    struct ss_diag diag = {0};
    assert_int_not_equal(ss_profile_filter(w.profile, &filters[i], &diag), SS_ERR_OK);
    assert_non_null(strstr(diag.text, "no "));
  }
  written_close(&w);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rounds_once_a_stack_and_keeps_its_rules),
      cmocka_unit_test(counts_samples_on_request),
      cmocka_unit_test(loses_no_time),
      cmocka_unit_test(hostile_names_stay_one_line),
      cmocka_unit_test(filters_totals),
      cmocka_unit_test(filters_time),
      cmocka_unit_test(refuses_a_filter_that_fits_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
