/* Options of attention and of projections as a build has them: one that it leaves out (../config.h) reads as not given,
 * as a constant, so that compilers drop what it is for. What plans check and refuse, they read from the descriptor.
 *
 * SPDX-License-Identifier: MIT */
#ifndef QKV_BUILD_OPTIONS_H
#define QKV_BUILD_OPTIONS_H

#include <stdbool.h>

#include "../config.h"
#include "qkv.h"

QKV_INTERNAL_BEGIN

static inline int32_t qkv_q_type(const qkv_attention_desc *d) {
    return QKV_WITH(STORED) ? d->q_type : QKV_F32;
}

static inline int32_t qkv_k_type(const qkv_attention_desc *d) {
    return QKV_WITH(STORED) ? d->k_type : QKV_F32;
}

static inline int32_t qkv_v_type(const qkv_attention_desc *d) {
    return QKV_WITH(STORED) ? d->v_type : QKV_F32;
}

static inline int32_t qkv_out_type(const qkv_attention_desc *d) {
    return QKV_WITH(STORED) ? d->out_type : QKV_F32;
}

static inline const int32_t *qkv_page_table(const qkv_attention_desc *d) {
    return QKV_WITH(PAGES) ? d->page_table : NULL;
}

static inline const int64_t *qkv_q_start(const qkv_attention_desc *d) {
    return QKV_WITH(PAGES) ? d->q_start : NULL;
}

static inline const int64_t *qkv_k_start(const qkv_attention_desc *d) {
    return QKV_WITH(PAGES) ? d->k_start : NULL;
}

static inline bool qkv_keys_in_panels(const qkv_attention_desc *d) {
    return QKV_WITH(PAGES) && d->k_layout == QKV_KEY_PANELS;
}

static inline const uint8_t *qkv_keep(const qkv_attention_desc *d) {
    return QKV_WITH(MASKS) ? d->keep.data : NULL;
}

static inline const float *qkv_bias(const qkv_attention_desc *d) {
    return QKV_WITH(MASKS) ? d->bias.data : NULL;
}

static inline const float *qkv_alibi(const qkv_attention_desc *d) {
    return QKV_WITH(MASKS) ? d->alibi_slopes : NULL;
}

static inline float qkv_softcap(const qkv_attention_desc *d) {
    return QKV_WITH(MASKS) ? d->softcap : 0;
}

static inline const int64_t *qkv_key_ranges(const qkv_attention_desc *d) {
    return QKV_WITH(MASKS) ? d->key_ranges.data : NULL;
}

/* Whether keys in the middle are hidden: between the first tokens and the window. */
static inline bool qkv_has_gap(const qkv_attention_desc *d) {
    return QKV_WITH(MASKS) && d->flags & QKV_LEFT && d->first_tokens > 0;
}

static inline float qkv_dropout_rate(const qkv_attention_desc *d) {
    return QKV_WITH(DROPOUT) ? d->dropout : 0;
}

static inline bool qkv_wants_states(const qkv_attention_desc *d) {
    return QKV_WITH(MERGE) && d->states.data;
}

static inline bool qkv_wants_scores(const qkv_attention_desc *d) {
    return QKV_WITH(SCORES) && d->scores.data;
}

static inline bool qkv_wants_probabilities(const qkv_attention_desc *d) {
    return QKV_WITH(SCORES) && d->probabilities.data;
}

static inline bool qkv_in_bf16(const qkv_attention_desc *d) {
    return QKV_WITH(BF16) && d->arithmetic == QKV_ARITHMETIC_BF16;
}

static inline bool qkv_in_int8(const qkv_attention_desc *d) {
    return QKV_WITH(BF16) && QKV_WITH(QUANTIZED) && d->arithmetic == QKV_ARITHMETIC_INT8;
}

/* Whether operands are rounded to fewer bits: those of Q·Kᵀ as the arithmetic says, those of P·V to bfloat16. */
static inline bool qkv_converts(const qkv_attention_desc *d) {
    return QKV_WITH(BF16) && d->arithmetic != QKV_ARITHMETIC_F32;
}

/* Whether scores are multiplied by the scales of keys after the product. */
static inline bool qkv_scales_scores(const qkv_attention_desc *d) {
    return qkv_k_type(d) == QKV_INT8 && !qkv_in_int8(d);
}

/* --- of projections */

static inline bool qkv_weights_in_int8(const qkv_projection_desc *d) {
    return QKV_WITH(QUANTIZED) && d->arithmetic == QKV_ARITHMETIC_INT8;
}

static inline bool qkv_weights_in_bf16(const qkv_projection_desc *d) {
    return QKV_WITH(BF16) && d->arithmetic == QKV_ARITHMETIC_BF16;
}

/* Whether rows are converted for it. */
static inline bool qkv_converts_rows(const qkv_projection_desc *d) {
    return qkv_weights_in_int8(d) || qkv_weights_in_bf16(d);
}

static inline const float *qkv_norm(const qkv_head_steps *steps) {
    return QKV_WITH(ROPE) ? steps->norm : NULL;
}

static inline bool qkv_rotates(const qkv_head_steps *steps) {
    return QKV_WITH(ROPE) && steps->rotate;
}

static inline int64_t qkv_stores(const qkv_head_steps *steps) {
    return QKV_WITH(CACHE) ? steps->store : 0;
}

static inline bool qkv_has_head_steps(const qkv_head_steps *steps) {
    return qkv_norm(steps) || qkv_rotates(steps) || qkv_stores(steps);
}

QKV_INTERNAL_END

#endif
