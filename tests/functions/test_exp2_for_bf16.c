/* The exp2 of weights that become bfloat16, at every float of [−56, 0], at those below and at every NaN: at most 48
 * ulp, the same words from all sets. Sets have no entry for it but softmax_bf16, whose weights it is where the greatest
 * score of a row is 0.
 *
 * SPDX-License-Identifier: MIT */
#define SWEPT_FUNCTION qkv_exp2_for_bf16
#include "sweep_exp2.h"

static _Thread_local const qkv_kernels *kernels; /* of entry's last call; chunks are swept by several threads */

enum { COLS = 256, SWEPT = COLS - QKV_LANES }; /* of a row, of them what follows a vector of zeros */

static void weights(float *y, size_t n) {
    _Alignas(64) float t[QKV_MAX_ROWS * COLS];
    float m[QKV_MAX_ROWS], l[QKV_MAX_ROWS];
    for (size_t at = 0, rows; at < n; at += rows * SWEPT) {
        rows = (n - at + SWEPT - 1) / SWEPT < QKV_MAX_ROWS ? (n - at + SWEPT - 1) / SWEPT : QKV_MAX_ROWS;
        memset(t, 0, sizeof t);
        for (size_t i = 0; i < rows; i++) {
            const size_t first = at + i * SWEPT, few = n - first < SWEPT ? n - first : SWEPT;
            memcpy(t + i * COLS + QKV_LANES, y + first, few * sizeof *y);
        }
        kernels->softmax_bf16(t, COLS, 0, rows, COLS, m, l, 0);
        for (size_t i = 0; i < rows; i++) {
            const size_t first = at + i * SWEPT, few = n - first < SWEPT ? n - first : SWEPT;
            memcpy(y + first, t + i * COLS + QKV_LANES, few * sizeof *y);
        }
    }
}

static void (*entry(const qkv_kernels *k))(float *, size_t) {
    kernels = k;
    return weights;
}

static void test_range(void) {
    sweep_exp2("-56 ... -0", entry, 56, 48);
}

static void test_below(void) {
    sweep_exp2_below("below -56: +0", entry, 56);
}

/* What the weights of a row with a NaN are does not matter, if only their sum is one. */
static void sums(float *x, size_t n) {
    for (size_t j = 0; j < n; j++) {
        _Alignas(64) float t[QKV_LANES] = {0};
        float m;
        t[j % QKV_LANES] = x[j];
        kernels->softmax_bf16(t, QKV_LANES, 0, 1, QKV_LANES, &m, &x[j], (int)(j / QKV_LANES % 2));
    }
}

static void (*entry_of_sums(const qkv_kernels *k))(float *, size_t) {
    kernels = k;
    return sums;
}

static void test_nan(void) {
    sweep_nan(entry_of_sums);
}

static void test_values(void) {
    expect_exp2_values(entry, 56);
    expect_at(entry_of_sums, NAN, NAN);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("exp2_for_bf16_range", test_range);
    qt_once("exp2_for_bf16_below", test_below);
    qt_once("exp2_for_bf16_nan", test_nan);
    qt_once("exp2_for_bf16_values", test_values);
    return qt_run();
}
