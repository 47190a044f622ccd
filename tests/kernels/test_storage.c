/* widen and narrow: every 16-bit value both ways, blocks of Q8_0, rows of any length and stride.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include <math.h>

#include "ref/storage.h"

static float meaning(int type, const unsigned char *row, size_t j) {
    uint16_t half;
    if (type == QKV_Q8_0) {
        const unsigned char *block = row + j / 32 * 34;
        memcpy(&half, block, sizeof half);
        return qkv_from_f16(half) * (float)(int8_t)block[2 + j % 32];
    }
    if (type == QKV_INT8)
        return (float)(int8_t)row[j];
    memcpy(&half, row + 2 * j, sizeof half);
    return type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
}

/* By the definition of binary16, in double. */
static double value_of_f16(unsigned x) {
    const int exponent = (int)(x >> 10 & 31);
    const double fraction = x & 0x3ff,
                 magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(fraction + 1024, exponent - 25);
    return x & 0x8000 ? -magnitude : magnitude;
}

static void test_every_half_and_back(const qt_set *set) {
    const int types[] = {QKV_F16, QKV_BF16};
    for (int n = 0; n < 2; n++) {
        const int type = types[n];
        if (!qt_case((uint64_t)n, NULL))
            continue;
        uint16_t *from = qt_alloc(65536 * 2, 2, QT_TAIL), *back = qt_alloc(65536 * 2, 2, QT_TAIL);
        float *to = qt_floats(65536, QT_TAIL);
        for (unsigned x = 0; x < 65536; x++)
            from[x] = (uint16_t)x;
        set->kernels->widen(to, 0, from, 0, type, 1, 65536);
        set->kernels->narrow(back, 0, to, 0, type, 1, 65536);
        for (unsigned x = 0; x < 65536; x++) {
            const bool nan = to[x] != to[x];
            float exact = type == QKV_F16 ? (float)value_of_f16(x) : qt_from_bits((uint32_t)x << 16);
            if (type == QKV_F16 && (x >> 10 & 31) == 31)
                exact = x & 0x3ff ? NAN : x & 0x8000 ? -INFINITY : INFINITY;
            QT_EXPECT(qt_same(exact, to[x], 0), "type %d, %04x: want %a, got %a", type, x, (double)exact,
                      (double)to[x]);
            const unsigned infinity = type == QKV_F16 ? 0x7c00 : 0x7f80;
            QT_EXPECT(nan ? (back[x] & 0x7fffu) > infinity : back[x] == x, "type %d: %04x came back as %04x", type, x,
                      back[x]);
        }
        qt_count_words(2 * 65536);
    }
}

/* Rounding: values between neighbours, halfway ones and those next to it. */
static void test_rounds_to_nearest_even(const qt_set *set) {
    enum { N = 65536 };
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 8 : 64); i++) {
        if (!qt_case(i, &rng))
            continue;
        const int type = i % 2 ? QKV_F16 : QKV_BF16;
        float *from = qt_floats(N, QT_TAIL);
        uint16_t *to = qt_alloc(N * 2, 2, QT_TAIL);
        for (int x = 0; x < N; x++) {
            const uint32_t near = (uint32_t)(qt_u64(&rng) % 3) - 1, half = type == QKV_BF16 ? 0x8000 : 0x1000;
            uint32_t bits = (uint32_t)qt_u64(&rng);
            if (x % 4 != 0)
                bits = (bits & ~(2 * half - 1)) | (half + near);
            if (x % 8 == 1) /* where binary16 has subnormals, and ends */
                bits = (bits & 0x807fffff) | (uint32_t)(qt_range(&rng, 100, 145) << 23);
            from[x] = qt_from_bits(bits);
        }
        set->kernels->narrow(to, 0, from, 0, type, 1, N);
        for (int x = 0; x < N; x++) {
            const uint16_t want = type == QKV_F16 ? qkv_to_f16(from[x]) : qkv_to_bf16(from[x]);
            const bool nan = from[x] != from[x] && (to[x] & 0x7fffu) > (type == QKV_F16 ? 0x7c00u : 0x7f80u);
            QT_EXPECT(nan || want == to[x], "type %d, %a: want %04x, got %04x", type, (double)from[x], want, to[x]);
            if (type == QKV_F16 && from[x] == from[x] && (want & 0x7fff) < 0x7c00) {
                const double error = fabs(value_of_f16(want) - (double)from[x]);
                const double others = fmin(fabs(value_of_f16((want + 1u) & 0xffff) - (double)from[x]),
                                           fabs(value_of_f16((want - 1u) & 0xffff) - (double)from[x]));
                QT_EXPECT((want & 0x7fff) == 0 || (want & 0x7fff) == 0x7bff ||
                              (want & 1 ? error < others : error <= others),
                          "%a became %04x", (double)from[x], want);
            }
        }
        qt_count_words(N);
    }
}

static void check_rows(const qt_set *set, qt_rng *rng, int type, size_t rows, size_t n, int place) {
    const size_t size = type == QKV_Q8_0 ? n / 32 * 34 : type == QKV_INT8 ? n : 2 * n;
    const int64_t gap = 2 * qt_range(rng, 0, 9), stride = (int64_t)size + gap;
    const ptrdiff_t ld = (ptrdiff_t)(n + (size_t)qt_range(rng, 0, 9));
    qt_describe("type=%d rows=%zu n=%zu stride=%lld place=%d", type, rows, n, (long long)stride, place);
    const size_t bytes = rows > 0 ? (rows - 1) * (size_t)stride + size : 0;
    unsigned char *from = qt_alloc(bytes, 2, place == QT_TAIL ? place : QT_HEAD);
    for (size_t x = 0; x < bytes; x++)
        from[x] = (unsigned char)qt_u64(rng);
    qt_read_only(from);
    const size_t floats = rows > 0 ? (rows - 1) * (size_t)ld + n : 0;
    float *to = qt_floats(floats, place);
    set->kernels->widen(to, ld, from, stride, type, rows, n);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            const float want = meaning(type, from + i * (size_t)stride, j), got = to[(ptrdiff_t)i * ld + (ptrdiff_t)j];
            QT_EXPECT(qt_same(want, got, 0), "[%zu][%zu]: want %a, got %a", i, j, (double)want, (double)got);
        }
    const qt_view view = qt_view_rows(to, rows, n, ld);
    qt_expect_gaps("widen", &view);
    qt_count_words(rows * n);
    if (type == QKV_Q8_0 || type == QKV_INT8)
        return;
    unsigned char *back = qt_alloc(bytes, 2, place == QT_TAIL ? place : QT_HEAD);
    set->kernels->narrow(back, stride, to, ld, type, rows, n);
    const qt_view written = {back, 2, 2, {(int64_t)rows, (int64_t)n}, {stride / 2, 1}};
    qt_expect_gaps("narrow", &written);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            const float want = meaning(type, from + i * (size_t)stride, j);
            const float got = meaning(type, back + i * (size_t)stride, j);
            QT_EXPECT(qt_same(want, got, 0), "back [%zu][%zu]: want %a, got %a", i, j, (double)want, (double)got);
        }
}

static void test_rows(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F16; type <= QKV_INT8; type++)
        for (size_t n = 0; n <= 70; n++)
            for (int i = 0; i < (qt_quick() ? 2 : 6); i++)
                if (qt_case(index++, &rng))
                    check_rows(set, &rng, type, (size_t)qt_range(&rng, 0, 5), type == QKV_Q8_0 ? n / 8 * 32 : n,
                               i % 2 ? QT_TAIL : qt_place(&rng));
}

static size_t row_bytes(int type, size_t n) {
    return type == QKV_Q8_0 ? n / 32 * 34 : type == QKV_F32 ? 4 * n : type == QKV_INT8 ? n : 2 * n;
}

/* Rows of random stored elements, finite ones, between guard pages. */
static unsigned char *stored_rows(qt_rng *rng, int type, size_t rows, size_t n, int64_t stride, int place) {
    const size_t bytes = rows > 0 ? (rows - 1) * (size_t)stride + row_bytes(type, n) : 0;
    unsigned char *x = qt_alloc(bytes, 4, place == QT_TAIL ? place : QT_HEAD);
    for (size_t i = 0; i < rows; i++) {
        unsigned char *row = x + i * (size_t)stride;
        for (size_t j = 0; j < row_bytes(type, n); j++)
            row[j] = (unsigned char)qt_u64(rng);
        for (size_t j = 0; j < n && type != QKV_INT8; j += type == QKV_Q8_0 ? 32 : 1) {
            const float value = qt_normal(rng);
            const uint16_t half = type == QKV_BF16 ? qkv_to_bf16(value) : qkv_to_f16(value);
            if (type == QKV_F32)
                memcpy(row + 4 * j, &value, 4);
            else
                memcpy(row + (type == QKV_Q8_0 ? j / 32 * 34 : 2 * j), &half, 2);
        }
    }
    qt_read_only(x);
    return x;
}

static void check_pack(const qt_set *set, qt_rng *rng, int type, size_t rows, size_t k, ptrdiff_t ld, int place) {
    const int64_t stride = (int64_t)row_bytes(type, k) + 4 * qt_range(rng, 0, 5);
    qt_describe("pack_stored type=%d rows=%zu k=%zu ld=%td place=%d", type, rows, k, ld, place);
    const unsigned char *src = stored_rows(rng, type, rows, k, stride, place);
    float *got = qt_tile(k, (size_t)ld, place), *want = qt_tile(k, (size_t)ld, place);
    set->kernels->pack_stored(got, ld, src, rows > 1 ? stride : INT64_MAX, type, rows, k);
    qkv_kernels_ref.pack_stored(want, ld, src, stride, type, rows, k);
    for (size_t c = 0; c < k; c++)
        for (size_t r = 0; r < (size_t)ld; r++) {
            const float x = r >= rows ? 0.0f : type == QKV_F32 ? 0 : meaning(type, src + r * (size_t)stride, c);
            QT_EXPECT(type == QKV_F32 || qt_same(x, want[c * (size_t)ld + r], 0), "the reference at [%zu][%zu]", c, r);
        }
    qt_expect_words("panel", want, got, k * (size_t)ld, 0);
}

static void check_product(const qt_set *set, qt_rng *rng, int type, size_t rows, size_t cols, size_t k, int place) {
    const int64_t stride = (int64_t)row_bytes(type, cols) + 4 * qt_range(rng, 0, 5);
    const ptrdiff_t lda = (ptrdiff_t)k + qt_range(rng, 0, 9), ldc = (ptrdiff_t)(cols + 15) / 16 * 16;
    const int resume = qt_chance(rng, 50);
    qt_describe("gemm_stored type=%d rows=%zu cols=%zu k=%zu resume=%d place=%d", type, rows, cols, k, resume, place);
    const unsigned char *b = stored_rows(rng, type, k, cols, stride, place);
    const float *a = operand(rng, rows, k, lda, place, QT_NORMAL);
    float *got = qt_tile(rows, (size_t)ldc, place), *want = qt_tile(rows, (size_t)ldc, place);
    for (size_t i = 0; i < rows * (size_t)ldc; i++)
        want[i] = got[i] = qt_normal(rng);
    const qkv_soon soon = {b, stride, k, row_bytes(type, cols)}; /* a hint changes nothing */
    set->kernels->gemm_stored(got, ldc, a, lda, b, k > 1 ? stride : INT64_MIN, type, rows, cols, k, resume,
                              k % 2 ? &soon : NULL);
    qkv_kernels_ref.gemm_stored(want, ldc, a, lda, b, stride, type, rows, cols, k, resume, NULL);
    qt_expect_rows("product", want, ldc, got, ldc, rows, cols, QT_ANY_ZERO);
}

static void test_pack_stored(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= QKV_INT8; type++)
        for (size_t rows = 0; rows <= 64; rows += rows < 18 ? 1 : 7)
            for (int i = 0; i < (qt_quick() ? 2 : 8); i++)
                if (qt_case(index++, &rng)) {
                    const size_t k = type == QKV_Q8_0 ? 32 * (size_t)qt_range(&rng, 0, 4) : draw_size(&rng, 140);
                    const ptrdiff_t ld = rows > 32 || i % 2 ? 64 : rows > 16 ? 32 : 16;
                    check_pack(set, &rng, type, rows, k, ld, qt_place(&rng));
                }
}

static void test_gemm_stored(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= QKV_INT8; type++)
        for (size_t rows = 1; rows <= (size_t)set->kernels->few_rows; rows++)
            for (int i = 0; i < (qt_quick() ? 12 : 60); i++)
                if (qt_case(index++, &rng)) {
                    const size_t cols = type == QKV_Q8_0 ? 32 * (size_t)qt_range(&rng, 1, 5) : draw_size(&rng, 140);
                    check_product(set, &rng, type, rows, cols, draw_size(&rng, 70), i % 2 ? QT_TAIL : qt_place(&rng));
                }
}

static void test_scale_columns(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < 200; i++) {
        if (!qt_case(i, &rng))
            continue;
        const size_t rows = (size_t)qt_range(&rng, 0, 12), cols = draw_size(&rng, 256);
        const ptrdiff_t ld = (ptrdiff_t)cols + qt_range(&rng, 0, 9);
        const int place = i % 2 ? QT_TAIL : qt_place(&rng);
        const size_t floats = rows > 0 ? (rows - 1) * (size_t)ld + cols : 0;
        const float *factors = operand(&rng, 1, cols, 0, place, QT_NASTY);
        float *got = qt_floats(floats, place), *want = qt_floats(floats, QT_TAIL);
        qt_fill(&rng, got, floats, QT_NASTY);
        memcpy(want, got, floats * sizeof *want);
        set->kernels->scale_columns(got, ld, rows, cols, factors);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < cols; j++)
                want[r * (size_t)ld + j] *= factors[j];
        qt_expect_words("scale_columns", want, got, floats, 0);
    }
}

/* A caller may have set flushing to zero: conversions still see subnormals. */
static void test_flushing_changes_nothing(const qt_set *set) {
#if QKV_X86_64
    uint16_t from[64];
    float want[64], got[64];
    for (unsigned i = 0; i < 64; i++)
        from[i] = (uint16_t)(i * 16 + 1 + (i % 2 << 15));
    set->kernels->widen(want, 0, from, 0, QKV_F16, 1, 64);
    const unsigned control = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(control | 0x8040);
    set->kernels->widen(got, 0, from, 0, QKV_F16, 1, 64);
    uint16_t back[64];
    set->kernels->narrow(back, 0, got, 0, QKV_F16, 1, 64);
    __builtin_ia32_ldmxcsr(control);
    qt_expect_words("widened while flushing", want, got, 64, 0);
    qt_expect_bytes("narrowed while flushing", from, back, sizeof from);
#else
    (void)set;
    qt_skip("the control register of this CPU is not known here");
#endif
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("every_half_and_back", test_every_half_and_back);
    qt_each_set("rounds_to_nearest_even", test_rounds_to_nearest_even);
    qt_each_set("rows", test_rows);
    qt_each_set("pack_stored", test_pack_stored);
    qt_each_set("gemm_stored", test_gemm_stored);
    qt_each_set("scale_columns", test_scale_columns);
    qt_each_set("flushing_changes_nothing", test_flushing_changes_nothing);
    return qt_run();
}
