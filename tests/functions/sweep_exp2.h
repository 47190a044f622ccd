/* An exp2 of [−cut, 0] that is +0 below.  SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_SWEEP_EXP2_H
#define QKV_TESTS_SWEEP_EXP2_H

#include <float.h>

#include "sweep.h"

typedef void (*(*exp2_entry)(const qkv_kernels *k))(float *x, size_t n);

/* limit: of the error in ulp. */
static inline void sweep_exp2(const char *what, exp2_entry entry, float cut, double limit) {
    const function f = {.definition = definition, .entry = entry, .oracle = exp2, .limit = limit};
    sweep_range(what, &f, 0x80000000, qt_bits(-cut));
}

static void fill_zero(float *x, size_t n) {
    memset(x, 0, n * sizeof *x);
}

static inline void sweep_exp2_below(const char *what, exp2_entry entry, float cut) {
    sweep_range(what, &(function){.definition = fill_zero, .entry = entry}, qt_bits(-cut) + 1, 0xff800000);
}

static inline void expect_exp2_values(exp2_entry entry, float cut) {
    expect_at(entry, 0.0f, 1.0f);
    expect_at(entry, -0.0f, 1.0f);
    expect_at(entry, qt_from_bits(0x80000001), 1.0f);
    for (int n = 0; n <= (int)cut; n++)
        expect_at(entry, (float)-n, ldexpf(1, -n));
    expect_at(entry, qt_from_bits(qt_bits(-cut) + 1), 0.0f);
    expect_at(entry, -FLT_MAX, 0.0f);
    expect_at(entry, -INFINITY, 0.0f);
}

#endif
