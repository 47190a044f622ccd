/* score_grad: p·fma(dp, scale, −delta), with and without the softcap's derivative.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

static void test_score_grad(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 100 : 800); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 0, QKV_MAX_ROWS), cols = QKV_LANES * (size_t)qt_range(&rng, 0, 17);
        size_t ld = draw_tile_ld(&rng, cols);
        int place = qt_place(&rng);
        bool cap = qt_chance(&rng, 50);
        qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
        float scale = qt_chance(&rng, 30) ? 1 : qt_draw(&rng, kind);
        qt_describe("rows=%zu cols=%zu ld=%zu scale=%a cap=%d %s place=%d", rows, cols, ld, (double)scale, cap,
                    qt_kind_name(kind), place);
        const float *d = operand(&rng, rows, cols, (ptrdiff_t)ld, place, kind);
        const float *p0 = operand(&rng, rows, cols, (ptrdiff_t)ld, place, kind);
        const float *u0 = operand(&rng, rows, cols, (ptrdiff_t)ld, place, QT_NORMAL);
        const float *delta = vector(&rng, rows, place, kind);
        float *got = tile_of(d, (ptrdiff_t)ld, rows, cols, ld, place);
        float *want = tile_of(d, (ptrdiff_t)ld, rows, cols, ld, place);
        float *p = tile_of(p0, (ptrdiff_t)ld, rows, cols, ld, place);
        float *u = tile_of(u0, (ptrdiff_t)ld, rows, cols, ld, place);
        qt_read_only(p);
        qt_read_only(u);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < cols; j++) {
                float x = p[r * ld + j] * fmaf(d[r * ld + j], scale, -delta[r]);
                want[r * ld + j] = cap ? x * fmaf(-u[r * ld + j], u[r * ld + j], 1) : x;
            }
        set->kernels->score_grad(got, p, (ptrdiff_t)ld, rows, cols, delta, scale, cap ? u : NULL);
        qt_expect_rows("ds", want, (ptrdiff_t)ld, got, (ptrdiff_t)ld, rows, cols, QT_ANY_ZERO);
        expect_tile_gaps("ds", got, rows, cols, ld);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("score_grad", test_score_grad);
    return qt_run();
}
