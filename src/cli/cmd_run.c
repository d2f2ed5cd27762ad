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
#include "session.h"

struct run_options {
  struct ss_session_options session;
  bool no_log;
  char *const *command;
};

static int parse(struct run_options *o, int argc, char **argv)
{
  const struct ss_option options[] = {
      SS_SESSION_OPTION_ROWS(&o->session),
      {"no-log", 0, SS_OPT_FLAG, &o->no_log, NULL, "do not keep the output", 0, 0, NULL,
       NULL},
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

/* ---- while it runs ------------------------------------------------------------------
 */

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

/* Until the command's end; interrupts are only counted: it ends as it likes. */
static void watch_command(struct watch *w)
{
  struct ss_launch_event event = {0};

  do {
    bool idle = !w->progress && (w->tries >= INTERPRETER_TRIES || w->python.len > 0);
    ss_launch_next(w->launch, idle ? -1 : TICK_MS, &event);
    if (event.what == SS_LAUNCH_TIMEOUT)
      on_tick(w);
    if (event.what == SS_LAUNCH_SIGNAL &&
        (event.signo == SIGINT || event.signo == SIGTERM || event.signo == SIGHUP))
      w->signal_seen = event.signo;
    w->interrupts = event.interrupts;
  } while (event.what != SS_LAUNCH_EXITED);
  if (w->progress)
    ss_progress_clear(w->launch);
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
    ss_note(s->notes, "no log: %s", diag.text);
  else
    *name = log;
  return fd;
}

/* ---- statuses ------------------------------------------------------------------------
 */

static int status_of(const struct ss_exit *end)
{
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

/* ---- the run -------------------------------------------------------------------------
 */

static const char *no_torch_env(const struct watch *w, const struct ss_exit *end)
{
  if (w->interrupts > 0 || end->signal != 0)
    return "not after a terminating signal";
  if (w->no_python.len > 0)
    return ss_buf_str(&w->no_python);
  return "the command ran no Python that was seen";
}

static void finish(struct ss_session *s, const struct run_options *o,
                   const struct watch *w, const struct ss_facts_config *facts,
                   const struct ss_exit *end, int status)
{
  struct ss_ending ending = {
      .exit = end, .status = status, .signal_seen = w->signal_seen};
  bool may_run = w->python.len > 0 && w->interrupts == 0 && end->signal == 0;
  struct ss_diag diag = {0};

  if (ss_facts_end(s->bundle, facts, &ending, s->store, &diag) != SS_ERR_OK)
    ss_note(s->notes, "exit_code.txt or time.txt is missing: %s", diag.text);
  if (ss_session_write(s, &diag) != SS_ERR_OK)
    ss_say("the bundle is incomplete: %s", diag.text);
  if (!o->session.quiet)
    ss_closing_lines(s->bundle, end, status);
  (void)ss_facts_torch_env(s->bundle, may_run ? ss_buf_str(&w->python) : NULL,
                           no_torch_env(w, end), &diag);
  ss_session_manifest(s, &diag);
}

static void start(struct ss_launch *launch, struct ss_session *s,
                  const struct ss_facts_config *facts)
{
  struct ss_time_limits limits = {0};
  struct ss_buf warning = {0};
  struct ss_diag diag = {0};

  ss_session_start(s, ss_launch_pid(launch), true);
  if (ss_facts_start(s->bundle, facts, s->store, &limits, &diag) != SS_ERR_OK)
    ss_note(s->notes, "commands.txt or env.txt is missing: %s", diag.text);
  ss_session_announce(s);
  if (ss_time_limits_warning(&limits, &warning) && !s->options->quiet)
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
                                  .env = (enum ss_env_mode)o->session.env};
  struct ss_exit end = {0};
  int status, log_fd, error;

  log_fd = open_log(s, o, &facts.log);
  start(launch, s, &facts);
  error = ss_launch_release(launch, log_fd, s->notes);
  ss_session_clock(s, ss_launch_start_ns(launch));
  if (error == 0)
    watch_command(&w);
  ss_session_stop(s, ss_now_ns());
  ss_launch_finish(launch, &end);
  ss_close(&log_fd);
  status = error ? exec_failed(error, o->command[0]) : status_of(&end);
  if (error)
    ss_store_meta(s->store, SS_META_BLOCKED,
                  error == ENOENT ? "the command was not found"
                                  : "the command could not be executed");
  finish(s, o, &w, &facts, &end, status);
  ss_buf_release(&w.python);
  ss_buf_release(&w.no_python);
  return status;
}

int ss_cmd_run(int argc, char **argv)
{
  struct run_options o = {0};
  struct ss_launch *launch = NULL;
  struct ss_session session;
  struct ss_diag diag = {0};
  int first, status;

  ss_session_defaults(&o.session);
  first = parse(&o, argc, argv);
  if (first == -2)
    return SS_EXIT_OK;
  if (first < 0 || !ss_session_check(&o.session, "run"))
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
