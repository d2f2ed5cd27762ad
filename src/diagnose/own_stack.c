/*
 * The own stack of a stopped thread whose stack pointer is elsewhere: a matrix kernel
 * points it at its buffer, a signal handler may have a stack of its own. The outer frames
 * are on the thread's own stack and go on as soon as it is let go, so that part of it is
 * copied in the same stop.
 *
 * Where it lies is known from the mappings: [stack] for the first thread, for the others
 * the mapping that ends in what the thread pointer points to (glibc,
 * nptl/allocatestack.c). What is used of it begins at or above the lowest address in it
 * that a register or the memory at the stack pointer holds; one that is left from earlier
 * only costs room.
 */
#include <stdlib.h>
#include <string.h>

#include "look_priv.h"
#include "stacksample/hash.h"

#define OWN_BYTES (256u << 10)

struct range {
  uint64_t start, end;
};

static bool is_in(const struct range *r, uint64_t addr)
{
  return addr >= r->start && addr < r->end;
}

static bool stack_of_leader(const struct ss_maps *maps, struct range *out)
{
  for (size_t i = 0; i < maps->count; i++) {
    const struct ss_map *m = &maps->items[i];
    if (m->path != SS_ID_NONE &&
        strcmp(ss_paths_get(maps->paths, m->path), "[stack]") == 0) {
      *out = (struct range){m->start, m->end};
      return true;
    }
  }
  return false;
}

static bool stack_of_thread(struct ss_maps *maps, pid_t tid, struct range *out)
{
  const struct ss_map *map = NULL;
  uint64_t pointer;

  if (ss_arch_ptrace_thread_pointer(tid, &pointer))
    map = ss_maps_find(maps, pointer);
  if (map == NULL || (map->prot & SS_PROT_WRITE) == 0)
    return false;
  *out = (struct range){map->start, pointer};
  return true;
}

/* The lowest address in it that is at hand; its end: none. */
static uint64_t lowest_known(const struct range *own, const struct ss_regs *regs,
                             const unsigned char *copy, size_t len)
{
  uint64_t lowest = own->end, word;

  for (int i = 0; i < SS_REG_COUNT; i++)
    if (is_in(own, regs->r[i]) && regs->r[i] < lowest)
      lowest = regs->r[i];
  for (size_t at = 0; at + sizeof(word) <= len; at += sizeof(word)) {
    memcpy(&word, copy + at, sizeof(word));
    if (is_in(own, word) && word < lowest)
      lowest = word;
  }
  return lowest;
}

void ss_look_own_stack(struct ss_looker *l, struct known_process *k, pid_t tid,
                       const struct ss_regs *regs, size_t stack_len, struct ss_span *out)
{
  struct range own;
  uint64_t from;
  size_t len;

  *out = (struct ss_span){0};
  if (!(tid == k->id.pid ? stack_of_leader(&k->maps, &own)
                         : stack_of_thread(&k->maps, tid, &own)) ||
      is_in(&own, regs->r[SS_REG_SP]))
    return;
  from = lowest_known(&own, regs, l->stack, stack_len) & ~(uint64_t)7;
  len = own.end - from < OWN_BYTES ? (size_t)(own.end - from) : OWN_BYTES;
  if (len == 0 || (l->own == NULL && (l->own = malloc(OWN_BYTES)) == NULL))
    return;
  *out = (struct ss_span){
      .addr = from, .len = ss_mem_read(&k->live.mem, from, l->own, len), .bytes = l->own};
}
