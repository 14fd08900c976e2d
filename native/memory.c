#define _GNU_SOURCE
#include "memory.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
/* Linux's numbers, for headers older than the kernel. */
#if defined __linux__ && !defined MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static const size_t huge_page = 2 << 20;
static const size_t least_mapped = 1 << 20; /* smaller blocks are the C library's */

typedef struct range { uintptr_t begin, end; } range;

struct memory {
  atomic_llong private_bytes, explicit_bytes;
  pthread_mutex_t lock; /* of the ranges in which the system was asked for transparent huge pages */
  range *ranges;
  size_t num_ranges, max_ranges;
};

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* ---- the account */

memory *memory_open(void) {
  memory *m = calloc(1, sizeof *m);
  if (m != NULL) pthread_mutex_init(&m->lock, NULL);
  return m;
}

void memory_close(memory *m) {
  pthread_mutex_destroy(&m->lock);
  free(m->ranges);
  free(m);
}

/* Only the account suffers where there is no memory for the note. */
static void note_range(memory *m, const void *data, size_t bytes) {
  pthread_mutex_lock(&m->lock);
  if (m->num_ranges == m->max_ranges) {
    size_t max = m->max_ranges * 2 + 16;
    range *more = realloc(m->ranges, max * sizeof *more);
    if (more != NULL) {
      m->ranges = more;
      m->max_ranges = max;
    }
  }
  if (m->num_ranges < m->max_ranges) m->ranges[m->num_ranges++] = (range){(uintptr_t)data, (uintptr_t)data + bytes};
  pthread_mutex_unlock(&m->lock);
}

/* Forgets the ranges within these bytes. */
static void forget_ranges(memory *m, const void *data, size_t bytes) {
  uintptr_t begin = (uintptr_t)data, end = begin + bytes;
  pthread_mutex_lock(&m->lock);
  for (size_t i = m->num_ranges; i-- > 0;) {
    if (m->ranges[i].begin >= begin && m->ranges[i].end <= end) m->ranges[i] = m->ranges[--m->num_ranges];
  }
  pthread_mutex_unlock(&m->lock);
}

static uintptr_t overlap(range a, range b) {
  uintptr_t begin = a.begin > b.begin ? a.begin : b.begin, end = a.end < b.end ? a.end : b.end;
  return begin < end ? end - begin : 0;
}

/* What the system gave of what it was asked for is written in smaps alone, by ranges that may join several of ours. */
static int64_t transparent_bytes(memory *m) {
  FILE *smaps = m->num_ranges > 0 ? fopen("/proc/self/smaps", "re") : NULL;
  if (smaps == NULL) return 0;
  int64_t total = 0;
  range here = {0, 0};
  char line[512];
  pthread_mutex_lock(&m->lock);
  while (fgets(line, sizeof line, smaps) != NULL) {
    unsigned long begin, end, kib;
    char space;
    if (sscanf(line, "%lx-%lx%c", &begin, &end, &space) == 3 && space == ' ') here = (range){begin, end};
    if (sscanf(line, "AnonHugePages: %lu kB", &kib) != 1 || kib == 0) continue;
    uintptr_t ours = 0;
    for (size_t i = 0; i < m->num_ranges; i++) ours += overlap(m->ranges[i], here);
    total += (int64_t)(ours < kib * 1024 ? ours : kib * 1024);
  }
  pthread_mutex_unlock(&m->lock);
  fclose(smaps);
  return total;
}

void memory_account(memory *m, int64_t *private_bytes, int64_t *huge_bytes) {
  *private_bytes = atomic_load(&m->private_bytes);
  *huge_bytes = atomic_load(&m->explicit_bytes) + transparent_bytes(m);
}

/* ---- anonymous memory */

static void *map_anonymous(void *at, size_t bytes, int protection, int flags) {
  void *data = mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  return data == MAP_FAILED ? NULL : data;
}

/*
 * Explicit huge pages, at an address of the caller's or anywhere. They are touched at once: a control group may have
 * fewer than the system promised, which a later first touch would pay with SIGBUS.
 */
static uint8_t *map_explicit(void *at, size_t bytes) {
#ifdef MAP_HUGETLB
  int fixed = at != NULL ? MAP_FIXED : 0;
  void *data = map_anonymous(at, bytes, PROT_READ | PROT_WRITE, fixed | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT));
  if (data == NULL) return NULL;
  if (madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return data;
  if (at == NULL) munmap(data, bytes);
#else
  (void)at, (void)bytes;
#endif
  return NULL;
}

/* Memory at a multiple of 2 MiB, the only place where huge pages can be. */
static uint8_t *map_aligned(size_t bytes, int protection, int flags) {
  uint8_t *data = map_anonymous(NULL, bytes + huge_page, protection, flags);
  if (data == NULL) return NULL;
  size_t before = round_up((uintptr_t)data, huge_page) - (uintptr_t)data;
  if (before > 0) munmap(data, before);
  munmap(data + before + bytes, huge_page - before);
  return data + before;
}

static void advise_huge(memory *m, void *data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (madvise(data, bytes, MADV_HUGEPAGE) == 0) note_range(m, data, bytes);
#else
  (void)m, (void)data, (void)bytes;
#endif
}

static bool new_heap(size_t bytes, block *b) {
  *b = (block){aligned_alloc(64, bytes), bytes, BLOCK_HEAP};
  if (b->data != NULL) memset(b->data, 0, bytes);
  return b->data != NULL;
}

static bool new_small(size_t bytes, block *b) {
  *b = (block){map_anonymous(NULL, bytes, PROT_READ | PROT_WRITE, 0), bytes, BLOCK_SMALL};
#ifdef MADV_NOHUGEPAGE
  if (b->data != NULL) madvise(b->data, bytes, MADV_NOHUGEPAGE);
#endif
  return b->data != NULL;
}

static bool new_huge(memory *m, size_t bytes, block *b) {
  *b = (block){map_explicit(NULL, bytes), bytes, BLOCK_EXPLICIT};
  if (b->data != NULL) {
    atomic_fetch_add(&m->explicit_bytes, (long long)bytes);
    return true;
  }
  *b = (block){map_aligned(bytes, PROT_READ | PROT_WRITE, 0), bytes, BLOCK_TRANSPARENT};
  if (b->data != NULL) advise_huge(m, b->data, bytes);
  return b->data != NULL;
}

bool memory_new(memory *m, size_t bytes, page_wish wish, block *b) {
  *b = (block){NULL, 0, BLOCK_NONE};
  if (bytes > SIZE_MAX / 4) return false;
  bool heap = bytes < least_mapped, small = wish == PAGES_SMALL || bytes < huge_page;
  size_t whole = round_up(bytes > 0 ? bytes : 1, heap ? 64 : small ? (size_t)sysconf(_SC_PAGESIZE) : huge_page);
  bool given = heap ? new_heap(whole, b) : small ? new_small(whole, b) : new_huge(m, whole, b);
  if (given) atomic_fetch_add(&m->private_bytes, (long long)whole);
  else *b = (block){NULL, 0, BLOCK_NONE};
  return given;
}

void memory_free(memory *m, block *b) {
  if (b->kind == BLOCK_NONE) return;
  if (b->kind == BLOCK_EXPLICIT) atomic_fetch_sub(&m->explicit_bytes, (long long)b->bytes);
  if (b->kind == BLOCK_TRANSPARENT) forget_ranges(m, b->data, b->bytes);
  if (b->kind == BLOCK_HEAP) free(b->data);
  else munmap(b->data, b->bytes);
  atomic_fetch_sub(&m->private_bytes, (long long)b->bytes);
  *b = (block){NULL, 0, BLOCK_NONE};
}

/* ---- the arena */

/* Addresses cost nothing until they are used, but a limit on them (ulimit -v) may be set. */
bool arena_open(memory *m, arena *a) {
  (void)m;
  *a = (arena){.data = NULL};
  for (size_t reserved = (size_t)64 << 30; reserved >= (size_t)1 << 28; reserved /= 4) {
    uint8_t *data = map_aligned(reserved, PROT_NONE, MAP_NORESERVE);
    if (data == NULL) continue;
    *a = (arena){.data = data, .reserved = reserved, .whole = {data, reserved}};
    return true;
  }
  return false;
}

bool arena_grow(memory *m, arena *a, size_t bytes) {
  if (bytes <= a->bytes) return true;
  if (bytes > a->reserved) return false;
  uint8_t *from = a->data + a->bytes;
  size_t more = round_up(bytes, huge_page) - a->bytes;
  if (map_explicit(from, more) != NULL) {
    atomic_fetch_add(&m->explicit_bytes, (long long)more);
  } else if (map_anonymous(from, more, PROT_READ | PROT_WRITE, MAP_FIXED) != NULL) {
    advise_huge(m, from, more);
  } else {
    return false;
  }
  atomic_fetch_add(&m->private_bytes, (long long)more);
  a->bytes += more;
  return true;
}

void arena_close(memory *m, arena *a) {
  if (a->data == NULL) return;
  forget_ranges(m, a->data, a->bytes);
  munmap(a->whole.data, a->whole.bytes);
  *a = (arena){.data = NULL};
}

/* ---- cache pages */

struct slab {
  slab *before, *after; /* in the list of those with room */
  block memory;
  size_t page_bytes;
  uint32_t num_pages, num_free;
  uint32_t free[]; /* numbers of pages */
};

static void slab_link(slabs *all, slab *s) {
  s->before = NULL;
  s->after = all->first;
  if (all->first != NULL) all->first->before = s;
  all->first = s;
}

static void slab_unlink(slabs *all, slab *s) {
  if (s->before != NULL) s->before->after = s->after;
  else all->first = s->after;
  if (s->after != NULL) s->after->before = s->before;
}

static slab *slab_new(memory *m, size_t page_bytes) {
  size_t num_pages = page_bytes < huge_page ? huge_page / page_bytes : 1;
  slab *s = malloc(sizeof *s + num_pages * sizeof s->free[0]);
  if (s == NULL) return NULL;
  size_t bytes = page_bytes * num_pages;
  if (!memory_new(m, bytes < huge_page ? huge_page : bytes, PAGES_HUGE, &s->memory)) {
    free(s);
    return NULL;
  }
  s->page_bytes = page_bytes;
  s->num_pages = s->num_free = (uint32_t)num_pages;
  for (uint32_t i = 0; i < num_pages; i++) s->free[i] = (uint32_t)num_pages - 1 - i;
  return s;
}

bool page_new(memory *m, slabs *all, size_t bytes, cache_page *page) {
  size_t page_bytes = round_up(bytes > 0 ? bytes : 1, 64);
  slab *s = all->first;
  while (s != NULL && s->page_bytes != page_bytes) s = s->after;
  if (s == NULL) {
    s = slab_new(m, page_bytes);
    if (s == NULL) return false;
    slab_link(all, s);
  }
  uint32_t i = s->free[--s->num_free];
  if (s->num_free == 0) slab_unlink(all, s);
  *page = (cache_page){s->memory.data + i * page_bytes, bytes, s};
  return true;
}

void page_free(memory *m, slabs *all, cache_page *page) {
  slab *s = page->slab;
  if (s->num_free == 0) slab_link(all, s);
  s->free[s->num_free++] = (uint32_t)((size_t)(page->data - s->memory.data) / s->page_bytes);
  *page = (cache_page){NULL, 0, NULL};
  if (s->num_free < s->num_pages) return;
  slab_unlink(all, s);
  memory_free(m, &s->memory);
  free(s);
}

/* ---- files */

/*
 * At a multiple of 2 MiB, with the wish for huge pages: file systems that cache files in large folios (Linux 6, ext4,
 * xfs) then map them whole, and matrices are read as fast as from anonymous huge pages.
 */
static void *map_file(int fd, size_t bytes) {
  size_t whole = round_up(bytes, huge_page), used = round_up(bytes, (size_t)sysconf(_SC_PAGESIZE));
  uint8_t *place = map_aligned(whole, PROT_NONE, MAP_NORESERVE);
  if (place != NULL && whole > used) munmap(place + used, whole - used);
  void *data = mmap(place, bytes, PROT_READ, MAP_SHARED | (place != NULL ? MAP_FIXED : 0), fd, 0);
  if (data == MAP_FAILED) {
    if (place != NULL) munmap(place, used);
    return NULL;
  }
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

static int map_descriptor(int fd, file_map *f) {
  struct stat status;
  if (fstat(fd, &status) != 0) return errno;
  if (!S_ISREG(status.st_mode)) return EINVAL;
  if (status.st_size == 0) return ENODATA;
  f->data = map_file(fd, (size_t)status.st_size);
  if (f->data == NULL) return errno;
  f->bytes = status.st_size;
  return 0;
}

int file_map_open(const char *path, file_map *f) {
  *f = (file_map){.path = NULL};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe in place of a file must not make us wait */
  if (fd < 0) return errno;
  int error = map_descriptor(fd, f);
  close(fd);
  if (error != 0) return error;
  f->path = strdup(path);
  if (f->path != NULL) return 0;
  file_map_close(f);
  return ENOMEM;
}

void file_map_close(file_map *f) {
  if (f->data != NULL) munmap((void *)f->data, (size_t)f->bytes);
  free(f->path);
  *f = (file_map){.path = NULL};
}

static bool touch(const uint8_t *data, size_t bytes, size_t page) {
#ifdef MADV_POPULATE_READ
  if (madvise((void *)data, bytes, MADV_POPULATE_READ) == 0) return true;
  if (errno != EINVAL) return false;
#endif
  for (size_t at = 0; at < bytes; at += page) (void)*(const volatile uint8_t *)(data + at);
  return true;
}

bool file_map_populate(const file_map *f, int64_t begin, int64_t length) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t from = (size_t)begin / page * page, to = (size_t)(begin + length);
  return length <= 0 || touch(f->data + from, to - from, page);
}

/* Of the pages that it has to itself: what lies before and behind is read otherwise. */
void file_map_sparse(const file_map *f, int64_t begin, int64_t length) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t from = round_up((size_t)begin, page), to = (size_t)(begin + length) / page * page;
  if (to <= from) return;
#ifdef MADV_NOHUGEPAGE
  madvise((void *)(f->data + from), to - from, MADV_NOHUGEPAGE); /* or each read brings 4 MiB */
#endif
  madvise((void *)(f->data + from), to - from, MADV_RANDOM);
}
