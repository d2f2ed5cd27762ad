/*
 * Names of native functions, looked up once a frame after the run: the symbol
 * that covers the frame's offset in its file, demangled.
 *
 * Files that are still open since a stack hit them are used as they are. Else
 * (`report` after a kill) a file is opened by its path and taken only where its
 * build-id is the recorded one: a rebuilt library would name wrongly.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "output_priv.h"
#include "stacksample/elf.h"
#include "stacksample/sys.h"

struct source { /* where the names of one module come from */
  bool tried;
  struct ss_module *open;    /* borrowed from the registry, or NULL */
  struct ss_image *image;    /* owned, where re-opened */
  struct ss_symtab *symbols; /* owned, where re-opened */
};

struct names {
  struct ss_store *store;
  struct ss_modules *modules;
  struct source *sources; /* by module id */
  size_t count, cap;
};

static bool same_file(const struct ss_module *m, const struct ss_module_row *row,
                      const char *path)
{
  if (m->build_id_len > 0 || row->build_id_len > 0) {
    return m->build_id_len == row->build_id_len &&
           memcmp(m->build_id, row->build_id, m->build_id_len) == 0;
  }
  return m->path != NULL && strcmp(m->path, path) == 0;
}

static struct ss_module *find_open(struct ss_modules *modules,
                                   const struct ss_module_row *row, const char *path)
{
  size_t count = modules == NULL ? 0 : ss_modules_count(modules);
  for (size_t i = 0; i < count; i++) {
    struct ss_module *m = ss_modules_at(modules, (uint32_t)i);
    if (m != NULL && m->image != NULL && same_file(m, row, path))
      return m;
  }
  return NULL;
}

static void reopen(struct source *source, const struct ss_module_row *row,
                   const char *path)
{
  unsigned char id[20];
  if (row->build_id_len == 0 || path[0] != '/')
    return;
  int fd = ss_file_open_regular(AT_FDCWD, path, NULL);
  if (fd < 0 || ss_image_open(&source->image, fd, path, NULL) != SS_ERR_OK) {
    source->image = NULL;
    return;
  }
  size_t len = ss_image_build_id(source->image, id);
  bool same = len == row->build_id_len && memcmp(id, row->build_id, len) == 0;
  if (!same || ss_symtab_build(&source->symbols, source->image, NULL, NULL) != SS_ERR_OK)
    source->symbols = NULL;
}

static struct source *source_of(struct names *n, uint32_t module)
{
  struct ss_module_row row;
  if (!ss_store_module_at(n->store, module, &row))
    return NULL;
  size_t had = n->count;
  if (module >= had) {
    if (!ss_grow(&n->sources, &n->cap, (size_t)module + 1, sizeof *n->sources))
      return NULL;
    n->count = (size_t)module + 1;
    memset(&n->sources[had], 0, (n->count - had) * sizeof *n->sources);
  }
  struct source *source = &n->sources[module];
  if (!source->tried) {
    const char *path = ss_store_str(n->store, row.path);
    source->tried = true;
    source->open = find_open(n->modules, &row, path);
    if (source->open == NULL)
      reopen(source, &row, path);
  }
  return source;
}

static bool find_symbol(const struct source *source, uint64_t vaddr,
                        struct ss_symbol *symbol)
{
  if (source->open != NULL)
    return ss_module_symbol(source->open, vaddr, symbol);
  return source->symbols != NULL && ss_symtab_find(source->symbols, vaddr, symbol);
}

static void name_frame(struct names *n, uint32_t frame, const struct ss_frame_row *row)
{
  struct ss_symbol symbol;
  const struct source *source = source_of(n, row->module);
  if (source == NULL || !find_symbol(source, row->offset, &symbol) ||
      symbol.name == NULL || *symbol.name == '\0')
    return;
  char *demangled = ss_demangle(symbol.name);
  if (demangled != NULL)
    ss_store_frame_name(n->store, frame, demangled, strlen(demangled));
  free(demangled);
}

enum ss_err ss_names_resolve(struct ss_store *store, struct ss_modules *modules,
                             struct ss_diag *diag)
{
  struct names n = {.store = store, .modules = modules};
  struct ss_frame_row row;
  for (uint32_t id = 0; ss_store_frame_at(store, id, &row); id++)
    if (row.kind == SS_FRAME_NATIVE && row.name == SS_ID_NONE && row.module != SS_ID_NONE)
      name_frame(&n, id, &row);
  for (size_t i = 0; i < n.count; i++) {
    ss_symtab_free(n.sources[i].symbols);
    ss_image_close(n.sources[i].image);
  }
  free(n.sources);
  return ss_store_error(store, diag);
}
