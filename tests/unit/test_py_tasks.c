/*
 * Tasks of asyncio over constructed CPythons of every layout that has them: the running
 * one by its name, and the coroutines of the one that waits for it; and the same with
 * memory that lies, or has moved on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "py_image.h"

static const struct {
  unsigned minor;
  bool free_threaded;
} all[] = {{12, false}, {13, false}, {14, false}, {15, false},
           {13, true},  {14, true},  {15, true}};
enum { ALL = sizeof all / sizeof *all, CAP = 64 };

static void each_layout(void (*test)(struct image *im))
{
  for (size_t i = 0; i < ALL; i++) {
    struct image *im = image_new(all[i].minor, all[i].free_threaded);
    assert_non_null(im);
    image_tasks(im);
    test(im);
    image_free(im);
  }
}

static void assert_merged(struct image *im, const char *expected)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  struct ss_buf text = {0};
  image_merge(im, out, CAP, &r);
  for (size_t i = 0; i < r.count; i++) {
    ss_buf_adds(&text, i ? " " : "");
    if (out[i].kind == SS_MERGED_NATIVE)
      ss_buf_addf(&text, "%u", out[i].native);
    else if (out[i].kind == SS_MERGED_TASK)
      ss_buf_adds(&text, out[i].code->function);
    else
      ss_buf_addf(&text, "%s:%d", out[i].code->function, out[i].line);
  }
  assert_string_equal(ss_buf_str(&text), expected);
  assert_true(r.verified);
  ss_buf_release(&text);
}

static const char whole[] =
    "0 leaf:11 mid:21 [task: inner] waits:41 [task: Task-7] 2 Handle._run:31 4";
static const char no_waiter[] = "0 leaf:11 mid:21 [task: inner] 2 Handle._run:31 4";
static const char no_task[] = "0 leaf:11 mid:21 2 Handle._run:31 4";

static void merge_whole(struct image *im)
{
  assert_merged(im, whole);
  assert_merged(im, whole);
  assert_int_equal(ss_py_counts(im->py)->rejected, 0);
}
static void test_every_layout(void **state)
{
  (void)state;
  each_layout(merge_whole);
}

/* What runs is not what the task says: it is not this one. */
static void another_coroutine(struct image *im)
{
  image_field(im, im->async.task, im->py->layout.task_coro, im->async.waiting, 8);
  assert_merged(im, no_task);
}
static void test_task_of_another_coroutine(void **state)
{
  (void)state;
  each_layout(another_coroutine);
}

/* Also: an eager task that runs inside another one is not what the Handle was for. */
static void by_handle(struct image *im)
{
  if (im->py->running_task != 0)
    image_field(im, im->tstate, im->py->running_task, im->async.waiter, 8);
  assert_merged(im, whole);
}
static void test_task_of_the_handle(void **state)
{
  (void)state;
  each_layout(by_handle);
}

static void moved_on(struct image *im)
{
  const uint8_t executing = 100;
  image_field(im, im->async.waiting, im->py->layout.gen_state, executing, 1);
  assert_merged(im, no_waiter);
}
static void test_waiter_that_runs_again(void **state)
{
  (void)state;
  each_layout(moved_on);
}

static void several(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  if (l->task_awaited_by == SS_PY_ABSENT)
    return;
  image_field(im, im->async.task, l->task_awaited_by_set, 1, 1);
  assert_merged(im, no_waiter);
}
static void test_several_waiters(void **state)
{
  (void)state;
  each_layout(several);
}

/* Tasks that wait for each other in a circle; a coroutine that awaits itself. */
static void circles(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  uint64_t link;
  const uint32_t field =
      l->task_awaited_by != SS_PY_ABSENT ? l->task_awaited_by : l->task_callback;
  assert_true(ss_mem_u64(&im->mem, im->async.task + field, &link));
  image_field(im, im->async.waiter, field, link, 8);
  assert_merged(im, whole);
  assert_int_equal(ss_py_counts(im->py)->rejected, 1);
  image_field(im, im->async.waiter, field, 0, 8);
  image_field(im, im->async.waiting + l->gen_frame, l->frame_locals, im->async.waiting,
              8);
  struct ss_merged out[CAP];
  struct ss_py_result r;
  image_merge(im, out, CAP, &r);
  assert_int_equal(r.count, CAP);
  assert_int_equal(ss_py_counts(im->py)->rejected, 2);
}
static void test_circles_end(void **state)
{
  (void)state;
  each_layout(circles);
}

static void many_names(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  char text[16];
  image_field(im, im->async.task, l->task_awaited_by, 0, 8);
  image_field(im, im->async.task, l->task_callback, 0, 8);
  const uint64_t name = image_str(im, "number 0000");
  image_field(im, name, l->code_type, im->async.str, 8);
  image_field(im, im->async.task, l->task_name, name, 8);
  for (int i = 0; i <= SS_PY_TASK_NAMES_MAX; i++) {
    char expected[80];
    snprintf(text, sizeof text, "%04d", i);
    image_put(im, name + l->str_ascii + strlen("number "), text, 4);
    snprintf(expected, sizeof expected, "0 leaf:11 mid:21 [task%s%s] 2 Handle._run:31 4",
             i < SS_PY_TASK_NAMES_MAX ? ": number " : "",
             i < SS_PY_TASK_NAMES_MAX ? text : "");
    assert_merged(im, expected);
  }
}
static void test_many_names(void **state)
{
  (void)state;
  each_layout(many_names);
}

static void bad_names(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  uint64_t name;
  image_field(im, im->async.task, l->task_awaited_by, 0, 8);
  image_field(im, im->async.task, l->task_callback, 0, 8);
  assert_true(ss_mem_u64(&im->mem, im->async.waiter + l->task_name, &name));
  image_field(im, im->async.task, l->task_name, name, 8);
  assert_merged(im, "0 leaf:11 mid:21 [task: Task-7] 2 Handle._run:31 4");
  image_field(im, name, l->code_type + 8, 3 << 3, 8); /* of three digits */
  assert_merged(im, "0 leaf:11 mid:21 [task] 2 Handle._run:31 4");
  image_field(im, im->async.task, l->task_name, 8, 8);
  assert_merged(im, "0 leaf:11 mid:21 [task] 2 Handle._run:31 4");
}
static void test_names_that_are_none(void **state)
{
  (void)state;
  each_layout(bad_names);
}

static void table(struct image *im)
{
  if (im->py->running_task == 0)
    return;
  assert_true(image_asyncio_table(im, 864));
  assert_int_equal(im->py->running_task, 864);
  assert_false(image_asyncio_table(im, 4096));
  assert_false(image_asyncio_table(im, 865));
  assert_int_equal(im->py->running_task, 864);
  assert_false(ss_py_asyncio_read(im->py, IMAGE_HEAP_ADDR + IMAGE_HEAP - 103));
}
static void test_table_of_offsets(void **state)
{
  (void)state;
  each_layout(table);
}

/* The plan leads stage 1 to the task. */
static void path(struct image *im)
{
  const struct ss_py_layout *l = &im->py->layout;
  struct ss_read_plan plan = {0};
  struct ss_seen *seen = ss_seen_new();
  assert_non_null(seen);
  ss_py_vouch_in(im->py, seen);
  assert_merged(im, whole);
  assert_true(ss_py_plan(im->py, IMAGE_TID, &plan));
  const struct ss_chase_path *p = &plan.chase.path;
  if (im->py->running_task != 0) {
    assert_int_equal(p->start, im->tstate + im->py->running_task);
    assert_int_equal(p->hops[0], SS_CHASE_NO_HOP);
  } else {
    assert_int_equal(p->start, im->outer + l->frame_locals);
    assert_int_equal(p->hops[0], l->code_type + 16);
  }
  assert_int_equal(p->text_at, l->task_name);
  assert_true(p->len >= l->task_coro + 8);
  const uint64_t generation = ss_py_plan_generation(im->py, IMAGE_TID);
  assert_merged(im, whole);
  assert_int_equal(ss_py_plan_generation(im->py, IMAGE_TID), generation);
  ss_py_vouch_in(im->py, NULL);
  ss_seen_free(seen);
}
static void test_path_of_the_plan(void **state)
{
  (void)state;
  each_layout(path);
}

/* Single bytes of the whole image changed, one after the other. */
static void flips(struct image *im)
{
  struct ss_merged out[CAP];
  struct ss_py_result r;
  image_merge(im, out, CAP, &r);
  for (uint64_t at = 0; at < im->used; at += 11) {
    unsigned char *byte = &im->heap[at];
    const unsigned char was = *byte;
    *byte ^= (unsigned char)(0x81 + at);
    image_merge(im, out, CAP, &r);
    assert_true(r.count <= CAP);
    *byte = was;
  }
}
static void test_changed_bytes(void **state)
{
  (void)state;
  each_layout(flips);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_layout),
      cmocka_unit_test(test_task_of_another_coroutine),
      cmocka_unit_test(test_task_of_the_handle),
      cmocka_unit_test(test_waiter_that_runs_again),
      cmocka_unit_test(test_several_waiters),
      cmocka_unit_test(test_circles_end),
      cmocka_unit_test(test_many_names),
      cmocka_unit_test(test_names_that_are_none),
      cmocka_unit_test(test_table_of_offsets),
      cmocka_unit_test(test_path_of_the_plan),
      cmocka_unit_test(test_changed_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
