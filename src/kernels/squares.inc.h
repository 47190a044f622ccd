/* Template: squares of VLEN × VLEN floats, turned in registers: packing panels, and products with rows of B as they lie
 * in memory. Part of gemm.inc.h.
 *
 * SPDX-License-Identifier: MIT */

/* The first vectors of VLEN rows; of those present, only the first lanes are memory unless whole, a constant. */
#define LOAD_SQUARE(i, j)                                                                                              \
    if (i % 4 == 0)                                                                                                    \
        QKV_OPAQUE(row); /* a pointer to each row is more than fits the registers */                                   \
    if (whole)                                                                                                         \
        x[i] = v_load(row);                                                                                            \
    else                                                                                                               \
        x[i] = (size_t)i < present ? v_load_tail(row, tail) : v_zero();                                                \
    row += ld;
QKV_INLINE void load_rows(int whole, vec x[VLEN], const float *row, ptrdiff_t ld, size_t present, vtail tail) {
    QKV_ROWS(VLEN, LOAD_SQUARE, 0)
}

/* VLEN rows at a time; rows that don't exist are zero. */
#define STORE_SQUARE(i, j)                                                                                             \
    if (width == VLEN || (size_t)i < width)                                                                            \
        v_store(to + i * QKV_PANEL, x[i]);
static void pack(float *panel, const float *src, ptrdiff_t ld, size_t rows, size_t k) {
    if (rows <= 1)
        ld = 0; /* it may be anything */
    for (size_t r = 0; r < QKV_PANEL; r += VLEN) {
        size_t present = r >= rows ? 0 : rows - r < VLEN ? rows - r : VLEN;
        const float *from = src + (ptrdiff_t)r * ld;
        for (size_t c = 0; c < k; c += VLEN) {
            size_t width = k - c < VLEN ? k - c : VLEN;
            vtail tail = v_tail(width);
            vec x[VLEN];
            if (present == VLEN && width == VLEN)
                load_rows(1, x, from + c, ld, VLEN, tail);
            else
                load_rows(0, x, from + c, ld, present, tail);
            v_transpose(x);
            float *to = panel + c * QKV_PANEL + r;
            if (width == VLEN) {
                QKV_ROWS(VLEN, STORE_SQUARE, 0)
            } else {
                QKV_ROWS(VLEN, STORE_SQUARE, 0)
            }
        }
    }
    v_leave();
}

#define STORE_EDGE(i, j) v_store(to + i * VLEN, x[i]);
/* A square with rows or columns that are missing, turned in memory. */
static QKV_NOINLINE void turn_edge(float *to, const float *from, ptrdiff_t ld, size_t present, size_t width) {
    vec x[VLEN];
    load_rows(0, x, from, present > 1 ? ld : 0, present, v_tail(width));
    v_transpose(x);
    QKV_ROWS(VLEN, STORE_EDGE, 0)
}

/* VLEN columns of C for a constant number of rows: B a square at a time. */
#define NT_ZERO(i, y) vec sum_##i = v_zero();
#define NT_FMA(y, i)                                                                                                   \
    if (i < rows)                                                                                                      \
        sum_##i = v_fma(v_set(*ROW_OF_A(i)), of_b[y], sum_##i);
#define NT_EDGE_FMA(i, y)                                                                                              \
    if (i < rows)                                                                                                      \
        sum_##i = v_fma(v_set(*ROW_OF_A(i)), column, sum_##i);
#define NT_PIN(y, i) V_PIN(of_b[y]); /* or GCC turns part of the square between the sums, and copies those about */
#define NT_STEP(y, i)                                                                                                  \
    QKV_COLS(NT_ROWS, NT_FMA, y)                                                                                       \
    a++, lower++;                                                                                                      \
    QKV_OPAQUE(a); /* else each column of A has offsets of its own */                                                  \
    QKV_OPAQUE(lower);
#define NT_STORE(i, y)                                                                                                 \
    if (i < rows)                                                                                                      \
        v_store(c + i * ldc, accumulate ? v_add(v_load(c + i * ldc), sum_##i) : sum_##i);
QKV_INLINE void gemm_nt_tile(int rows, const gemm_operands *o, float *c, const float *a, const float *b, size_t cols,
                             gemm_fetch *fetch_own, gemm_fetch *fetch) {
    const ptrdiff_t row = o->lda, ldb = o->ldb, ldc = o->ldc;
    const int accumulate = o->accumulate, split = NT_ROWS / 2;
    const float *lower = rows > split ? a + split * row : a;
    QKV_OPAQUE(lower);
    size_t k = o->k;
    vec of_b[VLEN];
    QKV_ROWS(NT_ROWS, NT_ZERO, 0)
    for (; cols == VLEN && k >= VLEN; k -= VLEN, b += VLEN) {
        load_rows(1, of_b, b, ldb, VLEN, v_tail(VLEN));
        v_transpose(of_b);
        QKV_ROWS(VLEN, NT_PIN, 0)
        gemm_fetch_lines(fetch_own);
        gemm_fetch_lines(fetch);
        QKV_ROWS(VLEN, NT_STEP, 0)
    }
    while (k > 0) {
        size_t width = k < VLEN ? k : VLEN;
        float edge[VLEN * VLEN];
        turn_edge(edge, b, ldb, cols, width);
        gemm_fetch_lines(fetch_own);
        gemm_fetch_lines(fetch);
        for (size_t y = 0; y < width; y++, a++, lower++) {
            vec column = v_load(edge + y * VLEN);
            QKV_ROWS(NT_ROWS, NT_EDGE_FMA, 0)
        }
        k -= width, b += width;
    }
    QKV_ROWS(NT_ROWS, NT_STORE, 0)
}

/* All columns for a constant number of rows. What is being fetched is kept in registers meanwhile. */
QKV_INLINE void gemm_nt_strips(int rows, const gemm_operands *o, float *c, const float *a, const float *b, size_t cols,
                               gemm_fetch *fetch_own, gemm_fetch *fetch) {
    gemm_fetch own = *fetch_own, others = *fetch;
    for (size_t j = 0; j < cols; j += VLEN, b += VLEN * o->ldb)
        gemm_nt_tile(rows, o, c + j, a, b, cols - j < VLEN ? cols - j : VLEN, &own, &others);
    *fetch_own = own;
    *fetch = others;
}

typedef void gemm_nt_function(const gemm_operands *, float *c, const float *a, const float *b, size_t cols,
                              gemm_fetch *fetch_own, gemm_fetch *fetch);
#define NT_FUNCTION(rows)                                                                                              \
    static QKV_NOINLINE void gemm_nt_##rows(const gemm_operands *o, float *c, const float *a, const float *b,          \
                                            size_t cols, gemm_fetch *fetch_own, gemm_fetch *fetch) {                   \
        gemm_nt_strips(rows, o, c, a, b, cols, fetch_own, fetch);                                                      \
    }
NT_FUNCTION(1)
NT_FUNCTION(2)
NT_FUNCTION(3)
NT_FUNCTION(4)
NT_FUNCTION(5)
NT_FUNCTION(6)
#if NT_ROWS == 12
NT_FUNCTION(7)
NT_FUNCTION(8)
NT_FUNCTION(9)
NT_FUNCTION(10)
NT_FUNCTION(11)
NT_FUNCTION(12)
#endif
static gemm_nt_function *const gemm_nt_tiles[NT_ROWS] = {
    gemm_nt_1, gemm_nt_2, gemm_nt_3, gemm_nt_4,  gemm_nt_5,  gemm_nt_6,
#if NT_ROWS == 12
    gemm_nt_7, gemm_nt_8, gemm_nt_9, gemm_nt_10, gemm_nt_11, gemm_nt_12,
#endif
};

static void gemm_nt(float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, size_t rows,
                    size_t cols, size_t k, int accumulate, const qkv_soon *soon) {
    /* A square reads VLEN rows at once, which no CPU takes for a stream. Those of the square after the next are fetched
     * in order meanwhile. */
    enum { AHEAD = 2 * VLEN };
    const gemm_operands o = {ldc, lda, ldb, QKV_PANEL, rows, cols, k, accumulate};
    size_t steps = (cols + VLEN - 1) / VLEN * ((k + VLEN - 1) / VLEN);
    const qkv_soon own = {b + AHEAD * ldb, ldb * (ptrdiff_t)sizeof(float), cols, k * sizeof(float)};
    gemm_fetch fetch = gemm_fetch_plan(soon, steps), fetch_own = gemm_fetch_plan(&own, steps);
    if (rows > 0)
        gemm_nt_tiles[rows - 1](&o, c, a, b, cols, &fetch_own, &fetch);
    v_leave();
}
