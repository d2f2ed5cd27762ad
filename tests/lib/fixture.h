/*
 * Files of tests/fixtures for the unit tests, which run in the top folder.
 */
#ifndef STACKSAMPLE_TESTS_FIXTURE_H
#define STACKSAMPLE_TESTS_FIXTURE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* malloc'ed bytes of tests/fixtures/<name>; aborts where it is missing. */
static inline unsigned char *fixture_read(const char *name, size_t *len)
{
  char path[512];
  snprintf(path, sizeof path, "tests/fixtures/%s", name);
  FILE *f = fopen(path, "rb");
  unsigned char *bytes = NULL;
  *len = 0;
  if (f == NULL) {
    perror(path);
    abort();
  }
  for (size_t n = 1; n > 0; *len += n) {
    bytes = realloc(bytes, *len + 65536);
    if (bytes == NULL)
      abort();
    n = fread(bytes + *len, 1, 65536, f);
  }
  fclose(f);
  return bytes;
}

static inline int fixture_open(const char *name)
{
  char path[512];
  snprintf(path, sizeof path, "tests/fixtures/%s", name);
  return open(path, O_RDONLY | O_CLOEXEC);
}

#endif
