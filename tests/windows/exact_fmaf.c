/* The fmaf that tests compare with: that of mingw-w64 rounds twice. In double the product is exact; the sum is rounded
 * to odd, which leaves the second rounding what one alone would have been.  SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdint.h>
#include <string.h>

float fmaf(float x, float y, float z) {
    const double product = (double)x * y;
    double sum = product + z;
    const double of_z = sum - product, error = (product - (sum - of_z)) + (z - of_z);
    if (isfinite(sum) && error != 0) {
        uint64_t bits;
        memcpy(&bits, &sum, sizeof bits);
        if (bits % 2 == 0)
            bits += (error > 0) == (sum > 0) ? 1 : UINT64_MAX;
        memcpy(&sum, &bits, sizeof sum);
    }
    return (float)sum;
}
