/* Scores as an output, for looking at: a pass of its own over all keys in use, visible or not, row by row.
 * SPDX-License-Identifier: MIT */
#include "attention_task.h"

#if QKV_WITH(SCORES)

/* Leaves in t->scores the stage of a block that is asked for; returns what brings it into units of the natural
 * logarithm. */
static float score_block(const attention_task *t, int64_t row, int64_t block, int64_t keys) {
    const qkv_attention_desc *d = t->desc;
    const qkv_logit_steps cap = {.cap = t->shape->cap};
    /* Keys that no row sees are not in panels. */
    qkv_multiply_keys(t, row, 1, block, (key_range){0, keys}, NULL);
    if (qkv_scales_scores(d)) {
        qkv_gather_scales(t, &d->k_scales, block * QKV_KEY_BLOCK, block * QKV_KEY_BLOCK + keys, t->key_scales);
        t->kernels->scale_columns(t->scores, LD_SCORES, 1, (size_t)keys, t->key_scales);
    }
    if (d->scores_stage == QKV_SCORES_SCALED)
        return qkv_softcap(d) != 0 ? qkv_softcap(d) : QKV_LN2;
    if (d->scores_stage == QKV_SCORES_CAPPED)
        t->kernels->logits(t->scores, (size_t)keys, &cap);
    else
        qkv_finish_scores(t, row, 1, block, (key_range){0, keys}, (key_range){0, keys}, t->shape->cap);
    return QKV_LN2;
}

void qkv_attention_write_scores(const attention_task *t, int64_t row) {
    const qkv_matrix_output *x = &t->desc->scores;
    float *to = (float *)x->data + t->query_b * x->batch + t->head[row] * x->head + t->query[row] * x->query;
    for (int64_t block = 0; block < t->shape->key_blocks; block++) {
        int64_t base = block * QKV_KEY_BLOCK, end = qkv_min(QKV_KEY_BLOCK, t->desc->seq_k - base);
        int64_t keys = qkv_max(0, qkv_min(end, t->kv_len - base));
        float unit = keys > 0 ? score_block(t, row, block, keys) : 0;
        for (int64_t j = 0; j < end; j++, to += x->key)
            *to = j < keys ? t->scores[j] * unit + 0.0f : QKV_MINUS_INFINITY;
    }
}

#endif
