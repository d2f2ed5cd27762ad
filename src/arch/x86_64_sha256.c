/*
 * SHA-256 by the SHA extensions (Intel SDM volume 2, SHA256RNDS2, SHA256MSG1, MSG2):
 * ten times as fast as plain code, which a manifest of hundreds of megabytes feels.
 *
 * The state lives in two registers, as the instructions want it: {a b e f} and
 * {c d g h}, a and c in the highest lanes. Four rounds take one vector of the message.
 */
#include <immintrin.h>

#include "stacksample/arch.h"

struct state {
  __m128i abef, cdgh;
};

__attribute__((target("sha,sse4.1"))) static void take_block(struct state *s,
                                                             const unsigned char *bytes)
{
  /* Big-endian words. */
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const struct state before = *s;
  __m128i w[4] = {{0}}; /* the last sixteen words of the message schedule */

  for (int i = 0; i < 16; i++) {
    __m128i *now = &w[i % 4], last = w[(i + 3) % 4];
    if (i < 4) {
      const __m128i *at = (const __m128i *)(const void *)(bytes + 16 * i);
      *now = _mm_shuffle_epi8(_mm_loadu_si128(at), swap);
    } else {
      __m128i sum = _mm_sha256msg1_epu32(*now, w[(i + 1) % 4]);
      sum = _mm_add_epi32(sum, _mm_alignr_epi8(last, w[(i + 2) % 4], 4));
      *now = _mm_sha256msg2_epu32(sum, last);
    }
    const __m128i *k = (const __m128i *)(const void *)&ss_sha256_constants[4 * i];
    __m128i message = _mm_add_epi32(*now, _mm_load_si128(k));
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, message);
    message = _mm_shuffle_epi32(message, 0x0e);
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, message);
  }
  s->abef = _mm_add_epi32(s->abef, before.abef);
  s->cdgh = _mm_add_epi32(s->cdgh, before.cdgh);
}

static int lane(uint32_t word)
{
  return (int)word;
}

__attribute__((target("sha,sse4.1"))) static void
take_blocks(uint32_t h[8], const unsigned char *bytes, size_t count)
{
  struct state s = {.abef = _mm_set_epi32(lane(h[0]), lane(h[1]), lane(h[4]), lane(h[5])),
                    .cdgh =
                        _mm_set_epi32(lane(h[2]), lane(h[3]), lane(h[6]), lane(h[7]))};

  for (; count > 0; count--, bytes += 64)
    take_block(&s, bytes);
  h[0] = (uint32_t)_mm_extract_epi32(s.abef, 3);
  h[1] = (uint32_t)_mm_extract_epi32(s.abef, 2);
  h[4] = (uint32_t)_mm_extract_epi32(s.abef, 1);
  h[5] = (uint32_t)_mm_extract_epi32(s.abef, 0);
  h[2] = (uint32_t)_mm_extract_epi32(s.cdgh, 3);
  h[3] = (uint32_t)_mm_extract_epi32(s.cdgh, 2);
  h[6] = (uint32_t)_mm_extract_epi32(s.cdgh, 1);
  h[7] = (uint32_t)_mm_extract_epi32(s.cdgh, 0);
}

/* CPUID leaf 7, EBX bit 29; SSE4.1 is leaf 1, ECX bit 19. */
ss_sha256_blocks *ss_arch_sha256(void)
{
  unsigned a = 7, b = 0, c = 0, d = 0;

  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (b >> 29 & 1) != 0 && __builtin_cpu_supports("sse4.1") ? take_blocks : NULL;
}
