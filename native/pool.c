#define _GNU_SOURCE
#include "pool.h"
#include "event.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 128, STACK_BYTES = 4 << 20 }; /* cores fetch lines in pairs: what threads write apart lies so far apart */

/*
 * What one running pass needs. An interrupted pass keeps the ground; what interrupts it runs on the detour. A stage's
 * state is one word, so that whether a barrier was passed before or after an interruption is the same for all threads.
 */
typedef struct stage {
  /* Advanced when `current` is to be run, or, where it is NULL, when threads are to go their ways: the ground's end, the
   * detour's go back to the ground. What passes of one turn write and the next turn's read is ordered by it. */
  _Alignas(LINE) event turn;
  pass *current;
  _Alignas(LINE) event barrier;  /* advanced when the state is no longer what threads wait in */
  _Alignas(LINE) atomic_uint state;
  _Alignas(LINE) _Atomic int64_t next_share;
  _Alignas(LINE) atomic_int left; /* how many threads have come to the end of the turn */
  /* Written by the last to arrive at a barrier, while the others wait there. */
  _Alignas(LINE) bool leaving;
  block shared;
  atomic_bool failed;
} stage;

/* Of a state: how many threads have arrived at the barrier, the wish for a detour, and what every passed barrier flips. */
enum { ARRIVED = 0xffff, WISH = 1 << 16, PHASE = 1 << 17 };

/* A thread's place on a stage; `team` is first, so that who has the one has the other. */
typedef struct seat {
  team team;
  stage *stage;
  int calls; /* of team_shared in this operation */
} seat;

typedef struct member {
  gang *gang;
  pthread_t thread;
  seat ground, detour;
} member;

typedef struct queue { pass *first, *last; } queue;

struct gang {
  int size;
  memory *memory;
  const kernels *kernels;
  cores where;
  bool pinned;
  block scratch, detour_scratch;
  member *members;

  pthread_mutex_t lock;  /* of what follows, and of the stages' `current` */
  queue urgent, ordinary;
  bool busy;             /* a pass runs, or is about to end */
  bool closing;

  stage ground, detour;
};

/* ---- inside a pass */

static void take_detour(gang *g, int rank);

/* Only the ground's pass is ever wished away. */
int64_t team_next(team *t, int64_t count) {
  stage *s = ((seat *)t)->stage;
  if ((atomic_load_explicit(&s->state, memory_order_relaxed) & WISH) && !s->leaving) take_detour(t->gang, t->rank);
  if (atomic_load_explicit(&s->current->stop, memory_order_relaxed)) return -1;
  if (atomic_load_explicit(&s->next_share, memory_order_relaxed) >= count) return -1;
  int64_t share = atomic_fetch_add_explicit(&s->next_share, 1, memory_order_relaxed);
  return share < count ? share : -1;
}

/* True for the last thread to arrive, which must call `release`; the others return when it has. Who waits takes part in
 * detours: as long as the phase is the same and the wish is there, no release can come. */
static bool arrive(team *t) {
  stage *s = ((seat *)t)->stage;
  unsigned seen = event_now(&s->barrier), before = atomic_fetch_add(&s->state, 1), now = before;
  if ((int)(before & ARRIVED) + 1 == t->size) return true;
  while (((now ^ before) & PHASE) == 0) {
    if (now & WISH) take_detour(t->gang, t->rank);
    else event_wait(&s->barrier, seen);
    seen = event_now(&s->barrier);
    now = atomic_load(&s->state);
  }
  return false;
}

/* Whether to go on is decided here, by one thread for all: each reads the same answer after the same barrier, so
 * none is left waiting in one that others passed. A wish that came before is fulfilled before. */
static void release(team *t) {
  stage *s = ((seat *)t)->stage;
  unsigned now = atomic_load(&s->state);
  do {
    for (; now & WISH; now = atomic_load(&s->state)) take_detour(t->gang, t->rank);
    if (atomic_load(&s->current->stop) || atomic_load(&s->failed)) s->leaving = true;
  } while (!atomic_compare_exchange_weak(&s->state, &now, (now & ~(unsigned)ARRIVED) ^ PHASE));
  event_advance(&s->barrier);
}

bool team_barrier(team *t) {
  stage *s = ((seat *)t)->stage;
  if (s->leaving) return false;
  if (arrive(t)) {
    atomic_store_explicit(&s->next_share, 0, memory_order_relaxed);
    release(t);
  }
  return !s->leaving;
}

static void enlarge_shared(gang *g, stage *s, size_t bytes) {
  memory_free(g->memory, &s->shared);
  if (!memory_new(g->memory, bytes, PAGES_HUGE, &s->shared)) atomic_store(&s->failed, true);
}

void *team_shared(team *t, size_t bytes) {
  stage *s = ((seat *)t)->stage;
  if (s->leaving) return NULL;
  /* The first call of an operation finds nobody using the memory: where it suffices there is nothing to wait for. */
  bool fresh = ((seat *)t)->calls++ == 0;
  if (fresh && s->shared.bytes >= bytes && bytes > 0) return s->shared.data;
  if (arrive(t)) {
    if (s->shared.bytes < bytes || s->shared.data == NULL) enlarge_shared(t->gang, s, bytes > 0 ? bytes : 1);
    release(t);
  }
  return s->leaving ? NULL : s->shared.data;
}

bool team_end_op(team *t) {
  ((seat *)t)->calls = 0;
  return team_barrier(t);
}

void team_fail(team *t) { atomic_store(&((seat *)t)->stage->failed, true); }

/* ---- passes */

static void put(queue *q, pass *p) {
  p->next = NULL;
  if (q->last != NULL) q->last->next = p;
  else q->first = p;
  q->last = p;
}

/* NULL where there is none. */
static pass *take(queue *q) {
  pass *p = q->first;
  if (p == NULL) return NULL;
  q->first = p->next;
  if (q->first == NULL) q->last = NULL;
  return p;
}

/* Under the lock, with no thread in a pass of this stage. NULL: the threads are to go their ways. */
static void begin_turn(stage *s, pass *p) {
  s->current = p;
  s->leaving = false;
  atomic_store_explicit(&s->failed, false, memory_order_relaxed);
  atomic_store_explicit(&s->next_share, 0, memory_order_relaxed);
  atomic_store_explicit(&s->state, 0, memory_order_relaxed);
  atomic_store_explicit(&s->left, 0, memory_order_relaxed);
  event_advance(&s->turn);
}

static void end_pass(gang *g, stage *s) {
  pass *p = s->current;
  bool whole = !s->leaving && !atomic_load(&s->failed) && !atomic_load(&p->stop);
  p->outcome = whole ? PASS_DONE : atomic_load(&s->failed) ? PASS_FAILED : PASS_STOPPED;
  pthread_mutex_lock(&g->lock);
  s->current = NULL;
  pthread_mutex_unlock(&g->lock);
  p->done(p);
}

static void run_pass(seat *s) {
  s->calls = 0;
  s->stage->current->run(s->stage->current, &s->team);
}

/* The last to come fulfils the wish, or takes it back where nothing urgent waits any more. */
static void begin_detour(gang *g) {
  if (g->detour.current != NULL) end_pass(g, &g->detour);
  pthread_mutex_lock(&g->lock);
  pass *next = g->closing ? NULL : take(&g->urgent);
  if (next == NULL) atomic_fetch_and(&g->ground.state, ~(unsigned)WISH);
  begin_turn(&g->detour, next);
  pthread_mutex_unlock(&g->lock);
}

/* All threads meet, run what is urgent, and return to where they were. */
static void take_detour(gang *g, int rank) {
  stage *s = &g->detour;
  for (;;) {
    uint32_t turn = event_now(&s->turn); /* it cannot change before this thread has come */
    if (atomic_fetch_add(&s->left, 1) + 1 == g->size) begin_detour(g);
    else event_wait(&s->turn, turn);
    if (s->current == NULL) return;
    run_pass(&g->members[rank].detour);
  }
}

static pass *take_next(gang *g) {
  pass *p = take(&g->urgent);
  return p != NULL ? p : take(&g->ordinary);
}

/* On the last thread to leave. A wish that no thread saw is gone with the turn. */
static void end_turn(gang *g) {
  end_pass(g, &g->ground);
  pthread_mutex_lock(&g->lock);
  pass *next = g->closing ? NULL : take_next(g);
  if (next != NULL || g->closing) begin_turn(&g->ground, next);
  else g->busy = false;
  pthread_mutex_unlock(&g->lock);
}

static void *live(void *argument) {
  member *m = argument;
  gang *g = m->gang;
  stage *s = &g->ground;
#ifdef __linux__
  pthread_setname_np(pthread_self(), "tutti");
#endif
  if (g->pinned) stay_on_share(&g->where, m->ground.team.rank, g->size);
  for (uint32_t turn = 0;; turn++) {
    event_wait(&s->turn, turn);
    if (s->current == NULL) return NULL;
    g->kernels->enter();
    run_pass(&m->ground);
    g->kernels->leave();
    if (atomic_fetch_add(&s->left, 1) + 1 == g->size) end_turn(g);
  }
}

void gang_submit(gang *g, pass *p) {
  pthread_mutex_lock(&g->lock);
  put(p->urgent ? &g->urgent : &g->ordinary, p);
  const pass *running = g->ground.current;
  if (!g->busy) {
    g->busy = true;
    begin_turn(&g->ground, take_next(g));
  } else if (p->urgent && running != NULL && !running->urgent) {
    atomic_fetch_or(&g->ground.state, WISH);
    event_advance(&g->ground.barrier);
  }
  pthread_mutex_unlock(&g->lock);
}

/* ---- opening and closing */

/* Signals are the program's own business: its threads, not these, handle them. */
static bool start_threads(gang *g) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  int started = 0;
  for (; started < g->size; started++) {
    member *m = &g->members[started];
    m->gang = g;
    m->ground = (seat){{started, g->size, g->scratch.data + (size_t)started * TEAM_SCRATCH, g}, &g->ground, 0};
    m->detour = (seat){{started, g->size, NULL, g}, &g->detour, 0};
    if (pthread_create(&m->thread, &attributes, live, m) != 0) break;
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (started == g->size) return true;
  begin_turn(&g->ground, NULL);
  while (started > 0) pthread_join(g->members[--started].thread, NULL);
  return false;
}

static void open_stage(stage *s) {
  event_init(&s->turn);
  event_init(&s->barrier);
}

static void close_stage(gang *g, stage *s) {
  memory_free(g->memory, &s->shared);
  event_destroy(&s->turn);
  event_destroy(&s->barrier);
}

static void free_gang(gang *g) {
  memory_free(g->memory, &g->scratch);
  memory_free(g->memory, &g->detour_scratch);
  close_stage(g, &g->ground);
  close_stage(g, &g->detour);
  pthread_mutex_destroy(&g->lock);
  free(g->members);
  free(g);
}

static bool new_scratch(gang *g, block *b) {
  return memory_new(g->memory, (size_t)g->size * TEAM_SCRATCH, PAGES_HUGE, b);
}

gang *gang_open(int num_threads, const cores *where, memory *mem, const kernels *k) {
  gang *g = aligned_alloc(LINE, (sizeof *g + LINE - 1) / LINE * LINE);
  if (g == NULL) return NULL;
  memset(g, 0, sizeof *g);
  g->size = num_threads;
  g->memory = mem;
  g->kernels = k;
  g->pinned = where != NULL;
  if (where != NULL) g->where = *where;
  g->members = calloc((size_t)num_threads, sizeof *g->members);
  pthread_mutex_init(&g->lock, NULL);
  open_stage(&g->ground);
  open_stage(&g->detour);
  bool room = g->members != NULL && new_scratch(g, &g->scratch);
  if (room && start_threads(g)) return g;
  free_gang(g);
  return NULL;
}

int gang_size(const gang *g) { return g->size; }

bool gang_open_detour(gang *g) {
  if (g->detour_scratch.data != NULL) return true;
  if (!new_scratch(g, &g->detour_scratch)) return false;
  for (int i = 0; i < g->size; i++) {
    g->members[i].detour.team.scratch = g->detour_scratch.data + (size_t)i * TEAM_SCRATCH;
  }
  return true;
}

void gang_close(gang *g) {
  pthread_mutex_lock(&g->lock);
  g->closing = true;
  if (g->ground.current != NULL) gang_stop(g->ground.current);
  if (g->detour.current != NULL) gang_stop(g->detour.current);
  if (!g->busy) begin_turn(&g->ground, NULL);
  pthread_mutex_unlock(&g->lock);
  for (int i = 0; i < g->size; i++) pthread_join(g->members[i].thread, NULL);
  free_gang(g);
}
