/*
 * Functions in which a thread waits without leaving its CPU: barriers, locks and idle
 * workers of OpenMP, BLAS and pthread, by the names that their sources give them
 * (gcc libgomp/config/linux, LLVM openmp/runtime/src/kmp_wait_release.h, OpenBLAS
 * driver/others/blas_server.c, glibc nptl). What has no name is told by its code.
 */
#include <string.h>

#include "stacksample/context.h"
#include "stacksample/text.h"

struct spin_rule {
  const char *file;     /* how the library's name begins */
  const char *function; /* a part of the symbol, which may be mangled */
};

static const struct spin_rule rules[] = {
    {"libgomp", "gomp_barrier_wait"},
    {"libgomp", "gomp_team_barrier_wait"},
    {"libgomp", "gomp_mutex_lock_slow"},
    {"libgomp", "gomp_sem_wait_slow"},
    {"libgomp", "gomp_ptrlock_get_slow"},
    {"libiomp5", "__kmp_wait_"},
    {"libiomp5", "kmp_flag_"},
    {"libiomp5", "__kmp_hyper_barrier_"},
    {"libiomp5", "__kmp_acquire_"},
    {"libiomp5", "__kmp_yield"},
    {"libiomp5", "__kmp_x86_pause"},
    {"libomp", "__kmp_wait_"},
    {"libomp", "kmp_flag_"},
    {"libomp", "__kmp_hyper_barrier_"},
    {"libomp", "__kmp_acquire_"},
    {"libomp", "__kmp_yield"},
    {"libomp", "__kmp_x86_pause"},
    {"libopenblas", "blas_thread_server"},
    {"libopenblas", "exec_blas_async_wait"},
    {"libscipy_openblas", "blas_thread_server"},
    {"libscipy_openblas", "exec_blas_async_wait"},
    {"libc.so", "pthread_spin_lock"},
    {"libc.so", "sched_yield"},
    {"libc-2", "sched_yield"},
    {"libpthread", "pthread_spin_lock"},
};

bool ss_spin_library(const char *library)
{
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
    if (ss_starts_with(library, rules[i].file))
      return true;
  return false;
}

bool ss_spin_function(const char *library, const char *symbol)
{
  for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
    if (ss_starts_with(library, rules[i].file) && strstr(symbol, rules[i].function))
      return true;
  return false;
}
