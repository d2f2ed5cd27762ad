/*
 * Where CPython is in a process, and which one: the mapped file that *defines*
 * _PyRuntime (extension modules only refer to it), or has a section .PyRuntime
 * where the symbol is hidden. Its version comes from memory (_Py_DebugOffsets,
 * Py_Version) or, up to 3.10, from the file's name and strings.
 *
 * Files are only read, never executed.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "python_priv.h"
#include "stacksample/text.h"

enum { MINOR_MIN = 8, MINOR_MAX = 15 };

/* The file's address of the runtime and of PyCode_Type; false: not CPython. */
static bool try_map(struct ss_py *py, struct ss_map *map, struct ss_module **found)
{
  const struct ss_unwind_space *space = py->space;
  struct ss_symbol symbol;
  struct ss_section section;
  uint64_t bias, at;
  struct ss_module *m =
      ss_module_of(space->modules, space->pid, space->maps, map, space->live);
  if (!m || !m->image)
    return false;
  if (ss_image_lookup(m->image, "_PyRuntime", &symbol))
    at = symbol.start;
  else if (ss_image_section(m->image, ".PyRuntime", &section))
    at = section.vaddr;
  else
    return false;
  if (!ss_module_bias(m, map, &bias))
    return false;
  py->runtime = at + bias;
  py->code_type =
      ss_image_lookup(m->image, "PyCode_Type", &symbol) ? symbol.start + bias : 0;
  if (ss_image_lookup(m->image, "_PyEval_EvalFrameDefault", &symbol)) {
    py->eval_start = symbol.start;
    py->eval_end = symbol.start + symbol.size;
  }
  py->module = m;
  *found = m;
  return true;
}

/* Files named as interpreters first, then the executable whatever its name. */
static struct ss_module *find_runtime(struct ss_py *py, uint64_t *bias)
{
  const struct ss_maps *maps = py->space->maps;
  char link[64], exe[SS_PATH_MAX];
  snprintf(link, sizeof link, "/proc/%d/exe", (int)py->space->pid);
  const ssize_t len = readlink(link, exe, sizeof exe - 1);
  exe[len > 0 ? len : 0] = '\0';
  for (int pass = 0; pass < 2; pass++) {
    uint32_t last = SS_ID_NONE;
    for (size_t i = 0; i < maps->count; i++) {
      struct ss_map *map = &maps->items[i];
      if (map->path == SS_ID_NONE || map->path == last)
        continue;
      last = map->path;
      const char *path = ss_paths_get(maps->paths, map->path);
      const char *name = ss_base_name(path);
      const bool named =
          ss_starts_with(name, "python") || ss_starts_with(name, "libpython");
      struct ss_module *m;
      if ((pass == 0 ? named : strcmp(path, exe) == 0) && try_map(py, map, &m))
        return ss_module_bias(m, map, bias) ? m : NULL;
    }
  }
  return NULL;
}

/* "3.N" in a file's name: libpython3.8.so.1.0, python3.9; 0 if it has none. */
static unsigned minor_of_name(const char *path)
{
  const char *at = strstr(ss_base_name(path), "python3.");
  unsigned minor = 0;
  if (!at)
    return 0;
  for (at += strlen("python3."); isdigit((unsigned char)*at) && minor < 100; at++)
    minor = minor * 10 + (unsigned)(*at - '0');
  return minor;
}

/* The string literal PY_VERSION, "3.8.18", among the constants; false if none of
 * that minor (0: any). */
static bool version_in_constants(struct ss_image *image, unsigned wanted, unsigned *told,
                                 char *text, size_t cap)
{
  struct ss_section s;
  if (!ss_image_section(image, ".rodata", &s))
    return false;
  bool found = false;
  for (size_t i = 0; i + 1 < s.len && !found; i++) {
    if (s.bytes[i] != '\0' || s.bytes[i + 1] != '3')
      continue;
    const char *at = (const char *)s.bytes + i + 1;
    const size_t len = strnlen(at, s.len - i - 1);
    unsigned patch;
    int used = 0;
    if (len >= 5 && len < 16 && len < s.len - i - 1 &&
        sscanf(at, "3.%2u.%2u%n", told, &patch, &used) == 2 && (size_t)used == len &&
        (wanted == 0 || wanted == *told))
      found = snprintf(text, cap, "%s", at) > 0;
  }
  ss_image_drop_section(image, ".rodata");
  return found;
}

static void version_of_hex(struct ss_py *py, uint64_t hex, unsigned *minor)
{
  *minor = (hex >> 24) == 3 ? (unsigned)(hex >> 16 & 0xff) : 0;
  snprintf(py->version, sizeof py->version, "%u.%u.%u", (unsigned)(hex >> 24 & 0xff),
           (unsigned)(hex >> 16 & 0xff), (unsigned)(hex >> 8 & 0xff));
}

static void version_of_file(struct ss_py *py, struct ss_module *m, unsigned *minor)
{
  const unsigned named = minor_of_name(m->path);
  *minor = named;
  if (!version_in_constants(m->image, named, minor, py->version, sizeof py->version))
    snprintf(py->version, sizeof py->version, "3.%u", *minor = named);
}

static enum ss_err refuse(const struct ss_py *py, struct ss_diag *diag)
{
  return ss_fail(diag, SS_ERR_UNSUPPORTED,
                 "CPython %s: Python frames are read from 3.%d to 3.%d", py->version,
                 MINOR_MIN, MINOR_MAX);
}

enum ss_err ss_py_detect(struct ss_py *py, struct ss_diag *diag)
{
  unsigned char debug[SS_PY_DEBUG_MAX];
  struct ss_py_debug_head head = {0};
  struct ss_symbol symbol;
  uint64_t bias, hex, interp;
  unsigned minor;
  struct ss_module *m = find_runtime(py, &bias);
  if (!m)
    return ss_fail(diag, SS_ERR_GONE, "no CPython in process %d", (int)py->space->pid);
  const size_t got = ss_mem_read(py->space->live, py->runtime, debug, sizeof debug);
  const bool has_debug = ss_py_debug_head(debug, got, &head);
  if (has_debug)
    version_of_hex(py, head.version, &minor);
  else if (ss_image_lookup(m->image, "Py_Version", &symbol) &&
           ss_mem_u64(py->space->live, symbol.start + bias, &hex))
    version_of_hex(py, hex, &minor);
  else
    version_of_file(py, m, &minor);
  if (!ss_py_layout_static(&py->layout, minor, head.free_threaded))
    return refuse(py, diag);
  enum ss_err err =
      has_debug ? ss_py_layout_debug(&py->layout, debug, got, diag) : SS_ERR_OK;
  if (err == SS_ERR_OK)
    err = ss_py_layout_finish(&py->layout, diag);
  if (err != SS_ERR_OK)
    return err;
  if (!ss_mem_u64(py->space->live, py->runtime + py->layout.runtime_interpreters,
                  &interp) ||
      interp == 0)
    return ss_fail(diag, SS_ERR_GONE, "CPython %s is not initialised yet", py->version);
  return SS_ERR_OK;
}
