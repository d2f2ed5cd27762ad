/*
 * What the checks of `stacksample doctor` share. Each check tries the real
 * thing on processes that doctor starts itself, and fills one row.
 */
#ifndef STACKSAMPLE_DOCTOR_H
#define STACKSAMPLE_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/engine.h"
#include "stacksample/limits.h"

enum ss_works { SS_WORKS_YES, SS_WORKS_PART, SS_WORKS_NO, SS_WORKS_SKIP };

struct ss_doctor_row {
  enum ss_works works;
  char what[256]; /* the check's own name, where it holds a path */
  char gives[320];
  char fix[320]; /* one command or step; "" where nothing is to be done */
};

struct ss_doctor {
  /* A child that burns 50 ms of CPU time for each byte it is sent. */
  pid_t child;
  int go, done;
  bool perf, ptrace;
  struct ss_perf_facts facts; /* where perf */
  char libtorch[SS_PATH_MAX]; /* found by the Python check; "" */
};

/* doctor_perf.c */
void ss_doctor_perf(struct ss_doctor *d, struct ss_doctor_row *row);
void ss_doctor_kernel(struct ss_doctor *d, struct ss_doctor_row *row);
void ss_doctor_ptrace(struct ss_doctor *d, struct ss_doctor_row *row);
void ss_doctor_rings(struct ss_doctor *d, struct ss_doctor_row *row);
/* doctor_python.c */
void ss_doctor_python(struct ss_doctor *d, struct ss_doctor_row *row);
void ss_doctor_symbols(struct ss_doctor *d, struct ss_doctor_row *row);

/* A small number in a file of /proc/sys; `missing` where it cannot be read. */
long ss_doctor_sysctl(const char *path, long missing);

#endif
