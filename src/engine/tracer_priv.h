/*
 * The ptrace engine's own state, shared by its two halves: tracer_tree.c (who lives,
 * who has run) and tracer.c (stops). All of it belongs to the one tracer thread.
 */
#ifndef STACKSAMPLE_TRACER_PRIV_H
#define STACKSAMPLE_TRACER_PRIV_H

#include "capture_priv.h"
#include "stacksample/blocked.h"

struct ss_watched { /* a process */
  pid_t pid, ppid;
  int pidfd;           /* -1: not to be had (before Linux 5.3) */
  bool held;           /* has not exec'ed the command yet: not looked at */
  uint64_t image;      /* what an exec changes; 0 unknown */
  uint64_t exec_kb;    /* of executable mappings */
  uint64_t exec_kb_ns; /* when it was read */
  uint64_t checked_ns; /* when its leader was last looked at */
  struct ss_mem_live live;
  bool said_traced;
  struct ss_watched *next;
};

struct ss_runner { /* a thread */
  struct ss_watched *process;
  pid_t tid;
  int schedstat; /* kept open; -1: opened each time */
  char comm[64];
  bool gone, leader_ended;
  uint64_t cpu_ns, runqueue_ns;     /* as last read */
  uint64_t off_ns;                  /* told to be off the CPU since then */
  uint64_t sampled_ns;              /* CPU time that samples stand for */
  uint64_t told_cpu_ns, told_at_ns; /* in the last USAGE record */
  uint32_t idle, skip;              /* ticks without CPU time; ticks not to look */
  /* Kernel time, in the kernel's own ticks. */
  bool split_known;
  uint64_t stime_ns, minflt; /* as last read */
  int64_t kernel_owed_ns;    /* kernel time that no sample stands for yet */
  uint64_t faults;           /* since the last kernel sample */
  uint64_t refused_ns;       /* until then it is not asked again */
  bool stopping;
  struct ss_stop stop;
};

struct ss_listing { /* the last one */
  uint64_t at_ns, cost_ns;
};

struct ss_tracer {
  struct ss_tracer_config config;
  struct ss_perf_facts facts;
  struct ss_capture *capture;
  struct ss_cpu *cpu; /* its queue */
  pid_t root;
  pthread_t thread;
  bool started;

  struct ss_watched *processes;
  struct ss_runner **runners;
  size_t count, cap;
  size_t turn; /* whose turn it is to be stopped */
  struct ss_idmap by_pid, by_tid;
  struct ss_newcomers newcomers;
  char output[64];   /* what the command's output was when it started, if a pipe; "" */
  int loadavg;       /* descriptor */
  uint64_t last_pid; /* as read there */
  struct ss_listing listed_processes, listed_threads;
  uint64_t told_ns;           /* no record of this round may be older */
  uint64_t bound_ns;          /* published: no record is older */
  size_t kept_open, kept_max; /* schedstat files */

  size_t stopping; /* threads that have been asked to stop */
  uint64_t start_ns;
  uint64_t budget_used_ns, merged_for_budget;
  uint64_t random;
  unsigned char *stack, *raw;
  struct ss_chased chased; /* its buffers */
  _Atomic uint64_t stops, stop_total_ns, stop_max_ns;
};

/* tracer_tree.c */
bool ss_watch_begin(struct ss_tracer *t, struct ss_diag *diag);
/* One round: who is new, who has ended, who has run. */
void ss_watch_look(struct ss_tracer *t, uint64_t now_ns);
void ss_watch_release(struct ss_tracer *t);
/* What a fresh stat line of a thread tells: exec, name, kernel time. */
void ss_watch_stat(struct ss_tracer *t, struct ss_runner *r, const struct ss_stat *st);

/* tracer_tell.c; `name` of a COMM record, else NULL */
void ss_tell(struct ss_tracer *t, const struct ss_record *rec, const char *name);
/* On a CPU from `in` to `out`, as switch records would have it. */
void ss_tell_in(struct ss_tracer *t, const struct ss_runner *r, uint64_t time_ns);
void ss_tell_out(struct ss_tracer *t, struct ss_runner *r, uint64_t time_ns);
void ss_tell_comm(struct ss_tracer *t, const struct ss_runner *r, uint64_t time_ns,
                  bool exec);
void ss_tell_birth(struct ss_tracer *t, struct ss_runner *r, pid_t ppid, uint64_t time_ns,
                   bool exec);
/* CPU time as the kernel has it now. */
void ss_tell_usage(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns);
/* Whole periods of CPU time that no sample stands for yet. */
uint64_t ss_periods_due(const struct ss_tracer *t, const struct ss_runner *r);
/* All of them by one stack, as a sample of user time, whose end is the beginning of one
 * of kernel time. `call`: the system call in which it was stopped, or -1. */
void ss_tell_sample(struct ss_tracer *t, struct ss_runner *r, struct ss_own_record *own,
                    long call);
/* All of them, without a stack: it has ended, or may not be stopped. */
void ss_tell_unseen(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns);
/* Nothing more comes of this thread: its last CPU time, and the above. */
void ss_tell_rest(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns);
void ss_tell_exit(struct ss_tracer *t, struct ss_runner *r, uint64_t now_ns);

#endif
