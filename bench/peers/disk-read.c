/*
 * Files without the page cache, as one JSON object. No rights are needed but to read them.
 *
 *   disk-read drop FILE …     takes the files out of the page cache: {"left": bytes that are still there}
 *   disk-read read FILE …     reads them from beginning to end: {"seconds": …}
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const size_t buffer_bytes = (size_t)8 << 20;

static _Noreturn void fail(const char *path) {
  perror(path);
  exit(1);
}

static int open_file(const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path);
  return file;
}

static size_t size_of(int file, const char *path) {
  struct stat status;
  if (fstat(file, &status)) fail(path);
  return (size_t)status.st_size;
}

/* Bytes of the file that lie in the page cache. */
static size_t bytes_cached(int file, const char *path) {
  size_t size = size_of(file, path), page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page, cached = 0;
  if (size == 0) return 0;
  uint8_t *memory = mmap(0, size, PROT_READ, MAP_SHARED, file, 0), *present = malloc(pages);
  if (memory == MAP_FAILED || !present || mincore(memory, size, present)) fail(path);
  for (size_t i = 0; i < pages; i++) cached += (present[i] & 1) * page;
  munmap(memory, size);
  free(present);
  return cached;
}

/* Pages that wait to be written cannot be dropped; ones that a process has mapped stay, and are told. */
static size_t drop(const char *path) {
  int file = open_file(path);
  fdatasync(file);
  if (posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)) fail(path);
  size_t left = bytes_cached(file, path);
  close(file);
  return left;
}

static void read_all(const char *path, uint8_t *buffer) {
  int file = open_file(path);
  posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL);
  ssize_t count;
  while ((count = read(file, buffer, buffer_bytes)) > 0);
  if (count < 0) fail(path);
  close(file);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

int main(int count, char **words) {
  if (count < 3) return 2;
  if (!strcmp(words[1], "drop")) {
    size_t left = 0;
    for (int i = 2; i < count; i++) left += drop(words[i]);
    printf("{\"left\":%zu}\n", left);
  } else if (!strcmp(words[1], "read")) {
    uint8_t *buffer = malloc(buffer_bytes);
    if (!buffer) fail("malloc");
    double begun = seconds();
    for (int i = 2; i < count; i++) read_all(words[i], buffer);
    printf("{\"seconds\":%.3f}\n", seconds() - begun);
  } else {
    return 2;
  }
}
