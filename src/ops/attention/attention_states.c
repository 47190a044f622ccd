/* Attention that ends early: the state (m, ℓ, O) of every key block, for folding later or elsewhere.
 * SPDX-License-Identifier: MIT */
#include "attention_task.h"

#include <string.h>

/* ------------------------------------------------------------------------------------------------- for the caller */

static void write_state(const attention_task *t, int64_t row, int64_t block, float max, float sum, const float *out) {
    const qkv_matrix_output *x = &t->desc->states;
    float *state =
        (float *)x->data + t->query_b * x->batch + t->head[row] * x->head + t->query[row] * x->query + block * x->key;
    qkv_store_state(t->kernels, state, max, sum, out, (size_t)t->desc->head_dim_v);
}

static void write_block(const attention_task *t, int64_t row, int64_t n, key_block *block, const row_view *views,
                        key_range keys) {
    int64_t ld = t->shape->ld_o;
    if (keys.first < keys.end)
        qkv_attend_block(t, row, n, block, views, keys, t->block_max, t->block_sum, t->block_out);
    else
        memset(t->block_out, 0, (size_t)ld * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        if (keys.first < keys.end)
            write_state(t, row + i, block->index, t->block_max[i], t->block_sum[i], t->block_out + i * ld);
        else
            write_state(t, row + i, block->index, -FLT_MAX, 0.0f, t->block_out);
    }
}

void qkv_attention_write_states(const attention_task *t) {
    qkv_visit_blocks(t, (key_range){0, t->shape->key_blocks}, write_block);
}

/* ------------------------------------------------------------------------------------------ between phases of a run */

/* m and ℓ of all rows, then O. */
int64_t qkv_attention_state_floats(const qkv_attention_shape *shape, int64_t rows) {
    return qkv_round_up(2 * rows, QKV_LANES) + rows * shape->ld_o;
}

typedef struct kept_state {
    float *max, *sum, *out;
} kept_state;

static kept_state state_of(const attention_task *t, int64_t row, int64_t block) {
    float *state = t->states + (block - t->first_state) * qkv_attention_state_floats(t->shape, t->rows);
    return (kept_state){state + row, state + t->rows + row,
                        state + qkv_round_up(2 * t->rows, QKV_LANES) + row * t->shape->ld_o};
}

static void keep_block(const attention_task *t, int64_t row, int64_t n, key_block *block, const row_view *views,
                       key_range keys) {
    kept_state state = state_of(t, row, block->index);
    if (keys.first < keys.end)
        qkv_attend_block(t, row, n, block, views, keys, state.max, state.sum, state.out);
    else
        memset(state.sum, 0, (size_t)n * sizeof(float));
}

void qkv_attention_keep_states(const attention_task *t, key_range blocks) {
    qkv_visit_blocks(t, blocks, keep_block);
}

static bool sees_nothing(const float *sum, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (sum[i] != 0)
            return false;
    }
    return true;
}

void qkv_attention_fold_states(const attention_task *t) {
    key_range blocks = blocks_of(visible_to_rows(t, 0, t->rows));
    qkv_clear_rows(t, 0, t->rows);
    for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
        int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
        for (int64_t block = blocks.first; block < blocks.end; block++) {
            kept_state state = state_of(t, row, block);
            if (!sees_nothing(state.sum, n))
                t->kernels->fold(t->max + row, t->sum + row, t->out + row * t->shape->ld_o, t->shape->ld_o, state.max,
                                 state.sum, state.out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
        }
    }
}
