/* What a decoder computes between its products, row by row: RMSNorm, sums, SwiGLU and GeGLU.
 * SPDX-License-Identifier: MIT */
#include "decoder.h"

#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* GCC with -std=c11 does so by itself */
#endif

#define ROWS_PER_TASK 8

struct row_work {
    float *out;
    const float *x, *norm;
    int64_t rows, size;
    float epsilon;
    int gelu;
};

static void for_rows(const struct decoder *decoder, qkv_task task, struct row_work *work) {
    qkv_pthreads_for(decoder->pool, (work->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, task, work);
}

static int64_t end_of_task(const struct row_work *work, int64_t index) {
    const int64_t end = (index + 1) * ROWS_PER_TASK;
    return end < work->rows ? end : work->rows;
}

/* 1/√(mean x² + ε), from eight sums side by side, so that compilers may use vectors without changing the result. */
static float root_mean_square(const float *x, int64_t size, float epsilon) {
    double lanes[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= size; i += 8)
        for (int lane = 0; lane < 8; lane++)
            lanes[lane] += (double)x[i + lane] * (double)x[i + lane];
    for (; i < size; i++)
        lanes[0] += (double)x[i] * (double)x[i];
    const double sum =
        ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
    return (float)(1.0 / sqrt(sum / (double)size + (double)epsilon));
}

static void normalize_task(void *arg, int64_t index, int32_t worker) {
    const struct row_work *work = arg;
    (void)worker;
    for (int64_t row = index * ROWS_PER_TASK; row < end_of_task(work, index); row++) {
        const float *x = work->x + row * work->size;
        const float factor = root_mean_square(x, work->size, work->epsilon);
        for (int64_t i = 0; i < work->size; i++)
            work->out[row * work->size + i] = x[i] * factor * work->norm[i];
    }
}

static void add_task(void *arg, int64_t index, int32_t worker) {
    const struct row_work *work = arg;
    (void)worker;
    for (int64_t row = index * ROWS_PER_TASK; row < end_of_task(work, index); row++) {
        float *out = work->out + row * work->size;
        const float *x = work->x + row * work->size;
        const float factor = work->norm ? root_mean_square(x, work->size, work->epsilon) : 1;
        for (int64_t i = 0; i < work->size; i++)
            out[i] += work->norm ? x[i] * factor * work->norm[i] : x[i];
    }
}

/* exp(x) for x in [−88, 88] to about an ulp: 2^n·exp(r), |r| ≤ ln(2)/2. Sums and products only, for vectors. */
static inline float exponential(float x) {
    const float shifted = x * 0x1.715476p+0f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    const float r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
    float p = 0x1.6850e4p-10f;
    p = p * r + 0x1.123bccp-7f;
    p = p * r + 0x1.555b98p-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0x1.fffff8p-2f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* z·sigmoid(z), or with z = 2·√(2/π)·(x + 0.044715·x³) GELU as models with GeGLU have it. */
static inline float activation(float x, int gelu) {
    float z = gelu ? x * (1.59576912f + 0.0713548162f * (x * x)) : x;
    z = z < 87.0f ? z : 87.0f;
    z = z > -87.0f ? z : -87.0f;
    return x / (1.0f + exponential(-z));
}

static void gate_task(void *arg, int64_t index, int32_t worker) {
    const struct row_work *work = arg;
    (void)worker;
    for (int64_t i = index * ROWS_PER_TASK * work->size; i < end_of_task(work, index) * work->size; i++)
        work->out[i] = activation(work->out[i], 0) * work->x[i];
}

static void gate_gelu_task(void *arg, int64_t index, int32_t worker) {
    const struct row_work *work = arg;
    (void)worker;
    for (int64_t i = index * ROWS_PER_TASK * work->size; i < end_of_task(work, index) * work->size; i++)
        work->out[i] = activation(work->out[i], 1) * work->x[i];
}

void normalize_rows(const struct decoder *decoder, float *out, const float *x, const float *norm, int64_t rows) {
    struct row_work work = {out, x, norm, rows, decoder->config.model_dim, decoder->config.norm_epsilon, 0};
    for_rows(decoder, normalize_task, &work);
}

void add_rows(const struct decoder *decoder, float *x, const float *y, const float *norm, int64_t rows) {
    struct row_work work = {x, y, norm, rows, decoder->config.model_dim, decoder->config.norm_epsilon, 0};
    for_rows(decoder, add_task, &work);
}

void gate_rows(const struct decoder *decoder, float *gate, const float *up, int64_t rows) {
    struct row_work work = {.out = gate, .x = up, .rows = rows, .size = decoder->config.ff_dim};
    for_rows(decoder, decoder->config.gelu ? gate_gelu_task : gate_task, &work);
}
