/* Memory of a device: large blocks in huge pages where the system gives them, an arena, cache pages, and mapped
 * files. */
#ifndef TUTTI_MEMORY_H
#define TUTTI_MEMORY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Keeps the account. Blocks may be taken and given back from any thread; the rest is for one thread at a time. */
typedef struct memory memory;
memory *memory_open(void);
void memory_close(memory *);
/* Bytes that are this device's alone, and how many of them lie in huge pages. */
void memory_account(memory *, int64_t *private_bytes, int64_t *huge_bytes);

/* ---- blocks: zeroed, 64-byte aligned */

typedef enum { PAGES_SMALL, PAGES_HUGE } page_wish;
typedef struct block {
  uint8_t *data;
  size_t bytes; /* at least what was asked for */
  enum { BLOCK_NONE, BLOCK_HEAP, BLOCK_SMALL, BLOCK_TRANSPARENT, BLOCK_EXPLICIT } kind;
} block;

bool memory_new(memory *, size_t bytes, page_wish, block *);
void memory_free(memory *, block *); /* an empty block is left alone */

/* ---- the arena: memory that grows but never moves, so that what points into it may be computed before it has grown */

typedef struct arena {
  uint8_t *data;
  size_t bytes, reserved;
  struct { uint8_t *data; size_t bytes; } whole; /* what to unmap */
} arena;

bool arena_open(memory *, arena *);
bool arena_grow(memory *, arena *, size_t bytes);
void arena_close(memory *, arena *);

/* ---- cache pages, cut from slabs */

typedef struct slab slab;
typedef struct cache_page { uint8_t *data; size_t bytes; slab *slab; } cache_page;
typedef struct slabs { slab *first; } slabs; /* with room, each followed by older ones */

bool page_new(memory *, slabs *, size_t bytes, cache_page *);
void page_free(memory *, slabs *, cache_page *);

/* ---- files, read where they lie */

typedef struct file_map { char *path; const uint8_t *data; int64_t bytes; } file_map;

/* 0, or errno; EINVAL: no regular file, ENODATA: empty. */
int file_map_open(const char *path, file_map *);
void file_map_close(file_map *);
/* Brings a part of a mapping into memory and this process's page tables. False: the file cannot be read. */
bool file_map_populate(const file_map *, int64_t begin, int64_t length);
/* Few bytes of this part will be read, here and there: nothing is read ahead of them. */
void file_map_sparse(const file_map *, int64_t begin, int64_t length);

#endif
