/*
 * Real interpreters, stopped at a known and at random places: the merged stack is
 * what the interpreter itself says, with C where the program calls through it,
 * and no stack that the program cannot have.
 *
 * Interpreters: SS_TEST_PYTHONS (separated by ':'), else the system's. One in
 * another root, looked at from outside it, is written ROOT!PATH.
 */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "../../src/python/python_priv.h"
#include "stopped.h"

enum { CAP = 2048, STOPS = 200, WARM_UP = 3, SNAPSHOT = 16384 };

static struct ss_frame native[SS_FRAMES_MAX];
static struct ss_merged merged[CAP];
static unsigned char snapshot_bytes[SNAPSHOT], planned[SS_PLAN_BYTES_MAX];

struct victim {
  pid_t pid;
  FILE *out;
  struct stopped at;
  struct ss_py *py;
  size_t native_count, count;
  enum ss_end end;
  struct ss_py_result result;
};

/* ---- the interpreter under test ------------------------------------------- */

static void pause_us(long us)
{
  const struct timespec t = {0, us * 1000};
  nanosleep(&t, NULL);
}

/* In another root the script comes by standard input. */
static void exec_python(const char *python, const char *script, const char *arg)
{
  char root[4096];
  const char *path = strchr(python, '!');
  if (!path) {
    execl(python, python, script, arg, (char *)NULL);
    return;
  }
  const int fd = open(script, O_RDONLY);
  snprintf(root, sizeof root, "%.*s", (int)(path - python), python);
  if (dup2(fd, 0) == 0 && chroot(root) == 0 && chdir("/") == 0)
    execl(path + 1, path + 1, "-", arg, (char *)NULL);
}

static bool start(struct victim *v, const char *python, const char *script,
                  const char *arg)
{
  int pipe_fds[2];
  *v = (struct victim){0};
  if (access(script, R_OK) != 0 || pipe(pipe_fds) != 0)
    return false;
  v->pid = fork();
  if (v->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
    dup2(pipe_fds[1], 1);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    exec_python(python, script, arg);
    _exit(127);
  }
  close(pipe_fds[1]);
  v->out = fdopen(pipe_fds[0], "r");
  return v->pid > 0 && v->out;
}

static void stop(struct victim *v)
{
  int status;
  assert_int_equal(ptrace(PTRACE_INTERRUPT, v->pid, NULL, NULL), 0);
  assert_int_equal(waitpid(v->pid, &status, 0), v->pid);
  assert_true(WIFSTOPPED(status));
  assert_true(ss_arch_ptrace_regs(v->pid, &v->at.regs));
}

static void go_on(struct victim *v)
{
  ptrace(PTRACE_CONT, v->pid, NULL, NULL);
}

static void open_python(struct victim *v)
{
  struct ss_diag diag = {0};
  assert_int_equal(ptrace(PTRACE_SEIZE, v->pid, NULL, NULL), 0);
  stop(v);
  stopped_init(&v->at, v->pid);
  if (ss_py_open(&v->py, &v->at.space, &diag) != SS_ERR_OK)
    fail_msg("%s", diag.text);
}

static void end(struct victim *v)
{
  ss_py_free(v->py);
  stopped_release(&v->at);
  fclose(v->out);
}

/* One sample of the stopped thread, as the engine takes it. */
static void sample(struct victim *v)
{
  struct ss_read_plan plan = {0};
  struct ss_span spans[SS_PLAN_REGIONS_MAX];
  struct ss_mem_spans mem;
  struct ss_snapshot snapshot;
  const uint64_t sp = v->at.regs.r[SS_REG_SP];
  const size_t len =
      ss_mem_read(&v->at.live.mem, sp, snapshot_bytes, sizeof snapshot_bytes);
  assert_int_equal(ss_maps_load(&v->at.maps, v->pid, NULL), SS_ERR_OK);
  const struct ss_map *map = ss_maps_find(&v->at.maps, sp);
  ss_snapshot_init(&snapshot, sp, snapshot_bytes, len, &v->at.live.mem,
                   map ? map->end : sp + len);
  ss_py_plan(v->py, v->pid, &plan);
  const size_t got = ss_read_plan_run(&plan, v->pid, planned, sizeof planned);
  const size_t count =
      ss_read_plan_spans(&plan, planned, got, spans, SS_PLAN_REGIONS_MAX);
  ss_mem_spans_init(&mem, spans, count, &v->at.live.mem);
  v->end =
      ss_py_unwind_stack(v->py, v->pid, v->at.unwinder, &v->at.space, &snapshot.mem,
                         &mem.mem, &v->at.regs, native, SS_FRAMES_MAX, &v->native_count);
  ss_py_merge(v->py, v->pid, &snapshot.mem, &mem.mem, native, v->native_count, merged,
              CAP, &v->result);
  v->count = v->result.count;
  ss_snapshot_release(&snapshot);
}

static void print_merged(const struct victim *v)
{
  print_message(
      "CPython %s: verified %d, %s, end %s\n", ss_py_version(v->py), v->result.verified,
      v->result.verified ? "-" : ss_py_doubt_text(v->result.doubt), ss_end_word(v->end));
  for (size_t i = 0; i < v->count; i++) {
    struct ss_symbol symbol = {0};
    const struct ss_merged *m = &merged[i];
    if (m->kind == SS_MERGED_PYTHON) {
      print_message("  py  %s:%d\n", m->code->function, m->line);
      continue;
    }
    const struct ss_frame *f = &native[m->native];
    struct ss_module *module = (struct ss_module *)(uintptr_t)f->module;
    if (module)
      ss_module_symbol(module, f->vaddr, &symbol);
    print_message("  c   %s (%s)\n", symbol.name ? symbol.name : "?",
                  module ? module->name : "-");
  }
}

/* Runs `test` for each interpreter. */
static void each_python(void (*test)(const char *python))
{
  char *list =
      strdup(getenv("SS_TEST_PYTHONS") ? getenv("SS_TEST_PYTHONS") : "/usr/bin/python3");
  assert_non_null(list);
  for (char *at = list, *next; at; at = next) {
    next = strchr(at, ':');
    if (next)
      *next++ = '\0';
    if (strchr(at, '!') || access(at, X_OK) == 0)
      test(at);
  }
  free(list);
}

/* ---- asleep --------------------------------------------------------------- */

/* Index of the next Python frame at or after `i`, or v->count. */
static size_t next_python(const struct victim *v, size_t i)
{
  while (i < v->count && merged[i].kind != SS_MERGED_PYTHON)
    i++;
  return i;
}

static bool same_frame(const struct ss_merged *m, char *line)
{
  char *parts[4] = {line};
  for (int i = 1; i < 4; i++) {
    parts[i] = strchr(parts[i - 1], '\t');
    if (!parts[i])
      return false;
    *parts[i]++ = '\0';
  }
  return strcmp(m->code->function, parts[0]) == 0 &&
         strcmp(m->code->file, parts[1]) == 0 &&
         m->code->first_line == (int)strtol(parts[2], NULL, 10) &&
         m->line == (int)strtol(parts[3], NULL, 10);
}

static void wait_until_asleep(pid_t pid)
{
  struct ss_stat st;
  for (int i = 0; i < 10000; i++, pause_us(500))
    if (ss_stat_read(&st, pid, 0) && st.state == 'S')
      return;
  fail_msg("the interpreter does not go to sleep");
}

static void asleep(const char *python)
{
  struct victim v;
  char lines[32][512];
  size_t expected = 0;
  assert_true(start(&v, python, "tests/targets/py_nested.py", "sleep"));
  while (expected < 32 && fgets(lines[expected], sizeof lines[0], v.out) &&
         strcmp(lines[expected], "end\n") != 0)
    expected++;
  assert_true(expected > 8);
  wait_until_asleep(v.pid);
  open_python(&v);
  for (int i = 0; i < WARM_UP + 1; i++)
    sample(&v);
  if (getenv("SS_TEST_SHOW"))
    print_merged(&v);
  size_t at = 0;
  for (size_t i = 0; i < expected; i++, at++) {
    const size_t before = at;
    at = next_python(&v, at);
    const bool through_c = strstr(lines[i], "generate") || strstr(lines[i], "outer");
    if (at == v.count || !same_frame(&merged[at], lines[i]) ||
        (through_c && at == before)) {
      print_merged(&v);
      fail_msg("%s: frame %zu is not %s", python, i, lines[i]);
    }
  }
  assert_int_equal(next_python(&v, at), v.count);
  assert_int_equal(v.end, SS_END_COMPLETE);
  if (!v.result.verified)
    fail_msg("%s: %s", python, ss_py_doubt_text(v.result.doubt));
  assert_int_equal(v.result.python, expected);
  end(&v);
}
static void test_asleep(void **state)
{
  (void)state;
  each_python(asleep);
}

/* ---- running -------------------------------------------------------------- */

/* What may call what in py_flutter.py; "" is the leaf's callee. */
static const char *const calls[][2] = {
    {"b", "a"},           {"c", "a"},
    {"a", "work"},        {"a", "through_c"},
    {"a", "__init__"},    {"a", "Made.__init__"},
    {"a", "items"},       {"through_c", "work"},
    {"__init__", "work"}, {"Made.__init__", "work"},
    {"items", "work"},    {"work", "<module>"},
};

static bool may_call(const char *callee, const char *caller)
{
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (strcmp(calls[i][0], callee) == 0 && strcmp(calls[i][1], caller) == 0)
      return true;
  return false;
}

static bool possible(const struct victim *v)
{
  size_t at = next_python(v, 0), next;
  if (at == v->count)
    return false;
  for (; (next = next_python(v, at + 1)) < v->count; at = next) {
    const char *callee = merged[at].code->function, *caller = merged[next].code->function;
    if (!may_call(callee, caller))
      return false;
    if (strcmp(caller, "through_c") == 0 && next == at + 1)
      return false; /* sorted() lies between */
  }
  return strcmp(merged[at].code->function, "<module>") == 0;
}

static void running(const char *python)
{
  struct victim v;
  char line[16];
  unsigned verified = 0, impossible = 0, complete = 0;
  assert_true(start(&v, python, "tests/targets/py_flutter.py", NULL));
  assert_non_null(fgets(line, sizeof line, v.out));
  open_python(&v);
  for (int i = 0; i < STOPS + WARM_UP; i++) {
    sample(&v);
    if (i >= WARM_UP) {
      verified += v.result.verified;
      complete += v.end == SS_END_COMPLETE;
      if (!possible(&v)) {
        impossible += v.result.verified;
        print_merged(&v);
      } else if (!v.result.verified && getenv("SS_TEST_SHOW")) {
        print_merged(&v);
      }
    }
    go_on(&v);
    pause_us(100 + 7 * (i % 31));
    stop(&v);
  }
  print_message("%s: verified %u, complete %u of %d\n", python, verified, complete,
                STOPS);
  assert_int_equal(impossible, 0);
  assert_true(verified >= STOPS * 97 / 100);
  end(&v);
}
static void test_running(void **state)
{
  (void)state;
  each_python(running);
}

/* ---- threads -------------------------------------------------------------- */

/* Names that Python gave, and the busy thread as the GIL's holder. */
static void threads(const char *python)
{
  struct victim v;
  char lines[8][256];
  size_t count = 0;
  pid_t busy = 0;
  assert_true(start(&v, python, "tests/targets/py_threads.py", NULL));
  while (count < 8 && fgets(lines[count], sizeof lines[0], v.out) &&
         strcmp(lines[count], "end\n") != 0)
    count++;
  assert_int_equal(count, 3);
  wait_until_asleep(v.pid);
  open_python(&v);
  const bool named = v.py->layout.attrs != SS_PY_ATTRS_UNREAD;
  for (size_t i = 0; i < count; i++) {
    char name[128] = "", *rest;
    const pid_t tid = (pid_t)strtol(lines[i], &rest, 10);
    rest[strcspn(rest, "\n")] = '\0';
    if (strcmp(rest + 1, "busy one") == 0)
      busy = tid;
    assert_int_equal(ss_py_thread_name(v.py, tid, name, sizeof name), named);
    if (named)
      assert_string_equal(name, rest + 1);
  }
  assert_true(busy > 0);
  go_on(&v); /* stopped just where it wanted the GIL, nobody would hold it */
  const bool free_threaded = v.py->layout.gil_enabled != SS_PY_ABSENT;
  const pid_t expected = free_threaded ? 0 : busy;
  pid_t holder = -1;
  for (int i = 0; i < 10000 && holder != expected; i++, pause_us(500))
    holder = ss_py_gil_holder(v.py, v.pid, &v.at.live.mem);
  assert_int_equal(holder, expected);
  assert_false(ss_py_is_gil_word(v.py, busy, &v.at.live.mem, 0x1000));
  stop(&v);
  end(&v);
}
static void test_threads(void **state)
{
  (void)state;
  each_python(threads);
}

/* ---- objects -------------------------------------------------------------- */

static uint64_t value_of(struct victim *v, uint64_t object, const char *name)
{
  uint64_t value = 0;
  if (!ss_py_attribute(v->py, object, name, &value))
    fail_msg("%s: no attribute %s", ss_py_version(v->py), name);
  return value;
}

static void assert_number(struct victim *v, uint64_t object, double expected)
{
  double value = -1;
  assert_true(ss_py_number(v->py, object, &value));
  assert_true(value == expected);
}

static void check_item(struct victim *v, uint64_t item)
{
  const uint64_t parent = value_of(v, item, "parent"); /* a slot of its base */
  const uint64_t list = value_of(v, item, "items"), pair = value_of(v, item, "pair");
  uint64_t got = 0;
  double number;
  assert_true(ss_py_is_str(v->py, value_of(v, parent, "name"), "the parent"));
  assert_true(ss_py_is_str(v->py, value_of(v, item, "text"), "timeout"));
  assert_false(ss_py_is_str(v->py, value_of(v, item, "text"), "timeou"));
  assert_number(v, value_of(v, item, "small"), 7);
  assert_number(v, value_of(v, item, "large"), 1e15 + 3);
  assert_number(v, value_of(v, item, "zero"), 0);
  assert_number(v, value_of(v, item, "share"), 2.5);
  assert_number(v, value_of(v, parent, "a99"), 99);
  assert_false(ss_py_number(v->py, value_of(v, item, "negative"), &number));
  assert_false(ss_py_number(v->py, list, &number));
  assert_true(ss_py_element(v->py, list, 1, &got) && got == parent);
  assert_false(ss_py_element(v->py, list, 2, &got));
  assert_true(ss_py_element(v->py, pair, 0, &got) && ss_py_is_str(v->py, got, "a"));
  assert_false(ss_py_element(v->py, item, 0, &got));
  assert_true(ss_py_item(v->py, value_of(v, item, "by_name"), "timeout", &got));
  assert_number(v, got, 12);
  assert_false(ss_py_item(v->py, value_of(v, item, "by_name"), "time", &got));
  static const char *const missing[] = {"gone", "unset", "none", ""};
  for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
    assert_false(ss_py_attribute(v->py, item, missing[i], &got));
  assert_false(ss_py_attribute(v->py, 0, "text", &got));
  assert_false(ss_py_attribute(v->py, item + 4, "text", &got));
}

static void objects(const char *python)
{
  const char *file = strchr(python, '!') ? "<stdin>" : "/py_objects.py";
  struct victim v;
  char line[16];
  uint64_t item = 0;
  assert_true(start(&v, python, "tests/targets/py_objects.py", NULL));
  assert_non_null(fgets(line, sizeof line, v.out));
  wait_until_asleep(v.pid);
  open_python(&v);
  const bool readable = v.py->layout.attrs != SS_PY_ATTRS_UNREAD;
  assert_int_equal(ss_py_argument(v.py, v.pid, "hold", file, &item), readable);
  if (readable)
    check_item(&v, item);
  assert_false(ss_py_argument(v.py, v.pid, "hold", "/other.py", &item));
  assert_false(ss_py_argument(v.py, v.pid, "held", file, &item));
  end(&v);
}
static void test_objects(void **state)
{
  (void)state;
  each_python(objects);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_asleep),
      cmocka_unit_test(test_running),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_objects),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
