/* Template: the softmax of rows of a key block, a function SOFTMAX_OF_ROWS. Needs rows.inc.h's exponentials and
 * WEIGHTS_OF_ROWS (the name of its inner function), EXP2_DEGREE_OF_WEIGHTS, STORE_WEIGHTS(row, x, p): what becomes of
 * p, which takes the place of row[x …].
 *
 * SPDX-License-Identifier: MIT */

#ifndef SOFTMAX_BEGIN
#define SOFTMAX_BEGIN(i, j)                                                                                            \
    if (i < count) {                                                                                                   \
        top[i] = v_set(m[i / LANE_VECTORS]);                                                                           \
        lanes[i] = v_zero();                                                                                           \
    }
#define SOFTMAX_LOAD(i, j)                                                                                             \
    if (i < count)                                                                                                     \
        p[i] = v_sub(v_load(t + i / LANE_VECTORS * ld + x + i % LANE_VECTORS * VLEN), top[i]);
#define SOFTMAX_STORE(i, j)                                                                                            \
    if (i < count) {                                                                                                   \
        STORE_WEIGHTS(t + i / LANE_VECTORS * ld, x + i % LANE_VECTORS * VLEN, p[i]);                                   \
        lanes[i] = v_add(lanes[i], p[i]);                                                                              \
    }
#define SOFTMAX_END(i, j)                                                                                              \
    if (i < n)                                                                                                         \
        l[i] = v_sum_lanes(lanes + i * LANE_VECTORS % 4);
#endif

/* Weights and sums of n rows of scores, a constant, step by step together: vector i is one of row i / LANE_VECTORS. */
QKV_INLINE void WEIGHTS_OF_ROWS(int n, float *t, ptrdiff_t ld, size_t first, size_t end, const float *m, float *l) {
    const int count = n * LANE_VECTORS;
    vec top[4], lanes[4], p[4];
    QKV_ROWS(4, SOFTMAX_BEGIN, 0)
    for (size_t x = first; x < end; x += QKV_LANES) {
        QKV_ROWS(4, SOFTMAX_LOAD, 0)
        v_exp2s(p, count, EXP2_DEGREE_OF_WEIGHTS);
        QKV_ROWS(4, SOFTMAX_STORE, 0)
    }
    QKV_ROWS(4, SOFTMAX_END, 0)
}

/* Two passes over all rows: no exponential waits for the maximum of its own row, which takes long to reduce. */
QKV_INLINE void SOFTMAX_OF_ROWS(float *t, ptrdiff_t ld, size_t first, size_t end, size_t rows, float *m, float *l) {
    enum { TOGETHER = EXP2_VECTORS / LANE_VECTORS };
    row_maxima(t, ld, first, end, rows, m);
    for (; rows >= TOGETHER; rows -= TOGETHER, t += TOGETHER * ld, m += TOGETHER, l += TOGETHER)
        WEIGHTS_OF_ROWS(TOGETHER, t, ld, first, end, m, l);
    for (; rows > 0; rows--, t += ld, m++, l++)
        WEIGHTS_OF_ROWS(1, t, ld, first, end, m, l);
    v_leave();
}
#undef SOFTMAX_OF_ROWS
#undef WEIGHTS_OF_ROWS
#undef EXP2_DEGREE_OF_WEIGHTS
#undef STORE_WEIGHTS
