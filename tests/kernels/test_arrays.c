/* exp2, tanh and log over arrays of every length: tails, alignment, guard pages. What they give for every single float
 * is the business of tests/functions.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

typedef void (*array_function)(float *x, size_t n);

static float draw_exp2(qt_rng *rng) {
    float x = qt_chance(rng, 50) ? qt_uniform(rng, -140, 0) : qt_nasty(rng);
    return x > 0 ? -x : x; /* a NaN stays one */
}

static float draw_tanh(qt_rng *rng) {
    return qt_chance(rng, 50) ? qt_uniform(rng, -12, 12) : qt_nasty(rng);
}

static float draw_log(qt_rng *rng) {
    float x = fabsf(qt_chance(rng, 50) ? qt_uniform(rng, 1, 300) : qt_nasty(rng));
    return x < FLT_MIN || x == INFINITY ? 1.0f : x;
}

static void check(qt_rng *rng, array_function want_of, array_function run, float (*draw)(qt_rng *), size_t n,
                  int place) {
    qt_describe("n=%zu place=%d", n, place);
    float *want = qt_floats(n, QT_TAIL), *got = qt_floats(n, place);
    for (size_t j = 0; j < n; j++)
        want[j] = got[j] = draw(rng);
    want_of(want, n);
    run(got, n);
    qt_expect_words("result", want, got, n, 0);
}

static void check_all(array_function want_of, array_function run, float (*draw)(qt_rng *)) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 4 : 20); round++)
        for (size_t n = 0; n <= 140; n++)
            if (qt_case(index++, &rng))
                check(&rng, want_of, run, draw, n, round % 2 == 0 ? QT_TAIL : QT_HEAD + (int)qt_range(&rng, 0, 17));
    for (int i = 0; i < 100; i++)
        if (qt_case(index++, &rng)) {
            size_t n = draw_size(&rng, 1000);
            check(&rng, want_of, run, draw, n, qt_place(&rng));
        }
}

static void test_exp2_array(const qt_set *set) {
    check_all(qkv_kernels_ref.exp2, set->kernels->exp2, draw_exp2);
}

static void test_tanh_array(const qt_set *set) {
    check_all(qkv_kernels_ref.tanh, set->kernels->tanh, draw_tanh);
}

static void test_log_array(const qt_set *set) {
    check_all(qkv_kernels_ref.log, set->kernels->log, draw_log);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("exp2_array", test_exp2_array);
    qt_each_set("tanh_array", test_tanh_array);
    qt_each_set("log_array", test_log_array);
    return qt_run();
}
