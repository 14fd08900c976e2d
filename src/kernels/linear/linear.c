/*
 * out = x · weightᵀ + bias.
 *   Q8 weights, few tokens    the speed of memory: each thread quantises the tokens for itself and reads panels once
 *   Q8 weights, many tokens   activations are packed once for all; some columns of a panel are made ready in the first
 *                             level cache and meet a block of tokens there
 *   F32 and BF16 weights      float32 throughout: four rows × some tokens side by side, lanes are columns
 */
#ifndef TUTTI_LINEAR_C
#define TUTTI_LINEAR_C
#include "../amx.h"
#include "q8.h"
#ifdef __AMX_BF16__
#include "q8-amx.h"
#endif

static inline int64_t linear_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t linear_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Sums [tokens][16] of a panel go to their place, the last panel's missing rows do not. */
static void linear_finish(const linear_args *a, int64_t panel, int64_t token, int64_t tokens, const float *sums) {
  int64_t row = panel * Q8_ROWS, count = linear_min(Q8_ROWS, a->weight->rows - row);
  for (int64_t t = 0; t < tokens; t++) {
    float *out = a->out + (token + t) * a->weight->rows + row;
    for (int64_t r = 0; r < count; r++) out[r] = sums[t * Q8_ROWS + r] + (a->bias ? a->bias[row + r] : 0);
  }
}

/* ---- Q8, few tokens */

enum { LINEAR_FEW = 8 };

static void linear_stored_tile(const uint8_t *panel, int64_t groups, const uint8_t *x, int tokens, bool first,
                               float *sums) {
#define CASE(n)                                                                    \
  case n:                                                                          \
    if (first) q8_tile(panel, 0, groups, x, false, sums, 0, true, true, 1, n);     \
    else q8_tile(panel, 0, groups, x, false, sums, 0, true, false, 1, n);          \
    break;
  switch (tokens) { Q8_TILES }
#undef CASE
}

static void linear_q8_few(const linear_args *a, team *team) {
  int64_t cols = a->weight->cols, groups = linear_ceil(cols, Q8_COLS), panels = linear_ceil(a->weight->rows, Q8_ROWS);
  const uint8_t *weights = a->weight->parts[0].data;
  float *sums = (float *)team->scratch;
  uint8_t *x = team->scratch + LINEAR_FEW * Q8_ROWS * sizeof *sums;
  for (int64_t t = 0; t < a->tokens; t += Q8_TILE)
    q8_pack(a->x + t * cols, cols, (int)linear_min(Q8_TILE, a->tokens - t), x + t * groups * Q8_RECORD);

  int64_t share = panels / (team->size * 8); /* at most some 50 µs of reading */
  share = share < 1 ? 1 : linear_min(share, 1 + (1 << 20) / (groups * Q8_BLOCK));
  for (int64_t s; (s = team_next(team, linear_ceil(panels, share))) >= 0;) {
    for (int64_t p = s * share; p < linear_min(panels, (s + 1) * share); p++) {
      for (int64_t t = 0; t < a->tokens; t += Q8_TILE)
        linear_stored_tile(weights + p * groups * Q8_BLOCK, groups, x + t * groups * Q8_RECORD,
                           (int)linear_min(Q8_TILE, a->tokens - t), t == 0, sums + t * Q8_ROWS);
      linear_finish(a, p, 0, a->tokens, sums);
    }
  }
}

/* ---- Q8, many tokens */

#ifdef __AMX_BF16__
enum { MANY_TILE = AMX_TILE, MANY_PANELS = AMX_PANELS, MANY_RECORD = AMX_RECORD, MANY_READY = AMX_READY };
#define many_pack amx_pack
#define many_ready amx_ready
#define many_padded amx_padded
#else
enum { MANY_TILE = Q8_TILE, MANY_PANELS = Q8_PANELS, MANY_RECORD = Q8_RECORD, MANY_READY = Q8_READY };
#define many_pack q8_pack
#define many_ready q8_ready
static inline int64_t many_padded(int64_t tokens) { return tokens; }
#endif

enum {
  MANY_GROUPS = 15, /* of a panel at a time: half of a first level cache of 32 KiB */
  MANY_BLOCK = 256 / MANY_TILE * MANY_TILE, /* tokens at a time: their part of those groups stays in the second level */
  MANY_SHARE = 8, /* panels of a share: the tokens come from far away once for them all */
};

static void many_tile(const uint8_t *weights, int64_t groups, const uint8_t *x, int tokens, bool more, float *sums,
                      int64_t panel_sums, int panels) {
  const int64_t bytes = MANY_GROUPS * MANY_READY;
#ifdef __AMX_BF16__
  if (panels > 1 && tokens > 16) amx_tile(weights, bytes, groups, x, more, sums, panel_sums, true, true);
  else if (panels > 1) amx_tile(weights, bytes, groups, x, more, sums, panel_sums, true, false);
  else if (tokens > 16) amx_tile(weights, bytes, groups, x, more, sums, panel_sums, false, true);
  else amx_tile(weights, bytes, groups, x, more, sums, panel_sums, false, false);
#else
#define CASE(n)                                                                                                 \
  case n:                                                                                                       \
    if (panels > 1) q8_tile(weights, bytes, groups, x, more, sums, panel_sums, false, false, Q8_PANELS, n);     \
    else q8_tile(weights, bytes, groups, x, more, sums, panel_sums, false, false, 1, n);                        \
    break;
  switch (tokens) { Q8_TILES }
#undef CASE
#endif
}

/* Panels first … first+panels times a block of tokens. */
static void many_block(const linear_args *a, const uint8_t *x, int64_t first, int64_t panels, int64_t token,
                       int64_t tokens, uint8_t *scratch) {
  int64_t groups = linear_ceil(a->weight->cols, Q8_COLS), panel_bytes = groups * Q8_BLOCK;
  int64_t panel_sums = many_padded(tokens) * Q8_ROWS;
  float *sums = (float *)scratch; /* [panel][token][16] */
  uint8_t *ready = scratch + MANY_SHARE * MANY_BLOCK * Q8_ROWS * sizeof *sums;
  for (int64_t g = 0; g < groups; g += MANY_GROUPS) {
    int64_t some = linear_min(MANY_GROUPS, groups - g);
    for (int64_t p = 0; p < panels; p += MANY_PANELS) {
      int64_t together = linear_min(MANY_PANELS, panels - p);
      const uint8_t *stored = a->weight->parts[0].data + (first + p) * panel_bytes + g * Q8_BLOCK;
      for (int64_t i = 0; i < together; i++)
        many_ready(stored + i * panel_bytes, some, together * panel_bytes, ready + i * MANY_GROUPS * MANY_READY);
      for (int64_t t = 0; t < tokens; t += MANY_TILE) {
        int64_t count = linear_min(MANY_TILE, tokens - t);
        many_tile(ready, some, x + ((token + t) * groups + g * many_padded(count)) * MANY_RECORD, (int)count, g > 0,
                  sums + p * panel_sums + t * Q8_ROWS, panel_sums, (int)together);
      }
    }
  }
  for (int64_t p = 0; p < panels; p++) linear_finish(a, first + p, token, tokens, sums + p * panel_sums);
}

static void linear_q8_many(const linear_args *a, team *team) {
  int64_t cols = a->weight->cols, groups = linear_ceil(cols, Q8_COLS), panels = linear_ceil(a->weight->rows, Q8_ROWS);
  uint8_t *x = team_shared(team, (size_t)(many_padded(a->tokens) * groups * MANY_RECORD));
  if (!x) return;
  int64_t some = linear_ceil(16, MANY_TILE) * MANY_TILE;
  for (int64_t s; (s = team_next(team, linear_ceil(a->tokens, some))) >= 0;)
    for (int64_t t = s * some; t < linear_min(a->tokens, (s + 1) * some); t += MANY_TILE)
      many_pack(a->x + t * cols, cols, (int)linear_min(MANY_TILE, a->tokens - t), x + t * groups * MANY_RECORD);
  if (!team_barrier(team)) return;

  int64_t blocks = linear_ceil(a->tokens, MANY_BLOCK), share = panels * blocks / (team->size * 4);
  share = share < MANY_PANELS ? MANY_PANELS : linear_min(share / MANY_PANELS * MANY_PANELS, MANY_SHARE);
  for (int64_t s; (s = team_next(team, linear_ceil(panels, share) * blocks)) >= 0;) {
    int64_t token = s % blocks * MANY_BLOCK, first = s / blocks * share;
    many_block(a, x, first, linear_min(share, panels - first), token, linear_min(MANY_BLOCK, a->tokens - token),
               team->scratch);
  }
}

/* ---- F32 and BF16 */

static inline int64_t linear_width(const matrix *m) { return m->type == TYPE_BF16 ? 2 : 4; }

static const uint8_t *linear_row(const matrix *m, int64_t row) {
  int part = 0;
  while (row >= m->parts[part].rows) row -= m->parts[part++].rows;
  return m->parts[part].data + row * m->cols * linear_width(m);
}

enum {
  FLOAT_ROWS = 4,
#if defined(__AVX512F__) || defined(__aarch64__)
  FLOAT_TILE = 6, /* 24 sums and what they are fed with, in 32 registers */
#else
  FLOAT_TILE = 3, /* in 16 */
#endif
  FLOAT_COLS = 720, /* of a row at a time: rows and tokens meet in the first level cache, and sums stay short */
};

Q8_INLINE q8_floats float_weights(const uint8_t *row, int64_t k, const bool bf16) {
  return bf16 ? q8_from_bf16(row + k * 2) : q8_load_floats(row + k * 4);
}

/* sums[r][t] = products of 4 rows and `tokens` tokens over cols columns; stride: between tokens. */
Q8_INLINE void float_tile(const uint8_t *const *rows, const float *x, int64_t stride, int64_t cols, bool prefetch,
                          float sums[FLOAT_ROWS][FLOAT_TILE], const bool bf16, const int tokens) {
  q8_floats total[FLOAT_ROWS][FLOAT_TILE];
  Q8_UNROLL for (int r = 0; r < FLOAT_ROWS; r++)
    Q8_UNROLL for (int t = 0; t < tokens; t++) total[r][t] = (q8_floats){ 0 };
  int64_t k = 0;
  for (; k + Q8_LANES <= cols; k += Q8_LANES) {
    q8_floats v[FLOAT_TILE];
    Q8_UNROLL for (int t = 0; t < tokens; t++) v[t] = q8_load_floats(x + t * stride + k);
    Q8_UNROLL for (int r = 0; r < FLOAT_ROWS; r++) {
      q8_floats w = float_weights(rows[r], k, bf16);
      Q8_UNROLL for (int t = 0; t < tokens; t++) total[r][t] += w * v[t];
      if (prefetch) __builtin_prefetch(rows[r] + k * (bf16 ? 2 : 4) + Q8_AHEAD);
    }
  }
  Q8_UNROLL for (int r = 0; r < FLOAT_ROWS; r++) Q8_UNROLL for (int t = 0; t < tokens; t++) {
    float lanes[Q8_LANES], sum = 0;
    q8_store_floats(lanes, total[r][t]);
    for (int half = Q8_LANES / 2; half; half /= 2)
      for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    for (int64_t i = k; i < cols; i++) {
      uint16_t half;
      memcpy(&half, rows[r] + i * 2, 2);
      float w = q8_from_bits((uint32_t)half << 16);
      if (!bf16) memcpy(&w, rows[r] + i * 4, 4);
      sum += w * x[t * stride + i];
    }
    sums[r][t] = lanes[0] + sum;
  }
}

static void float_some(const uint8_t *const *rows, const float *x, int64_t stride, int64_t cols, bool bf16,
                       bool prefetch, int tokens, float sums[FLOAT_ROWS][FLOAT_TILE]) {
#define CASE(n)                                                                     \
  case n:                                                                           \
    if (bf16) float_tile(rows, x, stride, cols, prefetch, sums, true, n);           \
    else float_tile(rows, x, stride, cols, prefetch, sums, false, n);               \
    break;
  switch (tokens) {
    CASE(1) CASE(2) CASE(3)
#if defined(__AVX512F__) || defined(__aarch64__)
    CASE(4) CASE(5) CASE(6)
#endif
  }
#undef CASE
}

/* bfloat16 → float32. */
static void float_decode(const uint8_t *row, int64_t count, float *out) {
  int64_t k = 0;
  for (; k + Q8_LANES <= count; k += Q8_LANES) q8_store_floats(out + k, q8_from_bf16(row + k * 2));
  for (; k < count; k++) {
    uint16_t half;
    memcpy(&half, row + k * 2, 2);
    out[k] = q8_from_bits((uint32_t)half << 16);
  }
}

/* Four rows (fewer at the end) times all tokens. */
static void linear_float_rows(const linear_args *a, int64_t row, float *scratch) {
  const matrix *weight = a->weight;
  int64_t cols = weight->cols, count = linear_min(FLOAT_ROWS, weight->rows - row), width = linear_width(weight);
  bool decode = weight->type == TYPE_BF16 && a->tokens > FLOAT_TILE;
  for (int64_t k = 0; k < cols; k += FLOAT_COLS) {
    int64_t some = linear_min(FLOAT_COLS, cols - k);
    const uint8_t *rows[FLOAT_ROWS];
    for (int r = 0; r < FLOAT_ROWS; r++) {
      rows[r] = linear_row(weight, row + linear_min(r, count - 1)) + k * width;
      if (!decode) continue;
      float_decode(rows[r], some, scratch + r * FLOAT_COLS);
      rows[r] = (const uint8_t *)(scratch + r * FLOAT_COLS);
    }
    for (int64_t t = 0; t < a->tokens; t += FLOAT_TILE) {
      int tokens = (int)linear_min(FLOAT_TILE, a->tokens - t);
      float sums[FLOAT_ROWS][FLOAT_TILE];
      bool bf16 = weight->type == TYPE_BF16 && !decode, prefetch = t == 0 && !decode;
      float_some(rows, a->x + t * cols + k, cols, some, bf16, prefetch, tokens, sums);
      for (int i = 0; i < tokens; i++)
        for (int r = 0; r < count; r++) {
          float *out = a->out + (t + i) * weight->rows + row + r;
          *out = sums[r][i] + (k ? *out : a->bias ? a->bias[row + r] : 0);
        }
    }
  }
}

static void linear_float(const linear_args *a, team *team) {
  int64_t fours = linear_ceil(a->weight->rows, FLOAT_ROWS), cost = FLOAT_ROWS * a->weight->cols * (a->tokens + 4);
  int64_t share = linear_min(fours / (team->size * 4), (1 << 21) / cost); /* some 0.1 ms */
  if (share < 1) share = 1;
  for (int64_t s; (s = team_next(team, linear_ceil(fours, share))) >= 0;)
    for (int64_t i = s * share; i < linear_min(fours, (s + 1) * share); i++)
      linear_float_rows(a, i * FLOAT_ROWS, (float *)team->scratch);
}

static bool linear_is_few(const linear_args *a) {
  return a->tokens <= LINEAR_FEW && a->tokens * linear_ceil(a->weight->cols, Q8_COLS) * Q8_RECORD <= TEAM_SCRATCH / 2;
}

static void linear(const linear_args *a, team *team) {
  if (a->weight->type != TYPE_Q8) linear_float(a, team);
  else if (linear_is_few(a)) linear_q8_few(a, team);
  else linear_q8_many(a, team);
}

/* ---- making Q8 */

/* 32 columns of a row: the scale, rounded up to bfloat16 so that no code passes 127, and codes. */
Q8_INLINE uint16_t quantize_group(const uint8_t *row, int8_t codes[Q8_COLS], const bool bf16) {
  enum { N = Q8_COLS / Q8_LANES };
  q8_floats x[N];
  q8_ints highest = { 0 }, rounded[N];
  Q8_UNROLL for (int i = 0; i < N; i++) {
    x[i] = float_weights(row, i * Q8_LANES, bf16);
    highest = q8_max(highest, (q8_ints)x[i] & 0x7fffffff);
  }
  uint32_t bits = (uint32_t)q8_highest(highest);
  float magnitude = q8_from_bits(bits);
  if (bits >= 0x7f800000 || magnitude < 0x1p-110f) {
    memset(codes, 0, Q8_COLS);
    return bits >= 0x7f800000 ? 0x7fc0 : 0;
  }
  uint16_t scale = (uint16_t)((q8_bits(magnitude / 127) + 0xffff) >> 16);
  float inverse = 1 / q8_from_bits((uint32_t)scale << 16);
  Q8_UNROLL for (int i = 0; i < N; i++) rounded[i] = q8_round(x[i] * inverse);
  q8_narrow(rounded, codes);
  return scale;
}

static void quantize_panel(const matrix *source, int64_t panel, uint8_t *out) {
  int64_t cols = source->cols, width = linear_width(source);
  int64_t count = linear_min(Q8_ROWS, source->rows - panel * Q8_ROWS);
  const uint8_t *rows[Q8_ROWS];
  for (int64_t r = 0; r < count; r++) rows[r] = linear_row(source, panel * Q8_ROWS + r);
  int32_t codes[Q8_ROWS][Q8_COLS / 4] = { 0 }; /* four columns in each */
  for (int64_t k = 0; k < cols; k += Q8_COLS, out += Q8_BLOCK) {
    uint16_t scales[Q8_ROWS] = { 0 };
    for (int64_t r = 0; r < count; r++) {
      const uint8_t *group = rows[r] + k * width;
      uint8_t padded[Q8_COLS * 4] = { 0 };
      if (cols - k < Q8_COLS) group = memcpy(padded, group, (size_t)((cols - k) * width));
      else __builtin_prefetch(group + 512);
      int8_t *to = (int8_t *)codes[r];
      scales[r] = width == 2 ? quantize_group(group, to, true) : quantize_group(group, to, false);
    }
    memcpy(out, scales, sizeof scales);
    for (int j = 0; j < Q8_COLS / 4; j++) {
      int32_t step[Q8_ROWS];
      for (int r = 0; r < Q8_ROWS; r++) step[r] = codes[r][j];
      memcpy(out + 32 + j * 64, step, sizeof step);
    }
  }
}

static void quantize_q8(const quantize_args *a, team *team) {
  int64_t panels = linear_ceil(a->source->rows, Q8_ROWS), bytes = q8_bytes(Q8_ROWS, a->source->cols);
  int64_t share = 1 + (1 << 18) / bytes; /* some 0.1 ms */
  for (int64_t s; (s = team_next(team, linear_ceil(panels, share))) >= 0;)
    for (int64_t p = s * share; p < linear_min(panels, (s + 1) * share); p++)
      quantize_panel(a->source, p, a->out + p * bytes);
}

#endif
