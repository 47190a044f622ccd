/* Attention backward, its products in bfloat16: S = Q·Kᵀ and dP = dO·Vᵀ by pairs of channels, dQ = dS·K by pairs of
 * keys, dV = Pᵀ·dO and dK = dSᵀ·Q by pairs of queries.
 *
 * The last two read panels of 64 keys, or channels, whose rows are pairs of queries: one of P and one of dO lie alike,
 * and nothing is transposed. P and dS of a tile are floats until they are operands, since dQ may find that a row has to
 * be repaired.
 *
 * What a pair must not see is hidden from it by a zero in its place, as 0·0 leaves a chain as it is.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

#if QKV_WITH(BACKWARD) && QKV_WITH(BF16)

/* --------------------------------------------------------------------------------------------------------- pairs */

/* Stored rows that lie in pairs, too: in panels of 64 channels. */
typedef struct paired_rows {
    const void *from; /* row 0 */
    int64_t stride;   /* bytes */
    int32_t type;
    int64_t channels;
    float *pairs;
    int64_t size; /* floats of a panel */
} paired_rows;

static paired_rows pairs_of(const gradient_task *t, const qkv_input *x, int32_t type, int64_t channels, int64_t head,
                            int64_t token, float *pairs, int64_t rows) {
    const qkv_kernels *kernels = t->rows.kernels;
    return (paired_rows){qkv_gradient_input_row(t, x, type, channels, head, token),
                         qkv_stored_bytes(type, x->token),
                         type,
                         channels,
                         pairs,
                         qkv_gradient_panel(kernels, &t->desc->forward, rows)};
}

static paired_rows pairs_of_keys(const gradient_task *t, float *pairs) {
    const qkv_attention_desc *d = &t->desc->forward;
    return pairs_of(t, &d->k, d->k_type, d->head_dim, t->rows.kv_head, t->block * QKV_KEY_BLOCK, pairs,
                    qkv_min(QKV_KEY_BLOCK, d->seq_k));
}

/* Rows of a panel whose pairs are of queries. */
static int64_t paired_queries(const gradient_task *t) {
    return qkv_min(GRADIENT_ROWS, t->desc->forward.seq_q);
}

static paired_rows pairs_of_queries(const gradient_task *t) {
    const qkv_attention_desc *d = &t->desc->forward;
    return pairs_of(t, &d->q, d->q_type, d->head_dim, t->head, t->first_query, t->q_pairs, paired_queries(t));
}

static paired_rows pairs_of_outputs(const gradient_task *t) {
    const qkv_attention_desc *d = &t->desc->forward;
    return pairs_of(t, &t->desc->grad_out, d->out_type, d->head_dim_v, t->head, t->first_query, t->out_pairs,
                    paired_queries(t));
}

static void pair_rows(const gradient_task *t, const paired_rows *x, int64_t first, int64_t n) {
    qkv_bf16_pair_rows(t->rows.kernels, x->pairs, x->size * (int64_t)sizeof(float),
                       (const unsigned char *)x->from + first * x->stride, x->stride, x->type, x->channels, first, n);
}

/* A pair of rows anew, from an even one on, with zeros in place of those that are not shown. */
static void show_rows(const gradient_task *t, const paired_rows *x, int64_t row, const bool shown[2]) {
    if (shown[0] || shown[1]) {
        pair_rows(t, x, shown[0] ? row : row + 1, shown[0] + shown[1]);
        return;
    }
    int64_t pair = qkv_gradient_panel(t->rows.kernels, &t->desc->forward, 2);
    for (int64_t c = 0; c < x->channels; c += QKV_PANEL)
        memset(x->pairs + c / QKV_PANEL * x->size + row / 2 * pair, 0, (size_t)pair * sizeof(float));
}

void qkv_gradient_bf16_pair_keys(const gradient_task *t, key_range keys, const bool *hidden) {
    const paired_rows x = pairs_of_keys(t, t->k_pairs);
    if (!t->desc->grad_q.data)
        return;
    pair_rows(t, &x, keys.first, keys.end - keys.first);
    for (int64_t j = keys.first / 2 * 2; j < keys.end; j += 2) {
        const bool there[2] = {j >= keys.first, j + 1 < keys.end};
        const bool shown[2] = {there[0] && !hidden[j], there[1] && !hidden[j + 1]};
        if (shown[0] != there[0] || shown[1] != there[1])
            show_rows(t, &x, j, shown);
    }
}

void qkv_gradient_bf16_open_rows(gradient_task *t) {
    const qkv_kernels *kernels = t->rows.kernels;
    const qkv_attention_desc *d = &t->desc->forward;
    int64_t ld_q = t->shape->scores.ld_q, ld_o = t->shape->scores.ld_o, n = t->num_rows;
    kernels->rows_bf16(t->rows.q, ld_q, 0, t->rows.q, ld_q, (size_t)n, (size_t)d->head_dim);
    if (qkv_gradient_wants_scores(t->desc))
        kernels->rows_bf16(t->out_rows, ld_o, 0, t->grad_out, t->ld_grad_out, (size_t)n, (size_t)d->head_dim_v);
    t->grad_out = t->out_rows;
    t->ld_grad_out = ld_o;
    const paired_rows q = pairs_of_queries(t), out = pairs_of_outputs(t);
    if (t->desc->grad_k.data)
        pair_rows(t, &q, 0, n);
    if (t->desc->grad_v.data)
        pair_rows(t, &out, 0, n);
}

/* ------------------------------------------------------------------------------------------------------------ dQ */

/* Of n rows of operands from row `from` on. Keys beside them are hidden. */
static void multiply_keys(const gradient_task *t, int64_t from, int64_t n, const float *pairs, key_range keys) {
    const qkv_kernels *kernels = t->rows.kernels;
    const qkv_attention_desc *d = &t->desc->forward;
    const paired_rows k = pairs_of_keys(t, NULL);
    int64_t ld_q = t->shape->scores.ld_q;
    keys = whole_pairs(keys);
    for (int64_t c = 0; c < d->head_dim; c += QKV_PANEL)
        kernels->gemm_bf16(t->dq + from * ld_q + c, ld_q, t->ds_rows, LD_SCORES,
                           (size_t)(from * LD_SCORES + keys.first),
                           pairs + c / QKV_PANEL * k.size + qkv_gradient_panel(kernels, d, keys.first), (size_t)n,
                           (size_t)qkv_min(QKV_PANEL, d->head_dim - c), (size_t)(keys.end - keys.first), 0, NULL);
}

static void round_scores(const gradient_task *t, int64_t row, int64_t from, int64_t n, key_range columns) {
    const float *ds = qkv_gradient_scores(t, t->ds, row + from);
    t->rows.kernels->rows_bf16(t->ds_rows, LD_SCORES, (size_t)(from * LD_SCORES + columns.first), ds + columns.first,
                               LD_SCORES, (size_t)n, (size_t)(columns.end - columns.first));
}

void qkv_gradient_bf16_multiply_scores(const gradient_task *t, int64_t row, int64_t n, key_range keys) {
    round_scores(t, row, 0, n, whole_lanes(keys));
    multiply_keys(t, 0, n, t->k_pairs, keys);
}

void qkv_gradient_bf16_multiply_seen(const gradient_task *t, int64_t row, int64_t i, key_range keys) {
    const paired_rows k = pairs_of_keys(t, t->k_seen);
    const qkv_attention_desc *d = &t->desc->forward;
    memcpy(t->k_seen, t->k_pairs, (size_t)(qkv_ceil_div(d->head_dim, QKV_PANEL) * k.size) * sizeof(float));
    for (int64_t j = keys.first / 2 * 2; j < keys.end; j += 2) {
        const bool shown[2] = {!qkv_is_minus_infinity(t->visible[j]), !qkv_is_minus_infinity(t->visible[j + 1])};
        if (!shown[0] || !shown[1])
            show_rows(t, &k, j, shown);
    }
    round_scores(t, row, i, 1, whole_lanes(keys));
    multiply_keys(t, i, 1, t->k_seen, keys);
}

/* ------------------------------------------------------------------------------------------------------- dV and dK */

/* Of a panel of keys, the pair that begins with a row. */
static float *pairs_at(const gradient_task *t, float *pairs, int64_t key, int64_t row) {
    const qkv_kernels *kernels = t->rows.kernels;
    const qkv_attention_desc *d = &t->desc->forward;
    return pairs + key / QKV_PANEL * qkv_gradient_panel(kernels, d, paired_queries(t)) +
           qkv_gradient_panel(kernels, d, row) + key % QKV_PANEL;
}

/* Some columns of a tile become pairs. */
static void keep_columns(const gradient_task *t, float *pairs, const float *from, int64_t row, int64_t n,
                         key_range columns) {
    int64_t first = columns.first, end;
    for (; first < columns.end; first = end) {
        end = qkv_min(columns.end, first / QKV_PANEL * QKV_PANEL + QKV_PANEL);
        t->rows.kernels->values_bf16(pairs_at(t, pairs, first, 0), from + first, LD_SCORES * (int64_t)sizeof(float),
                                     QKV_F32, (size_t)row, (size_t)n, (size_t)(end - first));
    }
}

static void clear_pairs(const gradient_task *t, float *pairs, int64_t row, int64_t n, key_range keys) {
    int64_t lines = qkv_gradient_panel(t->rows.kernels, &t->desc->forward, n) / QKV_PANEL, first = keys.first, end;
    for (; first < keys.end; first = end) {
        end = qkv_min(keys.end, first / QKV_PANEL * QKV_PANEL + QKV_PANEL);
        float *to = pairs_at(t, pairs, first, row);
        for (int64_t i = 0; i < lines; i++)
            memset(to + i * QKV_PANEL, 0, (size_t)(end - first) * sizeof(float));
    }
}

static void keep(const gradient_task *t, float *pairs, const float *from, int64_t row, int64_t n, key_range block,
                 key_range keys) {
    if (keys.first < keys.end)
        keep_columns(t, pairs, from, row, n, whole_lanes(keys));
    clear_pairs(t, pairs, row, n, (key_range){block.first, keys.first});
    clear_pairs(t, pairs, row, n, (key_range){keys.end, block.end});
}

void qkv_gradient_bf16_keep_tile(const gradient_task *t, int64_t row, int64_t n, key_range block, key_range keys) {
    if (t->desc->grad_v.data)
        keep(t, t->p_pairs, t->p, row, n, block, keys);
    if (t->desc->grad_k.data)
        keep(t, t->ds_pairs, t->ds, row, n, block, keys);
}

/* Of keys within a panel. */
static void add_products(const gradient_task *t, float *sums, int64_t ld, float *factors, const paired_rows *x,
                         key_range keys, int64_t first, int64_t end) {
    const qkv_kernels *kernels = t->rows.kernels;
    int64_t at = qkv_gradient_panel(kernels, &t->desc->forward, first);
    for (int64_t c = 0; c < x->channels; c += QKV_PANEL)
        kernels->gemm_t_bf16(sums + keys.first * ld + c, ld, pairs_at(t, factors, keys.first, first),
                             x->pairs + c / QKV_PANEL * x->size + at, (size_t)(keys.end - keys.first),
                             (size_t)qkv_min(QKV_PANEL, x->channels - c), (size_t)(end - first), 1);
}

static void add_to_sums(const gradient_task *t, key_range keys, int64_t first, int64_t end) {
    const paired_rows q = pairs_of_queries(t), out = pairs_of_outputs(t);
    if (t->desc->grad_v.data)
        add_products(t, t->grad_v, t->shape->scores.ld_o, t->p_pairs, &out, keys, first, end);
    if (t->desc->grad_k.data)
        add_products(t, t->grad_k, t->shape->scores.ld_q, t->ds_pairs, &q, keys, first, end);
}

void qkv_gradient_bf16_sum_rows(const gradient_task *t, key_range keys, int64_t first, int64_t end) {
    first = first / 2 * 2;
    end = qkv_min(qkv_round_up(end, 2), t->num_rows);
    for (int64_t j = keys.first, next; j < keys.end; j = next) {
        next = qkv_min(keys.end, j / QKV_PANEL * QKV_PANEL + QKV_PANEL);
        add_to_sums(t, (key_range){j, next}, first, end);
    }
}

void qkv_gradient_bf16_sum_seen(const gradient_task *t, int64_t key) {
    const paired_rows q = pairs_of_queries(t), out = pairs_of_outputs(t);
    for (int64_t i = 0; i < t->num_rows; i += 2) {
        const bool two = i + 1 < t->num_rows;
        if (t->clean[i] == 0 && (!two || t->clean[i + 1] == 0))
            continue;
        const float *logits = t->visible + i * LD_SCORES + key;
        const bool shown[2] = {!qkv_is_minus_infinity(logits[0]), two && !qkv_is_minus_infinity(logits[LD_SCORES])};
        if (t->desc->grad_k.data)
            show_rows(t, &q, i, shown);
        if (t->desc->grad_v.data)
            show_rows(t, &out, i, shown);
    }
    add_to_sums(t, (key_range){key, key + 1}, 0, t->num_rows);
}

#endif
