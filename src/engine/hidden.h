/*
 * Where kernel time went that no sample may show (perf_event_paranoid 2).
 *
 * The ledger knows how much there was, late and per phase of a thread. What was seen
 * of the thread meanwhile says where: page faults with their stacks, each standing
 * for so many; and user-mode samples, between which the timer ticked unseen. These
 * moments wait here until the ledger speaks; then its time is divided among them.
 *
 * Key invariant: rows of exactly the ledger's time are stored, whatever the moments
 * were; what none of them explains is the root "[kernel: unknown]".
 */
#ifndef STACKSAMPLE_HIDDEN_H
#define STACKSAMPLE_HIDDEN_H

#include "stacksample/store.h"

struct ss_hidden;

struct ss_hidden_moment { /* a thread seen in user mode */
  uint32_t thread, phase; /* in the store */
  uint32_t stack;         /* in the store; SS_ID_NONE: none */
  uint8_t end;            /* enum ss_end */
  uint64_t time_ns;
  uint64_t clock_ns; /* ss_ledger_clock_ns */
};
struct ss_hidden_counts {
  uint64_t faults;        /* counted by the events */
  uint64_t fault_ns;      /* hidden time given to page faults, */
  uint64_t placed_ns;     /* to stacks around it, */
  uint64_t unknown_ns;    /* to none */
  uint64_t fault_cost_ns; /* of a small page, as measured; 0: not */
  uint64_t huge_cost_ns;  /* of a huge one */
};

/* `measure` finds what faults cost, now and then: ss_fault_cost_update. */
struct ss_fault_cost;
typedef void ss_fault_measure(struct ss_fault_cost *c, uint64_t own_faults);
struct ss_hidden *ss_hidden_new(struct ss_store *store, uint64_t period_ns,
                                ss_fault_measure *measure);
void ss_hidden_free(struct ss_hidden *h);
/* The timer ticked in user mode: ticks since the last time were hidden ones. */
void ss_hidden_sample(struct ss_hidden *h, const struct ss_hidden_moment *m);
/* A page fault, standing for `faults` of them. */
void ss_hidden_fault(struct ss_hidden *h, const struct ss_hidden_moment *m,
                     uint64_t faults);
/* The ledger's word: so much kernel time of the thread in this phase. It speaks of one
 * stretch of time in several words; ss_hidden_settle, called when it is through,
 * divides their sum. */
void ss_hidden_settle(struct ss_hidden *h);
void ss_hidden_time(struct ss_hidden *h, uint32_t thread, uint32_t phase, uint64_t ns);
/* Measures again, now and then, what a page fault costs here. */
void ss_hidden_tick(struct ss_hidden *h, uint64_t now_ns);
void ss_hidden_counts(const struct ss_hidden *h, struct ss_hidden_counts *out);

/* ---- what a page fault costs: fault_cost.c -------------------------------------- */

struct ss_fault_cost {
  uint64_t small_ns[8], huge_ns[8]; /* the newest readings */
  unsigned n_small, n_huge;         /* ever taken */
  /* Of /proc/vmstat, and the run's own, at the last update. */
  uint64_t all_faults, all_huge, own_faults;
  double faults, huge; /* the run's of late */
};
/* `own_faults`: counted in the run so far. Measures, by CPU time of this thread. */
void ss_fault_cost_update(struct ss_fault_cost *c, uint64_t own_faults);
/* The median of the newest readings of each; 0: none. */
uint64_t ss_fault_cost_small(const struct ss_fault_cost *c);
uint64_t ss_fault_cost_huge(const struct ss_fault_cost *c);
/* Of one fault of the run, be it of a small page or of a huge one. */
uint64_t ss_fault_cost_mean(const struct ss_fault_cost *c);
/* Faults and those of huge pages in the text of /proc/vmstat. */
bool ss_vmstat_parse(const char *text, uint64_t *faults, uint64_t *huge);

#endif
