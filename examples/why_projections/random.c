/* Random numbers that are the same on every machine.  SPDX-License-Identifier: MIT */
#include "random.h"

#include <string.h>

/* SplitMix64. */
static uint64_t next(struct random *random) {
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float random_float(struct random *random) {
    return (float)(int32_t)(next(random) >> 40) * 0x1p-23f - 1.0f;
}

int random_below(struct random *random, int limit) {
    return (int)((next(random) >> 32) * (uint64_t)limit >> 32);
}

void shuffle(struct random *random, int *items, int count) {
    for (int i = count - 1; i > 0; i--) {
        int j = random_below(random, i + 1), item = items[i];
        items[i] = items[j];
        items[j] = item;
    }
}

uint64_t hash_floats(uint64_t hash, const float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, &values[i], sizeof word);
        for (int byte = 0; byte < 4; byte++)
            hash = (hash ^ (word >> 8 * byte & 0xff)) * 0x100000001b3u;
    }
    return hash;
}
