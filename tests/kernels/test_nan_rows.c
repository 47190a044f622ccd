/* nan_rows: one bit a row, and the padding of a tile is none of its business.  SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

static float draw_number(qt_rng *rng) {
    float x = qt_nasty(rng);
    return isnan(x) ? INFINITY : x;
}

static void test_nan_rows(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 0; rows <= QKV_MAX_ROWS; rows++)
        for (size_t cols = 0; cols <= 140; cols += qt_quick() ? 3 : 1)
            for (int round = 0; round < 3; round++) {
                if (!qt_case(index++, &rng))
                    continue;
                size_t ld = draw_tile_ld(&rng, cols);
                float *o = qt_tile(rows, ld, qt_place(&rng)); /* the padding stays a NaN */
                uint32_t want = 0;
                for (size_t i = 0; i < rows; i++) {
                    for (size_t j = 0; j < cols; j++)
                        o[i * ld + j] = draw_number(&rng);
                    if (cols > 0 && qt_chance(&rng, 30)) {
                        uint32_t bits = 0x7f800001 | (uint32_t)(qt_u64(&rng) & 0x807fffff);
                        o[i * ld + (size_t)qt_range(&rng, 0, (int64_t)cols - 1)] = qt_from_bits(bits);
                        want |= UINT32_C(1) << i;
                    }
                }
                qt_describe("rows=%zu cols=%zu ld=%zu", rows, cols, ld);
                qt_read_only(o);
                uint32_t got = set->kernels->nan_rows(o, (ptrdiff_t)ld, rows, cols);
                QT_EXPECT(got == want, "want %04x, got %04x", want, got);
                qt_count_words(1);
            }
}

/* A NaN is found wherever it stands. */
static void test_every_position(const qt_set *set) {
    enum { ROWS = QKV_MAX_ROWS, COLS = 83, LD = 96 };
    float *o = qt_tile(ROWS, LD, QT_TAIL);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = 0; j < COLS; j++)
            o[i * LD + j] = 1;
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = 0; j < COLS; j++) {
            o[i * LD + j] = NAN;
            uint32_t got = set->kernels->nan_rows(o, LD, ROWS, COLS);
            QT_EXPECT(got == UINT32_C(1) << i, "NaN at [%zu, %zu]: got %04x", i, j, got);
            o[i * LD + j] = 1;
            qt_count_words(1);
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("nan_rows", test_nan_rows);
    qt_each_set("nan_rows_every_position", test_every_position);
    return qt_run();
}
