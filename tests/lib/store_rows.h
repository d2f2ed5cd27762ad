/* A small profile with rows of every kind, made through the writer. */
#ifndef STACKSAMPLE_TEST_STORE_ROWS_H
#define STACKSAMPLE_TEST_STORE_ROWS_H

#include "tmpdir.h"

#include "stacksample/store.h"
#include "stacksample/sys.h"

static inline uint32_t fixture_string(struct ss_store *s, const char *text)
{
  return ss_store_string(s, text, strlen(text));
}

/* Process 0, threads 0..2, phases 0..3, module 0, frames 0..9 (even ones
 * Python, odd ones native), and a chain of stacks over them. */
static inline void fixture_rows(struct ss_store *s)
{
  uint64_t now = ss_now_ns();
  struct ss_process_row process = {.pid = 100,
                                   .ppid = 1,
                                   .label = fixture_string(s, "pytest"),
                                   .command = fixture_string(s, "pytest -vv"),
                                   .python = fixture_string(s, "3.11.2"),
                                   .worker = SS_ID_NONE,
                                   .start_ns = now};
  struct ss_module_row module = {.path = fixture_string(s, "/lib/libtorch.so"),
                                 .build_id = {1, 2, 3},
                                 .build_id_len = 20};

  assert_int_equal(ss_store_process(s, &process), 0);
  assert_int_equal(ss_store_module(s, &module), 0);
  for (int i = 0; i < 3; i++) {
    struct ss_thread_row thread = {.process = 0,
                                   .tid = 100 + i,
                                   .name = fixture_string(s, "worker"),
                                   .role = fixture_string(s, "python"),
                                   .start_ns = now};
    ss_store_thread(s, &thread);
  }
  for (uint32_t i = 0; i < 4; i++) {
    struct ss_phase_row phase = {.process = 0,
                                 .test = fixture_string(s, "t.py::test"),
                                 .phase = fixture_string(s, "call"),
                                 .occurrence = i,
                                 .start_ns = now};
    ss_store_phase(s, &phase);
  }
  uint32_t stack = SS_ID_NONE;
  for (int i = 0; i < 10; i++) {
    char name[32];
    snprintf(name, sizeof name, "function_%d", i);
    struct ss_frame_row frame = {
        .kind = i % 2 != 0 ? SS_FRAME_NATIVE : SS_FRAME_PYTHON,
        .name = i % 2 != 0 ? SS_ID_NONE : fixture_string(s, name),
        .file = i % 2 != 0 ? SS_ID_NONE : fixture_string(s, "a.py"),
        .first_line = i % 2 != 0 ? 0 : i + 1,
        .module = i % 2 != 0 ? 0 : SS_ID_NONE,
        .offset = i % 2 != 0 ? 0xfffffffffff00000u + (unsigned)i : 0};
    assert_int_equal(ss_store_frame(s, &frame), i);
    stack = ss_store_stack(s, stack, (uint32_t)i, i);
  }
}

/* The i-th of a fixed sequence of samples, 1 ms apart, threads in turn. */
static inline struct ss_sample_row fixture_sample(uint64_t start_ns, uint32_t i)
{
  struct ss_sample_row row = {.time_ns = start_ns + (uint64_t)i * 1000000,
                              .weight_ns = 1000003 + i % 7,
                              .thread = i % 3,
                              .stack = i % 10,
                              .phase = i % 5 == 4 ? SS_ID_NONE : i % 5,
                              .state = (uint8_t)(i % 3),
                              .end = (uint8_t)(i % 2),
                              .method = 0,
                              .merge = SS_MERGE_VERIFIED};
  return row;
}

#endif
