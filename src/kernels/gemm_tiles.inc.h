/* Template: the tiles of a product and how they cover it. Needs gemm_tile, TRANSPOSED (0 or 1) and PRODUCT(name).
 *
 * SPDX-License-Identifier: MIT */

/* The tiles that most of the time goes into. */
static QKV_NOINLINE void PRODUCT(_full)(const gemm_operands *o, float *c, const float *a, const float *b) {
    gemm_tile(TILE_ROWS, STRIP_VECTORS, 0, TRANSPOSED, 0, o, c, a, b, v_tail(VL), NULL);
}

#if !TRANSPOSED
static QKV_NOINLINE void PRODUCT(_full_panel)(const gemm_operands *o, float *c, const float *a, const float *b) {
    gemm_tile(TILE_ROWS, STRIP_VECTORS, 0, TRANSPOSED, 1, o, c, a, b, v_tail(VL), NULL);
}

static QKV_NOINLINE void PRODUCT(_full_fetching)(const gemm_operands *o, float *c, const float *a, const float *b,
                                                 gemm_fetch *fetch) {
    gemm_tile(TILE_ROWS, STRIP_VECTORS, 0, TRANSPOSED, 0, o, c, a, b, v_tail(VL), fetch);
}
#endif

/* Strips at the right edge, tiles at the lower one. */
#define EDGE(name, vectors, has_tail, FETCH, fetch)                                                                \
    static QKV_NOINLINE void name(const gemm_operands *o, float *c, const float *a, const float *b, size_t rows,   \
                                  T tail FETCH) {                                                                  \
        switch (rows) {                                                                                            \
        case 6: gemm_tile(6, vectors, has_tail, TRANSPOSED, 0, o, c, a, b, tail, fetch); break;                    \
        case 5: gemm_tile(5, vectors, has_tail, TRANSPOSED, 0, o, c, a, b, tail, fetch); break;                    \
        case 4: gemm_tile(4, vectors, has_tail, TRANSPOSED, 0, o, c, a, b, tail, fetch); break;                    \
        case 3: gemm_tile(3, vectors, has_tail, TRANSPOSED, 0, o, c, a, b, tail, fetch); break;                    \
        case 2: gemm_tile(2, vectors, has_tail, TRANSPOSED, 0, o, c, a, b, tail, fetch); break;                    \
        default: gemm_tile(1, vectors, has_tail, TRANSPOSED, 0, o, c, a, b, tail, fetch); break;                   \
        }                                                                                                          \
    }
#define NO_FETCH
#define FETCH , gemm_fetch *fetch
EDGE(PRODUCT(_edge_1), 1, 1, NO_FETCH, NULL)
EDGE(PRODUCT(_edge_2), 2, 1, NO_FETCH, NULL)
#if STRIP_VECTORS == 4
EDGE(PRODUCT(_edge_3), 3, 1, NO_FETCH, NULL)
EDGE(PRODUCT(_edge_4), 4, 1, NO_FETCH, NULL)
EDGE(PRODUCT(_half), 2, 0, NO_FETCH, NULL)
#endif
EDGE(PRODUCT(_lower), STRIP_VECTORS, 0, NO_FETCH, NULL)
#if !TRANSPOSED
EDGE(PRODUCT(_lower_fetching), STRIP_VECTORS, 0, FETCH, fetch)
#endif
#undef EDGE
#undef NO_FETCH
#undef FETCH

#if STRIP_VECTORS == 4 && !defined(LANE_STEPS)
static QKV_NOINLINE void PRODUCT(_half_twice)(const gemm_operands *o, float *c, const float *a, const float *b) {
    gemm_tile(2 * TILE_ROWS, STRIP_VECTORS / 2, 0, TRANSPOSED, 0, o, c, a, b, v_tail(VL), NULL);
}
#endif

/* Fewer columns than a strip, 1 ≤ cols < STRIP. From a row of A to the next it is `row` floats. */
QKV_INLINE void PRODUCT(_right_edge)(const gemm_operands *o, float *c, const float *a, ptrdiff_t row, const float *b,
                                     size_t cols) {
    size_t rows = o->rows, vectors = (cols + VL - 1) / VL;
    T tail = v_tail(cols - (vectors - 1) * VL);
#if STRIP_VECTORS == 4 && !defined(LANE_STEPS)
    if (cols == STRIP / 2) { /* a head dimension of 32, on AVX-512 */
        for (; rows >= 2 * TILE_ROWS; rows -= 2 * TILE_ROWS, a += 2 * TILE_ROWS * row, c += 2 * TILE_ROWS * o->ldc)
            PRODUCT(_half_twice)(o, c, a, b);
    }
#endif
    while (rows > 0) {
        size_t n = rows < TILE_ROWS ? rows : TILE_ROWS;
        switch (vectors) {
#if STRIP_VECTORS == 4
        case 4: PRODUCT(_edge_4)(o, c, a, b, n, tail); break;
        case 3: PRODUCT(_edge_3)(o, c, a, b, n, tail); break;
        case 2: (cols == STRIP / 2 ? PRODUCT(_half) : PRODUCT(_edge_2))(o, c, a, b, n, tail); break;
#else
        case 2: PRODUCT(_edge_2)(o, c, a, b, n, tail); break;
#endif
        default: PRODUCT(_edge_1)(o, c, a, b, n, tail); break;
        }
        a += TILE_ROWS * row;
        c += TILE_ROWS * o->ldc;
        rows -= n;
    }
}

static void PRODUCT(_product)(const gemm_operands *o, float *c, const float *a, const float *b,
                              const qkv_soon *soon) {
    const ptrdiff_t row = TRANSPOSED ? 1 : o->lda;
#if !TRANSPOSED
    size_t strip_steps = o->rows / TILE_ROWS * (o->k / 2) + (o->rows % TILE_ROWS > 0 ? o->k : 0);
    gemm_fetch fetch = gemm_fetch_plan(soon, strip_steps * (o->cols / STRIP));
#else
    (void)soon;
#endif
    for (size_t j = 0; j < o->cols; j += STRIP) {
        const float *strip = b + (ptrdiff_t)(j / QKV_PANEL) * o->panel + j % QKV_PANEL, *a_row = a;
        float *c_row = c + j;
        if (o->cols - j < STRIP) {
            PRODUCT(_right_edge)(o, c_row, a, row, strip, o->cols - j);
            break;
        }
        size_t left = o->rows;
        for (; left >= TILE_ROWS; left -= TILE_ROWS, a_row += TILE_ROWS * row, c_row += TILE_ROWS * o->ldc) {
#if !TRANSPOSED
            if (fetch.lines > 0)
                PRODUCT(_full_fetching)(o, c_row, a_row, strip, &fetch);
            else if (o->ldb == QKV_PANEL)
                PRODUCT(_full_panel)(o, c_row, a_row, strip);
            else
#endif
                PRODUCT(_full)(o, c_row, a_row, strip);
        }
#if !TRANSPOSED
        if (left > 0 && fetch.lines > 0)
            PRODUCT(_lower_fetching)(o, c_row, a_row, strip, left, v_tail(VL), &fetch);
        else
#endif
        if (left > 0)
            PRODUCT(_lower)(o, c_row, a_row, strip, left, v_tail(VL));
    }
}
