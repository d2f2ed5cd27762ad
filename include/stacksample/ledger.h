/*
 * The ledger: a thread's life in states. Fed by stage 2 in time order, thread by
 * thread; emits (phase, state, ns) so that the sum over states is the life, exactly,
 * with what is not known as UNKNOWN.
 */
#ifndef STACKSAMPLE_LEDGER_H
#define STACKSAMPLE_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "stacksample/context.h"

struct ss_ledger; /* of one run: pools what single threads are too short for */
struct ss_ledger_thread;
typedef void ss_ledger_emit(void *arg, uint32_t thread, uint32_t phase,
                            enum ss_state state, uint64_t ns);
struct ss_ledger *ss_ledger_new(uint64_t period_ns, bool kernel_samples, bool switches,
                                ss_ledger_emit *emit, void *arg);
void ss_ledger_free(struct ss_ledger *l);

/* What a look at a waiting thread found. */
struct ss_wait {
  uint32_t stack; /* in the store; its leaf is the wait's reason */
  uint8_t state, end, method, merge;
};
typedef void ss_ledger_emit_wait(void *arg, uint32_t thread, uint32_t phase,
                                 const struct ss_wait *wait, uint64_t end_ns,
                                 uint64_t ns);
/* From now on waiting time is divided among looks; what none stands for is
 * UNKNOWN. Without this it is WAIT. */
void ss_ledger_waits(struct ss_ledger *l, ss_ledger_emit_wait *emit_wait);
/* Every waiting thread whose wait had no look has had its chance. */
void ss_ledger_round(struct ss_ledger *l);
/* The thread was seen waiting at time_ns. Where it is not waiting by its switch
 * records, or its wait had a look, this changes nothing. `stands_for_ns`: the time
 * between two such looks. */
void ss_ledger_look(struct ss_ledger_thread *t, uint64_t time_ns,
                    const struct ss_wait *wait, uint64_t stands_for_ns);
/* `thread` is the store's id. `phase` may be SS_ID_NONE. */
struct ss_ledger_thread *ss_ledger_birth(struct ss_ledger *l, uint32_t thread,
                                         uint32_t phase, uint64_t time_ns, bool on_cpu);
/* The kernel's figures at that moment, where the thread is older (attach). */
void ss_ledger_base(struct ss_ledger_thread *t, uint64_t cpu_ns, uint64_t runqueue_ns);
void ss_ledger_switch(struct ss_ledger_thread *t, uint64_t time_ns, bool out,
                      bool preempted);
/* From now on no switch records of it come (or they do again): its shape comes from
 * samples and looks. `on_cpu` is not known then. */
void ss_ledger_blind(struct ss_ledger_thread *t, uint64_t time_ns, bool blind);
void ss_ledger_sample(struct ss_ledger_thread *t, uint64_t time_ns, enum ss_state state);
void ss_ledger_phase(struct ss_ledger_thread *t, uint64_t time_ns, uint32_t phase);
void ss_ledger_stopped(struct ss_ledger_thread *t, uint64_t time_ns, bool stopped);
/* The kernel's own figures (schedstat), read at time_ns: CPU time, and time
 * runnable but not running, both since the thread's birth. */
void ss_ledger_schedstat(struct ss_ledger_thread *t, uint64_t time_ns, uint64_t cpu_ns,
                         uint64_t runqueue_ns);
/* Time on a CPU so far, as the thread's timer counts it. */
uint64_t ss_ledger_clock_ns(const struct ss_ledger_thread *t);
/* What leaving a CPU `outs` times costs beyond the time between switches, as measured so
 * far: where a reading had more CPU time than the switches before it. */
uint64_t ss_ledger_switch_cost_ns(const struct ss_ledger *l, uint64_t outs);
/* Settles what a thread that only waits has since long: all records before `time_ns`
 * have been told. Seldom called: a thread costs a row each time. */
void ss_ledger_settle_idle(struct ss_ledger *l, uint64_t time_ns);
/* It has been without records since what was told of it last. */
void ss_ledger_unrecorded(struct ss_ledger_thread *t, uint64_t time_ns);
/* Records were lost around here: intervals that span this are unknown. */
void ss_ledger_gap(struct ss_ledger *l, uint64_t time_ns);
/* Ends it, emits the rest, frees it. CPU time as accounted, for the thread row. */
uint64_t ss_ledger_end(struct ss_ledger_thread *t, uint64_t time_ns);
/* Emits what pooling still holds; call after the last thread's end. */
void ss_ledger_flush(struct ss_ledger *l);

#endif
