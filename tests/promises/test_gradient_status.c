/* Every status code of the gradients, and that a refusal writes nothing.  SPDX-License-Identifier: MIT */
#include "refusals.h"

/* Addresses belong to the run: a plan gets along with any. Few heads, so that it is cut by what windows leave. */
static void test_a_plan_reads_no_address(void) {
    void *any = (void *)(uintptr_t)64;
    for (uint32_t flags = 0; flags < 8; flags++) {
        const qkv_attention_backward_desc d = {.size = sizeof d,
                                               .grad_q = {any, 0, 0, 8},
                                               .grad_k = {any, 0, 0, 8},
                                               .forward = {.size = sizeof d.forward,
                                                           .batch = 1,
                                                           .num_heads = 1,
                                                           .seq_q = 2000,
                                                           .seq_k = 2000,
                                                           .head_dim = 8,
                                                           .q = {any, 0, 0, 8},
                                                           .k = {any, 0, 0, 8},
                                                           .v = {any, 0, 0, 8},
                                                           .out = {any, 0, 0, 8},
                                                           .lse = {any, 0, 0, 1},
                                                           .flags = flags,
                                                           .left = 100,
                                                           .q_offsets = flags & 1 ? any : NULL,
                                                           .kv_len = flags & 2 ? any : NULL,
                                                           .key_ranges = {any, 0, INT64_C(1) << 40}}};
        qkv_plan plan;
        for (int32_t workers = 1; workers <= 8; workers *= 2)
            assert_int_equal(qkv_attention_backward_plan(&ctx, &d, workers, &plan), QKV_OK);
        assert_int_equal(qkv_attention_plan(&ctx, &d.forward, 8, &plan), QKV_OK);
    }
}

static void test_attention_backward_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    allocate(&rng);
    attention_case c;
    case_plain(&rng, &c, 2, 4, 2, 3, 70, 8, 9);
    c.desc.out.data = case_normal(&rng, 2 * 4 * 3 * 9);
    c.desc.lse.data = case_normal(&rng, 2 * 4 * 3);
    c.desc.bias.data = c.desc.lse.data; /* one number, stride 0 */
    const qkv_attention_backward_desc good = {.size = sizeof good,
                                              .grad_out = {case_normal(&rng, 2 * 4 * 3 * 9), 4 * 27, 27, 9},
                                              .grad_lse = {case_normal(&rng, 24), 12, 3, 1},
                                              .grad_q = {out, 4 * 24, 24, 8},
                                              .grad_k = {out + 200, 1120, 560, 8},
                                              .grad_v = {out + 2440, 1260, 630, 9},
                                              .grad_bias = {lse, 0, 1, 0, 0},
                                              .grad_sinks = lse + 8,
                                              .forward = c.desc};
    COMMON_REFUSALS(attention_backward);
    PLAN_REFUSES(attention_backward, QKV_ERROR_FLAGS, d.flags = QKV_ACCUMULATE_O);
    PLAN_REFUSES(attention_backward, QKV_ERROR_FLAGS, d.flags = QKV_ACCUMULATE | 0x100);
    PLAN_REFUSES(attention_backward, QKV_ERROR_FLAGS, d.reserved = 1);
    PLAN_REFUSES(attention_backward, QKV_ERROR_SIZE, d.forward.size = 8);
    PLAN_REFUSES(attention_backward, QKV_ERROR_FLAGS, d.forward.flags = 8);
    PLAN_REFUSES(attention_backward, QKV_ERROR_FLAGS, d.forward.arithmetic = QKV_ARITHMETIC_INT8);
    PLAN_REFUSES(attention_backward, QKV_ERROR_NEGATIVE, d.forward.seq_q = -1);
    PLAN_REFUSES(attention_backward, QKV_ERROR_HEADS, d.forward.num_kv_heads = 3);
    PLAN_REFUSES(attention_backward, QKV_ERROR_VALUE, d.forward.softcap = -1);
    PLAN_REFUSES(attention_backward, QKV_ERROR_VALUE, d.forward.dropout = 1);
    PLAN_REFUSES(attention_backward, QKV_ERROR_SHAPE,
                 (d.forward.states.data = out, d.forward.out.data = NULL, d.forward.lse.data = NULL));
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.forward.batch = INT64_MAX);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.forward.seq_k = INT64_MAX);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.forward.head_dim_v = INT64_MAX);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW,
                 (d.forward.head_dim = d.forward.seq_q = d.forward.seq_k = 0,
                  d.forward.batch = d.forward.num_heads = INT64_C(1) << 57));
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.grad_out.token = far);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.grad_lse.head = far);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.grad_q.batch = INT64_MIN);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.grad_k.token = -INT64_MAX);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.grad_v.head = far);
    PLAN_REFUSES(attention_backward, QKV_ERROR_OVERFLOW, d.grad_bias.key = far);
    PLAN_REFUSES(attention_backward, QKV_ERROR_STRIDES, d.grad_q.token = 7);
    PLAN_REFUSES(attention_backward, QKV_ERROR_STRIDES, d.grad_k.head = 0);
    PLAN_REFUSES(attention_backward, QKV_ERROR_STRIDES, d.grad_v.batch = 0);
    PLAN_REFUSES(attention_backward, QKV_ERROR_STRIDES, d.grad_bias.query = 3); /* meets, and is not a sum */
    RUN_REFUSES(attention_backward, QKV_ERROR_LSE, d.forward.lse.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_NULL, d.forward.q.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_NULL, d.forward.k.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_NULL, d.forward.v.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_NULL, d.forward.out.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_NULL, d.grad_out.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIGNMENT, d.grad_out.data = shifted(d.grad_out.data, 2));
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIGNMENT, d.grad_lse.data = shifted(d.grad_lse.data, 1));
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIGNMENT, d.grad_q.data = shifted(out, 3));
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIGNMENT, d.forward.lse.data = shifted(d.forward.lse.data, 2));
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.forward.q.data = out);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.forward.v.data = d.grad_k.data);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.grad_out.data = d.grad_v.data);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.grad_lse.data = lse);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.forward.out.data = out);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.forward.lse.data = d.grad_sinks);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.grad_k.data = out);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.forward.bias.data = lse);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.grad_out.data = out + 9);
    RUN_REFUSES(attention_backward, QKV_ERROR_ALIAS, d.grad_v.data = out + 2439);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.flags = QKV_ACCUMULATE);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.grad_q.data = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.grad_sinks = NULL);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.grad_out.token++);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.grad_v.batch++);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.grad_bias.head = 2);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.forward.seq_q--);
    RUN_REFUSES(attention_backward, QKV_ERROR_PLAN, d.forward.q_offsets = (const int64_t *)space);
}

static void test_projection_backward_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    allocate(&rng);
    float *packed = qt_alloc(2 * 10 * QKV_PANEL * sizeof(float), 64, QT_TAIL), *x = case_normal(&rng, 50);
    qt_fill(&rng, packed, 2 * 10 * QKV_PANEL, QT_NORMAL);
    const qkv_projection_backward_desc good = {
        .size = sizeof good,
        .grad_x = {out, 0, 0, 10},
        .grad_out = {{case_normal(&rng, 60), 0, 20, 4}, {case_normal(&rng, 30), 0, 0, 6}},
        .grad = {{.data = out + 100, .bias = lse}, {.data = out + 300, .layout = QKV_OUT_IN, .bias = lse + 20}},
        .forward = {.size = sizeof good.forward,
                    .batch = 1,
                    .tokens = 5,
                    .in_features = 10,
                    .num_parts = 2,
                    .x = {x, 0, 0, 10},
                    .packed = packed,
                    .part = {{.out_features = 12, .head_dim = 4}, {.out_features = 6}}}};
    COMMON_REFUSALS(projection_backward);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.forward.steps[0].norm = d.forward.x.data);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, (d.forward.steps[0].rotate = 1));
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.forward.part[1].type = QKV_F16);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.forward.arithmetic = QKV_ARITHMETIC_INT8);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.flags = QKV_ACCUMULATE_V);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.flags = QKV_ACCUMULATE_PART(2));
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.reserved = 8);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.grad[1].layout = 2);
    PLAN_REFUSES(projection_backward, QKV_ERROR_FLAGS, d.forward.num_parts = 5);
    PLAN_REFUSES(projection_backward, QKV_ERROR_SIZE, d.forward.size = 1);
    PLAN_REFUSES(projection_backward, QKV_ERROR_NEGATIVE, d.forward.tokens = -1);
    PLAN_REFUSES(projection_backward, QKV_ERROR_HEADS, d.forward.part[0].head_dim = 5);
    PLAN_REFUSES(projection_backward, QKV_ERROR_OVERFLOW, d.forward.batch = INT64_MAX);
    PLAN_REFUSES(projection_backward, QKV_ERROR_OVERFLOW, d.forward.in_features = INT64_MAX);
    PLAN_REFUSES(projection_backward, QKV_ERROR_OVERFLOW, d.grad_x.token = far);
    PLAN_REFUSES(projection_backward, QKV_ERROR_OVERFLOW, d.grad_out[0].head = INT64_MIN);
    PLAN_REFUSES(projection_backward, QKV_ERROR_OVERFLOW, d.grad[0].stride = far);
    PLAN_REFUSES(projection_backward, QKV_ERROR_STRIDES, d.grad[0].stride = 11);
    PLAN_REFUSES(projection_backward, QKV_ERROR_STRIDES, d.grad_x.token = 9);
    RUN_REFUSES(projection_backward, QKV_ERROR_NULL, d.forward.x.data = NULL);
    RUN_REFUSES(projection_backward, QKV_ERROR_NULL, d.forward.packed = NULL);
    RUN_REFUSES(projection_backward, QKV_ERROR_NULL, d.grad_out[1].data = NULL);
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIGNMENT, d.forward.packed = shifted(packed, 32));
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIGNMENT, d.grad[0].data = (float *)shifted(out, 402));
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIGNMENT, d.grad_out[0].data = shifted(d.grad_out[0].data, 1));
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIAS, d.forward.x.data = out);
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIAS, d.grad_out[1].data = d.grad[1].data);
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIAS, d.grad[1].bias = lse);
    RUN_REFUSES(projection_backward, QKV_ERROR_ALIAS, d.grad[0].data = out);
    RUN_REFUSES(projection_backward, QKV_ERROR_PLAN, d.grad_x.data = NULL);
    RUN_REFUSES(projection_backward, QKV_ERROR_PLAN, d.grad[0].bias = NULL);
    RUN_REFUSES(projection_backward, QKV_ERROR_PLAN, d.grad[0].layout = QKV_OUT_IN);
    RUN_REFUSES(projection_backward, QKV_ERROR_PLAN, d.flags = QKV_ACCUMULATE);
    RUN_REFUSES(projection_backward, QKV_ERROR_PLAN, d.forward.tokens--);
}

static void layer_backward_finds_no_position(const qkv_layer_backward_desc *of) {
    const qkv_layer_backward_desc good = *of;
    RUN_REFUSES(layer_backward, QKV_ERROR_INDEX, (void)"d.forward.attention.q_offset");
}

static void test_layer_backward_refuses(void) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    allocate(&rng);
    float *x = case_normal(&rng, 100), *w = qt_alloc(3 * 8 * QKV_PANEL * sizeof(float), 64, QT_TAIL);
    qt_fill(&rng, w, 3 * 8 * QKV_PANEL, QT_NORMAL);
    const qkv_layer_backward_desc good = {.size = sizeof good,
                                          .grad_out = {case_normal(&rng, 40), 0, 0, 8},
                                          .grad_x = {out, 0, 0, 8},
                                          .grad_q = {.data = out + 100, .bias = lse},
                                          .grad_k = {.data = out + 200},
                                          .grad_v = {.data = out + 300},
                                          .grad_o = {.data = out + 400, .bias = lse + 8},
                                          .forward = {.size = sizeof good.forward,
                                                      .model_dim = 8,
                                                      .out_features = 8,
                                                      .x = {x, 0, 0, 8},
                                                      .w_qkv = w,
                                                      .w_o = w,
                                                      .attention = {.size = sizeof good.forward.attention,
                                                                    .batch = 1,
                                                                    .num_heads = 2,
                                                                    .seq_q = 5,
                                                                    .seq_k = 5,
                                                                    .head_dim = 4}}};
    COMMON_REFUSALS(layer_backward);
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.flags = QKV_ACCUMULATE_PART(0));
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.reserved = 2);
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.grad_v.layout = 7);
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.forward.wq_type = QKV_BF16);
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.forward.wo_type = QKV_INT8);
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.forward.arithmetic = QKV_ARITHMETIC_INT8);
    PLAN_REFUSES(layer_backward, QKV_ERROR_FLAGS, d.forward.attention.arithmetic = QKV_ARITHMETIC_INT8);
    PLAN_REFUSES(layer_backward, QKV_ERROR_SIZE, d.forward.size = 0);
    PLAN_REFUSES(layer_backward, QKV_ERROR_SIZE, d.forward.attention.size = 0);
    PLAN_REFUSES(layer_backward, QKV_ERROR_NEGATIVE, d.forward.model_dim = -1);
    PLAN_REFUSES(layer_backward, QKV_ERROR_HEADS, d.forward.attention.num_kv_heads = 3);
    PLAN_REFUSES(layer_backward, QKV_ERROR_SHAPE, d.forward.attention.seq_k = 6);
    PLAN_REFUSES(layer_backward, QKV_ERROR_SHAPE, d.forward.w_o = NULL); /* but a gradient of it */
    PLAN_REFUSES(layer_backward, QKV_ERROR_SHAPE,
                 (d.forward.w_qkv = NULL, d.forward.attention.head_dim = 8)); /* likewise */
    PLAN_REFUSES(layer_backward, QKV_ERROR_OVERFLOW, d.forward.model_dim = INT64_MAX);
    PLAN_REFUSES(layer_backward, QKV_ERROR_OVERFLOW, d.grad_out.token = far);
    PLAN_REFUSES(layer_backward, QKV_ERROR_OVERFLOW, d.grad_x.token = far);
    PLAN_REFUSES(layer_backward, QKV_ERROR_OVERFLOW, d.grad_k.stride = far);
    PLAN_REFUSES(layer_backward, QKV_ERROR_SHAPE, d.grad_x_kv = d.grad_x); /* without x_kv */
    PLAN_REFUSES(layer_backward, QKV_ERROR_OVERFLOW,
                 (d.grad_x_kv = d.grad_x, d.grad_x_kv.token = far, d.forward.x_kv = d.forward.x));
    RUN_REFUSES(layer_backward, QKV_ERROR_PLAN, d.forward.x_kv = d.forward.x);
    PLAN_REFUSES(layer_backward, QKV_ERROR_SHAPE, d.grad_norm_q = out); /* without norm_q */
    PLAN_REFUSES(layer_backward, QKV_ERROR_SHAPE, d.grad_norm_k = out);
    PLAN_REFUSES(layer_backward, QKV_ERROR_VALUE, d.forward.norm_epsilon = -1);
    qkv_layer_backward_desc turned = good;
    turned.forward.rope = (qkv_rope){x, x, 3, 4, QKV_ROPE_HALF}; /* five tokens */
    layer_backward_finds_no_position(&turned);
    PLAN_REFUSES(layer_backward, QKV_ERROR_STRIDES, d.grad_o.stride = 7);
    PLAN_REFUSES(layer_backward, QKV_ERROR_STRIDES, d.grad_x.token = 0);
    RUN_REFUSES(layer_backward, QKV_ERROR_NULL, d.forward.x.data = NULL);
    RUN_REFUSES(layer_backward, QKV_ERROR_NULL, d.grad_out.data = NULL);
    RUN_REFUSES(layer_backward, QKV_ERROR_ALIGNMENT, d.forward.w_o = shifted(w, 4));
    RUN_REFUSES(layer_backward, QKV_ERROR_ALIGNMENT, d.grad_q.bias = (float *)shifted(lse, 2));
    RUN_REFUSES(layer_backward, QKV_ERROR_ALIAS, d.forward.x.data = out);
    RUN_REFUSES(layer_backward, QKV_ERROR_ALIAS, d.grad_out.data = d.grad_o.data);
    RUN_REFUSES(layer_backward, QKV_ERROR_ALIAS, d.grad_k.data = d.grad_v.data);
    RUN_REFUSES(layer_backward, QKV_ERROR_PLAN, d.grad_x.data = NULL);
    RUN_REFUSES(layer_backward, QKV_ERROR_PLAN, d.grad_o.data = NULL);
    RUN_REFUSES(layer_backward, QKV_ERROR_PLAN, d.forward.model_dim--);
}

static void test_a_missing_lse_has_a_status_of_its_own(void) {
    QT_EXPECT(reached[QKV_ERROR_LSE], "no call has returned it");
    for (int s = QKV_OK; s < QKV_ERROR_LSE; s++)
        assert_string_not_equal(qkv_status_string((qkv_status)s), qkv_status_string(QKV_ERROR_LSE));
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    if (qkv_init(&ctx, NULL) != QKV_OK)
        return 1;
    qt_once("a_plan_reads_no_address", test_a_plan_reads_no_address);
    qt_once("attention_backward_refuses", test_attention_backward_refuses);
    qt_once("projection_backward_refuses", test_projection_backward_refuses);
    qt_once("layer_backward_refuses", test_layer_backward_refuses);
    if (argc == 1)
        qt_once("a_missing_lse_has_a_status_of_its_own", test_a_missing_lse_has_a_status_of_its_own);
    return qt_run();
}
