/* Template: what gradients need beyond the forward and products: probabilities from the log-sum-exp, their derivative,
 * and sums over rows.
 *
 * Needs what gemm.inc.h and rows.inc.h need, and both of them before it.
 *
 * SPDX-License-Identifier: MIT */

static void recompute(float *t, ptrdiff_t ld, size_t rows, size_t cols, const float *lse) {
    vec zero = v_zero();
    for (size_t i = 0; i < rows; i++, t += ld) {
        vec sum = v_set(lse[i]);
        for (size_t j = 0; j < cols; j += VLEN)
            v_store(t + j, v_exp2(v_min(zero, v_sub(v_load(t + j), sum)))); /* a NaN stays: see v_min */
    }
    v_leave();
}

static void score_grad(float *d, const float *p, ptrdiff_t ld, size_t rows, size_t cols, const float *delta,
                       float scale, const float *cap_tanh) {
    vec factor = v_set(scale), one = v_set(1.0f);
    for (size_t i = 0; i < rows; i++, d += ld, p += ld) {
        vec minus = v_sub(v_zero(), v_set(delta[i]));
        for (size_t j = 0; j < cols; j += VLEN) {
            vec x = v_mul(v_load(p + j), v_fma(v_load(d + j), factor, minus));
            if (cap_tanh) {
                vec u = v_load(cap_tanh + (ptrdiff_t)i * ld + (ptrdiff_t)j);
                x = v_mul(x, v_fnma(u, u, one));
            }
            v_store(d + j, x);
        }
    }
    v_leave();
}

#define DOTS_ZERO(i, j) lanes[i] = v_zero();
#define DOTS_FMA(i, j) lanes[i] = v_fma(v_load(a + x + i * VLEN), v_load(b + x + i * VLEN), lanes[i]);
#define DOTS_TAIL(i, j)                                                                                                \
    if (x < n) {                                                                                                       \
        vtail tail = v_tail(n - x < VLEN ? n - x : VLEN);                                                              \
        lanes[i] = v_fma(v_load_tail(a + x, tail), v_load_tail(b + x, tail), lanes[i]);                                \
        x += VLEN;                                                                                                     \
    }
#define EACH_LANE_VECTOR(f) QKV_ROWS(4, IF_LANE_VECTOR, f)
#define IF_LANE_VECTOR(i, f)                                                                                           \
    if (i < LANE_VECTORS) {                                                                                            \
        f(i, 0)                                                                                                        \
    }
static void row_dots(float *d, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows, size_t n) {
    for (size_t y = 0; y < rows; y++, a += lda, b += ldb) {
        vec lanes[4];
        EACH_LANE_VECTOR(DOTS_ZERO)
        size_t x = 0;
        for (; x + QKV_LANES <= n; x += QKV_LANES) {
            EACH_LANE_VECTOR(DOTS_FMA)
        }
        EACH_LANE_VECTOR(DOTS_TAIL)
        d[y] = v_sum_lanes(lanes);
    }
    v_leave();
}

static void add(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, size_t rows, size_t n) {
    vtail tail = v_tail(n % VLEN == 0 ? VLEN : n % VLEN);
    for (; rows > 0; rows--, dst += ldd, src += lds) {
        size_t j = 0;
        for (; j + VLEN <= n; j += VLEN)
            v_store(dst + j, v_add(v_load(dst + j), v_load(src + j)));
        if (j < n)
            v_store_tail(dst + j, v_add(v_load_tail(dst + j, tail), v_load_tail(src + j, tail)), tail);
    }
    v_leave();
}
