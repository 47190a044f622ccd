/* Template: products of operands in bfloat16 in plain C. They are floats; the sums, which are gemm's, take the second
 * term of each pair before the first one, so the two lie in that order.
 *
 * Needs ../ref/scalar.h, storage_loops.inc.h and weights_loops.inc.h.
 *
 * SPDX-License-Identifier: MIT */

static void rows_bf16(void *dst, ptrdiff_t ldd, size_t first, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++) {
        const float *from = x + (ptrdiff_t)i * ldx;
        float *to = (float *)dst + (ptrdiff_t)i * ldd + (ptrdiff_t)first;
        for (size_t j = 0; j < k; j += 2) {
            const float first_of_pair = qkv_bf16_operand(from[j]);
            to[j] = j + 1 < k ? qkv_bf16_operand(from[j + 1]) : 0.0f;
            to[j + 1] = first_of_pair;
        }
    }
}

static void keys_bf16(void *dst, const void *src, ptrdiff_t stride, int type, size_t rows, size_t k) {
    float *panel = (float *)dst;
    for (size_t r = 0; r < QKV_PANEL; r++) {
        const unsigned char *from = (const unsigned char *)src + (r < rows ? (ptrdiff_t)r * stride : 0);
        for (size_t x = 0; x < k + k % 2; x++)
            panel[(x ^ 1) * QKV_PANEL + r] = r < rows && x < k ? qkv_bf16_operand(load_stored(from, type, x)) : 0.0f;
    }
}

static void values_bf16(void *dst, const void *src, ptrdiff_t stride, int type, size_t first, size_t rows,
                        size_t cols) {
    float *panel = (float *)dst;
    const size_t end = first + rows;
    for (size_t x = first - first % 2; x < end + end % 2; x++) {
        const int there = x >= first && x < end;
        const unsigned char *from = (const unsigned char *)src + (there ? (ptrdiff_t)(x - first) * stride : 0);
        for (size_t j = 0; j < cols; j++)
            panel[(x ^ 1) * QKV_PANEL + j] = there ? qkv_bf16_operand(load_stored(from, type, j)) : 0.0f;
    }
}

static void weights_bf16(void *dst, const void *panel, int type, size_t first, size_t k) {
    float *to = (float *)dst;
    widen_weights(to, panel, type, first, k);
    for (size_t x = 0; x < k; x += 2, to += 2 * QKV_PANEL) {
        for (size_t j = 0; j < QKV_PANEL; j++) {
            const float upper = qkv_bf16_operand(to[j]);
            to[j] = x + 1 < k ? qkv_bf16_operand(to[QKV_PANEL + j]) : 0.0f;
            to[QKV_PANEL + j] = upper;
        }
    }
}

static void gemm_stored_bf16(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b,
                             ptrdiff_t stride, int type, size_t rows, size_t cols, size_t k, int resume,
                             const qkv_soon *soon) {
    (void)soon;
    for (size_t i = 0; i < rows; i++, c += ldc) {
        const float *row = (const float *)a + (ptrdiff_t)i * lda;
        for (size_t j = 0; j < cols; j++) {
            float sum = resume ? c[j] : 0.0f;
            for (size_t x = first - first % 2; x < first + k; x += 2) {
                for (size_t y = x + 2; y-- > x;) {
                    const unsigned char *from = (const unsigned char *)b;
                    float operand = 0;
                    if (y >= first && y < first + k)
                        operand = qkv_bf16_operand(load_stored(from + (ptrdiff_t)(y - first) * stride, type, j));
                    sum = qkv_fma(row[y ^ 1], operand, sum);
                }
            }
            c[j] = sum;
        }
    }
}
