/*
 * AVX-512 VNNI and AMX where the CPU has neither, through SIMDe (Debian: libsimde-dev) and plain C, to test results:
 *   mkdir shadow && echo '#include_next <immintrin.h>' >shadow/immintrin.h   # SIMDe first, the compiler's own after
 *   gcc -O2 -std=gnu11 -ffp-contract=fast -mavx2 -mfma -mf16c -mbmi -mbmi2 -Wno-psabi -pthread -Ishadow \
 *     -D_GNU_SOURCE [-DEMULATE_AMX] -include test/native/emulated.h \
 *     test/native/experts-harness.c -lm -o emulated && ./emulated quick
 */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#include <simde/x86/f16c.h>
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VNNI__ 1
#define __AVX512VBMI__ 1

/* Debian's SIMDe lacks this one. */
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
static inline simde__m512 emulated_cvtepi32_ps(simde__m512i a) {
  int32_t from[16];
  float to[16];
  simde_mm512_storeu_si512(from, a);
  for (int i = 0; i < 16; i++) to[i] = (float)from[i];
  return simde_mm512_loadu_ps(to);
}

#ifdef EMULATE_AMX
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#define _tile_loadconfig tile_loadconfig
#define _tile_release() tile_loadconfig(NULL)
#define _tile_zero(t) memset(tiles[t], 0, sizeof tiles[t])
#define _tile_loadd tile_loadd
#define _tile_stored tile_stored
#define _tile_dpbssd tile_dpbssd

static _Thread_local struct {
  uint8_t palette, start_row, unused[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_shapes;
static _Thread_local int8_t tiles[8][16][64];

static inline void tile_loadconfig(const void *shapes) {
  if (shapes) memcpy(&tile_shapes, shapes, 64);
  else memset(&tile_shapes, 0, 64);
  memset(tiles, 0, sizeof tiles);
}
static inline void tile_check(int right) { if (!right) abort(); }
static inline void tile_loadd(int t, const void *base, int64_t stride) {
  tile_check(tile_shapes.palette == 1 && tile_shapes.rows[t] > 0);
  memset(tiles[t], 0, sizeof tiles[t]);
  for (int r = 0; r < tile_shapes.rows[t]; r++) {
    memcpy(tiles[t][r], (const char *)base + r * stride, tile_shapes.row_bytes[t]);
  }
}
static inline void tile_stored(int t, void *base, int64_t stride) {
  for (int r = 0; r < tile_shapes.rows[t]; r++) {
    memcpy((char *)base + r * stride, tiles[t][r], tile_shapes.row_bytes[t]);
  }
}
/* sum [m][n] += Σ a [m][k] · b [k / 4][n][k % 4]; shapes must agree, or the CPU raises an exception. */
static inline void tile_dpbssd(int sum, int a, int b) {
  tile_check(tile_shapes.rows[sum] == tile_shapes.rows[a] && tile_shapes.row_bytes[sum] == tile_shapes.row_bytes[b]);
  tile_check(tile_shapes.row_bytes[a] == 4 * tile_shapes.rows[b]);
  for (int m = 0; m < tile_shapes.rows[a]; m++) {
    for (int n = 0; n < tile_shapes.row_bytes[b] / 4; n++) {
      int32_t total;
      memcpy(&total, &tiles[sum][m][4 * n], 4);
      for (int k = 0; k < tile_shapes.row_bytes[a]; k++) total += tiles[a][m][k] * tiles[b][k / 4][4 * n + k % 4];
      memcpy(&tiles[sum][m][4 * n], &total, 4);
    }
  }
}
#endif
