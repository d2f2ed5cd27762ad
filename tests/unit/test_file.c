/* Opening the file behind a mapping: it is that file or nothing, and nothing
 * that is no regular file is ever waited for. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/proc/proc_priv.h"
#include "stacksample/hash.h"
#include "stacksample/proc.h"
#include "tmpdir.h"

static char folder[TMPDIR_PATH];

static int setup(void **state)
{
  (void)state;
  return tmpdir_make(folder) ? 0 : -1;
}

static int teardown(void **state)
{
  (void)state;
  return tmpdir_remove(folder);
}

static void in_folder(char out[128], const char *name)
{
  snprintf(out, 128, "%s/%s", folder, name);
}

static void make_file(const char *path, const char *text)
{
  int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  close(fd);
}

/* Maps `path` into this process; its line of /proc/self/maps. */
static void *map_file(const char *path, struct ss_map *map)
{
  struct ss_paths *paths = ss_paths_new();
  struct ss_maps maps;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  void *page = mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 0);
  assert_true(page != MAP_FAILED);
  close(fd);
  ss_maps_init(&maps, paths);
  assert_int_equal(ss_maps_load(&maps, getpid(), NULL), SS_ERR_OK);
  *map = *ss_maps_find(&maps, (uint64_t)(uintptr_t)page);
  ss_maps_release(&maps);
  ss_paths_free(paths);
  return page;
}

static bool holds(int fd, const char *text)
{
  char buf[64] = "";
  return fd >= 0 && pread(fd, buf, sizeof buf - 1, 0) == (ssize_t)strlen(text) &&
         strcmp(buf, text) == 0;
}

static void test_same_file(void **state)
{
  (void)state;
  char path[128];
  struct ss_map map;
  struct ss_diag diag = {0};
  in_folder(path, "a (deleted)"); /* its real name */
  make_file(path, "one");
  void *page = map_file(path, &map);
  int fd = ss_map_open(getpid(), &map, path, &diag);
  assert_true(holds(fd, "one"));
  assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  close(fd);
  /* By the path alone, where the range is no longer known. */
  map.start += 1 << 20;
  fd = ss_map_open(getpid(), &map, path, &diag);
  assert_true(holds(fd, "one"));
  close(fd);
  munmap(page, 1);
  unlink(path);
}

/* pip upgrades the library: its name has another inode now (R11). */
static void test_replaced_file(void **state)
{
  (void)state;
  char path[128], fresh[128];
  struct ss_map map;
  struct ss_diag diag = {0};
  in_folder(path, "lib.so");
  in_folder(fresh, "lib.so.new");
  make_file(path, "old");
  make_file(fresh, "new");
  void *page = map_file(path, &map);
  assert_int_equal(rename(fresh, path), 0);
  int fd = ss_map_open(getpid(), &map, path, &diag);
  /* The kernel's link gives the old one where we may follow it. */
  assert_true(fd < 0 || holds(fd, "old"));
  if (fd >= 0)
    close(fd);
  else
    assert_int_equal(diag.err, SS_ERR_GONE);
  munmap(page, 1);
  /* Unmapped, so that only the name is left: refused. */
  assert_int_equal(ss_map_open(getpid(), &map, path, &diag), -1);
  assert_int_equal(diag.err, SS_ERR_GONE);
  unlink(path);
}

static void test_deleted_file(void **state)
{
  (void)state;
  char path[128], shown[160];
  struct ss_map map;
  struct ss_diag diag = {0};
  in_folder(path, "gone.so");
  make_file(path, "still");
  void *page = map_file(path, &map);
  unlink(path);
  snprintf(shown, sizeof shown, "%s (deleted)", path);
  int fd = ss_map_open(getpid(), &map, shown, &diag);
  if (fd < 0 && geteuid() != 0)
    skip();
  assert_true(holds(fd, "still"));
  close(fd);
  /* The range grew meanwhile: another mapping of the file is used. */
  map.end += 4096;
  fd = ss_map_open(getpid(), &map, shown, &diag);
  assert_true(holds(fd, "still"));
  close(fd);
  munmap(page, 1);
}

/* A map that claims exactly what the path is, so that only its type refuses. */
static void check_refused(const char *path)
{
  struct stat st;
  struct ss_diag diag = {0};
  assert_int_equal(stat(path, &st), 0);
  struct ss_map map = {.start = 0x1000,
                       .end = 0x2000,
                       .inode = st.st_ino,
                       .dev_major = major(st.st_dev),
                       .dev_minor = minor(st.st_dev)};
  assert_int_equal(ss_map_open(getpid(), &map, path, &diag), -1);
  assert_true(diag.text[0] != '\0');
}

static void test_not_a_file(void **state)
{
  (void)state;
  char fifo[128];
  in_folder(fifo, "fifo");
  assert_int_equal(mkfifo(fifo, 0600), 0);
  check_refused(fifo); /* a blocking open would hang here for ever */
  check_refused("/dev/zero");
  check_refused(folder);
  unlink(fifo);
  struct ss_map map = {.start = 1, .end = 2, .inode = 0};
  assert_int_equal(ss_map_open(getpid(), &map, "/bin/sh", NULL), -1);
  map.inode = 5;
  assert_int_equal(ss_map_open(getpid(), &map, "[heap]", NULL), -1);
  assert_int_equal(ss_map_open(getpid(), &map, "", NULL), -1);
}

static void test_identity(void **state)
{
  (void)state;
  struct ss_map id;
  struct stat st;
  int fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
  assert_true(ss_file_identity(fd, &id));
  assert_int_equal(fstat(fd, &st), 0);
  assert_int_equal(id.inode, st.st_ino);
  close(fd);
  fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  assert_false(ss_file_identity(fd, &id));
  close(fd);
  assert_false(ss_file_identity(-1, &id));
}

/* Links of the target's root stay inside it. */
static void test_beneath(void **state)
{
  (void)state;
  char link[128], file[128];
  in_folder(link, "abs");
  in_folder(file, "inside");
  make_file(file, "in");
  assert_int_equal(symlink("/inside", link), 0);
  int root = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int fd = ss_open_beneath(root, "/abs");
  struct ss_map a;
  struct stat st;
  assert_true(fd >= 0);
  assert_true(ss_file_identity(fd, &a));
  assert_int_equal(stat(file, &st), 0);
  assert_int_equal(a.inode, st.st_ino);
  close(fd);
  fd = ss_open_beneath(root, "/../../../../../../etc/passwd");
  assert_int_equal(fd, -1);
  close(root);
  unlink(link);
  unlink(file);
}

/* ---- another mount namespace ---------------------------------------------------- */

/* A child whose /tmp folder hides ours behind a tmpfs, with a file of the same
 * name mapped (R61). Never returns. */
static void namespace_child(const char *path, int ready)
{
  if (unshare(CLONE_NEWNS) != 0 ||
      mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("tmpfs", folder, "tmpfs", 0, NULL) != 0)
    _exit(77);
  int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, "theirs", 6) != 6 ||
      mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ||
      write(ready, "x", 1) != 1)
    _exit(1);
  close(fd);
  for (;;)
    pause();
}

static void test_other_namespace(void **state)
{
  (void)state;
  char path[128], byte;
  int ready[2];
  in_folder(path, "same-name");
  make_file(path, "ours");
  assert_int_equal(pipe(ready), 0);
  pid_t pid = fork();
  if (pid == 0)
    namespace_child(path, ready[1]);
  close(ready[1]);
  bool up = read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  if (up) {
    struct ss_paths *paths = ss_paths_new();
    struct ss_maps maps;
    size_t found = 0;
    ss_maps_init(&maps, paths);
    assert_int_equal(ss_maps_load(&maps, pid, NULL), SS_ERR_OK);
    for (size_t i = 0; i < maps.count; i++) {
      struct ss_map *map = &maps.items[i];
      if (strcmp(ss_paths_get(paths, map->path), path) != 0)
        continue;
      int fd = ss_map_open(pid, map, path, NULL);
      assert_true(holds(fd, "theirs"));
      close(fd);
      map->start += 4096; /* without map_files: through the target's root */
      map->end += 4096;
      fd = ss_map_open(pid, map, path, NULL);
      assert_true(holds(fd, "theirs"));
      close(fd);
      found++;
    }
    assert_int_equal(found, 1);
    ss_maps_release(&maps);
    ss_paths_free(paths);
  }
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  unlink(path);
  if (!up)
    skip(); /* no right to make a mount namespace */
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_file),       cmocka_unit_test(test_replaced_file),
      cmocka_unit_test(test_deleted_file),    cmocka_unit_test(test_not_a_file),
      cmocka_unit_test(test_identity),        cmocka_unit_test(test_beneath),
      cmocka_unit_test(test_other_namespace),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
