/* A row in 8 bits as QKV_ARITHMETIC_INT8 has it, to the bit. See oracle.h.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

float oracle_to_int8(const float *x, const float *means, int64_t n, int *q) {
    float largest = 0, rest = 0;
    for (int64_t j = 0; j < n; j++) {
        const float y = means ? x[j] - means[j] : x[j];
        largest = fmaxf(largest, fabsf(y));
        rest += y * 0;
    }
    for (int64_t j = 0; j < n; j++)
        q[j] = 0;
    if (isnan(rest) || largest < 0x1p-100f)
        return rest;
    const float factor = 127 / largest;
    for (int64_t j = 0; j < n; j++) {
        const float y = (means ? x[j] - means[j] : x[j]) * factor;
        q[j] = (int)rintf(y);
    }
    return largest / 127;
}
