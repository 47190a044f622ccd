/* Template: products of operands in bfloat16 by an instruction that adds two products to a float, that of the second
 * term first; the entries are rows_bf16_dots, weights_bf16_dots and gemm_bf16_dots. Pairs are words, the first term in
 * the lower half.
 *
 * Needs bf16.inc.h, and of the instruction set, inside a target region of its own: p_dot(sum, b, a), sum + the products
 * of pairs.
 *
 * SPDX-License-Identifier: MIT */

static void rows_bf16_dots(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows,
                           size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *from = x + (ptrdiff_t)i * ldx;
        unsigned char *to = (unsigned char *)dst + 2 * ((ptrdiff_t)i * ldd + (ptrdiff_t)first);
        size_t j = 0;
        for (; j + VLEN <= k; j += VLEN)
            v_store_bf16(to + 2 * j, v_not_tiny(v_load(from + j)));
        if (j < k) {
            float last[VLEN] = {0}; /* words of two, not floats */
            v_store_bf16((unsigned char *)last, v_not_tiny(v_load_tail(from + j, v_tail(k - j))));
            v_store_tail((float *)(void *)(to + 2 * j), v_load(last), v_tail((k - j + 1) / 2));
        }
    }
    v_leave();
}

/* Rows of a panel in pairs; the last pair of an odd number has no second one. In place, too: a row of pairs never meets
 * rows that are still to come. */
QKV_INLINE void pairs_of_panel(int type, void *to, const unsigned char *rows, size_t k) {
    uint32_t *dst = (uint32_t *)to;
    const size_t size = (size_t)qkv_stored_bytes(type, 1), row = QKV_PANEL * size;
    for (size_t x = 0; x < k; x += 2, dst += QKV_PANEL, rows += 2 * row) {
        for (size_t j = 0; j < QKV_PANEL; j += VLEN) {
            const vec of_first = v_bf16(v_load_stored(type, rows + j * size));
            const vec of_second = x + 1 < k ? v_bf16(v_load_stored(type, rows + row + j * size)) : v_zero();
            i_store(dst + j, i_or(i_shift(i_bits(of_first), -16), i_bits(of_second)));
        }
    }
}

WEIGHTS_BF16(weights_bf16_dots, pairs_of_panel)

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
