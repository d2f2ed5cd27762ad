/*
 * One ELF file: headers, segments, build-id, sections on demand.
 *
 * Everything is read with pread into memory of ours, never mapped: a file
 * that is truncated while mapped is SIGBUS. An offset or a count of the file is
 * believed only after it was compared with the file's size and with a limit.
 * A bad program header table rejects the file; a bad section header table
 * only makes it a stripped one.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "elf_priv.h"
#include "stacksample/arch.h"
#include "stacksample/cursor.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

bool ss_image_pread(const struct ss_image *image, uint64_t off, void *buf, size_t len)
{
  if (len > image->size || off > image->size - len)
    return false;
  if (image->fd < 0) {
    memcpy(buf, image->bytes + off, len);
    return true;
  }
  size_t got = 0;
  while (got < len) {
    ssize_t n = ss_pread_some(image->fd, (char *)buf + got, len - got, off + got);
    if (n <= 0)
      return false;
    got += (size_t)n;
  }
  return true;
}

/* malloc'ed copy of [off, off+len) with a NUL behind it. */
static unsigned char *read_block(const struct ss_image *image, uint64_t off, uint64_t len)
{
  if (len > image->size || off > image->size - len || len > SS_ELF_SECTION_MAX)
    return NULL;
  unsigned char *block = malloc((size_t)len + 1);
  if (block == NULL)
    return NULL;
  if (!ss_image_pread(image, off, block, (size_t)len)) {
    free(block);
    return NULL;
  }
  block[len] = 0;
  return block;
}

static enum ss_err check_header(const struct ss_image *image, const Elf64_Ehdr *eh,
                                struct ss_diag *diag)
{
  if (memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0)
    return ss_fail(diag, SS_ERR_FORMAT, "%s: not an ELF file", image->name);
  if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
      eh->e_machine != ss_arch_elf_machine())
    return ss_fail(diag, SS_ERR_UNSUPPORTED, "%s: an ELF file of another machine",
                   image->name);
  if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
    return ss_fail(diag, SS_ERR_UNSUPPORTED,
                   "%s: ELF type %u is neither a program nor "
                   "a shared object",
                   image->name, eh->e_type);
  return SS_ERR_OK;
}

static void find_build_id(struct ss_image *image, const unsigned char *notes, size_t len)
{
  struct ss_cursor c = ss_cursor_init(notes, len);
  while (c.left >= 12 && image->build_id_len == 0) {
    uint32_t namesz = ss_read_u32(&c);
    uint32_t descsz = ss_read_u32(&c);
    uint32_t type = ss_read_u32(&c);
    const unsigned char *name = ss_read_bytes(&c, ((size_t)namesz + 3) & ~(size_t)3);
    const unsigned char *desc = ss_read_bytes(&c, descsz);
    if (desc == NULL || name == NULL)
      return;
    if (type == NT_GNU_BUILD_ID && namesz == 4 && memcmp(name, "GNU", 4) == 0) {
      image->build_id_len =
          descsz < sizeof image->build_id ? descsz : sizeof image->build_id;
      memcpy(image->build_id, desc, image->build_id_len);
    }
    ss_skip(&c, (size_t)(-descsz & 3));
  }
}

static void read_note_segment(struct ss_image *image, const Elf64_Phdr *ph)
{
  if (image->build_id_len > 0 || ph->p_filesz > SS_ELF_NOTES_MAX)
    return;
  unsigned char *notes = read_block(image, ph->p_offset, ph->p_filesz);
  if (notes != NULL)
    find_build_id(image, notes, (size_t)ph->p_filesz);
  free(notes);
}

static struct ss_elf_section *add_section(struct ss_image *image)
{
  size_t bytes = (image->section_count + 1) * sizeof *image->sections;
  struct ss_elf_section *grown = realloc(image->sections, bytes);
  if (grown == NULL)
    return NULL;
  image->sections = grown;
  struct ss_elf_section *s = &grown[image->section_count++];
  memset(s, 0, sizeof *s);
  s->name = "";
  return s;
}

static const struct ss_segment *segment_at(const struct ss_image *image, uint64_t vaddr)
{
  for (size_t i = 0; i < image->segment_count; i++) {
    const struct ss_segment *s = &image->segments[i];
    if (vaddr >= s->vaddr && vaddr - s->vaddr < s->filesz)
      return s;
  }
  return NULL;
}

/* A section made up from an address range of a segment. */
static void add_pseudo_section(struct ss_image *image, const char *name, uint64_t vaddr,
                               uint64_t size)
{
  const struct ss_segment *seg = segment_at(image, vaddr);
  struct ss_elf_section *s;
  if (seg == NULL || (s = add_section(image)) == NULL)
    return;
  uint64_t left = seg->filesz - (vaddr - seg->vaddr);
  s->name = name;
  s->type = SHT_PROGBITS;
  s->flags = SHF_ALLOC;
  s->vaddr = vaddr;
  s->offset = seg->offset + (vaddr - seg->vaddr);
  s->size = size < left ? size : left;
}

/* Without section headers .eh_frame_hdr is PT_GNU_EH_FRAME, and its second
 * field points to .eh_frame, which ends at its terminator (LSB, 10.6.2). Only
 * the encoding that every linker writes is known here: pc-relative sdata4. */
static void sections_from_segments(struct ss_image *image, uint64_t hdr_vaddr,
                                   uint64_t hdr_size)
{
  unsigned char head[8];
  if (hdr_size < sizeof head || ss_image_section_named(image, ".eh_frame") != NULL)
    return;
  if (ss_image_read(image, hdr_vaddr, head, sizeof head) != sizeof head || head[0] != 1)
    return;
  if (ss_image_section_named(image, ".eh_frame_hdr") == NULL)
    add_pseudo_section(image, ".eh_frame_hdr", hdr_vaddr, hdr_size);
  struct ss_cursor c = ss_cursor_init(head + 4, 4);
  if (head[1] == 0x1b)
    add_pseudo_section(image, ".eh_frame",
                       hdr_vaddr + 4 + (uint64_t)(int64_t)(int32_t)ss_read_u32(&c),
                       UINT64_MAX);
}

static enum ss_err read_segments(struct ss_image *image, const Elf64_Ehdr *eh,
                                 Elf64_Phdr *eh_frame_hdr, struct ss_diag *diag)
{
  if (eh->e_phnum == 0)
    return SS_ERR_OK; /* a separate debug file may have none */
  if (eh->e_phentsize != sizeof(Elf64_Phdr) || eh->e_phnum > SS_ELF_PHDRS_MAX)
    return ss_fail(diag, SS_ERR_FORMAT,
                   "%s: bad program header table at offset %llu (%u x %u bytes)",
                   image->name, (unsigned long long)eh->e_phoff, eh->e_phnum,
                   eh->e_phentsize);
  size_t size = (size_t)eh->e_phnum * sizeof(Elf64_Phdr);
  unsigned char *block = read_block(image, eh->e_phoff, size);
  if (block == NULL)
    return ss_fail(diag, SS_ERR_FORMAT,
                   "%s: program headers at offset %llu are beyond the file's end",
                   image->name, (unsigned long long)eh->e_phoff);
  image->segments = calloc(eh->e_phnum, sizeof *image->segments);
  if (image->segments == NULL) {
    free(block);
    return ss_fail(diag, SS_ERR_NOMEM, "%s: program headers", image->name);
  }
  for (size_t i = 0; i < eh->e_phnum; i++) {
    Elf64_Phdr ph;
    memcpy(&ph, block + i * sizeof ph, sizeof ph);
    if (ph.p_type == PT_LOAD)
      image->segments[image->segment_count++] =
          (struct ss_segment){ph.p_vaddr, ph.p_offset, ph.p_filesz, ph.p_flags};
    else if (ph.p_type == PT_NOTE)
      read_note_segment(image, &ph);
    else if (ph.p_type == PT_GNU_EH_FRAME)
      *eh_frame_hdr = ph;
  }
  free(block);
  return SS_ERR_OK;
}

/* Number of section headers; with 65280 or more it is in the first one. */
static size_t section_header_count(const struct ss_image *image, const Elf64_Ehdr *eh,
                                   size_t *strings)
{
  size_t count = eh->e_shnum;
  Elf64_Shdr first;
  *strings = eh->e_shstrndx;
  if (eh->e_shoff == 0 || eh->e_shentsize != sizeof first ||
      !ss_image_pread(image, eh->e_shoff, &first, sizeof first))
    return 0;
  if (count == 0)
    count = first.sh_size;
  if (*strings == SHN_XINDEX)
    *strings = first.sh_link;
  return count <= SS_ELF_SHDRS_MAX ? count : 0;
}

static void read_sections(struct ss_image *image, const Elf64_Ehdr *eh)
{
  size_t strings;
  size_t count = section_header_count(image, eh, &strings);
  unsigned char *block = NULL;
  if (count == 0 || strings >= count)
    return;
  block = read_block(image, eh->e_shoff, count * sizeof(Elf64_Shdr));
  if (block == NULL)
    return;
  Elf64_Shdr sh;
  memcpy(&sh, block + strings * sizeof sh, sizeof sh);
  uint64_t names_len = sh.sh_size;
  image->shstr = (char *)read_block(image, sh.sh_offset, names_len);
  image->sections = calloc(count, sizeof *image->sections);
  if (image->shstr != NULL && image->sections != NULL) {
    image->section_count = count;
    for (size_t i = 0; i < count; i++) {
      memcpy(&sh, block + i * sizeof sh, sizeof sh);
      image->sections[i] = (struct ss_elf_section){
          .name = sh.sh_name < names_len ? image->shstr + sh.sh_name : "",
          .type = sh.sh_type,
          .link = sh.sh_link,
          .flags = sh.sh_flags,
          .vaddr = sh.sh_addr,
          .offset = sh.sh_offset,
          .size = sh.sh_size,
          .entsize = sh.sh_entsize};
    }
  }
  free(block);
}

static enum ss_err read_headers(struct ss_image *image, struct ss_diag *diag)
{
  Elf64_Ehdr eh;
  Elf64_Phdr eh_frame_hdr = {0};
  if (!ss_image_pread(image, 0, &eh, sizeof eh))
    return ss_fail(diag, SS_ERR_FORMAT, "%s: too short for an ELF file", image->name);
  enum ss_err err = check_header(image, &eh, diag);
  if (err == SS_ERR_OK) {
    image->type = eh.e_type;
    err = read_segments(image, &eh, &eh_frame_hdr, diag);
  }
  if (err != SS_ERR_OK)
    return err;
  read_sections(image, &eh);
  /* A separate debug file's segments lie about offsets, its sections do not. */
  struct ss_elf_section *note = ss_image_section_named(image, ".note.gnu.build-id");
  if (note != NULL && note->size <= SS_ELF_NOTES_MAX && ss_image_load(image, note)) {
    image->build_id_len = 0;
    find_build_id(image, note->bytes, note->len);
    ss_image_drop(note);
  }
  if (eh_frame_hdr.p_type == PT_GNU_EH_FRAME)
    sections_from_segments(image, eh_frame_hdr.p_vaddr, eh_frame_hdr.p_memsz);
  return SS_ERR_OK;
}

static struct ss_image *image_new(const char *name)
{
  struct ss_image *image = calloc(1, sizeof *image);
  if (image == NULL)
    return NULL;
  image->fd = -1;
  image->name = strdup(name);
  if (image->name == NULL) {
    free(image);
    return NULL;
  }
  return image;
}

static enum ss_err image_finish(struct ss_image **out, struct ss_image *image,
                                struct ss_diag *diag)
{
  enum ss_err err = read_headers(image, diag);
  if (err != SS_ERR_OK) {
    ss_image_close(image);
    return err;
  }
  *out = image;
  return SS_ERR_OK;
}

enum ss_err ss_image_open(struct ss_image **out, int fd, const char *name,
                          struct ss_diag *diag)
{
  *out = NULL;
  struct stat st;
  if (fstat(fd, &st) != 0) {
    enum ss_err err = ss_fail_errno(diag, "%s: cannot stat", name);
    ss_close(&fd);
    return err;
  }
  struct ss_image *image = S_ISREG(st.st_mode) ? image_new(name) : NULL;
  if (image == NULL) {
    ss_close(&fd);
    return S_ISREG(st.st_mode)
               ? ss_fail(diag, SS_ERR_NOMEM, "%s: no memory to open it", name)
               : ss_fail(diag, SS_ERR_FORMAT, "%s: not a regular file", name);
  }
  image->fd = fd;
  image->size = (uint64_t)st.st_size;
  return image_finish(out, image, diag);
}

enum ss_err ss_image_open_bytes(struct ss_image **out, const void *bytes, size_t len,
                                const char *name, struct ss_diag *diag)
{
  *out = NULL;
  struct ss_image *image = image_new(name);
  if (image == NULL || (image->bytes = malloc(len + 1)) == NULL) {
    ss_image_close(image);
    return ss_fail(diag, SS_ERR_NOMEM, "%s: no memory to open it", name);
  }
  if (len > 0)
    memcpy(image->bytes, bytes, len);
  image->size = len;
  return image_finish(out, image, diag);
}

void ss_image_close(struct ss_image *image)
{
  if (image == NULL)
    return;
  for (size_t i = 0; i < image->section_count; i++)
    free(image->sections[i].bytes);
  for (size_t i = 0; i < SS_IMAGE_PAGES; i++)
    free(image->pages[i].data);
  free(image->sections);
  free(image->segments);
  free(image->shstr);
  free(image->bytes);
  free(image->name);
  ss_close(&image->fd);
  free(image);
}

size_t ss_image_build_id(const struct ss_image *image, unsigned char id[20])
{
  memcpy(id, image->build_id, image->build_id_len);
  return image->build_id_len;
}

size_t ss_image_segments(const struct ss_image *image, const struct ss_segment **segments)
{
  *segments = image->segments;
  return image->segment_count;
}

uint16_t ss_image_type(const struct ss_image *image)
{
  return image->type;
}

struct ss_elf_section *ss_image_section_named(struct ss_image *image, const char *name)
{
  for (size_t i = 0; i < image->section_count; i++)
    if (strcmp(image->sections[i].name, name) == 0)
      return &image->sections[i];
  return NULL;
}

bool ss_image_load(struct ss_image *image, struct ss_elf_section *section)
{
  if (section->bytes != NULL)
    return true;
  if (section->type == SHT_NOBITS || section->type == SHT_NULL)
    return false;
  unsigned char *bytes = read_block(image, section->offset, section->size);
  size_t len = (size_t)section->size;
  if (bytes != NULL && (section->flags & SHF_COMPRESSED) != 0) {
    unsigned char *packed = bytes;
    bytes = ss_inflate_section(packed, len, &len);
    free(packed);
  }
  section->bytes = bytes;
  section->len = len;
  return bytes != NULL;
}

void ss_image_drop(struct ss_elf_section *section)
{
  free(section->bytes);
  section->bytes = NULL;
  section->len = 0;
}

bool ss_image_section(struct ss_image *image, const char *name, struct ss_section *out)
{
  struct ss_elf_section *s = ss_image_section_named(image, name);
  if (s == NULL || !ss_image_load(image, s))
    return false;
  *out = (struct ss_section){.bytes = s->bytes, .len = s->len, .vaddr = s->vaddr};
  return true;
}

bool ss_image_section_at(struct ss_image *image, const char *name, uint64_t *vaddr,
                         uint64_t *len)
{
  const struct ss_elf_section *s = ss_image_section_named(image, name);
  if (s == NULL || s->type == SHT_NOBITS || (s->flags & SHF_ALLOC) == 0)
    return false;
  *vaddr = s->vaddr;
  *len = s->size;
  return true;
}

void ss_image_drop_section(struct ss_image *image, const char *name)
{
  struct ss_elf_section *s = ss_image_section_named(image, name);
  if (s != NULL)
    ss_image_drop(s);
}

/* File bytes from `off` on, at most to the end of its page, by the cache. */
static size_t read_cached(struct ss_image *image, uint64_t off, void *buf, size_t len)
{
  uint64_t base = off - off % SS_IMAGE_PAGE_SIZE;
  size_t slot = (size_t)(base / SS_IMAGE_PAGE_SIZE % SS_IMAGE_PAGES);
  size_t skip = (size_t)(off - base);
  if (image->pages[slot].len == 0 || image->pages[slot].offset != base) {
    if (image->pages[slot].data == NULL)
      image->pages[slot].data = malloc(SS_IMAGE_PAGE_SIZE);
    if (image->pages[slot].data == NULL || base >= image->size)
      return 0;
    uint64_t left = image->size - base;
    size_t want = left < SS_IMAGE_PAGE_SIZE ? (size_t)left : SS_IMAGE_PAGE_SIZE;
    image->pages[slot].len = 0;
    if (!ss_image_pread(image, base, image->pages[slot].data, want))
      return 0;
    image->pages[slot].offset = base;
    image->pages[slot].len = want;
  }
  if (skip >= image->pages[slot].len)
    return 0;
  size_t n = image->pages[slot].len - skip;
  n = n < len ? n : len;
  memcpy(buf, image->pages[slot].data + skip, n);
  return n;
}

size_t ss_image_read(struct ss_image *image, uint64_t vaddr, void *buf, size_t len)
{
  const struct ss_segment *seg = segment_at(image, vaddr);
  if (seg == NULL)
    return 0;
  uint64_t left = seg->filesz - (vaddr - seg->vaddr);
  uint64_t off = seg->offset + (vaddr - seg->vaddr);
  if (off < seg->offset)
    return 0; /* wraps */
  len = left < len ? (size_t)left : len;
  size_t got = 0;
  while (got < len) {
    size_t n = read_cached(image, off + got, (char *)buf + got, len - got);
    if (n == 0)
      break;
    got += n;
  }
  return got;
}
