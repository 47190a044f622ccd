/* gemm_nt: equal words with the reference, and with gemm of the transpose.  SPDX-License-Identifier: MIT */
#include "operands.h"

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t cols, size_t k, int place, qt_kind kind) {
    int accumulate = (int)qt_range(rng, 0, 1);
    ptrdiff_t lda = draw_ld(rng, k), ldb = draw_ld(rng, k);
    size_t ldc = draw_tile_ld(rng, cols);
    qt_describe("rows=%zu cols=%zu k=%zu lda=%td ldb=%td ldc=%zu accumulate=%d %s place=%d", rows, cols, k, lda, ldb,
                ldc, accumulate, qt_kind_name(kind), place);
    const float *a = operand(rng, rows, k, lda, place, kind);
    const float *b = operand(rng, cols, k, ldb, place, kind);
    const float *old = operand(rng, rows, cols, (ptrdiff_t)cols, place, kind);
    size_t present = accumulate ? cols : 0; /* without accumulate, C is not read: all poison */
    float *want = tile_of(old, (ptrdiff_t)cols, rows, present, ldc, place);
    float *same = tile_of(old, (ptrdiff_t)cols, rows, present, ldc, place);
    float *got = tile_of(old, (ptrdiff_t)cols, rows, present, ldc, place);
    const qkv_soon soon = {b, ldb * 4, cols, k * 4}; /* a hint changes nothing */
    qkv_kernels_ref.gemm_nt(want, (ptrdiff_t)ldc, a, lda, b, ldb, rows, cols, k, accumulate, NULL);
    set->kernels->gemm_nt(got, (ptrdiff_t)ldc, a, lda, b, ldb, rows, cols, k, accumulate, k % 2 ? &soon : NULL);
    qt_expect_rows("c", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, cols, QT_ANY_ZERO);
    expect_tile_gaps("c", got, rows, cols, ldc);

    float *turned = qt_floats(k * cols, QT_TAIL);
    for (size_t x = 0; x < k; x++)
        for (size_t j = 0; j < cols; j++)
            turned[x * cols + j] = b[(ptrdiff_t)j * ldb + (ptrdiff_t)x];
    set->kernels->gemm(same, (ptrdiff_t)ldc, a, lda, turned, (ptrdiff_t)cols, QKV_PANEL, rows, cols, k, accumulate,
                       NULL);
    qt_expect_rows("gemm", same, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, cols, QT_ANY_ZERO);
}

/* Every number of rows with every number of columns up to some squares of 16, at depths around a square. */
static void test_edges(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 1; rows <= (size_t)set->kernels->few_rows; rows++)
        for (size_t cols = 1; cols <= 70; cols += qt_quick() && cols > 34 && cols % 16 > 1 ? 5 : 1)
            if (qt_case(index++, &rng))
                check(set, &rng, rows, cols, (size_t)qt_range(&rng, 0, 18), qt_place(&rng),
                      qt_chance(&rng, 70) ? QT_NORMAL : QT_SPRINKLED);
}

static void test_gemm_nt(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 300 : 3000); i++)
        if (qt_case(i, &rng)) {
            size_t rows = (size_t)qt_range(&rng, 0, set->kernels->few_rows);
            size_t cols = draw_size(&rng, 100), k = draw_size(&rng, 150);
            check(set, &rng, rows, cols, k, qt_place(&rng), (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1));
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("gemm_nt_edges", test_edges);
    qt_each_set("gemm_nt", test_gemm_nt);
    return qt_run();
}
