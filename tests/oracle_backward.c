/* Attention backward in double, pair by pair, with the bound for a float implementation. See oracle_backward.h.
 *
 * The bound follows the arithmetic of docs/numerics.md term by term. An error is carried as a second number beside each
 * value: with x off by at most X and y by Y, x·y is off by at most (|x| + X)·(|y| + Y) − |x·y|.
 *
 *   p    its logit's own error; that of the forward's lse, 2u·|lse| for its product with log2 e, u for the subtraction,
 *        2u for exp2. Never above 1, and 0 may stand for less than 2^−126
 *   dP   γ of the chain over the channels
 *   δ    what out may be off, γ of 16 lanes and their tree, the subtraction of dLSE
 *   dS   scale, δ·scale, the fma, the product with p; with a softcap 1 − tanh² and one product more
 *        with dropout the factor of p in dV and that of dP: 2u each
 *   sums γ of a chain over up to 256 keys (64 queries), and an add for every chain
 *
 * In bfloat16 both factors of dP, of p·dO, dS·k and dS·q are rounded, and dO in δ.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_backward.h"

#include <stdlib.h>

#define TOO_LARGE 0x1p100 /* products and sums of such values may leave the range of float */

typedef struct number {
    double value, error;
} number;

static double reach(number x) {
    return fabs(x.value) + x.error;
}

static number product(number x, number y, double roundings) {
    const double most = reach(x) * reach(y) * (1 + roundings * ORACLE_U * 1.01);
    return (number){x.value * y.value, most - fabs(x.value * y.value) + ORACLE_TINY};
}

/* As an operand of a product. */
static number operand(const qkv_attention_desc *d, number x) {
    if (d->arithmetic == QKV_ARITHMETIC_BF16)
        x.error += ORACLE_BF16_U * reach(x) + ORACLE_BF16_TINY;
    return x;
}

static number operand_of(const qkv_attention_desc *d, double value) {
    return operand(d, (number){value, 0});
}

static oracle_gradient allocate(int64_t size, int64_t terms) {
    const size_t n = (size_t)(size > 0 ? size : 0);
    return (oracle_gradient){oracle_alloc(n, sizeof(double)), oracle_alloc(n, sizeof(double)),
                             oracle_alloc(n, sizeof(double)), size, terms};
}

static int64_t ceil_div(int64_t x, int64_t y) {
    return (x + y - 1) / y;
}

/* Sums of one gradient while it grows: the bound collects the terms' errors. */
typedef struct sums {
    oracle_gradient *g;
    double chain;
} sums;

static void add(const sums *s, int64_t at, double value, double error) {
    s->g->value[at] += value;
    if (s->g->bound[at] >= 0)
        s->g->bound[at] += error;
    s->g->magnitude[at] += fabs(value) + error;
    if (!(s->g->magnitude[at] < TOO_LARGE) && !isnan(s->g->value[at]))
        s->g->bound[at] = -1;
}

static void spoil(const sums *s, int64_t at, int64_t n) {
    for (int64_t i = at; i < at + n; i++)
        s->g->bound[i] = -1;
}

static void close_sums(sums *s) {
    oracle_gradient *g = s->g;
    for (int64_t i = 0; i < g->size; i++)
        if (g->bound[i] >= 0)
            g->bound[i] += oracle_gamma(s->chain + (double)g->terms) * g->magnitude[i] + ORACLE_TINY * (s->chain + 2);
}

typedef struct state {
    const qkv_attention_backward_desc *desc;
    oracle *o;
    sums q, k, v, bias, sinks;
    number *p, *dp; /* [seq_k] */
    double scale;
} state;

static float element(const qkv_input *x, int64_t b, int64_t h, int64_t t, int64_t c) {
    return ((const float *)x->data)[b * x->batch + h * x->head + t * x->token + c];
}

/* Position of (b, h, i, j) in dbias. */
static int64_t bias_at(const qkv_attention_backward_desc *desc, const qkv_attention_desc *d, int64_t b, int64_t h,
                       int64_t i, int64_t j) {
    const qkv_matrix_output *x = &desc->grad_bias;
    int64_t at = x->batch == 0 ? 0 : b;
    at = at * (x->head == 0 ? 1 : d->num_heads) + (x->head == 0 ? 0 : h);
    at = at * (x->query == 0 ? 1 : d->seq_q) + (x->query == 0 ? 0 : i);
    return at * (x->key == 0 ? 1 : d->seq_k) + (x->key == 0 ? 0 : j);
}

/* The weight of a key, or of a sink, as exp2(t − lse·log2 e). */
static number probability(double logit, double error, double lse, double lse_error) {
    const double log_p = logit - lse, p = exp(log_p);
    double off = error + lse_error + 2 * ORACLE_U * (fabs(lse) + lse_error);
    off = (off + ORACLE_U * fabs(log_p)) * (1 + 2 * ORACLE_U) + 2 * ORACLE_U + ORACLE_TINY;
    number x = {p, off < 1 ? p * expm1(off) : 1};
    if (log_p < -126 / 1.4426950408889634 + off + 1)
        x.error += p;
    x.error = fmin(x.error + ORACLE_TINY, 1);
    return x;
}

/* δ, and a bound too large for float where it is one. */
static number delta_of(const state *s, const oracle_row *r, int64_t b, int64_t h, int64_t i) {
    const qkv_attention_desc *d = &s->o->desc;
    number delta = {0, 0};
    double size = 0;
    for (int64_t c = 0; c < d->head_dim_v; c++) {
        const number grad = operand_of(d, (double)element(&s->desc->grad_out, b, h, i, c));
        const number x = product(grad, (number){r->out[c], r->out_bound[c]}, 0);
        delta.value += x.value;
        delta.error += x.error;
        size += reach(x);
    }
    delta.error += oracle_gamma(ceil((double)d->head_dim_v / 16) + 4) * size;
    delta.error += ORACLE_TINY * (double)(d->head_dim_v + 4);
    if (s->desc->grad_lse.data) {
        delta.value -= (double)element(&s->desc->grad_lse, b, h, i, 0);
        delta.error += ORACLE_U * reach(delta);
    }
    return delta;
}

/* One pair: everything that key j has of row i. */
static void add_pair(state *s, int64_t b, int64_t h, int64_t i, int64_t j, number delta) {
    const oracle *o = s->o;
    const qkv_attention_desc *d = &o->desc;
    const int64_t kv = h / (d->num_heads / d->num_kv_heads), dk = d->head_dim, dv = d->head_dim_v;
    const int64_t q_at = ((b * d->num_heads + h) * d->seq_q + i) * dk;
    const int64_t kv_at = (b * d->num_kv_heads + kv) * d->seq_k + j;
    const double factor = o->factor[j], rounded = d->dropout != 0 ? 2 : 0;
    const number p = s->p[j], kept = product(p, (number){factor, 0}, rounded);
    const number dp = d->dropout != 0 ? product(s->dp[j], (number){factor, 0}, rounded) : s->dp[j];
    number dt = {dp.value - delta.value, dp.error + delta.error};
    number g = {s->scale * dt.value, fabs(s->scale) * (dt.error + 4 * ORACLE_U * (reach(dp) + reach(delta)))};
    dt.error += ORACLE_U * reach(dt);
    g.error += 2 * ORACLE_U * reach(g) + 2 * ORACLE_TINY;
    dt = product(p, dt, 1);
    number ds = product(p, g, 1);
    if (d->softcap != 0) {
        const double t = o->cap_tanh[j], e = o->cap_error[j];
        number slope = {1 - t * t, fmin(1, 2 * fabs(t) * e + e * e) + ORACLE_U};
        ds = product(ds, slope, 1);
    }
    for (int64_t c = 0; c < dv; c++) {
        const number grad = operand_of(d, (double)element(&s->desc->grad_out, b, h, i, c));
        const number x = product(operand(d, kept), grad, 0);
        add(&s->v, kv_at * dv + c, x.value, x.error);
    }
    for (int64_t c = 0; c < dk; c++) {
        const number x = product(operand(d, ds), operand_of(d, o->k[j * dk + c]), 0);
        const number y = product(operand(d, ds), operand_of(d, o->q[i * dk + c]), 0);
        add(&s->q, q_at + c, x.value, x.error);
        add(&s->k, kv_at * dk + c, y.value, y.error);
    }
    if (s->desc->grad_bias.data)
        add(&s->bias, bias_at(s->desc, d, b, h, i, j), dt.value, dt.error);
    if (!(fmax(reach(g), reach(dp) + reach(delta)) < TOO_LARGE) && !isnan(g.value)) {
        spoil(&s->q, q_at, dk);
        spoil(&s->k, kv_at * dk, dk);
        if (s->desc->grad_bias.data)
            spoil(&s->bias, bias_at(s->desc, d, b, h, i, j), 1);
    }
}

static void spoil_row(state *s, int64_t b, int64_t h, int64_t i) {
    const qkv_attention_desc *d = &s->o->desc;
    const int64_t kv = h / (d->num_heads / d->num_kv_heads);
    spoil(&s->q, ((b * d->num_heads + h) * d->seq_q + i) * d->head_dim, d->head_dim);
    for (int64_t j = 0; j < d->seq_k; j++) {
        if (!oracle_sees(d, b, h, i, j))
            continue;
        spoil(&s->k, ((b * d->num_kv_heads + kv) * d->seq_k + j) * d->head_dim, d->head_dim);
        spoil(&s->v, ((b * d->num_kv_heads + kv) * d->seq_k + j) * d->head_dim_v, d->head_dim_v);
        if (s->desc->grad_bias.data)
            spoil(&s->bias, bias_at(s->desc, d, b, h, i, j), 1);
    }
    spoil(&s->sinks, h, 1);
}

static void add_row(state *s, int64_t b, int64_t h, int64_t i) {
    oracle *o = s->o;
    const qkv_attention_desc *d = &o->desc;
    const oracle_row *r = oracle_attention_row(o, b, h, i);
    if (r->kind == ORACLE_ANY) {
        spoil_row(s, b, h, i);
        return;
    }
    number delta = {0, 0};
    if (r->kind != ORACLE_EMPTY)
        delta = delta_of(s, r, b, h, i);
    else if (s->desc->grad_lse.data && r->lse != -INFINITY)
        delta.value = -(double)element(&s->desc->grad_lse, b, h, i, 0);
    if (d->sinks && d->sinks[h] != -INFINITY) {
        const double sink = (double)d->sinks[h];
        const number p = probability(sink, 2 * ORACLE_U * fabs(sink) + fmax(0, -sink - 0x1p127), r->lse, r->lse_bound);
        const number x = product(p, delta, 0);
        add(&s->sinks, h, -x.value, x.error);
    }
    for (int64_t j = 0; j < d->seq_k; j++) {
        if (!r->visible[j])
            continue;
        s->p[j] = probability(o->given_logit[j], o->given_error[j], r->lse, r->lse_bound);
        if (r->kind == ORACLE_NAN)
            s->p[j] = (number){NAN, 0};
        double size = 0;
        s->dp[j] = (number){0, ORACLE_TINY * (double)d->head_dim_v};
        for (int64_t c = 0; c < d->head_dim_v; c++) {
            const number grad = operand_of(d, (double)element(&s->desc->grad_out, b, h, i, c));
            const number x = product(grad, operand_of(d, o->v[j * d->head_dim_v + c]), 0);
            s->dp[j].value += x.value;
            s->dp[j].error += x.error;
            size += reach(x);
        }
        s->dp[j].error += oracle_chain(d->head_dim_v) * size;
        add_pair(s, b, h, i, j, delta);
    }
}

oracle_gradients *oracle_backward(const qkv_attention_backward_desc *desc) {
    oracle_gradients *g = oracle_alloc(1, sizeof *g);
    state s = {.desc = desc, .o = oracle_open(&desc->forward)};
    const qkv_attention_desc *d = &s.o->desc;
    const qkv_matrix_output *x = &desc->grad_bias;
    const int64_t group = d->num_kv_heads > 0 ? d->num_heads / d->num_kv_heads : 0, chains = ceil_div(d->seq_q, 64);
    const int64_t bias_terms =
        (x->batch ? 1 : d->batch) * (x->head ? 1 : d->num_heads) * (x->query ? 1 : d->seq_q) * (x->key ? 1 : d->seq_k);
    const int64_t bias_size =
        (x->batch ? d->batch : 1) * (x->head ? d->num_heads : 1) * (x->query ? d->seq_q : 1) * (x->key ? d->seq_k : 1);
    g->q = allocate(d->batch * d->num_heads * d->seq_q * d->head_dim, ceil_div(d->seq_k, QKV_KEY_BLOCK));
    g->k = allocate(d->batch * d->num_kv_heads * d->seq_k * d->head_dim, group * chains);
    g->v = allocate(d->batch * d->num_kv_heads * d->seq_k * d->head_dim_v, group * chains);
    g->bias = allocate(desc->grad_bias.data ? bias_size : 0, bias_terms);
    g->sinks = allocate(d->num_heads, d->batch * chains);
    s.scale = d->scale != 0 ? (double)d->scale : 1 / sqrt((double)(d->head_dim > 0 ? d->head_dim : 1));
    s.q = (sums){&g->q, fmin((double)d->seq_k, QKV_KEY_BLOCK)};
    s.k = (sums){&g->k, fmin((double)d->seq_q, 64)};
    s.v = (sums){&g->v, fmin((double)d->seq_q, 64)};
    s.bias = (sums){&g->bias, 0};
    s.sinks = (sums){&g->sinks, fmin((double)d->seq_q, 64)};
    s.p = oracle_alloc((size_t)d->seq_k, sizeof *s.p);
    s.dp = oracle_alloc((size_t)d->seq_k, sizeof *s.dp);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->num_heads; h++) {
            oracle_head(s.o, b, h);
            for (int64_t i = 0; i < d->seq_q; i++)
                add_row(&s, b, h, i);
        }
    close_sums(&s.q);
    close_sums(&s.k);
    close_sums(&s.v);
    close_sums(&s.bias);
    close_sums(&s.sinks);
    free(s.p);
    free(s.dp);
    oracle_close(s.o);
    return g;
}

void oracle_free_gradients(oracle_gradients *g) {
    oracle_gradient *all[] = {&g->q, &g->k, &g->v, &g->bias, &g->sinks};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->value);
        free(all[i]->bound);
        free(all[i]->magnitude);
    }
    free(g);
}

double oracle_objective(const qkv_attention_backward_desc *desc, int64_t b, int64_t kv_head, const oracle_nudge *nudge,
                        double *magnitude) {
    oracle *o = oracle_open(&desc->forward);
    const qkv_attention_desc *d = &o->desc;
    const int64_t group = d->num_heads / d->num_kv_heads;
    double sum = 0;
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
        oracle_head(o, b, h);
        if (nudge && nudge->tensor == 'q' && nudge->head == h)
            o->q[nudge->element] += nudge->by;
        if (nudge && nudge->tensor == 'k')
            o->k[nudge->element] += nudge->by;
        if (nudge && nudge->tensor == 'v')
            o->v[nudge->element] += nudge->by;
        for (int64_t i = 0; i < d->seq_q; i++) {
            const oracle_row *r = oracle_attention_row(o, b, h, i);
            for (int64_t c = 0; c < d->head_dim_v; c++) {
                sum += (double)element(&desc->grad_out, b, h, i, c) * r->out[c];
                *magnitude += fabs((double)element(&desc->grad_out, b, h, i, c)) * r->magnitude[c];
            }
            if (desc->grad_lse.data && r->lse != -INFINITY)
                sum += (double)element(&desc->grad_lse, b, h, i, 0) * r->lse;
        }
    }
    oracle_close(o);
    return sum;
}
