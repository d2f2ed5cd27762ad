/*
 * tests.tsv: one line a test phase, in order of start, then the tests that only
 * the log knows (too short to be seen). Seconds have six decimals; a cell that
 * is not known is empty.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/escape.h"
#include "summary_priv.h"

static int by_start(const void *a, const void *b)
{
  const struct ss_test_row *x = a, *y = b;
  if (x->start_ns != y->start_ns)
    return x->start_ns < y->start_ns ? -1 : 1;
  return (x->phase > y->phase) - (x->phase < y->phase);
}

static void text_cell(struct ss_buf *line, const char *s, size_t len)
{
  ss_escape_tsv(line, s, len);
  ss_buf_addc(line, '\t');
}

static void seconds_cell(struct ss_buf *line, uint64_t ns)
{
  ss_buf_addf(line, "%.6f\t", (double)ns / 1e9);
}

static void write_row(struct ss_outfile *out, const struct ss_figures *f,
                      const struct ss_test_row *row)
{
  const struct ss_phase_row *phase = &f->p->phases[row->phase];
  const char *test = ss_profile_str(f->p, phase->test);
  const char *name = ss_profile_str(f->p, phase->phase);
  const char *worker = ss_profile_str(f->p, f->p->processes[phase->process].worker);
  const char *top = "";
  size_t top_len = 0;
  struct ss_buf line = {0};

  text_cell(&line, test, strlen(test));
  text_cell(&line, name, strlen(name));
  text_cell(&line, worker, strlen(worker));
  seconds_cell(&line, row->start_ns);
  if (row->wall_ns)
    seconds_cell(&line, row->wall_ns);
  else
    ss_buf_addc(&line, '\t');
  seconds_cell(&line, row->t.ns[SS_STATE_USER]);
  seconds_cell(&line, row->t.ns[SS_STATE_KERNEL]);
  seconds_cell(&line, row->t.ns[SS_STATE_SPIN]);
  seconds_cell(&line, ss_spent_waiting(&row->t));
  ss_buf_addf(&line, "%llu\t", (unsigned long long)row->t.samples);
  text_cell(&line, row->outcome ? row->outcome : "",
            row->outcome ? strlen(row->outcome) : 0);
  if (row->top != SS_ID_NONE)
    top = ss_texts_str(&f->texts, row->top, &top_len);
  ss_escape_tsv(&line, top, top_len);
  ss_buf_addc(&line, '\n');
  ss_outfile_write(out, ss_buf_str(&line), line.len);
  ss_buf_release(&line);
}

static void write_unseen(struct ss_outfile *out, const cJSON *item)
{
  const char *id = ss_json_get(item, "id"), *worker = ss_json_get(item, "worker");
  const char *outcome = ss_json_get(item, "outcome");
  struct ss_buf line = {0};

  text_cell(&line, id, strlen(id));
  ss_buf_addc(&line, '\t');
  text_cell(&line, worker ? worker : "", worker ? strlen(worker) : 0);
  ss_buf_adds(&line, "\t\t\t\t\t\t0\t");
  text_cell(&line, outcome ? outcome : "", outcome ? strlen(outcome) : 0);
  ss_buf_addc(&line, '\n');
  ss_outfile_write(out, ss_buf_str(&line), line.len);
  ss_buf_release(&line);
}

enum ss_err ss_write_tests_tsv(struct ss_profile *p,
                               const struct ss_write_options *options,
                               struct ss_outfile *out, struct ss_diag *diag)
{
  static const char header[] =
      "test\tphase\tworker\tstart_s\twall_s\tuser_s\tkernel_s\tspin_s\t"
      "waiting_s\tsamples\toutcome\ttop\n";
  struct ss_figures f;
  enum ss_err err = ss_figures_init(&f, p, false, diag);

  if (err != SS_ERR_OK)
    return err;
  ss_figures_filtered(&f, options ? &options->filter : NULL);
  if (p->n_phases)
    qsort(f.tests, p->n_phases, sizeof *f.tests, by_start);
  ss_outfile_write(out, header, sizeof header - 1);
  for (size_t i = 0; i < p->n_phases; i++)
    if (ss_test_shown(&f, &f.tests[i]))
      write_row(out, &f, &f.tests[i]);
  for (size_t i = 0; i < f.n_unseen; i++)
    write_unseen(out, f.unseen[i]);
  ss_figures_release(&f);
  return SS_ERR_OK;
}
