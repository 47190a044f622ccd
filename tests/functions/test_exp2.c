/* exp2 at every float that is not above 0, and at every NaN: at most 1 ulp, the same words from all sets.
 *
 * SPDX-License-Identifier: MIT */
#define SWEPT_FUNCTION qkv_exp2
#include "sweep_exp2.h"

static void (*entry(const qkv_kernels *k))(float *, size_t) {
    return k->exp2;
}

static void test_range(void) {
    sweep_exp2("-126 ... -0", entry, 126, 1);
}

static void test_below(void) {
    sweep_exp2_below("below -126: +0", entry, 126);
}

static void test_nan(void) {
    sweep_nan(entry);
}

static void test_values(void) {
    expect_exp2_values(entry, 126);
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
