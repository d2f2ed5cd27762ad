/*
 * Recorded stacks: what an unwinder needs of a stopped thread, in one file, so
 * that it can be unwound again and again. Written by record_stacks, read by
 * bench_unwind; native byte order, not for keeping.
 */
#ifndef STACKSAMPLE_TESTS_RECORDING_H
#define STACKSAMPLE_TESTS_RECORDING_H

#include <stdint.h>

#include "stacksample/arch.h"

#define RECORDING_MAGIC 0x3143455253530a0du

enum { RECORD_MAPS = 1, RECORD_MEMORY = 2, RECORD_STACK = 3 };

/* Each record: this header, then `len` bytes. MAPS: the text of
 * /proc/PID/maps, valid for what follows. MEMORY: bytes at `addr` (vdso, JIT
 * code). STACK: struct ss_regs, then the stack's bytes from sp on. */
struct record_header {
  uint32_t kind, pid;
  uint64_t addr, len;
};

#endif
