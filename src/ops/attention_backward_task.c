/* A task of the attention's gradients: its scratch, its block of keys with the sums over queries, and its block of
 * queries.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

/* ---------------------------------------------------------------------------------------------------- scratch */

typedef struct part {
    float **at;
    int64_t floats;
} part;

static int64_t lay_out(const part *parts, size_t n, float *base) {
    int64_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (base)
            *parts[i].at = base + used;
        used += qkv_round_up(parts[i].floats, QKV_LANES);
    }
    return used * (int64_t)sizeof(float);
}

static int64_t lay_out_lane(gradient_task *t, const gradient_shape *shape, const qkv_attention_desc *d, float *base) {
    int64_t keys = qkv_min(QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL));
    const part parts[] = {
        {&t->k_panels, keys * d->head_dim},
        {&t->v_panels, keys * d->head_dim_v},
        {&t->k_copy, shape->copies_k ? keys * shape->scores.ld_q : 0},
        {&t->grad_k, keys * shape->scores.ld_q},
        {&t->grad_v, keys * shape->scores.ld_o},
    };
    return lay_out(parts, sizeof parts / sizeof parts[0], base);
}

static int64_t lay_out_worker(gradient_task *t, const qkv_kernels *kernels, const gradient_shape *shape, float *base) {
    int64_t rows = GRADIENT_ROWS, tile = kernels->tile_rows, ld_q = shape->scores.ld_q, ld_o = shape->scores.ld_o;
    float *query = NULL, *head = NULL, *keep = NULL;
    const part parts[] = {
        {&t->p, rows * LD_SCORES},
        {&t->ds, rows * LD_SCORES},
        {&t->visible, rows * LD_SCORES},
        {&t->cap_tanh, shape->scores.cap != 0 ? tile * LD_SCORES : 0},
        {&t->dt, tile * LD_SCORES},
        {&t->dq, tile * ld_q},
        {&t->scaled_delta, rows},
        {&t->column, 2 * rows},
        {&t->rows.q, rows * ld_q},
        {&t->q_copy, shape->copies_q ? rows * ld_q : 0},
        {&t->out_copy, shape->copies_out ? rows * ld_o : 0},
        {&t->row_sum, qkv_max(ld_q, ld_o)},
        {&t->rows.distance, DISTANCES},
        {&t->rows.bias, QKV_KEY_BLOCK},
        {&keep, QKV_KEY_BLOCK / (int64_t)sizeof(float)},
        {&query, rows * (int64_t)(sizeof(int64_t) / sizeof(float))},
        {&head, rows * (int64_t)(sizeof(int64_t) / sizeof(float))},
    };
    int64_t size = lay_out(parts, sizeof parts / sizeof parts[0], base);
    t->rows.keep = (uint8_t *)keep;
    t->rows.query = (int64_t *)(void *)query;
    t->rows.head = (int64_t *)(void *)head;
    return size;
}

void qkv_gradient_scratch(const qkv_kernels *kernels, gradient_shape *shape, const qkv_attention_desc *d) {
    gradient_task unused;
    shape->lane_size = lay_out_lane(&unused, shape, d, NULL);
    shape->worker_size = lay_out_worker(&unused, kernels, shape, NULL);
}

void qkv_gradient_begin(gradient_task *t, const qkv_kernels *kernels, const gradient_shape *shape,
                        const qkv_attention_backward_desc *desc, void *workspace, int64_t lane, int32_t worker) {
    const float *statistics = workspace;
    unsigned char *areas = (unsigned char *)workspace + shape->statistics_size;
    int64_t area = shape->lane_size + shape->worker_size;
    memset(t, 0, sizeof *t);
    t->shape = shape;
    t->desc = desc;
    t->row_lse = statistics;
    t->row_delta = statistics + shape->rows;
    t->row_clean = statistics + 2 * shape->rows;
    t->sums_bias = desc->grad_bias.data && qkv_gradient_bias_is_direct(desc);
    t->rows.kernels = kernels;
    t->rows.shape = &shape->scores;
    t->rows.desc = &desc->forward;
    lay_out_lane(t, shape, &desc->forward, (float *)(void *)(areas + lane * area));
    lay_out_worker(t, kernels, shape, (float *)(void *)(areas + worker * area + shape->lane_size));
}

/* ------------------------------------------------------------------------------------------------------- keys */

void qkv_gradient_choose_head(gradient_task *t, int64_t kv_head) {
    const qkv_attention_desc *d = &t->desc->forward;
    t->rows.b = kv_head / d->num_kv_heads;
    t->rows.kv_head = kv_head % d->num_kv_heads;
    t->rows.kv_len = qkv_batch_kv_len(d, t->rows.b);
    t->rows.q_offset = qkv_batch_q_offset(d, t->rows.b);
}

float *qkv_gradient_output_row(const gradient_task *t, const qkv_output *x, int64_t head, int64_t token) {
    return (float *)x->data + t->rows.b * x->batch + head * x->head + token * x->token;
}

/* Tensors without channels may be NULL; nothing is read of them. */
const float *qkv_gradient_input_row(const gradient_task *t, const qkv_input *x, int64_t dim, int64_t head,
                                    int64_t token) {
    return dim == 0 ? t->row_sum
                    : (const float *)x->data + t->rows.b * x->batch + head * x->head + token * x->token;
}

void qkv_gradient_copy_rows(float *to, int64_t ld, const float *from, int64_t stride, int64_t rows, int64_t n) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * ld, from + i * stride, (size_t)n * sizeof(float));
}

void qkv_gradient_choose_keys(gradient_task *t, int64_t block) {
    const qkv_attention_desc *d = &t->desc->forward;
    t->block = block;
    t->num_keys = qkv_min(QKV_KEY_BLOCK, d->seq_k - block * QKV_KEY_BLOCK);
    t->k = t->k_copy;
    t->ld_k = t->shape->scores.ld_q;
    if (!t->shape->copies_k) {
        t->k = qkv_gradient_input_row(t, &d->k, d->head_dim, t->rows.kv_head, block * QKV_KEY_BLOCK);
        t->ld_k = d->k.token;
    }
}

static void pack_keys(const gradient_task *t, float *panels, const qkv_input *x, int64_t dim, key_range keys) {
    for (int64_t j = keys.first / QKV_PANEL * QKV_PANEL; j < keys.end; j += QKV_PANEL)
        t->rows.kernels->pack(panels + j * dim, qkv_gradient_input_row(t, x, dim, t->rows.kv_head,
                                                                       t->block * QKV_KEY_BLOCK + j),
                              x->token, (size_t)qkv_min(QKV_PANEL, keys.end - j), (size_t)dim);
}

void qkv_gradient_load_keys(const gradient_task *t) {
    const qkv_attention_desc *d = &t->desc->forward;
    if (t->shape->rows == 0)
        return;
    key_range keys = within_block(visible_to_queries(&t->rows, 0, d->seq_q - 1), t->block);
    pack_keys(t, t->k_panels, &d->k, d->head_dim, keys);
    pack_keys(t, t->v_panels, &d->v, d->head_dim_v, keys);
    if (t->shape->copies_k)
        qkv_gradient_copy_rows(t->k_copy + keys.first * t->ld_k, t->ld_k,
                  qkv_gradient_input_row(t, &d->k, d->head_dim, t->rows.kv_head, t->block * QKV_KEY_BLOCK + keys.first),
                      d->k.token,
                  keys.end - keys.first, d->head_dim);
}

static void open_sums(const gradient_task *t, float *sums, int64_t ld, const qkv_output *grad, int64_t n, bool add) {
    if (!grad->data || n == 0)
        return;
    memset(sums, 0, (size_t)(t->num_keys * ld) * sizeof(float));
    if (add)
        qkv_gradient_copy_rows(sums, ld, qkv_gradient_output_row(t, grad, t->rows.kv_head, t->block * QKV_KEY_BLOCK),
                               grad->token, t->num_keys,
                  n);
}

void qkv_gradient_open_sums(const gradient_task *t) {
    const qkv_attention_backward_desc *d = t->desc;
    open_sums(t, t->grad_k, t->shape->scores.ld_q, &d->grad_k, d->forward.head_dim, d->flags & QKV_ACCUMULATE_K);
    open_sums(t, t->grad_v, t->shape->scores.ld_o, &d->grad_v, d->forward.head_dim_v, d->flags & QKV_ACCUMULATE_V);
}

static void close_sums(const gradient_task *t, const float *sums, int64_t ld, const qkv_output *grad, int64_t n) {
    if (!grad->data || n == 0)
        return;
    for (int64_t j = 0; j < t->num_keys; j++)
        qkv_scale_row(t->rows.kernels,
                      qkv_gradient_output_row(t, grad, t->rows.kv_head, t->block * QKV_KEY_BLOCK + j), sums +
                               j * ld, 1.0f,
                               (size_t)n);
}

void qkv_gradient_close_sums(const gradient_task *t) {
    close_sums(t, t->grad_k, t->shape->scores.ld_q, &t->desc->grad_k, t->desc->forward.head_dim);
    close_sums(t, t->grad_v, t->shape->scores.ld_o, &t->desc->grad_v, t->desc->forward.head_dim_v);
}

/* ------------------------------------------------------------------------------------------------------- rows */

/* Rows without padding are one long row. */
static void scale_queries(const gradient_task *t, int64_t n) {
    int64_t ld = t->shape->scores.ld_q, dim = t->desc->forward.head_dim;
    bool whole = dim == ld && t->ld_q == ld;
    for (int64_t i = 0; i < (whole ? 1 : n); i++)
        qkv_scale_row(t->rows.kernels, t->rows.q + i * ld, t->q + i * t->ld_q, t->shape->scores.q_scale,
                               (size_t)(whole ? n * dim : dim));
}

void qkv_gradient_open_rows(gradient_task *t, int64_t head, int64_t first, int64_t n) {
    const qkv_attention_desc *d = &t->desc->forward;
    const gradient_shape *shape = t->shape;
    int64_t at = (t->rows.b * d->num_heads + head) * d->seq_q + first;
    t->head = head;
    t->first_query = first;
    t->num_rows = n;
    t->lse = t->row_lse + at;
    t->delta = t->row_delta + at;
    t->clean = t->row_clean + at;
    t->q = qkv_gradient_input_row(t, &d->q, d->head_dim, head, first);
    t->ld_q = d->q.token;
    t->grad_out = qkv_gradient_input_row(t, &t->desc->grad_out, d->head_dim_v, head, first);
    t->ld_grad_out = t->desc->grad_out.token;
    for (int64_t i = 0; i < n; i++) {
        t->rows.query[i] = first + i;
        t->rows.head[i] = head;
        t->scaled_delta[i] = t->delta[i] * shape->scale;
    }
    if (shape->copies_q) {
        qkv_gradient_copy_rows(t->q_copy, shape->scores.ld_q, t->q, t->ld_q, n, d->head_dim);
        t->q = t->q_copy;
        t->ld_q = shape->scores.ld_q;
    }
    scale_queries(t, n);
    if (shape->copies_out) {
        qkv_gradient_copy_rows(t->out_copy, shape->scores.ld_o, t->grad_out, t->ld_grad_out, n, d->head_dim_v);
        t->grad_out = t->out_copy;
        t->ld_grad_out = shape->scores.ld_o;
    }
}
