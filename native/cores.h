/* Which cores this process may compute on: its affinity mask, the quota of its control groups, and the fast cores of
 * both. */
#ifndef TUTTI_CORES_H
#define TUTTI_CORES_H
#include <stdbool.h>
#include <stdint.h>

enum { MAX_CPUS = 4096 };

typedef struct cores {
  int num_cores;               /* physical ones, only the fast where they differ; at least 1 */
  int16_t core_of[MAX_CPUS];   /* of each logical processor, −1 for those not to be used */
  double quota;                /* processors' worth of time, INFINITY without a limit */
} cores;

/* `root` is prepended to /proc and /sys, empty but in tests. `mask`: MAX_CPUS of them. */
void find_cores(const char *root, const bool *mask, cores *);
/* The affinity mask of the calling thread; false where the system has none. */
bool affinity_mask(bool *mask);
/* How many threads to run by default. */
int default_threads(const cores *);
/* Keeps the calling thread, one of `size`, on its share of these cores (no effect where the system cannot). */
void stay_on_share(const cores *, int rank, int size);

#endif
