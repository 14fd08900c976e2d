/*
 * Attention and the small kernels alone, with threads of its own: cases against float64 on the numbers that the cache
 * holds, and against themselves in other chunks; then (with the argument `bench`) their speed beside plain reads.
 *   cc -O3 -std=gnu11 -mavx2 -mfma -mf16c -mbmi -mbmi2 -ffp-contract=fast -fno-math-errno -fno-trapping-math \
 *     -pthread test/native/attention-harness.c -lm -o attention-harness && ./attention-harness
 */
#define _GNU_SOURCE
#include "../../src/kernels/attention/attention.c"
#include "../../src/kernels/elementwise.c"
#include "../../src/kernels/embedding/embedding.c"
#include "../../src/kernels/read-memory.c"
#include "../../src/kernels/rms-norm/rms-norm.c"
#include "../../src/kernels/rope/rope.c"
#include "../../src/kernels/top-k/top-k.c"
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

/* ---- threads */

struct gang {
  pthread_mutex_t lock;
  pthread_cond_t all_here;
  int size, arrived;
  int64_t phase;
  _Atomic int64_t next;
  void *shared;
};

int64_t team_next(team *team, int64_t count) {
  int64_t share = team->gang->next++;
  return share < count ? share : -1;
}

bool team_barrier(team *team) {
  struct gang *gang = team->gang;
  pthread_mutex_lock(&gang->lock);
  const int64_t phase = gang->phase;
  if (++gang->arrived == gang->size) {
    gang->arrived = 0;
    gang->next = 0;
    gang->phase++;
    pthread_cond_broadcast(&gang->all_here);
  }
  while (gang->phase == phase) pthread_cond_wait(&gang->all_here, &gang->lock);
  pthread_mutex_unlock(&gang->lock);
  return true;
}

void *team_shared(team *team, size_t bytes) {
  team_barrier(team);
  if (team->rank == 0) {
    free(team->gang->shared);
    team->gang->shared = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(team->gang->shared, 0xff, bytes); /* NaN: nothing may be read before it is written */
  }
  team_barrier(team);
  return team->gang->shared;
}

typedef struct {
  team team;
  void (*run)(const void *, team *);
  const void *args;
  bool pin;
} member;

static void *member_main(void *p) {
  member *m = p;
  cpu_set_t core;
  CPU_ZERO(&core);
  CPU_SET(m->team.rank, &core);
  if (m->pin) sched_setaffinity(0, sizeof core, &core);
  m->run(m->args, &m->team);
  return NULL;
}

static bool pinned;

static int cases; /* how often a kernel ran */

/* `run` on each of so many threads. Their own memory stays, as fresh memory is most of a sanitizer's time. */
static void on_team(int threads, void (*run)(const void *, team *), const void *args) {
  enum { MOST = 64 };
  static uint8_t *scratches[MOST];
  cases++;
  struct gang gang = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, .size = threads};
  member members[MOST];
  pthread_t handles[MOST];
  for (int i = 0; i < threads; i++) {
    if (!scratches[i]) scratches[i] = aligned_alloc(64, TEAM_SCRATCH);
    memset(scratches[i], 0xff, TEAM_SCRATCH);
    members[i] = (member){{i, threads, scratches[i], &gang}, run, args, pinned};
    pthread_create(handles + i, NULL, member_main, members + i);
  }
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  free(gang.shared);
}

#define OP(name) static void run_##name(const void *args, team *team) { name(args, team); }
OP(attention)
OP(rms_norm)
OP(rope)
OP(top_k)
OP(embedding)
OP(add)
OP(gather_rows)

/* ---- numbers */

static uint64_t seed = 1;
static double uniform(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return ((double)(seed >> 33) + 0.5) / 2147483648.0;
}
static float normal(void) { return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }
static float *normals(int64_t count, float size) {
  float *x = aligned_alloc(64, (count * 4 + 63) / 64 * 64);
  for (int64_t i = 0; i < count; i++) x[i] = normal() * size;
  return x;
}

static int failures;
static double worst;
static void expect(bool right, const char *what, double value) {
  if (right) return;
  failures++;
  printf("FAILED %s: %g\n", what, value);
}

static double nmse(const float *got, const double *right, int64_t count) {
  double errors = 0, squares = (double)count * 1e-30; /* where a sink leaves nothing, nothing is right */
  for (int64_t i = 0; i < count; i++) {
    if (!isfinite(got[i])) return INFINITY;
    errors += (got[i] - right[i]) * (got[i] - right[i]);
    squares += right[i] * right[i];
  }
  return errors == 0 ? 0 : errors / squares;
}

/* ---- attention */

typedef struct {
  int num_heads, num_kv_heads, head_dim;
  int64_t window;
  cache_type cache;
} shape;

/* One sequence: what went in, and its cache. */
typedef struct {
  float *qkv;
  int64_t length, first;
  piece piece;
  uint8_t **pages;
  int64_t page_bytes;
  uint8_t *memory;
} sequence;

enum { SENTINEL = 64 };

static int64_t row_width(const shape *s) { return (int64_t)(s->num_heads + 2 * s->num_kv_heads) * s->head_dim; }

/* Pages are not in order, stand apart by sentinels, and begin as NaN. */
static sequence new_sequence(const shape *s, int64_t length, int64_t capacity, int64_t first, float size) {
  sequence q = {.length = length, .first = first};
  q.qkv = normals(length * row_width(s), size);
  q.page_bytes = cache_page_bytes(s->cache, s->num_kv_heads, s->head_dim);
  int64_t count = quotient_up(least(capacity, length), PAGE_TOKENS), step = q.page_bytes + SENTINEL;
  q.pages = malloc(count * sizeof *q.pages);
  q.memory = aligned_alloc(64, count * step + SENTINEL);
  memset(q.memory, 0xff, count * step + SENTINEL);
  for (int64_t i = 0; i < count; i++) q.pages[i] = q.memory + (count - 1 - i) * step + SENTINEL;
  q.piece = (piece){.first = first, .length = first, .capacity = capacity, .pages = q.pages, .num_pages = count};
  return q;
}

static void end_sequence(sequence *q) {
  for (int64_t i = 0; i < q->piece.num_pages; i++)
    for (int n = 1; n <= SENTINEL; n++) expect(q->pages[i][-n] == 0xff, "sentinel before a page", (double)i);
  free(q->qkv);
  free(q->pages);
  free(q->memory);
}

/* Number i of a head's key or value at a position, as the cache's description says. */
static double stored(const shape *s, const sequence *q, int64_t position, int head, bool value, int i) {
  const int64_t place = position % q->piece.capacity;
  const int slot = place % PAGE_TOKENS, groups = (s->head_dim + 31) / 32;
  const uint8_t *half = q->pages[place / PAGE_TOKENS] + q->page_bytes / s->num_kv_heads * head +
                        (value ? q->page_bytes / s->num_kv_heads / 2 : 0);
  if (s->cache == CACHE_BF16)
    return bf16_to_float(((const uint16_t *)half)[value ? slot * s->head_dim + i : i * PAGE_TOKENS + slot]);
  const int quarter = PAGE_TOKENS / 4; /* codes lie in fours: of dimensions side by side, of tokens a quarter apart */
  const int64_t at = value ? (slot % quarter * s->head_dim + i) * 4 + slot / quarter
                           : (i / 4 * PAGE_TOKENS + slot) * 4 + i % 4;
  return (double)bf16_to_float(((const uint16_t *)half)[i / 32 * PAGE_TOKENS + slot]) *
         ((const int8_t *)half)[groups * 2 * PAGE_TOKENS + at];
}

/* One token's attention in float64; `exact`: on what went in, not on what is stored. */
static void plain(const shape *s, const sequence *q, const float *sinks, int64_t position, bool exact, double *out) {
  const int per_key = s->num_heads / s->num_kv_heads, dim = s->head_dim;
  const int64_t begin = most(q->first, s->window > position ? 0 : position + 1 - s->window);
  const int64_t width = row_width(s);
  double *weights = malloc((position + 1 - begin) * sizeof *weights);
  for (int head = 0; head < s->num_heads; head++) {
    const int kv = head / per_key;
    const float *query = q->qkv + position * width + head * dim;
    double max = sinks[head];
    for (int64_t p = begin; p <= position; p++) {
      const float *key = q->qkv + p * width + (s->num_heads + kv) * dim;
      double score = 0;
      for (int i = 0; i < dim; i++) score += query[i] * (exact ? key[i] : stored(s, q, p, kv, false, i));
      weights[p - begin] = score /= sqrt(dim);
      if (score > max) max = score;
    }
    double total = exp(sinks[head] - max), *sums = out + head * dim;
    memset(sums, 0, dim * sizeof *sums);
    for (int64_t p = begin; p <= position; p++) {
      const float *value = q->qkv + p * width + (s->num_heads + s->num_kv_heads + kv) * dim;
      const double weight = exp(weights[p - begin] - max);
      total += weight;
      for (int i = 0; i < dim; i++) sums[i] += weight * (exact ? value[i] : stored(s, q, p, kv, true, i));
    }
    for (int i = 0; i < dim; i++) sums[i] /= total;
  }
  free(weights);
}

/* Runs the next counts[i] tokens of each sequence as one batch → [tokens, num_heads · head_dim]. */
static float *run_batch(const shape *s, sequence *sequences, int num, const int64_t *counts, const float *sinks,
                        int threads) {
  const int64_t width = row_width(s), out_width = (int64_t)s->num_heads * s->head_dim;
  piece pieces[16];
  int64_t tokens = 0;
  for (int i = 0; i < num; i++) tokens += counts[i];
  float *qkv = aligned_alloc(64, (tokens * width * 4 + 63) / 64 * 64);
  float *out = malloc(tokens * out_width * 4 + SENTINEL);
  memset(out, 0xff, tokens * out_width * 4 + SENTINEL);
  int64_t row = 0;
  for (int i = 0; i < num; row += counts[i++]) {
    sequence *q = sequences + i;
    pieces[i] = q->piece;
    pieces[i].row = row;
    pieces[i].count = counts[i];
    pieces[i].start = q->piece.length;
    pieces[i].first = most(q->first, pieces[i].start + counts[i] - q->piece.capacity);
    memcpy(qkv + row * width, q->qkv + q->piece.length * width, counts[i] * width * 4);
  }
  attention_args args = {
    qkv, tokens, sinks, pieces, num, s->num_heads, s->num_kv_heads, s->head_dim, s->window, s->cache, out,
  };
  on_team(threads, run_attention, &args);
  for (int n = 0; n < SENTINEL; n++)
    expect(((uint8_t *)(out + tokens * out_width))[n] == 0xff, "sentinel after the result", n);
  for (int i = 0; i < num; i++) sequences[i].piece.length += counts[i];
  free(qkv);
  return out;
}

/*
 * Float sums of up to 128 products, and scores of ±10,000 have but three digits after the point. With CACHE_Q8 few
 * queries, and weights, are rounded to 15 bits: the scores of ±100 that it is given are then off by some thousandths.
 */
static double tolerance(cache_type cache, float size) {
  if (cache == CACHE_Q8) return size > 3 ? 1e-5 : 1e-7;
  return size > 3 ? 1e-6 : 1e-11;
}

/* A sequence of `length` in chunks (the last one again and again), some of its tokens against float64. */
static void check_chunks(const char *what, shape s, int64_t length, const int64_t *chunks, int64_t capacity,
                         int64_t first, float sink_size, float size, int threads) {
  float *sinks = normals(s.num_heads, 1);
  for (int h = 0; h < s.num_heads; h++) sinks[h] += sink_size;
  sequence q = new_sequence(&s, length, capacity, first, size);
  const int64_t out_width = (int64_t)s.num_heads * s.head_dim;
  double *right = malloc(out_width * sizeof *right), largest = 0;
  for (int n = 0; q.piece.length < length; n++) {
    int64_t start = q.piece.length, count = least(chunks[n] ? chunks[n] : chunks[n - 1], length - start);
    if (!chunks[n]) n--;
    float *out = run_batch(&s, &q, 1, &count, sinks, threads);
    for (int64_t t = 0; t < count; t++) {
      if (t > 3 && t < count - 4 && t % 37 != 5) continue;
      plain(&s, &q, sinks, start + t, false, right);
      double error = nmse(out + t * out_width, right, out_width);
      if (error > largest) largest = error;
      if (!(error <= tolerance(s.cache, size))) {
        printf("%s, position %ld: ", what, (long)(start + t));
        expect(false, "nmse", error);
      }
    }
    free(out);
  }
  if (size <= 3 && largest > worst) worst = largest;
  free(right);
  free(sinks);
  end_sequence(&q);
}

static bool quick; /* for sanitizers and emulators */

static void attention_cases(cache_type cache) {
  const int shapes[][3] = {{64, 8, 64}, {2, 1, 8}, {4, 2, 8}, {10, 2, 24}, {2, 1, 16}, {6, 6, 32}, {4, 4, 64},
                           {3, 1, 2}, {20, 1, 64}, {9, 3, 128}, {16, 2, 64}, {4, 2, 96}};
  const int64_t windows[] = {4, 128, INT64_MAX};
  for (size_t i = quick; i < sizeof shapes / sizeof *shapes; i += quick ? 3 : 1)
    for (int w = 0; w < 3; w++) {
        const int turn = (int)((i + w) % 3), threads = 1 + (quick ? 1 : 2) * turn;
        shape s = {shapes[i][0], shapes[i][1], shapes[i][2], windows[w], cache};
        char what[100];
        sprintf(what, "%d/%d heads of %d, window %ld, %d threads, cache %d", s.num_heads, s.num_kv_heads, s.head_dim,
                (long)(w == 2 ? 0 : s.window), threads, cache);
        const int64_t ones[] = {1, 0}, large[] = {200, 1, 30, 2, 1, 1, 0};
        const int64_t edges[] = {62, 1, 1, 1, 1, 60, 1, 1, 1, 1, 1, 13, 0};
        const float sink = (float)(turn == 0 ? 0 : turn == 1 ? 20 : -100);
#define CAPACITY(chunk) (w == 2 ? INT64_MAX : s.window - 1 + (chunk))
        check_chunks(what, s, quick ? 67 : 135, ones, CAPACITY(1), 0, sink, 1, threads);
        check_chunks(what, s, 170, edges, CAPACITY(62), 0, sink, 1, threads);
        check_chunks(what, s, 300, large, CAPACITY(200), 0, sink, 1, threads);
        check_chunks(what, s, 300, large, CAPACITY(200), 70, sink, 1, threads);
        const float large_size = cache == CACHE_Q8 ? 10 : 100; /* scores of ±100, ±10,000 */
        check_chunks(what, s, 140, edges, CAPACITY(62), 0, sink, large_size, threads);
      }
  if (quick) return;
  const int64_t long_chunks[] = {512, 488, 1, 1, 512, 512, 512, 512, 512, 512, 512, 400, 1, 2, 3, 7, 1, 0};
  for (int w = 0; w < 3; w++)
    {
      const int threads = w == 1 ? 1 : 8;
      shape s = {16, 2, 64, windows[w], cache};
      check_chunks("long", s, 5003, long_chunks, CAPACITY(512), 0, 0, 1, threads);
    }
  shape infinite = {4, 2, 64, INT64_MAX, cache};
  const int64_t chunks[] = {30, 1, 0};
  check_chunks("sinks of −∞", infinite, 40, chunks, INT64_MAX, 0, -INFINITY, 1, 2);
}

/* Several sequences of different age, and the same tokens in other chunks. */
static void attention_batches(cache_type cache) {
  const int64_t windows[] = {5, 128, INT64_MAX};
  for (int w = 0; w < 3; w++)
    for (int threads = 1; threads <= 6; threads += 5) {
      shape s = {16, 2, 64, windows[w], cache};
      const int64_t rounds[][4] = {
        {9, 2, 1, 1000}, {1, 7, 1, 1}, {4, 1, 90, 1}, {1, 1, 1, 1}, {512, 1, 3, 300}, {1, 1, 1, 1},
      };
      float *sinks = normals(s.num_heads, 1);
      sequence q[4];
      const int64_t out_width = (int64_t)s.num_heads * s.head_dim;
      double *right = malloc(out_width * sizeof *right);
      for (int i = 0; i < 4; i++) q[i] = new_sequence(&s, 1310, w == 2 ? INT64_MAX : windows[w] - 1 + 1000, 0, 1);
      for (int r = 0; r < 6; r++) {
        float *out = run_batch(&s, q, 4, rounds[r], sinks, threads);
        for (int64_t i = 0, row = 0; i < 4; row += rounds[r][i++])
          for (int64_t t = 0; t < rounds[r][i]; t++) {
            if (t % 31 && t + 1 < rounds[r][i]) continue;
            plain(&s, q + i, sinks, q[i].piece.length - rounds[r][i] + t, false, right);
            double error = nmse(out + (row + t) * out_width, right, out_width);
            expect(error <= tolerance(cache, 1), "batch", error);
            if (error > worst) worst = error;
          }
        free(out);
      }
      for (int i = 0; i < 4; i++) end_sequence(q + i);
      free(right);
      free(sinks);
    }
}

/* Positions below `length` keep what they hold though they are given again. */
static void rewritten(void) {
  shape s = {8, 2, 64, INT64_MAX, CACHE_BF16};
  float *sinks = normals(s.num_heads, 1);
  sequence q = new_sequence(&s, 100, INT64_MAX, 0, 1);
  int64_t count = 100;
  free(run_batch(&s, &q, 1, &count, sinks, 2));
  uint8_t *before = malloc(2 * q.page_bytes);
  memcpy(before, q.pages[0], q.page_bytes);
  piece again = q.piece;
  again.start = 10;
  again.count = 20;
  float *other = normals(20 * row_width(&s), 1), *out = normals(20 * 8 * 64, 1);
  attention_args args = {other, 20, sinks, &again, 1, 8, 2, 64, INT64_MAX, CACHE_BF16, out};
  on_team(2, run_attention, &args);
  expect(!memcmp(before, q.pages[0], q.page_bytes), "taken positions keep what they hold", 0);
  free(before);
  free(other);
  free(out);
  free(sinks);
  end_sequence(&q);
}

/* What 8 bits cost, against the numbers before they were stored. */
static void cost_of_rounding(void) {
  for (cache_type cache = CACHE_BF16; cache <= CACHE_Q8; cache++) {
    shape s = {64, 8, 64, INT64_MAX, cache};
    float *sinks = normals(s.num_heads, 1);
    sequence q = new_sequence(&s, 600, INT64_MAX, 0, 1);
    int64_t count = 600;
    float *out = run_batch(&s, &q, 1, &count, sinks, 2);
    double *right = malloc(64 * 64 * sizeof *right);
    plain(&s, &q, sinks, 599, true, right);
    printf("  %s against float64 before rounding: NMSE %.2g\n", cache == CACHE_Q8 ? "q8" : "bf16",
           nmse(out + 599 * 64 * 64, right, 64 * 64));
    free(right);
    free(out);
    free(sinks);
    end_sequence(&q);
  }
}

/* ---- the small kernels */

static void small_cases(int threads) {
  for (int n = 1; n <= 42; n++) {
    const int width = n <= 40 ? n : n == 41 ? 200 : 2880;
    const int64_t tokens = width == 2880 ? 70 : 3;
    float *x = normals(tokens * width, 3), *weight = normals(width, 1), *out = normals(tokens * width, 1);
    rms_norm_args args = {x, tokens, width, weight, 1e-5, out};
    on_team(threads, run_rms_norm, &args);
    for (int64_t t = 0; t < tokens; t++) {
      double squares = 0;
      for (int i = 0; i < width; i++) squares += (double)x[t * width + i] * x[t * width + i];
      double factor = 1 / sqrt(squares / width + 1e-5);
      for (int i = 0; i < width; i++) {
        double right = x[t * width + i] * factor * weight[i];
        expect(fabs(out[t * width + i] - right) <= 2.5e-7 * fabs(right), "rms_norm", out[t * width + i] / right - 1);
      }
    }
    float *sum = normals(tokens * width, 1);
    add_args adding = {x, out, tokens * width, sum};
    on_team(threads, run_add, &adding);
    for (int64_t i = 0; i < tokens * width; i++) expect(sum[i] == x[i] + out[i], "add", (double)i);
    int32_t indices[] = {2, 0, 2, 1};
    rows_args rows = {x, width, indices, 4, sum};
    float *four = normals(4 * width, 1);
    rows.out = four;
    on_team(threads, run_gather_rows, &rows);
    for (int i = 0; i < 4; i++) expect(!memcmp(four + i * width, x + indices[i] * width, 4 * width), "rows", i);
    free(four);
    free(sum);
    free(x);
    free(weight);
    free(out);
  }

  for (int dim = 2; dim <= 64; dim += dim < 8 ? 2 : 8) {
    int32_t positions[40];
    double frequencies[32];
    for (int i = 0; i < 40; i++) positions[i] = i < 20 ? i : 131072 - i * i;
    for (int i = 0; i < dim / 2; i++) frequencies[i] = pow(150000, -2.0 * i / dim);
    const int64_t width = 9 * dim;
    float *x = normals(40 * width, 1), *out = normals(40 * width, 1);
    for (int in_place = 0; in_place < 2; in_place++) {
      if (in_place) memcpy(out, x, 40 * width * 4);
      rope_args args = {in_place ? out : x, 40, positions, frequencies, 1.3465735902799727, 5, 2, dim, out};
      on_team(threads, run_rope, &args);
      for (int t = 0; t < 40; t++)
        for (int head = 0; head < 9; head++)
          for (int i = 0; i < dim / 2; i++) {
            const int64_t at = t * width + head * dim + i;
            float c = (float)(cos(positions[t] * frequencies[i]) * 1.3465735902799727);
            float s = (float)(sin(positions[t] * frequencies[i]) * 1.3465735902799727);
            double a = x[at], b = x[at + dim / 2];
            double first = head < 7 ? a * c - b * s : a, second = head < 7 ? b * c + a * s : b;
            expect(fabs(out[at] - first) <= 3e-7 * (fabs(a) + fabs(b)), "rope", out[at] - first);
            expect(fabs(out[at + dim / 2] - second) <= 3e-7 * (fabs(a) + fabs(b)), "rope", out[at + dim / 2] - second);
          }
    }
    free(x);
    free(out);
  }

  for (int num = 4; num <= 128; num += num < 34 ? 1 : 31) {
    float *x = normals(70 * num, 2), experts[70 * 4], weights[70 * 4];
    for (int i = 0; i < 35 * num; i++) x[i] = roundf(x[i]); /* ties */
    for (int i = 0; i < num; i++) x[i] = x[num + i] = NAN, x[2 * num + i] = -INFINITY;
    x[num + 3] = 1;
    top_k_args args = {x, 70, num, 4, experts, weights};
    on_team(threads, run_top_k, &args);
    expect(experts[0] == 0 && experts[3] == 3 && experts[4] == 3, "top_k of what is not a number", experts[4]);
    for (int t = 0; t < 70; t++) {
      double total = 0;
      for (int n = 0; n < 4; n++) {
        int rank = 0, e = (int)experts[t * 4 + n];
        expect(e >= 0 && e < num && e == experts[t * 4 + n], "top_k index", e);
        if (t < 2) continue;
        for (int i = 0; i < num; i++)
          rank += x[t * num + i] > x[t * num + e] || (x[t * num + i] == x[t * num + e] && i < e);
        expect(rank == n, "top_k rank", rank);
        total += weights[t * 4 + n];
        double ratio = exp((double)x[t * num + e] - x[t * num + (int)experts[t * 4]]);
        if (t > 2) expect(fabs(weights[t * 4 + n] / weights[t * 4] - ratio) <= 3e-7 * ratio, "top_k weight", ratio);
      }
      if (t > 2) expect(fabs(total - 1) < 3e-7, "top_k sum", total);
    }
    free(x);
  }

  for (int cols = 1; cols <= 100; cols += 3) {
    uint8_t *data = malloc(10 * cols * 4 + 3);
    float *source = normals(10 * cols, 1), out[6 * 100];
    const int32_t tokens[] = {9, 0, 3, 2, 9, 5};
    for (int type = TYPE_F32; type <= TYPE_BF16; type++) {
      const int size = type == TYPE_F32 ? 4 : 2;
      for (int i = 0; i < 10 * cols; i++) {
        uint16_t word = float_to_bf16(source[i]);
        if (type == TYPE_BF16) source[i] = bf16_to_float(word);
        memcpy(data + 3 + i * size, type == TYPE_BF16 ? (void *)&word : (void *)(source + i), size);
      }
      matrix table = {type, 1, 10, cols, 2, {{3, data + 3, NULL}, {7, data + 3 + 3 * cols * size, NULL}}};
      embedding_args args = {tokens, 6, &table, out};
      on_team(threads, run_embedding, &args);
      for (int t = 0; t < 6; t++)
        expect(!memcmp(out + t * cols, source + tokens[t] * cols, 4 * cols), "embedding", cols);
    }
    free(data);
    free(source);
  }
}

static void exponentials(void) {
  double largest[3] = {0};
  for (double at = -87; at < 87; at += 1e-4) {
    float x = (float)at;
    double errors[] = {vf_exp(vf_splat(x))[0] / exp(x) - 1, vf_exp2(vf_splat(x))[VL - 1] / exp2(x) - 1,
                       vf_sigmoid(vf_splat(x))[0] * (1 + exp(-(double)x)) - 1};
    for (int i = 0; i < 3; i++) largest[i] = fmax(largest[i], fabs(errors[i]));
  }
  printf("  relative errors of exp, exp2 and sigmoid: %.2g %.2g %.2g\n", largest[0], largest[1], largest[2]);
  for (int i = 0; i < 3; i++) expect(largest[i] <= 5e-7, "exponential", largest[i]);
  expect(vf_exp(vf_splat(0))[0] == 1 && vf_exp2(vf_splat(0))[0] == 1, "exp 0", 0);
  expect(vf_exp(vf_splat(-INFINITY))[0] == 0 && vf_exp2(vf_splat(-INFINITY))[0] == 0, "exp −∞", 0);
  expect(vf_exp(vf_splat(-1e30f))[0] == 0 && vf_exp2(vf_splat(-1e30f))[0] == 0, "exp of large negative", 0);
  expect(isnan(vf_exp(vf_splat(NAN))[0]) && isnan(vf_exp2(vf_splat(NAN))[0]), "exp NaN", 0);
  expect(float_to_bf16(1.00390625f) == 0x3f80 && float_to_bf16(1.01171875f) == 0x3f82, "halves to even", 0);
  expect(isnan(bf16_to_float(float_to_bf16(NAN))), "bf16 NaN", 0);
  expect(isinf(bf16_to_float(float_to_bf16(3.4e38f))), "bf16 overflow", 0);
}

/* ---- speed */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { LAYERS = 12, TURNS = 7, MOST_THREADS = 2 };

typedef struct {
  const attention_args *layers;
  const uint8_t *data;
  int64_t bytes;
  int num;
  double (*seconds)[MOST_THREADS]; /* [TURNS]: of the processor, so that others on the machine disturb less */
} timed;

static void run_layers(const void *args, team *team) {
  const timed *t = args;
  for (int turn = 0; turn < TURNS; turn++) {
    double start = now();
    for (int i = 0; i < t->num; i++) {
      attention(t->layers + i, team);
      team_barrier(team);
    }
    t->seconds[turn][team->rank] = now() - start;
  }
}

static volatile uint64_t checksum;
static void run_read(const void *args, team *team) {
  const timed *t = args;
  for (int turn = 0; turn < TURNS; turn++) {
    double start = now();
    checksum = read_memory(t->data, t->bytes, team);
    team_barrier(team);
    t->seconds[turn][team->rank] = now() - start;
  }
}

/* The best turn's seconds, of all threads together by their number: shares are dealt, so who is disturbed does less. */
static double best(const timed *t, void (*run)(const void *, team *), int threads) {
  double least_seconds = INFINITY;
  on_team(threads, run, t);
  for (int i = 0; i < TURNS; i++)
    least_seconds = fmin(least_seconds, threads > 1 ? (t->seconds[i][0] + t->seconds[i][1]) / 2 : t->seconds[i][0]);
  return least_seconds;
}

static void bench_shape(int64_t count, int64_t context, int64_t window, cache_type cache, int num_layers) {
  const shape s = {64, 8, 64, window, cache};
  const int64_t page_bytes = cache_page_bytes(cache, 8, 64), length = context + count;
  const int64_t capacity = window == INT64_MAX ? INT64_MAX : window - 1 + most(count, 64);
  const int64_t num_pages = quotient_up(least(capacity, length), PAGE_TOKENS);
  const int64_t bytes = num_layers * num_pages * page_bytes;
  uint8_t *memory = mmap(NULL, bytes + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint8_t *begin = (uint8_t *)(((uintptr_t)memory + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
  madvise(begin, bytes, MADV_HUGEPAGE);
  for (int64_t i = 0; i < bytes; i += 2) *(uint16_t *)(begin + i) = cache == CACHE_Q8 ? 0x3c21 : 0x3e00 + i % 91;
  uint8_t **pages = malloc(num_layers * num_pages * sizeof *pages);
  for (int64_t i = 0; i < num_layers * num_pages; i++) pages[i] = begin + i * page_bytes;
  float *qkv = normals(count * row_width(&s), 1), *sinks = normals(64, 1), *out = normals(count * 64 * 64, 1);
  piece pieces[LAYERS];
  attention_args args[LAYERS];
  for (int i = 0; i < num_layers; i++) {
    uint8_t **own = pages + i * num_pages;
    pieces[i] = (piece){0, count, context, most(0, length - capacity), context, capacity, own, num_pages};
    args[i] = (attention_args){qkv, count, sinks, pieces + i, 1, 64, 8, 64, window, cache, out};
  }
  double seconds[TURNS][MOST_THREADS];
  timed t = {args, begin, bytes, num_layers, seconds};
  for (int threads = 1; threads <= 2; threads++) {
    double plain_read = best(&t, run_read, threads), took = best(&t, run_layers, threads);
    plain_read = fmin(plain_read, best(&t, run_read, threads));
    took = fmin(took, best(&t, run_layers, threads));
    printf("  %3ld tokens at %5ld, window %4ld, %s, %d thread%s: %8.3f ms a layer", (long)count, (long)context,
           (long)(window == INT64_MAX ? 0 : window), cache == CACHE_BF16 ? "bf16" : "q8  ", threads,
           threads > 1 ? "s" : " ", took * 1e3 / num_layers);
    if (count == 1)
      printf(", %5.2f GB/s, plain reads %5.2f: %3.0f %%\n", bytes / took / 1e9, bytes / plain_read / 1e9,
             100 * plain_read / took);
    else {
      double products = 0;
      for (int64_t i = 0; i < count; i++) products += 2.0 * 64 * 64 * (double)least(window, context + i + 1);
      printf(", %5.1f G multiply-adds/s\n", products * num_layers / took / 1e9);
    }
  }
  munmap(memory, bytes + (2 << 20));
  free(pages);
  free(qkv);
  free(sinks);
  free(out);
}

/* Caches, counts and contexts may be named: bench q8 1 32768. */
static void bench(int argc, char **argv) {
  pinned = true;
  for (cache_type cache = CACHE_BF16; cache <= CACHE_Q8; cache++) {
    if (argc > 2 && (cache == CACHE_Q8) != !strcmp(argv[2], "q8")) continue;
    if (argc > 4) {
      const int64_t count = atoi(argv[3]), context = atoi(argv[4]);
      bench_shape(count, context, argc > 5 ? atoi(argv[5]) : INT64_MAX, cache, count == 1 ? LAYERS : 1);
      continue;
    }
    for (int64_t context = 2048; context <= 32768; context *= 4) bench_shape(1, context - 1, INT64_MAX, cache, LAYERS);
    bench_shape(1, 8191, 128, cache, LAYERS);
    bench_shape(512, 0, INT64_MAX, cache, 1);
    bench_shape(512, 8192, INT64_MAX, cache, 1);
    bench_shape(512, 8192, 128, cache, 1);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "bench")) {
    bench(argc, argv);
    return 0;
  }
  quick = argc > 1 && !strcmp(argv[1], "quick");
  exponentials();
  small_cases(1);
  small_cases(3);
  for (cache_type cache = CACHE_BF16; cache <= CACHE_Q8; cache++) {
    worst = 0;
    attention_cases(cache);
    if (!quick) attention_batches(cache);
    printf("  attention, %s: the worst token's NMSE against float64 on the same cache is %.2g\n",
           cache == CACHE_Q8 ? "q8" : "bf16", worst);
  }
  rewritten();
  if (!quick) cost_of_rounding();
  printf("cases %d failures %d\n", cases, failures);
  return failures > 0;
}
