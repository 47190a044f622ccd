/* Template: products of few rows with values as they are stored, converted on the way to the registers, and panels of
 * stored keys.
 *
 * Needs gemm.inc.h, squares.inc.h and storage.inc.h.
 *
 * SPDX-License-Identifier: MIT */

typedef struct stored_operands {
    ptrdiff_t ldc, lda, stride; /* stride in bytes */
    size_t cols, k;
    int resume; /* or, for squares, accumulate */
} stored_operands;

/* Elements x … x + VLEN − 1 of a row. */
QKV_INLINE vec v_load_at(int type, const unsigned char *row, size_t x) {
    if (type == QKV_Q8_0) {
        const unsigned char *block = row + x / QKV_Q8_0_CHANNELS * QKV_Q8_0_BYTES;
        return v_mul(v_set_f16(block), v_load_i8(block + 2 + x % QKV_Q8_0_CHANNELS));
    }
    return v_load_stored(type, row + qkv_stored_bytes(type, (int64_t)x));
}

/* The first n of them; the others are zeros. Blocks are whole. */
QKV_INLINE vec v_load_at_tail(int type, const unsigned char *row, size_t x, size_t n) {
    const size_t size = (size_t)qkv_stored_bytes(type, 1);
    unsigned char rest[VLEN * sizeof(float)] = {0};
    memcpy(rest, row + x * size, n * size);
    return v_load_stored(type, rest);
}

#define STORED_WIDTH(rows) STORED_WIDTH_OF(rows)
#define STORED_WIDTH_OF(rows) stored_vectors_##rows
#define STORED_SUM(i, j) sum_##i##_##j
#define STORED_A(i) (i < split ? a + i * row : lower + (i - split) * row)
#define STORED_BEGIN(i, j) vec STORED_SUM(i, j) = resume ? v_load(c + i * ldc + j * VLEN) : v_zero();
#define STORED_LOAD(i, j) vec of_b_##j = v_load_at(type, b, begin + j * VLEN);
#define STORED_FMA(i, j) STORED_SUM(i, j) = v_fma(factor, of_b_##j, STORED_SUM(i, j));
#define STORED_STORE(i, j) v_store(c + i * ldc + j * VLEN, STORED_SUM(i, j));
#define STORED_LOAD_FMA(i, j)                                                                                          \
    {                                                                                                                  \
        STORED_LOAD(i, j)                                                                                              \
        STORED_FMA(i, j)                                                                                               \
        V_PIN(STORED_SUM(i, j));                                                                                       \
    }

/* A term of each sum, from one column of A. A single row meets each vector of B as it comes: else those need more
 * registers than there are. */
#define STORED_STEP(vectors)                                                                                           \
    {                                                                                                                  \
        if (ROWS == 1) {                                                                                               \
            vec factor = v_set(*a);                                                                                    \
            QKV_COLS(vectors, STORED_LOAD_FMA, 0)                                                                      \
        } else {                                                                                                       \
            QKV_COLS(vectors, STORED_LOAD, 0)                                                                          \
            QKV_ROWS(ROWS, STORED_ROW_##vectors, 0)                                                                    \
        }                                                                                                              \
        b += stride;                                                                                                   \
    }
/* Three vectors: sums and B leave a single register for the factors of A, so none of those may come early. */
#define STORED_ROW(i, n)                                                                                               \
    {                                                                                                                  \
        vec factor = v_set(*STORED_A(i));                                                                              \
        if (n == 3)                                                                                                    \
            V_PIN(factor);                                                                                             \
        QKV_COLS(n, STORED_FMA, i)                                                                                     \
    }

#define STORED_BEGIN_1(i, j) QKV_COLS(1, STORED_BEGIN, i)
#define STORED_BEGIN_2(i, j) QKV_COLS(2, STORED_BEGIN, i)
#define STORED_BEGIN_3(i, j) QKV_COLS(3, STORED_BEGIN, i)
#define STORED_BEGIN_4(i, j) QKV_COLS(4, STORED_BEGIN, i)
#define STORED_BEGIN_8(i, j) QKV_COLS(8, STORED_BEGIN, i)
#define STORED_ROW_1(i, j) STORED_ROW(i, 1)
#define STORED_ROW_2(i, j) STORED_ROW(i, 2)
#define STORED_ROW_3(i, j) STORED_ROW(i, 3)
#define STORED_ROW_4(i, j) STORED_ROW(i, 4)
#define STORED_ROW_8(i, j) STORED_ROW(i, 8)
#define STORED_STORE_1(i, j) QKV_COLS(1, STORED_STORE, i)
#define STORED_STORE_2(i, j) QKV_COLS(2, STORED_STORE, i)
#define STORED_STORE_3(i, j) QKV_COLS(3, STORED_STORE, i)
#define STORED_STORE_4(i, j) QKV_COLS(4, STORED_STORE, i)
#define STORED_STORE_8(i, j) QKV_COLS(8, STORED_STORE, i)

/* The last columns, where they are no vector, of one row. */
static QKV_NOINLINE void stored_edge(int type, const stored_operands *o, float *c, const float *a,
                                     const unsigned char *b, size_t first) {
    vec sum = o->resume ? v_load(c) : v_zero();
    for (size_t x = 0; x < o->k; x++, b += o->stride)
        sum = v_fma(v_set(a[x]), v_load_at_tail(type, b, first, o->cols - first), sum);
    v_store(c, sum);
}

typedef void stored_function(const stored_operands *o, float *c, const float *a, const unsigned char *b,
                             gemm_fetch *fetch);

#define ROWS 1
#include "stored_tile.inc.h"
#define ROWS 2
#include "stored_tile.inc.h"
#define ROWS 3
#include "stored_tile.inc.h"
#define ROWS 4
#include "stored_tile.inc.h"
#define ROWS 6
#include "stored_tile.inc.h"

enum { STORED_HEIGHTS = 5 };
static const uint8_t stored_heights[STORED_HEIGHTS] = {6, 4, 3, 2, 1};
static const uint8_t stored_widths[STORED_HEIGHTS] = {stored_vectors_6, stored_vectors_4, stored_vectors_3,
                                                      stored_vectors_2, stored_vectors_1};

#define STORED_TABLE(prefix, type)                                                                                     \
    {                                                                                                                  \
        TILE_NAME(prefix, 6, type, ), TILE_NAME(prefix, 4, type, ), TILE_NAME(prefix, 3, type, ),                      \
            TILE_NAME(prefix, 2, type, ), TILE_NAME(prefix, 1, type, )                                                 \
    }
static stored_function *const stored_products[5][STORED_HEIGHTS] = {
    [QKV_F32] = STORED_TABLE(stored_, QKV_F32),   [QKV_F16] = STORED_TABLE(stored_, QKV_F16),
    [QKV_BF16] = STORED_TABLE(stored_, QKV_BF16), [QKV_Q8_0] = STORED_TABLE(stored_, QKV_Q8_0),
    [QKV_INT8] = STORED_TABLE(stored_, QKV_INT8),
};

/* Which of them is the highest for so many rows. */
QKV_INLINE size_t stored_height(size_t rows) {
    size_t n = 0;
    while (stored_heights[n] > rows)
        n++;
    return n;
}

/* Rows from the top, as many at a time as there is a tile for. */
QKV_INLINE void stored_rows(stored_function *const tiles[STORED_HEIGHTS], const stored_operands *o, float *c,
                            const float *a, const unsigned char *b, size_t rows, gemm_fetch *fetch) {
    while (rows > 0 && o->cols > 0) {
        size_t n = stored_height(rows);
        tiles[n](o, c, a, b, fetch);
        c += stored_heights[n] * o->ldc;
        a += stored_heights[n] * o->lda;
        rows -= stored_heights[n];
    }
}

static void gemm_stored(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const void *b, ptrdiff_t stride,
                        int type, size_t rows, size_t cols, size_t k, int resume, const qkv_soon *soon) {
    const stored_operands o = {ldc, lda, k > 1 ? stride : 0, cols, k, resume};
    size_t width = rows > 0 ? stored_widths[stored_height(rows)] * VLEN : VLEN;
    gemm_fetch fetch = gemm_fetch_plan(soon, (cols + width - 1) / width * k);
    stored_rows(stored_products[type], &o, c, a, b, rows, &fetch);
    v_leave();
}

/* Elements x … of VLEN rows, turned. Of rows that are not present, and channels beyond width, nothing is read. */
#define LOAD_STORED_ROW(i, j)                                                                                          \
    if (i % 4 == 0)                                                                                                    \
        QKV_OPAQUE(row);                                                                                               \
    square[i] = v_load_at(type, row, x);                                                                               \
    row += stride;
#define STORE_STORED_ROW(i, j) v_store(to + i * ld, square[i]);
QKV_INLINE void turn_square(int type, float *to, ptrdiff_t ld, const unsigned char *row, ptrdiff_t stride, size_t x,
                            size_t present, size_t width) {
    vec square[VLEN];
    if (present == VLEN && width == VLEN) {
        QKV_ROWS(VLEN, LOAD_STORED_ROW, 0)
        v_transpose(square);
        QKV_ROWS(VLEN, STORE_STORED_ROW, 0)
        return;
    }
    for (size_t i = 0; i < VLEN; i++, row += i < present ? stride : 0)
        square[i] = i >= present    ? v_zero()
                    : width == VLEN ? v_load_at(type, row, x)
                                    : v_load_at_tail(type, row, x, width);
    v_transpose(square);
    for (size_t y = 0; y < width; y++)
        v_store(to + (ptrdiff_t)y * ld, square[y]);
}

QKV_INLINE void pack_rows(int type, float *panel, ptrdiff_t ld, const unsigned char *src, ptrdiff_t stride, size_t rows,
                          size_t k) {
    for (size_t r = 0; r < (size_t)ld; r += VLEN) {
        size_t present = r >= rows ? 0 : rows - r < VLEN ? rows - r : VLEN;
        const unsigned char *from = present > 0 ? src + (ptrdiff_t)r * stride : src;
        for (size_t x = 0; x < k; x += VLEN)
            turn_square(type, panel + (ptrdiff_t)x * ld + r, ld, from, stride, x, present, k - x < VLEN ? k - x : VLEN);
    }
}

/* Blocks: turned first, then multiplied by the scales of their rows, side by side in one vector. */
#define LOAD_BLOCK_ROW(i, j) square[i] = (size_t)i < present ? v_load_i8(row + i * stride + x) : v_zero();
#define STORE_BLOCK_ROW(i, j) v_store(to + i * ld, v_mul(square[i], scales));
QKV_INLINE void pack_blocks(float *panel, ptrdiff_t ld, const unsigned char *src, ptrdiff_t stride, size_t rows,
                            size_t k) {
    for (size_t r = 0; r < (size_t)ld; r += VLEN) {
        size_t present = r >= rows ? 0 : rows - r < VLEN ? rows - r : VLEN;
        const unsigned char *row = present > 0 ? src + (ptrdiff_t)r * stride : src;
        float *to = panel + r;
        for (size_t c = 0; c < k; c += QKV_Q8_0_CHANNELS, row += QKV_Q8_0_BYTES) {
            unsigned char halves[2 * VLEN] = {0};
            for (size_t i = 0; i < present; i++)
                memcpy(halves + 2 * i, row + (ptrdiff_t)i * stride, 2);
            vec scales = v_load_f16(halves);
            for (size_t x = 2; x < QKV_Q8_0_BYTES; x += VLEN, to += VLEN * ld) {
                vec square[VLEN];
                QKV_ROWS(VLEN, LOAD_BLOCK_ROW, 0)
                v_transpose(square);
                QKV_ROWS(VLEN, STORE_BLOCK_ROW, 0)
            }
        }
    }
}

static void pack_stored(float *panel, ptrdiff_t ld, const void *src, ptrdiff_t stride, int type, size_t rows,
                        size_t k) {
    if (rows <= 1)
        stride = 0; /* it may be anything */
    switch (type) {
    case QKV_F16: pack_rows(QKV_F16, panel, ld, src, stride, rows, k); break;
    case QKV_BF16: pack_rows(QKV_BF16, panel, ld, src, stride, rows, k); break;
    case QKV_INT8: pack_rows(QKV_INT8, panel, ld, src, stride, rows, k); break;
    case QKV_Q8_0: pack_blocks(panel, ld, src, stride, rows, k); break;
    default: pack_rows(QKV_F32, panel, ld, src, stride, rows, k);
    }
    v_leave();
}

static void scale_columns(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *factors) {
    for (; rows > 0; rows--, t += ld) {
        size_t j = 0;
        for (; j + VLEN <= cols; j += VLEN)
            v_store(t + j, v_mul(v_load(t + j), v_load(factors + j)));
        if (j < cols)
            v_store_tail(t + j, v_mul(v_load_tail(t + j, v_tail(cols - j)), v_load_tail(factors + j, v_tail(cols - j))),
                         v_tail(cols - j));
    }
    v_leave();
}
