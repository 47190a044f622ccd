/* What attention_plan.c, attention_fwd.c and merge.c share.  SPDX-License-Identifier: MIT */
#ifndef QKV_OPS_ATTENTION_H
#define QKV_OPS_ATTENTION_H

#include "../../ref/scalar.h"
#include "../ops.h"

QKV_INTERNAL_BEGIN

/* Bytes of one worker's scratch. */
int64_t qkv_attention_scratch_size(const qkv_kernels *kernels, const qkv_attention_desc *d,
                                   const qkv_attention_shape *shape);

/* Floats of the states that so many rows of a task have from one key block. */
int64_t qkv_attention_state_floats(const qkv_attention_shape *shape, int64_t rows);

/* √x of a positive x within an ulp, by Newton: the library calls no libm. */
static inline double qkv_square_root(double x) {
    double y = x > 1 ? x : 1;
    for (double previous = 0; y != previous;) {
        previous = y;
        double next = 0.5 * (y + x / y);
        y = next < previous ? next : previous; /* descends from above until it stands */
    }
    return y;
}

/* The state (m, ℓ) of a single term exp(x): a sink, or the log-sum-exp of a finished part. x = −inf is no term. */
static inline void qkv_single_state(float x, float *m, float *l) {
    *m = qkv_base2_logit(x);
    *l = qkv_is_minus_infinity(x) ? 0.0f : 1.0f;
}

/* A state as callers have it: O, m, ℓ. A NaN in ℓ is one in m, and no −0 leaves. */
static inline void qkv_store_state(const qkv_kernels *kernels, float *state, float m, float l, const float *out,
                                   size_t n) {
    qkv_scale_row(kernels, state, out, 1.0f, n);
    state[n] = l == l ? m + 0.0f : l;
    state[n + 1] = l;
}

/* 1/ℓ, by which an output is scaled at the end. An empty row is all zeros, whatever it is scaled by. */
static inline float qkv_inverse_sum(float l) {
    return l == 0 ? 0.0f : 1 / l;
}

static inline float qkv_log_sum_exp(const qkv_kernels *kernels, float m, float l) {
    if (l == 0)
        return QKV_MINUS_INFINITY;
    kernels->log(&l, 1);
    return qkv_fma(m, QKV_LN2, l);
}

QKV_INTERNAL_END

#endif
