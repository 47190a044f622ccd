/* scale: one product, and no −0 survives; in place too.  SPDX-License-Identifier: MIT */
#include "operands.h"

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t n, int place) {
    qt_kind kind = (qt_kind)qt_range(rng, 0, QT_NUM_KINDS - 1);
    bool in_place = qt_chance(rng, 40);
    ptrdiff_t lds = in_place ? (ptrdiff_t)n : draw_ld(rng, n), ldd = (ptrdiff_t)n;
    qt_describe("rows=%zu n=%zu lds=%td in_place=%d %s place=%d", rows, n, lds, in_place, qt_kind_name(kind), place);
    const float *src = operand(rng, rows, n, lds, place, kind);
    const float *factors = vector(rng, rows, place, qt_chance(rng, 60) ? QT_NORMAL : QT_NASTY);
    int other_place = qt_place(rng); /* source and destination need not be aligned alike */
    float *dst = in_place ? copy_of(src, rows * n, other_place) : qt_floats(rows * n, other_place);
    float *want = qt_floats(rows * n, QT_TAIL);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            volatile float product = src[(ptrdiff_t)i * lds + (ptrdiff_t)j] * factors[i]; /* two roundings, never one */
            want[i * n + j] = product + 0.0f;
        }
    set->kernels->scale(dst, ldd, in_place ? dst : src, lds, factors, rows, n);
    qt_expect_words("dst", want, dst, rows * n, 0);
}

static void test_scale(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 4 : 20); round++)
        for (size_t n = 0; n <= 140; n++)
            if (qt_case(index++, &rng))
                check(set, &rng, (size_t)round % 4, n, round % 2 == 0 ? QT_TAIL : QT_HEAD + (int)qt_range(&rng, 0, 17));
    for (int i = 0; i < 100; i++)
        if (qt_case(index++, &rng)) {
            size_t n = draw_size(&rng, 1000);
            check(set, &rng, (size_t)qt_range(&rng, 1, 5), n, qt_place(&rng));
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("scale", test_scale);
    return qt_run();
}
