/*
 * Why another process may not be read, in one line with the cheapest remedy.
 *
 * First the real thing is tried; only a refusal is explained, by walking the
 * kernel's own checks in their order (__ptrace_may_access in kernel/ptrace.c,
 * then cap_ptrace_access_check and Yama), so that a setting is named only where
 * it is the cause. Facts are gathered in one place and judged in another.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "proc_priv.h"
#include "stacksample/cursor.h"
#include "stacksample/escape.h"
#include "stacksample/fsafe.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

#define TRACED_PATIENCE_NS 300000000ull /* of a tracer that may let go */
#define TRACED_STEP_NS 5000000

enum { CAP_PTRACE_BIT = 19 };         /* CAP_SYS_PTRACE, linux/capability.h */
enum { PF_KTHREAD_BIT = 0x00200000 }; /* PF_KTHREAD, include/linux/sched.h */

/* ---- facts ------------------------------------------------------------------ */

/* Real, effective, saved and file-system id. */
static void status_ids(const char *text, const char *name, uint32_t ids[4])
{
  char *at = (char *)(uintptr_t)ss_status_value(text, name);
  for (int i = 0; i < 4; i++)
    ids[i] = at ? (uint32_t)strtoul(at, &at, 10) : UINT32_MAX;
}

/* errno of one byte read from `pid`: 0 where reading is allowed. */
static int try_read(pid_t pid)
{
  unsigned char byte;
  struct iovec local = {&byte, 1};
  struct iovec far = {(void *)(uintptr_t)4096, 1}; // NOLINT(performance-no-int-to-ptr)
  char path[64];
  if (ss_process_vm_readv(pid, &local, 1, &far, 1) >= 0 || errno == EFAULT)
    return 0;
  snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  ss_close(&fd);
  return 0;
}

/* The same through another thread: a leader that has ended has no memory. */
static int try_read_by_thread(pid_t pid)
{
  pid_t *tids = NULL;
  size_t count = 0;
  int error = ESRCH;
  if (ss_tasks_list(pid, &tids, &count) == SS_ERR_OK)
    for (size_t i = 0; i < count && error != 0; i++)
      if (tids[i] != pid)
        error = try_read(tids[i]);
  free(tids);
  return error;
}

static int read_yama(void)
{
  struct ss_buf text = {0};
  int scope = -1;
  if (ss_file_read_all(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 64, &text, NULL) ==
          SS_ERR_OK &&
      text.len > 0 && text.data[0] >= '0' && text.data[0] <= '9')
    scope = text.data[0] - '0';
  ss_buf_release(&text);
  return scope;
}

static bool descends_from(pid_t pid, pid_t ancestor)
{
  struct ss_stat st;
  for (int depth = 0; depth < 1024 && pid > 1; depth++) {
    if (pid == ancestor)
      return true;
    if (!ss_stat_read(&st, pid, 0))
      return false;
    pid = st.ppid;
  }
  return false;
}

static void comm_of(pid_t pid, char *out, size_t cap)
{
  struct ss_stat st;
  struct ss_buf text = {0};
  if (ss_stat_read(&st, pid, 0))
    ss_escape_terminal(&text, st.comm, strlen(st.comm));
  snprintf(out, cap, "%s", ss_buf_str(&text));
  ss_buf_release(&text);
}

static void gather_target(struct ss_access_facts *f, const char *status)
{
  struct stat file;
  char path[64];
  f->tgid = (pid_t)ss_status_number(status, "Tgid", 10);
  f->tracer = (pid_t)ss_status_number(status, "TracerPid", 10);
  status_ids(status, "Uid", f->uid);
  status_ids(status, "Gid", f->gid);
  f->caps = ss_status_number(status, "CapPrm", 16);
  comm_of(f->tracer, f->tracer_comm, sizeof f->tracer_comm);
  snprintf(path, sizeof path, "/proc/%d/status", (int)f->pid);
  /* Files of a process that may not be dumped belong to root (task_dump_owner
   * in fs/proc/base.c). */
  f->protected_image =
      stat(path, &file) == 0 && file.st_uid != f->uid[1] && file.st_uid == 0;
}

static void gather_own(struct ss_access_facts *f)
{
  struct ss_buf status = {0};
  f->own_uid = getuid();
  f->own_gid = getgid();
  if (ss_status_read(&status, getpid(), 0)) {
    f->own_caps = ss_status_number(status.data, "CapEff", 16);
    f->own_permitted = ss_status_number(status.data, "CapPrm", 16);
    f->own_seccomp = ss_status_number(status.data, "Seccomp", 10) == 2;
  }
  f->own_refused = try_read(getpid()) != 0;
  f->yama = read_yama();
  f->descendant = descends_from(f->pid, getpid());
  ss_buf_release(&status);
}

void ss_access_gather(struct ss_access_facts *f, pid_t pid)
{
  struct ss_buf status = {0};
  struct ss_stat st;
  *f = (struct ss_access_facts){.pid = pid, .self = pid == getpid(), .yama = -1};
  f->exists = pid > 0 && ss_stat_read(&st, pid, 0) && ss_status_read(&status, pid, 0);
  if (!f->exists) {
    f->hidden = pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
    ss_buf_release(&status);
    return;
  }
  f->ppid = st.ppid;
  f->ended = ss_stat_ended(&st);
  f->kernel_thread = (st.flags & PF_KTHREAD_BIT) != 0;
  gather_target(f, status.data);
  f->sys_errno = try_read(pid);
  if (f->sys_errno == ESRCH && st.state == 'Z') /* a leader that others outlive */
    f->sys_errno = try_read_by_thread(pid);
  gather_own(f);
  ss_buf_release(&status);
}

/* ---- judgement --------------------------------------------------------------- */

static void user_name(uint32_t uid, char *out, size_t cap)
{
  char store[4096];
  struct passwd entry, *found = NULL;
  if (getpwuid_r((uid_t)uid, &entry, store, sizeof store, &found) == 0 && found)
    snprintf(out, cap, "%s", found->pw_name);
  else
    snprintf(out, cap, "%u", (unsigned)uid);
}

/* What is no permission question. */
static enum ss_err judge_kind(const struct ss_access_facts *f, struct ss_diag *diag)
{
  int pid = (int)f->pid;
  if (f->pid <= 0)
    return ss_fail(diag, SS_ERR_USAGE, "%d is not a process; give a PID above 0", pid);
  if (f->hidden)
    return ss_fail(
        diag, SS_ERR_ACCESS,
        "PID %d is hidden by the hidepid option of /proc; run as its user or as "
        "root",
        pid);
  if (!f->exists)
    return ss_fail(diag, SS_ERR_GONE,
                   "no process has PID %d; `pgrep -af pytest` lists candidates", pid);
  if (f->self)
    return ss_fail(diag, SS_ERR_USAGE,
                   "PID %d is stacksample itself; give the PID of the program to look at",
                   pid);
  if (f->tgid > 0 && f->tgid != f->pid)
    return ss_fail(diag, SS_ERR_USAGE, "%d is a thread of process %d; use PID %d", pid,
                   (int)f->tgid, (int)f->tgid);
  if (f->ended)
    return ss_fail(diag, SS_ERR_GONE,
                   "PID %d has ended (a zombie that its parent %d has not collected); "
                   "nothing is left to look at",
                   pid, (int)f->ppid);
  if (f->kernel_thread)
    return ss_fail(
        diag, SS_ERR_UNSUPPORTED,
        "PID %d is a kernel thread, it has no user stacks; `perf top` shows the "
        "kernel",
        pid);
  return SS_ERR_OK;
}

static bool same_user(const struct ss_access_facts *f)
{
  for (int i = 0; i < 3; i++)
    if (f->uid[i] != f->own_uid || f->gid[i] != f->own_gid)
      return false;
  return true;
}

static enum ss_err judge_yama(const struct ss_access_facts *f, struct ss_diag *diag)
{
  if (f->yama == 3)
    return ss_fail(diag, SS_ERR_ACCESS,
                   "PID %d: kernel.yama.ptrace_scope is 3, which forbids it to everybody "
                   "until a reboot; `stacksample run` samples with perf instead",
                   (int)f->pid);
  if (f->yama == 2)
    return ss_fail(
        diag, SS_ERR_ACCESS,
        "PID %d: kernel.yama.ptrace_scope is 2, which asks for CAP_SYS_PTRACE; "
        "run with sudo",
        (int)f->pid);
  return ss_fail(diag, SS_ERR_ACCESS,
                 "PID %d: kernel.yama.ptrace_scope is 1 and it is no child of ours; "
                 "sudo sysctl kernel.yama.ptrace_scope=0",
                 (int)f->pid);
}

/* The kernel's order: ids, dumpable, capabilities, Yama, other modules. */
static enum ss_err judge_refusal(const struct ss_access_facts *f, struct ss_diag *diag)
{
  int pid = (int)f->pid;
  bool may_trace = (f->own_caps >> CAP_PTRACE_BIT) & 1;
  if (f->own_refused)
    return ss_fail(diag, SS_ERR_ACCESS,
                   "this sandbox refuses process_vm_readv and /proc/PID/mem%s; start the "
                   "container with --cap-add=SYS_PTRACE",
                   f->own_seccomp ? " (seccomp)" : "");
  if (!may_trace && !same_user(f)) {
    char name[64];
    user_name(f->uid[1], name, sizeof name);
    return ss_fail(diag, SS_ERR_ACCESS,
                   "PID %d belongs to user %s; run as that user or with CAP_SYS_PTRACE",
                   pid, name);
  }
  if (!may_trace && f->protected_image)
    return ss_fail(
        diag, SS_ERR_ACCESS,
        "PID %d is protected (set-user-ID, file capabilities, or PR_SET_DUMPABLE "
        "0); run with sudo",
        pid);
  if (!may_trace && (f->caps & ~f->own_permitted) != 0)
    return ss_fail(diag, SS_ERR_ACCESS,
                   "PID %d has capabilities that we lack; run with sudo", pid);
  if (f->yama == 3 || (!may_trace && (f->yama == 2 || (f->yama == 1 && !f->descendant))))
    return judge_yama(f, diag);
  return ss_fail(diag, SS_ERR_ACCESS,
                 "PID %d: refused by a security module, a sandbox or its user namespace; "
                 "run on the host with sudo",
                 pid);
}

enum ss_err ss_access_judge(const struct ss_access_facts *f, struct ss_diag *diag)
{
  enum ss_err err = judge_kind(f, diag);
  if (err != SS_ERR_OK)
    return err;
  if (f->sys_errno == ESRCH || f->sys_errno == ENOENT)
    return ss_fail(diag, SS_ERR_GONE, "PID %d has just ended", (int)f->pid);
  if (f->sys_errno != 0)
    return judge_refusal(f, diag);
  if (f->tracer > 0)
    return ss_fail(diag, SS_ERR_ACCESS,
                   "PID %d is already being traced by PID %d (%s); end that one first",
                   (int)f->pid, (int)f->tracer, f->tracer_comm);
  return SS_ERR_OK;
}

/* Another profiler has its target only for as long as one stop takes. */
enum ss_err ss_access_explain(pid_t pid, struct ss_diag *diag)
{
  uint64_t until_ns = ss_now_ns() + TRACED_PATIENCE_NS;
  struct ss_access_facts facts;
  ss_access_gather(&facts, pid);
  while (facts.tracer > 0 && ss_now_ns() < until_ns) {
    ss_sleep_ns(TRACED_STEP_NS);
    ss_access_gather(&facts, pid);
  }
  return ss_access_judge(&facts, diag);
}
