/* The formats on request: speedscope's JSON and pprof's protobuf, as far as a
 * unit test reaches; tests/e2e reads both with readers of their own. */
#include "unit.h"

#include "../../src/output/output_priv.h"
#include "written.h"

/* Weights that only round right when the rest is carried on. */
static void fill_small(struct fx *fx)
{
  fx_metas(fx, 1);
  uint32_t process = fx_process(fx, 7, "pytest");
  uint32_t thread = fx_thread(fx, process, 7, "MainThread", "main");
  uint32_t phase = fx_phase(fx, process, "a.py::test_a", "call", FX_START, 0);
  uint32_t f = fx_push(fx, SS_ID_NONE, fx_py(fx, "f", FX_CWD "/a.py", 3), 4);
  uint32_t g = fx_push(fx, f, fx_native(fx, "g(int)", fx->libc), 0);
  fx_sample(fx, FX_START + 1, 1500, thread, f, phase, SS_STATE_USER);
  fx_sample(fx, FX_START + 2, 1000, thread, f, phase, SS_STATE_KERNEL);
  fx_sample(fx, FX_START + 3, 2500, thread, g, phase, SS_STATE_USER);
  fx_sample(fx, FX_START + 4, 3000, thread, g, phase, SS_STATE_LOCK);
}

static void joins_equal_neighbours_and_carries_the_rest(void **state)
{
  (void)state;
  struct written w;
  written_open(&w, fill_small);
  char *text = written_text(&w, ss_write_speedscope, NULL, NULL);
  assert_non_null(strstr(text,
                         "\"name\":\"MainThread 7\",\"startValue\":0,\"endValue\":8,"
                         "\"samples\":[[0],[0,1],[0,1,2]],\n\"weights\":[2,3,3]"));
  assert_non_null(strstr(text,
                         "{\"name\":\"f (a.py:3)\"},\n{\"name\":\"g (libc.so.6)\"},\n"
                         "{\"name\":\"[lock]\"}"));
  assert_non_null(strstr(text, "\"name\":\"all threads, by test\""));
  free(text);
  written_close(&w);
}

static void writes_gzip(void **state)
{
  (void)state;
  struct written w;
  size_t len;
  written_open(&w, fx_run_hostile);
  char *bytes = written_text(&w, ss_write_pprof, NULL, &len);
  assert_true(len > 100 && (unsigned char)bytes[0] == 0x1f &&
              (unsigned char)bytes[1] == 0x8b);
  free(bytes);
  bytes = written_text(&w, ss_write_speedscope, NULL, NULL);
  assert_null(strstr(bytes, "</script"));
  free(bytes);
  written_close(&w);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(joins_equal_neighbours_and_carries_the_rest),
      cmocka_unit_test(writes_gzip),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
