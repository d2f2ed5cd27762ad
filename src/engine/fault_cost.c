/*
 * What a page fault costs on this machine, now: measured on memory of our own, since
 * no permission is needed for that, and the machine (a hypervisor's page tables, a
 * busy memory bus) makes it differ by a factor of ten.
 *
 * A fault of a huge page costs a hundred times one of a small page, and an event of
 * perf does not say which it was. How many there are is known of the whole machine
 * only (/proc/vmstat); the run is taken to have had the same share of them as of all
 * faults, which its events count.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hidden.h"
#include "stacksample/sys.h"

enum { SMALL_PAGES = 48, HUGE = 2 << 20, READINGS = 8, OTHERS = 10 };
#define FADE 0.8 /* of what was before, at each update */

static uint64_t faults_so_far(void)
{
  struct rusage usage;
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_minflt : 0;
}

static unsigned char *map(size_t bytes, int advice)
{
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return NULL;
  if (madvise(p, bytes, advice) != 0) {
    munmap(p, bytes);
    return NULL;
  }
  return p;
}

/* CPU time a fault while one byte every `step` is touched; 0: more than so many
 * others came (of our own code and stack, when they are first used). */
static uint64_t touch(volatile unsigned char *p, size_t bytes, size_t step,
                      uint64_t others)
{
  uint64_t want = bytes / step, faults = faults_so_far();
  uint64_t begin = ss_thread_cpu_ns();
  for (size_t at = 0; at < bytes; at += step)
    p[at] = 1;
  uint64_t spent = ss_thread_cpu_ns() - begin;
  uint64_t taken = faults_so_far() - faults;
  return want > 0 && taken >= want && taken <= want + others ? spent / taken : 0;
}

static void measure_small(struct ss_fault_cost *c)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = SMALL_PAGES * page;
  unsigned char *p = map(bytes, MADV_NOHUGEPAGE);
  uint64_t each = p ? touch(p, bytes, page, OTHERS) : 0;
  if (each > 0)
    c->small_ns[c->n_small++ % READINGS] = each;
  if (p)
    munmap(p, bytes);
}

static void measure_huge(struct ss_fault_cost *c)
{
  unsigned char *p = map(2 * (size_t)HUGE, MADV_HUGEPAGE);
  if (!p)
    return;
  unsigned char *aligned = p + (HUGE - (uintptr_t)p % HUGE) % HUGE;
  uint64_t each = touch(aligned, HUGE, HUGE, 0);
  uint64_t faults = faults_so_far();
  ((volatile unsigned char *)aligned)[HUGE / 2] = 1;
  if (each > 0 && faults_so_far() == faults) /* it was one page */
    c->huge_ns[c->n_huge++ % READINGS] = each;
  munmap(p, 2 * (size_t)HUGE);
}

static int by_value(const void *a, const void *b)
{
  const uint64_t *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

static uint64_t median(const uint64_t readings[READINGS], unsigned count)
{
  uint64_t sorted[READINGS];
  unsigned n = count < READINGS ? count : READINGS;
  if (n == 0)
    return 0;
  memcpy(sorted, readings, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, by_value);
  return sorted[n / 2];
}

uint64_t ss_fault_cost_small(const struct ss_fault_cost *c)
{
  return median(c->small_ns, c->n_small);
}

uint64_t ss_fault_cost_huge(const struct ss_fault_cost *c)
{
  return median(c->huge_ns, c->n_huge);
}

uint64_t ss_fault_cost_mean(const struct ss_fault_cost *c)
{
  double huge = c->faults > 0 ? c->huge / c->faults : 0;
  return ss_fault_cost_small(c) + (uint64_t)(huge * (double)ss_fault_cost_huge(c));
}

/* ---- how many of them are huge -------------------------------------------------- */

/* The number behind "NAME " at the start of a line. */
static bool find_number(const char *text, const char *name, uint64_t *out)
{
  size_t len = strlen(name);
  for (const char *line = text; line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, name, len) == 0 && line[len] == ' ') {
      *out = strtoull(line + len + 1, NULL, 10);
      return true;
    }
  }
  return false;
}

bool ss_vmstat_parse(const char *text, uint64_t *faults, uint64_t *huge)
{
  *huge = 0; /* a kernel without huge pages */
  find_number(text, "thp_fault_alloc", huge);
  return find_number(text, "pgfault", faults);
}

static void count_huge(struct ss_fault_cost *c, uint64_t own_faults)
{
  struct ss_buf text = {0};
  uint64_t all, huge;
  if (ss_file_read_all(AT_FDCWD, "/proc/vmstat", 1 << 18, &text, NULL) == SS_ERR_OK &&
      ss_vmstat_parse(ss_buf_str(&text), &all, &huge)) {
    double own = (double)(own_faults - c->own_faults);
    double others = (double)(all - c->all_faults) - own;
    double share = own > 0 ? own / (own + (others > 0 ? others : 0)) : 0;
    c->faults = FADE * c->faults + own;
    c->huge =
        FADE * c->huge + (c->all_faults > 0 ? share * (double)(huge - c->all_huge) : 0);
    c->all_faults = all;
    c->all_huge = huge;
    c->own_faults = own_faults;
  }
  ss_buf_release(&text);
}

void ss_fault_cost_update(struct ss_fault_cost *c, uint64_t own_faults)
{
  count_huge(c, own_faults);
  measure_small(c);
  if (c->huge > 0)
    measure_huge(c);
}
