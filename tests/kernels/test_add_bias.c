/* add_bias: one sum for each element of a block, or a copy.  SPDX-License-Identifier: MIT */
#include "operands.h"

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t n, bool with_bias, int place) {
    qt_kind kind = (qt_kind)qt_range(rng, 0, QT_NUM_KINDS - 1);
    ptrdiff_t lds = draw_ld(rng, n), ldd = (ptrdiff_t)n + (int)qt_range(rng, 0, 20);
    qt_describe("rows=%zu n=%zu lds=%td ldd=%td bias=%d %s place=%d", rows, n, lds, ldd, with_bias, qt_kind_name(kind),
                place);
    const float *src = operand(rng, rows, n, lds, place, kind);
    const float *bias = with_bias ? vector(rng, n, qt_place(rng), kind) : NULL;
    size_t span = rows == 0 || n == 0 ? 0 : (rows - 1) * (size_t)ldd + n;
    float *dst = qt_floats(span, qt_place(rng)), *want = qt_floats(n, QT_TAIL);
    set->kernels->add_bias(dst, ldd, src, lds, bias, rows, n);
    for (size_t i = 0; i < rows && n > 0; i++) {
        for (size_t j = 0; j < n; j++) {
            float x = src[(ptrdiff_t)i * lds + (ptrdiff_t)j];
            want[j] = with_bias ? x + bias[j] : x;
        }
        qt_expect_words("dst", want, dst + i * (size_t)ldd, n, 0);
    }
    qt_view view = qt_view_rows(dst, rows, n, ldd);
    qt_expect_gaps("dst", &view);
}

static void test_add_bias(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 4 : 20); round++)
        for (size_t n = 0; n <= 140; n++)
            if (qt_case(index++, &rng)) {
                int place = round % 2 == 0 ? QT_TAIL : QT_HEAD + (int)qt_range(&rng, 0, 17);
                check(set, &rng, draw_size(&rng, 13), n, round % 4 < 2, place);
            }
    for (int i = 0; i < 100; i++)
        if (qt_case(index++, &rng)) {
            size_t rows = draw_size(&rng, 20), n = draw_size(&rng, 1000);
            int place = qt_place(&rng);
            check(set, &rng, rows, n, i % 2 == 0, place);
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("add_bias", test_add_bias);
    return qt_run();
}
