/* Template: what gradients need beyond the forward and products: probabilities from the log-sum-exp, their derivative,
 * and sums over rows.
 *
 * Needs what gemm.inc.h and rows.inc.h need, and both of them before it.
 *
 * SPDX-License-Identifier: MIT */

static void recompute(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *lse) {
    V zero = v_zero();
    for (size_t i = 0; i < rows; i++, t += ld) {
        V sum = v_set(lse[i]);
        for (size_t j = 0; j < cols; j += VL)
            v_store(t + j, v_exp2(v_min(zero, v_sub(v_load(t + j), sum)))); /* a NaN stays: see v_min */
    }
    v_leave();
}

static void score_grad(float *d, const float *p, ptrdiff_t ld, size_t rows, size_t cols, const float *delta,
                       float scale, const float *cap_tanh) {
    V factor = v_set(scale), one = v_set(1.0f);
    for (size_t i = 0; i < rows; i++, d += ld, p += ld) {
        V minus = v_sub(v_zero(), v_set(delta[i]));
        for (size_t j = 0; j < cols; j += VL) {
            V x = v_mul(v_load(p + j), v_fma(v_load(d + j), factor, minus));
            if (cap_tanh) {
                V u = v_load(cap_tanh + (ptrdiff_t)i * ld + (ptrdiff_t)j);
                x = v_mul(x, v_fnma(u, u, one));
            }
            v_store(d + j, x);
        }
    }
    v_leave();
}

static void row_dots(float *d, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows, size_t n) {
    enum { N = QKV_LANES / VL };
    for (size_t i = 0; i < rows; i++, a += lda, b += ldb) {
        V lanes[N];
        QKV_UNROLL
        for (int x = 0; x < N; x++)
            lanes[x] = v_zero();
        size_t j = 0;
        for (; j + QKV_LANES <= n; j += QKV_LANES) {
            QKV_UNROLL
            for (int x = 0; x < N; x++)
                lanes[x] = v_fma(v_load(a + j + x * VL), v_load(b + j + x * VL), lanes[x]);
        }
        QKV_UNROLL
        for (int x = 0; x < N; x++) {
            if (j < n) {
                T tail = v_tail(n - j < VL ? n - j : VL);
                lanes[x] = v_fma(v_load_tail(a + j, tail), v_load_tail(b + j, tail), lanes[x]);
                j += VL;
            }
        }
        d[i] = v_sum_lanes(lanes);
    }
    v_leave();
}

static void add(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n) {
    T tail = v_tail(n % VL == 0 ? VL : n % VL);
    for (; rows > 0; rows--, dst += ldd, src += lds) {
        size_t j = 0;
        for (; j + VL <= n; j += VL)
            v_store(dst + j, v_add(v_load(dst + j), v_load(src + j)));
        if (j < n)
            v_store_tail(dst + j, v_add(v_load_tail(dst + j, tail), v_load_tail(src + j, tail)), tail);
    }
    v_leave();
}
