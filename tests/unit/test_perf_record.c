/* Decoding of perf records: every kind, every truncated prefix, compacting. */
#include "unit.h"

#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/engine/engine_priv.h"
#include "perf_records.h"

/* ---- tests ---------------------------------------------------------------------- */

static void test_sample(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  sample(&b, PERF_SAMPLE_REGS_ABI_64, 100);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_int_equal(r.type, SS_REC_SAMPLE);
  assert_int_equal(r.pid, 10);
  assert_int_equal(r.tid, 11);
  assert_int_equal(r.time_ns, 5000);
  assert_int_equal(r.cpu, 1);
  assert_int_equal(r.u.sample.event, 77);
  assert_true(r.u.sample.kernel);
  assert_int_equal(r.u.sample.n_kernel, 2);
  uint64_t ip;
  memcpy(&ip, r.u.sample.kernel_ips + 8, sizeof ip);
  assert_true(ip == 0xffffffff81000020);
  assert_true(r.u.sample.has_regs);
  assert_int_equal(r.u.sample.regs.r[SS_REG_AX], 100);
  assert_int_equal(r.u.sample.regs.r[SS_REG_R15], 100 + SS_REG_COUNT - 1);
  assert_int_equal(r.u.sample.stack_len, 100);
  assert_int_equal(r.u.sample.stack[99], 99);
}

static void test_sample_without_registers_or_with_32_bit_ones(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  sample(&b, PERF_SAMPLE_REGS_ABI_NONE, 0);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_false(r.u.sample.has_regs);
  assert_int_equal(r.u.sample.stack_len, 0);
  sample(&b, PERF_SAMPLE_REGS_ABI_32, 8);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_false(r.u.sample.has_regs);
}

static void test_stack_never_exceeds_its_room(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  sample(&b, PERF_SAMPLE_REGS_ABI_64, STACK_ROOM + 1000);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_int_equal(r.u.sample.stack_len, STACK_ROOM);
}

static void test_compact_keeps_what_is_valid(void **state)
{
  (void)state;
  static const uint64_t valid[] = {0, 1, 8, 100, STACK_ROOM - 8, STACK_ROOM, 9999};
  for (size_t i = 0; i < sizeof valid / sizeof valid[0]; i++) {
    struct perf_bytes b;
    struct ss_record whole, kept;
    struct ss_record_peek peek;
    sample(&b, PERF_SAMPLE_REGS_ABI_64, valid[i]);
    assert_true(ss_record_peek(b.data, b.len, &peek));
    assert_true(peek.compact_len <= b.len);
    unsigned char *copy = malloc(peek.compact_len);
    assert_non_null(copy);
    ss_record_compact(b.data, b.len, &peek, copy);
    assert_true(ss_record_decode(b.data, b.len, &whole));
    assert_true(ss_record_decode(copy, peek.compact_len, &kept));
    assert_int_equal(kept.u.sample.stack_len, whole.u.sample.stack_len);
    assert_memory_equal(&kept.u.sample.regs, &whole.u.sample.regs,
                        sizeof kept.u.sample.regs);
    if (kept.u.sample.stack_len > 0) {
      assert_memory_equal(kept.u.sample.stack, whole.u.sample.stack,
                          kept.u.sample.stack_len);
    }
    free(copy);
  }
}

static void test_mmap(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  mmap2(&b, 0x400000, 0x1000);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_int_equal(r.type, SS_REC_MMAP);
  assert_int_equal(r.u.mmap.map.start, 0x400000);
  assert_int_equal(r.u.mmap.map.end, 0x401000);
  assert_int_equal(r.u.mmap.map.offset, 0x2000);
  assert_int_equal(r.u.mmap.map.inode, 4711);
  assert_int_equal(r.u.mmap.map.dev_major, 8);
  assert_int_equal(r.u.mmap.map.prot, SS_PROT_READ | SS_PROT_EXEC);
  assert_string_equal(r.u.mmap.path, "/usr/lib/libx.so");
  assert_true(r.u.mmap.exec);
  assert_int_equal(r.time_ns, 6000);
}

static void test_mmap_that_wraps_is_refused(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  mmap2(&b, UINT64_MAX - 10, 0x1000);
  assert_false(ss_record_decode(b.data, b.len, &r));
  mmap2(&b, 0x1000, 0);
  assert_false(ss_record_decode(b.data, b.len, &r));
}

static void test_task_records(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  struct ss_record_peek peek;
  task_at(&b, PERF_RECORD_FORK, 6001);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_int_equal(r.type, SS_REC_FORK);
  assert_int_equal(r.pid, 20);
  assert_int_equal(r.tid, 21);
  assert_int_equal(r.u.task.ppid, 10);
  assert_int_equal(r.u.task.ptid, 11);
  assert_int_equal(r.time_ns, 6001);
  assert_true(ss_record_peek(b.data, b.len, &peek));
  assert_int_equal(peek.rank, SS_RANK_FORK);
  task_at(&b, PERF_RECORD_EXIT, 6001);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_int_equal(r.type, SS_REC_EXIT);
  assert_true(ss_record_peek(b.data, b.len, &peek));
  assert_int_equal(peek.rank, SS_RANK_EXIT);
}

static void test_comm(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  begin(&b, PERF_RECORD_COMM, PERF_RECORD_MISC_COMM_EXEC);
  put32(&b, 10);
  put32(&b, 11);
  text(&b, "python3");
  trailer(&b, 10, 11, 7000);
  assert_true(ss_record_decode(b.data, b.len, &r));
  assert_int_equal(r.type, SS_REC_COMM);
  assert_string_equal(r.u.comm.comm, "python3");
  assert_true(r.u.comm.exec);
}

static void test_switch(void **state)
{
  (void)state;
  static const struct {
    uint16_t misc;
    bool out, preempted;
  } rows[] = {
      {0, false, false},
      {PERF_RECORD_MISC_SWITCH_OUT, true, false},
      {PERF_RECORD_MISC_SWITCH_OUT | PERF_RECORD_MISC_SWITCH_OUT_PREEMPT, true, true},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct perf_bytes b;
    struct ss_record r;
    begin(&b, PERF_RECORD_SWITCH, rows[i].misc);
    trailer(&b, 10, 11, 8000);
    assert_true(ss_record_decode(b.data, b.len, &r));
    assert_int_equal(r.type, SS_REC_SWITCH);
    assert_int_equal(r.tid, 11);
    assert_int_equal(r.cpu, 3);
    assert_int_equal(r.u.sw.out, rows[i].out);
    assert_int_equal(r.u.sw.preempted, rows[i].preempted);
  }
}

static void test_lost(void **state)
{
  (void)state;
  unsigned char made[64];
  struct ss_record r;
  struct ss_record_peek peek;
  size_t len = ss_record_make_lost(made, sizeof made, 12, 9000, 5);
  assert_true(ss_record_decode(made, len, &r));
  assert_int_equal(r.type, SS_REC_LOST);
  assert_int_equal(r.u.lost.count, 12);
  assert_int_equal(r.time_ns, 9000);
  assert_int_equal(r.cpu, 5);
  assert_true(ss_record_peek(made, len, &peek));
  assert_int_equal(peek.lost, 12);
  assert_int_equal(ss_record_make_lost(made, len - 1, 1, 1, 1), 0);
}

static void test_unknown_kinds_are_refused(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  begin(&b, 9999, 0);
  trailer(&b, 1, 1, 1);
  assert_false(ss_record_decode(b.data, b.len, &r));
  begin(&b, 0, 0);
  trailer(&b, 1, 1, 1);
  assert_false(ss_record_decode(b.data, b.len, &r));
}

/* Each prefix as a record of its own length (the header says so) and as a cut one;
 * in memory of exactly that size, so that a sanitizer sees every over-read. */
static void every_prefix(const struct perf_bytes *b)
{
  for (size_t len = 0; len < b->len; len++) {
    for (int honest = 0; honest < 2; honest++) {
      unsigned char *cut = malloc(len > 0 ? len : 1);
      assert_non_null(cut);
      memcpy(cut, b->data, len);
      if (honest && len >= 8) {
        uint16_t size = (uint16_t)len;
        memcpy(cut + 6, &size, sizeof size);
      }
      struct ss_record r;
      struct ss_record_peek peek;
      bool ok = ss_record_decode(cut, len, &r);
      assert_false(ok && !honest);
      if (ss_record_peek(cut, len, &peek)) {
        assert_true(peek.compact_len <= len);
        unsigned char *copy = malloc(len);
        assert_non_null(copy);
        ss_record_compact(cut, len, &peek, copy);
        free(copy);
      }
      free(cut);
    }
  }
}

static void test_truncated(void **state)
{
  (void)state;
  struct perf_bytes b;
  sample(&b, PERF_SAMPLE_REGS_ABI_64, 100);
  every_prefix(&b);
  mmap2(&b, 0x400000, 0x1000);
  every_prefix(&b);
  task_at(&b, PERF_RECORD_FORK, 6001);
  every_prefix(&b);
  begin(&b, PERF_RECORD_COMM, 0);
  put64(&b, 0);
  text(&b, "python3");
  trailer(&b, 10, 11, 7000);
  every_prefix(&b);
  b.len = ss_record_make_lost(b.data, sizeof b.data, 1, 2, 3);
  every_prefix(&b);
}

static void test_chain_length_is_bounded(void **state)
{
  (void)state;
  struct perf_bytes b;
  struct ss_record r;
  sample(&b, PERF_SAMPLE_REGS_ABI_64, 100);
  static const uint64_t lengths[] = {5000, UINT64_MAX, UINT64_MAX / 8 + 1};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    memcpy(b.data + 48, &lengths[i], 8);
    assert_false(ss_record_decode(b.data, b.len, &r));
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sample),
      cmocka_unit_test(test_sample_without_registers_or_with_32_bit_ones),
      cmocka_unit_test(test_stack_never_exceeds_its_room),
      cmocka_unit_test(test_compact_keeps_what_is_valid),
      cmocka_unit_test(test_mmap),
      cmocka_unit_test(test_mmap_that_wraps_is_refused),
      cmocka_unit_test(test_task_records),
      cmocka_unit_test(test_comm),
      cmocka_unit_test(test_switch),
      cmocka_unit_test(test_lost),
      cmocka_unit_test(test_unknown_kinds_are_refused),
      cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_chain_length_is_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
