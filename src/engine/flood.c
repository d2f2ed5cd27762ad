/*
 * Processes that switch too often: above SS_SWITCHES_MAX a second on a CPU their switch
 * records cost more than they tell. They are dropped where they come in, the shape of
 * these threads' lives comes from samples and looks, and the data quality says so.
 * CPU and run-queue time are the kernel's own figures all the same.
 */
#include "stacksample/limits.h"
#include "stacksample/sys.h"

#include "pipeline_priv.h"

#define FLOOD_CHECK_NS 500000000ull

static void set_blind(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns,
                      bool blind)
{
  if (!ss_capture_hush(p->config.capture, proc->pid, blind))
    return;
  proc->blind = blind;
  for (struct ss_thread *t = proc->threads; t; t = t->next) {
    (void)ss_tracked_read(p, t, time_ns); /* what was before is settled by itself */
    ss_ledger_blind(t->ledger, time_ns, blind);
    ss_looking_blind(p, t, blind);
    if (!blind)
      ss_capture_tally(p->config.capture, t->tid, 0);
    t->ran = true;
  }
}

/* The busiest of its CPUs has at least the mean. */
static unsigned cpus_seen(const struct ss_process *proc)
{
  unsigned n = (unsigned)__builtin_popcountll(proc->switch_cpus);

  return n > 0 ? n : 1;
}

static void check(struct ss_pipeline *p, struct ss_process *proc, uint64_t now_ns,
                  uint64_t span_ns)
{
  uint64_t limit = SS_SWITCHES_MAX * span_ns / 1000000000;

  if (!proc->blind) {
    if (proc->switches / cpus_seen(proc) > limit) {
      ss_note(p->config.notes,
              "process %d switched more than %u times a second on a CPU: for as long "
              "its switches were not recorded, and times between samples are estimates",
              (int)proc->pid, (unsigned)SS_SWITCHES_MAX);
      set_blind(p, proc, now_ns, true);
    }
    proc->switch_cpus = 0;
  } else { /* much less, or it would go to and fro */
    uint64_t hushed = ss_capture_hushed(p->config.capture, proc->pid) / 2;
    if ((hushed - proc->hushed) < limit / 4) {
      p->n_hushed += hushed;
      proc->hushed = 0;
      set_blind(p, proc, now_ns, false);
    } else {
      proc->hushed = hushed;
    }
  }
  proc->switches = 0;
}

void ss_flood_tick(struct ss_pipeline *p, uint64_t now_ns)
{
  uint64_t span_ns = now_ns - p->flood_ns;

  if (!p->facts.switches || span_ns < FLOOD_CHECK_NS)
    return;
  for (struct ss_process *proc = p->processes; proc && p->flood_ns > 0; proc = proc->next)
    if (proc->blind || proc->switches > 0)
      check(p, proc, ss_capture_horizon_ns(p->config.capture), span_ns);
  p->flood_ns = now_ns;
}

bool ss_flood_switch(struct ss_process *proc, const struct ss_record *rec)
{
  proc->switches += rec->u.sw.out;
  proc->switch_cpus |= UINT64_C(1) << (rec->cpu % 64);
  return !proc->blind;
}

void ss_flood_end(struct ss_pipeline *p, struct ss_process *proc)
{
  if (proc->blind) {
    p->n_hushed += ss_capture_hushed(p->config.capture, proc->pid) / 2;
    (void)ss_capture_hush(p->config.capture, proc->pid, false);
  }
}
