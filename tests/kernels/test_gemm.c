/* gemm: equal words with the reference over all tile edges, and exact products of integers.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

typedef struct shape {
    size_t rows, cols, k;
    int accumulate;
} shape;

static void check(const qt_set *set, qt_rng *rng, const shape *s, int place, qt_kind kind) {
    bool panels = qt_chance(rng, 40);
    ptrdiff_t lda = draw_ld(rng, s->k), ldb = panels ? QKV_PANEL : draw_ld(rng, s->cols);
    ptrdiff_t panel = panels ? (ptrdiff_t)(QKV_PANEL * (s->k + (size_t)qt_range(rng, 0, 2))) : QKV_PANEL;
    size_t ldc = draw_tile_ld(rng, s->cols);
    qt_describe("rows=%zu cols=%zu k=%zu lda=%td ldb=%td panel=%td ldc=%zu accumulate=%d %s place=%d", s->rows, s->cols,
                s->k, lda, ldb, panel, ldc, s->accumulate, qt_kind_name(kind), place);
    const float *a = operand(rng, s->rows, s->k, lda, place, kind);
    size_t num_panels = (s->cols + QKV_PANEL - 1) / QKV_PANEL;
    const float *b = panels ? operand(rng, num_panels, (size_t)panel, panel, place, kind)
                            : operand(rng, s->k, s->cols, ldb, place, kind);
    const float *old = operand(rng, s->rows, s->cols, (ptrdiff_t)s->cols, place, kind);
    size_t present = s->accumulate ? s->cols : 0; /* without accumulate, C is not read: all poison */
    float *want = tile_of(old, (ptrdiff_t)s->cols, s->rows, present, ldc, place);
    float *got = tile_of(old, (ptrdiff_t)s->cols, s->rows, present, ldc, place);
    qkv_kernels_ref.gemm(want, (ptrdiff_t)ldc, a, lda, b, ldb, panel, s->rows, s->cols, s->k, s->accumulate, NULL);
    qkv_soon soon = {b, draw_ld(rng, s->cols), draw_size(rng, 100), draw_size(rng, 100)}; /* a hint changes nothing */
    set->kernels->gemm(got, (ptrdiff_t)ldc, a, lda, b, ldb, panel, s->rows, s->cols, s->k, s->accumulate,
                       s->k % 2 ? &soon : NULL);
    qt_expect_rows("c", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, s->rows, s->cols, QT_ANY_ZERO);
    expect_tile_gaps("c", got, s->rows, s->cols, ldc);
}

/* Every width up to two panels with every height up to two tiles and more, at depths that stay cheap. */
static void test_edges(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 0; rows <= 16; rows++)
        for (size_t cols = 0; cols <= 130; cols += qt_quick() && cols > 34 && cols % 16 > 1 ? 5 : 1)
            for (int head = 0; head < 2; head++)
                if (qt_case(index++, &rng)) {
                    size_t k = (size_t)qt_range(&rng, 0, 9);
                    shape s = {rows, cols, k, (int)qt_range(&rng, 0, 1)};
                    int place = head ? QT_HEAD + (int)qt_range(&rng, 0, 17) : QT_TAIL;
                    check(set, &rng, &s, place, qt_chance(&rng, 70) ? QT_NORMAL : QT_SPRINKLED);
                }
}

static void test_random(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 150 : 1500); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 0, i % 5 == 0 ? 40 : 14);
        size_t cols = draw_size(&rng, 200), k = draw_size(&rng, 400);
        shape s = {rows, cols, k, (int)qt_range(&rng, 0, 1)};
        qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
        check(set, &rng, &s, qt_place(&rng), kind);
    }
}

/* Integers so small that no order of sums rounds: the words are those of an int64 product. */
static void test_integers(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 60 : 600); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 1, 14), cols = 1 + draw_size(&rng, 140), k = draw_size(&rng, 300);
        ptrdiff_t lda = draw_ld(&rng, k), ldb = draw_ld(&rng, cols);
        size_t ldc = draw_tile_ld(&rng, cols);
        int place = qt_place(&rng), accumulate = (int)qt_range(&rng, 0, 1);
        qt_describe("rows=%zu cols=%zu k=%zu lda=%td ldb=%td accumulate=%d place=%d", rows, cols, k, lda, ldb,
                    accumulate, place);
        const float *a = operand(&rng, rows, k, lda, place, QT_INTEGER);
        const float *b = operand(&rng, k, cols, ldb, place, QT_INTEGER);
        const float *old = operand(&rng, rows, cols, (ptrdiff_t)cols, place, QT_INTEGER);
        float *c = tile_of(old, (ptrdiff_t)cols, rows, cols, ldc, place);
        set->kernels->gemm(c, (ptrdiff_t)ldc, a, lda, b, ldb, QKV_PANEL, rows, cols, k, accumulate, NULL);
        for (size_t y = 0; y < rows; y++)
            for (size_t x = 0; x < cols; x++) {
                const float *row = a + (ptrdiff_t)y * lda, *col = b + x;
                int64_t want = accumulate ? (int64_t)old[y * cols + x] : 0;
                for (size_t z = 0; z < k; z++)
                    want += (int64_t)row[z] * (int64_t)col[(ptrdiff_t)z * ldb];
                float got = c[y * ldc + x];
                QT_EXPECT((float)want == got, "c at [%zu, %zu]: want %lld, got %a", y, x, (long long)want, (double)got);
            }
        qt_count_words(rows * cols);
    }
}

/* The chain itself, by libm's fma: ascending, from +0, never cut, one add to what was there. */
static void test_chain(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 30 : 200); i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t rows = (size_t)qt_range(&rng, 1, 13), cols = 1 + draw_size(&rng, 80), k = draw_size(&rng, 300);
        size_t ldc = draw_tile_ld(&rng, cols);
        int accumulate = (int)qt_range(&rng, 0, 1);
        qt_kind kind = qt_chance(&rng, 50) ? QT_NORMAL : QT_WIDE;
        qt_describe("rows=%zu cols=%zu k=%zu accumulate=%d %s", rows, cols, k, accumulate, qt_kind_name(kind));
        const float *a = operand(&rng, rows, k, (ptrdiff_t)k, QT_TAIL, kind);
        const float *b = operand(&rng, k, cols, (ptrdiff_t)cols, QT_TAIL, kind);
        const float *old = operand(&rng, rows, cols, (ptrdiff_t)cols, QT_TAIL, kind);
        float *c = tile_of(old, (ptrdiff_t)cols, rows, cols, ldc, QT_TAIL);
        set->kernels->gemm(c, (ptrdiff_t)ldc, a, (ptrdiff_t)k, b, (ptrdiff_t)cols, QKV_PANEL, rows, cols, k, accumulate,
                           NULL);
        for (size_t y = 0; y < rows; y++)
            for (size_t x = 0; x < cols; x++) {
                float sum = 0;
                for (size_t z = 0; z < k; z++)
                    sum = fmaf(a[y * k + z], b[z * cols + x], sum);
                float want = accumulate ? old[y * cols + x] + sum : sum;
                QT_EXPECT(qt_same(want, c[y * ldc + x], QT_ANY_ZERO), "c at [%zu, %zu]: want %a, got %a", y, x,
                          (double)want, (double)c[y * ldc + x]);
            }
        qt_count_words(rows * cols);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("gemm_edges", test_edges);
    qt_each_set("gemm_random", test_random);
    qt_each_set("gemm_integers", test_integers);
    qt_each_set("gemm_chain", test_chain);
    return qt_run();
}
