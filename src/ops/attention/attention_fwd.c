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
 * keys, attention_block.c takes a tile through a key block, attention_scores.c computes S with all that may be added.)
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"

/* -------------------------------------------------------------------------------------------------------- folding */

static void fold_rows(const attention_task *t, int64_t row, int64_t n) {
    t->kernels->fold(t->max + row, t->sum + row, t->out + row * t->shape->ld_o, t->shape->ld_o, t->block_max,
                     t->block_sum, t->block_out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
}

/* The first block that a tile sees is its state: there is nothing yet to fold it into. */
static const float NOT_BEGUN = -1; /* an ℓ that no row has */

static void fold_block(const attention_task *t, int64_t row, int64_t n, key_block *block, const row_view *views,
                       key_range keys) {
    if (keys.first == keys.end)
        return;
    if (t->sum[row] == NOT_BEGUN) {
        qkv_attend_block(t, row, n, block, views, keys, t->max + row, t->sum + row, t->out + row * t->shape->ld_o);
        return;
    }
    qkv_attend_block(t, row, n, block, views, keys, t->block_max, t->block_sum, t->block_out);
    fold_rows(t, row, n);
}

/* All rows of the task against every key block that any of them sees. */
static void attend(const attention_task *t) {
    for (int64_t row = 0; row < t->rows; row += t->tile)
        t->sum[row] = NOT_BEGUN;
    qkv_visit_blocks(t, blocks_of(visible_to_rows(t, 0, t->rows)), fold_block);
    for (int64_t row = 0; row < t->rows; row += t->tile) {
        if (t->sum[row] == NOT_BEGUN)
            qkv_clear_rows(t, row, qkv_min(t->tile, t->rows - row));
    }
}

/* ------------------------------------------------------------------------------------------------------ outputs */

/* A row's address in a tensor. */
static float *output_row(const attention_task *t, const qkv_output *x, int64_t row) {
    return (float *)x->data + t->query_b * x->batch + t->head[row] * x->head + t->query[row] * x->token;
}

static void *stored_output_row(const attention_task *t, const qkv_output *x, int32_t type, int64_t row) {
    return (unsigned char *)x->data +
           qkv_stored_bytes(type, t->query_b * x->batch + t->head[row] * x->head + t->query[row] * x->token);
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
    int32_t type = qkv_out_type(t->desc);
    size_t dim = (size_t)t->desc->head_dim_v;
    for (int64_t first = row; first < row + qkv_min(group, n); first++) {
        float factors[QKV_MAX_ROWS];
        size_t count = rows_of_head(t, first, row + n);
        for (size_t i = 0; i < count; i++)
            factors[i] = qkv_inverse_sum(t->sum[first + (int64_t)i * group]);
        float *from = t->out + first * ld;
        if (type == QKV_F32) {
            t->kernels->scale(output_row(t, out, first), out->token, from, group * ld, factors, count, dim);
            continue;
        }
        t->kernels->scale(from, group * ld, from, group * ld, factors, count, dim);
        t->kernels->narrow(stored_output_row(t, out, type, first), qkv_stored_bytes(type, out->token), from, group * ld,
                           type, count, dim);
    }
}

static void write_probabilities(const attention_task *t, int64_t row, float inverse) {
    const qkv_matrix_output *x = &t->desc->probabilities;
    float *to = (float *)x->data + t->query_b * x->batch + t->head[row] * x->head + t->query[row] * x->query;
    key_range all = visible_to_rows(t, row, 1);
    key_block block;
    row_view view;
    for (int64_t index = 0; index < t->shape->key_blocks; index++) {
        int64_t end = qkv_min(QKV_KEY_BLOCK, t->desc->seq_k - index * QKV_KEY_BLOCK);
        key_range keys = qkv_view_rows(t, row, 1, index, &view);
        if (keys.first < keys.end) {
            qkv_open_key_block(t, &block, index, all);
            qkv_score_tile(t, row, 1, &block, &view, keys);
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
        if (d->sinks)
            fold_sinks(t, row, n);
        if (d->head_dim_v > 0)
            write_out(t, row, n);
        for (int64_t i = row; qkv_wants_probabilities(d) && i < row + n; i++)
            write_probabilities(t, i, qkv_inverse_sum(t->sum[i]));
        for (int64_t i = row; qkv_wants_scores(d) && i < row + n; i++)
            qkv_attention_write_scores(t, i);
    }
    for (int64_t row = 0; d->lse.data && row < t->rows; row++)
        *output_row(t, &d->lse, row) = qkv_log_sum_exp(t->kernels, t->max[row], t->sum[row]);
}

/* ------------------------------------------------------------------------------------------------------- phases */

enum attention_stage { PACK_KEYS, ATTEND_KEYS, FOLD_STATES };

int32_t qkv_attention_phases(const qkv_attention_shape *shape, int64_t num_tasks[3]) {
    int32_t n = 0;
    if (shape->packed_blocks > 0)
        num_tasks[n++] = shape->num_tasks / shape->row_blocks * shape->packed_blocks;
    num_tasks[n++] = shape->num_tasks * shape->key_chunks;
    if (QKV_WITH(WORKERS) && shape->state_blocks > 0)
        num_tasks[n++] = shape->num_tasks;
    return n;
}

/* Chunk `index` of the key blocks that the task's rows see; they are divided evenly. */
static void attend_chunk(const attention_task *t, int64_t index) {
    key_range seen = blocks_of(visible_to_rows(t, 0, t->rows));
    int64_t n = seen.end - seen.first, chunks = t->shape->key_chunks;
    key_range blocks = {seen.first + n * index / chunks, seen.first + n * (index + 1) / chunks};
    if (blocks.first == blocks.end)
        return;
    qkv_attention_scale_queries(t);
    qkv_attention_keep_states(t, blocks);
}

void qkv_attention_execute(const qkv_kernels *kernels, const qkv_attention_shape *shape, const qkv_attention_desc *d,
                           void *workspace, int32_t phase, int64_t index, int32_t worker) {
    int32_t stage = phase + (shape->packed_blocks > 0 ? PACK_KEYS : ATTEND_KEYS);
    attention_task t;
    if (stage == PACK_KEYS) {
        qkv_attention_pack_keys(kernels, shape, d, workspace, index, worker);
        return;
    }
    int64_t rows = index; /* which block of them */
    if (QKV_WITH(WORKERS) && stage == ATTEND_KEYS)
        rows /= shape->key_chunks;
    qkv_attention_begin(&t, kernels, shape, d, workspace, rows, worker);
    if (t.rows == 0) /* of packed sequences a plan knows how many blocks of rows there are at most */
        return;
    if (QKV_WITH(WORKERS) && stage == FOLD_STATES) {
        qkv_attention_fold_states(&t);
        finish(&t);
    } else if (QKV_WITH(WORKERS) && shape->state_blocks > 0) {
        attend_chunk(&t, index % shape->key_chunks);
    } else {
        qkv_attention_scale_queries(&t);
        if (qkv_wants_states(d)) {
            qkv_attention_write_states(&t);
        } else {
            attend(&t);
            finish(&t);
        }
    }
}
