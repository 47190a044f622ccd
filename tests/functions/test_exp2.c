/* exp2 at every float that is not above 0, and at every NaN: at most 1 ulp, the same words from all sets.
 *
 * SPDX-License-Identifier: MIT */
#define SWEPT_FUNCTION qkv_exp2
#include "sweep.h"

static void (*entry(const qkv_kernels *k))(float *, size_t) {
    return k->exp2;
}

static void test_range(void) {
    sweep_range("-126 ... -0", &(function){.definition = definition, .entry = entry, .oracle = exp2}, 0x80000000,
                0xc2fc0000);
}

static void fill_zero(float *x, size_t n) {
    memset(x, 0, n * sizeof *x);
}

static void test_below(void) {
    sweep_range("below -126: +0", &(function){.definition = fill_zero, .entry = entry}, 0xc2fc0001, 0xff800000);
}

static void keep(float *x, size_t n) {
    (void)x, (void)n;
}

static void test_nan(void) {
    function stays = {.definition = keep, .entry = entry};
    sweep_range("NaN", &stays, 0x7f800001, 0x7fffffff);
    sweep_range("-NaN", &stays, 0xff800001, 0xffffffff);
}

static void test_values(void) {
    expect_at(entry, 0.0f, 1.0f);
    expect_at(entry, -0.0f, 1.0f);
    expect_at(entry, qt_from_bits(0x80000001), 1.0f);
    for (int n = 0; n <= 126; n++)
        expect_at(entry, (float)-n, ldexpf(1, -n));
    expect_at(entry, qt_from_bits(0xc2fc0001), 0.0f);
    expect_at(entry, -FLT_MAX, 0.0f);
    expect_at(entry, -INFINITY, 0.0f);
    expect_at(entry, NAN, NAN);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("exp2_range", test_range);
    qt_once("exp2_below", test_below);
    qt_once("exp2_nan", test_nan);
    qt_once("exp2_values", test_values);
    return qt_run();
}
