/* Template: products of operands in bfloat16, where there is no instruction for them: as floats, by gemm.
 *
 * Needs weights.inc.h and gemm.inc.h, inside the target region of an instruction set. The sums take the second term of
 * each pair before the first one, as that instruction does, so the two lie in that order.
 *
 * SPDX-License-Identifier: MIT */

/* Rounded to nearest even; what is below 2⁻⁵⁶ is 0. */
QKV_INLINE vec v_bf16(vec x) {
    return v_round_bf16(v_select(v_less(v_abs(x), v_set(0x1p-56f)), v_zero(), x));
}

static void rows_bf16(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *from = x + (ptrdiff_t)i * ldx;
        float *to = (float *)dst + (ptrdiff_t)i * ldd + first;
        size_t j = 0;
        for (; j + VLEN <= k; j += VLEN)
            v_store(to + j, v_swap(v_bf16(v_load(from + j))));
        if (j < k) {
            float last[VLEN];
            v_store(last, v_swap(v_bf16(v_load_tail(from + j, v_tail(k - j)))));
            memcpy(to + j, last, (k - j + 1) / 2 * 2 * sizeof *last);
        }
    }
    v_leave();
}

/* A row of a panel, from floats or as it is stored. */
QKV_INLINE void row_to_bf16(int type, float *dst, const unsigned char *row) {
    for (size_t j = 0; j < QKV_PANEL; j += VLEN)
        v_store(dst + j, v_bf16(v_load_stored(type, row + j * (size_t)qkv_stored_bytes(type, 1))));
}

QKV_INLINE void rows_of_panel_to_bf16(int type, float *dst, const unsigned char *rows, size_t k) {
    const size_t row = QKV_PANEL * (size_t)qkv_stored_bytes(type, 1);
    size_t x = 0;
    for (; x + 2 <= k; x += 2) {
        row_to_bf16(type, dst + (x + 1) * QKV_PANEL, rows + x * row);
        row_to_bf16(type, dst + x * QKV_PANEL, rows + (x + 1) * row);
    }
    if (x < k) {
        row_to_bf16(type, dst + (x + 1) * QKV_PANEL, rows + x * row);
        memset(dst + x * QKV_PANEL, 0, QKV_WORD_ROW);
    }
}

static void weights_bf16(void *dst, const void *panel, int type, size_t first, size_t k) {
    const unsigned char *rows = (const unsigned char *)panel + first * QKV_PANEL * (size_t)qkv_stored_bytes(type, 1);
    float *to = (float *)dst;
    if (type == QKV_F32) {
        rows_of_panel_to_bf16(QKV_F32, to, rows, k);
    } else if (type == QKV_F16) {
        rows_of_panel_to_bf16(QKV_F16, to, rows, k);
    } else if (type == QKV_BF16) {
        rows_of_panel_to_bf16(QKV_BF16, to, rows, k);
    } else {
        _Alignas(64) float block[QKV_BLOCK_TERMS * QKV_PANEL];
        for (size_t x = 0; x < k; x += QKV_BLOCK_TERMS) {
            const size_t n = k - x < QKV_BLOCK_TERMS ? k - x : QKV_BLOCK_TERMS;
            widen_weights(block, panel, type, first + x, n);
            rows_of_panel_to_bf16(QKV_F32, to + x * QKV_PANEL, (const unsigned char *)block, n);
        }
    }
    v_leave();
}

static void gemm_bf16(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    gemm(c, ldc, (const float *)a + first, lda, (const float *)b, QKV_PANEL, QKV_PANEL, rows, cols, (k + 1) / 2 * 2,
         accumulate, soon);
}
