/* Each gradient accumulates by a bit of its own, whatever the others do.  SPDX-License-Identifier: MIT */
#include "oracle_cases.h"

#include <string.h>

enum { N = 512, MOST = 8 };

/* Runs with every subset of bits: a gradient is what it is when all accumulate, or when none does. */
typedef struct gradients {
    int count;
    uint32_t bit[MOST];
    float *data[MOST];
    float old[N];
} gradients;

static void expect_each(const qt_set *set, gradients *g, void (*run)(const qt_set *set, uint32_t flags)) {
    float want[2][MOST][N];
    for (uint32_t mask = 0; mask < UINT32_C(1) << g->count; mask++) {
        const uint32_t all = (UINT32_C(1) << g->count) - 1, order[2] = {0, all};
        const uint32_t now = mask < 2 ? order[mask] : mask - 1; /* none and all first */
        uint32_t flags = 0;
        for (int i = 0; i < g->count; i++) {
            flags |= now >> i & 1 ? g->bit[i] : 0;
            memcpy(g->data[i], g->old, sizeof g->old);
        }
        run(set, mask == 1 ? QKV_ACCUMULATE : flags);
        for (int i = 0; i < g->count; i++) {
            if (mask < 2)
                memcpy(want[mask][i], g->data[i], sizeof g->old);
            qt_expect_words("gradient", want[now >> i & 1][i], g->data[i], N, 0);
        }
    }
    for (int i = 0; i < g->count; i++)
        assert_true(memcmp(want[0][i], want[1][i], sizeof g->old) != 0);
}

static qkv_attention_backward_desc attention;
static qkv_projection_backward_desc projection;
static qkv_layer_backward_desc layer;

static void run_attention(const qt_set *set, uint32_t flags) {
    attention.flags = flags;
    case_run_attention_backward(&set->ctx, &attention, 2, 0);
}

static void run_projection(const qt_set *set, uint32_t flags) {
    projection.flags = flags;
    case_run_projection_backward(&set->ctx, &projection, 2, 0);
}

static void run_layer(const qt_set *set, uint32_t flags) {
    layer.flags = flags;
    case_run_layer_backward(&set->ctx, &layer, 2, 0);
}

static float *numbers(qt_rng *rng, int64_t n) {
    float *x = qt_alloc((size_t)n * sizeof(float), 64, QT_TAIL);
    qt_fill(rng, x, (size_t)n, QT_NORMAL);
    return x;
}

static void test_each_gradient(const qt_set *set) {
    qt_rng rng;
    if (!qt_case(0, &rng))
        return;
    gradients g = {
        .count = 5,
        .bit = {QKV_ACCUMULATE_Q, QKV_ACCUMULATE_K, QKV_ACCUMULATE_V, QKV_ACCUMULATE_BIAS, QKV_ACCUMULATE_SINKS}};
    qt_fill(&rng, g.old, N, QT_NORMAL);
    for (int i = 0; i < MOST; i++)
        g.data[i] = numbers(&rng, N);
    qkv_attention_desc a = {.size = sizeof a,
                            .batch = 1,
                            .num_heads = 2,
                            .seq_q = 5,
                            .seq_k = 6,
                            .head_dim = 4,
                            .q = {numbers(&rng, 40), 0, 20, 4},
                            .k = {numbers(&rng, 48), 0, 24, 4},
                            .v = {numbers(&rng, 48), 0, 24, 4},
                            .out = {numbers(&rng, 40), 0, 20, 4},
                            .lse = {numbers(&rng, 10), 0, 5, 1},
                            .sinks = numbers(&rng, 2)};
    case_run_attention(&set->ctx, &a, 0, 0);
    attention = (qkv_attention_backward_desc){.size = sizeof attention,
                                              .grad_out = {numbers(&rng, 40), 0, 20, 4},
                                              .grad_q = {g.data[0], 0, 20, 4},
                                              .grad_k = {g.data[1], 0, 24, 4},
                                              .grad_v = {g.data[2], 0, 24, 4},
                                              .grad_bias = {g.data[3], 0, 30, 6, 1},
                                              .grad_sinks = g.data[4],
                                              .forward = a};
    expect_each(set, &g, run_attention);

    const uint32_t parts[] = {QKV_ACCUMULATE_X, QKV_ACCUMULATE_PART(0), QKV_ACCUMULATE_PART(0), QKV_ACCUMULATE_PART(1)};
    projection =
        (qkv_projection_backward_desc){.size = sizeof projection,
                                       .grad_x = {g.data[0], 0, 0, 4},
                                       .grad_out = {{numbers(&rng, 60), 0, 0, 12}, {numbers(&rng, 30), 0, 0, 6}},
                                       .grad = {{.data = g.data[1]}, {.data = g.data[2]}},
                                       .forward = {.size = sizeof projection.forward,
                                                   .batch = 1,
                                                   .tokens = 5,
                                                   .in_features = 4,
                                                   .num_parts = 2,
                                                   .x = {numbers(&rng, 20), 0, 0, 4},
                                                   .packed = numbers(&rng, 2 * 4 * QKV_PANEL),
                                                   .part = {{.out_features = 12}, {.out_features = 6}}}};
    g.count = 3;
    g.bit[0] = parts[0];
    g.bit[1] = parts[1];
    g.bit[2] = parts[3];
    expect_each(set, &g, run_projection);

    a.q = a.k = a.v = (qkv_input){0};
    a.out = a.lse = (qkv_output){0};
    a.seq_k = 5;
    layer = (qkv_layer_backward_desc){.size = sizeof layer,
                                      .grad_out = {numbers(&rng, 40), 0, 0, 8},
                                      .grad_x = {g.data[0], 0, 0, 8},
                                      .grad_q = {.data = g.data[1]},
                                      .grad_k = {.data = g.data[2]},
                                      .grad_v = {.data = g.data[3]},
                                      .grad_o = {.data = g.data[4]},
                                      .grad_bias = {g.data[5], 0, 25, 5, 1},
                                      .grad_sinks = g.data[6],
                                      .forward = {.size = sizeof layer.forward,
                                                  .model_dim = 8,
                                                  .out_features = 8,
                                                  .x = {numbers(&rng, 40), 0, 0, 8},
                                                  .w_qkv = numbers(&rng, 3 * 8 * QKV_PANEL),
                                                  .w_o = numbers(&rng, 8 * QKV_PANEL),
                                                  .attention = a}};
    const uint32_t bits[7] = {QKV_ACCUMULATE_X, QKV_ACCUMULATE_Q,    QKV_ACCUMULATE_K,    QKV_ACCUMULATE_V,
                              QKV_ACCUMULATE_O, QKV_ACCUMULATE_BIAS, QKV_ACCUMULATE_SINKS};
    g.count = 7;
    memcpy(g.bit, bits, sizeof bits);
    expect_each(set, &g, run_layer);
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("each_gradient", test_each_gradient);
    return qt_run();
}
