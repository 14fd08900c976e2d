/* rms-norm.ref.ts on the CPU. */
#include <math.h>
#include "../cpu.h"
#include "../simd.h"

/* Runs of 512 squares are summed in float, side by side and in pairs, the runs in double: right to 1e-7. */
static double sum_of_squares(const float *x, int64_t length) {
  double total = 0;
  int64_t i = 0;
  for (int64_t end; length - i >= 4 * VL; ) {
    end = length - i < 512 ? length : i + 512;
    vf a = {0}, b = {0}, c = {0}, d = {0};
    for (; end - i >= 4 * VL; i += 4 * VL) {
      vf p = vf_load(x + i), q = vf_load(x + i + VL), r = vf_load(x + i + 2 * VL), s = vf_load(x + i + 3 * VL);
      a = p * p + a;
      b = q * q + b;
      c = r * r + c;
      d = s * s + d;
    }
    total += vf_sum((a + b) + (c + d));
  }
  for (; i < length; i++) total += (double)x[i] * x[i];
  return total;
}

static void rms_norm(const rms_norm_args *args, team *team) {
  enum { ROWS = 32 };
  const int64_t width = args->width;
  for (int64_t share; (share = team_next(team, (args->tokens + ROWS - 1) / ROWS)) >= 0; )
    for (int64_t t = share * ROWS; t < args->tokens && t < (share + 1) * ROWS; t++) {
      const float *x = args->x + t * width;
      float *out = args->out + t * width;
      float factor = (float)(1 / sqrt(sum_of_squares(x, width) / (double)width + args->epsilon));
      int64_t i = 0;
      for (; width - i >= VL; i += VL) vf_store(out + i, vf_load(x + i) * factor * vf_load(args->weight + i));
      for (; i < width; i++) out[i] = x[i] * factor * args->weight[i];
    }
}
