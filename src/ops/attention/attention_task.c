/* A task of attention: its scratch, its rows, and the keys and values it reads.  SPDX-License-Identifier: MIT */
#include "attention_task.h"

#include <string.h>

/* The next part of the scratch; with base = NULL it is only counted. */
static inline float *take(float *base, int64_t *used, int64_t floats) {
    float *part = base ? base + *used : NULL;
    *used += qkv_round_up(floats, QKV_LANES);
    return part;
}

static void *take_bytes(float *base, int64_t *used, int64_t bytes) {
    return take(base, used, qkv_ceil_div(bytes, (int64_t)sizeof(float)));
}

static int64_t *take_integers(float *base, int64_t *used, int64_t n) {
    return (int64_t *)take_bytes(base, used, n * (int64_t)sizeof(int64_t));
}

/* Whether K or V are not floats at one stride, and so have to be brought together first. */
static bool gathers_keys(const qkv_attention_desc *d) {
    return qkv_k_type(d) != QKV_F32 || qkv_page_table(d);
}

static bool gathers_values(const qkv_attention_desc *d) {
    return qkv_v_type(d) != QKV_F32 || qkv_page_table(d);
}

/* Rows of a tile. Those of a narrow window see few keys together: the fewer they are, the less is computed beside what
 * each sees. */
static int64_t narrowest_tile(const qkv_kernels *kernels) {
    return kernels->tile_rows / 2;
}

static int64_t choose_tile(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d) {
    bool window = d->flags & QKV_LEFT && d->flags & QKV_RIGHT;
    int64_t spread = (kernels->tile_rows - 1) / shape->group;
    return window && bounded(d->left) + bounded(d->right) < 4 * spread ? narrowest_tile(kernels) : kernels->tile_rows;
}

static int64_t lay_out_scratch(attention_task *t, float *base, const qkv_kernels *kernels, const qkv_attention_desc *d,
                               const qkv_attention_shape *shape) {
    int64_t used = 0, rows = shape->block_rows, tile = kernels->tile_rows, ld_o = shape->ld_o;
    int64_t keys = qkv_min(QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL));
    bool few = shape->rows <= kernels->few_rows;
    t->scores = take(base, &used, tile * LD_SCORES);
    t->block_out = take(base, &used, tile * ld_o);
    t->block_max = take(base, &used, QKV_MAX_ROWS);
    t->block_sum = take(base, &used, QKV_MAX_ROWS);
    t->q = take(base, &used, rows * shape->ld_q);
    t->out = take(base, &used, rows * ld_o);
    t->max = take(base, &used, rows);
    t->sum = take(base, &used, rows);
    t->distance = take(base, &used, DISTANCES);
    t->bias = take(base, &used, shape->bias_rows * QKV_KEY_BLOCK);
    t->logits = take(base, &used, QKV_KEY_BLOCK);
    t->keep = (uint8_t *)take(base, &used, shape->keep_rows * QKV_KEY_BLOCK / (int64_t)sizeof(float));
    bool surveys = qkv_keep(d) && d->keep.key == 1 && d->keep.query != 0;
    t->shown = (uint64_t *)take_integers(base, &used, surveys ? qkv_ceil_div(rows, t->tile) : 0);
    if (!surveys)
        t->shown = NULL;
    t->query = take_integers(base, &used, rows);
    t->head = take_integers(base, &used, rows);
    t->values = take(base, &used, few || qkv_converts(d) ? 0 : keys * ld_o);
    t->packed = take_bytes(base, &used, few || shape->packed_blocks > 0 ? 0 : keys * shape->key_bytes);
    t->strip = NULL;
    if (qkv_converts(d)) {
        int64_t values = qkv_bf16_values_size(kernels, d);
        t->panel = take_bytes(base, &used, QKV_PANEL * shape->key_bytes);
        t->pairs = take_bytes(base, &used, few ? 0 : values);
        t->pairs_filled = take_bytes(base, &used, few ? 0 : values);
        t->pairs_seen = take_bytes(base, &used, values);
        t->two_values = take(base, &used, 2 * ld_o);
    }
    if (gathers_keys(d) || gathers_values(d)) {
        t->widened = take(base, &used, gathers_values(d) && !qkv_converts(d) ? keys * ld_o : 0);
        t->key_scales = take(base, &used, qkv_scales_scores(d) ? QKV_KEY_BLOCK : 0);
        t->value_scales = take(base, &used, qkv_v_type(d) == QKV_INT8 ? QKV_KEY_BLOCK : 0);
        t->strip = take(base, &used, gathers_keys(d) ? QKV_PANEL * shape->ld_q : 0);
    }
    if (qkv_in_int8(d)) {
        t->q_scales = take(base, &used, rows);
        t->q_offsets = take(base, &used, rows);
        t->strip = take(base, &used, QKV_PANEL * shape->ld_q);
    }
    return used * (int64_t)sizeof(float);
}

int64_t qkv_attention_scratch_size(const qkv_kernels *kernels, const qkv_attention_desc *d,
                                   const qkv_attention_shape *shape) {
    attention_task unused;
    unused.tile = narrowest_tile(kernels);
    return lay_out_scratch(&unused, NULL, kernels, d, shape);
}

/* The rows of a KV head: first the heads of its group for the sequence's first query, then those for the next, … */
static void name_rows(const attention_task *t) {
    const qkv_attention_desc *d = t->desc;
    int64_t group = t->shape->group, query = t->first_row / group, head = t->first_row % group;
    query += qkv_q_start(d) ? qkv_q_start(d)[t->b] : 0;
    for (int64_t row = 0; row < t->rows; row++) {
        t->query[row] = query;
        t->head[row] = t->kv_head * group + head;
        if (++head == group) {
            head = 0;
            query++;
        }
    }
}

/* -------------------------------------------------------------------------------------- keys and values as floats */

void qkv_widen_keys(const attention_task *t, const qkv_input *x, int32_t type, int64_t channels, int64_t first,
                    int64_t end, float *to, int64_t ld) {
    for (int64_t key = first, run; key < end; key += run) {
        const void *from = qkv_key_run(t, x, type, key, end, &run);
        t->kernels->widen(to + (key - first) * ld, ld, from, qkv_stored_bytes(type, x->token), type, (size_t)run,
                          (size_t)channels);
    }
}

/* A panel in the form that products take it in, of rows of n keys at one stride … */
static void turn_keys(const attention_task *t, void *panel, const void *from, int64_t stride, int32_t type, int64_t n) {
    const qkv_kernels *kernels = t->kernels;
    const size_t rows = (size_t)n, dim = (size_t)t->desc->head_dim;
    if (qkv_in_bf16(t->desc))
        kernels->keys_bf16(panel, from, stride, type, rows, dim);
    else if (type == QKV_F32)
        kernels->pack(panel, from, stride / (int64_t)sizeof(float), rows, dim);
    else
        kernels->pack_stored(panel, QKV_PANEL, from, stride, type, rows, dim);
}

/* … and of one as it is stored. */
static void convert_panel(const attention_task *t, void *panel, const void *from) {
    const qkv_attention_desc *d = t->desc;
    const int64_t stride = qkv_stored_bytes(qkv_k_type(d), QKV_PANEL);
    const size_t dim = (size_t)d->head_dim;
    if (qkv_in_bf16(d))
        t->kernels->values_bf16(panel, from, stride, qkv_k_type(d), 0, dim, QKV_PANEL);
    else
        t->kernels->widen(panel, QKV_PANEL, from, stride, qkv_k_type(d), dim, QKV_PANEL);
}

void qkv_pack_keys(const attention_task *t, void *panel, float *strip, int64_t column, int64_t first, int64_t end) {
    const qkv_attention_desc *d = t->desc;
    int64_t ld = t->shape->ld_q, run;
    if (qkv_in_int8(d)) {
        qkv_int8_pack_keys(t, panel, strip, column, first, end);
        return;
    }
    if (qkv_keys_in_panels(d)) {
        convert_panel(t, panel, qkv_key_panel(t, first, end, &run));
        return;
    }
    const void *from = qkv_key_run(t, &d->k, qkv_k_type(d), first, end, &run);
    if (column == 0 && run == end - first) {
        turn_keys(t, panel, from, qkv_stored_bytes(qkv_k_type(d), d->k.token), qkv_k_type(d), run);
        return;
    }
    qkv_widen_keys(t, &d->k, qkv_k_type(d), d->head_dim, first, end, strip + column * ld, ld); /* in pages */
    turn_keys(t, panel, strip, ld * (int64_t)sizeof(float), QKV_F32, column + end - first);
}

/* Packs the panels of a key block that hold the given keys of it. Keys before them are hidden from every row; in pages
 * they may lie in one that is none. strip: as for qkv_pack_keys. */
static void pack_block(const attention_task *t, void *panels, float *strip, int64_t block, key_range keys) {
    int64_t base = block * QKV_KEY_BLOCK;
    for (int64_t j = keys.first / QKV_PANEL * QKV_PANEL; j < keys.end; j += QKV_PANEL) {
        int64_t end = qkv_min(j + QKV_PANEL, keys.end), first = qkv_page_table(t->desc) ? qkv_max(j, keys.first) : j;
        qkv_pack_keys(t, (unsigned char *)panels + j * t->shape->key_bytes, strip, first - j, base + first, base + end);
    }
}

/* ------------------------------------------------------------------------------------------- packed by all tasks */

/* What windows leave to all queries of the task's batch. Packed queries don't share panels. */
static key_range visible_to_batch(const attention_task *t) {
    return (key_range){window_of(t, 0).first, window_of(t, t->desc->seq_q - 1).end};
}

/* Bytes of the panels of a KV head. They begin with the first key block that its batch sees. */
static int64_t head_panels_size(const qkv_attention_shape *shape, const qkv_attention_desc *d) {
    return qkv_min(shape->packed_blocks * QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL)) * shape->key_bytes;
}

void qkv_attention_pack_keys(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                             void *workspace, int64_t index, int32_t worker) {
    unsigned char *scratch = (unsigned char *)workspace + shape->packed_size + shape->states_size;
    int64_t place = index % shape->packed_blocks, head = index / shape->packed_blocks;
    attention_task t;
    qkv_choose_sequence(&t, d, head / d->num_kv_heads);
    t.kernels = kernels;
    t.shape = shape;
    t.kv_head = head % d->num_kv_heads;
    key_range all = visible_to_batch(&t);
    int64_t block = all.first / QKV_KEY_BLOCK + place;
    unsigned char *panels = (unsigned char *)workspace + head * head_panels_size(shape, d);
    pack_block(&t, panels + place * QKV_KEY_BLOCK * shape->key_bytes,
               (float *)(void *)(scratch + worker * shape->worker_size), block, within_block(all, block));
}

/* ------------------------------------------------------------------------------------------------- tasks in order */

/* Block of rows `index` of packed queries: block n of all sequences, one after the other. */
static int64_t find_packed_rows(const qkv_attention_shape *shape, const qkv_attention_desc *d, int64_t n,
                                attention_task *t) {
    for (int64_t b = 0; b < d->batch; b++) {
        int64_t rows = shape->group * (qkv_q_start(d)[b + 1] - qkv_q_start(d)[b]);
        int64_t blocks = qkv_ceil_div(rows, shape->block_rows);
        if (n < blocks) {
            qkv_choose_sequence(t, d, b);
            t->first_row = n * shape->block_rows;
            return qkv_min(shape->block_rows, rows - t->first_row);
        }
        n -= blocks;
    }
    return 0;
}

/* Task `index` is a block of rows of a KV head. Later rows see more keys where a right end moves with them: they come
 * first, so that what is left at the end are small tasks. Names the sequence, the KV head and the first row; returns
 * how many rows there are. */
static int64_t find_rows(const qkv_attention_shape *shape, const qkv_attention_desc *d, int64_t index,
                         attention_task *t) {
    if (qkv_q_start(d)) { /* the KV heads of a block follow each other: often, so do their keys in memory */
        t->kv_head = index % d->num_kv_heads;
        return find_packed_rows(shape, d, index / d->num_kv_heads, t);
    }
    int64_t block = index % shape->row_blocks, head = index / shape->row_blocks;
    if (d->flags & QKV_RIGHT)
        block = shape->row_blocks - 1 - block;
    qkv_choose_sequence(t, d, head / d->num_kv_heads);
    t->kv_head = head % d->num_kv_heads;
    t->first_row = block * shape->block_rows;
    return qkv_min(shape->block_rows, shape->rows - t->first_row);
}

/* Rows of stored keys or values from `key` on: as many as follow at one stride. */
static qkv_soon soon_rows(const attention_task *t, const qkv_input *x, int32_t type, int64_t channels, int64_t key,
                          int64_t end) {
    int64_t run;
    const void *from = qkv_key_run(t, x, type, key, end, &run);
    return (qkv_soon){from, qkv_stored_bytes(type, x->token), (size_t)run, (size_t)qkv_stored_bytes(type, channels)};
}

static qkv_soon soon_keys(const attention_task *t, int64_t key, int64_t end) {
    const qkv_attention_desc *d = t->desc;
    int64_t run;
    if (!qkv_keys_in_panels(d))
        return soon_rows(t, &d->k, qkv_k_type(d), d->head_dim, key, end);
    const void *from = qkv_key_panel(t, key, end, &run);
    int64_t panels = qkv_ceil_div(key % QKV_PANEL + run, QKV_PANEL), bytes = qkv_stored_bytes(qkv_k_type(d), QKV_PANEL);
    return (qkv_soon){from, bytes, (size_t)(panels * d->head_dim), (size_t)bytes};
}

static void look_ahead(const attention_task *t, key_block *block, key_range all) {
    const qkv_attention_desc *d = t->desc;
    int64_t index = block->index + 1;
    attention_task *next = &block->next;
    key_range keys = within_block(all, index);
    if (keys.first < keys.end) {
        qkv_choose_sequence(next, d, t->b);
        next->kv_head = t->kv_head;
    } else {
        int64_t task = t->index + t->shape->workers;
        if (task >= t->shape->num_tasks || t->shape->key_chunks > 1 || find_rows(t->shape, d, task, next) == 0)
            return;
        int64_t query = next->first_row / t->shape->group + (qkv_q_start(d) ? qkv_q_start(d)[next->b] : 0);
        key_range seen = visible_keys(next, query);
        index = seen.first / QKV_KEY_BLOCK;
        keys = within_block(seen, index);
        if (keys.first == keys.end)
            return;
    }
    int64_t key = index * QKV_KEY_BLOCK + keys.first, end = index * QKV_KEY_BLOCK + keys.end;
    block->next_keys = (key_range){key, end};
    block->next_v = soon_rows(next, &d->v, qkv_v_type(d), d->head_dim_v, key, end);
    if (!t->shared_keys) {
        block->next_k = soon_keys(next, key, end);
        return;
    }
    int64_t heads_on = (next->b - t->b) * d->num_kv_heads + next->kv_head - t->kv_head;
    int64_t first = next->b == t->b ? t->first_shared : visible_to_batch(next).first / QKV_KEY_BLOCK;
    const unsigned char *panels = t->shared_keys + heads_on * head_panels_size(t->shape, d);
    int64_t size = t->shape->key_bytes;
    block->next_k = (qkv_soon){panels + (key - first * QKV_KEY_BLOCK) * size, size, (size_t)(end - key), (size_t)size};
}

/* The next keys that correspond to a part of these. */
static key_range corresponding(const key_block *block, key_range part, key_range keys) {
    int64_t first = block->next_keys.first, n = block->next_keys.end - first, whole = keys.end - keys.first;
    return (key_range){first + n * (part.first - keys.first) / whole, first + n * (part.end - keys.first) / whole};
}

static qkv_soon soon_part(const attention_task *t, const qkv_soon *all, int64_t row, int64_t n, key_range part,
                          key_range keys) {
    const qkv_soon share = share_of(t, all, row, n);
    return part_of(&share, part.first - keys.first, part.end - keys.first, keys.end - keys.first);
}

qkv_soon qkv_soon_keys(const attention_task *t, const key_block *block, int64_t row, int64_t n, key_range part,
                       key_range keys) {
    if (!QKV_WITH(PREFETCH))
        return (qkv_soon){0};
    if (!qkv_page_table(t->desc))
        return soon_part(t, &block->next_k, row, n, part, keys);
    key_range next = corresponding(block, part, keys);
    return next.first < next.end ? soon_keys(&block->next, next.first, next.end) : (qkv_soon){0};
}

qkv_soon qkv_soon_values(const attention_task *t, const key_block *block, int64_t row, int64_t n, key_range part,
                         key_range keys) {
    const qkv_attention_desc *d = t->desc;
    if (!qkv_page_table(d))
        return soon_part(t, &block->next_v, row, n, part, keys);
    key_range next = corresponding(block, part, keys);
    return next.first < next.end ? soon_rows(&block->next, &d->v, qkv_v_type(d), d->head_dim_v, next.first, next.end)
                                 : (qkv_soon){0};
}

/* ------------------------------------------------------------------------------------------------------ key blocks */

/* V as floats: in memory, or where it has been brought together. */
static void read_values(const attention_task *t, key_block *block) {
    const qkv_attention_desc *d = t->desc;
    bool gathers = gathers_values(d);
    block->v = gathers
                   ? t->widened
                   : qkv_stored_row(&d->v, QKV_F32, t->key_b, t->kv_head, t->first_key + block->index * QKV_KEY_BLOCK);
    block->ld_v = gathers ? t->shape->ld_o : d->v.token;
}

static void widen_values(const attention_task *t, const key_block *block) {
    const qkv_attention_desc *d = t->desc;
    int64_t base = block->index * QKV_KEY_BLOCK, ld = t->shape->ld_o;
    qkv_widen_keys(t, &d->v, qkv_v_type(d), d->head_dim_v, base + block->keys.first, base + block->keys.end,
                   t->widened + block->keys.first * ld, ld);
}

void qkv_widen_stored(const attention_task *t, key_block *block) {
    if (block->is_stored)
        widen_values(t, block);
    block->is_stored = false;
}

void qkv_gather_scales(const attention_task *t, const qkv_input *x, int64_t first, int64_t end, float *to) {
    for (int64_t key = first, run; key < end; key += run) {
        const float *from = qkv_key_run(t, x, QKV_F32, key, end, &run);
        for (int64_t i = 0; i < run; i++)
            *to++ = from[i * x->token];
    }
}

static bool any_odd(const float *scales, key_range keys) {
    float sum = 0;
    for (int64_t j = keys.first; j < keys.end; j++)
        sum += scales[j] * 0; /* NaN for what is no finite number */
    return sum != 0 || sum != sum;
}

static void copy_values(const attention_task *t, const key_block *block, key_range keys) {
    size_t bytes = (size_t)t->desc->head_dim_v * sizeof(float);
    for (int64_t j = keys.first; j < keys.end; j++)
        memcpy(t->values + j * t->shape->ld_o, block->v + j * block->ld_v, bytes);
}

/* A key block that lies in memory as it is used. */
static const float *panels_in_place(const attention_task *t, int64_t index, key_range keys) {
    int64_t base = index * QKV_KEY_BLOCK, run;
    if (!qkv_keys_in_panels(t->desc) || qkv_k_type(t->desc) != QKV_F32 || qkv_converts(t->desc) ||
        (qkv_page_table(t->desc) && keys.first >= QKV_PANEL)) /* the block's first page may be none */
        return NULL;
    const float *panels = qkv_key_panel(t, base, base + keys.end, &run);
    return run == keys.end ? panels : NULL;
}

void qkv_open_key_block(const attention_task *t, key_block *block, int64_t index, key_range all) {
    const qkv_attention_desc *d = t->desc;
    key_range keys = within_block(all, index);
    block->index = index;
    block->panels = NULL;
    block->next_k.rows = block->next_v.rows = 0;
    block->next_keys = (key_range){0, 0};
    block->searched = false;
    block->num_holes = 0;
    if (QKV_WITH(PREFETCH))
        look_ahead(t, block, all);
    if (t->shared_keys) {
        block->panels = t->shared_keys + (index - t->first_shared) * QKV_KEY_BLOCK * t->shape->key_bytes;
    } else if (t->rows > t->kernels->few_rows) {
        block->panels = panels_in_place(t, index, keys);
        if (!block->panels) {
            pack_block(t, t->packed, t->strip, index, keys);
            block->panels = t->packed;
        }
    }
    block->keys = keys;
    block->odd_scales = false;
    const int64_t base = index * QKV_KEY_BLOCK, first = base + keys.first, end = base + keys.end;
    if (qkv_scales_scores(d))
        qkv_gather_scales(t, &d->k_scales, first, end, t->key_scales + keys.first);
    if (qkv_v_type(d) == QKV_INT8) {
        qkv_gather_scales(t, &d->v_scales, first, end, t->value_scales + keys.first);
        block->odd_scales = any_odd(t->value_scales, keys);
    }
    block->is_stored = block->paired = false;
    if (qkv_converts(d))
        return;
    block->is_stored = gathers_values(d) && t->rows <= t->kernels->few_rows;
    if (gathers_values(d) && !block->is_stored)
        widen_values(t, block);
    read_values(t, block);
    if (t->copies_values) {
        copy_values(t, block, keys);
        block->v = t->values;
        block->ld_v = t->shape->ld_o;
    }
}

void qkv_mark_holes(const attention_task *t, key_block *block, const float *v, int64_t ld_v, int64_t first, int64_t n) {
    const float zeros[QKV_MAX_ROWS] = {0};
    int64_t ld = t->shape->ld_o;
    size_t dim = (size_t)t->desc->head_dim_v;
    t->kernels->scale(t->block_out, ld, v, ld_v, zeros, (size_t)n, dim);
    uint32_t holes = t->kernels->nan_rows(t->block_out, ld, (size_t)n, dim);
    for (int64_t i = first; holes != 0; i++, holes >>= 1) {
        if (holes & 1)
            block->hole[block->num_holes++] = (uint8_t)i;
    }
}

bool qkv_find_holes(const attention_task *t, key_block *block) {
    if (qkv_converts(t->desc))
        return qkv_bf16_find_holes(t, block);
    int64_t ld = t->shape->ld_o, most = t->kernels->tile_rows;
    size_t dim = (size_t)t->desc->head_dim_v;
    key_range keys = within_block(visible_to_rows(t, 0, t->rows), block->index);
    qkv_widen_stored(t, block);
    read_values(t, block);
    block->searched = true;
    for (int64_t j = keys.first; j < keys.end; j += most)
        qkv_mark_holes(t, block, block->v + j * block->ld_v, block->ld_v, j, qkv_min(most, keys.end - j));
    if (block->num_holes == 0)
        return false;
    if (!t->copies_values) /* else they are there */
        copy_values(t, block, keys);
    for (int64_t i = 0; i < block->num_holes; i++)
        memset(t->values + block->hole[i] * ld, 0, dim * sizeof(float));
    return true;
}

/* ------------------------------------------------------------------------------------------------------------ rows */

void qkv_attention_scale_queries(const attention_task *t) {
    const qkv_input *q = &t->desc->q;
    int64_t group = t->shape->group, ld = t->shape->ld_q;
    int32_t type = qkv_q_type(t->desc);
    if (t->desc->seq_k == 0 || t->desc->head_dim == 0)
        return;
    for (int64_t row = 0; row < t->rows; row++)
        t->sum[row] = t->shape->q_scale;                          /* not in use yet */
    for (int64_t row = 0; row < qkv_min(group, t->rows); row++) { /* the rows of one head at a time */
        const void *from = qkv_stored_row(q, type, t->query_b, t->head[row], t->query[row]);
        size_t rows = rows_of_head(t, row, t->rows), dim = (size_t)t->desc->head_dim;
        float *to = t->q + row * ld;
        int64_t ld_from = q->token;
        if (type != QKV_F32) {
            t->kernels->widen(to, group * ld, from, qkv_stored_bytes(type, q->token), type, rows, dim);
            from = to;
            ld_from = group * ld;
        }
        t->kernels->scale(to, group * ld, from, ld_from, t->sum, rows, dim);
    }
    if (qkv_in_bf16(t->desc))
        t->kernels->rows_bf16(t->q, ld, 0, t->q, ld, (size_t)t->rows, (size_t)t->desc->head_dim);
    if (qkv_in_int8(t->desc))
        qkv_int8_convert_queries(t);
}

void qkv_attention_begin(attention_task *t, const qkv_kernels *kernels, const qkv_attention_shape *shape,
                         const qkv_attention_desc *d, void *workspace, int64_t index, int32_t worker) {
    unsigned char *states = (unsigned char *)workspace + shape->packed_size;
    unsigned char *scratch = states + shape->states_size + worker * shape->worker_size;
    t->kernels = kernels;
    t->shape = shape;
    t->desc = d;
    t->index = index;
    t->rows = find_rows(shape, d, index, t);
    if (t->rows == 0)
        return;
    int64_t head = t->b * d->num_kv_heads + t->kv_head;
    t->copies_values = shape->copies_values && t->rows >= 4 * kernels->tile_rows;
    t->shared_keys = NULL;
    if (shape->packed_blocks > 0) {
        t->shared_keys = (const unsigned char *)workspace + head * head_panels_size(shape, d);
        t->first_shared = visible_to_batch(t).first / QKV_KEY_BLOCK;
    }
    t->tile = choose_tile(kernels, shape, d);
    lay_out_scratch(t, (float *)(void *)scratch, kernels, d, shape);
    name_rows(t);
    if (QKV_WITH(WORKERS) && shape->state_blocks > 0) {
        int64_t block_states = qkv_attention_state_floats(shape, shape->block_rows);
        int64_t before = head * shape->head_states + t->first_row / shape->block_rows * block_states;
        if (qkv_q_start(d))
            before = index * block_states;
        t->states = (float *)(void *)states + before * shape->state_blocks;
        t->first_state = visible_to_rows(t, 0, t->rows).first / QKV_KEY_BLOCK;
    }
}
