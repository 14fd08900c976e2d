/*
 * Pages of the cache: one key/value head's part of a page, how it is written, and how it becomes floats.
 *
 * CACHE_BF16 is described in cpu.h. CACHE_Q8 has int8 codes where CACHE_BF16 has words, and before the keys as before
 * the values their scales, bfloat16, [⌈headDim / 32⌉][PAGE_TOKENS]: one for each 32 dimensions of a token. Scales of
 * many tokens lie side by side: tokens are columns for keys, and weights are scaled before they meet values.
 */
#ifndef TUTTI_ATTENTION_PAGES_H
#define TUTTI_ATTENTION_PAGES_H
#include <math.h>
#include "../cpu.h"
#include "../simd.h"

enum { CACHE_GROUP = 32 };

static int cache_groups(int head_dim) { return (head_dim + CACHE_GROUP - 1) / CACHE_GROUP; }

/* Bytes of one head's keys; its values take as many. */
static int64_t cache_half_bytes(cache_type type, int head_dim) {
  const int64_t codes = (int64_t)PAGE_TOKENS * head_dim;
  return type == CACHE_BF16 ? 2 * codes : 2 * PAGE_TOKENS * cache_groups(head_dim) + codes;
}

static int64_t cache_page_bytes(cache_type type, int num_kv_heads, int head_dim) {
  return 2 * num_kv_heads * cache_half_bytes(type, head_dim);
}

/* Where the codes of a CACHE_Q8 half lie. */
static uint8_t *cache_codes(uint8_t *half, int head_dim) { return half + 2 * PAGE_TOKENS * cache_groups(head_dim); }

/* Stores x [head_dim] as token `slot`: its numbers lie `stride` apart, beginning at `at` numbers. */
static void write_half(cache_type type, uint8_t *half, int head_dim, int slot, int64_t at, int64_t stride,
                       const float *x) {
  if (type == CACHE_BF16) {
    uint16_t *words = (uint16_t *)half + at;
    for (int i = 0; i < head_dim; i++) words[i * stride] = float_to_bf16(x[i]);
    return;
  }
  int8_t *codes = (int8_t *)cache_codes(half, head_dim) + at;
  for (int begin = 0; begin < head_dim; begin += CACHE_GROUP) {
    const int end = begin + CACHE_GROUP < head_dim ? begin + CACHE_GROUP : head_dim;
    float largest = 0;
    for (int i = begin; i < end; i++) largest = fmaxf(largest, fabsf(x[i]));
    /* Rounded up, so that no code exceeds 127: a positive float's successor in bfloat16 is the next word. */
    float wanted = largest / 127;
    uint16_t word = float_to_bf16(wanted);
    if (bf16_to_float(word) < wanted) word++;
    ((uint16_t *)half)[begin / CACHE_GROUP * PAGE_TOKENS + slot] = word;
    const float scale = bf16_to_float(word), inverse = scale >= 0x1p-120f ? 1 / scale : 0;
    for (int i = begin; i < end; i++) {
      float code = rintf(x[i] * inverse);
      codes[i * stride] = code >= -127 && code <= 127 ? (int8_t)code : 0; /* not a number: 0 */
    }
  }
}

static void write_token(cache_type type, uint8_t *head, int head_dim, int slot, const float *key, const float *value) {
  write_half(type, head, head_dim, slot, slot, PAGE_TOKENS, key);
  write_half(type, head + cache_half_bytes(type, head_dim), head_dim, slot, (int64_t)slot * head_dim, 1, value);
}

INLINE float number_at(cache_type type, const uint8_t *half, int head_dim, int slot, int i, int64_t at) {
  if (type == CACHE_BF16) return bf16_to_float(((const uint16_t *)half)[at]);
  const uint16_t scale = ((const uint16_t *)half)[i / CACHE_GROUP * PAGE_TOKENS + slot];
  return bf16_to_float(scale) * (float)((const int8_t *)cache_codes((uint8_t *)half, head_dim))[at];
}

/* Keys of a head as floats [head_dim][PAGE_TOKENS]. */
static void read_keys(cache_type type, const uint8_t *half, int head_dim, float *out) {
  if (type == CACHE_BF16) {
    for (int64_t i = 0; i < (int64_t)head_dim * PAGE_TOKENS; i += VL) vf_store(out + i, vf_load_bf16(half + 2 * i));
    return;
  }
  for (int i = 0; i < head_dim; i++)
    for (int t = 0; t < PAGE_TOKENS; t++)
      out[i * PAGE_TOKENS + t] = number_at(type, half, head_dim, t, i, (int64_t)i * PAGE_TOKENS + t);
}

/* Values of tokens begin … end-1 of a head as floats [PAGE_TOKENS][width], columns beyond head_dim zero. */
static void read_values(cache_type type, const uint8_t *half, int head_dim, int begin, int end, int width, float *out) {
  for (int t = begin; t < end; t++) {
    float *row = out + (int64_t)t * width;
    int i = 0;
    if (type == CACHE_BF16)
      for (; head_dim - i >= VL; i += VL) vf_store(row + i, vf_load_bf16(half + 2 * ((int64_t)t * head_dim + i)));
    for (; i < head_dim; i++) row[i] = number_at(type, half, head_dim, t, i, (int64_t)t * head_dim + i);
    for (; i < width; i++) row[i] = 0;
  }
}

#endif
