/*
 * The walk: from a frame to its caller until the thread's start.
 *
 * What finds the caller is a method, tried in order; what is checked after it is
 * the same for all of them: the stack pointer grows (except out of a signal
 * handler, which may have had its own stack), by at most a plausible frame, and
 * there is an end. A stack is complete only where the unwind information of the
 * outermost function says so (return address undefined: _start, clone).
 */
#include "stacksample/limits.h"
#include "table.h"

#define PREFETCH 384 /* bytes; a frame of a torch stack has 270 */

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
  place.mapped = true;
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

static void fill_hit(struct ss_hit *hit, const struct ss_unwind_space *space,
                     uint64_t addr)
{
  struct ss_place place = ss_place_of(space, addr);
  *hit = (struct ss_hit){.addr = addr,
                         .generation = (uint32_t)space->maps->generation,
                         .pid = space->pid,
                         .module = place.module,
                         .bias = place.bias,
                         .rule = {.cfa_kind = SS_RULE_NOCFI}};
  const struct ss_table *table = place.module == NULL ? NULL : table_of(place.module);
  if (table != NULL)
    ss_table_find(table, place.vaddr, &hit->rule, &hit->function);
  hit->rule.flags |= place.executable ? SS_HIT_CODE : 0;
}

static inline const struct ss_hit *hit_of(struct ss_unwinder *u, uint64_t addr)
{
  const struct ss_unwind_space *space = u->space;
  struct ss_hit *hit = &u->hits[(addr ^ addr >> 12 ^ (uint64_t)space->pid) % SS_HITS];
  if (hit->addr != addr || hit->generation != (uint32_t)space->maps->generation ||
      hit->pid != space->pid)
    fill_hit(hit, space, addr);
  return hit;
}

const struct ss_hit *ss_hit_of(struct ss_unwinder *u, uint64_t addr)
{
  return hit_of(u, addr);
}

/* Where the walk stands. Above the leaf the return address may already belong
 * to the next function (a call that does not return is the last instruction),
 * so the call itself is looked up. */
static inline const struct ss_hit *locate(struct ss_unwinder *u)
{
  u->walk.hit = hit_of(u, u->walk.r[SS_REG_IP] - (u->walk.exact ? 0 : 1));
  return u->walk.hit;
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

/* The frame that the walk stands on; its caller is not known yet. */
static inline void fill_frame(const struct ss_walk *w, struct ss_frame *frame)
{
  const struct ss_hit *hit = w->hit;
  frame->ip = w->r[SS_REG_IP];
  frame->sp = w->r[SS_REG_SP];
  frame->cfa = 0;
  frame->module = hit->module;
  frame->vaddr = hit->addr - hit->bias;
  frame->function = hit->function;
  frame->method = SS_METHOD_CFI;
  frame->signal = (hit->rule.flags & SS_RULE_SIGNAL) != 0;
  frame->saved[SS_SAVED_BX] = w->r[SS_REG_BX];
  frame->saved[SS_SAVED_BP] = w->r[SS_REG_BP];
  memcpy(&frame->saved[SS_SAVED_R12], &w->r[SS_REG_R12], 4 * sizeof w->r[0]);
  frame->saved_known = (uint8_t)ss_regs_to_saved(w->known);
}

static enum ss_end check_cfa(uint64_t sp, uint64_t cfa)
{
  if (cfa <= sp)
    return SS_END_NO_PROGRESS;
  if (cfa % 8 != 0)
    return SS_END_BAD_CFI;
  return cfa - sp > SS_FRAME_SIZE_MAX ? SS_END_SP_LOST : SS_END_NONE;
}

/* The CFA by a compact rule. */
static inline enum ss_end rule_cfa(const struct ss_unwinder *u, const struct ss_walk *w,
                                   const struct ss_rule *rule, uint64_t *cfa)
{
  if (rule->cfa_kind == SS_RULE_PLT) {
    *cfa = w->r[SS_REG_SP] + 8 + ((int32_t)(w->hit->addr & 15) >= rule->aux ? 8 : 0);
    return SS_END_NONE;
  }
  if ((w->known >> rule->cfa_reg & 1u) == 0)
    return SS_END_NO_CFI;
  *cfa = w->r[rule->cfa_reg] + (uint64_t)(int64_t)rule->cfa_off;
  if (rule->cfa_kind == SS_RULE_DEREF) {
    if (!ss_stack_u64(u, *cfa, cfa))
      return ss_read_failed(u);
    *cfa += (uint64_t)(int64_t)rule->aux;
  }
  return SS_END_NONE;
}

/* Where a caller's registers are: the frame's extent, and its bytes where the
 * whole of it lies in the copied stack (then nothing need be checked again). */
struct extent {
  uint64_t sp, cfa;
  const unsigned char *end; /* of the bytes, at the CFA; NULL: not all copied */
};

static inline struct extent extent_of(const struct ss_unwinder *u, uint64_t sp,
                                      uint64_t cfa)
{
  struct extent e = {.sp = sp, .cfa = cfa};
  if (sp >= u->copy_sp && cfa - u->copy_sp <= u->copy_len)
    e.end = u->copy + (cfa - u->copy_sp);
  return e;
}

enum slot { SLOT_READ, SLOT_POPPED, SLOT_FAILED };

/* The word at CFA + off. A slot below sp is popped already (an epilogue): the
 * register holds what was in it, and the copied stack does not have it. */
static inline enum slot read_slot(const struct ss_unwinder *u, const struct extent *e,
                                  int64_t off, uint64_t *value)
{
  uint64_t slot = e->cfa + (uint64_t)off;
  if (slot < e->sp)
    return SLOT_POPPED;
  if (e->end != NULL && off <= -8) {
    memcpy(value, e->end + off, 8);
    return SLOT_READ;
  }
  return ss_stack_u64(u, slot, value) ? SLOT_READ : SLOT_FAILED;
}

static inline void set_register(struct ss_walk *w, const struct ss_unwinder *u,
                                const struct extent *e, unsigned reg, int64_t off)
{
  enum slot got = read_slot(u, e, off, &w->r[reg]);
  if (got == SLOT_READ)
    w->known |= 1u << reg;
  else if (got == SLOT_FAILED)
    w->known &= ~(1u << reg);
}

/* rbp of the caller. In a realigned frame its slot is named by rbp itself: one
 * that is not in the frame means that rbp has its old value back already. */
static inline void rule_bp(const struct ss_unwinder *u, struct ss_walk *w,
                           const struct ss_rule *rule, const struct extent *e)
{
  if (rule->bp_kind == SS_BP_AT_CFA) {
    set_register(w, u, e, SS_REG_BP, rule->bp_off);
  } else if (rule->bp_kind == SS_BP_AT_BP) {
    uint64_t slot = w->r[SS_REG_BP] + (uint64_t)(int64_t)rule->bp_off;
    if ((w->known >> SS_REG_BP & 1u) != 0 && slot >= e->sp && slot < e->cfa)
      set_register(w, u, e, SS_REG_BP, (int64_t)(slot - e->cfa));
  } else if (rule->bp_kind == SS_BP_LOST) {
    w->known &= ~(1u << SS_REG_BP);
  }
}

/* The preserved registers of the caller from their slots, where the frame is a
 * caller itself and its bytes are at hand. Unrolled, because the processor cannot
 * predict how often a loop over the bits of `saves` would run. */
static inline void copy_slots(struct ss_walk *w, const struct ss_rule *rule,
                              const struct extent *e)
{
  int64_t lowest = (int64_t)(e->sp - e->cfa);
#pragma GCC unroll 6
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++) {
    int64_t off = 8 * (int64_t)rule->slots[i];
    if (off != 0 && off >= lowest)
      memcpy(&w->r[ss_saved_reg[i]], e->end + off, 8);
  }
  w->known = (w->known | ss_saved_to_regs(rule->saves)) & ~ss_saved_to_regs(rule->loses);
}

/* The same in general. */
static void read_slots(const struct ss_unwinder *u, struct ss_walk *w,
                       const struct ss_rule *rule, const struct extent *e)
{
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++)
    if ((rule->saves >> i & 1u) != 0)
      set_register(w, u, e, ss_saved_reg[i], 8 * (int64_t)rule->slots[i]);
  w->known &= ~ss_saved_to_regs(rule->loses);
}

/* The hot path: the caller by the compact rule of the frame's address. */
static inline enum ss_end step_by_rule(struct ss_unwinder *u, struct ss_frame *frame)
{
  struct ss_walk *w = &u->walk;
  const struct ss_rule *rule = &w->hit->rule;
  uint64_t cfa, ra;
  if (rule->cfa_kind >= SS_RULE_END)
    return rule->cfa_kind == SS_RULE_END ? SS_END_COMPLETE : SS_END_NO_CFI;
  enum ss_end end = rule_cfa(u, w, rule, &cfa);
  if (end == SS_END_NONE)
    end = check_cfa(w->r[SS_REG_SP], cfa);
  if (end != SS_END_NONE)
    return end;
  struct extent e = extent_of(u, w->r[SS_REG_SP], cfa);
  if (e.end != NULL && u->copy_len - (size_t)(cfa - u->copy_sp) > PREFETCH) {
    __builtin_prefetch(e.end + PREFETCH / 2); /* the next frames' slots */
    __builtin_prefetch(e.end + PREFETCH);
  }
  if (read_slot(u, &e, -8, &ra) != SLOT_READ)
    return ss_read_failed(u);
  if (rule->bp_kind != SS_BP_SAME)
    rule_bp(u, w, rule, &e);
  if (!w->exact && e.end != NULL)
    copy_slots(w, rule, &e);
  else
    read_slots(u, w, rule, &e);
  w->r[SS_REG_IP] = ra;
  w->r[SS_REG_SP] = cfa;
  w->known &= u->carried;
  w->exact = false;
  frame->cfa = cfa;
  return SS_END_NONE;
}

enum ss_end ss_step_by_tables(struct ss_unwinder *u)
{
  struct ss_frame frame;
  if ((locate(u)->rule.flags & SS_HIT_CODE) == 0)
    return SS_END_NO_MAP;
  return step_by_rule(u, &frame);
}

/* Is a step from `old` to `w` one that a real stack can have made? */
static enum ss_end check_step(const struct ss_walk *old, const struct ss_walk *w,
                              bool signal)
{
  if (!signal)
    return check_cfa(old->r[SS_REG_SP], w->r[SS_REG_SP]);
  return w->r[SS_REG_SP] == old->r[SS_REG_SP] && w->r[SS_REG_IP] == old->r[SS_REG_IP]
             ? SS_END_NO_PROGRESS
             : SS_END_NONE;
}

/* Moves to the caller by the first of the other methods that knows how. */
static enum ss_end step_by_methods(struct ss_unwinder *u, struct ss_frame *frame)
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
      end = check_step(&old, &u->walk, frame->signal);
    if (end == SS_END_NONE)
      frame->method = (uint8_t)methods[i]->label;
  }
  if (end != SS_END_NONE) {
    u->walk = old;
    return end;
  }
  /* Out of a signal handler the interrupted instruction is meant, not a call. */
  u->walk.exact = frame->signal;
  if (u->walk.r[SS_REG_SP] > frame->sp)
    frame->cfa = u->walk.r[SS_REG_SP];
  return SS_END_NONE;
}

/* Compact rules know rbp alone; they are the last resort here. */
static enum ss_end step_with_registers(struct ss_unwinder *u, struct ss_frame *frame)
{
  const enum ss_end end = step_by_methods(u, frame);
  return end == SS_END_NO_CFI ? step_by_rule(u, frame) : end;
}

enum ss_end ss_unwind_step(struct ss_unwinder *u, struct ss_frame *frame)
{
  SS_INVARIANT(!u->dead);
  const struct ss_hit *hit = locate(u);
  enum ss_end end;
  fill_frame(&u->walk, frame);
  if ((hit->rule.flags & SS_HIT_CODE) == 0)
    end = SS_END_NO_MAP;
  else if (++u->depth >= SS_FRAMES_MAX)
    end = SS_END_DEPTH;
  else if (u->space->saved_registers)
    end = step_with_registers(u, frame);
  else if ((end = step_by_rule(u, frame)) == SS_END_NO_CFI)
    end = step_by_methods(u, frame);
  u->dead = end != SS_END_NONE;
  return end;
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
    end = ss_unwind_step(u, &frames[(*count)++]);
  return end == SS_END_NONE ? SS_END_DEPTH : end;
}
