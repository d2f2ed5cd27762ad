/*
 * What the ptrace engine tells stage 2, in the records that perf has for it: births,
 * names, ends, and times on a CPU as if they came from switches. A thread is told to
 * be off the CPU except for the time that it was seen to have used.
 */
#include <string.h>

#include "tracer_priv.h"

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

void ss_tell_exit(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns)
{
  if (r->leader_ended) {
    return;
  }
  if (r->cpu_ns != r->told_cpu_ns) {
    ss_tell_usage(t, r, now_ns);
  }
  struct ss_record rec = {.type = SS_REC_EXIT,
                          .pid = r->process->pid,
                          .tid = r->tid,
                          .time_ns = now_ns,
                          .u.task = {.ppid = r->process->ppid}};
  ss_tell(t, &rec, NULL);
}
