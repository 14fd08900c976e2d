/* embedding.ref.ts on the CPU. */
#include <string.h>
#include "../cpu.h"
#include "../simd.h"

static void embedding_row(const matrix *table, int64_t row, float *out) {
  int part = 0;
  while (row >= table->parts[part].rows) row -= table->parts[part++].rows;
  const uint8_t *data = table->parts[part].data;
  const int64_t width = table->cols;
  if (table->type == TYPE_F32) {
    memcpy(out, data + row * width * 4, width * 4);
    return;
  }
  const uint8_t *words = data + row * width * 2;
  int64_t i = 0;
  for (; width - i >= VL; i += VL) vf_store(out + i, vf_load_bf16(words + 2 * i));
  for (; i < width; i++) {
    uint16_t word;
    memcpy(&word, words + 2 * i, 2);
    out[i] = bf16_to_float(word);
  }
}

static void embedding(const embedding_args *args, team *team) {
  enum { ROWS = 16 };
  for (int64_t share; (share = team_next(team, (args->count + ROWS - 1) / ROWS)) >= 0; )
    for (int64_t t = share * ROWS; t < args->count && t < (share + 1) * ROWS; t++)
      embedding_row(args->table, args->tokens[t], args->out + t * args->table->cols);
}
