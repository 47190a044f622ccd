/* What stored elements mean: the 16-bit formats in integer arithmetic, exact one way and rounded to nearest even the
 * other, whatever the floating-point environment says of subnormals.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_REF_STORAGE_H
#define QKV_REF_STORAGE_H

#include "qkv.h"
#include "scalar.h"

/* 32 channels of QKV_Q8_0: a binary16 scale, then an int8 each. */
enum { QKV_Q8_0_CHANNELS = 32, QKV_Q8_0_BYTES = 34 };

/* Bytes of n elements that follow each other; blocks are whole. */
QKV_INLINE int64_t qkv_stored_bytes(int type, int64_t n) {
    if (!QKV_WITH(STORED) && !QKV_WITH(QUANTIZED) && !QKV_WITH(BF16))
        return n * 4;
    return type == QKV_F32    ? n * 4
           : type == QKV_INT8 ? n
           : type == QKV_Q8_0 ? n / QKV_Q8_0_CHANNELS * QKV_Q8_0_BYTES
                              : n * 2;
}

QKV_INLINE float qkv_from_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, magnitude = (uint32_t)(x & 0x7fff) << 13;
    float small = (float)(int32_t)(magnitude >> 13) * 0x1p-24f; /* a normal number, as floats go */
    uint32_t normal = magnitude + (magnitude < 0x0f800000 ? 0x38000000 : 0x70000000);
    return qkv_bits_float(sign | (magnitude < 0x00800000 ? qkv_float_bits(small) : normal));
}

QKV_INLINE uint16_t qkv_to_f16(float x) {
    uint32_t bits = qkv_float_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520 */
        return (uint16_t)(sign | 0x7c00);
    uint32_t unit = 13; /* bits that are cut off: more below 2^-14 */
    if (magnitude < 0x38800000) {
        unit = 126 - (magnitude >> 23);
        if (unit > 24)
            return (uint16_t)sign;
        magnitude = (magnitude & 0x7fffff) | 0x800000;
    } else {
        magnitude -= 0x38000000;
    }
    uint32_t half = (UINT32_C(1) << (unit - 1)) - 1;
    return (uint16_t)(sign | (magnitude + half + (magnitude >> unit & 1)) >> unit);
}

QKV_INLINE float qkv_from_bf16(uint16_t x) {
    return qkv_bits_float((uint32_t)x << 16);
}

QKV_INLINE uint16_t qkv_to_bf16(float x) {
    uint32_t bits = qkv_float_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* An operand of a product in bfloat16: rounded to nearest even; a magnitude below 2⁻⁵⁶ is 0. */
QKV_INLINE float qkv_bf16_operand(float x) {
    return qkv_from_bf16(qkv_to_bf16(x > -0x1p-56f && x < 0x1p-56f ? 0.0f : x));
}

#endif
