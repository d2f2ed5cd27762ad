/*
 * The walk: from a frame to its caller until the thread's start.
 *
 * What finds the caller is a method, tried in order; what is checked after it is
 * the same for all of them: the stack pointer grows (except out of a signal
 * handler, which may have had its own stack, and out of code that moved it elsewhere),
 * by at most a plausible frame, and
 * there is an end. A stack is complete only where the unwind information of the
 * outermost function says so (return address undefined: _start, clone).
 */
#include "stacksample/limits.h"
#include "table.h"
#include "walk.h"

static const struct ss_unwind_method *const methods[] = {
    &ss_method_libunwind, &ss_method_prologue, &ss_method_jit, &ss_method_scan,
    &ss_method_frame_pointer};

const char *ss_end_word(enum ss_end end)
{
  static const char *const words[] = {
#define SS_END_WORD(name, word, text) word,
      SS_ENDS(SS_END_WORD)
#undef SS_END_WORD
  };
  return (unsigned)end < SS_END_COUNT ? words[end] : "unknown";
}

const char *ss_end_text(enum ss_end end)
{
  static const char *const texts[] = {
#define SS_END_TEXT(name, word, text) text,
      SS_ENDS(SS_END_TEXT)
#undef SS_END_TEXT
  };
  return (unsigned)end < SS_END_COUNT ? texts[end] : "unknown";
}

const char *ss_method_word(enum ss_method method)
{
  static const char *const words[] = {
#define SS_METHOD_WORD(name, word) word,
      SS_METHODS(SS_METHOD_WORD)
#undef SS_METHOD_WORD
  };
  return (unsigned)method < SS_METHOD_COUNT ? words[method] : "unknown";
}

struct ss_unwinder *ss_unwinder_new(void)
{
  struct ss_unwinder *u = calloc(1, sizeof *u);
  if (u == NULL)
    return NULL;
  u->carried = ss_arch_callee_saved() | 1u << SS_REG_IP | 1u << SS_REG_SP;
  u->libunwind = ss_libunwind_new();
  u->hits = calloc(SS_HITS, sizeof *u->hits);
  u->jit_starts = calloc(SS_JIT_STARTS, sizeof *u->jit_starts);
  if (u->libunwind == NULL || u->hits == NULL || u->jit_starts == NULL) {
    ss_unwinder_free(u);
    return NULL;
  }
  return u;
}

void ss_unwinder_free(struct ss_unwinder *u)
{
  if (u == NULL)
    return;
  ss_libunwind_free(u->libunwind);
  free(u->hits);
  free(u->jit_starts);
  free(u->fresh);
  free(u->fresh_rules);
  free(u);
}

void ss_unwinder_forget(struct ss_unwinder *u, pid_t pid)
{
  ss_libunwind_forget(u->libunwind, pid);
  for (size_t i = 0; i < SS_HITS; i++)
    if (u->hits[i].pid == pid)
      u->hits[i].pid = 0;
  for (size_t i = 0; i < SS_JIT_STARTS; i++)
    if (u->jit_starts[i].pid == pid)
      u->jit_starts[i].pid = 0;
}

struct ss_place ss_place_of(const struct ss_unwind_space *space, uint64_t addr)
{
  struct ss_place place = {.vaddr = addr};
  struct ss_map *map = ss_maps_find(space->maps, addr);
  if (map == NULL)
    return place;
  place.executable = (map->prot & SS_PROT_EXEC) != 0;
  struct ss_module *module =
      ss_module_of(space->modules, space->pid, space->maps, map, space->live);
  if (module == NULL)
    return place;
  /* A file that could not be opened still names its frames, by file offset. */
  if (module->image == NULL)
    place.bias = map->start - map->offset;
  else if (!ss_module_bias(module, map, &place.bias))
    return place;
  place.module = module;
  place.vaddr = addr - place.bias;
  return place;
}

enum ss_end ss_read_failed(const struct ss_unwinder *u)
{
  return ss_snapshot_is_stale(u->stack) ? SS_END_TRUNCATED : SS_END_BAD_READ;
}

bool ss_frame_is_late(const struct ss_unwinder *u, uint64_t sp, uint64_t cfa)
{
  return !u->space->still && !u->space->only_ip_sp &&
         ss_snapshot_is_late(u->stack, sp, cfa);
}

/* The module's table, built when a stack first hits it. */
static const struct ss_table *table_of(struct ss_module *module)
{
  struct ss_cfi *cfi = ss_cfi_of(module);
  if (cfi == NULL)
    return NULL;
  if (!cfi->table_tried) {
    cfi->table_tried = true;
    cfi->table = ss_table_build(module);
    ss_cfi_unload(module);
  }
  return cfi->table;
}

void ss_hit_fill(struct ss_hit *hit, const struct ss_unwind_space *space, uint64_t addr)
{
  struct ss_place place = ss_place_of(space, addr);
  *hit = (struct ss_hit){.addr = addr,
                         .generation = (uint32_t)space->maps->generation,
                         .pid = space->pid,
                         .module = place.module,
                         .bias = place.bias,
                         .into = UINT32_MAX,
                         .rule = {.cfa_kind = SS_RULE_NOCFI}};
  const struct ss_table *table = place.module == NULL ? NULL : table_of(place.module);
  uint64_t function = 0;
  if (table != NULL)
    ss_table_find(table, place.vaddr, &hit->rule, &function);
  if (function != 0 && place.vaddr - function < UINT32_MAX)
    hit->into = (uint32_t)(place.vaddr - function);
  hit->rule.flags |= place.executable ? SS_HIT_CODE : 0;
}

const struct ss_hit *ss_hit_of(struct ss_unwinder *u, uint64_t addr)
{
  return ss_walk_hit_of(u, addr);
}

static void begin(struct ss_unwinder *u, const struct ss_unwind_space *space,
                  const struct ss_mem *stack)
{
  u->space = space;
  u->stack = stack;
  u->depth = 0;
  u->dead = false;
  u->walk = (struct ss_walk){.exact = true};
  const struct ss_snapshot *snapshot = ss_snapshot_of(stack);
  u->copy = snapshot == NULL ? NULL : snapshot->bytes;
  u->copy_sp = snapshot == NULL ? 0 : snapshot->sp;
  u->copy_len = snapshot == NULL ? 0 : snapshot->len;
}

void ss_unwind_begin(struct ss_unwinder *u, const struct ss_unwind_space *space,
                     const struct ss_mem *stack, const struct ss_regs *regs)
{
  begin(u, space, stack);
  memcpy(u->walk.r, regs->r, sizeof u->walk.r);
  u->walk.known = (1u << SS_REG_COUNT) - 1;
}

void ss_unwind_begin_at(struct ss_unwinder *u, const struct ss_unwind_space *space,
                        const struct ss_mem *stack, uint64_t ip, uint64_t sp)
{
  begin(u, space, stack);
  u->walk.r[SS_REG_IP] = ip;
  u->walk.r[SS_REG_SP] = sp;
  u->walk.known = 1u << SS_REG_IP | 1u << SS_REG_SP;
}

void ss_unwind_resume(struct ss_unwinder *u, uint64_t ip, uint64_t sp)
{
  u->walk = (struct ss_walk){.known = 1u << SS_REG_IP | 1u << SS_REG_SP};
  u->walk.r[SS_REG_IP] = ip;
  u->walk.r[SS_REG_SP] = sp;
  u->dead = false;
}

void ss_unwind_know(struct ss_unwinder *u, enum ss_reg reg, uint64_t value)
{
  u->walk.r[reg] = value;
  u->walk.known |= 1u << reg;
}

enum ss_end ss_step_by_tables(struct ss_unwinder *u, struct ss_frame *frame)
{
  frame->method = SS_METHOD_CFI;
  if ((ss_walk_locate(u)->rule.flags & SS_HIT_CODE) == 0)
    return SS_END_NO_MAP;
  return ss_walk_step_by_rule(u, frame);
}

/* Is a step from `old` to `w` one that a real stack can have made? */
static enum ss_end check_step(const struct ss_walk *old, const struct ss_walk *w,
                              bool other_stack)
{
  if (!other_stack)
    return ss_walk_check_cfa(old->r[SS_REG_SP], w->r[SS_REG_SP]);
  return w->r[SS_REG_SP] == old->r[SS_REG_SP] && w->r[SS_REG_IP] == old->r[SS_REG_IP]
             ? SS_END_NO_PROGRESS
             : SS_END_NONE;
}

/* Moves to the caller by the first of the other methods that knows how. */
enum ss_end ss_step_by_methods(struct ss_unwinder *u, struct ss_frame *frame)
{
  struct ss_walk old = u->walk;
  struct ss_hit hit = *old.hit; /* the methods' look-ups may displace it */
  enum ss_end end = SS_END_NO_CFI;
  old.hit = &hit;
  for (size_t i = 0; end == SS_END_NO_CFI && i < sizeof methods / sizeof methods[0];
       i++) {
    u->walk = old;
    end = methods[i]->step(u, &u->walk);
    if (end == SS_END_NONE)
      end = check_step(&old, &u->walk, frame->signal || u->walk.own_sp != 0);
    if (end == SS_END_NONE)
      frame->method = (uint8_t)methods[i]->label;
  }
  if (end != SS_END_NONE) {
    u->walk = old;
    u->walk.hit = ss_walk_hit_of(u, hit.addr);
    return end;
  }
  /* Out of a signal handler the interrupted instruction is meant, not a call. */
  u->walk.exact = frame->signal;
  u->walk.hit = NULL;
  if (u->walk.own_sp != 0)
    frame->sp = u->walk.own_sp;
  u->walk.own_sp = 0;
  if (u->walk.r[SS_REG_SP] > frame->sp)
    frame->cfa = u->walk.r[SS_REG_SP];
  if (frame->cfa != 0 && frame->method != SS_METHOD_SCAN && !frame->signal &&
      ss_frame_is_late(u, frame->sp, frame->cfa))
    frame->method = SS_METHOD_LATE;
  return SS_END_NONE;
}

/* Compact rules lose registers that expressions save; they are the last resort. */
enum ss_end ss_step_with_registers(struct ss_unwinder *u, struct ss_frame *frame)
{
  const enum ss_end end = ss_step_by_methods(u, frame);
  return end == SS_END_NO_CFI ? ss_walk_step_by_rule(u, frame) : end;
}

enum ss_end ss_unwind_step(struct ss_unwinder *u, struct ss_frame *frame)
{
  SS_INVARIANT(!u->dead);
  return ss_walk_step(u, frame);
}

enum ss_end ss_unwind_stack(struct ss_unwinder *u, const struct ss_unwind_space *space,
                            const struct ss_mem *stack, const struct ss_regs *regs,
                            struct ss_frame *frames, size_t cap, size_t *count)
{
  enum ss_end end = SS_END_NONE;
  *count = 0;
  if (space->only_ip_sp)
    ss_unwind_begin_at(u, space, stack, regs->r[SS_REG_IP], regs->r[SS_REG_SP]);
  else
    ss_unwind_begin(u, space, stack, regs);
  while (end == SS_END_NONE && *count < cap)
    end = ss_walk_step(u, &frames[(*count)++]);
  return end == SS_END_NONE ? SS_END_DEPTH : end;
}
