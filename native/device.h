/*
 * A device: threads, matrices, cache pages, mapped files, an arena, and passes over them. Nothing here knows
 * JavaScript. All functions are for the one thread that opened the device; only the passes run elsewhere. Whatever a
 * pass in flight uses is kept until it has ended, even when it is given back before.
 */
#ifndef TUTTI_DEVICE_H
#define TUTTI_DEVICE_H
#include "pool.h"
#include <stdarg.h>

/* Why something is refused: which kind of error, and the fact with its numbers. */
typedef struct problem {
  enum { PROBLEM_NONE, PROBLEM_TYPE, PROBLEM_RANGE, PROBLEM_MEMORY, PROBLEM_STATE } kind;
  char text[512];
} problem;

/* Writes the problem; always false, to be returned. */
bool refuse(problem *, int kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Refuses for want of so many bytes; always NULL. */
void *no_memory(problem *, int64_t bytes);

typedef struct device device;

/* What passes may be using. */
typedef struct item item;
struct item {
  int uses, writes; /* by tasks in flight; the first counts all, the second those that write it */
  bool released; /* freed when the last use ends */
  void (*destroy)(device *, item *);
};

typedef struct weight {
  item item;
  matrix m;
  block copies[6]; /* what the parts were copied to, if they were; of a quantised matrix its codes */
} weight;

typedef struct page {
  item item;
  cache_page memory;
} page;

/* Slots with small numbers. */
typedef struct table {
  void **items; /* NULL: free */
  int64_t size, max;
  int64_t lowest_free;
} table;

typedef struct task task;
typedef struct task_use { item *item; bool writes; } task_use;

struct device {
  const kernels *kernels;
  memory *memory;
  gang *gang;
  bool pinned;
  arena arena, detour_arena; /* what urgent passes compute in that may interrupt others: opened when there is one */
  slabs slabs;
  table weights, pages, maps;
  task *first, *last; /* in flight, in the order of their submission */
  int64_t last_pass;
  void (*ended)(device *); /* the owner's: a pass has ended. Called on a thread of the pool; task_over is for later */
  void *owner;
};

/* Threads 0: as many as this process may use. */
device *device_open(const kernels *, int threads, bool pin, problem *);
/* Stops what runs and waits for the threads to be gone. Nothing but device_close and task_over may follow. */
void device_halt(device *);
/* Halts it and frees everything, tasks too. */
void device_close(device *);

bool device_map(device *, const char *path, int64_t *map, int64_t *length, problem *);

/* The file of a map that has these bytes; NULL, and the problem, where there is none. */
const file_map *device_file(const device *, int64_t map, int64_t begin, int64_t length, problem *);

/* Few of these bytes will be read, here and there. */
bool device_sparse(device *, int64_t map, int64_t begin, int64_t length, problem *);

/* Bytes of a map, or (map −1) bytes to be copied. */
typedef struct bytes { int64_t map, begin, length; const uint8_t *data; } bytes;

bool device_matrix(device *, number_type, int num_parts, const int64_t *rows, int64_t cols, const bytes *parts,
                   int64_t *id, problem *);
bool device_mxfp4(device *, int64_t experts, int64_t rows, int64_t cols, bytes blocks, bytes scales, int64_t *id,
                  problem *);
bool device_release(device *, int64_t id, problem *);
/* A matrix of 8 bits whose codes lie in a block, which it takes over. False: no memory. */
bool device_adopt_q8(device *, int64_t rows, int64_t cols, block *codes, int64_t *id);
/* Copies bytes of a matrix of 8 bits, as they lie in memory. */
bool device_read_codes(const device *, int64_t id, int64_t begin, int64_t length, uint8_t *out, problem *);

bool device_page_bytes(device *, int64_t cache, int64_t num_kv_heads, int64_t head_dim, int64_t *bytes, problem *);
bool device_new_page(device *, int64_t bytes, int64_t *id, problem *);
bool device_free_page(device *, int64_t id, problem *);
/* At once, or, where a pass in flight may write the one or read the other, behind all that is in flight. */
bool device_copy_page(device *, int64_t from, int64_t to, problem *);

/* Some tokens of a page, from slot `begin` on, as bytes (kernels.move_tokens). */
typedef struct page_tokens { int64_t page, cache, num_kv_heads, head_dim, begin, length; uint8_t *data; } page_tokens;

/* Copies them into `data`; `busy`: not now, because a pass in flight may write the page. */
bool device_read_tokens(device *, const page_tokens *, bool *busy, problem *);
/* Of a page that no pass in flight uses. */
bool device_write_tokens(device *, const page_tokens *, problem *);

/* NULL where there is none of that id. */
weight *device_weight(const device *, int64_t id);
page *device_page(const device *, int64_t id);

/* ---- tasks: passes with what they need and what comes of them */

struct task {
  pass pass; /* first: a pass of the pool is its task */
  device *device;
  int64_t id;
  void (*gather)(task *);  /* on the last thread of the pass: takes what the next pass would overwrite. Or NULL */
  bool (*finish)(task *);  /* on the device's own thread: what a whole pass made becomes the device's. Or NULL */
  void (*destroy)(task *); /* frees what the task itself holds. Or NULL */
  const char *failure;     /* why a pass failed, if not for want of memory */
  double result;           /* an id, or seconds */
  atomic_bool ended;       /* its pass has */
  task_use *uses;
  size_t num_uses, max_uses;
  task *before, *after;
  void *note;              /* the owner's, freed with the task */
};

/* ---- chores.c */

task *device_quantize(device *, int64_t id, problem *);
/* Of a matrix of 8 bits: 53 bits that differ where its bytes do. */
task *device_checksum(device *, int64_t id, problem *);
/* The first scale of an MXFP4 matrix that is no number (255), or −1. */
task *device_find_nan(device *, int64_t id, problem *);
task *device_populate(device *, int64_t map, int64_t begin, int64_t length, problem *);
/* Of a map; or (map −1) of `length` bytes of own memory. */
task *device_read_memory(device *, int64_t map, int64_t begin, int64_t length, bool huge, problem *);

/* All zero but for its first members; NULL: no memory. For program.c. */
void *task_new(device *, size_t bytes, void (*run)(pass *, team *), problem *);
/* Keeps an item until the task is over. False: no memory. */
bool task_uses(task *, item *, bool writes);
/* Something in flight writes what this task, not yet started, uses, or uses what it writes. */
bool task_conflicts(const task *);

/* Hands it to the threads and gives it its number. */
void task_start(task *);
/* A task that has ended, or that was never started: gives back what it held and frees it. */
void task_over(task *);
/* False: no such pass was ever started. */
bool device_stop(device *, int64_t pass);

#endif
