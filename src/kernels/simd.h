/*
 * Vectors of VL floats through the compiler's own vector types: the same source for SSE2, AVX2, AVX-512 and NEON.
 * Products and sums are written a * b + c; the compiler contracts them to fused multiply-adds where there are any.
 * A scalar meets a vector as itself in every lane.
 */
#ifndef TUTTI_SIMD_H
#define TUTTI_SIMD_H
#include <stdint.h>
#include <string.h>
#if defined __x86_64__
#include <immintrin.h>
#endif

#ifndef VL
#if defined __AVX512F__
#define VL 16
#elif defined __AVX2__
#define VL 8
#else
#define VL 4
#endif
#endif

#define INLINE static inline __attribute__((always_inline, unused))

/* Before a loop of few and constant turns over an array of vectors: unrolled, the array lies in registers. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vf __attribute__((vector_size(4 * VL), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VL), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * VL), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * VL), may_alias));

/* The same at any address. */
typedef float vf_at __attribute__((vector_size(4 * VL), may_alias, aligned(1)));
typedef uint32_t vu_at __attribute__((vector_size(4 * VL), may_alias, aligned(1)));
typedef uint16_t vh_at __attribute__((vector_size(2 * VL), may_alias, aligned(1)));

INLINE vf vf_load(const void *at) { return *(const vf_at *)at; }
INLINE void vf_store(void *at, vf x) { *(vf_at *)at = x; }
/* Subtracting 0 changes no number, not even −0: compilers see that and only broadcast. */
INLINE vf vf_splat(float x) { return x - (vf){0}; }

/* a where the mask's lane is all ones, b where it is 0. Comparisons of vectors give such masks. */
INLINE vf vf_select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

/* The greater and the less of two; b where either is not a number. */
#if defined __AVX512F__ && VL == 16
INLINE vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined __AVX2__ && VL == 8
INLINE vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#elif defined __x86_64__ && VL == 4
INLINE vf vf_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf vf_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
#else
INLINE vf vf_max(vf a, vf b) { return vf_select(a > b, a, b); }
INLINE vf vf_min(vf a, vf b) { return vf_select(a < b, a, b); }
#endif

/* Sum and greatest of all lanes, in pairs: each lane meets the one 8, 4, 2, 1 further. */
#if VL == 16
#define VF_TURNED(x, by) \
  __builtin_shufflevector(x, x, by, by + 1, by + 2, by + 3, by + 4, by + 5, by + 6, by + 7, (by + 8) % 16, \
                          (by + 9) % 16, (by + 10) % 16, (by + 11) % 16, (by + 12) % 16, (by + 13) % 16, \
                          (by + 14) % 16, (by + 15) % 16)
#elif VL == 8
#define VF_TURNED(x, by) \
  __builtin_shufflevector(x, x, by, by + 1, by + 2, by + 3, (by + 4) % 8, (by + 5) % 8, (by + 6) % 8, (by + 7) % 8)
#else
#define VF_TURNED(x, by) __builtin_shufflevector(x, x, by, by + 1, (by + 2) % 4, (by + 3) % 4)
#endif

INLINE float vf_sum(vf x) {
#if VL == 16
  x += VF_TURNED(x, 8);
#endif
#if VL >= 8
  x += VF_TURNED(x, 4);
#endif
  x += VF_TURNED(x, 2);
  return x[0] + x[1];
}

INLINE float vf_max_of(vf x) {
#if VL == 16
  x = vf_max(x, VF_TURNED(x, 8));
#endif
#if VL >= 8
  x = vf_max(x, VF_TURNED(x, 4));
#endif
  x = vf_max(x, VF_TURNED(x, 2));
  return x[0] > x[1] ? x[0] : x[1];
}

/* ---- bfloat16: the upper half of a float32 */

INLINE float bf16_to_float(uint16_t word) {
  uint32_t bits = (uint32_t)word << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

/* Rounds to nearest even; what is not a number stays so. */
INLINE uint16_t float_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* VL words at any address. */
INLINE vf vf_load_bf16(const void *at) { return (vf)(__builtin_convertvector(*(const vh_at *)at, vu) << 16); }

/* 2 · VL words at any address, the even ones and the odd ones: cheaper than two loads in order. */
typedef struct { vf even, odd; } vf_pair;
INLINE vf_pair vf_load_bf16_pair(const void *at) {
  vu words = *(const vu_at *)at;
  return (vf_pair){(vf)(words << 16), (vf)(words & 0xffff0000u)};
}

/* ---- exponentials: relative error below 3e-7, exact at 0; below 2^-126.5 they are 0; what is not a number stays so */

/* A number plus this is rounded to a whole n; the low bits of the sum are then n + 127, a float's exponent. */
#define EXP2_ROUND 12583039.0f

/* 2^(n + f) for |f| ≤ 1/2 and `shifted` = n + EXP2_ROUND. For n = −127 that is 0. */
INLINE vf vf_scaled_exp2(vf f, vf shifted) {
  vf p = f * 0x1.5bb9e2p-10f + 0x1.3ceab6p-7f; /* minimax for the relative error: 9e-8 */
  p = p * f + 0x1.c6b754p-5f;
  p = p * f + 0x1.ebf9bcp-3f;
  p = p * f + 0x1.62e42ap-1f;
  p = p * f + 1.0f;
  return p * (vf)((vi)shifted << 23);
}

/* 2^x for x ≤ 127. */
INLINE vf vf_exp2(vf x) {
  vf y = vf_max(vf_splat(-127), x);
  vf shifted = y + EXP2_ROUND;
  return vf_scaled_exp2(y - (shifted - EXP2_ROUND), shifted);
}

/* e^x; above e^88 that. ln 2 is taken off in two parts, the first short enough that its products are exact. */
INLINE vf vf_exp(vf x) {
  const float log2e = 0x1.715476p+0f, ln2 = 0x1.62e4p-1f, ln2_rest = 0x1.7f7d1cp-20f;
  vf y = vf_max(vf_splat(-88), vf_min(vf_splat(88), x));
  vf shifted = y * log2e + EXP2_ROUND, n = shifted - EXP2_ROUND;
  vf rest = (y - n * ln2) - n * ln2_rest;
  return vf_scaled_exp2(rest * log2e, shifted);
}

/* 1 / (1 + e^-x) */
INLINE vf vf_sigmoid(vf x) { return 1.0f / (1.0f + vf_exp(-x)); }

#endif
