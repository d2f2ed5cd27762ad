/* SHA-256 (FIPS 180-4), for the manifest's checksums. */
#ifndef STACKSAMPLE_SHA256_H
#define STACKSAMPLE_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* Takes `count` blocks of 64 bytes into the state. */
typedef void ss_sha256_blocks(uint32_t h[8], const unsigned char *bytes, size_t count);

extern const uint32_t ss_sha256_constants[64]; /* of the rounds; 16-aligned */

struct ss_sha256 {
  ss_sha256_blocks *take; /* may be replaced after the init by a faster one (arch.h) */
  uint32_t h[8];
  uint64_t bytes; /* hashed and pending */
  unsigned char block[64];
};

void ss_sha256_init(struct ss_sha256 *s);
void ss_sha256_update(struct ss_sha256 *s, const void *bytes, size_t len);
/* 64 lower-case hex digits and a NUL; `s` must be initialised again after. */
void ss_sha256_hex(struct ss_sha256 *s, char hex[65]);

#endif
