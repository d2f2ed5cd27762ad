/*
 * The bundle: one fresh, private folder a run, held by descriptor.
 *
 * Nothing existing is overwritten and nothing is written through a link. Files
 * appear complete or not at all; what could not be written is remembered with
 * its reason for the manifest. A file without a name keeps SS_RESERVE_BYTES of
 * the disk until the summaries are due; a kill gives it back by itself. Its last
 * part goes only to files that may not be missing, when the disk is full.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bundle_priv.h"
#include "stacksample/limits.h"
#include "stacksample/sys.h"

#define STAMP_MAX 200
#define RESERVE_LAST (256 * 1024) /* for the summaries and the manifest alone */
#define RESERVE_PART (16 * 1024)  /* given back at a time, beyond a file's size */
#define MANIFEST_MAX (64u << 20)

static bool stamp_valid(const char *stamp)
{
  static const char allowed[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  size_t len = strlen(stamp);

  return len > 0 && len <= STAMP_MAX && strspn(stamp, allowed) == len &&
         strcmp(stamp, ".") != 0 && strcmp(stamp, "..") != 0;
}

/* Holds disk space by a file that has no name any more. */
static int make_reserve(const struct ss_dir *dir)
{
  static const char name[] = ".reserve";
  static const char zeros[4096];
  int fd = ss_file_create(dir, name, NULL);

  if (fd < 0)
    return -1;
  unlinkat(dir->fd, name, 0);
  if (fallocate(fd, 0, 0, SS_RESERVE_BYTES) == 0)
    return fd;
  /* File systems without it: written bytes hold the space as well. */
  bool held = errno == EOPNOTSUPP || errno == ENOSYS;
  for (size_t done = 0; held && done < SS_RESERVE_BYTES; done += sizeof zeros)
    held = ss_write_all(fd, zeros, sizeof zeros) == 0;
  if (!held)
    ss_close(&fd);
  return fd;
}

static enum ss_err create_stamped(struct ss_dir *dir, const struct ss_dir *parent,
                                  struct ss_diag *diag)
{
  time_t now = (time_t)(ss_wall_ns() / 1000000000);
  struct tm utc;
  char base[32], name[48];
  enum ss_err err = SS_ERR_EXISTS;

  gmtime_r(&now, &utc);
  strftime(base, sizeof base, "%Y%m%dT%H%M%SZ", &utc);
  for (int i = 1; i <= SS_STAMP_TRIES && err == SS_ERR_EXISTS; i++) {
    snprintf(name, sizeof name, i == 1 ? "%s" : "%s-%d", base, i);
    err = ss_dir_create(dir, parent, name, diag);
  }
  return err;
}

static enum ss_err create_folder(struct ss_dir *dir, const char *parent,
                                 const char *stamp, struct ss_diag *diag)
{
  struct ss_dir above = {.fd = -1};
  struct ss_diag why = {0};
  enum ss_err err = ss_dir_open(&above, parent, true, &why);

  if (err != SS_ERR_OK)
    return ss_fail(diag, err, "%s; choose another folder with --output", why.text);
  if (stamp) {
    err = ss_dir_create(dir, &above, stamp, diag);
    if (err == SS_ERR_EXISTS)
      ss_fail(diag, err, "%s/%s exists already; choose another --stamp", parent, stamp);
  } else {
    err = create_stamped(dir, &above, diag);
  }
  ss_dir_close(&above);
  return err;
}

enum ss_err ss_bundle_create(struct ss_bundle **bundle, const char *parent,
                             const char *stamp, struct ss_diag *diag)
{
  *bundle = NULL;
  if (stamp && !stamp_valid(stamp))
    return ss_fail(diag, SS_ERR_USAGE,
                   "--stamp may hold ASCII letters, digits, '.', '_' and '-' only");
  struct ss_bundle *b = calloc(1, sizeof *b);
  if (!b)
    return ss_fail(diag, SS_ERR_NOMEM, "out of memory");
  b->reserve_fd = -1;
  b->dir.fd = -1;
  enum ss_err err = create_folder(&b->dir, parent, stamp, diag);
  if (err != SS_ERR_OK) {
    ss_bundle_free(b);
    return err;
  }
  b->reserve_fd = make_reserve(&b->dir);
  *bundle = b;
  return SS_ERR_OK;
}

/* A bundle that is written again keeps the reasons of its first writing. */
static void load_absent(struct ss_bundle *b)
{
  struct ss_buf text = {0};
  int fd = ss_file_open_read(&b->dir, "manifest.json", NULL);
  cJSON *manifest = NULL;
  const cJSON *item;

  if (fd < 0)
    return;
  char chunk[4096];
  ssize_t n;
  while (text.len < MANIFEST_MAX && (n = ss_read_some(fd, chunk, sizeof chunk)) > 0)
    ss_buf_add(&text, chunk, (size_t)n);
  ss_close(&fd);
  manifest = cJSON_ParseWithLength(ss_buf_str(&text), text.len);
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(manifest, "absent"))
  {
    const char *name = ss_json_get(item, "name"), *why = ss_json_get(item, "why");
    if (name && why)
      ss_bundle_absent(b, name, why);
  }
  cJSON_Delete(manifest);
  ss_buf_release(&text);
}

enum ss_err ss_bundle_open(struct ss_bundle **bundle, const char *path,
                           struct ss_diag *diag)
{
  struct ss_bundle *b = calloc(1, sizeof *b);

  *bundle = NULL;
  if (!b)
    return ss_fail(diag, SS_ERR_NOMEM, "out of memory");
  b->reserve_fd = -1;
  b->dir.fd = -1;
  enum ss_err err = ss_dir_open(&b->dir, path, false, diag);
  if (err != SS_ERR_OK) {
    ss_bundle_free(b);
    return err;
  }
  load_absent(b);
  *bundle = b;
  return SS_ERR_OK;
}

const struct ss_dir *ss_bundle_dir(const struct ss_bundle *b)
{
  return &b->dir;
}

const char *ss_bundle_path(const struct ss_bundle *b)
{
  return b->dir.path;
}

void ss_bundle_release_reserve(struct ss_bundle *b)
{
  if (b->reserve_fd >= 0 && ftruncate(b->reserve_fd, RESERVE_LAST) != 0)
    ss_close(&b->reserve_fd);
}

/* Was the disk full, and is there something to give back for a second try? */
static bool give_back(struct ss_bundle *b, const struct ss_diag *diag, size_t need)
{
  struct stat st;

  if ((diag->sys_errno != ENOSPC && diag->sys_errno != EDQUOT) || b->reserve_fd < 0 ||
      fstat(b->reserve_fd, &st) != 0 || st.st_size == 0)
    return false;
  off_t part = (off_t)need + RESERVE_PART;
  return ftruncate(b->reserve_fd, st.st_size > part ? st.st_size - part : 0) == 0;
}

void ss_bundle_absent(struct ss_bundle *b, const char *name, const char *why)
{
  for (size_t i = 0; i < b->n_absent; i++) {
    if (strcmp(b->absent[i].name, name) != 0)
      continue;
    char *fresh = strdup(why);
    if (fresh) {
      free(b->absent[i].why);
      b->absent[i].why = fresh;
    }
    return;
  }
  if (!ss_grow(&b->absent, &b->cap_absent, b->n_absent + 1, sizeof *b->absent))
    return;
  struct ss_absent item = {strdup(name), strdup(why)};
  if (item.name && item.why) {
    b->absent[b->n_absent++] = item;
    return;
  }
  free(item.name);
  free(item.why);
}

enum ss_err ss_first_error(enum ss_err first, enum ss_err next)
{
  return first == SS_ERR_OK ? next : first;
}

static enum ss_err put_once(struct ss_bundle *b, const char *name,
                            const struct ss_buf *text, struct ss_diag *diag)
{
  struct ss_outfile *out = NULL;

  if (text->failed)
    return ss_fail(diag, SS_ERR_NOMEM, "out of memory for %s", name);
  if (!(out = ss_outfile_open(&b->dir, name, diag)))
    return diag->err;
  ss_outfile_write(out, ss_buf_str(text), text->len);
  return ss_outfile_commit(out, diag);
}

enum ss_err ss_bundle_put(struct ss_bundle *b, const char *name,
                          const struct ss_buf *text, struct ss_diag *diag)
{
  struct ss_diag local = {0};
  enum ss_err err = put_once(b, name, text, &local);

  while (err != SS_ERR_OK && give_back(b, &local, text->len)) {
    local = (struct ss_diag){0};
    err = put_once(b, name, text, &local);
  }
  if (err != SS_ERR_OK) {
    ss_bundle_absent(b, name, local.text);
    if (diag && diag->err == SS_ERR_OK)
      *diag = local;
  }
  return err;
}

static enum ss_err write_once(struct ss_bundle *b, const struct ss_writer *w,
                              struct ss_profile *p,
                              const struct ss_write_options *options,
                              struct ss_diag *diag)
{
  struct ss_outfile *out = ss_outfile_open(&b->dir, w->file, diag);

  if (!out)
    return diag->err;
  enum ss_err err = w->write(p, options, out, diag);
  if (err == SS_ERR_OK)
    return ss_outfile_commit(out, diag);
  ss_outfile_abort(out);
  return err;
}

enum ss_err ss_bundle_write(struct ss_bundle *b, const struct ss_writer *w,
                            struct ss_profile *p, const struct ss_write_options *options,
                            struct ss_diag *diag)
{
  struct ss_diag local = {0};
  enum ss_err err = write_once(b, w, p, options, &local);

  while (err != SS_ERR_OK && w->always && give_back(b, &local, RESERVE_PART)) {
    local = (struct ss_diag){0};
    err = write_once(b, w, p, options, &local);
  }
  if (err != SS_ERR_OK) {
    ss_bundle_absent(b, w->file, local.text[0] ? local.text : ss_strerror(err));
    if (diag)
      *diag = local;
  }
  return err;
}

/* Empties the folder through its descriptor, so nothing outside can be hit. */
static void remove_files(int dirfd)
{
  int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
  struct dirent *entry;

  if (!dir) {
    ss_close(&fd);
    return;
  }
  while ((entry = readdir(dir)))
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      (void)unlinkat(dirfd, entry->d_name, 0);
  closedir(dir);
}

void ss_bundle_discard(struct ss_bundle *b)
{
  struct stat ours, named;

  if (!b)
    return;
  remove_files(b->dir.fd);
  /* By name, and so only if the name is still that of our folder; only an
   * empty one can go. */
  if (fstat(b->dir.fd, &ours) == 0 && lstat(b->dir.path, &named) == 0 &&
      ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
    (void)rmdir(b->dir.path);
  ss_bundle_free(b);
}

void ss_bundle_free(struct ss_bundle *b)
{
  if (!b)
    return;
  ss_close(&b->reserve_fd);
  for (size_t i = 0; i < b->n_absent; i++) {
    free(b->absent[i].name);
    free(b->absent[i].why);
  }
  free(b->absent);
  free(b->hashed);
  ss_dir_close(&b->dir);
  free(b);
}
