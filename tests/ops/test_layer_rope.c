/* Layers with QK-norm and RoPE: the bits of their operations one by one; the forward in double; gradients by central
 * differences of it, the same words in every kernel set and for any number of threads.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { POSITIONS = 400 };

typedef struct rope_layer {
    qkv_layer_backward_desc desc; /* every gradient is wanted; contiguous */
    int64_t batch, n, m, in, kv_in, hq, hkv, dk, dv, out;
    float *x, *x_kv, *w[4], *bias[2], *norm[2], *grad_out, *result;
    bool cross;
} rope_layer;

static float *draw_floats(qt_rng *rng, int64_t n, float size, float middle) {
    float *x = case_floats(rng, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = rintf((middle + size * qt_normal(rng)) * 4096) / 4096; /* on a grid: steps are exact */
    return x;
}

static int64_t *draw_positions(qt_rng *rng, int64_t n) {
    int64_t *p = qt_alloc((size_t)n * sizeof *p, 8, qt_place(rng));
    for (int64_t i = 0; i < n; i++)
        p[i] = qt_range(rng, 0, POSITIONS - 1);
    return p;
}

static void pack_weights(const qkv_ctx *ctx, rope_layer *c) {
    qkv_layer_desc *f = &c->desc.forward;
    const int64_t size[3] = {c->hq * c->dk, c->hkv * c->dk, c->hkv * c->dv};
    qkv_pack_desc q = {.size = sizeof q, .in_features = c->in, .num_parts = c->cross ? 1 : 3};
    qkv_pack_desc kv = {.size = sizeof kv, .in_features = c->kv_in, .num_parts = 2};
    for (int i = 0; i < 3; i++)
        *(c->cross && i > 0 ? &kv.part[i - 1] : &q.part[i]) = (qkv_weight){.data = c->w[i], .out_features = size[i]};
    f->w_qkv = case_pack(ctx, &q);
    f->w_kv = c->cross ? case_pack(ctx, &kv) : NULL;
    const qkv_pack_desc o = {.size = sizeof o,
                             .in_features = c->hq * c->dv,
                             .num_parts = 1,
                             .part = {{.data = c->w[3], .out_features = c->out}}};
    f->w_o = case_pack(ctx, &o);
}

static void draw_steps(qt_rng *rng, rope_layer *c) {
    qkv_layer_desc *f = &c->desc.forward;
    qkv_attention_desc *a = &f->attention;
    const int64_t kind = qt_range(rng, 0, 5); /* norm of q, of k, rope */
    if (kind != 0 && kind != 3) {
        f->norm_q = c->norm[0] = draw_floats(rng, c->dk, 0.3f, 1);
        c->desc.grad_norm_q = case_floats(rng, c->dk);
    }
    if (kind != 0 && kind != 4) {
        f->norm_k = c->norm[1] = draw_floats(rng, c->dk, 0.3f, 1);
        c->desc.grad_norm_k = case_floats(rng, c->dk);
    }
    f->norm_epsilon = 1e-3f;
    if (kind == 1)
        return;
    const int64_t r = c->dk < 2 ? 0 : qt_chance(rng, 60) ? c->dk / 2 * 2 : 2 * qt_range(rng, 1, c->dk / 2);
    float *table[2] = {case_floats(rng, POSITIONS * r / 2), case_floats(rng, POSITIONS * r / 2)};
    const qkv_rope_table_desc t = {.size = sizeof t, .num_positions = POSITIONS, .rotary_dim = r, .base = 100};
    assert_int_equal(qkv_rope_table(&t, table[0], table[1]), QKV_OK);
    if (r == 0)
        return;
    f->rope = (qkv_rope){table[0], table[1], POSITIONS, r == c->dk && qt_chance(rng, 50) ? 0 : r,
                         qt_chance(rng, 50) ? QKV_ROPE_HALF : QKV_ROPE_INTERLEAVED};
    a->q_offset = qt_range(rng, 0, 40);
    if (qt_chance(rng, 30)) {
        int64_t *offsets = draw_positions(rng, c->batch);
        for (int64_t b = 0; b < c->batch; b++)
            offsets[b] /= 2;
        a->q_offsets = offsets;
    }
    if (qt_chance(rng, 30))
        f->positions_q = (qkv_positions){draw_positions(rng, c->batch * c->n), c->n, 1};
    if (qt_chance(rng, 30))
        f->positions_k = (qkv_positions){draw_positions(rng, c->m), 0, 1};
}

static void draw_layer(qt_rng *rng, const qkv_ctx *ctx, rope_layer *c, int64_t most) {
    memset(c, 0, sizeof *c);
    qkv_layer_backward_desc *d = &c->desc;
    qkv_layer_desc *f = &d->forward;
    qkv_attention_desc *a = &f->attention;
    d->size = sizeof *d;
    f->size = sizeof *f;
    a->size = sizeof *a;
    c->cross = qt_chance(rng, 40);
    a->batch = c->batch = qt_range(rng, 1, 3);
    a->seq_q = c->n = qt_range(rng, 1, most);
    a->seq_k = c->m = c->cross ? qt_range(rng, 1, most) : c->n;
    f->model_dim = c->in = qt_range(rng, 1, 20);
    f->kv_dim = c->kv_in = c->cross ? qt_range(rng, 1, 20) : c->in;
    a->num_kv_heads = c->hkv = qt_range(rng, 1, 2);
    a->num_heads = c->hq = c->hkv * qt_range(rng, 1, 3);
    a->head_dim = c->dk = qt_chance(rng, 40) ? 2 * qt_range(rng, 1, 10) : qt_range(rng, 1, most > 20 ? 100 : 12);
    a->head_dim_v = c->dv = qt_range(rng, 1, 10);
    f->out_features = c->out = qt_range(rng, 1, 10);
    a->flags = qt_chance(rng, 40) ? QKV_RIGHT : 0;
    const int64_t rows[4] = {c->in, c->kv_in, c->kv_in, c->hq * c->dv};
    const int64_t size[4] = {c->hq * c->dk, c->hkv * c->dk, c->hkv * c->dv, c->out};
    qkv_weight_grad *grad[4] = {&d->grad_q, &d->grad_k, &d->grad_v, &d->grad_o};
    for (int i = 0; i < 4; i++) {
        c->w[i] = draw_floats(rng, rows[i] * size[i], 1 / sqrtf((float)rows[i]), 0);
        *grad[i] = (qkv_weight_grad){.data = case_floats(rng, rows[i] * size[i])};
    }
    for (int i = 0; i < 2; i++) {
        c->bias[i] = draw_floats(rng, size[i], 0.5f, 0);
        grad[i]->bias = case_floats(rng, size[i]);
    }
    f->bias_q = c->bias[0];
    f->bias_k = c->bias[1];
    draw_steps(rng, c);
    pack_weights(ctx, c);
    c->x = draw_floats(rng, c->batch * c->n * c->in, 1, 0);
    c->x_kv = c->cross ? draw_floats(rng, c->batch * c->m * c->kv_in, 1, 0) : c->x;
    f->x = (qkv_input){c->x, c->n * c->in, 0, c->in};
    d->grad_x = (qkv_output){case_floats(rng, c->batch * c->n * c->in), c->n * c->in, 0, c->in};
    if (c->cross) {
        f->x_kv = (qkv_input){c->x_kv, c->m * c->kv_in, 0, c->kv_in};
        d->grad_x_kv = (qkv_output){case_floats(rng, c->batch * c->m * c->kv_in), c->m * c->kv_in, 0, c->kv_in};
    }
    c->grad_out = draw_floats(rng, c->batch * c->n * c->out, 1, 0);
    d->grad_out = (qkv_input){c->grad_out, c->n * c->out, 0, c->out};
    c->result = case_floats(rng, c->batch * c->n * c->out);
    f->out = (qkv_output){c->result, c->n * c->out, 0, c->out};
    qt_describe("B=%" PRId64 " S=%" PRId64 "x%" PRId64 "%s H=%" PRId64 ":%" PRId64 " D=%" PRId64 ",%" PRId64
                "%s%s rope=%" PRId64 " layout=%" PRId64 "%s%s%s",
                c->batch, c->n, c->m, c->cross ? " cross" : "", c->hq, c->hkv, c->dk, c->dv, f->norm_q ? " norm_q" : "",
                f->norm_k ? " norm_k" : "", f->rope.cos ? f->rope.rotary_dim : -1, f->rope.layout,
                a->q_offsets ? " offsets" : "", f->positions_q.data ? " positions_q" : "",
                f->positions_k.data ? " positions_k" : "");
}

/* ------------------------------------------------------------------------------------------------ step by step */

static qkv_head_steps steps_of(const rope_layer *c, bool keys) {
    const qkv_layer_desc *f = &c->desc.forward;
    return (qkv_head_steps){.norm = keys ? f->norm_k : f->norm_q,
                            .norm_epsilon = f->norm_epsilon,
                            .rotate = f->rope.cos != NULL,
                            .first_position = keys ? 0 : f->attention.q_offset,
                            .first_positions = keys ? NULL : f->attention.q_offsets,
                            .positions = keys ? f->positions_k : f->positions_q};
}

static void test_layer_equals_its_steps(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_layer c;
        draw_layer(&rng, &set->ctx, &c, 90);
        const qkv_layer_desc *f = &c.desc.forward;
        qkv_attention_desc a = f->attention;
        const int64_t heads[3] = {c.hq, c.hkv, c.hkv}, dim[3] = {c.dk, c.dk, c.dv}, rows[3] = {c.n, c.m, c.m};
        qkv_input *to[3] = {&a.q, &a.k, &a.v};
        for (int p = 0; p < 3; p++) {
            const int64_t width = heads[p] * dim[p], in = p == 0 ? c.in : c.kv_in;
            const qkv_pack_desc pack = {.size = sizeof pack,
                                        .in_features = in,
                                        .num_parts = 1,
                                        .part = {{.data = c.w[p], .out_features = width}}};
            const qkv_output y = {case_floats(&rng, c.batch * rows[p] * width), rows[p] * width, dim[p], width};
            qkv_projection_desc d = {.size = sizeof d,
                                     .batch = c.batch,
                                     .tokens = rows[p],
                                     .in_features = in,
                                     .num_parts = 1,
                                     .x = p > 0 && c.cross ? f->x_kv : f->x,
                                     .packed = case_pack(&set->ctx, &pack),
                                     .part = {{width, dim[p], p < 2 ? c.bias[p] : NULL, y, 0}},
                                     .rope = f->rope};
            if (p < 2)
                d.steps[0] = steps_of(&c, p == 1);
            case_run_projection(&set->ctx, &d, 0, 0);
            *to[p] = (qkv_input){y.data, y.batch, y.head, y.token};
        }
        float *side = case_floats(&rng, c.batch * c.n * c.hq * c.dv), *y = case_floats(&rng, c.batch * c.n * c.out);
        a.out = (qkv_output){side, c.n * c.hq * c.dv, c.dv, c.hq * c.dv};
        case_run_attention(&set->ctx, &a, 0, 0);
        const qkv_projection_desc o = {.size = sizeof o,
                                       .batch = c.batch,
                                       .tokens = c.n,
                                       .in_features = c.hq * c.dv,
                                       .num_parts = 1,
                                       .x = {side, c.n * c.hq * c.dv, 0, c.hq * c.dv},
                                       .packed = f->w_o,
                                       .part = {{c.out, 0, NULL, {y, c.n * c.out, 0, c.out}, 0}}};
        case_run_projection(&set->ctx, &o, 0, 0);
        case_run_layer(&set->ctx, f, (int32_t)qt_range(&rng, 0, 8), qt_u64(&rng));
        qt_expect_words("out", y, c.result, (size_t)(c.batch * c.n * c.out), 0);
    }
}

/* -------------------------------------------------------------------------------------------------- in double */

/* Row (b, t) of a projection with its steps. */
static void project(const rope_layer *c, int part, int64_t b, int64_t t, double *y) {
    const qkv_layer_desc *f = &c->desc.forward;
    const int64_t heads = part == 0 ? c->hq : c->hkv, dim = part == 2 ? c->dv : c->dk, width = heads * dim;
    const int64_t in = part == 0 ? c->in : c->kv_in, tokens = part == 0 ? c->n : c->m;
    const float *x = (part == 0 ? c->x : c->x_kv) + (b * tokens + t) * in;
    for (int64_t j = 0; j < width; j++) {
        y[j] = part < 2 ? (double)c->bias[part][j] : 0;
        for (int64_t k = 0; k < in; k++)
            y[j] += (double)x[k] * (double)c->w[part][k * width + j];
    }
    if (part == 2)
        return;
    const qkv_head_steps s = steps_of(c, part == 1);
    const int64_t r = f->rope.cos ? f->rope.rotary_dim ? f->rope.rotary_dim : dim : 0;
    for (int64_t h = 0; h < heads; h++, y += dim) {
        double mean = 0;
        for (int64_t i = 0; i < dim; i++)
            mean += y[i] * y[i] / (double)dim;
        for (int64_t i = 0; c->norm[part] && i < dim; i++)
            y[i] *= (double)c->norm[part][i] / sqrt(mean + (double)f->norm_epsilon);
        int64_t p = (s.first_positions ? s.first_positions[b] : s.first_position) + t;
        if (s.positions.data)
            p = s.positions.data[b * s.positions.batch + t * s.positions.token];
        for (int64_t i = 0; i < r / 2; i++) {
            const int64_t i0 = f->rope.layout == QKV_ROPE_HALF ? i : 2 * i;
            const int64_t i1 = f->rope.layout == QKV_ROPE_HALF ? r / 2 + i : 2 * i + 1;
            const double angle_c = (double)f->rope.cos[p * (r / 2) + i], angle_s = (double)f->rope.sin[p * (r / 2) + i];
            const double y0 = y[i0], y1 = y[i1];
            y[i0] = y0 * angle_c - y1 * angle_s;
            y[i1] = y1 * angle_c + y0 * angle_s;
        }
    }
}

/* out: [batch][n][out]; returns Σ grad_out·out. */
static double forward_in_double(const rope_layer *c, double *out) {
    const qkv_attention_desc *a = &c->desc.forward.attention;
    const int64_t wq = c->hq * c->dk, wk = c->hkv * c->dk, wv = c->hkv * c->dv, width = c->hq * c->dv;
    double *q = oracle_alloc((size_t)wq, 8), *k = oracle_alloc((size_t)(c->m * wk), 8), total = 0;
    double *v = oracle_alloc((size_t)(c->m * wv), 8), *p = oracle_alloc((size_t)c->m, 8);
    double *side = oracle_alloc((size_t)width, 8);
    for (int64_t b = 0; b < c->batch; b++) {
        for (int64_t j = 0; j < c->m; j++) {
            project(c, 1, b, j, k + j * wk);
            project(c, 2, b, j, v + j * wv);
        }
        for (int64_t t = 0; t < c->n; t++) {
            project(c, 0, b, t, q);
            const int64_t last = (a->q_offsets ? a->q_offsets[b] : a->q_offset) + t;
            memset(side, 0, (size_t)width * sizeof *side);
            for (int64_t h = 0; h < c->hq; h++) {
                const int64_t kv = h / (c->hq / c->hkv);
                double sum = 0, most = -1e300;
                for (int64_t j = 0; j < c->m; j++) {
                    p[j] = 0;
                    for (int64_t i = 0; i < c->dk; i++)
                        p[j] += q[h * c->dk + i] * k[j * wk + kv * c->dk + i] / sqrt((double)c->dk);
                    most = fmax(most, p[j]);
                }
                for (int64_t j = 0; j < c->m; j++)
                    sum += p[j] = a->flags & QKV_RIGHT && j > last ? 0 : exp(p[j] - most);
                for (int64_t j = 0; j < c->m; j++)
                    for (int64_t i = 0; i < c->dv; i++)
                        side[h * c->dv + i] += p[j] / sum * v[j * wv + kv * c->dv + i];
            }
            for (int64_t i = 0; i < c->out; i++) {
                double y = 0;
                for (int64_t j = 0; j < width; j++)
                    y += side[j] * (double)c->w[3][j * c->out + i];
                total += y * (double)c->grad_out[(b * c->n + t) * c->out + i];
                if (out)
                    out[(b * c->n + t) * c->out + i] = y;
            }
        }
    }
    free(q);
    free(k);
    free(v);
    free(p);
    free(side);
    return total;
}

static void test_forward(const qt_set *set) {
    double worst = 0;
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_layer c;
        draw_layer(&rng, &set->ctx, &c, 20);
        double *want = oracle_alloc((size_t)(c.batch * c.n * c.out), sizeof *want);
        forward_in_double(&c, want);
        case_run_layer(&set->ctx, &c.desc.forward, 2, 0);
        for (int64_t at = 0; at < c.batch * c.n * c.out; at++) {
            const double error = fabs((double)c.result[at] - want[at]) / (1 + fabs(want[at]));
            worst = fmax(worst, error);
            QT_EXPECT(error <= 2e-5, "element %" PRId64 ": want %.9g, got %.9g", at, want[at], (double)c.result[at]);
        }
        free(want);
        qt_count_words((uint64_t)(c.batch * c.n * c.out));
    }
    qt_note("worst error/(1 + |value|) %.3g", worst);
}

/* --------------------------------------------------------------------------------------------------- gradients */

enum { RESULTS = 12 };

typedef struct gradients {
    const float *of[RESULTS], *input[RESULTS];
    int64_t size[RESULTS];
} gradients;

static const char *const name[RESULTS] = {"dx",  "dx_kv", "dWq",     "dWk",     "dWv", "dWo",
                                          "dbq", "dbk",   "dnorm_q", "dnorm_k", "",    ""};

static gradients gradients_of(const rope_layer *c) {
    const qkv_layer_backward_desc *d = &c->desc;
    const int64_t wq = c->hq * c->dk, wk = c->hkv * c->dk, wv = c->hkv * c->dv;
    return (gradients){
        .of = {d->grad_x.data, d->grad_x_kv.data, d->grad_q.data, d->grad_k.data, d->grad_v.data, d->grad_o.data,
               d->grad_q.bias, d->grad_k.bias, d->grad_norm_q, d->grad_norm_k},
        .input = {c->x, c->x_kv, c->w[0], c->w[1], c->w[2], c->w[3], c->bias[0], c->bias[1], c->norm[0], c->norm[1]},
        .size = {c->batch * c->n * c->in, c->batch * c->m * c->kv_in, c->in * wq, c->kv_in * wk, c->kv_in * wv,
                 c->hq * c->dv * c->out, wq, wk, c->dk, c->dk}};
}

static void copy_gradients(qt_rng *rng, gradients *g) {
    for (int r = 0; r < RESULTS; r++) {
        if (!g->of[r])
            continue;
        float *copy = case_floats(rng, g->size[r]);
        memcpy(copy, g->of[r], (size_t)g->size[r] * sizeof *copy);
        g->of[r] = copy;
    }
}

static void poison(const rope_layer *c) {
    const gradients g = gradients_of(c);
    for (int r = 0; r < RESULTS; r++)
        if (g.of[r])
            qt_poison((void *)(uintptr_t)g.of[r]);
}

static void test_sets_and_threads_agree(void) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_layer c;
        draw_layer(&rng, &reference, &c, 150);
        c.desc.forward.out.data = NULL;
        poison(&c);
        case_run_layer_backward(&reference, &c.desc, 0, 0);
        gradients want = gradients_of(&c);
        copy_gradients(&rng, &want);
        for (size_t s = 0; s < qt_num_sets(); s++) {
            poison(&c);
            case_run_layer_backward(&qt_get_set(s)->ctx, &c.desc, (int32_t)qt_range(&rng, 0, 8), qt_u64(&rng));
            const gradients got = gradients_of(&c);
            for (int r = 0; r < RESULTS; r++)
                if (want.of[r])
                    qt_expect_words(name[r], want.of[r], got.of[r], (size_t)want.size[r], 0);
        }
        /* None depends on which others are wanted. */
        rope_layer alone = c;
        alone.desc.grad_x.data = alone.desc.grad_x_kv.data = NULL;
        alone.desc.grad_q = alone.desc.grad_k = alone.desc.grad_v = alone.desc.grad_o = (qkv_weight_grad){0};
        poison(&alone);
        case_run_layer_backward(&reference, &alone.desc, 3, 0);
        for (int r = 8; r < 10; r++)
            if (want.of[r])
                qt_expect_words(name[r], want.of[r], gradients_of(&alone).of[r], (size_t)want.size[r], 0);
    }
}

static double largest(const float *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabs((double)x[i]) > most)
            most = fabs((double)x[i]);
    return most;
}

static void test_central_differences(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(120); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_layer c;
        draw_layer(&rng, &set->ctx, &c, 7);
        c.desc.forward.out.data = NULL;
        case_run_layer_backward(&set->ctx, &c.desc, 2, 0);
        const gradients g = gradients_of(&c);
        for (int r = 0; r < RESULTS; r++) {
            if (!g.of[r])
                continue;
            const int64_t at = qt_range(&rng, 0, g.size[r] - 1);
            float *x = (float *)(uintptr_t)g.input[r] + at;
            const float middle = *x, step = 0x1p-10f;
            double f[4];
            for (int k = 0; k < 4; k++) {
                static const float steps[4] = {-2, -1, 1, 2};
                *x = middle + steps[k] * step;
                f[k] = forward_in_double(&c, NULL);
            }
            *x = middle;
            const double slope = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * (double)step);
            QT_EXPECT(fabs(slope - (double)g.of[r][at]) <= 2e-4 * (largest(g.of[r], g.size[r]) + 0.1),
                      "%s[%" PRId64 "]: %g by differences, %g from the library", name[r], at, slope,
                      (double)g.of[r][at]);
            qt_count_words(1);
        }
    }
}

static void test_accumulating_adds(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_layer c;
        draw_layer(&rng, &set->ctx, &c, 30);
        c.desc.forward.out.data = NULL;
        case_run_layer_backward(&set->ctx, &c.desc, 0, 0);
        gradients once = gradients_of(&c);
        copy_gradients(&rng, &once);
        c.desc.flags = QKV_ACCUMULATE_Q | QKV_ACCUMULATE_K;
        case_run_layer_backward(&set->ctx, &c.desc, 3, 0);
        const gradients twice = gradients_of(&c);
        for (int r = 0; r < RESULTS; r++) {
            const double times = r == 2 || r == 3 || (r >= 6 && r <= 9) ? 2 : 1;
            const double slack = once.of[r] ? 1e-5 * (0.01 + largest(once.of[r], once.size[r])) : 0;
            for (int64_t at = 0; once.of[r] && at < once.size[r]; at++)
                QT_EXPECT(fabs((double)twice.of[r][at] - times * (double)once.of[r][at]) <= slack,
                          "%s at %" PRId64 ": %g once, %g twice", name[r], at, (double)once.of[r][at],
                          (double)twice.of[r][at]);
        }
        qt_count_words(1);
    }
}

/* Tokens that no query sees hold NaN: their gradients are 0, and they take no part in that of QK-norm. */
static void test_hidden_keys_take_no_part(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        rope_layer c;
        draw_layer(&rng, &set->ctx, &c, 40);
        if (!c.cross)
            continue;
        int64_t *len = draw_positions(&rng, c.batch);
        for (int64_t b = 0; b < c.batch; b++)
            len[b] = qt_range(&rng, 0, c.m);
        c.desc.forward.attention.kv_len = len;
        c.desc.forward.out.data = NULL;
        c.desc.grad_k = c.desc.grad_v = (qkv_weight_grad){0}; /* sums over all of x_kv */
        case_run_layer_backward(&set->ctx, &c.desc, 0, 0);
        gradients want = gradients_of(&c);
        copy_gradients(&rng, &want);
        for (int64_t b = 0; b < c.batch; b++)
            for (int64_t k = len[b] * c.kv_in; k < c.m * c.kv_in; k++)
                c.x_kv[b * c.m * c.kv_in + k] = NAN;
        poison(&c);
        case_run_layer_backward(&set->ctx, &c.desc, 3, 0);
        const gradients got = gradients_of(&c);
        for (int r = 0; r < RESULTS; r++)
            if (want.of[r])
                qt_expect_words(name[r], want.of[r], got.of[r], (size_t)want.size[r], 0);
        for (int64_t b = 0; b < c.batch; b++)
            for (int64_t k = len[b] * c.kv_in; k < c.m * c.kv_in; k++)
                QT_EXPECT(got.of[1][b * c.m * c.kv_in + k] == 0, "dx_kv of a hidden token is not 0");
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("layer_equals_its_steps", test_layer_equals_its_steps);
    qt_each_set("forward", test_forward);
    qt_once("sets_and_threads_agree", test_sets_and_threads_agree);
    qt_each_set("central_differences", test_central_differences);
    qt_each_set("accumulating_adds", test_accumulating_adds);
    qt_each_set("hidden_keys_take_no_part", test_hidden_keys_take_no_part);
    return qt_run();
}
