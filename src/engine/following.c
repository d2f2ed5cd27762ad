/*
 * New threads and processes where events are not inherited: each gets its own when
 * its FORK record has come. What it made before that has no record, and is looked for
 * in /proc; so is, when attached, what was made while we did that.
 *
 * One that had ended by then is ended here, too: no EXIT record of it will come.
 */
#include <stdlib.h>

#include "stacksample/sys.h"

#include "pipeline_priv.h"

/* What it did before its event was there: it may have a name, and another image. */
static void catch_up(struct ss_pipeline *p, pid_t pid, pid_t tid)
{
  struct ss_record rec = {
      .type = SS_REC_COMM, .pid = pid, .tid = tid, .time_ns = ss_now_ns()};
  struct ss_stat st;

  if (!ss_stat_read(&st, pid, tid))
    return;
  rec.u.comm.comm = st.comm;
  rec.u.comm.exec = pid == tid;
  ss_tracked_comm(p, &rec);
}

static void end_unseen(struct ss_pipeline *p, struct ss_thread *t)
{
  uint64_t now_ns = ss_now_ns();

  ss_ledger_unrecorded(t->ledger, now_ns);
  ss_tracked_exit(p, t->process->pid, t->tid, now_ns);
}

static bool follow(struct ss_pipeline *p, pid_t pid, pid_t tid)
{
  struct ss_thread *t = ss_tracked_thread(p, pid, tid, ss_now_ns(), true);
  struct ss_diag why = {0};
  enum ss_err err;

  if (t == NULL || t->followed)
    return false;
  t->followed = ss_perf_follows(p->config.perf, tid);
  if (t->followed)
    return false;
  err = ss_capture_follow(p->config.capture, p->config.perf, tid, &why);
  t->followed = err == SS_ERR_OK;
  if (t->followed) {
    catch_up(p, pid, tid);
    return true;
  }
  if (err == SS_ERR_GONE)
    end_unseen(p, t);
  else
    ss_note(p->config.notes, "some threads have no samples: %s", why.text);
  return false;
}

static void follow_tasks(struct ss_pipeline *p, pid_t pid)
{
  pid_t *tids = NULL;
  size_t count = 0;

  if (ss_tasks_list(pid, &tids, &count) != SS_ERR_OK)
    return;
  for (size_t i = 0; i < count; i++)
    (void)follow(p, pid, tids[i]);
  free(tids);
}

void ss_following_tree(struct ss_pipeline *p, pid_t root)
{
  pid_t *pids = NULL;
  size_t count = 0;

  follow_tasks(p, root);
  if (p->config.no_children || ss_tree_list(root, &pids, &count) != SS_ERR_OK)
    return;
  for (size_t i = 0; i < count; i++)
    if (pids[i] != root)
      follow_tasks(p, pids[i]);
  free(pids);
}

void ss_following_fork(struct ss_pipeline *p, const struct ss_record *rec)
{
  if (follow(p, rec->pid, rec->tid))
    ss_following_tree(p, rec->pid);
}
