/*
 * Passes that are no programs: what loading and measuring ask of the threads.
 */
#define _GNU_SOURCE
#include "device.h"
#include "event.h"
#include <string.h>

enum { SLICE_BYTES = 2 << 20 };

/* ---- quantising */

typedef struct quantize_task {
  task task;
  const matrix *source;
  block codes;
} quantize_task;

static void run_quantize(pass *p, team *t) {
  quantize_task *q = (quantize_task *)p;
  const kernels *k = q->task.device->kernels;
  if (t->rank == 0) {
    int64_t size = q8_bytes(q->source->rows, q->source->cols);
    if (!memory_new(q->task.device->memory, (size_t)size, PAGES_HUGE, &q->codes)) team_fail(t);
  }
  if (!team_barrier(t)) return;
  quantize_args args = {q->source, q->codes.data};
  k->quantize_q8(&args, t);
  team_end_op(t);
}

static bool finish_quantize(task *t) {
  quantize_task *q = (quantize_task *)t;
  int64_t id;
  if (!device_adopt_q8(t->device, q->source->rows, q->source->cols, &q->codes, &id)) return false;
  t->result = (double)id;
  return true;
}

static void destroy_quantize(task *t) { memory_free(t->device->memory, &((quantize_task *)t)->codes); }

task *device_quantize(device *d, int64_t id, problem *p) {
  weight *w = device_weight(d, id);
  if (w == NULL) refuse(p, PROBLEM_RANGE, "there is no matrix %lld", (long long)id);
  else if (w->m.type != TYPE_F32 && w->m.type != TYPE_BF16) {
    refuse(p, PROBLEM_RANGE, "matrix %lld is neither F32 nor BF16: only those become 8 bits", (long long)id);
    w = NULL;
  }
  quantize_task *q = w != NULL ? task_new(d, sizeof *q, run_quantize, p) : NULL;
  if (q == NULL) return NULL;
  q->source = &w->m;
  q->task.finish = finish_quantize;
  q->task.destroy = destroy_quantize;
  if (task_uses(&q->task, &w->item, false)) return &q->task;
  task_over(&q->task);
  return no_memory(p, 0);
}

/* ---- populating */

typedef struct populate_task {
  task task;
  const file_map *file;
  int64_t begin, length;
} populate_task;

/*
 * Neighbouring slices are in hand at the same time, so the file is read from its beginning to its end. What is to come
 * is left to the system, which reads ahead of a mapping like this in huge pages: asked for it (MADV_WILLNEED), it reads
 * small ones, and where all is in memory it looks for what is missing for longer than anything else takes.
 */
static void run_populate(pass *p, team *t) {
  populate_task *task = (populate_task *)p;
  int64_t slice = SLICE_BYTES, count = (task->length + slice - 1) / slice;
  for (int64_t i; (i = team_next(t, count)) >= 0;) {
    int64_t at = i * slice, length = task->length - at < slice ? task->length - at : slice;
    if (file_map_populate(task->file, task->begin + at, length)) continue;
    task->task.failure = "the file cannot be read, or was cut while it was in use";
    team_fail(t);
    break;
  }
  team_end_op(t);
}

task *device_populate(device *d, int64_t map, int64_t begin, int64_t length, problem *p) {
  const file_map *f = device_file(d, map, begin, length, p);
  populate_task *task = f != NULL ? task_new(d, sizeof *task, run_populate, p) : NULL;
  if (task == NULL) return NULL;
  task->file = f;
  task->begin = begin;
  task->length = length;
  return &task->task;
}

/* ---- looking through a matrix */

typedef struct look_task {
  task task;
  const matrix *matrix;
  _Atomic uint64_t checksum;
  atomic_llong first_nan;
} look_task;

static void run_checksum(pass *p, team *t) {
  look_task *l = (look_task *)p;
  const matrix *m = l->matrix;
  const kernels *k = l->task.device->kernels;
  atomic_fetch_xor(&l->checksum, k->read_memory(m->parts[0].data, q8_bytes(m->rows, m->cols), t));
  team_end_op(t);
}

/* 53 bits, which a JavaScript number holds. */
static void gather_checksum(task *t) {
  t->result = (double)(atomic_load(&((look_task *)t)->checksum) * UINT64_C(0x9e3779b97f4a7c15) >> 11);
}

static void run_find_nan(pass *p, team *t) {
  look_task *l = (look_task *)p;
  const matrix *m = l->matrix;
  int64_t bytes = m->experts * m->rows * (m->cols / 32);
  for (int64_t i; (i = team_next(t, (bytes + SLICE_BYTES - 1) / SLICE_BYTES)) >= 0;) {
    const uint8_t *from = m->parts[0].scales + i * SLICE_BYTES;
    int64_t length = bytes - i * SLICE_BYTES < SLICE_BYTES ? bytes - i * SLICE_BYTES : SLICE_BYTES;
    const uint8_t *found = memchr(from, 255, (size_t)length);
    if (found == NULL) continue;
    long long at = found - m->parts[0].scales, first = atomic_load(&l->first_nan);
    while ((first < 0 || at < first) && !atomic_compare_exchange_weak(&l->first_nan, &first, at)) continue;
  }
  team_end_op(t);
}

static void gather_nan(task *t) { t->result = (double)atomic_load(&((look_task *)t)->first_nan); }

static task *look(device *d, int64_t id, number_type type, void (*run)(pass *, team *), void (*gather)(task *),
                  problem *p) {
  weight *w = device_weight(d, id);
  if (w == NULL || w->m.type != type) {
    refuse(p, PROBLEM_RANGE, "there is no matrix %lld of %s", (long long)id, type == TYPE_Q8 ? "8 bits" : "MXFP4");
    return NULL;
  }
  look_task *l = task_new(d, sizeof *l, run, p);
  if (l == NULL) return NULL;
  l->matrix = &w->m;
  atomic_store(&l->first_nan, -1);
  l->task.gather = gather;
  if (task_uses(&l->task, &w->item, false)) return &l->task;
  task_over(&l->task);
  return no_memory(p, 0);
}

task *device_checksum(device *d, int64_t id, problem *p) {
  return look(d, id, TYPE_Q8, run_checksum, gather_checksum, p);
}

task *device_find_nan(device *d, int64_t id, problem *p) {
  return look(d, id, TYPE_MXFP4, run_find_nan, gather_nan, p);
}

/* ---- measuring how fast memory is read */

typedef struct read_task {
  task task;
  const uint8_t *data; /* of a map, or NULL: own memory */
  int64_t length;
  bool huge;
  block own;
  atomic_llong begun, ended; /* the first thread to begin, the last to end */
  _Atomic uint64_t checksum; /* so that nothing is read in vain */
} read_task;

static void fill(read_task *r, team *t) {
  int64_t slice = SLICE_BYTES;
  for (int64_t i; (i = team_next(t, (r->length + slice - 1) / slice)) >= 0;) {
    int64_t at = i * slice;
    memset(r->own.data + at, (int)i | 1, (size_t)(r->length - at < slice ? r->length - at : slice));
  }
}

static void run_read(pass *p, team *t) {
  read_task *r = (read_task *)p;
  const kernels *k = r->task.device->kernels;
  if (r->data == NULL) {
    page_wish wish = r->huge ? PAGES_HUGE : PAGES_SMALL;
    if (t->rank == 0 && !memory_new(r->task.device->memory, (size_t)r->length, wish, &r->own)) team_fail(t);
    if (!team_barrier(t)) return;
    fill(r, t);
  }
  if (!team_barrier(t)) return;
  /* A thread that wakes late from the barrier must not start the clock. */
  long long unset = 0, begun = now_ns();
  atomic_compare_exchange_strong(&r->begun, &unset, begun);
  atomic_fetch_xor(&r->checksum, k->read_memory(r->data != NULL ? r->data : r->own.data, r->length, t));
  long long now = now_ns(), latest = atomic_load(&r->ended);
  while (latest < now && !atomic_compare_exchange_weak(&r->ended, &latest, now)) continue;
  team_end_op(t);
}

static void gather_read(task *t) {
  read_task *r = (read_task *)t;
  t->result = (double)(atomic_load(&r->ended) - atomic_load(&r->begun)) / 1e9;
}

static void destroy_read(task *t) { memory_free(t->device->memory, &((read_task *)t)->own); }

task *device_read_memory(device *d, int64_t map, int64_t begin, int64_t length, bool huge, problem *p) {
  const file_map *f = map >= 0 ? device_file(d, map, begin, length, p) : NULL;
  if (map >= 0 && f == NULL) return NULL;
  if (map < 0 && (length < 1 || length > INT64_C(1) << 42)) {
    refuse(p, PROBLEM_RANGE, "length is %lld, expected at least 1 byte", (long long)length);
    return NULL;
  }
  read_task *r = task_new(d, sizeof *r, run_read, p);
  if (r == NULL) return NULL;
  r->data = f != NULL ? f->data + begin : NULL;
  r->length = length;
  r->huge = huge;
  r->task.gather = gather_read;
  r->task.destroy = destroy_read;
  return &r->task;
}
