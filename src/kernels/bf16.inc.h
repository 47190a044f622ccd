/* Template: products of operands in bfloat16, where there is no instruction for them: as floats, by gemm.
 *
 * Needs weights.inc.h and gemm.inc.h, inside the target region of an instruction set. The sums take the second term of
 * each pair before the first one, as that instruction does, so the two lie in that order.
 *
 * SPDX-License-Identifier: MIT */

/* A magnitude below 2⁻⁵⁶ is 0. */
QKV_INLINE vec v_not_tiny(vec x) { return v_select(v_less(v_abs(x), v_set(0x1p-56f)), v_zero(), x); }
QKV_INLINE vec v_bf16(vec x) { return v_round_bf16(v_not_tiny(x)); }

static void rows_bf16(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *from = x + (ptrdiff_t)i * ldx;
        float *to = (float *)dst + (ptrdiff_t)i * ldd + first;
        size_t j = 0;
        for (; j + VLEN <= k; j += VLEN)
            v_store(to + j, v_swap(v_bf16(v_load(from + j))));
        if (j < k)
            v_store_tail(to + j, v_swap(v_bf16(v_load_tail(from + j, v_tail(k - j)))), v_tail((k - j + 1) / 2 * 2));
    }
    v_leave();
}

/* Elements j … of a stored row of cols; beyond these zeros. Magnitudes below 2⁻⁵⁶ are 0. */
QKV_INLINE vec v_operands(int type, const unsigned char *row, size_t j, size_t cols) {
    return v_not_tiny(cols - j >= VLEN ? v_load_at(type, row, j) : v_load_at_tail(type, row, j, cols - j));
}

/* Two rows of a panel, swapped. */
enum { PAIR_BYTES = 2 * QKV_PANEL * sizeof(float) };
QKV_INLINE void part_to_bf16(int type, float *dst, const unsigned char *first, const unsigned char *second, size_t j,
                             size_t cols) {
    const vec of_first = v_operands(type, first, j, cols), of_second = v_operands(type, second, j, cols);
    v_store(dst + j, v_round_bf16(of_second));
    v_store(dst + QKV_PANEL + j, v_round_bf16(of_first));
}
QKV_INLINE void pair_to_bf16(int type, void *to, const unsigned char *first, const unsigned char *second, size_t cols) {
    size_t j = 0;
    for (; j + VLEN <= cols; j += VLEN)
        part_to_bf16(type, (float *)to, first, second, j, j + VLEN);
    if (j < cols)
        part_to_bf16(type, (float *)to, first, second, j, cols);
}

/* Rows first … first + rows of a panel, in pairs, by a function for two rows. In place, too: a pair never meets rows
 * that are still to come. */
static const unsigned char no_row[QKV_PANEL * sizeof(float)];
#define ROWS_BF16(name, pair_function, pair_bytes)                                                                     \
    QKV_INLINE void name(int type, unsigned char *dst, const unsigned char *src, ptrdiff_t stride, size_t first,       \
                         size_t rows, size_t cols) {                                                                   \
        const size_t end = first + rows;                                                                               \
        for (size_t x = first / 2 * 2; x < end; x += 2) {                                                              \
            const unsigned char *row = x < first ? no_row : src + (ptrdiff_t)(x - first) * stride;                     \
            const unsigned char *next = x + 1 < end ? src + (ptrdiff_t)(x + 1 - first) * stride : no_row;              \
            pair_function(type, dst + x / 2 * (pair_bytes), row, next, cols);                                          \
        }                                                                                                              \
    }
ROWS_BF16(rows_to_bf16, pair_to_bf16, PAIR_BYTES)

/* Entries, by a function of ROWS_BF16. dst may be where the rows lie. */
#define VALUES_BF16(name, rows_function)                                                                               \
    static void name(void *dst, const void *src, ptrdiff_t stride, int type, size_t first, size_t rows, size_t cols) { \
        unsigned char *to = (unsigned char *)dst;                                                                      \
        const unsigned char *from = (const unsigned char *)src;                                                        \
        BY_STORED_TYPE(rows_function, type, to, from, stride, first, rows, cols)                                       \
        v_leave();                                                                                                     \
    }
#define WEIGHTS_BF16(name, values)                                                                                     \
    static void name(void *dst, const void *panel, int type, size_t first, size_t k) {                                 \
        if (type == QKV_F32 || type == QKV_F16 || type == QKV_BF16) {                                                  \
            const ptrdiff_t row = QKV_PANEL * (ptrdiff_t)qkv_stored_bytes(type, 1);                                    \
            values(dst, (const unsigned char *)panel + (ptrdiff_t)first * row, row, type, 0, k, QKV_PANEL);            \
        } else {                                                                                                       \
            widen_weights((float *)dst, panel, type, first, k);                                                        \
            values(dst, dst, QKV_PANEL * sizeof(float), QKV_F32, 0, k, QKV_PANEL);                                     \
        }                                                                                                              \
    }
VALUES_BF16(values_bf16, rows_to_bf16)
WEIGHTS_BF16(weights_bf16, values_bf16)

static void keys_bf16(void *dst, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k) {
    ptrdiff_t ld = QKV_PANEL;
    QKV_OPAQUE(ld); /* no second copy of that function for it */
    pack_stored((float *)dst, ld, src, stride, type, rows, k);
    values_bf16(dst, dst, QKV_PANEL * sizeof(float), QKV_F32, 0, k, QKV_PANEL);
}

#define SOFTMAX_OF_ROWS softmax_to_floats
#define WEIGHTS_OF_ROWS weights_to_floats
#define EXP2_DEGREE_OF_WEIGHTS BF16_EXP2_DEGREE
#define STORE_WEIGHTS(row, x, p) v_store((row) + (x), p)
#include "softmax.inc.h"
#define SOFTMAX_OF_ROWS softmax_to_swapped
#define WEIGHTS_OF_ROWS weights_to_swapped
#define EXP2_DEGREE_OF_WEIGHTS BF16_EXP2_DEGREE
#define STORE_WEIGHTS(row, x, p) v_store((row) + (x), v_swap(v_round_bf16(p)))
#include "softmax.inc.h"

static void softmax_bf16(float *t, ptrdiff_t ld, size_t first, size_t rows, size_t cols, float *m, float *l,
                         int rounds) {
    if (rounds)
        softmax_to_swapped(t, ld, first, first + cols, rows, m, l);
    else
        softmax_to_floats(t, ld, first, first + cols, rows, m, l);
}

/* So many rows at a time become operands in memory that stays in the L1 cache; the chain goes on over them. */
enum { STORED_TERMS = 12 };
static void gemm_stored_bf16(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                             ptrdiff_t stride, int type, size_t rows, size_t cols, size_t k, int resume,
                             const qkv_soon *soon) {
    _Alignas(64) float panel[STORED_TERMS * QKV_PANEL];
    const size_t end = first + k;
    for (size_t j = 0; j < cols; j += QKV_PANEL, c += QKV_PANEL) {
        const unsigned char *from = (const unsigned char *)b + qkv_stored_bytes(type, (int64_t)j);
        const size_t width = cols - j < QKV_PANEL ? cols - j : QKV_PANEL;
        size_t x = first, n;
        do { /* without terms, too: zeros */
            const size_t begin = x / 2 * 2;
            n = end - x < STORED_TERMS - x % 2 ? end - x : STORED_TERMS - x % 2;
            values_bf16(panel, from + (ptrdiff_t)(x - first) * stride, stride, type, x % 2, n, width);
            gemm_stored(c, ldc, (const float *)a + begin, lda, panel, QKV_PANEL * sizeof *panel, QKV_F32, rows, width,
                        (x + n + 1) / 2 * 2 - begin, resume || x > first, x == first ? soon : NULL);
            x += n;
        } while (x < end);
        soon = NULL;
    }
}
