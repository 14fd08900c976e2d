/* Few tokens by rows of MXFP4 weights, LANES rows at a time. */
#ifndef TUTTI_EXPERTS_LANES_H
#define TUTTI_EXPERTS_LANES_H
#include "panel.h"

enum { FEW_TOKENS = 8 }; /* up to here a decoded panel does not pay */
typedef group_q8 few_x;

/* Tokens as multiply_few wants them: as they are. */
static const few_x *ready_few(const group_q8 *x, int64_t groups, int tokens, few_x *room) {
  (void)groups, (void)tokens, (void)room;
  return x;
}

INLINE void multiply_groups(const uint8_t *blocks, const uint8_t *scales, int64_t groups, int64_t g, const int count,
                            const group_q8 *x, const int tokens, lane_floats *acc) {
  const lane_scales s = load_scales(scales + g, groups, count);
  for (int i = 0; i < count; i++) {
    lane_codes w[8];
    load_codes(blocks + (g + i) * MXFP4_BYTES, groups * MXFP4_BYTES, w);
    const lane_floats scale = scale_of(s, i);
    for (int m = 0; m < tokens; m++) {
      const group_q8 *at = x + m * groups + g + i;
      lane_dot dot = dot_begin(at);
      for (int j = 0; j < 8; j++) dot = dot_step(dot, w[j], at->codes + 4 * j);
      acc[m] += dot_end(dot) * (scale * at->scale);
    }
  }
}

/* The hardware's prefetchers follow neither this many rows nor rows this short: the next LANES rows go to the
 * second-level cache while these are multiplied. */
INLINE void prefetch_rows(const uint8_t *blocks, const uint8_t *scales, int64_t groups, int64_t g) {
  const int64_t row_bytes = groups * MXFP4_BYTES;
  for (int r = 0; r < LANES; r++) __builtin_prefetch(blocks + (LANES + r) * row_bytes + g * MXFP4_BYTES, 0, 2);
  __builtin_prefetch(scales + LANES * (groups + g), 0, 2);
}

INLINE void multiply_few_by(weight_rows w, int64_t rows, const few_x *x, const int tokens, float *out) {
  for (int64_t r = 0; r < rows; r += LANES) {
    const weight_rows at = rows_from(w, r);
    lane_floats acc[FEW_TOKENS] = {0};
    int64_t g = 0;
    for (; g + 4 <= w.groups; g += 4) {
      prefetch_rows(at.blocks, at.scales, w.groups, g);
      multiply_groups(at.blocks, at.scales, w.groups, g, 4, x, tokens, acc);
    }
    if (g < w.groups) multiply_groups(at.blocks, at.scales, w.groups, g, (int)(w.groups - g), x, tokens, acc);
    for (int m = 0; m < tokens; m++) memcpy(out + m * rows + r, &acc[m], sizeof acc[m]);
  }
}

/* The number of tokens is known to the compiler, so that sums stay in registers. */
static void multiply_few(weight_rows w, int64_t rows, const few_x *x, int tokens, float *out) {
  switch (tokens) {
    case 1: multiply_few_by(w, rows, x, 1, out); break;
    case 2: multiply_few_by(w, rows, x, 2, out); break;
    case 3: multiply_few_by(w, rows, x, 3, out); break;
    case 4: multiply_few_by(w, rows, x, 4, out); break;
    case 5: multiply_few_by(w, rows, x, 5, out); break;
    case 6: multiply_few_by(w, rows, x, 6, out); break;
    case 7: multiply_few_by(w, rows, x, 7, out); break;
    default: multiply_few_by(w, rows, x, 8, out);
  }
}

#endif
