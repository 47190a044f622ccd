/* A task of the attention's gradients: its scratch, its block of keys with the sums over queries, and its block of
 * queries.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

#if QKV_WITH(BACKWARD)

/* ---------------------------------------------------------------------------------------------------- scratch */

typedef struct scratch_part {
    float **at;
    int64_t floats;
} scratch_part;

static int64_t lay_out_parts(const scratch_part *parts, size_t n, float *base) {
    int64_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (base)
            *parts[i].at = base + used;
        used += qkv_round_up(parts[i].floats, QKV_LANES);
    }
    return used * (int64_t)sizeof(float);
}

/* Floats of rows in pairs, in panels of 64 channels. */
static int64_t pairs_floats(const qkv_kernels *kernels, const qkv_attention_desc *d, int64_t rows, int64_t channels) {
    return qkv_in_bf16(d) ? qkv_ceil_div(channels, QKV_PANEL) * qkv_gradient_panel(kernels, d, rows) : 0;
}

static int64_t lay_out_slot(gradient_task *t, const qkv_kernels *kernels, const gradient_shape *shape,
                            const qkv_attention_backward_desc *desc, float *base) {
    const qkv_attention_desc *d = &desc->forward;
    int64_t keys = qkv_min(QKV_KEY_BLOCK, d->seq_k), panels = qkv_ceil_div(keys, QKV_PANEL);
    int64_t of_k = qkv_gradient_panel(kernels, d, d->head_dim), of_v = qkv_gradient_panel(kernels, d, d->head_dim_v);
    const scratch_part parts[] = {
        {&t->k_panels, panels * of_k},
        {&t->v_panels, qkv_gradient_wants_scores(desc) ? panels * of_v : 0},
        {&t->k_pairs, desc->grad_q.data ? pairs_floats(kernels, d, keys, d->head_dim) : 0},
        {&t->k_copy, shape->copies_k ? keys * shape->scores.ld_q : 0},
        {&t->grad_k, desc->grad_k.data ? keys * shape->scores.ld_q : 0},
        {&t->grad_v, desc->grad_v.data ? keys * shape->scores.ld_o : 0},
    };
    return lay_out_parts(parts, sizeof parts / sizeof parts[0], base);
}

static int64_t lay_out_worker(gradient_task *t, const qkv_kernels *kernels, const gradient_shape *shape,
                              const qkv_attention_backward_desc *desc, float *base) {
    const qkv_attention_desc *d = &desc->forward;
    int64_t rows = qkv_min(GRADIENT_ROWS, d->seq_q), tile = qkv_min(kernels->tile_rows, rows);
    int64_t keys = qkv_min(QKV_KEY_BLOCK, d->seq_k), ld_q = shape->scores.ld_q, ld_o = shape->scores.ld_o;
    int64_t kept = qkv_in_bf16(d) ? tile : rows, terms = qkv_in_bf16(d) ? kernels->bf16_bytes : 0;
    bool scores = qkv_gradient_wants_scores(desc);
    float *query = NULL, *head = NULL, *keep = NULL;
    const scratch_part parts[] = {
        {&t->p, kept * LD_SCORES},
        {&t->ds, scores ? kept * LD_SCORES : 0},
        {&t->visible, rows * LD_SCORES},
        {&t->cap_tanh, shape->scores.cap != 0 ? tile * LD_SCORES : 0},
        {&t->dt, desc->grad_bias.data ? tile * LD_SCORES : 0},
        {&t->factors, d->dropout != 0 ? tile * LD_SCORES : 0},
        {&t->dq, tile * ld_q},
        {&t->scaled_delta, rows},
        {&t->column, 2 * GRADIENT_ROWS},
        {&t->rows.q, rows * ld_q},
        {&t->q_copy, shape->copies_q ? rows * ld_q : 0},
        {&t->out_copy, shape->copies_out || qkv_in_bf16(d) ? rows * ld_o : 0},
        {&t->row_sum, qkv_max(ld_q, ld_o)},
        {&t->wide, qkv_attention_is_stored(d) ? GRADIENT_ROWS * qkv_max(ld_q, ld_o) : 0},
        {&t->rows.distance, DISTANCES},
        {&t->rows.bias, shape->scores.bias_rows * QKV_KEY_BLOCK},
        {&keep, shape->scores.keep_rows * QKV_KEY_BLOCK / (int64_t)sizeof(float)},
        {&query, rows * (int64_t)(sizeof(int64_t) / sizeof(float))},
        {&head, rows * (int64_t)(sizeof(int64_t) / sizeof(float))},
        {&t->k_seen, desc->grad_q.data ? pairs_floats(kernels, d, keys, d->head_dim) : 0},
        {&t->ds_rows, desc->grad_q.data ? tile * LD_SCORES * terms / (int64_t)sizeof(float) : 0},
        {&t->out_rows, scores ? rows * ld_o * terms / (int64_t)sizeof(float) : 0},
        {&t->q_pairs, desc->grad_k.data ? pairs_floats(kernels, d, rows, d->head_dim) : 0},
        {&t->out_pairs, desc->grad_v.data ? pairs_floats(kernels, d, rows, d->head_dim_v) : 0},
        {&t->p_pairs, desc->grad_v.data ? pairs_floats(kernels, d, rows, keys) : 0},
        {&t->ds_pairs, desc->grad_k.data ? pairs_floats(kernels, d, rows, keys) : 0},
    };
    int64_t size = lay_out_parts(parts, sizeof parts / sizeof parts[0], base);
    t->rows.keep = (uint8_t *)keep;
    t->rows.query = (int64_t *)(void *)query;
    t->rows.head = (int64_t *)(void *)head;
    return size;
}

void qkv_gradient_scratch(const qkv_kernels *kernels, gradient_shape *shape, const qkv_attention_backward_desc *desc) {
    gradient_task unused;
    shape->slot_size = lay_out_slot(&unused, kernels, shape, desc, NULL);
    shape->worker_size = lay_out_worker(&unused, kernels, shape, desc, NULL);
}

/* Statistics, slots, schedules, workers. */
static unsigned char *schedules(const gradient_shape *shape, void *workspace) {
    return (unsigned char *)workspace + shape->statistics_size + shape->slots * shape->slot_size;
}

gradient_schedule *qkv_gradient_schedule_of(const gradient_shape *shape, void *workspace, int64_t lane) {
    return (gradient_schedule *)(void *)(schedules(shape, workspace) + lane * SCHEDULE_SIZE);
}

void qkv_gradient_begin(gradient_task *t, const qkv_kernels *kernels, const gradient_shape *shape,
                        const qkv_attention_backward_desc *desc, void *workspace, int64_t slot, int32_t worker) {
    const float *statistics = workspace;
    unsigned char *slots = (unsigned char *)workspace + shape->statistics_size;
    unsigned char *workers = schedules(shape, workspace) + shape->lanes * SCHEDULE_SIZE;
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
    lay_out_slot(t, kernels, shape, desc, (float *)(void *)(slots + slot * shape->slot_size));
    lay_out_worker(t, kernels, shape, desc, (float *)(void *)(workers + worker * shape->worker_size));
}

/* ------------------------------------------------------------------------------------------------------- keys */

void qkv_gradient_choose_head(gradient_task *t, int64_t kv_head) {
    const qkv_attention_desc *d = &t->desc->forward;
    qkv_choose_sequence(&t->rows, d, kv_head / d->num_kv_heads);
    t->rows.kv_head = kv_head % d->num_kv_heads;
}

float *qkv_gradient_output_row(const gradient_task *t, const qkv_output *x, int64_t head, int64_t token) {
    return (float *)x->data + t->rows.b * x->batch + head * x->head + token * x->token;
}

/* Tensors without channels, or keys without queries, may be NULL; nothing is read of them. */
const void *qkv_gradient_input_row(const gradient_task *t, const qkv_input *x, int32_t type, int64_t dim, int64_t head,
                                   int64_t token) {
    return dim == 0 || !x->data ? t->row_sum : qkv_stored_row(x, type, t->rows.b, head, token);
}

/* Copies rows of any type as floats. */
static void as_floats(const gradient_task *t, float *to, int64_t ld, const qkv_input *x, int32_t type, int64_t dim,
                      int64_t head, int64_t token, int64_t n) {
    if (dim > 0)
        t->rows.kernels->widen(to, ld, qkv_gradient_input_row(t, x, type, dim, head, token),
                               qkv_stored_bytes(type, x->token), type, (size_t)n, (size_t)dim);
}

const float *qkv_gradient_float_rows(const gradient_task *t, const qkv_input *x, int32_t type, int64_t dim,
                                     int64_t head, int64_t token, int64_t n, float *room, int64_t *ld) {
    *ld = dim > 0 ? x->token : 0;
    if (type == QKV_F32)
        return qkv_gradient_input_row(t, x, type, dim, head, token);
    *ld = qkv_round_up(dim, QKV_LANES);
    as_floats(t, room, *ld, x, type, dim, head, token, n);
    return room;
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
        t->k = qkv_gradient_input_row(t, &d->k, QKV_F32, d->head_dim, t->rows.kv_head, block * QKV_KEY_BLOCK);
        t->ld_k = d->head_dim > 0 ? d->k.token : 0;
    }
}

static void pack_keys(const gradient_task *t, float *panels, const qkv_input *x, int32_t type, int64_t dim,
                      key_range keys) {
    const qkv_kernels *kernels = t->rows.kernels;
    int64_t size = qkv_gradient_panel(kernels, &t->desc->forward, dim), stride = qkv_stored_bytes(type, x->token);
    for (int64_t j = keys.first / QKV_PANEL * QKV_PANEL; j < keys.end && dim > 0; j += QKV_PANEL) {
        const void *from = qkv_gradient_input_row(t, x, type, dim, t->rows.kv_head, t->block * QKV_KEY_BLOCK + j);
        float *panel = panels + j / QKV_PANEL * size;
        size_t rows = (size_t)qkv_min(QKV_PANEL, keys.end - j);
        if (qkv_in_bf16(&t->desc->forward))
            kernels->keys_bf16(panel, from, stride, type, rows, (size_t)dim);
        else if (type == QKV_F32)
            kernels->pack(panel, from, x->token, rows, (size_t)dim);
        else
            kernels->pack_stored(panel, QKV_PANEL, from, stride, type, rows, (size_t)dim);
    }
}

/* Whether a query of the KV head's group sees key j of the block. */
static bool is_seen(const gradient_task *t, int64_t j) {
    const qkv_attention_desc *d = &t->desc->forward;
    const qkv_matrix_input *keep = &d->keep, *bias = &d->bias;
    int64_t key = t->block * QKV_KEY_BLOCK + j, group = t->shape->scores.group;
    bool by_head = (keep->data && keep->head != 0) || (bias->data && bias->head != 0);
    for (int64_t h = t->rows.kv_head * group; h < (t->rows.kv_head + 1) * group; h++) {
        for (int64_t i = 0; i < d->seq_q; i++) {
            key_range seen = visible_keys(&t->rows, i);
            if (key < seen.first || key >= seen.end)
                continue;
            int64_t b = t->rows.b, in_keep = b * keep->batch + h * keep->head + i * keep->query + key * keep->key;
            int64_t in_bias = b * bias->batch + h * bias->head + i * bias->query + key * bias->key;
            if ((!keep->data || ((const uint8_t *)keep->data)[in_keep]) &&
                (!bias->data || !qkv_is_minus_infinity(((const float *)bias->data)[in_bias])))
                return true;
        }
        if (!by_head)
            break;
    }
    return false;
}

/* A column of operands in bfloat16 is made of words, as that of floats is. */
static void clear_key(const gradient_task *t, float *panels, int64_t dim, int64_t j) {
    int64_t size = qkv_gradient_panel(t->rows.kernels, &t->desc->forward, dim);
    float *column = panels + j / QKV_PANEL * size + j % QKV_PANEL;
    for (int64_t c = 0; c < size; c += QKV_PANEL)
        column[c] = 0;
}

/* A NaN or infinity at a key that nobody sees would spoil all rows, each to be repaired: zeros instead. Marks it. */
static void clear_hidden(const gradient_task *t, const qkv_input *x, int32_t type, int64_t dim, key_range keys,
                         float *panels, bool *hidden) {
    float *dots = t->column; /* Σ 0·x */
    if (dim == 0)
        return;
    memset(t->row_sum, 0, (size_t)dim * sizeof(float));
    for (int64_t first = keys.first, n; first < keys.end; first += n) {
        n = qkv_min(GRADIENT_ROWS, keys.end - first);
        int64_t ld;
        const float *rows = qkv_gradient_float_rows(t, x, type, dim, t->rows.kv_head, t->block * QKV_KEY_BLOCK + first,
                                                    n, t->wide, &ld);
        t->rows.kernels->row_dots(dots, rows, ld, t->row_sum, 0, (size_t)n, (size_t)dim);
        for (int64_t i = 0; i < n; i++) {
            if (dots[i] == 0 || is_seen(t, first + i))
                continue;
            clear_key(t, panels, dim, first + i);
            hidden[first + i] = true;
        }
    }
}

/* Rows of K, as dQ = dS·K takes them. */
static void copy_keys(const gradient_task *t, key_range keys, const bool *hidden) {
    const qkv_attention_desc *d = &t->desc->forward;
    if (qkv_in_bf16(d)) {
        qkv_gradient_bf16_pair_keys(t, keys, hidden);
        return;
    }
    if (!t->shape->copies_k)
        return;
    as_floats(t, t->k_copy + keys.first * t->ld_k, t->ld_k, &d->k, d->k_type, d->head_dim, t->rows.kv_head,
              t->block * QKV_KEY_BLOCK + keys.first, keys.end - keys.first);
    for (int64_t j = keys.first; j < keys.end; j++) {
        if (hidden[j])
            memset(t->k_copy + j * t->ld_k, 0, (size_t)d->head_dim * sizeof(float));
    }
}

void qkv_gradient_load_keys(const gradient_task *t) {
    const qkv_attention_desc *d = &t->desc->forward;
    bool hidden[QKV_KEY_BLOCK] = {false};
    if (t->shape->rows == 0)
        return;
    key_range keys = within_block(visible_to_queries(&t->rows, 0, d->seq_q - 1), t->block);
    bool hides = d->keep.data || d->bias.data; /* what windows and kv_len hide at the ends has been left out */
    pack_keys(t, t->k_panels, &d->k, d->k_type, d->head_dim, keys);
    if (hides)
        clear_hidden(t, &d->k, d->k_type, d->head_dim, keys, t->k_panels, hidden);
    copy_keys(t, keys, hidden);
    if (!qkv_gradient_wants_scores(t->desc))
        return;
    pack_keys(t, t->v_panels, &d->v, d->v_type, d->head_dim_v, keys);
    if (hides)
        clear_hidden(t, &d->v, d->v_type, d->head_dim_v, keys, t->v_panels, hidden);
}

static void open_sums(const gradient_task *t, float *sums, int64_t ld, const qkv_output *grad, int64_t n, bool add) {
    if (!grad->data || n == 0)
        return;
    memset(sums, 0, (size_t)(t->num_keys * ld) * sizeof(float));
    if (add)
        qkv_gradient_copy_rows(sums, ld, qkv_gradient_output_row(t, grad, t->rows.kv_head, t->block * QKV_KEY_BLOCK),
                               grad->token, t->num_keys, n);
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
        qkv_scale_row(t->rows.kernels, qkv_gradient_output_row(t, grad, t->rows.kv_head, t->block * QKV_KEY_BLOCK + j),
                      sums + j * ld, 1.0f, (size_t)n);
}

void qkv_gradient_close_sums(const gradient_task *t) {
    close_sums(t, t->grad_k, t->shape->scores.ld_q, &t->desc->grad_k, t->desc->forward.head_dim);
    close_sums(t, t->grad_v, t->shape->scores.ld_o, &t->desc->grad_v, t->desc->forward.head_dim_v);
}

/* ------------------------------------------------------------------------------------------------------- rows */

/* Rows without padding are one long row. */
static void scale_gradient_queries(const gradient_task *t, int64_t n) {
    int64_t ld = t->shape->scores.ld_q, dim = t->desc->forward.head_dim;
    bool whole = dim == ld && t->ld_q == ld;
    for (int64_t i = 0; i < (whole ? 1 : n); i++)
        qkv_scale_row(t->rows.kernels, t->rows.q + i * ld, t->q + i * t->ld_q, t->shape->scores.q_scale,
                      (size_t)(whole ? n * dim : dim));
}

void qkv_gradient_name_rows(gradient_task *t, int64_t head, int64_t first, int64_t n) {
    const qkv_attention_desc *d = &t->desc->forward;
    int64_t at = (t->rows.b * d->num_heads + head) * d->seq_q + first;
    t->head = head;
    t->first_query = first;
    t->num_rows = n;
    t->lse = t->row_lse + at;
    t->delta = t->row_delta + at;
    t->clean = t->row_clean + at;
    if (!t->shape->copies_q) {
        t->q = qkv_gradient_input_row(t, &d->q, QKV_F32, d->head_dim, head, first);
        t->ld_q = d->head_dim > 0 ? d->q.token : 0;
    }
    if (!t->shape->copies_out) {
        t->grad_out = qkv_gradient_input_row(t, &t->desc->grad_out, QKV_F32, d->head_dim_v, head, first);
        t->ld_grad_out = d->head_dim_v > 0 ? t->desc->grad_out.token : 0;
    }
    for (int64_t i = 0; i < n; i++) {
        t->rows.query[i] = first + i;
        t->rows.head[i] = head;
        t->scaled_delta[i] = t->delta[i] * t->shape->scale;
    }
}

void qkv_gradient_open_rows(gradient_task *t) {
    const qkv_attention_desc *d = &t->desc->forward;
    const gradient_shape *shape = t->shape;
    int64_t n = t->num_rows;
    if (shape->copies_q) {
        t->q = t->q_copy;
        t->ld_q = shape->scores.ld_q;
        as_floats(t, t->q_copy, t->ld_q, &d->q, d->q_type, d->head_dim, t->head, t->first_query, n);
    }
    scale_gradient_queries(t, n);
    if (shape->copies_out) {
        t->grad_out = t->out_copy;
        t->ld_grad_out = shape->scores.ld_o;
        as_floats(t, t->out_copy, t->ld_grad_out, &t->desc->grad_out, d->out_type, d->head_dim_v, t->head,
                  t->first_query, n);
    }
    if (qkv_in_bf16(d))
        qkv_gradient_bf16_open_rows(t);
}

#endif
