/*
 * What rules judge: where CPU time went, by kinds that matter for a slow run.
 *
 * One pass over the trie says of each node what is on its way to the root, one over
 * the totals adds up. Shares are of the rows' own weight, so that they agree with
 * every other output that is made from rows.
 */
#include <stdlib.h>
#include <string.h>

#include "stacksample/text.h"

#include "causes_priv.h"

enum { FAULT = 1, UNMAP = 2, SLOW_CHECK = 4, TORCH = 8, IMPORT = 16 };

struct scan {
  const struct ss_profile *p;
  uint8_t *flags;   /* of each trie node, with those of its callers */
  uint32_t *python; /* innermost Python node down to here, or SS_ID_NONE */
  uint32_t *import; /* the Python node that imports, or SS_ID_NONE */
  struct ss_idmap fault_sites, python_sites, import_sites; /* frame and line -> ns */
  struct ss_idmap spin_frames;                             /* frame -> ns */
};

static const struct {
  const char *name;
  uint8_t flag;
} kernel_frames[] = {
    {"[kernel: page fault]", FAULT}, {"[kernel: munmap]", UNMAP},
    {"[kernel: madvise]", UNMAP},    {"[kernel: brk]", UNMAP},
    {"[kernel: mremap]", UNMAP},
};

static uint8_t python_flag(const char *name, const char *file)
{
  if (strcmp(name, "_slow_gradcheck") == 0 && strstr(file, "torch/autograd/gradcheck.py"))
    return SLOW_CHECK;
  if (strcmp(name, "_find_and_load") == 0 &&
      strcmp(file, "<frozen importlib._bootstrap>") == 0)
    return IMPORT;
  return 0;
}

static uint8_t flag_of(const struct ss_profile *p, const struct ss_frame_row *f)
{
  const char *name = ss_profile_str(p, f->name);

  switch (f->kind) {
  case SS_FRAME_SYNTHETIC:
    for (size_t i = 0; i < sizeof kernel_frames / sizeof kernel_frames[0]; i++)
      if (strcmp(name, kernel_frames[i].name) == 0)
        return kernel_frames[i].flag;
    return 0;
  case SS_FRAME_PYTHON:
    return python_flag(name, ss_profile_str(p, f->file));
  case SS_FRAME_NATIVE:
    return ss_starts_with(ss_library_name(p, f), "libtorch") ? TORCH : 0;
  case SS_FRAME_KERNEL:
    return 0;
  }
  return 0;
}

/* Is it code of the command, not of a library? What that imports says most. */
static bool is_own(const struct ss_profile *p, uint32_t python)
{
  return python != SS_ID_NONE &&
         !ss_file_is_library(ss_profile_str(p, p->frames[p->stacks[python].frame].file));
}

static bool scan_init(struct scan *s, const struct ss_profile *p)
{
  *s = (struct scan){.p = p};
  s->flags = calloc(p->n_stacks + 1, sizeof *s->flags);
  s->python = calloc(p->n_stacks + 1, sizeof *s->python);
  s->import = calloc(p->n_stacks + 1, sizeof *s->import);
  if (!s->flags || !s->python || !s->import)
    return false;
  for (size_t i = 0; i < p->n_stacks; i++) {
    const struct ss_stack_row *node = &p->stacks[i];
    const struct ss_frame_row *frame = &p->frames[node->frame];
    bool child = node->parent < i;
    uint8_t flag = flag_of(p, frame);
    s->flags[i] = (uint8_t)((child ? s->flags[node->parent] : 0) | flag);
    s->python[i] = child ? s->python[node->parent] : SS_ID_NONE;
    s->import[i] = child ? s->import[node->parent] : SS_ID_NONE;
    if (flag == IMPORT && (s->import[i] == SS_ID_NONE || is_own(p, s->python[i])))
      s->import[i] = s->python[i];
    if (frame->kind == SS_FRAME_PYTHON)
      s->python[i] = (uint32_t)i;
  }
  return true;
}

static void scan_release(struct scan *s)
{
  free(s->flags);
  free(s->python);
  free(s->import);
  ss_idmap_release(&s->fault_sites);
  ss_idmap_release(&s->python_sites);
  ss_idmap_release(&s->import_sites);
  ss_idmap_release(&s->spin_frames);
}

/* Does the innermost frame outside the C library belong to the interpreter? */
static bool in_interpreter(const struct ss_profile *p, uint32_t stack)
{
  while (stack < p->n_stacks) {
    const struct ss_frame_row *f = &p->frames[p->stacks[stack].frame];
    const char *library = ss_library_name(p, f);
    if (f->kind == SS_FRAME_PYTHON || ss_starts_with(library, "python3") ||
        ss_starts_with(library, "libpython3"))
      return true;
    if (!ss_starts_with(library, "libc.so") && !ss_starts_with(library, "libc-2") &&
        !ss_starts_with(library, "libm."))
      return false;
    stack = p->stacks[stack].parent;
  }
  return false;
}

static bool is_openmp(const char *library)
{
  return ss_starts_with(library, "libgomp") || ss_starts_with(library, "libomp") ||
         ss_starts_with(library, "libiomp");
}

static uint64_t site_key(const struct scan *s, uint32_t node)
{
  if (node == SS_ID_NONE)
    return (uint64_t)SS_ID_NONE << 32;
  return (uint64_t)s->p->stacks[node].frame << 32 | (uint32_t)s->p->stacks[node].line;
}

static bool add_row(struct scan *s, struct ss_cause_facts *facts,
                    const struct ss_total *t)
{
  const struct ss_frame_row *leaf = &s->p->frames[s->p->stacks[t->stack].frame];
  uint8_t flags = s->flags[t->stack];
  bool ok =
      !(flags & IMPORT) ||
      ss_idmap_add(&s->import_sites, site_key(s, s->import[t->stack]), t->weight_ns);

  facts->import_ns += flags & IMPORT ? t->weight_ns : 0;
  facts->rows_ns += t->weight_ns;
  facts->torch = facts->torch || (flags & TORCH);
  facts->slow_check_ns += flags & SLOW_CHECK ? t->weight_ns : 0;
  if (t->state == SS_STATE_KERNEL && (flags & FAULT)) {
    facts->fault_ns += t->weight_ns;
    ok = ok &&
         ss_idmap_add(&s->fault_sites, site_key(s, s->python[t->stack]), t->weight_ns);
  } else if (t->state == SS_STATE_KERNEL && (flags & UNMAP)) {
    facts->unmap_ns += t->weight_ns;
  } else if (t->state == SS_STATE_SPIN) {
    bool openmp = is_openmp(ss_library_name(s->p, leaf));
    facts->spin_ns += t->weight_ns;
    facts->openmp_spin_ns += openmp ? t->weight_ns : 0;
    ok = ok && (!openmp || ss_idmap_add(&s->spin_frames, s->p->stacks[t->stack].frame,
                                        t->weight_ns));
  } else if (t->state == SS_STATE_USER && in_interpreter(s->p, t->stack)) {
    facts->python_ns += t->weight_ns;
    ok = ok &&
         ss_idmap_add(&s->python_sites, site_key(s, s->python[t->stack]), t->weight_ns);
  }
  return ok;
}

/* The largest few of a map, into a sorted list. */
static size_t largest(const struct ss_idmap *map, struct ss_site *sites)
{
  size_t pos = 0, count = 0;
  uint64_t key, ns;

  while (ss_idmap_next(map, &pos, &key, &ns)) {
    struct ss_site site = {(uint32_t)(key >> 32), (int)(uint32_t)key, ns};
    size_t at = count < SS_SITES_MAX ? count++ : SS_SITES_MAX;
    for (; at > 0 && sites[at - 1].weight_ns < ns; at--)
      if (at < SS_SITES_MAX)
        sites[at] = sites[at - 1];
    if (at < SS_SITES_MAX)
      sites[at] = site;
  }
  return count;
}

static void find_threads(struct ss_cause_facts *facts, const struct ss_figures *f)
{
  for (size_t i = 0; i < f->p->n_threads; i++) {
    uint64_t ns = ss_spent_running(&f->threads[i]);
    facts->spinners += f->threads[i].ns[SS_STATE_SPIN] > f->total.ns[SS_STATE_SPIN] / 50;
    if (ns > facts->top_ns) {
      facts->top_ns = ns;
      facts->top = (uint32_t)i;
    }
  }
}

static void find_spin_text(struct ss_cause_facts *facts, const struct scan *s,
                           struct ss_figures *f)
{
  size_t pos = 0;
  uint64_t frame, ns, most = 0;

  facts->spin_text = SS_ID_NONE;
  while (ss_idmap_next(&s->spin_frames, &pos, &frame, &ns)) {
    if (ns > most) {
      most = ns;
      facts->spin_text = ss_texts_frame(&f->texts, (uint32_t)frame);
    }
  }
}

enum ss_err ss_cause_facts(struct ss_cause_facts *facts, struct ss_figures *f,
                           struct ss_diag *diag)
{
  struct scan s;
  bool ok = scan_init(&s, f->p);

  *facts = (struct ss_cause_facts){0};
  for (size_t i = 0; ok && i < f->p->n_totals; i++) {
    const struct ss_total *t = &f->p->totals[i];
    if (t->stack != SS_ID_NONE && ss_state_running(t->state))
      ok = add_row(&s, facts, t);
  }
  facts->n_sites = largest(&s.fault_sites, facts->sites);
  facts->n_lines = largest(&s.python_sites, facts->lines);
  facts->n_imports = largest(&s.import_sites, facts->imports);
  find_spin_text(facts, &s, f);
  find_threads(facts, f);
  scan_release(&s);
  return ok ? SS_ERR_OK : ss_fail(diag, SS_ERR_NOMEM, "out of memory for the summary");
}
