/*
 * A module's unwind information, found by address: .eh_frame_hdr's sorted table
 * where there is one, else a table of our own over .eh_frame, and one over
 * .debug_frame, which has what was compiled without the former.
 *
 * The sections' bytes belong to the image and stay loaded while the module is
 * in use here.
 */
#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "table.h"

#define HDR_ENCODINGS                                                                    \
  0x3b031bu /* table datarel|sdata4, count udata4, ptr pcrel|sdata4                      \
             */

/* Uses .eh_frame_hdr if it has the form that all linkers write. */
static void use_hdr(struct ss_cfi_index *index, const struct ss_section *hdr)
{
  struct ss_cursor c = ss_cursor_init(hdr->bytes, hdr->len);
  uint8_t version = ss_read_u8(&c);
  uint32_t encodings = ss_read_u8(&c);
  encodings |= (uint32_t)ss_read_u8(&c) << 8;
  encodings |= (uint32_t)ss_read_u8(&c) << 16;
  uint64_t section = hdr->vaddr + 4 + (uint64_t)(int64_t)(int32_t)ss_read_u32(&c);
  uint64_t count = ss_read_u32(&c);
  if (c.failed || version != 1 || encodings != HDR_ENCODINGS ||
      section != index->section.vaddr || count == 0 || count > c.left / 8)
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
  struct ss_cursor c = ss_cursor_init(index->hdr + i * 8 + field, 4);
  return index->hdr_vaddr + (uint64_t)(int64_t)(int32_t)ss_read_u32(&c);
}

bool ss_cfi_offset_at(const struct ss_cfi_index *index, size_t i, size_t *offset)
{
  if (index->hdr != NULL)
    *offset = (size_t)(hdr_value(index, i, 4) - index->section.vaddr);
  else
    *offset = index->entries == NULL ? SIZE_MAX : index->entries[i].offset;
  return *offset < index->section.len;
}

/* How many FDEs start at or before vaddr. */
static size_t entries_before(const struct ss_cfi_index *index, uint64_t vaddr)
{
  size_t lo = 0, hi = index->count;
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    uint64_t start =
        index->hdr != NULL ? hdr_value(index, mid, 0) : index->entries[mid].start;
    if (start <= vaddr)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

bool ss_cfi_find(struct ss_module *module, uint64_t vaddr, struct ss_fde *fde)
{
  struct ss_cfi *cfi = ss_cfi_load(module);
  struct ss_cie cie = {0};
  size_t offset, before = cfi == NULL ? 0 : entries_before(&cfi->eh, vaddr);
  return before > 0 && ss_cfi_offset_at(&cfi->eh, before - 1, &offset) &&
         ss_fde_parse(&cfi->eh.section, offset, &cie, fde) && vaddr >= fde->start &&
         vaddr < fde->end;
}
