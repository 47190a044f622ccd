/* Gradients of projections: any size around the edges of tiles, panels and chains, both layouts, parts, heads, strides,
 * accumulation; the reference within an analytic bound, every kernel set the same words.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct gradient_case {
    qkv_projection_backward_desc desc;
    float *dense[QKV_MAX_PARTS]; /* W, [in][out] contiguous */
    qkv_pack_desc pack;
    uint64_t old;
} gradient_case;

/* Everything contiguous: dX [batch][tokens][in], dW [in][out], db [out]. */
typedef struct results {
    float *x, *w[QKV_MAX_PARTS], *bias[QKV_MAX_PARTS];
} results;

static int64_t chain_size(qt_rng *rng) {
    static const int64_t edges[] = {0, 1, 2, 16, 63, 64, 65, 127, 128, 129, 192, 193, 257};
    return qt_chance(rng, 60) ? edges[qt_range(rng, 0, 12)] : qt_range(rng, 1, 300);
}

static int64_t rows_of(const gradient_case *c, int part) {
    return c->desc.grad[part].layout == QKV_IN_OUT ? c->desc.forward.in_features
                                                   : c->desc.forward.part[part].out_features;
}

static int64_t cols_of(const gradient_case *c, int part) {
    return c->desc.grad[part].layout == QKV_IN_OUT ? c->desc.forward.part[part].out_features
                                                   : c->desc.forward.in_features;
}

static int64_t stride_of(const gradient_case *c, int part) {
    return c->desc.grad[part].stride ? c->desc.grad[part].stride : cols_of(c, part);
}

static void draw_part(qt_rng *rng, gradient_case *c, int part, qt_kind kind) {
    qkv_projection_desc *f = &c->desc.forward;
    qkv_projection_part *p = &f->part[part];
    const int64_t heads = qt_range(rng, 1, 4), dim = qt_chance(rng, 50) ? case_size(rng, 130) : qt_range(rng, 0, 66);
    p->out_features = heads * dim;
    p->head_dim = dim > 0 && heads > 1 ? dim : qt_chance(rng, 50) ? p->out_features : 0;
    const int64_t head_dim = p->head_dim ? p->head_dim : p->out_features;
    c->dense[part] = case_floats(rng, f->in_features * p->out_features);
    qt_fill(rng, c->dense[part], (size_t)(f->in_features * p->out_features), kind);
    c->pack.part[part] = (qkv_weight){.data = c->dense[part], .out_features = p->out_features};
    c->desc.grad_out[part] =
        case_input(rng, f->batch, head_dim > 0 ? p->out_features / head_dim : 0, f->tokens, head_dim, true);
    qkv_weight_grad *g = &c->desc.grad[part];
    g->layout = qt_chance(rng, 50) ? QKV_IN_OUT : QKV_OUT_IN;
    const int64_t rows = rows_of(c, part), cols = cols_of(c, part), stride = cols + qt_range(rng, 0, 5);
    g->stride = stride == cols && qt_chance(rng, 50) ? 0 : stride;
    if (qt_chance(rng, 80))
        g->data = case_floats(rng, rows > 0 && cols > 0 ? stride * (rows - 1) + cols : 0);
    if (qt_chance(rng, 60))
        g->bias = case_floats(rng, p->out_features);
}

static void draw(qt_rng *rng, gradient_case *c, qt_kind kind) {
    memset(c, 0, sizeof *c);
    qkv_projection_desc *f = &c->desc.forward;
    c->desc.size = sizeof c->desc;
    c->desc.flags = qt_chance(rng, 40) ? QKV_ACCUMULATE : 0;
    c->old = qt_u64(rng);
    f->size = sizeof *f;
    f->batch = qt_chance(rng, 3) ? 0 : qt_range(rng, 1, 3);
    f->tokens = qt_chance(rng, 40) ? qt_range(rng, 0, 8) : case_size(rng, 260);
    f->in_features = chain_size(rng);
    f->num_parts = qt_range(rng, 1, QKV_MAX_PARTS);
    c->pack = (qkv_pack_desc){.size = sizeof c->pack, .in_features = f->in_features, .num_parts = f->num_parts};
    for (int part = 0; part < f->num_parts; part++)
        draw_part(rng, c, part, kind);
    f->x = case_input(rng, f->batch, 1, f->tokens, f->in_features, true);
    if (qt_chance(rng, 80))
        c->desc.grad_x = case_output(rng, f->batch, 1, f->tokens, f->in_features);
    if (kind == QT_INTEGER) {
        const qkv_input *in[1 + QKV_MAX_PARTS] = {&f->x, &c->desc.grad_out[0], &c->desc.grad_out[1],
                                                  &c->desc.grad_out[2], &c->desc.grad_out[3]};
        for (int i = 0; i <= f->num_parts; i++) {
            const qkv_projection_part *p = i > 0 ? &f->part[i - 1] : NULL;
            const int64_t dim = !p ? f->in_features : p->head_dim ? p->head_dim : p->out_features;
            const int64_t heads = !p ? 1 : dim > 0 ? p->out_features / dim : 0;
            for (int64_t row = 0; row < f->batch * heads * f->tokens; row++)
                qt_fill(rng, case_row(in[i], row / f->tokens / heads, row / f->tokens % heads, row % f->tokens),
                        (size_t)dim, kind);
        }
    }
    qt_describe("B=%" PRId64 " M=%" PRId64 " K=%" PRId64 " N=%" PRId64 "+%" PRId64 "+%" PRId64 "+%" PRId64 "%s%s",
                f->batch, f->tokens, f->in_features, f->part[0].out_features, f->part[1].out_features,
                f->part[2].out_features, f->part[3].out_features, c->desc.grad_x.data ? " dx" : "",
                c->desc.flags ? " accumulate" : "");
}

static qt_view weight_view(const gradient_case *c, int part) {
    const size_t rows = (size_t)rows_of(c, part), cols = (size_t)cols_of(c, part);
    return qt_view_rows(c->desc.grad[part].data, rows, cols, stride_of(c, part));
}

/* Poison, or integers to add to. */
static void set_outputs(const gradient_case *c) {
    const qkv_projection_desc *f = &c->desc.forward;
    const bool fill = c->desc.flags & QKV_ACCUMULATE;
    qt_rng rng = {c->old, 0};
    if (c->desc.grad_x.data) {
        qt_poison(c->desc.grad_x.data);
        for (int64_t row = 0; fill && row < f->batch * f->tokens; row++) {
            float *to = (float *)c->desc.grad_x.data + row / f->tokens * c->desc.grad_x.batch +
                        row % f->tokens * c->desc.grad_x.token;
            qt_fill(&rng, to, (size_t)f->in_features, QT_INTEGER);
        }
    }
    for (int part = 0; part < f->num_parts; part++) {
        const qkv_weight_grad *g = &c->desc.grad[part];
        if (g->data)
            qt_poison(g->data);
        for (int64_t i = 0; fill && g->data && i < rows_of(c, part); i++)
            qt_fill(&rng, g->data + i * stride_of(c, part), (size_t)cols_of(c, part), QT_INTEGER);
        if (g->bias)
            qt_poison(g->bias);
        if (fill && g->bias)
            qt_fill(&rng, g->bias, (size_t)f->part[part].out_features, QT_INTEGER);
    }
}

static results gather(const gradient_case *c) {
    const qkv_projection_desc *f = &c->desc.forward;
    results r = {0};
    if (c->desc.grad_x.data)
        r.x = case_gather(&c->desc.grad_x, f->batch, 1, f->tokens, f->in_features);
    for (int part = 0; part < f->num_parts; part++) {
        const qkv_weight_grad *g = &c->desc.grad[part];
        const int64_t out = f->part[part].out_features, in = f->in_features, stride = stride_of(c, part);
        r.w[part] = g->data ? qt_floats((size_t)(in * out), QT_HEAD) : NULL;
        for (int64_t i = 0; g->data && i < in; i++)
            for (int64_t o = 0; o < out; o++)
                r.w[part][i * out + o] = g->data[g->layout == QKV_IN_OUT ? i * stride + o : o * stride + i];
        r.bias[part] = g->bias ? qt_floats((size_t)out, QT_HEAD) : NULL;
        if (g->bias && out > 0)
            memcpy(r.bias[part], g->bias, (size_t)out * sizeof(float));
    }
    return r;
}

static results run(const qkv_ctx *ctx, gradient_case *c, int32_t threads, uint64_t shuffle) {
    const qkv_projection_desc *f = &c->desc.forward;
    c->desc.forward.packed = case_pack(ctx, &c->pack);
    qt_read_only(c->desc.forward.packed);
    set_outputs(c);
    case_run_projection_backward(ctx, &c->desc, threads, shuffle);
    if (c->desc.grad_x.data) {
        const qt_view view = qt_view_output(&c->desc.grad_x, f->batch, 1, f->tokens, f->in_features);
        qt_expect_gaps("dx", &view);
    }
    for (int part = 0; part < f->num_parts; part++) {
        const qt_view view = weight_view(c, part);
        if (c->desc.grad[part].data)
            qt_expect_gaps("dw", &view);
    }
    return gather(c);
}

static void expect_same(const gradient_case *c, const char *set, const results *want, const results *got) {
    const qkv_projection_desc *f = &c->desc.forward;
    if (want->x)
        qt_expect_words(set, want->x, got->x, (size_t)(f->batch * f->tokens * f->in_features), 0);
    for (int part = 0; part < f->num_parts; part++) {
        const int64_t out = f->part[part].out_features;
        if (want->w[part])
            qt_expect_words(set, want->w[part], got->w[part], (size_t)(f->in_features * out), 0);
        if (want->bias[part])
            qt_expect_words(set, want->bias[part], got->bias[part], (size_t)out, 0);
    }
}

/* ------------------------------------------------------------------------------------------------------ oracle */

typedef struct sum {
    double value, magnitude;
} sum;

/* Chains of 128 terms, which are added up with what was there: γ of a chain and of an add for each. */
static void expect(const char *what, int64_t at, sum s, double adds, double terms, double old, float got, bool exact,
                   double *worst) {
    const double gamma = oracle_gamma(fmin(terms, 128) + adds);
    const double bound = exact ? 0 : gamma * (s.magnitude + fabs(old)) + terms * ORACLE_TINY;
    QT_EXPECT(oracle_within((double)got, s.value + old, bound, worst), "%s at %" PRId64 ": want %.9g ± %.3g, got %.9g",
              what, at, s.value + old, bound, (double)got);
    QT_EXPECT(got != 0 || qt_bits(got) == 0, "%s at %" PRId64 " is −0", what, at);
}

static double grad_out_at(const gradient_case *c, int part, int64_t row, int64_t o) {
    const qkv_projection_desc *f = &c->desc.forward;
    const int64_t dim = f->part[part].head_dim ? f->part[part].head_dim : f->part[part].out_features;
    return (double)case_row(&c->desc.grad_out[part], row / f->tokens, o / dim, row % f->tokens)[o % dim];
}

static void check(const gradient_case *c, const results *before, const results *got, bool exact, double *worst) {
    const qkv_projection_desc *f = &c->desc.forward;
    const int64_t rows = f->batch * f->tokens, in = f->in_features;
    const bool adds = c->desc.flags & QKV_ACCUMULATE;
    const double row_chains = ceil((double)rows / 128);
    sum *x = oracle_alloc((size_t)(rows * in), sizeof *x);
    double chains = 0, terms = 0;
    for (int part = 0; part < f->num_parts; part++) {
        const int64_t out = f->part[part].out_features;
        chains += ceil((double)out / 128);
        terms += (double)out;
        sum *w = oracle_alloc((size_t)(in * out), sizeof *w), *bias = oracle_alloc((size_t)out, sizeof *bias);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t o = 0; o < out; o++) {
                const double y = grad_out_at(c, part, row, o);
                bias[o].value += y;
                bias[o].magnitude += fabs(y);
                const float *x_row = in > 0 ? case_row(&f->x, row / f->tokens, 0, row % f->tokens) : NULL;
                for (int64_t i = 0; i < in; i++) {
                    const double to_w = (double)x_row[i] * y, to_x = y * (double)c->dense[part][i * out + o];
                    w[i * out + o].value += to_w;
                    w[i * out + o].magnitude += fabs(to_w);
                    x[row * in + i].value += to_x;
                    x[row * in + i].magnitude += fabs(to_x);
                }
            }
        for (int64_t at = 0; got->w[part] && at < in * out; at++)
            expect("dw", at, w[at], row_chains, (double)rows, adds ? (double)before->w[part][at] : 0, got->w[part][at],
                   exact, worst);
        for (int64_t at = 0; got->bias[part] && at < out; at++)
            expect("db", at, bias[at], row_chains, (double)rows, adds ? (double)before->bias[part][at] : 0,
                   got->bias[part][at], exact, worst);
        free(w);
        free(bias);
    }
    for (int64_t at = 0; got->x && at < rows * in; at++)
        expect("dx", at, x[at], chains, terms, adds ? (double)before->x[at] : 0, got->x[at], exact, worst);
    free(x);
}

static void gradient_cases(uint64_t count, qt_kind kind) {
    const qkv_ctx reference = case_reference();
    double worst = 0;
    for (uint64_t i = 0; i < case_count(count); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        gradient_case c;
        draw(&rng, &c, kind);
        set_outputs(&c);
        const results before = gather(&c), want = run(&reference, &c, 0, 0);
        for (size_t s = 0; s < qt_num_sets(); s++) {
            const int32_t threads = qt_chance(&rng, 50) ? 0 : (int32_t)qt_range(&rng, 1, 8);
            const results got = run(&qt_get_set(s)->ctx, &c, threads, qt_u64(&rng));
            expect_same(&c, qt_get_set(s)->name, &want, &got);
        }
        check(&c, &before, &want, kind == QT_INTEGER, &worst);
    }
    if (kind != QT_INTEGER)
        qt_note("worst error/bound %.3f", worst);
}

static void test_gradients(void) {
    gradient_cases(220, QT_NORMAL);
}

/* Every product and sum is exact, so that the slightest slip in indexing shows. */
static void test_small_integers_are_exact(void) {
    gradient_cases(90, QT_INTEGER);
}

/* The whole round: an optimiser's step in the layout of the gradient, then one call packs the new weights. */
static void test_a_step_of_descent_lowers_the_loss(const qt_set *set) {
    enum { IN = 70, OUT = 130, TOKENS = 50 };
    for (uint64_t i = 0; i < 2; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t layout = i == 0 ? QKV_IN_OUT : QKV_OUT_IN;
        float *x = case_floats(&rng, TOKENS * IN), *w = case_floats(&rng, IN * OUT), *bias = case_floats(&rng, OUT);
        float *y = case_floats(&rng, TOKENS * OUT), *target = case_floats(&rng, TOKENS * OUT);
        float *dw = case_floats(&rng, IN * OUT);
        float *db = case_floats(&rng, OUT);
        qt_fill(&rng, x, TOKENS * IN, QT_NORMAL);
        qt_fill(&rng, w, IN * OUT, QT_NORMAL);
        qt_fill(&rng, bias, OUT, QT_NORMAL);
        qt_fill(&rng, target, TOKENS * OUT, QT_NORMAL);
        const qkv_pack_desc pack = {.size = sizeof pack,
                                    .in_features = IN,
                                    .num_parts = 1,
                                    .part = {{.data = w, .out_features = OUT, .layout = layout}}};
        double first = 0, loss = 0;
        for (int step = 0; step < 60; step++) {
            qkv_projection_desc f = {.size = sizeof f,
                                     .batch = 1,
                                     .tokens = TOKENS,
                                     .in_features = IN,
                                     .num_parts = 1,
                                     .x = {x, 0, 0, IN},
                                     .packed = case_pack(&set->ctx, &pack),
                                     .part = {{.out_features = OUT, .bias = bias, .out = {y, 0, 0, OUT}}}};
            case_run_projection(&set->ctx, &f, 0, 0);
            loss = 0;
            for (int at = 0; at < TOKENS * OUT; at++) {
                y[at] -= target[at];
                loss += (double)y[at] * (double)y[at];
            }
            first = step == 0 ? loss : first;
            const qkv_projection_backward_desc b = {.size = sizeof b,
                                                    .grad_out = {{y, 0, 0, OUT}},
                                                    .grad = {{.data = dw, .layout = layout, .bias = db}},
                                                    .forward = f};
            case_run_projection_backward(&set->ctx, &b, (int32_t)qt_range(&rng, 0, 3), 0);
            for (int at = 0; at < IN * OUT; at++)
                w[at] -= 0.005f * dw[at];
            for (int at = 0; at < OUT; at++)
                bias[at] -= 0.005f * db[at];
        }
        QT_EXPECT(loss < 0.05 * first, "the loss fell from %g to %g only", first, loss);
        qt_count_words(1);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_once("gradients", test_gradients);
    qt_once("small_integers_are_exact", test_small_integers_are_exact);
    qt_each_set("a_step_of_descent_lowers_the_loss", test_a_step_of_descent_lowers_the_loss);
    return qt_run();
}
