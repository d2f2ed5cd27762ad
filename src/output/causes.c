/*
 * Causes of a slow run that its CPU time proves. Each rule is a row of a table: what
 * it is called, from which share on it is worth a person's time, and a function that
 * finds the share and tells the evidence. Only what is clear is said. How large a
 * cause is, is how much of the elapsed time it explains: CPU time that was a small
 * part of that explains nothing, whatever it went to.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "causes_priv.h"
#include "stacksample/meta.h"

enum { SAMPLES_LEAST = 100 }; /* fewer say nothing for sure */
#define WEIGHT_LEAST 5.0      /* percent of the elapsed time */

struct judge {
  struct ss_figures *f;
  const struct ss_cause_facts *facts;
  struct ss_cause *cause; /* being filled: share_pct, ns, text, lists */
};

/* ---- words ---------------------------------------------------------------------- */

void ss_cause_line(cJSON *list, struct ss_buf *line)
{
  if (line->len > 0)
    ss_json_item(list, NULL, cJSON_CreateString(ss_buf_str(line)));
  ss_buf_clear(line);
}

static void add_text(cJSON *list, const char *text)
{
  struct ss_buf line = {0};
  ss_buf_adds(&line, text);
  ss_cause_line(list, &line);
  ss_buf_release(&line);
}

void ss_cause_view(struct ss_cause *cause, const char *keys)
{
  struct ss_buf line = {0};

  if (keys)
    ss_buf_addf(&line, "shown by flamegraph.html#%s", keys);
  ss_cause_line(cause->evidence, &line);
  ss_buf_release(&line);
}

static double share(uint64_t part, uint64_t whole)
{
  return whole > 0 ? 100 * (double)part / (double)whole : 0;
}

static void put_percent(struct ss_buf *out, double percent)
{
  ss_put_significant(out, percent);
  ss_buf_adds(out, " %");
}

void ss_put_site(struct ss_buf *out, struct ss_figures *f, const struct ss_site *site)
{
  size_t len = 0;

  if (site->frame == SS_ID_NONE) {
    ss_buf_adds(out,
                "no Python function (workers of OpenMP, the start of the interpreter)");
    return;
  }
  uint32_t text = ss_texts_frame(&f->texts, site->frame);
  const char *s = text != SS_ID_NONE ? ss_texts_str(&f->texts, text, &len) : "";
  ss_buf_add(out, s, len);
  if (site->line > 0)
    ss_buf_addf(out, ", line %d", site->line);
}

static void add_sites(struct judge *j, const struct ss_site *sites, size_t count,
                      uint64_t whole)
{
  struct ss_buf line = {0};

  for (size_t i = 0; i < count && share(sites[i].weight_ns, whole) >= 5; i++) {
    put_percent(&line, share(sites[i].weight_ns, whole));
    ss_buf_adds(&line, " of it in ");
    ss_put_site(&line, j->f, &sites[i]);
    ss_cause_line(j->cause->evidence, &line);
  }
  ss_buf_release(&line);
}

/* A share of CPU time; the standard error is that of so many samples. */
static void of_cpu(struct judge *j, uint64_t part_ns)
{
  double p = share(part_ns, j->facts->rows_ns) / 100;

  j->cause->share_pct = 100 * p;
  j->cause->error_pct =
      100 * sqrt(fmax(0, p * (1 - p)) / fmax(1, (double)j->f->run_samples));
  j->cause->ns = (uint64_t)(p * (double)ss_spent_running(&j->f->total));
}

static double wall_share(const struct ss_figures *f, uint64_t ns)
{
  return f->wall_ns > 0 ? (double)ns / (double)f->wall_ns : 0;
}

static uint64_t cpus_of(const struct ss_figures *f)
{
  return ss_profile_meta_u64(f->p, SS_META_CPUS_ALLOWED, 0);
}

/* ---- rules ---------------------------------------------------------------------- */

/* Where kernel stacks are hidden: what else went on around the faults. */
static void add_undivided(struct judge *j)
{
  uint64_t placed = ss_profile_meta_u64(j->f->p, SS_META_HIDDEN_PLACED_NS, 0);
  struct ss_buf line = {0};

  if (share(placed, j->facts->rows_ns) < 5)
    return;
  put_percent(&line, share(placed, j->facts->rows_ns));
  ss_buf_adds(&line, " more is kernel time that cannot be told apart here, giving memory "
                     "back among it (as root, or with kernel.perf_event_paranoid=1, it "
                     "can)");
  ss_cause_line(j->cause->evidence, &line);
  ss_buf_release(&line);
}

static void count_faults(struct judge *j)
{
  const struct ss_profile *p = j->f->p;
  uint64_t n = ss_profile_meta_u64(p, SS_META_RU_MINFLT, 0);
  struct ss_buf line = {0};

  if (n == 0)
    n = ss_profile_meta_u64(p, SS_META_FAULTS, 0);
  if (n > 0 && j->f->wall_ns > 0) {
    double seconds = (double)j->f->wall_ns / 1e9;
    ss_put_count(&line, n);
    ss_buf_adds(&line, " page faults, ");
    ss_put_count(&line, (uint64_t)((double)n / seconds));
    ss_buf_adds(&line, " a second: at least ");
    ss_put_count(&line, (uint64_t)((double)n * 4096 / seconds));
    ss_buf_adds(&line, "B/s of memory cleared");
  }
  ss_cause_line(j->cause->evidence, &line);
  ss_put_significant(&line, share(j->facts->fault_ns, j->facts->rows_ns));
  ss_buf_adds(&line, " % of CPU time is page faults");
  if (j->facts->unmap_ns > 0) {
    ss_buf_adds(&line, ", ");
    put_percent(&line, share(j->facts->unmap_ns, j->facts->rows_ns));
    ss_buf_adds(&line, " giving memory back");
  }
  ss_buf_adds(&line, " (\"[kernel: page fault]\" in stacks.folded)");
  ss_cause_line(j->cause->evidence, &line);
  add_undivided(j);
  ss_buf_release(&line);
}

static void judge_faults(struct judge *j)
{
  const char *thp = ss_profile_meta(j->f->p, SS_META_THP);

  of_cpu(j, j->facts->fault_ns + j->facts->unmap_ns);
  ss_buf_adds(
      &j->cause->text,
      "Short-lived arrays are allocated, faulted in page by page, and given back");
  count_faults(j);
  add_sites(j, j->facts->sites, j->facts->n_sites, j->facts->fault_ns);
  if (j->facts->torch && !(thp && strcmp(thp, "never") == 0))
    add_text(j->cause->attempts,
             "THP_MEM_ALLOC_ENABLE=1 (huge pages for torch's tensors; torch 2.0 and "
             "later, the same memory)");
  add_text(j->cause->attempts,
           "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc."
           "trim_threshold=8589934592 (keeps freed memory: about 1.7 times as much)");
}

static void judge_spin(struct judge *j)
{
  struct ss_buf line = {0};
  size_t len = 0;

  of_cpu(j, 2 * j->facts->openmp_spin_ns > j->facts->spin_ns ? j->facts->spin_ns : 0);
  ss_buf_adds(&j->cause->text,
              "OpenMP threads wait for each other without leaving their CPUs: parallel "
              "regions are short, or their parts uneven");
  ss_buf_addf(&line, "%zu threads spin", j->facts->spinners);
  if (j->facts->spin_text != SS_ID_NONE) {
    const char *s = ss_texts_str(&j->f->texts, j->facts->spin_text, &len);
    ss_buf_adds(&line, ", most in ");
    ss_buf_add(&line, s, len);
  }
  ss_cause_line(j->cause->evidence, &line);
  add_text(j->cause->attempts, "OMP_WAIT_POLICY=passive");
  if (j->facts->spinners > 1) {
    ss_buf_addf(&line, "fewer threads: OMP_NUM_THREADS=%zu",
                (j->facts->spinners + 1) / 2);
    ss_cause_line(j->cause->attempts, &line);
  }
  ss_buf_release(&line);
}

static void judge_python(struct judge *j)
{
  of_cpu(j, j->facts->python_ns);
  ss_buf_adds(&j->cause->text, "The interpreter itself is what runs, not what it calls");
  add_sites(j, j->facts->lines, j->facts->n_lines, j->facts->python_ns);
  add_text(j->cause->attempts,
           "independent tests at the same time, where CPUs are idle (pytest -n auto with "
           "pytest-xdist)");
}

static void judge_gradcheck(struct judge *j)
{
  of_cpu(j, j->facts->slow_check_ns);
  ss_buf_adds(&j->cause->text,
              "torch.autograd.gradcheck perturbs every element of every input by itself");
  add_text(j->cause->evidence,
           "CPU time under _slow_gradcheck (torch/autograd/gradcheck.py)");
  add_text(j->cause->attempts, "smaller inputs, or gradcheck(..., fast_mode=True): both "
                               "change the test");
}

static void judge_imports(struct judge *j)
{
  of_cpu(j, j->facts->import_ns);
  ss_buf_adds(&j->cause->text, "Modules are imported, not tests run");
  add_sites(j, j->facts->imports, j->facts->n_imports, j->facts->import_ns);
  add_text(j->cause->attempts, "python -X importtime -m pytest ... lists the modules");
}

/* Where no process came to its first test, each might have. */
static bool runs_tests(const struct ss_profile *p, uint32_t process)
{
  bool any = false;

  for (size_t i = 0; i < p->n_phases; i++) {
    if (!*ss_profile_str(p, p->phases[i].phase))
      continue;
    if (p->phases[i].process == process)
      return true;
    any = true;
  }
  return !any;
}

/* Its wall time, in the process that runs the tests (that which gives them to workers
 * has no other phase): what is computed in it has causes of its own. */
static void judge_collection(struct judge *j)
{
  const struct ss_figures *f = j->f;
  uint64_t ns = 0;

  for (size_t i = 0; i < f->p->n_phases; i++) {
    const struct ss_phase_row *row = &f->p->phases[f->tests[i].phase];
    if (strcmp(ss_profile_str(f->p, row->test), "(collection)") == 0 &&
        f->tests[i].wall_ns > ns && runs_tests(f->p, row->process))
      ns = f->tests[i].wall_ns;
  }
  j->cause->share_pct = 100 * fmin(1, wall_share(f, ns));
  j->cause->ns = ns;
  ss_buf_adds(&j->cause->text, "Before the first test, pytest imports and collects");
  add_text(j->cause->attempts, "naming the files or tests that are wanted: the others "
                               "are not imported");
}

/* More threads want to run than there are CPUs, though ours have them all. */
static void judge_oversubscription(struct judge *j)
{
  const struct ss_figures *f = j->f;
  uint64_t cpus = cpus_of(f), ran = ss_spent_running(&f->total);
  uint64_t starved = f->total.ns[SS_STATE_RUNNABLE];
  double used = wall_share(f, ran), wanted = wall_share(f, ran + starved);
  struct ss_buf line = {0};

  if (cpus == 0 || used < 0.8 * (double)cpus || wanted < 1.25 * (double)cpus)
    return;
  j->cause->share_pct = share(starved, ran + starved);
  j->cause->ns = starved;
  ss_buf_adds(&j->cause->text, "Of the time in which threads could run, so much they "
                               "waited for a CPU: there are more of them than CPUs");
  ss_put_significant(&line, wanted);
  ss_buf_addf(&line, " threads wanted to run at a time, on %llu CPU%s",
              (unsigned long long)cpus, cpus == 1 ? "" : "s");
  ss_cause_line(j->cause->evidence, &line);
  ss_buf_addf(&line,
              "OMP_NUM_THREADS=%llu (divided by the number of pytest-xdist workers)",
              (unsigned long long)cpus);
  ss_cause_line(j->cause->attempts, &line);
  ss_buf_release(&line);
}

static void judge_one_thread(struct judge *j)
{
  const struct ss_figures *f = j->f;
  uint64_t cpus = cpus_of(f), ran = ss_spent_running(&f->total);
  const struct ss_thread_row *top = &f->p->threads[j->facts->top];
  struct ss_buf line = {0};

  if (cpus < 2 || j->facts->top_ns < ran / 10 * 9 || wall_share(f, ran) > 1.2)
    return;
  j->cause->share_pct = 100 * fmin(1, wall_share(f, j->facts->top_ns));
  j->cause->ns = j->facts->top_ns;
  ss_buf_adds(&j->cause->text, "One thread does all the work; the other CPUs are idle");
  ss_buf_addf(&line, "thread %s: ", ss_profile_str(f->p, top->name));
  ss_put_seconds(&line, j->facts->top_ns);
  ss_buf_adds(&line, " s of ");
  ss_put_seconds(&line, ran);
  ss_buf_addf(&line, " s of CPU time, on %llu CPUs", (unsigned long long)cpus);
  ss_cause_line(j->cause->evidence, &line);
  ss_buf_release(&line);
}

static const struct rule {
  const char *name, *title, *base;
  double least_pct; /* worth telling */
  void (*judge)(struct judge *j);
  bool told_if_small; /* in the line of what is not a cause */
  const char *view;   /* as for ss_cause_view */
} rules[] = {
    {"page_fault_churn", "Page-fault churn", "cpu", 10, judge_faults, true,
     "q=page+fault"},
    {"openmp_spin", "OpenMP threads spinning", "cpu", 5, judge_spin, true, "state=spin"},
    {"python_bound", "Python itself", "cpu", 50, judge_python, true, "frames=python"},
    {"gradcheck_slow_mode", "gradcheck in slow mode", "cpu", 50, judge_gradcheck, false,
     "q=_slow_gradcheck"},
    {"oversubscription", "More threads than CPUs", "wall", 20, judge_oversubscription,
     false, "state=runnable"},
    {"import_time", "Imports", "cpu", 40, judge_imports, false, "q=_find_and_load"},
    {"collection_time", "Collection of tests", "wall", 40, judge_collection, false, NULL},
    {"one_thread_busy", "One thread busy", "wall", 80, judge_one_thread, false, NULL},
};

/* ---- all of them ---------------------------------------------------------------- */

static void release_cause(struct ss_cause *c)
{
  ss_buf_release(&c->text);
  cJSON_Delete(c->evidence);
  cJSON_Delete(c->attempts);
  *c = (struct ss_cause){0};
}

struct ss_cause *ss_cause_add(struct ss_causes *causes, const char *name,
                              const char *title, const char *base)
{
  struct ss_cause *c = &causes->items[causes->count++];

  SS_INVARIANT(causes->count <= SS_CAUSES_MAX);
  *c = (struct ss_cause){.name = name,
                         .title = title,
                         .base = base,
                         .evidence = cJSON_CreateArray(),
                         .attempts = cJSON_CreateArray()};
  return c;
}

void ss_cause_dismiss(struct ss_buf *list, const char *title, double share_pct)
{
  ss_buf_adds(list, list->len ? "; " : "");
  ss_buf_addf(list, "%s ", title);
  put_percent(list, share_pct);
}

static void apply(struct ss_causes *causes, const struct rule *rule, struct judge *j)
{
  double busy = wall_share(j->f, ss_spent_running(&j->f->total));
  struct ss_cause *c = ss_cause_add(causes, rule->name, rule->title, rule->base);

  j->cause = c;
  rule->judge(j);
  ss_cause_view(c, rule->view);
  c->weight_pct = c->share_pct * (strcmp(rule->base, "cpu") == 0 ? fmin(1, busy) : 1);
  if (c->share_pct >= rule->least_pct && c->weight_pct >= WEIGHT_LEAST)
    return;
  if (c->share_pct < rule->least_pct && rule->told_if_small)
    ss_cause_dismiss(&causes->dismissed, c->title, c->share_pct);
  release_cause(c);
  causes->count--;
}

static int largest_first(const void *a, const void *b)
{
  const struct ss_cause *x = a, *y = b;
  return (x->weight_pct < y->weight_pct) - (x->weight_pct > y->weight_pct);
}

/* A few samples prove nothing of what CPU time went to; nor does a part of the run of
 * what took its time. */
enum ss_err ss_causes_find(struct ss_causes *causes, struct ss_figures *f,
                           struct ss_diag *diag)
{
  struct ss_cause_facts facts;
  struct judge j = {.f = f, .facts = &facts};
  enum ss_err err = ss_cause_facts(&facts, f, diag);

  *causes = (struct ss_causes){0};
  if (f->filter)
    return err;
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
    if (err == SS_ERR_OK && f->run_samples >= SAMPLES_LEAST)
      apply(causes, &rules[i], &j);
  if (err == SS_ERR_OK)
    err = ss_cause_waits(causes, f, diag);
  qsort(causes->items, causes->count, sizeof causes->items[0], largest_first);
  return err;
}

void ss_causes_release(struct ss_causes *causes)
{
  for (size_t i = 0; i < causes->count; i++)
    release_cause(&causes->items[i]);
  ss_buf_release(&causes->dismissed);
  ss_buf_release(&causes->no_waits);
  *causes = (struct ss_causes){0};
}

/* ---- as JSON and as a section --------------------------------------------------- */

cJSON *ss_causes_json(const struct ss_causes *causes)
{
  cJSON *list = cJSON_CreateArray();

  for (size_t i = 0; i < causes->count; i++) {
    const struct ss_cause *c = &causes->items[i];
    cJSON *cause = cJSON_CreateObject();
    ss_json_str(cause, "name", c->name);
    ss_json_number(cause, "share_pct", c->share_pct, 2);
    ss_json_str(cause, "base", c->base);
    ss_json_number(cause, "error_pct", c->error_pct, 2);
    ss_json_str(cause, "text", ss_buf_str(&c->text));
    ss_json_item(cause, "evidence", cJSON_Duplicate(c->evidence, true));
    ss_json_item(cause, "try", cJSON_Duplicate(c->attempts, true));
    ss_json_item(list, NULL, cause);
  }
  return list;
}

/* "53 +- 1 % of CPU time" */
static void put_cause_share(struct ss_buf *out, const struct ss_cause *c)
{
  int decimals = c->error_pct >= 1 || c->error_pct <= 0 ? 0 : 1;

  ss_buf_addf(out, "%.*f", decimals, c->share_pct);
  if (c->error_pct > 0)
    ss_buf_addf(out, " +- %.*f", decimals, fmax(c->error_pct, decimals ? 0.1 : 1));
  ss_buf_addf(out, " %% of %s", strcmp(c->base, "cpu") == 0 ? "CPU time" : "the time");
}

static void put_items(struct ss_doc *d, const char *before, const cJSON *list)
{
  const cJSON *item;

  cJSON_ArrayForEach(item, list)
  {
    struct ss_buf line = {0};
    ss_buf_addf(&line, "%s%s", before, cJSON_GetStringValue(item));
    ss_doc_subitem(d, &line);
    ss_buf_release(&line);
  }
}

static void cause_item(struct ss_doc *d, const struct ss_cause *c)
{
  struct ss_buf line = {0};

  ss_buf_addf(&line, "%s: ", c->title);
  put_cause_share(&line, c);
  ss_buf_adds(&line, " (");
  ss_put_seconds(&line, c->ns);
  ss_buf_addf(&line, " s). %s.", ss_buf_str(&c->text));
  ss_doc_item(d, &line);
  ss_buf_release(&line);
  put_items(d, "", c->evidence);
  put_items(d, "Try: ", c->attempts);
}

bool ss_main_cause(struct ss_profile *p, struct ss_buf *cause, struct ss_buf *attempt)
{
  struct ss_figures f;
  struct ss_causes causes = {0};

  if (ss_figures_init(&f, p, false, NULL) != SS_ERR_OK)
    return false;
  bool found = ss_causes_find(&causes, &f, NULL) == SS_ERR_OK && causes.count > 0;
  if (found) {
    const struct ss_cause *c = &causes.items[0];
    const char *try = cJSON_GetStringValue(cJSON_GetArrayItem(c->attempts, 0));
    put_cause_share(cause, c);
    ss_buf_addf(cause, ": %s (%s)", ss_buf_str(&c->text), c->name);
    ss_buf_adds(attempt, try ? try : "");
  }
  ss_causes_release(&causes);
  ss_figures_release(&f);
  return found;
}

void ss_causes_section(struct ss_doc *d, const struct ss_causes *causes)
{
  struct ss_buf text = {0};

  if (causes->count == 0 && causes->dismissed.len == 0 && causes->no_waits.len == 0)
    return;
  ss_doc_heading(d, "Why it took that long");
  for (size_t i = 0; i < causes->count; i++)
    cause_item(d, &causes->items[i]);
  if (causes->count == 0)
    ss_buf_adds(&text, "No single cause is clear. ");
  if (causes->dismissed.len > 0)
    ss_buf_addf(&text, "Not a cause, of CPU time: %s. ", ss_buf_str(&causes->dismissed));
  if (causes->no_waits.len > 0)
    ss_buf_addf(&text, "Not a cause, of the time: waiting for %s.",
                ss_buf_str(&causes->no_waits));
  ss_doc_para(d, &text);
  ss_buf_release(&text);
}
