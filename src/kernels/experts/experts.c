/*
 * The mixture of experts (experts.ref.ts is the definition) on MXFP4 weights as the checkpoint stores them.
 *
 *   1  slots (a token's choice of an expert) are sorted by expert; activations are quantised, each token once
 *   2  gateUp: for each chosen expert and range of its rows, all its slots; then bias and SwiGLU; what is activated is
 *      quantised at once, since 64 rows, gate and linear in turn, make a whole group of 32
 *   3  down: the same, with bias
 *   4  each token's sum over its k experts, in their order
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "../cpu.h"
#include "activations.h"
#include "exact.h"
#include "multiply.h"

enum {
  SHARE_PRODUCTS = 20000000, /* multiply-adds of a share, about 0.3 ms */
  SHARE_ROWS = 512,          /* at most; a share's rows are a multiple of 64 but for the last */
  SHARES_A_THREAD = 8,       /* at least, so that threads end together */
  STEP_ROWS = 64, STEP_TOKENS = 128, /* what is multiplied before its results go on */
};

/* What all threads work on; arrays in shared memory. */
typedef struct plan {
  const experts_args *args;
  int64_t num_experts, slots;
  int32_t *begin;             /* [num_experts + 1]: where an expert's slots begin in `order` */
  int32_t *order;             /* [slots]: slots, token · k + choice, expert after expert */
  group_q8 *x, *activated;    /* [tokens, hidden / 32], [slots, inner / 32] */
  float *exact_x, *exact_activated; /* in their place where float is asked for */
  float *outputs;             /* [slots, hidden] */
} plan;

/* This thread's own memory. */
typedef struct workspace {
  float sums[STEP_TOKENS * STEP_ROWS];
  panel decoded;
  const void *tokens[STEP_TOKENS];
  float row[];
} workspace;

/* ---- 1: slots and activations */

static void sort_slots(const plan *p) {
  const float *experts = p->args->experts;
  memset(p->begin, 0, (size_t)(p->num_experts + 1) * sizeof *p->begin);
  for (int64_t s = 0; s < p->slots; s++) p->begin[(int)experts[s] + 1]++;
  for (int64_t e = 0; e < p->num_experts; e++) p->begin[e + 1] += p->begin[e];
  /* Each slot goes to its expert's next place, which moves begin one expert on; then it is moved back. */
  for (int64_t s = 0; s < p->slots; s++) p->order[p->begin[(int)experts[s]]++] = (int32_t)s;
  for (int64_t e = p->num_experts; e > 0; e--) p->begin[e] = p->begin[e - 1];
  p->begin[0] = 0;
}

static void keep_group(const plan *p, const float *values, group_q8 *groups, float *exact, int64_t at) {
  if (p->args->exact) even_odd(values, exact + at * MXFP4_COLS);
  else quantize_activations(values, groups + at);
}

static void prepare_inputs(const plan *p, team *t) {
  const int64_t groups = p->args->hidden / MXFP4_COLS;
  for (int64_t token; (token = team_next(t, p->args->tokens)) >= 0;) {
    for (int64_t g = token * groups; g < (token + 1) * groups; g++) {
      keep_group(p, p->args->x + g * MXFP4_COLS, p->x, p->exact_x, g);
    }
  }
}

/* ---- 2 and 3: products */

/* A range of rows of one expert. */
typedef struct share { int64_t expert, row, rows; } share;

static int64_t share_rows(const plan *p, const matrix *w, int64_t tokens, int threads) {
  int64_t rows = SHARE_PRODUCTS / (w->cols * tokens);
  const int64_t fair = p->slots * w->rows / (tokens * threads * SHARES_A_THREAD);
  rows = rows < fair ? rows : fair;
  rows = rows < SHARE_ROWS ? rows : SHARE_ROWS;
  return rows > STEP_ROWS ? rows / STEP_ROWS * STEP_ROWS : STEP_ROWS;
}

/* Shares are numbered through all experts that were chosen. False: there is none of this number. */
static bool find_row_share(const plan *p, const matrix *w, int64_t number, int threads, share *found) {
  for (int64_t e = 0; e < p->num_experts; e++) {
    const int64_t tokens = p->begin[e + 1] - p->begin[e];
    if (tokens == 0) continue;
    const int64_t rows = share_rows(p, w, tokens, threads), count = (w->rows + rows - 1) / rows;
    if (number < count) {
      const int64_t row = number * rows;
      *found = (share){e, row, w->rows - row < rows ? w->rows - row : rows};
      return true;
    }
    number -= count;
  }
  return false;
}

static int64_t count_shares(const plan *p, const matrix *w, int threads) {
  int64_t count = 0;
  for (int64_t e = 0; e < p->num_experts; e++) {
    const int64_t tokens = p->begin[e + 1] - p->begin[e];
    if (tokens == 0) continue;
    const int64_t rows = share_rows(p, w, tokens, threads);
    count += (w->rows + rows - 1) / rows;
  }
  return count;
}

static float bias_at(const matrix *bias, int64_t expert, int64_t row, int64_t rows) {
  const uint8_t *data = bias->parts[0].data;
  const int64_t at = expert * rows + row;
  uint32_t bits;
  if (bias->type == TYPE_F32) {
    memcpy(&bits, data + 4 * at, 4);
  } else {
    uint16_t high;
    memcpy(&high, data + 2 * at, 2);
    bits = (uint32_t)high << 16;
  }
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* 64 sums, gate and linear in turn, to 32 activated values. What is not a number stays so. */
static void swiglu(const float *sums, const float *bias, float limit, float *out) {
  float gates[MXFP4_COLS], linears[MXFP4_COLS];
  for (int i = 0; i < MXFP4_COLS; i++) {
    gates[i] = sums[2 * i] + bias[2 * i];
    linears[i] = sums[2 * i + 1] + bias[2 * i + 1];
  }
  for (int i = 0; i < MXFP4_COLS; i += VL) {
    const vf gate = vf_min(vf_splat(limit), vf_load(gates + i));
    const vf linear = vf_max(vf_splat(-limit), vf_min(vf_splat(limit), vf_load(linears + i)));
    vf_store(out + i, gate * vf_sigmoid(1.702f * gate) * (linear + 1.0f));
  }
}

/* Sums [tokens, rows] of rows `row` … of an expert, for its slots order[0] … */
typedef void use_sums(const plan *, int64_t expert, int64_t row, int64_t rows, const int32_t *order, int tokens, const float *sums);

static void activate(const plan *p, int64_t expert, int64_t row, int64_t rows, const int32_t *order, int tokens, const float *sums) {
  float bias[STEP_ROWS], activated[MXFP4_COLS];
  for (int64_t r = 0; r < rows; r++) bias[r] = bias_at(p->args->gate_up_bias, expert, row + r, p->args->gate_up->rows);
  const int64_t groups = p->args->inner / MXFP4_COLS, group = row / STEP_ROWS;
  for (int m = 0; m < tokens; m++) {
    swiglu(sums + m * rows, bias, p->args->swiglu_limit, activated);
    keep_group(p, activated, p->activated, p->exact_activated, order[m] * groups + group);
  }
}

static void store(const plan *p, int64_t expert, int64_t row, int64_t rows, const int32_t *order, int tokens, const float *sums) {
  float bias[STEP_ROWS];
  for (int64_t r = 0; r < rows; r++) bias[r] = bias_at(p->args->down_bias, expert, row + r, p->args->hidden);
  for (int m = 0; m < tokens; m++) {
    float *out = p->outputs + order[m] * p->args->hidden + row;
    for (int64_t r = 0; r < rows; r++) out[r] = sums[m * rows + r] + bias[r];
  }
}

/* One step: up to STEP_ROWS rows by up to STEP_TOKENS slots. The activations of slot s are row s / slots_a_row. */
static void multiply_step(const plan *p, weight_rows w, int64_t rows, const int32_t *order, int tokens, int slots_a_row,
                          const group_q8 *x, const float *exact_x, workspace *work) {
  for (int m = 0; m < tokens; m++) {
    const int64_t at = order[m] / slots_a_row * w.groups;
    work->tokens[m] = p->args->exact ? (const void *)(exact_x + at * MXFP4_COLS) : (const void *)(x + at);
  }
  if (p->args->exact) {
    multiply_exactly(w, rows, (const float *const *)work->tokens, tokens, work->sums, work->row);
  } else if (tokens <= FEW_TOKENS) {
    multiply_few(w, rows, (const group_q8 *const *)work->tokens, tokens, work->sums);
  } else {
    multiply_many(w, rows, (const group_q8 *const *)work->tokens, tokens, work->sums, &work->decoded);
  }
}

static void multiply_shares(const plan *p, team *t, const matrix *w, int slots_a_row, const group_q8 *x, const float *exact_x,
                            use_sums *use) {
  workspace *work = (workspace *)t->scratch;
  const int64_t count = count_shares(p, w, t->size), groups = w->cols / MXFP4_COLS;
  share s;
  for (int64_t number; (number = team_next(t, count)) >= 0 && find_row_share(p, w, number, t->size, &s);) {
    const weight_rows matrix_rows = {w->parts[0].data, w->parts[0].scales, groups};
    for (int64_t row = s.row; row < s.row + s.rows; row += STEP_ROWS) {
      const int64_t rows = w->rows - row < STEP_ROWS ? w->rows - row : STEP_ROWS;
      for (int64_t m = p->begin[s.expert]; m < p->begin[s.expert + 1]; m += STEP_TOKENS) {
        const int64_t left = p->begin[s.expert + 1] - m;
        const int tokens = (int)(left < STEP_TOKENS ? left : STEP_TOKENS);
        multiply_step(p, rows_from(matrix_rows, s.expert * w->rows + row), rows, p->order + m, tokens, slots_a_row, x, exact_x, work);
        use(p, s.expert, row, rows, p->order + m, tokens, work->sums);
      }
    }
  }
}

/* ---- 4: sums */

static void add_up(const plan *p, team *t) {
  const int64_t width = p->args->hidden, k = p->args->k;
  for (int64_t token; (token = team_next(t, p->args->tokens)) >= 0;) {
    float *out = p->args->out + token * width;
    const float *weights = p->args->weights + token * k, *outputs = p->outputs + token * k * width;
    for (int64_t i = 0; i < width; i++) {
      float sum = 0;
      for (int64_t j = 0; j < k; j++) sum += weights[j] * outputs[j * width + i];
      out[i] = sum;
    }
  }
}

/* ---- the op */

static size_t take(size_t *bytes, size_t count, size_t size) {
  const size_t at = *bytes;
  *bytes += (count * size + 63) & ~(size_t)63;
  return at;
}

static bool make_plan(plan *p, const experts_args *args, team *t) {
  *p = (plan){.args = args, .num_experts = args->gate_up->experts, .slots = args->tokens * args->k};
  const size_t unit = args->exact ? MXFP4_COLS * sizeof(float) : sizeof(group_q8);
  const size_t slots = (size_t)p->slots, tokens = (size_t)args->tokens;
  size_t bytes = 0;
  const size_t begin = take(&bytes, (size_t)p->num_experts + 1, sizeof *p->begin);
  const size_t order = take(&bytes, slots, sizeof *p->order);
  const size_t x = take(&bytes, tokens * (size_t)(args->hidden / MXFP4_COLS), unit);
  const size_t activated = take(&bytes, slots * (size_t)(args->inner / MXFP4_COLS), unit);
  const size_t outputs = take(&bytes, slots * (size_t)args->hidden, sizeof *p->outputs);
  uint8_t *memory = team_shared(t, bytes);
  if (!memory) return false;
  p->begin = (int32_t *)(memory + begin);
  p->order = (int32_t *)(memory + order);
  if (args->exact) p->exact_x = (float *)(memory + x), p->exact_activated = (float *)(memory + activated);
  else p->x = (group_q8 *)(memory + x), p->activated = (group_q8 *)(memory + activated);
  p->outputs = (float *)(memory + outputs);
  return true;
}

static void experts(const experts_args *args, team *t) {
  plan p;
  if (!make_plan(&p, args, t)) return;
  if (t->rank == 0) sort_slots(&p);
  prepare_inputs(&p, t);
  if (!team_barrier(t)) return;
  multiply_shares(&p, t, args->gate_up, args->k, p.x, p.exact_x, activate);
  if (!team_barrier(t)) return;
  multiply_shares(&p, t, args->down, 1, p.activated, p.exact_activated, store);
  if (!team_barrier(t)) return;
  add_up(&p, t);
}
