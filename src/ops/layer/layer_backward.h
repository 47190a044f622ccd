/* What the files of a layer's gradients share.  SPDX-License-Identifier: MIT */
#ifndef QKV_OPS_LAYER_BACKWARD_H
#define QKV_OPS_LAYER_BACKWARD_H

#include "layer.h"

QKV_INTERNAL_BEGIN

/* The operations in order. STEPS: QK-norm and RoPE of the forward where QK-norm's gradient needs what was before it.
 * HEADS: from the output's gradient to that of the heads; STEPS_BACK: dQ and dK of what the projection gave;
 * NORM_WEIGHTS: QK-norm's own; …_KV: of K and V in cross-attention; SUM: of raw attention, x being queries, keys and
 * values at once. */
enum operation {
    PROJECT,
    PROJECT_KV,
    STEPS,
    ATTEND,
    HEADS,
    WEIGHTS_OUT,
    ATTENTION,
    STEPS_BACK,
    NORM_WEIGHTS,
    INPUT,
    INPUT_KV,
    SUM,
    NUM_OPERATIONS
};

enum { SUM_ROWS = 64 }; /* tokens of a task of SUM, STEPS and STEPS_BACK */

/* plain_…: Q and K before QK-norm; norm_…: a share of QK-norm's gradient for each task. */
typedef struct layer_grad_shape {
    layer_tensors tensors;
    int64_t lse, grad_heads, grad_q, grad_k, grad_v, scratch; /* as tensors; scratch: of the running operation */
    int64_t plain_q, plain_k, norm_q, norm_k;
    int64_t phases[NUM_OPERATIONS];
    int64_t cache_sizes[3];
} layer_grad_shape;

/* Heads of Q, or of K: what STEPS and STEPS_BACK work on, SUM_ROWS tokens of a head a task. */
typedef struct layer_heads {
    qkv_head_steps steps;
    int64_t heads, tokens, chunks; /* chunks of a head */
    int64_t tasks;
    int64_t tensor, plain, grad, norm_sums; /* floats from the workspace's base */
    float *grad_norm;
    bool keys, accumulate;
} layer_heads;

/* Whether dQ, or dK, is wanted. */
bool qkv_layer_wants_heads(const qkv_layer_backward_desc *d, bool keys);

layer_heads qkv_layer_heads_of(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, bool keys);

static inline int64_t qkv_layer_norm_floats(int64_t head_dim) {
    return qkv_round_up(head_dim, QKV_LANES);
}

/* Bytes of a worker's scratch, and one task, of each. */
int64_t qkv_layer_steps_scratch(const qkv_layer_backward_desc *d);
void qkv_layer_apply_steps(const qkv_kernels *kernels, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                           float *base, int64_t index);
void qkv_layer_differentiate_steps(const qkv_kernels *kernels, const qkv_layer_backward_desc *d,
                                   const layer_grad_shape *shape, float *base, int64_t index, int32_t worker);
void qkv_layer_sum_norm(const qkv_kernels *kernels, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                        float *base, int64_t index);

QKV_INTERNAL_END

#endif
