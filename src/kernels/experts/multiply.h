/*
 * Rows of MXFP4 weights by int8 activations, x [tokens, groups], to out [tokens, rows], for any number of tokens.
 *   few tokens    weights go from memory through registers, once: the speed of memory. On AVX2 row after row (rows.h),
 *                 elsewhere with rows as lanes (lanes.h)
 *   more tokens   a panel of ROW_TILE rows is decoded into the first-level cache and meets all tokens there
 */
#ifndef TUTTI_EXPERTS_MULTIPLY_H
#define TUTTI_EXPERTS_MULTIPLY_H
#include "panel.h"
#include "tiles.h"
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#include "rows.h"
#else
#include "lanes.h"
#endif

static void multiply_many(weight_rows w, int64_t rows, const group_q8 *x, int tokens, float *out, panel *decoded) {
  memset(out, 0, (size_t)(tokens * rows) * sizeof *out);
  begin_tiles();
  for (int64_t r = 0; r < rows; r += ROW_TILE) {
    const weight_rows at = rows_from(w, r);
    const uint8_t *next = rows_from(w, r + ROW_TILE).blocks;
    for (int64_t g = 0; g < w.groups; g += PANEL_GROUPS) {
      const int count = w.groups - g < PANEL_GROUPS ? (int)(w.groups - g) : PANEL_GROUPS;
      decode_panel(at, g, count, decoded);
      for (int m = 0; m < tokens; m += TOKEN_TILE) {
        const int some = tokens - m < TOKEN_TILE ? tokens - m : TOKEN_TILE;
        const int64_t bytes = ROW_TILE * count * MXFP4_BYTES * some / tokens;
        multiply_tile(decoded, count, x + m * w.groups + g, w.groups, some, out + m * rows + r, rows,
                      begin_ahead(next, bytes, count));
        next += bytes;
      }
    }
  }
  end_tiles();
}

#endif
