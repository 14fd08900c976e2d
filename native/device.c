#define _GNU_SOURCE
#include "device.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIMENSION = 1 << 30 };

bool refuse(problem *p, int kind, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  p->kind = kind;
  vsnprintf(p->text, sizeof p->text, format, arguments);
  va_end(arguments);
  return false;
}

void *no_memory(problem *p, int64_t bytes) {
  refuse(p, PROBLEM_MEMORY, "the system gave no %lld bytes of memory", (long long)bytes);
  return NULL;
}

/* ---- tables */

static void *table_get(const table *t, int64_t id) { return id >= 0 && id < t->size ? t->items[id] : NULL; }

/* The lowest free number, or −1 without memory. */
static int64_t table_add(table *t, void *what) {
  while (t->lowest_free < t->size && t->items[t->lowest_free] != NULL) t->lowest_free++;
  if (t->lowest_free == t->max) {
    int64_t max = t->max * 2 + 64;
    void **items = realloc(t->items, (size_t)max * sizeof *items);
    if (items == NULL) return -1;
    t->items = items;
    t->max = max;
  }
  if (t->lowest_free == t->size) t->size++;
  t->items[t->lowest_free] = what;
  return t->lowest_free++;
}

static void table_remove(table *t, int64_t id) {
  t->items[id] = NULL;
  if (id < t->lowest_free) t->lowest_free = id;
}

/* ---- items */

static void item_release(device *d, item *i) {
  i->released = true;
  if (i->uses == 0) i->destroy(d, i);
}

static void item_unuse(device *d, task_use use) {
  item *i = use.item;
  i->writes -= use.writes;
  if (--i->uses == 0 && i->released) i->destroy(d, i);
}

static void destroy_weight(device *d, item *i) {
  weight *w = (weight *)i;
  for (int c = 0; c < 6; c++) memory_free(d->memory, &w->copies[c]);
  free(w);
}

static void destroy_page(device *d, item *i) {
  page *p = (page *)i;
  page_free(d->memory, &d->slabs, &p->memory);
  free(p);
}

weight *device_weight(const device *d, int64_t id) { return table_get(&d->weights, id); }
page *device_page(const device *d, int64_t id) { return table_get(&d->pages, id); }

/* ---- opening and closing */

static bool open_threads(device *d, int threads, bool pin) {
  bool *mask = malloc(MAX_CPUS * sizeof *mask);
  cores *c = malloc(sizeof *c);
  bool opened = false;
  if (mask != NULL && c != NULL) {
    bool can_pin = affinity_mask(mask);
    find_cores("", mask, c);
    if (threads == 0) threads = default_threads(c);
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    d->pinned = pin && can_pin && threads <= c->num_cores && threads <= c->quota;
    d->gang = gang_open(threads, d->pinned ? c : NULL, d->memory, d->kernels);
    opened = d->gang != NULL;
  }
  free(mask);
  free(c);
  return opened;
}

device *device_open(const kernels *k, int threads, bool pin, problem *p) {
  device *d = calloc(1, sizeof *d);
  if (d == NULL) return no_memory(p, sizeof *d);
  d->kernels = k;
  d->memory = memory_open();
  if (d->memory != NULL && arena_open(d->memory, &d->arena) && open_threads(d, threads, pin)) return d;
  device_close(d);
  refuse(p, PROBLEM_MEMORY, "the system gave no memory or no threads for a device of %d threads (0: all)", threads);
  return NULL;
}

static void close_tables(device *d) {
  for (int64_t i = 0; i < d->weights.size; i++) {
    if (d->weights.items[i] != NULL) item_release(d, d->weights.items[i]);
  }
  for (int64_t i = 0; i < d->pages.size; i++) {
    if (d->pages.items[i] != NULL) item_release(d, d->pages.items[i]);
  }
  for (int64_t i = 0; i < d->maps.size; i++) {
    if (d->maps.items[i] == NULL) continue;
    file_map_close(d->maps.items[i]);
    free(d->maps.items[i]);
  }
  free(d->weights.items);
  free(d->pages.items);
  free(d->maps.items);
}

void device_halt(device *d) {
  if (d->gang != NULL) gang_close(d->gang);
  d->gang = NULL;
}

void device_close(device *d) {
  device_halt(d);
  while (d->first != NULL) task_over(d->first);
  close_tables(d);
  if (d->memory != NULL) {
    arena_close(d->memory, &d->arena);
    arena_close(d->memory, &d->detour_arena);
    memory_close(d->memory);
  }
  free(d);
}

/* ---- maps */

const file_map *device_file(const device *d, int64_t id, int64_t begin, int64_t length, problem *p) {
  file_map *f = table_get(&d->maps, id);
  if (f == NULL) {
    refuse(p, PROBLEM_RANGE, "there is no map %lld", (long long)id);
  } else if (begin < 0 || length < 0 || begin > f->bytes || length > f->bytes - begin) {
    refuse(p, PROBLEM_RANGE, "%lld bytes from byte %lld on reach outside %s, which has %lld", (long long)length,
           (long long)begin, f->path, (long long)f->bytes);
    f = NULL;
  }
  return f;
}

static bool refuse_file(problem *p, const char *path, int error) {
  if (error == EINVAL) return refuse(p, PROBLEM_STATE, "%s cannot be mapped: it is no regular file", path);
  if (error == ENODATA) return refuse(p, PROBLEM_STATE, "%s cannot be mapped: it is empty", path);
  return refuse(p, PROBLEM_STATE, "%s cannot be mapped: %s", path, strerror(error));
}

bool device_map(device *d, const char *path, int64_t *map, int64_t *length, problem *p) {
  for (int64_t i = 0; i < d->maps.size; i++) {
    file_map *f = d->maps.items[i];
    if (strcmp(f->path, path) != 0) continue;
    *map = i;
    *length = f->bytes;
    return true;
  }
  file_map *f = calloc(1, sizeof *f);
  if (f == NULL) return no_memory(p, sizeof *f) != NULL;
  int error = file_map_open(path, f);
  *map = error == 0 ? table_add(&d->maps, f) : -1;
  *length = f->bytes;
  if (*map >= 0) return true;
  if (error == 0) file_map_close(f);
  free(f);
  return refuse_file(p, path, error != 0 ? error : ENOMEM);
}

bool device_sparse(device *d, int64_t map, int64_t begin, int64_t length, problem *p) {
  const file_map *f = device_file(d, map, begin, length, p);
  if (f != NULL) file_map_sparse(f, begin, length);
  return f != NULL;
}

/* ---- weights */

/* Where the bytes lie, copied if they must lie at a multiple of `alignment` and do not; `length` is what the shape
 * needs. */
static const uint8_t *place(device *d, weight *w, int number, bytes b, int64_t length, size_t alignment, problem *p) {
  if (b.length != length) {
    refuse(p, PROBLEM_RANGE, "part %d has %lld bytes, and its shape needs %lld", number, (long long)b.length,
           (long long)length);
    return NULL;
  }
  const uint8_t *data = b.data;
  if (b.map >= 0) {
    const file_map *f = device_file(d, b.map, b.begin, b.length, p);
    if (f == NULL) return NULL;
    data = f->data + b.begin;
    if ((uintptr_t)data % alignment == 0) return data;
  }
  if (!memory_new(d->memory, (size_t)length, PAGES_HUGE, &w->copies[number])) return no_memory(p, length);
  if (length > 0) memcpy(w->copies[number].data, data, (size_t)length);
  return w->copies[number].data;
}

static bool check_dimension(const char *name, int64_t n, problem *p) {
  if (n >= 1 && n <= MAX_DIMENSION) return true;
  return refuse(p, PROBLEM_RANGE, "%s is %lld, expected 1 to %d", name, (long long)n, MAX_DIMENSION);
}

static weight *new_weight(number_type type, int64_t experts, int64_t rows, int64_t cols, int num_parts, problem *p) {
  weight *w = calloc(1, sizeof *w);
  if (w == NULL) return no_memory(p, sizeof *w);
  w->item.destroy = destroy_weight;
  w->m = (matrix){.type = type, .experts = experts, .rows = rows, .cols = cols, .num_parts = num_parts};
  return w;
}

static bool keep_weight(device *d, weight *w, int64_t *id, problem *p) {
  *id = table_add(&d->weights, w);
  if (*id >= 0) return true;
  destroy_weight(d, &w->item);
  return no_memory(p, 0) != NULL;
}

static int64_t part_bytes(number_type type, int64_t rows, int64_t cols) {
  return type == TYPE_Q8 ? q8_bytes(rows, cols) : rows * cols * (type == TYPE_F32 ? 4 : 2);
}

bool device_matrix(device *d, number_type type, int num_parts, const int64_t *rows, int64_t cols, const bytes *parts,
                   int64_t *id, problem *p) {
  if (num_parts < 1 || num_parts > 3) return refuse(p, PROBLEM_RANGE, "a matrix has 1 to 3 parts, not %d", num_parts);
  if (!check_dimension("cols", cols, p)) return false;
  if (type == TYPE_Q8 && num_parts > 1) {
    return refuse(p, PROBLEM_RANGE, "a matrix of 8 bits has 1 part, not %d", num_parts);
  }
  int64_t all = 0;
  for (int i = 0; i < num_parts; i++) {
    if (!check_dimension("rows", rows[i], p)) return false;
    all += rows[i];
  }
  weight *w = new_weight(type, 1, all, cols, num_parts, p);
  if (w == NULL) return false;
  /* Kernels read vectors as float[]. */
  size_t alignment = type == TYPE_Q8 ? 64 : all == 1 && type == TYPE_F32 ? sizeof(float) : 1;
  for (int i = 0; i < num_parts; i++) {
    w->m.parts[i].rows = rows[i];
    w->m.parts[i].data = place(d, w, i, parts[i], part_bytes(type, rows[i], cols), alignment, p);
    if (w->m.parts[i].data != NULL) continue;
    destroy_weight(d, &w->item);
    return false;
  }
  return keep_weight(d, w, id, p);
}

bool device_adopt_q8(device *d, int64_t rows, int64_t cols, block *codes, int64_t *id) {
  problem ignored;
  weight *w = new_weight(TYPE_Q8, 1, rows, cols, 1, &ignored);
  if (w == NULL) return false;
  w->m.parts[0].rows = rows;
  w->m.parts[0].data = codes->data;
  w->copies[0] = *codes;
  *codes = (block){NULL, 0, BLOCK_NONE};
  return keep_weight(d, w, id, &ignored);
}

bool device_mxfp4(device *d, int64_t experts, int64_t rows, int64_t cols, bytes blocks, bytes scales, int64_t *id,
                  problem *p) {
  bool sized = check_dimension("experts", experts, p) && check_dimension("rows", rows, p);
  if (!sized || !check_dimension("cols", cols, p)) return false;
  if (cols % 32 != 0) return refuse(p, PROBLEM_RANGE, "cols is %lld, no multiple of 32", (long long)cols);
  int64_t num_blocks;
  if (__builtin_mul_overflow(experts * rows, cols / 32, &num_blocks) || num_blocks > INT64_MAX / 32) {
    return refuse(p, PROBLEM_RANGE, "%lld experts of %lld rows and %lld columns are more than any memory holds",
                  (long long)experts, (long long)rows, (long long)cols);
  }
  weight *w = new_weight(TYPE_MXFP4, experts, rows, cols, 1, p);
  if (w == NULL) return false;
  w->m.parts[0].rows = rows;
  w->m.parts[0].data = place(d, w, 0, blocks, num_blocks * 16, 1, p);
  if (w->m.parts[0].data != NULL) w->m.parts[0].scales = place(d, w, 1, scales, num_blocks, 1, p);
  if (w->m.parts[0].scales != NULL) return keep_weight(d, w, id, p);
  destroy_weight(d, &w->item);
  return false;
}

bool device_release(device *d, int64_t id, problem *p) {
  weight *w = device_weight(d, id);
  if (w == NULL) return refuse(p, PROBLEM_RANGE, "there is no matrix %lld", (long long)id);
  table_remove(&d->weights, id);
  item_release(d, &w->item);
  return true;
}

bool device_read_codes(const device *d, int64_t id, int64_t begin, int64_t length, uint8_t *out, problem *p) {
  const weight *w = device_weight(d, id);
  if (w == NULL || w->m.type != TYPE_Q8) {
    return refuse(p, PROBLEM_RANGE, "there is no matrix %lld of 8 bits", (long long)id);
  }
  int64_t all = q8_bytes(w->m.rows, w->m.cols);
  if (begin > all || length > all - begin) {
    return refuse(p, PROBLEM_RANGE, "%lld bytes from byte %lld on reach outside a matrix of %lld", (long long)length,
                  (long long)begin, (long long)all);
  }
  memcpy(out, w->m.parts[0].data + begin, (size_t)length);
  return true;
}

/* ---- cache pages */

bool device_page_bytes(device *d, int64_t cache, int64_t num_kv_heads, int64_t head_dim, int64_t *size, problem *p) {
  if (cache != CACHE_BF16 && cache != CACHE_Q8) {
    return refuse(p, PROBLEM_RANGE, "there is no cache type %lld", (long long)cache);
  }
  if (num_kv_heads < 1 || num_kv_heads > 4096 || head_dim < 1 || head_dim > 4096) {
    return refuse(p, PROBLEM_RANGE, "%lld key/value heads of %lld numbers, expected 1 to 4096 of each",
                  (long long)num_kv_heads, (long long)head_dim);
  }
  *size = d->kernels->cache_page_bytes((cache_type)cache, (int)num_kv_heads, (int)head_dim);
  return true;
}

bool device_new_page(device *d, int64_t size, int64_t *id, problem *p) {
  if (size < 1 || size > INT64_C(1) << 34) return refuse(p, PROBLEM_RANGE, "a page of %lld bytes", (long long)size);
  page *new = calloc(1, sizeof *new);
  if (new == NULL) return no_memory(p, sizeof *new) != NULL;
  new->item.destroy = destroy_page;
  if (!page_new(d->memory, &d->slabs, (size_t)size, &new->memory)) {
    free(new);
    return no_memory(p, size) != NULL;
  }
  *id = table_add(&d->pages, new);
  if (*id >= 0) return true;
  destroy_page(d, &new->item);
  return no_memory(p, size) != NULL;
}

static page *find_page(const device *d, int64_t id, problem *p) {
  page *found = device_page(d, id);
  if (found == NULL) refuse(p, PROBLEM_RANGE, "there is no page %lld", (long long)id);
  return found;
}

bool device_free_page(device *d, int64_t id, problem *p) {
  page *old = find_page(d, id, p);
  if (old == NULL) return false;
  table_remove(&d->pages, id);
  item_release(d, &old->item);
  return true;
}

typedef struct copy_task { task task; page *from, *to; } copy_task;

static void run_copy(pass *p, team *t) {
  copy_task *c = (copy_task *)p;
  if (t->rank == 0) memcpy(c->to->memory.data, c->from->memory.data, c->to->memory.bytes);
}

bool device_copy_page(device *d, int64_t from_id, int64_t to_id, problem *p) {
  page *from = find_page(d, from_id, p), *to = find_page(d, to_id, p);
  if (from == NULL || to == NULL) return false;
  if (from->memory.bytes != to->memory.bytes) {
    return refuse(p, PROBLEM_RANGE, "page %lld has %lld bytes and page %lld has %lld", (long long)from_id,
                  (long long)from->memory.bytes, (long long)to_id, (long long)to->memory.bytes);
  }
  if (from == to) return true;
  if (from->item.writes == 0 && to->item.uses == 0) {
    memcpy(to->memory.data, from->memory.data, to->memory.bytes);
    return true;
  }
  copy_task *c = task_new(d, sizeof *c, run_copy, p);
  if (c == NULL) return false;
  c->from = from;
  c->to = to;
  if (task_uses(&c->task, &from->item, false) && task_uses(&c->task, &to->item, true)) {
    task_start(&c->task);
    return true;
  }
  task_over(&c->task);
  return no_memory(p, 0) != NULL;
}

/* How many tokens; the page, or NULL and the problem. */
static page *find_tokens(device *d, const page_tokens *t, int64_t *count, problem *p) {
  int64_t page_bytes = 0;
  page *found = find_page(d, t->page, p);
  if (found == NULL || !device_page_bytes(d, t->cache, t->num_kv_heads, t->head_dim, &page_bytes, p)) return NULL;
  int64_t token_bytes = page_bytes / PAGE_TOKENS;
  *count = t->length / token_bytes;
  if ((size_t)page_bytes <= found->memory.bytes && t->length % token_bytes == 0 && t->begin <= PAGE_TOKENS &&
      *count <= PAGE_TOKENS - t->begin) {
    return found;
  }
  refuse(p, PROBLEM_RANGE, "%lld bytes from slot %lld on are no tokens, of %lld bytes, of a page of %zu",
         (long long)t->length, (long long)t->begin, (long long)token_bytes, found->memory.bytes);
  return NULL;
}

static void move_tokens(const device *d, const page_tokens *t, page *page, int64_t count, bool into_page) {
  d->kernels->move_tokens((cache_type)t->cache, (int)t->num_kv_heads, (int)t->head_dim, page->memory.data,
                          (int)t->begin, (int)(t->begin + count), t->data, into_page);
}

bool device_read_tokens(device *d, const page_tokens *t, bool *busy, problem *p) {
  int64_t count;
  page *from = find_tokens(d, t, &count, p);
  if (from == NULL) return false;
  *busy = from->item.writes > 0;
  if (!*busy) move_tokens(d, t, from, count, false);
  return true;
}

bool device_write_tokens(device *d, const page_tokens *t, problem *p) {
  int64_t count;
  page *to = find_tokens(d, t, &count, p);
  if (to == NULL) return false;
  if (to->item.uses > 0) return refuse(p, PROBLEM_STATE, "page %lld is used by a pass in flight", (long long)t->page);
  move_tokens(d, t, to, count, true);
  return true;
}

/* ---- tasks */

static void task_done(pass *p) {
  task *t = (task *)p;
  device *d = t->device;
  if (p->outcome == PASS_DONE && t->gather != NULL) t->gather(t);
  atomic_store(&t->ended, true); /* from now on it may be freed */
  d->ended(d);
}

void *task_new(device *d, size_t size, void (*run)(pass *, team *), problem *p) {
  task *t = calloc(1, size);
  if (t == NULL) return no_memory(p, (int64_t)size);
  t->pass.run = run;
  t->pass.done = task_done;
  t->pass.outcome = PASS_STOPPED; /* of one that is never begun */
  t->device = d;
  return t;
}

bool task_uses(task *t, item *i, bool writes) {
  if (t->num_uses == t->max_uses) {
    size_t max = t->max_uses * 2 + 16;
    task_use *uses = realloc(t->uses, max * sizeof *uses);
    if (uses == NULL) return false;
    t->uses = uses;
    t->max_uses = max;
  }
  i->uses++;
  i->writes += writes;
  t->uses[t->num_uses++] = (task_use){i, writes};
  return true;
}

static void count_uses(const task *t, int sign) {
  for (size_t n = 0; n < t->num_uses; n++) {
    t->uses[n].item->uses += sign;
    t->uses[n].item->writes += sign * t->uses[n].writes;
  }
}

bool task_conflicts(const task *t) {
  bool found = false;
  count_uses(t, -1);
  for (size_t n = 0; n < t->num_uses && !found; n++) {
    const item *i = t->uses[n].item;
    found = i->writes > 0 || (t->uses[n].writes && i->uses > 0);
  }
  count_uses(t, 1);
  return found;
}

void task_start(task *t) {
  device *d = t->device;
  t->id = ++d->last_pass;
  t->before = d->last;
  if (d->last != NULL) d->last->after = t;
  else d->first = t;
  d->last = t;
  gang_submit(d->gang, &t->pass);
}

void task_over(task *t) {
  device *d = t->device;
  if (t->id > 0) {
    if (t->before != NULL) t->before->after = t->after;
    else d->first = t->after;
    if (t->after != NULL) t->after->before = t->before;
    else d->last = t->before;
  }
  for (size_t n = 0; n < t->num_uses; n++) item_unuse(d, t->uses[n]);
  if (t->destroy != NULL) t->destroy(t);
  free(t->uses);
  free(t->note);
  free(t);
}

bool device_stop(device *d, int64_t id) {
  if (id < 1 || id > d->last_pass) return false;
  for (task *t = d->first; t != NULL; t = t->after) {
    if (t->id == id) gang_stop(&t->pass);
  }
  return true;
}
