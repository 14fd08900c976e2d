/* Rows of MXFP4 weights by float activations: weights decoded exactly, sums in float32 over several accumulators. */
#ifndef TUTTI_EXPERTS_EXACT_H
#define TUTTI_EXPERTS_EXACT_H
#include "multiply.h"

#ifdef __AVX512F__
enum { EXACT_LANES = 16 };
#elif defined(__AVX2__)
enum { EXACT_LANES = 8 };
#else
enum { EXACT_LANES = 4 };
#endif
typedef float exact_floats __attribute__((vector_size(4 * EXACT_LANES)));
typedef int8_t exact_codes __attribute__((vector_size(EXACT_LANES)));

/* Doubled values of a group, even columns, then odd ones. */
ALWAYS_INLINE void decode_group(const uint8_t *block, int8_t codes[MXFP4_COLS]) {
#if defined(__SSSE3__)
  const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), half = _mm_set1_epi8(15);
  const __m128i packed = _mm_loadu_si128((const void *)block);
  _mm_storeu_si128((void *)codes, _mm_shuffle_epi8(table, _mm_and_si128(packed, half)));
  _mm_storeu_si128((void *)(codes + 16), _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(packed, 4), half)));
#else
  static const int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  for (int i = 0; i < 16; i++) {
    codes[i] = table[block[i] & 15];
    codes[16 + i] = table[block[i] >> 4];
  }
#endif
}

/* Half of 2^(scale − 127), since codes are doubled. */
ALWAYS_INLINE float half_scale(uint8_t scale) {
  const int32_t bits = scale == 255 ? 0x7fc00000 : scale > 1 ? (scale - 1) << 23 : 0x00200000 << scale;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

ALWAYS_INLINE void decode_row(const uint8_t *blocks, const uint8_t *scales, int64_t groups, float *row) {
  for (int64_t g = 0; g < groups; g++) {
    int8_t codes[MXFP4_COLS];
    decode_group(blocks + g * MXFP4_BYTES, codes);
    const float scale = half_scale(scales[g]);
    for (int i = 0; i < MXFP4_COLS; i += EXACT_LANES) {
      exact_codes some;
      memcpy(&some, codes + i, sizeof some);
      const exact_floats values = __builtin_convertvector(some, exact_floats) * scale;
      memcpy(row + g * MXFP4_COLS + i, &values, sizeof values);
    }
  }
}

/* The row times each of `tokens` ≤ 4 tokens, two accumulators each. */
ALWAYS_INLINE void exact_dots(const float *row, int64_t cols, const float *const *x, const int tokens, float *out, int64_t stride) {
  exact_floats sums[4][2] = {0};
  for (int64_t i = 0; i < cols; i += 2 * EXACT_LANES) {
    for (int m = 0; m < tokens; m++) {
      for (int k = 0; k < 2; k++) {
        exact_floats w, a;
        memcpy(&w, row + i + k * EXACT_LANES, sizeof w);
        memcpy(&a, x[m] + i + k * EXACT_LANES, sizeof a);
        sums[m][k] += w * a;
      }
    }
  }
  for (int m = 0; m < tokens; m++) {
    float total = 0;
    for (int k = 0; k < EXACT_LANES; k++) total += sums[m][0][k] + sums[m][1][k];
    out[m * stride] = total;
  }
}

/* `row` has room for a row of floats. */
static void multiply_exactly(weight_rows w, int64_t rows, const float *const *x, int tokens, float *out, float *row) {
  const int64_t cols = w.groups * MXFP4_COLS;
  for (int64_t r = 0; r < rows; r++) {
    const weight_rows at = rows_from(w, r);
    for (int i = 0; i < 24; i++) __builtin_prefetch(at.blocks + 2 * w.groups * MXFP4_BYTES + 64 * i);
    decode_row(at.blocks, at.scales, w.groups, row);
    int m = 0;
    for (; m + 4 <= tokens; m += 4) exact_dots(row, cols, x + m, 4, out + m * rows + r, rows);
    for (; m < tokens; m++) exact_dots(row, cols, x + m, 1, out + m * rows + r, rows);
  }
}

#endif
