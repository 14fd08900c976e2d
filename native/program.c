#include "program.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* src/device/cpu-opcodes.ts has the same list, with the operands of each. */
typedef enum { EMBEDDING = 1, RMS_NORM, LINEAR, ROPE, ATTENTION, TOP_K, EXPERTS, ADD, ROWS } opcode;

static const char *const names[] = {"",          "embedding", "rmsNorm", "linear", "rope",
                                    "attention", "topK",      "experts", "add",    "rows"};

typedef struct op {
  opcode code;
  union {
    embedding_args embedding;
    rms_norm_args rms_norm;
    linear_args linear;
    rope_args rope;
    attention_args attention;
    top_k_args top_k;
    experts_args experts;
    add_args add;
    rows_args rows;
  };
} op;

/* What operands point to lies in chunks, none of which ever moves. */
typedef struct chunk {
  struct chunk *next;
  size_t used, size;
  _Alignas(64) uint8_t data[];
} chunk;

typedef struct program {
  task task;
  op *ops;
  size_t num_ops, max_ops;
  chunk *chunks;
  const float *result_from;
  size_t result_bytes;
  float *result_to;
} program;

/* ---- running */

static void run_op(const kernels *k, op *o, team *t) {
  switch (o->code) {
    case EMBEDDING: k->embedding(&o->embedding, t); return;
    case RMS_NORM: k->rms_norm(&o->rms_norm, t); return;
    case LINEAR: k->linear(&o->linear, t); return;
    case ROPE: k->rope(&o->rope, t); return;
    case ATTENTION: k->attention(&o->attention, t); return;
    case TOP_K: k->top_k(&o->top_k, t); return;
    case EXPERTS: k->experts(&o->experts, t); return;
    case ADD: k->add(&o->add, t); return;
    case ROWS: k->rows(&o->rows, t); return;
  }
}

static void run_program(pass *pass, team *t) {
  program *p = (program *)pass;
  const kernels *k = p->task.device->kernels;
  bool going = true;
  for (size_t i = 0; going && i < p->num_ops; i++) {
    run_op(k, &p->ops[i], t);
    going = team_end_op(t);
  }
}

static void gather_result(task *t) {
  program *p = (program *)t;
  if (p->result_bytes > 0) memcpy(p->result_to, p->result_from, p->result_bytes);
}

static void destroy_program(task *t) {
  program *p = (program *)t;
  for (chunk *c = p->chunks, *next; c != NULL; c = next) {
    next = c->next;
    free(c);
  }
  free(p->ops);
}

/* ---- reading words: the first thing that is wrong is kept, and everything read after it is 0 or NULL */

enum { MAX_TOKENS = 1 << 24, MAX_WIDTH = 1 << 30, MAX_HEADS = 4096 };

typedef struct reader {
  device *device;
  program *program;
  const arena *arena;
  const double *words;
  size_t num_words, at, op_at;
  const char *op;
  int64_t arena_bytes;
  problem *problem;
  bool failed;
} reader;

__attribute__((format(printf, 2, 3))) static void wrong(reader *r, const char *format, ...) {
  if (r->failed) return;
  r->failed = true;
  char what[384];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  refuse(r->problem, PROBLEM_RANGE, "word %zu of the program, %s: %s", r->op_at, r->op, what);
}

static void out_of_memory(reader *r) {
  if (r->failed) return;
  r->failed = true;
  refuse(r->problem, PROBLEM_MEMORY, "the system gave no memory for a program of %zu words", r->num_words);
}

static double number(reader *r, const char *name) {
  if (r->failed) return 0;
  if (r->at == r->num_words) {
    wrong(r, "%s is missing, the program has %zu words", name, r->num_words);
    return 0;
  }
  double word = r->words[r->at++];
  if (!isfinite(word)) wrong(r, "%s is %g", name, word);
  return r->failed ? 0 : word;
}

static int64_t whole(reader *r, const char *name, int64_t least, int64_t most) {
  double word = number(r, name);
  if (word < (double)least || word > (double)most || word != floor(word)) {
    wrong(r, "%s is %.17g, expected a whole number from %lld to %lld", name, word, (long long)least, (long long)most);
  }
  return r->failed ? 0 : (int64_t)word;
}

static void *take(reader *r, size_t size) {
  enum { LEAST = 1 << 16 };
  if (r->failed) return NULL;
  program *p = r->program;
  size = (size + 63) / 64 * 64;
  if (p->chunks == NULL || p->chunks->size - p->chunks->used < size) {
    size_t room = size > LEAST ? size : LEAST;
    chunk *c = aligned_alloc(64, (sizeof *c + room + 63) / 64 * 64);
    if (c == NULL) {
      out_of_memory(r);
      return NULL;
    }
    *c = (chunk){p->chunks, 0, room};
    p->chunks = c;
  }
  void *data = p->chunks->data + p->chunks->used;
  p->chunks->used += size;
  return data;
}

/* Room for an array whose elements are among the words that follow. */
static void *take_array(reader *r, const char *name, int64_t count, int64_t words_each, size_t element) {
  if (!r->failed && (uint64_t)count * (uint64_t)words_each > r->num_words - r->at) {
    wrong(r, "%s has %lld elements, the program has %zu words left", name, (long long)count, r->num_words - r->at);
  }
  return take(r, (size_t)count * element);
}

static int32_t *integers(reader *r, const char *name, int64_t count, int64_t most) {
  int32_t *list = take_array(r, name, count, 1, sizeof *list);
  for (int64_t i = 0; i < count && !r->failed; i++) list[i] = (int32_t)whole(r, name, 0, most);
  return list;
}

/* ---- operands */

/* A place in the arena; how much lies there is known later. */
static int64_t offset(reader *r, const char *name) {
  int64_t at = whole(r, name, 0, r->arena_bytes);
  if (at % 64 != 0) wrong(r, "%s is %lld, no multiple of 64", name, (long long)at);
  return at;
}

static float *activation(reader *r, const char *name, int64_t at, int64_t rows, int64_t width) {
  int64_t size = rows * width * (int64_t)sizeof(float);
  if (size > r->arena_bytes - at) {
    wrong(r, "%s [%lld, %lld] at byte %lld reaches outside the arena of %lld bytes", name, (long long)rows,
          (long long)width, (long long)at, (long long)r->arena_bytes);
  }
  return r->failed ? NULL : (float *)(void *)(r->arena->data + at);
}

/* Kernels may write a part of `out` while others still read `in`. */
static void apart(reader *r, const float *out, int64_t out_length, const float *in, int64_t in_length) {
  if (r->failed || out_length == 0 || in_length == 0) return;
  if (out >= in + in_length || in >= out + out_length) return;
  wrong(r, "a result of %lld numbers overlaps what it is made from", (long long)out_length);
}

static const matrix *weight_operand(reader *r, const char *name, bool optional) {
  int64_t id = whole(r, name, optional ? -1 : 0, INT32_MAX);
  if (r->failed || id < 0) return NULL;
  weight *w = device_weight(r->device, id);
  if (w == NULL) {
    wrong(r, "%s is matrix %lld, which there is not", name, (long long)id);
    return NULL;
  }
  if (!task_uses(&r->program->task, &w->item, false)) {
    out_of_memory(r);
    return NULL;
  }
  return &w->m;
}

static void expect_shape(reader *r, const char *name, const matrix *m, int64_t experts, int64_t rows, int64_t cols) {
  if (r->failed || (m->experts == experts && m->rows == rows && m->cols == cols)) return;
  wrong(r, "%s has shape [%lld, %lld, %lld], expected [%lld, %lld, %lld]", name, (long long)m->experts,
        (long long)m->rows, (long long)m->cols, (long long)experts, (long long)rows, (long long)cols);
}

static void expect_type(reader *r, const char *name, const matrix *m, unsigned types) {
  static const char *const type_names[] = {"F32", "BF16", "MXFP4", "8 bits"};
  if (!r->failed && (1u << m->type & types) == 0) wrong(r, "%s is a matrix of %s", name, type_names[m->type]);
}

enum { F32 = 1 << TYPE_F32, BF16 = 1 << TYPE_BF16, MXFP4 = 1 << TYPE_MXFP4, Q8 = 1 << TYPE_Q8 };

static const float *vector(reader *r, const char *name, const matrix *m, int64_t cols) {
  if (r->failed || m == NULL) return NULL;
  expect_type(r, name, m, F32);
  expect_shape(r, name, m, 1, 1, cols);
  return (const float *)(const void *)m->parts[0].data;
}

/* ---- ops: each returns whether there is anything to do */

static bool read_embedding(reader *r, embedding_args *a) {
  a->table = weight_operand(r, "table", false);
  int64_t out = offset(r, "out");
  a->count = whole(r, "count", 0, MAX_TOKENS);
  if (r->failed) return false;
  expect_type(r, "table", a->table, F32 | BF16);
  a->tokens = integers(r, "token", a->count, a->table->rows - 1);
  a->out = activation(r, "out", out, a->count, a->table->cols);
  return a->count > 0;
}

static bool read_rms_norm(reader *r, rms_norm_args *a) {
  int64_t x = offset(r, "x");
  a->tokens = whole(r, "tokens", 0, MAX_TOKENS);
  a->width = whole(r, "width", 1, MAX_WIDTH);
  a->weight = vector(r, "weight", weight_operand(r, "weight", false), a->width);
  a->epsilon = number(r, "epsilon");
  a->x = activation(r, "x", x, a->tokens, a->width);
  a->out = activation(r, "out", offset(r, "out"), a->tokens, a->width);
  apart(r, a->out, a->tokens * a->width, a->x, a->tokens * a->width);
  return a->tokens > 0;
}

static bool read_linear(reader *r, linear_args *a) {
  int64_t x = offset(r, "x");
  a->tokens = whole(r, "tokens", 0, MAX_TOKENS);
  a->weight = weight_operand(r, "weight", false);
  const matrix *bias = weight_operand(r, "bias", true);
  int64_t out = offset(r, "out");
  if (r->failed) return false;
  expect_type(r, "weight", a->weight, F32 | BF16 | Q8);
  a->bias = vector(r, "bias", bias, a->weight->rows);
  a->x = activation(r, "x", x, a->tokens, a->weight->cols);
  a->out = activation(r, "out", out, a->tokens, a->weight->rows);
  apart(r, a->out, a->tokens * a->weight->rows, a->x, a->tokens * a->weight->cols);
  return a->tokens > 0;
}

static void read_heads(reader *r, int *num_heads, int *num_kv_heads, int *head_dim) {
  *num_heads = (int)whole(r, "heads", 1, MAX_HEADS);
  *num_kv_heads = (int)whole(r, "kvHeads", 1, MAX_HEADS);
  *head_dim = (int)whole(r, "headDim", 1, MAX_HEADS);
  if (!r->failed && *num_heads % *num_kv_heads != 0) wrong(r, "%d heads, no multiple of %d", *num_heads, *num_kv_heads);
}

static bool read_rope(reader *r, rope_args *a) {
  int64_t qkv = offset(r, "qkv");
  a->tokens = whole(r, "tokens", 0, MAX_TOKENS);
  read_heads(r, &a->num_heads, &a->num_kv_heads, &a->head_dim);
  if (a->head_dim % 2 != 0) wrong(r, "headDim is %d, an odd number", a->head_dim);
  a->concentration = number(r, "concentration");
  int64_t out = offset(r, "out"), width = (int64_t)(a->num_heads + 2 * a->num_kv_heads) * a->head_dim;
  a->positions = integers(r, "position", a->tokens, INT32_MAX);
  int64_t num_frequencies = a->head_dim / 2;
  double *frequencies = take_array(r, "frequency", num_frequencies, 1, sizeof *frequencies);
  for (int64_t i = 0; i < num_frequencies && !r->failed; i++) frequencies[i] = number(r, "frequency");
  a->frequencies = frequencies;
  a->qkv = activation(r, "qkv", qkv, a->tokens, width);
  a->out = activation(r, "out", out, a->tokens, width);
  if (a->out != a->qkv) apart(r, a->out, a->tokens * width, a->qkv, a->tokens * width);
  return a->tokens > 0;
}

static uint8_t *page_operand(reader *r, size_t page_bytes, bool writes) {
  int64_t id = whole(r, "page", 0, INT32_MAX);
  if (r->failed) return NULL;
  page *p = device_page(r->device, id);
  if (p == NULL) {
    wrong(r, "there is no page %lld", (long long)id);
  } else if (p->memory.bytes < page_bytes) {
    wrong(r, "page %lld has %zu bytes, and 64 tokens need %zu", (long long)id, p->memory.bytes, page_bytes);
  } else if (!task_uses(&r->program->task, &p->item, writes)) {
    out_of_memory(r);
  }
  return r->failed ? NULL : p->memory.data;
}

/* Whether one of the positions that are written lies in page number i; in a ring they go on at its beginning. */
static bool writes_page(const piece *p, int64_t i) {
  int64_t from = p->start > p->length ? p->start : p->length, count = p->start + p->count - from;
  int64_t begin = from % p->capacity, end = begin + count, place = i * PAGE_TOKENS;
  return count > 0 && ((place < end && place + PAGE_TOKENS > begin) || place < end - p->capacity);
}

static void read_piece(reader *r, piece *p, int64_t tokens, size_t page_bytes) {
  p->row = whole(r, "row", 0, tokens);
  p->count = whole(r, "count", 0, tokens - p->row);
  p->start = whole(r, "start", 0, INT32_MAX - p->count);
  p->first = whole(r, "first", 0, p->start);
  p->length = whole(r, "length", 0, INT32_MAX);
  p->capacity = whole(r, "capacity", 0, INT32_MAX);
  if (p->capacity == 0) p->capacity = INT64_MAX;
  p->num_pages = whole(r, "pages", 0, INT32_MAX);
  int64_t end = p->start + p->count, places = end < p->capacity ? end : p->capacity;
  if (p->num_pages < (places + PAGE_TOKENS - 1) / PAGE_TOKENS) {
    wrong(r, "a piece has %lld pages, and positions up to %lld need %lld", (long long)p->num_pages, (long long)end,
          (long long)((places + PAGE_TOKENS - 1) / PAGE_TOKENS));
  }
  uint8_t **pages = take_array(r, "page", p->num_pages, 1, sizeof *pages);
  for (int64_t i = 0; i < p->num_pages && !r->failed; i++) {
    pages[i] = page_operand(r, page_bytes, writes_page(p, i));
  }
  p->pages = pages;
}

static bool read_attention(reader *r, attention_args *a) {
  int64_t qkv = offset(r, "qkv");
  a->tokens = whole(r, "tokens", 0, MAX_TOKENS);
  const matrix *sinks = weight_operand(r, "sinks", false);
  read_heads(r, &a->num_heads, &a->num_kv_heads, &a->head_dim);
  a->window = whole(r, "window", 0, INT32_MAX);
  if (a->window == 0) a->window = INT64_MAX;
  a->cache = (cache_type)whole(r, "cacheType", CACHE_BF16, CACHE_Q8);
  int64_t out = offset(r, "out");
  a->num_pieces = whole(r, "numPieces", 0, MAX_TOKENS);
  if (r->failed) return false;
  a->sinks = vector(r, "sinks", sinks, a->num_heads);
  size_t page_bytes = (size_t)r->device->kernels->cache_page_bytes(a->cache, a->num_kv_heads, a->head_dim);
  enum { PIECE_WORDS = 7 };
  piece *pieces = take_array(r, "piece", a->num_pieces, PIECE_WORDS, sizeof *pieces);
  for (int64_t i = 0; i < a->num_pieces && !r->failed; i++) read_piece(r, &pieces[i], a->tokens, page_bytes);
  a->pieces = pieces;
  int64_t out_width = (int64_t)a->num_heads * a->head_dim;
  int64_t width = out_width + 2 * (int64_t)a->num_kv_heads * a->head_dim;
  a->qkv = activation(r, "qkv", qkv, a->tokens, width);
  a->out = activation(r, "out", out, a->tokens, out_width);
  apart(r, a->out, a->tokens * out_width, a->qkv, a->tokens * width);
  return a->tokens > 0 && a->num_pieces > 0;
}

static bool read_top_k(reader *r, top_k_args *a) {
  int64_t logits = offset(r, "logits");
  a->tokens = whole(r, "tokens", 0, MAX_TOKENS);
  a->num_experts = whole(r, "numExperts", 1, MAX_WIDTH);
  a->k = (int)whole(r, "k", 1, a->num_experts);
  a->logits = activation(r, "logits", logits, a->tokens, a->num_experts);
  a->experts = activation(r, "experts", offset(r, "experts"), a->tokens, a->k);
  a->weights = activation(r, "weights", offset(r, "weights"), a->tokens, a->k);
  int64_t chosen = a->tokens * a->k;
  apart(r, a->experts, chosen, a->logits, a->tokens * a->num_experts);
  apart(r, a->weights, chosen, a->logits, a->tokens * a->num_experts);
  apart(r, a->weights, chosen, a->experts, chosen);
  return a->tokens > 0;
}

static bool read_experts(reader *r, experts_args *a) {
  int64_t x = offset(r, "x");
  a->tokens = whole(r, "tokens", 0, MAX_TOKENS);
  a->hidden = whole(r, "hidden", 1, MAX_WIDTH);
  a->inner = whole(r, "inner", 1, MAX_WIDTH / 2);
  int64_t experts = offset(r, "experts"), weights = offset(r, "weights");
  a->k = (int)whole(r, "k", 1, MAX_HEADS);
  a->exact = whole(r, "exact", 0, 1) == 1;
  a->gate_up = weight_operand(r, "gateUp", false);
  a->down = weight_operand(r, "down", false);
  a->gate_up_bias = weight_operand(r, "gateUpBias", false);
  a->down_bias = weight_operand(r, "downBias", false);
  a->swiglu_limit = (float)number(r, "swigluLimit");
  int64_t out = offset(r, "out");
  if (r->failed) return false;
  int64_t num_experts = a->gate_up->experts;
  expect_type(r, "gateUp", a->gate_up, MXFP4);
  expect_type(r, "down", a->down, MXFP4);
  expect_type(r, "gateUpBias", a->gate_up_bias, F32 | BF16);
  expect_type(r, "downBias", a->down_bias, F32 | BF16);
  expect_shape(r, "gateUp", a->gate_up, num_experts, 2 * a->inner, a->hidden);
  expect_shape(r, "down", a->down, num_experts, a->hidden, a->inner);
  expect_shape(r, "gateUpBias", a->gate_up_bias, 1, num_experts, 2 * a->inner);
  expect_shape(r, "downBias", a->down_bias, 1, num_experts, a->hidden);
  if (a->k > num_experts) wrong(r, "k is %d of %lld experts", a->k, (long long)num_experts);
  a->x = activation(r, "x", x, a->tokens, a->hidden);
  a->experts = activation(r, "experts", experts, a->tokens, a->k);
  a->weights = activation(r, "weights", weights, a->tokens, a->k);
  a->out = activation(r, "out", out, a->tokens, a->hidden);
  apart(r, a->out, a->tokens * a->hidden, a->x, a->tokens * a->hidden);
  apart(r, a->out, a->tokens * a->hidden, a->experts, a->tokens * a->k);
  apart(r, a->out, a->tokens * a->hidden, a->weights, a->tokens * a->k);
  return a->tokens > 0;
}

static bool read_add(reader *r, add_args *a) {
  int64_t x = offset(r, "x"), y = offset(r, "y");
  a->length = whole(r, "length", 0, INT64_C(1) << 40);
  a->x = activation(r, "x", x, 1, a->length);
  a->y = activation(r, "y", y, 1, a->length);
  a->out = activation(r, "out", offset(r, "out"), 1, a->length);
  if (a->out != a->x) apart(r, a->out, a->length, a->x, a->length);
  if (a->out != a->y) apart(r, a->out, a->length, a->y, a->length);
  return a->length > 0;
}

static bool read_rows(reader *r, rows_args *a) {
  int64_t x = offset(r, "x");
  a->width = whole(r, "width", 1, MAX_WIDTH);
  int64_t out = offset(r, "out");
  a->count = whole(r, "count", 0, MAX_TOKENS);
  if (r->failed) return false;
  int64_t rows = (r->arena_bytes - x) / (a->width * (int64_t)sizeof(float)), highest = 0;
  a->indices = integers(r, "index", a->count, rows - 1 < INT32_MAX ? rows - 1 : INT32_MAX);
  for (int64_t i = 0; i < a->count && !r->failed; i++) highest = a->indices[i] > highest ? a->indices[i] : highest;
  a->x = (const float *)(const void *)(r->arena->data + x);
  a->out = activation(r, "out", out, a->count, a->width);
  if (a->count > 0) apart(r, a->out, a->count * a->width, a->x, (highest + 1) * a->width);
  return a->count > 0;
}

/* ---- programs */

static bool read_op(reader *r, op *o) {
  switch (o->code) {
    case EMBEDDING: return read_embedding(r, &o->embedding);
    case RMS_NORM: return read_rms_norm(r, &o->rms_norm);
    case LINEAR: return read_linear(r, &o->linear);
    case ROPE: return read_rope(r, &o->rope);
    case ATTENTION: return read_attention(r, &o->attention);
    case TOP_K: return read_top_k(r, &o->top_k);
    case EXPERTS: return read_experts(r, &o->experts);
    case ADD: return read_add(r, &o->add);
    case ROWS: return read_rows(r, &o->rows);
  }
  return false;
}

static op *next_op(reader *r) {
  program *p = r->program;
  if (p->num_ops < p->max_ops) return &p->ops[p->num_ops];
  size_t max = p->max_ops * 2 + 64;
  op *ops = realloc(p->ops, max * sizeof *ops);
  if (ops == NULL) {
    out_of_memory(r);
    return NULL;
  }
  p->ops = ops;
  p->max_ops = max;
  return &ops[p->num_ops];
}

static bool read_program(reader *r) {
  while (r->at < r->num_words && !r->failed) {
    op *o = next_op(r);
    if (o == NULL) return false;
    memset(o, 0, sizeof *o);
    r->op_at = r->at;
    r->op = "opcode";
    o->code = (opcode)whole(r, "it", EMBEDDING, ROWS);
    r->op = names[o->code];
    if (!r->failed && read_op(r, o) && !r->failed) r->program->num_ops++;
  }
  return !r->failed;
}

static bool check_arena(const arena *a, int64_t arena_bytes, int64_t at, int64_t length, problem *p) {
  if (arena_bytes < 0 || arena_bytes > (int64_t)a->reserved) {
    return refuse(p, PROBLEM_RANGE, "an arena of %lld bytes, and at most %lld are possible here",
                  (long long)arena_bytes, (long long)a->reserved);
  }
  if (at < 0 || at % 4 != 0 || length < 0 || at > arena_bytes || length > (arena_bytes - at) / 4) {
    return refuse(p, PROBLEM_RANGE,
                  "a result of %lld float32 at byte %lld lies outside the arena of %lld bytes, or across a number",
                  (long long)length, (long long)at, (long long)arena_bytes);
  }
  return true;
}

static task *new_program(device *d, arena *a, const double *words, size_t num_words, int64_t arena_bytes,
                         int64_t result_offset, int64_t result_length, problem *problem) {
  if (!check_arena(a, arena_bytes, result_offset, result_length, problem)) return NULL;
  program *p = task_new(d, sizeof *p, run_program, problem);
  if (p == NULL) return NULL;
  p->task.gather = gather_result;
  p->task.destroy = destroy_program;
  p->result_from = (const float *)(const void *)(a->data + result_offset);
  p->result_bytes = (size_t)result_length * sizeof(float);
  reader r = {d, p, a, words, num_words, 0, 0, "program", arena_bytes, problem, false};
  if (read_program(&r)) {
    if (arena_grow(d->memory, a, (size_t)arena_bytes)) return &p->task;
    refuse(problem, PROBLEM_MEMORY, "the system gave no %lld bytes of memory for activations", (long long)arena_bytes);
  }
  task_over(&p->task);
  return NULL;
}

static bool open_detour(device *d) {
  return (d->detour_arena.data != NULL || arena_open(d->memory, &d->detour_arena)) && gang_open_detour(d->gang);
}

task *device_program(device *d, const double *words, size_t num_words, int64_t arena_bytes, int64_t result_offset,
                     int64_t result_length, bool urgent, problem *problem) {
  /* With nothing in flight there is nothing to interrupt, and the one arena is free. */
  bool first = d->first == NULL;
  arena *a = urgent && !first && open_detour(d) ? &d->detour_arena : &d->arena;
  task *t = new_program(d, a, words, num_words, arena_bytes, result_offset, result_length, problem);
  if (a == &d->detour_arena && t != NULL && task_conflicts(t)) {
    task_over(t);
    a = &d->arena;
    t = new_program(d, a, words, num_words, arena_bytes, result_offset, result_length, problem);
  }
  if (t != NULL) t->pass.urgent = urgent && (first || a == &d->detour_arena);
  return t;
}

void task_set_result(task *t, float *result) { ((program *)t)->result_to = result; }
