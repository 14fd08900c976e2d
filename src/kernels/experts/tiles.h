/*
 * A panel by many tokens. On AMX a tile is a group of 16 tokens by the same group of 16 rows, an exact integer sum as
 * everywhere, that is scaled in vector registers while the next one is multiplied.
 */
#ifndef TUTTI_EXPERTS_TILES_H
#define TUTTI_EXPERTS_TILES_H
#include "panel.h"

/*
 * Rows that come next, on their way to the second-level cache while these are multiplied: some lines after each group,
 * for a burst of them would stall what is being computed.
 */
typedef struct rows_ahead {
  const uint8_t *at, *end;
  int64_t step; /* bytes after a group */
} rows_ahead;

INLINE rows_ahead begin_ahead(const uint8_t *from, int64_t bytes, int groups) {
  return (rows_ahead){from, from + bytes, (bytes + groups - 1) / groups};
}

INLINE void bring_ahead(rows_ahead *a) {
  const uint8_t *end = a->at + a->step < a->end ? a->at + a->step : a->end;
  for (; a->at < end; a->at += 64) __builtin_prefetch(a->at, 0, 2);
}

#ifdef __AMX_INT8__
#include "../amx.h"

/* A last tile of fewer tokens reads on: what lies there must be readable, and is not used. */
enum { TOKEN_TILE = 16, SPARE_PLACES = 15 };

/* Tiles 0 … 3 take sums [16 tokens][16 rows]; 4 and 5 hold activations [16 tokens][32], 6 and 7 weights
 * [8][16 rows][4]. */
static void begin_tiles(void) {
  struct { uint8_t palette, start_row, unused[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } tiles = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    tiles.row_bytes[i] = i == 4 || i == 5 ? MXFP4_COLS : 64;
    tiles.rows[i] = i < 6 ? 16 : 8;
  }
  _tile_loadconfig(&tiles);
}
static void end_tiles(void) { enter_pass(); }

#define SUM_GROUP(sum, a, b, i) \
  do { \
    _tile_zero(sum); \
    _tile_loadd(a, x[i].codes, groups * (int64_t)sizeof *x); \
    _tile_loadd(b, &w->codes[i][0][block], sizeof w->codes[i][0]); \
    _tile_dpbssd(sum, a, b); \
    _tile_stored(sum, sums[sum], 64); \
  } while (0)

INLINE void add_group(const int32_t (*sums)[16], lane_floats scale, const group_q8 *x, int64_t groups,
                      lane_floats *acc) {
  for (int m = 0; m < TOKEN_TILE; m++) {
    const lane_floats sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[m]));
    acc[m] += sum * (scale * x[m * groups].scale);
  }
}

static void multiply_tile(const panel *w, int count, const group_q8 *x, int64_t groups, int tokens, float *out,
                          int64_t stride, rows_ahead ahead) {
  __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
  for (int block = 0; block < ROW_BLOCKS; block++) {
    float *to = out + block * LANES;
    int32_t sums[2][TOKEN_TILE][16] __attribute__((aligned(64)));
    lane_floats acc[TOKEN_TILE];
    for (int m = 0; m < TOKEN_TILE; m++) acc[m] = _mm512_loadu_ps(to + (m < tokens ? m : 0) * stride);
    for (int i = 0; i < count; i += 2) {
      SUM_GROUP(0, 4, 6, i);
      if (i + 1 < count) SUM_GROUP(1, 5, 7, i + 1);
      bring_ahead(&ahead); /* two groups and half of the rows at a time: as many calls as groups */
      add_group(sums[0], w->scales[i][block], x + i, groups, acc);
      if (i + 1 < count) add_group(sums[1], w->scales[i + 1][block], x + i + 1, groups, acc);
    }
    for (int m = 0; m < tokens; m++) _mm512_storeu_ps(to + m * stride, acc[m]);
  }
}

#else

/* Twelve sums, two vectors of weights, one of activations and a product: what 16 registers hold. */
enum { TOKEN_TILE = 6, SPARE_PLACES = 0 };
static void begin_tiles(void) {}
static void end_tiles(void) {}

INLINE void multiply_tile_by(const panel *w, int count, const group_q8 *x, int64_t groups, const int tokens, float *out,
                             int64_t stride, rows_ahead ahead) {
  lane_floats acc[TOKEN_TILE][ROW_BLOCKS];
  for (int m = 0; m < tokens; m++) memcpy(acc[m], out + m * stride, sizeof acc[m]);
  for (int i = 0; i < count; i++) {
    bring_ahead(&ahead);
    const group_q8 *at[TOKEN_TILE];
    lane_dot dot[TOKEN_TILE][ROW_BLOCKS];
    for (int m = 0; m < tokens; m++) {
      at[m] = x + m * groups + i;
      for (int b = 0; b < ROW_BLOCKS; b++) dot[m][b] = dot_begin(at[m]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
      for (int m = 0; m < tokens; m++) {
        for (int b = 0; b < ROW_BLOCKS; b++) dot[m][b] = dot_step(dot[m][b], w->codes[i][j][b], at[m]->codes + 4 * j);
      }
    }
    for (int m = 0; m < tokens; m++) {
      for (int b = 0; b < ROW_BLOCKS; b++) acc[m][b] += dot_end(dot[m][b]) * (w->scales[i][b] * at[m]->scale);
    }
  }
  for (int m = 0; m < tokens; m++) memcpy(out + m * stride, acc[m], sizeof acc[m]);
}

static void multiply_tile(const panel *w, int count, const group_q8 *x, int64_t groups, int tokens, float *out,
                          int64_t stride, rows_ahead ahead) {
  switch (tokens) {
    case 1: multiply_tile_by(w, count, x, groups, 1, out, stride, ahead); break;
    case 2: multiply_tile_by(w, count, x, groups, 2, out, stride, ahead); break;
    case 3: multiply_tile_by(w, count, x, groups, 3, out, stride, ahead); break;
    case 4: multiply_tile_by(w, count, x, groups, 4, out, stride, ahead); break;
    case 5: multiply_tile_by(w, count, x, groups, 5, out, stride, ahead); break;
    default: multiply_tile_by(w, count, x, groups, 6, out, stride, ahead);
  }
}

#endif
#endif
