/* Random numbers that are the same on every machine, and a hash of the floats that came out.
 * SPDX-License-Identifier: MIT */
#ifndef RANDOM_H
#define RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random {
    uint64_t state; /* any seed will do */
};

/* A float of [−1, 1): a multiple of 2⁻²³, so that no step of making it is rounded. */
float random_float(struct random *random);

/* A whole number of [0, limit). */
int random_below(struct random *random, int limit);

void shuffle(struct random *random, int *items, int count);

/* FNV-1a over the words of the floats, lowest byte first. Begin with HASH_START. */
#define HASH_START 0xcbf29ce484222325u
uint64_t hash_floats(uint64_t hash, const float *values, size_t count);

#endif
