/*
 * stacksample attach: the same bundle for a process tree that runs already,
 * until --duration, Ctrl-C or the target's end. The target runs on whatever
 * happens to us: nothing of ours is in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "stacksample/fsafe.h"
#include "stacksample/limits.h"
#include "stacksample/meta.h"
#include "stacksample/sys.h"
#include "stacksample/time_limits.h"

#include "cli_priv.h"
#include "session.h"

#define LONGEST_MS 60000           /* of one poll */
#define ASK_MS 200                 /* whether it lives, where poll cannot tell */
#define TARGET_TEXT_MAX (1u << 20) /* of its command line, of its environment */

struct attach_options {
  struct ss_session_options session;
  uint64_t duration_ns;
  pid_t pid;
};

static int parse(struct attach_options *o, int argc, char **argv, const char **pid)
{
  const struct ss_option options[] = {
      SS_SESSION_OPTION_ROWS(&o->session),
      SS_VALUE(DURATION, "duration", 'd', &o->duration_ns, "DUR",
               "end after this long (until Ctrl-C or the target's end)"),
      SS_OPTIONS_END,
  };
  const struct ss_usage usage = {
      .command = "attach",
      .synopsis = "attach [OPTIONS] PID",
      .about =
          "Samples every thread of PID and its children until --duration, Ctrl-C or its\n"
          "end, and leaves a folder like `run` does. The target keeps running.",
      .examples = "  stacksample attach --duration 30s 4121\n"
                  "  stacksample attach -o reports $(pgrep -of pytest)\n",
      .statuses = "  0 all done; 1 done in part; 2 nothing done; 64 wrong usage\n",
      .options = options,
  };

  return ss_options_operand(&usage, argc, argv, "PID", pid);
}

bool ss_pid_parse(const char *text, pid_t *pid)
{
  char *end = NULL;
  long value;

  errno = 0;
  value = strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value <= 0 || value > INT32_MAX)
    return false;
  *pid = (pid_t)value;
  return true;
}

/* Blocks what ends us, in every thread that is made later. Descriptor, or -1. */
static int catch_signals(void)
{
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &set, SFD_CLOEXEC);
}

/* Sleeps until a signal, the target's end, or the duration's. Without pidfds
 * (before Linux 5.3) the target is asked for now and then. */
static void wait_for_end(const struct ss_identity *id, int signal_fd, int pidfd,
                         uint64_t duration_ns)
{
  uint64_t end_ns = duration_ns ? ss_now_ns() + duration_ns : UINT64_MAX;
  struct pollfd fds[2] = {{.fd = signal_fd, .events = POLLIN},
                          {.fd = pidfd, .events = POLLIN}};

  for (;;) {
    uint64_t now_ns = ss_now_ns();
    int timeout_ms = -1;
    if (now_ns >= end_ns)
      return;
    if (end_ns - now_ns < LONGEST_MS * UINT64_C(1000000))
      timeout_ms = (int)((end_ns - now_ns) / 1000000) + 1;
    else if (duration_ns)
      timeout_ms = LONGEST_MS;
    if (pidfd < 0 && (timeout_ms < 0 || timeout_ms > ASK_MS))
      timeout_ms = ASK_MS;
    if (poll(fds, 2, timeout_ms) > 0 || (pidfd < 0 && !ss_identity_alive(id)))
      return;
  }
}

static void absent_files(struct ss_session *s)
{
  static const char *const files[] = {"exit_code.txt", "time.txt", "pytest.log",
                                      "torch_env.txt"};

  for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
    ss_bundle_absent(s->bundle, files[i], "attached to a live process");
}

/* What there is to know of the target: its environment and folder, and its command
 * line for the headings. */
static void tell_target(struct ss_session *s, const struct attach_options *o)
{
  struct ss_words words = {0}, environment = {0};
  struct ss_time_limits limits;
  struct ss_facts_config facts = {.mode = "attach",
                                  .argv = o->session.argv,
                                  .target = o->pid,
                                  .env = (enum ss_env_mode)o->session.env};
  struct ss_diag diag = {0};

  (void)ss_words_read(&environment, o->pid, "environ", TARGET_TEXT_MAX);
  (void)ss_words_read(&words, o->pid, "cmdline", TARGET_TEXT_MAX);
  facts.environment = environment.items;
  facts.command = words.items;
  if (ss_facts_start(s->bundle, &facts, s->store, &limits, &diag) != SS_ERR_OK)
    ss_session_lacks(s, "commands.txt or env.txt", &diag);
  ss_words_release(&words);
  ss_words_release(&environment);
}

static int sample(struct ss_session *s, const struct attach_options *o,
                  const struct ss_identity *id, int signal_fd, int pidfd)
{
  struct ss_diag diag = {0};

  ss_session_attach(s, o->pid);
  if (s->pipeline == NULL) {
    ss_say("%s", s->blocked.text);
    return SS_EXIT_NOTHING;
  }
  ss_session_clock(s, ss_now_ns());
  tell_target(s, o);
  absent_files(s);
  ss_session_announce(s);
  wait_for_end(id, signal_fd, pidfd, o->duration_ns);
  ss_session_stop(s, ss_now_ns());
  ss_store_meta_u64(s->store, SS_META_FINISHED, 1);
  if (ss_session_write(s, NULL, &diag) != SS_ERR_OK) {
    ss_say("the bundle is incomplete: %s", diag.text);
    return SS_EXIT_PART;
  }
  if (!o->session.quiet)
    ss_closing_lines(s->bundle, NULL, 0);
  return SS_EXIT_OK;
}

static int attach(const struct attach_options *o, const struct ss_identity *id)
{
  int signal_fd = catch_signals(), pidfd = ss_pidfd_open(o->pid, 0);
  int status = SS_EXIT_NOTHING;
  struct ss_session session;
  struct ss_diag diag = {0};

  if (!ss_identity_alive(id)) {
    ss_say("PID %d has just ended", (int)o->pid);
  } else if (ss_session_open(&session, &o->session, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
  } else {
    status = sample(&session, o, id, signal_fd, pidfd);
    if (status == SS_EXIT_NOTHING)
      ss_session_discard(&session);
    ss_session_free(&session);
  }
  ss_close(&pidfd);
  ss_close(&signal_fd);
  return status;
}

int ss_cmd_attach(int argc, char **argv)
{
  struct attach_options o = {0};
  struct ss_identity id;
  struct ss_diag diag = {0};
  const char *pid = NULL;
  int parsed;

  ss_session_defaults(&o.session);
  parsed = parse(&o, argc, argv, &pid);
  if (parsed == -2)
    return SS_EXIT_OK;
  if (parsed < 0 || !ss_formats_check(o.session.format, "attach"))
    return SS_EXIT_USAGE;
  if (!ss_pid_parse(pid, &o.pid)) {
    ss_say("'%s' is no process id: stacksample attach PID", pid);
    return SS_EXIT_USAGE;
  }
  o.session.argv = argv - 1;
  /* Refusals come before anything is created. */
  if (ss_access_explain(o.pid, &diag) != SS_ERR_OK) {
    ss_say_err(diag.err, &diag);
    return SS_EXIT_NOTHING;
  }
  if (!ss_identity_get(&id, o.pid)) {
    ss_say("PID %d has just ended", (int)o.pid);
    return SS_EXIT_NOTHING;
  }
  return attach(&o, &id);
}
