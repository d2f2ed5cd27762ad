/*
 * Writes the made-up profile of profile_fixture.h as a profile.db, and one
 * output of it: write_fixture DIR KIND [FORMAT-FILE TO | ...]. For the
 * end-to-end tests of viewers, which need files without a run.
 *
 * KIND: run, wide, hostile, long.
 */
#include <stdlib.h>
#include <string.h>

#include "profile_fixture.h"
#include "stacksample/output.h"

static void fail(const char *what, const struct ss_diag *diag)
{
  fprintf(stderr, "write_fixture: %s: %s\n", what, diag->text);
  exit(1);
}

static void fill(struct ss_store *store, const char *kind)
{
  struct fx fx;
  fx_init(&fx, store);
  if (strcmp(kind, "wide") == 0)
    fx_run_wide(&fx, 100000);
  else if (strcmp(kind, "hostile") == 0)
    fx_run_hostile(&fx);
  else
    fx_run(&fx, strcmp(kind, "long") == 0 ? 600 : 30);
}

static void write_file(struct ss_profile *p, const struct ss_dir *dir, const char *file)
{
  struct ss_diag diag = {0};
  struct ss_write_options options = {0};
  const struct ss_writer *w = ss_writers;
  while (w->format != NULL && strcmp(w->file, file) != 0)
    w++;
  if (w->format == NULL) {
    fprintf(stderr, "write_fixture: no writer makes %s\n", file);
    exit(1);
  }
  if (getenv("TRACE_BYTES") != NULL)
    options.trace_bytes = strtoull(getenv("TRACE_BYTES"), NULL, 10);
  options.trace_slices_only = getenv("TRACE_SLICES_ONLY") != NULL;
  struct ss_outfile *out = ss_outfile_open(dir, file, &diag);
  if (out == NULL || w->write(p, &options, out, &diag) != SS_ERR_OK ||
      ss_outfile_commit(out, &diag) != SS_ERR_OK)
    fail(file, &diag);
}

int main(int argc, char **argv)
{
  struct ss_diag diag = {0};
  struct ss_dir dir = {.fd = -1};
  struct ss_store *store = NULL;
  struct ss_profile *p = NULL;
  if (argc < 3) {
    fprintf(stderr, "usage: write_fixture DIR run|wide|hostile|long [FILE...]\n");
    return 64;
  }
  if (ss_dir_open(&dir, argv[1], true, &diag) != SS_ERR_OK ||
      ss_store_create(&store, &dir, "profile.db", &diag) != SS_ERR_OK)
    fail("profile.db", &diag);
  fill(store, argv[2]);
  if (ss_store_close(store, &diag) != SS_ERR_OK ||
      ss_profile_open(&p, &dir, "profile.db", &diag) != SS_ERR_OK)
    fail("profile.db", &diag);
  for (int i = 3; i < argc; i++)
    write_file(p, &dir, argv[i]);
  ss_profile_close(p);
  ss_dir_close(&dir);
  return 0;
}
