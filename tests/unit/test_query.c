/* Reading profiles that anybody may have made. */
#include "store_rows.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include "stacksample/buf.h"
#include "stacksample/meta.h"

static void make_profile(const struct tmpdir *t, uint32_t samples)
{
  struct ss_store *s = NULL;

  assert_int_equal(ss_store_create(&s, &t->dir, "profile.db", NULL), SS_ERR_OK);
  fixture_rows(s);
  ss_store_meta(s, "cwd", "/home");
  ss_store_time(s, 0, 0, SS_STATE_USER, 5);
  for (uint32_t i = 0; i < samples; i++) {
    struct ss_sample_row row = fixture_sample(ss_now_ns(), i);
    ss_store_sample(s, &row);
  }
  assert_int_equal(ss_store_close(s, NULL), SS_ERR_OK);
}

/* Changes the file behind the reader's back. */
static void run_sql(const struct tmpdir *t, const char *sql)
{
  char path[128], *error = NULL;
  sqlite3 *db = NULL;

  snprintf(path, sizeof path, "%s/profile.db", t->path);
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
    fail_msg("%s: %s", sql, error);
  sqlite3_close(db);
}

static bool check_sample(void *arg, const struct ss_sample_row *row)
{
  const struct ss_profile *p = arg;

  assert_true(row->thread < p->n_threads && row->stack < p->n_stacks);
  assert_true(row->phase < p->n_phases || row->phase == SS_ID_NONE);
  return true;
}

static void check_strings(const struct ss_profile *p, const uint32_t *ids, size_t count)
{
  for (size_t i = 0; i < count; i++)
    assert_true(ids[i] < p->n_strings || ids[i] == SS_ID_NONE);
}

/* What every user of a profile relies on without checking. */
static void check_ids(struct ss_profile *p)
{
  for (size_t i = 0; i < p->n_strings; i++)
    assert_int_equal(p->strings[i].s[p->strings[i].len], 0);
  for (size_t i = 0; i < p->n_frames; i++) {
    const struct ss_frame_row *f = &p->frames[i];
    check_strings(p, (uint32_t[]){f->name, f->file}, 2);
    assert_true(f->kind <= SS_FRAME_SYNTHETIC);
    assert_true(f->module < p->n_modules || f->module == SS_ID_NONE);
  }
  for (size_t i = 0; i < p->n_stacks; i++) {
    assert_true(p->stacks[i].frame < p->n_frames);
    assert_true(p->stacks[i].parent < i || p->stacks[i].parent == SS_ID_NONE);
  }
  for (size_t i = 0; i < p->n_modules; i++)
    assert_true(p->modules[i].build_id_len <= 20);
  for (size_t i = 0; i < p->n_threads; i++)
    assert_true(p->threads[i].process < p->n_processes);
  for (size_t i = 0; i < p->n_phases; i++) {
    assert_true(p->phases[i].process < p->n_processes);
    assert_true(p->phases[i].end_ns == 0 || p->phases[i].end_ns >= p->phases[i].start_ns);
  }
  for (size_t i = 0; i < p->n_totals; i++) {
    const struct ss_total *total = &p->totals[i];
    assert_true(total->thread < p->n_threads && total->stack < p->n_stacks);
    assert_true(total->state < SS_STATE_COUNT && total->end < SS_END_COUNT);
  }
  for (size_t i = 0; i < p->n_times; i++)
    assert_true(p->times[i].thread < p->n_threads && p->times[i].state < SS_STATE_COUNT);
  ss_profile_samples(p, SS_ID_NONE, check_sample, p, NULL);
}

static enum ss_err try_open(const struct tmpdir *t, struct ss_diag *diag)
{
  struct ss_profile *p = NULL;
  enum ss_err err = ss_profile_open(&p, &t->dir, "profile.db", diag);

  if (err == SS_ERR_OK)
    check_ids(p);
  else
    assert_null(p);
  ss_profile_close(p);
  return err;
}

/* ---- files that are not profiles ------------------------------------------------- */

static void other_files_are_refused(void **state)
{
  struct tmpdir *t = *state;
  struct ss_diag diag = {0};

  assert_int_equal(try_open(t, &diag), SS_ERR_GONE);
  assert_int_equal(mkfifoat(t->dir.fd, "profile.db", 0600), 0);
  assert_int_equal(try_open(t, &diag), SS_ERR_FORMAT);
  tmpdir_entries(t, true);
  int fd = ss_file_create(&t->dir, "profile.db", NULL);
  assert_int_equal(try_open(t, &diag), SS_ERR_FORMAT); /* empty */
  assert_int_equal(ss_write_all(fd, "no database, but long enough to be one?", 39), 0);
  ss_close(&fd);
  assert_int_equal(try_open(t, &diag), SS_ERR_FORMAT);
  tmpdir_entries(t, true);
  make_profile(t, 1);
  assert_int_equal(renameat(t->dir.fd, "profile.db", t->dir.fd, "x"), 0);
  assert_int_equal(symlinkat("x", t->dir.fd, "profile.db"), 0);
  assert_int_not_equal(try_open(t, &diag), SS_ERR_OK);
}

static void other_schemas_are_refused(void **state)
{
  static const struct {
    const char *sql;
    enum ss_err err;
    const char *says;
  } cases[] = {
      {"PRAGMA user_version=2", SS_ERR_UNSUPPORTED, "version 2"},
      {"PRAGMA application_id=7", SS_ERR_FORMAT, "not a profile"},
      {"CREATE TABLE more(x)", SS_ERR_FORMAT, "did not make"},
      {"CREATE VIEW more AS SELECT 1", SS_ERR_FORMAT, "did not make"},
      {"CREATE INDEX more ON frame(abs(name))", SS_ERR_FORMAT, "did not make"},
      {"CREATE TRIGGER more INSERT ON meta BEGIN SELECT 1; END", SS_ERR_FORMAT,
       "did not make"},
      {"DROP TABLE sample", SS_ERR_FORMAT, "lacks"},
      {"DROP TABLE sample; CREATE VIEW sample AS WITH RECURSIVE n(i) AS (SELECT 1 UNION "
       "ALL "
       "SELECT i+1 FROM n) SELECT i FROM n",
       SS_ERR_FORMAT, "did not make"},
      {"ALTER TABLE stack ADD COLUMN more AS (abs(1))", SS_ERR_FORMAT, "did not make"},
  };
  struct tmpdir *t = *state;

  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct ss_diag diag = {0};
    make_profile(t, 10);
    run_sql(t, cases[i].sql);
    assert_int_equal(try_open(t, &diag), cases[i].err);
    if (strstr(diag.text, cases[i].says) == NULL)
      fail_msg("%s: %s", cases[i].sql, diag.text);
    tmpdir_entries(t, true);
  }
}

/* ---- rows that make no sense ----------------------------------------------------- */

static void wild_rows_are_counted_and_harmless(void **state)
{
  static const char *const cases[] = {
      "UPDATE stack SET parent = id WHERE id = 3",
      "UPDATE stack SET parent = 9 WHERE id = 2",
      "UPDATE stack SET frame = 10 WHERE id = 5",
      "UPDATE stack SET frame = NULL WHERE id = 5",
      "UPDATE stack SET frame = 'x' WHERE id = 5",
      "UPDATE stack SET line = 1 << 40 WHERE id = 5",
      "UPDATE frame SET kind = 4 WHERE id = 0",
      "UPDATE frame SET kind = -1 WHERE id = 0",
      "UPDATE frame SET name = 4294967295 WHERE id = 0",
      "UPDATE frame SET module = 1 WHERE id = 1",
      "UPDATE module SET build_id = zeroblob(21)",
      "UPDATE thread SET process = 1 WHERE id = 1",
      "UPDATE thread SET process = -1 WHERE id = 1",
      "UPDATE phase SET process = 1 << 33 WHERE id = 1",
      "UPDATE phase SET start_ns = -(1 << 62) WHERE id = 1",
      "UPDATE process SET pid = 1.5",
      "UPDATE total SET stack = 10 WHERE rowid = 1",
      "UPDATE total SET samples = -1 WHERE rowid = 1",
      "UPDATE time SET state = 12",
      "DELETE FROM stack WHERE id = 4",
      "DELETE FROM thread",
      "DELETE FROM string WHERE id = 1",
      "INSERT INTO string VALUES(-5, 'x')",
      "INSERT INTO string VALUES(1 << 60, 'x')",
      "INSERT INTO thread(id) VALUES(1000)",
      "DELETE FROM frame",
      "DELETE FROM process",
  };
  struct tmpdir *t = *state;

  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct ss_profile *p = NULL;
    make_profile(t, 100);
    run_sql(t, cases[i]);
    assert_int_equal(ss_profile_open(&p, &t->dir, "profile.db", NULL), SS_ERR_OK);
    check_ids(p);
    if (ss_profile_meta_u64(p, SS_META_REJECTED_ROWS, 0) == 0)
      fail_msg("not noticed: %s", cases[i]);
    ss_profile_close(p);
    struct ss_store *s = NULL;
    assert_int_equal(ss_store_reopen(&s, &t->dir, "profile.db", NULL), SS_ERR_FORMAT);
    tmpdir_entries(t, true);
  }
}

static void wild_samples_are_left_out(void **state)
{
  static const char *const cases[] = {
      "UPDATE sample SET thread = 3 WHERE rowid = 7",
      "UPDATE sample SET stack = -1 WHERE rowid = 7",
      "UPDATE sample SET weight_ns = -1 WHERE rowid = 7",
      "UPDATE sample SET weight_ns = 1e300 WHERE rowid = 7",
      "UPDATE sample SET time_ns = 'now' WHERE rowid = 7",
      "UPDATE sample SET method = 99 WHERE rowid = 7",
      "UPDATE sample SET samples = 0 WHERE rowid = 7",
  };
  struct tmpdir *t = *state;

  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct ss_profile *p = NULL;
    uint64_t samples = 0;
    make_profile(t, 100);
    run_sql(t, cases[i]);
    run_sql(t, "DELETE FROM meta WHERE key = 'totals'"); /* added up from samples */
    assert_int_equal(ss_profile_open(&p, &t->dir, "profile.db", NULL), SS_ERR_OK);
    check_ids(p);
    for (size_t k = 0; k < p->n_totals; k++)
      samples += p->totals[k].samples;
    assert_int_equal(samples, 99);
    assert_int_equal(ss_profile_meta_u64(p, SS_META_REJECTED_ROWS, 0), 1);
    ss_profile_close(p);
    tmpdir_entries(t, true);
  }
}

static void a_stack_deeper_than_any_is_cut(void **state)
{
  struct tmpdir *t = *state;
  struct ss_profile *p = NULL;

  make_profile(t, 1);
  run_sql(
      t, "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM n WHERE i < 20000) "
         "INSERT INTO stack SELECT i, i-1, 0, i FROM n");
  assert_int_equal(ss_profile_open(&p, &t->dir, "profile.db", NULL), SS_ERR_OK);
  check_ids(p);
  assert_int_equal(p->n_stacks, 20001);
  assert_true(ss_profile_meta_u64(p, SS_META_REJECTED_ROWS, 0) > 0);
  size_t depth = 0;
  for (uint32_t id = 20000; id != SS_ID_NONE; id = p->stacks[id].parent)
    depth++;
  assert_true(depth < 6000);
  ss_profile_close(p);
}

/* ---- damaged bytes --------------------------------------------------------------- */

struct image {
  struct ss_buf bytes;
  const struct tmpdir *t;
};

static void write_image(const struct image *image, size_t len)
{
  int fd = openat(image->t->dir.fd, "profile.db", O_WRONLY | O_TRUNC | O_CLOEXEC);

  assert_int_equal(ss_write_all(fd, image->bytes.data, len), 0);
  ss_close(&fd);
}

static void read_image(struct image *image, const struct tmpdir *t, uint32_t samples)
{
  image->t = t;
  make_profile(t, samples);
  assert_int_equal(
      ss_file_read_all(t->dir.fd, "profile.db", 1 << 24, &image->bytes, NULL), SS_ERR_OK);
}

static void every_truncation_is_a_clean_error(void **state)
{
  struct image image = {0};
  struct ss_diag diag;

  read_image(&image, *state, 300);
  for (size_t len = 0; len < image.bytes.len; len += 512) {
    write_image(&image, len);
    diag = (struct ss_diag){0};
    assert_int_not_equal(try_open(image.t, &diag), SS_ERR_OK);
    assert_string_not_equal(diag.text, "");
  }
  write_image(&image, image.bytes.len);
  assert_int_equal(try_open(image.t, NULL), SS_ERR_OK);
  ss_buf_release(&image.bytes);
}

static void flipped_bits_never_crash(void **state)
{
  struct image image = {0};
  size_t opened = 0;

  read_image(&image, *state, 100);
  char *good = malloc(image.bytes.len);
  memcpy(good, image.bytes.data, image.bytes.len);
  srand(3);
  for (int round = 0; round < 600; round++) {
    for (int flips = rand() % 4 + 1; flips > 0; flips--) {
      /* Half of them in the first page, which says how to read the rest. */
      size_t at = (size_t)rand() % (rand() % 2 != 0 ? 4096 : image.bytes.len);
      image.bytes.data[at] = (char)(image.bytes.data[at] ^ (1 << rand() % 8));
    }
    write_image(&image, image.bytes.len);
    opened += try_open(image.t, NULL) == SS_ERR_OK;
    memcpy(image.bytes.data, good, image.bytes.len);
  }
  free(good);
  assert_true(opened < 600);
  ss_buf_release(&image.bytes);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      TMPDIR_TEST(other_files_are_refused),
      TMPDIR_TEST(other_schemas_are_refused),
      TMPDIR_TEST(wild_rows_are_counted_and_harmless),
      TMPDIR_TEST(wild_samples_are_left_out),
      TMPDIR_TEST(a_stack_deeper_than_any_is_cut),
      TMPDIR_TEST(every_truncation_is_a_clean_error),
      TMPDIR_TEST(flipped_bits_never_crash),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
