/* Template: products of operands in bfloat16 by an instruction that adds two products to a float, that of the second
 * term first; the entries end in _bf16_dots. Pairs are words, the first term in the lower half.
 *
 * Needs bf16.inc.h, and of the instruction set, inside a target region of its own: p_dot(sum, b, a), sum + the
 * products of pairs; of operands that are not tiny, rounded to nearest even, p_zip(first, second), a pair of each lane,
 * and p_pack(a, b), pairs of neighbours, those of b in the upper half; p_load(at), 2·VLEN bfloat16 values as they lie
 * in memory, but 0 below 2⁻⁵⁶; p_zip_halves(a, b, upper), pairs of such values.
 *
 * SPDX-License-Identifier: MIT */

/* Words of a row, its terms from x on. */
QKV_INLINE vint words_at(int type, const unsigned char *row, size_t x, size_t k) {
    if (type == QKV_BF16 && k - x >= 2 * VLEN)
        return p_load(row + 2 * x);
    return p_pack(v_operands(type, row, x, k), k - x > VLEN ? v_operands(type, row, x + VLEN, k) : v_zero());
}

static void rows_bf16_dots(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows,
                           size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const unsigned char *from = (const unsigned char *)(x + (ptrdiff_t)i * ldx);
        unsigned char *to = (unsigned char *)dst + 2 * ((ptrdiff_t)i * ldd + (ptrdiff_t)first);
        size_t j = 0;
        for (; j + 2 * VLEN <= k; j += 2 * VLEN)
            i_store(to + 2 * j, words_at(QKV_F32, from, j, j + 2 * VLEN));
        if (j < k)
            v_store_tail((float *)(void *)(to + 2 * j), v_bits(words_at(QKV_F32, from, j, k)), v_tail((k - j + 1) / 2));
    }
    v_leave();
}

/* A row of pairs of a panel. */
QKV_INLINE void pair_to_words(int type, void *to, const unsigned char *first, const unsigned char *second,
                              size_t cols) {
    uint32_t *dst = (uint32_t *)to;
    size_t j = 0;
    for (; type == QKV_BF16 && j + 2 * VLEN <= cols; j += 2 * VLEN) {
        const vint a = p_load(first + 2 * j), b = p_load(second + 2 * j);
        i_store(dst + j, p_zip_halves(a, b, 0));
        i_store(dst + j + VLEN, p_zip_halves(a, b, 1));
    }
    for (; j + VLEN <= cols; j += VLEN)
        i_store(dst + j, p_zip(v_operands(type, first, j, j + VLEN), v_operands(type, second, j, j + VLEN)));
    if (j < cols)
        i_store(dst + j, p_zip(v_operands(type, first, j, cols), v_operands(type, second, j, cols)));
}
ROWS_BF16(rows_to_words, pair_to_words, QKV_PANEL * sizeof(uint32_t))
VALUES_BF16(values_bf16_dots, rows_to_words)
WEIGHTS_BF16(weights_bf16_dots, values_bf16_dots)

/* VLEN rows × VLEN words, turned: words from term x on of rows, of which so many are present and have k terms. */
#define WORDS_OF_ROW(i, j)                                                                                             \
    if (i % 4 == 0)                                                                                                    \
        QKV_OPAQUE(row);                                                                                               \
    square[i] = v_bits(words_at(type, row, x, x + 2 * VLEN));                                                          \
    row += stride;
#define STORE_WORDS(i, j) i_store(to + i * QKV_PANEL, i_bits(square[i]));
QKV_INLINE void turn_words(int type, uint32_t *to, const unsigned char *row, ptrdiff_t stride, size_t x, size_t present,
                           size_t k) {
    vec square[VLEN];
    if (present == VLEN && k - x >= 2 * VLEN) {
        QKV_ROWS(VLEN, WORDS_OF_ROW, 0)
        v_transpose(square);
        QKV_ROWS(VLEN, STORE_WORDS, 0)
        return;
    }
    for (size_t i = 0; i < VLEN; i++, row += i < present ? stride : 0)
        square[i] = i < present ? v_bits(words_at(type, row, x, k)) : v_zero();
    v_transpose(square);
    for (size_t i = 0; i < VLEN && x + 2 * i < k; i++)
        i_store(to + i * QKV_PANEL, i_bits(square[i]));
}

QKV_INLINE void keys_to_words(int type, uint32_t *dst, const unsigned char *src, ptrdiff_t stride, size_t rows,
                              size_t k) {
    for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
        const size_t present = r >= rows ? 0 : rows - r < VLEN ? rows - r : VLEN;
        const unsigned char *row = present > 0 ? src + (ptrdiff_t)r * stride : src;
        for (size_t x = 0; x < k; x += 2 * VLEN)
            turn_words(type, dst + x / 2 * QKV_PANEL + r, row, stride, x, present, k);
    }
}

static void keys_bf16_dots(void *dst, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k) {
    BY_STORED_TYPE(keys_to_words, type, (uint32_t *)dst, (const unsigned char *)src, stride, rows, k)
    v_leave();
}

/* The softmax of one or two rows, two vectors of each at a time, whose weights become words: they are 0 or at least
 * 2⁻⁵⁶. On Zen 4, where additions, roundings and conversions keep other units busy than fma, one of the subtractions is
 * one: `one` is 1, and the compiler does not know. */
_Static_assert(VLEN == QKV_LANES, "a vector holds all lanes");
#define ROW_OF_WORDS(i, j)                                                                                             \
    if (i < n) {                                                                                                       \
        top[i] = v_set(m[i]);                                                                                          \
        lanes[i] = v_zero();                                                                                           \
    }
#define WORDS_LOAD(i, j)                                                                                               \
    if (i < n)                                                                                                         \
        p[2 * i + j] = v_fnma(one, top[i], v_load(t + i * ld + x + j * VLEN));
#define WORDS_LOADS(i, j) QKV_COLS(2, WORDS_LOAD, i)
#define WORDS_STORE(i, j)                                                                                              \
    if (i < n) {                                                                                                       \
        i_store((uint16_t *)(t + i * ld) + x, p_pack(p[2 * i], p[2 * i + 1]));                                         \
        lanes[i] = v_add(v_add(lanes[i], p[2 * i]), p[2 * i + 1]);                                                     \
    }
#define WORDS_END(i, j)                                                                                                \
    if (i < n) {                                                                                                       \
        if (x < end) {                                                                                                 \
            float *row = t + i * ld;                                                                                   \
            p[i] = v_sub(v_load(row + x), top[i]);                                                                     \
            v_exp2s(p + i, 1, BF16_EXP2_DEGREE);                                                                       \
            v_store_tail((float *)(void *)((uint16_t *)row + x), v_bits(p_pack(p[i], p[i])), v_tail(VLEN / 2));        \
            lanes[i] = v_add(lanes[i], p[i]);                                                                          \
        }                                                                                                              \
        l[i] = v_sum_lanes(&lanes[i]);                                                                                 \
    }
QKV_INLINE void weights_to_words(int n, float *t, ptrdiff_t ld, size_t first, size_t end, const float *m, float *l) {
    vec top[2], lanes[2], p[4], one = v_set(1.0f);
    V_PIN(one);
    QKV_ROWS(2, ROW_OF_WORDS, 0)
    size_t x = first;
    for (; x + 2 * VLEN <= end; x += 2 * VLEN) {
        QKV_ROWS(2, WORDS_LOADS, 0)
        v_exp2s(p, 2 * n, BF16_EXP2_DEGREE);
        QKV_ROWS(2, WORDS_STORE, 0)
    }
    QKV_ROWS(2, WORDS_END, 0)
}

static void softmax_bf16_dots(float *t, ptrdiff_t ld, size_t first, size_t rows, size_t cols, float *m, float *l,
                              int rounds) {
    if (!rounds) {
        softmax_to_floats(t, ld, first, first + cols, rows, m, l);
        return;
    }
    row_maxima(t, ld, first, first + cols, rows, m);
    for (; rows >= 2; rows -= 2, t += 2 * ld, m += 2, l += 2)
        weights_to_words(2, t, ld, first, first + cols, m, l);
    if (rows > 0)
        weights_to_words(1, t, ld, first, first + cols, m, l);
    v_leave();
}

/* A word is two terms: what multiplies floats elsewhere multiplies words here, which are loaded as floats. */
QKV_INLINE vec p_fma(vec a, vec b, vec c) { return p_dot(c, i_bits(b), i_bits(a)); }
#define TILE_FMA p_fma
#define TILE_START(row) v_zero()
#define TILE_END(sum) (sum)
#define TILE_FUNCTION gemm_pairs_
#define TRANSPOSED_TILE_FUNCTION gemm_t_pairs_
#include "gemm_product.inc.h"

static void gemm_bf16_dots(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                           size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    const gemm_operands o = {ldc, lda / 2, QKV_PANEL, QKV_PANEL, rows, cols, (k + 1) / 2, accumulate};
    gemm_pairs_product(&o, c, (const float *)a + first / 2, (const float *)b, soon);
    v_leave();
}

static void gemm_t_bf16_dots(float *c, ptrdiff_t ldc, const void *a, const void *b, size_t rows, size_t cols, size_t k,
                             int accumulate) {
    const gemm_operands o = {ldc, QKV_PANEL, QKV_PANEL, QKV_PANEL, rows, cols, (k + 1) / 2, accumulate};
    gemm_t_pairs_product(&o, c, (const float *)a, (const float *)b, NULL);
    v_leave();
}

#include "bf16_stored.inc.h"
