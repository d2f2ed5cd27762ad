/*
 * Where samples come from, and their way to profile.db.
 *
 * Stage 1 (capture): one thread per CPU, pinned to it, SCHED_FIFO where
 * permitted, woken by each sample. It takes the record out of the ring, reads
 * what must be read at this moment (struct ss_read_plan of the sampled thread)
 * and interprets nothing. Stage 2 (pipeline), one thread: puts the records of
 * all CPUs in time order, keeps processes, threads and mappings, unwinds,
 * merges, names the test, writes.
 */
#ifndef STACKSAMPLE_ENGINE_H
#define STACKSAMPLE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/arch.h"
#include "stacksample/error.h"
#include "stacksample/ledger.h"
#include "stacksample/proc.h"
#include "stacksample/store.h"

/* ---- perf events and rings --------------------------------------------------- */

struct ss_perf_config {
  uint32_t rate_hz;
  uint32_t snapshot;        /* wanted bytes of user stack; 0: none (--no-native) */
  bool inherit;             /* follow threads and children made later */
  bool threads_only;        /* of these only threads (Linux 5.13; else both, noted) */
  bool switches;            /* PERF_RECORD_SWITCH */
  bool enable_on_exec;      /* `run`: counting starts at the exec */
  unsigned per_thread_from; /* CPUs; 0: SS_PER_THREAD_CPUS */
  struct ss_notes *notes;
};
struct ss_perf_facts {
  bool kernel_samples; /* exclude_kernel = 0 was allowed */
  bool switches;       /* PERF_RECORD_SWITCH comes */
  bool per_thread;     /* an event and a ring a thread; else a CPU, inherited */
  bool faults;         /* no kernel samples, but page faults with their stacks */
  uint32_t snapshot;   /* bytes in use, maybe smaller than wanted */
  uint64_t period_ns;
  uint64_t ring_bytes;   /* per CPU */
  unsigned cpus, events; /* opened */
  char reason[160];      /* why less than wanted, or "" */
};
struct ss_perf;
/* Events on `pid` for every CPU of its affinity, one ring per CPU. A new thread copies
 * each inherited event, which many CPUs make slow: from config.per_thread_from on there
 * is one event a thread, and new threads must be followed. Degrades in
 * this order, with a note each: kernel samples, ring size, snapshot. ACCESS or
 * UNSUPPORTED: another engine must do. */
enum ss_err ss_perf_open(struct ss_perf **perf, const struct ss_perf_config *config,
                         pid_t pid, struct ss_diag *diag);
/* One more existing thread (attach). GONE is normal. */
enum ss_err ss_perf_add(struct ss_perf *perf, pid_t tid, struct ss_diag *diag);
/* per_thread: an event and a ring for a thread that runs already, on at once. LIMIT:
 * too many, or no locked memory. Ends with ss_perf_unfollow. */
struct ss_perf_ring;
enum ss_err ss_perf_follow(struct ss_perf *perf, pid_t tid, struct ss_perf_ring **ring,
                           struct ss_diag *diag);
void ss_perf_unfollow(struct ss_perf *perf, struct ss_perf_ring *ring);
/* per_thread: has it an event and a ring already, from opening, adding or following? */
bool ss_perf_follows(struct ss_perf *perf, pid_t tid);
void ss_perf_enable(struct ss_perf *perf, bool on); /* ioctl on every event */
const struct ss_perf_facts *ss_perf_facts(const struct ss_perf *perf);
/* On-CPU nanoseconds of all threads that ever inherited, from the count. */
uint64_t ss_perf_count_ns(const struct ss_perf *perf);
/* How many page faults a sample of this event stands for; 0: it counts none. */
uint64_t ss_perf_fault_period(const struct ss_perf *perf, uint64_t event);
/* Makes samples of page faults rarer or more frequent: `samples` of them came so far. */
void ss_perf_faults_adapt(struct ss_perf *perf, uint64_t samples, uint64_t now_ns);
void ss_perf_close(struct ss_perf *perf);

/* ---- records: pure over bytes ------------------------------------------------- */

enum ss_record_type {
  SS_REC_SAMPLE,
  SS_REC_MMAP,
  SS_REC_COMM,
  SS_REC_FORK,
  SS_REC_EXIT,
  SS_REC_SWITCH,
  SS_REC_LOST,
  SS_REC_THROTTLE,
  SS_REC_USAGE, /* these two come from the ptrace engine only */
  SS_REC_REMAP, /* executable mappings of the process have changed */
  SS_REC_OTHER
};
struct ss_record { /* pointers are into the decoded bytes */
  enum ss_record_type type;
  pid_t pid, tid;
  uint64_t time_ns; /* CLOCK_MONOTONIC */
  uint32_t cpu;
  union {
    struct {
      uint64_t event; /* which of ours */
      uint64_t ip;
      bool kernel;                     /* hit in kernel mode */
      const unsigned char *kernel_ips; /* n_kernel u64, innermost first */
      size_t n_kernel;
      bool has_regs;
      struct ss_regs regs;
      const unsigned char *stack; /* the valid (dyn_size) bytes from sp up */
      size_t stack_len;
      uint32_t more;   /* further periods that it stands for (ptrace) */
      uint64_t ago_ns; /* its time ended so long before (ptrace) */
      uint32_t call;   /* the system call that it is in + 1, or below (ptrace) */
    } sample;
    struct {
      struct ss_map map; /* path not set: below */
      const char *path;  /* bounded, NUL-terminated; "" or "//anon": none */
      bool exec;         /* executable; else a data mapping */
    } mmap;
    struct {
      const char *comm;
      bool exec;
    } comm;
    struct {
      pid_t ppid, ptid;
    } task; /* FORK, EXIT */
    struct {
      bool out, preempted;
    } sw;
    struct {
      uint64_t count;
    } lost;
    struct {
      uint64_t cpu_ns, runqueue_ns; /* schedstat */
    } usage;
  } u;
};
#define SS_CALL_FAULT UINT32_MAX /* sample.call: page faults */
/* false: malformed or of a kind that we did not ask for (count it). */
bool ss_record_decode(const void *bytes, size_t len, struct ss_record *out);

/* ---- stage 1 -------------------------------------------------------------------- */

struct ss_capture;
struct ss_captured { /* valid until the next ss_capture_next */
  struct ss_record rec;
  struct ss_read_plan plan; /* as it was when read; count 0: none */
  const unsigned char *raw; /* plan bytes read */
  size_t raw_len;
  uint64_t read_ns; /* when they were read */
  /* What the plan's chase read: regions, and their bytes without gaps. */
  const struct ss_region *chased;
  size_t chased_count;
  const unsigned char *chased_raw;
  size_t chased_len;
};
struct ss_capture_counts {
  uint64_t records, samples, lost, undecodable, queue_full;
  uint64_t plans_cut;  /* samples with more to read than SS_PLAN_BYTES_MAX */
  uint64_t own_cpu_ns; /* of the stage 1 threads */
  bool fifo;           /* real-time priority was granted */
  uint64_t stops, stop_total_ns, stop_max_ns; /* of the ptrace engine */
};
/* Starts the threads. Leaves a CPU's loop on POLLHUP/POLLERR. */
enum ss_err ss_capture_start(struct ss_capture **capture, struct ss_perf *perf,
                             struct ss_notes *notes, struct ss_diag *diag);

/* The other source of the same records, where perf is refused: one thread that
 * watches the tree in /proc and stops running threads one after the other, for
 * SS_STOP_BUDGET_PCT of the time at most. Blocked threads are never stopped. */
struct ss_tracer_config {
  uint32_t rate_hz;
  uint32_t snapshot; /* bytes of user stack */
  bool no_children;
  bool held; /* `run`: the root waits for its exec, which is where it begins */
  struct ss_notes *notes;
};
/* ACCESS: ptrace is refused, too. */
enum ss_err ss_capture_start_tracer(struct ss_capture **capture, pid_t root,
                                    const struct ss_tracer_config *config,
                                    struct ss_diag *diag);
const struct ss_perf_facts *ss_capture_facts(const struct ss_capture *c);
/* per_thread: takes a thread in while it runs, by stage 2 only. GONE is normal. */
enum ss_err ss_capture_follow(struct ss_capture *c, struct ss_perf *perf, pid_t tid,
                              struct ss_diag *diag);
/* What to read at samples of `tid` in `pid`; count 0 removes it. Thread-safe. */
void ss_capture_set_plan(struct ss_capture *c, pid_t pid, pid_t tid,
                         const struct ss_read_plan *plan);
/* Objects that stage 1's chases need not read: stage 2 marks them. */
struct ss_seen *ss_capture_seen(struct ss_capture *c);
/* Sleeps until there is something to take or timeout_ms have passed. */
void ss_capture_wait(struct ss_capture *c, int timeout_ms);
/* The next record of all CPUs in time order, as far as no earlier one can still
 * arrive; false: none yet. After ss_capture_stop: until all are taken. */
bool ss_capture_next(struct ss_capture *c, struct ss_captured *out);
/* Called for each switch that ss_capture_next or ss_capture_peek comes across, before its
 * turn: who is off the CPU now. Of two CPUs the later may come first; one may come twice.
 */
typedef void ss_capture_switch(void *arg, pid_t pid, pid_t tid, uint64_t time_ns,
                               bool out, bool preempted);
void ss_capture_watch(struct ss_capture *c, ss_capture_switch *on_switch, void *arg);
/* Switch records of this process are counted, not handed on. false: too many such
 * processes. And how many were, since it was so: two for each switch. */
bool ss_capture_hush(struct ss_capture *c, pid_t pid, bool hush);
uint64_t ss_capture_hushed(struct ss_capture *c, pid_t pid);
/* Adds up what a thread of such a process runs from from_ns on, by its switches; anew
 * where it was added up already; 0: no more. And the sums up to its EXIT: ns, and how
 * often it left its CPU. Beyond 1024 threads none are kept, and both are 0. */
void ss_capture_tally(struct ss_capture *c, pid_t tid, uint64_t from_ns);
void ss_capture_tallied(struct ss_capture *c, pid_t tid, uint64_t *cpu_ns,
                        uint64_t *outs);
/* Switches that are still in the rings. */
void ss_capture_peek(struct ss_capture *c);
/* Every record up to this time has been handed out. */
uint64_t ss_capture_horizon_ns(const struct ss_capture *c);
void ss_capture_stop(struct ss_capture *c); /* drains rings, joins threads */
void ss_capture_counts(const struct ss_capture *c, struct ss_capture_counts *out);
void ss_capture_free(struct ss_capture *c);

/* ---- stage 2 --------------------------------------------------------------------- */

struct ss_pipeline;
struct ss_pipeline_config {
  struct ss_capture *capture;
  struct ss_perf *perf; /* NULL: the ptrace engine */
  struct ss_store *store;
  struct ss_notes *notes;
  pid_t root;    /* first process */
  bool attached; /* it lives already, with its threads and children */
  bool no_python, no_native, no_children, cpu_only;
  bool stop_any;        /* threads whose wait a stop would end with EINTR, too */
  uint64_t audit_every; /* one stack in so many is unwound by libunwind, too; 0: none */
};
/* What is happening now, for the status line and the deadline rules. */
struct ss_pipeline_now {
  uint64_t samples, lost;
  uint64_t first_sample_ns; /* CLOCK_MONOTONIC; 0: none yet */
  /* Of the tests that run side by side the one whose limit ends first, then the one
   * that has run longest; outside of tests the newest phase. */
  struct ss_test_now {
    char test[256]; /* node id, or "(collection)" etc.; "" unknown */
    char phase[16];
    uint64_t phase_start_ns; /* 0: no phase */
    uint64_t serial;         /* tests are told apart by it; 0: no test */
    uint64_t test_start_ns;
    uint64_t limit_ns; /* of the test; 0: none */
    bool marked;       /* ... by a marker */
  } test;
  double busy_cpus, user_pct, kernel_pct; /* of the last seconds */
};
enum ss_err ss_pipeline_start(struct ss_pipeline **p,
                              const struct ss_pipeline_config *config,
                              struct ss_diag *diag);
/* Any thread. `limit_ns` is the limit of tests that have none of their own; 0: none. */
void ss_pipeline_now(struct ss_pipeline *p, uint64_t limit_ns,
                     struct ss_pipeline_now *out);
/* The processes that live now, root first or not; count written. Any thread. */
size_t ss_pipeline_pids(struct ss_pipeline *p, pid_t *pids, size_t cap);
/* Takes what is left, ends every thread's ledger at `end_ns`, joins stage 2. */
void ss_pipeline_stop(struct ss_pipeline *p, uint64_t end_ns);
/* Writes names of native frames and the quality figures into the store. */
void ss_pipeline_finish(struct ss_pipeline *p);
void ss_pipeline_free(struct ss_pipeline *p);

#endif
