/*
 * Separate debug files: by build-id, then by .gnu_debuglink (binutils' manual,
 * "Separate debug files"), inside the target's root and never outside it.
 *
 * The link's text comes from the file: only a plain basename is accepted. A
 * file found is used only if its build-id (or, without one, its CRC) is that
 * which the program's own file names.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <zlib.h>

#include "elf_priv.h"
#include "stacksample/buf.h"
#include "stacksample/cursor.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

#define DEBUG_ROOT "usr/lib/debug"
#define CRC_CHUNK 65536

/* Regular file `path` below `root_fd`; links are followed inside it only. */
static int open_in_root(int root_fd, const char *path)
{
  struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                         .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  struct stat st;
  int fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof how);
  if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)))
    ss_close(&fd);
  return fd;
}

bool ss_debuglink_parse(const unsigned char *bytes, size_t len, const char **name,
                        uint32_t *crc)
{
  struct ss_cursor c = ss_cursor_init(bytes, len);
  const char *text = ss_read_cstr(&c);
  if (text == NULL)
    return false;
  ss_skip(&c, (size_t)(-ss_cursor_offset(&c) & 3));
  *crc = ss_read_u32(&c);
  *name = text;
  size_t n = strlen(text);
  return !c.failed && n > 0 && n < 256 && strchr(text, '/') == NULL &&
         strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

static bool crc_matches(int fd, uint32_t want)
{
  unsigned char *chunk = malloc(CRC_CHUNK);
  uLong crc = crc32(0, NULL, 0);
  uint64_t off = 0;
  ssize_t n = -1;
  while (chunk != NULL && off < SS_ELF_SECTION_MAX &&
         (n = ss_pread_some(fd, chunk, CRC_CHUNK, off)) > 0) {
    crc = crc32(crc, chunk, (uInt)n);
    off += (uint64_t)n;
  }
  free(chunk);
  return n == 0 && (uint32_t)crc == want;
}

static bool same_build_id(const struct ss_image *a, const struct ss_image *b)
{
  return a->build_id_len > 0 && a->build_id_len == b->build_id_len &&
         memcmp(a->build_id, b->build_id, a->build_id_len) == 0;
}

/* Opens a candidate; kept only if it belongs to `image`. */
static struct ss_image *try_file(const struct ss_image *image, int root_fd,
                                 const char *path, const uint32_t *crc)
{
  int fd = open_in_root(root_fd, path);
  struct ss_image *debug = NULL;
  if (fd < 0)
    return NULL;
  bool crc_ok = crc != NULL && image->build_id_len == 0 && crc_matches(fd, *crc);
  if (ss_image_open(&debug, fd, path, NULL) != SS_ERR_OK)
    return NULL;
  if (!crc_ok && !same_build_id(image, debug)) {
    ss_image_close(debug);
    return NULL;
  }
  return debug;
}

static struct ss_image *by_build_id(const struct ss_image *image, int root_fd)
{
  struct ss_buf path = {0};
  struct ss_image *debug = NULL;
  if (image->build_id_len < 2)
    return NULL;
  ss_buf_addf(&path, DEBUG_ROOT "/.build-id/%02x/", image->build_id[0]);
  for (size_t i = 1; i < image->build_id_len; i++)
    ss_buf_addf(&path, "%02x", image->build_id[i]);
  ss_buf_adds(&path, ".debug");
  if (!path.failed)
    debug = try_file(image, root_fd, path.data, NULL);
  ss_buf_release(&path);
  return debug;
}

static struct ss_image *by_link(struct ss_image *image, int root_fd, const char *file)
{
  static const char *const places[][2] = {{"", ""}, {"", ".debug/"}, {DEBUG_ROOT, ""}};
  struct ss_section link;
  const char *name, *slash = strrchr(file, '/');
  uint32_t crc;
  struct ss_image *debug = NULL;
  if (slash == NULL || !ss_image_section(image, ".gnu_debuglink", &link) ||
      !ss_debuglink_parse(link.bytes, link.len, &name, &crc))
    return NULL;
  for (size_t i = 0; debug == NULL && i < sizeof places / sizeof places[0]; i++) {
    struct ss_buf path = {0};
    ss_buf_addf(&path, "%s%.*s/%s%s", places[i][0], (int)(slash - file), file,
                places[i][1], name);
    if (!path.failed && strcmp(path.data, file) != 0)
      debug = try_file(image, root_fd, path.data, &crc);
    ss_buf_release(&path);
  }
  ss_image_drop_section(image, ".gnu_debuglink");
  return debug;
}

struct ss_image *ss_debug_image_find(struct ss_image *image, int root_fd,
                                     const char *path)
{
  if (root_fd < 0)
    return NULL;
  struct ss_image *debug = by_build_id(image, root_fd);
  return debug != NULL ? debug : by_link(image, root_fd, path);
}
