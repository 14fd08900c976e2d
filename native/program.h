/* Programs: a forward pass as words, which src/device/cpu-program.ts writes. */
#ifndef TUTTI_PROGRAM_H
#define TUTTI_PROGRAM_H
#include "device.h"

/*
 * Checks and decodes a program once, so that the threads only run it; the words are not needed afterwards. Grows the
 * arena. A whole pass copies `result_length` float32 at `result_offset` of the arena to where task_set_result says.
 * An urgent one is to be started before any other task is made. It waits its turn after all where something in flight
 * writes a page that it uses, or uses one that it writes, and where there is no memory for detours.
 */
task *device_program(device *, const double *words, size_t num_words, int64_t arena_bytes, int64_t result_offset,
                     int64_t result_length, bool urgent, problem *);
void task_set_result(task *, float *result);

#endif
