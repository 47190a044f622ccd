/* gemm_t: equal words with the reference over all tile edges, the chain by libm's fma, and gemm of the transpose.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

typedef struct shape {
    size_t rows, cols, k;
    int accumulate;
} shape;

static void check(const qt_set *set, qt_rng *rng, const shape *s, int place, qt_kind kind) {
    ptrdiff_t lda = draw_ld(rng, s->rows), ldb = draw_ld(rng, s->cols);
    size_t ldc = draw_tile_ld(rng, s->cols);
    qt_describe("rows=%zu cols=%zu k=%zu lda=%td ldb=%td ldc=%zu accumulate=%d %s place=%d", s->rows, s->cols, s->k,
                lda, ldb, ldc, s->accumulate, qt_kind_name(kind), place);
    const float *a = operand(rng, s->k, s->rows, lda, place, kind);
    const float *b = operand(rng, s->k, s->cols, ldb, place, kind);
    const float *old = operand(rng, s->rows, s->cols, (ptrdiff_t)s->cols, place, kind);
    size_t present = s->accumulate ? s->cols : 0; /* without accumulate, C is not read: all poison */
    float *want = tile_of(old, (ptrdiff_t)s->cols, s->rows, present, ldc, place);
    float *got = tile_of(old, (ptrdiff_t)s->cols, s->rows, present, ldc, place);
    qkv_kernels_ref.gemm_t(want, (ptrdiff_t)ldc, a, lda, b, ldb, s->rows, s->cols, s->k, s->accumulate);
    set->kernels->gemm_t(got, (ptrdiff_t)ldc, a, lda, b, ldb, s->rows, s->cols, s->k, s->accumulate);
    qt_expect_rows("c", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, s->rows, s->cols, QT_ANY_ZERO);
    expect_tile_gaps("c", got, s->rows, s->cols, ldc);
}

static void test_edges(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 0; rows <= 16; rows++)
        for (size_t cols = 0; cols <= 130; cols += qt_quick() && cols > 34 && cols % 16 > 1 ? 5 : 1)
            if (qt_case(index++, &rng)) {
                shape s = {rows, cols, (size_t)qt_range(&rng, 0, 9), (int)qt_range(&rng, 0, 1)};
                int place = qt_place(&rng);
                check(set, &rng, &s, place, qt_chance(&rng, 70) ? QT_NORMAL : QT_SPRINKLED);
            }
}

static void test_random(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 100 : 800); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = draw_size(&rng, 200), cols = draw_size(&rng, 200), k = draw_size(&rng, 130);
        shape s = {rows, cols, k, (int)qt_range(&rng, 0, 1)};
        qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
        check(set, &rng, &s, qt_place(&rng), kind);
    }
}

/* The chain itself, by libm's fma: ascending, from +0, one add to what was there. And gemm of a transposed copy. */
static void test_chain(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 30 : 200); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 1, 13), cols = 1 + draw_size(&rng, 80), k = draw_size(&rng, 128);
        size_t ldc = draw_tile_ld(&rng, cols);
        int accumulate = (int)qt_range(&rng, 0, 1);
        qt_kind kind = qt_chance(&rng, 50) ? QT_NORMAL : QT_WIDE;
        qt_describe("rows=%zu cols=%zu k=%zu accumulate=%d %s", rows, cols, k, accumulate, qt_kind_name(kind));
        const float *a = operand(&rng, k, rows, (ptrdiff_t)rows, QT_TAIL, kind);
        const float *b = operand(&rng, k, cols, (ptrdiff_t)cols, QT_TAIL, kind);
        const float *old = operand(&rng, rows, cols, (ptrdiff_t)cols, QT_TAIL, kind);
        float *c = tile_of(old, (ptrdiff_t)cols, rows, cols, ldc, QT_TAIL);
        float *same = tile_of(c, (ptrdiff_t)ldc, rows, cols, ldc, QT_TAIL);
        float *transposed = qt_floats(rows * k, QT_TAIL);
        for (size_t y = 0; y < rows; y++)
            for (size_t z = 0; z < k; z++)
                transposed[y * k + z] = a[z * rows + y];
        set->kernels->gemm_t(c, (ptrdiff_t)ldc, a, (ptrdiff_t)rows, b, (ptrdiff_t)cols, rows, cols, k, accumulate);
        set->kernels->gemm(same, (ptrdiff_t)ldc, transposed, (ptrdiff_t)k, b, (ptrdiff_t)cols, QKV_PANEL, rows, cols, k,
                           accumulate, NULL);
        qt_expect_rows("gemm of the transpose", same, (ptrdiff_t)ldc, c, (ptrdiff_t)ldc, rows, cols, QT_ANY_ZERO);
        for (size_t y = 0; y < rows; y++)
            for (size_t x = 0; x < cols; x++) {
                float sum = 0;
                for (size_t z = 0; z < k; z++)
                    sum = fmaf(a[z * rows + y], b[z * cols + x], sum);
                float want = accumulate ? old[y * cols + x] + sum : sum;
                QT_EXPECT(qt_same(want, c[y * ldc + x], QT_ANY_ZERO), "c at [%zu, %zu]: want %a, got %a", y, x,
                          (double)want, (double)c[y * ldc + x]);
            }
        qt_count_words(rows * cols);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("gemm_t_edges", test_edges);
    qt_each_set("gemm_t_random", test_random);
    qt_each_set("gemm_t_chain", test_chain);
    return qt_run();
}
