/*
 * perf records, as bytes. Knows one layout only: that of the attributes which
 * perf_open.c asks for (SS_PERF_SAMPLE_TYPE, with PERF_SAMPLE_STACK_USER or
 * without, sample_id_all). Within it a record describes itself, so decoding needs
 * no state. The kernel is trusted no more than a file: each length is checked.
 *
 * Layouts: include/uapi/linux/perf_event.h, enum perf_event_type.
 */
#include <string.h>
#include <sys/mman.h>

#include "engine_priv.h"
#include "stacksample/cursor.h"
#include "stacksample/hash.h"

enum {
  HEADER = 8,
  TRAILER = 32 /* sample_id: pid+tid, time, cpu, identifier */
};

struct header {
  uint32_t type;
  uint16_t misc, size;
};

static bool read_header(struct ss_cursor *c, size_t len, struct header *h)
{
  h->type = ss_read_u32(c);
  h->misc = ss_read_u16(c);
  h->size = ss_read_u16(c);
  return !c->failed && h->size == len;
}

/* What every record carries: who, when, where. */
struct stamp {
  pid_t pid, tid;
  uint64_t time_ns;
  uint32_t cpu;
};

static void read_stamp(struct ss_cursor *c, struct stamp *s)
{
  s->pid = (pid_t)ss_read_u32(c);
  s->tid = (pid_t)ss_read_u32(c);
  s->time_ns = ss_read_u64(c);
}

/* The sample_id block at the end; leaves in `body` what stands before it. */
static bool split_trailer(const void *bytes, size_t len, struct ss_cursor *body,
                          struct stamp *s)
{
  if (len < HEADER + TRAILER)
    return false;
  struct ss_cursor whole = ss_cursor_init(bytes, len);
  struct ss_cursor tail = ss_cursor_sub(&whole, len - TRAILER, TRAILER);
  read_stamp(&tail, s);
  s->cpu = ss_read_u32(&tail);
  *body = ss_cursor_sub(&whole, HEADER, len - HEADER - TRAILER);
  return !tail.failed && !body->failed;
}

/* ---- samples -------------------------------------------------------------------- */

struct sample_parts {
  struct stamp stamp;
  uint64_t event, ip;
  const unsigned char *chain;
  uint64_t n_chain;
  uint64_t abi;
  const unsigned char *regs;
  size_t stack_at, stack_len;
};

static bool read_stack(struct ss_cursor *c, struct sample_parts *p)
{
  if (c->left == 0) /* opened without PERF_SAMPLE_STACK_USER */
    return true;
  uint64_t size = ss_read_u64(c);
  if (c->failed || size == 0) /* kernel thread, or no room in the record */
    return !c->failed;
  if (size % 8 != 0 || size > c->left)
    return false;
  p->stack_at = ss_cursor_offset(c);
  ss_skip(c, (size_t)size);
  uint64_t valid = ss_read_u64(c);
  /* More valid bytes than there is room for has been seen; take the room. */
  p->stack_len = valid < size ? (size_t)valid : (size_t)size;
  return !c->failed;
}

static bool read_sample(const void *bytes, size_t len, struct sample_parts *p)
{
  *p = (struct sample_parts){0};
  struct ss_cursor c = ss_cursor_init(bytes, len);
  ss_skip(&c, HEADER);
  p->event = ss_read_u64(&c);
  p->ip = ss_read_u64(&c);
  read_stamp(&c, &p->stamp);
  p->stamp.cpu = ss_read_u32(&c);
  ss_skip(&c, 4);
  p->n_chain = ss_read_u64(&c);
  if (c.failed || p->n_chain > c.left / 8)
    return false;
  p->chain = ss_read_bytes(&c, (size_t)p->n_chain * 8);
  p->abi = ss_read_u64(&c);
  if (p->abi != PERF_SAMPLE_REGS_ABI_NONE)
    p->regs = ss_read_bytes(&c, SS_REG_COUNT * 8);
  return !c.failed && read_stack(&c, p);
}

/* The kernel's part of a call chain: between its context marker and the next. */
static void kernel_chain(const struct sample_parts *p, struct ss_record *out)
{
  struct ss_cursor c = ss_cursor_init(p->chain, (size_t)p->n_chain * 8);
  bool inside = false;
  while (c.left >= 8) {
    const unsigned char *at = c.cur;
    uint64_t ip = ss_read_u64(&c);
    if (ip >= PERF_CONTEXT_MAX) {
      if (inside)
        return;
      inside = ip == PERF_CONTEXT_KERNEL;
      out->u.sample.kernel_ips = inside ? at + 8 : NULL;
    } else if (inside) {
      out->u.sample.n_kernel++;
    }
  }
}

static void set_stamp(struct ss_record *out, const struct stamp *s)
{
  out->pid = s->pid;
  out->tid = s->tid;
  out->time_ns = s->time_ns;
  out->cpu = s->cpu;
}

static bool decode_sample(const void *bytes, size_t len, const struct header *h,
                          struct ss_record *out)
{
  struct sample_parts p;
  if (!read_sample(bytes, len, &p))
    return false;
  set_stamp(out, &p.stamp);
  out->u.sample.event = p.event;
  out->u.sample.ip = p.ip;
  out->u.sample.kernel =
      (h->misc & PERF_RECORD_MISC_CPUMODE_MASK) == PERF_RECORD_MISC_KERNEL;
  kernel_chain(&p, out);
  if (p.abi == PERF_SAMPLE_REGS_ABI_64) {
    struct ss_cursor regs = ss_cursor_init(p.regs, SS_REG_COUNT * 8);
    for (int i = 0; i < SS_REG_COUNT; i++)
      out->u.sample.regs.r[i] = ss_read_u64(&regs);
    out->u.sample.has_regs = true;
  }
  if (p.stack_at != 0) {
    out->u.sample.stack = (const unsigned char *)bytes + p.stack_at;
    out->u.sample.stack_len = p.stack_len;
  }
  return true;
}

/* ---- the others ----------------------------------------------------------------- */

static bool decode_mmap(struct ss_cursor *c, const struct header *h,
                        struct ss_record *out)
{
  struct ss_map *map = &out->u.mmap.map;
  out->pid = (pid_t)ss_read_u32(c);
  out->tid = (pid_t)ss_read_u32(c);
  map->start = ss_read_u64(c);
  uint64_t len = ss_read_u64(c);
  map->offset = ss_read_u64(c);
  map->path = SS_ID_NONE;
  map->prot = SS_PROT_READ | SS_PROT_EXEC;
  if (h->type == PERF_RECORD_MMAP2) {
    map->dev_major = ss_read_u32(c);
    map->dev_minor = ss_read_u32(c);
    map->inode = ss_read_u64(c);
    ss_skip(c, 8); /* inode generation */
    map->prot = ss_read_u32(c) & (PROT_READ | PROT_WRITE | PROT_EXEC);
    ss_skip(c, 4); /* flags */
  }
  out->u.mmap.path = ss_read_cstr(c);
  out->u.mmap.exec = (h->misc & PERF_RECORD_MISC_MMAP_DATA) == 0;
  bool sane = len > 0 && map->start + len > map->start;
  map->end = map->start + len;
  out->type = SS_REC_MMAP;
  return !c->failed && sane;
}

static bool decode_comm(struct ss_cursor *c, const struct header *h,
                        struct ss_record *out)
{
  out->pid = (pid_t)ss_read_u32(c);
  out->tid = (pid_t)ss_read_u32(c);
  out->u.comm.comm = ss_read_cstr(c);
  out->u.comm.exec = (h->misc & PERF_RECORD_MISC_COMM_EXEC) != 0;
  out->type = SS_REC_COMM;
  return !c->failed;
}

/* pid and tid are the child's at a fork; the stamp says who forked. */
static bool decode_task(struct ss_cursor *c, const struct header *h,
                        struct ss_record *out)
{
  out->pid = (pid_t)ss_read_u32(c);
  out->u.task.ppid = (pid_t)ss_read_u32(c);
  out->tid = (pid_t)ss_read_u32(c);
  out->u.task.ptid = (pid_t)ss_read_u32(c);
  ss_skip(c, 8); /* the time again */
  out->type = h->type == PERF_RECORD_FORK ? SS_REC_FORK : SS_REC_EXIT;
  return !c->failed;
}

static bool decode_switch(struct ss_cursor *c, const struct header *h,
                          struct ss_record *out)
{
  (void)c;
  out->u.sw.out = (h->misc & PERF_RECORD_MISC_SWITCH_OUT) != 0;
  out->u.sw.preempted =
      out->u.sw.out && (h->misc & PERF_RECORD_MISC_SWITCH_OUT_PREEMPT) != 0;
  out->type = SS_REC_SWITCH;
  return true;
}

static bool decode_lost(struct ss_cursor *c, const struct header *h,
                        struct ss_record *out)
{
  if (h->type == PERF_RECORD_LOST)
    ss_skip(c, 8); /* event id */
  out->u.lost.count = ss_read_u64(c);
  out->type = SS_REC_LOST;
  return !c->failed;
}

static bool decode_throttle(struct ss_cursor *c, const struct header *h,
                            struct ss_record *out)
{
  (void)c;
  out->type = h->type == PERF_RECORD_THROTTLE ? SS_REC_THROTTLE : SS_REC_OTHER;
  return true;
}

typedef bool decode_fn(struct ss_cursor *body, const struct header *h,
                       struct ss_record *out);
static const struct kind {
  decode_fn *decode;
  enum ss_record_rank rank;
} kinds[] = {
    [PERF_RECORD_MMAP] = {decode_mmap, SS_RANK_MMAP},
    [PERF_RECORD_MMAP2] = {decode_mmap, SS_RANK_MMAP},
    [PERF_RECORD_COMM] = {decode_comm, SS_RANK_COMM},
    [PERF_RECORD_FORK] = {decode_task, SS_RANK_FORK},
    [PERF_RECORD_EXIT] = {decode_task, SS_RANK_EXIT},
    [PERF_RECORD_SWITCH] = {decode_switch, SS_RANK_REST},
    [PERF_RECORD_LOST] = {decode_lost, SS_RANK_REST},
    [PERF_RECORD_LOST_SAMPLES] = {decode_lost, SS_RANK_REST},
    [PERF_RECORD_THROTTLE] = {decode_throttle, SS_RANK_REST},
    [PERF_RECORD_UNTHROTTLE] = {decode_throttle, SS_RANK_REST},
};

static const struct kind *kind_of(uint32_t type)
{
  bool known = type < sizeof kinds / sizeof kinds[0] && kinds[type].decode;
  return known ? &kinds[type] : NULL;
}

bool ss_record_decode(const void *bytes, size_t len, struct ss_record *out)
{
  *out = (struct ss_record){.type = SS_REC_OTHER};
  struct ss_cursor c = ss_cursor_init(bytes, len);
  struct header h;
  if (!read_header(&c, len, &h))
    return false;
  if (h.type == PERF_RECORD_SAMPLE) {
    out->type = SS_REC_SAMPLE;
    return decode_sample(bytes, len, &h, out);
  }
  const struct kind *kind = kind_of(h.type);
  struct ss_cursor body;
  struct stamp stamp;
  if (!kind || !split_trailer(bytes, len, &body, &stamp))
    return false;
  set_stamp(out, &stamp);
  return kind->decode(&body, &h, out);
}

/* ---- for stage 1 ---------------------------------------------------------------- */

bool ss_record_peek(const void *bytes, size_t len, struct ss_record_peek *out)
{
  *out = (struct ss_record_peek){.rank = SS_RANK_REST, .compact_len = len};
  struct ss_cursor c = ss_cursor_init(bytes, len);
  struct header h;
  struct stamp stamp;
  if (!read_header(&c, len, &h))
    return false;
  out->type = h.type;
  if (h.type == PERF_RECORD_SAMPLE) {
    struct sample_parts p;
    if (!read_sample(bytes, len, &p))
      return false;
    stamp = p.stamp;
    out->stack_at = p.stack_at;
    out->stack_len = p.stack_len;
    if (p.abi == PERF_SAMPLE_REGS_ABI_64)
      memcpy(&out->sp, p.regs + SS_REG_SP * sizeof out->sp, sizeof out->sp);
    if (p.stack_at != 0)
      out->compact_len = p.stack_at + (p.stack_len + 7) / 8 * 8 + 8;
  } else {
    struct ss_cursor body;
    const struct kind *kind = kind_of(h.type);
    if (!split_trailer(bytes, len, &body, &stamp))
      return false;
    out->rank = kind ? kind->rank : SS_RANK_REST;
    out->out =
        h.type == PERF_RECORD_SWITCH && (h.misc & PERF_RECORD_MISC_SWITCH_OUT) != 0;
    struct ss_record lost;
    if (kind && kind->decode == decode_lost && decode_lost(&body, &h, &lost))
      out->lost = lost.u.lost.count;
  }
  out->pid = stamp.pid;
  out->tid = stamp.tid;
  out->time_ns = stamp.time_ns;
  return true;
}

static void put_u64(unsigned char *to, uint64_t value)
{
  memcpy(to, &value, sizeof value);
}

static void put_header(unsigned char *to, uint32_t type, uint16_t misc, size_t size)
{
  struct perf_event_header h = {type, misc, (uint16_t)size};
  memcpy(to, &h, sizeof h);
}

void ss_record_compact(const void *bytes, size_t len, const struct ss_record_peek *peek,
                       unsigned char *to)
{
  if (peek->compact_len == len) {
    memcpy(to, bytes, len);
    return;
  }
  size_t end = peek->compact_len - 8;
  memcpy(to, bytes, end);
  put_u64(to + peek->stack_at - 8, end - peek->stack_at);
  put_u64(to + end, peek->stack_len);
  struct perf_event_header h;
  memcpy(&h, bytes, sizeof h);
  put_header(to, h.type, h.misc, peek->compact_len);
}

size_t ss_record_make_lost(unsigned char *to, size_t cap, uint64_t count,
                           uint64_t time_ns, uint32_t cpu)
{
  size_t len = HEADER + 16 + TRAILER;
  if (cap < len)
    return 0;
  memset(to, 0, len);
  put_header(to, PERF_RECORD_LOST, 0, len);
  put_u64(to + HEADER + 8, count);
  put_u64(to + HEADER + 16 + 8, time_ns);
  memcpy(to + HEADER + 16 + 16, &cpu, sizeof cpu);
  return len;
}
