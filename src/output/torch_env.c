/*
 * torch_env.txt: the one place where a file of the target is run, and only
 * after all else was written. `python -m torch.utils.collect_env` by the
 * command's interpreter, in its own process group, with nothing of ours open,
 * for at most a minute; from inside the bundle's folder, so that no torch.py of
 * a working folder is taken for torch.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "facts_priv.h"
#include "stacksample/escape.h"
#include "stacksample/limits.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define LIMIT_MS 60000
#define OUTPUT_MAX (1u << 20)

/* ---- which interpreter ------------------------------------------------------------ */

static bool is_python_name(const char *name)
{
  return ss_starts_with(name, "python") || ss_starts_with(name, "pypy");
}

static bool same_file(const struct stat *a, const char *path)
{
  struct stat b;
  return stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* The word that the process was called by, found as a shell would find it, if
 * it is the file that runs. A venv is known by that path alone. */
static bool as_called(const char *word, const struct stat *exe, struct ss_buf *out)
{
  const char *path = getenv("PATH");

  if (strchr(word, '/')) {
    if (word[0] != '/' || !same_file(exe, word))
      return false;
    ss_buf_adds(out, word);
    return true;
  }
  for (const char *p = path; p; p = strchr(p, ':') ? strchr(p, ':') + 1 : NULL) {
    size_t n = strcspn(p, ":");
    ss_buf_clear(out);
    ss_buf_add(out, p, n);
    ss_buf_addc(out, '/');
    ss_buf_adds(out, word);
    if (n && p[0] == '/' && same_file(exe, ss_buf_str(out)))
      return true;
  }
  ss_buf_clear(out);
  return false;
}

static bool same_namespace(pid_t pid)
{
  struct stat theirs, ours;
  char path[64];

  snprintf(path, sizeof path, "/proc/%d/ns/mnt", (int)pid);
  return stat(path, &theirs) == 0 && stat("/proc/self/ns/mnt", &ours) == 0 &&
         theirs.st_ino == ours.st_ino;
}

static bool same_root(pid_t pid)
{
  struct stat theirs, ours;
  char path[64];

  snprintf(path, sizeof path, "/proc/%d/root", (int)pid);
  return stat(path, &theirs) == 0 && stat("/", &ours) == 0 &&
         theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
}

static bool same_user(pid_t pid)
{
  struct stat st;
  char path[64];

  snprintf(path, sizeof path, "/proc/%d", (int)pid);
  return stat(path, &st) == 0 && st.st_uid == geteuid();
}

bool ss_facts_interpreter(pid_t pid, struct ss_buf *python, struct ss_buf *why)
{
  struct ss_words words = {0};
  char link[64], target[SS_PATH_MAX];
  struct stat exe;
  bool ok = false;

  snprintf(link, sizeof link, "/proc/%d/exe", (int)pid);
  ssize_t n = readlink(link, target, sizeof target - 1);
  if (n <= 0 || stat(link, &exe) != 0)
    return false;
  target[n] = '\0';
  if (!is_python_name(ss_base_name(target)))
    return false;
  if (!same_user(pid))
    ss_buf_adds(why, "the command ran as another user");
  else if (!same_namespace(pid) || !same_root(pid))
    ss_buf_adds(why, "the command ran in another mount namespace or root");
  else if (ss_words_read(&words, pid, "cmdline", SS_PATH_MAX) &&
           as_called(words.items[0], &exe, python))
    ok = true;
  else if (same_file(&exe, target)) {
    ss_buf_clear(python);
    ss_buf_adds(python, target);
    ok = true;
  } else
    ss_buf_adds(why, "the command's interpreter was not found again");
  ss_words_release(&words);
  return ok;
}

/* ---- running it ------------------------------------------------------------------ */

/* Between fork and exec: async-signal-safe calls only. */
_Noreturn static void child(const char *python, int folder, int out)
{
  char *argv[] = {(char *)(uintptr_t)python, "-m", "torch.utils.collect_env", NULL};
  const struct rlimit no_core = {0, 0};
  sigset_t none;
  int null = open("/dev/null", O_RDONLY);

  setpgid(0, 0);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setrlimit(RLIMIT_CORE, &no_core);
  if (null < 0 || fchdir(folder) != 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
      dup2(out, 2) < 0)
    _exit(126);
  execve(python, argv, environ);
  _exit(127);
}

/* Everything it prints until the end or the limit; false: the limit. */
static bool read_output(int fd, struct ss_buf *out)
{
  uint64_t end = ss_now_ns() + LIMIT_MS * 1000000ull;
  char chunk[4096];

  for (;;) {
    uint64_t now = ss_now_ns();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (now >= end)
      return false;
    int ready = poll(&p, 1, (int)((end - now) / 1000000) + 1);
    if (ready < 0 && errno != EINTR)
      return false;
    if (ready <= 0)
      continue;
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n == 0)
      return true;
    if (n < 0 && errno != EINTR && errno != EAGAIN)
      return true;
    if (n > 0 && out->len < OUTPUT_MAX)
      ss_buf_add(out, chunk, (size_t)n);
  }
}

/* Waits for `pid`, killing its group at once where `kill_now`. */
static int reap(pid_t pid, bool kill_now)
{
  int status = 0;

  if (kill_now)
    kill(-pid, SIGKILL);
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    continue;
  /* What it left behind in its group must not outlive us. */
  kill(-pid, SIGKILL);
  return status;
}

static void run(const char *python, int folder, struct ss_buf *text)
{
  struct ss_buf out = {0};
  int fds[2];
  pid_t pid;

  if (pipe2(fds, O_CLOEXEC) != 0) {
    ss_buf_addf(text, "not run: %s\n", strerror(errno));
    return;
  }
  pid = fork();
  if (pid == 0)
    child(python, folder, fds[1]);
  ss_close(&fds[1]);
  if (pid < 0) {
    ss_buf_addf(text, "not run: %s\n", strerror(errno));
    ss_close(&fds[0]);
    return;
  }
  setpgid(pid, pid); /* both sides, whoever comes first */
  bool ended = read_output(fds[0], &out);
  ss_close(&fds[0]);
  int status = reap(pid, !ended);
  if (!ended)
    ss_buf_adds(text, "collect_env took longer than 60 s and was ended\n");
  else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    ss_buf_addf(text,
                "collect_env failed (%s %d): is torch installed for this interpreter?\n",
                WIFEXITED(status) ? "status" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  for (const char *s = ss_buf_str(&out); *s;) {
    struct ss_buf line = {0};
    size_t len = strcspn(s, "\n");
    ss_redact(&line, s, len);
    ss_escape_terminal(text, ss_buf_str(&line), line.len);
    ss_buf_addc(text, '\n');
    ss_buf_release(&line);
    s += len + (s[len] == '\n');
  }
  ss_buf_release(&out);
}

enum ss_err ss_facts_torch_env(struct ss_bundle *b, const char *python,
                               const char *why_not, struct ss_diag *diag)
{
  struct ss_buf text = {0};

  if (python)
    run(python, b->dir.fd, &text);
  else
    ss_buf_addf(&text, "not run: %s\n",
                why_not && why_not[0] ? why_not : "no interpreter");
  enum ss_err err = ss_bundle_put(b, "torch_env.txt", &text, diag);
  ss_buf_release(&text);
  return err;
}
