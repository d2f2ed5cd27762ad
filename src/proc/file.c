/*
 * The file behind a mapping, opened so that it is that file or nothing.
 *
 * A path is only a hint: it belongs to the target's mount namespace, may have
 * been replaced since, and may name anything. So it is opened O_PATH (which
 * touches no device and waits for nobody), its identity compared with the
 * mapping's, and only then opened for reading. Nothing is executed, and no
 * namespace is entered.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "proc_priv.h"
#include "stacksample/hash.h"
#include "stacksample/limits.h"
#include "stacksample/proc.h"
#include "stacksample/sys.h"

static bool same_identity(const struct ss_map *a, const struct ss_map *b)
{
  return a->inode != 0 && a->inode == b->inode && a->dev_major == b->dev_major &&
         a->dev_minor == b->dev_minor;
}

/* Identity of an open file as the kernel prints it for a mapping of it, which
 * on btrfs and overlayfs is not what stat(2) says: maps one page, never
 * touched, and looks at our own line. */
static bool mapped_identity(int fd, struct ss_map *out)
{
  bool found = false;
  struct ss_maps own;
  struct ss_paths *paths = ss_paths_new();
  void *page = mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 0);
  ss_maps_init(&own, paths);
  if (paths && page != MAP_FAILED && ss_maps_load(&own, getpid(), NULL) == SS_ERR_OK) {
    const struct ss_map *line = ss_maps_find(&own, (uint64_t)(uintptr_t)page);
    if (line)
      *out = *line;
    found = line != NULL;
  }
  if (page != MAP_FAILED)
    munmap(page, 1);
  ss_maps_release(&own);
  ss_paths_free(paths);
  return found;
}

/* The kernel's present line for the same range, where it still shows the same
 * path: on overlayfs an mmap record names the lower file's inode, the text the
 * overlay's (Linux 6.8 on). */
static bool present_identity(pid_t pid, const struct ss_map *map, const char *path,
                             struct ss_map *out)
{
  bool found = false;
  struct ss_maps now;
  struct ss_paths *paths = ss_paths_new();
  ss_maps_init(&now, paths);
  if (paths && ss_maps_load(&now, pid, NULL) == SS_ERR_OK) {
    const struct ss_map *line = ss_maps_find(&now, map->start);
    found = line && strcmp(ss_paths_get(paths, line->path), path) == 0;
    if (found)
      *out = *line;
  }
  ss_maps_release(&now);
  ss_paths_free(paths);
  return found;
}

bool ss_file_identity(int fd, struct ss_map *out)
{
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
    return false;
  *out = (struct ss_map){.inode = st.st_ino,
                         .dev_major = major(st.st_dev),
                         .dev_minor = minor(st.st_dev),
                         .path = SS_ID_NONE};
  return true;
}

/* An O_PATH descriptor, opened again for reading. */
static int reopen(int path_fd)
{
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", path_fd);
  return open(link, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Takes over `path_fd`; a readable descriptor of the mapping's file, or -1. */
static int accept_file(pid_t pid, int path_fd, const struct ss_map *map, const char *path)
{
  struct ss_map have, want;
  int fd = -1;
  if (path_fd < 0)
    return -1;
  if (ss_file_identity(path_fd, &have)) {
    fd = reopen(path_fd);
    bool same = fd >= 0 && same_identity(&have, map);
    if (fd >= 0 && !same && mapped_identity(fd, &have)) {
      same = same_identity(&have, map) ||
             (present_identity(pid, map, path, &want) && same_identity(&have, &want));
    }
    if (!same)
      ss_close(&fd);
  }
  ss_close(&path_fd);
  return fd;
}

/* ---- the ways to the file --------------------------------------------------- */

/* The kernel's own link to the mapped file, also when it was deleted; needs
 * CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN. */
static int open_map_files(pid_t pid, const struct ss_map *map, const char *path)
{
  char link[96];
  (void)path;
  snprintf(link, sizeof link, "/proc/%d/map_files/%llx-%llx", (int)pid,
           (unsigned long long)map->start, (unsigned long long)map->end);
  return open(link, O_PATH | O_CLOEXEC);
}

int ss_open_beneath(int root_fd, const char *path)
{
  struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                         .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  int fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof how);
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
    return fd;
  /* Without openat2 an absolute link on the way leads into our own root; the
   * comparison of identities refuses what is found there. */
  while (*path == '/')
    path++;
  return openat(root_fd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

static int open_in_root(pid_t pid, const struct ss_map *map, const char *path)
{
  char link[64];
  (void)map;
  snprintf(link, sizeof link, "/proc/%d/root", (int)pid);
  int root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return -1;
  int fd = ss_open_beneath(root, path);
  ss_close(&root);
  return fd;
}

/* A chroot's mappings are shown relative to the reader's root. */
static int open_path(pid_t pid, const struct ss_map *map, const char *path)
{
  (void)pid;
  (void)map;
  return open(path, O_PATH | O_CLOEXEC);
}

/* The program itself, also deleted and without privilege. */
static int open_exe(pid_t pid, const struct ss_map *map, const char *path)
{
  char link[64];
  (void)map;
  (void)path;
  snprintf(link, sizeof link, "/proc/%d/exe", (int)pid);
  return open(link, O_PATH | O_CLOEXEC);
}

/* The range may have changed since the record: any other mapping of the same
 * file has a link too. */
static int open_other_range(pid_t pid, const struct ss_map *map, const char *path)
{
  int fd = -1;
  struct ss_maps now;
  struct ss_paths *paths = ss_paths_new();
  ss_maps_init(&now, paths);
  if (paths && ss_maps_load(&now, pid, NULL) == SS_ERR_OK) {
    for (size_t i = 0; i < now.count && fd < 0; i++)
      if (same_identity(&now.items[i], map))
        fd = open_map_files(pid, &now.items[i], path);
  }
  ss_maps_release(&now);
  ss_paths_free(paths);
  return fd;
}

int ss_map_open(pid_t pid, const struct ss_map *map, const char *path,
                struct ss_diag *diag)
{
  static int (*const ways[])(pid_t, const struct ss_map *, const char *) = {
      open_map_files, open_in_root, open_path, open_exe, open_other_range};
  if (map->inode == 0 || path[0] != '/') {
    ss_fail(diag, SS_ERR_UNSUPPORTED, "%s is not a file", path[0] ? path : "a mapping");
    return -1;
  }
  for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
    int fd = accept_file(pid, ways[i](pid, map, path), map, path);
    if (fd >= 0)
      return fd;
  }
  ss_fail(diag, SS_ERR_GONE,
          "%s: the file that process %d mapped is not there (deleted or replaced)", path,
          (int)pid);
  return -1;
}
