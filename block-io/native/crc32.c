/*
 * CRC-32 by folding (carry-less multiplication) where the processor has PCLMULQDQ, else eight table look-ups per 8 bytes.
 *
 * All values are bit-reflected, as the CRC is: bit 0 of a word is its highest power of x. Folding keeps the message's
 * remainder while it becomes shorter: a 128-bit block that stands d bits before another one is multiplied by x^d mod P and
 * added to it. Each half of the block has a constant of its own, x^(d+32) and x^(d-32) mod P; what is left, 16 bytes, goes
 * through the tables.
 */
#include "crc32.h"

#define POLYNOMIAL 0xedb88320u

static uint32_t table[8][256];

static uint32_t by_table(uint32_t state, const uint8_t *at, size_t length) {
  for (; length >= 8; at += 8, length -= 8) {
    uint32_t low = state ^ ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
    state = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
            table[3][at[4]] ^ table[2][at[5]] ^ table[1][at[6]] ^ table[0][at[7]];
  }
  for (; length > 0; at++, length--) state = state >> 8 ^ table[0][(state ^ *at) & 255];
  return state;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* x^n mod P, reflected and shifted by one as the multiplication of reflected values needs it. */
static uint64_t power(unsigned n) {
  uint32_t value = 0x80000000u; /* x^0 */
  while (n-- > 0) value = value >> 1 ^ (value & 1 ? POLYNOMIAL : 0);
  return (uint64_t)value << 1;
}

static int folds;
static uint64_t by_64_bytes[2], by_16_bytes[2];

static void prepare_folding(void) {
  folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  by_64_bytes[0] = power(512 + 32);
  by_64_bytes[1] = power(512 - 32);
  by_16_bytes[0] = power(128 + 32);
  by_16_bytes[1] = power(128 - 32);
}

__attribute__((target("pclmul,sse4.1"))) static inline __m128i fold(__m128i block, __m128i by, __m128i onto) {
  __m128i low = _mm_clmulepi64_si128(block, by, 0x00), high = _mm_clmulepi64_si128(block, by, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), onto);
}

/* `length` ≥ 64. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t by_folding(uint32_t state, const uint8_t *at, size_t length) {
  const __m128i *block = (const __m128i *)at;
  __m128i by = _mm_loadu_si128((const __m128i *)by_64_bytes), lane[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) lane[i] = _mm_loadu_si128(block + i);
  lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128((int)state));
  for (at += 64, length -= 64; length >= 64; at += 64, length -= 64) {
    block = (const __m128i *)at;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) lane[i] = fold(lane[i], by, _mm_loadu_si128(block + i));
  }
  by = _mm_loadu_si128((const __m128i *)by_16_bytes);
  __m128i one = fold(fold(fold(lane[0], by, lane[1]), by, lane[2]), by, lane[3]);
  for (; length >= 16; at += 16, length -= 16) one = fold(one, by, _mm_loadu_si128((const __m128i *)at));
  uint8_t rest[16];
  _mm_storeu_si128((__m128i *)rest, one);
  return by_table(by_table(0, rest, sizeof rest), at, length);
}
#endif

void crc32_prepare(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t state = byte;
    for (int bit = 0; bit < 8; bit++) state = state >> 1 ^ (state & 1 ? POLYNOMIAL : 0);
    table[0][byte] = state;
  }
  for (int behind = 1; behind < 8; behind++)
    for (int byte = 0; byte < 256; byte++) {
      uint32_t state = table[behind - 1][byte];
      table[behind][byte] = state >> 8 ^ table[0][state & 255];
    }
#if defined(__x86_64__)
  prepare_folding();
#endif
}

uint32_t crc32(uint32_t crc, const uint8_t *data, size_t length) {
#if defined(__x86_64__)
  if (folds && length >= 64) return ~by_folding(~crc, data, length);
#endif
  return ~by_table(~crc, data, length);
}
