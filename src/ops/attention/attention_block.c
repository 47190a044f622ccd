/* A block of keys: the state (m_b, ℓ_b, O_b) that a tile of rows has from it, and how a task's tiles meet its blocks.
 *
 * Keys that a row must not see get the score −inf and so the weight +0. The product P·V still multiplies their V by
 * it, which is harmless unless V holds an infinity or NaN there. As 0·∞ leaves a NaN behind, one in O_b tells that the
 * block may have such keys, its holes. From then on tiles that see all holes are multiplied as they are, others with
 * zeros in their place; only rows that see some but not all are done one by one, by a loop that skips or, in bfloat16,
 * with zeros of their own.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "dropout.h"

/* ------------------------------------------------------------------------------------------------ one key block */

/* For n rows from row `from` of the tile on; filled: zeros in place of the block's holes. */
static void multiply_values(const attention_task *t, int64_t from, int64_t n, const key_block *block, bool filled,
                            key_range keys, const qkv_soon *soon, float *out) {
    int64_t ld_o = t->shape->ld_o;
    out += from * ld_o;
    if (qkv_converts(t->desc)) {
        qkv_bf16_multiply_values(t, from, n, filled ? t->pairs_filled : t->pairs, keys, soon, out);
        return;
    }
    int64_t ld_v = filled ? ld_o : block->ld_v;
    const float *v = filled ? t->values : block->v;
    t->kernels->gemm(out, ld_o, t->scores + from * LD_SCORES + keys.first, LD_SCORES, v + keys.first * ld_v, ld_v,
                     QKV_PANEL, (size_t)n, (size_t)t->desc->head_dim_v, (size_t)(keys.end - keys.first), 0, soon);
}

/* The same with values as they are stored: one chain over all places that they lie in. */
static void multiply_stored_values(const attention_task *t, int64_t row, int64_t n, const key_block *block,
                                   key_range keys, float *out) {
    const qkv_attention_desc *d = t->desc;
    const size_t rows = (size_t)n, dim = (size_t)d->head_dim_v;
    int64_t base = block->index * QKV_KEY_BLOCK, stride = qkv_stored_bytes(qkv_v_type(d), d->v.token), run;
    for (int64_t j = keys.first; j < keys.end; j += run) {
        const void *v = qkv_key_run(t, &d->v, qkv_v_type(d), base + j, base + keys.end, &run);
        const qkv_soon share = qkv_soon_keys(t, block, row, n, (key_range){j, j + run}, keys);
        if (qkv_converts(d))
            t->kernels->gemm_stored_bf16(out, t->shape->ld_o, t->scores, qkv_bf16_ld_weights(t->kernels), (size_t)j, v,
                                         stride, qkv_v_type(d), rows, dim, (size_t)run, j > keys.first, &share);
        else
            t->kernels->gemm_stored(out, t->shape->ld_o, t->scores + j, LD_SCORES, v, stride, qkv_v_type(d), rows, dim,
                                    (size_t)run, j > keys.first, &share);
    }
}

/* The state of one row, by a loop that skips what the row does not see. */
static void attend_row_exactly(const attention_task *t, int64_t row, key_block *block, const row_view *view,
                               key_range keys, float *max, float *sum, float *out) {
    const qkv_kernels *kernels = t->kernels;
    qkv_widen_stored(t, block);
    key_range columns = qkv_score_tile(t, row, 1, block, view, keys);
    size_t width = (size_t)(columns.end - columns.first);
    memcpy(t->logits + columns.first, t->scores + columns.first, width * sizeof(float));
    if (qkv_converts(t->desc))
        kernels->softmax_bf16(t->scores, LD_SCORES, (size_t)columns.first, 1, width, max, sum, 0);
    else
        kernels->softmax(t->scores + columns.first, LD_SCORES, 1, width, max, sum);
    qkv_drop_tile(t, t->scores, row, 1, block->index, columns);
    /* What is not seen is not used. */
    for (int64_t j = keys.first; qkv_v_type(t->desc) == QKV_INT8 && j < keys.end; j++)
        t->scores[j] *= t->value_scales[j];
    if (qkv_converts(t->desc)) {
        qkv_bf16_sum_visible(t, block, keys, columns, out);
        return;
    }
    kernels->sum_visible(out, t->scores + keys.first, t->logits + keys.first, block->v + keys.first * block->ld_v,
                         block->ld_v, (size_t)(keys.end - keys.first), (size_t)t->desc->head_dim_v);
}

/* Bits of the rows of a tile of logits that see some of the block's holes among the keys; of those that see all. */
static void see_holes(const attention_task *t, int64_t n, const key_block *block, key_range keys, uint32_t *some,
                      uint32_t *all) {
    *some = 0;
    *all = UINT32_MAX;
    for (int64_t x = 0; x < block->num_holes; x++) {
        int64_t j = block->hole[x];
        for (int64_t i = 0; i < n && j >= keys.first && j < keys.end; i++) {
            bool seen = !qkv_is_minus_infinity(t->scores[i * LD_SCORES + j]);
            *some |= (uint32_t)seen << i;
            *all &= ~((uint32_t)!seen << i);
        }
    }
}

/* Rows with a NaN that may come from a key they don't see; it does not if their logits have one. */
static uint32_t suspect_rows(const attention_task *t, int64_t n, const float *sum, const float *out) {
    uint32_t rows = t->kernels->nan_rows(out, t->shape->ld_o, (size_t)n, (size_t)t->desc->head_dim_v);
    for (int64_t i = 0; rows >> i != 0; i++)
        rows &= ~((uint32_t)(sum[i] != sum[i]) << i);
    return rows;
}

/* From scores to what V is multiplied by, in place; in bfloat16 operands of such products. */
static void make_weights(const attention_task *t, int64_t row, int64_t n, const key_block *block, key_range keys,
                         key_range columns, float *max, float *sum) {
    const qkv_kernels *kernels = t->kernels;
    const bool converts = qkv_converts(t->desc), scales = qkv_v_type(t->desc) == QKV_INT8;
    const bool steps = qkv_dropout_rate(t->desc) != 0 || scales;
    const size_t rows = (size_t)n, first = (size_t)columns.first, width = (size_t)(columns.end - columns.first);
    if (converts)
        kernels->softmax_bf16(t->scores, LD_SCORES, first, rows, width, max, sum, !steps);
    else
        kernels->softmax(t->scores + first, LD_SCORES, rows, width, max, sum);
    qkv_drop_tile(t, t->scores, row, n, block->index, columns);
    if (qkv_v_type(t->desc) == QKV_INT8)
        kernels->scale_columns(t->scores + keys.first, LD_SCORES, rows, (size_t)(keys.end - keys.first),
                               t->value_scales + keys.first);
    if (converts && steps)
        kernels->rows_bf16(t->scores, qkv_bf16_ld_weights(kernels), first, t->scores + first, LD_SCORES, rows, width);
}

void qkv_attend_block(const attention_task *t, int64_t row, int64_t n, key_block *block, const row_view *views,
                      key_range keys, float *max, float *sum, float *out) {
    int64_t ld_o = t->shape->ld_o;
    const bool converts = qkv_converts(t->desc);
    const bool few = t->shape->rows <= t->kernels->few_rows;
    if (converts && !few && !block->paired) {
        qkv_bf16_pair_block(t, t->pairs, block);
        block->paired = true;
    }
    if (n == 1 && views->keep && !converts) { /* a single row is as fast this way */
        attend_row_exactly(t, row, block, views, keys, max, sum, out);
        return;
    }
    for (int64_t i = 0; block->odd_scales && i < n; i++)
        attend_row_exactly(t, row + i, block, views + i, keys, max + i, sum + i, out + i * ld_o);
    if (block->odd_scales)
        return;
    key_range columns = qkv_score_tile(t, row, n, block, views, keys);
    const qkv_soon soon = share_of(t, &block->next_k, row, n);
    uint32_t some = 0, all = UINT32_MAX, rows = (UINT32_C(1) << n) - 1;
    key_range multiplied = converts ? whole_pairs(keys) : keys;
    if (block->num_holes > 0)
        see_holes(t, n, block, multiplied, &some, &all);
    make_weights(t, row, n, block, keys, columns, max, sum);
    if (block->num_holes == 0 || (all & rows) == rows) {
        if (block->is_stored || (converts && few))
            multiply_stored_values(t, row, n, block, keys, out);
        else
            multiply_values(t, 0, n, block, false, multiplied, &soon, out);
        if (block->num_holes > 0)
            return;
        some = suspect_rows(t, n, sum, out);
        if (some != 0 && !few) {
            if (!block->searched && qkv_find_holes(t, block))
                qkv_attend_block(t, row, n, block, views, keys, max, sum, out);
            return;
        }
        all = 0;
    } else {
        multiply_values(t, 0, n, block, true, multiplied, &soon, out);
    }
    for (int64_t i = 0; i < n; i++) {
        if (some & all & rows & UINT32_C(1) << i)
            multiply_values(t, i, 1, block, false, multiplied, NULL, out);
    }
    for (int64_t i = 0; i < n; i++) { /* last, as it needs the room of the scores */
        if (some & ~all & UINT32_C(1) << i)
            attend_row_exactly(t, row + i, block, views + i, keys, max + i, sum + i, out + i * ld_o);
    }
}

/* ---------------------------------------------------------------------------------------------------- key blocks */

void qkv_visit_blocks(const attention_task *t, key_range blocks, qkv_visit *visit) {
    key_range all = visible_to_rows(t, 0, t->rows);
    key_block block;
    row_view views[QKV_MAX_ROWS];
    for (int64_t index = blocks.first; index < blocks.end; index++) {
        int64_t place = (index - blocks.first) % SURVEYED_BLOCKS;
        bool open = false;
        block.index = index;
        if (QKV_WITH(MASKS) && t->shown && place == 0)
            qkv_survey_mask(t, index);
        for (int64_t row = 0; row < t->rows; row += t->tile) {
            int64_t n = qkv_min(t->tile, t->rows - row);
            bool hidden = QKV_WITH(MASKS) && t->shown && (t->shown[row / t->tile] >> place & 1) == 0;
            key_range keys = hidden ? (key_range){0, 0} : qkv_view_rows(t, row, n, index, views);
            if (keys.first < keys.end && !open) {
                qkv_open_key_block(t, &block, index, all);
                open = true;
            }
            visit(t, row, n, &block, views, keys);
        }
    }
}

void qkv_clear_rows(const attention_task *t, int64_t row, int64_t n) {
    for (int64_t i = row; i < row + n; i++) {
        t->max[i] = -FLT_MAX;
        t->sum[i] = 0;
    }
    memset(t->out + row * t->shape->ld_o, 0, (size_t)(n * t->shape->ld_o) * sizeof(float));
}
