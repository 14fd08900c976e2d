/*
 * The threads of a device. A pass is one piece of work that all of them run together, each from its first line to its
 * last; passes run one after the other, in the order of their submission, the urgent ones first. An urgent pass
 * interrupts one that is not: the threads leave that one where they next look up, run the urgent pass, and go on. What a
 * running pass may use is in src/kernels/cpu.h.
 */
#ifndef TUTTI_POOL_H
#define TUTTI_POOL_H
#include "../src/kernels/cpu.h"
#include "cores.h"
#include "memory.h"
#include <stdatomic.h>

enum { MAX_THREADS = 512 };

typedef enum { PASS_DONE, PASS_STOPPED, PASS_FAILED } pass_outcome;

typedef struct pass pass;
struct pass {
  void (*run)(pass *, team *);  /* on every thread; behind its last team_next comes a barrier */
  void (*done)(pass *);         /* on the last thread to leave, before the next pass begins; may free the pass */
  bool urgent;                  /* see gang_open_detour */
  pass_outcome outcome;         /* known to `done` */
  atomic_bool stop;             /* see gang_stop */
  pass *next;
};

typedef struct gang gang;

/* NULL where the system gives no memory or no threads. `where`: the cores to deal out among the threads, or NULL. */
gang *gang_open(int num_threads, const cores *where, memory *, const kernels *);
int gang_size(const gang *);
/* Takes the memory that threads need to interrupt a pass: before the first urgent pass is submitted behind another.
 * False: the system gives none. */
bool gang_open_detour(gang *);
void gang_submit(gang *, pass *);
/* From any thread: the pass ends as soon as its threads look up, or right after it begins or goes on. */
static inline void gang_stop(pass *p) { atomic_store(&p->stop, true); }
/* Stops the running passes, waits for the threads and frees them. Passes not begun are left to the caller, `done`
 * uncalled. */
void gang_close(gang *);

/* Ends an operation inside a pass: a barrier after which team_shared's memory belongs to the next. False: return. */
bool team_end_op(team *);
/* From any thread of a running pass: it has failed. All threads leave at the next barrier. */
void team_fail(team *);

#endif
