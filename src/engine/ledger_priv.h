/*
 * The parts of the ledger: ledger.c keeps a thread's timeline, ledger_settle.c decides
 * how much of it was CPU time; ledger_split.c divides that into user, kernel and spin,
 * and ledger_waits.c what was waiting among the looks at it.
 */
#ifndef STACKSAMPLE_LEDGER_PRIV_H
#define STACKSAMPLE_LEDGER_PRIV_H

#include "stacksample/context.h"
#include "stacksample/engine.h"

/* ---- exact shares --------------------------------------------------------------- */

/* Divides `total` in proportion to parts that sum up to `sum` (which must not be
 * less than total for the shares to stay within their parts): whole nanoseconds,
 * and exactly `total` together. */
struct ss_spread {
  uint64_t total, sum;
  uint64_t seen, given;
};
static inline uint64_t ss_spread_next(struct ss_spread *s, uint64_t part)
{
  if (s->sum == 0)
    return 0;
  s->seen += part;
  uint64_t upto = (uint64_t)((unsigned __int128)s->total * s->seen / s->sum);
  uint64_t share = upto - s->given;
  s->given = upto;
  return share;
}

static inline uint64_t ss_less(uint64_t a, uint64_t b) /* a - b, not below 0 */
{
  return a > b ? a - b : 0;
}

static inline uint64_t ss_in_proportion(uint64_t ns, uint64_t part, uint64_t whole)
{
  return whole == 0 ? 0 : (uint64_t)((unsigned __int128)ns * part / whole);
}

/* ---- CPU time, to be divided ---------------------------------------------------- */

enum ss_cpu_kind { SS_CPU_USER, SS_CPU_KERNEL, SS_CPU_SPIN, SS_CPU_KINDS };

struct ss_cpu_row {
  uint32_t thread, phase;
  uint64_t cpu_ns;
  uint64_t samples[SS_CPU_KINDS];
  uint64_t left, weight; /* while it is divided */
};
/* CPU time that is divided as one: enough of it for shares to mean something. */
struct ss_cpu_block {
  struct ss_cpu_row *rows;
  size_t count, cap;
  uint64_t cpu_ns;
  uint64_t samples[SS_CPU_KINDS];
  uint64_t ticks; /* samples that would have come, were none hidden */
  int64_t carry;  /* hidden samples owed by earlier blocks, never above 0 */
};

/* ---- waiting time, to be divided ------------------------------------------------ */

struct ss_wait_part { /* a wait that was looked at, or a piece of it */
  size_t row;         /* of the thread's window */
  struct ss_wait wait;
  uint64_t end_ns;
  uint64_t ns;     /* its own length */
  uint64_t others; /* its weight for waits that no look met */
};
struct ss_waits { /* rows ascending */
  struct ss_wait_part *parts;
  size_t count, cap;
};
struct ss_unlooked {  /* waits that no look met */
  uint64_t short_ns;  /* too short for it: others like them were met */
  uint64_t count;     /* of the short ones */
  uint64_t missed_ns; /* long enough: it failed */
};
struct ss_waits_of { /* one row */
  struct ss_ledger *ledger;
  uint32_t thread, phase;
  size_t row;
};
bool ss_waits_add(struct ss_waits *w, const struct ss_wait_part *part);
/* The same, together with the last one where that is the same wait. */
void ss_waits_share(struct ss_waits *w, const struct ss_wait_part *part);
/* Divides `off_ns` of a row among its parts; what they cannot stand for is
 * returned. `off_ns` may differ from what was added: the kernel's figures decide. */
uint64_t ss_waits_emit(struct ss_waits *w, const struct ss_waits_of *of, uint64_t off_ns,
                       const struct ss_unlooked *unlooked);
void ss_waits_release(struct ss_waits *w);

/* --------------------------------------------------------------------------------- */

struct ss_ledger {
  uint64_t period_ns;
  bool kernel_samples, switches;
  ss_ledger_emit *emit;
  ss_ledger_emit_wait *emit_wait; /* NULL: nobody looks */
  void *arg;
  uint64_t rounds;                  /* of looks */
  struct ss_ledger_thread *threads; /* living */
  uint64_t living, ended;
  uint64_t gap_ns; /* the last one's time, 0: none */
  /* What the readings had more than the switches: the cost of the switches. */
  int64_t extra_ns;
  uint64_t extra_outs;
  struct ss_cpu_block pool;       /* of threads that ended too early */
  uint64_t divided[SS_CPU_KINDS]; /* samples of all blocks so far */
};

/* ---- one thread ------------------------------------------------------------------ */

struct ss_ledger_row { /* of one phase, ns */
  uint32_t phase;
  uint64_t on, preempted, off, stopped, unknown;
  uint64_t samples[SS_CPU_KINDS];
  struct ss_unlooked unlooked; /* of off */
};

struct ss_ledger_reading {
  bool set;
  uint64_t time_ns, cpu_ns, runqueue_ns;
};

struct ss_ledger_thread {
  struct ss_ledger *ledger;
  struct ss_ledger_thread *next, **link;
  uint32_t id;
  /* The open interval. */
  uint64_t since_ns;
  uint32_t phase;
  bool on, preempted, stopped;
  bool unsure; /* a record of it is missing */
  bool looked; /* waiting, and this is the look at it: */
  struct ss_wait wait;
  uint64_t look_ns; /* that the look stands for, while not accounted */
  uint64_t rounds;  /* the ledger's count when the interval began */
  bool switches;    /* records of its switches come */
  /* The window. */
  uint64_t window_ns; /* its start */
  struct ss_ledger_row *rows;
  size_t count, cap;
  struct ss_waits waits; /* of its rows */
  size_t open;           /* the last of them: pieces of this wait before any look */
  /* All settled so far. */
  uint64_t cpu_ns, runnable_ns;
  uint64_t stolen_ns;               /* of runnable_ns: the kernel does not count it so */
  struct ss_ledger_reading base;    /* at birth */
  struct ss_ledger_reading pending; /* until records up to its time have come */
  struct ss_cpu_block block;
  uint64_t outs;           /* switches in the window, each of which costs */
  uint64_t waits_begun;    /* of them: by its own will */
  uint64_t wake_ns, wakes; /* of all readings: from wakeup to CPU, and how often */
  /* The event's own clock: time on a CPU with its switches, stolen time included. */
  uint64_t clock_ns, ticks;
  uint64_t ended; /* the ledger's count when ticks were last taken */
};

static inline size_t ss_ledger_row_index(const struct ss_ledger_thread *t,
                                         const struct ss_ledger_row *row)
{
  return (size_t)(row - t->rows);
}

/* Makes states of the window; `reading` may be NULL. */
void ss_ledger_settle(struct ss_ledger_thread *t, const struct ss_ledger_reading *reading,
                      bool last);
/* The wait is over, or its window is, without a look. */
void ss_ledger_drop_open(struct ss_ledger_thread *t);

/* Adds CPU time; out of memory it is emitted as user time. */
void ss_cpu_block_add(struct ss_ledger *l, struct ss_cpu_block *block,
                      const struct ss_cpu_row *row);
bool ss_cpu_block_ripe(const struct ss_cpu_block *block, uint64_t ticks);
void ss_cpu_block_divide(struct ss_ledger *l, struct ss_cpu_block *block);
/* Moves what a thread leaves into the pool; the block is empty afterwards. */
void ss_cpu_pool_add(struct ss_ledger *l, struct ss_cpu_block *block);
void ss_cpu_block_release(struct ss_cpu_block *block);

#endif
