/* Template: products in bfloat16 and in 8 bits, where there is no instruction for them: their operands are floats, and
 * gemm multiplies them.
 *
 * Needs gemm and gemm_t. INT8_BYTES is defined before by a set that has products in 8 bits.
 *
 * SPDX-License-Identifier: MIT */

static void gemm_bf16(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    gemm(c, ldc, (const float *)a + first, lda, (const float *)b, QKV_PANEL, QKV_PANEL, rows, cols, (k + 1) / 2 * 2,
         accumulate, soon);
}

static void gemm_t_bf16(float *c, ptrdiff_t ldc, const void *a, const void *b, size_t rows, size_t cols, size_t k,
                        int accumulate) {
    gemm_t(c, ldc, (const float *)a, QKV_PANEL, (const float *)b, QKV_PANEL, rows, cols, (k + 1) / 2 * 2, accumulate);
}

#ifndef INT8_BYTES
static void gemm_int8(float *c, ptrdiff_t ldc, const void *a, ptrdiff_t lda, size_t first, const void *b, size_t rows,
                      size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    gemm(c, ldc, (const float *)a + first, lda, (const float *)b, QKV_PANEL, QKV_PANEL, rows, cols, k, accumulate,
         soon);
}
#endif
