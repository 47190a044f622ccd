/* row_dots: 16 lanes, each an ascending chain, and the tree.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

static float dot(const float *a, const float *b, size_t n) {
    float lane[QKV_LANES] = {0};
    for (size_t j = 0; j < n; j++)
        lane[j % QKV_LANES] = fmaf(a[j], b[j], lane[j % QKV_LANES]);
    for (int half = 8; half > 0; half /= 2)
        for (int x = 0; x < half; x++)
            lane[x] += lane[x + half];
    return lane[0];
}

static void test_row_dots(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 150 : 1000); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 0, 9), n = i < 140 ? i : draw_size(&rng, 300);
        ptrdiff_t lda = draw_ld(&rng, n), ldb = draw_ld(&rng, n);
        int place = qt_place(&rng);
        qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
        qt_describe("rows=%zu n=%zu lda=%td ldb=%td %s place=%d", rows, n, lda, ldb, qt_kind_name(kind), place);
        const float *a = operand(&rng, rows, n, lda, place, kind), *b = operand(&rng, rows, n, ldb, place, kind);
        float *d = qt_floats(rows, place), *want = qt_floats(rows, QT_TAIL);
        for (size_t r = 0; r < rows; r++)
            want[r] = n == 0 ? 0 : dot(a + (ptrdiff_t)r * lda, b + (ptrdiff_t)r * ldb, n);
        set->kernels->row_dots(d, a, lda, b, ldb, rows, n);
        qt_expect_words("d", want, d, rows, 0);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("row_dots", test_row_dots);
    return qt_run();
}
