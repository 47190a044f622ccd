/* The elementary operations of the library in scalar C: fma, exp2, tanh and log. These definitions fix the bits; the
 * SIMD kernels repeat them lane by lane. Coefficients and measured errors: docs/numerics.md.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_SCALAR_H
#define QKV_SCALAR_H

#include <stdint.h>
#include <string.h>

#include "../config.h"

#define QKV_LOG2E 0x1.715476p+0f
#define QKV_LN2 0x1.62e430p-1f
#define QKV_MINUS_INFINITY (-__builtin_inff())

QKV_INLINE uint32_t qkv_float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

QKV_INLINE float qkv_bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* By masks: compilers turn `? :` into a branch and move what only one side needs there, after which no loop over it
 * becomes a loop over vectors. */
QKV_INLINE float qkv_select(int condition, float yes, float no) {
    uint32_t mask = 0 - (uint32_t)condition;
    return qkv_bits_float((qkv_float_bits(yes) & mask) | (qkv_float_bits(no) & ~mask));
}

/* By its bits. Comparing values is not enough: where x was multiplied and the product clamped, optimisers reason
 * backwards from one to the other and forget that a finite x overflows too (GCC 13, 14: x·L < −FLT_MAX, so x = −∞). */
QKV_INLINE int qkv_is_minus_infinity(float x) {
    return qkv_float_bits(x) == 0xff800000u;
}

/* max(fl(x·log2 e), −FLT_MAX), the natural logit x in base 2; a NaN stays. */
QKV_INLINE float qkv_base2_logit(float x) {
    float logit = x * QKV_LOG2E;
    return qkv_is_minus_infinity(logit) ? -FLT_MAX : logit;
}

/* a·b + c rounded once, without the instruction: the product of two floats is exact in double; the sum is made
 * round-to-odd in double, after which rounding to float rounds the exact value (Boldo and Melquiond, 2008). */
QKV_INLINE float qkv_fma_soft(float a, float b, float c) {
    double product = (double)a * b;
    double sum = product + c;
    double virtual_c = sum - product;
    double error = (product - (sum - virtual_c)) + (c - virtual_c);
    uint64_t bits, error_bits;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&error_bits, &error, sizeof error_bits);
    /* To odd: towards zero, and the last bit says that something was cut off. */
    double odd;
    bits = (bits - ((bits ^ error_bits) >> 63)) | 1;
    memcpy(&odd, &bits, sizeof odd);
    /* NaN, infinities and exact sums have no error > 0 or < 0. */
    return (float)(__builtin_fabs(error) > 0 ? odd : sum);
}

/* clang takes fmaf for a function that may set errno, and so for a call of libm, but where it knows the C library. It
 * has a name for the instruction alone since version 17. */
#if defined(__clang__)
#if __has_builtin(__builtin_elementwise_fma)
#define QKV_FMA __builtin_elementwise_fma
#elif !defined(__NO_MATH_ERRNO__) && !defined(__gnu_linux__) && !defined(__APPLE__) && !defined(_WIN32)
#define QKV_FMA qkv_fma_soft
#endif
#endif
#if !defined(QKV_FMA)
#define QKV_FMA __builtin_fmaf
#endif

/* Kernel files define QKV_HAVE_FMA inside their target region. clang has no macro for the instruction, but the last
 * architectures of this list always have it. */
#if !defined(QKV_HAVE_FMA) && (defined(__FMA__) || defined(__FP_FAST_FMAF) || defined(__aarch64__) ||                  \
                               defined(__ARM_FEATURE_FMA) || defined(__riscv_flen) || defined(__s390x__))
#define QKV_HAVE_FMA 1
#endif

QKV_INLINE float qkv_fma(float a, float b, float c) {
#if defined(QKV_HAVE_FMA)
    return QKV_FMA(a, b, c);
#else
    return qkv_fma_soft(a, b, c);
#endif
}

/* The integer nearest to y, ties to even, for |y| < 2^30. */
QKV_INLINE int32_t qkv_round_int(float y) {
    int32_t i = (int32_t)y;
    float rest = y - (float)i, half = i & 1 ? 0.5f : 0x1.000002p-1f; /* from where on an even i stays behind */
    int32_t down = rest <= -half ? 1 : 0, up = rest >= half ? 1 : 0;
    return i + up - down;
}

/* An element of a row in 8 bits, factor being fl(127/a) of its largest magnitude a. Clamped between product and
 * rounding, which no compiler can make an fma of then. */
QKV_INLINE int32_t qkv_int8_element(float x, float factor) {
    float y = x * factor;
    y = qkv_select(y > 127.0f, 127.0f, y);
    y = qkv_select(y < -127.0f, -127.0f, y);
    return qkv_round_int(y);
}

/* 2^n for −126 ≤ n ≤ 127. */
QKV_INLINE float qkv_power_of_two(int32_t n) {
    return qkv_bits_float((uint32_t)(n + 127) << 23);
}

/* 2^f for |f| ≤ ½ (and a little more). */
QKV_INLINE float qkv_exp2_fraction(float f) {
    float p = 0x1.41fbbcp-13f;
    p = qkv_fma(p, f, 0x1.5f3e52p-10f);
    p = qkv_fma(p, f, 0x1.3b2d4cp-7f);
    p = qkv_fma(p, f, 0x1.c6aee8p-5f);
    p = qkv_fma(p, f, 0x1.ebfbdcp-3f);
    p = qkv_fma(p, f, 0x1.62e430p-1f);
    return qkv_fma(p, f, 1.0f);
}

/* 2^y for −126 ≤ y ≤ 0; +0 below; NaN stays. 0.952 ulp. */
QKV_INLINE float qkv_exp2(float y) {
    int32_t n = qkv_round_int(qkv_select(y >= -126.0f, y, -126.0f)); /* a NaN can't be converted */
    float p = qkv_exp2_fraction(y - (float)n) * qkv_power_of_two(n);
    return qkv_select(y < -126.0f, 0.0f, p);
}

/* The same within 48 ulp, and +0 below −56 already: for weights that become bfloat16. */
QKV_INLINE float qkv_exp2_for_bf16(float y) {
    int32_t n = qkv_round_int(qkv_select(y >= -56.0f, y, -56.0f));
    float f = y - (float)n;
    float p = 0x1.3a02d2p-7f;
    p = qkv_fma(p, f, 0x1.c9fc48p-5f);
    p = qkv_fma(p, f, 0x1.ec0378p-3f);
    p = qkv_fma(p, f, 0x1.62e12cp-1f);
    p = qkv_fma(p, f, 1.0f) * qkv_power_of_two(n);
    return qkv_select(y < -56.0f, 0.0f, p);
}

/* 0.848 ulp for every float. Both branches, then a choice: loops over it can be made vectors of. */
QKV_INLINE float qkv_tanh(float x) {
    uint32_t sign = qkv_float_bits(x) & 0x80000000u;
    float a = qkv_bits_float(qkv_float_bits(x) ^ sign);
    float z = a * a;
    float p = 0x1.c76de8p-10f;
    p = qkv_fma(p, z, -0x1.f5dd60p-8f);
    p = qkv_fma(p, z, 0x1.5f79c0p-6f);
    p = qkv_fma(p, z, -0x1.b97d6ap-5f);
    p = qkv_fma(p, z, 0x1.110db8p-3f);
    p = qkv_fma(p, z, -0x1.55554ap-2f);
    float small = qkv_fma(a * z, p, a);

    /* 1 − 2e/(1 + e) with e = exp(−2a), the quotient corrected by its remainder. */
    float y = a * (-2 * QKV_LOG2E);
    int32_t n = qkv_round_int(qkv_select(y >= -126.0f, y, -126.0f));
    float f = qkv_fma(a, -2 * QKV_LOG2E, -(float)n);
    f = qkv_fma(a, -2 * 0x1.4ae0cp-26f, f);
    float e = qkv_select(y < -126.0f, 0.0f, qkv_exp2_fraction(f) * qkv_power_of_two(n));
    float s = 1 + e;
    float low = e - (s - 1);
    float inverse = 1 / s;
    float g = 2 * e * inverse;
    float r = qkv_fma(-g, s, 2 * e);
    r = qkv_fma(-g, low, r);
    float h = 1 - g;
    float large = h + qkv_fma(-r, inverse, (1 - h) - g);
    return qkv_bits_float(qkv_float_bits(qkv_select(a < 0.75f, small, large)) | sign);
}

/* ln x for every positive normal float; NaN stays. 0.921 ulp. */
QKV_INLINE float qkv_log(float x) {
    if (x != x)
        return x;
    uint32_t bits = qkv_float_bits(x);
    int32_t k = (int32_t)(bits - 0x3f3504f4u) >> 23; /* x = m·2^k with m around 1 */
    float f = qkv_bits_float(bits - ((uint32_t)k << 23)) - 1;
    float q = -0x1.382564p-4f;
    q = qkv_fma(q, f, 0x1.083fa0p-3f);
    q = qkv_fma(q, f, -0x1.0f3528p-3f);
    q = qkv_fma(q, f, 0x1.2272bep-3f);
    q = qkv_fma(q, f, -0x1.5427d0p-3f);
    q = qkv_fma(q, f, 0x1.99a3e8p-3f);
    q = qkv_fma(q, f, -0x1.000424p-2f);
    q = qkv_fma(q, f, 0x1.555550p-2f);
    q = qkv_fma(q, f, -0x1.fffff8p-2f);
    return qkv_fma((float)k, QKV_LN2, qkv_fma(f * f, q, f));
}

#endif
