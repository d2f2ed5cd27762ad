/*
 * One event a thread, the layout for many CPUs, forced on this machine: threads, forks
 * (also by a child that has no event yet) and exec are followed, and a thread's place is
 * used again after it.
 */
#include "tmpdir.h"

#include <poll.h>
#include <signal.h>
#include <sqlite3.h>

#include "perf_victim.h"
#include "stacksample/engine.h"
#include "stacksample/limits.h"
#include "stacksample/store.h"
#include "stacksample/sys.h"

enum { SHORT_LIVED = 40, LONG_LIVED = 4, DEADLINE_S = 60 };

static void *spin_for_ever(void *arg)
{
  for (volatile uint64_t x = 0;; x++)
    ;
  return arg;
}

static void *end_at_once(void *arg)
{
  return arg;
}

/* Short threads, a long one, a child that execs, and a grandchild that is made at
 * once, before anybody can have seen its parent. */
static _Noreturn void make_a_tree(int go)
{
  pthread_t thread;
  char byte;
  int status;
  while (read(go, &byte, 1) < 0) {
  }
  for (int i = 0; i < SHORT_LIVED; i++)
    if (pthread_create(&thread, NULL, end_at_once, NULL) == 0)
      pthread_join(thread, NULL);
  if (pthread_create(&thread, NULL, spin_for_ever, NULL) != 0)
    _exit(1);
  if (fork() == 0) {
    execl("/bin/sh", "sh", "-c", "while :; do :; done", (char *)NULL);
    _exit(1);
  }
  pid_t between = fork();
  if (between == 0) {
    if (fork() == 0)
      spin_for_ever(NULL);
    waitpid(-1, &status, 0);
    _exit(0);
  }
  spin_for_ever(NULL);
  _exit(1);
}

static pid_t start_tree(int *go)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return -1;
  pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    close(ends[1]);
    make_a_tree(ends[0]);
  }
  setpgid(pid, pid);
  close(ends[0]);
  *go = ends[1];
  return pid;
}

static sqlite3_int64 number(const char *db, const char *sql)
{
  sqlite3 *handle = NULL;
  sqlite3_stmt *st = NULL;
  sqlite3_int64 value = -1;
  assert_int_equal(sqlite3_open_v2(db, &handle, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
  assert_int_equal(sqlite3_prepare_v2(handle, sql, -1, &st, NULL), SQLITE_OK);
  if (sqlite3_step(st) == SQLITE_ROW)
    value = sqlite3_column_int64(st, 0);
  sqlite3_finalize(st);
  sqlite3_close(handle);
  return value;
}

struct run {
  struct ss_perf *perf;
  struct ss_capture *capture;
  struct ss_pipeline *pipeline;
  struct ss_store *store;
};

static void open_run(struct run *r, struct tmpdir *dir, pid_t pid)
{
  struct ss_perf_config config = {.rate_hz = 200,
                                  .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
                                  .inherit = true,
                                  .switches = true,
                                  .per_thread_from = 1};
  struct ss_pipeline_config pipeline = {.root = pid, .attached = true, .cpu_only = true};
  struct ss_diag diag = {0};
  assert_int_equal(ss_perf_open(&r->perf, &config, pid, &diag), SS_ERR_OK);
  assert_true(ss_perf_facts(r->perf)->per_thread);
  assert_int_equal(ss_perf_facts(r->perf)->events, 1);
  assert_int_equal(ss_store_create(&r->store, &dir->dir, "p.db", &diag), SS_ERR_OK);
  assert_int_equal(ss_capture_start(&r->capture, r->perf, NULL, &diag), SS_ERR_OK);
  pipeline.capture = r->capture;
  pipeline.perf = r->perf;
  pipeline.store = r->store;
  assert_int_equal(ss_pipeline_start(&r->pipeline, &pipeline, &diag), SS_ERR_OK);
  ss_perf_enable(r->perf, true);
}

static uint64_t samples_of(struct run *r)
{
  struct ss_capture_counts counts = {0};
  ss_capture_counts(r->capture, &counts);
  return counts.samples;
}

static void wait_for_samples(struct run *r, uint64_t wanted)
{
  uint64_t deadline = ss_now_ns() + (uint64_t)DEADLINE_S * 1000000000;
  uint64_t all = samples_of(r) + wanted;
  while (samples_of(r) < all && ss_now_ns() < deadline)
    poll(NULL, 0, 20);
  assert_true(samples_of(r) >= all);
}

/* Whoever was born until now is followed then. */
static void wait_for_stage_2(struct run *r)
{
  uint64_t now = ss_now_ns(), deadline = now + (uint64_t)DEADLINE_S * 1000000000;
  while (ss_capture_horizon_ns(r->capture) < now && ss_now_ns() < deadline)
    poll(NULL, 0, 20);
  assert_true(ss_capture_horizon_ns(r->capture) >= now);
}

static void new_tasks_are_followed(void **state)
{
  struct tmpdir *dir = *state;
  struct run r = {0};
  struct ss_diag diag = {0};
  char db[128];
  int lock = lock_perf(), go = -1;
  pid_t pid = start_tree(&go);
  assert_true(pid > 0);
  open_run(&r, dir, pid);
  ss_close(&go);
  wait_for_samples(&r, 200); /* by then all have been made */
  wait_for_stage_2(&r);
  wait_for_samples(&r, 1000);
  unsigned rings = ss_perf_facts(r.perf)->cpus;
  kill(-pid, SIGKILL);
  waitpid(pid, NULL, 0);
  ss_capture_stop(r.capture);
  ss_pipeline_stop(r.pipeline, ss_now_ns());
  assert_int_equal(ss_store_close(r.store, &diag), SS_ERR_OK);
  ss_pipeline_free(r.pipeline);
  ss_capture_free(r.capture);
  ss_perf_close(r.perf);
  close(lock);
  snprintf(db, sizeof db, "%s/p.db", dir->path);
  assert_int_equal(number(db, "select count(*) from (select thread from total where "
                              "samples > 0 group by thread having sum(samples) >= 1)"),
                   LONG_LIVED);
  assert_int_equal(number(db, "select count(*) from thread join string on name = "
                              "string.id where text = 'sh'"),
                   1);
  assert_int_equal(number(db, "select count(*) from thread where cpu_ns > 100000000"),
                   LONG_LIVED);
  /* Those that ended soon are known, and their places were used again. */
  assert_true(number(db, "select count(*) from thread") > SHORT_LIVED);
  assert_true(rings < SHORT_LIVED);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(
      new_tasks_are_followed, tmpdir_set_up, tmpdir_tear_down)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
