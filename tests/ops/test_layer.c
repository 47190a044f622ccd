/* A whole layer: the same bits as projection, attention and projection called one by one, within the bound of the
 * oracle; and raw attention, whose heads are all the same.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer_case {
    qkv_layer_desc desc;
    qkv_pack_desc pack_qkv, pack_kv, pack_o;
    oracle_weights weights;
    int64_t tokens, keys, kv_heads, dv, width; /* width: of all heads side by side */
    bool raw, cross, typed, integers;          /* typed: weights in any type; integers: in int8 arithmetic */
} layer_case;

static const float *draw_floats(qt_rng *rng, int64_t n, float size) {
    float *x = case_floats(rng, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = size * qt_normal(rng);
    if (n > 0)
        qt_read_only(x);
    return x;
}

static void draw_options(qt_rng *rng, qkv_attention_desc *a, int64_t tokens, int64_t keys) {
    if (qt_chance(rng, 50))
        a->flags = QKV_RIGHT;
    if (qt_chance(rng, 20)) {
        a->flags |= QKV_LEFT;
        a->left = qt_range(rng, 0, keys);
    }
    if (qt_chance(rng, 20))
        a->softcap = 20;
    if (qt_chance(rng, 20))
        a->scale = qt_uniform(rng, -0.5f, 0.5f);
    if (qt_chance(rng, 20))
        a->alibi_slopes = draw_floats(rng, a->num_heads, 0.2f);
    if (qt_chance(rng, 20))
        a->sinks = draw_floats(rng, a->num_heads, 2);
    if (qt_chance(rng, 20))
        a->bias = (qkv_matrix_input){draw_floats(rng, tokens * keys, 1), 0, 0, keys, 1};
    if (qt_chance(rng, 20)) {
        a->dropout = 0.3f;
        a->dropout_seed = qt_u64(rng);
    }
    if (qt_chance(rng, 30)) {
        int64_t *len = qt_alloc((size_t)a->batch * sizeof *len, sizeof *len, qt_place(rng));
        for (int64_t b = 0; b < a->batch; b++)
            len[b] = qt_range(rng, 0, keys);
        a->kv_len = len;
    }
}

static void draw_sizes(qt_rng *rng, layer_case *c) {
    qkv_layer_desc *d = &c->desc;
    qkv_attention_desc *a = &d->attention;
    c->tokens = qt_chance(rng, 80) ? qt_range(rng, 0, 40) : case_size(rng, 300);
    a->batch = qt_chance(rng, 3) ? 0 : qt_range(rng, 1, 3);
    c->cross = qt_chance(rng, 40);
    c->keys = !c->cross ? c->tokens : qt_chance(rng, 80) ? qt_range(rng, 0, 40) : case_size(rng, 300);
    a->seq_q = c->tokens;
    a->seq_k = c->keys;
    d->model_dim = c->tokens + c->keys > 120 ? qt_range(rng, 1, 40) : qt_range(rng, 1, 200);
    c->raw = qt_chance(rng, 25);
    c->typed = !c->raw && qt_chance(rng, 50);
    c->integers = c->typed && qt_chance(rng, 40);
    if (c->typed)
        d->model_dim = qt_chance(rng, 25) ? 256 : 32 * qt_range(rng, 1, 4);
    if (c->cross && !c->raw && qt_chance(rng, 60))
        d->kv_dim = c->typed ? 32 * qt_range(rng, 1, 3) : qt_range(rng, 1, 100);
    c->kv_heads = c->raw ? 1 : qt_range(rng, 1, 3);
    a->num_heads = c->kv_heads * qt_range(rng, 1, 3);
    a->num_kv_heads = c->raw && qt_chance(rng, 50) ? 0 : c->kv_heads;
    a->head_dim = c->raw ? d->model_dim : qt_range(rng, 1, 70);
    a->head_dim_v = qt_chance(rng, 60) ? 0 : c->raw ? d->model_dim : qt_range(rng, 1, 70);
    c->dv = a->head_dim_v ? a->head_dim_v : a->head_dim;
    c->width = a->num_heads * c->dv;
}

static void draw_weights(qt_rng *rng, const qkv_ctx *ctx, layer_case *c) {
    qkv_layer_desc *d = &c->desc;
    const qkv_attention_desc *a = &d->attention;
    const int64_t in = d->model_dim,
                  size[3] = {a->num_heads * a->head_dim, c->kv_heads * a->head_dim, c->kv_heads * c->dv};
    const float spread = 1 / sqrtf((float)in);
    const bool integers = c->integers;
    d->arithmetic = integers ? QKV_ARITHMETIC_INT8 : qt_chance(rng, 70) ? QKV_ARITHMETIC_F32 : QKV_ARITHMETIC_BF16;
    d->attention.arithmetic = qt_chance(rng, 70)   ? QKV_ARITHMETIC_F32
                              : qt_chance(rng, 50) ? QKV_ARITHMETIC_BF16
                                                   : QKV_ARITHMETIC_INT8;
    if (!c->raw) {
        const float *w[3], *bias[3];
        const int64_t kv_dim = d->kv_dim ? d->kv_dim : in;
        const bool apart = c->cross && (kv_dim != in || qt_chance(rng, 30));
        c->pack_qkv = (qkv_pack_desc){.size = sizeof c->pack_qkv, .in_features = in, .num_parts = apart ? 1 : 3};
        c->pack_kv = (qkv_pack_desc){.size = sizeof c->pack_kv, .in_features = kv_dim, .num_parts = 2};
        for (int p = 0; p < 3; p++) {
            const int64_t rows = p > 0 && apart ? kv_dim : in;
            qkv_weight drawn = {.out_features = size[p]};
            if (c->typed)
                drawn = case_weight(rng, case_weight_type(rng, integers, rows), rows, size[p], false, &w[p]);
            else
                drawn.data = w[p] = draw_floats(rng, rows * size[p], spread);
            bias[p] = qt_chance(rng, 50) ? draw_floats(rng, size[p], 0.5f) : NULL;
            qkv_weight *part = p > 0 && apart ? &c->pack_kv.part[p - 1] : &c->pack_qkv.part[p];
            *part = drawn;
        }
        d->wq_type = (int32_t)c->pack_qkv.part[0].type;
        d->wk_type = (int32_t)(apart ? c->pack_kv.part[0] : c->pack_qkv.part[1]).type;
        d->wv_type = (int32_t)(apart ? c->pack_kv.part[1] : c->pack_qkv.part[2]).type;
        if (apart) {
            d->w_kv = case_pack(ctx, &c->pack_kv);
            qt_read_only(d->w_kv);
        }
        c->weights = (oracle_weights){w[0], w[1], w[2], NULL};
        d->bias_q = bias[0];
        d->bias_k = bias[1];
        d->bias_v = bias[2];
        d->w_qkv = case_pack(ctx, &c->pack_qkv);
        qt_read_only(d->w_qkv);
    }
    d->out_features = c->width;
    if (qt_chance(rng, 70)) {
        d->out_features = qt_range(rng, 1, 150);
        qkv_weight drawn = {.out_features = d->out_features};
        if (c->typed)
            drawn = case_weight(rng, case_weight_type(rng, integers, c->width), c->width, d->out_features, false,
                                &c->weights.wo);
        else
            drawn.data = c->weights.wo = draw_floats(rng, c->width * d->out_features, 1 / sqrtf((float)c->width));
        d->wo_type = (int32_t)drawn.type;
        d->bias_o = qt_chance(rng, 50) ? draw_floats(rng, d->out_features, 0.5f) : NULL;
        c->pack_o = (qkv_pack_desc){.size = sizeof c->pack_o, .in_features = c->width, .num_parts = 1, .part = {drawn}};
        d->w_o = case_pack(ctx, &c->pack_o);
        qt_read_only(d->w_o);
    }
}

/* The rest of a layer whose sizes have been drawn. */
static void draw_tensors(qt_rng *rng, const qkv_ctx *ctx, layer_case *c) {
    qkv_layer_desc *d = &c->desc;
    draw_options(rng, &d->attention, c->tokens, c->keys);
    draw_weights(rng, ctx, c);
    d->x = case_input(rng, d->attention.batch, 1, c->tokens, d->model_dim, false);
    if (d->attention.batch * c->tokens > 0)
        qt_read_only(d->x.data);
    if (c->cross) {
        d->x_kv = case_input(rng, d->attention.batch, 1, c->keys, d->kv_dim ? d->kv_dim : d->model_dim, false);
        if (d->attention.batch * c->keys > 0)
            qt_read_only(d->x_kv.data);
    }
    d->out = case_output(rng, d->attention.batch, 1, c->tokens, d->out_features);
    qt_describe("B=%" PRId64 " S=%" PRId64 "x%" PRId64 "%s model=%" PRId64 ",%" PRId64 " H=%" PRId64 ":%" PRId64
                " D=%" PRId64 ",%" PRId64 " out=%" PRId64 "%s%s flags=%u types=%d,%d,%d,%d arithmetic=%" PRId64,
                d->attention.batch, c->tokens, c->keys,
                !c->cross ? ""
                : d->w_kv ? " w_kv"
                          : " x_kv",
                d->model_dim, d->kv_dim, d->attention.num_heads, d->attention.num_kv_heads, d->attention.head_dim,
                d->attention.head_dim_v, d->out_features, c->raw ? " raw" : "", d->w_o ? "" : " no w_o",
                d->attention.flags, d->wq_type, d->wk_type, d->wv_type, d->wo_type, d->arithmetic);
}

static layer_case new_layer(void) {
    return (layer_case){.desc = {.size = sizeof(qkv_layer_desc), .attention = {.size = sizeof(qkv_attention_desc)}}};
}

static void draw_layer(qt_rng *rng, const qkv_ctx *ctx, layer_case *c) {
    *c = new_layer();
    draw_sizes(rng, c);
    draw_tensors(rng, ctx, c);
}

/* The same layer from the public operations, into contiguous memory: [batch][tokens][out_features]. */
static float *step_by_step(qt_rng *rng, const qkv_ctx *ctx, const layer_case *c) {
    const qkv_layer_desc *d = &c->desc;
    qkv_attention_desc a = d->attention;
    const int64_t dk = a.head_dim, hq = a.num_heads, hkv = c->kv_heads, n = c->tokens;
    const qkv_input *x_kv = c->cross ? &d->x_kv : &d->x;
    a.q = (qkv_input){d->x.data, d->x.batch, 0, d->x.token};
    a.k = a.v = (qkv_input){x_kv->data, x_kv->batch, 0, x_kv->token};
    if (!c->raw) { /* three calls, each over a matrix of its own */
        const int64_t heads[3] = {hq, hkv, hkv}, dim[3] = {dk, dk, c->dv};
        const float *bias[3] = {d->bias_q, d->bias_k, d->bias_v};
        qkv_input *to[3] = {&a.q, &a.k, &a.v};
        for (int i = 0; i < 3; i++) {
            const int64_t tokens = i == 0 ? n : c->keys, width = heads[i] * dim[i];
            const bool apart = i > 0 && d->w_kv;
            const qkv_pack_desc *pack = apart ? &c->pack_kv : &c->pack_qkv;
            const qkv_pack_desc alone = {.size = sizeof alone,
                                         .in_features = pack->in_features,
                                         .num_parts = 1,
                                         .part = {pack->part[apart ? i - 1 : i]}};
            const qkv_output y = {case_floats(rng, a.batch * tokens * width), tokens * width, dim[i], width};
            const qkv_projection_desc p = {.size = sizeof p,
                                           .batch = a.batch,
                                           .tokens = tokens,
                                           .in_features = pack->in_features,
                                           .num_parts = 1,
                                           .x = i == 0 ? d->x : *x_kv,
                                           .packed = case_pack(ctx, &alone),
                                           .part = {{width, dim[i], bias[i], y, alone.part[0].type}},
                                           .arithmetic = d->arithmetic};
            case_run_projection(ctx, &p, 0, 0);
            *to[i] = (qkv_input){y.data, y.batch, y.head, y.token};
        }
    }
    float *heads = case_floats(rng, a.batch * n * c->width);
    a.out = (qkv_output){heads, n * c->width, c->dv, c->width};
    case_run_attention(ctx, &a, 0, 0);
    if (!d->w_o)
        return heads;
    float *y = case_floats(rng, a.batch * n * d->out_features);
    qkv_projection_desc p = {.size = sizeof p,
                             .batch = a.batch,
                             .tokens = n,
                             .in_features = c->width,
                             .num_parts = 1,
                             .x = {heads, n * c->width, 0, c->width},
                             .packed = d->w_o,
                             .arithmetic = d->arithmetic};
    p.part[0] =
        (qkv_projection_part){d->out_features, 0, d->bias_o, {y, n * d->out_features, 0, d->out_features}, d->wo_type};
    case_run_projection(ctx, &p, 0, 0);
    return y;
}

static const float *run_layer(qt_rng *rng, const qkv_ctx *ctx, const layer_case *c) {
    const qkv_layer_desc *d = &c->desc;
    qt_poison(d->out.data);
    case_run_layer(ctx, d, (int32_t)qt_range(rng, 0, 8), qt_u64(rng));
    const qt_view view = qt_view_output(&d->out, d->attention.batch, 1, c->tokens, d->out_features);
    qt_expect_gaps("out", &view);
    return case_gather(&d->out, d->attention.batch, 1, c->tokens, d->out_features);
}

static void test_layer_equals_its_steps(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(250); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c;
        draw_layer(&rng, &set->ctx, &c);
        const float *want = step_by_step(&rng, &set->ctx, &c), *got = run_layer(&rng, &set->ctx, &c);
        qt_expect_words("layer", want, got, (size_t)(c.desc.attention.batch * c.tokens * c.desc.out_features), 0);
    }
}

static void test_sets_agree_within_the_bound(void) {
    const qkv_ctx reference = case_reference();
    double worst = 0;
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c;
        draw_layer(&rng, &reference, &c);
        const size_t n = (size_t)(c.desc.attention.batch * c.tokens * c.desc.out_features);
        const float *want = run_layer(&rng, &reference, &c);
        for (size_t s = 0; s < qt_num_sets(); s++)
            qt_expect_words(qt_get_set(s)->name, want, run_layer(&rng, &qt_get_set(s)->ctx, &c), n, 0);
        if (c.desc.arithmetic != QKV_ARITHMETIC_F32 || c.desc.attention.arithmetic != QKV_ARITHMETIC_F32)
            continue; /* what comes out is that of projections in int8, which test_weight_types bounds */
        double *value = oracle_alloc(n, sizeof *value), *bound = oracle_alloc(n, sizeof *bound);
        QT_EXPECT(oracle_layer(&c.desc, &c.weights, value, bound), "the oracle finds rows beyond float");
        for (size_t at = 0; at < n; at++)
            QT_EXPECT(oracle_within((double)want[at], value[at], bound[at], &worst),
                      "element %zu: want %.9g ± %.3g, got %.9g", at, value[at], bound[at], (double)want[at]);
        free(value);
        free(bound);
    }
    qt_note("worst error/bound %.3f", worst);
}

/* So many tokens that their rows in 8 bits or bfloat16 serve several tasks, those of x and of x_kv side by side. */
static void test_converted_rows_are_shared(const qt_set *set) {
    for (uint64_t i = 0; i < 12; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        layer_case c = new_layer();
        qkv_attention_desc *a = &c.desc.attention;
        c.typed = c.integers = true;
        c.cross = i % 3 > 0;
        c.desc.model_dim = 256;
        c.desc.kv_dim = i % 3 == 2 ? 512 : 0;
        a->batch = qt_range(&rng, 1, 2);
        a->seq_q = c.tokens = qt_range(&rng, 70, 200);
        a->seq_k = c.keys = c.cross ? qt_range(&rng, 70, 200) : c.tokens;
        a->num_heads = 4;
        a->num_kv_heads = c.kv_heads = 2;
        a->head_dim = c.dv = 64;
        c.width = 4 * 64;
        draw_tensors(&rng, &set->ctx, &c);
        c.desc.arithmetic = i % 2 ? QKV_ARITHMETIC_BF16 : QKV_ARITHMETIC_INT8;
        const float *want = step_by_step(&rng, &set->ctx, &c);
        const size_t n = (size_t)(a->batch * c.tokens * c.desc.out_features);
        qt_poison(c.desc.out.data);
        case_run_layer(&set->ctx, &c.desc, (int32_t)qt_range(&rng, 2, 8), qt_u64(&rng));
        qt_expect_words("layer", want, case_gather(&c.desc.out, a->batch, 1, c.tokens, c.desc.out_features), n, 0);
    }
}

/* Raw: Q = K = V = X. */
static void test_raw_heads_are_plain_attention(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t heads = qt_range(&rng, 1, 5), dim = qt_range(&rng, 1, 130), n = qt_range(&rng, 1, 300);
        qt_describe("H=%" PRId64 " D=%" PRId64 " S=%" PRId64, heads, dim, n);
        const float *x = draw_floats(&rng, n * dim, 1);
        float *out = case_floats(&rng, n * heads * dim), *plain = case_floats(&rng, n * dim);
        qkv_layer_desc d = {
            .size = sizeof d,
            .model_dim = dim,
            .out_features = heads * dim,
            .x = {x, n * dim, 0, dim},
            .out = {out, n * heads * dim, 0, heads * dim},
            .attention = {
                .size = sizeof d.attention, .batch = 1, .num_heads = heads, .seq_q = n, .seq_k = n, .head_dim = dim}};
        d.attention.num_kv_heads = qt_chance(&rng, 50) ? 1 : 0;
        case_run_layer(&set->ctx, &d, (int32_t)qt_range(&rng, 0, 4), 0);
        qkv_attention_desc a = {.size = sizeof a,
                                .batch = 1,
                                .num_heads = 1,
                                .seq_q = n,
                                .seq_k = n,
                                .head_dim = dim,
                                .q = {x, 0, 0, dim},
                                .k = {x, 0, 0, dim},
                                .v = {x, 0, 0, dim},
                                .out = {plain, 0, 0, dim}};
        case_run_attention(&set->ctx, &a, 0, 0);
        for (int64_t h = 0; h < heads; h++)
            qt_expect_rows("head", plain, dim, out + h * dim, heads * dim, (size_t)n, (size_t)dim, 0);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("layer_equals_its_steps", test_layer_equals_its_steps);
    qt_each_set_and_variant("converted_rows_are_shared", test_converted_rows_are_shared);
    qt_once("sets_agree_within_the_bound", test_sets_agree_within_the_bound);
    qt_each_set("raw_heads_are_plain_attention", test_raw_heads_are_plain_attention);
    return qt_run();
}
