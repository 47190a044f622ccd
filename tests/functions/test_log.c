/* log at every positive normal float and every NaN: at most 1 ulp, the same words from all sets.
 *
 * SPDX-License-Identifier: MIT */
#define SWEPT_FUNCTION qkv_log
#include "sweep.h"

static void (*entry(const qkv_kernels *k))(float *, size_t) {
    return k->log;
}

static void test_range(void) {
    function f = {.definition = definition, .entry = entry, .oracle = log};
    sweep_range("FLT_MIN ... FLT_MAX", &f, 0x00800000, 0x7f7fffff);
}

static void test_nan(void) {
    sweep_nan(entry);
}

static void test_values(void) {
    expect_at(entry, 1.0f, 0.0f); /* a row with one visible key has this sum */
    expect_at(entry, 2.0f, 0x1.62e430p-1f);
    expect_at(entry, NAN, NAN);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("log_range", test_range);
    qt_once("log_nan", test_nan);
    qt_once("log_values", test_values);
    return qt_run();
}
