/* add: dst += src, row by row, and not a float beside them.  SPDX-License-Identifier: MIT */
#include "operands.h"

static void test_add(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 150 : 1000); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = draw_size(&rng, 13), n = i < 140 ? i : draw_size(&rng, 300);
        ptrdiff_t lds = draw_ld(&rng, n), ldd = (ptrdiff_t)n + (int)qt_range(&rng, 0, 20);
        int place = qt_place(&rng);
        qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
        qt_describe("rows=%zu n=%zu lds=%td ldd=%td %s place=%d", rows, n, lds, ldd, qt_kind_name(kind), place);
        const float *src = operand(&rng, rows, n, lds, place, kind);
        const float *old = operand(&rng, rows, n, (ptrdiff_t)n, place, kind);
        float *dst = qt_floats(rows == 0 || n == 0 ? 0 : (rows - 1) * (size_t)ldd + n, place);
        float *want = qt_floats(n, QT_TAIL);
        for (size_t r = 0; r < rows && n > 0; r++)
            memcpy(dst + r * (size_t)ldd, old + r * n, n * sizeof *dst);
        set->kernels->add(dst, ldd, src, lds, rows, n);
        for (size_t r = 0; r < rows && n > 0; r++) {
            for (size_t j = 0; j < n; j++)
                want[j] = old[r * n + j] + src[(ptrdiff_t)r * lds + (ptrdiff_t)j];
            qt_expect_words("dst", want, dst + r * (size_t)ldd, n, 0);
        }
        qt_view view = qt_view_rows(dst, rows, n, ldd);
        qt_expect_gaps("dst", &view);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("add", test_add);
    return qt_run();
}
