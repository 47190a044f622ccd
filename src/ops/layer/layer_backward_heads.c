/* Gradients of what Q and K go through before attention: RoPE turned back, then QK-norm.
 *
 * With x a head's row before QK-norm, r = 1/√(mean x² + ε), x̂ = x·r and y = w·x̂: dw = Σ dy·x̂ over the rows, and
 * dx = r·(g − x̂·mean(g·x̂)) with g = w·dy. A row whose gradient is zero takes no part, whatever it holds.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "layer_backward.h"

#if QKV_WITH(BACKWARD) && QKV_WITH(LAYER)

layer_heads qkv_layer_heads_of(const qkv_layer_backward_desc *d, const layer_grad_shape *shape, bool keys) {
    const qkv_attention_desc *a = &d->forward.attention;
    layer_heads h = {.steps = qkv_layer_steps(&d->forward, keys),
                     .heads = a->num_heads,
                     .tokens = a->seq_q,
                     .tensor = shape->tensors.q,
                     .plain = shape->plain_q,
                     .grad = shape->grad_q,
                     .norm_sums = shape->norm_q,
                     .grad_norm = d->grad_norm_q,
                     .keys = keys,
                     .accumulate = d->flags & QKV_ACCUMULATE_Q};
    if (keys) {
        h.heads = a->num_kv_heads;
        h.tokens = a->seq_k;
        h.tensor = shape->tensors.k;
        h.plain = shape->plain_k;
        h.grad = shape->grad_k;
        h.norm_sums = shape->norm_k;
        h.grad_norm = d->grad_norm_k;
        h.accumulate = d->flags & QKV_ACCUMULATE_K;
    }
    h.chunks = qkv_ceil_div(h.tokens, SUM_ROWS);
    h.tasks = a->head_dim > 0 ? a->batch * h.heads * h.chunks : 0;
    return h;
}

/* The rows of a task: at most SUM_ROWS tokens of a head, which follow each other in every tensor. */
typedef struct head_chunk {
    int64_t b, t, rows, offset; /* offset: of the first row, in floats */
    ptrdiff_t at[SUM_ROWS];
} head_chunk;

static void find_chunk(const qkv_layer_backward_desc *d, const layer_heads *h, int64_t index, head_chunk *c) {
    int64_t head = index / h->chunks; /* of all batches */
    c->b = head / h->heads;
    c->t = index % h->chunks * SUM_ROWS;
    c->rows = qkv_min(SUM_ROWS, h->tokens - c->t);
    c->offset = (head * h->tokens + c->t) * d->forward.attention.head_dim;
    if (h->steps.rotate)
        qkv_find_positions(&h->steps, &d->forward.rope, c->b, c->t, h->tokens, c->rows, c->at);
}

void qkv_layer_apply_steps(const qkv_kernels *kernels, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                           float *base, int64_t index) {
    layer_heads h = qkv_layer_heads_of(d, shape, false);
    int64_t dim = d->forward.attention.head_dim, q_tasks = h.steps.norm ? h.tasks : 0;
    if (index >= q_tasks) {
        h = qkv_layer_heads_of(d, shape, true);
        index -= q_tasks;
    }
    head_chunk c;
    find_chunk(d, &h, index, &c);
    float *to = base + h.tensor + c.offset;
    memcpy(to, base + h.plain + c.offset, (size_t)(c.rows * dim) * sizeof(float));
    qkv_apply_head_steps(kernels, &h.steps, &d->forward.rope, to, dim, c.at, c.rows, dim);
}

static bool is_zero(const float *x, int64_t n) {
    bool zero = true;
    for (int64_t i = 0; i < n; i++)
        zero = zero & (x[i] == 0);
    return zero;
}

/* The scratch of a worker: x̂ of a few rows, and a row. */
int64_t qkv_layer_steps_scratch(const qkv_layer_backward_desc *d) {
    return (QKV_MAX_ROWS + 1) * qkv_layer_norm_floats(d->forward.attention.head_dim) * (int64_t)sizeof(float);
}

/* Of n ≤ QKV_MAX_ROWS rows: dy in `grad` becomes dx. sums: [dim], of dw; NULL: not wanted. */
static void differentiate_norm(const qkv_kernels *kernels, const qkv_head_steps *steps, float *grad, const float *x,
                               int64_t n, int64_t dim, float *sums, float *scratch) {
    int64_t ld = qkv_layer_norm_floats(dim);
    float inverse[QKV_MAX_ROWS], share[QKV_MAX_ROWS], *row = scratch + QKV_MAX_ROWS * ld;
    for (int64_t r = 0; r < n; r++) {
        memcpy(scratch + r * ld, x + r * dim, (size_t)dim * sizeof(float));
        if (is_zero(grad + r * dim, dim))
            memset(scratch + r * ld, 0, (size_t)dim * sizeof(float));
    }
    qkv_inverse_rms(kernels, scratch, ld, n, dim, steps->norm_epsilon, inverse);
    for (int64_t r = 0; r < n; r++)
        inverse[r] = is_zero(grad + r * dim, dim) ? 0.0f : inverse[r];
    kernels->scale(scratch, ld, scratch, ld, inverse, (size_t)n, (size_t)dim);
    for (int64_t r = 0; sums && r < n; r++) {
        memcpy(row, scratch + r * ld, (size_t)dim * sizeof(float));
        kernels->scale_columns(row, ld, 1, (size_t)dim, grad + r * dim);
        kernels->add(sums, ld, row, ld, 1, (size_t)dim);
    }
    kernels->scale_columns(grad, dim, (size_t)n, (size_t)dim, steps->norm);
    kernels->row_dots(share, grad, dim, scratch, ld, (size_t)n, (size_t)dim);
    for (int64_t r = 0; r < n; r++)
        share[r] = -(share[r] / (float)dim);
    kernels->scale(scratch, ld, scratch, ld, share, (size_t)n, (size_t)dim);
    kernels->add(grad, dim, scratch, ld, (size_t)n, (size_t)dim);
    kernels->scale(grad, dim, grad, dim, inverse, (size_t)n, (size_t)dim);
}

void qkv_layer_differentiate_steps(const qkv_kernels *kernels, const qkv_layer_backward_desc *d,
                                   const layer_grad_shape *shape, float *base, int64_t index, int32_t worker) {
    const qkv_rope *rope = &d->forward.rope;
    int64_t dim = d->forward.attention.head_dim, ld = qkv_layer_norm_floats(dim);
    layer_heads h = qkv_layer_heads_of(d, shape, false);
    if (index >= h.tasks) {
        index -= h.tasks;
        h = qkv_layer_heads_of(d, shape, true);
    }
    if (!qkv_layer_wants_heads(d, h.keys))
        return;
    head_chunk c;
    find_chunk(d, &h, index, &c);
    float *grad = base + h.grad + c.offset;
    float *sums = h.grad_norm ? base + h.norm_sums + index * ld : NULL;
    float *scratch = base + shape->scratch + worker * (qkv_layer_steps_scratch(d) / (int64_t)sizeof(float));
    if (h.steps.rotate)
        kernels->rotate(grad, dim, rope->cos, rope->sin, c.at, (size_t)c.rows, (size_t)(rope->rotary_dim / 2),
                        rope->layout == QKV_ROPE_INTERLEAVED, 1);
    if (!h.steps.norm)
        return;
    if (sums)
        memset(sums, 0, (size_t)ld * sizeof(float));
    for (int64_t r = 0; r < c.rows; r += QKV_MAX_ROWS)
        differentiate_norm(kernels, &h.steps, grad + r * dim, base + h.plain + c.offset + r * dim,
                           qkv_min(QKV_MAX_ROWS, c.rows - r), dim, sums, scratch);
}

/* Task 0: of norm_q, 1: of norm_k. Without queries nothing has been differentiated: then the sum is of nothing. */
void qkv_layer_sum_norm(const qkv_kernels *kernels, const qkv_layer_backward_desc *d, const layer_grad_shape *shape,
                        float *base, int64_t index) {
    const qkv_attention_desc *a = &d->forward.attention;
    layer_heads h = qkv_layer_heads_of(d, shape, index == 1);
    int64_t ld = qkv_layer_norm_floats(a->head_dim), shares = shape->phases[ATTEND] > 0 ? h.tasks : 0;
    size_t dim = (size_t)a->head_dim;
    if (!h.grad_norm || dim == 0)
        return;
    if (!h.accumulate)
        memset(h.grad_norm, 0, dim * sizeof(float));
    for (int64_t i = 0; i < shares; i++)
        kernels->add(h.grad_norm, ld, base + h.norm_sums + i * ld, ld, 1, dim);
    qkv_scale_row(kernels, h.grad_norm, h.grad_norm, 1.0f, dim);
}

#endif
