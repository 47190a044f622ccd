/* Every status code of every operation, and that a refusal writes nothing: not the plan, not an output, not the
 * workspace.
 *
 * SPDX-License-Identifier: MIT */
#include "refusals.h"

static qkv_attention_desc good_attention(qt_rng *rng) {
    allocate(rng);
    attention_case c;
    case_plain(rng, &c, 2, 4, 2, 3, 70, 8, 9);
    c.desc.out.data = out;
    c.desc.lse.data = lse;
    static const float sinks[4], slopes[4];
    static const int64_t lengths[2] = {70, 70}, offsets[2];
    c.desc.sinks = sinks;
    c.desc.alibi_slopes = slopes;
    c.desc.kv_len = lengths;
    c.desc.q_offsets = offsets;
    return c.desc;
}

static void test_attention_plan_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    const qkv_attention_desc good = good_attention(&rng);
    COMMON_REFUSALS(attention);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.batch = -1);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.num_heads = -1);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.num_kv_heads = -2);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.seq_q = -1);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.seq_k = INT64_MIN);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.head_dim = -64);
    PLAN_REFUSES(attention, QKV_ERROR_NEGATIVE, d.head_dim_v = -1);
    PLAN_REFUSES(attention, QKV_ERROR_HEADS, d.num_kv_heads = 3);
    PLAN_REFUSES(attention, QKV_ERROR_HEADS, d.num_kv_heads = 8);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.flags = 8);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.flags = 0x80000001u);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.reserved = 1);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.scale = NAN);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.scale = INFINITY);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.scale = -INFINITY);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.softcap = NAN);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.softcap = INFINITY);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.softcap = -1);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.dropout = 1);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.dropout = -0.5f);
    PLAN_REFUSES(attention, QKV_ERROR_VALUE, d.dropout = NAN);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.scores_stage = 3);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.scores = ((qkv_matrix_output){out, far, 0, 0, 1}));
    PLAN_REFUSES(attention, QKV_ERROR_SHAPE,
                 (d.states.data = out + 1, d.out.data = NULL, d.lse.data = NULL, d.scores.data = out));
    PLAN_REFUSES(attention, QKV_ERROR_SHAPE, d.states.data = out + 1);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.batch = INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.num_heads = INT64_MAX - 1);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.seq_q = INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.seq_k = INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.head_dim = INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.head_dim_v = INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.q.token = far);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.k.head = -INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.v.batch = INT64_MIN);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.out.token = INT64_MAX);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.lse.head = far);
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.bias = ((qkv_matrix_input){out, far, 0, 0, far}));
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.keep = ((qkv_matrix_input){out, 0, 0, INT64_MAX, 0}));
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, d.probabilities = ((qkv_matrix_output){out, 0, 0, 0, far}));
    PLAN_REFUSES(attention, QKV_ERROR_OVERFLOW, (d.lse.head = far, d.head_dim = d.head_dim_v = 0)); /* no channels */
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.out.token = 0);
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.out.token = d.head_dim_v - 1);
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.out.head = -8);
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.out.batch = 9);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.arithmetic = QKV_ARITHMETIC_BF16 + 1);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.k_means.data = out);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS,
                 (d.k_means.data = out, d.arithmetic = QKV_ARITHMETIC_INT8, d.k_type = QKV_INT8));
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.arithmetic = -1);
    PLAN_REFUSES(attention, QKV_ERROR_FLAGS, d.arithmetic = (INT64_C(1) << 32) + QKV_ARITHMETIC_BF16);
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.lse.token = 0);
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.lse.batch = 4);
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.probabilities = ((qkv_matrix_output){out, 840, 210, 70, 0}));
    PLAN_REFUSES(attention, QKV_ERROR_STRIDES, d.probabilities = ((qkv_matrix_output){out, 840, 210, 69, 1}));
}

static void test_attention_run_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    const qkv_attention_desc good = good_attention(&rng);
    const float values[4] = {0};
    const int64_t lengths[4] = {0};
    RUN_REFUSES(attention, QKV_ERROR_NULL, d.q.data = NULL);
    RUN_REFUSES(attention, QKV_ERROR_NULL, d.k.data = NULL);
    RUN_REFUSES(attention, QKV_ERROR_NULL, d.v.data = NULL);
    RUN_REFUSES(attention, QKV_ERROR_NULL, d.out.data = NULL);
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.q.data = shifted(d.q.data, 1));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.k.data = shifted(d.k.data, 2));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.v.data = shifted(d.v.data, 3));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.out.data = shifted(out, 2));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.lse.data = shifted(lse, 1));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.kv_len = shifted(lengths, 4));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.q_offsets = shifted(lengths, 1));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.sinks = shifted(values, 2));
    RUN_REFUSES(attention, QKV_ERROR_ALIGNMENT, d.alibi_slopes = shifted(values, 2));
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.q.data = out);
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.k.data = out);
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.v.data = lse);
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.lse.data = out);
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.sinks = lse);
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.kv_len = shifted(out, 64 + ((uintptr_t)out & 4)));
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.q.data = out + 9); /* one token later */
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.k.data = out - 8);
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.out.data = (float *)space + 16); /* in the workspace */
    RUN_REFUSES(attention, QKV_ERROR_ALIAS, d.alibi_slopes = out);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.seq_q--);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.lse.data = NULL); /* optional tensors neither appear nor go */
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.keep.data = values);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.seq_k--);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.batch--);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.num_kv_heads = 4);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.head_dim--);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.head_dim_v--);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.scale = 2);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.softcap = 2);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.dropout = 0.5f);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.scores = ((qkv_matrix_output){out, 1 << 24, 1 << 20, 1 << 12, 1}));
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.scores_stage = 2);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.flags = QKV_RIGHT);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.right = 1);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.q_offset = 1);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.q.token++);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.k.head++);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, d.out.batch++);
    RUN_REFUSES(attention, QKV_ERROR_PLAN, {
        const qkv_merge_desc m = {.size = sizeof m};
        assert_int_equal(qkv_merge_plan(&ctx, &m, 1, &plan), QKV_OK);
    });
}

static qkv_projection_desc good_projection(qt_rng *rng) {
    allocate(rng);
    float *packed = qt_alloc(2 * 10 * QKV_PANEL * sizeof(float), 64, QT_TAIL), *x = case_floats(rng, 50);
    qt_fill(rng, packed, 2 * 10 * QKV_PANEL, QT_NORMAL);
    qt_fill(rng, x, 50, QT_NORMAL);
    return (qkv_projection_desc){.size = sizeof(qkv_projection_desc),
                                 .batch = 1,
                                 .tokens = 5,
                                 .in_features = 10,
                                 .num_parts = 2,
                                 .x = {x, 0, 0, 10},
                                 .packed = packed,
                                 .part = {{.out_features = 12, .head_dim = 4, .bias = x, .out = {out, 0, 20, 4}},
                                          {.out_features = 6, .bias = x, .out = {lse, 0, 0, 6}}}};
}

static void test_projection_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    const qkv_projection_desc good = good_projection(&rng);
    COMMON_REFUSALS(projection);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.batch = -1);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.tokens = -1);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.in_features = -1);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.part[1].out_features = -1);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.part[0].head_dim = -4);
    PLAN_REFUSES(projection, QKV_ERROR_HEADS, d.part[0].head_dim = 5);
    PLAN_REFUSES(projection, QKV_ERROR_HEADS, d.part[0].head_dim = 24);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.num_parts = 0);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.num_parts = QKV_MAX_PARTS + 1);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.num_parts = -1);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.batch = INT64_MAX);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.tokens = INT64_MAX);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.in_features = INT64_MAX);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.part[1].out_features = INT64_MAX);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.x.token = far);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.part[0].out.head = INT64_MIN);
    PLAN_REFUSES(projection, QKV_ERROR_STRIDES, d.part[0].out.head = 0);
    PLAN_REFUSES(projection, QKV_ERROR_STRIDES, d.part[1].out.token = 5);
    RUN_REFUSES(projection, QKV_ERROR_NULL, d.x.data = NULL);
    RUN_REFUSES(projection, QKV_ERROR_NULL, d.packed = NULL);
    RUN_REFUSES(projection, QKV_ERROR_NULL, d.part[1].out.data = NULL);
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.x.data = shifted(d.x.data, 1));
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.packed = shifted(d.packed, 32));
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.part[0].out.data = shifted(out, 2));
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.part[0].bias = shifted(d.x.data, 2));
    RUN_REFUSES(projection, QKV_ERROR_ALIAS, d.x.data = out);
    RUN_REFUSES(projection, QKV_ERROR_ALIAS, d.part[1].bias = lse);
    RUN_REFUSES(projection, QKV_ERROR_ALIAS, d.part[1].out.data = out);
    RUN_REFUSES(projection, QKV_ERROR_ALIAS, d.part[1].out.data = out + 3);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.tokens--);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.in_features--);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.num_parts = 1);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.part[0].head_dim = 2);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.part[1].out.token++);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.x.token--);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.part[1].type = QKV_Q6_K + 1);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.part[0].type = -1);
    PLAN_REFUSES(projection, QKV_ERROR_SHAPE, d.part[0].type = QKV_Q4_0); /* 10 inputs */
    PLAN_REFUSES(projection, QKV_ERROR_SHAPE, (d.in_features = 32, d.part[0].type = QKV_Q4_K));
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.arithmetic = 3);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.arithmetic = -1);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.arithmetic = QKV_ARITHMETIC_INT8); /* of floats */
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS,
                 (d.arithmetic = QKV_ARITHMETIC_INT8, d.part[0].type = QKV_INT8, d.part[1].type = QKV_BF16));
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.part[1].type = QKV_F16);
    RUN_REFUSES(projection, QKV_ERROR_FLAGS, d.arithmetic = QKV_ARITHMETIC_INT8);
    qkv_projection_desc d = good;
    qkv_plan plan;
    d.num_parts = 1; /* the inputs fit, but not those of 192 rows in 8 bits */
    d.in_features = INT64_C(1) << 54;
    d.tokens = 200;
    d.part[0].out = (qkv_output){out, 0, 4, 12};
    d.part[0].type = QKV_INT8;
    assert_int_equal(qkv_projection_plan(&ctx, &d, 1, &plan), QKV_OK);
    d.arithmetic = QKV_ARITHMETIC_INT8;
    expect_status(QKV_ERROR_OVERFLOW, qkv_projection_plan(&ctx, &d, 1, &plan), "a workspace beyond memory");
}

static void test_head_steps_refuse(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    qkv_projection_desc good = good_projection(&rng);
    const float *table = good.x.data; /* [5][2] */
    static const int64_t first[1] = {1}, late[1] = {2}, each[5] = {4, 0, 3, 1, 1}, wrong[5] = {4, 0, 5, 1, 1};
    static const int64_t early[1] = {-1};
    good.tokens = 4;
    good.rope = (qkv_rope){table, table + 10, 5, 4, QKV_ROPE_HALF};
    good.steps[0] = (qkv_head_steps){.norm = table, .norm_epsilon = 1e-5f, .rotate = 1, .first_positions = first};
    good.steps[1] = (qkv_head_steps){.rotate = 1, .positions = {each, 0, 1}};
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.steps[0].rotate = 2);
    PLAN_REFUSES(projection, QKV_ERROR_FLAGS, d.rope.layout = 2);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.rope.rotary_dim = -2);
    PLAN_REFUSES(projection, QKV_ERROR_NEGATIVE, d.rope.num_positions = -1);
    PLAN_REFUSES(projection, QKV_ERROR_SHAPE, d.rope.rotary_dim = 3);
    PLAN_REFUSES(projection, QKV_ERROR_SHAPE, d.rope.rotary_dim = 6);
    PLAN_REFUSES(projection, QKV_ERROR_VALUE, d.steps[0].norm_epsilon = -1);
    PLAN_REFUSES(projection, QKV_ERROR_VALUE, d.steps[1].norm_epsilon = NAN);
    PLAN_REFUSES(projection, QKV_ERROR_VALUE, d.steps[0].norm_epsilon = INFINITY);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.rope.num_positions = INT64_MAX);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.steps[1].positions.token = far);
    PLAN_REFUSES(projection, QKV_ERROR_OVERFLOW, d.part[1].head_dim = d.part[1].out_features = 65537);
    RUN_REFUSES(projection, QKV_ERROR_NULL, d.rope.cos = NULL);
    RUN_REFUSES(projection, QKV_ERROR_NULL, d.rope.sin = NULL);
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.rope.sin = shifted(table, 2));
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.steps[0].norm = shifted(table, 1));
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.steps[0].first_positions = shifted(first, 4));
    RUN_REFUSES(projection, QKV_ERROR_ALIGNMENT, d.steps[1].positions.data = shifted(each, 4));
    RUN_REFUSES(projection, QKV_ERROR_ALIAS, d.rope.cos = out);
    RUN_REFUSES(projection, QKV_ERROR_ALIAS, d.steps[0].norm = lse);
    RUN_REFUSES(projection, QKV_ERROR_INDEX, d.steps[0].first_positions = late);
    RUN_REFUSES(projection, QKV_ERROR_INDEX, d.steps[0].first_positions = early);
    RUN_REFUSES(projection, QKV_ERROR_INDEX, d.steps[1].positions.data = wrong);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.rope.num_positions--);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.steps[0].norm = NULL);
    RUN_REFUSES(projection, QKV_ERROR_PLAN, d.steps[0].rotate = 0);
    good.steps[0].first_positions = NULL;
    good.steps[0].first_position = 2;
    RUN_REFUSES(projection, QKV_ERROR_INDEX, (void)"d.steps[0].first_position");
    good.rope.num_positions = 0;
    good.steps[0].first_position = 0;
    RUN_REFUSES(projection, QKV_ERROR_INDEX, (void)"d.steps[0].first_position");
}

static void test_merge_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    allocate(&rng);
    float *part = case_floats(&rng, 1000), *part_lse = case_floats(&rng, 100);
    memset(part, 0, 4000);
    memset(part_lse, 0, 400);
    qkv_merge_desc good = {.size = sizeof good,
                           .batch = 1,
                           .num_heads = 2,
                           .seq_q = 3,
                           .head_dim_v = 4,
                           .num_parts = 2,
                           .part_out = {part, 0, 12, 4},
                           .part_out_stride = 24,
                           .part_lse = {part_lse, 0, 3, 1},
                           .part_lse_stride = 6,
                           .out = {out, 0, 12, 4},
                           .lse = {lse, 0, 3, 1}};
    COMMON_REFUSALS(merge);
    PLAN_REFUSES(merge, QKV_ERROR_NEGATIVE, d.batch = -1);
    PLAN_REFUSES(merge, QKV_ERROR_NEGATIVE, d.num_heads = -1);
    PLAN_REFUSES(merge, QKV_ERROR_NEGATIVE, d.seq_q = -1);
    PLAN_REFUSES(merge, QKV_ERROR_NEGATIVE, d.head_dim_v = -1);
    PLAN_REFUSES(merge, QKV_ERROR_NEGATIVE, d.num_parts = -1);
    PLAN_REFUSES(merge, QKV_ERROR_SHAPE, d.states.data = part);
    PLAN_REFUSES(merge, QKV_ERROR_OVERFLOW, d.num_parts = INT64_MAX);
    PLAN_REFUSES(merge, QKV_ERROR_OVERFLOW, d.head_dim_v = INT64_MAX);
    PLAN_REFUSES(merge, QKV_ERROR_OVERFLOW, (d.part_out.head = 0, d.part_out_stride = INT64_MIN));
    PLAN_REFUSES(merge, QKV_ERROR_OVERFLOW, (d.part_lse.head = 0, d.part_lse_stride = INT64_MAX));
    PLAN_REFUSES(merge, QKV_ERROR_OVERFLOW, d.out.head = far);
    PLAN_REFUSES(merge, QKV_ERROR_STRIDES, d.out.head = 0);
    PLAN_REFUSES(merge, QKV_ERROR_STRIDES, d.lse.head = 2);
    RUN_REFUSES(merge, QKV_ERROR_NULL, d.part_out.data = NULL);
    RUN_REFUSES(merge, QKV_ERROR_NULL, d.part_lse.data = NULL);
    RUN_REFUSES(merge, QKV_ERROR_NULL, d.out.data = NULL);
    RUN_REFUSES(merge, QKV_ERROR_ALIGNMENT, d.part_lse.data = shifted(part_lse, 2));
    RUN_REFUSES(merge, QKV_ERROR_ALIAS, d.part_out.data = out);
    RUN_REFUSES(merge, QKV_ERROR_ALIAS, d.lse.data = out);
    RUN_REFUSES(merge, QKV_ERROR_PLAN, d.num_parts--);
    RUN_REFUSES(merge, QKV_ERROR_PLAN, d.part_out_stride--);
    PLAN_REFUSES(merge, QKV_ERROR_SHAPE, d.state = d.out);
    PLAN_REFUSES(merge, QKV_ERROR_SHAPE, (d.state = d.out, d.out.data = NULL));
    PLAN_REFUSES(merge, QKV_ERROR_SHAPE, (d.state = d.out, d.out.data = d.lse.data = NULL, d.sinks = part));
    good.state = (qkv_output){out, 0, 24, 6};
    good.out.data = good.lse.data = NULL;
    PLAN_REFUSES(merge, QKV_ERROR_STRIDES, d.state.token = 5);
    RUN_REFUSES(merge, QKV_ERROR_ALIAS, d.part_out.data = out);
    RUN_REFUSES(merge, QKV_ERROR_PLAN, d.state.data = NULL);
    RUN_REFUSES(merge, QKV_ERROR_PLAN, d.state.token++);
}

static void test_cross_layer_refuses(const qkv_layer_desc *self, const void *w) {
    qkv_layer_desc good = *self;
    good.x_kv = good.x;
    good.w_kv = w;
    good.attention.seq_k = 4;
    RUN_REFUSES(layer, QKV_ERROR_ALIGNMENT, d.x_kv.data = shifted(d.x_kv.data, 1));
    RUN_REFUSES(layer, QKV_ERROR_ALIGNMENT, d.w_kv = shifted(d.w_kv, 4));
    RUN_REFUSES(layer, QKV_ERROR_ALIAS, d.x_kv.data = out);
    RUN_REFUSES(layer, QKV_ERROR_SHAPE, d.x_kv.data = NULL); /* then w_kv is left over */
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.w_kv = NULL);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.x_kv.token++);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.attention.seq_k--);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.kv_dim = 7);
}

static void test_layer_steps_refuse(const qkv_layer_desc *self) {
    static const int64_t wrong[5] = {0, 1, 2, 9, 3};
    const float *table = self->x.data;
    qkv_layer_desc good = *self;
    good.norm_q = table;
    good.norm_k = table + 4;
    good.norm_epsilon = 1e-6f;
    good.rope = (qkv_rope){table, table + 12, 6, 4, QKV_ROPE_INTERLEAVED};
    good.attention.q_offset = 1;
    PLAN_REFUSES(layer, QKV_ERROR_FLAGS, d.reserved = 1);
    PLAN_REFUSES(layer, QKV_ERROR_FLAGS, d.rope.layout = -1);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.rope.rotary_dim = 1);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.rope.rotary_dim = 8);
    PLAN_REFUSES(layer, QKV_ERROR_NEGATIVE, d.rope.num_positions = -1);
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.positions_k = ((qkv_positions){wrong, 0, far}));
    PLAN_REFUSES(layer, QKV_ERROR_VALUE, d.norm_epsilon = NAN);
    PLAN_REFUSES(layer, QKV_ERROR_VALUE, d.norm_epsilon = -1e-6f);
    RUN_REFUSES(layer, QKV_ERROR_NULL, d.rope.sin = NULL);
    RUN_REFUSES(layer, QKV_ERROR_ALIAS, d.rope.sin = out);
    RUN_REFUSES(layer, QKV_ERROR_ALIAS, d.norm_k = lse);
    RUN_REFUSES(layer, QKV_ERROR_ALIGNMENT, d.norm_q = shifted(table, 1));
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.rope.cos = NULL);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.norm_k = NULL);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.norm_epsilon = 1);
    good.attention.q_offset = 2;
    RUN_REFUSES(layer, QKV_ERROR_INDEX, (void)"d.attention.q_offset");
    good.attention.q_offset = -1;
    RUN_REFUSES(layer, QKV_ERROR_INDEX, (void)"d.attention.q_offset");
    good.attention.q_offset = 0;
    good.rope.num_positions = 4;
    RUN_REFUSES(layer, QKV_ERROR_INDEX, (void)"d.attention");
    good.rope.num_positions = 6;
    good.positions_q = (qkv_positions){wrong, 0, 1};
    RUN_REFUSES(layer, QKV_ERROR_INDEX, (void)"d.positions_q");
    good.positions_k = good.positions_q;
    good.positions_q.data = NULL;
    RUN_REFUSES(layer, QKV_ERROR_INDEX, (void)"d.positions_k");
}

static void test_layer_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    allocate(&rng);
    float *x = case_floats(&rng, 100), *w = qt_alloc(3 * 8 * QKV_PANEL * sizeof(float), 64, QT_TAIL);
    qt_fill(&rng, x, 100, QT_NORMAL);
    qt_fill(&rng, w, 3 * 8 * QKV_PANEL, QT_NORMAL);
    const qkv_layer_desc good = {.size = sizeof good,
                                 .model_dim = 8,
                                 .out_features = 8,
                                 .x = {x, 0, 0, 8},
                                 .w_qkv = w,
                                 .w_o = w,
                                 .bias_o = x,
                                 .out = {out, 0, 0, 8},
                                 .attention = {.size = sizeof good.attention,
                                               .batch = 1,
                                               .num_heads = 2,
                                               .seq_q = 5,
                                               .seq_k = 5,
                                               .head_dim = 4,
                                               .lse = {lse, 0, 5, 1}}};
    COMMON_REFUSALS(layer);
    test_layer_steps_refuse(&good);
    PLAN_REFUSES(layer, QKV_ERROR_SIZE, d.attention.size = 0);
    PLAN_REFUSES(layer, QKV_ERROR_NEGATIVE, d.model_dim = -1);
    PLAN_REFUSES(layer, QKV_ERROR_NEGATIVE, d.out_features = -1);
    PLAN_REFUSES(layer, QKV_ERROR_NEGATIVE, d.attention.head_dim = -1);
    PLAN_REFUSES(layer, QKV_ERROR_HEADS, d.attention.num_kv_heads = 3);
    PLAN_REFUSES(layer, QKV_ERROR_FLAGS, d.attention.flags = 8);
    PLAN_REFUSES(layer, QKV_ERROR_VALUE, d.attention.softcap = -1);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.attention.seq_k = 6);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.attention.q.data = x);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.w_qkv = NULL); /* raw needs head_dim = model_dim */
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, (d.w_o = NULL, d.out_features = 9));
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.bias_o = (d.w_o = NULL, x));
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.model_dim = INT64_MAX);
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.out_features = INT64_MAX);
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.attention.seq_q = d.attention.seq_k = INT64_MAX);
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.attention.head_dim = INT64_MAX);
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.x.token = far);
    PLAN_REFUSES(layer, QKV_ERROR_NEGATIVE, d.kv_dim = -1);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.kv_dim = 9);
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, d.w_kv = w);                   /* without x_kv */
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, (d.kv_dim = 9, d.x_kv = d.x)); /* without w_kv */
    PLAN_REFUSES(layer, QKV_ERROR_SHAPE, (d.w_kv = w, d.x_kv = d.x, d.w_qkv = NULL));
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, (d.x_kv = d.x, d.x_kv.token = far));
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, (d.attention.seq_k = INT64_MAX, d.x_kv = d.x));
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, (d.kv_dim = INT64_MAX, d.x_kv = d.x, d.w_kv = w));
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.x_kv = d.x); /* it neither appears nor goes */
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, d.out.token = far);
    PLAN_REFUSES(layer, QKV_ERROR_OVERFLOW, (d.out.token = far, d.w_o = NULL, d.bias_o = NULL));
    PLAN_REFUSES(layer, QKV_ERROR_STRIDES, d.out.token = 0);
    PLAN_REFUSES(layer, QKV_ERROR_STRIDES, d.attention.lse.token = 0);
    RUN_REFUSES(layer, QKV_ERROR_NULL, d.x.data = NULL);
    RUN_REFUSES(layer, QKV_ERROR_NULL, d.out.data = NULL);
    RUN_REFUSES(layer, QKV_ERROR_ALIGNMENT, d.w_o = shifted(w, 4));
    RUN_REFUSES(layer, QKV_ERROR_ALIGNMENT, d.x.data = shifted(x, 1));
    RUN_REFUSES(layer, QKV_ERROR_ALIAS, d.x.data = out + 8);
    RUN_REFUSES(layer, QKV_ERROR_ALIAS, (d.x.data = out, d.attention.lse.data = out + 2));
    RUN_REFUSES(layer, QKV_ERROR_ALIAS, d.bias_o = out);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.model_dim--);
    RUN_REFUSES(layer, QKV_ERROR_PLAN, (d.w_o = NULL, d.bias_o = NULL));
    RUN_REFUSES(layer, QKV_ERROR_PLAN, d.attention.flags = QKV_RIGHT);
    test_cross_layer_refuses(&good, w);
}

/* One change of a good descriptor, refused by whichever of the three calls `call` is. */
#define PACK_REFUSES(status, call, change)                                                                             \
    do {                                                                                                               \
        qkv_pack_desc d = good;                                                                                        \
        void *packed = room;                                                                                           \
        size_t bytes = 12345;                                                                                          \
        change;                                                                                                        \
        expect_status(status, call, #call " with " #change);                                                           \
        assert_int_equal(bytes, 12345);                                                                                \
        qt_expect_untouched("packed", room);                                                                           \
        qt_expect_untouched("unpacked", out);                                                                          \
        (void)packed;                                                                                                  \
        char text[256];                                                                                                \
        if (strstr(#change, "d."))                                                                                     \
            expect_named("packing", status, #change,                                                                   \
                         strstr(#call, "unpack(") ? qkv_unpack_explain(&d, packed, text, sizeof text)                  \
                                                  : qkv_pack_explain(&d, packed, text, sizeof text));                  \
    } while (0)

static void test_packing_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    allocate(&rng);
    float *w = case_floats(&rng, 6 * 5);
    void *room = qt_alloc(6 * QKV_PANEL * sizeof(float), 64, QT_TAIL);
    const qkv_pack_desc good = {.size = sizeof good,
                                .in_features = 6,
                                .num_parts = 1,
                                .part = {{.data = w, .unpacked = out, .out_features = 5}}};
    PACK_REFUSES(QKV_ERROR_NULL, qkv_packed_size(NULL, &bytes), (void)d);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_packed_size(&d, NULL), (void)d);
    PACK_REFUSES(QKV_ERROR_SIZE, qkv_packed_size(&d, &bytes), d.size = 8);
    PACK_REFUSES(QKV_ERROR_NEGATIVE, qkv_packed_size(&d, &bytes), d.in_features = -1);
    PACK_REFUSES(QKV_ERROR_NEGATIVE, qkv_packed_size(&d, &bytes), d.part[0].out_features = -1);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_packed_size(&d, &bytes), d.num_parts = 0);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_packed_size(&d, &bytes), d.num_parts = 5);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_packed_size(&d, &bytes), d.part[0].layout = 2);
    PACK_REFUSES(QKV_ERROR_OVERFLOW, qkv_packed_size(&d, &bytes), d.in_features = INT64_MAX);
    PACK_REFUSES(QKV_ERROR_OVERFLOW, qkv_packed_size(&d, &bytes), d.part[0].out_features = INT64_MAX);
    PACK_REFUSES(QKV_ERROR_OVERFLOW, qkv_packed_size(&d, &bytes), d.in_features = INT64_C(1) << 58);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_pack(NULL, &d, packed), (void)d);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_pack(&ctx, NULL, packed), (void)d);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_pack(&ctx, &d, packed), packed = NULL);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_pack(&ctx, &d, packed), d.part[0].data = NULL);
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_pack(&ctx, &d, packed), packed = shifted(room, 32));
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_pack(&ctx, &d, packed), d.part[0].data = shifted(w, 1));
    PACK_REFUSES(QKV_ERROR_ALIAS, qkv_pack(&ctx, &d, packed), d.part[0].data = room);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_unpack(NULL, packed), (void)d);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_unpack(&d, packed), packed = NULL);
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_unpack(&d, packed), packed = shifted(room, 4));
    PACK_REFUSES(QKV_ERROR_ALIAS, qkv_unpack(&d, packed), d.part[0].unpacked = room);
    PACK_REFUSES(QKV_ERROR_STRIDES, qkv_unpack(&d, packed), d.part[0].stride = 4);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_packed_file_order(NULL, packed), (void)d);
    PACK_REFUSES(QKV_ERROR_NULL, qkv_packed_file_order(&d, packed), packed = NULL);
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_packed_file_order(&d, packed), packed = shifted(room, 8));
    PACK_REFUSES(QKV_ERROR_NEGATIVE, qkv_packed_file_order(&d, packed), d.part[0].out_features = -1);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_packed_file_order(&d, packed), d.part[0].type = QKV_Q6_K + 1);
    PACK_REFUSES(QKV_ERROR_SHAPE, qkv_packed_file_order(&d, packed), d.part[0].type = QKV_Q5_1);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_packed_size(&d, &bytes), d.part[0].type = QKV_Q6_K + 1);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_packed_size(&d, &bytes), d.part[0].type = -1);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_unpack(&d, packed), d.part[0].type = INT64_MAX);
    PACK_REFUSES(QKV_ERROR_FLAGS, qkv_pack(&ctx, &d, packed), (d.part[0].type = QKV_Q4_0, d.in_features = 32));
    PACK_REFUSES(QKV_ERROR_SHAPE, qkv_pack(&ctx, &d, packed), d.part[0].type = QKV_Q8_0);
    PACK_REFUSES(QKV_ERROR_SHAPE, qkv_unpack(&d, packed), (d.part[0].type = QKV_Q5_K, d.in_features = 32));
    PACK_REFUSES(QKV_ERROR_SHAPE, qkv_pack(&ctx, &d, packed),
                 (d.part[0].type = QKV_Q4_0, d.in_features = 32, d.part[0].layout = QKV_OUT_IN, d.part[0].stride = 40));
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_pack(&ctx, &d, packed),
                 (d.part[0].type = QKV_F16, d.part[0].data = shifted(w, 1)));
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_pack(&ctx, &d, packed),
                 (d.part[0].type = QKV_Q6_K, d.in_features = 256, d.part[0].layout = QKV_OUT_IN,
                  d.part[0].data = shifted(w, 1)));
    PACK_REFUSES(QKV_ERROR_NULL, qkv_pack(&ctx, &d, packed), d.part[0].type = QKV_INT8);
    PACK_REFUSES(QKV_ERROR_ALIAS, qkv_pack(&ctx, &d, packed), (d.part[0].type = QKV_INT8, d.part[0].scales = room));
    PACK_REFUSES(QKV_ERROR_ALIGNMENT, qkv_pack(&ctx, &d, packed),
                 (d.part[0].type = QKV_INT8, d.part[0].scales = shifted(w, 2)));
    float slope = 7;
    expect_status(QKV_ERROR_NEGATIVE, qkv_alibi_slopes(-1, &slope), "-1 heads");
    expect_status(QKV_ERROR_NULL, qkv_alibi_slopes(4, NULL), "no slopes");
    expect_status(QKV_OK, qkv_alibi_slopes(0, NULL), "no heads");
    assert_true(slope == 7);
}

static void test_contexts_refuse(void) {
    qkv_ctx got, before;
    memset(&got, 0xa5, sizeof got);
    memcpy(&before, &got, sizeof got);
    const struct {
        qkv_status want;
        qkv_config config;
    } refused[] = {
        {QKV_ERROR_SIZE, {.size = 0}},
        {QKV_ERROR_SIZE, {.size = sizeof(qkv_config) - 1}},
        {QKV_ERROR_FLAGS, {.size = sizeof(qkv_config), .isa = "ref", .max_isa = "ref"}},
        {QKV_ERROR_ISA_UNKNOWN, {.size = sizeof(qkv_config), .isa = "avx"}},
        {QKV_ERROR_ISA_UNKNOWN, {.size = sizeof(qkv_config), .isa = ""}},
        {QKV_ERROR_ISA_UNKNOWN, {.size = sizeof(qkv_config), .max_isa = "avx5120"}},
#if defined(__x86_64__)
        {QKV_ERROR_ISA_UNAVAILABLE, {.size = sizeof(qkv_config), .isa = "neon"}},
#else
        {QKV_ERROR_ISA_UNAVAILABLE, {.size = sizeof(qkv_config), .isa = "avx2"}},
#endif
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        expect_status(refused[i].want, qkv_init(&got, &refused[i].config), "qkv_init");
    qt_expect_bytes("the context", &before, &got, sizeof got);
    expect_status(QKV_ERROR_NULL, qkv_init(NULL, NULL), "no context");
    qkv_kernel_set set;
    expect_status(QKV_ERROR_NULL, qkv_kernel_set_query(NULL, 0, &set), "no context");
    expect_status(QKV_ERROR_NULL, qkv_kernel_set_query(&ctx, 0, NULL), "no set");
    expect_status(QKV_ERROR_SHAPE, qkv_kernel_set_query(&ctx, -1, &set), "set -1");
    expect_status(QKV_ERROR_SHAPE, qkv_kernel_set_query(&ctx, qkv_num_kernel_sets(), &set), "one too many");
}

/* Has to come last: what the tests above have seen. */
static void test_every_status_was_reached_and_has_a_text(void) {
    for (int s = QKV_OK; s <= QKV_ERROR_CACHE; s++) {
        /* test_gradient_status.c, test_batches.c, test_cache_damage.c */
        const bool elsewhere = s == QKV_ERROR_LSE || s >= QKV_ERROR_INDEX;
        QT_EXPECT(reached[s] || s == QKV_OK || elsewhere, "no call has returned \"%s\"",
                  qkv_status_string((qkv_status)s));
        for (int other = QKV_OK; other < s; other++)
            assert_string_not_equal(qkv_status_string((qkv_status)s), qkv_status_string((qkv_status)other));
    }
    assert_non_null(qkv_status_string((qkv_status)-1));
    assert_non_null(qkv_status_string((qkv_status)1000));
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    if (qkv_init(&ctx, NULL) != QKV_OK)
        return 1;
    qt_once("attention_plan_refuses", test_attention_plan_refuses);
    qt_once("attention_run_refuses", test_attention_run_refuses);
    qt_once("projection_refuses", test_projection_refuses);
    qt_once("head_steps_refuse", test_head_steps_refuse);
    qt_once("merge_refuses", test_merge_refuses);
    qt_once("layer_refuses", test_layer_refuses);
    qt_once("packing_refuses", test_packing_refuses);
    qt_once("contexts_refuse", test_contexts_refuse);
    if (argc == 1)
        qt_once("every_status_was_reached_and_has_a_text", test_every_status_was_reached_and_has_a_text);
    return qt_run();
}
