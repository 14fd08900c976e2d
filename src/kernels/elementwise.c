/* Ops.add and Ops.rows (ops.ts) on the CPU. */
#include <string.h>
#include "cpu.h"
#include "simd.h"

static void add(const add_args *args, team *team) {
  enum { LENGTH = 1 << 16 };
  for (int64_t share; (share = team_next(team, (args->length + LENGTH - 1) / LENGTH)) >= 0; ) {
    int64_t i = share * LENGTH, end = args->length - i < LENGTH ? args->length : i + LENGTH;
    for (; end - i >= VL; i += VL) vf_store(args->out + i, vf_load(args->x + i) + vf_load(args->y + i));
    for (; i < end; i++) args->out[i] = args->x[i] + args->y[i];
  }
}

static void gather_rows(const rows_args *args, team *team) {
  enum { ROWS = 16 };
  for (int64_t share; (share = team_next(team, (args->count + ROWS - 1) / ROWS)) >= 0; )
    for (int64_t t = share * ROWS; t < args->count && t < (share + 1) * ROWS; t++)
      memcpy(args->out + t * args->width, args->x + args->indices[t] * args->width, args->width * sizeof(float));
}
