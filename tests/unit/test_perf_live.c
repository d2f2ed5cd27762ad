/*
 * Real events on a real child: two threads that burn CPU time. Run as we are, and
 * once more as an unprivileged user where we are root. Rings are a machine-wide
 * resource, hence the lock.
 */
#include "unit.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stacksample/context.h"
#include "stacksample/engine.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

enum { NOBODY = 65534, SPIN_MS = 500, THREADS = 2 };

/* ---- the victim ----------------------------------------------------------------------
 */

static uint64_t thread_ms(void)
{
  struct timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void *spin(void *arg)
{
  volatile uint64_t x = 0;
  while (thread_ms() < SPIN_MS) {
    for (int i = 0; i < 1000000; i++) {
      x += (uint64_t)i;
    }
  }
  return arg;
}

/* Waits for the end of file on `go`, spins, exits. */
static _Noreturn void victim(int go)
{
  char byte;
  pthread_t thread;
  while (read(go, &byte, 1) < 0) {
  }
  if (pthread_create(&thread, NULL, spin, NULL) != 0) {
    _exit(1);
  }
  spin(NULL);
  pthread_join(thread, NULL);
  _exit(0);
}

static pid_t start_victim(int *go)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return -1;
  }
  pid_t pid = fork();
  if (pid == 0) {
    close(ends[1]);
    victim(ends[0]);
  }
  close(ends[0]);
  *go = ends[1];
  return pid;
}

/* ---- its ledger
 * --------------------------------------------------------------------------- */

struct account {
  pid_t tid;
  uint64_t birth_ns, end_ns;
  struct ss_ledger_thread *thread;
};
struct books {
  struct ss_ledger *ledger;
  struct account accounts[16];
  uint32_t count;
  uint64_t ns[SS_STATE_COUNT], emitted_ns;
};

static void on_emit(void *arg, uint32_t thread, uint32_t phase, enum ss_state state,
                    uint64_t ns)
{
  struct books *books = arg;
  (void)thread;
  (void)phase;
  books->ns[state] += ns;
  books->emitted_ns += ns;
}

static struct account *account_of(struct books *books, pid_t tid)
{
  for (uint32_t i = 0; i < books->count; i++) {
    if (books->accounts[i].tid == tid) {
      return &books->accounts[i];
    }
  }
  return NULL;
}

static void open_account(struct books *books, pid_t tid, uint64_t time_ns)
{
  if (books->count < 16) {
    struct account *a = &books->accounts[books->count];
    a->tid = tid;
    a->birth_ns = time_ns;
    a->thread = ss_ledger_birth(books->ledger, books->count++, 0, time_ns, false);
  }
}

static void close_account(struct account *a, pid_t pid, uint64_t time_ns)
{
  uint64_t cpu_ns, wait_ns;
  if (ss_schedstat_read(pid, a->tid, &cpu_ns, &wait_ns)) {
    ss_ledger_schedstat(a->thread, time_ns, cpu_ns, wait_ns);
  }
  ss_ledger_end(a->thread, time_ns);
  a->thread = NULL;
  a->end_ns = time_ns;
}

static void keep_books(struct books *books, const struct ss_record *r)
{
  struct account *a = account_of(books, r->tid);
  if (r->type == SS_REC_FORK) {
    open_account(books, r->tid, r->time_ns);
  } else if (r->type == SS_REC_LOST) {
    ss_ledger_gap(books->ledger, r->time_ns);
  } else if (a && a->thread && r->type == SS_REC_SWITCH) {
    ss_ledger_switch(a->thread, r->time_ns, r->u.sw.out, r->u.sw.preempted);
  } else if (a && a->thread && r->type == SS_REC_SAMPLE) {
    ss_ledger_sample(a->thread, r->time_ns,
                     r->u.sample.kernel ? SS_STATE_KERNEL : SS_STATE_USER);
  } else if (a && a->thread && r->type == SS_REC_EXIT) {
    close_account(a, r->pid, r->time_ns);
  }
}

/* ---- what was seen --------------------------------------------------------------------
 */

struct seen {
  uint64_t samples, kernel, no_regs, outside, no_stack;
  uint64_t switches, forks, exits, backwards, before_birth;
  uint64_t last_ns;
  struct books books;
  pid_t born[16];
  size_t born_count;
  struct {
    uint64_t start, end;
  } exec_maps[256];
  size_t map_count;
};

/* The victim is a fork of ours: same mappings. */
static void load_exec_maps(struct seen *seen)
{
  char line[512], prot[8];
  FILE *f = fopen("/proc/self/maps", "re");
  while (f && fgets(line, sizeof line, f) && seen->map_count < 256) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx %7s", &start, &end, prot) == 3 && prot[2] == 'x') {
      seen->exec_maps[seen->map_count].start = start;
      seen->exec_maps[seen->map_count++].end = end;
    }
  }
  if (f) {
    fclose(f);
  }
}

static bool in_exec_map(const struct seen *seen, uint64_t ip)
{
  for (size_t i = 0; i < seen->map_count; i++) {
    if (ip >= seen->exec_maps[i].start && ip < seen->exec_maps[i].end) {
      return true;
    }
  }
  return false;
}

static bool was_born(const struct seen *seen, pid_t tid)
{
  for (size_t i = 0; i < seen->born_count; i++) {
    if (seen->born[i] == tid) {
      return true;
    }
  }
  return false;
}

static void see_sample(struct seen *seen, const struct ss_record *r)
{
  seen->samples++;
  seen->kernel += r->u.sample.kernel;
  seen->before_birth += !was_born(seen, r->tid);
  seen->no_stack += r->u.sample.stack_len == 0;
  if (!r->u.sample.has_regs) {
    seen->no_regs++;
  } else {
    seen->outside += !in_exec_map(seen, r->u.sample.regs.r[SS_REG_IP]);
  }
}

static void see(struct seen *seen, const struct ss_record *r)
{
  seen->backwards += r->time_ns < seen->last_ns;
  seen->last_ns = r->time_ns;
  keep_books(&seen->books, r);
  switch (r->type) {
  case SS_REC_SAMPLE:
    see_sample(seen, r);
    break;
  case SS_REC_FORK:
    seen->forks++;
    seen->born[seen->born_count++ % 16] = r->tid;
    break;
  case SS_REC_EXIT:
    seen->exits++;
    break;
  case SS_REC_SWITCH:
    seen->switches++;
    break;
  default:
    break;
  }
}

static void take(struct ss_capture *capture, struct seen *seen)
{
  struct ss_captured got;
  while (ss_capture_next(capture, &got)) {
    see(seen, &got.rec);
  }
}

static void watch_until_end(struct ss_capture *capture, pid_t pid, struct seen *seen)
{
  siginfo_t info = {0};
  while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0) {
    ss_capture_wait(capture, 20);
    take(capture, seen);
  }
}

/* ---- the check
 * -------------------------------------------------------------------------- */

static int lock_perf(void)
{
  int fd = open("/tmp/stacksample-perf.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  assert_true(fd >= 0);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  return fd;
}

/* `slack`: what the threads' ends leave over. */
static bool about(uint64_t a, uint64_t b, uint64_t percent, uint64_t slack)
{
  uint64_t diff = a > b ? a - b : b - a;
  return diff * 100 <= percent * b + slack * 100;
}

/* Of samples; hits in the kernel (on a busy machine: some percent) may be hidden. */
static uint64_t tolerance(bool kernel_samples)
{
  return kernel_samples ? 3 : 10;
}

#define CHECK(cond) ((cond) ? 0 : (fprintf(stderr, "line %d: %s\n", __LINE__, #cond), 1))

static int check(const struct seen *seen, const struct ss_perf_facts *facts,
                 const struct ss_capture_counts *counts, uint64_t count_ns)
{
  uint64_t expected = count_ns / facts->period_ns;
  fprintf(
      stderr,
      "samples %llu (%llu in the kernel) + lost %llu of %llu; %llu switches, fifo %d\n",
      (unsigned long long)seen->samples, (unsigned long long)seen->kernel,
      (unsigned long long)counts->lost, (unsigned long long)expected,
      (unsigned long long)seen->switches, counts->fifo);
  int bad = 0;
  bad += CHECK(count_ns > (uint64_t)THREADS * SPIN_MS * 900000);
  bad += CHECK(about(seen->samples + counts->lost, expected,
                     tolerance(facts->kernel_samples), THREADS));
  bad += CHECK(counts->samples == seen->samples + counts->queue_full);
  bad += CHECK(counts->undecodable == 0);
  bad += CHECK(seen->no_regs == 0 && seen->no_stack == 0);
  bad += CHECK(seen->outside == 0);
  bad += CHECK(seen->forks == THREADS - 1 && seen->exits == THREADS);
  bad += CHECK(seen->switches > 0);
  bad += CHECK(seen->backwards == 0 && seen->before_birth == 0);
  bad += CHECK(facts->kernel_samples || seen->kernel == 0);
  bad += CHECK(facts->snapshot == SS_STACK_SNAPSHOT_DEFAULT);
  return bad;
}

static int check_books(struct books *books, uint64_t count_ns)
{
  ss_ledger_flush(books->ledger);
  int bad = 0;
  uint64_t lives = 0;
  for (uint32_t i = 0; i < books->count; i++) {
    bad += CHECK(books->accounts[i].end_ns > 0);
    lives += books->accounts[i].end_ns - books->accounts[i].birth_ns;
  }
  uint64_t cpu = books->ns[SS_STATE_USER] + books->ns[SS_STATE_KERNEL];
  fprintf(stderr, "lives %llu ms:", (unsigned long long)lives / 1000000);
  for (int i = 0; i < SS_STATE_COUNT; i++) {
    fprintf(stderr, " %s %.1f", ss_state_word((enum ss_state)i),
            (double)books->ns[i] / 1e6);
  }
  fprintf(stderr, "\n");
  bad += CHECK(books->count == THREADS);
  bad += CHECK(books->emitted_ns == lives);
  bad += CHECK(books->ns[SS_STATE_UNKNOWN] * 100 < lives);
  bad += CHECK(about(cpu, count_ns, 3, 0));
  bad += CHECK(books->ns[SS_STATE_KERNEL] * 10 < cpu);
  return bad;
}

static int profile_a_child(void)
{
  int bad = 1, go = -1, status = 0;
  struct ss_perf *perf = NULL;
  struct ss_capture *capture = NULL;
  struct ss_diag diag = {0};
  struct seen *seen = calloc(1, sizeof *seen);
  struct ss_perf_config config = {.rate_hz = 400,
                                  .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
                                  .inherit = true,
                                  .switches = true};
  pid_t pid = start_victim(&go);
  if (!seen || pid <= 0 || ss_perf_open(&perf, &config, pid, &diag) != SS_ERR_OK ||
      ss_capture_start(&capture, perf, NULL, &diag) != SS_ERR_OK) {
    fprintf(stderr, "not opened: %s\n", diag.text);
    goto out;
  }
  const struct ss_perf_facts *facts = ss_perf_facts(perf);
  seen->books.ledger = ss_ledger_new(facts->period_ns, facts->kernel_samples,
                                     facts->switches, on_emit, &seen->books);
  load_exec_maps(seen);
  seen->born[seen->born_count++] = pid;
  open_account(&seen->books, pid, ss_now_ns());
  ss_perf_enable(perf, true);
  ss_close(&go);
  watch_until_end(capture, pid, seen);
  uint64_t count_ns = ss_perf_count_ns(perf);
  ss_capture_stop(capture);
  take(capture, seen);
  struct ss_capture_counts counts;
  ss_capture_counts(capture, &counts);
  bad = check(seen, facts, &counts, count_ns);
  bad += check_books(&seen->books, count_ns);
  ss_ledger_free(seen->books.ledger);
out:
  ss_close(&go);
  ss_capture_free(capture);
  ss_perf_close(perf);
  free(seen);
  if (pid > 0) {
    waitpid(pid, &status, 0);
  }
  return bad;
}

static void a_spinning_child(void **state)
{
  (void)state;
  int lock = lock_perf();
  assert_int_equal(profile_a_child(), 0);
  close(lock);
}

/* Runs `fn` as nobody. Changing the user makes a process undumpable, and with it
 * its children, which perf then refuses. */
static int as_nobody(int (*fn)(void))
{
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0 ||
        prctl(PR_SET_DUMPABLE, 1) != 0) {
      _exit(99);
    }
    _exit(fn());
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_spinning_child_without_privilege(void **state)
{
  (void)state;
  if (geteuid() != 0) {
    skip();
  }
  int lock = lock_perf();
  assert_int_equal(as_nobody(profile_a_child), 0);
  close(lock);
}

/* ---- locked memory
 * ------------------------------------------------------------------------ */

static bool default_allowance(void)
{
  int kb = 0;
  FILE *f = fopen("/proc/sys/kernel/perf_event_mlock_kb", "re");
  bool read = f && fscanf(f, "%d", &kb) == 1;
  if (f) {
    fclose(f);
  }
  return read && kb == 516;
}

static int open_until_refused(void)
{
  enum { MOST = 64 };
  struct ss_perf *open[MOST] = {0};
  struct ss_diag diag = {0};
  uint32_t last = UINT32_MAX;
  int count = 0, bad = 0, go = -1;
  /* Beyond the kernel's own allowance, which the first one uses up: room for rings
   * of 128 KB (8 KB snapshots) and of 64 KB (4 KB), each with its page. */
  rlim_t bytes = (rlim_t)sysconf(_SC_NPROCESSORS_ONLN) * (128 + 4 + 64 + 4) * 1024;
  bad += CHECK(setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){bytes, bytes}) == 0);
  pid_t pid = start_victim(&go);
  struct ss_perf_config config = {
      .rate_hz = 100, .snapshot = SS_STACK_SNAPSHOT_DEFAULT, .inherit = true};
  enum ss_err err = SS_ERR_OK;
  while (count < MOST && err == SS_ERR_OK) {
    err = ss_perf_open(&open[count], &config, pid, &diag);
    if (err == SS_ERR_OK) {
      const struct ss_perf_facts *facts = ss_perf_facts(open[count++]);
      bad += CHECK(facts->snapshot <= last && facts->snapshot >= SS_STACK_SNAPSHOT_MIN);
      bad += CHECK(facts->ring_bytes >= (uint64_t)SS_RING_MIN_RECORDS * facts->snapshot);
      bad += CHECK((facts->snapshot < config.snapshot) == (facts->reason[0] != 0));
      last = facts->snapshot;
    }
  }
  bad += CHECK(err == SS_ERR_LIMIT && strstr(diag.text, "perf_event_mlock_kb") != NULL);
  bad += CHECK(last == SS_STACK_SNAPSHOT_MIN || !default_allowance());
  while (count > 0) {
    ss_perf_close(open[--count]);
  }
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  ss_close(&go);
  return bad;
}

static void rings_and_snapshots_shrink_where_locked_memory_is_short(void **state)
{
  (void)state;
  if (geteuid() != 0) {
    skip();
  }
  int lock = lock_perf();
  assert_int_equal(as_nobody(open_until_refused), 0);
  close(lock);
}

/* ---- refusals
 * ------------------------------------------------------------------------------- */

static void a_process_that_is_gone(void **state)
{
  (void)state;
  struct ss_perf *perf;
  struct ss_diag diag = {0};
  struct ss_perf_config config = {.rate_hz = 100};
  pid_t pid = fork();
  if (pid == 0) {
    _exit(0);
  }
  waitpid(pid, NULL, 0);
  assert_int_equal(ss_perf_open(&perf, &config, pid, &diag), SS_ERR_GONE);
  assert_null(perf);
  config.rate_hz = 0;
  assert_int_equal(ss_perf_open(&perf, &config, getpid(), &diag), SS_ERR_USAGE);
}

static int open_init(void)
{
  struct ss_perf *perf;
  struct ss_diag diag = {0};
  struct ss_perf_config config = {.rate_hz = 100};
  enum ss_err err = ss_perf_open(&perf, &config, 1, &diag);
  return CHECK(err == SS_ERR_ACCESS) + CHECK(diag.text[0] != 0) + CHECK(perf == NULL);
}

static void a_process_of_another_user(void **state)
{
  (void)state;
  if (geteuid() != 0) {
    skip();
  }
  assert_int_equal(as_nobody(open_init), 0);
}

#ifdef SS_TESTING
static void refused_system_calls_name_the_cause(void **state)
{
  (void)state;
  static const struct {
    const char *fault;
    enum ss_err err;
  } rows[] = {{"perf_event_open:ENOSYS:1", SS_ERR_UNSUPPORTED}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct ss_perf *perf;
    struct ss_diag diag = {0};
    struct ss_perf_config config = {.rate_hz = 100};
    setenv("SS_FAULT", rows[i].fault, 1);
    enum ss_err err = ss_perf_open(&perf, &config, getpid(), &diag);
    unsetenv("SS_FAULT");
    assert_int_equal(err, rows[i].err);
    assert_non_null(strstr(diag.text, "seccomp"));
  }
}
#endif

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_spinning_child),
      cmocka_unit_test(a_spinning_child_without_privilege),
      cmocka_unit_test(rings_and_snapshots_shrink_where_locked_memory_is_short),
      cmocka_unit_test(a_process_that_is_gone),
      cmocka_unit_test(a_process_of_another_user),
#ifdef SS_TESTING
      cmocka_unit_test(refused_system_calls_name_the_cause),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
