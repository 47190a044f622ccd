/* Attention backward: what is done before and after the key blocks, row statistics, dbias across heads, dsink.
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

#if QKV_WITH(BACKWARD)

/* ----------------------------------------------------------------------------------------------- statistics */

static const float *at_row(const qkv_input *x, int64_t b, int64_t head, int64_t token) {
    return (const float *)x->data + b * x->batch + head * x->head + token * x->token;
}

/* Marks rows that are not finite: Σ 0·x. In bfloat16 also those that may round to infinity, as then Σ 4·x is none. */
static void find_infinite(const gradient_task *t, float *clean, const float *x, int64_t ld, int64_t n, int64_t dim) {
    float factor = qkv_in_bf16(&t->desc->forward) ? 4 : 0;
    for (int64_t c = 0; c < dim; c++)
        t->row_sum[c] = factor;
    t->rows.kernels->row_dots(t->scaled_delta, x, ld, t->row_sum, 0, (size_t)n, (size_t)dim);
    for (int64_t i = 0; i < n; i++)
        clean[i] += t->scaled_delta[i] * 0;
}

/* Rows of q that are not finite have no finite lse, unless a sink is all of it: in most calls nobody has to look. */
static void find_infinite_queries(const qkv_attention_desc *d, float *clean, const float *lse, gradient_task *t,
                                  int64_t head, int64_t first, int64_t n) {
    bool look = d->sinks != NULL || qkv_in_bf16(d);
    for (int64_t i = 0; i < n; i++)
        look = look || lse[i] - lse[i] != 0;
    if (!look)
        return;
    int64_t ld;
    const float *q = qkv_gradient_float_rows(t, &d->q, d->q_type, d->head_dim, head, first, n, t->wide, &ld);
    find_infinite(t, clean, q, ld, n, d->head_dim);
}

/* Σ dO·out. In bfloat16 of dO as it is in dO·v: an error that both have in common then is none of their difference. */
static void sum_outputs(gradient_task *t, float *delta, float *clean, int64_t head, int64_t first, int64_t n) {
    const qkv_attention_desc *d = &t->desc->forward;
    const qkv_kernels *kernels = t->rows.kernels;
    const int64_t dim = d->head_dim_v, room = qkv_round_up(dim, QKV_LANES);
    qkv_input x = qkv_as_input(&d->out);
    int64_t ld, ld_grad;
    const float *out = qkv_gradient_float_rows(t, &x, d->out_type, dim, head, first, n, t->wide, &ld);
    const float *grad_out =
        qkv_gradient_float_rows(t, &t->desc->grad_out, d->out_type, dim, head, first, n, t->out_copy, &ld_grad);
    if (qkv_in_bf16(d)) {
        find_infinite(t, clean, grad_out, ld_grad, n, dim);
        for (int64_t i = 0; i < n; i++) {
            kernels->narrow(t->row_sum, 0, grad_out + i * ld_grad, 0, QKV_BF16, 1, (size_t)dim);
            kernels->widen(t->out_copy + i * room, 0, t->row_sum, 0, QKV_BF16, 1, (size_t)dim);
        }
        grad_out = t->out_copy;
        ld_grad = room;
    }
    kernels->row_dots(delta, grad_out, ld_grad, out, ld, (size_t)n, (size_t)dim);
    for (int64_t i = 0; i < n; i++)
        clean[i] += delta[i] * 0; /* dO that is not finite makes Σ dO·O so */
}

/* Whether the forward left this row empty, as far as its outputs can tell: all zeros, and no lse but that of a sink. */
static bool is_empty_row(const gradient_task *t, int64_t head, int64_t i, float lse) {
    const qkv_attention_desc *d = &t->desc->forward;
    if (qkv_is_minus_infinity(lse) || !d->sinks)
        return qkv_is_minus_infinity(lse);
    float m, l;
    qkv_single_state(d->sinks[head], &m, &l);
    if (lse != qkv_log_sum_exp(t->rows.kernels, m, l))
        return false;
    qkv_input out = qkv_as_input(&d->out);
    int64_t unused;
    const float *o = qkv_gradient_float_rows(t, &out, d->out_type, d->head_dim_v, head, i, 1, t->wide, &unused);
    for (int64_t c = 0; c < d->head_dim_v; c++) {
        if (o[c] != 0)
            return false;
    }
    return true;
}

static void clear_rows(const qkv_kernels *kernels, const qkv_attention_backward_desc *desc, int64_t b, int64_t head,
                       int64_t first, int64_t n) {
    const qkv_output *x = &desc->grad_q;
    size_t dim = (size_t)desc->forward.head_dim;
    for (int64_t i = first; x->data && dim > 0 && i < first + n; i++) {
        float *row = (float *)x->data + b * x->batch + head * x->head + i * x->token;
        if (desc->flags & QKV_ACCUMULATE_Q)
            qkv_scale_row(kernels, row, row, 1.0f, dim);
        else
            memset(row, 0, dim * sizeof(float));
    }
}

void qkv_gradient_statistics(const qkv_kernels *kernels, const gradient_shape *shape,
                             const qkv_attention_backward_desc *desc, void *workspace, int64_t index, int32_t worker) {
    const qkv_attention_desc *d = &desc->forward;
    int64_t chunk = index % shape->row_chunks, b = index / shape->row_chunks / d->num_heads;
    int64_t head = index / shape->row_chunks % d->num_heads, first = chunk * GRADIENT_ROWS;
    int64_t n = qkv_min(GRADIENT_ROWS, d->seq_q - first), at = (b * d->num_heads + head) * d->seq_q + first;
    float *lse = (float *)workspace + at, *delta = lse + shape->rows, *clean = delta + shape->rows;
    gradient_task t; /* for scratch */
    qkv_gradient_begin(&t, kernels, shape, desc, workspace, worker, worker);
    t.rows.b = b;
    memset(delta, 0, (size_t)n * sizeof(float));
    memset(clean, 0, (size_t)n * sizeof(float));
    if (d->head_dim_v > 0)
        sum_outputs(&t, delta, clean, head, first, n);
    for (int64_t i = 0; i < n; i++) {
        qkv_input in = qkv_as_input(&d->lse);
        float natural = *at_row(&in, b, head, first + i);
        bool nan = delta[i] != delta[i], empty = qkv_is_minus_infinity(natural);
        if (empty || (nan && is_empty_row(&t, head, first + i, natural)))
            delta[i] = 0;
        if (desc->grad_lse.data && !empty)
            delta[i] -= *at_row(&desc->grad_lse, b, head, first + i);
        lse[i] = empty ? -QKV_MINUS_INFINITY : natural * QKV_LOG2E;
    }
    if (d->head_dim > 0 && d->seq_k > 0)
        find_infinite_queries(d, clean, lse, &t, head, first, n);
    clear_rows(kernels, desc, b, head, first, n);
    if (desc->grad_bias.data && qkv_gradient_bias_is_direct(desc))
        qkv_gradient_open_bias(desc, b, head, (key_range){first, first + n}, (key_range){0, d->seq_k});
}

/* ------------------------------------------------------------------------------------------------------ dbias */

int64_t qkv_gradient_bias_tasks(const gradient_shape *shape, const qkv_attention_backward_desc *desc) {
    const qkv_attention_desc *d = &desc->forward;
    const qkv_matrix_output *x = &desc->grad_bias;
    return (x->batch == 0 ? 1 : d->batch) * (x->head == 0 ? 1 : d->num_heads) * shape->bias_queries * shape->bias_keys;
}

/* Batches outermost, then heads, key blocks, queries, keys. */
void qkv_gradient_bias(const qkv_kernels *kernels, const gradient_shape *shape, const qkv_attention_backward_desc *desc,
                       void *workspace, int64_t index, int32_t worker) {
    const qkv_attention_desc *d = &desc->forward;
    const qkv_matrix_output *x = &desc->grad_bias;
    int64_t key = index % shape->bias_keys, query = index / shape->bias_keys % shape->bias_queries;
    int64_t plane = index / shape->bias_keys / shape->bias_queries, heads = x->head == 0 ? 1 : d->num_heads;
    int64_t b = plane / heads, b_end = x->batch == 0 ? d->batch : b + 1, only_head = plane % heads;
    int64_t head_end = x->head == 0 ? d->num_heads : only_head + 1;
    key_range blocks = {key, key + 1}, queries = {query * GRADIENT_ROWS, (query + 1) * GRADIENT_ROWS};
    if (shape->bias_keys == 1)
        blocks = (key_range){0, shape->key_blocks};
    if (shape->bias_queries == 1)
        queries.end = d->seq_q;
    queries.end = qkv_min(queries.end, d->seq_q);
    qkv_gradient_open_bias(desc, b, only_head, queries,
                           (key_range){blocks.first * QKV_KEY_BLOCK, qkv_min(blocks.end * QKV_KEY_BLOCK, d->seq_k)});
    if (shape->rows == 0 || shape->key_blocks == 0)
        return;
    gradient_task t;
    qkv_gradient_begin(&t, kernels, shape, desc, workspace, worker, worker);
    t.sums_bias = true;
    for (; b < b_end; b++) {
        for (int64_t head = only_head; head < head_end; head++) {
            qkv_gradient_choose_head(&t, b * d->num_kv_heads + head / shape->scores.group);
            for (int64_t block = blocks.first; block < blocks.end; block++) {
                qkv_gradient_choose_keys(&t, block);
                qkv_gradient_load_keys(&t);
                for (int64_t i = queries.first; i < queries.end; i += GRADIENT_ROWS)
                    qkv_gradient_bias_rows(&t, head, i, qkv_min(GRADIENT_ROWS, queries.end - i));
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------------ dsink */

/* −Σ exp(sink − lse)·δ: a chain over each 64 queries, added in order, batches one after the other. */
void qkv_gradient_sink(const gradient_shape *shape, const qkv_attention_backward_desc *desc, const void *workspace,
                       int64_t head, const qkv_kernels *kernels) {
    const qkv_attention_desc *d = &desc->forward;
    float total = desc->flags & QKV_ACCUMULATE_SINKS ? desc->grad_sinks[head] : 0.0f;
    float sink = d->sinks ? d->sinks[head] : QKV_MINUS_INFINITY, m, l;
    qkv_single_state(sink, &m, &l);
    for (int64_t b = 0; l != 0 && d->seq_q > 0 && b < d->batch; b++) {
        const float *lse = (const float *)workspace + (b * d->num_heads + head) * d->seq_q, *delta = lse + shape->rows;
        for (int64_t first = 0; first < d->seq_q; first += GRADIENT_ROWS) {
            float sum = 0;
            for (int64_t i = first; i < qkv_min(first + GRADIENT_ROWS, d->seq_q); i++) {
                float y = m - lse[i], p = y > 0 ? 0 : y;
                kernels->exp2(&p, 1);
                sum = qkv_fma(-p, delta[i], sum);
            }
            total += sum;
        }
    }
    desc->grad_sinks[head] = total + 0.0f;
}

#endif
