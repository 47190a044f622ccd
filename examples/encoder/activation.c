/* What BERT computes between its matrices, row by row: LayerNorm and GELU. Sums, products, divisions and square roots
 * only, in a fixed order, so that a model's vectors are the same bytes on every machine.
 * SPDX-License-Identifier: MIT */
#include "activation.h"

#include <math.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* GCC with -std=c11 does so by itself */
#endif

#define ROWS_PER_TASK 16

struct row_work {
    float *x;
    const float *y;
    const struct layer_norm *norm;
    int64_t num_rows, size;
    float eps;
};

/* Eight sums side by side, so that the compiler may use vector registers without changing the result. */
static double sum_of_squares(const float *x, int64_t size, double mean, int squared) {
    double lanes[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= size; i += 8)
        for (int lane = 0; lane < 8; lane++) {
            double d = (double)x[i + lane] - mean;
            lanes[lane] += squared ? d * d : d;
        }
    for (; i < size; i++) {
        double d = (double)x[i] - mean;
        lanes[0] += squared ? d * d : d;
    }
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

static void normalize_row(float *x, const struct layer_norm *norm, int64_t size, float eps) {
    double mean = sum_of_squares(x, size, 0.0, 0) / (double)size;
    double variance = sum_of_squares(x, size, mean, 1) / (double)size;
    float shift = (float)mean, factor = (float)(1.0 / sqrt(variance + (double)eps));
    for (int64_t i = 0; i < size; i++)
        x[i] = (x[i] - shift) * factor * norm->weight[i] + norm->bias[i];
}

static void add_and_normalize_rows(void *arg, int64_t index, int32_t worker) {
    const struct row_work *work = arg;
    int64_t end = (index + 1) * ROWS_PER_TASK;
    (void)worker;
    for (int64_t row = index * ROWS_PER_TASK; row < end && row < work->num_rows; row++) {
        float *x = work->x + row * work->size;
        const float *y = work->y ? work->y + row * work->size : NULL;
        for (int64_t i = 0; y && i < work->size; i++)
            x[i] += y[i];
        normalize_row(x, work->norm, work->size, work->eps);
    }
}

/* erf by a quotient of polynomials fitted on [−4, 4] (beyond, erf is ±1 in float); off by less than 5e-7. With
 * libm's erff, GELU takes a quarter of the whole encoder's time; this, compilers turn into vector instructions. */
static inline float erf_quotient(float x) {
    float z = x < 4.0f ? x : 4.0f;
    z = z > -4.0f ? z : -4.0f;
    float u = z * z;
    float p = 0x1.090e48p-19f, q = 0x1.3a695ap-15f;
    p = p * u + 0x1.2e08a6p-12f;
    q = q * u + 0x1.3edd0ap-10f;
    p = p * u + 0x1.06629ap-8f;
    q = q * u + 0x1.fa15c6p-7f;
    p = p * u + 0x1.b601a6p-5f;
    q = q * u + 0x1.dd16bep-4f;
    p = p * u + 0x1.91eb6ep-3f;
    q = q * u + 0x1.03b6acp-1f;
    p = p * u + 0x1.20dd72p+0f;
    q = q * u + 1.0f;
    return z * p / q;
}

static void apply_gelu_to_rows(void *arg, int64_t index, int32_t worker) {
    const struct row_work *work = arg;
    int64_t begin = index * ROWS_PER_TASK * work->size, end = begin + ROWS_PER_TASK * work->size;
    float *x = work->x;
    (void)worker;
    if (end > work->num_rows * work->size)
        end = work->num_rows * work->size;
    for (int64_t i = begin; i < end; i++)
        x[i] *= 0.5f + 0.5f * erf_quotient(x[i] * 0.70710678f);
}

void add_and_normalize(const struct encoder *encoder, float *x, const float *y, const struct layer_norm *norm,
                       int64_t num_rows) {
    struct row_work work = {x, y, norm, num_rows, encoder->config.hidden_size, encoder->config.layer_norm_eps};
    qkv_pthreads_for(encoder->pool, (num_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, add_and_normalize_rows, &work);
}

void apply_gelu(const struct encoder *encoder, float *x, int64_t num_rows, int64_t size) {
    struct row_work work = {.x = x, .num_rows = num_rows, .size = size};
    qkv_pthreads_for(encoder->pool, (num_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, apply_gelu_to_rows, &work);
}
