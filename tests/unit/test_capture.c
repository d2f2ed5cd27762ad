/* Stage 1's threads and the time order behind them, over rings in plain memory. */
#include "unit.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../src/engine/capture_priv.h"
#include "perf_records.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

enum { CPUS = 2, RING = 1 << 17, DEADLINE_MS = 20000 };

struct fixture {
  struct perf_event_mmap_page pages[CPUS];
  _Alignas(8) unsigned char data[CPUS][RING];
  struct ss_perf_ring rings[CPUS];
  struct ss_perf perf;
  struct ss_capture *capture;
};

static struct fixture *new_fixture(void)
{
  struct fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  for (int i = 0; i < CPUS; i++) {
    f->rings[i] = (struct ss_perf_ring){.cpu = i,
                                        .fd = eventfd(0, EFD_CLOEXEC), /* never ready */
                                        .page = &f->pages[i],
                                        .data = f->data[i],
                                        .size = RING};
  }
  f->perf.rings = f->rings;
  f->perf.facts.cpus = CPUS;
  return f;
}

static void start(struct fixture *f)
{
  assert_int_equal(ss_capture_start(&f->capture, &f->perf, NULL, NULL), SS_ERR_OK);
}

static void free_fixture(struct fixture *f)
{
  ss_capture_free(f->capture);
  for (int i = 0; i < CPUS; i++)
    close(f->rings[i].fd);
  free(f);
}

static bool put_record(struct fixture *f, int cpu, const struct perf_bytes *b)
{
  struct perf_event_mmap_page *page = &f->pages[cpu];
  uint64_t head = page->data_head;
  if (head - __atomic_load_n(&page->data_tail, __ATOMIC_ACQUIRE) + b->len > RING)
    return false;
  for (size_t i = 0; i < b->len; i++)
    f->data[cpu][(head + i) % RING] = b->data[i];
  __atomic_store_n(&page->data_head, head + b->len, __ATOMIC_RELEASE);
  return true;
}

static void put_switch(struct fixture *f, int cpu, uint64_t time)
{
  struct perf_bytes b;
  switch_at(&b, time);
  assert_true(put_record(f, cpu, &b));
}

static bool ring_empty(const struct fixture *f, int cpu)
{
  return f->pages[cpu].data_head ==
         __atomic_load_n(&f->pages[cpu].data_tail, __ATOMIC_ACQUIRE);
}

/* Has stage 1 look, and waits until it has taken everything. */
static void flush_ring(struct fixture *f, int cpu)
{
  uint64_t end = ss_now_ns() + DEADLINE_MS * 1000000ull;
  ss_capture_kick(&f->capture->cpus[cpu]);
  while (!ring_empty(f, cpu)) {
    assert_true(ss_now_ns() < end);
    poll(NULL, 0, 1);
  }
}

static void next_record(struct fixture *f, struct ss_captured *out)
{
  uint64_t end = ss_now_ns() + DEADLINE_MS * 1000000ull;
  while (!ss_capture_next(f->capture, out)) {
    assert_true(ss_now_ns() < end);
    ss_capture_wait(f->capture, 1);
  }
}

/* ---- order ---------------------------------------------------------------------- */

static void records_come_in_time_order(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  struct perf_bytes b;
  put_switch(f, 0, 100);
  put_switch(f, 0, 300);
  put_switch(f, 0, 200); /* an interrupted record */
  put_switch(f, 1, 150);
  task_at(&b, PERF_RECORD_EXIT, 200);
  put_record(f, 1, &b);
  task_at(&b, PERF_RECORD_FORK, 200);
  put_record(f, 1, &b);
  put_switch(f, 1, 250);
  start(f);
  static const struct {
    uint64_t time;
    enum ss_record_type type;
  } expected[] = {{100, SS_REC_SWITCH}, {150, SS_REC_SWITCH}, {200, SS_REC_FORK},
                  {200, SS_REC_SWITCH}, {200, SS_REC_EXIT},   {250, SS_REC_SWITCH},
                  {300, SS_REC_SWITCH}};
  for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
    struct ss_captured got;
    next_record(f, &got);
    assert_int_equal(got.rec.time_ns, expected[i].time);
    assert_int_equal(got.rec.type, expected[i].type);
    assert_true(ss_capture_horizon_ns(f->capture) >= expected[i].time);
  }
  free_fixture(f);
}

/* ---- processes that switch too often ---------------------------------------------- */

static void put_switch_of(struct fixture *f, int cpu, bool out, uint64_t time)
{
  struct perf_bytes b;
  switch_of(&b, out, time);
  assert_true(put_record(f, cpu, &b));
}

static void hushed_switches_are_counted_and_added_up(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  struct perf_bytes b;
  start(f);
  assert_true(ss_capture_hush(f->capture, 10, true));
  ss_capture_tally(f->capture, 11, 150);
  put_switch_of(f, 0, false, 100);
  put_switch_of(f, 0, true, 200); /* 50 of it since 150 */
  flush_ring(f, 0);
  put_switch_of(f, 1, false, 300);
  put_switch_of(f, 1, true, 310);
  flush_ring(f, 1);
  put_switch_of(f, 0, false, 400);
  task_at(&b, PERF_RECORD_EXIT, 407);
  put_record(f, 0, &b);
  put_switch_of(f, 0, true, 450); /* what it runs after its EXIT is nobody's */
  flush_ring(f, 0);
  struct ss_captured got;
  next_record(f, &got);
  assert_int_equal(got.rec.type, SS_REC_EXIT);
  assert_int_equal(ss_capture_hushed(f->capture, 10), 6);
  uint64_t cpu_ns, outs;
  ss_capture_tallied(f->capture, 11, &cpu_ns, &outs);
  assert_int_equal(cpu_ns, 67);
  assert_int_equal(outs, 3);
  ss_capture_tally(f->capture, 11, 500);
  ss_capture_tallied(f->capture, 11, &cpu_ns, &outs);
  assert_int_equal(cpu_ns + outs, 0);
  ss_capture_tally(f->capture, 11, 0);
  free_fixture(f);
}

/* As many as there is room for; those that went leave theirs to others. */
static void tallies_have_bounds(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  start(f);
  for (int round = 0; round < 3; round++) {
    for (pid_t tid = 1; tid <= 4 * SS_TALLIES; tid++)
      ss_capture_tally(f->capture, tid + round, 1);
    for (pid_t tid = 1; tid <= 4 * SS_TALLIES; tid++)
      ss_capture_tally(f->capture, tid + round, 0);
  }
  for (size_t i = 0; i < SS_TALLIES; i++)
    assert_true(f->capture->tallies[i].tid <= 0);
  free_fixture(f);
}

static void equal_times_keep_their_order(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  struct perf_bytes b;
  for (uint32_t i = 0; i < 100; i++) {
    sample_of(&b, i, i, 1000, PERF_SAMPLE_REGS_ABI_64, 8);
    put_record(f, 0, &b);
  }
  start(f);
  for (int i = 0; i < 100; i++) {
    struct ss_captured got;
    next_record(f, &got);
    assert_int_equal(got.rec.tid, i);
  }
  free_fixture(f);
}

static void the_future_waits_until_the_end(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  struct ss_captured got;
  uint64_t future = ss_now_ns() + 3600ull * 1000000000u;
  put_switch(f, 0, future);
  start(f);
  flush_ring(f, 0);
  assert_false(ss_capture_next(f->capture, &got));
  uint64_t horizon = ss_capture_horizon_ns(f->capture);
  assert_true(horizon < ss_now_ns());
  uint64_t end = ss_now_ns() + DEADLINE_MS * 1000000ull;
  while (ss_capture_horizon_ns(f->capture) == horizon) { /* idle CPUs hold nothing up */
    assert_true(ss_now_ns() < end);
    assert_false(ss_capture_next(f->capture, &got));
  }
  put_switch(f, 1, 77); /* still in its ring at the stop */
  ss_capture_stop(f->capture);
  assert_true(ss_capture_next(f->capture, &got));
  assert_int_equal(got.rec.time_ns, 77);
  assert_true(ss_capture_next(f->capture, &got));
  assert_int_equal(got.rec.time_ns, future);
  assert_false(ss_capture_next(f->capture, &got));
  free_fixture(f);
}

/* ---- loss ----------------------------------------------------------------------- */

/* Fills the queue of CPU 0 with samples, until some are dropped. */
static uint64_t overfill(struct fixture *f)
{
  struct ss_capture_counts counts = {0};
  uint64_t put_in = 0;
  for (uint64_t time = 1000; counts.queue_full == 0; time++) {
    struct perf_bytes b;
    sample_of(&b, 10, 11, time, PERF_SAMPLE_REGS_ABI_64, STACK_ROOM);
    if (!put_record(f, 0, &b)) {
      flush_ring(f, 0);
      ss_capture_counts(f->capture, &counts);
    } else {
      put_in++;
    }
  }
  flush_ring(f, 0);
  return put_in;
}

static void a_full_queue_is_counted_in_its_place(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  start(f);
  uint64_t put_in = overfill(f);
  put_switch(f, 0, 900000); /* there is room for others than samples */
  flush_ring(f, 0);
  ss_capture_stop(f->capture);
  uint64_t samples = 0, lost = 0, switches = 0;
  struct ss_captured got;
  while (ss_capture_next(f->capture, &got)) {
    samples += got.rec.type == SS_REC_SAMPLE;
    switches += got.rec.type == SS_REC_SWITCH;
    if (got.rec.type == SS_REC_LOST) {
      assert_int_equal(switches, 0);
      lost += got.rec.u.lost.count;
    }
  }
  struct ss_capture_counts counts;
  ss_capture_counts(f->capture, &counts);
  assert_true(lost > 0);
  assert_int_equal(lost, counts.queue_full);
  assert_int_equal(lost, counts.lost);
  assert_int_equal(counts.samples, put_in);
  assert_int_equal(samples + lost, put_in);
  assert_int_equal(switches, 1);
  assert_int_equal(counts.undecodable, 0);
  free_fixture(f);
}

static void the_kernels_losses_and_bad_records_are_counted(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  struct perf_bytes b;
  b.len = ss_record_make_lost(b.data, sizeof b.data, 7, 100, 0);
  put_record(f, 0, &b);
  begin(&b, 4711, 0); /* unknown type, whole */
  trailer(&b, 1, 1, 101);
  put_record(f, 0, &b);
  begin(&b, PERF_RECORD_SAMPLE, 0); /* too short */
  put64(&b, 1);
  end(&b);
  put_record(f, 0, &b);
  start(f);
  struct ss_captured got;
  next_record(f, &got);
  assert_int_equal(got.rec.type, SS_REC_LOST);
  ss_capture_stop(f->capture);
  assert_false(ss_capture_next(f->capture, &got));
  struct ss_capture_counts counts;
  ss_capture_counts(f->capture, &counts);
  assert_int_equal(counts.lost, 7);
  assert_int_equal(counts.undecodable, 2);
  free_fixture(f);
}

/* ---- the rest ------------------------------------------------------------------- */

static void a_ring_that_hung_up_is_read_without_spinning(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  close(ends[1]); /* POLLHUP for ever */
  close(f->rings[0].fd);
  f->rings[0].fd = ends[0];
  start(f);
  uint64_t begin_ns = ss_now_ns();
  for (uint64_t i = 0; i < 5; i++) { /* nobody kicks: its own timer finds them */
    put_switch(f, 0, 1000 + i);
    while (!ring_empty(f, 0)) {
      assert_true(ss_now_ns() < begin_ns + DEADLINE_MS * 1000000ull);
      poll(NULL, 0, 1);
    }
  }
  struct ss_capture_counts counts;
  ss_capture_counts(f->capture, &counts);
  assert_true(counts.own_cpu_ns < (ss_now_ns() - begin_ns) / 2);
  ss_capture_stop(f->capture);
  ss_capture_counts(f->capture, &counts);
  assert_int_equal(counts.records, 5);
  assert_true(counts.own_cpu_ns > 0);
  free_fixture(f);
}

static void plans_are_read_at_the_sample(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  static unsigned char first[64], second[16];
  memset(first, 0xaa, sizeof first);
  memset(second, 0xbb, sizeof second);
  struct ss_read_plan plan = {.count = 2,
                              .regions = {{(uint64_t)(uintptr_t)first, sizeof first},
                                          {(uint64_t)(uintptr_t)second, sizeof second}}};
  start(f);
  ss_capture_set_plan(f->capture, getpid(), 11, &plan);
  struct perf_bytes b;
  for (uint32_t tid = 11; tid <= 12; tid++) { /* only the first has a plan */
    sample_of(&b, (uint32_t)getpid(), tid, 1000 + tid, PERF_SAMPLE_REGS_ABI_64, 100);
    put_record(f, 0, &b);
  }
  uint64_t begin_ns = ss_now_ns();
  struct ss_captured got;
  next_record(f, &got);
  assert_int_equal(got.rec.u.sample.stack_len, 100);
  assert_int_equal(got.plan.count, 2);
  assert_int_equal(got.raw_len, 80);
  assert_int_equal(got.raw[0], 0xaa);
  assert_int_equal(got.raw[63], 0xaa);
  assert_int_equal(got.raw[64], 0xbb);
  assert_true(got.read_ns >= begin_ns && got.read_ns <= ss_now_ns());
  next_record(f, &got);
  assert_int_equal(got.plan.count, 0);
  assert_int_equal(got.raw_len, 0);
  free_fixture(f);
}

/* What does not fit is missing at its end, and told. */
static void an_oversized_plan_is_cut(void **state)
{
  (void)state;
  struct fixture *f = new_fixture();
  static unsigned char some[64], much[SS_PLAN_BYTES_MAX];
  memset(some, 0xaa, sizeof some);
  memset(much, 0xbb, sizeof much);
  struct ss_read_plan plan = {.count = 3,
                              .regions = {{(uint64_t)(uintptr_t)some, sizeof some},
                                          {(uint64_t)(uintptr_t)much, sizeof much},
                                          {4096, UINT32_MAX}}};
  start(f);
  ss_capture_set_plan(f->capture, getpid(), 11, &plan);
  struct perf_bytes b;
  sample_of(&b, (uint32_t)getpid(), 11, 1000, PERF_SAMPLE_REGS_ABI_64, 100);
  put_record(f, 0, &b);
  struct ss_captured got;
  next_record(f, &got);
  assert_int_equal(got.plan.count, 3);
  assert_int_equal(got.raw_len, SS_PLAN_BYTES_MAX);
  assert_int_equal(got.raw[63], 0xaa);
  assert_int_equal(got.raw[SS_PLAN_BYTES_MAX - 1], 0xbb);
  struct ss_capture_counts counts;
  ss_capture_counts(f->capture, &counts);
  assert_int_equal(counts.plans_cut, 1);
  free_fixture(f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(records_come_in_time_order),
      cmocka_unit_test(hushed_switches_are_counted_and_added_up),
      cmocka_unit_test(tallies_have_bounds),
      cmocka_unit_test(equal_times_keep_their_order),
      cmocka_unit_test(the_future_waits_until_the_end),
      cmocka_unit_test(a_full_queue_is_counted_in_its_place),
      cmocka_unit_test(the_kernels_losses_and_bad_records_are_counted),
      cmocka_unit_test(a_ring_that_hung_up_is_read_without_spinning),
      cmocka_unit_test(plans_are_read_at_the_sample),
      cmocka_unit_test(an_oversized_plan_is_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
