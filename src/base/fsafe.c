/*
 * Folders held by descriptor, and files that appear complete or not at all.
 *
 * Links are followed only in the path that the user gave for a folder; every
 * name below it is a single component, opened relative to the descriptor and
 * never through a link. A file's final name gets its content by rename, which
 * replaces a link planted there instead of writing through it.
 */
#include "stacksample/fsafe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stacksample/buf.h"
#include "stacksample/sys.h"

static bool one_component(const char *name)
{
  size_t len = strlen(name);

  return len > 0 && len <= NAME_MAX && strchr(name, '/') == NULL &&
         strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static enum ss_err bad_name(const char *name, struct ss_diag *diag)
{
  return ss_fail(diag, SS_ERR_USAGE, "'%s' is not the name of a file", name);
}

/* ---- folders ------------------------------------------------------------------ */

/* mkdir -p. What exists already is left to the open that follows. */
static enum ss_err make_path(const char *path, struct ss_diag *diag)
{
  char *copy = strdup(path);
  enum ss_err err = SS_ERR_OK;

  if (copy == NULL)
    return ss_fail(diag, SS_ERR_NOMEM, "cannot make the folder %s", path);
  for (char *at = copy + (copy[0] == '/'); err == SS_ERR_OK; at++) {
    char c = *at;
    if (c != '/' && c != '\0')
      continue;
    *at = '\0';
    if (copy[0] != '\0' && mkdir(copy, 0777) != 0 && errno != EEXIST)
      err = ss_fail_errno(diag, "cannot make the folder %s", copy);
    *at = c;
    if (c == '\0')
      break;
  }
  free(copy);
  return err;
}

/* Takes ownership of `fd`. */
static enum ss_err dir_adopt(struct ss_dir *dir, int fd, char *path, struct ss_diag *diag)
{
  if (path == NULL) {
    ss_close(&fd);
    return ss_fail(diag, SS_ERR_NOMEM, "cannot open a folder");
  }
  dir->fd = fd;
  dir->path = path;
  return SS_ERR_OK;
}

enum ss_err ss_dir_open(struct ss_dir *dir, const char *path, bool make,
                        struct ss_diag *diag)
{
  const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  int fd = open(path, flags);

  *dir = (struct ss_dir){.fd = -1};
  if (fd < 0 && errno == ENOENT && make) {
    enum ss_err err = make_path(path, diag);
    if (err != SS_ERR_OK)
      return err;
    fd = open(path, flags);
  }
  if (fd < 0)
    return ss_fail_errno(diag, "cannot open the folder %s", path);
  return dir_adopt(dir, fd, strdup(path), diag);
}

static char *join(const char *folder, const char *name)
{
  struct ss_buf path = {0};
  size_t len = strlen(folder);

  ss_buf_adds(&path, folder);
  if (len == 0 || folder[len - 1] != '/')
    ss_buf_addc(&path, '/');
  ss_buf_adds(&path, name);
  if (path.failed)
    ss_buf_release(&path);
  return path.data;
}

enum ss_err ss_dir_create(struct ss_dir *dir, const struct ss_dir *parent,
                          const char *name, struct ss_diag *diag)
{
  struct stat st;
  int fd;

  *dir = (struct ss_dir){.fd = -1};
  if (!one_component(name))
    return bad_name(name, diag);
  if (mkdirat(parent->fd, name, 0700) != 0)
    return ss_fail_errno(diag, "cannot make the folder %s/%s", parent->path, name);
  fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  /* Another owner: somebody put a folder of his in place of the new one. */
  if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_uid != geteuid())) {
    ss_close(&fd);
    errno = EPERM;
  }
  /* The umask may have taken bits of our own access away. */
  if (fd < 0 || fchmod(fd, 0700) != 0) {
    ss_close(&fd);
    return ss_fail_errno(diag, "cannot open the folder %s/%s", parent->path, name);
  }
  return dir_adopt(dir, fd, join(parent->path, name), diag);
}

void ss_dir_close(struct ss_dir *dir)
{
  /* A zeroed struct is a closed one; descriptor 0 is never ours with no path. */
  if (dir->path != NULL)
    ss_close(&dir->fd);
  free(dir->path);
  *dir = (struct ss_dir){.fd = -1};
}

/* ---- files --------------------------------------------------------------------- */

static int create_file(const struct ss_dir *dir, const char *name)
{
  int fd =
      openat(dir->fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

  /* The mode is exact whatever the umask. */
  if (fd >= 0 && fchmod(fd, 0600) != 0) {
    int saved = errno;
    unlinkat(dir->fd, name, 0);
    errno = saved;
    ss_close(&fd);
  }
  return fd;
}

int ss_file_create(const struct ss_dir *dir, const char *name, struct ss_diag *diag)
{
  int fd;

  if (!one_component(name)) {
    bad_name(name, diag);
    return -1;
  }
  fd = create_file(dir, name);
  if (fd < 0)
    ss_fail_errno(diag, "cannot create %s/%s", dir->path, name);
  return fd;
}

/* Looks before it opens: opening a FIFO or a device may block or act. */
static int open_regular(int dirfd, const char *path, int flags, int stat_flags,
                        struct ss_diag *diag)
{
  struct stat st;
  int fd = -1;

  if (fstatat(dirfd, path, &st, stat_flags) != 0) {
    ss_fail_errno(diag, "cannot open %s", path);
    return -1;
  }
  if (S_ISREG(st.st_mode)) {
    fd = openat(dirfd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags);
    if (fd < 0) {
      ss_fail_errno(diag, "cannot open %s", path);
      return -1;
    }
    if (fstat(fd, &st) != 0)
      st.st_mode = 0;
  }
  if (!S_ISREG(st.st_mode)) {
    ss_close(&fd);
    ss_fail(diag, SS_ERR_FORMAT, "%s is not a regular file", path);
    return -1;
  }
  return fd;
}

int ss_file_open_read(const struct ss_dir *dir, const char *name, struct ss_diag *diag)
{
  if (!one_component(name)) {
    bad_name(name, diag);
    return -1;
  }
  return open_regular(dir->fd, name, O_NOFOLLOW, AT_SYMLINK_NOFOLLOW, diag);
}

int ss_file_open_regular(int dirfd, const char *path, struct ss_diag *diag)
{
  return open_regular(dirfd, path, 0, 0, diag);
}

enum ss_err ss_file_read_all(int dirfd, const char *path, size_t max, struct ss_buf *out,
                             struct ss_diag *diag)
{
  struct ss_diag local = {0};
  char chunk[4096];
  ssize_t n;
  int fd = open_regular(dirfd, path, 0, 0, &local);

  if (fd < 0) {
    if (diag != NULL)
      *diag = local;
    return local.err;
  }
  ss_buf_clear(out);
  /* Until the end, not st_size bytes: files of /proc say 0. */
  while ((n = ss_read_some(fd, chunk, sizeof chunk)) > 0) {
    if ((size_t)n > max - out->len) {
      ss_close(&fd);
      return ss_fail(diag, SS_ERR_LIMIT, "%s is larger than %zu bytes", path, max);
    }
    ss_buf_add(out, chunk, (size_t)n);
  }
  ss_close(&fd);
  if (n < 0)
    return ss_fail_errno(diag, "cannot read %s", path);
  ss_buf_add(out, "", 0); /* the NUL, also of an empty file */
  return out->failed ? ss_fail(diag, SS_ERR_NOMEM, "cannot read %s", path) : SS_ERR_OK;
}

/* ---- a file under construction -------------------------------------------------- */

enum { OUT_BUFFER_BYTES = 64 * 1024, OUT_START_BYTES = 8 << 20 };

struct ss_outfile {
  int fd;
  int dirfd;       /* a duplicate: the caller may close its folder first */
  int write_errno; /* of the first failed write; 0: none */
  bool formatting_failed;
  uint64_t size;
  uint64_t started; /* bytes that the disk was told to write */
  size_t buffered;
  char *path;    /* for messages */
  char *name;    /* final */
  char temp[64]; /* ".tmp-" and 128 random bits */
  char buffer[OUT_BUFFER_BYTES];
};

static void outfile_free(struct ss_outfile *out)
{
  ss_close(&out->fd);
  ss_close(&out->dirfd);
  free(out->path);
  free(out->name);
  free(out);
}

static int create_temporary(struct ss_outfile *out, const struct ss_dir *dir)
{
  uint64_t random[2];

  if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
    return -1;
  snprintf(out->temp, sizeof out->temp, ".tmp-%016llx%016llx",
           (unsigned long long)random[0], (unsigned long long)random[1]);
  return create_file(dir, out->temp);
}

struct ss_outfile *ss_outfile_open(const struct ss_dir *dir, const char *name,
                                   struct ss_diag *diag)
{
  struct ss_outfile *out;

  if (!one_component(name)) {
    bad_name(name, diag);
    return NULL;
  }
  out = malloc(sizeof *out);
  if (out == NULL) {
    ss_fail(diag, SS_ERR_NOMEM, "cannot create %s/%s", dir->path, name);
    return NULL;
  }
  /* Not the buffer: no need to touch it. */
  memset(out, 0, offsetof(struct ss_outfile, buffer));
  out->fd = -1;
  out->dirfd = fcntl(dir->fd, F_DUPFD_CLOEXEC, 3);
  out->path = join(dir->path, name);
  out->name = strdup(name);
  if (out->dirfd >= 0 && out->path != NULL && out->name != NULL)
    out->fd = create_temporary(out, dir);
  if (out->fd < 0) {
    ss_fail_errno(diag, "cannot create %s/%s", dir->path, name);
    outfile_free(out);
    return NULL;
  }
  return out;
}

static void flush(struct ss_outfile *out)
{
  if (out->write_errno == 0 && out->buffered > 0 &&
      ss_write_all(out->fd, out->buffer, out->buffered) != 0)
    out->write_errno = errno;
  out->buffered = 0;
  if (out->size - out->started >= OUT_START_BYTES) { /* not all of it at the fsync */
    (void)sync_file_range(out->fd, (off_t)out->started, (off_t)(out->size - out->started),
                          SYNC_FILE_RANGE_WRITE);
    out->started = out->size;
  }
}

void ss_outfile_write(struct ss_outfile *out, const void *bytes, size_t len)
{
  out->size += len;
  if (len > sizeof out->buffer - out->buffered)
    flush(out);
  if (len > sizeof out->buffer) {
    if (out->write_errno == 0 && ss_write_all(out->fd, bytes, len) != 0)
      out->write_errno = errno;
    return;
  }
  if (len > 0)
    memcpy(out->buffer + out->buffered, bytes, len);
  out->buffered += len;
}

void ss_outfile_printf(struct ss_outfile *out, const char *fmt, ...)
{
  char small[512];
  struct ss_buf large = {0};
  va_list ap;

  va_start(ap, fmt);
  int n = vsnprintf(small, sizeof small, fmt, ap);
  va_end(ap);
  if (n >= 0 && (size_t)n < sizeof small) {
    ss_outfile_write(out, small, (size_t)n);
    return;
  }
  va_start(ap, fmt);
  ss_buf_vaddf(&large, fmt, ap);
  va_end(ap);
  if (large.failed)
    out->formatting_failed = true;
  else
    ss_outfile_write(out, large.data, large.len);
  ss_buf_release(&large);
}

uint64_t ss_outfile_size(const struct ss_outfile *out)
{
  return out->size;
}

/* Only a regular file or a link may be replaced: anything else of that name is
 * not ours (and rename would take a FIFO or a device away). */
static bool may_replace(const struct ss_outfile *out)
{
  struct stat st;

  if (fstatat(out->dirfd, out->name, &st, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT;
  if (S_ISREG(st.st_mode) || S_ISLNK(st.st_mode))
    return true;
  errno = EEXIST;
  return false;
}

enum ss_err ss_outfile_commit(struct ss_outfile *out, struct ss_diag *diag)
{
  enum ss_err err = SS_ERR_OK;

  flush(out);
  if (out->formatting_failed)
    err = ss_fail(diag, SS_ERR_NOMEM, "cannot write %s", out->path);
  else if ((errno = out->write_errno) != 0 || ss_fsync(out->fd) != 0)
    err = ss_fail_errno(diag, "cannot write %s", out->path);
  else if (!may_replace(out) ||
           renameat(out->dirfd, out->temp, out->dirfd, out->name) != 0)
    err = ss_fail_errno(diag, "cannot put %s in its place", out->path);
  if (err != SS_ERR_OK) {
    ss_outfile_abort(out);
    return err;
  }
  /* Makes the rename durable; the file is complete either way. */
  (void)ss_fsync(out->dirfd);
  outfile_free(out);
  return SS_ERR_OK;
}

void ss_outfile_abort(struct ss_outfile *out)
{
  if (out == NULL)
    return;
  unlinkat(out->dirfd, out->temp, 0);
  outfile_free(out);
}
