/*
 * The keys of profile.db's meta table: facts about the run that are not rows.
 * One list, so that who stores a fact and who prints it spell it alike.
 *
 * Numbers are decimal text; times are nanoseconds of CLOCK_MONOTONIC unless the
 * name says otherwise; a list or an object is JSON. A key that is missing means
 * "not known", never 0. Every text is free of secrets already (unless the user
 * asked for `--env full`), and is escaped only when it is printed.
 */
#ifndef STACKSAMPLE_META_H
#define STACKSAMPLE_META_H

/* ---- the run (ss_facts_start) --------------------------------------------- */
#define SS_META_VERSION "version"           /* of stacksample, "0.1.0" */
#define SS_META_MODE "mode"                 /* "run" or "attach" */
#define SS_META_OPTIONS "options"           /* ours, as text */
#define SS_META_ARGV "argv"                 /* ours: JSON list */
#define SS_META_COMMAND "command"           /* the user's: JSON list */
#define SS_META_COMMAND_LINE "command_line" /* the same, quoted for a shell */
#define SS_META_STAGE "stage"               /* whole pipeline stage, quoted */
#define SS_META_CWD "cwd"
#define SS_META_GIT_COMMIT "git_commit" /* 40 or 64 hex digits */
#define SS_META_GIT_BRANCH "git_branch" /* "main"; missing when detached */
#define SS_META_LIMITS "limits" /* [{"source","s","kind","at_s"}]: time_limits.h */
#define SS_META_GUARDS "guards" /* {"CUDA_VISIBLE_DEVICES": "-1" or null, ...} */

/* ---- machine (ss_facts_start) ------------------------------------------------ */
#define SS_META_MACHINE "machine"           /* "x86_64" */
#define SS_META_CPU_MODEL "cpu_model"       /* of /proc/cpuinfo */
#define SS_META_KERNEL "kernel"             /* "Linux 6.18.5 #1 SMP ..." */
#define SS_META_CPUS "cpus"                 /* online */
#define SS_META_CPUS_ALLOWED "cpus_allowed" /* of our affinity: the busy base */
#define SS_META_MEMORY_KB "memory_kb"
#define SS_META_PARANOID "perf_event_paranoid"
#define SS_META_PTRACE_SCOPE "ptrace_scope"
#define SS_META_THP "thp"                             /* "always", "madvise", "never" */
#define SS_META_CGROUP "cgroup"                       /* path in the unified hierarchy */
#define SS_META_CGROUP_CPU_MAX "cgroup_cpu_max"       /* "max 100000" as read */
#define SS_META_CGROUP_MEMORY_MAX "cgroup_memory_max" /* "max" or bytes */
#define SS_META_RLIMITS "rlimits" /* {"nofile": n, "memlock": n, "cpu": n} */

/* ---- clocks (the session; start_ns as soon as the command was released) ------- */
#define SS_META_START_NS "start_ns"           /* the exec; attach: first event */
#define SS_META_END_NS "end_ns"               /* the command ended; attach: detached */
#define SS_META_WALL_START_NS "wall_start_ns" /* CLOCK_REALTIME at start_ns */

/* ---- engine (the session) ------------------------------------------------------ */
#define SS_META_ENGINE "engine"               /* "perf", "ptrace", "none" */
#define SS_META_ENGINE_REASON "engine_reason" /* why this one, one line, or "" */
#define SS_META_KERNEL_METHOD                                                            \
  "kernel_method" /* "samples": kernel stacks taken; "faults": its time                  \
                     accounted, page faults taken; "accounted": its time only;           \
                     "stops": its time, by ptrace stops */
#define SS_META_RATE_HZ "rate_hz"
#define SS_META_PERIOD_NS "period_ns"
#define SS_META_SNAPSHOT_BYTES "snapshot_bytes"
#define SS_META_RING_BYTES "ring_bytes" /* per CPU */
#define SS_META_EVENTS "events"         /* perf events opened */

/* ---- how it ended (ss_facts_end) ------------------------------------------------ */
#define SS_META_EXIT_CODE "exit_code"       /* what `run` returns */
#define SS_META_COMMAND_CODE "command_code" /* missing when a signal ended it */
#define SS_META_SIGNAL "signal"             /* missing when it exited */
#define SS_META_TIMED_OUT "timed_out"       /* 1: our own --timeout */
#define SS_META_ENDED_BY                                                                 \
  "ended_by"                      /* self signal stacksample pytest_timeout              \
                                     timeout1 unknown */
#define SS_META_LIMIT_S "limit_s" /* the limit that ended it, else the earliest */
#define SS_META_RU_UTIME_US                                                              \
  "ru_utime_us" /* wait4's rusage: the command and the                                   \
                   descendants that were waited for */
#define SS_META_RU_STIME_US "ru_stime_us"
#define SS_META_RU_MINFLT "ru_minflt"
#define SS_META_RU_MAJFLT "ru_majflt"
#define SS_META_RU_MAXRSS_KB "ru_maxrss_kb"
#define SS_META_RU_NVCSW "ru_nvcsw"
#define SS_META_RU_NIVCSW "ru_nivcsw"
#define SS_META_DUMPS "dumps"       /* [{"file","at_s","why"}] */
#define SS_META_FINISHED "finished" /* 1: the run was seen to its end */
#define SS_META_BLOCKED "blocked"   /* why there is no full profile; the session */

/* ---- what the log said (ss_facts_log) ---------------------------------------------- */
#define SS_META_LOG_FILE "log_file"           /* "pytest.log" */
#define SS_META_LOG_OUTCOMES "log_outcomes"   /* [{"id","worker","outcome"}] */
#define SS_META_LOG_DURATIONS "log_durations" /* [{"id","phase","s"}] of --durations */
#define SS_META_LOG_SHORT "log_short"         /* short test summary: [line] */
#define SS_META_LOG_TRACEBACK "log_traceback" /* of the first failure: [line] */
#define SS_META_LOG_TAIL "log_tail"           /* last lines where neither exists */
#define SS_META_LOG_RESULT "log_result"       /* "1 passed in 843.20s (0:14:03)" */
#define SS_META_LOG_TIMEOUT "log_timeout"     /* pytest-timeout's line, if it fired */

/* ---- quality (the pipeline and the session) -------------------------------------- */
#define SS_META_LOST "lost"             /* samples the kernel could not deliver */
#define SS_META_REJECTED "rejected"     /* records that made no sense */
#define SS_META_PY_UNREAD "py_unread"   /* CPython's lists and line tables, if any */
#define SS_META_UNVERIFIED "unverified" /* merges: [{"why","count"}] */
#define SS_META_TORN "torn" /* merges of frames read at more than one moment */
#define SS_META_SWITCHES_DROPPED "switches_dropped" /* context switches not recorded */
#define SS_META_MERGED "merged" /* 1: samples were merged second by second */
#define SS_META_FIRST_SAMPLE_MS "first_sample_ms" /* from start_ns, decimal */
#define SS_META_TASK_CLOCK_NS "task_clock_ns"     /* on-CPU time as perf counted it */
#define SS_META_REALTIME_READER "realtime_reader" /* "yes": SCHED_FIFO was granted */
#define SS_META_OWN_CPU_NS "own_cpu_ns"
#define SS_META_OWN_RSS_KB "own_rss_kb"
/* Kernel time without samples of its own: what was known of it. */
#define SS_META_HIDDEN_FAULT_NS "hidden_fault_ns"     /* page faults */
#define SS_META_HIDDEN_PLACED_NS "hidden_placed_ns"   /* under the stacks around it */
#define SS_META_HIDDEN_UNKNOWN_NS "hidden_unknown_ns" /* nothing */
#define SS_META_FAULTS "faults"                       /* in user mode, counted by perf */
#define SS_META_FAULT_COST_NS "fault_cost_ns"         /* each, measured on our memory */
#define SS_META_HUGE_FAULT_COST_NS "huge_fault_cost_ns" /* of a huge page */
#define SS_META_STOPS "stops" /* threads stopped to be looked at */
#define SS_META_STOP_TOTAL_NS "stop_total_ns"
#define SS_META_STOP_MAX_NS "stop_max_ns"
#define SS_META_AUDIT_CHECKED "audit_checked" /* stacks unwound a second way */
#define SS_META_AUDIT_DIFFER "audit_differ"
#define SS_META_NOTES "notes" /* [{"text","count"}] of struct ss_notes */
#define SS_META_UNSAVED                                                                  \
  "unsaved"                                   /* samples that the file could not take    \
                                                 (disk full); totals still have them */
#define SS_META_REJECTED_ROWS "rejected_rows" /* set by ss_profile_open */

/* ---- the file itself (the store) --------------------------------------------------- */
#define SS_META_BASE_NS "base_ns" /* of its creation: times in rows count from it */
#define SS_META_TOTALS "totals"   /* 1: table `total` is whole */

#endif
