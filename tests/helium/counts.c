/* How many instructions an emulated Cortex-M55 takes for the parts of a small layer (32 tokens, model 64, 4 heads of
 * 16) and for all of it, by each kernel set. SysTick counts virtual nanoseconds, one an instruction
 * (ICOUNT=1, an547.sh).
 *
 * SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 32, MODEL = 64, HEADS = 4, HEAD = 16, PANEL = 64 };

/* What one would write. Before config.h, so that the compiler may do what it likes: vectors of floats that flush. */
__attribute__((optimize("O3"), noinline)) static void plain_product(float *restrict c, const float *restrict a,
                                                                    const float *restrict b) {
    for (int i = 0; i < TOKENS; i++) {
        for (int j = 0; j < MODEL; j++)
            c[i * MODEL + j] = 0;
        for (int x = 0; x < MODEL; x++) {
            for (int j = 0; j < MODEL; j++)
                c[i * MODEL + j] += a[i * MODEL + x] * b[x * MODEL + j];
        }
    }
}
__attribute__((optimize("O3"), noinline)) static void plain_dots(float *restrict c, const float *restrict a,
                                                                 const float *restrict b) {
    for (int i = 0; i < TOKENS; i++) {
        for (int j = 0; j < MODEL; j++) {
            float sum = 0;
            for (int x = 0; x < MODEL; x++)
                sum += a[i * MODEL + x] * b[j * MODEL + x];
            c[i * MODEL + j] = sum;
        }
    }
}
__attribute__((optimize("O3"), noinline)) static void plain_int8(float *restrict c, const int8_t *restrict a,
                                                                 const int8_t *restrict b, float scale) {
    for (int i = 0; i < TOKENS; i++) {
        for (int j = 0; j < MODEL; j++) {
            int32_t sum = 0;
            for (int x = 0; x < MODEL; x++)
                sum += a[i * MODEL + x] * b[j * MODEL + x];
            c[i * MODEL + j] = scale * (float)sum;
        }
    }
}

#include "qkv.h"

#include "kernels/kernels.h"

/* ------------------------------------------------------------------------------------------------------- counting */

enum { TICK_PS = 31250, TIMES = 8 }; /* SysTick at 32 MHz */
static volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010;

static uint32_t ticks(void) {
    return systick[2];
}

/* Instructions of the statement, which runs once before. */
#define COUNT(statement)                                                                                               \
    do {                                                                                                               \
        statement;                                                                                                     \
        const uint32_t before = ticks();                                                                               \
        for (int time = 0; time < TIMES; time++) {                                                                     \
            statement;                                                                                                 \
        }                                                                                                              \
        const uint32_t taken = (before - ticks()) & 0xffffff;                                                          \
        printf(" %9lu", (unsigned long)((uint64_t)taken * TICK_PS / (1000 * TIMES)));                                  \
    } while (0)

/* ------------------------------------------------------------------------------------------------------- operands */

static _Alignas(64) float a[TOKENS * MODEL], b[MODEL * PANEL], c[TOKENS * PANEL], t[TOKENS * PANEL], m[16], l[16];
static _Alignas(64) float keys[TOKENS * MODEL], panel[MODEL * PANEL], scales[PANEL], ones[PANEL];
static _Alignas(64) unsigned char weights[2][64 * 1024], workspace[256 * 1024];
static int8_t bytes[MODEL * MODEL];
static qkv_terms terms[2 * TOKENS];

static float draw(void) {
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return (float)(int32_t)state * 0x1p-31f;
}

static void check(qkv_status status, const char *what) {
    if (status != QKV_OK) {
        printf("%s: %s\n", what, qkv_status_string(status));
        exit(1);
    }
}

/* ---------------------------------------------------------------------------------------------------------- layers */

/* [out][in] of such a type, packed; Q8_0 from bytes and a scale. */
static void pack_weights(const qkv_ctx *ctx, unsigned char *to, int parts, int64_t type) {
    enum { BLOCK = 34 };
    static unsigned char stored[MODEL * MODEL * 4];
    qkv_pack_desc d = {.size = sizeof d, .in_features = MODEL, .num_parts = parts};
    for (size_t i = 0; i < sizeof stored / 4; i++) {
        const float x = draw() / 8;
        memcpy(stored + 4 * i, &x, 4);
    }
    for (size_t i = 0; type == QKV_Q8_0 && i < MODEL * MODEL / 32; i++) {
        const uint16_t scale = 0x1400; /* 2⁻¹⁰ */
        memcpy(stored + BLOCK * i, &scale, 2);
        for (int x = 0; x < 32; x++)
            stored[BLOCK * i + 2 + (size_t)x] = (unsigned char)(int8_t)(127 * draw());
    }
    for (int i = 0; i < parts; i++)
        d.part[i] = (qkv_weight){.data = stored, .out_features = MODEL, .layout = QKV_OUT_IN, .type = type};
    size_t size;
    check(qkv_packed_size(&d, &size), "qkv_packed_size");
    check(size <= sizeof weights[0] ? qkv_pack(ctx, &d, to) : QKV_ERROR_OVERFLOW, "qkv_pack");
}

static void count_layer(const qkv_ctx *ctx, int64_t type, int64_t projections, int64_t attention) {
    pack_weights(ctx, weights[0], 3, type);
    pack_weights(ctx, weights[1], 1, type);
    qkv_layer_desc d = {.size = sizeof d,
                        .model_dim = MODEL,
                        .out_features = MODEL,
                        .x = {a, .token = MODEL},
                        .w_qkv = weights[0],
                        .w_o = weights[1],
                        .out = {c, .token = MODEL},
                        .wq_type = (int32_t)type,
                        .wk_type = (int32_t)type,
                        .wv_type = (int32_t)type,
                        .wo_type = (int32_t)type,
                        .arithmetic = projections};
    d.attention = (qkv_attention_desc){.size = sizeof d.attention,
                                       .batch = 1,
                                       .num_heads = HEADS,
                                       .num_kv_heads = HEADS,
                                       .seq_q = TOKENS,
                                       .seq_k = TOKENS,
                                       .head_dim = HEAD,
                                       .head_dim_v = HEAD,
                                       .arithmetic = attention};
    qkv_plan plan;
    check(qkv_layer_plan(ctx, &d, 1, &plan), "qkv_layer_plan");
    check(plan.workspace_size <= sizeof workspace ? QKV_OK : QKV_ERROR_OVERFLOW, "the workspace");
    COUNT(check(qkv_layer_run(&plan, &d, workspace, sizeof workspace), "qkv_layer_run"));
}

/* ----------------------------------------------------------------------------------------------------------- parts */

static void scores_in_8_bits(const qkv_kernels *k) {
    const ptrdiff_t ld = MODEL;
    const size_t words = (size_t)(HEAD * k->int8_bytes + 3) / 4;
    memcpy(t, a, sizeof a);
    memcpy(keys, a, sizeof a);
    k->rows_int8(t, ld, scales, t, ld * 4, QKV_F32, TOKENS, HEAD, NULL, 0);
    k->rows_int8(keys, ld, scales, keys, ld * 4, QKV_F32, TOKENS, HEAD, NULL, 1);
    k->pack(panel, keys, ld, TOKENS, words);
}

static void count_set(const char *name) {
    qkv_ctx ctx;
    const qkv_config config = {.size = sizeof config, .isa = name};
    check(qkv_init(&ctx, &config), name);
    const qkv_kernels *k = ctx.kernels;
    printf("%-9s", name);
    COUNT(k->gemm(c, PANEL, a, MODEL, b, PANEL, PANEL, TOKENS, MODEL, MODEL, 0, NULL));
    pack_weights(&ctx, weights[0], 1, QKV_Q8_0);
    COUNT(k->quantize_rows(terms, TOKENS, a, MODEL, TOKENS, MODEL));
    COUNT(k->gemm_weights(c, PANEL, terms, TOKENS, weights[0], QKV_Q8_0, TOKENS, MODEL, MODEL));
    COUNT(k->gemm(c, PANEL, a, MODEL, b, PANEL, PANEL, TOKENS, TOKENS, HEAD, 0, NULL));
    COUNT(scores_in_8_bits(k));
    COUNT(k->gemm_int8(c, PANEL, t, MODEL, 0, panel, TOKENS, TOKENS, HEAD, 0, NULL));
    COUNT(k->scale_scores(c, PANEL, TOKENS, TOKENS, ones, scales, scales));
    COUNT(for (int i = 0; i < TOKENS; i += 16) {
        memcpy(c, a, 16 * sizeof(float) * PANEL);
        k->softmax(c, PANEL, 16, TOKENS, m, l);
    });
    printf("\n%-9s", "  layers");
    count_layer(&ctx, QKV_F32, QKV_ARITHMETIC_F32, QKV_ARITHMETIC_F32);
    count_layer(&ctx, QKV_Q8_0, QKV_ARITHMETIC_INT8, QKV_ARITHMETIC_F32);
    count_layer(&ctx, QKV_Q8_0, QKV_ARITHMETIC_INT8, QKV_ARITHMETIC_INT8);
    printf("\n");
}

int main(void) {
    systick[1] = 0xffffff;
    systick[2] = 0;
    systick[0] = 5; /* the CPU's clock, no interrupt */
    for (int i = 0; i < TOKENS * MODEL; i++)
        a[i] = draw();
    for (int i = 0; i < MODEL * PANEL; i++)
        b[i] = draw();
    for (int i = 0; i < MODEL * MODEL; i++)
        bytes[i] = (int8_t)(127 * draw());
    for (int i = 0; i < PANEL; i++)
        ones[i] = 1;
    printf("32x64 by 64x64: f32, quantising, int8 weights; 32x32x16: f32 scores, int8 operands, int8 products,\n"
           "scaling; softmax of 32x32. Layers: f32; int8 weights; int8 scores as well.\n");
    count_set("helium");
    count_set("portable");
    count_set("ref");
    printf("plain     f32 i-k-j, i-j-k; int8:");
    COUNT(plain_product(c, a, b));
    COUNT(plain_dots(c, a, b));
    COUNT(plain_int8(c, bytes, bytes, 0.5f));
    printf("\n");
    return 0;
}
