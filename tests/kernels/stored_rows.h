/* Rows as they are stored, in guarded memory, and what their elements mean.  SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_STORED_ROWS_H
#define QKV_TESTS_STORED_ROWS_H

#include <string.h>

#include "harness.h"
#include "ref/storage.h"

static inline size_t stored_row_bytes(int type, size_t n) {
    return type == QKV_Q8_0 ? n / 32 * 34 : type == QKV_F32 ? 4 * n : type == QKV_INT8 ? n : 2 * n;
}

static inline float stored_meaning(int type, const unsigned char *row, size_t j) {
    uint16_t half;
    float x;
    switch (type) {
    case QKV_F32: memcpy(&x, row + 4 * j, sizeof x); return x;
    case QKV_INT8: return (float)(int8_t)row[j];
    case QKV_Q8_0:
        memcpy(&half, row + j / 32 * 34, sizeof half);
        return qkv_from_f16(half) * (float)(int8_t)row[j / 32 * 34 + 2 + j % 32];
    default: memcpy(&half, row + 2 * j, sizeof half); return type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
    }
}

/* From one row to the next: no gap, a gap, backwards, or the same row again. */
static inline ptrdiff_t draw_stored_stride(qt_rng *rng, int type, size_t n) {
    static const int gaps[] = {0, 0, 1, 3, 7, 32, 61};
    const int unit = type == QKV_F32 ? 4 : type == QKV_INT8 ? 1 : 2;
    const ptrdiff_t stride = (ptrdiff_t)stored_row_bytes(type, n) + unit * gaps[qt_range(rng, 0, 6)];
    const int64_t what = qt_range(rng, 0, 11);
    return what == 0 ? 0 : what <= 3 ? -stride : stride;
}

/* Stored rows of any bits, and nothing else that may be read. Between them is poison, of most types NaNs. The first
 * row; it may be written. */
static inline unsigned char *stored_rows(qt_rng *rng, int type, size_t rows, size_t n, ptrdiff_t stride, int place) {
    const size_t step = (size_t)(stride < 0 ? -stride : stride);
    const size_t bytes = rows == 0 || n == 0 ? 0 : (rows - 1) * step + stored_row_bytes(type, n);
    unsigned char *x = qt_alloc(bytes, type == QKV_F32 ? 4 : type == QKV_INT8 ? 1 : 2, place);
    unsigned char *base = stride < 0 && bytes > 0 ? x + (rows - 1) * step : x;
    for (size_t i = 0; i < rows && bytes > 0; i++)
        for (size_t j = 0; j < stored_row_bytes(type, n); j++)
            base[(ptrdiff_t)i * stride + (ptrdiff_t)j] = (unsigned char)qt_u64(rng);
    return base;
}

#endif
