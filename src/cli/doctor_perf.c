/*
 * doctor's checks of the engines: perf events on a child of ours, kernel stacks,
 * rings, ptrace. Those of the two engines take real samples; the others explain what
 * perf's got.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "stacksample/buf.h"
#include "stacksample/elf.h"
#include "stacksample/error.h"

#include "doctor.h"

static const char paranoid_path[] = "/proc/sys/kernel/perf_event_paranoid";

/* Lets the child burn, and ends the capture; how many samples came. */
static uint64_t burn(struct ss_doctor *d, struct ss_perf *perf,
                     struct ss_capture *capture)
{
  struct ss_capture_counts counts = {0};
  char byte = 'x';
  if (perf)
    ss_perf_enable(perf, true);
  bool burnt = write(d->go, &byte, 1) == 1 && read(d->done, &byte, 1) == 1;
  if (perf)
    ss_perf_enable(perf, false);
  ss_capture_stop(capture);
  ss_capture_counts(capture, &counts);
  ss_capture_free(capture);
  return burnt ? counts.samples : 0;
}

static void say_refused(struct ss_doctor_row *row, const struct ss_diag *diag)
{
  long level = ss_doctor_sysctl(paranoid_path, -1);
  row->works = SS_WORKS_NO;
  if (level > 2 && diag->err == SS_ERR_ACCESS) {
    snprintf(row->gives, sizeof row->gives, "perf_event_paranoid is %ld", level);
    snprintf(row->fix, sizeof row->fix, "sudo sysctl kernel.perf_event_paranoid=2");
    return;
  }
  snprintf(row->gives, sizeof row->gives, "%s",
           diag->text[0] ? diag->text : "no sample arrived");
  if (diag->err == SS_ERR_ACCESS || diag->err == SS_ERR_UNSUPPORTED)
    snprintf(row->fix, sizeof row->fix, "docker run --cap-add=PERFMON ...");
}

void ss_doctor_perf(struct ss_doctor *d, struct ss_doctor_row *row)
{
  struct ss_perf_config config = {.rate_hz = 1000,
                                  .snapshot = SS_STACK_SNAPSHOT_DEFAULT,
                                  .inherit = true,
                                  .switches = true};
  struct ss_perf *perf = NULL;
  struct ss_diag diag = {0};
  struct utsname host;
  uint64_t samples = 0;
  struct ss_capture *capture = NULL;
  if (ss_perf_open(&perf, &config, d->child, &diag) == SS_ERR_OK) {
    if (ss_capture_start(&capture, perf, NULL, &diag) == SS_ERR_OK)
      samples = burn(d, perf, capture);
    d->facts = *ss_perf_facts(perf);
    d->perf = samples > 0;
    ss_perf_close(perf);
  }
  if (!d->perf) {
    say_refused(row, &diag);
    return;
  }
  if (uname(&host) != 0)
    host.release[0] = '\0';
  snprintf(row->gives, sizeof row->gives,
           "kernel %.*s, task-clock, %u CPUs%s; %llu samples of 50 ms at 1000 Hz",
           (int)strcspn(host.release, "-"), host.release, d->facts.cpus,
           d->facts.switches ? ", switch records" : "", (unsigned long long)samples);
}

void ss_doctor_ptrace(struct ss_doctor *d, struct ss_doctor_row *row)
{
  struct ss_tracer_config config = {.rate_hz = 200,
                                    .snapshot = SS_STACK_SNAPSHOT_DEFAULT};
  struct ss_capture *capture = NULL;
  struct ss_diag diag = {0};
  uint64_t samples = 0;
  if (ss_capture_start_tracer(&capture, d->child, &config, &diag) == SS_ERR_OK)
    samples = burn(d, NULL, capture);
  d->ptrace = samples > 0;
  if (d->ptrace) {
    snprintf(row->gives, sizeof row->gives,
             "short stops of running threads; %llu samples of 50 ms",
             (unsigned long long)samples);
    return;
  }
  row->works = SS_WORKS_NO;
  snprintf(row->gives, sizeof row->gives, "%s",
           diag.text[0] ? diag.text : "no sample arrived");
  snprintf(row->fix, sizeof row->fix, "docker run --cap-add=SYS_PTRACE ...");
}

void ss_doctor_kernel(struct ss_doctor *d, struct ss_doctor_row *row)
{
  long level = ss_doctor_sysctl(paranoid_path, -1);
  if (!d->perf) {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives, "perf itself does not work");
    return;
  }
  if (!d->facts.kernel_samples) {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives,
             "perf_event_paranoid is %ld; kernel time is still counted", level);
    snprintf(row->fix, sizeof row->fix, "sudo sysctl kernel.perf_event_paranoid=1");
    return;
  }
  struct ss_kallsyms *names = ss_kallsyms_load();
  if (names) {
    snprintf(row->gives, sizeof row->gives, "system calls and page faults, with names");
  } else {
    row->works = SS_WORKS_PART;
    snprintf(row->gives, sizeof row->gives, "without names (kptr_restrict is %ld)",
             ss_doctor_sysctl("/proc/sys/kernel/kptr_restrict", -1));
    snprintf(row->fix, sizeof row->fix, "sudo sysctl kernel.kptr_restrict=0");
  }
  ss_kallsyms_free(names);
}

static void add_size(struct ss_buf *out, uint64_t bytes)
{
  uint64_t kb = bytes >> 10;
  if (bytes == RLIM_INFINITY)
    ss_buf_adds(out, "no limit");
  else if (kb >= 1024 && kb % 1024 == 0)
    ss_buf_addf(out, "%llu MB", (unsigned long long)kb >> 10);
  else
    ss_buf_addf(out, "%llu kB", (unsigned long long)kb);
}

void ss_doctor_rings(struct ss_doctor *d, struct ss_doctor_row *row)
{
  enum { SAMPLE_OVERHEAD = 1536, COMFORTABLE = 4 * SS_RING_MIN_RECORDS };
  struct rlimit locked = {0, 0};
  if (!d->perf) {
    row->works = SS_WORKS_NO;
    snprintf(row->gives, sizeof row->gives, "perf itself does not work");
    return;
  }
  uint64_t records = d->facts.ring_bytes / (d->facts.snapshot + SAMPLE_OVERHEAD);
  long each = ss_doctor_sysctl("/proc/sys/kernel/perf_event_mlock_kb", 0);
  getrlimit(RLIMIT_MEMLOCK, &locked);
  struct ss_buf text = {0};
  ss_buf_addf(&text, "%u x ", d->facts.cpus);
  add_size(&text, d->facts.ring_bytes);
  ss_buf_adds(&text, " of ");
  add_size(&text, (uint64_t)each << 10);
  ss_buf_addf(&text, " x %ld + ", sysconf(_SC_NPROCESSORS_ONLN));
  add_size(&text, locked.rlim_cur);
  if (d->facts.snapshot < SS_STACK_SNAPSHOT_DEFAULT || records < COMFORTABLE) {
    row->works = SS_WORKS_PART;
    ss_buf_addf(&text, "; short: %u-byte stacks, %llu samples a ring", d->facts.snapshot,
                (unsigned long long)records);
    snprintf(row->fix, sizeof row->fix, "sudo sysctl kernel.perf_event_mlock_kb=2052");
  }
  snprintf(row->gives, sizeof row->gives, "%s", ss_buf_str(&text));
  ss_buf_release(&text);
}
