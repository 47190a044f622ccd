/* Rules of docs/numerics.md that gradients share with the forward, with fmaf. Only exp2 and tanh come from the kernels;
 * they have tests of their own.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_TESTS_RULES_H
#define QKV_TESTS_RULES_H

#include "oracle_cases.h"

#include <float.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

static const float log2e = 0x1.715476p+0f;
static const qkv_kernels *kernels; /* of the set under test */

static inline float exp2_or_zero(float y) {
    if (y < -126)
        return 0;
    kernels->exp2(&y, 1);
    return y;
}

/* Term number n of a sum of so many is this one: in bfloat16 the second of each pair comes first. */
static inline int64_t nth_term(bool in_bf16, int64_t n, int64_t terms) {
    return !in_bf16 || (terms % 2 == 1 && n == terms - 1) ? n : n ^ 1;
}

/* Chains of 128 terms, added in order. In bfloat16 x is rounded already. */
static inline float dot(bool in_bf16, const float *x, const float *y, int64_t stride_y, int64_t n) {
    float total = 0;
    for (int64_t first = 0; first < n; first += 128) {
        float chain = 0;
        for (int64_t at = first; at < n && at < first + 128; at++) {
            const int64_t i = nth_term(in_bf16, at, n);
            chain = fmaf(x[i], in_bf16 ? oracle_to_bf16(y[i * stride_y]) : y[i * stride_y], chain);
        }
        total = first == 0 ? chain : total + chain;
    }
    return total;
}

static inline const float *row_of(const qkv_input *in, int64_t b, int64_t h, int64_t t) {
    return (const float *)in->data + b * in->batch + h * in->head + t * in->token;
}

/* The base-2 logit of a pair that sees each other, from its dot product. cap_tanh: tanh of the softcap, or NULL. */
static inline float finished_logit(const qkv_attention_desc *d, float t, int64_t b, int64_t h, int64_t i, int64_t j,
                                   float *cap_tanh) {
    if (d->softcap != 0) {
        kernels->tanh(&t, 1);
        if (cap_tanh)
            *cap_tanh = t;
        t = d->softcap * log2e * t;
    }
    if (d->alibi_slopes) {
        const int64_t p = i + (d->q_offsets ? d->q_offsets[b] : d->q_offset);
        t = fmaf(d->alibi_slopes[h] * log2e, (float)(j - p), t);
    }
    const qkv_matrix_input *bias = &d->bias;
    if (bias->data) {
        const float x = ((const float *)bias->data)[b * bias->batch + h * bias->head + i * bias->query + j * bias->key];
        t += fmaxf(x * log2e, -FLT_MAX);
    }
    return t;
}

/* And from q, which is multiplied by c already. */
static inline float logit(const qkv_attention_desc *d, const float *q, int64_t b, int64_t h, int64_t kv, int64_t i,
                          int64_t j, float *cap_tanh) {
    const float t = dot(d->arithmetic == QKV_ARITHMETIC_BF16, q, row_of(&d->k, b, kv, j), 1, d->head_dim);
    return finished_logit(d, t, b, h, i, j, cap_tanh);
}

/* The row of q that logits are made of: multiplied by scale·log2 e, or by scale/softcap. */
static inline void scaled_query(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i, float *q) {
    const float scale = d->scale == 0 ? 1 / sqrtf((float)d->head_dim) : d->scale;
    const float factor = d->softcap == 0 ? scale * log2e : scale / d->softcap;
    for (int64_t x = 0; x < d->head_dim; x++) {
        q[x] = row_of(&d->q, b, h, i)[x] * factor;
        if (d->arithmetic == QKV_ARITHMETIC_BF16)
            q[x] = oracle_to_bf16(q[x]);
    }
}

/* The tree of sums over 16 lanes. */
static inline float sum_of_lanes(float lane[16]) {
    for (int step = 8; step > 0; step /= 2)
        for (int x = 0; x < step; x++)
            lane[x] += lane[x + step];
    return lane[0];
}

#endif
