/* A program with two copies of the library, which -DQKV_PREFIX keeps apart (prefixed_copy.c).
 * SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

const char *first_attend(float *out, const float *x, int tokens, int dim);
const char *second_attend(float *out, const float *x, int tokens, int dim);

enum { TOKENS = 20, DIM = 8 };

int main(void) {
    static float x[TOKENS][DIM], out[2][TOKENS][DIM];
    for (int t = 0; t < TOKENS; t++) {
        for (int c = 0; c < DIM; c++)
            x[t][c] = (float)((t * 7 + c * 3) % 11) - 5;
    }
    printf("first %s\n", first_attend(out[0][0], x[0], TOKENS, DIM));
    const char *version = second_attend(out[1][0], x[0], TOKENS, DIM);
    printf("second %s, %s\n", version, memcmp(out[0], out[1], sizeof out[0]) == 0 ? "the same bits" : "other bits");
    return 0;
}
