/*
 * Our own deadline's ending: INT, ABRT, KILL to every process of the tree. Each is
 * addressed as (pid, start time), so that a number that came back is never hit.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "stacksample/sys.h"

#include "cli_priv.h"
#include "dumps.h"

#define FOLLOWED_MAX 4096

static void add(struct ss_ending_tree *t, pid_t pid)
{
  struct ss_identity id;

  for (size_t i = 0; i < t->count; i++)
    if (t->known[i].pid == pid && ss_identity_alive(&t->known[i]))
      return;
  if (ss_identity_get(&id, pid) && ss_grow(&t->known, &t->cap, t->count + 1, sizeof(id)))
    t->known[t->count++] = id;
}

void ss_ending_collect(struct ss_ending_tree *t, struct ss_pipeline *pipeline)
{
  pid_t followed[FOLLOWED_MAX], *pids = NULL;
  size_t count = 0;

  if (ss_tree_list(t->root, &pids, &count) == SS_ERR_OK)
    for (size_t i = 0; i < count; i++)
      add(t, pids[i]);
  free(pids);
  add(t, t->root);
  count = pipeline ? ss_pipeline_pids(pipeline, followed, FOLLOWED_MAX) : 0;
  for (size_t i = 0; i < count; i++)
    add(t, followed[i]);
}

/* By pidfd where there are any: checked and signalled without a gap between. */
static void send(const struct ss_identity *id, int signo)
{
  int pidfd = ss_pidfd_open(id->pid, 0);

  if (ss_identity_alive(id)) {
    if (pidfd >= 0)
      (void)ss_pidfd_send_signal(pidfd, signo);
    else
      (void)kill(id->pid, signo);
  }
  ss_close(&pidfd);
}

void ss_ending_interrupt(const struct ss_ending_tree *t)
{
  for (size_t i = 0; i < t->count; i++)
    send(&t->known[i], SIGINT);
}

/* Bit SIGABRT of SigCgt in /proc/PID/status. */
static bool catches_abort(pid_t pid)
{
  struct ss_buf text = {0};
  uint64_t caught = 0;

  if (ss_status_read(&text, pid, 0))
    caught = ss_status_number(ss_buf_str(&text), "SigCgt", 16);
  ss_buf_release(&text);
  return caught >> (SIGABRT - 1) & 1;
}

void ss_ending_abort(const struct ss_ending_tree *t)
{
  /* 1 byte stops core files and, unlike 0, a core_pattern that is a pipe, too
   * (core(5)). */
  struct rlimit none = {.rlim_cur = 1, .rlim_max = 1};

  for (size_t i = 0; i < t->count; i++) {
    if (!ss_identity_alive(&t->known[i]) || !catches_abort(t->known[i].pid))
      continue;
    if (prlimit(t->known[i].pid, RLIMIT_CORE, &none, NULL) == 0)
      send(&t->known[i], SIGABRT);
  }
}

void ss_ending_kill(const struct ss_ending_tree *t)
{
  for (size_t i = 0; i < t->count; i++)
    send(&t->known[i], SIGKILL);
}

void ss_ending_release(struct ss_ending_tree *t)
{
  free(t->known);
  *t = (struct ss_ending_tree){0};
}
