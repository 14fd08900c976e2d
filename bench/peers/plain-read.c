/*
 * How fast this machine's memory can be read: wide loads with software prefetch and nothing else, one pinned thread for
 * each core that the process may use, the best of seven passes. Prints bytes a second as one JSON object.
 *
 *   plain-read huge | small | FILE …      anonymous memory in huge pages, in 4 KiB pages, or a file that is mapped
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { passes = 7, max_threads = 1024, line = 64, step = 4 * line };
static const size_t buffer_bytes = (size_t)1 << 30; /* far more than any cache, and little beside a model */
static const size_t huge_page = (size_t)2 << 20;
static const size_t distances[] = {0, 2048, 4096}; /* bytes that a prefetch is ahead; which is best differs by CPU */

typedef struct {
  const uint8_t *begin;
  size_t length; /* a multiple of step */
  size_t ahead;
  int core;
  pthread_barrier_t *start;
  double began, ended;
  uint64_t sum; /* kept, so that no load can be left out */
} reader;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

#if defined __AVX512F__
typedef __m512i vector;
#elif defined __AVX2__
typedef __m256i vector;
#else
typedef uint64_t vector __attribute__((vector_size(16)));
#endif
typedef vector unaligned __attribute__((aligned(1), may_alias));

static uint64_t read_all(const uint8_t *at, size_t length, size_t ahead) {
  enum { vectors = line / sizeof(vector) };
  vector sums[4] = {0}; /* independent, so that no load waits for another's sum */
  for (const uint8_t *end = at + length; at < end; at += step) {
    for (int i = 0; i < 4; i++) {
      if (ahead) __builtin_prefetch(at + ahead + i * line, 0, 3);
      for (int j = 0; j < vectors; j++) sums[i] ^= ((const unaligned *)(at + i * line))[j];
    }
  }
  vector all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  uint64_t words[sizeof all / 8], sum = 0;
  memcpy(words, &all, sizeof all);
  for (size_t i = 0; i < sizeof all / 8; i++) sum ^= words[i];
  return sum;
}

static void *run(void *argument) {
  reader *own = argument;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(own->core, &cores);
  pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
  pthread_barrier_wait(own->start);
  /* Each takes its own time: one that the barrier woke late would otherwise look fast. */
  own->began = seconds();
  own->sum = read_all(own->begin, own->length, own->ahead);
  own->ended = seconds();
  return 0;
}

/* Bytes a second of all threads together, from the first one's beginning to the last one's end. */
static double one_pass(const uint8_t *memory, size_t size, size_t ahead, const int *cores, int threads) {
  static reader readers[max_threads];
  pthread_t handles[max_threads];
  pthread_barrier_t start;
  pthread_barrier_init(&start, 0, threads);
  size_t share = size / threads / step * step;
  for (int i = 0; i < threads; i++) {
    readers[i] = (reader){.begin = memory + i * share, .length = share, .ahead = ahead, .core = cores[i], .start = &start};
    if (pthread_create(&handles[i], 0, run, &readers[i])) {
      fprintf(stderr, "cannot start thread %d of %d\n", i + 1, threads);
      exit(1);
    }
  }
  double began = 1e300, ended = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(handles[i], 0);
    if (readers[i].began < began) began = readers[i].began;
    if (readers[i].ended > ended) ended = readers[i].ended;
  }
  pthread_barrier_destroy(&start);
  return share * threads / (ended - began);
}

static double best(const uint8_t *memory, size_t size) {
  cpu_set_t mask;
  int cores[max_threads], threads = 0;
  if (sched_getaffinity(0, sizeof mask, &mask)) {
    perror("sched_getaffinity");
    exit(1);
  }
  for (int core = 0; core < CPU_SETSIZE && threads < max_threads; core++) {
    if (CPU_ISSET(core, &mask)) cores[threads++] = core;
  }
  double most = 0;
  for (size_t k = 0; k < sizeof distances / sizeof *distances; k++) {
    for (int i = 0; i < passes; i++) {
      double speed = one_pass(memory, size, distances[k], cores, threads);
      if (speed > most) most = speed;
    }
  }
  return most;
}

/* Room for the buffer at a multiple of a huge page. It stays taken: this is a short program. */
static uint8_t *aligned_room(int protection) {
  uint8_t *memory = mmap(0, buffer_bytes + huge_page, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  return (uint8_t *)(((uintptr_t)memory + huge_page - 1) & ~(uintptr_t)(huge_page - 1));
}

static double anonymous(int advice) {
  uint8_t *memory = aligned_room(PROT_READ | PROT_WRITE);
  madvise(memory, buffer_bytes, advice); /* where the system gives none, this measures what it gives */
  for (size_t i = 0; i < buffer_bytes; i += 4096) memory[i] = 1;
  double speed = best(memory, buffer_bytes);
  munmap(memory, buffer_bytes);
  return speed;
}

/* Mapped where its large folios, if it has some, can be mapped whole: no reader of the file can do better. */
static double mapped(const char *path) {
  int file = open(path, O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) {
    perror(path);
    exit(1);
  }
  size_t size = (size_t)status.st_size < buffer_bytes ? (size_t)status.st_size : buffer_bytes;
  uint8_t *memory = mmap(aligned_room(PROT_NONE), size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0);
  if (memory == MAP_FAILED) {
    perror(path);
    exit(1);
  }
  madvise(memory, size, MADV_HUGEPAGE);
  madvise(memory, size, MADV_POPULATE_READ); /* an older system has none: then the first pass is slow, and not the best */
  double speed = best(memory, size);
  munmap(memory, size);
  close(file);
  return speed;
}

int main(int count, char **names) {
  printf("{");
  for (int i = 1; i < count; i++) {
    int is_huge = !strcmp(names[i], "huge"), is_small = !strcmp(names[i], "small");
    double speed = is_huge ? anonymous(MADV_HUGEPAGE) : is_small ? anonymous(MADV_NOHUGEPAGE) : mapped(names[i]);
    printf("%s\"%s\":%.0f", i > 1 ? "," : "", is_huge || is_small ? names[i] : "mapped", speed);
  }
  printf("}\n");
}
