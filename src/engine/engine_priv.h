/*
 * What the perf files and stage 1 share. Rings are per CPU and have exactly one
 * reader (that CPU's stage 1 thread); the rest of the process only looks at the
 * kernel's write position, to learn whether something waits there.
 */
#ifndef STACKSAMPLE_ENGINE_PRIV_H
#define STACKSAMPLE_ENGINE_PRIV_H

#include <linux/perf_event.h>
#include <pthread.h>

#include "stacksample/engine.h"
#include "stacksample/hash.h"

/* ---- records -------------------------------------------------------------------- */

/* sample_type of every event of ours: the decoder knows no other. */
#define SS_PERF_SAMPLE_TYPE                                                              \
  (PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME |        \
   PERF_SAMPLE_CPU | PERF_SAMPLE_CALLCHAIN | PERF_SAMPLE_REGS_USER)
#define SS_PERF_RECORD_MAX 65536 /* header.size is 16 bits */

/* At equal times in this order: no sample before its process exists. */
enum ss_record_rank {
  SS_RANK_FORK,
  SS_RANK_COMM,
  SS_RANK_MMAP,
  SS_RANK_REST,
  SS_RANK_EXIT
};

/* What stage 1 needs to know of a record to move and order it. */
struct ss_record_peek {
  uint32_t type; /* PERF_RECORD_* */
  enum ss_record_rank rank;
  pid_t pid, tid;
  uint64_t time_ns;
  size_t stack_at;    /* offset of the user stack's bytes, 0: none */
  size_t stack_len;   /* valid ones */
  uint64_t sp;        /* where they lay; 0: no user registers */
  size_t compact_len; /* of a copy without the unfilled part of the stack */
  uint64_t lost;      /* LOST only */
  bool out;           /* SWITCH only: off its CPU */
};
/* Of a whole record; false: too short for its type. */
bool ss_record_peek(const void *bytes, size_t len, struct ss_record_peek *out);
/* Copies a record to `to` (compact_len bytes), leaving out the part of the stack
 * area that the kernel reserved but did not fill. The copy is a valid record. */
void ss_record_compact(const void *bytes, size_t len, const struct ss_record_peek *peek,
                       unsigned char *to);
/* A LOST record of our own making (a full queue); returns its length. */
size_t ss_record_make_lost(unsigned char *to, size_t cap, uint64_t count,
                           uint64_t time_ns, uint32_t cpu);

/* ---- rings ---------------------------------------------------------------------- */

struct ss_perf_ring {
  int cpu;   /* -1: of one thread, wherever it runs */
  pid_t tid; /* that thread, where cpu is -1 */
  int fd;    /* of the event that owns the ring; borrowed from ss_perf.events */
  struct perf_event_mmap_page *page;
  unsigned char *data; /* size bytes, a power of two */
  uint64_t size;
  size_t map_len;
};
/* `page` and `data` are set by hand in tests. */
enum ss_err ss_perf_ring_map(struct ss_perf_ring *ring, int fd, int cpu,
                             uint64_t data_bytes);
void ss_perf_ring_unmap(struct ss_perf_ring *ring);
uint64_t ss_perf_ring_head(const struct ss_perf_ring *ring); /* any thread */
uint64_t ss_perf_ring_tail(const struct ss_perf_ring *ring);

/* One pass over what is there: begin, next until NULL, each with a release. */
struct ss_perf_reader {
  struct ss_perf_ring *ring;
  uint64_t head, tail;
  uint64_t corrupt;       /* passes given up because of an impossible size */
  unsigned char *scratch; /* SS_PERF_RECORD_MAX bytes, for records that wrap */
};
void ss_perf_reader_begin(struct ss_perf_reader *reader);
/* The record at the tail, whole, in the ring or in scratch. */
const void *ss_perf_reader_next(struct ss_perf_reader *reader, size_t *len);
/* Gives the space of the last one back to the kernel. */
void ss_perf_reader_release(struct ss_perf_reader *reader, size_t len);

/* ---- events --------------------------------------------------------------------- */

/* Page faults, where samples in the kernel are refused: a second event beside each
 * task-clock, on the same ring (perf_faults.c). */
struct ss_perf_faults {
  struct perf_event_attr attr;
  int *events; /* owned descriptors: on each ring one of every level */
  size_t count, cap;
  struct ss_idmap ids; /* of the events, as PERF_SAMPLE_IDENTIFIER gives them: period */
  unsigned level;      /* the one that is used: how many faults make a sample */
  bool on;             /* or will be, at exec */
  uint64_t seen, adapted_ns;
};

struct ss_perf {
  struct ss_perf_config config;
  struct ss_perf_facts facts;
  struct perf_event_attr attr;
  struct ss_perf_ring *rings; /* facts.cpus of them */
  int *events;                /* owned descriptors */
  size_t count, cap;
  struct ss_perf_faults faults;
  int *cpus; /* of the target's affinity; per thread: -1 */
  size_t cpu_count;
  bool enabled;
  pthread_mutex_t lock; /* per thread: events come and go */
  uint64_t ended_ns;    /* counts of events that are closed */
};
/* perf_open.c, for perf_follow.c */
int ss_perf_open_event(struct perf_event_attr *attr, pid_t tid, int cpu);
bool ss_perf_keep_event(struct ss_perf *perf, int fd); /* closes it on failure */
enum ss_err ss_perf_refused(struct ss_diag *diag, pid_t pid);
uint64_t ss_perf_count_of(int event);
/* perf_follow.c: one event a thread. Chooses it where there are many CPUs; room for
 * so many rings is needed. */
size_t ss_perf_choose_layout(struct ss_perf *perf);
enum ss_err ss_perf_add_ring(struct ss_perf *perf, pid_t tid, struct ss_perf_ring **ring,
                             struct ss_diag *diag);
size_t ss_perf_rings(struct ss_perf *perf, struct ss_perf_ring **rings);

/* Beside the task-clock events of `tid`; `like` has their attributes. False: refused,
 * errno says why, and none of this thread's is left. */
bool ss_perf_faults_open(struct ss_perf *perf, const struct perf_event_attr *like,
                         pid_t tid);
void ss_perf_faults_enable(struct ss_perf *perf, bool on);
void ss_perf_faults_close(struct ss_perf *perf);

/* ---- read plans, looked up by stage 1 ------------------------------------------- */

struct ss_plans;
struct ss_plans *ss_plans_new(void);
void ss_plans_free(struct ss_plans *plans);
/* Writers exclude each other; readers never wait. */
void ss_plans_set(struct ss_plans *plans, pid_t pid, pid_t tid,
                  const struct ss_read_plan *plan);
/* False: none, or it was being changed at this moment. */
bool ss_plans_get(const struct ss_plans *plans, pid_t pid, pid_t tid,
                  struct ss_read_plan *out);

/* ---- the queue of one CPU: stage 1 writes, stage 2 reads ------------------------ */

struct ss_entry { /* followed by the record's bytes, raw bytes, regions of the chase and
                   * their bytes, each 8-aligned */
  uint32_t size;  /* of the whole entry */
  uint32_t record_len;
  uint32_t raw_len;
  uint32_t chased_len;
  uint16_t chased; /* regions */
  uint8_t rank;
  bool own; /* the record is of our own making: own_record.c */
  uint64_t time_ns;
  uint64_t read_ns;
  struct ss_read_plan plan; /* last: only the used regions are stored */
};
enum { SS_QUEUE_CHUNKS = 64 };
struct ss_queue {
  unsigned char *bytes;
  uint64_t size, chunk;               /* chunk: size / SS_QUEUE_CHUNKS */
  uint32_t write_chunk;               /* stage 1: where the next entry goes */
  uint64_t write_at;                  /* ... in it */
  uint32_t read_chunk;                /* stage 2: where the next one comes from */
  _Alignas(64) _Atomic uint64_t free; /* bit i: chunk i is nobody's */
  struct ss_queue_chunk {
    _Alignas(64) _Atomic uint64_t filled; /* bytes; written by stage 1 */
    _Atomic uint32_t next;                /* chunk + 1 that follows; 0: none yet */
    uint64_t taken;                       /* stage 2: bytes of entries handed out, */
    uint32_t open;                        /* how many of these are not done, and */
    bool left;                            /* whether there are no more */
  } chunks[SS_QUEUE_CHUNKS];
};
/* An entry is at most size / SS_QUEUE_CHUNKS long. */
bool ss_queue_is_empty(const struct ss_queue *q); /* all were taken and are done */
bool ss_queue_init(struct ss_queue *q, uint64_t size);
void ss_queue_release(struct ss_queue *q);
uint64_t ss_queue_used(const struct ss_queue *q); /* bytes, in whole chunks */
/* Contiguous room of `size` bytes, or NULL: full. Nothing is visible before
 * ss_queue_commit. */
struct ss_entry *ss_queue_reserve(struct ss_queue *q, size_t size);
void ss_queue_commit(struct ss_queue *q, struct ss_entry *entry);
struct ss_entry *ss_queue_take(struct ss_queue *q);             /* next one, or NULL */
void ss_queue_done(struct ss_queue *q, struct ss_entry *entry); /* in any order */
static inline unsigned char *ss_entry_record(struct ss_entry *e)
{
  return (unsigned char *)e->plan.regions + e->plan.count * sizeof(struct ss_region);
}

#endif
