/*
 * Parts of src/context that its tests share.
 */
#ifndef STACKSAMPLE_CONTEXT_PRIV_H
#define STACKSAMPLE_CONTEXT_PRIV_H

#include <stddef.h>

#include "stacksample/context.h"

/* The text of native_functions.yaml; NULL when out of memory. */
struct ss_overloads *ss_overloads_parse(const char *text, size_t len);

/* ---- environ ---------------------------------------------------------------- */

/* What a pass over a target's environ array found. */
struct ss_env_scan {
  uint64_t test_slot;     /* PYTEST_CURRENT_TEST; 0: not set */
  uint64_t worker_string; /* PYTEST_XDIST_WORKER; 0: not set */
  bool version;           /* PYTEST_VERSION is set */
  uint32_t count;         /* slots before the NULL */
  uint64_t last;          /* pointer in the last of them, 0: none */
  unsigned reads;         /* of target memory: what it cost */
};
#define SS_TEST_NAME "PYTEST_CURRENT_TEST="
/* Looks through the slots from index `from` on. false: the array could not be
 * read to its NULL (it is being moved), nothing is known. */
bool ss_env_scan(const struct ss_mem *mem, uint64_t array, uint32_t from,
                 struct ss_env_scan *out);
/* Bytes of the string at `addr` up to its NUL, at most `cap`; *whole tells
 * whether the NUL was reached. */
size_t ss_env_string(const struct ss_mem *mem, uint64_t addr, char *buf, size_t cap,
                     bool *whole);
/* Finds the variable `environ` that the target's C library uses; 0: none. */
uint64_t ss_environ_locate(const struct ss_unwind_space *space);

#endif
