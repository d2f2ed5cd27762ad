/*
 * bench_unwind: unwinds recorded stacks again and again.
 *
 *   bench_unwind [-s SNAPSHOT_BYTES] [-r ROUNDS] [-v] [-j] RECORDING
 *
 * Prints stacks per second of our unwinder and of libunwind with its best
 * cache, how many stacks are complete, why the others ended (with the leaf's
 * module), and every stack on which the two disagree. -v prints all stacks with
 * names, -j one line of JSON.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "recording.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"
#include "stacksample/unwind.h"

#define SPANS_MAX 64
#define THREADS_MAX 256

struct stack {
  struct ss_regs regs;
  const unsigned char *bytes;
  size_t len;
  struct ss_maps *maps;
  const struct ss_span *spans; /* memory recorded with these maps */
  size_t span_count;
  pid_t pid;
};

static struct {
  struct stack *items;
  size_t count, cap;
  struct ss_paths *paths;
  struct ss_modules *modules;
  size_t snapshot, rounds;
  bool verbose, json;
} bench = {.snapshot = 16384, .rounds = 100};

static unsigned char *read_file(const char *path, size_t *len)
{
  FILE *f = fopen(path, "rb");
  unsigned char *bytes = NULL;
  *len = 0;
  if (f == NULL)
    return NULL;
  for (size_t n = 1; n > 0; *len += n) {
    bytes = realloc(bytes, *len + (1u << 20));
    n = fread(bytes + *len, 1, 1u << 20, f);
  }
  fclose(f);
  return bytes;
}

static struct ss_maps *add_maps(const unsigned char *text, size_t len)
{
  struct ss_maps *maps = calloc(1, sizeof *maps);
  size_t rejected = 0;
  ss_maps_init(maps, bench.paths);
  ss_maps_parse(maps, (const char *)text, len, &rejected);
  /* One process at different times: what is cached of it must not be mixed. */
  static uint64_t generation;
  maps->generation = generation += 1000000;
  return maps;
}

static int load(const unsigned char *bytes, size_t len)
{
  struct ss_maps *maps = NULL;
  struct ss_span *spans = NULL;
  size_t span_count = 0;
  uint64_t magic = 0;
  size_t at = sizeof magic;
  if (len >= at)
    memcpy(&magic, bytes, sizeof magic);
  while (magic == RECORDING_MAGIC && at + sizeof(struct record_header) <= len) {
    struct record_header h;
    memcpy(&h, bytes + at, sizeof h);
    const unsigned char *body = bytes + at + sizeof h;
    at += sizeof h + h.len;
    if (at > len)
      return -1;
    if (h.kind == RECORD_MAPS) {
      maps = add_maps(body, h.len);
      spans = calloc(SPANS_MAX, sizeof *spans);
      span_count = 0;
    } else if (h.kind == RECORD_MEMORY && spans != NULL && span_count < SPANS_MAX) {
      spans[span_count++] = (struct ss_span){h.addr, h.len, body};
    } else if (h.kind == RECORD_STACK && h.len >= sizeof(struct ss_regs)) {
      if (!ss_grow(&bench.items, &bench.cap, bench.count + 1, sizeof *bench.items))
        return -1;
      struct stack *s = &bench.items[bench.count++];
      memcpy(&s->regs, body, sizeof s->regs);
      s->bytes = body + sizeof s->regs;
      s->len = h.len - sizeof s->regs;
      s->maps = maps;
      s->spans = spans;
      s->span_count = span_count;
      s->pid = (pid_t)h.pid;
    }
  }
  return bench.count > 0 ? 0 : -1;
}

/* The reader of one recorded stack: its first bytes as the sample's copy, the
 * whole of it and the recorded memory as the live process. */
struct view {
  struct ss_span spans[SPANS_MAX + 1];
  struct ss_mem_spans live;
  struct ss_snapshot snapshot;
  struct ss_unwind_space space;
};

static void view_init(struct view *v, const struct stack *s)
{
  uint64_t sp = s->regs.r[SS_REG_SP];
  size_t len = s->len < bench.snapshot ? s->len : bench.snapshot;
  memcpy(v->spans, s->spans, s->span_count * sizeof *s->spans);
  v->spans[s->span_count] = (struct ss_span){sp, s->len, s->bytes};
  ss_mem_spans_init(&v->live, v->spans, s->span_count + 1, NULL);
  ss_snapshot_init(&v->snapshot, sp, s->bytes, len, &v->live.mem, sp + s->len);
  v->space = (struct ss_unwind_space){
      .pid = s->pid, .maps = s->maps, .modules = bench.modules, .live = &v->live.mem};
}

static void print_frame(size_t i, const struct ss_frame *f)
{
  struct ss_symbol sym = {0};
  char *name = NULL;
  if (f->module != NULL &&
      ss_module_symbol((struct ss_module *)(uintptr_t)f->module, f->vaddr, &sym))
    name = ss_demangle(sym.name);
  printf("  #%-3zu %016lx sp %lx %-8s %s+0x%lx %.90s\n", i, (unsigned long)f->ip,
         (unsigned long)f->sp, ss_method_word(f->method),
         f->module == NULL ? "?" : f->module->name, (unsigned long)f->function,
         name == NULL ? "" : name);
  free(name);
}

/* Prints where the two opinions part, if they do. */
static bool differs(size_t number, const struct ss_frame *frames, size_t count,
                    const uint64_t *ips, size_t ip_count, enum ss_end audit_end)
{
  size_t i = 0;
  if (!ss_unwind_differs(frames, count, ips, ip_count, audit_end))
    return false;
  while (i < count && i < ip_count && frames[i].ip == ips[i])
    i++;
  printf("stack %zu: frame %zu is %lx (of %zu), libunwind says %lx (of %zu, %s)\n",
         number, i, i < count ? (unsigned long)frames[i].ip : 0, count,
         i < ip_count ? (unsigned long)ips[i] : 0, ip_count, ss_end_word(audit_end));
  return true;
}

/* The memo of the thread that a stack is of, by the end of its stack. */
static struct ss_unwind_memo *memo_of(const struct stack *s)
{
  static struct {
    uint64_t end;
    struct ss_unwind_memo *memo;
  } memos[THREADS_MAX];
  uint64_t end = s->regs.r[SS_REG_SP] + s->len;
  size_t i = 0;
  while (i + 1 < THREADS_MAX && memos[i].memo != NULL && memos[i].end != end)
    i++;
  if (memos[i].memo == NULL)
    memos[i].memo = ss_unwind_memo_new();
  memos[i].end = end;
  return memos[i].memo;
}

/* Does the walk that goes on from the thread's last stack find the same? */
static bool again_differs(struct ss_unwinder *u, struct view *v, const struct stack *s,
                          const struct ss_frame *frames, size_t count, enum ss_end end,
                          size_t *reused)
{
  struct ss_unwound again;
  if (ss_unwind_stack_again(u, &v->space, &v->snapshot.mem, &s->regs, memo_of(s),
                            &again) != end ||
      again.count != count)
    return true;
  *reused += again.reused;
  for (size_t i = 0; i < count; i++) {
    const struct ss_frame *a = &frames[i], *b = &again.frames[i];
    if (a->ip != b->ip || a->sp != b->sp || a->cfa != b->cfa || a->module != b->module ||
        a->vaddr != b->vaddr || a->function != b->function || a->method != b->method ||
        a->saved_known != b->saved_known || a->signal != b->signal)
      return true;
    for (unsigned k = 0; k < SS_SAVED_COUNT; k++)
      if ((a->saved_known >> k & 1) != 0 && a->saved[k] != b->saved[k])
        return true;
  }
  return false;
}

static size_t check(struct ss_unwinder *u, struct ss_unwinder *audit,
                    size_t *complete_out)
{
  static struct ss_frame frames[SS_FRAMES_MAX];
  static uint64_t ips[SS_FRAMES_MAX];
  size_t complete = 0, differ = 0, total = 0, methods[SS_METHOD_COUNT] = {0};
  size_t audit_complete = 0, reused = 0;
  for (size_t i = 0; i < bench.count; i++) {
    const struct stack *s = &bench.items[i];
    struct view v;
    size_t count, ip_count;
    view_init(&v, s);
    enum ss_end end = ss_unwind_stack(u, &v.space, &v.snapshot.mem, &s->regs, frames,
                                      SS_FRAMES_MAX, &count);
    enum ss_end audit_end = ss_unwind_audit(audit, &v.space, &v.snapshot.mem, &s->regs,
                                            ips, SS_FRAMES_MAX, &ip_count);
    total += count;
    complete += end == SS_END_COMPLETE;
    audit_complete += audit_end == SS_END_COMPLETE;
    for (size_t k = 0; k < count; k++)
      methods[frames[k].method]++;
    bool odd = differs(i, frames, count, ips, ip_count, audit_end);
    if (again_differs(u, &v, s, frames, count, end, &reused)) {
      printf("stack %zu: another one after that of before\n", i);
      odd = true;
    }
    differ += odd;
    if (end != SS_END_COMPLETE)
      printf("stack %zu: %s after %zu frames\n", i, ss_end_word(end), count);
    if (bench.verbose || odd || end != SS_END_COMPLETE)
      for (size_t k = 0; k < count; k++)
        print_frame(k, &frames[k]);
    ss_snapshot_release(&v.snapshot);
  }
  printf("%.1f frames of each stack are those of the one before\n",
         (double)reused / (double)bench.count);
  printf("%zu stacks, %.1f frames each; complete %zu (libunwind %zu); differ %zu\n",
         bench.count, (double)total / (double)bench.count, complete, audit_complete,
         differ);
  for (int m = 0; m < SS_METHOD_COUNT; m++)
    if (methods[m] > 0)
      printf("  frames by %-13s %zu\n", ss_method_word(m), methods[m]);
  *complete_out = complete;
  return differ;
}

/* Stacks per second of CPU time in the fastest round: other processes on the
 * machine only ever make a round slower. */
enum how { PLAIN, AGAIN, LIBUNWIND };
static double run(struct ss_unwinder *u, enum how how)
{
  static struct ss_frame frames[SS_FRAMES_MAX];
  static uint64_t ips[SS_FRAMES_MAX];
  struct ss_unwound unwound;
  struct view *views = calloc(bench.count, sizeof *views);
  uint64_t best = UINT64_MAX;
  for (size_t i = 0; i < bench.count; i++)
    view_init(&views[i], &bench.items[i]);
  for (size_t round = 0; round < bench.rounds; round++) {
    uint64_t start = ss_own_cpu_ns();
    for (size_t i = 0; i < bench.count; i++) {
      const struct ss_regs *regs = &bench.items[i].regs;
      struct view *v = &views[i];
      size_t count;
      if (how == AGAIN)
        ss_unwind_stack_again(u, &v->space, &v->snapshot.mem, regs,
                              memo_of(&bench.items[i]), &unwound);
      else if (how == LIBUNWIND)
        ss_unwind_audit(u, &v->space, &v->snapshot.mem, regs, ips, SS_FRAMES_MAX, &count);
      else
        ss_unwind_stack(u, &v->space, &v->snapshot.mem, regs, frames, SS_FRAMES_MAX,
                        &count);
    }
    uint64_t took = ss_own_cpu_ns() - start;
    best = took < best ? took : best;
  }
  for (size_t i = 0; i < bench.count; i++)
    ss_snapshot_release(&views[i].snapshot);
  free(views);
  return (double)bench.count * 1e9 / (double)(best == 0 ? 1 : best);
}

static int parse(int argc, char **argv)
{
  int opt;
  while ((opt = getopt(argc, argv, "s:r:vj")) != -1)
    if (opt == 's')
      bench.snapshot = strtoul(optarg, NULL, 10);
    else if (opt == 'r')
      bench.rounds = strtoul(optarg, NULL, 10);
    else if (opt == 'v')
      bench.verbose = true;
    else if (opt == 'j')
      bench.json = true;
    else
      return -1;
  return optind + 1 == argc ? 0 : -1;
}

int main(int argc, char **argv)
{
  if (parse(argc, argv) != 0) {
    fprintf(stderr, "usage: bench_unwind [-s BYTES] [-r ROUNDS] [-v] [-j] RECORDING\n");
    return 64;
  }
  size_t len;
  unsigned char *bytes = read_file(argv[optind], &len);
  bench.paths = ss_paths_new();
  bench.modules = ss_modules_new();
  if (bytes == NULL || load(bytes, len) != 0) {
    fprintf(stderr, "%s: no recording\n", argv[optind]);
    return 1;
  }
  struct ss_unwinder *u = ss_unwinder_new(), *audit = ss_unwinder_new();
  size_t complete = 0;
  size_t differ = check(u, audit, &complete);
  double ours = run(u, PLAIN), again = run(u, AGAIN), theirs = run(audit, LIBUNWIND);
  printf("going on from the last stack: %.0f stacks/s\n", again);
  printf("ours %.0f stacks/s, libunwind %.0f stacks/s, ratio %.1f\n", ours, theirs,
         ours / theirs);
  if (bench.json)
    printf("{\"stacks\": %zu, \"complete_pct\": %.2f, \"differ\": %zu, "
           "\"unwind_stacks_per_s\": %.0f, \"libunwind_stacks_per_s\": %.0f, "
           "\"unwind_vs_libunwind\": %.2f}\n",
           bench.count, 100.0 * (double)complete / (double)bench.count, differ, ours,
           theirs, ours / theirs);
  ss_unwinder_free(u);
  ss_unwinder_free(audit);
  return differ == 0 ? 0 : 1;
}
