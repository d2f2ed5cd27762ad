/*
 * SHA-256 as FIPS 180-4 section 6.2 states it: plain and portable, about
 * 200 MB/s; arch.h may know a faster way. Not for secrets: nothing here is constant-time.
 */
#include "stacksample/sha256.h"

#include <string.h>

/* FIPS 180-4, 4.2.2. */
const uint32_t ss_sha256_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2};

static uint32_t rotr(uint32_t x, unsigned n)
{
  return x >> n | x << (32 - n);
}

static void schedule(uint32_t w[64], const unsigned char block[64])
{
  for (size_t i = 0; i < 16; i++)
    w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
           (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
  for (size_t i = 16; i < 64; i++) {
    uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3) + w[i - 7] +
           (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
  }
}

static void compress(uint32_t h[8], const unsigned char block[64])
{
  uint32_t w[64];
  uint32_t a = h[0], b = h[1], c = h[2], d = h[3];
  uint32_t e = h[4], f = h[5], g = h[6], k = h[7];

  schedule(w, block);
  for (size_t i = 0; i < 64; i++) {
    uint32_t t1 = k + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) +
                  ss_sha256_constants[i] + w[i];
    uint32_t t2 =
        (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    k = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  h[0] += a;
  h[1] += b;
  h[2] += c;
  h[3] += d;
  h[4] += e;
  h[5] += f;
  h[6] += g;
  h[7] += k;
}

static void take_plain(uint32_t h[8], const unsigned char *bytes, size_t count)
{
  for (; count > 0; count--, bytes += 64)
    compress(h, bytes);
}

void ss_sha256_init(struct ss_sha256 *s)
{
  static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  s->take = take_plain;
  memcpy(s->h, start, sizeof start);
  s->bytes = 0;
}

void ss_sha256_update(struct ss_sha256 *s, const void *bytes, size_t len)
{
  const unsigned char *p = bytes;
  size_t pending = s->bytes % 64;

  s->bytes += len;
  if (pending == 0 && len >= 64) {
    s->take(s->h, p, len / 64);
    p += len / 64 * 64;
    len %= 64;
  }
  while (len > 0) {
    size_t n = 64 - pending < len ? 64 - pending : len;
    memcpy(s->block + pending, p, n);
    p += n;
    len -= n;
    pending += n;
    if (pending == 64) {
      s->take(s->h, s->block, 1);
      pending = 0;
    }
  }
}

void ss_sha256_hex(struct ss_sha256 *s, char hex[65])
{
  static const unsigned char padding[64] = {0x80};
  static const char digits[] = "0123456789abcdef";
  unsigned char bits[8];
  uint64_t n = s->bytes * 8;

  for (size_t i = 0; i < 8; i++)
    bits[i] = (unsigned char)(n >> (56 - 8 * i));
  ss_sha256_update(s, padding, 1 + (119 - s->bytes % 64) % 64);
  ss_sha256_update(s, bits, 8);
  for (size_t i = 0; i < 64; i++)
    hex[i] = digits[s->h[i / 8] >> (28 - 4 * (i % 8)) & 15];
  hex[64] = '\0';
}
