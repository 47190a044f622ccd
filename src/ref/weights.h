/* Packed weights: how a panel of 64 output columns stores its terms, and what each of them means. The same on every CPU
 * of a byte order: floats and binary16 are the CPU's own, little-endian in files (qkv_packed_file_order). Words of
 * integers are bytes, the lowest first everywhere.
 *
 * QKV_F32, QKV_F16, QKV_BF16: [k][64] elements.
 *
 * The other types: integers of 4, 5, 6 or 8 bits with scales, in blocks of 32 terms. One or eight blocks make a group,
 * and groups follow each other along k. Every array has an element for each column, 64 of them side by side:
 *
 *     QKV_Q4_0, Q5_0, Q8_0   binary16 d | integers
 *     QKV_Q4_1, Q5_1         binary16 d | binary16 m | integers
 *     QKV_Q4_K, Q5_K         binary16 d | binary16 dmin | 8 blocks: uint8 scale | uint8 minimum | integers
 *     QKV_Q6_K               binary16 d | 8 blocks: int8 scale of terms 0–15 | int8 scale of 16–31 | integers
 *     QKV_INT8               float scale | all blocks: integers; k is rounded up to whole ones, by zeros
 *
 * The integers of a block are words of 32 bits, [word][column]. Of 8 bits: word g < 8 holds terms 4g … 4g + 3 in its
 * bytes, the lowest first. Else 4 words of nibbles: of word w the low ones are terms 8w … 8w + 3, the high ones terms
 * 8w + 4 … 8w + 7. What of an integer is above its nibble stands in words before those: one for 5 bits, where
 * h >> g & 0x01010101 are the upper bits of terms 4g … 4g + 3; two for 6, where h[g / 4] >> 2·(g mod 4) & 0x03030303
 * are.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_REF_WEIGHTS_H
#define QKV_REF_WEIGHTS_H

#include "storage.h"

enum {
    QKV_BLOCK_TERMS = 32,
    QKV_HALF_ROW = 2 * QKV_PANEL, /* bytes of a binary16 for each column */
    QKV_WORD_ROW = 4 * QKV_PANEL  /* and of a word */
};

/* Whether a build has weights of a type that there is. */
QKV_INLINE int qkv_weight_is_there(int type) {
    return type == QKV_F32                       ? 1
           : type == QKV_F16 || type == QKV_BF16 ? QKV_WITH(STORED)
           : type == QKV_INT8                    ? QKV_WITH(QUANTIZED)
                                                 : QKV_WITH(BLOCKS);
}

/* Terms that follow each other in memory with scales of their own: what in_features is a multiple of. 0: no type of
 * weights. */
QKV_INLINE int64_t qkv_weight_terms(int type) {
    if (!QKV_WITH(BLOCKS))
        return qkv_weight_is_there(type);
    switch (type) {
    case QKV_F32:
    case QKV_F16:
    case QKV_BF16:
    case QKV_INT8: return 1;
    case QKV_Q4_0:
    case QKV_Q4_1:
    case QKV_Q5_0:
    case QKV_Q5_1:
    case QKV_Q8_0: return QKV_BLOCK_TERMS;
    case QKV_Q4_K:
    case QKV_Q5_K:
    case QKV_Q6_K: return 8 * QKV_BLOCK_TERMS;
    default: return 0;
    }
}

/* Of an integer; 0: the type has none. */
QKV_INLINE int qkv_weight_bits(int type) {
    if (!QKV_WITH(BLOCKS))
        return QKV_WITH(QUANTIZED) && type == QKV_INT8 ? 8 : 0;
    switch (type) {
    case QKV_Q4_0:
    case QKV_Q4_1:
    case QKV_Q4_K: return 4;
    case QKV_Q5_0:
    case QKV_Q5_1:
    case QKV_Q5_K: return 5;
    case QKV_Q6_K: return 6;
    case QKV_Q8_0:
    case QKV_INT8: return 8;
    default: return 0;
    }
}

/* The integer that stands for 0. */
QKV_INLINE int qkv_weight_zero(int type) {
    return !QKV_WITH(BLOCKS) ? 0 : type == QKV_Q4_0 ? 8 : type == QKV_Q5_0 ? 16 : type == QKV_Q6_K ? 32 : 0;
}

QKV_INLINE int qkv_weight_has_minimum(int type) {
    return QKV_WITH(BLOCKS) && (type == QKV_Q4_1 || type == QKV_Q5_1 || type == QKV_Q4_K || type == QKV_Q5_K);
}

/* Of types with integers. All of QKV_INT8 is one group, whose end this does not know. */
QKV_INLINE size_t qkv_weight_group_blocks(int type) {
    return !QKV_WITH(BLOCKS) || type == QKV_INT8 ? SIZE_MAX : (size_t)qkv_weight_terms(type) / QKV_BLOCK_TERMS;
}

/* Bytes of a panel: of what comes before the blocks of a group, of a block with its own scales, … */
QKV_INLINE size_t qkv_weight_head_bytes(int type) {
    if (!QKV_WITH(BLOCKS) || type == QKV_INT8)
        return QKV_WORD_ROW;
    return qkv_weight_has_minimum(type) ? 2 * QKV_HALF_ROW : QKV_HALF_ROW;
}
QKV_INLINE size_t qkv_weight_scale_bytes(int type) { /* before the integers of a block */
    return QKV_WITH(BLOCKS) && qkv_weight_terms(type) > QKV_BLOCK_TERMS ? 2 * QKV_PANEL : 0;
}
QKV_INLINE size_t qkv_weight_block_bytes(int type) {
    return qkv_weight_scale_bytes(type) + (size_t)qkv_weight_bits(type) * QKV_WORD_ROW;
}

/* … of a group, … */
QKV_INLINE size_t qkv_weight_group_bytes(int type) {
    return qkv_weight_head_bytes(type) + qkv_weight_group_blocks(type) * qkv_weight_block_bytes(type);
}

/* … and of k terms. */
QKV_INLINE int64_t qkv_weight_panel_bytes(int type, int64_t k) {
    if (type == QKV_INT8)
        return QKV_WORD_ROW + (k + QKV_BLOCK_TERMS - 1) / QKV_BLOCK_TERMS * (int64_t)qkv_weight_block_bytes(type);
    if (qkv_weight_bits(type) == 0)
        return k * QKV_PANEL * qkv_stored_bytes(type, 1);
    return k / qkv_weight_terms(type) * (int64_t)qkv_weight_group_bytes(type);
}

/* Of types with integers: the group of a block, and the block in it. */
QKV_INLINE const unsigned char *qkv_weight_group(int type, const unsigned char *panel, size_t block) {
    return panel + block / qkv_weight_group_blocks(type) * qkv_weight_group_bytes(type);
}
QKV_INLINE const unsigned char *qkv_weight_block(int type, const unsigned char *panel, size_t block) {
    const unsigned char *first = qkv_weight_group(type, panel, block) + qkv_weight_head_bytes(type);
    return first + block % qkv_weight_group_blocks(type) * qkv_weight_block_bytes(type);
}

/* A term of a block as it is stored: of 8 bits −128 … 127, else 0 … 63. */
QKV_INLINE int qkv_weight_integer(int bits, const unsigned char *integers, size_t term, size_t column) {
    const unsigned char *at = integers + column * 4 + term % 4;
    if (!QKV_WITH(BLOCKS) || bits == 8)
        return (int8_t)at[term / 4 * QKV_WORD_ROW];
    int low = at[((size_t)(bits - 4) + term / 8) * QKV_WORD_ROW] >> (term % 8 < 4 ? 0 : 4) & 15;
    if (bits == 4)
        return low;
    if (bits == 5)
        return low | (at[0] >> term / 4 & 1) << 4;
    return low | (at[term / 16 * QKV_WORD_ROW] >> 2 * (term / 4 % 4) & 3) << 4;
}

QKV_INLINE float qkv_weight_half(const unsigned char *row, size_t column) {
    uint16_t half;
    memcpy(&half, row + 2 * column, sizeof half);
    return qkv_from_f16(half);
}

/* What a term's integer, less the one that stands for 0, is multiplied by, and what is added then. All of these
 * products are exact but where they are infinite or NaN. */
QKV_INLINE float qkv_weight_scale(int type, const unsigned char *panel, size_t term, size_t column) {
    const size_t number = term / QKV_BLOCK_TERMS;
    const unsigned char *group = qkv_weight_group(type, panel, number), *block = qkv_weight_block(type, panel, number);
    if (!QKV_WITH(BLOCKS) || type == QKV_INT8) {
        float scale;
        memcpy(&scale, group + 4 * column, sizeof scale);
        return scale;
    }
    float d = qkv_weight_half(group, column);
    if (type == QKV_Q6_K)
        return d * (float)(int8_t)block[term % QKV_BLOCK_TERMS / 16 * QKV_PANEL + column];
    return qkv_weight_scale_bytes(type) > 0 ? d * (float)block[column] : d;
}
QKV_INLINE float qkv_weight_minimum(int type, const unsigned char *panel, size_t term, size_t column) {
    const size_t number = term / QKV_BLOCK_TERMS;
    float m = qkv_weight_half(qkv_weight_group(type, panel, number) + QKV_HALF_ROW, column);
    if (qkv_weight_scale_bytes(type) == 0)
        return m;
    return -(m * (float)qkv_weight_block(type, panel, number)[QKV_PANEL + column]);
}

/* What a term of a column means: exact but for one rounding with a minimum, and for QKV_INT8 of the product. */
QKV_INLINE float qkv_weight_value(int type, const void *data, size_t term, size_t column) {
    const unsigned char *panel = (const unsigned char *)data;
    const int bits = qkv_weight_bits(type);
    if (bits == 0) {
        const unsigned char *at = panel + qkv_stored_bytes(type, (int64_t)(term * QKV_PANEL + column));
        float x;
        uint16_t half;
        if (!QKV_WITH(STORED) || type == QKV_F32) {
            memcpy(&x, at, sizeof x);
            return x;
        }
        memcpy(&half, at, sizeof half);
        return type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
    }
    const unsigned char *block = qkv_weight_block(type, panel, term / QKV_BLOCK_TERMS);
    const unsigned char *integers = block + qkv_weight_scale_bytes(type);
    const float x = (float)(qkv_weight_integer(bits, integers, term % QKV_BLOCK_TERMS, column) - qkv_weight_zero(type));
    const float scale = qkv_weight_scale(type, panel, term, column);
    return qkv_weight_has_minimum(type) ? qkv_fma(scale, x, qkv_weight_minimum(type, panel, term, column)) : scale * x;
}

#endif
