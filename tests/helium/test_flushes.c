/* Entries of the set "helium" where its vectors flush subnormals and the scalar FPU has to calculate once more: cases
 * that the tests of tests/kernels have too few of, and what the entries leave in FPSCR.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "harness.h"
#include "ref/storage.h"

enum { IDC = 1 << 7, UFC = 1 << 3, IXC = 1 << 4 };

static uint32_t fpscr(void) {
    uint32_t x;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(x) : : "memory");
    return x;
}

static void raise_flags(uint32_t flags, bool raised) {
    const uint32_t x = raised ? fpscr() | flags : fpscr() & ~flags;
    __asm__ volatile("vmsr fpscr, %0" : : "r"(x) : "memory");
}

/* Some with exponents around the least, others normal. */
static float draw(qt_rng *rng, bool tiny) {
    return qt_draw(rng, tiny && qt_chance(rng, 40) ? QT_SUBNORMAL : QT_NORMAL);
}

/* Products by stored rows, tile by tile, with sums that go on, of all types and heights. */
static void test_stored(const qt_set *set) {
    enum { COLS = 96, LD = 112, ROWS = 4, K = 9 };
    static unsigned char b[K][COLS * 4];
    qt_rng rng;
    for (uint64_t i = 0; i < 120; i++) {
        if (!qt_case(i, &rng))
            continue;
        const int type = (int)(i % 5);
        const size_t rows = 1 + (size_t)(i / 5 % ROWS);
        const size_t cols = type == QKV_Q8_0 ? 64 : 3 + (size_t)qt_range(&rng, 0, 90);
        const bool resume = qt_chance(&rng, 50);
        qt_describe("type=%d rows=%d cols=%d resume=%d", type, (int)rows, (int)cols, resume);
        for (size_t x = 0; x < K; x++) {
            for (size_t j = 0; j < sizeof b[0]; j++)
                b[x][j] = (unsigned char)qt_range(&rng, 0, 63); /* as binary16 and bfloat16: subnormals and others */
            for (size_t j = 0; j < COLS && type == QKV_F32; j++) {
                const float y = draw(&rng, true);
                memcpy(b[x] + 4 * j, &y, sizeof y);
            }
        }
        float *a = qt_floats(ROWS * K, QT_TAIL), *want = qt_tile(ROWS, LD, QT_TAIL), *got = qt_tile(ROWS, LD, QT_TAIL);
        for (size_t x = 0; x < ROWS * K; x++)
            a[x] = draw(&rng, true);
        for (size_t x = 0; x < ROWS * LD; x++)
            want[x] = got[x] = draw(&rng, true);
        qkv_kernels_ref.gemm_stored(want, LD, a, K, b, sizeof b[0], type, rows, cols, K, resume, NULL);
        set->kernels->gemm_stored(got, LD, a, K, b, sizeof b[0], type, rows, cols, K, resume, NULL);
        qt_expect_rows("product", want, LD, got, LD, rows, cols, QT_ANY_ZERO);
    }
}

/* 8.5·2⁻¹⁰⁶ less −1.5·2⁻¹²⁷, which is subnormal, is the float after, and in units of 2⁻¹⁰⁶ it becomes 9: 8 without. */
static void test_means(const qt_set *set) {
    enum { K = 33 };
    const float small = 8.5f * 0x1p-106f, largest = 127 * 0x1p-106f, mean = -0x1.8p-127f;
    static _Alignas(64) float panel[K][QKV_PANEL], words[K * QKV_PANEL];
    float row[K], means[K], scale, scales[QKV_PANEL];
    int8_t bytes[K + 64 + 4];
    for (size_t x = 0; x < K; x++) {
        row[x] = x == 5 ? largest : x % 2 ? small : -small;
        means[x] = x == 5 ? 0 : x % 2 ? mean : -mean;
    }
    for (int keys = 0; keys < 2; keys++) {
        set->kernels->rows_int8(bytes, 0, &scale, row, 0, QKV_F32, 1, K, means, keys);
        QT_EXPECT(scale == 0x1p-106f, "the scale is %g", (double)scale);
        for (size_t x = 0; x < K; x++) {
            const int want = x == 5 ? 127 : x % 2 ? 9 : -9;
            QT_EXPECT(bytes[x] == want, "term %d is %d, not %d", (int)x, bytes[x], want);
        }
    }
    for (size_t x = 0; x < K; x++)
        for (size_t r = 0; r < QKV_PANEL; r++)
            panel[x][r] = row[x];
    set->kernels->panel_int8(words, scales, panel, QKV_F32, K, means);
    for (size_t r = 0; r < QKV_PANEL; r++) {
        QT_EXPECT(scales[r] == 0x1p-106f, "the scale of key %d is %g", (int)r, (double)scales[r]);
        for (size_t x = 0; x < (K + 3) / 4 * 4; x++) {
            const int want = x >= K ? 0 : x == 5 ? 127 : x % 2 ? 9 : -9;
            const int got = ((const int8_t *)(words + x / 4 * QKV_PANEL + r))[x % 4];
            QT_EXPECT(got == want, "term %d of key %d is %d, not %d", (int)x, (int)r, got, want);
        }
    }
}

/* Flags that the caller had stay, and entries look only at their own. */
static void test_flags(const qt_set *set) {
    enum { N = 16 };
    float x[N], y[N], c[N];
    for (size_t i = 0; i < N; i++)
        x[i] = (float)i, y[i] = 1;
    for (int raised = 0; raised < 2; raised++) {
        raise_flags(IDC | UFC, raised);
        const uint32_t before = fpscr();
        set->kernels->add_bias(c, N, x, N, y, 1, N);
        set->kernels->gemm(c, N, x, N, y, N, QKV_PANEL, 1, N, 1, 0, NULL);
        QT_EXPECT((fpscr() & ~(uint32_t)IXC) == (before & ~(uint32_t)IXC), "FPSCR was %x and is %x", (unsigned)before,
                  (unsigned)fpscr());
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("stored", test_stored);
    qt_each_set("means", test_means);
    qt_each_set("flags", test_flags);
    return qt_run();
}
