/*
 * Stage 1's state, shared by its two halves: capture.c (the threads) and order.c
 * (what stage 2 calls). Each field says which side writes it.
 */
#ifndef STACKSAMPLE_CAPTURE_PRIV_H
#define STACKSAMPLE_CAPTURE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine_priv.h"

struct ss_tracer;

#define SS_HUSHED_MAX 16 /* processes that switch too often at once */
#define SS_TALLIES 1024  /* of their threads; a power of two */

/* Where records come from: a CPU's ring, or the tracer (no ring, CPU -1). */
struct ss_cpu {
  struct ss_queue queue; /* first: has its own cache lines */
  struct ss_capture *capture;
  struct ss_perf_reader reader;
  pthread_t thread;
  clockid_t clock;
  bool started, has_clock;
  _Atomic bool ended; /* the ring's one thread has, and all of it was read */
  int epoll;          /* of the ring's descriptor and of */
  int kick;           /* an eventfd: look at the ring, or stop */
  _Atomic bool kicked;
  /* Written by stage 1. */
  uint64_t dropped; /* records, not yet reported by a LOST record */
  pid_t hushed_tid; /* on the CPU, its switch record was hushed; 0: none */
  uint64_t hushed_in_ns;
  _Atomic bool fifo;
  _Atomic uint64_t consumed;   /* ring position: all before it is in the queue */
  _Atomic uint64_t drained_ns; /* start of the last whole pass over the ring */
  _Atomic uint64_t records, samples, lost, undecodable, queue_full, plans_cut, own_ns;
  /* Written by stage 2. */
  uint64_t newest_ns; /* time of the newest record taken */
  uint64_t peeked;    /* ring position: switches before it were shown */
  uint64_t bound_ns;  /* no earlier record will come from this CPU */
};

struct ss_pending { /* a record that stage 2 has taken but not handed out */
  uint64_t time_ns;
  uint64_t order; /* rank, then arrival: breaks ties */
  struct ss_cpu *cpu;
  struct ss_entry *entry;
};
struct ss_heap { /* earliest first */
  struct ss_pending *items;
  size_t count, cap;
};

struct ss_capture {
  struct ss_cpu *cpus; /* per thread: room for SS_RINGS_MAX */
  _Atomic size_t cpu_count;
  pthread_mutex_t following; /* a thread is taken in, or all of it stops */
  struct ss_plans *plans;
  struct ss_seen *seen;
  struct ss_notes *notes;
  const struct ss_perf_facts *facts; /* of the source */
  struct ss_tracer *tracer;          /* NULL: rings */
  int wake;                          /* eventfd: a queue fills up, or the end */
  _Atomic bool signalled, stopping, stopped;
  /* hushed.c; written by stage 2, but for the counts and sums. */
  struct ss_hushed {
    _Atomic pid_t pid; /* 0: free */
    _Atomic uint64_t count;
  } hushed[SS_HUSHED_MAX];
  _Atomic unsigned hushed_count;
  struct ss_tally {
    _Atomic pid_t tid;        /* 0: never used; -1: free again */
    _Atomic uint64_t from_ns; /* since then: */
    _Atomic uint64_t cpu_ns, outs;
  } tallies[SS_TALLIES];
  /* Stage 2 only. */
  ss_capture_switch *on_switch;
  void *on_switch_arg;
  struct ss_heap heap;
  struct ss_pending current; /* handed out last */
  uint64_t arrivals;
  uint64_t bound_ns;
  uint64_t patience_ns; /* how long records that wake nobody may lie in a ring */
  _Atomic uint64_t horizon_ns;
  _Atomic uint64_t undecodable;
};

/* A capture with room for `count` sources and none started. */
enum ss_err ss_capture_new(struct ss_capture **capture, size_t count,
                           struct ss_notes *notes, struct ss_diag *diag);
void ss_capture_kick(struct ss_cpu *cpu);
void ss_capture_wake_stage_2(struct ss_capture *c);
/* Room for a record of `len` bytes and `raw` plan bytes; the header is filled. */
struct ss_entry *ss_capture_reserve(struct ss_cpu *cpu, size_t len, uint32_t regions,
                                    size_t raw, uint64_t time_ns);
/* Bytes to read; what is beyond the limit is left out, and counted. */
size_t ss_capture_plan_bytes(struct ss_cpu *cpu, const struct ss_read_plan *plan);

/* hushed.c: true, and counted: a switch that is not handed on. */
bool ss_hushed_take(struct ss_cpu *cpu, const struct ss_record_peek *peek);

/* own_record.c: a record as a struct, with `tail` (the stack, or the name) behind. */
struct ss_own_record {
  struct ss_record rec;
  const void *tail;
  size_t tail_len;
  const struct ss_read_plan *plan; /* NULL: none */
  const void *raw;
  size_t raw_len;
  uint64_t read_ns;
  struct ss_chased chased; /* count 0: none */
};
/* false: no room; counted as lost. */
bool ss_own_record_put(struct ss_cpu *cpu, const struct ss_own_record *own);
bool ss_own_record_get(const void *bytes, size_t len, struct ss_record *out);

/* tracer.c */
void ss_tracer_join(struct ss_tracer *t);
void ss_tracer_free(struct ss_tracer *t);
void ss_tracer_counts(const struct ss_tracer *t, struct ss_capture_counts *out);

static inline unsigned char *ss_entry_raw(struct ss_entry *e)
{
  return ss_entry_record(e) + (e->record_len + 7u) / 8u * 8u;
}

/* Behind the raw bytes: SS_CHASE_REGIONS of them while it is written. */
static inline struct ss_region *ss_entry_chased(struct ss_entry *e)
{
  return (struct ss_region *)(void *)(ss_entry_raw(e) + (e->raw_len + 7u) / 8u * 8u);
}

#endif
