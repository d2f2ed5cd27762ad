/*
 * What the ptrace engine tells stage 2, in the records that perf has for it: births,
 * names, ends, and times on a CPU as if they came from switches. A thread is told to
 * be off the CPU except for the time that it was seen to have used.
 */
#include <string.h>

#include "tracer_priv.h"

enum { MORE_MAX = 10000 }; /* periods in one sample */

void ss_tell(struct ss_tracer *t, const struct ss_record *rec, const char *name)
{
  struct ss_own_record own = {
      .rec = *rec, .tail = name, .tail_len = name ? strlen(name) + 1 : 0};
  (void)ss_own_record_put(t->cpu, &own);
}

static void tell_switch(struct ss_tracer *t, const struct ss_runner *r, uint64_t time_ns,
                        bool out)
{
  struct ss_record rec = {.type = SS_REC_SWITCH,
                          .pid = r->process->pid,
                          .tid = r->tid,
                          .time_ns = time_ns,
                          .u.sw.out = out};
  ss_tell(t, &rec, NULL);
}

void ss_tell_in(struct ss_tracer *t, const struct ss_runner *r, uint64_t time_ns)
{
  tell_switch(t, r, time_ns > r->off_ns ? time_ns : r->off_ns, false);
}

void ss_tell_out(struct ss_tracer *t, struct ss_runner *r, uint64_t time_ns)
{
  tell_switch(t, r, time_ns, true);
  r->off_ns = time_ns;
}

void ss_tell_comm(struct ss_tracer *t, const struct ss_runner *r, uint64_t time_ns,
                  bool exec)
{
  struct ss_record rec = {.type = SS_REC_COMM,
                          .pid = r->process->pid,
                          .tid = r->tid,
                          .time_ns = time_ns,
                          .u.comm.exec = exec};
  ss_tell(t, &rec, r->comm);
}

void ss_tell_birth(struct ss_tracer *t, struct ss_runner *r, pid_t ppid, uint64_t time_ns,
                   bool exec)
{
  struct ss_record rec = {.type = SS_REC_FORK,
                          .pid = r->process->pid,
                          .tid = r->tid,
                          .time_ns = time_ns,
                          .u.task = {.ppid = ppid, .ptid = ppid}};
  ss_tell(t, &rec, NULL);
  ss_tell_comm(t, r, time_ns, exec); /* it may be gone before anybody else can ask */
  ss_tell_in(t, r, time_ns);
  ss_tell_out(t, r, time_ns);
}

void ss_tell_usage(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  struct ss_record rec = {
      .type = SS_REC_USAGE,
      .pid = r->process->pid,
      .tid = r->tid,
      .time_ns = now_ns,
      .u.usage = {.cpu_ns = r->cpu_ns, .runqueue_ns = r->runqueue_ns}};
  r->told_cpu_ns = r->cpu_ns;
  r->told_at_ns = now_ns;
  ss_tell(t, &rec, NULL);
}

/* ---- samples --------------------------------------------------------------------- */

/* Whole periods of CPU time that no sample stands for yet. */
uint64_t ss_periods_due(const struct ss_tracer *t, const struct ss_runner *r)
{
  uint64_t due_ns = r->cpu_ns > r->sampled_ns ? r->cpu_ns - r->sampled_ns : 0;
  uint64_t due = due_ns / t->facts.period_ns;
  return due < MORE_MAX ? due : MORE_MAX;
}

/* Of these, how many were spent in the kernel. The totals are the kernel's; which
 * stack they go to is decided by where the stop found the thread: a call first
 * (`nearest`: half a period is enough), else what has piled up without one. */
static uint64_t kernel_periods(const struct ss_tracer *t, const struct ss_runner *r,
                               uint64_t due, bool nearest)
{
  int64_t period_ns = (int64_t)t->facts.period_ns;
  int64_t owed_ns = r->kernel_owed_ns + (nearest ? period_ns / 2 : -period_ns);
  int64_t owed = owed_ns > 0 ? owed_ns / period_ns : 0;
  return owed < (int64_t)due ? (uint64_t)owed : due;
}

/* Time outside calls is that of page faults, if there were enough of them: a small
 * page takes a microsecond, a huge one the time to clear 2 MB. */
static bool faults_explain(const struct ss_runner *r, uint64_t kernel_ns)
{
  const uint64_t huge_ns = 100000;
  return r->faults * huge_ns >= kernel_ns / 2;
}

static void put_sample(struct ss_tracer *t, struct ss_own_record *own, uint64_t periods)
{
  if (periods > 0) {
    own->rec.u.sample.more = (uint32_t)(periods - 1);
    (void)ss_own_record_put(t->cpu, own);
  }
}

void ss_tell_sample(struct ss_tracer *t, struct ss_runner *r, struct ss_own_record *own,
                    long call)
{
  bool nearest = call >= 0 || !own->rec.u.sample.has_regs;
  uint64_t due = ss_periods_due(t, r), kernel = kernel_periods(t, r, due, nearest);
  uint64_t kernel_ns = kernel * t->facts.period_ns;
  own->rec.u.sample.ago_ns = kernel_ns;
  own->rec.u.sample.call = call >= 0 ? (uint32_t)call + 1 : 0;
  put_sample(t, own, due - kernel);
  own->rec.u.sample.ago_ns = 0;
  own->rec.u.sample.kernel = true;
  if (call < 0 && faults_explain(r, kernel_ns))
    own->rec.u.sample.call = SS_CALL_FAULT;
  put_sample(t, own, kernel);
  if (kernel > 0)
    r->faults = 0;
  r->kernel_owed_ns -= (int64_t)kernel_ns;
  r->sampled_ns += due * t->facts.period_ns;
}

void ss_tell_unseen(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  struct ss_own_record own = {.rec = {.type = SS_REC_SAMPLE,
                                      .pid = r->process->pid,
                                      .tid = r->tid,
                                      .time_ns = now_ns}};
  if (ss_periods_due(t, r) > 0) {
    ss_tell_in(t, r, now_ns);
    ss_tell_sample(t, r, &own, -1);
    ss_tell_out(t, r, now_ns);
  }
}

/* ---- ends ------------------------------------------------------------------------ */

void ss_tell_rest(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  ss_tell_unseen(t, r, now_ns);
  if (r->cpu_ns != r->told_cpu_ns)
    ss_tell_usage(t, r, now_ns);
}

void ss_tell_exit(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  if (r->leader_ended)
    return;
  ss_tell_rest(t, r, now_ns);
  struct ss_record rec = {.type = SS_REC_EXIT,
                          .pid = r->process->pid,
                          .tid = r->tid,
                          .time_ns = now_ns,
                          .u.task = {.ppid = r->process->ppid}};
  ss_tell(t, &rec, NULL);
}
