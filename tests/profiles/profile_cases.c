/* What a build that leaves parts out (src/config.h) still computes, and refuses. Every option of attention, projection,
 * layer and cache by itself, on each kernel set that runs here: a line with the hash of its result, the same in every
 * build, or "left out". Whether it may be, is asked of config.h, with which this program is compiled.
 *
 *   cc -Isrc -Iinclude -DQKV_NO_… profile_cases.c libqkv.a && ./a.out       status 1: something else than that
 *
 * SPDX-License-Identifier: MIT */
#include "config.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qkv.h"

enum { HEADS = 4, KV_HEADS = 2, TOKENS = 70, DIM = 32, MODEL = HEADS * DIM, PAGE = 64, PAGES = 2 };

static float q[HEADS][TOKENS][DIM], k[KV_HEADS][TOKENS][DIM], v[KV_HEADS][TOKENS][DIM], out[HEADS][TOKENS][DIM];
static float weights[MODEL][MODEL], result[TOKENS][MODEL], matrix[HEADS][TOKENS][TOKENS];
static float scales[MODEL], lse[HEADS][TOKENS], slopes[HEADS], tables[2][TOKENS][DIM / 2], norm[DIM];
static float states[HEADS][TOKENS][DIM + 2];
static uint8_t keep[TOKENS], bytes[1 << 18];
static int64_t ranges[TOKENS][2], starts[3] = {0, 30, TOKENS};
static int32_t pages[1] = {1};
static _Alignas(64) unsigned char packed[1 << 18], packed_o[1 << 18], workspace[1 << 22];
static int failed;
static const char *set;

static uint32_t state;

static void draw(void *to, size_t n) { /* floats in ±1 */
    float *x = to;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)(state & 0xffffff00) * 0x1p-31f;
    }
}

static uint32_t hash(const void *data, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 16777619u;
    return h;
}

/* there: whether this build has it. */
static void report(const char *name, bool there, qkv_status status, const void *data, size_t n) {
    const bool right = there ? status == QKV_OK : status == QKV_ERROR_LEFT_OUT;
    if (status == QKV_OK)
        printf("%s %s %08x\n", set, name, (unsigned)hash(data, n));
    else
        printf("%s %s %s\n", set, name, status == QKV_ERROR_LEFT_OUT ? "left out" : "refused");
    if (!right)
        fprintf(stderr, "%s: status %d, and this build %s it\n", name, (int)status, there ? "has" : "lacks");
    failed |= !right;
}

#define RUN(operation, workers)                                                                                        \
    qkv_plan plan;                                                                                                     \
    qkv_status status = qkv_##operation##_plan(ctx, desc, workers, &plan);                                             \
    if (status == QKV_OK && plan.workspace_size > sizeof workspace)                                                    \
        status = QKV_ERROR_WORKSPACE;                                                                                  \
    if (status == QKV_OK)                                                                                              \
        status = qkv_##operation##_run(&plan, desc, workspace, sizeof workspace);                                      \
    return status

static qkv_status attend(const qkv_ctx *ctx, const qkv_attention_desc *desc, int32_t workers) {
    memset(out, 0, sizeof out);
    RUN(attention, workers);
}

static qkv_status project(const qkv_ctx *ctx, const qkv_projection_desc *desc) {
    memset(result, 0, sizeof result);
    RUN(projection, 1);
}

static qkv_attention_desc plain(void) {
    return (qkv_attention_desc){.size = sizeof(qkv_attention_desc),
                                .batch = 1,
                                .num_heads = HEADS,
                                .num_kv_heads = KV_HEADS,
                                .seq_q = TOKENS,
                                .seq_k = TOKENS,
                                .head_dim = DIM,
                                .q = {q, .head = TOKENS * DIM, .token = DIM},
                                .k = {k, .head = TOKENS * DIM, .token = DIM},
                                .v = {v, .head = TOKENS * DIM, .token = DIM},
                                .out = {out, .head = TOKENS * DIM, .token = DIM}};
}

#define ATTEND(name, there, ...)                                                                                       \
    do {                                                                                                               \
        qkv_attention_desc d = plain();                                                                                \
        __VA_ARGS__;                                                                                                   \
        report("attention, " name, there, attend(ctx, &d, 1), out, sizeof out);                                        \
    } while (0)

static void attention_cases(const qkv_ctx *ctx) {
    ATTEND("full", true, (void)d);
    ATTEND("causal", true, d.flags = QKV_RIGHT);
    ATTEND("window", true, d.flags = QKV_RIGHT | QKV_LEFT; d.left = 9);
    ATTEND("sinks, kv_len", true, d.sinks = slopes; d.kv_len = &starts[1]);
    ATTEND("q_type", QKV_WITH(STORED), d.q.data = bytes; d.q_type = QKV_F16);
    ATTEND("k_type", QKV_WITH(STORED), d.k.data = bytes; d.k_type = QKV_BF16);
    ATTEND("v_type", QKV_WITH(STORED), d.v.data = bytes; d.v_type = QKV_INT8;
           d.v_scales = (qkv_input){scales, 0, 0, 1});
    ATTEND("out_type", QKV_WITH(STORED), d.out_type = QKV_F16);
    ATTEND("page_table", QKV_WITH(PAGES), d.page_table = pages; d.page_tokens = PAGE; d.num_pages = PAGES;
           d.seq_k = PAGE; d.k = d.v = (qkv_input){matrix, KV_HEADS * PAGE * DIM, PAGE * DIM, DIM});
    ATTEND("q_start", QKV_WITH(PAGES), d.batch = 2; d.q_start = starts; d.k_start = starts);
    ATTEND("panels", QKV_WITH(PAGES), d.k_layout = QKV_KEY_PANELS; d.k = (qkv_input){matrix, 0, 2 * PAGE * DIM, 0});
    ATTEND("keep", QKV_WITH(MASKS), d.keep = (qkv_matrix_input){keep, 0, 0, 0, 1});
    ATTEND("bias", QKV_WITH(MASKS), d.bias = (qkv_matrix_input){matrix, 0, TOKENS * TOKENS, TOKENS, 1});
    ATTEND("key_ranges", QKV_WITH(MASKS), d.key_ranges = (qkv_ranges){&ranges[0][0], 0, 2});
    ATTEND("alibi_slopes", QKV_WITH(MASKS), d.alibi_slopes = slopes);
    ATTEND("softcap", QKV_WITH(MASKS), d.softcap = 2);
    ATTEND("first_tokens", QKV_WITH(MASKS), d.flags = QKV_RIGHT | QKV_LEFT; d.left = 9; d.first_tokens = 3);
    ATTEND("dropout", QKV_WITH(DROPOUT), d.dropout = 0.25f);
    ATTEND("bfloat16", QKV_WITH(BF16), d.arithmetic = QKV_ARITHMETIC_BF16);
    ATTEND("scores in 8 bits", QKV_WITH(BF16) && QKV_WITH(QUANTIZED), d.arithmetic = QKV_ARITHMETIC_INT8);

    qkv_attention_desc d = plain();
    d.lse = (qkv_output){lse, .head = TOKENS, .token = 1};
    report("attention, lse", true, attend(ctx, &d, 1), lse, sizeof lse);
    d = plain();
    report("attention, three workers", QKV_WITH(WORKERS), attend(ctx, &d, 3), out, sizeof out);
    d.scores = (qkv_matrix_output){matrix, 0, TOKENS * TOKENS, TOKENS, 1};
    report("attention, scores", QKV_WITH(SCORES), attend(ctx, &d, 1), matrix, sizeof matrix);
    d = plain();
    d.probabilities = (qkv_matrix_output){matrix, 0, TOKENS * TOKENS, TOKENS, 1};
    report("attention, probabilities", QKV_WITH(SCORES), attend(ctx, &d, 1), matrix, sizeof matrix);
    d = plain();
    d.out.data = NULL;
    d.states = (qkv_matrix_output){states, 0, TOKENS * (DIM + 2), DIM + 2, 0};
    report("attention, states", QKV_WITH(MERGE), attend(ctx, &d, 1), states, sizeof states);
#if !QKV_WITH(CHECKS)
    return;
#endif
    d = plain();
    d.v.data = NULL;
    report("attention, without v: refused", false, attend(ctx, &d, 1) == QKV_ERROR_NULL ? QKV_ERROR_LEFT_OUT : QKV_OK,
           NULL, 0);
}

static void pack(const qkv_ctx *ctx, const char *name, bool there, int64_t type, const void *data, int64_t parts,
                 void *to) {
    qkv_pack_desc d = {.size = sizeof d, .in_features = MODEL, .num_parts = parts};
    for (int64_t i = 0; i < parts; i++)
        d.part[i] = (qkv_weight){
            .data = data, .out_features = MODEL / parts, .layout = QKV_OUT_IN, .type = type, .scales = scales};
    size_t size = 0;
    qkv_status status = qkv_packed_size(&d, &size);
    if (status == QKV_OK)
        status = size > sizeof packed ? QKV_ERROR_WORKSPACE : qkv_pack(ctx, &d, to);
    report(name, there, status, to, size);
}

static void projection_case(const qkv_ctx *ctx, const char *name, bool there, int64_t type, int64_t arithmetic,
                            qkv_head_steps steps) {
    qkv_projection_desc d = {.size = sizeof d,
                             .batch = 1,
                             .tokens = TOKENS,
                             .in_features = MODEL,
                             .num_parts = 1,
                             .x = {q, .token = MODEL},
                             .packed = packed,
                             .part = {{MODEL, DIM, NULL, {result, .head = DIM, .token = MODEL}, type}},
                             .steps = {steps},
                             .rope = {tables[0][0], tables[1][0], TOKENS, DIM, QKV_ROPE_HALF},
                             .arithmetic = arithmetic};
    report(name, there, project(ctx, &d), result, sizeof result);
}

static void projection_cases(const qkv_ctx *ctx) {
    const qkv_head_steps none = {0}, rope = {.rotate = 1}, rms = {.norm = norm, .norm_epsilon = 1e-5f};
    const bool quantized = QKV_WITH(QUANTIZED), blocks = QKV_WITH(BLOCKS), stored = QKV_WITH(STORED);
    pack(ctx, "pack, F32", true, QKV_F32, weights, 1, packed);
    projection_case(ctx, "projection, F32", true, QKV_F32, QKV_ARITHMETIC_F32, none);
    projection_case(ctx, "projection, bfloat16", QKV_WITH(BF16), QKV_F32, QKV_ARITHMETIC_BF16, none);
    projection_case(ctx, "projection, RoPE", QKV_WITH(ROPE), QKV_F32, QKV_ARITHMETIC_F32, rope);
    projection_case(ctx, "projection, QK-norm", QKV_WITH(ROPE), QKV_F32, QKV_ARITHMETIC_F32, rms);
    pack(ctx, "pack, F16", stored, QKV_F16, bytes, 1, packed);
    projection_case(ctx, "projection, F16", stored, QKV_F16, QKV_ARITHMETIC_F32, none);
    pack(ctx, "pack, INT8", quantized, QKV_INT8, bytes, 1, packed);
    projection_case(ctx, "projection, INT8", quantized, QKV_INT8, QKV_ARITHMETIC_F32, none);
    projection_case(ctx, "projection, INT8 in 8 bits", quantized, QKV_INT8, QKV_ARITHMETIC_INT8, none);
    pack(ctx, "pack, Q4_0", blocks, QKV_Q4_0, bytes, 1, packed);
    projection_case(ctx, "projection, Q4_0", blocks, QKV_Q4_0, QKV_ARITHMETIC_F32, none);
    projection_case(ctx, "projection, Q4_0 in 8 bits", blocks, QKV_Q4_0, QKV_ARITHMETIC_INT8, none);
}

#if QKV_WITH(LAYER)
static void layer_case(const qkv_ctx *ctx) {
    qkv_pack_desc p = {.size = sizeof p, .in_features = MODEL, .num_parts = 3};
    for (int i = 0; i < 3; i++)
        p.part[i] = (qkv_weight){.data = weights, .out_features = i == 0 ? MODEL : KV_HEADS * DIM, .stride = MODEL};
    qkv_pack(ctx, &p, packed);
    qkv_layer_desc d = {.size = sizeof d,
                        .model_dim = MODEL,
                        .out_features = MODEL,
                        .x = {q, .token = MODEL},
                        .w_qkv = packed,
                        .w_o = packed_o,
                        .out = {result, .token = MODEL},
                        .attention = {.size = sizeof d.attention,
                                      .batch = 1,
                                      .num_heads = HEADS,
                                      .num_kv_heads = KV_HEADS,
                                      .seq_q = TOKENS,
                                      .seq_k = TOKENS,
                                      .head_dim = DIM}};
    const qkv_layer_desc *desc = &d;
    qkv_plan plan;
    qkv_status status = qkv_layer_plan(ctx, desc, 1, &plan);
    if (status == QKV_OK)
        status = qkv_layer_run(&plan, desc, workspace, sizeof workspace);
    report("layer", true, status, result, sizeof result);
    d.norm_q = norm;
    report("layer, QK-norm", QKV_WITH(ROPE), qkv_layer_plan(ctx, desc, 1, &plan), &plan.num_phases, 4);
#if QKV_WITH(BACKWARD)
    qkv_layer_backward_desc b = {
        .size = sizeof b, .grad_out = {q, .token = MODEL}, .grad_x = {result, .token = MODEL}, .forward = d};
    b.forward.norm_q = NULL;
    status = qkv_layer_backward_plan(ctx, &b, 1, &plan);
    if (status == QKV_OK)
        status = qkv_layer_backward_run(&plan, &b, workspace, sizeof workspace);
    report("layer, gradients", true, status, result, sizeof result);
#endif
}
#endif

#if QKV_WITH(BACKWARD)
static qkv_status differentiate(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc) {
    RUN(attention_backward, 1);
}

static void backward_cases(const qkv_ctx *ctx) {
    qkv_attention_backward_desc d = {.size = sizeof d,
                                     .grad_out = {q, .head = TOKENS * DIM, .token = DIM},
                                     .grad_q = {result, .head = TOKENS * DIM, .token = DIM},
                                     .forward = plain()};
    d.forward.lse = (qkv_output){lse, .head = TOKENS, .token = 1};
    attend(ctx, &d.forward, 1);
    report("attention, gradients", true, differentiate(ctx, &d), result, sizeof result);
    d.forward.arithmetic = QKV_ARITHMETIC_BF16;
    report("attention, gradients in bfloat16", QKV_WITH(BF16), differentiate(ctx, &d), result, sizeof result);
}
#endif

#if QKV_WITH(CACHE)
static _Alignas(64) unsigned char cache[1 << 18];

static void cache_case(const qkv_ctx *ctx) {
    qkv_cache_desc c = {.size = sizeof c,
                        .num_sequences = 1,
                        .max_tokens = TOKENS,
                        .num_kv_heads = KV_HEADS,
                        .head_dim = DIM,
                        .k_type = QKV_F16,
                        .v_type = QKV_F16};
    qkv_status status = qkv_cache_init(&c, cache, sizeof cache);
    if (status == QKV_OK)
        status = qkv_cache_append(ctx, cache, 0, TOKENS, (qkv_input){k, .head = TOKENS * DIM, .token = DIM},
                                  (qkv_input){v, .head = TOKENS * DIM, .token = DIM});
    qkv_attention_desc d = plain();
    d.flags = QKV_RIGHT | QKV_FROM_END;
    if (status == QKV_OK)
        status = qkv_cache_attach(cache, 0, &d);
    if (status == QKV_OK)
        status = attend(ctx, &d, 1);
    report("attention, cache", true, status, out, sizeof out);
}
#endif

int main(void) {
    qkv_ctx any;
    if (qkv_init(&any, NULL) != QKV_OK)
        return 2;
    for (int32_t i = 0; i < qkv_num_kernel_sets(); i++) {
        qkv_kernel_set found;
        qkv_ctx ctx;
        qkv_config config = {.size = sizeof config};
        qkv_kernel_set_query(&any, i, &found);
        config.isa = set = found.name;
        if (!found.available || qkv_init(&ctx, &config) != QKV_OK)
            continue;
        state = 1;
        draw(q, sizeof q / 4), draw(k, sizeof k / 4), draw(v, sizeof v / 4), draw(weights, sizeof weights / 4);
        draw(matrix, sizeof matrix / 4), draw(tables, sizeof tables / 4), draw(norm, DIM), draw(slopes, HEADS);
        for (int x = 0; x < MODEL; x++)
            scales[x] = 0.01f;
        for (size_t x = 0; x < sizeof bytes; x++) /* halves in ±2, scales of blocks among them */
            bytes[x] = (uint8_t)(x * 37 % 64 + (x & 1 ? x % 3 == 0 ? 128 : 0 : 0));
        for (int x = 0; x < TOKENS; x++) {
            keep[x] = x % 3 != 0;
            ranges[x][0] = x / 2;
            ranges[x][1] = x / 2 + 20;
        }
        attention_cases(&ctx);
        projection_cases(&ctx);
        pack(&ctx, "pack, Wo", true, QKV_F32, weights, 1, packed_o);
#if QKV_WITH(LAYER)
        layer_case(&ctx);
#endif
#if QKV_WITH(BACKWARD)
        backward_cases(&ctx);
#endif
#if QKV_WITH(CACHE)
        cache_case(&ctx);
#endif
    }
    return failed;
}
