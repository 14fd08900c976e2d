/*
 * The one product that attention is made of: out [rows, columns] (+)= a [rows, terms] · b [terms, columns], b row by
 * row from a cache or from scratch. Queries meet keys this way (terms are dimensions, columns are tokens), and weights
 * meet values (terms are tokens, columns are dimensions).
 */
#ifndef TUTTI_ATTENTION_PRODUCT_H
#define TUTTI_ATTENTION_PRODUCT_H
#include <stdbool.h>
#include "../cpu.h"
#include "../simd.h"

/* Accumulators fill the registers: 6 × 2 of 16, 6 × 4 of 32. */
#if defined __AVX512F__ || defined __aarch64__
enum { PRODUCT_VECTORS = 4 };
#else
enum { PRODUCT_VECTORS = 2 };
#endif
enum { PRODUCT_ROWS = 6, PRODUCT_COLUMNS = PRODUCT_VECTORS * VL };

/* What b holds. Words of bfloat16 are taken in pairs: of 2 · VL columns of `out`, first the even ones, then the odd. */
typedef enum { TERMS_FLOAT, TERMS_BF16 } terms_type;

/* Where column i of such an `out` lies. */
static int paired_place(int i) { return i / (2 * VL) * (2 * VL) + i % 2 * VL + i % (2 * VL) / 2; }

INLINE void load_terms(terms_type type, const uint8_t *at, vf out[PRODUCT_VECTORS]) {
  UNROLL
  for (int i = 0; i < PRODUCT_VECTORS; i++)
    switch (type) {
      case TERMS_FLOAT: out[i] = vf_load(at + i * sizeof(vf)); break;
      case TERMS_BF16: {
        vf_pair pair = vf_load_bf16_pair(at + (i & ~1) * sizeof(vh));
        out[i] = i % 2 ? pair.odd : pair.even;
        break;
      }
    }
}

typedef struct {
  const float *a;
  int64_t a_stride;    /* in numbers */
  const uint8_t *b;
  int64_t b_stride;    /* in bytes */
  int begin, end;      /* terms */
  float *out;
  int64_t out_stride;
  bool add;            /* to what `out` holds */
  const uint8_t *ahead; /* prefetched meanwhile, `ahead_step` bytes a term and block of rows; not for TERMS_FLOAT */
  int64_t ahead_step;
} product_args;

INLINE void product_block(terms_type type, int rows, const product_args *p) {
  vf sums[PRODUCT_ROWS][PRODUCT_VECTORS] = {0};
  const float *a = p->a;
  const uint8_t *ahead = p->ahead;
  const uint8_t *b = p->b + p->begin * p->b_stride;
  for (int k = p->begin; k < p->end; k++, b += p->b_stride) {
    vf terms[PRODUCT_VECTORS];
    load_terms(type, b, terms);
    if (type != TERMS_FLOAT) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += p->ahead_step;
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
      vf factor = vf_splat(a[r * p->a_stride + k]);
      UNROLL
      for (int i = 0; i < PRODUCT_VECTORS; i++) sums[r][i] = factor * terms[i] + sums[r][i];
    }
  }
  UNROLL
  for (int r = 0; r < rows; r++) {
    float *out = p->out + r * p->out_stride;
    UNROLL
    for (int i = 0; i < PRODUCT_VECTORS; i++) {
      if (p->add) sums[r][i] += vf_load(out + i * VL);
      vf_store(out + i * VL, sums[r][i]);
    }
  }
}

/* Blocks of 6 rows, but 8 are 4 + 4: 6 + 2 would be slower. */
static int product_block_rows(int rows) {
  return rows >= PRODUCT_ROWS && rows != 8 ? PRODUCT_ROWS : rows < 4 ? rows : 4;
}

static int product_row_blocks(int rows) {
  int blocks = 0;
  for (; rows; rows -= product_block_rows(rows)) blocks++;
  return blocks;
}

/* Columns are one block; any number of rows. */
INLINE void product_rows(terms_type type, int rows, product_args p) {
  for (int n; rows; rows -= n, p.a += n * p.a_stride, p.out += n * p.out_stride) {
    n = product_block_rows(rows);
    switch (n) {
      case 6: product_block(type, 6, &p); break;
      case 4: product_block(type, 4, &p); break;
      case 3: product_block(type, 3, &p); break;
      case 2: product_block(type, 2, &p); break;
      default: product_block(type, 1, &p);
    }
    p.ahead += (p.end - p.begin) * p.ahead_step;
  }
}

static void product_float(int rows, product_args p) { product_rows(TERMS_FLOAT, rows, p); }
static void product_bf16(int rows, product_args p) { product_rows(TERMS_BF16, rows, p); }

/* Two vectors of even and odd numbers, in order. */
INLINE void vf_interleave(vf even, vf odd, vf *first, vf *second) {
#if VL == 16
  *first = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  *second = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif VL == 8
  *first = __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
  *second = __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  *first = __builtin_shufflevector(even, odd, 0, 4, 1, 5);
  *second = __builtin_shufflevector(even, odd, 2, 6, 3, 7);
#endif
}

#endif
