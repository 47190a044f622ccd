/* A layer that decodes over a KV cache: the bits of its steps by hand, and with floats those of the whole sequence at
 * once.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <string.h>

static const int types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};

typedef struct layer_case {
    qkv_cache_desc cache;
    qkv_layer_desc d; /* x holds all tokens: [batch][tokens][model_dim] */
    int64_t tokens;   /* of each sequence, in the end */
    size_t bytes;
} layer_case;

static void draw(qt_rng *rng, const qkv_ctx *ctx, bool windows, layer_case *c) {
    static const int64_t dims[] = {2, 6, 16, 40, 64, 80, 128};
    const int64_t kv = qt_range(rng, 1, 2), heads = kv * qt_range(rng, 1, 3), dim = dims[qt_range(rng, 0, 6)];
    const int64_t dv = qt_chance(rng, 70) ? dim : dims[qt_range(rng, 0, 6)], model = qt_range(rng, 1, 40);
    const int64_t batch = qt_range(rng, 1, 3), out = qt_range(rng, 1, 30);
    const bool window = windows && qt_chance(rng, 50);
    memset(c, 0, sizeof *c);
    c->tokens = qt_range(rng, 1, qt_chance(rng, 25) ? 330 : 40);
    c->cache = (qkv_cache_desc){.size = sizeof c->cache,
                                .num_sequences = batch + 1,
                                .max_tokens = 400,
                                .num_kv_heads = kv,
                                .head_dim = dim,
                                .head_dim_v = dv,
                                .k_type = types[qt_range(rng, 0, 3)],
                                .v_type = types[qt_range(rng, 0, 3)],
                                .window = window ? qt_range(rng, 1, 90) : 0,
                                .first_tokens = window && qt_chance(rng, 50) ? qt_range(rng, 1, 5) : 0,
                                .num_pages = (batch + 1) * 7};
    assert_int_equal(qkv_cache_size(&c->cache, &c->bytes), QKV_OK);
    const int64_t columns[3] = {heads * dim, kv * dim, kv * dv};
    qkv_pack_desc in = {.size = sizeof in, .in_features = model, .num_parts = 3};
    for (int i = 0; i < 3; i++)
        in.part[i] = (qkv_weight){.data = case_normal(rng, model * columns[i]), .out_features = columns[i]};
    const qkv_pack_desc wo = {.size = sizeof wo,
                              .in_features = heads * dv,
                              .num_parts = 1,
                              .part = {{.data = case_normal(rng, heads * dv * out), .out_features = out}}};
    const int64_t rotary = qt_chance(rng, 50) ? dim : 2 * qt_range(rng, 1, dim / 2);
    c->d = (qkv_layer_desc){
        .size = sizeof c->d,
        .model_dim = model,
        .out_features = out,
        .x = {case_normal(rng, batch * c->tokens * model), c->tokens * model, 0, model},
        .w_qkv = case_pack(ctx, &in),
        .w_o = case_pack(ctx, &wo),
        .first_sequence = 1,
        .attention = {.size = sizeof c->d.attention, .batch = batch, .num_heads = heads, .flags = QKV_RIGHT}};
    qkv_layer_desc *d = &c->d;
    if (qt_chance(rng, 50)) {
        d->bias_q = case_normal(rng, columns[0]);
        d->bias_k = case_normal(rng, columns[1]);
        d->bias_v = case_normal(rng, columns[2]);
    }
    if (qt_chance(rng, 60))
        d->rope = (qkv_rope){case_normal(rng, 400 * rotary / 2), case_normal(rng, 400 * rotary / 2), 400, rotary,
                             qt_range(rng, 0, 1)};
    d->attention.arithmetic = qt_chance(rng, 60)   ? QKV_ARITHMETIC_F32
                              : qt_chance(rng, 50) ? QKV_ARITHMETIC_BF16
                                                   : QKV_ARITHMETIC_INT8;
    if (qt_chance(rng, 50))
        d->norm_q = case_normal(rng, dim), d->norm_k = case_normal(rng, dim), d->norm_epsilon = 1e-5f;
    qt_describe("B=%d T=%d model=%d heads=%d:%d dim=%d,%d types %d %d window %d, %d rope %d", (int)batch,
                (int)c->tokens, (int)model, (int)heads, (int)kv, (int)dim, (int)dv, (int)c->cache.k_type,
                (int)c->cache.v_type, (int)c->cache.window, (int)c->cache.first_tokens, d->rope.cos != NULL);
}

static void *empty_cache(const layer_case *c) {
    void *cache = qt_alloc(c->bytes, 64, QT_TAIL);
    memset(cache, 0xff, c->bytes); /* NaN wherever nothing is stored */
    assert_int_equal(qkv_cache_init(&c->cache, cache, c->bytes), QKV_OK);
    return cache;
}

/* n tokens from t on, in one call for all sequences. */
static void step(const qkv_ctx *ctx, qt_rng *rng, const layer_case *c, void *cache, int64_t t, int64_t n, float *out) {
    qkv_layer_desc d = c->d;
    d.cache = cache;
    d.attention.seq_q = n;
    d.x.data = (const float *)d.x.data + t * d.model_dim;
    d.out = (qkv_output){out + t * d.out_features, c->tokens * d.out_features, 0, d.out_features};
    for (int64_t b = 0; b < d.attention.batch; b++)
        assert_int_equal(qkv_cache_extend(cache, d.first_sequence + b, n), QKV_OK);
    case_run_layer(ctx, &d, (int32_t)qt_range(rng, 0, 5), qt_chance(rng, 50) ? qt_u64(rng) : 0);
}

/* The same with the operations that there are for each part of it. */
static void step_by_hand(const qkv_ctx *ctx, const layer_case *c, void *cache, int64_t t, int64_t n, float *out) {
    const qkv_layer_desc *d = &c->d;
    const qkv_cache_desc *s = &c->cache;
    const int64_t batch = d->attention.batch, heads = d->attention.num_heads, kv = s->num_kv_heads;
    const int64_t dim = s->head_dim, dv = s->head_dim_v, columns[3] = {heads * dim, kv * dim, kv * dv};
    const float *bias[3] = {d->bias_q, d->bias_k, d->bias_v};
    int64_t firsts[3];
    qkv_projection_desc in = {.size = sizeof in,
                              .batch = batch,
                              .tokens = n,
                              .in_features = d->model_dim,
                              .num_parts = 3,
                              .x = d->x,
                              .packed = d->w_qkv,
                              .rope = d->rope};
    in.x.data = (const float *)d->x.data + t * d->model_dim;
    for (int i = 0; i < 3; i++) {
        const int64_t width = i < 2 ? dim : dv;
        in.part[i] = (qkv_projection_part){
            columns[i],
            width,
            bias[i],
            {qt_floats((size_t)(batch * n * columns[i]), QT_TAIL), n * columns[i], width, columns[i]},
            QKV_F32};
    }
    for (int i = 0; i < 2; i++)
        in.steps[i] = (qkv_head_steps){.norm = i ? d->norm_k : d->norm_q,
                                       .norm_epsilon = d->norm_epsilon,
                                       .rotate = d->rope.cos != NULL,
                                       .first_positions = d->rope.cos ? firsts : NULL};
    for (int64_t b = 0; b < batch; b++)
        firsts[b] = t;
    case_run_projection(ctx, &in, 0, 0);
    const qkv_output *q = &in.part[0].out, *k = &in.part[1].out, *v = &in.part[2].out;
    for (int64_t b = 0; b < batch; b++)
        assert_int_equal(qkv_cache_append(ctx, cache, d->first_sequence + b, n,
                                          (qkv_input){(float *)k->data + b * k->batch, 0, k->head, k->token},
                                          (qkv_input){(float *)v->data + b * v->batch, 0, v->head, v->token}),
                         QKV_OK);
    const int64_t wide = heads * dv;
    qkv_attention_desc a = d->attention;
    a.seq_q = n;
    a.flags |= QKV_FROM_END;
    a.q = (qkv_input){q->data, q->batch, q->head, q->token};
    a.out = (qkv_output){qt_floats((size_t)(batch * n * wide), QT_TAIL), n * wide, dv, wide};
    assert_int_equal(qkv_cache_attach(cache, d->first_sequence, &a), QKV_OK);
    case_run_attention(ctx, &a, 0, 0);
    qkv_projection_desc o = {.size = sizeof o,
                             .batch = batch,
                             .tokens = n,
                             .in_features = wide,
                             .num_parts = 1,
                             .x = {a.out.data, n * wide, 0, wide},
                             .packed = d->w_o,
                             .part = {{d->out_features,
                                       0,
                                       NULL,
                                       {out + t * d->out_features, c->tokens * d->out_features, 0, d->out_features},
                                       0}}};
    case_run_projection(ctx, &o, 0, 0);
}

static int64_t draw_step(qt_rng *rng, int64_t left) {
    const int64_t n = qt_chance(rng, 60) ? 1 : qt_range(rng, 1, 70);
    return n < left ? n : left;
}

static void test_a_step_is_its_parts(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(120); i++) {
        qt_rng rng;
        layer_case c;
        if (!qt_case(i, &rng))
            continue;
        const qkv_ctx ref = case_reference();
        draw(&rng, &ref, true, &c);
        const int64_t words = c.d.attention.batch * c.tokens * c.d.out_features;
        float *want = qt_floats((size_t)words, QT_TAIL), *got = qt_floats((size_t)words, QT_TAIL);
        void *by_hand = empty_cache(&c), *cache = empty_cache(&c);
        for (int64_t t = 0, n; t < c.tokens; t += n) {
            n = draw_step(&rng, c.tokens - t);
            step_by_hand(&ref, &c, by_hand, t, n, want);
            step(&set->ctx, &rng, &c, cache, t, n, got);
        }
        qt_expect_words("out", want, got, (size_t)words, 0);
        QT_EXPECT(memcmp(by_hand, cache, c.bytes) == 0, "%s: the caches differ", set->name);
        assert_int_equal(qkv_cache_check(cache, c.bytes), QKV_OK);
    }
}

static void test_steps_are_the_whole_sequence(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(100); i++) {
        qt_rng rng;
        layer_case c;
        if (!qt_case(i, &rng))
            continue;
        const qkv_ctx ref = case_reference();
        do
            draw(&rng, &ref, false, &c);
        while (c.cache.k_type != QKV_F32 || c.cache.v_type != QKV_F32);
        const int64_t words = c.d.attention.batch * c.tokens * c.d.out_features;
        float *want = qt_floats((size_t)words, QT_TAIL), *got = qt_floats((size_t)words, QT_TAIL);
        qkv_layer_desc whole = c.d;
        whole.attention.seq_q = whole.attention.seq_k = c.tokens;
        whole.attention.num_kv_heads = c.cache.num_kv_heads;
        whole.attention.head_dim = c.cache.head_dim;
        whole.attention.head_dim_v = c.cache.head_dim_v;
        whole.out = (qkv_output){want, c.tokens * c.d.out_features, 0, c.d.out_features};
        case_run_layer(&ref, &whole, 0, 0);
        void *cache = empty_cache(&c);
        for (int64_t t = 0, n; t < c.tokens; t += n) {
            n = draw_step(&rng, c.tokens - t);
            step(&set->ctx, &rng, &c, cache, t, n, got);
        }
        qt_expect_words("out", want, got, (size_t)words, 0);
    }
}

static qkv_status run_status(const qt_set *set, const qkv_layer_desc *d) {
    qkv_plan plan;
    const qkv_status status = qkv_layer_plan(&set->ctx, d, 2, &plan);
    if (status != QKV_OK)
        return status;
    void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
    return qkv_layer_run(&plan, d, workspace, plan.workspace_size);
}

static void test_what_a_step_refuses(const qt_set *set) {
    qt_rng rng;
    layer_case c;
    if (!qt_case(0, &rng))
        return;
    do
        draw(&rng, &set->ctx, false, &c);
    while (!c.d.rope.cos || c.tokens < 3);
    unsigned char *cache = empty_cache(&c), *before = qt_alloc(c.bytes, 64, QT_TAIL);
    int64_t numbers[4] = {0};
    qkv_layer_desc good = c.d, d;
    good.cache = cache;
    good.attention.seq_q = 2;
    good.out = (qkv_output){qt_floats((size_t)(c.d.attention.batch * 3 * c.d.out_features), QT_TAIL),
                            3 * c.d.out_features, 0, c.d.out_features}; /* for three tokens, too */
    for (int64_t b = 0; b < good.attention.batch; b++)
        assert_int_equal(qkv_cache_extend(cache, 1 + b, 2), QKV_OK);
    memcpy(before, cache, c.bytes);
#define REFUSES(status, change)                                                                                        \
    d = good;                                                                                                          \
    change;                                                                                                            \
    assert_int_equal(run_status(set, &d), status);                                                                     \
    assert_memory_equal(before, cache, c.bytes);                                                                       \
    qt_expect_untouched("out", good.out.data)
    REFUSES(QKV_ERROR_ALIGNMENT, d.cache = cache + 4);
    REFUSES(QKV_ERROR_CACHE, d.cache = qt_alloc(c.bytes, 64, QT_TAIL));
    REFUSES(QKV_ERROR_CACHE, d.attention.seq_q = 3);
    REFUSES(QKV_ERROR_INDEX, d.first_sequence = 2);
    REFUSES(QKV_ERROR_INDEX, d.first_sequence = -1);
    REFUSES(QKV_ERROR_INDEX, d.attention.q_offset = -1);
    REFUSES(QKV_ERROR_INDEX, d.attention.q_offset = 399);
    REFUSES(QKV_ERROR_SHAPE, d.attention.head_dim = c.cache.head_dim + 1);
    REFUSES(QKV_ERROR_SHAPE, d.attention.seq_k = 7);
    REFUSES(QKV_ERROR_SHAPE, d.attention.num_pages = 1);
    REFUSES(QKV_ERROR_SHAPE, d.attention.flags |= QKV_LEFT);
    REFUSES(QKV_ERROR_SHAPE, d.attention.kv_len = numbers);
    REFUSES(QKV_ERROR_SHAPE, d.attention.q_offsets = numbers);
    REFUSES(QKV_ERROR_SHAPE, d.x_kv = d.x);
    REFUSES(QKV_ERROR_SHAPE, d.w_qkv = NULL);
    REFUSES(QKV_ERROR_ALIAS, d.out.data = cache);
    qkv_layer_backward_desc g = {.size = sizeof g, .forward = good};
    qkv_plan plan;
    assert_int_equal(qkv_layer_backward_plan(&set->ctx, &g, 1, &plan), QKV_ERROR_FLAGS);
    d = good;
    assert_int_equal(run_status(set, &d), QKV_OK);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("a_step_is_its_parts", test_a_step_is_its_parts);
    qt_each_set("steps_are_the_whole_sequence", test_steps_are_the_whole_sequence);
    qt_each_set("what_a_step_refuses", test_what_a_step_refuses);
    return qt_run();
}
