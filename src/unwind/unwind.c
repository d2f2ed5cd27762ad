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
#include "unwind_priv.h"

static const struct ss_unwind_method *const methods[] = {&ss_method_libunwind};

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
  u->libunwind = ss_libunwind_new();
  if (u->libunwind == NULL) {
    free(u);
    return NULL;
  }
  return u;
}

void ss_unwinder_free(struct ss_unwinder *u)
{
  if (u == NULL)
    return;
  ss_libunwind_free(u->libunwind);
  free(u);
}

void ss_unwinder_forget(struct ss_unwinder *u, pid_t pid)
{
  ss_libunwind_forget(u->libunwind, pid);
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
  if (module != NULL && ss_module_bias(module, map, &place.bias)) {
    place.module = module;
    place.vaddr = addr - place.bias;
  }
  return place;
}

enum ss_end ss_read_failed(const struct ss_unwinder *u)
{
  return ss_snapshot_is_stale(u->stack) ? SS_END_TRUNCATED : SS_END_BAD_READ;
}

/* Finds where the walk stands. Above the leaf the return address may already
 * belong to the next function (a call that does not return is the last
 * instruction): the call itself is looked up. */
static void locate(struct ss_unwinder *u)
{
  struct ss_walk *w = &u->walk;
  struct ss_fde fde;
  uint64_t ip = w->r[SS_REG_IP];
  w->place = ss_place_of(u->space, w->exact ? ip : ip - 1);
  w->function = 0;
  w->signal = false;
  if (w->place.module != NULL && ss_cfi_find(w->place.module, w->place.vaddr, &fde)) {
    w->function = fde.start;
    w->signal = fde.cie.signal;
  }
}

static void begin(struct ss_unwinder *u, const struct ss_unwind_space *space,
                  const struct ss_mem *stack)
{
  u->space = space;
  u->stack = stack;
  u->depth = 0;
  u->dead = false;
  u->walk = (struct ss_walk){.exact = true};
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

/* The frame that the walk stands on; its caller is not known yet. */
static void fill_frame(const struct ss_unwinder *u, struct ss_frame *frame)
{
  static const uint8_t saved[6] = {SS_REG_BX,  SS_REG_BP,  SS_REG_R12,
                                   SS_REG_R13, SS_REG_R14, SS_REG_R15};
  const struct ss_walk *w = &u->walk;
  *frame = (struct ss_frame){.ip = w->r[SS_REG_IP],
                             .sp = w->r[SS_REG_SP],
                             .module = w->place.module,
                             .vaddr = w->place.vaddr,
                             .function = w->function,
                             .method = SS_METHOD_CFI,
                             .signal = w->signal};
  for (unsigned i = 0; i < 6; i++) {
    frame->saved[i] = w->r[saved[i]];
    frame->saved_known |= (uint8_t)((w->known >> saved[i] & 1u) << i);
  }
}

/* Is a step from `old` to `w` one that a real stack can have made? */
static enum ss_end check_step(const struct ss_walk *old, const struct ss_walk *w)
{
  uint64_t from = old->r[SS_REG_SP], to = w->r[SS_REG_SP];
  if (to % 8 != 0)
    return SS_END_BAD_CFI;
  if (old->signal)
    return to == from && w->r[SS_REG_IP] == old->r[SS_REG_IP] ? SS_END_NO_PROGRESS
                                                              : SS_END_NONE;
  if (to <= from)
    return SS_END_NO_PROGRESS;
  return to - from > SS_FRAME_SIZE_MAX ? SS_END_SP_LOST : SS_END_NONE;
}

/* Moves to the caller by the first method that knows how. */
static enum ss_end step_to_caller(struct ss_unwinder *u, struct ss_frame *frame)
{
  struct ss_walk old = u->walk;
  enum ss_end end = SS_END_NO_CFI;
  for (size_t i = 0; end == SS_END_NO_CFI && i < sizeof methods / sizeof methods[0];
       i++) {
    u->walk = old;
    end = methods[i]->step(u, &u->walk);
    if (end == SS_END_NONE)
      end = check_step(&old, &u->walk);
    frame->method = (uint8_t)methods[i]->label;
  }
  if (end != SS_END_NONE) {
    u->walk = old;
    return end;
  }
  /* Out of a signal handler the interrupted instruction is meant, not a call. */
  u->walk.exact = old.signal;
  if (u->walk.r[SS_REG_SP] > frame->sp)
    frame->cfa = u->walk.r[SS_REG_SP];
  return SS_END_NONE;
}

enum ss_end ss_unwind_step(struct ss_unwinder *u, struct ss_frame *frame)
{
  SS_INVARIANT(!u->dead);
  enum ss_end end;
  locate(u);
  fill_frame(u, frame);
  u->depth++;
  if (!u->walk.place.executable)
    end = SS_END_NO_MAP;
  else if (u->depth >= SS_FRAMES_MAX)
    end = SS_END_DEPTH;
  else
    end = step_to_caller(u, frame);
  u->dead = end != SS_END_NONE;
  return end;
}

enum ss_end ss_unwind_stack(struct ss_unwinder *u, const struct ss_unwind_space *space,
                            const struct ss_mem *stack, const struct ss_regs *regs,
                            struct ss_frame *frames, size_t cap, size_t *count)
{
  enum ss_end end = SS_END_NONE;
  *count = 0;
  ss_unwind_begin(u, space, stack, regs);
  while (end == SS_END_NONE && *count < cap)
    end = ss_unwind_step(u, &frames[(*count)++]);
  return end == SS_END_NONE ? SS_END_DEPTH : end;
}
