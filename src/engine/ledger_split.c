/*
 * User, kernel or spin: dividing CPU time by samples.
 *
 * With kernel samples a block is divided as its samples are. Without them they are
 * counted all the same: the timer ticks once a period of CPU time whatever the mode,
 * so ticks that brought no sample were hits in the kernel. Chance moves a tick over
 * the edge of a block; what one block has too many the next one is owed (`carry`),
 * so that over the run only the truth is left.
 *
 * A thread's timer starts with a whole period: one that ends before it has no
 * samples, which says nothing about its mode. Such time is pooled, and divided as
 * the rest of the pool or, failing that, of the run.
 */
#include <stdlib.h>

#include "ledger_priv.h"
#include "stacksample/buf.h"

enum { POOL_TICKS = 50, POOL_ROWS = 4096 };

static void emit(struct ss_ledger *l, const struct ss_cpu_row *row, enum ss_state state,
                 uint64_t ns)
{
  if (ns > 0)
    l->emit(l->arg, row->thread, row->phase, state, ns);
}

void ss_cpu_block_add(struct ss_ledger *l, struct ss_cpu_block *block,
                      const struct ss_cpu_row *row)
{
  bool samples = false;
  for (int i = 0; i < SS_CPU_KINDS; i++) {
    block->samples[i] += row->samples[i];
    samples = samples || row->samples[i] > 0;
  }
  if (row->cpu_ns == 0 && !samples)
    return;
  if (!ss_grow(&block->rows, &block->cap, block->count + 1, sizeof *block->rows)) {
    emit(l, row, SS_STATE_USER, row->cpu_ns);
    return;
  }
  block->rows[block->count++] = *row;
  block->cpu_ns += row->cpu_ns;
}

bool ss_cpu_block_ripe(const struct ss_cpu_block *block, uint64_t ticks)
{
  return block->ticks >= ticks;
}

/* Gives `total` to the rows in proportion to their weights (at most what a row has
 * left); what weights cannot take, in proportion to what is left. */
static void give(struct ss_ledger *l, struct ss_cpu_block *block, enum ss_state state,
                 uint64_t total)
{
  uint64_t weights = 0, left = 0;
  for (size_t i = 0; i < block->count; i++) {
    struct ss_cpu_row *row = &block->rows[i];
    row->weight = row->weight < row->left ? row->weight : row->left;
    weights += row->weight;
    left += row->left;
  }
  uint64_t first = total < weights ? total : weights;
  struct ss_spread by_weight = {.total = first, .sum = weights};
  struct ss_spread by_rest = {.total = total - first, .sum = left - weights};
  for (size_t i = 0; i < block->count; i++) {
    struct ss_cpu_row *row = &block->rows[i];
    uint64_t ns = ss_spread_next(&by_weight, row->weight);
    ns += ss_spread_next(&by_rest, row->left - row->weight);
    emit(l, row, state, ns);
    row->left -= ns;
  }
}

/* Samples of the block, with those that were hidden. */
static void count_samples(const struct ss_ledger *l, struct ss_cpu_block *block,
                          uint64_t out[SS_CPU_KINDS])
{
  for (int i = 0; i < SS_CPU_KINDS; i++)
    out[i] = block->samples[i];
  if (!l->kernel_samples) {
    int64_t seen = (int64_t)(out[SS_CPU_USER] + out[SS_CPU_SPIN]);
    int64_t hidden = (int64_t)block->ticks - seen + block->carry;
    block->carry = hidden < 0 ? hidden : 0;
    out[SS_CPU_KERNEL] = hidden < 0 ? 0 : (uint64_t)hidden;
  }
}

static void weigh_kernel(const struct ss_ledger *l, struct ss_cpu_block *block)
{
  for (size_t i = 0; i < block->count; i++) {
    struct ss_cpu_row *row = &block->rows[i];
    uint64_t seen = row->samples[SS_CPU_USER] + row->samples[SS_CPU_SPIN];
    row->left = row->cpu_ns;
    row->weight = l->kernel_samples ? row->samples[SS_CPU_KERNEL] * l->period_ns
                                    : ss_less(row->cpu_ns, seen * l->period_ns);
  }
}

void ss_cpu_block_divide(struct ss_ledger *l, struct ss_cpu_block *block)
{
  uint64_t n[SS_CPU_KINDS];
  count_samples(l, block, n);
  uint64_t whole = 0;
  for (int i = 0; i < SS_CPU_KINDS; i++) {
    l->divided[i] += n[i];
    whole += n[i];
  }
  for (int i = 0; whole == 0 && i < SS_CPU_KINDS; i++)
    n[i] = l->divided[i];
  whole = n[SS_CPU_USER] + n[SS_CPU_KERNEL] + n[SS_CPU_SPIN];
  weigh_kernel(l, block);
  give(l, block, SS_STATE_KERNEL,
       ss_in_proportion(block->cpu_ns, n[SS_CPU_KERNEL], whole));
  for (size_t i = 0; i < block->count; i++)
    block->rows[i].weight = block->rows[i].samples[SS_CPU_SPIN] * l->period_ns;
  give(l, block, SS_STATE_SPIN, ss_in_proportion(block->cpu_ns, n[SS_CPU_SPIN], whole));
  for (size_t i = 0; i < block->count; i++)
    emit(l, &block->rows[i], SS_STATE_USER, block->rows[i].left);
  *block = (struct ss_cpu_block){
      .rows = block->rows, .cap = block->cap, .carry = block->carry};
}

void ss_cpu_pool_add(struct ss_ledger *l, struct ss_cpu_block *block)
{
  struct ss_cpu_block *pool = &l->pool;
  for (size_t i = 0; i < block->count; i++)
    ss_cpu_block_add(l, pool, &block->rows[i]);
  pool->ticks += block->ticks;
  pool->carry += block->carry;
  ss_cpu_block_release(block);
  if (ss_cpu_block_ripe(pool, POOL_TICKS) || pool->count >= POOL_ROWS)
    ss_cpu_block_divide(l, pool);
}

void ss_cpu_block_release(struct ss_cpu_block *block)
{
  free(block->rows);
  *block = (struct ss_cpu_block){0};
}
