/* Template: what gradients need beyond the forward: products with a transposed left operand, probabilities from the
 * log-sum-exp, their derivative, and sums over rows.
 *
 * Needs what gemm.inc.h and rows.inc.h need, and both of them before it.
 *
 * SPDX-License-Identifier: MIT */

/* One tile of rows × vectors of Aᵀ·B; as gemm_tile, but the factors of a step lie side by side in a row of A. */
QKV_INLINE void gemm_t_tile(int rows, int vectors, int has_tail, T tail, float *c, ptrdiff_t ldc, const float *a,
                            ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t k, int accumulate) {
    V sum[TILE_ROWS][STRIP_VECTORS];
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        QKV_UNROLL
        for (int j = 0; j < vectors; j++)
            sum[i][j] = v_zero();
    }
    if (rows == TILE_ROWS && !has_tail) {
        for (; k >= 2; k -= 2) { /* half the branches; see gemm_tile */
            QKV_UNROLL
            for (int step = 0; step < 2; step++, a += lda, b += ldb)
                gemm_step(rows, vectors, 0, tail, sum, a, 1, b);
        }
    }
    for (; k > 0; k--, a += lda, b += ldb)
        gemm_step(rows, vectors, has_tail, tail, sum, a, 1, b);
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        QKV_UNROLL
        for (int j = 0; j < vectors; j++) {
            float *out = c + i * ldc + j * VL;
            v_store(out, accumulate ? v_add(v_load(out), sum[i][j]) : sum[i][j]);
        }
    }
}

/* All rows of one strip, a constant number of vectors wide. */
QKV_INLINE void gemm_t_strip(int vectors, int has_tail, T tail, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda,
                             const float *b, ptrdiff_t ldb, size_t rows, size_t k, int accumulate) {
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS, a += TILE_ROWS, c += TILE_ROWS * ldc)
        gemm_t_tile(TILE_ROWS, vectors, has_tail, tail, c, ldc, a, lda, b, ldb, k, accumulate);
    switch (rows) {
    case 5: gemm_t_tile(5, vectors, has_tail, tail, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 4: gemm_t_tile(4, vectors, has_tail, tail, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 3: gemm_t_tile(3, vectors, has_tail, tail, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 2: gemm_t_tile(2, vectors, has_tail, tail, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 1: gemm_t_tile(1, vectors, has_tail, tail, c, ldc, a, lda, b, ldb, k, accumulate); break;
    default: break;
    }
}

static void gemm_t(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                   size_t cols, size_t k, int accumulate) {
    enum { STRIP = STRIP_VECTORS * VL };
    for (; cols >= STRIP; cols -= STRIP, b += STRIP, c += STRIP)
        gemm_t_strip(STRIP_VECTORS, 0, v_tail(VL), c, ldc, a, lda, b, ldb, rows, k, accumulate);
    T tail = v_tail(cols % VL == 0 ? VL : cols % VL);
    switch ((cols + VL - 1) / VL) {
#if STRIP_VECTORS == 4
    case 4: gemm_t_strip(4, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate); break;
    case 3: gemm_t_strip(3, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate); break;
#endif
    case 2:
        if (cols == 2 * VL) /* a head dimension of 32, on AVX-512 */
            gemm_t_strip(2, 0, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate);
        else
            gemm_t_strip(2, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate);
        break;
    case 1: gemm_t_strip(1, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate); break;
    default: break;
    }
    v_leave();
}

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
