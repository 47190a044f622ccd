/* Attention forward: softmax(Q·Kᵀ)·V without ever holding the matrix of scores.
 *
 * The work is cut three times. A task owns a block of rows, a row being one query of one head; the heads that share a
 * KV head are rows of the same block, so their keys are read once. A task passes over the keys in blocks of 256. Within
 * a key block it takes its rows a tile at a time (as many as the CPU keeps in registers) through
 *
 *   scores   S  = Q·Kᵀ            256 columns, which stay in the L1 cache
 *   softmax  m_b = max S,  P = exp2(S − m_b),  ℓ_b = Σ P
 *   output   O_b = P·V
 *   fold     (m, ℓ, O) ← (m, ℓ, O) ⊕ (m_b, ℓ_b, O_b)
 *
 * where ⊕ brings both sides to the larger maximum before it adds: that is all of flash attention. At the end out = O/ℓ.
 * Logits are kept in base 2: the factor log2 e is part of the scale of Q. (attention_task.c prepares a task's rows and
 * keys, attention_scores.c computes S with everything that may be added to it.)
 *
 * Keys that a row must not see get the score −inf and so the weight +0. The product P·V still multiplies their V by
 * it, which is harmless unless V holds an infinity or NaN there; as 0·∞ leaves a NaN behind, a row with a NaN at its
 * end is done once more by a loop that skips.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "dropout.h"

/* ------------------------------------------------------------------------------------------------ one key block */

void qkv_attend_block(const attention_task *t, int64_t row, int64_t n, const key_block *block, key_range keys,
                      float *max, float *sum, float *out) {
    const qkv_kernels *kernels = t->kernels;
    key_range columns = qkv_score_tile(t, row, n, block, keys);
    kernels->softmax(t->scores + columns.first, LD_SCORES, (size_t)n, (size_t)(columns.end - columns.first), max, sum);
    qkv_drop_tile(t, t->scores, row, n, block->index, columns);
    const qkv_soon soon = share_of(t, &block->next_k, row, n);
    kernels->gemm(out, t->shape->ld_o, t->scores + keys.first, LD_SCORES, block->v + keys.first * block->ld_v,
                  block->ld_v, QKV_PANEL, (size_t)n, (size_t)t->desc->head_dim_v, (size_t)(keys.end - keys.first), 0,
                  &soon);
}

void qkv_attend_block_exactly(const attention_task *t, int64_t row, const key_block *block, key_range keys) {
    const qkv_kernels *kernels = t->kernels;
    key_range columns = qkv_score_tile(t, row, 1, block, keys);
    size_t width = (size_t)(columns.end - columns.first);
    memcpy(t->logits + columns.first, t->scores + columns.first, width * sizeof(float));
    kernels->softmax(t->scores + columns.first, LD_SCORES, 1, width, t->block_max, t->block_sum);
    qkv_drop_tile(t, t->scores, row, 1, block->index, columns);
    kernels->sum_visible(t->block_out, t->scores + keys.first, t->logits + keys.first,
                         block->v + keys.first * block->ld_v, block->ld_v, (size_t)(keys.end - keys.first),
                         (size_t)t->desc->head_dim_v);
}

static void fold_rows(const attention_task *t, int64_t row, int64_t n) {
    t->kernels->fold(t->max + row, t->sum + row, t->out + row * t->shape->ld_o, t->shape->ld_o, t->block_max,
                     t->block_sum, t->block_out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
}

static void clear_row(const attention_task *t, int64_t row) {
    t->max[row] = -FLT_MAX;
    t->sum[row] = 0;
    memset(t->out + row * t->shape->ld_o, 0, (size_t)t->shape->ld_o * sizeof(float));
}

/* All rows of the task against every key block that any of them sees. The first block of a tile is its state: there is
 * nothing yet to fold it into. */
static void attend(const attention_task *t) {
    key_range all = visible_to_rows(t, 0, t->rows);
    for (int64_t index = all.first / QKV_KEY_BLOCK; index * QKV_KEY_BLOCK < all.end; index++) {
        key_block block = qkv_open_key_block(t, index, all);
        for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
            int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
            key_range seen = visible_to_rows(t, row, n), keys = within_block(seen, index);
            if (keys.first == keys.end)
                continue;
            if (index == seen.first / QKV_KEY_BLOCK) {
                qkv_attend_block(t, row, n, &block, keys, t->max + row, t->sum + row, t->out + row * t->shape->ld_o);
            } else {
                qkv_attend_block(t, row, n, &block, keys, t->block_max, t->block_sum, t->block_out);
                fold_rows(t, row, n);
            }
        }
    }
    for (int64_t row = 0; row < t->rows; row++) {
        key_range seen = visible_keys(t, t->query[row]);
        if (seen.first == seen.end)
            clear_row(t, row);
    }
}

/* Does a row again that has met a NaN or infinity in V, perhaps at a key it does not see. */
static void attend_row_exactly(const attention_task *t, int64_t row) {
    key_range all = visible_to_rows(t, row, 1);
    clear_row(t, row);
    for (int64_t index = all.first / QKV_KEY_BLOCK; index * QKV_KEY_BLOCK < all.end; index++) {
        key_range keys = within_block(all, index);
        key_block block = qkv_open_key_block(t, index, all);
        qkv_attend_block_exactly(t, row, &block, keys);
        fold_rows(t, row, 1);
    }
}

/* ------------------------------------------------------------------------------------------------------ outputs */

/* A row's address in a tensor. */
static float *output_row(const attention_task *t, const qkv_output *x, int64_t row) {
    return (float *)x->data + t->b * x->batch + t->head[row] * x->head + t->query[row] * x->token;
}

/* The sink is one more state, (sink, 1, 0), folded last. */
static void fold_sinks(const attention_task *t, int64_t row, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        qkv_single_state(t->desc->sinks[t->head[row + i]], &t->block_max[i], &t->block_sum[i]);
    memset(t->block_out, 0, (size_t)(n * t->shape->ld_o) * sizeof(float));
    fold_rows(t, row, n);
}

/* O/ℓ of n rows, one head after the other: its queries follow each other in memory. */
static void write_out(const attention_task *t, int64_t row, int64_t n) {
    const qkv_output *out = &t->desc->out;
    int64_t group = t->shape->group, ld = t->shape->ld_o;
    for (int64_t first = row; first < row + qkv_min(group, n); first++) {
        float factors[QKV_MAX_ROWS];
        size_t count = rows_of_head(t, first, row + n);
        for (size_t i = 0; i < count; i++)
            factors[i] = qkv_inverse_sum(t->sum[first + (int64_t)i * group]);
        t->kernels->scale(output_row(t, out, first), out->token, t->out + first * ld, group * ld, factors, count,
                          (size_t)t->desc->head_dim_v);
    }
}

static void write_probabilities(const attention_task *t, int64_t row, float inverse) {
    const qkv_matrix_output *x = &t->desc->probabilities;
    float *to = (float *)x->data + t->b * x->batch + t->head[row] * x->head + t->query[row] * x->query;
    key_range all = visible_to_rows(t, row, 1);
    for (int64_t index = 0; index < t->shape->key_blocks; index++) {
        int64_t end = qkv_min(QKV_KEY_BLOCK, t->desc->seq_k - index * QKV_KEY_BLOCK);
        key_range keys = within_block(all, index);
        if (keys.first < keys.end) {
            key_block block = qkv_open_key_block(t, index, all);
            qkv_score_tile(t, row, 1, &block, keys);
            for (int64_t j = keys.first; j < keys.end; j++)
                t->logits[j] = t->scores[j] - t->max[row];
            t->kernels->exp2(t->logits + keys.first, (size_t)(keys.end - keys.first));
        }
        for (int64_t j = 0; j < end; j++, to += x->key) {
            bool seen = j >= keys.first && j < keys.end && !qkv_is_minus_infinity(t->scores[j]);
            *to = seen ? t->logits[j] * inverse : 0.0f;
        }
    }
}

static void finish(const attention_task *t) {
    const qkv_attention_desc *d = t->desc;
    for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
        int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
        uint32_t nan = t->kernels->nan_rows(t->out + row * t->shape->ld_o, t->shape->ld_o, (size_t)n,
                                            (size_t)d->head_dim_v);
        for (int64_t i = 0; nan >> i != 0; i++) {
            if (nan >> i & 1 && t->sum[row + i] == t->sum[row + i])
                attend_row_exactly(t, row + i);
        }
        if (d->sinks)
            fold_sinks(t, row, n);
        if (d->head_dim_v > 0)
            write_out(t, row, n);
        for (int64_t i = row; d->probabilities.data && i < row + n; i++)
            write_probabilities(t, i, qkv_inverse_sum(t->sum[i]));
        for (int64_t i = row; d->scores.data && i < row + n; i++)
            qkv_attention_write_scores(t, i);
    }
    for (int64_t row = 0; d->lse.data && row < t->rows; row++)
        *output_row(t, &d->lse, row) = qkv_log_sum_exp(t->kernels, t->max[row], t->sum[row]);
}

/* ------------------------------------------------------------------------------------------------------- phases */

enum attention_stage { PACK_KEYS, ATTEND_KEYS, MERGE_STATES };

int32_t qkv_attention_phases(const qkv_attention_shape *shape, int64_t num_tasks[3]) {
    int32_t n = 0;
    if (shape->pack_tasks > 0)
        num_tasks[n++] = shape->pack_tasks;
    num_tasks[n++] = shape->num_tasks * shape->key_chunks;
    if (shape->merge_tasks > 0)
        num_tasks[n++] = shape->merge_tasks;
    return n;
}

/* The states between the phases, in the workspace. */
static qkv_matrix_output inner_states(const qkv_attention_shape *shape, const qkv_attention_desc *d, void *workspace) {
    int64_t state = qkv_round_up(d->head_dim_v + 2, QKV_LANES), query = shape->key_blocks * state;
    int64_t head = d->seq_q * query;
    void *data = (unsigned char *)workspace + shape->packed_size;
    return (qkv_matrix_output){data, d->num_heads * head, head, query, state};
}

static void attend_chunk(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                         void *workspace, int64_t index, int32_t worker) {
    attention_task t;
    qkv_attention_desc divided = *d;
    if (shape->merge_tasks > 0)
        divided.states = inner_states(shape, d, workspace);
    qkv_attention_begin(&t, kernels, shape, &divided, workspace, index / shape->key_chunks, worker);
    if (divided.states.data) {
        int64_t first = index % shape->key_chunks * shape->chunk_blocks;
        qkv_attention_write_states(&t, first, qkv_min(first + shape->chunk_blocks, shape->key_blocks));
        return;
    }
    attend(&t);
    finish(&t);
}

static void merge_states(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                         void *workspace, int64_t index, int32_t worker) {
    qkv_matrix_output x = inner_states(shape, d, workspace);
    const qkv_merge_desc merge = {.size = sizeof merge,
                                  .batch = d->batch,
                                  .num_heads = d->num_heads,
                                  .seq_q = d->seq_q,
                                  .head_dim_v = d->head_dim_v,
                                  .num_parts = shape->key_blocks,
                                  .states = {x.data, x.batch, x.head, x.query, x.key},
                                  .sinks = d->sinks,
                                  .out = d->out,
                                  .lse = d->lse};
    qkv_merge_execute(kernels, &merge, qkv_attention_scratch(shape, workspace, worker), index);
}

void qkv_attention_execute(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                           void *workspace, int32_t phase, int64_t index, int32_t worker) {
    switch (phase + (shape->pack_tasks > 0 ? PACK_KEYS : ATTEND_KEYS)) {
    case PACK_KEYS: qkv_attention_pack_keys(kernels, shape, d, workspace, index); break;
    case ATTEND_KEYS: attend_chunk(kernels, shape, d, workspace, index, worker); break;
    default: merge_states(kernels, shape, d, workspace, index, worker); break;
    }
}
