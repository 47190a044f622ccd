/* widen_weights, quantize_rows and gemm_weights: what ../../src/ref/weights.h and kernels.h say of them, by other code,
 * and every set the reference's words.
 *
 * SPDX-License-Identifier: MIT */
#include "operands.h"

#include <float.h>
#include <math.h>

#include "oracle_cases.h"
#include "ref/weights.h"

enum { FIRST_TYPE = QKV_F32, LAST_TYPE = QKV_Q6_K };

static int has_integers(int type) {
    return type >= QKV_Q8_0;
}

/* ------------------------------------------------------------------------- the layout, read from its description */

typedef struct form {
    int bits, zero;       /* of an integer; what stands for 0 */
    size_t arrays;        /* of binary16, before the first block */
    size_t blocks, bytes; /* of a group; bytes of scales in a block, for each column */
} form;

static form form_of(int type) {
    static const form forms[] = {
        [QKV_Q8_0] = {8, 0, 1, 1, 0}, [QKV_INT8] = {8, 0, 2, 1, 0},  [QKV_Q4_0] = {4, 8, 1, 1, 0},
        [QKV_Q4_1] = {4, 0, 2, 1, 0}, [QKV_Q5_0] = {5, 16, 1, 1, 0}, [QKV_Q5_1] = {5, 0, 2, 1, 0},
        [QKV_Q4_K] = {4, 0, 2, 8, 2}, [QKV_Q5_K] = {5, 0, 2, 8, 2},  [QKV_Q6_K] = {6, 32, 1, 8, 2},
    };
    return forms[type];
}

static size_t panel_bytes(int type, size_t k) {
    const form f = form_of(has_integers(type) ? type : QKV_Q8_0);
    if (type == QKV_INT8)
        return 256 + (k + 31) / 32 * 2048;
    if (!has_integers(type))
        return k * 64 * (type == QKV_F32 ? 4 : 2);
    return k / (32 * f.blocks) * 64 * (2 * f.arrays + f.blocks * (f.bytes + 4 * (size_t)f.bits));
}

static size_t group_terms(int type) {
    return has_integers(type) && type != QKV_INT8 ? 32 * form_of(type).blocks : 1;
}

typedef struct place {
    const unsigned char *group, *block, *integers;
} place;

static place place_of(int type, const unsigned char *panel, size_t term) {
    const form f = form_of(type);
    const size_t block_bytes = 64 * (f.bytes + 4 * (size_t)f.bits), number = term / 32;
    place p;
    p.group = type == QKV_INT8 ? panel : panel + number / f.blocks * (128 * f.arrays + f.blocks * block_bytes);
    p.block = p.group + 128 * f.arrays + (type == QKV_INT8 ? number : number % f.blocks) * block_bytes;
    p.integers = p.block + 64 * f.bytes;
    return p;
}

static uint32_t word_of(const unsigned char *integers, size_t word, size_t column) {
    uint32_t x;
    memcpy(&x, integers + (word * 64 + column) * 4, 4);
    return x;
}

static int integer_of(int type, const unsigned char *integers, size_t t, size_t column) {
    const form f = form_of(type);
    const size_t g = t / 4, byte = 8 * (t % 4);
    if (f.bits == 8)
        return (int8_t)(word_of(integers, g, column) >> byte);
    uint32_t x = word_of(integers, (size_t)f.bits - 4 + g / 2, column) >> 4 * (g % 2) & 0x0f0f0f0f;
    if (f.bits == 5)
        x |= (word_of(integers, 0, column) >> g & 0x01010101) << 4;
    if (f.bits == 6)
        x |= (word_of(integers, g / 4, column) >> 2 * (g % 4) & 0x03030303) << 4;
    return (int)(x >> byte & 0xff) - f.zero;
}

static float half_of(const unsigned char *row, size_t column) {
    uint16_t x;
    memcpy(&x, row + 2 * column, 2);
    return qkv_from_f16(x);
}

static float scale_of(int type, const unsigned char *panel, size_t term, size_t column) {
    const place p = place_of(type, panel, term);
    float x;
    switch (type) {
    case QKV_INT8: memcpy(&x, p.group + 4 * column, 4); return x;
    case QKV_Q4_K:
    case QKV_Q5_K: return half_of(p.group, column) * (float)p.block[column];
    case QKV_Q6_K: return half_of(p.group, column) * (float)(int8_t)p.block[(term % 32 < 16 ? 0 : 64) + column];
    default: return half_of(p.group, column);
    }
}

static bool has_minimum(int type) {
    return type == QKV_Q4_1 || type == QKV_Q5_1 || type == QKV_Q4_K || type == QKV_Q5_K;
}

static float minimum_of(int type, const unsigned char *panel, size_t term, size_t column) {
    const place p = place_of(type, panel, term);
    const float m = half_of(p.group + 128, column);
    return form_of(type).bytes ? -(m * (float)p.block[64 + column]) : m;
}

static float value_of(int type, const unsigned char *panel, size_t term, size_t column) {
    const size_t at = term * 64 + column;
    uint16_t half;
    float x;
    if (type == QKV_F32) {
        memcpy(&x, panel + 4 * at, 4);
        return x;
    }
    if (!has_integers(type)) {
        memcpy(&half, panel + 2 * at, 2);
        return type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
    }
    x = scale_of(type, panel, term, column) *
        (float)integer_of(type, place_of(type, panel, term).integers, term % 32, column);
    return has_minimum(type) ? x + minimum_of(type, panel, term, column) : x; /* the product is exact */
}

/* ------------------------------------------------------------------------------------------------------ operands */

/* A panel of any bits. Half of its scales are ordinary numbers, the others anything: NaN, infinite, subnormal. In some
 * panels all integers are the least or the greatest ones. */
static const unsigned char *draw_panel(qt_rng *rng, int type, size_t k, int where) {
    const size_t bytes = panel_bytes(type, k);
    unsigned char *panel = qt_alloc(bytes, 64, where == QT_TAIL ? QT_TAIL : QT_HEAD);
    static const unsigned char extremes[] = {0x00, 0xff, 0x80, 0x7f};
    const int extreme = (int)qt_range(rng, 0, 9);
    for (size_t i = 0; i < bytes; i++)
        panel[i] = extreme < 4 && has_integers(type) ? extremes[extreme] : (unsigned char)qt_u64(rng);
    const int nasty = qt_chance(rng, 30);
    const form f = form_of(has_integers(type) ? type : QKV_Q8_0);
    for (size_t term = 0; has_integers(type) && term < k; term += type == QKV_INT8 ? k : 32 * f.blocks) {
        unsigned char *row = panel + (place_of(type, panel, term).group - panel);
        for (size_t j = 0; j < 64 * f.arrays; j++) {
            if (nasty && qt_chance(rng, 20)) {
                const uint16_t any = (uint16_t)qt_u64(rng);
                memcpy(row + 2 * j, &any, 2);
            } else if (type != QKV_INT8) {
                const uint16_t half = qkv_to_f16(qt_normal(rng));
                memcpy(row + 2 * j, &half, 2);
            } else if (j < 64) {
                const float scale = nasty ? qt_nasty(rng) : qt_normal(rng);
                memcpy(row + 4 * j, &scale, 4);
            }
        }
    }
    qt_read_only(panel);
    return panel;
}

static size_t draw_k(qt_rng *rng, int type, size_t most) {
    const size_t terms = group_terms(type);
    return terms * (size_t)qt_range(rng, 0, (int64_t)(most / terms));
}

/* --------------------------------------------------------------------------------------------------------- tests */

static void check_widen(const qt_set *set, qt_rng *rng, int type, int where) {
    const size_t all = draw_k(rng, type, 600);
    const unsigned char *panel = draw_panel(rng, type, all, where);
    const size_t first = (size_t)qt_range(rng, 0, (int64_t)(all / 32)) * 32;
    const size_t left = all - first, whole = left / 32 * 32;
    const size_t k = qt_chance(rng, 50) ? left : (size_t)qt_range(rng, 0, (int64_t)(whole / 32)) * 32;
    qt_describe("%s all=%zu first=%zu k=%zu where=%d", case_type_name[type], all, first, k, where);
    float *got = qt_tile((k + 31) / 32 * 32, 64, where);
    set->kernels->widen_weights(got, panel, type, first, k);
    for (size_t x = 0; x < k; x++)
        for (size_t j = 0; j < 64; j++) {
            const float want = value_of(type, panel, first + x, j);
            const float defined = qkv_weight_value(type, panel, first + x, j);
            QT_EXPECT(qt_same(want, got[x * 64 + j], 0), "[%zu][%zu]: want %a, got %a", x, j, (double)want,
                      (double)got[x * 64 + j]);
            QT_EXPECT(qt_same(want, defined, 0), "[%zu][%zu]: want %a, the definition says %a", x, j, (double)want,
                      (double)defined);
        }
    qt_count_words(k * 64);
    QT_EXPECT((size_t)qkv_weight_panel_bytes(type, (int64_t)all) == panel_bytes(type, all), "bytes of a panel");
}

static void test_widen_weights(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = FIRST_TYPE; type <= LAST_TYPE; type++)
        for (int i = 0; i < (qt_quick() ? 12 : 60); i++)
            if (qt_case(index++, &rng))
                check_widen(set, &rng, type, i % 2 ? QT_TAIL : QT_HEAD);
}

/* By the rule, but in double where that is exact. */
static void expect_quantized(const float *x, size_t n, const qkv_terms *got) {
    float largest = 0;
    bool finite = true;
    int sum = 0, upper = 0;
    for (size_t j = 0; j < n; j++) {
        finite = finite && x[j] - x[j] == 0;
        largest = finite && (x[j] < 0 ? -x[j] : x[j]) > largest ? (x[j] < 0 ? -x[j] : x[j]) : largest;
    }
    const bool any = finite && largest >= 0x1p-100f;
    const float scale = finite ? any ? largest / 127 : 0 : qt_from_bits(0x7fc00000), factor = any ? 127 / largest : 0;
    for (size_t j = 0; j < 32; j++) {
        const float y = any && j < n ? x[j] * factor : 0;
        int want = 0;
        for (int q = -127; q <= 127; q++) { /* the nearest; of two, the even one */
            const double d = (double)q - (double)y, e = (double)want - (double)y;
            const double near = d < 0 ? -d : d, best = e < 0 ? -e : e;
            want = near < best || (near == best && q % 2 == 0) ? q : want;
        }
        QT_EXPECT(got->q[j] == want, "q[%zu] of %a: want %d, got %d", j, j < n ? (double)x[j] : 0.0, want, got->q[j]);
        sum += want;
        upper += j < 16 ? 0 : want;
    }
    QT_EXPECT(qt_same(scale, got->scale, 0), "scale: want %a, got %a", (double)scale, (double)got->scale);
    QT_EXPECT(sum == got->sum && upper == got->upper_sum, "sums: want %d, %d, got %d, %d", sum, upper, got->sum,
              got->upper_sum);
    QT_EXPECT(qt_same(scale * (float)sum, got->scaled_sum, 0), "scaled sum: got %a", (double)got->scaled_sum);
}

static void test_quantize_rows(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < (qt_quick() ? 300 : 2000); i++) {
        if (!qt_case(i, &rng))
            continue;
        const size_t rows = (size_t)qt_range(&rng, 0, 9), k = draw_size(&rng, 150), blocks = (k + 31) / 32;
        const ptrdiff_t ldx = draw_ld(&rng, k), ldd = (ptrdiff_t)rows + qt_range(&rng, 0, 3);
        const int where = qt_place(&rng);
        const qt_kind kind = (qt_kind)(i % QT_NUM_KINDS);
        qt_describe("rows=%zu k=%zu ldx=%td ldd=%td %s where=%d", rows, k, ldx, ldd, qt_kind_name(kind), where);
        const float *x = operand(&rng, rows, k, ldx, where, kind);
        const size_t all = rows > 0 && blocks > 0 ? (blocks - 1) * (size_t)ldd + rows : 0;
        qkv_terms *got = qt_alloc(all * sizeof *got, 4, where);
        set->kernels->quantize_rows(got, ldd, x, ldx, rows, k);
        for (size_t b = 0; b < blocks; b++)
            for (size_t r = 0; r < rows; r++)
                expect_quantized(x + (ptrdiff_t)r * ldx + (ptrdiff_t)(32 * b), k - 32 * b < 32 ? k - 32 * b : 32,
                                 &got[(ptrdiff_t)b * ldd + (ptrdiff_t)r]);
        const qt_view written = {got, sizeof *got, 2, {(int64_t)blocks, (int64_t)rows}, {ldd, 1}};
        if (all > 0)
            qt_expect_gaps("quantize_rows", &written);
    }
}

/* Ties, in blocks whose factor is a power of two, and what lies next to them. */
static void test_rounds_to_even(const qt_set *set) {
    qt_rng rng;
    for (uint64_t i = 0; i < 100; i++) {
        if (!qt_case(i, &rng))
            continue;
        const float unit = qt_from_bits((uint32_t)qt_range(&rng, 40, 230) << 23);
        float x[32];
        for (int j = 0; j < 32; j++) {
            const float half = (float)qt_range(&rng, -253, 253) / 2;
            x[j] = unit * (j % 4 ? half : qt_from_bits(qt_bits(half) + 1));
        }
        x[i % 32] = 127 * unit;
        qkv_terms got;
        set->kernels->quantize_rows(&got, 0, x, 0, 1, 32);
        expect_quantized(x, 32, &got);
    }
}

/* Where blocks become zeros, the largest ones, and one term that is no number among ordinary ones. */
static void test_limits(const qt_set *set) {
    static const float largest[] = {0x1p-100f, 0x1.fffffep-101f, 0x1.000002p-100f, 0x1.fffffep-100f,
                                    0x1p-126f, 0x1p-149f,        FLT_MAX,          INFINITY,
                                    NAN,       0x1.fffffep-1f,   127.0f,           0.0f};
    for (uint64_t i = 0; i < sizeof largest / sizeof *largest * 32; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const float a = largest[i / 32], sign = i % 2 ? -1 : 1, others = a - a == 0 ? a / 2 : 1;
        float x[32];
        for (int j = 0; j < 32; j++)
            x[j] = others * ((float)qt_range(&rng, -100, 100) / 100);
        x[i % 32] = sign * a;
        qt_describe("%a at %d", (double)x[i % 32], (int)(i % 32));
        qkv_terms got;
        set->kernels->quantize_rows(&got, 0, x, 0, 1, 32);
        expect_quantized(x, 32, &got);
    }
}

/* Activations as quantize_rows makes them, and others that the contract allows: all ±127, any scales. */
static const qkv_terms *draw_terms(qt_rng *rng, size_t blocks, size_t rows, ptrdiff_t lda, size_t k, int where) {
    const size_t n = blocks > 0 && rows > 0 ? (blocks - 1) * (size_t)lda + rows : 0;
    qkv_terms *a = qt_alloc(n * sizeof *a, 4, where);
    const int what = (int)qt_range(rng, 0, 5);
    for (size_t b = 0; b < blocks; b++)
        for (size_t r = 0; r < rows; r++) {
            qkv_terms *t = &a[(ptrdiff_t)b * lda + (ptrdiff_t)r];
            if (what >= 2) {
                float x[32];
                qt_fill(rng, x, 32, what == 2 ? QT_SPRINKLED : what == 3 ? QT_WIDE : QT_NORMAL);
                qkv_kernels_ref.quantize_rows(t, 0, x, 0, 1, k - 32 * b < 32 ? k - 32 * b : 32);
                continue;
            }
            *t = (qkv_terms){.scale = what == 0 ? qt_nasty(rng) : qt_normal(rng)};
            const int sign = qt_chance(rng, 50) ? 1 : -1;
            for (int j = 0; j < 32; j++) {
                t->q[j] = (int8_t)(qt_chance(rng, 90) ? 127 * sign : qt_range(rng, -127, 127));
                t->sum += t->q[j];
                t->upper_sum += j < 16 ? 0 : t->q[j];
            }
            t->scaled_sum = t->scale * (float)t->sum;
        }
    qt_read_only(a);
    return a;
}

/* The contract's formula, an element at a time. */
static float product(int type, const unsigned char *panel, const qkv_terms *a, ptrdiff_t lda, size_t k, size_t j) {
    const size_t span = type == QKV_Q6_K ? 16 : 32;
    float y = 0;
    for (size_t x = 0; x < k; x += span) {
        const qkv_terms *t = &a[(ptrdiff_t)(x / 32) * lda];
        const place p = place_of(type, panel, x);
        int sum = 0, of_q = 0;
        for (size_t i = x % 32; i < x % 32 + span; i++) {
            sum += integer_of(type, p.integers, i, j) * t->q[i];
            of_q += t->q[i];
        }
        const float scale = type == QKV_INT8 ? t->scale : t->scale * scale_of(type, panel, x, j);
        y = qkv_fma((float)sum, scale, y);
        if (has_minimum(type))
            y = qkv_fma(t->scale * (float)of_q, minimum_of(type, panel, x, j), y);
    }
    return type == QKV_INT8 ? y * scale_of(type, panel, 0, j) : y;
}

static void check_product(const qt_set *set, qt_rng *rng, int type, size_t rows, size_t cols, size_t k, int where) {
    const size_t blocks = (k + 31) / 32, ldc = draw_tile_ld(rng, cols);
    const ptrdiff_t lda = (ptrdiff_t)rows + qt_range(rng, 0, 2);
    qt_describe("%s rows=%zu cols=%zu k=%zu lda=%td ldc=%zu where=%d", case_type_name[type], rows, cols, k, lda, ldc,
                where);
    const unsigned char *panel = draw_panel(rng, type, k, where);
    const qkv_terms *a = draw_terms(rng, blocks, rows, lda, k, where);
    float *got = qt_tile(rows, ldc, where);
    set->kernels->gemm_weights(got, (ptrdiff_t)ldc, a, lda, panel, type, rows, cols, k);
    expect_tile_gaps("c", got, rows, cols, ldc);
    if (set->kernels == &qkv_kernels_ref) {
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < cols; j++) {
                const float want = product(type, panel, a + i, lda, k, j);
                QT_EXPECT(qt_same(want, got[i * ldc + j], 0), "[%zu][%zu]: want %a, got %a", i, j, (double)want,
                          (double)got[i * ldc + j]);
            }
        qt_count_words(rows * cols);
        return;
    }
    float *want = qt_tile(rows, ldc, where);
    qkv_kernels_ref.gemm_weights(want, (ptrdiff_t)ldc, a, lda, panel, type, rows, cols, k);
    qt_expect_rows("c", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, cols, 0);
}

static void test_gemm_weights(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    static const size_t more_rows[] = {0, 31, 32, 33, 64, 65, 100};
    for (int type = QKV_Q8_0; type <= LAST_TYPE; type++)
        for (size_t r = 1; r <= 17 + sizeof more_rows / sizeof *more_rows; r++)
            for (int i = 0; i < (qt_quick() ? 2 : 8); i++)
                if (qt_case(index++, &rng)) {
                    const size_t rows = r <= 17 ? r : more_rows[r - 18], most = rows > 17 ? 300 : 600;
                    const size_t cols = qt_chance(&rng, 50) ? 64 : (size_t)qt_range(&rng, 1, 64);
                    check_product(set, &rng, type, rows, cols, draw_k(&rng, type, most), i % 2 ? QT_TAIL : QT_HEAD);
                }
}

/* ------------------------------------------------------------------------------------------------------ bfloat16 */

static float rounded(float x) {
    if (x != x || fabsf(x) < 0x1p-56f)
        return x != x ? x : 0;
    const uint32_t bits = qt_bits(x);
    return qt_from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

/* Every set against the formula: rows in pieces, terms of a panel from a multiple of 32 on. */
static void check_bf16(const qt_set *set, qt_rng *rng, int type, size_t rows, size_t cols, int where) {
    const size_t k = draw_k(rng, type, 300), ldc = draw_tile_ld(rng, cols);
    const size_t from = (size_t)qt_range(rng, 0, (int64_t)k / 32) * 32, left = k - from,
                 n = qt_chance(rng, 50) ? left : (size_t)qt_range(rng, 0, (int64_t)left / 2) * 2;
    const ptrdiff_t ldx = (ptrdiff_t)k + qt_range(rng, 0, 3);
    const ptrdiff_t lda = (ptrdiff_t)(k + 1) / 2 * 2 + 2 * qt_range(rng, 0, 2);
    const bool tiny = qt_chance(rng, 20); /* about where magnitudes become 0 */
    const int accumulate = !tiny && qt_chance(rng, 50);
    qt_describe("%s rows=%zu cols=%zu terms %zu + %zu of %zu lda=%td ldc=%zu where=%d", case_type_name[type], rows,
                cols, from, n, k, lda, ldc, where);
    const unsigned char *panel = draw_panel(rng, type, k, where);
    float *x = qt_floats(rows > 0 ? (rows - 1) * (size_t)ldx + k : 0, where);
    qt_fill(rng, x, rows > 0 ? (rows - 1) * (size_t)ldx + k : 0, qt_range(rng, 0, 2) ? QT_NORMAL : QT_SPRINKLED);
    for (size_t i = 0; tiny && rows > 0 && i < (rows - 1) * (size_t)ldx + k; i++)
        x[i] = ldexpf(qt_uniform(rng, -1, 1), -59) * (qt_chance(rng, 50) ? 16 : 1);
    qt_read_only(x);
    float *a = qt_alloc(rows * (size_t)lda * sizeof *a, 4, where);
    const size_t cut = (size_t)qt_range(rng, 0, (int64_t)k / 32) * 32;
    set->kernels->rows_bf16(a, lda, 0, x, ldx, rows, cut);
    set->kernels->rows_bf16(a, lda, cut, x + cut, ldx, rows, k - cut);
    float *b = qt_alloc((n + 31) / 32 * 32 * 64 * sizeof *b, 64, where);
    set->kernels->weights_bf16(b, panel, type, from, n);
    float *got = qt_tile(rows, ldc, where), *want = qt_tile(rows, ldc, where);
    float *w = qt_alloc((n + 31) / 32 * 32 * 64 * sizeof *w, 64, where);
    qkv_kernels_ref.widen_weights(w, panel, type, from, n);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float y = 0;
            for (size_t t = 0; t < n; t += 2) {
                if (t + 1 < n)
                    y = fmaf(rounded(x[i * (size_t)ldx + from + t + 1]), rounded(w[(t + 1) * 64 + j]), y);
                y = fmaf(rounded(x[i * (size_t)ldx + from + t]), rounded(w[t * 64 + j]), y);
            }
            got[i * ldc + j] = qt_normal(rng);
            want[i * ldc + j] = accumulate ? got[i * ldc + j] + y : y;
        }
    set->kernels->gemm_bf16(got, (ptrdiff_t)ldc, a, lda, from, b, rows, cols, n, accumulate, NULL);
    expect_tile_gaps("c", got, rows, cols, ldc);
    qt_expect_rows("c", want, (ptrdiff_t)ldc, got, (ptrdiff_t)ldc, rows, cols, QT_ANY_ZERO);
}

static void test_bf16(const qt_set *set) {
    qt_rng rng;
    uint64_t index = 0;
    for (int type = QKV_F32; type <= LAST_TYPE; type++)
        for (size_t rows = 0; rows <= 14; rows++)
            for (int i = 0; i < (qt_quick() ? 2 : 6); i++)
                if (qt_case(index++, &rng))
                    check_bf16(set, &rng, type, rows, qt_chance(&rng, 50) ? 64 : (size_t)qt_range(&rng, 1, 64),
                               i % 2 ? QT_TAIL : QT_HEAD);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("widen_weights", test_widen_weights);
    qt_each_set("quantize_rows", test_quantize_rows);
    qt_each_set("rounds_to_even", test_rounds_to_even);
    qt_each_set_and_variant("limits", test_limits);
    qt_each_set_and_variant("gemm_weights", test_gemm_weights);
    qt_each_set_and_variant("bf16", test_bf16);
    return qt_run();
}
