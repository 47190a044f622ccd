/* Template: products of operands in bfloat16 in plain C. They are floats; the sums, which are gemm's, take the second
 * term of each pair before the first one, so the two lie in that order.
 *
 * Needs ../ref/scalar.h, weights_loops.inc.h and gemm.
 *
 * SPDX-License-Identifier: MIT */

/* Rounded to nearest even; a magnitude below 2⁻⁵⁶ is 0. */
static float rounded_to_bf16(float x) {
    return qkv_from_bf16(qkv_to_bf16(x > -0x1p-56f && x < 0x1p-56f ? 0.0f : x));
}

static void rows_bf16(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *from = x + (ptrdiff_t)i * ldx;
        float *to = (float *)dst + (ptrdiff_t)i * ldd + (ptrdiff_t)first;
        for (size_t j = 0; j < k; j += 2) {
            to[j] = j + 1 < k ? rounded_to_bf16(from[j + 1]) : 0.0f;
            to[j + 1] = rounded_to_bf16(from[j]);
        }
    }
}

static void weights_bf16(void *dst, const void *panel, int type, size_t first, size_t k) {
    float *to = (float *)dst;
    widen_weights(to, panel, type, first, k);
    for (size_t x = 0; x < k; x += 2, to += 2 * QKV_PANEL) {
        for (size_t j = 0; j < QKV_PANEL; j++) {
            const float upper = rounded_to_bf16(to[j]);
            to[j] = x + 1 < k ? rounded_to_bf16(to[QKV_PANEL + j]) : 0.0f;
            to[QKV_PANEL + j] = upper;
        }
    }
}

static void gemm_bf16(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    gemm(c, ldc, (const float *)a + first, lda, (const float *)b, QKV_PANEL, QKV_PANEL, rows, cols, (k + 1) / 2 * 2,
         accumulate, soon);
}
