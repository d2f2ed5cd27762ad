/*
 * Files that are complete or absent, private, and never written through a
 * link. A `struct ss_dir` is a folder of ours, held by descriptor, so that
 * renaming or replacing it under us cannot redirect a write (R67).
 */
#ifndef STACKSAMPLE_FSAFE_H
#define STACKSAMPLE_FSAFE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stacksample/error.h"

struct ss_dir {
  int fd;     /* O_DIRECTORY|O_CLOEXEC; -1 when closed */
  char *path; /* owned; as the user should read it */
};

/* Opens `path`, making missing folders (0777 & ~umask: they are the user's). */
enum ss_err ss_dir_open(struct ss_dir *dir, const char *path, bool make,
                        struct ss_diag *diag);
/* Makes and opens a new folder `name` (one component) in `parent`, mode 0700;
 * SS_ERR_EXISTS where anything has that name. */
enum ss_err ss_dir_create(struct ss_dir *dir, const struct ss_dir *parent,
                          const char *name, struct ss_diag *diag);
void ss_dir_close(struct ss_dir *dir);

/* Creates `name` for writing: O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600. -1 on error.
 * Live files (profile.db, the log). */
int ss_file_create(const struct ss_dir *dir, const char *name, struct ss_diag *diag);
/* Opens an existing regular file for reading, O_NOFOLLOW|O_NONBLOCK. -1. */
int ss_file_open_read(const struct ss_dir *dir, const char *name, struct ss_diag *diag);

/* Opens a regular file anywhere for reading, through links, never waiting for a
 * FIFO or waking a device. -1. */
int ss_file_open_regular(int dirfd, const char *path, struct ss_diag *diag);

/* A file under construction: temporary in the same folder, then fsync and
 * rename over `name`. Buffered; errors are sticky and reported by commit. */
struct ss_outfile;
struct ss_outfile *ss_outfile_open(const struct ss_dir *dir, const char *name,
                                   struct ss_diag *diag); /* NULL on error */
void ss_outfile_write(struct ss_outfile *out, const void *bytes, size_t len);
void ss_outfile_printf(struct ss_outfile *out, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
uint64_t ss_outfile_size(const struct ss_outfile *out); /* bytes so far */
/* Frees `out` in every case; on error nothing appears under `name`. */
enum ss_err ss_outfile_commit(struct ss_outfile *out, struct ss_diag *diag);
void ss_outfile_abort(struct ss_outfile *out); /* accepts NULL */

/* Whole small file into `out` (a NUL follows); SS_ERR_LIMIT beyond `max`. */
struct ss_buf;
enum ss_err ss_file_read_all(int dirfd, const char *path, size_t max, struct ss_buf *out,
                             struct ss_diag *diag);

#endif
