/* Template: the register-tiled matrix product, and the panels it reads.
 *
 * Needs the vector header of an instruction set (V, T, VL, STRIP_VECTORS, TILE_ROWS, v_*), inside its target region.
 * A tile is TILE_ROWS rows × STRIP_VECTORS vectors of C, held in registers over the whole inner dimension: each step
 * loads one row of B and broadcasts one column of A. 6×64 (AVX-512) and 6×16 (AVX2, NEON) need the fewest loads per
 * fma of all tiles that fit the register file.
 *
 * SPDX-License-Identifier: MIT */

_Static_assert(QKV_PANEL % (STRIP_VECTORS * VL) == 0 && QKV_LANES % VL == 0, "strips fill panels, vectors fill lanes");
_Static_assert((STRIP_VECTORS == 2 || STRIP_VECTORS == 4) && TILE_ROWS == 6, "what the switches below spell out");

/* One column of A against one row of B. */
QKV_INLINE void gemm_step(int rows, int vectors, int has_tail, T tail, V sum[TILE_ROWS][STRIP_VECTORS], const float *a,
                          ptrdiff_t lda, const float *b) {
    V row[STRIP_VECTORS];
    QKV_UNROLL
    for (int j = 0; j < vectors; j++)
        row[j] = has_tail && j == vectors - 1 ? v_load_tail(b + j * VL, tail) : v_load(b + j * VL);
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        V factor = v_set(a[i * lda]);
        QKV_UNROLL
        for (int j = 0; j < vectors; j++)
            sum[i][j] = v_fma(factor, row[j], sum[i][j]);
    }
}

/* Memory to fetch while a product runs: a line with every second step of a whole tile, step bytes on from the last. */
typedef struct gemm_ahead {
    const char *at; /* NULL: none */
    size_t step;
} gemm_ahead;

/* One tile of rows × vectors. With has_tail only the first lanes of the last vector are memory; C is padded scratch.
 * rows, vectors, has_tail and fetches are constants. */
QKV_INLINE void gemm_tile(int rows, int vectors, int has_tail, T tail, int fetches, gemm_ahead ahead, float *c,
                          ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t k,
                          int accumulate) {
    V sum[TILE_ROWS][STRIP_VECTORS];
    QKV_UNROLL
    for (int i = 0; i < rows; i++) {
        QKV_UNROLL
        for (int j = 0; j < vectors; j++)
            sum[i][j] = v_zero();
    }
    if (rows == TILE_ROWS && !has_tail) {
        /* Two steps at a time: half the branches. With more, compilers run out of registers and copy sums about. */
        for (; k >= 2; k -= 2) {
            QKV_UNROLL
            for (int step = 0; step < 2; step++, a++, b += ldb)
                gemm_step(rows, vectors, 0, tail, sum, a, lda, b);
            if (fetches) {
                __builtin_prefetch(ahead.at, 0, 2);
                ahead.at += ahead.step;
            }
        }
    }
    for (; k > 0; k--, a++, b += ldb)
        gemm_step(rows, vectors, has_tail, tail, sum, a, lda, b);
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
QKV_INLINE void gemm_strip(int vectors, int has_tail, T tail, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda,
                           const float *b, ptrdiff_t ldb, size_t rows, size_t k, int accumulate, gemm_ahead ahead) {
    const gemm_ahead none = {NULL, 0};
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS) {
        if (ahead.at) {
            gemm_tile(TILE_ROWS, vectors, has_tail, tail, 1, ahead, c, ldc, a, lda, b, ldb, k, accumulate);
            ahead.at += k / 2 * ahead.step;
        } else {
            gemm_tile(TILE_ROWS, vectors, has_tail, tail, 0, none, c, ldc, a, lda, b, ldb, k, accumulate);
        }
        a += TILE_ROWS * lda;
        c += TILE_ROWS * ldc;
    }
    switch (rows) {
    case 5: gemm_tile(5, vectors, has_tail, tail, 0, none, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 4: gemm_tile(4, vectors, has_tail, tail, 0, none, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 3: gemm_tile(3, vectors, has_tail, tail, 0, none, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 2: gemm_tile(2, vectors, has_tail, tail, 0, none, c, ldc, a, lda, b, ldb, k, accumulate); break;
    case 1: gemm_tile(1, vectors, has_tail, tail, 0, none, c, ldc, a, lda, b, ldb, k, accumulate); break;
    default: break;
    }
}

static void gemm(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                 size_t cols, size_t k, int accumulate, const float *next) {
    enum { STRIP = STRIP_VECTORS * VL, CACHE_LINE = 64 };
    const gemm_ahead none = {NULL, 0};
    gemm_ahead ahead = none;
    size_t strip_fetches = rows / TILE_ROWS * (k / 2), fetches = strip_fetches * (cols / STRIP);
    if (next && fetches > 0) {
        size_t step = (k * cols * sizeof(float) + fetches - 1) / fetches;
        ahead = (gemm_ahead){(const char *)next, step < CACHE_LINE ? step : CACHE_LINE};
    }
    for (; cols >= STRIP; cols -= STRIP) {
        if (ldb == QKV_PANEL) /* a constant costs no instruction at each step */
            gemm_strip(STRIP_VECTORS, 0, v_tail(VL), c, ldc, a, lda, b, QKV_PANEL, rows, k, accumulate, ahead);
        else
            gemm_strip(STRIP_VECTORS, 0, v_tail(VL), c, ldc, a, lda, b, ldb, rows, k, accumulate, ahead);
        b += STRIP;
        c += STRIP;
        if (ahead.at)
            ahead.at += strip_fetches * ahead.step;
    }
    size_t vectors = (cols + VL - 1) / VL;
    T tail = v_tail(cols % VL == 0 ? VL : cols % VL);
    switch (vectors) {
#if STRIP_VECTORS == 4
    case 4: gemm_strip(4, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate, none); break;
    case 3: gemm_strip(3, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate, none); break;
    case 2:
        if (cols == 2 * VL) /* a head dimension of 32, on AVX-512 */
            gemm_strip(2, 0, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate, none);
        else
            gemm_strip(2, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate, none);
        break;
#else
    case 2: gemm_strip(2, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate, none); break;
#endif
    case 1: gemm_strip(1, 1, tail, c, ldc, a, lda, b, ldb, rows, k, accumulate, none); break;
    default: break;
    }
    v_leave();
}

/* One row: four vectors at a time, so that four chains are under way. */
QKV_INLINE void sum_visible_strip(int vectors, int has_tail, T tail, float *o, const float *p, const float *t,
                                  const float *v, ptrdiff_t ldv, size_t k) {
    V sum[4];
    QKV_UNROLL
    for (int j = 0; j < vectors; j++)
        sum[j] = v_zero();
    for (size_t x = 0; x < k; x++, v += ldv) {
        if (t[x] == QKV_MINUS_INFINITY)
            continue;
        V factor = v_set(p[x]);
        QKV_UNROLL
        for (int j = 0; j < vectors; j++) {
            V row = has_tail && j == vectors - 1 ? v_load_tail(v + j * VL, tail) : v_load(v + j * VL);
            sum[j] = v_fma(factor, row, sum[j]);
        }
    }
    QKV_UNROLL
    for (int j = 0; j < vectors; j++)
        v_store(o + j * VL, sum[j]);
}

static void sum_visible(float *o, const float *p, const float *t, const float *v, ptrdiff_t ldv, size_t k,
                        size_t cols) {
    for (; cols >= 4 * VL; cols -= 4 * VL, o += 4 * VL, v += 4 * VL)
        sum_visible_strip(4, 0, v_tail(VL), o, p, t, v, ldv, k);
    for (; cols >= VL; cols -= VL, o += VL, v += VL)
        sum_visible_strip(1, 0, v_tail(VL), o, p, t, v, ldv, k);
    if (cols > 0)
        sum_visible_strip(1, 1, v_tail(cols), o, p, t, v, ldv, k);
    v_leave();
}

/* VL rows at a time through an in-register transpose; rows that don't exist are zero. */
static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    for (size_t r = 0; r < QKV_PANEL; r += VL) {
        size_t present = r >= rows ? 0 : rows - r < VL ? rows - r : VL;
        const float *from = src + (ptrdiff_t)r * ld;
        for (size_t c = 0; c < k; c += VL) {
            size_t width = k - c < VL ? k - c : VL;
            T tail = v_tail(width);
            V x[VL];
            if (present == VL && width == VL) {
                QKV_UNROLL
                for (int i = 0; i < VL; i++)
                    x[i] = v_load(from + i * ld + (ptrdiff_t)c);
            } else {
                QKV_UNROLL
                for (int i = 0; i < VL; i++)
                    x[i] = (size_t)i < present ? v_load_tail(from + i * ld + (ptrdiff_t)c, tail) : v_zero();
            }
            v_transpose(x);
            float *to = panel + c * QKV_PANEL + r;
            if (width == VL) {
                QKV_UNROLL
                for (int i = 0; i < VL; i++)
                    v_store(to + i * QKV_PANEL, x[i]);
            } else {
                QKV_UNROLL
                for (int i = 0; i < VL; i++) {
                    if ((size_t)i < width)
                        v_store(to + i * QKV_PANEL, x[i]);
                }
            }
        }
    }
    v_leave();
}
