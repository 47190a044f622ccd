/* The scalar reference: the contract of kernels.h in plain loops. It defines the bits of every result.
 *
 * SPDX-License-Identifier: MIT */
#include "../kernels/kernels.h"

/* What loops.inc.h makes vectors of elsewhere is done here as it is written, and takes less room. */
#if !defined(__clang__)
#pragma GCC optimize("no-tree-vectorize")
#endif

#include "philox.h"
#include "scalar.h"
#include "storage.h"
#include "weights.h"

static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    for (size_t c = 0; c < k; c++) {
        for (size_t r = 0; r < QKV_PANEL; r++)
            panel[c * QKV_PANEL + r] = r < rows ? src[(ptrdiff_t)r * ld + (ptrdiff_t)c] : 0.0f;
    }
}

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel,
                 size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    for (size_t i = 0; i < rows; i++) {
        const float *a_row = a + (ptrdiff_t)i * lda;
        float *c_row = c + (ptrdiff_t)i * ldc;
        for (size_t j = 0; j < cols; j++) {
            const float *b_column = b + (ptrdiff_t)(j / QKV_PANEL) * panel + j % QKV_PANEL;
            float sum = 0.0f;
            for (size_t x = 0; x < k; x++)
                sum = qkv_fma(a_row[x], b_column[(ptrdiff_t)x * ldb], sum);
            c_row[j] = accumulate ? c_row[j] + sum : sum;
        }
    }
}

static void gemm_nt(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            float sum = 0.0f;
            for (size_t x = 0; x < k; x++)
                sum = qkv_fma(a[(ptrdiff_t)i * lda + (ptrdiff_t)x], b[(ptrdiff_t)j * ldb + (ptrdiff_t)x], sum);
            float *to = &c[(ptrdiff_t)i * ldc + (ptrdiff_t)j];
            *to = accumulate ? *to + sum : sum;
        }
    }
}

static void sum_visible(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k,
                        size_t cols) {
    for (size_t j = 0; j < cols; j++) {
        float sum = 0.0f;
        for (size_t x = 0; x < k; x++) {
            if (!qkv_is_minus_infinity(t[x]))
                sum = qkv_fma(p[x], v[(ptrdiff_t)x * ldv + (ptrdiff_t)j], sum);
        }
        o[j] = sum;
    }
}

static void gemm_t(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate) {
    for (size_t i = 0; i < rows; i++) {
        float *c_row = c + (ptrdiff_t)i * ldc;
        for (size_t j = 0; j < cols; j++) {
            float sum = 0.0f;
            for (size_t x = 0; x < k; x++)
                sum = qkv_fma(a[(ptrdiff_t)x * lda + (ptrdiff_t)i], b[(ptrdiff_t)x * ldb + (ptrdiff_t)j], sum);
            c_row[j] = accumulate ? c_row[j] + sum : sum;
        }
    }
}

#include "../kernels/storage_loops.inc.h"
#include "../kernels/weights_loops.inc.h"
#include "../kernels/bf16_loops.inc.h"
#include "../kernels/int8_loops.inc.h"
#include "../kernels/loops.inc.h"
#include "../kernels/float_products.inc.h"

#define TILE_ROWS 4
#define NT_ROWS 6
#define KERNELS qkv_kernels_ref
#define KERNELS_NAME "ref"
#define KERNELS_NEEDS 0
#include "../kernels/table.inc.h"
