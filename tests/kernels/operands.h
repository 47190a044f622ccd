/* Operands of single kernels in guarded memory, with nothing but their own elements readable.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_OPERANDS_H
#define QKV_TESTS_OPERANDS_H

#include <string.h>

#include "harness.h"

/* cols up to the next multiple of QKV_LANES: what of a row of a scratch tile may be written. */
static inline size_t padded(size_t cols) {
    return (cols + QKV_LANES - 1) / QKV_LANES * QKV_LANES;
}

/* A leading dimension for rows of `cols` floats that a caller may use: tight, with gaps, 0, or negative. */
static inline ptrdiff_t draw_ld(qt_rng *rng, size_t cols) {
    static const int gaps[] = {0, 0, 1, 3, 7, 16, 61};
    ptrdiff_t ld = (ptrdiff_t)cols + gaps[qt_range(rng, 0, 6)];
    int64_t what = qt_range(rng, 0, 11);
    return what == 0 ? 0 : what <= 2 ? -ld : ld;
}

/* rows × cols floats to be read, with ld of any sign. What lies between the rows is poison, a NaN. Read-only. */
static inline const float *operand(qt_rng *rng, size_t rows, size_t cols, ptrdiff_t ld, int place, qt_kind kind) {
    size_t step = (size_t)(ld < 0 ? -ld : ld);
    size_t n = rows == 0 || cols == 0 ? 0 : (rows - 1) * step + cols;
    float *x = qt_floats(n, place);
    float *base = ld < 0 && n > 0 ? x + (rows - 1) * step : x;
    for (size_t i = 0; i < rows && cols > 0; i++)
        qt_fill(rng, base + (ptrdiff_t)i * ld, cols, kind);
    qt_read_only(x);
    return base;
}

static inline const float *vector(qt_rng *rng, size_t n, int place, qt_kind kind) {
    return operand(rng, 1, n, 0, place, kind);
}

/* An output row, or one worked on in place: a copy of src. */
static inline float *copy_of(const float *src, size_t n, int place) {
    float *x = qt_floats(n, place);
    if (n > 0)
        memcpy(x, src, n * sizeof *x);
    return x;
}

/* A scratch tile that starts as the first cols of each row of src; the rest is poison. */
static inline float *tile_of(const float *src, ptrdiff_t ld_src, size_t rows, size_t cols, size_t ld, int place) {
    float *x = qt_tile(rows, ld, place);
    for (size_t i = 0; i < rows && cols > 0; i++)
        memcpy(x + i * ld, src + (ptrdiff_t)i * ld_src, cols * sizeof *x);
    return x;
}

/* An ld for scratch tiles of that many columns. */
static inline size_t draw_tile_ld(qt_rng *rng, size_t cols) {
    return padded(cols) + QKV_LANES * (size_t)qt_range(rng, 0, 2);
}

/* Sizes around the edges of tiles, panels, chains and key blocks, up to `most`. */
static inline size_t draw_size(qt_rng *rng, size_t most) {
    static const int edges[] = {0, 1, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 300};
    size_t n = 0;
    do {
        int64_t edge = edges[qt_range(rng, 0, 14)];
        edge += qt_range(rng, -1, 1);
        n = (size_t)(qt_chance(rng, 40) ? qt_range(rng, 0, (int64_t)most) : edge < 0 ? 0 : edge);
    } while (n > most);
    return n;
}

/* Fails unless nothing but the rows' licence was written: cols, padded to QKV_LANES in a scratch tile. */
static inline void expect_tile_gaps(const char *what, const float *tile, size_t rows, size_t cols, size_t ld) {
    qt_view view = qt_view_rows(tile, rows, padded(cols), (ptrdiff_t)ld);
    qt_expect_gaps(what, &view);
}

#endif
