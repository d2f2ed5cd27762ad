/*
 * .eh_frame and .debug_frame: CIEs and FDEs (LSB Core 5.0 section 10.6, DWARF 5
 * section 6.4.1), without their instructions.
 *
 * Reads only through a cursor. An entry whose parts do not fit into its length,
 * an unknown augmentation, an encoding that needs data of the running process:
 * such an FDE is skipped, and the section goes on by the lengths.
 */
#include "stacksample/cursor.h"
#include "unwind_priv.h"

/* DWARF exception header encodings (LSB, 10.5.1). */
enum {
  PE_ABSPTR = 0x00,
  PE_ULEB128 = 0x01,
  PE_UDATA2 = 0x02,
  PE_UDATA4 = 0x03,
  PE_UDATA8 = 0x04,
  PE_SLEB128 = 0x09,
  PE_SDATA2 = 0x0a,
  PE_SDATA4 = 0x0b,
  PE_SDATA8 = 0x0c,
  PE_FORMAT = 0x0f,
  PE_PCREL = 0x10,
  PE_BASE = 0x70,
  PE_INDIRECT = 0x80,
  PE_OMIT = 0xff
};

/* The number without its base. */
static uint64_t read_format(struct ss_cursor *c, unsigned encoding)
{
  switch (encoding & PE_FORMAT) {
  case PE_ABSPTR:
  case PE_UDATA8:
  case PE_SDATA8:
    return ss_read_u64(c);
  case PE_ULEB128:
    return ss_read_uleb(c);
  case PE_SLEB128:
    return (uint64_t)ss_read_sleb(c);
  case PE_UDATA2:
    return ss_read_u16(c);
  case PE_SDATA2:
    return (uint64_t)(int16_t)ss_read_u16(c);
  case PE_UDATA4:
    return ss_read_u32(c);
  case PE_SDATA4:
    return (uint64_t)(int64_t)(int32_t)ss_read_u32(c);
  default:
    c->failed = true;
    return 0;
  }
}

/* A code address: absolute or relative to itself; others need the process. */
uint64_t ss_cfi_read_address(const struct ss_cfi_section *s, struct ss_cursor *c,
                             unsigned encoding)
{
  uint64_t at = s->vaddr + ss_cursor_offset(c);
  unsigned base = encoding & PE_BASE;
  uint64_t value = read_format(c, encoding);
  if ((encoding & PE_INDIRECT) != 0 || (base != 0 && base != PE_PCREL))
    c->failed = true;
  return base == PE_PCREL ? at + value : value;
}

struct header {
  size_t start, end; /* the entry: from its length field to its end */
  size_t id_at;
  uint64_t id;
};

/* Length and id of the entry at `offset`; false where the section ends. */
static bool read_header(const struct ss_cfi_section *s, size_t offset, struct header *h)
{
  if (offset >= s->len)
    return false;
  struct ss_cursor all = ss_cursor_init(s->bytes, s->len);
  ss_skip(&all, offset);
  uint64_t len = ss_read_u32(&all);
  bool wide = len == UINT32_MAX;
  if (wide)
    len = ss_read_u64(&all);
  h->start = offset;
  h->id_at = ss_cursor_offset(&all);
  if (all.failed || len > all.left || len < 4)
    return false;
  h->end = h->id_at + (size_t)len;
  if (wide && s->debug_frame) {
    if (len < 8)
      return false;
    h->id = ss_read_u64(&all);
  } else {
    h->id = ss_read_u32(&all);
    if (s->debug_frame && h->id == UINT32_MAX)
      h->id = UINT64_MAX;
  }
  return true;
}

static bool is_cie(const struct ss_cfi_section *s, const struct header *h)
{
  return s->debug_frame ? h->id == UINT64_MAX : h->id == 0;
}

/* The body of an entry: behind the id. Offsets stay those of the section. */
static struct ss_cursor body_of(const struct ss_cfi_section *s, const struct header *h)
{
  struct ss_cursor all = ss_cursor_init(s->bytes, h->end);
  size_t length_size = h->id_at - h->start;
  ss_skip(&all, h->id_at + (s->debug_frame && length_size > 4 ? 8 : 4));
  return all;
}

/* The augmentation string's letters and their data. */
static bool read_augmentation(struct ss_cursor *c, const char *letters,
                              struct ss_cie *cie)
{
  if (letters[0] == 0)
    return true;
  if (letters[0] != 'z')
    return false;
  cie->augmented = true;
  uint64_t len = ss_read_uleb(c);
  if (c->failed || len > c->left)
    return false;
  const unsigned char *end = c->cur + len;
  for (const char *l = letters + 1; *l != 0; l++)
    if (*l == 'R')
      cie->fde_encoding = ss_read_u8(c);
    else if (*l == 'L')
      ss_read_u8(c);
    else if (*l == 'P')
      read_format(c, ss_read_u8(c));
    else if (*l == 'S')
      cie->signal = true;
    else if (*l != 'B')
      break; /* unknown, and so is what follows; the length skips it */
  if (c->failed || c->cur > end)
    return false;
  ss_skip(c, (size_t)(end - c->cur));
  return true;
}

static bool parse_cie(const struct ss_cfi_section *s, size_t offset, struct ss_cie *cie)
{
  struct header h;
  if (!read_header(s, offset, &h) || !is_cie(s, &h))
    return false;
  struct ss_cursor c = body_of(s, &h);
  *cie = (struct ss_cie){.offset = offset, .address_size = 8};
  unsigned version = ss_read_u8(&c);
  const char *letters = ss_read_cstr(&c);
  if (letters == NULL || version == 0 || version == 2 || version > 4)
    return false;
  if (version == 4) {
    cie->address_size = ss_read_u8(&c);
    if (ss_read_u8(&c) != 0 || cie->address_size != 8)
      return false;
  }
  cie->code_align = ss_read_uleb(&c);
  cie->data_align = ss_read_sleb(&c);
  uint64_t ra = version == 1 ? ss_read_u8(&c) : ss_read_uleb(&c);
  cie->ra_reg = ra < UINT32_MAX ? (unsigned)ra : UINT32_MAX;
  if (c.failed || !read_augmentation(&c, letters, cie))
    return false;
  cie->insns = ss_cursor_offset(&c);
  cie->insns_len = c.left;
  return true;
}

/* Parses an FDE whose header was read; `cie` holds the last CIE used. */
static bool parse_fde(const struct ss_cfi_section *s, const struct header *h,
                      struct ss_cie *cie, struct ss_fde *fde)
{
  uint64_t cie_at = s->debug_frame ? h->id : h->id_at - h->id;
  if (cie_at >= s->len || (!s->debug_frame && h->id > h->id_at))
    return false;
  if ((cie->offset != cie_at || cie->insns == 0) && !parse_cie(s, (size_t)cie_at, cie)) {
    cie->insns = 0;
    return false;
  }
  struct ss_cursor c = body_of(s, h);
  *fde = (struct ss_fde){.cie = *cie, .offset = h->start};
  fde->start = ss_cfi_read_address(s, &c, cie->fde_encoding);
  uint64_t size = read_format(&c, cie->fde_encoding & PE_FORMAT);
  if (cie->augmented) {
    uint64_t len = ss_read_uleb(&c);
    if (len > c.left)
      return false;
    ss_skip(&c, (size_t)len);
  }
  if (c.failed || size == 0 || fde->start + size < fde->start)
    return false;
  fde->end = fde->start + size;
  fde->insns = ss_cursor_offset(&c);
  fde->insns_len = c.left;
  return true;
}

enum ss_entry ss_cfi_next(const struct ss_cfi_section *s, size_t *offset,
                          struct ss_cie *cie, struct ss_fde *fde)
{
  struct header h;
  if (!read_header(s, *offset, &h))
    return SS_ENTRY_END;
  *offset = h.end;
  if (is_cie(s, &h) || !parse_fde(s, &h, cie, fde))
    return SS_ENTRY_OTHER;
  return SS_ENTRY_FDE;
}

bool ss_fde_parse(const struct ss_cfi_section *s, size_t offset, struct ss_cie *cie,
                  struct ss_fde *fde)
{
  struct header h;
  return read_header(s, offset, &h) && !is_cie(s, &h) && parse_fde(s, &h, cie, fde);
}
