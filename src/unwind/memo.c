/*
 * The last stack of a thread, and how much of it the next one shares.
 *
 * A frame is the same as the last time where its registers are (address, stack
 * pointer, preserved registers); its caller is the same if the words that the
 * frame's rule reads are. So from the first equal frame on only these words are
 * compared, outward, and where one differs the walk goes on from there. Addresses
 * alone would not do: a thread that returned and called again may stand at the same
 * address in a frame with other callers.
 *
 * Frames lie at the end of their array, outermost last: those that are taken over
 * stay where they are.
 */
#include <stdlib.h>

#include "stacksample/limits.h"
#include "table.h"
#include "walk.h"

/* Of a frame that is not at a call, or whose caller no compact rule has found, or one by
 * memory of later. */
static const struct ss_rule no_rule = {.cfa_kind = SS_RULE_NOCFI};

struct ss_unwind_memo {
  pid_t pid;
  uint64_t generation; /* of the maps */
  size_t first, cap;   /* frames[first..cap) are the last stack; first == cap: none */
  struct ss_frame *frames;
  struct ss_rule *rules; /* that found their callers: in a row, for one pass over them */
  uint32_t *tags;
};

struct ss_unwind_memo *ss_unwind_memo_new(void)
{
  return calloc(1, sizeof(struct ss_unwind_memo));
}

void ss_unwind_memo_free(struct ss_unwind_memo *memo)
{
  if (memo == NULL)
    return;
  free(memo->frames);
  free(memo->rules);
  free(memo->tags);
  free(memo);
}

static bool reserve_fresh(struct ss_unwinder *u)
{
  if (u->fresh == NULL)
    u->fresh = calloc(SS_FRAMES_MAX, sizeof *u->fresh);
  if (u->fresh_rules == NULL)
    u->fresh_rules = calloc(SS_FRAMES_MAX, sizeof *u->fresh_rules);
  return u->fresh != NULL && u->fresh_rules != NULL;
}

/* Makes room for `count` frames; the `keep` outermost move with the end. */
static bool reserve(struct ss_unwind_memo *m, size_t count, size_t keep)
{
  if (count <= m->cap)
    return true;
  size_t cap = count + count / 2, from = m->cap - keep, to = cap - keep;
  struct ss_frame *frames = calloc(cap, sizeof *frames);
  struct ss_rule *rules = calloc(cap, sizeof *rules);
  uint32_t *tags = calloc(cap, sizeof *tags);
  if (frames == NULL || rules == NULL || tags == NULL) {
    free(frames);
    free(rules);
    free(tags);
    return false;
  }
  if (keep > 0) {
    memcpy(frames + to, m->frames + from, keep * sizeof *frames);
    memcpy(rules + to, m->rules + from, keep * sizeof *rules);
    memcpy(tags + to, m->tags + from, keep * sizeof *tags);
  }
  free(m->frames);
  free(m->rules);
  free(m->tags);
  *m = (struct ss_unwind_memo){.pid = m->pid,
                               .generation = m->generation,
                               .first = to,
                               .cap = cap,
                               .frames = frames,
                               .rules = rules,
                               .tags = tags};
  return true;
}

/* ---- is it the same? ------------------------------------------------------------ */

static inline bool same_state(const struct ss_frame *f, const struct ss_walk *w)
{
  if (f->sp != w->r[SS_REG_SP])
    return false;
  const uint32_t known = ss_regs_to_saved(w->known);
  uint64_t differs = f->ip ^ w->r[SS_REG_IP];
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++)
    if ((known >> i & 1u) != 0)
      differs |= f->saved[i] ^ w->r[ss_saved_reg[i]];
  return differs == 0 && f->saved_known == known;
}

static void stand_on(struct ss_unwinder *u, const struct ss_frame *f)
{
  struct ss_walk *w = &u->walk;
  w->r[SS_REG_IP] = f->ip;
  w->r[SS_REG_SP] = f->sp;
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++)
    w->r[ss_saved_reg[i]] = f->saved[i];
  w->known = ss_saved_to_regs(f->saved_known) | 1u << SS_REG_IP | 1u << SS_REG_SP;
  w->exact = false;
  w->hit = NULL;
}

/* Do the slots of a frame that lies in the copy hold what its caller, the next
 * frame, has in its registers? */
static inline bool slots_hold(const struct ss_rule *rule, const struct ss_frame *f,
                              const unsigned char *end)
{
  const int64_t lowest = (int64_t)(f->sp - f->cfa);
  uint64_t word, differs;
  memcpy(&word, end - 8, sizeof word);
  differs = word ^ f[1].ip;
  for (unsigned i = 0; i < SS_SAVED_COUNT; i++) {
    const int64_t off = 8 * (int64_t)rule->slots[i];
    if (off == 0 || off < lowest)
      continue;
    memcpy(&word, end + off, sizeof word);
    differs |= word ^ f[1].saved[i];
  }
  return differs == 0;
}

static bool caller_is_next(struct ss_unwinder *u, const struct ss_unwind_memo *m,
                           size_t i)
{
  const struct ss_frame *f = &m->frames[i];
  const struct ss_rule *rule = &m->rules[i];
  struct ss_frame now;
  if (rule->cfa_kind >= SS_RULE_END)
    return false;
  const bool plain = rule->cfa_kind == SS_RULE_REG &&
                     (rule->bp_kind == SS_BP_SAME || rule->bp_kind == SS_BP_LOST);
  if (plain && f->sp >= u->copy_sp && f->cfa - u->copy_sp <= u->copy_len)
    return slots_hold(rule, f, u->copy + (f->cfa - u->copy_sp));
  stand_on(u, f);
  return ss_step_by_tables(u, &now) == SS_END_NONE && now.cfa == f->cfa &&
         now.method == f->method && same_state(&f[1], &u->walk);
}

/* The walk stands in frame `i`: the first from there on whose caller is another. */
static size_t follow(struct ss_unwinder *u, const struct ss_unwind_memo *m, size_t i)
{
  while (i + 1 < m->cap && caller_is_next(u, m, i))
    i++;
  return i;
}

/* ---- the walk ------------------------------------------------------------------- */

/* Keeps what was found: `fresh` new frames before those from `at` on. */
static bool keep(struct ss_unwinder *u, struct ss_unwind_memo *m, size_t fresh, size_t at)
{
  size_t reused = m->cap - at;
  if (!reserve(m, fresh + reused, reused))
    return false;
  m->first = m->cap - reused - fresh;
  memcpy(m->frames + m->first, u->fresh, fresh * sizeof *u->fresh);
  memcpy(m->rules + m->first, u->fresh_rules, fresh * sizeof *u->fresh_rules);
  memset(m->tags + m->first, 0, fresh * sizeof *m->tags);
  return true;
}

/* Frames of the memo that hold, but whose outermost has another caller now. */
static void take(struct ss_unwinder *u, const struct ss_unwind_memo *m, size_t from,
                 size_t to, size_t *n)
{
  for (size_t i = from; i < to && *n < SS_FRAMES_MAX; i++, (*n)++) {
    u->fresh[*n] = m->frames[i];
    u->fresh_rules[*n] = m->rules[i];
    u->depth++;
  }
}

/* Unwinds into `fresh` until the stack ends or is as it was from `*at` on. */
static enum ss_end walk(struct ss_unwinder *u, struct ss_unwind_memo *m, size_t *n,
                        size_t *at)
{
  enum ss_end end = SS_END_NONE;
  size_t next = m->first < m->cap ? m->first + 1 : m->cap;
  *at = m->cap;
  while (end == SS_END_NONE && *n < SS_FRAMES_MAX) {
    while (next < m->cap && m->frames[next].sp < u->walk.r[SS_REG_SP])
      next++;
    if (next < m->cap && !u->walk.exact && same_state(&m->frames[next], &u->walk)) {
      size_t last = follow(u, m, next);
      *at = next;
      if (last + 1 == m->cap && *n + m->cap - next <= SS_FRAMES_MAX)
        return SS_END_COMPLETE;
      *at = m->cap;
      take(u, m, next, last, n);
      stand_on(u, &m->frames[last]);
      next = last + 1;
      continue;
    }
    const bool called = !u->walk.exact;
    end = ss_walk_step(u, &u->fresh[*n]);
    const bool late = u->fresh[*n].method == SS_METHOD_LATE;
    u->fresh_rules[*n] = called && u->walk.hit && !late ? u->walk.hit->rule : no_rule;
    (*n)++;
  }
  return end == SS_END_NONE ? SS_END_DEPTH : end;
}

enum ss_end ss_unwind_stack_again(struct ss_unwinder *u,
                                  const struct ss_unwind_space *space,
                                  const struct ss_mem *stack, const struct ss_regs *regs,
                                  struct ss_unwind_memo *memo, struct ss_unwound *out)
{
  size_t n = 0, at;
  *out = (struct ss_unwound){0};
  if (!reserve_fresh(u))
    return SS_END_DEPTH;
  if (memo->pid != space->pid || memo->generation != space->maps->generation)
    memo->first = memo->cap;
  memo->pid = space->pid;
  memo->generation = space->maps->generation;
  ss_unwind_begin(u, space, stack, regs);
  enum ss_end end = walk(u, memo, &n, &at);
  size_t reused = memo->cap - at;
  if (end != SS_END_COMPLETE || !keep(u, memo, n, at)) {
    memo->first = memo->cap;
    *out = (struct ss_unwound){.frames = u->fresh, .count = n};
    return reused > 0 ? SS_END_DEPTH : end; /* no memory to put them together */
  }
  *out = (struct ss_unwound){.frames = memo->frames + memo->first,
                             .tags = memo->tags + memo->first,
                             .count = memo->cap - memo->first,
                             .reused = reused};
  return end;
}
