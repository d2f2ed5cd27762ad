/* Events on threads that exist, and what happens where the kernel grants less. */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "perf_victim.h"
#include "stacksample/engine.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

/* ---- attach --------------------------------------------------------------------- */

static void count_samples(struct ss_capture *capture, pid_t first, pid_t second,
                          uint64_t counts[2])
{
  struct ss_captured got;
  while (ss_capture_next(capture, &got)) {
    counts[0] += got.rec.type == SS_REC_SAMPLE && got.rec.tid == first;
    counts[1] += got.rec.type == SS_REC_SAMPLE && got.rec.tid == second;
  }
}

static void add_existing_threads(unsigned per_thread_from)
{
  int lock = lock_perf(), go = -1;
  pid_t second = -1, pid = start_threaded_victim(&go, &second);
  assert_true(pid > 0 && second > 0);
  struct ss_perf *perf;
  struct ss_capture *capture;
  struct ss_diag diag = {0};
  struct ss_perf_config config = {.rate_hz = 400,
                                  .snapshot = 4096,
                                  .inherit = true,
                                  .per_thread_from = per_thread_from};
  assert_int_equal(ss_perf_open(&perf, &config, pid, &diag), SS_ERR_OK);
  assert_int_equal(ss_perf_add(perf, second, &diag), SS_ERR_OK);
  assert_int_equal(ss_perf_facts(perf)->per_thread, per_thread_from == 1);
  unsigned layers = per_thread_from == 1 ? 1 : 2; /* events a ring */
  assert_int_equal(ss_perf_facts(perf)->events, layers * ss_perf_facts(perf)->cpus);
  assert_int_equal(ss_capture_start(&capture, perf, NULL, &diag), SS_ERR_OK);
  ss_perf_enable(perf, true);
  ss_close(&go);
  uint64_t counts[2] = {0};
  siginfo_t info = {0};
  while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0) {
    ss_capture_wait(capture, 20);
    count_samples(capture, pid, second, counts);
  }
  ss_capture_stop(capture);
  count_samples(capture, pid, second, counts);
  uint64_t expected = (uint64_t)config.rate_hz * SPIN_MS / 1000;
  assert_true(about(counts[0], expected, 10, 2));
  assert_true(about(counts[1], expected, 10, 2));
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  assert_int_equal(ss_perf_add(perf, pid, &diag), SS_ERR_GONE);
  ss_capture_free(capture);
  ss_perf_close(perf);
  close(lock);
}

static void existing_threads_are_added(void **state)
{
  (void)state;
  add_existing_threads(0);
}

static void each_in_its_own_ring(void **state)
{
  (void)state;
  add_existing_threads(1);
}

/* ---- locked memory -------------------------------------------------------------- */

static bool default_allowance(void)
{
  int kb = 0;
  FILE *f = fopen("/proc/sys/kernel/perf_event_mlock_kb", "re");
  bool read = f && fscanf(f, "%d", &kb) == 1;
  if (f)
    fclose(f);
  return read && kb == 516;
}

static int open_until_refused(void)
{
  enum { MOST = 64 };
  struct ss_perf *open[MOST] = {0};
  struct ss_diag diag = {0};
  uint32_t last = UINT32_MAX;
  int count = 0, bad = 0, go = -1;
  /* Beyond the kernel's own allowance, which the first one uses up: room for rings
   * of 128 KB (8 KB snapshots) and of 64 KB (4 KB), each with its page. */
  rlim_t bytes = (rlim_t)sysconf(_SC_NPROCESSORS_ONLN) * (128 + 4 + 64 + 4) * 1024;
  bad += CHECK(setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){bytes, bytes}) == 0);
  pid_t pid = start_victim(&go);
  struct ss_perf_config config = {
      .rate_hz = 100, .snapshot = SS_STACK_SNAPSHOT_DEFAULT, .inherit = true};
  enum ss_err err = SS_ERR_OK;
  while (count < MOST && err == SS_ERR_OK) {
    err = ss_perf_open(&open[count], &config, pid, &diag);
    if (err == SS_ERR_OK) {
      const struct ss_perf_facts *facts = ss_perf_facts(open[count++]);
      bad += CHECK(facts->snapshot <= last && facts->snapshot >= SS_STACK_SNAPSHOT_MIN);
      bad += CHECK(facts->ring_bytes >= (uint64_t)SS_RING_MIN_RECORDS * facts->snapshot);
      bad += CHECK((facts->snapshot < config.snapshot) == (facts->reason[0] != 0));
      last = facts->snapshot;
    }
  }
  bad += CHECK(err == SS_ERR_LIMIT && strstr(diag.text, "perf_event_mlock_kb") != NULL);
  bad += CHECK(last == SS_STACK_SNAPSHOT_MIN || !default_allowance());
  while (count > 0)
    ss_perf_close(open[--count]);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  ss_close(&go);
  return bad;
}

static void rings_and_snapshots_shrink_where_locked_memory_is_short(void **state)
{
  (void)state;
  if (geteuid() != 0)
    skip();
  int lock = lock_perf();
  assert_int_equal(as_nobody(open_until_refused), 0);
  close(lock);
}

/* ---- refusals ------------------------------------------------------------------- */

static void a_process_that_is_gone(void **state)
{
  (void)state;
  struct ss_perf *perf;
  struct ss_diag diag = {0};
  struct ss_perf_config config = {.rate_hz = 100};
  pid_t pid = fork();
  if (pid == 0)
    _exit(0);
  waitpid(pid, NULL, 0);
  assert_int_equal(ss_perf_open(&perf, &config, pid, &diag), SS_ERR_GONE);
  assert_null(perf);
  config.rate_hz = 0;
  assert_int_equal(ss_perf_open(&perf, &config, getpid(), &diag), SS_ERR_USAGE);
}

static int open_init(void)
{
  struct ss_perf *perf;
  struct ss_diag diag = {0};
  struct ss_perf_config config = {.rate_hz = 100};
  enum ss_err err = ss_perf_open(&perf, &config, 1, &diag);
  return CHECK(err == SS_ERR_ACCESS) + CHECK(diag.text[0] != 0) + CHECK(perf == NULL);
}

static void a_process_of_another_user(void **state)
{
  (void)state;
  if (geteuid() != 0)
    skip();
  assert_int_equal(as_nobody(open_init), 0);
}

#ifdef SS_TESTING
static void refused_system_calls_name_the_cause(void **state)
{
  (void)state;
  static const struct {
    const char *fault;
    enum ss_err err;
  } rows[] = {{"perf_event_open:ENOSYS:1", SS_ERR_UNSUPPORTED}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct ss_perf *perf;
    struct ss_diag diag = {0};
    struct ss_perf_config config = {.rate_hz = 100};
    setenv("SS_FAULT", rows[i].fault, 1);
    enum ss_err err = ss_perf_open(&perf, &config, getpid(), &diag);
    unsetenv("SS_FAULT");
    assert_int_equal(err, rows[i].err);
    assert_non_null(strstr(diag.text, "seccomp"));
  }
}
#endif

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(existing_threads_are_added),
      cmocka_unit_test(each_in_its_own_ring),
      cmocka_unit_test(rings_and_snapshots_shrink_where_locked_memory_is_short),
      cmocka_unit_test(a_process_that_is_gone),
      cmocka_unit_test(a_process_of_another_user),
#ifdef SS_TESTING
      cmocka_unit_test(refused_system_calls_name_the_cause),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
