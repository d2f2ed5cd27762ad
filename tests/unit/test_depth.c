/* What of a thread's stack is to be read with its samples. */
#include "unit.h"

#include "../../src/engine/pipeline_priv.h"
#include "stacksample/limits.h"

#define SP 0x7f0000010000u
#define LEN 16384u
#define COPIED (SP + LEN)
#define STACK_END (SP + (200u << 10))

static struct ss_snapshot copied(uint64_t missed)
{
  return (struct ss_snapshot){
      .sp = SP, .len = LEN, .missed = missed, .stack_end = STACK_END};
}

static void truncated_at(struct ss_depth *d, uint64_t missed)
{
  const struct ss_snapshot s = copied(missed);
  const struct ss_frame leaf = {.sp = SP};
  ss_depth_note(d, &s, &leaf, 1, SS_END_TRUNCATED);
}

/* A kernel with `own` bytes, two callers, the thread's start. */
static void complete(struct ss_depth *d, uint64_t own)
{
  const struct ss_snapshot s = copied(0);
  const struct ss_frame frames[] = {{.sp = SP, .cfa = SP + own},
                                    {.sp = SP + own, .cfa = SP + own + 1000},
                                    {.sp = SP + own + 1000, .cfa = SP + own + 3000},
                                    {.sp = SP + own + 3000}};
  ss_depth_note(d, &s, frames, 4, SS_END_COMPLETE);
}

static void check(const struct ss_depth *d, uint64_t from, uint64_t end)
{
  assert_int_equal(d->from, from);
  assert_int_equal(d->end, end);
}

static void test_stacks_that_are_copied_whole(void **state)
{
  (void)state;
  struct ss_depth d = {0};
  complete(&d, 100);
  check(&d, 0, 0);
  truncated_at(&d, 0); /* broke off for another reason */
  check(&d, 0, 0);
}

static void test_complete(void **state)
{
  (void)state;
  struct ss_depth d = {0};
  complete(&d, 30000);
  check(&d, SP + 30000 - 256, SP + 33000 + 64);
  complete(&d, 30000 - 16); /* another end, so all anew */
  check(&d, SP + 30000 - 16 - 256, SP + 33000 - 16 + 64);
  complete(&d, 15000); /* the middle caller reaches behind the copy */
  check(&d, SP + 18000 - 256, SP + 18000 + 64);
  complete(&d, SS_PLAN_DEEP_MAX + 20000);
  check(&d, SP + SS_PLAN_DEEP_MAX + 20000 - 256, SP + SS_PLAN_DEEP_MAX + 23000 + 64);
}

/* A frame that has sp point to other memory is told by where it stands on the stack. */
static void test_sp_is_elsewhere(void **state)
{
  (void)state;
  struct ss_depth d = {0};
  const struct ss_snapshot s = {.sp = 0x1000, .len = LEN, .stack_end = 0x9000};
  const struct ss_frame frames[] = {{.sp = SP, .cfa = SP + 64}, {.sp = SP + 64}};
  ss_depth_note(&d, &s, frames, 2, SS_END_COMPLETE);
  check(&d, SP + 64 - 256, SP + 128);
}

/* A handler on a signal's stack, above or below that of what it interrupted. */
static void test_signal_stack(void **state)
{
  (void)state;
  for (uint64_t alt = 0x1000; alt < SP * 2; alt += SP + 0x10000000) {
    struct ss_depth d = {0};
    const struct ss_snapshot s = {.sp = alt, .len = LEN, .stack_end = alt + LEN};
    const struct ss_frame frames[] = {{.sp = alt, .cfa = alt + 64},
                                      {.sp = alt + 64, .signal = true},
                                      {.sp = SP, .cfa = SP + 1024},
                                      {.sp = SP + 1024, .cfa = SP + 2048},
                                      {.sp = SP + 2048}};
    ss_depth_note(&d, &s, frames, 5, SS_END_COMPLETE);
    check(&d, SP + 1024 - 256, SP + 2048 + 64);
  }
}

/* A thread that is always in the same kernel has no complete stack to learn from. */
static void test_never_complete(void **state)
{
  (void)state;
  struct ss_depth d = {0};
  truncated_at(&d, SP + 30000);
  check(&d, SP + 30000 - 256, SP + 30000 - 256 + SS_PLAN_DEEP_MAX);
  truncated_at(&d, SP + 29000); /* another kernel */
  check(&d, SP + 29000 - 256, SP + 29000 - 256 + SS_PLAN_DEEP_MAX);
  complete(&d, 30000);
  check(&d, SP + 30000 - 256, SP + 33000 + 64);
  truncated_at(&d, SP + 29000);
  check(&d, SP + 29000 - 256, SP + 33000 + 64);
  truncated_at(&d, COPIED + 8);
  check(&d, COPIED, SP + 33000 + 64);
}

static void test_ends_with_its_mapping(void **state)
{
  (void)state;
  struct ss_depth d = {0};
  truncated_at(&d, STACK_END - 2000);
  check(&d, STACK_END - 2256, STACK_END);
  truncated_at(&d, STACK_END + 8);
  check(&d, STACK_END - 2256, STACK_END);
}

static void test_another_stack(void **state)
{
  (void)state;
  struct ss_depth d = {.from = SP - 50000, .end = SP - 40000, .end_known = true};
  truncated_at(&d, SP + 30000);
  check(&d, SP + 30000 - 256, SP + 30000 - 256 + SS_PLAN_DEEP_MAX);
  /* One so far below that a plan cannot hold all up to the end: it goes first. */
  d = (struct ss_depth){.from = STACK_END - 10000, .end = STACK_END, .end_known = true};
  truncated_at(&d, SP + 30000);
  check(&d, SP + 30000 - 256, STACK_END);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stacks_that_are_copied_whole),
      cmocka_unit_test(test_complete),
      cmocka_unit_test(test_sp_is_elsewhere),
      cmocka_unit_test(test_signal_stack),
      cmocka_unit_test(test_never_complete),
      cmocka_unit_test(test_ends_with_its_mapping),
      cmocka_unit_test(test_another_stack),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
