/* rotate: both layouts and directions, any positions, and no channel beyond the pairs touched.
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

typedef struct rotate_case {
    size_t rows, pairs, cols, table_rows;
    ptrdiff_t ld, table_ld;
    const float *cos, *sin;
    ptrdiff_t at[40];
    int interleaved, inverse;
} rotate_case;

/* The contract once more, one pair at a time, with products that no compiler can fuse. */
static void turn(const rotate_case *c, float *x) {
    for (size_t i = 0; i < c->rows; i++)
        for (size_t p = 0; p < c->pairs; p++) {
            float *x0 = x + (ptrdiff_t)i * c->ld + (c->interleaved ? 2 * p : p);
            float *x1 = x0 + (c->interleaved ? 1 : c->pairs);
            const float a = *x0, b = *x1, cosine = c->cos[c->at[i] + (ptrdiff_t)p];
            const float sine = c->inverse ? -c->sin[c->at[i] + (ptrdiff_t)p] : c->sin[c->at[i] + (ptrdiff_t)p];
            volatile float down = b * -sine, up = a * sine;
            *x0 = fmaf(a, cosine, down);
            *x1 = fmaf(b, cosine, up);
        }
}

static rotate_case draw(qt_rng *rng, size_t rows, size_t pairs, qt_kind kind) {
    rotate_case c = {.rows = rows, .pairs = pairs, .cols = 2 * pairs + (size_t)qt_range(rng, 0, 20)};
    int place = qt_place(rng);
    c.interleaved = qt_chance(rng, 50);
    c.inverse = qt_chance(rng, 40);
    c.ld = (ptrdiff_t)c.cols + (ptrdiff_t)qt_range(rng, 0, 9);
    c.table_rows = (size_t)qt_range(rng, 1, 12);
    c.table_ld = (ptrdiff_t)pairs + (ptrdiff_t)qt_range(rng, 0, 5);
    c.cos = operand(rng, c.table_rows, pairs, c.table_ld, place, kind);
    c.sin = operand(rng, c.table_rows, pairs, c.table_ld, place, kind);
    for (size_t i = 0; i < rows; i++)
        c.at[i] = (ptrdiff_t)qt_range(rng, 0, (int64_t)c.table_rows - 1) * c.table_ld;
    qt_describe("rows=%zu pairs=%zu ld=%td interleaved=%d inverse=%d %s place=%d", rows, pairs, c.ld, c.interleaved,
                c.inverse, qt_kind_name(kind), place);
    return c;
}

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t pairs) {
    qt_kind kind = (qt_kind)qt_range(rng, 0, QT_NUM_KINDS - 1);
    const rotate_case c = draw(rng, rows, pairs, qt_chance(rng, 50) ? QT_NORMAL : kind);
    const int place = qt_place(rng);
    const size_t n = rows == 0 ? 0 : (rows - 1) * (size_t)c.ld + c.cols;
    float *x = qt_floats(n, place), *want = qt_floats(n, QT_TAIL);
    for (size_t i = 0; i < rows; i++)
        qt_fill(rng, x + (ptrdiff_t)i * c.ld, c.cols, kind);
    if (n > 0)
        memcpy(want, x, n * sizeof *x);
    turn(&c, want);
    float *reference = copy_of(x, n, QT_HEAD);
    set->kernels->rotate(x, c.ld, c.cos, c.sin, c.at, rows, pairs, c.interleaved, c.inverse);
    qt_expect_words("x", want, x, n, 0);
    qkv_kernels_ref.rotate(reference, c.ld, c.cos, c.sin, c.at, rows, pairs, c.interleaved, c.inverse);
    qt_expect_words("x as the reference turns it", reference, x, n, 0);
}

static void test_rotate(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 4 : 20); round++)
        for (size_t pairs = 0; pairs <= 70; pairs++)
            if (qt_case(index++, &rng))
                check(set, &rng, (size_t)round % 4, pairs);
    for (int i = 0; i < 100; i++)
        if (qt_case(index++, &rng)) {
            const size_t rows = (size_t)qt_range(&rng, 1, 40);
            check(set, &rng, rows, draw_size(&rng, 300));
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("rotate", test_rotate);
    return qt_run();
}
