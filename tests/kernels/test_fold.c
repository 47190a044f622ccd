/* fold: two block states become one, row by row.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

/* The m and ℓ of a row: nothing yet, a sum of at least 1, or a NaN row, of which m is anything. */
static void draw_state(qt_rng *rng, float *m, float *l) {
    int64_t what = qt_range(rng, 0, 11);
    *m = what == 1 ? qt_nasty_finite(rng) : what == 2 ? -FLT_MAX : what == 3 ? FLT_MAX : 60 * qt_normal(rng);
    *l = what == 4 ? qt_uniform(rng, 1, 3e38f) : qt_uniform(rng, 1, 256);
    if (what <= 0) {
        *m = -FLT_MAX;
        *l = 0;
    } else if (what == 11) {
        *m = qt_nasty(rng);
        *l = NAN;
    }
}

typedef struct state {
    float *m, *l, *o;
} state;

static state copy_state(const float *m, const float *l, const float *o, size_t rows, size_t cols, size_t ld,
                        int place) {
    return (state){.m = copy_of(m, rows, place),
                   .l = copy_of(l, rows, place),
                   .o = tile_of(o, (ptrdiff_t)cols, rows, cols, ld, place)};
}

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t cols, int place) {
    size_t ldo = draw_tile_ld(rng, cols), ldob = draw_tile_ld(rng, cols);
    qt_kind kind = (qt_kind)qt_range(rng, 0, QT_NUM_KINDS - 1);
    qt_describe("rows=%zu cols=%zu ldo=%zu ldob=%zu %s place=%d", rows, cols, ldo, ldob, qt_kind_name(kind), place);
    float *m = qt_floats(rows, place), *l = qt_floats(rows, place), *o = qt_floats(rows * cols, place);
    float *mb = qt_floats(rows, place), *lb = qt_floats(rows, place), *ob = qt_tile(rows, ldob, place);
    qt_fill(rng, o, rows * cols, kind);
    for (size_t i = 0; i < rows; i++) {
        draw_state(rng, &m[i], &l[i]);
        draw_state(rng, &mb[i], &lb[i]);
        if (qt_chance(rng, 20))
            mb[i] = m[i];
        qt_fill(rng, ob + i * ldob, cols, kind);
    }
    state want = copy_state(m, l, o, rows, cols, ldo, place), got = copy_state(m, l, o, rows, cols, ldo, place);
    qt_read_only(mb);
    qt_read_only(lb);
    qt_read_only(ob);
    qkv_kernels_ref.fold(want.m, want.l, want.o, (ptrdiff_t)ldo, mb, lb, ob, (ptrdiff_t)ldob, rows, cols);
    set->kernels->fold(got.m, got.l, got.o, (ptrdiff_t)ldo, mb, lb, ob, (ptrdiff_t)ldob, rows, cols);
    qt_expect_words("l", want.l, got.l, rows, 0);
    for (size_t i = 0; i < rows; i++) {
        if (lb[i] == 0) {
            qt_expect_bytes("m of a row without a block", &m[i], &got.m[i], sizeof *m);
            qt_expect_bytes("l of a row without a block", &l[i], &got.l[i], sizeof *l);
            qt_expect_bytes("o of a row without a block", o + i * cols, got.o + i * ldo, cols * sizeof *o);
        } else if (!isnan(got.l[i])) { /* of a NaN row, m is anything, and o follows from it */
            qt_expect_words("m", want.m + i, got.m + i, 1, QT_ANY_ZERO);
            qt_expect_words("o", want.o + i * ldo, got.o + i * ldo, cols, QT_ANY_ZERO);
        }
        if (isnan(l[i]) || isnan(lb[i]))
            QT_EXPECT(isnan(got.l[i]), "l of NaN row %zu: got %a", i, (double)got.l[i]);
    }
    expect_tile_gaps("o", got.o, rows, cols, ldo);
}

static void test_fold(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 0; rows <= QKV_MAX_ROWS; rows++)
        for (size_t cols = 0; cols <= 140; cols += qt_quick() ? 7 : 1)
            for (int head = 0; head < 2; head++)
                if (qt_case(index++, &rng))
                    check(set, &rng, rows, cols, head ? QT_HEAD + (int)qt_range(&rng, 0, 17) : QT_TAIL);
}

/* Folding into nothing gives the block's own words, with m unchanged a factor of exactly 1. */
static void test_first_block(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < 200; i++) {
        if (!qt_case(i, &rng))
            continue;
        size_t cols = 1 + draw_size(&rng, 140), ld = padded(cols);
        float m = -FLT_MAX, l = 0, mb = 100 * qt_normal(&rng), lb = qt_uniform(&rng, 1, 256);
        float *o = qt_tile(1, ld, QT_TAIL), *ob = qt_tile(1, ld, QT_TAIL);
        for (size_t j = 0; j < cols; j++)
            o[j] = 0;
        qt_fill(&rng, ob, cols, QT_NORMAL);
        qt_describe("cols=%zu mb=%a lb=%a", cols, (double)mb, (double)lb);
        set->kernels->fold(&m, &l, o, (ptrdiff_t)ld, &mb, &lb, ob, (ptrdiff_t)ld, 1, cols);
        qt_expect_words("m", &mb, &m, 1, QT_ANY_ZERO);
        qt_expect_words("l", &lb, &l, 1, 0);
        qt_expect_words("o", ob, o, cols, QT_ANY_ZERO);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("fold", test_fold);
    qt_each_set("fold_first_block", test_first_block);
    return qt_run();
}
