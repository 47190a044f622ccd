/* Projections, merges and whole layers in double, with their bounds. See oracle.h.  SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <float.h>
#include <stdlib.h>

#define LOG2E 1.4426950408889634

/* The result is off by γ of the chain times Σ |x·w|, by what x itself is off, and by u of the sum with the bias. */
void oracle_projection_row(const double *x, const double *x_error, const float *w, const float *bias, int64_t in,
                           int64_t out, double *value, double *bound) {
    for (int64_t c = 0; c < out; c++) {
        double sum = 0, magnitude = 0, given = 0;
        for (int64_t k = 0; k < in; k++) {
            const double weight = (double)w[k * out + c];
            sum += x[k] * weight;
            magnitude += (fabs(x[k]) + (x_error ? x_error[k] : 0)) * fabs(weight);
            given += x_error ? x_error[k] * fabs(weight) : 0;
        }
        double error = given + oracle_chain(in) * magnitude + ORACLE_TINY * (double)in;
        if (bias) {
            sum += (double)bias[c];
            error += ORACLE_U * (fabs(sum) + error) + ORACLE_TINY;
        }
        value[c] = sum;
        bound[c] = error;
    }
}

oracle *oracle_open_merge(const qkv_merge_desc *desc) {
    const qkv_attention_desc parts = {.num_heads = desc->num_heads,
                                      .num_kv_heads = desc->num_heads,
                                      .seq_q = 1,
                                      .seq_k = desc->num_parts,
                                      .head_dim = desc->head_dim_v};
    oracle *o = oracle_open(&parts);
    o->v_error = oracle_alloc((size_t)(desc->num_parts * desc->head_dim_v), sizeof(double));
    return o;
}

/* The logsumexp of a part; its channels go to v. */
static double read_part(const qkv_merge_desc *d, int64_t b, int64_t h, int64_t i, int64_t part, double *v) {
    const int64_t dv = d->head_dim_v;
    if (d->states.data) {
        const qkv_matrix_input *s = &d->states;
        const float *at = (const float *)s->data + b * s->batch + h * s->head + i * s->query + part * s->key;
        for (int64_t c = 0; c < dv; c++)
            v[c] = at[dv + 1] == 0 ? 0 : (double)at[c] / (double)at[dv + 1];
        return at[dv + 1] == 0 ? -INFINITY : (double)at[dv] / LOG2E + log((double)at[dv + 1]);
    }
    const qkv_input *o = &d->part_out, *l = &d->part_lse;
    const float *at = (const float *)o->data + b * o->batch + h * o->head + i * o->token + part * d->part_out_stride;
    for (int64_t c = 0; c < dv; c++)
        v[c] = (double)at[c];
    return (double)((const float *)l->data)[b * l->batch + h * l->head + i * l->token + part * d->part_lse_stride];
}

const oracle_row *oracle_merge_row(oracle *o, const qkv_merge_desc *desc, int64_t b, int64_t h, int64_t i,
                                   const double *out_error, const double *lse_error) {
    oracle_kind kind = ORACLE_EMPTY;
    int64_t folds = 0;
    for (int64_t part = 0; part < desc->num_parts; part++) {
        const double lse = read_part(desc, b, h, i, part, o->v + part * desc->head_dim_v);
        o->row.visible[part] = (unsigned char)(lse != -INFINITY);
        o->row.prob[part] = o->row.prob_bound[part] = 0;
        if (lse == -INFINITY)
            continue;
        folds++;
        o->logit[part] = lse;
        /* lse·log2 e: two roundings, cut at −FLT_MAX. A block state holds m in base 2 already. */
        o->error[part] = desc->states.data ? 0 : 2 * ORACLE_U * fabs(lse) + fmax(0, -lse - FLT_MAX / LOG2E);
        if (lse_error)
            o->error[part] += lse_error[part];
        for (int64_t c = 0; c < desc->head_dim_v; c++)
            o->v_error[part * desc->head_dim_v + c] = out_error ? out_error[part * desc->head_dim_v + c] : 0;
        if (isnan(lse) || lse == INFINITY)
            kind = ORACLE_NAN;
        else if (lse > FLT_MAX / LOG2E)
            kind = kind == ORACLE_NAN ? ORACLE_NAN : ORACLE_ANY;
        else if (kind == ORACLE_EMPTY)
            kind = ORACLE_NUMBER;
    }
    return oracle_softmax(o, kind, desc->sinks ? &desc->sinks[h] : NULL, folds, 0);
}

/* Where Q, or K and V, come from. */
typedef struct source {
    const qkv_input *x;
    int64_t tokens, dim;
} source;

static source source_of(const qkv_layer_desc *d, int keys) {
    if (keys && d->x_kv.data)
        return (source){&d->x_kv, d->attention.seq_k, d->kv_dim ? d->kv_dim : d->model_dim};
    return (source){&d->x, d->attention.seq_q, d->model_dim};
}

/* Q, K or V of one sequence, all heads side by side: [tokens][width]. */
static void project(source from, int64_t b, const float *w, const float *bias, int64_t width, double *value,
                    double *error) {
    double *x = oracle_alloc((size_t)from.dim, sizeof *x);
    for (int64_t t = 0; t < from.tokens; t++) {
        for (int64_t c = 0; c < from.dim; c++)
            x[c] = (double)((const float *)from.x->data)[b * from.x->batch + t * from.x->token + c];
        if (w)
            oracle_projection_row(x, NULL, w, bias, from.dim, width, value + t * width, error + t * width);
        else
            for (int64_t c = 0; c < width; c++) {
                value[t * width + c] = x[c];
                error[t * width + c] = 0;
            }
    }
    free(x);
}

/* Copies head h out of [tokens][width]. */
static void take_head(double *to, const double *from, int64_t h, int64_t tokens, int64_t width, int64_t channels) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < channels; c++)
            to[t * channels + c] = from[t * width + h * channels + c];
}

/* All heads of one sequence, side by side in heads[tokens][num_heads·head_dim_v]. */
static int attend(const qkv_layer_desc *d, const oracle_weights *w, oracle *o, int64_t b, double *heads,
                  double *error) {
    const qkv_attention_desc *a = &o->desc;
    const int64_t tokens = a->seq_q, keys = a->seq_k, dk = a->head_dim, dv = a->head_dim_v;
    const int64_t group = a->num_heads / a->num_kv_heads;
    const int64_t width[3] = {w->wq ? a->num_heads * dk : dk, w->wq ? a->num_kv_heads * dk : dk,
                              w->wq ? a->num_kv_heads * dv : dv};
    const float *weight[3] = {w->wq, w->wk, w->wv}, *bias[3] = {d->bias_q, d->bias_k, d->bias_v};
    double *value[3], *off[3];
    int exact = 1;
    for (int p = 0; p < 3; p++) {
        const source from = source_of(d, p > 0);
        value[p] = oracle_alloc((size_t)(from.tokens * width[p]), sizeof(double));
        off[p] = oracle_alloc((size_t)(from.tokens * width[p]), sizeof(double));
        project(from, b, weight[p], bias[p], width[p], value[p], off[p]);
    }
    for (int64_t h = 0; h < a->num_heads; h++) {
        const int64_t hq = w->wq ? h : 0, hkv = w->wq ? h / group : 0;
        take_head(o->q, value[0], hq, tokens, width[0], dk);
        take_head(o->k, value[1], hkv, keys, width[1], dk);
        take_head(o->v, value[2], hkv, keys, width[2], dv);
        take_head(o->q_error, off[0], hq, tokens, width[0], dk);
        take_head(o->k_error, off[1], hkv, keys, width[1], dk);
        take_head(o->v_error, off[2], hkv, keys, width[2], dv);
        for (int64_t i = 0; i < tokens; i++) {
            const oracle_row *r = oracle_attention_row(o, b, h, i);
            exact &= r->kind == ORACLE_NUMBER || r->kind == ORACLE_EMPTY;
            for (int64_t c = 0; c < dv; c++) {
                heads[(i * a->num_heads + h) * dv + c] = r->out[c];
                error[(i * a->num_heads + h) * dv + c] = r->out_bound[c];
            }
        }
    }
    for (int p = 0; p < 3; p++) {
        free(value[p]);
        free(off[p]);
    }
    return exact;
}

int oracle_layer(const qkv_layer_desc *desc, const oracle_weights *weights, double *value, double *bound) {
    oracle *o = oracle_open(&desc->attention);
    const qkv_attention_desc *a = &o->desc;
    const size_t tokens = (size_t)a->seq_q, keys = (size_t)a->seq_k;
    const size_t dk = (size_t)a->head_dim, dv = (size_t)a->head_dim_v;
    const int64_t width = a->num_heads * a->head_dim_v;
    o->q_error = oracle_alloc(tokens * dk, sizeof(double));
    o->k_error = oracle_alloc(keys * dk, sizeof(double));
    o->v_error = oracle_alloc(keys * dv, sizeof(double));
    double *heads = oracle_alloc(tokens * (size_t)width, sizeof(double));
    double *error = oracle_alloc(tokens * (size_t)width, sizeof(double));
    int exact = 1;
    for (int64_t b = 0; b < a->batch; b++) {
        exact &= attend(desc, weights, o, b, heads, error);
        for (int64_t t = 0; t < a->seq_q; t++) {
            double *to = value + (b * a->seq_q + t) * desc->out_features;
            double *to_bound = bound + (b * a->seq_q + t) * desc->out_features;
            const double *from = heads + t * width, *from_error = error + t * width;
            if (weights->wo)
                oracle_projection_row(from, from_error, weights->wo, desc->bias_o, width, desc->out_features, to,
                                      to_bound);
            else
                for (int64_t c = 0; c < width; c++) {
                    to[c] = from[c];
                    to_bound[c] = from_error[c];
                }
        }
    }
    free(heads);
    free(error);
    oracle_close(o);
    return exact;
}
