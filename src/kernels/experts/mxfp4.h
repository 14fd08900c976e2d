/*
 * MXFP4 weights as the checkpoint stores them, met where they lie by int8 activations. Rows are lanes: a vector holds
 * four columns of each of LANES rows, so that sums never have to be added up across a vector (but for the fewest tokens
 * on AVX2, rows.h). The sum of a group is an exact integer everywhere: decode, prefill and batches differ only in the
 * order in which groups are added.
 *
 * A group of 32 columns is 16 bytes, even columns in the low halves, odd ones in the high halves. LANES rows × 16
 * bytes, transposed in registers by dwords, give eight vectors of codes: columns 0 2 4 6, … 24 … 30, then 1 3 5 7, …
 * Activations are kept in that order (activations.h).
 *
 * What an instruction set offers:
 *   load_codes   the codes of a group of LANES rows: doubled values −12 … 12, plus CODE_OFFSET where products are
 *                unsigned × signed
 *   load_scales  one to four neighbouring groups' scales of LANES rows, as bytes of a dword; scale_of picks one:
 *                2^(s − 127), but 0 where s is 0
 *   dot_begin, dot_step, dot_end   the exact integer sum of a group's 32 products, as float
 */
#ifndef TUTTI_MXFP4_H
#define TUTTI_MXFP4_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "../simd.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { MXFP4_COLS = 32, MXFP4_BYTES = 16 };

/* Activations of one group. `offset` undoes CODE_OFFSET: as a dword, or as two words for the even and the odd pairs. */
typedef struct group_q8 {
  int8_t codes[MXFP4_COLS];
  float scale; /* of half a unit, since weights' codes are doubled */
  union { int32_t dword; int16_t words[2]; } offset;
} group_q8;

INLINE int32_t dword_at(const void *p) { int32_t v; memcpy(&v, p, 4); return v; }

/* One to four bytes as a dword, without reading past them: a mapped file may end there. */
INLINE int32_t bytes_at(const uint8_t *p, int count) {
  if (count == 4) return dword_at(p);
  uint32_t v = p[0];
  if (count > 1) v |= (uint32_t)p[1] << 8;
  if (count > 2) v |= (uint32_t)p[2] << 16;
  return (int32_t)v;
}

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

enum { LANES = 16, CODE_OFFSET = 12, OFFSET_WORDS = 0 };
typedef __m512 lane_floats;
typedef __m512i lane_codes, lane_dot, lane_scales;

INLINE void load_codes(const uint8_t *p, int64_t stride, lane_codes w[8]) {
  __m512i rows[4];
  for (int r = 0; r < 4; r++) {
#define AT(row) _mm_loadu_si128((const void *)(p + (row) * stride))
    rows[r] = _mm512_inserti32x4(_mm512_castsi128_si512(AT(r)), AT(r + 4), 1);
    rows[r] = _mm512_inserti32x4(_mm512_inserti32x4(rows[r], AT(r + 8), 2), AT(r + 12), 3);
#undef AT
  }
  const __m512i ab = _mm512_unpacklo_epi32(rows[0], rows[1]), cd = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i ef = _mm512_unpackhi_epi32(rows[0], rows[1]), gh = _mm512_unpackhi_epi32(rows[2], rows[3]);
  const __m512i packed[4] = {_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd),
                             _mm512_unpacklo_epi64(ef, gh), _mm512_unpackhi_epi64(ef, gh)};
  /* vpermb looks at six bits of an index: the table stands there four times, and nothing needs masking. */
  const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  const __m512i table = _mm512_broadcast_i32x4(values);
  for (int i = 0; i < 4; i++) {
    w[i] = _mm512_permutexvar_epi8(packed[i], table);
    w[i + 4] = _mm512_permutexvar_epi8(_mm512_srli_epi16(packed[i], 4), table);
  }
}

INLINE lane_scales load_scales(const uint8_t *p, int64_t stride, int count) {
#define AT(r) bytes_at(p + (r) * stride, count)
  return _mm512_setr_epi32(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7), AT(8), AT(9), AT(10), AT(11),
                           AT(12), AT(13), AT(14), AT(15));
#undef AT
}
INLINE lane_floats scale_of(lane_scales s, int group) {
  const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(s, (unsigned)(8 * group)), _mm512_set1_epi32(255));
  return _mm512_castsi512_ps(_mm512_slli_epi32(byte, 23));
}

INLINE lane_dot dot_begin(const group_q8 *x) { return _mm512_set1_epi32(x->offset.dword); }
INLINE lane_dot dot_step(lane_dot sum, lane_codes w, const int8_t *x) {
  return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(dword_at(x)));
}
INLINE lane_floats dot_end(lane_dot sum) { return _mm512_cvtepi32_ps(sum); }

#elif defined(__AVX2__)

enum { LANES = 8, CODE_OFFSET = 12, OFFSET_WORDS = 1 };
typedef __m256 lane_floats;
typedef __m256i lane_codes, lane_dot, lane_scales;

INLINE void load_codes(const uint8_t *p, int64_t stride, lane_codes w[8]) {
  __m256i rows[4];
  for (int r = 0; r < 4; r++) {
    const __m128i low = _mm_loadu_si128((const void *)(p + r * stride));
    const __m128i high = _mm_loadu_si128((const void *)(p + (r + 4) * stride));
    rows[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
  const __m256i ab = _mm256_unpacklo_epi32(rows[0], rows[1]), cd = _mm256_unpacklo_epi32(rows[2], rows[3]);
  const __m256i ef = _mm256_unpackhi_epi32(rows[0], rows[1]), gh = _mm256_unpackhi_epi32(rows[2], rows[3]);
  const __m256i packed[4] = {_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd),
                             _mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh)};
  const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  const __m256i table = _mm256_broadcastsi128_si256(values);
  const __m256i half = _mm256_set1_epi8(15);
  for (int i = 0; i < 4; i++) {
    w[i] = _mm256_shuffle_epi8(table, _mm256_and_si256(packed[i], half));
    w[i + 4] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(packed[i], 4), half));
  }
}

INLINE lane_scales load_scales(const uint8_t *p, int64_t stride, int count) {
#define AT(r) bytes_at(p + (r) * stride, count)
  return _mm256_setr_epi32(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7));
#undef AT
}
INLINE lane_floats scale_of(lane_scales s, int group) {
  const __m256i byte = _mm256_and_si256(_mm256_srli_epi32(s, 8 * group), _mm256_set1_epi32(255));
  return _mm256_castsi256_ps(_mm256_slli_epi32(byte, 23));
}

/* Eight products of a pair of columns, |Σ| ≤ 8 · 2 · 12 · 127 without the offset, fit a word; with it they wrap, and
 * the offset's words wrap them back. */
INLINE lane_dot dot_begin(const group_q8 *x) { return _mm256_set1_epi32(dword_at(&x->offset)); }
INLINE lane_dot dot_step(lane_dot sum, lane_codes w, const int8_t *x) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, _mm256_set1_epi32(dword_at(x))));
  __asm__("" : "+x"(sum)); /* or gcc makes trees of these sums, whose leaves need more registers than there are */
  return sum;
}
INLINE lane_floats dot_end(lane_dot sum) {
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
}

#elif defined(__aarch64__)

enum { LANES = 4, CODE_OFFSET = 0, OFFSET_WORDS = 0 };
typedef float32x4_t lane_floats;
typedef int8x16_t lane_codes;
typedef int32x4_t lane_dot;
typedef uint32x4_t lane_scales;

INLINE void load_codes(const uint8_t *p, int64_t stride, lane_codes w[8]) {
  uint32x4_t rows[4];
  for (int r = 0; r < 4; r++) rows[r] = vreinterpretq_u32_u8(vld1q_u8(p + r * stride));
  const uint64x2_t ab = vreinterpretq_u64_u32(vtrn1q_u32(rows[0], rows[1]));
  const uint64x2_t cd = vreinterpretq_u64_u32(vtrn1q_u32(rows[2], rows[3]));
  const uint64x2_t ef = vreinterpretq_u64_u32(vtrn2q_u32(rows[0], rows[1]));
  const uint64x2_t gh = vreinterpretq_u64_u32(vtrn2q_u32(rows[2], rows[3]));
  const uint64x2_t packed[4] = {vtrn1q_u64(ab, cd), vtrn1q_u64(ef, gh), vtrn2q_u64(ab, cd), vtrn2q_u64(ef, gh)};
  static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const int8x16_t table = vld1q_s8(values);
  for (int i = 0; i < 4; i++) {
    const uint8x16_t bytes = vreinterpretq_u8_u64(packed[i]);
    w[i] = vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)));
    w[i + 4] = vqtbl1q_s8(table, vshrq_n_u8(bytes, 4));
  }
}

INLINE lane_scales load_scales(const uint8_t *p, int64_t stride, int count) {
  return (lane_scales){(uint32_t)bytes_at(p, count), (uint32_t)bytes_at(p + stride, count),
                       (uint32_t)bytes_at(p + 2 * stride, count), (uint32_t)bytes_at(p + 3 * stride, count)};
}
INLINE lane_floats scale_of(lane_scales s, int group) {
  return vreinterpretq_f32_u32((s >> (uint32_t)(8 * group) & 255) << 23);
}

INLINE lane_dot dot_begin(const group_q8 *x) { (void)x; return vdupq_n_s32(0); }
INLINE lane_dot dot_step(lane_dot sum, lane_codes w, const int8_t *x) {
  const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(dword_at(x)));
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(sum, w, four);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(four)), high = vmull_high_s8(w, four);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
INLINE lane_floats dot_end(lane_dot sum) { return vcvtq_f32_s32(sum); }

#else

enum { LANES = 4, CODE_OFFSET = 0, OFFSET_WORDS = 0 };
typedef float lane_floats __attribute__((vector_size(16)));
typedef int32_t lane_dot __attribute__((vector_size(16)));
typedef lane_dot lane_scales;
typedef struct { int8_t of[LANES][4]; } lane_codes;

INLINE void load_codes(const uint8_t *p, int64_t stride, lane_codes w[8]) {
  static const int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  for (int r = 0; r < LANES; r++) {
    for (int i = 0; i < MXFP4_BYTES; i++) {
      const uint8_t byte = p[r * stride + i];
      w[i / 4].of[r][i % 4] = table[byte & 15];
      w[4 + i / 4].of[r][i % 4] = table[byte >> 4];
    }
  }
}

INLINE lane_scales load_scales(const uint8_t *p, int64_t stride, int count) {
  return (lane_scales){bytes_at(p, count), bytes_at(p + stride, count), bytes_at(p + 2 * stride, count),
                       bytes_at(p + 3 * stride, count)};
}
INLINE lane_floats scale_of(lane_scales s, int group) { return (lane_floats)((s >> 8 * group & 255) << 23); }

INLINE lane_dot dot_begin(const group_q8 *x) { (void)x; return (lane_dot){0}; }
INLINE lane_dot dot_step(lane_dot sum, lane_codes w, const int8_t *x) {
  for (int r = 0; r < LANES; r++) {
    sum[r] += w.of[r][0] * x[0] + w.of[r][1] * x[1] + w.of[r][2] * x[2] + w.of[r][3] * x[3];
  }
  return sum;
}
INLINE lane_floats dot_end(lane_dot sum) { return (lane_floats){sum[0], sum[1], sum[2], sum[3]}; }

#endif
#endif
