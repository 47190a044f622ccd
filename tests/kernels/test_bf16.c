/* Operands of products in bfloat16, the softmax that makes some, and the product of two panels: what kernels.h says of
 * keys_bf16, values_bf16, rows_bf16, softmax_bf16 and gemm_t_bf16, by other code. The form of operands is each set's
 * own affair, so they are read by products: with 1 at a term and 0 at the other one of its pair.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include "oracle.h"
#include "scores.h"
#include "stored_rows.h"

enum { UNITS = 16 }; /* the identity, as a panel of so many terms and as rows of them */

/* ---------------------------------------------------------------------------------------------------------- stored */

/* Ordinary floats, ties, and what lies about where magnitudes become 0 or infinite and where NaNs begin. */
static float draw_float(qt_rng *rng) {
    static const uint32_t edges[] = {0x23800000, 0x23808000, 0x7f7f8000, 0x7f800000, 0x00008000};
    const uint32_t any = (uint32_t)qt_u64(rng), near = (uint32_t)qt_range(rng, 0, 4) - 2;
    switch (qt_range(rng, 0, 5)) {
    case 0: return qt_from_bits((any & 0xffff0000) + 0x8000 + near);
    case 1: return qt_from_bits((edges[any % 5] + near) | (any & 0x80000000));
    default: return qt_draw(rng, QT_SPRINKLED);
    }
}

/* Of floats and bfloat16 some as above: of any bits half of all the latter are below 2⁻⁵⁶. */
static void draw_row(qt_rng *rng, int type, unsigned char *row, size_t n) {
    for (size_t j = 0; j < n && (type == QKV_F32 || type == QKV_BF16); j++) {
        const uint32_t bits = qt_bits(draw_float(rng));
        const uint16_t upper = (uint16_t)(bits >> 16);
        if (type == QKV_F32)
            memcpy(row + 4 * j, &bits, sizeof bits);
        else if (qt_chance(rng, 70))
            memcpy(row + 2 * j, &upper, sizeof upper);
    }
}

static const unsigned char *draw_rows(qt_rng *rng, int type, size_t rows, size_t n, ptrdiff_t stride, int place) {
    unsigned char *base = stored_rows(rng, type, rows, n, stride, place);
    for (size_t i = 0; i < rows; i++)
        draw_row(rng, type, base + (ptrdiff_t)i * stride, n);
    if (rows > 0 && n > 0)
        qt_read_only(stride < 0 ? base + (ptrdiff_t)(rows - 1) * stride : base);
    return base;
}

/* Where there is no next row, the stride is any number. */
static ptrdiff_t stride_of(ptrdiff_t stride, size_t rows) {
    return rows > 1 ? stride : rows == 1 ? PTRDIFF_MAX : PTRDIFF_MIN;
}

/* ------------------------------------------------------------------------------------------------- reading operands */

static size_t term_bytes(const qt_set *set) {
    return (size_t)set->kernels->bf16_bytes;
}

static size_t even(size_t n) {
    return n + n % 2;
}

static void unit_floats(float *x) {
    for (size_t i = 0; i < UNITS * UNITS; i++)
        x[i] = i % (UNITS + 1) == 0 ? 1 : 0;
}

/* One term of a pair. Beside one that is no finite number it is not seen: 0 times that is a NaN. */
static void expect_term(const char *what, size_t i, size_t x, float want, float other, float got) {
    QT_EXPECT(other - other != 0 || qt_same(want, got, QT_ANY_ZERO), "%s [%zu][%zu]: want %a, got %a", what, i, x,
              (double)want, (double)got);
}

/* Terms of a panel against want[term][64]; their number is even. */
static void expect_panel(const qt_set *set, const char *what, const float *want, const void *panel, size_t terms,
                         size_t cols) {
    _Alignas(64) float a[UNITS * UNITS], c[2 * QKV_PANEL], units[UNITS * UNITS];
    unit_floats(units);
    set->kernels->rows_bf16(a, UNITS, 0, units, UNITS, UNITS, UNITS);
    for (size_t x = 0; x < terms; x += 2) {
        const void *pair = (const unsigned char *)panel + x * QKV_PANEL * term_bytes(set);
        set->kernels->gemm_bf16(c, QKV_PANEL, a, UNITS, 0, pair, 2, cols, 2, 0, NULL);
        for (size_t j = 0; j < cols; j++) {
            const float first = want[x * QKV_PANEL + j], second = want[(x + 1) * QKV_PANEL + j];
            expect_term(what, x, j, first, second, c[j]);
            expect_term(what, x + 1, j, second, first, c[QKV_PANEL + j]);
        }
    }
    qt_count_words(terms * cols);
}

static void unit_panel(const qt_set *set, void *panel) {
    float units[UNITS * UNITS];
    unit_floats(units);
    set->kernels->values_bf16(panel, units, sizeof *units * UNITS, QKV_F32, 0, UNITS, UNITS);
}

/* Terms first … of rows against want[row][terms]; first and their number are even. */
static void expect_rows(const qt_set *set, const char *what, const float *want, const void *a, ptrdiff_t lda,
                        size_t first, size_t rows, size_t terms, int place) {
    _Alignas(64) float panel[UNITS * QKV_PANEL];
    unit_panel(set, panel);
    float *c = qt_tile(rows, QKV_LANES, place);
    for (size_t x = 0; x < terms; x += 2) {
        set->kernels->gemm_bf16(c, QKV_LANES, a, lda, first + x, panel, rows, 2, 2, 0, NULL);
        for (size_t i = 0; i < rows; i++) {
            const float one = want[i * terms + x], two = want[i * terms + x + 1];
            expect_term(what, i, x, one, two, c[i * QKV_LANES]);
            expect_term(what, i, x + 1, two, one, c[i * QKV_LANES + 1]);
        }
    }
    qt_count_words(rows * terms);
}

/* -------------------------------------------------------------------------------------------------- keys and values */

static size_t draw_elements(qt_rng *rng, int type, size_t most) {
    return type == QKV_Q8_0 ? 32 * (size_t)qt_range(rng, 0, (int64_t)most / 32) : draw_size(rng, most);
}

static void check_keys(const qt_set *set, qt_rng *rng, int type, size_t rows, int place) {
    const size_t k = draw_elements(rng, type, 140), terms = even(k);
    const ptrdiff_t stride = draw_stored_stride(rng, type, k);
    qt_describe("type=%d rows=%zu k=%zu stride=%td place=%d", type, rows, k, stride, place);
    const unsigned char *src = draw_rows(rng, type, rows, k, stride, place);
    void *panel = qt_alloc(terms * QKV_PANEL * term_bytes(set), 64, place);
    float *want = qt_floats(terms * QKV_PANEL, QT_TAIL);
    for (size_t x = 0; x < terms; x++)
        for (size_t r = 0; r < QKV_PANEL; r++)
            want[x * QKV_PANEL + r] =
                r < rows && x < k ? oracle_to_bf16(stored_meaning(type, src + (ptrdiff_t)r * stride, x)) : 0;
    set->kernels->keys_bf16(panel, src, stride_of(stride, rows), type, rows, k);
    expect_panel(set, "keys", want, panel, terms, QKV_PANEL);
}

static void test_keys(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= QKV_INT8; type++)
        for (size_t rows = 0; rows <= QKV_PANEL; rows++)
            for (int i = 0; i < (qt_quick() ? 1 : 4); i++)
                if (qt_case(index++, &rng))
                    check_keys(set, &rng, type, rows, i % 2 ? QT_TAIL : qt_place(&rng));
}

static void check_values(const qt_set *set, qt_rng *rng, int type, size_t first, size_t rows, int place) {
    const size_t cols = draw_elements(rng, type, QKV_PANEL), begin = first - first % 2, end = even(first + rows);
    const ptrdiff_t stride = draw_stored_stride(rng, type, cols);
    qt_describe("type=%d first=%zu rows=%zu cols=%zu stride=%td place=%d", type, first, rows, cols, stride, place);
    const unsigned char *src = draw_rows(rng, type, rows, cols, stride, place);
    const size_t term = QKV_PANEL * term_bytes(set), more = 2 * (size_t)qt_range(rng, 0, 2);
    unsigned char *panel = qt_alloc((end + more) * term, 64, place);
    float *want = qt_floats((end - begin) * QKV_PANEL, QT_TAIL);
    for (size_t x = begin; x < end; x++)
        for (size_t j = 0; j < cols; j++)
            want[(x - begin) * QKV_PANEL + j] =
                x < first || x >= first + rows
                    ? 0
                    : oracle_to_bf16(stored_meaning(type, src + (ptrdiff_t)(x - first) * stride, j));
    set->kernels->values_bf16(panel, src, stride_of(stride, rows), type, first, rows, cols);
    const qt_view written = {panel + (end > begin ? begin * term : 0), 1, 1, {(int64_t)((end - begin) * term)}, {1}};
    qt_expect_gaps("values", &written); /* pairs before and after them, of other calls, stay */
    if (rows > 0)
        expect_panel(set, "values", want, panel + begin * term, end - begin, cols);
}

static void test_values(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= QKV_INT8; type++)
        for (size_t rows = 0; rows <= QKV_PANEL; rows++)
            for (int i = 0; i < (qt_quick() ? 1 : 6); i++)
                if (qt_case(index++, &rng)) {
                    const size_t first = (size_t)qt_range(&rng, 0, 9) * (qt_chance(&rng, 50) ? 1 : 5);
                    check_values(set, &rng, type, first, rows, i % 2 ? QT_TAIL : qt_place(&rng));
                }
}

/* ------------------------------------------------------------------------------------------------------------- rows */

static void want_rows(float *want, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < even(k); j++)
            want[i * even(k) + j] = j < k ? oracle_to_bf16(x[(ptrdiff_t)i * ldx + (ptrdiff_t)j]) : 0;
}

static void test_rows(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 200 : 1000); i++) {
        if (!qt_case(i, &rng))
            continue;
        const size_t rows = (size_t)qt_range(&rng, 0, 17), k = draw_size(&rng, 140);
        const size_t first = 2 * (size_t)qt_range(&rng, 0, 20), size = term_bytes(set);
        const ptrdiff_t stride = draw_stored_stride(&rng, QKV_F32, k);
        const ptrdiff_t ldd = (ptrdiff_t)(first + even(k)) + 2 * qt_range(&rng, 0, 20);
        const int place = qt_place(&rng);
        qt_describe("rows=%zu k=%zu first=%zu stride=%td ldd=%td place=%d", rows, k, first, stride, ldd, place);
        const float *x = (const float *)(const void *)draw_rows(&rng, QKV_F32, rows, k, stride, place);
        float *want = qt_floats(rows * even(k), QT_TAIL);
        want_rows(want, x, stride / 4, rows, k);
        const size_t terms = rows > 0 ? (rows - 1) * (size_t)ldd + first + even(k) : 0;
        unsigned char *a = qt_alloc(terms * size, 4, place);
        set->kernels->rows_bf16(a, ldd, first, x, stride / 4, rows, k);
        const unsigned char *begin = rows * k > 0 ? a + first * size : a;
        const qt_view written = {begin, size, 2, {(int64_t)rows, (int64_t)even(k)}, {ldd, 1}};
        qt_expect_gaps("rows", &written);
        expect_rows(set, "rows", want, a, ldd, first, rows, even(k), place);
    }
}

/* Floats become operands where they lie: in rows of as many terms, or of as many bytes. */
static void test_rows_in_place(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 200 : 1000); i++) {
        if (!qt_case(i, &rng))
            continue;
        const bool same_bytes = i % 2 == 0;
        const size_t rows = (size_t)qt_range(&rng, 0, 17), k = draw_size(&rng, 140);
        const size_t first = qt_chance(&rng, 30) ? 0 : 2 * (size_t)qt_range(&rng, 0, 40);
        const ptrdiff_t ldx = (ptrdiff_t)(first + even(k)) + 2 * qt_range(&rng, 0, 20);
        const ptrdiff_t ldd = same_bytes ? ldx * 4 / (ptrdiff_t)term_bytes(set) : ldx;
        const int place = qt_place(&rng);
        qt_describe("rows=%zu k=%zu first=%zu ldx=%td ldd=%td place=%d", rows, k, first, ldx, ldd, place);
        float *a = qt_floats(rows > 0 ? (rows - 1) * (size_t)ldx + first + even(k) : 0, place), *x = a + first;
        for (size_t j = 0; j < rows * k; j++)
            x[(ptrdiff_t)(j / k) * ldx + (ptrdiff_t)(j % k)] = draw_float(&rng);
        float *want = qt_floats(rows * even(k), QT_TAIL);
        want_rows(want, x, ldx, rows, k);
        set->kernels->rows_bf16(a, ldd, first, x, ldx, rows, k);
        expect_rows(set, "rows", want, a, ldd, first, rows, even(k), place);
    }
}

/* -------------------------------------------------------------------------------------------------- rows as stored */

/* The product of stored rows is that of the panel that they make, in one piece or in two. */
static void check_stored(const qt_set *set, qt_rng *rng, int type, size_t k, int place) {
    const qkv_kernels *kernels = set->kernels;
    const size_t rows = (size_t)qt_range(rng, 1, kernels->few_rows), first = (size_t)qt_range(rng, 0, 5);
    const size_t cols = 1 + draw_elements(rng, type, 200), width = type == QKV_Q8_0 ? (cols + 31) / 32 * 32 : cols;
    const size_t begin = first - first % 2, end = even(first + k), size = term_bytes(set);
    const ptrdiff_t stride = draw_stored_stride(rng, type, width), lda = (ptrdiff_t)end + 2 * qt_range(rng, 0, 9);
    const size_t ldc = draw_tile_ld(rng, width), part = 2 * (size_t)qt_range(rng, 0, (int64_t)k / 2);
    qt_describe("type=%d rows=%zu cols=%zu first=%zu k=%zu stride=%td part=%zu place=%d", type, rows, width, first, k,
                stride, part, place);
    const unsigned char *src = draw_rows(rng, type, k, width, stride, place);
    float *x = qt_floats(rows * (end - begin), QT_TAIL), *want = qt_tile(rows, ldc, QT_TAIL), *got;
    qt_fill(rng, x, rows * (end - begin), QT_NORMAL);
    unsigned char *a = qt_alloc(((rows - 1) * (size_t)lda + end) * size, 4, place);
    kernels->rows_bf16(a, lda, begin, x, (ptrdiff_t)(end - begin), rows, end - begin);
    unsigned char *panel = qt_alloc(end * QKV_PANEL * size, 64, QT_TAIL);
    for (size_t j = 0; j < width; j += QKV_PANEL) {
        const size_t some = width - j < QKV_PANEL ? width - j : QKV_PANEL;
        kernels->values_bf16(panel, src + stored_row_bytes(type, j), stride_of(stride, k), type, first, k, some);
        kernels->gemm_bf16(want + j, (ptrdiff_t)ldc, a, lda, begin, panel + begin * QKV_PANEL * size, rows, some,
                           end - begin, 0, NULL);
    }
    got = qt_tile(rows, ldc, place);
    kernels->gemm_stored_bf16(got, (ptrdiff_t)ldc, a, lda, first, src, stride_of(stride, k), type, rows, width, k, 0,
                              NULL);
    expect_tile_gaps("product", got, rows, width, ldc);
    qt_expect_rows("product", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, width, QT_ANY_ZERO);
    if (first % 2 == 1 || part == 0 || part >= k)
        return;
    kernels->gemm_stored_bf16(got, (ptrdiff_t)ldc, a, lda, first, src, stride, type, rows, width, part, 0, NULL);
    kernels->gemm_stored_bf16(got, (ptrdiff_t)ldc, a, lda, first + part, src + (ptrdiff_t)part * stride, stride, type,
                              rows, width, k - part, 1, NULL);
    qt_expect_rows("in parts", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, width, QT_ANY_ZERO);
}

static void test_stored(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= QKV_INT8; type++)
        for (size_t k = 0; k <= QKV_PANEL; k++)
            for (int i = 0; i < (qt_quick() ? 1 : 6); i++)
                if (qt_case(index++, &rng))
                    check_stored(set, &rng, type, k, i % 2 ? QT_TAIL : qt_place(&rng));
}

/* ---------------------------------------------------------------------------------------------------------- softmax */

/* p, m and ℓ by the rule; false: one of t is a NaN or +inf, and ℓ is a NaN. */
static bool weigh(const float *t, size_t cols, float *p, float *m, float *l) {
    *m = -FLT_MAX;
    *l = NAN;
    for (size_t j = 0; j < cols; j++) {
        if (!(t[j] < INFINITY))
            return false;
        *m = fmaxf(*m, t[j]);
    }
    for (size_t j = 0; j < cols; j++)
        p[j] = oracle_exp2_for_bf16(t[j] - *m);
    *l = sum_of_weights(p, cols);
    return true;
}

/* Operands 16 at a time: weights are finite. */
static void expect_weights(const qt_set *set, const float *p, const bool *good, const float *t, size_t ld, size_t first,
                           size_t rows, size_t cols, int place) {
    _Alignas(64) float panel[UNITS * QKV_PANEL];
    unit_panel(set, panel);
    float *c = qt_tile(rows, UNITS, place);
    const ptrdiff_t lda = (ptrdiff_t)(ld * 4 / term_bytes(set));
    for (size_t x = 0; x < cols; x += UNITS) {
        set->kernels->gemm_bf16(c, UNITS, t, lda, first + x, panel, rows, UNITS, UNITS, 0, NULL);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < UNITS && good[i]; j++)
                expect_term("weight", i, x + j, oracle_to_bf16(p[i * cols + x + j]), 0, c[i * UNITS + j]);
    }
    qt_count_words(rows * cols);
}

static void check_softmax(const qt_set *set, const float *scores, size_t ld, size_t first, size_t rows, size_t cols,
                          int rounds, int place) {
    float *t = qt_tile(rows, ld, place), *p = qt_floats(rows * cols, QT_TAIL);
    float *m = qt_floats(rows, place), *l = qt_floats(rows, place);
    for (size_t i = 0; i < rows; i++)
        memcpy(t + i * ld + first, scores + i * cols, cols * sizeof *t);
    set->kernels->softmax_bf16(t, (ptrdiff_t)ld, first, rows, cols, m, l, rounds);
    bool good[QKV_MAX_ROWS];
    for (size_t i = 0; i < rows; i++) {
        float of_m, of_l;
        good[i] = weigh(scores + i * cols, cols, p + i * cols, &of_m, &of_l);
        qt_expect_words("l", &of_l, l + i, 1, 0);
        if (good[i])
            qt_expect_words("m", &of_m, m + i, 1, QT_ANY_ZERO);
        if (good[i] && !rounds)
            qt_expect_words("p", p + i * cols, t + i * ld + first, cols, 0);
        const size_t low = first * term_bytes(set) / 4, high = low + cols * term_bytes(set) / 4; /* those of operands */
        for (size_t j = 0; j < ld; j++)
            QT_EXPECT((j >= first && j < first + cols) || (rounds && j >= low && j < high) ||
                          qt_bits(t[i * ld + j]) == QT_POISON,
                      "row %zu: column %zu, beside those from %zu on, is written", i, j, first);
    }
    if (rounds)
        expect_weights(set, p, good, t, ld, first, rows, cols, place);
}

static void test_softmax(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int round = 0; round < (qt_quick() ? 1 : 4); round++)
        for (size_t rows = 0; rows <= QKV_MAX_ROWS; rows++)
            for (size_t cols = QKV_LANES; cols <= QKV_KEY_BLOCK; cols += QKV_LANES) {
                if (!qt_case(index++, &rng))
                    continue;
                const size_t most = (QKV_KEY_BLOCK - cols) / QKV_LANES;
                const size_t first = qt_chance(&rng, 30) ? 0 : QKV_LANES * (size_t)qt_range(&rng, 0, (int64_t)most);
                const size_t ld = draw_tile_ld(&rng, first + cols);
                const int place = qt_place(&rng);
                qt_describe("rows=%zu cols=%zu first=%zu ld=%zu place=%d", rows, cols, first, ld, place);
                float *scores = qt_floats(rows * cols, QT_TAIL);
                for (size_t i = 0; i < rows; i++)
                    draw_scores(&rng, scores + i * cols, cols, draw_score_kind(&rng), 56);
                check_softmax(set, scores, ld, first, rows, cols, 0, place);
                check_softmax(set, scores, ld, first, rows, cols, 1, place);
            }
}

/* ---------------------------------------------------------------------------------------------- product of panels */

/* A panel of terms × 64 floats, and what they are as operands; finite, so that no term beside the wanted ones shows. */
static unsigned char *draw_panel(const qt_set *set, qt_rng *rng, size_t terms, float *rounded, int place) {
    float *x = qt_floats(terms * QKV_PANEL, QT_TAIL);
    const int tiny = qt_chance(rng, 20) ? -58 : 0; /* about where magnitudes become 0 */
    for (size_t i = 0; i < terms * QKV_PANEL; i++) {
        x[i] = ldexpf(qt_normal(rng), tiny);
        rounded[i] = oracle_to_bf16(x[i]);
    }
    unsigned char *panel = qt_alloc(even(terms) * QKV_PANEL * term_bytes(set), 64, place);
    set->kernels->values_bf16(panel, x, QKV_PANEL * sizeof *x, QKV_F32, 0, terms, QKV_PANEL);
    return panel;
}

static void check_transposed(const qt_set *set, qt_rng *rng, size_t rows, size_t cols, int place) {
    const size_t terms = draw_size(rng, 128), first = 2 * (size_t)qt_range(rng, 0, (int64_t)terms / 2);
    const size_t left = terms - first, k = qt_chance(rng, 70) ? left : left / 4 * 2;
    const size_t column = (size_t)qt_range(rng, 0, (int64_t)(QKV_PANEL - rows)), ldc = draw_tile_ld(rng, cols);
    const size_t strip = QKV_LANES * (size_t)qt_range(rng, 0, (int64_t)(QKV_PANEL - padded(cols)) / QKV_LANES);
    const int accumulate = qt_chance(rng, 50);
    qt_describe("rows=%zu cols=%zu terms %zu + %zu of %zu columns %zu, %zu ldc=%zu accumulate=%d place=%d", rows, cols,
                first, k, terms, column, strip, ldc, accumulate, place);
    float *x = qt_floats(terms * QKV_PANEL, QT_TAIL), *y = qt_floats(terms * QKV_PANEL, QT_TAIL);
    const size_t at = first * QKV_PANEL * term_bytes(set);
    const unsigned char *a = draw_panel(set, rng, terms, x, place) + at + 4 * column;
    const unsigned char *b = draw_panel(set, rng, terms, y, place) + at + 4 * strip;
    float *got = qt_tile(rows, ldc, place), *want = qt_tile(rows, ldc, place);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float sum = 0;
            for (size_t n = 0; n < k; n++) { /* the second of each pair first; an odd last one is alone */
                const size_t t = first + (n == k - 1 && k % 2 == 1 ? n : n ^ 1);
                sum = fmaf(x[t * QKV_PANEL + column + i], y[t * QKV_PANEL + strip + j], sum);
            }
            got[i * ldc + j] = qt_normal(rng);
            want[i * ldc + j] = accumulate ? got[i * ldc + j] + sum : sum;
        }
    set->kernels->gemm_t_bf16(got, (ptrdiff_t)ldc, a, b, rows, cols, k, accumulate);
    expect_tile_gaps("c", got, rows, cols, ldc);
    qt_expect_rows("c", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, cols, QT_ANY_ZERO);
}

static void test_transposed_product(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (size_t rows = 0; rows <= QKV_PANEL; rows++)
        for (size_t cols = 1; cols <= QKV_PANEL; cols += qt_quick() ? 7 : 1)
            if (qt_case(index++, &rng))
                check_transposed(set, &rng, rows, cols, qt_place(&rng));
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("transposed_product", test_transposed_product);
    qt_each_set_of_attention("keys", test_keys);
    qt_each_set_of_attention("values", test_values);
    qt_each_set_of_attention("rows", test_rows);
    qt_each_set_of_attention("rows_in_place", test_rows_in_place);
    qt_each_set_of_attention("stored", test_stored);
    qt_each_set_of_attention("softmax", test_softmax);
    return qt_run();
}
