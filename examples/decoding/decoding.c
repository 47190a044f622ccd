/* A layer as it generates: a prompt at once, then token by token, over a KV cache of bfloat16, with RoPE. A second
 * sequence takes the same tokens one by one: the same bytes come out.  SPDX-License-Identifier: MIT */
#include <qkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL = 256, HEADS = 8, KV_HEADS = 2, DIM = 64, PROMPT = 20, TOKENS = 100, COLUMNS = 12 * DIM };

static qkv_ctx ctx;
static float x[TOKENS][MODEL], out[2][TOKENS][MODEL], cosines[TOKENS][DIM / 2], sines[TOKENS][DIM / 2];

static void must(qkv_status status) {
    if (status != QKV_OK)
        exit(fprintf(stderr, "%s\n", qkv_status_string(status)));
}

/* n tokens of a sequence from t on: room in the cache, then x → Q, K, V → cache → attention → ·Wo → out. */
static void step(qkv_layer_desc d, int64_t sequence, int64_t t, int64_t n) {
    qkv_plan plan;
    d.first_sequence = sequence;
    d.attention.seq_q = n;
    d.x = (qkv_input){x[t], 0, 0, MODEL};
    d.out = (qkv_output){out[sequence][t], 0, 0, MODEL};
    must(qkv_cache_extend(d.cache, sequence, n));
    must(qkv_layer_plan(&ctx, &d, 1, &plan)); /* one plan would do for all steps of as many tokens */
    void *workspace = aligned_alloc(64, plan.workspace_size);
    must(qkv_layer_run(&plan, &d, workspace, plan.workspace_size));
    free(workspace);
}

int main(void) {
    static float numbers[MODEL * COLUMNS]; /* in place of a model's weights; rows are [in][out] */
    static _Alignas(64) char w_qkv[sizeof numbers], w_o[HEADS * DIM * MODEL * sizeof(float)], cache[1 << 18];
    for (int i = 0; i < MODEL * COLUMNS; i++)
        numbers[i] = (float)(rand() % 2001 - 1000) / 16000;
    must(qkv_init(&ctx, NULL));
    must(qkv_pack(
        &ctx,
        &(qkv_pack_desc){.size = sizeof(qkv_pack_desc),
                         .in_features = MODEL,
                         .num_parts = 3,
                         .part = {{.data = numbers, .out_features = HEADS * DIM, .stride = COLUMNS},
                                  {.data = numbers + HEADS * DIM, .out_features = KV_HEADS * DIM, .stride = COLUMNS},
                                  {.data = numbers + 10 * DIM, .out_features = KV_HEADS * DIM, .stride = COLUMNS}}},
        w_qkv));
    must(qkv_pack(&ctx,
                  &(qkv_pack_desc){.size = sizeof(qkv_pack_desc),
                                   .in_features = HEADS * DIM,
                                   .num_parts = 1,
                                   .part = {{.data = numbers, .out_features = MODEL}}},
                  w_o));
    must(qkv_rope_table(
        &(qkv_rope_table_desc){.size = sizeof(qkv_rope_table_desc), .num_positions = TOKENS, .rotary_dim = DIM},
        cosines[0], sines[0]));
    must(qkv_cache_init(&(qkv_cache_desc){.size = sizeof(qkv_cache_desc),
                                          .num_sequences = 2,
                                          .max_tokens = TOKENS,
                                          .num_kv_heads = KV_HEADS,
                                          .head_dim = DIM,
                                          .k_type = QKV_BF16,
                                          .v_type = QKV_BF16},
                        cache, sizeof cache));
    const qkv_layer_desc d = {
        .size = sizeof d,
        .model_dim = MODEL,
        .out_features = MODEL,
        .w_qkv = w_qkv,
        .w_o = w_o,
        .rope = {cosines[0], sines[0], TOKENS, DIM, QKV_ROPE_HALF},
        .cache = cache,
        .attention = {.size = sizeof d.attention, .batch = 1, .num_heads = HEADS, .flags = QKV_RIGHT}};
    memcpy(x, numbers, PROMPT * sizeof x[0]);
    step(d, 0, 0, PROMPT);
    for (int t = PROMPT; t < TOKENS; step(d, 0, t++, 1)) /* what the layer says becomes its next token */
        memcpy(x[t], out[0][t - 1], sizeof x[t]);
    for (int t = 0; t < TOKENS; t++)
        step(d, 1, t, 1);
    int other = memcmp(out[0], out[1], sizeof out[0]);
    return printf("%d tokens at once or one by one: %s\n", PROMPT, other ? "OTHER" : "the same bytes") < 0 || other;
}
