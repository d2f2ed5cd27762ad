/* A fresh folder for one test, as cmocka's state; removed with what is in it. */
#ifndef STACKSAMPLE_TEST_TMPDIR_H
#define STACKSAMPLE_TEST_TMPDIR_H

#include "unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stacksample/fsafe.h"

struct tmpdir {
  char path[64];
  struct ss_dir dir;
};

static inline int tmpdir_set_up(void **state)
{
  struct tmpdir *t = calloc(1, sizeof *t);

  *state = t;
  /* In memory where there is such a place: nothing here is about disks. */
  snprintf(t->path, sizeof t->path, "%s/ss-unit-XXXXXX",
           access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
  return mkdtemp(t->path) != NULL &&
                 ss_dir_open(&t->dir, t->path, false, NULL) == SS_ERR_OK
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

  tmpdir_entries(t, true);
  ss_dir_close(&t->dir);
  rmdir(t->path);
  free(t);
  return 0;
}

#define TMPDIR_TEST(f) cmocka_unit_test_setup_teardown(f, tmpdir_set_up, tmpdir_tear_down)

#endif
