/*
 * Every limit of stacksample, named once, with its reason. When one is hit
 * the output says so (a marker frame, a counter or a note).
 */
#ifndef STACKSAMPLE_LIMITS_H
#define STACKSAMPLE_LIMITS_H

/* Sampling. */
#define SS_RATE_DEFAULT_HZ 100
#define SS_RATE_MAX_HZ 10000            /* 100 us: below it the timer eats the target */
#define SS_CPUS_MAX 8192                /* CONFIG_NR_CPUS of the largest x86-64 kernels */
#define SS_PER_THREAD_CPUS 64           /* from there on an event a thread, not a CPU */
#define SS_RINGS_MAX 1024               /* of threads that live at once, then */
#define SS_STACK_SNAPSHOT_DEFAULT 16384 /* torch under pytest: max 13.7 KB */
#define SS_STACK_SNAPSHOT_SMALL 8192
#define SS_STACK_SNAPSHOT_MIN 4096
#define SS_RING_MIN_RECORDS 8         /* fewer would fill before we wake */
#define SS_PLAN_REGIONS_MAX 20        /* raw reads a sample, one system call */
#define SS_PLAN_STACK_REGIONS 2       /* of these, kept for stack behind a snapshot */
#define SS_PLAN_BYTES_MAX (96u << 10) /* of all: Python's data stack 48 KB, and */
#define SS_PLAN_DEEP_MAX (44u << 10)  /* stack behind a snapshot */
#define SS_QUEUE_BYTES (16u << 20)    /* stage 1 -> 2, per CPU: 0.8 s of 1000 Hz */
/* Context switches a second on one CPU, beyond which their records are dropped: 24 bytes
 * and some 0.5 us of ours each, for intervals that the samples tell as well. */
#define SS_SWITCHES_MAX 20000u
/* How long after its time a record may still appear in a ring: the kernel takes the
 * time first and publishes last, and a virtual CPU may be paused between. */
#define SS_SETTLE_NS (5u * 1000 * 1000)
#define SS_STOP_BUDGET_PCT 1 /* of wall time, all threads together (ptrace engine) */

/* Stacks. */
#define SS_FRAMES_MAX 1024              /* native frames unwound per stack */
#define SS_PY_FRAMES_MAX 16384          /* Python frames per thread: 40 bytes each */
#define SS_AUDIT_EVERY 1000             /* one stack in so many is unwound a second way */
#define SS_AUDIT_EVERY_MAX 1000000      /* more is as good as never */
#define SS_MEMOS_MAX 512                /* threads whose last stack is kept, 10 KB each */
#define SS_CFI_KEPT_MAX (32u << 20)     /* sections kept for that, without a table */
#define SS_FRAME_SIZE_MAX (1u << 20)    /* one native frame; more is not a stack */
#define SS_STACK_READ_MAX (8u << 20)    /* live bytes beyond a snapshot */
#define SS_STACK_OVERLAP 256            /* of a copy's end, must be unchanged behind it */
#define SS_STACKS_UNIQUE_MAX (4u << 20) /* trie nodes; beyond: [limit] leaf */
#define SS_FRAMES_UNIQUE_MAX (1u << 20) /* 48 bytes each; beyond: [limit] */
#define SS_STRING_BYTES_MAX (64u << 20) /* of all strings; beyond: [limit] */
#define SS_TOTALS_MAX (1u << 20)        /* 40 bytes each; beyond: summed when read */

/* What a target hands us. */
#define SS_MAPS_MAX 262144 /* mappings of one process (R53) */
#define SS_PATH_MAX 4096
#define SS_CMDLINE_MAX (64u << 10) /* bytes of a command line that are read */
#define SS_PROCS_MAX 65536         /* processes tracked at once */
#define SS_THREADS_MAX 65536       /* threads tracked at once */
#define SS_PY_STRING_MAX 4096      /* characters of a Python name kept */
#define SS_PY_TABLE_MAX (1u << 20) /* bytes of a line table (R37) */
#define SS_PY_INTERPS_MAX 256
#define SS_PY_CODES_MAX (1u << 20) /* code objects cached per process */
#define SS_PY_TASK_NAMES_MAX 256   /* of asyncio tasks of a process; then "[task]" */
#define SS_ENVIRON_MAX 4096        /* slots of environ looked through */
#define SS_TEST_ID_MAX 8192        /* bytes of PYTEST_CURRENT_TEST kept */
#define SS_SYMBOL_NAME_MAX 4096    /* bytes of a name before demangling */
#define SS_DEMANGLED_MAX 8192      /* bytes after it */
#define SS_ELF_SECTION_MAX (1u << 30)
#define SS_ELF_SYMBOLS_MAX (16u << 20)
#define SS_PERF_MAP_MAX (64u << 20) /* bytes of /tmp/perf-PID.map (R54), of a jitdump */
#define SS_JIT_UNWIND_MAX 4096      /* bytes of one function's .eh_frame; 100 is usual */
#define SS_DEBUGDATA_MAX (256u << 20) /* bytes of decompressed debug data */

/* Output. */
#define SS_TRACE_BYTES_MAX 100000000u     /* profiler.json by default */
#define SS_TRACE_DEPTH_MAX 400            /* Perfetto drops slices below 512 */
#define SS_DB_BYTES_MAX (2ull << 30)      /* profile.db; then seconds merge */
#define SS_RESERVE_BYTES (1u << 20)       /* kept back for a full disk */
#define SS_DB_COMMIT_MS 2000              /* a killed stacksample loses this */
#define SS_DB_TEXT_MAX (1u << 20)         /* bytes of one string; more is cut */
#define SS_DB_VALUE_MAX (16 << 20)        /* bytes of one meta value; more is cut */
#define SS_DB_BUFFER_ROWS 8192            /* samples held back for one batch */
#define SS_PROFILE_SAMPLES_MAX (2u << 20) /* rows sorted in memory, 40 bytes each */
#define SS_NOTES_MAX 100
#define SS_STAMP_TRIES 1000

#endif
