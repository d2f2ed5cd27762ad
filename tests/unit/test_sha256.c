/* SHA-256 against the examples of FIPS 180-4, at every split of the input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "stacksample/arch.h"
#include "stacksample/sha256.h"

static void check_by(ss_sha256_blocks *take, const char *text, size_t len,
                     const char *want)
{
  for (size_t cut = 0; cut <= len; cut += len / 7 + 1) {
    struct ss_sha256 s;
    char hex[65];
    ss_sha256_init(&s);
    if (take)
      s.take = take;
    ss_sha256_update(&s, text, cut);
    ss_sha256_update(&s, text + cut, len - cut);
    ss_sha256_hex(&s, hex);
    assert_string_equal(hex, want);
  }
}

static void check(const char *text, size_t len, const char *want)
{
  check_by(NULL, text, len, want);
  check_by(ss_arch_sha256(), text, len, want); /* the same, where there is none */
}

static void test_examples(void **state)
{
  static char million[1000000];
  (void)state;
  check("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  check("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  check("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  memset(million, 'a', sizeof million);
  check(million, sizeof million,
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
