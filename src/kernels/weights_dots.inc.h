/* Template: the product of packed weights and activations in 8 bits, where an instruction adds four products of bytes
 * to a word. Its sums are the integers of weights.inc.h, hence its results are the same; the entry is
 * gemm_weights_dots.
 *
 * Needs weights.inc.h, and of the instruction set, inside a target region of its own: DOT_VECTORS, how many vectors of
 * columns a tile has; SIGNED_DOTS, whether w is from −128 to 127, else from 0 to 255; i_dots(sum, w, a), where a word
 * of a is in every lane, or vterms, d_terms and d_dot, and DOTS_OF_LANES.
 *
 * A tile passes a block of 32 terms word by word, each of four terms: all sums are in registers, and each word of
 * weights serves all rows. For one row the integers of a block are spread to bytes on the way, for more they are spread
 * once, to scratch memory.
 *
 * SPDX-License-Identifier: MIT */

enum { SPREAD = 7 }; /* instead of the bits of integers: they are bytes as d_dot takes them */

/* Word g of a block, as d_dot takes it. */
QKV_INLINE vint d_word(int bits, const unsigned char *integers, int g) {
    if (bits == SPREAD)
        return i_load(integers + g * QKV_WORD_ROW);
    const vint w = w_spread(bits, integers, g);
    return bits == 8 && !SIGNED_DOTS ? i_sub_bytes(w, i_set(0x80808080)) : w;
}

/* The 32 terms of a row, and the products of word g. */
#ifndef DOTS_OF_LANES
typedef const int8_t *vterms;
QKV_INLINE vterms d_terms(const int8_t *q) { return q; }
QKV_INLINE vint d_dot(vint sum, vint w, vterms a, int g) { return i_dots(sum, w, i_words(a + 4 * g)); }
#endif

#define TERMS_OF_ROW(i, j) const vterms a_##i = d_terms(a[i].q);
#define DECLARE_DOTS(i, j) vint sum_##i##_##j;
#define START_DOTS(i, j) sum_##i##_##j = i_set((uint32_t)(halves ? a[i].sum - a[i].upper_sum : a[i].sum) * less);
#define RESTART_DOTS(i, j) sum_##i##_##j = i_set((uint32_t)a[i].upper_sum * less);
#define LOAD_DOT_WORD(g, j) const vint w_##j = d_word(bits, integers + 4 * VLEN * j, g);
#define ADD_DOT(i, g, j)                                                                                               \
    sum_##i##_##j = d_dot(sum_##i##_##j, w_##j, a_##i, g);                                                             \
    V_ORDERED(sum_##i##_##j); /* clang would load all words first, to the stack, and finish one sum after the other */
#define FOLD_DOTS(i, scales, j)                                                                                        \
    {                                                                                                                  \
        float *to = c + i * ldc + j * VLEN;                                                                            \
        vec y = v_fma(v_from_i(sum_##i##_##j), v_mul(v_set(a[i].scale), v_load(scales + j * VLEN)), v_load(to));       \
        if (minimum)                                                                                                   \
            y = v_fma(v_set(a[i].scaled_sum), v_load(factors + QKV_PANEL + j * VLEN), y);                              \
        v_store(to, y);                                                                                                \
    }
/* Each for a row of so many vectors. */
#define DECLARE_ROW_1(i, x) QKV_COLS(1, DECLARE_DOTS, i)
#define DECLARE_ROW_2(i, x) QKV_COLS(2, DECLARE_DOTS, i)
#define DECLARE_ROW_4(i, x) QKV_COLS(4, DECLARE_DOTS, i)
#define START_ROW_1(i, x) QKV_COLS(1, START_DOTS, i)
#define START_ROW_2(i, x) QKV_COLS(2, START_DOTS, i)
#define START_ROW_4(i, x) QKV_COLS(4, START_DOTS, i)
#define RESTART_ROW_1(i, x) QKV_COLS(1, RESTART_DOTS, i)
#define RESTART_ROW_2(i, x) QKV_COLS(2, RESTART_DOTS, i)
#define RESTART_ROW_4(i, x) QKV_COLS(4, RESTART_DOTS, i)
#define DOT_ROW_1(i, g) QKV_PAIRS(1, ADD_DOT, i, g)
#define DOT_ROW_2(i, g) QKV_PAIRS(2, ADD_DOT, i, g)
#define DOT_ROW_4(i, g) QKV_PAIRS(4, ADD_DOT, i, g)
#define FOLD_ROW_1(i, scales) QKV_PAIRS(1, FOLD_DOTS, i, scales)
#define FOLD_ROW_2(i, scales) QKV_PAIRS(2, FOLD_DOTS, i, scales)
#define FOLD_ROW_4(i, scales) QKV_PAIRS(4, FOLD_DOTS, i, scales)

#ifndef DOT_FENCE
#define DOT_FENCE /* where compilers load words ahead, and spill: loads below stay below */
#endif
#define DOT_WORD(rows, vectors, g)                                                                                     \
    {                                                                                                                  \
        DOT_FENCE                                                                                                      \
        QKV_COLS(vectors, LOAD_DOT_WORD, g)                                                                            \
        QKV_ROWS(rows, DOT_ROW_##vectors, g)                                                                           \
    }
#define DOTS_TILE(rows, vectors)                                                                                       \
    QKV_INLINE void dots_##rows##x##vectors(int bits, int halves, int minimum, float *c, ptrdiff_t ldc,                \
                                            const qkv_terms *a, const unsigned char *integers, const float *factors,   \
                                            uint32_t less) {                                                           \
        const float *second = factors + QKV_PANEL;                                                                     \
        QKV_OPAQUE(a); /* else compilers load what all columns share before them, and spill it */                      \
        QKV_ROWS(rows, TERMS_OF_ROW, 0)                                                                                \
        QKV_ROWS(rows, DECLARE_ROW_##vectors, 0)                                                                       \
        QKV_ROWS(rows, START_ROW_##vectors, 0)                                                                         \
        DOT_WORD(rows, vectors, 0)                                                                                     \
        DOT_WORD(rows, vectors, 1)                                                                                     \
        DOT_WORD(rows, vectors, 2)                                                                                     \
        DOT_WORD(rows, vectors, 3)                                                                                     \
        if (halves) {                                                                                                  \
            QKV_ROWS(rows, FOLD_ROW_##vectors, factors)                                                                \
            QKV_ROWS(rows, RESTART_ROW_##vectors, 0)                                                                   \
        }                                                                                                              \
        DOT_WORD(rows, vectors, 4)                                                                                     \
        DOT_WORD(rows, vectors, 5)                                                                                     \
        DOT_WORD(rows, vectors, 6)                                                                                     \
        DOT_WORD(rows, vectors, 7)                                                                                     \
        if (halves) {                                                                                                  \
            QKV_ROWS(rows, FOLD_ROW_##vectors, second)                                                                 \
        } else {                                                                                                       \
            QKV_ROWS(rows, FOLD_ROW_##vectors, factors)                                                                \
        }                                                                                                              \
    }

/* All columns of so many rows: C is written up to the next multiple of QKV_LANES. */
#define DOTS_ROWS(rows) DOTS_ROWS_OF(rows, DOT_VECTORS)
#define DOTS_ROWS_OF(rows, vectors) DOTS_ROWS_BY(rows, vectors)
#if DOT_VECTORS * VLEN > QKV_LANES
#define DOTS_ROWS_BY(rows, vectors)                                                                                    \
    DOTS_TILE(rows, vectors)                                                                                           \
    DOTS_TILE(rows, 1)                                                                                                 \
    DOTS_FUNCTION(rows, vectors, 1)
#else
#define DOTS_ROWS_BY(rows, vectors)                                                                                    \
    DOTS_TILE(rows, vectors)                                                                                           \
    DOTS_FUNCTION(rows, vectors, vectors)
#endif
#define DOTS_FUNCTION(rows, wide, narrow)                                                                              \
    QKV_INLINE void dots_##rows(int bits, int halves, int minimum, float *c, ptrdiff_t ldc, const qkv_terms *a,        \
                                size_t cols, const unsigned char *integers, const float *factors, uint32_t less) {     \
        size_t j = 0;                                                                                                  \
        for (; wide != narrow && j + wide * VLEN <= cols; j += wide * VLEN)                                            \
            dots_##rows##x##wide(bits, halves, minimum, c + j, ldc, a, integers + 4 * j, factors + j, less);           \
        for (; j < cols; j += narrow * VLEN)                                                                           \
            dots_##rows##x##narrow(bits, halves, minimum, c + j, ldc, a, integers + 4 * j, factors + j, less);         \
    }
DOTS_ROWS(1)
#ifdef __OPTIMIZE__
DOTS_ROWS(2)
DOTS_ROWS(4)
#define TALL_DOTS(halves, minimum)                                                                                     \
    for (; rows >= 4; rows -= 4, a += 4, c += 4 * ldc)                                                                 \
        dots_4(SPREAD, halves, minimum, c, ldc, a, cols, spread, factors, less);                                       \
    for (; rows >= 2; rows -= 2, a += 2, c += 2 * ldc)                                                                 \
        dots_2(SPREAD, halves, minimum, c, ldc, a, cols, spread, factors, less);
#else /* every temporary of a tile has a place of its own on the stack */
#define TALL_DOTS(halves, minimum)
#endif

/* Rows by integers that are spread: with one scale, with a minimum, with a scale for each half. */
#define SPREAD_DOTS(name, halves, minimum)                                                                             \
    static QKV_NOINLINE void name(float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows, size_t cols,               \
                                  const unsigned char *spread, const float *factors, uint32_t less) {                  \
        TALL_DOTS(halves, minimum)                                                                                     \
        for (; rows > 0; rows--, a++, c += ldc)                                                                        \
            dots_1(SPREAD, halves, minimum, c, ldc, a, cols, spread, factors, less);                                   \
    }
SPREAD_DOTS(spread_dots, 0, 0)
SPREAD_DOTS(spread_dots_minimum, 0, 1)
SPREAD_DOTS(spread_dots_halves, 1, 0)

#define SPREAD_DOT_WORD(g, j) i_store(spread + j + g * QKV_WORD_ROW, d_word(bits, integers + j, g));
QKV_INLINE void dots_block(int bits, int zero, int minimum, float *c, ptrdiff_t ldc, const qkv_terms *a, size_t rows,
                           size_t cols, const unsigned char *integers, const float *factors) {
    const int halves = bits == 6;
    const uint32_t less = 0u - (bits == 8 && !SIGNED_DOTS ? 128u : (uint32_t)zero);
    if (rows == 1) {
        dots_1(bits, halves, minimum, c, ldc, a, cols, integers, factors, less);
        return;
    }
    _Alignas(64) unsigned char memory[8 * QKV_WORD_ROW];
    unsigned char *spread = memory;
    QKV_OPAQUE(spread);
    const size_t width = (cols + QKV_LANES - 1) / QKV_LANES * QKV_LANES;
    for (size_t j = 0; j < 4 * width; j += 4 * VLEN) {
        QKV_ROWS(8, SPREAD_DOT_WORD, j)
    }
    (halves    ? spread_dots_halves
     : minimum ? spread_dots_minimum
               : spread_dots)(c, ldc, a, rows, cols, spread, factors, less);
}

#define DOTS_KIND(bits, zero, minimum) PRODUCT_KIND(dots, dots_block, bits, zero, minimum)
EACH_WEIGHT_KIND(DOTS_KIND)
static product_function *const dots_kinds[] = BY_WEIGHT_TYPE(dots);

static void gemm_weights_dots(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *panel, int type,
                              size_t rows, size_t cols, size_t k) {
    gemm_by_blocks(dots_kinds[type], c, ldc, a, lda, panel, type, rows, cols, k);
}
