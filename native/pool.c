#define _GNU_SOURCE
#include "pool.h"
#include "event.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 128, STACK_BYTES = 4 << 20 }; /* cores fetch lines in pairs: what threads write apart lies so far apart */

typedef struct member {
  gang *gang;
  pthread_t thread;
  team team;
  int calls;   /* of team_shared in this operation */
} member;

struct gang {
  int size;
  memory *memory;
  cores where;
  bool pinned;
  block scratch;
  member *members;

  pthread_mutex_t lock; /* of the four below */
  pass *first, *last;   /* the running pass is the first */
  bool closing;
  bool quit;            /* set before the last turn */

  /* What passes of one turn write and the next turn's read is ordered by `turn`. */
  _Alignas(LINE) event turn;
  pass *current;
  _Alignas(LINE) event barrier;
  _Alignas(LINE) atomic_int arrived;
  _Alignas(LINE) _Atomic int64_t next_share;
  _Alignas(LINE) atomic_int left;
  /* Written by the last to arrive at a barrier, while the others wait there. */
  _Alignas(LINE) bool leaving;
  block shared;
  atomic_bool failed;
};

/* ---- inside a pass */

int64_t team_next(team *t, int64_t count) {
  gang *g = t->gang;
  if (atomic_load_explicit(&g->current->stop, memory_order_relaxed)) return -1;
  if (atomic_load_explicit(&g->next_share, memory_order_relaxed) >= count) return -1;
  int64_t share = atomic_fetch_add_explicit(&g->next_share, 1, memory_order_relaxed);
  return share < count ? share : -1;
}

/* True for the last thread to arrive, which must call `release`; the others return when it has. */
static bool arrive(gang *g) {
  uint32_t seen = event_now(&g->barrier);
  if (atomic_fetch_add(&g->arrived, 1) + 1 == g->size) return true;
  event_wait(&g->barrier, seen);
  return false;
}

/* Whether to go on is decided here, by one thread for all: each reads the same answer after the same barrier, so
 * none is left waiting in one that others passed. */
static void release(gang *g) {
  if (atomic_load(&g->current->stop) || atomic_load(&g->failed)) g->leaving = true;
  atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);
  event_advance(&g->barrier);
}

bool team_barrier(team *t) {
  gang *g = t->gang;
  if (g->leaving) return false;
  if (arrive(g)) {
    atomic_store_explicit(&g->next_share, 0, memory_order_relaxed);
    release(g);
  }
  return !g->leaving;
}

static void enlarge_shared(gang *g, size_t bytes) {
  memory_free(g->memory, &g->shared);
  if (!memory_new(g->memory, bytes, PAGES_HUGE, &g->shared)) atomic_store(&g->failed, true);
}

void *team_shared(team *t, size_t bytes) {
  gang *g = t->gang;
  if (g->leaving) return NULL;
  /* The first call of an operation finds nobody using the memory: where it suffices there is nothing to wait for. */
  bool fresh = g->members[t->rank].calls++ == 0;
  if (fresh && g->shared.bytes >= bytes && bytes > 0) return g->shared.data;
  if (arrive(g)) {
    if (g->shared.bytes < bytes || g->shared.data == NULL) enlarge_shared(g, bytes > 0 ? bytes : 1);
    release(g);
  }
  return g->leaving ? NULL : g->shared.data;
}

bool team_end_op(team *t) {
  t->gang->members[t->rank].calls = 0;
  return team_barrier(t);
}

void team_fail(team *t) { atomic_store(&t->gang->failed, true); }

/* ---- passes */

/* Under the lock, with no pass running. */
static void begin_turn(gang *g) {
  g->current = g->first;
  g->leaving = false;
  atomic_store_explicit(&g->failed, false, memory_order_relaxed);
  atomic_store_explicit(&g->next_share, 0, memory_order_relaxed);
  atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);
  atomic_store_explicit(&g->left, 0, memory_order_relaxed);
  event_advance(&g->turn);
}

static void end_turn(gang *g) {
  pass *p = g->current;
  bool whole = !g->leaving && !atomic_load(&g->failed) && !atomic_load(&p->stop);
  p->outcome = whole ? PASS_DONE : atomic_load(&g->failed) ? PASS_FAILED : PASS_STOPPED;
  pthread_mutex_lock(&g->lock);
  g->first = p->next;
  if (g->first == NULL) g->last = NULL;
  pthread_mutex_unlock(&g->lock);
  p->done(p);
  pthread_mutex_lock(&g->lock);
  if (g->closing) {
    g->quit = true;
    event_advance(&g->turn);
  } else if (g->first != NULL) {
    begin_turn(g);
  } else {
    g->current = NULL;
  }
  pthread_mutex_unlock(&g->lock);
}

static void *live(void *argument) {
  member *m = argument;
  gang *g = m->gang;
#ifdef __linux__
  pthread_setname_np(pthread_self(), "tutti");
#endif
  if (g->pinned) stay_on_share(&g->where, m->team.rank, g->size);
  for (uint32_t turn = 0;; turn++) {
    event_wait(&g->turn, turn);
    if (g->quit) return NULL;
    m->calls = 0;
    g->current->run(g->current, &m->team);
    if (atomic_fetch_add(&g->left, 1) + 1 == g->size) end_turn(g);
  }
}

void gang_submit(gang *g, pass *p) {
  p->next = NULL;
  pthread_mutex_lock(&g->lock);
  if (g->last != NULL) g->last->next = p;
  else g->first = p;
  g->last = p;
  if (g->current == NULL) begin_turn(g);
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
    *m = (member){.gang = g, .team = {started, g->size, g->scratch.data + (size_t)started * TEAM_SCRATCH, g}};
    if (pthread_create(&m->thread, &attributes, live, m) != 0) break;
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (started == g->size) return true;
  g->quit = true;
  event_advance(&g->turn);
  while (started > 0) pthread_join(g->members[--started].thread, NULL);
  return false;
}

static void free_gang(gang *g) {
  memory_free(g->memory, &g->scratch);
  memory_free(g->memory, &g->shared);
  event_destroy(&g->turn);
  event_destroy(&g->barrier);
  pthread_mutex_destroy(&g->lock);
  free(g->members);
  free(g);
}

gang *gang_open(int num_threads, const cores *where, memory *mem) {
  gang *g = aligned_alloc(LINE, (sizeof *g + LINE - 1) / LINE * LINE);
  if (g == NULL) return NULL;
  memset(g, 0, sizeof *g);
  g->size = num_threads;
  g->memory = mem;
  g->pinned = where != NULL;
  if (where != NULL) g->where = *where;
  g->members = calloc((size_t)num_threads, sizeof *g->members);
  pthread_mutex_init(&g->lock, NULL);
  event_init(&g->turn);
  event_init(&g->barrier);
  bool room = g->members != NULL && memory_new(mem, (size_t)num_threads * TEAM_SCRATCH, PAGES_HUGE, &g->scratch);
  if (room && start_threads(g)) return g;
  free_gang(g);
  return NULL;
}

int gang_size(const gang *g) { return g->size; }

void gang_close(gang *g) {
  pthread_mutex_lock(&g->lock);
  g->closing = true;
  if (g->current != NULL) {
    if (g->first == g->current) gang_stop(g->current);
  } else {
    g->quit = true;
    event_advance(&g->turn);
  }
  pthread_mutex_unlock(&g->lock);
  for (int i = 0; i < g->size; i++) pthread_join(g->members[i].thread, NULL);
  free_gang(g);
}
