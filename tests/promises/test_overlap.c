/* Outputs that meet themselves or something else are refused, and layouts that people use are not: small random layouts
 * against a map of bytes, and the layouts by name.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <string.h>

static qkv_ctx ctx;

/* ------------------------------------------------------------------------------------------------ random layouts */

enum { MAP = 1 << 16, MIDDLE = MAP / 2 };

/* Marks the floats of a tensor; returns whether one was marked before. */
static bool mark(uint8_t *map, uint8_t bit, const qkv_input *x, const int64_t size[4], int64_t origin) {
    bool met = false;
    for (int64_t b = 0; b < size[0]; b++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t t = 0; t < size[2]; t++)
                for (int64_t c = 0; c < size[3]; c++) {
                    uint8_t *at = map + origin + b * x->batch + h * x->head + t * x->token + c;
                    met = met || *at & bit;
                    *at |= bit;
                }
    return met;
}

static bool maps_meet(const uint8_t *map, uint8_t a, uint8_t b) {
    for (int i = 0; i < MAP; i++) {
        if ((map[i] & a) && (map[i] & b))
            return true;
    }
    return false;
}

/* Strides of nested axes in some order, or anything. */
static void draw_strides(qt_rng *rng, const int64_t size[4], bool nested, int64_t stride[3]) {
    int order[3] = {0, 1, 2};
    int64_t extent = size[3];
    for (int i = 0; i < 3; i++) {
        int j = (int)qt_range(rng, i, 2), keep = order[i];
        order[i] = order[j];
        order[j] = keep;
        int axis = order[i];
        stride[axis] = nested ? extent + qt_range(rng, 0, 5) : qt_range(rng, -12, 12);
        extent += (size[axis] - 1) * stride[axis];
        if (nested && qt_chance(rng, 20))
            stride[axis] = -stride[axis];
        extent = extent < 1 ? 1 : extent;
    }
}

/* Attention with random out and q: k and v are elsewhere. What is accepted does not overlap; what is refused does, or
 * is of the kind that is refused though it does not. */
static void test_random_layouts(void) {
    int accepted = 0, refused = 0, wrongly = 0, families = 0, family_refused = 0;
    for (uint64_t i = 0; i < case_count(40000); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        static float memory[MAP], other[4096];
        static uint8_t map[MAP];
        memset(map, 0, sizeof map);
        const int64_t batch = qt_range(&rng, 1, 3), heads = qt_range(&rng, 1, 3), seq = qt_range(&rng, 1, 4);
        const int64_t q_size[4] = {batch, heads, seq, qt_range(&rng, 1, 4)};
        const int64_t out_size[4] = {batch, heads, seq, qt_range(&rng, 1, 4)};
        const bool family = qt_chance(&rng, 60); /* the same strides for both: one of the two is a part of the other */
        int64_t q_stride[3], out_stride[3], wide[4] = {batch, heads, seq, qt_range(&rng, 4, 12)};
        draw_strides(&rng, family ? wide : q_size, family || qt_chance(&rng, 50), q_stride);
        if (family)
            memcpy(out_stride, q_stride, sizeof q_stride);
        else
            draw_strides(&rng, out_size, qt_chance(&rng, 70), out_stride);
        const int64_t offset = qt_range(&rng, -60, 60);
        qkv_attention_desc d = {.size = sizeof d,
                                .batch = batch,
                                .num_heads = heads,
                                .seq_q = seq,
                                .seq_k = 2,
                                .head_dim = q_size[3],
                                .head_dim_v = out_size[3],
                                .k = {other, 0, 0, 4},
                                .v = {other, 0, 0, 4}};
        d.q = (qkv_input){memory + MIDDLE, q_stride[0], q_stride[1], q_stride[2]};
        d.out = (qkv_output){memory + MIDDLE + offset, out_stride[0], out_stride[1], out_stride[2]};
        qt_describe("sizes %d %d %d, q %d (%d %d %d), out %d (%d %d %d), offset %d", (int)batch, (int)heads, (int)seq,
                    (int)q_size[3], (int)q_stride[0], (int)q_stride[1], (int)q_stride[2], (int)out_size[3],
                    (int)out_stride[0], (int)out_stride[1], (int)out_stride[2], (int)offset);
        const qkv_input out = {d.out.data, d.out.batch, d.out.head, d.out.token};
        const bool itself = mark(map, 1, &out, out_size, MIDDLE + offset);
        mark(map, 2, &d.q, q_size, MIDDLE);
        const bool meet = maps_meet(map, 1, 2);
        bool in_place = offset == 0 && q_size[3] == out_size[3];
        for (int axis = 0; axis < 3; axis++)
            in_place = in_place && (q_size[axis] == 1 || q_stride[axis] == out_stride[axis]);
        qkv_plan plan;
        static _Alignas(64) char workspace[1 << 20];
        qkv_status status = qkv_attention_plan(&ctx, &d, 1, &plan);
        if (status == QKV_OK)
            status = qkv_attention_check(&plan, &d, workspace, sizeof workspace);
        QT_EXPECT(status == QKV_OK || status == QKV_ERROR_STRIDES || status == QKV_ERROR_ALIAS, "status %d", status);
        QT_EXPECT(!itself || status == QKV_ERROR_STRIDES, "elements of out meet, and it is accepted");
        QT_EXPECT(status == QKV_ERROR_STRIDES || !meet || in_place || status == QKV_ERROR_ALIAS,
                  "out and q overlap, and it is accepted");
        QT_EXPECT(!in_place || status != QKV_ERROR_ALIAS, "out is q, which is legal");
        if (family && status != QKV_ERROR_STRIDES) { /* exact */
            families++;
            family_refused += meet;
            QT_EXPECT(meet || status == QKV_OK, "interleaved, and refused");
        }
        accepted += status == QKV_OK;
        refused += status != QKV_OK;
        wrongly += status == QKV_ERROR_ALIAS && !meet;
        qt_count_words(1);
    }
    if (accepted + refused > 100) {
        qt_note("%d accepted, %d refused, of those %d needlessly (different strides); same strides: %d, overlapping %d",
                accepted, refused, wrongly, families, family_refused);
        assert_true(families > 1000 && family_refused > 100 && accepted > 1000);
    }
}

/* ---------------------------------------------------------------------------------------------- layouts by name */

static qkv_status status_of(const qkv_attention_desc *d) {
    static _Alignas(64) char workspace[1 << 22];
    qkv_plan plan;
    qkv_status status = qkv_attention_plan(&ctx, d, 2, &plan);
    assert_true(status != QKV_OK || plan.workspace_size <= sizeof workspace);
    return status != QKV_OK ? status : qkv_attention_check(&plan, d, workspace, sizeof workspace);
}

#define EXPECT_STATUS(want, desc) assert_int_equal(want, status_of(desc))

static void test_layouts_by_name(void) {
    enum { B = 2, T = 300, H = 4, KV = 2, D = 8 };
    static float memory[1 << 20];
    float *x = memory + 4096;
    const qkv_attention_desc base = {.size = sizeof base,
                                     .batch = B,
                                     .num_heads = H,
                                     .num_kv_heads = KV,
                                     .seq_q = T,
                                     .seq_k = T,
                                     .head_dim = D,
                                     .lse = {memory, H * T, T, 1}};
    /* [token][q heads | k heads | v heads | out heads] */
    const int64_t row = (2 * H + 2 * KV) * D;
    qkv_attention_desc d = base;
    d.q = (qkv_input){x, T * row, D, row};
    d.k = (qkv_input){x + H * D, T * row, D, row};
    d.v = (qkv_input){x + (H + KV) * D, T * row, D, row};
    d.out = (qkv_output){x + (H + 2 * KV) * D, T * row, D, row};
    EXPECT_STATUS(QKV_OK, &d);
    d.out.data = x; /* in place of q */
    EXPECT_STATUS(QKV_OK, &d);
    d.out.data = x + row; /* one token later */
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    d.out.data = x + (H - 1) * D; /* one head of q, then k and v */
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    d.out.data = x + H * D;
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    d.out.data = x + (H + 2 * KV) * D + 1; /* the last channel is the next token's q */
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    /* [head][token][q k v out], groups of two heads */
    d = base;
    d.num_kv_heads = H;
    d.q = (qkv_input){x, H * T * 4 * D, T * 4 * D, 4 * D};
    d.k = d.v = d.q;
    d.k.data = x + D;
    d.v.data = x + 2 * D;
    d.out = (qkv_output){x + 3 * D, H * T * 4 * D, T * 4 * D, 4 * D};
    EXPECT_STATUS(QKV_OK, &d);
    d.out.data = x + 2 * D + 1;
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    /* a cache [batch][capacity][k | v][KV][D], q and out of one token elsewhere; then out in the cache's free end */
    d = base;
    d.seq_q = 1;
    const int64_t slot = 2 * KV * D, capacity = T + 40;
    d.k = (qkv_input){x, capacity * slot, D, slot};
    d.v = (qkv_input){x + KV * D, capacity * slot, D, slot};
    d.q = (qkv_input){x + B * capacity * slot, H * D, D, 0};
    d.out = (qkv_output){x + B * capacity * slot + B * H * D, H * D, D, 0};
    EXPECT_STATUS(QKV_OK, &d);
    d.out = (qkv_output){x + T * slot, capacity * slot, D, 0};
    EXPECT_STATUS(QKV_OK, &d);
    d.out.data = x + T * slot - 1;
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    /* lse behind the channels of each row of out; a row reversed */
    d = base;
    d.q = d.k = d.v = (qkv_input){x + 200000, 0, 0, D};
    d.out = (qkv_output){x, H * T * (D + 1), T * (D + 1), D + 1};
    d.lse = (qkv_output){x + D, H * T * (D + 1), T * (D + 1), D + 1};
    EXPECT_STATUS(QKV_OK, &d);
    d.out = (qkv_output){x + (T - 1) * (D + 1), H * T * (D + 1), T * (D + 1), -(D + 1)};
    EXPECT_STATUS(QKV_OK, &d);
    d.lse.data = x + D - 1;
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    /* q = k = v, out in place of all: others' keys would be overwritten */
    d = base;
    d.num_kv_heads = H;
    d.q = d.k = d.v = (qkv_input){x, T * H * D, D, H * D};
    d.out = (qkv_output){x, T * H * D, D, H * D};
    EXPECT_STATUS(QKV_ERROR_ALIAS, &d);
    qt_count_words(15);
}

/* --------------------------------------------------------------------------------------------------- in place */

static void test_out_in_place_of_q(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(40); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t kv = qt_range(&rng, 1, 2), group = qt_range(&rng, 1, 3), dim = qt_range(&rng, 1, 40);
        attention_case c;
        case_plain(&rng, &c, qt_range(&rng, 1, 2), kv * group, kv,
                   qt_chance(&rng, 50) ? qt_range(&rng, 1, 4) : qt_range(&rng, 5, 150), qt_range(&rng, 1, 1200), dim,
                   dim);
        if (qt_chance(&rng, 50))
            case_add_probabilities(&rng, &c);
        const int32_t threads = (int32_t)qt_range(&rng, 0, 4);
        qt_describe("Sq=%d Sk=%d heads=%d:%d D=%d threads=%d", (int)c.desc.seq_q, (int)c.desc.seq_k, (int)(kv * group),
                    (int)kv, (int)dim, threads);
        const case_results want = case_run(&set->ctx, &c, 0, 0);
        c.desc.out = (qkv_output){(void *)(uintptr_t)c.desc.q.data, c.desc.q.batch, c.desc.q.head, c.desc.q.token};
        case_run_attention(&set->ctx, &c.desc, threads, qt_u64(&rng));
        const case_results got = {case_gather(&c.desc.out, c.desc.batch, c.desc.num_heads, c.desc.seq_q, dim), want.lse,
                                  want.probabilities, want.scores};
        case_expect_same("in place", &c, &want, &got);
    }
}

static void test_layer_in_place_of_x(const qt_set *set) {
    for (uint64_t i = 0; i < case_count(20); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const int64_t heads = qt_range(&rng, 1, 3), dim = qt_range(&rng, 1, 9), model = heads * dim;
        const int64_t tokens = qt_range(&rng, 1, 300);
        float *x = case_floats(&rng, 2 * tokens * model), *out = case_floats(&rng, 2 * tokens * model);
        float *w = qt_alloc((size_t)(3 * QKV_PANEL * model) * sizeof(float), 64, QT_TAIL);
        qt_fill(&rng, x, (size_t)(2 * tokens * model), QT_NORMAL);
        qt_fill(&rng, w, (size_t)(3 * QKV_PANEL * model), QT_NORMAL);
        qkv_layer_desc d = {.size = sizeof d,
                            .model_dim = model,
                            .out_features = model,
                            .x = {x, tokens * model, 0, model},
                            .w_qkv = w,
                            .w_o = qt_chance(&rng, 50) ? w : NULL,
                            .out = {out, tokens * model, 0, model},
                            .attention = {.size = sizeof d.attention,
                                          .batch = 2,
                                          .num_heads = heads,
                                          .seq_q = tokens,
                                          .seq_k = tokens,
                                          .head_dim = dim}};
        case_run_layer(&set->ctx, &d, 0, 0);
        d.out.data = x;
        case_run_layer(&set->ctx, &d, (int32_t)qt_range(&rng, 1, 4), qt_u64(&rng));
        qt_expect_words("out in place of x", out, x, (size_t)(2 * tokens * model), 0);
        qkv_plan plan;
        d.w_qkv = d.w_o = NULL; /* raw: x is the keys of all */
        d.attention.num_kv_heads = 1;
        d.attention.num_heads = 1;
        d.attention.head_dim = model;
        assert_int_equal(qkv_layer_plan(&set->ctx, &d, 1, &plan), QKV_OK);
        void *workspace = qt_alloc(plan.workspace_size, 64, QT_TAIL);
        assert_int_equal(qkv_layer_check(&plan, &d, workspace, plan.workspace_size), QKV_ERROR_ALIAS);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    if (qkv_init(&ctx, NULL) != QKV_OK)
        return 1;
    qt_once("random_layouts", test_random_layouts);
    qt_once("layouts_by_name", test_layouts_by_name);
    qt_each_set("out_in_place_of_q", test_out_in_place_of_q);
    qt_each_set("layer_in_place_of_x", test_layer_in_place_of_x);
    return qt_run();
}
