/* Gradients of attention in double, and how far those of a float implementation may be from them.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ORACLE_BACKWARD_H
#define ORACLE_BACKWARD_H

#include "oracle.h"

/* A gradient, contiguous in the order of its axes. A bound below 0 means that the value is not promised, because an
 * intermediate one may be too large for float. */
typedef struct oracle_gradient {
    double *value, *bound, *magnitude; /* magnitude: Σ |terms| */
    int64_t size, terms;               /* elements; partial sums that are added up, one after the other, for each */
} oracle_gradient;

typedef struct oracle_gradients {
    oracle_gradient q, k, v; /* [batch][heads][tokens][channels] */
    oracle_gradient bias;    /* [batch][heads][queries][keys], 1 for an axis that is summed */
    oracle_gradient sinks;   /* [heads] */
} oracle_gradients;

/* From q, k, v, options, grad_out and grad_lse of the descriptor; out and lse are not looked at, but the bound allows
 * for the error they have as the library's. The strides of grad_bias say which axes of dbias are summed. */
oracle_gradients *oracle_backward(const qkv_attention_backward_desc *desc);
void oracle_free_gradients(oracle_gradients *g);

/* The objective whose gradients these are, Σ dO·out + Σ dLSE·lse, over the heads of one KV head. */
typedef struct oracle_nudge {
    char tensor;           /* 'q', 'k' or 'v': one element is moved by `by` */
    int64_t head, element; /* of q: the head; token·channels + channel */
    double by;
} oracle_nudge;
/* *magnitude grows by Σ |dO|·Σ p·|v|. */
double oracle_objective(const qkv_attention_backward_desc *desc, int64_t b, int64_t kv_head, const oracle_nudge *nudge,
                        double *magnitude);

#endif
