/* Philox 4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3" (2011): 128 random bits from a counter of 128 and a key of 64, without a state.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_PHILOX_H
#define QKV_PHILOX_H

#include <stdint.h>

#include "../config.h"

enum { QKV_PHILOX_ROUNDS = 10, QKV_PHILOX_KEYS = 64 }; /* keys: those that the words of 16 counters decide about */

#define QKV_PHILOX_M0 0xd2511f53u
#define QKV_PHILOX_M1 0xcd9e8d57u
#define QKV_PHILOX_W0 0x9e3779b9u /* by which the key grows each round */
#define QKV_PHILOX_W1 0xbb67ae85u

/* words: the counter, which becomes the result. */
QKV_INLINE void qkv_philox(uint32_t words[4], const uint32_t key[2]) {
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < QKV_PHILOX_ROUNDS; round++, k0 += QKV_PHILOX_W0, k1 += QKV_PHILOX_W1) {
        uint64_t x = (uint64_t)words[0] * QKV_PHILOX_M0, y = (uint64_t)words[2] * QKV_PHILOX_M1;
        words[0] = (uint32_t)(y >> 32) ^ words[1] ^ k0;
        words[2] = (uint32_t)(x >> 32) ^ words[3] ^ k1;
        words[1] = (uint32_t)y;
        words[3] = (uint32_t)x;
    }
}

#endif
