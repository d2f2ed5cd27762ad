/*
 * Stage 2's own state: the processes and threads of the run, as the records
 * tell of them. Everything here belongs to the one stage 2 thread.
 */
#ifndef STACKSAMPLE_PIPELINE_PRIV_H
#define STACKSAMPLE_PIPELINE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "stacksample/context.h"
#include "stacksample/engine.h"
#include "stacksample/hash.h"
#include "stacksample/python.h"
#include "stacksample/waiting.h"

#include "hidden.h"

/* Outermost frames kept of a thread, to tell its role when names are known. */
#define SS_OUTER_FRAMES 8
/* Between looks at a process' environ without a sample that read it. */
#define SS_PHASE_TICK_NS 10000000ull
/* Frames of one sample: native, Python, the kernel's chain and the marks. */
#define SS_PATH_FRAMES_MAX (SS_FRAMES_MAX + SS_PY_FRAMES_MAX + 256)

struct ss_thread;

struct ss_outer { /* a place in a module */
  uint32_t module;
  uint64_t vaddr;
};

struct ss_process { /* one image of a process: a new exec resets it in place */
  pid_t pid, ppid;
  uint32_t id; /* in the store */
  struct ss_process_row row;
  struct ss_mem_live live;
  struct ss_maps maps;
  uint64_t maps_read_ns; /* records before this are already in `maps`; 0: never */
  struct ss_unwind_space space;
  uint64_t jit_next_ns; /* when to read on in space.jit, which is ours */
  bool jit_refused;     /* and that was said */

  struct ss_py *py;          /* NULL: no Python (yet) */
  uint64_t py_tried_at;      /* maps.generation of the last try */
  struct ss_idmap py_frames; /* struct ss_py_code * -> store frame */

  struct ss_testenv env;
  uint64_t env_look_ns;         /* what the last look is of */
  uint64_t env_read_ns;         /* and when its memory was read */
  bool pytest;                  /* its command line is pytest's, or it set PYTEST_ */
  uint32_t phase, phase_before; /* in the store; SS_ID_NONE */
  uint64_t phase_start_ns;
  struct ss_phase_row phase_row;
  bool phase_shared;      /* the row is the parent's: the child works for its test */
  struct ss_test_now now; /* guarded by now_lock; none where the phase is shared */
  uint64_t ask_ns;        /* for the test's marker; 0: not in this phase */

  bool blind;           /* flood.c: its switch records are dropped */
  uint64_t switches;    /* since the last check */
  uint64_t switch_cpus; /* on which, modulo 64 */
  uint64_t hushed;      /* of those dropped, at the last check */

  struct ss_thread *threads; /* list */
  struct ss_process *next;
};

struct ss_path_memo { /* a thread's last path of the trie, from the root inward */
  struct ss_path_step {
    uint32_t frame, node;
    int line;
  } * steps;
  size_t count, cap;
};

/* Of a thread's stack, what its samples' copies miss; 0, 0: nothing so far. */
struct ss_depth {
  uint64_t from, end;
  bool end_known; /* by a complete stack */
};
/* After the unwinding of one sample (depth.c). */
void ss_depth_note(struct ss_depth *d, const struct ss_snapshot *s,
                   const struct ss_frame *frames, size_t count, enum ss_end end);

struct ss_thread {
  struct ss_process *process;
  pid_t tid;
  uint32_t id; /* in the store */
  struct ss_thread_row row;
  struct ss_ledger_thread *ledger;
  char comm[64];
  struct ss_depth depth;
  uint64_t plan_key; /* what the last plan was made from */
  bool planned;
  bool followed;                        /* it has an event of its own: following.c */
  bool ran;                             /* on a CPU since schedstat was last read */
  uint64_t clock_cpu_ns, clock_wait_ns; /* what was read then */
  bool has_python;
  uint64_t samples;
  struct ss_outer outer[SS_OUTER_FRAMES]; /* outermost first */
  unsigned n_outer;
  /* looking.c: in the list of threads whose present wait has no look. */
  struct ss_thread *look_next, **look_link;
  uint64_t stopped_hash; /* of a wait for which it was stopped; 0: none */
  struct ss_wait stopped_wait;
  unsigned useless_stops, put_off;
  /* One whose switches are not known is always in the list. */
  bool blind, blind_known;
  uint64_t blind_cpu_ns; /* when blind_wait was seen: the same wait while it is so */
  uint64_t blind_ns, blind_gap_ns; /* last visit; time to the next */
  struct ss_wait blind_wait;
  uint32_t py_name;   /* string + 1; 0: not looked up */
  uint64_t switch_ns; /* of its newest switch that is known, maybe before its turn */
  struct ss_unwind_memo *memo; /* NULL: it has few samples */
  bool whole;                  /* its last stack reached the thread's start */
  struct ss_path_memo path;
  struct ss_thread *next; /* of the same process */
};

/* ---- looks at waiting threads (looking.c) ---------------------------------------- */

struct ss_queued_look { /* until the records up to its time have come */
  uint64_t time_ns;
  struct ss_thread *thread; /* NULL: ended meanwhile, or a round */
  struct ss_wait wait;
  uint64_t stands_for_ns;
  bool round; /* all whose wait had no look were looked at */
};
struct ss_looking {
  bool on;
  struct ss_thread *first, **end; /* who waits without a look, oldest first */
  size_t waiting;
  struct ss_queued_look *queue; /* by time; the first `done` are used up */
  size_t done, count, cap;
  uint64_t round_ns; /* of the last round */
  uint64_t saved_ns; /* CPU time that looks may use */
  uint64_t stop_ns;  /* when a thread was last stopped for a look */
  unsigned quiet;    /* rounds without anybody */
  unsigned char *stack, *raw;
  uint64_t looks, rounds, cut; /* cut: rounds that had no time for all */
  uint64_t stops, stop_total_ns, stop_max_ns;
};

struct ss_throttle {        /* throttle.c */
  uint64_t at_ns, total_ns; /* of the last reading */
  uint64_t each_ns;         /* of the second before it: for each thread, at most */
  uint64_t wanted_ns;       /* on a CPU or waiting for one, since then */
};

struct ss_pipeline {
  struct ss_pipeline_config config;
  struct ss_perf_facts facts;
  pthread_t thread;
  atomic_bool stop;
  uint64_t end_ns; /* of the run, set before `stop` */

  struct ss_paths *paths;
  struct ss_modules *modules;
  struct ss_unwinder *unwinder;
  struct ss_kallsyms *kallsyms; /* read for the first kernel frame: it takes 70 ms, */
  bool kallsyms_read;           /* for which no command shall wait */
  struct ss_ledger *ledger;
  struct ss_looking looking;
  struct ss_throttle throttle;

  struct ss_process *processes; /* alive, newest first */
  struct ss_idmap by_pid;       /* pid -> struct ss_process * */
  struct ss_idmap by_tid;       /* tid -> struct ss_thread * */
  size_t n_processes, n_threads, n_memos;
  struct ss_idmap occurrences;    /* hash of (process, test, phase) -> count */
  struct ss_idmap module_rows;    /* module id -> store module */
  struct ss_idmap kernel_frames;  /* kernel function's address -> store frame */
  struct ss_idmap spin_functions; /* place in a module -> does one spin there? */
  struct ss_idmap spin_places;
  struct ss_hidden *hidden; /* NULL where kernel samples come */

  /* One stack under work; too large for a thread's C stack. */
  struct ss_frame *native;
  struct ss_merged *merged;
  uint32_t *path; /* store frames, innermost first */
  int *path_lines;

  uint64_t n_samples, n_lost, n_rejected, n_ignored;
  uint64_t idle_ns;            /* when waits were last settled */
  uint64_t n_hushed, flood_ns; /* flood_ns: of its last check */
  uint64_t n_fault_samples;
  uint64_t n_audited, n_audit_differs;
  uint64_t tick_ns, schedstat_ns, newest_ns; /* newest: time of the last record */
  uint64_t news_ns;                   /* when code was last seen that may be gone soon */
  uint64_t py_rejected;               /* of ended images */
  uint64_t doubts[SS_PY_DOUBT_COUNT]; /* merges by what speaks against them */

  pthread_mutex_t now_lock; /* guards now, those of processes, and who is in by_pid */
  struct ss_pipeline_now now;
  uint64_t n_tests; /* begun so far */
  uint64_t window_ns, window_samples[SS_STATE_COUNT];
};

/* tracked.c: who lives */
struct ss_process *ss_tracked_find_process(struct ss_pipeline *p, pid_t pid); /* NULL */
struct ss_process *ss_tracked_process(struct ss_pipeline *p, pid_t pid, uint64_t time_ns);
bool ss_tracked_knows(const struct ss_pipeline *p, pid_t pid, pid_t tid);
struct ss_thread *ss_tracked_thread(struct ss_pipeline *p, pid_t pid, pid_t tid,
                                    uint64_t time_ns, bool on_cpu);
/* Makes a living tree known: its threads are born now. */
void ss_tracked_seed(struct ss_pipeline *p, pid_t root, uint64_t time_ns);
void ss_tracked_fork(struct ss_pipeline *p, const struct ss_record *rec);
void ss_tracked_exec(struct ss_pipeline *p, const struct ss_record *rec);
void ss_tracked_comm(struct ss_pipeline *p, const struct ss_record *rec);
void ss_tracked_exit(struct ss_pipeline *p, pid_t pid, pid_t tid, uint64_t time_ns);
void ss_tracked_mmap(struct ss_pipeline *p, const struct ss_record *rec);
void ss_tracked_usage(struct ss_pipeline *p, const struct ss_record *rec);
/* Reads the mappings of the record's process again. */
void ss_tracked_remap(struct ss_pipeline *p, const struct ss_record *rec);
void ss_tracked_schedstat(struct ss_pipeline *p, uint64_t now_ns);
/* Reads a thread's clocks, as of time_ns for its ledger; false: it is gone. */
bool ss_tracked_read(struct ss_pipeline *p, struct ss_thread *t, uint64_t time_ns);
/* After a gap in the records: each may have run. */
void ss_tracked_all_ran(struct ss_pipeline *p);
/* Mappings complete enough to find `addr`: read again where it is missing. */
struct ss_map *ss_tracked_map(struct ss_process *proc, uint64_t addr, uint64_t now_ns);
void ss_tracked_end_all(struct ss_pipeline *p, uint64_t end_ns);
void ss_tracked_free(struct ss_pipeline *p);

/* following.c: events for new threads, where these do not inherit them */
void ss_following_tree(struct ss_pipeline *p, pid_t root); /* all that are there */
void ss_following_fork(struct ss_pipeline *p, const struct ss_record *rec);

/* phases.c: which test runs */
void ss_phases_start(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns);
/* A child works for the test of its parent, until its own environ names another. */
void ss_phases_inherit(struct ss_process *child, const struct ss_process *parent,
                       uint64_t time_ns);
/* `mem` as it was at time_ns, or later: at read_ns. What was read before something
 * else was seen is out of date, whatever its time. */
void ss_phases_look(struct ss_pipeline *p, struct ss_process *proc,
                    const struct ss_mem *mem, uint64_t time_ns, uint64_t read_ns);
void ss_phases_tick(struct ss_pipeline *p, uint64_t now_ns);
void ss_phases_end(struct ss_pipeline *p, struct ss_process *proc, uint64_t time_ns);
uint32_t ss_phases_at(const struct ss_process *proc, uint64_t time_ns);

/* stacking.c: from a sample to a row */
void ss_stacking_sample(struct ss_pipeline *p, const struct ss_captured *captured);
/* One stack of a thread that waits, with what it waits for as the leaf. `captured`
 * has its ip and sp (or, where it was `stopped` for it, all registers). */
void ss_stacking_wait(struct ss_pipeline *p, struct ss_thread *t,
                      const struct ss_captured *captured, bool stopped,
                      const struct ss_waiting_seen *seen, struct ss_wait *out);
/* A stack that is one frame. */
uint32_t ss_stacking_mark(struct ss_pipeline *p, const char *text);

/* looking.c: stacks of waiting threads */
bool ss_looking_start(struct ss_pipeline *p); /* false: no memory */
void ss_looking_free(struct ss_pipeline *p);
/* A switch of `t`, in its turn or before. */
void ss_looking_switch(struct ss_pipeline *p, struct ss_thread *t, uint64_t time_ns,
                       bool waits);
/* Its switches are not known from now on, or are again. */
void ss_looking_blind(struct ss_pipeline *p, struct ss_thread *t, bool blind);
void ss_looking_forget(struct ss_pipeline *p, struct ss_thread *t);
/* Hands looks up to time_ns to the ledger: before every record. */
void ss_looking_due(struct ss_pipeline *p, uint64_t time_ns);
/* A round of looks, if it is time. Returns how many ms until the next, at least 1. */
int ss_looking_round(struct ss_pipeline *p, uint64_t now_ns);
/* What the frames that were just unwound, and `seen`, say of the wait. */
void ss_looking_reason(struct ss_pipeline *p, struct ss_thread *t,
                       const struct ss_waiting_seen *seen, const struct ss_frame *frames,
                       size_t native, const struct ss_mem *mem, struct ss_waiting *out);
/* Its reason as it stands in stacks: with who holds the GIL. */
void ss_looking_say(struct ss_pipeline *p, struct ss_thread *t,
                    const struct ss_waiting *waiting, char *text, size_t cap);

void ss_stacking_forget(struct ss_pipeline *p, struct ss_thread *t);
/* spinning.c: is a thread whose innermost frame is `leaf` waiting on its CPU? */
bool ss_spinning(struct ss_pipeline *p, const struct ss_frame *leaf);
void ss_spinning_release(struct ss_pipeline *p);
/* flood.c: processes that switch too often */
void ss_flood_tick(struct ss_pipeline *p, uint64_t now_ns);
bool ss_flood_switch(struct ss_process *proc,
                     const struct ss_record *rec); /* false: drop */
void ss_flood_end(struct ss_pipeline *p, struct ss_process *proc);

/* throttle.c: time that a cgroup's quota took. How much of `ns` that a thread was in
 * `state` is such time; called for all times. */
void ss_throttle_tick(struct ss_pipeline *p, uint64_t now_ns);
uint64_t ss_throttle_part(struct ss_pipeline *p, enum ss_state state, uint64_t ns);
/* roles.c: names and roles of threads, when names are known */
void ss_roles_assign(struct ss_pipeline *p, struct ss_thread *t);

#endif
