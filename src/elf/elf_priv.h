/*
 * What the files of src/elf share: an image's inside, and the pieces that
 * modules.c puts together.
 */
#ifndef STACKSAMPLE_ELF_PRIV_H
#define STACKSAMPLE_ELF_PRIV_H

#include <sys/stat.h>

#include "stacksample/buf.h"
#include "stacksample/elf.h"
#include "stacksample/hash.h"

#define SS_ELF_PHDRS_MAX 1024  /* real files have 8 to 20 */
#define SS_ELF_SHDRS_MAX 65536 /* -ffunction-sections objects; DSOs have 40 */
#define SS_ELF_NOTES_MAX 65536 /* bytes of one note segment */
#define SS_IMAGE_PAGES 16      /* cached file pages per image */
#define SS_IMAGE_PAGE_SIZE 4096

struct ss_elf_section {
  const char *name; /* into shstr, or a literal; "" */
  uint32_t type, link;
  uint64_t flags, vaddr, offset, size, entsize;
  unsigned char *bytes; /* owned; NULL until loaded */
  size_t len;
};

struct ss_image {
  char *name;
  int fd;               /* -1: `bytes` */
  unsigned char *bytes; /* owned */
  uint64_t size;
  uint16_t type;
  struct ss_segment *segments;
  size_t segment_count;
  struct ss_elf_section *sections;
  size_t section_count;
  char *shstr; /* owned, NUL-terminated */
  unsigned char build_id[20];
  size_t build_id_len;
  struct { /* direct-mapped */
    uint64_t offset;
    size_t len; /* 0: empty */
    unsigned char *data;
  } pages[SS_IMAGE_PAGES];
};

static inline uint64_t ss_mtime_ns(const struct stat *st)
{
  return (uint64_t)st->st_mtim.tv_sec * 1000000000 + (uint64_t)st->st_mtim.tv_nsec;
}
/* Exactly `len` file bytes at `off`, or false. */
bool ss_image_pread(const struct ss_image *image, uint64_t off, void *buf, size_t len);
struct ss_elf_section *ss_image_section_named(struct ss_image *image, const char *name);
/* Loads (once) the bytes of a section; false: absent, NOBITS, rejected. */
bool ss_image_load(struct ss_image *image, struct ss_elf_section *section);
void ss_image_drop(struct ss_elf_section *section);

/* inflate.c: malloc'ed result, NULL where the input is bad or beyond the cap. */
unsigned char *ss_inflate_section(const unsigned char *bytes, size_t len,
                                  size_t *out_len);
unsigned char *ss_unxz(const unsigned char *bytes, size_t len, size_t *out_len);

/* remapped.c: the module whose text an anonymous mapping has, which becomes one of that
 * file; NULL. */
struct ss_module *ss_module_of_remapped(struct ss_modules *modules, pid_t pid,
                                        const struct ss_maps *maps, struct ss_map *map,
                                        const struct ss_mem *mem);
static inline uint64_t ss_page_down(uint64_t value)
{
  return value & ~(uint64_t)4095;
}

/* perf_map.c: what a JIT says of its code, from whichever file. */
struct ss_jit_code {
  uint32_t name;               /* offset in names */
  uint32_t unwind, unwind_len; /* its .eh_frame in `unwind`; len 0: none */
};
struct ss_jit_place {
  uint64_t start, size;
  uint32_t code; /* index; the greater one is newer */
};
struct ss_perf_map {
  struct ss_jit_place *places; /* sorted, without overlap */
  size_t count, cap;
  struct ss_jit_code *codes; /* in the order of the file */
  size_t code_count, code_cap;
  struct ss_buf names;        /* NUL-terminated each */
  struct ss_buf unwind;       /* sections, one behind the other */
  const struct ss_maps *maps; /* places that are no code in it do not count; or NULL */
  uint64_t taken, dev, ino;   /* so many bytes of that file are read */
  struct ss_jit_code next;    /* jitdump.c: unwind information of the next code, */
  struct ss_idmap by_index;   /* code_index -> index of the code, and whether the rest */
  bool cut;                   /* of the dump makes no sense */
};
/* Takes what is whole of the bytes that follow those taken, returns how many these
 * are, and counts what makes no sense. */
typedef size_t ss_jit_reader(struct ss_perf_map *map, const void *bytes, size_t len,
                             size_t *rejected);
ss_jit_reader ss_perf_map_lines, ss_jitdump_records;
/* Takes them by a reader and puts what is new in its place. */
enum ss_err ss_perf_map_extend(struct ss_perf_map *map, ss_jit_reader *read,
                               const void *bytes, size_t len, size_t *rejected);
/* Adds code as the newest; false: it makes no sense, or there is no memory. The
 * second takes the name and what else is known from `code`. */
bool ss_perf_map_add(struct ss_perf_map *map, uint64_t start, uint64_t size,
                     const char *name, size_t len);
bool ss_perf_map_place(struct ss_perf_map *map, uint64_t start, uint64_t size,
                       struct ss_jit_code code);
/* The dump that the process has mapped; -1 with SS_ERR_GONE: it has none. */
int ss_jitdump_open(pid_t pid, const struct ss_maps *maps, struct ss_diag *diag);

/* debugfile.c: the separate debug file of `image`, looked up under the folder
 * `root_fd` (the target's root) by build-id, then by .gnu_debuglink beside
 * `path`; its build-id or CRC is checked. NULL where there is none. */
struct ss_image *ss_debug_image_find(struct ss_image *image, int root_fd,
                                     const char *path);
/* Basename of .gnu_debuglink and its CRC; false: none, or not a basename. */
bool ss_debuglink_parse(const unsigned char *bytes, size_t len, const char **name,
                        uint32_t *crc);

#endif
