/* Stored weights → floats.  SPDX-License-Identifier: MIT */
#include "dequantize.h"

#include <string.h>

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float half(const unsigned char *p) {
    const uint32_t h = (uint32_t)(p[0] | p[1] << 8), sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u;
    if (exponent == 0)
        return (sign ? -1.0f : 1.0f) * ((float)(h & 0x3ffu) * 0x1p-24f);
    return from_bits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (h & 0x3ffu) << 13);
}

static void k_scales(const unsigned char *p, int j, int *scale, int *min) {
    *scale = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
    *min = j < 4 ? p[j + 4] & 63 : p[j + 4] >> 4 | (p[j] >> 6) << 4;
}

static void dequantize_k(float *out, const unsigned char *b, uint32_t type) {
    if (type == GGUF_Q6_K) {
        const float d = half(b + 208);
        for (int i = 0; i < 256; i++) {
            const int h = i / 128, r = i % 128, l = r % 32, g = r / 32;
            const int low = b[64 * h + l + 32 * (g & 1)] >> (g < 2 ? 0 : 4) & 15;
            const int high = b[128 + 32 * h + l] >> (2 * g) & 3;
            out[i] = d * (float)(signed char)b[192 + i / 16] * (float)((low | high << 4) - 32);
        }
        return;
    }
    const float d = half(b), dmin = half(b + 2);
    const unsigned char *q = b + (type == GGUF_Q5_K ? 48 : 16);
    for (int i = 0; i < 256; i++) {
        int scale, min;
        k_scales(b + 4, i / 32, &scale, &min);
        int value = q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        if (type == GGUF_Q5_K)
            value |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
        out[i] = d * (float)scale * (float)value - dmin * (float)min;
    }
}

static void dequantize_block(float *out, const unsigned char *b, uint32_t type) {
    const int has_min = type == GGUF_Q4_1 || type == GGUF_Q5_1, five = type == GGUF_Q5_0 || type == GGUF_Q5_1;
    const float d = half(b), m = has_min ? half(b + 2) : 0;
    b += has_min ? 4 : 2;
    const uint32_t high = five ? (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24 : 0;
    b += five ? 4 : 0;
    for (int i = 0; i < 32; i++) {
        const int value = (i < 16 ? b[i] & 15 : b[i - 16] >> 4) | (int)(high >> i & 1) << 4;
        out[i] = has_min ? d * (float)value + m : d * (float)(value - (five ? 16 : 8));
    }
}

void dequantize(float *out, const unsigned char *row, uint32_t type, int64_t columns) {
    for (int64_t i = 0; i < columns;) {
        switch (type) {
        case GGUF_F32:
            memcpy(&out[i], row + 4 * i, 4);
            i++;
            break;
        case GGUF_F16:
            out[i] = half(row + 2 * i);
            i++;
            break;
        case GGUF_BF16:
            out[i] = from_bits((uint32_t)(row[2 * i] | row[2 * i + 1] << 8) << 16);
            i++;
            break;
        case GGUF_Q8_0:
            for (int j = 0; j < 32; j++)
                out[i + j] = half(row + i / 32 * 34) * (float)(signed char)row[i / 32 * 34 + 2 + j];
            i += 32;
            break;
        case GGUF_Q4_K:
        case GGUF_Q5_K:
        case GGUF_Q6_K:
            dequantize_k(out + i, row + i / 256 * (type == GGUF_Q4_K ? 144 : type == GGUF_Q5_K ? 176 : 210), type);
            i += 256;
            break;
        default:
            dequantize_block(out + i, row + i / 32 * (type == GGUF_Q4_0   ? 18
                                                      : type == GGUF_Q4_1 ? 20
                                                      : type == GGUF_Q5_0 ? 22
                                                                          : 24), type);
            i += 32;
        }
    }
}
