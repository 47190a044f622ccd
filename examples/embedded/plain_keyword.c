/* The layer of keyword.c as one would write it without a library: the same sums in plain loops. To compare with.
 *
 * SPDX-License-Identifier: MIT */
#include "keyword.h"

#include <math.h>

#include "board.h"
#include "keyword_model.h"

enum { ROW = 3 * WIDTH };

static float x[TOKENS * MODEL], qkv[TOKENS * ROW], heads[TOKENS * WIDTH];

/* y = x·W, rows of W being [in][out]. */
static void multiply(const float *restrict a, const float *restrict w, float *restrict y, int tokens, int in, int out) {
    for (int t = 0; t < tokens; t++) {
        for (int j = 0; j < out; j++) {
            float sum = 0;
            for (int i = 0; i < in; i++)
                sum += a[t * in + i] * w[i * out + j];
            y[t * out + j] = sum;
        }
    }
}

static void attend(int h, int t) {
    const float *q = qkv + t * ROW + h * DIM, *k = qkv + WIDTH + h * DIM, *v = qkv + 2 * WIDTH + h * DIM;
    float p[TOKENS], most = -INFINITY, sum = 0;
    for (int j = 0; j < TOKENS; j++) {
        float score = 0;
        for (int c = 0; c < DIM; c++)
            score += q[c] * k[j * ROW + c];
        p[j] = score * 0.25f; /* 1/sqrt(DIM) */
        most = p[j] > most ? p[j] : most;
    }
    for (int j = 0; j < TOKENS; j++) {
        p[j] = expf(p[j] - most);
        sum += p[j];
    }
    for (int c = 0; c < DIM; c++) {
        float value = 0;
        for (int j = 0; j < TOKENS; j++)
            value += p[j] * v[j * ROW + c];
        heads[t * WIDTH + h * DIM + c] = value / sum;
    }
}

int main(void) {
    keyword_numbers(1, 1, x, TOKENS * MODEL);
    const uint64_t begin = board_instructions();
    multiply(x, keyword_w_qkv, qkv, TOKENS, MODEL, ROW);
    const uint64_t projected = board_instructions();
    for (int h = 0; h < HEADS; h++) {
        for (int t = 0; t < TOKENS; t++)
            attend(h, t);
    }
    const uint64_t attended = board_instructions();
    multiply(heads, keyword_w_o, x, TOKENS, WIDTH, MODEL);
    const uint64_t end = board_instructions();

    board_say_number("instructions of the projections", projected - begin + end - attended);
    board_say_number("instructions of the attention", attended - projected);
    board_say_number("bytes of stack", board_stack_used());
    for (int i = 0; i < TOKENS * MODEL; i++) {
        if (!(fabsf(x[i] - keyword_expected[i]) <= 1e-4f)) {
            board_say("the output differs by more than 1e-4");
            return 1;
        }
    }
    board_say("the output is that of qkv within 1e-4");
    return 0;
}
