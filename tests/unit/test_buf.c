/* Growable bytes, arrays, the arena. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "stacksample/buf.h"

static void text_is_always_terminated(void **state)
{
  struct ss_buf buf = {0};

  (void)state;
  assert_string_equal(ss_buf_str(&buf), "");
  ss_buf_adds(&buf, "one");
  ss_buf_addc(&buf, ' ');
  ss_buf_addf(&buf, "%05d", 42);
  ss_buf_add(&buf, "\0x", 2);
  assert_int_equal(buf.len, 11);
  assert_memory_equal(buf.data, "one 00042\0x", 12);
  ss_buf_clear(&buf);
  assert_string_equal(ss_buf_str(&buf), "");
  ss_buf_release(&buf);
  ss_buf_release(&buf);
}

static void long_text_is_not_cut(void **state)
{
  struct ss_buf buf = {0};

  (void)state;
  for (int i = 0; i < 10000; i++)
    ss_buf_addf(&buf, "%d,", i % 10);
  assert_int_equal(buf.len, 20000);
  assert_int_equal(strlen(buf.data), 20000);
  ss_buf_addf(&buf, "%0*d", 100000, 7);
  assert_int_equal(buf.len, 120000);
  assert_int_equal(buf.data[119999], '7');
  ss_buf_release(&buf);
}

static void a_failed_append_is_dropped_and_remembered(void **state)
{
  struct ss_buf buf = {0};

  (void)state;
  ss_buf_adds(&buf, "kept");
  ss_buf_add(&buf, "x", SIZE_MAX - 2);
  assert_true(buf.failed);
  ss_buf_adds(&buf, "dropped");
  assert_string_equal(ss_buf_str(&buf), "kept");
  ss_buf_clear(&buf);
  assert_false(buf.failed);
  ss_buf_release(&buf);
}

static void arrays_grow_and_refuse_to_overflow(void **state)
{
  uint64_t *items = NULL;
  size_t cap = 0;

  (void)state;
  for (size_t i = 0; i < 1000; i++) {
    assert_true(ss_grow(&items, &cap, i + 1, sizeof *items));
    items[i] = i;
  }
  assert_int_equal(items[999], 999);
  assert_true(cap >= 1000 && cap < 4000);
  uint64_t *before = items;
  assert_false(ss_grow(&items, &cap, SIZE_MAX / 4, sizeof *items));
  assert_false(ss_grow(&items, &cap, SIZE_MAX, 1));
  assert_ptr_equal(items, before);
  free(items);
}

static void arena_items_are_aligned_and_stay(void **state)
{
  struct ss_arena arena = {0};
  char *first = ss_arena_strndup(&arena, "first", 5);

  (void)state;
  for (size_t i = 1; i < 3000; i++) {
    size_t size = i % 500 == 0 ? 100000 : i % 97 + 1;
    char *p = ss_arena_alloc(&arena, size);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 8, 0);
    memset(p, 'x', size);
  }
  assert_string_equal(first, "first");
  assert_string_equal(ss_arena_strndup(&arena, NULL, 0), "");
  assert_null(ss_arena_alloc(&arena, SIZE_MAX));
  assert_true(arena.used > 500000);
  ss_arena_release(&arena);
  assert_int_equal(arena.used, 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(text_is_always_terminated),
      cmocka_unit_test(long_text_is_not_cut),
      cmocka_unit_test(a_failed_append_is_dropped_and_remembered),
      cmocka_unit_test(arrays_grow_and_refuse_to_overflow),
      cmocka_unit_test(arena_items_are_aligned_and_stay),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
