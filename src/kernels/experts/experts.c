/*
 * The mixture of experts (experts.ref.ts is the definition) on MXFP4 weights as the checkpoint stores them.
 *
 *   1  slots (a token's choice of an expert) are sorted by expert
 *   2  activations are quantised, each token once, and laid where its slots are: an expert's tokens lie together
 *   3  gateUp: for each chosen expert and range of its rows, all its slots; then bias and SwiGLU; what is activated is
 *      quantised at once, since 64 rows, gate and linear in turn, make a whole group of 32
 *   4  down: the same, with bias
 *   5  each token's sum over its k experts, in their order
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
  SHARE_ROWS = 1536,         /* at most; a share's rows are a multiple of 64 but for the last */
  SHARES_A_THREAD = 8,       /* at least, so that threads end together */
  STEP_ROWS = 64, STEP_TOKENS = 128, /* what is multiplied before its results go on */
};

/* What all threads work on; arrays in shared memory. */
typedef struct plan {
  const experts_args *args;
  int64_t num_experts, slots;
  int32_t *begin;             /* [num_experts + 1]: an expert's first place */
  int32_t *place;             /* [slots]: the place of token · k + choice; an expert's places follow each other */
  size_t unit;                /* bytes of a group of activations: group_q8, or 32 floats where exactness is asked for */
  uint8_t *x, *activated;     /* [slots, hidden / 32], [slots, inner / 32] groups, by place */
  float *outputs;             /* [slots, hidden], by place */
} plan;

/* This thread's own memory. */
typedef struct workspace {
  float sums[STEP_TOKENS * STEP_ROWS];
  panel decoded;
  union {
    float row[0];       /* of weights, where exactness is asked for */
    few_x few[0];       /* a share's tokens, where they are few */
  };
} workspace;

/* ---- 1 and 2: places and activations */

static void sort_slots(const plan *p) {
  const float *experts = p->args->experts;
  memset(p->begin, 0, (size_t)(p->num_experts + 1) * sizeof *p->begin);
  for (int64_t s = 0; s < p->slots; s++) p->begin[(int)experts[s] + 1]++;
  for (int64_t e = 0; e < p->num_experts; e++) p->begin[e + 1] += p->begin[e];
  /* Each slot takes its expert's next place, which moves begin one expert on; then it is moved back. */
  for (int64_t s = 0; s < p->slots; s++) p->place[s] = p->begin[(int)experts[s]]++;
  for (int64_t e = p->num_experts; e > 0; e--) p->begin[e] = p->begin[e - 1];
  p->begin[0] = 0;
}

static void keep_group(const plan *p, const float *values, uint8_t *group) {
  if (p->args->exact) even_odd(values, (float *)group);
  else quantize_activations(values, (group_q8 *)group);
}

static void prepare_inputs(const plan *p, team *t) {
  const int64_t groups = p->args->hidden / MXFP4_COLS, k = p->args->k;
  const size_t row_bytes = (size_t)groups * p->unit;
  for (int64_t token; (token = team_next(t, p->args->tokens)) >= 0;) {
    const int32_t *place = p->place + token * k;
    uint8_t *first = p->x + place[0] * row_bytes;
    const float *from = p->args->x + token * p->args->hidden;
    for (int64_t g = 0; g < groups; g++) keep_group(p, from + g * MXFP4_COLS, first + g * p->unit);
    for (int64_t j = 1; j < k; j++) memcpy(p->x + place[j] * row_bytes, first, row_bytes);
  }
}

/* ---- 3 and 4: products */

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

/* Takes sums [tokens, rows] of an expert's rows from `row` on, for the slots from `place` on. */
typedef void use_sums(const plan *, int64_t expert, int64_t row, int64_t rows, int64_t place, int tokens,
                      const float *sums);

static void activate(const plan *p, int64_t expert, int64_t row, int64_t rows, int64_t place, int tokens,
                     const float *sums) {
  float bias[STEP_ROWS], activated[MXFP4_COLS];
  for (int64_t r = 0; r < rows; r++) bias[r] = bias_at(p->args->gate_up_bias, expert, row + r, p->args->gate_up->rows);
  const int64_t groups = p->args->inner / MXFP4_COLS, group = row / STEP_ROWS;
  for (int m = 0; m < tokens; m++) {
    swiglu(sums + m * rows, bias, p->args->swiglu_limit, activated);
    keep_group(p, activated, p->activated + ((place + m) * groups + group) * p->unit);
  }
}

static void store_outputs(const plan *p, int64_t expert, int64_t row, int64_t rows, int64_t place, int tokens,
                          const float *sums) {
  float bias[STEP_ROWS];
  for (int64_t r = 0; r < rows; r++) bias[r] = bias_at(p->args->down_bias, expert, row + r, p->args->hidden);
  for (int m = 0; m < tokens; m++) {
    float *out = p->outputs + (place + m) * p->args->hidden + row;
    for (int64_t r = 0; r < rows; r++) out[r] = sums[m * rows + r] + bias[r];
  }
}

/* One step: up to STEP_ROWS rows by up to STEP_TOKENS slots. `few`: all slots, if they are few. */
static void multiply_step(const plan *p, weight_rows w, int64_t rows, const uint8_t *x, int tokens, const few_x *few,
                          workspace *work) {
  if (p->args->exact) multiply_exactly(w, rows, (const float *)x, tokens, work->sums, work->row);
  else if (few) multiply_few(w, rows, few, tokens, work->sums);
  else multiply_many(w, rows, (const group_q8 *)x, tokens, work->sums, &work->decoded);
}

static void multiply_share(const plan *p, const share *s, const matrix *w, const uint8_t *x, use_sums *use,
                           workspace *work) {
  const int64_t groups = w->cols / MXFP4_COLS, begin = p->begin[s->expert], end = p->begin[s->expert + 1];
  const weight_rows all = {w->parts[0].data, w->parts[0].scales, groups};
  const group_q8 *first = (const group_q8 *)(x + begin * groups * (int64_t)p->unit);
  const bool are_few = !p->args->exact && end - begin <= FEW_TOKENS;
  const few_x *few = are_few ? ready_few(first, groups, (int)(end - begin), work->few) : NULL;
  for (int64_t row = s->row; row < s->row + s->rows; row += STEP_ROWS) {
    const int64_t rows = w->rows - row < STEP_ROWS ? w->rows - row : STEP_ROWS;
    const weight_rows some = rows_from(all, s->expert * w->rows + row);
    for (int64_t place = begin; place < end; place += STEP_TOKENS) {
      const int tokens = (int)(end - place < STEP_TOKENS ? end - place : STEP_TOKENS);
      multiply_step(p, some, rows, x + place * groups * (int64_t)p->unit, tokens, few, work);
      use(p, s->expert, row, rows, place, tokens, work->sums);
    }
  }
}

static void multiply_shares(const plan *p, team *t, const matrix *w, const uint8_t *x, use_sums *use) {
  const int64_t count = count_shares(p, w, t->size);
  share s;
  for (int64_t number; (number = team_next(t, count)) >= 0 && find_row_share(p, w, number, t->size, &s);) {
    multiply_share(p, &s, w, x, use, (workspace *)t->scratch);
  }
}

/* ---- 5: sums */

static void add_up(const plan *p, team *t) {
  const int64_t width = p->args->hidden, k = p->args->k;
  for (int64_t token; (token = team_next(t, p->args->tokens)) >= 0;) {
    float *out = p->args->out + token * width;
    memset(out, 0, (size_t)width * sizeof *out);
    for (int64_t slot = token * k; slot < (token + 1) * k; slot++) {
      const float weight = p->args->weights[slot], *outputs = p->outputs + p->place[slot] * width;
      for (int64_t i = 0; i < width; i++) out[i] += weight * outputs[i];
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
  p->unit = args->exact ? MXFP4_COLS * sizeof(float) : sizeof(group_q8);
  const size_t slots = (size_t)p->slots, places = slots + SPARE_PLACES;
  size_t bytes = 0;
  const size_t begin = take(&bytes, (size_t)p->num_experts + 1, sizeof *p->begin);
  const size_t place = take(&bytes, slots, sizeof *p->place);
  const size_t x = take(&bytes, places * (size_t)(args->hidden / MXFP4_COLS), p->unit);
  const size_t activated = take(&bytes, places * (size_t)(args->inner / MXFP4_COLS), p->unit);
  const size_t outputs = take(&bytes, slots * (size_t)args->hidden, sizeof *p->outputs);
  uint8_t *memory = team_shared(t, bytes);
  if (!memory) return false;
  p->begin = (int32_t *)(memory + begin);
  p->place = (int32_t *)(memory + place);
  p->x = memory + x;
  p->activated = memory + activated;
  p->outputs = (float *)(memory + outputs);
  return true;
}

static void experts(const experts_args *args, team *t) {
  plan p;
  if (!make_plan(&p, args, t)) return;
  if (t->rank == 0) sort_slots(&p);
  if (!team_barrier(t)) return;
  prepare_inputs(&p, t);
  if (!team_barrier(t)) return;
  multiply_shares(&p, t, args->gate_up, p.x, activate);
  if (!team_barrier(t)) return;
  multiply_shares(&p, t, args->down, p.activated, store_outputs);
  if (!team_barrier(t)) return;
  add_up(&p, t);
}
