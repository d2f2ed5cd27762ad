/*
 * ELF files and names. Files are read with pread (a file that is truncated
 * while mapped would be SIGBUS, R51); nothing here trusts an offset or a count.
 *
 * A `struct ss_module` is one file (or the vdso) that some process mapped. It
 * is opened when a stack first hits it, kept until the end, and shared by all
 * processes: the file may be gone by the time names are wanted.
 * Not thread-safe: one owner (the stage 2 thread, or `report`).
 */
#ifndef STACKSAMPLE_ELF_H
#define STACKSAMPLE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/error.h"
#include "stacksample/proc.h"

/* ---- image: one ELF file ------------------------------------------------ */

struct ss_section {
  const unsigned char *bytes; /* owned by the image, valid until its close */
  size_t len;
  uint64_t vaddr;
};
struct ss_segment { /* PT_LOAD */
  uint64_t vaddr, offset, filesz;
  uint32_t flags; /* PF_* */
};
struct ss_image; /* opaque */

/* Takes over `fd` (also on error). `name` is for messages, copied. */
enum ss_err ss_image_open(struct ss_image **image, int fd, const char *name,
                          struct ss_diag *diag);
/* Over bytes already in memory (vdso, decompressed data); copied. */
enum ss_err ss_image_open_bytes(struct ss_image **image, const void *bytes, size_t len,
                                const char *name, struct ss_diag *diag);
void ss_image_close(struct ss_image *image);
/* Build-id bytes (at most 20 kept); length 0 where there is none. */
size_t ss_image_build_id(const struct ss_image *image, unsigned char id[20]);
size_t ss_image_segments(const struct ss_image *image,
                         const struct ss_segment **segments);
uint16_t ss_image_type(const struct ss_image *image); /* ET_EXEC, ET_DYN */
/* Loads (once) a section by name, decompressed with a cap where SHF_COMPRESSED.
 * Works from the program headers where section headers are stripped, for
 * .eh_frame_hdr and .eh_frame. false: absent or rejected. */
bool ss_image_section(struct ss_image *image, const char *name, struct ss_section *out);
/* Where a section that is mapped into memory lies, without loading it. */
bool ss_image_section_at(struct ss_image *image, const char *name, uint64_t *vaddr,
                         uint64_t *len);
/* Frees a loaded section's bytes; a later ss_image_section reads it again. */
void ss_image_drop_section(struct ss_image *image, const char *name);
/* File bytes at a virtual address; short at a segment's end. Cached pages. */
size_t ss_image_read(struct ss_image *image, uint64_t vaddr, void *buf, size_t len);

/* ---- symbols ------------------------------------------------------------- */

struct ss_symbol {
  uint64_t start, size; /* vaddr; size 0 only where the file says so */
  const char *name;     /* mangled, borrowed from the table */
};
struct ss_symtab; /* sorted functions (and, on request, objects) of an image */
/* .symtab, else .gnu_debugdata + .dynsym, else .dynsym; a separate debug file
 * given by `debug` (may be NULL) first. */
enum ss_err ss_symtab_build(struct ss_symtab **tab, struct ss_image *image,
                            struct ss_image *debug, struct ss_diag *diag);
void ss_symtab_free(struct ss_symtab *tab);
/* The function that covers `vaddr`: st_value <= vaddr < st_value + st_size.
 * GLOBAL before WEAK before LOCAL, then the longer size. Never the nearest. */
bool ss_symtab_find(const struct ss_symtab *tab, uint64_t vaddr, struct ss_symbol *out);
/* A *defined* symbol of .dynsym (or .symtab) by exact name: its vaddr and size.
 * Undefined entries are skipped: every extension module has one of _PyRuntime. */
bool ss_image_lookup(struct ss_image *image, const char *name, struct ss_symbol *out);
/* malloc'ed demangled name with a cap, or a copy of `name` where it is not C++;
 * parameter lists and template arguments stay. NULL when out of memory. */
char *ss_demangle(const char *name);

/* ---- modules: files shared by all processes ------------------------------ */

struct ss_module {
  uint32_t id; /* dense, 0 first */
  char *path;  /* as mapped, without " (deleted)" */
  char *name;  /* basename for a frame's "(library)"; "[vdso]" */
  uint64_t inode;
  uint32_t dev_major, dev_minor;
  unsigned char build_id[20];
  size_t build_id_len;
  struct ss_image *image; /* NULL: could not be opened, see why */
  struct ss_diag why;
  int root_fd;              /* the target's root folder, borrowed; -1 */
  struct ss_image *debug;   /* separate debug file, from ss_module_symbol on */
  struct ss_symtab *symtab; /* NULL until ss_module_symbol */
  bool symtab_tried;
  void *unwind; /* for src/unwind: its per-module state */
  void (*unwind_free)(void *unwind);
};
struct ss_modules; /* the registry */
struct ss_modules *ss_modules_new(void);
void ss_modules_free(struct ss_modules *modules);
size_t ss_modules_count(const struct ss_modules *modules);
struct ss_module *ss_modules_at(struct ss_modules *modules, uint32_t id);
/* The module behind a mapping of `pid`, opened now if it is new; NULL for an
 * anonymous mapping. Caches in map->module. `map` must be one of `maps`. The
 * vdso is read from `mem`, and so is anonymous memory with code beside a file's mapping:
 * where it is that file's, `map` becomes one of the file. */
struct ss_module *ss_module_of(struct ss_modules *modules, pid_t pid,
                               const struct ss_maps *maps, struct ss_map *map,
                               const struct ss_mem *mem);
/* What to subtract from a run-time address in `map` to get the file's vaddr.
 * ET_EXEC gives 0; false where no PT_LOAD fits the mapping (rejected). */
bool ss_module_bias(const struct ss_module *module, const struct ss_map *map,
                    uint64_t *bias);
/* Name of the function covering vaddr; builds the symtab at first use. */
bool ss_module_symbol(struct ss_module *module, uint64_t vaddr, struct ss_symbol *out);

/* ---- other sources of names ---------------------------------------------- */

/* What a target's JIT says of its code: /tmp/perf-PID.map, honoured safely (R54, R55),
 * and the jitdump that it has mapped. */
struct ss_perf_map;
/* Of a *map that is not NULL only what the JIT has written since is read; where that is
 * another file now, *map is another, too. After an error it is as it was, or NULL.
 * Code outside the mappings' code has no name; `maps` must outlive the map. */
enum ss_err ss_perf_map_load(struct ss_perf_map **map, pid_t pid,
                             const struct ss_maps *maps, struct ss_diag *diag);
/* Whole lines. Later ones win over the earlier ones that they overlap (a JIT reuses
 * its memory); those and lines that make no sense are counted in *rejected. */
enum ss_err ss_perf_map_parse(struct ss_perf_map **map, const char *text, size_t len,
                              size_t *rejected);
/* The same of a jitdump (Linux tools/perf/Documentation/jitdump-specification.txt). */
enum ss_err ss_perf_map_parse_jitdump(struct ss_perf_map **map, const void *bytes,
                                      size_t len, size_t *rejected);
void ss_perf_map_free(struct ss_perf_map *map);
bool ss_perf_map_find(const struct ss_perf_map *map, uint64_t addr,
                      struct ss_symbol *out);
/* An .eh_frame section whose first entry is that of the code from `start` on. */
struct ss_jit_unwind {
  uint64_t start;
  const unsigned char *eh_frame; /* borrowed from the map */
  size_t len;
};
bool ss_perf_map_unwind(const struct ss_perf_map *map, uint64_t addr,
                        struct ss_jit_unwind *out);

/* Kernel function names; NULL where /proc/kallsyms hides addresses. */
struct ss_kallsyms;
struct ss_kallsyms *ss_kallsyms_load(void);
struct ss_kallsyms *ss_kallsyms_parse(const char *text, size_t len);
void ss_kallsyms_free(struct ss_kallsyms *k);
/* false outside any symbol. A kernel module's function is "name [module]". */
bool ss_kallsyms_find(const struct ss_kallsyms *k, uint64_t addr, struct ss_symbol *out);

#endif
