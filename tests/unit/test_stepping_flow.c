/*
 * The single-step oracle on what compilers and the C library make of calls that are none:
 * tail calls, functions that end in a call which does not return, frames of a size that
 * is computed, variable arguments, callbacks from the C library, setjmp and longjmp.
 */
#include "unit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "oracle.h"

#define NOINLINE __attribute__((noinline))

static jmp_buf place, *place_on_stack;

NOINLINE static int sum(int n, ...)
{
  va_list list;
  int all = 0;
  va_start(list, n);
  for (int i = 0; i < n; i++)
    all += va_arg(list, int);
  va_end(list);
  return all;
}

NOINLINE static double sum_of_doubles(int n, ...)
{
  va_list list;
  double all = 0;
  va_start(list, n);
  for (int i = 0; i < n; i++)
    all += va_arg(list, double);
  va_end(list);
  return all;
}

/* More arguments than registers: some are pushed, and popped after the call. */
NOINLINE static int on_stack(int a, int b, int c, int d, int e, int f, int g, int h)
{
  return sum(9, a, b, c, d, e, f, g, h, (int)sum_of_doubles(2, 1.5, 2.5));
}

NOINLINE static int computed_room(int n)
{
  char *room = __builtin_alloca((size_t)n);
  memset(room, 1, (size_t)n);
  return room[n / 2] + on_stack(n, 2, 3, 4, 5, 6, 7, room[1]);
}

/* Each ends in a jump to the next where the compiler does that. */
NOINLINE static int last_of_tail(int n)
{
  return computed_room(n + 20) + 1;
}

NOINLINE static int middle_of_tail(int n)
{
  sink += n;
  return last_of_tail(n + 1);
}

static int (*volatile any_function)(int) = middle_of_tail;

NOINLINE static int first_of_tail(int n)
{
  return any_function(n * 2);
}

/* Returns early in one way and late in the other: rows that are remembered and restored.
 */
NOINLINE static int two_ends(int n)
{
  volatile int kept[40];
  kept[n] = first_of_tail(n);
  if (n > 3)
    return kept[n];
  sink += first_of_tail(kept[n] & 7);
  return kept[n] + sink;
}

static int by_number(const void *a, const void *b)
{
  return *(const int *)a - *(const int *)b;
}

NOINLINE static void jump_back(int n)
{
  volatile char room[200];
  room[n] = (char)n;
  if (n > 2)
    longjmp(*place_on_stack, n);
  if (n > 1)
    longjmp(place, n);
  sink += room[n];
}

NOINLINE static void jump_deeper(int n)
{
  int numbers[] = {3, 1, 2};
  qsort(numbers, 3, sizeof numbers[0], by_number);
  jump_back(n + numbers[0]);
  sink++;
}

NOINLINE static int jumps(void)
{
  jmp_buf here;
  place_on_stack = &here;
  volatile int came = setjmp(place);
  if (setjmp(here) == 0)
    jump_deeper(came == 0 ? 1 : 2); /* to `place`, then to `here` */
  return came;
}

/* Nothing comes behind the call: its return address is another function's. */
__attribute__((noinline, noreturn)) static void never_returns(int n)
{
  sink += n;
  end_marker();
  _exit(0);
}

NOINLINE static void ends_in_a_call(int n)
{
  sink += n;
  never_returns(n + 1);
}

static void stepped(void)
{
  begin_marker();
  sink += two_ends(2) + two_ends(5);
  sink += jumps();
  ends_in_a_call(3);
}

static void test_calls_that_are_none(void **state)
{
  (void)state;
  static struct oracle o = {.may_jump = true};
  run_oracle(&o, stepped);
  print_message("jumps that left frames behind: %zu, foreseen %zu\n", o.jumps,
                o.jumps_foreseen);
  assert_true(o.jumps >= 2);
  assert_true(o.steps >= 1000);
  assert_int_equal(o.methods[SS_METHOD_SCAN], 0);
  assert_int_equal(o.methods[SS_METHOD_LATE], 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_calls_that_are_none)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
