/* tanh at every float and every NaN: at most 1 ulp, odd, the same words from all sets.  SPDX-License-Identifier: MIT */
#define SWEPT_FUNCTION qkv_tanh
#include "sweep.h"

static void (*entry(const qkv_kernels *k))(float *, size_t) {
    return k->tanh;
}

/* The oracle is asked for x ≥ 0; the sets must give −f(x) at −x, −0 included. */
static void test_range(void) {
    function f = {.definition = definition, .entry = entry, .oracle = tanh, .mirrored = true};
    sweep_range("0 ... 10", &f, 0, 0x41200000);
}

static void fill_one(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = 1.0f;
}

/* 1 − tanh(10) is 4.1e-9, less than half a unit of the float below 1: nothing but 1 is right from there on. */
static void test_saturated(void) {
    sweep_range("10 ... inf: 1", &(function){.definition = fill_one, .entry = entry, .mirrored = true}, 0x41200001,
                0x7f800000);
}

static void test_nan(void) {
    sweep_nan(entry);
}

static void test_values(void) {
    expect_at(entry, 0.0f, 0.0f);
    expect_at(entry, -0.0f, -0.0f);
    expect_at(entry, INFINITY, 1.0f);
    expect_at(entry, -INFINITY, -1.0f);
    expect_at(entry, FLT_MAX, 1.0f);
    expect_at(entry, -FLT_MAX, -1.0f);
    expect_at(entry, qt_from_bits(1), qt_from_bits(1));
    expect_at(entry, -FLT_MIN, -FLT_MIN);
    expect_at(entry, NAN, NAN);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("tanh_range", test_range);
    qt_once("tanh_saturated", test_saturated);
    qt_once("tanh_nan", test_nan);
    qt_once("tanh_values", test_values);
    return qt_run();
}
