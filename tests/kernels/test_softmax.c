/* softmax of one key block: equal words with the reference; empty rows and NaN rows are told apart by ℓ alone.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"
#include "scores.h"

enum { CUT = 126 };

/* What ℓ must tell of a row. */
static void expect_class(const float *t, size_t cols, size_t i, float l) {
    bool visible = false, bad = false;
    for (size_t j = 0; j < cols; j++) {
        visible |= !(t[j] == -INFINITY);
        bad |= !(t[j] < INFINITY);
    }
    QT_EXPECT(isnan(l) == bad, "row %zu: l is %a, the row %s a NaN or +inf", i, (double)l, bad ? "has" : "is without");
    QT_EXPECT(bad || (l == 0) == !visible, "row %zu: l is %a, the row is %s", i, (double)l,
              visible ? "not empty" : "empty");
    QT_EXPECT(bad || !visible || l >= 1, "row %zu: l is %a, below 1", i, (double)l);
}

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t cols, int place) {
    size_t ld = draw_tile_ld(rng, cols);
    qt_describe("rows=%zu cols=%zu ld=%zu place=%d", rows, cols, ld, place);
    float *t = qt_floats(rows * cols, place);
    for (size_t i = 0; i < rows; i++)
        draw_scores(rng, t + i * cols, cols, draw_score_kind(rng), CUT);
    float *want = tile_of(t, (ptrdiff_t)cols, rows, cols, ld, place);
    float *got = tile_of(t, (ptrdiff_t)cols, rows, cols, ld, place);
    float *m_want = qt_floats(rows, place), *l_want = qt_floats(rows, place);
    float *m = qt_floats(rows, place), *l = qt_floats(rows, place);
    qkv_kernels_ref.softmax(want, (ptrdiff_t)ld, rows, cols, m_want, l_want);
    set->kernels->softmax(got, (ptrdiff_t)ld, rows, cols, m, l);
    qt_expect_words("l", l_want, l, rows, 0);
    for (size_t i = 0; i < rows; i++) {
        expect_class(t + i * cols, cols, i, l[i]);
        if (isnan(l[i]))
            continue; /* m is anything, and so is p = exp2(t − m) */
        QT_EXPECT(qt_same(m_want[i], m[i], QT_ANY_ZERO), "m[%zu]: want %a, got %a", i, (double)m_want[i], (double)m[i]);
        qt_expect_rows("p", want + i * ld, 0, got + i * ld, 0, 1, cols, 0);
    }
    expect_tile_gaps("t", got, rows, cols, ld);
}

static void test_softmax(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 1 : 6); round++)
        for (size_t rows = 0; rows <= QKV_MAX_ROWS; rows++)
            for (size_t cols = QKV_LANES; cols <= QKV_KEY_BLOCK; cols += QKV_LANES)
                if (qt_case(index++, &rng))
                    check(set, &rng, rows, cols, qt_place(&rng));
}

static void test_order_of_sum(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < 300; i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t cols = QKV_LANES * (size_t)qt_range(&rng, 1, 16);
        float *p = qt_tile(1, cols, QT_TAIL), m, l;
        draw_scores(&rng, p, cols, qt_chance(&rng, 50) ? PLAIN : MASKED, CUT);
        set->kernels->softmax(p, (ptrdiff_t)cols, 1, cols, &m, &l);
        const float sum = sum_of_weights(p, cols);
        QT_EXPECT(qt_same(sum, l, 0), "cols=%zu: the sum of p is %a, l is %a", cols, (double)sum, (double)l);
        qt_count_words(1);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("softmax", test_softmax);
    qt_each_set("softmax_order_of_sum", test_order_of_sum);
    return qt_run();
}
