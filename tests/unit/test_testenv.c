/* The running test in a live environment: the states a slot goes through in
 * this very process, races made on purpose, and real pytest runs that stop in
 * every phase until it was seen. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/context/context_priv.h"
#include "stacksample/context.h"
#include "stacksample/elf.h"
#include "stacksample/limits.h"
#include "tmpdir.h"

extern char **environ;

static void test_parse(void **state)
{
  (void)state;
  static const struct {
    const char *value, *id, *phase;
  } rows[] = {
      {"t/a.py::test_x (setup)", "t/a.py::test_x", "setup"},
      {"t/a.py::test_x[a (call)] (call)", "t/a.py::test_x[a (call)]", "call"},
      {"a (teardown)", "a", "teardown"},
      {" (call)", "", "call"},
      {"(call)", "(call)", ""},
      {"a (other)", "a (other)", ""},
      {"a (call) ", "a (call) ", ""},
      {"a", "a", ""},
      {"", "", ""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct ss_test_id id;
    ss_test_parse(rows[i].value, strlen(rows[i].value), &id);
    assert_int_equal(id.id_len, strlen(rows[i].id));
    assert_memory_equal(id.id, rows[i].id, id.id_len);
    assert_int_equal(id.phase_len, strlen(rows[i].phase));
    assert_memory_equal(id.phase, rows[i].phase, id.phase_len);
  }
}

/* ---- our own environment --------------------------------------------------------- */

/* Our memory, with a count of reads and a trap: when `trap_at` is read, `trap`
 * is called first. */
struct counted {
  struct ss_mem mem;
  struct ss_mem_live live;
  unsigned reads;
  uint64_t trap_at;
  unsigned trap_after; /* reads of that address that pass */
  void (*trap)(void);
};

static size_t counted_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  struct counted *c = (struct counted *)(uintptr_t)mem;
  c->reads++;
  if (c->trap && addr == c->trap_at && c->trap_after-- == 0) {
    void (*trap)(void) = c->trap;
    c->trap = NULL;
    trap();
  }
  return ss_mem_read(&c->live.mem, addr, buf, len);
}

struct own {
  struct counted mem;
  struct ss_testenv env;
  struct ss_maps maps;
  struct ss_unwind_space space;
};

static void own_init(struct own *o)
{
  memset(o, 0, sizeof *o);
  ss_mem_live_init(&o->mem.live, getpid());
  o->mem.mem.read = counted_read;
  o->env.environ_var = (uint64_t)(uintptr_t)&environ;
  o->space =
      (struct ss_unwind_space){.pid = getpid(), .maps = &o->maps, .live = &o->mem.mem};
}

static void own_release(struct own *o)
{
  ss_testenv_release(&o->env);
  ss_mem_live_release(&o->mem.live);
}

static bool look(struct own *o)
{
  o->mem.reads = 0;
  return ss_testenv_update(&o->env, &o->space, &o->mem.mem);
}

static void set_test(const char *value)
{
  assert_int_equal(setenv("PYTEST_CURRENT_TEST", value, 1), 0);
}

/* Two looks: the first sees it, the second reads only what the plan names. */
static void expect(struct own *o, const char *value)
{
  assert_true(look(o));
  if (value) {
    assert_non_null(o->env.value);
    assert_string_equal(o->env.value, value);
    assert_int_equal(o->env.value_len, strlen(value));
  } else {
    assert_null(o->env.value);
  }
  uint64_t generation = o->env.generation;
  assert_false(look(o));
  assert_true(o->mem.reads <= 3);
  assert_int_equal(o->env.generation, generation);
}

static void test_life_of_a_slot(void **state)
{
  (void)state;
  struct own o;
  own_init(&o);
  unsetenv("PYTEST_CURRENT_TEST");
  assert_false(look(&o));
  assert_false(look(&o));
  assert_true(o.mem.reads <= 2); /* never set: two reads a look */
  assert_false(o.env.pytest);
  for (int i = 0; i < 3; i++) {
    set_test("a.py::t (setup)");
    expect(&o, "a.py::t (setup)");
    set_test("a.py::t (call)");
    expect(&o, "a.py::t (call)");
    assert_true(setenv("SS_OTHER", "grows the array", 1) == 0);
    assert_false(look(&o));
    set_test("a.py::t (teardown)");
    expect(&o, "a.py::t (teardown)");
    assert_true(unsetenv("SS_OTHER") == 0);
    assert_false(look(&o));
    unsetenv("PYTEST_CURRENT_TEST");
    expect(&o, NULL);
    assert_true(setenv("SS_OTHER", "after the test", 1) == 0);
    assert_false(look(&o));
    assert_true(unsetenv("SS_OTHER") == 0);
    assert_false(look(&o));
  }
  assert_true(o.env.pytest);
  own_release(&o);
}

/* Its slot is not the last, so that unsetenv moves others into its place. */
static void test_slot_in_the_middle(void **state)
{
  (void)state;
  struct own o;
  own_init(&o);
  set_test("m (call)");
  assert_int_equal(setenv("SS_B", "b", 1), 0);
  assert_int_equal(setenv("SS_C", "c", 1), 0);
  expect(&o, "m (call)");
  assert_int_equal(unsetenv("PYTEST_CURRENT_TEST"), 0);
  expect(&o, NULL);
  set_test("n (setup)");
  expect(&o, "n (setup)");
  assert_int_equal(unsetenv("SS_B"), 0); /* moves ours down by one */
  assert_false(look(&o));
  set_test("n (call)");
  expect(&o, "n (call)");
  unsetenv("SS_C");
  unsetenv("PYTEST_CURRENT_TEST");
  expect(&o, NULL);
  own_release(&o);
}

/* One removed and another added between two looks: the count is the same. */
static void test_same_count(void **state)
{
  (void)state;
  struct own o;
  own_init(&o);
  assert_int_equal(setenv("SS_B", "b", 1), 0);
  assert_int_equal(setenv("SS_C", "c", 1), 0);
  assert_false(look(&o));
  unsetenv("SS_B");
  set_test("s (call)");
  expect(&o, "s (call)");
  unsetenv("PYTEST_CURRENT_TEST");
  unsetenv("SS_C");
  expect(&o, NULL);
  own_release(&o);
}

static void test_content_changes_in_place(void **state)
{
  (void)state;
  static char slot[64] = "PYTEST_CURRENT_TEST=p (setup)";
  struct own o;
  own_init(&o);
  assert_int_equal(putenv(slot), 0);
  expect(&o, "p (setup)");
  memcpy(slot + 20, "qq (call)", 10);
  expect(&o, "qq (call)");
  memcpy(slot, "XYTEST", 6);
  expect(&o, NULL);
  unsetenv("XYTEST_CURRENT_TEST");
  unsetenv("PYTEST_CURRENT_TEST");
  own_release(&o);
}

static void test_other_variables(void **state)
{
  (void)state;
  struct own o;
  own_init(&o);
  assert_false(look(&o));
  assert_int_equal(setenv("PYTEST_XDIST_WORKER_COUNT", "2", 1), 0);
  assert_int_equal(setenv("PYTEST_CURRENT_TESTS", "no (call)", 1), 0);
  assert_false(look(&o));
  assert_false(o.env.pytest);
  assert_int_equal(setenv("PYTEST_VERSION", "8.2", 1), 0);
  assert_false(look(&o));
  assert_true(o.env.pytest);
  assert_int_equal(setenv("PYTEST_XDIST_WORKER", "gw11", 1), 0);
  assert_false(look(&o));
  assert_string_equal(o.env.worker, "gw11");
  ss_testenv_reset(&o.env);
  assert_string_equal(o.env.worker, "");
  assert_int_equal(o.env.environ_var, 0);
  unsetenv("PYTEST_XDIST_WORKER_COUNT");
  unsetenv("PYTEST_CURRENT_TESTS");
  unsetenv("PYTEST_VERSION");
  unsetenv("PYTEST_XDIST_WORKER");
  own_release(&o);
}

static void test_odd_values(void **state)
{
  (void)state;
  struct own o;
  char *big = malloc(3 * SS_TEST_ID_MAX);
  own_init(&o);
  set_test("a form of tomorrow");
  expect(&o, "a form of tomorrow");
  set_test("");
  expect(&o, "");
  for (size_t len = 480; len < 520; len++) { /* around what a plan reads */
    memset(big, 'x', len);
    memcpy(big + len, " (call)", 8);
    set_test(big);
    expect(&o, big);
  }
  memset(big, 'y', 2 * SS_TEST_ID_MAX);
  memcpy(big + (size_t)2 * SS_TEST_ID_MAX, " (call)", 8);
  set_test(big);
  assert_true(look(&o));
  assert_int_equal(o.env.value_len, SS_TEST_ID_MAX);
  assert_false(look(&o));
  unsetenv("PYTEST_CURRENT_TEST");
  expect(&o, NULL);
  free(big);
  own_release(&o);
}

/* ---- races ------------------------------------------------------------------------ */

static void next_phase(void)
{
  set_test("r (teardown)");
}

static void remove_test(void)
{
  unsetenv("PYTEST_CURRENT_TEST");
}

/* The slot changes between the text and the second look at the slot. */
static void test_race(void **state)
{
  (void)state;
  struct own o;
  own_init(&o);
  set_test("r (setup)");
  expect(&o, "r (setup)");
  set_test("r (call)");
  o.mem.trap = next_phase;
  o.mem.trap_at = o.env.slot_addr;
  o.mem.trap_after = 2; /* first look, second look before the text, then now */
  assert_true(look(&o));
  assert_null(o.mem.trap);
  assert_string_equal(o.env.value, "r (teardown)");
  set_test("r2 (call)");
  o.mem.trap = remove_test;
  o.mem.trap_after = 2;
  look(&o);
  assert_null(o.mem.trap);
  look(&o);
  assert_null(o.env.value);
  own_release(&o);
}

/* An array that cannot be read to its end says nothing: the value stays. */
static void test_torn_array(void **state)
{
  (void)state;
  struct own o;
  static const char text[] = SS_TEST_NAME "z (call)";
  uint64_t slots[2] = {(uint64_t)(uintptr_t)text, 0};
  uint64_t array = (uint64_t)(uintptr_t)slots;
  own_init(&o);
  o.env.environ_var = (uint64_t)(uintptr_t)&array;
  expect(&o, "z (call)");
  array = 0x1000; /* unmapped */
  assert_false(look(&o));
  assert_string_equal(o.env.value, "z (call)");
  array = (uint64_t)(uintptr_t)slots;
  assert_false(look(&o));
  array = 0;
  expect(&o, NULL);
  own_release(&o);
}

/* Slots that point nowhere, without an end: bounded, and not repeated. */
static void test_hostile_array(void **state)
{
  (void)state;
  enum { SLOTS = 3 * SS_ENVIRON_MAX };
  struct own o;
  uint64_t *slots = malloc(SLOTS * sizeof *slots);
  uint64_t array = (uint64_t)(uintptr_t)slots;
  for (uint64_t i = 0; i < SLOTS; i++)
    slots[i] = 0x1000 + i * 8192;
  own_init(&o);
  o.env.environ_var = (uint64_t)(uintptr_t)&array;
  assert_false(look(&o));
  assert_true(o.mem.reads < 2 * SS_ENVIRON_MAX);
  array += 8;
  assert_false(look(&o));
  assert_true(o.mem.reads < 10);
  free(slots);
  own_release(&o);
}

/* Every prefix of an environment's memory. */
struct window_mem {
  struct ss_mem mem;
  const unsigned char *bytes;
  size_t len;
};

static size_t window_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  const struct window_mem *w = (const struct window_mem *)mem;
  if (addr < 0x10000 || addr - 0x10000 >= w->len)
    return 0;
  size_t off = (size_t)(addr - 0x10000);
  size_t n = w->len - off < len ? w->len - off : len;
  memcpy(buf, w->bytes + off, n);
  return n;
}

static void test_every_prefix(void **state)
{
  (void)state;
  struct {
    uint64_t environ_var, slots[4];
    char a[8], test[40], worker[32];
  } image = {0x10008, {0x10028, 0x10030, 0x10058, 0}, "A=1", "", ""};
  memcpy(image.test, SS_TEST_NAME "w (call)", sizeof SS_TEST_NAME + 8);
  memcpy(image.worker, "PYTEST_XDIST_WORKER=gw0", 24);
  for (size_t len = 0; len <= sizeof image; len++) {
    unsigned char *bytes = malloc(len ? len : 1);
    memcpy(bytes, &image, len);
    struct window_mem w = {.mem = {.read = window_read}, .bytes = bytes, .len = len};
    struct ss_testenv env = {.environ_var = 0x10000};
    struct ss_unwind_space space = {.live = &w.mem};
    bool found = ss_testenv_update(&env, &space, &w.mem);
    assert_int_equal(found, len >= 0x30 + sizeof SS_TEST_NAME + 8);
    if (found)
      assert_string_equal(env.value, "w (call)");
    ss_testenv_release(&env);
    free(bytes);
  }
}

/* ---- what stage 1 copied --------------------------------------------------------- */

/* Takes the plan's copy, lets `after` happen, then interprets the copy. */
static bool look_at_copy(struct own *o, void (*after)(void))
{
  struct ss_read_plan plan = {0};
  unsigned char buf[2048];
  struct ss_span spans[16];
  struct ss_mem_spans copy;
  assert_true(ss_testenv_plan(&o->env, &plan));
  size_t got = ss_read_plan_run(&plan, getpid(), buf, sizeof buf);
  size_t count = ss_read_plan_spans(&plan, buf, got, spans, 16);
  assert_int_equal(count, plan.count);
  if (after)
    after();
  o->mem.reads = 0;
  ss_mem_spans_init(&copy, spans, count, &o->mem.mem);
  return ss_testenv_update(&o->env, &o->space, &copy.mem);
}

static void set_second(void)
{
  set_test("second (setup)");
}

static void test_copies(void **state)
{
  (void)state;
  struct own o;
  struct ss_read_plan plan = {0};
  own_init(&o);
  o.env.environ_var = 0;
  assert_false(ss_testenv_plan(&o.env, &plan));
  o.env.environ_var = (uint64_t)(uintptr_t)&environ;
  assert_false(look_at_copy(&o, NULL));
  assert_false(look_at_copy(&o, NULL));
  assert_int_equal(o.mem.reads, 0); /* not set: the copy says all */
  set_test("first (call)");
  assert_true(look_at_copy(&o, NULL));
  assert_string_equal(o.env.value, "first (call)");
  assert_false(look_at_copy(&o, NULL));
  assert_int_equal(o.mem.reads, 0);
  /* The copy belongs to the sample: what came later does not count. */
  assert_false(look_at_copy(&o, set_second));
  assert_string_equal(o.env.value, "first (call)");
  assert_true(look_at_copy(&o, remove_test));
  assert_string_equal(o.env.value, "second (setup)");
  assert_true(look_at_copy(&o, NULL));
  assert_null(o.env.value);
  const unsigned full = SS_PLAN_REGIONS_MAX - SS_PLAN_STACK_REGIONS;
  plan.count = full; /* no room left */
  assert_true(ss_testenv_plan(&o.env, &plan));
  assert_int_equal(plan.count, full);
  own_release(&o);
}

/* ---- real processes -------------------------------------------------------------- */

/* A process looked at from outside, as the pipeline does. */
struct watched {
  pid_t pid;
  struct ss_testenv env;
  struct ss_maps maps;
  struct ss_mem_live live;
  struct ss_unwind_space space;
};

static void watch(struct watched *w, pid_t pid, struct ss_paths *paths,
                  struct ss_modules *modules)
{
  *w = (struct watched){.pid = pid};
  ss_maps_init(&w->maps, paths);
  ss_mem_live_init(&w->live, pid);
  assert_int_equal(ss_maps_load(&w->maps, pid, NULL), SS_ERR_OK);
  w->space = (struct ss_unwind_space){
      .pid = pid, .maps = &w->maps, .modules = modules, .live = &w->live.mem};
}

static void unwatch(struct watched *w)
{
  ss_testenv_release(&w->env);
  ss_maps_release(&w->maps);
  ss_mem_live_release(&w->live);
}

static void test_located_in_ourselves(void **state)
{
  (void)state;
  struct ss_paths *paths = ss_paths_new();
  struct ss_modules *modules = ss_modules_new();
  struct watched w;
  set_test("here (call)");
  watch(&w, getpid(), paths, modules);
  assert_true(ss_testenv_update(&w.env, &w.space, &w.live.mem));
  assert_int_equal(w.env.environ_var, (uint64_t)(uintptr_t)&environ);
  assert_string_equal(w.env.value, "here (call)");
  unwatch(&w);
  /* Nothing mapped: looked for once a change of the mappings. */
  struct ss_maps empty;
  struct ss_testenv env = {0};
  ss_maps_init(&empty, paths);
  struct ss_unwind_space space = {
      .pid = getpid(), .maps = &empty, .modules = modules, .live = &w.live.mem};
  assert_false(ss_testenv_update(&env, &space, &w.live.mem));
  assert_true(env.looked);
  unsetenv("PYTEST_CURRENT_TEST");
  ss_modules_free(modules);
  ss_paths_free(paths);
}

static const char *python(void)
{
  const char *chosen = getenv("PYTHON");
  return chosen && chosen[0] ? chosen : "/usr/bin/python3";
}

/* Runs a short Python program quietly; its exit status. */
static int python_status(const char *program)
{
  int status = -1;
  pid_t pid = fork();
  if (pid == 0) {
    int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    dup2(null, 2);
    execl(python(), python(), "-c", program, (char *)NULL);
    _exit(127);
  }
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Each phase tells who it is and waits for a byte before it goes on. */
static const char test_file[] =
    "import os, pytest\n"
    "def step():\n"
    "    worker = os.environ.get('PYTEST_XDIST_WORKER', 'main')\n"
    "    said = os.environ['PYTEST_CURRENT_TEST']\n"
    "    with open('said', 'w') as f:\n"
    "        f.write(f'{os.getpid()} {worker} {said}\\n')\n"
    "    with open('go-' + worker, 'rb', 0) as f:\n"
    "        f.read(1)\n"
    "@pytest.fixture\n"
    "def phases():\n"
    "    step()\n"
    "    yield\n"
    "    step()\n"
    "@pytest.mark.parametrize('n', range(4))\n"
    "def test_step(phases, n):\n"
    "    step()\n";

struct session {
  char folder[TMPDIR_PATH];
  int said;  /* what the tests say */
  int go[3]; /* of main, gw0, gw1 */
  pid_t pid;
};
static const char *const workers[] = {"main", "gw0", "gw1"};

static int make_fifo(const struct session *s, const char *name)
{
  char path[128];
  snprintf(path, sizeof path, "%s/%s", s->folder, name);
  assert_int_equal(mkfifo(path, 0600), 0);
  int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK); /* no open ever blocks */
  assert_true(fd >= 0);
  return fd;
}

static void write_text(const struct session *s, const char *name, const char *text)
{
  char path[128];
  snprintf(path, sizeof path, "%s/%s", s->folder, name);
  FILE *f = fopen(path, "we");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0);
  assert_int_equal(fclose(f), 0);
}

/* argv[0] is the interpreter; it runs in the session's folder. */
static void start(struct session *s, char *const argv[])
{
  assert_true(tmpdir_make(s->folder));
  write_text(s, "test_x.py", test_file);
  s->said = make_fifo(s, "said");
  for (size_t i = 0; i < 3; i++) {
    char name[16];
    snprintf(name, sizeof name, "go-%s", workers[i]);
    s->go[i] = make_fifo(s, name);
  }
  s->pid = fork();
  if (s->pid == 0) {
    int null = open("/dev/null", O_RDWR);
    int folder = open(s->folder, O_RDONLY | O_DIRECTORY);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    if (fchdir(folder) == 0)
      execv(argv[0], argv);
    _exit(127);
  }
}

/* The next line that a test says; false once pytest has ended. */
static bool next_line(const struct session *s, char *line, size_t cap)
{
  for (;;) {
    struct pollfd p = {s->said, POLLIN, 0};
    if (poll(&p, 1, 50) == 1) {
      ssize_t n = 0;
      while (n < (ssize_t)cap - 1 && read(s->said, line + n, 1) == 1 && line[n] != '\n')
        n++;
      line[n] = '\0';
      return true;
    }
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)s->pid, &info, WEXITED | WNOWAIT | WNOHANG) != 0 ||
        info.si_pid == s->pid)
      return false;
  }
}

static int finish(struct session *s)
{
  int status = -1;
  waitpid(s->pid, &status, 0);
  assert_int_equal(tmpdir_remove(s->folder), 0);
  close(s->said);
  for (size_t i = 0; i < 3; i++)
    close(s->go[i]);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Every phase of every test, seen from outside while it stands still. */
static unsigned watch_session(struct session *s, bool by_copy)
{
  struct ss_paths *paths = ss_paths_new();
  struct ss_modules *modules = ss_modules_new();
  struct watched w[3];
  bool known[3] = {false};
  unsigned seen = 0;
  char line[512], worker[16];
  memset(w, 0, sizeof w);
  while (next_line(s, line, sizeof line)) {
    int pid, at = 0;
    size_t i = 0;
    assert_int_equal(sscanf(line, "%d %15s %n", &pid, worker, &at), 2);
    while (strcmp(workers[i], worker) != 0)
      i++;
    if (!known[i])
      watch(&w[i], (pid_t)pid, paths, modules);
    known[i] = true;
    struct ss_read_plan plan = {0};
    unsigned char buf[2048];
    struct ss_span spans[16];
    struct ss_mem_spans copy;
    if (by_copy && ss_testenv_plan(&w[i].env, &plan)) {
      size_t got = ss_read_plan_run(&plan, pid, buf, sizeof buf);
      size_t count = ss_read_plan_spans(&plan, buf, got, spans, 16);
      ss_mem_spans_init(&copy, spans, count, &w[i].live.mem);
      assert_true(ss_testenv_update(&w[i].env, &w[i].space, &copy.mem));
    } else {
      assert_true(ss_testenv_update(&w[i].env, &w[i].space, &w[i].live.mem));
    }
    assert_non_null(w[i].env.value);
    assert_string_equal(w[i].env.value, line + at);
    assert_string_equal(w[i].env.worker, i == 0 ? "" : worker);
    assert_false(ss_testenv_update(&w[i].env, &w[i].space, &w[i].live.mem));
    assert_int_equal(write(s->go[i], "x", 1), 1);
    seen++;
  }
  for (size_t i = 0; i < 3; i++)
    if (known[i])
      unwatch(&w[i]);
  ss_modules_free(modules);
  ss_paths_free(paths);
  return seen;
}

static void check_session(bool xdist, bool by_copy)
{
  struct session s;
  char *argv[] = {
      (char *)(uintptr_t)python(), "-m", "pytest", "-q", "-p", "no:cacheprovider",
      xdist ? "-n2" : "-v",        NULL};
  if (python_status(xdist ? "import pytest, xdist" : "import pytest") != 0)
    skip();
  assert_int_equal(setenv("PYTHONDONTWRITEBYTECODE", "1", 1), 0);
  start(&s, argv);
  unsigned seen = watch_session(&s, by_copy);
  assert_int_equal(finish(&s), 0);
  assert_int_equal(seen, 12); /* four tests of three phases */
}

static void test_pytest(void **state)
{
  (void)state;
  check_session(false, false);
}

static void test_pytest_by_copies(void **state)
{
  (void)state;
  check_session(false, true);
}

static void test_xdist(void **state)
{
  (void)state;
  check_session(true, true);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_parse),
      cmocka_unit_test(test_life_of_a_slot),
      cmocka_unit_test(test_slot_in_the_middle),
      cmocka_unit_test(test_same_count),
      cmocka_unit_test(test_content_changes_in_place),
      cmocka_unit_test(test_other_variables),
      cmocka_unit_test(test_odd_values),
      cmocka_unit_test(test_race),
      cmocka_unit_test(test_torn_array),
      cmocka_unit_test(test_hostile_array),
      cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_copies),
      cmocka_unit_test(test_located_in_ourselves),
      cmocka_unit_test(test_pytest),
      cmocka_unit_test(test_pytest_by_copies),
      cmocka_unit_test(test_xdist),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
