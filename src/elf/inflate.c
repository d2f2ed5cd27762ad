/*
 * Compressed ELF data: SHF_COMPRESSED sections (gABI, zlib) and the xz stream
 * of .gnu_debugdata. The output is capped before memory is taken for it: a
 * small file may claim or hold terabytes of zeros. Sections packed with zstd are not
 * read; of those that we use tools pack .debug_frame only, and where that is all a file
 * has, its frames are found by their code and labelled so.
 */
#include <elf.h>
#include <lzma.h>
#include <zlib.h>

#include "elf_priv.h"
#include "stacksample/cursor.h"
#include "stacksample/limits.h"

#define ZLIB_RATIO_MAX 1032        /* deflate cannot do better (zlib's technical notes) */
#define XZ_MEMORY_MAX (128u << 20) /* xz -9 needs 65 MB */
#define XZ_FIRST_BYTES (1u << 20)

unsigned char *ss_inflate_section(const unsigned char *bytes, size_t len, size_t *out_len)
{
  struct ss_cursor c = ss_cursor_init(bytes, len);
  uint32_t type = ss_read_u32(&c);
  ss_skip(&c, 4);
  uint64_t size = ss_read_u64(&c);
  ss_skip(&c, 8);
  if (c.failed || type != ELFCOMPRESS_ZLIB || size > SS_DEBUGDATA_MAX ||
      size / ZLIB_RATIO_MAX > c.left)
    return NULL;
  unsigned char *out = malloc((size_t)size + 1);
  uLongf got = (uLongf)size;
  if (out == NULL)
    return NULL;
  if (uncompress(out, &got, c.cur, c.left) != Z_OK || got != size) {
    free(out);
    return NULL;
  }
  out[size] = 0;
  *out_len = (size_t)size;
  return out;
}

/* Doubles the output up to the cap. */
static bool grow_output(unsigned char **out, size_t *cap)
{
  size_t grown = *cap == 0 ? XZ_FIRST_BYTES : *cap * 2;
  unsigned char *bigger = grown > SS_DEBUGDATA_MAX ? NULL : realloc(*out, grown);
  if (bigger == NULL)
    return false;
  *out = bigger;
  *cap = grown;
  return true;
}

unsigned char *ss_unxz(const unsigned char *bytes, size_t len, size_t *out_len)
{
  lzma_stream stream = LZMA_STREAM_INIT;
  unsigned char *out = NULL;
  size_t cap = 0;
  lzma_ret ret = lzma_stream_decoder(&stream, XZ_MEMORY_MAX, LZMA_CONCATENATED);
  if (ret != LZMA_OK)
    return NULL;
  stream.next_in = bytes;
  stream.avail_in = len;
  while (ret == LZMA_OK) {
    if (stream.avail_out == 0) {
      size_t used = cap;
      if (!grow_output(&out, &cap))
        break;
      stream.next_out = out + used;
      stream.avail_out = cap - used;
    }
    ret = lzma_code(&stream, LZMA_FINISH);
  }
  *out_len = cap - stream.avail_out;
  lzma_end(&stream);
  if (ret != LZMA_STREAM_END) {
    free(out);
    return NULL;
  }
  return out;
}
