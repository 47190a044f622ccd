/* Template: how tiles cover a product. Needs the tiles' functions (gemm_product.inc.h) and TRANSPOSED (0 or 1).
 *
 * SPDX-License-Identifier: MIT */

/* Tiles of so many vectors by their height. */
#define UP_TO_6(vectors, suffix)                                                                                       \
    PRODUCT(1x##vectors##suffix), PRODUCT(2x##vectors##suffix), PRODUCT(3x##vectors##suffix),                          \
        PRODUCT(4x##vectors##suffix), PRODUCT(5x##vectors##suffix), PRODUCT(6x##vectors##suffix)
#define UP_TO_12(vectors, suffix)                                                                                      \
    UP_TO_6(vectors, suffix), PRODUCT(7x##vectors##suffix), PRODUCT(8x##vectors##suffix),                              \
        PRODUCT(9x##vectors##suffix), PRODUCT(10x##vectors##suffix), PRODUCT(11x##vectors##suffix),                    \
        PRODUCT(12x##vectors##suffix)

static gemm_function *const PRODUCT(narrow)[2 * TILE_ROWS] = {UP_TO_12(1, )};
static gemm_function *const PRODUCT(narrow_tail)[2 * TILE_ROWS] = {UP_TO_12(1, _tail)};
#if STRIP_VECTORS == 2
static gemm_function *const PRODUCT(strip)[TILE_ROWS] = {UP_TO_6(2, )};
#if MASKED_LOADS
static gemm_function *const PRODUCT(edge)[][TILE_ROWS] = {{UP_TO_6(2, _tail)}};
#endif
#elif MASKED_LOADS
static gemm_function *const PRODUCT(strip)[TILE_ROWS] = {UP_TO_6(4, )};
static gemm_function *const PRODUCT(edge)[][TILE_ROWS] = {
    {UP_TO_6(2, _tail)}, {UP_TO_6(3, _tail)}, {UP_TO_6(4, _tail)}};
#else
static gemm_function *const PRODUCT(strip)[TILE_ROWS] = {UP_TO_6(4, )};
static gemm_function *const PRODUCT(edge)[][TILE_ROWS] = {{UP_TO_6(2, )}, {UP_TO_6(3, )}};
#endif
#if !TRANSPOSED
static gemm_function *const PRODUCT(strip_fetching)[TILE_ROWS] = {
#if STRIP_VECTORS == 2
    UP_TO_6(2, _fetching)
#else
    UP_TO_6(4, _fetching)
#endif
};
#ifdef WIDE_VECTORS
static gemm_function *const PRODUCT(wide)[WIDE_ROWS][2] = {
    {TILE_NAME(TILE_FUNCTION, 1, WIDEST_VECTORS, ), TILE_NAME(TILE_FUNCTION, 1, WIDEST_VECTORS, _fetching)},
    {TILE_NAME(TILE_FUNCTION, 2, WIDE_VECTORS, ), TILE_NAME(TILE_FUNCTION, 2, WIDE_VECTORS, _fetching)},
    {TILE_NAME(TILE_FUNCTION, 3, WIDE_VECTORS, ), TILE_NAME(TILE_FUNCTION, 3, WIDE_VECTORS, _fetching)},
};
#endif
#endif
#undef UP_TO_6
#undef UP_TO_12

/* All rows of a strip by tiles of these heights. From a row of A to the next it is `row` floats. */
QKV_INLINE void PRODUCT(column)(gemm_function *const *tiles, size_t tallest, const gemm_operands *o, float *c,
                                const float *a, ptrdiff_t row, const float *b, vtail tail, gemm_fetch *fetch) {
    for (size_t left = o->rows; left > 0;) {
        size_t height = tile_height(left, tallest);
        tiles[height - 1](o, c, a, b, tail, fetch);
        left -= height;
        a += (ptrdiff_t)height * row;
        c += (ptrdiff_t)height * o->ldc;
    }
}

/* Fewer columns than a strip, 1 ≤ cols < STRIP. */
static QKV_NOINLINE void PRODUCT(right_edge)(const gemm_operands *o, float *c, const float *a, ptrdiff_t row,
                                             const float *b, size_t cols) {
#if MASKED_LOADS
    size_t vectors = (cols + VLEN - 1) / VLEN;
    vtail tail = v_tail(cols - (vectors - 1) * VLEN);
    if (vectors == 1) {
        PRODUCT(column)
        (cols == VLEN ? PRODUCT(narrow) : PRODUCT(narrow_tail), 2 * TILE_ROWS, o, c, a, row, b, tail, NULL);
        return;
    }
#if STRIP_VECTORS == 4
    gemm_operands rest = *o;
    if (vectors == 2) { /* twice the rows fill the registers */
        for (; rest.rows >= 2 * TILE_ROWS; rest.rows -= 2 * TILE_ROWS) {
            (cols == 2 * VLEN ? PRODUCT(12x2) : PRODUCT(12x2_tail))(o, c, a, b, tail, NULL);
            a += 2 * TILE_ROWS * row;
            c += 2 * TILE_ROWS * o->ldc;
        }
        o = &rest;
    }
#endif
    PRODUCT(column)(PRODUCT(edge)[vectors - 2], TILE_ROWS, o, c, a, row, b, tail, NULL);
#else
    size_t vectors = cols / VLEN, width = vectors * VLEN;
    if (vectors == 1)
        PRODUCT(column)(PRODUCT(narrow), 2 * TILE_ROWS, o, c, a, row, b, v_tail(VLEN), NULL);
#if STRIP_VECTORS == 4
    else if (vectors > 1)
        PRODUCT(column)(PRODUCT(edge)[vectors - 2], TILE_ROWS, o, c, a, row, b, v_tail(VLEN), NULL);
#endif
    if (width < cols)
        /* clang-format off */
        PRODUCT(column)(PRODUCT(narrow_tail), 2 * TILE_ROWS, o, c + width, a, row, b + width, v_tail(cols - width),
                        NULL);
        /* clang-format on */
#endif
}

static void PRODUCT(product)(const gemm_operands *o, float *c, const float *a, const float *b, const qkv_soon *soon) {
    const ptrdiff_t row = TRANSPOSED ? 1 : o->lda;
    size_t j = 0;
#if !TRANSPOSED
    size_t steps = o->rows / TILE_ROWS * (o->k / 2) + (o->rows % TILE_ROWS > 0 ? o->k : 0), strips = o->cols / STRIP;
#ifdef WIDE_VECTORS
    size_t wide = 0;
    if (o->rows > 0 && o->rows <= WIDE_ROWS) {
        wide = (o->rows == 1 ? WIDEST_VECTORS : WIDE_VECTORS) * VLEN;
        strips = o->cols / wide + o->cols % wide / STRIP;
    }
#endif
    gemm_fetch fetch = gemm_fetch_plan(soon, steps * strips);
#ifdef WIDE_VECTORS
    for (; wide > 0 && o->cols - j >= wide; j += wide)
        PRODUCT(wide)[o->rows - 1][fetch.lines > 0](o, c + j, a, gemm_column_of_b(o, b, j), v_tail(VLEN), &fetch);
#endif
#else
    (void)soon;
#endif
    for (; j < o->cols; j += STRIP) {
        const float *strip = gemm_column_of_b(o, b, j), *a_row = a;
        float *c_row = c + j;
        if (o->cols - j < STRIP) {
            PRODUCT(right_edge)(o, c_row, a, row, strip, o->cols - j);
            break;
        }
        for (size_t left = o->rows; left > 0;) {
            size_t height = tile_height(left, TILE_ROWS);
#if !TRANSPOSED
            if (fetch.lines > 0)
                PRODUCT(strip_fetching)[height - 1](o, c_row, a_row, strip, v_tail(VLEN), &fetch);
            else if (height == TILE_ROWS && o->ldb == QKV_PANEL)
                TILE_NAME(TILE_FUNCTION, TILE_ROWS, STRIP_VECTORS, _panel)(o, c_row, a_row, strip, v_tail(VLEN), NULL);
            else
#endif
                PRODUCT(strip)[height - 1](o, c_row, a_row, strip, v_tail(VLEN), NULL);
            left -= height;
            a_row += (ptrdiff_t)height * row;
            c_row += (ptrdiff_t)height * o->ldc;
        }
    }
}
