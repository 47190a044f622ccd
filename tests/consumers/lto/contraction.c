/* Whether the arithmetic of each function stays its own, where all are optimised as one program: a product whose square
 * rounds down tells an fma from two roundings.  SPDX-License-Identifier: MIT */
#include <stdio.h>

float kept(float a, float b, float c);
float fused(float a, float b, float c);

int main(void) {
    volatile float a = 1 + 0x1p-12F, c = -(1 + 0x1p-11F);
    const float in_library = kept(a, a, c), elsewhere = fused(a, a, c);
    if (in_library == 0 && elsewhere != 0) {
        puts("two roundings in the library, one elsewhere");
        return 0;
    }
    printf("in the library %g, which should be 0; elsewhere %g, which should not\n", (double)in_library,
           (double)elsewhere);
    return 1;
}
