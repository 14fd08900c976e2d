/*
 * Rows of MXFP4 weights by int8 activations, x [tokens, groups], to out [tokens, rows], for any number of tokens.
 *   few tokens    weights go from memory through registers, once: the speed of memory (rows.h does that for fewest)
 *   more tokens   a panel of ROW_TILE rows is decoded into the first-level cache and meets all tokens there
 */
#ifndef TUTTI_EXPERTS_MULTIPLY_H
#define TUTTI_EXPERTS_MULTIPLY_H
#include "panel.h"
#include "tiles.h"

enum { FEW_TOKENS = 8 }; /* up to here a decoded panel does not pay */

/* ---- few tokens */

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

INLINE void multiply_few_by(weight_rows w, int64_t rows, const group_q8 *x, const int tokens, float *out) {
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
static void multiply_few(weight_rows w, int64_t rows, const group_q8 *x, int tokens, float *out) {
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

/* ---- more tokens */

/* Rows `from` … `to` of the tile's share of the weights that come next. */
static void prefetch_panel(const uint8_t *next, int64_t row_bytes, int from, int to) {
  for (int r = from; r < to; r++) {
    for (int i = 0; i < PANEL_GROUPS * MXFP4_BYTES; i += 64) __builtin_prefetch(next + r * row_bytes + i);
  }
}

static void multiply_many(weight_rows w, int64_t rows, const group_q8 *x, int tokens, float *out, panel *decoded) {
  memset(out, 0, (size_t)(tokens * rows) * sizeof *out);
  begin_tiles();
  for (int64_t r = 0; r < rows; r += ROW_TILE) {
    const weight_rows at = rows_from(w, r);
    for (int64_t g = 0; g < w.groups; g += PANEL_GROUPS) {
      const int count = w.groups - g < PANEL_GROUPS ? (int)(w.groups - g) : PANEL_GROUPS;
      const bool row_ends = g + count == w.groups;
      const uint8_t *next = row_ends ? rows_from(w, r + ROW_TILE).blocks : at.blocks + (g + count) * MXFP4_BYTES;
      decode_panel(at, g, count, decoded);
      for (int m = 0; m < tokens; m += TOKEN_TILE) {
        const int some = tokens - m < TOKEN_TILE ? tokens - m : TOKEN_TILE;
        prefetch_panel(next, w.groups * MXFP4_BYTES, ROW_TILE * m / tokens, ROW_TILE * (m + some) / tokens);
        multiply_tile(decoded, count, x + m * w.groups + g, w.groups, some, out + m * rows + r, rows);
      }
    }
  }
  end_tiles();
}

#endif
