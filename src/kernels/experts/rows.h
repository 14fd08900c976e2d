/*
 * Few tokens by rows of MXFP4 weights, row after row: nothing is transposed, and memory is read as one stream, which
 * hardware prefetches best. A vector holds two groups of a row, one in each half; a row's sums are added up at its end.
 *
 * Tokens are laid out anew for it: eight groups at a time, as four pairs, and their scales in the order in which one
 * shuffle within halves brings them to a pair's lanes: 0 2 4 6 in the lower half, 1 3 5 7 in the upper one.
 */
#ifndef TUTTI_EXPERTS_ROWS_H
#define TUTTI_EXPERTS_ROWS_H
#include "panel.h"

enum {
  FEW_TOKENS = 3, /* beyond, sums do not fit registers, and a decoded panel pays */
  ROW_SUMS = 2, OCTET = 8, OCTET_BYTES = OCTET * MXFP4_BYTES,
  ROWS_AHEAD = 2048, /* bytes that are prefetched before they are needed */
};

typedef struct few_x {
  int8_t codes[4][2][32]; /* a pair's even columns, then its odd ones */
  float scales[OCTET];
  float offsets[OCTET]; /* what undoes CODE_OFFSET, scaled */
} __attribute__((aligned(64))) few_x; /* of an octet */

static int64_t octets_of(int64_t groups) { return (groups + OCTET - 1) / OCTET; }

static void lay_out(const group_q8 *x, int64_t groups, few_x *to) {
  static const int place[OCTET] = {0, 4, 1, 5, 2, 6, 3, 7};
  if (groups % OCTET != 0) to[groups / OCTET] = (few_x){0}; /* weights that are not there meet zeros */
  for (int64_t g = 0; g < groups; g++) {
    few_x *octet = &to[g / OCTET];
    const int i = g % OCTET;
    for (int odd = 0; odd < 2; odd++) memcpy(octet->codes[i / 2][odd] + i % 2 * 16, x[g].codes + 16 * odd, 16);
    octet->scales[place[i]] = x[g].scale;
    octet->offsets[place[i]] = x[g].scale * (float)(x[g].offset.words[0] + x[g].offset.words[1]);
  }
}

/* Tokens as multiply_few wants them, [tokens, octets], in `room`. */
static const few_x *ready_few(const group_q8 *x, int64_t groups, int tokens, few_x *room) {
  for (int m = 0; m < tokens; m++) lay_out(x + m * groups, groups, room + m * octets_of(groups));
  return room;
}

/* Eight groups of a row, or the last `count`, by each token's: x [tokens, octets]. */
INLINE void multiply_octet(const uint8_t *blocks, const uint8_t *scales, int count, const few_x *x, int64_t octets,
                           const int tokens, __m256 acc[][ROW_SUMS]) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  const __m256i table = _mm256_broadcastsi128_si256(values), half = _mm256_set1_epi8(15);
  uint64_t bytes = 0;
  if (count == OCTET) memcpy(&bytes, scales, OCTET);
  else for (int i = count - 1; i >= 0; i--) bytes = bytes << 8 | scales[i];
  const __m256i exponents = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(_mm_cvtsi64_si128((int64_t)bytes), order));
  const __m256 weights = _mm256_castsi256_ps(_mm256_slli_epi32(exponents, 23));
  __m256 scaled[FEW_TOKENS];
  for (int m = 0; m < tokens; m++) {
    scaled[m] = weights * _mm256_load_ps(x[m * octets].scales);
    acc[m][1] += weights * _mm256_load_ps(x[m * octets].offsets);
  }
#define PAIR(i) \
  if (count > 2 * i) { \
    const __m256i packed = count == 2 * i + 1 \
      ? _mm256_zextsi128_si256(_mm_loadu_si128((const void *)(blocks + 32 * i))) \
      : _mm256_loadu_si256((const void *)(blocks + 32 * i)); \
    const __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(packed, half)); \
    const __m256i odd = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(packed, 4), half)); \
    for (int m = 0; m < tokens; m++) { \
      const int8_t (*codes)[32] = x[m * octets].codes[i]; \
      const __m256i words = _mm256_add_epi16(_mm256_maddubs_epi16(even, _mm256_load_si256((const void *)codes[0])), \
                                             _mm256_maddubs_epi16(odd, _mm256_load_si256((const void *)codes[1]))); \
      const __m256 sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(words, _mm256_set1_epi16(1))); \
      acc[m][i % ROW_SUMS] += sums * _mm256_permute_ps(scaled[m], 0x55 * i); \
    } \
  }
  PAIR(0)
  PAIR(1)
  PAIR(2)
  PAIR(3)
#undef PAIR
}

INLINE void multiply_few_by(weight_rows w, int64_t rows, const few_x *x, const int tokens, float *out) {
  const int64_t whole = w.groups / OCTET, octets = octets_of(w.groups);
  const int rest = w.groups % OCTET;
  for (int64_t r = 0; r < rows; r++) {
    const weight_rows at = rows_from(w, r);
    __m256 acc[FEW_TOKENS][ROW_SUMS] = {0};
    for (int64_t o = 0; o < whole; o++) {
      const uint8_t *blocks = at.blocks + o * OCTET_BYTES;
      __builtin_prefetch(blocks + ROWS_AHEAD);
      __builtin_prefetch(blocks + ROWS_AHEAD + 64);
      multiply_octet(blocks, at.scales + o * OCTET, OCTET, x + o, octets, tokens, acc);
    }
    if (rest > 0) {
      multiply_octet(at.blocks + whole * OCTET_BYTES, at.scales + whole * OCTET, rest, x + whole, octets, tokens, acc);
    }
    for (int m = 0; m < tokens; m++) out[m * rows + r] = vf_sum((vf)(acc[m][0] + acc[m][1]));
  }
}

static void multiply_few(weight_rows w, int64_t rows, const few_x *x, int tokens, float *out) {
  switch (tokens) {
    case 1: multiply_few_by(w, rows, x, 1, out); break;
    case 2: multiply_few_by(w, rows, x, 2, out); break;
    default: multiply_few_by(w, rows, x, 3, out);
  }
}

#endif
