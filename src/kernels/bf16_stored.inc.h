/* Template: few rows of operands in bfloat16 by rows as they are stored: what values_bf16 and gemm_bf16 do, without a
 * panel in between. Part of bf16_dots.inc.h.
 *
 * SPDX-License-Identifier: MIT */

/* Words of vector j of a pair of stored rows, of which `width` elements from `in` on are there. */
QKV_INLINE vint words_of_pair(int type, const unsigned char *row, const unsigned char *next, size_t in, size_t j,
                              size_t width) {
    const size_t at = in + j / 2 * 2 * VLEN;
    if (type == QKV_BF16 && width >= 2 * VLEN)
        return p_zip_halves(p_load(row + 2 * at), p_load(next + 2 * at), j % 2);
    return p_zip(v_operands(type, row, in + j * VLEN, in + width), v_operands(type, next, in + j * VLEN, in + width));
}

#define PAIR_BEGIN(i, j) vec sum_##i##_##j = resume ? v_load(c + i * ldc + j * VLEN) : v_zero();
#define PAIR_LOAD(i, j) const vint pair_##j = words_of_pair(type, row, next, in, j, width);
#define PAIR_DOT(i, j) sum_##i##_##j = p_dot(sum_##i##_##j, pair_##j, factor);
#define PAIR_STORE(i, j) v_store(c + i * ldc + j * VLEN, sum_##i##_##j);
#define PAIR_DOTS(i, vectors)                                                                                          \
    {                                                                                                                  \
        const vint factor = i_bits(v_set(a[i * lda]));                                                                 \
        QKV_COLS(vectors, PAIR_DOT, i)                                                                                 \
    }
#define PAIR_BEGIN_ROW(i, vectors) QKV_COLS(vectors, PAIR_BEGIN, i)
#define PAIR_STORE_ROW(i, vectors) QKV_COLS(vectors, PAIR_STORE, i)

/* So many rows and vectors of columns, `width` of them there, by terms first … end. b: the first stored row, from the
 * tile's first column on, or from the block that it lies in, in which it is element `in`. */
#define PAIR_TILE(rows, vectors)                                                                                       \
    QKV_INLINE void pair_tile_##rows##x##vectors(int type, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda,     \
                                                 const unsigned char *b, ptrdiff_t stride, size_t in, size_t width,    \
                                                 size_t first, size_t end, int resume, gemm_fetch *fetch) {            \
        QKV_ROWS(rows, PAIR_BEGIN_ROW, vectors)                                                                        \
        for (size_t x = first / 2 * 2; x < end; x += 2, a++) {                                                         \
            const unsigned char *row = x < first ? no_row : b, *next = no_row;                                         \
            b += x < first ? 0 : stride;                                                                               \
            if (x + 1 < end) {                                                                                         \
                next = b;                                                                                              \
                b += stride;                                                                                           \
            }                                                                                                          \
            gemm_fetch_lines(fetch);                                                                                   \
            QKV_COLS(vectors, PAIR_LOAD, 0)                                                                            \
            QKV_ROWS(rows, PAIR_DOTS, vectors)                                                                         \
        }                                                                                                              \
        QKV_ROWS(rows, PAIR_STORE_ROW, vectors)                                                                        \
    }

/* All columns of so many rows. In a block of QKV_Q8_0, a column has its number there. */
#define PAIR_ROWS(rows)                                                                                                \
    PAIR_TILE(rows, 4)                                                                                                 \
    PAIR_TILE(rows, 1)                                                                                                 \
    QKV_INLINE void pair_rows_##rows(int type, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda,                 \
                                     const unsigned char *b, ptrdiff_t stride, size_t cols, size_t first, size_t end,  \
                                     int resume, gemm_fetch *fetch) {                                                  \
        const size_t block = type == QKV_Q8_0 ? QKV_Q8_0_CHANNELS : 1;                                                 \
        size_t j = 0;                                                                                                  \
        for (; j + 4 * VLEN <= cols; j += 4 * VLEN)                                                                    \
            pair_tile_##rows##x4(type, c + j, ldc, a, lda, b + qkv_stored_bytes(type, (int64_t)j), stride, 0,          \
                                 4 * VLEN, first, end, resume, fetch);                                                 \
        for (; j < cols; j += VLEN)                                                                                    \
            pair_tile_##rows##x1(type, c + j, ldc, a, lda, b + qkv_stored_bytes(type, (int64_t)(j / block * block)),   \
                                 stride, j % block, cols - j < VLEN ? cols - j : VLEN, first, end, resume, fetch);     \
    }
PAIR_ROWS(1)
PAIR_ROWS(2)
PAIR_ROWS(4)

QKV_INLINE void stored_pairs(int type, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const unsigned char *b,
                             ptrdiff_t stride, size_t rows, size_t cols, size_t first, size_t end, int resume,
                             gemm_fetch *fetch) {
    for (; rows >= 4; rows -= 4, c += 4 * ldc, a += 4 * lda)
        pair_rows_4(type, c, ldc, a, lda, b, stride, cols, first, end, resume, fetch);
    for (; rows >= 2; rows -= 2, c += 2 * ldc, a += 2 * lda)
        pair_rows_2(type, c, ldc, a, lda, b, stride, cols, first, end, resume, fetch);
    if (rows > 0)
        pair_rows_1(type, c, ldc, a, lda, b, stride, cols, first, end, resume, fetch);
}

static void gemm_stored_bf16_dots(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                                  ptrdiff_t stride, int type, size_t rows, size_t cols, size_t k, int resume,
                                  const qkv_soon *soon) {
    const float *words = (const float *)a + first / 2;
    gemm_fetch fetch = gemm_fetch_plan(soon, (cols + STRIP - 1) / STRIP * ((k + 1) / 2));
    stride = k > 1 ? stride : 0; /* it may be anything */
    BY_STORED_TYPE(stored_pairs, type, c, ldc, words, lda / 2, (const unsigned char *)b, stride, rows, cols, first,
                   first + k, resume, &fetch)
    v_leave();
}
