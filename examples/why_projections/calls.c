/* The library's calls as small problems need them.  SPDX-License-Identifier: MIT */
#include "calls.h"

#include "support.h"

#include <stdlib.h>

static void *workspace_of(const qkv_plan *plan) {
    return allocate_bytes(plan->workspace_size);
}

void project(const qkv_ctx *ctx, const float *x, const float *w, int64_t tokens, int64_t in, int64_t out, float *y) {
    qkv_pack_desc pack = {
        .size = sizeof pack, .in_features = in, .num_parts = 1, .part = {{.data = w, .out_features = out}}};
    qkv_plan plan;
    size_t packed_size;
    must(qkv_packed_size(&pack, &packed_size), "qkv_packed_size");
    void *packed = allocate_bytes(packed_size);
    must(qkv_pack(ctx, &pack, packed), "qkv_pack");
    qkv_projection_desc desc = {.size = sizeof desc,
                                .batch = 1,
                                .tokens = tokens,
                                .in_features = in,
                                .num_parts = 1,
                                .x = {.data = x, .token = in},
                                .packed = packed,
                                .part = {{.out_features = out, .out = {.data = y, .token = out}}}};
    must(qkv_projection_plan(ctx, &desc, 1, &plan), "qkv_projection_plan");
    void *workspace = workspace_of(&plan);
    must(qkv_projection_run(&plan, &desc, workspace, plan.workspace_size), "qkv_projection_run");
    free(workspace);
    free(packed);
}

void project_backward(const qkv_ctx *ctx, const float *x, const float *dy, int64_t tokens, int64_t in, int64_t out,
                      float *dw) {
    qkv_projection_backward_desc desc = {.size = sizeof desc,
                                         .grad_out = {{.data = dy, .token = out}},
                                         .grad = {{.data = dw}},
                                         .forward = {.size = sizeof desc.forward,
                                                     .batch = 1,
                                                     .tokens = tokens,
                                                     .in_features = in,
                                                     .num_parts = 1,
                                                     .x = {.data = x, .token = in},
                                                     .part = {{.out_features = out, .out = {.token = out}}}}};
    qkv_plan plan;
    must(qkv_projection_backward_plan(ctx, &desc, 1, &plan), "qkv_projection_backward_plan");
    void *workspace = workspace_of(&plan);
    must(qkv_projection_backward_run(&plan, &desc, workspace, plan.workspace_size), "qkv_projection_backward_run");
    free(workspace);
}

void attend(const qkv_ctx *ctx, const qkv_attention_desc *desc) {
    qkv_plan plan;
    must(qkv_attention_plan(ctx, desc, 1, &plan), "qkv_attention_plan");
    void *workspace = workspace_of(&plan);
    must(qkv_attention_run(&plan, desc, workspace, plan.workspace_size), "qkv_attention_run");
    free(workspace);
}

void attend_backward(const qkv_ctx *ctx, const qkv_attention_backward_desc *desc) {
    qkv_plan plan;
    must(qkv_attention_backward_plan(ctx, desc, 1, &plan), "qkv_attention_backward_plan");
    void *workspace = workspace_of(&plan);
    must(qkv_attention_backward_run(&plan, desc, workspace, plan.workspace_size), "qkv_attention_backward_run");
    free(workspace);
}
