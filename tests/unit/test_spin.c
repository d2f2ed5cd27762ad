/* Loops that only wait: by their code, and by the names of functions. */
#include "unit.h"

#include <string.h>

#include "stacksample/arch.h"
#include "stacksample/context.h"

/* mov eax,[rdi]; cmp eax,edx; jne out; pause; add rcx,1; cmp rcx,r8; jne -> 0; ret */
static const unsigned char spin[] = {0x8b, 0x07, 0x39, 0xd0, 0x75, 0x0b, 0xf3,
                                     0x90, 0x48, 0x83, 0xc1, 0x01, 0x4c, 0x39,
                                     0xc1, 0x75, 0xef, 0xc3, 0x90, 0x90};

static void test_every_instruction_of_the_loop_spins(void **state)
{
  (void)state;
  static const size_t inside[] = {0, 2, 4, 6, 8, 12, 15};
  static const size_t outside[] = {1, 3, 7, 17, 18, 19};
  for (size_t i = 0; i < sizeof inside / sizeof inside[0]; i++)
    assert_true(ss_arch_in_spin_loop(spin, sizeof spin, inside[i]));
  for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
    assert_false(ss_arch_in_spin_loop(spin, sizeof spin, outside[i]));
}

static void test_a_long_jump_closes_a_loop_too(void **state)
{
  (void)state;
  static const unsigned char code[] = {0xf3, 0x90, 0x8b, 0x07, 0x85, 0xc0,
                                       0x0f, 0x84, 0xf4, 0xff, 0xff, 0xff};
  assert_true(ss_arch_in_spin_loop(code, sizeof code, 2));
}

static void test_other_loops_work(void **state)
{
  (void)state;
  unsigned char code[sizeof spin];
  memcpy(code, spin, sizeof code);
  code[6] = 0x66; /* xchg ax,ax instead of pause */
  assert_false(ss_arch_in_spin_loop(code, sizeof code, 4));
  memcpy(code, spin, sizeof code);
  code[16] = 0xf7; /* back to behind the pause only */
  assert_false(ss_arch_in_spin_loop(code, sizeof code, 12));
  memcpy(code, spin, sizeof code);
  code[16] = 0x02; /* forwards */
  assert_false(ss_arch_in_spin_loop(code, sizeof code, 4));
}

static void test_every_part_of_the_code(void **state)
{
  (void)state;
  for (size_t len = 0; len <= sizeof spin; len++) {
    for (size_t at = 0; at <= sizeof spin; at++) {
      bool spins = ss_arch_in_spin_loop(spin, len, at);
      assert_true(!spins || (len >= 17 && at <= 15));
    }
  }
}

static void test_names(void **state)
{
  (void)state;
  static const struct {
    const char *module, *symbol;
    bool spins;
  } rows[] = {
      {"libgomp.so.1", "gomp_team_barrier_wait_end", true},
      {"libgomp-a34b3233.so.1", "gomp_barrier_wait_end", true},
      {"libgomp.so.1", "gomp_thread_start", false},
      {"libomp.so.5", "_ZN11kmp_flag_64ILb0ELb1EE4waitEP8kmp_infoiPv", true},
      {"libiomp5.so", "__kmp_hyper_barrier_release", true},
      {"libiomp5.so", "__kmp_fork_call", false},
      {"libscipy_openblas64_-8fb3d286.so", "blas_thread_server", true},
      {"libopenblas.so.0", "dgemm_kernel_HASWELL", false},
      {"libc.so.6", "pthread_spin_lock", true},
      {"libc.so.6", "memcpy", false},
      {"libmine.so", "gomp_barrier_wait_end", false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    assert_int_equal(ss_spin_function(rows[i].module, rows[i].symbol), rows[i].spins);
  assert_true(ss_spin_library("libopenblas.so.0"));
  assert_false(ss_spin_library("libtorch_cpu.so"));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_instruction_of_the_loop_spins),
      cmocka_unit_test(test_a_long_jump_closes_a_loop_too),
      cmocka_unit_test(test_other_loops_work),
      cmocka_unit_test(test_every_part_of_the_code),
      cmocka_unit_test(test_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
