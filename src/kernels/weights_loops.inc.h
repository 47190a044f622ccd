/* Template: packed weights in plain C: widening, and the product with activations in 8 bits. The reference, and what
 * a compiler makes vectors of.
 *
 * Needs ../ref/scalar.h and ../ref/weights.h.
 *
 * SPDX-License-Identifier: MIT */

/* Of each column of a block, for the terms 0–15 and 16–31: what their integers are multiplied by. With a minimum, which
 * no type has that has two scales, the second row is that. */
static void block_factors(float factors[2][QKV_PANEL], int type, const unsigned char *panel, size_t block) {
    const size_t term = block * QKV_BLOCK_TERMS;
    for (size_t j = 0; j < QKV_PANEL; j++) {
        factors[0][j] = qkv_weight_scale(type, panel, term, j);
        factors[1][j] = qkv_weight_has_minimum(type) ? qkv_weight_minimum(type, panel, term, j)
                                                     : qkv_weight_scale(type, panel, term + 16, j);
    }
}

static void widen_weights(float *dst, const void *data, int type, size_t first, size_t k) {
    const unsigned char *panel = (const unsigned char *)data;
    const int bits = qkv_weight_bits(type), zero = qkv_weight_zero(type), minimum = qkv_weight_has_minimum(type);
    float factors[2][QKV_PANEL];
    for (size_t x = 0; x < k; x++, dst += QKV_PANEL) {
        const size_t term = (first + x) % QKV_BLOCK_TERMS, block = (first + x) / QKV_BLOCK_TERMS;
        if (bits == 0) {
            for (size_t j = 0; j < QKV_PANEL; j++)
                dst[j] = qkv_weight_value(type, panel, first + x, j);
            continue;
        }
        if (term == 0)
            block_factors(factors, type, panel, block);
        const unsigned char *integers = qkv_weight_block(type, panel, block) + qkv_weight_scale_bytes(type);
        const float *scale = factors[minimum ? 0 : term / 16];
        for (size_t j = 0; j < QKV_PANEL; j++) {
            float q = (float)(qkv_weight_integer(bits, integers, term, j) - zero);
            dst[j] = minimum ? qkv_fma(scale[j], q, factors[1][j]) : scale[j] * q;
        }
    }
}

static void quantize_terms(qkv_terms *to, const float *x, size_t n) {
    float largest = 0;
    int finite = 1;
    for (size_t j = 0; j < n; j++) {
        float a = x[j] < 0 ? -x[j] : x[j];
        finite = finite && a <= FLT_MAX;
        largest = a > largest ? a : largest;
    }
    memset(to, 0, sizeof *to);
    if (!finite) {
        to->scale = __builtin_nanf("");
    } else if (largest >= 0x1p-100f) {
        float factor = 127.0f / largest;
        to->scale = largest / 127.0f;
        for (size_t j = 0; j < n; j++) {
            to->q[j] = (int8_t)qkv_round_int(x[j] * factor);
            to->sum += to->q[j];
            to->upper_sum += j < 16 ? 0 : to->q[j];
        }
    }
    to->scaled_sum = to->scale * (float)to->sum;
}

static void quantize_rows(qkv_terms *dst, ptrdiff_t ldd, const float *x, ptrdiff_t ldx, size_t rows, size_t k) {
    for (size_t i = 0; i < rows; i++, dst++) {
        const float *row = x + (ptrdiff_t)i * ldx;
        for (size_t j = 0; j < k; j += QKV_BLOCK_TERMS)
            quantize_terms(dst + (ptrdiff_t)(j / QKV_BLOCK_TERMS) * ldd, row + j,
                           k - j < QKV_BLOCK_TERMS ? k - j : QKV_BLOCK_TERMS);
    }
}

/* c[j] = fma(Σ w·q, fl(scale·factors[j]), c[j]) over so many terms of a row and a block; w: [terms][64]. */
static void multiply_terms(float *c, const int8_t *q, float scale, const int8_t *w, size_t terms, const float *factors,
                           size_t cols) {
    int32_t sum[QKV_PANEL] = {0};
    for (size_t x = 0; x < terms; x++, w += QKV_PANEL) {
        for (size_t j = 0; j < QKV_PANEL; j++)
            sum[j] += w[j] * q[x];
    }
    for (size_t j = 0; j < cols; j++)
        c[j] = qkv_fma((float)sum[j], scale * factors[j], c[j]);
}

static void multiply_block(float *c, ptrdiff_t ldc, const qkv_terms *a, const unsigned char *panel, int type,
                           size_t rows, size_t cols, size_t block) {
    const int bits = qkv_weight_bits(type), minimum = qkv_weight_has_minimum(type);
    const unsigned char *integers = qkv_weight_block(type, panel, block) + qkv_weight_scale_bytes(type);
    int8_t weights[QKV_BLOCK_TERMS * QKV_PANEL];
    float factors[2][QKV_PANEL];
    for (size_t x = 0; x < QKV_BLOCK_TERMS; x++) {
        for (size_t j = 0; j < QKV_PANEL; j++)
            weights[x * QKV_PANEL + j] = (int8_t)(qkv_weight_integer(bits, integers, x, j) - qkv_weight_zero(type));
    }
    block_factors(factors, type, panel, block);
    for (size_t j = 0; type == QKV_INT8 && j < QKV_PANEL; j++)
        factors[0][j] = 1.0f; /* its scale comes at the end */
    for (size_t i = 0; i < rows; i++, a++) {
        float *row = c + (ptrdiff_t)i * ldc;
        const size_t terms = QKV_WITH(BLOCKS) && type == QKV_Q6_K ? 16 : QKV_BLOCK_TERMS;
        for (size_t x = 0; x < QKV_BLOCK_TERMS; x += terms)
            multiply_terms(row, a->q + x, a->scale, weights + x * QKV_PANEL, terms, factors[x / 16], cols);
        for (size_t j = 0; minimum && j < cols; j++)
            row[j] = qkv_fma(a->scaled_sum, factors[1][j], row[j]);
    }
}

static void gemm_weights(float *c, ptrdiff_t ldc, const qkv_terms *a, ptrdiff_t lda, const void *data, int type,
                         size_t rows, size_t cols, size_t k) {
    const unsigned char *panel = (const unsigned char *)data;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++)
            c[(ptrdiff_t)i * ldc + (ptrdiff_t)j] = 0;
    }
    for (size_t block = 0; block * QKV_BLOCK_TERMS < k; block++, a += lda)
        multiply_block(c, ldc, a, panel, type, rows, cols, block);
    for (size_t i = 0; type == QKV_INT8 && i < rows; i++) {
        for (size_t j = 0; j < cols; j++)
            c[(ptrdiff_t)i * ldc + (ptrdiff_t)j] *= qkv_weight_scale(type, panel, 0, j);
    }
}
