/* Template: products of operands in bfloat16, where there is no instruction for them: as floats, by gemm.
 *
 * Needs weights.inc.h and gemm.inc.h, inside the target region of an instruction set. The sums take the second term of
 * each pair before the first one, as that instruction does, so the two lie in that order.
 *
 * SPDX-License-Identifier: MIT */

/* A magnitude below 2⁻⁵⁶ is 0. */
QKV_INLINE vec v_not_tiny(vec x) {
    return v_select(v_less(v_abs(x), v_set(0x1p-56f)), v_zero(), x);
}
QKV_INLINE vec v_bf16(vec x) {
    return v_round_bf16(v_not_tiny(x));
}

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

/* Two rows of a panel, swapped; without a lower one the other is 0. */
QKV_INLINE void pair_to_bf16(int type, float *dst, const unsigned char *rows, int has_lower) {
    const size_t size = (size_t)qkv_stored_bytes(type, 1);
    for (size_t j = 0; j < QKV_PANEL; j += VLEN) {
        const vec upper = v_bf16(v_load_stored(type, rows + j * size));
        const vec lower = has_lower ? v_bf16(v_load_stored(type, rows + (QKV_PANEL + j) * size)) : v_zero();
        v_store(dst + j, lower);
        v_store(dst + QKV_PANEL + j, upper);
    }
}

QKV_INLINE void rows_to_bf16(int type, void *to, const unsigned char *rows, size_t k) {
    const size_t row = QKV_PANEL * (size_t)qkv_stored_bytes(type, 1);
    float *dst = (float *)to;
    size_t x = 0;
    for (; x + 2 <= k; x += 2)
        pair_to_bf16(type, dst + x * QKV_PANEL, rows + x * row, 1);
    if (x < k)
        pair_to_bf16(type, dst + x * QKV_PANEL, rows + x * row, 0);
}

/* The entry, by a function for rows of a panel that lie as floats or in 16 bits. dst may be where they lie. */
#define WEIGHTS_BF16(name, rows_function)                                                                            \
    static void name(void *dst, const void *panel, int type, size_t first, size_t k) {                               \
        const size_t begin = first * QKV_PANEL * (size_t)qkv_stored_bytes(type, 1);                                  \
        if (type == QKV_F32) {                                                                                       \
            rows_function(QKV_F32, dst, (const unsigned char *)panel + begin, k);                                    \
        } else if (type == QKV_F16) {                                                                                \
            rows_function(QKV_F16, dst, (const unsigned char *)panel + begin, k);                                    \
        } else if (type == QKV_BF16) {                                                                               \
            rows_function(QKV_BF16, dst, (const unsigned char *)panel + begin, k);                                   \
        } else {                                                                                                     \
            widen_weights((float *)dst, panel, type, first, k);                                                      \
            rows_function(QKV_F32, dst, (const unsigned char *)dst, k);                                              \
        }                                                                                                            \
        v_leave();                                                                                                   \
    }
WEIGHTS_BF16(weights_bf16, rows_to_bf16)

static void gemm_bf16(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    gemm(c, ldc, (const float *)a + first, lda, (const float *)b, QKV_PANEL, QKV_PANEL, rows, cols, (k + 1) / 2 * 2,
         accumulate, soon);
}
