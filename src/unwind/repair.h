/*
 * What the methods for code without unwind information share. Whatever one of them
 * finds is believed only if it is the address behind a call instruction in executable
 * code of a file or a JIT.
 */
#ifndef STACKSAMPLE_UNWIND_REPAIR_H
#define STACKSAMPLE_UNWIND_REPAIR_H

#include "stacksample/limits.h"
#include "unwind_priv.h"

/* The caller that a rule proposes. */
struct ss_caller {
  uint64_t cfa, bp;
  bool bp_known;
  uint64_t own_sp; /* 0, or as in struct ss_walk, if it is elsewhere */
};

static inline bool ss_knows(const struct ss_walk *w, int reg)
{
  return reg >= 0 && (w->known >> reg & 1u) != 0;
}

/* Code bytes from `addr` (run-time) on: of the file, or of the live process. */
size_t ss_code_read(const struct ss_unwinder *u, const struct ss_hit *hit, uint64_t addr,
                    void *buf, size_t len);
/* Is it the address behind a call, in code? *target: where that goes, if it says so;
 * else 0. */
bool ss_is_behind_call(struct ss_unwinder *u, uint64_t ra, uint64_t *target);
/* Can the call before `ra` have come to the frame? The stack is full of addresses that
 * earlier calls have left. */
bool ss_may_have_called(struct ss_unwinder *u, const struct ss_hit *frame, uint64_t ra);
/* Do the next steps from `w` work by unwind tables alone? */
bool ss_goes_on(struct ss_unwinder *u, const struct ss_walk *w);
/* Moves to a caller that a rule proposes, if it can be one. */
enum ss_end ss_accept_caller(struct ss_unwinder *u, struct ss_walk *w,
                             const struct ss_caller *c);
/* The caller by the code from the frame on or, if that does not tell, from the
 * function's start on (run-time; 0: not known). */
enum ss_end ss_step_by_code(struct ss_unwinder *u, struct ss_walk *w,
                            const struct ss_hit *hit, uint64_t start);

/* Is the CFA counted from a register that is not known? */
bool ss_needs_register(const struct ss_walk *w, const struct ss_rule *rule);
/* Such a frame's caller, given its CFA: by the rule, whose register holds then what
 * makes it so. */
enum ss_end ss_step_to_cfa(struct ss_unwinder *u, const struct ss_rule *rule,
                           uint64_t cfa);

#endif
