/* Attention that ends early: the state (m, ℓ, O) of every key block, for folding elsewhere.
 * SPDX-License-Identifier: MIT */
#include "attention_task.h"

#include <string.h>

static void write_state(const attention_task *t, int64_t row, int64_t block, float max, float sum, const float *out) {
    const qkv_matrix_output *x = &t->desc->states;
    float *state = (float *)x->data + t->b * x->batch + t->head[row] * x->head + t->query[row] * x->query +
                   block * x->key;
    int64_t n = t->desc->head_dim_v;
    qkv_scale_row(t->kernels, state, out, 1.0f, (size_t)n);
    state[n] = sum == sum ? max + 0.0f : sum;
    state[n + 1] = sum;
}

static void write_empty_states(const attention_task *t, int64_t row, int64_t n, int64_t block) {
    memset(t->block_out, 0, (size_t)t->shape->ld_o * sizeof(float));
    for (int64_t i = row; i < row + n; i++)
        write_state(t, i, block, -FLT_MAX, 0.0f, t->block_out);
}

/* The states of n rows and a key block; keys is what they see of it. */
static void write_tile_states(const attention_task *t, int64_t row, int64_t n, const key_block *block, key_range keys) {
    qkv_attend_block(t, row, n, block, keys, t->block_max, t->block_sum, t->block_out);
    uint32_t again = t->kernels->nan_rows(t->block_out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
    for (int64_t i = 0; i < n; i++)
        write_state(t, row + i, block->index, t->block_max[i], t->block_sum[i], t->block_out + i * t->shape->ld_o);
    for (int64_t i = row; again != 0; i++, again >>= 1) {
        key_range seen = within_block(visible_to_rows(t, i, 1), block->index);
        if (!(again & 1))
            continue;
        if (seen.first == seen.end) {
            write_empty_states(t, i, 1, block->index);
            continue;
        }
        qkv_attend_block_exactly(t, i, block, seen);
        write_state(t, i, block->index, t->block_max[0], t->block_sum[0], t->block_out);
    }
}

void qkv_attention_write_states(const attention_task *t, int64_t first, int64_t end) {
    key_range all = visible_to_rows(t, 0, t->rows);
    all.end = qkv_min(all.end, end * QKV_KEY_BLOCK);
    for (int64_t index = first; index < end; index++) {
        key_block block = qkv_open_key_block(t, index, all);
        for (int64_t row = 0; row < t->rows; row += t->kernels->tile_rows) {
            int64_t n = qkv_min(t->kernels->tile_rows, t->rows - row);
            key_range keys = within_block(visible_to_rows(t, row, n), index);
            if (keys.first < keys.end)
                write_tile_states(t, row, n, &block, keys);
            else
                write_empty_states(t, row, n, index);
        }
    }
}
