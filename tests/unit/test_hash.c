/* Maps and the interner, against a plain model. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stacksample/hash.h"

enum { KEYS = 4096 };

static void the_map_agrees_with_an_array(void **state)
{
  struct ss_idmap map = {0};
  static uint64_t model[KEYS]; /* 0: absent */
  size_t live = 0;

  (void)state;
  srand(1);
  assert_null(ss_idmap_get(&map, 5));
  assert_false(ss_idmap_del(&map, 5));
  for (uint64_t step = 1; step < 200000; step++) {
    size_t key = (size_t)rand() % KEYS;
    if (rand() % 3 == 0) {
      assert_int_equal(ss_idmap_del(&map, key << 32), model[key] != 0);
      live -= model[key] != 0;
      model[key] = 0;
    } else {
      assert_true(ss_idmap_put(&map, key << 32, step));
      live += model[key] == 0;
      model[key] = step;
    }
    assert_int_equal(map.count, live);
  }
  for (size_t key = 0; key < KEYS; key++) {
    uint64_t *value = ss_idmap_get(&map, key << 32);
    assert_int_equal(value != NULL ? *value : 0, model[key]);
  }
  assert_true(map.cap <= 16384); /* tombstones did not make it grow for ever */
  uint64_t key, value;
  size_t pos = 0, seen = 0;
  for (; ss_idmap_next(&map, &pos, &key, &value); seen++)
    assert_int_equal(value, model[key >> 32]);
  assert_int_equal(seen, live);
  ss_idmap_release(&map);
}

static void equal_strings_get_equal_ids(void **state)
{
  struct ss_interner in = {0};
  char text[32];
  size_t len;

  (void)state;
  assert_int_equal(ss_intern_find(&in, "absent", 6), SS_ID_NONE);
  assert_int_equal(ss_intern(&in, NULL, 0), 0);
  for (int round = 0; round < 2; round++) {
    for (uint32_t i = 0; i < 20000; i++) {
      int n = snprintf(text, sizeof text, "name %u", i);
      assert_int_equal(ss_intern(&in, text, (size_t)n), i + 1);
    }
  }
  assert_int_equal(in.count, 20001);
  assert_int_equal(ss_intern(&in, "a\0b", 3), 20001); /* NUL is a byte as any */
  assert_int_equal(ss_intern(&in, "a\0c", 3), 20002);
  assert_int_equal(ss_intern_find(&in, "a\0b", 3), 20001);
  assert_string_equal(ss_interned_str(&in, 12346, &len), "name 12345");
  assert_int_equal(len, 10);
  assert_string_equal(ss_interned_str(&in, 0, NULL), "");
  ss_interner_release(&in);
  assert_int_equal(in.count, 0);
}

static void hashes_depend_on_every_byte(void **state)
{
  unsigned char bytes[40] = {0};
  uint64_t base = ss_hash_bytes(bytes, sizeof bytes);

  (void)state;
  for (size_t i = 0; i < sizeof bytes; i++) {
    bytes[i] = 1;
    assert_true(ss_hash_bytes(bytes, sizeof bytes) != base);
    bytes[i] = 0;
    assert_true(ss_hash_bytes(bytes, i) != base);
  }
  assert_true(ss_hash_bytes(bytes, sizeof bytes) == base);
  assert_true(ss_hash_u64(1) != ss_hash_u64(2));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_map_agrees_with_an_array),
      cmocka_unit_test(equal_strings_get_equal_ids),
      cmocka_unit_test(hashes_depend_on_every_byte),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
