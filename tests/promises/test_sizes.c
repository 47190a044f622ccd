/* Sizes at both ends: zero in every dimension, more than 65,536 keys, strides beyond 2^31 elements.
 *
 * SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <inttypes.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HUGE_MAPPINGS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HUGE_MAPPINGS 0
#endif
#endif
#ifndef HUGE_MAPPINGS
#define HUGE_MAPPINGS 1
#endif

/* Memory that may not be touched at all. */
static float *nothing(void) {
    return qt_floats(0, QT_TAIL);
}

static const qkv_input no_input = {NULL, 0, 0, 0};

static void test_attention_without_output_touches_nothing(const qt_set *set) {
    for (uint64_t i = 0; i < 3; i++) {
        if (!qt_case(i, NULL))
            continue;
        qkv_attention_desc d = {.size = sizeof d,
                                .batch = 2,
                                .num_heads = 4,
                                .num_kv_heads = 2,
                                .seq_q = 3,
                                .seq_k = 300,
                                .head_dim = 8,
                                .q = {nothing(), 96, 24, 8},
                                .k = {nothing(), 4800, 2400, 8},
                                .v = {nothing(), 4800, 2400, 8},
                                .out = {nothing(), 96, 24, 8},
                                .lse = {nothing(), 12, 3, 1},
                                .probabilities = {nothing(), 3600, 900, 300, 1}};
        const char *names[] = {"batch", "num_heads", "seq_q"};
        qt_describe("%s = 0", names[i]);
        if (i == 0)
            d.batch = 0;
        if (i == 1)
            d.num_heads = d.num_kv_heads = 0;
        if (i == 2)
            d.seq_q = 0;
        case_run_attention(&set->ctx, &d, 0, 0);
        case_run_attention(&set->ctx, &d, 3, 1);
        d.q = d.k = d.v = no_input; /* NULL is as good */
        d.out = d.lse = (qkv_output){0};
        d.probabilities = (qkv_matrix_output){0};
        case_run_attention(&set->ctx, &d, 0, 0);
    }
}

static void test_no_keys_make_empty_rows(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 2, 4, 2, 3, 0, 8, 8);
    c.desc.k = c.desc.v = c.desc.q = no_input;
    c.desc.flags = QKV_RIGHT;
    c.desc.probabilities = (qkv_matrix_output){nothing(), 0, 0, 0, 1};
    const case_results r = case_run(&set->ctx, &c, 0, 0);
    for (int i = 0; i < 2 * 4 * 3 * 8; i++)
        assert_int_equal(qt_bits(r.out[i]), 0);
    for (int i = 0; i < 2 * 4 * 3; i++)
        assert_true(r.lse[i] == -INFINITY);
}

/* An empty inner sum is 0, so all logits are: the mean of v. */
static void test_head_dim_zero_is_the_mean_of_v(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 2, 1, 3, 300, 0, 5);
    c.desc.q.data = c.desc.k.data = nothing();
    const case_results r = case_run(&set->ctx, &c, 0, 0);
    for (int64_t x = 0; x < 5; x++) {
        double sum = 0;
        for (int64_t j = 0; j < 300; j++)
            sum += (double)case_row(&c.desc.v, 0, 0, j)[x];
        for (int64_t row = 0; row < 6; row++)
            QT_EXPECT(fabs((double)r.out[row * 5 + x] - sum / 300) < 1e-5, "out %a", (double)r.out[row * 5 + x]);
    }
    c.desc.head_dim_v = 0; /* head_dim: no channel at all, but an lse */
    c.dv = 0;
    c.desc.v.data = c.desc.out.data = nothing();
    case_run_attention(&set->ctx, &c.desc, 0, 0);
    for (int row = 0; row < 6; row++)
        QT_EXPECT(fabsf(((float *)c.desc.lse.data)[row] - logf(300)) < 1e-6f, "lse");
}

static void test_projection_of_nothing_touches_nothing(const qt_set *set) {
    for (uint64_t i = 0; i < 3; i++) {
        if (!qt_case(i, NULL))
            continue;
        const qkv_projection_desc d = {.size = sizeof d,
                                       .batch = i == 0 ? 0 : 2,
                                       .tokens = i == 1 ? 0 : 3,
                                       .in_features = 10,
                                       .num_parts = 2,
                                       .x = {nothing(), 30, 0, 10},
                                       .packed = qt_alloc(0, 64, QT_TAIL),
                                       .part = {{.out_features = i == 2 ? 0 : 5, .out = {nothing(), 15, 0, 5}},
                                                {.out_features = i == 2 ? 0 : 6, .out = {nothing(), 18, 0, 6}}}};
        case_run_projection(&set->ctx, &d, 0, 0);
    }
}

/* One part of no columns between two others. */
static void test_an_empty_part_is_skipped(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    float *w = case_floats(&rng, 7 * 70), *x = case_floats(&rng, 21), *y[2][2];
    qt_fill(&rng, w, 7 * 70, QT_NORMAL);
    qt_fill(&rng, x, 21, QT_NORMAL);
    for (int parts = 2; parts <= 3; parts++) {
        float **to = y[parts - 2];
        to[0] = case_floats(&rng, 210);
        to[1] = case_floats(&rng, 210);
        qkv_pack_desc pack = {.size = sizeof pack, .in_features = 7, .num_parts = parts};
        qkv_projection_desc d = {
            .size = sizeof d, .batch = 1, .tokens = 3, .in_features = 7, .num_parts = parts, .x = {x, 0, 0, 7}};
        for (int p = 0; p < 2; p++) {
            const int at = p == 0 ? 0 : parts - 1;
            pack.part[at] = (qkv_weight){.data = w, .out_features = 70};
            d.part[at] = (qkv_projection_part){.out_features = 70, .out = {to[p], 0, 0, 70}};
        }
        if (parts == 3)
            d.part[1].out.data = nothing();
        d.packed = case_pack(&set->ctx, &pack);
        case_run_projection(&set->ctx, &d, 0, 0);
    }
    for (int p = 0; p < 2; p++)
        qt_expect_words("part", y[0][p], y[1][p], 210, 0);
}

static void test_merge_of_nothing_touches_nothing(const qt_set *set) {
    for (uint64_t i = 0; i < 3; i++) {
        if (!qt_case(i, NULL))
            continue;
        const qkv_merge_desc d = {.size = sizeof d,
                                  .batch = i == 0 ? 0 : 2,
                                  .num_heads = i == 1 ? 0 : 2,
                                  .seq_q = i == 2 ? 0 : 2,
                                  .head_dim_v = 4,
                                  .num_parts = 3,
                                  .part_out = {nothing(), 16, 8, 4},
                                  .part_lse = {nothing(), 4, 2, 1},
                                  .out = {nothing(), 16, 8, 4},
                                  .lse = {nothing(), 4, 2, 1}};
        case_run_merge(&set->ctx, &d, 0, 0);
    }
}

static void test_layer_of_nothing_touches_nothing(const qt_set *set) {
    for (uint64_t i = 0; i < 2; i++) {
        if (!qt_case(i, NULL))
            continue;
        const qkv_layer_desc d = {.size = sizeof d,
                                  .model_dim = 6,
                                  .out_features = 12,
                                  .x = {nothing(), 30, 0, 6},
                                  .out = {nothing(), 60, 0, 12},
                                  .attention = {.size = sizeof d.attention,
                                                .batch = i == 0 ? 0 : 2,
                                                .num_heads = 2,
                                                .seq_q = i == 1 ? 0 : 5,
                                                .seq_k = i == 1 ? 0 : 5,
                                                .head_dim = 6}};
        case_run_layer(&set->ctx, &d, 0, 0);
    }
}

/* Each product by itself: one without an element reads nothing, though the call has others. */
static void test_a_product_without_elements_reads_nothing(const qt_set *set) {
    for (uint64_t i = 0; i < 6; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        float *w = qt_alloc(8 * QKV_PANEL * sizeof(float), 64, QT_TAIL), *g = case_floats(&rng, 12);
        qt_fill(&rng, w, 8 * QKV_PANEL, QT_NORMAL);
        qkv_layer_desc layer = {
            .size = sizeof layer,
            .model_dim = 4,
            .w_qkv = w,
            .attention = {
                .size = sizeof layer.attention, .batch = 1, .num_heads = 1, .seq_q = 2, .seq_k = 2, .head_dim = 4}};
        if (i == 0) { /* keys and values, but no head to read them */
            layer.attention.num_heads = 0;
            layer.attention.num_kv_heads = 1;
        }
        if (i <= 1) { /* heads, but no output of them */
            layer.w_o = w;
            layer.x.data = nothing();
            case_run_layer(&set->ctx, &layer, 0, 0);
            layer.x.data = NULL;
            case_run_layer(&set->ctx, &layer, 0, 0);
        }
        if (i == 2) { /* a bias of the output alone needs no attention */
            float *grad_out = case_floats(&rng, 10);
            qt_fill(&rng, grad_out, 10, QT_INTEGER);
            layer.w_o = w;
            layer.out_features = 5;
            const qkv_layer_backward_desc d = {
                .size = sizeof d, .grad_out = {grad_out, 0, 0, 5}, .grad_o = {.bias = g}, .forward = layer};
            case_run_layer_backward(&set->ctx, &d, 0, 0);
            for (int c = 0; c < 5; c++)
                assert_true(g[c] == grad_out[c] + grad_out[5 + c]);
        }
        if (i == 3) { /* keys that no head reads have a gradient: zeros, which meet x */
            float *x = case_floats(&rng, 8);
            qt_fill(&rng, x, 8, QT_NORMAL);
            layer.x = (qkv_input){x, 0, 0, 4};
            layer.attention.num_heads = 0;
            layer.attention.num_kv_heads = 1;
            const qkv_layer_backward_desc d = {.size = sizeof d, .grad_k = {.bias = g}, .forward = layer};
            case_run_layer_backward(&set->ctx, &d, 0, 0);
            for (int c = 0; c < 4; c++)
                assert_int_equal(qt_bits(g[c]), 0);
        }
        if (i >= 4) { /* weights without inputs, beside a bias of another part */
            float *grad_out = case_floats(&rng, 6);
            qt_fill(&rng, grad_out, 6, QT_INTEGER);
            const qkv_projection_backward_desc d = {
                .size = sizeof d,
                .grad_out = {{NULL, 0, 0, 3}, {grad_out, 0, 0, 3}},
                .grad = {{.data = nothing(), .layout = i == 4 ? QKV_IN_OUT : QKV_OUT_IN},
                         {.data = nothing(), .layout = i == 4 ? QKV_IN_OUT : QKV_OUT_IN, .bias = g}},
                .forward = {.size = sizeof d.forward,
                            .batch = 1,
                            .tokens = 2,
                            .num_parts = 2,
                            .part = {{.out_features = 3}, {.out_features = 3}}}};
            case_run_projection_backward(&set->ctx, &d, 0, 0);
            for (int c = 0; c < 3; c++)
                assert_true(g[c] == grad_out[c] + grad_out[3 + c]);
        }
    }
}

static int64_t all_tasks(const qkv_plan *plan) {
    int64_t sum = 0;
    for (int32_t phase = 0; phase < plan->num_phases; phase++)
        sum += qkv_plan_num_tasks(plan, phase);
    return sum;
}

/* Nor does it take time: sizes beyond counting, of which one is 0. */
static void test_gradients_of_nothing_take_no_time(const qt_set *set) {
    const int64_t many = INT64_C(1) << 50;
    for (uint64_t i = 0; i < 7; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        qkv_plan plan;
        float *g = case_floats(&rng, 4);
        qkv_attention_backward_desc d = {.size = sizeof d,
                                         .forward = {.size = sizeof d.forward,
                                                     .batch = 1,
                                                     .num_heads = many,
                                                     .num_kv_heads = 1,
                                                     .seq_q = 0,
                                                     .seq_k = 1,
                                                     .head_dim = 4}};
        if (i == 0) { /* a key that no query reads */
            d.grad_k.data = g;
            case_run_attention_backward(&set->ctx, &d, 0, 0);
            for (int c = 0; c < 4; c++)
                assert_int_equal(qt_bits(g[c]), 0);
        }
        if (i == 1) { /* one number for all heads' biases */
            d.grad_bias.data = g;
            case_run_attention_backward(&set->ctx, &d, 0, 0);
            assert_int_equal(qt_bits(g[0]), 0);
        }
        if (i == 2) { /* a sink of batches without queries */
            d.forward.batch = many;
            d.forward.num_heads = 1;
            d.grad_sinks = g;
            d.forward.sinks = case_floats(&rng, 1);
            *(float *)(uintptr_t)d.forward.sinks = 1;
            case_run_attention_backward(&set->ctx, &d, 0, 0);
            assert_int_equal(qt_bits(g[0]), 0);
        }
        if (i == 3) { /* gradients without channels, or of no keys */
            d.forward.num_kv_heads = many;
            d.forward.head_dim = 0;
            d.grad_q.data = d.grad_k.data = d.grad_v.data = g;
            assert_int_equal(qkv_attention_backward_plan(&set->ctx, &d, 1, &plan), QKV_OK);
            assert_int_equal(all_tasks(&plan), 0);
            d.forward.head_dim = 4;
            d.forward.seq_k = 0;
            assert_int_equal(qkv_attention_backward_plan(&set->ctx, &d, 3, &plan), QKV_OK);
            assert_int_equal(all_tasks(&plan), 0);
        }
        if (i == 4) { /* none is wanted */
            d.forward.num_heads = d.forward.num_kv_heads = 4;
            d.forward.seq_q = d.forward.seq_k = INT64_C(1) << 40;
            assert_int_equal(qkv_attention_backward_plan(&set->ctx, &d, 1, &plan), QKV_OK);
            assert_int_equal(all_tasks(&plan), 0);
        }
        if (i == 5) { /* weights without inputs */
            const qkv_projection_backward_desc p = {.size = sizeof p,
                                                    .grad = {{.data = g}},
                                                    .grad_x = {g, 0, 0, 0},
                                                    .forward = {.size = sizeof p.forward,
                                                                .batch = 1,
                                                                .tokens = 1,
                                                                .num_parts = 1,
                                                                .part = {{.out_features = many}}}};
            assert_int_equal(qkv_projection_backward_plan(&set->ctx, &p, 1, &plan), QKV_OK);
            assert_int_equal(all_tasks(&plan), 0);
        }
        if (i == 6) { /* a group of more heads than there can be phases: planned, whichever way */
            d.forward.num_heads = INT64_C(1) << 30;
            d.forward.seq_q = d.forward.head_dim = 1;
            d.forward.seq_k = 257;
            d.grad_q = (qkv_output){g, 0, 1, 0};
            for (int32_t workers = 1; workers <= 8; workers++)
                assert_int_equal(qkv_attention_backward_plan(&set->ctx, &d, workers, &plan), QKV_OK);
        }
    }
}

/* An axis along which dbias is summed has one element, however many summands: the sum of none is 0. */
static void test_the_bias_of_no_pair_has_gradient_zero(const qt_set *set) {
    for (uint64_t i = 0; i < 24; i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        const bool accumulate = i & 1;
        const int axis = (int)(i / 2 % 4); /* the one of no length */
        const int64_t length = i / 8 == 2 ? 0 : 2, n[4] = {axis == 0 ? 0 : length, axis == 1 ? 0 : length,
                                                           axis == 2 ? 0 : length, axis == 3 ? 0 : length};
        float *g = case_floats(&rng, 8);
        for (int c = 0; c < 8; c++)
            g[c] = accumulate ? (float)(c + 1) : NAN;
        qkv_attention_backward_desc d = {.size = sizeof d,
                                         .flags = accumulate ? QKV_ACCUMULATE : 0,
                                         .grad_bias = {.data = g},
                                         .forward = {.size = sizeof d.forward,
                                                     .batch = n[0],
                                                     .num_heads = n[1],
                                                     .num_kv_heads = 1,
                                                     .seq_q = n[2],
                                                     .seq_k = n[3],
                                                     .head_dim = 4,
                                                     .lse = {case_floats(&rng, 8), 4, 2, 1}}};
        for (int c = 0; c < 8; c++)
            ((float *)d.forward.lse.data)[c] = -INFINITY;
        float *zeros = case_floats(&rng, 4);
        memset(zeros, 0, 4 * sizeof(float));
        d.forward.out.data = zeros;
        d.grad_out.data = zeros;
        int64_t elements = 1;
        if (i / 8 == 1) { /* the other three axes are not summed */
            int64_t *const strides[4] = {&d.grad_bias.batch, &d.grad_bias.head, &d.grad_bias.query, &d.grad_bias.key};
            for (int a = 0; a < 4; a++) {
                if (a != axis) {
                    *strides[a] = elements;
                    elements *= 2;
                }
            }
        }
        qt_describe("axis %d of length 0, others %lld, accumulate %d", axis, (long long)length, accumulate);
        case_run_attention_backward(&set->ctx, &d, (int32_t)(i % 3), 0);
        for (int64_t c = 0; c < elements; c++)
            QT_EXPECT(qt_bits(g[c]) == qt_bits(accumulate ? (float)(c + 1) : 0.0f), "element %lld: %a", (long long)c,
                      (double)g[c]);
    }
}

/* --------------------------------------------------------------------------------------------------------- large */

static void test_more_than_65536_keys(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    const int64_t n = 70001;
    attention_case c;
    case_plain(&rng, &c, 1, 2, 1, 3, n, 4, 3);
    float *last = case_row(&c.desc.k, 0, 0, n - 1), *q = case_row(&c.desc.q, 0, 1, 2);
    for (int x = 0; x < 4; x++) {
        q[x] = 5; /* the last row of head 1 looks at the last key alone */
        last[x] = 30;
    }
    c.desc.flags = QKV_RIGHT;
    c.desc.q_offset = n - 3;
    const case_results r = case_run(&set->ctx, &c, 3, 7);
    qt_expect_words("the last key", case_row(&c.desc.v, 0, 0, n - 1), r.out + 5 * 3, 3, 0);
    oracle *o = oracle_open(&c.desc);
    double worst = 0;
    for (int64_t h = 0; h < 2; h++) {
        oracle_head(o, 0, h);
        for (int64_t i = 0; i < 3; i++) {
            const oracle_row *row = oracle_attention_row(o, 0, h, i);
            for (int64_t x = 0; x < 3; x++)
                QT_EXPECT(oracle_within((double)r.out[(h * 3 + i) * 3 + x], row->out[x], row->out_bound[x], &worst),
                          "head %" PRId64 ", row %" PRId64 ": want %.9g ± %.3g, got %.9g", h, i, row->out[x],
                          row->out_bound[x], (double)r.out[(h * 3 + i) * 3 + x]);
            QT_EXPECT(oracle_within((double)r.lse[h * 3 + i], row->lse, row->lse_bound, &worst), "lse");
        }
    }
    oracle_close(o);
    qt_note("worst error/bound %.4f", worst);
}

/* More than 2^31 elements from one row to the next, in a mapping that takes no room where it is not written. */
static const int64_t stride_31 = (INT64_C(1) << 31) + 12345;

static float *sparse(int64_t elements) {
    float *p = HUGE_MAPPINGS ? qt_sparse((size_t)elements * sizeof(float)) : NULL;
    if (!p)
        qt_skip("%s", HUGE_MAPPINGS ? "no address space for tensors of 2^31 elements" : "a sanitizer is in use");
    return p;
}

/* Rows of `from` (n elements each) to where a stride of ±stride_31 has them; returns element (0, 0). */
static float *spread(const float *from, int64_t rows, int64_t n, bool backwards) {
    float *base = sparse((rows - 1) * stride_31 + n) + (backwards ? (rows - 1) * stride_31 : 0);
    for (int64_t r = 0; r < rows; r++)
        memcpy(base + (backwards ? -r : r) * stride_31, from + r * n, (size_t)n * sizeof(float));
    return base;
}

static void test_attention_over_2_to_the_31_elements(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    attention_case c;
    case_plain(&rng, &c, 1, 2, 1, 3, 5, 8, 8);
    float *bias = case_floats(&rng, 15);
    qt_fill(&rng, bias, 15, QT_NORMAL);
    c.desc.bias = (qkv_matrix_input){bias, 0, 0, 5, 1};
    const case_results dense = case_run(&set->ctx, &c, 0, 0);
    qkv_attention_desc d = c.desc;
    d.k = (qkv_input){spread(d.k.data, 5, 8, false), 0, 0, stride_31};
    d.v = (qkv_input){spread(d.v.data, 5, 8, true), 0, 0, -stride_31};
    d.q = (qkv_input){spread(d.q.data, 3, 16, true), 0, 8, -stride_31};
    d.bias = (qkv_matrix_input){spread(bias, 3, 5, false), 0, 0, stride_31, 1};
    float *out = sparse(5 * stride_31 + 8), *lse = sparse(5 * stride_31 + 1);
    d.out = (qkv_output){out, 0, 3 * stride_31, stride_31};
    d.lse = (qkv_output){lse, 0, 3 * stride_31, stride_31};
    case_run_attention(&set->ctx, &d, 0, 0);
    for (int64_t row = 0; row < 6; row++) {
        qt_expect_words("out", dense.out + row * 8, out + row * stride_31, 8, 0);
        qt_expect_words("lse", dense.lse + row, lse + row * stride_31, 1, 0);
    }
}

static void test_projection_over_2_to_the_31_elements(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    float *x = case_floats(&rng, 4 * 9), *w = case_floats(&rng, 9 * 70), *y = case_floats(&rng, 4 * 70);
    qt_fill(&rng, x, 36, QT_NORMAL);
    qt_fill(&rng, w, 630, QT_NORMAL);
    qkv_pack_desc pack = {
        .size = sizeof pack, .in_features = 9, .num_parts = 1, .part = {{.data = w, .out_features = 70}}};
    qkv_projection_desc d = {.size = sizeof d,
                             .batch = 2,
                             .tokens = 2,
                             .in_features = 9,
                             .num_parts = 1,
                             .x = {x, 18, 0, 9},
                             .packed = case_pack(&set->ctx, &pack),
                             .part = {{.out_features = 70, .out = {y, 140, 0, 70}}}};
    case_run_projection(&set->ctx, &d, 0, 0);
    float *far = sparse(3 * stride_31 + 70);
    d.x = (qkv_input){spread(x, 4, 9, true), -2 * stride_31, 0, -stride_31};
    d.part[0].out = (qkv_output){far, 2 * stride_31, 0, stride_31};
    pack.part[0] = (qkv_weight){.data = spread(w, 9, 70, false), .out_features = 70, .stride = stride_31};
    d.packed = case_pack(&set->ctx, &pack);
    case_run_projection(&set->ctx, &d, 0, 0);
    for (int64_t row = 0; row < 4; row++)
        qt_expect_words("out", y + row * 70, far + row * stride_31, 70, 0);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("attention_without_output_touches_nothing", test_attention_without_output_touches_nothing);
    qt_each_set("no_keys_make_empty_rows", test_no_keys_make_empty_rows);
    qt_each_set("head_dim_zero_is_the_mean_of_v", test_head_dim_zero_is_the_mean_of_v);
    qt_each_set("projection_of_nothing_touches_nothing", test_projection_of_nothing_touches_nothing);
    qt_each_set("an_empty_part_is_skipped", test_an_empty_part_is_skipped);
    qt_each_set("merge_of_nothing_touches_nothing", test_merge_of_nothing_touches_nothing);
    qt_each_set("layer_of_nothing_touches_nothing", test_layer_of_nothing_touches_nothing);
    qt_each_set("a_product_without_elements_reads_nothing", test_a_product_without_elements_reads_nothing);
    qt_each_set("gradients_of_nothing_take_no_time", test_gradients_of_nothing_take_no_time);
    qt_each_set("the_bias_of_no_pair_has_gradient_zero", test_the_bias_of_no_pair_has_gradient_zero);
    qt_each_set("more_than_65536_keys", test_more_than_65536_keys);
    qt_each_set("attention_over_2_to_the_31_elements", test_attention_over_2_to_the_31_elements);
    qt_each_set("projection_over_2_to_the_31_elements", test_projection_over_2_to_the_31_elements);
    return qt_run();
}
