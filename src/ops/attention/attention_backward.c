/* Attention backward: dQ, dK and dV of a block of queries and a block of keys, from
 *
 *   S = Q·Kᵀ    P = exp2(S − lse)    dP = dO·Vᵀ    dS = P∘(dP − δ)    dQ += dS·K    dV += Pᵀ·dO    dK += dSᵀ·Q
 *
 * with δ = Σ dO·O a row. A tile of rows takes the first five steps while its P and dS stay in the L1 cache; when 64
 * rows are done, the sums over them follow. These read P and dS by columns, the six factors of a step side by side, so
 * that nothing is transposed; only K and V are packed, once for all queries. In bfloat16 the products are those of
 * attention_backward_bf16.c, and so are repairs.
 *
 * Pairs that do not see each other have P = dS = +0, and the products multiply by it, which is harmless unless what
 * they multiply is infinite or NaN. For dQ (K and V at keys that are not visible) that shows as a NaN in the row, which
 * is then done again by a loop that skips; for dK and dV (Q and dO of rows that don't see the key) rows that are not
 * finite are known from the start.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"
#include "dropout.h"

#if QKV_WITH(BACKWARD)

static bool in_bf16(const gradient_task *t) {
    return qkv_in_bf16(&t->desc->forward);
}

/* S or dP of a tile: rows of q or dO by panels of K or V, each as products take it. */
static void multiply_panels(const gradient_task *t, float *to, const float *rows, int64_t ld, int64_t row, int64_t n,
                            const float *panels, int64_t dim, key_range columns) {
    if (in_bf16(t))
        qkv_bf16_multiply(t->rows.kernels, to, rows, ld, row, n, panels, dim, columns, NULL);
    else
        qkv_multiply_panels(t->rows.kernels, to, rows + row * ld, ld, n, panels, dim, columns, NULL);
}

/* Logits of a tile into `to`; tanh(S) is kept in cap_tanh where there is a softcap. */
static key_range score_tile(gradient_task *t, float *to, int64_t row, int64_t n, const row_view *views,
                            key_range keys) {
    const qkv_kernels *kernels = t->rows.kernels;
    key_range columns = whole_lanes(keys);
    size_t width = (size_t)(columns.end - columns.first);
    t->rows.scores = to;
    multiply_panels(t, to, t->rows.q, t->shape->scores.ld_q, row, n, t->k_panels, t->desc->forward.head_dim, columns);
    if (t->shape->scores.cap != 0) {
        for (int64_t i = 0; i < n; i++) {
            float *scores = to + i * LD_SCORES + columns.first, *kept = t->cap_tanh + i * LD_SCORES + columns.first;
            kernels->tanh(scores, width);
            memcpy(kept, scores, width * sizeof(float));
            qkv_scale_row(kernels, scores, kept, t->shape->scores.cap, width);
        }
    }
    qkv_finish_views(&t->rows, row, n, t->block, views, keys, columns, 0);
    return columns;
}

/* Whether gradients of scores are wanted, or those of probabilities end at dV. */
static bool wants_scores(const gradient_task *t) {
    return t->desc->grad_q.data || t->desc->grad_k.data || t->sums_bias;
}

/* What each probability of a tile is multiplied by: 0 or 1/(1 − rate). */
static void draw_factors(const gradient_task *t, int64_t row, int64_t n, key_range columns) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = columns.first; j < columns.end; j++)
            t->factors[i * LD_SCORES + j] = 1;
    }
    qkv_drop_tile(&t->rows, t->factors, row, n, t->block, columns);
}

static void multiply_factors(const gradient_task *t, float *x, int64_t n, key_range columns) {
    for (int64_t i = 0; i < n && t->desc->forward.dropout != 0; i++) {
        for (int64_t j = columns.first; j < columns.end; j++)
            x[i * LD_SCORES + j] *= t->factors[i * LD_SCORES + j];
    }
}

/* P, after dropout, dS and, where dbias is wanted, dT of a tile. */
static key_range differentiate_tile(gradient_task *t, int64_t row, int64_t n, const row_view *views, key_range keys) {
    const qkv_kernels *kernels = t->rows.kernels;
    float *p = qkv_gradient_scores(t, t->p, row), *ds = qkv_gradient_scores(t, t->ds, row);
    key_range columns = score_tile(t, p, row, n, views, keys);
    size_t width = (size_t)(columns.end - columns.first);
    kernels->recompute(p + columns.first, LD_SCORES, (size_t)n, width, t->lse + row);
    if (t->desc->forward.dropout != 0)
        draw_factors(t, row, n, columns);
    if (!wants_scores(t)) {
        multiply_factors(t, p, n, columns);
        return columns;
    }
    multiply_panels(t, ds, t->grad_out, t->ld_grad_out, row, n, t->v_panels, t->desc->forward.head_dim_v, columns);
    multiply_factors(t, ds, n, columns);
    if (t->sums_bias) {
        qkv_gradient_copy_rows(t->dt + columns.first, LD_SCORES, ds + columns.first, LD_SCORES, n,
                               columns.end - columns.first);
        kernels->score_grad(t->dt + columns.first, p + columns.first, LD_SCORES, (size_t)n, width, t->delta + row, 1.0f,
                            NULL);
    }
    kernels->score_grad(ds + columns.first, p + columns.first, LD_SCORES, (size_t)n, width, t->scaled_delta + row,
                        t->shape->scale, t->shape->scores.cap != 0 ? t->cap_tanh + columns.first : NULL);
    multiply_factors(t, p, n, columns);
    return columns;
}

static void hide_pair(const gradient_task *t, int64_t at, int64_t in_tile) {
    t->p[at] = 0;
    if (wants_scores(t))
        t->ds[at] = 0;
    if (t->sums_bias)
        t->dt[in_tile] = 0;
}

/* Does again what a NaN at a key that the row does not see may have spoilt: row i of the tile. */
static void repair_row(gradient_task *t, int64_t row, int64_t i, const row_view *views, key_range keys,
                       key_range columns) {
    int64_t ld_q = t->shape->scores.ld_q, at = (row + i - t->first_kept) * LD_SCORES;
    score_tile(t, t->visible, row + i, 1, views + i, keys);
    for (int64_t j = columns.first; j < columns.end; j++) {
        if (qkv_is_minus_infinity(t->visible[j]))
            hide_pair(t, at + j, i * LD_SCORES + j);
    }
    if (t->desc->grad_q.data && in_bf16(t))
        qkv_gradient_bf16_multiply_seen(t, row, i, keys);
    else if (t->desc->grad_q.data)
        t->rows.kernels->sum_visible(t->dq + i * ld_q, t->ds + at + keys.first, t->visible + keys.first,
                                     t->k + keys.first * t->ld_k, t->ld_k, (size_t)(keys.end - keys.first),
                                     (size_t)t->desc->forward.head_dim);
}

/* dQ of a tile, and repairs. A NaN in dS or P shows in dQ too, if there is one. */
static void finish_tile(gradient_task *t, int64_t row, int64_t n, const row_view *views, key_range keys,
                        key_range columns) {
    const qkv_kernels *kernels = t->rows.kernels;
    const float *p = qkv_gradient_scores(t, t->p, row), *ds = qkv_gradient_scores(t, t->ds, row);
    int64_t dim = t->desc->forward.head_dim, ld_q = t->shape->scores.ld_q;
    size_t width = (size_t)(columns.end - columns.first);
    uint32_t spoilt;
    if (t->desc->grad_q.data && dim > 0) {
        if (in_bf16(t))
            qkv_gradient_bf16_multiply_scores(t, row, n, keys);
        else
            kernels->gemm(t->dq, ld_q, ds + keys.first, LD_SCORES, t->k + keys.first * t->ld_k, t->ld_k, QKV_PANEL,
                          (size_t)n, (size_t)dim, (size_t)(keys.end - keys.first), 0, NULL);
        spoilt = kernels->nan_rows(t->dq, ld_q, (size_t)n, (size_t)dim);
    } else {
        spoilt = kernels->nan_rows((wants_scores(t) ? ds : p) + columns.first, LD_SCORES, (size_t)n, width);
    }
    for (int64_t i = 0; spoilt >> i != 0; i++) {
        if (spoilt >> i & 1)
            repair_row(t, row, i, views, keys, columns);
    }
}

static void add_query_gradient(const gradient_task *t, int64_t row, int64_t n) {
    const qkv_output *grad = &t->desc->grad_q;
    if (grad->data && t->desc->forward.head_dim > 0)
        t->rows.kernels->add(qkv_gradient_output_row(t, grad, t->head, t->first_query + row), grad->token, t->dq,
                             t->shape->scores.ld_q, (size_t)n, (size_t)t->desc->forward.head_dim);
}

/* Keys that other rows of the block see, but none of this tile. */
static void clear_columns(const gradient_task *t, int64_t row, int64_t n, key_range block, key_range keys) {
    size_t before = (size_t)(keys.first - block.first) * sizeof(float);
    size_t behind = (size_t)(block.end - keys.end) * sizeof(float);
    for (int64_t at = row * LD_SCORES; before + behind > 0 && n > 0; n--, at += LD_SCORES) {
        memset(t->p + at + block.first, 0, before);
        memset(t->p + at + keys.end, 0, behind);
        if (!wants_scores(t))
            continue;
        memset(t->ds + at + block.first, 0, before);
        memset(t->ds + at + keys.end, 0, behind);
    }
}

/* ------------------------------------------------------------------------------------------------ sums over rows */

/* dV += Pᵀ·dO and dK += dSᵀ·Q for some keys, over rows of which some may not see them but all are finite. */
static void sum_rows(const gradient_task *t, key_range keys, int64_t first, int64_t end) {
    if (in_bf16(t)) {
        qkv_gradient_bf16_sum_rows(t, keys, first, end);
        return;
    }
    const qkv_kernels *kernels = t->rows.kernels;
    const qkv_attention_desc *d = &t->desc->forward;
    int64_t ld_q = t->shape->scores.ld_q, ld_o = t->shape->scores.ld_o, at = first * LD_SCORES + keys.first;
    size_t n = (size_t)(keys.end - keys.first), rows = (size_t)(end - first);
    if (t->desc->grad_v.data)
        kernels->gemm_t(t->grad_v + keys.first * ld_o, ld_o, t->p + at, LD_SCORES, t->grad_out + first * t->ld_grad_out,
                        t->ld_grad_out, n, (size_t)d->head_dim_v, rows, 1);
    if (t->desc->grad_k.data)
        kernels->gemm_t(t->grad_k + keys.first * ld_q, ld_q, t->ds + at, LD_SCORES, t->q + first * t->ld_q, t->ld_q, n,
                        (size_t)d->head_dim, rows, 1);
}

/* Makes ranges' bounds ascend, so that they can be walked along: the first row that sees something beyond a key, and
 * the last that sees something before one, stay the same. */
static void sort_bounds(key_range seen[], int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (seen[i].first == seen[i].end)
            seen[i].first = QKV_KEY_BLOCK;
        if (i > 0)
            seen[i].end = qkv_max(seen[i].end, seen[i - 1].end);
    }
    for (int64_t i = n - 2; i >= 0; i--)
        seen[i].first = qkv_min(seen[i].first, seen[i + 1].first);
}

/* Keys that the same rows see are summed together. Where that changes from key to key, a tile of keys is. */
static void sum_visible_rows(gradient_task *t, key_range keys) {
    const key_range *seen = t->seen;
    sort_bounds(t->seen, t->num_rows);
    int64_t step = t->rows.kernels->tile_rows, first = 0, end = 0;
    key_range open = {keys.first, keys.first};
    int64_t open_first = 0, open_end = 0;
    for (int64_t j = keys.first; j < keys.end; j += step) {
        int64_t last = qkv_min(j + step, keys.end);
        while (first < t->num_rows && seen[first].end <= j)
            first++;
        while (end < t->num_rows && seen[end].first < last)
            end++;
        if (first != open_first || end != open_end) {
            if (open.first < open.end && open_first < open_end)
                sum_rows(t, open, open_first, open_end);
            open.first = j;
            open_first = first;
            open_end = end;
        }
        open.end = last;
    }
    if (open_first < open_end)
        sum_rows(t, open, open_first, open_end);
}

/* One chain over the rows that see key j. */
static void sum_one_key(gradient_task *t, float *sum, int64_t dim, const float *factors, const float *rows, int64_t ld,
                        int64_t j) {
    float *factor = t->column, *logit = t->column + GRADIENT_ROWS;
    for (int64_t i = 0; i < t->num_rows; i++) {
        factor[i] = factors[i * LD_SCORES + j];
        logit[i] = t->visible[i * LD_SCORES + j];
    }
    t->rows.kernels->sum_visible(t->row_sum, factor, logit, rows, ld, (size_t)t->num_rows, (size_t)dim);
    t->rows.kernels->add(sum, 0, t->row_sum, 0, 1, (size_t)dim);
}

/* What sum_visible_rows does, where a row is not finite: skips pairs that don't see each other. */
static void sum_rows_exactly(gradient_task *t, key_range keys) {
    int64_t tile = t->rows.kernels->tile_rows, ld_q = t->shape->scores.ld_q, ld_o = t->shape->scores.ld_o;
    for (int64_t i = 0; i < t->num_rows * LD_SCORES; i++)
        t->visible[i] = QKV_MINUS_INFINITY;
    for (int64_t row = 0; row < t->num_rows; row += tile) {
        int64_t n = qkv_min(tile, t->num_rows - row);
        row_view views[QKV_MAX_ROWS];
        key_range seen = qkv_view_rows(&t->rows, row, n, t->block, views);
        if (seen.first < seen.end)
            score_tile(t, t->visible + row * LD_SCORES, row, n, views, seen);
    }
    for (int64_t j = keys.first; j < keys.end; j++) {
        if (in_bf16(t)) {
            qkv_gradient_bf16_sum_seen(t, j);
            continue;
        }
        if (t->desc->grad_v.data)
            sum_one_key(t, t->grad_v + j * ld_o, t->desc->forward.head_dim_v, t->p, t->grad_out, t->ld_grad_out, j);
        if (t->desc->grad_k.data)
            sum_one_key(t, t->grad_k + j * ld_q, t->desc->forward.head_dim, t->ds, t->q, t->ld_q, j);
    }
}

static bool rows_are_finite(const gradient_task *t) {
    bool finite = true;
    for (int64_t i = 0; i < t->num_rows; i++)
        finite = finite && t->clean[i] == 0;
    return finite;
}

/* -------------------------------------------------------------------------------------------------------- bias */

void qkv_gradient_open_bias(const qkv_attention_backward_desc *desc, int64_t b, int64_t head, key_range queries,
                            key_range keys) {
    const qkv_matrix_output *x = &desc->grad_bias;
    float *to = (float *)x->data + b * x->batch + head * x->head;
    if (x->query == 0)
        queries.end = queries.first == 0;
    if (x->key == 0)
        keys.end = keys.first == 0;
    for (int64_t i = queries.first; i < queries.end; i++) {
        for (int64_t j = keys.first; j < keys.end; j++) {
            float *element = to + i * x->query + j * x->key;
            *element = desc->flags & QKV_ACCUMULATE_BIAS ? *element + 0.0f : 0.0f;
        }
    }
}

static void add_bias_gradient(const gradient_task *t, int64_t row, int64_t n, key_range keys) {
    const qkv_matrix_output *x = &t->desc->grad_bias;
    for (int64_t i = 0; i < n; i++) {
        int64_t query = t->first_query + row + i, key = t->block * QKV_KEY_BLOCK;
        float *to = (float *)x->data + t->rows.b * x->batch + t->head * x->head + query * x->query + key * x->key;
        const float *from = t->dt + i * LD_SCORES;
        if (x->key == 1) {
            t->rows.kernels->add(to + keys.first, 0, from + keys.first, 0, 1, (size_t)(keys.end - keys.first));
            continue;
        }
        for (int64_t j = keys.first; j < keys.end; j++)
            to[j * x->key] += from[j];
    }
}

/* --------------------------------------------------------------------------------------------- a block of rows */

/* Names rows, and finds what each sees of the block of keys. Returns what they see between them: if anything, the rows
 * are made ready. */
static key_range open_rows(gradient_task *t, int64_t head, int64_t first, int64_t n) {
    key_range block = within_block(visible_to_queries(&t->rows, first, first + n - 1), t->block);
    if (block.first == block.end)
        return block;
    qkv_gradient_name_rows(t, head, first, n);
    t->masked = 0;
    if (!t->desc->forward.keep.data) {
        for (int64_t i = 0; i < n; i++)
            t->seen[i] = within_block(visible_keys(&t->rows, first + i), t->block);
    } else {
        block = (key_range){QKV_KEY_BLOCK, 0};
        for (int64_t row = 0, height; row < n; row += height) {
            row_view views[QKV_MAX_ROWS];
            height = qkv_min(t->rows.kernels->tile_rows, n - row);
            key_range keys = qkv_view_rows(&t->rows, row, height, t->block, views);
            for (int64_t i = 0; i < height; i++) {
                t->seen[row + i] = views[i].keys;
                t->masked |= (uint64_t)(views[i].keep != NULL) << (row + i);
            }
            if (keys.first < keys.end)
                block = (key_range){qkv_min(block.first, keys.first), qkv_max(block.end, keys.end)};
        }
    }
    if (block.first >= block.end)
        return (key_range){0, 0};
    qkv_gradient_open_rows(t);
    return block;
}

/* What some of the views see between them. */
static key_range seen_by(const row_view *views, int64_t n) {
    key_range keys = {QKV_KEY_BLOCK, 0};
    for (int64_t i = 0; i < n; i++) {
        if (views[i].keys.first < views[i].keys.end)
            keys = (key_range){qkv_min(keys.first, views[i].keys.first), qkv_max(keys.end, views[i].keys.end)};
    }
    return keys.first < keys.end ? keys : (key_range){0, 0};
}

/* The views of a tile. A mask is read again only where it is needed. */
static void view_tile(const gradient_task *t, int64_t row, int64_t n, row_view *views) {
    if (t->masked >> row & ((UINT64_C(1) << n) - 1)) {
        qkv_view_rows(&t->rows, row, n, t->block, views);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        views[i] = (row_view){t->seen[row + i], NULL};
}

/* Rows to take through the products at once: a tile where its rows see the same keys, else half of one, which is what
 * products keep in registers. */
static int64_t step_rows(const gradient_task *t, const row_view *views, int64_t n) {
    int64_t tile = t->rows.kernels->tile_rows;
    bool same = n == tile;
    for (int64_t i = 1; i < n; i++)
        same = same && views[i].keys.first == views[0].keys.first && views[i].keys.end == views[0].keys.end;
    return same ? tile : tile / 2;
}

static void fetch_rows(const void *data, int64_t stride, int64_t n, int64_t bytes) {
    enum { LINE = 64 };
    for (int64_t i = 0; i < n; i++) {
        for (int64_t x = 0; x < bytes; x += LINE)
            __builtin_prefetch((const char *)data + i * stride + x, 0, 2);
    }
}

/* The rows that the next block will begin with come from beyond the L2 cache: asks for them a block ahead. */
static void fetch_ahead(const gradient_task *t, int64_t row, int64_t n) {
    const qkv_attention_backward_desc *desc = t->desc;
    const qkv_attention_desc *d = &desc->forward;
    int64_t first = t->first_query + GRADIENT_ROWS + row, dim = d->head_dim, dim_v = d->head_dim_v;
    n = qkv_min(n, d->seq_q - first);
    if (n <= 0)
        return;
    fetch_rows(qkv_gradient_input_row(t, &d->q, d->q_type, dim, t->head, first),
               qkv_stored_bytes(d->q_type, d->q.token), n, qkv_stored_bytes(d->q_type, dim));
    fetch_rows(qkv_gradient_input_row(t, &desc->grad_out, d->out_type, dim_v, t->head, first),
               qkv_stored_bytes(d->out_type, desc->grad_out.token), n, qkv_stored_bytes(d->out_type, dim_v));
    if (desc->grad_q.data)
        fetch_rows(qkv_gradient_output_row(t, &desc->grad_q, t->head, first),
                   qkv_stored_bytes(QKV_F32, desc->grad_q.token), n, qkv_stored_bytes(QKV_F32, dim));
}

static void sweep_tile(gradient_task *t, int64_t row, int64_t n, const row_view *views, key_range block) {
    key_range keys = seen_by(views, n);
    fetch_ahead(t, row, n);
    t->first_kept = in_bf16(t) ? row : 0;
    if (keys.first == keys.end) {
        keys = (key_range){block.first, block.first};
    } else {
        key_range columns = differentiate_tile(t, row, n, views, keys);
        finish_tile(t, row, n, views, keys, columns);
        add_query_gradient(t, row, n);
        if (t->sums_bias)
            add_bias_gradient(t, row, n, keys);
    }
    if (in_bf16(t))
        qkv_gradient_bf16_keep_tile(t, row, n, block, keys);
    else
        clear_columns(t, row, n, block, keys);
}

void qkv_gradient_rows(gradient_task *t, int64_t head, int64_t first, int64_t n) {
    key_range block = open_rows(t, head, first, n);
    int64_t tile = t->rows.kernels->tile_rows;
    if (block.first == block.end)
        return;
    for (int64_t row = 0; row < n; row += tile) {
        row_view views[QKV_MAX_ROWS];
        int64_t height = qkv_min(tile, n - row);
        view_tile(t, row, height, views);
        int64_t step = step_rows(t, views, height);
        for (int64_t i = 0; i < height; i += step)
            sweep_tile(t, row + i, qkv_min(step, height - i), views + i, block);
    }
    if (rows_are_finite(t))
        sum_visible_rows(t, block);
    else
        sum_rows_exactly(t, block);
}

void qkv_gradient_bias_rows(gradient_task *t, int64_t head, int64_t first, int64_t n) {
    key_range block = open_rows(t, head, first, n);
    if (block.first == block.end)
        return;
    int64_t tile = t->rows.kernels->tile_rows;
    for (int64_t row = 0; row < n; row += tile) {
        row_view views[QKV_MAX_ROWS];
        int64_t height = qkv_min(tile, n - row);
        view_tile(t, row, height, views);
        key_range keys = seen_by(views, height);
        if (keys.first == keys.end)
            continue;
        t->first_kept = in_bf16(t) ? row : 0;
        key_range columns = differentiate_tile(t, row, height, views, keys);
        uint32_t spoilt = t->rows.kernels->nan_rows(t->dt + columns.first, LD_SCORES, (size_t)height,
                                                    (size_t)(columns.end - columns.first));
        for (int64_t i = 0; spoilt >> i != 0; i++) {
            if (spoilt >> i & 1)
                repair_row(t, row, i, views, keys, columns);
        }
        add_bias_gradient(t, row, height, keys);
    }
}

#endif
