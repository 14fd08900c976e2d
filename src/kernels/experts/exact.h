/* Rows of MXFP4 weights by float activations: weights decoded exactly, sums in float32 over several accumulators. */
#ifndef TUTTI_EXPERTS_EXACT_H
#define TUTTI_EXPERTS_EXACT_H
#include "multiply.h"

typedef int8_t exact_codes __attribute__((vector_size(VL)));

/* Doubled values of a group, even columns, then odd ones. */
INLINE void decode_group(const uint8_t *block, int8_t codes[MXFP4_COLS]) {
#if defined(__SSSE3__)
  const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
  const __m128i half = _mm_set1_epi8(15);
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
INLINE float half_scale(uint8_t scale) {
  const int32_t bits = scale == 255 ? 0x7fc00000 : scale > 1 ? (scale - 1) << 23 : 0x00200000 << scale;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

INLINE void decode_row(const uint8_t *blocks, const uint8_t *scales, int64_t groups, float *row) {
  for (int64_t g = 0; g < groups; g++) {
    int8_t codes[MXFP4_COLS];
    decode_group(blocks + g * MXFP4_BYTES, codes);
    const float scale = half_scale(scales[g]);
    for (int i = 0; i < MXFP4_COLS; i += VL) {
      exact_codes some;
      memcpy(&some, codes + i, sizeof some);
      vf_store(row + g * MXFP4_COLS + i, __builtin_convertvector(some, vf) * scale);
    }
  }
}

/* The row times each of `tokens` ≤ 4 tokens, two accumulators each. */
INLINE void exact_dots(const float *row, int64_t cols, const float *x, const int tokens, float *out, int64_t stride) {
  vf sums[4][2] = {0};
  for (int64_t i = 0; i < cols; i += 2 * VL) {
    for (int m = 0; m < tokens; m++) {
      for (int k = 0; k < 2; k++) {
        sums[m][k] += vf_load(row + i + k * VL) * vf_load(x + m * cols + i + k * VL);
      }
    }
  }
  for (int m = 0; m < tokens; m++) out[m * stride] = vf_sum(sums[m][0] + sums[m][1]);
}

/* `row` has room for a row of floats. */
static void multiply_exactly(weight_rows w, int64_t rows, const float *x, int tokens, float *out, float *row) {
  const int64_t cols = w.groups * MXFP4_COLS;
  for (int64_t r = 0; r < rows; r++) {
    const weight_rows at = rows_from(w, r);
    for (int64_t g = 0; g < w.groups; g += 4) __builtin_prefetch(at.blocks + (2 * w.groups + g) * MXFP4_BYTES);
    decode_row(at.blocks, at.scales, w.groups, row);
    int m = 0;
    for (; m + 4 <= tokens; m += 4) exact_dots(row, cols, x + m * cols, 4, out + m * rows + r, rows);
    for (; m < tokens; m++) exact_dots(row, cols, x + m * cols, 1, out + m * rows + r, rows);
  }
}

#endif
