/* Random weights as they are stored. See oracle_cases.h.  SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <string.h>

const char *const case_type_name[QKV_Q6_K + 1] = {"f32",  "f16",  "bf16", "q8_0", "int8", "q4_0",
                                                  "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};

int64_t case_weight_type(qt_rng *rng, bool integers, int64_t in_features) {
    int64_t type = qt_range(rng, QKV_F32, QKV_Q6_K);
    while (in_features % oracle_block_terms(type) != 0 || (integers && type < QKV_Q8_0))
        type = qt_range(rng, QKV_F32, QKV_Q6_K);
    return type;
}

/* A binary16 with an exponent of 2^low … 2^high. */
static void put_half(qt_rng *rng, unsigned char *p, int64_t low, int64_t high) {
    const uint16_t x = (uint16_t)((uint64_t)qt_range(rng, low + 15, high + 15) << 10 | (qt_u64(rng) & 0x83ff));
    memcpy(p, &x, sizeof x);
}

/* Scales of a block, so that weights are about as large as 2^-4. The other bytes are random already. */
static void put_scales(qt_rng *rng, int64_t type, unsigned char *block) {
    const int64_t size = type == QKV_Q8_0 ? -11 : type == QKV_Q4_0 || type == QKV_Q4_1 ? -7 : -8;
    switch (type) {
    case QKV_Q4_K:
    case QKV_Q5_K:
        put_half(rng, block, -14, -12);
        put_half(rng, block + 2, -12, -10);
        break;
    case QKV_Q6_K: put_half(rng, block + 208, -14, -13); break;
    default:
        put_half(rng, block, size - 1, size);
        if (type == QKV_Q4_1 || type == QKV_Q5_1)
            put_half(rng, block + 2, -5, -4);
    }
}

/* n elements or blocks. */
static void put_numbers(qt_rng *rng, int64_t type, unsigned char *p, int64_t n) {
    const int64_t bytes = oracle_block_bytes(type);
    for (int64_t i = 0; i < n; i++, p += bytes) {
        const float x = qt_normal(rng) / 16;
        const uint32_t word = qt_bits(x);
        if (type == QKV_F32) {
            memcpy(p, &x, sizeof x);
        } else if (type == QKV_BF16) {
            memcpy(p, &(uint16_t){(uint16_t)(word >> 16)}, 2);
        } else if (type == QKV_F16) {
            put_half(rng, p, -8, -3);
        } else {
            for (int64_t b = 0; b < bytes; b++)
                p[b] = (unsigned char)qt_u64(rng);
            if (type != QKV_INT8)
                put_scales(rng, type, p);
        }
    }
}

qkv_weight case_weight(qt_rng *rng, int64_t type, int64_t in, int64_t out, bool damaged, const float **dense) {
    const int64_t terms = oracle_block_terms(type), bytes = oracle_block_bytes(type);
    qkv_weight w = {.out_features = out, .type = type, .layout = QKV_OUT_IN};
    if (terms == 1 && qt_chance(rng, 50))
        w.layout = QKV_IN_OUT;
    const int64_t rows = w.layout == QKV_IN_OUT ? in : out, cols = w.layout == QKV_IN_OUT ? out : in;
    const int64_t stride = cols / terms + (qt_chance(rng, 40) ? qt_range(rng, 0, 5) : 0);
    const int64_t n = rows > 0 && cols > 0 ? stride * (rows - 1) + cols / terms : 0;
    w.stride = stride * terms == cols && qt_chance(rng, 50) ? 0 : stride * terms;
    unsigned char *data = qt_alloc((size_t)(n * bytes), terms > 1 ? 2 : (size_t)bytes, qt_place(rng));
    put_numbers(rng, type, data, n);
    for (int64_t i = 0; damaged && i < n * bytes; i++)
        data[i] = (unsigned char)qt_u64(rng);
    qt_read_only(data);
    w.data = data;
    if (type == QKV_INT8) {
        float *scales = case_floats(rng, out);
        for (int64_t c = 0; c < out; c++)
            scales[c] = damaged ? qt_nasty(rng) : qt_uniform(rng, 0.0002f, 0.001f);
        qt_read_only(scales);
        w.scales = scales;
    }
    float *values = qt_floats((size_t)(in * out), QT_HEAD);
    *dense = values;
    for (int64_t k = 0; k < in; k++)
        for (int64_t c = 0; c < out; c++) {
            oracle_term term = w.layout == QKV_IN_OUT ? oracle_weight(type, data + k * stride * bytes, c)
                                                      : oracle_weight(type, data + c * stride * bytes, k);
            if (type == QKV_INT8)
                term.scale = (double)w.scales[c];
            values[k * out + c] = oracle_weight_value(term);
        }
    return w;
}
