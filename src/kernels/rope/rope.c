/* rope.ref.ts on the CPU. */
#include <math.h>
#include <string.h>
#include "../cpu.h"
#include "../simd.h"

/* One head; from and to may be the same. */
static void turn_head(const float *from, const float *cosines, const float *sines, int half, float *to) {
  int i = 0;
  for (; half - i >= VL; i += VL) {
    vf a = vf_load(from + i), b = vf_load(from + half + i), c = vf_load(cosines + i), s = vf_load(sines + i);
    vf_store(to + i, a * c - b * s);
    vf_store(to + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    float a = from[i], b = from[half + i];
    to[i] = a * cosines[i] - b * sines[i];
    to[half + i] = b * cosines[i] + a * sines[i];
  }
}

static void rope(const rope_args *args, team *team) {
  enum { TOKENS = 16 };
  const int half = args->head_dim / 2, turned_heads = args->num_heads + args->num_kv_heads;
  const int64_t values = (int64_t)args->num_kv_heads * args->head_dim;
  const int64_t width = (int64_t)turned_heads * args->head_dim + values;
  float *cosines = (float *)team->scratch, *sines = cosines + half;
  for (int64_t share; (share = team_next(team, (args->tokens + TOKENS - 1) / TOKENS)) >= 0; )
    for (int64_t t = share * TOKENS; t < args->tokens && t < (share + 1) * TOKENS; t++) {
      for (int i = 0; i < half; i++) {
        double angle = args->positions[t] * args->frequencies[i];
        cosines[i] = (float)(cos(angle) * args->concentration);
        sines[i] = (float)(sin(angle) * args->concentration);
      }
      const float *from = args->qkv + t * width;
      float *to = args->out + t * width;
      for (int64_t at = 0; at < width - values; at += args->head_dim)
        turn_head(from + at, cosines, sines, half, to + at);
      if (to != from) memcpy(to + width - values, from + width - values, values * sizeof(float));
    }
}
