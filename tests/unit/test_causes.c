/* Causes of slow runs: said where they are clear, with evidence, and not else. */
#include "store_rows.h"

#include "../../src/output/causes_priv.h"
#include "stacksample/meta.h"

#define S 1000000000ull
#define T0 (100 * S)

struct run {
  struct ss_store *store;
  struct ss_profile *profile;
  struct ss_figures figures;
  struct ss_causes causes;
  uint32_t process, threads;
};

static void start(struct run *r, void **state, uint64_t wall_s)
{
  const struct tmpdir *t = *state;
  *r = (struct run){0};
  assert_int_equal(ss_store_create(&r->store, &t->dir, "profile.db", NULL), SS_ERR_OK);
  struct ss_process_row process = {.pid = 1,
                                   .label = fixture_string(r->store, "pytest"),
                                   .command = SS_ID_NONE,
                                   .python = SS_ID_NONE,
                                   .worker = SS_ID_NONE,
                                   .start_ns = T0,
                                   .end_ns = T0 + wall_s * S};
  r->process = ss_store_process(r->store, &process);
  ss_store_meta_u64(r->store, SS_META_START_NS, T0);
  ss_store_meta_u64(r->store, SS_META_END_NS, T0 + wall_s * S);
  ss_store_meta_u64(r->store, SS_META_CPUS_ALLOWED, 4);
  ss_store_meta(r->store, SS_META_KERNEL_METHOD, "samples");
  ss_store_meta(r->store, SS_META_THP, "madvise");
}

static uint32_t thread(struct run *r)
{
  struct ss_thread_row row = {.process = r->process,
                              .tid = 1 + r->threads++,
                              .name = fixture_string(r->store, "MainThread"),
                              .role = fixture_string(r->store, "main"),
                              .start_ns = T0};
  return ss_store_thread(r->store, &row);
}

static uint32_t frame(struct run *r, uint32_t below, enum ss_frame_kind kind,
                      const char *name, const char *file, int line)
{
  struct ss_module_row module = {.path = fixture_string(r->store, file)};
  struct ss_frame_row row = {
      .kind = kind,
      .name = fixture_string(r->store, name),
      .file = kind == SS_FRAME_PYTHON ? fixture_string(r->store, file) : SS_ID_NONE,
      .first_line = kind == SS_FRAME_PYTHON ? 1 : 0,
      .module =
          kind == SS_FRAME_NATIVE ? ss_store_module(r->store, &module) : SS_ID_NONE};
  return ss_store_stack(r->store, below, ss_store_frame(r->store, &row), line);
}

/* Tenths of a second of a thread in a state, as samples and in the ledger. */
static void spend(struct run *r, uint32_t thread_id, uint32_t stack, enum ss_state state,
                  unsigned tenths)
{
  ss_store_time(r->store, thread_id, SS_ID_NONE, state, tenths * S / 10);
  for (unsigned i = 0; i < tenths * 10 && ss_state_running(state); i++) {
    struct ss_sample_row row = {.time_ns = T0 + i * S / 100,
                                .weight_ns = S / 100,
                                .thread = thread_id,
                                .stack = stack,
                                .phase = SS_ID_NONE,
                                .state = (uint8_t)state,
                                .end = SS_END_COMPLETE};
    ss_store_sample(r->store, &row);
  }
}

static void judge(struct run *r, void **state)
{
  const struct tmpdir *t = *state;
  assert_int_equal(ss_store_close(r->store, NULL), SS_ERR_OK);
  assert_int_equal(ss_profile_open(&r->profile, &t->dir, "profile.db", NULL), SS_ERR_OK);
  assert_int_equal(ss_figures_init(&r->figures, r->profile, true, NULL), SS_ERR_OK);
  assert_int_equal(ss_causes_find(&r->causes, &r->figures, NULL), SS_ERR_OK);
}

static void finish(struct run *r)
{
  ss_causes_release(&r->causes);
  ss_figures_release(&r->figures);
  ss_profile_close(r->profile);
}

static const struct ss_cause *cause(const struct run *r, const char *name)
{
  for (size_t i = 0; i < r->causes.count; i++)
    if (strcmp(r->causes.items[i].name, name) == 0)
      return &r->causes.items[i];
  return NULL;
}

static bool says(const cJSON *list, const char *part)
{
  const cJSON *item;
  cJSON_ArrayForEach(item, list)
  {
    if (strstr(cJSON_GetStringValue(item), part))
      return true;
  }
  return false;
}

static void page_faults_name_the_lines_that_allocate(void **state)
{
  struct run r;
  start(&r, state, 20);
  uint32_t t = thread(&r);
  uint32_t one = frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "run", "simulator.py", 412);
  uint32_t two = frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "run", "simulator.py", 500);
  uint32_t mul = frame(&r, one, SS_FRAME_NATIVE, "mul", "/x/libtorch_cpu.so", 0);
  spend(&r, t, mul, SS_STATE_USER, 40);
  spend(&r, t, frame(&r, mul, SS_FRAME_SYNTHETIC, "[kernel: page fault]", "", 0),
        SS_STATE_KERNEL, 40);
  spend(&r, t, frame(&r, two, SS_FRAME_SYNTHETIC, "[kernel: page fault]", "", 0),
        SS_STATE_KERNEL, 10);
  spend(&r, t, frame(&r, one, SS_FRAME_SYNTHETIC, "[kernel: munmap]", "", 0),
        SS_STATE_KERNEL, 10);
  ss_store_meta_u64(r.store, SS_META_RU_MINFLT, 2000000);
  judge(&r, state);
  const struct ss_cause *c = cause(&r, "page_fault_churn");
  assert_non_null(c);
  assert_string_equal(c->base, "cpu");
  assert_true(c->share_pct > 59 && c->share_pct < 61);
  assert_true(c->error_pct > 1.5 && c->error_pct < 1.6); /* sqrt(.6 * .4 / 1000) */
  assert_true(says(c->evidence, "2.00 M page faults, 100 k a second"));
  assert_true(says(c->evidence, "80.0 % of it in run (simulator.py:1), line 412"));
  assert_true(says(c->evidence, "20.0 % of it in run (simulator.py:1), line 500"));
  assert_true(says(c->attempts, "THP_MEM_ALLOC_ENABLE=1"));
  assert_true(says(c->attempts, "GLIBC_TUNABLES=glibc.malloc.mmap_threshold"));
  assert_ptr_equal(c, &r.causes.items[0]);
  finish(&r);
}

static void spinning_is_a_cause_in_openmp_only(void **state)
{
  static const char *const libraries[] = {"/usr/lib/libgomp.so.1", "/usr/lib/libmine.so"};
  for (int i = 0; i < 2; i++) {
    struct run r;
    start(&r, state, 20);
    uint32_t t = thread(&r), other = thread(&r);
    uint32_t work = frame(&r, SS_ID_NONE, SS_FRAME_NATIVE, "work", "/x/a.so", 0);
    uint32_t wait = frame(&r, SS_ID_NONE, SS_FRAME_NATIVE, "wait_end", libraries[i], 0);
    spend(&r, t, work, SS_STATE_USER, 50);
    spend(&r, t, wait, SS_STATE_SPIN, 10);
    spend(&r, other, wait, SS_STATE_SPIN, 40);
    judge(&r, state);
    const struct ss_cause *c = cause(&r, "openmp_spin");
    assert_int_equal(c != NULL, i == 0);
    if (c) {
      assert_true(c->share_pct > 49 && c->share_pct < 51);
      assert_true(says(c->evidence, "2 threads spin, most in wait_end (libgomp.so.1)"));
      assert_true(says(c->evidence, "shown by flamegraph.html#state=spin"));
      assert_true(says(c->attempts, "OMP_WAIT_POLICY=passive"));
    }
    finish(&r);
    tmpdir_entries(*state, true);
  }
}

static void python_and_gradcheck(void **state)
{
  struct run r;
  start(&r, state, 20);
  uint32_t t = thread(&r);
  uint32_t check = frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "_slow_gradcheck",
                         "/p/site-packages/torch/autograd/gradcheck.py", 7);
  uint32_t eval = frame(&r, check, SS_FRAME_NATIVE, "dict_get", "/bin/python3.11", 0);
  spend(&r, t, frame(&r, eval, SS_FRAME_NATIVE, "memcmp", "/lib/libc.so.6", 0),
        SS_STATE_USER, 60);
  spend(&r, t, frame(&r, eval, SS_FRAME_NATIVE, "mm", "/x/libtorch_cpu.so", 0),
        SS_STATE_USER, 40);
  judge(&r, state);
  assert_non_null(cause(&r, "python_bound"));
  assert_true(cause(&r, "python_bound")->share_pct < 61);
  assert_non_null(cause(&r, "gradcheck_slow_mode"));
  assert_true(cause(&r, "gradcheck_slow_mode")->share_pct > 99);
  assert_string_equal(r.causes.items[0].name, "gradcheck_slow_mode");
  assert_null(cause(&r, "one_thread_busy")); /* half of the time it was not */
  assert_non_null(strstr(ss_buf_str(&r.causes.dismissed), "Page-fault churn 0 %"));
  finish(&r);
}

static void imports_and_collection(void **state)
{
  struct run r;
  start(&r, state, 20);
  uint32_t t = thread(&r);
  struct ss_phase_row phase = {.process = r.process,
                               .test = fixture_string(r.store, "(collection)"),
                               .phase = fixture_string(r.store, ""),
                               .start_ns = T0,
                               .end_ns = T0 + 12 * S};
  ss_store_phase(r.store, &phase);
  phase.test = fixture_string(r.store, "t.py::test_x");
  phase.phase = fixture_string(r.store, "call");
  phase.start_ns = phase.end_ns;
  phase.end_ns += 8 * S;
  ss_store_phase(r.store, &phase);
  /* It gives tests to workers, and is never done. */
  struct ss_process_row other = {.pid = 2,
                                 .label = fixture_string(r.store, "pytest"),
                                 .command = SS_ID_NONE,
                                 .python = SS_ID_NONE,
                                 .worker = SS_ID_NONE,
                                 .start_ns = T0};
  phase = (struct ss_phase_row){.process = ss_store_process(r.store, &other),
                                .test = fixture_string(r.store, "(collection)"),
                                .phase = fixture_string(r.store, ""),
                                .start_ns = T0,
                                .end_ns = T0 + 20 * S};
  ss_store_phase(r.store, &phase);
  uint32_t pytest = frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "import_path",
                          "/x/site-packages/_pytest/pathlib.py", 5);
  uint32_t load = frame(&r, pytest, SS_FRAME_PYTHON, "_find_and_load",
                        "<frozen importlib._bootstrap>", 1);
  uint32_t own = frame(&r, load, SS_FRAME_PYTHON, "<module>", "/t/test_x.py", 3);
  uint32_t again = frame(&r, own, SS_FRAME_PYTHON, "_find_and_load",
                         "<frozen importlib._bootstrap>", 1);
  uint32_t torch = frame(&r, again, SS_FRAME_PYTHON, "<module>",
                         "/x/site-packages/torch/__init__.py", 8);
  uint32_t deep = frame(&r, torch, SS_FRAME_PYTHON, "_find_and_load",
                        "<frozen importlib._bootstrap>", 1);
  spend(&r, t, deep, SS_STATE_USER, 100);
  spend(&r, t, frame(&r, pytest, SS_FRAME_NATIVE, "mm", "/x/a.so", 0), SS_STATE_USER, 50);
  judge(&r, state);
  const struct ss_cause *c = cause(&r, "import_time");
  assert_non_null(c);
  assert_true(c->share_pct > 66 && c->share_pct < 67);
  assert_true(says(c->evidence, "100 % of it in <module> (/t/test_x.py:1), line 3"));
  c = cause(&r, "collection_time");
  assert_non_null(c);
  assert_true(c->share_pct > 59.9 && c->share_pct < 60.1);
  finish(&r);
}

static void one_busy_thread_on_four_cpus(void **state)
{
  struct run r;
  start(&r, state, 10);
  spend(&r, thread(&r), frame(&r, SS_ID_NONE, SS_FRAME_NATIVE, "f", "/x/a.so", 0),
        SS_STATE_USER, 95);
  judge(&r, state);
  const struct ss_cause *c = cause(&r, "one_thread_busy");
  assert_non_null(c);
  assert_string_equal(c->base, "wall");
  assert_true(c->share_pct > 94 && c->share_pct < 96);
  assert_null(cause(&r, "oversubscription"));
  finish(&r);
}

static void too_many_threads_only_where_ours_have_the_cpus(void **state)
{
  for (int theirs = 0; theirs < 2; theirs++) {
    struct run r;
    start(&r, state, 10);
    for (int i = 0; i < 8; i++) {
      uint32_t t = thread(&r);
      spend(&r, t, frame(&r, SS_ID_NONE, SS_FRAME_NATIVE, "f", "/x/a.so", 0),
            SS_STATE_USER, theirs ? 20 : 48);
      spend(&r, t, 0, SS_STATE_RUNNABLE, 50);
    }
    judge(&r, state);
    const struct ss_cause *c = cause(&r, "oversubscription");
    assert_int_equal(c != NULL, !theirs);
    if (c)
      assert_true(says(c->evidence, "7.84 threads wanted to run at a time, on 4 CPUs"));
    finish(&r);
    tmpdir_entries(*state, true);
  }
}

/* One look at a wait of so many tenths of a second. */
static void wait_for(struct run *r, uint32_t thread_id, uint32_t below,
                     enum ss_state state, const char *reason, unsigned tenths)
{
  struct ss_sample_row row = {.time_ns = T0,
                              .weight_ns = tenths * S / 10,
                              .thread = thread_id,
                              .stack = frame(r, below, SS_FRAME_SYNTHETIC, reason, "", 0),
                              .phase = SS_ID_NONE,
                              .state = (uint8_t)state,
                              .end = SS_END_COMPLETE};
  ss_store_time(r->store, thread_id, SS_ID_NONE, state, tenths * S / 10);
  ss_store_sample(r->store, &row);
}

static void a_wait_is_named_not_the_little_that_ran(void **state)
{
  struct run r;
  start(&r, state, 30);
  uint32_t main = thread(&r), pool = thread(&r);
  uint32_t test = frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "test_x", "/t/test_x.py", 9);
  uint32_t get =
      frame(&r, test, SS_FRAME_PYTHON, "Queue.get", "/usr/lib/python3.11/queue.py", 171);
  uint32_t wait = frame(&r, get, SS_FRAME_PYTHON, "Condition.wait",
                        "/usr/lib/python3.11/threading.py", 320);
  spend(&r, main, frame(&r, test, SS_FRAME_PYTHON, "parse", "/t/a.py", 3), SS_STATE_USER,
        12);
  wait_for(&r, main, wait, SS_STATE_LOCK, "[lock: Python lock]", 270);
  wait_for(&r, main, test, SS_STATE_LOCK, "[lock: Python lock]", 10);
  wait_for(&r, pool, test, SS_STATE_SLEEP, "[sleep]", 300);
  judge(&r, state);
  assert_int_equal(r.causes.count, 1); /* CPU time was a 25th part */
  const struct ss_cause *c = cause(&r, "thread_wait");
  assert_non_null(c);
  assert_string_equal(c->base, "wall");
  assert_true(c->share_pct > 89.9 && c->share_pct < 90.1);
  assert_true(c->ns == 27 * S);
  assert_non_null(strstr(ss_buf_str(&c->text), "most of it in test_x (/t/test_x.py:1), "
                                               "line 9"));
  assert_true(says(c->evidence, "shown by flamegraph.html#state=waiting"));
  assert_true(says(c->evidence, "27.0 s [lock: Python lock] in test_x (/t/test_x.py:1), "
                                "line 9, by Condition.wait (threading.py:1), line 320"));
  assert_non_null(strstr(ss_buf_str(&r.causes.no_waits), "locks 3.33 %"));
  finish(&r);
}

static void every_reason_has_its_cause(void **state)
{
  static const struct {
    enum ss_state state;
    const char *reason, *name;
  } cases[] = {{SS_STATE_GIL, "[gil: held by worker]", "gil_contention"},
               {SS_STATE_LOCK, "[lock: mutex]", "lock_contention"},
               {SS_STATE_IO, "[io: disk]", "disk_wait"},
               {SS_STATE_IO, "[io: network]", "network_wait"},
               {SS_STATE_IO, "[io: pipe]", "pipe_wait"},
               {SS_STATE_IO, "[io: terminal]", "device_wait"},
               {SS_STATE_CHILD, "[child]", "child_wait"},
               {SS_STATE_SLEEP, "[sleep]", "sleep"},
               {SS_STATE_WAIT, "[wait: condition]", "thread_wait"},
               {SS_STATE_RUNNABLE, "[runnable: throttled]", "cpu_throttled"},
               {SS_STATE_RUNNABLE, "[runnable]", "cpu_starved"},
               {SS_STATE_WAIT, "[wait: epoll]", "poll_wait"},
               {SS_STATE_WAIT, "[wait: semop]", "other_wait"}};

  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
    struct run r;
    start(&r, state, 10);
    wait_for(&r, thread(&r), SS_ID_NONE, cases[i].state, cases[i].reason, 90);
    judge(&r, state);
    assert_int_equal(r.causes.count, 1);
    assert_string_equal(r.causes.items[0].name, cases[i].name);
    finish(&r);
    tmpdir_entries(*state, true);
  }
}

static void a_few_samples_prove_nothing(void **state)
{
  struct run r;
  start(&r, state, 1);
  spend(&r, thread(&r), frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "f", "a.py", 1),
        SS_STATE_USER, 9);
  judge(&r, state);
  assert_int_equal(r.causes.count, 0);
  finish(&r);
}

static void the_largest_is_one_line(void **state)
{
  struct run r;
  struct ss_buf line = {0}, attempt = {0};
  start(&r, state, 10);
  spend(&r, thread(&r), frame(&r, SS_ID_NONE, SS_FRAME_PYTHON, "f", "a.py", 1),
        SS_STATE_USER, 40);
  judge(&r, state);
  assert_true(ss_main_cause(r.profile, &line, &attempt));
  assert_string_equal(ss_buf_str(&line),
                      "100 % of CPU time: The interpreter itself is what runs, not what "
                      "it calls (python_bound)");
  assert_true(attempt.len > 0);
  ss_buf_release(&line);
  ss_buf_release(&attempt);
  finish(&r);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TMPDIR_TEST(page_faults_name_the_lines_that_allocate),
      TMPDIR_TEST(spinning_is_a_cause_in_openmp_only),
      TMPDIR_TEST(python_and_gradcheck),
      TMPDIR_TEST(imports_and_collection),
      TMPDIR_TEST(one_busy_thread_on_four_cpus),
      TMPDIR_TEST(too_many_threads_only_where_ours_have_the_cpus),
      TMPDIR_TEST(a_wait_is_named_not_the_little_that_ran),
      TMPDIR_TEST(every_reason_has_its_cause),
      TMPDIR_TEST(a_few_samples_prove_nothing),
      TMPDIR_TEST(the_largest_is_one_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
