/* recompute: exp2(min(t − lse, 0)) of every element.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

#include "ref/scalar.h"

static float draw_logit(qt_rng *rng) {
    switch (qt_range(rng, 0, 5)) {
    case 0: return -INFINITY;
    case 1: return qt_nasty(rng);
    case 2: return qt_uniform(rng, -140, -110); /* around the cut */
    default: return 20 * qt_normal(rng);
    }
}

static void test_recompute(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 100 : 600); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 0, QKV_MAX_ROWS), cols = QKV_LANES * (size_t)qt_range(&rng, 0, 17);
        size_t ld = draw_tile_ld(&rng, cols);
        int place = qt_place(&rng);
        qt_describe("rows=%zu cols=%zu ld=%zu place=%d", rows, cols, ld, place);
        float *t = qt_tile(rows, ld, place), *lse = qt_floats(rows, place);
        for (size_t r = 0; r < rows; r++) {
            lse[r] = qt_chance(&rng, 10) ? INFINITY : qt_chance(&rng, 10) ? NAN : 10 * qt_normal(&rng);
            for (size_t j = 0; j < cols; j++)
                t[r * ld + j] = draw_logit(&rng);
        }
        float *want = tile_of(t, (ptrdiff_t)ld, rows, cols, ld, place);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < cols; j++) {
                float *x = &want[r * ld + j];
                *x = *x - lse[r] > 0 ? 1 : qkv_exp2(*x - lse[r]);
                QT_EXPECT(!(*x < 0) && !(*x > 1), "the expectation %a is no probability", (double)*x);
            }
        qt_read_only(lse);
        set->kernels->recompute(t, (ptrdiff_t)ld, rows, cols, lse);
        qt_expect_rows("p", want, (ptrdiff_t)ld, t, (ptrdiff_t)ld, rows, cols, 0);
        expect_tile_gaps("p", t, rows, cols, ld);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("recompute", test_recompute);
    return qt_run();
}
