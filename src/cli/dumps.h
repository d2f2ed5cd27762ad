/*
 * Dumps of a run under way, and its ending by our own deadline.
 */
#ifndef STACKSAMPLE_DUMPS_H
#define STACKSAMPLE_DUMPS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/deadline.h"
#include "stacksample/engine.h"
#include "stacksample/output.h"

/* Takes dumps in a thread of its own, so that a target that cannot be read in
 * time holds nothing up. One dump at a time; files are dumps/NNN.txt and .json. */
struct ss_dumps;
struct ss_dumps *ss_dumps_new(const struct ss_bundle *bundle, struct ss_notes *notes,
                              pid_t root, bool no_children);
/* Waits at most `wait_ms` for it to be done; false: still under way. `why` is
 * copied. Skipped, and noted, where an earlier one is under way all that time. */
bool ss_dumps_take(struct ss_dumps *d, const char *why, uint64_t start_ns,
                   unsigned wait_ms);
/* The phase of a test that runs now, for how long dumps say it does. */
void ss_dumps_phase(struct ss_dumps *d, const char *test, uint64_t start_ns);
/* SS_META_DUMPS and the stops of all of them. */
void ss_dumps_store(struct ss_dumps *d, struct ss_store *store);
void ss_dumps_free(struct ss_dumps *d); /* accepts NULL */

/* The ending: signals to every process of the tree that we know of. */
struct ss_ending_tree {
  pid_t root;
  struct ss_identity *known; /* grows from step to step */
  size_t count, cap;
};
/* Adds those of the process tree and those that the pipeline follows (a child
 * whose parent has ended is in no tree any more). */
void ss_ending_collect(struct ss_ending_tree *t, struct ss_pipeline *pipeline);
void ss_ending_interrupt(const struct ss_ending_tree *t); /* INT, once each */
/* ABRT to those that catch it, with their core files switched off first. */
void ss_ending_abort(const struct ss_ending_tree *t);
void ss_ending_kill(const struct ss_ending_tree *t);
void ss_ending_release(struct ss_ending_tree *t);

#endif
