/* What a rank spends: seconds by what it does, bytes of memory.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "ledger.h"
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HEADER = 64 }; /* bytes before each allocation that hold its size */

static double spent[NUM_ACTIVITIES], since;
static enum activity current = OTHER;
static size_t taken, peak;

/* Work is counted in seconds of the processor: there may be more ranks than processors. */
static double clock_of(enum activity activity) {
    struct timespec now;
    clock_gettime(activity == WAITING ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

enum activity begin_activity(enum activity activity) {
    enum activity before = current;
    if (since > 0)
        spent[before] += clock_of(before) - since;
    since = clock_of(activity);
    current = activity;
    return before;
}

enum activity current_activity(void) {
    return current;
}

void read_seconds(double seconds[NUM_ACTIVITIES]) {
    begin_activity(current);
    memcpy(seconds, spent, sizeof spent);
}

float *take_floats(int64_t count) {
    if ((uint64_t)count > (SIZE_MAX - HEADER) / sizeof(float))
        die("%lld floats are more than memory can hold", (long long)count);
    size_t bytes = (size_t)count * sizeof(float);
    unsigned char *block = allocate_bytes(bytes + HEADER);
    memcpy(block, &bytes, sizeof bytes);
    memset(block + HEADER, 0, bytes);
    taken += bytes;
    peak = taken > peak ? taken : peak;
    return (float *)(void *)(block + HEADER);
}

void release_floats(float *floats) {
    if (!floats)
        return;
    unsigned char *block = (unsigned char *)floats - HEADER;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    taken -= bytes;
    free(block);
}

size_t peak_bytes(void) {
    return peak;
}
