/*
 * Products of Q8 weights and quantised activations. Lanes are the 16 rows of a panel, so nothing is ever summed across
 * a vector, and a row's sum goes through the groups of 32 columns in their order whatever the tile: one token alone and
 * the same token among hundreds give the same bits.
 *
 * Within a group the sum is of integers and exact. What the activations become depends on the machine:
 *   bytes     −127 … 127, four to a step, where there are dot products of bytes (AVX-512 VNNI, NEON dotprod)
 *   int16     −32767 … 32767, two to a step, elsewhere. Bytes would need as many instructions (|w| × ±x, widen, add for
 *             four columns) as this (multiply, add for two), and are coarser.
 */
#ifndef TUTTI_Q8_H
#define TUTTI_Q8_H
#include <math.h>
#include <string.h>
#include "../cpu.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#define Q8_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define Q8_UNROLL _Pragma("unroll")
#else
#define Q8_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512VNNI__)
enum { Q8_WIDTH = 64 };
#elif defined(__AVX2__)
enum { Q8_WIDTH = 32 };
#else
enum { Q8_WIDTH = 16 };
#endif
typedef int32_t q8_ints __attribute__((vector_size(Q8_WIDTH)));
typedef float q8_floats __attribute__((vector_size(Q8_WIDTH)));

#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
enum { Q8_LARGEST = 127, Q8_STEPS = 8 };
#else
enum { Q8_LARGEST = 32767, Q8_STEPS = 16 };
#endif
enum {
  Q8_LANES = Q8_WIDTH / 4,
  Q8_VECTORS = Q8_ROWS / Q8_LANES,
#if defined(__AVX512VNNI__)
  Q8_TILE = 6,   /* tokens side by side, times */
  Q8_PANELS = 2, /* panels: 12 sums of integers, 12 of floats, and what they are fed with, in 32 registers */
  Q8_RECORD = 4 * Q8_STEPS + 8, /* bytes of a token's group: codes, scale, correction */
#else
  Q8_TILE = 4,
  Q8_PANELS = 1,
  Q8_RECORD = 4 * Q8_STEPS + 4, /* codes, scale */
#endif
  Q8_READY = 64 + 64 * Q8_STEPS, /* bytes of a group of a panel made ready for many tokens: scales as floats, codes */
  Q8_AHEAD = 4096,               /* hardware does not read far enough ahead by itself */
};
/* For a CASE(tokens) of each size of tile. */
#if defined(__AVX512VNNI__)
#define Q8_TILES CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#else
#define Q8_TILES CASE(1) CASE(2) CASE(3) CASE(4)
#endif

Q8_INLINE q8_ints q8_load(const void *at) { q8_ints v; memcpy(&v, at, sizeof v); return v; }
Q8_INLINE q8_floats q8_load_floats(const void *at) { q8_floats v; memcpy(&v, at, sizeof v); return v; }
Q8_INLINE void q8_store(void *at, q8_ints v) { memcpy(at, &v, sizeof v); }
Q8_INLINE void q8_store_floats(void *at, q8_floats v) { memcpy(at, &v, sizeof v); }
Q8_INLINE float q8_from_bits(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
Q8_INLINE uint32_t q8_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }

/* ---- what differs between instruction sets */

#if defined(__AVX512VNNI__)
Q8_INLINE q8_ints q8_round(q8_floats v) { return (q8_ints)_mm512_cvtps_epi32((__m512)v); }
Q8_INLINE q8_ints q8_max(q8_ints a, q8_ints b) { return (q8_ints)_mm512_max_epi32((__m512i)a, (__m512i)b); }
Q8_INLINE int32_t q8_highest(q8_ints v) { return _mm512_reduce_max_epi32((__m512i)v); }
Q8_INLINE q8_floats q8_from_bf16(const uint8_t *at) {
  return (q8_floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16);
}
/* Unsigned weights (+128) times signed activations; the correction −128 · Σ activations is where a sum begins. */
Q8_INLINE q8_ints q8_dot(q8_ints sum, q8_ints w, q8_ints x) {
  return (q8_ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}
#elif defined(__AVX2__)
Q8_INLINE q8_ints q8_round(q8_floats v) { return (q8_ints)_mm256_cvtps_epi32((__m256)v); }
Q8_INLINE q8_ints q8_max(q8_ints a, q8_ints b) { return (q8_ints)_mm256_max_epi32((__m256i)a, (__m256i)b); }
Q8_INLINE int32_t q8_highest(q8_ints v) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
Q8_INLINE q8_floats q8_from_bf16(const uint8_t *at) {
  return (q8_floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)at)), 16);
}
Q8_INLINE q8_ints q8_dot(q8_ints sum, q8_ints w, q8_ints x) {
  return sum + (q8_ints)_mm256_madd_epi16((__m256i)w, (__m256i)x);
}
#else
Q8_INLINE q8_ints q8_max(q8_ints a, q8_ints b) { q8_ints more = a > b; return (a & more) | (b & ~more); }
Q8_INLINE int32_t q8_highest(q8_ints v) {
  v = q8_max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  v = q8_max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
  return v[0];
}
Q8_INLINE q8_floats q8_from_bf16(const uint8_t *at) {
  uint16_t four __attribute__((vector_size(8)));
  memcpy(&four, at, sizeof four);
  return (q8_floats)(__builtin_convertvector(four, q8_ints) << 16);
}
#if defined(__SSE2__)
Q8_INLINE q8_ints q8_round(q8_floats v) { return (q8_ints)_mm_cvtps_epi32((__m128)v); }
Q8_INLINE q8_ints q8_dot(q8_ints sum, q8_ints w, q8_ints x) {
  return sum + (q8_ints)_mm_madd_epi16((__m128i)w, (__m128i)x);
}
#else
Q8_INLINE q8_ints q8_round(q8_floats v) {
  q8_ints rounded;
  for (int i = 0; i < Q8_LANES; i++) rounded[i] = (int32_t)rintf(v[i]);
  return rounded;
}
#if defined(__ARM_FEATURE_DOTPROD)
Q8_INLINE q8_ints q8_dot(q8_ints sum, q8_ints w, q8_ints x) {
  return (q8_ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
}
#else
Q8_INLINE q8_ints q8_dot(q8_ints sum, q8_ints w, q8_ints x) {
  return sum + ((w << 16) >> 16) * ((x << 16) >> 16) + (w >> 16) * (x >> 16);
}
#endif
#endif
#endif

/* 32 codes of −127 … 127 to bytes. */
Q8_INLINE void q8_narrow(const q8_ints codes[Q8_COLS / Q8_LANES], int8_t *out) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
  __m256i low = _mm256_packs_epi32((__m256i)codes[0], (__m256i)codes[1]); /* packs work within halves */
  __m256i high = _mm256_packs_epi32((__m256i)codes[2], (__m256i)codes[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((void *)out, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
#elif defined(__SSE2__) && !defined(__AVX512VNNI__)
  for (int i = 0; i < 8; i += 4) {
    __m128i low = _mm_packs_epi32((__m128i)codes[i], (__m128i)codes[i + 1]);
    __m128i high = _mm_packs_epi32((__m128i)codes[i + 2], (__m128i)codes[i + 3]);
    _mm_storeu_si128((void *)(out + i * 4), _mm_packs_epi16(low, high));
  }
#else
  typedef int8_t bytes __attribute__((vector_size(Q8_LANES)));
  for (int i = 0; i < Q8_COLS / Q8_LANES; i++) {
    bytes narrow = __builtin_convertvector(codes[i], bytes);
    memcpy(out + i * Q8_LANES, &narrow, sizeof narrow);
  }
#endif
}

/* Codes of 16 rows × 4 columns of a block as q8_dot takes them: one step of bytes, or two of int16. */
enum { Q8_PARTS = Q8_STEPS / 8 };
Q8_INLINE void q8_prepare(q8_ints codes, q8_ints step[Q8_PARTS]) {
#if defined(__AVX512VNNI__)
  step[0] = codes ^ (int32_t)0x80808080;
#elif defined(__ARM_FEATURE_DOTPROD)
  step[0] = codes;
#else /* columns 0 and 2, then 1 and 3: no lane is left */
  typedef int16_t shorts __attribute__((vector_size(Q8_WIDTH)));
  step[0] = (q8_ints)(((shorts)codes << 8) >> 8);
  step[1] = (q8_ints)((shorts)codes >> 8);
#endif
}

/* ---- activations */

/*
 * Codes of 32 values, −largest … largest, and their scale, the largest magnitude / `largest`. Below 2^−110 a group
 * counts as zero (its inverse scale would not be a number). A value that is not finite makes the scale NaN, and with it
 * every product of the group.
 */
Q8_INLINE float q8_quantize(const float *x, float largest, int32_t codes[Q8_COLS]) {
  q8_ints highest = { 0 };
  Q8_UNROLL for (int i = 0; i < Q8_COLS; i += Q8_LANES) highest = q8_max(highest, q8_load(x + i) & 0x7fffffff);
  uint32_t bits = (uint32_t)q8_highest(highest);
  float magnitude = q8_from_bits(bits);
  bool usable = bits < 0x7f800000 && magnitude >= 0x1p-110f;
  float inverse = usable ? largest / magnitude : 0;
  if (!usable) memset(codes, 0, Q8_COLS * sizeof *codes);
  else
    Q8_UNROLL for (int i = 0; i < Q8_COLS; i += Q8_LANES)
      q8_store(codes + i, q8_round(q8_load_floats(x + i) * inverse));
  return bits >= 0x7f800000 ? NAN : usable ? magnitude / largest : 0;
}

/*
 * Activations of `tokens` ≤ Q8_TILE tokens for q8_tile, tokens · groups · Q8_RECORD bytes: for each group the codes
 * [step][token], each step's in 4 bytes, then the scales [token] and, for unsigned weights, the corrections [token].
 */
static void q8_pack(const float *x, int64_t cols, int tokens, uint8_t *out) {
  int64_t groups = (cols + Q8_COLS - 1) / Q8_COLS;
  for (int64_t g = 0; g < groups; g++, out += tokens * Q8_RECORD) {
    int64_t length = cols - g * Q8_COLS < Q8_COLS ? cols - g * Q8_COLS : Q8_COLS;
    for (int t = 0; t < tokens; t++) {
      const float *from = x + t * cols + g * Q8_COLS;
      float padded[Q8_COLS];
      if (length < Q8_COLS) {
        memset(padded, 0, sizeof padded);
        from = memcpy(padded, from, (size_t)length * sizeof *from);
      }
      int32_t codes[Q8_COLS], total = 0;
      float scale = q8_quantize(from, Q8_LARGEST, codes);
      for (int j = 0; j < 8; j++) {
        const int32_t *c = codes + 4 * j;
#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
        int32_t step[1] = { (c[0] & 255) | (c[1] & 255) << 8 | (c[2] & 255) << 16 | c[3] * (1 << 24) };
        total += c[0] + c[1] + c[2] + c[3];
#else
        int32_t step[2] = { (c[0] & 65535) | c[2] * 65536, (c[1] & 65535) | c[3] * 65536 };
#endif
        for (int p = 0; p < Q8_PARTS; p++) memcpy(out + ((j * Q8_PARTS + p) * tokens + t) * 4, step + p, 4);
      }
      memcpy(out + (Q8_STEPS * tokens + t) * 4, &scale, 4);
      total *= -128;
      if (Q8_RECORD > Q8_STEPS * 4 + 4) memcpy(out + ((Q8_STEPS + 1) * tokens + t) * 4, &total, 4);
    }
  }
}

/* ---- tiles */

/* Groups of a stored panel made ready for tiles of many tokens: scales as floats, then the steps. */
static inline void q8_ready(const uint8_t *panel, int64_t groups, int64_t ahead, uint8_t *out) {
  for (int64_t g = 0; g < groups; g++, panel += Q8_BLOCK, out += Q8_READY) {
    for (int line = 0; line < Q8_BLOCK; line += 64) __builtin_prefetch(panel + ahead + line);
    Q8_UNROLL for (int v = 0; v < Q8_VECTORS; v++)
      q8_store_floats(out + v * Q8_WIDTH, q8_from_bf16(panel + v * Q8_LANES * 2));
    Q8_UNROLL for (int j = 0; j < 8; j++) Q8_UNROLL for (int v = 0; v < Q8_VECTORS; v++) {
      q8_ints step[Q8_PARTS];
      q8_prepare(q8_load(panel + 32 + j * 64 + v * Q8_WIDTH), step);
      for (int p = 0; p < Q8_PARTS; p++) q8_store(out + 64 + (j * Q8_PARTS + p) * 64 + v * Q8_WIDTH, step[p]);
    }
  }
}

/*
 * sums [panel][token][16] of `panels` panels (each panel_bytes after the other) and `tokens` tokens; `more`: added to
 * what is there. The weights are as stored, or made ready. What is const is a constant once this is inlined.
 */
Q8_INLINE void q8_tile(const uint8_t *weights, int64_t panel_bytes, int64_t groups, const uint8_t *x, bool more,
                       float *sums, int64_t panel_sums, const bool stored, const bool prefetch, const int panels,
                       const int tokens) {
  enum { N = Q8_PANELS * Q8_VECTORS };
  const int count = panels * Q8_VECTORS, block = stored ? Q8_BLOCK : Q8_READY, at_once = stored ? Q8_PARTS : 1;
  q8_floats total[Q8_TILE][N];
  Q8_UNROLL for (int t = 0; t < tokens; t++) Q8_UNROLL for (int n = 0; n < count; n++) {
    float *at = sums + n / Q8_VECTORS * panel_sums + t * Q8_ROWS + n % Q8_VECTORS * Q8_LANES;
    total[t][n] = more ? q8_load_floats(at) : (q8_floats){ 0 };
  }
  for (int64_t g = 0; g < groups; g++, weights += block, x += tokens * Q8_RECORD) {
    if (prefetch)
      Q8_UNROLL for (int line = 0; line < Q8_BLOCK; line += 64) __builtin_prefetch(weights + Q8_AHEAD + line);
    q8_ints dot[Q8_TILE][N];
    Q8_UNROLL for (int t = 0; t < tokens; t++) {
      int32_t begin = 0;
      if (Q8_RECORD > Q8_STEPS * 4 + 4) memcpy(&begin, x + ((Q8_STEPS + 1) * tokens + t) * 4, 4);
      Q8_UNROLL for (int n = 0; n < count; n++) dot[t][n] = begin - (q8_ints){ 0 };
    }
    /* Not unrolled: compilers would multiply ahead until they run out of registers. */
    for (int i = 0; i < Q8_STEPS; i += at_once) {
      q8_ints w[N][Q8_PARTS];
      Q8_UNROLL for (int n = 0; n < count; n++) {
        const uint8_t *at = weights + n / Q8_VECTORS * panel_bytes + n % Q8_VECTORS * Q8_WIDTH;
        if (stored) q8_prepare(q8_load(at + 32 + i / Q8_PARTS * 64), w[n]);
        else w[n][0] = q8_load(at + 64 + i * 64);
      }
      Q8_UNROLL for (int p = 0; p < at_once; p++) Q8_UNROLL for (int t = 0; t < tokens; t++) {
        int32_t step;
        memcpy(&step, x + ((i + p) * tokens + t) * 4, 4);
        Q8_UNROLL for (int n = 0; n < count; n++) dot[t][n] = q8_dot(dot[t][n], w[n][p], step - (q8_ints){ 0 });
      }
    }
    Q8_UNROLL for (int n = 0; n < count; n++) {
      const uint8_t *at = weights + n / Q8_VECTORS * panel_bytes;
      int vector = n % Q8_VECTORS;
      q8_floats scale = stored ? q8_from_bf16(at + vector * Q8_LANES * 2) : q8_load_floats(at + vector * Q8_WIDTH);
      Q8_UNROLL for (int t = 0; t < tokens; t++) {
        float x_scale;
        memcpy(&x_scale, x + (Q8_STEPS * tokens + t) * 4, 4);
        total[t][n] += __builtin_convertvector(dot[t][n], q8_floats) * (scale * x_scale);
      }
    }
  }
  Q8_UNROLL for (int t = 0; t < tokens; t++) Q8_UNROLL for (int n = 0; n < count; n++)
    q8_store_floats(sums + n / Q8_VECTORS * panel_sums + t * Q8_ROWS + n % Q8_VECTORS * Q8_LANES, total[t][n]);
}

#endif
