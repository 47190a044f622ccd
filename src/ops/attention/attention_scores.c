/* Scores: Q·Kᵀ of a tile of rows and a key block, softcap, ALiBi, bias, masks and windows.
 * SPDX-License-Identifier: MIT */
#include "attention_task.h"

/* (float)(j − p) for every key of the range and every row of the tile. The rows' positions ascend, so one array of
 * distances serves them all: row i starts distance_start(…, i) into it. */
static void fill_distances(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys) {
    int64_t last = position_of(t, t->query[row + n - 1]), spread = last - position_of(t, t->query[row]);
    int64_t start = block * QKV_KEY_BLOCK + keys.first - last;
    for (int64_t x = 0; x < keys.end - keys.first + spread; x++)
        t->distance[x] = (float)(start + x);
}

static int64_t distance_start(const attention_task *t, int64_t row, int64_t n, int64_t i) {
    return t->query[row + n - 1] - t->query[row + i];
}

/* The bias of a row for keys of the range: contiguous, gathered with those of all rows, or one element for all. */
static const float *bias_row(const attention_task *t, int64_t row, int64_t i, int64_t block, key_range keys) {
    const qkv_matrix_input *x = &t->desc->bias;
    if (t->shape->bias_rows > 1)
        return t->bias + i * QKV_KEY_BLOCK + keys.first;
    const float *from = (const float *)(const void *)qkv_matrix_row(t, x, row, block, sizeof(float));
    if (x->key == 1)
        return from + keys.first;
    for (int64_t j = keys.first; j < keys.end; j++)
        t->bias[j] = *from;
    return t->bias + keys.first;
}

static void hide(float *scores, int64_t first, int64_t end) {
    for (int64_t j = first; j < end; j++)
        scores[j] = QKV_MINUS_INFINITY;
}

void qkv_multiply_panels(const qkv_kernels *kernels, float *c, const float *a, int64_t lda, int64_t n,
                         const float *panels, int64_t dim, key_range columns, const qkv_soon *soon) {
    for (int64_t j = columns.first; j < columns.end;) { /* a first part up to the next panel, then all of the rest */
        int64_t in_panel = j % QKV_PANEL;
        int64_t width = in_panel == 0 ? columns.end - j : qkv_min(QKV_PANEL - in_panel, columns.end - j);
        const float *panel = panels + (j - in_panel) * dim + in_panel;
        int64_t x = 0;
        do {
            kernels->gemm(c + j, LD_SCORES, a + x, lda, panel + x * QKV_PANEL, QKV_PANEL, QKV_PANEL * dim, (size_t)n,
                          (size_t)width, (size_t)qkv_min(QKV_CHAIN, dim - x), x > 0, x == 0 ? soon : NULL);
            x += QKV_CHAIN;
        } while (x < dim);
        j += width;
    }
}

/* Whether every row sees all of the columns. */
static bool all_seen(const row_view *views, int64_t n, key_range columns) {
    for (int64_t i = 0; i < n; i++) {
        if (views[i].keep || views[i].keys.first != columns.first || views[i].keys.end != columns.end)
            return false;
    }
    return true;
}

void qkv_finish_views(const attention_task *t, int64_t row, int64_t n, int64_t block, const row_view *views,
                      key_range keys, key_range columns, float cap) {
    const qkv_attention_desc *d = t->desc;
    int64_t bias = 0; /* the row whose bias has been gathered */
    bool steps = cap != 0 || qkv_alibi(d) || qkv_bias(d);
    if (!steps && all_seen(views, n, columns))
        return;
    if (qkv_alibi(d))
        fill_distances(t, row, n, block, keys);
    if (qkv_bias(d) && t->shape->bias_rows > 1)
        qkv_gather_rows(t, &d->bias, row, n, block, keys, t->bias, sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        float *scores = t->scores + i * LD_SCORES;
        const row_view *view = views + i;
        key_range seen = view->keys;
        if (d->bias.head != 0 || t->query[row + i] != t->query[row + bias])
            bias = i;
        if (seen.first == seen.end) {
            hide(scores, columns.first, columns.end);
            continue;
        }
        if (QKV_WITH(MASKS) && (steps || view->keep)) {
            qkv_logit_steps s = {.cap = cap};
            if (qkv_alibi(d)) {
                s.slope = qkv_alibi(d)[t->head[row + i]] * QKV_LOG2E;
                s.distance = t->distance + distance_start(t, row, n, i) + (seen.first - keys.first);
            }
            s.bias = qkv_bias(d) ? bias_row(t, row + i, bias, block, seen) : NULL;
            s.keep = view->keep ? view->keep + seen.first : NULL;
            t->kernels->logits(scores + seen.first, (size_t)(seen.end - seen.first), &s);
        }
        hide(scores, columns.first, seen.first);
        hide(scores, seen.end, columns.end);
    }
}

void qkv_finish_scores(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                       key_range columns, float cap) {
    row_view views[QKV_MAX_ROWS];
    qkv_view_rows(t, row, n, block, views);
    qkv_finish_views(t, row, n, block, views, keys, columns, cap);
}

/* The same from keys in rows of floats. */
static void multiply_rows(const attention_task *t, const float *q, int64_t n, const float *k, int64_t ld_k,
                          key_range keys, const qkv_soon *soon) {
    int64_t dim = t->desc->head_dim, x = 0;
    do {
        t->kernels->gemm_nt(t->scores + keys.first, LD_SCORES, q + x, t->shape->ld_q, k + x, ld_k, (size_t)n,
                            (size_t)(keys.end - keys.first), (size_t)qkv_min(QKV_CHAIN, dim - x), x > 0,
                            x == 0 ? soon : NULL);
        x += QKV_CHAIN;
    } while (x < dim);
}

/* And with stored keys: of so many at a time a panel is made that stays in the L1 cache. */
enum { STRIP_KEYS = 32 };
static void multiply_stored(const attention_task *t, const float *q, int64_t n, const void *k, key_range keys,
                            const qkv_soon *soon) {
    const qkv_attention_desc *d = t->desc;
    int64_t dim = d->head_dim, x = 0;
    t->kernels->pack_stored(t->strip, STRIP_KEYS, k, qkv_stored_bytes(qkv_k_type(d), d->k.token), qkv_k_type(d),
                            (size_t)(keys.end - keys.first), (size_t)dim);
    do {
        t->kernels->gemm(t->scores + keys.first, LD_SCORES, q + x, t->shape->ld_q, t->strip + x * STRIP_KEYS,
                         STRIP_KEYS, QKV_PANEL, (size_t)n, (size_t)(keys.end - keys.first),
                         (size_t)qkv_min(QKV_CHAIN, dim - x), x > 0, x == 0 ? soon : NULL);
        x += QKV_CHAIN;
    } while (x < dim);
}

/* With some columns of a panel as it is stored. Its rows are channels, so that lanes run over keys at once. */
static void multiply_stored_panel(const attention_task *t, int64_t row, int64_t n, const void *panel, key_range columns,
                                  float *scores, const qkv_soon *soon) {
    const qkv_attention_desc *d = t->desc;
    const bool in_bf16 = qkv_in_bf16(d);
    const int64_t dim = d->head_dim, stride = qkv_stored_bytes(qkv_k_type(d), QKV_PANEL), ld = t->shape->ld_q;
    const unsigned char *from = (const unsigned char *)panel + qkv_stored_bytes(qkv_k_type(d), columns.first);
    const size_t rows = (size_t)n, width = (size_t)(columns.end - columns.first);
    float *rest = in_bf16 ? t->panel : t->strip;
    int64_t x = 0;
    do { /* a chain after the first by itself, as these products only continue chains */
        float *c = x == 0 ? scores + columns.first : rest;
        const int64_t ldc = x == 0 ? LD_SCORES : QKV_PANEL, a = row * ld + x;
        const size_t terms = (size_t)qkv_min(QKV_CHAIN, dim - x);
        const qkv_soon *now = x == 0 ? soon : NULL;
        if (in_bf16)
            t->kernels->gemm_stored_bf16(c, ldc, t->q, ld, (size_t)a, from + x * stride, stride, qkv_k_type(d), rows,
                                         width, terms, 0, now);
        else
            t->kernels->gemm_stored(c, ldc, t->q + a, ld, from + x * stride, stride, qkv_k_type(d), rows, width, terms,
                                    0, now);
        if (x > 0)
            t->kernels->add(scores + columns.first, LD_SCORES, c, ldc, rows, width);
        x += QKV_CHAIN;
    } while (x < dim);
}

/* Keys of a block in panels; columns beside them that share a vector are computed, too, and hidden later. */
static void multiply_key_panels(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                                const key_block *ahead) {
    const qkv_attention_desc *d = t->desc;
    const bool in_bf16 = qkv_in_bf16(d), stored = in_bf16 || qkv_k_type(d) != QKV_F32;
    const int64_t lanes = in_bf16 ? QKV_LANES : QKV_LANES / 2;
    int64_t base = block * QKV_KEY_BLOCK, run;
    for (int64_t j = keys.first; j < keys.end; j += run) {
        const void *panel = qkv_key_panel(t, base + j, base + keys.end, &run);
        int64_t first = j / QKV_PANEL * QKV_PANEL;
        if (stored)
            run = qkv_min(run, first + QKV_PANEL - j);
        key_range columns = {(j - first) / lanes * lanes, qkv_round_up(j - first + run, lanes)};
        const qkv_soon share = qkv_soon_beside(t, ahead, row, n, (key_range){j, j + run}, keys);
        if (stored)
            multiply_stored_panel(t, row, n, panel, columns, t->scores + first, &share);
        else
            qkv_multiply_panels(t->kernels, t->scores + first, t->q + row * t->shape->ld_q, t->shape->ld_q, n, panel,
                                d->head_dim, columns, &share);
    }
}

/* In the other arithmetics: products with columns of panels of operands, which begin with scores[0]. */
static void multiply_converted(const attention_task *t, float *scores, int64_t row, int64_t n, const void *panels,
                               key_range columns, const qkv_soon *soon) {
    if (qkv_in_int8(t->desc))
        qkv_int8_multiply(t, scores, row, n, panels, columns, soon);
    else
        qkv_bf16_multiply(t->kernels, scores, t->q, t->shape->ld_q, row, n, panels, t->desc->head_dim, columns, soon);
}

/* One panel of them at a time; keys that lie in panels keep their columns, and what is beside them is hidden later. */
static void multiply_converted_keys(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                                    const key_block *ahead) {
    const int64_t base = block * QKV_KEY_BLOCK;
    for (int64_t j = keys.first, end; j < keys.end; j = end) {
        const int64_t panel = j / QKV_PANEL * QKV_PANEL, first = qkv_keys_in_panels(t->desc) ? panel : j;
        end = qkv_min(panel + QKV_PANEL, keys.end);
        const qkv_soon share = qkv_soon_beside(t, ahead, row, n, (key_range){j, end}, keys);
        qkv_pack_keys(t, t->panel, t->strip, 0, base + j, base + end);
        const key_range columns = {(j - first) / QKV_LANES * QKV_LANES, end - first};
        multiply_converted(t, t->scores + first, row, n, t->panel, columns, &share);
    }
}

void qkv_multiply_keys(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                       const key_block *ahead) {
    const qkv_attention_desc *d = t->desc;
    const float *q = t->q + row * t->shape->ld_q;
    int64_t base = block * QKV_KEY_BLOCK, run;
    if (qkv_keys_in_panels(d) && !qkv_in_int8(d)) {
        multiply_key_panels(t, row, n, block, keys, ahead);
        return;
    }
    if (qkv_converts(d)) {
        multiply_converted_keys(t, row, n, block, keys, ahead);
        return;
    }
    for (int64_t j = keys.first; j < keys.end; j += run) {
        const void *k = qkv_key_run(t, &d->k, qkv_k_type(d), base + j, base + keys.end, &run);
        if (qkv_k_type(d) != QKV_F32)
            run = qkv_min(run, STRIP_KEYS);
        key_range strip = {j, j + run};
        const qkv_soon share = qkv_soon_beside(t, ahead, row, n, strip, keys);
        if (qkv_k_type(d) == QKV_F32)
            multiply_rows(t, q, n, k, d->k.token, strip, &share);
        else
            multiply_stored(t, q, n, k, strip, &share);
    }
}

key_range qkv_score_tile(const attention_task *t, int64_t row, int64_t n, const key_block *block, const row_view *views,
                         key_range keys) {
    key_range columns = whole_lanes(keys);
    if (block->panels) {
        const qkv_soon soon = share_of(t, &block->next_v, row, n);
        const int64_t half = QKV_LANES / 2; /* the rest of the lanes is hidden from every row */
        key_range product = {keys.first / half * half, qkv_round_up(keys.end, half)};
        if (qkv_converts(t->desc))
            multiply_converted(t, t->scores, row, n, block->panels, columns, &soon);
        else
            qkv_multiply_panels(t->kernels, t->scores, t->q + row * t->shape->ld_q, t->shape->ld_q, n, block->panels,
                                t->desc->head_dim, product, &soon);
    } else {
        qkv_multiply_keys(t, row, n, block->index, keys, block);
    }
    if (qkv_scales_scores(t->desc))
        t->kernels->scale_columns(t->scores + keys.first, LD_SCORES, (size_t)n, (size_t)(keys.end - keys.first),
                                  t->key_scales + keys.first);
    qkv_finish_views(t, row, n, block->index, views, keys, columns, t->shape->cap);
    return columns;
}
