/*
 * Pages of the cache: one key/value head's part of a page, how it is written, and how it becomes floats.
 *
 * CACHE_BF16 is described in cpu.h. CACHE_Q8 has int8 codes, and before the keys' as before the values' their scales,
 * bfloat16, [⌈headDim / 32⌉][PAGE_TOKENS]: one for each 32 dimensions of a token. Codes lie in fours, so that integer
 * products can sum within each four while many fours lie side by side:
 *   keys    [⌈headDim / 4⌉][PAGE_TOKENS][4]: four dimensions that follow each other, those beyond headDim are zero
 *   values  [PAGE_TOKENS / 4][headDim][4]: four tokens that are PAGE_TOKENS / 4 apart
 */
#ifndef TUTTI_ATTENTION_PAGES_H
#define TUTTI_ATTENTION_PAGES_H
#include <math.h>
#include "../cpu.h"
#include "../simd.h"

enum { CACHE_GROUP = 32, PAGE_QUARTER = PAGE_TOKENS / 4 };

static int cache_groups(int head_dim) { return (head_dim + CACHE_GROUP - 1) / CACHE_GROUP; }
static int cache_fours(int head_dim) { return (head_dim + 3) / 4; }

/* Bytes of one head's keys; its values take as many. */
static int64_t cache_half_bytes(cache_type type, int head_dim) {
  if (type == CACHE_BF16) return (int64_t)2 * PAGE_TOKENS * head_dim;
  return (int64_t)PAGE_TOKENS * (2 * cache_groups(head_dim) + 4 * cache_fours(head_dim));
}

static int64_t cache_page_bytes(cache_type type, int num_kv_heads, int head_dim) {
  return 2 * num_kv_heads * cache_half_bytes(type, head_dim);
}

/* Where the codes of a CACHE_Q8 half lie. */
static uint8_t *cache_codes(uint8_t *half, int head_dim) { return half + 2 * PAGE_TOKENS * cache_groups(head_dim); }

/* Which code is number i of a token's key or value. */
INLINE int64_t key_code(int slot, int i) { return ((int64_t)i / 4 * PAGE_TOKENS + slot) * 4 + i % 4; }
INLINE int64_t value_code(int head_dim, int slot, int i) {
  return ((int64_t)(slot % PAGE_QUARTER) * head_dim + i) * 4 + slot / PAGE_QUARTER;
}

static void write_words(uint8_t *half, int head_dim, int64_t at, int64_t stride, const float *x) {
  uint16_t *words = (uint16_t *)half + at;
  for (int i = 0; i < head_dim; i++) words[i * stride] = float_to_bf16(x[i]);
}

static void write_codes(uint8_t *half, int head_dim, int slot, bool value, const float *x) {
  int8_t *codes = (int8_t *)cache_codes(half, head_dim);
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
      codes[value ? value_code(head_dim, slot, i) : key_code(slot, i)] =
        code >= -127 && code <= 127 ? (int8_t)code : 0; /* not a number: 0 */
    }
  }
  if (!value)
    for (int i = head_dim; i % 4; i++) codes[key_code(slot, i)] = 0;
}

static void write_token(cache_type type, uint8_t *head, int head_dim, int slot, const float *key, const float *value) {
  uint8_t *values = head + cache_half_bytes(type, head_dim);
  if (type == CACHE_BF16) {
    write_words(head, head_dim, slot, PAGE_TOKENS, key);
    write_words(values, head_dim, (int64_t)slot * head_dim, 1, value);
  } else {
    write_codes(head, head_dim, slot, false, key);
    write_codes(values, head_dim, slot, true, value);
  }
}

/* The words of a token, `stride` apart in a page, to where bytes lie one after the other, or back; the end of these. */
static uint8_t *move_words(uint16_t *words, int64_t stride, int count, uint8_t *bytes, bool into_page) {
  for (int i = 0; i < count; i++, bytes += 2) {
    if (into_page) memcpy(words + i * stride, bytes, 2);
    else memcpy(bytes, words + i * stride, 2);
  }
  return bytes;
}

/* The codes of a token; values have zeros behind them, so that both halves take as many bytes. */
static uint8_t *move_codes(uint8_t *codes, int head_dim, int slot, bool value, uint8_t *bytes, bool into_page) {
  for (int i = 0; i < 4 * cache_fours(head_dim); i++, bytes++) {
    uint8_t *code = codes + (value ? value_code(head_dim, slot, i) : key_code(slot, i));
    if (value && i >= head_dim) *bytes = into_page ? *bytes : 0;
    else if (into_page) *code = *bytes;
    else *bytes = *code;
  }
  return bytes;
}

/*
 * Tokens of a page from slot `begin` up to `end` to bytes, or back: token by token, head by head, key and value, each with
 * its scales first. A token takes a PAGE_TOKENS-th of the page's bytes. No other slot is touched.
 */
static void move_tokens(cache_type type, int num_kv_heads, int head_dim, uint8_t *page, int begin, int end,
                        uint8_t *bytes, bool into_page) {
  const int64_t half_bytes = cache_half_bytes(type, head_dim);
  for (int slot = begin; slot < end; slot++)
    for (int n = 0; n < 2 * num_kv_heads; n++) {
      uint8_t *half = page + n * half_bytes;
      const bool value = n % 2 == 1;
      uint16_t *words = (uint16_t *)half;
      if (type == CACHE_BF16) {
        words += value ? slot * head_dim : slot;
        bytes = move_words(words, value ? 1 : PAGE_TOKENS, head_dim, bytes, into_page);
      } else {
        bytes = move_words(words + slot, PAGE_TOKENS, cache_groups(head_dim), bytes, into_page);
        bytes = move_codes(cache_codes(half, head_dim), head_dim, slot, value, bytes, into_page);
      }
    }
}

/* Codes of VL fours as floats: the first of each four, the second, … */
INLINE void vf_load_fours(const uint8_t *at, vf out[4]) {
  const vi fours = (vi)*(const vu_at *)at;
  out[0] = __builtin_convertvector(fours << 24 >> 24, vf);
  out[1] = __builtin_convertvector(fours << 16 >> 24, vf);
  out[2] = __builtin_convertvector(fours << 8 >> 24, vf);
  out[3] = __builtin_convertvector(fours >> 24, vf);
}

/* Keys of a head as floats [head_dim][PAGE_TOKENS]; rows up to a whole four are written. */
static void read_keys(cache_type type, const uint8_t *half, int head_dim, float *out) {
  if (type == CACHE_BF16) {
    for (int64_t i = 0; i < (int64_t)head_dim * PAGE_TOKENS; i += VL) vf_store(out + i, vf_load_bf16(half + 2 * i));
    return;
  }
  const uint8_t *codes = cache_codes((uint8_t *)half, head_dim);
  for (int i = 0; i < head_dim; i += 4)
    for (int t = 0; t < PAGE_TOKENS; t += VL) {
      const vf scale = vf_load_bf16(half + 2 * (i / CACHE_GROUP * PAGE_TOKENS + t));
      vf rows[4];
      vf_load_fours(codes + key_code(t, i), rows);
      UNROLL
      for (int n = 0; n < 4; n++) vf_store(out + (int64_t)(i + n) * PAGE_TOKENS + t, rows[n] * scale);
    }
}

/* Values of tokens begin … end-1 of a head as floats [PAGE_TOKENS][width], columns beyond head_dim zero. */
static void read_values(cache_type type, const uint8_t *half, int head_dim, int begin, int end, int width, float *out) {
  const uint16_t *words = (const uint16_t *)half;
  const int8_t *codes = (const int8_t *)cache_codes((uint8_t *)half, head_dim);
  for (int t = begin; t < end; t++) {
    float *row = out + (int64_t)t * width;
    int i = 0;
    if (type == CACHE_BF16) {
      for (; head_dim - i >= VL; i += VL) vf_store(row + i, vf_load_bf16(words + (int64_t)t * head_dim + i));
      for (; i < head_dim; i++) row[i] = bf16_to_float(words[(int64_t)t * head_dim + i]);
    } else {
      for (; head_dim - i >= VL; i += VL) {
        const vi fours = (vi)*(const vu_at *)(codes + value_code(head_dim, t % PAGE_QUARTER, i));
        const vi rows = fours << (24 - t / PAGE_QUARTER * 8) >> 24;
        vf_store(row + i, __builtin_convertvector(rows, vf) * bf16_to_float(words[i / CACHE_GROUP * PAGE_TOKENS + t]));
      }
      for (; i < head_dim; i++)
        row[i] = bf16_to_float(words[i / CACHE_GROUP * PAGE_TOKENS + t]) * codes[value_code(head_dim, t, i)];
    }
    for (; i < width; i++) row[i] = 0;
  }
}

#endif
