/* Attention after: one call for all heads, over the same cache, which stays as it is. The plan is made once: a run may
 * bring other addresses and lengths.  SPDX-License-Identifier: MIT */
#include "engine.h"

#include <qkv/openmp.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t num_keys;
static void *workspace;
static qkv_plan plan;
static qkv_attention_desc desc = {.size = sizeof desc,
                                  .batch = 1,
                                  .num_heads = HEADS,
                                  .num_kv_heads = KV_HEADS,
                                  .seq_q = 1,
                                  .seq_k = MAX_TOKENS,
                                  .head_dim = HEAD_DIM,
                                  .kv_len = &num_keys,
                                  .q = {.head = HEAD_DIM},
                                  .out = {.head = HEAD_DIM},
                                  .k = {.head = HEAD_DIM, .token = KV_DIM},
                                  .v = {.head = HEAD_DIM, .token = KV_DIM}};

void must(int status) {
    if (status != QKV_OK)
        exit(fprintf(stderr, "engine: %s\n", qkv_status_string((qkv_status)status)));
}

void start_qkv_attention(const struct engine *engine) {
    qkv_ctx ctx;
    must(qkv_init(&ctx, NULL));
    must(qkv_attention_plan(&ctx, &desc, engine->threads, &plan));
    free(workspace);
    workspace = allocate(plan.workspace_size);
}

void qkv_attention(struct engine *engine, int layer_index, int position) {
    struct layer *layer = &engine->layers[layer_index];
    project(engine, layer, position);
    num_keys = position + 1;
    desc.q.data = engine->q;
    desc.k.data = layer->keys;
    desc.v.data = layer->values;
    desc.out.data = engine->heads;
    must(qkv_attention_run_parallel(&plan, &desc, workspace, plan.workspace_size, qkv_openmp_for, &plan));
    matmul(engine, engine->added, layer->wo, engine->heads, DIM, DIM);
}
