/* pack: rows into panels, every bit kept, rows that don't exist as zeros.  SPDX-License-Identifier: MIT */
#include "operands.h"

static void check(const qt_set *set, qt_rng *rng, size_t rows, size_t k, int place) {
    ptrdiff_t ld = draw_ld(rng, k);
    qt_describe("rows=%zu k=%zu ld=%td place=%d", rows, k, ld, place);
    const float *src = operand(rng, rows, k, ld, place, QT_NASTY);
    float *panel = qt_tile(k, QKV_PANEL, place);
    set->kernels->pack(panel, src, ld, rows, k);
    for (size_t c = 0; c < k; c++)
        for (size_t r = 0; r < QKV_PANEL; r++) {
            uint32_t want = r < rows ? qt_bits(src[(ptrdiff_t)r * ld + (ptrdiff_t)c]) : 0;
            uint32_t got = qt_bits(panel[c * QKV_PANEL + r]);
            QT_EXPECT(want == got, "panel[%zu][%zu]: want %08x, got %08x", c, r, want, got);
        }
    qt_count_words(k * QKV_PANEL);
}

static void test_pack(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 0; rows <= QKV_PANEL; rows++)
        for (size_t k = 0; k <= 67; k += rows % 5 == 0 || !qt_quick() ? 1 : 11)
            for (int head = 0; head < 2; head++)
                if (qt_case(index++, &rng))
                    check(set, &rng, rows, k, head ? QT_HEAD + (int)qt_range(&rng, 0, 17) : QT_TAIL);
    for (int i = 0; i < (qt_quick() ? 50 : 400); i++)
        if (qt_case(index++, &rng)) {
            size_t rows = (size_t)qt_range(&rng, 0, QKV_PANEL), k = draw_size(&rng, 600);
            check(set, &rng, rows, k, qt_place(&rng));
        }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("pack", test_pack);
    return qt_run();
}
