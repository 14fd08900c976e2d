/*
 * linear and quantize_q8 alone, with threads of its own: cases against float64 and against the same quantised
 * arithmetic one number at a time, then (with the argument `bench`) their speed.
 *   cc -O3 -std=gnu11 -mavx2 -mfma -mf16c -mbmi -mbmi2 -ffp-contract=fast -fno-math-errno -fno-trapping-math \
 *     -pthread test/native/linear-harness.c -lm -o linear-harness && ./linear-harness
 * AVX-512 VNNI without having it: -Wno-psabi -I test/native/emulated -D__AVX512F__ -D__AVX512VNNI__ in place of -m…;
 * AMX: -D__AVX512BF16__ -D__AMX_TILE__ -D__AMX_BF16__ as well.
 */
#define _GNU_SOURCE
#include "../../src/kernels/linear/linear.c"
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- a pool: threads for one op, with a barrier that spins */

struct gang {
  int size;
  _Atomic int64_t next;
  _Atomic int arrived, phase;
  _Atomic(void *) shared;
  size_t shared_bytes;
};

int64_t team_next(team *team, int64_t count) {
  int64_t share = team->gang->next++;
  return share < count ? share : -1;
}

bool team_barrier(team *team) {
  struct gang *gang = team->gang;
  int phase = gang->phase;
  if (++gang->arrived == gang->size) {
    gang->arrived = 0;
    gang->next = 0;
    gang->phase = phase + 1;
  } else
    while (gang->phase == phase) sched_yield();
  return true;
}

void *team_shared(team *team, size_t bytes) {
  struct gang *gang = team->gang;
  team_barrier(team);
  if (team->rank == 0 && gang->shared_bytes < bytes) {
    free(gang->shared);
    gang->shared = aligned_alloc(64, (bytes + 63) / 64 * 64);
    gang->shared_bytes = bytes;
  }
  team_barrier(team);
  return gang->shared;
}

typedef struct {
  team team;
  pthread_t thread;
  void (*run)(void *, team *);
  void *args;
  int times;
  bool pin;
  double seconds; /* of the processor's time */
} member;

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *member_main(void *p) {
  member *m = p;
  if (m->pin) {
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET(m->team.rank, &cpu);
    pthread_setaffinity_np(pthread_self(), sizeof cpu, &cpu);
  }
  enter_pass();
  for (int i = 0; i < m->times; i++) {
    m->run(m->args, &m->team);
    team_barrier(&m->team);
  }
  leave_pass();
  m->seconds = now(CLOCK_THREAD_CPUTIME_ID);
  return NULL;
}

static int cases; /* how often a kernel ran */

/* Seconds that `times` runs of an op take: of one thread its own, so that others on the machine disturb less. */
static double run(void (*op)(void *, team *), void *args, int threads, int times) {
  enum { MOST = 64 };
  struct gang gang = { .size = threads };
  member members[MOST];
  double began = now(CLOCK_MONOTONIC);
  cases++;
  for (int i = 0; i < threads; i++) {
    bool pin = threads > 1 && times > 1;
    members[i] = (member){ { i, threads, aligned_alloc(64, TEAM_SCRATCH), &gang }, 0, op, args, times, pin, 0 };
    pthread_create(&members[i].thread, NULL, member_main, members + i);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(members[i].thread, NULL);
    free(members[i].team.scratch);
  }
  double took = threads == 1 ? members[0].seconds : now(CLOCK_MONOTONIC) - began;
  free(gang.shared);
  return took;
}

static void run_linear(void *args, team *team) { linear(args, team); }
static void run_quantize(void *args, team *team) { quantize_q8(args, team); }

/* ---- numbers */

static uint64_t seed = 1;
static double uniform(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return ((double)(seed >> 33) + 0.5) / 2147483648.0;
}
static float normal(void) { return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }
static uint16_t to_bf16(float f) { return (uint16_t)((q8_bits(f) + 0x7fff + (q8_bits(f) >> 16 & 1)) >> 16); }
static float from_bf16(const uint8_t *at) {
  uint16_t half;
  memcpy(&half, at, 2);
  return q8_from_bits((uint32_t)half << 16);
}

static double weight_at(const matrix *m, int64_t row, int64_t col) {
  if (m->type == TYPE_Q8) {
    const uint8_t *block = m->parts[0].data + (row / 16 * ((m->cols + 31) / 32) + col / 32) * Q8_BLOCK;
    return (double)from_bf16(block + row % 16 * 2) * (int8_t)block[32 + col % 32 / 4 * 64 + row % 16 * 4 + col % 4];
  }
  int part = 0;
  while (row >= m->parts[part].rows) row -= m->parts[part++].rows;
  const uint8_t *at = m->parts[part].data + (row * m->cols + col) * (m->type == TYPE_BF16 ? 2 : 4);
  if (m->type == TYPE_BF16) return from_bf16(at);
  float f;
  memcpy(&f, at, 4);
  return f;
}

/* What the kernel makes of a token's activations, one number at a time. */
static void emulate_activations(const float *x, int64_t cols, bool tiles, double *out) {
  for (int64_t g = 0; g < cols; g += 32) {
    int64_t end = g + 32 < cols ? g + 32 : cols;
    float largest = 0;
    bool finite = true;
    for (int64_t k = g; k < end; k++) {
      finite = finite && isfinite(x[k]);
      largest = fmaxf(largest, fabsf(x[k]));
    }
    float scale = largest / Q8_LARGEST, inverse = largest > 0 ? Q8_LARGEST / largest : 0;
    for (int64_t k = g; k < end; k++)
      out[k] = !finite ? NAN
               : tiles ? q8_from_bits((uint32_t)to_bf16(x[k]) << 16)
                       : (double)scale * rint(x[k] * inverse);
  }
}

static int failures = 0;
static void expect(bool holds, const char *what, const char *name, double value) {
  if (holds) return;
  failures++;
  printf("FAILED %s: %s (%g)\n", name, what, value);
}

typedef struct { const char *name; int64_t tokens, rows, cols; } shape;

/* A matrix of one to three parts, its bytes at an odd address. */
static matrix make_matrix(number_type type, int64_t rows, int64_t cols, int parts, uint8_t **memory) {
  int64_t width = type == TYPE_BF16 ? 2 : 4;
  matrix m = { .type = type, .experts = 1, .rows = rows, .cols = cols, .num_parts = parts };
  *memory = malloc((size_t)(rows * cols * width + 1));
  uint8_t *at = *memory + 1;
  int64_t left = rows;
  for (int p = 0; p < parts; p++) {
    m.parts[p].rows = p == parts - 1 ? left : rows / parts;
    left -= m.parts[p].rows;
    m.parts[p].data = at;
    for (int64_t i = 0; i < m.parts[p].rows * cols; i++, at += width) {
      float f = normal() / sqrtf((float)cols);
      if (i % cols / 32 % 5 == 3 && i / cols % 3 == 0) f = 0; /* groups of zeros */
      uint16_t half = to_bf16(f);
      memcpy(at, width == 2 ? (void *)&half : (void *)&f, (size_t)width);
    }
  }
  return m;
}

enum { SENTINELS = 64 };
static double worst_int8 = 0, worst_same = 0, worst_float = 0, worst_weights = 0;

static void check_products(const shape *s, const matrix *m, const float *bias, int threads) {
  int64_t T = s->tokens, R = s->rows, K = s->cols;
  float *x = aligned_alloc(64, (size_t)(T * K * 4 + 63) / 64 * 64);
  for (int64_t i = 0; i < T * K; i++) {
    x[i] = normal();
    if (i % K % 97 == 5) x[i] *= 100;                          /* outlier channels */
    if (i % K / 32 % 7 == 2 && i / K % 2 == 0) x[i] = 0;       /* groups of zeros */
  }
  float *memory = malloc((size_t)(T * R + 2 * SENTINELS) * 4), *out = memory + SENTINELS;
  for (int64_t i = 0; i < T * R + 2 * SENTINELS; i++) memory[i] = 12345;
  linear_args args = { x, T, m, bias, out };
  run(run_linear, &args, threads, 1);
  for (int i = 0; i < SENTINELS; i++)
    expect(memory[i] == 12345 && out[T * R + i] == 12345, "writes outside its output", s->name, i);
  double error = 0, same_error = 0, power = 0, *w = malloc((size_t)K * 8), *q = malloc((size_t)(T * K) * 8);
#ifdef __AMX_BF16__
  bool tiles = m->type == TYPE_Q8 && !linear_is_few(&args);
#else
  bool tiles = false;
#endif
  for (int64_t t = 0; t < T; t++) emulate_activations(x + t * K, K, tiles, q + t * K);
  int64_t step = R > 600 ? 37 : 1;
  for (int64_t r = 0; r < R; r += step) {
    for (int64_t k = 0; k < K; k++) w[k] = weight_at(m, r, k);
    for (int64_t t = 0; t < T; t++) {
      double exact = bias ? bias[r] : 0, same = exact;
      for (int64_t k = 0; k < K; k++) {
        exact += w[k] * x[t * K + k];
        same += (tiles ? (double)q8_from_bits((uint32_t)to_bf16((float)w[k]) << 16) : w[k]) * q[t * K + k];
      }
      double got = out[t * R + r];
      error += (got - exact) * (got - exact);
      same_error += (got - same) * (got - same);
      power += exact * exact;
    }
  }
  if (power == 0) power = 1;
  if (m->type == TYPE_Q8) {
    if (getenv("TUTTI_VERBOSE")) printf("%s: %.1e\n", s->name, error / power);
    expect(error / power <= 5e-4, "NMSE against float64", s->name, error / power);
    double same = same_error / power, limit = 1e-12 + 1e-15 * (double)K / (tiles ? 2 : 32); /* float sums in a row */
    expect(same <= limit, "NMSE against the same arithmetic", s->name, same);
    worst_int8 = fmax(worst_int8, error / power);
    worst_same = fmax(worst_same, same_error / power);
  } else {
    expect(error / power <= 1e-12, "NMSE against float64", s->name, error / power);
    worst_float = fmax(worst_float, error / power);
  }

  /* What is not finite must show: in its token's outputs, and nowhere else. */
  int64_t ill = T / 2;
  const float bad[] = { NAN, INFINITY, -INFINITY };
  for (int b = 0; b < 3; b++) {
    x[ill * K + K - 1] = bad[b];
    run(run_linear, &args, threads, 1);
    for (int64_t t = 0; t < T; t++)
      for (int64_t r = 0; r < R; r++) {
        bool shows = m->type == TYPE_Q8 ? isnan(out[t * R + r]) : !isfinite(out[t * R + r]);
        expect(shows == (t == ill), "a value that is not finite", s->name, out[t * R + r]);
      }
  }
  free(x), free(memory), free(w), free(q);
}

static void check_quantized(const shape *s, const matrix *source, const matrix *made) {
  double error = 0, power = 0;
  int64_t groups = (s->cols + 31) / 32;
  for (int64_t r = 0; r < (s->rows + 15) / 16 * 16; r++)
    for (int64_t g = 0; g < groups; g++) {
      const uint8_t *block = made->parts[0].data + (r / 16 * groups + g) * Q8_BLOCK;
      float largest = 0, scale = from_bf16(block + r % 16 * 2);
      for (int k = 0; k < 32; k++) {
        bool inside = r < s->rows && g * 32 + k < s->cols;
        double w = inside ? weight_at(source, r, g * 32 + k) : 0, q = weight_at(made, r, g * 32 + k);
        largest = fmaxf(largest, (float)fabs(w));
        error += (w - q) * (w - q);
        power += w * w;
        expect(fabs(w - q) <= 0.5001 * scale, "a code is not the nearest", s->name, w - q);
        expect((int8_t)block[32 + k / 4 * 64 + r % 16 * 4 + k % 4] >= -127, "a code is −128", s->name, q);
      }
      uint32_t nearest = largest > 0 ? (q8_bits(largest / 127) + 0xffff) >> 16 << 16 : 0;
      expect(q8_bits(scale) == nearest, "the scale", s->name, scale);
    }
  worst_weights = fmax(worst_weights, error / (power > 0 ? power : 1));
}

static void check(const shape *s, number_type type, int parts, bool with_bias, int threads) {
  uint8_t *memory;
  matrix source = make_matrix(type, s->rows, s->cols, parts, &memory);
  float *bias = malloc((size_t)s->rows * 4);
  for (int64_t i = 0; i < s->rows; i++) bias[i] = normal();
  check_products(s, &source, with_bias ? bias : NULL, threads);
  size_t bytes = (size_t)q8_bytes(s->rows, s->cols);
  uint8_t *q8 = aligned_alloc(64, (bytes + 63) / 64 * 64);
  memset(q8, 0, bytes);
  matrix made = { .type = TYPE_Q8, .experts = 1, .rows = s->rows, .cols = s->cols, .num_parts = 1 };
  made.parts[0].rows = s->rows;
  made.parts[0].data = q8;
  quantize_args args = { &source, q8 };
  run(run_quantize, &args, threads, 1);
  check_quantized(s, &source, &made);
  check_products(s, &made, with_bias ? bias : NULL, threads);
  free(memory), free(bias), free(q8);
}

/* One token alone, and the same among many: the same bits, where the arithmetic is one of integers. */
static void check_batches(void) {
  enum { T = 23, R = 40, K = 480 + 96 };
  uint8_t *memory;
  matrix source = make_matrix(TYPE_F32, R, K, 1, &memory);
  matrix made = { .type = TYPE_Q8, .experts = 1, .rows = R, .cols = K };
  uint8_t *q8 = aligned_alloc(64, (size_t)q8_bytes(R, K));
  memset(q8, 0, (size_t)q8_bytes(R, K));
  quantize_args args = { &source, q8 };
  run(run_quantize, &args, 2, 1);
  made.num_parts = 1, made.parts[0].rows = R, made.parts[0].data = q8;
  float *x = aligned_alloc(64, T * K * 4), *alone = malloc(T * R * 4), *together = malloc(T * R * 4);
  for (int i = 0; i < T * K; i++) x[i] = normal();
  for (int t = 0; t < T; t++) run(run_linear, &(linear_args){ x + t * K, 1, &made, NULL, alone + t * R }, 1, 1);
  run(run_linear, &(linear_args){ x, T, &made, NULL, together }, 2, 1);
#ifndef __AMX_BF16__
  expect(memcmp(alone, together, T * R * 4) == 0, "a token's result depends on its batch", "batches", 0);
#endif
  free(memory), free(q8), free(x), free(alone), free(together);
}

static const shape shapes[] = {
  { "one of all", 1, 1, 1 },
  { "one row, one group", 1, 1, 32 },
  { "one column", 5, 17, 1 },
  { "no tile divides it", 5, 7, 33 },
  { "the 3 groups of nano", 3, 130, 96 },
  { "90 groups = 22·4 + 2", 2, 17, 2880 },
  { "90 groups, tokens of a batch", 8, 33, 2880 },
  { "90 groups, many tokens", 13, 50, 2880 },
  { "one more than a tile", 7, 16, 64 },
  { "more tokens than a block", 250, 20, 545 },
  { "qkv of 20b, one token", 1, 5120, 2880 },
  { "qkv of 20b, 9 tokens", 9, 5120, 2880 },
  { "the router of 20b", 33, 32, 2880 },
  { "wider than a thread's own memory", 2, 3, 500000 },
};

/* ---- speed */

typedef struct { const uint8_t *data; int64_t bytes; _Atomic uint64_t sum; } read_args;
static void run_read(void *p, team *team) {
  read_args *a = p;
  enum { SHARE = 1 << 20 };
  uint64_t sum[8] = { 0 };
  for (int64_t s; (s = team_next(team, a->bytes / SHARE)) >= 0;) {
    const uint8_t *at = a->data + s * SHARE;
    for (int64_t i = 0; i < SHARE; i += 64) {
      __builtin_prefetch(at + i + 4096);
      for (int j = 0; j < 8; j++) {
        uint64_t word;
        memcpy(&word, at + i + j * 8, 8);
        sum[j] += word;
      }
    }
  }
  for (int j = 0; j < 8; j++) a->sum += sum[j];
}

typedef struct { linear_args linear; const uint8_t *weights; int64_t matrices, bytes; matrix m; } decode_args;
static void run_decode(void *p, team *team) {
  decode_args *a = p;
  for (int64_t i = 0; i < a->matrices; i++) {
    matrix m = a->m;
    m.parts[0].data = a->weights + i * a->bytes;
    linear_args args = a->linear;
    args.weight = &m;
    linear(&args, team);
    team_barrier(team);
  }
}

static void bench(void) {
  enum { R = 5120, K = 2880, MATRICES = 24, T = 512 };
  int64_t bytes = q8_bytes(R, K);
  uint8_t *weights = aligned_alloc(1 << 21, (size_t)((bytes * MATRICES + (1 << 21) - 1) >> 21 << 21)), *memory;
  matrix source = make_matrix(TYPE_BF16, R, K, 1, &memory);
  matrix m = { .type = TYPE_Q8, .experts = 1, .rows = R, .cols = K, .num_parts = 1 };
  m.parts[0].rows = R;
  m.parts[0].data = weights;
  for (int i = 0; i < MATRICES; i++) {
    quantize_args args = { &source, weights + i * bytes };
    run(run_quantize, &args, 2, 1);
  }
  float *x = aligned_alloc(64, (size_t)T * K * 4), *out = aligned_alloc(64, (size_t)T * R * 4);
  for (int i = 0; i < T * K; i++) x[i] = normal();
  for (int threads = 1; threads <= 2; threads++) {
    double best = 1e9, read = 1e9, made = 1e9, exact = 1e9, batch = 1e9;
    for (int i = 0; i < 3; i++) {
      read_args reading = { weights, bytes * MATRICES, 0 };
      read = fmin(read, run(run_read, &reading, threads, 2) / 2);
      decode_args decode = { { x, 1, NULL, NULL, out }, weights, MATRICES, bytes, m };
      best = fmin(best, run(run_decode, &decode, threads, 2) / 2);
      decode.linear.tokens = 8;
      batch = fmin(batch, run(run_decode, &decode, threads, 2) / 2);
      quantize_args quantize = { &source, weights };
      made = fmin(made, run(run_quantize, &quantize, threads, 2) / 2);
      linear_args plain = { x, 1, &source, NULL, out };
      exact = fmin(exact, run(run_linear, &plain, threads, 4) / 4);
    }
    double gb = (double)bytes * MATRICES * 1e-9;
    printf("%d threads: plain read %.1f GB/s, decode of 1 token %.1f, of 8 %.1f; bf16 %.1f; quantize_q8 %.2f G/s\n",
           threads, gb / read, gb / best, gb / batch, R * (double)K * 2e-9 / exact, R * (double)K * 1e-9 / made);
    const int counts[] = { 1, 4, 8, 12, 16, 32, 64, 512 };
    for (int type = 0; type < 2; type++) {
      printf(type ? "  bf16  " : "  Q8    ");
      for (int c = 0; c < 8; c++) {
        linear_args args = { x, counts[c], type ? &source : &m, NULL, out };
        int times = 1 + 256 / (counts[c] + 1);
        double took = 1e9;
        for (int i = 0; i < 3; i++) took = fmin(took, run(run_linear, &args, threads, times + 1) / (times + 1));
        printf("T=%d %.0f  ", counts[c], counts[c] * (double)R * K / took * 1e-9);
      }
      printf("GMAC/s\n");
    }
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "bench") == 0) return bench(), 0;
  bool quick = argc > 1 && strcmp(argv[1], "quick") == 0; /* for sanitizers */
  int count = (int)(sizeof shapes / sizeof *shapes);
  for (int i = 0; i < count; i++) {
    if (quick && shapes[i].rows * shapes[i].cols > 1 << 20) continue;
    for (int type = TYPE_F32; type <= TYPE_BF16; type++) {
      int parts = shapes[i].rows >= 3 ? 1 + (i + type) % 3 : 1;
      check(shapes + i, (number_type)type, parts, i % 2 == 0, 1 + (i + type) % 3);
    }
  }
  check_batches();
  printf("worst NMSE: Q8 products %.1e, the same arithmetic %.1e, float weights %.1e, Q8 weights %.1e\n", worst_int8,
         worst_same, worst_float, worst_weights);
  printf("cases %d failures %d\n", cases, failures);
  return failures > 0;
}
