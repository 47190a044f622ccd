/* sum_visible: what gemm does, without the keys that are not visible.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

/* Raw logits: a share of them hidden, in runs too; a NaN or +inf is visible. */
static const float *draw_logits(qt_rng *rng, size_t k, int place) {
    float *t = qt_floats(k, place);
    int percent = (int)qt_range(rng, 0, 4) * 25;
    for (size_t x = 0; x < k; x++) {
        t[x] = qt_draw(rng, QT_SPRINKLED);
        if (qt_chance(rng, percent))
            t[x] = -INFINITY;
    }
    qt_read_only(t);
    return t;
}

static void test_sum_visible(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 2 : 12); round++)
        for (size_t cols = 0; cols <= 130; cols++) {
            if (!qt_case(index++, &rng))
                continue;
            size_t k = draw_size(&rng, 300);
            ptrdiff_t ldv = draw_ld(&rng, cols);
            int place = qt_place(&rng);
            qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
            qt_describe("k=%zu cols=%zu ldv=%td %s place=%d", k, cols, ldv, qt_kind_name(kind), place);
            const float *p = vector(&rng, k, place, kind);
            const float *t = draw_logits(&rng, k, place);
            const float *v = operand(&rng, k, cols, ldv, place, kind);
            float *want = qt_tile(1, padded(cols), place), *got = qt_tile(1, padded(cols), place);
            qkv_kernels_ref.sum_visible(want, p, t, v, ldv, k, cols);
            set->kernels->sum_visible(got, p, t, v, ldv, k, cols);
            qt_expect_words("o", want, got, cols, QT_ANY_ZERO);
            for (size_t j = 0; j < cols; j++) {
                float sum = 0;
                for (size_t x = 0; x < k; x++)
                    if (!(t[x] == -INFINITY))
                        sum = fmaf(p[x], v[(ptrdiff_t)x * ldv + (ptrdiff_t)j], sum);
                QT_EXPECT(qt_same(sum, got[j], QT_ANY_ZERO), "o[%zu]: want %a, got %a", j, (double)sum, (double)got[j]);
            }
        }
}

/* A hidden key is not touched by arithmetic, whatever its p and v are. */
static void test_poisoned_keys(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < 200; i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t k = draw_size(&rng, 260), cols = 1 + draw_size(&rng, 100);
        qt_describe("k=%zu cols=%zu", k, cols);
        float *p = qt_floats(k, QT_TAIL), *t = qt_floats(k, QT_TAIL), *v = qt_floats(k * cols, QT_TAIL);
        for (size_t x = 0; x < k; x++) {
            bool visible = qt_chance(&rng, 60);
            t[x] = visible ? qt_normal(&rng) : -INFINITY;
            p[x] = visible ? 1.0f : qt_chance(&rng, 50) ? 0.0f : NAN;
            for (size_t j = 0; j < cols; j++)
                v[x * cols + j] = visible ? 1.0f : qt_nasty(&rng);
        }
        size_t num_visible = 0;
        for (size_t x = 0; x < k; x++)
            num_visible += t[x] > -INFINITY;
        float *o = qt_tile(1, padded(cols), QT_TAIL);
        set->kernels->sum_visible(o, p, t, v, (ptrdiff_t)cols, k, cols);
        for (size_t j = 0; j < cols; j++)
            QT_EXPECT(o[j] == (float)num_visible, "o[%zu]: want %zu, got %a", j, num_visible, (double)o[j]);
        qt_count_words(cols);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("sum_visible", test_sum_visible);
    qt_each_set("sum_visible_poisoned_keys", test_poisoned_keys);
    return qt_run();
}
