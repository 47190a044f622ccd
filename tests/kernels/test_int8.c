/* Products of attention in 8 bits: what kernels.h says of rows_int8, gemm_int8 and scale_scores, by other code. The
 * form of operands is each set's own affair, so they are read by products.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include "oracle.h"
#include "ref/storage.h"
#include "stored_rows.h"

static size_t words_of(const qt_set *set, size_t k) {
    return (k * (size_t)set->kernels->int8_bytes + 3) / 4;
}

/* Floats that a row of queries may take, keys too: see kernels.h. */
static size_t row_floats(size_t k) {
    return k + (k + QKV_INT8_CHAIN - 1) / QKV_INT8_CHAIN + QKV_LANES;
}

/* Now and then a row that has no scale, or is 0 for being tiny, or near that. */
static void draw_floats(qt_rng *rng, float *x, size_t n) {
    static const float sizes[] = {1, 1, 1, 1, 0x1p-100f, 0x1p-101f, 0x1p-120f, 0x1p120f, 0};
    const float size = sizes[qt_range(rng, 0, 8)];
    for (size_t j = 0; j < n; j++)
        x[j] = size * (qt_chance(rng, 5) ? (float)qt_range(rng, -254, 254) / 4 : qt_normal(rng));
    if (n > 0 && qt_chance(rng, 10))
        x[qt_range(rng, 0, (int64_t)n - 1)] = qt_nasty(rng);
}

/* Integers and scales of keys as the rule has them. */
static void want_keys(int type, const unsigned char *src, ptrdiff_t stride, size_t rows, size_t k, const float *means,
                      int *integers, float *scales) {
    float *row = qt_floats(k, QT_TAIL);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < k; j++) {
            row[j] = stored_meaning(type, src + (ptrdiff_t)i * stride, j);
            integers[i * k + j] = (int)(type == QKV_INT8 ? row[j] : 0);
        }
        if (type != QKV_INT8)
            scales[i] = oracle_to_int8(row, means, (int64_t)k, integers + i * k);
    }
}

static float want_product(const int *a, const int *b, size_t k) {
    float total = 0;
    for (size_t first = 0; first < k; first += QKV_INT8_CHAIN) {
        int64_t sum = 0;
        for (size_t x = first; x < k && x < first + QKV_INT8_CHAIN; x++)
            sum += a[x] * b[x];
        total = first == 0 ? (float)sum : total + (float)sum;
    }
    return total;
}

static void check_products(const qt_set *set, qt_rng *rng, int type, size_t k, int place) {
    const qkv_kernels *kernels = set->kernels;
    const size_t rows = (size_t)qt_range(rng, 1, QKV_MAX_ROWS), keys = (size_t)qt_range(rng, 1, QKV_PANEL);
    const size_t cols = (size_t)qt_range(rng, 1, QKV_PANEL), ld = row_floats(k), words = words_of(set, k);
    const ptrdiff_t stride = draw_stored_stride(rng, type, k);
    const bool less = type != QKV_INT8 && qt_chance(rng, 40);
    qt_describe("type=%d rows=%zu keys=%zu cols=%zu k=%zu stride=%td means=%d place=%d", type, rows, keys, cols, k,
                stride, less, place);
    float *q = qt_floats(rows * ld, place), *scales = qt_floats(rows, place), *of_keys = qt_floats(keys, place);
    const float *means = less ? vector(rng, k, place, QT_NORMAL) : NULL;
    int *integers = qt_alloc(rows * k * sizeof *integers, 4, QT_TAIL);
    int *key_integers = qt_alloc(keys * k * sizeof *integers, 4, QT_TAIL);
    float *want_scales = qt_floats(keys, QT_TAIL);
    for (size_t i = 0; i < rows; i++) {
        draw_floats(rng, q + i * ld, k);
        const float want = oracle_to_int8(q + i * ld, NULL, (int64_t)k, integers + i * k);
        kernels->rows_int8(q + i * ld, (ptrdiff_t)ld, scales + i, q + i * ld, (ptrdiff_t)ld * 4, QKV_F32, 1, k, NULL,
                           0);
        qt_expect_words("scale of a query", &want, scales + i, 1, 0);
    }
    unsigned char *stored = stored_rows(rng, type, keys, k, stride, place);
    for (size_t i = 0; i < keys && type == QKV_F32; i++)
        draw_floats(rng, (float *)(void *)(stored + (ptrdiff_t)i * stride), k);
    want_keys(type, stored, stride, keys, k, means, key_integers, want_scales);
    float *operands = qt_tile(keys, ld, place), *panel = qt_alloc(words * QKV_PANEL * sizeof *panel, 64, place);
    kernels->rows_int8(operands, (ptrdiff_t)ld, of_keys, stored, keys > 1 ? stride : PTRDIFF_MAX, type, keys, k, means,
                       1);
    if (type == QKV_INT8)
        qt_expect_untouched("scales", of_keys);
    else
        qt_expect_words("scales", want_scales, of_keys, keys, 0);
    kernels->pack(panel, operands, (ptrdiff_t)ld, keys, words);
    const size_t ldc = draw_tile_ld(rng, cols);
    float *c = qt_tile(rows, ldc, place);
    for (size_t x = 0; x < k; x += QKV_INT8_CHAIN)
        kernels->gemm_int8(c, (ptrdiff_t)ldc, q, (ptrdiff_t)ld, x, panel + words_of(set, x) * QKV_PANEL, rows, cols,
                           k - x < QKV_INT8_CHAIN ? k - x : QKV_INT8_CHAIN, x > 0, NULL);
    expect_tile_gaps("products", c, rows, cols, ldc);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols && j < keys; j++) {
            const float want = want_product(integers + i * k, key_integers + j * k, k);
            QT_EXPECT(want == c[i * ldc + j], "[%zu][%zu]: want %a, got %a", i, j, (double)want,
                      (double)c[i * ldc + j]);
        }
    qt_count_words(rows * (cols < keys ? cols : keys));
}

static void test_products(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= QKV_INT8; type++)
        for (int i = 0; i < (qt_quick() ? 60 : 400); i++)
            if (qt_case(index++, &rng)) {
                size_t k = 1 + draw_size(&rng, qt_chance(&rng, 10) ? 2500 : 300);
                if (type == QKV_Q8_0)
                    k = (k + 31) / 32 * 32;
                check_products(set, &rng, type, k, qt_place(&rng));
            }
}

/* A stored panel becomes what its keys' rows become. */
static void test_panels(const qt_set *set) {
    static const int types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 100 : 600); i++) {
        if (!qt_case(i, &rng))
            continue;
        const int type = types[i % 4], place = qt_place(&rng);
        const size_t k = 1 + draw_size(&rng, qt_chance(&rng, 5) ? 1100 : 200), element = stored_row_bytes(type, 1);
        const size_t ld = row_floats(k), words = words_of(set, k) * QKV_PANEL;
        qt_describe("type=%d k=%zu place=%d", type, k, place);
        unsigned char *rows = stored_rows(&rng, type, QKV_PANEL, k, (ptrdiff_t)(k * element), QT_TAIL);
        for (size_t r = 0; r < QKV_PANEL && type == QKV_F32; r++)
            draw_floats(&rng, (float *)(void *)rows + r * k, k);
        unsigned char *stored = qt_alloc(k * QKV_PANEL * element, element, place);
        for (size_t c = 0; c < k; c++)
            for (size_t r = 0; r < QKV_PANEL; r++)
                memcpy(stored + (c * QKV_PANEL + r) * element, rows + (r * k + c) * element, element);
        qt_read_only(stored);
        const float *means = type != QKV_INT8 && qt_chance(&rng, 40) ? vector(&rng, k, place, QT_NORMAL) : NULL;
        float *operands = qt_tile(QKV_PANEL, ld, QT_TAIL), *want = qt_alloc(words * 4, 64, QT_TAIL);
        float *want_scales = qt_floats(QKV_PANEL, QT_TAIL), *scales = qt_floats(QKV_PANEL, place);
        float *got = qt_alloc(words * 4, 64, place);
        set->kernels->rows_int8(operands, (ptrdiff_t)ld, want_scales, rows, (ptrdiff_t)(k * element), type, QKV_PANEL,
                                k, means, 1);
        set->kernels->pack(want, operands, (ptrdiff_t)ld, QKV_PANEL, words / QKV_PANEL);
        set->kernels->panel_int8(got, scales, stored, type, k, means);
        qt_expect_words("scales", want_scales, scales, QKV_PANEL, 0);
        for (size_t x = 0; x < words; x++) /* integers as floats may be −0 */
            QT_EXPECT(qt_bits(want[x]) == qt_bits(got[x]) || (want[x] == 0 && got[x] == 0),
                      "word %zu: want %08x, got %08x", x, qt_bits(want[x]), qt_bits(got[x]));
    }
}

/* Integers of the largest magnitude throughout, of both signs. */
static void test_extremes(const qt_set *set) {
    enum { K = QKV_INT8_CHAIN, LD = K + 2 * QKV_LANES };
    float *q = qt_tile(2, LD, QT_TAIL), *operands = qt_tile(2, LD, QT_TAIL), scales[2];
    float *panel = qt_alloc((size_t)K * QKV_PANEL * sizeof *panel, 64, QT_TAIL), *c = qt_tile(2, QKV_LANES, QT_TAIL);
    int8_t keys[2][K];
    for (size_t x = 0; x < K; x++) {
        q[x] = 1;
        q[LD + x] = x % 2 ? -1 : 1;
        keys[0][x] = -128;
        keys[1][x] = x % 2 ? -127 : 127;
    }
    set->kernels->rows_int8(q, LD, scales, q, LD * 4, QKV_F32, 2, K, NULL, 0);
    set->kernels->rows_int8(operands, LD, NULL, keys, K, QKV_INT8, 2, K, NULL, 1);
    set->kernels->pack(panel, operands, LD, 2, words_of(set, K));
    set->kernels->gemm_int8(c, QKV_LANES, q, LD, 0, panel, 2, 2, K, 0, NULL);
    const float want[2][2] = {{-128 * 127 * K, 0}, {0, 127 * 127 * K}};
    for (int i = 0; i < 2; i++)
        qt_expect_words("products", want[i], c + i * QKV_LANES, 2, QT_ANY_ZERO);
}

static void test_scale_scores(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 100 : 500); i++) {
        if (!qt_case(i, &rng))
            continue;
        const size_t rows = (size_t)qt_range(&rng, 0, QKV_MAX_ROWS);
        const size_t cols = QKV_LANES * (size_t)qt_range(&rng, 0, QKV_PANEL / QKV_LANES);
        const size_t ld = draw_tile_ld(&rng, cols);
        const int place = qt_place(&rng);
        const qt_kind kind = (qt_kind)qt_range(&rng, 0, QT_NUM_KINDS - 1);
        qt_describe("rows=%zu cols=%zu ld=%zu place=%d kind=%s", rows, cols, ld, place, qt_kind_name(kind));
        const float *columns = vector(&rng, cols, place, kind), *factors = vector(&rng, rows, place, kind);
        const float *offsets = vector(&rng, rows, place, kind);
        const float *src = operand(&rng, rows, cols, (ptrdiff_t)cols, place, kind);
        float *t = tile_of(src, (ptrdiff_t)cols, rows, cols, ld, place);
        set->kernels->scale_scores(t, (ptrdiff_t)ld, rows, cols, columns, factors, offsets);
        expect_tile_gaps("scores", t, rows, cols, ld);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < cols; j++) {
                volatile float product = src[r * cols + j] * columns[j];
                const float want = fmaf(product, factors[r], offsets[r]);
                qt_expect_words("score", &want, t + r * ld + j, 1, 0);
            }
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("products", test_products);
    qt_each_set_of_attention("panels", test_panels);
    qt_each_set_of_attention("extremes", test_extremes);
    qt_each_set_of_attention("scale_scores", test_scale_scores);
    return qt_run();
}
