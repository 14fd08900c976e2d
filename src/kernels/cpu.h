/*
 * What a CPU kernel is given. Each op's kernel lies beside its definition, src/kernels/<op>/<op>.c; native/kernels.c
 * includes them all and is compiled once per instruction set, so everything in them is static.
 *
 * Every thread of the pool calls the kernel with the same arguments and its own `team`; the kernel deals out its work with
 * team_next and separates its phases with team_barrier. When the last thread returns, the op is done.
 */
#ifndef TUTTI_CPU_H
#define TUTTI_CPU_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- threads */

typedef struct team {
  int rank, size;        /* this thread, of how many */
  uint8_t *scratch;      /* this thread's own, TEAM_SCRATCH bytes, 64-byte aligned; what a kernel leaves there is lost */
  struct gang *gang;     /* the pool's */
} team;

enum { TEAM_SCRATCH = 1 << 20 };

/* The next share of 0 … count-1, in order, each given once among all threads since the last barrier; -1 when all are taken
 * or the pass has been stopped. A share should take 0.05 to 2 ms: a stop is noticed between two, and so is an urgent pass,
 * which all threads then run before this function returns, or a barrier does. It has other scratch and shared memory, but
 * what AMX tiles hold is lost. */
int64_t team_next(team *, int64_t count);
/* All threads have arrived, what they wrote is seen, and team_next begins again. False: stopped; return at once. */
bool team_barrier(team *);
/* The same `bytes` of memory for all threads, 64-byte aligned, until the op is done or another call asks. Every thread
 * must call it, with the same size, at the same place. NULL: stopped, or no memory (the pass then fails); return at once. */
void *team_shared(team *, size_t bytes);

/* ---- weights */

typedef enum { TYPE_F32, TYPE_BF16, TYPE_MXFP4, TYPE_Q8 } number_type;

/*
 * [experts, rows, cols], row-major. Data may lie at any address (a mapped file): no alignment may be assumed but Q8's.
 *   F32, BF16   one or more parts, whose rows follow each other (q, k and v of some checkpoints are apart)
 *   MXFP4       data: blocks [experts, rows, cols/32, 16], scales [experts, rows, cols/32], as in the checkpoint
 *   Q8          made by quantize_q8: panels of 16 rows (missing rows are zero), 64-byte aligned. A panel is one block per 32
 *               columns (missing columns are zero): 16 bf16 scales, then int8 codes [8][16 rows][4 columns]: 544 bytes.
 */
typedef struct matrix {
  number_type type;
  int64_t experts, rows, cols;
  int num_parts;
  struct { int64_t rows; const uint8_t *data, *scales; } parts[3];
} matrix;

enum { Q8_ROWS = 16, Q8_COLS = 32, Q8_BLOCK = 544 };
static inline int64_t q8_bytes(int64_t rows, int64_t cols) { return (rows + 15) / 16 * ((cols + 31) / 32) * Q8_BLOCK; }

/* ---- caches */

/*
 * Keys and values of one layer lie in pages of PAGE_TOKENS tokens, found through a table: position p is token
 * (p % capacity) % PAGE_TOKENS of page (p % capacity) / PAGE_TOKENS. Full layers have capacity INT64_MAX.
 * A page is, per key/value head, its keys, then its values.
 *   CACHE_BF16  bfloat16, rounded to nearest even: keys [headDim][PAGE_TOKENS] (a token is a column: scores of many
 *               tokens are computed side by side), values [PAGE_TOKENS][headDim]
 *   CACHE_Q8    int8 with a scale per 32, as attention/pages.h has it; cache_page_bytes gives the size
 */
enum { PAGE_TOKENS = 64 };
typedef enum { CACHE_BF16, CACHE_Q8 } cache_type;

/* One sequence's share of a batch: rows row … row+count of the activations are its positions from start on. */
typedef struct piece {
  int64_t row, count, start;
  int64_t first;          /* the earliest position held or written now; nothing before it is seen */
  int64_t length;         /* positions below this are taken already and keep what they hold */
  int64_t capacity;
  uint8_t *const *pages;  /* num_pages of them, 64-byte aligned */
  int64_t num_pages;
} piece;

/* ---- ops: activations are float32, row-major, 64-byte aligned */

typedef struct { const int32_t *tokens; int64_t count; const matrix *table; float *out; } embedding_args;
typedef struct { const float *x; int64_t tokens, width; const float *weight; double epsilon; float *out; } rms_norm_args;
/* out [tokens, weight->rows] = x [tokens, weight->cols] · weightᵀ + bias (may be NULL). BF16 and F32 weights meet float
 * activations; Q8 weights meet activations of 8 or 16 bits, whichever costs less, with a scale per 32. */
typedef struct { const float *x; int64_t tokens; const matrix *weight; const float *bias; float *out; } linear_args;
/* frequencies [headDim / 2]; angles in double. qkv and out may be the same memory. */
typedef struct {
  const float *qkv; int64_t tokens; const int32_t *positions; const double *frequencies; double concentration;
  int num_heads, num_kv_heads, head_dim; float *out;
} rope_args;
typedef struct {
  const float *qkv; int64_t tokens; const float *sinks; const piece *pieces; int64_t num_pieces;
  int num_heads, num_kv_heads, head_dim; int64_t window; /* INT64_MAX: all */
  cache_type cache; float *out;
} attention_args;
/* experts and weights [tokens, k], both float32. */
typedef struct { const float *logits; int64_t tokens, num_experts; int k; float *experts, *weights; } top_k_args;
/* exact: float activations; otherwise int8 with a scale per 32. */
typedef struct {
  const float *x; int64_t tokens, hidden, inner; const float *experts, *weights; int k; bool exact;
  const matrix *gate_up, *down; const matrix *gate_up_bias, *down_bias; /* biases [num_experts, rows], F32 or BF16 */
  float swiglu_limit; float *out;
} experts_args;
typedef struct { const float *x, *y; int64_t length; float *out; } add_args;
typedef struct { const float *x; int64_t width; const int32_t *indices; int64_t count; float *out; } rows_args;
/* rows of F32 or BF16 → Q8; out is zeroed memory of q8_bytes. */
typedef struct { const matrix *source; uint8_t *out; } quantize_args;

typedef struct kernels {
  const char *level; /* baseline, avx2, avx512-vnni, avx512-bf16, amx, neon */
  void (*embedding)(const embedding_args *, team *);
  void (*rms_norm)(const rms_norm_args *, team *);
  void (*linear)(const linear_args *, team *);
  void (*rope)(const rope_args *, team *);
  void (*attention)(const attention_args *, team *);
  void (*top_k)(const top_k_args *, team *);
  void (*experts)(const experts_args *, team *);
  void (*add)(const add_args *, team *);
  void (*rows)(const rows_args *, team *);
  void (*quantize_q8)(const quantize_args *, team *);
  /* Reads memory as fast as this instruction set can: what decode is measured against. Returns a checksum of its share. */
  uint64_t (*read_memory)(const uint8_t *data, int64_t bytes, team *);
  /* Per thread, before and after a pass, but not around one that interrupts another (AMX tiles). */
  void (*enter)(void);
  void (*leave)(void);
  int64_t (*cache_page_bytes)(cache_type, int num_kv_heads, int head_dim);
  /* Tokens begin … end-1 of a page to bytes in an order of no page's, a PAGE_TOKENS-th of its bytes each, or back. */
  void (*move_tokens)(cache_type, int num_kv_heads, int head_dim, uint8_t *page, int begin, int end, uint8_t *bytes,
                      bool into_page);
} kernels;

#endif
