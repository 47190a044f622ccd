/* Template: products of operands in bfloat16 by an instruction that adds two products to a float, that of the second
 * term first; the entries end in _bf16_dots. Pairs are words, the first term in the lower half.
 *
 * Needs bf16.inc.h, and of the instruction set, inside a target region of its own: p_dot(sum, b, a), sum + the products
 * of pairs; of operands that are not tiny, rounded to nearest even, p_zip(first, second), a pair of each lane, and
 * p_pack(a, b), pairs of neighbours, those of b in the upper half; p_load(at), 2·VLEN bfloat16 values as they lie in
 * memory, but 0 below 2⁻⁵⁶.
 *
 * SPDX-License-Identifier: MIT */

/* Words of a row, its terms from x on. */
QKV_INLINE vint words_at(int type, const unsigned char *row, size_t x, size_t k) {
    if (type == QKV_BF16 && row && k - x >= 2 * VLEN)
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
            i_store(to + 2 * j, words_at(QKV_F32, from, j, k));
        if (j < k)
            v_store_tail((float *)(void *)(to + 2 * j), v_bits(words_at(QKV_F32, from, j, k)), v_tail((k - j + 1) / 2));
    }
    v_leave();
}

/* A row of pairs of a panel. */
QKV_INLINE void pair_to_words(int type, void *to, const unsigned char *first, const unsigned char *second,
                              size_t cols) {
    uint32_t *dst = (uint32_t *)to;
    for (size_t j = 0; j < cols; j += VLEN)
        i_store(dst + j, p_zip(v_operands(type, first, j, cols), v_operands(type, second, j, cols)));
}
ROWS_BF16(rows_to_words, pair_to_words, QKV_PANEL * sizeof(uint32_t))
VALUES_BF16(values_bf16_dots, rows_to_words)
WEIGHTS_BF16(weights_bf16_dots, values_bf16_dots)

/* VLEN rows × VLEN words, turned. */
#define WORDS_OF_ROW(i, j) square[i] = v_bits(words_at(type, (size_t)(i) < present ? row + i * stride : NULL, x, k));
#define STORE_WORDS(i, j) i_store(to + i * QKV_PANEL, i_bits(square[i]));
QKV_INLINE void keys_to_words(int type, uint32_t *dst, const unsigned char *src, ptrdiff_t stride, size_t rows,
                              size_t k) {
    for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
        const size_t present = r >= rows ? 0 : rows - r < VLEN ? rows - r : VLEN;
        const unsigned char *row = present > 0 ? src + (ptrdiff_t)r * stride : src;
        for (size_t x = 0; x < k; x += 2 * VLEN) {
            uint32_t *to = dst + x / 2 * QKV_PANEL + r;
            vec square[VLEN];
            QKV_ROWS(VLEN, WORDS_OF_ROW, 0)
            v_transpose(square);
            if (k - x >= 2 * VLEN) {
                QKV_ROWS(VLEN, STORE_WORDS, 0)
                continue;
            }
            for (size_t i = 0; i < (k - x + 1) / 2; i++)
                i_store(to + i * QKV_PANEL, i_bits(square[i]));
        }
    }
}

static void keys_bf16_dots(void *dst, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k) {
    uint32_t *to = (uint32_t *)dst;
    const unsigned char *from = (const unsigned char *)src;
    switch (type) {
    case QKV_F16: keys_to_words(QKV_F16, to, from, stride, rows, k); break;
    case QKV_BF16: keys_to_words(QKV_BF16, to, from, stride, rows, k); break;
    case QKV_INT8: keys_to_words(QKV_INT8, to, from, stride, rows, k); break;
    case QKV_Q8_0: keys_to_words(QKV_Q8_0, to, from, stride, rows, k); break;
    default: keys_to_words(QKV_F32, to, from, stride, rows, k);
    }
    v_leave();
}

/* Tiles of rows × vectors of a panel: every sum in a register. */
#define DECLARE_SUM(i, j) vec sum_##i##_##j = v_zero();
#define LOAD_PAIRS(x, j) const vint b_##j = i_load(b + j * VLEN);
#define ADD_PAIRS(i, x, j) sum_##i##_##j = p_dot(sum_##i##_##j, b_##j, a_##i);
#define STORE_SUM(i, x, j)                                                                                           \
    v_store(c + i * ldc + j * VLEN, accumulate ? v_add(v_load(c + i * ldc + j * VLEN), sum_##i##_##j) : sum_##i##_##j);
#define DECLARE_SUMS_1(i, x) QKV_COLS(1, DECLARE_SUM, i)
#define DECLARE_SUMS_4(i, x) QKV_COLS(4, DECLARE_SUM, i)
#define ADD_ROW_1(i, x)                                                                                              \
    {                                                                                                                \
        const vint a_##i = i_words(a + i * lda);                                                                     \
        QKV_PAIRS(1, ADD_PAIRS, i, x)                                                                                \
    }
#define ADD_ROW_4(i, x)                                                                                              \
    {                                                                                                                \
        const vint a_##i = i_words(a + i * lda);                                                                     \
        QKV_PAIRS(4, ADD_PAIRS, i, x)                                                                                \
    }
#define STORE_SUMS_1(i, x) QKV_PAIRS(1, STORE_SUM, i, x)
#define STORE_SUMS_4(i, x) QKV_PAIRS(4, STORE_SUM, i, x)

typedef void pairs_function(float *c, ptrdiff_t ldc, const unsigned char *a, ptrdiff_t lda, const uint32_t *b, size_t k,
                            int accumulate);

#define PAIRS_TILE(rows, vectors)                                                                                    \
    static QKV_NOINLINE void gemm_pairs_##rows##x##vectors(float *c, ptrdiff_t ldc, const unsigned char *a,          \
                                                           ptrdiff_t lda, const uint32_t *b, size_t k,               \
                                                           int accumulate) {                                         \
        QKV_ROWS(rows, DECLARE_SUMS_##vectors, 0)                                                                    \
        for (; k > 0; k--, a += 4, b += QKV_PANEL) {                                                                 \
            QKV_COLS(vectors, LOAD_PAIRS, 0)                                                                         \
            QKV_ROWS(rows, ADD_ROW_##vectors, 0)                                                                     \
        }                                                                                                            \
        QKV_ROWS(rows, STORE_SUMS_##vectors, 0)                                                                      \
    }
PAIRS_TILE(1, 4)
PAIRS_TILE(2, 4)
PAIRS_TILE(3, 4)
PAIRS_TILE(4, 4)
PAIRS_TILE(5, 4)
PAIRS_TILE(6, 4)
PAIRS_TILE(1, 1)
PAIRS_TILE(2, 1)
PAIRS_TILE(3, 1)
PAIRS_TILE(4, 1)
PAIRS_TILE(5, 1)
PAIRS_TILE(6, 1)
static pairs_function *const pairs_tiles[6][2] = {
    {gemm_pairs_1x1, gemm_pairs_1x4}, {gemm_pairs_2x1, gemm_pairs_2x4}, {gemm_pairs_3x1, gemm_pairs_3x4},
    {gemm_pairs_4x1, gemm_pairs_4x4}, {gemm_pairs_5x1, gemm_pairs_5x4}, {gemm_pairs_6x1, gemm_pairs_6x4},
};

static void gemm_bf16_dots(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                           size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    const unsigned char *row = (const unsigned char *)a + 2 * first;
    (void)soon; /* weights_bf16_dots reads what comes soon one line after the other */
    for (size_t n; rows > 0; rows -= n, c += (ptrdiff_t)n * ldc, row += (ptrdiff_t)n * 2 * lda) {
        n = rows < 6 ? rows : 6;
        size_t j = 0;
        for (; j + 4 * VLEN <= cols; j += 4 * VLEN)
            pairs_tiles[n - 1][1](c + j, ldc, row, 2 * lda, (const uint32_t *)b + j, (k + 1) / 2, accumulate);
        for (; j < cols; j += VLEN)
            pairs_tiles[n - 1][0](c + j, ldc, row, 2 * lda, (const uint32_t *)b + j, (k + 1) / 2, accumulate);
    }
    v_leave();
}
