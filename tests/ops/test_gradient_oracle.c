/* The oracle's gradients against central differences of its own forward, in double: five points, so that what is left
 * is of fourth order. Nothing of the library takes part but the header.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include <float.h>
#include <stdlib.h>

#define STEP 0x1p-12

typedef struct objective {
    double value, magnitude;
} objective;

/* (8·(f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h, and how much rounding there may be in it. */
static objective difference(const objective at[4]) {
    objective d = {(8 * (at[2].value - at[1].value) - (at[3].value - at[0].value)) / (12 * STEP), 0};
    for (int i = 0; i < 4; i++)
        d.magnitude += at[i].magnitude * 0x1p-48 / STEP;
    return d;
}

static const double steps[4] = {-2 * STEP, -STEP, STEP, 2 * STEP};

static objective all_heads(const gradient_case *c) {
    objective f = {0, 0};
    for (int64_t b = 0; b < c->desc.forward.batch; b++)
        for (int64_t kv = 0; kv < c->attention.kv_heads; kv++)
            f.value += oracle_objective(&c->desc, b, kv, NULL, &f.magnitude);
    return f;
}

static void expect(const char *what, int64_t at, const oracle_gradient *g, objective d, double *worst) {
    if (g->bound[at] < 0)
        return;
    const double error = fabs(d.value - g->value[at]), allowed = 1e-7 * g->magnitude[at] + d.magnitude + 1e-9;
    QT_EXPECT(error <= allowed, "%s at %lld: %.12g by formula, %.12g by differences (allowed ± %.2g)", what,
              (long long)at, g->value[at], d.value, allowed);
    *worst = fmax(*worst, error / allowed);
    qt_count_words(1);
}

static void check_tensor(qt_rng *rng, const gradient_case *c, char tensor, const oracle_gradient *g, int64_t tokens,
                         int64_t channels, double *worst) {
    const qkv_attention_desc *d = &c->desc.forward;
    const int64_t heads = tensor == 'q' ? d->num_heads : c->attention.kv_heads;
    const qkv_input *in = tensor == 'q' ? &d->q : tensor == 'k' ? &d->k : &d->v;
    if (g->size == 0 || case_is_shared(in, d->batch, heads, tokens))
        return;
    for (int n = 0; n < 2; n++) {
        const int64_t at = qt_range(rng, 0, g->size - 1), row = at / channels, head = row / tokens % heads;
        const int64_t b = row / tokens / heads, kv = tensor == 'q' ? head / (heads / c->attention.kv_heads) : head;
        objective f[4] = {{0, 0}};
        for (int i = 0; i < 4; i++) {
            const oracle_nudge nudge = {tensor, head, row % tokens * channels + at % channels, steps[i]};
            f[i].value = oracle_objective(&c->desc, b, kv, &nudge, &f[i].magnitude);
        }
        const char what[3] = {'d', tensor, 0};
        expect(what, at, g, difference(f), worst);
    }
}

/* Moves one float of bias or sinks, which is put on a grid first so that every step is exact. */
static void check_float(const gradient_case *c, const char *what, float *x, const float original,
                        const oracle_gradient *g, int64_t at, double *worst) {
    objective f[4];
    for (int i = 0; i < 4; i++) {
        *x = original + (float)steps[i];
        f[i] = all_heads(c);
    }
    *x = original;
    expect(what, at, g, difference(f), worst);
}

/* dbias as the gradient of the bias as it is broadcast. */
static void broadcast_like_bias(gradient_case *c) {
    const qkv_matrix_input *x = &c->desc.forward.bias;
    if (x->data)
        c->desc.grad_bias = (qkv_matrix_output){(void *)(uintptr_t)x->data, x->batch, x->head, x->query, x->key};
}

static float on_grid(float x) {
    return isfinite(x) && fabsf(x) < 100 ? rintf(x * 1024) / 1024 : x;
}

static void check_bias(qt_rng *rng, gradient_case *c, double *worst) {
    const qkv_attention_desc *d = &c->desc.forward;
    const qkv_matrix_input *x = &d->bias;
    const int64_t b = qt_range(rng, 0, d->batch - 1), h = qt_range(rng, 0, d->num_heads - 1);
    const int64_t i = qt_range(rng, 0, d->seq_q - 1), j = qt_range(rng, 0, d->seq_k - 1);
    float *element = (float *)(uintptr_t)x->data + b * x->batch + h * x->head + i * x->query + j * x->key;
    if (!(fabsf(*element) < 100))
        return;
    *element = on_grid(*element);
    oracle_gradients *g = oracle_backward(&c->desc);
    int64_t size[4];
    gradient_bias_sizes(&c->desc, size);
    const int64_t at = (((x->batch ? b : 0) * size[1] + (x->head ? h : 0)) * size[2] + (x->query ? i : 0)) * size[3] +
                       (x->key ? j : 0);
    check_float(c, "dbias", element, *element, &g->bias, at, worst);
    oracle_free_gradients(g);
}

static void check_sink(qt_rng *rng, gradient_case *c, double *worst) {
    const int64_t h = qt_range(rng, 0, c->desc.forward.num_heads - 1);
    float *element = (float *)(uintptr_t)&c->desc.forward.sinks[h];
    if (!(fabsf(*element) < 100))
        return;
    *element = on_grid(*element);
    oracle_gradients *g = oracle_backward(&c->desc);
    check_float(c, "dsink", element, *element, &g->sinks, h, worst);
    oracle_free_gradients(g);
}

static void test_central_differences(void) {
    double worst[5] = {0};
    uint64_t configurations = 0;
    const uint64_t wanted = case_count(1000);
    for (uint64_t i = 0; configurations < wanted; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng)) {
            if (i > 4 * wanted)
                break;
            continue;
        }
        gradient_case c;
        gradient_draw(&rng, 12000, &c);
        const qkv_attention_desc *d = &c.desc.forward;
        if (!c.attention.ordinary || c.attention.data == CASE_WIDE ||
            d->batch * d->num_heads * d->seq_q * d->seq_k == 0)
            continue;
        if (d->softcap > 0 && d->softcap < 0.1f) /* bends within one step */
            continue;
        broadcast_like_bias(&c);
        oracle_gradients *g = oracle_backward(&c.desc);
        check_tensor(&rng, &c, 'q', &g->q, d->seq_q, d->head_dim, &worst[0]);
        check_tensor(&rng, &c, 'k', &g->k, d->seq_k, d->head_dim, &worst[1]);
        check_tensor(&rng, &c, 'v', &g->v, d->seq_k, c.attention.dv, &worst[2]);
        oracle_free_gradients(g);
        if (d->bias.data)
            check_bias(&rng, &c, &worst[3]);
        if (d->sinks)
            check_sink(&rng, &c, &worst[4]);
        configurations++;
    }
    qt_note("%llu configurations; worst error/allowed: dq %.3f, dk %.3f, dv %.3f, dbias %.3f, dsink %.3f",
            (unsigned long long)configurations, worst[0], worst[1], worst[2], worst[3], worst[4]);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("central_differences", test_central_differences);
    return qt_run();
}
