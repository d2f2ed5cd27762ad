/*
 * A made-up but realistic profile, written through the store like a real one:
 * gradcheck under pytest in two processes with OpenMP threads, test phases,
 * kernel time, waits and holes. Deterministic. Header only: each test binary
 * is one file.
 */
#ifndef PROFILE_FIXTURE_H
#define PROFILE_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "stacksample/meta.h"
#include "stacksample/store.h"

#define FX_PERIOD 10000000ull /* ns */
#define FX_START 5000000000000ull
#define FX_WALL 1700000000000000000ull
#define FX_CWD "/home/u/proj"

struct fx {
  struct ss_store *store;
  uint64_t seed;
  uint32_t torch, gomp, libc, python;
};

static inline uint32_t fx_random(struct fx *fx, uint32_t below)
{
  fx->seed = fx->seed * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(fx->seed >> 33) % below;
}

static inline uint32_t fx_str(struct fx *fx, const char *s)
{
  return ss_store_string(fx->store, s, strlen(s));
}

static inline uint32_t fx_module(struct fx *fx, const char *path)
{
  struct ss_module_row row = {.path = fx_str(fx, path), .build_id_len = 0};
  return ss_store_module(fx->store, &row);
}

static inline uint32_t fx_py(struct fx *fx, const char *name, const char *file, int line)
{
  struct ss_frame_row row = {.kind = SS_FRAME_PYTHON,
                             .name = fx_str(fx, name),
                             .file = fx_str(fx, file),
                             .first_line = line,
                             .module = SS_ID_NONE};
  return ss_store_frame(fx->store, &row);
}

static inline uint32_t fx_native(struct fx *fx, const char *name, uint32_t module)
{
  struct ss_frame_row row = {.kind = SS_FRAME_NATIVE,
                             .name = SS_ID_NONE,
                             .file = SS_ID_NONE,
                             .module = module,
                             .offset = 0x1000};
  for (const char *s = name; *s != '\0'; s++) /* an address of its own */
    row.offset = (row.offset * 31 + (unsigned char)*s) & 0xffffff;
  uint32_t frame = ss_store_frame(fx->store, &row);
  ss_store_frame_name(fx->store, frame, name, strlen(name));
  return frame;
}

static inline uint32_t fx_other(struct fx *fx, enum ss_frame_kind kind, const char *name)
{
  struct ss_frame_row row = {
      .kind = kind, .name = fx_str(fx, name), .file = SS_ID_NONE, .module = SS_ID_NONE};
  return ss_store_frame(fx->store, &row);
}

static inline uint32_t fx_push(struct fx *fx, uint32_t stack, uint32_t frame, int line)
{
  return ss_store_stack(fx->store, stack, frame, line);
}

static inline void fx_sample(struct fx *fx, uint64_t time, uint64_t weight,
                             uint32_t thread, uint32_t stack, uint32_t phase,
                             enum ss_state state)
{
  struct ss_sample_row row = {.time_ns = time,
                              .weight_ns = weight,
                              .samples = 1,
                              .thread = thread,
                              .stack = stack,
                              .phase = phase,
                              .state = (uint8_t)state,
                              .end = SS_END_COMPLETE,
                              .method = SS_METHOD_CFI,
                              .merge = SS_MERGE_VERIFIED};
  ss_store_sample(fx->store, &row);
  ss_store_time(fx->store, thread, phase, state, weight);
}

/* ---- stacks ---------------------------------------------------------------------- */

static inline uint32_t fx_start_of_main(struct fx *fx)
{
  static const char *const native[] = {"_start", "__libc_start_main@@GLIBC_2.34",
                                       "Py_BytesMain", "Py_RunMain"};
  static const struct {
    const char *name, *file;
    int line;
  } py[] = {
      {"<module>", "/usr/lib/python3/dist-packages/pytest/__main__.py", 1},
      {"console_main", "/usr/lib/python3/dist-packages/_pytest/config/__init__.py", 185},
      {"main", "/usr/lib/python3/dist-packages/_pytest/config/__init__.py", 143},
      {"__call__", "/usr/lib/python3/dist-packages/pluggy/_hooks.py", 244},
      {"_hookexec", "/usr/lib/python3/dist-packages/pluggy/_manager.py", 80},
      {"_multicall", "/usr/lib/python3/dist-packages/pluggy/_callers.py", 9},
      {"pytest_cmdline_main", "/usr/lib/python3/dist-packages/_pytest/main.py", 314},
      {"wrap_session", "/usr/lib/python3/dist-packages/_pytest/main.py", 259},
      {"_main", "/usr/lib/python3/dist-packages/_pytest/main.py", 318},
      {"pytest_runtestloop", "/usr/lib/python3/dist-packages/_pytest/main.py", 340},
      {"pytest_runtest_protocol", "/usr/lib/python3/dist-packages/_pytest/runner.py",
       110},
      {"runtestprotocol", "/usr/lib/python3/dist-packages/_pytest/runner.py", 117},
      {"call_and_report", "/usr/lib/python3/dist-packages/_pytest/runner.py", 219},
      {"pytest_pyfunc_call", "/usr/lib/python3/dist-packages/_pytest/python.py", 188},
  };
  uint32_t stack = SS_ID_NONE;
  for (size_t i = 0; i < sizeof native / sizeof *native; i++)
    stack = fx_push(fx, stack, fx_native(fx, native[i], fx->python), 0);
  for (size_t i = 0; i < sizeof py / sizeof *py; i++) {
    stack =
        fx_push(fx, stack, fx_py(fx, py[i].name, py[i].file, py[i].line), py[i].line + 7);
  }
  return stack;
}

static inline uint32_t fx_operator(struct fx *fx, uint32_t stack, const char *op)
{
  char name[256];
  const char *args = "(at::Tensor const&, at::Tensor const&)";
  snprintf(name, sizeof name, "THPVariable_%s(_object*, _object*, _object*)", op);
  stack = fx_push(fx, stack, fx_native(fx, name, fx->torch), 0);
  snprintf(name, sizeof name, "at::_ops::%s::call%s", op, args);
  stack = fx_push(fx, stack, fx_native(fx, name, fx->torch), 0);
  snprintf(
      name, sizeof name,
      "torch::autograd::VariableType::(anonymous namespace)::%s(c10::DispatchKeySet)",
      op);
  stack = fx_push(fx, stack, fx_native(fx, name, fx->torch), 0);
  snprintf(name, sizeof name, "at::_ops::%s::redispatch(c10::DispatchKeySet)", op);
  stack = fx_push(fx, stack, fx_native(fx, name, fx->torch), 0);
  snprintf(name, sizeof name,
           "void at::internal::invoke_parallel<at::native::%s_kernel(at::TensorIterator&)"
           "::{lambda(long, long)#1}>(long, long, long)",
           op);
  return fx_push(fx, stack, fx_native(fx, name, fx->torch), 0);
}

/* What the test's own code was doing at one sample. */
static inline uint32_t fx_test_stack(struct fx *fx, uint32_t stack, const char *test,
                                     enum ss_state *state)
{
  static const char *const ops[] = {"mul_Tensor", "add_Tensor", "exp", "sin", "mm"};
  static const char gradcheck[] =
      "/usr/lib/python3/dist-packages/torch/autograd/gradcheck.py";
  *state = SS_STATE_USER;
  stack = fx_push(fx, stack, fx_py(fx, test, FX_CWD "/tests/test_gradients.py", 40), 52);
  if (fx_random(fx, 10) == 0) {
    uint32_t frame = fx_py(fx, "python_part", FX_CWD "/sim/physics.py", 90);
    stack = fx_push(fx, stack, frame, 91 + (int)fx_random(fx, 6));
    if (fx_random(fx, 2) == 0)
      return stack;
    stack = fx_push(fx, stack, fx_native(fx, "PyNumber_Add", fx->python), 0);
    return fx_push(fx, stack, fx_native(fx, "long_add", fx->python), 0);
  }
  stack = fx_push(fx, stack, fx_py(fx, "gradcheck", gradcheck, 1289), 1418);
  bool slow = fx_random(fx, 4) != 0;
  stack = fx_push(fx, stack,
                  fx_py(fx, slow ? "_get_numerical_jacobian" : "_check_analytical",
                        gradcheck, slow ? 120 : 400),
                  slow ? 160 : 433);
  stack = fx_push(fx, stack, fx_native(fx, "PyObject_Call", fx->python), 0);
  stack = fx_push(fx, stack, fx_py(fx, "simulate", FX_CWD "/sim/physics.py", 12),
                  14 + (int)fx_random(fx, 20));
  stack = fx_operator(fx, stack, ops[fx_random(fx, 5)]);
  uint32_t kind = fx_random(fx, 8);
  if (kind < 3) {
    *state = SS_STATE_KERNEL;
    return fx_push(fx, stack, fx_other(fx, SS_FRAME_SYNTHETIC, "[kernel: page fault]"),
                   0);
  }
  if (kind == 3) {
    *state = SS_STATE_KERNEL;
    stack = fx_push(fx, stack, fx_native(fx, "munmap", fx->libc), 0);
    return fx_push(fx, stack, fx_other(fx, SS_FRAME_KERNEL, "clear_page_erms"), 0);
  }
  if (kind == 4) {
    *state = SS_STATE_SPIN;
    return fx_push(fx, stack, fx_native(fx, "GOMP_parallel", fx->gomp), 0);
  }
  char leaf[64];
  snprintf(leaf, sizeof leaf, "at::native::vectorized_loop<%u>(char**, long)",
           fx_random(fx, 12));
  return fx_push(fx, stack, fx_native(fx, leaf, fx->torch), 0);
}

static inline uint32_t fx_worker_stack(struct fx *fx, enum ss_state *state)
{
  uint32_t stack = fx_push(fx, SS_ID_NONE, fx_native(fx, "clone3", fx->libc), 0);
  stack = fx_push(fx, stack, fx_native(fx, "start_thread", fx->libc), 0);
  struct ss_frame_row nameless = {.kind = SS_FRAME_NATIVE,
                                  .name = SS_ID_NONE,
                                  .file = SS_ID_NONE,
                                  .module = fx->gomp,
                                  .offset = 0x1d9a0};
  stack = fx_push(fx, stack, ss_store_frame(fx->store, &nameless), 0);
  if (fx_random(fx, 3) == 0) {
    *state = SS_STATE_WAIT;
    return fx_push(fx, stack, fx_native(fx, "syscall", fx->libc), 0);
  }
  *state = SS_STATE_USER;
  return fx_push(fx, stack,
                 fx_native(fx, "at::native::vectorized_loop<1>(char**, long)", fx->torch),
                 0);
}

/* ---- a run ----------------------------------------------------------------------- */

static inline void fx_metas(struct fx *fx, uint64_t seconds)
{
  ss_store_meta(fx->store, SS_META_CWD, FX_CWD);
  ss_store_meta(fx->store, SS_META_VERSION, SS_VERSION);
  ss_store_meta(fx->store, SS_META_COMMAND_LINE, "pytest -vv tests/test_gradients.py");
  ss_store_meta(fx->store, SS_META_COMMAND,
                "[\"pytest\",\"-vv\",\"tests/test_gradients.py\"]");
  ss_store_meta_u64(fx->store, SS_META_START_NS, FX_START);
  ss_store_meta_u64(fx->store, SS_META_WALL_START_NS, FX_WALL);
  ss_store_meta_u64(fx->store, SS_META_END_NS, FX_START + seconds * 1000000000ull);
  ss_store_meta_u64(fx->store, SS_META_RATE_HZ, 100);
  ss_store_meta_u64(fx->store, SS_META_PERIOD_NS, FX_PERIOD);
}

static inline uint32_t fx_process(struct fx *fx, int64_t pid, const char *label)
{
  struct ss_process_row row = {.pid = pid,
                               .ppid = 1,
                               .label = fx_str(fx, label),
                               .command = fx_str(fx, "pytest -n 2"),
                               .python = fx_str(fx, "3.11.2"),
                               .worker = fx_str(fx, label),
                               .start_ns = FX_START};
  return ss_store_process(fx->store, &row);
}

static inline uint32_t fx_thread(struct fx *fx, uint32_t process, int64_t tid,
                                 const char *name, const char *role)
{
  struct ss_thread_row row = {.process = process,
                              .tid = tid,
                              .name = fx_str(fx, name),
                              .role = fx_str(fx, role),
                              .start_ns = FX_START};
  return ss_store_thread(fx->store, &row);
}

static inline uint32_t fx_phase(struct fx *fx, uint32_t process, const char *test,
                                const char *phase, uint64_t from, uint64_t to)
{
  struct ss_phase_row row = {.process = process,
                             .test = fx_str(fx, test),
                             .phase = fx_str(fx, phase),
                             .start_ns = from,
                             .end_ns = to};
  return ss_store_phase(fx->store, &row);
}

/* One process with a main thread and two OpenMP workers. In each tenth second
 * nothing is sampled (a hole), in each seventh the main thread sleeps. */
static inline void fx_run_process(struct fx *fx, int64_t pid, const char *label,
                                  uint64_t seconds)
{
  static const char *const tests[] = {"test_stability", "test_second_order",
                                      "test_sparse[x;y]"};
  uint32_t process = fx_process(fx, pid, label);
  uint32_t threads[3] = {fx_thread(fx, process, pid, "MainThread", "main"),
                         fx_thread(fx, process, pid + 1, "python3", "openmp"),
                         fx_thread(fx, process, pid + 2, "python3", "openmp")};
  uint32_t start = fx_start_of_main(fx), phase = SS_ID_NONE;
  const char *test = tests[0];
  for (uint64_t tick = 1; tick <= seconds * 100; tick++) {
    uint64_t now = FX_START + tick * FX_PERIOD, second = tick / 100;
    if (tick % 100 == 1) {
      char id[128];
      test = tests[second * 3 / (seconds + 1)];
      snprintf(id, sizeof id, "tests/test_gradients.py::%s", test);
      phase = fx_phase(fx, process, id, second % 5 == 0 ? "setup" : "call",
                       now - FX_PERIOD, now + 99 * FX_PERIOD);
    }
    if (second % 10 == 9)
      continue;
    enum ss_state state;
    uint32_t stack = fx_test_stack(fx, start, test, &state);
    if (second % 7 == 6) {
      stack =
          fx_push(fx, start, fx_py(fx, test, FX_CWD "/tests/test_gradients.py", 40), 60);
      state = SS_STATE_SLEEP;
    }
    fx_sample(fx, now, FX_PERIOD, threads[0], stack, phase, state);
    for (size_t i = 1; i < 3; i++) {
      stack = fx_worker_stack(fx, &state);
      fx_sample(fx, now, FX_PERIOD, threads[i], stack, phase, state);
    }
  }
}

static inline void fx_init(struct fx *fx, struct ss_store *store)
{
  *fx = (struct fx){.store = store, .seed = 42};
  fx->torch = fx_module(fx, "/usr/lib/python3/dist-packages/torch/lib/libtorch_cpu.so");
  fx->gomp = fx_module(fx, "/usr/lib/x86_64-linux-gnu/libgomp.so.1");
  fx->libc = fx_module(fx, "/usr/lib/x86_64-linux-gnu/libc.so.6");
  fx->python = fx_module(fx, "/usr/bin/python3.11");
}

/* The whole run: `seconds` in each of two processes. */
static inline void fx_run(struct fx *fx, uint64_t seconds)
{
  fx_metas(fx, seconds);
  fx_run_process(fx, 4121, "gw0", seconds);
  fx_run_process(fx, 4220, "gw1", seconds);
}

/* A tree of about `nodes` nodes under one thread, each leaf with a sample. */
static inline void fx_run_wide(struct fx *fx, uint32_t nodes)
{
  fx_metas(fx, 60);
  uint32_t process = fx_process(fx, 4121, "pytest");
  uint32_t thread = fx_thread(fx, process, 4121, "MainThread", "main");
  uint32_t phase = fx_phase(fx, process, "tests/test_wide.py::test_wide", "call",
                            FX_START, FX_START + 60000000000ull);
  uint32_t start = fx_start_of_main(fx);
  uint64_t now = FX_START;
  for (uint32_t made = 0; made < nodes;) {
    uint32_t stack = start, depth = 3 + fx_random(fx, 30);
    for (uint32_t d = 0; d < depth; d++) {
      char name[64];
      uint32_t which = fx_random(fx, d < 3 ? 3 : 8);
      snprintf(name, sizeof name, "f%u_%u", d, which);
      uint32_t frame = which % 2 ? fx_py(fx, name, FX_CWD "/sim/wide.py", 10 + (int)which)
                                 : fx_native(fx, name, fx->torch);
      stack = fx_push(fx, stack, frame, which % 2 ? 11 + (int)which : 0);
      made += d > 5;
    }
    now += FX_PERIOD;
    fx_sample(fx, now, FX_PERIOD, thread, stack, phase, SS_STATE_USER);
  }
}

/* Names that try to break out of every format. */
static inline void fx_run_hostile(struct fx *fx)
{
  static const char *const names[] = {"</script><script>alert(1)</script>",
                                      "quote\"back\\slash",
                                      "semi;colon 12",
                                      "new\nline\ttab",
                                      "\xed\xa0\x80lone surrogate",
                                      "\x7f\x01 control",
                                      "\xf0\x9f\x98\x80 emoji",
                                      "cut utf-8 \xf0\x9f",
                                      "[lock]",
                                      "constructor",
                                      "__proto__"};
  static char huge[4097];
  memset(huge, 'x', sizeof huge - 1);
  fx_metas(fx, 1);
  uint32_t process = fx_process(fx, 77, "py\xff\x7f\ntest");
  uint32_t thread = fx_thread(fx, process, 77, "comm\xe2\x82", "main");
  uint64_t now = FX_START;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    uint32_t phase = fx_phase(fx, process, names[i], "call", now, now + FX_PERIOD);
    uint32_t stack = fx_push(fx, SS_ID_NONE, fx_py(fx, names[i], names[i], 3), 4);
    stack = fx_push(fx, stack, fx_native(fx, names[i], fx_module(fx, names[i])), 0);
    stack = fx_push(fx, stack, fx_py(fx, huge, "", -1), 0);
    now += FX_PERIOD;
    fx_sample(fx, now, FX_PERIOD, thread, stack, phase,
              i % 3 == 2 ? SS_STATE_LOCK : SS_STATE_USER);
  }
}

#endif
