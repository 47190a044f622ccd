/* ALiBi's slopes: Press, Smith and Lewis, "Train short, test long" (2022), with the rule of the authors' code for head
 * counts that are no power of two: the slopes of the next lower power of two, then every other one of its double.
 *
 * SPDX-License-Identifier: MIT */
#include "attention.h"

#if QKV_WITH(MASKS)

qkv_status qkv_alibi_slopes(int64_t num_heads, float *slopes) {
    if (num_heads < 0)
        return QKV_ERROR_NEGATIVE;
    if (num_heads == 0)
        return QKV_OK;
    if (!slopes)
        return QKV_ERROR_NULL;
    int64_t power = 1;
    double ratio = 1.0 / 256; /* 2^(−8/power) */
    while (power <= num_heads / 2) {
        power *= 2;
        ratio = qkv_square_root(ratio);
    }
    double slope = 1;
    for (int64_t h = 0; h < power; h++) {
        slope *= ratio;
        slopes[h] = (float)slope;
    }
    slope = qkv_square_root(ratio);
    for (int64_t h = power; h < num_heads; h++) {
        slopes[h] = (float)slope;
        slope *= ratio;
    }
    return QKV_OK;
}

#endif
