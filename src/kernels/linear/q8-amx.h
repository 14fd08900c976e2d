/*
 * Many tokens with AMX. Tiles of bytes would have to be emptied and scaled after each group of 32 columns, by count of
 * instructions twice the work of filling them; tiles of bfloat16 take groups at the same rate (a group fills a tile's
 * 64 bytes) and sum all of them in float32. Codes times scales are rounded to bfloat16 for it, as the activations are:
 * with outliers among these an NMSE of 5·10⁻⁶ to 7·10⁻⁶, where activations of 8 bits have 1.3·10⁻⁴ to 1.9·10⁻⁴.
 */
#ifndef TUTTI_Q8_AMX_H
#define TUTTI_Q8_AMX_H
#include "q8.h"

enum {
  AMX_TILE = 32,   /* tokens, as two tiles of 16, times */
  AMX_PANELS = 2,  /* panels: four tiles of sums */
  AMX_RECORD = 64, /* bytes of a token's group */
  AMX_READY = 1024,
};

/* Tokens come in sixteens; those that are missing are zero. */
static inline int64_t amx_padded(int64_t tokens) { return (tokens + 15) / 16 * 16; }

/* Activations of `tokens` ≤ AMX_TILE tokens: [group][token][32] bfloat16. */
static void amx_pack(const float *x, int64_t cols, int tokens, uint8_t *out) {
  int64_t groups = (cols + Q8_COLS - 1) / Q8_COLS, padded = amx_padded(tokens);
  for (int64_t g = 0; g < groups; g++)
    for (int64_t t = 0; t < padded; t++) {
      float group[Q8_COLS] = { 0 };
      int64_t length = cols - g * Q8_COLS < Q8_COLS ? cols - g * Q8_COLS : Q8_COLS;
      if (t < tokens) memcpy(group, x + t * cols + g * Q8_COLS, (size_t)length * sizeof *group);
      q8_floats low = q8_load_floats(group), high = q8_load_floats(group + 16);
      low += low * 0; /* an infinity becomes NaN, as it does for few tokens */
      high += high * 0;
      _mm512_storeu_si512(out + (g * padded + t) * AMX_RECORD, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
    }
}

/* Groups of a stored panel as tiles: [column / 2][row][2] bfloat16. */
static void amx_ready(const uint8_t *panel, int64_t groups, int64_t ahead, uint8_t *out) {
  const __m512i third = _mm512_set4_epi32(0x0e808080, 0x0a808080, 0x06808080, 0x02808080);
  const __m512i second = _mm512_set4_epi32(0x0d808080, 0x09808080, 0x05808080, 0x01808080);
  const __m512i fourth = _mm512_set1_epi32((int)0xff000000);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i together = /* 0 16 1 17 … */
    _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x10001)), _mm512_set1_epi32(16 << 16));
  for (int64_t g = 0; g < groups; g++, panel += Q8_BLOCK) {
    for (int line = 0; line < Q8_BLOCK; line += 64) __builtin_prefetch(panel + ahead + line);
    q8_floats scale = q8_from_bf16(panel) * 0x1p-24f; /* a code lies in the highest byte of its lane */
    for (int j = 0; j < 8; j++, out += 128) {
      __m512i codes = (__m512i)q8_load(panel + 32 + j * 64);
      __m512i lanes[4] = { _mm512_slli_epi32(codes, 24), _mm512_shuffle_epi8(codes, second),
                           _mm512_shuffle_epi8(codes, third), _mm512_and_si512(codes, fourth) };
      q8_floats w[4];
      Q8_UNROLL for (int i = 0; i < 4; i++) w[i] = __builtin_convertvector((q8_ints)lanes[i], q8_floats) * scale;
      Q8_UNROLL for (int i = 0; i < 4; i += 2) {
        __m512i pair = (__m512i)_mm512_cvtne2ps_pbh((__m512)w[i + 1], (__m512)w[i]);
        _mm512_storeu_si512(out + i * 32, _mm512_permutexvar_epi16(together, pair));
      }
    }
  }
}

/* As q8_tile; the second panel lies panel_bytes and panel_sums behind the first. */
Q8_INLINE void amx_tile(const uint8_t *weights, int64_t panel_bytes, int64_t groups, const uint8_t *x, bool more,
                        float *sums, int64_t panel_sums, const bool two_panels, const bool two_tiles) {
  enum { STRIDE = 64, TILE = 16 * 16 };
  float *other = sums + panel_sums;
  if (more) {
    _tile_loadd(0, sums, STRIDE);
    if (two_panels) _tile_loadd(1, other, STRIDE);
    if (two_tiles) _tile_loadd(2, sums + TILE, STRIDE);
    if (two_panels && two_tiles) _tile_loadd(3, other + TILE, STRIDE);
  } else {
    _tile_zero(0);
    if (two_panels) _tile_zero(1);
    if (two_tiles) _tile_zero(2);
    if (two_panels && two_tiles) _tile_zero(3);
  }
  for (int64_t g = 0; g < groups; g++, weights += AMX_READY, x += two_tiles ? 2048 : 1024) {
    _tile_loadd(4, x, STRIDE);
    _tile_loadd(6, weights, STRIDE);
    _tile_dpbf16ps(0, 4, 6);
    if (two_panels) {
      _tile_loadd(7, weights + panel_bytes, STRIDE);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (two_tiles) {
      _tile_loadd(5, x + 1024, STRIDE);
      _tile_dpbf16ps(2, 5, 6);
      if (two_panels) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, STRIDE);
  if (two_panels) _tile_stored(1, other, STRIDE);
  if (two_tiles) _tile_stored(2, sums + TILE, STRIDE);
  if (two_panels && two_tiles) _tile_stored(3, other + TILE, STRIDE);
}

#endif
