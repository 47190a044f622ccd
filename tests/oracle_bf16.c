/* Numbers of QKV_ARITHMETIC_BF16 to the bit, by functions of the C library that are exact. See oracle.h.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <string.h>

float oracle_to_bf16(float x) {
    uint32_t word;
    memcpy(&word, &x, sizeof word);
    if (isnan(x) || fabsf(x) < 0x1p-56f)
        return isnan(x) ? x : 0;
    const uint32_t rest = word % 0x10000; /* multiples of 2^16 words are the values */
    word -= rest;
    if (rest > 0x8000 || (rest == 0x8000 && word / 0x10000 % 2 == 1))
        word += 0x10000;
    memcpy(&x, &word, sizeof x);
    return x;
}

float oracle_exp2_for_bf16(float y) {
    if (y < -56)
        return 0;
    const float n = rintf(y), f = y - n;
    return ldexpf(fmaf(fmaf(fmaf(fmaf(0x1.3a02d2p-7f, f, 0x1.c9fc48p-5f), f, 0x1.ec0378p-3f), f, 0x1.62e12cp-1f), f, 1),
                  (int)n);
}
