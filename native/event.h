/*
 * A number that threads wait for to change. They spin for a moment, because most waits are shorter than a system call,
 * and then sleep, so that whoever waits for long uses no core that another could use.
 */
#ifndef TUTTI_EVENT_H
#define TUTTI_EVENT_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif

enum { SPIN_NS = 50000 };

typedef struct event {
  _Atomic uint32_t value;
  _Atomic uint32_t sleepers;
#ifndef __linux__
  pthread_mutex_t lock;
  pthread_cond_t changed;
#endif
} event;

static inline int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void pause_core(void) {
#if defined __x86_64__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("isb"); /* `yield` does nothing on cores without SMT; this takes about as long as x86's pause */
#endif
}

static inline void event_init(event *e) {
  atomic_init(&e->value, 0);
  atomic_init(&e->sleepers, 0);
#ifndef __linux__
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->changed, NULL);
#endif
}

static inline void event_destroy(event *e) {
#ifdef __linux__
  (void)e;
#else
  pthread_mutex_destroy(&e->lock);
  pthread_cond_destroy(&e->changed);
#endif
}

static inline uint32_t event_now(event *e) { return atomic_load_explicit(&e->value, memory_order_acquire); }

/* The waker changes the value and then looks for sleepers; a sleeper counts itself and then looks at the value. Both in
 * sequential consistency, so one of the two sees the other. */
static inline void event_advance(event *e) {
  atomic_fetch_add(&e->value, 1);
  if (atomic_load(&e->sleepers) == 0) return;
#ifdef __linux__
  syscall(SYS_futex, &e->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#else
  pthread_mutex_lock(&e->lock);
  pthread_cond_broadcast(&e->changed);
  pthread_mutex_unlock(&e->lock);
#endif
}

static inline bool event_spin(event *e, uint32_t seen) {
  int64_t deadline = now_ns() + SPIN_NS;
  do {
    for (int i = 0; i < 16; i++) {
      if (event_now(e) != seen) return true;
      pause_core();
    }
  } while (now_ns() < deadline);
  return false;
}

/* Returns when the value is no longer `seen`. */
static inline void event_wait(event *e, uint32_t seen) {
  if (event_spin(e, seen)) return;
  atomic_fetch_add(&e->sleepers, 1);
#ifdef __linux__
  while (atomic_load(&e->value) == seen) syscall(SYS_futex, &e->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
  pthread_mutex_lock(&e->lock);
  while (atomic_load(&e->value) == seen) pthread_cond_wait(&e->changed, &e->lock);
  pthread_mutex_unlock(&e->lock);
#endif
  atomic_fetch_sub(&e->sleepers, 1);
}

#endif
