/* The scalar reference: the contract of kernels.h in plain loops. It defines the bits of every result and runs where no
 * SIMD kernel set does.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "../kernels/kernels.h"
#include "scalar.h"

static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    for (size_t c = 0; c < k; c++) {
        for (size_t r = 0; r < QKV_PANEL; r++)
            panel[c * QKV_PANEL + r] = r < rows ? src[(ptrdiff_t)r * ld + (ptrdiff_t)c] : 0.0f;
    }
}

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb,
                 ptrdiff_t panel, size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
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
            if (t[x] != QKV_MINUS_INFINITY)
                sum = qkv_fma(p[x], v[(ptrdiff_t)x * ldv + (ptrdiff_t)j], sum);
        }
        o[j] = sum;
    }
}

static void logits(float *t, size_t n, const qkv_logit_steps *steps) {
    for (size_t j = 0; j < n; j++) {
        float x = t[j];
        if (steps->cap != 0)
            x = steps->cap * qkv_tanh(x);
        if (steps->distance)
            x = qkv_fma(steps->slope, steps->distance[j], x);
        if (steps->bias) {
            float bias = steps->bias[j] * QKV_LOG2E;
            x += bias < -FLT_MAX ? -FLT_MAX : bias;
            if (steps->bias[j] == QKV_MINUS_INFINITY)
                x = QKV_MINUS_INFINITY;
        }
        if (steps->keep && !steps->keep[j])
            x = QKV_MINUS_INFINITY;
        t[j] = x;
    }
}

/* The tree +8, +4, +2, +1. */
static float sum_lanes(float lane[QKV_LANES]) {
    for (size_t half = QKV_LANES / 2; half > 0; half /= 2) {
        for (size_t x = 0; x < half; x++)
            lane[x] += lane[x + half];
    }
    return lane[0];
}

static void softmax(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    for (size_t i = 0; i < rows; i++) {
        float *row = t + (ptrdiff_t)i * ld;
        float max = -FLT_MAX;
        for (size_t j = 0; j < cols; j++)
            max = row[j] > max ? row[j] : max;
        float lane[QKV_LANES] = {0};
        for (size_t j = 0; j < cols; j++) {
            row[j] = qkv_exp2(row[j] - max);
            lane[j % QKV_LANES] += row[j];
        }
        m[i] = max;
        l[i] = sum_lanes(lane);
    }
}

static uint32_t nan_rows(const float *o, ptrdiff_t ld, size_t rows, size_t cols) {
    uint32_t found = 0;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            float x = o[(ptrdiff_t)i * ld + (ptrdiff_t)j];
            if (x != x)
                found |= 1u << i;
        }
    }
    return found;
}

static void fold(float *m, float *l, float *o, ptrdiff_t ldo, const float *mb, const float *lb, const float *ob,
                 ptrdiff_t ldob, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) {
        if (lb[i] == 0)
            continue;
        float max = m[i] > mb[i] ? m[i] : mb[i];
        float a = qkv_exp2(m[i] - max), b = qkv_exp2(mb[i] - max);
        m[i] = max;
        l[i] = qkv_fma(lb[i], b, l[i] * a);
        for (size_t j = 0; j < cols; j++) {
            float *x = &o[(ptrdiff_t)i * ldo + (ptrdiff_t)j];
            *x = qkv_fma(ob[(ptrdiff_t)i * ldob + (ptrdiff_t)j], b, *x * a);
        }
    }
}

static void scale(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *factors, size_t rows,
                  size_t n) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n; j++)
            dst[(ptrdiff_t)i * ldd + (ptrdiff_t)j] = src[(ptrdiff_t)i * lds + (ptrdiff_t)j] * factors[i] + 0.0f;
    }
}

static void add_bias(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, const float *bias, size_t rows,
                     size_t n) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n; j++) {
            float x = src[(ptrdiff_t)i * lds + (ptrdiff_t)j];
            dst[(ptrdiff_t)i * ldd + (ptrdiff_t)j] = bias ? x + bias[j] : x;
        }
    }
}

static void exp2_array(float *y, size_t n) {
    for (size_t j = 0; j < n; j++)
        y[j] = qkv_exp2(y[j]);
}

static void tanh_array(float *x, size_t n) {
    for (size_t j = 0; j < n; j++)
        x[j] = qkv_tanh(x[j]);
}

static void log_array(float *x, size_t n) {
    for (size_t j = 0; j < n; j++)
        x[j] = qkv_log(x[j]);
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

static void recompute(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *lse) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            float *x = &t[(ptrdiff_t)i * ld + (ptrdiff_t)j], y = *x - lse[i];
            *x = qkv_exp2(y > 0 ? 0 : y);
        }
    }
}

static void score_grad(float *d, const float *p, ptrdiff_t ld, size_t rows, size_t cols, const float *delta,
                       float scale, const float *cap_tanh) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            ptrdiff_t at = (ptrdiff_t)i * ld + (ptrdiff_t)j;
            d[at] = p[at] * qkv_fma(d[at], scale, -delta[i]);
            if (cap_tanh)
                d[at] *= qkv_fma(-cap_tanh[at], cap_tanh[at], 1.0f);
        }
    }
}

static void row_dots(float *d, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        float lane[QKV_LANES] = {0};
        for (size_t j = 0; j < n; j++) {
            float *sum = &lane[j % QKV_LANES];
            *sum = qkv_fma(a[(ptrdiff_t)i * lda + (ptrdiff_t)j], b[(ptrdiff_t)i * ldb + (ptrdiff_t)j], *sum);
        }
        d[i] = sum_lanes(lane);
    }
}

static void add(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n; j++)
            dst[(ptrdiff_t)i * ldd + (ptrdiff_t)j] += src[(ptrdiff_t)i * lds + (ptrdiff_t)j];
    }
}

#define TILE_ROWS 4
#define NT_ROWS 6
#define KERNELS qkv_kernels_ref
#define KERNELS_NAME "ref"
#define KERNELS_NEEDS 0
#include "../kernels/table.inc.h"
