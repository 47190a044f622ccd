/* The products of attention in bfloat16. Operands are those of the kernels' gemm_bf16, whose form is theirs: q and
 * the weights in rows, K in panels of 64 keys, V in panels of 64 channels. Pairs of V are neighbouring keys, counted
 * from the block's first; a key that is not there counts as 0.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_task.h"

#if QKV_WITH(BF16)

/* -------------------------------------------------------------------------------------------------------------- K */

/* Some columns of one panel, from `first` on, a multiple of QKV_LANES. */
static void multiply_panel(const qkv_kernels *kernels, float *c, const void *a, int64_t lda, int64_t row, int64_t n,
                           const void *panel, int64_t dim, int64_t first, int64_t width, const qkv_soon *soon) {
    const unsigned char *columns = (const unsigned char *)panel + first * (int64_t)sizeof(float);
    int64_t x = 0;
    do {
        kernels->gemm_bf16(c, LD_SCORES, a, lda, (size_t)(row * lda + x), columns + qkv_bf16_panel_bytes(kernels, x),
                           (size_t)n, (size_t)width, (size_t)qkv_min(QKV_CHAIN, dim - x), x > 0, x == 0 ? soon : NULL);
        x += QKV_CHAIN;
    } while (x < dim);
}

void qkv_bf16_multiply(const qkv_kernels *kernels, float *c, const void *a, int64_t lda, int64_t row, int64_t n,
                       const void *panels, int64_t dim, key_range columns, const qkv_soon *soon) {
    int64_t size = qkv_bf16_panel_bytes(kernels, dim), width;
    for (int64_t j = columns.first; j < columns.end; j += width, soon = NULL) {
        int64_t first = j % QKV_PANEL;
        width = qkv_min(QKV_PANEL - first, columns.end - j);
        const void *panel = (const unsigned char *)panels + j / QKV_PANEL * size;
        multiply_panel(kernels, c + j, a, lda, row, n, panel, dim, first, width, soon);
    }
}

/* -------------------------------------------------------------------------------------------------------------- V */

/* A panel of a block of V. */
static int64_t value_panel_size(const qkv_kernels *kernels, const qkv_attention_desc *d) {
    return qkv_bf16_panel_bytes(kernels, qkv_min(QKV_KEY_BLOCK, qkv_round_up(d->seq_k, QKV_PANEL)));
}

int64_t qkv_bf16_values_size(const qkv_kernels *kernels, const qkv_attention_desc *d) {
    return qkv_ceil_div(d->head_dim_v, QKV_PANEL) * value_panel_size(kernels, d);
}

void qkv_bf16_pair_rows(const qkv_kernels *kernels, void *pairs, int64_t size, const void *from, int64_t stride,
                        int32_t type, int64_t channels, int64_t first, int64_t n) {
    for (int64_t c = 0; c < channels; c += QKV_PANEL)
        kernels->values_bf16((unsigned char *)pairs + c / QKV_PANEL * size,
                             (const unsigned char *)from + qkv_stored_bytes(type, c), stride, type, (size_t)first,
                             (size_t)n, (size_t)qkv_min(QKV_PANEL, channels - c));
}

/* n keys from key `first` of the block on, at one stride. */
static void pair_values(const attention_task *t, void *pairs, const void *from, int64_t stride, int32_t type,
                        int64_t first, int64_t n) {
    qkv_bf16_pair_rows(t->kernels, pairs, value_panel_size(t->kernels, t->desc), from, stride, type,
                       t->desc->head_dim_v, first, n);
}

void qkv_bf16_pair_block(const attention_task *t, void *pairs, const key_block *block) {
    const qkv_attention_desc *d = t->desc;
    int64_t base = block->index * QKV_KEY_BLOCK, run;
    for (int64_t j = block->keys.first; j < block->keys.end; j += run) {
        const void *from = qkv_key_run(t, &d->v, qkv_v_type(d), base + j, base + block->keys.end, &run);
        pair_values(t, pairs, from, qkv_stored_bytes(qkv_v_type(d), d->v.token), qkv_v_type(d), j, run);
    }
}

/* Two keys of a block from an even one on, as floats; where one is not there, it stays as it was. */
static void widen_two(const attention_task *t, const key_block *block, int64_t key) {
    const qkv_attention_desc *d = t->desc;
    int64_t base = block->index * QKV_KEY_BLOCK, ld = t->shape->ld_o;
    int64_t first = qkv_max(key, block->keys.first), end = qkv_min(key + 2, block->keys.end);
    qkv_widen_keys(t, &d->v, qkv_v_type(d), d->head_dim_v, base + first, base + end, t->two_values + (first - key) * ld,
                   ld);
}

/* A pair of keys anew, from key j on, with zeros in place of hidden ones. */
static void pair_without(const attention_task *t, void *pairs, const key_block *block, int64_t j,
                         const bool hidden[2]) {
    const int64_t ld = t->shape->ld_o, bytes = ld * (int64_t)sizeof(float);
    widen_two(t, block, j);
    for (int64_t i = 0; i < 2; i++) {
        if (hidden[i] || j + i < block->keys.first || j + i >= block->keys.end)
            memset(t->two_values + i * ld, 0, (size_t)bytes);
    }
    pair_values(t, pairs, t->two_values, bytes, QKV_F32, j, 2);
}

bool qkv_bf16_find_holes(const attention_task *t, key_block *block) {
    const int64_t most = t->kernels->tile_rows, base = block->index * QKV_KEY_BLOCK, ld = t->shape->ld_o;
    const size_t dim = (size_t)t->desc->head_dim_v;
    float twos[QKV_MAX_ROWS]; /* what may round to infinity is one then */
    for (int i = 0; i < QKV_MAX_ROWS; i++)
        twos[i] = 2;
    block->searched = true;
    for (int64_t j = block->keys.first, n; j < block->keys.end; j += n) {
        n = qkv_min(most, block->keys.end - j);
        qkv_widen_keys(t, &t->desc->v, qkv_v_type(t->desc), t->desc->head_dim_v, base + j, base + j + n, t->block_out,
                       ld);
        t->kernels->scale(t->block_out, ld, t->block_out, ld, twos, (size_t)n, dim);
        qkv_mark_holes(t, block, t->block_out, ld, j, n);
    }
    if (block->num_holes == 0)
        return false;
    qkv_bf16_pair_block(t, t->pairs_filled, block);
    for (int64_t i = 0, next; i < block->num_holes; i = next) {
        const int64_t j = block->hole[i] / 2 * 2;
        bool hidden[2] = {false, false};
        for (next = i; next < block->num_holes && block->hole[next] / 2 * 2 == j; next++)
            hidden[block->hole[next] - j] = true;
        pair_without(t, t->pairs_filled, block, j, hidden);
    }
    return true;
}

void qkv_bf16_multiply_values(const attention_task *t, int64_t from, int64_t n, const void *pairs, key_range keys,
                              const qkv_soon *soon, float *out) {
    const qkv_attention_desc *d = t->desc;
    int64_t size = value_panel_size(t->kernels, d), ld = qkv_bf16_ld_weights(t->kernels);
    for (int64_t c = 0; c < d->head_dim_v; c += QKV_PANEL, soon = NULL)
        t->kernels->gemm_bf16(
            out + c, t->shape->ld_o, t->scores, ld, (size_t)(from * ld + keys.first),
            (const unsigned char *)pairs + c / QKV_PANEL * size + qkv_bf16_panel_bytes(t->kernels, keys.first),
            (size_t)n, (size_t)qkv_min(QKV_PANEL, d->head_dim_v - c), (size_t)(keys.end - keys.first), 0, soon);
}

/* Zeros in place of what the row does not see leave its chain as it would be without. */
void qkv_bf16_sum_visible(const attention_task *t, const key_block *block, key_range keys, key_range columns,
                          float *out) {
    qkv_bf16_pair_block(t, t->pairs_seen, block);
    for (int64_t x = columns.first; x < columns.end; x++) /* a scale may have made NaN of 0 */
        t->scores[x] = qkv_is_minus_infinity(t->logits[x]) ? 0 : t->scores[x];
    for (int64_t j = keys.first / 2 * 2; j < keys.end; j += 2) {
        const bool hidden[2] = {qkv_is_minus_infinity(t->logits[j]), qkv_is_minus_infinity(t->logits[j + 1])};
        if (hidden[0] || hidden[1])
            pair_without(t, t->pairs_seen, block, j, hidden);
    }
    t->kernels->rows_bf16(t->scores, qkv_bf16_ld_weights(t->kernels), (size_t)columns.first, t->scores + columns.first,
                          LD_SCORES, 1, (size_t)(columns.end - columns.first));
    qkv_bf16_multiply_values(t, 0, 1, t->pairs_seen, whole_pairs(keys), NULL, out);
}

#endif
