/* A task of attention: its scratch, its rows, and the keys and values it reads.  SPDX-License-Identifier: MIT */
#include "attention_task.h"

#include <string.h>

/* Hands out the parts of a worker's scratch; with base = NULL it only counts. */
static int64_t lay_out_scratch(attention_task *t, float *base, const qkv_kernels *kernels,
                               const qkv_attention_shape *shape) {
    int64_t used = 0, int64_floats = sizeof(int64_t) / sizeof(float);
    float *keep = NULL, *query = NULL, *head = NULL;
    const struct {
        float **part;
        int64_t floats;
    } parts[] = {
        {&t->scores, kernels->tile_rows * LD_SCORES},
        {&t->block_out, kernels->tile_rows * shape->ld_o},
        {&t->block_max, QKV_MAX_ROWS},
        {&t->block_sum, QKV_MAX_ROWS},
        {&t->q, shape->block_rows * shape->ld_q},
        {&t->out, shape->block_rows * shape->ld_o},
        {&t->max, shape->block_rows},
        {&t->sum, shape->block_rows},
        {&t->distance, DISTANCES},
        {&t->bias, QKV_KEY_BLOCK},
        {&t->logits, QKV_KEY_BLOCK},
        {&keep, QKV_KEY_BLOCK / (int64_t)sizeof(float)},
        {&query, shape->block_rows * int64_floats},
        {&head, shape->block_rows * int64_floats},
        {&t->values, shape->copies_values ? QKV_KEY_BLOCK * shape->ld_o : 0},
        {&t->packed, 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base)
            *parts[i].part = base + used;
        used += qkv_round_up(parts[i].floats, QKV_LANES);
    }
    t->keep = (uint8_t *)keep;
    t->query = (int64_t *)(void *)query;
    t->head = (int64_t *)(void *)head;
    return used * (int64_t)sizeof(float);
}

int64_t qkv_attention_scratch_size(const qkv_kernels *kernels, const qkv_attention_shape *shape) {
    attention_task unused;
    return lay_out_scratch(&unused, NULL, kernels, shape);
}

/* The rows of a KV head: first the heads of its group for query 0, then those for query 1, … */
static void name_rows(const attention_task *t) {
    int64_t group = t->shape->group, query = t->first_row / group, head = t->first_row % group;
    for (int64_t row = 0; row < t->rows; row++) {
        t->query[row] = query;
        t->head[row] = t->kv_head * group + head;
        if (++head == group) {
            head = 0;
            query++;
        }
    }
}

/* Packs the panels of a key block that hold the given keys of it. */
static void pack_block(const qkv_kernels *kernels, const qkv_attention_desc *d, float *panels, int64_t b,
                       int64_t kv_head, int64_t block, key_range keys) {
    const float *k = (const float *)d->k.data + b * d->k.batch + kv_head * d->k.head;
    for (int64_t j = keys.first / QKV_PANEL * QKV_PANEL; j < keys.end; j += QKV_PANEL)
        kernels->pack(panels + j * d->head_dim, k + (block * QKV_KEY_BLOCK + j) * d->k.token, d->k.token,
                      (size_t)qkv_min(QKV_PANEL, keys.end - j), (size_t)d->head_dim);
}

/* Floats of all panels of one KV head. */
static int64_t head_panels(const qkv_attention_desc *d) {
    return qkv_round_up(d->seq_k, QKV_PANEL) * d->head_dim;
}

void qkv_attention_pack_keys(const qkv_kernels *kernels, const qkv_attention_shape *shape,
                             const qkv_attention_desc *d, void *workspace, int64_t index) {
    int64_t block = index % shape->key_blocks, head = index / shape->key_blocks;
    int64_t b = head / d->num_kv_heads;
    attention_task t = {.desc = d, .kv_len = qkv_batch_kv_len(d, b), .q_offset = qkv_batch_q_offset(d, b)};
    key_range keys = within_block(visible_to_queries(&t, 0, d->seq_q - 1), block);
    float *panels = (float *)workspace + head * head_panels(d) + block * QKV_KEY_BLOCK * d->head_dim;
    pack_block(kernels, d, panels, b, head % d->num_kv_heads, block, keys);
}

static void look_ahead(const attention_task *t, key_block *block, key_range all) {
    const qkv_attention_desc *d = t->desc;
    int64_t b = t->b, kv_head = t->kv_head, index = block->index + 1;
    key_range keys = within_block(all, index);
    if (keys.first == keys.end) {
        int64_t task = t->index + t->shape->workers, head = task / t->shape->row_blocks;
        if (task >= t->shape->num_tasks || t->shape->key_chunks > 1)
            return;
        b = head / d->num_kv_heads;
        kv_head = head % d->num_kv_heads;
        attention_task other = {.desc = d, .kv_len = qkv_batch_kv_len(d, b), .q_offset = qkv_batch_q_offset(d, b)};
        int64_t query = task % t->shape->row_blocks * t->shape->block_rows / t->shape->group;
        key_range seen = visible_to_queries(&other, query, query);
        index = seen.first / QKV_KEY_BLOCK;
        keys = within_block(seen, index);
    }
    size_t rows = (size_t)(keys.end - keys.first);
    int64_t key = index * QKV_KEY_BLOCK + keys.first;
    const float *k = (const float *)d->k.data + b * d->k.batch + kv_head * d->k.head + key * d->k.token;
    block->next_k = (qkv_soon){k, d->k.token, rows, (size_t)d->head_dim};
    if (t->shared_keys) {
        const float *panels = t->shared_keys + (b * d->num_kv_heads + kv_head - t->b * d->num_kv_heads - t->kv_head) *
                                                   head_panels(d);
        block->next_k = (qkv_soon){panels + key * d->head_dim, d->head_dim, rows, (size_t)d->head_dim};
    }
    const float *v = (const float *)d->v.data + b * d->v.batch + kv_head * d->v.head + key * d->v.token;
    block->next_v = (qkv_soon){v, d->v.token, rows, (size_t)d->head_dim_v};
}

key_block qkv_open_key_block(const attention_task *t, int64_t index, key_range all) {
    const qkv_attention_desc *d = t->desc;
    const qkv_input *v = &d->v;
    key_range keys = within_block(all, index);
    key_block block = {.index = index, .ld_v = v->token};
    if (keys.first == keys.end)
        return block;
    look_ahead(t, &block, all);
    if (t->shared_keys) {
        block.panels = t->shared_keys + index * QKV_KEY_BLOCK * d->head_dim;
    } else if (t->rows <= t->kernels->few_rows) {
        block.k = (const float *)d->k.data + t->b * d->k.batch + t->kv_head * d->k.head +
                  index * QKV_KEY_BLOCK * d->k.token;
        block.ld_k = d->k.token;
    } else {
        pack_block(t->kernels, d, t->packed, t->b, t->kv_head, index, keys);
        block.panels = t->packed;
    }
    block.v = (const float *)v->data + t->b * v->batch + t->kv_head * v->head + index * QKV_KEY_BLOCK * v->token;
    if (t->shape->copies_values) {
        size_t bytes = (size_t)d->head_dim_v * sizeof(float);
        for (int64_t j = keys.first; j < keys.end; j++)
            memcpy(t->values + j * t->shape->ld_o, block.v + j * v->token, bytes);
        block.v = t->values;
        block.ld_v = t->shape->ld_o;
    }
    return block;
}

static void scale_queries(const attention_task *t) {
    const qkv_input *q = &t->desc->q;
    int64_t group = t->shape->group, ld = t->shape->ld_q;
    for (int64_t row = 0; row < t->rows; row++)
        t->sum[row] = t->shape->q_scale; /* not in use yet */
    for (int64_t row = 0; row < qkv_min(group, t->rows); row++) { /* the rows of one head at a time */
        const float *from = (const float *)q->data + t->b * q->batch + t->head[row] * q->head +
                            t->query[row] * q->token;
        t->kernels->scale(t->q + row * ld, group * ld, from, q->token, t->sum, rows_of_head(t, row, t->rows),
                          (size_t)t->desc->head_dim);
    }
}

void qkv_attention_begin(attention_task *t, const qkv_kernels *kernels, const qkv_attention_shape *shape,
                         const qkv_attention_desc *d, void *workspace, int64_t index, int32_t worker) {
    int64_t head = index / shape->row_blocks, first_row = index % shape->row_blocks * shape->block_rows;
    unsigned char *scratch = qkv_attention_scratch(shape, workspace, worker);
    *t = (attention_task){
        .kernels = kernels,
        .shape = shape,
        .desc = d,
        .index = index,
        .b = head / d->num_kv_heads,
        .kv_head = head % d->num_kv_heads,
        .first_row = first_row,
        .rows = qkv_min(shape->block_rows, shape->rows - first_row),
        .kv_len = qkv_batch_kv_len(d, head / d->num_kv_heads),
        .q_offset = qkv_batch_q_offset(d, head / d->num_kv_heads),
        .shared_keys = shape->pack_tasks > 0 ? (const float *)workspace + head * head_panels(d) : NULL,
    };
    lay_out_scratch(t, (float *)(void *)scratch, kernels, shape);
    name_rows(t);
    if (d->seq_k > 0 && d->head_dim > 0)
        scale_queries(t);
}
