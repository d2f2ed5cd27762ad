/*
 * The live environment of another process: where its C library keeps
 * `environ`, and what the array holds now. /proc/PID/environ shows only the
 * block it was started with.
 *
 * A program that is not position-independent has a copy of the variable in its
 * own .bss (R_X86_64_COPY), which then is the one in use: the program is asked
 * before the library. All of it is input: every loop is bounded by limits.h.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "context_priv.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/text.h"

/* ---- where ------------------------------------------------------------------- */

/* Files that hold the C library, by the beginning of their names. */
static const char *const libc_names[] = {
    "libc.so.6",  /* glibc */
    "libc-2.",    /* glibc before 2.34 is mapped as libc-2.31.so */
    "ld-musl-",   /* musl: library and loader are one file */
    "libc.musl-", /* Alpine's other name of it */
    "libc.so",    /* musl built from source */
};

static bool is_libc(const char *path)
{
  const char *name = ss_base_name(path);
  for (size_t i = 0; i < sizeof libc_names / sizeof libc_names[0]; i++)
    if (ss_starts_with(name, libc_names[i]))
      return true;
  return false;
}

/* Run-time address of a variable `environ` that the file of `map` defines. */
static uint64_t defined_in(const struct ss_unwind_space *space, struct ss_map *map)
{
  static const char *const names[] = {"environ", "__environ", "_environ"};
  struct ss_symbol symbol;
  uint64_t bias;
  struct ss_module *module =
      ss_module_of(space->modules, space->pid, space->maps, map, space->live);
  if (!module || !module->image || !ss_module_bias(module, map, &bias))
    return 0;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (ss_image_lookup(module->image, names[i], &symbol) &&
        symbol.size == sizeof(char **))
      return symbol.start + bias;
  return 0;
}

/* The program's file as the maps show it, "" where it cannot be told. */
static void program_path(pid_t pid, char *out, size_t cap)
{
  char link[64];
  snprintf(link, sizeof link, "/proc/%d/exe", (int)pid);
  ssize_t len = readlink(link, out, cap - 1);
  out[len > 0 ? len : 0] = '\0';
}

/* The first mapping that `wanted` (NULL: any C library) names and that defines
 * the variable. */
static uint64_t find_in(const struct ss_unwind_space *space, const char *wanted)
{
  uint32_t tried = SS_ID_NONE;
  for (size_t i = 0; i < space->maps->count; i++) {
    struct ss_map *map = &space->maps->items[i];
    if (map->path == SS_ID_NONE || map->path == tried)
      continue;
    const char *path = ss_paths_get(space->maps->paths, map->path);
    if (wanted ? strcmp(path, wanted) != 0 : !is_libc(path))
      continue;
    uint64_t addr = defined_in(space, map);
    if (addr != 0)
      return addr;
    tried = map->path;
  }
  return 0;
}

uint64_t ss_environ_locate(const struct ss_unwind_space *space)
{
  char program[SS_PATH_MAX];
  program_path(space->pid, program, sizeof program);
  uint64_t addr = program[0] ? find_in(space, program) : 0;
  return addr ? addr : find_in(space, NULL);
}

/* ---- what -------------------------------------------------------------------- */

enum { PAGE_BYTES = 4096 };

/* The page read last: the strings of a process' first environment lie side by
 * side, so that a few reads serve them all. */
struct window {
  const struct ss_mem *mem;
  uint64_t page;
  size_t got;
  unsigned reads;
  unsigned char bytes[PAGE_BYTES];
};

/* The first bytes at `addr`, at most `len`; how many. */
static size_t peek(struct window *w, uint64_t addr, char *buf, size_t len)
{
  uint64_t page = addr & ~(uint64_t)(PAGE_BYTES - 1);
  size_t off = (size_t)(addr - page);
  if (off + len > PAGE_BYTES) {
    w->reads++;
    return ss_mem_read(w->mem, addr, buf, len);
  }
  if (w->reads == 0 || w->page != page || w->got == 0) {
    w->page = page;
    w->got = ss_mem_read(w->mem, page, w->bytes, PAGE_BYTES);
    w->reads++;
  }
  if (off >= w->got)
    return 0;
  size_t have = w->got - off < len ? w->got - off : len;
  memcpy(buf, w->bytes + off, have);
  return have;
}

static bool begins(const char *text, size_t len, const char *name)
{
  size_t name_len = strlen(name);
  return len >= name_len && memcmp(text, name, name_len) == 0;
}

static void look_at(struct window *w, uint64_t slot, uint64_t string,
                    struct ss_env_scan *out)
{
  char text[sizeof SS_TEST_NAME];
  size_t len = peek(w, string, text, sizeof text);
  if (begins(text, len, SS_TEST_NAME))
    out->test_slot = slot;
  else if (begins(text, len, "PYTEST_XDIST_WORKER="))
    out->worker_string = string;
  else if (begins(text, len, "PYTEST_VERSION="))
    out->version = true;
}

bool ss_env_scan(const struct ss_mem *mem, uint64_t array, uint32_t from,
                 struct ss_env_scan *out)
{
  enum { BATCH = 128 };
  struct window w = {.mem = mem};
  uint64_t slots[BATCH];
  *out = (struct ss_env_scan){.count = from};
  while (out->count < SS_ENVIRON_MAX) {
    uint64_t at = array + (uint64_t)out->count * sizeof slots[0];
    size_t got = ss_mem_read(mem, at, slots, sizeof slots) / sizeof slots[0];
    out->reads = ++w.reads;
    if (got == 0)
      return false;
    for (size_t i = 0; i < got; i++) {
      if (slots[i] == 0 || out->count == SS_ENVIRON_MAX)
        return true;
      look_at(&w, at + i * sizeof slots[0], slots[i], out);
      out->last = slots[i];
      out->count++;
      out->reads = w.reads;
    }
  }
  return true;
}

size_t ss_env_string(const struct ss_mem *mem, uint64_t addr, char *buf, size_t cap,
                     bool *whole)
{
  enum { STEP = 256 }; /* most test ids end in the first */
  size_t len = 0;
  *whole = false;
  while (len < cap) {
    size_t want = cap - len < STEP ? cap - len : STEP;
    size_t got = ss_mem_read(mem, addr + len, buf + len, want);
    const char *nul = memchr(buf + len, '\0', got);
    if (nul) {
      *whole = true;
      return (size_t)(nul - buf);
    }
    len += got;
    if (got < want)
      break;
  }
  return len;
}
