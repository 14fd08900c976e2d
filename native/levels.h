/* Instruction sets. scripts/build-native.ts compiles the kernels once for each and says which it has:
 * TUTTI_HAS_avx2, … */
#ifndef TUTTI_LEVELS_H
#define TUTTI_LEVELS_H
#include "../src/kernels/cpu.h"

enum { MAX_LEVELS = 8 };

/* Kernels that are built in and that this CPU and system can run, the best first. Returns how many. */
int find_levels(const kernels *levels[MAX_LEVELS]);

#endif
