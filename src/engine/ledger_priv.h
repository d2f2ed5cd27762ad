/*
 * The two halves of the ledger: ledger.c keeps a thread's timeline and decides how
 * much of it was CPU time; ledger_split.c divides that into user, kernel and spin.
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
  if (s->sum == 0) {
    return 0;
  }
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

struct ss_ledger {
  uint64_t period_ns;
  bool kernel_samples, switches;
  ss_ledger_emit *emit;
  void *arg;
  struct ss_ledger_thread *threads; /* living */
  uint64_t living, ended;
  uint64_t gap_ns; /* the last one's time, 0: none */
  /* What the readings had more than the switches: the cost of the switches. */
  int64_t extra_ns;
  uint64_t extra_outs;
  struct ss_cpu_block pool;       /* of threads that ended too early */
  uint64_t divided[SS_CPU_KINDS]; /* samples of all blocks so far */
};

/* Adds CPU time; out of memory it is emitted as user time. */
void ss_cpu_block_add(struct ss_ledger *l, struct ss_cpu_block *block,
                      const struct ss_cpu_row *row);
bool ss_cpu_block_ripe(const struct ss_cpu_block *block, uint64_t ticks);
void ss_cpu_block_divide(struct ss_ledger *l, struct ss_cpu_block *block);
/* Moves what a thread leaves into the pool; the block is empty afterwards. */
void ss_cpu_pool_add(struct ss_ledger *l, struct ss_cpu_block *block);
void ss_cpu_block_release(struct ss_cpu_block *block);

#endif
