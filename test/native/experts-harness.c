/*
 * The experts' kernel by itself: checks against a float64 reference and against a scalar emulation of its integer
 * arithmetic, and benches. Built for any instruction set and with sanitizers:
 *   cc -O3 -std=gnu11 -ffp-contract=fast -fno-math-errno -fno-trapping-math -mavx2 -mfma -pthread \
 *     test/native/experts-harness.c -lm -o experts-harness
 *   ./experts-harness [test | quick | decode | prefill] [tokens | exact]
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "../../src/kernels/amx.h"
#include "../../src/kernels/experts/experts.c"

/* ---- a team of threads */

typedef struct gang {
  int size;
  int64_t next;
  int arrived, round;
  void *shared;
  size_t shared_bytes;
} gang;

int64_t team_next(team *t, int64_t count) {
  const int64_t share = __atomic_fetch_add(&t->gang->next, 1, __ATOMIC_RELAXED);
  return share < count ? share : -1;
}

bool team_barrier(team *t) {
  gang *g = t->gang;
  const int round = __atomic_load_n(&g->round, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&g->arrived, 1, __ATOMIC_ACQ_REL) == g->size) {
    g->arrived = 0;
    g->next = 0;
    __atomic_store_n(&g->round, round + 1, __ATOMIC_RELEASE);
  } else {
    for (int spins = 0; __atomic_load_n(&g->round, __ATOMIC_ACQUIRE) == round; spins++) {
      if (spins > 1000) sched_yield();
    }
  }
  return true;
}

void *team_shared(team *t, size_t bytes) {
  gang *g = t->gang;
  team_barrier(t);
  if (t->rank == 0 && g->shared_bytes < bytes) {
    free(g->shared);
    g->shared = aligned_alloc(64, (bytes + 63) / 64 * 64);
    g->shared_bytes = bytes;
  }
  team_barrier(t);
  return g->shared;
}

typedef struct crew {
  team team;
  void (*job)(void *, team *);
  void *with;
} crew;

static void *crew_main(void *p) {
  crew *c = p;
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(c->team.rank, &cpu);
  if (c->team.size > 1) pthread_setaffinity_np(pthread_self(), sizeof cpu, &cpu);
  c->team.scratch = aligned_alloc(64, TEAM_SCRATCH);
  enter_pass();
  c->job(c->with, &c->team);
  leave_pass();
  free(c->team.scratch);
  return NULL;
}

static void run_team(int threads, void (*job)(void *, team *), void *with) {
  gang g = {.size = threads};
  crew crews[16];
  pthread_t handles[16];
  for (int i = 0; i < threads; i++) {
    crews[i] = (crew){{.rank = i, .size = threads, .gang = &g}, job, with};
    pthread_create(&handles[i], NULL, crew_main, &crews[i]);
  }
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  free(g.shared);
}

/* ---- random problems */

static uint64_t seed = 1;
static double uniform(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return ((seed >> 33) + 0.5) / 2147483648.0;
}
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

typedef struct problem {
  int64_t hidden, inner, tokens, num_experts;
  int k;
  uint8_t *gate_up, *gate_up_scales, *down, *down_scales, *gate_up_bias, *down_bias;
  float *x, *chosen, *weights, *out;
  matrix matrices[4];
  experts_args args;
} problem;

static uint8_t *random_bytes(int64_t count) {
  uint8_t *bytes = malloc((size_t)count);
  for (int64_t i = 0; i < count; i++) bytes[i] = (uint8_t)(uniform() * 256);
  return bytes;
}

/* Scales that give rows of about unit gain, some zero; `wild`: over a range of 2^40. */
static uint8_t *random_scales(int64_t count, int64_t cols, bool wild) {
  uint8_t *scales = malloc((size_t)count);
  const double middle = 127 - log2(sqrt((double)cols)) - 1.3;
  for (int64_t i = 0; i < count; i++) {
    const double u = uniform();
    scales[i] = u < 0.01 ? 0 : (uint8_t)(middle + (wild ? uniform() * 40 - 38 : uniform() * 4 - 2));
  }
  return scales;
}

static uint8_t *random_bias(int64_t count, number_type type) {
  uint8_t *bytes = malloc((size_t)(count * 4 + 1)), *at = bytes + 1; /* at an odd address */
  for (int64_t i = 0; i < count; i++) {
    const float value = (float)(0.1 * normal());
    if (type == TYPE_F32) memcpy(at + 4 * i, &value, 4);
    else memcpy(at + 2 * i, (const uint8_t *)&value + 2, 2);
  }
  return bytes;
}

enum { GUARD = 64 };
static const float sentinel = 12345.0f;

static problem *make_problem(int64_t hidden, int64_t inner, int64_t num_experts, int k, int64_t tokens,
                             number_type bias, bool wild) {
  problem *p = calloc(1, sizeof *p);
  *p = (problem){.hidden = hidden, .inner = inner, .tokens = tokens, .num_experts = num_experts, .k = k};
  const int64_t up = num_experts * 2 * inner, down = num_experts * hidden;
  p->gate_up = random_bytes(up * hidden / 2);
  p->gate_up_scales = random_scales(up * hidden / 32, hidden, wild);
  p->down = random_bytes(down * inner / 2);
  p->down_scales = random_scales(down * inner / 32, inner, wild);
  p->gate_up_bias = random_bias(up, bias);
  p->down_bias = random_bias(down, bias);
  p->x = aligned_alloc(64, (size_t)(tokens * hidden * 4 + 63) / 64 * 64);
  for (int64_t i = 0; i < tokens * hidden; i++) p->x[i] = (float)(normal() * (wild && i % hidden % 97 == 5 ? 100 : 1));
  p->chosen = malloc((size_t)(tokens * k) * 4);
  p->weights = malloc((size_t)(tokens * k) * 4);
  for (int64_t t = 0; t < tokens; t++) {
    for (int j = 0; j < k; j++) {
      float *row = p->chosen + t * k;
      for (bool again = true; again;) {
        row[j] = (float)(int)(uniform() * num_experts);
        again = false;
        for (int i = 0; i < j; i++) again |= row[i] == row[j];
      }
      p->weights[t * k + j] = (float)(uniform() / k);
    }
  }
  p->out = aligned_alloc(64, (size_t)(tokens * hidden + 2 * GUARD) * 4);
  p->matrices[0] = (matrix){TYPE_MXFP4, num_experts, 2 * inner, hidden, 1,
                            {{2 * inner, p->gate_up, p->gate_up_scales}}};
  p->matrices[1] = (matrix){TYPE_MXFP4, num_experts, hidden, inner, 1, {{hidden, p->down, p->down_scales}}};
  p->matrices[2] = (matrix){bias, 1, num_experts, 2 * inner, 1, {{num_experts, p->gate_up_bias + 1, NULL}}};
  p->matrices[3] = (matrix){bias, 1, num_experts, hidden, 1, {{num_experts, p->down_bias + 1, NULL}}};
  p->args = (experts_args){
    .x = p->x, .tokens = tokens, .hidden = hidden, .inner = inner, .experts = p->chosen, .weights = p->weights, .k = k,
    .gate_up = &p->matrices[0], .down = &p->matrices[1], .gate_up_bias = &p->matrices[2], .down_bias = &p->matrices[3],
    .swiglu_limit = 7, .out = p->out + GUARD,
  };
  return p;
}

static void free_problem(problem *p) {
  void *all[] = {p->gate_up, p->gate_up_scales, p->down, p->down_scales, p->gate_up_bias,
                 p->down_bias, p->x, p->chosen, p->weights, p->out};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free(p);
}

static void run_job(void *with, team *t) { experts(with, t); }

static int cases = 0; /* how often the kernel ran */

static void run(problem *p, bool exact, int threads) {
  cases++;
  for (int64_t i = 0; i < p->tokens * p->hidden + 2 * GUARD; i++) p->out[i] = sentinel;
  p->args.exact = exact;
  run_team(threads, run_job, &p->args);
  for (int i = 0; i < GUARD; i++) {
    if (p->out[i] != sentinel || p->out[GUARD + p->tokens * p->hidden + i] != sentinel) {
      printf("FAILED: written outside of out\n");
      exit(1);
    }
  }
}

/* ---- references */

static const double fp4[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};

static double bias_value(const uint8_t *data, number_type type, int64_t at) {
  float value = 0;
  if (type == TYPE_F32) memcpy(&value, data + 1 + 4 * at, 4);
  else memcpy((uint8_t *)&value + 2, data + 1 + 2 * at, 2);
  return value;
}

/* What becomes of activations before a product: nothing, or int8 with a scale per 32, as the kernel documents it. */
static void through_int8(double *x, int64_t cols) {
  for (int64_t g = 0; g < cols; g += 32) {
    double max = 0;
    for (int i = 0; i < 32; i++) max = fmax(max, fabs(x[g + i]));
    const float inverse = max > 0 ? 127 / (float)max : 0, scale = (float)max * (0.5f / 127);
    for (int i = 0; i < 32; i++) x[g + i] = rint((float)x[g + i] * (double)inverse) * 2 * (double)scale;
  }
}

/* `flush`: scales of 2^-127 are zero, as the integer kernels have it. */
static void product(const uint8_t *blocks, const uint8_t *scales, int64_t row, int64_t rows, int64_t cols,
                    const double *x, double *out, bool flush) {
  for (int64_t r = 0; r < rows; r++) {
    double total = 0;
    for (int64_t g = 0; g < cols / 32; g++) {
      const int64_t at = (row + r) * (cols / 32) + g;
      double even = 0, odd = 0;
      if (flush && scales[at] == 0) continue;
      for (int i = 0; i < 16; i++) {
        even += fp4[blocks[at * 16 + i] & 15] * x[g * 32 + 2 * i];
        odd += fp4[blocks[at * 16 + i] >> 4] * x[g * 32 + 2 * i + 1];
      }
      total += ldexp(even + odd, scales[at] - 127);
    }
    out[r] = total;
  }
}

static void token_reference(const problem *p, int64_t token, bool int8, double *out) {
  const number_type type = p->matrices[2].type;
  double *x = malloc((size_t)p->hidden * 8), *pairs = malloc((size_t)p->inner * 16);
  double *act = malloc((size_t)p->inner * 8), *y = malloc((size_t)p->hidden * 8);
  for (int64_t i = 0; i < p->hidden; i++) {
    x[i] = p->x[token * p->hidden + i];
    out[i] = 0;
  }
  if (int8) through_int8(x, p->hidden);
  for (int j = 0; j < p->k; j++) {
    const int64_t e = (int64_t)p->chosen[token * p->k + j];
    product(p->gate_up, p->gate_up_scales, e * 2 * p->inner, 2 * p->inner, p->hidden, x, pairs, int8);
    for (int64_t i = 0; i < p->inner; i++) {
      const double g = pairs[2 * i] + bias_value(p->gate_up_bias, type, (e * p->inner + i) * 2);
      const double l = pairs[2 * i + 1] + bias_value(p->gate_up_bias, type, (e * p->inner + i) * 2 + 1);
      const double gate = fmin(g, 7), linear = fmax(-7, fmin(l, 7));
      act[i] = gate / (1 + exp(-1.702 * gate)) * (linear + 1);
    }
    if (int8) through_int8(act, p->inner);
    product(p->down, p->down_scales, e * p->hidden, p->hidden, p->inner, act, y, int8);
    for (int64_t i = 0; i < p->hidden; i++) {
      out[i] += p->weights[token * p->k + j] * (y[i] + bias_value(p->down_bias, type, e * p->hidden + i));
    }
  }
  free(x), free(pairs), free(act), free(y);
}

/* ---- checks */

static int failures = 0;
static double worst_int8 = 0, worst_wild = 0, worst_emulated = 0, worst_exact = 0;

static void check(const char *what, double value, double limit, double *worst, const problem *p) {
  if (value > *worst) *worst = value;
  if (!(value <= limit)) {
    failures++;
    printf("FAILED: %s NMSE %.2g > %.2g at hidden %d inner %d tokens %d k %d\n", what, value, limit,
           (int)p->hidden, (int)p->inner, (int)p->tokens, p->k);
  }
}

/* The outputs of every `step`th token, one after the other. */
static double *references(const problem *p, bool int8, int step) {
  double *all = malloc((size_t)(p->tokens * p->hidden) * 8);
  for (int64_t t = 0; t < p->tokens; t += step) token_reference(p, t, int8, all + t / step * p->hidden);
  return all;
}

static double nmse(const problem *p, const double *right, int step) {
  double error = 0, power = 0;
  for (int64_t t = 0; t < p->tokens; t += step) {
    for (int64_t i = 0; i < p->hidden; i++, right++) {
      const double d = p->args.out[t * p->hidden + i] - *right;
      error += d * d, power += *right * *right;
    }
  }
  return error / power;
}

static void test_shape(int64_t hidden, int64_t inner, int64_t num_experts, int k, int64_t tokens, number_type bias,
                       bool wild, int step) {
  problem *p = make_problem(hidden, inner, num_experts, k, tokens, bias, wild);
  double *exact = references(p, false, step), *emulated = references(p, true, step);
  for (int threads = 1; threads <= 3; threads += 2) {
    run(p, false, threads);
    /* Outliers cost their groups' other columns, and few columns average nothing: wild problems show the worst. */
    check("int8 against float64", nmse(p, exact, step), wild ? 5e-2 : 5e-4, wild ? &worst_wild : &worst_int8, p);
    check("int8 against its emulation", nmse(p, emulated, step), 1e-6, &worst_emulated, p);
    run(p, true, threads);
    check("exact against float64", nmse(p, exact, step), 1e-12, &worst_exact, p);
  }
  free(exact), free(emulated);
  free_problem(p);
}

/* A token gives the same in any company. */
static void test_batches(void) {
  problem *p = make_problem(288, 96, 4, 2, 70, TYPE_BF16, false);
  run(p, false, 2);
  float *together = malloc((size_t)(p->tokens * p->hidden) * 4);
  memcpy(together, p->args.out, (size_t)(p->tokens * p->hidden) * 4);
  double error = 0, power = 0;
  const problem all = *p;
  for (int64_t t = 0; t < all.tokens; t++) {
    p->tokens = p->args.tokens = 1;
    p->args.x = all.x + t * p->hidden;
    p->args.experts = all.chosen + t * p->k;
    p->args.weights = all.weights + t * p->k;
    run(p, false, 1);
    for (int64_t i = 0; i < p->hidden; i++) {
      const double d = p->args.out[i] - together[t * p->hidden + i];
      error += d * d, power += together[t * p->hidden + i] * (double)together[t * p->hidden + i];
    }
  }
  printf("alone against together: NMSE %.2g\n", error / power);
  if (error > 1e-9 * power) failures++;
  free(together);
  free_problem(p);
}

/* NaN and infinities spoil their own token, wholly, and no other. */
static void test_not_numbers(void) {
  for (int exact = 0; exact <= 1; exact++) {
    for (int tokens = 1; tokens <= 9; tokens += 4) {
      for (int kind = 0; kind < 3; kind++) {
        problem *p = make_problem(96, 64, 2, 2, tokens, TYPE_F32, false);
        p->x[(tokens - 1) * 96 + 40] = kind == 0 ? NAN : kind == 1 ? INFINITY : -INFINITY;
        run(p, exact, 1);
        for (int t = 0; t < tokens; t++) {
          for (int i = 0; i < 96; i++) {
            const float y = p->args.out[t * 96 + i];
            const bool wrong = t < tokens - 1 ? !isfinite(y) : !exact && !isnan(y);
            if (wrong) {
              printf("FAILED: %s of %d at token %d: %g\n", kind ? "infinity" : "NaN", tokens, t, y);
              failures++;
              i = 96;
            }
          }
        }
        free_problem(p);
      }
    }
  }
}

/* `quick`: what an emulator can run. */
static void test(bool quick) {
  static const int64_t sizes[][2] = {{32, 32}, {96, 192}, {160, 96}, {64, 128}, {2880, 32}, {128, 2880}};
  static const int64_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 31, 64, 130};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
      const bool large = sizes[s][0] > 2000 || sizes[s][1] > 2000;
      if (large ? c % 3 == 1 || (quick && c != 8) : quick && (counts[c] > 31 || s > 2)) continue;
      test_shape(sizes[s][0], sizes[s][1], c % 2 ? 8 : 4, c % 4 + 1, counts[c], c % 2 ? TYPE_F32 : TYPE_BF16,
                 s % 2 == 1, large ? 1 + (int)counts[c] / 3 : 1);
    }
  }
  test_shape(96, 64, 1, 1, 300, TYPE_BF16, false, quick ? 20 : 1); /* all on one */
  if (!quick) {
    test_shape(2880, 2880, 5, 4, 3, TYPE_BF16, false, 2);
    test_shape(2880, 2880, 4, 2, 130, TYPE_BF16, false, 90);
  }
  test_batches();
  test_not_numbers();
  printf("NMSE at most: int8 %.2g (%.2g wild), against its emulation %.2g, exact %.2g\n", worst_int8, worst_wild,
         worst_emulated, worst_exact);
  printf("cases %d failures %d\n", cases, failures);
}

/* ---- benches */

static double now(void) {
  struct timespec t;
  clock_gettime(getenv("CPU_TIME") ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Experts of 20b's size; one set of random bytes is copied, as only the time matters. */
typedef struct bench {
  experts_args *args; /* of consecutive runs */
  int runs;
  const uint8_t *memory;
  int64_t bytes;
  int64_t sum;
  double seconds;
} bench;

static void bench_job(void *with, team *t) {
  bench *b = with;
  team_barrier(t);
  const double began = now();
  for (int i = 0; i < b->runs; i++) {
    experts(&b->args[i], t);
    team_barrier(t);
  }
  if (t->rank == 0) b->seconds = now() - began;
}

static void read_job(void *with, team *t) {
  bench *b = with;
  team_barrier(t);
  const double began = now();
  typedef int64_t words __attribute__((vector_size(32)));
  words sums[4] = {0};
  const int64_t share = 1 << 20;
  for (int64_t n; (n = team_next(t, b->bytes / share)) >= 0;) {
    for (const uint8_t *p = b->memory + n * share, *end = p + share; p < end; p += 128) {
      __builtin_prefetch(p + 2048);
      __builtin_prefetch(p + 2112);
      for (int i = 0; i < 4; i++) {
        words w;
        memcpy(&w, p + 32 * i, 32);
        sums[i] += w;
      }
    }
  }
  words all = sums[0] + sums[1] + sums[2] + sums[3];
  __atomic_add_fetch(&b->sum, all[0] + all[1] + all[2] + all[3], __ATOMIC_RELAXED);
  team_barrier(t);
  if (t->rank == 0) b->seconds = now() - began;
}

enum { BENCH_EXPERTS = 32, BENCH_SIZE = 2880 };

static void bench_tokens(const uint8_t *memory, int64_t memory_bytes, const int *counts, int num_counts, bool exact) {
  const int64_t n = BENCH_SIZE, up = 2 * n * n / 2, up_scales = up / 16, down = n * n / 2;
  matrix gate_up = {TYPE_MXFP4, BENCH_EXPERTS, 2 * n, n, 1, {{2 * n, memory, memory + BENCH_EXPERTS * up}}};
  const uint8_t *second = memory + BENCH_EXPERTS * (up + up_scales);
  matrix down_matrix = {TYPE_MXFP4, BENCH_EXPERTS, n, n, 1, {{n, second, second + BENCH_EXPERTS * down}}};
  uint8_t *zeros = calloc(BENCH_EXPERTS * 2 * n, 2);
  matrix bias = {TYPE_BF16, 1, BENCH_EXPERTS, 2 * n, 1, {{BENCH_EXPERTS, zeros, NULL}}};
  const int k = 4;
  for (int c = 0; c < num_counts; c++) {
    const int tokens = counts[c];
    /* Runs go through the experts in turn: each token of a run takes the same four, or eight tokens an expert of 32. */
    float *x = aligned_alloc(64, (size_t)(tokens * n) * 4), *out = aligned_alloc(64, (size_t)(tokens * n) * 4);
    for (int64_t i = 0; i < tokens * n; i++) x[i] = (float)normal();
    const int runs = BENCH_EXPERTS / k;
    experts_args *args = calloc((size_t)runs, sizeof *args);
    float *chosen = malloc((size_t)(runs * tokens * k) * 4), *weights = malloc((size_t)(tokens * k) * 4);
    for (int i = 0; i < tokens * k; i++) weights[i] = 0.25f;
    for (int r = 0; r < runs; r++) {
      for (int i = 0; i < tokens * k; i++) chosen[r * tokens * k + i] = (float)(r * k + i % k);
      args[r] = (experts_args){x, tokens, n, n, chosen + r * tokens * k, weights, k, exact,
                               &gate_up, &down_matrix, &bias, &bias, 7, out};
    }
    for (int threads = 1; threads <= 2; threads++) {
      double best = 1e9, plain = 1e9;
      for (int again = 0; again < 5; again++) {
        bench b = {args, runs, memory, memory_bytes, 0, 0};
        run_team(threads, bench_job, &b);
        best = fmin(best, b.seconds);
        if (tokens <= 8) {
          run_team(threads, read_job, &b);
          plain = fmin(plain, b.seconds);
        }
      }
      const double rate = memory_bytes / best / 1e9, products = 3.0 * n * n * k * runs * tokens / best / 1e9;
      printf("%4d tokens an expert, %d thread%s %7.1f GMAC/s, %5.2f GB/s", tokens, threads,
             threads > 1 ? "s" : " ", products, rate);
      if (tokens <= 8) printf(" (plain read %5.2f: %3.0f %%)", memory_bytes / plain / 1e9, 100 * plain / best);
      printf("\n");
      fflush(stdout);
    }
    free(x), free(out), free(args), free(chosen), free(weights);
  }
  free(zeros);
}

static uint8_t *bench_memory(int64_t bytes) {
  uint8_t *memory = aligned_alloc(1 << 21, (size_t)(bytes + (1 << 21)) >> 21 << 21);
  for (int64_t i = 0; i < bytes; i += 8) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    /* Bytes near 120, so that as scales they are harmless. */
    const uint64_t v = 0x7878787878787878u ^ (seed >> 20 & 0x0707070707070707u);
    memcpy(memory + i, &v, 8);
  }
  return memory;
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "test";
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (!strcmp(what, "test") || !strcmp(what, "quick")) {
    test(!strcmp(what, "quick"));
    return failures > 0;
  }
  const int64_t bytes = (int64_t)BENCH_EXPERTS * 3 * BENCH_SIZE * BENCH_SIZE / 32 * 17;
  uint8_t *memory = bench_memory(bytes);
  static const int few[] = {1, 2, 3, 4}, many[] = {8, 32, 64, 128};
  const bool exact = argc > 2 && !strcmp(argv[2], "exact");
  if (!strcmp(what, "decode")) bench_tokens(memory, bytes, few, 4, exact);
  else if (argc > 2 && !exact) bench_tokens(memory, bytes, (int[]){atoi(argv[2])}, 1, false);
  else bench_tokens(memory, bytes, many, 4, exact);
  free(memory);
}
