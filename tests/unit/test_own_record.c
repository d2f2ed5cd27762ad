/* Records of our own making: through a queue and back, with all that hangs on them. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "../../src/engine/capture_priv.h"
#include "stacksample/limits.h"

static struct ss_cpu *new_cpu(uint64_t queue_bytes)
{
  struct ss_cpu *cpu = aligned_alloc(64, (sizeof *cpu + 63) / 64 * 64);
  assert_non_null(cpu);
  memset(cpu, 0, sizeof *cpu);
  assert_true(ss_queue_init(&cpu->queue, queue_bytes));
  return cpu;
}

static void free_cpu(struct ss_cpu *cpu)
{
  ss_queue_release(&cpu->queue);
  free(cpu);
}

static struct ss_record next(struct ss_cpu *cpu, struct ss_entry **entry)
{
  struct ss_record rec;
  *entry = ss_queue_take(&cpu->queue);
  assert_non_null(*entry);
  assert_true((*entry)->own);
  assert_true(ss_own_record_get(ss_entry_record(*entry), (*entry)->record_len, &rec));
  return rec;
}

static void a_sample_comes_back_whole(void **state)
{
  struct ss_cpu *cpu = new_cpu(1 << 16);
  struct ss_read_plan plan = {.count = 1, .regions = {{.addr = 0x1000, .len = 5}}};
  struct ss_region region = {.addr = 0x2000, .len = 3};
  struct ss_own_record own = {
      .rec = {.type = SS_REC_SAMPLE,
              .pid = 7,
              .tid = 8,
              .time_ns = 99,
              .u.sample = {.has_regs = true, .more = 3, .call = 1}},
      .tail = "stack of it",
      .tail_len = 11,
      .plan = &plan,
      .raw = "12345",
      .raw_len = 5,
      .read_ns = 98,
      .chased = {&region, (unsigned char *)(uintptr_t) "abc", 1, 3}};
  struct ss_entry *entry;
  (void)state;
  own.rec.u.sample.regs.r[SS_REG_SP] = 0x7000;
  assert_true(ss_own_record_put(cpu, &own));
  struct ss_record rec = next(cpu, &entry);
  assert_int_equal(rec.tid, 8);
  assert_int_equal(rec.u.sample.more, 3);
  assert_int_equal(rec.u.sample.regs.r[SS_REG_SP], 0x7000);
  assert_int_equal(rec.u.sample.stack_len, 11);
  assert_memory_equal(rec.u.sample.stack, "stack of it", 11);
  assert_int_equal(entry->plan.count, 1);
  assert_memory_equal(ss_entry_raw(entry), "12345", 5);
  assert_int_equal(entry->chased, 1);
  assert_int_equal(ss_entry_chased(entry)->addr, 0x2000);
  assert_memory_equal(ss_entry_chased(entry) + 1, "abc", 3);
  assert_int_equal(entry->read_ns, 98);
  assert_int_equal(atomic_load(&cpu->samples), 1);
  ss_queue_done(&cpu->queue, entry);
  free_cpu(cpu);
}

static void a_name_comes_back(void **state)
{
  struct ss_cpu *cpu = new_cpu(1 << 16);
  struct ss_own_record own = {
      .rec = {.type = SS_REC_COMM, .pid = 7, .tid = 7}, .tail = "worker", .tail_len = 7};
  struct ss_entry *entry;
  (void)state;
  assert_true(ss_own_record_put(cpu, &own));
  struct ss_record rec = next(cpu, &entry);
  assert_string_equal(rec.u.comm.comm, "worker");
  assert_int_equal(entry->rank, SS_RANK_COMM);
  ss_queue_done(&cpu->queue, entry);
  free_cpu(cpu);
}

static void what_is_short_is_refused(void **state)
{
  struct ss_record made = {.type = SS_REC_COMM}, rec;
  unsigned char bytes[sizeof made + 3] = {0};
  (void)state;
  memcpy(bytes, &made, sizeof made);
  memcpy(bytes + sizeof made, "abc", 3);
  for (size_t len = 0; len <= sizeof bytes; len++)
    assert_false(ss_own_record_get(bytes, len, &rec)); /* the name never ends */
}

static void what_does_not_fit_is_told_as_lost(void **state)
{
  enum { PUTS = 100 }; /* of 4 MB together 6 */
  static char stack[60000];
  struct ss_cpu *cpu = new_cpu(1 << 22);
  struct ss_own_record own = {
      .rec = {.type = SS_REC_SAMPLE}, .tail = stack, .tail_len = sizeof stack};
  struct ss_entry *entry;
  uint64_t put = 0, lost = 0;
  (void)state;
  for (int i = 0; i < PUTS; i++)
    put += ss_own_record_put(cpu, &own);
  assert_in_range(put, 1, PUTS - 1);
  assert_int_equal(atomic_load(&cpu->lost), PUTS - put);
  for (int i = 0; i < 2; i++) { /* what was there, and what is told next */
    while ((entry = ss_queue_take(&cpu->queue))) {
      struct ss_record rec;
      assert_true(ss_own_record_get(ss_entry_record(entry), entry->record_len, &rec));
      lost += rec.type == SS_REC_LOST ? rec.u.lost.count : 0;
      ss_queue_done(&cpu->queue, entry);
    }
    assert_true(ss_own_record_put(cpu, &own));
  }
  assert_int_equal(lost, PUTS - put);
  free_cpu(cpu);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_sample_comes_back_whole),
      cmocka_unit_test(a_name_comes_back),
      cmocka_unit_test(what_is_short_is_refused),
      cmocka_unit_test(what_does_not_fit_is_told_as_lost),
  };

  return cmocka_run_group_tests(tests, NULL, NULL);
}
