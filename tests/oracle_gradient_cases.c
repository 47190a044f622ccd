/* Random gradients of attention. See oracle_gradient_cases.h.  SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include <stdio.h>
#include <string.h>

void gradient_bias_sizes(const qkv_attention_backward_desc *desc, int64_t size[4]) {
    const qkv_attention_desc *d = &desc->forward;
    const qkv_matrix_output *x = &desc->grad_bias;
    const int64_t all[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k};
    const int64_t stride[4] = {x->batch, x->head, x->query, x->key};
    for (int i = 0; i < 4; i++)
        size[i] = stride[i] == 0 ? 1 : all[i];
}

static void draw_bias(qt_rng *rng, gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    int64_t size[4] = {d->batch, d->num_heads, d->seq_q, d->seq_k}, stride[4], origin;
    bool summed[4];
    for (int i = 0; i < 4; i++) {
        summed[i] = qt_chance(rng, 35);
        size[i] = summed[i] ? 1 : size[i];
    }
    const int64_t n = case_layout(rng, 4, size, 1, false, stride, &origin);
    for (int i = 0; i < 4; i++)
        stride[i] = summed[i] ? 0 : stride[i] == 0 ? 1 : stride[i]; /* without elements a layout may have zeros */
    c->desc.grad_bias = (qkv_matrix_output){case_floats(rng, n) + origin, stride[0], stride[1], stride[2], stride[3]};
}

/* One row for each token, as the gradient of a packed projection wants it. */
static bool draw_interleaved(qt_rng *rng, gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t hq = d->num_heads, hkv = c->attention.kv_heads, dk = d->head_dim, dv = c->attention.dv;
    if (d->seq_q != d->seq_k || d->seq_q == 0 || d->batch == 0 || hq == 0 || dk == 0 || dv == 0 || !qt_chance(rng, 40))
        return false;
    const int64_t row = (hq + hkv) * dk + hkv * dv;
    float *x = case_floats(rng, row * d->seq_q * d->batch);
    c->desc.grad_q = (qkv_output){x, row * d->seq_q, dk, row};
    c->desc.grad_k = (qkv_output){x + hq * dk, row * d->seq_q, dk, row};
    c->desc.grad_v = (qkv_output){x + (hq + hkv) * dk, row * d->seq_q, dv, row};
    return true;
}

void gradient_draw_arithmetic(qt_rng *rng, qkv_attention_desc *d) {
    d->arithmetic = qt_chance(rng, 30) ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_F32;
    d->k_means.data = NULL;
}

void gradient_draw(qt_rng *rng, int64_t work, gradient_case *c) {
    memset(c, 0, sizeof *c);
    case_attention(rng, work, &c->attention);
    gradient_draw_arithmetic(rng, &c->attention.desc);
    qkv_attention_desc *d = &c->attention.desc;
    const int64_t hkv = c->attention.kv_heads;
    if (!d->lse.data)
        d->lse = case_output(rng, d->batch, d->num_heads, d->seq_q, 1);
    d->probabilities.data = d->scores.data = NULL;
    c->old = qt_u64(rng);
    c->desc = (qkv_attention_backward_desc){.size = sizeof c->desc, .forward = *d};
    c->desc.flags = qt_chance(rng, 30) ? QKV_ACCUMULATE : 0;
    c->desc.grad_out = case_input(rng, d->batch, d->num_heads, d->seq_q, c->attention.dv, true);
    if (qt_chance(rng, 40))
        c->desc.grad_lse = case_input(rng, d->batch, d->num_heads, d->seq_q, 1, true);
    c->interleaved = draw_interleaved(rng, c);
    if (!c->interleaved && qt_chance(rng, 85))
        c->desc.grad_q = case_output(rng, d->batch, d->num_heads, d->seq_q, d->head_dim);
    if (!c->interleaved && qt_chance(rng, 85))
        c->desc.grad_k = case_output(rng, d->batch, hkv, d->seq_k, d->head_dim);
    if (!c->interleaved && qt_chance(rng, 85))
        c->desc.grad_v = case_output(rng, d->batch, hkv, d->seq_k, c->attention.dv);
    if (qt_chance(rng, d->bias.data ? 70 : 10))
        draw_bias(rng, c);
    if (qt_chance(rng, d->sinks ? 70 : 5))
        c->desc.grad_sinks = case_floats(rng, d->num_heads);
}

void gradient_want_all(qt_rng *rng, gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t hkv = c->attention.kv_heads, dk = d->head_dim, dv = c->attention.dv, sq = d->seq_q, sk = d->seq_k;
    float *q = case_floats(rng, d->batch * d->num_heads * sq * dk), *k = case_floats(rng, d->batch * hkv * sk * dk);
    float *v = case_floats(rng, d->batch * hkv * sk * dv);
    c->desc.grad_q = (qkv_output){q, d->num_heads * sq * dk, sq * dk, dk};
    c->desc.grad_k = (qkv_output){k, hkv * sk * dk, sk * dk, dk};
    c->desc.grad_v = (qkv_output){v, hkv * sk * dv, sk * dv, dv};
    c->interleaved = false;
}

void gradient_plain(qt_rng *rng, const attention_case *forward, gradient_case *c) {
    const qkv_attention_desc *d = &forward->desc;
    const int64_t n = d->batch * d->num_heads * d->seq_q * forward->dv;
    *c = (gradient_case){.attention = *forward, .desc = {.size = sizeof c->desc, .forward = *d}};
    float *grad_out = case_floats(rng, n);
    qt_fill(rng, grad_out, (size_t)n, QT_NORMAL);
    c->desc.grad_out =
        (qkv_input){grad_out, d->num_heads * d->seq_q * forward->dv, d->seq_q * forward->dv, forward->dv};
    gradient_want_all(rng, c);
}

static void poison_row(qt_rng *rng, const qkv_input *x, int64_t b, int64_t h, int64_t t, int64_t channels) {
    float *row = case_row(x, b, h, t);
    for (int64_t i = 0; i < channels; i++)
        row[i] = qt_chance(rng, 30) ? INFINITY : NAN;
}

void gradient_poison_invisible(qt_rng *rng, gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    case_poison_invisible(rng, &c->attention);
    const bool q_shared = case_is_shared(&d->q, d->batch, d->num_heads, d->seq_q);
    const bool grad_shared = case_is_shared(&c->desc.grad_out, d->batch, d->num_heads, d->seq_q);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < d->num_heads; h++)
            for (int64_t i = 0; i < d->seq_q; i++) {
                bool sees = false;
                for (int64_t j = 0; j < d->seq_k && !sees; j++)
                    sees = oracle_sees(d, b, h, i, j) != 0;
                if (!sees && !q_shared && d->q.data != d->k.data)
                    poison_row(rng, &d->q, b, h, i, d->head_dim);
                if (!sees && !grad_shared)
                    poison_row(rng, &c->desc.grad_out, b, h, i, c->attention.dv);
            }
}

void gradient_run_forward(gradient_case *c) {
    const qkv_ctx reference = case_reference();
    case_run_attention(&reference, &c->desc.forward, 0, 0);
    case_protect(&c->desc.forward);
    const void *inputs[] = {c->desc.grad_out.data, c->desc.grad_lse.data, c->desc.forward.out.data,
                            c->desc.forward.lse.data};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (inputs[i])
            qt_read_only(inputs[i]);
}

/* -------------------------------------------------------------------------------------------------------- runs */

/* dbias without the axes that are summed. */
static qt_view bias_view(const gradient_case *c) {
    const qkv_matrix_output *x = &c->desc.grad_bias;
    qt_view view = {x->data, sizeof(float), 4, {0}, {x->batch, x->head, x->query, x->key}};
    gradient_bias_sizes(&c->desc, view.size);
    return view;
}

static void fill_view(qt_rng *rng, const qt_view *v) {
    for (int64_t b = 0; b < v->size[0]; b++)
        for (int64_t h = 0; h < v->size[1]; h++)
            for (int64_t t = 0; t < v->size[2]; t++)
                for (int64_t x = 0; x < v->size[3]; x++)
                    ((float *)(uintptr_t)
                         v->base)[b * v->stride[0] + h * v->stride[1] + t * v->stride[2] + x * v->stride[3]] =
                        qt_chance(rng, 5) ? -0.0f : qt_normal(rng);
}

typedef struct views {
    qt_view q, k, v, bias;
} views;

static views views_of(const gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t hkv = c->attention.kv_heads;
    return (views){qt_view_output(&c->desc.grad_q, d->batch, d->num_heads, d->seq_q, d->head_dim),
                   qt_view_output(&c->desc.grad_k, d->batch, hkv, d->seq_k, d->head_dim),
                   qt_view_output(&c->desc.grad_v, d->batch, hkv, d->seq_k, c->attention.dv), bias_view(c)};
}

/* Poison, or what an accumulating run starts from. */
static void set_outputs(const gradient_case *c) {
    const views v = views_of(c);
    const qt_view *each[] = {&v.q, &v.k, &v.v, &v.bias};
    qt_rng rng = {c->old, 0};
    for (int i = 0; i < 4; i++)
        if (each[i]->base && !(c->interleaved && (i == 1 || i == 2)))
            qt_poison((void *)(uintptr_t)each[i]->base);
    for (int i = 0; i < 4; i++)
        if (each[i]->base && c->desc.flags & QKV_ACCUMULATE)
            fill_view(&rng, each[i]);
    if (c->desc.grad_sinks) {
        qt_poison(c->desc.grad_sinks);
        for (int64_t h = 0; c->desc.flags & QKV_ACCUMULATE && h < c->desc.forward.num_heads; h++)
            c->desc.grad_sinks[h] = qt_normal(&rng);
    }
}

static gradient_results gather(const gradient_case *c) {
    const qkv_attention_desc *d = &c->desc.forward;
    const qkv_attention_backward_desc *g = &c->desc;
    const int64_t hkv = c->attention.kv_heads;
    int64_t size[4];
    gradient_bias_sizes(g, size);
    gradient_results r = {0};
    if (g->grad_q.data)
        r.q = case_gather(&g->grad_q, d->batch, d->num_heads, d->seq_q, d->head_dim);
    if (g->grad_k.data)
        r.k = case_gather(&g->grad_k, d->batch, hkv, d->seq_k, d->head_dim);
    if (g->grad_v.data)
        r.v = case_gather(&g->grad_v, d->batch, hkv, d->seq_k, c->attention.dv);
    if (g->grad_bias.data)
        r.bias = case_gather_matrix(&g->grad_bias, size[0], size[1], size[2], size[3]);
    if (g->grad_sinks) {
        r.sinks = qt_floats((size_t)d->num_heads, QT_HEAD);
        if (d->num_heads > 0)
            memcpy(r.sinks, g->grad_sinks, (size_t)d->num_heads * sizeof(float));
    }
    return r;
}

gradient_results gradient_before(const gradient_case *c) {
    set_outputs(c);
    return gather(c);
}

gradient_results gradient_run(const qkv_ctx *ctx, const gradient_case *c, int32_t threads, uint64_t shuffle) {
    set_outputs(c);
    case_run_attention_backward(ctx, &c->desc, threads, shuffle);
    const views v = views_of(c);
    const struct {
        const char *what;
        const qt_view *view;
    } each[] = {{"dq", &v.q}, {"dk", &v.k}, {"dv", &v.v}, {"dbias", &v.bias}};
    for (int i = c->interleaved ? 3 : 0; i < 4; i++)
        if (each[i].view->base)
            qt_expect_gaps(each[i].what, each[i].view);
    return gather(c);
}

static void expect(const char *set, const char *what, const float *want, const float *got, int64_t n) {
    char text[64];
    snprintf(text, sizeof text, "%s of %s", what, set);
    if (want)
        qt_expect_words(text, want, got, (size_t)n, 0);
}

void gradient_expect_same(const char *set, const gradient_case *c, const gradient_results *want,
                          const gradient_results *got) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t keys = d->batch * c->attention.kv_heads * d->seq_k;
    int64_t size[4];
    gradient_bias_sizes(&c->desc, size);
    expect(set, "dq", want->q, got->q, d->batch * d->num_heads * d->seq_q * d->head_dim);
    expect(set, "dk", want->k, got->k, keys * d->head_dim);
    expect(set, "dv", want->v, got->v, keys * c->attention.dv);
    expect(set, "dbias", want->bias, got->bias, size[0] * size[1] * size[2] * size[3]);
    expect(set, "dsink", want->sinks, got->sinks, d->num_heads);
}
