/*
 * tid -> what to read at its samples. One writer at a time (stage 2), one reader
 * per CPU at real-time priority, so a reader may never wait: a real-time thread
 * that spins for a writer on its own CPU would wait for ever. Hence a version
 * number per node, odd while it is written, and a reader that finds it changed does
 * without the plan this once.
 *
 * Nodes are reused but never freed before the end, so a reader that follows a link
 * of a node that moves to another chain meets a wrong chain at worst: it compares
 * the tid, and counts its steps.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine_priv.h"
#include "stacksample/buf.h"
#include "stacksample/limits.h"

enum {
  BUCKETS = 4096, /* as many threads before chains form */
  CHUNK = 64,
  STEPS_MAX = 64, /* of a chain; SS_THREADS_MAX threads make 16 on average */
  TRIES = 4
};

struct node {
  _Atomic uint32_t version;
  _Atomic pid_t pid, tid;
  _Atomic uint32_t count;
  _Atomic uint64_t stack_from, stack_end;
  struct {
    _Atomic uint64_t addr;
    _Atomic uint32_t len;
  } regions[SS_PLAN_REGIONS_MAX];
  _Atomic uint64_t chase[SS_CHASE_WORDS];
  struct node *_Atomic next;
};

struct ss_plans {
  pthread_mutex_t writers;
  struct node *_Atomic buckets[BUCKETS];
  struct node *unused; /* linked by next */
  struct node **chunks;
  size_t count, cap;
};

struct ss_plans *ss_plans_new(void)
{
  struct ss_plans *plans = calloc(1, sizeof *plans);
  if (plans && pthread_mutex_init(&plans->writers, NULL) != 0) {
    free(plans);
    return NULL;
  }
  return plans;
}

void ss_plans_free(struct ss_plans *plans)
{
  if (!plans)
    return;
  for (size_t i = 0; i < plans->count; i++)
    free(plans->chunks[i]);
  free(plans->chunks);
  pthread_mutex_destroy(&plans->writers);
  free(plans);
}

static struct node *unused_node(struct ss_plans *plans)
{
  if (!plans->unused) {
    struct node *chunk = calloc(CHUNK, sizeof *chunk);
    if (!chunk ||
        !ss_grow(&plans->chunks, &plans->cap, plans->count + 1, sizeof *plans->chunks)) {
      free(chunk);
      return NULL;
    }
    plans->chunks[plans->count++] = chunk;
    for (int i = 0; i < CHUNK; i++) {
      atomic_store_explicit(&chunk[i].next, plans->unused, memory_order_relaxed);
      plans->unused = &chunk[i];
    }
  }
  struct node *node = plans->unused;
  plans->unused = atomic_load_explicit(&node->next, memory_order_relaxed);
  return node;
}

static void write_chase(struct node *node, const struct ss_read_plan *plan)
{
  uint64_t words[SS_CHASE_WORDS] = {0};
  if (plan)
    memcpy(words, &plan->chase, sizeof words);
  for (int i = 0; i < SS_CHASE_WORDS; i++)
    atomic_store_explicit(&node->chase[i], words[i], memory_order_relaxed);
}

static void read_chase(const struct node *node, struct ss_read_plan *out)
{
  uint64_t words[SS_CHASE_WORDS];
  for (int i = 0; i < SS_CHASE_WORDS; i++)
    words[i] = atomic_load_explicit(&node->chase[i], memory_order_relaxed);
  memcpy(&out->chase, words, sizeof words);
}

static void write_node(struct node *node, pid_t pid, pid_t tid,
                       const struct ss_read_plan *plan)
{
  uint32_t version = atomic_load_explicit(&node->version, memory_order_relaxed);
  atomic_store_explicit(&node->version, version + 1, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
  atomic_store_explicit(&node->pid, pid, memory_order_relaxed);
  atomic_store_explicit(&node->tid, tid, memory_order_relaxed);
  uint32_t count = plan ? plan->count : 0;
  atomic_store_explicit(&node->count, count, memory_order_relaxed);
  atomic_store_explicit(&node->stack_from, plan ? plan->stack_from : 0,
                        memory_order_relaxed);
  atomic_store_explicit(&node->stack_end, plan ? plan->stack_end : 0,
                        memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    atomic_store_explicit(&node->regions[i].addr, plan->regions[i].addr,
                          memory_order_relaxed);
    atomic_store_explicit(&node->regions[i].len, plan->regions[i].len,
                          memory_order_relaxed);
  }
  write_chase(node, plan);
  atomic_store_explicit(&node->version, version + 2, memory_order_release);
}

static bool read_node(const struct node *node, pid_t pid, pid_t tid,
                      struct ss_read_plan *out)
{
  uint32_t version = atomic_load_explicit(&node->version, memory_order_acquire);
  bool same = atomic_load_explicit(&node->pid, memory_order_relaxed) == pid &&
              atomic_load_explicit(&node->tid, memory_order_relaxed) == tid;
  uint32_t count = atomic_load_explicit(&node->count, memory_order_relaxed);
  out->count = count < SS_PLAN_REGIONS_MAX ? count : SS_PLAN_REGIONS_MAX;
  out->stack_from = atomic_load_explicit(&node->stack_from, memory_order_relaxed);
  out->stack_end = atomic_load_explicit(&node->stack_end, memory_order_relaxed);
  for (uint32_t i = 0; i < out->count; i++) {
    out->regions[i].addr =
        atomic_load_explicit(&node->regions[i].addr, memory_order_relaxed);
    out->regions[i].len =
        atomic_load_explicit(&node->regions[i].len, memory_order_relaxed);
  }
  read_chase(node, out);
  atomic_thread_fence(memory_order_acquire);
  return same && version % 2 == 0 &&
         atomic_load_explicit(&node->version, memory_order_relaxed) == version;
}

static size_t bucket_of(pid_t tid)
{
  return (uint32_t)tid % BUCKETS; /* tids are dense: no mixing needed */
}

static void remove_node(struct ss_plans *plans, struct node *_Atomic *link,
                        struct node *node)
{
  atomic_store(link, atomic_load(&node->next));
  write_node(node, 0, 0, NULL);
  atomic_store(&node->next, plans->unused);
  plans->unused = node;
}

void ss_plans_set(struct ss_plans *plans, pid_t pid, pid_t tid,
                  const struct ss_read_plan *plan)
{
  bool wanted = plan && plan->count <= SS_PLAN_REGIONS_MAX &&
                (plan->count > 0 || plan->stack_end > 0);
  pthread_mutex_lock(&plans->writers);
  struct node *_Atomic *link = &plans->buckets[bucket_of(tid)];
  struct node *node = atomic_load(link);
  while (node && atomic_load(&node->tid) != tid) {
    link = &node->next;
    node = atomic_load(link);
  }
  if (node && wanted) {
    write_node(node, pid, tid, plan);
  } else if (node) {
    remove_node(plans, link, node);
  } else if (wanted && (node = unused_node(plans))) {
    write_node(node, pid, tid, plan);
    struct node *_Atomic *first = &plans->buckets[bucket_of(tid)];
    atomic_store(&node->next, atomic_load(first));
    atomic_store(first, node);
  }
  pthread_mutex_unlock(&plans->writers);
}

bool ss_plans_get(const struct ss_plans *plans, pid_t pid, pid_t tid,
                  struct ss_read_plan *out)
{
  const struct node *node = atomic_load(&plans->buckets[bucket_of(tid)]);
  for (int steps = 0; node && steps < STEPS_MAX; steps++) {
    if (atomic_load_explicit(&node->tid, memory_order_relaxed) == tid) {
      for (int i = 0; i < TRIES; i++)
        if (read_node(node, pid, tid, out))
          return out->count > 0 || out->stack_end > 0;
      return false;
    }
    node = atomic_load(&node->next);
  }
  return false;
}
