/* The writer of profile.db, seen through the reader. */
#include "store_rows.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../../src/store/store_priv.h"
#include "stacksample/meta.h"

static struct ss_store *create(const struct tmpdir *t)
{
  struct ss_store *s = NULL;
  struct ss_diag diag = {0};

  if (ss_store_create(&s, &t->dir, "profile.db", &diag) != SS_ERR_OK)
    fail_msg("%s", diag.text);
  return s;
}

static struct ss_profile *open_profile(const struct tmpdir *t)
{
  struct ss_profile *p = NULL;
  struct ss_diag diag = {0};

  if (ss_profile_open(&p, &t->dir, "profile.db", &diag) != SS_ERR_OK)
    fail_msg("%s", diag.text);
  return p;
}

static void close_store(struct ss_store *s)
{
  struct ss_diag diag = {0};

  if (ss_store_close(s, &diag) != SS_ERR_OK)
    fail_msg("%s", diag.text);
}

struct sum {
  uint64_t rows, samples, weight_ns;
  uint64_t last_ns;
  uint32_t last_thread;
};

/* Also checks the order: thread by thread, in time order. */
static bool add_sample(void *arg, const struct ss_sample_row *row)
{
  struct sum *sum = arg;

  if (sum->rows > 0) {
    assert_true(row->thread >= sum->last_thread);
    if (row->thread == sum->last_thread)
      assert_true(row->time_ns >= sum->last_ns);
  }
  sum->last_thread = row->thread;
  sum->last_ns = row->time_ns;
  sum->rows++;
  sum->samples += row->samples;
  sum->weight_ns += row->weight_ns;
  return true;
}

static struct sum sum_samples(struct ss_profile *p)
{
  struct sum sum = {0};

  assert_int_equal(ss_profile_samples(p, SS_ID_NONE, add_sample, &sum, NULL), SS_ERR_OK);
  return sum;
}

static struct sum sum_totals(const struct ss_profile *p)
{
  struct sum sum = {.rows = p->n_totals};

  for (size_t i = 0; i < p->n_totals; i++) {
    sum.samples += p->totals[i].samples;
    sum.weight_ns += p->totals[i].weight_ns;
  }
  return sum;
}

/* ---- rows ------------------------------------------------------------------------ */

static void every_row_comes_back(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  uint64_t start = ss_now_ns();
  struct ss_thread_row thread = {.process = 0,
                                 .tid = 7,
                                 .name = 0,
                                 .role = SS_ID_NONE,
                                 .start_ns = start,
                                 .end_ns = start + 5,
                                 .cpu_ns = 3};

  fixture_rows(s);
  uint32_t odd = ss_store_string(s, "a\0\xff", 3);
  ss_store_thread_update(s, 1, &thread);
  ss_store_time(s, 0, 2, SS_STATE_USER, 40);
  ss_store_time(s, 0, 2, SS_STATE_USER, 2);
  ss_store_time(s, 1, SS_ID_NONE, SS_STATE_WAIT, 9);
  ss_store_meta(s, "cwd", "/first");
  ss_store_commit(s, true);
  ss_store_meta(s, "cwd", "/last");
  ss_store_meta_u64(s, "lost", UINT64_MAX);
  ss_store_frame_name(s, 3, "at::mm", 6);
  close_store(s);

  struct ss_profile *p = open_profile(t);
  assert_int_equal(p->n_processes, 1);
  assert_string_equal(ss_profile_str(p, p->processes[0].command), "pytest -vv");
  assert_int_equal(p->processes[0].worker, SS_ID_NONE);
  assert_true(p->processes[0].start_ns >= start && p->processes[0].end_ns == 0);
  assert_int_equal(p->n_threads, 3);
  assert_true(p->threads[1].start_ns == start && p->threads[1].end_ns == start + 5);
  assert_int_equal(p->threads[1].cpu_ns, 3);
  assert_int_equal(p->n_phases, 4);
  assert_int_equal(p->phases[3].occurrence, 3);
  assert_int_equal(p->modules[0].build_id_len, 20);
  assert_int_equal(p->modules[0].build_id[2], 3);
  assert_int_equal(p->n_frames, 10);
  assert_true(p->frames[9].offset == 0xfffffffffff00009u);
  assert_string_equal(ss_profile_str(p, p->frames[3].name), "at::mm");
  assert_int_equal(p->frames[5].name, SS_ID_NONE);
  assert_int_equal(p->n_stacks, 10);
  assert_int_equal(p->stacks[0].parent, SS_ID_NONE);
  assert_int_equal(p->stacks[9].parent, 8);
  assert_int_equal(p->stacks[9].line, 9);
  assert_int_equal(p->strings[odd].len, 3);
  assert_memory_equal(p->strings[odd].s, "a\0\xff", 4);
  assert_int_equal(p->n_times, 2);
  assert_int_equal(p->times[0].ns, 42);
  assert_int_equal(p->times[1].phase, SS_ID_NONE);
  assert_string_equal(ss_profile_meta(p, "cwd"), "/last");
  assert_true(ss_profile_meta_u64(p, "lost", 0) == UINT64_MAX);
  assert_null(ss_profile_meta(p, "absent"));
  assert_null(ss_profile_meta(p, SS_META_REJECTED_ROWS));
  assert_int_equal(ss_profile_meta_u64(p, "cwd", 5), 5);
  ss_profile_close(p);
}

static void a_finished_profile_is_one_file(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  struct stat st;
  unsigned char header[20];

  fixture_rows(s);
  close_store(s);
  assert_int_equal(tmpdir_entries(t, false), 1);
  assert_int_equal(fstatat(t->dir.fd, "profile.db", &st, 0), 0);
  assert_int_equal(st.st_mode & 0777, 0600);
  int fd = openat(t->dir.fd, "profile.db", O_RDONLY | O_CLOEXEC);
  assert_int_equal(ss_pread_some(fd, header, sizeof header, 0), sizeof header);
  assert_int_equal(header[18], 1); /* needs no log to be read */
  assert_int_equal(header[19], 1);
  ss_close(&fd);
  assert_int_equal(ss_store_create(&s, &t->dir, "profile.db", NULL), SS_ERR_EXISTS);
}

static void equal_rows_have_equal_ids(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  struct ss_frame_row frame = {.kind = SS_FRAME_NATIVE,
                               .name = SS_ID_NONE,
                               .file = SS_ID_NONE,
                               .module = 0,
                               .offset = 16};

  fixture_rows(s);
  assert_int_equal(fixture_string(s, "pytest"), fixture_string(s, "pytest"));
  uint32_t id = ss_store_frame(s, &frame);
  assert_int_equal(ss_store_frame(s, &frame), id);
  ss_store_frame_name(s, id, "named", 5);
  assert_int_equal(ss_store_frame(s, &frame), id); /* also once it has a name */
  frame.exact = true;
  assert_int_not_equal(ss_store_frame(s, &frame), id);
  uint32_t stack = ss_store_stack(s, 4, id, 1);
  assert_int_equal(ss_store_stack(s, 4, id, 1), stack);
  assert_int_not_equal(ss_store_stack(s, 4, id, 2), stack);
  assert_int_not_equal(ss_store_stack(s, 5, id, 1), stack);
  close_store(s);
}

static void limits_show_as_a_frame(void **state)
{
  static const struct ss_store_limits limits = {
      .stacks = 12, .frames = 11, .totals = 5, .string_bytes = 4096, .db_bytes = 1 << 30};
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  struct ss_sample_row row = fixture_sample(ss_now_ns(), 0);

  fixture_rows(s);
  ss_store_set_limits(s, &limits);
  uint32_t stack = 9;
  for (int i = 0; i < 100; i++) {
    stack = ss_store_stack(s, stack, 1, i);
    row.stack = stack;
    row.phase = SS_ID_NONE;
    ss_store_sample(s, &row);
  }
  struct ss_frame_row frame = {.kind = SS_FRAME_KERNEL, .name = 0, .module = SS_ID_NONE};
  for (int i = 0; i < 100; i++) {
    char text[64];
    frame.offset = (uint64_t)i;
    ss_store_frame(s, &frame);
    snprintf(text, sizeof text, "%060d", i);
    fixture_string(s, text);
  }
  close_store(s);
  struct ss_profile *p = open_profile(t);
  assert_int_equal(p->n_stacks, 13);
  assert_int_equal(p->n_frames, 12);
  assert_true(p->n_strings < 90);
  uint32_t limit = p->stacks[12].frame;
  assert_int_equal(p->frames[limit].kind, SS_FRAME_SYNTHETIC);
  assert_string_equal(ss_profile_str(p, p->frames[limit].name), "[limit]");
  assert_int_equal(sum_samples(p).samples, 100); /* too many totals: still exact */
  assert_int_equal(sum_totals(p).samples, 100);
  ss_profile_close(p);
}

/* As many frames as a profile may hold, and "[limit]": its names can still be added. */
static void a_full_profile_is_reopened(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  struct ss_frame_row frame = {.kind = SS_FRAME_KERNEL, .name = 0, .module = SS_ID_NONE};

  fixture_rows(s);
  uint32_t limit = 0, last = SS_ID_NONE;
  for (uint64_t i = 0; limit != last; i++) {
    last = limit;
    frame.offset = i;
    limit = ss_store_frame(s, &frame);
  }
  assert_int_equal(limit, SS_FRAMES_UNIQUE_MAX);
  close_store(s);
  assert_int_equal(ss_store_reopen(&s, &t->dir, "profile.db", NULL), SS_ERR_OK);
  frame.offset = UINT64_MAX;
  assert_int_equal(ss_store_frame(s, &frame), limit);
  close_store(s);
  struct ss_profile *p = open_profile(t);
  assert_int_equal(p->n_frames, SS_FRAMES_UNIQUE_MAX + 1);
  ss_profile_close(p);
}

static void what_has_no_word_is_stored_all_the_same(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  struct ss_sample_row row = fixture_sample(ss_now_ns(), 0);

  fixture_rows(s);
  row.state = row.end = row.method = row.merge = 255;
  row.phase = 77;
  ss_store_sample(s, &row);
  close_store(s);
  struct ss_profile *p = open_profile(t);
  assert_int_equal(p->n_totals, 1);
  assert_int_equal(p->totals[0].state, SS_STATE_UNKNOWN);
  assert_int_equal(p->totals[0].phase, SS_ID_NONE);
  assert_int_equal(sum_samples(p).rows, 1);
  ss_profile_close(p);
}

/* ---- samples ----------------------------------------------------------------------- */

static void totals_are_exactly_the_samples(void **state)
{
  enum { SAMPLES = 30000 };
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  uint64_t start = ss_now_ns(), weight = 0;

  fixture_rows(s);
  for (uint32_t i = 0; i < SAMPLES; i++) {
    /* Neighbours swapped: not quite in time order. */
    struct ss_sample_row row = fixture_sample(start, i ^ 8);
    weight += row.weight_ns;
    ss_store_sample(s, &row);
    ss_store_commit(s, i % 10000 == 0);
  }
  close_store(s);
  struct ss_profile *p = open_profile(t);
  struct sum samples = sum_samples(p), totals = sum_totals(p);
  assert_int_equal(samples.rows, SAMPLES);
  assert_int_equal(samples.samples, SAMPLES);
  assert_true(samples.weight_ns == weight);
  assert_int_equal(totals.samples, SAMPLES);
  assert_true(totals.weight_ns == weight);
  struct sum one = {0};
  assert_int_equal(ss_profile_samples(p, 1, add_sample, &one, NULL), SS_ERR_OK);
  assert_int_equal(one.rows, SAMPLES / 3);
  assert_int_equal(ss_profile_samples(p, 99, add_sample, &one, NULL), SS_ERR_OK);
  ss_profile_close(p);
}

static bool stop_at_once(void *arg, const struct ss_sample_row *row)
{
  (void)row;
  ++*(int *)arg;
  return false;
}

static void reading_samples_can_be_stopped(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  int calls = 0;

  fixture_rows(s);
  for (uint32_t i = 0; i < 100; i++) {
    struct ss_sample_row row = fixture_sample(ss_now_ns(), i);
    ss_store_sample(s, &row);
  }
  close_store(s);
  struct ss_profile *p = open_profile(t);
  assert_int_equal(ss_profile_samples(p, SS_ID_NONE, stop_at_once, &calls, NULL),
                   SS_ERR_OK);
  assert_int_equal(calls, 1);
  ss_profile_close(p);
}

/* Nearly full: rows become fewer, what they say in sum stays the same. */
static void a_nearly_full_file_merges_samples(void **state)
{
  static const struct ss_store_limits limits = {.stacks = 1000,
                                                .frames = 1000,
                                                .totals = 1 << 20,
                                                .string_bytes = 1 << 20,
                                                .db_bytes = 400 * 1000};
  enum { SAMPLES = 100000 };
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  uint64_t start = ss_now_ns(), weight = 0;
  struct stat st;

  fixture_rows(s);
  ss_store_set_limits(s, &limits);
  for (uint32_t i = 0; i < SAMPLES; i++) {
    struct ss_sample_row row = fixture_sample(start, i);
    weight += row.weight_ns;
    ss_store_sample(s, &row);
    if (i % 100 == 0)
      ss_store_commit(s, true);
  }
  close_store(s);
  assert_int_equal(fstatat(t->dir.fd, "profile.db", &st, 0), 0);
  assert_true(st.st_size < 600 * 1000); /* unmerged: more than 3 MB */
  struct ss_profile *p = open_profile(t);
  struct sum samples = sum_samples(p), totals = sum_totals(p);
  assert_true(samples.rows < SAMPLES / 5);
  assert_int_equal(samples.samples, SAMPLES);
  assert_true(samples.weight_ns == weight);
  assert_int_equal(totals.samples, SAMPLES);
  assert_true(totals.weight_ns == weight);
  assert_int_equal(ss_profile_meta_u64(p, SS_META_MERGED, 0), 1);
  ss_profile_close(p);
}

/* ---- death ----------------------------------------------------------------------- */

struct progress {
  volatile uint32_t added, committed;
};

_Noreturn static void write_until_killed(const struct tmpdir *t,
                                         struct progress *progress)
{
  struct ss_store *s = NULL;
  uint64_t start = ss_now_ns();

  if (ss_store_create(&s, &t->dir, "profile.db", NULL) != SS_ERR_OK)
    _exit(1);
  fixture_rows(s);
  for (uint32_t i = 0;; i++) {
    struct ss_sample_row row = fixture_sample(start, i);
    ss_store_sample(s, &row);
    progress->added = i + 1;
    if (i % 50 == 0) {
      ss_store_commit(s, true);
      progress->committed = i + 1;
    }
  }
}

/* Killed once `after` samples were added; how many were then in the file. */
static uint32_t killed_writer(const struct tmpdir *t, uint32_t after)
{
  struct progress *progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int status = 0;
  pid_t pid = fork();

  if (pid == 0)
    write_until_killed(t, progress);
  while (progress->added < after && waitpid(pid, &status, WNOHANG) == 0)
    sched_yield();
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  assert_true(WIFSIGNALED(status));
  uint32_t committed = progress->committed;
  munmap(progress, sizeof *progress);
  return committed;
}

static void a_killed_writer_loses_only_what_was_not_committed(void **state)
{
  struct tmpdir *t = *state;

  srand(7);
  for (int round = 0; round < 25; round++) {
    uint32_t committed = killed_writer(t, 1 + (uint32_t)rand() % 20000);
    struct ss_profile *p = open_profile(t);
    struct sum samples = sum_samples(p), totals = sum_totals(p);
    assert_true(samples.rows >= committed);
    assert_int_equal(samples.samples, totals.samples);
    assert_true(samples.weight_ns == totals.weight_ns);
    assert_null(ss_profile_meta(p, SS_META_REJECTED_ROWS));
    ss_profile_close(p);
    p = open_profile(t); /* the log is gone now, its rows are not */
    assert_int_equal(sum_samples(p).rows, samples.rows);
    ss_profile_close(p);
    assert_int_equal(tmpdir_entries(t, true), 1);
  }
}

static void names_can_be_added_after_a_kill(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = NULL;
  struct ss_frame_row frame;

  killed_writer(t, 1000);
  assert_int_equal(ss_store_reopen(&s, &t->dir, "profile.db", NULL), SS_ERR_OK);
  for (uint32_t id = 0; ss_store_frame_at(s, id, &frame); id++)
    if (frame.kind == SS_FRAME_NATIVE && frame.name == SS_ID_NONE)
      ss_store_frame_name(s, id, "late", 4);
  ss_store_meta(s, "blocked", "killed");
  close_store(s);
  assert_int_equal(tmpdir_entries(t, false), 1);
  struct ss_profile *p = open_profile(t);
  assert_int_equal(p->n_frames, 10);
  assert_string_equal(ss_profile_str(p, p->frames[9].name), "late");
  assert_string_equal(ss_profile_str(p, p->frames[8].name), "function_8");
  assert_string_equal(ss_profile_meta(p, "blocked"), "killed");
  assert_int_equal(ss_profile_meta_u64(p, SS_META_TOTALS, 0), 1);
  assert_int_equal(sum_totals(p).samples, sum_samples(p).samples);
  assert_int_equal(p->n_threads, 3);
  ss_profile_close(p);
}

static void a_profile_that_is_being_written_is_left_alone(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);
  struct ss_diag diag = {0};
  int status;

  fixture_rows(s);
  ss_store_commit(s, true);
  pid_t pid = fork(); /* locks are between processes */
  if (pid == 0) {
    struct ss_profile *p = NULL;
    _exit(ss_profile_open(&p, &t->dir, "profile.db", &diag) == SS_ERR_ACCESS ? 0 : 1);
  }
  waitpid(pid, &status, 0);
  assert_int_equal(status, 0);
  close_store(s);
}

/* ---- a full disk ----------------------------------------------------------------- */

/* A limit on the size of files stands for it: same errors, no mount needed. */
static int write_on_a_full_disk(const struct tmpdir *t)
{
  struct rlimit limit = {200 * 1024, 200 * 1024};
  struct ss_store *s = NULL;
  struct ss_diag diag = {0};

  signal(SIGXFSZ, SIG_IGN);
  if (ss_store_create(&s, &t->dir, "profile.db", NULL) != SS_ERR_OK ||
      setrlimit(RLIMIT_FSIZE, &limit) != 0)
    return 1;
  fixture_rows(s);
  for (uint32_t i = 0; i < 50000; i++) {
    struct ss_sample_row row = fixture_sample(1, i);
    row.time_ns = ss_now_ns();
    ss_store_sample(s, &row);
    if (i % 1000 == 0)
      ss_store_commit(s, true);
  }
  if (ss_store_error(s, &diag) == SS_ERR_OK || diag.text[0] == '\0')
    return 2;
  diag.text[0] = '\0';
  if (ss_store_close(s, &diag) == SS_ERR_OK || diag.text[0] == '\0')
    return 3;
  return 0;
}

static void a_full_disk_is_an_error_not_a_crash(void **state)
{
  struct tmpdir *t = *state;
  int status = -1;
  pid_t pid = fork();

  if (pid == 0)
    _exit(write_on_a_full_disk(t));
  waitpid(pid, &status, 0);
  assert_int_equal(status, 0);
  struct ss_profile *p = open_profile(t); /* what was committed is there */
  assert_int_equal(p->n_threads, 3);
  assert_true(sum_samples(p).rows > 0);
  assert_true(sum_samples(p).samples <= 50000);
  ss_profile_close(p);
}

#ifdef SS_TESTING
/* The disk has room again: everything is written but the rows that were lost,
 * which the totals still have. */
static void a_disk_that_was_full_for_a_while(void **state)
{
  struct tmpdir *t = *state;
  struct ss_store *s = create(t);

  fixture_rows(s);
  for (uint32_t i = 0; i < 3000; i++) {
    struct ss_sample_row row = fixture_sample(ss_now_ns(), i);
    if (i == 1000)
      setenv("SS_FAULT", "db:ENOSPC:1+", 1);
    if (i == 2000)
      unsetenv("SS_FAULT");
    ss_store_sample(s, &row);
    if (i % 500 == 0)
      ss_store_commit(s, true);
    if (i % 100 == 0)
      fixture_string(s, (char[]){'a', (char)('a' + i / 100), 0});
  }
  struct ss_diag diag = {0};
  assert_int_equal(ss_store_close(s, &diag), SS_ERR_IO);
  assert_non_null(strstr(diag.text, "no space"));
  struct ss_profile *p = open_profile(t);
  assert_null(ss_profile_meta(p, SS_META_REJECTED_ROWS));
  assert_int_equal(sum_totals(p).samples, 3000);
  assert_int_equal(sum_samples(p).samples + ss_profile_meta_u64(p, SS_META_UNSAVED, 0),
                   3000);
  ss_profile_close(p);
}
#endif

int main(void)
{
  const struct CMUnitTest tests[] = {
      TMPDIR_TEST(every_row_comes_back),
      TMPDIR_TEST(a_finished_profile_is_one_file),
      TMPDIR_TEST(equal_rows_have_equal_ids),
      TMPDIR_TEST(limits_show_as_a_frame),
      TMPDIR_TEST(a_full_profile_is_reopened),
      TMPDIR_TEST(what_has_no_word_is_stored_all_the_same),
      TMPDIR_TEST(totals_are_exactly_the_samples),
      TMPDIR_TEST(reading_samples_can_be_stopped),
      TMPDIR_TEST(a_nearly_full_file_merges_samples),
      TMPDIR_TEST(a_killed_writer_loses_only_what_was_not_committed),
      TMPDIR_TEST(names_can_be_added_after_a_kill),
      TMPDIR_TEST(a_profile_that_is_being_written_is_left_alone),
      TMPDIR_TEST(a_full_disk_is_an_error_not_a_crash),
#ifdef SS_TESTING
      TMPDIR_TEST(a_disk_that_was_full_for_a_while),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
