/* Template: everything that works on rows of scores and outputs, in plain C: the reference, and what a compiler makes
 * vectors of where there are no intrinsics. No branch depends on a number.
 *
 * Needs ../ref/scalar.h, and what is stored or rounded by storage_loops.inc.h and bf16_loops.inc.h.
 *
 * SPDX-License-Identifier: MIT */

static void logits(float *t, size_t n, const qkv_logit_steps *steps) {
    const float cap = steps->cap, slope = steps->slope, *distance = steps->distance, *bias = steps->bias;
    const uint8_t *keep = steps->keep;
    for (size_t j = 0; cap != 0 && j < n; j++)
        t[j] = cap * qkv_tanh(t[j]);
    for (size_t j = 0; distance && j < n; j++)
        t[j] = qkv_fma(slope, distance[j], t[j]);
    for (size_t j = 0; bias && j < n; j++) {
        float x = t[j] + qkv_base2_logit(bias[j]);
        t[j] = qkv_is_minus_infinity(bias[j]) ? QKV_MINUS_INFINITY : x;
    }
    for (size_t j = 0; keep && j < n; j++)
        t[j] = keep[j] ? t[j] : QKV_MINUS_INFINITY;
}

/* The tree +8, +4, +2, +1. */
static float sum_lanes(float lane[QKV_LANES]) {
    for (size_t half = QKV_LANES / 2; half > 0; half /= 2) {
        for (size_t x = 0; x < half; x++)
            lane[x] += lane[x + half];
    }
    return lane[0];
}

/* Calls of softmax with each of two functions, which a compiler makes loops of their own. */
QKV_INLINE void softmax_rows(float (*exp2)(float), float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m,
                             float *l) {
    for (size_t i = 0; i < rows; i++, t += ld) {
        float max[QKV_LANES], lane[QKV_LANES] = {0};
        for (size_t x = 0; x < QKV_LANES; x++)
            max[x] = -FLT_MAX;
        for (size_t j = 0; j < cols; j += QKV_LANES) {
            for (size_t x = 0; x < QKV_LANES; x++)
                max[x] = t[j + x] > max[x] ? t[j + x] : max[x];
        }
        for (size_t x = 1; x < QKV_LANES; x++)
            max[0] = max[x] > max[0] ? max[x] : max[0];
        m[i] = max[0];
        for (size_t j = 0; j < cols; j += QKV_LANES) {
            for (size_t x = 0; x < QKV_LANES; x++) {
                float p = exp2(t[j + x] - max[0]);
                t[j + x] = p;
                lane[x] += p;
            }
        }
        l[i] = sum_lanes(lane);
    }
}

static void softmax(float *t, ptrdiff_t ld, size_t rows, size_t cols, float *m, float *l) {
    softmax_rows(qkv_exp2, t, ld, rows, cols, m, l);
}

static void softmax_bf16(float *t, ptrdiff_t ld, size_t first, size_t rows, size_t cols, float *m, float *l,
                         int rounds) {
    softmax_rows(qkv_exp2_for_bf16, t + first, ld, rows, cols, m, l);
    if (rounds)
        rows_bf16(t, ld, first, t + first, ld, rows, cols);
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
        for (size_t j = 0; j < n; j++) { /* the + 0.0f as a choice: no compiler can make an fma of it */
            float x = src[(ptrdiff_t)i * lds + (ptrdiff_t)j] * factors[i];
            dst[(ptrdiff_t)i * ldd + (ptrdiff_t)j] = qkv_select(x == 0, 0.0f, x);
        }
    }
}

/* Pair p of a row is (x0[p·step], x1[p·step]). step is a constant. */
QKV_INLINE void rotate_row(float *x0, float *x1, size_t step, const float *cos, const float *sin, float sign,
                           size_t pairs) {
    for (size_t p = 0; p < pairs; p++) {
        float a = x0[p * step], b = x1[p * step], s = sign * sin[p];
        x0[p * step] = qkv_fma(a, cos[p], b * -s);
        x1[p * step] = qkv_fma(b, cos[p], a * s);
    }
}

static void rotate(float *x, ptrdiff_t ld, const float *cos, const float *sin, const ptrdiff_t *at, size_t rows,
                   size_t pairs, int interleaved, int inverse) {
    float sign = inverse ? -1.0f : 1.0f;
    for (size_t i = 0; i < rows; i++) {
        float *row = x + (ptrdiff_t)i * ld;
        if (interleaved)
            rotate_row(row, row + 1, 2, cos + at[i], sin + at[i], sign, pairs);
        else
            rotate_row(row, row + pairs, 1, cos + at[i], sin + at[i], sign, pairs);
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

static void dropout(float *t, size_t first, size_t end, const qkv_dropout *d) {
    for (size_t group = first / QKV_PHILOX_KEYS; group * QKV_PHILOX_KEYS < end; group++) {
        for (uint32_t x = 0; x < QKV_LANES; x++) {
            uint32_t words[4] = {(d->first_group + (uint32_t)group) * QKV_LANES + x, d->counter[0], d->counter[1],
                                 d->counter[2]};
            qkv_philox(words, d->key);
            for (size_t w = 0; w < 4; w++) {
                size_t j = group * QKV_PHILOX_KEYS + w * QKV_LANES + x;
                if (j >= first && j < end)
                    t[j] *= words[w] < d->threshold ? 0.0f : d->scale;
            }
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
    for (size_t i = 0; i < rows; i++) { /* no address behind the last row: strides may be huge */
        const float *u = a + (ptrdiff_t)i * lda, *v = b + (ptrdiff_t)i * ldb;
        float lane[QKV_LANES] = {0};
        size_t j = 0;
        for (; j + QKV_LANES <= n; j += QKV_LANES) {
            for (size_t x = 0; x < QKV_LANES; x++)
                lane[x] = qkv_fma(u[j + x], v[j + x], lane[x]);
        }
        for (size_t x = 0; j + x < n; x++)
            lane[x] = qkv_fma(u[j + x], v[j + x], lane[x]);
        d[i] = sum_lanes(lane);
    }
}

static void add(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n; j++)
            dst[(ptrdiff_t)i * ldd + (ptrdiff_t)j] += src[(ptrdiff_t)i * lds + (ptrdiff_t)j];
    }
}

static void scale_columns(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *factors) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++)
            t[(ptrdiff_t)i * ld + (ptrdiff_t)j] *= factors[j];
    }
}

static void scale_scores(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *columns, const float *factors,
                         const float *offsets) {
    for (size_t i = 0; i < rows; i++) {
        float *row = t + (ptrdiff_t)i * ld;
        for (size_t j = 0; j < cols; j++)
            row[j] = qkv_fma(row[j] * columns[j], factors[i], offsets[i]);
    }
}

static void gemm_stored(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const void *b, ptrdiff_t stride,
                        int type, size_t rows, size_t cols, size_t k, int resume, const qkv_soon *soon) {
    (void)soon;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            float *to = &c[(ptrdiff_t)i * ldc + (ptrdiff_t)j], sum = resume ? *to : 0.0f;
            for (size_t x = 0; x < k; x++)
                sum = qkv_fma(a[(ptrdiff_t)i * lda + (ptrdiff_t)x],
                              load_stored((const unsigned char *)b + (ptrdiff_t)x * stride, type, j), sum);
            *to = sum;
        }
    }
}
