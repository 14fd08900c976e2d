/*
 * attention.ref.ts on the CPU, in blocks with a running softmax.
 *
 * New keys and values go into the cache first. Then each share of work is a tile (some tokens of one piece) for some
 * key/value heads over a range of positions: scores of a page of tokens, their exponentials relative to the largest so
 * far, and the values weighted by them. Ranges are joined at the end, where the sinks come in too.
 *   Few queries (decode) multiply what the cache holds as it is read, which happens once and at the speed of memory.
 *   Many queries (prefill) multiply a copy of the page in floats.
 * Exponentials are powers of two: queries are scaled by log2(e) / √headDim, sinks by log2(e).
 */
#include <math.h>
#include <string.h>
#include "../cpu.h"
#include "../simd.h"
#include "codes.h"
#include "pages.h"
#include "product.h"

/* A tile's queries for one key/value head, before it gets fewer tokens; and up to how many pages are streamed. */
enum { TILE_QUERIES = 96, STREAMED_QUERIES = 16 };

/* Where the running maximum begins: below every score, and −∞ minus it is still −∞. */
static const float lowest_score = -1e30f;
static const float log2_e = 0x1.715476p+0f;

/* How one piece is shared out. Everything follows from the arguments and the number of threads. */
typedef struct {
  int tokens;             /* of a tile */
  int queries;            /* of a tile and key/value head: tokens · heads_per_key */
  int heads;              /* key/value heads of a share */
  bool streamed;
  int64_t tiles, head_shares, ranges, range_length; /* in positions */
  int64_t begin;          /* of the first range: where a page begins, not after what any of its tokens sees */
  int64_t shares, state_floats; /* state_floats: of one share */
} piece_plan;

/* Floats of a row of values: whole blocks of columns. */
static int padded_dim(int head_dim) { return (head_dim + PRODUCT_COLUMNS - 1) / PRODUCT_COLUMNS * PRODUCT_COLUMNS; }

static int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

/* A running softmax of `queries`: maxima, sums, and sums of weighted values [queries][padded_dim]. */
static int64_t state_length(int queries, int head_dim) {
  return 2 * whole_lines(queries) + whole_lines((int64_t)queries * padded_dim(head_dim));
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t first_seen(const attention_args *args, const piece *piece, int64_t position) {
  return most(piece->first, args->window > position ? 0 : position - args->window + 1);
}

static piece_plan plan_piece(const attention_args *args, const piece *piece, int num_threads) {
  const int heads_per_key = args->num_heads / args->num_kv_heads, dim = args->head_dim;
  piece_plan plan = {0};
  plan.tokens = (int)least(most(1, TILE_QUERIES / heads_per_key), piece->count);
  plan.queries = plan.tokens * heads_per_key;
  plan.tiles = quotient_up(piece->count, plan.tokens);
  plan.streamed = plan.queries <= STREAMED_QUERIES && dim % PRODUCT_COLUMNS == 0;
  plan.begin = first_seen(args, piece, piece->start) / PAGE_TOKENS * PAGE_TOKENS;
  const int64_t pages = quotient_up(piece->start + piece->count - plan.begin, PAGE_TOKENS);

  /* Enough shares for all threads, of 16 pages or fewer where a page is read once, and not of less than two pages. */
  const int64_t wanted = 4 * num_threads, whole_heads = args->num_pieces * plan.tiles * args->num_kv_heads;
  int64_t range_pages = pages;
  if (plan.streamed && pages > 4) range_pages = least(16, most(2, args->num_pieces * plan.tiles * pages / wanted));
  else if (!plan.streamed && whole_heads < wanted) range_pages = most(4, pages * whole_heads / wanted);
  plan.ranges = quotient_up(pages, range_pages);
  plan.range_length = range_pages * PAGE_TOKENS;

  /* A page is contiguous over all heads: share it only where there is not enough work otherwise. */
  plan.heads = 1;
  if (plan.streamed && plan.ranges > 1)
    plan.heads = (int)most(1, least(args->num_kv_heads, whole_heads * plan.ranges / wanted));
  plan.head_shares = quotient_up(args->num_kv_heads, plan.heads);
  plan.shares = plan.tiles * plan.head_shares * plan.ranges;
  plan.state_floats = plan.heads * state_length(plan.queries, dim);
  return plan;
}

/* ---- one share */

typedef struct {
  float *maxima, *sums, *values;
} softmax_state;

static softmax_state state_of_head(float *share, const piece_plan *plan, int head_dim, int head) {
  float *at = share + head * state_length(plan->queries, head_dim);
  return (softmax_state){at, at + whole_lines(plan->queries), at + 2 * whole_lines(plan->queries)};
}

/* What a thread computes with. */
typedef struct {
  const attention_args *args;
  const piece *piece;
  piece_plan plan;
  int64_t position;       /* of the tile's first token */
  int num_queries;        /* of this tile and one key/value head */
  float *queries;         /* [heads][plan.queries][head_dim], scaled */
  float *scores;          /* [plan.queries][PAGE_TOKENS], then their exponentials */
  float *keys, *values;   /* [head_dim][PAGE_TOKENS], [PAGE_TOKENS][padded_dim]: a page in floats */
  int32_t *query_codes;   /* streamed CACHE_Q8: [heads][groups][num_queries][QUERY_PAIRS], what they are worth */
  float *query_units;     /* [heads][num_queries] */
  int32_t *weight_codes;  /* [groups][num_queries][WEIGHT_PAIRS], what they are multiplied by, what they are worth */
  float *weight_factors;  /* [groups][PAGE_TOKENS] */
  float *weight_units;    /* [groups] */
  float *state;
} tile;

/* Tokens begin … end-1 of a page hold the positions from `position` on; columns are whole blocks around them. */
typedef struct {
  int64_t position;
  int begin, end, first_column, end_column;
  uint8_t *keys, *values; /* one head's, in the cache */
  const uint8_t *ahead;   /* what will be read next, prefetched evenly by all products of the run */
  int64_t ahead_step, ahead_column; /* bytes a term and block of rows, and a term and column block */
} run;

static void copy_queries(const tile *t, int first_head, int64_t token) {
  const attention_args *args = t->args;
  const int heads_per_key = args->num_heads / args->num_kv_heads, dim = args->head_dim;
  const int64_t width = (int64_t)(args->num_heads + 2 * args->num_kv_heads) * dim;
  const float scale = (float)(1.4426950408889634 / sqrt(dim));
  float *out;
  const int last_head = (int)least(args->num_kv_heads, first_head + t->plan.heads);
  for (int head = first_head; head < last_head; head++) {
    out = t->queries + (int64_t)(head - first_head) * t->plan.queries * dim;
    for (int64_t n = 0; n < t->num_queries / heads_per_key; n++) {
      const float *from = args->qkv + (t->piece->row + token + n) * width + (int64_t)head * heads_per_key * dim;
      for (int i = 0; i < heads_per_key * dim; i++) *out++ = from[i] * scale;
    }
  }
}

/* Scores of `queries` with the run's columns, as CACHE_BF16 holds the keys: in pairs. */
static void streamed_scores(const tile *t, const float *queries, const run *r) {
  const int dim = t->args->head_dim;
  product_args p = {
    .a = queries, .a_stride = dim, .b_stride = 2 * PAGE_TOKENS, .end = dim, .out_stride = PAGE_TOKENS,
    .ahead = r->ahead, .ahead_step = r->ahead_step,
  };
  for (int column = r->first_column; column < r->end_column; column += PRODUCT_COLUMNS) {
    p.b = r->keys + 2 * column;
    p.out = t->scores + column;
    product_bf16(t->num_queries, p);
    p.ahead += dim * r->ahead_column;
  }
}

static void streamed_values(const tile *t, const run *r, float *values) {
  const int dim = t->args->head_dim;
  product_args p = {
    .a = t->scores, .a_stride = PAGE_TOKENS, .b_stride = 2 * dim, .begin = r->begin, .end = r->end, .out_stride = dim,
    .add = true, .ahead = r->ahead + (r->end_column - r->first_column) / PRODUCT_COLUMNS * dim * r->ahead_column,
    .ahead_step = r->ahead_step,
  };
  for (int column = 0; column < dim; column += PRODUCT_COLUMNS) {
    p.b = r->values + 2 * column;
    p.out = values + column;
    product_bf16(t->num_queries, p);
    p.ahead += (r->end - r->begin) * r->ahead_column;
  }
}

static void copied_scores(const tile *t, const float *queries, const run *r) {
  const int dim = t->args->head_dim;
  read_keys(t->args->cache, r->keys, dim, t->keys);
  product_args p = {
    .a = queries, .a_stride = dim, .b_stride = PAGE_TOKENS * sizeof(float), .end = dim, .out_stride = PAGE_TOKENS,
  };
  for (int column = r->first_column; column < r->end_column; column += PRODUCT_COLUMNS) {
    p.b = (const uint8_t *)(t->keys + column);
    p.out = t->scores + column;
    product_float(t->num_queries, p);
  }
}

static void copied_values(const tile *t, const run *r, float *values) {
  const int dim = t->args->head_dim, width = padded_dim(dim);
  read_values(t->args->cache, r->values, dim, r->begin, r->end, width, t->values);
  product_args p = {
    .a = t->scores, .a_stride = PAGE_TOKENS, .b_stride = width * sizeof(float), .begin = r->begin, .end = r->end,
    .out_stride = width, .add = true,
  };
  for (int column = 0; column < width; column += PRODUCT_COLUMNS) {
    p.b = (const uint8_t *)(t->values + column);
    p.out = values + column;
    product_float(t->num_queries, p);
  }
}

INLINE float highest_of(const float *row, int begin, int end) {
  vf highest = vf_splat(-INFINITY);
  for (int i = begin; i < end; i += VL) highest = vf_max(highest, vf_load(row + i));
  return vf_max_of(highest);
}

/* The running maximum of a query; what was summed under a lesser one is scaled to it. */
INLINE void raise_maximum(softmax_state state, int query, int width, float highest) {
  if (!(highest > state.maxima[query])) return;
  const vf factor = vf_exp2(vf_splat(state.maxima[query] - highest));
  float *values = state.values + (int64_t)query * width;
  for (int i = 0; i < width; i += VL) vf_store(values + i, vf_load(values + i) * factor);
  state.sums[query] *= factor[0];
  state.maxima[query] = highest;
}

/* Scores become weights relative to the running maximum; gives their sum. */
INLINE float soften(float *row, const run *r, bool paired, float max) {
  vf total = {0};
  for (int i = r->first_column; i < r->end_column; i += 2 * VL) {
    vf first = vf_exp2(vf_load(row + i) - max), second = vf_exp2(vf_load(row + i + VL) - max);
    total += first + second;
    if (paired) vf_interleave(first, second, &first, &second);
    vf_store(row + i, first);
    vf_store(row + i + VL, second);
  }
  return vf_sum(total);
}

/* Scores of tokens that a query does not see become −∞: outside the run, after the query, before its window. */
static void mask_row(const tile *t, const run *r, int64_t position, bool paired, float *row) {
  const int64_t first = first_seen(t->args, t->piece, position);
  const int begin = r->begin + (int)least(most(first - r->position, 0), r->end - r->begin);
  const int end = r->begin + (int)most(least(position + 1 - r->position, r->end - r->begin), 0);
  for (int i = r->first_column; i < r->end_column; i++)
    if (i < begin || i >= end) row[paired ? paired_place(i) : i] = -INFINITY;
}

/* Whether every query of the tile sees all columns of the run. */
static bool all_seen(const tile *t, const run *r) {
  const int64_t last = t->position + t->num_queries / (t->args->num_heads / t->args->num_kv_heads) - 1;
  return r->begin == r->first_column && r->end == r->end_column && r->position + r->end - r->begin <= t->position + 1 &&
         first_seen(t->args, t->piece, last) <= r->position;
}

static void attend_run(const tile *t, int head, softmax_state state, const run *r) {
  const int heads_per_key = t->args->num_heads / t->args->num_kv_heads, width = padded_dim(t->args->head_dim);
  const float *queries = t->queries + (int64_t)head * t->plan.queries * t->args->head_dim;
  const bool paired = t->plan.streamed, whole = all_seen(t, r);
  if (t->plan.streamed) streamed_scores(t, queries, r);
  else copied_scores(t, queries, r);
  for (int q = 0; q < t->num_queries; q++) {
    float *row = t->scores + q * PAGE_TOKENS;
    if (!whole) mask_row(t, r, t->position + q / heads_per_key, paired, row);
    raise_maximum(state, q, width, highest_of(row, r->first_column, r->end_column));
  }
  for (int q = 0; q < t->num_queries; q++) {
    float *row = t->scores + q * PAGE_TOKENS;
    state.sums[q] += paired ? soften(row, r, true, state.maxima[q]) : soften(row, r, false, state.maxima[q]);
  }
  if (t->plan.streamed) streamed_values(t, r, state.values);
  else copied_values(t, r, state.values);
}

/* The same in integers. Weights are relative to the page's own maximum, so that none of its codes are wasted. */
static void attend_codes(const tile *t, int head, softmax_state state, const run *r) {
  const int heads_per_key = t->args->num_heads / t->args->num_kv_heads, dim = t->args->head_dim, rows = t->num_queries;
  const int groups = cache_groups(dim);
  const float *units = t->query_units + head * rows;
  const bool whole = all_seen(t, r);
  code_prefetch ahead = {r->ahead, r->ahead_step};
  float highest[STREAMED_QUERIES], factors[STREAMED_QUERIES];
  score_codes(rows, t->query_codes + head * groups * rows * QUERY_PAIRS, dim, r->keys, t->scores, &ahead);
  scale_weights(r->values, dim, r->begin, r->end, t->weight_factors, t->weight_units);
  for (int q = 0; q < rows; q++) {
    float *row = t->scores + q * PAGE_TOKENS;
    if (!whole) mask_row(t, r, t->position + q / heads_per_key, false, row);
    highest[q] = highest_of(row, 0, PAGE_TOKENS) * units[q];
    if (highest[q] < lowest_score) highest[q] = lowest_score;
    raise_maximum(state, q, dim, highest[q]);
    factors[q] = vf_exp2(vf_splat(highest[q] - state.maxima[q]))[0];
  }
  for (int q = 0; q < rows; q++)
    state.sums[q] += factors[q] * soften_codes(t->scores + q * PAGE_TOKENS, units[q], highest[q], groups,
                                               t->weight_factors, rows, q, t->weight_codes);
  value_codes(rows, t->weight_codes, factors, t->weight_units, dim, r->values, state.values, &ahead);
}

/* All of a share's heads over positions begin … end-1. */
static void attend_range(const tile *t, int first_head, int64_t begin, int64_t end) {
  const attention_args *args = t->args;
  const int dim = args->head_dim;
  const int64_t half_bytes = cache_half_bytes(args->cache, dim), head_bytes = 2 * half_bytes;
  const int num_heads = (int)least(t->plan.heads, args->num_kv_heads - first_head);
  const bool codes = t->plan.streamed && args->cache == CACHE_Q8;
  const int row_blocks = product_row_blocks(t->num_queries);
  const int64_t steps = codes ? code_steps(t->num_queries, dim)
                              : (int64_t)row_blocks * 2 * PAGE_TOKENS * dim / PRODUCT_COLUMNS;
  const int64_t ahead_step = quotient_up(head_bytes, steps);
  for (int64_t p = begin, length; p < end; p += length) {
    const int64_t place = p % t->piece->capacity, next = (p / PAGE_TOKENS + 1) * PAGE_TOKENS;
    const int slot = (int)(place % PAGE_TOKENS);
    length = least(least(PAGE_TOKENS - slot, t->piece->capacity - place), end - p);
    uint8_t *page = t->piece->pages[place / PAGE_TOKENS] + first_head * head_bytes;
    const uint8_t *next_page =
      next < end ? t->piece->pages[next % t->piece->capacity / PAGE_TOKENS] + first_head * head_bytes : page;
    for (int head = 0; head < num_heads; head++) {
      uint8_t *keys = page + head * head_bytes;
      run r = {
        .position = p, .begin = slot, .end = slot + (int)length,
        .first_column = codes ? 0 : slot / PRODUCT_COLUMNS * PRODUCT_COLUMNS,
        .end_column = codes ? PAGE_TOKENS : (int)quotient_up(slot + length, PRODUCT_COLUMNS) * PRODUCT_COLUMNS,
        .keys = keys, .values = keys + half_bytes,
        .ahead = head + 1 < num_heads ? keys + head_bytes : next_page,
        .ahead_step = ahead_step, .ahead_column = ahead_step * row_blocks,
      };
      const softmax_state state = state_of_head(t->state, &t->plan, dim, head);
      if (codes) attend_codes(t, head, state, &r);
      else attend_run(t, head, state, &r);
    }
  }
}

/* ---- joining */

/* out [head_dim] of one query: its ranges' sums `stride` floats apart, and the sink. */
static void join_ranges(const piece_plan *plan, int head_dim, softmax_state state, int64_t stride, int query,
                        float sink, bool paired, float *out) {
  const int width = padded_dim(head_dim);
  float max = sink * log2_e;
  if (!(max > lowest_score)) max = isnan(max) ? max : lowest_score;
  for (int64_t i = 0; i < plan->ranges; i++)
    if (state.maxima[i * stride + query] > max) max = state.maxima[i * stride + query];
  float total = vf_exp2(vf_splat(sink * log2_e - max))[0];
  float sums[PRODUCT_COLUMNS];
  for (int64_t range = 0; range < plan->ranges; range++)
    total += state.sums[range * stride + query] * vf_exp2(vf_splat(state.maxima[range * stride + query] - max))[0];
  for (int column = 0; column < head_dim; column += PRODUCT_COLUMNS) {
    vf columns[PRODUCT_VECTORS] = {0};
    for (int64_t range = 0; range < plan->ranges; range++) {
      const vf factor = vf_exp2(vf_splat(state.maxima[range * stride + query] - max)) / total;
      const float *values = state.values + range * stride + (int64_t)query * width + column;
      UNROLL
      for (int i = 0; i < PRODUCT_VECTORS; i++) columns[i] += vf_load(values + i * VL) * factor;
    }
    UNROLL
    for (int i = 0; i < PRODUCT_VECTORS; i += 2) {
      if (paired) vf_interleave(columns[i], columns[i + 1], columns + i, columns + i + 1);
      vf_store(sums + i * VL, columns[i]);
      vf_store(sums + (i + 1) * VL, columns[i + 1]);
    }
    memcpy(out + column, sums, least(PRODUCT_COLUMNS, head_dim - column) * sizeof(float));
  }
}

/* All queries of a tile and key/value head. */
static void join_tile(const tile *t, int64_t token, int head, softmax_state state, int64_t stride) {
  const attention_args *args = t->args;
  const int heads_per_key = args->num_heads / args->num_kv_heads, dim = args->head_dim;
  for (int q = 0; q < t->num_queries; q++) {
    const int query_head = head * heads_per_key + q % heads_per_key;
    const int64_t row = t->piece->row + token + q / heads_per_key;
    join_ranges(&t->plan, dim, state, stride, q, args->sinks[query_head], t->plan.streamed && args->cache == CACHE_BF16,
                args->out + (row * args->num_heads + query_head) * dim);
  }
}

/* ---- the op */

/* New keys and values into the cache. */
static void write_caches(const attention_args *args, team *team) {
  enum { TOKENS = 16 };
  const int dim = args->head_dim, num_kv_heads = args->num_kv_heads;
  const int64_t width = (int64_t)(args->num_heads + 2 * num_kv_heads) * dim;
  const int64_t head_bytes = 2 * cache_half_bytes(args->cache, dim);
  int64_t total = 0;
  for (int64_t i = 0; i < args->num_pieces; i++) total += quotient_up(args->pieces[i].count, TOKENS);
  for (int64_t share; (share = team_next(team, total)) >= 0; ) {
    const piece *piece = args->pieces;
    for (; share >= quotient_up(piece->count, TOKENS); piece++) share -= quotient_up(piece->count, TOKENS);
    for (int64_t n = share * TOKENS; n < least(piece->count, (share + 1) * TOKENS); n++) {
      if (piece->start + n < piece->length) continue;
      const int64_t place = (piece->start + n) % piece->capacity;
      uint8_t *page = piece->pages[place / PAGE_TOKENS];
      const float *keys = args->qkv + (piece->row + n) * width + (int64_t)args->num_heads * dim;
      const float *values = keys + (int64_t)num_kv_heads * dim;
      for (int head = 0; head < num_kv_heads; head++)
        write_token(args->cache, page + head * head_bytes, dim, (int)(place % PAGE_TOKENS), keys + head * dim,
                    values + head * dim);
    }
  }
}

/* The share-th share of all pieces: its piece and plan, what is left of `share`, the floats of states before it. */
static const piece *find_share(const attention_args *args, int num_threads, int64_t *share, piece_plan *plan,
                               int64_t *offset) {
  *offset = 0;
  for (const piece *piece = args->pieces;; piece++) {
    *plan = plan_piece(args, piece, num_threads);
    if (*share < plan->shares) return piece;
    *share -= plan->shares;
    if (plan->ranges > 1) *offset += plan->shares * plan->state_floats;
  }
}

static void set_tile(tile *t, int64_t index) {
  const int heads_per_key = t->args->num_heads / t->args->num_kv_heads;
  const int64_t token = index * t->plan.tokens;
  t->position = t->piece->start + token;
  t->num_queries = (int)least(t->plan.tokens, t->piece->count - token) * heads_per_key;
}

static void compute_share(const attention_args *args, team *team, int64_t share, float *states) {
  const int dim = args->head_dim;
  tile t = {.args = args};
  int64_t offset;
  t.piece = find_share(args, team->size, &share, &t.plan, &offset);
  const piece_plan *plan = &t.plan;
  /* Later tiles see more and come first; ranges of a tile and head lie side by side. */
  const int64_t range = share % plan->ranges, head_share = share / plan->ranges % plan->head_shares;
  const int64_t index = plan->tiles - 1 - share / plan->ranges / plan->head_shares, token = index * plan->tokens;
  set_tile(&t, index);
  float *at = (float *)team->scratch;
  t.queries = at, at += whole_lines((int64_t)plan->heads * plan->queries * dim);
  t.scores = at, at += plan->queries * PAGE_TOKENS;
  t.keys = at, at += 4 * cache_fours(dim) * PAGE_TOKENS;
  t.values = at, at += padded_dim(dim) * PAGE_TOKENS;
  if (plan->streamed && args->cache == CACHE_Q8) {
    const int groups = cache_groups(dim);
    t.query_codes = (int32_t *)at, at += plan->heads * groups * plan->queries * QUERY_PAIRS;
    t.query_units = at, at += whole_lines((int64_t)plan->heads * plan->queries);
    t.weight_codes = (int32_t *)at, at += groups * plan->queries * WEIGHT_PAIRS;
    t.weight_factors = at, at += groups * PAGE_TOKENS;
    t.weight_units = at, at += whole_lines(groups);
  }
  t.state = plan->ranges > 1 ? states + offset + share * plan->state_floats : at;
  for (int head = 0; head < plan->heads; head++) {
    softmax_state state = state_of_head(t.state, plan, dim, head);
    for (int q = 0; q < t.num_queries; q++) state.maxima[q] = lowest_score, state.sums[q] = 0;
    memset(state.values, 0, (int64_t)t.num_queries * padded_dim(dim) * sizeof(float));
  }
  const int first_head = (int)head_share * plan->heads;
  copy_queries(&t, first_head, token);
  if (t.query_codes)
    for (int head = 0; head < plan->heads; head++)
      code_queries(t.num_queries, dim, t.queries + (int64_t)head * plan->queries * dim,
                   t.query_codes + head * cache_groups(dim) * t.num_queries * QUERY_PAIRS,
                   t.query_units + head * t.num_queries);
  const int64_t begin = most(first_seen(args, t.piece, t.position), plan->begin + range * plan->range_length);
  const int64_t end = least(t.piece->start + least(token + plan->tokens, t.piece->count),
                            plan->begin + (range + 1) * plan->range_length);
  attend_range(&t, first_head, begin, end);
  if (plan->ranges > 1) return;
  for (int head = 0; head < plan->heads && first_head + head < args->num_kv_heads; head++)
    join_tile(&t, token, first_head + head, state_of_head(t.state, plan, dim, head), 0);
}

/* Joins the ranges of one tile and share of heads. */
static void join_share(const attention_args *args, int num_threads, int64_t share, float *states) {
  tile t = {.args = args};
  int64_t offset = 0;
  for (t.piece = args->pieces;; t.piece++) {
    t.plan = plan_piece(args, t.piece, num_threads);
    if (t.plan.ranges == 1) continue;
    if (share < t.plan.tiles * args->num_kv_heads) break;
    share -= t.plan.tiles * args->num_kv_heads;
    offset += t.plan.shares * t.plan.state_floats;
  }
  const piece_plan *plan = &t.plan;
  const int head = (int)(share % args->num_kv_heads);
  const int64_t order = share / args->num_kv_heads, index = plan->tiles - 1 - order;
  set_tile(&t, index);
  const int64_t first_share = (order * plan->head_shares + head / plan->heads) * plan->ranges;
  join_tile(&t, index * plan->tokens, head,
            state_of_head(states + offset + first_share * plan->state_floats, plan, args->head_dim, head % plan->heads),
            plan->state_floats);
}

static void attention(const attention_args *args, team *team) {
  write_caches(args, team);
  int64_t shares = 0, joined = 0, floats = 0;
  for (int64_t i = 0; i < args->num_pieces; i++) {
    piece_plan plan = plan_piece(args, args->pieces + i, team->size);
    shares += plan.shares;
    if (plan.ranges == 1) continue;
    joined += plan.tiles * args->num_kv_heads;
    floats += plan.shares * plan.state_floats;
  }
  float *states = NULL;
  if (floats && !(states = team_shared(team, floats * sizeof(float)))) return;
  if (!team_barrier(team)) return;
  for (int64_t share; (share = team_next(team, shares)) >= 0; ) compute_share(args, team, share, states);
  if (!joined || !team_barrier(team)) return;
  for (int64_t share; (share = team_next(team, joined)) >= 0; ) join_share(args, team->size, share, states);
}
