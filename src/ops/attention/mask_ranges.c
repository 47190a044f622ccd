/* A dense mask as ranges of keys, where it is one.  SPDX-License-Identifier: MIT */
#include "attention.h"

#include <string.h>

#if QKV_WITH(MASKS)

enum cell { HIDDEN, KEPT, NEITHER };

static enum cell cell_of(const unsigned char *at, int32_t type) {
    uint32_t bits = *at;
    uint16_t half;
    if (type == QKV_INT8)
        return bits == 0 ? HIDDEN : KEPT;
    if (type == QKV_F32) {
        memcpy(&bits, at, sizeof bits);
    } else {
        memcpy(&half, at, sizeof half);
        bits = qkv_float_bits(type == QKV_BF16 ? qkv_from_bf16(half) : qkv_from_f16(half));
    }
    return bits == 0xff800000u ? HIDDEN : bits << 1 == 0 ? KEPT : NEITHER;
}

/* The range of a row; false if it is none. */
static bool range_of_row(const unsigned char *row, int32_t type, int64_t keys, int64_t range[2]) {
    const int64_t size = qkv_stored_bytes(type, 1);
    int64_t first = 0, end = 0;
    for (int64_t j = 0; j < keys; j++) {
        enum cell cell = cell_of(row + j * size, type);
        if (cell == NEITHER || (cell == KEPT && end > 0 && end < j))
            return false;
        if (cell == KEPT) {
            first = end == 0 ? j : first;
            end = j + 1;
        }
    }
    range[0] = first;
    range[1] = end;
    return true;
}

qkv_status qkv_mask_ranges(const void *mask, int32_t type, int64_t queries, int64_t keys, int64_t query_stride,
                           int64_t *ranges) {
    if (type != QKV_F32 && type != QKV_F16 && type != QKV_BF16 && type != QKV_INT8)
        return QKV_ERROR_FLAGS;
    if (queries < 0 || keys < 0)
        return QKV_ERROR_NEGATIVE;
    if ((!mask && queries > 0 && keys > 0) || (!ranges && queries > 0))
        return QKV_ERROR_NULL;
    int64_t range[2] = {0, 0};
    for (int write = 0; write < 2; write++) { /* nothing is written until all rows are known to be ranges */
        for (int64_t i = 0; i < queries; i++) {
            const unsigned char *row = mask;
            if (keys > 0 && !range_of_row(row + qkv_stored_bytes(type, i * query_stride), type, keys, range))
                return QKV_ERROR_VALUE;
            if (write) {
                ranges[2 * i] = range[0];
                ranges[2 * i + 1] = range[1];
            }
        }
    }
    return QKV_OK;
}

#endif
