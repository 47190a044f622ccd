/* Keys in panels of 64, as a cache keeps them, give the bits of the same keys in rows: of every type, in one piece or
 * in pages.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include "ref/storage.h"

#include <math.h>
#include <string.h>

/* Stores a value in the given type at element `at` and returns what it means there. */
static float put(void *memory, int type, int64_t at, float x, float scale) {
    unsigned char *to = (unsigned char *)memory + qkv_stored_bytes(type, at);
    if (type == QKV_F32) {
        memcpy(to, &x, sizeof x);
        return x;
    }
    if (type == QKV_INT8) {
        const int8_t q = (int8_t)(x == x ? rintf(fminf(127, fmaxf(-127, x / scale))) : 0);
        memcpy(to, &q, 1);
        return (float)q * scale;
    }
    const uint16_t half = type == QKV_F16 ? qkv_to_f16(x) : qkv_to_bf16(x);
    memcpy(to, &half, sizeof half);
    return type == QKV_F16 ? qkv_from_f16(half) : qkv_from_bf16(half);
}

/* The keys of a case in panels, and in pages if `tokens` is not 0; its own keys become what is stored. Where there is
 * no key, and beside the panels, lies poison. Scales of int8 are powers of two, so that their place changes no bit. */
static attention_case in_panels(qt_rng *rng, attention_case *c, int type, int64_t tokens) {
    const qkv_attention_desc *d = &c->desc;
    attention_case twin = *c;
    qkv_attention_desc *t = &twin.desc;
    const int64_t kv = c->kv_heads, dim = d->head_dim, per_page = tokens ? tokens : (d->seq_k + 63) / 64 * 64;
    const int64_t pages = tokens ? (d->seq_k + tokens - 1) / tokens : 1, pool = d->batch * pages + 2;
    const int64_t head = per_page * dim + (qt_chance(rng, 50) ? 0 : 5), page = kv * head + 3, elements = pool * page;
    unsigned char *memory = qt_alloc((size_t)qkv_stored_bytes(type, elements), 4, QT_TAIL);
    int32_t *table = qt_alloc((size_t)(d->batch * pages) * sizeof *table, 4, QT_TAIL);
    float *scales = qt_floats((size_t)(pool * kv * per_page), QT_TAIL);
    memset(memory, 0xff, (size_t)qkv_stored_bytes(type, elements));
    for (int64_t i = 0; i < pool * kv * per_page; i++)
        scales[i] = ldexpf(1, (int)qt_range(rng, -7, -5));
    const int64_t shift = qt_range(rng, 0, pool - 1);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t p = 0; p < pages; p++)
            table[b * pages + p] = (int32_t)(tokens ? (pool - 1 - (b * pages + p) + shift) % pool : b);
    for (int64_t b = 0; b < d->batch; b++)
        for (int64_t h = 0; h < kv; h++)
            for (int64_t j = 0; j < d->seq_k; j++) {
                const int64_t at = tokens ? table[b * pages + j / tokens] : b, key = tokens ? j % tokens : j;
                float *row = case_row(&d->k, b, h, j);
                for (int64_t x = 0; x < dim; x++)
                    row[x] = put(memory, type, at * page + h * head + key / 64 * 64 * dim + x * 64 + key % 64, row[x],
                                 scales[(at * kv + h) * per_page + key]);
            }
    t->k = (qkv_input){memory, page, head, 12345};
    t->k_type = type;
    t->k_layout = QKV_KEY_PANELS;
    t->k_scales = (qkv_input){scales, kv * per_page, per_page, 1};
    if (tokens) {
        t->page_table = table;
        t->table_stride = pages;
        t->page_tokens = tokens;
        t->num_pages = pool;
        const qkv_output v = {qt_floats((size_t)(pool * kv * tokens * c->dv), QT_TAIL), kv * tokens * c->dv,
                              tokens * c->dv, c->dv};
        for (int64_t b = 0; b < d->batch; b++)
            for (int64_t h = 0; h < kv; h++)
                for (int64_t j = 0; j < d->seq_k; j++)
                    memcpy((float *)v.data + table[b * pages + j / tokens] * v.batch + h * v.head +
                               j % tokens * v.token,
                           case_row(&d->v, b, h, j), (size_t)c->dv * sizeof(float));
        t->v = (qkv_input){v.data, v.batch, v.head, v.token};
    }
    return twin;
}

/* Means of channels, by another loop: the same of rows and of panels. */
static void expect_means(const qt_set *set, const attention_case *c, const attention_case *twin) {
    const qkv_attention_desc *d = &c->desc;
    const int64_t n = d->batch * c->kv_heads * d->head_dim;
    float *want = qt_floats((size_t)n, QT_TAIL), *got = qt_floats((size_t)n, QT_TAIL);
    for (int64_t i = 0; i < n; i++) {
        const int64_t b = i / d->head_dim / c->kv_heads, h = i / d->head_dim % c->kv_heads;
        const int64_t end = d->seq_q == 0 ? 0 : d->kv_len && d->kv_len[b] < d->seq_k ? d->kv_len[b] : d->seq_k;
        const double from_end = d->flags & QKV_FROM_END ? (double)(end - d->seq_q) : 0;
        const double p = (double)(d->q_offsets ? d->q_offsets[b] : d->q_offset) + from_end; /* of the first query */
        double sum = 0, keys = 0;
        for (int64_t j = 0; j < end; j++)
            if (!(d->flags & QKV_LEFT) || (double)j >= p - (double)d->left || j < d->first_tokens) {
                sum += (double)case_row(&d->k, b, h, j)[i % d->head_dim];
                keys++;
            }
        want[i] = keys > 0 ? (float)(sum / keys) : 0;
    }
    assert_int_equal(qkv_attention_key_means(&set->ctx, d, got), QKV_OK);
    qt_expect_words("means of rows", want, got, (size_t)n, 0);
    qt_poison(got);
    assert_int_equal(qkv_attention_key_means(&set->ctx, &twin->desc, got), QKV_OK);
    qt_expect_words("means of panels", want, got, (size_t)n, 0);
}

static void expect_panels(const qt_set *set, qt_rng *rng, attention_case *c) {
    static const int types[] = {QKV_F32, QKV_F16, QKV_BF16, QKV_INT8};
    const float scale = fabsf(c->desc.scale);
    /* with others q·x may leave the range of normal numbers where q·(s·x) does not */
    const bool ordinary = c->desc.scale == 0 || (scale > 1e-6f && scale < 1e6f);
    const bool in_int8 = c->desc.arithmetic == QKV_ARITHMETIC_INT8; /* which finds other integers in rows of floats */
    const int type = types[qt_range(rng, 0, ordinary && !in_int8 ? 3 : 2)];
    const int64_t tokens = qt_chance(rng, 50) ? 0 : 64 * qt_range(rng, 1, 5);
    const qkv_ctx reference = case_reference();
    if (c->desc.batch == 0 || c->desc.seq_k == 0 || c->desc.head_dim == 0)
        return;
    const attention_case twin = in_panels(rng, c, type, tokens);
    qt_describe("panels: type %d, pages of %d", type, (int)tokens);
    if (type != QKV_INT8)
        expect_means(set, c, &twin);
    const case_results want = case_run(&reference, c, 0, 0);
    const case_results got = case_run(&set->ctx, &twin, qt_chance(rng, 50) ? 0 : (int32_t)qt_range(rng, 1, 8),
                                      qt_chance(rng, 50) ? qt_u64(rng) : 0);
    case_expect_same(set->name, c, &want, &got);
}

static void test_panels_are_rows(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(300); i++) {
        qt_rng rng;
        attention_case c;
        if (!qt_case(i, &rng))
            continue;
        do
            case_attention(&rng, 200000, &c);
        while (case_is_shared(&c.desc.k, c.desc.batch, c.kv_heads, c.desc.seq_k));
        expect_panels(set, &rng, &c);
    }
}

/* One to few queries over many keys, where products read the stored panels, and heads wider than a chain. */
static void test_decoding_from_panels(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(150); i++) {
        qt_rng rng;
        attention_case c;
        if (!qt_case(i, &rng))
            continue;
        const int64_t kv = qt_range(&rng, 1, 3);
        const int64_t dim = qt_chance(&rng, 30) ? qt_range(&rng, 120, 300) : 8 * qt_range(&rng, 1, 16);
        case_plain(&rng, &c, qt_range(&rng, 1, 3), kv * qt_range(&rng, 1, 5), kv, qt_range(&rng, 1, 3),
                   qt_range(&rng, 1, 900), dim, qt_range(&rng, 1, 40));
        case_draw_arithmetic(&rng, &c.desc);
        c.desc.flags = qt_chance(&rng, 50) ? QKV_RIGHT | QKV_FROM_END : 0;
        if (qt_chance(&rng, 40)) {
            c.desc.flags |= QKV_LEFT;
            c.desc.left = qt_range(&rng, 0, 400);
            c.desc.first_tokens = qt_chance(&rng, 50) ? qt_range(&rng, 1, 70) : 0;
        }
        expect_panels(set, &rng, &c);
    }
}

/* Without channels all logits are 0, whatever the workspace holds, but for keys whose scale is NaN. */
static void test_keys_without_channels(const qt_set *set) {
    float v[64], scales[64] = {0}, *out = qt_floats(1, QT_TAIL);
    for (int j = 0; j < 64; j++)
        v[j] = (float)j;
    for (int i = 0; i < 12; i++) {
        scales[3] = i >= 6 ? NAN : 0;
        const qkv_attention_desc d = {.size = sizeof d,
                                      .batch = 1,
                                      .num_heads = 1,
                                      .seq_q = 1,
                                      .seq_k = 64,
                                      .head_dim_v = 1,
                                      .v = {v, 0, 0, 1},
                                      .out = {out, 0, 0, 1},
                                      .arithmetic = i / 2 % 3,
                                      .k_layout = i % 2,
                                      .k_type = i >= 6 ? QKV_INT8 : 0,
                                      .k_scales = {scales, 0, 0, 1}};
        qkv_plan plan;
        assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_OK);
        float *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
        const float want = i >= 6 ? NAN : 31.5f;
        for (int poisoned = 0; poisoned < 2; poisoned++) {
            for (size_t x = 0; x < plan.workspace_size / sizeof *workspace; x++)
                workspace[x] = poisoned ? NAN : (float)(x % 64);
            assert_int_equal(qkv_attention_run(&plan, &d, workspace, plan.workspace_size), QKV_OK);
            qt_expect_words("out", &want, out, 1, 0);
        }
    }
}

/* Of pages only those with keys that count are looked at, and they are, whether or not attention would run. */
static void test_pages_that_means_need(void) {
    enum { PAGE = 64, PAGES = 4, DIM = 8 };
    const qkv_ctx reference = case_reference();
    float *k = qt_floats(PAGES * PAGE * DIM, QT_TAIL), means[2 * DIM], out[2 * DIM];
    int32_t table[2][PAGES] = {{-1000000, 1, 2, 3}, {-1, -1, -1, -1}};
    const int64_t kv_len[2] = {200, 200}, starts[3] = {0, 1, 1};
    for (int i = 0; i < PAGES * PAGE * DIM; i++)
        k[i] = (float)(i / DIM);
    const qkv_attention_desc d = {.size = sizeof d,
                                  .batch = 2,
                                  .num_heads = 1,
                                  .seq_q = 1,
                                  .seq_k = PAGES * PAGE,
                                  .head_dim = DIM,
                                  .k = {k, PAGE * DIM, PAGE * DIM, DIM},
                                  .kv_len = kv_len,
                                  .v = {k, PAGE * DIM, PAGE * DIM, DIM},
                                  .q = {k, 0, 0, DIM},
                                  .out = {out, 0, 0, DIM},
                                  .flags = QKV_LEFT | QKV_RIGHT | QKV_FROM_END,
                                  .left = 50,
                                  .q_start = starts,
                                  .page_table = table[0],
                                  .table_stride = PAGES,
                                  .page_tokens = PAGE,
                                  .num_pages = PAGES};
    qkv_attention_desc wrong = d;
    assert_int_equal(qkv_attention_key_means(&reference, &d, means), QKV_OK);
    for (int c = 0; c < DIM; c++)
        QT_EXPECT(means[c] == 174 && means[DIM + c] == 0, "means are %g and %g", (double)means[c],
                  (double)means[DIM + c]);
    assert_int_equal(qkv_attention_key_means(&reference, &d, k), QKV_ERROR_ALIAS);
    wrong.k.data = (const char *)k + 1;
    assert_int_equal(qkv_attention_key_means(&reference, &wrong, means), QKV_ERROR_ALIGNMENT);
    wrong = d;
    table[0][3] = PAGES;
    assert_int_equal(qkv_attention_key_means(&reference, &d, means), QKV_ERROR_INDEX);
    wrong.head_dim_v = 0; /* so that attention looks at no page */
    wrong.flags |= QKV_HEAD_DIM_V;
    assert_int_equal(qkv_attention_key_means(&reference, &wrong, means), QKV_ERROR_INDEX);
    wrong.k_type = QKV_INT8;
    assert_int_equal(qkv_attention_key_means(&reference, &wrong, means), QKV_ERROR_FLAGS);
}

static void test_what_panels_can_not_be(const qt_set *set) {
    static float x[64 * 64];
    static int32_t table[4];
    const qkv_attention_desc good = {.size = sizeof good,
                                     .batch = 1,
                                     .num_heads = 1,
                                     .seq_q = 1,
                                     .seq_k = 64,
                                     .head_dim = 32,
                                     .k_layout = QKV_KEY_PANELS,
                                     .q = {x, 0, 0, 0},
                                     .k = {x, 0, 0, 0},
                                     .v = {x, 0, 0, 0},
                                     .page_table = table,
                                     .page_tokens = 64,
                                     .num_pages = 1};
    const int64_t starts[2] = {0, 64};
    qkv_plan plan;
    qkv_attention_desc d = good;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_OK);
    d.page_tokens = 96;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_ERROR_SHAPE);
    d = good;
    d.k_layout = 2;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_ERROR_FLAGS);
    d = good;
    d.k_type = QKV_Q8_0;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_ERROR_FLAGS);
    d = good;
    d.first_tokens = -1;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_ERROR_NEGATIVE);
    d = good;
    d.page_table = NULL;
    d.page_tokens = d.num_pages = 0;
    d.k_start = starts;
    assert_int_equal(qkv_attention_plan(&set->ctx, &d, 1, &plan), QKV_ERROR_SHAPE);
    qkv_attention_backward_desc g = {.size = sizeof g, .forward = good};
    g.forward.page_table = NULL;
    g.forward.page_tokens = g.forward.num_pages = 0;
    assert_int_equal(qkv_attention_backward_plan(&set->ctx, &g, 1, &plan), QKV_ERROR_FLAGS);
    g.forward.k_layout = QKV_KEY_ROWS;
    g.forward.first_tokens = 1;
    assert_int_equal(qkv_attention_backward_plan(&set->ctx, &g, 1, &plan), QKV_ERROR_FLAGS);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set_of_attention("panels_are_rows", test_panels_are_rows);
    qt_each_set_of_attention("decoding_from_panels", test_decoding_from_panels);
    qt_each_set_of_attention("keys_without_channels", test_keys_without_channels);
    qt_once("pages_that_means_need", test_pages_that_means_need);
    qt_each_set("what_panels_can_not_be", test_what_panels_can_not_be);
    return qt_run();
}
