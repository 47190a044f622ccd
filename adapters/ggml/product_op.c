/* From ggml's tensors to a descriptor, and running it: dst[n][out] = x[n][in]·Wᵀ, rows that follow each other in up to
 * three axes.
 *
 * ggml's own product rounds x to 8 bits too; qkv's arithmetic for it is QKV_ARITHMETIC_INT8.
 *
 * SPDX-License-Identifier: MIT */
#include "product_op.h"

#include "blocks.h"
#include "weights_buffer.h"

enum { WEIGHTS, X };

/* Whether the numbers of a row follow each other, and rows lie at whole numbers. */
static bool has_rows_of_floats(const struct ggml_tensor *t) {
    return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] % sizeof(float) == 0 &&
           t->nb[2] % sizeof(float) == 0 && t->nb[3] % sizeof(float) == 0;
}

bool supports_product(const struct ggml_tensor *op) {
    const struct ggml_tensor *weights = op->src[WEIGHTS], *x = op->src[X];
    /* A matrix without memory yet is a leaf of a graph that is only tried. */
    const bool is_ours = weights->buffer ? is_weights_buffer_type(weights->buffer->buft) : weights->op == GGML_OP_NONE;
    return is_ours && is_matrix_of_blocks(weights) && has_rows_of_floats(x) && has_rows_of_floats(op);
}

const char *run_product(struct runner *runner, struct ggml_tensor *op) {
    const struct ggml_tensor *weights = op->src[WEIGHTS], *x = op->src[X];
    if (!is_in_panels(weights))
        return "its weights are not in a buffer for weights";
    qkv_projection_desc d = {.size = sizeof d, .batch = x->ne[2], .tokens = x->ne[1], .in_features = x->ne[0],
                             .num_parts = 1, .packed = weights->data, .arithmetic = QKV_ARITHMETIC_INT8};
    d.x.token = (int64_t)(x->nb[1] / sizeof(float));
    d.x.batch = (int64_t)(x->nb[2] / sizeof(float));
    d.part[0].out_features = weights->ne[1];
    d.part[0].out.token = (int64_t)(op->nb[1] / sizeof(float));
    d.part[0].out.batch = (int64_t)(op->nb[2] / sizeof(float));
    type_of_blocks(weights->type, &d.part[0].type);
    qkv_plan plan;
    qkv_status status = qkv_projection_plan(&runner->ctx, &d, runner->team.num_threads, &plan);
    if (status == QKV_OK && !reserve_workspace(runner, plan.workspace_size))
        return "out of memory";
    for (int64_t i = 0; i < x->ne[3] && status == QKV_OK; i++) {
        d.x.data = (const char *)x->data + (size_t)i * x->nb[3];
        d.part[0].out.data = (float *)(void *)((char *)op->data + (size_t)i * op->nb[3]);
        status = qkv_projection_run_parallel(&plan, &d, runner->workspace, runner->workspace_size, team_for,
                                             &runner->team);
    }
    return status == QKV_OK ? NULL : qkv_status_string(status);
}
