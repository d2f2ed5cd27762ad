/* Fresh folders for tests, removed with all that is in them. */
#ifndef STACKSAMPLE_TEST_TMPDIR_H
#define STACKSAMPLE_TEST_TMPDIR_H

#include "unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stacksample/fsafe.h"

enum { TMPDIR_PATH = 32 };

/* In memory where there is such a place: nothing here is about disks. */
static inline bool tmpdir_make(char path[TMPDIR_PATH])
{
  snprintf(path, TMPDIR_PATH, "%s/ss-unit-XXXXXX",
           access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  return mkdtemp(path) != NULL;
}

static inline int tmpdir_remove_one(const char *path, const struct stat *st, int type,
                                    struct FTW *at)
{
  (void)st;
  (void)type;
  (void)at;
  return remove(path);
}

/* What is in it, and itself; -1 where something stays. */
static inline int tmpdir_remove(const char *path)
{
  return nftw(path, tmpdir_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- as cmocka's state ------------------------------------------------------- */

struct tmpdir {
  char path[TMPDIR_PATH];
  struct ss_dir dir;
};

static inline int tmpdir_set_up(void **state)
{
  struct tmpdir *t = calloc(1, sizeof *t);

  *state = t;
  return tmpdir_make(t->path) && ss_dir_open(&t->dir, t->path, false, NULL) == SS_ERR_OK
             ? 0
             : -1;
}

/* How many names are in it; `empty` removes them (one level of folders). */
static inline size_t tmpdir_entries(const struct tmpdir *t, bool empty)
{
  DIR *d = opendir(t->path);
  size_t count = 0;

  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
      continue;
    count++;
    if (empty && unlinkat(dirfd(d), e->d_name, 0) != 0)
      unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
  }
  closedir(d);
  return count;
}

static inline int tmpdir_tear_down(void **state)
{
  struct tmpdir *t = *state;

  ss_dir_close(&t->dir);
  int status = tmpdir_remove(t->path);
  free(t);
  return status;
}

#define TMPDIR_TEST(f) cmocka_unit_test_setup_teardown(f, tmpdir_set_up, tmpdir_tear_down)

#endif
