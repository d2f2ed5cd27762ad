/*
 * The summary a person reads: what happened, where the time went, how good the
 * evidence is, what to do next. From profile.db alone. Only what was measured is
 * said; a figure that is not known is left out, never 0.
 */
#include <stdlib.h>
#include <string.h>

#include "causes_priv.h"
#include "stacksample/meta.h"
#include "summary_priv.h"

#define TEST_ROWS 40
#define UNSEEN_NAMES 8
#define FUNCTION_ROWS 20
#define ROLE_ROWS 24
#define ID_SHOWN 120   /* bytes of a node id in a table */
#define FOLD_SHARE 100 /* tests below 1/100 of the wall time share a row */

/* ---- what happened --------------------------------------------------------------- */

static void put_state_shares(struct ss_buf *out, const struct ss_spent *t)
{
  static const enum ss_state states[] = {SS_STATE_USER, SS_STATE_KERNEL, SS_STATE_SPIN};
  uint64_t all = ss_spent_running(t);

  for (size_t i = 0; i < 3 && all; i++) {
    ss_buf_adds(out, i ? ", " : ": ");
    ss_put_significant(out, 100 * (double)t->ns[states[i]] / (double)all);
    ss_buf_addf(out, " %% %s", ss_state_word(states[i]));
  }
}

/* Different node ids; phases without a phase word are no tests. */
static size_t count_tests(const struct ss_figures *f)
{
  struct ss_idmap seen = {0};
  size_t n = 0;

  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_phase_row *row = &f->p->phases[f->tests[i].phase];
    if (*ss_profile_str(f->p, row->phase) && ss_test_shown(f, &f->tests[i]) &&
        !ss_idmap_get(&seen, row->test)) {
      ss_idmap_put(&seen, row->test, 1);
      n++;
    }
  }
  ss_idmap_release(&seen);
  return n + f->n_unseen;
}

static void command_para(struct ss_doc *d, const struct ss_figures *f)
{
  const char *line = ss_profile_meta(f->p, SS_META_COMMAND_LINE);
  const char *result = ss_profile_meta(f->p, SS_META_LOG_RESULT);
  uint64_t code = ss_profile_meta_u64(f->p, SS_META_EXIT_CODE, UINT64_MAX);
  struct ss_buf text = {0};

  if (line)
    ss_buf_addf(&text, "Command: %s", line);
  if (line && code != UINT64_MAX)
    ss_buf_addf(&text, " (exit %llu)", (unsigned long long)code);
  ss_doc_para(d, &text);
  ss_buf_clear(&text);
  if (result)
    ss_buf_addf(&text, "pytest says: %s", result);
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

/* Worth a sentence from a twentieth of the CPU time on. */
static void put_starved(struct ss_buf *out, const struct ss_figures *f)
{
  uint64_t starved = f->total.ns[SS_STATE_RUNNABLE];

  if (starved <= ss_spent_running(&f->total) / 20)
    return;
  ss_buf_adds(out, " Threads that could run had no CPU for ");
  ss_put_seconds(out, starved);
  ss_buf_adds(out, " s: too many threads, another load on this machine, or a limit.");
}

/* By the ledger; where nothing was sampled, by what wait4 said. */
static void put_cpu(struct ss_buf *text, const struct ss_figures *f)
{
  uint64_t cpus = ss_profile_meta_u64(f->p, SS_META_CPUS_ALLOWED, 0);
  uint64_t running = f->p->n_times ? ss_spent_running(&f->total) : ss_rusage_ns(f->p);

  if (running == 0 && f->p->n_times == 0)
    return;
  ss_buf_adds(text, "; CPU ");
  ss_put_seconds(text, running);
  ss_buf_adds(text, " s");
  if (cpus)
    ss_buf_addf(text, " on %llu CPU%s", (unsigned long long)cpus, cpus == 1 ? "" : "s");
  if (f->wall_ns && f->filter == NULL) {
    ss_buf_adds(text, " (");
    ss_put_significant(text, (double)running / (double)f->wall_ns);
    ss_buf_adds(text, " busy)");
  }
  put_state_shares(text, &f->total);
}

static void cpu_para(struct ss_doc *d, const struct ss_figures *f)
{
  size_t tests = count_tests(f);
  struct ss_buf text = {0};

  if (tests)
    ss_buf_addf(&text, "%zu test%s. ", tests, tests == 1 ? "" : "s");
  ss_buf_adds(&text, "Wall ");
  ss_put_seconds(&text, f->wall_ns);
  ss_buf_adds(&text, " s");
  put_cpu(&text, f);
  ss_buf_addc(&text, '.');
  put_starved(&text, f);
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

/* "What follows is of this only: tests with \"grad\" in their id, thread main, state
 * user, from 5.00 s, ..." */
static void filter_para(struct ss_doc *d, const struct ss_filter *filter)
{
  struct ss_buf text = {0};

  ss_buf_adds(&text, "What follows is of this only: ");
  size_t begun = text.len;
  if (filter->test)
    ss_buf_addf(&text, "tests with \"%s\" in their id", filter->test);
  if (filter->thread)
    ss_buf_addf(&text, "%sthread %s", text.len > begun ? ", " : "", filter->thread);
  if (filter->state)
    ss_buf_addf(&text, "%sstate %s", text.len > begun ? ", " : "", filter->state);
  if (filter->from_ns) {
    ss_buf_adds(&text, text.len > begun ? ", from " : "from ");
    ss_put_duration(&text, (double)filter->from_ns / 1e9);
  }
  if (filter->to_ns) {
    ss_buf_adds(&text, text.len > begun ? ", up to " : "up to ");
    ss_put_duration(&text, (double)filter->to_ns / 1e9);
  }
  ss_buf_addc(&text, '.');
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

static void limits_para(struct ss_doc *d, const struct ss_figures *f)
{
  cJSON *limits = ss_json_meta(f->p, SS_META_LIMITS);
  const cJSON *item;
  struct ss_buf text = {0};

  cJSON_ArrayForEach(item, limits)
  {
    const char *source = ss_json_get(item, "source"), *kind = ss_json_get(item, "kind");
    const cJSON *s = cJSON_GetObjectItemCaseSensitive(item, "s");
    const cJSON *cpus = cJSON_GetObjectItemCaseSensitive(item, "cpus");
    if (!source || !kind)
      continue;
    ss_buf_addf(&text, "%s%s: ", text.len ? "; " : "Limits known: ", source);
    if (cJSON_IsNumber(s)) {
      ss_put_duration(&text, s->valuedouble);
      ss_buf_adds(&text, strcmp(kind, "test") == 0 ? " a test" : "");
    } else if (cJSON_IsNumber(cpus)) {
      ss_put_significant(&text, cpus->valuedouble);
      ss_buf_adds(&text, " CPUs");
    }
  }
  if (text.len)
    ss_buf_addc(&text, '.');
  else if (limits)
    ss_buf_adds(&text, "Limits known: none.");
  ss_doc_para(d, &text);
  ss_buf_release(&text);
  cJSON_Delete(limits);
}

static void guards_para(struct ss_doc *d, const struct ss_figures *f)
{
  cJSON *guards = ss_json_meta(f->p, SS_META_GUARDS);
  const cJSON *item;
  struct ss_buf text = {0};

  cJSON_ArrayForEach(item, guards)
  {
    const char *value = cJSON_GetStringValue(item);
    ss_buf_adds(&text, text.len ? "; " : "Guards: ");
    if (value)
      ss_buf_addf(&text, "%s=%s", item->string, value);
    else
      ss_buf_addf(&text, "%s %s", item->string,
                  item->string[0] == '-' ? "not given" : "not set");
  }
  if (text.len)
    ss_buf_addc(&text, '.');
  ss_doc_para(d, &text);
  ss_buf_release(&text);
  cJSON_Delete(guards);
}

static void failure_section(struct ss_doc *d, const struct ss_figures *f)
{
  cJSON *brief = ss_json_meta(f->p, SS_META_LOG_SHORT);
  cJSON *trace = ss_json_meta(f->p, SS_META_LOG_TRACEBACK);
  cJSON *tail = ss_json_meta(f->p, SS_META_LOG_TAIL);
  const char *timeout = ss_profile_meta(f->p, SS_META_LOG_TIMEOUT);
  struct ss_buf text = {0};

  if (brief || trace || tail || timeout)
    ss_doc_heading(d, "What the log says");
  if (timeout)
    ss_buf_addf(&text, "pytest-timeout fired: %s", timeout);
  ss_doc_para(d, &text);
  if (brief)
    ss_doc_code(d, brief);
  if (trace)
    ss_doc_code(d, trace);
  else if (tail && !brief)
    ss_doc_code(d, tail);
  ss_buf_release(&text);
  cJSON_Delete(brief);
  cJSON_Delete(trace);
  cJSON_Delete(tail);
}

/* ---- where ------------------------------------------------------------------------- */

static const char *const test_headers[] = {
    "test",          "phase",   "outcome", ">wall s", ">user s",  ">kernel s",
    ">of it faults", ">spin s", ">gil s",  ">wait s", ">samples", "mostly"};

static void add_times(struct ss_grid *g, const struct ss_figures *f,
                      const struct ss_spent *t)
{
  uint64_t fault = ss_spent_fault(f, t);

  ss_put_seconds(ss_grid_cell(g), t->ns[SS_STATE_USER]);
  ss_put_seconds(ss_grid_cell(g), t->ns[SS_STATE_KERNEL]);
  struct ss_buf *cell = ss_grid_cell(g);
  if (fault != UINT64_MAX)
    ss_put_seconds(cell, fault);
  ss_put_seconds(ss_grid_cell(g), t->ns[SS_STATE_SPIN]);
  ss_put_seconds(ss_grid_cell(g), t->ns[SS_STATE_GIL]);
  ss_put_seconds(ss_grid_cell(g), ss_spent_waiting(t) - t->ns[SS_STATE_GIL]);
  ss_put_count(ss_grid_cell(g), t->samples);
}

/* Of an id that would make a table unreadable, its two ends: tests.tsv has it all. */
static void put_id(struct ss_buf *out, const char *id)
{
  size_t len = strlen(id), head = ID_SHOWN / 2, tail = len - ID_SHOWN / 2;

  if (len <= ID_SHOWN) {
    ss_buf_adds(out, id);
    return;
  }
  while (head > 0 && ((unsigned char)id[head] & 0xc0) == 0x80) /* whole characters */
    head--;
  while (((unsigned char)id[tail] & 0xc0) == 0x80)
    tail++;
  ss_buf_add(out, id, head);
  ss_buf_adds(out, "...");
  ss_buf_adds(out, id + tail);
}

static void add_test(struct ss_grid *g, const struct ss_figures *f,
                     const struct ss_test_row *row)
{
  const struct ss_phase_row *phase = &f->p->phases[row->phase];
  size_t len = 0;

  struct ss_buf *name = ss_grid_cell(g);
  put_id(name, ss_profile_str(f->p, phase->test));
  if (phase->occurrence > 0 && *ss_profile_str(f->p, phase->phase))
    ss_buf_addf(name, " (run %u)", phase->occurrence + 1);
  const char *worker = ss_profile_str(f->p, f->p->processes[phase->process].worker);
  if (*worker)
    ss_buf_addf(name, ", %s", worker);
  ss_buf_adds(ss_grid_cell(g), ss_profile_str(f->p, phase->phase));
  ss_buf_adds(ss_grid_cell(g), row->outcome ? row->outcome : "");
  ss_put_seconds(ss_grid_cell(g), row->wall_ns);
  add_times(g, f, &row->t);
  struct ss_buf *top = ss_grid_cell(g);
  if (row->top != SS_ID_NONE) {
    const char *text = ss_texts_str(&f->texts, row->top, &len);
    ss_buf_add(top, text, len);
  }
}

static void fold_test(struct ss_test_row *sum, const struct ss_test_row *row)
{
  sum->wall_ns += row->wall_ns;
  sum->t.samples += row->t.samples;
  sum->t.kernel_w += row->t.kernel_w;
  sum->t.fault_w += row->t.fault_w;
  for (size_t s = 0; s < SS_STATE_COUNT; s++)
    sum->t.ns[s] += row->t.ns[s];
}

/* Names of tests that ended before anything could be seen of them. */
static void unseen_para(struct ss_doc *d, const struct ss_figures *f)
{
  struct ss_buf text = {0};

  if (f->n_unseen)
    ss_buf_addf(&text, "%zu test%s ran too short a time to be seen: ", f->n_unseen,
                f->n_unseen == 1 ? "" : "s");
  for (size_t i = 0; i < f->n_unseen && i < UNSEEN_NAMES; i++) {
    const char *outcome = ss_json_get(f->unseen[i], "outcome");
    ss_buf_addf(&text, "%s%s (%s)", i ? ", " : "", ss_json_get(f->unseen[i], "id"),
                outcome ? outcome : "?");
  }
  if (f->n_unseen)
    ss_buf_adds(&text, f->n_unseen > UNSEEN_NAMES ? ", ... (tests.tsv has all)." : ".");
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

static void tests_section(struct ss_doc *d, const struct ss_figures *f)
{
  struct ss_grid grid = {.headers = test_headers, .columns = 12};
  struct ss_test_row rest = {.top = SS_ID_NONE};
  size_t folded = 0, shown = 0;

  if (f->p->n_phases == 0 && f->n_unseen == 0)
    return;
  ss_doc_heading(d, "Where: tests");
  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_test_row *row = &f->tests[i];
    bool small = shown > 0 && !f->filter && row->wall_ns < f->wall_ns / FOLD_SHARE;
    if (!ss_test_shown(f, row))
      continue;
    if (shown >= TEST_ROWS || small) {
      fold_test(&rest, row);
      folded++;
    } else {
      add_test(&grid, f, row);
      shown++;
    }
  }
  if (folded) {
    ss_buf_addf(ss_grid_cell(&grid), "%zu more phase%s, each shorter", folded,
                folded == 1 ? "" : "s");
    ss_grid_cell(&grid);
    ss_grid_cell(&grid);
    ss_put_seconds(ss_grid_cell(&grid), rest.wall_ns);
    add_times(&grid, f, &rest.t);
    ss_grid_cell(&grid);
  }
  if (f->p->n_phases)
    ss_doc_grid(d, &grid);
  unseen_para(d, f);
}

static void functions_section(struct ss_doc *d, const struct ss_figures *f,
                              const char *title, const char *const *headers,
                              const struct ss_function_row *rows, size_t n)
{
  struct ss_grid grid = {.headers = headers, .columns = 4};
  size_t len = 0;

  if (n == 0)
    return;
  ss_doc_heading(d, title);
  for (size_t i = 0; i < n && i < FUNCTION_ROWS; i++) {
    ss_put_share(ss_grid_cell(&grid), rows[i].self_ns, f->run_ns, f->run_samples);
    ss_put_seconds(ss_grid_cell(&grid), rows[i].self_ns);
    ss_put_seconds(ss_grid_cell(&grid), rows[i].total_ns);
    const char *text = ss_texts_str(&f->texts, rows[i].text, &len);
    ss_buf_add(ss_grid_cell(&grid), text, len);
  }
  ss_doc_grid(d, &grid);
}

/* ---- threads --------------------------------------------------------------------- */

static const char *const role_headers[] = {"threads",   "process",       ">user s",
                                           ">kernel s", ">of it faults", ">spin s",
                                           ">gil s",    ">wait s",       ">samples"};

static void put_process(struct ss_buf *out, const struct ss_profile *p, uint32_t process)
{
  const char *label = ss_profile_str(p, p->processes[process].label);

  ss_buf_addf(out, "%s%s%lld", label, *label ? " " : "",
              (long long)p->processes[process].pid);
}

static void put_role(struct ss_buf *out, const struct ss_profile *p,
                     const struct ss_role_row *row)
{
  const struct ss_thread_row *t = &p->threads[row->first];
  const char *name = ss_profile_str(p, t->name), *role = ss_profile_str(p, t->role);

  if (row->members > 1)
    ss_buf_addf(out, "%s x %u", *role ? role : name, row->members);
  else if (strcmp(name, role) != 0 && *role)
    ss_buf_addf(out, "%s (%s)", name, role);
  else
    ss_buf_adds(out, name);
}

static void threads_section(struct ss_doc *d, const struct ss_figures *f)
{
  struct ss_grid grid = {.headers = role_headers, .columns = 9};
  struct ss_buf text = {0};

  if (f->n_roles == 0)
    return;
  ss_doc_heading(d, "Threads");
  for (size_t i = 0; i < f->n_roles && i < ROLE_ROWS; i++) {
    put_role(ss_grid_cell(&grid), f->p, &f->roles[i]);
    put_process(ss_grid_cell(&grid), f->p, f->p->threads[f->roles[i].first].process);
    add_times(&grid, f, &f->roles[i].t);
  }
  ss_doc_grid(d, &grid);
  if (f->n_roles > ROLE_ROWS)
    ss_buf_addf(&text, "%zu more groups of threads with less CPU time.",
                f->n_roles - ROLE_ROWS);
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

static void next_section(struct ss_doc *d)
{
  struct ss_buf text = {0};

  ss_doc_heading(d, "Next");
  ss_buf_adds(&text, "Open flamegraph.html in a browser. Ask more: stacksample report "
                     "BUNDLE --test NAME --thread main.");
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}

static void causes_section(struct ss_doc *d, struct ss_figures *f)
{
  struct ss_causes causes = {0};

  if (ss_causes_find(&causes, f, NULL) == SS_ERR_OK)
    ss_causes_section(d, &causes);
  ss_causes_release(&causes);
}

/* What is true of the run as a whole. */
static void run_sections(struct ss_doc *d, struct ss_figures *f)
{
  causes_section(d, f);
  limits_para(d, f);
  guards_para(d, f);
  if (ss_profile_meta_u64(f->p, SS_META_EXIT_CODE, 1) != 0)
    failure_section(d, f);
  ss_dumps_section(d, f);
}

void ss_summary_doc(struct ss_doc *d, struct ss_figures *f)
{
  static const char *const function_headers[] = {">self", ">self s", ">total s",
                                                 "function"};
  static const char *const operator_headers[] = {">self", ">self s", ">total s",
                                                 "operator"};
  struct ss_buf title = {0};

  ss_figures_sort_tests(f);
  ss_headline(f, &title);
  ss_doc_title(d, &title);
  ss_buf_release(&title);
  command_para(d, f);
  if (f->filter)
    filter_para(d, f->filter);
  cpu_para(d, f);
  if (!f->filter)
    run_sections(d, f);
  tests_section(d, f);
  functions_section(d, f, "Where: functions (CPU time of all threads)", function_headers,
                    f->functions, f->n_functions);
  functions_section(d, f, "Where: operators", operator_headers, f->operators,
                    f->n_operators);
  ss_summary_waits(d, f);
  threads_section(d, f);
  ss_summary_quality(d, f);
  if (d->markdown)
    next_section(d);
}

/* ---- the two that are written from it -------------------------------------------- */

enum ss_err ss_write_summary_md(struct ss_profile *p,
                                const struct ss_write_options *options,
                                struct ss_outfile *out, struct ss_diag *diag)
{
  struct ss_figures f;
  struct ss_buf text = {0};
  struct ss_doc doc = {&text, true};
  enum ss_err err = ss_figures_init(&f, p, true, diag);

  if (err != SS_ERR_OK)
    return err;
  ss_figures_filtered(&f, options ? &options->filter : NULL);
  ss_summary_doc(&doc, &f);
  ss_figures_release(&f);
  if (text.failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "out of memory for the summary");
  else
    ss_outfile_write(out, text.data, text.len);
  ss_buf_release(&text);
  return err;
}

void ss_tables_print(struct ss_profile *p, const struct ss_filter *filter, FILE *to)
{
  struct ss_figures f;
  struct ss_buf text = {0};
  struct ss_doc doc = {&text, false};

  if (ss_figures_init(&f, p, true, NULL) != SS_ERR_OK)
    return;
  ss_figures_filtered(&f, filter);
  ss_summary_doc(&doc, &f);
  ss_figures_release(&f);
  fwrite(ss_buf_str(&text), 1, text.len, to);
  ss_buf_release(&text);
}
