/* What GGUF's blocks of weights mean, term by term, from the format's description. See oracle.h.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <string.h>

int64_t oracle_block_terms(int64_t type) {
    return type >= QKV_Q4_K ? 256 : type == QKV_Q8_0 || type >= QKV_Q4_0 ? 32 : 1;
}

int64_t oracle_block_bytes(int64_t type) {
    switch (type) {
    case QKV_F32: return 4;
    case QKV_INT8: return 1;
    case QKV_Q8_0: return 2 + 32;
    case QKV_Q4_0: return 2 + 16;
    case QKV_Q4_1: return 2 + 2 + 16;
    case QKV_Q5_0: return 2 + 4 + 16;
    case QKV_Q5_1: return 2 + 2 + 4 + 16;
    case QKV_Q4_K: return 2 + 2 + 12 + 128;
    case QKV_Q5_K: return 2 + 2 + 12 + 32 + 128;
    case QKV_Q6_K: return 128 + 64 + 16 + 2;
    default: return 2;
    }
}

double oracle_half(const unsigned char *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    const int exponent = x >> 10 & 31, fraction = x & 1023;
    const double size = exponent == 31  ? (fraction ? (double)NAN : (double)INFINITY)
                        : exponent == 0 ? ldexp(fraction, -24)
                                        : ldexp(1024 + fraction, exponent - 25);
    return x >> 15 ? -size : size;
}

/* 32 terms: half t mod 16 of 16 bytes, the low ones first; bit t of four bytes before them is the fifth. */
static oracle_term plain_term(int64_t type, const unsigned char *b, int64_t t) {
    const int minimum = type == QKV_Q4_1 || type == QKV_Q5_1, fifth = type == QKV_Q5_0 || type == QKV_Q5_1;
    const unsigned char *high = b + 2 + 2 * minimum, *low = high + 4 * fifth;
    int q = t < 16 ? low[t] & 15 : low[t - 16] >> 4;
    if (fifth)
        q |= (high[t / 8] >> t % 8 & 1) << 4;
    const int zero = type == QKV_Q4_0 ? 8 : type == QKV_Q5_0 ? 16 : 0;
    return (oracle_term){q - zero, oracle_half(b), minimum ? oracle_half(b + 2) : -0.0};
}

/* 8 · 32 terms, with scales and minima of 6 bits: of the first four the low bits of bytes 0 … 3 and 4 … 7, of the
 * others a half of bytes 8 … 11 and two bits on top from the first eight. */
static oracle_term k_term(int64_t type, const unsigned char *b, int64_t t) {
    const unsigned char *s = b + 4, *high = b + 16, *low = type == QKV_Q5_K ? b + 48 : b + 16;
    const int64_t j = t / 32;
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
    int q = low[t / 64 * 32 + t % 32] >> t / 32 % 2 * 4 & 15;
    if (type == QKV_Q5_K)
        q |= (high[t % 32] >> j & 1) << 4;
    return (oracle_term){q, oracle_half(b) * scale, -(oracle_half(b + 2) * minimum)};
}

static oracle_term q6_k_term(const unsigned char *b, int64_t t) {
    const int64_t part = t / 128, in = t % 128; /* 64 bytes of halves, 32 of upper bits */
    const int low = b[part * 64 + in % 64] >> in / 64 * 4 & 15, high = b[128 + part * 32 + in % 32] >> in / 32 * 2 & 3;
    const signed char scale = (signed char)b[192 + t / 16];
    return (oracle_term){(low | high << 4) - 32, oracle_half(b + 208) * scale, -0.0};
}

oracle_term oracle_weight(int64_t type, const void *row, int64_t t) {
    const unsigned char *b = (const unsigned char *)row + t / oracle_block_terms(type) * oracle_block_bytes(type);
    float f32;
    uint32_t bits;
    switch (type) {
    case QKV_F32: memcpy(&f32, b, 4); return (oracle_term){1, (double)f32, -0.0};
    case QKV_F16: return (oracle_term){1, oracle_half(b), -0.0};
    case QKV_BF16:
        bits = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 24;
        memcpy(&f32, &bits, 4);
        return (oracle_term){1, (double)f32, -0.0};
    case QKV_INT8: return (oracle_term){(signed char)*b, 1, -0.0}; /* and the column's scale */
    case QKV_Q8_0: return (oracle_term){(signed char)b[2 + t % 32], oracle_half(b), -0.0};
    case QKV_Q4_K:
    case QKV_Q5_K: return k_term(type, b, t % 256);
    case QKV_Q6_K: return q6_k_term(b, t % 256);
    default: return plain_term(type, b, t % 32);
    }
}

/* Without a minimum that is −0, which adds nothing to any number. */
float oracle_weight_value(oracle_term w) {
    return (float)(w.scale * w.q + w.minimum);
}
