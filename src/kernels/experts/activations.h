/*
 * Activations as the experts' products want them: groups of 32 columns, the even ones first, then the odd ones, as
 * MXFP4 keeps its halves. Int8 with a scale (q8), or float where exactness is asked for.
 */
#ifndef TUTTI_EXPERTS_ACTIVATIONS_H
#define TUTTI_EXPERTS_ACTIVATIONS_H
#include <math.h>
#include "mxfp4.h"

INLINE void even_odd(const float *x, float *out) {
  for (int i = 0; i < 16; i++) {
    out[i] = x[2 * i];
    out[16 + i] = x[2 * i + 1];
  }
}

INLINE void quantize_activations(const float *x, group_q8 *out) {
  int32_t max_bits = 0; /* of magnitudes; NaN and Inf are above all numbers */
  for (int i = 0; i < MXFP4_COLS; i++) {
    const int32_t bits = dword_at(x + i) & 0x7fffffff;
    max_bits = bits > max_bits ? bits : max_bits;
  }
  float max;
  memcpy(&max, &max_bits, 4);
  /* Below, 127 / max would overflow; such a group adds nothing that is seen. */
  const bool numbers = max_bits < 0x7f800000, some = numbers && max > 0x1p-100f;
  out->scale = some ? max * (0.5f / 127) : numbers ? 0 : NAN;
  const float inverse = some ? 127 / max : 0;
  float ordered[MXFP4_COLS];
  even_odd(x, ordered);
  int32_t codes[MXFP4_COLS], total = 0;
  for (int i = 0; i < MXFP4_COLS; i++) {
    /* Adding 1.5 · 2^23 leaves the nearest integer, ties to even, in the low bits. */
    const float shifted = (numbers ? ordered[i] : 0) * inverse + 0x1.8p23f;
    codes[i] = dword_at(&shifted) - 0x4b400000;
    total += codes[i];
    out->codes[i] = (int8_t)codes[i];
  }
  if (OFFSET_WORDS) {
    int32_t even = 0;
    for (int i = 0; i < MXFP4_COLS; i += 4) even += codes[i] + codes[i + 1];
    out->offset.words[0] = (int16_t)(-CODE_OFFSET * even);
    out->offset.words[1] = (int16_t)(-CODE_OFFSET * (total - even));
  } else {
    out->offset.dword = -CODE_OFFSET * total;
  }
}

#endif
