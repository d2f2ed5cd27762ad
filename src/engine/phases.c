/*
 * Which test runs: phase rows from the looks at a process' live environ.
 *
 * A look is taken at every sample of a process that runs tests and, while it has
 * none, every SS_PHASE_TICK_NS. A phase starts at the first look that sees it, so its
 * bounds are as exact as the looks are close. A look that is older than the
 * newest one (records arrive late) never changes anything.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/limits.h"
#include "stacksample/sys.h"

#include "pipeline_priv.h"

#define ASK_AFTER_NS 200000000ull /* shorter phases are not asked for a limit */

static const char collection[] = "(collection)";
static const char finish[] = "(session finish)";
static const char between[] = "(between tests)";

static uint32_t next_occurrence(struct ss_pipeline *p, const struct ss_phase_row *row)
{
  uint32_t key[3] = {row->process, row->test, row->phase};
  uint64_t hash = ss_hash_bytes(key, sizeof(key));
  uint64_t *count = ss_idmap_get(&p->occurrences, hash);
  uint64_t n = count ? *count : 0;

  (void)ss_idmap_put(&p->occurrences, hash, n + 1);
  return (uint32_t)n;
}

static void publish(struct ss_pipeline *p, struct ss_process *proc,
                    const struct ss_test_now *now)
{
  pthread_mutex_lock(&p->now_lock);
  proc->now = *now;
  pthread_mutex_unlock(&p->now_lock);
}

/* A test that is run again begins with its setup. */
static bool goes_on(const struct ss_test_now *before, const struct ss_test_now *now)
{
  return before->serial > 0 && strcmp(before->test, now->test) == 0 &&
         strcmp(now->phase, "setup") != 0;
}

static void publish_phase(struct ss_pipeline *p, struct ss_process *proc,
                          const char *test, size_t test_len, const char *phase,
                          size_t phase_len, uint64_t time_ns)
{
  struct ss_test_now now = {.phase_start_ns = time_ns};

  snprintf(now.test, sizeof(now.test), "%.*s", (int)test_len, test);
  snprintf(now.phase, sizeof(now.phase), "%.*s", (int)phase_len, phase);
  if (goes_on(&proc->now, &now)) {
    now.serial = proc->now.serial;
    now.test_start_ns = proc->now.test_start_ns;
    now.limit_ns = proc->now.limit_ns;
    now.marked = proc->now.marked;
  } else if (now.test[0] != '(') {
    now.serial = ++p->n_tests;
    now.test_start_ns = time_ns;
  }
  proc->ask_ns = now.serial > 0 ? time_ns + ASK_AFTER_NS : 0;
  publish(p, proc, &now);
}

static void close_row(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns)
{
  if (proc->phase == SS_ID_NONE || proc->phase_shared)
    return;
  proc->phase_row.end_ns = time_ns;
  ss_store_phase_update(p->config.store, proc->phase, &proc->phase_row);
}

static void book(struct ss_process *proc, uint64_t time_ns)
{
  for (struct ss_thread *t = proc->threads; t; t = t->next) {
    ss_ledger_phase(t->ledger, time_ns, proc->phase);
    t->blind_gap_ns = 0; /* each phase has looks of its own */
  }
}

static void enter(struct ss_pipeline *p, struct ss_process *proc, const char *test,
                  size_t test_len, const char *phase, size_t phase_len, uint64_t time_ns)
{
  close_row(p, proc, time_ns);
  proc->phase_before = proc->phase;
  proc->phase_start_ns = time_ns;
  proc->phase_shared = false;
  proc->phase_row = (struct ss_phase_row){
      .process = proc->id,
      .test = ss_store_string(p->config.store, test, test_len),
      .phase = ss_store_string(p->config.store, phase, phase_len),
      .start_ns = time_ns,
  };
  proc->phase_row.occurrence = next_occurrence(p, &proc->phase_row);
  proc->phase = ss_store_phase(p->config.store, &proc->phase_row);
  book(proc, time_ns);
  publish_phase(p, proc, test, test_len, phase, phase_len, time_ns);
}

/* Before the first test everything is collection, imports included. */
void ss_phases_start(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns)
{
  if (proc->pytest && proc->phase == SS_ID_NONE)
    enter(p, proc, collection, strlen(collection), "", 0, time_ns);
}

/* Not outside of tests: what is started there (a worker of xdist) has a collection
 * of its own. */
void ss_phases_inherit(struct ss_process *child, const struct ss_process *parent,
                       uint64_t time_ns)
{
  if (parent->phase == SS_ID_NONE || parent->env.value == NULL)
    return;
  child->phase_before = child->phase;
  child->phase = parent->phase;
  child->phase_row = parent->phase_row;
  child->phase_start_ns = time_ns;
  child->phase_shared = true;
  book(child, time_ns);
}

void ss_phases_end(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns)
{
  close_row(p, proc, time_ns);
  proc->phase = SS_ID_NONE;
  publish(p, proc, &(struct ss_test_now){0});
}

uint32_t ss_phases_at(const struct ss_process *proc, uint64_t time_ns)
{
  return time_ns >= proc->phase_start_ns ? proc->phase : proc->phase_before;
}

static bool row_names(struct ss_pipeline *p, const struct ss_process *proc,
                      const struct ss_test_id *id)
{
  const struct ss_phase_row *row = &proc->phase_row;

  return proc->phase != SS_ID_NONE &&
         row->test == ss_store_string(p->config.store, id->id, id->id_len) &&
         row->phase == ss_store_string(p->config.store, id->phase, id->phase_len);
}

/* What a child inherited of the environ is no test of its own: it goes on working
 * for its parent, whose test may have begun just before the fork. */
static bool is_of_parent(struct ss_pipeline *p, struct ss_process *proc,
                         const struct ss_test_id *id, uint64_t time_ns)
{
  const struct ss_process *parent = ss_tracked_find_process(p, proc->ppid);

  if (!proc->phase_shared)
    return false;
  if (row_names(p, proc, id))
    return true;
  if (!parent || !row_names(p, parent, id))
    return false;
  ss_phases_inherit(proc, parent, time_ns);
  return true;
}

static bool row_is(struct ss_pipeline *p, const struct ss_process *proc, const char *text)
{
  return proc->phase != SS_ID_NONE &&
         proc->phase_row.test == ss_store_string(p->config.store, text, strlen(text));
}

static void changed(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns)
{
  struct ss_test_id id;

  if (proc->env.value == NULL) {
    enter(p, proc, finish, strlen(finish), "", 0, time_ns);
    return;
  }
  ss_test_parse(proc->env.value, proc->env.value_len, &id);
  if (is_of_parent(p, proc, &id, time_ns))
    return;
  /* What looked like the end was only the gap before this test. */
  if (row_is(p, proc, finish) && !proc->phase_shared) {
    proc->phase_row.test = ss_store_string(p->config.store, between, strlen(between));
    ss_store_phase_update(p->config.store, proc->phase, &proc->phase_row);
  }
  enter(p, proc, id.id, id.id_len, id.phase, id.phase_len, time_ns);
}

static void note_worker(struct ss_pipeline *p, struct ss_process *proc)
{
  if (proc->env.worker[0] == '\0' || proc->row.worker != SS_ID_NONE)
    return;
  proc->row.worker =
      ss_store_string(p->config.store, proc->env.worker, strlen(proc->env.worker));
  proc->row.label = proc->row.worker;
  ss_store_process_update(p->config.store, proc->id, &proc->row);
}

/* Started inside somebody's pytest, the command inherits that test's name: it is
 * none of its own tests, until it changes. */
static bool is_inherited(const struct ss_process *proc)
{
  const char *ours = getenv("PYTEST_CURRENT_TEST");

  return ours && proc->env.value && strlen(ours) == proc->env.value_len &&
         memcmp(ours, proc->env.value, proc->env.value_len) == 0;
}

void ss_phases_look(struct ss_pipeline *p, struct ss_process *proc,
                    const struct ss_mem *mem, uint64_t time_ns, uint64_t read_ns)
{
  if (time_ns <= proc->env_look_ns || read_ns < proc->env_read_ns)
    return;
  proc->env_look_ns = time_ns;
  proc->env_read_ns = read_ns;
  if (!ss_testenv_update(&proc->env, &proc->space, mem))
    return;
  note_worker(p, proc);
  if (is_inherited(proc))
    return;
  changed(p, proc, time_ns);
}

/* Once in a phase: a marker does not change, but the clock may start with the call. */
static void ask_for_marker(struct ss_pipeline *p, struct ss_process *proc,
                           uint64_t now_ns)
{
  struct ss_test_now now = proc->now;
  double seconds;

  if (proc->ask_ns == 0 || now_ns < proc->ask_ns || proc->py == NULL)
    return;
  proc->ask_ns = 0;
  if (now.marked || !ss_pytest_marker_limit(proc->py, proc->pid, &seconds))
    return;
  now.limit_ns = ss_seconds_ns(seconds);
  now.marked = true;
  publish(p, proc, &now);
}

void ss_phases_tick(struct ss_pipeline *p, uint64_t now_ns)
{
  if (now_ns < p->tick_ns + SS_PHASE_TICK_NS)
    return;
  p->tick_ns = now_ns;
  for (struct ss_process *proc = p->processes; proc; proc = proc->next) {
    if ((proc->pytest || proc->env.pytest) &&
        now_ns >= proc->env_look_ns + SS_PHASE_TICK_NS)
      ss_phases_look(p, proc, &proc->live.mem, now_ns, now_ns);
    ask_for_marker(p, proc, now_ns);
  }
}
