/* Attention as a plain program in float would compute it: one pass for the logits, one for the maximum, one for expf
 * and the sum, one for the weighted mean; no blocks, no fma. What "as accurate as unfused f32" is measured against.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <stdlib.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

static const float *row_of(const qkv_input *in, int64_t b, int64_t h, int64_t t) {
    return (const float *)in->data + b * in->batch + h * in->head + t * in->token;
}

static int64_t place_in(const qkv_matrix_input *m, int64_t b, int64_t h, int64_t i, int64_t j) {
    return b * m->batch + h * m->head + i * m->query + j * m->key;
}

/* −INFINITY where the key is not visible. */
static float logit_f32(const qkv_attention_desc *d, const float *q, const float *k, int64_t b, int64_t h, int64_t i,
                       int64_t j) {
    if (!oracle_sees(d, b, h, i, j))
        return -INFINITY;
    float s = 0;
    for (int64_t x = 0; x < d->head_dim; x++)
        s += q[x] * k[x];
    s *= d->scale == 0 ? 1 / sqrtf((float)d->head_dim) : d->scale;
    if (d->softcap > 0)
        s = d->softcap * tanhf(s / d->softcap);
    if (d->alibi_slopes)
        s += d->alibi_slopes[h] * (float)(j - i - (d->q_offsets ? d->q_offsets[b] : d->q_offset));
    if (d->bias.data)
        s += ((const float *)d->bias.data)[place_in(&d->bias, b, h, i, j)];
    return s;
}

void oracle_unfused_f32(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i, float *out) {
    const int64_t kv = h / (d->num_heads / (d->num_kv_heads ? d->num_kv_heads : d->num_heads));
    const int64_t dv = d->head_dim_v ? d->head_dim_v : d->head_dim;
    float *p = oracle_alloc((size_t)d->seq_k, sizeof *p);
    float m = d->sinks ? d->sinks[h] : -INFINITY;
    for (int64_t j = 0; j < d->seq_k; j++) {
        p[j] = logit_f32(d, row_of(&d->q, b, h, i), row_of(&d->k, b, kv, j), b, h, i, j);
        m = fmaxf(m, p[j]);
    }
    float sum = 0;
    for (int64_t j = 0; j < d->seq_k; j++) {
        p[j] = p[j] == -INFINITY ? 0 : expf(p[j] - m);
        sum += p[j];
    }
    if (d->sinks && d->sinks[h] != -INFINITY)
        sum += expf(d->sinks[h] - m);
    for (int64_t c = 0; c < dv; c++) {
        float o = 0;
        for (int64_t j = 0; j < d->seq_k; j++)
            if (p[j] != 0)
                o += p[j] * (float)oracle_dropout_factor(d, b, h, i, j) * row_of(&d->v, b, kv, j)[c];
        out[c] = sum == 0 ? 0 : o / sum;
    }
    free(p);
}
