/* Projections that store into a KV cache leave there what a projection into tensors followed by qkv_cache_append
 * leaves, byte for byte.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <string.h>

static const char *const arithmetic_name[] = {"", " in int8", " in bf16"};
static const int types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};

/* Q, K and V of a layer, some sequences of which have tokens already. */
typedef struct stored_case {
    qkv_cache_desc cache;
    qkv_projection_desc d;
    int64_t heads, before[4];
    size_t bytes;
} stored_case;

static int64_t draw_dim(qt_rng *rng) {
    static const int64_t dims[] = {64, 80, 96, 128, 192};
    return qt_chance(rng, 50) ? dims[qt_range(rng, 0, 4)] : 2 * qt_range(rng, 1, 24);
}

static void draw_stored(qt_rng *rng, const qkv_ctx *ctx, stored_case *c) {
    const int64_t kv = qt_range(rng, 1, 3), dim = draw_dim(rng), dv = qt_chance(rng, 60) ? dim : draw_dim(rng);
    const int64_t batch = qt_range(rng, 1, 3), tokens = qt_range(rng, 1, qt_chance(rng, 30) ? 150 : 9);
    const bool typed = qt_chance(rng, 40);
    const int64_t some = qt_range(rng, 1, qt_chance(rng, 20) ? 200 : 20), in = typed ? (some + 31) / 32 * 32 : some;
    const int64_t first = qt_range(rng, 0, 1);
    memset(c, 0, sizeof *c);
    c->heads = kv * qt_range(rng, 1, 3);
    c->cache = (qkv_cache_desc){.size = sizeof c->cache,
                                .num_sequences = 4,
                                .max_tokens = 400,
                                .num_kv_heads = kv,
                                .head_dim = dim,
                                .head_dim_v = dv,
                                .k_type = types[qt_range(rng, 0, 3)],
                                .v_type = types[qt_range(rng, 0, 3)]};
    for (int s = 0; s < 4; s++)
        c->before[s] = qt_chance(rng, 30) ? 0 : qt_range(rng, 1, 200);
    assert_int_equal(qkv_cache_size(&c->cache, &c->bytes), QKV_OK);
    const int64_t columns[3] = {c->heads * dim, kv * dim, kv * dv}, dims[3] = {dim, dim, dv};
    qkv_pack_desc pack = {.size = sizeof pack, .in_features = in, .num_parts = 3};
    c->d = (qkv_projection_desc){.size = sizeof c->d,
                                 .batch = batch,
                                 .tokens = tokens,
                                 .in_features = in,
                                 .num_parts = 3,
                                 .first_sequence = first,
                                 .arithmetic = typed ? qt_range(rng, QKV_ARITHMETIC_F32, QKV_ARITHMETIC_BF16) : 0};
    const bool integers = c->d.arithmetic == QKV_ARITHMETIC_INT8;
    for (int i = 0; i < 3; i++) {
        const float *unused;
        if (typed)
            pack.part[i] = case_weight(rng, case_weight_type(rng, integers, in), in, columns[i], false, &unused);
        else
            pack.part[i] = (qkv_weight){.data = case_normal(rng, in * columns[i]), .out_features = columns[i]};
        c->d.part[i] =
            (qkv_projection_part){.out_features = columns[i], .head_dim = dims[i], .type = pack.part[i].type};
        if (qt_chance(rng, 50))
            c->d.part[i].bias = case_normal(rng, columns[i]);
        if (i < 2 && qt_chance(rng, 50))
            c->d.steps[i] = (qkv_head_steps){.norm = case_normal(rng, dim), .norm_epsilon = 1e-6f};
        c->d.steps[i].rotate = i < 2 && qt_chance(rng, 60);
    }
    c->d.packed = case_pack(ctx, &pack);
    c->d.x = case_input(rng, batch, 1, tokens, in, false);
    const int64_t rotary = qt_chance(rng, 50) ? dim : 2 * qt_range(rng, 1, dim / 2);
    c->d.rope = (qkv_rope){case_normal(rng, 400 * rotary / 2), case_normal(rng, 400 * rotary / 2), 400, rotary,
                           qt_range(rng, 0, 1)};
    qt_describe("B=%d T=%d in=%d heads=%d:%d dim=%d,%d types %d %d, weights %d %d %d%s", (int)batch, (int)tokens,
                (int)in, (int)c->heads, (int)kv, (int)dim, (int)dv, (int)c->cache.k_type, (int)c->cache.v_type,
                (int)pack.part[0].type, (int)pack.part[1].type, (int)pack.part[2].type,
                arithmetic_name[c->d.arithmetic]);
}

/* A cache with what its sequences have before. */
static void *begin(qt_rng rng, const qkv_ctx *ctx, const stored_case *c) {
    void *cache = qt_alloc(c->bytes, 64, QT_TAIL);
    memset(cache, 0, c->bytes);
    assert_int_equal(qkv_cache_init(&c->cache, cache, c->bytes), QKV_OK);
    for (int s = 0; s < 4; s++) {
        const int64_t n = c->before[s], kv = c->cache.num_kv_heads, dim = c->cache.head_dim, dv = c->cache.head_dim_v;
        const qkv_input k = {case_normal(&rng, n * kv * dim), 0, n * dim, dim};
        const qkv_input v = {case_normal(&rng, n * kv * dv), 0, n * dv, dv};
        assert_int_equal(qkv_cache_append(ctx, cache, s, n, k, v), QKV_OK);
    }
    return cache;
}

static qkv_output heads_of(const stored_case *c, int64_t heads, int64_t dim) {
    const int64_t tokens = c->d.tokens;
    float *out = qt_floats((size_t)(c->d.batch * heads * tokens * dim), QT_TAIL);
    return (qkv_output){out, heads * tokens * dim, tokens * dim, dim};
}

static void test_stored_heads_are_appended_heads(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(200); i++) {
        qt_rng rng;
        stored_case c;
        if (!qt_case(i, &rng))
            continue;
        const qkv_ctx ref = case_reference();
        draw_stored(&rng, &ref, &c);
        const int64_t kv = c.cache.num_kv_heads, dim = c.cache.head_dim, dv = c.cache.head_dim_v;
        void *want = begin(rng, &ref, &c), *got = begin(rng, &set->ctx, &c);
        int64_t positions[3];
        qkv_projection_desc d = c.d;
        d.part[0].out = heads_of(&c, c.heads, dim);
        d.part[1].out = heads_of(&c, kv, dim);
        d.part[2].out = heads_of(&c, kv, dv);
        for (int64_t b = 0; b < d.batch; b++)
            positions[b] = c.before[d.first_sequence + b];
        d.steps[0].first_positions = d.steps[1].first_positions = positions;
        case_run_projection(&ref, &d, 0, 0);
        for (int64_t b = 0; b < d.batch; b++) {
            const qkv_output *k = &d.part[1].out, *v = &d.part[2].out;
            assert_int_equal(qkv_cache_append(&ref, want, d.first_sequence + b, d.tokens,
                                              (qkv_input){(float *)k->data + b * k->batch, 0, k->head, k->token},
                                              (qkv_input){(float *)v->data + b * v->batch, 0, v->head, v->token}),
                             QKV_OK);
            assert_int_equal(qkv_cache_extend(got, d.first_sequence + b, d.tokens), QKV_OK);
        }
        qkv_projection_desc s = c.d;
        const bool both = qt_chance(&rng, 30);
        s.part[0].out = heads_of(&c, c.heads, dim);
        s.part[1].out = both ? heads_of(&c, kv, dim) : (qkv_output){0};
        s.cache = got;
        s.steps[1].store = QKV_STORE_K;
        s.steps[2].store = QKV_STORE_V;
        case_run_projection(&set->ctx, &s, (int32_t)qt_range(&rng, 0, 6), qt_u64(&rng));
        const size_t columns = (size_t)(d.batch * d.tokens * dim);
        qt_expect_words("q", d.part[0].out.data, s.part[0].out.data, columns * (size_t)c.heads, 0);
        if (both)
            qt_expect_words("k", d.part[1].out.data, s.part[1].out.data, columns * (size_t)kv, 0);
        assert_int_equal(qkv_cache_check(got, c.bytes), QKV_OK);
        size_t at = 0;
        while (at < c.bytes && ((unsigned char *)want)[at] == ((unsigned char *)got)[at])
            at++;
        QT_EXPECT(at == c.bytes, "%s: the caches differ at byte %zu of %zu", set->name, at, c.bytes);
        qt_count_words(c.bytes / 4);
    }
}

static qkv_status run_status(const qt_set *set, const qkv_projection_desc *d) {
    qkv_plan plan;
    const qkv_status status = qkv_projection_plan(&set->ctx, d, 2, &plan);
    if (status != QKV_OK)
        return status;
    void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
    return qkv_projection_run(&plan, d, workspace, plan.workspace_size);
}

static void test_what_can_not_be_stored(const qt_set *set) {
    qt_rng rng;
    stored_case c;
    if (!qt_case(0, &rng))
        return;
    do
        draw_stored(&rng, &set->ctx, &c);
    while (c.cache.head_dim == c.cache.head_dim_v);
    unsigned char *cache = begin(rng, &set->ctx, &c), *before = qt_alloc(c.bytes, 64, QT_TAIL);
    qkv_projection_desc good = c.d, d;
    good.part[0].out = heads_of(&c, c.heads, c.cache.head_dim);
    good.steps[1].store = QKV_STORE_K;
    good.steps[2].store = QKV_STORE_V;
    good.cache = cache;
    for (int64_t b = 0; b < good.batch; b++)
        assert_int_equal(qkv_cache_extend(cache, good.first_sequence + b, good.tokens), QKV_OK);
    memcpy(before, cache, c.bytes);
#define REFUSES(status, change)                                                                                        \
    d = good;                                                                                                          \
    change;                                                                                                            \
    assert_int_equal(run_status(set, &d), status);                                                                     \
    assert_memory_equal(before, cache, c.bytes)
    REFUSES(QKV_ERROR_NULL, d.cache = NULL);
    REFUSES(QKV_ERROR_ALIGNMENT, d.cache = cache + 4);
    REFUSES(QKV_ERROR_CACHE, d.cache = qt_alloc(c.bytes, 64, QT_TAIL));
    REFUSES(QKV_ERROR_CACHE, d.steps[1].store = QKV_STORE_V; d.steps[2].store = QKV_STORE_K); /* widths */
    REFUSES(QKV_ERROR_SHAPE, d.steps[1].store = QKV_STORE_V);
    REFUSES(QKV_ERROR_FLAGS, d.steps[1].store = 3);
    REFUSES(QKV_ERROR_FLAGS, d.steps[1].store = -1);
    REFUSES(QKV_ERROR_INDEX, d.first_sequence = -1);
    REFUSES(QKV_ERROR_INDEX, d.first_sequence = 5 - d.batch);
    REFUSES(QKV_ERROR_INDEX, d.first_sequence = INT64_MAX);
    REFUSES(QKV_ERROR_SHAPE, d.steps[1].first_positions = (const int64_t *)(const void *)before);
    REFUSES(QKV_ERROR_ALIAS, d.part[0].out.data = cache);
    if (good.steps[1].rotate || good.steps[0].rotate) {
        REFUSES(QKV_ERROR_INDEX, d.steps[1].rotate = 1; d.steps[1].first_position = INT64_MIN);
        REFUSES(QKV_ERROR_INDEX, d.steps[1].rotate = 1; d.steps[1].first_position = INT64_MAX);
    }
    qkv_plan plan;
    assert_int_equal(qkv_projection_plan(&set->ctx, &good, 1, &plan), QKV_OK);
    assert_int_equal(qkv_projection_run(&plan, &good, cache, c.bytes), /* the workspace in the cache */
                     plan.workspace_size <= c.bytes ? QKV_ERROR_ALIAS : QKV_ERROR_WORKSPACE);
    const int64_t other = good.first_sequence + good.batch < 4 ? good.first_sequence + good.batch : 0;
    assert_int_equal(qkv_cache_fork(cache, good.first_sequence, other), QKV_OK); /* pages of two sequences */
    memcpy(before, cache, c.bytes);
    REFUSES(QKV_ERROR_CACHE, (void)0);
    assert_int_equal(qkv_cache_truncate(cache, other, 0), QKV_OK);
    for (int64_t b = 0; b < good.batch; b++)
        assert_int_equal(qkv_cache_truncate(cache, good.first_sequence + b, good.tokens - 1), QKV_OK);
    memcpy(before, cache, c.bytes);
    REFUSES(QKV_ERROR_CACHE, (void)0);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("stored_heads_are_appended_heads", test_stored_heads_are_appended_heads);
    qt_each_set("what_can_not_be_stored", test_what_can_not_be_stored);
    return qt_run();
}
