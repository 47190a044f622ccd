/* The two projections of keyword.c as CMSIS-NN's products in 8 bits, to compare instructions with: x and W in int8,
 * sums in int32, brought back to int8. Each result is compared with plain loops.
 *
 * Built with Source/NNSupportFunctions of a copy of CMSIS-NN (docs/embedded.md).  SPDX-License-Identifier: MIT */
#include "board.h"

#include <arm_nnsupportfunctions.h>

enum { TOKENS = 32, MODEL = 64, COLUMNS = 192 };

static int8_t x[TOKENS * MODEL], w[COLUMNS * MODEL], y[TOKENS * COLUMNS]; /* w: [out][in] */
static int32_t bias[COLUMNS], multipliers[COLUMNS], shifts[COLUMNS];

static int8_t next(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (int8_t)(*seed >> 24);
}

static int8_t plain(int token, int column) {
    int32_t sum = bias[column];
    for (int i = 0; i < MODEL; i++)
        sum += x[token * MODEL + i] * w[column * MODEL + i];
    sum = arm_nn_requantize(sum, multipliers[column], shifts[column]);
    return (int8_t)(sum < -128 ? -128 : sum > 127 ? 127 : sum);
}

/* Instructions of x·W with so many columns, added to those before; differences to plain loops. */
static int multiply(int columns, uint64_t *instructions) {
    int other = 0;
    const uint64_t begin = board_instructions();
    other += arm_nn_mat_mult_nt_t_s8(x, w, bias, y, multipliers, shifts, TOKENS, columns, MODEL, 0, 0, -128, 127,
                                     columns, MODEL) != ARM_CMSIS_NN_SUCCESS;
    *instructions += board_instructions() - begin;
    for (int t = 0; t < TOKENS; t++) {
        for (int j = 0; j < columns; j++)
            other += y[t * columns + j] != plain(t, j);
    }
    return other;
}

int main(void) {
    uint32_t seed = 1;
    uint64_t instructions = 0;
    for (int i = 0; i < TOKENS * MODEL; i++)
        x[i] = next(&seed);
    for (int i = 0; i < COLUMNS * MODEL; i++)
        w[i] = next(&seed);
    for (int j = 0; j < COLUMNS; j++) {
        bias[j] = next(&seed);
        multipliers[j] = 0x60000000 + 0x100000 * j;
        shifts[j] = -10;
    }
    const int other = multiply(COLUMNS, &instructions) + multiply(MODEL, &instructions);
    board_say_number("instructions of the projections", instructions);
    board_say_number("bytes of stack", board_stack_used());
    board_say(other ? "the results are OTHER than those of plain loops" : "the results are those of plain loops");
    return other != 0;
}
