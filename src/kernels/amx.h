/* Matrix tiles of AMX: eight of 16 rows × 64 bytes, set once for each thread and pass. Elsewhere nothing is done. */
#ifndef TUTTI_AMX_H
#define TUTTI_AMX_H
#include <stdint.h>

#ifdef __AMX_TILE__
#include <immintrin.h>

static void enter_pass(void) {
  struct { uint8_t palette, start_row, unused[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } tiles = { .palette = 1 };
  for (int i = 0; i < 8; i++) {
    tiles.row_bytes[i] = 64;
    tiles.rows[i] = 16;
  }
  _tile_loadconfig(&tiles);
}

/* A thread that sleeps with tiles in use costs the system a larger context to save. */
static void leave_pass(void) { _tile_release(); }
#else
static void enter_pass(void) {}
static void leave_pass(void) {}
#endif

#endif
