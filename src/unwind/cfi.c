/*
 * A module's unwind information, found by address: .eh_frame_hdr's sorted table
 * where there is one, else a table of our own over .eh_frame, and one over
 * .debug_frame, which has what was compiled without the former.
 *
 * Loaded sections' bytes belong to the image and stay while the module is in use here.
 * A single FDE is found in the file, by a few small reads, because libtorch's sections
 * have 12 MB.
 */
#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "table.h"

/* Table datarel|sdata4, count udata4, pointer pcrel|sdata4. */
#define HDR_ENCODINGS 0x3b031bu

enum { HDR_BYTES = 12, HDR_ENTRY = 8 };

/* Reads an address of .eh_frame_hdr, which is relative to `base`. */
static uint64_t read_relative(struct ss_cursor *c, uint64_t base)
{
  return base + (uint64_t)(int64_t)(int32_t)ss_read_u32(c);
}

/* The number of entries, if the table has the form that all linkers write and is that
 * of the .eh_frame at `eh_frame`; else 0. */
static uint64_t read_hdr(struct ss_cursor *c, uint64_t vaddr, uint64_t eh_frame)
{
  uint8_t version = ss_read_u8(c);
  uint32_t encodings = ss_read_u8(c);
  encodings |= (uint32_t)ss_read_u8(c) << 8;
  encodings |= (uint32_t)ss_read_u8(c) << 16;
  uint64_t section = read_relative(c, vaddr + 4);
  uint64_t count = ss_read_u32(c);
  bool usual = !c->failed && version == 1 && encodings == HDR_ENCODINGS;
  return usual && section == eh_frame ? count : 0;
}

static void use_hdr(struct ss_cfi_index *index, const struct ss_section *hdr)
{
  struct ss_cursor c = ss_cursor_init(hdr->bytes, hdr->len);
  uint64_t count = read_hdr(&c, hdr->vaddr, index->section.vaddr);
  if (count == 0 || count > c.left / HDR_ENTRY)
    return;
  index->hdr = c.cur;
  index->count = (size_t)count;
  index->hdr_vaddr = hdr->vaddr;
}

static int compare_entries(const void *pa, const void *pb)
{
  const struct ss_cfi_entry *a = pa, *b = pb;
  if (a->start != b->start)
    return a->start < b->start ? -1 : 1;
  return (a->offset > b->offset) - (a->offset < b->offset);
}

/* Linkers leave the FDEs of discarded functions with start 0. */
static void scan_section(struct ss_cfi_index *index)
{
  struct ss_cie cie = {0};
  struct ss_fde fde;
  enum ss_entry kind;
  size_t offset = 0;
  while ((kind = ss_cfi_next(&index->section, &offset, &cie, &fde)) != SS_ENTRY_END) {
    if (kind != SS_ENTRY_FDE || fde.start == 0)
      continue;
    if (!ss_grow(&index->entries, &index->cap, index->count + 1, sizeof *index->entries))
      break;
    index->entries[index->count++] = (struct ss_cfi_entry){fde.start, fde.offset};
  }
  if (index->count > 0)
    qsort(index->entries, index->count, sizeof *index->entries, compare_entries);
}

static void load(struct ss_cfi *cfi, struct ss_image *image)
{
  struct ss_section s;
  cfi->loaded = true;
  if (ss_image_section(image, ".eh_frame", &s) && s.len > 4) {
    cfi->eh.section = (struct ss_cfi_section){s.bytes, s.len, s.vaddr, false};
    if (ss_image_section(image, ".eh_frame_hdr", &s))
      use_hdr(&cfi->eh, &s);
    if (cfi->eh.hdr == NULL)
      scan_section(&cfi->eh);
  }
  if (ss_image_section(image, ".debug_frame", &s)) {
    cfi->debug.section = (struct ss_cfi_section){s.bytes, s.len, 0, true};
    scan_section(&cfi->debug);
  }
}

static void cfi_free(void *unwind)
{
  struct ss_cfi *cfi = unwind;
  if (cfi == NULL)
    return;
  ss_table_free(cfi->table);
  free(cfi->eh.entries);
  free(cfi->debug.entries);
  free(cfi);
}

struct ss_cfi *ss_cfi_of(struct ss_module *module)
{
  if (module->unwind == NULL && module->image != NULL) {
    module->unwind = calloc(1, sizeof(struct ss_cfi));
    module->unwind_free = cfi_free;
  }
  return module->unwind;
}

struct ss_cfi *ss_cfi_load(struct ss_module *module)
{
  struct ss_cfi *cfi = ss_cfi_of(module);
  if (cfi != NULL && !cfi->loaded)
    load(cfi, module->image);
  return cfi;
}

void ss_cfi_unload(struct ss_module *module)
{
  struct ss_cfi *cfi = ss_cfi_of(module);
  if (cfi == NULL)
    return;
  ss_image_drop_section(module->image, ".eh_frame");
  ss_image_drop_section(module->image, ".eh_frame_hdr");
  ss_image_drop_section(module->image, ".debug_frame");
  free(cfi->eh.entries);
  free(cfi->debug.entries);
  *cfi = (struct ss_cfi){.table = cfi->table, .table_tried = cfi->table_tried};
}

static uint64_t hdr_value(const struct ss_cfi_index *index, size_t i, size_t field)
{
  struct ss_cursor c = ss_cursor_init(index->hdr + i * HDR_ENTRY + field, 4);
  return read_relative(&c, index->hdr_vaddr);
}

bool ss_cfi_offset_at(const struct ss_cfi_index *index, size_t i, size_t *offset)
{
  if (index->hdr != NULL)
    *offset = (size_t)(hdr_value(index, i, 4) - index->section.vaddr);
  else
    *offset = index->entries == NULL ? SIZE_MAX : index->entries[i].offset;
  return *offset < index->section.len;
}

/* ---- one FDE --------------------------------------------------------------- */

/* Of the sorted table in the file: the last entry that starts at or before vaddr. A
 * table that is not sorted gives a wrong one, which whoever reads it finds out. */
static bool search_file(struct ss_image *image, uint64_t hdr, uint64_t count,
                        uint64_t vaddr, uint64_t *start, uint64_t *entry)
{
  uint64_t lo = 0, hi = count;
  bool found = false;
  while (lo < hi) {
    uint64_t mid = lo + (hi - lo) / 2;
    unsigned char bytes[HDR_ENTRY];
    if (ss_image_read(image, hdr + HDR_BYTES + mid * HDR_ENTRY, bytes, sizeof bytes) !=
        sizeof bytes)
      return false;
    struct ss_cursor c = ss_cursor_init(bytes, sizeof bytes);
    uint64_t first = read_relative(&c, hdr);
    if (first > vaddr) {
      hi = mid;
      continue;
    }
    *start = first;
    *entry = read_relative(&c, hdr);
    found = true;
    lo = mid + 1;
  }
  return found;
}

/* The same of a section without such a table, which is loaded for it. */
static bool search_section(struct ss_module *module, uint64_t vaddr, uint64_t *start,
                           uint64_t *entry)
{
  const struct ss_cfi *cfi = ss_cfi_load(module);
  size_t lo = 0, hi = cfi == NULL || cfi->eh.entries == NULL ? 0 : cfi->eh.count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    if (cfi->eh.entries[mid].start <= vaddr)
      lo = mid + 1;
    else
      hi = mid;
  }
  if (lo == 0)
    return false;
  *start = cfi->eh.entries[lo - 1].start;
  *entry = cfi->eh.section.vaddr + cfi->eh.entries[lo - 1].offset;
  return true;
}

bool ss_cfi_locate(struct ss_module *module, uint64_t vaddr, struct ss_cfi_place *out)
{
  struct ss_image *image = module->image;
  unsigned char head[HDR_BYTES];
  uint64_t hdr, hdr_len, entry, count = 0;
  if (image == NULL || !ss_image_section_at(image, ".eh_frame", &out->section, &out->len))
    return false;
  if (ss_image_section_at(image, ".eh_frame_hdr", &hdr, &hdr_len) &&
      ss_image_read(image, hdr, head, sizeof head) == sizeof head) {
    struct ss_cursor c = ss_cursor_init(head, sizeof head);
    count = read_hdr(&c, hdr, out->section);
  }
  bool found = count > 0 ? search_file(image, hdr, count, vaddr, &out->start, &entry)
                         : search_section(module, vaddr, &out->start, &entry);
  out->offset = found ? entry - out->section : 0;
  return found && out->offset < out->len;
}
