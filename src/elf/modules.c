/*
 * The registry of mapped files, shared by all processes.
 *
 * A file is known by device and inode, and by size and modification time, so
 * that a file rewritten in place is a new module. It is opened when the first
 * stack hits it and stays open: it may be gone when names are wanted. Where a
 * mapping's file cannot be opened the module exists all the same, with the
 * reason in `why`.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "elf_priv.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"
#include "stacksample/text.h"

#define VDSO_MAX (1u << 20) /* the kernel's is two or three pages */

struct root { /* root folder of some target, for debug files */
  dev_t dev;
  ino_t ino;
  int fd;
};

struct entry {
  struct ss_module module; /* first */
  uint64_t size, mtime_ns;
  uint32_t next; /* id + 1 of the next entry with this device and inode */
};

struct ss_modules {
  struct entry **entries;
  size_t count, cap;
  struct ss_idmap by_inode; /* hash of device and inode -> id of the first */
  struct root *roots;
  size_t root_count, root_cap;
};

struct ss_modules *ss_modules_new(void)
{
  return calloc(1, sizeof(struct ss_modules));
}

static void entry_free(struct entry *e)
{
  struct ss_module *m = &e->module;
  if (m->unwind_free != NULL)
    m->unwind_free(m->unwind);
  ss_symtab_free(m->symtab);
  ss_image_close(m->debug);
  ss_image_close(m->image);
  free(m->path);
  free(m->name);
  free(e);
}

void ss_modules_free(struct ss_modules *modules)
{
  if (modules == NULL)
    return;
  for (size_t i = 0; i < modules->count; i++)
    entry_free(modules->entries[i]);
  for (size_t i = 0; i < modules->root_count; i++)
    ss_close(&modules->roots[i].fd);
  ss_idmap_release(&modules->by_inode);
  free(modules->entries);
  free(modules->roots);
  free(modules);
}

size_t ss_modules_count(const struct ss_modules *modules)
{
  return modules->count;
}

struct ss_module *ss_modules_at(struct ss_modules *modules, uint32_t id)
{
  return id < modules->count ? &modules->entries[id]->module : NULL;
}

/* Descriptor of the root folder of `pid`, opened once per different one; -1. */
static int root_of(struct ss_modules *modules, pid_t pid)
{
  char path[64];
  struct stat st;
  snprintf(path, sizeof path, "/proc/%d/root", (int)pid);
  int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0) {
    ss_close(&fd);
    return -1;
  }
  for (size_t i = 0; i < modules->root_count; i++) {
    if (modules->roots[i].dev == st.st_dev && modules->roots[i].ino == st.st_ino) {
      ss_close(&fd);
      return modules->roots[i].fd;
    }
  }
  if (!ss_grow(&modules->roots, &modules->root_cap, modules->root_count + 1,
               sizeof *modules->roots)) {
    ss_close(&fd);
    return -1;
  }
  modules->roots[modules->root_count++] = (struct root){st.st_dev, st.st_ino, fd};
  return fd;
}

static char *path_without_deleted(const char *path)
{
  static const char suffix[] = " (deleted)";
  size_t len = strlen(path);
  if (len > sizeof suffix - 1 && strcmp(path + len - (sizeof suffix - 1), suffix) == 0)
    len -= sizeof suffix - 1;
  return strndup(path, len);
}

static uint64_t inode_key(const struct ss_map *map)
{
  uint64_t dev = (uint64_t)map->dev_major << 32 | map->dev_minor;
  return ss_hash_u64(map->inode ^ ss_hash_u64(dev));
}

static bool same_file(const struct entry *e, const struct ss_map *map,
                      const struct stat *st)
{
  const struct ss_module *m = &e->module;
  if (m->inode != map->inode || m->dev_major != map->dev_major ||
      m->dev_minor != map->dev_minor)
    return false;
  return m->image == NULL ||
         (e->size == (uint64_t)st->st_size && e->mtime_ns == ss_mtime_ns(st));
}

static struct entry *find_entry(struct ss_modules *modules, const struct ss_map *map,
                                const struct stat *st)
{
  const uint64_t *first = ss_idmap_get(&modules->by_inode, inode_key(map));
  uint32_t link = first == NULL ? 0 : (uint32_t)*first + 1;
  struct entry *any = NULL;
  for (; link != 0; link = modules->entries[link - 1]->next) {
    struct entry *e = modules->entries[link - 1];
    if (st != NULL && same_file(e, map, st))
      return e;
    if (e->module.inode == map->inode && e->module.dev_major == map->dev_major &&
        e->module.dev_minor == map->dev_minor)
      any = e;
  }
  /* A file that is gone meanwhile: what was read when it was there. */
  return st == NULL ? any : NULL;
}

/* Appends a module without an image yet. */
static struct entry *add_entry(struct ss_modules *modules, const struct ss_map *map,
                               const char *path)
{
  struct entry *e = calloc(1, sizeof *e);
  if (e == NULL)
    return NULL;
  struct ss_module *m = &e->module;
  m->path = path_without_deleted(path);
  m->name = m->path == NULL ? NULL : strdup(ss_base_name(m->path));
  if (m->name == NULL || modules->count >= UINT32_MAX - 2 ||
      !ss_grow(&modules->entries, &modules->cap, modules->count + 1,
               sizeof *modules->entries)) {
    entry_free(e);
    return NULL;
  }
  m->id = (uint32_t)modules->count;
  m->root_fd = -1;
  m->inode = map->inode;
  m->dev_major = map->dev_major;
  m->dev_minor = map->dev_minor;
  modules->entries[modules->count++] = e;
  return e;
}

static void entry_set_image(struct entry *e, struct ss_image *image)
{
  e->module.image = image;
  e->module.build_id_len = ss_image_build_id(image, e->module.build_id);
}

static struct entry *module_of_file(struct ss_modules *modules, pid_t pid,
                                    const struct ss_map *map, const char *path)
{
  struct ss_diag why = {0};
  struct stat st;
  int fd = ss_map_open(pid, map, path, &why);
  bool have_stat = fd >= 0 && fstat(fd, &st) == 0;
  struct entry *e = find_entry(modules, map, have_stat ? &st : NULL);
  if (e == NULL && (e = add_entry(modules, map, path)) != NULL) {
    uint64_t key = inode_key(map);
    const uint64_t *first = ss_idmap_get(&modules->by_inode, key);
    e->next = first == NULL ? 0 : (uint32_t)*first + 1;
    ss_idmap_put(&modules->by_inode, key, e->module.id);
    e->module.root_fd = root_of(modules, pid);
  }
  if (e != NULL && e->module.image == NULL && have_stat) {
    struct ss_image *image = NULL;
    e->size = (uint64_t)st.st_size;
    e->mtime_ns = ss_mtime_ns(&st);
    if (ss_image_open(&image, fd, path, &why) == SS_ERR_OK)
      entry_set_image(e, image);
    fd = -1;
  }
  if (e != NULL && e->module.image == NULL)
    e->module.why = why;
  ss_close(&fd);
  return e;
}

/* All processes of one kernel have the same 64-bit vdso; one module of it is
 * kept per different content. */
static struct entry *module_of_vdso(struct ss_modules *modules, const struct ss_map *map,
                                    const struct ss_mem *mem)
{
  size_t len = (size_t)(map->end - map->start);
  unsigned char *bytes = len <= VDSO_MAX ? malloc(len) : NULL;
  struct ss_image *image = NULL;
  struct entry *e = NULL;
  if (bytes == NULL || mem == NULL || !ss_mem_get(mem, map->start, bytes, len) ||
      ss_image_open_bytes(&image, bytes, len, "[vdso]", NULL) != SS_ERR_OK)
    goto out;
  for (size_t i = 0; i < modules->count; i++) {
    const struct ss_module *m = &modules->entries[i]->module;
    if (strcmp(m->path, "[vdso]") == 0 && m->image != NULL && m->image->size == len &&
        memcmp(m->image->bytes, bytes, len) == 0)
      e = modules->entries[i];
  }
  if (e == NULL && (e = add_entry(modules, map, "[vdso]")) != NULL) {
    entry_set_image(e, image);
    image = NULL;
  }
out:
  ss_image_close(image);
  free(bytes);
  return e;
}

struct ss_module *ss_module_of(struct ss_modules *modules, pid_t pid,
                               const struct ss_maps *maps, struct ss_map *map,
                               const struct ss_mem *mem)
{
  if (map->module == UINT32_MAX)
    return NULL;
  if (map->module != 0)
    return ss_modules_at(modules, map->module - 1);
  const char *path = map->path == SS_ID_NONE ? "" : ss_paths_get(maps->paths, map->path);
  struct entry *e = NULL;
  if (strcmp(path, "[vdso]") == 0)
    e = module_of_vdso(modules, map, mem);
  else if (path[0] == '/' && map->inode != 0)
    e = module_of_file(modules, pid, map, path);
  struct ss_module *module = e == NULL ? NULL : &e->module;
  if (map->inode == 0 && path[0] != '[' && (map->prot & SS_PROT_EXEC) != 0)
    module = ss_module_of_remapped(modules, pid, maps, map, mem);
  map->module = module == NULL ? UINT32_MAX : module->id + 1;
  return module;
}

/* How well a segment explains a mapping: 0 not at all. Two segments may share
 * a page of the file, and mprotect splits a segment into several mappings. */
static int segment_fit(const struct ss_segment *seg, const struct ss_map *map)
{
  uint64_t start = ss_page_down(seg->offset);
  if (seg->filesz == 0 || map->offset < start || map->offset >= seg->offset + seg->filesz)
    return 0;
  int fit = 1;
  if (map->offset == start)
    fit += 1;
  if (((seg->flags & PF_X) != 0) == ((map->prot & SS_PROT_EXEC) != 0))
    fit += 2;
  return fit;
}

bool ss_module_bias(const struct ss_module *module, const struct ss_map *map,
                    uint64_t *bias)
{
  const struct ss_segment *segments;
  if (module->image == NULL)
    return false;
  size_t count = ss_image_segments(module->image, &segments);
  const struct ss_segment *best = NULL;
  int best_fit = 0;
  for (size_t i = 0; i < count; i++) {
    int fit = segment_fit(&segments[i], map);
    if (fit > best_fit) {
      best_fit = fit;
      best = &segments[i];
    }
  }
  if (best == NULL)
    return false;
  uint64_t vaddr = ss_page_down(best->vaddr) + (map->offset - ss_page_down(best->offset));
  *bias = map->start - vaddr;
  return ss_image_type(module->image) != ET_EXEC || *bias == 0;
}

bool ss_module_symbol(struct ss_module *module, uint64_t vaddr, struct ss_symbol *out)
{
  if (!module->symtab_tried) {
    module->symtab_tried = true;
    if (module->image == NULL)
      return false;
    module->debug = ss_debug_image_find(module->image, module->root_fd, module->path);
    ss_symtab_build(&module->symtab, module->image, module->debug, NULL);
  }
  return module->symtab != NULL && ss_symtab_find(module->symtab, vaddr, out);
}
