/* The product of packed weights and activations in 8 bits with SMMLA, which multiplies eight terms of two rows by those
 * of two columns. Needs weights_dots.inc.h, inside a target region with I8MM; the entry is gemm_weights_squares.
 *
 * The integers of a block are spread to [8 terms][pair of columns] bytes. Sums of four rows × 16 columns, or of two,
 * are in registers, two rows × two columns in each.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_SQUARES_NEON_H
#define QKV_SQUARES_NEON_H

enum { PAIRS_OF_COLUMNS = 16 * QKV_PANEL / 2 }; /* bytes of eight terms of all columns */

#define SMMLA(sum, a, b) __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b))

/* Rows 2i and 2i + 1; a row that is none is the one before it, and its results go nowhere. */
#define START_PAIR(i, x)                                                                                               \
    {                                                                                                                  \
        const qkv_terms *upper = a[2 * i], *lower = a[2 * i + 1];                                                      \
        const int32_t of_upper = halves ? upper->sum - upper->upper_sum : upper->sum;                                  \
        const int32_t of_lower = halves ? lower->sum - lower->upper_sum : lower->sum;                                  \
        start = vcombine_s32(vdup_n_s32(of_upper * less), vdup_n_s32(of_lower * less));                                \
        QKV_COLS(8, START_SQUARE, i)                                                                                   \
    }
#define RESTART_PAIR(i, x)                                                                                             \
    start = vcombine_s32(vdup_n_s32(a[2 * i]->upper_sum * less), vdup_n_s32(a[2 * i + 1]->upper_sum * less));          \
    QKV_COLS(8, START_SQUARE, i)
#define DECLARE_SQUARES(i, x) QKV_COLS(8, DECLARE_SQUARE, i)
#define DECLARE_SQUARE(i, p) int32x4_t sum_##i##_##p;
#define START_SQUARE(i, p) sum_##i##_##p = start;
#define LOAD_PAIR(i, h)                                                                                                \
    const int8x16_t a_##i = vcombine_s8(vld1_s8(a[2 * i]->q + 8 * h), vld1_s8(a[2 * i + 1]->q + 8 * h));
#define ADD_SQUARE(i, p)                                                                                               \
    SMMLA(sum_##i##_##p, a_##i, of_b);                                                                                 \
    V_ORDERED(sum_##i##_##p);
#define ADD_SQUARES_1(h, p)                                                                                            \
    {                                                                                                                  \
        const int8x16_t of_b = vld1q_s8((const int8_t *)spread + h * PAIRS_OF_COLUMNS + p * 16);                       \
        DOT_FENCE                                                                                                      \
        QKV_ROWS(1, ADD_SQUARE, p)                                                                                     \
    }
#define ADD_SQUARES_2(h, p)                                                                                            \
    {                                                                                                                  \
        const int8x16_t of_b = vld1q_s8((const int8_t *)spread + h * PAIRS_OF_COLUMNS + p * 16);                       \
        DOT_FENCE                                                                                                      \
        QKV_ROWS(2, ADD_SQUARE, p)                                                                                     \
    }
#define EIGHT_TERMS(pairs, h)                                                                                          \
    {                                                                                                                  \
        QKV_ROWS(pairs, LOAD_PAIR, h)                                                                                  \
        QKV_COLS(8, ADD_SQUARES_##pairs, h)                                                                            \
    }
#define FOLD_HALF(row, sums, scales, v)                                                                                \
    {                                                                                                                  \
        float *to = c[row] + v * VLEN;                                                                                 \
        const vec sum = vcvtq_f32_s32(vreinterpretq_s32_s64(sums));                                                    \
        vec y = v_fma(sum, v_mul(v_set(a[row]->scale), v_load(scales + v * VLEN)), v_load(to));                        \
        if (minimum)                                                                                                   \
            y = v_fma(v_set(a[row]->scaled_sum), v_load(factors + QKV_PANEL + v * VLEN), y);                           \
        v_store(to, y);                                                                                                \
    }
#define FOLD_SQUARES(i, scales, v, p, next)                                                                            \
    {                                                                                                                  \
        const int64x2_t first = vreinterpretq_s64_s32(sum_##i##_##p);                                                  \
        const int64x2_t second = vreinterpretq_s64_s32(sum_##i##_##next);                                              \
        FOLD_HALF(2 * i, vzip1q_s64(first, second), scales, v)                                                         \
        FOLD_HALF(2 * i + 1, vzip2q_s64(first, second), scales, v)                                                     \
    }
#define FOLD_PAIR(i, scales)                                                                                           \
    FOLD_SQUARES(i, scales, 0, 0, 1)                                                                                   \
    FOLD_SQUARES(i, scales, 1, 2, 3)                                                                                   \
    FOLD_SQUARES(i, scales, 2, 4, 5)                                                                                   \
    FOLD_SQUARES(i, scales, 3, 6, 7)

/* 16 columns of one or two pairs of rows. */
#define SQUARES_TILE(pairs)                                                                                            \
    QKV_INLINE void squares_##pairs(int halves, int minimum, float *const c[4], const qkv_terms *const a[4],           \
                                    const unsigned char *spread, const float *factors, int32_t less) {                 \
        const float *second_scales = factors + QKV_PANEL;                                                              \
        int32x4_t start;                                                                                               \
        QKV_ROWS(pairs, DECLARE_SQUARES, 0)                                                                            \
        QKV_ROWS(pairs, START_PAIR, 0)                                                                                 \
        EIGHT_TERMS(pairs, 0)                                                                                          \
        EIGHT_TERMS(pairs, 1)                                                                                          \
        if (halves) {                                                                                                  \
            QKV_ROWS(pairs, FOLD_PAIR, factors)                                                                        \
            QKV_ROWS(pairs, RESTART_PAIR, 0)                                                                           \
        }                                                                                                              \
        EIGHT_TERMS(pairs, 2)                                                                                          \
        EIGHT_TERMS(pairs, 3)                                                                                          \
        if (halves) {                                                                                                  \
            QKV_ROWS(pairs, FOLD_PAIR, second_scales)                                                                  \
        } else {                                                                                                       \
            QKV_ROWS(pairs, FOLD_PAIR, factors)                                                                        \
        }                                                                                                              \
    }
SQUARES_TILE(1)
SQUARES_TILE(2)

#define SPREAD_SQUARES(name, halves, minimum)                                                                          \
    static QKV_NOINLINE void name(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows, size_t cols,               \
                                  const unsigned char *spread, const float *factors, int32_t less) {                   \
        float nowhere[QKV_PANEL] = {0};                                                                                \
        for (size_t n; rows > 0; rows -= n, a += n, c += (ptrdiff_t)n * ldc) {                                         \
            n = rows < 4 ? rows : 4;                                                                                   \
            const qkv_terms *terms[4] = {a, a + (n > 1), a + (n > 2 ? 2 : 0), a + (n > 3 ? 3 : n > 2 ? 2 : 0)};        \
            for (size_t j = 0; j < cols; j += QKV_LANES) {                                                             \
                float *rows_of_c[4];                                                                                   \
                for (size_t i = 0; i < 4; i++)                                                                         \
                    rows_of_c[i] = (i < n ? c + (ptrdiff_t)i * ldc : nowhere) + j;                                     \
                if (n > 2)                                                                                             \
                    squares_2(halves, minimum, rows_of_c, terms, spread + 8 * j, factors + j, less);                   \
                else                                                                                                   \
                    squares_1(halves, minimum, rows_of_c, terms, spread + 8 * j, factors + j, less);                   \
            }                                                                                                          \
        }                                                                                                              \
    }
SPREAD_SQUARES(spread_squares, 0, 0)
SPREAD_SQUARES(spread_squares_minimum, 0, 1)
SPREAD_SQUARES(spread_squares_halves, 1, 0)

/* Words 2h and 2h + 1 of four columns: the eight terms of each column side by side. */
#define SPREAD_EIGHT(h, j)                                                                                             \
    {                                                                                                                  \
        const uint32x4_t even = d_word(bits, integers + 4 * j, 2 * h);                                                 \
        const uint32x4_t odd = d_word(bits, integers + 4 * j, 2 * h + 1);                                              \
        i_store(spread + h * PAIRS_OF_COLUMNS + 8 * j, vzip1q_u32(even, odd));                                         \
        i_store(spread + h * PAIRS_OF_COLUMNS + 8 * j + 16, vzip2q_u32(even, odd));                                    \
    }
QKV_INLINE void squares_block(int bits, int zero, int minimum, float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows,
                              size_t cols, const unsigned char *integers, const float *factors) {
    const int halves = bits == 6;
    if (rows == 1) {
        dots_1(bits, halves, minimum, c, ldc, a, cols, integers, factors, 0u - (uint32_t)zero);
        return;
    }
    _Alignas(64) unsigned char memory[4 * PAIRS_OF_COLUMNS];
    unsigned char *spread = memory;
    QKV_OPAQUE(spread);
    const size_t width = (cols + QKV_LANES - 1) / QKV_LANES * QKV_LANES;
    for (size_t j = 0; j < width; j += VLEN) {
        QKV_ROWS(4, SPREAD_EIGHT, j)
    }
    (halves    ? spread_squares_halves
     : minimum ? spread_squares_minimum
               : spread_squares)(c, ldc, a, rows, cols, spread, factors, -zero);
}

#define SQUARES_KIND(bits, zero, minimum) PRODUCT_KIND(squares, squares_block, bits, zero, minimum)
EACH_WEIGHT_KIND(SQUARES_KIND)
static product_function *const squares_kinds[] = BY_WEIGHT_TYPE(squares);

static void gemm_weights_squares(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *panel,
                                 int type, size_t rows, size_t cols, size_t k) {
    gemm_by_blocks(squares_kinds[type], c, ldc, a, lda, panel, type, rows, cols, k);
}

#endif
