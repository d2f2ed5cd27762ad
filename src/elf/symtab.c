/*
 * Function names of a file: .symtab, else .gnu_debugdata with .dynsym, else
 * .dynsym; a separate debug file before all of them.
 *
 * A name is given only where the symbol covers the address: most functions of
 * a stripped library have none, and the nearest one is wrong nine times in
 * ten. The table holds 16 bytes a function, sorted by start; a name is read
 * from its string table when it is first asked for (torch's are 50 MB), so the
 * images must outlive the table.
 */
#include <elf.h>
#include <stddef.h>

#include "elf_priv.h"
#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"

#define SYMTAB_SOURCES 3 /* debug file or .symtab, debugdata, .dynsym */
#define NESTED_MAX 256   /* symbols walked back over to find an outer one */

struct entry {
  uint64_t start;
  uint32_t size;
  uint32_t name;   /* offset in the source's string table */
  uint64_t reach;  /* the furthest end of this and all earlier entries */
  uint8_t binding; /* 0 global, 1 weak, 2 local: less is better */
  uint8_t source;
};

struct source {
  struct ss_image *image;
  size_t strings; /* index of the string table's section */
};

struct ss_symtab {
  struct entry *entries;
  size_t count, cap;
  struct source sources[SYMTAB_SOURCES];
  size_t source_count;
  struct ss_image *debugdata; /* owned */
  struct ss_arena names;
  struct ss_idmap name_index; /* source and offset -> char * */
};

static uint8_t binding_rank(unsigned char info)
{
  switch (ELF64_ST_BIND(info)) {
  case STB_GLOBAL:
    return 0;
  case STB_WEAK:
    return 1;
  default:
    return 2;
  }
}

static bool is_function(const Elf64_Sym *sym)
{
  unsigned char type = ELF64_ST_TYPE(sym->st_info);
  return (type == STT_FUNC || type == STT_GNU_IFUNC) && sym->st_shndx != SHN_UNDEF &&
         sym->st_name != 0 && sym->st_value + sym->st_size >= sym->st_value;
}

/* The symbol table `name` of `image`, loaded, with a plausible string table. */
static struct ss_elf_section *symbol_section(struct ss_image *image, const char *name)
{
  struct ss_elf_section *s = ss_image_section_named(image, name);
  if (s == NULL || s->entsize != sizeof(Elf64_Sym) || s->link >= image->section_count ||
      s->size / sizeof(Elf64_Sym) > SS_ELF_SYMBOLS_MAX || !ss_image_load(image, s))
    return NULL;
  return s;
}

/* Adds the functions of one symbol table; false where there is none. */
static bool add_source(struct ss_symtab *tab, struct ss_image *image, const char *name)
{
  struct ss_elf_section *s = symbol_section(image, name);
  if (s == NULL)
    return false;
  bool any = false;
  size_t source = tab->source_count;
  for (size_t off = 0; off + sizeof(Elf64_Sym) <= s->len; off += sizeof(Elf64_Sym)) {
    Elf64_Sym sym;
    memcpy(&sym, s->bytes + off, sizeof sym);
    if (!is_function(&sym))
      continue;
    if (!ss_grow(&tab->entries, &tab->cap, tab->count + 1, sizeof *tab->entries))
      break;
    tab->entries[tab->count++] = (struct entry){
        .start = sym.st_value,
        .size = sym.st_size < UINT32_MAX ? (uint32_t)sym.st_size : UINT32_MAX,
        .name = sym.st_name,
        .binding = binding_rank(sym.st_info),
        .source = (uint8_t)source};
    any = true;
  }
  if (any)
    tab->sources[tab->source_count++] = (struct source){image, s->link};
  ss_image_drop(s);
  return any;
}

/* By start; at one start the best name first. */
static int compare_entries(const void *pa, const void *pb)
{
  const struct entry *a = pa, *b = pb;
  if (a->start != b->start)
    return a->start < b->start ? -1 : 1;
  if (a->binding != b->binding)
    return a->binding < b->binding ? -1 : 1;
  if (a->size != b->size)
    return a->size > b->size ? -1 : 1;
  return (a->name > b->name) - (a->name < b->name);
}

/* Sorted and without entries that could never be chosen: those at the start of
 * a better one that is at least as long. */
static void sort_entries(struct ss_symtab *tab)
{
  if (tab->count == 0)
    return;
  qsort(tab->entries, tab->count, sizeof *tab->entries, compare_entries);
  size_t kept = 0;
  uint64_t reach = 0;
  for (size_t i = 0; i < tab->count; i++) {
    struct entry e = tab->entries[i];
    if (kept > 0 && tab->entries[kept - 1].start == e.start &&
        tab->entries[kept - 1].size >= e.size)
      continue;
    uint64_t end = e.start + e.size;
    reach = end > reach ? end : reach;
    e.reach = reach;
    tab->entries[kept++] = e;
  }
  tab->count = kept;
}

static void add_debugdata(struct ss_symtab *tab, struct ss_image *image)
{
  struct ss_section packed;
  if (!ss_image_section(image, ".gnu_debugdata", &packed))
    return;
  size_t len = 0;
  unsigned char *bytes = ss_unxz(packed.bytes, packed.len, &len);
  if (bytes != NULL)
    ss_image_open_bytes(&tab->debugdata, bytes, len, image->name, NULL);
  free(bytes);
  ss_image_drop_section(image, ".gnu_debugdata");
  if (tab->debugdata != NULL)
    add_source(tab, tab->debugdata, ".symtab");
}

enum ss_err ss_symtab_build(struct ss_symtab **out, struct ss_image *image,
                            struct ss_image *debug, struct ss_diag *diag)
{
  struct ss_symtab *tab = calloc(1, sizeof *tab);
  *out = tab;
  if (tab == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "%s: symbols", image->name);
  if ((debug == NULL || !add_source(tab, debug, ".symtab")) &&
      !add_source(tab, image, ".symtab")) {
    add_debugdata(tab, image);
    add_source(tab, image, ".dynsym");
  }
  sort_entries(tab);
  return SS_ERR_OK;
}

void ss_symtab_free(struct ss_symtab *tab)
{
  if (tab == NULL)
    return;
  ss_image_close(tab->debugdata);
  ss_arena_release(&tab->names);
  ss_idmap_release(&tab->name_index);
  free(tab->entries);
  free(tab);
}

/* Reads the string at an offset of a string table, at most the cap. */
static const char *read_name(struct ss_symtab *tab, const struct entry *e)
{
  uint64_t key = (uint64_t)e->source << 32 | e->name;
  uint64_t *known = ss_idmap_get(&tab->name_index, key);
  if (known != NULL)
    return (const char *)(uintptr_t)*known;
  const struct source *source = &tab->sources[e->source];
  const struct ss_elf_section *s = &source->image->sections[source->strings];
  char text[SS_SYMBOL_NAME_MAX];
  if (e->name >= s->size || s->offset + e->name < s->offset || s->type == SHT_NOBITS)
    return NULL;
  uint64_t left = s->size - e->name;
  size_t want = 256; /* most names; the rest is read at once where it is longer */
  size_t len = 0;
  for (;; want = sizeof text) {
    want = left < want ? (size_t)left : want;
    if (!ss_image_pread(source->image, s->offset + e->name, text, want))
      return NULL;
    len = strnlen(text, want);
    if (len < want || want == left || want == sizeof text)
      break;
  }
  char *name = ss_arena_strndup(&tab->names, text, len);
  if (name != NULL && !ss_idmap_put(&tab->name_index, key, (uint64_t)(uintptr_t)name))
    return NULL;
  return name;
}

/* Index of the last entry that starts at or before vaddr, plus 1. */
static size_t entries_before(const struct ss_symtab *tab, uint64_t vaddr)
{
  size_t lo = 0, hi = tab->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (tab->entries[mid].start <= vaddr)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

static bool better(const struct entry *a, const struct entry *b)
{
  if (b == NULL || a->binding != b->binding)
    return b == NULL || a->binding < b->binding;
  return a->size > b->size;
}

bool ss_symtab_find(const struct ss_symtab *tab, uint64_t vaddr, struct ss_symbol *out)
{
  size_t at = entries_before(tab, vaddr);
  const struct entry *best = NULL;
  for (size_t n = 0; at > 0 && n < NESTED_MAX && tab->entries[at - 1].reach > vaddr;
       n++) {
    const struct entry *e = &tab->entries[--at];
    if (vaddr - e->start < e->size && better(e, best))
      best = e;
  }
  /* Only the cache of names changes. */
  const char *name =
      best == NULL ? NULL : read_name((struct ss_symtab *)(uintptr_t)tab, best);
  if (name == NULL)
    return false;
  *out = (struct ss_symbol){.start = best->start, .size = best->size, .name = name};
  return true;
}

static bool lookup_in(struct ss_image *image, const char *table, const char *name,
                      struct ss_symbol *out)
{
  struct ss_elf_section *s = symbol_section(image, table);
  struct ss_elf_section *strings = s == NULL ? NULL : &image->sections[s->link];
  bool found = false;
  size_t name_size = strlen(name) + 1;
  if (strings != NULL && ss_image_load(image, strings)) {
    for (size_t off = 0; !found && off + sizeof(Elf64_Sym) <= s->len;
         off += sizeof(Elf64_Sym)) {
      Elf64_Sym sym;
      memcpy(&sym, s->bytes + off, sizeof sym);
      found = sym.st_shndx != SHN_UNDEF && sym.st_name < strings->len &&
              strings->len - sym.st_name >= name_size &&
              memcmp(strings->bytes + sym.st_name, name, name_size) == 0;
      if (found)
        *out =
            (struct ss_symbol){.start = sym.st_value, .size = sym.st_size, .name = name};
    }
    ss_image_drop(strings);
  }
  if (s != NULL)
    ss_image_drop(s);
  return found;
}

bool ss_image_lookup(struct ss_image *image, const char *name, struct ss_symbol *out)
{
  return lookup_in(image, ".dynsym", name, out) || lookup_in(image, ".symtab", name, out);
}
