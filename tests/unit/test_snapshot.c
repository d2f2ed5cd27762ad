/* A copied stack with checked live memory behind it. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "stacksample/unwind.h"

#define BASE 0x7ffc00000000u
#define STACK 65536

struct fake {
  struct ss_mem mem;
  unsigned char bytes[STACK];
  int reads;
};

static size_t fake_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  struct fake *f = (struct fake *)(uintptr_t)mem;
  f->reads++;
  if (addr < BASE || addr >= BASE + STACK)
    return 0;
  size_t left = (size_t)(BASE + STACK - addr);
  len = len < left ? len : left;
  memcpy(buf, f->bytes + (addr - BASE), len);
  return len;
}

static struct fake *fake_new(void)
{
  struct fake *f = calloc(1, sizeof *f);
  f->mem.read = fake_read;
  for (size_t i = 0; i < STACK; i++)
    f->bytes[i] = (unsigned char)(i * 7 + i / 256);
  return f;
}

static void test_copy_needs_no_live_memory(void **state)
{
  (void)state;
  struct fake *f = fake_new();
  struct ss_snapshot s;
  unsigned char buf[64];
  ss_snapshot_init(&s, BASE + 1000, f->bytes + 1000, 4096, &f->mem, BASE + STACK);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 1100, buf, 64), 64);
  assert_memory_equal(buf, f->bytes + 1100, 64);
  assert_int_equal(f->reads, 0);
  ss_snapshot_release(&s);
  free(f);
}

static void test_goes_on_behind(void **state)
{
  (void)state;
  struct fake *f = fake_new();
  struct ss_snapshot s;
  unsigned char buf[64];
  ss_snapshot_init(&s, BASE, f->bytes, 4096, &f->mem, BASE + STACK);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 4096 - 10, buf, 64), 64);
  assert_memory_equal(buf, f->bytes + 4096 - 10, 64);
  assert_int_equal(ss_mem_read(&s.mem, BASE + STACK - 64, buf, 64), 64);
  assert_memory_equal(buf, f->bytes + STACK - 64, 64);
  assert_int_equal(ss_mem_read(&s.mem, BASE + STACK - 10, buf, 64), 10);
  assert_true(f->reads <= 4); /* large reads, not one a word */
  assert_false(s.stale);
  ss_snapshot_release(&s);
  free(f);
}

static void test_changed_memory_is_refused(void **state)
{
  (void)state;
  struct fake *f = fake_new();
  struct ss_snapshot s;
  unsigned char copy[4096], buf[16];
  memcpy(copy, f->bytes, sizeof copy);
  f->bytes[4095 - 200]++;
  ss_snapshot_init(&s, BASE, copy, sizeof copy, &f->mem, BASE + STACK);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 5000, buf, 16), 0);
  assert_true(s.stale);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 4088, buf, 16), 8);
  ss_snapshot_release(&s);
  /* A change further down is none of our business. */
  memcpy(copy, f->bytes, sizeof copy);
  f->bytes[100]++;
  ss_snapshot_init(&s, BASE, copy, sizeof copy, &f->mem, BASE + STACK);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 5000, buf, 16), 16);
  assert_false(s.stale);
  ss_snapshot_release(&s);
  free(f);
}

/* What a walk would have needed is told, so that it can be read next time. */
static void test_the_lowest_miss_is_told(void **state)
{
  (void)state;
  struct fake *f = fake_new();
  struct ss_snapshot s;
  unsigned char copy[4096], buf[16];
  memcpy(copy, f->bytes, sizeof copy);
  f->bytes[4095]++;
  ss_snapshot_init(&s, BASE, copy, sizeof copy, &f->mem, BASE + STACK);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 4080, buf, 16), 16);
  assert_int_equal(s.missed, 0);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 30000, buf, 16), 0);
  assert_int_equal(s.missed, BASE + 30000);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 40000, buf, 16), 0);
  assert_int_equal(s.missed, BASE + 30000);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 4088, buf, 16), 8);
  assert_int_equal(s.missed, BASE + 4096);
  ss_snapshot_release(&s);
  /* What was read with the sample is not missed. */
  struct ss_span spans[] = {{BASE + 4096 - 256, 256, copy + 4096 - 256},
                            {BASE + 30000, 1000, f->bytes + 30000}};
  struct ss_mem_spans captured;
  ss_mem_spans_init(&captured, spans, 2, NULL);
  ss_snapshot_init(&s, BASE, copy, sizeof copy, &f->mem, BASE + STACK);
  s.captured = &captured.mem;
  assert_int_equal(ss_mem_read(&s.mem, BASE + 30000, buf, 16), 16);
  assert_int_equal(s.missed, 0);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 30992, buf, 16), 0);
  assert_int_equal(s.missed, BASE + 30992);
  ss_snapshot_release(&s);
  free(f);
}

static void test_without_live_memory(void **state)
{
  (void)state;
  unsigned char copy[100] = {1}, buf[16];
  struct ss_snapshot s;
  ss_snapshot_init(&s, BASE, copy, sizeof copy, NULL, 0);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 96, buf, 16), 4);
  assert_int_equal(ss_mem_read(&s.mem, BASE - 8, buf, 8), 0);
  assert_int_equal(ss_mem_read(&s.mem, 0x1000, buf, 8), 0);
  assert_int_equal(ss_mem_read(&s.mem, UINT64_MAX - 3, buf, 8), 0);
  ss_snapshot_release(&s);
}

/* Nothing was copied (a blocked thread): everything is live. */
static void test_empty_copy(void **state)
{
  (void)state;
  struct fake *f = fake_new();
  struct ss_snapshot s;
  unsigned char buf[16];
  ss_snapshot_init(&s, BASE + 512, NULL, 0, &f->mem, BASE + STACK);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 600, buf, 16), 16);
  assert_memory_equal(buf, f->bytes + 600, 16);
  ss_snapshot_release(&s);
  free(f);
}

/* What stage 1 read at the sample serves when the stack has changed since, but
 * only if it was read before that. */
static void test_captured_bytes(void **state)
{
  (void)state;
  struct fake *f = fake_new();
  struct ss_snapshot s;
  struct ss_mem_spans captured;
  unsigned char copy[4096], deep[8192], buf[64];
  memcpy(copy, f->bytes, sizeof copy);
  memcpy(deep, f->bytes + 3072, sizeof deep);
  struct ss_span span = {.addr = BASE + 3072, .len = sizeof deep, .bytes = deep};
  ss_mem_spans_init(&captured, &span, 1, NULL);
  memset(f->bytes + 3900, 0, 4000); /* the thread has gone on */
  ss_snapshot_init(&s, BASE, copy, sizeof copy, &f->mem, BASE + STACK);
  s.captured = &captured.mem;
  assert_int_equal(ss_mem_read(&s.mem, BASE + 4090, buf, 64), 64);
  assert_memory_equal(buf, copy + 4090, 6);
  assert_memory_equal(buf + 6, deep + 1024, 58);
  assert_false(s.stale);
  /* Behind it there is only live memory, which no longer fits. */
  assert_int_equal(ss_mem_read(&s.mem, BASE + 3072 + sizeof deep, buf, 64), 0);
  assert_true(s.stale);
  assert_int_equal(ss_mem_read(&s.mem, BASE + 8000, buf, 64), 64);
  ss_snapshot_release(&s);
  /* Read too late: not believed either. */
  deep[4095 - 3072]++;
  ss_snapshot_init(&s, BASE, copy, sizeof copy, &f->mem, BASE + STACK);
  s.captured = &captured.mem;
  assert_int_equal(ss_mem_read(&s.mem, BASE + 5000, buf, 64), 0);
  ss_snapshot_release(&s);
  free(f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_copy_needs_no_live_memory),
      cmocka_unit_test(test_goes_on_behind),
      cmocka_unit_test(test_changed_memory_is_refused),
      cmocka_unit_test(test_the_lowest_miss_is_told),
      cmocka_unit_test(test_without_live_memory),
      cmocka_unit_test(test_empty_copy),
      cmocka_unit_test(test_captured_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
