/* Template: one tile of a product, ROWS × VECTORS sums in registers, both of them literal numbers. What the macros in
 * here mean: gemm.inc.h. With has_tail only the first lanes of the last vector are memory; C is padded scratch. A lies
 * in rows or, transposed, in columns. has_tail, transposed and in_panels are constants; fetch is a pointer or the
 * constant NULL.
 *
 * SPDX-License-Identifier: MIT */

QKV_INLINE void TILE_NAME(TILE_FUNCTION, ROWS, VECTORS, _tile)(int has_tail, int transposed, int in_panels,
                                                               const gemm_operands *o, float *c, const float *a,
                                                               const float *b, vtail tail, gemm_fetch *fetch) {
    const ptrdiff_t row = transposed ? 1 : o->lda, step = transposed ? o->lda : 1, ldc = o->ldc;
    const int accumulate = o->accumulate;
    const ptrdiff_t ldb = in_panels ? QKV_PANEL : o->ldb; /* a constant costs no instruction at each step */
    const int split = ROWS > TILE_ROWS || transposed ? TILE_ROWS : TILE_ROWS / 2;
    const float *lower = ROWS > split ? a + split * row : a;
    QKV_OPAQUE(lower); /* else compilers address all rows from a, by more offsets than there are registers */
    size_t k = o->k;
    QKV_ROWS(ROWS, START_ROW, 0)
#ifdef LANE_STEPS /* the set multiplies by a lane: so many columns of A at once */
    for (; !has_tail && !transposed && k >= LANE_STEPS; k -= LANE_STEPS) {
        for (int x = 0; fetch && x < LANE_STEPS; x += ROWS < TILE_ROWS ? 1 : 2)
            gemm_fetch_lines(fetch);
        const float *at = a;
        QKV_ROWS(ROWS, LANES_OF_A, 0)
        LANE_STEP(0)
        LANE_STEP(1)
        LANE_STEP(2)
        LANE_STEP(3)
        a += LANE_STEPS, lower += LANE_STEPS;
    }
#if ROWS == TILE_ROWS
    for (; !has_tail && transposed && k >= 2; k -= 2) {
        LANE_STEP_T
        LANE_STEP_T
    }
#endif
#elif ROWS >= TILE_ROWS && VECTORS > 1
    for (; !has_tail && k % 2 == 1; k--) /* a loop, or GCC starts on known zeros and copies sums about later */
        GEMM_STEP
    if (!has_tail && k > 0) {
        /* Two steps at a time: half the branches. With more, compilers run out of registers and copy sums about. */
        for (; k > 2; k -= 2) {
            if (fetch)
                gemm_fetch_lines(fetch);
            GEMM_STEP
            GEMM_STEP
        }
        if (accumulate) {
            LAST_STEPS(1)
        } else {
            LAST_STEPS(0)
        }
        return;
    }
#endif
    for (; k > 0; k--) {
        if (fetch && ROWS < TILE_ROWS)
            gemm_fetch_lines(fetch);
#if ROWS < VECTORS
        WIDE_STEP
#else
        GEMM_STEP
#endif
    }
    QKV_ROWS(ROWS, STORE_ROW, 0)
}

/* The tile as functions. With masked loads, edges other than the narrowest always have a tail. */
#if !MASKED_LOADS || VECTORS == 1 || VECTORS >= STRIP_VECTORS || ROWS > TILE_ROWS
GEMM_FUNCTION(ROWS, VECTORS, , 0, 0, NULL)
#if VECTORS <= STRIP_VECTORS
GEMM_T_FUNCTION(ROWS, VECTORS, , 0)
#endif
#endif
#if MASKED_LOADS ? VECTORS <= STRIP_VECTORS : VECTORS == 1
GEMM_FUNCTION(ROWS, VECTORS, _tail, 1, 0, NULL)
GEMM_T_FUNCTION(ROWS, VECTORS, _tail, 1)
#endif
#if VECTORS >= STRIP_VECTORS
GEMM_FUNCTION(ROWS, VECTORS, _fetching, 0, 0, fetch)
#endif
#if ROWS == TILE_ROWS && VECTORS == STRIP_VECTORS
GEMM_FUNCTION(ROWS, VECTORS, _panel, 0, 1, NULL)
#endif
#undef ROWS
