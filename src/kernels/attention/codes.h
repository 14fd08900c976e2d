/*
 * Few queries on CACHE_Q8, in integers: the cache's int8 codes become int16 in registers and meet queries, then weights,
 * of 15 bits, two products to an instruction's lane. A sum is exact: 32 or 64 products of 7 and 15 bits fit 32.
 * Pairs of int16 that meet codes are kept as fours are: all low pairs (the first and third of each four), then all high
 * pairs (the second and fourth), because a four's two are taken as even and odd bytes.
 */
#ifndef TUTTI_ATTENTION_CODES_H
#define TUTTI_ATTENTION_CODES_H
#include "pages.h"

enum { LARGEST_CODE = 32767, CODE_ROWS = 8, GROUP_FOURS = CACHE_GROUP / 4 };
/* Of a row and 32 dimensions of queries; of a row's weights for a page. */
enum { QUERY_PAIRS = CACHE_GROUP / 2, WEIGHT_PAIRS = PAGE_TOKENS / 2 };

typedef int16_t vs __attribute__((vector_size(4 * VL), may_alias));

/* sums + low · a + high · b: products of 16 bits, the two of each lane of 32 added to it. */
INLINE vi add_pairs(vi sums, vs low, vi a, vs high, vi b) {
#if defined __AVX512VNNI__ && VL == 16
  const __m512i first = _mm512_dpwssd_epi32((__m512i)sums, (__m512i)low, (__m512i)a);
  return (vi)_mm512_dpwssd_epi32(first, (__m512i)high, (__m512i)b);
#elif defined __AVX2__ && VL == 8
  return sums + ((vi)_mm256_madd_epi16((__m256i)low, (__m256i)a) + (vi)_mm256_madd_epi16((__m256i)high, (__m256i)b));
#elif defined __SSE2__ && VL == 4
  return sums + ((vi)_mm_madd_epi16((__m128i)low, (__m128i)a) + (vi)_mm_madd_epi16((__m128i)high, (__m128i)b));
#else
  sums += ((vi)low << 16 >> 16) * (a << 16 >> 16) + ((vi)low >> 16) * (a >> 16);
  return sums + ((vi)high << 16 >> 16) * (b << 16 >> 16) + ((vi)high >> 16) * (b >> 16);
#endif
}

/*
 * sums [rows] of VL columns: `fours` fours of codes, `codes_stride` bytes apart, and rows of pairs `stride` apart, whose
 * high ones begin in the middle.
 */
INLINE void sum_codes(int rows, int fours, const int32_t *pairs, int stride, const uint8_t *codes, int64_t codes_stride,
                      vi sums[CODE_ROWS]) {
  UNROLL
  for (int r = 0; r < rows; r++) sums[r] = (vi){0};
  for (int n = 0; n < fours; n++) {
    const vs four = (vs)*(const vu_at *)(codes + n * codes_stride), low = four << 8 >> 8, high = four >> 8;
    UNROLL
    for (int r = 0; r < rows; r++) {
      const int32_t *row = pairs + r * stride + n;
      sums[r] = add_pairs(sums[r], low, row[0] - (vi){0}, high, row[stride / 2] - (vi){0});
    }
  }
}

/* What is read next is prefetched evenly: so many bytes for each group of VL columns. */
typedef struct { const uint8_t *at; int64_t step; } code_prefetch;

INLINE void prefetch_step(code_prefetch *ahead) {
  for (int64_t n = 0; n < ahead->step; n += 64) __builtin_prefetch(ahead->at + n, 0, 2);
  ahead->at += ahead->step;
}

/* Steps of prefetch_step that scores and sums of so many rows over a page take. */
static int64_t code_steps(int rows, int head_dim) {
  const int blocks = rows / CODE_ROWS + __builtin_popcount(rows % CODE_ROWS);
  return (int64_t)blocks * (PAGE_TOKENS + head_dim) / VL;
}

/* A number of less than 2^22 plus this has the number, rounded, in its low bits, as 16 bits have it. */
static const float round_to_code = 12582912;

/* Query codes [groups][rows][QUERY_PAIRS] of x [rows][head_dim], and what one code of each row is worth. */
static void code_queries(int rows, int head_dim, const float *x, int32_t *pairs, float *units) {
  for (int r = 0; r < rows; r++, x += head_dim) {
    vf largest = {0}, unknown = {0};
    for (int i = 0; i < head_dim; i += VL) {
      const vf numbers = vf_load(x + i);
      largest = vf_max(largest, vf_max(numbers, -numbers));
      unknown += numbers * 0.0f; /* what is not a number, or infinite, makes the whole row so */
    }
    const float size = vf_max_of(largest), inverse = size < 0x1p-100f ? 0 : LARGEST_CODE / size;
    units[r] = (size < 0x1p-100f ? 1 : size / LARGEST_CODE) + vf_sum(unknown);
    for (int n = 0; n < cache_fours(head_dim); n += VL / 4) {
      uint32_t codes[VL];
      vf_store(codes, vf_load(x + 4 * n) * inverse + round_to_code);
      for (int i = 0; i < VL / 4; i++) {
        int32_t *row = pairs + ((n + i) / GROUP_FOURS * rows + r) * QUERY_PAIRS + (n + i) % GROUP_FOURS;
        row[0] = (int32_t)((codes[4 * i] & 0xffff) | codes[4 * i + 2] << 16);
        row[GROUP_FOURS] = (int32_t)((codes[4 * i + 1] & 0xffff) | codes[4 * i + 3] << 16);
      }
    }
  }
}

/* Rows in blocks of 8, 4, 2 and 1. */
static int code_block(int rows) { return rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1; }

/* scores [rows][PAGE_TOKENS], in the rows' units, of a page's tokens; `all_rows` are between two groups' pairs. */
INLINE void score_block(int rows, const int32_t *pairs, int all_rows, int head_dim, const uint8_t *keys, float *scores,
                        code_prefetch *ahead) {
  const uint8_t *codes = keys + 2 * PAGE_TOKENS * cache_groups(head_dim);
  for (int column = 0; column < PAGE_TOKENS; column += VL) {
    prefetch_step(ahead);
    for (int group = 0, left = cache_fours(head_dim); left > 0; group++, left -= GROUP_FOURS) {
      vi sums[CODE_ROWS];
      sum_codes(rows, left < GROUP_FOURS ? left : GROUP_FOURS, pairs + group * all_rows * QUERY_PAIRS, QUERY_PAIRS,
                codes + key_code(column, group * CACHE_GROUP), key_code(0, 4), sums);
      const vf scale = vf_load_bf16(keys + 2 * (group * PAGE_TOKENS + column));
      UNROLL
      for (int r = 0; r < rows; r++) {
        float *out = scores + r * PAGE_TOKENS + column;
        vf score = __builtin_convertvector(sums[r], vf) * scale;
        if (group) score += vf_load(out);
        vf_store(out, score);
      }
    }
  }
}

static void score_codes(int rows, const int32_t *pairs, int head_dim, const uint8_t *keys, float *scores,
                        code_prefetch *ahead) {
  for (int n, r = 0; r < rows; r += n, pairs += n * QUERY_PAIRS, scores += n * PAGE_TOKENS) {
    n = code_block(rows - r);
    switch (n) {
      case 8: score_block(8, pairs, rows, head_dim, keys, scores, ahead); break;
      case 4: score_block(4, pairs, rows, head_dim, keys, scores, ahead); break;
      case 2: score_block(2, pairs, rows, head_dim, keys, scores, ahead); break;
      default: score_block(1, pairs, rows, head_dim, keys, scores, ahead);
    }
  }
}

/*
 * What a page's weights are multiplied by before they are rounded, [groups][PAGE_TOKENS]: the scales of its values, so
 * that a weight of 1 and the largest scale become LARGEST_CODE; 0 outside begin … end-1, whatever lies there.
 * units [groups]: what one code is worth.
 */
static void scale_weights(const uint8_t *values, int head_dim, int begin, int end, float *factors, float *units) {
  for (int group = 0; group < cache_groups(head_dim); group++, values += 2 * PAGE_TOKENS, factors += PAGE_TOKENS) {
    for (int i = 0; i < PAGE_TOKENS; i += VL) vf_store(factors + i, vf_load_bf16(values + 2 * i));
    for (int i = 0; i < begin; i++) factors[i] = 0;
    for (int i = end; i < PAGE_TOKENS; i++) factors[i] = 0;
    vf highest = vf_splat(0x1p-100f);
    for (int i = 0; i < PAGE_TOKENS; i += VL) highest = vf_max(highest, vf_load(factors + i));
    const float largest = vf_max_of(highest), inverse = LARGEST_CODE / largest;
    for (int i = 0; i < PAGE_TOKENS; i += VL) vf_store(factors + i, vf_load(factors + i) * inverse);
    units[group] = largest / LARGEST_CODE;
  }
}

/* Scores of row r become weight codes [groups][rows][WEIGHT_PAIRS], relative to max; gives the weights' own sum. */
INLINE float soften_codes(const float *row, float unit, float max, int groups, const float *factors, int rows, int r,
                          int32_t *pairs) {
  vf total = {0};
  for (int i = 0; i < PAGE_QUARTER; i += VL) {
    vf weights[4];
    UNROLL
    for (int n = 0; n < 4; n++) {
      weights[n] = vf_exp2(vf_load(row + n * PAGE_QUARTER + i) * unit - max);
      total += weights[n];
    }
    for (int group = 0; group < groups; group++) {
      int32_t *out = pairs + (group * rows + r) * WEIGHT_PAIRS + i;
      vi codes[4];
      UNROLL
      for (int n = 0; n < 4; n++)
        codes[n] = (vi)(weights[n] * vf_load(factors + group * PAGE_TOKENS + n * PAGE_QUARTER + i) + round_to_code);
      vf_store(out, (vf)((codes[0] & 0xffff) | codes[2] << 16));
      vf_store(out + PAGE_QUARTER, (vf)((codes[1] & 0xffff) | codes[3] << 16));
    }
  }
  return vf_sum(total);
}

/* sums [rows][head_dim] += weights · values, whose codes of a row and group are worth factors[row] · units[group]. */
INLINE void value_block(int rows, const int32_t *pairs, int all_rows, const float *factors, const float *units,
                        int head_dim, const uint8_t *values, float *sums, code_prefetch *ahead) {
  const uint8_t *codes = values + 2 * PAGE_TOKENS * cache_groups(head_dim);
  for (int column = 0; column < head_dim; column += VL) {
    prefetch_step(ahead);
    const int group = column / CACHE_GROUP;
    vi totals[CODE_ROWS];
    sum_codes(rows, PAGE_QUARTER, pairs + group * all_rows * WEIGHT_PAIRS, WEIGHT_PAIRS, codes + 4 * column,
              4 * head_dim, totals);
    UNROLL
    for (int r = 0; r < rows; r++) {
      float *out = sums + (int64_t)r * head_dim + column;
      vf_store(out, __builtin_convertvector(totals[r], vf) * (factors[r] * units[group]) + vf_load(out));
    }
  }
}

static void value_codes(int rows, const int32_t *pairs, const float *factors, const float *units, int head_dim,
                        const uint8_t *values, float *sums, code_prefetch *ahead) {
  for (int n, r = 0; r < rows; r += n, pairs += n * WEIGHT_PAIRS, factors += n, sums += (int64_t)n * head_dim) {
    n = code_block(rows - r);
    switch (n) {
      case 8: value_block(8, pairs, rows, factors, units, head_dim, values, sums, ahead); break;
      case 4: value_block(4, pairs, rows, factors, units, head_dim, values, sums, ahead); break;
      case 2: value_block(2, pairs, rows, factors, units, head_dim, values, sums, ahead); break;
      default: value_block(1, pairs, rows, factors, units, head_dim, values, sums, ahead);
    }
  }
}

#endif
