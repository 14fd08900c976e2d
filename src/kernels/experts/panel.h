/* A panel: weights of ROW_TILE rows and up to PANEL_GROUPS groups, decoded into the first-level cache. */
#ifndef TUTTI_EXPERTS_PANEL_H
#define TUTTI_EXPERTS_PANEL_H
#include "mxfp4.h"

/* Rows of one expert's matrix. */
typedef struct weight_rows {
  const uint8_t *blocks, *scales;
  int64_t groups; /* of a row */
} weight_rows;

INLINE weight_rows rows_from(weight_rows w, int64_t row) {
  return (weight_rows){w.blocks + row * w.groups * MXFP4_BYTES, w.scales + row * w.groups, w.groups};
}

enum {
  ROW_BLOCKS = 2, ROW_TILE = ROW_BLOCKS * LANES,
  PANEL_GROUPS = 480 / ROW_TILE, /* × 32 bytes × rows: half of a first-level cache */
};

typedef struct panel {
  lane_codes codes[PANEL_GROUPS][8][ROW_BLOCKS];
  lane_floats scales[PANEL_GROUPS][ROW_BLOCKS];
} panel;

/* Matrix tiles multiply signed by signed bytes. */
INLINE lane_codes panel_codes(lane_codes w) {
#ifdef __AMX_INT8__
  w = _mm512_sub_epi8(w, _mm512_set1_epi8(CODE_OFFSET));
#endif
  return w;
}

static void decode_panel(weight_rows w, int64_t g, int count, panel *to) {
  for (int b = 0; b < ROW_BLOCKS; b++) {
    const weight_rows at = rows_from(w, b * LANES);
    for (int i = 0; i < count; i++) {
      lane_codes codes[8];
      load_codes(at.blocks + (g + i) * MXFP4_BYTES, w.groups * MXFP4_BYTES, codes);
      for (int j = 0; j < 8; j++) to->codes[i][j][b] = panel_codes(codes[j]);
    }
    for (int i = 0; i < count; i += 4) {
      const int some = count - i < 4 ? count - i : 4;
      const lane_scales s = load_scales(at.scales + g + i, w.groups, some);
      for (int k = 0; k < some; k++) to->scales[i + k][b] = scale_of(s, k);
    }
  }
}

#endif
