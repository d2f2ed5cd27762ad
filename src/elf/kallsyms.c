/*
 * Kernel function names from /proc/kallsyms: "ADDRESS TYPE name [module]". The
 * file gives no sizes; a function ends where the next symbol of any type
 * begins. With kptr_restrict every address is 0 and there are no names.
 */
#include <fcntl.h>

#include "elf_priv.h"
#include "stacksample/buf.h"
#include "stacksample/fsafe.h"

#define KALLSYMS_MAX (64u << 20) /* bytes; a distribution kernel has 10 MB */
#define LAST_SIZE 4096           /* of the last symbol, which has no next */

struct entry {
  uint64_t start;
  uint32_t name;
  bool function;
};

struct ss_kallsyms {
  struct entry *entries;
  size_t count, cap;
  struct ss_buf names;
};

/* "ffffffff81000000 T _stext" or "... t name\t[module]" */
static bool parse_line(struct ss_kallsyms *k, const char *line, size_t len)
{
  struct entry e = {0};
  size_t i = 0;
  for (; i < len && i < 16 && line[i] != ' '; i++) {
    char c = line[i];
    if ((c < '0' || c > '9') && (c < 'a' || c > 'f'))
      return false;
    e.start = e.start << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
  }
  if (i == 0 || len < i + 4 || line[i] != ' ' || line[i + 2] != ' ')
    return false;
  char type = line[i + 1];
  e.function = type == 'T' || type == 't' || type == 'W' || type == 'w';
  if (e.start == 0 || k->names.len > UINT32_MAX - len)
    return true; /* hidden, or per-CPU offsets: nothing to keep */
  if (!ss_grow(&k->entries, &k->cap, k->count + 1, sizeof *k->entries))
    return false;
  const char *name = line + i + 3, *end = line + len;
  const char *tab = memchr(name, '\t', (size_t)(end - name));
  e.name = (uint32_t)k->names.len;
  ss_buf_add(&k->names, name, (size_t)((tab == NULL ? end : tab) - name));
  if (tab != NULL) {
    ss_buf_addc(&k->names, ' ');
    ss_buf_add(&k->names, tab + 1, (size_t)(end - tab - 1));
  }
  ss_buf_addc(&k->names, 0);
  k->entries[k->count++] = e;
  return true;
}

/* By address; a function before data at the same address. */
static int compare_entries(const void *pa, const void *pb)
{
  const struct entry *a = pa, *b = pb;
  if (a->start != b->start)
    return a->start < b->start ? -1 : 1;
  if (a->function != b->function)
    return a->function ? -1 : 1;
  return (a->name > b->name) - (a->name < b->name);
}

struct ss_kallsyms *ss_kallsyms_parse(const char *text, size_t len)
{
  struct ss_kallsyms *k = calloc(1, sizeof *k);
  const char *p = text, *end = text + len;
  if (k == NULL)
    return NULL;
  while (p < end) {
    const char *eol = memchr(p, '\n', (size_t)(end - p));
    if (eol == NULL)
      eol = end;
    parse_line(k, p, (size_t)(eol - p));
    p = eol == end ? end : eol + 1;
  }
  if (k->count == 0 || k->names.failed) {
    ss_kallsyms_free(k);
    return NULL;
  }
  qsort(k->entries, k->count, sizeof *k->entries, compare_entries);
  size_t kept = 1;
  for (size_t i = 1; i < k->count; i++)
    if (k->entries[i].start != k->entries[kept - 1].start)
      k->entries[kept++] = k->entries[i];
  k->count = kept;
  return k;
}

struct ss_kallsyms *ss_kallsyms_load(void)
{
  struct ss_buf text = {0};
  struct ss_kallsyms *k = NULL;
  if (ss_file_read_all(AT_FDCWD, "/proc/kallsyms", KALLSYMS_MAX, &text, NULL) ==
      SS_ERR_OK)
    k = ss_kallsyms_parse(ss_buf_str(&text), text.len);
  ss_buf_release(&text);
  return k;
}

void ss_kallsyms_free(struct ss_kallsyms *k)
{
  if (k == NULL)
    return;
  ss_buf_release(&k->names);
  free(k->entries);
  free(k);
}

bool ss_kallsyms_find(const struct ss_kallsyms *k, uint64_t addr, struct ss_symbol *out)
{
  size_t lo = 0, hi = k->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (k->entries[mid].start <= addr)
      lo = mid + 1;
    else
      hi = mid;
  }
  if (lo == 0 || !k->entries[lo - 1].function)
    return false;
  const struct entry *e = &k->entries[lo - 1];
  uint64_t size = lo < k->count ? k->entries[lo].start - e->start : LAST_SIZE;
  if (addr - e->start >= size)
    return false;
  *out = (struct ss_symbol){e->start, size, k->names.data + e->name};
  return true;
}
