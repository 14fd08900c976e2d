/* top-k.ref.ts on the CPU. */
#include <math.h>
#include "../cpu.h"

/* The index of the largest number that is not among the `count` chosen so far; what is not a number comes last. */
static int64_t next_largest(const float *x, int64_t length, const float *chosen, int count) {
  int64_t best = -1;
  for (int64_t i = 0; i < length; i++) {
    if (best >= 0 && !(x[i] > x[best] || (isnan(x[best]) && !isnan(x[i])))) continue;
    int n = 0;
    while (n < count && chosen[n] != (float)i) n++;
    if (n == count) best = i;
  }
  return best;
}

static void top_k(const top_k_args *args, team *team) {
  enum { ROWS = 64 };
  for (int64_t share; (share = team_next(team, (args->tokens + ROWS - 1) / ROWS)) >= 0; )
    for (int64_t t = share * ROWS; t < args->tokens && t < (share + 1) * ROWS; t++) {
      const float *logits = args->logits + t * args->num_experts;
      float *experts = args->experts + t * args->k, *weights = args->weights + t * args->k;
      double total = 0;
      for (int n = 0; n < args->k; n++) {
        experts[n] = next_largest(logits, args->num_experts, experts, n);
        total += exp((double)logits[(int64_t)experts[n]] - logits[(int64_t)experts[0]]);
      }
      for (int n = 0; n < args->k; n++)
        weights[n] = exp((double)logits[(int64_t)experts[n]] - logits[(int64_t)experts[0]]) / total;
    }
}
