/*
 * All CPU kernels, compiled once per instruction set: scripts/build-native.ts gives TUTTI_LEVEL (an identifier such as
 * avx2), TUTTI_LEVEL_NAME (what TUTTI_CPU and people call it) and the compiler's flags. Kernels ask the compiler what they
 * have (__AVX2__, __AVX512VNNI__, __AMX_INT8__, …).
 */
#include "../src/kernels/cpu.h"
#include "../src/kernels/simd.h"
#include "../src/kernels/embedding/embedding.c"
#include "../src/kernels/rms-norm/rms-norm.c"
#include "../src/kernels/linear/linear.c"
#include "../src/kernels/rope/rope.c"
#include "../src/kernels/attention/attention.c"
#include "../src/kernels/top-k/top-k.c"
#include "../src/kernels/experts/experts.c"
#include "../src/kernels/elementwise.c"
#include "../src/kernels/read-memory.c"

#define NAME2(level) kernels_##level
#define NAME(level) NAME2(level)
extern const kernels NAME(TUTTI_LEVEL);
const kernels NAME(TUTTI_LEVEL) = {
  .level = TUTTI_LEVEL_NAME,
  .embedding = embedding,
  .rms_norm = rms_norm,
  .linear = linear,
  .rope = rope,
  .attention = attention,
  .top_k = top_k,
  .experts = experts,
  .add = add,
  .rows = gather_rows,
  .quantize_q8 = quantize_q8,
  .read_memory = read_memory,
  .enter = enter_pass,
  .leave = leave_pass,
  .cache_page_bytes = cache_page_bytes,
  .move_tokens = move_tokens,
};
