/* Dropout. Whether a pair is kept follows from the seed, the offset and its place alone: word ⌊j/16⌋ mod 4 of Philox
 * 4x32-10 under the counter
 *
 *   (16·⌊j/64⌋ + j mod 16,  p,  low and high word of offset + b·num_heads + h)
 *
 * is compared with the rate. So one call of the generator decides about four keys, and vectors of any length take their
 * words from counters that follow each other.
 *
 * SPDX-License-Identifier: MIT */
#include "dropout.h"

#include "../../ref/philox.h"

#if QKV_WITH(DROPOUT)

/* The row of a query at position p of head h in batch b, from a key block on. */
static qkv_dropout drop_row(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t p, int64_t block) {
    const double words = 4294967296.0;
    double dropped = (double)qkv_dropout_rate(d) * words;
    uint64_t plane = d->dropout_offset + (uint64_t)b * (uint64_t)d->num_heads + (uint64_t)h;
    qkv_dropout x = {.key = {(uint32_t)d->dropout_seed, (uint32_t)(d->dropout_seed >> 32)},
                     .first_group = (uint32_t)(block * (QKV_KEY_BLOCK / QKV_PHILOX_KEYS)),
                     .counter = {(uint32_t)p, (uint32_t)plane, (uint32_t)(plane >> 32)},
                     .threshold = (uint32_t)dropped};
    x.scale = (float)(words / (words - (double)x.threshold));
    return x;
}

void qkv_drop_tile(const attention_task *t, float *p, int64_t row, int64_t n, int64_t block, key_range columns) {
    for (int64_t i = row; i < row + n && qkv_dropout_rate(t->desc) != 0; i++, p += LD_SCORES) {
        const qkv_dropout x = drop_row(t->desc, t->b, t->head[i], position_of(t, t->query[i]), block);
        t->kernels->dropout(p, (size_t)columns.first, (size_t)columns.end, &x);
    }
}

qkv_status qkv_dropout_mask(const qkv_attention_desc *desc, int64_t b, int64_t h, int64_t i, uint8_t *keep) {
    qkv_attention_desc d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    qkv_status status = qkv_attention_prepare(desc, &d, &unused);
    if (status != QKV_OK)
        return status;
    if (b < 0 || b >= d.batch || h < 0 || h >= d.num_heads || i < 0 || i >= d.seq_q)
        return QKV_ERROR_SHAPE;
    if (!keep && d.seq_k > 0)
        return QKV_ERROR_NULL;
    const qkv_dropout x = drop_row(&d, b, h, i + qkv_batch_q_offset(&d, b), 0);
    for (int64_t j = 0; j < d.seq_k; j++) {
        uint32_t words[4] = {(uint32_t)(j / QKV_PHILOX_KEYS * QKV_LANES + j % QKV_LANES), x.counter[0], x.counter[1],
                             x.counter[2]};
        qkv_philox(words, x.key);
        keep[j] = words[j / QKV_LANES % 4] >= x.threshold;
    }
    return QKV_OK;
}

#endif
