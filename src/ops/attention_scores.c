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

/* Element (b, head of the row, its query, first key of the block) of a matrix with elements of the given size. */
static const unsigned char *matrix_row(const attention_task *t, const qkv_matrix_input *x, int64_t row, int64_t block,
                                       int64_t element_size) {
    return (const unsigned char *)x->data + (t->b * x->batch + t->head[row] * x->head + t->query[row] * x->query +
                                             block * QKV_KEY_BLOCK * x->key) * element_size;
}

static const float *bias_row(const attention_task *t, int64_t row, int64_t block, key_range keys) {
    const qkv_matrix_input *x = &t->desc->bias;
    const float *from = (const float *)(const void *)matrix_row(t, x, row, block, sizeof(float));
    if (x->key == 1)
        return from + keys.first;
    for (int64_t j = keys.first; j < keys.end; j++)
        t->bias[j] = from[j * x->key];
    return t->bias + keys.first;
}

static const uint8_t *keep_row(const attention_task *t, int64_t row, int64_t block, key_range keys) {
    const qkv_matrix_input *x = &t->desc->keep;
    const uint8_t *from = matrix_row(t, x, row, block, 1);
    if (x->key == 1)
        return from + keys.first;
    for (int64_t j = keys.first; j < keys.end; j++)
        t->keep[j] = from[j * x->key];
    return t->keep + keys.first;
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

void qkv_finish_scores(const attention_task *t, int64_t row, int64_t n, int64_t block, key_range keys,
                       key_range columns, float cap) {
    const qkv_attention_desc *d = t->desc;
    bool steps = cap != 0 || d->alibi_slopes || d->bias.data || d->keep.data;
    if (d->alibi_slopes)
        fill_distances(t, row, n, block, keys);
    for (int64_t i = 0; i < n; i++) {
        float *scores = t->scores + i * LD_SCORES;
        key_range seen = within_block(visible_keys(t, t->query[row + i]), block);
        if (steps && seen.first < seen.end) {
            qkv_logit_steps s = {.cap = cap};
            if (d->alibi_slopes) {
                s.slope = d->alibi_slopes[t->head[row + i]] * QKV_LOG2E;
                s.distance = t->distance + distance_start(t, row, n, i) + (seen.first - keys.first);
            }
            s.bias = d->bias.data ? bias_row(t, row + i, block, seen) : NULL;
            s.keep = d->keep.data ? keep_row(t, row + i, block, seen) : NULL;
            t->kernels->logits(scores + seen.first, (size_t)(seen.end - seen.first), &s);
        }
        if (seen.first == seen.end)
            seen = (key_range){columns.end, columns.end};
        hide(scores, columns.first, seen.first);
        hide(scores, seen.end, columns.end);
    }
}

key_range qkv_score_tile(const attention_task *t, int64_t row, int64_t n, const key_block *block, key_range keys) {
    key_range columns = whole_lanes(keys);
    const qkv_soon soon = share_of(t, &block->next_v, row, n);
    qkv_multiply_panels(t->kernels, t->scores, t->q + row * t->shape->ld_q, t->shape->ld_q, n, block->panels,
                        t->desc->head_dim, columns, &soon);
    qkv_finish_scores(t, row, n, block->index, keys, columns, t->shape->cap);
    return columns;
}
