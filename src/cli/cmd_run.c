/*
 * stacksample run: launch a command, sample it until it ends, leave a bundle.
 *
 * The exit status is the command's, whatever happens to us. The child is forked
 * before anything of size is allocated and waits until the engine is ready.
 */
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>

#include "stacksample/launch.h"
#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"
#include "stacksample/time_limits.h"

#include "cli_priv.h"
#include "dumps.h"
#include "session.h"

#define DUMP_AT "50%,75%,90%,97%"

struct run_options {
  struct ss_session_options session;
  bool no_log;
  const char *dump_at;
  struct ss_deadline_config deadline;
  char *const *command;
};

static int parse(struct run_options *o, int argc, char **argv)
{
  const struct ss_option options[] = {
      SS_SESSION_OPTION_ROWS(&o->session),
      SS_FLAG("no-log", 0, &o->no_log, "do not keep the output"),
      SS_VALUE(DURATION, "timeout", 0, &o->deadline.timeout_ns, "DUR",
               "our own deadline: dump, INT, ABRT, KILL (none)"),
      SS_VALUE(DURATION, "grace", 0, &o->deadline.grace_ns, "DUR",
               "between the steps of that ending (10s)"),
      SS_VALUE(STRING, "dump-at", 0, &o->dump_at, "LIST",
               "dumps at times, or shares of the earliest limit (" DUMP_AT ")"),
      SS_VALUE(DURATION, "stall", 0, &o->deadline.stall_ns, "DUR",
               "a dump when a test phase has lasted this long (5m)"),
      SS_OPTIONS_END,
  };
  const struct ss_usage usage = {
      .command = "run",
      .synopsis = "run [OPTIONS] -- COMMAND [ARG...]",
      .about = "Launches COMMAND, samples its threads and those of its children until it "
               "ends,\n"
               "and leaves a folder that says what the time went to.",
      .examples =
          "  stacksample run -- pytest -x tests/test_slow.py\n"
          "  time -v timeout 1200 stacksample run -o reports -- pytest tests | tee log\n",
      .statuses =
          "  the command's own; 128+N if signal N ended it; 124 after --timeout;\n"
          "  125 wrong usage or no output folder; 126 not executable; 127 not found\n",
      .options = options,
  };

  return ss_options_parse(&usage, argc, argv);
}

/* ---- while it runs --------------------------------------------------------------- */

#define TICK_MS 500
#define INTERPRETER_TRIES 120 /* ticks; a shell may take its time to start pytest */

struct watch {
  struct ss_launch *launch;
  struct ss_session *session;
  bool progress;
  unsigned interrupts;
  int signal_seen;
  unsigned tries;                  /* for the interpreter */
  struct ss_buf python, no_python; /* for torch_env.txt: which, or why not */
  struct ss_deadline deadline;
  struct ss_dumps *dumps; /* NULL: no memory for them */
  struct ss_ending_tree tree;
  struct ss_time_limits limits;
  uint64_t test_limit_ns; /* of tests that have none of their own; 0: none */
  bool timed_out;
};

/* Which interpreter the command runs can only be seen while it runs. */
static void find_interpreter(struct watch *w)
{
  pid_t *pids = NULL;
  size_t count = 0;

  if (w->tries >= INTERPRETER_TRIES || w->python.len > 0 || w->no_python.len > 0)
    return;
  w->tries++;
  if (ss_tree_list(ss_launch_pid(w->launch), &pids, &count) != SS_ERR_OK)
    return;
  for (size_t i = 0; i < count && i < 16; i++)
    if (ss_facts_interpreter(pids[i], &w->python, &w->no_python) || w->no_python.len > 0)
      break;
  free(pids);
}

static void on_tick(struct watch *w)
{
  find_interpreter(w);
  if (w->progress && w->session->pipeline)
    ss_progress_show(w->launch, w->session->pipeline);
}

/* ---- our deadline ---------------------------------------------------------------- */

#define LAST_DUMP_MS 2000 /* on regardless after that */

static void note_phase(struct watch *w)
{
  struct ss_pipeline_now now;
  struct ss_deadline_test test;

  if (w->session->pipeline == NULL)
    return;
  ss_pipeline_now(w->session->pipeline, w->test_limit_ns, &now);
  test = (struct ss_deadline_test){now.test.serial, now.test.test_start_ns,
                                   now.test.limit_ns};
  ss_deadline_phase(&w->deadline, now.test.phase_start_ns, &test);
  if (now.test.marked && now.test.limit_ns > 0)
    ss_time_limits_marker(&w->limits, (double)now.test.limit_ns / 1e9);
  if (w->dumps)
    ss_dumps_phase(w->dumps, now.test.test, now.test.phase_start_ns);
}

static void take_dump(struct watch *w, const char *why, unsigned wait_ms)
{
  if (w->dumps)
    (void)ss_dumps_take(w->dumps, why, w->deadline.start_ns, wait_ms);
}

static void act(struct watch *w, enum ss_deadline_act what)
{
  switch (what) {
  case SS_ACT_NONE:
    break;
  case SS_ACT_DUMP:
    take_dump(w, w->deadline.why, 0);
    break;
  case SS_ACT_INTERRUPT:
    w->timed_out = true;
    take_dump(w, "our --timeout", LAST_DUMP_MS);
    ss_ending_collect(&w->tree, w->session->pipeline);
    ss_ending_interrupt(&w->tree);
    break;
  case SS_ACT_ABORT:
    ss_ending_collect(&w->tree, w->session->pipeline);
    ss_ending_abort(&w->tree);
    break;
  case SS_ACT_KILL:
    ss_ending_collect(&w->tree, w->session->pipeline);
    ss_ending_kill(&w->tree);
    break;
  }
}

static void keep_deadline(struct watch *w)
{
  enum ss_deadline_act what;

  note_phase(w);
  while ((what = ss_deadline_due(&w->deadline, ss_now_ns())) != SS_ACT_NONE)
    act(w, what);
}

static int next_timeout_ms(const struct watch *w)
{
  uint64_t now_ns = ss_now_ns(), wake_ns = ss_deadline_wake_ns(&w->deadline);

  if (wake_ns <= now_ns)
    return 0;
  if (wake_ns - now_ns < TICK_MS * UINT64_C(1000000))
    return (int)((wake_ns - now_ns) / 1000000) + 1;
  return TICK_MS;
}

/* Until the command's end; interrupts are only counted: it ends as it likes. */
static void watch_command(struct watch *w)
{
  struct ss_launch_event event = {0};

  do {
    ss_launch_next(w->launch, next_timeout_ms(w), &event);
    if (event.what == SS_LAUNCH_TIMEOUT)
      on_tick(w);
    if (event.what == SS_LAUNCH_SIGNAL &&
        (event.signo == SIGINT || event.signo == SIGTERM || event.signo == SIGHUP))
      w->signal_seen = event.signo;
    w->interrupts = event.interrupts;
    if (event.what != SS_LAUNCH_EXITED)
      keep_deadline(w);
  } while (event.what != SS_LAUNCH_EXITED);
  if (w->progress)
    ss_progress_clear(w->launch);
}

/* After our deadline nobody may be left behind, also not those whose parent has
 * ended before them. */
static void end_stragglers(struct watch *w)
{
  if (!w->timed_out)
    return;
  ss_ending_collect(&w->tree, w->session->pipeline);
  ss_ending_kill(&w->tree);
}

static int open_log(struct ss_session *s, const struct run_options *o, const char **name)
{
  struct ss_diag diag = {0};
  const char *log = ss_log_name(o->command);
  int fd;

  *name = NULL;
  if (o->no_log) {
    ss_bundle_absent(s->bundle, log, "--no-log");
    return -1;
  }
  fd = ss_file_create(ss_bundle_dir(s->bundle), log, &diag);
  if (fd < 0)
    ss_session_lacks(s, log, &diag);
  else
    *name = log;
  return fd;
}

/* ---- statuses -------------------------------------------------------------------- */

static int status_of(const struct watch *w, const struct ss_exit *end)
{
  if (w->timed_out)
    return SS_EXIT_TIMEOUT;
  return end->signal ? 128 + end->signal : end->code;
}

static int exec_failed(int error, const char *command)
{
  if (error == ENOENT) {
    ss_say("%s: command not found", command);
    return SS_EXIT_NOT_FOUND;
  }
  ss_say("%s: cannot be executed: %s", command, strerror(error));
  return SS_EXIT_NOT_EXECUTABLE;
}

/* ---- the run --------------------------------------------------------------------- */

/* By a signal of somebody's: ours, too. */
static bool was_ended(const struct watch *w, const struct ss_exit *end)
{
  return w->interrupts > 0 || w->timed_out || end->signal != 0;
}

static const char *no_torch_env(const struct watch *w, const struct ss_exit *end)
{
  if (was_ended(w, end))
    return "not after a terminating signal";
  if (w->no_python.len > 0)
    return ss_buf_str(&w->no_python);
  return "the command ran no Python that was seen";
}

/* Looks whether an interrupt came since: the command has ended, this is ours. */
static bool interrupted_again(void *arg)
{
  struct watch *w = arg;
  struct ss_launch_event event = {0};

  do {
    ss_launch_next(w->launch, 0, &event);
    w->interrupts = event.interrupts;
  } while (event.what == SS_LAUNCH_SIGNAL);
  return w->interrupts > 1;
}

/* The witness copies the command's output: part of what we cost. */
static uint64_t witness_cpu_ns(const struct ss_launch *launch)
{
  pid_t pid = ss_launch_witness_pid(launch);
  uint64_t cpu_ns = 0, wait_ns = 0;

  return pid > 0 && ss_schedstat_read(pid, pid, &cpu_ns, &wait_ns) ? cpu_ns : 0;
}

static void finish(struct ss_session *s, const struct run_options *o, struct watch *w,
                   const struct ss_facts_config *facts, const struct ss_exit *end,
                   int status)
{
  struct ss_ending ending = {.exit = end,
                             .status = status,
                             .signal_seen = w->signal_seen,
                             .timed_out = w->timed_out,
                             .limits = &w->limits,
                             .test_limit_ns = w->deadline.test.limit_ns};
  struct ss_hurry hurry = {interrupted_again, w};
  struct ss_diag diag = {0};
  bool may_run;

  if (ss_facts_end(s->bundle, facts, &ending, s->store, &diag) != SS_ERR_OK)
    ss_session_lacks(s, "exit_code.txt or time.txt", &diag);
  if (w->dumps)
    ss_dumps_store(w->dumps, s->store);
  s->helper_cpu_ns = witness_cpu_ns(w->launch);
  if (ss_session_write(s, &hurry, &diag) != SS_ERR_OK)
    ss_say("the bundle is incomplete: %s", diag.text);
  if (!o->session.quiet)
    ss_closing_lines(s->bundle, end, status);
  (void)interrupted_again(w);
  may_run = w->python.len > 0 && !was_ended(w, end);
  (void)ss_facts_torch_env(s->bundle, may_run ? ss_buf_str(&w->python) : NULL,
                           no_torch_env(w, end), &diag);
  ss_session_manifest(s, &diag);
}

/* The earliest limits known: of the run, and of each test. */
static void learn_limits(struct watch *w, struct ss_deadline_config *config)
{
  double at_s = 0;

  if (ss_time_limits_first(&w->limits, &at_s))
    config->run_limit_ns = ss_seconds_ns(at_s);
  for (size_t i = 0; i < w->limits.count; i++)
    if (w->limits.items[i].kind == SS_LIMIT_TEST)
      w->test_limit_ns = ss_seconds_ns(w->limits.items[i].s);
}

static void start(struct watch *w, const struct ss_facts_config *facts,
                  struct ss_deadline_config *deadline)
{
  struct ss_session *s = w->session;
  struct ss_buf warning = {0};
  struct ss_diag diag = {0};

  ss_session_start(s, ss_launch_pid(w->launch));
  if (ss_facts_start(s->bundle, facts, s->store, &w->limits, &diag) != SS_ERR_OK)
    ss_session_lacks(s, "commands.txt or env.txt", &diag);
  learn_limits(w, deadline);
  ss_session_announce(s);
  if (ss_time_limits_warning(&w->limits, &warning) && !s->options->quiet)
    ss_say("%s", ss_buf_str(&warning));
  ss_buf_release(&warning);
}

static int run_command(struct ss_launch *launch, struct ss_session *s,
                       const struct run_options *o)
{
  struct watch w = {.launch = launch,
                    .session = s,
                    .progress =
                        ss_progress_wanted(o->session.quiet || o->session.no_progress)};
  struct ss_facts_config facts = {.mode = "run",
                                  .argv = o->session.argv,
                                  .command = o->command,
                                  .environment = environ,
                                  .env = (enum ss_env_mode)o->session.env,
                                  .timeout_ns = o->deadline.timeout_ns};
  struct ss_deadline_config deadline = o->deadline;
  struct ss_exit end = {0};
  int status, log_fd, error;

  log_fd = open_log(s, o, &facts.log);
  start(&w, &facts, &deadline);
  w.tree.root = ss_launch_pid(launch);
  w.dumps = ss_dumps_new(s->bundle, s->notes, w.tree.root, o->session.no_children);
  error = ss_launch_release(launch, log_fd, s->notes);
  ss_session_clock(s, ss_launch_start_ns(launch));
  ss_deadline_init(&w.deadline, &deadline, ss_launch_start_ns(launch));
  if (s->pipeline == NULL) /* no test is seen: its limit counts from here */
    ss_deadline_phase(
        &w.deadline, w.deadline.start_ns,
        &(struct ss_deadline_test){1, w.deadline.start_ns, w.test_limit_ns});
  if (error == 0)
    watch_command(&w);
  end_stragglers(&w);
  ss_session_stop(s, ss_now_ns());
  ss_launch_finish(launch, &end);
  ss_close(&log_fd);
  status = error ? exec_failed(error, o->command[0]) : status_of(&w, &end);
  if (error)
    ss_store_meta(s->store, SS_META_BLOCKED,
                  error == ENOENT ? "the command was not found"
                                  : "the command could not be executed");
  finish(s, o, &w, &facts, &end, status);
  ss_dumps_free(w.dumps);
  ss_ending_release(&w.tree);
  ss_buf_release(&w.python);
  ss_buf_release(&w.no_python);
  return status;
}

/* Says what is wrong with the options together; they are not the parser's. */
static bool check(struct run_options *o)
{
  const char *bad = NULL;

  if (!ss_formats_check(o->session.format, "run"))
    return false;
  if (!ss_dump_points_parse(o->dump_at, &o->deadline, &bad)) {
    ss_say("--dump-at has no use for '%.*s': give shares and times, such as %s,10m",
           (int)strcspn(bad, ","), bad, DUMP_AT);
    return false;
  }
  return true;
}

int ss_cmd_run(int argc, char **argv)
{
  struct run_options o = {.dump_at = DUMP_AT,
                          .deadline = {.grace_ns = 10 * UINT64_C(1000000000),
                                       .stall_ns = 300 * UINT64_C(1000000000)}};
  struct ss_launch *launch = NULL;
  struct ss_session session;
  struct ss_diag diag = {0};
  int first, status;

  ss_session_defaults(&o.session);
  first = parse(&o, argc, argv);
  if (first == -2)
    return SS_EXIT_OK;
  if (first < 0 || !check(&o))
    return SS_EXIT_RUN_USAGE;
  if (first >= argc) {
    ss_say("run needs a command: stacksample run -- COMMAND [ARG...]");
    return SS_EXIT_RUN_USAGE;
  }
  o.command = argv + first;
  o.session.argv = argv - 1; /* the command table took our own name off */
  if (ss_launch_prepare(&launch, &(struct ss_launch_config){o.command, o.no_log},
                        &diag) != SS_ERR_OK) {
    ss_say("%s", diag.text);
    return SS_EXIT_RUN_USAGE;
  }
  if (ss_session_open(&session, &o.session, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    ss_launch_abandon(launch);
    ss_launch_free(launch);
    return SS_EXIT_RUN_USAGE;
  }
  status = run_command(launch, &session, &o);
  ss_session_free(&session);
  ss_launch_free(launch);
  return status;
}
