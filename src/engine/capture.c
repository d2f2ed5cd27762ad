/*
 * Stage 1: a thread per CPU, pinned to it, that moves records from the ring into a
 * queue and reads what the plan of the sampled thread names, at that moment. It
 * interprets nothing, allocates nothing and writes no message while it runs. The
 * other half, taking records of all CPUs in time order, is order.c.
 *
 * Key invariants: a thread at real-time priority never waits for another thread of
 * ours; what does not fit is counted and leaves a LOST record, in its place in time.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "capture_priv.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

enum { TIMER_MS = 20 /* between looks at a ring that no longer wakes us */ };

/* Counters have one writer: no need for a locked add. */
static void add(_Atomic uint64_t *counter, uint64_t n)
{
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                        memory_order_relaxed);
}

/* ---- moving one record ---------------------------------------------------------- */

size_t ss_capture_plan_bytes(struct ss_cpu *cpu, const struct ss_read_plan *plan)
{
  uint64_t sum = 0;
  for (uint32_t i = 0; i < plan->count; i++)
    sum += plan->regions[i].len;
  if (sum > SS_PLAN_BYTES_MAX) {
    add(&cpu->plans_cut, 1);
    sum = SS_PLAN_BYTES_MAX;
  }
  return (size_t)sum;
}

static size_t round_up(size_t n, size_t to)
{
  return (n + to - 1) / to * to;
}

struct ss_entry *ss_capture_reserve(struct ss_cpu *cpu, size_t len, uint32_t regions,
                                    size_t raw, uint64_t time_ns)
{
  size_t head =
      offsetof(struct ss_entry, plan.regions) + regions * sizeof(struct ss_region);
  size_t size = round_up(head + round_up(len, 8) + raw, 16);
  struct ss_entry *entry = ss_queue_reserve(&cpu->queue, size);
  if (entry) {
    entry->size = (uint32_t)size;
    entry->record_len = (uint32_t)len;
    entry->raw_len = 0;
    entry->chased = 0;
    entry->chased_len = 0;
    entry->rank = SS_RANK_REST;
    entry->own = false;
    entry->time_ns = time_ns;
    entry->read_ns = 0;
    entry->plan.count = regions;
  }
  return entry;
}

/* What was dropped shows up as one LOST record before the next that fits. */
static bool report_dropped(struct ss_cpu *cpu, uint64_t time_ns)
{
  enum { LEN = 64 };
  struct ss_entry *entry = ss_capture_reserve(cpu, LEN, 0, 0, time_ns);
  if (!entry)
    return false;
  entry->record_len =
      (uint32_t)ss_record_make_lost(ss_entry_record(entry), LEN, cpu->dropped, time_ns,
                                    (uint32_t)cpu->reader.ring->cpu);
  ss_queue_commit(&cpu->queue, entry);
  cpu->dropped = 0;
  return true;
}

static void drop(struct ss_cpu *cpu)
{
  cpu->dropped++;
  add(&cpu->queue_full, 1);
  add(&cpu->lost, 1);
}

/* The last part of a queue is kept for what is worse to lose than a sample. */
static bool samples_fit(const struct ss_cpu *cpu)
{
  return ss_queue_used(&cpu->queue) <= SS_QUEUE_BYTES / 8 * 7;
}

/* Bytes that a chase may need in an entry. */
static size_t chase_room(const struct ss_read_plan *plan)
{
  return plan->chase.start != 0
             ? SS_CHASE_REGIONS * sizeof(struct ss_region) + SS_CHASE_BYTES + 16
             : 0;
}

/* Follows the list that begins in what the plan has read, and gives back the room
 * that was not needed. */
static void run_chase(struct ss_cpu *cpu, struct ss_entry *entry,
                      const struct ss_read_plan *plan, const void *record,
                      const struct ss_record_peek *peek)
{
  struct ss_span spans[SS_PLAN_REGIONS_MAX + 1];
  struct ss_mem_spans known;
  struct ss_region *regions = ss_entry_chased(entry);
  struct ss_chased out = {.regions = regions,
                          .bytes = (unsigned char *)(regions + SS_CHASE_REGIONS)};
  size_t count = 0;
  if (peek->sp != 0 && peek->stack_len > 0) {
    spans[count++] = (struct ss_span){peek->sp, peek->stack_len,
                                      (const unsigned char *)record + peek->stack_at};
  }
  count += ss_read_plan_spans(plan, ss_entry_raw(entry), entry->raw_len, spans + count,
                              SS_PLAN_REGIONS_MAX);
  ss_mem_spans_init(&known, spans, count, NULL);
  ss_chase_run(&plan->chase, peek->pid, &known.mem, cpu->capture->seen, entry->read_ns,
               &out);
  memmove(regions + out.count, out.bytes, out.len);
  entry->chased = (uint16_t)out.count;
  entry->chased_len = out.len;
  unsigned char *end = (unsigned char *)(regions + out.count) + out.len;
  entry->size = (uint32_t)round_up((size_t)(end - (unsigned char *)entry), 16);
}

static void read_plan(struct ss_entry *entry, const struct ss_read_plan *plan, size_t raw,
                      pid_t pid)
{
  memcpy(entry->plan.regions, plan->regions, plan->count * sizeof plan->regions[0]);
  entry->read_ns = ss_now_ns();
  entry->raw_len = (uint32_t)ss_read_plan_run(plan, pid, ss_entry_raw(entry), raw);
}

static void move(struct ss_cpu *cpu, const void *bytes, size_t len)
{
  struct ss_record_peek peek;
  if (!ss_record_peek(bytes, len, &peek)) {
    add(&cpu->undecodable, 1);
    return;
  }
  if (ss_hushed_take(cpu, &peek))
    return;
  bool sample = peek.type == PERF_RECORD_SAMPLE;
  add(&cpu->records, 1);
  add(&cpu->samples, sample);
  add(&cpu->lost, peek.lost);
  if (cpu->dropped > 0 && !report_dropped(cpu, peek.time_ns)) {
    drop(cpu);
    return;
  }
  struct ss_read_plan plan = {.count = 0};
  size_t raw = 0;
  /* A thread that is not held off its CPU runs on: what is read then is not exact. */
  bool held = cpu->reader.ring->cpu >= 0;
  if (sample && held && ss_plans_get(cpu->capture->plans, peek.pid, peek.tid, &plan)) {
    ss_read_plan_stack(&plan, peek.sp, peek.stack_len);
    raw = ss_capture_plan_bytes(cpu, &plan);
  }
  uint32_t regions = raw > 0 ? plan.count : 0;
  struct ss_entry *entry = NULL;
  if (!sample || samples_fit(cpu)) {
    entry = ss_capture_reserve(cpu, peek.compact_len, regions,
                               raw + (raw > 0 ? chase_room(&plan) : 0), peek.time_ns);
  }
  if (!entry) {
    drop(cpu);
    return;
  }
  entry->rank = (uint8_t)peek.rank;
  if (raw > 0)
    read_plan(entry, &plan, raw, peek.pid);
  if (raw > 0 && plan.chase.start != 0)
    run_chase(cpu, entry, &plan, bytes, &peek);
  ss_record_compact(bytes, len, &peek, ss_entry_record(entry));
  ss_queue_commit(&cpu->queue, entry);
}

/* ---- the loop ------------------------------------------------------------------- */

void ss_capture_wake_stage_2(struct ss_capture *c)
{
  if (!atomic_exchange(&c->signalled, true)) {
    uint64_t one = 1;
    ss_write_all(c->wake, &one, sizeof one);
  }
}

static void drain(struct ss_cpu *cpu)
{
  struct ss_perf_reader *reader = &cpu->reader;
  uint64_t corrupt = reader->corrupt;
  uint64_t before = ss_now_ns();
  const void *bytes;
  size_t len;
  ss_perf_reader_begin(reader);
  while ((bytes = ss_perf_reader_next(reader, &len))) {
    move(cpu, bytes, len);
    ss_perf_reader_release(reader, len);
    atomic_store_explicit(&cpu->consumed, reader->tail, memory_order_release);
  }
  atomic_store_explicit(&cpu->consumed, reader->tail, memory_order_release);
  atomic_store_explicit(&cpu->drained_ns, before, memory_order_release);
  add(&cpu->undecodable, reader->corrupt - corrupt);
  if (ss_queue_used(&cpu->queue) > SS_QUEUE_BYTES / 16)
    ss_capture_wake_stage_2(cpu->capture);
}

/* Pins this thread and asks for real-time priority; both are wishes. */
static void settle_on_cpu(struct ss_cpu *cpu)
{
  int number = cpu->reader.ring->cpu;
  char name[16];
  snprintf(name, sizeof name, "ss-cpu%d", number);
  pthread_setname_np(pthread_self(), name);
  cpu_set_t *set = number < 0 ? NULL : CPU_ALLOC(SS_CPUS_MAX);
  if (set) {
    size_t bytes = CPU_ALLOC_SIZE(SS_CPUS_MAX);
    CPU_ZERO_S(bytes, set);
    CPU_SET_S((size_t)number, bytes, set);
    if (sched_setaffinity(0, bytes, set) != 0)
      ss_note(cpu->capture->notes, "reader of CPU %d could not be pinned to it", number);
    CPU_FREE(set);
  }
  struct sched_param param = {.sched_priority = 1};
  int policy = SCHED_FIFO | SCHED_RESET_ON_FORK;
  atomic_store(&cpu->fifo, sched_setscheduler(0, policy, &param) == 0);
}

/* Once the ring's first thread has ended its descriptor is always ready (EPOLLHUP);
 * a real-time thread that kept waiting for it would take the CPU. Threads that share
 * the ring may live on, so it is looked at by timer from then on. */
static void take_event(struct ss_cpu *cpu, const struct epoll_event *event, bool *hung_up)
{
  uint64_t count;
  if (event->data.fd == cpu->kick) {
    ss_read_some(cpu->kick, &count, sizeof count);
    atomic_store(&cpu->kicked, false);
  } else if (event->events & (EPOLLHUP | EPOLLERR)) {
    (void)epoll_ctl(cpu->epoll, EPOLL_CTL_DEL, event->data.fd, NULL);
    *hung_up = true;
  }
}

static void *run(void *arg)
{
  struct ss_cpu *cpu = arg;
  struct epoll_event events[2];
  bool stopping = false, hung_up = false;
  settle_on_cpu(cpu);
  while (!stopping) {
    int count = epoll_wait(cpu->epoll, events, 2, hung_up ? TIMER_MS : -1);
    if (count < 0 && errno != EINTR)
      break;
    for (int i = 0; i < count; i++)
      take_event(cpu, &events[i], &hung_up);
    stopping = atomic_load(&cpu->capture->stopping);
    drain(cpu);
    stopping = stopping || (hung_up && cpu->reader.ring->cpu < 0);
  }
  if (cpu->dropped > 0)
    report_dropped(cpu, ss_now_ns());
  atomic_fetch_add(&cpu->own_ns, ss_thread_cpu_ns());
  atomic_store(&cpu->ended, true);
  return NULL;
}

/* ---- start and stop ------------------------------------------------------------- */

/* epoll, because it costs half of what poll does, at every sample. */
static bool open_waiting(struct ss_cpu *cpu)
{
  struct epoll_event ring = {.events = EPOLLIN, .data.fd = cpu->reader.ring->fd};
  struct epoll_event kick = {.events = EPOLLIN};
  kick.data.fd = cpu->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  cpu->epoll = epoll_create1(EPOLL_CLOEXEC);
  return cpu->kick >= 0 && cpu->epoll >= 0 &&
         epoll_ctl(cpu->epoll, EPOLL_CTL_ADD, ring.data.fd, &ring) == 0 &&
         epoll_ctl(cpu->epoll, EPOLL_CTL_ADD, kick.data.fd, &kick) == 0;
}

static enum ss_err start_reader(struct ss_cpu *cpu, struct ss_diag *diag)
{
  struct ss_perf_ring *ring = cpu->reader.ring;
  if (!open_waiting(cpu))
    return ss_fail_errno(diag, "waiting for the ring of CPU %d", ring->cpu);
  atomic_store(&cpu->consumed, ss_perf_ring_tail(ring));
  errno = pthread_create(&cpu->thread, NULL, run, cpu);
  if (errno != 0)
    return ss_fail_errno(diag, "reader of CPU %d", ring->cpu);
  cpu->started = true;
  cpu->has_clock = pthread_getcpuclockid(cpu->thread, &cpu->clock) == 0;
  return SS_ERR_OK;
}

static enum ss_err start_cpu(struct ss_capture *c, struct ss_cpu *cpu,
                             struct ss_perf_ring *ring, struct ss_diag *diag)
{
  cpu->capture = c;
  cpu->reader.ring = ring;
  cpu->reader.scratch = malloc(SS_PERF_RECORD_MAX);
  cpu->kick = cpu->epoll = -1;
  c->cpu_count++; /* from here on ss_capture_free takes care of it */
  if (!cpu->reader.scratch || !ss_queue_init(&cpu->queue, SS_QUEUE_BYTES))
    return ss_fail(diag, SS_ERR_NOMEM, "queue of CPU %d", ring->cpu);
  return start_reader(cpu, diag);
}

/* A ring whose thread has ended, once all of it has been taken. */
static void reap(struct ss_perf *perf, struct ss_cpu *cpu)
{
  if (!cpu->started || !atomic_load(&cpu->ended) || !ss_queue_is_empty(&cpu->queue))
    return;
  pthread_join(cpu->thread, NULL);
  cpu->started = false;
  ss_close(&cpu->epoll);
  ss_close(&cpu->kick);
  ss_perf_unfollow(perf, cpu->reader.ring);
}

static enum ss_err follow(struct ss_capture *c, struct ss_perf *perf, pid_t tid,
                          struct ss_diag *diag)
{
  struct ss_perf_ring *rings, *ring = NULL;
  for (size_t i = 0; i < c->cpu_count; i++)
    reap(perf, &c->cpus[i]);
  enum ss_err err = ss_perf_follow(perf, tid, &ring, diag);
  if (err != SS_ERR_OK || !ring)
    return err;
  (void)ss_perf_rings(perf, &rings);
  struct ss_cpu *cpu = &c->cpus[ring - rings];
  if (cpu == &c->cpus[c->cpu_count])
    return start_cpu(c, cpu, ring, diag);
  cpu->peeked = 0;
  atomic_store(&cpu->kicked, false);
  atomic_store(&cpu->ended, false);
  return start_reader(cpu, diag);
}

enum ss_err ss_capture_follow(struct ss_capture *c, struct ss_perf *perf, pid_t tid,
                              struct ss_diag *diag)
{
  pthread_mutex_lock(&c->following);
  enum ss_err err = atomic_load(&c->stopping) ? SS_ERR_GONE : follow(c, perf, tid, diag);
  pthread_mutex_unlock(&c->following);
  return err;
}

enum ss_err ss_capture_new(struct ss_capture **capture, size_t count,
                           struct ss_notes *notes, struct ss_diag *diag)
{
  struct ss_capture *c = calloc(1, sizeof *c);
  *capture = NULL;
  if (!c)
    return ss_fail(diag, SS_ERR_NOMEM, "capture");
  c->notes = notes;
  pthread_mutex_init(&c->following, NULL);
  c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  c->plans = ss_plans_new();
  c->seen = ss_seen_new();
  c->cpus = aligned_alloc(64, round_up(count * sizeof *c->cpus, 64));
  if (!c->plans || !c->seen || !c->cpus || c->wake < 0) {
    ss_capture_free(c);
    return ss_fail(diag, SS_ERR_NOMEM, "capture");
  }
  memset(c->cpus, 0, count * sizeof *c->cpus);
  *capture = c;
  return SS_ERR_OK;
}

enum ss_err ss_capture_start(struct ss_capture **capture, struct ss_perf *perf,
                             struct ss_notes *notes, struct ss_diag *diag)
{
  struct ss_perf_ring *rings;
  size_t count = ss_perf_rings(perf, &rings);
  struct ss_capture *c = NULL;
  bool per_thread = ss_perf_facts(perf)->per_thread;
  enum ss_err err = ss_capture_new(&c, per_thread ? SS_RINGS_MAX : count, notes, diag);
  *capture = NULL;
  if (err != SS_ERR_OK || !c)
    return err;
  c->facts = ss_perf_facts(perf);
  for (size_t i = 0; err == SS_ERR_OK && i < count; i++)
    err = start_cpu(c, &c->cpus[i], &rings[i], diag);
  if (err != SS_ERR_OK) {
    ss_capture_free(c);
    return err;
  }
  *capture = c;
  return SS_ERR_OK;
}

const struct ss_perf_facts *ss_capture_facts(const struct ss_capture *c)
{
  return c->facts;
}

void ss_capture_kick(struct ss_cpu *cpu)
{
  if (!atomic_exchange(&cpu->kicked, true)) {
    uint64_t one = 1;
    ss_write_all(cpu->kick, &one, sizeof one);
  }
}

void ss_capture_stop(struct ss_capture *c)
{
  pthread_mutex_lock(&c->following);
  atomic_store(&c->stopping, true);
  pthread_mutex_unlock(&c->following);
  ss_tracer_join(c->tracer);
  for (size_t i = 0; i < c->cpu_count; i++) {
    struct ss_cpu *cpu = &c->cpus[i];
    if (cpu->started) {
      atomic_store(&cpu->kicked, false);
      ss_capture_kick(cpu);
      pthread_join(cpu->thread, NULL);
      cpu->started = false;
    }
  }
  atomic_store(&c->stopped, true);
  ss_capture_wake_stage_2(c);
}

void ss_capture_free(struct ss_capture *c)
{
  if (!c)
    return;
  ss_capture_stop(c);
  for (size_t i = 0; i < c->cpu_count; i++) {
    ss_queue_release(&c->cpus[i].queue);
    free(c->cpus[i].reader.scratch);
    ss_close(&c->cpus[i].epoll);
    ss_close(&c->cpus[i].kick);
  }
  ss_tracer_free(c->tracer);
  ss_plans_free(c->plans);
  ss_seen_free(c->seen);
  ss_close(&c->wake);
  pthread_mutex_destroy(&c->following);
  free(c->heap.items);
  free(c->cpus);
  free(c);
}

void ss_capture_set_plan(struct ss_capture *c, pid_t pid, pid_t tid,
                         const struct ss_read_plan *plan)
{
  ss_plans_set(c->plans, pid, tid, plan);
}

struct ss_seen *ss_capture_seen(struct ss_capture *c)
{
  return c->seen;
}

void ss_capture_counts(const struct ss_capture *c, struct ss_capture_counts *out)
{
  *out =
      (struct ss_capture_counts){.fifo = c->cpu_count > 0, .undecodable = c->undecodable};
  for (size_t i = 0; i < c->cpu_count; i++) {
    struct ss_cpu *cpu = &c->cpus[i];
    out->records += atomic_load(&cpu->records);
    out->samples += atomic_load(&cpu->samples);
    out->lost += atomic_load(&cpu->lost);
    out->undecodable += atomic_load(&cpu->undecodable);
    out->queue_full += atomic_load(&cpu->queue_full);
    out->plans_cut += atomic_load(&cpu->plans_cut);
    out->fifo = out->fifo && atomic_load(&cpu->fifo);
    /* The clock of a thread that has ended cannot be read any more. */
    bool runs = cpu->has_clock && !atomic_load(&cpu->ended);
    out->own_cpu_ns += atomic_load(&cpu->own_ns) + (runs ? ss_clock_ns(cpu->clock) : 0);
  }
  if (c->tracer)
    ss_tracer_counts(c->tracer, out);
}
