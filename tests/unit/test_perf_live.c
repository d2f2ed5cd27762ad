/*
 * Real events on a real child: two threads that burn CPU time. Run as we are, and
 * once more as an unprivileged user where we are root.
 */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "perf_victim.h"
#include "stacksample/context.h"
#include "stacksample/engine.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

/* ---- its ledger ----------------------------------------------------------------- */

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
  for (uint32_t i = 0; i < books->count; i++)
    if (books->accounts[i].tid == tid)
      return &books->accounts[i];
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
  if (ss_schedstat_read(pid, a->tid, &cpu_ns, &wait_ns))
    ss_ledger_schedstat(a->thread, time_ns, cpu_ns, wait_ns);
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

/* ---- what was seen -------------------------------------------------------------- */

struct seen {
  uint64_t samples, kernel, no_regs, outside, no_stack;
  uint64_t switches, forks, exits, backwards, before_birth;
  uint64_t last_ns, stolen_ns;
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
  if (f)
    fclose(f);
}

static bool in_exec_map(const struct seen *seen, uint64_t ip)
{
  for (size_t i = 0; i < seen->map_count; i++)
    if (ip >= seen->exec_maps[i].start && ip < seen->exec_maps[i].end)
      return true;
  return false;
}

static bool was_born(const struct seen *seen, pid_t tid)
{
  for (size_t i = 0; i < seen->born_count; i++)
    if (seen->born[i] == tid)
      return true;
  return false;
}

static void see_sample(struct seen *seen, const struct ss_record *r)
{
  seen->samples++;
  seen->kernel += r->u.sample.kernel;
  seen->before_birth += !was_born(seen, r->tid);
  seen->no_stack += r->u.sample.stack_len == 0;
  if (!r->u.sample.has_regs)
    seen->no_regs++;
  else
    seen->outside += !in_exec_map(seen, r->u.sample.regs.r[SS_REG_IP]);
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
  while (ss_capture_next(capture, &got))
    see(seen, &got.rec);
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

/* ---- the check ------------------------------------------------------------------ */

/* Time that the hypervisor took from all CPUs, in which no timer can fire. */
static uint64_t stolen_ns(void)
{
  unsigned long long v[8] = {0};
  FILE *f = fopen("/proc/stat", "re");
  if (f) {
    int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2],
                   &v[3], &v[4], &v[5], &v[6], &v[7]);
    fclose(f);
    v[7] = n == 8 ? v[7] : 0;
  }
  return v[7] * 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
}

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
                     tolerance(facts->kernel_samples),
                     THREADS + seen->stolen_ns / facts->period_ns));
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
  uint64_t stolen = stolen_ns();
  watch_until_end(capture, pid, seen);
  seen->stolen_ns = stolen_ns() - stolen;
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
  if (pid > 0)
    waitpid(pid, &status, 0);
  return bad;
}

static void a_spinning_child(void **state)
{
  (void)state;
  int lock = lock_perf();
  assert_int_equal(profile_a_child(), 0);
  close(lock);
}

static void a_spinning_child_without_privilege(void **state)
{
  (void)state;
  if (geteuid() != 0)
    skip();
  int lock = lock_perf();
  assert_int_equal(as_nobody(profile_a_child), 0);
  close(lock);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_spinning_child),
      cmocka_unit_test(a_spinning_child_without_privilege),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
