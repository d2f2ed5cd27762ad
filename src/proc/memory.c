/*
 * Memory of another process through one bounded reader.
 *
 * Every reader returns how many bytes from the address on could be read, so a
 * read that runs into an unmapped page still yields what lies before it. The
 * kernel promises partial transfers only between iovecs (process_vm_readv(2)),
 * therefore a short read goes on with one iovec a page.
 *
 * It does not cache, and it does not know what the bytes mean.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stacksample/limits.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

enum {
  PAGE_BYTES = 4096, /* the smallest page of any supported machine */
  PAGES_A_CALL = 64
};

size_t ss_mem_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  if (addr != 0 && len > UINT64_MAX - addr + 1)
    len = (size_t)(UINT64_MAX - addr + 1);
  if (len == 0)
    return 0;
  size_t got = mem->read(mem, addr, buf, len);
  return got < len ? got : len;
}

bool ss_mem_get(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  return ss_mem_read(mem, addr, buf, len) == len;
}

bool ss_mem_holds(const struct ss_mem *mem, uint64_t addr, size_t len)
{
  return mem->holds && mem->holds(mem, addr, len);
}

bool ss_mem_u64(const struct ss_mem *mem, uint64_t addr, uint64_t *value)
{
  return ss_mem_get(mem, addr, value, sizeof *value);
}

bool ss_mem_u32(const struct ss_mem *mem, uint64_t addr, uint32_t *value)
{
  return ss_mem_get(mem, addr, value, sizeof *value);
}

/* ---- a live process ------------------------------------------------------ */

/* An address is only a number to us: it belongs to the other process. */
static void *remote(uint64_t addr)
{
  return (void *)(uintptr_t)addr; // NOLINT(performance-no-int-to-ptr)
}

/* A leader that ended has no memory of its own left, its threads still do. */
static bool switch_thread(struct ss_mem_live *live)
{
  pid_t *tids = NULL;
  size_t count = 0;
  bool found = false;
  if (ss_tasks_list(live->pid, &tids, &count) != SS_ERR_OK)
    return false;
  for (size_t i = 0; i < count && !found; i++) {
    unsigned char byte;
    struct iovec local = {&byte, 1}, far = {remote(PAGE_BYTES), 1};
    if (tids[i] == live->via)
      continue;
    /* A thread with memory answers EFAULT for a page that is not mapped. */
    if (ss_process_vm_readv(tids[i], &local, 1, &far, 1) >= 0 || errno == EFAULT) {
      live->via = tids[i];
      found = true;
    }
  }
  free(tids);
  return found;
}

static ssize_t read_once(struct ss_mem_live *live, uint64_t addr, void *buf, size_t len)
{
  struct iovec local = {buf, len}, far = {remote(addr), len};
  ssize_t n = ss_process_vm_readv(live->via, &local, 1, &far, 1);
  if (n < 0 && errno == ESRCH && switch_thread(live))
    n = ss_process_vm_readv(live->via, &local, 1, &far, 1);
  return n;
}

/* Goes on page by page behind what one iovec gave. */
static size_t read_pages(const struct ss_mem_live *live, uint64_t addr,
                         unsigned char *buf, size_t len)
{
  size_t done = 0;
  while (done < len) {
    struct iovec far[PAGES_A_CALL];
    size_t count = 0, bytes = 0;
    while (count < PAGES_A_CALL && done + bytes < len) {
      uint64_t at = addr + done + bytes;
      size_t part = PAGE_BYTES - (size_t)(at % PAGE_BYTES);
      if (part > len - done - bytes)
        part = len - done - bytes;
      far[count++] = (struct iovec){remote(at), part};
      bytes += part;
    }
    struct iovec local = {buf + done, bytes};
    ssize_t n = ss_process_vm_readv(live->via, &local, 1, far, count);
    if (n <= 0)
      break;
    done += (size_t)n;
    if ((size_t)n < bytes)
      break;
  }
  return done;
}

static bool open_mem(struct ss_mem_live *live)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/mem", (int)live->via);
  ss_close(&live->mem_fd);
  live->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
  return live->mem_fd >= 0;
}

/* Reads by the file: its descriptor belongs to the address space of its
 * opening, and reads 0 bytes after an exec. */
static size_t read_file(struct ss_mem_live *live, uint64_t addr, unsigned char *buf,
                        size_t len)
{
  size_t done = 0;
  bool reopened = false;
  if (live->mem_fd < 0 && !open_mem(live)) {
    live->refused = errno == EACCES || errno == EPERM;
    return 0;
  }
  while (done < len && addr + done <= INT64_MAX) {
    size_t part = PAGE_BYTES - (size_t)((addr + done) % PAGE_BYTES);
    if (part > len - done)
      part = len - done;
    ssize_t n = ss_pread_some(live->mem_fd, buf + done, part, addr + done);
    if (n == 0 && done == 0 && !reopened) {
      reopened = true;
      if (open_mem(live))
        continue;
    }
    if (n <= 0)
      break;
    done += (size_t)n;
    if ((size_t)n < part)
      break;
  }
  return done;
}

static size_t live_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  /* `mem` is the first member of an object that is ours and not const. */
  struct ss_mem_live *live = (struct ss_mem_live *)(uintptr_t)mem;
  if (live->refused)
    return 0;
  if (live->mem_fd >= 0)
    return read_file(live, addr, buf, len);
  ssize_t n = read_once(live, addr, buf, len);
  if (n < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES))
    return read_file(live, addr, buf, len);
  if (n < 0 && errno != EFAULT)
    return 0;
  size_t done = n > 0 ? (size_t)n : 0;
  if (done < len)
    done += read_pages(live, addr + done, (unsigned char *)buf + done, len - done);
  return done;
}

void ss_mem_live_init(struct ss_mem_live *live, pid_t pid)
{
  *live = (struct ss_mem_live){
      .mem = {.read = live_read}, .pid = pid, .via = pid, .mem_fd = -1};
}

void ss_mem_live_release(struct ss_mem_live *live)
{
  ss_close(&live->mem_fd);
}

/* ---- spans ---------------------------------------------------------------- */

static const struct ss_span *span_at(const struct ss_mem_spans *m, uint64_t addr)
{
  for (size_t i = 0; i < m->count; i++) {
    const struct ss_span *s = &m->spans[i];
    if (addr >= s->addr && addr - s->addr < s->len)
      return s;
  }
  return NULL;
}

/* How far the reader behind may go before a span begins. */
static size_t gap_len(const struct ss_mem_spans *m, uint64_t addr, size_t len)
{
  for (size_t i = 0; i < m->count; i++) {
    const struct ss_span *s = &m->spans[i];
    if (s->len > 0 && s->addr > addr && s->addr - addr < len)
      len = (size_t)(s->addr - addr);
  }
  return len;
}

static size_t spans_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len)
{
  const struct ss_mem_spans *m = (const struct ss_mem_spans *)mem;
  unsigned char *out = buf;
  size_t done = 0;
  while (done < len) {
    uint64_t at = addr + done;
    const struct ss_span *s = span_at(m, at);
    if (s) {
      size_t off = (size_t)(at - s->addr);
      size_t part = s->len - off < len - done ? s->len - off : len - done;
      memcpy(out + done, s->bytes + off, part);
      done += part;
      continue;
    }
    if (!m->behind)
      break;
    size_t want = gap_len(m, at, len - done);
    size_t got = ss_mem_read(m->behind, at, out + done, want);
    done += got;
    if (got < want)
      break;
  }
  return done;
}

static bool spans_hold(const struct ss_mem *mem, uint64_t addr, size_t len)
{
  const struct ss_mem_spans *m = (const struct ss_mem_spans *)mem;
  for (size_t i = 0; i < m->count; i++) { /* they may overlap */
    const struct ss_span *s = &m->spans[i];
    if (addr >= s->addr && addr - s->addr <= s->len && len <= s->len - (addr - s->addr))
      return true;
  }
  return false;
}

void ss_mem_spans_init(struct ss_mem_spans *m, const struct ss_span *spans, size_t count,
                       const struct ss_mem *behind)
{
  *m = (struct ss_mem_spans){.mem = {.read = spans_read, .holds = spans_hold},
                             .spans = spans,
                             .count = count,
                             .behind = behind};
}

/* ---- read plans ------------------------------------------------------------ */

_Static_assert(sizeof((struct ss_read_plan *)0)->regions / sizeof(struct ss_region) ==
                   SS_PLAN_REGIONS_MAX,
               "the plan's array is the limit");

static size_t plan_count(const struct ss_read_plan *plan)
{
  return plan->count < SS_PLAN_REGIONS_MAX ? plan->count : SS_PLAN_REGIONS_MAX;
}

enum { NAMED_MAX = SS_PLAN_REGIONS_MAX - SS_PLAN_STACK_REGIONS };

void ss_read_plan_add(struct ss_read_plan *plan, uint64_t addr, uint64_t len)
{
  if (plan->count < NAMED_MAX && len > 0 && len <= UINT32_MAX)
    plan->regions[plan->count++] = (struct ss_region){.addr = addr, .len = (uint32_t)len};
}

static void put_first(struct ss_read_plan *plan, uint64_t from, uint64_t end)
{
  memmove(plan->regions + 1, plan->regions, plan->count * sizeof plan->regions[0]);
  plan->regions[0] = (struct ss_region){.addr = from, .len = (uint32_t)(end - from)};
  plan->count++;
}

void ss_read_plan_stack(struct ss_read_plan *plan, uint64_t sp, uint64_t len)
{
  uint64_t from = plan->stack_from, end = plan->stack_end, copied = sp + len;
  if (copied < sp || from >= end || plan->count > NAMED_MAX)
    return;
  if (sp >= end || (copied < end && end - copied > SS_STACK_READ_MAX)) {
    from = end - from > SS_PLAN_DEEP_MAX ? end - SS_PLAN_DEEP_MAX : from;
    plan->regions[plan->count++] =
        (struct ss_region){.addr = from, .len = (uint32_t)(end - from)};
    return;
  }
  if (len < SS_STACK_OVERLAP || copied >= end)
    return;
  const uint64_t joint = copied - SS_STACK_OVERLAP;
  const bool apart = from > copied;
  if (!apart)
    from = joint;
  if (end - from > SS_PLAN_DEEP_MAX + SS_STACK_OVERLAP)
    end = from + SS_PLAN_DEEP_MAX + SS_STACK_OVERLAP;
  put_first(plan, from, end);
  if (apart)
    put_first(plan, joint, copied);
}

size_t ss_read_plan_run(const struct ss_read_plan *plan, pid_t pid, void *buf, size_t cap)
{
  struct iovec far[SS_PLAN_REGIONS_MAX];
  size_t count = 0, bytes = 0;
  for (size_t i = 0; i < plan_count(plan) && bytes < cap; i++) {
    size_t len = plan->regions[i].len;
    if (len > cap - bytes)
      len = cap - bytes;
    far[count++] = (struct iovec){remote(plan->regions[i].addr), len};
    bytes += len;
  }
  if (bytes == 0)
    return 0;
  struct iovec local = {buf, bytes};
  ssize_t n = ss_process_vm_readv(pid, &local, 1, far, count);
  return n > 0 ? (size_t)n : 0;
}

size_t ss_region_spans(const struct ss_region *regions, size_t regions_count,
                       const void *buf, size_t got, struct ss_span *spans, size_t cap)
{
  const unsigned char *bytes = buf;
  size_t count = 0;
  for (size_t i = 0; i < regions_count && count < cap && got > 0; i++) {
    size_t len = regions[i].len < got ? regions[i].len : got;
    if (len == 0)
      continue;
    spans[count++] = (struct ss_span){regions[i].addr, len, bytes};
    bytes += len;
    got -= len;
  }
  return count;
}

size_t ss_read_plan_spans(const struct ss_read_plan *plan, const void *buf, size_t got,
                          struct ss_span *spans, size_t cap)
{
  return ss_region_spans(plan->regions, plan_count(plan), buf, got, spans, cap);
}
