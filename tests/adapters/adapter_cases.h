/* What an adapter must do: each task once, by workers of the plan, and so the bits of a run in one thread.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ADAPTER_CASES_H
#define ADAPTER_CASES_H

#include "oracle_gradient_cases.h"

#define ADAPTER_TASKS 1000

typedef struct adapter_tally {
    int32_t times[ADAPTER_TASKS], workers, bad_workers;
    int32_t inside[256]; /* tasks that a worker is in */
} adapter_tally;

static void adapter_count(void *arg, int64_t index, int32_t worker) {
    adapter_tally *t = arg;
    if (worker < 0 || worker >= t->workers || __atomic_fetch_add(&t->inside[worker], 1, __ATOMIC_RELAXED) != 0) {
        __atomic_fetch_add(&t->bad_workers, 1, __ATOMIC_RELAXED); /* qt_fail is for the main thread */
        return;
    }
    t->times[index]++; /* plain, so that ThreadSanitizer sees what the loop does not order */
    __atomic_fetch_sub(&t->inside[worker], 1, __ATOMIC_RELAXED);
}

/* Many loops one after the other: threads that come late to one must not take from the next. */
static void adapter_expect_loops(qkv_parallel_for parallel_for, void *pool, int32_t threads) {
    static const int64_t sizes[] = {0, 1, 2, 3, 7, 64, ADAPTER_TASKS};
    for (int round = 0; round < (qt_quick() ? 100 : 1000); round++) {
        adapter_tally t = {.workers = threads};
        const int64_t n = sizes[round % 7];
        parallel_for(pool, n, adapter_count, &t);
        QT_EXPECT(t.bad_workers == 0, "%d threads, loop %d: %d times another worker, or one in two tasks", (int)threads,
                  round, (int)t.bad_workers);
        for (int64_t i = 0; i < ADAPTER_TASKS; i++)
            QT_EXPECT(t.times[i] == (i < n), "%d threads, loop %d of %d: task %d ran %d times", (int)threads, round,
                      (int)n, (int)i, (int)t.times[i]);
    }
}

/* A causal layer with RoPE: [batch][tokens][64]. */
static float *adapter_layer(qt_rng rng, int64_t batch, int64_t tokens, int32_t threads) {
    const qkv_ctx *ctx = &qt_get_set(0)->ctx;
    const int64_t model = 64, dim = 16;
    float *tables = qt_floats((size_t)(tokens * dim), QT_HEAD), *out = case_floats(&rng, batch * tokens * model);
    const qkv_rope_table_desc table = {.size = sizeof table, .num_positions = tokens, .rotary_dim = dim};
    assert_int_equal(qkv_rope_table(&table, tables, tables + tokens * dim / 2), QKV_OK);
    qkv_pack_desc qkv = {.size = sizeof qkv, .in_features = model, .num_parts = 3}, o = qkv;
    for (int p = 0; p < 3; p++)
        qkv.part[p] = (qkv_weight){.data = case_normal(&rng, model * 4 * dim), .out_features = (p ? 2 : 4) * dim};
    o.num_parts = 1;
    o.part[0] = (qkv_weight){.data = case_normal(&rng, 4 * dim * model), .out_features = model};
    const qkv_layer_desc d = {.size = sizeof d,
                              .model_dim = model,
                              .out_features = model,
                              .w_qkv = case_pack(ctx, &qkv),
                              .w_o = case_pack(ctx, &o),
                              .x = {case_normal(&rng, batch * tokens * model), tokens * model, 0, model},
                              .out = {out, tokens * model, 0, model},
                              .rope = {.cos = tables, .sin = tables + tokens * dim / 2, .num_positions = tokens},
                              .attention = {.size = sizeof d.attention,
                                            .batch = batch,
                                            .num_heads = 4,
                                            .num_kv_heads = 2,
                                            .seq_q = tokens,
                                            .seq_k = tokens,
                                            .head_dim = dim,
                                            .flags = QKV_RIGHT}};
    case_run_layer(ctx, &d, threads, 0);
    return case_gather(&d.out, batch, 1, tokens, model);
}

/* Attention, its gradients and a layer. The adapter's pool is NULL where it is the plan. */
static void adapter_expect_bits(qkv_parallel_for parallel_for, void *pool, int32_t threads) {
    const qkv_ctx *ctx = &qt_get_set(0)->ctx;
    case_run_by(parallel_for, pool);
    for (uint64_t i = 0; i < case_count(60); i++) {
        qt_rng rng;
        if (!qt_case(i, &rng))
            continue;
        attention_case c;
        case_attention(&rng, 1000000, &c);
        const case_results one = case_run(ctx, &c, 0, 0), many = case_run(ctx, &c, threads, 0);
        case_expect_same("the adapter's threads", &c, &one, &many);

        gradient_case g;
        gradient_draw(&rng, 300000, &g);
        gradient_run_forward(&g);
        const gradient_results one_gradient = gradient_run(ctx, &g, 0, 0);
        const gradient_results many_gradients = gradient_run(ctx, &g, threads, 0);
        gradient_expect_same("the adapter's threads", &g, &one_gradient, &many_gradients);

        const int64_t batch = qt_range(&rng, 1, 2), tokens = qt_range(&rng, 1, 300);
        qt_describe("a layer: B=%d S=%d", (int)batch, (int)tokens);
        const float *one_layer = adapter_layer(rng, batch, tokens, 0);
        const float *many_layers = adapter_layer(rng, batch, tokens, threads);
        qt_expect_words("layer", one_layer, many_layers, (size_t)(batch * tokens * 64), 0);
    }
    case_run_by(NULL, NULL);
}

#endif
