/*
 * For unit tests of writers: a made-up profile in a folder of its own, and what
 * a writer makes of it, as text.
 */
#ifndef WRITTEN_H
#define WRITTEN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "profile_fixture.h"
#include "stacksample/output.h"
#include "tmpdir.h"

struct written {
  char path[TMPDIR_PATH];
  struct ss_dir dir;
  struct ss_profile *profile;
};

/* A profile filled by `fill`; aborts on any error. */
static inline void written_open(struct written *w, void (*fill)(struct fx *fx))
{
  struct ss_diag diag = {0};
  struct ss_store *store = NULL;
  struct fx fx;
  *w = (struct written){0};
  if (!tmpdir_make(w->path) || ss_dir_open(&w->dir, w->path, false, &diag) != 0 ||
      ss_store_create(&store, &w->dir, "profile.db", &diag) != 0) {
    fprintf(stderr, "%s: %s\n", w->path, diag.text);
    abort();
  }
  fx_init(&fx, store);
  fill(&fx);
  if (ss_store_close(store, &diag) != 0 ||
      ss_profile_open(&w->profile, &w->dir, "profile.db", &diag) != 0) {
    fprintf(stderr, "%s: %s\n", w->path, diag.text);
    abort();
  }
}

static inline void written_close(struct written *w)
{
  ss_profile_close(w->profile);
  ss_dir_close(&w->dir);
  (void)tmpdir_remove(w->path);
}

/* The file that `write` makes, NUL-terminated; the caller frees. */
static inline char *written_text(struct written *w, ss_write_fn *write,
                                 const struct ss_write_options *options, size_t *len)
{
  struct ss_diag diag = {0};
  struct ss_buf text = {0};
  struct ss_write_options none = {0};
  struct ss_outfile *out = ss_outfile_open(&w->dir, "out", &diag);
  if (out == NULL || write(w->profile, options ? options : &none, out, &diag) != 0 ||
      ss_outfile_commit(out, &diag) != 0 ||
      ss_file_read_all(w->dir.fd, "out", 1u << 28, &text, &diag) != 0) {
    fprintf(stderr, "writer: %s\n", diag.text);
    abort();
  }
  if (len != NULL)
    *len = text.len;
  return text.data;
}

static inline size_t count_of(const char *text, const char *what)
{
  size_t n = 0;
  for (const char *s = text; (s = strstr(s, what)) != NULL; s += strlen(what))
    n++;
  return n;
}

#endif
