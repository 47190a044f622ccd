/* The model's floats in fewer bits.  SPDX-License-Identifier: MIT */
#include "rounding.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int64_t type;
} types[] = {{"f32", QKV_F32}, {"bf16", QKV_BF16}, {"int8", QKV_INT8}, {"q8_0", QKV_Q8_0}};

int64_t weight_type(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(name, types[i].name) == 0)
            return types[i].type;
    return -1;
}

const char *weight_type_name(int64_t type) {
    size_t i = 0;
    while (types[i].type != type)
        i++;
    return types[i].name;
}

static const char *const arithmetics[] = {
    [QKV_ARITHMETIC_F32] = "f32", [QKV_ARITHMETIC_INT8] = "int8", [QKV_ARITHMETIC_BF16] = "bf16"};

int64_t arithmetic(const char *name) {
    int64_t n = sizeof arithmetics / sizeof arithmetics[0] - 1;
    while (n >= 0 && strcmp(name, arithmetics[n]) != 0)
        n--;
    return n;
}

const char *arithmetic_name(int64_t arithmetic) {
    return arithmetics[arithmetic];
}

int64_t weight_arithmetic(int64_t type) {
    return type == QKV_INT8 || type == QKV_Q8_0 ? QKV_ARITHMETIC_INT8 : QKV_ARITHMETIC_F32;
}

static uint16_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest even */
}

/* binary16 of a positive number below 2^15: a fraction of 10 bits, less of it below 2^-14. */
static uint16_t half_of(float x) {
    int exponent;
    if (x == 0)
        return 0;
    frexpf(x, &exponent);
    exponent = exponent < -13 ? -13 : exponent;
    int fraction = (int)lrintf(ldexpf(x, 11 - exponent)); /* 1024 … 2048, or below that */
    return (uint16_t)(((exponent + 13) << 10) + fraction);
}

static float largest_of(const float *x, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

/* n integers for values of at most 127·scale. */
static void round_integers(signed char *to, const float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++)
        to[i] = (signed char)(scale > 0 ? fmaxf(-127, fminf(127, rintf(x[i] / scale))) : 0);
}

/* Blocks of 32: a binary16 and its integers. */
static unsigned char *round_blocks(const float *x, int64_t n) {
    enum { TERMS = 32, BYTES = 34 };
    unsigned char *blocks = allocate((size_t)(n / TERMS), BYTES), *to = blocks;
    for (int64_t i = 0; i < n; i += TERMS, to += BYTES) {
        float scale = largest_of(x + i, TERMS) / 127;
        uint16_t half = half_of(scale);
        memcpy(to, &half, sizeof half);
        round_integers((signed char *)to + 2, x + i, TERMS, scale);
    }
    return blocks;
}

void round_weights(int64_t type, float *values, int64_t in_features, qkv_weight *weight) {
    int64_t out_features = weight->out_features, n = in_features * out_features;
    weight->type = type;
    weight->data = values;
    if (type == QKV_F32)
        return;
    if (type == QKV_BF16) {
        uint16_t *rounded = allocate((size_t)n, sizeof *rounded);
        for (int64_t i = 0; i < n; i++)
            rounded[i] = bf16_of(values[i]);
        weight->data = rounded;
    } else if (type == QKV_Q8_0) {
        if (in_features % 32 != 0)
            die("q8_0 has blocks of 32 weights, but a layer of this model has %lld inputs", (long long)in_features);
        weight->data = round_blocks(values, n);
    } else {
        signed char *rounded = allocate((size_t)n, 1);
        float *scales = allocate_floats((size_t)out_features);
        for (int64_t i = 0; i < out_features; i++) {
            scales[i] = largest_of(values + i * in_features, in_features) / 127;
            round_integers(rounded + i * in_features, values + i * in_features, in_features, scales[i]);
        }
        weight->data = rounded;
        weight->scales = scales;
    }
    free(values);
}
