/*
 * stacksample doctor: what works on this machine, what it gives, and the one
 * command that enables what does not. Every row tries the real thing on
 * processes that doctor starts itself; nothing of the system is changed.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stacksample/blocked.h"
#include "stacksample/buf.h"
#include "stacksample/escape.h"
#include "stacksample/fsafe.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

#include "cli_priv.h"
#include "doctor.h"

long ss_doctor_sysctl(const char *path, long missing)
{
  struct ss_buf text = {0};
  long value = missing;
  if (ss_file_read_all(AT_FDCWD, path, 64, &text, NULL) == SS_ERR_OK)
    value = strtol(ss_buf_str(&text), NULL, 10);
  ss_buf_release(&text);
  return value;
}

/* ---- processes to try on --------------------------------------------------------- */

/* Read from outside by the memory check: a fork has it at the same address. */
static const uint64_t landmark = 0x5354414b53414d50u;

/* The clock is a system call: most of the time must be outside it, or a kernel
 * that hides itself from us gives no samples. */
static void stay_in_user_mode(void)
{
  for (volatile unsigned i = 0; i < 100000; i++)
    ;
}

static void burn_on_request(int go, int done)
{
  char byte;
  while (read(go, &byte, 1) == 1) {
    uint64_t until = ss_thread_cpu_ns() + 50000000u;
    while (ss_thread_cpu_ns() < until)
      stay_in_user_mode();
    if (write(done, &byte, 1) != 1)
      break;
  }
  _exit(0);
}

static bool start_child(struct ss_doctor *d)
{
  int go[2], done[2];
  if (pipe2(go, O_CLOEXEC) != 0 || pipe2(done, O_CLOEXEC) != 0)
    return false;
  d->child = fork();
  if (d->child == 0) {
    close(go[1]);
    close(done[0]);
    burn_on_request(go[0], done[1]);
  }
  close(go[0]);
  close(done[1]);
  d->go = go[1];
  d->done = done[0];
  return d->child > 0;
}

static void end_processes(struct ss_doctor *d)
{
  ss_close(&d->go);
  ss_close(&d->done);
  if (d->child > 0)
    waitpid(d->child, NULL, 0);
}

/* ---- memory and access ------------------------------------------------------------- */

/* "cause; remedy", as ss_access_explain words it, in two columns. */
static void say_refusal(struct ss_doctor_row *row, const struct ss_diag *diag)
{
  const char *cut = strrchr(diag->text, ';');
  row->works = SS_WORKS_NO;
  snprintf(row->gives, sizeof row->gives, "%.*s",
           cut ? (int)(cut - diag->text) : (int)strlen(diag->text), diag->text);
  if (cut)
    snprintf(row->fix, sizeof row->fix, "%s", cut + 2);
}

static void check_memory(struct ss_doctor *d, struct ss_doctor_row *row)
{
  struct ss_mem_live live;
  struct ss_diag diag = {0};
  uint64_t value = 0;
  ss_mem_live_init(&live, d->child);
  bool ok =
      ss_mem_u64(&live.mem, (uint64_t)(uintptr_t)&landmark, &value) && value == landmark;
  if (ok)
    snprintf(row->gives, sizeof row->gives, "%s",
             live.mem_fd < 0 ? "process_vm_readv"
                             : "/proc/PID/mem (process_vm_readv is refused)");
  else if (ss_access_explain(d->child, &diag) != SS_ERR_OK)
    say_refusal(row, &diag);
  else
    row->works = SS_WORKS_NO;
  ss_mem_live_release(&live);
}

static void no_look(void *arg, const struct ss_regs *regs)
{
  (void)arg;
  (void)regs;
}

/* Whether it may be stopped, as an attach where perf is refused must. */
static bool may_trace(pid_t pid)
{
  return ss_stop_look(pid, 1000, no_look, NULL, NULL, NULL) == SS_ERR_OK;
}

/* Root may lack CAP_SYS_PTRACE: tries a process that gave itself another user. */
static bool may_attach_to_others(void)
{
  enum { NOBODY = 65534 };
  int tell[2], hold[2];
  char byte;
  bool ok = false;
  if (geteuid() != 0 || pipe2(tell, O_CLOEXEC) != 0 || pipe2(hold, O_CLOEXEC) != 0)
    return false;
  pid_t other = fork();
  if (other == 0) {
    close(hold[1]);
    if (setgid(NOBODY) == 0 && setuid(NOBODY) == 0 && write(tell[1], "x", 1) == 1)
      while (read(hold[0], &byte, 1) > 0)
        ;
    _exit(0);
  }
  close(tell[1]);
  if (other > 0 && read(tell[0], &byte, 1) == 1)
    ok = ss_access_explain(other, NULL) == SS_ERR_OK;
  close(hold[1]);
  if (other > 0)
    waitpid(other, NULL, 0);
  return ok;
}

static void try_attach(const struct ss_doctor *d, struct ss_doctor_row *row)
{
  struct ss_diag diag = {0};
  if (ss_access_explain(d->child, &diag) != SS_ERR_OK) {
    say_refusal(row, &diag);
    return;
  }
  bool every_user = may_attach_to_others();
  bool trace = may_trace(d->child);
  row->works = trace ? SS_WORKS_YES : SS_WORKS_PART;
  snprintf(row->gives, sizeof row->gives, "processes of %s%s",
           every_user ? "every user" : "this user", trace ? "" : "; ptrace is refused");
  if (!trace)
    snprintf(row->fix, sizeof row->fix, "docker run --cap-add=SYS_PTRACE ...");
}

/* A brother of the child tries: not its ancestor, as somebody who attaches. */
static void check_attach(struct ss_doctor *d, struct ss_doctor_row *row)
{
  int tell[2];
  struct ss_doctor_row found = *row;
  bool told = false;
  if (pipe2(tell, O_CLOEXEC) == 0) {
    pid_t brother = fork();
    if (brother == 0) {
      try_attach(d, &found);
      _exit(ss_write_all(tell[1], &found, sizeof found) == 0 ? 0 : 1);
    }
    close(tell[1]);
    told = ss_read_some(tell[0], &found, sizeof found) == (ssize_t)sizeof found;
    close(tell[0]);
    if (brother > 0)
      waitpid(brother, NULL, 0);
  }
  if (told) {
    *row = found;
  } else {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives, "no process could be started to try it");
  }
}

/* ---- the table ------------------------------------------------------------------- */

/* What `run` will sample with, as --engine auto chooses. */
static void check_engine(struct ss_doctor *d, struct ss_doctor_row *row)
{
  row->works = d->perf ? SS_WORKS_YES : d->ptrace ? SS_WORKS_PART : SS_WORKS_NO;
  if (d->perf)
    snprintf(row->gives, sizeof row->gives, "perf");
  else if (d->ptrace)
    snprintf(row->gives, sizeof row->gives,
             "ptrace, as perf is refused: all outputs, fewer samples, no kernel stacks");
  else
    snprintf(row->gives, sizeof row->gives, "none: the command runs, nothing is sampled");
}

/* Order matters: perf settles what the two after it explain, and both engines what
 * will be used. */
static const struct check {
  const char *what;
  void (*try_it)(struct ss_doctor *, struct ss_doctor_row *);
  bool for_run; /* decides about the exit status */
} checks[] = {
    {"perf, own processes", ss_doctor_perf, true},
    {"perf, kernel frames", ss_doctor_kernel, true},
    {"ptrace, own processes", ss_doctor_ptrace, false},
    {"engine that is used", check_engine, true},
    {"read memory of a child", check_memory, true},
    {"attach to any process", check_attach, false},
    {"ring memory", ss_doctor_rings, true},
    {"python", ss_doctor_python, false},
    {"symbols for libtorch", ss_doctor_symbols, false},
};

static void print_row(const struct ss_doctor_row *row)
{
  static const char *const words[] = {"yes", "part", "no"};
  struct ss_buf line = {0}, gives = {0};
  ss_escape_terminal(&line, row->what, strlen(row->what));
  ss_escape_terminal(&gives, row->gives, strlen(row->gives));
  printf("%-26s %-5s %s", ss_buf_str(&line), words[row->works], ss_buf_str(&gives));
  if (row->fix[0]) {
    ss_buf_clear(&line);
    ss_escape_terminal(&line, row->fix, strlen(row->fix));
    printf("%s%s", gives.len > 0 ? "     " : "", ss_buf_str(&line));
  }
  putchar('\n');
  fflush(stdout);
  ss_buf_release(&line);
  ss_buf_release(&gives);
}

static int examine(struct ss_doctor *d)
{
  bool all = true;
  for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
    struct ss_doctor_row row = {.works = SS_WORKS_YES};
    snprintf(row.what, sizeof row.what, "%s", checks[i].what);
    checks[i].try_it(d, &row);
    if (row.works == SS_WORKS_SKIP)
      continue;
    print_row(&row);
    all = all && (row.works == SS_WORKS_YES || !checks[i].for_run);
  }
  if (!d->perf && !d->ptrace)
    return SS_EXIT_NOTHING;
  return all ? SS_EXIT_OK : SS_EXIT_PART;
}

int ss_cmd_doctor(int argc, char **argv)
{
  const struct ss_option options[] = {
      SS_OPTIONS_END,
  };
  const struct ss_usage usage = {
      .command = "doctor",
      .synopsis = "doctor",
      .about =
          "Tries what a profile needs, on processes of its own, and says what works, "
          "what it\n"
          "gives, and the one command that enables what does not. PYTHON= names the "
          "interpreter\n"
          "to try (default: python3 of PATH).",
      .examples = "  stacksample doctor\n"
                  "  PYTHON=.venv/bin/python stacksample doctor\n",
      .statuses = "  0 `run` will work fully; 1 in part; 2 not at all; 64 wrong usage\n",
      .options = options,
  };
  struct ss_doctor d = {.go = -1, .done = -1};
  int first = ss_options_parse(&usage, argc, argv);
  int status = SS_EXIT_NOTHING;

  if (first == -2)
    return SS_EXIT_OK;
  if (first < 0)
    return SS_EXIT_USAGE;
  if (first < argc) {
    ss_say("doctor takes no arguments, not '%s' (stacksample doctor --help)",
           argv[first]);
    return SS_EXIT_USAGE;
  }
  signal(SIGPIPE, SIG_IGN);
  if (start_child(&d))
    status = examine(&d);
  else
    ss_say("no process could be started to try on");
  end_processes(&d);
  return status;
}
