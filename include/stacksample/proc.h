/*
 * Another process, seen from outside: its memory, mappings, files, identity.
 * Everything read here is input: short, torn, gone or hostile.
 */
#ifndef STACKSAMPLE_PROC_H
#define STACKSAMPLE_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/buf.h"
#include "stacksample/chase.h"
#include "stacksample/error.h"

/* ---- memory: the one bounded reader ------------------------------------ */

/* Reads up to `len` bytes at `addr`; returns how many bytes from `addr` on
 * were readable (0: none). Never faults. */
struct ss_mem {
  size_t (*read)(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len);
  /* NULL: memory as it is now. Else: are these bytes a copy made before. */
  bool (*holds)(const struct ss_mem *mem, uint64_t addr, size_t len);
};

size_t ss_mem_read(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len);
bool ss_mem_get(const struct ss_mem *mem, uint64_t addr, void *buf, size_t len);
bool ss_mem_holds(const struct ss_mem *mem, uint64_t addr, size_t len);
bool ss_mem_u64(const struct ss_mem *mem, uint64_t addr, uint64_t *value);
bool ss_mem_u32(const struct ss_mem *mem, uint64_t addr, uint32_t *value);

/* A live process: process_vm_readv, behind it /proc/PID/mem (kernels without
 * it, seccomp). No ownership of the process; a dead one reads as 0 bytes. One
 * thread of ours at a time. */
struct ss_mem_live {
  struct ss_mem mem; /* first: pass &live.mem */
  pid_t pid;
  pid_t via;    /* the thread read through: pid, or another once it has ended */
  int mem_fd;   /* /proc/PID/mem once process_vm_readv was refused, else -1 */
  bool refused; /* both ways are closed */
};
void ss_mem_live_init(struct ss_mem_live *live, pid_t pid);
void ss_mem_live_release(struct ss_mem_live *live);

/* Copied spans (a stack snapshot, what stage 1 read) before another reader. */
struct ss_span {
  uint64_t addr;
  size_t len;
  const unsigned char *bytes; /* borrowed */
};
struct ss_mem_spans {
  struct ss_mem mem;           /* first */
  const struct ss_span *spans; /* borrowed; few, searched in order */
  size_t count;
  const struct ss_mem *behind; /* NULL: nothing behind */
};
void ss_mem_spans_init(struct ss_mem_spans *m, const struct ss_span *spans, size_t count,
                       const struct ss_mem *behind);

/* What stage 1 reads at a sample without knowing what it is: a list of
 * regions, read by one process_vm_readv in this order (a region that cannot
 * be read ends the list). `pid` may be any thread of the process. */
struct ss_region {
  uint64_t addr;
  uint32_t len;
};
struct ss_read_plan {
  uint32_t count; /* <= SS_PLAN_REGIONS_MAX; see ss_read_plan_add */
  /* The part of the sampled thread's stack that will be needed if the sample's own
   * copy does not reach so far; 0, 0: none. ss_read_plan_stack makes regions of it. */
  uint64_t stack_from, stack_end;
  struct ss_region regions[20];
  struct ss_chase chase; /* followed after these have been read; start 0: none */
};
/* Bytes read into `buf`, region after region without gaps; 0 on error. */
size_t ss_read_plan_run(const struct ss_read_plan *plan, pid_t pid, void *buf,
                        size_t cap);
/* Adds a region, as far as there is room beside those of the stack. */
void ss_read_plan_add(struct ss_read_plan *plan, uint64_t addr, uint64_t len);
/* Puts in front what a stack copy of `len` bytes from `sp` up lacks of that part, and
 * the copy's last SS_STACK_OVERLAP bytes, by which the two are joined: without them
 * the sample has no stack, and any other region may turn out to be gone. Where `sp` is
 * not on that stack it comes last, whole: it may be gone itself. */
void ss_read_plan_stack(struct ss_read_plan *plan, uint64_t sp, uint64_t len);
/* The spans of `got` bytes in `buf` that reads of regions filled, one after the
 * other; count written. */
size_t ss_region_spans(const struct ss_region *regions, size_t count, const void *buf,
                       size_t got, struct ss_span *spans, size_t cap);
size_t ss_read_plan_spans(const struct ss_read_plan *plan, const void *buf, size_t got,
                          struct ss_span *spans, size_t cap);

/* ---- mappings ----------------------------------------------------------- */

enum { SS_PROT_READ = 1, SS_PROT_WRITE = 2, SS_PROT_EXEC = 4 };

struct ss_map {
  uint64_t start, end; /* [start, end) */
  uint64_t offset;     /* in the file, bytes */
  uint64_t inode;      /* 0: no file */
  uint32_t dev_major, dev_minor;
  uint8_t prot;
  uint32_t path;   /* id in ss_maps.paths; SS_ID_NONE: anonymous */
  uint32_t module; /* cache for elf: id + 1, 0 not looked up, UINT32_MAX none */
};

/* Sorted, without overlap. Zero-initialise. */
struct ss_maps {
  struct ss_map *items;
  size_t count, cap;
  uint64_t generation; /* grows with every change */
  struct ss_paths *paths;
};
/* Path names, shared by the maps of all processes and never freed alone. */
struct ss_paths;
struct ss_paths *ss_paths_new(void);
void ss_paths_free(struct ss_paths *paths);
uint32_t ss_paths_intern(struct ss_paths *paths, const char *path, size_t len);
const char *ss_paths_get(const struct ss_paths *paths, uint32_t id); /* "" */

void ss_maps_init(struct ss_maps *maps, struct ss_paths *paths);
void ss_maps_release(struct ss_maps *maps);
/* Replaces the content by the text of /proc/PID/maps; bad lines are counted in
 * *rejected (may be NULL). " (deleted)" stays part of the path. */
enum ss_err ss_maps_parse(struct ss_maps *maps, const char *text, size_t len,
                          size_t *rejected);
/* Replaces the content by /proc/PID/maps, or /proc/PID/task/TID/maps where the
 * leader is a zombie (R07). */
enum ss_err ss_maps_load(struct ss_maps *maps, pid_t pid, struct ss_diag *diag);
/* A new mapping replaces what it overlaps (munmap is not reported); what
 * remains of an old one on either side stays, its offset advanced. */
enum ss_err ss_maps_insert(struct ss_maps *maps, const struct ss_map *map);
enum ss_err ss_maps_copy(struct ss_maps *to, const struct ss_maps *from);
/* Takes over files' code from an older reading where nothing lies now. */
enum ss_err ss_maps_keep(struct ss_maps *maps, const struct ss_maps *old);
void ss_maps_clear(struct ss_maps *maps);
struct ss_map *ss_maps_find(const struct ss_maps *maps, uint64_t addr); /* NULL */

/* Opens the file behind a mapping: map_files, then the target's root, then the
 * path; the inode and device must match `map`. O_PATH first, regular files
 * only, never blocks (R50, R61). Descriptor, or -1. */
int ss_map_open(pid_t pid, const struct ss_map *map, const char *path,
                struct ss_diag *diag);

/* O_PATH descriptor of `path` with `root_fd` (such as of /proc/PID/root) as its
 * root, or -1 with errno. */
int ss_open_beneath(int root_fd, const char *path);

/* ---- identity and facts ------------------------------------------------- */

struct ss_stat { /* /proc/PID/stat */
  pid_t pid, ppid;
  char state;
  char comm[64];
  uint32_t flags; /* PF_* of the kernel's include/linux/sched.h */
  uint64_t utime_ticks, stime_ticks, start_ticks; /* ss_ticks_ns */
  uint64_t minflt;
  uint32_t threads;
  int processor; /* on which it last ran; -1: the line ends before that */
  /* Of its image; 0 or 1: may not be known. An exec changes them, a fork does not. */
  uint64_t start_code, end_code, start_stack;
};
/* The comm may hold anything, also ") R 1 (". */
bool ss_stat_parse(struct ss_stat *st, const char *text, size_t len);
/* tid 0: the process itself, else one of its threads. */
bool ss_stat_read(struct ss_stat *st, pid_t pid, pid_t tid);
uint64_t ss_ticks_ns(uint64_t ticks);
/* Nanoseconds since it was started. */
uint64_t ss_stat_age_ns(const struct ss_stat *st);
/* Ended, though its parent has not collected it; a leader whose other threads
 * run on has not (R07). */
bool ss_stat_ended(const struct ss_stat *st);
/* Nanoseconds on a CPU and waiting for one; false when gone. Both are 0 for
 * ever on a kernel without CONFIG_SCHED_INFO. */
bool ss_schedstat_read(pid_t pid, pid_t tid, uint64_t *cpu_ns, uint64_t *wait_ns);
/* The text of /proc/PID/status; tid as for ss_stat_read. false: gone or refused. */
bool ss_status_read(struct ss_buf *text, pid_t pid, pid_t tid);
/* What follows "NAME:" in it, up to the text's end; NULL: there is no such line. */
const char *ss_status_value(const char *text, const char *name);
uint64_t ss_status_number(const char *text, const char *name, int base); /* 0: none */
/* Kilobytes of executable mappings (VmExe + VmLib of its status file): changes when
 * code is mapped or unmapped. 0: gone, or without memory. */
uint64_t ss_exec_kb(pid_t pid, pid_t tid);
/* Words of /proc/PID/cmdline or environ. Zero-initialise. */
struct ss_words {
  struct ss_buf text;
  char **items; /* into the text; NULL-terminated, or NULL: none */
  size_t count, cap;
};
/* At most `max` bytes of them; false: none (gone, refused, a kernel thread). */
bool ss_words_read(struct ss_words *w, pid_t pid, const char *name, size_t max);
void ss_words_release(struct ss_words *w);
/* Threads of `pid`, listed again until stable or 10 passes. malloc'ed, sorted;
 * SS_ERR_GONE where there is none. */
enum ss_err ss_tasks_list(pid_t pid, pid_t **tids, size_t *count);
/* `root` and all its descendants at this moment, without those that ended; a
 * parent before its children. malloc'ed; SS_ERR_GONE where none is left. */
enum ss_err ss_tree_list(pid_t root, pid_t **pids, size_t *count);
/* Processes of the whole system that appeared since the last call, in order of their
 * numbers; the first call gives all. Zero-initialise. */
struct ss_newcomers {
  pid_t *before; /* owned, sorted */
  size_t n_before;
};
enum ss_err ss_newcomers_list(struct ss_newcomers *n, pid_t **pids, size_t *count);
void ss_newcomers_release(struct ss_newcomers *n);
/* (pid, start time): false once the process ended or the pid is somebody
 * else's (R10). */
struct ss_identity {
  pid_t pid;
  uint64_t start_ticks;
};
bool ss_identity_get(struct ss_identity *id, pid_t pid);
bool ss_identity_alive(const struct ss_identity *id);
/* Why process `pid` may not be read or traced, and the cheapest remedy, as one
 * line ("PID 4121 belongs to user postgres; run as that user or ..."). Tries the
 * real thing; SS_ERR_OK, and `diag` untouched, where nothing stands in the way. */
enum ss_err ss_access_explain(pid_t pid, struct ss_diag *diag);

#endif
