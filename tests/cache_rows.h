/* Rows to a KV cache that may be damaged, as a projection stores them.  SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_CACHE_ROWS_H
#define QKV_TESTS_CACHE_ROWS_H

#include "ops/cache/cache.h"

static inline void store_rows(const qkv_kernels *kernels, const void *block, int64_t sequence, int is_value,
                              int64_t head, int64_t position, int64_t rows, const float *src, int64_t ld) {
    qkv_cache_view c;
    if (qkv_cache_open(block, &c) == QKV_OK)
        qkv_cache_write(kernels, &c, sequence, is_value, head, position, rows, src, ld);
}

#endif
