/*
 * The native runtime without Node, for sanitizers: threads, memory and programs under storms and hostile words. Its
 * kernels do no mathematics; they touch every byte that the contract (src/kernels/cpu.h) lets a kernel touch.
 *
 *   runtime-harness SEED SCALE FOLDER     FOLDER is empty and is filled with made-up descriptions of machines
 */
#define _GNU_SOURCE
#include "../../native/event.h"
#include "../../native/program.h"
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int cases; /* how often something was checked */

#define CHECK(condition, ...)                                                                                        \
  do {                                                                                                               \
    atomic_fetch_add(&cases, 1);                                                                                     \
    if (condition) break;                                                                                            \
    fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                  \
    fprintf(stderr, __VA_ARGS__);                                                                                    \
    fprintf(stderr, "\n");                                                                                           \
    exit(1);                                                                                                         \
  } while (0)

static uint64_t seed;

static uint32_t chance(uint32_t n) {
  seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((seed >> 33) % n);
}

/* ---- passes over a bare pool */

static const kernels touching;

enum { MAX_ROUNDS = 4000, MAX_SHARES = 64 };

typedef struct storm {
  pass pass;
  int rounds, shares;
  size_t most_shared; /* 0: no shared memory */
  atomic_int taken[MAX_SHARES];
  atomic_int inside;
  int reached[MAX_THREADS]; /* rounds that each thread saw the end of */
  atomic_int mistakes;
  atomic_bool over;
} storm;

static void storm_done(pass *p) { atomic_store(&((storm *)p)->over, true); }

static void share_memory(storm *s, team *t, int round) {
  size_t bytes = (size_t)(round * 7919) % s->most_shared + 64;
  uint8_t *shared = team_shared(t, bytes);
  if (shared == NULL) return;
  size_t from = bytes * (size_t)t->rank / (size_t)t->size, to = bytes * ((size_t)t->rank + 1) / (size_t)t->size;
  memset(shared + from, round & 0xff, to - from);
  if (!team_barrier(t)) return;
  for (size_t i = 0; i < bytes; i += 61) {
    if (shared[i] != (round & 0xff)) atomic_fetch_add(&s->mistakes, 1);
  }
}

static void run_storm(pass *p, team *t) {
  storm *s = (storm *)p;
  memset(t->scratch, t->rank, 4096);
  for (int round = 0; round < s->rounds; round++) {
    for (int64_t i; (i = team_next(t, s->shares)) >= 0;) atomic_fetch_add(&s->taken[i], 1);
    if (!team_barrier(t)) return;
    if (s->most_shared > 0) share_memory(s, t, round);
    if (t->rank == 0) {
      for (int i = 0; i < s->shares; i++) {
        int taken = atomic_exchange(&s->taken[i], 0);
        if (taken != 1) atomic_fetch_add(&s->mistakes, 1);
      }
    }
    if (!team_end_op(t)) return;
    s->reached[t->rank] = round + 1;
  }
  for (int i = 0; i < 4096; i++) {
    if (t->scratch[i] != (uint8_t)t->rank) atomic_fetch_add(&s->mistakes, 1);
  }
}

static storm *new_storm(int rounds, int shares, size_t most_shared) {
  storm *s = calloc(1, sizeof *s);
  s->pass.run = run_storm;
  s->pass.done = storm_done;
  s->rounds = rounds;
  s->shares = shares;
  s->most_shared = most_shared;
  return s;
}

static void wait_for(storm *s) {
  while (!atomic_load(&s->over)) sched_yield();
}

static void test_barriers(int scale) {
  for (int threads = 1; threads <= 8; threads++) {
    memory *m = memory_open();
    gang *g = gang_open(threads, NULL, m, &touching);
    CHECK(g != NULL, "no pool of %d threads", threads);
    for (int repeat = 0; repeat < 2; repeat++) {
      storm *s = new_storm(100 * scale / threads, 1 + repeat * (MAX_SHARES - 1), repeat == 0 ? 0 : 1 << 16);
      gang_submit(g, &s->pass);
      wait_for(s);
      CHECK(s->pass.outcome == PASS_DONE, "%d", s->pass.outcome);
      CHECK(atomic_load(&s->mistakes) == 0, "%d mistakes with %d threads", atomic_load(&s->mistakes), threads);
      free(s);
    }
    gang_close(g);
    int64_t private_bytes, huge_bytes;
    memory_account(m, &private_bytes, &huge_bytes);
    CHECK(private_bytes == 0 && huge_bytes == 0, "%lld bytes left", (long long)private_bytes);
    memory_close(m);
  }
}

static void spin_ns(int64_t ns) {
  for (int64_t until = now_ns() + ns; now_ns() < until;) pause_core();
}

/* All threads leave after the same round, whenever the stop comes; and what is queued behind runs. */
static void test_stops(int scale) {
  for (int threads = 1; threads <= 4; threads++) {
    memory *m = memory_open();
    gang *g = gang_open(threads, NULL, m, &touching);
    for (int n = 0; n < 100 * scale; n++) {
      storm *stopped = new_storm(MAX_ROUNDS, 1 + (int)chance(8), chance(2) ? 4096 : 0), *next = new_storm(2, 3, 0);
      gang_submit(g, &stopped->pass);
      gang_submit(g, &next->pass);
      spin_ns(chance(30000));
      gang_stop(&stopped->pass);
      wait_for(next);
      CHECK(atomic_load(&stopped->over), "the second pass ended before the first");
      for (int i = 0; i < threads; i++) {
        CHECK(stopped->reached[i] == stopped->reached[0], "threads left after rounds %d and %d", stopped->reached[0],
              stopped->reached[i]);
      }
      CHECK(next->pass.outcome == PASS_DONE && next->reached[0] == 2, "%d", next->pass.outcome);
      free(stopped);
      free(next);
    }
    gang_close(g);
    memory_close(m);
  }
}

/* A pool closes at any moment, with passes running, waiting, or none. */
static void test_closing(int scale) {
  for (int n = 0; n < 30 * scale; n++) {
    memory *m = memory_open();
    gang *g = gang_open(1 + (int)chance(4), NULL, m, &touching);
    storm *s[3];
    int count = (int)chance(4);
    for (int i = 0; i < count; i++) {
      s[i] = new_storm(MAX_ROUNDS, 4, 0);
      gang_submit(g, &s[i]->pass);
    }
    spin_ns(chance(50000));
    gang_close(g);
    for (int i = 0; i < count; i++) free(s[i]);
    memory_close(m);
  }
}

/* ---- urgent passes, which interrupt others */

enum { DETOUR_SHARES = 24 };

/*
 * A pass whose every number comes from others of the round before, by way of shared memory and the threads' own: what an
 * interruption loses, does twice or writes into changes the numbers at the end.
 */
typedef struct weave {
  pass pass;
  uint32_t mark;
  int rounds;
  bool fails; /* in its last round */
  uint64_t numbers[DETOUR_SHARES], next[DETOUR_SHARES];
  int reached[MAX_THREADS]; /* rounds that each thread saw the end of */
  atomic_int lost; /* what scratch and shared memory held was not there any more */
  atomic_bool begun, over;
  struct weave *behind; /* of an urgent one: which pass ran when it was submitted. Or NULL */
  bool overtook;        /* it ended while that pass was under way */
} weave;

static uint64_t woven(uint32_t mark, int round, uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b << 7 | b >> 57)) + mark + (uint64_t)round;
  return x * UINT64_C(0x9e3779b97f4a7c15) ^ x >> 29;
}

static void weave_share(weave *w, team *t, int round, int64_t i, uint64_t *shared) {
  uint64_t *own = (uint64_t *)(void *)t->scratch;
  own[1 + i] = woven(w->mark, round, w->numbers[i], w->numbers[(i * 5 + 1) % DETOUR_SHARES]);
  shared[i] = own[1 + i];
}

static void run_weave(pass *p, team *t) {
  weave *w = (weave *)p;
  uint64_t *own = (uint64_t *)(void *)t->scratch;
  atomic_store(&w->begun, true);
  own[0] = w->mark;
  for (int round = 0; round < w->rounds; round++) {
    uint64_t *shared = team_shared(t, (DETOUR_SHARES + (size_t)(w->mark % 977 * (unsigned)round % 4096)) * sizeof *shared);
    if (shared == NULL) return;
    for (int64_t i; (i = team_next(t, DETOUR_SHARES)) >= 0;) weave_share(w, t, round, i, shared);
    if (own[0] != w->mark) atomic_fetch_add(&w->lost, 1);
    if (w->fails && round == w->rounds - 1 && t->rank == 0) team_fail(t);
    if (!team_barrier(t)) return;
    for (int64_t i; (i = team_next(t, DETOUR_SHARES)) >= 0;) w->next[i] = shared[DETOUR_SHARES - 1 - i];
    if (!team_barrier(t)) return;
    if (t->rank == 0) memcpy(w->numbers, w->next, sizeof w->numbers);
    if (!team_end_op(t)) return;
    w->reached[t->rank] = round + 1;
  }
}

static void weave_done(pass *p) {
  weave *w = (weave *)p;
  if (w->behind != NULL) w->overtook = atomic_load(&w->behind->begun) && !atomic_load(&w->behind->over);
  atomic_store(&w->over, true);
}

/* Against the same rounds in a row, without threads. */
static void check_weave(weave *w, int threads, bool stoppable) {
  uint64_t numbers[DETOUR_SHARES] = {0}, next[DETOUR_SHARES];
  int rounds = w->reached[0];
  for (int i = 0; i < threads; i++) CHECK(w->reached[i] == rounds, "rounds %d and %d", w->reached[i], rounds);
  CHECK(atomic_load(&w->lost) == 0, "%d threads lost what they had", atomic_load(&w->lost));
  pass_outcome outcome = w->pass.outcome;
  bool whole = outcome == PASS_DONE && rounds == w->rounds && !w->fails;
  bool failed = outcome == PASS_FAILED && rounds == w->rounds - 1 && w->fails;
  CHECK(whole || failed || (outcome == PASS_STOPPED && stoppable), "%d after %d of %d", outcome, rounds, w->rounds);
  if (!whole) return;
  for (int round = 0; round < rounds; round++) {
    for (int i = 0; i < DETOUR_SHARES; i++) {
      next[DETOUR_SHARES - 1 - i] = woven(w->mark, round, numbers[i], numbers[(i * 5 + 1) % DETOUR_SHARES]);
    }
    memcpy(numbers, next, sizeof numbers);
  }
  CHECK(memcmp(numbers, w->numbers, sizeof numbers) == 0, "other numbers than alone, with %d threads", threads);
}

static weave *new_weave(int rounds, weave *behind) {
  weave *w = calloc(1, sizeof *w);
  w->pass.run = run_weave;
  w->pass.done = weave_done;
  w->pass.urgent = behind != NULL;
  w->mark = chance(1 << 30);
  w->rounds = rounds;
  w->behind = behind;
  w->fails = chance(16) == 0;
  return w;
}

static void wait_for_weave(weave *w) {
  while (!atomic_load(&w->over)) sched_yield();
}

/* One pass, and urgent ones at random moments, some of them two at once; stops of either. Returns how many interrupted
 * it. */
static int interrupt(gang *g, int threads) {
  enum { MOST = 12 };
  weave *ground = new_weave(20 + (int)chance(200), NULL), *urgent[MOST];
  bool stop_ground = chance(4) == 0, stopped[MOST] = {false};
  int count = (int)chance(MOST), overtook = 0;
  gang_submit(g, &ground->pass);
  while (chance(4) && !atomic_load(&ground->begun)) sched_yield();
  for (int i = 0; i < count; i++) {
    urgent[i] = new_weave(1 + (int)chance(4), ground);
    spin_ns(chance(3) ? chance(20000) : 0);
    gang_submit(g, &urgent[i]->pass);
    if (stop_ground && i == count / 2) gang_stop(&ground->pass);
    if (chance(6) == 0) {
      stopped[i] = true;
      spin_ns(chance(5000));
      gang_stop(&urgent[i]->pass);
    }
    if (chance(3) == 0) wait_for_weave(urgent[i]);
  }
  wait_for_weave(ground);
  for (int i = 0; i < count; i++) {
    wait_for_weave(urgent[i]);
    check_weave(urgent[i], threads, stopped[i]);
    overtook += urgent[i]->overtook;
    free(urgent[i]);
  }
  check_weave(ground, threads, stop_ground);
  free(ground);
  return overtook;
}

static void test_detours(int scale) {
  static const int sizes[] = {1, 2, 3, 8};
  for (int n = 0; n < 4; n++) {
    memory *m = memory_open();
    gang *g = gang_open(sizes[n], NULL, m, &touching);
    CHECK(g != NULL && gang_open_detour(g), "no pool of %d threads", sizes[n]);
    int overtook = 0;
    /* A busy machine may run every pass to its end before the next comes: then it is tried more often. */
    const int rounds = 200 * scale / sizes[n];
    for (int i = 0; i < rounds || (overtook <= 10 * scale && i < 50 * rounds); i++) overtook += interrupt(g, sizes[n]);
    CHECK(overtook > 10 * scale, "only %d times were %d threads interrupted", overtook, sizes[n]);
    gang_close(g);
    int64_t private_bytes, huge_bytes;
    memory_account(m, &private_bytes, &huge_bytes);
    CHECK(private_bytes == 0, "%lld bytes left", (long long)private_bytes);
    memory_close(m);
  }
}

/* Urgent passes go first where none runs that they could interrupt, and in their own order. */
static void test_urgent_order(int scale) {
  for (int n = 0; n < 20 * scale; n++) {
    memory *m = memory_open();
    int threads = 1 + (int)chance(3);
    gang *g = gang_open(threads, NULL, m, &touching);
    CHECK(g != NULL && gang_open_detour(g), "no pool");
    weave *last = new_weave(1, NULL), *first = new_weave(100, last), *second = new_weave(3, last);
    weave *third = new_weave(3, second);
    gang_submit(g, &first->pass);
    gang_submit(g, &last->pass);
    gang_submit(g, &second->pass);
    gang_submit(g, &third->pass);
    wait_for_weave(last);
    CHECK(atomic_load(&first->over) && atomic_load(&second->over) && atomic_load(&third->over), "the last came before");
    CHECK(!third->overtook, "an urgent pass was interrupted");
    weave *all[] = {first, second, third, last};
    for (int i = 0; i < 4; i++) {
      check_weave(all[i], threads, false);
      free(all[i]);
    }
    gang_close(g);
    memory_close(m);
  }
}

/* A pass that is stopped while it is suspended ends as soon as it goes on. */
static void test_stop_of_suspended(int scale) {
  for (int n = 0; n < 20 * scale; n++) {
    memory *m = memory_open();
    gang *g = gang_open(2, NULL, m, &touching);
    CHECK(g != NULL && gang_open_detour(g), "no pool");
    weave *ground = new_weave(1 << 28, NULL), *urgent = new_weave(1 << 28, ground);
    gang_submit(g, &ground->pass);
    while (!atomic_load(&ground->begun)) sched_yield();
    gang_submit(g, &urgent->pass);
    while (!atomic_load(&urgent->begun)) sched_yield();
    gang_stop(&ground->pass);
    int reached = ground->rounds; /* nobody writes it now */
    for (int i = 0; i < 2; i++) reached = ground->reached[i] < reached ? ground->reached[i] : reached;
    gang_stop(&urgent->pass);
    wait_for_weave(ground);
    CHECK(urgent->overtook && ground->reached[0] <= reached + 1, "%d rounds, then %d", reached, ground->reached[0]);
    check_weave(urgent, 2, true);
    check_weave(ground, 2, true);
    free(ground);
    free(urgent);
    gang_close(g);
    memory_close(m);
  }
}

/* A pool closes in the middle of a detour, or with one wished for. */
static void test_closing_detours(int scale) {
  for (int n = 0; n < 60 * scale; n++) {
    memory *m = memory_open();
    gang *g = gang_open(1 + (int)chance(4), NULL, m, &touching);
    CHECK(g != NULL && gang_open_detour(g), "no pool");
    weave *ground = new_weave(1 << 28, NULL), *urgent = new_weave(1 << 28, ground), *more = new_weave(1 << 28, ground);
    gang_submit(g, &ground->pass);
    spin_ns(chance(20000));
    gang_submit(g, &urgent->pass);
    spin_ns(chance(20000));
    gang_submit(g, &more->pass);
    gang_close(g);
    CHECK(atomic_load(&ground->begun) == atomic_load(&ground->over), "a pass was left running");
    CHECK(atomic_load(&urgent->begun) == atomic_load(&urgent->over), "an urgent pass was left running");
    free(ground);
    free(urgent);
    free(more);
    memory_close(m);
  }
}

/* ---- slabs */

static void test_slabs(int scale) {
  enum { PAGES = 200 };
  static const size_t sizes[] = {131072, 69632, 100, 3 << 20};
  memory *m = memory_open();
  slabs all = {NULL};
  cache_page pages[PAGES] = {{NULL, 0, NULL}};
  uint8_t marks[PAGES] = {0};
  for (int n = 0; n < 200 * scale; n++) {
    int i = (int)chance(PAGES);
    if (pages[i].data == NULL) {
      CHECK(page_new(m, &all, sizes[chance(4)], &pages[i]), "no page");
      CHECK((uintptr_t)pages[i].data % 64 == 0, "%p", (void *)pages[i].data);
      marks[i] = (uint8_t)chance(256);
      memset(pages[i].data, marks[i], pages[i].bytes);
    } else {
      uint8_t first = pages[i].data[0], last = pages[i].data[pages[i].bytes - 1];
      CHECK(first == marks[i] && last == marks[i], "page %d was overwritten", i);
      page_free(m, &all, &pages[i]);
    }
  }
  for (int i = 0; i < PAGES; i++) {
    if (pages[i].data != NULL) page_free(m, &all, &pages[i]);
  }
  int64_t private_bytes, huge_bytes;
  memory_account(m, &private_bytes, &huge_bytes);
  CHECK(private_bytes == 0 && all.first == NULL, "%lld bytes left", (long long)private_bytes);
  memory_close(m);
}

/* ---- kernels that only touch */

static volatile float sink;

static void read_floats(const float *x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  sink = sum;
}

static void write_floats(float *out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = (float)(i % 7);
}

static void read_bytes(const uint8_t *x, int64_t n) {
  unsigned sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  sink = (float)sum;
}

static void read_matrix(const matrix *m) {
  if (m->type == TYPE_MXFP4) {
    int64_t blocks = m->experts * m->rows * m->cols / 32;
    read_bytes(m->parts[0].data, blocks * 16);
    read_bytes(m->parts[0].scales, blocks);
  } else if (m->type == TYPE_Q8) {
    read_bytes(m->parts[0].data, q8_bytes(m->rows, m->cols));
  } else {
    int64_t row_bytes = m->cols * (m->type == TYPE_F32 ? 4 : 2);
    for (int i = 0; i < m->num_parts; i++) read_bytes(m->parts[i].data, m->parts[i].rows * row_bytes);
  }
}

/* One thread touches, after all have met: what it reads must have been written by then. */
#define TOUCH(name, ...)                                                                                             \
  static void name(const name##_args *a, team *t) {                                                                  \
    if (!team_barrier(t) || t->rank != t->size - 1) return;                                                          \
    __VA_ARGS__                                                                                                      \
  }

TOUCH(embedding, {
  read_matrix(a->table);
  for (int64_t i = 0; i < a->count; i++) CHECK(a->tokens[i] >= 0 && a->tokens[i] < a->table->rows, "%d", a->tokens[i]);
  write_floats(a->out, a->count * a->table->cols);
})
TOUCH(rms_norm, {
  read_floats(a->weight, a->width);
  read_floats(a->x, a->tokens * a->width);
  write_floats(a->out, a->tokens * a->width);
})
TOUCH(linear, {
  read_matrix(a->weight);
  if (a->bias != NULL) read_floats(a->bias, a->weight->rows);
  read_floats(a->x, a->tokens * a->weight->cols);
  write_floats(a->out, a->tokens * a->weight->rows);
})
TOUCH(rope, {
  int64_t width = (a->num_heads + 2 * a->num_kv_heads) * a->head_dim;
  for (int64_t i = 0; i < a->tokens; i++) CHECK(a->positions[i] >= 0, "%d", a->positions[i]);
  for (int i = 0; i < a->head_dim / 2; i++) CHECK(isfinite(a->frequencies[i]), "%g", a->frequencies[i]);
  read_floats(a->qkv, a->tokens * width);
  write_floats(a->out, a->tokens * width);
})
TOUCH(top_k, {
  read_floats(a->logits, a->tokens * a->num_experts);
  write_floats(a->experts, a->tokens * a->k);
  write_floats(a->weights, a->tokens * a->k);
})
TOUCH(experts, {
  read_matrix(a->gate_up);
  read_matrix(a->down);
  read_matrix(a->gate_up_bias);
  read_matrix(a->down_bias);
  read_floats(a->x, a->tokens * a->hidden);
  read_floats(a->experts, a->tokens * a->k);
  read_floats(a->weights, a->tokens * a->k);
  write_floats(a->out, a->tokens * a->hidden);
})
TOUCH(add, {
  read_floats(a->x, a->length);
  read_floats(a->y, a->length);
  write_floats(a->out, a->length);
})
TOUCH(rows, {
  for (int64_t i = 0; i < a->count; i++) read_floats(a->x + a->indices[i] * a->width, a->width);
  write_floats(a->out, a->count * a->width);
})
TOUCH(quantize, {
  read_matrix(a->source);
  memset(a->out, 1, (size_t)q8_bytes(a->source->rows, a->source->cols));
})

static int64_t cache_page_bytes(cache_type cache, int num_kv_heads, int head_dim) {
  return (int64_t)num_kv_heads * head_dim * PAGE_TOKENS * 2 * (cache == CACHE_BF16 ? 2 : 1);
}

TOUCH(attention, {
  int64_t heads = a->num_heads * a->head_dim, width = heads + 2 * (int64_t)a->num_kv_heads * a->head_dim;
  read_floats(a->sinks, a->num_heads);
  read_floats(a->qkv, a->tokens * width);
  for (int64_t i = 0; i < a->num_pieces; i++) {
    const piece *p = &a->pieces[i];
    CHECK(p->row + p->count <= a->tokens, "%lld", (long long)p->row);
    for (int64_t at = p->first; at < p->start + p->count; at += 17) {
      uint8_t *byte = p->pages[at % p->capacity / PAGE_TOKENS];
      byte += at * 8191 % cache_page_bytes(a->cache, a->num_kv_heads, a->head_dim);
      if (at >= p->start && at >= p->length) *byte = 1;
      else read_bytes(byte, 1);
    }
  }
  write_floats(a->out, a->tokens * heads);
})

static uint64_t read_memory(const uint8_t *data, int64_t bytes, team *t) {
  if (team_next(t, 1) == 0) read_bytes(data, bytes);
  return 0;
}

static void move_tokens(cache_type cache, int num_kv_heads, int head_dim, uint8_t *page, int begin, int end,
                        uint8_t *bytes, bool into_page) {
  int64_t token_bytes = cache_page_bytes(cache, num_kv_heads, head_dim) / PAGE_TOKENS;
  uint8_t *tokens = page + begin * token_bytes;
  int64_t length = (end - begin) * token_bytes;
  memcpy(into_page ? tokens : bytes, into_page ? bytes : tokens, (size_t)length);
}

static void nothing(void) {}

static const kernels touching = {
  "touching", embedding, rms_norm, linear, rope, attention, top_k, experts, add, rows, quantize, read_memory,
  nothing, nothing, cache_page_bytes, move_tokens,
};

/* ---- programs */

typedef struct hearing { atomic_int ended; } hearing;

static void ended(device *d) { atomic_fetch_add(&((hearing *)d->owner)->ended, 1); }

static void settle(device *d, hearing *h, int count) {
  while (atomic_load(&h->ended) < count) sched_yield();
  while (d->first != NULL) {
    task *t = d->first;
    if (t->pass.outcome == PASS_DONE && t->finish != NULL) CHECK(t->finish(t), "not finished");
    task_over(t);
  }
  atomic_store(&h->ended, 0);
}

enum { WIDTH = 64, INNER = 32, EXPERTS = 4, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16 };
enum { QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM };

typedef struct model {
  int64_t table, norm, qkv, bias, sinks, gate_up, down, gate_up_bias, down_bias, q8, pages[3];
} model;

static int64_t matrix_of(device *d, number_type type, int64_t rows, int64_t cols) {
  problem p;
  int64_t id, length = rows * cols * (type == TYPE_F32 ? 4 : 2);
  uint8_t *data = calloc(1, (size_t)length);
  CHECK(device_matrix(d, type, 1, &rows, cols, &(bytes){-1, 0, length, data}, &id, &p), "%s", p.text);
  free(data);
  return id;
}

static int64_t mxfp4_of(device *d, int64_t rows, int64_t cols) {
  problem p;
  int64_t id, blocks = EXPERTS * rows * cols / 32;
  uint8_t *data = calloc(16, (size_t)blocks);
  bytes codes = {-1, 0, blocks * 16, data}, scales = {-1, 0, blocks, data};
  CHECK(device_mxfp4(d, EXPERTS, rows, cols, codes, scales, &id, &p), "%s", p.text);
  free(data);
  return id;
}

static model make_model(device *d, hearing *h) {
  problem p;
  model m = {
    .table = matrix_of(d, TYPE_BF16, 50, WIDTH), .norm = matrix_of(d, TYPE_F32, 1, WIDTH),
    .qkv = matrix_of(d, TYPE_BF16, QKV, WIDTH), .bias = matrix_of(d, TYPE_F32, 1, QKV),
    .sinks = matrix_of(d, TYPE_F32, 1, HEADS),
    .gate_up = mxfp4_of(d, 2 * INNER, WIDTH), .down = mxfp4_of(d, WIDTH, INNER),
    .gate_up_bias = matrix_of(d, TYPE_BF16, EXPERTS, 2 * INNER), .down_bias = matrix_of(d, TYPE_F32, EXPERTS, WIDTH),
  };
  task *t = device_quantize(d, m.qkv, &p);
  CHECK(t != NULL && t->finish != NULL, "%s", p.text);
  task_start(t);
  while (atomic_load(&h->ended) < 1) sched_yield();
  CHECK(t->finish(t), "not quantised");
  m.q8 = (int64_t)t->result;
  task_over(t);
  atomic_store(&h->ended, 0);
  for (int i = 0; i < 3; i++) {
    CHECK(device_new_page(d, cache_page_bytes(CACHE_BF16, KV_HEADS, HEAD_DIM), &m.pages[i], &p), "%s", p.text);
  }
  return m;
}

/* A program with every opcode; offsets 4096 apart hold 16 rows of 64 numbers. */
static size_t whole_program(const model *m, double *w) {
  size_t n = 0;
#define PUT(...)                                                                                                     \
  do {                                                                                                               \
    const double put[] = {__VA_ARGS__};                                                                              \
    memcpy(w + n, put, sizeof put);                                                                                  \
    n += sizeof put / sizeof put[0];                                                                                 \
  } while (0)
#define AT(i) ((i) * 4096.0)
  PUT(1, (double)m->table, AT(0), 3, 0, 49, 7);
  PUT(2, AT(0), 3, WIDTH, (double)m->norm, 1e-5, AT(1));
  PUT(3, AT(1), 3, (double)m->qkv, (double)m->bias, AT(2));
  PUT(3, AT(1), 3, (double)m->q8, -1, AT(2));
  PUT(4, AT(2), 3, HEADS, KV_HEADS, HEAD_DIM, 1.3, AT(2), 100, 101, 5, 1, .5, .25, .1, .05, .02, .01, .005);
  PUT(5, AT(2), 3, (double)m->sinks, HEADS, KV_HEADS, HEAD_DIM, 128, 0, AT(3), 2);
  PUT(0, 2, 100, 20, 100, 0, 2, (double)m->pages[0], (double)m->pages[1]);
  PUT(2, 1, 500, 490, 500, 60, 1, (double)m->pages[2]);
  PUT(6, AT(3), 3, EXPERTS, 2, AT(4), AT(5));
  PUT(7, AT(1), 3, WIDTH, INNER, AT(4), AT(5), 2, 0, (double)m->gate_up, (double)m->down, (double)m->gate_up_bias,
      (double)m->down_bias, 7, AT(6));
  PUT(8, AT(6), AT(1), 3 * WIDTH, AT(6));
  PUT(9, AT(6), WIDTH, AT(7), 2, 0, 2);
  return n;
}

/* Some tokens of a page, to be read or written. */
static page_tokens some_tokens(const model *m, int page) {
  static uint8_t bytes[PAGE_TOKENS * KV_HEADS * HEAD_DIM * 4];
  int64_t begin = chance(PAGE_TOKENS), count = chance((uint32_t)(PAGE_TOKENS - begin) + 1);
  return (page_tokens){m->pages[page], CACHE_BF16, KV_HEADS, HEAD_DIM, begin, count * KV_HEADS * HEAD_DIM * 4, bytes};
}

static double hostile_word(void) {
  static const double words[] = {0, 1, -1, 2, 63, 64, 65, 4096, 1e9, 2147483647, 2147483648.0, 4294967296.0,
                                 9007199254740992.0, 1e300, -1e300, .5, 1.0 / 0.0, -1.0 / 0.0, 0.0 / 0.0};
  uint32_t i = chance(sizeof words / sizeof words[0] + 8);
  return i < sizeof words / sizeof words[0] ? words[i] : (double)chance(200);
}

static void test_programs(int scale) {
  enum { ARENA = 8 * 4096, MAX_WORDS = 256 };
  problem p;
  hearing h = {0};
  device *d = device_open(&touching, 2, false, &p);
  CHECK(d != NULL, "%s", p.text);
  d->owner = &h;
  d->ended = ended;
  model m = make_model(d, &h);
  int in_flight = 0;
  double good[MAX_WORDS], bad[MAX_WORDS];
  float result[64];
  size_t n = whole_program(&m, good);
  int accepted = 0;
  for (int i = 0; i < 1000 * scale; i++) {
    size_t length = n;
    memcpy(bad, good, sizeof bad);
    if (i > 0 && chance(3) == 0) {
      length = chance(MAX_WORDS);
      for (size_t k = 0; k < length; k++) bad[k] = hostile_word();
    } else if (i > 0) {
      for (uint32_t k = chance(3); k < 3; k++) bad[chance((uint32_t)n)] = hostile_word();
      if (chance(8) == 0) length = chance((uint32_t)n);
    }
    int64_t arena = i > 0 && chance(4) == 0 ? (int64_t)chance(2 * ARENA) : ARENA;
    int64_t at = chance(2) ? 7 * 4096 : 4 * (int64_t)chance(ARENA);
    task *t = device_program(d, bad, length, arena, i == 0 ? 0 : at, (int64_t)chance(64), chance(2), &p);
    CHECK(i > 0 || t != NULL, "a good program is refused: %s", p.text);
    if (t == NULL) continue;
    task_set_result(t, result);
    task_start(t);
    if (chance(4) == 0) CHECK(device_stop(d, t->id), "no pass");
    accepted++;
    in_flight++;
    bool busy;
    page_tokens tokens = some_tokens(&m, (int)chance(3));
    CHECK(device_read_tokens(d, &tokens, &busy, &p), "%s", p.text);
    device_write_tokens(d, &tokens, &p);
    if (chance(3) == 0) continue;
    settle(d, &h, in_flight);
    in_flight = 0;
  }
  CHECK(accepted > 10 * scale, "only %d of the programs were accepted", accepted);
  device_close(d);
}

/* Attention alone, over positions `start` to start + count. */
static task *attend(device *d, const model *m, int64_t start, int64_t count, int64_t length, int64_t capacity,
                    const int *pages, bool urgent) {
  problem p;
  double w[64];
  size_t n = 0;
  double num_pages = pages[1] < 0 ? 1 : 2;
  PUT(5, AT(0), (double)count, (double)m->sinks, HEADS, KV_HEADS, HEAD_DIM, 0, 0, AT(1), 1);
  PUT(0, (double)count, (double)start, 0, (double)length, (double)capacity, num_pages);
  for (int i = 0; i < num_pages; i++) PUT((double)m->pages[pages[i]]);
  task *t = device_program(d, w, n, 8 * 4096, 0, 4, urgent, &p);
  CHECK(t != NULL, "%s", p.text);
  static float result[4];
  task_set_result(t, result);
  return t;
}

/* What may overtake a pass in flight: nothing that touches what it writes, or writes what it reads. */
static void test_conflicts(void) {
  static const struct {
    const char *name;
    struct { int64_t start, count, length, capacity; int pages[2]; } first, second;
    bool urgent;
  } pairs[] = {
    {"other pages", {100, 1, 100, 0, {0, 1}}, {5, 1, 5, 0, {2, -1}}, true},
    {"a page that both read", {100, 1, 100, 0, {0, 1}}, {100, 1, 100, 0, {0, 2}}, true},
    {"a page that both write", {100, 1, 100, 0, {0, 1}}, {5, 1, 5, 0, {1, -1}}, false},
    {"reading what is written", {100, 1, 100, 0, {0, 1}}, {100, 1, 100, 0, {1, 2}}, false},
    {"reading what is written, without writing", {100, 1, 100, 0, {0, 1}}, {5, 1, 6, 0, {1, -1}}, false},
    {"writing what is read", {100, 1, 100, 0, {0, 1}}, {5, 1, 5, 0, {0, -1}}, false},
    {"writing what is read by one that writes nothing", {100, 1, 101, 0, {0, 1}}, {5, 1, 5, 0, {1, -1}}, false},
    {"a page of one that writes nothing", {100, 1, 101, 0, {0, 1}}, {5, 1, 6, 0, {1, -1}}, true},
    {"the end of a ring", {127, 1, 127, 128, {0, 1}}, {5, 1, 6, 0, {0, -1}}, true},
    {"a ring's end and beginning", {127, 2, 127, 128, {0, 1}}, {5, 1, 6, 0, {0, -1}}, false},
    {"a ring's later round", {130, 1, 130, 128, {0, 1}}, {5, 1, 6, 0, {1, -1}}, true},
    {"the second page of a ring's later round", {192, 1, 192, 128, {0, 1}}, {5, 1, 6, 0, {1, -1}}, false},
  };
  problem p;
  hearing h = {0};
  device *d = device_open(&touching, 2, false, &p);
  CHECK(d != NULL, "%s", p.text);
  d->owner = &h;
  d->ended = ended;
  model m = make_model(d, &h);
#define ATTEND(a, urgent) attend(d, &m, a.start, a.count, a.length, a.capacity, a.pages, urgent)
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
    task *first = ATTEND(pairs[i].first, i % 2);
    CHECK(first->pass.urgent == i % 2, "the first is as it was wished");
    task_start(first);
    task *second = ATTEND(pairs[i].second, true);
    CHECK(second->pass.urgent == pairs[i].urgent, "%s: urgent is %d", pairs[i].name, second->pass.urgent);
    task_start(second);
    settle(d, &h, 2);
  }
  /* A copy waits for those that write the one or use the other. */
  static const struct { int from, to; bool waits; } copies[] = {{0, 2, false}, {1, 2, true}, {2, 0, true}};
  for (int i = 0; i < 3; i++) {
    task *first = ATTEND(pairs[0].first, false), *copy;
    task_start(first);
    CHECK(device_copy_page(d, m.pages[copies[i].from], m.pages[copies[i].to], &p), "%s", p.text);
    copy = d->last;
    CHECK((copy != first) == copies[i].waits, "page %d to %d", copies[i].from, copies[i].to);
    task *second = attend(d, &m, 5, 1, 6, 0, (int[]){2, -1}, true);
    CHECK(second->pass.urgent == (copies[i].to != 2 || copy == first), "a copy that waits was overtaken");
    task_start(second);
    settle(d, &h, copy != first ? 3 : 2);
  }
  /* Tokens are read where nothing writes, and written where nothing reads: page 1 is written, page 0 read. */
  for (int page = 0; page < 3; page++) {
    task_start(ATTEND(pairs[0].first, false));
    bool busy;
    page_tokens tokens = some_tokens(&m, page);
    CHECK(device_read_tokens(d, &tokens, &busy, &p) && busy == (page == 1), "page %d is busy: %d", page, busy);
    CHECK(device_write_tokens(d, &tokens, &p) == (page == 2), "page %d is written", page);
    settle(d, &h, 1);
    CHECK(device_read_tokens(d, &tokens, &busy, &p) && !busy, "page %d is busy for ever", page);
  }
  device_close(d);
}

/* Given back while passes that use them wait: kept until those have ended, and only so long. */
static void test_giving_back(int scale) {
  problem p;
  for (int i = 0; i < scale; i++) {
    hearing h = {0};
    device *d = device_open(&touching, 3, false, &p);
    CHECK(d != NULL, "%s", p.text);
    d->owner = &h;
    d->ended = ended;
    model m = make_model(d, &h);
    double words[256];
    size_t n = whole_program(&m, words);
    float results[3][4];
    for (int k = 0; k < 3; k++) {
      task *t = device_program(d, words, n, 8 * 4096, 0, 4, false, &p);
      CHECK(t != NULL, "%s", p.text);
      task_set_result(t, results[k]);
      task_start(t);
    }
    CHECK(device_copy_page(d, m.pages[0], m.pages[1], &p), "%s", p.text);
    for (int k = 0; k < 3; k++) CHECK(device_free_page(d, m.pages[k], &p), "%s", p.text);
    CHECK(device_release(d, m.q8, &p) && device_release(d, m.gate_up, &p), "%s", p.text);
    CHECK(!device_release(d, m.q8, &p), "released twice");
    CHECK(device_program(d, words, n, 8 * 4096, 0, 4, false, &p) == NULL, "a program of what is gone");
    if (chance(2)) settle(d, &h, 4); /* the copy is one, too */
    device_close(d);
  }
}

/* ---- machines */

static void write_file(const char *folder, const char *path, const char *text) {
  char whole[4096];
  snprintf(whole, sizeof whole, "%s%s", folder, path);
  for (char *slash = strchr(whole + strlen(folder) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(whole, 0700);
    *slash = '/';
  }
  FILE *file = fopen(whole, "w");
  CHECK(file != NULL, "%s", whole);
  fputs(text, file);
  fclose(file);
}

static void expect_machine(const char *name, const char *folder, int num_cpus, int num_cores, double quota,
                           int threads) {
  static bool mask[MAX_CPUS];
  static cores c;
  memset(mask, 0, sizeof mask);
  for (int i = 0; i < num_cpus; i++) mask[i] = true;
  find_cores(folder, mask, &c);
  CHECK(c.num_cores == num_cores, "%s: %d cores, expected %d", name, c.num_cores, num_cores);
  CHECK(c.quota == quota, "%s: a quota of %g, expected %g", name, c.quota, quota);
  CHECK(default_threads(&c) == threads, "%s: %d threads, expected %d", name, default_threads(&c), threads);
}

static const char *machine(const char *folder, const char *name) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  mkdir(path, 0700);
  return path;
}

static void test_machines(const char *folder) {
  char path[128], text[64];
  const char *at = machine(folder, "plain");
  expect_machine("nothing known", at, 6, 6, INFINITY, 6);

  at = machine(folder, "smt");
  for (int i = 0; i < 8; i++) {
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i);
    snprintf(text, sizeof text, "%d,%d\n", i % 4, i % 4 + 4);
    write_file(at, path, text);
  }
  expect_machine("two threads a core", at, 8, 4, INFINITY, 4);
  expect_machine("half of them", at, 4, 4, INFINITY, 4);

  at = machine(folder, "hybrid");
  write_file(at, "/sys/devices/cpu_core/cpus", "0-3\n");
  expect_machine("performance cores", at, 12, 4, INFINITY, 4);

  at = machine(folder, "arm");
  for (int i = 0; i < 8; i++) {
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpu_capacity", i);
    write_file(at, path, i < 4 ? "300\n" : i < 7 ? "800\n" : "1024\n");
  }
  expect_machine("three kinds of cores", at, 8, 4, INFINITY, 4);
  expect_machine("only the small ones allowed", at, 4, 4, INFINITY, 4);

  at = machine(folder, "v2");
  write_file(at, "/proc/self/cgroup", "0::/a/b\n");
  write_file(at, "/proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  write_file(at, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write_file(at, "/sys/fs/cgroup/a/cpu.max", "350000 100000\n");
  expect_machine("a quota around the group", at, 8, 8, 3.5, 3);
  write_file(at, "/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  expect_machine("half a core", at, 8, 8, .5, 1);

  at = machine(folder, "v1");
  write_file(at, "/proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n0::/\n");
  write_file(at, "/proc/self/mountinfo",
             "31 1 0:27 /docker/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n");
  write_file(at, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
  write_file(at, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  expect_machine("a container", at, 8, 8, 2, 2);
  write_file(at, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  expect_machine("a container without a quota", at, 8, 8, INFINITY, 8);
}

int main(int argc, char **argv) {
  CHECK(argc == 4, "usage: runtime-harness SEED SCALE FOLDER");
  seed = strtoull(argv[1], NULL, 10);
  int scale = atoi(argv[2]);
  test_machines(argv[3]);
  test_slabs(scale);
  test_barriers(scale);
  test_stops(scale);
  test_closing(scale);
  test_detours(scale);
  test_urgent_order(scale);
  test_stop_of_suspended(scale);
  test_closing_detours(scale);
  test_programs(scale);
  test_conflicts();
  test_giving_back(scale);
  printf("cases %d failures 0\n", cases);
  return 0;
}
