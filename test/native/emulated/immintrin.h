/*
 * The meaning, in plain C, of those AVX-512 and AMX instructions that linear.c uses, so that machines without them can
 * test it: compile with -I test/native/emulated and the macros that the real flags would define.
 */
#ifndef TUTTI_EMULATED_IMMINTRIN_H
#define TUTTI_EMULATED_IMMINTRIN_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef short __m512bh __attribute__((vector_size(64), may_alias));
typedef long long __m256i __attribute__((vector_size(32), may_alias));
typedef union {
  int32_t i[16];
  uint32_t u[16];
  uint16_t h[32];
  int8_t b[64];
  uint8_t c[64];
  float f[16];
  __m512i v;
  __m512 s;
  __m512bh bh;
} emulated;
#define EMULATED(member, ...) \
  { emulated r = { 0 }; __VA_ARGS__; return r member; }
#define LANES(...) for (int n = 0; n < 16; n++) __VA_ARGS__

static inline __m512i _mm512_set1_epi32(int a) EMULATED(.v, LANES(r.i[n] = a))
static inline __m512i _mm512_set4_epi32(int d, int c, int b, int a)
  EMULATED(.v, LANES(r.i[n] = (int[]){ a, b, c, d }[n % 4]))
static inline __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k,
                                        int l, int m, int o, int p, int q)
  EMULATED(.v, LANES(r.i[n] = ((int[]){ a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q })[n]))
static inline __m512i _mm512_slli_epi32(__m512i a, unsigned by)
  EMULATED(.v, emulated x = { .v = a }; LANES(r.u[n] = x.u[n] << by))
static inline __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
static inline __m512i _mm512_add_epi32(__m512i a, __m512i b)
  EMULATED(.v, emulated x = { .v = a }; emulated y = { .v = b }; LANES(r.u[n] = x.u[n] + y.u[n]))
static inline __m512i _mm512_mullo_epi32(__m512i a, __m512i b)
  EMULATED(.v, emulated x = { .v = a }; emulated y = { .v = b }; LANES(r.u[n] = x.u[n] * y.u[n]))
static inline __m512i _mm512_max_epi32(__m512i a, __m512i b)
  EMULATED(.v, emulated x = { .v = a }; emulated y = { .v = b }; LANES(r.i[n] = x.i[n] > y.i[n] ? x.i[n] : y.i[n]))
static inline int _mm512_reduce_max_epi32(__m512i a) {
  emulated x = { .v = a };
  int highest = x.i[0];
  LANES(highest = x.i[n] > highest ? x.i[n] : highest);
  return highest;
}
static inline __m512i _mm512_cvtps_epi32(__m512 a)
  EMULATED(.v, emulated x = { .s = a }; LANES(r.i[n] = fabsf(x.f[n]) < 0x1p31f ? (int32_t)rintf(x.f[n]) : INT32_MIN))
static inline __m512i _mm512_cvtepu16_epi32(__m256i a)
  EMULATED(.v, uint16_t h[16]; memcpy(h, &a, 32); LANES(r.i[n] = h[n]))
static inline __m256i _mm256_loadu_si256(const void *at) { __m256i v; memcpy(&v, at, 32); return v; }
static inline void _mm512_storeu_si512(void *at, __m512i v) { memcpy(at, &v, 64); }
static inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i b)
  EMULATED(.v, emulated x = { .v = a }; emulated y = { .v = b };
           for (int n = 0; n < 64; n++) r.c[n] = y.c[n] & 128 ? 0 : x.c[n / 16 * 16 + (y.c[n] & 15)])
static inline __m512i _mm512_permutexvar_epi16(__m512i index, __m512i a)
  EMULATED(.v, emulated x = { .v = a }; emulated y = { .v = index };
           for (int n = 0; n < 32; n++) r.h[n] = x.h[y.h[n] & 31])
static inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b)
  EMULATED(.v, emulated x = { .v = a }; emulated y = { .v = b }; r.v = sum;
           for (int n = 0; n < 64; n++) r.i[n / 4] += x.c[n] * y.b[n])

static inline uint16_t emulated_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if (isnan(f)) return (uint16_t)(u >> 16 | 64);
  if (fabsf(f) < 0x1p-126f) return (uint16_t)(u >> 16 & 0x8000);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static inline __m512bh _mm512_cvtne2ps_pbh(__m512 a, __m512 b)
  EMULATED(.bh, emulated x = { .s = a }; emulated y = { .s = b };
           LANES((r.h[n] = emulated_bf16(y.f[n]), r.h[16 + n] = emulated_bf16(x.f[n]))))

/* Tiles of 16 rows × 64 bytes, as the kernels set them. */
static _Thread_local uint8_t emulated_tiles[8][16][64];
static _Thread_local int emulated_tiles_set;
static inline void _tile_loadconfig(const void *config) { emulated_tiles_set = *(const uint8_t *)config; }
static inline void _tile_release(void) { emulated_tiles_set = 0; }
static inline void emulated_tile_load(int tile, const void *from, size_t stride) {
  if (!emulated_tiles_set) __builtin_trap();
  for (size_t n = 0; n < 16; n++) memcpy(emulated_tiles[tile][n], (const uint8_t *)from + n * stride, 64);
}
static inline void emulated_tile_store(int tile, void *to, size_t stride) {
  for (size_t n = 0; n < 16; n++) memcpy((uint8_t *)to + n * stride, emulated_tiles[tile][n], 64);
}
static inline void emulated_tile_dpbf16ps(int to, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 16; n++) {
        float sum, x[2], y[2];
        memcpy(&sum, emulated_tiles[to][m] + n * 4, 4);
        for (int i = 0; i < 2; i++) {
          uint32_t u = 0, v = 0;
          memcpy((uint8_t *)&u + 2, emulated_tiles[a][m] + k * 4 + i * 2, 2);
          memcpy((uint8_t *)&v + 2, emulated_tiles[b][k] + n * 4 + i * 2, 2);
          memcpy(x + i, &u, 4);
          memcpy(y + i, &v, 4);
        }
        sum += x[0] * y[0];
        sum += x[1] * y[1];
        memcpy(emulated_tiles[to][m] + n * 4, &sum, 4);
      }
}
#define _tile_loadd(tile, from, stride) emulated_tile_load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated_tile_store(tile, to, stride)
#define _tile_zero(tile) memset(emulated_tiles[tile], 0, 1024)
#define _tile_dpbf16ps(to, a, b) emulated_tile_dpbf16ps(to, a, b)

#endif
