/* A layer of the size that keyword spotting takes: 32 frames of 64 features, 4 heads. What the program that prepares it
 * on a computer and the images that run it share.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_EXAMPLES_KEYWORD_H
#define QKV_EXAMPLES_KEYWORD_H

#include <stdint.h>
#include <string.h>

enum { TOKENS = 32, MODEL = 64, HEADS = 4, DIM = 16, WIDTH = HEADS * DIM };

/* Numbers between -limit and limit, a power of two, the same everywhere: in place of features and trained weights. */
static inline void keyword_numbers(uint32_t seed, float limit, float *x, int count) {
    for (int i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)((int32_t)(seed >> 16) - 0x8000) * (limit / 0x8000);
    }
}

/* FNV-1a over words: equal where all bits are. */
static inline uint64_t keyword_checksum(const float *x, int count) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * UINT64_C(0x100000001b3);
    }
    return hash;
}

#endif
