/* Gradients of a whole layer: the same bits as its operations called one by one; central differences of the layer in
 * double; and every kernel set the same words.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_gradient_cases.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer_case {
    qkv_layer_backward_desc desc;
    int64_t tokens, keys, kv_heads, dv, width, rows[4], size[4]; /* rows × size: Wq, Wk, Wv, Wo */
    float *w[4];
    oracle_weights weights;
    bool raw, cross, apart; /* apart: Wk and Wv are a matrix of their own */
} layer_case;

static float *draw_floats(qt_rng *rng, int64_t n, float size) {
    float *x = case_floats(rng, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = size * qt_normal(rng);
    return x;
}

static void draw_sizes(qt_rng *rng, layer_case *c, int64_t most) {
    qkv_layer_desc *f = &c->desc.forward;
    qkv_attention_desc *a = &f->attention;
    c->tokens = qt_chance(rng, 90) ? qt_range(rng, 1, most) : qt_range(rng, 0, 4 * most);
    a->batch = qt_range(rng, qt_chance(rng, 3) ? 0 : 1, 3);
    c->cross = qt_chance(rng, 40);
    c->keys = !c->cross ? c->tokens : qt_chance(rng, 90) ? qt_range(rng, 1, most) : qt_range(rng, 0, 4 * most);
    a->seq_q = c->tokens;
    a->seq_k = c->keys;
    f->model_dim = qt_range(rng, 1, 2 * most);
    c->raw = qt_chance(rng, 25);
    f->kv_dim = c->cross && !c->raw && qt_chance(rng, 60) ? qt_range(rng, 1, 2 * most) : 0;
    c->apart = c->cross && !c->raw && (f->kv_dim != 0 || qt_chance(rng, 30));
    c->kv_heads = c->raw ? 1 : qt_range(rng, 1, 3);
    a->num_heads = c->kv_heads * qt_range(rng, 1, 3);
    a->num_kv_heads = c->raw && qt_chance(rng, 50) ? 0 : c->kv_heads;
    if (a->num_kv_heads == 0)
        c->kv_heads = a->num_heads;
    a->head_dim = c->raw ? f->model_dim : qt_range(rng, 1, most);
    a->head_dim_v = qt_chance(rng, 60) ? 0 : c->raw ? f->model_dim : qt_range(rng, 1, most);
    c->dv = a->head_dim_v ? a->head_dim_v : a->head_dim;
    c->width = a->num_heads * c->dv;
}

static void draw_options(qt_rng *rng, layer_case *c) {
    qkv_attention_desc *a = &c->desc.forward.attention;
    const int64_t n = c->tokens, m = c->keys;
    if (qt_chance(rng, 20)) {
        a->dropout = 0.4f;
        a->dropout_seed = qt_u64(rng);
    }
    a->flags = qt_chance(rng, 50) ? QKV_RIGHT : 0;
    a->softcap = qt_chance(rng, 20) ? 5 : 0;
    if (qt_chance(rng, 30)) {
        a->sinks = draw_floats(rng, a->num_heads, 2);
        c->desc.grad_sinks = case_floats(rng, a->num_heads);
    }
    if (qt_chance(rng, 30)) {
        a->bias = (qkv_matrix_input){draw_floats(rng, n * m, 1), 0, 0, m, 1};
        c->desc.grad_bias = (qkv_matrix_output){case_floats(rng, n * m), 0, 0, m, 1};
    }
}

static void draw_grad(qt_rng *rng, qkv_weight_grad *g, int64_t in, int64_t out) {
    g->layout = qt_chance(rng, 50) ? QKV_IN_OUT : QKV_OUT_IN;
    g->data = qt_chance(rng, 85) ? case_floats(rng, in * out) : NULL;
    g->bias = qt_chance(rng, 70) ? case_floats(rng, out) : NULL;
}

static const void *pack_weights(const qkv_ctx *ctx, const layer_case *c, int first, int num) {
    qkv_pack_desc pack = {.size = sizeof pack, .num_parts = num, .in_features = c->rows[first]};
    for (int p = 0; p < num; p++)
        pack.part[p] = (qkv_weight){.data = c->w[first + p], .out_features = c->size[first + p]};
    return case_pack(ctx, &pack);
}

static void pack_inputs(const qkv_ctx *ctx, layer_case *c) {
    c->desc.forward.w_qkv = pack_weights(ctx, c, 0, c->apart ? 1 : 3);
    c->desc.forward.w_kv = c->apart ? pack_weights(ctx, c, 1, 2) : NULL;
}

static void draw_layer(qt_rng *rng, const qkv_ctx *ctx, layer_case *c, int64_t most) {
    memset(c, 0, sizeof *c);
    c->desc = (qkv_layer_backward_desc){
        .size = sizeof c->desc,
        .forward = {.size = sizeof c->desc.forward, .attention = {.size = sizeof c->desc.forward.attention}}};
    qkv_layer_desc *f = &c->desc.forward;
    draw_sizes(rng, c, most);
    draw_options(rng, c);
    qkv_attention_desc *a = &f->attention;
    const int64_t in = f->model_dim, kv_dim = f->kv_dim ? f->kv_dim : in;
    const int64_t size[3] = {a->num_heads * a->head_dim, c->kv_heads * a->head_dim, c->kv_heads * c->dv};
    qkv_weight_grad *grad[3] = {&c->desc.grad_q, &c->desc.grad_k, &c->desc.grad_v};
    const float **bias[3] = {&f->bias_q, &f->bias_k, &f->bias_v};
    for (int p = 0; p < 3 && !c->raw; p++) {
        c->size[p] = size[p];
        c->rows[p] = p > 0 ? kv_dim : in;
        c->w[p] = draw_floats(rng, c->rows[p] * size[p], 1 / sqrtf((float)in));
        *bias[p] = qt_chance(rng, 50) ? draw_floats(rng, size[p], 0.5f) : NULL;
        draw_grad(rng, grad[p], c->rows[p], size[p]);
    }
    f->out_features = c->width;
    if (qt_chance(rng, 70)) {
        c->size[3] = f->out_features = qt_range(rng, 1, 2 * most);
        c->rows[3] = c->width;
        c->w[3] = draw_floats(rng, c->width * f->out_features, 1 / sqrtf((float)c->width));
        draw_grad(rng, &c->desc.grad_o, c->width, f->out_features);
        f->w_o = pack_weights(ctx, c, 3, 1);
    }
    if (!c->raw)
        pack_inputs(ctx, c);
    c->weights = (oracle_weights){c->w[0], c->w[1], c->w[2], c->w[3]};
    f->x = case_input(rng, a->batch, 1, c->tokens, in, false);
    c->desc.grad_out = case_input(rng, a->batch, 1, c->tokens, f->out_features, true);
    if (qt_chance(rng, 80))
        c->desc.grad_x = case_output(rng, a->batch, 1, c->tokens, in);
    if (c->cross)
        f->x_kv = case_input(rng, a->batch, 1, c->keys, kv_dim, false);
    if (c->cross && qt_chance(rng, 80))
        c->desc.grad_x_kv = case_output(rng, a->batch, 1, c->keys, kv_dim);
    gradient_draw_arithmetic(rng, a);
    qt_describe("B=%" PRId64 " S=%" PRId64 "x%" PRId64 "%s model=%" PRId64 ",%" PRId64 " H=%" PRId64 ":%" PRId64
                " D=%" PRId64 ",%" PRId64 " out=%" PRId64 "%s%s flags=%u%s%s%s%s",
                a->batch, c->tokens, c->keys,
                !c->cross  ? ""
                : c->apart ? " w_kv"
                           : " x_kv",
                in, f->kv_dim, a->num_heads, a->num_kv_heads, a->head_dim, a->head_dim_v, f->out_features,
                c->raw ? " raw" : "", f->w_o ? "" : " no w_o", a->flags, a->softcap != 0 ? " softcap" : "",
                a->sinks ? " sinks" : "", a->bias.data ? " bias" : "",
                a->arithmetic == QKV_ARITHMETIC_BF16 ? " bf16" : "");
}

/* ------------------------------------------------------------------------------------------------------- results */

enum { DX, DXKV, DWQ, DWK, DWV, DWO, DBQ, DBK, DBV, DBO, DBIAS, DSINKS, NUM_RESULTS };

static const char *const result_name[NUM_RESULTS] = {"dx",  "dx_kv", "dWq", "dWk", "dWv",   "dWo",
                                                     "dbq", "dbk",   "dbv", "dbo", "dbias", "dsinks"};

typedef struct results {
    float *of[NUM_RESULTS]; /* contiguous; NULL: not wanted */
    int64_t size[NUM_RESULTS];
} results;

static qkv_weight_grad *grad_of(layer_case *c, int p) {
    qkv_weight_grad *all[4] = {&c->desc.grad_q, &c->desc.grad_k, &c->desc.grad_v, &c->desc.grad_o};
    return all[p];
}

/* The raw memory of every gradient but dx and dx_kv. */
static results memory_of(layer_case *c) {
    const qkv_attention_desc *a = &c->desc.forward.attention;
    results r = {{NULL}, {0}};
    for (int p = 0; p < 4; p++) {
        r.of[DWQ + p] = grad_of(c, p)->data;
        r.size[DWQ + p] = c->rows[p] * c->size[p];
        r.of[DBQ + p] = grad_of(c, p)->bias;
        r.size[DBQ + p] = c->size[p];
    }
    r.of[DBIAS] = c->desc.grad_bias.data;
    r.size[DBIAS] = c->tokens * c->keys;
    r.of[DSINKS] = c->desc.grad_sinks;
    r.size[DSINKS] = a->num_heads;
    return r;
}

static results gather(layer_case *c) {
    results r = memory_of(c);
    for (int i = DWQ; i < NUM_RESULTS; i++) {
        float *copy = qt_floats((size_t)r.size[i], QT_HEAD);
        if (r.of[i] && r.size[i] > 0)
            memcpy(copy, r.of[i], (size_t)r.size[i] * sizeof *copy);
        r.of[i] = r.of[i] ? copy : NULL;
    }
    const int64_t batch = c->desc.forward.attention.batch;
    r.size[DX] = batch * c->tokens * c->desc.forward.model_dim;
    if (c->desc.grad_x.data)
        r.of[DX] = case_gather(&c->desc.grad_x, batch, 1, c->tokens, c->desc.forward.model_dim);
    const int64_t kv_dim = c->desc.forward.kv_dim ? c->desc.forward.kv_dim : c->desc.forward.model_dim;
    r.size[DXKV] = batch * c->keys * kv_dim;
    if (c->desc.grad_x_kv.data)
        r.of[DXKV] = case_gather(&c->desc.grad_x_kv, batch, 1, c->keys, kv_dim);
    return r;
}

static void poison_outputs(layer_case *c) {
    const results r = memory_of(c);
    for (int i = DWQ; i < NUM_RESULTS; i++)
        if (r.of[i])
            qt_poison(r.of[i]);
    if (c->desc.grad_x.data)
        qt_poison(c->desc.grad_x.data);
    if (c->desc.grad_x_kv.data)
        qt_poison(c->desc.grad_x_kv.data);
}

static results run(const qkv_ctx *ctx, layer_case *c, int32_t threads, uint64_t shuffle) {
    poison_outputs(c);
    case_run_layer_backward(ctx, &c->desc, threads, shuffle);
    const qkv_layer_desc *f = &c->desc.forward;
    const int64_t batch = f->attention.batch;
    const qt_view dx = qt_view_output(&c->desc.grad_x, batch, 1, c->tokens, f->model_dim);
    const qt_view dx_kv = qt_view_output(&c->desc.grad_x_kv, batch, 1, c->keys, f->kv_dim ? f->kv_dim : f->model_dim);
    if (c->desc.grad_x.data)
        qt_expect_gaps("dx", &dx);
    if (c->desc.grad_x_kv.data)
        qt_expect_gaps("dx_kv", &dx_kv);
    return gather(c);
}

static void expect_same(const results *want, const results *got) {
    for (int i = 0; i < NUM_RESULTS; i++)
        if (want->of[i])
            qt_expect_words(result_name[i], want->of[i], got->of[i], (size_t)want->size[i], 0);
}

/* ------------------------------------------------------------------------------------------------- step by step */

/* Contiguous [batch][token][head][channel]. */
static qkv_output tensor(qt_rng *rng, const layer_case *c, int64_t tokens, int64_t heads, int64_t dim) {
    const int64_t row = heads * dim;
    return (qkv_output){case_floats(rng, c->desc.forward.attention.batch * tokens * row), tokens * row, dim, row};
}

static qkv_input input(const qkv_output *x) {
    return (qkv_input){x->data, x->batch, x->head, x->token};
}

/* Σ over heads of each token, added to dx: what raw attention needs. */
static void add_heads(const layer_case *c, const qkv_output *to, int64_t tokens, const qkv_output *from,
                      int64_t heads) {
    for (int64_t h = 0; h < heads && to->data; h++)
        for (int64_t b = 0; b < c->desc.forward.attention.batch; b++)
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t i = 0; i < c->desc.forward.model_dim; i++)
                    ((float *)to->data)[b * to->batch + t * to->token + i] +=
                        ((const float *)from->data)[b * from->batch + h * from->head + t * from->token + i];
}

static void clear_rows(const layer_case *c, const qkv_output *x, int64_t tokens) {
    for (int64_t b = 0; b < c->desc.forward.attention.batch && x->data; b++)
        for (int64_t t = 0; t < tokens; t++)
            memset((float *)x->data + b * x->batch + t * x->token, 0,
                   (size_t)c->desc.forward.model_dim * sizeof(float));
}

/* The projection of x, or of x_kv: in cross-attention two of them, with packed matrices of their own. */
static qkv_projection_desc projection_of(const qkv_ctx *ctx, const layer_case *c, bool keys, const qkv_output to[3]) {
    const qkv_layer_desc *f = &c->desc.forward;
    const float *bias[3] = {f->bias_q, f->bias_k, f->bias_v};
    const int first = keys ? 1 : 0, num = keys ? 2 : c->cross ? 1 : 3;
    qkv_projection_desc p = {.size = sizeof p,
                             .batch = f->attention.batch,
                             .tokens = keys ? c->keys : c->tokens,
                             .in_features = c->rows[first],
                             .num_parts = num,
                             .x = keys ? f->x_kv : f->x,
                             .packed = pack_weights(ctx, c, first, num)};
    for (int i = 0; i < num; i++)
        p.part[i] = (qkv_projection_part){c->size[first + i], first + i == 2 ? c->dv : f->attention.head_dim,
                                          bias[first + i], to[first + i], QKV_F32};
    return p;
}

static results step_by_step(qt_rng *rng, const qkv_ctx *ctx, layer_case *c) {
    const qkv_layer_desc *f = &c->desc.forward;
    const qkv_attention_desc *options = &f->attention;
    const int64_t hq = options->num_heads, hkv = c->kv_heads, dk = options->head_dim, n = c->tokens, m = c->keys;
    poison_outputs(c);
    qkv_attention_backward_desc a = {.size = sizeof a, .forward = *options};
    const qkv_input *x_kv = c->cross ? &f->x_kv : &f->x;
    a.forward.q = (qkv_input){f->x.data, f->x.batch, 0, f->x.token};
    a.forward.k = a.forward.v = (qkv_input){x_kv->data, x_kv->batch, 0, x_kv->token};
    qkv_projection_desc in[2] = {{0}};
    if (!c->raw) {
        const qkv_output to[3] = {tensor(rng, c, n, hq, dk), tensor(rng, c, m, hkv, dk), tensor(rng, c, m, hkv, c->dv)};
        for (int keys = 0; keys <= c->cross; keys++) {
            in[keys] = projection_of(ctx, c, keys, to);
            case_run_projection(ctx, &in[keys], 0, 0);
        }
        a.forward.q = input(&to[0]);
        a.forward.k = input(&to[1]);
        a.forward.v = input(&to[2]);
    }
    const qkv_output heads = tensor(rng, c, n, hq, c->dv), lse = tensor(rng, c, n, hq, 1);
    a.forward.out = heads;
    a.forward.lse = lse;
    case_run_attention(ctx, &a.forward, 0, 0);
    a.grad_out = c->desc.grad_out;
    a.grad_out.head = c->dv;
    if (f->w_o) {
        const qkv_output grad_heads = tensor(rng, c, n, hq, c->dv);
        qkv_projection_backward_desc o = {
            .size = sizeof o, .grad_x = grad_heads, .grad_out = {c->desc.grad_out}, .grad = {c->desc.grad_o}};
        o.forward = (qkv_projection_desc){.size = sizeof o.forward,
                                          .batch = options->batch,
                                          .tokens = n,
                                          .in_features = c->width,
                                          .num_parts = 1,
                                          .x = input(&heads),
                                          .packed = f->w_o,
                                          .part = {{.out_features = f->out_features}}};
        case_run_projection_backward(ctx, &o, 0, 0);
        a.grad_out = input(&grad_heads);
    }
    a.grad_q = tensor(rng, c, n, hq, dk);
    a.grad_k = tensor(rng, c, m, hkv, dk);
    a.grad_v = tensor(rng, c, m, hkv, c->dv);
    a.grad_bias = c->desc.grad_bias;
    a.grad_sinks = c->desc.grad_sinks;
    case_run_attention_backward(ctx, &a, 0, 0);
    for (int keys = 0; !c->raw && keys <= c->cross; keys++) {
        const qkv_input from[3] = {input(&a.grad_q), input(&a.grad_k), input(&a.grad_v)};
        qkv_projection_backward_desc p = {
            .size = sizeof p, .grad_x = keys ? c->desc.grad_x_kv : c->desc.grad_x, .forward = in[keys]};
        for (int i = 0; i < in[keys].num_parts; i++) {
            p.grad_out[i] = from[keys + i];
            p.grad[i] = *grad_of(c, keys + i);
        }
        case_run_projection_backward(ctx, &p, 0, 0);
    }
    if (c->raw) {
        const qkv_output *to = c->cross ? &c->desc.grad_x_kv : &c->desc.grad_x;
        clear_rows(c, &c->desc.grad_x, n);
        clear_rows(c, &c->desc.grad_x_kv, m);
        add_heads(c, &c->desc.grad_x, n, &a.grad_q, hq);
        add_heads(c, to, m, &a.grad_k, hkv);
        add_heads(c, to, m, &a.grad_v, hkv);
    }
    return gather(c);
}

static void test_layer_backward_equals_its_steps(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(150); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c;
        draw_layer(&rng, &set->ctx, &c, 40);
        const results want = step_by_step(&rng, &set->ctx, &c);
        const int32_t threads = (int32_t)qt_range(&rng, 0, 8);
        const results got = run(&set->ctx, &c, threads, qt_u64(&rng));
        expect_same(&want, &got);
    }
}

static void test_sets_agree(void) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c;
        draw_layer(&rng, &reference, &c, 40);
        const results want = run(&reference, &c, 0, 0);
        for (size_t s = 0; s < qt_num_sets(); s++) {
            const results got = run(&qt_get_set(s)->ctx, &c, (int32_t)qt_range(&rng, 0, 4), qt_u64(&rng));
            expect_same(&want, &got);
        }
    }
}

static double largest(const float *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabs((double)x[i]) > most)
            most = fabs((double)x[i]);
    return most;
}

/* A run that accumulates after one that overwrote leaves twice the gradient. */
static void test_accumulating_adds(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c;
        draw_layer(&rng, &set->ctx, &c, 30);
        const results once = run(&set->ctx, &c, 0, 0);
        c.desc.flags = QKV_ACCUMULATE;
        case_run_layer_backward(&set->ctx, &c.desc, (int32_t)qt_range(&rng, 0, 4), 0);
        const results twice = gather(&c);
        for (int r = 0; r < NUM_RESULTS; r++) {
            const double size = once.of[r] ? largest(once.of[r], once.size[r]) : 0;
            for (int64_t at = 0; once.of[r] && at < once.size[r]; at++)
                QT_EXPECT(fabs((double)twice.of[r][at] - 2 * (double)once.of[r][at]) <= 1e-5 * size,
                          "%s at %" PRId64 ": %g once, %g twice", result_name[r], at, (double)once.of[r][at],
                          (double)twice.of[r][at]);
        }
        qt_count_words(1);
    }
}

/* -------------------------------------------------------------------------------------------- central differences */

static double objective(const layer_case *c) {
    const qkv_layer_desc *f = &c->desc.forward;
    const int64_t batch = f->attention.batch, rows = batch * c->tokens, out = f->out_features;
    double *value = oracle_alloc((size_t)(rows * out), sizeof *value), *bound = oracle_alloc((size_t)(rows * out), 8);
    oracle_layer(f, &c->weights, value, bound);
    double sum = 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < out; i++)
            sum += (double)case_row(&c->desc.grad_out, row / c->tokens, 0, row % c->tokens)[i] * value[row * out + i];
    free(value);
    free(bound);
    return sum;
}

static void expect_slope(layer_case *c, const char *what, float *x, float got, double scale) {
    const float at = *x = rintf(*x * 4096) / 4096; /* on a grid, so that the steps are exact */
    const float step = 0x1p-10f;
    double f[4];
    for (int i = 0; i < 4; i++) {
        static const float steps[4] = {-2, -1, 1, 2};
        *x = at + steps[i] * step;
        f[i] = objective(c);
    }
    *x = at;
    const double slope = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * (double)step);
    /* In bfloat16 what vanishes is a difference of numbers of about 1, which are rounded. */
    const bool in_bf16 = c->desc.forward.attention.arithmetic == QKV_ARITHMETIC_BF16;
    const double allowed = in_bf16 ? 0.05 * (scale + 1) : 1e-4 * scale + 1e-6;
    QT_EXPECT(fabs(slope - (double)got) <= allowed, "%s: %g by differences, %g from the library", what, slope,
              (double)got);
    qt_count_words(1);
}

static void check_weights(qt_rng *rng, const qkv_ctx *ctx, layer_case *c, int p) {
    const int64_t in = c->rows[p], out = c->size[p];
    if (!c->w[p] || !grad_of(c, p)->data)
        return;
    const int64_t i = qt_range(rng, 0, in - 1), o = qt_range(rng, 0, out - 1);
    c->w[p][i * out + o] = rintf(c->w[p][i * out + o] * 4096) / 4096;
    if (p == 3)
        c->desc.forward.w_o = pack_weights(ctx, c, 3, 1);
    else
        pack_inputs(ctx, c);
    const results r = run(ctx, c, 0, 0);
    const float *dw = r.of[DWQ + p];
    const float got = dw[grad_of(c, p)->layout == QKV_IN_OUT ? i * out + o : o * in + i];
    expect_slope(c, result_name[DWQ + p], &c->w[p][i * out + o], got, largest(dw, in * out));
}

static void check_biases(qt_rng *rng, const qkv_ctx *ctx, layer_case *c) {
    const qkv_layer_desc *f = &c->desc.forward;
    const float *bias[3] = {f->bias_q, f->bias_k, f->bias_v};
    for (int p = 0; p < 3; p++) {
        if (!bias[p] || !grad_of(c, p)->bias)
            continue;
        float *x = (float *)(uintptr_t)bias[p] + qt_range(rng, 0, c->size[p] - 1);
        *x = rintf(*x * 4096) / 4096;
        const results r = run(ctx, c, 0, 0);
        /* dbk is 0 but for rounding: a shift of all keys changes no softmax. */
        expect_slope(c, result_name[DBQ + p], x, r.of[DBQ + p][x - bias[p]], largest(r.of[DBQ + p], c->size[p]) + 1);
    }
}

static void check_input(qt_rng *rng, const qkv_ctx *ctx, layer_case *c, const qkv_input *x, const qkv_output *grad,
                        int result) {
    const qkv_layer_desc *f = &c->desc.forward;
    const int64_t tokens = result == DX ? c->tokens : c->keys;
    const int64_t dim = result == DXKV && f->kv_dim ? f->kv_dim : f->model_dim;
    if (!grad->data || tokens == 0)
        return;
    const int64_t b = qt_range(rng, 0, f->attention.batch - 1), t = qt_range(rng, 0, tokens - 1);
    const int64_t channel = qt_range(rng, 0, dim - 1);
    float *element = case_row(x, b, 0, t) + channel;
    *element = rintf(*element * 4096) / 4096;
    const results r = run(ctx, c, 0, 0);
    expect_slope(c, result_name[result], element, r.of[result][(b * tokens + t) * dim + channel],
                 largest(r.of[result], r.size[result]));
}

static void check_slopes(qt_rng *rng, const qkv_ctx *ctx, layer_case *c) {
    const qkv_layer_desc *f = &c->desc.forward;
    check_input(rng, ctx, c, &f->x, &c->desc.grad_x, DX);
    check_input(rng, ctx, c, &f->x_kv, &c->desc.grad_x_kv, DXKV);
    for (int p = 0; p < 4; p++)
        check_weights(rng, ctx, c, p);
    check_biases(rng, ctx, c);
}

static void test_central_differences(void) {
    const qkv_ctx reference = case_reference();
    for (uint64_t i = 0; i < case_count(80); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c;
        draw_layer(&rng, &reference, &c, 8);
        qkv_attention_desc *a = &c.desc.forward.attention;
        if (a->batch * c.tokens == 0)
            continue;
        const int64_t drawn = a->arithmetic;
        a->arithmetic = QKV_ARITHMETIC_F32;
        check_slopes(&rng, &reference, &c);
        a->arithmetic = drawn;
        if (drawn != QKV_ARITHMETIC_F32)
            check_slopes(&rng, &reference, &c);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("layer_backward_equals_its_steps", test_layer_backward_equals_its_steps);
    qt_once("sets_agree", test_sets_agree);
    qt_each_set("accumulating_adds", test_accumulating_adds);
    qt_once("central_differences", test_central_differences);
    return qt_run();
}
