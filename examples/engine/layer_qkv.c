/* The whole attention block in one call: projections with RoPE, K and V into the library's cache (of floats
 * here; QKV_F16 is a word), attention, output projection. Prompts go through it at once: seq_q is how many tokens.
 * SPDX-License-Identifier: MIT */
#include "engine.h"

#include <qkv/openmp.h>
#include <stdlib.h>

static void *w_qkv[LAYERS], *w_o[LAYERS], *caches[LAYERS], *workspace;
static qkv_ctx ctx;
static qkv_plan plan;
static qkv_layer_desc desc;

static void *pack(const qkv_pack_desc *matrices) {
    size_t bytes;
    must(qkv_packed_size(matrices, &bytes));
    void *packed = allocate(bytes);
    must(qkv_pack(&ctx, matrices, packed));
    return packed;
}

static void load(const struct layer *layer, int i) { /* once; the engine's own matrices could go */
    w_qkv[i] = pack(&(qkv_pack_desc){.size = sizeof(qkv_pack_desc),
                                     .in_features = DIM,
                                     .num_parts = 3,
                                     .part = {{.data = layer->wq, .out_features = DIM, .layout = QKV_OUT_IN},
                                              {.data = layer->wk, .out_features = KV_DIM, .layout = QKV_OUT_IN},
                                              {.data = layer->wv, .out_features = KV_DIM, .layout = QKV_OUT_IN}}});
    w_o[i] = pack(&(qkv_pack_desc){.size = sizeof(qkv_pack_desc),
                                   .in_features = DIM,
                                   .num_parts = 1,
                                   .part = {{.data = layer->wo, .out_features = DIM, .layout = QKV_OUT_IN}}});
    const qkv_cache_desc cache = {.size = sizeof cache,
                                  .num_sequences = 1,
                                  .max_tokens = MAX_TOKENS,
                                  .num_kv_heads = KV_HEADS,
                                  .head_dim = HEAD_DIM,
                                  .k_type = QKV_F32,
                                  .v_type = QKV_F32};
    size_t bytes;
    must(qkv_cache_size(&cache, &bytes));
    caches[i] = allocate(bytes);
    must(qkv_cache_init(&cache, caches[i], bytes));
}

void start_qkv_layer(const struct engine *engine) {
    must(qkv_init(&ctx, NULL));
    for (int i = 0; i < LAYERS && !w_qkv[i]; i++)
        load(&engine->layers[i], i);
    desc = (qkv_layer_desc){
        .size = sizeof desc,
        .model_dim = DIM,
        .out_features = DIM,
        .w_qkv = w_qkv[0],
        .w_o = w_o[0],
        .cache = caches[0],
        .rope = {.cos = engine->cosines,
                 .sin = engine->sines,
                 .num_positions = MAX_TOKENS,
                 .layout = QKV_ROPE_INTERLEAVED},
        .attention = {.size = sizeof desc.attention, .batch = 1, .num_heads = HEADS, .seq_q = 1, .flags = QKV_RIGHT}};
    must(qkv_layer_plan(&ctx, &desc, engine->threads, &plan));
    free(workspace);
    workspace = allocate(plan.workspace_size);
}

void qkv_layer(struct engine *engine, int layer, int position) {
    (void)position; /* the cache counts */
    desc.x.data = engine->normed;
    desc.out.data = engine->added;
    desc.w_qkv = w_qkv[layer];
    desc.w_o = w_o[layer];
    desc.cache = caches[layer];
    must(qkv_cache_extend(desc.cache, 0, 1));
    must(qkv_layer_run_parallel(&plan, &desc, workspace, plan.workspace_size, qkv_openmp_for, &plan));
}

void fill_qkv_cache(const struct engine *engine, int tokens) {
    for (int i = 0; i < LAYERS; i++) {
        must(qkv_cache_truncate(caches[i], 0, 0));
        must(qkv_cache_append(&ctx, caches[i], 0, tokens,
                              (qkv_input){.data = engine->layers[i].keys, .head = HEAD_DIM, .token = KV_DIM},
                              (qkv_input){.data = engine->layers[i].values, .head = HEAD_DIM, .token = KV_DIM}));
    }
}
