/* Dropout of attention's probabilities: which pairs are kept.  SPDX-License-Identifier: MIT */
#ifndef QKV_DROPOUT_H
#define QKV_DROPOUT_H

#include "attention_task.h"

/* Whether a rate is one. */
static inline bool qkv_is_dropout(float rate) {
    return rate >= 0 && rate < 1;
}

QKV_INTERNAL_BEGIN

/* p[i·LD_SCORES + j] becomes P′ = P/(1 − rate) or 0, for the n rows from `row` on and the columns, whole lanes, of a
 * key block. Without dropout nothing happens. Gradients of P′ become those of P by the same. */
void qkv_drop_tile(const attention_task *t, float *p, int64_t row, int64_t n, int64_t block, key_range columns);
#if !QKV_WITH(DROPOUT)
#define qkv_drop_tile(...) ((void)qkv_absent(0, __VA_ARGS__))
#endif

QKV_INTERNAL_END

#endif
