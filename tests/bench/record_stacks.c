/*
 * record_stacks: records registers and stacks of a process's running threads.
 *
 *   record_stacks -o FILE [-n STACKS] [-i MS] [-b BYTES] [-a] PID
 *
 * Every MS milliseconds the threads that are on a CPU (-a: all) are stopped one
 * after the other, and their registers and stack bytes written. Mappings and
 * code without a file are written once and when they change.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "recording.h"
#include "stacksample/arch.h"
#include "stacksample/buf.h"
#include "stacksample/fsafe.h"
#include "stacksample/hash.h"
#include "stacksample/proc.h"

static struct {
  FILE *out;
  pid_t pid;
  size_t wanted, written, stack_bytes;
  long interval_ms;
  int all;
  struct ss_paths *paths;
  struct ss_maps maps;
  struct ss_mem_live live;
} rec = {.wanted = 200, .stack_bytes = 262144, .interval_ms = 20};

static void put(uint32_t kind, uint64_t addr, const void *a, size_t alen, const void *b,
                size_t blen)
{
  struct record_header h = {kind, (uint32_t)rec.pid, addr, alen + blen};
  fwrite(&h, sizeof h, 1, rec.out);
  fwrite(a, 1, alen, rec.out);
  if (blen > 0)
    fwrite(b, 1, blen, rec.out);
}

static void put_memory(const struct ss_map *map)
{
  size_t len = (size_t)(map->end - map->start);
  if (len > 4u << 20)
    return;
  unsigned char *bytes = malloc(len);
  size_t got = ss_mem_read(&rec.live.mem, map->start, bytes, len);
  if (got > 0)
    put(RECORD_MEMORY, map->start, bytes, got, NULL, 0);
  free(bytes);
}

/* Whether there is the same code at the same place; heaps grow all the time. */
static int same_code(const struct ss_maps *a, const struct ss_maps *b)
{
  size_t i = 0, k = 0;
  for (;; i++, k++) {
    while (i < a->count && (a->items[i].prot & SS_PROT_EXEC) == 0)
      i++;
    while (k < b->count && (b->items[k].prot & SS_PROT_EXEC) == 0)
      k++;
    if (i == a->count || k == b->count)
      return i == a->count && k == b->count;
    if (a->items[i].start != b->items[k].start || a->items[i].end != b->items[k].end ||
        a->items[i].inode != b->items[k].inode)
      return 0;
  }
}

/* Writes the mappings where their code changed since the last time. */
static int put_maps(void)
{
  char path[64];
  struct ss_buf text = {0};
  snprintf(path, sizeof path, "/proc/%d/maps", (int)rec.pid);
  if (ss_file_read_all(-100, path, 64u << 20, &text, NULL) != SS_ERR_OK)
    return -1;
  struct ss_maps old;
  ss_maps_init(&old, rec.paths);
  int known = ss_maps_copy(&old, &rec.maps) == SS_ERR_OK &&
              ss_maps_load(&rec.maps, rec.pid, NULL) == SS_ERR_OK && old.count > 0 &&
              same_code(&old, &rec.maps);
  ss_maps_release(&old);
  if (known) {
    ss_buf_release(&text);
    return 0;
  }
  put(RECORD_MAPS, 0, text.data, text.len, NULL, 0);
  for (size_t i = 0; i < rec.maps.count; i++)
    if ((rec.maps.items[i].prot & SS_PROT_EXEC) != 0 && rec.maps.items[i].inode == 0)
      put_memory(&rec.maps.items[i]);
  ss_buf_release(&text);
  return 0;
}

static void put_stack(pid_t tid)
{
  struct ss_regs regs;
  if (!ss_arch_ptrace_regs(tid, &regs) || put_maps() != 0)
    return;
  unsigned char *bytes = malloc(rec.stack_bytes);
  uint64_t sp = regs.r[SS_REG_SP];
  const struct ss_map *stack = ss_maps_find(&rec.maps, sp);
  size_t len = stack == NULL ? 0 : (size_t)(stack->end - sp);
  len = len < rec.stack_bytes ? len : rec.stack_bytes;
  len = ss_mem_read(&rec.live.mem, sp, bytes, len);
  put(RECORD_STACK, sp, &regs, sizeof regs, bytes, len);
  rec.written++;
  free(bytes);
}

static void record_thread(pid_t tid)
{
  struct ss_stat st;
  int status;
  if (!rec.all && (!ss_stat_read(&st, rec.pid, tid) || st.state != 'R'))
    return;
  if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0)
    return;
  if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) == 0 &&
      waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status)) {
    put_stack(tid);
    ptrace(PTRACE_DETACH, tid, NULL,
           (void *)(long)(status >> 16 == 0 ? WSTOPSIG(status) : 0));
  }
}

static int parse(int argc, char **argv, const char **out)
{
  int opt;
  while ((opt = getopt(argc, argv, "o:n:i:b:a")) != -1)
    if (opt == 'o')
      *out = optarg;
    else if (opt == 'n')
      rec.wanted = strtoul(optarg, NULL, 10);
    else if (opt == 'i')
      rec.interval_ms = strtol(optarg, NULL, 10);
    else if (opt == 'b')
      rec.stack_bytes = strtoul(optarg, NULL, 10);
    else if (opt == 'a')
      rec.all = 1;
    else
      return -1;
  if (optind + 1 != argc || *out == NULL)
    return -1;
  rec.pid = (pid_t)strtol(argv[optind], NULL, 10);
  return rec.pid > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
  const char *path = NULL;
  uint64_t magic = RECORDING_MAGIC;
  if (parse(argc, argv, &path) != 0) {
    fprintf(stderr,
            "usage: record_stacks -o FILE [-n STACKS] [-i MS] [-b BYTES] [-a] PID\n");
    return 64;
  }
  rec.out = fopen(path, "wb");
  if (rec.out == NULL) {
    perror(path);
    return 1;
  }
  fwrite(&magic, sizeof magic, 1, rec.out);
  rec.paths = ss_paths_new();
  ss_maps_init(&rec.maps, rec.paths);
  ss_mem_live_init(&rec.live, rec.pid);
  while (rec.written < rec.wanted) {
    pid_t *tids = NULL;
    size_t count = 0;
    if (ss_tasks_list(rec.pid, &tids, &count) != SS_ERR_OK || count == 0)
      break;
    for (size_t i = 0; i < count && rec.written < rec.wanted; i++)
      record_thread(tids[i]);
    free(tids);
    usleep((useconds_t)rec.interval_ms * 1000);
  }
  fclose(rec.out);
  ss_maps_release(&rec.maps);
  ss_paths_free(rec.paths);
  ss_mem_live_release(&rec.live);
  printf("%zu stacks\n", rec.written);
  return rec.written > 0 ? 0 : 1;
}
