/* The ring reader over hand-made memory, and the queue behind it. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "../../src/engine/engine_priv.h"

enum { SIZE = 256 };

struct fixture {
  struct perf_event_mmap_page page;
  _Alignas(8) unsigned char data[SIZE];
  unsigned char scratch[SS_PERF_RECORD_MAX];
  struct ss_perf_ring ring;
  struct ss_perf_reader reader;
};

static struct fixture *new_fixture(uint64_t start)
{
  struct fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  f->page.data_head = f->page.data_tail = start;
  f->ring =
      (struct ss_perf_ring){.page = &f->page, .data = f->data, .size = SIZE, .fd = -1};
  f->reader = (struct ss_perf_reader){.ring = &f->ring, .scratch = f->scratch};
  return f;
}

static void put_byte(struct fixture *f, unsigned char byte)
{
  f->data[f->page.data_head++ % SIZE] = byte;
}

static void put_record(struct fixture *f, uint16_t size, uint16_t claimed,
                       unsigned char fill)
{
  struct perf_event_header h = {1, 0, claimed};
  unsigned char header[sizeof h];
  memcpy(header, &h, sizeof h);
  for (size_t i = 0; i < size; i++)
    put_byte(f, i < sizeof h ? header[i] : fill);
}

static void expect_record(struct fixture *f, size_t size, unsigned char fill)
{
  size_t len = 0;
  const unsigned char *r = ss_perf_reader_next(&f->reader, &len);
  assert_non_null(r);
  assert_int_equal(len, size);
  for (size_t i = sizeof(struct perf_event_header); i < size; i++)
    assert_int_equal(r[i], fill);
  ss_perf_reader_release(&f->reader, len);
}

static void expect_end(struct fixture *f)
{
  size_t len;
  assert_null(ss_perf_reader_next(&f->reader, &len));
  assert_true(f->page.data_tail == f->page.data_head);
}

/* Every start position, so that each record wraps at each of its offsets. */
static void test_records_at_every_offset(void **state)
{
  (void)state;
  for (uint64_t start = 0; start < SIZE; start += 8) {
    struct fixture *f = new_fixture(start + 16 * SIZE);
    put_record(f, 40, 40, 1);
    put_record(f, 8, 8, 2);
    put_record(f, 128, 128, 3);
    ss_perf_reader_begin(&f->reader);
    expect_record(f, 40, 1);
    expect_record(f, 8, 2);
    expect_record(f, 128, 3);
    expect_end(f);
    assert_int_equal(f->reader.corrupt, 0);
    free(f);
  }
}

static void test_positions_may_pass_2_to_the_64(void **state)
{
  (void)state;
  struct fixture *f = new_fixture(UINT64_MAX - 15);
  put_record(f, 64, 64, 9);
  ss_perf_reader_begin(&f->reader);
  expect_record(f, 64, 9);
  expect_end(f);
  free(f);
}

static void test_impossible_sizes_end_the_pass(void **state)
{
  (void)state;
  static const uint16_t claimed[] = {0, 7, 41, 65535};
  for (size_t i = 0; i < sizeof claimed / sizeof claimed[0]; i++) {
    struct fixture *f = new_fixture(8);
    put_record(f, 40, claimed[i], 1);
    ss_perf_reader_begin(&f->reader);
    expect_end(f);
    assert_int_equal(f->reader.corrupt, 1);
    put_record(f, 40, 40, 5);
    ss_perf_reader_begin(&f->reader);
    expect_record(f, 40, 5);
    free(f);
  }
}

static void test_impossible_head(void **state)
{
  (void)state;
  struct fixture *f = new_fixture(0);
  f->page.data_head = SIZE * 3;
  ss_perf_reader_begin(&f->reader);
  assert_int_equal(f->reader.corrupt, 1);
  expect_end(f);
  free(f);
}

/* ---- queue ---------------------------------------------------------------------- */

static struct ss_entry *push(struct ss_queue *q, uint32_t size, uint64_t time)
{
  struct ss_entry *e = ss_queue_reserve(q, size);
  if (e) {
    e->size = size;
    e->record_len = 1;
    e->time_ns = time;
    ss_queue_commit(q, e);
  }
  return e;
}

static void test_queue_keeps_order_and_space(void **state)
{
  (void)state;
  struct ss_queue q;
  assert_true(ss_queue_init(&q, 64 * 1024));
  uint64_t in = 0, out = 0;
  unsigned seed = 1;
  for (int round = 0; round < 20000; round++) {
    seed = seed * 1103515245u + 12345u;
    uint32_t size = 48 + (seed >> 16) % 30 * 16;
    if (push(&q, size, in))
      in++;
    assert_true(ss_queue_used(&q) <= 64 * 1024);
    if (seed >> 30 != 0 || round % 1024 > 512) {
      struct ss_entry *e = ss_queue_take(&q);
      if (e) {
        assert_int_equal(e->time_ns, out++);
        ss_queue_done(&q, e);
      }
    }
  }
  struct ss_entry *e;
  while ((e = ss_queue_take(&q))) {
    assert_int_equal(e->time_ns, out++);
    ss_queue_done(&q, e);
  }
  assert_int_equal(in, out);
  assert_int_equal(ss_queue_used(&q), 1024); /* the writer's chunk */
  assert_true(in > 10000);
  ss_queue_release(&q);
}

static void test_queue_says_full(void **state)
{
  (void)state;
  struct ss_queue q;
  assert_true(ss_queue_init(&q, 64 * 1024));
  assert_null(push(&q, 1040, 0)); /* larger than a chunk */
  for (int i = 0; i < 128; i++)
    assert_non_null(push(&q, 512, 0));
  assert_null(push(&q, 16, 0));
  struct ss_entry *first = ss_queue_take(&q);
  struct ss_entry *second = ss_queue_take(&q);
  struct ss_entry *third = ss_queue_take(&q);
  ss_queue_done(&q, second); /* the chunk's other entry is not done */
  assert_null(push(&q, 16, 0));
  ss_queue_done(&q, first);
  assert_non_null(push(&q, 512, 0));
  assert_non_null(push(&q, 512, 0));
  assert_null(push(&q, 16, 0));
  ss_queue_done(&q, third);
  ss_queue_release(&q);
}

/* Whatever the queue held before, all of its memory is there for a reader that is
 * held up. */
static void test_queue_holds_all_it_can(void **state)
{
  (void)state;
  struct ss_queue q;
  assert_true(ss_queue_init(&q, 64 * 1024));
  uint64_t in = 0, out = 0;
  for (int lead = 0; lead < 200; lead++) {
    assert_non_null(push(&q, 512, in++));
    size_t held = 1;
    while (push(&q, 512, in)) {
      in++;
      held++;
    }
    assert_true(held >= 126);
    struct ss_entry *e;
    while ((e = ss_queue_take(&q))) {
      assert_int_equal(e->time_ns, out++);
      ss_queue_done(&q, e);
    }
  }
  ss_queue_release(&q);
}

static void test_short_queue_stays_in_few_pages(void **state)
{
  (void)state;
  struct ss_queue q;
  assert_true(ss_queue_init(&q, 1 << 20));
  for (uint64_t i = 0; i < 5000; i++) {
    struct ss_entry *e = push(&q, 1024, i);
    assert_non_null(e);
    assert_true((unsigned char *)e < q.bytes + 2 * (1 << 20) / SS_QUEUE_CHUNKS);
    struct ss_entry *taken = ss_queue_take(&q);
    assert_ptr_equal(taken, e);
    ss_queue_done(&q, taken);
  }
  ss_queue_release(&q);
}

/* ---- read plans ----------------------------------------------------------------- */

static void test_plans(void **state)
{
  (void)state;
  struct ss_plans *plans = ss_plans_new();
  assert_non_null(plans);
  struct ss_read_plan plan = {.count = 2, .regions = {{0x1000, 8}, {0x2000, 16}}};
  struct ss_read_plan got;
  for (int tid = 1; tid <= 20000; tid++) { /* chains of several */
    plan.regions[1].len = (uint32_t)tid;
    ss_plans_set(plans, 7, tid, &plan);
  }
  for (int tid = 1; tid <= 20000; tid += 2)
    ss_plans_set(plans, 7, tid, NULL);
  for (int tid = 1; tid <= 20000; tid++) {
    bool there = ss_plans_get(plans, 7, tid, &got);
    assert_int_equal(there, tid % 2 == 0);
    if (there) {
      assert_int_equal(got.count, 2);
      assert_int_equal(got.regions[1].len, tid);
    }
    assert_false(ss_plans_get(plans, 8, tid, &got)); /* another process */
  }
  plan.count = 0;
  ss_plans_set(plans, 7, 2, &plan);
  assert_false(ss_plans_get(plans, 7, 2, &got));
  ss_plans_free(plans);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_records_at_every_offset),
      cmocka_unit_test(test_positions_may_pass_2_to_the_64),
      cmocka_unit_test(test_impossible_sizes_end_the_pass),
      cmocka_unit_test(test_impossible_head),
      cmocka_unit_test(test_queue_keeps_order_and_space),
      cmocka_unit_test(test_queue_says_full),
      cmocka_unit_test(test_queue_holds_all_it_can),
      cmocka_unit_test(test_short_queue_stays_in_few_pages),
      cmocka_unit_test(test_plans),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
