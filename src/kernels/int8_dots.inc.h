/* Template: products of attention in 8 bits by an instruction that adds four products of bytes to a word; the entries
 * end in _dots. A word is four terms of a row. Where keys must not be negative they are stored 128 too high, and each
 * chain of a row of queries begins with a word that takes 128·Σ q off again.
 *
 * Needs int8.inc.h and, inside a target region of its own, what weights_dots.inc.h needs.
 *
 * SPDX-License-Identifier: MIT */

enum { CHAIN_WORDS = (SIGNED_DOTS ? 0 : 1) + QKV_INT8_CHAIN / 4 };

/* Where term x of a row lies, a multiple of VLEN. */
QKV_INLINE int8_t *term_of_row(void *row, size_t x, int are_keys) {
    const size_t chains = are_keys || SIGNED_DOTS ? 0 : x / QKV_INT8_CHAIN + 1;
    return (int8_t *)row + 4 * chains + x;
}

/* Each chain's first word, after its terms. */
QKV_INLINE void start_chains(void *row, size_t k) {
    for (size_t first = 0; first < k; first += QKV_INT8_CHAIN) {
        const int8_t *q = term_of_row(row, first, 0);
        const size_t n = k - first < QKV_INT8_CHAIN ? k - first : QKV_INT8_CHAIN;
        int32_t sum = 0;
        for (size_t x = 0; x < n; x++)
            sum += q[x];
        sum *= -128;
        memcpy((int8_t *)row + first / QKV_INT8_CHAIN * (4 * CHAIN_WORDS), &sum, sizeof sum);
    }
}

/* Integers of a key as the instruction takes them; in place, too. */
static QKV_NOINLINE void bias_bytes(void *dst, const void *src, size_t k) {
    enum { BYTES = 4 * VLEN };
    unsigned char *to = (unsigned char *)dst, rest[BYTES] = {0};
    const unsigned char *from = (const unsigned char *)src;
    const size_t whole = k / BYTES * BYTES;
    if (whole < k)
        memcpy(rest, from + whole, k - whole);
    const vint bias = i_set(SIGNED_DOTS ? 0 : 0x80808080);
    for (size_t j = 0; j < whole; j += BYTES)
        i_store(to + j, i_sub_bytes(i_load(from + j), bias));
    if (whole < k)
        i_store(to + whole, i_sub_bytes(i_load(rest), bias));
}

QKV_INLINE void row_to_bytes(int type, float *to, float *scale, const unsigned char *row, size_t k, const float *means,
                             int are_keys) {
    float last[VLEN];
    const float factor = row_factor(type, row, k, means, last, scale);
    if (factor == 0) {
        memset(to, 0, (size_t)(term_of_row(to, k - 1, are_keys) + 4 - (int8_t *)to));
    } else {
        size_t j = 0;
        for (; j + VLEN <= k; j += VLEN)
            v_store_i8(term_of_row(to, j, are_keys), v_integers(v_less_means(type, row, j, means), factor));
        if (j < k)
            v_store_i8(term_of_row(to, j, are_keys), v_integers(v_load(last), factor));
    }
    if (are_keys && !SIGNED_DOTS)
        bias_bytes(to, to, k);
    else if (!SIGNED_DOTS)
        start_chains(to, k);
}

ROW_INT8(f32_to_bytes, row_to_bytes(QKV_F32, to, scale, row, k, means, are_keys))
ROW_INT8(f16_to_bytes, row_to_bytes(QKV_F16, to, scale, row, k, means, are_keys))
ROW_INT8(bf16_to_bytes, row_to_bytes(QKV_BF16, to, scale, row, k, means, are_keys))
ROW_INT8(q8_0_to_bytes, row_to_bytes(QKV_Q8_0, to, scale, row, k, means, are_keys))
ROW_INT8(int8_to_bytes, (void)scale; (void)means; bias_bytes(to, row, k))
ROWS_INT8(rows_int8_dots, f32_to_bytes, f16_to_bytes, bf16_to_bytes, q8_0_to_bytes, int8_to_bytes)

/* Four terms of VLEN keys, from c on, to a word each, as the instruction takes them. */
#define TERM_OF_KEYS(n, x)                                                                                             \
    if (c + n < k) {                                                                                                   \
        const vint q = i_whole(keys_integers(type, src, r, c + n, means, factors));                                    \
        word = i_or(word, i_shift(i_and(q, i_set(0xff)), 8 * n));                                                      \
    }
#define BYTE_OF_KEYS(n, x)                                                                                             \
    if (c + n < k)                                                                                                     \
        word = i_or(word, i_shift(i_load_u8(src + (c + n) * QKV_PANEL + r), 8 * n));
#define STORE_KEYS i_store(panel + c / 4 * QKV_PANEL + r, i_sub_bytes(word, i_set(SIGNED_DOTS ? 0 : 0x80808080)));

QKV_INLINE void panel_to_words(int type, float *panel, float *scales, const unsigned char *src, size_t k,
                               const float *means) {
    for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
        const vec factors = keys_factors(type, src, r, k, means, scales);
        for (size_t c = 0; c < k; c += 4) {
            vint word = i_set(0);
            QKV_ROWS(4, TERM_OF_KEYS, 0)
            STORE_KEYS
        }
    }
}

QKV_INLINE void bytes_to_words(float *panel, const unsigned char *src, size_t k) {
    for (size_t c = 0; c < k; c += 4) {
        for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
            vint word = i_set(0);
            QKV_ROWS(4, BYTE_OF_KEYS, 0)
            STORE_KEYS
        }
    }
}

PANEL_INT8(panel_int8_dots, panel_to_words, bytes_to_words(panel, from, k))

/* Words are loaded as floats. */
#ifndef DOTS_OF_LANES
QKV_INLINE vec int8_fma(vec a, vec b, vec c) {
    c = v_bits(i_dots(i_bits(c), i_bits(b), i_bits(a)));
    V_PIN(c); /* or GCC keeps each sum as a vector of either kind, one of them on the stack */
    return c;
}
#endif
#define TILE_FMA int8_fma
#define TILE_FMA_LANE int8_fma_lane
#define TILE_START(row) (SIGNED_DOTS ? v_zero() : v_set((row)[-1]))
#define TILE_END(sum) v_from_i(i_bits(sum))
#define TILE_FUNCTION gemm_bytes_
#include "gemm_product.inc.h"

static void gemm_int8_dots(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                           size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    const gemm_operands o = {ldc, lda, QKV_PANEL, QKV_PANEL, rows, cols, (k + 3) / 4, accumulate};
    const size_t at = first / QKV_INT8_CHAIN * CHAIN_WORDS + (SIGNED_DOTS ? 0 : 1);
    gemm_bytes_product(&o, c, (const float *)a + at, (const float *)b, soon);
    v_leave();
}
