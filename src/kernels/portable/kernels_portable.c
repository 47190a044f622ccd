/* The kernel set of every CPU: plain C in loops of constant length over outputs, which compilers make vectors of.
 * SPDX-License-Identifier: MIT */
#include "../kernels.h"

#if QKV_WITH(PORTABLE)

/* GCC does so from -O2 on, but for these loops only at -O3, and before GCC 12 only there. Not into vectors that flush
 * subnormals (config.h). */
#if !defined(__clang__) && !QKV_HELIUM
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic")
#endif

#include "../../ref/philox.h"
#include "../../ref/scalar.h"
#include "../../ref/storage.h"
#include "../../ref/weights.h"

#include "../storage_loops.inc.h"
#include "../weights_loops.inc.h"
#include "../bf16_loops.inc.h"
#include "../int8_loops.inc.h"
#include "../loops.inc.h"

/* Sums lie in the L1 cache, ROWS rows of a panel. STEPS terms at a time are added to each, so that it is loaded and
 * stored but once for them; not where an fma is a long chain of instructions, of which many must be under way. */
#if defined(QKV_HAVE_FMA)
enum { ROWS = 2, STEPS = 4 };
#else
enum { ROWS = 2, STEPS = 1 };
#endif

#define TILE_ROWS 4
#define NT_ROWS 6

/* A product, and where its tiles have got to. A may lie in columns. */
typedef struct operands {
    const float *a, *b;
    ptrdiff_t row, step, ldb; /* from row to row of A, from column to column of A, from row to row of B */
} operands;

/* The next `steps` terms of a chain, 1 or 4. */
QKV_INLINE float add_chain(size_t steps, const float factor[4], const float *b, ptrdiff_t ldb, float sum) {
    sum = qkv_fma(factor[0], b[0], sum);
    if (steps == 4) {
        sum = qkv_fma(factor[1], b[ldb], sum);
        sum = qkv_fma(factor[2], b[2 * ldb], sum);
        sum = qkv_fma(factor[3], b[3 * ldb], sum);
    }
    return sum;
}

QKV_INLINE void load_factors(size_t steps, float factor[4], const float *a, ptrdiff_t step) {
    factor[0] = a[0];
    factor[1] = steps == 4 ? a[step] : 0;
    factor[2] = steps == 4 ? a[2 * step] : 0;
    factor[3] = steps == 4 ? a[3 * step] : 0;
}

/* sum[i·width + j] += the next `steps` terms of its chain, i < rows ≤ 2, j < width. rows, steps and width are
 * constants. */
QKV_INLINE void add_terms(size_t rows, size_t steps, size_t width, float *restrict sum, operands *o) {
    float upper[4], lower[4];
    const float *restrict b = o->b;
    const ptrdiff_t ldb = o->ldb;
    load_factors(steps, upper, o->a, o->step);
    load_factors(steps, lower, rows == 2 ? o->a + o->row : o->a, o->step);
    for (size_t j = 0; j < width; j++) {
        sum[j] = add_chain(steps, upper, b + j, ldb, sum[j]);
        if (rows == 2)
            sum[width + j] = add_chain(steps, lower, b + j, ldb, sum[width + j]);
    }
    o->a += (ptrdiff_t)steps * o->step;
    o->b += (ptrdiff_t)steps * ldb;
}

QKV_INLINE void multiply_tile(size_t rows, size_t width, float *c, ptrdiff_t ldc, operands o, size_t k,
                              int accumulate) {
    float sum[ROWS * QKV_PANEL] = {0};
    for (; k >= STEPS; k -= STEPS)
        add_terms(rows, STEPS, width, sum, &o);
    for (; k > 0; k--)
        add_terms(rows, 1, width, sum, &o);
    for (size_t i = 0; i < rows; i++, c += ldc) {
        for (size_t j = 0; j < width; j++)
            c[j] = accumulate ? c[j] + sum[i * width + j] : sum[i * width + j];
    }
}

static void multiply(float *c, ptrdiff_t ldc, const operands *o, ptrdiff_t panel, size_t rows, size_t cols, size_t k,
                     int accumulate) {
    for (size_t j = 0; j < cols;) {
        size_t width = cols - j >= QKV_PANEL ? QKV_PANEL : cols - j >= QKV_LANES ? QKV_LANES : 1;
        operands at = *o;
        float *to = c + j;
        at.b += (ptrdiff_t)(j / QKV_PANEL) * panel + (ptrdiff_t)(j % QKV_PANEL);
        for (size_t i = 0; i < rows;) {
            size_t height = rows - i >= ROWS ? ROWS : 1;
            if (width == QKV_PANEL && height == ROWS)
                multiply_tile(ROWS, QKV_PANEL, to, ldc, at, k, accumulate);
            else if (width == QKV_PANEL)
                multiply_tile(1, QKV_PANEL, to, ldc, at, k, accumulate);
            else if (width == QKV_LANES && height == ROWS)
                multiply_tile(ROWS, QKV_LANES, to, ldc, at, k, accumulate);
            else if (width == QKV_LANES)
                multiply_tile(1, QKV_LANES, to, ldc, at, k, accumulate);
            else if (height == ROWS)
                multiply_tile(ROWS, 1, to, ldc, at, k, accumulate);
            else
                multiply_tile(1, 1, to, ldc, at, k, accumulate);
            at.a += (ptrdiff_t)height * at.row;
            to += (ptrdiff_t)height * ldc;
            i += height;
        }
        j += width;
    }
}

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t panel,
                 size_t rows, size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    (void)soon;
    multiply(c, ldc, &(operands){a, b, lda, 1, ldb}, panel, rows, cols, k, accumulate);
}

static void gemm_t(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate) {
    multiply(c, ldc, &(operands){a, b, 1, lda, ldb}, QKV_PANEL, rows, cols, k, accumulate);
}

/* Lanes run over rows of B: QKV_LANES of them are turned, so many of their terms at a time. */
static void gemm_nt(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    enum { TURNED = 32 };
    (void)soon;
    for (size_t j = 0; j < cols; j += QKV_LANES, b += QKV_LANES * ldb, c += QKV_LANES) {
        float turned[TURNED][QKV_LANES] = {{0}}, sum[NT_ROWS][QKV_LANES] = {{0}};
        size_t present = cols - j < QKV_LANES ? cols - j : QKV_LANES;
        for (size_t x = 0; x < k; x += TURNED) {
            size_t terms = k - x < TURNED ? k - x : TURNED;
            for (size_t r = 0; r < present; r++) {
                for (size_t y = 0; y < terms; y++)
                    turned[y][r] = b[(ptrdiff_t)r * ldb + (ptrdiff_t)(x + y)];
            }
            for (size_t i = 0; i < rows; i++) {
                operands o = {a + (ptrdiff_t)i * lda + (ptrdiff_t)x, turned[0], 0, 1, QKV_LANES};
                size_t y = terms;
                for (; y >= STEPS; y -= STEPS)
                    add_terms(1, STEPS, QKV_LANES, sum[i], &o);
                for (; y > 0; y--)
                    add_terms(1, 1, QKV_LANES, sum[i], &o);
            }
        }
        for (size_t i = 0; i < rows; i++) {
            float *row = c + (ptrdiff_t)i * ldc;
            for (size_t x = 0; x < QKV_LANES; x++)
                row[x] = accumulate ? row[x] + sum[i][x] : sum[i][x];
        }
    }
}

static void sum_visible(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k,
                        size_t cols) {
    for (size_t j = 0; j < cols; j++)
        o[j] = 0;
    for (size_t x = 0; x < k; x++, v += ldv) {
        for (size_t j = 0; !qkv_is_minus_infinity(t[x]) && j < cols; j++)
            o[j] = qkv_fma(p[x], v[j], o[j]);
    }
}

static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    for (size_t r = 0; r < QKV_PANEL; r++) {
        for (size_t c = 0; c < k; c++)
            panel[c * QKV_PANEL + r] = r < rows ? src[(ptrdiff_t)r * ld + (ptrdiff_t)c] : 0.0f;
    }
}

#include "../float_products.inc.h"

#define KERNELS qkv_kernels_portable
#define KERNELS_NAME "portable"
#define KERNELS_NEEDS 0
#include "../table.inc.h"

#endif
