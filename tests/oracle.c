/* Attention forward in double, a row at a time, with the bound for a float implementation. See oracle.h.
 *
 * The bound. Let w_j = exp(s_j − m) be the exact weights, p_j = w_j / Σ w, m the largest logit, the sink counted as one
 * more key with v = 0. The library works with w_j·(1 + ε_j), where e^−δ_j ≤ 1 + ε_j ≤ e^δ_j; δ_j collects
 *
 *   - what is wrong with the logit itself (logit_of below, term by term),
 *   - u·(m − s_j): the subtractions t − m_block, m_block − m′, … on the way of key j; they telescope,
 *   - 2u for each exp2 (0.952 ulp), one for the key and one for each fold.
 *
 * With exact sums the result would then be off by at most  Σ p_j·(e^δ_j − 1)·|v_j − out| / Σ p_j·e^−δ_j, and by at most
 * max |v_j − out| whatever δ is, because it stays a weighted mean. To this the roundings of the sums are added: γ of
 * the longest chain times the mean of |v| for the numerator, γ of its own chain for the denominator, the two of 1/ℓ and
 * O·(1/ℓ), and weights of less than 2^−126, which may be dropped. With dropout v_j is what its factor makes of it; the
 * factor is rounded once, its product with the weight too.
 *
 * In bfloat16 the operands of products are off by 2^−8 of themselves, or by 2^−56: q·c, k and v as if they were given
 * so, the weights of the numerator in each of its terms. In 8 bits q·c and k, less means, are off by half a step, which
 * is a 127th of the largest of their row; a row that has no scale makes its logits NaN.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG2E 1.4426950408889634
#define TOO_LARGE 0x1.fp127 /* a value of this size may be infinite in float */

void *oracle_alloc(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size);
    if (!p) {
        fprintf(stderr, "oracle: out of memory\n");
        exit(2);
    }
    return p;
}

double oracle_chain(int64_t n) {
    if (n <= 0)
        return 0;
    return oracle_gamma((double)(n < 128 ? n : 128) + (double)((n + 127) / 128));
}

int oracle_within(double got, double want, double bound, double *worst) {
    if (isnan(want))
        return isnan(got);
    if (isinf(want))
        return got == want;
    double error = fabs(got - want);
    if (!(error <= bound))
        return 0;
    if (worst && bound > 0x1p-100 && error / bound > *worst)
        *worst = error / bound;
    return 1;
}

oracle *oracle_open(const qkv_attention_desc *desc) {
    oracle *o = oracle_alloc(1, sizeof *o);
    o->desc = *desc;
    qkv_attention_desc *d = &o->desc;
    if (d->num_kv_heads == 0)
        d->num_kv_heads = d->num_heads;
    if (d->head_dim_v == 0)
        d->head_dim_v = d->head_dim;
    const size_t sq = (size_t)d->seq_q, sk = (size_t)d->seq_k, dk = (size_t)d->head_dim, dv = (size_t)d->head_dim_v;
    o->q = oracle_alloc(sq * dk, sizeof(double));
    o->k = oracle_alloc(sk * dk, sizeof(double));
    o->v = oracle_alloc(sk * dv, sizeof(double));
    o->means = oracle_alloc(dk, sizeof(double));
    o->logit = oracle_alloc(sk, sizeof(double));
    o->error = oracle_alloc(sk, sizeof(double));
    o->given_logit = oracle_alloc(sk, sizeof(double));
    o->given_error = oracle_alloc(sk, sizeof(double));
    o->cap_tanh = oracle_alloc(sk, sizeof(double));
    o->cap_error = oracle_alloc(sk, sizeof(double));
    o->factor = oracle_alloc(sk, sizeof(double));
    for (size_t j = 0; j < sk; j++)
        o->factor[j] = 1;
    o->weight_error = oracle_alloc(sk, sizeof(double));
    o->largest_weight = oracle_alloc(sk, sizeof(double));
    o->row.out = oracle_alloc(dv, sizeof(double));
    o->row.out_bound = oracle_alloc(dv, sizeof(double));
    o->row.magnitude = oracle_alloc(dv, sizeof(double));
    o->row.prob = oracle_alloc(sk, sizeof(double));
    o->row.prob_bound = oracle_alloc(sk, sizeof(double));
    o->row.visible = oracle_alloc(sk, 1);
    return o;
}

void oracle_close(oracle *o) {
    void *owned[] = {o->q,
                     o->k,
                     o->v,
                     o->means,
                     o->q_error,
                     o->k_error,
                     o->v_error,
                     o->logit,
                     o->error,
                     o->weight_error,
                     o->largest_weight,
                     o->row.out,
                     o->row.out_bound,
                     o->row.magnitude,
                     o->row.prob,
                     o->row.prob_bound,
                     o->row.visible,
                     o->given_logit,
                     o->given_error,
                     o->cap_tanh,
                     o->cap_error,
                     o->factor,
                     o};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
}

static void read_tensor(double *to, const qkv_input *in, int64_t b, int64_t h, int64_t tokens, int64_t channels) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < channels; c++)
            *to++ = (double)((const float *)in->data)[b * in->batch + h * in->head + t * in->token + c];
}

void oracle_head(oracle *o, int64_t b, int64_t h) {
    const qkv_attention_desc *d = &o->desc;
    const int64_t kv = h / (d->num_heads / d->num_kv_heads);
    read_tensor(o->q, &d->q, b, h, d->seq_q, d->head_dim);
    read_tensor(o->k, &d->k, b, kv, d->seq_k, d->head_dim);
    read_tensor(o->v, &d->v, b, kv, d->seq_k, d->head_dim_v);
    if (d->k_means.data)
        read_tensor(o->means, &d->k_means, b, kv, 1, d->head_dim);
}

int oracle_sees(const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i, int64_t j) {
    const double p = (double)i + (double)(d->q_offsets ? d->q_offsets[b] : d->q_offset);
    if (d->kv_len && j >= d->kv_len[b])
        return 0;
    if ((d->flags & QKV_LEFT) && (double)j < p - (double)d->left)
        return 0;
    if ((d->flags & QKV_RIGHT) && (double)j > p + (double)d->right)
        return 0;
    const qkv_matrix_input *keep = &d->keep, *bias = &d->bias;
    if (keep->data &&
        !((const unsigned char *)keep->data)[b * keep->batch + h * keep->head + i * keep->query + j * keep->key])
        return 0;
    return !bias->data ||
           ((const float *)bias->data)[b * bias->batch + h * bias->head + i * bias->query + j * bias->key] != -INFINITY;
}

typedef struct logit {
    double raw, raw_error;   /* before the softcap */
    double tanh, tanh_error; /* of the softcap */
    double value, error;     /* in units of the natural logarithm; in base 2 the relative errors are the same */
    int too_large, cut;      /* cut: a bias beyond −FLT_MAX in base 2, which the library takes as −FLT_MAX */
} logit;

/* softcap·tanh(scale·(q·k)/softcap), or scale·(q·k). */
static logit scaled_dot(const oracle *o, int64_t i, int64_t j) {
    const qkv_attention_desc *d = &o->desc;
    const int64_t n = d->head_dim;
    const double scale = d->scale == 0 ? 1 / sqrt((double)(n > 0 ? n : 1)) : (double)d->scale, cap = (double)d->softcap;
    const double factor = cap > 0 ? scale / cap : scale * LOG2E; /* c: what q is multiplied by */
    const double unit = cap > 0 ? cap : 1 / LOG2E;               /* what a dot product of q·c is worth in s */
    const int in_bf16 = d->arithmetic == QKV_ARITHMETIC_BF16, in_int8 = d->arithmetic == QKV_ARITHMETIC_INT8;
    double dot = 0, sum = 0, sum_tiny = 0, sum_given = 0, largest_q = 0, largest_k = 0;
    int whole = 1;
    for (int64_t x = 0; x < n; x++) {
        const double q = fabs(o->q[i * n + x]), k = fabs(o->k[j * n + x] - o->means[x]);
        largest_q = fmax(largest_q, q + (o->q_error ? o->q_error[i * n + x] : 0));
        largest_k = fmax(largest_k, k + (o->k_error ? o->k_error[j * n + x] : 0));
        whole &= isfinite(q) && isfinite(k);
    }
    for (int64_t x = 0; x < n; x++) {
        const double mean = o->means[x], q = o->q[i * n + x], k = o->k[j * n + x] - mean;
        dot += q * o->k[j * n + x];
        sum += fabs(q * k) + fabs(q * mean);
        sum_tiny += (fabs(q) + 1) * (fabs(k) + fabs(mean));
        double qe = o->q_error ? o->q_error[i * n + x] : 0, ke = o->k_error ? o->k_error[j * n + x] : 0;
        if (in_int8) {
            const double step = 0.5001 / 127;
            qe += largest_q * fabs(factor) < 0x1p-99 ? largest_q : step * largest_q;
            ke += (largest_k < 0x1p-99 ? largest_k : step * largest_k) + ORACLE_U * largest_k;
        }
        if (in_bf16) {
            qe += ORACLE_BF16_U * (fabs(q) + qe) + (factor != 0 ? ORACLE_BF16_TINY / fabs(factor) : 0);
            ke += ORACLE_BF16_U * (fabs(k) + ke) + ORACLE_BF16_TINY;
        }
        sum_given += fabs(q) * ke + fabs(k) * qe + qe * ke;
    }
    /* c is two roundings (log2 e, the product), or one with softcap; q·c one more; the default 1/√D two more. Below the
     * normal range c and q·c are off by 2^−150 instead, as is every fma. */
    double roundings = (cap > 0 ? 2 : 3) + (d->scale == 0 ? 2 : 0);
    if (in_int8) /* both scales, sums of 1024 and of these, their product with a scale, the fma; means are a chain */
        roundings += 5 + (double)n / 1024;
    const double size = fabs(scale);
    logit l = {.value = in_int8 && !whole ? (double)NAN : scale * dot};
    l.error = (oracle_chain(n) + roundings * ORACLE_U) * size * (sum + sum_given) + size * sum_given;
    l.error += unit * ORACLE_TINY * (sum_tiny + (double)n + 1);
    l.too_large = fabs(factor) * fmax(1, largest_q) > TOO_LARGE || fabs(factor) * sum > TOO_LARGE;
    l.raw = l.value;
    l.raw_error = l.error;
    if (cap > 0) {
        /* tanh grows by at most sech² at the nearer end; tanh itself 0.848 ulp, times fl(softcap·log2 e): 3 more. */
        const double x = l.value / cap, e = l.error / cap, slope = 1 / cosh(fmin(fmax(0, fabs(x) - e), 300));
        l.value = cap * tanh(x);
        l.tanh = tanh(x);
        l.tanh_error = fmin(2, e * slope * slope) + 2 * ORACLE_U * fabs(l.tanh) + ORACLE_TINY;
        l.error = cap * fmin(2, e * slope * slope) + 5 * ORACLE_U * fabs(l.value) + cap * LOG2E * ORACLE_TINY;
        l.too_large |= cap * LOG2E > TOO_LARGE;
    }
    return l;
}

/* fl(slope·log2 e): two roundings; the distance one if it has more than 24 bits; the fma one of the sum. */
static void add_alibi(logit *l, const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i, int64_t j) {
    const double p = (double)i + (double)(d->q_offsets ? d->q_offsets[b] : d->q_offset);
    const double slope = (double)d->alibi_slopes[h], distance = (double)j - p;
    l->value += slope * distance;
    l->error += (fabs(distance) > 0x1p24 ? 3 : 2) * ORACLE_U * fabs(slope * distance);
    l->error += ORACLE_TINY * (fabs(distance) + 1) + ORACLE_U * (fabs(l->value) + l->error);
    l->too_large |= fabs(slope) * fmax(1, fabs(distance)) * LOG2E > TOO_LARGE;
}

/* fl(bias·log2 e): two roundings; the sum one. Beyond −FLT_MAX in base 2 it is cut there, and the sum must not pass. */
static void add_bias(logit *l, const qkv_attention_desc *d, int64_t b, int64_t h, int64_t i, int64_t j) {
    const qkv_matrix_input *m = &d->bias;
    const double bias = (double)((const float *)m->data)[b * m->batch + h * m->head + i * m->query + j * m->key];
    const double others = fabs(l->value) + l->error;
    l->value += bias;
    l->error += 2 * ORACLE_U * fabs(bias) + fmax(0, -bias - FLT_MAX / LOG2E) + ORACLE_TINY;
    l->error += ORACLE_U * (fabs(l->value) + l->error);
    l->cut = isfinite(others) && bias * LOG2E < -TOO_LARGE;
    l->too_large |= (isfinite(bias) && bias * LOG2E > TOO_LARGE) || (l->cut && others > 0x1p100);
}

/* The complete logit of a key that the row sees. */
static logit logit_of(const oracle *o, int64_t b, int64_t h, int64_t i, int64_t j) {
    logit l = scaled_dot(o, i, j);
    if (o->desc.alibi_slopes)
        add_alibi(&l, &o->desc, b, h, i, j);
    if (o->desc.bias.data)
        add_bias(&l, &o->desc, b, h, i, j);
    if (isfinite(l.value))
        l.too_large |= l.value * LOG2E > TOO_LARGE || (l.value * LOG2E < -TOO_LARGE && !l.cut);
    return l;
}

/* Back from base 2, or from a fraction of the softcap: a constant and a product, u each. */
void oracle_score(const oracle *o, int64_t b, int64_t h, int64_t i, int64_t j, double *value, double *bound) {
    const qkv_attention_desc *d = &o->desc;
    *value = -INFINITY;
    *bound = 0;
    if ((d->kv_len && j >= d->kv_len[b]) || (d->scores_stage == QKV_SCORES_MASKED && !oracle_sees(d, b, h, i, j)))
        return;
    const logit l = d->scores_stage == QKV_SCORES_MASKED ? logit_of(o, b, h, i, j) : scaled_dot(o, i, j);
    *value = d->scores_stage == QKV_SCORES_SCALED ? l.raw : l.value;
    const double error = d->scores_stage == QKV_SCORES_SCALED ? l.raw_error : l.error;
    *bound = l.too_large || fabs(*value) > TOO_LARGE ? -1 : error + 2 * ORACLE_U * (fabs(*value) + error) + ORACLE_TINY;
}

/* log Σ exp(x_j + sign·error_j) over the visible keys and the sink (NAN: none). */
static double log_sum(const oracle *o, double sign, double sink, double sink_error) {
    const int64_t n = o->desc.seq_k;
    double top = isnan(sink) ? -INFINITY : sink + sign * sink_error, sum = 0;
    for (int64_t j = 0; j < n; j++)
        if (o->row.visible[j])
            top = fmax(top, o->logit[j] + sign * o->error[j]);
    if (!isfinite(top))
        return top;
    for (int64_t j = 0; j < n; j++)
        if (o->row.visible[j])
            sum += exp(o->logit[j] + sign * o->error[j] - top);
    if (!isnan(sink))
        sum += exp(sink + sign * sink_error - top);
    return top + log(sum);
}

/* exp for factors of something that a maximum cuts anyway: never infinite, so that 0 times it stays 0. */
static double bounded_exp(double x) {
    return exp(fmin(x, 300));
}

/* Weights below 2^this may be cut off. */
static double least_weight(const oracle *o) {
    return o->desc.arithmetic != QKV_ARITHMETIC_F32 ? -56 : -126;
}

/* The weights of a row once logits and errors are complete, with what the output channels need from them. */
typedef struct weights {
    double max;                        /* the largest logit; from then on all are counted from it */
    double log_low, log_mid, log_high; /* log Σ exp(s − δ), exp(s), exp(s + δ) */
    double sink, sink_error;           /* NAN: none */
    double gamma_out, gamma_sum;       /* the chains of the numerator and of the denominator */
    double folds;
} weights;

/* Upper bound of |ε_j|·p_j: e^δ − 1, and the whole weight where it may be cut off to zero. */
static double weight_error(const oracle *o, const weights *w, double s, double error) {
    const double log_p = s - w->log_mid, p = exp(log_p);
    double e = error < 1 ? p * expm1(error) : bounded_exp(log_p + error) - p;
    if (log_p < least_weight(o) / LOG2E + error + 1)
        e += p;
    return e;
}

static void bound_channel(oracle *o, const weights *w, int64_t c) {
    const qkv_attention_desc *d = &o->desc;
    oracle_row *r = &o->row;
    const double *v = o->v + c, *v_error = o->v_error ? o->v_error + c : NULL;
    const int64_t ld = d->head_dim_v;
    double out = 0, magnitude = 0;
    for (int64_t j = 0; j < d->seq_k; j++)
        if (r->visible[j]) {
            out += r->prob[j] * (o->factor[j] * v[j * ld]);
            magnitude += r->prob[j] * fabs(o->factor[j] * v[j * ld]);
        }
    const int has_sink = !isnan(w->sink);
    double moved = has_sink ? weight_error(o, w, w->sink, w->sink_error) * fabs(out) : 0;
    double reach = has_sink ? fabs(out) : 0, given = 0, largest_given = 0, mean = 0, largest = 0, all = 0;
    const int in_bf16 = d->arithmetic != QKV_ARITHMETIC_F32;
    for (int64_t j = 0; j < d->seq_k; j++)
        if (r->visible[j]) {
            const double kept = o->factor[j] * v[j * ld], distance = fabs(kept - out);
            const double high = o->largest_weight[j];
            double e = v_error ? o->factor[j] * v_error[j * ld] : 0;
            if (in_bf16)
                e += ORACLE_BF16_U * (fabs(kept) + e) + o->factor[j] * ORACLE_BF16_TINY;
            moved += o->weight_error[j] * distance;
            reach = fmax(reach, distance);
            given += high * e;
            largest_given = fmax(largest_given, e);
            mean += high * (fabs(kept) + e);
            largest = fmax(largest, fabs(kept) + e);
            all += fabs(kept) + e;
        }
    const double shrink = bounded_exp(w->log_mid - w->log_low); /* 1 / Σ p·e^−δ */
    double bound = fmin(moved * shrink, reach) + fmin(given, largest_given);
    bound += (w->gamma_out + (d->dropout != 0 ? 2 * ORACLE_U : 0)) * fmin(mean, largest);
    if (in_bf16) /* weights, of which the largest before it is divided is 1 */
        bound += ORACLE_BF16_U * (1 + w->gamma_out) * mean + ORACLE_BF16_TINY * all;
    bound += (fabs(out) + bound) * (w->gamma_sum + 3 * ORACLE_U); /* ℓ, 1/ℓ, O·(1/ℓ) */
    bound += ORACLE_TINY * ((double)d->seq_k + 2 * w->folds + 2); /* products and sums below the normal range */
    r->out[c] = out;
    r->out_bound[c] = bound;
    r->magnitude[c] = magnitude;
    if (isfinite(out) && largest * QKV_KEY_BLOCK > TOO_LARGE)
        r->kind = ORACLE_ANY;
}

static void bound_probability(oracle *o, const weights *w, int64_t j) {
    const double s = o->logit[j], error = o->error[j], p = exp(s - w->log_mid);
    o->weight_error[j] = weight_error(o, w, s, error);
    o->largest_weight[j] = bounded_exp(s + error - w->log_low);
    const double high = fmin(1, o->largest_weight[j]), low = exp(s - error - w->log_high);
    double bound = fmax(high - p, p - low);
    bound += high * (w->gamma_sum + 3 * ORACLE_U) + ORACLE_TINY;
    if (s - w->log_mid < -126 / LOG2E + error + 1)
        bound += p;
    o->row.prob[j] = p;
    o->row.prob_bound[j] = bound;
}

/* Fills row.visible, logit and error; returns what is already certain about the row. */
static oracle_kind find_logits(oracle *o, int64_t b, int64_t h, int64_t i) {
    const qkv_attention_desc *d = &o->desc;
    oracle_kind kind = ORACLE_EMPTY;
    for (int64_t j = 0; j < d->seq_k; j++) {
        o->row.visible[j] = 0;
        o->row.prob[j] = o->row.prob_bound[j] = 0;
        if (!oracle_sees(d, b, h, i, j))
            continue;
        const logit l = logit_of(o, b, h, i, j);
        if (l.too_large)
            kind = ORACLE_ANY;
        if (l.value == -INFINITY)
            continue;
        o->row.visible[j] = 1;
        o->logit[j] = o->given_logit[j] = l.value;
        o->error[j] = o->given_error[j] = l.error;
        o->cap_tanh[j] = l.tanh;
        o->cap_error[j] = l.tanh_error;
        if (kind != ORACLE_ANY && (isnan(l.value) || l.value == INFINITY))
            kind = ORACLE_NAN;
        else if (kind == ORACLE_EMPTY)
            kind = ORACLE_NUMBER;
    }
    return kind;
}

/* Adds what happens to a logit after it is complete, as described at the top, and moves the largest to 0. */
static void add_softmax_errors(oracle *o, weights *w) {
    const qkv_attention_desc *d = &o->desc;
    const int64_t n = d->seq_k;
    const int has_sink = !isnan(w->sink);
    double m = has_sink ? w->sink : -INFINITY, largest = has_sink ? w->sink_error : 0;
    for (int64_t j = 0; j < n; j++)
        if (o->row.visible[j]) {
            m = fmax(m, o->logit[j]);
            largest = fmax(largest, o->error[j]);
        }
    const double exp2_error = d->arithmetic != QKV_ARITHMETIC_F32 ? 50 * ORACLE_U : 2 * ORACLE_U;
    const double always = exp2_error + 2 * ORACLE_U * w->folds + 2 * ORACLE_U * largest;
    for (int64_t j = 0; j < n; j++)
        if (o->row.visible[j]) {
            o->logit[j] -= m;
            o->error[j] += always - ORACLE_U * o->logit[j];
        }
    w->sink -= m;
    w->sink_error += always - ORACLE_U * w->sink;
    w->max = m;
}

static void bound_lse(oracle *o, const weights *w) {
    oracle_row *r = &o->row;
    /* The weights may be off by e^±δ in sum; then γ of the sum, log ℓ 0.921 ulp, m·ln 2 (the constant and, as m is a
     * sum of its own, nothing more), the fma. Weights that are cut off are below 2^−126 (or −56) of the sum each. */
    const double given = fmax(w->log_high - w->log_mid, w->log_mid - w->log_low);
    r->lse = w->max + w->log_mid;
    r->lse_bound = given + w->gamma_sum * (1 + w->gamma_sum) + 2 * ORACLE_U * (w->log_mid + given);
    r->lse_bound += ORACLE_U * (fabs(w->max) + given) + ORACLE_U * (fabs(r->lse) + r->lse_bound);
    r->lse_bound += fmax(0x1p-100, exp2(least_weight(o)) * (double)o->desc.seq_k);
}

const oracle_row *oracle_softmax(oracle *o, oracle_kind kind, const float *sink, int64_t folds, int64_t chain) {
    const qkv_attention_desc *d = &o->desc;
    oracle_row *r = &o->row;
    weights w = {.sink = NAN, .folds = (double)folds};
    if (sink && *sink != -INFINITY) {
        w.sink = (double)*sink;
        w.sink_error = 2 * ORACLE_U * fabs(w.sink) + ORACLE_TINY; /* log2 e and the product */
        w.sink_error += fmax(0, -w.sink - FLT_MAX / LOG2E);
        w.folds += 1;
        if (isnan(w.sink) || w.sink == INFINITY)
            kind = kind == ORACLE_ANY ? ORACLE_ANY : ORACLE_NAN;
        else if (w.sink * LOG2E > TOO_LARGE)
            kind = ORACLE_ANY;
    }
    r->kind = kind;
    for (int64_t c = 0; c < d->head_dim_v; c++)
        r->out[c] = r->out_bound[c] = r->magnitude[c] = kind == ORACLE_NAN ? NAN : 0;
    r->lse = kind == ORACLE_NAN ? NAN : -INFINITY;
    r->lse_bound = 0;
    if (kind == ORACLE_ANY || kind == ORACLE_NAN || (kind == ORACLE_EMPTY && isnan(w.sink)))
        return r;

    add_softmax_errors(o, &w);
    /* A fold is a product and an fma. Numerator: one fma for each key of a block. Denominator: 16 lanes and a tree. */
    w.gamma_out = oracle_gamma((double)chain + 2 * w.folds);
    w.gamma_sum = oracle_gamma(fmin((double)chain, QKV_KEY_BLOCK / 16.0) + 4 + 2 * w.folds);
    w.log_low = log_sum(o, -1, w.sink, w.sink_error);
    w.log_mid = log_sum(o, 0, w.sink, w.sink_error);
    w.log_high = log_sum(o, 1, w.sink, w.sink_error);
    for (int64_t j = 0; j < d->seq_k; j++)
        if (r->visible[j])
            bound_probability(o, &w, j);
    bound_lse(o, &w);
    if (kind == ORACLE_NUMBER)
        for (int64_t c = 0; c < d->head_dim_v; c++)
            bound_channel(o, &w, c);
    return r;
}

const oracle_row *oracle_attention_row(oracle *o, int64_t b, int64_t h, int64_t i) {
    const qkv_attention_desc *d = &o->desc;
    const oracle_kind kind = find_logits(o, b, h, i);
    int64_t folds = 0, visible = 0, last_block = -1;
    for (int64_t j = 0; j < d->seq_k; j++)
        if (o->row.visible[j]) {
            folds += j / QKV_KEY_BLOCK != last_block;
            last_block = j / QKV_KEY_BLOCK;
            visible++;
        }
    for (int64_t j = 0; j < d->seq_k && d->dropout != 0; j++)
        o->factor[j] = oracle_dropout_factor(d, b, h, i, j);
    const int64_t chain = visible < QKV_KEY_BLOCK ? visible : QKV_KEY_BLOCK;
    return oracle_softmax(o, kind, d->sinks ? &d->sinks[h] : NULL, folds, chain);
}
